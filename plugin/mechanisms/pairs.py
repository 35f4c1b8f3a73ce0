"""Attention over listed pairs of query and key, problem by problem."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError, InvalidMaskError
from attnbridge.masks import DenseMask, SparseMask
from attnbridge.masks.bands import as_indptr
from attnbridge.mechanisms.base import Attended, Batch, cut_blocks
from attnbridge.mechanisms.row import scale_or_default
from attnbridge.threads import for_chunks, usable_threads
from attnbridge.validation import Float, kernel_ready
from attnbridge.workspace import Lend

# Multiplications that a thread does at a time: some milliseconds.
CHUNK = 8_000_000

# Pairs that a mask is looked up for at a time: what is made for them stays small.
_PAIRS = 1 << 11


class Pairs(NamedTuple):
    """What a problem's queries attend to, and what is added to the logits of its pairs, (nnz,) or (0,)."""

    mask: SparseMask
    bias: npt.NDArray[np.float64] = np.empty(0)


def attend_sparse(
    batch: Batch,
    mask: SparseMask,
    *,
    scale: float | None,
    rate: float = 0.0,
    draw: int = 0,
    need_weights: bool = False,
    head: int = 0,
    heads: int = 1,
) -> Attended:
    """Return the attention of each problem of a batch over the pairs of a mask, which stands for the batch's own.

    Parameters
    ----------
    batch : Batch
        Its is_causal counts; without values, the output is (P, L, 0).
    mask : SparseMask, (L, S)
    scale : float or None
        Factor on q . k; None is 1/sqrt(d).
    rate, draw : float, int
        Dropout as `kernels.drop` takes it: the same pairs are dropped as by dense attention.
    need_weights : bool
        Return (P, L, S) weights too.
    head, heads : int
        Which of how many the batch is a share of: of other heads, other pairs are dropped.
    """
    return attend_pairs(
        batch, [Pairs(mask)] * len(batch.which), batch.first, scale, rate, draw, need_weights, head, heads
    )


def attend_pairs(
    batch: Batch,
    pairs: list[Pairs],
    first: int,
    scale: float | None,
    rate: float = 0.0,
    draw: int = 0,
    need_weights: bool = False,
    head: int = 0,
    heads: int = 1,
) -> Attended:
    """Return the attention of each problem over its pairs; a causal query i sees keys 0 .. first + i."""
    batch.require_finite()  # a key that nobody attends to would not show in the result
    problems, queries, keys = batch.shape
    kind = batch.key.dtype
    value = np.empty((1, keys, 0), kind) if batch.value is None else batch.value
    out, total = np.empty((problems, queries, value.shape[2]), kind), np.empty((problems, queries))
    weights = np.zeros((problems, queries, keys), kind) if need_weights else None
    reach = min(first + 1, keys) if batch.is_causal else keys
    factor = scale_or_default(batch.query.shape[2], scale)
    for problem, (q, k, v) in enumerate(batch.which):
        arrays = batch.query[q], batch.key[k], value[0 if batch.value is None else v]
        mask, bias = pairs[problem]
        listed = np.zeros(mask.nnz if need_weights else 0, kind)
        filled = out[problem], listed, total[problem]
        if attend_problem(*arrays, pairs[problem], reach, factor, rate, draw, problem * heads + head, *filled):
            raise_beyond_float64(batch, len(bias) > 0)
        if weights is not None:
            weights[problem, mask._rows(), mask.indices] = listed
    return Attended(out, weights, total)


