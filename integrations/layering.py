"""Attention over a whole graph at once: layers, embeddings of subgraphs, ranks."""

from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import GraphStructureError, InvalidConfigError
from attnbridge.functional import attention
from attnbridge.graph_operator import GraphInput, GraphOperator, GraphOutput
from attnbridge.integrations.expansion import log_softmax
from attnbridge.integrations.graph_snapshot import GraphSnapshot, Messages, messages, spread
from attnbridge.integrations.graph_view import GraphView
from attnbridge.integrations.pagerank import personalised_pagerank
from attnbridge.integrations.topology import DIRECTIONS, Positions, Topology
from attnbridge.validation import Float, as_choice, as_count, as_number, as_vector

_KEPT = "_snapshot"

# A walk goes from source to target where messages come "in", along the edges.
AGAINST = {"in": "out", "out": "in", "both": "both"}


class Layering(GraphView):
    """What an `AttentionGraph` computes of all its nodes."""

    def forward(self, layer: GraphOperator | None = None, *, direction: str = "in") -> GraphOutput:
        """Return what a layer makes of all nodes at once, and a coefficient for each edge.

        Embeddings and what edges have are read when a layer first needs them, and kept: what is changed in place is
        seen after `refresh`, or once nodes or edges come or go. Views, of which networkx does not tell, are read anew.

        Parameters
        ----------
        layer : GraphOperator, optional
            A layer such as `GATConv`, or an attention mechanism. By default the graph's own attention, with each node's
            embedding as query over those it takes messages from.
        direction : {"in", "out", "both"}, default "in"
            Messages go along the edges, against them, or both ways; in an undirected graph always both ways.

        Returns
        -------
        GraphOutput
            Features (n, out) in the order of `nodes`, and coefficients in that of `edge_index(direction)`; where the
            layer adds self loops, those of the n nodes follow. A node that is skipped has features of 0, and its edges
            coefficients of 0. Each of parallel edges is one of its own.

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidInputError
            A node's embedding or an edge's feature or type that cannot be; it is named.
        InvalidConfigError
            A layer that has no use for edge weights where the graph has some, or needs edge features where it has none.

        References
        ----------
        Velickovic et al. 2018, Graph Attention Networks, equations 1 to 4.

        Examples
        --------
        >>> import attnbridge as ab
        >>> edges, X = [[0, 2, 2], [1, 1, 0]], [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
        >>> output = ab.AttentionGraph.from_arrays(edges, X).forward()
        >>> output.coefficients.round(4)
        array([3.000e-04, 9.997e-01, 1.000e+00], dtype=float32)
        >>> output.features.round(2)
        array([[0.6, 0.8],
               [0.6, 0.8],
               [0. , 0. ]], dtype=float32)
        """
        own = self._mechanism or self._type.mechanism(self._options)
        operator: Any = own if layer is None else layer
        if not isinstance(operator, GraphOperator):
            raise InvalidConfigError(f"layer must be a GraphOperator such as GATConv(...), got {operator!r}")
        snapshot = self._current()
        wiring = snapshot.wiring(direction)
        rows, known = snapshot.embeddings
        attr, weight, kinds = _of_edges(snapshot, operator, wiring.messages)
        _require_use(operator, attr, weight, kinds)
        return spread(operator._over(GraphInput(rows, wiring.edges, attr, weight, kinds)), wiring, known)

    def edge_index(self, direction: str = "in") -> Positions:
        """Return the edges that the coefficients of `forward` belong to.

        Parameters
        ----------
        direction : {"in", "out", "both"}, default "in"

        Returns
        -------
        ndarray of int64, (2, M)
            Positions of nodes: a message goes from the first to the second. "in": column i is edge number i, which are
            numbered in the order of `G.edges`; "out": the same, turned round. "both", and of an undirected graph: the
            edges in their order, then the reverse of each that is not a self loop.

        Raises
        ------
        InvalidConfigError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ag = ab.AttentionGraph.from_arrays([[0, 1], [1, 1]], [[1.0], [2.0]])
        >>> ag.edge_index("both").tolist()
        [[0, 1, 1], [1, 1, 0]]
        """
        found = messages(self.topology, direction)
        return np.stack([found.source, found.target])

    def refresh(self) -> None:
        """Have `forward` read embeddings and what edges have anew.

        The arrays given to `from_arrays` were copied: what is changed in them since is not seen.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph([("a", "b")])
        >>> nx.set_node_attributes(G, {"a": [1.0, 2.0], "b": [0.0, 1.0]}, "embedding")
        >>> ag = ab.AttentionGraph(G)
        >>> ag.forward().features.tolist()
        [[0.0, 0.0], [1.0, 2.0]]
        >>> G.nodes["a"]["embedding"] = [5.0, 5.0]
        >>> ag.refresh()
        >>> ag.forward().features.tolist()
        [[0.0, 0.0], [5.0, 5.0]]
        """
        self.__dict__.pop(_KEPT, None)

    def embed(self, nodes: Any = None) -> Float:
        """Return one embedding of a subgraph: attention over its nodes' embeddings, with their mean as query.

        Parameters
        ----------
        nodes : hashable or iterable of hashable, optional
            A node or several; one that is there twice counts once. By default all.

        Returns
        -------
        ndarray, (d,)
            softmax(logits of mean(E) with E) E, of the embeddings E as they are now; nodes that are skipped are not
            among them.

        Raises
        ------
        networkx.NodeNotFound
        DimensionMismatchError, GraphStructureError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ag = ab.AttentionGraph.from_arrays([[0], [1]], [[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]])
        >>> ag.embed([0, 1]).round(3)
        array([1. , 0.1], dtype=float32)
        >>> ag.embed().round(3)
        array([0.99 , 0.148], dtype=float32)
        """
        topology = self.topology
        positions = _positions(topology, nodes)
        if not len(positions):
            raise GraphStructureError("nodes must be at least one node, got none")
        rows, known = self._data.matrix(topology, positions)
        rows = rows[known]
        query = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        out: Float = attention(query, rows, rows, self._type.name, max_keys=len(rows), **self._options)
        return out

    def pagerank(
        self,
        query: npt.ArrayLike,
        alpha: float = 0.85,
        *,
        direction: str = "out",
        max_iter: int = 100,
        tol: float = 1e-6,
    ) -> dict[Any, float]:
        """Return the PageRank of each node, personalised by the attention of a query over all nodes.

        Parameters
        ----------
        query : array_like, (d,)
        alpha : float, default 0.85
            The probability that a walk goes on along an edge, and does not begin anew: at a node with the probability
            that is its attention weight. Without an edge to go along it begins anew, too.
        direction : {"in", "out", "both"}, default "out"
            In which direction edges are gone; the same for an undirected graph.
        max_iter : int, default 100
        tol : float, default 1e-6
            Ends when the sum of all changes is below this times the number of nodes.

        Returns
        -------
        dict of hashable to float
            Sums to 1. Nodes that are skipped have no attention, but may be walked through.

        Raises
        ------
        networkx.PowerIterationFailedConvergence
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError

        References
        ----------
        Page et al. 1999, The PageRank Citation Ranking, section 6; the same numbers as of
        `networkx.pagerank` with the attention weights as personalization.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.path_graph(3)
        >>> nx.set_node_attributes(G, {0: [1.0, 0.0], 1: [0.0, 1.0], 2: [-1.0, 0.0]}, "embedding")
        >>> ranks = ab.AttentionGraph(G).pagerank([1.0, 0.0])
        >>> {node: round(rank, 3) for node, rank in ranks.items()}
        {0: 0.345, 1: 0.459, 2: 0.195}
        """
        share = as_number(alpha, "alpha", least=0.0, most=1.0)
        rounds, change = as_count(max_iter, "max_iter"), as_number(tol, "tol", above=0.0)
        as_choice(direction, "direction", DIRECTIONS)
        topology = self.topology
        chance = self._shares(topology, as_vector(query, "query", keep_float64=True))
        along = messages(topology, AGAINST[direction])
        weights = self._data.edge_weights(topology, np.arange(topology.count))
        ranks = personalised_pagerank(
            along.source,
            along.target,
            None if weights is None else weights[along.numbers],
            chance,
            share,
            rounds,
            change,
        )
        return dict(zip(topology.nodes, ranks.tolist(), strict=True))

    def _shares(self, topology: Topology, query: Float) -> npt.NDArray[np.float64]:
        """Return the attention weight of each node under a query."""
        self._data.require_any()
        logits = self._logits(topology, query, np.arange(len(topology.nodes)))
        known = ~np.isnan(logits)
        shares = np.zeros(len(logits))
        shares[known] = np.exp(log_softmax(np.zeros(np.count_nonzero(known), np.int64), logits[known]))
        return shares

    # ---- the snapshot

    def _current(self) -> GraphSnapshot:
        """Return what is kept of the graph as long as its nodes and edges are those of now."""
        topology = self.topology
        kept: GraphSnapshot | None = self.__dict__.get(_KEPT)
        if kept is not None and kept.topology is topology:
            return kept
        self.refresh()
        # Put there before it is read: what a refresh meanwhile takes away does not come back.
        fresh: GraphSnapshot = self.__dict__.setdefault(_KEPT, GraphSnapshot(self._data, topology))
        return fresh

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != _KEPT}


