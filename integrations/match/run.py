"""A match from its text to its rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from attnbridge.errors import InputTooLargeError, InvalidConfigError
from attnbridge.integrations.clock import Clock, Expired
from attnbridge.integrations.graph_data import TYPE, GraphData
from attnbridge.integrations.match.compiler import Layout, Row, path_slots
from attnbridge.integrations.match.elements import Elements
from attnbridge.integrations.match.matches import Matches
from attnbridge.integrations.match.parser import parse
from attnbridge.integrations.match.plan import as_written, cheapest, layout_of
from attnbridge.integrations.match.projection import Projection
from attnbridge.integrations.match.reader import Numbers, Reader
from attnbridge.integrations.match.search import Scored, Screens, Search
from attnbridge.integrations.match.trails import Trails
from attnbridge.integrations.match.unknown import warn_of_unknown
from attnbridge.integrations.topology import Positions, Topology
from attnbridge.validation import as_count, as_number, as_text

MAX_HOPS = 16
MAX_ROWS = 1_000_000


class Scoring(NamedTuple):
    """A query over the nodes of a graph.

    Parameters
    ----------
    logits : callable
        The query's logits with nodes by their positions; -inf or NaN of nodes that are never stepped to.
    edge_weights : callable
        The weights > 0 of edges by their numbers, or None where all weigh the same.
    """

    logits: Callable[[Positions], Numbers]
    edge_weights: Callable[[Positions], Numbers | None]


class Options(NamedTuple):
    """How a match is made, checked.

    Parameters
    ----------
    per_step : int or None
    max_hops : int
    max_rows : int
    time_budget : float or None
    labels : tuple of str
    type : hashable
    """

    per_step: int | None
    max_hops: int
    max_rows: int
    time_budget: float | None
    labels: tuple[str, ...]
    type: Any


def as_options(
    scored: bool,
    per_step: Any = None,
    max_hops: Any = MAX_HOPS,
    max_rows: Any = MAX_ROWS,
    time_budget: Any = None,
    labels: Any = ("label", "labels"),
    type: Any = None,
    type_name: Any = TYPE,
) -> Options:
    """Return the options of a match, or say what is wrong with them."""
    if per_step is not None and not scored:
        raise InvalidConfigError(
            f"per_step must come with a query, which steps are ranked by; got {per_step!r} without"
        )
    names = (labels,) if isinstance(labels, str) else tuple(labels) if isinstance(labels, Sequence) else (labels,)
    if not names:
        raise InvalidConfigError(
            f"labels must name at least one attribute, got {labels!r}; leave it out for the usual ones"
        )
    return Options(
        None if per_step is None else as_count(per_step, "per_step"),
        as_count(max_hops, "max_hops"),
        as_count(max_rows, "max_rows"),
        None if time_budget is None else as_number(time_budget, "time_budget", least=0.0),
        tuple(as_text(name, "labels") for name in names),
        type_name if type is None else as_text(type, "type"),
    )


def as_params(params: Any) -> Mapping[str, Any]:
    """Return the values of a pattern's parameters, or say what they must be."""
    if params is None:
        return {}
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise InvalidConfigError(f"params must be values by name, such as {{'year': 2010}}, got {params!r}")
    return params


def run(
    data: GraphData,
    topology: Topology,
    pattern: str,
    options: Options,
    *,
    params: Mapping[str, Any] | None = None,
    start: int | None = None,
    scoring: Scoring | None = None,
) -> Matches:
    """Return the rows of a pattern.

    Parameters
    ----------
    data : GraphData
        Where attributes are read.
    topology : Topology
    pattern : str
    options : Options
    params : mapping of str to object, optional
    start : int, optional
        The position of the node that the pattern's first node is.
    scoring : Scoring, optional
        The query; without one all rows are found, and none has a score.

    Returns
    -------
    Matches

    Raises
    ------
    InvalidInputError, InvalidConfigError, InputTooLargeError
    """
    query = parse(as_text(pattern, "pattern"))
    elements = Elements(query, as_params(params), scoring is not None)
    reader = Reader(data, topology, options.labels, options.type, *(scoring or ()))
    screens = Screens(elements, reader, start, Clock(options.time_budget, _kept(elements)))
    plan = as_written(elements)
    layout = layout_of(plan)
    projection = Projection(elements, reader, layout, options.time_budget)
    rows = _Rows(screens, options, scoring is not None)
    entries = projection.entries(rows)
    if start is not None:  # it was no choice: nothing has asked for its logit yet
        reader.read_logits([start])
    if options.time_budget is None and all(found is None for found, _ in entries):
        warn_of_unknown(elements, reader, data.looked_for)
    return Matches(
        tuple(column.name for column in elements.returns.columns),
        [values for _, values in entries],
        [found for found, _ in entries],
        topology,
        [path_slots(elements, layout, number) for number in range(len(elements.paths))],
        scoring is not None,
        Trails(data, topology, plan, start is not None, options.type, reader.known_logits),
        rows.complete and projection.complete,
    )


def _kept(elements: Elements) -> float:
    """Return the share of a time budget that is kept for what follows when rows are found."""
    return 0.2 if elements.scored or elements.returns.order else 0.1


class _Rows:
    """The rows of a pattern in the layout of the plan as it is written, found as that is quickest.

    Attributes
    ----------
    complete : bool
    unsorted : bool
        Whether they come in another order than that of their values: with a time budget they are not waited for.
    """

    def __init__(self, screens: Screens, options: Options, scored: bool) -> None:
        self.screens, self.options, self.scored = screens, options, scored
        self.complete, self.unsorted = True, False

    def __iter__(self) -> Iterator[Scored]:
        try:
            rows = self._found()
        except Expired:  # before there was any row
            self.complete = False
            rows = iter(())
        return rows

    def _found(self) -> Iterator[Scored]:
        elements = self.screens.elements
        written = as_written(elements)
        if self.scored:  # each step's weight is the share of one choice among others: the text says which comes first
            return self._limited(self._search(written).best(self.options.per_step))
        nodes = {node.number for node in elements.nodes()}
        plan = cheapest(elements, [self.screens.count(i) if i in nodes else 0.0 for i in range(len(elements.all))])
        search = self._search(plan)
        if plan == written:
            return self._limited(search.rows())
        source, target = search.layout, layout_of(written)
        found = (_moved(scored.row, source, target) for scored in self._limited(search.rows()))
        self.unsorted = self.screens.clock.limited
        return (Scored(row, 0.0, ()) for row in (found if self.unsorted else sorted(found)))

    def _search(self, plan: Any) -> Search:
        return Search(self.screens, plan, self.options.max_hops)

    def _limited(self, rows: Iterator[Scored]) -> Iterator[Scored]:
        """Yield rows until the time budget is used up; too many are an error."""
        try:
            for count, row in enumerate(rows):
                if count == self.options.max_rows:
                    raise InputTooLargeError(
                        f"the pattern must match at most max_rows = {count} times, got more; add conditions, a start, "
                        "or a LIMIT without ORDER BY, or pass max_rows="
                    )
                yield row
        except Expired:
            self.complete = False


def _moved(row: Row, source: Layout, target: Layout) -> Row:
    """Return a row of one layout in another."""
    moved = []
    for element, (_, backwards) in target.items():
        place, was_backwards = source[element]
        value = row[place]
        moved.append(value[::-1] if isinstance(value, tuple) and backwards != was_backwards else value)
    return tuple(moved)
