"""What each rerank stage costs beside a plain search of 100 candidates, on one thread.

Searches in a graph over rows with the structure of text embeddings or the WordNet vectors, with and without the stage,
in turns: one by one, and in batches.
Run: python tests/benchmarks/bench_stages.py [--rows 100000] [--wordnet [--data FOLDER]]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pool

import statistics
import time
from typing import Any

import numpy as np
from common import arguments, interleaved, machine, read_vectors, show, spread, verdict

import attnbridge as ab
from attnbridge.rerank import STAGES, as_stages

DIM, STRUCTURE, NOISE, QUERIES, SHARES, TOKENS, TOKEN_DIM, QUERY_TOKENS = 384, 32, 1.7, 200, 4, 4, 32, 8

NEED_TOKENS = {"late_interaction"}

# How a stage is written, and the most that it may take: so many ms, or so many times a plain search.
RUNS: dict[str, dict[str, float]] = {
    "expansion": {"times": 1.1},
    "expansion(research=True)": {},
    "gated(expansion(top=3, mix=0.15), 'gap', 2.5)": {},
    "rocchio(positive=[1, 2, 3])": {},
    "graph_adaptive(budget=100)": {"times": 2.0},
    "attention_rerank('scaled_dot')": {},
    "late_interaction": {},
    "feedback": {},
    "fusion(['scores', feedback])": {},
    "calibrated({'scaled_dot': 1.0}, 0.0)": {},
    "smoothing": {"ms": 1.0},
    "MMR": {"ms": 1.0},
    "group_by('parent')": {},
    "threshold(0.0)": {},
}


def read_rows(options: Any) -> np.ndarray:
    """Return the rows to search in."""
    if options.wordnet:
        return read_vectors(options.data)
    rng = np.random.default_rng(0)
    base = rng.standard_normal((STRUCTURE, DIM), np.float32)
    rows = rng.standard_normal((options.rows, STRUCTURE), np.float32) @ base
    rows += NOISE * rng.standard_normal(rows.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def build(rows: np.ndarray) -> ab.AttentionVectorBridge:
    """Return a bridge whose rows have what any of the stages reads."""
    rng = np.random.default_rng(1)
    tokens = rng.standard_normal((len(rows), TOKENS, TOKEN_DIM), np.float32).astype(np.float16)
    bridge = ab.AttentionVectorBridge(rows.shape[1])
    bridge.add(rows, tokens=list(tokens), payload={"parent": (np.arange(len(rows)) // 3).tolist()})
    bridge.link()
    return bridge


class Searches:
    """Searches with a stage, or plain ones, and what each of them took."""

    def __init__(self, bridge: ab.AttentionVectorBridge, queries: np.ndarray, k: int, candidates: int, text: str):
        self.bridge, self.queries, self.options = bridge, queries, {"k": k, "candidates": candidates}
        self.whole: list[float] = []
        self.stage: list[float] = []
        self.batch: list[float] = []
        if text != "plain":
            self.options["rerank"] = as_stages(text)  # not the reading of the text is timed
        if text.partition("(")[0] in NEED_TOKENS:
            self.options["query_tokens"] = np.eye(QUERY_TOKENS, TOKEN_DIM, dtype=np.float32)

    def __call__(self, number: int) -> None:
        options = dict(self.options)
        if "query_tokens" in options:
            options["query_tokens"] = [options["query_tokens"]] * len(self.queries)
        started = time.thread_time()
        for hits in self.bridge.search_batch(self.queries, threads=1, **options):
            _ = hits.ids, hits.scores
        self.batch.append((time.thread_time() - started) / len(self.queries))
        for query in self.queries[number % SHARES :: SHARES]:
            started = time.thread_time()  # a search runs on this thread; what others do does not count
            hits = self.bridge.search(query, **self.options)
            _ = hits.ids, hits.scores  # of a plain search they are made when they are asked for
            self.whole.append(time.thread_time() - started)
            self.stage.append(list(hits.timings.values())[-2] if "rerank" in self.options else 0.0)


def timed(bridge: ab.AttentionVectorBridge, queries: np.ndarray, k: int, candidates: int, rounds: int) -> None:
    runs = {text: Searches(bridge, queries, k, candidates, text) for text in (*RUNS, "plain")}
    interleaved(runs, rounds)
    table = []
    for text, run in runs.items():
        times = statistics.median(a / b for a, b in zip(run.whole, runs["plain"].whole, strict=True))
        stage = 1e3 * statistics.median(run.stage)
        most = RUNS.get(text, {}) if candidates == 100 else {}
        batched = statistics.median(a / b for a, b in zip(run.batch, runs["plain"].batch, strict=True))
        table.append(
            (
                text,
                f"{1e3 * statistics.median(run.whole):.3f}",
                spread(run.whole),
                verdict(stage, most=most["ms"]) if "ms" in most else f"{stage:.3f}",
                verdict(times, most=most["times"]) if "times" in most else f"{times:.3f}",
                verdict(batched, most=most["times"]) if "times" in most else f"{batched:.3f}",
            )
        )
    show(
        f"k={k} of {candidates} candidates, {len(bridge):,} x {queries.shape[1]}, one thread ({machine()})",
        ["stage", "CPU ms per search", "quartiles", "ms in the stage", "times a plain search", "in a batch"],
        table,
    )


def main() -> None:
    parser = arguments(__doc__, data=True, rounds=24)
    parser.add_argument("--rows", type=int, default=100_000, help="how many random rows")
    parser.add_argument("--wordnet", action="store_true", help="search in the WordNet vectors instead")
    options = parser.parse_args()
    rows = read_rows(options)
    rng = np.random.default_rng(3)
    picked = rows[rng.integers(0, len(rows), QUERIES)]
    queries = picked + rng.standard_normal(picked.shape, np.float32) * 0.5 * rows.shape[1] ** -0.5
    bridge = build(rows)
    for k, candidates in ((10, 100), (100, 100), (10, 1000), (1000, 1000)):
        timed(bridge, queries, k, candidates, options.rounds if candidates == 100 else max(3, options.rounds // 6))
    missing = {kind.name for kind in STAGES} - {name.partition("(")[0].lower() for name in RUNS}  # type: ignore[attr-defined]
    if missing:
        print(f"not timed: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
