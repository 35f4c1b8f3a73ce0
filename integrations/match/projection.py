"""From rows to what RETURN gives: columns, DISTINCT, count, ORDER BY, SKIP and LIMIT."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from attnbridge.integrations.clock import Clock, Expired
from attnbridge.integrations.match.compiler import Compiler, Layout
from attnbridge.integrations.match.elements import Elements, is_aggregate
from attnbridge.integrations.match.reader import Reader
from attnbridge.integrations.match.search import Scored
from attnbridge.integrations.match.syntax import Call, Expression, Literal, Parameter
from attnbridge.integrations.match.values import order_key
from attnbridge.validation import as_count

Values = tuple[Any, ...]
Entry = tuple[Scored | None, Values]  # what a row of the result was found as, and its values


_LATE = 0.1  # of a time budget, for the columns of rows that had to be sorted first


class FoundRows(Protocol):
    """Rows, and whether they come in another order than that of their values."""

    unsorted: bool

    def __iter__(self) -> Iterator[Scored]:
        """Return them."""


class Projection:
    """RETURN over rows of one layout.

    Parameters
    ----------
    elements : Elements
    reader : Reader
    layout : dict of int to Slot
    budget : float, optional
        Seconds from now for finding rows and evaluating them, which is done as each is found. Rows that are not done by
        then are left out, and `complete` is False.

    Raises
    ------
    InvalidConfigError
        SKIP or LIMIT by a parameter that is no whole number >= 0.
    """

    def __init__(self, elements: Elements, reader: Reader, layout: Layout, budget: float | None = None) -> None:
        self.elements, self.reader, self.layout, self.budget = elements, reader, layout, budget
        self.returns = elements.returns
        self.complete, self.clock = True, Clock(budget)
        self.expressions = [column.expression for column in self.returns.columns]
        self.grouped = any(is_aggregate(expression) for expression in self.expressions)
        self.skip = self._count(self.returns.skip, "SKIP") or 0
        self.limit = self._count(self.returns.limit, "LIMIT")

    def entries(self, rows: FoundRows) -> list[Entry]:
        """Return the rows of the result; no more of the given ones are looked at than it takes."""
        stop = None if self.limit is None else min(self.skip + self.limit, sys.maxsize)  # no list is longer
        found = iter(rows)
        sorting = bool(self.returns.order) or rows.unsorted
        early = None if sorting else stop
        if self.grouped:
            return self._ordered(self._groups(found, rows.unsorted))[self.skip : stop]
        if self.returns.distinct:
            return self._ordered(self._distinct(found, rows.unsorted, early))[self.skip : stop]
        if not sorting:
            return [*self._evaluated(self.expressions, itertools.islice(found, min(self.skip, sys.maxsize), stop))]
        keys = [key.expression for key in self.returns.order]
        now = [*self.expressions, *keys] if stop is None else keys
        ready: list[tuple[Scored, Values]] = list(self._evaluated(now, found))
        if rows.unsorted:
            ready.sort(key=lambda one: one[0].row)
        ready = [ready[rank] for rank in self._ranks([values[len(values) - len(keys) :] for _, values in ready])]
        if stop is None:
            return [(one, values[: len(self.expressions)]) for one, values in ready[self.skip :]]
        late = Clock(None if self.budget is None else _LATE * self.budget)
        return list(self._evaluated(self.expressions, (one for one, _ in ready[self.skip : stop]), late))

    def _count(self, given: Expression | None, name: str) -> int | None:
        if isinstance(given, Parameter):
            value = self.elements.params[given.name]
            large = isinstance(value, int | np.integer) and value > sys.maxsize  # literals may be
            return sys.maxsize if large else as_count(value, f"{name} {given}", least=0)
        if given is None:
            return None
        assert isinstance(given, Literal)
        assert isinstance(given.value, int)
        return given.value

    def _evaluated(
        self, expressions: Iterable[Expression], rows: Iterable[Scored], clock: Clock | None = None
    ) -> Iterator[tuple[Scored, Values]]:
        """Yield rows with the values of expressions: the first ones only where the time is over."""
        clock = self.clock if clock is None else clock
        compiler = Compiler(self.elements, self.reader, self.layout, clock)
        columns = [compiler.value(expression) for expression in expressions]
        try:
            for found in rows:
                clock.check()
                yield found, tuple([column(found.row) for column in columns])
        except Expired:
            self.complete = False

    def _distinct(self, rows: Iterable[Scored], unsorted: bool, most: int | None) -> list[Entry]:
        """Return the first row of those with the same values."""
        groups: dict[Values, tuple[Scored, Values]] = {}
        if most == 0:
            return []
        for found, values in self._evaluated(self.expressions, rows):
            key = tuple(map(order_key, values))
            if key not in groups or (unsorted and found.row < groups[key][0].row):
                groups[key] = found, values
                if len(groups) == most:
                    break
        firsts = list(groups.values())
        if unsorted:
            firsts.sort(key=lambda one: one[0].row)
        return list(firsts)

    def _groups(self, rows: Iterable[Scored], unsorted: bool) -> list[Entry]:
        """Return a row for each combination of the columns that do not count, with the counts."""
        counts = [one if is_aggregate(one) else None for one in self.expressions]
        asked = [one if count is None else _counted(count) for one, count in zip(self.expressions, counts, strict=True)]
        groups: dict[Values, _Group] = {}
        for found, values in self._evaluated(asked, rows):
            key = tuple(order_key(value) for value, count in zip(values, counts, strict=True) if count is None)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(found, values, counts)
            elif unsorted and found.row < group.first.row:
                group.first, group.values = found, values
            group.add(values)
        if not groups and None not in counts:
            return [(None, (0,) * len(counts))]
        made = list(groups.values())
        if unsorted:
            made.sort(key=lambda group: group.first.row)
        return [group.entry() for group in made]

    def _ordered(self, entries: list[Entry]) -> list[Entry]:
        """Return rows, whose values ORDER BY names, by these."""
        if not self.returns.order:
            return entries
        places = [self.expressions.index(key.expression) for key in self.returns.order]
        return [entries[rank] for rank in self._ranks([tuple(values[i] for i in places) for _, values in entries])]

    def _ranks(self, keys: list[Values]) -> list[int]:
        """Return the order by the keys of ORDER BY; null is after all else, before it where the order is descending."""
        ranks = list(range(len(keys)))
        for number, key in reversed(list(enumerate(self.returns.order))):
            made = [order_key(values[number]) for values in keys]
            ranks.sort(key=made.__getitem__, reverse=key.descending)
        return ranks


class _Group:
    """Rows that count as one: the first of them, its values, and what has been counted."""

    def __init__(self, first: Scored, values: Values, counts: list[Expression | None]) -> None:
        self.first, self.values = first, values
        self._distinct = [isinstance(one, Call) and one.distinct for one in counts]
        self._counts: list[Any] = [
            None if one is None else set() if self._distinct[i] else 0 for i, one in enumerate(counts)
        ]

    def add(self, values: Values) -> None:
        """Count a row: null is not."""
        for i, so_far in enumerate(self._counts):
            if so_far is None or values[i] is None:
                continue
            if self._distinct[i]:
                so_far.add(order_key(values[i]))
            else:
                self._counts[i] += 1

    def entry(self) -> Entry:
        """Return the row of the result."""
        sizes = [len(one) if isinstance(one, set) else one for one in self._counts]
        return self.first, tuple(
            value if size is None else size for value, size in zip(self.values, sizes, strict=True)
        )


def _counted(count: Expression) -> Expression:
    """Return what a count is of: of all rows, something that is never null."""
    assert isinstance(count, Call)
    return count.arguments[0] if count.arguments else Literal(True)
