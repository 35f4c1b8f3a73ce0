"""What can be told of a query from its candidates alone, cheaply and without judgements: for `Gated`.

A criterion is a function of the pool that returns one number; `CRITERIA` names them.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.metric import SMALLEST_NORM
from attnbridge.rerank.pool import Pool, mean_query, similarities, standardise

# How many of the best candidates are looked at.
TOP = 10


def _best(pool: Pool) -> npt.NDArray[np.int64]:
    """Return the places of the best candidates, best first, without those that are ruled out."""
    best = np.empty(min(TOP, len(pool.rows)), np.int64)
    kernels.top_k(pool.scores, pool.rows, best)
    return best[pool.scores[best] > -np.inf]


def gap(pool: Pool) -> float:
    """Return how far the best score is above the last of the best ones, in standard deviations over the candidates."""
    best = _best(pool)
    z = standardise(np.where(pool.scores > -np.inf, pool.scores, np.nan))[best]
    return float(z[0] - z[-1]) if len(z) else np.nan


def entropy(pool: Pool) -> float:
    """Return the entropy of the softmax over the best scores: 0 for one that has all the weight, 1 for equal ones."""
    scores = pool.scores[_best(pool)]
    if len(scores) < 2:
        return 0.0 if len(scores) else np.nan
    weights = np.exp(scores - scores[0])
    weights /= weights.sum()
    present = weights[weights > 0.0]
    return float(max(0.0, -(present * np.log(present)).sum()) / np.log(len(scores)))


def coherence(pool: Pool) -> float:
    """Return the mean cosine between the best candidates: how much they are about one thing."""
    rows = pool.rows[_best(pool)]
    if len(rows) < 2:
        return 1.0 if len(rows) else np.nan
    lengths = _lengths(pool, rows)
    directions = np.divide(1.0, lengths, out=np.zeros(len(rows)), where=lengths > SMALLEST_NORM)
    total = np.empty(len(pool.query))
    kernels.weighted_sum(directions, pool.keys.data, None, rows, total)
    count = np.count_nonzero(directions)  # |sum of unit vectors|^2 has each pair twice, and each with itself
    return float((total @ total - count) / (len(rows) * (len(rows) - 1)))


def similarity(pool: Pool) -> float:
    """Return the greatest similarity of the query to a candidate, under the metric."""
    best = pool.rows[pool.scores > -np.inf]
    return float(similarities(pool, pool.query, pool.query_bias, best).max()) if len(best) else np.nan


def agreement(pool: Pool) -> float:
    """Return how many of the best candidates are also among those nearest to the best ones' mean, as a share."""
    best = _best(pool)
    if not len(best):
        return np.nan
    mean = mean_query(pool, pool.rows[best], np.full(len(best), 1.0 / len(best)))
    if mean is None:
        return 0.0  # they point all ways
    candidates = np.flatnonzero(pool.scores > -np.inf)
    rows = pool.rows[candidates]
    nearest = np.empty(len(best), np.int64)
    kernels.top_k(similarities(pool, *mean, rows), rows, nearest)
    return float(np.isin(candidates[nearest], best).mean())


def _lengths(pool: Pool, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the lengths of rows as they are stored."""
    if pool.metric.name == "cosine" and pool.keys.scale is not None:
        return 1.0 / pool.keys.scale[rows]
    squares = np.empty(len(rows))
    kernels.row_squares(pool.keys.data[rows], squares)
    return np.sqrt(squares)


CRITERIA: dict[str, Callable[[Pool], float]] = {
    "agreement": agreement,
    "coherence": coherence,
    "entropy": entropy,
    "gap": gap,
    "similarity": similarity,
}
