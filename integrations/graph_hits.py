"""What a walk over a graph returns."""

from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.expansion import Visited
from attnbridge.integrations.graph_data import GraphData
from attnbridge.integrations.topology import Topology
from attnbridge.integrations.walked import subgraph, told
from attnbridge.sequence import MadeSequence
from attnbridge.validation import as_count, require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class _Way(NamedTuple):
    """How a visited node was reached."""

    parent: int  # which of the visited nodes; -1 of a start
    node: Any
    edge: tuple[Any, ...]
    weight: float


class GraphHit(NamedTuple):
    """A node that a walk has found, and the way to it.

    Parameters
    ----------
    node : hashable
    score : float
        The logit of the query with the node's embedding; of `search` a sum of it and the attention that came to it.
    hop : int
        How many steps away it is.
    path : list of hashable
        The nodes from a start to this one, hop + 1.
    edges : list of tuple
        The edge of each step as `G.edges` names it: (u, v), of a multigraph (u, v, key).
    weights : list of float
        The attention weight of each step: the share of this neighbour among all neighbours of the node before.
    log_weight : float
        The sum of their logarithms. With several starts, the logarithm of the start's share of the attention, the
        softmax of the starts' scores, is part of it.

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
    pruned : int, default 0

    Attributes
    ----------
    scores : ndarray of float64, (k,)
    hops : ndarray of int64, (k,)
    log_weights : ndarray of float64, (k,)
    complete : bool
        False where a time budget or a limit of nodes ended the walk before it had been everywhere it was to go.
    pruned : int
        How many nodes a beam had reached and left out for better ones, be it that it came to them later: 0 where the
        walk has been everywhere.
    visited : int
        How many nodes were visited, the starts included.

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
        self,
        data: GraphData,
        topology: Topology,
        visited: Visited,
        chosen: npt.NDArray[np.intp],
        complete: bool = True,
        pruned: int = 0,
    ) -> None:
        self._data, self._topology, self._visited, self._chosen = data, topology, visited, chosen
        self.scores = visited.logits[chosen]
        self.hops = visited.hops[chosen]
        self.log_weights = visited.sums[chosen]
        self.complete, self.pruned = complete, pruned
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
        starts = int(np.count_nonzero(visited.parents < 0))  # the first ones; no edge leads to them
        edges = [()] * starts + topology.named(visited.edge_number[starts:])
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
        return self._subgraph(len(self))

    def _subgraph(self, count: int) -> Any:
        """Return what was walked to the best so many hits."""
        visited = self._visited
        nodes: dict[int, dict[str, Any]] = {}
        edges: dict[int, dict[str, Any]] = {}
        for place in sorted({place for chosen in self._chosen[:count].tolist() for place in self._trail(chosen)}):
            score, number = float(visited.logits[place]), int(visited.edge_number[place])
            found = {"hop": int(visited.hops[place])} | ({} if np.isnan(score) else {"score": score})
            nodes.setdefault(int(visited.positions[place]), found)
            if number >= 0:
                edges[number] = {"attention": self._ways[place].weight}
        return subgraph(self._data, self._topology, nodes, edges)

    def explain(self, limit: int = 10) -> str:
        """Return the way to the best hits in words: a line for each step, with its edge's type, or key, and its weight.

        Of several starts, a line before these says what share of the attention the start has.

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
        >>> G = nx.DiGraph([("a", "b", {"type": "CITES"}), ("b", "c")])
        >>> nx.set_node_attributes(G, {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}, "embedding")
        >>> print(ab.AttentionGraph(G).k_hop("a", query=[0.6, 0.8], limit=1).explain())
        1. 'c': score 10.0000, hop 2, log weight 0.0000
           'a' -[CITES]-> 'b'  weight 1.0000
           'b' -> 'c'  weight 1.0000
        """
        lines = []
        for rank, hit in enumerate(self[: as_count(limit, "limit")], 1):
            lines.append(f"{rank}. {hit.node!r}: {self._figures(rank - 1, hit)}")
            share = self._share(rank - 1)
            lines += [] if share is None else [f"   {hit.path[0]!r}  share {share:.4f}"]
            lines += [f"   {self._step(place)}" for place in self._trail(int(self._chosen[rank - 1]))[1:]]
        if len(self) > limit:
            lines.append(f"... {len(self) - limit} more")
        return "\n".join(lines)

    def _step(self, place: int) -> str:
        """Return the step to a visited node in words."""
        data, topology, visited, way = self._data, self._topology, self._visited, self._ways[place]
        ends = int(visited.positions[way.parent]), int(visited.edge_number[place]), int(visited.positions[place])
        return told(data, topology, data.type_name, *ends, way.weight)

    def _figures(self, i: int, hit: GraphHit) -> str:
        """Return what a line of `explain` says of a hit."""
        return f"score {hit.score:.4f}, hop {hit.hop}, log weight {hit.log_weight:.4f}"

    def _share(self, i: int) -> float | None:
        """Return a hit's start's share of the attention, None where there is one start only."""
        if np.count_nonzero(self._visited.parents < 0) == 1:
            return None
        return self._ways[self._trail(int(self._chosen[i]))[0]].weight

    def plot(
        self,
        path: str | PathLike[str] | None = None,
        *,
        limit: int | None = None,
        label: Any = None,
        edge_label: Any = None,
    ) -> "Figure":
        """Draw what was walked: a column for each hop, nodes coloured by score, edges as wide as their attention.

        The start has a border of its own. Edges have an arrow where the graph is directed, and a name: their type, else
        the key, and their weight; where there are more than 40 they have none.

        Parameters
        ----------
        path : str or path, optional
            A .png, .svg or .pdf file to write.
        limit : int, optional
            How many hits are drawn, with the nodes on the paths to them: the best, at most 200; by default as many as
            have no more than 60 nodes.
        label : hashable, optional
            The nodes' attribute that they are called by; by default they are called what they are.
        edge_label : hashable, optional
            The edges' attribute that they are called by; by default the graph's `edge_type`.

        Returns
        -------
        matplotlib.figure.Figure
            Outside pyplot: nothing has to be closed.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        InvalidConfigError
        InvalidInputError
            No hits, or a path of another suffix.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph([("a", "b"), ("b", "c")])
        >>> nx.set_node_attributes(G, {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}, "embedding")
        >>> figure = ab.AttentionGraph(G).k_hop("a", query=[0.6, 0.8]).plot()
        >>> [text.get_text() for text in figure.axes[0].texts][:3]
        ['a', 'b', 'c']
        """
        from attnbridge.integrations.graph_plot import as_limit, draw, fitting, of_how_many

        trails = (set(self._trail(chosen)) for chosen in self._chosen.tolist())
        count = fitting(trails) if limit is None else min(len(self), as_limit(limit))
        title = of_how_many(count, len(self), "hit", self.complete)
        starts = {way.node for way in self._ways if way.parent < 0}
        named = self._data.type_name if edge_label is None else edge_label
        return draw(self._subgraph(count), path, title, starts=starts, label=label, edge_label=named)

    def __repr__(self) -> str:
        cut = (f", {self.pruned} pruned" if self.pruned else "") + ("" if self.complete else ", cut short")
        shown = self.explain() if len(self) else ""
        return f"GraphHits({len(self)} of {self.visited} nodes visited{cut})" + (f"\n{shown}" if shown else "")
