"""What a match of three hops from a node costs beside grand-cypher's, and what reading its pattern does.

A random directed graph; the same anchored pattern of three relationships, node after node, in turns. grand-cypher is
given its hint, the start that saves it from looking at every node; without it installed only our times are shown.
Then how nearly a time budget is kept by matches of the whole graph, which would take minutes.
Run: python tests/benchmarks/bench_match.py [--nodes 50000] [--degree 5]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pool

import gc
import importlib
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
from common import arguments, interleaved, machine, medians, show, spread, verdict

import attnbridge as ab
from attnbridge.integrations.match import parse

PEER = "grand-cypher"
PATTERN = "MATCH (a)-[]->(b)-[]->(c)-[]->(d) RETURN a.name, b.name, c.name, d.name"
TYPED = "MATCH (a)-[:CITES]->(b)-[:CITES]->(c)-[:CITES]->(d) WHERE d.year > 2010 RETURN a, b, c, d"
SEVERAL = "MATCH (a)-[:CITES*3]->(d) RETURN d"
PARSED = "MATCH (a:Paper)-[:CITES*1..2]->(b:Paper {field: $f}) WHERE b.year > 2010 RETURN a, b LIMIT 10"
WHOLE = {
    "paths of 1 to 6, no query": ("MATCH (a)-[*1..6]->(b) RETURN b", False),
    "paths of 1 to 6, with a query": ("MATCH (a)-[*1..6]->(b) RETURN b", True),
    "counted": ("MATCH (a)-->(b)-->(c)-->(d) RETURN a, count(d)", False),
    "ordered, no query": ("MATCH (a)-->(b)-->(c)-->(d) RETURN a, b, c, d ORDER BY id(d)", False),
    "ordered, with a query": ("MATCH (a)-->(b)-->(c)-->(d) RETURN a, b, c, d ORDER BY id(d)", True),
}
BUDGETS = 0.1, 1.0  # seconds
DIM = 64


def build(nodes: int, edges: int) -> nx.DiGraph:
    """Return a random graph of papers and what they cite."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((nodes, DIM), np.float32)
    graph = nx.DiGraph()
    graph.add_nodes_from((i, {"name": i, "year": 2000 + i % 25, "embedding": vectors[i]}) for i in range(nodes))
    while (lacking := edges - graph.number_of_edges()) > 0:
        graph.add_edges_from(rng.integers(0, nodes, (lacking, 2)).tolist(), type="CITES")
    return graph


def peer_of(graph: nx.DiGraph) -> Callable[[int], dict[str, list[Any]]] | None:
    """Return grand-cypher's match from a node, where it is installed."""
    try:
        grand = importlib.import_module("grandcypher")
    except ImportError:
        return None
    return lambda start: grand.GrandCypher(graph).run(PATTERN, hints=[{"a": start}])


def same_rows(ag: ab.AttentionGraph, peer: Callable[[int], dict[str, list[Any]]], start: int) -> bool:
    """Return whether both find the same; to grand-cypher the nodes of a row are all different."""
    theirs = sorted(zip(*peer(start).values(), strict=True))
    ours = sorted(tuple(record.values()) for record in ag.match(PATTERN, start=start).records)
    return theirs == [row for row in ours if len(set(row)) == len(row)]


def budgets(ag: ab.AttentionGraph, query: np.ndarray) -> None:
    """Print what matches take of their time budgets, and how many rows that gives."""
    rows = []
    for name, (pattern, asked) in WHOLE.items():
        row: list[object] = [name]
        for budget in BUDGETS:
            took, found = [], []
            for _ in range(5):
                begin = time.perf_counter()
                rows_of = ag.match(pattern, query=query if asked else None, time_budget=budget, max_rows=10**9)
                took.append((time.perf_counter() - begin) / budget)
                found.append(len(rows_of))
                del rows_of  # freeing its rows is no part of the next one
            row += [f"{np.median(took):.2f}", f"{max(took):.2f}", f"{int(np.median(found)):,}"]
        rows.append(row)
    head = [what for budget in BUDGETS for what in (f"of {budget:g} s", "most", "rows")]
    show("time taken / time budget, median and most of 5", ["", *head], rows)


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__, rounds=200)
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument("--degree", type=int, default=5, help="edges a node")
    options = parser.parse_args()
    graph = build(options.nodes, options.nodes * options.degree)
    ag, query = ab.AttentionGraph(graph), np.ones(DIM, np.float32)
    starts = np.random.default_rng(1).integers(0, options.nodes, options.rounds + 1).tolist()
    gc.freeze()  # the graph's dictionaries are no garbage, and looking through them takes longer than a match
    runs: dict[str, Callable[[int], object]] = {
        "three relationships": lambda number: ag.match(PATTERN, start=starts[number]).records,
        "with types and WHERE": lambda number: ag.match(TYPED, start=starts[number]).records,
        "*3": lambda number: ag.match(SEVERAL, start=starts[number]).records,
        "with a query": lambda number: ag.match(PATTERN, start=starts[number], query=query).records,
        "with a query, best 10": lambda number: (
            ag.match(PATTERN + " LIMIT 10", start=starts[number], query=query).records
        ),
    }
    peer = peer_of(graph)
    if peer is not None:
        runs[PEER] = lambda number: peer(starts[number])
    seconds = interleaved(runs, options.rounds)
    middle = medians(seconds)
    rows = [[name, f"{1e3 * middle[name]:.2f}", spread(seconds[name])] for name in runs]
    show(f"match from a node, {options.nodes:,} nodes, {options.nodes * options.degree:,} edges", ["", "ms", ""], rows)
    if peer is None:
        print(f"{PEER} is not installed: no comparison")
    else:
        ratio = middle["three relationships"] / middle[PEER]
        print(f"three relationships / {PEER}: {verdict(ratio, most=0.1)}")
        print(f"same rows: {all(same_rows(ag, peer, start) for start in starts[:20])}")
    parsing = medians(interleaved({"parse": lambda number: parse.__wrapped__(PARSED)}, options.rounds))
    print(f"parsing a new pattern, ms: {verdict(1e3 * parsing['parse'], most=1.0)}")
    budgets(ag, query)
    print(machine())


if __name__ == "__main__":
    main()
