"""AttentionVectorBridge at default settings beside plain hnswlib: recall@10 and queries per second.

Both search one graph, built by hnswlib; the queries are rows that were left out of it.
Run: python tests/benchmarks/bench_search.py [--data FOLDER or vectors.npy]
"""

import time
from pathlib import Path

import hnswlib
import numpy as np
from common import arguments, interleaved, machine, medians, need, show, spread, verdict

import attnbridge as ab
from attnbridge.threads import usable_threads

K, CANDIDATES, QUERIES = 10, 100, 1_000


def read_vectors(path: Path) -> np.ndarray:
    """Return float32 rows of a npy file, or the WordNet ones of the data sets' folder."""
    path = path if path.suffix == ".npy" else path / "wordnet" / "noun_emb_f16.npy"
    return np.load(need(path)).astype(np.float32)


def recall(found: list[ab.Hits], truth: list[ab.Hits]) -> float:
    """Return the share of the true hits that were found."""
    shared = [len(set(a.ids) & set(b.ids)) / len(b.ids) for a, b in zip(found, truth, strict=True)]
    return float(np.mean(shared))


def main() -> None:
    options = arguments(__doc__, data=True, rounds=9).parse_args()
    vectors = read_vectors(options.data)
    order = np.random.default_rng(0).permutation(len(vectors))
    queries, rows = vectors[order[:QUERIES]], vectors[order[QUERIES:]]
    started = time.perf_counter()
    bridge = ab.AttentionVectorBridge(dim=rows.shape[1])
    bridge.add(rows)
    built = time.perf_counter() - started
    config = bridge.config
    # hnswlib alone, with the same settings, rows and threads
    started = time.perf_counter()
    plain = hnswlib.Index("cosine", rows.shape[1])
    plain.init_index(len(rows), M=config["M"], ef_construction=config["ef_construction"], random_seed=config["seed"])
    plain.add_items(rows)
    alone = time.perf_counter() - started
    plain.set_ef(max(config["ef"], CANDIDATES))
    print(f"{len(rows):,} x {rows.shape[1]} rows; built in {built:.0f} s, by hnswlib alone in {alone:.0f} s; {config}")

    truth = bridge.search_batch(queries, k=K, exact=True)
    scores = queries.astype(np.float64) @ rows.T.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)
    by_numpy = np.argsort(-scores, axis=1)[:, :K]
    agreement = np.mean([len(set(a.ids) & set(b.tolist())) / K for a, b in zip(truth, by_numpy, strict=True)])
    found = bridge.search_batch(queries, k=K)
    labels, _ = plain.knn_query(queries, k=CANDIDATES)
    their_recall = np.mean([len(set(a.ids) & set(b[:K].tolist())) / K for a, b in zip(truth, labels, strict=True)])
    show(
        f"recall@{K} of {QUERIES:,} held-out queries, against exact search",
        ["what", "recall"],
        [
            ("search_batch, default settings", verdict(recall(found, truth), least=0.95)),
            (f"hnswlib knn_query(k={CANDIDATES}), its first {K}", f"{their_recall:.3f}"),
            ("our exact search against float64 numpy", f"{agreement:.4f}"),
        ],
    )
    # The bridge's graph serves both sides, so that the ratio is the cost of what comes on top.
    same = bridge._state.source.index._index  # type: ignore[attr-defined]
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    for threads in sorted({1, usable_threads()}):
        seconds = interleaved(
            {
                "hnswlib": lambda _, t=threads: same.knn_query(unit, k=CANDIDATES, num_threads=t),
                "attnbridge": lambda _, t=threads: bridge.search_batch(queries, k=K, threads=t),
            },
            options.rounds,
        )
        middle = medians(seconds)
        title = {"hnswlib": f"hnswlib knn_query(k={CANDIDATES})", "attnbridge": "whole search_batch"}
        show(
            f"{threads} thread(s) ({machine()})",
            ["what", "queries/s", "quartiles of the time", "time over knn_query's"],
            [
                (
                    title[name],
                    f"{QUERIES / value:,.0f}",
                    spread(seconds[name]),
                    verdict(value / middle["hnswlib"], most=1.15) if name == "attnbridge" else "",
                )
                for name, value in middle.items()
            ],
        )


if __name__ == "__main__":
    main()
