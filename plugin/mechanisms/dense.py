"""Softmax attention over all keys, or a band of them: the kernels' call, and the rows that ask for float64."""

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy import empty, ndarray

from attnbridge import kernels
from attnbridge.errors import InvalidInputError
from attnbridge.kernels import attend_few, attend_many
from attnbridge.kernels.tile import LANES
from attnbridge.masks import DenseMask
from attnbridge.mechanisms.base import Attended, Batch, cut_blocks
from attnbridge.threads import for_chunks, usable_threads
from attnbridge.validation import Float, kernel_ready
from attnbridge.workspace import Lend

# Up to so many queries go one by one.
FEW = 6

# Keys at a time: their logits, and in tiles their values too, stay in the innermost cache.
_FEW_BLOCK = 512
MANY_BLOCK = 64

# Multiply-adds of about a millisecond: less is not shared out, and a chunk is no more.
_MILLISECOND = 50_000_000

# Values of a mask that are looked at together.
_PART = 1 << 15

_FLOAT32 = np.dtype(np.float32)


class Masks(NamedTuple):
    """A dense mask as the kernels take it: blocks (m, L or 1, S or 1), one of the two of no size."""

    allowed: npt.NDArray[np.bool_]
    added: Float


class Call(NamedTuple):
    """What the kernels are called with: inputs with an axis of heads, settings."""

    query: Float  # (mq, L, H d)
    key: Float  # (mk, S, H d)
    value: Float  # (mv, S, H dv)
    which: npt.NDArray[np.int64]  # (P, 4)
    heads: int
    scale: float
    left: int
    right: int
    allowed: npt.NDArray[np.bool_]
    added: Float
    block: int
    rate: float
    draw: int


class Results(NamedTuple):
    """What the kernels fill."""

    output: Float  # (P, L, H dv)
    total: npt.NDArray[np.float64]  # (P, H, L)
    weights: Float  # (P, H, L, S), or of no size


