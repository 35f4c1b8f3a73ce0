"""A query drawn towards the best of its candidates."""

import math
from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import dot, weighted_sum
from attnbridge.kernels.softmax import softmax
from attnbridge.kernels.topk import top_k


@jit
def expand(
    query: Any,
    query_bias: Any,
    rows: Any,
    row_scale: Any,
    row_bias: Any,
    value_scale: Any,
    unit: Any,
    scores: Any,
    ids: Any,
    scale: Any,
    mix: Any,
    steps: Any,
    curvature: Any,
    least: Any,
    near: Any,
    weights: Any,
    out: Any,
    out_bias: Any,
    difference: Any = None,
) -> Any:
    """Write out = (1 - mix) q + mix sum_i softmax_i(scale s(q, x_i)) x_i over the best of the scores, `steps` times.

    s is the product of `dot`. Each step begins at the query that the one before left, prepared again: of unit length
    with `unit`, with the bias of its length with `row_bias` or `difference`.

    Parameters
    ----------
    query : (d,) float32 or float64
    query_bias : float
    rows : (n, d) float32, float64, int8 or uint16 (bits of float16)
    row_scale, row_bias : (n,) float64 or None (1 and 0)
    value_scale : (n,) float64 or None
        What rows are multiplied by where they are summed up.
    unit : bool
    scores : (m,) float64, -inf for what is not attended to
    ids : (m,) int64
    scale, mix : float
    steps : int
    curvature : float
        -c of the ball, with `difference`; without it not used.
    least : float
        A step that leaves a query shorter than this, in lengths of the one before, is the last and not taken.
    near : (k,) int64, filled with the rows attended to, best first, then -1
    weights : (k,) float64, filled with what the last step gave them
    out : (d,) as `query`
    out_bias : (1,) float64
    difference : True or None
        As for `dot`.

    Returns
    -------
    int, int
        How many rows were attended to, and how many scores are -inf.

    Notes
    -----
    Ramsauer et al. 2020, Hopfield Networks is All You Need, equation 3.
    """
    ruled_out = 0
    for i in range(scores.shape[0]):
        ruled_out += scores[i] == -np.inf
    found = min(top_k(scores, ids, near), scores.shape[0] - ruled_out)
    for i in range(near.shape[0]):
        near[i] = ids[near[i]] if i < found else -1
        weights[i] = 0.0
    before = 0.0
    for j in range(out.shape[0]):  # four times as fast as a slice
        out[j] = query[j]
        before += np.float64(query[j]) * np.float64(query[j])
    out_bias[0] = query_bias
    if found == 0:
        return found, ruled_out
    best = near[:found]
    shares = weights[:found]
    total = np.empty(out.shape[0], np.float64)
    for _ in range(steps):
        dot(out, out_bias[0], rows, row_scale, row_bias, best, scale, shares, difference)
        softmax(shares, shares)
        weighted_sum(shares, rows, value_scale, best, total)
        size = 0.0
        for j in range(out.shape[0]):
            total[j] = (1.0 - mix) * np.float64(out[j]) + mix * total[j]
            size += total[j] * total[j]
        if size < least * least * before:
            break
        factor = 1.0
        if unit:
            factor = 1.0 / math.sqrt(size)
        before = 0.0
        for j in range(out.shape[0]):
            out[j] = total[j] * factor
            before += np.float64(out[j]) * np.float64(out[j])
        if difference is not None:
            out_bias[0] = 1.0 / (1.0 + curvature * before)
        elif row_bias is not None:
            out_bias[0] = -0.5 * before
    return found, ruled_out
