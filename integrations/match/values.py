"""Values of expressions: openCypher's comparisons, with null as a third truth value, and its order.

null is None. Attributes of a graph may hold anything: numpy's numbers count as Python's, arrays, tuples, sets and other
collections as lists, and what has no place in openCypher (dates, say) compares as Python does.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sized
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np


class Node(NamedTuple):
    """A node, by its position."""

    position: int


class Edge(NamedTuple):
    """A relationship, by its number."""

    number: int


class Path(NamedTuple):
    """A path: positions of nodes, and numbers of the edges between them."""

    nodes: tuple[int, ...]
    edges: tuple[int, ...]


_ENTRIES = 1024  # of a list that are compared between two looks at the clock
_PLAIN = frozenset((str, int, float, bool, type(None), Node, Edge, Path, list))
_NO_LISTS = (str, bytes, bytearray, memoryview, Mapping)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def plain(value: Any) -> Any:
    """Return an attribute's or parameter's value as expressions take it."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    return listed(value) if isinstance(value, Sized) else value  # an iterator would be used up


def listed(value: Any) -> Any:
    """Return what can be gone through as a list of Python's values; texts, mappings and single values as they are."""
    if isinstance(value, _NO_LISTS) or not isinstance(value, Iterable):
        return value
    for name in ("tolist", "to_pylist"):  # as numpy and pandas, and as pyarrow call it
        if hasattr(value, name):
            return getattr(value, name)()
    return list(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a number; true and false are none."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def equal(left: Any, right: Any) -> bool | None:
    """Return whether two values are equal, None where that is not known."""
    left, right = plain(left), plain(right)
    if left is None or right is None:
        return None
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Node | Edge | Path) or isinstance(right, Node | Edge | Path):
        return type(left) is type(right) and left == right
    if isinstance(left, list) and isinstance(right, list):
        return all_of([equal(a, b) for a, b in zip(left, right, strict=True)]) if len(left) == len(right) else False
    try:
        return bool(left == right)
    except (TypeError, ValueError):
        return False


def compare(sign: str, left: Any, right: Any) -> bool | None:
    """Return a comparison of two values, None where either is null or they have no order."""
    if sign == "=":
        return equal(left, right)
    if sign == "<>":
        return negated(equal(left, right))
    left, right = plain(left), plain(right)
    if left is None or right is None or isinstance(left, bool) != isinstance(right, bool):
        return None
    if isinstance(left, Node | Edge | Path | dict) or isinstance(right, Node | Edge | Path | dict):
        return None
    try:
        found = _OPERATORS[sign](left, right)
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, bool) else None


def contained(value: Any, values: Any, look: Callable[[], None]) -> bool | None:
    """Return whether a value is in a list, None where that is not known.

    A list may be long: `look` is called now and then, to raise where the time is over.
    """
    values = plain(values)
    if not isinstance(values, list):
        return None
    found: bool | None = False
    for start in range(0, len(values), _ENTRIES):
        look()
        found = any_of([found, *(equal(value, entry) for entry in values[start : start + _ENTRIES])])
        if found:
            break
    return found


def negated(value: bool | None) -> bool | None:
    """Return NOT."""
    return None if value is None else not value


def all_of(values: list[bool | None]) -> bool | None:
    """Return AND."""
    return False if False in values else None if None in values else True


def any_of(values: list[bool | None]) -> bool | None:
    """Return OR."""
    return True if True in values else None if None in values else False


def odd_of(values: list[bool | None]) -> bool | None:
    """Return XOR."""
    return None if None in values else sum(map(bool, values)) % 2 == 1


def order_key(value: Any) -> tuple[Any, ...]:
    """Return what values are ordered by, across types: null is last. Equal keys make values equal to DISTINCT."""
    value = plain(value)
    if value is None:
        return (9,)
    if isinstance(value, Node | Edge | Path):
        return (1 if isinstance(value, Node) else 2 if isinstance(value, Edge) else 4, *value)
    if isinstance(value, list):
        return (3, tuple(map(order_key, value)))
    if isinstance(value, str | bool):
        return (5 if isinstance(value, str) else 6, value)
    if is_number(value):
        return (7, value) if value == value else (8,)  # NaN is not equal to itself
    try:
        hash(value)
        if isinstance(value < value, bool):
            return (0, type(value).__name__, value)
    except Exception:  # noqa: BLE001 - an attribute's own comparison may raise anything
        pass
    return (0, type(value).__name__, repr(value))
