"""Rows in fewer bits and dimensions: how many of the nearest are found by codes alone, and what encoding costs.

Cosine; the queries are rows that were left out. "straight" keeps principal directions (or columns) as they are,
"rotated" turns them at random within their space; `Reduction.fit` chooses what the last column says.
Run: python tests/benchmarks/bench_reduction.py [--data FOLDER or vectors.npy]
"""

import time
from dataclasses import replace

import numpy as np
from bench_search import read_vectors
from common import arguments, interleaved, machine, medians, show

from attnbridge.integrations.codes import on_disk
from attnbridge.integrations.reduction import Reduction, _rotation
from attnbridge.metric import Metric

QUERIES, CANDIDATES, K = 500, 30, 10
COSINE = Metric("cosine")


def found(made: Reduction, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the CANDIDATES nearest rows by their codes."""
    codes = on_disk(made.encode(rows)[0]).astype(np.float32)
    asked, _ = made.queries(queries)
    return np.argpartition(-(asked.astype(np.float32) @ codes.T), CANDIDATES, axis=1)[:, :CANDIDATES]


def share(ids: np.ndarray, truth: np.ndarray) -> str:
    """Return the share of the true K, and of the true CANDIDATES, among the candidates."""
    cells = []
    for n in (K, CANDIDATES):
        hits = [len(set(a) & set(b)) for a, b in zip(ids.tolist(), truth[:, :n].tolist(), strict=True)]
        cells.append(f"{np.mean(hits) / n:.4f}")
    return " / ".join(cells)


def turned(made: Reduction, rows: np.ndarray, rotate: bool) -> Reduction:
    """Return a reduction to the same space, with its directions rotated or as they come."""
    dim = rows.shape[1]
    straight = np.eye(dim) if len(made.directions) == dim else None
    if straight is None:
        straight = Reduction.fit(rows, metric=COSINE, dtype="float32", index_dim=len(made.directions)).directions
    if rotate:
        straight = _rotation(len(straight), np.random.default_rng(1)) @ straight
    return replace(made, directions=np.ascontiguousarray(straight, np.float32))._fitted(rows, None)


def main() -> None:
    options = arguments(__doc__, data=True, rounds=5).parse_args()
    vectors = read_vectors(options.data)
    vectors = vectors[np.abs(vectors).max(axis=1) > 0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.random.default_rng(0).permutation(len(vectors))
    queries, rows = vectors[order[:QUERIES]], np.ascontiguousarray(vectors[order[QUERIES:]])
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :CANDIDATES]
    dim, lines = rows.shape[1], []
    for width in (dim, dim * 3 // 4, dim // 2, dim // 4):
        full = Reduction("int8", directions=np.empty((width, dim), np.float32))
        cells = [share(found(turned(full, rows[:20_000], rotate), rows, queries), truth) for rotate in (False, True)]
        chosen = Reduction.fit(rows, metric=COSINE, dtype="int8", index_dim=None if width == dim else width)
        lines.append((f"int8 x {width}", *cells, "straight" if chosen.directions is None else "rotated"))
    show(
        f"share of the true {K} / {CANDIDATES} among the {CANDIDATES} best codes, {len(rows):,} x {dim} rows",
        ["codes", "straight", "rotated", "chosen"],
        lines,
    )
    lines = []
    for dtype, width in (("int8", None), ("float16", None), ("int8", dim // 2), ("float16", dim // 2)):
        started = time.perf_counter()
        made = Reduction.fit(rows, metric=COSINE, dtype=dtype, index_dim=width)
        fitting = time.perf_counter() - started
        runs = {
            "all rows": lambda _, made=made: made.encode(rows),
            "one query": lambda _, made=made: [made.queries(queries[i : i + 1]) for i in range(QUERIES)],
            "batch": lambda _, made=made: made.queries(queries),
        }
        middle = medians(interleaved(runs, options.rounds))
        each = [f"{1e6 * middle[name] / QUERIES:.1f}" for name in ("one query", "batch")]
        lines.append((f"{dtype} x {width or dim}", f"{fitting:.2f}", f"{middle['all rows']:.3f}", *each))
    show(
        f"fitting and encoding ({machine()})",
        ["codes", "fit, s", "all rows, s", "one query, us", "one of a batch, us"],
        lines,
    )


if __name__ == "__main__":
    main()
