"""Patterns of sparse attention as bands: what each query attends to is a run of keys and a comb of single ones.

Window, strided, fixed and block-diagonal patterns all are of this form, and one builder lists the pairs of any of them
in time and memory that grow with their number, for all queries or for a few.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InputTooLargeError

# What int32 counts: 8 GB of keys.
MOST_PAIRS = 2**31 - 1
# Longer than any row of keys, and what every number that is added to it or taken from it can still be counted with.
BEYOND = 2**33

Ints = npt.NDArray[np.int64]


class Bands(NamedTuple):
    """Keys low..high - 1, and first, first + step, ... below `stop`, of each of L queries; (L,) int64 all but step."""

    low: Ints
    high: Ints
    first: Ints
    step: int
    stop: Ints


def window_bands(rows: Ints, keys: int, window: int, num_global: int = 0) -> Bands:
    """Return the keys i - window .. i + window of query i, and the global ones; all keys of a global query.

    Beltagy et al. 2020, Longformer, section 3.1.
    """
    everywhere = rows < num_global
    low = np.where(everywhere, 0, rows - window)
    high = np.where(everywhere, keys, rows + window + 1)
    none = np.zeros_like(rows)
    return Bands(low, high, none, 1, none + num_global)


def strided_bands(rows: Ints, keys: int, stride: int) -> Bands:
    """Return the keys at most `stride` away from query i, and every key a multiple of `stride` away.

    Child et al. 2019, Generating Long Sequences with Sparse Transformers, section 4.3.
    """
    return Bands(rows - stride, rows + stride + 1, rows % stride, stride, np.full_like(rows, keys))


def fixed_bands(rows: Ints, keys: int, block_size: int) -> Bands:
    """Return the block of query i, and the last key of every block.

    Child et al. 2019, section 4.3, with one summary column a block.
    """
    own = block_bands(rows, keys, block_size)
    return own._replace(first=np.full_like(rows, block_size - 1), step=block_size, stop=np.full_like(rows, keys))


def block_bands(rows: Ints, keys: int, block_size: int) -> Bands:
    """Return the block of query i."""
    start = rows - rows % block_size
    none = np.zeros_like(rows)
    return Bands(start, start + block_size, none, 1, none)


def causal_bands(rows: Ints, keys: int) -> Bands:
    """Return all keys: `listed` cuts them off behind the query."""
    none = np.zeros_like(rows)
    return Bands(none, none + keys, none, 1, none)


def runs(bands: Bands, rows: Ints, keys: int, causal: bool) -> tuple[Ints, Ints]:
    """Return starts and counts (L, 3) of each query's keys: the comb before its run, the run, the comb behind it."""
    end = np.minimum(keys, rows + 1) if causal else np.full_like(rows, keys)
    low, high = np.clip(bands.low, 0, end), np.clip(bands.high, 0, end)
    stop = np.minimum(bands.stop, end)
    before = _teeth(bands, np.minimum(low, stop))
    inside = _teeth(bands, np.minimum(high, stop))
    after = _teeth(bands, stop) - inside
    starts = np.stack([bands.first, low, bands.first + inside * bands.step], axis=1)
    return starts, np.stack([before, high - low, after], axis=1)


def listed(bands: Bands, rows: Ints, keys: int, causal: bool) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Return the pairs of queries `rows` with `keys` keys as CSR: indptr (L + 1,), indices (nnz,) ascending by row."""
    starts, counts = runs(bands, rows, keys, causal)
    require_few(int(counts.sum()))
    steps = np.array([bands.step, 1, bands.step])
    return as_indptr(counts.sum(axis=1)), ranges(starts.ravel(), counts.ravel(), np.tile(steps, len(rows)))


def require_few(pairs: int, where: str = "") -> None:
    """Refuse a pattern of more pairs than a list of them can hold."""
    if pairs > MOST_PAIRS:
        raise InputTooLargeError(
            f"mask must have at most {MOST_PAIRS:,} pairs, got {pairs:,}{where}; choose a narrower "
            "pattern or shorter sequences (is_causal=True needs no mask)"
        )


def _teeth(bands: Bands, below: Ints) -> Ints:
    """Return how many keys of the comb are smaller than `below`."""
    count: Ints = np.maximum(0, -((bands.first - below) // bands.step))
    return count


def as_indptr(counts: npt.NDArray[Any]) -> Ints:
    """Return where each of the rows that hold so many entries starts, and the end of the last."""
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    return indptr


def ranges(starts: Ints, counts: Ints, steps: Ints) -> npt.NDArray[np.int32]:
    """Return start, start + step, ..., `count` numbers of each, one range after the other."""
    some = counts > 0
    starts, counts, steps = starts[some], counts[some], steps[some]
    offsets = as_indptr(counts)
    kind = np.int32 if offsets[-1] < 2**31 else np.int64  # half the memory of what is at most a few thousand times L
    out = np.arange(offsets[-1], dtype=kind)
    out -= np.repeat(offsets[:-1].astype(kind), counts)
    if (steps != 1).any():
        out *= np.repeat(steps.astype(kind), counts)
    out += np.repeat(starts.astype(kind), counts)
    return out.astype(np.int32, copy=False)
