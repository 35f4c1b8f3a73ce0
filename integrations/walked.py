"""What was walked, as a graph and in words: walks and patterns share it."""

from collections.abc import Mapping
from typing import Any

from attnbridge.integrations.graph_data import GraphData, edge_type
from attnbridge.integrations.node_names import same_node
from attnbridge.integrations.topology import Topology


def subgraph(
    data: GraphData, topology: Topology, nodes: Mapping[int, dict[str, Any]], edges: Mapping[int, dict[str, Any]]
) -> Any:
    """Return some nodes and edges of a graph as a graph of their own.

    Parameters
    ----------
    data : GraphData
        Where attributes are read.
    topology : Topology
        The graph as it was when it was walked.
    nodes, edges : mapping of int to dict
        What was found of nodes, by their positions, and of edges, by their numbers: attributes beside their own, in
        place of ones of these names.

    Returns
    -------
    networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
    """
    import networkx as nx

    classes = {(False, False): nx.Graph, (True, False): nx.DiGraph, (False, True): nx.MultiGraph}
    graph = classes.get((topology.directed, topology.multigraph), nx.MultiDiGraph)()
    for position, found in nodes.items():
        graph.add_node(topology.nodes[position])
        graph.nodes[topology.nodes[position]].update(data.node_data(topology, position) | found)
    for number, found in edges.items():
        edge = topology.edge(number)
        graph.add_edge(*edge)
        graph.edges[edge].update(data.edge_data(topology, number) | found)
    return graph


def told(
    data: GraphData, topology: Topology, kind: Any, source: int, number: int, target: int, weight: float | None
) -> str:
    """Return a step in words, with the type of its edge as it is now.

    Parameters
    ----------
    data : GraphData
        Where attributes are read.
    topology : Topology
        The graph as it was when it was walked.
    kind : hashable
        The edges' attribute with the type.
    source, number, target : int
        The position of the node before, the number of the edge, the position of the node that it led to.
    weight : float or None

    Returns
    -------
    str
    """
    called = edge_type(data.edge_data(topology, number).get(kind), topology, number)
    ends = topology.nodes[source], topology.nodes[target]
    return step_line(*ends, topology.edge(number), topology.directed, weight, called)


def step_line(
    source: Any, target: Any, edge: tuple[Any, ...], directed: bool, weight: float | None, kind: str | None = None
) -> str:
    """Return a step in words: the edge as it is drawn from the node before, with its type or else its key.

    Parameters
    ----------
    source, target : hashable
    edge : tuple
        As `G.edges` names it.
    directed : bool
    weight : float or None
    kind : str, optional
        The edge's type.

    Returns
    -------
    str

    Examples
    --------
    >>> from attnbridge.integrations.walked import step_line
    >>> step_line("b", "a", ("a", "b"), True, 0.25, "CITES")
    "'b' <-[CITES]- 'a'  weight 0.2500"
    """
    name = kind if kind is not None else repr(edge[2]) if len(edge) == 3 else None
    line = "-" if name is None else f"-[{name}]-"
    if directed:
        line = f"{line}>" if same_node(edge[0], source) else f"<{line}"
    elif name is None:
        line = "--"
    told = "" if weight is None else f"  weight {weight:.4f}"
    return f"{source!r} {line} {target!r}{told}"
