"""The links of an HNSW graph as plain arrays, checked so that a walk over them never leaves them.

hnswlib numbers nodes in order of insertion; here a node goes by its label, which is the row's number in the store, so
that the walk reads the store's own rows and what it finds needs no translation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import IndexCorruptError
from attnbridge.validation import kernel_ready

Links = npt.NDArray[np.int32]

# hnswlib's file begins with these fields; the memory of a running index has them under the same names.
_HEADER = np.dtype(
    [
        ("offset_level0", "<u8"),
        ("max_elements", "<u8"),
        ("cur_element_count", "<u8"),
        ("size_data_per_element", "<u8"),
        ("label_offset", "<u8"),
        ("offset_data", "<u8"),
        ("max_level", "<i4"),
        ("enterpoint_node", "<u4"),
        ("max_M", "<u8"),
        ("max_M0", "<u8"),
        ("M", "<u8"),
        ("mult", "<f8"),
        ("ef_construction", "<u8"),
    ]
)

# hnswlib counts links in 16 bits; a level is geometric with ratio 1 / M, so that one of a hundred is not a graph's.
_MOST_LINKS = 32_767
_MOST_LEVELS = 100

# Lists whose ends are looked at in one go.
_CHECKED = 1 << 16


class WalkLinks(NamedTuple):
    """What `kernels.walk` takes of a graph."""

    level0: Links  # (n, 2M), then -1
    upper: Links  # (t, M), then -1
    start: Links  # (n,), where in `upper` a row's lists begin, layer 1 first
    entry: int
    levels: int


class Adjacency:
    """The links between the rows of a store; immutable, and safe to walk.

    Parameters
    ----------
    level0 : (n, 2M) int32
        Each row's links in layer 0 by row number, then -1. Rows that the graph does not hold have none.
    upper : (t, M) int32
        The same above, all lists of a row in a row, layer 1 first.
    levels : (n,) int
        In how many layers above 0 each row is.
    entry : int
        The row that every walk begins at; -1 where there is none.

    Raises
    ------
    IndexCorruptError
        A link, a level or the entry point leads out of the arrays.
    """

    def __init__(self, level0: npt.NDArray[Any], upper: npt.NDArray[Any], levels: npt.NDArray[Any], entry: int) -> None:
        n = len(level0)
        _require(level0.ndim == 2 and upper.ndim == 2 and levels.ndim == 1, "its arrays have the wrong shape")
        _require(all(a.dtype.kind in "iu" for a in (level0, upper, levels)), "its links must be whole numbers")
        _require(n < 2**31, "it has more rows than a link can name")
        _require(len(levels) == n, f"it has levels of {len(levels)} rows but links of {n}")
        _require(0 < level0.shape[1] <= _MOST_LINKS and 0 < upper.shape[1] <= _MOST_LINKS, "its lists have no width")
        if n:
            low, high = int(levels.min()), int(levels.max())
            _require(low >= 0 and high <= _MOST_LEVELS, f"a row is in {low if low < 0 else high} upper layers")
        levels = levels.astype(np.int64)
        _require(
            int(levels.sum()) == len(upper), f"it has {len(upper)} lists above layer 0 but needs {int(levels.sum())}"
        )
        _require((n > 0 and 0 <= entry < n) or entry == -1, f"its entry point is row {entry} of {n}")
        _require(entry >= 0 or not (level0 >= 0).any(), "it has links but no entry point")
        for name, links in (("layer 0", level0), ("the upper layers", upper)):
            if links.size:
                low, high = int(links.min()), int(links.max())
                _require(low >= -1 and high < n, f"a link in {name} leads to row {low if low < -1 else high} of {n}")
            for begin in range(0, len(links), _CHECKED):  # in parts: what this makes is thrown away
                there = links[begin : begin + _CHECKED] >= 0
                _require(not (there[:, 1:] > there[:, :-1]).any(), f"a list in {name} goes on after its end")
        width, most = level0.shape[1], upper.shape[1]
        _require(entry < 0 or width == 2 * most, f"its lists hold {width} links in layer 0 and {most} above")
        if len(upper):
            # a list of layer l may name rows of layer l only: the walk reads theirs next
            begins = np.cumsum(levels) - levels
            layer = np.arange(len(upper)) - np.repeat(begins, levels) + 1
            reached = np.where(upper >= 0, levels[np.maximum(upper, 0)], _MOST_LEVELS)
            wrong = np.flatnonzero(reached.min(axis=1) < layer)
            if len(wrong):
                _fail(f"a link in layer {layer[wrong[0]]} leads to a row that is not in that layer")
        self._levels = levels.astype(np.uint8)
        start = np.where(levels > 0, np.cumsum(levels) - levels, -1).astype(np.int32)
        self.links = WalkLinks(
            kernel_ready(_int32(level0)),
            kernel_ready(_int32(upper)),
            start,
            int(entry),
            int(levels[entry]) if entry >= 0 else 0,
        )

    # The arrays that `arrays` returns: dtype and dimensions of each.
    ARRAYS: ClassVar = {
        "level0": (np.int32, 2),
        "upper": (np.int32, 2),
        "levels": (np.uint8, 1),
        "entry": (np.int64, 1),
    }

    # ---- where it comes from

    @classmethod
    def from_index(cls, index: Any, rows: int | None = None) -> "Adjacency":
        """Copy the links of an hnswlib index; nobody may add to it meanwhile.

        Parameters
        ----------
        index : hnswlib.Index
        rows : int, optional
            How many rows the store has; labels are below this. By default as many as the index has nodes.

        Returns
        -------
        Adjacency

        Raises
        ------
        IndexCorruptError
        """
        (state,) = index.__getstate__()
        return cls.from_state(state, rows)

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Any],
        rows: int | None = None,
        *,
        dim: int | None = None,
        M: int | None = None,  # noqa: N803 - the paper's name
        by_node: bool = False,
    ) -> "Adjacency":
        """Take the links out of what `hnswlib.Index.__getstate__` or a pickle of it holds.

        Parameters
        ----------
        state : mapping
        rows : int, optional
        dim, M, by_node
            As for `from_file`.

        Returns
        -------
        Adjacency

        Raises
        ------
        IndexCorruptError
            A field is missing or does not fit the others.
        """
        if not state.get("index_inited"):
            return cls._empty(rows or 0)
        header = _Header(state, dim, M)
        try:
            level0 = _as_bytes(state["data_level0"])
            lists = _as_bytes(state["link_lists"])
            levels = np.asarray(state["element_levels"])
        except (KeyError, TypeError, ValueError) as error:
            raise IndexCorruptError(f"the hnswlib graph is damaged: {error!r} reading its arrays") from error
        _require(levels.ndim == 1 and levels.dtype.kind in "iu" and len(levels) >= header.n, "levels are missing")
        levels = levels[: header.n].astype(np.int64)
        _check_levels(levels)
        unit = header.upper_words
        expected = int(levels.sum()) * unit * 4
        _require(len(lists) == expected, f"its upper layers take {len(lists)} bytes instead of {expected}")
        _require(
            len(level0) == header.n * header.size, f"layer 0 takes {len(level0)} bytes, not {header.n * header.size}"
        )
        nodes = level0.reshape(header.n, header.size)
        return cls._from_nodes(
            header, nodes, np.ascontiguousarray(lists).view(np.uint32).reshape(-1, unit), levels, rows, by_node
        )

    @classmethod
    def from_file(
        cls,
        path: Path,
        rows: int | None = None,
        *,
        dim: int | None = None,
        M: int | None = None,  # noqa: N803 - the paper's name
        by_node: bool = False,
    ) -> "Adjacency":
        """Read the links out of a file that hnswlib saved, without its vectors.

        Parameters
        ----------
        path : Path
        rows : int, optional
            How many rows the store has; labels are below this. By default as many as the file has nodes.
        dim : int, optional
            What dimension the vectors in the file must have.
        M : int, optional
            What M the graph must have; a forged one would take memory for `rows` lists of any length.
        by_node : bool, default False
            Go by hnswlib's own numbers of nodes, whatever their labels are.

        Returns
        -------
        Adjacency

        Raises
        ------
        IndexCorruptError
            No such file, one cut short, or one in which a field or link leads out of it.
        """
        _require(path.stat().st_size >= _HEADER.itemsize, "its file is cut short", path)
        data = np.memmap(path, np.uint8, "r")
        fields = data[: _HEADER.itemsize].view(_HEADER)[0]
        try:
            header = _Header({name: fields[name].item() for name in _HEADER.names or ()}, dim, M)
            end = _HEADER.itemsize + header.n * header.size
            _require(end <= len(data) and len(data) % 4 == 0, "its file is cut short")
            levels = np.zeros(header.n, np.int64)
            words = kernel_ready(data[end:].view(np.uint32))
            taken = kernels.list_levels(words, header.upper_words, levels) if header.n else 0
            _require(taken == len(words), "its upper layers do not end with the file")
            _check_levels(levels)
            # each node's record begins with one word more: its length
            before = np.repeat(np.arange(1, header.n + 1), levels)
            places = before + np.arange(int(levels.sum())) * header.upper_words
            lists = words[places[:, None] + np.arange(header.upper_words)]
            nodes = data[_HEADER.itemsize : end].reshape(header.n, header.size)
            return cls._from_nodes(header, nodes, lists, levels, rows, by_node)
        except IndexCorruptError as error:
            raise IndexCorruptError(f"{path}: {error}") from error

    @classmethod
    def _empty(cls, rows: int) -> "Adjacency":
        return cls(np.full((rows, 1), -1, np.int32), np.empty((0, 1), np.int32), np.zeros(rows, np.uint8), -1)

    @classmethod
    def _from_nodes(
        cls,
        header: "_Header",
        nodes: npt.NDArray[np.uint8],
        lists: npt.NDArray[np.uint32],
        levels: npt.NDArray[np.int64],
        rows: int | None,
        by_node: bool = False,
    ) -> "Adjacency":
        """Translate hnswlib's records by node into links by row."""
        n = header.n
        rows = n if rows is None else rows
        if n == 0:
            return cls._empty(rows)
        _require(0 <= header.entry < n, f"its entry point is node {header.entry} of {n}")
        _require(int(levels[header.entry]) == int(levels.max()), "its entry point is not in the top layer")
        labels = np.ascontiguousarray(nodes[:, header.label : header.label + 8]).view(np.uint64).ravel()
        if by_node:
            labels = np.arange(n, dtype=np.uint64)
        _require(bool((labels < rows).all()), f"label {labels.max()} is beyond the {rows} rows of the store")
        row_of = labels.astype(np.int64)
        taken = np.zeros(rows, np.bool_)
        taken[row_of] = True
        _require(int(np.count_nonzero(taken)) == n, "two of its nodes have one label")
        own = np.ascontiguousarray(nodes[:, : header.data]).view(np.uint32)
        level0 = np.full((rows, header.most0), -1, np.int32)
        level0[row_of] = _by_row(own, row_of, "layer 0")
        # the lists above go by node as well: bring them into the order of rows
        levels_by_row = np.zeros(rows, np.int64)
        levels_by_row[row_of] = levels
        begins, targets = np.cumsum(levels) - levels, np.cumsum(levels_by_row) - levels_by_row
        upper = np.empty((len(lists), header.most), np.int32)
        within = np.arange(len(lists)) - np.repeat(begins, levels)
        upper[np.repeat(targets[row_of], levels) + within] = _by_row(lists, row_of, "the upper layers")
        return cls(level0, upper, levels_by_row, int(row_of[header.entry]))

    # ---- as arrays of its own

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what `from_arrays` takes: plain arrays that a snapshot can keep without hnswlib's copy of the rows.

        Returns
        -------
        dict of str to ndarray
            level0, upper: int32; levels: uint8; entry: int64, (1,).
        """
        links = self.links
        return {
            "level0": links.level0,
            "upper": links.upper,
            "levels": self._levels,
            "entry": np.array([links.entry]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], rows: int | None = None) -> "Adjacency":
        """Take the arrays that `arrays` returned, memory-mapped or not; layer 0 is not copied.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        rows : int, optional
            How many rows the store has, which the arrays must agree with.

        Returns
        -------
        Adjacency

        Raises
        ------
        IndexCorruptError
        """
        try:
            level0, upper, levels, entry = (np.asarray(arrays[name]) for name in ("level0", "upper", "levels", "entry"))
        except KeyError as error:
            raise IndexCorruptError(f"the hnswlib graph is damaged: {error} is missing") from error
        _require(entry.shape == (1,) and entry.dtype.kind in "iu", "its entry point is not a number")
        _require(level0.ndim == 2, "its arrays have the wrong shape")
        _require(rows is None or len(level0) == rows, f"it has {len(level0)} rows, the store {rows}")
        return cls(level0, upper, levels, int(entry[0]))

    # ---- what it says

    def __len__(self) -> int:
        return len(self.links.level0)

    @property
    def width(self) -> int:
        """The most links that one list holds."""
        return int(max(self.links.level0.shape[1], self.links.upper.shape[1]))

    @property
    def M(self) -> int:  # noqa: N802 - the paper's name
        """The most links of a row in an upper layer."""
        return int(self.links.upper.shape[1])

    def linked(self) -> npt.NDArray[np.int64]:
        """Return the rows that are in the graph, ascending.

        Returns
        -------
        ndarray of int64
        """
        level0, within = self.links.level0, self._levels > 0
        if self.links.entry >= 0:
            within[self.links.entry] = True
        within |= level0[:, 0] >= 0
        within[level0[level0 >= 0]] = True
        return np.flatnonzero(within)

    def nodes(
        self, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32], dead: npt.NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Return the links as the state of an hnswlib index holds them.

        Parameters
        ----------
        rows : (n,) int64
            Those that `linked` returns.
        vectors : (n, d) float32
            Theirs.
        dead : (n,) bool
            Which of them are marked as deleted.

        Returns
        -------
        dict
            Fields for `hnswlib.Index.__setstate__`.
        """
        links, n = self.links, len(rows)
        node_of = np.full(len(self) + 1, 0, np.uint32)  # the last entry is that of -1
        node_of[rows] = np.arange(n)
        width, bytes_of_data = links.level0.shape[1], vectors.shape[1] * 4
        at_data, at_label = 4 * (width + 1), 4 * (width + 1) + bytes_of_data
        level0 = np.empty((n, at_label + 8), np.uint8)
        level0[:, :at_data] = _by_node(links.level0[rows], node_of, dead).view(np.uint8)
        level0[:, at_data:at_label] = vectors.view(np.uint8)
        level0[:, at_label:] = rows.astype(np.uint64)[:, None].view(np.uint8)
        levels = self._levels[rows].astype(np.int32)
        return {
            "max_elements": n,
            "cur_element_count": n,
            "max_level": links.levels,
            "enterpoint_node": int(node_of[links.entry]),
            "ep_added": True,
            "label_lookup_external": rows.astype(np.uint64),
            "label_lookup_internal": np.arange(n, dtype=np.uint32),
            "element_levels": levels,
            "data_level0": level0.ravel().view(np.int8),
            # rows that are in no upper layer have no lists there: the others' are in the order of rows already
            "link_lists": _by_node(links.upper, node_of, None).ravel().view(np.int8),
        }

    @property
    def nbytes(self) -> int:
        """How many bytes the links take."""
        return sum(int(array.nbytes) for array in (*self.arrays().values(), self.links.start))


