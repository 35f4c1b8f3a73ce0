"""Where a graph is built, and under which logit it is walked: recall@10 for hyperbolic distance and inner product.

Poincare: a tree of 82,192 nodes (WordNet's nouns, or --data none for a random one) in a ball of 5 and of 16 dimensions.
Inner product: rows whose lengths spread over 10x, with and without a filter. Queries are rows that were left out; the
truth is exact search in float64. All graphs have M=16, efConstruction=200.
Run: python tests/benchmarks/bench_spaces.py [--data FOLDER or none] [--what poincare|ip] [--rows N]
"""

from collections.abc import Callable
from pathlib import Path

import hnswlib
import numpy as np
from common import DATA, arguments, interleaved, machine, medians, need, show, verdict

import attnbridge as ab
from attnbridge import kernels
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.integrations.walk import Walk
from attnbridge.metric import Keys, Metric, norms, squares

K, QUERIES, NODES, M, EF_CONSTRUCTION = 10, 1_000, 82_192, 16, 200
EFS = (50, 100, 200)
FARTHEST = 13.0  # of a leaf from the root, in units of hyperbolic distance

Array = np.ndarray


def built(rows: Array, space: str) -> hnswlib.Index:
    """Return hnswlib's graph."""
    index = hnswlib.Index(space, rows.shape[1])
    index.init_index(len(rows), M=M, ef_construction=EF_CONSTRUCTION, random_seed=100)
    index.add_items(rows)
    return index


def asked(index: hnswlib.Index, queries: Array, k: int, ef: int) -> Array:
    """Return what hnswlib finds on one thread."""
    index.set_ef(ef)
    return index.knn_query(queries, k=k, num_threads=1)[0].astype(np.int64)


def exact(keys: Keys, queries: Array, bias: Array, difference: bool | None, rows: Array | None = None) -> Array:
    """Return the K best in float64."""
    ids, scores = np.empty((len(queries), K), np.int64), np.empty((len(queries), K))
    data = keys.data.astype(np.float64)
    for start in range(0, len(queries), 50):
        part = slice(start, start + 50)
        about = queries[part].astype(np.float64), bias[part], data, keys.scale, keys.bias, rows, 1.0
        kernels.exact_top_k(*about, ids[part], scores[part], difference)
    return ids if rows is None else rows[ids]


def recall(ids: Array, truth: Array) -> float:
    """Return recall@K."""
    return float(np.mean([len(set(a[:K]) & set(b)) / K for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]))


# ---- Poincare


