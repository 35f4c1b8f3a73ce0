"""How good an index's answers are, how fast it gives them and how large it is."""

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.bootstrap import Interval
from attnbridge.cache import uncached
from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.hits import Hits, Id
from attnbridge.progress import progress_bar
from attnbridge.validation import as_count, as_matrix, as_number, require

if TYPE_CHECKING:
    import pandas as pd

    from attnbridge.integrations.bridge import AttentionVectorBridge

# Timed runs of a batch; their median is reported.
_RUNS = 3

_Mask = npt.NDArray[np.bool_]


class AuditRow(NamedTuple):
    """What one filter's searches gave.

    Parameters
    ----------
    selectivity : float
        Share of the rows that the filter lets pass; 1.0 is no filter.
    rows : int
        How many rows that are.
    recall : float
        Mean over the queries of recall@k against exact search under the same score.
    low, high : float
        Its 95 % interval, see `recall_interval`.
    queries_per_second : float
        Of `search_batch` with the bridge's threads: the median of three runs.
    exact_queries_per_second : float
        The same with exact=True.
    hits : float
        Mean number of hits returned.

    Examples
    --------
    >>> from attnbridge.integrations.audit import AuditRow
    >>> AuditRow(1.0, 5_000, 0.98, 0.97, 0.99, 4_000.0, 900.0, 10.0).recall
    0.98
    """

    selectivity: float
    rows: int
    recall: float
    low: float
    high: float
    queries_per_second: float
    exact_queries_per_second: float
    hits: float