def _of_edges(
    snapshot: GraphSnapshot, operator: GraphOperator, along: Messages
) -> tuple[Float | None, npt.NDArray[np.float64] | None, list[str] | None]:
    """Return features, weights and types of messages: what the graph has, and the layer has a use for."""
    attr = None
    dim: int | None = getattr(operator, "edge_dim", None)
    if dim is not None:
        features = snapshot.edge_features
        if features is not None:
            attr = features[along.numbers]
        elif not snapshot.topology.count:
            attr = np.zeros((0, dim), np.float32)
        else:
            raise InvalidConfigError(
                f"layer must be without edge_dim where edges have no features, got edge_dim={dim}; AttentionGraph with "
                "edge_features= has some"
            )
    weights = snapshot.edge_weights
    kinds = along.each(snapshot.edge_types) if operator.needs_edge_type else None
    return attr, None if weights is None else weights[along.numbers], kinds


def _require_use(
    operator: GraphOperator, attr: Float | None, weight: npt.NDArray[np.float64] | None, kinds: list[str] | None
) -> None:
    """Refuse a layer that has no use for what the edges have."""
    operator._refuse(attr, None, kinds)
    try:
        operator._refuse(attr, weight, kinds)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{error}; AttentionGraph without weight= has none") from error


def _positions(topology: Topology, nodes: Any) -> Positions:
    """Return the positions of a node or several, ascending, each once."""
    if nodes is None:
        return np.arange(len(topology.nodes))
    try:
        return np.array([topology.index[nodes]])
    except (KeyError, TypeError):  # TypeError: not hashable
        pass
    several = [nodes] if isinstance(nodes, str) or not hasattr(nodes, "__iter__") else nodes
    return np.unique(np.array([topology.position(node) for node in several], np.int64))
