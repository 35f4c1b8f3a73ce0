"""Where an attention graph's topology, embeddings and edge weights come from: a networkx graph, or arrays."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, GraphStructureError, InvalidInputError
from attnbridge.integrations.topology import Positions, Topology, of_edges, of_graph
from attnbridge.validation import Float, as_choice, as_floats, as_matrix, as_number, as_vector, require_finite

MISSING = ("raise", "skip", "zero")

# Bytes of embeddings that are read at a time.
_BLOCK = 64 << 20

# Places in what was asked for, and the embeddings there, one a row.
Block = tuple[npt.NDArray[np.intp], Float]


class _Kept:
    """A topology, kept with the graph that it is of, until networkx clears the graph's cache. Copies begin empty."""

    topology: Topology | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()


def topology_of(graph: Any) -> Topology:
    """Return the topology of a networkx graph, which is read once as long as nodes and edges stay what they are.

    networkx clears a graph's cache with each change, but not that of a view on it; one out of an old pickle has none.
    """
    cache = None if hasattr(graph, "_graph") else getattr(graph, "__networkx_cache__", None)
    if cache is None:
        return of_graph(graph)
    kept: _Kept | None = cache.get("attnbridge")
    if kept is None:  # put there before reading: a change meanwhile takes it away
        kept = cache.setdefault("attnbridge", _Kept())
    if kept.topology is None:
        kept.topology = of_graph(graph)
    return kept.topology


