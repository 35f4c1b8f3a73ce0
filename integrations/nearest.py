"""The candidates of a chunk of queries: from the index and its tail, or by reading rows."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import IndexCorruptError
from attnbridge.integrations.candidates import (
    Distances,
    Labels,
    as_distances,
    distances_of,
    exact_search,
    exact_search_each,
)
from attnbridge.integrations.graph import Foreign, Graph, Native
from attnbridge.integrations.view import Allowed, Rows, View
from attnbridge.integrations.walk import scan, scan_is_cheaper, steps_of_scans
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Stage

# A filter goes to exact search where reading the allowed rows costs less than the wider graph search that would
# be needed: a candidate of a graph search costs about as much as this many rows read one after the other.
_ROWS_PER_CANDIDATE = 30

# A walk with a filter is given up when it has cost so many scans of the rows that pass.
_MOST_SCANS = 2.0

# So many candidates beyond the last hit with its very code are taken for equal rows.
_EQUAL_CODES = 10

# Standard deviations of what codes are off by, within which the last candidate must not come near the last hit.
_DOUBT = 2.0

_FOREVER = 2**62

# Rows that a search within a radius makes room for at first; and the share of the radius by which it goes beyond: what
# lies close to its edge is linked with what lies outside.
_ROOM, _BEYOND = 4_096, 0.1

# With a time budget exact search looks at the clock after so many values.
_VALUES_A_LOOK = 2_000_000


@dataclass(frozen=True)
class Request:
    """A checked search.

    Parameters
    ----------
    queries : (b, d) float32
    k : int or None
        None for all within the radius.
    offset, candidates : int
    threshold : float or None
    radius : float or None
        Largest distance.
    allowed : list of (Allowed or None), or None
        What each query's filter lets pass; queries that share a filter share the object.
    exclude : int
        A row never to return, or -1.
    exact : bool
    deadline : float or None
        Moment of `time.perf_counter` after which no step is begun.
    stages : sequence of Stage
    ef : int or None
        Breadth of the walk; None for the index's own.
    entries : (b, e) int64, or None
        Rows to begin the walk at, then -1.
    query_tokens : list of ((m, dt) float32, (m,) float64), or None
    threads : int
    query_texts : list of str, or None
        The queries in words.
    """

    queries: npt.NDArray[np.float32]
    k: int | None
    offset: int
    candidates: int
    threshold: float | None
    radius: float | None
    allowed: Sequence[Allowed | None] | None
    exclude: int
    exact: bool
    deadline: float | None
    stages: Sequence[Stage]
    query_tokens: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]] | None
    threads: int
    ef: int | None = None
    entries: npt.NDArray[np.int64] | None = None
    query_texts: Sequence[str] | None = None

    def late(self) -> bool:
        """Return whether the time is over."""
        return self.deadline is not None and time.perf_counter() > self.deadline


class Found(NamedTuple):
    """Candidates of some queries, nearest first, then -1 and inf; and for which of them all that was due was read."""

    labels: Labels
    distances: Distances  # by the compressed rows where `rough`
    complete: npt.NDArray[np.bool_]
    rough: bool = False


class Nearest:
    """The search for the candidates of a chunk of queries.

    Parameters
    ----------
    view : View
    source : Graph, Foreign or None
    metric : Metric
    request : Request
    queries : (b, d) float32
        As the metric prepares them.
    bias : (b,) float64
    first : int
        Number of the chunk's first query in the request.
    """

    def __init__(
        self,
        view: View,
        source: Graph | Foreign | None,
        metric: Metric,
        request: Request,
        queries: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float64],
        first: int,
    ) -> None:
        self.view, self.source, self.metric = view, source, metric
        self.request, self.queries, self.bias = request, queries, bias
        self.raw = request.queries[first : first + len(queries)]
        allowed = request.allowed
        self.allowed = None if allowed is None else allowed[first : first + len(queries)]
        self.complete = np.ones(len(queries), np.bool_)
        self.first = first
        self.native = source.native(view) if isinstance(source, Graph) else None
        self.rough = False  # whether some distances are those of compressed rows
        # What lies within a radius is for the full rows to say: by others one cannot tell where to stop.
        full = request.radius is not None
        self.keys, self.reduction = (view.keys, None) if full else (view.walk, view.reduction)

    def candidates(self) -> Found:
        """Return up to `candidates` rows for each query."""
        found = self._nearest(range(len(self.queries)), self.request.candidates)
        return found._replace(rough=self.rough)

    def within(self, radius: float) -> Found:
        """Return each query's rows within the radius, asking for more and more until one lies beyond."""
        found = []
        # A walk goes on as far as the radius whatever it is asked for; hnswlib returns what it is asked for.
        first, factor = (_ROOM, 16) if self.native is not None else (self.request.candidates, 4)
        for i in range(len(self.queries)):
            n = max(first, self.request.candidates)
            while True:
                one = self._nearest([i], n)
                inside = int((one.distances[0].astype(np.float64) <= radius).sum())
                if inside < one.labels.shape[1] or n >= self.view.live or self.request.late():
                    break
                n *= factor
            self.complete[i] &= inside < one.labels.shape[1] or n >= self.view.live
            found.append((one.labels[0, :inside], one.distances[0, :inside]))
        width = max((len(labels) for labels, _ in found), default=0)
        labels, distances = _padding(len(found), width)
        for i, (inner, near) in enumerate(found):
            labels[i, : len(inner)], distances[i, : len(inner)] = inner, near
        return Found(labels, distances, self.complete)

    def _nearest(self, which: Sequence[int], n: int) -> Found:
        """Return up to n rows for each of the queries named."""
        request, live = self.request, self.view.live
        excluding = int(request.exclude >= 0)
        most = n
        n = min(n + excluding, live)  # k may be any number
        if n == 0:
            return Found(*_padding(len(which), 0), self.complete[which])
        wanted = n if request.k is None else min(request.offset + request.k + excluding, n)
        numbers = np.asarray(which)
        groups = self._routes(which, n, wanted)  # by how many the index is asked for
        if len(groups) == 1:
            ((fetch, places),) = groups.items()
            if fetch is None:
                labels, distances, poor = self._read_all(numbers, n, wanted)
            else:
                labels, distances, poor = self._by_index(numbers, fetch, n, wanted)
        else:
            labels, distances = _padding(len(which), n)
            poor = np.zeros(len(which), np.bool_)
            for fetch, places in groups.items():
                if fetch is None:
                    labels[places], distances[places], poor[places] = self._read_all(numbers[places], n, wanted)
                else:
                    labels[places], distances[places], poor[places] = self._by_index(numbers[places], fetch, n, wanted)
        exact = np.flatnonzero(poor)
        if len(exact):
            if request.late():
                self.complete[numbers[exact]] = False
            else:
                self.complete[numbers[exact]] = True  # whatever a walk did not come to is read now
                labels[exact], distances[exact] = self._exact(numbers[exact], n)
        if excluding:
            keep = (labels >= 0) & (labels != request.exclude)
            labels, distances = _kept(labels, distances, keep, min(n, most))
        return Found(labels, distances, self.complete[numbers])

    def _routes(self, which: Sequence[int], n: int, wanted: int) -> dict[int | None, list[int]]:
        """Return how many rows to ask the index for (None: to read the rows) -> places of queries in `which`."""
        unfiltered = None
        graph = self.native is not None or (self.source is not None and self.source.ready)
        if graph and not self.request.exact:
            narrow = self.request.ef is not None and self.request.ef <= n  # one more would be a broader walk
            more = int(wanted == n and not (self.native and narrow))  # one beyond the last hit: is it tied?
            least = 0 if self.native is not None or self.request.ef is None else self.request.ef
            unfiltered = min(max(n + more, least), self.view.live)
        if self.allowed is None or unfiltered is None:
            return {unfiltered: list(range(len(which)))}
        routes: dict[int | None, list[int]] = {}
        for place, i in enumerate(which):
            allowed = self.allowed[i]
            fetch = unfiltered if allowed is None else self._fetch(allowed.passing, n)
            routes.setdefault(fetch, []).append(place)
        return routes

    def _fetch(self, passing: int, n: int) -> int | None:
        """Return how many rows to ask the index for so that enough pass, or None where reading them costs less."""
        if self.native is not None:
            scanned = scan_is_cheaper(passing, self.view.count, max(n, self._ef()), self._row_bytes())
            return None if scanned else min(n + 1, passing)
        # In steps of a quarter, so that queries with filters alike go to the index together.
        share = 1.5 * self.view.live / max(passing, 1)
        fetch = int(n * 1.25 ** math.ceil(math.log(share) / math.log(1.25))) + 1
        return None if passing < _ROWS_PER_CANDIDATE * fetch else min(fetch, self.view.live)

    def _by_index(
        self, which: npt.NDArray[np.int64], fetch: int, n: int, wanted: int
    ) -> tuple[Labels, Distances, npt.NDArray[np.bool_]]:
        """Return n candidates of each query from graph and tail, and for which queries the rows must be read."""
        if self.native is not None:
            bound = self.native.bound
            labels, distances = self._walked(self.native, which, fetch)
            dropped = np.zeros(len(which), np.bool_)
        else:
            labels, distances, bound, dropped = self._asked(which, fetch)
        passing: int | npt.NDArray[np.int64] = self.view.live
        if self.allowed is not None:
            filters = [self.allowed[i] for i in which]
            passing = np.array([self.view.live if one is None else one.passing for one in filters])
        if bound < self.view.count:
            labels, distances = self._with_tail(which, labels, distances, bound, fetch)
        # Read the rows where the graph did not lead to enough of them, or to the last hit's equals only: of more equal
        # rows than it returns it picks any, and ties go by order of insertion.
        last = wanted - 1
        found = (labels >= 0).sum(axis=1)
        end = np.maximum(np.minimum(found - 1, max(n - 1, wanted)), 0)
        tied = (found > wanted) & (distances[np.arange(len(which)), end] == distances[:, last])
        if self.rough:  # now and then codes are equal where rows are not, but not many
            tied &= end - last >= _EQUAL_CODES
        enough = n if self.native is None or self.request.radius is None else min(n, self.request.candidates)
        few = found < np.minimum(np.where(dropped, wanted, enough), passing)
        return np.ascontiguousarray(labels[:, :n]), np.ascontiguousarray(distances[:, :n]), few | tied

    def _asked(self, which: npt.NDArray[np.int64], fetch: int) -> tuple[Labels, Distances, int, npt.NDArray[np.bool_]]:
        """Return what the index finds of each query's rows, how many it knows, and where it named others than those."""
        assert self.source is not None
        bound = min(self.source.linked, self.view.count)  # before the query: what is linked meanwhile is tail
        labels, distances = self._ask(self.raw if len(which) == len(self.raw) else self.raw[which], fetch)
        dropped = labels >= bound
        keep = (labels >= 0) & ~dropped
        if self.view.live < self.view.count:
            keep &= self.view.alive[np.where(keep, labels, 0)]
        for place, i in enumerate(which):
            one = None if self.allowed is None else self.allowed[i]
            if one is not None:
                keep[place] &= one.mask[np.where(keep[place], labels[place], 0)]
        if not keep.all():
            labels, distances = _kept(labels, distances, keep, fetch)
        return labels, distances, bound, np.any(dropped, axis=1)

    def _ef(self) -> int:
        """Return the breadth of a walk."""
        assert isinstance(self.source, Graph)
        return self.source.index.ef if self.request.ef is None else self.request.ef

    def _walked(self, native: Native, which: npt.NDArray[np.int64], n: int) -> tuple[Labels, Distances]:
        """Return each query's n best of the linked rows that it may find."""
        assert isinstance(self.source, Graph)
        view, request, source = self.view, self.request, self.source
        whole = len(which) == len(self.queries)
        queries, bias = (self.queries, self.bias) if whole else (self.queries[which], self.bias[which])
        (view.check_rows if request.radius is not None else view.check_walk)()
        asked, scale = queries, None
        if self.reduction is not None:
            asked, scale = self.reduction.queries(queries)
        allowed, filters = self._masks(which)
        entries = None if request.entries is None else request.entries[self.first + which]
        limit = self._limit(which)
        steps = limit
        if request.deadline is not None:
            left = max(request.deadline - time.perf_counter(), 0.0)
            steps = min(steps, max(1, int(left * source.pace / len(which))))
        keys, difference = self.keys, self.metric.difference
        if self.metric.name == "l2" and keys.data.dtype == np.float32 and self.reduction is None:
            # by differences, as hnswlib: q . x - |x|^2 / 2 loses digits where vectors are longer than they are apart
            keys, bias, difference = Keys(keys.data), np.full(len(which), 0.5), True
        least = None
        if request.radius is not None:
            least = np.full(len(which), self.metric.similarity(request.radius + _BEYOND * abs(request.radius)))
        began = time.perf_counter()
        found = native.walk.query(
            keys,
            asked,
            bias,
            n if least is None else min(n, request.candidates),
            ef=max(self._ef(), min(n, request.candidates)),
            least=least,
            most=0 if least is None else n,
            query_scale=scale,
            allowed=allowed,
            which=filters,
            entries=entries,
            max_steps=steps,
            difference=difference,
        )
        if request.deadline is not None:
            self.complete[which] &= found.steps <= steps
        source.learn_pace(int(found.steps.sum()), time.perf_counter() - began)
        labels, distances = found.ids, as_distances(self.metric, found.scores.astype(np.float64), found.ids >= 0)
        # Their products would not be what they are, or they went too long a way: the rows are read.
        leave = ~source.within_float32(queries) | (found.steps > limit)
        if leave.any():
            labels[leave], distances[leave] = -1, np.inf
        if self.reduction is None:
            return labels, distances
        if native.bound < view.count:
            return _ordered(labels, self._exact_distances(which, labels), n)
        self.rough = True
        return labels, distances

    def _exact_distances(self, which: npt.NDArray[np.int64], labels: Labels) -> Distances:
        """Return the distances of candidates by the full rows."""
        self.view.check_rows(labels[labels >= 0])
        keys, near = self.view.gathered(labels)
        return distances_of(keys, self.metric, self.queries[which], self.bias[which], near)

    def _masks(self, which: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.int64] | None]:
        """Return the masks of the queries' filters and which of them holds for each; dead rows are in none."""
        alive = self.view.alive if self.view.live < self.view.count else None
        if self.allowed is None:
            return (None, None) if alive is None else (alive[None], None)
        masks: list[npt.NDArray[np.bool_]] = []
        places: dict[int, int] = {}
        numbers = np.full(len(which), -1)
        for place, i in enumerate(which):
            one = self.allowed[i]
            mask = alive if one is None else one.mask
            if mask is None:
                continue
            if id(mask) not in places:
                places[id(mask)] = len(masks)
                masks.append(mask)
            numbers[place] = places[id(mask)]
        if not masks:
            return None, None
        return masks[0][None] if len(masks) == 1 else np.stack(masks), numbers

    def _row_bytes(self) -> int:
        """Return how many bytes of a row a walk reads."""
        return int(self.keys.data.itemsize * self.keys.data.shape[1])

    def _limit(self, which: npt.NDArray[np.int64]) -> int:
        """Return after how many steps to give a walk up: it sees all that is nearer than what passes."""
        filters = [None] if self.allowed is None else [self.allowed[i] for i in which]
        return max(
            _FOREVER if one is None else steps_of_scans(one.passing, self._row_bytes(), _MOST_SCANS) for one in filters
        )

    def _scanned(
        self, which: npt.NDArray[np.int64], n: int, wanted: int
    ) -> tuple[Labels, Distances, npt.NDArray[np.bool_]]:
        """Return the n nearest of the rows that pass each query's filter by their codes, in the order of the full rows.

        And for which queries that does not do: others may be nearer than the last hit, for all that codes tell.
        """
        reduction, view = self.reduction, self.view
        assert reduction is not None
        assert self.allowed is not None
        labels, rough = _padding(len(which), n)
        view.check_walk()
        queries, scale = reduction.queries(self.queries[which])
        passing = np.zeros(len(which), np.int64)
        groups: dict[int, list[int]] = {}
        for place, i in enumerate(which):
            groups.setdefault(id(self.allowed[i]), []).append(place)
        for places in groups.values():
            allowed = self.allowed[which[places[0]]]
            assert allowed is not None
            passing[places] = allowed.passing
            bias = self.bias[which[places]]
            found = scan(view.walk, queries[places], bias, n, allowed.rows, query_scale=scale[places])
            labels[places] = found.ids
            rough[places] = as_distances(self.metric, found.scores.astype(np.float64), found.ids >= 0)
        exact = self._exact_distances(which, labels)
        ordered, distances = _ordered(labels, exact, n)
        with np.errstate(invalid="ignore"):  # inf - inf, where fewer than n pass: all of those were read
            off = exact - rough
            doubtful = distances[:, wanted - 1] > rough[:, -1] + off.mean(axis=1) - _DOUBT * off.std(axis=1)
        return ordered, distances, doubtful & (passing > n)

    def _ask(self, queries: npt.NDArray[np.float32], fetch: int) -> tuple[Labels, Distances]:
        assert self.source is not None
        labels, distances = self.source.query(queries, fetch)
        if isinstance(self.source, Foreign):
            return _checked(self.source, labels, distances, (len(queries), fetch))
        return labels, distances

    def _with_tail(
        self, which: npt.NDArray[np.int64], labels: Labels, distances: Distances, bound: int, n: int
    ) -> tuple[Labels, Distances]:
        """Merge what the index found with the nearest of the rows that it does not hold yet."""
        tail = bound + np.flatnonzero(self.view.alive[bound:])
        lists: list[Rows] = []
        for i in which:
            one = None if self.allowed is None else self.allowed[i]
            lists.append(tail if one is None else bound + np.flatnonzero(one.mask[bound:]))
        self.view.check_rows(tail)
        return _merged((labels, distances), self._read(which, lists, n), n)

    def _read_all(
        self, which: npt.NDArray[np.int64], n: int, wanted: int
    ) -> tuple[Labels, Distances, npt.NDArray[np.bool_]]:
        """Return the n nearest of the rows that each query may find, by codes first, and where that does not do."""
        coded = self.native is not None and self.reduction is not None and self.allowed is not None
        if not coded or self.request.exact or self.request.deadline is not None:
            return *self._exact(which, n), np.zeros(len(which), np.bool_)
        return self._scanned(which, n, wanted)

    def _exact(self, which: npt.NDArray[np.int64], n: int) -> tuple[Labels, Distances]:
        """Return the n nearest of all the rows that each query may find."""
        filters = [None] * len(which) if self.allowed is None else [self.allowed[i] for i in which]
        lists = [None if one is None else one.rows for one in filters]
        if self.request.deadline is None:
            self._check(lists)
            return self._read(which, lists, n)
        everything = self.view.live_rows
        rows = [everything if given is None else given for given in lists]
        step = max(1, _VALUES_A_LOOK // self.view.keys.data.shape[1])
        found = _padding(len(which), n)
        for start in range(0, max(len(r) for r in rows), step):
            if start and self.request.late():
                self.complete[which] &= np.array([len(r) <= start for r in rows])
                break
            parts = [r[start : start + step] for r in rows]
            self._check(parts)
            found = _merged(found, self._read(which, parts, n), n)
        return found

    def _check(self, lists: Sequence[Rows | None]) -> None:
        """Verify the rows that are going to be read."""
        if self.view.guard is not None:
            last: Rows | None = np.empty(0, np.int64)
            for rows in lists:
                if rows is not last:
                    self.view.check_rows(rows)
                last = rows

    def _read(self, which: npt.NDArray[np.int64], lists: Sequence[Rows | None], n: int) -> tuple[Labels, Distances]:
        """Return the n nearest of each query's rows (None: all that live)."""
        queries, bias = self.queries[which], self.bias[which]
        first = lists[0]
        if all(rows is first for rows in lists):
            if first is None and self.view.live < self.view.count:
                first = self.view.live_rows
            return exact_search(self.view.keys, self.metric, queries, bias, n, first)
        each = [self.view.live_rows if rows is None else rows for rows in lists]
        return exact_search_each(self.view.keys, self.metric, queries, bias, n, each)


def _padding(count: int, n: int) -> tuple[Labels, Distances]:
    return np.full((count, n), -1, np.int64), np.full((count, n), np.inf, np.float32)


def _merged(a: tuple[Labels, Distances], b: tuple[Labels, Distances], n: int) -> tuple[Labels, Distances]:
    """Return the n nearest of two lists of each query, ties by the smaller label."""
    return _ordered(np.concatenate([a[0], b[0]], axis=1), np.concatenate([a[1], b[1]], axis=1), n)


def _ordered(labels: Labels, distances: Distances, n: int) -> tuple[Labels, Distances]:
    """Return the n nearest, ties by the smaller label."""
    order = np.lexsort((labels, distances), axis=1)[:, :n]
    return np.take_along_axis(labels, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _checked(source: Foreign, labels: Any, distances: Any, shape: tuple[int, int]) -> tuple[Labels, Distances]:
    """Hold what a source of the user's own returned against the protocol."""
    name = f"{type(source.source).__name__}.query"
    labels, distances = np.asarray(labels), np.asarray(distances, np.float32)
    if labels.shape != shape or distances.shape != shape or labels.dtype.kind not in "iu":
        raise IndexCorruptError(
            f"{name} must return whole-number labels and distances of shape {shape}, got {labels.dtype} "
            f"{labels.shape} and {distances.shape}"
        )
    labels = labels.astype(np.int64)
    if labels.size and labels.max() >= source.linked:
        raise IndexCorruptError(
            f"{name} returned label {labels.max()}, but only {source.linked} rows were added; labels must be those "
            "given to add"
        )
    ordered = np.sort(labels, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        raise IndexCorruptError(f"{name} returned label {ordered[:, 1:][twice][0]} twice for one query")
    return _kept(labels, distances, labels >= 0, shape[1])


def _kept(labels: Labels, distances: Distances, keep: npt.NDArray[np.bool_], n: int) -> tuple[Labels, Distances]:
    """Return the first n kept entries of each row, padded with -1 and inf."""
    out_labels = np.full((len(labels), n), -1, np.int64)
    out_distances = np.full((len(labels), n), np.inf, np.float32)
    for i in range(len(labels)):
        kept = np.flatnonzero(keep[i])[:n]
        out_labels[i, : len(kept)] = labels[i, kept]
        out_distances[i, : len(kept)] = distances[i, kept]
    return out_labels, out_distances
