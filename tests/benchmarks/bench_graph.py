"""A networkx graph as arrays, beside networkx's own sparse matrix of it; k-hop walks; and beams.

Edges are random pairs. Nodes are numbers, or texts that each edge has as objects of its own, as a file read gives them.
One thread. Run: python tests/benchmarks/bench_graph.py [--kinds DiGraph Graph MultiDiGraph MultiGraph] [--rounds 3]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pool
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ATTNBRIDGE_NUM_THREADS", "1")

import networkx as nx
import numpy as np
from common import arguments, interleaved, machine, medians, show, spread, verdict

import attnbridge as ab
from attnbridge.integrations.topology import of_graph

KINDS = {kind.__name__: kind for kind in (nx.DiGraph, nx.Graph, nx.MultiDiGraph, nx.MultiGraph)}
# The targets: shares of the time that networkx takes for its matrix.
FIRST, SECOND = 0.35, 0.01


def build(kind: type, label: type, pairs: np.ndarray, rows: np.ndarray) -> nx.Graph:
    """Return a graph of a class with nodes of a type."""
    graph = kind()
    graph.add_nodes_from((label(i), {"embedding": row}) for i, row in enumerate(rows))
    graph.add_edges_from((label(u), label(v)) for u, v in pairs.tolist())
    return graph


def conversion(graph: nx.Graph, name: str, rounds: int) -> tuple[object, ...]:
    """Return a line of the table: what arrays cost first, again, and with the numbers of edges."""
    kept = of_graph(graph)

    def numbered(_: int) -> None:
        topology = of_graph(graph)
        topology.out, topology.into  # noqa: B018

    runs = {
        "networkx": lambda _: nx.to_scipy_sparse_array(graph),
        "first": lambda _: of_graph(graph),
        "numbered": numbered,
        "second": lambda _: ag.edges("out"),
    }
    ag = ab.AttentionGraph(graph)
    assert ag.topology is ag.topology
    assert ag.topology.out.indices.tolist() == kept.out.indices.tolist()
    seconds = interleaved(runs, rounds)
    middle = medians(seconds)
    share = {what: middle[what] / middle["networkx"] for what in middle}
    return (
        name,
        f"{graph.number_of_edges():,}",
        f"{1e3 * middle['networkx']:,.0f}",
        f"{1e3 * middle['first']:,.0f}",
        spread(seconds["first"]),
        verdict(share["first"], most=FIRST),
        f"{share['numbered']:.3f}",
        verdict(share["second"], most=SECOND),
    )


def walks(graph: nx.Graph, rows: np.ndarray, pairs: np.ndarray, rounds: int) -> list[tuple[object, ...]]:
    """Return the table's lines of k-hop walks from random nodes."""
    ag, arrays = ab.AttentionGraph(graph), ab.AttentionGraph.from_arrays(pairs.T, rows)
    starts = np.random.default_rng(1).integers(0, len(rows), rounds + 1).tolist()
    lines = []
    for hops in (1, 2, 3, 4):
        runs = {
            "graph": lambda number, hops=hops: ag.k_hop(starts[number], hops, limit=10)[:],
            "arrays": lambda number, hops=hops: arrays.k_hop(starts[number], hops, limit=10)[:],
            "search": lambda number, hops=hops: nx.single_source_shortest_path_length(graph, starts[number], hops),
        }
        middle = {name: 1e3 * value for name, value in medians(interleaved(runs, rounds)).items()}
        reached = np.median([ag.k_hop(start, hops).visited for start in starts[:-1]])
        lines.append((hops, f"{reached:,.0f}", *(f"{middle[name]:.2f}" for name in ("graph", "arrays", "search"))))
    return lines


def beams(graph: nx.Graph, rows: np.ndarray, rounds: int) -> list[tuple[object, ...]]:
    """Return the table's lines of beam searches from random nodes, the widest of which read all edges."""
    ag, rng = ab.AttentionGraph(graph), np.random.default_rng(1)
    starts, queries = rng.integers(0, len(rows), rounds + 1).tolist(), rng.standard_normal((rounds + 1, rows.shape[1]))
    kinds = {
        "": {},
        "edge_types": {"edge_types": ["R", "S"]},
        "edge_filter": {"edge_filter": lambda u, v: True},
        "node_filter": {"node_filter": lambda node: True},
        "time_budget": {"time_budget": 3600.0},
        "nearest nodes as sources": {"source": None},
        "all of the graph": {"beam_width": len(rows), "max_hops": 64},
        "all of the graph, edge_types": {"beam_width": len(rows), "max_hops": 64, "edge_types": ["R", "S", "T"]},
    }
    runs = {
        name: lambda number, options=options: ag.traverse(queries[number], **({"source": starts[number]} | options))[:]
        for name, options in kinds.items()
    }
    numbers = np.arange(len(ag.topology.ends[0]))
    runs["types of all edges, read alone"] = lambda _: [
        graph._adj[u][v].get("type") for u, v in ag.topology.named(numbers)
    ]
    seconds = interleaved(runs, rounds)
    middle = medians(seconds)
    return [(name or "defaults", f"{1e3 * middle[name]:,.2f}", spread(seconds[name])) for name in runs]


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="classes of graphs")
    parser.add_argument("--dim", type=int, default=64)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, options.nodes, (options.edges, 2))
    rows = rng.standard_normal((options.nodes, options.dim)).astype(np.float32)
    lines = []
    for kind in options.kinds:
        for label in (int, str):
            graph = build(KINDS[kind], label, pairs, rows)
            lines.append(conversion(graph, f"{kind} of {label.__name__}", options.rounds))
            del graph
    show(
        f"{options.nodes:,} nodes: arrays of a graph, beside to_scipy_sparse_array ({machine()})",
        [
            "graph",
            "edges",
            "networkx, ms",
            "ours, ms",
            "quartiles",
            "of networkx's",
            "with in-edges and numbers",
            "second call",
        ],
        lines,
    )
    graph = build(nx.DiGraph, int, pairs, rows)
    show(
        f"k_hop(limit=10), {options.nodes:,} nodes, {graph.number_of_edges():,} edges, d={options.dim} ({machine()})",
        ["hops", "nodes reached", "of networkx, ms", "of arrays, ms", "networkx's lengths alone, ms"],
        walks(graph, rows, pairs, 4 * options.rounds),
    )
    for number, (_, _, data) in enumerate(graph.edges(data=True)):
        data["type"] = "RST"[number % 3]
    show(
        f"traverse, {options.nodes:,} nodes, {graph.number_of_edges():,} edges, d={options.dim} ({machine()})",
        ["options", "ms", "quartiles"],
        beams(graph, rows, 4 * options.rounds),
    )


if __name__ == "__main__":
    main()
