"""How good rankings are on judged queries, and whether rerank stages make them better."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.bootstrap import Interval, mean_intervals
from attnbridge.errors import InvalidInputError
from attnbridge.integrations.audit import text_table
from attnbridge.integrations.judged import Bench, Judge, as_systems
from attnbridge.integrations.timing import interleaved, medians
from attnbridge.integrations.trec import Run, write_run
from attnbridge.progress import progress_bar
from attnbridge.threads import usable_threads
from attnbridge.validation import as_count, require

if TYPE_CHECKING:
    import pandas as pd

    from attnbridge.integrations.bridge import AttentionVectorBridge

# Queries that a timed round asks at most.
_TIMED = 256

# A difference of a query's values that is more than rounding.
_ROUNDING = 1e-9

_Values = npt.NDArray[np.float64]


class Compared(NamedTuple):
    """How many queries a system ranks better, worse and as well as the plain ranking does.

    Parameters
    ----------
    won, lost, tied : int
    """

    won: int
    lost: int
    tied: int


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """The answer of `evaluate`; printed, it is a table with a line for each measure and system.

    Parameters
    ----------
    systems : tuple of str
        "plain" first.
    measures : tuple of str
    query_ids : tuple of str
        The judged queries.
    values : mapping
        values[system][measure] is an array with a value for each judged query.
    intervals : mapping
        intervals[system][measure]: the mean over the queries, and the 95 % bootstrap interval of it.
    gains : mapping
        gains[system][measure]: the mean difference from plain and its 95 % paired bootstrap interval; plain has none.
    compared : mapping
        compared[system][measure]: queries won, lost and tied against plain.
    queries_per_second : mapping of str to float
        Of `search_batch`, median of the rounds; nothing for systems that were not timed.
    runs : mapping
        runs[system] as `write_run` takes it: what the figures are computed from.
    k, threads : int
        Hits of a query, and threads of the searches.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["e", "ne", "n"])
    >>> found = ab.evaluate(bridge, [[1.0, 0.1], [0.1, 1.0]], [{"ne": 1}, {"n": 1}], rounds=0)
    >>> found.values["plain"]["MRR"]
    array([0.5, 1. ])
    """

    systems: tuple[str, ...]
    measures: tuple[str, ...]
    query_ids: tuple[str, ...]
    values: Mapping[str, Mapping[str, _Values]]
    intervals: Mapping[str, Mapping[str, Interval]]
    gains: Mapping[str, Mapping[str, Interval]]
    compared: Mapping[str, Mapping[str, Compared]]
    queries_per_second: Mapping[str, float]
    runs: Mapping[str, Run]
    k: int
    threads: int

    def to_pandas(self, *, per_query: bool = False) -> "pd.DataFrame":
        """Return a DataFrame with a row for each system, or with `per_query` for each system and query.

        Parameters
        ----------
        per_query : bool, default False
            Columns are then system, query_id and the measures; otherwise, for each measure M, columns M, M_low,
            M_high, M_gain, M_gain_low, M_gain_high, M_won, M_lost and M_tied, and queries_per_second.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependencyError
            pandas is not installed.
        """
        rows = self._per_query() if per_query else [self._record(system) for system in self.systems]
        frame: pd.DataFrame = require("pandas", "pandas").DataFrame(rows)
        return frame

    def _per_query(self) -> list[dict[str, Any]]:
        return [
            {"system": system, "query_id": query} | {name: self.values[system][name][i] for name in self.measures}
            for system in self.systems
            for i, query in enumerate(self.query_ids)
        ]

    def _record(self, system: str) -> dict[str, Any]:
        record: dict[str, Any] = {"system": system}
        for measure in self.measures:
            names = (measure, f"{measure}_low", f"{measure}_high")
            record |= dict(zip(names, self.intervals[system][measure], strict=True))
            names = (f"{measure}_gain", f"{measure}_gain_low", f"{measure}_gain_high")
            record |= dict(zip(names, self._gain(system, measure) or (np.nan,) * 3, strict=True))
            counts = self.compared.get(system, {}).get(measure)
            names = (f"{measure}_won", f"{measure}_lost", f"{measure}_tied")
            record |= dict(zip(names, counts or (np.nan,) * 3, strict=True))
        return record | {"queries_per_second": self.queries_per_second.get(system, np.nan)}

    def _gain(self, system: str, measure: str) -> Interval | None:
        return self.gains.get(system, {}).get(measure)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can say of it: counts, and for each system its figures; None where there are none.

        Returns
        -------
        dict of str to object
        """
        about = {"queries": len(self.query_ids), "k": self.k, "threads": self.threads}
        return about | {"systems": [self._figures(system) for system in self.systems]}

    def _figures(self, system: str) -> dict[str, Any]:
        measures = {}
        for measure in self.measures:
            mean, low, high = self.intervals[system][measure]
            gain = self._gain(system, measure)
            measures[measure] = {
                "value": mean,
                "low": low,
                "high": high,
                "gain": None if gain is None else dict(zip(("value", "low", "high"), gain, strict=True)),
                "compared": None if gain is None else self.compared[system][measure]._asdict(),
            }
        speed = self.queries_per_second.get(system)
        return {"system": system, "queries_per_second": speed, "measures": measures}

    def write_runs(self, folder: str | Path) -> list[Path]:
        """Write each system's ranking as a TREC run, from which trec_eval computes the same figures.

        Parameters
        ----------
        folder : path
            Made where it is not there; files are named after the systems.

        Returns
        -------
        list of Path
            In the order of `systems`.

        Raises
        ------
        InvalidInputError
            An id with white space in it, which a run cannot hold, or nothing to write.
        """
        if not self.runs:
            raise InvalidInputError("this evaluation holds no runs to write; evaluate(...) makes ones that do")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        for system in self.systems:
            tag = re.sub(r"[^\w.=-]+", "_", system).strip("_") or "system"
            names = {file.name.lower() for file in files}  # one file even where case does not tell names apart
            while f"{tag}.run".lower() in names:
                tag += "+"
            write_run(self.runs[system], folder / f"{tag}.run", tag)
            files.append(folder / f"{tag}.run")
        return files

    def __repr__(self) -> str:
        title = (
            f"{len(self.query_ids):,} judged queries, {self.k} hits each, {self.threads} thread(s); gain: over plain; "
            "intervals: 95 %, paired bootstrap over the queries"
        )
        columns = ("measure", "system", "value", "interval", "gain", "interval", "won", "lost", "tied", "queries/s")
        lines = [self._line(measure, system) for measure in self.measures for system in self.systems]
        filled = [place for place in range(len(columns)) if any(line[place] for line in lines)]
        rows = [[line[place] for place in filled] for line in lines]
        return f"{title}\n{text_table([columns[place] for place in filled], rows, left=('measure', 'system'))}"

    def _line(self, measure: str, system: str) -> tuple[str, ...]:
        mean, low, high = self.intervals[system][measure]
        gain, counts = ["", ""], ["", "", ""]
        found = self._gain(system, measure)
        if found is not None:
            gain = [f"{found.mean:+.4f}", f"{found.low:+.4f}..{found.high:+.4f}"]
            counts = [str(count) for count in self.compared[system][measure]]
        speed = self.queries_per_second.get(system)
        shown = f"{speed:,.0f}" if speed is not None and measure == self.measures[0] else ""
        name = measure if system == self.systems[0] else ""
        return (name, system, f"{mean:.4f}", f"{low:.4f}..{high:.4f}", *gain, *counts, shown)


