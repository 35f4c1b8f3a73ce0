"""The tree of a pattern; `str` of it is a pattern that has the same tree.

Positions, in characters from the pattern's beginning, serve errors only and do not count in comparisons.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

# Words that no variable may be called without backticks.
_WORDS = """ALL AND ANY AS ASC ASCENDING BY CALL CASE CONTAINS CREATE DELETE DESC DESCENDING DETACH DISTINCT ELSE END
ENDS EXISTS FALSE FOREACH IN IS LIMIT LOAD MATCH MERGE NONE NOT NULL OPTIONAL OR ORDER REMOVE RETURN SET SINGLE
SKIP STARTS THEN TRUE UNION UNWIND USE WHEN WHERE WITH XOR YIELD"""
RESERVED = frozenset(_WORDS.split())

_WORD = re.compile(r"[^\W\d]\w*")
_PARAMETER = re.compile(r"\w+")
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def quoted(name: str) -> str:
    """Return a name as a pattern has it, in backticks where it must."""
    if _WORD.fullmatch(name) and name.upper() not in RESERVED:
        return name
    return "`" + name.replace("`", "``") + "`"


@dataclass(frozen=True)
class Expression:
    """What has a value in a row."""

    position: int = field(default=0, compare=False, repr=False, kw_only=True)

    # How tightly it binds: operands that bind less are printed in parentheses.
    binds: ClassVar[int] = 10

    def parts(self) -> "tuple[Expression, ...]":
        """Return the expressions that it is made of."""
        return ()

    def walk(self) -> "Iterator[Expression]":
        """Return it and all that it is made of."""
        yield self
        for part in self.parts():
            yield from part.walk()

    def height(self) -> int:
        """Return how deep it nests."""
        return 1 + max((part.height() for part in self.parts()), default=0)

    def inside(self, binds: int) -> str:
        """Return it as an operand of what binds so tightly."""
        return str(self) if self.binds >= binds else f"({self})"


@dataclass(frozen=True)
class Literal(Expression):
    """A text, a number, true, false or null."""

    value: str | int | float | bool | None

    def __str__(self) -> str:
        if self.value is None or isinstance(self.value, bool):
            return "null" if self.value is None else str(self.value).lower()
        if isinstance(self.value, str):
            return "'" + "".join(_ESCAPES.get(letter, letter) for letter in self.value) + "'"
        return repr(self.value)


@dataclass(frozen=True)
class Parameter(Expression):
    """A value that is passed beside the pattern."""

    name: str

    def __str__(self) -> str:
        return "$" + (self.name if _PARAMETER.fullmatch(self.name) else "`" + self.name.replace("`", "``") + "`")


@dataclass(frozen=True)
class ListOf(Expression):
    """A list."""

    items: tuple[Expression, ...]

    def parts(self) -> tuple[Expression, ...]:
        """Return its entries."""
        return self.items

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"


@dataclass(frozen=True)
class Variable(Expression):
    """What a node, relationship or path of the pattern is called, or a column of RETURN in ORDER BY."""

    name: str

    def __str__(self) -> str:
        return quoted(self.name)


@dataclass(frozen=True)
class Property(Expression):
    """An attribute of a node or relationship."""

    owner: Variable
    name: str

    def parts(self) -> tuple[Expression, ...]:
        """Return whose it is."""
        return (self.owner,)

    def __str__(self) -> str:
        return f"{self.owner}.{quoted(self.name)}"


# Each group must be met; a group is met by any of its labels.
Labels = tuple[tuple[str, ...], ...]


def _labels(groups: Labels) -> str:
    return "".join(":" + "|".join(map(quoted, group)) for group in groups)


@dataclass(frozen=True)
class HasLabels(Expression):
    """Whether a node has labels, or a relationship a type."""

    owner: Variable
    labels: Labels

    def parts(self) -> tuple[Expression, ...]:
        """Return whose they are."""
        return (self.owner,)

    def __str__(self) -> str:
        return f"{self.owner}{_labels(self.labels)}"


@dataclass(frozen=True)
class Call(Expression):
    """A function; `count` of no argument counts rows."""

    name: str
    arguments: tuple[Expression, ...]
    distinct: bool = False

    def parts(self) -> tuple[Expression, ...]:
        """Return its arguments."""
        return self.arguments

    def __str__(self) -> str:
        if self.name == "count" and not self.arguments:
            return "count(*)"
        return f"{self.name}({'DISTINCT ' if self.distinct else ''}{', '.join(map(str, self.arguments))})"


@dataclass(frozen=True)
class Not(Expression):
    """NOT."""

    operand: Expression
    binds: ClassVar[int] = 4

    def parts(self) -> tuple[Expression, ...]:
        """Return what is negated."""
        return (self.operand,)

    def __str__(self) -> str:
        return f"NOT {self.operand.inside(self.binds)}"


@dataclass(frozen=True)
class Minus(Expression):
    """The negative of a number."""

    operand: Expression
    binds: ClassVar[int] = 9

    def parts(self) -> tuple[Expression, ...]:
        """Return what is negated."""
        return (self.operand,)

    def __str__(self) -> str:
        # a number would be read together with its sign
        return f"-({self.operand})" if isinstance(self.operand, Literal) else f"-{self.operand.inside(self.binds)}"


_LOGICAL = {"OR": 1, "XOR": 2, "AND": 3}
_BINARY = {"IN": 6, "CONTAINS": 6, "STARTS WITH": 6, "ENDS WITH": 6}
_ARITHMETIC = {"+": 7, "-": 7, "*": 8, "/": 8, "%": 8}


@dataclass(frozen=True)
class Logical(Expression):
    """AND, OR or XOR of two or more."""

    operator: str
    operands: tuple[Expression, ...]

    @property
    def binds(self) -> int:  # type: ignore[override]
        """How tightly it binds."""
        return _LOGICAL[self.operator]

    def parts(self) -> tuple[Expression, ...]:
        """Return what is joined."""
        return self.operands

    def __str__(self) -> str:
        return f" {self.operator} ".join(operand.inside(self.binds + 1) for operand in self.operands)


@dataclass(frozen=True)
class Comparison(Expression):
    """=, <>, <, <=, >, >=, or a chain of them: `1 < a.x <= 5` holds where each holds."""

    operands: tuple[Expression, ...]
    operators: tuple[str, ...]
    binds: ClassVar[int] = 5

    def parts(self) -> tuple[Expression, ...]:
        """Return what is compared."""
        return self.operands

    def __str__(self) -> str:
        shown = self.operands[0].inside(self.binds + 1)
        for operator, operand in zip(self.operators, self.operands[1:], strict=True):
            shown += f" {operator} {operand.inside(self.binds + 1)}"
        return shown


@dataclass(frozen=True)
class Arithmetic(Expression):
    """Sums and differences, or products, quotients and remainders, from left to right: `a.x - 1 + a.y`.

    However long, it is one level: `joined` makes a first operand of the same strength part of the chain.
    """

    operands: tuple[Expression, ...]
    operators: tuple[str, ...]

    @classmethod
    def joined(cls, operands: Sequence[Expression], operators: Sequence[str], position: int = 0) -> "Arithmetic":
        """Return it with a first operand of the same strength as part of the chain: (1 + 2) + 3 is 1 + 2 + 3."""
        first, found = operands[0], cls(tuple(operands), tuple(operators), position=position)
        if isinstance(first, Arithmetic) and first.binds == found.binds:
            return cls(first.operands + found.operands[1:], first.operators + found.operators, position=first.position)
        return found

    @property
    def binds(self) -> int:  # type: ignore[override]
        """How tightly it binds."""
        return _ARITHMETIC[self.operators[0]]

    def parts(self) -> tuple[Expression, ...]:
        """Return its operands."""
        return self.operands

    def __str__(self) -> str:
        shown = [self.operands[0].inside(self.binds + 1)]
        for operator, operand in zip(self.operators, self.operands[1:], strict=True):
            shown.append(f" {operator} {operand.inside(self.binds + 1)}")
        return "".join(shown)


@dataclass(frozen=True)
class Binary(Expression):
    """IN, or a comparison of texts."""

    operator: str
    left: Expression
    right: Expression

    @property
    def binds(self) -> int:  # type: ignore[override]
        """How tightly it binds."""
        return _BINARY[self.operator]

    def parts(self) -> tuple[Expression, ...]:
        """Return both sides."""
        return (self.left, self.right)

    def __str__(self) -> str:
        return f"{self.left.inside(self.binds)} {self.operator} {self.right.inside(self.binds + 1)}"


@dataclass(frozen=True)
class IsNull(Expression):
    """IS NULL, or IS NOT NULL."""

    operand: Expression
    negated: bool
    binds: ClassVar[int] = 6

    def parts(self) -> tuple[Expression, ...]:
        """Return what may be null."""
        return (self.operand,)

    def __str__(self) -> str:
        return f"{self.operand.inside(self.binds)} IS {'NOT ' if self.negated else ''}NULL"


Properties = tuple[tuple[str, Expression], ...]


def _properties(properties: Properties) -> str:
    return "{" + ", ".join(f"{quoted(name)}: {value}" for name, value in properties) + "}" if properties else ""


@dataclass(frozen=True)
class NodePattern:
    """A node: `(a:Paper {year: 2017})`."""

    variable: str | None = None
    labels: Labels = ()
    properties: Properties = ()
    position: int = field(default=0, compare=False, repr=False, kw_only=True)

    def __str__(self) -> str:
        name = "" if self.variable is None else quoted(self.variable)
        return f"({' '.join(filter(None, [name + _labels(self.labels), _properties(self.properties)]))})"


@dataclass(frozen=True)
class Hops:
    """How many relationships in a row: `*least..most`, without a bound where `most` is None."""

    least: int
    most: int | None

    def __str__(self) -> str:
        if self.least == self.most:
            return f"*{self.least}"
        if self.most is None:
            return "*" if self.least == 1 else f"*{self.least}.."
        return f"*{self.least}..{self.most}"


@dataclass(frozen=True)
class RelationshipPattern:
    """A relationship: `-[r:CITES*1..2 {weight: 1}]->`; its direction is "out" for ->, "in" for <-, else "both"."""

    variable: str | None = None
    types: tuple[str, ...] = ()
    hops: Hops | None = None
    properties: Properties = ()
    direction: str = "both"
    position: int = field(default=0, compare=False, repr=False, kw_only=True)

    def __str__(self) -> str:
        name = "" if self.variable is None else quoted(self.variable)
        kinds = ":" + "|".join(map(quoted, self.types)) if self.types else ""
        head = f"{name}{kinds}{'' if self.hops is None else self.hops}"
        inner = " ".join(filter(None, [head, _properties(self.properties)]))
        left, right = "<-" if self.direction == "in" else "-", "->" if self.direction == "out" else "-"
        return f"{left}[{inner}]{right}" if inner else left + right


@dataclass(frozen=True)
class PathPattern:
    """Nodes and the relationships between them."""

    nodes: tuple[NodePattern, ...]
    relationships: tuple[RelationshipPattern, ...] = ()
    variable: str | None = None
    position: int = field(default=0, compare=False, repr=False, kw_only=True)

    def __str__(self) -> str:
        shown = "" if self.variable is None else f"{quoted(self.variable)} = "
        shown += str(self.nodes[0])
        return shown + "".join(f"{r}{node}" for r, node in zip(self.relationships, self.nodes[1:], strict=True))


@dataclass(frozen=True)
class Column:
    """What RETURN gives: an expression, under a name or as it is written."""

    expression: Expression
    alias: str | None = None

    @property
    def name(self) -> str:
        """The column's name."""
        if self.alias is None:
            return self.expression.name if isinstance(self.expression, Variable) else str(self.expression)
        return self.alias

    def __str__(self) -> str:
        return str(self.expression) + ("" if self.alias is None else f" AS {quoted(self.alias)}")