class _Header:
    """The sizes in hnswlib's header, held against each other."""

    def __init__(self, fields: Mapping[str, Any], dim: int | None = None, M: int | None = None) -> None:  # noqa: N803
        values = {}
        for name in (_HEADER.names or ())[:10]:
            try:
                values[name] = int(fields[name])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise IndexCorruptError(f"the hnswlib graph is damaged: {name} is not a number") from error
        self.n = values["cur_element_count"]
        self.size, self.label, self.data = (
            values[name] for name in ("size_data_per_element", "label_offset", "offset_data")
        )
        self.most, self.most0 = values["max_M"], values["max_M0"]
        self.entry = values["enterpoint_node"]
        self.upper_words = self.most + 1
        _require(0 <= self.n < 2**31, f"it has {self.n} nodes")
        _require(0 < self.most <= _MOST_LINKS, f"its lists hold {self.most} links")
        _require(self.most0 == 2 * self.most, f"its lists of layer 0 hold {self.most0} links")
        _require(M is None or self.most == M, f"its lists hold {self.most} links instead of {M}")
        vector = self.label - self.data
        fits = self.data == 4 * (self.most0 + 1) and vector > 0 and vector % 4 == 0 and self.size == self.label + 8
        _require(fits and values["offset_level0"] == 0 and self.size < 2**31, "the parts of a node do not fit together")
        _require(dim is None or vector == 4 * dim, f"its vectors have {vector // 4} values instead of {dim}")


