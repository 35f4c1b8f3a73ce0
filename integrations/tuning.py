"""The settings of a search that a wanted recall asks for."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy.typing as npt

from attnbridge.errors import InvalidConfigError
from attnbridge.integrations.audit import Probe, as_frame, recall_interval, text_table
from attnbridge.progress import progress_bar
from attnbridge.validation import as_count, as_number

if TYPE_CHECKING:
    import pandas as pd

    from attnbridge.integrations.bridge import AttentionVectorBridge

# Breadths that tune tries: from here, doubling, to the rows of the index or this many, whichever comes first; then
# this often halfway between the last that fell short and the first that did not.
_FIRST_EF, _LAST_EF, _REFINEMENTS = 10, 10_000, 3

# More candidates cost more, and are tried only up to this share of the breadth that fewer candidates need.
_LESS = 0.8


class TuningRow(NamedTuple):
    """What one setting gave.

    Parameters
    ----------
    ef : int
        Breadth of the graph search.
    candidates : int
        Nearest rows that are ranked by the attention.
    recall, low, high : float
        As in `AuditRow`.
    queries_per_second : float
        As in `AuditRow`.

    Examples
    --------
    >>> from attnbridge.integrations.tuning import TuningRow
    >>> TuningRow(ef=100, candidates=50, recall=0.98, low=0.97, high=0.99, queries_per_second=4_000.0).ef
    100
    """

    ef: int
    candidates: int
    recall: float
    low: float
    high: float
    queries_per_second: float


@dataclass(frozen=True, repr=False)
class Tuning:
    """The answer of `tune`; printed, it is a table.

    Parameters
    ----------
    rows : tuple of TuningRow
        All that was measured, in the order of candidates and ef.
    best : TuningRow
        The fastest that reaches the target, or the one of the highest recall where none does.
    target : float
        The recall asked for.
    k : int
    queries : int
        How many there were.
    threads : int
        Of the batches.

    Examples
    --------
    >>> from attnbridge.integrations.tuning import Tuning, TuningRow
    >>> row = TuningRow(ef=100, candidates=50, recall=0.98, low=0.97, high=0.99, queries_per_second=4_000.0)
    >>> Tuning((row,), row, target=0.99, k=10, queries=200, threads=1).reached
    False
    """

    rows: tuple[TuningRow, ...]
    best: TuningRow
    target: float
    k: int
    queries: int
    threads: int

    @property
    def reached(self) -> bool:
        """Whether the best reaches the target; only then was the bridge changed."""
        return self.best.recall >= self.target

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows as a DataFrame, a column for each field of `TuningRow`.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependencyError
            pandas is not installed.
        """
        return as_frame(self.rows, TuningRow._fields)

    def __repr__(self) -> str:
        columns = ("ef", "candidates", "recall", "95 % interval", "queries/s", "")
        mark = "chosen" if self.reached else "best, short of the target"
        lines = [
            (
                str(row.ef),
                str(row.candidates),
                f"{row.recall:.4f}",
                f"{row.low:.4f}..{row.high:.4f}",
                f"{row.queries_per_second:,.0f}",
                mark if row == self.best else "",
            )
            for row in self.rows
        ]
        title = f"recall@{self.k} >= {self.target:g} wanted, {self.queries:,} queries, {self.threads} thread(s)"
        return f"{title}\n{text_table(columns, lines)}"


