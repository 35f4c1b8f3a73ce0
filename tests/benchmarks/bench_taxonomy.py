"""Relations that were hidden, found again: by cosine, and by `AttentionGraph.search` along relations of similar nodes.

WordNet: 1,000 nouns that have a hypernym are drawn. All their hypernym and hyponym edges (instances too) are taken out
of the graph, in both directions; the edges between other nouns stay. A noun's vector is the question; of all 82,192
nouns but itself its hypernyms, any of them, are to be found. Other relations, and the citations of Cora's papers,
likewise: of the nodes drawn, all edges of the relation and of its inverse are hidden. (Of Cora's 2,708 papers a tenth.)

A node's own row stays in the index and the node in the graph; it is excluded from results and steps by node_filter, and
left out of the cosine's ranking. Searches are the public API's, with its defaults, and edge_types. The reciprocal rank
is that of the first right answer, 0 where it is not among the nodes that attention came to; both are averages.
Run: python tests/benchmarks/bench_taxonomy.py [--data FOLDER] [--draws 3] [--nodes 1000] [--settings]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pool
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import networkx as nx
import numpy as np
import pyarrow.parquet
import scipy.sparse
from common import DATA, machine, show, verdict

import attnbridge as ab

WORDS = ("nouns.parquet", "noun_edges.parquet", "noun_emb_f16.npy")
UP, DOWN = ["hypernym", "instance_hypernym"], ["hyponym", "instance_hyponym"]
# What is asked for, and its inverse.
RELATIONS = {
    "hypernym": (UP, DOWN),
    "part_holonym": (["part_holonym"], ["part_meronym"]),
    "member_holonym": (["member_holonym"], ["member_meronym"]),
    "domain_topic": (["domain_topic"], ["member_of_domain_topic"]),
}
MRR, HIT10 = 0.45, 0.69  # the targets, of hypernyms
VARIANTS: list[dict[str, Any]] = [
    {},
    {"hops": 1},
    {"hops": 3},
    {"mix": 0.0},
    {"mix": 0.1},
    {"mix": 0.2},
    {"decay": 0.1},
    {"decay": 0.5},
    {"decay": 1.0},
    {"seeds": 32},
    {"seeds": 64},
    {"seeds": 200},
    {"beam_width": 64},
    {"beam_width": None},
]


class Collection(NamedTuple):
    """Nodes, their vectors, and edges with a type."""

    nodes: list[Any]
    rows: np.ndarray
    edges: list[tuple[Any, Any, str]]
    bridge: ab.AttentionVectorBridge


class Task(NamedTuple):
    """What is to be found."""

    ag: ab.AttentionGraph
    collection: Collection
    answers: dict[Any, set[Any]]
    options: dict[str, Any]


def collection(nodes: list[Any], rows: np.ndarray, edges: list[tuple[Any, Any, str]]) -> Collection:
    bridge = ab.AttentionVectorBridge(dim=rows.shape[1])
    bridge.add(rows, ids=nodes)
    return Collection(nodes, rows / np.linalg.norm(rows, axis=1, keepdims=True), edges, bridge)


def places(folder: Path) -> tuple[Path, Path]:
    """Return WordNet's folder and Cora's file: below the data sets' folder, or below and beside WordNet's own."""
    inside, beside = (folder / "wordnet", folder / "graph"), (folder, folder.resolve().parent / "graph")
    words, graphs = beside if (folder / WORDS[0]).exists() else inside
    missing = [path for path in (*(words / name for name in WORDS), graphs / "cora.npz") if not path.exists()]
    if missing:
        sys.exit(
            f"{', '.join(map(str, missing))} not there: --data is a folder that holds wordnet/ ({', '.join(WORDS)}) "
            "and graph/cora.npz, or wordnet/ itself with graph/ beside it; the data sets are no part of the project"
        )
    return words, graphs / "cora.npz"


def wordnet(folder: Path) -> Collection:
    nodes = pyarrow.parquet.read_table(folder / "nouns.parquet")["id"].to_pylist()
    edges = pyarrow.parquet.read_table(folder / "noun_edges.parquet")
    rows = np.load(folder / "noun_emb_f16.npy").astype(np.float32)
    columns = [edges[name].to_pylist() for name in ("src", "dst", "rel")]
    return collection(nodes, rows, list(zip(*columns, strict=True)))


def cora(file: Path) -> Collection:
    data = np.load(file)
    parts = (data["x_data"], data["x_indices"], data["x_indptr"])
    rows = scipy.sparse.csr_array(parts, shape=data["x_shape"]).toarray().astype(np.float32)
    edges = [(u, v, "cites") for u, v in data["edges"].T.tolist()]
    return collection(list(range(len(rows))), rows, edges)


def hidden(made: Collection, wanted: list[str], inverse: list[str], count: int, seed: int, direction: str) -> Task:
    """Return a task: some nodes that have such a relation, drawn, and a graph without any of theirs."""
    answers: dict[Any, set[Any]] = {}
    for u, v, kind in made.edges:
        if kind in wanted and u != v:
            answers.setdefault(u, set()).add(v)
            if direction == "both":
                answers.setdefault(v, set()).add(u)
    having = [node for node in made.nodes if node in answers]
    drawn = np.random.default_rng(seed).choice(len(having), min(count, len(having)), replace=False)
    asked = {having[i]: answers[having[i]] for i in np.sort(drawn).tolist()}
    secret = {*wanted, *inverse}
    graph = nx.MultiDiGraph()
    graph.add_nodes_from((node, {"embedding": row}) for node, row in zip(made.nodes, made.rows, strict=True))
    graph.add_edges_from(
        (u, v, {"type": kind}) for u, v, kind in made.edges if kind not in secret or (u not in asked and v not in asked)
    )
    return Task(ab.AttentionGraph(graph), made, asked, {"edge_types": wanted, "direction": direction})


def by_cosine(task: Task) -> list[int]:
    """Return the rank of the first right answer for each node asked, from 1, among all nodes but itself."""
    nodes, rows, ranks = task.collection.nodes, task.collection.rows, []
    place = {node: i for i, node in enumerate(nodes)}
    for node, right in task.answers.items():
        similar = rows @ rows[place[node]]
        similar[place[node]] = -np.inf
        ranks.append(1 + int((similar > max(similar[place[one]] for one in right)).sum()))
    return ranks


def by_search(task: Task, **options: Any) -> list[int]:
    """Return the same of attention; 0 where no right answer was reached."""
    ranks, place = [], {node: i for i, node in enumerate(task.collection.nodes)}
    for node, right in task.answers.items():
        hits = search(task, node, task.collection.rows[place[node]], len(place), **options)
        ranks.append(next((rank for rank, found in enumerate(hits.nodes, 1) if found in right), 0))
    return ranks


def search(task: Task, own: Any, query: np.ndarray, k: int, **options: Any) -> Any:
    return task.ag.search(
        task.collection.bridge, query, k, node_filter=lambda node: node != own, **task.options | options
    )


def milliseconds(task: Task, count: int = 200) -> float:
    """Return the median CPU time of a search for ten; other processes do not count."""
    place = {node: i for i, node in enumerate(task.collection.nodes)}
    taken = []
    for node in list(task.answers)[:count]:
        began = time.process_time()
        search(task, node, task.collection.rows[place[node]], 10)
        taken.append(1e3 * (time.process_time() - began))
    return statistics.median(taken)


def figures(ranks: Sequence[int]) -> tuple[float, float]:
    """Return the mean reciprocal rank, and the share of ranks up to 10."""
    found = np.array(ranks, np.float64)
    return float(np.divide(1.0, found, out=np.zeros_like(found), where=found > 0).mean()), float(
        ((found > 0) & (found <= 10)).mean()
    )


def spread(values: Sequence[float]) -> str:
    """Return a mean, and how far values are from it."""
    return f"{np.mean(values):.3f} ±{np.std(values):.3f}"


def tasks(words: Collection, papers: Collection, count: int, seed: int) -> dict[str, Task]:
    made = {name: hidden(words, *RELATIONS[name], count, seed, "out") for name in RELATIONS}
    few = min(count, len(papers.nodes) // 10)  # without the citations of more there would be little left of Cora
    return made | {"Cora's citations": hidden(papers, ["cites"], [], few, seed, "both")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder that holds wordnet/ and graph/, or that wordnet/"
    )
    parser.add_argument("--draws", type=int, default=3, help="seeds 0, 1, ... of the nodes drawn")
    parser.add_argument("--nodes", type=int, default=1000, help="nodes drawn each time")
    parser.add_argument("--settings", action="store_true", help="other settings of the search too, on the last draw")
    options = parser.parse_args()
    nouns, citations = places(options.data)
    words, papers = wordnet(nouns), cora(citations)
    seen: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(options.draws):
        made = tasks(words, papers, options.nodes, seed)
        for name, task in made.items():
            row = (*figures(by_cosine(task)), *figures(by_search(task)), milliseconds(task))
            seen.setdefault(name, []).append(row)
            print(
                f"draw {seed}, {name}: cosine {row[0]:.3f} / {row[1]:.3f}, search {row[2]:.3f} / {row[3]:.3f}",
                flush=True,
            )
    show(
        f"Hidden relations, {options.draws} draws of {options.nodes} nodes, mean ± standard deviation; {machine()}",
        ["relation", "cosine MRR", "cosine hit@10", "search MRR", "search hit@10", "CPU ms a query"],
        [
            (name, *map(spread, list(zip(*rows, strict=True))[:4]), f"{np.mean([row[4] for row in rows]):.2f}")
            for name, rows in seen.items()
        ],
    )
    mrr, hit10 = np.mean([row[2:4] for row in seen["hypernym"]], axis=0)
    print("hypernyms: MRR", verdict(float(mrr), least=MRR), " hit@10", verdict(float(hit10), least=HIT10))
    if options.settings:
        rows = []
        for variant in VARIANTS:
            found = [figures(by_search(task, **variant)) for task in made.values()]
            means = np.mean(found, axis=0)
            label = ", ".join(f"{name}={value}" for name, value in variant.items()) or "defaults"
            rows.append((label, *(f"{a:.3f} / {b:.3f}" for a, b in [*found, means])))
        show("Settings, MRR / hit@10, last draw", ["", *made, "mean"], rows)


if __name__ == "__main__":
    main()
