"""The topology of a graph as arrays: who is next to whom, and by which edge."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, compress, islice
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from attnbridge.errors import GraphStructureError
from attnbridge.validation import as_choice

Positions = npt.NDArray[np.int64]

DIRECTIONS = ("in", "out", "both")

# Dictionaries of parallel edges that are read in one go.
_AT_A_TIME = 256


class Neighbours(NamedTuple):
    """The neighbours of each node, in CSR form.

    Parameters
    ----------
    indptr : ndarray of int64, (n + 1,)
        Node i has the entries indptr[i] up to, but not including, indptr[i + 1].
    indices : ndarray of int64, (m,)
        The position of each entry's neighbour.
    edge_number : ndarray of int64, (m,)
        The number of each entry's edge.
    """

    indptr: Positions
    indices: Positions
    edge_number: Positions


class Topology:
    """Nodes and edges of a graph as they were at one time; nothing of it changes.

    Nodes have positions and edges numbers, in the order in which networkx iterates over them: that of insertion, for
    edges node by node.

    Parameters
    ----------
    nodes : sequence of hashable
    directed : bool
    indptr, indices : ndarray of int64, (n + 1,), (m,)
        The adjacency: of an undirected graph each edge at both its ends, a self loop once.
    keys : list of hashable, optional
        Of a multigraph: each edge's key.
    numbers : ndarray of int64, (m,), optional
        Of a directed graph: the number of each entry's edge, where that is not the order of entries; it is its key too.
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        directed: bool,
        indptr: Positions,
        indices: Positions,
        keys: list[Any] | None = None,
        numbers: Positions | None = None,
    ) -> None:
        self.nodes = tuple(nodes)  # kept with the graph, for all who ask
        self.directed = directed
        self.multigraph = keys is not None or numbers is not None
        self._indptr, self._indices, self._numbers = indptr, indices, numbers
        self._keys = None if keys is None else tuple(keys)

    def __reduce__(self) -> tuple[Any, ...]:
        keys = None if self._keys is None else list(self._keys)
        return Topology, (self.nodes, self.directed, self._indptr, self._indices, keys, self._numbers)

    @cached_property
    def index(self) -> Mapping[Hashable, int]:
        """The position of each node."""
        return MappingProxyType(dict(zip(self.nodes, range(len(self.nodes)), strict=True)))

    def position(self, node: Any) -> int:
        """Return the position of a node.

        Raises
        ------
        networkx.NodeNotFound
        """
        try:
            return self.index[node]
        except (KeyError, TypeError):  # TypeError: not hashable
            import networkx as nx

            raise nx.NodeNotFound(f"node {node!r} is not in the graph") from None

    @cached_property
    def out(self) -> Neighbours:
        """Whom each node leads to; of an undirected graph its neighbours."""
        if self.directed:
            numbers = np.arange(len(self._indices)) if self._numbers is None else self._numbers
        else:
            numbers = _undirected_numbers(self._indptr, self._indices)
        return _fixed(Neighbours(self._indptr, self._indices, numbers))

    @cached_property
    def into(self) -> Neighbours:
        """Who leads to each node."""
        return _fixed(_transposed(self.out)) if self.directed else self.out

    @cached_property
    def both(self) -> Neighbours:
        """Whom each node leads to, then who leads to it; a self loop once."""
        return _fixed(_joined(self.out, _without_loops(self.into))) if self.directed else self.out

    def edges(self, direction: str) -> Neighbours:
        """Return the neighbours along edges of a direction."""
        if as_choice(direction, "direction", DIRECTIONS) == "out":
            return self.out
        return self.into if direction == "in" else self.both

    def repeats(self, direction: str) -> bool:
        """Return whether a node may have a neighbour more than once."""
        return self.multigraph or (self.directed and direction == "both")

    @cached_property
    def ends(self) -> tuple[Positions, Positions]:
        """The positions of each edge's two nodes, (m,) both: from, to."""
        source, target, numbers = _sources(self.out.indptr), self.out.indices, self.out.edge_number
        if not self.directed:
            first = source <= target
            source, target, numbers = source[first], target[first], numbers[first]
        ends = np.empty((2, len(numbers)), np.int64)
        ends[:, numbers] = source, target
        ends.flags.writeable = False
        return ends[0], ends[1]

    @property
    def count(self) -> int:
        """How many edges there are."""
        return len(self.ends[0])

    @cached_property
    def keys(self) -> Sequence[Any] | None:
        """The key of each edge, None of a graph without parallel edges."""
        return self._keys if self._numbers is None else range(len(self._numbers))

    def edge(self, number: int) -> tuple[Any, ...]:
        """Return an edge as networkx names it: (u, v), of a multigraph (u, v, key)."""
        source, target = (self.nodes[end[number]] for end in self.ends)
        return (source, target) if self.keys is None else (source, target, self.keys[number])

    def named(self, numbers: Positions) -> list[tuple[Any, ...]]:
        """Return edges as networkx names them."""
        parts = [[self.nodes[position] for position in end[numbers].tolist()] for end in self.ends]
        if self.keys is not None:
            parts.append([self.keys[number] for number in numbers.tolist()])
        return list(zip(*parts, strict=True))


