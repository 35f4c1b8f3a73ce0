"""What a walk over a graph returns."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.expansion import Visited
from attnbridge.integrations.graph_data import GraphData
from attnbridge.integrations.topology import Topology
from attnbridge.sequence import MadeSequence
from attnbridge.validation import as_count, require

if TYPE_CHECKING:
    import pandas as pd


class _Way(NamedTuple):
    """How a visited node was reached."""

    parent: int  # which of the visited nodes; -1 of the start
    node: Any
    edge: tuple[Any, ...]
    weight: float


class GraphHit(NamedTuple):
    """A node that a walk has found, and the way to it.

    Parameters
    ----------
    node : hashable
    score : float
        The logit of the query with the node's embedding.
    hop : int
        How many steps away it is.
    path : list of hashable
        The nodes from the start to this one, hop + 1.
    edges : list of tuple
        The edge of each step as `G.edges` names it: (u, v), of a multigraph (u, v, key).
    weights : list of float
        The attention weight of each step: the share of this neighbour among all neighbours of the node before.
    log_weight : float
        The sum of their logarithms.

    Examples
    --------
    >>> from attnbridge.integrations.graph_hits import GraphHit
    >>> GraphHit("b", 1.5, 1, ["a", "b"], [("a", "b")], [0.25], -1.386).path
    ['a', 'b']
    """

    node: Any
    score: float
    hop: int
    path: list[Any]
    edges: list[tuple[Any, ...]]
    weights: list[float]
    log_weight: float


class GraphHits(MadeSequence[GraphHit]):
    """Nodes that a walk has found, best score first, ties in the order of the graph.

    Parameters
    ----------
    data : GraphData
        Where attributes are read.
    topology : Topology
        The graph as it was when it was walked.
    visited : Visited
    chosen : ndarray of int64, (k,)
        Which of the visited nodes are hits.
    complete : bool, default True

    Attributes
    ----------
    scores : ndarray of float64, (k,)
    hops : ndarray of int64, (k,)
    log_weights : ndarray of float64, (k,)
    complete : bool
        False where the walk ended by a limit before it had been everywhere that was asked for.
    visited : int
        How many nodes were visited, the start included.

    Examples
    --------
    >>> import networkx as nx, attnbridge as ab
    >>> G = nx.path_graph(3)
    >>> nx.set_node_attributes(G, {0: [1.0, 0.0], 1: [0.0, 1.0], 2: [0.6, 0.8]}, "embedding")
    >>> hits = ab.AttentionGraph(G).k_hop(0, query=[0.6, 0.8], limit=2)
    >>> hits.nodes, hits[0].path
    ([2, 1], [0, 1, 2])
    """

    def __init__(
        self, data: GraphData, topology: Topology, visited: Visited, chosen: npt.NDArray[np.intp], complete: bool = True
    ) -> None:
        self._data, self._topology, self._visited, self._chosen = data, topology, visited, chosen
        self.scores = visited.logits[chosen]
        self.hops = visited.hops[chosen]
        self.log_weights = visited.sums[chosen]
        self.complete = complete
        self.visited = len(visited.positions)

    @property
    def nodes(self) -> list[Any]:
        """The nodes found, best first.

        Returns
        -------
        list of hashable
        """
        return [self._topology.nodes[position] for position in self._visited.positions[self._chosen].tolist()]

    def __len__(self) -> int:
        return len(self._chosen)

    @cached_property
    def _ways(self) -> list[_Way]:
        """How each visited node was reached."""
        visited, topology = self._visited, self._topology
        nodes = [topology.nodes[position] for position in visited.positions.tolist()]
        edges = [(), *topology.named(visited.edge_number[1:])]  # the start has none
        return list(map(_Way, visited.parents.tolist(), nodes, edges, np.exp(visited.steps).tolist()))

    def _trail(self, place: int) -> list[int]:
        """Return which visited nodes lead from the start to one, itself included."""
        trail = []
        while place >= 0:
            trail.append(place)
            place = self._ways[place].parent
        return trail[::-1]

    def _item(self, i: int) -> GraphHit:
        ways = [self._ways[place] for place in self._trail(int(self._chosen[i]))]
        return GraphHit(
            ways[-1].node,
            float(self.scores[i]),
            int(self.hops[i]),
            [way.node for way in ways],
            [way.edge for way in ways[1:]],
            [way.weight for way in ways[1:]],
            float(self.log_weights[i]),
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return a DataFrame with a row for each hit: the fields of `GraphHit`.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependencyError
            pandas is not installed.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.path_graph(3)
        >>> nx.set_node_attributes(G, [1.0, 2.0], "embedding")
        >>> ab.AttentionGraph(G).k_hop(0).to_pandas()[["node", "hop"]].values.tolist()
        [[0, 0], [1, 1], [2, 2]]
        """
        frame: pd.DataFrame = require("pandas", "pandas").DataFrame(list(self), columns=list(GraphHit._fields))
        return frame

    def to_subgraph(self) -> Any:
        """Return what was walked: the nodes and edges on the paths to the hits, with their attributes.

        Returns
        -------
        networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
            Nodes have the attributes score and hop too, and edges attention, the weight of the step along them, in
            place of ones of these names. A start without embedding has no score.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.star_graph(3)
        >>> nx.set_node_attributes(G, {0: [1.0, 1.0], 1: [1.0, 0.0], 2: [1.0, 0.9], 3: [0.0, 1.0]}, "embedding")
        >>> walked = ab.AttentionGraph(G).k_hop(0, limit=2).to_subgraph()
        >>> [(u, v, round(weight, 4)) for u, v, weight in walked.edges(data="attention")]
        [(0, 2, 0.9022)]
        """
        import networkx as nx

        visited, topology, data = self._visited, self._topology, self._data
        classes = {(False, False): nx.Graph, (True, False): nx.DiGraph, (False, True): nx.MultiGraph}
        graph = classes.get((topology.directed, topology.multigraph), nx.MultiDiGraph)()
        for place in sorted({place for chosen in self._chosen.tolist() for place in self._trail(chosen)}):
            way, position, number = self._ways[place], int(visited.positions[place]), int(visited.edge_number[place])
            if way.node not in graph:
                score = float(visited.logits[place])
                found = {"hop": int(visited.hops[place])} | ({} if np.isnan(score) else {"score": score})
                graph.add_node(way.node)
                graph.nodes[way.node].update(data.node_data(topology, position) | found)
            if way.edge:
                graph.add_edge(*way.edge)
                graph.edges[way.edge].update(data.edge_data(topology, number) | {"attention": way.weight})
        return graph

    def explain(self, limit: int = 10) -> str:
        """Return the way to the best hits in words: a line for each step, with its weight.

        Parameters
        ----------
        limit : int, default 10
            How many hits are told of.

        Returns
        -------
        str

        Raises
        ------
        InvalidConfigError

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph([("a", "b"), ("b", "c")])
        >>> nx.set_node_attributes(G, {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}, "embedding")
        >>> print(ab.AttentionGraph(G).k_hop("a", query=[0.6, 0.8], limit=1).explain())
        1. 'c': score 10.0000, hop 2, log weight 0.0000
           'a' -> 'b'  weight 1.0000
           'b' -> 'c'  weight 1.0000
        """
        lines = []
        for rank, hit in enumerate(self[: as_count(limit, "limit")], 1):
            lines.append(f"{rank}. {hit.node!r}: score {hit.score:.4f}, hop {hit.hop}, log weight {hit.log_weight:.4f}")
            steps = zip(hit.path, hit.path[1:], hit.edges, hit.weights, strict=False)
            lines += [f"   {a!r} {self._arrow(a, edge)} {b!r}  weight {weight:.4f}" for a, b, edge, weight in steps]
        if len(self) > limit:
            lines.append(f"... {len(self) - limit} more")
        return "\n".join(lines)

    def _arrow(self, source: Any, edge: tuple[Any, ...]) -> str:
        """Return an edge as it is drawn from one of its nodes, with its key where edges have one."""
        line = f"-[{edge[2]!r}]-" if len(edge) == 3 else "-"
        if not self._topology.directed:
            return line if len(edge) == 3 else "--"
        return f"{line}>" if edge[0] == source else f"<{line}"

    def __repr__(self) -> str:
        cut = "" if self.complete else ", cut short"
        shown = self.explain() if len(self) else ""
        return f"GraphHits({len(self)} of {self.visited} nodes visited{cut})" + (f"\n{shown}" if shown else "")
