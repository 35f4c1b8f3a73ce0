"""Sums and maxima of rows over the edges that lead to each node."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import AHEAD, prefetch


@jit
def segment_sum(indptr: Any, sources: Any, weights: Any, rows: Any, out: Any) -> Any:
    """Write out[i] = sum_p weights[p] rows[sources[p]], p = indptr[i] .. indptr[i + 1] - 1, accumulated in float64.

    Parameters
    ----------
    indptr : (n + 1,) int64
    sources : (m,) int64
    weights : (m,) float64
    rows : (s, d) float32 or float64
    out : (n, d) float32 or float64
        0 where there is no p.
    """
    total = np.empty(rows.shape[1], np.float64)
    for i in range(out.shape[0]):
        total[:] = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            if p + AHEAD < sources.shape[0]:
                prefetch(rows, sources[p + AHEAD], 0)
            weight, s = weights[p], sources[p]
            for c in range(total.shape[0]):
                total[c] += weight * np.float64(rows[s, c])
        for c in range(total.shape[0]):
            out[i, c] = total[c]


@jit
def segment_max(indptr: Any, sources: Any, rows: Any, out: Any, shares: Any) -> Any:
    """Write out[i, c] = max_p rows[sources[p], c], p = indptr[i] .. indptr[i + 1] - 1.

    Parameters
    ----------
    indptr : (n + 1,) int64
    sources : (m,) int64
    rows : (s, d) float32 or float64
    out : (n, d) of the same dtype
        0 where there is no p.
    shares : (m,) float64
        Of how much of the columns p is the first of those with the maximum.
    """
    dim = rows.shape[1]
    winner = np.empty(dim, np.int64)
    for i in range(out.shape[0]):
        start, stop = indptr[i], indptr[i + 1]
        if start == stop:
            out[i] = 0.0
            continue
        for c in range(dim):
            out[i, c], winner[c] = rows[sources[start], c], start
        shares[start] = 0.0
        for p in range(start + 1, stop):
            shares[p] = 0.0
            s = sources[p]
            for c in range(dim):
                if rows[s, c] > out[i, c]:
                    out[i, c], winner[c] = rows[s, c], p
        for c in range(dim):
            shares[winner[c]] += 1.0
        for p in range(start, stop):
            shares[p] /= dim