def _run(call: tuple[Any, ...], results: tuple[Any, ...], groups: int, queries: int, pairs: int) -> int:
    """Fill `Results` as `Call` says; return how many queries are to be done in float64.

    There are so many groups of queries (problems, each with its heads); a query costs `pairs` multiply-adds.
    """
    if queries <= FEW:
        items, cost = groups * queries, pairs
        attend: Callable[..., int] = attend_few
    else:
        items, cost = groups * -(-queries // LANES), LANES * pairs
        attend = attend_many
    if items * cost < _MILLISECOND:
        return attend(*call, 0, items, *results)
    threads, undone = usable_threads(), []
    chunk = max(1, min(_MILLISECOND // max(1, cost), -(-items // threads)))
    for_chunks(lambda first, stop: undone.append(attend(*call, first, stop, *results)), items, chunk, threads)
    return sum(undone)


# In the shapes that the kernels know: a mask, weights that nobody asked for.
_NO_MASK = np.empty((0, 0, 0), np.bool_)
_NO_NUMBERS = {char: np.empty((0, 0, 0), char) for char in "fd"}
_NO_WEIGHTS = {char: np.empty((0, 0, 0, 0), char) for char in "fd"}
_NO_TOTAL = np.empty((0, 0, 0))
_NO_FLOATS, _NO_WEIGHT_FLOATS = _NO_NUMBERS["f"], _NO_WEIGHTS["f"]


@lru_cache(maxsize=8)
def _each_its_own(problems: int) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(problems)[:, None], 4, axis=1)


_FIRST = _each_its_own(1)


def attend_plain(
    query: Any,
    key: Any,
    value: Any,
    *,
    scale: float | None = None,
    heads: int = 1,
    max_keys: int = sys.maxsize,
    block: int | None = None,
) -> Float | None:
    """Return what `attend_dense` does, without mask, for small arrays that need no preparing; None for all others.

    The common case in a few microseconds: float32 arrays as the kernels take them, no broadcasting, and nothing in the
    result that asks for a second look (there the careful way says what is wrong, or does it in float64).
    """
    if not (type(query) is type(key) is type(value) is ndarray and query.dtype is key.dtype is value.dtype is _FLOAT32):
        return None
    if not (query.flags.carray and key.flags.carray and value.flags.carray):  # contiguous, aligned, writeable
        return None
    if query.ndim <= key.ndim == value.ndim == 2:
        count, dim = key.shape
        rows, width = value.shape
        queries, problems = query.shape[0] if query.ndim == 2 else 1, 1
        fits = rows == count and query.ndim > 0 and query.shape[-1] == dim
    elif query.ndim == key.ndim == value.ndim > 2:
        (count, dim), width, queries = key.shape[-2:], value.shape[-1], query.shape[-2]
        problems = key.size // (count * dim) if key.size else 0
        fits = value.shape[:-1] == key.shape[:-1] and query.shape[:-2] == key.shape[:-2] and query.shape[-1] == dim
    else:
        return None
    if not fits or not dim or not 0 < count <= max_keys or dim % heads or width % heads:
        return None
    few = queries <= FEW
    lanes = 1 if few else LANES
    tiles = problems * -(-queries // lanes)
    if not 0 < tiles * lanes * count * (dim + width) * (width > 0) < _MILLISECOND:
        return None
    output = empty((problems, queries, width), _FLOAT32)
    attend = attend_few if few else attend_many
    undone = attend(
        query.reshape(problems, queries, dim),
        key.reshape(problems, count, dim),
        value.reshape(problems, count, width),
        _FIRST if problems == 1 else _each_its_own(problems),
        heads,
        (dim // heads) ** -0.5 if scale is None else scale,
        queries + count,
        queries + count,
        _NO_MASK,
        _NO_FLOATS,
        _block(queries, count) if block is None else min(block, count),
        0.0,
        0,
        0,
        tiles * heads,
        output,
        _NO_TOTAL,
        _NO_WEIGHT_FLOATS,
    )
    return None if undone else output.reshape(*query.shape[:-1], width)


def _block(queries: int, keys: int) -> int:
    """Return how many keys to attend to at a time."""
    return min(keys, _FEW_BLOCK if queries <= FEW else MANY_BLOCK)


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
    lend: Lend = np.empty,
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
        Query i attends to keys i - left .. i + right only; a causal batch has right = its `first`.
    need_weights : bool, default False
    rate : float, default 0.0
        Of dropout.
    draw : int, default 0
        What dropout is drawn from; head h of problem p is problem p * heads + h of `kernels.drop`.
    block : int, optional
        Keys that are attended to at a time.
    lend : callable
        (shape, dtype) -> array, for outputs and log-normalisers.

    Returns
    -------
    Attended
        Outputs (P, L, heads * dv), the heads side by side; weights (P, L, S) or, of several heads, (P, heads, L, S);
        log-normalisers (P, L) or (P, heads, L).
    """
    assert batch.value is not None
    problems, queries, keys = batch.shape
    most = queries + keys
    left, right = (most if side is None else min(side, most) for side in (left, right))
    if batch.is_causal:
        right = min(right, batch.first)
    if left < queries - 1 or right < keys - 1:
        batch.require_finite()  # of what lies outside the band no result tells
    dtype = batch.value.dtype
    which = np.zeros((problems, 4), np.int64)
    which[:, :3] = batch.which
    masks = Masks(_NO_MASK, _NO_NUMBERS[dtype.char]) if batch.mask is None else _mask_blocks(batch, which)
    call = Call(
        batch.query,
        batch.key,
        batch.value,
        which,
        heads,
        scale,
        left,
        right,
        masks.allowed,
        masks.added,
        _block(queries, keys) if block is None else min(block, keys),
        rate,
        draw,
    )
    results = Results(
        lend((problems, queries, batch.value.shape[2]), dtype),
        lend((problems, heads, queries), np.float64),
        np.zeros((problems, heads, queries, keys), dtype) if need_weights else _NO_WEIGHTS[dtype.char],
    )
    pairs = min(keys, left + right + LANES) * (batch.query.shape[2] + batch.value.shape[2]) // heads
    if _run(call, results, problems * heads, queries, pairs):
        for p, h, i in np.argwhere(np.isnan(results.total)):
            _exact_row(batch, call, results, p, h, i)
    if heads > 1:
        return Attended(results.output, results.weights if need_weights else None, results.total)
    return Attended(results.output, results.weights[:, 0] if need_weights else None, results.total[:, 0])


def _mask_blocks(batch: Batch, which: npt.NDArray[np.int64]) -> Masks:
    """Return a batch's mask, of any kind, and fill in which block is each problem's; a broadcast mask stays small."""
    blocks, which[:, 3] = cut_blocks(_dense_mask(batch), batch.lead, 2)
    char = batch.key.dtype.char
    if blocks.dtype == np.bool_:
        return Masks(kernel_ready(blocks), _NO_NUMBERS[char])
    with np.errstate(over="ignore"):
        numbers = blocks.astype(batch.key.dtype, copy=False)
    if blocks.dtype.itemsize > numbers.dtype.itemsize:
        for wide, narrow in zip(_parts(blocks), _parts(numbers), strict=True):
            lost = np.isinf(narrow) != np.isinf(wide)
            if lost.any():  # a large number is not -inf, which hides a key
                narrow[lost] = np.copysign(np.finfo(narrow.dtype).max, wide[lost])
    return Masks(_NO_MASK, kernel_ready(numbers))


def _parts(blocks: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Return views of some rows each: what is made of one of them stays in the cache."""
    for block in blocks:
        step = max(1, _PART // block.shape[1])
        for start in range(0, len(block), step):
            yield block[start : start + step]


def _dense_mask(batch: Batch) -> npt.NDArray[Any]:
    """Return a batch's mask with all leading axes, each of them whole or 1."""
    if isinstance(batch.mask, DenseMask):
        data = batch.mask.data
    else:
        assert batch.mask is not None
        data = np.zeros((*batch.lead, *batch.shape[1:]))
        batch.mask.apply(data)
    return data.reshape((1,) * (len(batch.lead) + 2 - data.ndim) + data.shape)


def _exact_row(batch: Batch, call: Call, results: Results, p: int, h: int, i: int) -> None:
    """Fill one query's output, weights and log-normaliser by way of float64 logits.

    Raises
    ------
    InvalidInputError, InvalidMaskError
        Something is not finite, or a logit beyond float64.
    """
    q, k, v, _ = call.which[p]
    dim, width = call.query.shape[2] // call.heads, call.value.shape[2] // call.heads
    column, columns = slice(h * dim, (h + 1) * dim), slice(h * width, (h + 1) * width)
    keys, values = np.ascontiguousarray(call.key[k, :, column]), np.ascontiguousarray(call.value[v, :, columns])
    logits = np.empty(len(keys))
    kernels.dot(call.query[q, i, column], 0.0, keys, None, None, None, call.scale, logits)
    if not np.isfinite(logits).all():
        batch.require_finite()
        query, key, _ = batch.names
        raise InvalidInputError(f"{query} and {key} must have products within float64 (1.8e308); rescale them")
    if batch.mask is not None:
        mask = _dense_mask(batch)
        whole = np.broadcast_to(mask, (*batch.lead, *mask.shape[-2:]))[np.unravel_index(p, batch.lead)]
        DenseMask(whole[min(i, len(whole) - 1)]).apply(logits)
    logits[: max(0, i - call.left)] = -np.inf
    logits[max(0, i + call.right + 1) :] = -np.inf
    results.total[p, h, i] = kernels.softmax(logits, logits)
    kernels.drop(logits[None], call.rate, call.draw, p * call.heads + h, i, 0)
    mean = np.empty(width)
    kernels.weighted_sum(logits, values, None, None, mean)
    if not np.isfinite(mean).all():
        batch.require_finite()
    results.output[p, i, columns] = mean
    if results.weights.size:
        results.weights[p, h, i] = logits
