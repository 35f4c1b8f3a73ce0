"""Fewer dimensions and fewer bits for the rows that a graph is walked over, fitted to the rows once.

Principal directions, then one step for all values: row = step * codes . directions. The directions are those of the
second moment about zero, not about the mean, so that products are kept; with int8 they are turned at random within
their space, so that no direction needs a larger step than the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import IndexCorruptError
from attnbridge.integrations.codes import STORED
from attnbridge.metric import Metric
from attnbridge.threads import for_chunks, usable_threads
from attnbridge.validation import kernel_ready

Floats = npt.NDArray[np.float32]

# Rows that a fit looks at; more would not change it.
SAMPLE = 20_000

# Values that the step is fitted to.
_STEP_VALUES = 2_000_000

# Of the values other than 0, this share is within int8; what is beyond is clipped. Measured (WordNet, Cranfield's
# tokens): the best of 0.995 to 1.
_WITHIN = 0.9999

# A rotation of unreduced int8 rows costs each query dim^2 products: it has to shorten the step by this, and the
# dimension must not be larger.
_WORTH = 1.25
_MOST_ROTATED = 512

# Float codes are made to lie around 1 with a power of two; this far from it they are clipped.
_LARGEST = {"float32": 65504.0, "float16": 65504.0, "int8": 127.0}
_HEADROOM = 8  # powers of two above 1 that the largest value of a fit comes to

_CHUNK = 256  # rows that are encoded while they are in the cache

# A query's products with directions of length 1 stay in float32 when they are made smaller by this.
_SHRINK = 2.0**-8


def rows_needed(dim: int) -> int:
    """Return how many rows there must be for a fit that later rows will fit too."""
    return max(10 * dim, 10_000)


@dataclass(frozen=True, eq=False)
class Reduction:
    """How rows and queries become codes: score = query_scale * query_codes . codes (+ the row's bias).

    Parameters
    ----------
    dtype : {"float32", "float16", "int8"}
        Of the codes.
    step : float, default 1.0
        What a code of 1 stands for.
    directions : (m, d) float32, optional
        Orthonormal; None where rows are not projected.
    """

    dtype: str
    step: float = 1.0
    directions: Floats | None = None

    # ---- making one

    @classmethod
    def fit(
        cls, rows: Floats, *, metric: Metric, dtype: str, index_dim: int | None = None, seed: int = 0
    ) -> "Reduction":
        """Fit to rows, of which a sample is enough.

        Parameters
        ----------
        rows : (n, d) float32, finite
        metric : Metric
            Under cosine unit rows are encoded, and none may be zero.
        dtype : {"float32", "float16", "int8"}
        index_dim : int, optional
            At most d; None keeps all dimensions.
        seed : int, default 0

        Returns
        -------
        Reduction
        """
        rng = np.random.default_rng(seed)
        if len(rows) > SAMPLE:
            rows = rows[np.sort(rng.permutation(len(rows))[:SAMPLE])]
        scale, _ = metric.row_terms(rows, "vectors")
        dim = rows.shape[1]
        if index_dim is not None:
            directions = _principal(rows, scale, index_dim)
            if dtype == "int8":
                directions = _rotation(index_dim, rng) @ directions
            return cls(dtype, 1.0, np.ascontiguousarray(directions, np.float32))._fitted(rows, scale)
        plain = cls(dtype)._fitted(rows, scale)
        if dtype != "int8" or not 1 < dim <= _MOST_ROTATED:
            return plain
        rotated = cls(dtype, 1.0, np.ascontiguousarray(_rotation(dim, rng), np.float32))._fitted(rows, scale)
        return plain if plain.step < _WORTH * rotated.step else rotated

    def _fitted(self, rows: Floats, scale: npt.NDArray[np.float64] | None) -> "Reduction":
        """Return the same with the step that fits the codes to these rows."""
        sizes = np.abs(rows).max(axis=1, initial=0) * (1.0 if scale is None else scale)
        # first a step with which no projected value leaves float32: that of at most 2^16 dimensions
        coarse = replace(self, step=_power_of_two(float(sizes.max(initial=0))) * 2.0**8)
        some = slice(None, None, 1 + len(rows) * self.width(rows.shape[1]) // _STEP_VALUES)
        values = coarse._values(rows[some], None if scale is None else scale[some])
        sizes = np.abs(values[values != 0])
        if not len(sizes):
            return self
        if self.dtype == "int8":
            return replace(self, step=coarse.step * float(np.quantile(sizes, _WITHIN, method="higher")) / 127)
        return replace(self, step=coarse.step * _power_of_two(float(sizes.max())) * 2.0**-_HEADROOM)

    # ---- arrays

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what `from_arrays` takes.

        Returns
        -------
        dict of str to ndarray
            step: float64, (1,); and where rows are projected, directions: float32, (m, d).
        """
        arrays: dict[str, npt.NDArray[Any]] = {"step": np.array([self.step])}
        if self.directions is not None:
            arrays["directions"] = self.directions
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], dtype: str, dim: int) -> "Reduction":
        """Take the arrays that `arrays` returned, believing nothing.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        dtype : {"float32", "float16", "int8"}
        dim : int
            Of the rows.

        Returns
        -------
        Reduction

        Raises
        ------
        IndexCorruptError
        """
        step, directions = arrays.get("step"), arrays.get("directions")
        if step is None or step.shape != (1,) or step.dtype != np.float64 or not 0 < step[0] < np.inf:
            raise IndexCorruptError(
                "the reduction is damaged: its step must be one number > 0; restore it from a backup"
            )
        if directions is None:
            return cls(dtype, float(step[0]))
        fits = directions.dtype == np.float32 and directions.ndim == 2 and directions.shape[1] == dim
        if not (fits and 1 <= len(directions) <= dim):
            raise IndexCorruptError(
                f"the reduction is damaged: its directions must be float32 of shape (1 to {dim}, {dim}), got "
                f"{directions.dtype} {directions.shape}; restore it from a backup"
            )
        squares = np.einsum("ij,ij->i", directions, directions, dtype=np.float64)
        if not (np.abs(squares - 1) < 1e-3).all():  # false for NaN
            raise IndexCorruptError(
                "the reduction is damaged: its directions must have length 1; restore it from a backup"
            )
        return cls(dtype, float(step[0]), directions)

    def width(self, dim: int) -> int:
        """Return how many codes a row of `dim` values has."""
        return dim if self.directions is None else len(self.directions)

    # ---- rows and queries

    def encode(self, rows: Floats, scale: npt.NDArray[np.float64] | None = None) -> tuple[npt.NDArray[Any], int]:
        """Return rows as codes; a row has the same codes alone and among others.

        Parameters
        ----------
        rows : (n, d) float32, finite
        scale : (n,) float64, optional
            What each row is multiplied with: under cosine one over its norm.

        Returns
        -------
        codes : (n, m) float32, int8 or uint16 (bits of float16)
        clipped : int
            How many values were beyond the codes' range and were set to its end.
        """
        codes = np.empty((len(rows), self.width(rows.shape[1])), STORED[self.dtype])
        most, clipped = _LARGEST[self.dtype], []

        def part(start: int, stop: int) -> None:
            values = self._values(rows[start:stop], _part(scale, start, stop))
            if self.dtype == "int8":
                np.rint(values, out=values)
            beyond = int(np.count_nonzero(np.abs(values) > most))
            if beyond:
                clipped.append(beyond)
                np.clip(values, -most, most, out=values)
            codes[start:stop] = values.astype(np.float16).view(np.uint16) if self.dtype == "float16" else values

        for_chunks(part, len(rows), _CHUNK, usable_threads())
        return codes, sum(clipped)

    def _values(self, rows: Floats, scale: npt.NDArray[np.float64] | None) -> Floats:
        """Return a few rows as multiples of the step."""
        factors = np.full(len(rows), 1.0) if scale is None else scale
        factors = factors / self.step
        if self.directions is not None:
            return self._projected(rows, factors)
        with np.errstate(over="ignore"):  # what is infinite is clipped
            return np.multiply(rows, factors[:, None]).astype(np.float32)

    def _projected(self, rows: Floats, factors: npt.NDArray[np.float64]) -> Floats:
        assert self.directions is not None
        out = np.empty((len(rows), len(self.directions)), np.float32)
        kernels.project(kernel_ready(rows), factors, kernel_ready(self.directions), out)
        return out

    def queries(self, queries: Floats) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Return queries for the walk over codes; a query has the same bits alone and among others.

        Parameters
        ----------
        queries : (b, d) float32, finite
            As the metric prepares them.

        Returns
        -------
        queries : (b, m) int8 where the codes are, otherwise float32 below 1
        query_scale : (b,) float64
            What their products with codes are to be multiplied with.
        """
        scale = np.full(len(queries), self.step)
        if self.directions is not None:
            scale /= _SHRINK
            queries = self._projected(queries, np.full(len(queries), _SHRINK))
        if self.dtype == "int8":
            codes, steps = np.empty(queries.shape, np.int8), np.empty(len(queries))
            kernels.to_int8(kernel_ready(queries), codes, steps)
            return codes, scale * steps
        exponents = np.frexp(np.abs(queries).max(axis=1))[1]
        return np.ldexp(queries, -exponents[:, None]), np.ldexp(scale, exponents)


def _power_of_two(size: float) -> float:
    """Return the least one above."""
    return float(np.ldexp(1.0, int(np.frexp(size)[1])))


def _part(scale: npt.NDArray[np.float64] | None, start: int, stop: int) -> npt.NDArray[np.float64] | None:
    return None if scale is None else scale[start:stop]


def _principal(rows: Floats, scale: npt.NDArray[np.float64] | None, count: int) -> npt.NDArray[np.float64]:
    """Return the `count` orthonormal directions (count, d) that keep most of the rows' products."""
    moment = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), 1024):
        part = rows[start : start + 1024].astype(np.float64)
        if scale is not None:
            part *= scale[start : start + 1024, None]
        moment += part.T @ part
    moment /= max(float(np.abs(moment).max()), np.finfo(np.float64).tiny)
    _, vectors = np.linalg.eigh(moment)
    return vectors[:, ::-1][:, :count].T


def _rotation(dim: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a random orthogonal matrix."""
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return rotation
