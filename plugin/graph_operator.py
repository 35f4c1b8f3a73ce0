"""What can be run over a whole graph: layers and attention, by five calls on plain arrays."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidConfigError, InvalidInputError
from attnbridge.graph_edges import (
    InEdges,
    Positions,
    as_edge_features,
    as_edge_weights,
    as_edges,
    as_embeddings,
    by_target,
)
from attnbridge.validation import Float, as_count


class GraphOutput(NamedTuple):
    """What a layer makes of a whole graph.

    Parameters
    ----------
    features : ndarray, (n, out)
        The nodes' new features.
    coefficients : ndarray, (m,) or (m, heads)
        How much of each edge's message its target takes. With added self loops those of the n nodes' loops follow, and
        a given self loop, in place of which they are, has 0.

    Examples
    --------
    >>> import attnbridge as ab
    >>> features, coefficients = ab.ScaledDotProductAttention().graph_forward([[1.0], [3.0]], [[0, 1], [1, 1]])
    >>> features.round(3)
    array([[0.   ],
           [2.995]], dtype=float32)
    >>> coefficients.round(3)
    array([0.002, 0.998], dtype=float32)
    """

    features: Float
    coefficients: Float


class NodeOutput(NamedTuple):
    """What a layer makes of one node.

    Parameters
    ----------
    features : ndarray, (out,)
    coefficients : ndarray, (m,) or (m, heads)
        How much it takes of each message.
    nodes : ndarray of int64, (m,)
        Where each message comes from.

    Examples
    --------
    >>> import attnbridge as ab
    >>> attention = ab.ScaledDotProductAttention()
    >>> attention.forward_neighborhood(1, [[1.0], [3.0]], [[0, 1], [1, 1]]).nodes.tolist()
    [0, 1]
    """

    features: Float
    coefficients: Float
    nodes: Positions


class GraphInput(NamedTuple):
    """A graph as a layer takes it, checked.

    Parameters
    ----------
    X : ndarray of float32 or float64, (n, d)
        C-contiguous.
    edges : InEdges
        In the order of which all that is an edge's comes out.
    edge_attr : ndarray, (m, edge_dim), or None
        In the order of the edges as given, as are the next two.
    edge_weight : ndarray of float64, (m,), or None
    edge_type : sequence of hashable, m long, or None
    """

    X: Float
    edges: InEdges
    edge_attr: Float | None
    edge_weight: npt.NDArray[np.float64] | None
    edge_type: Sequence[Any] | None


class GraphOperator(ABC):
    """A layer over graphs: each node takes messages along the edges that lead to it.

    Attributes
    ----------
    needs_edge_type : bool
        Whether calls must say of which type each edge is.

    Examples
    --------
    >>> import attnbridge as ab
    >>> isinstance(ab.GraphAttention(), ab.GraphOperator)
    True
    """

    needs_edge_type: ClassVar[bool] = False

    @abstractmethod
    def _over(self, graph: GraphInput) -> GraphOutput:
        """Return features and coefficients; the latter in the order of the edges as given."""

    @abstractmethod
    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        """Refuse what the layer has no use for, and what is missing."""

    def graph_forward(
        self,
        X: npt.ArrayLike,  # noqa: N803
        edge_index: Any,
        edge_attr: npt.ArrayLike | None = None,
        *,
        edge_weight: npt.ArrayLike | None = None,
        edge_type: Sequence[Any] | None = None,
    ) -> GraphOutput:
        """Return the nodes' new features, and a coefficient for each edge.

        Parameters
        ----------
        X : array_like, (n, d)
            The nodes' features.
        edge_index : array_like of int, (2, m), or SciPy sparse matrix or array, (n, n)
            Edge i takes a message from node edge_index[0, i] to node edge_index[1, i]; or there is one for each stored
            entry, from row to column. An edge may be there several times.
        edge_attr : array_like, (m, edge_dim), optional
            The edges' features, for layers with an edge_dim.
        edge_weight : array_like, (m,), optional
            Weights > 0 of the edges: factors on what the softmax normalises.
        edge_type : sequence of hashable, m long, optional
            For layers that differ by the edges' type.

        Returns
        -------
        GraphOutput
            float32, or float64 where X is.

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError
        """
        rows = as_embeddings(X)
        source, target = as_edges(edge_index, len(rows), "edge_index")
        return self._checked(rows, source, target, edge_attr, edge_weight, edge_type)

    def sparse_forward(
        self,
        X: npt.ArrayLike,  # noqa: N803
        csr: Any,
        edge_attr: npt.ArrayLike | None = None,
        *,
        edge_weight: npt.ArrayLike | None = None,
        edge_type: Sequence[Any] | None = None,
    ) -> GraphOutput:
        """Return what `graph_forward` does, over the stored entries of a sparse adjacency matrix.

        Parameters
        ----------
        X : array_like, (n, d)
        csr : SciPy sparse matrix or array, (n, n)
            A stored entry at row i, column j is an edge from i to j, as networkx's `to_scipy_sparse_array` has it,
            whatever its value; values that are weights go in as edge_weight=csr.data.
        edge_attr, edge_weight, edge_type : optional
            As `graph_forward` takes them, in the order of the entries in CSR form.

        Returns
        -------
        GraphOutput
            Coefficients in the order of the entries.

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError
        """
        if not hasattr(csr, "tocsr"):
            raise InvalidInputError(
                f"csr must be a SciPy sparse matrix or array, got {type(csr).__name__}; an edge_index goes into "
                "graph_forward"
            )
        return self.graph_forward(X, csr, edge_attr, edge_weight=edge_weight, edge_type=edge_type)

    def forward_with_edges(
        self,
        X: npt.ArrayLike,  # noqa: N803
        edge_index: Any,
        edge_attr: npt.ArrayLike,
        *,
        edge_weight: npt.ArrayLike | None = None,
        edge_type: Sequence[Any] | None = None,
    ) -> GraphOutput:
        """Return what `graph_forward` does where edges must have features.

        Parameters
        ----------
        X, edge_index : array_like
            As `graph_forward` takes them.
        edge_attr : array_like, (m, edge_dim)
        edge_weight, edge_type : optional

        Returns
        -------
        GraphOutput

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError
        """
        if edge_attr is None:
            raise InvalidInputError("edge_attr must be given; graph_forward runs without")
        return self.graph_forward(X, edge_index, edge_attr, edge_weight=edge_weight, edge_type=edge_type)

    def forward_neighborhood(
        self,
        node: int,
        X: npt.ArrayLike,  # noqa: N803
        edge_index: Any,
        edge_attr: npt.ArrayLike | None = None,
        *,
        edge_weight: npt.ArrayLike | None = None,
        edge_type: Sequence[Any] | None = None,
    ) -> NodeOutput:
        """Return what `graph_forward` makes of one node, in time that grows with its neighbours.

        Parameters
        ----------
        node : int
            A row of X.
        X, edge_index, edge_attr, edge_weight, edge_type
            As `graph_forward` takes them.

        Returns
        -------
        NodeOutput
            One coefficient for each edge to the node, in the order of these; with added self loops its own is the last.

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError
        """
        rows = as_embeddings(X)
        place = as_count(node, "node", least=0, most=len(rows) - 1)
        source, target = as_edges(edge_index, len(rows), "edge_index")
        into = np.flatnonzero(target == place)
        attr = None if edge_attr is None else as_edge_features(edge_attr, len(source))[into]
        weight = None if edge_weight is None else as_edge_weights(edge_weight, len(source), "edge_weight")[into]
        kinds = None if edge_type is None else _types(edge_type, len(source))
        return self._star(rows, place, source[into], attr, weight, kinds and [kinds[i] for i in into.tolist()])

    def forward_k_hop(
        self,
        node: int,
        X: npt.ArrayLike,  # noqa: N803
        edge_index: Any,
        k: int = 2,
    ) -> NodeOutput:
        """Return what the layer makes of one node that has an edge from each node at most k steps away.

        Steps go against the edges, as messages come. The node itself is among its neighbours where it has a self loop,
        or the layer adds one. Of edges with features, weights or types there would be none for longer ways.

        Parameters
        ----------
        node : int
            A row of X.
        X, edge_index : array_like
            As `graph_forward` takes them.
        k : int, default 2

        Returns
        -------
        NodeOutput
            One coefficient for each of these nodes, near ones first, then by number.

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidConfigError, InvalidInputError
        """
        rows = as_embeddings(X)
        place = as_count(node, "node", least=0, most=len(rows) - 1)
        hops = as_count(k, "k")
        source, target = as_edges(edge_index, len(rows), "edge_index")
        edges = by_target(source, target, len(rows))
        return self._star(rows, place, _within(edges, place, hops), None, None, None)

    def _star(
        self,
        rows: Float,
        node: int,
        sources: Positions,
        edge_attr: Float | None,
        edge_weight: npt.NDArray[np.float64] | None,
        edge_type: Sequence[Any] | None,
    ) -> NodeOutput:
        """Return what the layer makes of a node with edges from these, alone."""
        others, places = np.unique(np.append(node, sources), return_inverse=True)
        center, ends = int(places[0]), places[1:].astype(np.int64)
        targets = np.full(len(sources), center, np.int64)
        features, coefficients = self._checked(rows[others], ends, targets, edge_attr, edge_weight, edge_type)
        count = len(sources)
        if len(coefficients) > count:  # the loops of all these nodes follow
            coefficients = np.concatenate([coefficients[:count], coefficients[count + center][None]])
            sources = np.append(sources, node)
        return NodeOutput(features[center], coefficients, sources)

    def _checked(
        self, rows: Float, source: Positions, target: Positions, edge_attr: Any, edge_weight: Any, edge_type: Any
    ) -> GraphOutput:
        """Check what the edges have, and run the layer."""
        self._refuse(edge_attr, edge_weight, edge_type)
        count = len(source)
        attr = None if edge_attr is None else as_edge_features(edge_attr, count)
        weight = None if edge_weight is None else as_edge_weights(edge_weight, count, "edge_weight")
        kinds = None if edge_type is None else _types(edge_type, count)
        return self._over(GraphInput(rows, by_target(source, target, len(rows)), attr, weight, kinds))


def _types(value: Any, count: int) -> list[Any]:
    """Return the types of so many edges."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidInputError(f"edge_type must be a sequence with an entry for each edge, got {value!r}")
    kinds = value.tolist() if isinstance(value, np.ndarray) else list(value)
    if len(kinds) != count:
        raise DimensionMismatchError(f"edge_type must have an entry for each of {count} edges, got {len(kinds)}")
    return kinds


def _within(edges: InEdges, node: int, hops: int) -> Positions:
    """Return the nodes at most so many steps against the edges from one, near ones first, then by number.

    The node itself is among them where it has a self loop.
    """
    seen = np.zeros(len(edges.indptr) - 1, np.bool_)
    seen[node] = True
    found, level = [], np.array([node])
    own = edges.sources[edges.indptr[node] : edges.indptr[node + 1]]
    loop = bool((own == node).any())
    for hop in range(hops):
        parts = [edges.sources[edges.indptr[i] : edges.indptr[i + 1]] for i in level.tolist()]
        reached = np.unique(np.concatenate(parts)) if parts else level
        level = reached[~seen[reached]]
        seen[level] = True
        found.append(np.sort(np.append(level, node)) if hop == 0 and loop else level)
        if not len(level):
            break
    return np.concatenate(found)


def refuse_unused(name: str, value: Any, layer: str, remedy: str) -> None:
    """Refuse what a layer has no use for."""
    if value is not None:
        raise InvalidConfigError(f"{name} must be left out with {layer}, which has no use for it; {remedy}")
