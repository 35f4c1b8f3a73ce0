"""Measure this library beside others on the same vectors: recall against queries per second, build time and bytes."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.integrations.candidates import Labels, exact_search
from attnbridge.integrations.configurations import OURS
from attnbridge.integrations.contenders import Contender, Setting
from attnbridge.integrations.footprint import CONTENDERS, footprint
from attnbridge.integrations.timing import interleaved, medians
from attnbridge.metric import Keys, Metric
from attnbridge.progress import progress_bar
from attnbridge.threads import for_chunks, usable_threads
from attnbridge.validation import as_choice, as_count, as_matrix, as_number, require

_Rows = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]

# Queries that exact search takes at a time, and those asked of an index that a fresh process has opened.
_CHUNK, _PROBES = 64, 100

# Queries of a filtered search: a filter that is a Python function takes its time.
_FILTERED = 50

EFS = (10, 20, 30, 50, 80, 120, 200, 400)
_METRICS = ("cosine", "ip", "l2")
SHARES = (0.5, 0.1, 0.01, 0.001)


class Index(NamedTuple):
    """What one index took.

    Parameters
    ----------
    name : str
    build_seconds : float
        With all threads.
    told_bytes, disk_bytes, resident_bytes : int or None
        See `Footprint`.

    Examples
    --------
    >>> from attnbridge.integrations.benchmark import Index
    >>> Index("hnswlib", 9.5, 1_000, 1_000, 1_100).name
    'hnswlib'
    """

    name: str
    build_seconds: float
    told_bytes: int | None
    disk_bytes: int
    resident_bytes: int


class Point(NamedTuple):
    """One breadth of one index's searches.

    Parameters
    ----------
    name : str
    threads : int
    ef : int
    recall : float
        Mean over the queries.
    queries_per_second : float
        Median over the rounds.

    Examples
    --------
    >>> from attnbridge.integrations.benchmark import Point
    >>> Point("hnswlib", 1, 50, 0.97, 3_000.0).recall
    0.97
    """

    name: str
    threads: int
    ef: int
    recall: float
    queries_per_second: float


class FilterPoint(NamedTuple):
    """One index's searches under one filter, on one thread.

    Parameters
    ----------
    name : str
    share : float
        Of the rows that the filter lets pass.
    rows : int
        How many that are.
    ef : int
    recall : float
        Mean over the queries; where fewer than k rows pass, of those.
    queries_per_second : float
    fewest : int
        Hits of the query that got the fewest.

    Examples
    --------
    >>> from attnbridge.integrations.benchmark import FilterPoint
    >>> FilterPoint("hnswlib", 0.1, 500, 100, 0.97, 300.0, 10).rows
    500
    """

    name: str
    share: float
    rows: int
    ef: int
    recall: float
    queries_per_second: float
    fewest: int


class Level(NamedTuple):
    """One index's speed at one recall.

    Parameters
    ----------
    name : str
    threads : int
    recall : float
        The level.
    queries_per_second : float or None
        None where no breadth reached it.
    over_hnswlib, over_best_peer : float or None
        That speed over hnswlib's, and over that of the fastest index that is not this library's.

    Examples
    --------
    >>> from attnbridge.integrations.benchmark import Level
    >>> Level("attnbridge-hnswlib", 1, 0.95, 3_000.0, 1.5, 1.1).over_hnswlib
    1.5
    """

    name: str
    threads: int
    recall: float
    queries_per_second: float | None
    over_hnswlib: float | None
    over_best_peer: float | None


@dataclass(frozen=True)
class Benchmark:
    """The answer of `benchmark`.

    Parameters
    ----------
    about : dict
        The settings.
    indexes : tuple of Index
    points : tuple of Point
    filtered : tuple of FilterPoint
    skipped : dict of str to str
        Contender -> why it did not run.
    unfiltered : dict of str to str
        Contender -> why it has no filtered searches.
    """

    about: dict[str, Any]
    indexes: tuple[Index, ...]
    points: tuple[Point, ...]
    filtered: tuple[FilterPoint, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    unfiltered: Mapping[str, str] = field(default_factory=dict)

    def curve(self, name: str, threads: int) -> list[Point]:
        """Return an index's points, by breadth.

        Parameters
        ----------
        name : str
        threads : int

        Returns
        -------
        list of Point
        """
        return [point for point in self.points if (point.name, point.threads) == (name, threads)]

    def levels(self, recall: float) -> list[Level]:
        """Return every index's speed at a recall, on each number of threads.

        Parameters
        ----------
        recall : float

        Returns
        -------
        list of Level
        """
        out = []
        for threads in self.about["threads"]:
            speeds = {index.name: speed_at(self.curve(index.name, threads), recall) for index in self.indexes}
            best = max((speed for name, speed in speeds.items() if name not in OURS and speed), default=None)
            for name, speed in speeds.items():
                out.append(Level(name, threads, recall, speed, _over(speed, speeds.get("hnswlib")), _over(speed, best)))
        return out


def _over(speed: float | None, other: float | None) -> float | None:
    return speed / other if speed and other else None


def speed_at(points: Sequence[Point], recall: float) -> float | None:
    """Return the queries per second at a recall, None where no point reaches it.

    Between the two points next to it: linear in recall and in the logarithm of the speed. Points that another one
    beats in both do not count. Where all are above the recall it is the speed of the fastest.

    Parameters
    ----------
    points : list of Point
    recall : float

    Returns
    -------
    float or None

    Examples
    --------
    >>> from attnbridge.integrations.benchmark import Point, speed_at
    >>> points = [Point("a", 1, 10, 0.9, 4_000.0), Point("a", 1, 50, 1.0, 1_000.0)]
    >>> round(speed_at(points, 0.95)), round(speed_at(points, 0.5)), speed_at(points[:1], 0.95)
    (2000, 4000, None)
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.recall, -point.queries_per_second)):
        if not front or point.queries_per_second > front[-1].queries_per_second:
            front.append(point)
    front.reverse()
    if not front or front[-1].recall < recall:
        return None
    recalls = [point.recall for point in front]
    return float(np.exp(np.interp(recall, recalls, np.log([point.queries_per_second for point in front]))))


