"""Expressions as Python functions of a row: the values of elements bound so far, each in its slot."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from attnbridge.errors import AttentionError
from attnbridge.integrations.clock import Clock, Expired
from attnbridge.integrations.match import values
from attnbridge.integrations.match.elements import EDGE, EDGES, NODE, Elements
from attnbridge.integrations.match.reader import Reader
from attnbridge.integrations.match.syntax import (
    Arithmetic,
    Binary,
    Call,
    Comparison,
    Expression,
    HasLabels,
    IsNull,
    Labels,
    ListOf,
    Literal,
    Logical,
    Minus,
    Not,
    Parameter,
    Properties,
    Property,
    Variable,
)
from attnbridge.integrations.match.values import Edge, Node, Path, plain
from attnbridge.integrations.topology import Topology

# A node is its position, a relationship its edge's number, one of several hops the tuple of its edges' numbers.
Row = tuple[Any, ...]
Value = Callable[[Row], Any]
Test = Callable[[Row], bool]
_T = TypeVar("_T")


class Slot(NamedTuple):
    """Where a row has an element, and whether its edges are there from right to left."""

    place: int
    backwards: bool = False


Layout = dict[int, Slot]

_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "CONTAINS": operator.contains,
    "STARTS WITH": str.startswith,
    "ENDS WITH": str.endswith,
}


class Compiler:
    """Expressions of a pattern over rows of one layout.

    Parameters
    ----------
    elements : Elements
    reader : Reader
    layout : dict of int to Slot
        The slot of each element that expressions may need.
    clock : Clock
        Looked at while a long list is gone through.
    """

    def __init__(self, elements: Elements, reader: Reader, layout: Layout, clock: Clock) -> None:
        self.elements, self.reader, self.layout, self.clock = elements, reader, layout, clock

    # ---- conditions

    def test(self, condition: Expression) -> Test:
        """Return whether a condition is true, neither false nor null."""
        value = self.truth(condition)
        return lambda row: value(row) is True

    def label_test(self, element: int, labels: Labels) -> Test:
        """Return whether a node has labels."""
        place, read = self.layout[element].place, self.reader.labels
        groups = [frozenset(group) for group in labels]
        return lambda row: all(not group.isdisjoint(found) for found in [read(row[place])] for group in groups)

    def type_test(self, element: int, types: Sequence[str]) -> Test:
        """Return whether an edge has one of some types."""
        place, read, wanted = self.layout[element].place, self.reader.type, frozenset(types)
        return lambda row: read(row[place]) in wanted

    def property_test(self, element: int, kind: str, properties: Properties) -> Test:
        """Return whether a node or an edge has properties."""
        place = self.layout[element].place
        wanted = [(name, self.value(value)(())) for name, value in properties]
        read = self._attributes(kind)

        def holds(row: Row) -> bool:
            attributes = read(row[place])
            return all(values.equal(attributes.get(name), value) is True for name, value in wanted)

        return self._noting(holds, [(kind, place, name) for name, _ in wanted])

    def truth(self, expression: Expression) -> Callable[[Row], bool | None]:
        """Return an expression as a truth value: what is neither true nor false counts as null."""
        value = self.value(expression)

        def found(row: Row) -> bool | None:
            given = plain(value(row))
            return given if isinstance(given, bool) else None

        return found

    # ---- values

    def value(self, expression: Expression) -> Value:
        """Return an expression's value."""
        made: Value = getattr(self, f"_{type(expression).__name__.lower()}")(expression)
        if not isinstance(expression, Comparison | Binary):
            return made
        read = [part for part in expression.walk() if isinstance(part, Property)]
        return self._noting(made, [(self.elements.kinds[p.owner.name], self._place(p.owner), p.name) for p in read])

    def _noting(self, value: Callable[[Row], _T], read: list[tuple[str, int, str]]) -> Callable[[Row], _T]:
        """Return a value; what an attribute's own comparison raises gets a note that says whose it is."""
        if not read:
            return value
        topology = self.reader.topology

        def found(row: Row) -> _T:
            try:
                return value(row)
            except (AttentionError, Expired):
                raise
            except Exception as error:
                named = [
                    f"{name!r} of node {topology.nodes[row[place]]!r}"
                    if kind == NODE
                    else f"{name!r} of edge {topology.edge(row[place])!r}"
                    for kind, place, name in read
                ]
                error.add_note(f"while match compared attribute {' and '.join(named)}")
                raise

        return found

    def _literal(self, literal: Literal) -> Value:
        value = literal.value
        return lambda row: value

    def _parameter(self, parameter: Parameter) -> Value:
        value = self.elements.params[parameter.name]
        return lambda row: value

    def _listof(self, listed: ListOf) -> Value:
        items = [self.value(item) for item in listed.items]
        return lambda row: [item(row) for item in items]

    def _variable(self, variable: Variable) -> Value:
        kind = self.elements.kinds[variable.name]
        if variable.name in self.elements.path_numbers:
            return self.path(self.elements.path_numbers[variable.name])
        place, backwards = self.layout[self.elements.numbers[variable.name]]
        if kind == EDGES:
            return lambda row: [Edge(number) for number in (row[place][::-1] if backwards else row[place])]
        kept: type[Node] | type[Edge] = Node if kind == NODE else Edge
        return lambda row: kept(row[place])

    def _property(self, owned: Property) -> Value:
        place, name = self._place(owned.owner), owned.name
        read = self._attributes(self.elements.kinds[owned.owner.name])
        return lambda row: read(row[place]).get(name)

    def _haslabels(self, asked: HasLabels) -> Value:
        number = self.elements.numbers[asked.owner.name]
        if self.elements.kinds[asked.owner.name] != EDGE:
            return self.label_test(number, asked.labels)
        tests = [self.type_test(number, group) for group in asked.labels]
        return lambda row: all(test(row) for test in tests)

    def _attributes(self, kind: str) -> Callable[[int], Any]:
        reader = self.reader
        return reader.attributes if kind == NODE else reader.edge_attributes

    def _place(self, variable: Variable) -> int:
        return self.layout[self.elements.numbers[variable.name]].place

    def path(self, number: int) -> Value:
        """Return a path of the pattern."""
        slots, topology = path_slots(self.elements, self.layout, number), self.reader.topology
        return lambda row: path_of(topology, slots, row)

    # ---- functions

    def _call(self, call: Call) -> Value:
        argument = call.arguments[0]
        if not isinstance(argument, Variable):  # count's, which may be anything
            return self.value(argument)
        if call.name in ("length", "nodes", "relationships"):
            return self._of_path(call.name, self.value(argument))
        reader, place = self.reader, self._place(argument)
        if call.name == "id":
            return lambda row: reader.nodes[row[place]]
        if call.name == "score":
            return lambda row: reader.logit(row[place])
        read: Callable[[int], Any] = reader.labels if call.name == "labels" else reader.type
        return lambda row: read(row[place])

    def _of_path(self, name: str, path: Value) -> Value:
        if name == "length":
            return lambda row: len(path(row).edges)
        if name == "nodes":
            return lambda row: [Node(position) for position in path(row).nodes]
        return lambda row: [Edge(number) for number in path(row).edges]

    # ---- operators

    def _isnull(self, asked: IsNull) -> Value:
        operand, negated = self.value(asked.operand), asked.negated
        return lambda row: (operand(row) is None) != negated

    def _not(self, negation: Not) -> Value:
        operand = self.truth(negation.operand)
        return lambda row: values.negated(operand(row))

    def _logical(self, logical: Logical) -> Value:
        operands = [self.truth(operand) for operand in logical.operands]
        joined = {"AND": values.all_of, "OR": values.any_of, "XOR": values.odd_of}[logical.operator]
        return lambda row: joined([operand(row) for operand in operands])

    def _comparison(self, comparison: Comparison) -> Value:
        operands, signs = [self.value(operand) for operand in comparison.operands], comparison.operators
        if len(signs) == 1:
            (left, right), sign, compare = operands, signs[0], values.compare
            return lambda row: compare(sign, left(row), right(row))

        def found(row: Row) -> bool | None:
            given = [operand(row) for operand in operands]
            pairs = zip(signs, given, given[1:], strict=False)
            return values.all_of([values.compare(sign, one, other) for sign, one, other in pairs])

        return found

    def _binary(self, binary: Binary) -> Value:
        left, right = self.value(binary.left), self.value(binary.right)
        if binary.operator == "IN":
            look = self.clock.check
            return lambda row: values.contained(left(row), right(row), look)
        holds = _TEXTS[binary.operator]

        def found(row: Row) -> bool | None:
            one, other = left(row), right(row)
            return holds(one, other) if isinstance(one, str) and isinstance(other, str) else None

        return found

    def _arithmetic(self, chain: Arithmetic) -> Value:
        operands = [self.value(operand) for operand in chain.operands]
        if len(operands) == 2:
            (left, right), sign = operands, chain.operators[0]
            return lambda row: arithmetic(sign, left(row), right(row))
        first, rest = operands[0], list(zip(chain.operators, operands[1:], strict=True))

        def found(row: Row) -> Any:
            value = first(row)
            for sign, operand in rest:
                value = arithmetic(sign, value, operand(row))
            return value

        return found

    def _minus(self, minus: Minus) -> Value:
        operand = self.value(minus.operand)
        return lambda row: arithmetic("-", 0, operand(row))


