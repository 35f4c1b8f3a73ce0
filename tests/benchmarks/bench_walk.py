"""The walk over hnswlib's graph beside hnswlib and faiss: recall@10 against queries per second, one thread.

Cosine over unit rows; the queries are rows that were left out. All graphs have M=16, efConstruction=200. What is
compressed is walked for the CANDIDATES best, which the float32 rows then rank.
Run: python tests/benchmarks/bench_walk.py [--data FOLDER or vectors.npy] [--filters]
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hnswlib
import numpy as np
from common import arguments, interleaved, machine, medians, read_vectors, show, verdict

from attnbridge import kernels
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.integrations.walk import Walk
from attnbridge.metric import Keys

K, CANDIDATES, QUERIES, M, EF_CONSTRUCTION = 10, 30, 1_000, 16, 200
EFS = (12, 20, 30, 45, 70, 110, 180)
LEVELS = (0.95, 0.99)


def codes(rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as int8 with one scale for all, queries each with one of its own."""
    largest = np.quantile(np.abs(rows), 0.9999)
    whole = np.clip(np.round(rows * (127 / largest)), -127, 127).astype(np.int8)
    return whole, np.round(queries * (127 / np.abs(queries).max(axis=1, keepdims=True))).astype(np.int8)


def reduction(rows: np.ndarray, dim: int) -> np.ndarray:
    """Return the (d, dim) principal directions, not centred: products are kept."""
    sample = rows[np.random.default_rng(0).permutation(len(rows))[:20_000]]
    _, vectors = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(vectors[:, ::-1][:, :dim])


