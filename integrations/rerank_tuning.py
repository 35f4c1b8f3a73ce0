"""Which rerank stages suit one's own data: chosen by cross-validation, reported on queries held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError
from attnbridge.integrations.evaluation import Evaluation, summarised
from attnbridge.integrations.judged import PLAIN, Bench, Judge, as_systems
from attnbridge.progress import progress_bar
from attnbridge.rerank import as_stages
from attnbridge.threads import usable_threads
from attnbridge.validation import as_count

if TYPE_CHECKING:
    from attnbridge.integrations.bridge import AttentionVectorBridge

# What is tried, as texts of stages: a line more is an entry more. Entries are left out whose stages need tokens or
# texts that are not there.
_SOFT = "soft=10, weighting='distinct'"
GRID = (
    *(f"expansion(top={top}, mix={mix})" for top in (3, 10) for mix in (0.15, 0.3, 0.5)),
    "gated(expansion(top=3, mix=0.15), 'gap', 2.5)",
    *(f"feedback(mix={mix})" for mix in (0.2, 0.4)),
    "smoothing(mix=0.2)",
    *(f"late_interaction(mix={mix})" for mix in (0.3, 0.5, 0.7)),
    *(f"late_interaction(mix={mix}, {_SOFT})" for mix in (0.3, 0.5, 0.7, 0.85)),
    *(f"late_interaction(mix={a}, {_SOFT}), feedback(mix={b})" for a in (0.5, 0.7) for b in (0.2, 0.4)),
    *(f"expansion(mix={a}), late_interaction(mix={b}, {_SOFT})" for a in (0.3, 0.5) for b in (0.3, 0.5, 0.7)),
    *(f"bm25('text', mix={mix})" for mix in (0.3, 0.5)),
    *(f"fusion(['scores', bm25('text')], weights=[{1 - share}, {share}])" for share in (0.25, 0.5)),
)

TUNED = "tuned, held out"


@dataclass(frozen=True, repr=False, eq=False)
class RerankTuning:
    """The answer of `tune_rerank`; printed, it is the held-out table and the choice.

    Parameters
    ----------
    choice : str
        The best of the grid on all judged queries, as text that `rerank=` takes; empty where plain is the best.
    held_out : Evaluation
        "plain", and "tuned, held out": each query ranked by what was the best on the other folds.
    chosen : tuple of str
        Each fold's choice, made on the other folds; empty for plain.
    grid : tuple of str
        What was tried besides plain.
    measure : str
        What was maximised.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> rng = np.random.default_rng(0)
    >>> bridge = ab.AttentionVectorBridge(dim=5, index="exact")
    >>> _ = bridge.add(rng.standard_normal((20, 5)))
    >>> queries, qrels = rng.standard_normal((6, 5)), [{i} for i in range(6)]
    >>> found = ab.tune_rerank(bridge, queries, qrels, grid=["expansion"], folds=3)
    >>> found.grid, len(found.chosen)
    (('expansion',), 3)
    """

    choice: str
    held_out: Evaluation
    chosen: tuple[str, ...]
    grid: tuple[str, ...]
    measure: str

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can say of it.

        Returns
        -------
        dict of str to object
        """
        about = {"choice": self.choice, "measure": self.measure, "chosen": list(self.chosen), "grid": list(self.grid)}
        return about | {"held_out": self.held_out.to_dict()}

    def __repr__(self) -> str:
        counts = {text: self.chosen.count(text) for text in dict.fromkeys(self.chosen)}
        folds = "; ".join(f"{text or PLAIN} ({count} of {len(self.chosen)})" for text, count in counts.items())
        return (
            f"{self.held_out}\n\n"
            f"Best {self.measure} of {len(self.grid)} settings and plain. Figures are for queries held out: each is "
            "ranked by the\nsetting that was the best on the other folds. Documents are shared between folds.\n"
            f"Folds chose: {folds}\n"
            f"Choice, on all queries: {self.choice or 'plain: no stages'}"
        )


