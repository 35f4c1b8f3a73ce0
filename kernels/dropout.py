"""Dropout of attention weights, drawn from the place of a pair alone: the same in any tile, thread or order."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit


@jit
def _scrambled(x: Any) -> Any:
    """Return 64 bits that depend on all bits of x (splitmix64; Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@jit
def drop(weights: Any, rate: Any, draw: Any, problem: Any, first_query: Any, first_key: Any, ids: Any = None) -> Any:
    """Put 0 in place of each weight with probability `rate`, and weights / (1 - rate) in place of the others.

    Srivastava et al. 2014, on attention weights as Vaswani et al. 2017 (section 5.4) and torch apply it.

    Parameters
    ----------
    weights : (l, s) float32 or float64
        Of the queries and keys from first_query and first_key on; or of the keys first_key + ids.
    rate : float, [0, 1)
    draw : int
        What all is drawn from.
    problem, first_query, first_key : int
    ids : (s,) int32 or None
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    kept = weights.dtype.type(1.0 / (1.0 - rate))
    zero = weights.dtype.type(0.0)
    bar = np.int64(rate * 9007199254740992.0)  # 2^53
    start = _scrambled(np.uint64(draw) + step * np.uint64(problem + 1))
    for i in range(weights.shape[0]):
        row = _scrambled(start + step * np.uint64(first_query + i + 1))
        for j in range(weights.shape[1]):
            key = j
            if ids is not None:
                key = ids[j]
            number = _scrambled(row + step * np.uint64(first_key + key + 1)) >> np.uint64(11)
            weights[i, j] = weights[i, j] * kept if np.int64(number) >= bar else zero
