"""Search an adjacency under the logit of the rows: what `kernels.walk` needs around it."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import IndexCorruptError
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.kernels.walk import FIELDS
from attnbridge.metric import Keys
from attnbridge.validation import kernel_ready

# Queries that take turns on one thread: while the rows of one come from memory, the others work.
LANES = 4

# What filtered search costs, in bytes read one after the other (fitted by hand to WordNet, 81k x 384, M = 16): a row
# that is scanned, beside its own bytes; a row that a walk meets, with what waiting for memory adds to each byte; how
# many rows a walk scores for each of its ef where all pass.
_SCANNED, _MET, _WAITING = 128, 3_000, 2.2
_ROWS_AN_EF = 18

# No limit.
_FOREVER = 2**62


class WalkWork(NamedTuple):
    """What `kernels.walk` writes on; kept from call to call, for one call at a time."""

    visited: npt.NDArray[np.uint8]
    epochs: npt.NDArray[np.uint8]
    state: npt.NDArray[np.int64]
    near: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    front: npt.NDArray[np.int64]
    found: npt.NDArray[np.int64]


def walk_work(rows: int, width: int, breadth: int, lanes: int = LANES) -> WalkWork:
    """Return what a walk writes on.

    Parameters
    ----------
    rows : int
        Of the adjacency.
    width : int
        The longest list of links or of entry points.
    breadth : int
        The most results of a query, at least ef.
    lanes : int

    Returns
    -------
    WalkWork
    """
    return WalkWork(
        visited=np.zeros((lanes, rows), np.uint8),
        epochs=np.zeros(lanes, np.uint8),
        state=np.zeros((lanes, FIELDS), np.int64),
        near=np.empty((lanes, max(width, 1)), np.int32),
        scores=np.empty((lanes, max(width, 1)), np.float32),
        front=np.empty((lanes, rows), np.int64),  # memory that no walk touches is none
        found=np.empty((lanes, breadth), np.int64),
    )


class Walked(NamedTuple):
    """The rows found for each query, best first, then -1 and -inf."""

    ids: npt.NDArray[np.int64]  # (b, n)
    scores: npt.NDArray[np.float32]  # (b, n)
    counts: npt.NDArray[np.int64]  # (b,)
    steps: npt.NDArray[np.int64]  # (b,), more than max_steps where that ended the walk


def scan_is_cheaper(passing: int, rows: int, ef: int, row_bytes: int) -> bool:
    """Return whether reading all rows that pass a filter costs less than a walk that finds as many of the best.

    Parameters
    ----------
    passing : int
        How many rows pass.
    rows : int
        How many there are.
    ef : int
        The breadth at which a walk without a filter finds enough.
    row_bytes : int
        Of one row as it is read.

    Returns
    -------
    bool
    """
    met = min(_ROWS_AN_EF * ef * rows / max(passing, 1), rows)
    return passing * (_SCANNED + row_bytes) <= met * (_MET + _WAITING * row_bytes)


def steps_of_scans(passing: int, row_bytes: int, scans: float) -> int:
    """Return after how many steps a walk has cost so many scans of the rows that pass.

    Parameters
    ----------
    passing, row_bytes : int
        As for `scan_is_cheaper`.
    scans : float

    Returns
    -------
    int
    """
    return int(scans * passing * (_SCANNED + row_bytes) / (_ROWS_AN_EF * (_MET + _WAITING * row_bytes))) + 1


def scan(
    keys: Keys,
    queries: npt.NDArray[Any],
    bias: npt.NDArray[np.float64],
    n: int,
    among: npt.NDArray[np.int64],
    *,
    query_scale: npt.NDArray[np.float64] | None = None,
) -> Walked:
    """Return up to n of the given rows for each query by reading them all, scored as a walk scores them.

    Parameters
    ----------
    keys, queries, bias, n, query_scale
        As `Walk.query` takes them.
    among : (m,) int64
        Each row once.

    Returns
    -------
    Walked
    """
    count = len(queries)
    out = _nothing(count, n)
    if count and n and len(among):
        kernels.scan(
            kernel_ready(queries),
            query_scale,
            bias,
            *_ready(keys),
            kernel_ready(among),
            np.empty((count, n), np.int64),
            out.ids,
            out.scores,
            out.counts,
        )
    return out


def _nothing(count: int, n: int) -> Walked:
    return Walked(
        np.full((count, n), -1, np.int64),
        np.full((count, n), -np.inf, np.float32),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
    )


def _ready(keys: Keys) -> tuple[Any, Any, Any]:
    data, scale, bias = (None if part is None else kernel_ready(part) for part in keys)
    return data, scale, bias


class Walk:
    """A graph to walk by rows that are given with each query; threads may share it.

    Parameters
    ----------
    adjacency : Adjacency
    """

    def __init__(self, adjacency: Adjacency) -> None:
        self.adjacency = adjacency
        self._free: list[WalkWork] = []  # append and pop are atomic

    def query(
        self,
        keys: Keys,
        queries: npt.NDArray[Any],
        bias: npt.NDArray[np.float64],
        n: int,
        *,
        ef: int,
        query_scale: npt.NDArray[np.float64] | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
        which: npt.NDArray[np.int64] | None = None,
        least: npt.NDArray[np.float64] | None = None,
        most: int = 0,
        entries: npt.NDArray[Any] | None = None,
        max_steps: int | None = None,
        difference: bool | None = None,
    ) -> Walked:
        """Return up to n rows for each query.

        Parameters
        ----------
        keys : Keys
            At least as many rows as the adjacency has: float32, int8, or the bits of float16. Rows behind are not
            found.
        queries : (b, d) float32, or int8 where the rows are
        bias : (b,) float64
        n : int
        ef : int
            Breadth of the walk, at least n.
        query_scale : (b,) float64, optional
            What each query's products are multiplied by, beside the rows' own scale: the step of an int8 query.
        allowed : (f, at least the adjacency's rows) bool, optional
            Filters; others than the rows they allow are walked through but not returned.
        which : (b,) int64, optional
            The filter of each query, -1 for none; by default the first for all.
        least : (b,) float64, optional
            All rows met with at least this score are found, beyond ef as well, up to `most`.
        most : int, default 0
        entries : (b, e) int, optional
            Rows to begin at instead of the graph's entry point; -1, and rows that the graph has not, are none.
        max_steps : int, optional
            How many rows a query may leave by their links.
        difference : True or None
            The metric's: scores are then -bias * keys.scale * |query - row|^2. Of rows and queries in floats only.

        Returns
        -------
        Walked

        Raises
        ------
        IndexCorruptError
            The adjacency has more rows than there are.
        """
        if len(self.adjacency) > len(keys.data):
            raise IndexCorruptError(
                f"the graph has {len(self.adjacency)} rows, but only {len(keys.data)} vectors are there; "
                "restore the index from a backup"
            )
        count, links = len(queries), self.adjacency.links
        n = max(n, most)
        out = _nothing(count, n)
        if not count or not n or links.entry < 0:
            return out
        rows = len(self.adjacency)
        ef = min(max(ef, n if least is None else 1), rows)
        if allowed is None:
            allowed, which = np.empty((0, 1), np.bool_), np.full(count, -1)
        elif which is None:
            which = np.zeros(count, np.int64)
        begin = np.empty((count, 0), np.int32)
        if entries is not None:
            begin = np.where(entries < rows, entries, -1).astype(np.int32)
        width = max(self.adjacency.width, begin.shape[1])
        work = self._take(width, max(ef, min(most, rows)), min(LANES, count))
        kernels.walk(
            kernel_ready(queries),
            query_scale,
            bias,
            *_ready(keys),
            links,
            ef,
            kernel_ready(allowed),
            which,
            np.full(count, np.inf) if least is None else least if difference is None else least / bias,
            begin,
            _FOREVER if max_steps is None else max_steps,
            work,
            *out,
            difference,
        )
        self._free.append(work)
        if difference is not None:  # the query's factor changes no order, so the walk goes without
            np.multiply(out.scores, bias[:, None], out=out.scores, casting="same_kind")
        return out

    def _take(self, width: int, breadth: int, lanes: int) -> WalkWork:
        """Return what nobody else writes on, kept from an earlier call where it is large enough."""
        try:
            work = self._free.pop()
        except IndexError:
            return walk_work(len(self.adjacency), width, breadth, lanes)
        if len(work.state) < lanes:
            return walk_work(len(self.adjacency), width, max(breadth, work.found.shape[1]), lanes)
        if work.near.shape[1] < width:
            work = work._replace(
                near=np.empty((len(work.state), width), np.int32), scores=np.empty((len(work.state), width), np.float32)
            )
        if work.found.shape[1] < breadth:
            work = work._replace(found=np.empty((len(work.state), breadth), np.int64))
        return work
