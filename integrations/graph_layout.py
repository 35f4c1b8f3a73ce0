"""Places for the nodes of a walk: a column for each hop, rows so that edges are short and cross seldom."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# A node in its column, or a place where an edge passes a column in between: ("edge", number, column).
Item = Any

_SWEEPS = 8
_PASSING = 0.45  # rows that a passing edge takes


class Layout(NamedTuple):
    """Where things are, in rows from the top.

    Parameters
    ----------
    columns : list of list of hashable
        The nodes of each column, from the top.
    rows : dict of hashable to float
        Each node's row.
    bends : list of list of (int, float)
        For each edge the columns between its ends, from the left, and the row where it passes them.
    """

    columns: list[list[Hashable]]
    rows: dict[Hashable, float]
    bends: list[list[tuple[int, float]]]

    @property
    def column_of(self) -> dict[Hashable, int]:
        """Each node's column."""
        return {node: number for number, column in enumerate(self.columns) for node in column}


def layered(
    column_of: Mapping[Hashable, int],
    edges: Sequence[tuple[Hashable, Hashable]],
    order: Mapping[Hashable, float],
    heights: Mapping[Hashable, float] | None = None,
) -> Layout:
    """Return a layout of nodes whose columns are known.

    Parameters
    ----------
    column_of : mapping of hashable to int
        Each node's column, 0 to c - 1, none of them empty.
    edges : sequence of (hashable, hashable)
    order : mapping of hashable to float
        What orders nodes that edges do not: the lowest is on top, ties stay as they are given.
    heights : mapping of hashable to float, optional
        How many rows nodes take, of those that take more or less than one.

    Returns
    -------
    Layout

    References
    ----------
    Sugiyama, Tagawa and Toda 1981, Methods for Visual Understanding of Hierarchical System Structures.

    Examples
    --------
    >>> from attnbridge.integrations.graph_layout import layered
    >>> layered({"a": 0, "b": 1, "c": 1}, [("a", "b"), ("a", "c")], {"a": 0.0, "b": 2.0, "c": 1.0}).rows
    {'a': 0.5, 'c': 0.0, 'b': 1.0}
    """
    chains = [_chain(number, edge, column_of) for number, edge in enumerate(edges)]
    columns: list[list[Item]] = [[] for _ in range(1 + max(column_of.values(), default=-1))]
    for node in sorted(column_of, key=order.__getitem__):
        columns[column_of[node]].append(node)
    for chain in chains:
        for item in chain[1:-1]:
            columns[item[2]].append(item)
    before, after = _neighbours(chains)
    columns = _ordered(columns, before, after)
    passing = {item: _PASSING for chain in chains for item in chain[1:-1]}
    rows = _rows(columns, before, after, passing | dict(heights or {}))
    bends = [[(item[2], rows[item]) for item in chain[1:-1]] for chain in chains]
    nodes = [[item for item in column if item not in passing] for column in columns]
    return Layout(nodes, {node: rows[node] for column in nodes for node in column}, bends)


def _chain(number: int, edge: tuple[Hashable, Hashable], column_of: Mapping[Hashable, int]) -> list[Item]:
    """Return what an edge goes through, from left to right; nothing within a column."""
    left, right = sorted(edge, key=column_of.__getitem__)
    if column_of[left] == column_of[right]:
        return []
    return [left, *(("edge", number, column) for column in range(column_of[left] + 1, column_of[right])), right]


def _neighbours(chains: list[list[Item]]) -> tuple[dict[Item, list[Item]], dict[Item, list[Item]]]:
    """Return what each item is joined to in the column before, and in the one after."""
    before: dict[Item, list[Item]] = {}
    after: dict[Item, list[Item]] = {}
    for chain in chains:
        for left, right in pairwise(chain):
            after.setdefault(left, []).append(right)
            before.setdefault(right, []).append(left)
    return before, after


def _ordered(
    columns: list[list[Item]], before: dict[Item, list[Item]], after: dict[Item, list[Item]]
) -> list[list[Item]]:
    """Return columns in an order by the means of their neighbours' places: the first with the fewest crossings.

    They are gone through to the right and back; a tree has no crossings after the first time.
    """
    best, fewest = columns, None
    for _ in range(_SWEEPS):
        columns = list(columns)
        for number in range(1, len(columns)):
            columns[number] = _by_means(columns[number], columns[number - 1], before)
        crossings = sum(_crossings(*pair, after) for pair in pairwise(columns))
        if fewest is None or crossings < fewest:
            best, fewest = list(columns), crossings
        if not fewest:
            break
        for number in range(len(columns) - 2, -1, -1):
            columns[number] = _by_means(columns[number], columns[number + 1], after)
    return best


def _by_means(column: list[Item], other: list[Item], joined: dict[Item, list[Item]]) -> list[Item]:
    """Return a column by the mean places of what its items are joined to; the others keep their share of the way."""
    place = {item: (i + 0.5) / len(other) for i, item in enumerate(other)}
    means = {
        item: float(np.mean([place[one] for one in joined[item]])) if item in joined else (i + 0.5) / len(column)
        for i, item in enumerate(column)
    }
    return sorted(column, key=means.__getitem__)


def _crossings(left: list[Item], right: list[Item], after: dict[Item, list[Item]]) -> int:
    """Return how many edges between two columns cross."""
    places = {item: place for place, item in enumerate(right)}
    ends = np.array([(i, places[one]) for i, item in enumerate(left) for one in after.get(item, [])]).reshape(-1, 2)
    before = np.sign(ends[:, None] - ends[None])
    return int(np.count_nonzero(before.prod(axis=2) < 0)) // 2


def _rows(
    columns: list[list[Item]], before: dict[Item, list[Item]], after: dict[Item, list[Item]], heights: dict[Item, float]
) -> dict[Item, float]:
    """Return a row for each item: near the mean of its neighbours' rows, at a distance from the next one."""
    offsets = [_offsets(column, heights) for column in columns]
    rows: dict[Item, float] = {}
    for column, offset in zip(columns, offsets, strict=True):
        rows.update(zip(column, (offset - offset[-1] / 2).tolist(), strict=True))
    to_right, to_left = range(len(columns)), range(len(columns) - 1, -1, -1)
    for number in [*to_right, *to_left] * _SWEEPS:
        column = columns[number]
        wanted = [
            np.mean([rows[one] for one in joined]) if joined else rows[item]
            for item in column
            for joined in [before.get(item, []) + after.get(item, [])]
        ]
        rows.update(zip(column, _spaced(np.array(wanted), offsets[number]).tolist(), strict=True))
    top = min(rows.values(), default=0.0)
    return {item: round(row - top, 6) for item, row in rows.items()}


def _offsets(column: list[Item], heights_of: dict[Item, float]) -> npt.NDArray[np.float64]:
    """Return the least distance of each item of a column from the first."""
    heights = np.array([heights_of.get(item, 1.0) for item in column])
    return np.append(0.0, np.cumsum((heights[1:] + heights[:-1]) / 2))


def _spaced(wanted: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the rows closest to those wanted that keep the order and the distances (isotonic regression)."""
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(wanted - offsets).x + offsets)
