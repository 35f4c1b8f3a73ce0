"""Attention over listed pairs of query and key: cost and memory grow with the pairs."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import dot, weighted_sum
from attnbridge.kernels.dropout import drop
from attnbridge.kernels.softmax import softmax


@jit
def attend_pairs(
    queries: Any,
    keys: Any,
    values: Any,
    indptr: Any,
    indices: Any,
    bias: Any,
    first: Any,
    reach: Any,
    scale: Any,
    rate: Any,
    draw: Any,
    problem: Any,
    out: Any,
    weights: Any,
    total: Any,
) -> Any:
    """Write out[i] = sum_j w_j values[j], w = softmax_j(scale * queries[i] . keys[j] + bias) over the keys of query i.

    Those are j = indices[p], p = indptr[i] .. indptr[i + 1] - 1, j < first + i + reach. Child et al. 2019, equation 2.

    Parameters
    ----------
    queries : (l, d) float32 or float64
    keys : (s, d) float32 or float64
    values : (s, e) float32 or float64
    indptr : (l + 1,) int64
    indices : (nnz,) int32, ascending in each row where attention is causal
    bias : (nnz,) float64, finite or -inf, added to the logits of the pairs; or (0,)
    first : int
        Number of the first query.
    reach : int
        1 for causal attention, s for none.
    scale : float
    rate, draw, problem : float, int, int
        As `drop` takes them; a rate of 0 drops nothing.
    out : (l, e) float32 or float64
    weights : (nnz,) float32 or float64, written where a query sees the key; or (0,)
    total : (l,) float64
        The log-sum-exp of the logits, -inf where there is none.

    Returns
    -------
    int
        The first query with a logit that is NaN or +inf, where the work ends; or -1.
    """
    most = 0
    for i in range(queries.shape[0]):
        most = max(most, indptr[i + 1] - indptr[i])
    buffer = np.empty(most, np.float64)
    mean = np.empty(values.shape[1], np.float64)
    for i in range(queries.shape[0]):
        start, stop = indptr[i], indptr[i + 1]
        while stop > start and indices[stop - 1] >= first + i + reach:
            stop -= 1
        ids, row = indices[start:stop], buffer[: stop - start]
        dot(queries[i], 0.0, keys, None, None, ids, scale, row)
        if bias.shape[0] > 0:
            for p in range(row.shape[0]):
                row[p] += bias[start + p]
        for p in range(row.shape[0]):
            if not row[p] < np.inf:
                return first + i
        total[i] = softmax(row, row)
        if rate > 0.0:
            drop(row.reshape(1, row.shape[0]), rate, draw, problem, first + i, 0, ids)
        if weights.shape[0] > 0:
            for p in range(row.shape[0]):
                weights[start + p] = row[p]
        weighted_sum(row, values, None, ids, mean)
        for j in range(mean.shape[0]):
            out[i, j] = mean[j]
    return -1