def evaluate(
    bridge: "AttentionVectorBridge",
    queries: npt.ArrayLike,
    qrels: Any,
    systems: Any = (),
    *,
    query_ids: Sequence[Any] | None = None,
    query_tokens: Sequence[npt.ArrayLike] | None = None,
    query_text: Sequence[str] | None = None,
    k: int = 100,
    candidates: int | None = None,
    measures: Sequence[str] | None = None,
    runs: Mapping[str, Mapping[Any, Mapping[Any, float]]] | None = None,
    ignore_unknown: bool = False,
    rounds: int = 3,
    seed: int = 0,
    threads: int | None = 1,
    progress: bool = True,
) -> Evaluation:
    """Measure rerank stages on judged queries, beside the bridge's plain ranking.

    Formulas are trec_eval's, computed by it (ir-measures). Where hits have equal scores their order in the hits
    counts, not trec_eval's order of ids.

    Parameters
    ----------
    bridge : AttentionVectorBridge
        What is written to it meanwhile does not count.
    queries : array_like, (b, d)
    qrels : list or dict
        What is relevant: for each query {document id: grade}, or a set of ids (grade 1), or None where nothing is
        known; in the order of the queries, or as a mapping by query id. Grades below 1 are not relevant.
    systems : dict, list or str
        What to compare with "plain": name -> rerank stages as `search` takes them; or stages as text, their own name.
    query_ids : list of str or int, optional
        One for each query; by default their numbers from 0.
    query_tokens : list of array_like (m_i, dt), optional
        One for each query, for stages that read them.
    query_text : list of str, optional
        One for each query, for stages that read it.
    k : int, default 100
        Hits of each query; MAP and MRR see no more of them.
    candidates : int, optional
        As for `search`.
    measures : list of str, optional
        In ir-measures' notation, such as "nDCG@20", "P@5", "RR@10"; MAP, MRR and recall@10 are understood. By default
        nDCG@10, MAP, MRR, recall@10 and recall@k.
    runs : dict, optional
        Rankings made elsewhere, as `read_run` returns them, by name: further systems. They are taken whole, however
        long; equal scores are ordered as trec_eval does, by document id.
    ignore_unknown : bool, default False
        Leave out judgements, and entries of `runs`, of queries and documents that are not there.
    rounds : int, default 3
        Timed rounds over up to 256 of the queries, in which the systems take turns; 0 times nothing.
    seed : int, default 0
        Of the bootstrap and of the queries that are timed.
    threads : int, optional
        Of the searches, 1 by default; None is the bridge's own number.
    progress : bool, default True
        Show a progress bar where stderr is a terminal.

    Returns
    -------
    Evaluation

    Raises
    ------
    UnknownIdError
        qrels or runs name queries or documents that are not there.
    InvalidInputError
        No relevant document at all, an empty run, or something that a stage needs is missing.
    InvalidConfigError
        Names, measures, or numbers that cannot be.
    DimensionMismatchError
        Lists of another length than the queries.
    MissingDependencyError
        ir-measures is not installed.

    Warns
    -----
    UserWarning
        Queries whose judgements hold nothing relevant: they count, as 0 for every system, as in trec_eval.

    References
    ----------
    Jarvelin and Kekalainen 2002 (nDCG; linear gain, as trec_eval has it). Sakai, "Evaluating evaluation metrics based
    on the bootstrap", SIGIR 2006 (the paired bootstrap over queries).

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["e", "ne", "n"])
    >>> queries, qrels = [[1.0, 0.1], [0.1, 1.0]], [{"e": 1}, {"n": 2, "ne": 1}]
    >>> found = ab.evaluate(bridge, queries, qrels, ["expansion(mix=0.9)"], measures=["nDCG@10"], rounds=0)
    >>> print(found)  # doctest: +ELLIPSIS
    2 judged queries, 100 hits each, 1 thread(s); gain: over plain; intervals: 95 %, paired bootstrap over the queries
    ...
    >>> found.intervals["plain"]["nDCG@10"].mean
    1.0
    """
    k, rounds = as_count(k, "k"), as_count(rounds, "rounds", least=0)
    seed = as_count(seed, "seed", least=0)
    bench = Bench(bridge, queries, qrels, query_ids, query_tokens, query_text, ignore_unknown)
    judge = Judge(bench.qrels, measures, k)
    ranked = as_systems(systems)
    given = bench.foreign(runs or {}, taken=ranked)
    bench.threads = bridge.config["threads"] if threads is None else usable_threads(threads)
    found: dict[str, Run] = {}
    timed = bench.sample(_TIMED, seed)

    def work(name: str) -> Callable[[int], None]:
        def run(number: int) -> None:
            if number < 0:
                found[name] = bench.run(ranked[name], k, candidates)
            else:
                bench.search(ranked[name], k, candidates, timed)

        return run

    with progress_bar(len(ranked) * (1 + rounds), "evaluating", progress) as advance:
        seconds = interleaved({name: work(name) for name in ranked}, rounds, advance)
    speed = {name: len(timed) / value for name, value in medians(seconds).items()} if rounds else {}
    found = {name: found[name] for name in ranked} | given
    values = {name: judge.values(run) for name, run in found.items()}
    return summarised(values, judge.names, list(bench.qrels), speed, found, k, bench.threads, seed)


