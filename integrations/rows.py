"""The store's rows: append-only arrays with tombstones."""

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
    """Raw float32 vectors with what their metric needs of each; row numbers are never reused.

    Parameters
    ----------
    dim : int
    metric : Metric
    """

    def __init__(self, dim: int, metric: Metric) -> None:
        self.dim = dim
        self.metric = metric
        self.count = 0
        self.dead = 0
        self._data: npt.NDArray[np.float32] = np.empty((0, dim), np.float32)
        self._scale: npt.NDArray[Any] | None = np.empty(0) if metric.name == "cosine" else None
        self._bias: npt.NDArray[Any] | None = np.empty(0) if metric.name == "l2" else None
        self._alive: npt.NDArray[np.bool_] = np.empty(0, np.bool_)

    def append(self, vectors: npt.NDArray[np.float32], name: str, *, alive: bool = True) -> int:
        """Append checked vectors and return the first one's row number; zero vectors under cosine are refused."""
        scale, bias = self.metric.row_terms(vectors, name)
        start, stop = self.count, self.count + len(vectors)
        self._data = grown(self._data, start, len(vectors))
        self._alive = grown(self._alive, start, len(vectors))
        self._data[start:stop] = vectors
        self._alive[start:stop] = alive
        if self._scale is not None:
            self._scale = grown(self._scale, start, len(vectors))
            self._scale[start:stop] = scale
        if self._bias is not None:
            self._bias = grown(self._bias, start, len(vectors))
            self._bias[start:stop] = bias
        self.count = stop
        self.dead += 0 if alive else len(vectors)
        return start

    @classmethod
    def wrap(cls, data: npt.NDArray[np.float32], alive: npt.NDArray[np.bool_], metric: Metric, name: str) -> "Rows":
        """Take over stored arrays without a copy (they may be memory-mapped); appending makes room elsewhere."""
        rows = cls(data.shape[1], metric)
        rows._data, rows._alive, rows.count = data, alive, len(data)
        rows._scale, rows._bias = metric.row_terms(data, name)
        rows.dead = int((~alive).sum())
        return rows

    def kill(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Mark live rows as dead."""
        self._alive[rows] = False
        self.dead += len(rows)

    def revive(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Mark dead rows as alive."""
        self._alive[rows] = True
        self.dead -= len(rows)

    @property
    def data(self) -> npt.NDArray[np.float32]:
        """All rows, dead ones included."""
        return self._data[: self.count]

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Which rows are not dead."""
        return self._alive[: self.count]

    def alive_rows(self) -> npt.NDArray[np.int64] | None:
        """Return the live rows' numbers, or None for all."""
        return np.flatnonzero(self.alive) if self.dead else None

    def keys(self) -> Keys:
        """Return all rows as the kernels read them."""
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
        self.count = 0
        self._rows = 0
        self._data: npt.NDArray[np.float16] = np.empty((0, dim), np.float16)
        self._lengths: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._starts: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def append(self, tokens: Sequence[npt.NDArray[np.float16]], rows: int) -> None:
        """Append the tokens of the rows from number `rows` on; those before that have no entry have none."""
        self.skip_to(rows)
        lengths = np.array([len(t) for t in tokens], np.int64)
        total = int(lengths.sum())
        self._data = grown(self._data, self.count, total)
        if total:
            np.concatenate(tokens, out=self._data[self.count : self.count + total])
        self._add_lengths(lengths)
        self.count += total

    @classmethod
    def wrap(cls, data: npt.NDArray[np.float16], lengths: npt.NDArray[np.int64]) -> "Tokens":
        """Take over stored arrays without a copy."""
        tokens = cls(data.shape[1])
        tokens._data, tokens.count = data, len(data)
        tokens._lengths, tokens._rows = lengths, len(lengths)
        tokens._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(lengths)]
        return tokens

    @property
    def data(self) -> npt.NDArray[np.float16]:
        """All tokens, those of dead rows included."""
        return self._data[: self.count]

    def view(self) -> TokenRows:
        """Return the tokens as the kernels read them."""
        n = self._rows
        return TokenRows(self.data.view(np.uint16), self._starts[:n], self._lengths[:n])

    def of(self, row: int) -> npt.NDArray[np.float16]:
        """Return one row's tokens (n, dt)."""
        return self._data[self._starts[row] : self._starts[row] + self._lengths[row]]

    def skip_to(self, rows: int) -> None:
        """Give all rows before number `rows` that have no entry yet no tokens."""
        if rows > self._rows:
            self._add_lengths(np.zeros(rows - self._rows, np.int64))

    def _add_lengths(self, lengths: npt.NDArray[np.int64]) -> None:
        n = self._rows
        self._lengths = grown(self._lengths, n, len(lengths))
        self._starts = grown(self._starts, n, len(lengths))
        self._lengths[n : n + len(lengths)] = lengths
        ends = self.count + np.cumsum(lengths)
        self._starts[n : n + len(lengths)] = ends - lengths
        self._rows = n + len(lengths)
