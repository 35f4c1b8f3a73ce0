"""The search for rows: what each step of a plan admits, depth first without a query and best first with one."""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from attnbridge.errors import InputTooLargeError
from attnbridge.integrations.clock import Clock, Expired
from attnbridge.integrations.match.compiler import Compiler, Layout, Row, Slot, Test
from attnbridge.integrations.match.elements import EDGE, NODE, EdgeElement, Elements, conjuncts, identified
from attnbridge.integrations.match.plan import Follow, Plan, Scan, layout_of
from attnbridge.integrations.match.reader import Reader, Step
from attnbridge.integrations.match.syntax import Call, Expression
from attnbridge.integrations.match.tokens import refusal
from attnbridge.integrations.match.values import equal, plain

_SAMPLED = 250  # nodes that are looked at to tell how many an element may be


class Scored(NamedTuple):
    """A row, and the attention weight of each of its steps (none without a query)."""

    row: Row
    score: float
    weights: tuple[float, ...]


# A row that is begun: -score, values, steps done, the node where a relationship of several hops is (else -1), weights.
_Begun = tuple[float, Row, int, int, tuple[float, ...]]


def _scored(begun: _Begun) -> Scored:
    return Scored(begun[1], 0.0 - begun[0], begun[4])


class Screens:
    """Which nodes and edges an element may be, by what the pattern says of it alone.

    Parameters
    ----------
    elements : Elements
    reader : Reader
    start : int or None
        The position of the node that the first element is.
    clock : Clock
        Looked at before each condition: how long one takes, and how many fail in a row, is not known.
    """

    def __init__(self, elements: Elements, reader: Reader, start: int | None, clock: Clock) -> None:
        self.elements, self.reader, self.clock = elements, reader, clock
        self.conditions = [(part, elements.needs(part)) for part in conjuncts(elements.query.where)]
        self.fixed: dict[int, list[int]] = {}
        self.started = start is not None
        if start is not None:
            self.fixed[elements.paths[0][0]] = [start]
        with suppress(Expired):  # what follows will see that, too
            for part, _ in self.conditions:
                self._identify(part)
        self._tests: dict[int, list[Test]] = {}
        self._admitted: dict[int, dict[int, bool]] = {element.number: {} for element in elements.all}
        self._nodes: dict[int, list[int]] = {}
        self._steps: dict[tuple[int, str, int], list[Step]] = {}
        self._scored = {
            number
            for part, needs in self.conditions
            if len(needs) == 1 and any(isinstance(inner, Call) and inner.name == "score" for inner in part.walk())
            for number in needs
        }

    def possible(self) -> bool:
        """Return whether the conditions that are of no element hold."""
        compiler = Compiler(self.elements, self.reader, {}, self.clock)
        return all(compiler.test(part)(()) for part, needs in self.conditions if not needs)

    def across(self) -> list[tuple[Expression, frozenset[int]]]:
        """Return the conditions that are not looked at here: of several elements, or of several hops."""
        alone = {element.number for element in self.elements.all if not self._several(element.number)}
        return [(part, needs) for part, needs in self.conditions if needs and not (len(needs) == 1 and needs <= alone)]

    def admits(self, element: int, value: int) -> bool:
        """Return whether an element may be a node, by its position, or (each of its hops) an edge, by its number.

        Raises
        ------
        Expired
        """
        known = self._admitted[element]
        found = known.get(value)
        if found is None:
            fixed, tests = self.fixed.get(element), self._of(element)
            if fixed is None and not tests:
                return True
            self.clock.check()
            row = (value,)
            found = known[value] = (fixed is None or value in fixed) and all(test(row) for test in tests)
        return found

    def nodes(self, element: int) -> Iterator[int]:
        """Yield the positions of all nodes that an element may be, in their order: the first before all are known."""
        if element in self._nodes:
            yield from self._nodes[element]
            return
        fixed, found = self.fixed.get(element), []
        every: Iterable[int] = range(len(self.reader.nodes)) if fixed is None else fixed
        if element in self._scored:
            self.reader.read_logits(every, self.clock)
        if fixed is None and not self._of(element):
            yield from every
            return
        for position in every:
            if self.admits(element, position):
                found.append(position)
                yield position
        self._nodes[element] = found

    def count(self, element: int) -> float:
        """Return about how many nodes an element may be; only roughly where a plan begins at a fixed one anyway."""
        if element in self.fixed:
            return float(len(self.fixed[element]))
        total = len(self.reader.nodes)
        if self.fixed or element in self._scored or not self._of(element):
            return float(total) if not self._of(element) else total / 2
        sample = np.linspace(0, total - 1, min(total, _SAMPLED)).astype(int).tolist() if total else []
        return total * (sum(self.admits(element, position) for position in sample) + 1) / (len(sample) + 1)

    def steps(self, edge: EdgeElement, direction: str, end: int | None, position: int) -> list[Step]:
        """Return the edges from a node that a relationship may be, to what its end may be (None: any), in order."""
        found = self._steps.get((edge.number, direction, position))
        if found is None:
            found = [step for step in self.reader.steps(direction, position) if self.admits(edge.number, step[0])]
            if end is not None:
                if end in self._scored:
                    self.reader.read_logits((node for _, node in found), self.clock)
                found = [step for step in found if self.admits(end, step[1])]
            self._steps[edge.number, direction, position] = found
        return found

    def _several(self, number: int) -> bool:
        element = self.elements.all[number]
        return isinstance(element, EdgeElement) and element.hops is not None

    def _of(self, number: int) -> list[Test]:
        """Return an element's tests, for rows that have it alone."""
        if number not in self._tests:
            self._tests[number] = self._compiled(number)
        return self._tests[number]

    def _compiled(self, number: int) -> list[Test]:
        compiler, element = (
            Compiler(self.elements, self.reader, {number: Slot(0)}, self.clock),
            self.elements.all[number],
        )
        tests: list[Test] = []
        if isinstance(element, EdgeElement):
            if element.types:
                tests.append(compiler.type_test(number, element.types))
            if element.properties:
                tests.append(compiler.property_test(number, EDGE, element.properties))
        else:
            tests += [compiler.label_test(number, labels) for labels in element.labels if labels]
            tests += [compiler.property_test(number, NODE, given) for given in element.properties if given]
        if not self._several(number):
            tests += [compiler.test(part) for part, needs in self.conditions if needs == {number}]
        return tests

    def _identify(self, condition: Expression) -> None:
        """Take down which nodes a condition such as id(a) = 'x' or id(a) IN $list leaves."""
        found = identified(condition)
        if found is None:
            return
        variable, sign, expression = found
        value = Compiler(self.elements, self.reader, {}, self.clock).value(expression)(())
        wanted = [value] if sign == "=" else plain(value)
        index, positions = self.reader.topology.index, set()
        for one in wanted if isinstance(wanted, list) else ():
            self.clock.tick()
            try:
                positions.add(index[one])
            except KeyError:
                continue
            except TypeError:  # not hashable: a list may yet equal a tuple
                for i, node in enumerate(self.reader.nodes):
                    self.clock.tick()
                    if equal(node, one) is True:
                        positions.add(i)
        number = self.elements.numbers[variable]
        known = self.fixed.get(number)
        self.fixed[number] = sorted(positions if known is None else positions & set(known))