def summarised(
    values: Mapping[str, _Values],
    measures: Sequence[str],
    query_ids: Sequence[str],
    speed: Mapping[str, float],
    runs: Mapping[str, Run],
    k: int,
    threads: int,
    seed: int,
) -> Evaluation:
    """Return the table of systems' values (queries, measures), the first of which is the plain ranking's."""
    systems, width = tuple(values), len(measures)
    plain = values[systems[0]]
    differences = {name: values[name] - plain for name in systems[1:]}
    columns = np.concatenate([*values.values(), *differences.values()], axis=1)
    intervals = mean_intervals(columns, seed=seed)
    per_system = [dict(zip(measures, intervals[i : i + width], strict=True)) for i in range(0, len(intervals), width)]
    compared = {
        name: {
            measure: Compared(
                int((gain > _ROUNDING).sum()), int((gain < -_ROUNDING).sum()), int((np.abs(gain) <= _ROUNDING).sum())
            )
            for measure, gain in zip(measures, difference.T, strict=True)
        }
        for name, difference in differences.items()
    }
    return Evaluation(
        systems,
        tuple(measures),
        tuple(query_ids),
        MappingProxyType({name: dict(zip(measures, value.T, strict=True)) for name, value in values.items()}),
        MappingProxyType(dict(zip(systems, per_system, strict=False))),
        MappingProxyType(dict(zip(systems[1:], per_system[len(systems) :], strict=True))),
        MappingProxyType(compared),
        MappingProxyType(dict(speed)),
        MappingProxyType(dict(runs)),
        k,
        threads,
    )
