"""From rows to what RETURN gives: columns, DISTINCT, count, ORDER BY, SKIP and LIMIT."""

import itertools
from collections.abc import Iterable
from typing import Any

from attnbridge.integrations.match.compiler import Compiler, Layout, Row, Value
from attnbridge.integrations.match.elements import Elements, is_aggregate
from attnbridge.integrations.match.reader import Reader
from attnbridge.integrations.match.search import Scored
from attnbridge.integrations.match.syntax import Call, Expression, Literal, Parameter, Variable
from attnbridge.integrations.match.values import order_key
from attnbridge.validation import as_count

Values = tuple[Any, ...]
Entry = tuple[Scored | None, Values]  # what a row of the result was found as, and its values


class Projection:
    """RETURN over rows of one layout.

    Parameters
    ----------
    elements : Elements
    reader : Reader
    layout : dict of int to Slot

    Raises
    ------
    InvalidConfigError
        SKIP or LIMIT by a parameter that is no whole number >= 0.
    """

    def __init__(self, elements: Elements, reader: Reader, layout: Layout) -> None:
        self.elements, self.reader, self.layout = elements, reader, layout
        self.returns = elements.returns
        self.compiler = Compiler(elements, reader, layout)
        self.expressions = [column.expression for column in self.returns.columns]
        self.grouped = any(is_aggregate(expression) for expression in self.expressions)
        self.skip = self._count(self.returns.skip, "SKIP") or 0
        self.limit = self._count(self.returns.limit, "LIMIT")

    def entries(self, rows: Iterable[Scored]) -> list[Entry]:
        """Return the rows of the result; no more of the given ones are looked at than it takes."""
        stop = None if self.limit is None else self.skip + self.limit
        if self.grouped:
            found = self._groups(list(rows))
        elif self.returns.distinct:
            found = list(itertools.islice(self._distinct(rows), None if self.returns.order else stop))
        else:
            kept = list(itertools.islice(rows, None if self.returns.order else stop))
            found = [(row, ()) for row in kept]
        found = self._ordered(found)[self.skip : stop]
        return found if self.grouped or self.returns.distinct else self._with_values(found)

    def _count(self, given: Expression | None, name: str) -> int | None:
        if isinstance(given, Parameter):
            return as_count(self.elements.params[given.name], f"{name} {given}", least=0)
        if given is None:
            return None
        assert isinstance(given, Literal)
        assert isinstance(given.value, int)
        return given.value

    def _compiled(self, expressions: Iterable[Expression], rows: Iterable[Row]) -> list[Value]:
        """Return expressions as functions of rows, the logits that these will ask for being read in one go."""
        expressions = list(expressions)
        rows = list(rows)
        for part in (part for expression in expressions for part in expression.walk()):
            if isinstance(part, Call) and part.name == "score":
                asked = part.arguments[0]
                assert isinstance(asked, Variable)
                place = self.layout[self.elements.numbers[asked.name]].place
                self.reader.read_logits(row[place] for row in rows)
        return [self.compiler.value(expression) for expression in expressions]

    def _with_values(self, entries: list[Entry]) -> list[Entry]:
        rows = [found.row for found, _ in entries if found is not None]
        columns = self._compiled(self.expressions, rows)
        return [(found, tuple(column(found.row) for column in columns)) for found, _ in entries if found is not None]

    def _distinct(self, rows: Iterable[Scored]) -> Iterable[Entry]:
        columns = self._compiled(self.expressions, ())
        seen = set()
        for found in rows:
            values = tuple(column(found.row) for column in columns)
            key = tuple(map(order_key, values))
            if key not in seen:
                seen.add(key)
                yield found, values

    def _groups(self, rows: list[Scored]) -> list[Entry]:
        """Return a row for each combination of the columns that do not count, with the counts."""
        plain_columns = [place for place, one in enumerate(self.expressions) if not is_aggregate(one)]
        keys = self._compiled([self.expressions[place] for place in plain_columns], [found.row for found in rows])
        groups: dict[Values, tuple[Scored | None, Values, list[Row]]] = {}
        for found in rows:
            values = tuple(key(found.row) for key in keys)
            groups.setdefault(tuple(map(order_key, values)), (found, values, []))[2].append(found.row)
        if not groups and not plain_columns:
            groups[()] = (None, (), [])
        entries = []
        for first, values, members in groups.values():
            named = dict(zip(plain_columns, values, strict=True))
            counts = [named[i] if i in named else self._counted(one, members) for i, one in enumerate(self.expressions)]
            entries.append((first, tuple(counts)))
        return entries

    def _counted(self, count: Expression, rows: list[Row]) -> int:
        assert isinstance(count, Call)
        if not count.arguments:
            return len(rows)
        (value,) = self._compiled(count.arguments, rows)
        keys = [order_key(one) for one in map(value, rows) if one is not None]
        return len(set(keys) if count.distinct else keys)

    def _ordered(self, entries: list[Entry]) -> list[Entry]:
        """Return rows by the keys of ORDER BY; null is after all else, and before it where the order is descending."""
        for key in reversed(self.returns.order):
            if self.grouped or self.returns.distinct:
                place = self.expressions.index(key.expression)
                keys = [order_key(values[place]) for _, values in entries]
            else:
                (value,) = self._compiled([key.expression], [found.row for found, _ in entries if found is not None])
                keys = [order_key(value(found.row)) for found, _ in entries if found is not None]
            places = sorted(range(len(entries)), key=keys.__getitem__, reverse=key.descending)
            entries = [entries[place] for place in places]
        return entries
