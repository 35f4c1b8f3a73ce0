"""Where an attention graph's topology, embeddings and what edges have come from: a networkx graph, or arrays."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from attnbridge.errors import (
    AttentionError,
    DimensionMismatchError,
    GraphStructureError,
    InvalidConfigError,
    InvalidInputError,
)
from attnbridge.integrations.topology import Positions, Topology, changed, of_edges, of_graph, unchanging
from attnbridge.validation import Float, as_choice, as_floats, as_matrix, as_number, as_vector, require_finite

MISSING = ("raise", "skip", "zero")

# Bytes of embeddings that are read at a time.
_BLOCK = 64 << 20

# How often a graph that changes while it is read is read: attributes that are set by networkx count as a change.
_READINGS = 3

# The edges' attribute that holds their type, where nobody says another; and what holds it of arrays.
TYPE = "type"

# Types of embeddings that need no conversion, where all have it.
_AS_THEY_ARE = [{(np.ndarray, np.dtype(kind))} for kind in (np.float32, np.float64)]

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
    readings = 0
    while True:
        readings += 1
        kept: _Kept | None = cache.get("attnbridge")
        if kept is None:  # put there before reading: a change meanwhile takes it away
            kept = cache.setdefault("attnbridge", _Kept())
        topology = kept.topology
        if topology is None:
            topology = kept.topology = of_graph(graph)
        if cache.get("attnbridge") is kept or readings == _READINGS:  # else it may be of half a change
            return topology


class NetworkxData:
    """Embeddings, weights and features as attributes of a networkx graph's nodes and edges.

    Parameters
    ----------
    graph : networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
    embedding : hashable
        The nodes' attribute.
    weight : hashable or None
        The edges' attribute.
    missing : {"raise", "skip", "zero"}
    features : hashable, optional
        The edges' attribute with a vector.
    type_name : hashable, default "type"
        The edges' attribute with their type.
    """

    def __init__(
        self, graph: Any, embedding: Any, weight: Any, missing: str, features: Any = None, type_name: Any = TYPE
    ) -> None:
        import networkx as nx

        if not isinstance(graph, nx.Graph):
            raise InvalidInputError(
                f"G must be a networkx graph, got {type(graph).__name__}; arrays go into AttentionGraph.from_arrays"
            )
        self.graph = graph
        self.embedding, self.weight = as_hashable(embedding, "embedding"), as_hashable(weight, "weight")
        self.features = as_hashable(features, "edge_features")
        self.type_name = as_hashable(type_name, "edge_type")
        self.missing = as_choice(missing, "missing", MISSING)
        self.examples: dict[str, int] = {}  # of types: an edge that had it
        self.looked_for: set[tuple[str, str]] = set()  # labels and types of patterns that matched nothing
        self._require_embeddings()

    def __getstate__(self) -> dict[str, Any]:
        graph = self.graph.copy() if hasattr(self.graph, "_graph") else self.graph  # views' filters cannot be pickled
        return self.__dict__ | {"graph": graph}

    def _require_embeddings(self) -> None:
        """Refuse a graph without nodes, or where embeddings are missing that must not."""
        if not len(self.graph):
            raise GraphStructureError("G must have at least one node, got none")
        if self.missing == "skip":
            return
        with unchanging():
            lacking = (node for node, data in self.graph._node.items() if data.get(self.embedding) is None)
            node = next(lacking, lacking)
        if node is not lacking and not self._has_any():
            raise GraphStructureError(
                f"{self._lack()}, or pass missing='skip' to match patterns without a query, which needs none"
            )
        if node is not lacking and self.missing == "raise":
            raise self._lacks(node)

    def _has_any(self) -> bool:
        with unchanging():
            return any(data.get(self.embedding) is not None for data in self.graph._node.values())

    def require_any(self) -> None:
        """Refuse to score the nodes of a graph where none has an embedding.

        Raises
        ------
        GraphStructureError
        """
        if not self._has_any():
            raise self._lack()

    def _lack(self) -> GraphStructureError:
        return GraphStructureError(f"no node has an embedding, attribute {self.embedding!r}: set it")

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
        (value,) = self._values([node])
        if value is None and self.missing == "raise":
            raise self._lacks(node)
        return None if value is None else as_vector(value, name_of(node), keep_float64=True)

    def matrix(self, topology: Topology, positions: Positions) -> tuple[Float, npt.NDArray[np.bool_]]:
        """Return the embeddings of nodes as they are now, one a row, and which are not skipped; of the others zeros."""
        vectors = ((place, self.vector(topology, place)) for place in positions.tolist())
        place, first = next(((place, vector) for place, vector in vectors if vector is not None), (0, None))
        if first is None:
            self.require_any()
            raise GraphStructureError(
                f"nodes must be some with an embedding, attribute {self.embedding!r}, none has it"
            )
        rows, known = np.zeros((len(positions), len(first)), np.float32), np.zeros(len(positions), np.bool_)
        for places, block in self.blocks(topology, positions, len(first), f"node {topology.nodes[place]!r}"):
            rows = rows.astype(np.result_type(rows, block), copy=False)
            rows[places], known[places] = block, True
        return rows, known

    def blocks(self, topology: Topology, positions: Positions, dim: int, like: str = "the query") -> Iterator[Block]:
        """Yield the embeddings of nodes as they are now, some at a time; without those that are skipped."""
        size = max(1, _BLOCK // (8 * dim))
        for start in range(0, len(positions), size):
            nodes = [topology.nodes[position] for position in positions[start : start + size].tolist()]
            for places, rows in self._read(nodes, dim, like):
                yield start + places, rows

    def _read(self, nodes: list[Any], dim: int, like: str) -> Iterator[Block]:
        """Yield the embeddings of some nodes, those of one dtype at a time."""
        values = self._values(nodes)
        rows = _rows_of_lists(values, dim)
        if rows is not None:
            yield np.arange(len(nodes)), rows
            return
        kinds = {(type(value), getattr(value, "dtype", None)) for value in values}
        if kinds in _AS_THEY_ARE:
            vectors, places = values, np.arange(len(nodes))
        else:
            there = [self._as_floats(value, node, dim) for value, node in zip(values, nodes, strict=True)]
            places = np.array([i for i, vector in enumerate(there) if vector is not None], np.intp)
            vectors = [vector for vector in there if vector is not None]
        for vector, place in zip(vectors, places.tolist(), strict=True):
            if vector.shape != (dim,):
                as_vector(vector, name_of(nodes[place]))
                if like == "the query":
                    self._refuse_query(dim)
                raise DimensionMismatchError(
                    f"{name_of(nodes[place])} must have dimension {dim} as {like} has, got {len(vector)}"
                )
        sizes = np.array([vector.dtype.itemsize for vector in vectors])
        for size in np.unique(sizes):
            mine = np.flatnonzero(sizes == size)
            rows = np.concatenate([vectors[i] for i in mine.tolist()]).reshape(len(mine), dim)
            if not np.isfinite(rows).all():
                row = int(np.argmin(np.isfinite(rows).all(axis=1)))
                require_finite(rows[row], name_of(nodes[places[mine[row]]]))
            yield places[mine], rows

    def _values(self, nodes: list[Any]) -> list[Any]:
        """Return what nodes have as their embeddings now, None where that is nothing."""
        attributes, name = self.graph._node, self.embedding
        try:
            return [attributes[node].get(name) for node in nodes]
        except KeyError as error:
            gone = [node for node in nodes if node not in attributes]
            if not gone:  # a view's filter has raised it
                raise
            raise changed(f"node {gone[0]!r} is gone") from error

    def _refuse_query(self, dim: int) -> None:
        """Raise an error of the query where all embeddings have one dimension, which is another."""
        values = (data.get(self.embedding) for data in self.graph._node.values())
        shapes = {_shape(value) for value in values if value is not None}
        if len(shapes) == 1:
            (shape,) = shapes
            if len(shape) == 1 and shape != (dim,):
                raise DimensionMismatchError(f"query must have dimension {shape[0]} as the embeddings have, got {dim}")

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
        weights = self.edge_values(topology, numbers, self.weight, 1.0)
        for i, value in enumerate(weights):
            if type(value) is not float or not 0.0 < value < np.inf:
                name = f"attribute {self.weight!r} of {_called(topology, int(numbers[i]))}"
                weights[i] = as_number(value, name, above=0.0)
        return np.array(weights, np.float64)

    def edge_values(self, topology: Topology, numbers: Positions, name: Any, default: Any = None) -> list[Any]:
        """Return an attribute of edges as it is now."""
        adjacency, edges = self.graph._adj, topology.named(numbers)
        try:
            if topology.multigraph:
                return [adjacency[u][v][key].get(name, default) for u, v, key in edges]
            return [adjacency[u][v].get(name, default) for u, v in edges]
        except KeyError:  # an edge is gone meanwhile
            return [self.edge_data(topology, number).get(name, default) for number in numbers.tolist()]

    def edge_features(self, topology: Topology) -> Float | None:
        """Return the features of all edges as they are now (m, edge_dim), None where there are none."""
        if self.features is None or not topology.count:
            return None
        values = self.edge_values(topology, np.arange(topology.count), self.features)
        try:
            return as_matrix(_stacked(values), "edge_features", keep_float64=True)
        except (ValueError, AttentionError):
            self._refuse_features(topology, values)
            raise

    def _refuse_features(self, topology: Topology, values: list[Any]) -> None:
        """Raise the error of the first edge whose features are none, or are not as many as the first one's."""
        dim = None
        for number, value in enumerate(values):
            if value is None:
                raise GraphStructureError(
                    f"every edge must have attribute {self.features!r}, {_called(topology, number)} has none; set it"
                )
            vector = as_vector(value, f"attribute {self.features!r} of {_called(topology, number)}", dim=dim)
            dim = len(vector)

    def edge_types(self, topology: Topology) -> list[str]:
        """Return the types of all edges as they are now."""
        types: list[str] = []
        for number, value in enumerate(self.edge_values(topology, np.arange(topology.count), self.type_name)):
            kind = edge_type(value, topology, number)
            if kind is None:
                raise GraphStructureError(
                    f"every edge must have attribute {self.type_name!r}, a text, {_called(topology, number)} has none; "
                    "set it, or name another with AttentionGraph(edge_type=)"
                )
            types.append(kind)
        return types

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
    features : ndarray, (m, edge_dim), optional
    nodes : list of hashable, optional
        What the nodes are called; by default 0 to n - 1.
    attributes : list of dict, optional
        What else each node has.
    types : list of str, m long, optional
        The type of each edge, its attribute "type".
    """

    type_name = TYPE

    def __init__(
        self,
        source: Positions,
        target: Positions,
        embeddings: Float,
        weight: npt.NDArray[np.float64] | None,
        features: Float | None = None,
        nodes: list[Any] | None = None,
        attributes: list[dict[Any, Any]] | None = None,
        types: list[str] | None = None,
    ) -> None:
        self.attributes, self.types = attributes, types
        self.embeddings, self.weight, self.features = embeddings, weight, features
        self._topology = of_edges(source, target, list(range(len(embeddings))) if nodes is None else nodes)
        self.examples: dict[str, int] = {}  # of types: an edge that had it
        self.looked_for: set[tuple[str, str]] = set()  # labels and types of patterns that matched nothing

    @cached_property
    def graph(self) -> Any:
        """A frozen MultiDiGraph; the key of an edge is its number."""
        import networkx as nx

        topology = self._topology
        graph = nx.MultiDiGraph()
        graph.add_nodes_from((node, self.node_data(topology, place)) for place, node in enumerate(topology.nodes))
        for source, target, number in topology.named(np.arange(topology.count)):
            graph.add_edge(source, target, number, **self.edge_data(topology, number))
        return nx.freeze(graph)

    def topology(self) -> Topology:
        """Return the nodes and edges."""
        return self._topology

    def require_any(self) -> None:
        """Return: each node has an embedding."""

    def vector(self, topology: Topology, position: int) -> Float | None:
        """Return a node's embedding."""
        vector: Float = self.embeddings[position]
        return vector

    def matrix(self, topology: Topology, positions: Positions) -> tuple[Float, npt.NDArray[np.bool_]]:
        """Return the embeddings of nodes, one a row, and which are not skipped: all. Of all nodes nothing is copied."""
        every = np.array_equal(positions, np.arange(len(self.embeddings)))
        rows: Float = self.embeddings if every else self.embeddings[positions]
        return rows, np.ones(len(rows), np.bool_)

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

    def edge_values(self, topology: Topology, numbers: Positions, name: Any, default: Any = None) -> list[Any]:
        """Return an attribute of edges."""
        if name == TYPE and self.types is not None:
            return [self.types[number] for number in numbers.tolist()]
        return [self.edge_data(topology, number).get(name, default) for number in numbers.tolist()]

    def edge_features(self, topology: Topology) -> Float | None:
        """Return the features of all edges, None where there are none."""
        return self.features

    def edge_types(self, topology: Topology) -> list[str]:
        """Return the types of all edges, which were given."""
        if self.types is None:
            raise GraphStructureError(
                "edges must have types, these of arrays have none; from_arrays takes them as edge_type="
            )
        return self.types

    def node_data(self, topology: Topology, position: int) -> dict[Any, Any]:
        """Return a node's attributes: its embedding, and what else it has."""
        own = {"embedding": _shown(self.embeddings[position])}
        return own if self.attributes is None else self.attributes[position] | own

    def edge_data(self, topology: Topology, number: int) -> dict[Any, Any]:
        """Return an edge's attributes: its weight, type and features, where there are any."""
        found: dict[Any, Any] = {} if self.weight is None else {"weight": float(self.weight[number])}
        found |= {} if self.types is None else {TYPE: self.types[number]}
        return found if self.features is None else found | {"features": _shown(self.features[number])}