class Bench:
    """Rows, queries and what is true of them."""

    def __init__(self, path: Path) -> None:
        vectors = read_vectors(path)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        order = np.random.default_rng(0).permutation(len(vectors))
        self.queries, self.rows = vectors[order[:QUERIES]], np.ascontiguousarray(vectors[order[QUERIES:]])
        self.bias = np.zeros(QUERIES)
        self.truth = self.exact(None)

    def exact(self, rows: np.ndarray | None) -> np.ndarray:
        """Return the K nearest of the given (or all) rows."""
        ids, scores = np.empty((QUERIES, K), np.int64), np.empty((QUERIES, K))
        for start in range(0, QUERIES, 100):
            part = slice(start, start + 100)
            queries, bias = self.queries[part], self.bias[part]
            kernels.exact_top_k(queries, bias, self.rows, None, None, rows, 1.0, ids[part], scores[part])
        return ids if rows is None else np.where(ids >= 0, rows[ids], -1)

    def recall(self, ids: np.ndarray, truth: np.ndarray | None = None) -> float:
        """Return recall@K."""
        truth = self.truth if truth is None else truth
        return float(np.mean([len(set(a[:K]) & set(b)) / K for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]))

    def ranked(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the K best of each query's candidates by the float32 rows."""
        shape = (QUERIES, K)
        positions, logits, weights = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
        kernels.rerank(self.queries, self.bias, self.rows, None, None, ids, counts, 1.0, positions, logits, weights)
        return np.take_along_axis(ids, np.maximum(positions, 0), axis=1)

    def walker(self, walk: Walk, keys: Keys, queries: np.ndarray, n: int) -> Callable[[int], np.ndarray]:
        """Return a search by ef."""

        def search(ef: int) -> np.ndarray:
            found = walk.query(keys, queries, self.bias, min(n, ef), ef=ef)
            return found.ids if n == K else self.ranked(found.ids, found.counts)

        return search


def faiss_search(bench: Bench) -> Callable[[int], np.ndarray] | None:
    """Return faiss' HNSW over 8-bit scalars with float32 refinement, where faiss is installed."""
    try:
        import faiss
    except ImportError:
        return None
    base = faiss.IndexHNSWSQ(bench.rows.shape[1], faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_INNER_PRODUCT)
    base.hnsw.efConstruction = EF_CONSTRUCTION
    index = faiss.IndexRefineFlat(base)
    index.train(bench.rows)
    index.add(bench.rows)
    faiss.omp_set_num_threads(1)

    def search(ef: int) -> np.ndarray:
        base.hnsw.efSearch = ef
        index.k_factor = min(CANDIDATES, ef) / K
        return index.search(bench.queries, K)[1]

    return search


def at(recalls: list[float], speeds: list[float], level: float) -> float:
    """Return the speed at a recall, between two points in the logarithm of the speed, or that of the first above it."""
    if recalls[-1] < level:
        return float("nan")
    return float(np.exp(np.interp(level, recalls, np.log(speeds))))


def curves(bench: Bench, searches: dict[str, Callable[[int], np.ndarray]], rounds: int) -> None:
    """Show recall and speed of each search over ef, and the speeds at the levels of recall."""
    recalls = {name: [bench.recall(search(ef)) for ef in EFS] for name, search in searches.items()}
    # every search at every ef in each round: on a busy machine speeds at two ef compare no better than two searches
    runs = {
        f"{name} {ef}": lambda _, search=search, ef=ef: search(ef) for name, search in searches.items() for ef in EFS
    }
    middle = medians(interleaved(runs, rounds))
    points = {name: (recalls[name], [QUERIES / middle[f"{name} {ef}"] for ef in EFS]) for name in searches}
    show(
        f"recall@{K} / queries per second, one thread ({machine()})",
        ["ef", *searches],
        [
            (ef, *(f"{points[name][0][i]:.4f} / {points[name][1][i]:,.0f}" for name in searches))
            for i, ef in enumerate(EFS)
        ],
    )
    for level in LEVELS:
        speeds = {name: at(*points[name], level) for name in searches}
        peer = speeds.get("faiss SQ8+refine", float("nan"))
        show(
            f"at recall@{K} {level}",
            ["what", "queries/s", "over hnswlib", "over faiss"],
            [
                (name, f"{speed:,.0f}", verdict(speed / speeds["hnswlib"], least=1.5), verdict(speed / peer, least=1.0))
                for name, speed in speeds.items()
            ],
        )


def filters(bench: Bench, walk: Walk, rounds: int) -> None:
    """Show the filtered walk beside exact search of the allowed rows."""
    lines = []
    rng = np.random.default_rng(4)
    for share in (0.5, 0.2, 0.1, 0.05, 0.01):
        allowed = rng.random((1, len(bench.rows))) < share
        rows = np.flatnonzero(allowed)
        truth = bench.exact(rows)
        runs: dict[str, Callable[[int], object]] = {"exact": lambda _, rows=rows: bench.exact(rows)}
        recalls = []
        for ef in (10, 20, 40):
            search = lambda _, ef=ef, allowed=allowed: walk.query(  # noqa: E731
                Keys(bench.rows), bench.queries, bench.bias, K, ef=ef, allowed=allowed
            )
            recalls.append(bench.recall(search(0).ids, truth))
            runs[f"ef={ef}"] = search
        middle = medians(interleaved(runs, rounds))
        cells = [
            f"{recall:.3f} / {QUERIES / middle[name]:,.0f}"
            for recall, name in zip(recalls, list(runs)[1:], strict=True)
        ]
        lines.append((f"{share:.0%}", *cells, f"{QUERIES / middle['exact']:,.0f}"))
    show(
        f"filtered walk over float32 rows: recall@{K} / queries per second ({machine()})",
        ["allowed", "ef=10", "ef=20", "ef=40", "exact"],
        lines,
    )


def main() -> None:
    parser = arguments(__doc__, data=True, rounds=7)
    parser.add_argument("--filters", action="store_true", help="the filtered walk instead of the curves")
    options = parser.parse_args()
    bench = Bench(options.data)
    rows, queries = bench.rows, bench.queries
    started = time.perf_counter()
    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), M=M, ef_construction=EF_CONSTRUCTION, random_seed=100)
    index.add_items(rows)
    print(f"{len(rows):,} x {rows.shape[1]} rows; hnswlib built in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    adjacency = Adjacency.from_index(index)
    by_memory = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.hnsw"
        index.save_index(str(path))
        started = time.perf_counter()
        Adjacency.from_file(path)
        by_file = time.perf_counter() - started
    started = time.perf_counter()
    Adjacency.from_arrays(adjacency.arrays())
    by_arrays = time.perf_counter() - started
    print(
        f"links: {adjacency.nbytes / 1e6:.1f} MB; read from memory in {1e3 * by_memory:.0f} ms, from hnswlib's file in "
        f"{1e3 * by_file:.0f} ms, checked as arrays in {1e3 * by_arrays:.0f} ms"
    )
    if options.filters:
        filters(bench, Walk(adjacency), options.rounds)
        return

    def plain(ef: int) -> np.ndarray:
        index.set_ef(ef)
        return index.knn_query(queries, k=K, num_threads=1)[0].astype(np.int64)

    searches: dict[str, Callable[[int], np.ndarray]] = {"hnswlib": plain}
    peer = faiss_search(bench)
    if peer is not None:
        searches["faiss SQ8+refine"] = peer
    whole, asked = codes(rows, queries)
    directions = reduction(rows, rows.shape[1] // 2)
    reduced, short = codes(rows @ directions, queries @ directions)
    order = adjacency.graph_order()
    ordered = bench.walker(Walk(adjacency.reordered(order)), Keys(rows[order]), queries, K)
    searches |= {
        "walk float32": bench.walker(Walk(adjacency), Keys(rows), queries, K),
        "float32, graph order": lambda ef: order[ordered(ef)],
        "float16": bench.walker(Walk(adjacency), Keys(rows.astype(np.float16).view(np.uint16)), queries, K),
        "int8": bench.walker(Walk(adjacency), Keys(whole), asked, CANDIDATES),
        f"PCA-{directions.shape[1]} int8": bench.walker(Walk(adjacency), Keys(reduced), short, CANDIDATES),
    }
    for name, search in searches.items():
        started = time.perf_counter()
        search(K)
        print(f"first call, {name}: {time.perf_counter() - started:.2f} s")
    curves(bench, searches, options.rounds)


if __name__ == "__main__":
    main()
