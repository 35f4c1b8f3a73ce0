"""How sure one can be of means over queries: percentile bootstrap intervals, many columns at a time."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Draws that are held at a time.
_HELD = 2_000_000


class Interval(NamedTuple):
    """A mean over queries and its 95 % interval.

    Parameters
    ----------
    mean, low, high : float
    """

    mean: float
    low: float
    high: float


def mean_intervals(values: npt.NDArray[np.float64], resamples: int = 10_000, seed: int = 0) -> list[Interval]:
    """Return each column's mean and its 95 % interval over resampled rows.

    The percentile bootstrap (Efron and Tibshirani 1993, section 13.3): rows are drawn with replacement, the interval
    is that of the middle 95 % of the means. All columns see the same draws; of differences per query it is the paired
    bootstrap.

    Parameters
    ----------
    values : ndarray of float64, (n, m)
        A row for each query.
    resamples : int, default 10,000
    seed : int, default 0

    Returns
    -------
    list of Interval
        One for each column.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.bootstrap import mean_intervals
    >>> (found,) = mean_intervals(np.tile([0.0, 1.0], 50)[:, None])
    >>> [round(x, 2) for x in found]
    [0.5, 0.4, 0.6]
    """
    count, columns = values.shape
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, columns))
    step = max(1, _HELD // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times @ values / count
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    centre = values.mean(axis=0)
    # All rows alike: sums of the same values in another order differ in the last bits only.
    low, high = (np.where(np.ptp(values, axis=0) == 0.0, centre, end) for end in (low, high))
    return [Interval(*triple) for triple in zip(centre.tolist(), low.tolist(), high.tolist(), strict=True)]
