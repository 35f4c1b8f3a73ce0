"""Attention over networkx graphs, to find what is near a question, along its edges."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from attnbridge.errors import AttentionError, GraphStructureError, InvalidConfigError
from attnbridge.functional import pair_logits, require_pairwise
from attnbridge.integrations.expansion import Expansion, Visited, around, within
from attnbridge.integrations.graph_data import (
    ArrayData,
    GraphData,
    NetworkxData,
    as_edge_weights,
    as_edges,
    as_embeddings,
    as_positions,
    name_of,
)
from attnbridge.integrations.graph_hits import GraphHits
from attnbridge.integrations.match import Matches
from attnbridge.integrations.match.run import Scoring, as_options, run
from attnbridge.integrations.topology import Neighbours, Positions, Topology
from attnbridge.scoring import resolve
from attnbridge.validation import Float, as_count, as_vector


class AttentionGraph:
    """A graph whose nodes have embeddings, to be walked by attention.

    A node's score is the logit of the query with its embedding. A step from a node goes to one of its neighbours, with
    a weight: the softmax of the scores of all neighbours, each times the edge's weight where edges have one.

    Nodes, edges and attributes are those of the graph at the time of a call. Only the adjacency is kept as arrays,
    until networkx says that it has changed; that of a view is read at every call.

    Parameters
    ----------
    G : networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
        It is not changed.
    embedding : hashable, default "embedding"
        The nodes' attribute with a vector (d,).
    weight : hashable, optional
        An attribute of edges, numbers > 0; 1 where an edge has none. Those of parallel edges are added.
    attention : str, default "gat"
        A name or alias from `attention_types`; a pairwise one.
    missing : {"raise", "skip", "zero"}, default "raise"
        What becomes of nodes without embedding: an error, or they are never stepped to, or their embedding is zero.
    **options : object
        Options of the type, as `attention_types` lists them.

    Raises
    ------
    GraphStructureError
        No nodes, or a node without embedding, which is named.
    InvalidConfigError, InvalidInputError

    References
    ----------
    Velickovic et al. 2018, Graph Attention Networks, equation 2; Brody et al. 2022, How Attentive are Graph Attention
    Networks?, equation 7.

    Examples
    --------
    >>> import networkx as nx, attnbridge as ab
    >>> G = nx.DiGraph([("home", "east"), ("home", "north"), ("east", "north-east")])
    >>> compass = {"home": [0.1, 0.1], "east": [1.0, 0.0], "north": [0.0, 1.0], "north-east": [0.7, 0.7]}
    >>> nx.set_node_attributes(G, compass, "embedding")
    >>> ag = ab.AttentionGraph(G, attention="scaled_dot")
    >>> hits = ag.k_hop("home", query=[3.0, 4.0])
    >>> [(hit.node, round(hit.score, 2), hit.path) for hit in hits][0]
    ('north-east', 3.46, ['home', 'east', 'north-east'])
    """

    def __init__(
        self,
        G: Any,  # noqa: N803
        embedding: Any = "embedding",
        *,
        weight: Any = None,
        attention: str = "gat",
        missing: str = "raise",
        **options: Any,
    ) -> None:
        self._take(NetworkxData(G, embedding, weight, missing), attention, options)

    @classmethod
    def from_arrays(
        cls,
        edges: Any,
        X: npt.ArrayLike,  # noqa: N803
        *,
        weight: Any = None,
        attention: str = "gat",
        **options: Any,
    ) -> Self:
        """Return an attention graph of nodes 0 to n - 1 with directed edges.

        Parameters
        ----------
        edges : array_like of int, (2, m), or SciPy sparse matrix or array, (n, n)
            Edge i leads from node edges[0, i] to edges[1, i]; or there is one for each stored entry, row to column.
        X : array_like, (n, d)
            The nodes' embeddings; float32 and float64 arrays are not copied.
        weight : array_like, (m,), optional
            The weights > 0 of the edges, in their order: of a matrix A in CSR form, A.data.
        attention : str, default "gat"
            A name or alias from `attention_types`; a pairwise one.
        **options : object
            Options of the type.

        Returns
        -------
        AttentionGraph

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ag = ab.AttentionGraph.from_arrays([[0, 0], [1, 2]], [[1.0, 1.0], [1.0, 0.5], [0.0, 1.0]])
        >>> ag.neighborhood(0).nodes
        [1, 2]
        """
        rows = as_embeddings(X)
        source, target = as_edges(edges, len(rows))
        weights = None if weight is None else as_edge_weights(weight, len(source))
        made = cls.__new__(cls)
        made._take(ArrayData(source, target, rows, weights), attention, options)
        return made

    def _take(self, data: GraphData, attention: str, options: dict[str, Any]) -> None:
        self._data = data
        self._type, self._options = resolve(attention, options)
        require_pairwise(self._type, self._options, "a graph's edges", "attention")

    # ---- the graph, as arrays and as networkx has it

    @property
    def graph(self) -> Any:
        """The networkx graph; of arrays a frozen MultiDiGraph, the key of an edge being its number.

        Returns
        -------
        networkx.Graph
        """
        return self._data.graph

    @property
    def topology(self) -> Topology:
        """Nodes and edges as they are now, as arrays that never change: what several calls shall agree on.

        Returns
        -------
        Topology
        """
        return self._data.topology()

    @property
    def nodes(self) -> list[Any]:
        """The nodes, in the order of the graph: that in which they were added. It is kept; change a copy.

        Returns
        -------
        list of hashable
        """
        return self.topology.nodes

    def position(self, node: Any) -> int:
        """Return where a node is in `nodes`.

        Parameters
        ----------
        node : hashable

        Returns
        -------
        int

        Raises
        ------
        networkx.NodeNotFound
        """
        return self.topology.position(node)

    def edges(self, direction: str = "out") -> Neighbours:
        """Return each node's neighbours, in CSR form.

        Parameters
        ----------
        direction : {"out", "in", "both"}, default "out"
            In which direction edges are gone; the same for an undirected graph. A self loop is one entry in any case.

        Returns
        -------
        Neighbours
            Read-only arrays of int64: indptr (n + 1,), and for each entry a neighbour's position, indices (m,), and the
            edge's number, edge_number (m,). Edges are numbered in the order of `G.edges`.

        Raises
        ------
        InvalidConfigError
        """
        return self.topology.edges(direction)

    def edge(self, number: int) -> tuple[Any, Any, Any, dict[Any, Any]]:
        """Return an edge by its number.

        Parameters
        ----------
        number : int

        Returns
        -------
        tuple of hashable, hashable, hashable or None, dict
            From, to, key (None where there are no parallel edges), attributes: the graph's own dictionary.

        Raises
        ------
        InvalidConfigError
        """
        topology = self.topology
        count = len(topology.ends[0])
        if not 0 <= number < count:
            raise InvalidConfigError(f"number must be 0 to {count - 1}, got {number}")
        source, target, key = (*topology.edge(number), None)[:3]
        return source, target, key, self._data.edge_data(topology, number)

    def logits(self, query: npt.ArrayLike, positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the logit of a query with the embeddings of nodes, as they are now.

        Parameters
        ----------
        query : array_like, (d,)
        positions : array_like of int, (m,)
            Of nodes in `nodes`.

        Returns
        -------
        ndarray of float64, (m,)
            -inf where a node has no embedding and is skipped.

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidInputError
            An embedding of another length, or missing, or not of finite numbers; its node is named.
        """
        topology = self.topology
        places = as_positions(positions, len(topology.nodes))
        vector = as_vector(query, "query", keep_float64=True)
        logits = self._logits(topology, vector, places)
        return np.where(np.isnan(logits), -np.inf, logits)

    # ---- walking

    def neighborhood(self, node: Any, query: npt.ArrayLike | None = None, *, direction: str = "out") -> GraphHits:
        """Return a node's neighbours, and how the query spreads its attention over them.

        Parameters
        ----------
        node : hashable
        query : array_like, (d,), optional
            By default the node's embedding.
        direction : {"out", "in", "both"}, default "out"

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
        topology = self.topology
        start = topology.position(node)
        visited = around(self._expansion(topology, start, query, direction), start)
        return self._hits(topology, visited, np.arange(1, len(visited.positions)), None)

    def k_hop(
        self,
        node: Any,
        k: int = 2,
        query: npt.ArrayLike | None = None,
        *,
        limit: int | None = None,
        direction: str = "out",
        max_nodes: int | None = None,
    ) -> GraphHits:
        """Return the nodes at most k steps away, the node itself included, each with a shortest path to it.

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
        topology = self.topology
        start = topology.position(node)
        visited, complete = within(self._expansion(topology, start, query, direction), start, hops, most)
        return self._hits(topology, visited, np.flatnonzero(~np.isnan(visited.logits)), count, complete)

    # ---- patterns

    def match(
        self,
        pattern: str,
        query: npt.ArrayLike | None = None,
        params: Mapping[str, Any] | None = None,
        *,
        start: Any = None,
        per_step: int | None = None,
        max_hops: int = 16,
        max_rows: int = 1_000_000,
        time_budget: float | None = None,
        labels: str | Sequence[str] = ("label", "labels"),
        type: str = "type",
    ) -> Matches:
        """Return where a pattern of nodes and relationships is in the graph.

        Patterns are openCypher's: MATCH paths [WHERE condition] RETURN columns [ORDER BY keys] [SKIP n] [LIMIT n].
        Paths, with commas between them, share variables; a node is ``(a:Paper:New {field: $f})``, a relationship
        ``-[r:CITES|EXTENDS*1..3 {year: 2017}]->``, ``<-[...]-`` or ``-[...]-``, a path with a name ``p = (a)-->(b)``.
        There are =, <>, <, <=, >, >=, IN, CONTAINS, STARTS WITH, ENDS WITH, IS [NOT] NULL, AND, OR, XOR, NOT,
        + - * / %, and the functions id(n), which is the node itself, labels(n), type(r), length(p), nodes(p),
        relationships(p), score(n), which is the query's logit with the node, and, as a column, count.

        - A node's labels are a text, or a collection of them; a relationship's type is its attribute or else, in a
          multigraph, its key where that is a text. Other attributes are properties, missing ones null.
        - No relationship is in a row twice; nodes may be. In an undirected graph arrows have no direction.
        - Comparisons with null are neither true nor false. What has no order is compared to null; so is arithmetic
          with anything but numbers, and what is divided by 0. Rows need a condition that is true.
        - Without a query rows come in the order of the graph: by the first node, the first relationship, and so on.
        - With a query they come best first. The nodes of a path are chosen from left to right, from all that fit what
          the pattern says of them and of those chosen before. A choice has a weight, the softmax of the query's scores
          of these nodes, each times the edge's weight where edges have one; a row's score is the sum of the
          logarithms of its weights. Several paths are gone through one after the other, each from the leftmost of its
          nodes that is chosen already.

        Parameters
        ----------
        pattern : str
        query : array_like, (d,), optional
        params : mapping of str to object, optional
            Values for ``$name`` in the pattern; more than it uses are allowed.
        start : hashable, optional
            The node that the first node of the pattern is: it is no choice then, and has no weight.
        per_step : int, optional
            How many nodes are kept at each choice, the best; by default all. Needs a query. Scores stay what they are.
        max_hops : int, default 16
            How far a relationship without a bound, as ``-[*]->``, may go. More is an error, not left out.
        max_rows : int, default 1,000,000
            How many rows may be found, before DISTINCT, count, ORDER BY and SKIP. More are an error.
        time_budget : float, optional
            Seconds after which the rows found so far are returned; the result's `complete` is False then.
        labels : str or sequence of str, default ("label", "labels")
            The nodes' attributes with labels.
        type : str, default "type"
            The edges' attribute with the type.

        Returns
        -------
        Matches

        Raises
        ------
        InvalidInputError
            No such pattern: line and column are named and shown, and what is expected or supported there.
        InputTooLargeError
            Beyond `max_hops` or `max_rows`.
        InvalidConfigError
            A ``$name`` without a value, or a wrong option.
        networkx.NodeNotFound
            `start` is not in the graph.
        DimensionMismatchError, GraphStructureError

        References
        ----------
        openCypher Query Language Reference, version 9.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph()
        >>> G.add_node("gat", label="Paper", year=2018, embedding=[0.9, 0.1])
        >>> G.add_node("transformer", label="Paper", year=2017, embedding=[0.6, 0.8])
        >>> G.add_node("gcn", label="Paper", year=2017, embedding=[1.0, 0.0])
        >>> G.add_edges_from([("gat", "transformer"), ("gat", "gcn")], type="CITES")
        >>> ag = ab.AttentionGraph(G)
        >>> ag.match("MATCH (a:Paper)-[:CITES]->(b) WHERE b.year < $y RETURN a, b", params={"y": 2018}).records
        [{'a': 'gat', 'b': 'transformer'}, {'a': 'gat', 'b': 'gcn'}]
        >>> for row in ag.match("MATCH (a)-->(b) RETURN b, score(b) AS s", query=[1.0, 0.2], start="gat"):
        ...     print(row.record["b"], round(row.record["s"], 2), round(row.weights[0], 2))
        gcn 9.81 0.91
        transformer 7.45 0.09
        """
        scored = query is not None
        options = as_options(scored, per_step, max_hops, max_rows, time_budget, labels, type)
        topology = self.topology
        scoring = None
        if query is not None:
            vector = as_vector(query, "query", keep_float64=True)
            scoring = Scoring(
                lambda positions: self._logits(topology, vector, positions),
                lambda numbers: self._data.edge_weights(topology, numbers),
            )
        at = None if start is None else topology.position(start)
        return run(self._data, topology, pattern, options, params=params, start=at, scoring=scoring)

    def _expansion(self, topology: Topology, start: int, query: Any, direction: str) -> Expansion:
        """Return what walks from a node."""
        neighbours = topology.edges(direction)
        vector = self._query(topology, start) if query is None else as_vector(query, "query", keep_float64=True)
        return Expansion(
            neighbours,
            topology.repeats(direction),
            lambda positions: self._logits(topology, vector, positions),
            lambda numbers: self._data.edge_weights(topology, numbers),
        )

    def _query(self, topology: Topology, start: int) -> Float:
        """Return a node's embedding, to be the query."""
        vector = self._data.vector(topology, start)
        if vector is None:
            raise GraphStructureError(
                f"node {topology.nodes[start]!r} must have an embedding to be the query; pass query=, or set it"
            )
        return vector

    def _logits(self, topology: Topology, query: Float, positions: Positions) -> npt.NDArray[np.float64]:
        """Return the logits of nodes, NaN of those that are skipped."""
        out = np.full(len(positions), np.nan)
        for places, rows in self._data.blocks(topology, positions, len(query)):
            try:
                out[places] = pair_logits(self._type, self._options, query, rows)
            except AttentionError:
                self._refuse(query, rows, [topology.nodes[position] for position in positions[places].tolist()])
                raise
        return out

    def _refuse(self, query: Float, rows: Float, nodes: list[Any]) -> None:
        """Raise the error of the first node whose embedding, or of the query that, cannot be scored by itself."""
        mechanism = self._type.mechanism(self._options)
        for row, name in zip([query, *rows], ["query", *map(name_of, nodes)], strict=True):
            batch = mechanism._check(query, row[None], None, None, False, names=("query", name, "values"))
            mechanism._masked_logits(batch)

    def _hits(
        self,
        topology: Topology,
        visited: Visited,
        found: npt.NDArray[np.intp],
        limit: int | None,
        complete: bool = True,
    ) -> GraphHits:
        """Return visited nodes, best first."""
        order = np.lexsort((visited.positions[found], -visited.logits[found]))
        return GraphHits(self._data, topology, visited, found[order[:limit]], complete)

    def __repr__(self) -> str:
        topology = self.topology
        kind = ("Multi" if topology.multigraph else "") + ("DiGraph" if topology.directed else "Graph")
        options = "".join(f", {name}={value!r}" for name, value in self._options.items())
        count = len(topology.ends[0])
        return f"AttentionGraph({kind} of {len(topology.nodes)} nodes, {count} edges, {self._type.name!r}{options})"