def of_graph(graph: Any) -> Topology:
    """Return the topology of a networkx graph of any class.

    Raises
    ------
    GraphStructureError
        The graph has changed meanwhile.
    """
    with unchanging():
        adjacency = _plain(graph._adj, graph.is_multigraph())
        try:
            return _read(graph, adjacency)
        except (ValueError, LookupError) as error:  # two passes over the same have not found the same
            if not isinstance(adjacency, dict):  # but a view's filter may have raised it
                raise
            raise changed(f"it changed while it was read ({error})") from error


@contextmanager
def unchanging() -> Iterator[None]:
    """Turn what a dictionary says that another thread changes while it is gone through into an error of the graph.

    Raises
    ------
    GraphStructureError
    """
    try:
        yield
    except RuntimeError as error:
        if "during iteration" not in str(error):
            raise
        raise changed(f"it changed while it was read ({error})") from error


def changed(how: str) -> GraphStructureError:
    """Return the error of a graph that something changes during a call."""
    return GraphStructureError(f"G must not change during a call, {how}; lock it, or pass a copy")


def _read(graph: Any, adjacency: Mapping[Any, Mapping[Any, Any]]) -> Topology:
    nodes = list(adjacency)
    indptr = _starts(adjacency.values(), len(nodes))
    indices = _positions(nodes, chain.from_iterable(adjacency.values()), int(indptr[-1]))
    if not graph.is_multigraph():
        return Topology(nodes, graph.is_directed(), indptr, indices)
    parallel = chain.from_iterable(neighbours.values() for neighbours in adjacency.values())
    once = None if graph.is_directed() else (_sources(indptr) <= indices).tolist()
    first, keys = _parallel_edges(parallel, len(indices), once)
    return Topology(nodes, graph.is_directed(), first[indptr], np.repeat(indices, np.diff(first)), keys)


def _plain(adjacency: Any, multigraph: bool) -> Mapping[Any, Mapping[Any, Any]]:
    """Return an adjacency whose lengths are those of what it is gone through: of a view on a multigraph they need not.

    A view that hides all edges between two nodes counts these as neighbours, and passes over them.
    """
    if isinstance(adjacency, dict) or not multigraph:
        return cast(Mapping[Any, Mapping[Any, Any]], adjacency)
    return {
        node: {other: dict.fromkeys(keys) for other, keys in neighbours.items()}
        for node, neighbours in adjacency.items()
    }


def of_edges(source: Positions, target: Positions, nodes: list[Any]) -> Topology:
    """Return the topology of a directed graph, from the positions of its edges' ends, which are numbered as given."""
    numbers = np.argsort(source, kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(source, minlength=len(nodes))))
    return Topology(nodes, True, indptr, target[numbers], numbers=numbers)


def _fixed(entries: Neighbours) -> Neighbours:
    """Return entries that cannot be written to: all who ask for them get these."""
    for array in entries:
        array.flags.writeable = False
    return entries


def _starts(lists: Iterable[Sized], count: int) -> Positions:
    """Return where each of so many lists begins when they are put behind each other, and where the last one ends."""
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.fromiter(map(len, lists), np.int64, count), out=starts[1:])
    return starts