@dataclass(frozen=True, repr=False)
class Audit:
    """The answer of `audit`; printed, it is a table.

    Parameters
    ----------
    rows : tuple of AuditRow
        One for each selectivity.
    bytes : mapping of str to int
        The bridge's `memory()`.
    k : int
    queries : int
        How many there were.
    threads : int
        Of the batches.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> from attnbridge.integrations import audit
    >>> bridge = ab.AttentionVectorBridge(dim=8, index="exact")
    >>> _ = bridge.add(np.random.default_rng(0).standard_normal((50, 8)))
    >>> found = audit(bridge, k=5, selectivities=[1.0, 0.5])
    >>> [(row.rows, row.recall, row.hits) for row in found.rows], found.queries
    ([(50, 1.0, 5.0), (25, 1.0, 5.0)], 50)
    """

    rows: tuple[AuditRow, ...]
    bytes: Mapping[str, int]
    k: int
    queries: int
    threads: int

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows as a DataFrame, a column for each field of `AuditRow`.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependencyError
            pandas is not installed.
        """
        return as_frame(self.rows, AuditRow._fields)

    def __repr__(self) -> str:
        title = f"recall@{self.k} against exact search, {self.queries:,} queries, {self.threads} thread(s)"
        columns = ("pass", "rows", "recall", "95 % interval", "queries/s", "exact, queries/s", "hits")
        lines = [
            (
                f"{100 * row.selectivity:g} %",
                f"{row.rows:,}",
                f"{row.recall:.4f}",
                f"{row.low:.4f}..{row.high:.4f}",
                f"{row.queries_per_second:,.0f}",
                f"{row.exact_queries_per_second:,.0f}",
                f"{row.hits:.1f}",
            )
            for row in self.rows
        ]
        sizes = [(name, f"{count:,}") for name, count in self.bytes.items()]
        return f"{title}\n{text_table(columns, lines)}\n\n{text_table(('what', 'bytes'), sizes)}"


def audit(
    bridge: "AttentionVectorBridge",
    k: int = 10,
    *,
    queries: npt.ArrayLike | None = None,
    sample: int = 200,
    selectivities: Iterable[float] | float = (1.0, 0.5, 0.1, 0.01),
    seed: int = 0,
    progress: bool = True,
) -> Audit:
    """Measure a bridge as it is set: recall@k against exact search, with and without filters, speed and bytes.

    Parameters
    ----------
    bridge : AttentionVectorBridge
        What is written to it meanwhile does not count.
    k : int, default 10
    queries : array_like, (b, d), optional
        The best ones are real ones. By default a sample of the stored vectors, each with its own document left out.
    sample : int, default 200
        How many stored vectors, where no queries are given.
    selectivities : list of float, default (1.0, 0.5, 0.1, 0.01)
        Shares of the rows, each in (0, 1], that random filters let pass, but at least as many as k asks for.
    seed : int, default 0
        Of the sample and the filters.
    progress : bool, default True
        Show a progress bar where stderr is a terminal.

    Returns
    -------
    Audit

    Raises
    ------
    InvalidInputError
        Fewer rows than k (and one more where they are the queries), or no queries.
    DimensionMismatchError
        Queries of another dimension than the bridge's.
    InvalidConfigError
        k, sample, selectivities or seed out of range.

    Notes
    -----
    A hit counts if exact search returns it too, or if its score equals that of exact search's last hit: of equal
    documents it does not matter which one comes back. Random filters do not follow the vectors; ones that do (all
    documents of one topic) can be harder or easier.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> from attnbridge.integrations import audit
    >>> bridge = ab.AttentionVectorBridge(dim=8, index="exact")
    >>> _ = bridge.add(np.random.default_rng(0).standard_normal((50, 8)))
    >>> audit(bridge, k=5, selectivities=[1.0]).rows[0].recall
    1.0
    """
    given = selectivities if isinstance(selectivities, Iterable) else [selectivities]
    shares = [as_number(share, "selectivities", above=0.0, most=1.0) for share in given]
    if not shares:
        raise InvalidConfigError("selectivities must hold at least one share in (0, 1], got none")
    probe = Probe(bridge._snapshot(), k, queries, sample, seed)
    rows = []
    with progress_bar(len(shares), "auditing", progress) as advance:
        for place, share in enumerate(shares):
            passing, mask = probe.filter(share, [seed, place])
            truth, exact_speed = probe.run(mask, exact=True)
            found, speed = probe.run(mask, exact=False)
            interval = recall_interval(probe.recalls(found, truth), probe.k)
            hits = float(np.mean([len(hits) for hits in found]))
            rows.append(AuditRow(share, passing, *interval, speed, exact_speed, hits))
            advance(1)
    return Audit(tuple(rows), MappingProxyType(dict(bridge.memory())), probe.k, len(probe.queries), probe.threads)


def recall_interval(recalls: npt.NDArray[np.float64], k: int) -> Interval:
    """Return the mean of the queries' recalls and its 95 % interval.

    Hits are yes-or-no answers in clusters, the queries. Clopper and Pearson's interval for a proportion, with the
    number of independent answers that have the same variance in place of n * k; with n where all queries have the
    same recall. No end is nearer to 1 (or 0) than n perfect queries could show it to be: misses may well come in
    rare queries that miss everything.

    Parameters
    ----------
    recalls : ndarray of float64, (n,)
        In [0, 1], one for each query.
    k : int
        Hits asked for by each query.

    Returns
    -------
    Interval

    References
    ----------
    Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data", Survey Methodology 24 (1998), 193-201.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations.audit import recall_interval
    >>> [round(x, 3) for x in recall_interval(np.ones(200), k=10)]
    [1.0, 0.982, 1.0]
    >>> [round(x, 3) for x in recall_interval(np.tile([0.9, 1.0], 100), k=10)]
    [0.95, 0.94, 0.959]
    """
    from scipy import stats

    n, mean = len(recalls), min(float(np.mean(recalls)), 1.0)
    size = float(n)
    if np.ptp(recalls) > 0.0:
        t, z = stats.t.ppf(0.975, n - 1), stats.norm.ppf(0.975)
        size = min(n * mean * (1.0 - mean) / np.var(recalls, ddof=1) * (z / t) ** 2, n * k)
    hit, missed = size * mean, size * (1.0 - mean)
    low = float(stats.beta.ppf(0.025, hit, missed + 1.0)) if hit else 0.0
    high = float(stats.beta.ppf(0.975, hit + 1.0, missed)) if missed else 1.0
    most = 0.025 ** (1.0 / n)  # the low end for n perfect queries
    return Interval(mean, min(low, most), max(high, 1.0 - most))


class Probe:
    """Checked queries, and a bridge to put them to."""

    def __init__(self, bridge: "AttentionVectorBridge", k: int, queries: Any, sample: int, seed: int) -> None:
        self.bridge, self.k = bridge, as_count(k, "k")
        self.threads: int = bridge.config["threads"]
        count, ids = as_count(sample, "sample"), bridge.ids()
        rng = np.random.default_rng(as_count(seed, "seed", least=0))
        self.least = self.k + (queries is None)  # rows that give every query k hits
        if len(ids) < self.least:
            besides = " besides the query's own" if queries is None else ""
            raise InvalidInputError(
                f"k must be at most the bridge's rows{besides}, got k={self.k} with {len(ids)} rows"
            )
        self.own: list[Id | None]
        if queries is None:
            chosen = [ids[i] for i in rng.choice(len(ids), min(count, len(ids)), replace=False)]
            self.queries, self.own = bridge.get(chosen), list(chosen)
        else:
            self.queries = as_matrix(queries, "queries", dim=bridge.config["dim"])
            self.own = [None] * len(self.queries)
        if not len(self.queries):
            raise InvalidInputError(
                "queries must hold at least one vector, got none; leave them out to have some drawn"
            )

    def filter(self, share: float, seed: list[int]) -> tuple[int, _Mask | None]:
        """Return how many rows a random filter lets pass, and its mask; none for all."""
        rows = len(self.bridge)
        if share == 1.0:
            return rows, None
        passing = max(round(share * rows), self.least)
        mask = np.zeros(rows, np.bool_)
        mask[np.random.default_rng(seed).choice(rows, passing, replace=False)] = True
        return passing, mask

    def run(self, mask: _Mask | None, *, exact: bool) -> tuple[list[list[tuple[Id, float]]], float]:
        """Return each query's k best (id, score) besides itself, and the median of queries per second."""
        seconds, found = [], list[Hits]()
        for _ in range(_RUNS):
            started = time.perf_counter()
            with uncached():
                found = self.bridge.search_batch(self.queries, self.least, filter=mask, exact=exact)
            seconds.append(time.perf_counter() - started)
        pairs = [
            [pair for pair in zip(hits.ids, hits.scores.tolist(), strict=True) if pair[0] != own][: self.k]
            for hits, own in zip(found, self.own, strict=True)
        ]
        return pairs, len(self.queries) / median(seconds)

    def recalls(
        self, found: list[list[tuple[Id, float]]], truth: list[list[tuple[Id, float]]]
    ) -> npt.NDArray[np.float64]:
        """Return each query's share of the true hits, or of their equals."""
        shares = []
        for hits, best in zip(found, truth, strict=True):
            true, last = {id for id, _ in best}, best[-1][1]
            shares.append(sum(id in true or score == last for id, score in hits) / len(best))
        return np.array(shares)


def as_frame(rows: Sequence[Any], columns: tuple[str, ...]) -> "pd.DataFrame":
    """Return named tuples as a DataFrame."""
    frame: pd.DataFrame = require("pandas", "pandas").DataFrame(rows, columns=list(columns))
    return frame


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """Return an aligned table, numbers to the right, the columns named in `left` to the left."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=1_000, markup=False, emoji=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
