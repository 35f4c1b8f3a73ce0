"""Walks over a graph: neighbourhoods, and the nodes within some steps."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.integrations.clock import Clock
from attnbridge.integrations.expansion import Expansion, Visited, around, starts_at, within
from attnbridge.integrations.filters import as_filters
from attnbridge.integrations.graph_hits import GraphHits
from attnbridge.integrations.graph_view import GraphView
from attnbridge.integrations.traversal import as_sources, beam
from attnbridge.validation import as_count, as_number, as_vector


class Walking(GraphView):
    """What an `AttentionGraph` finds by going along edges."""

    def neighborhood(
        self,
        node: Any,
        query: npt.ArrayLike | None = None,
        *,
        direction: str = "out",
        edge_types: str | Sequence[str] | None = None,
    ) -> GraphHits:
        """Return a node's neighbours, and how the query spreads its attention over them.

        Parameters
        ----------
        node : hashable
        query : array_like, (d,), optional
            By default the node's embedding.
        direction : {"out", "in", "both"}, default "out"
        edge_types : str or list of str, optional
            Only edges of these types are gone along: of the attribute that the graph's `edge_type` names or else, in a
            multigraph, of their key where that is a text.

        Returns
        -------
        GraphHits
            Best score first; their weights sum to 1. The node itself is among them where it has a self loop.

        Raises
        ------
        networkx.NodeNotFound
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.star_graph(2)
        >>> nx.set_node_attributes(G, {0: [1.0, 1.0], 1: [1.0, 0.0], 2: [0.6, 0.8]}, "embedding")
        >>> [(hit.node, round(hit.weights[0], 3)) for hit in ab.AttentionGraph(G).neighborhood(0)]
        [(2, 0.944), (1, 0.056)]
        """
        filters, topology = as_filters(edge_types), self.topology
        start = topology.position(node)
        expansion = self._expansion(topology, self._query(topology, start, query), direction, filters)
        visited = around(expansion, self._start(expansion, start))
        return self._hits(topology, visited, np.arange(1, len(visited.positions)), None)

    def k_hop(
        self,
        node: Any,
        k: int = 2,
        query: npt.ArrayLike | None = None,
        *,
        limit: int | None = None,
        direction: str = "out",
        edge_types: str | Sequence[str] | None = None,
        max_nodes: int | None = None,
    ) -> GraphHits:
        """Return the nodes at most k steps away, each with a shortest path to it.

        The node itself is among them, unless it has no embedding and is skipped: it has no score then.

        Of several shortest paths it is the one whose steps have the largest product of weights.

        Parameters
        ----------
        node : hashable
        k : int, default 2
        query : array_like, (d,), optional
            By default the node's embedding.
        limit : int, optional
            How many of them are returned: the best; by default all.
        direction : {"out", "in", "both"}, default "out"
        edge_types : str or list of str, optional
            Only edges of these types are gone along: of the attribute that the graph's `edge_type` names or else, in a
            multigraph, of their key where that is a text.
        max_nodes : int, optional
            How many nodes are visited at most, near ones first; of those at the same number of hops the ones with the
            best path. The result's `complete` says whether that were all.

        Returns
        -------
        GraphHits
            Best score first, ties in the order of `nodes`.

        Raises
        ------
        networkx.NodeNotFound
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.path_graph(4)
        >>> nx.set_node_attributes(G, {i: [1.0, 0.1 * i] for i in G}, "embedding")
        >>> [(hit.node, hit.hop) for hit in ab.AttentionGraph(G).k_hop(0, query=[0.0, 1.0])]
        [(2, 2), (1, 1), (0, 0)]
        """
        hops = as_count(k, "k", least=0)
        most = None if max_nodes is None else as_count(max_nodes, "max_nodes")
        count = None if limit is None else as_count(limit, "limit")
        filters, topology = as_filters(edge_types), self.topology
        start = topology.position(node)
        expansion = self._expansion(topology, self._query(topology, start, query), direction, filters)
        visited, complete = within(expansion, self._start(expansion, start), hops, most)
        return self._hits(topology, visited, np.flatnonzero(~np.isnan(visited.logits)), count, complete)

    def traverse(
        self,
        query: npt.ArrayLike,
        source: Any = None,
        *,
        max_hops: int = 3,
        beam_width: int = 16,
        limit: int | None = 10,
        direction: str = "out",
        edge_types: str | Sequence[str] | None = None,
        node_filter: Callable[[Any], Any] | None = None,
        edge_filter: Callable[..., Any] | None = None,
        time_budget: float | None = None,
    ) -> GraphHits:
        """Return what is near a question along edges: a beam search by attention.

        From the nodes of the beam all steps are looked at that may be taken, to nodes not visited yet. A step's weight
        is the softmax of the scores of a node's neighbours, those only that may be stepped to, each times the weight of
        its edge, or of all parallel ones that pass. A node has the way to it with the largest product of weights; the
        `beam_width` nodes with the best ways are visited and are the next beam. Other nodes are left out, and may be
        reached again later. No node is visited twice.

        Parameters
        ----------
        query : array_like, (d,)
        source : hashable, or list of hashable, optional
            Where to begin. Several nodes share the attention: each has a weight, the softmax of their scores, which is
            part of the ways from there. A list is several nodes, as is all else that can be gone through, such as a
            range or a Series; a tuple is one where the graph has that node. By default the `beam_width` nodes with the
            best scores of all.
        max_hops : int, default 3
        beam_width : int, default 16
        limit : int, default 10
            How many of the visited nodes are returned: the best; None for all.
        direction : {"out", "in", "both"}, default "out"
        edge_types : str or list of str, optional
            Only edges of these types are gone along: of the attribute that the graph's `edge_type` names or else, in a
            multigraph, of their key where that is a text.
        node_filter : callable, optional
            (node) -> bool: whether a node may be visited. Nodes given as sources are, in any case.
        edge_filter : callable, optional
            (u, v) -> bool, of a multigraph (u, v, key) -> bool: whether an edge, as `G.edges` names it, may be gone
            along.
        time_budget : float, optional
            Seconds after which the nodes of all hops that are done are returned; the result's `complete` is False
            then. The adjacency is read before, once; and no more than a fifth of it is spent on finding out that no
            edge has a type of `edge_types`.

        Returns
        -------
        GraphHits
            Best score first, ties in the order of `nodes`. Its `pruned` says how many nodes the beam has left out: if
            it is 0, these are all that can be reached.

        Raises
        ------
        networkx.NodeNotFound
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError

        References
        ----------
        Lowerre 1976, The HARPY Speech Recognition System (beam search).

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph()
        >>> G.add_edges_from([("gat", "gcn"), ("gat", "transformer"), ("transformer", "seq2seq")], type="CITES")
        >>> G.add_edge("gat", "velickovic", type="BY")
        >>> topics = {"gat": [0.8, 0.6], "gcn": [1.0, 0.0], "transformer": [0.2, 1.0], "seq2seq": [0.0, 1.0]}
        >>> nx.set_node_attributes(G, topics | {"velickovic": [0.6, 0.8]}, "embedding")
        >>> hits = ab.AttentionGraph(G).traverse([0.0, 1.0], "gat", edge_types="CITES", limit=2)
        >>> print(hits.explain())
        1. 'seq2seq': score 10.0000, hop 2, log weight -0.0001
           'gat' -[CITES]-> 'transformer'  weight 0.9999
           'transformer' -[CITES]-> 'seq2seq'  weight 1.0000
        2. 'transformer': score 9.8058, hop 1, log weight -0.0001
           'gat' -[CITES]-> 'transformer'  weight 0.9999
        """
        if query is None:
            raise InvalidInputError("query must be given, the vector (d,) that nodes are compared with, got None")
        vector = as_vector(query, "query", keep_float64=True)
        hops, width = as_count(max_hops, "max_hops", least=0), as_count(beam_width, "beam_width")
        most = None if limit is None else as_count(limit, "limit")
        budget = None if time_budget is None else as_number(time_budget, "time_budget", least=0.0)
        filters = as_filters(edge_types, node_filter, edge_filter)
        topology = self.topology
        topology.edges(direction)
        sources = as_sources(source, topology)
        expansion = self._expansion(topology, vector, direction, filters, Clock(budget))
        walk = beam(expansion, sources, hops, width)
        found = np.flatnonzero(~np.isnan(walk.visited.logits))
        return self._hits(topology, walk.visited, found, most, walk.complete, walk.pruned)

    def _start(self, expansion: Expansion, position: int) -> Visited:
        """Return one node as the start of a walk."""
        positions = np.array([position])
        return starts_at(positions, expansion.scores(positions))
