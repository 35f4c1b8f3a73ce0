"""Rankings as `Fusion` takes them, and as it compares them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError, UnknownIdError
from attnbridge.hits import Id
from attnbridge.rerank.pool import Pool, PoolIndex, places_among, standardise

Scores = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Ranking(NamedTuple):
    """Scores of some rows.

    Parameters
    ----------
    rows : ndarray of int64, (n,), or None
        None for all there are.
    scores : ndarray of float64, (n,)
        NaN for a row that the ranking does not name.
    floor : float
        A score that says that a row is in no way a match: it has no rank.
    """

    rows: Rows | None
    scores: Scores
    floor: float = -np.inf

    def of(self, rows: Rows) -> Scores:
        """Return the scores of other rows, NaN for those that the ranking does not name."""
        return self.scores[rows] if self.rows is None else aligned(self.scores, self.rows, rows)


def aligned(values: Scores, rows: Rows, others: Rows) -> Scores:
    """Return what belongs to rows for other rows, NaN for those that are none of them."""
    places = places_among(others, rows)
    out = np.full(len(others), np.nan)
    out[places >= 0] = values[places[places >= 0]]
    return out


def as_pairs(ranking: Any, name: str) -> tuple[tuple[Id, float], ...]:
    """Return (id, score) pairs of a mapping, of pairs, or of ids best first, which count as n, n - 1, ..., 1.

    Parameters
    ----------
    ranking : mapping, or list of (id, score) or of ids
    name : str
        For errors.

    Returns
    -------
    tuple of (id, float)

    Raises
    ------
    InvalidInputError
        Anything else, an id named twice, or a score that is no finite number.
    """
    wrong = f"{name} must be a mapping {{id: score}}, or a list of (id, score) or of ids best first"
    if isinstance(ranking, Mapping):
        ranking = list(ranking.items())
    if isinstance(ranking, str | bytes) or not isinstance(ranking, Iterable):
        raise InvalidInputError(f"{wrong}, got {ranking!r}")
    given = list(ranking)
    if not any(isinstance(one, tuple | list) for one in given):
        given = [(id, len(given) - place) for place, id in enumerate(given)]
    pairs = []
    for one in given:
        if not isinstance(one, tuple | list) or len(one) != 2:
            raise InvalidInputError(f"{wrong}, got {one!r} among them")
        pairs.append((_as_id(one[0], wrong), _as_score(one, name)))
    seen = set()
    for id, _ in pairs:
        if id in seen:
            raise InvalidInputError(f"{name} must name each id once, {id!r} comes twice; keep its best score")
        seen.add(id)
    return tuple(pairs)


def _as_id(id: Any, wrong: str) -> Id:
    id = id.item() if isinstance(id, np.generic) else id
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise InvalidInputError(f"{wrong}, got the id {id!r}")
    return id


def _as_score(pair: Any, name: str) -> float:
    try:
        score = float(pair[1])
    except (TypeError, ValueError):
        score = np.nan
    if not np.isfinite(score):
        raise InvalidInputError(f"{name} must have finite scores, {pair[0]!r} has {pair[1]!r}; leave it out")
    return score


def rank_ids(pairs: tuple[tuple[Id, float], ...], index: PoolIndex, name: str) -> Ranking:
    """Return the ranking of the rows that ids have now; unknown ids are passed over where one at least is known.

    Parameters
    ----------
    pairs : tuple of (id, float)
    index : PoolIndex
    name : str
        For errors.

    Returns
    -------
    Ranking

    Raises
    ------
    UnknownIdError
        None of the ids is known.
    """
    ids = [id for id, _ in pairs]
    rows = index.rows_of(ids)
    known = rows >= 0
    if len(ids) and not known.any():
        raise UnknownIdError(
            f"{name} must name documents of this index, it holds none of the {len(ids)} ids, the first of which are "
            f"{ids[:5]}; give the ids that add() was given"
        )
    return Ranking(rows[known], np.array([score for _, score in pairs], np.float64)[known])


def best_rows(ranking: Ranking, index: PoolIndex, depth: int) -> Rows:
    """Return the best `depth` rows of a ranking that the search may return, best first; ties by the smaller row."""
    listed = np.flatnonzero(ranking.scores > ranking.floor)
    rows, scores = listed if ranking.rows is None else ranking.rows[listed], ranking.scores[listed]
    size = depth
    while True:
        size = min(4 * size, len(rows))  # most rankings have enough that may be returned among these
        places = np.empty(size, np.int64)
        kernels.top_k(scores, rows, places)
        best = rows[places]
        best = best[index.admits(best)] if size else best
        if len(best) >= depth or size == len(rows):
            return best[:depth]


def join(pool: Pool, rows: Rows) -> bool:
    """Append rows to the pool with the scores that they have so far; return whether those are the attention's logits.

    Where a stage has mixed the scores, a row that comes late has none: it starts as the lowest of the pool. A row to
    which the attention gives -inf is no candidate and does not join.

    Parameters
    ----------
    pool : Pool
    rows : ndarray of int64, (m,)
        None of them the pool's.

    Returns
    -------
    bool
    """
    finite = pool.scores > -np.inf
    own = pool.logits()
    plain = bool(np.allclose(own[finite], pool.scores[finite], rtol=1e-6, atol=0.0))
    logits = pool.logits(np.concatenate([pool.rows, rows]))[len(pool.rows) :]
    rows, logits = rows[logits > -np.inf], logits[logits > -np.inf]
    lowest = pool.scores[finite].min() if finite.any() else 0.0
    pool.rows = np.concatenate([pool.rows, rows])
    pool.scores = np.concatenate([pool.scores, logits if plain else np.full(len(rows), lowest)])
    return plain


def minmax(ranking: Ranking) -> Scores:
    """Return scores between 0, the lowest and for rows that are not named, and 1, the best; all alike are 1."""
    known = ~np.isnan(ranking.scores)
    out = np.zeros(len(ranking.scores))
    if known.any():
        values = ranking.scores[known] / max(np.abs(ranking.scores[known]).max(), 1e-300)  # whose range cannot overflow
        low, high = values.min(), values.max()
        out[known] = (values - low) / (high - low) if high > low else 1.0
    return out


def zscore(ranking: Ranking) -> Scores:
    """Return z-scores, for rows that are not named the lowest one."""
    known = ~np.isnan(ranking.scores)
    out = standardise(ranking.scores)
    if known.any():
        out[~known] = out[known].min()
    return out


def reciprocal_rank(ranking: Ranking, rrf_k: float) -> Scores:
    """Return 1 / (rrf_k + rank), equal scores sharing the best of their ranks; 0 for rows that are not named."""
    listed = ranking.scores > ranking.floor
    out = np.zeros(len(ranking.scores))
    lower_first = np.sort(-ranking.scores[listed])
    out[listed] = 1.0 / (rrf_k + 1 + np.searchsorted(lower_first, -ranking.scores[listed], side="left"))
    return out


METHODS: dict[str, Callable[[Ranking, float], Scores]] = {
    "minmax": lambda ranking, _: minmax(ranking),
    "zscore": lambda ranking, _: zscore(ranking),
    "rrf": reciprocal_rank,
}