class Search:
    """A plan at work.

    Parameters
    ----------
    screens : Screens
    plan : Plan
    max_hops : int
        How far a relationship without a bound may go.
    """

    def __init__(self, screens: Screens, plan: Plan, max_hops: int) -> None:
        self.screens, self.plan, self.max_hops = screens, plan, max_hops
        self.elements, self.reader, self.clock = screens.elements, screens.reader, screens.clock
        self._limited = self.clock.limited
        self.layout: Layout = layout_of(plan)
        self._tests = self._compiled()
        self._used = [self._edges_before(place) for place in range(len(plan))]

    # ---- what a step admits

    def extended(self, place: int, row: Row) -> Iterable[Row]:
        """Return what rows become by one step of the plan, in order."""
        step = self.plan[place]
        if isinstance(step, Scan):
            rows = ((*row, position) for position in self.screens.nodes(step.node))
            return (new for new in rows if self._holds(place, new)) if self._tests[place] else rows
        if self.elements.edge(step.edge).hops is not None:
            return self._trails(place, step, row)
        return [new for new, _ in self._hops(place, step, row)]

    def _hops(self, place: int, step: Follow, row: Row) -> list[tuple[Row, Step]]:
        """Return the rows with one relationship more, and what was stepped."""
        edge, start = self.elements.edge(step.edge), row[self.layout[step.start].place]
        steps: Sequence[Step] = self.screens.steps(edge, self._direction(step), step.end, start)
        used = self._used[place](row)
        if used:
            steps = [one for one in steps if one[0] not in used]
        if step.closing:
            end = row[self.layout[step.end].place]
            rows = [((*row, one[0]), one) for one in steps if one[1] == end]
        else:
            rows = [(row + one, one) for one in steps]
        return [one for one in rows if self._holds(place, one[0])] if self._tests[place] else rows

    def _trails(self, place: int, step: Follow, row: Row) -> Iterator[Row]:
        """Yield the rows with several hops more; a trail comes before those that go on from it."""
        stack: list[tuple[tuple[int, ...], int]] = [((), row[self.layout[step.start].place])]
        while stack:
            self.clock.tick()
            trail, position = stack.pop()
            ended = self._ended(place, step, row, trail, position)
            if ended is not None:
                yield ended
            onward = self._onward(place, step, row, trail, position)
            stack.extend(((*trail, number), node) for number, node in reversed(onward))

    def _ended(self, place: int, step: Follow, row: Row, trail: tuple[int, ...], position: int) -> Row | None:
        """Return the row whose hops end at a node, where they may."""
        hops = self.elements.edge(step.edge).hops
        assert hops is not None
        if len(trail) < hops.least or not self.screens.admits(step.end, position):
            return None
        if step.closing and position != row[self.layout[step.end].place]:
            return None
        new = (*row, trail) if step.closing else (*row, trail, position)
        return new if self._holds(place, new) else None

    def _onward(self, place: int, step: Follow, row: Row, trail: tuple[int, ...], position: int) -> list[Step]:
        """Return the next hops from a node."""
        edge = self.elements.edge(step.edge)
        assert edge.hops is not None
        if len(trail) == edge.hops.most:
            return []
        used = self._used[place](row)
        steps = self.screens.steps(edge, self._direction(step), None, position)
        steps = [one for one in steps if one[0] not in trail and one[0] not in used]
        if steps and edge.hops.most is None and len(trail) >= max(self.max_hops, edge.hops.least):
            raise InputTooLargeError(
                refusal(
                    self.elements.query.text,
                    edge.position,
                    f"paths of {edge.hops} go on beyond {len(trail)} hops; bound it, as in *1..4, or pass max_hops=",
                ).args[0]
            )
        return steps

    def _direction(self, step: Follow) -> str:
        direction = self.elements.edge(step.edge).direction
        if step.backwards and direction != "both":
            return "in" if direction == "out" else "out"
        return direction

    def _holds(self, place: int, row: Row) -> bool:
        tests = self._tests[place]
        if tests and self._limited:
            self.clock.check()
        return all(test(row) for test in tests)

    def _compiled(self) -> list[list[Test]]:
        """Return the tests of rows that each step makes possible."""
        compiler, bound = Compiler(self.elements, self.reader, self.layout, self.clock), set[int]()
        waiting, tests = self.screens.across(), []
        for step in self.plan:
            bound |= {step.node} if isinstance(step, Scan) else {step.edge, step.end}
            tests.append([compiler.test(part) for part, needs in waiting if needs <= bound])
            waiting = [(part, needs) for part, needs in waiting if not needs <= bound]
        return tests

    def _edges_before(self, place: int) -> Callable[[Row], Any]:
        """Return what gives the edges that a row has before a step: none of them may be taken again."""
        edges = [step.edge for step in self.plan[:place] if isinstance(step, Follow)]
        single = [self.layout[edge].place for edge in edges if self.elements.edge(edge).hops is None]
        several = [self.layout[edge].place for edge in edges if self.elements.edge(edge).hops is not None]
        if not several:
            return (lambda row: [row[i] for i in single]) if single else lambda row: ()
        return lambda row: {row[i] for i in single}.union(*(row[i] for i in several))

    # ---- all rows, depth first

    def rows(self) -> Iterator[Scored]:
        """Yield all rows, in the order of their values.

        Raises
        ------
        Expired
        """
        if not self.screens.possible():
            return
        stack = [iter(self.extended(0, ()))]
        while stack:
            row = next(stack[-1], None)
            if row is None:
                stack.pop()
                continue
            self.clock.tick()
            if len(stack) == len(self.plan):
                yield Scored(row, 0.0, ())
            else:
                stack.append(iter(self.extended(len(stack), row)))

    # ---- best rows first

    def best(self, per_step: int | None) -> Iterator[Scored]:
        """Yield rows by the product of their steps' attention weights, ties in the order of their values.

        Weights are at most 1, so that no row becomes better by a step, and the best of all that is begun comes first.

        Parameters
        ----------
        per_step : int or None
            How many of each row's next steps are kept.

        Raises
        ------
        Expired
        """
        if not self.screens.possible():
            return
        heap: list[_Begun] = [(0.0, (), 0, -1, ())]
        given = False
        try:
            while heap:
                self.clock.tick()
                if heap[0][2] == len(self.plan):
                    given = True
                    yield _scored(heapq.heappop(heap))
                    continue
                longer = self._longer(heap[0], per_step)  # where the time ends in it, what is begun is all there
                heapq.heappop(heap)
                for one in longer:
                    heapq.heappush(heap, one)
        except Expired:
            self.clock.prolong()
            yield from self._at_hand(heap, given, per_step)
            raise

    def _longer(self, begun: _Begun, per_step: int | None) -> list[_Begun]:
        """Return what a row that is begun becomes by one step more."""
        cost, row, place, here, weights = begun
        step, longer = self.plan[place], []
        if isinstance(step, Follow) and self.elements.edge(step.edge).hops is not None:
            if here < 0:
                row, here = (*row, ()), row[self.layout[step.start].place]
            ended = self._ended(place, step, row[:-1], row[-1], here)
            if ended is not None:
                longer.append((cost, ended, place + 1, -1, weights))
            found = self._hops_onward(place, step, row, here)
            then = place
        else:
            found = self._choices(place, step, row)
            then = place + 1
        if place == 0 and self.screens.started:  # no choice, no step
            return longer + [(cost, new, then, -1, weights) for new, _ in found]
        for new, node, log_weight in self._weighed(found, per_step):
            goes_on = node if then == place else -1
            longer.append((cost - log_weight, new, then, goes_on, (*weights, math.exp(log_weight))))
        return longer

    def _at_hand(self, heap: list[_Begun], given: bool, per_step: int | None) -> Iterator[Scored]:
        """Yield, best first, the complete rows of what is begun; where there is none, the first that can be made so."""
        done = [one for one in heap if one[2] == len(self.plan)]
        if not (done or given):
            done = self._first_done(heap, per_step)
        heapq.heapify(done)
        while done:
            yield _scored(heapq.heappop(done))

    def _first_done(self, heap: list[_Begun], per_step: int | None) -> list[_Begun]:
        """Return complete rows, found from the best that is begun on: what has most steps is gone on with first."""
        deepest, done = [(-one[2], -len(one[4]), one) for one in heap], []
        heapq.heapify(deepest)
        with suppress(Expired):
            while deepest:
                self.clock.check()
                one = heapq.heappop(deepest)[-1]
                if one[2] == len(self.plan):
                    done.append(one)
                    continue
                for longer in self._longer(one, per_step):
                    heapq.heappush(deepest, (-longer[2], -len(longer[4]), longer))
        return done

    def _choices(self, place: int, step: Scan | Follow, row: Row) -> list[tuple[Row, Step]]:
        """Return the rows with one node or one relationship more, and what was stepped."""
        if isinstance(step, Follow):
            return self._hops(place, step, row)
        return [(new, (-1, new[-1])) for new in self.extended(place, row)]

    def _hops_onward(self, place: int, step: Follow, row: Row, here: int) -> list[tuple[Row, Step]]:
        """Return the rows with one of several hops more; at the last hop, those that may end there."""
        before, trail = row[:-1], row[-1]
        hops = self.elements.edge(step.edge).hops
        assert hops is not None
        found = []
        for one in self._onward(place, step, before, trail, here):
            longer = (*trail, one[0])
            if len(longer) != hops.most or self._ended(place, step, before, longer, one[1]) is not None:
                found.append(((*before, longer), one))
        return found

    def _weighed(self, found: list[tuple[Row, Step]], per_step: int | None) -> list[tuple[Row, int, float]]:
        """Return rows, the nodes stepped to and the logarithms of the steps' weights; the best where that many are."""
        logs = self.reader.log_weights([step for _, step in found], self.clock).tolist()
        weighed = [(row, step[1], log) for (row, step), log in zip(found, logs, strict=True) if log > -math.inf]
        if per_step is not None and len(weighed) > per_step:
            weighed = sorted(weighed, key=lambda one: -one[2])[:per_step]  # stable: ties in order
        return weighed
