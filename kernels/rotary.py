"""Products of queries with keys that are turned by how far they are from the query (rotary embedding by distance).

Su et al. 2021, RoFormer, equation 34: q . R(t) k = (R(-t) q) . k, so that a query is turned once for each distance.
"""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit


@jit
def turned_dots(
    query: Any, key: Any, heads: Any, cosine: Any, sine: Any, turns: Any, scale: Any, limit: Any, out: Any
) -> Any:
    """Write out[h, i, j] = scale query[i] . R(turns[i, j]) key[j] over head h's columns, -inf where turns[i, j] < 0.

    R(t) turns columns (2c, 2c + 1) of a head by the angle whose cosine and sine are cosine[t, c] and sine[t, c].

    Parameters
    ----------
    query : (L, H d) float32 or float64
    key : (S, H d) of the query's dtype
        H heads side by side; d is even.
    heads : int
        H.
    cosine, sine : (T, d / 2) float64
    turns : (L, S) int64
        Below T.
    scale : float
    limit : float
    out : (H, L, S) of the query's dtype

    Returns
    -------
    int
        How many are beyond the limit, or no number, where turns are not negative.
    """
    half = cosine.shape[1]
    zero, lowest = query.dtype.type(0.0), query.dtype.type(-np.inf)
    table = np.empty((cosine.shape[0], 2 * half), query.dtype)
    filled = np.full(cosine.shape[0], -1, np.int64)  # for which head and query a row of the table is
    beyond = 0
    for h in range(heads):
        first = h * 2 * half
        for i in range(query.shape[0]):
            for j in range(key.shape[0]):
                t = turns[i, j]
                if t < 0:
                    out[h, i, j] = lowest
                    continue
                if filled[t] != h * query.shape[0] + i:
                    filled[t] = h * query.shape[0] + i
                    for c in range(half):
                        one, other = scale * query[i, first + 2 * c], scale * query[i, first + 2 * c + 1]
                        table[t, 2 * c] = one * cosine[t, c] + other * sine[t, c]
                        table[t, 2 * c + 1] = other * cosine[t, c] - one * sine[t, c]
                total = zero
                for c in range(2 * half):
                    total += table[t, c] * key[j, first + c]
                out[h, i, j] = total
                if not abs(total) <= limit:
                    beyond += 1
    return beyond
