"""A pattern's nodes and relationships, each once, and what its expressions may say about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.integrations.match.syntax import (
    Binary,
    Call,
    Column,
    Comparison,
    Expression,
    HasLabels,
    Hops,
    Labels,
    ListOf,
    Literal,
    Logical,
    NodePattern,
    Parameter,
    PathPattern,
    Properties,
    Property,
    Query,
    RelationshipPattern,
    Return,
    SortKey,
    Variable,
)
from attnbridge.integrations.match.tokens import refusal
from attnbridge.integrations.match.values import listed
from attnbridge.labels import middle_cut

NODE, EDGE, EDGES, PATH = "a node", "a relationship", "a list of relationships", "a path"

# What functions of one variable take.
_TAKES = {
    "id": (NODE,),
    "labels": (NODE,),
    "score": (NODE,),
    "type": (EDGE,),
    "length": (PATH,),
    "nodes": (PATH,),
    "relationships": (PATH,),
}


@dataclass
class NodeElement:
    """A node: all its occurrences in the pattern."""

    number: int
    variable: str | None
    position: int
    labels: list[Labels] = field(default_factory=list)
    properties: list[Properties] = field(default_factory=list)


@dataclass(frozen=True)
class EdgeElement:
    """A relationship between two nodes, from left to right as it is written."""

    number: int
    variable: str | None
    left: int
    right: int
    direction: str
    types: tuple[str, ...]
    properties: Properties
    hops: Hops | None
    position: int


class Elements:
    """What a pattern is of; each is known by its number, in the order in which the pattern has them.

    Parameters
    ----------
    query : Query
    params : mapping of str to object
    scored : bool
        Whether there is a vector to take `score` with.

    Raises
    ------
    InvalidInputError
        Names that are not known or used for two things, functions of the wrong thing, aggregates where none may be.
    InvalidConfigError
        A parameter without a value, or one that IN looks in and that is no list.
    """

    def __init__(self, query: Query, params: Mapping[str, Any], scored: bool) -> None:
        self.query, self.params, self.scored = query, dict(params), scored
        self.all: list[NodeElement | EdgeElement] = []
        self.numbers: dict[str, int] = {}
        self.kinds: dict[str, str] = {}
        self.paths: list[tuple[int, ...]] = []  # numbers of node, edge, node, ...
        self.path_numbers: dict[str, int] = {}
        for path in query.paths:
            self._add_path(path)
        self.returns = _Returned(self).returns
        self._require_params()
        if query.where is not None:
            self.check(query.where)

    def nodes(self) -> list[NodeElement]:
        """Return the nodes."""
        return [element for element in self.all if isinstance(element, NodeElement)]

    def edges(self) -> list[EdgeElement]:
        """Return the relationships."""
        return [element for element in self.all if isinstance(element, EdgeElement)]

    def node(self, number: int) -> NodeElement:
        """Return a node."""
        element = self.all[number]
        assert isinstance(element, NodeElement)
        return element

    def edge(self, number: int) -> EdgeElement:
        """Return a relationship."""
        element = self.all[number]
        assert isinstance(element, EdgeElement)
        return element

    def error(self, message: str, position: int) -> InvalidInputError:
        """Return the error of a position."""
        return refusal(self.query.text, position, message)

    def needs(self, expression: Expression) -> frozenset[int]:
        """Return the elements whose values an expression needs."""
        found: set[int] = set()
        for part in expression.walk():
            if isinstance(part, Variable) and part.name in self.path_numbers:
                found.update(self.paths[self.path_numbers[part.name]])
            elif isinstance(part, Variable):
                found.add(self.numbers[part.name])
        return frozenset(found)

    # ---- the pattern

    def _add_path(self, path: PathPattern) -> None:
        if path.variable is not None:
            self._name(path.variable, PATH, path.position)
            self.path_numbers[path.variable] = len(self.paths)
        numbers = [self._add_node(path.nodes[0])]
        for relationship, node in zip(path.relationships, path.nodes[1:], strict=True):
            number = len(self.all)
            self.all.append(NodeElement(number, None, 0))  # the relationship's place, until its right end is known
            if relationship.variable is not None:
                self._name(relationship.variable, EDGE if relationship.hops is None else EDGES, relationship.position)
                self.numbers[relationship.variable] = number
            right = self._add_node(node)
            self.all[number] = self._edge(number, relationship, numbers[-1], right)
            numbers += [number, right]
        self.paths.append(tuple(numbers))

    def _name(self, variable: str, kind: str, position: int) -> None:
        if variable in self.kinds:
            raise self.error(f"{variable} is already the name of {self.kinds[variable]} in this pattern", position)
        self.kinds[variable] = kind

    def _add_node(self, node: NodePattern) -> int:
        known = node.variable is not None and self.kinds.get(node.variable) == NODE
        if node.variable is not None and known:
            element = self.node(self.numbers[node.variable])
        else:
            element = NodeElement(len(self.all), node.variable, node.position)
            self.all.append(element)
            if node.variable is not None:
                self._name(node.variable, NODE, node.position)
                self.numbers[node.variable] = element.number
        element.labels.append(node.labels)
        element.properties.append(node.properties)
        return element.number

    def _edge(self, number: int, edge: RelationshipPattern, left: int, right: int) -> EdgeElement:
        return EdgeElement(
            number, edge.variable, left, right, edge.direction, edge.types, edge.properties, edge.hops, edge.position
        )

    def _require_params(self) -> None:
        for part in self.query.expressions():
            if isinstance(part, Parameter) and part.name not in self.params:
                given = ", ".join(f"${name}" for name in self.params) or "none"
                raise InvalidConfigError(
                    f"params must have a value for {part}, which the pattern uses; given are {given}"
                )
        for part in self.query.expressions():
            if isinstance(part, Binary) and part.operator == "IN" and isinstance(part.right, Parameter):
                self._require_list(part.right)

    def _require_list(self, parameter: Parameter) -> None:
        """Make a list of what IN looks in, once for all rows; null stays."""
        given = self.params[parameter.name]
        found = self.params[parameter.name] = listed(given)
        if found is not None and not isinstance(found, list):
            raise InvalidConfigError(
                f"{parameter} must be a list, which IN looks in, got {middle_cut(repr(given), 60)}; pass a list"
            )

    # ---- expressions

    def check(self, expression: Expression, *, aggregates: bool = False) -> None:
        """Refuse what an expression may not say; `count` may stand for the whole of one of RETURN."""
        for part in expression.walk():
            if isinstance(part, Variable) and part.name not in self.kinds:
                known = ", ".join(self.kinds) or "none"
                raise self.error(f"{part.name} is not in the pattern; known are {known}", part.position)
            if isinstance(part, Property | HasLabels):
                self._check_owner(part)
            elif isinstance(part, Call):
                self._check_call(part, aggregates and part is expression)
            elif isinstance(part, Comparison):
                for pair in zip(part.operands, part.operands[1:], strict=False):
                    self._check_compared(*pair)
                    self._check_compared(*pair[::-1])
            elif isinstance(part, Binary) and part.operator == "IN":
                self._check_compared(part.left, part.right)

    def _check_owner(self, part: Property | HasLabels) -> None:
        kind = self.kinds.get(part.owner.name, NODE)
        if kind not in (NODE, EDGE):
            what = "no properties" if isinstance(part, Property) else "no labels"
            raise self.error(f"{part.owner.name} is {kind} and has {what}", part.position)

    def _check_call(self, call: Call, aggregates: bool) -> None:
        if call.name == "count":
            if not aggregates:
                raise self.error("count is supported as a whole column of RETURN only: count(b) AS n", call.position)
            return
        argument = call.arguments[0]
        takes = " or ".join(_TAKES[call.name])
        if not isinstance(argument, Variable):
            raise self.error(f"{call.name} takes the name of {takes}, got {argument}", call.position)
        kind = self.kinds.get(argument.name)
        if kind is not None and kind not in _TAKES[call.name]:
            raise self.error(f"{call.name} takes {takes}; {argument.name} is {kind}", call.position)
        if call.name == "score" and not self.scored:
            raise self.error(f"{call} needs a query to score with; pass query=", call.position)

    def _check_compared(self, one: Expression, other: Expression) -> None:
        """Refuse a node beside values: no node equals one, and that would give no rows without a word."""
        if not isinstance(one, Variable) or self.kinds.get(one.name) != NODE:
            return
        is_id = isinstance(other, Call) and other.name == "id"
        if is_id or isinstance(other, Literal | Parameter | Property):
            raise self.error(f"{one} is a node and {other} a value; compare id({one})", one.position)
        if isinstance(other, ListOf) and all(isinstance(item, Literal | Parameter) for item in other.items):
            raise self.error(f"{one} is a node and {other} a list of values; compare id({one})", one.position)


class _Returned:
    """RETURN with its names resolved: * as columns, ORDER BY without the columns' names."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        given = elements.query.returns
        columns = self._columns(given)
        for column in columns:
            elements.check(column.expression, aggregates=True)
        self.named = {column.name: column.expression for column in columns}
        grouped = given.distinct or any(is_aggregate(column.expression) for column in columns)
        order = tuple(self._key(key, grouped) for key in given.order)
        self.returns = Return(columns, False, given.distinct, order, given.skip, given.limit, position=given.position)

    def _columns(self, given: Return) -> tuple[Column, ...]:
        variables = self.elements.kinds if given.everything else ()
        if given.everything and not variables:
            raise self.elements.error(
                "RETURN * has nothing to return: no part of the pattern has a name", given.position
            )
        columns = (*(Column(Variable(name, position=given.position)) for name in variables), *given.columns)
        names = [column.name for column in columns]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise self.elements.error(
                    f"RETURN has two columns called {name}; name one of them with AS",
                    columns[place].expression.position,
                )
        return columns

    def _key(self, key: SortKey, grouped: bool) -> SortKey:
        expression = key.expression
        if isinstance(expression, Variable) and expression.name in self.named:
            return SortKey(self.named[expression.name], key.descending)
        if expression not in self.named.values():
            if grouped:
                raise self.elements.error(
                    "with DISTINCT or count, ORDER BY takes columns of RETURN only", expression.position
                )
            self.elements.check(expression)
        return SortKey(expression, key.descending)


