"""Where candidates come from: the protocol of a source, and exact search."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError, UnknownIdError
from attnbridge.integrations.rows import Rows
from attnbridge.metric import Keys, Metric
from attnbridge.threads import ReadWriteLock
from attnbridge.validation import as_count, as_dim, as_matrix
from attnbridge.workspace import workspace

Labels = npt.NDArray[np.int64]
Distances = npt.NDArray[np.float32]

# Working memory of one exact scan: 8 bytes for each pair of a query and a row, 16 where each query has its own list.
_SCAN_BYTES = 32 << 20


@runtime_checkable
class CandidateSource(Protocol):
    """What `AttentionVectorBridge` asks of an index; a database client or another library can be one.

    Labels are whole numbers given by the caller, never reused. Vectors are raw (not normalised). The bridge calls
    `query` from several threads at a time, and never during `add` or `remove`.

    Examples
    --------
    >>> from attnbridge.integrations import CandidateSource, ExactIndex
    >>> isinstance(ExactIndex(dim=2), CandidateSource)
    True
    """

    dim: int

    def add(self, vectors: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """Add vectors under new labels.

        Parameters
        ----------
        vectors : array_like, (n, d)
        labels : array_like of int, (n,)
        """
        ...

    def remove(self, labels: npt.ArrayLike) -> None:
        """Make labels unfindable.

        Parameters
        ----------
        labels : array_like of int, (n,)
        """
        ...

    def query(self, queries: npt.ArrayLike, n: int) -> tuple[Labels, Distances]:
        """Return the labels and distances of each query's nearest rows, nearest first.

        Parameters
        ----------
        queries : array_like, (b, d)
        n : int

        Returns
        -------
        labels : ndarray of int64, (b, n)
            -1 where fewer than n were found.
        distances : ndarray of float32, (b, n)
            inf where fewer than n were found.
        """
        ...

    def __len__(self) -> int: ...


def exact_search(
    keys: Keys,
    metric: Metric,
    queries: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float64],
    n: int,
    rows: Labels | None,
) -> tuple[Labels, Distances]:
    """Return the n nearest of the given rows (ascending; None for all) for prepared queries, padded with -1, inf."""
    count = len(keys.data) if rows is None else len(rows)
    positions = np.empty((len(queries), n), np.int64)
    similarities = np.empty((len(queries), n))
    step = max(1, _SCAN_BYTES // (8 * max(count, 1)))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        found = positions[part], similarities[part]
        with workspace((part.stop - start, count)) as work:
            kernels.exact_top_k(queries[part], bias[part], *keys, rows, 1.0, *found, metric.difference, work)
    there = positions >= 0
    labels = positions if rows is None else np.where(there, rows[positions], -1) if count else positions
    return labels, as_distances(metric, similarities, there)


def exact_search_each(
    keys: Keys,
    metric: Metric,
    queries: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float64],
    n: int,
    lists: Sequence[Labels],
) -> tuple[Labels, Distances]:
    """Return the n nearest of each query's own rows (ascending); to the bit what `exact_search` finds for it alone."""
    labels = np.full((len(queries), n), -1, np.int64)
    similarities = np.empty((len(queries), n))
    ends = np.cumsum([len(rows) for rows in lists])
    start = 0
    while start < len(queries):
        room = _SCAN_BYTES // 16 + (ends[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(ends, room, side="right")))
        part = slice(start, stop)
        ids = np.concatenate(lists[part])
        starts = np.concatenate([[0], ends[part]])
        starts[1:] -= ends[stop - 1] - len(ids)
        found = labels[part]
        own = found, similarities[part]
        with workspace((len(ids),)) as work:
            kernels.exact_top_k_each(queries[part], bias[part], *keys, ids, starts, 1.0, *own, metric.difference, work)
        if len(ids):
            found[:] = np.where(found >= 0, ids[np.maximum(found + starts[:-1, None], 0)], -1)
        start = stop
    return labels, as_distances(metric, similarities, labels >= 0)


def distances_of(
    keys: Keys,
    metric: Metric,
    queries: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float64],
    labels: Labels,
) -> Distances:
    """Return the distance of each prepared query to its own rows; where a label is -1, which only ends may be, inf."""
    shape = labels.shape
    positions, similarities, weights = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
    found = labels >= 0
    out = np.full(shape, -np.inf)
    if metric.difference is not None:
        for i, row in enumerate(labels):
            inner = np.empty(int(found[i].sum()))
            kernels.dot(queries[i], bias[i], *keys, row[: len(inner)], 1.0, inner, metric.difference)
            out[i, : len(inner)] = inner
        return as_distances(metric, out, found)
    kernels.rerank(queries, bias, *keys, labels, found.sum(axis=1), 1.0, positions, similarities, weights)
    there = positions >= 0
    np.put_along_axis(out, np.where(there, positions, shape[1] - 1), np.where(there, similarities, -np.inf), axis=1)
    return as_distances(metric, out, found)


