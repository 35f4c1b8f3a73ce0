"""A gate: a stage applied only where a cheap criterion predicts that it helps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.rerank.criteria import CRITERIA
from attnbridge.rerank.judged import as_judgements, ndcg, one_stage, read_by
from attnbridge.rerank.pool import Pool, Stage
from attnbridge.rerank.sequence import as_stages, never_after
from attnbridge.validation import as_bool, as_choice, as_count, as_number

Values = npt.NDArray[np.float64]

# Thresholds that `fit` tries lie between this many equal shares of the queries.
_SHARES = 20


@dataclass(frozen=True)
class Gated:
    """Apply a stage only to queries whose candidates meet a criterion.

    Parameters
    ----------
    stage : Stage or str
    criterion : str
        A number that is computed of the query's best 10 candidates: "agreement" (share of them that are also among the
        nearest to their mean), "coherence" (mean cosine between them), "entropy" (of the softmax of their scores, 0 to
        1), "gap" (first score minus last, in standard deviations over all candidates) or "similarity" (of the query to
        the most similar candidate, under the bridge's metric).
    threshold : float, optional
        None sets no bound: the stage is always applied, with `above=False` never.
    above : bool, default True
        Apply the stage where the criterion is at least the threshold; False: where it is less.

    Raises
    ------
    InvalidConfigError
        Something that is no stage, an unknown criterion, a threshold that is no finite number, or `above` neither True
        nor False.

    Notes
    -----
    The criterion is the part "gated" of the hits; where the stage is not applied its own part is NaN.

    References
    ----------
    Cronen-Townsend, Zhou and Croft, Predicting query performance, 2002.
    Diaz, Performance prediction using spatial autocorrelation, 2007.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]], ids=["a", "b", "c"])
    >>> gated = ab.Gated(ab.QueryExpansion(top=2), "coherence", 0.4)
    >>> hits = bridge.search([1.0, 0.1], rerank=gated)
    >>> hits.parts["gated"].round(3).tolist(), hits.parts["expansion"].round(1).tolist()
    ([0.453, 0.453, 0.453], [20.0, 18.0, 1.2])
    """

    stage: Any
    criterion: str
    threshold: float | None = None
    above: bool = True
    name: ClassVar[str] = "gated"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", one_stage(self.stage, "stage"))
        object.__setattr__(self, "criterion", as_choice(self.criterion, "criterion", CRITERIA))
        if self.threshold is not None:
            object.__setattr__(self, "threshold", as_number(self.threshold, "threshold"))
        object.__setattr__(self, "above", as_bool(self.above, "above"))

    @property
    def level(self) -> str:
        """What the stage does, see `as_stages`."""
        return str(getattr(self.stage, "level", ""))

    @property
    def never_after(self) -> tuple[str, ...]:
        """What the stage would undo, see `as_stages`."""
        return never_after(self.stage)

    @property
    def requires_tokens(self) -> bool:
        """Whether the stage reads token vectors."""
        return bool(self.stage.requires_tokens)

    @property
    def reads_tokens(self) -> bool:
        """Whether the stage reads token vectors where there are any."""
        return bool(getattr(self.stage, "reads_tokens", False))

    @property
    def requires_text(self) -> bool:
        """Whether the stage reads the query's text."""
        return bool(getattr(self.stage, "requires_text", False))

    def apply(self, pool: Pool) -> None:
        """Apply the stage to the pool, or leave the pool as it is.

        Parameters
        ----------
        pool : Pool
        """
        value = CRITERIA[self.criterion](pool)
        if self.applies(value):
            self.stage.apply(pool)
        else:
            pool.parts[self.stage.name] = np.full(len(pool.rows), np.nan)
        pool.parts[self.name] = np.full(len(pool.rows), value)

    def applies(self, value: float) -> bool:
        """Return whether the stage is applied to a query with this value of the criterion.

        Parameters
        ----------
        value : float

        Returns
        -------
        bool
        """
        if self.threshold is None:
            return self.above
        return value >= self.threshold if self.above else value < self.threshold

    @classmethod
    def fit(
        cls,
        stage: Any,
        bridge: Any,
        queries: npt.ArrayLike,
        relevant: Sequence[Any],
        *,
        rerank: Any = (),
        query_tokens: Sequence[npt.ArrayLike] | None = None,
        query_token_weights: Sequence[npt.ArrayLike | None] | None = None,
        query_text: Sequence[str] | None = None,
        candidates: int | None = None,
        criteria: Sequence[str] | None = None,
        folds: int = 5,
        seed: int = 0,
    ) -> "Gated":
        """Return the gate that gains most over judged queries, in nDCG@10 and on queries it was not chosen by.

        Each criterion's threshold and side are chosen on all folds but one and applied to that one. The criterion with
        the greatest mean gain on the folds left out is chosen, if that is above 0 and above that of applying the stage
        always, and its threshold is fitted on all queries; otherwise the stage is applied always or never.

        Parameters
        ----------
        stage : Stage or str
        bridge : AttentionVectorBridge
        queries : array_like, (b, d)
        relevant : list of mapping or of collection
            For each query {document id: grade}, or the ids of its relevant documents. Queries without a relevant one
            say nothing and are left out.
        rerank : Stage, str or list of those
            Stages before the gated one.
        query_tokens, query_token_weights, query_text
            As for `search_batch`.
        candidates : int, optional
            As for `search_batch`.
        criteria : list of str, optional
            Those to choose from; by default all.
        folds : int, default 5
            At least 2.
        seed : int, default 0
            Of the folds.

        Returns
        -------
        Gated

        Raises
        ------
        InvalidInputError
            Judgements that are not one for each query, or of fewer queries than folds.
        UnknownIdError
            Judgements of ids that the bridge does not hold.
        InvalidConfigError

        Examples
        --------
        >>> import numpy as np, attnbridge as ab
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((60, 5))
        >>> bridge = ab.AttentionVectorBridge(dim=5, index="exact")
        >>> _ = bridge.add(rows)
        >>> ab.Gated.fit("expansion", bridge, rows[:20], [[i] for i in range(20)]).applies(0.5)
        False
        """
        stage, before = one_stage(stage, "stage"), list(as_stages(rerank))
        names = sorted(CRITERIA) if criteria is None else [as_choice(one, "criteria", CRITERIA) for one in criteria]
        if not names:
            raise InvalidConfigError(f"criteria must name at least one of {', '.join(CRITERIA)}; got none")
        folds, seed = as_count(folds, "folds", least=2), as_count(seed, "seed", least=0)
        options: dict[str, Any] = {"k": 10} if candidates is None else {"k": 10, "candidates": candidates}
        given = {"query_tokens": query_tokens, "query_token_weights": query_token_weights, "query_text": query_text}
        given = {name: value for name, value in given.items() if value is not None}
        after = bridge.search_batch(queries, rerank=[*before, stage], **given, **options)
        judged = as_judgements(relevant, len(after), bridge)
        probed: list[Stage] = [*before, _Probe(tuple(names))]
        plain = bridge.search_batch(queries, rerank=probed, **read_by(probed, bridge, given), **options)
        gains = np.array(
            [ndcg(b.ids, own) - ndcg(a.ids, own) for a, b, own in zip(plain, after, judged, strict=True)], np.float64
        )
        used = np.isfinite(gains) & [len(hits) > 0 for hits in plain]
        if np.count_nonzero(used) < folds:
            raise InvalidInputError(
                f"relevant must judge at least {folds} queries, one for each fold, got {np.count_nonzero(used)}"
            )
        columns = {one: [hits.parts[one][0] if len(hits) else np.nan for hits in plain] for one in names}
        values = {one: np.array(column)[used] for one, column in columns.items()}
        split = _chosen(values, gains[used], np.random.default_rng(seed).permutation(np.count_nonzero(used)), folds)
        return cls(stage, *split)


