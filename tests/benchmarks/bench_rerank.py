"""The fused rerank kernel on one thread, beside numpy and faiss; attention_scores beside ruvector-rerank.

Random rows of a 200,000 x 384 matrix: far more than any cache holds, as candidates of an index are.
Run: python tests/benchmarks/bench_rerank.py
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and faiss start their pools

import contextlib
import importlib.util
from typing import Any

import numpy as np
from common import arguments, interleaved, machine, medians, show, spread, verdict

import attnbridge as ab
from attnbridge import kernels

ROWS, DIM, TOP, CALLS, POOL = 200_000, 384, 10, 20, 997


def ours(rows: np.ndarray, row_scale: np.ndarray | None, queries: np.ndarray, ids: np.ndarray, shift: int) -> Any:
    def run(number: int) -> None:
        for call in range(CALLS):
            i = (number * CALLS + call + shift) % POOL
            positions, logits, weights = np.empty((1, TOP), np.int64), np.empty((1, TOP)), np.empty((1, TOP))
            candidates = ids[i : i + 1]
            counts = np.array([candidates.shape[1]])
            kernels.rerank(
                queries[i : i + 1],
                bias,
                rows,
                row_scale,
                None,
                candidates,
                counts,
                DIM**-0.5,
                positions,
                logits,
                weights,
            )

    bias = np.zeros(1)
    return run


def numpy_softmax(logits: np.ndarray) -> np.ndarray:
    exps = np.exp(logits - logits.max())
    return exps / exps.sum()


def with_numpy(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray, shift: int) -> Any:
    scale = np.float32(DIM**-0.5)

    def run(number: int) -> None:
        for call in range(CALLS):
            i = (number * CALLS + call + shift) % POOL
            weights = numpy_softmax((rows[ids[i]] @ queries[i]) * scale)
            best = np.argpartition(-weights, TOP)[:TOP]
            best[np.argsort(-weights[best])]

    return run


def with_faiss(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray, shift: int) -> Any:
    """Return faiss's gathered products and numpy's softmax; without the top-k, in faiss's favour."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(DIM)
    index.add(rows)
    count = ids.shape[1]

    def run(number: int) -> None:
        for call in range(CALLS):
            i = (number * CALLS + call + shift) % POOL
            out = np.empty(count, np.float32)
            query, labels = queries[i], ids[i]
            index.compute_distance_subset(1, faiss.swig_ptr(query), count, faiss.swig_ptr(out), faiss.swig_ptr(labels))
            numpy_softmax(out * np.float32(DIM**-0.5))

    return run


def kernel_table(rounds: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, DIM), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = 20.0 * rows[rng.integers(0, ROWS, POOL)]
    halves = rows.astype(np.float16).view(np.uint16)
    row_scale = np.abs(rows).max(axis=1).astype(np.float64) / 127.0
    bytes_ = np.round(rows / row_scale[:, None]).astype(np.int8)
    for count in (100, 1000):
        ids = rng.integers(0, ROWS, (POOL, count))
        # Each from another place of the pool: none finds in the cache what the one before has read.
        runs = {
            "float32": ours(rows, None, queries, ids, 0),
            "float16": ours(halves, None, queries, ids, 200),
            "int8": ours(bytes_, row_scale, queries, ids, 400),
            "numpy": with_numpy(rows, queries, ids, 600),
        }
        if importlib.util.find_spec("faiss"):
            runs["faiss"] = with_faiss(rows, queries, ids, 800)
        seconds = interleaved(runs, rounds)
        middle = medians(seconds)
        base = middle["float32"]
        against = {
            "float16": verdict(middle["float16"] / base, most=0.85)
            if count == 1000
            else f"{middle['float16'] / base:.3f}",
            "int8": verdict(middle["int8"] / base, most=0.65) if count == 1000 else f"{middle['int8'] / base:.3f}",
            "numpy": verdict(base / middle["numpy"], most=0.55),
        }
        if "faiss" in middle:
            against["faiss"] = verdict(base / middle["faiss"], most=0.85)
        show(
            f"fused rerank, {count} candidates of {ROWS:,} x {DIM}, one thread ({machine()})",
            ["what", "us per query", "quartiles", "time over float32 (types) / float32's time over it (peers)"],
            [
                (name, f"{1e6 * middle[name] / CALLS:.1f}", spread(seconds[name]), against.get(name, ""))
                for name in middle
            ],
        )


def scores_table(rounds: int) -> None:
    if not importlib.util.find_spec("ruvector_rerank"):
        print("ruvector-rerank is not installed: skipped")
        return
    import ruvector_rerank

    rng = np.random.default_rng(1)
    keys, query = rng.standard_normal((1000, DIM), np.float32), rng.standard_normal(DIM, np.float32)
    theirs = {candidate.index: candidate.weight for candidate in ruvector_rerank.rank(query, keys)}
    mine = ab.attention_scores(query, keys)
    worst = max(abs(theirs[i] / weight - 1.0) for i, weight in enumerate(mine.tolist()))
    runs = {
        "attention_scores": lambda _: ab.attention_scores(query, keys),
        "ruvector_rerank.rank": lambda _: ruvector_rerank.rank(query, keys),
        "ruvector_rerank.rank(top_k=10)": lambda _: ruvector_rerank.rank(query, keys, top_k=10),
    }
    seconds = interleaved(runs, rounds)
    middle = medians(seconds)
    show(
        f"1,000 x {DIM} keys, the same weights to {worst:.0e} ({machine()})",
        ["what", "us", "quartiles", "times ours"],
        [
            (
                name,
                f"{1e6 * value:.0f}",
                spread(seconds[name]),
                verdict(value / middle["attention_scores"], least=8.0) if name != "attention_scores" else "",
            )
            for name, value in middle.items()
        ],
    )


if __name__ == "__main__":
    options = arguments(__doc__, rounds=150).parse_args()
    limit: Any = contextlib.nullcontext()
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        limit = threadpool_limits(1)
    with limit:
        kernel_table(options.rounds)
        scores_table(options.rounds)
