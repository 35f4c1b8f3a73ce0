"""How alike the candidates of one search are to each other, and what follows from it for their scores."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import four_dots
from attnbridge.kernels.softmax import exp_nonpositive


@jit
def _alike(product: Any, factors: Any, i: Any, j: Any) -> Any:
    """Return a pair's likeness: its product within [-1, 1]; of minus a squared difference, 1 / (1 + its share)."""
    if factors is None:
        return min(max(np.float64(product), -1.0), 1.0)  # rounding takes some beyond
    return 1.0 / (1.0 - factors[i] * factors[j] * np.float64(product))


@jit
def _likenesses(rows: Any, factors: Any, i: Any, among: Any, out: Any) -> Any:
    """Write out[m] = the likeness of rows i and among[m]."""
    difference = None if factors is None else True
    last = among.shape[0] - 1
    query = rows[i]
    for m in range(0, last + 1, 4):
        m1 = min(m + 1, last)
        m2 = min(m + 2, last)
        m3 = min(m + 3, last)
        a, b, c, e = among[m], among[m1], among[m2], among[m3]
        s0, s1, s2, s3 = four_dots(query, rows, a, b, c, e, difference)
        out[m] = _alike(s0, factors, i, a)
        out[m1] = _alike(s1, factors, i, b)
        out[m2] = _alike(s2, factors, i, c)
        out[m3] = _alike(s3, factors, i, e)


@jit
def mmr(relevance: Any, rows: Any, factors: Any, balance: Any, order: Any, values: Any, likest: Any, near: Any) -> Any:
    """Pick greedily the j with the largest balance * relevance[j] - (1 - balance) * max_i likeness(j, i), i picked.

    Carbonell and Goldstein 1998, section 2. likeness(i, j) = rows[i] . rows[j] within [-1, 1]; with factors
    1 / (1 + factors[i] * factors[j] * |rows[i] - rows[j]|^2).

    Parameters
    ----------
    relevance : (n,) float64, descending
        The first is picked first.
    rows : (n, d) float32 or float64
    factors : (n,) float64 or None
    balance : float
    order : (m,) int64, m <= n
        Filled with what is picked, in turn; of equal values the earlier first.
    values : (n,) float64
        Filled with the value that each was picked for, or has after the last pick; 1 for the first.
    likest : (n,) int64
        Filled with the picked one that is most like each: before it was picked itself, the earlier of equals; -1 for
        the first.
    near : (n,) float64
        Filled with the likeness to that one, NaN for the first.
    """
    n = relevance.shape[0]
    left = np.arange(1, n)
    likeness = np.empty(n)
    near[:] = -np.inf
    likest[:] = -1
    order[0], values[0], near[0] = 0, 1.0, np.nan
    for t in range(1, order.shape[0] + 1):
        before = order[t - 1]
        _likenesses(rows, factors, before, left, likeness)
        best = 0
        for m in range(left.shape[0]):
            j = left[m]
            if likeness[m] > near[j]:
                near[j], likest[j] = likeness[m], before
            values[j] = balance * relevance[j] - (1.0 - balance) * near[j]
            if values[j] > values[left[best]]:
                best = m
        if t == order.shape[0]:
            break
        order[t] = left[best]
        for m in range(best, left.shape[0] - 1):
            left[m] = left[m + 1]
        left = left[: left.shape[0] - 1]


@jit
def diffuse(rows: Any, factors: Any, scale: Any, values: Any, out: Any) -> Any:
    """Write out[i] = sum_j softmax_j(scale * likeness(i, j)) * values[j] over all j but i.

    likeness(i, j) = rows[i] . rows[j] within [-1, 1]; with factors
    1 / (1 + factors[i] * factors[j] * |rows[i] - rows[j]|^2).

    Parameters
    ----------
    rows : (n, d) float32 or float64
    factors : (n,) float64 or None
    scale : float
    values : (n,) float64
    out : (n,) float64
        NaN where there is no other.
    """
    n = rows.shape[0]
    if n == 1:
        out[0] = np.nan
        return
    everything = np.arange(n)
    likeness = np.empty(n)
    for i in range(n):
        _likenesses(rows, factors, i, everything, likeness)
        likeness[i] = -np.inf  # itself gets no weight
        best = -np.inf
        for j in range(n):
            best = max(best, likeness[j])
        total = 0.0
        weighted = 0.0
        for j in range(n):
            weight = exp_nonpositive(scale * (likeness[j] - best))
            total += weight
            weighted += weight * values[j]
        out[i] = weighted / total