def attend_problem(
    query: Float,
    key: Float,
    value: Float,
    pairs: Pairs,
    reach: int,
    scale: float,
    rate: float,
    draw: int,
    problem: int,
    out: Float,
    weights: Float,
    total: npt.NDArray[np.float64],
) -> bool:
    """Fill out, weights (nnz,) or (0,), and total; return whether a logit was beyond float64."""
    indptr, indices = kernel_ready(pairs.mask.indptr), kernel_ready(pairs.mask.indices)
    beyond = []

    def work(start: int, stop: int) -> None:
        rows = slice(start, stop)
        about = indptr[start : stop + 1], indices, pairs.bias, start, reach, scale, rate, draw, problem
        if kernels.attend_pairs(query[rows], key, value, *about, out[rows], weights, total[rows]) >= 0:
            beyond.append(start)

    a_query = (key.shape[1] + value.shape[1]) * pairs.mask.nnz // max(1, len(query))
    for_chunks(work, len(query), 1 + CHUNK // (1 + a_query), usable_threads())
    return bool(beyond)


def raise_beyond_float64(batch: Batch, by_mask: bool) -> None:
    """Refuse logits that are NaN or +inf."""
    if by_mask:
        raise InvalidMaskError("mask must stay within float64 when added to the logits (1.8e308); lower it")
    names = " and ".join(dict.fromkeys(batch.names[:2]))
    raise InvalidInputError(f"{names} must have products within float64 (1.8e308); rescale them")


def distinct_masks(batch: Batch) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Return the distinct masks (L, S) of a batch, sparse or arrays or None, and which of them each problem has."""
    if not isinstance(batch.mask, DenseMask):
        return [batch.mask], np.zeros(len(batch.which), np.int64)
    data = batch.mask.data
    whole = np.broadcast_to(data, np.broadcast_shapes(data.shape, batch.shape[1:]))
    blocks, numbers = cut_blocks(whole, batch.lead, 2)
    return list(blocks), numbers


def restricted(own: SparseMask | None, block: Any, lend: Lend = np.empty) -> Pairs:
    """Return the pairs of a pattern, or of None for any, that a mask (L, S) lets through; their arrays may be lent."""
    if block is None:
        assert own is not None
        return Pairs(own)
    if isinstance(block, SparseMask):
        return Pairs(block if own is None else own & block)
    boolean = block.dtype == np.bool_
    if own is None:
        own = SparseMask.from_dense(block if boolean else block > -np.inf)
    if not boolean:
        bias = lend((own.nnz,), np.float64)
        for start, stop, rows, ids in _row_chunks(own):
            bias[own.indptr[start] : own.indptr[stop]] = block[rows, ids]
        return Pairs(own, bias)
    counts, indices, end = np.zeros(len(own.indptr) - 1, np.int64), lend((own.nnz,), np.int32), 0
    for start, stop, rows, ids in _row_chunks(own):
        there = block[rows, ids]
        kept = ids[there]
        indices[end : end + len(kept)] = kept
        end += len(kept)
        counts[start:stop] = np.bincount(rows[there] - start, minlength=stop - start)
    return Pairs(SparseMask._of(as_indptr(counts), indices[:end], own.shape))


def _row_chunks(mask: SparseMask) -> Iterator[tuple[int, int, npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
    """Yield start, stop and the pairs' queries and keys of some consecutive queries, until all have come."""
    indptr, start = mask.indptr, 0
    while start < len(indptr) - 1:
        stop = max(start + 1, int(np.searchsorted(indptr, indptr[start] + _PAIRS, side="right")) - 1)
        rows = np.repeat(np.arange(start, stop), np.diff(indptr[start : stop + 1]))
        yield start, stop, rows, mask.indices[indptr[start] : indptr[stop]]
        start = stop


def best_pairs(batch: Batch, problem: int, block: Any, most: int, scale: float | None, lend: Lend = np.empty) -> Pairs:
    """Return the pairs of each query's largest logits, at most so many, among those that its mask lets through.

    Their arrays may be lent. Of equal logits those of the first keys count. Only a row of logits is held at a time.
    """
    batch.require_finite()
    _, queries, keys = batch.shape
    query, key = batch.query[batch.which[problem, 0]], batch.key[batch.which[problem, 1]]
    factor = scale_or_default(query.shape[1], scale)
    added = isinstance(block, np.ndarray) and block.dtype != np.bool_
    chosen = lend((queries, most), np.int32)
    chosen.fill(keys)

    def work(start: int, stop: int) -> None:
        best, every = np.empty(most, np.int64), np.empty(keys)
        for i in range(start, stop):
            ids = block._row(i).astype(np.int64) if isinstance(block, SparseMask) else None
            scores = every if ids is None else every[: len(ids)]
            kernels.dot(query[i], 0.0, key, None, None, ids, factor, scores)
            if isinstance(block, np.ndarray):
                _apply_row(block[i], scores)
            if not (scores < np.inf).all():
                raise_beyond_float64(batch, added)
            if batch.is_causal:
                visible = i + 1 if ids is None else np.searchsorted(ids, i, side="right")
                scores = scores[:visible]
            found = best[: kernels.top_k(scores, None, best)]
            found = found[scores[found] > -np.inf]
            chosen[i, : len(found)] = found if ids is None else ids[found]

    for_chunks(work, queries, 1 + CHUNK // (keys * query.shape[1]), usable_threads())
    chosen.sort(axis=1)
    indptr = as_indptr((chosen < keys).sum(axis=1))
    indices = chosen.reshape(-1)
    if indptr[-1] < len(indices):  # moved together, row by row: what is there comes first in each
        for row, start, stop in zip(chosen, indptr, indptr[1:], strict=False):
            indices[start:stop] = row[: stop - start]
    mask = SparseMask._of(indptr, indices[: indptr[-1]], (queries, keys))
    return restricted(mask, block, lend) if added else Pairs(mask)


def _apply_row(row: npt.NDArray[Any], scores: npt.NDArray[np.float64]) -> None:
    """Put -inf where a boolean row is False, or add a float one."""
    if row.dtype == np.bool_:
        scores[~row] = -np.inf
    else:
        with np.errstate(over="ignore"):
            scores += row