GraphData = NetworkxData | ArrayData


def _rows_of_lists(values: list[Any], dim: int) -> npt.NDArray[np.float32] | None:
    """Return lists of Python's floats as rows, at once; None of anything else, and of what is to be refused."""
    if not values or set(map(type, values)) != {list} or set(map(len, values)) != {dim}:
        return None
    if not set(map(type, chain.from_iterable(values))) <= {float, int}:
        return None
    rows = np.array(values)
    if rows.dtype != np.float64:  # of whole numbers alone, which may be beyond int64
        return None
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.float32)
    return narrow if np.isfinite(narrow).all() else None


def name_of(node: Any) -> str:
    """Return what errors call a node's embedding."""
    return f"embedding of node {node!r}"


def _shown(row: Float) -> Float:
    """Return a row as a view that cannot be written to."""
    view = row.view()
    view.flags.writeable = False
    return view


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of an embedding, that of nothing where it has none."""
    try:
        return np.shape(value)
    except (ValueError, TypeError, RuntimeError):  # of ragged rows, for one
        return ()


def _stacked(values: list[Any]) -> Any:
    """Return arrays of one length as one array, which is quick; anything else as it is."""
    if {type(value) for value in values} != {np.ndarray} or len({value.shape for value in values}) > 1:
        return values
    return np.concatenate(values).reshape(len(values), -1) if values[0].ndim == 1 else values


def _called(topology: Topology, number: int) -> str:
    """Return what errors call an edge."""
    return f"edge {topology.edge(number)!r}"


def edge_type(value: Any, topology: Topology, number: int) -> str | None:
    """Return an edge's type: its attribute, or else, in a multigraph, its key where that is a text."""
    if value is None and topology.keys is not None:
        value = topology.keys[number]
    return str(value) if isinstance(value, str) else None


def as_hashable(value: Any, name: str) -> Any:
    """Return what may be the name of an attribute.

    Raises
    ------
    InvalidConfigError
    """
    try:
        hash(value)
    except TypeError as error:
        raise InvalidConfigError(f"{name} must be an attribute's name, which is hashable, got {value!r}") from error
    return value


def as_types(value: Any, count: int) -> list[str]:
    """Return the types of edges, a text for each.

    Raises
    ------
    DimensionMismatchError, InvalidInputError
    """
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise InvalidInputError(f"edge_type must be a text for each edge, got {value!r}")
    types = value.tolist() if isinstance(value, np.ndarray) else list(value)
    if len(types) != count:
        raise DimensionMismatchError(f"edge_type must have an entry for each of {count} edges, got {len(types)}")
    for number, one in enumerate(types):
        if not isinstance(one, str):
            raise InvalidInputError(f"edge_type must be a text for each edge, of edge {number} it is {one!r}")
    return list(map(str, types))


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