@dataclass(frozen=True)
class SortKey:
    """What ORDER BY orders by."""

    expression: Expression
    descending: bool = False

    def __str__(self) -> str:
        return f"{self.expression}{' DESC' if self.descending else ''}"


@dataclass(frozen=True)
class Return:
    """RETURN, ORDER BY, SKIP and LIMIT."""

    columns: tuple[Column, ...]
    everything: bool = False
    distinct: bool = False
    order: tuple[SortKey, ...] = ()
    skip: Expression | None = None
    limit: Expression | None = None
    position: int = field(default=0, compare=False, repr=False, kw_only=True)

    def __str__(self) -> str:
        shown = "RETURN DISTINCT " if self.distinct else "RETURN "
        shown += ", ".join(["*"] * self.everything + [str(column) for column in self.columns])
        if self.order:
            shown += f" ORDER BY {', '.join(map(str, self.order))}"
        if self.skip is not None:
            shown += f" SKIP {self.skip}"
        return shown if self.limit is None else f"{shown} LIMIT {self.limit}"


@dataclass(frozen=True)
class Query:
    """A whole pattern: MATCH, WHERE and RETURN."""

    paths: tuple[PathPattern, ...]
    where: Expression | None
    returns: Return
    text: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        where = "" if self.where is None else f" WHERE {self.where}"
        return f"MATCH {', '.join(map(str, self.paths))}{where} {self.returns}"

    def expressions(self) -> Iterator[Expression]:
        """Return every expression in it, those of property maps too."""
        for path in self.paths:
            maps = [part.properties for part in path.nodes] + [part.properties for part in path.relationships]
            for _, value in itertools.chain(*maps):
                yield from value.walk()
        returns = self.returns
        tops = [self.where, *(c.expression for c in returns.columns), *(k.expression for k in returns.order)]
        for top in (*tops, returns.skip, returns.limit):
            if top is not None:
                yield from top.walk()
