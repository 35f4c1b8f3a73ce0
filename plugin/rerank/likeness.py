"""How alike candidates are to each other, on one scale for all metrics.

==========  =============================================================  ========
metric      likeness of x and y                                            range
==========  =============================================================  ========
cosine, ip  x . y / (abs(x) abs(y)); 0 for a zero row                      -1 to 1
l2          1 / (1 + abs(x - y)^2 / (2 v)), v the candidates' mean         0 to 1
            squared distance from their mean
poincare    1 / (1 + s), s minus the metric's similarity:                  0 to 1
            1 / cosh(sqrt(c) distance / 2)^2
==========  =============================================================  ========

Under l2 and poincare it falls with the metric's own distance, so that equal rows alone have 1: cosines would make
equals of all rows in one direction.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.metric import norms
from attnbridge.rerank.pool import Pool


class Points(NamedTuple):
    """Rows as the kernels of likeness take them.

    Parameters
    ----------
    rows : ndarray of float32, (n, d)
        Unit rows; with factors what differences are taken of.
    factors : ndarray of float64, (n,), or None
    """

    rows: npt.NDArray[np.float32]
    factors: npt.NDArray[np.float64] | None


def points_of(pool: Pool, rows: npt.NDArray[np.int64]) -> Points:
    """Return stored rows as the kernels of likeness take them.

    Parameters
    ----------
    pool : Pool
    rows : ndarray of int64, (n,)
        At least one.

    Returns
    -------
    Points
    """
    data, metric = pool.keys.data[rows], pool.metric
    if metric.space is not None:
        assert pool.keys.scale is not None
        return Points(data, pool.keys.scale[rows] / np.sqrt(metric.space.c))
    if metric.name != "l2":  # a row's step is part of its length
        lengths = norms(data)
        inverse = np.divide(1.0, lengths, out=np.zeros(len(rows)), where=lengths > 0.0)
        return Points((_numbers(data) * inverse[:, None]).astype(np.float32), None)
    values = _numbers(data).astype(np.float64)
    if pool.keys.scale is not None:
        values *= pool.keys.scale[rows, None]
    values -= values.mean(axis=0)  # so that float32 keeps the digits in which they differ
    spread = np.sqrt(2.0 * (values**2).sum(axis=1).mean())
    return Points((values / (spread or 1.0)).astype(np.float32), np.ones(len(rows)))


def _numbers(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return data.view(np.float16) if data.dtype == np.uint16 else data


def best_first(pool: Pool) -> npt.NDArray[np.int64]:
    """Return the positions of the candidates that are not ruled out, best first, ties by row.

    Parameters
    ----------
    pool : Pool

    Returns
    -------
    ndarray of int64, (n,)
    """
    order = np.empty(len(pool.rows), np.int64)
    kernels.top_k(pool.scores, pool.rows, order)
    return order[: np.count_nonzero(pool.scores > -np.inf)]
