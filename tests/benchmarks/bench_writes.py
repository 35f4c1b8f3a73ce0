"""Latency of eight searching threads while one writes: adds, upserts, deletes and compacts WordNet vectors.

The ratio of the 99th percentiles, with writes over without, must be at most 5. Also how fast rows are added, with and
without searches, and how long an add takes that is written to the journal.
Run: python tests/benchmarks/bench_writes.py [--data FOLDER or vectors.npy] [--rows 50000] [--seconds 10]
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np
from common import arguments, machine, read_vectors, show, verdict

import attnbridge as ab

THREADS, K, BATCH, MOST_RATIO = 8, 10, 1_000, 5.0
FILTERS = {
    "no filter": {},
    "where, half the rows": {"where": "number % 2 = $rest", "params": {"rest": 0}},
    "where, 1 row in 100": {"where": "number % 100 = $rest", "params": {"rest": 7}},
    "100 ids": {"filter": list(range(0, 20_000, 200))},
}


class Searchers:
    """Threads that search all the time; what each search took is put down under the phase of its end."""

    def __init__(self, bridge: ab.AttentionVectorBridge, queries: np.ndarray, filters: list[dict]) -> None:
        self.bridge, self.queries, self.filters = bridge, queries, filters
        self.phase = "quiet"
        self.seconds: dict[str, list[float]] = {}
        self._stopping = False
        self._threads = [threading.Thread(target=self._search, args=(number,)) for number in range(THREADS)]

    def _search(self, number: int) -> None:
        for step in itertools.count(number):
            if self._stopping:
                return
            started = time.perf_counter()
            query, options = self.queries[7 * step % len(self.queries)], self.filters[step % len(self.filters)]
            self.bridge.search(query, k=K, **options)
            self.seconds.setdefault(self.phase, []).append(time.perf_counter() - started)

    def __enter__(self) -> "Searchers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()


def numbered(start: int, count: int) -> dict:
    """Return the payload of rows from number `start` on."""
    return {"number": np.arange(start, start + count)}


def phases(bridge: ab.AttentionVectorBridge, rows: np.ndarray, changed: int) -> dict[str, Callable[[], object]]:
    """Return the writes: all of `rows` added, `changed` of them replaced, as many deleted, and compacted."""
    first = len(bridge)
    rng = np.random.default_rng(2)
    ids = first + rng.permutation(len(rows))[: 2 * changed]

    def add() -> None:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            numbers = np.arange(first + start, first + start + len(part))
            bridge.add(part, ids=numbers, payload=numbered(first + start, len(part)), progress=False)

    def upsert() -> None:
        for start in range(0, changed, BATCH // 10):
            some = ids[start : start + BATCH // 10]
            bridge.add(rows[some - first], ids=some, payload=numbered(0, len(some)), progress=False)

    def delete() -> None:
        for start in range(changed, 2 * changed, BATCH // 10):
            bridge.delete(ids[start : min(start + BATCH // 10, 2 * changed)])

    return {
        "adding": add,
        "upserting": upsert,
        "deleting": delete,
        "compacting": lambda: bridge.compact(progress=False),
    }


def measured(rows: np.ndarray, queries: np.ndarray, filters: list[dict], options) -> tuple[list[list[object]], float]:
    """Return a line for each phase and the seconds that adding took."""
    standing, more = rows[: -options.rows], rows[-options.rows :]
    bridge = ab.AttentionVectorBridge(dim=rows.shape[1])
    bridge.add(standing, payload=numbered(0, len(standing)), progress=False)
    took = {}
    with Searchers(bridge, queries, filters) as searchers:
        searchers.phase = "warm"
        time.sleep(options.seconds / 5)
        searchers.phase = "quiet"
        time.sleep(options.seconds)
        for phase, write in phases(bridge, more, options.rows // 10).items():
            searchers.phase, started = phase, time.perf_counter()
            write()
            took[phase] = time.perf_counter() - started
        searchers.phase = "over"
    del searchers.seconds["warm"], searchers.seconds["over"]
    quiet = np.percentile(searchers.seconds["quiet"], 99)
    took["quiet"] = options.seconds
    lines = []
    for phase, seconds in searchers.seconds.items():
        median, high = np.percentile(seconds, [50, 99])
        ratio = "" if phase == "quiet" else verdict(high / quiet, most=MOST_RATIO)
        latencies = [f"{1e3 * value:.2f}" for value in (median, high, max(seconds))]
        lines.append([phase, f"{took[phase]:.1f}", f"{len(seconds):,}", *latencies, ratio])
    return lines, took["adding"]


def alone(rows: np.ndarray, options) -> float:
    """Return the seconds that adding takes where nobody searches."""
    standing, more = rows[: -options.rows], rows[-options.rows :]
    bridge = ab.AttentionVectorBridge(dim=rows.shape[1])
    bridge.add(standing, payload=numbered(0, len(standing)), progress=False)
    started = time.perf_counter()
    phases(bridge, more, 0)["adding"]()
    return time.perf_counter() - started


def journalled(rows: np.ndarray, options) -> list[list[object]]:
    """Return a line for each size of adds to a bridge with a journal, and without."""
    lines = []
    for size in (1, 10, 100):
        for journal in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                made = ab.AttentionVectorBridge(dim=rows.shape[1])
                made.add(rows[:5_000], progress=False)
                made.save(folder)
                seconds = []
                with ab.AttentionVectorBridge.open(folder, mmap=False, journal=journal) as bridge:
                    for start in range(0, 200 * size, size):
                        started = time.perf_counter()
                        bridge.add(rows[start : start + size], wait=False)
                        seconds.append(time.perf_counter() - started)
                median, high = np.percentile(seconds, [50, 99])
                what = "with a journal" if journal else "without"
                lines.append([f"{size}, {what}", f"{1e3 * median:.2f}", f"{1e3 * high:.2f}"])
    return lines


def main() -> None:
    parser = arguments(__doc__, data=True, rounds=1)
    parser.add_argument("--rows", type=int, default=50_000, help="rows added; a tenth is replaced, a tenth deleted")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long searches are timed without writes")
    options = parser.parse_args()
    vectors = read_vectors(options.data)
    vectors = vectors[np.random.default_rng(0).permutation(len(vectors))]
    queries, rows = vectors[:1_000], vectors[1_000:]
    print(f"{len(rows):,} x {rows.shape[1]} rows, {options.rows:,} added meanwhile, {THREADS} threads; {machine()}")
    adding = {}
    columns = ["phase", "seconds", "searches", "p50, ms", "p99, ms", "longest, ms", "p99 over quiet's"]
    for name, filters in {"filters off": [{}], "filters on": list(FILTERS.values())}.items():
        lines, adding[f"with searches, {name}"] = measured(rows, queries, filters, options)
        show(f"{name}: {', '.join(FILTERS) if 'on' in name else 'every row may be found'}", columns, lines)
    adding["without searches"] = alone(rows, options)
    show(
        f"adding {options.rows:,} rows, {BATCH:,} at a time",
        ["what", "rows/s"],
        [[name, f"{options.rows / seconds:,.0f}"] for name, seconds in adding.items()],
    )
    show("one add to 5,000 rows", ["rows", "p50, ms", "p99, ms"], journalled(rows, options))


if __name__ == "__main__":
    main()