class NetworkxData:
    """Embeddings and weights as attributes of a networkx graph's nodes and edges.

    Parameters
    ----------
    graph : networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
    embedding : hashable
        The nodes' attribute.
    weight : hashable or None
        The edges' attribute.
    missing : {"raise", "skip", "zero"}
    """

    def __init__(self, graph: Any, embedding: Any, weight: Any, missing: str) -> None:
        import networkx as nx

        if not isinstance(graph, nx.Graph):
            raise InvalidInputError(
                f"G must be a networkx graph, got {type(graph).__name__}; arrays go into AttentionGraph.from_arrays"
            )
        self.graph = graph
        self.embedding, self.weight = embedding, weight
        self.missing = as_choice(missing, "missing", MISSING)
        self._require_embeddings()

    def _require_embeddings(self) -> None:
        """Refuse a graph without nodes, or where embeddings are missing that must not."""
        if not len(self.graph):
            raise GraphStructureError("G must have at least one node, got none")
        lacking = (node for node, data in self.graph._node.items() if data.get(self.embedding) is None)
        if self.missing == "raise":
            for node in lacking:
                raise self._lacks(node)
        elif sum(1 for _ in lacking) == len(self.graph):
            raise GraphStructureError(f"G must have a node with attribute {self.embedding!r}, got none")

    def _lacks(self, node: Any) -> GraphStructureError:
        return GraphStructureError(
            f"every node must have attribute {self.embedding!r}, node {node!r} has none; set it, or pass "
            "missing='skip' or 'zero'"
        )

    def topology(self) -> Topology:
        """Return the nodes and edges as they are now."""
        return topology_of(self.graph)

    def vector(self, topology: Topology, position: int) -> Float | None:
        """Return a node's embedding as it is now, None where it has none."""
        node = topology.nodes[position]
        value = self.graph._node[node].get(self.embedding)
        if value is None and self.missing == "raise":
            raise self._lacks(node)
        return None if value is None else as_vector(value, name_of(node), keep_float64=True)

    def blocks(self, topology: Topology, positions: Positions, dim: int) -> Iterator[Block]:
        """Yield the embeddings of nodes as they are now, some at a time; without those that are skipped."""
        size = max(1, _BLOCK // (8 * dim))
        for start in range(0, len(positions), size):
            nodes = [topology.nodes[position] for position in positions[start : start + size].tolist()]
            for places, rows in self._read(nodes, dim):
                yield start + places, rows

    def _read(self, nodes: list[Any], dim: int) -> Iterator[Block]:
        """Yield the embeddings of some nodes, those of one dtype at a time."""
        attributes, name = self.graph._node, self.embedding
        values = [attributes[node].get(name) for node in nodes]
        if {(type(value), getattr(value, "dtype", None)) for value in values} == {(np.ndarray, np.dtype(np.float32))}:
            vectors, places = values, np.arange(len(nodes))
        else:
            there = [self._as_floats(value, node, dim) for value, node in zip(values, nodes, strict=True)]
            places = np.array([i for i, vector in enumerate(there) if vector is not None], np.intp)
            vectors = [vector for vector in there if vector is not None]
        for vector, place in zip(vectors, places.tolist(), strict=True):
            if vector.shape != (dim,):
                as_vector(vector, name_of(nodes[place]))
                raise DimensionMismatchError(
                    f"{name_of(nodes[place])} must have dimension {dim} as the query has, got {len(vector)}"
                )
        kinds = np.array([vector.dtype.itemsize for vector in vectors])
        for kind in np.unique(kinds):
            mine = np.flatnonzero(kinds == kind)
            rows = np.concatenate([vectors[i] for i in mine.tolist()]).reshape(len(mine), dim)
            if not np.isfinite(rows).all():
                row = int(np.argmin(np.isfinite(rows).all(axis=1)))
                require_finite(rows[row], name_of(nodes[places[mine[row]]]))
            yield places[mine], rows

    def _as_floats(self, value: Any, node: Any, dim: int) -> Float | None:
        if value is not None:
            return as_floats(value, name_of(node), keep_float64=True)
        if self.missing == "raise":
            raise self._lacks(node)
        return np.zeros(dim, np.float32) if self.missing == "zero" else None

    def edge_weights(self, topology: Topology, numbers: Positions) -> npt.NDArray[np.float64] | None:
        """Return the weights of edges as they are now, None where all weigh the same."""
        if self.weight is None:
            return None
        weights = np.empty(len(numbers))
        for i, number in enumerate(numbers.tolist()):
            value = self.edge_data(topology, number).get(self.weight, 1.0)
            if type(value) is not float or not 0.0 < value < np.inf:
                edge = topology.edge(number)
                value = as_number(value, f"attribute {self.weight!r} of edge {edge!r}", above=0.0)
            weights[i] = value
        return weights

    def node_data(self, topology: Topology, position: int) -> dict[Any, Any]:
        """Return a node's attributes: the graph's own dictionary, or an empty one where it is gone."""
        data: dict[Any, Any] = self.graph._node.get(topology.nodes[position], {})
        return data

    def edge_data(self, topology: Topology, number: int) -> dict[Any, Any]:
        """Return an edge's attributes: the graph's own dictionary, or an empty one where it is gone."""
        source, *others = topology.edge(number)
        data: Any = self.graph._adj.get(source, {})
        for name in others:  # the other node, and of a multigraph the key
            data = data.get(name, {})
        return cast(dict[Any, Any], data)


class ArrayData:
    """Embeddings as rows, edges as pairs of their numbers.

    Parameters
    ----------
    source, target : ndarray of int64, (m,)
    embeddings : ndarray of float32 or float64, (n, d)
    weight : ndarray of float64, (m,), or None
    """

    def __init__(
        self, source: Positions, target: Positions, embeddings: Float, weight: npt.NDArray[np.float64] | None
    ) -> None:
        self.embeddings, self.weight = embeddings, weight
        self._topology = of_edges(source, target, len(embeddings))

    @cached_property
    def graph(self) -> Any:
        """A frozen MultiDiGraph; the key of an edge is its number."""
        import networkx as nx

        topology = self._topology
        graph = nx.MultiDiGraph()
        graph.add_nodes_from((node, self.node_data(topology, node)) for node in topology.nodes)
        ends = (end.tolist() for end in topology.ends)
        for number, (source, target) in enumerate(zip(*ends, strict=True)):
            graph.add_edge(source, target, number, **self.edge_data(topology, number))
        return nx.freeze(graph)

    def topology(self) -> Topology:
        """Return the nodes and edges."""
        return self._topology

    def vector(self, topology: Topology, position: int) -> Float | None:
        """Return a node's embedding."""
        vector: Float = self.embeddings[position]
        return vector

    def blocks(self, topology: Topology, positions: Positions, dim: int) -> Iterator[Block]:
        """Yield the embeddings of nodes, some at a time."""
        if self.embeddings.shape[1] != dim:
            raise DimensionMismatchError(f"query must have dimension {self.embeddings.shape[1]} as X has, got {dim}")
        size = max(1, _BLOCK // (8 * dim))
        for start in range(0, len(positions), size):
            places = np.arange(start, min(start + size, len(positions)))
            yield places, self.embeddings[positions[places]]

    def edge_weights(self, topology: Topology, numbers: Positions) -> npt.NDArray[np.float64] | None:
        """Return the weights of edges, None where all weigh the same."""
        return None if self.weight is None else self.weight[numbers]

    def node_data(self, topology: Topology, position: int) -> dict[Any, Any]:
        """Return a node's attributes: its embedding."""
        return {"embedding": self.embeddings[position]}

    def edge_data(self, topology: Topology, number: int) -> dict[Any, Any]:
        """Return an edge's attributes: its weight, where there are any."""
        return {} if self.weight is None else {"weight": float(self.weight[number])}


GraphData = NetworkxData | ArrayData


def name_of(node: Any) -> str:
    """Return what errors call a node's embedding."""
    return f"embedding of node {node!r}"


def as_edges(value: Any, count: int) -> tuple[Positions, Positions]:
    """Return the two ends of each edge, of nodes 0 .. count - 1, out of an edge_index (2, m) or a sparse matrix (n, n).

    Raises
    ------
    DimensionMismatchError, GraphStructureError, InvalidInputError
    """
    if hasattr(value, "tocsr"):
        matrix = value.tocsr()
        if matrix.shape != (count, count):
            raise DimensionMismatchError(f"edges must be ({count}, {count}) as X has {count} rows, got {matrix.shape}")
        source = np.repeat(np.arange(count), np.diff(matrix.indptr))
        return source, matrix.indices.astype(np.int64)
    array = np.asarray(value)
    if array.size == 0:
        array = np.empty((2, 0), np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"edges must be whole numbers of rows of X, got dtype {array.dtype}")
    if array.ndim != 2 or len(array) != 2:
        raise DimensionMismatchError(f"edges must be (2, m) or a SciPy matrix, got shape {array.shape}")
    beyond = (array < 0) | (array >= count)
    if beyond.any():
        edge = int(np.argmax(beyond.any(axis=0)))
        ends = tuple(array[:, edge].tolist())
        raise GraphStructureError(f"edges must be between nodes 0 to {count - 1}, edge {edge} is {ends}")
    source, target = array.astype(np.int64)
    return source, target


def as_edge_weights(value: Any, count: int) -> npt.NDArray[np.float64]:
    """Return a weight > 0 for each of so many edges.

    Raises
    ------
    DimensionMismatchError, InvalidInputError
    """
    weights = as_floats(value, "weight", keep_float64=True)
    if weights.shape != (count,):
        raise DimensionMismatchError(f"weight must be ({count},), one for each edge, got shape {weights.shape}")
    require_finite(weights, "weight")
    if (weights <= 0.0).any():
        edge = int(np.argmax(weights <= 0.0))
        raise InvalidInputError(f"weight must be > 0, of edge {edge} it is {weights[edge]:g}; leave the edge out")
    return weights.astype(np.float64)


def as_embeddings(value: Any) -> Float:
    """Return finite rows (n, d), n >= 1.

    Raises
    ------
    DimensionMismatchError, GraphStructureError, InvalidInputError
    """
    rows = as_matrix(value, "X", keep_float64=True)
    if not len(rows):
        raise GraphStructureError("X must have at least one row, got none")
    return rows


def as_positions(value: Any, count: int) -> Positions:
    """Return positions (m,) of 0 to count - 1.

    Raises
    ------
    InvalidInputError
    """
    array = np.asarray(value)
    if array.size == 0:
        array = np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InvalidInputError(f"positions must be whole numbers (m,), got {array.dtype} {array.shape}")
    if len(array) and not 0 <= array.min() <= array.max() < count:
        raise InvalidInputError(f"positions must be 0 to {count - 1}, got {array.min()} to {array.max()}")
    return array.astype(np.int64)