def _parallel_edges(
    dictionaries: Iterable[Mapping[Any, Any]], count: int, once: list[bool] | None
) -> tuple[Positions, list[Any]]:
    """Return where the edges of each of so many dictionaries by key begin, and the keys of all, or of some of them."""
    sizes: list[int] = []
    keys: list[Any] = []
    rest = iter(dictionaries)
    for start in range(0, count, _AT_A_TIME):  # both are read while a dictionary is in the processor's cache
        part = list(islice(rest, _AT_A_TIME))
        sizes.extend(map(len, part))
        named = part if once is None else compress(part, once[start : start + _AT_A_TIME])
        keys.extend(chain.from_iterable(named))
    return np.append(0, np.cumsum(np.array(sizes, np.int64))), keys


def _positions(nodes: list[Any], neighbours: Iterable[Any], count: int) -> Positions:
    """Return the positions of so many neighbours, which are nodes all."""
    hashes = np.fromiter(map(hash, nodes), np.int64, len(nodes))
    order = np.argsort(hashes)
    ascending = hashes[order]
    if (ascending[1:] == ascending[:-1]).any():  # as those of -1 and -2 are
        index = dict(zip(nodes, range(len(nodes)), strict=True))
        return np.fromiter(map(index.__getitem__, neighbours), np.int64, count)
    # Twice as fast as a dictionary: what has a node's hash is that node, and need not be looked at.
    asked = np.fromiter(map(hash, neighbours), np.int64, count)
    last = (1 << (4 * len(nodes)).bit_length()) - 1
    table = np.zeros(last + 1, np.int64)
    table[hashes & last] = np.arange(len(nodes))
    found: Positions = table[asked & last]
    others = np.flatnonzero(hashes[found] != asked)  # two nodes' hashes end alike
    found[others] = order[np.searchsorted(ascending, asked[others])]
    return found


def _sources(indptr: Positions) -> Positions:
    """Return the position of the node that each entry belongs to."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def _transposed(entries: Neighbours) -> Neighbours:
    """Return the entries by their neighbours; those of one are in the order of their edges' nodes."""
    order = np.argsort(entries.indices, kind="stable")
    counts = np.bincount(entries.indices, minlength=len(entries.indptr) - 1)
    indptr = np.append(0, np.cumsum(counts))
    return Neighbours(indptr, _sources(entries.indptr)[order], entries.edge_number[order])


def _undirected_numbers(indptr: Positions, indices: Positions) -> Positions:
    """Return the number of each entry's edge, where every edge is at both its ends, a loop once.

    An edge has its number where networkx meets it first.
    """
    source = _sources(indptr)
    first = source <= indices
    numbers = np.empty(len(indices), np.int64)
    numbers[first] = np.arange(np.count_nonzero(first))
    ahead, back = np.flatnonzero(source < indices), np.flatnonzero(source > indices)
    # Both in the order of the earlier node, then the later one, then of parallel edges.
    ahead = ahead[np.lexsort((indices[ahead], source[ahead]))]
    back = back[np.lexsort((source[back], indices[back]))]
    if not (np.array_equal(source[ahead], indices[back]) and np.array_equal(indices[ahead], source[back])):
        raise GraphStructureError(
            "edges of an undirected graph must be seen from both ends; the filter of a view must say the same of "
            "(u, v) and (v, u)"
        )
    numbers[back] = numbers[ahead]
    return numbers


def _without_loops(entries: Neighbours) -> Neighbours:
    """Return the entries that lead to another node."""
    kept = _sources(entries.indptr) != entries.indices
    indptr = np.append(0, np.cumsum(kept))[entries.indptr]
    return Neighbours(indptr, entries.indices[kept], entries.edge_number[kept])


def _joined(before: Neighbours, behind: Neighbours) -> Neighbours:
    """Return each node's entries of the one and then of the other."""
    indptr = before.indptr + behind.indptr
    joined = Neighbours(indptr, *np.empty((2, int(indptr[-1])), np.int64))
    for entries, offset in ((before, behind.indptr[:-1]), (behind, before.indptr[1:])):
        places = np.arange(len(entries.indices)) + np.repeat(offset, np.diff(entries.indptr))
        joined.indices[places], joined.edge_number[places] = entries.indices, entries.edge_number
    return joined
