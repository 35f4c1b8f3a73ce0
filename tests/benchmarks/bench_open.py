"""From `open` to the first hit with every checksum verified, and with each verified when its block is first read.

Every measurement is a process of its own; what Python and Numba take to start is not counted.
Run: python tests/benchmarks/bench_open.py [--data FOLDER or vectors.npy]
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import arguments, machine, read_vectors, show, spread, verdict

import attnbridge as ab

CODE = """
import json, sys, time
import numpy as np, attnbridge as ab
folder, verify, query = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
small = ab.AttentionVectorBridge(dim=len(query))  # the kernels are loaded, as in a process that serves
small.add(np.random.default_rng(0).standard_normal((300, len(query))))
small.search(query), small.search(query, exact=True)
before = small.memory()["resident"]
started = time.perf_counter()
bridge = ab.AttentionVectorBridge.open(folder, mmap=True, verify=verify)
opened = time.perf_counter()
hits = bridge.search(query, k=10)
found = time.perf_counter()
first = small.memory()["resident"]
bridge.link()
later = [time.perf_counter(), bridge.search_batch(np.stack([query] * 1000), k=10, threads=1), time.perf_counter()]
print(json.dumps({
    "opened": opened - started, "found": found - started, "first": first - before,
    "later": small.memory()["resident"] - before, "search": (later[2] - later[0]) / 1000, "ids": hits.ids,
}))
"""


def measure(*arguments: object) -> dict[str, float]:
    run = subprocess.run([sys.executable, "-c", CODE, *map(str, arguments)], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(run.stdout)
    return measured


def main() -> None:
    options = arguments(__doc__, data=True, rounds=9).parse_args()
    vectors = read_vectors(options.data)
    with tempfile.TemporaryDirectory() as folder:
        index, query = Path(folder, "index"), Path(folder, "query.npy")
        np.save(query, vectors[0])
        bridge = ab.AttentionVectorBridge(dim=vectors.shape[1])
        bridge.add(vectors[1:])
        bridge.save(index)
        size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
        runs: dict[str, list[dict[str, float]]] = {"full": [], "lazy": []}
        for number in range(-1, options.rounds):
            for verify, seen in runs.items():
                measured = measure(index, verify, query)
                if number >= 0:  # the first fills the system's cache
                    seen.append(measured)
    middle = {verify: {name: statistics.median(run[name] for run in seen) for name in seen[0] if name != "ids"}
              for verify, seen in runs.items()}  # fmt: skip
    same = all(a["ids"] == b["ids"] for a, b in zip(runs["full"], runs["lazy"], strict=True))
    lines = []
    for verify, values in middle.items():
        ratio = values["found"] / middle["full"]["found"]
        lines.append(
            (
                verify,
                f"{1e3 * values['opened']:.0f} ms",
                f"{1e3 * values['found']:.0f} ms",
                spread([run["found"] for run in runs[verify]]),
                verdict(ratio, most=0.5) if verify == "lazy" else "1",
                f"{values['first'] / 2**20:.0f} MiB",
                f"{values['later'] / 2**20:.0f} MiB",
                f"{1e6 * values['search']:.0f} us",
            )
        )
    columns = ["verify", "open", "first hit", "quartiles", "over full", "resident then", "graph loaded", "search then"]
    about = f"{len(vectors) - 1:,} x {vectors.shape[1]}, {size / 2**20:.0f} MiB on disk"
    show(f"{about}, same hits: {'yes' if same else 'NO'} ({machine()})", columns, lines)


if __name__ == "__main__":
    main()