def path_slots(elements: Elements, layout: Layout, number: int) -> list[Slot]:
    """Return the slots that a path is made from: that of its first node, and those of its relationships."""
    first, *rest = elements.paths[number]
    return [layout[element] for element in (first, *rest[::2])]


def path_of(topology: Topology, slots: Sequence[Slot], row: Row) -> Path:
    """Return the path that a row has in some slots."""
    (start, _), *edge_slots = slots
    sources, targets = topology.ends
    nodes, edges = [row[start]], []
    for place, backwards in edge_slots:
        given = row[place]
        for edge in (given,) if isinstance(given, int) else given[::-1] if backwards else given:
            source, target = int(sources[edge]), int(targets[edge])
            nodes.append(target if source == nodes[-1] else source)
            edges.append(edge)
    return Path(tuple(nodes), tuple(edges))


def arithmetic(sign: str, left: Any, right: Any) -> Any:
    """Return a sum, difference, product, quotient or remainder; null of what has none.

    As in openCypher whole numbers divide to a whole number, towards zero, and a remainder has the sign of its dividend.
    """
    left, right = plain(left), plain(right)
    if sign == "+" and isinstance(left, str) and isinstance(right, str):
        return left + right
    if sign == "+" and isinstance(left, list) and isinstance(right, list):
        return left + right
    if not (values.is_number(left) and values.is_number(right)):
        return None
    try:
        if sign in "+-*":
            return {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](left, right)
        whole = isinstance(left, int) and isinstance(right, int)
        if sign == "%":
            return (-1 if left < 0 else 1) * (abs(left) % abs(right)) if whole else math.fmod(left, right)
        return (abs(left) // abs(right)) * (1 if (left < 0) == (right < 0) else -1) if whole else left / right
    except (ArithmeticError, TypeError, ValueError):
        return None
