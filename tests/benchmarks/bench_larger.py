"""An index of half a million rows, frozen and memory-mapped: time to open and to the first hit, resident memory.

Rows are the data set's, tiled and jittered; the queries are jittered too. What is measured is a process of its own;
what Python and Numba take to start is not counted, what they hold in memory is.
Run: python tests/benchmarks/bench_larger.py [--rows 500000] [--data FOLDER or vectors.npy]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import arguments, machine, read_vectors, show, verdict

import attnbridge as ab

JITTER, QUERIES, K = 0.35, 1_000, 10  # the jitter's length beside the rows' own

CODE = """
import json, sys, time
import numpy as np, attnbridge as ab
folder, queries = sys.argv[1], np.load(sys.argv[2])
small = ab.AttentionVectorBridge(dim=queries.shape[1], dtype="int8", index_dim=queries.shape[1] // 3)
small.add(np.random.default_rng(0).standard_normal((300, queries.shape[1])))  # kernels as in a process that serves
small.search(queries[0])
before = small.memory()["resident"]
began = time.perf_counter()
bridge = ab.AttentionVectorBridge.open(folder, mmap=True, verify="lazy")
opened = time.perf_counter()
bridge.search(queries[0], k=10)
first = time.perf_counter()
bridge.search_batch(queries, k=10, threads=1)
many = time.perf_counter()
hits = [bridge.search(query, k=10).ids for query in queries]
print(json.dumps({"before": before, "open": opened - began, "first": first - opened, "batch": many - first,
                  "resident": bridge.memory()["resident"], "ids": hits}))
"""


def main() -> None:
    parser = arguments(__doc__, data=True, rounds=1)
    parser.add_argument("--rows", type=int, default=500_000)
    options = parser.parse_args()
    vectors = read_vectors(options.data)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rng, dim = np.random.default_rng(0), vectors.shape[1]

    def jittered(count: int) -> np.ndarray:
        rows = np.resize(vectors, (count, dim))
        rows += rng.standard_normal(rows.shape, np.float32) * np.float32(JITTER / dim**0.5)
        return rows

    rows = jittered(options.rows)
    queries = jittered(len(vectors))[rng.permutation(len(vectors))[:QUERIES]]
    with tempfile.TemporaryDirectory() as folder:
        index, asked = Path(folder, "index"), Path(folder, "queries.npy")
        np.save(asked, queries)
        bridge = ab.AttentionVectorBridge(dim=dim, dtype="int8", index_dim=dim // 3)
        started = time.perf_counter()
        bridge.add(rows)
        built = time.perf_counter() - started
        truth = [set(hits.ids) for hits in bridge.search_batch(queries, k=K, exact=True)]
        bridge.freeze()
        bridge.save(index)
        size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
        del bridge
        runs = []
        for _ in range(1 + options.rounds):  # the first fills the system's cache
            command = [sys.executable, "-c", CODE, str(index), str(asked)]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    run = runs[-1]
    recall = float(np.mean([len(set(ids) & true) / K for ids, true in zip(run["ids"], truth, strict=True)]))
    show(
        f"{options.rows:,} x {dim}, int8 x {dim // 3} and float32 rows, {size / 1e6:,.0f} MB on disk, built in "
        f"{built:.0f} s ({machine()})",
        ["what", "measured"],
        [
            ("open", f"{verdict(run['open'], most=2.0)} s"),
            ("first hit after that", f"{verdict(run['first'], most=1.0)} s"),
            ("resident after 2,000 queries, over the float32 rows", verdict(run["resident"] / rows.nbytes, most=0.5)),
            ("the same, megabytes", f"{run['resident'] / 1e6:.0f} of {rows.nbytes / 1e6:.0f}"),
            ("of which before opening", f"{run['before'] / 1e6:.0f}"),
            (f"recall@{K}", verdict(recall, least=0.95)),
            ("queries a second, one batch, one thread", f"{QUERIES / run['batch']:,.0f}"),
        ],
    )


if __name__ == "__main__":
    main()
