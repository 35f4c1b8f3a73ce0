"""The store's rows and tokens: append-only arrays, of which readers hold the beginning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.hits import Id
from attnbridge.integrations.codes import DISK, STORED, pack
from attnbridge.integrations.reduction import Reduction
from attnbridge.integrations.tokens import TokenArrays
from attnbridge.metric import Keys, Metric, squares
from attnbridge.rerank.pool import TokenRows


def grown(array: npt.NDArray[Any], used: int, more: int) -> npt.NDArray[Any]:
    """Return `array` with room for `more` after the first `used` entries, at least doubled where it must grow."""
    if used + more <= len(array):
        return array
    bigger = np.empty((max(used + more, 2 * used), *array.shape[1:]), array.dtype)
    bigger[:used] = array[:used]
    return bigger


class Rows:
    """Raw vectors, float32 or packed, with what their metric needs of each.

    `put` writes behind the rows that count, where no reader looks; `count` is moved on by the caller. So a write that
    is broken off leaves nothing.

    Parameters
    ----------
    dim : int
    metric : Metric
    dtype : {"float32", "float16", "int8"}, default "float32"
        Others than float32 are packed row by row.
    """

    def __init__(self, dim: int, metric: Metric, dtype: str = "float32") -> None:
        self.dim = dim
        self.metric = metric
        self.dtype = dtype
        self.count = 0
        self._data: npt.NDArray[Any] = np.empty((0, dim), STORED[dtype])
        self._terms: npt.NDArray[Any] | None = None if metric.row_term is None else np.empty(0)
        self._steps: npt.NDArray[Any] | None = None if dtype == "float32" else np.empty(0)

    def put(self, vectors: npt.NDArray[np.float32], name: str) -> None:
        """Write checked vectors behind the rows that count; what the metric cannot take is refused."""
        scale, bias = self.metric.row_terms(vectors, name)
        terms, data, steps = bias if scale is None else scale, vectors, None
        if self._steps is not None:
            data, steps = pack(vectors, self.dtype)
            terms = self._packed_terms(data, steps)
        start, stop = self.count, self.count + len(vectors)
        self._data = grown(self._data, start, len(vectors))
        self._data[start:stop] = data
        if self._terms is not None:
            self._terms = grown(self._terms, start, len(vectors))
            self._terms[start:stop] = terms
        if self._steps is not None:
            self._steps = grown(self._steps, start, len(vectors))
            self._steps[start:stop] = steps

    def _packed_terms(self, codes: npt.NDArray[Any], steps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """Return the scale of codes under cosine, the bias of what they stand for under l2."""
        if self.metric.name == "ip":
            return None
        lengths: npt.NDArray[np.float64] = squares(codes)
        return 1.0 / np.sqrt(lengths) if self.metric.name == "cosine" else -0.5 * steps**2 * lengths

    @classmethod
    def wrap(
        cls,
        data: npt.NDArray[Any],
        terms: npt.NDArray[np.float64] | None,
        steps: npt.NDArray[np.float64] | None,
        metric: Metric,
    ) -> "Rows":
        """Take over arrays without a copy (they may be memory-mapped); appending makes room elsewhere."""
        dtype = next(name for name, kind in STORED.items() if data.dtype == kind)
        rows = cls(data.shape[1], metric, dtype)
        rows._data, rows._terms, rows._steps, rows.count = data, terms, steps, len(data)
        return rows

    @property
    def steps(self) -> npt.NDArray[np.float64] | None:
        """What a packed row is multiplied with; None for float32."""
        return None if self._steps is None else self._steps[: self.count]

    def keys(self) -> Keys:
        """Return the rows that count as the kernels read them."""
        return self.part(0, self.count)

    def part(self, start: int, stop: int) -> Keys:
        """Return some rows, those too that do not count yet."""
        terms = None if self._terms is None else self._terms[start:stop]
        steps = None if self._steps is None else self._steps[start:stop]
        if self.metric.row_term == "scale":
            return Keys(self._data[start:stop], terms)
        return Keys(self._data[start:stop], steps, terms)


class Codes:
    """The rows once more as a reduction encodes them, for the walk.

    Like `Rows` they are written where no reader looks; how many count is for the caller to know.

    Parameters
    ----------
    reduction : Reduction
    dim : int
        Of the rows.
    """

    def __init__(self, reduction: Reduction, dim: int) -> None:
        self.reduction = reduction
        self._data: npt.NDArray[Any] = np.empty((0, reduction.width(dim)), STORED[reduction.dtype])

    @classmethod
    def wrap(cls, data: npt.NDArray[Any], reduction: Reduction, dim: int) -> "Codes":
        """Take over an array without a copy (it may be memory-mapped); appending makes room elsewhere."""
        codes = cls(reduction, dim)
        codes._data = data
        return codes

    def put(self, start: int, rows: Keys) -> int:
        """Encode full rows as those from number `start` on; return how many values were clipped."""
        data, clipped = self.reduction.encode(rows.data, rows.scale)
        self._data = grown(self._data, start, len(data))
        self._data[start : start + len(data)] = data
        return clipped

    def keys(self, rows: Keys) -> Keys:
        """Return the codes of the full rows that count as the kernels read them."""
        return Keys(self._data[: len(rows.data)], None, rows.bias)


class Ids:
    """The rows' ids; whole numbers in 8 bytes each, so that those of many hits are read in one go.

    Like `Rows` they are written where no reader looks.
    """

    def __init__(self) -> None:
        self._data: npt.NDArray[Any] = np.empty(0, np.int64)

    def put(self, start: int, ids: Sequence[Id]) -> None:
        """Write ids as those from row `start` on."""
        if self._data.dtype != object and ids and type(ids[0]) is not int:
            self._data = self._data.astype(object)
        data = grown(self._data, start, len(ids))
        data[start : start + len(ids)] = ids
        self._data = data

    def at(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """Return the ids of rows, in lists as `rows` is in arrays."""
        ids: list[Any] = self._data[rows].tolist()
        return ids

    def part(self, start: int, stop: int) -> list[Id]:
        """Return the ids of the rows from `start` to before `stop`."""
        ids: list[Id] = self._data[start:stop].tolist()
        return ids

    @property
    def nbytes(self) -> int:
        """How many bytes the array takes, without texts."""
        return self._data.nbytes


class Tokens:
    """Token vectors of the rows, as float16, or as int8 with a scale for each.

    Parameters
    ----------
    dim : int
        Dimension of a token vector.
    dtype : {"float16", "int8"}, default "float16"
    """

    def __init__(self, dim: int, dtype: str = "float16") -> None:
        self.dim = dim
        self.dtype = dtype
        self._count = 0
        self._rows = 0
        self._data: npt.NDArray[Any] = np.empty((0, dim), DISK[dtype])
        self._scales: npt.NDArray[np.float32] | None = np.empty(0, np.float32) if dtype == "int8" else None
        self._lengths: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._starts: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def append(self, tokens: TokenArrays, rows: int) -> None:
        """Append the tokens of the rows from number `rows` on; those before that have no entry have none."""
        self.skip_to(rows)
        lengths = tokens.lengths
        total = int(lengths.sum())
        written = slice(self._count, self._count + total)
        self._data = grown(self._data, self._count, total)
        if total:
            np.concatenate(tokens.data, out=self._data[written])
        if self._scales is not None and tokens.scales is not None and total:
            self._scales = grown(self._scales, self._count, total)
            np.concatenate(tokens.scales, out=self._scales[written])
        self._add_lengths(lengths)
        self._count += total

    @classmethod
    def wrap(
        cls,
        data: npt.NDArray[Any],
        lengths: npt.NDArray[np.int64],
        scales: npt.NDArray[np.float32] | None = None,
    ) -> "Tokens":
        """Take over stored arrays without a copy (they may be memory-mapped); appending makes room elsewhere."""
        tokens = cls(data.shape[1], data.dtype.name)
        tokens._data, tokens._scales, tokens._count = data, scales, len(data)
        tokens._lengths, tokens._rows = lengths, len(lengths)
        tokens._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(lengths)]
        return tokens

    def view(self) -> TokenRows:
        """Return the tokens as the kernels read them."""
        n = self._rows
        scales = None if self._scales is None else self._scales[: self._count]
        data = self._data[: self._count].view(STORED[self.dtype])
        return TokenRows(data, self._starts[:n], self._lengths[:n], scales)

    def cut(self, view: TokenRows) -> None:
        """Go back to an earlier view."""
        self._rows, self._count = len(view.lengths), len(view.data)

    def skip_to(self, rows: int) -> None:
        """Give all rows before number `rows` that have no entry yet no tokens."""
        if rows > self._rows:
            self._add_lengths(np.zeros(rows - self._rows, np.int64))

    def _add_lengths(self, lengths: npt.NDArray[np.int64]) -> None:
        n = self._rows
        self._lengths = grown(self._lengths, n, len(lengths))
        self._starts = grown(self._starts, n, len(lengths))
        self._lengths[n : n + len(lengths)] = lengths
        ends = self._count + np.cumsum(lengths)
        self._starts[n : n + len(lengths)] = ends - lengths
        self._rows = n + len(lengths)
