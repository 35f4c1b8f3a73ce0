"""How good a ranking is: nDCG, and how sure one can be of its mean."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Resamples of the queries: enough for intervals to be stable in the third decimal.
_RESAMPLES = 2_000


class Interval(NamedTuple):
    """A mean over queries and its 95 % interval.

    Parameters
    ----------
    mean, low, high : float
    """

    mean: float
    low: float
    high: float


def ndcg(ids: Sequence[object], relevant: Collection[object], k: int = 10) -> float:
    """Return a ranking's normalised discounted cumulative gain.

    The sum of 1 / log2(rank + 1) over the relevant ones among the first k, divided by its value where all relevant
    ones come first (Jarvelin and Kekalainen 2002, with trec_eval's discount and binary relevance).

    Parameters
    ----------
    ids : list
        Distinct, best first; may be shorter than k.
    relevant : collection
        At least one; found or not, all of them count in the ideal.
    k : int, default 10

    Returns
    -------
    float
        0 to 1.

    Examples
    --------
    >>> from attnbridge.demo_evaluation import ndcg
    >>> ndcg(["a", "x"], {"a"}), ndcg(["x", "y", "a"], {"a"}), ndcg(["x"], {"a"})
    (1.0, 0.5, 0.0)
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gains = np.array([id in relevant for id in ids[:k]], np.float64)
    return float(gains @ discounts[: len(gains)] / discounts[: len(relevant)].sum())


def mean_interval(values: npt.NDArray[np.float64], seed: int = 0) -> Interval:
    """Return the mean and its bootstrap interval; of differences per query, this is the paired bootstrap.

    Parameters
    ----------
    values : ndarray, (n,)
        One for each query.
    seed : int, default 0

    Returns
    -------
    Interval

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.demo_evaluation import mean_interval
    >>> [round(x, 1) for x in mean_interval(np.tile([0.0, 1.0], 500))]
    [0.5, 0.5, 0.5]
    """
    mean = float(np.mean(values))
    if np.ptp(values) == 0.0:  # one query, or all alike: nothing to resample
        return Interval(mean, mean, mean)
    from scipy import stats

    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=100,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))