def is_aggregate(expression: Expression) -> bool:
    """Return whether an expression counts rows."""
    return isinstance(expression, Call) and expression.name == "count"


def conjuncts(expression: Expression | None) -> list[Expression]:
    """Return what must all hold for a condition to hold."""
    if expression is None:
        return []
    if isinstance(expression, Logical) and expression.operator == "AND":
        return [part for operand in expression.operands for part in conjuncts(operand)]
    return [expression]


def constant(expression: Expression) -> bool:
    """Return whether an expression is the same in all rows."""
    return not any(isinstance(part, Variable) for part in expression.walk())


def identified(condition: Expression) -> tuple[str, str, Expression] | None:
    """Return the variable, = or IN, and the constant of a condition such as id(a) = 'x'; None of any other."""
    if isinstance(condition, Comparison) and condition.operators == ("=",):
        for one, other in (condition.operands, condition.operands[::-1]):
            if isinstance(one, Call) and one.name == "id" and constant(other):
                return str(one.arguments[0].name), "=", other  # type: ignore[attr-defined]
    if isinstance(condition, Binary) and condition.operator == "IN" and constant(condition.right):
        one = condition.left
        if isinstance(one, Call) and one.name == "id":
            return str(one.arguments[0].name), "IN", condition.right  # type: ignore[attr-defined]
    return None
