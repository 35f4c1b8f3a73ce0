"""The patterns of sparse attention as masks."""

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge.config import BLOCK_REMEDY, WINDOW_REMEDY
from attnbridge.errors import InvalidMaskError, SparseMatrixError
from attnbridge.masks import bands
from attnbridge.validation import as_bool, as_count

Shape = tuple[int, int]
_MOST = 2**31 - 1
_CHUNK = 2**20  # queries whose pairs are counted at a time


class Patterns:
    """Makes sparse masks by rule; a part of `SparseMask`."""

    if TYPE_CHECKING:
        indptr: npt.NDArray[np.int64]
        indices: npt.NDArray[np.int32]

        @classmethod
        def _of(cls, indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.int32], shape: Shape) -> Self: ...

        from_dense: ClassVar[Any]
        from_pairs: ClassVar[Any]

    @classmethod
    def causal(cls, shape: Shape) -> Self:
        """Return the mask under which query i attends to keys 0..i.

        Parameters
        ----------
        shape : (int, int)

        Returns
        -------
        SparseMask

        Raises
        ------
        SparseMatrixError, InputTooLargeError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.causal((2, 3)).to_dense()
        array([[ True, False, False],
               [ True,  True, False]])
        """
        return cls._banded(bands.causal_bands, shape, True)

    @classmethod
    def window(cls, shape: Shape, window: int, num_global: int = 0, causal: bool = False) -> Self:
        """Return the mask of a window and global tokens.

        Parameters
        ----------
        shape : (int, int)
        window : int
            Keys on either side of a query.
        num_global : int, default 0
            So many first tokens attend to all and are attended by all.
        causal : bool, default False
            Query i attends to keys 0..i only.

        Returns
        -------
        SparseMask

        Raises
        ------
        InvalidConfigError, SparseMatrixError, InputTooLargeError

        References
        ----------
        Beltagy et al. 2020, Longformer, section 3.1.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.window((4, 4), 1, num_global=1).to_dense().astype(int)
        array([[1, 1, 1, 1],
               [1, 1, 1, 0],
               [1, 1, 1, 1],
               [1, 0, 1, 1]])
        """
        arguments = as_count(window, "window", remedy=WINDOW_REMEDY), as_count(num_global, "num_global", least=0)
        return cls._banded(bands.window_bands, shape, causal, *arguments)

    @classmethod
    def strided(cls, shape: Shape, stride: int, causal: bool = False) -> Self:
        """Return the mask of the keys at most a stride away, and those that are whole strides away.

        Parameters
        ----------
        shape : (int, int)
        stride : int
        causal : bool, default False
            Query i attends to keys 0..i only.

        Returns
        -------
        SparseMask

        Raises
        ------
        InvalidConfigError, SparseMatrixError, InputTooLargeError

        References
        ----------
        Child et al. 2019, Generating Long Sequences with Sparse Transformers, section 4.3.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.strided((6, 6), 2, causal=True).to_dense()[5].astype(int)
        array([0, 1, 0, 1, 1, 1])
        """
        return cls._banded(bands.strided_bands, shape, causal, as_count(stride, "stride", remedy=BLOCK_REMEDY))

    @classmethod
    def fixed(cls, shape: Shape, block_size: int, causal: bool = False) -> Self:
        """Return the mask of the query's own block, and the last key of every block.

        Parameters
        ----------
        shape : (int, int)
        block_size : int
        causal : bool, default False
            Query i attends to keys 0..i only.

        Returns
        -------
        SparseMask

        Raises
        ------
        InvalidConfigError, SparseMatrixError, InputTooLargeError

        References
        ----------
        Child et al. 2019, Generating Long Sequences with Sparse Transformers, section 4.3 (one summary column a block).

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.fixed((6, 6), 2, causal=True).to_dense()[4].astype(int)
        array([0, 1, 0, 1, 1, 0])
        """
        return cls._banded(bands.fixed_bands, shape, causal, as_count(block_size, "block_size", remedy=BLOCK_REMEDY))

    @classmethod
    def block(cls, shape: Shape, block_size: int, blocks: npt.ArrayLike | None = None) -> Self:
        """Return the mask of whole blocks of pairs; those at the ends may be cut short by the shape.

        Parameters
        ----------
        shape : (int, int)
        block_size : int
        blocks : array_like, (m, 2) of int or (L / block_size, S / block_size) of bool, optional
            Pairs of block row and block column, or which blocks attend; by default those on the diagonal.

        Returns
        -------
        SparseMask

        Raises
        ------
        InvalidConfigError, InvalidMaskError, SparseMatrixError, InputTooLargeError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseMask.block((4, 4), 2, [(0, 1), (1, 0)]).to_dense().astype(int)
        array([[0, 0, 1, 1],
               [0, 0, 1, 1],
               [1, 1, 0, 0],
               [1, 1, 0, 0]])
        """
        size, length = as_shape(shape), as_count(block_size, "block_size", remedy=BLOCK_REMEDY)
        if blocks is None:
            return cls._banded(bands.block_bands, size, False, length)
        coarse = cls._blocks(blocks, (-(-size[0] // length), -(-size[1] // length)))
        spans = [np.minimum(length, total - np.arange(0, total, length)) for total in size]
        bands.require_few(int(np.repeat(spans[0], np.diff(coarse.indptr)) @ spans[1][coarse.indices]))
        # Each query's runs of keys are those of the blocks in its block row.
        rows = np.arange(size[0]) // length
        counts = np.diff(coarse.indptr)[rows]
        which = bands.ranges(coarse.indptr[rows], counts, np.ones_like(counts))
        starts = coarse.indices[which].astype(np.int64) * length
        widths = np.minimum(length, size[1] - starts)
        ends = bands.as_indptr(widths)
        indptr = ends[bands.as_indptr(counts)]
        return cls._of(indptr, bands.ranges(starts, widths, np.ones_like(widths)), size)

    @classmethod
    def _blocks(cls, blocks: npt.ArrayLike, shape: Shape) -> Self:
        """Return the mask of blocks."""
        given = np.asarray(blocks)
        if given.dtype == np.bool_:
            if given.shape != shape:
                raise InvalidMaskError(f"blocks must be a boolean matrix of {shape} blocks, got shape {given.shape}")
            return cls.from_dense(given)  # type: ignore[no-any-return]
        pairs = given.reshape(0, 2) if given.size == 0 else given
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise InvalidMaskError(f"blocks must be pairs (m, 2) or a boolean matrix {shape}, got shape {given.shape}")
        return cls.from_pairs(pairs[:, 0], pairs[:, 1], shape)  # type: ignore[no-any-return]

    @classmethod
    def _banded(cls, pattern: Any, shape: Shape, causal: bool, *arguments: int, first: int = 0) -> Self:
        """Return the mask of a pattern for queries first..first + L - 1 of it."""
        size = as_shape(shape)
        causal = as_bool(causal, "causal")
        reach = [min(argument, bands.BEYOND) for argument in arguments]  # sums with a row's number stay within int64
        pairs, total = 0, size[0]
        for start in range(0, total if total > _CHUNK else 0, _CHUNK):  # before anything is made for every query
            rows = np.arange(first + start, first + min(total, start + _CHUNK))
            pairs += int(bands.runs(pattern(rows, size[1], *reach), rows, size[1], causal)[1].sum())
            bands.require_few(pairs, f" in the first {len(rows) + start:,} queries")
        rows = np.arange(first, first + total)
        listed = bands.listed(pattern(rows, size[1], *reach), rows, size[1], causal)
        return cls._of(*listed, size)


def as_shape(shape: Any) -> Shape:
    """Return queries and keys."""
    try:
        queries, keys = (as_count(size, "shape", least=0) for size in shape)
        if max(queries, keys) <= _MOST:
            return queries, keys
    except (TypeError, ValueError):
        pass
    raise SparseMatrixError(f"shape must be two whole numbers (queries, keys), 0 to {_MOST}, got {shape!r}")