def as_distances(
    metric: Metric, similarities: npt.NDArray[np.floating[Any]], found: npt.NDArray[np.bool_]
) -> Distances:
    """Return the distances of what was found, inf for the rest."""
    distances = metric.distances(similarities)
    if metric.name == "l2":
        distances = np.maximum(distances, np.float32(0))  # rounding leaves -1e-7 of a row's distance to itself
    return np.where(found, distances + np.float32(0), np.float32(np.inf))  # no -0.0


def as_labels(labels: npt.ArrayLike) -> Labels:
    """Return labels, whole numbers in one dimension, as int64."""
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidInputError(f"labels must be whole numbers (n,), got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def check_new_labels(labels: npt.ArrayLike, count: int) -> Labels:
    """Return `count` distinct labels >= 0 as int64."""
    array = as_labels(labels)
    if len(array) != count:
        raise InvalidInputError(f"labels must have one entry for each of {count} vectors, got {len(array)}")
    if count and array.min() < 0:
        raise InvalidInputError(f"labels must be >= 0, got {array.min()}")
    values, counts = np.unique(array, return_counts=True)
    if len(values) < count:
        raise InvalidInputError(f"labels must be distinct, got {values[counts > 1][0]} more than once")
    return array


class ExactIndex:
    """Nearest neighbours by reading every row: always right, and the fallback where hnswlib does not run.

    Parameters
    ----------
    dim : int
    metric : {"cosine", "ip", "l2", "poincare"}, default "cosine"
    curvature : float, optional
        Of poincare, -1.0 by default.

    Examples
    --------
    >>> from attnbridge.integrations import ExactIndex
    >>> index = ExactIndex(dim=2, metric="l2")
    >>> index.add([[0.0, 0.0], [3.0, 4.0]], labels=[7, 8])
    >>> index.query([[3.0, 3.0]], n=1)
    (array([[8]]), array([[1.]], dtype=float32))
    """

    def __init__(self, dim: int, metric: str = "cosine", *, curvature: float | None = None) -> None:
        self.dim = as_dim(dim)
        self._rows = Rows(self.dim, Metric(metric, curvature))
        self._labels = np.empty(0, np.int64)  # of each row
        self._alive = np.empty(0, np.bool_)
        self._row_of: dict[int, int] = {}
        self._lock = ReadWriteLock()

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self._rows.metric.name

    def add(self, vectors: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """Add vectors under new labels.

        Parameters
        ----------
        vectors : array_like, (n, d)
        labels : array_like of int, (n,)

        Raises
        ------
        DimensionMismatchError, InvalidInputError
        """
        matrix = as_matrix(vectors, "vectors", dim=self.dim)
        new = check_new_labels(labels, len(matrix))
        with self._lock.write():
            for label in new:
                if int(label) in self._row_of:
                    raise InvalidInputError(f"labels must be new, but {label} is in the index; remove it first")
            first = self._rows.count
            self._rows.put(matrix, "vectors")
            self._rows.count += len(new)
            self._labels = np.concatenate([self._labels, new])
            self._alive = np.concatenate([self._alive, np.ones(len(new), np.bool_)])
            self._row_of |= {int(label): first + i for i, label in enumerate(new)}

    def remove(self, labels: npt.ArrayLike) -> None:
        """Make labels unfindable.

        Parameters
        ----------
        labels : array_like of int, (n,)

        Raises
        ------
        UnknownIdError
        """
        gone = set(as_labels(labels).tolist())
        with self._lock.write():
            for label in gone:
                if label not in self._row_of:
                    raise UnknownIdError(f"label {label} is not in the index")
            self._alive[[self._row_of.pop(label) for label in gone]] = False

    def query(self, queries: npt.ArrayLike, n: int) -> tuple[Labels, Distances]:
        """Return the labels and distances of each query's nearest rows, nearest first.

        Parameters
        ----------
        queries : array_like, (b, d)
        n : int

        Returns
        -------
        labels : ndarray of int64, (b, n)
            -1 where fewer than n are there.
        distances : ndarray of float32, (b, n)
            inf where fewer than n are there.

        Raises
        ------
        DimensionMismatchError, InvalidInputError
        """
        matrix = as_matrix(queries, "queries", dim=self.dim)
        n = as_count(n, "n")
        prepared, bias = self._rows.metric.prepare(matrix, "queries")
        labels = np.full((len(matrix), n), -1, np.int64)
        distances = np.full((len(matrix), n), np.inf, np.float32)
        with self._lock.read():
            k = min(n, len(self))
            if k:
                stored = self._rows
                alive = np.flatnonzero(self._alive)
                rows, found = exact_search(stored.keys(), stored.metric, prepared, bias, k, alive)
                labels[:, :k], distances[:, :k] = self._labels[rows], found
        return labels, distances

    def __len__(self) -> int:
        return len(self._row_of)
