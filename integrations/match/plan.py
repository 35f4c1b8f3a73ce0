"""In which order a pattern's elements are bound."""

from collections.abc import Sequence
from typing import NamedTuple

from attnbridge.integrations.match.compiler import Layout, Slot
from attnbridge.integrations.match.elements import EdgeElement, Elements


class Scan(NamedTuple):
    """Try nodes one by one.

    Parameters
    ----------
    node : int
        The number of the element.
    """

    node: int


class Follow(NamedTuple):
    """Follow a relationship from a node that is bound.

    Parameters
    ----------
    edge, start, end : int
        Numbers of elements.
    backwards : bool
        From right to left, as the pattern has it.
    closing : bool
        The end is bound already.
    """

    edge: int
    start: int
    end: int
    backwards: bool
    closing: bool


Plan = tuple[Scan | Follow, ...]


def layout_of(plan: Plan) -> Layout:
    """Return the slots that a plan's steps fill, one after the other."""
    layout: Layout = {}
    for step in plan:
        if isinstance(step, Scan):
            layout[step.node] = Slot(len(layout))
            continue
        layout[step.edge] = Slot(len(layout), step.backwards)
        if not step.closing:
            layout[step.end] = Slot(len(layout))
    return layout


def as_written(elements: Elements) -> Plan:
    """Return the plan that follows the text: path by path, each from its first node.

    A path of which nodes are bound already is followed from the leftmost of them, to the right, then to the left.
    """
    bound: set[int] = set()
    steps: list[Scan | Follow] = []
    for path in elements.paths:
        nodes = path[::2]
        first = next((place for place, node in enumerate(nodes) if node in bound), None)
        if first is None:
            first = 0
            steps.append(Scan(nodes[0]))
            bound.add(nodes[0])
        right, left = path[1 + 2 * first :: 2], path[1 : 2 * first : 2][::-1]
        for number in (*right, *left):
            steps.append(_follow(elements.edge(number), bound, backwards=number in left))
            bound.add(steps[-1].end)  # type: ignore[union-attr]
    return tuple(steps)


def cheapest(elements: Elements, counts: Sequence[float]) -> Plan:
    """Return a plan that begins where the fewest nodes are to be tried, and goes on likewise.

    Parameters
    ----------
    elements : Elements
    counts : sequence of float
        How many nodes each element may be, by its number; relationships have none.
    """
    bound: set[int] = set()
    steps: list[Scan | Follow] = []
    left = {edge.number: edge for edge in elements.edges()}
    nodes = [node.number for node in elements.nodes()]
    while len(bound) < len(nodes):
        anchor = min((node for node in nodes if node not in bound), key=lambda node: counts[node])
        steps.append(Scan(anchor))
        bound.add(anchor)
        while reached := [edge for edge in left.values() if edge.left in bound or edge.right in bound]:
            edge = min(reached, key=lambda edge: _cost(edge, bound, counts))
            del left[edge.number]
            steps.append(_follow(edge, bound, backwards=edge.left not in bound))
            bound |= {edge.left, edge.right}
    return tuple(steps)


def _follow(edge: EdgeElement, bound: set[int], *, backwards: bool) -> Follow:
    start, end = (edge.right, edge.left) if backwards else (edge.left, edge.right)
    return Follow(edge.number, start, end, backwards, end in bound)


def _cost(edge: EdgeElement, bound: set[int], counts: Sequence[float]) -> tuple[bool, bool, float]:
    """Return what orders relationships: those between bound nodes first, those of several hops last."""
    open_ends = [node for node in (edge.left, edge.right) if node not in bound]
    return edge.hops is not None, bool(open_ends), counts[open_ends[0]] if open_ends else 0.0