def benchmark(
    vectors: npt.ArrayLike,
    queries: npt.ArrayLike | int = 1_000,
    *,
    metric: str = "cosine",
    k: int = 10,
    M: int = 16,  # noqa: N803 - the paper's name
    ef_construction: int = 200,
    efs: Sequence[int] = EFS,
    threads: Sequence[int] | None = None,
    rounds: int = 5,
    only: Sequence[str] | None = None,
    filter_shares: Sequence[float] = (),
    filter_ef: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Benchmark:
    """Build every index that is installed over the same vectors, and ask all of them the same queries.

    Parameters
    ----------
    vectors : array_like, (n, d)
    queries : array_like, (b, d), or int, default 1,000
        A number holds out so many of the vectors, drawn at random.
    metric : {"cosine", "ip", "l2"}, default "cosine"
        Under cosine rows and queries are made unit vectors beforehand, which no index is charged for.
    k : int, default 10
    M, ef_construction : int, default 16, 200
        Of every graph.
    efs : list of int
        Breadths of the searches, each at least k.
    threads : list of int, optional
        For the searches; by default one, and all usable cores. Graphs are built with all of them.
    rounds : int, default 5
        Every round asks every index at every breadth; the medians count.
    only : list of str, optional
        Names of contenders; by default all of `CONTENDERS` that can run.
    filter_shares : list of float, default none
        Shares of the rows that random filters let pass, each in (0, 1]; at least k rows.
    filter_ef : int, default 100
        Breadth of the filtered searches.
    seed : int, default 0
        Of the held-out queries and the filters.
    progress : bool, default True
        Show progress bars where stderr is a terminal.

    Returns
    -------
    Benchmark

    Raises
    ------
    InvalidInputError, DimensionMismatchError
        Vectors or queries that cannot be; fewer rows than k.
    InvalidConfigError
        An option out of range, an unknown contender (the known ones are listed) or one without the metric.
    MissingDependencyError
        A contender named by `only` is not installed; the message has the remedy.

    Notes
    -----
    A hit counts if exact search in float32 returns it too, or if it is as near as exact search's last hit: of equal
    rows it does not matter which one comes back. All indexes are in memory at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations.benchmark import benchmark
    >>> rows = np.random.default_rng(0).standard_normal((500, 8))
    >>> found = benchmark(rows, 50, only=["hnswlib"], efs=[400], threads=[1], rounds=1)
    >>> [(point.name, point.recall) for point in found.points]
    [('hnswlib', 1.0)]
    """
    k, rounds = as_count(k, "k"), as_count(rounds, "rounds")
    efs = sorted({_breadth(ef, k, "ef") for ef in efs})
    if not efs:
        raise InvalidConfigError("ef must hold at least one breadth, got none")
    filter_ef = _breadth(filter_ef, k, "filter_ef")
    shares = [as_number(share, "filter_shares", above=0.0, most=1.0) for share in filter_shares]
    counts = sorted({usable_threads(count) for count in ((1, usable_threads()) if threads is None else threads)})
    asked = _Asked(vectors, queries, Metric(as_choice(metric, "metric", _METRICS)), k, as_count(seed, "seed", least=0))
    setting = Setting(
        metric, asked.rows.shape[1], as_count(M, "M", least=2), as_count(ef_construction, "ef_construction")
    )
    contenders, skipped = _chosen(setting, only)
    ready = _ready(asked, contenders, skipped, efs, counts[-1], progress)
    contenders = {name: contenders[name] for name in ready}
    points = _points(asked, contenders, ready, efs, counts, rounds, progress)
    unfiltered = {name: one.no_filter for name, one in contenders.items() if one.no_filter is not None}
    able = {name: one for name, one in contenders.items() if name not in unfiltered}
    filtered = _filtered(asked, able, shares, filter_ef, rounds, progress)
    about = {
        "rows": len(asked.rows),
        **setting._asdict(),
        "queries": len(asked.queries),
        "k": k,
        "threads": counts,
        "build_threads": usable_threads(),
        "load": _load(),
        "rounds": rounds,
        "seed": seed,
    }
    indexes = tuple(one.figures for one in ready.values())
    return Benchmark(about, indexes, tuple(points), tuple(filtered), skipped, unfiltered if shares else {})


def _load() -> float | None:
    """Return how many processes of the machine want to run, where it tells: figures of a busy one are rough."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _breadth(ef: int, k: int, name: str) -> int:
    if as_count(ef, name) < k:
        raise InvalidConfigError(
            f"{name} must be at least k: a search of breadth {ef} does not find {k} rows; raise it"
        )
    return ef


class _Asked:
    """Checked rows and queries, and what is true of them."""

    def __init__(self, vectors: Any, queries: Any, metric: Metric, k: int, seed: int) -> None:
        rows = as_matrix(vectors, "vectors")
        if isinstance(queries, int | np.integer):
            count = as_count(queries, "queries")
            if count >= len(rows):
                raise InvalidInputError(
                    f"queries must be fewer than the vectors they are drawn from, got {count} of {len(rows)}; ask for "
                    "fewer, or give a file of queries"
                )
            order = np.random.default_rng(seed).permutation(len(rows))
            rows, queries = rows[np.sort(order[count:])], rows[order[:count]]
        self.queries = as_matrix(queries, "queries", dim=rows.shape[1])
        if not len(self.queries):
            raise InvalidInputError("queries must hold at least one vector, got none")
        if len(rows) < k:
            raise InvalidInputError(f"vectors must be at least k={k} rows besides the queries, got {len(rows)}")
        self.metric, self.k, self.seed = metric, k, seed
        self.rows = self._unit(rows, "vectors")
        self.queries = self._unit(self.queries, "queries")
        self._keys = Keys(self.rows, *metric.row_terms(self.rows, "vectors"))
        self.truth = self.exact(self.queries, None)

    def _unit(self, vectors: npt.NDArray[Any], name: str) -> _Rows:
        """Return vectors as every index gets them."""
        scale = self.metric.row_terms(vectors, name)[0]  # refuses zero vectors
        unit = vectors if scale is None else vectors * scale[:, None]
        return np.ascontiguousarray(unit, np.float32)

    def exact(self, queries: _Rows, allowed: Labels | None) -> Labels:
        """Return the nearest of all rows, or of the allowed ones; -1 where they are fewer than k."""
        prepared, bias = self.metric.prepare(queries, "queries")
        labels = np.empty((len(queries), self.k), np.int64)

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            labels[part], _ = exact_search(self._keys, self.metric, prepared[part], bias[part], self.k, allowed)

        for_chunks(work, len(queries), _CHUNK, usable_threads())
        return labels

    def recall(self, found: Labels, truth: Labels) -> float:
        """Return the mean share of the true hits, or of their equals, over the first queries."""
        ours, theirs = self._similarities(found), self._similarities(truth)
        last = np.where(truth >= 0, theirs, np.inf).min(axis=1, keepdims=True)
        shares = ((found >= 0) & (ours >= last)).sum(axis=1) / (truth >= 0).sum(axis=1)
        return float(np.minimum(shares, 1.0).mean())

    def _similarities(self, labels: Labels) -> npt.NDArray[np.float64]:
        """Return those of the first queries to their labels, in one arithmetic for whoever found them."""
        out = np.empty(labels.shape)
        for i, row in enumerate(labels):
            near, query = self.rows[row].astype(np.float64), self.queries[i].astype(np.float64)
            out[i] = -((near - query) ** 2).sum(axis=1) if self.metric.name == "l2" else (near * query).sum(axis=1)
        return out

    def mask(self, share: float, place: int) -> _Mask:
        """Return a random filter that lets at least k rows pass."""
        passing = max(round(share * len(self.rows)), self.k)
        mask = np.zeros(len(self.rows), np.bool_)
        mask[np.random.default_rng([self.seed, place]).choice(len(mask), passing, replace=False)] = True
        return mask


def _chosen(setting: Setting, only: Sequence[str] | None) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return the contenders that can run, and why others cannot."""
    contenders, skipped = dict[str, Contender](), dict[str, str]()
    for name in CONTENDERS if only is None else dict.fromkeys(only):
        one = CONTENDERS[as_choice(name, "only", CONTENDERS)](setting)
        problem = one.problem()
        if problem is None:
            contenders[name] = one
            continue
        if only is not None:
            require(one.module, "bench")
            raise InvalidConfigError(f"only must name contenders that can run, but {name} {problem}; leave it out")
        skipped[name] = problem
    return contenders, skipped


class _Ready(NamedTuple):
    """A built index, and its recall at each breadth."""

    figures: Index
    recalls: dict[int, float]


def _ready(
    asked: _Asked,
    contenders: dict[str, Contender],
    skipped: dict[str, str],
    efs: Sequence[int],
    threads: int,
    progress: bool,
) -> dict[str, _Ready]:
    """Build and weigh each index, and measure its recall; a contender that fails leaves the field."""
    ready = {}
    with progress_bar(len(contenders) * (2 + len(efs)), "building", progress) as advance:
        for name, one in contenders.items():
            try:
                started = time.perf_counter()
                one.build(asked.rows, usable_threads())
                seconds = time.perf_counter() - started
                advance(1)
                figures = Index(name, seconds, *footprint(name, one, asked.queries[:_PROBES], asked.k, efs[-1]))
                advance(1)
                recalls = {}
                for ef in efs:
                    found = one.search(asked.queries, asked.k, ef, threads)
                    recalls[ef] = asked.recall(found, asked.truth)
                    advance(1)
                ready[name] = _Ready(figures, recalls)
            except RuntimeError as error:  # the libraries' own word for it
                skipped[name] = f"failed: {error}"
    if not ready:
        reasons = "; ".join(f"{name} {problem}" for name, problem in skipped.items())
        raise InvalidConfigError(f"only must leave a contender that can run, but none could: {reasons}")
    return ready


def _points(
    asked: _Asked,
    contenders: dict[str, Contender],
    ready: dict[str, _Ready],
    efs: Sequence[int],
    threads: Sequence[int],
    rounds: int,
    progress: bool,
) -> list[Point]:
    """Measure speed in rounds."""
    runs = {
        (name, count, ef): _run(one, asked, ef, count)
        for name, one in contenders.items()
        for count in threads
        for ef in efs
    }
    with progress_bar(len(runs) * (rounds + 1), "timing", progress) as advance:
        middle = medians(interleaved(runs, rounds, advance))
    return [
        Point(name, count, ef, ready[name].recalls[ef], len(asked.queries) / seconds)
        for (name, count, ef), seconds in middle.items()
    ]


def _run(contender: Contender, asked: _Asked, ef: int, threads: int) -> Callable[[int], object]:
    return lambda _: contender.search(asked.queries, asked.k, ef, threads)


def _filtered(
    asked: _Asked, contenders: dict[str, Contender], shares: Sequence[float], ef: int, rounds: int, progress: bool
) -> list[FilterPoint]:
    """Measure filtered searches, one share after the other."""
    points = []
    queries = asked.queries[:_FILTERED]
    with progress_bar(len(shares) * len(contenders) * (rounds + 2), "filters", progress) as advance:
        for place, share in enumerate(shares):
            mask = asked.mask(share, place)
            truth = asked.exact(queries, np.flatnonzero(mask))
            found = {}
            for name, one in contenders.items():
                found[name] = one.search_filtered(queries, asked.k, ef, mask)
                advance(1)
            runs = {name: _filtered_run(one, queries, asked.k, ef, mask) for name, one in contenders.items()}
            for name, seconds in medians(interleaved(runs, rounds, advance)).items():
                labels = found[name]
                fewest = int((labels >= 0).sum(axis=1).min())
                recall, speed = asked.recall(labels, truth), len(queries) / seconds
                points.append(FilterPoint(name, share, int(mask.sum()), ef, recall, speed, fewest))
    return points


def _filtered_run(contender: Contender, queries: _Rows, k: int, ef: int, mask: _Mask) -> Callable[[int], object]:
    return lambda _: contender.search_filtered(queries, k, ef, mask)
