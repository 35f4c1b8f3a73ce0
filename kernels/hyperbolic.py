"""The Poincare ball: logits that fall with the hyperbolic distance.

With curvature -c, the distance of two points is 2 / sqrt(c) asinh(sqrt(c |u - v|^2 / ((1 - c |u|^2) (1 - c |v|^2))))
(Nickel and Kiela 2017, equation 1, with acosh(1 + 2 s) = 2 asinh(sqrt(s)), which keeps its digits for near points).
"""

import math
from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import dot
from attnbridge.kernels.rerank import weigh_best


@jit
def poincare(query: Any, query_scale: Any, rows: Any, row_scale: Any, ids: Any, scale: Any, out: Any) -> Any:
    """Write out[i] = -2 scale asinh(sqrt(query_scale * row_scale[r]) |query - rows[r]|), r = ids[i] (or i).

    Parameters
    ----------
    query : (d,) float32 or float64
    query_scale : float
        1 / (1 - c |query|^2).
    rows : (n, d) float32 or float64
    row_scale : (n,) float64
        c / (1 - c |row|^2).
    ids : (m,) int64 or None for all rows
    scale : float
        1 / (sqrt(c) temperature) for a logit.
    out : (m,) float64
    """
    dot(query, query_scale, rows, row_scale, None, ids, 1.0, out, True)
    for i in range(out.shape[0]):
        out[i] = -2.0 * scale * math.asinh(math.sqrt(-out[i]))


@jit
def rerank_poincare(
    queries: Any,
    query_scale: Any,
    rows: Any,
    row_scale: Any,
    ids: Any,
    counts: Any,
    scale: Any,
    positions: Any,
    logits: Any,
    weights: Any,
) -> Any:
    """Rank each query's candidates by the logits of `poincare` and weigh the best ones among all of them.

    Parameters
    ----------
    queries : (b, d) float32
    query_scale : (b,) float64
    rows : (n, d) float32
    row_scale : (n,) float64
    ids : (b, m) int64, the first counts[i] of row i are candidates
    counts : (b,) int64
    scale : float
    positions : (b, k) int64, filled with positions in `ids`, best first, then -1; ties by the smaller id
    logits, weights : (b, k) float64
    """
    buffer = np.empty(ids.shape[1], np.float64)
    for b in range(queries.shape[0]):
        candidates = ids[b, : counts[b]]
        scores = buffer[: counts[b]]
        poincare(queries[b], query_scale[b], rows, row_scale, candidates, scale, scores)
        weigh_best(scores, candidates, positions[b], logits[b], weights[b])
