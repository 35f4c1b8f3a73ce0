"""The store's rows and tokens: append-only arrays, of which readers hold the beginning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.metric import Keys, Metric
from attnbridge.rerank.pool import TokenRows


def grown(array: npt.NDArray[Any], used: int, more: int) -> npt.NDArray[Any]:
    """Return `array` with room for `more` after the first `used` entries, at least doubled where it must grow."""
    if used + more <= len(array):
        return array
    bigger = np.empty((max(used + more, 2 * used), *array.shape[1:]), array.dtype)
    bigger[:used] = array[:used]
    return bigger


class Rows:
    """Raw float32 vectors with what their metric needs of each.

    `put` writes behind the rows that count, where no reader looks; `count` is moved on by the caller. So a write that
    is broken off leaves nothing.

    Parameters
    ----------
    dim : int
    metric : Metric
    """

    def __init__(self, dim: int, metric: Metric) -> None:
        self.dim = dim
        self.metric = metric
        self.count = 0
        self._data: npt.NDArray[np.float32] = np.empty((0, dim), np.float32)
        self._scale: npt.NDArray[Any] | None = np.empty(0) if metric.row_term == "scale" else None
        self._bias: npt.NDArray[Any] | None = np.empty(0) if metric.row_term == "bias" else None

    def put(self, vectors: npt.NDArray[np.float32], name: str) -> None:
        """Write checked vectors behind the rows that count; what the metric cannot take is refused."""
        scale, bias = self.metric.row_terms(vectors, name)
        start, stop = self.count, self.count + len(vectors)
        self._data = grown(self._data, start, len(vectors))
        self._data[start:stop] = vectors
        if self._scale is not None:
            self._scale = grown(self._scale, start, len(vectors))
            self._scale[start:stop] = scale
        if self._bias is not None:
            self._bias = grown(self._bias, start, len(vectors))
            self._bias[start:stop] = bias

    @classmethod
    def wrap(cls, data: npt.NDArray[np.float32], terms: npt.NDArray[np.float64] | None, metric: Metric) -> "Rows":
        """Take over arrays without a copy (they may be memory-mapped); appending makes room elsewhere."""
        rows = cls(data.shape[1], metric)
        rows._data, rows.count = data, len(data)
        if metric.row_term == "scale":
            rows._scale = terms
        elif metric.row_term == "bias":
            rows._bias = terms
        return rows

    @property
    def terms(self) -> npt.NDArray[np.float64] | None:
        """What the metric needs of each row besides its values: scale, bias or nothing."""
        terms = self._bias if self._scale is None else self._scale
        return None if terms is None else terms[: self.count]

    def keys(self) -> Keys:
        """Return the rows that count as the kernels read them."""
        n = self.count
        return Keys(
            self._data[:n],
            None if self._scale is None else self._scale[:n],
            None if self._bias is None else self._bias[:n],
        )


class Tokens:
    """Token vectors of the rows, as float16.

    Parameters
    ----------
    dim : int
        Dimension of a token vector.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._count = 0
        self._rows = 0
        self._data: npt.NDArray[np.float16] = np.empty((0, dim), np.float16)
        self._lengths: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._starts: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def append(self, tokens: Sequence[npt.NDArray[np.float16]], rows: int) -> None:
        """Append the tokens of the rows from number `rows` on; those before that have no entry have none."""
        self.skip_to(rows)
        lengths = np.array([len(t) for t in tokens], np.int64)
        total = int(lengths.sum())
        self._data = grown(self._data, self._count, total)
        if total:
            np.concatenate(tokens, out=self._data[self._count : self._count + total])
        self._add_lengths(lengths)
        self._count += total

    @classmethod
    def wrap(cls, data: npt.NDArray[np.float16], lengths: npt.NDArray[np.int64]) -> "Tokens":
        """Take over stored arrays without a copy."""
        tokens = cls(data.shape[1])
        tokens._data, tokens._count = data, len(data)
        tokens._lengths, tokens._rows = lengths, len(lengths)
        tokens._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(lengths)]
        return tokens

    def view(self) -> TokenRows:
        """Return the tokens as the kernels read them."""
        n = self._rows
        return TokenRows(self._data[: self._count].view(np.uint16), self._starts[:n], self._lengths[:n])

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