def random_tree(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return parent and depth of each node of a random recursive tree."""
    parent = (np.arange(NODES) * rng.random(NODES) ** 0.8).astype(np.int64)
    parent[0] = -1
    depth = np.zeros(NODES, np.int64)
    for node in range(1, NODES):
        depth[node] = depth[parent[node]] + 1
    return parent, depth


def embedded(parent: Array, depth: Array, dim: int, rng: np.random.Generator) -> Array:
    """Return points of the unit ball: depth is distance from the centre, and a child lies about its parent's direction.

    How far about shrinks as the circles of hyperbolic space grow, so that subtrees do not mix (Sarkar 2011).
    """
    step = FARTHEST / depth.max()
    directions = np.zeros((len(parent), dim))
    for level in range(1, depth.max() + 1):
        nodes = np.flatnonzero(depth == level)
        aside = rng.standard_normal((len(nodes), dim)) * np.exp(-step * (level - 1))
        towards = directions[parent[nodes]] + aside
        directions[nodes] = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    length = step * (depth + rng.uniform(-0.3, 0.3, len(depth))) / 2
    return np.asarray(ab.HyperbolicSpace().exp_map0(directions * np.abs(length)[:, None]), np.float32)


def lifted(points: Array, sign: float) -> Array:
    """Return points on the hyperboloid, the first coordinate times `sign`: -1 for queries makes products Lorentz'."""
    square = squares(points)[:, None]
    return np.concatenate([sign * (1 + square), 2.0 * points], axis=1).astype(np.float32) / np.float32(1 - square)


def by_distance(metric: Metric, keys: Keys, queries: Array, bias: Array, ids: Array) -> Array:
    """Return the K best of each query's candidates."""
    positions, logits, weights = (np.empty((len(ids), K), kind) for kind in (np.int64, float, float))
    counts = np.full(len(ids), ids.shape[1])
    kernels.rerank_poincare(queries, bias, keys.data, keys.scale, ids, counts, 1.0, positions, logits, weights)
    return np.take_along_axis(ids, positions, axis=1)


def poincare(parent: Array, depth: Array, dim: int, rounds: int) -> None:
    """Show recall and speed of the walk beside an ip index over lifted points and L2 candidates reranked."""
    rng = np.random.default_rng(dim)
    points = embedded(parent, depth, dim, rng)
    order = rng.permutation(len(points))
    given, rows = points[order[:QUERIES]], np.ascontiguousarray(points[order[QUERIES:]])
    metric = Metric("poincare")
    keys = Keys(rows, *metric.row_terms(rows, "rows"))
    queries, bias = metric.prepare(given, "queries")
    truth = exact(keys, queries, bias, True)
    flat, lorentz = built(rows, "l2"), built(lifted(rows, 1.0), "ip")
    walk = Walk(Adjacency.from_index(flat))
    lifts = lifted(given, -1.0)
    runs: dict[str, Callable[[int], Array]] = {}
    for ef in EFS:
        runs[f"walk under the distance, ef={ef}"] = lambda _, ef=ef: (
            walk.query(keys, queries, bias, K, ef=ef, difference=True).ids
        )
        runs[f"ip index over lifted points, ef={ef}"] = lambda _, ef=ef: asked(lorentz, lifts, K, ef)
    for count in (100, 200):
        runs[f"{count} l2 candidates reranked"] = lambda _, count=count: by_distance(
            metric, keys, queries, bias, asked(flat, given, count, count)
        )
    runs["exact search, float32"] = lambda _: by_distance(
        metric, keys, queries, bias, scanned(keys, queries, bias, True)
    )
    runs["exact search, products of float32 lifts"] = lambda _: scanned(Keys(lifted(rows, 1.0)), lifts, bias, None)
    recalls = {name: recall(run(0), truth) for name, run in runs.items()}
    middle = medians(interleaved(runs, rounds))
    far = metric.distances(-(keys.scale - 1.0))
    show(
        f"{len(rows):,} points of a ball, d={dim}, at most {far.max():.1f} from its centre ({machine()})",
        ["what", f"recall@{K}", "queries/s"],
        [
            (
                name,
                verdict(value, least=0.99) if name == f"walk under the distance, ef={EFS[-1]}" else f"{value:.3f}",
                f"{QUERIES / middle[name]:,.0f}",
            )
            for name, value in recalls.items()
        ],
    )


def scanned(keys: Keys, queries: Array, bias: Array, difference: bool | None) -> Array:
    """Return the K best by the float32 kernel."""
    ids, scores = np.empty((len(queries), K), np.int64), np.empty((len(queries), K))
    for start in range(0, len(queries), 50):
        part = slice(start, start + 50)
        kernels.exact_top_k(queries[part], bias[part], *keys, None, 1.0, ids[part], scores[part], difference)
    return ids


# ---- inner product


def augmented(rows: Array) -> Array:
    """Return rows on a sphere (Bachrach et al. 2014): with sqrt(R^2 - |x|^2) behind, R the longest's length."""
    square = squares(rows)
    last = np.sqrt(np.maximum(square.max() - square, 0.0))
    return np.concatenate([rows, last[:, None].astype(np.float32)], axis=1)


def inner_product(name: str, rows: Array, queries: Array) -> None:
    """Show recall of three graphs walked under the inner product, and of hnswlib's own search of the plain one."""
    bias, keys = np.zeros(len(queries)), Keys(rows)
    lengths = norms(rows)
    filters = {"all": None, "10 %": np.random.default_rng(1).random(len(rows)) < 0.1}
    filters["shorter half"] = lengths < np.median(lengths)
    metric = Metric("ip")
    plain = built(rows, "ip")
    graphs = {
        "plain ip": plain,
        "ip, lengths drawn together": built(metric.graph_rows(rows), "ip"),
        "l2, augmented": built(augmented(rows), "l2"),
    }
    lines = []
    for what, mask in filters.items():
        allowed = None if mask is None else mask[None]
        truth = exact(keys, queries, bias, None, None if mask is None else np.flatnonzero(mask))
        for graph, index in graphs.items():
            walk = Walk(Adjacency.from_index(index))
            got = [recall(walk.query(keys, queries, bias, K, ef=ef, allowed=allowed).ids, truth) for ef in EFS]
            cells = [verdict(value, least=0.95) for value in got] if mask is None else got
            lines.append((f"{what}: walk of {graph}", *(c if isinstance(c, str) else f"{c:.3f}" for c in cells)))
        if mask is None:
            got = [recall(asked(plain, queries, K, ef), truth) for ef in EFS]
            lines.append((f"{what}: hnswlib, plain ip", *(f"{value:.3f}" for value in got)))
    title = f"{name}: {len(rows):,} x {rows.shape[1]}, lengths {lengths.min():.2f} to {lengths.max():.2f}: recall@{K}"
    show(title, ["what", *(f"ef={ef}" for ef in EFS)], lines)


def spread(rng: np.random.Generator, count: int) -> dict[str, Array]:
    """Return lengths over 10x, two ways."""
    return {"uniform": rng.uniform(1.0, 10.0, count), "lognormal": np.exp(rng.normal(0.0, 0.5, count))}


def unit_sets(data: Path | None, count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return sets of unit vectors: clusters, and WordNet's glosses where they are there."""
    centres = rng.standard_normal((200, 64))
    sets = {"clusters": centres[rng.integers(0, 200, count)] + 0.7 * rng.standard_normal((count, 64))}
    if data is not None:
        vectors = np.load(need(data / "wordnet" / "noun_emb_f16.npy"))
        sets["WordNet"] = vectors[rng.permutation(len(vectors))[:count]].astype(np.float64)
    return {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in sets.items()}


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--data", default=str(DATA), help="folder of the data sets; none for what needs none")
    parser.add_argument("--what", choices=("poincare", "ip"), help="one part alone")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the inner product's sets")
    options = parser.parse_args()
    data = None if options.data == "none" else Path(options.data)
    if options.what != "ip":
        if data is None:
            parent, depth = random_tree(np.random.default_rng(0))
        else:
            tree = np.load(need(data / "wordnet" / "noun_tree.npz"))
            parent, depth = tree["parent"].astype(np.int64), tree["depth"].astype(np.int64)
        for dim in (5, 16):
            poincare(parent, depth, dim, options.rounds)
    if options.what != "poincare":
        rng = np.random.default_rng(0)
        for name, vectors in unit_sets(data, options.rows + QUERIES, rng).items():
            queries, rows = vectors[:QUERIES].astype(np.float32), vectors[QUERIES:]
            for law, lengths in spread(rng, len(rows)).items():
                inner_product(f"{name}, {law}", (rows * lengths[:, None]).astype(np.float32), queries)


if __name__ == "__main__":
    main()