@dataclass(frozen=True)
class _Probe:
    """A stage that leaves the criteria among the parts, and all else as it is."""

    criteria: tuple[str, ...]
    name: ClassVar[str] = "probe"
    requires_tokens: ClassVar[bool] = False

    def apply(self, pool: Pool) -> None:
        pool.parts.update({one: np.full(len(pool.rows), CRITERIA[one](pool)) for one in self.criteria})


class _Split(NamedTuple):
    """A gate's settings, in the order that `Gated` takes them."""

    criterion: str
    threshold: float | None
    above: bool


def _chosen(values: dict[str, Values], gains: Values, order: npt.NDArray[np.int64], folds: int) -> _Split:
    """Return the criterion's split that gains most on the folds left out, or that of always or never."""
    held_out = {one: _held_out_gain(column, gains, order, folds) for one, column in values.items()}
    best = max(held_out, key=lambda one: held_out[one])
    always = float(gains.mean())
    if held_out[best] > max(always, 0.0):
        return _Split(best, *_best_split(values[best], gains))
    return _Split(best, None, always > 0.0)


def _held_out_gain(values: Values, gains: Values, order: npt.NDArray[np.int64], folds: int) -> float:
    """Return the mean gain over queries of splits chosen on the other folds."""
    gained = np.zeros(len(gains))
    for part in np.array_split(order, folds):
        rest = np.setdiff1d(order, part)
        threshold, above = _best_split(values[rest], gains[rest])
        gained[part] = np.where(_passing(values[part], threshold, above), gains[part], 0.0)
    return float(gained.mean())


def _best_split(values: Values, gains: Values) -> tuple[float | None, bool]:
    """Return the threshold and side with the greatest mean gain; the first of equal ones, never applying at first."""
    thresholds = np.unique(np.quantile(values, np.arange(1, _SHARES) / _SHARES)).tolist()
    splits = [(None, False), (None, True), *((one, above) for one in thresholds for above in (True, False))]
    totals = [gains[_passing(values, *split)].sum() for split in splits]
    return splits[int(np.argmax(totals))]


def _passing(values: Values, threshold: float | None, above: bool) -> npt.NDArray[np.bool_]:
    if threshold is None:
        return np.full(len(values), above)
    return values >= threshold if above else values < threshold
