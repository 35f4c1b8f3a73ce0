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
from attnbridge.integrations.walk import Walk, Walked, filtered_route, scan, seeds
from attnbridge.metric import Keys

K, CANDIDATES, QUERIES, M, EF_CONSTRUCTION = 10, 30, 1_000, 16, 200
EFS = (12, 20, 30, 45, 70, 110, 180)
LEVELS = (0.95, 0.99)
WAYS = [f"{way} {kind}" for kind in ("float32", "int8") for way in ("scan", "walk", "across")]
SHARES = (0.5, 0.2, 0.1, 0.05, 0.01, 0.001)
WALKED = 0.05  # of the rows must pass, or a walk takes longer than anybody waits for


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


class Filtered:
    """Every way to the best allowed rows of some queries.

    Compressed rows give CANDIDATES, which the float32 rows then rank.
    """

    def __init__(self, bench: Bench, walk: Walk, allowed: np.ndarray, numbers: np.ndarray) -> None:
        self.bench, self.walk, self.allowed = bench, walk, allowed
        self.among = np.flatnonzero(allowed)
        self.queries, self.bias = np.ascontiguousarray(bench.queries[numbers]), bench.bias[numbers]
        self.truth = self.exact()

    def exact(self) -> np.ndarray:
        """Return what the bridge's exact search returns."""
        ids = np.empty((len(self.queries), K), np.int64)
        kernels.exact_top_k(
            self.queries, self.bias, self.bench.rows, None, None, self.among, 1.0, ids, np.empty(ids.shape)
        )
        return np.where(ids >= 0, self.among[ids], -1)

    def by_scan(self, keys: Keys, queries: np.ndarray, n: int) -> np.ndarray:
        """Return the K best by reading the walk's rows."""
        return self._ranked(scan(keys, queries, self.bias, n, self.among), n)

    def by_walk(self, keys: Keys, queries: np.ndarray, n: int, ef: int, across: bool) -> np.ndarray:
        """Return the K best by a walk; queries that fall short have the rows read."""
        more = {}
        if across:
            begin = seeds(self.among, len(queries))
            more = {"across": np.ones(len(queries), np.bool_), "entries": begin}
        found = self.walk.query(keys, queries, self.bias, min(n, ef), ef=ef, allowed=self.allowed[None], **more)
        short = np.flatnonzero(found.counts < min(K, len(self.among)))
        ids = self._ranked(found, n)
        if len(short):
            again = scan(keys, queries[short], self.bias[short], n, self.among)
            ids[short] = self._ranked(again, n, short)
        return ids

    def _ranked(self, found: Walked, n: int, numbers: np.ndarray | slice = slice(None)) -> np.ndarray:
        if n == K:
            return found.ids[:, :K]
        shape = (len(found.ids), K)
        positions, logits, weights = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
        kernels.rerank(
            *(self.queries[numbers], self.bias[numbers], self.bench.rows, None, None),
            *(found.ids, found.counts, 1.0, positions, logits, weights),
        )
        return np.where(positions >= 0, np.take_along_axis(found.ids, np.maximum(positions, 0), axis=1), -1)


def masks(bench: Bench, share: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return filters, with the queries to ask: any rows; rows around the queries; rows far from them."""
    n, rng = len(bench.rows), np.random.default_rng(4)
    count = max(K, int(n * share))
    any_rows, around = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    any_rows[rng.permutation(n)[:count]] = True
    centre = bench.rows[rng.integers(n)]
    around[np.argsort(-(bench.rows @ centre))[:count]] = True
    order = np.argsort(-(bench.queries @ centre))
    return {"any": (any_rows, order[::5]), "near": (around, order[:200]), "far": (around, order[-200:])}


def filters(bench: Bench, walk: Walk, rounds: int, least: float = 0.99) -> None:
    """Show every way of filtered search: the first ef with the recall (`least`), or the largest tried."""
    whole, asked = codes(bench.rows, bench.queries)
    lines = []
    for share in SHARES:
        for kind, (allowed, numbers) in masks(bench, share).items():
            ways = Filtered(bench, walk, allowed, numbers)
            runs: dict[str, Callable[[int], object]] = {"exact": lambda _, ways=ways: ways.exact()}
            notes = {}
            for name, keys, queries, n in (
                ("float32", Keys(bench.rows), ways.queries, K),
                ("int8", Keys(whole), np.ascontiguousarray(asked[numbers]), CANDIDATES),
            ):
                runs[f"scan {name}"] = lambda _, ways=ways, a=(keys, queries, n): ways.by_scan(*a)
                for across in (False, True) if share >= WALKED else ():
                    way = f"{'across' if across else 'walk'} {name}"
                    for ef in (15, 30, 60, 120):
                        ids = ways.by_walk(keys, queries, n, ef, across)
                        notes[way] = bench.recall(ids, ways.truth), ef
                        if notes[way][0] >= least:
                            break
                    runs[way] = lambda _, ways=ways, a=(keys, queries, n, ef, across): ways.by_walk(*a)
                route = filtered_route(
                    int(allowed.sum()), len(allowed), 30, width=walk.adjacency.width, row_bytes=keys.data[0].nbytes
                )
                notes[f"scan {name}"] = bench.recall(ways.by_scan(keys, queries, n), ways.truth), route
            middle = medians(interleaved(runs, rounds))
            cells = [
                f"{notes[way][0]:.3f} ({notes[way][1]}) {middle['exact'] / middle[way]:.2f}" if way in runs else "-"
                for way in WAYS
            ]
            lines.append((f"{share:.1%} {kind}", f"{len(numbers) / middle['exact']:,.0f}", *cells))
    show(
        f"filtered search: recall@{K} (ef; of scans the route), times the speed of exact search ({machine()})",
        ["allowed", "exact, queries/s", *WAYS],
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
