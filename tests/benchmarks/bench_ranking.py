"""Ranking quality of the rerank stages on Cranfield: nDCG@10 by trec_eval's conventions.

Run: python tests/benchmarks/bench_ranking.py [--data FOLDER]
"""

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import arguments, need, show, verdict

import attnbridge as ab


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Return query id -> document id -> grade."""
    grades: dict[str, dict[str, int]] = {}
    for line in need(path).read_text().splitlines()[1:]:
        query, document, grade, _ = line.split("\t")
        grades.setdefault(query, {})[document] = int(grade)
    return grades


def ndcg(ranked: list[str], grades: dict[str, int], k: int = 10) -> float:
    """Return nDCG@k as trec_eval's ndcg_cut: linear gain, log2 discount, ideal over all judged documents."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gains = [max(0, grades.get(document, 0)) for document in ranked[:k]]
    ideal = sorted((max(0, grade) for grade in grades.values()), reverse=True)[:k]
    best = float(np.dot(ideal, discounts[: len(ideal)]))
    return float(np.dot(gains, discounts[: len(gains)])) / best if best else 0.0


def interval(values: np.ndarray, draws: int = 10_000) -> str:
    """Return the mean with its 95 % bootstrap interval over queries."""
    picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def read_tokens(folder: Path, which: str) -> list[np.ndarray]:
    """Return the token vectors of each document or query, unit rows."""
    offsets = np.load(need(folder / f"{which}_token_offsets.npy"))
    if which == "doc":
        scale = json.loads((folder / "meta.json").read_text())["token_scale"]
        tokens = np.load(folder / "doc_tokens_i8.npy") * np.float32(scale)
    else:
        tokens = np.load(folder / "query_tokens.npy")
    return [tokens[a:b] for a, b in pairwise(offsets)]


def main() -> None:
    options = arguments(__doc__, data=True, rounds=1).parse_args()
    folder = need(options.data / "cranfield")
    documents, queries = np.load(folder / "docs.npy"), np.load(folder / "queries.npy")
    document_ids = json.loads((folder / "doc_ids.json").read_text())
    query_ids = json.loads((folder / "query_ids.json").read_text())
    qrels = read_qrels(folder / "qrels.tsv")
    bridge = ab.AttentionVectorBridge(dim=documents.shape[1], index="exact")
    bridge.add(documents, ids=document_ids, tokens=read_tokens(folder, "doc"))
    query_tokens = read_tokens(folder, "query")
    judged = [i for i, id in enumerate(query_ids) if any(grade > 0 for grade in qrels.get(id, {}).values())]

    expansion = ab.QueryExpansion(top=10, scale=40.0, mix=0.5)
    everything = len(documents)
    settings = {
        "plain": ([], 100, 0.395),
        "QueryExpansion(10, 40.0, 0.5)": ([expansion], 100, 0.43),
        "the same over all documents": ([expansion], everything, None),
        "LateInteraction(0.6)": ([ab.LateInteraction(mix=0.6)], 100, None),
        "the same over 50 candidates": ([ab.LateInteraction(mix=0.6)], 50, 0.404),
        "the same over all documents ": ([ab.LateInteraction(mix=0.6)], everything, None),
        "expansion, LateInteraction(0.3)": ([expansion, ab.LateInteraction(mix=0.3)], 100, None),
        "expansion, LateInteraction(0.3) over 50": ([expansion, ab.LateInteraction(mix=0.3)], 50, None),
        "expansion, LateInteraction(0.7)": ([expansion, ab.LateInteraction(mix=0.7)], 100, None),
    }
    values, rows = {}, []
    for name, (stages, candidates, least) in settings.items():
        started = time.perf_counter()
        needs = any(stage.requires_tokens for stage in stages)
        results = bridge.search_batch(
            queries, k=10, candidates=candidates, rerank=stages, query_tokens=query_tokens if needs else None
        )
        elapsed = (time.perf_counter() - started) / len(queries)
        values[name] = np.array([ndcg(results[i].ids, qrels[query_ids[i]]) for i in judged])
        rows.append(
            (
                name,
                candidates,
                interval(values[name]),
                interval(values[name] - values["plain"]) if name != "plain" else "",
                verdict(float(values[name].mean()), least=least) if least else "",
                f"{1e3 * elapsed:.1f}",
            )
        )
    show(
        f"Cranfield: nDCG@10 of {len(judged)} queries, {len(documents)} documents, 95 % bootstrap intervals",
        ["stages", "pool", "nDCG@10", "over plain (paired)", "bound", "ms/query"],
        rows,
    )


if __name__ == "__main__":
    main()
