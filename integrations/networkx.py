"""Attention over networkx graphs, to find what is near a question, along its edges."""

from collections.abc import Sequence
from typing import Any, Self

import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.functional import require_pairwise
from attnbridge.graph_edges import as_edge_features, as_edge_weights, as_edges, as_embeddings
from attnbridge.integrations.graph_data import TYPE, ArrayData, GraphData, NetworkxData, as_types
from attnbridge.integrations.graph_view import GraphView
from attnbridge.integrations.layering import Layering
from attnbridge.integrations.matching import Matching
from attnbridge.integrations.seeding import Seeding
from attnbridge.integrations.walking import Walking
from attnbridge.mechanisms.base import Attention
from attnbridge.scoring import resolve
from attnbridge.validation import as_bool, as_count


class AttentionGraph(Walking, Matching, Layering, Seeding):
    """A graph whose nodes have embeddings, to be walked by attention.

    A node's score is the logit of the query with its embedding. A step from a node goes to one of its neighbours, with
    a weight: the softmax of the scores of all neighbours, each times the weight of the edge, or of all parallel ones.

    Nodes, edges and attributes are those of the graph at the time of a call. Only the adjacency is kept as arrays,
    until networkx says that it has changed; that of a view is read at every call. As with networkx itself, nothing may
    change the graph during a call, such as another thread.

    Parameters
    ----------
    G : networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
        It is not changed.
    embedding : hashable, default "embedding"
        The nodes' attribute with a vector (d,).
    weight : hashable, optional
        An attribute of edges, numbers > 0; 1 where an edge has none, and by default of all. Those of parallel edges are
        added.
    attention : str or Attention, default "gat"
        A name or alias from `attention_types`, or a mechanism; a pairwise one.
    missing : {"raise", "skip", "zero"}, default "raise"
        What becomes of nodes without embedding: an error, or they are never stepped to, or their embedding is zero.
        Zeros are what a query meets: as the query itself, or alone under `embed`, a node without embedding is an error.
        With "skip" no node needs one, and `match` without a query does all that it does; what scores nodes is an error.
    edge_features : hashable, optional
        An attribute of edges with a vector (edge_dim,), which all must have: for layers that `forward` runs.
    edge_type : hashable, default "type"
        The attribute of edges with their type, a text: what `edge_types` of walks, patterns and `HeteroConv` go by. In
        a multigraph an edge without it has its key as type, where that is a text; with None all have.
    **options : object
        Options of the type, as `attention_types` lists them.

    Raises
    ------
    GraphStructureError
        No nodes, or a node without embedding, which is named; without "skip", no node that has one.
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

    >>> nx.set_edge_attributes(G, "road", "by")
    >>> G.edges["home", "north"]["by"] = "rail"
    >>> ab.AttentionGraph(G, edge_type="by").k_hop("home", query=[3.0, 4.0], edge_types="rail").nodes
    ['home', 'north']
    """

    def __init__(
        self,
        G: Any,  # noqa: N803
        embedding: Any = "embedding",
        *,
        weight: Any = None,
        attention: str | Attention = "gat",
        missing: str = "raise",
        edge_features: Any = None,
        edge_type: Any = TYPE,
        **options: Any,
    ) -> None:
        super().__init__(NetworkxData(G, embedding, weight, missing, edge_features, edge_type), attention, options)

    @classmethod
    def from_arrays(
        cls,
        edges: Any,
        X: npt.ArrayLike,  # noqa: N803
        *,
        weight: Any = None,
        attention: str | Attention = "gat",
        edge_features: Any = None,
        edge_type: Sequence[str] | npt.NDArray[Any] | None = None,
        **options: Any,
    ) -> Self:
        """Return an attention graph of nodes 0 to n - 1 with directed edges.

        Parameters
        ----------
        edges : array_like of int, (2, m), or SciPy sparse matrix or array, (n, n)
            Edge i leads from node edges[0, i] to edges[1, i]; or there is one for each stored entry, row to column.
            Entries that a COO matrix has twice are one, as SciPy adds them; those of a CSR matrix are not.
        X : array_like, (n, d)
            The nodes' embeddings, which are copied.
        weight : array_like, (m,), optional
            The weights > 0 of the edges, in their order: of a matrix A in CSR form, A.data.
        attention : str or Attention, default "gat"
            A name or alias from `attention_types`, or a mechanism; a pairwise one.
        edge_features : array_like, (m, edge_dim), optional
            For layers that `forward` runs.
        edge_type : sequence of str, m long, optional
            The types of the edges, in their order: their attribute "type".
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
        >>> typed = ab.AttentionGraph.from_arrays([[0, 0], [1, 2]], [[1.0], [0.5], [0.2]], edge_type=["near", "far"])
        >>> typed.neighborhood(0, edge_types="far").nodes
        [2]
        """
        rows = as_embeddings(X).copy()  # kept
        source, target = (ends.copy() for ends in as_edges(edges, len(rows)))  # kept
        weights = None if weight is None else as_edge_weights(weight, len(source))
        features = (
            None if edge_features is None else as_edge_features(edge_features, len(source), "edge_features").copy()
        )
        types = None if edge_type is None else as_types(edge_type, len(source))
        return cls._of(ArrayData(source, target, rows, weights, features, types=types), attention, options)

    @classmethod
    def from_bridge(
        cls,
        bridge: Any,
        k: int = 16,
        *,
        attention: str | Attention | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Self:
        """Return the neighbour graph of an index: a directed edge from each document to those nearest to it.

        It is a graph of the documents of this moment; later writes do not change it.

        Parameters
        ----------
        bridge : AttentionVectorBridge
            Its ids are the nodes, in order of insertion; their payload is their attributes. Its vectors are the
            embeddings, under metric="cosine" brought to length 1: the bridge's own logits come of queries of length 1.
        k : int, default 16
            How many others each has an edge to, the best first, as the bridge's `search_batch` finds them.
        attention : str or Attention, optional
            A name or alias from `attention_types`; a pairwise one. By default the bridge's, with its options.
        progress : bool, default True
            Show a progress bar where stderr is a terminal.
        **options : object
            Options of the type, in place of the bridge's.

        Returns
        -------
        AttentionGraph

        Raises
        ------
        GraphStructureError
            The bridge is empty.
        InvalidConfigError, InvalidInputError

        Notes
        -----
        Attention is over the vectors alone: under metric="l2", where the bridge scales distances, scaled_dot scales
        products.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]], ids=["east", "between", "north"])
        >>> ag = ab.AttentionGraph.from_bridge(bridge, k=1)
        >>> [ag.edge(number)[:2] for number in range(3)]
        [('east', 'between'), ('between', 'east'), ('north', 'between')]
        """
        from attnbridge.integrations.bridge import AttentionVectorBridge  # which loads what graphs do without
        from attnbridge.integrations.neighbour_graph import neighbour_graph

        if not isinstance(bridge, AttentionVectorBridge):
            raise InvalidInputError(f"bridge must be an AttentionVectorBridge, got {type(bridge).__name__}")
        if attention is None:
            attention, options = bridge._attention.name, bridge._options | options
        require_pairwise(*resolve(attention, options), "a graph's edges", "attention")  # before the search
        data = neighbour_graph(bridge, as_count(k, "k"), as_bool(progress, "progress"))
        return cls._of(data, attention, options)

    @classmethod
    def _of(cls, data: GraphData, attention: str | Attention, options: dict[str, Any]) -> Self:
        made = cls.__new__(cls)
        GraphView.__init__(made, data, attention, options)
        return made
