"""Which edges and nodes a walk may take."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.integrations.clock import Clock
from attnbridge.integrations.graph_data import GraphData, edge_type
from attnbridge.integrations.topology import Positions, Topology
from attnbridge.labels import some_of

Passing = npt.NDArray[np.bool_]

_BEGIN, _PIECE = 64, 4096  # edges that are read at a time to find one of a type: first, then at most
_SHARE = 0.2  # of a time budget, to find one of each type


class Filters(NamedTuple):
    """Which edges and nodes a walk may take, checked.

    Parameters
    ----------
    edge_types : frozenset of str or None
    node_filter : callable or None
        (node) -> bool.
    edge_filter : callable or None
        (u, v) -> bool, of a multigraph (u, v, key).
    """

    edge_types: frozenset[str] | None = None
    node_filter: Callable[[Any], Any] | None = None
    edge_filter: Callable[..., Any] | None = None


def as_filters(edge_types: Any = None, node_filter: Any = None, edge_filter: Any = None) -> Filters:
    """Return filters, or say what they must be.

    Raises
    ------
    InvalidConfigError
    """
    types = None if edge_types is None else _as_types(edge_types)
    for value, name, takes in ((node_filter, "node_filter", "(node)"), (edge_filter, "edge_filter", "(u, v)")):
        if value is not None and not callable(value):
            raise InvalidConfigError(f"{name} must be a function, {takes} -> bool, got {value!r}")
    return Filters(types, node_filter, edge_filter)


def _as_types(value: Any) -> frozenset[str]:
    types = [value] if isinstance(value, str) else value
    if not isinstance(types, list | tuple | set | frozenset) or not types or not all(isinstance(t, str) for t in types):
        raise InvalidConfigError(f"edge_types must be a text or a list of texts, at least one, got {value!r}")
    return frozenset(map(str, types))


def _as_truth(said: Any, name: str, one: tuple[Any, ...]) -> bool:
    """Return what a filter says of a node or an edge, which may be anything that is true or false."""
    try:
        return bool(said)
    except (ValueError, TypeError) as error:  # as arrays and data frames have it
        raise InvalidInputError(
            f"{name} must return True or False, of {', '.join(map(repr, one))} it returned {type(said).__name__} "
            f"{said!r:.60}; reduce it with .all() or .any()"
        ) from error


class Allowed:
    """Filters at work on a graph, with attributes as they are now.

    Parameters
    ----------
    filters : Filters
    data : GraphData
    topology : Topology
    clock : Clock

    Raises
    ------
    InvalidConfigError
        No edge has a type that is asked for. With a time budget edges are looked through for a fifth of it only.
    """

    def __init__(self, filters: Filters, data: GraphData, topology: Topology, clock: Clock) -> None:
        self._filters, self._data, self._topology, self._clock = filters, data, topology, clock
        if filters.edge_types is not None:
            self._require_known(filters.edge_types)

    def edges(self, numbers: Positions) -> Passing | None:
        """Return which edges may be taken, None for all.

        Raises
        ------
        Expired
        """
        types, passes = self._filters.edge_types, self._filters.edge_filter
        passing = None
        if types is not None:
            found = self._types(numbers)
            passing = np.fromiter((one in types for one in found), np.bool_, len(numbers))
        if passes is not None:
            left = np.arange(len(numbers)) if passing is None else np.flatnonzero(passing)
            passing = np.zeros(len(numbers), np.bool_)
            passing[left] = self._told("edge_filter", passes, self._topology.named(numbers[left]))
        return passing

    def nodes(self, positions: Positions) -> Passing | None:
        """Return which nodes may be stepped to, None for all.

        Raises
        ------
        Expired
        """
        passes = self._filters.node_filter
        if passes is None:
            return None
        nodes = self._topology.nodes
        return self._told("node_filter", passes, [(nodes[position],) for position in positions.tolist()])

    def _told(self, name: str, passes: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> Passing:
        """Return what a function says of each, with a look at the clock before each call: it may be slow."""
        told = np.empty(len(arguments), np.bool_)
        for i, one in enumerate(arguments):
            if self._clock.limited:
                self._clock.check()
            said = passes(*one)
            told[i] = said if said is True or said is False else _as_truth(said, name, one)
        return told

    def _types(self, numbers: Positions) -> Iterable[str | None]:
        """Return the types of edges."""
        topology = self._topology
        values = self._data.edge_values(topology, numbers, self._data.type_name)
        if all(type(value) is str for value in values):
            return values
        return [edge_type(value, topology, number) for value, number in zip(values, numbers.tolist(), strict=True)]

    def _require_known(self, wanted: Iterable[str]) -> None:
        """Refuse types that no edge has.

        One edge of each type is remembered, and looked at again: as long as it has that type, the others need not be.
        """
        examples, count = self._data.examples, len(self._topology.ends[0])
        at = {one: examples[one] for one in wanted if examples.get(one, count) < count}
        met = self._types(np.array(list(at.values()), np.int64))
        missing = set(wanted) - {one for one, now in zip(at, met, strict=True) if one == now}
        known: dict[str, int] = {}
        start, size, clock = 0, _BEGIN, self._clock.part(_SHARE)
        while missing and start < count and not clock.expired:
            numbers = np.arange(start, min(start + size, count))
            for one, number in zip(self._types(numbers), numbers.tolist(), strict=True):
                if one is not None and one not in known:
                    known[one] = number
            missing -= known.keys()
            start, size = start + size, min(2 * size, _PIECE)
        examples.update((one, known[one]) for one in wanted if one in known)
        if missing and start >= count:
            none = f"none: no edge has a text as attribute {self._data.type_name!r}, edge_type= names another"
            raise InvalidConfigError(
                f"edge_types must be types that edges have, got {', '.join(map(repr, sorted(missing)))}; "
                f"known are {some_of(known) or none}"
            )
