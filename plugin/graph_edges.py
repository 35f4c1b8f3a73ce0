"""The edges of a graph as arrays: checked, and by the node that they lead to."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, GraphStructureError, InvalidInputError, SparseMatrixError
from attnbridge.validation import Float, as_floats, as_matrix, kernel_ready, require_finite

Positions = npt.NDArray[np.int64]


class InEdges(NamedTuple):
    """Edges by the node that they lead to, those of one node in their own order.

    Parameters
    ----------
    indptr : ndarray of int64, (n + 1,)
        Node i has the entries indptr[i] up to, but not including, indptr[i + 1].
    sources : ndarray of int64, (m,)
        The node that each entry's edge leads from.
    numbers : ndarray of int64, (m,)
        Which edge each entry is.
    """

    indptr: Positions
    sources: Positions
    numbers: Positions


def by_target(source: Positions, target: Positions, count: int) -> InEdges:
    """Return edges between nodes 0 .. count - 1 by the node that they lead to."""
    edges = InEdges(np.empty(count + 1, np.int64), np.empty(len(source), np.int64), np.empty(len(source), np.int64))
    kernels.group_edges(kernel_ready(source), kernel_ready(target), *edges)
    return edges


def as_edges(value: Any, count: int, name: str = "edges") -> tuple[Positions, Positions]:
    """Return the two ends of each edge, of nodes 0 .. count - 1, out of an edge_index (2, m) or a sparse matrix (n, n).

    They may be views of what was given.

    Raises
    ------
    DimensionMismatchError, GraphStructureError, InvalidInputError, SparseMatrixError
    """
    if hasattr(value, "tocsr"):
        return _stored_entries(value, count, name)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInputError(
            f"{name} must be two rows of whole numbers, of one length: where edges lead from, and where to ({error})"
        ) from error
    if array.size == 0:
        array = np.empty((2, 0), np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"{name} must be whole numbers of rows of X, got dtype {array.dtype}")
    if array.ndim != 2 or len(array) != 2:
        raise DimensionMismatchError(f"{name} must be (2, m) or a SciPy matrix, got shape {array.shape}")
    signed = array.dtype == np.int64
    least, most = (0, array.view(np.uint64).max(initial=0)) if signed else (array.min(initial=0), array.max(initial=0))
    if array.size and not (least >= 0 and most < count):  # as a number without sign, one below 0 is beyond all
        beyond = (array < 0) | (array >= count)
        edge = int(np.argmax(beyond.any(axis=0)))
        ends = tuple(array[:, edge].tolist())
        raise GraphStructureError(f"{name} must be between nodes 0 to {count - 1}, edge {edge} is {ends}")
    source, target = array.astype(np.int64, copy=False)
    return source, target


def _stored_entries(value: Any, count: int, name: str) -> tuple[Positions, Positions]:
    """Return the row and the column of each stored entry of a sparse matrix (n, n), in CSR order."""
    if value.shape != (count, count):
        raise DimensionMismatchError(f"{name} must be ({count}, {count}) as X has {count} rows, got {value.shape}")
    require_sound(value, name)  # SciPy's conversions would write wherever wrong numbers lead
    matrix = value.tocsr()
    if matrix is not value:
        require_sound(matrix, name)
    indptr = np.asarray(matrix.indptr, np.int64)
    source = np.repeat(np.arange(count), np.diff(indptr))
    return source, matrix.indices[: indptr[-1]].astype(np.int64)


def require_sound(matrix: Any, name: str) -> None:
    """Refuse a SciPy sparse matrix whose arrays do not fit one another, which SciPy itself reads as they are.

    Raises
    ------
    SparseMatrixError
    """
    form, shape = getattr(matrix, "format", None), matrix.shape
    if form == "coo":
        stored = len(matrix.data)
        for what, size in (("row", shape[0]), ("col", shape[1])):
            _require_indices(getattr(matrix, what), stored, size, f"{name}.{what}")
    elif form in ("csr", "csc", "bsr"):
        blocks = matrix.blocksize if form == "bsr" else (1, 1)
        rows, columns = (size // block for size, block in zip(shape, blocks, strict=True))
        major, minor = (columns, rows) if form == "csc" else (rows, columns)
        stored = _require_indptr(np.asarray(matrix.indptr), major, len(matrix.indices), f"{name}.indptr")
        if len(matrix.data) < stored:
            raise SparseMatrixError(f"{name}.data must have {stored} values as indptr says, got {len(matrix.data)}")
        _require_indices(matrix.indices[:stored], stored, minor, f"{name}.indices")


def _require_indptr(indptr: npt.NDArray[Any], rows: int, entries: int, name: str) -> int:
    """Refuse an indptr that does not rise from 0 to at most the number of entries; return how many it has."""
    if indptr.shape != (rows + 1,) or indptr.dtype.kind not in "iu":
        raise SparseMatrixError(f"{name} must be {rows + 1} whole numbers, got {indptr.dtype} {indptr.shape}")
    if indptr[0] != 0:
        raise SparseMatrixError(f"{name} must start at 0, got {indptr[0]}")
    falls = indptr[1:] < indptr[:-1]
    if falls.any():
        at = int(np.argmax(falls))
        raise SparseMatrixError(f"{name} must not fall: it does from {indptr[at]} to {indptr[at + 1]} at row {at}")
    if indptr[-1] > entries:
        raise SparseMatrixError(f"{name} must end at most at the number of indices, {entries}; got {indptr[-1]}")
    return int(indptr[-1])


def _require_indices(values: Any, stored: int, size: int, name: str) -> None:
    """Refuse what are not so many whole numbers from 0 to size - 1."""
    indices = np.asarray(values)
    if indices.shape != (stored,) or (stored and indices.dtype.kind not in "iu"):
        raise SparseMatrixError(f"{name} must be {stored} whole numbers, got {indices.dtype} {indices.shape}")
    if stored and not (indices.min() >= 0 and indices.max() < size):
        at = int(np.argmax((indices < 0) | (indices >= size)))
        raise SparseMatrixError(f"{name} must be in 0..{size - 1}, entry {at} is {indices[at]}")


def as_edge_weights(value: Any, count: int, name: str = "weight") -> npt.NDArray[np.float64]:
    """Return a weight > 0 for each of so many edges; of lists, too, in the range of float64.

    Raises
    ------
    DimensionMismatchError, InvalidInputError
    """
    if hasattr(value, "tocsr"):
        raise InvalidInputError(f"{name} must be ({count},), one for each edge, got a matrix; pass A.tocsr().data")
    if isinstance(value, bool):
        raise InvalidInputError(f"{name} must be ({count},), one for each edge, got {value}; of a CSR matrix A, A.data")
    weights = as_floats(_wide(value), name, keep_float64=True)
    if weights.shape != (count,):
        raise DimensionMismatchError(f"{name} must be ({count},), one for each edge, got shape {weights.shape}")
    require_finite(weights, name)
    if (weights <= 0.0).any():
        edge = int(np.argmax(weights <= 0.0))
        raise InvalidInputError(f"{name} must be > 0, of edge {edge} it is {weights[edge]:g}; leave the edge out")
    return weights.astype(np.float64)


def _wide(value: Any) -> Any:
    """Return Python's floats as an array of float64, anything else as it is."""
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # as_floats says what is wrong
        return value
    return array if array.dtype == np.float64 else value


def as_edge_features(value: Any, count: int, name: str = "edge_attr") -> Float:
    """Return the features (m, edge_dim) of so many edges.

    Raises
    ------
    DimensionMismatchError, InvalidInputError
    """
    rows = as_matrix(value, name, keep_float64=True)
    if len(rows) != count:
        raise DimensionMismatchError(f"{name} must have a row for each of {count} edges, got {len(rows)}")
    return rows


def as_embeddings(value: Any) -> Float:
    """Return finite rows (n, d), n >= 1.

    Raises
    ------
    DimensionMismatchError, GraphStructureError, InvalidInputError
    """
    rows = as_matrix(value, "X", keep_float64=True)
    if not len(rows):
        raise GraphStructureError("X must have at least one row, got none")
    return rows