def tune(
    bridge: "AttentionVectorBridge",
    recall: float = 0.95,
    *,
    k: int = 10,
    queries: npt.ArrayLike | None = None,
    sample: int = 200,
    min_candidates: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tuning:
    """Set a bridge's ef and candidates to the fastest ones whose mean recall@k on a sample reaches the target.

    Parameters
    ----------
    bridge : AttentionVectorBridge
        With index="hnsw", not written to meanwhile; other searches see the settings that are being tried.
    recall : float, default 0.95
        In (0, 1].
    k : int, default 10
    queries : array_like, (b, d), optional
        As for `audit`.
    sample : int, default 200
        As for `audit`.
    min_candidates : int, optional
        Fewest candidates to try. By default the bridge's present setting: rerank stages see the candidates only, and
        weights are shares among them, which this measurement does not show. Where neither matters, min_candidates=k
        finds faster settings.
    seed : int, default 0
        Of the sample.
    progress : bool, default True
        Print what was seen, and show a progress bar where stderr is a terminal.

    Returns
    -------
    Tuning

    Raises
    ------
    InvalidConfigError
        The bridge has no hnswlib index, or recall, k, sample, min_candidates or seed are out of range.
    InvalidInputError, DimensionMismatchError
        As for `audit`.

    Warns
    -----
    RuntimeWarning
        No setting reaches the target; the bridge stays as it was.

    Notes
    -----
    The mean on the sample decides, not the low end of its interval: that is 0.98 for 200 queries that are all answered
    perfectly, so that no setting would do for more. Settings are picked by the queries they are measured with: expect
    a little less on others, and where it matters ask for more, or for a larger sample. Filters are not measured.

    For each number of candidates ef doubles from there until the target is reached and is then narrowed down by
    halves; more candidates are tried only with a clearly smaller ef than the one found for fewer, since hnswlib's
    breadth is the larger of both.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> from attnbridge.integrations import tune
    >>> bridge = ab.AttentionVectorBridge(dim=8)
    >>> _ = bridge.add(np.random.default_rng(0).standard_normal((500, 8)))
    >>> tuning = tune(bridge, recall=0.9, progress=False)
    >>> tuning.reached, bridge.config["ef"] == tuning.best.ef
    (True, True)
    """
    config = bridge.config
    if config["index"] != "hnsw":
        raise InvalidConfigError(f"tune needs a bridge with index='hnsw', got {config['index']!r}, which has no ef")
    target = as_number(recall, "recall", above=0.0, most=1.0)
    k = as_count(k, "k")
    least = config["candidates"] if min_candidates is None else as_count(min_candidates, "min_candidates")
    probe = Probe(bridge, k, queries, sample, seed)
    truth, _ = probe.run(None, exact=True)
    widths = _candidate_counts(k, min(least, len(bridge)), len(bridge))
    most = max(min(len(bridge), _LAST_EF), widths[0])
    seen: dict[tuple[int, int], TuningRow] = {}

    def measure(ef: int, candidates: int) -> TuningRow:
        bridge._set_search(ef=ef, candidates=candidates)
        found, speed = probe.run(None, exact=False)
        row = TuningRow(ef, candidates, *recall_interval(probe.recalls(found, truth), k), speed)
        seen[candidates, ef] = row
        return row

    limit = most
    try:
        with progress_bar(len(widths), "tuning", progress) as advance:
            for candidates in widths:
                found = _narrowest(measure, target, candidates, limit) if candidates <= limit else None
                limit = limit if found is None else int(_LESS * found.ef)
                advance(1)
    finally:
        bridge._set_search(ef=config["ef"], candidates=config["candidates"])
    rows = tuple(seen[place] for place in sorted(seen))
    reaching = [row for row in rows if row.recall >= target]
    if reaching:
        best = max(reaching, key=lambda row: row.queries_per_second)
        bridge._set_search(ef=best.ef, candidates=best.candidates)
    else:
        best = max(rows, key=lambda row: (row.recall, row.queries_per_second))
    tuning = Tuning(rows, best, target, k, len(probe.queries), probe.threads)
    if progress:
        print(tuning)
    if not reaching:
        warnings.warn(
            f"no ef up to {most} reaches recall@{k} >= {target:g}: the best is {best.recall:.4f}, with ef={best.ef} "
            f"and candidates={best.candidates}; the bridge stays as it was. Build it anew with a larger M or "
            "ef_construction, or search with exact=True",
            RuntimeWarning,
            stacklevel=2,
        )
    return tuning


def _candidate_counts(k: int, least: int, rows: int) -> list[int]:
    """Return the numbers of candidates to try, ascending: the least one, and round multiples of k above it."""
    first = max(k, least)
    return [first, *(factor * k for factor in (2, 5, 10, 20, 50) if first < factor * k <= rows)]


def _narrowest(measure: Callable[[int, int], TuningRow], target: float, candidates: int, most: int) -> TuningRow | None:
    """Return the smallest ef found to reach the target, None where none up to `most` does."""
    short, row = 0, measure(min(max(candidates, _FIRST_EF), most), candidates)
    while row.recall < target:
        if row.ef == most:
            return None
        short = row.ef
        row = measure(min(2 * short, most), candidates)
    for _ in range(_REFINEMENTS if short else 0):
        middle = (short + row.ef) // 2
        if middle == short:
            break
        tried = measure(middle, candidates)
        if tried.recall >= target:
            row = tried
        else:
            short = middle
    return row
