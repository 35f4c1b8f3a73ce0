"""Filtered search at five selectivities: beside hnswlib's filter callback, and with one filter for each query.

Masks are random; the queries are rows that were left out of the index. One thread.
Run: python tests/benchmarks/bench_filters.py [--data FOLDER or vectors.npy] [--queries 1000] [--plain-queries 50]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pool
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hnswlib
import numpy as np
from common import arguments, interleaved, machine, medians, read_vectors, show, spread, verdict

import attnbridge as ab
from attnbridge.integrations.candidates import exact_search, exact_search_each
from attnbridge.metric import Keys, Metric

K, EF, M, EF_CONSTRUCTION = 10, 100, 16, 200
SELECTIVITIES = (1.0, 0.5, 0.1, 0.01, 0.001)
# The targets: recall and k hits everywhere; queries/s as a multiple of hnswlib's, and of a shared filter's.
RECALL, TIMES_PLAIN, TIMES_SHARED = 0.95, {0.1: 2.0, 0.01: 20.0}, 0.8


def recall(found: list[list[int]], truth: list[list[int]]) -> float:
    """Return the share of the true hits that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def build_plain(rows: np.ndarray) -> hnswlib.Index:
    """Return hnswlib's index with the bridge's settings."""
    plain = hnswlib.Index("cosine", rows.shape[1])
    plain.init_index(len(rows), M=M, ef_construction=EF_CONSTRUCTION, random_seed=100)
    plain.add_items(rows)
    plain.set_ef(EF)
    return plain


def beside_hnswlib(
    bridge: ab.AttentionVectorBridge, plain: hnswlib.Index, queries: np.ndarray, masks: list[np.ndarray], options
) -> None:
    """Print recall and speed of a shared filter, and of hnswlib calling Python for each label it meets."""
    few = queries[: options.plain_queries]
    unit = few / np.linalg.norm(few, axis=1, keepdims=True)
    lines = []
    for share, mask in zip(SELECTIVITIES, masks, strict=True):

        def callback(label: int, mask: np.ndarray = mask) -> bool:
            return bool(mask[label])

        def theirs(_: int, callback=callback) -> list[list[int]]:
            found: list[list[int]] = []
            for query in unit:  # one by one: a batch fails as a whole where a query falls short of k
                try:
                    found.append(plain.knn_query(query, k=K, num_threads=1, filter=callback)[0][0].tolist())
                except RuntimeError:
                    found.append([])
            return found

        def ours(_: int, mask=mask, queries=few) -> list[ab.Hits]:
            return bridge.search_batch(queries, K, filter=mask, threads=1)

        truth = [hits.ids for hits in bridge.search_batch(few, K, filter=mask, exact=True)]
        hits = [found.ids for found in ours(0)]
        seconds = interleaved({"ours": ours, "hnswlib": theirs}, options.rounds)
        middle = medians(seconds)
        ratio = middle["hnswlib"] / middle["ours"]
        lines.append(
            (
                f"{100 * share:g} %",
                f"{int(mask.sum()):,}",
                verdict(recall(hits, truth), least=RECALL),
                min(map(len, hits)),
                f"{recall(theirs(0), truth):.3f}",
                f"{len(few) / middle['ours']:,.0f}",
                f"{len(few) / middle['hnswlib']:,.0f}",
                verdict(ratio, least=TIMES_PLAIN[share]) if share in TIMES_PLAIN else f"{ratio:.1f}",
            )
        )
    show(
        f"search_batch(filter=mask, k={K}) beside hnswlib's knn_query(filter=callback), ef={EF} ({machine()})",
        ["pass", "rows", "recall", "fewest hits", "hnswlib's", "queries/s", "hnswlib's", "times hnswlib's"],
        lines,
    )


def shared_or_each(runs: dict[float, dict], count: int, rounds: int, title: str) -> None:
    """Print the speed of one filter for all queries and of one filter each."""
    lines = []
    for share, both in runs.items():
        seconds = interleaved(both, rounds)
        middle = medians(seconds)
        lines.append(
            (
                f"{100 * share:g} %",
                f"{count / middle['shared']:,.0f}",
                f"{count / middle['each']:,.0f}",
                spread(seconds["each"]),
                verdict(middle["shared"] / middle["each"], least=TIMES_SHARED),
            )
        )
    show(
        f"{title}, one filter for {count:,} queries or one each ({machine()})",
        ["pass", "shared, queries/s", "one each, queries/s", "quartiles of the time", "times the shared one's"],
        lines,
    )


def in_kernels(rows: np.ndarray, queries: np.ndarray, shares: dict[float, list[np.ndarray]], rounds: int) -> None:
    """Compare exact_search and exact_search_each, as they are called for a chunk of a batch."""
    metric = Metric("cosine")
    keys = Keys(rows, *metric.row_terms(rows, "rows"))
    prepared, bias = metric.prepare(queries, "queries")

    def runs(masks: list[np.ndarray]) -> dict:
        lists = [np.flatnonzero(mask) for mask in masks]
        one = exact_search_each(keys, metric, prepared[:9], bias[:9], K, lists[:9])
        for i in range(min(9, len(queries))):
            alone = exact_search(keys, metric, prepared[i : i + 1], bias[i : i + 1], K, lists[i])
            assert all(a[0].tobytes() == b[i].tobytes() for a, b in zip(alone, one, strict=True))
        return {
            "shared": lambda _: exact_search(keys, metric, prepared, bias, K, lists[0]),
            "each": lambda _: exact_search_each(keys, metric, prepared, bias, K, lists),
        }

    made = {share: runs(masks) for share, masks in shares.items()}
    shared_or_each(made, len(queries), rounds, "exact search")


def in_bridge(
    bridge: ab.AttentionVectorBridge, queries: np.ndarray, shares: dict[float, list[np.ndarray]], rounds: int
) -> None:
    """Compare whole searches, where the bridge takes a filter for each query."""
    try:
        bridge.search_batch(queries[:2], K, filter=next(iter(shares.values()))[:2])
    except ab.AttentionError as error:
        print(f"search_batch takes no filter for each query: {error}")
        return
    made = {
        share: {
            "shared": lambda _, masks=masks: bridge.search_batch(queries, K, filter=masks[0], threads=1),
            "each": lambda _, masks=masks: bridge.search_batch(queries, K, filter=masks, threads=1),
        }
        for share, masks in shares.items()
    }
    shared_or_each(made, len(queries), rounds, "search_batch")


def main() -> None:
    parser = arguments(__doc__, data=True, rounds=5)
    parser.add_argument("--queries", type=int, default=1000, help="of a batch with one filter each")
    parser.add_argument("--plain-queries", type=int, default=50, help="beside hnswlib, whose callback is slow")
    options = parser.parse_args()
    vectors = read_vectors(options.data)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(vectors))
    queries, rows = vectors[order[: options.queries]], vectors[order[options.queries :]]
    shares = {share: [rng.random(len(rows)) < share for _ in queries] for share in SELECTIVITIES}
    in_kernels(rows, queries, shares, options.rounds)
    bridge = ab.AttentionVectorBridge(dim=rows.shape[1], M=M, ef_construction=EF_CONSTRUCTION, ef=EF)
    bridge.add(rows)
    print(f"{len(rows):,} x {rows.shape[1]} rows; {bridge.config}")
    beside_hnswlib(bridge, build_plain(rows), queries, [masks[0] for masks in shares.values()], options)
    in_bridge(bridge, queries, shares, options.rounds)


if __name__ == "__main__":
    main()
