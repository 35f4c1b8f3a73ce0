"""Softmax attention over all keys, or a band of them: the kernel's call, and the rows that ask for float64."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError
from attnbridge.masks import DenseMask
from attnbridge.mechanisms.base import Attended, Batch, cut_blocks
from attnbridge.validation import Float


class Band(NamedTuple):
    """Query i attends to keys i - left .. i + right."""

    left: int
    right: int


def attend_dense(
    batch: Batch,
    *,
    scale: float,
    heads: int = 1,
    left: int | None = None,
    right: int | None = None,
    need_weights: bool = False,
    rate: float = 0.0,
    draw: int = 0,
    block: int | None = None,
) -> Attended:
    """Return softmax(scale q K^T + mask) V of each problem, head by head.

    Parameters
    ----------
    batch : Batch
        With values. Its rows hold `heads` heads side by side: (mq, L, heads * d), (mk, S, heads * d),
        (mv, S, heads * dv), read in place.
    scale : float
    heads : int, default 1
    left, right : int, optional
        Query i attends to keys i - left .. i + right only; a causal batch has right = 0.
    need_weights : bool, default False
    rate : float, default 0.0
        Of dropout.
    draw : int, default 0
        What dropout is drawn from; head h of problem p is problem p * heads + h of `kernels.drop`.
    block : int, optional
        Keys that are attended to at a time.

    Returns
    -------
    Attended
        Outputs (P, L, heads * dv), the heads side by side; weights (P, L, S) or, of several heads, (P, heads, L, S);
        log-normalisers (P, L) or (P, heads, L).
    """
    problems, queries, keys = batch.shape
    assert batch.value is not None
    band = Band(keys + queries if left is None else left, keys if right is None else right)
    if batch.is_causal:
        band = band._replace(right=min(band.right, 0))
    mask = mask_blocks(batch)
    output = np.empty((problems, queries, heads, batch.value.shape[-1] // heads), batch.value.dtype)
    total = np.empty((problems, heads, queries))
    weights = np.zeros((problems, heads, queries, keys), batch.value.dtype) if need_weights else None
    for p, h, i in np.ndindex(problems, heads, queries):
        _exact_row(batch, mask, scale, band, rate, draw, (p, h, i), output, weights, total)
    output = output.reshape(problems, queries, -1)
    if heads > 1:
        return Attended(output, weights, total)
    return Attended(output, None if weights is None else weights[:, 0], total[:, 0])


class MaskBlocks(NamedTuple):
    """A dense mask as blocks (m, L or 1, S or 1), and for each problem which of the m is its."""

    data: npt.NDArray[Any]
    which: npt.NDArray[np.int64]


def mask_blocks(batch: Batch) -> MaskBlocks | None:
    """Return a batch's mask, of any kind, in blocks; a broadcast one is not copied."""
    if batch.mask is None:
        return None
    if isinstance(batch.mask, DenseMask):
        data = batch.mask.data
    else:
        data = np.zeros((*batch.lead, *batch.shape[1:]))
        batch.mask.apply(data)
    data = data.reshape((1,) * (len(batch.lead) + 2 - data.ndim) + data.shape)
    return MaskBlocks(*cut_blocks(data, batch.lead, 2))


def _exact_row(
    batch: Batch,
    mask: MaskBlocks | None,
    scale: float,
    band: Band,
    rate: float,
    draw: int,
    place: tuple[int, int, int],
    output: Float,
    weights: Float | None,
    total: npt.NDArray[np.float64],
) -> None:
    """Fill one query's output, weights and log-normaliser by way of float64 logits.

    Raises
    ------
    InvalidInputError, InvalidMaskError
        A key or a value is not finite, or a logit beyond float64.
    """
    assert batch.value is not None
    p, h, i = place
    q, k, v = batch.which[p]
    heads, dim, width = output.shape[2], batch.query.shape[-1] // output.shape[2], output.shape[3]
    query = batch.query[q, i, h * dim : (h + 1) * dim]
    keys = np.ascontiguousarray(batch.key[k, :, h * dim : (h + 1) * dim])
    values = np.ascontiguousarray(batch.value[v, :, h * width : (h + 1) * width])
    logits = np.empty(len(keys))
    kernels.dot(query, 0.0, keys, None, None, None, scale, logits)
    if not np.isfinite(logits).all():
        batch.require_finite()
        names = batch.names
        raise InvalidInputError(f"{names[0]} and {names[1]} must have products within float64 (1.8e308); rescale them")
    if mask is not None:
        rows = mask.data[mask.which[p]]
        DenseMask(np.broadcast_to(rows, (batch.shape[1], rows.shape[1]))[i]).apply(logits)
    logits[: max(0, i - band.left)] = -np.inf
    logits[max(0, i + band.right + 1) :] = -np.inf
    total[p, h, i] = kernels.softmax(logits, logits)
    kernels.drop(logits[None], rate, draw, p * heads + h, i, 0)
    mean = np.empty(width)
    kernels.weighted_sum(logits, values, None, None, mean)
    if not np.isfinite(mean).all():
        batch.require_finite()
    output[p, i, h] = mean
    if weights is not None:
        weights[p, h, i] = logits
