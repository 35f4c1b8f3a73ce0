"""Relevance feedback: a query drawn towards some documents and away from others."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError, UnknownIdError
from attnbridge.hits import Id
from attnbridge.mechanisms.row import gathered
from attnbridge.rerank.pool import Pool
from attnbridge.rerank.requery import require_searchable, score_anew, take_query
from attnbridge.trace import Attended
from attnbridge.validation import as_bool, as_number

Rows = npt.NDArray[np.int64]


# Of a factor: beyond it nothing of the others is left in float32.
_MOST = 1e6


@dataclass(frozen=True)
class Rocchio:
    """More like these, less like those: mix the query with the means of judged documents, and score the pool again.

    q' = alpha q + beta mean(positive rows) - gamma mean(negative rows), query and rows of unit length under cosine
    (Rocchio 1971; Manning et al. 2008, equation 9.3). Under l2, where the length of q' counts, it is divided by the sum
    of the factors, so that the origin does not matter; under poincare it is the Einstein midpoint, without negatives.

    Parameters
    ----------
    alpha : float, default 1.0
        Factor of the query, at least 0.
    beta : float, default 0.75
        Factor of the positive documents' mean, at least 0.
    gamma : float, default 0.15
        Factor of the negative documents' mean, at least 0.
    positive, negative : list of str or int
        Ids of documents in the index; one that is named twice counts once.
    research : bool, default False
        Search the index a second time, with the new query and from the positive documents on, instead of scoring the
        first search's candidates again.
    exclude : bool, default False
        Whether the documents named are no hits.

    Raises
    ------
    InvalidConfigError
        A factor below 0, neither positive nor negative ids, an id that is both, ids that are none.

    References
    ----------
    Rocchio 1971, Relevance Feedback in Information Retrieval.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]], ids=["a", "b", "c"])
    >>> bridge.search([1.0, 0.0], rerank=ab.Rocchio(positive=["c"], exclude=True)).ids
    ['a', 'b']
    """

    alpha: float = 1.0
    beta: float = 0.75
    gamma: float = 0.15
    positive: tuple[Id, ...] = field(default=(), kw_only=True)
    negative: tuple[Id, ...] = field(default=(), kw_only=True)
    research: bool = field(default=False, kw_only=True)
    exclude: bool = field(default=False, kw_only=True)
    name: ClassVar[str] = "rocchio"
    level: ClassVar[str] = "candidates"
    never_after: ClassVar[tuple[str, ...]] = ("scores", "calibration", "selection")
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            object.__setattr__(self, name, as_number(getattr(self, name), name, least=0.0, most=_MOST))
        for name in ("positive", "negative"):
            object.__setattr__(self, name, as_ids(getattr(self, name), name))
        for name in ("research", "exclude"):
            object.__setattr__(self, name, as_bool(getattr(self, name), name))
        if not self.positive and not self.negative:
            raise InvalidConfigError("positive or negative must hold ids of documents to go by, both are empty")
        both = [id for id in self.positive if id in self.negative]
        if both:
            raise InvalidConfigError(f"positive and negative must not share ids, got {_first(both)} in both")

    def apply(self, pool: Pool) -> None:
        """Replace the pool's query and scores, with `research` its rows too.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        UnknownIdError
            Ids that the index does not hold.
        InvalidConfigError
            A pool that no search of an index made, negative ids under poincare, or factors whose sum is not above 0
            under l2.
        """
        require_searchable(pool, self.research)
        liked, disliked = self._rows(pool, "positive"), self._rows(pool, "negative")
        _take_mean(pool, liked, disliked, (self.alpha, self.beta, self.gamma))
        score_anew(pool, self.name, liked, research=self.research)
        if self.exclude:
            pool.scores[np.isin(pool.rows, np.concatenate([liked, disliked]))] = -np.inf
            left = int((pool.scores > -np.inf).sum())
            pool.short |= pool.wanted is not None and left < pool.wanted
        shares = [(id, self.beta / len(liked)) for id in self.positive]
        shares += [(id, -self.gamma / len(disliked)) for id in self.negative]
        attended = [Attended("candidate", id, share) for id, share in shares]
        pool.attended = lambda row: attended

    def _rows(self, pool: Pool, name: str) -> Rows:
        """Return the rows of the ids, which must be there."""
        ids = getattr(self, name)
        index = pool.require_index(self.name)
        rows = index.rows_of(ids)
        unknown = [id for id, row in zip(ids, rows.tolist(), strict=True) if row < 0]
        if unknown:
            raise UnknownIdError(
                f"{name} must be ids of the index, {len(unknown)} of {len(ids)} are not in it: {_first(unknown)}; add "
                "them, or leave them out"
            )
        index.check(rows)
        return rows


def _take_mean(pool: Pool, liked: Rows, disliked: Rows, factors: tuple[float, float, float]) -> None:
    """Put the mix of the query and the rows' means in the query's place."""
    alpha, beta, gamma = factors
    metric = pool.metric
    if metric.space is not None:
        if len(disliked):
            raise InvalidConfigError(
                "negative must be empty under metric='poincare', where points have midpoints but no differences"
            )
        points = np.concatenate([pool.query[None], pool.keys.data[liked]])
        weights = np.array([alpha, *[beta / len(liked)] * len(liked)])
        if weights.any():
            take_query(pool, metric.space.mean(points, weights).astype(np.float64))
        return
    mixed = alpha * pool.query.astype(np.float64)
    total = alpha
    for rows, factor in ((liked, beta), (disliked, -gamma)):
        if len(rows):
            mixed += factor * _vectors(pool, rows).mean(axis=0)
            total += factor
    if metric.name == "l2":
        if not total > 0.0:
            raise InvalidConfigError(
                f"alpha + beta - gamma must be > 0 under metric='l2', of the documents that are named: got {total:g}"
            )
        mixed /= total
    take_query(pool, mixed)


def _vectors(pool: Pool, rows: Rows) -> npt.NDArray[np.float64]:
    """Return rows as logits are taken on them, of unit length under cosine."""
    return gathered(pool.keys, rows).astype(np.float64)


def as_ids(value: Any, name: str) -> tuple[Id, ...]:
    """Return ids, each once."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, str | int) or not isinstance(value, Iterable):
        raise InvalidConfigError(f"{name} must be a list of ids, got {value!r}; write [{value!r}]")
    ids = [one.item() if isinstance(one, np.generic) else one for one in value]
    for one in ids:
        if isinstance(one, bool) or not isinstance(one, str | int):
            raise InvalidInputError(f"{name} must hold ids, str or int, got {one!r}")
    return tuple(dict.fromkeys(ids))


def _first(ids: list[Id]) -> str:
    """Return the first five."""
    return ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")