def _by_row(lists: npt.NDArray[np.uint32], row_of: npt.NDArray[np.int64], name: str) -> Links:
    """Return lists of a count and that many nodes as lists of rows, then -1."""
    counts = lists[:, 0] & 0xFFFF  # the byte above holds the mark of a deleted node
    width = lists.shape[1] - 1
    _require(bool((counts <= width).all()), f"a list of {name} counts {counts.max(initial=0)} links of {width}")
    unused = np.arange(width) >= counts[:, None]
    nodes = np.where(unused, np.uint32(len(row_of)), lists[:, 1:])
    high = int(np.where(unused, np.uint32(0), nodes).max(initial=0))
    _require(high < len(row_of), f"a link in {name} leads to node {high} of {len(row_of)}")
    out: Links = np.append(row_of, -1).astype(np.int32)[nodes]
    return out


def _by_node(
    lists: Links, node_of: npt.NDArray[np.uint32], dead: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.uint32]:
    """Return lists of rows, then -1, as lists of a count (with the mark of a deleted node) and that many nodes."""
    out = np.empty((len(lists), lists.shape[1] + 1), np.uint32)
    out[:, 0] = (lists >= 0).sum(axis=1)
    if dead is not None:
        out[dead, 0] |= 1 << 16
    out[:, 1:] = node_of[lists]
    return out


def _check_levels(levels: npt.NDArray[np.int64]) -> None:
    if len(levels):
        low, high = int(levels.min()), int(levels.max())
        _require(low >= 0 and high <= _MOST_LEVELS, f"a node is in {low if low < 0 else high} upper layers")


def _as_bytes(array: Any) -> npt.NDArray[np.uint8]:
    out = np.ascontiguousarray(array)
    if out.ndim != 1 or out.dtype.itemsize != 1:
        raise ValueError("an array of bytes")
    return out.view(np.uint8)


def _int32(links: npt.NDArray[Any]) -> Links:
    return links if links.dtype == np.int32 else links.astype(np.int32)


def _require(good: bool, what: str, path: Path | None = None) -> None:
    if not good:
        _fail(what if path is None else f"{what}: {path}")


def _fail(what: str) -> None:
    raise IndexCorruptError(f"the hnswlib graph is damaged: {what}; restore it from a backup or build it anew")