def tune_rerank(
    bridge: "AttentionVectorBridge",
    queries: npt.ArrayLike,
    qrels: Any,
    grid: Sequence[str] | None = None,
    *,
    measure: str = "nDCG@10",
    folds: int = 5,
    query_ids: Sequence[Any] | None = None,
    query_tokens: Sequence[npt.ArrayLike] | None = None,
    query_text: Sequence[str] | None = None,
    k: int = 100,
    candidates: int | None = None,
    ignore_unknown: bool = False,
    seed: int = 0,
    threads: int | None = 1,
    progress: bool = True,
) -> RerankTuning:
    """Choose rerank stages and their options by cross-validation on judged queries; the bridge stays as it is.

    Parameters
    ----------
    bridge : AttentionVectorBridge
    queries, qrels
        As for `evaluate`.
    grid : list of str, optional
        Settings to try, as texts of stages; by default `attnbridge.integrations.rerank_tuning.GRID`, as far as the
        bridge has the tokens and the payload (a column "text") that its stages read. Plain is always tried: equally
        good settings lose to it, and to those before them.
    measure : str, default "nDCG@10"
        What to maximise: its mean over the queries.
    folds : int, default 5
        Parts that the judged queries are dealt into at random, at least 2.
    query_ids, query_tokens, query_text, k, candidates, ignore_unknown
        As for `evaluate`.
    seed : int, default 0
        Of the folds and the bootstrap.
    threads, progress
        As for `evaluate`.

    Returns
    -------
    RerankTuning

    Raises
    ------
    InvalidConfigError
        An empty grid, a setting that is no text or that `rerank=` does not take, or more folds than judged queries.
    UnknownIdError, InvalidInputError, DimensionMismatchError, MissingDependencyError
        As for `evaluate`.

    Notes
    -----
    A setting is chosen for each fold by the other folds' queries and measured on the fold's own; all queries' values
    together make the figures and their paired bootstrap interval against plain. The final choice is made on all
    queries and has no figure of its own: that would be one of the queries it was made for. Folds part the queries,
    not the documents, which are the same in all of them; nor does the bootstrap see that choices of different folds
    share queries. Near-duplicate queries in different folds make the figures too good.

    References
    ----------
    Stone, "Cross-validatory choice and assessment of statistical predictions", JRSS B 36 (1974).

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["e", "ne", "n"])
    >>> found = ab.tune_rerank(bridge, [[1.0, 0.1], [0.1, 1.0]], [{"e"}, {"n"}], ["expansion(mix=0.9)"], folds=2)
    >>> found.choice, found.chosen
    ('', ('', ''))
    """
    folds, k = as_count(folds, "folds", least=2), as_count(k, "k")
    seed = as_count(seed, "seed", least=0)
    bench = Bench(bridge, queries, qrels, query_ids, query_tokens, query_text, ignore_unknown)
    bench.threads = bridge.config["threads"] if threads is None else usable_threads(threads)
    if folds > len(bench.qrels):
        raise InvalidConfigError(f"folds must be at most the {len(bench.qrels)} judged queries, got {folds}")
    names = _settings(grid, bench)
    measures = [measure, *(name for name in ("nDCG@10", "MAP", "MRR") if name != measure)]
    judge = Judge(bench.qrels, measures, k)
    values: dict[str, npt.NDArray[np.float64]] = {}
    with progress_bar(len(names), "tuning", progress) as advance:
        for name, rerank in names.items():
            values[name] = judge.values(bench.run(rerank, k, candidates))
            advance(1)
    chosen, tuned = _held_out(values, folds, seed)
    held_out = {PLAIN: values[PLAIN], TUNED: tuned}
    table = summarised(held_out, judge.names, list(bench.qrels), {}, {}, k, bench.threads, seed)
    best = _best(values, np.arange(len(bench.qrels)))
    return RerankTuning(_text(best), table, tuple(map(_text, chosen)), tuple(names)[1:], measure)


def _settings(grid: Sequence[str] | None, bench: Bench) -> dict[str, Any]:
    """Return the grid, plain first."""
    if grid is None:
        payload = bench.bridge._state.store.view.payload
        text = bench.texts is not None and payload is not None and "text" in payload.names
        grid = default_grid(tokens=bench.has_tokens, text=text)
    if isinstance(grid, str):
        grid = [grid]
    texts = list(grid)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidConfigError(
            f"grid must be texts of stages, at least one, such as 'expansion(mix=0.3)'; got {grid!r}"
        )
    return as_systems(texts)


def default_grid(*, tokens: bool, text: bool) -> list[str]:
    """Return the entries of `GRID` whose stages find what they need.

    Parameters
    ----------
    tokens, text : bool
        Whether there are token vectors, and texts.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from attnbridge.integrations.rerank_tuning import default_grid
    >>> default_grid(tokens=False, text=False)[0]
    'expansion(top=3, mix=0.15)'
    """
    return [
        entry
        for entry in GRID
        if all(
            (tokens or not stage.requires_tokens) and (text or not getattr(stage, "requires_text", False))
            for stage in as_stages(entry)
        )
    ]


def _held_out(
    values: Mapping[str, npt.NDArray[np.float64]], folds: int, seed: int
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return each fold's choice, and every query's values under the choice of its fold."""
    count = len(values[PLAIN])
    order = np.random.default_rng(seed).permutation(count)
    tuned = np.empty_like(values[PLAIN])
    chosen = []
    for part in np.array_split(order, folds):
        best = _best(values, np.setdiff1d(order, part))
        tuned[part] = values[best][part]
        chosen.append(best)
    return chosen, tuned


def _best(values: Mapping[str, npt.NDArray[np.float64]], places: npt.NDArray[np.int64]) -> str:
    """Return the name of the best mean over some queries; of equal ones the first."""
    means = {name: float(value[places, 0].mean()) for name, value in values.items()}
    most = max(means.values())
    return next(name for name, mean in means.items() if mean >= most - 1e-12)


def _text(name: str) -> str:
    return "" if name == PLAIN else name
