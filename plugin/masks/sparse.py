"""The pairs of query and key that may attend, as a list: memory grows with the pairs, not with L x S."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidMaskError, SparseMatrixError
from attnbridge.graph_edges import require_sound
from attnbridge.masks import bands
from attnbridge.masks.patterns import Patterns, Shape, as_shape
from attnbridge.validation import as_count


class SparseMask(Patterns):
    """Which of S keys each of L queries may attend to, held as compressed sparse rows.

    Made from other forms by `from_dense`, `from_pairs`, `from_csr` and `from_scipy`, or as a pattern by `window`,
    `strided`, `fixed`, `block` and `causal`, in time and memory that grow with the pairs. It does not change once made.

    Parameters
    ----------
    indptr : array_like of int, (L + 1,)
        Query i attends to the keys indices[indptr[i] : indptr[i + 1]].
    indices : array_like of int, (nnz,)
        Keys; sorted by row and made unique where they are not.
    shape : (int, int)
        Queries and keys, (L, S).

    Attributes
    ----------
    indptr : ndarray of int64, (L + 1,)
    indices : ndarray of int32, (nnz,)
        Read-only, ascending and unique in each row.
    shape : (int, int)

    Raises
    ------
    SparseMatrixError
        indptr that does not rise from 0 to nnz, or a key outside 0..S - 1.

    Examples
    --------
    >>> import attnbridge as ab
    >>> mask = ab.SparseMask([0, 2, 3], [2, 0, 1], (2, 3))
    >>> mask
    SparseMask(shape=(2, 3), nnz=3)
    >>> mask.to_dense()
    array([[ True, False,  True],
           [False,  True, False]])
    """

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    shape: Shape

    def __init__(self, indptr: npt.ArrayLike, indices: npt.ArrayLike, shape: Shape) -> None:
        size = as_shape(shape)
        starts, keys = _whole(indptr, "indptr"), _whole(indices, "indices")
        if len(starts) != size[0] + 1:
            raise SparseMatrixError(f"indptr must have a value more than {size[0]} queries, got {len(starts)}")
        falls = np.flatnonzero(starts[1:] < starts[:-1])
        if len(falls):
            raise SparseMatrixError(
                f"indptr must not fall: it does from {starts[falls[0]]} to {starts[falls[0] + 1]} at row {falls[0]}"
            )
        if starts[0] != 0 or starts[-1] != len(keys):
            raise SparseMatrixError(
                f"indptr must go from 0 to the number of indices, {len(keys)}; got {starts[0]} to {starts[-1]}"
            )
        _require_range(keys, size[1], "indices")
        rows = np.repeat(np.arange(size[0]), np.diff(starts))
        self._hold(*_canonical(rows, keys, size), size)

    def _hold(self, indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.int32], shape: Shape) -> None:
        indptr.flags.writeable = indices.flags.writeable = False
        self.indptr, self.indices, self.shape = indptr, indices, shape

    @classmethod
    def _of(cls, indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.int32], shape: Shape) -> Self:
        """Return the mask of arrays that are as they must be, and nobody else's."""
        mask = cls.__new__(cls)
        mask._hold(indptr, indices, shape)
        return mask

    # ---- from other forms

    @classmethod
    def from_dense(cls, dense: npt.ArrayLike) -> Self:
        """Return the mask of the pairs that are True.

        Parameters
        ----------
        dense : array_like of bool, (L, S)

        Returns
        -------
        SparseMask

        Raises
        ------
        InvalidMaskError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.from_dense([[True, False], [True, True]]).nnz
        3
        """
        array = np.asarray(dense)
        if array.dtype != np.bool_ or array.ndim != 2:
            raise InvalidMaskError(
                f"dense must be a boolean matrix (queries, keys), True attends; got {array.dtype} {array.shape}"
            )
        counts = np.count_nonzero(array, axis=1)
        return cls._of(bands.as_indptr(counts), np.nonzero(array)[1].astype(np.int32), array.shape)

    @classmethod
    def from_pairs(cls, rows: npt.ArrayLike, cols: npt.ArrayLike, shape: Shape) -> Self:
        """Return the mask of pairs (COO), in any order; a pair given twice counts once.

        Parameters
        ----------
        rows, cols : array_like of int, (nnz,)
            Queries and keys.
        shape : (int, int)
            Queries and keys, (L, S).

        Returns
        -------
        SparseMask

        Raises
        ------
        SparseMatrixError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.from_pairs([1, 0], [0, 1], (2, 2)).to_dense()
        array([[False,  True],
               [ True, False]])
        """
        size = as_shape(shape)
        queries, keys = _whole(rows, "rows"), _whole(cols, "cols")
        if len(queries) != len(keys):
            raise SparseMatrixError(f"rows and cols must be of one length, got {len(queries)} and {len(keys)}")
        _require_range(queries, size[0], "rows")
        _require_range(keys, size[1], "cols")
        return cls._of(*_canonical(queries, keys, size), size)

    @classmethod
    def from_csr(cls, indptr: npt.ArrayLike, indices: npt.ArrayLike, shape: Shape) -> Self:
        """Return the mask of compressed sparse rows; as the constructor.

        Parameters
        ----------
        indptr : array_like of int, (L + 1,)
        indices : array_like of int, (nnz,)
        shape : (int, int)

        Returns
        -------
        SparseMask

        Raises
        ------
        SparseMatrixError
        """
        return cls(indptr, indices, shape)

    @classmethod
    def from_scipy(cls, matrix: Any) -> Self:
        """Return the mask of a SciPy sparse matrix's entries that are not zero.

        Parameters
        ----------
        matrix : scipy.sparse matrix or array, (L, S)

        Returns
        -------
        SparseMask

        Raises
        ------
        SparseMatrixError

        Examples
        --------
        >>> import attnbridge as ab, scipy.sparse
        >>> ab.SparseMask.from_scipy(scipy.sparse.identity(3))
        SparseMask(shape=(3, 3), nnz=3)
        """
        from scipy.sparse import issparse

        if not issparse(matrix) or matrix.ndim != 2:
            raise SparseMatrixError(
                f"matrix must be a scipy.sparse matrix (queries, keys), got {type(matrix).__name__}"
            )
        require_sound(matrix, "matrix")
        csr = matrix.tocsr(copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        return cls(csr.indptr, csr.indices, csr.shape)

    # ---- what it is

    @property
    def nnz(self) -> int:
        """How many pairs attend."""
        return len(self.indices)

    @property
    def sparsity_ratio(self) -> float:
        """Share of the L x S pairs that do not attend, 0 to 1; 0 where there are no pairs."""
        pairs = self.shape[0] * self.shape[1]
        return 1.0 - self.nnz / pairs if pairs else 0.0

    @property
    def max_attended(self) -> int:
        """The most keys that a query attends to."""
        return int(np.diff(self.indptr).max(initial=0))

    # ---- to other forms

    def to_dense(self) -> npt.NDArray[np.bool_]:
        """Return a boolean matrix, True where a pair attends.

        Returns
        -------
        ndarray of bool, (L, S)
        """
        out = np.zeros(self.shape, np.bool_)
        out[self._rows(), self.indices] = True
        return out

    def to_pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the pairs by row (COO).

        Returns
        -------
        rows, cols : ndarray of int64, (nnz,)
        """
        return self._rows().astype(np.int64), self.indices.astype(np.int64)

    def to_csr(self) -> Any:
        """Return a SciPy matrix of the pairs.

        Returns
        -------
        scipy.sparse.csr_matrix of bool, (L, S)

        Examples
        --------
        >>> import attnbridge as ab
        >>> int(ab.SparseMask.causal((3, 3)).to_csr().sum())
        6
        """
        from scipy.sparse import csr_matrix

        return csr_matrix((np.ones(self.nnz, np.bool_), self.indices.copy(), self.indptr.copy()), shape=self.shape)

    def to_blocks(self, block_size: int) -> npt.NDArray[np.bool_]:
        """Return which blocks attend, of a mask that is made of whole blocks.

        Parameters
        ----------
        block_size : int

        Returns
        -------
        ndarray of bool, (L / block_size, S / block_size), rounded up

        Raises
        ------
        SparseMatrixError
            A block of which some pairs attend and some do not.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.block((4, 4), 2).to_blocks(2)
        array([[ True, False],
               [False,  True]])
        """
        length = as_count(block_size, "block_size")
        heights, widths = (np.diff([*range(0, size, length), size]) for size in self.shape)
        blocks = self._rows().astype(np.int64) // length * len(widths) + self.indices // length
        counts = np.bincount(blocks, minlength=len(heights) * len(widths)).reshape(len(heights), len(widths))
        whole = heights[:, None] * widths
        for row, col in np.argwhere((counts != 0) & (counts != whole))[:1]:
            raise SparseMatrixError(
                f"mask must be made of whole blocks of {length}: of block ({row}, {col}), {counts[row, col]} of "
                f"{whole[row, col]} pairs attend; choose the block_size that it was made with"
            )
        return counts > 0

    def transpose(self) -> Self:
        """Return the mask with queries and keys exchanged.

        Returns
        -------
        SparseMask, (S, L)
        """
        return self._of_matrix(self.to_csr().T.tocsr())

    # ---- with others

    def __and__(self, other: Self) -> Self:
        """Return the mask of the pairs that are in both."""
        return NotImplemented if not self._fits(other) else self._of_matrix(self.to_csr().multiply(other.to_csr()))

    def __or__(self, other: Self) -> Self:
        """Return the mask of the pairs that are in either."""
        return NotImplemented if not self._fits(other) else self._of_matrix(self.to_csr() + other.to_csr())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseMask):
            return NotImplemented
        return (
            self.shape == other.shape
            and np.array_equal(self.indptr, other.indptr)
            and np.array_equal(self.indices, other.indices)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SparseMask(shape={self.shape}, nnz={self.nnz})"

    def __reduce__(self) -> tuple[Any, ...]:
        return SparseMask, (self.indptr, self.indices, self.shape)

    # ---- as the mechanisms use it

    def apply(self, logits: npt.NDArray[np.float64]) -> None:
        """Put -inf where a pair does not attend.

        Parameters
        ----------
        logits : ndarray of float64, (..., L, S)
        """
        np.copyto(logits, -np.inf, where=~self.to_dense())

    def _rows(self) -> npt.NDArray[np.int32]:
        """Return the query of each pair."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.indptr))

    def _row(self, number: int) -> npt.NDArray[np.int32]:
        """Return the keys of a query."""
        return self.indices[self.indptr[number] : self.indptr[number + 1]]

    def _slice(self, start: int, stop: int) -> Self:
        """Return the mask of the queries start..stop - 1."""
        first, last = self.indptr[start], self.indptr[stop]
        return self._of(self.indptr[start : stop + 1] - first, self.indices[first:last], (stop - start, self.shape[1]))

    def _filtered(self, keep: npt.NDArray[np.bool_]) -> Self:
        """Return the mask of those of its pairs, in their order, that are to be kept."""
        counts = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return self._of(counts, self.indices[keep], self.shape)

    def _fits(self, other: object) -> bool:
        if isinstance(other, SparseMask) and other.shape != self.shape:
            raise InvalidMaskError(f"masks must have one shape: {self.shape} vs {other.shape}")
        return isinstance(other, SparseMask)

    def _of_matrix(self, matrix: Any) -> Self:
        """Return the mask of a csr_matrix whose rows are sorted."""
        matrix.sort_indices()
        return self._of(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.shape)


def _whole(values: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise SparseMatrixError(f"{name} must be whole numbers in one dimension, got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _require_range(values: npt.NDArray[np.int64], size: int, name: str) -> None:
    outside = np.flatnonzero((values < 0) | (values >= size))
    if len(outside):
        at = outside[0]
        raise SparseMatrixError(f"{name} must be in 0..{size - 1}: position {at} is {values[at]}")


def _canonical(
    rows: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], shape: Shape
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return pairs in any order as compressed sparse rows, each pair once."""
    numbers = rows * shape[1] + keys
    if (numbers[1:] <= numbers[:-1]).any():
        rows, keys = np.divmod(np.unique(numbers), shape[1])
    return bands.as_indptr(np.bincount(rows, minlength=shape[0])), keys.astype(np.int32)
