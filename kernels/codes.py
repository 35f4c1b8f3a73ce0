"""Rows and queries on their way into fewer bits: projections whose bits depend on one row alone, and int8."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit, strict_jit
from attnbridge.kernels.dot import dot_float64, four_dots

# A product beyond this is taken again in float64: its float32 sum may have left the range of float32 on the way.
LARGEST = 1e30


@jit
def project(rows: Any, factors: Any, directions: Any, out: Any) -> Any:
    """Write out[i, j] = factors[i] * rows[i] . directions[j]; a row has the same bits alone and among others.

    Parameters
    ----------
    rows : (n, d) float32 or float64
    factors : (n,) float64
    directions : (m, d) float32 or float64, m >= 1
    out : (n, m) float32 or float64
    """
    last = directions.shape[0] - 1
    for i in range(rows.shape[0]):
        row = rows[i]
        for j in range(0, last + 1, 4):
            j1 = min(j + 1, last)
            j2 = min(j + 2, last)
            j3 = min(j + 3, last)
            out[i, j], out[i, j1], out[i, j2], out[i, j3] = four_dots(row, directions, j, j1, j2, j3)
        for j in range(last + 1):
            value = np.float64(out[i, j])
            if not abs(value) <= LARGEST:
                value = dot_float64(row, directions, j)
            out[i, j] = value * factors[i]


@strict_jit
def to_int8(rows: Any, codes: Any, steps: Any) -> Any:
    """Write codes[i] = rows[i] / steps[i], rounded, where a row's largest absolute value becomes 127.

    Parameters
    ----------
    rows : (n, d) float32, finite
    codes : (n, d) int8
    steps : (n,) float64, 0 for rows of zeros
    """
    for i in range(rows.shape[0]):
        largest = np.float32(0)
        for j in range(rows.shape[1]):
            largest = max(largest, abs(rows[i, j]))
        steps[i] = np.float64(largest) / 127.0
        if largest == 0:
            codes[i, :] = 0
            continue
        factor = 127.0 / np.float64(largest)
        for j in range(rows.shape[1]):
            codes[i, j] = np.int8(np.rint(np.float64(rows[i, j]) * factor))
