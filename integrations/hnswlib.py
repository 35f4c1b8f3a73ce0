"""A safe shell around hnswlib."""

import errno
import functools
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import (
    IndexCorruptError,
    InvalidConfigError,
    InvalidInputError,
    MissingDependencyError,
    UnknownIdError,
)
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.integrations.candidates import Distances, Labels, as_labels, check_new_labels
from attnbridge.integrations.snapshot import Snapshot, load_snapshot, write_snapshot
from attnbridge.metric import FLAT_METRICS, Metric, norms
from attnbridge.threads import ReadWriteLock, usable_threads
from attnbridge.validation import as_choice, as_count, as_dim, as_matrix

_REINSTALL = "pip install --force-reinstall --no-cache-dir --no-binary hnswlib hnswlib"

# Run in another process: a build for another CPU dies of an illegal instruction.
_PROBE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import numpy as np, hnswlib
for space in ("l2", "ip"):
    for dim in (16, 20, 19):
        index = hnswlib.Index(space, dim)
        index.init_index(64)
        rows = np.random.default_rng(0).standard_normal((64, dim)).astype(np.float32)
        index.add_items(rows)
        index.knn_query(rows, k=4)
"""

# Rows linked between two looks at Ctrl-C.
_CHUNK = 2_000

# Sums of squares and products below this do not overflow float32 on the way (Cauchy-Schwarz).
_LARGEST_DISTANCE = 1e38

_GRAPH = "graph.hnsw"
_KIND = "HnswIndex"


def _probe_marker(origin: str) -> Path:
    """Return the file that says this build of hnswlib has run on this CPU."""
    import llvmlite.binding as llvm

    from attnbridge.kernels._jit import CACHE_FOLDER

    stat = Path(origin).stat()
    cpu = llvm.get_host_cpu_name() + llvm.get_host_cpu_features().flatten()
    key = f"{origin}\0{stat.st_size}\0{stat.st_mtime_ns}\0{cpu}"
    return CACHE_FOLDER / f"hnswlib-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.ok"


@functools.cache
def hnswlib_problem() -> str | None:
    """Return why hnswlib cannot be used here, or None.

    It ships as source and is compiled for the CPU it is installed on; a build from another CPU kills the process.
    So it first runs in a process of its own, once for a build and a CPU.
    """
    spec = importlib.util.find_spec("hnswlib")
    if spec is None or spec.origin is None:
        return f"hnswlib is not installed (it needs a C++ compiler): {_REINSTALL}"
    marker = _probe_marker(spec.origin)
    if marker.exists() or not sys.executable:
        return None
    try:
        run = subprocess.run(
            [sys.executable, "-c", _PROBE, json.dumps(sys.path)], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):  # no second process to be had: nothing is known against it
        return None
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        what = f"died of signal {-run.returncode}, as a build for another CPU does" if run.returncode < 0 else last
        return f"hnswlib does not run on this machine ({what}): {_REINSTALL}"
    with suppress(OSError):
        marker.touch()
    return None


def load_hnswlib() -> ModuleType:
    """Import hnswlib, or say why it cannot be used."""
    problem = hnswlib_problem()
    if problem is not None:
        raise MissingDependencyError(problem)
    import hnswlib

    return hnswlib  # type: ignore[no-any-return]


def within_float32(metric: str, longest: float, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return for which queries every distance, and those that the graph was built by, are within float32.

    Parameters
    ----------
    metric : {"cosine", "ip", "l2"}
    longest : float
        The length of the longest row.
    queries : (b, d) float32

    Returns
    -------
    ndarray of bool, (b,)
    """
    if metric == "cosine":
        return np.ones(len(queries), np.bool_)
    length = norms(queries)
    largest = longest * np.maximum(length, longest)
    if metric == "l2":
        largest = (longest + np.maximum(length, longest)) ** 2
    within: npt.NDArray[np.bool_] = largest < _LARGEST_DISTANCE
    return within


class HnswIndex:
    """An hnswlib index that cannot be used wrongly.

    Vectors and queries are checked (dimension, NaN), capacity grows by itself, a search that is short of hits pads
    instead of failing, searches and writes exclude each other, and a saved index is checksummed. Where hnswlib's
    float32 distances would overflow (under ip and l2, lengths beyond 1e19), a search finds nothing rather than
    anything; `AttentionVectorBridge` then reads the rows.

    Parameters
    ----------
    dim : int
    metric : {"cosine", "ip", "l2"}, default "cosine"
    M : int, default 16
        Links of a row in each upper layer, twice as many in the bottom one. At least 2.
    ef_construction : int, default 200
        Breadth of the search for neighbours while building.
    ef : int, default 100
        Breadth of a search; a search for n rows uses at least n.
    seed : int, default 100
        One seed and one thread build the same index twice.
    threads : int, optional
        Threads for building and searching; by default ATTNBRIDGE_NUM_THREADS or the usable cores.

    Raises
    ------
    InvalidConfigError
    MissingDependencyError
        hnswlib is not installed or does not run on this machine.

    Examples
    --------
    >>> from attnbridge.integrations import HnswIndex
    >>> index = HnswIndex(dim=2, metric="l2")
    >>> index.add([[0.0, 0.0], [3.0, 4.0]], labels=[7, 8])
    >>> index.query([[3.0, 3.0]], n=3)
    (array([[ 8,  7, -1]]), array([[ 1., 18., inf]], dtype=float32))
    """

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        *,
        M: int = 16,  # noqa: N803 - the paper's name
        ef_construction: int = 200,
        ef: int = 100,
        seed: int = 100,
        threads: int | None = None,
    ) -> None:
        self._hnswlib = load_hnswlib()
        self.dim = as_dim(dim)
        self._metric = Metric(as_choice(metric, "metric", FLAT_METRICS))
        self.M = as_count(M, "M", least=2)
        if self.M > 10_000:
            raise InvalidConfigError(f"M must be at most 10000, got {self.M}")
        self.ef_construction = as_count(ef_construction, "ef_construction")
        self._ef = as_count(ef, "ef")
        self.seed = as_count(seed, "seed", least=0)
        for name, value in (("ef_construction", ef_construction), ("ef", ef), ("seed", seed)):
            if value >= 2**63:
                raise InvalidConfigError(f"{name} must fit 63 bits, got {value}")
        self.threads = usable_threads(threads)
        self._lock = ReadWriteLock(fork_waits=True)  # a child must not inherit half of an insertion
        self._live: set[int] = set()
        self._removed: set[int] = set()  # never used again: hnswlib would take one as an update in place
        self._longest = 0.0
        self._index = self._new_index()
        self._index.init_index(1024, M=self.M, ef_construction=self.ef_construction, random_seed=self.seed)
        self._index.set_ef(self._ef)

    @property
    def ef(self) -> int:
        """Breadth of a search."""
        return self._ef

    @ef.setter
    def ef(self, ef: int) -> None:
        ef = as_count(ef, "ef")
        with self._lock.write():
            self._index.set_ef(ef)
            self._ef = ef

    def _new_index(self) -> Any:
        # Unit rows under "ip" are cosine; hnswlib's own "cosine" would take zero vectors without a word.
        return self._hnswlib.Index("l2" if self._metric.name == "l2" else "ip", self.dim)

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self._metric.name

    @property
    def longest(self) -> float:
        """The length of the longest vector added so far; 0 under cosine, where lengths do not matter."""
        return self._longest

    def add(
        self,
        vectors: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Add vectors under new labels; on an error or Ctrl-C none of them is findable.

        Parameters
        ----------
        vectors : array_like, (n, d)
        labels : array_like of int, (n,)
            Labels >= 0, not used before.
        threads : int, optional
            The index's own number by default.
        progress : callable, optional
            Called with the number of rows linked since the last call.

        Raises
        ------
        DimensionMismatchError, InvalidInputError
        """
        matrix = as_matrix(vectors, "vectors", dim=self.dim)
        prepared, _ = self._metric.prepare(matrix, "vectors")
        new = check_new_labels(labels, len(matrix))
        with self._lock.write():
            added = [int(label) for label in new]
            for label in added:
                if label in self._live or label in self._removed:
                    raise InvalidInputError(f"labels must be new, but {label} has been used; take another")
            if self.metric != "cosine":
                self._longest = max(self._longest, *norms(matrix)) if added else self._longest
            room = self._index.get_current_count() + len(added)
            if room > self._index.get_max_elements():
                self._index.resize_index(max(room, 2 * self._index.get_max_elements()))
            try:
                for start in range(0, len(added), _CHUNK):
                    part = slice(start, start + _CHUNK)
                    self._index.add_items(prepared[part], new[part], num_threads=threads or self.threads)
                    if progress is not None:
                        progress(len(added[part]))
            except BaseException:
                present = set(self._index.get_ids_list())
                for label in added:
                    if label in present:
                        self._removed.add(label)
                        self._index.mark_deleted(label)
                raise
            self._live.update(added)

    def remove(self, labels: npt.ArrayLike) -> None:
        """Make labels unfindable; their links stay until the index is built anew.

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
                if label not in self._live:
                    raise UnknownIdError(f"label {label} is not in the index")
            for label in gone:
                self._index.mark_deleted(label)
            self._live -= gone
            self._removed |= gone

    def query(self, queries: npt.ArrayLike, n: int, *, threads: int | None = None) -> tuple[Labels, Distances]:
        """Return the labels and distances of each query's nearest rows, nearest first.

        Parameters
        ----------
        queries : array_like, (b, d)
        n : int
        threads : int, optional
            The index's own number by default.

        Returns
        -------
        labels : ndarray of int64, (b, n)
            -1 where fewer than n were found.
        distances : ndarray of float32, (b, n)
            1 - similarity under cosine and ip, the squared distance under l2; inf where fewer were found.

        Raises
        ------
        DimensionMismatchError, InvalidInputError
        """
        matrix = as_matrix(queries, "queries", dim=self.dim)
        n = as_count(n, "n")
        prepared, _ = self._metric.prepare(matrix, "queries")
        labels = np.full((len(matrix), n), -1, np.int64)
        distances = np.full((len(matrix), n), np.inf, np.float32)
        with self._lock.read():
            k = min(n, len(self._live))
            if k and len(matrix):
                within = within_float32(self.metric, self._longest, prepared)
                try:
                    if not within.all():
                        raise RuntimeError
                    found = self._index.knn_query(prepared, k=k, num_threads=threads or self.threads)
                    labels[:, :k], distances[:, :k] = found
                except RuntimeError:  # one of them reaches fewer than k rows: find out which, and how many
                    for i in np.flatnonzero(within):
                        reached = self._reachable(prepared[i : i + 1], k)
                        if reached:
                            found = self._index.knn_query(prepared[i : i + 1], k=reached, num_threads=1)
                            labels[i, :reached], distances[i, :reached] = found[0][0], found[1][0]
        return labels, distances

    def _reachable(self, query: npt.NDArray[np.float32], k: int) -> int:
        """Return the most rows, up to k, that hnswlib returns for this query, by bisection."""
        low, high = 0, k + 1
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._index.knn_query(query, k=middle, num_threads=1)
                low = middle
            except RuntimeError:
                high = middle
        return low

    @property
    def nbytes(self) -> int:
        """How many bytes the graph takes, its copy of the vectors included."""
        with self._lock.read():
            return int(self._index.index_file_size())

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, label: object) -> bool:
        return label in self._live

    def __getstate__(self) -> dict[str, Any]:
        with self._lock.read():
            return {
                "settings": self.settings(),
                "threads": self.threads,
                "graph": dict(self._index.__getstate__()[0]) if self._live or self._removed else None,
                "live": self._live,
                "removed": self._removed,
                "longest": self._longest,
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["settings"], threads=state["threads"])  # type: ignore[misc]
        if state["graph"] is not None:
            self._index = self._checked(state["graph"])
        self._live, self._removed, self._longest = state["live"], state["removed"], state["longest"]

    def _checked(self, given: dict[str, Any]) -> Any:
        """Return an index of hnswlib's from its pickled state, of which nothing is believed."""
        links = Adjacency.from_state(given, dim=self.dim, M=self.M, by_node=True)
        n, made = len(links), self._new_index()
        made.init_index(max(n, 1), M=self.M, ef_construction=self.ef_construction, random_seed=self.seed)
        (state,) = made.__getstate__()
        level0 = np.ascontiguousarray(given["data_level0"]).view(np.uint8)
        nodes = level0.reshape(n, -1)
        marked = (nodes[:, 2] & 1).astype(np.bool_)  # hnswlib's delete mark: third byte of the list of links
        state = dict(state) | {
            "cur_element_count": n,
            "max_level": links.links.levels,
            "enterpoint_node": links.links.entry,
            "ep_added": True,
            "has_deletions": bool(marked.any()),
            "label_lookup_external": np.ascontiguousarray(nodes[:, -8:]).view(np.uint64).ravel(),
            "label_lookup_internal": np.arange(n, dtype=np.uint32),
            "element_levels": np.asarray(given["element_levels"])[:n].astype(np.int32),
            "data_level0": level0.view(np.int8),
            "link_lists": np.ascontiguousarray(given["link_lists"]).view(np.int8),
        }
        if n == 0:
            return made
        index = self._hnswlib.Index.__new__(self._hnswlib.Index)
        index.__setstate__((state,))
        index.set_ef(self._ef)
        return index

    def settings(self) -> dict[str, Any]:
        """Return the constructor's options.

        Returns
        -------
        dict
        """
        return {
            "dim": self.dim,
            "metric": self.metric,
            "M": self.M,
            "ef_construction": self.ef_construction,
            "ef": self.ef,
            "seed": self.seed,
        }

    def write_graph(self, path: Path) -> None:
        """Write hnswlib's file and see that it is whole: on a full disk hnswlib says nothing.

        Parameters
        ----------
        path : Path

        Raises
        ------
        OSError
        """
        with self._lock.read():
            self._write_graph(path)

    def _write_graph(self, path: Path) -> None:
        expected = self._index.index_file_size()
        self._index.save_index(str(path))
        written = path.stat().st_size if path.exists() else 0
        if written != expected:
            what = f"not written in full ({written} of {expected} bytes): is the disk full?"
            raise OSError(errno.EIO, what, str(path))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index to a folder, atomically and with checksums.

        Parameters
        ----------
        folder : path-like

        Raises
        ------
        InvalidInputError
            The folder holds other things than an index.
        OSError
            The disk is full, or the folder cannot be written; what was there before is untouched.
        """
        with self._lock.read():
            about = {"settings": self.settings(), "removed": sorted(self._removed), "longest": self._longest}
            write_snapshot(folder, _KIND, about, {_GRAPH: self._write_graph} if self._live or self._removed else {})

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, threads: int | None = None) -> "HnswIndex":
        """Read a saved index.

        Parameters
        ----------
        folder : path-like
        threads : int, optional

        Returns
        -------
        HnswIndex

        Raises
        ------
        IndexCorruptError
            No index, or a damaged one.
        """

        def load(snapshot: Snapshot) -> HnswIndex:
            manifest = snapshot.manifest
            index = cls(**manifest["settings"], threads=threads)
            if _GRAPH in manifest["files"]:
                index.read_graph(snapshot.path(_GRAPH), set(manifest["removed"]), manifest["longest"])
            return index

        return load_snapshot(folder, _KIND, load)

    def adjacency(self, rows: int) -> Adjacency:
        """Return a copy of the graph's links.

        Parameters
        ----------
        rows : int
            All labels are below this.

        Returns
        -------
        Adjacency
        """
        with self._lock.read():
            return Adjacency.from_index(self._index, rows)

    def emptied(self) -> "HnswIndex":
        """Return an index of the same settings without rows, for `read_links`.

        Returns
        -------
        HnswIndex
        """
        return HnswIndex(**self.settings(), threads=self.threads)

    def read_links(
        self, adjacency: Adjacency, vectors: npt.NDArray[np.float32], removed: npt.NDArray[np.int64]
    ) -> None:
        """Replace this (empty) index's graph by one of given links; nothing is built anew.

        Parameters
        ----------
        adjacency : Adjacency
            Links between labels; those that have and get none are not in the index.
        vectors : (n, d) float32
            Of each label.
        removed : (m,) int64
            Labels that are unfindable, as far as they are in the graph.

        Raises
        ------
        IndexCorruptError
            The links are of another M, or of more labels than there are vectors.
        """
        labels = adjacency.linked()
        if len(labels) == 0:
            return
        if adjacency.M != self.M:
            raise IndexCorruptError(f"the graph's lists hold {adjacency.M} links instead of M={self.M}; restore it")
        if len(vectors) < len(adjacency):
            raise IndexCorruptError(
                f"the graph has {len(adjacency)} rows, but only {len(vectors)} vectors are there; restore it"
            )
        prepared, _ = self._metric.prepare(np.ascontiguousarray(vectors[labels]), "vectors")
        dead = np.isin(labels, removed)
        made = self._new_index()
        made.init_index(1, M=self.M, ef_construction=self.ef_construction, random_seed=self.seed)
        (state,) = made.__getstate__()
        state = dict(state) | adjacency.nodes(labels, prepared, dead) | {"has_deletions": bool(dead.any())}
        index = self._hnswlib.Index.__new__(self._hnswlib.Index)
        index.__setstate__((state,))
        index.set_ef(self.ef)
        with self._lock.write():
            self._index = index
            self._removed = set(labels[dead].tolist())
            self._live = set(labels[~dead].tolist())
            self._longest = 0.0 if self.metric == "cosine" else float(norms(prepared).max())

    def read_graph(self, path: Path, removed: set[int], longest: float) -> None:
        """Replace this (empty) index's graph by hnswlib's file.

        Parameters
        ----------
        path : Path
        removed : set of int
            Labels that are in the file but no more in the index.
        longest : float
            `longest` of the index that wrote the file.

        Raises
        ------
        IndexCorruptError
            The file is of another dimension or M, cut short, or a link in it leads out of it.
        """
        Adjacency.from_file(path, dim=self.dim, M=self.M, by_node=True)  # hnswlib follows whatever it reads
        loaded = self._new_index()
        try:
            loaded.load_index(str(path))
        except RuntimeError as error:
            raise IndexCorruptError(f"{path} is damaged: {error}; restore it from a backup") from error
        loaded.set_ef(self.ef)
        present = set(loaded.get_ids_list())
        with self._lock.write():
            self._index = loaded
            self._removed = removed & present
            self._live = present - removed
            self._longest = longest

    @classmethod
    def adopt(
        cls, index: Any, *, ef: int | None = None, threads: int | None = None
    ) -> "tuple[HnswIndex, Labels, Labels, npt.NDArray[np.float32]]":
        """Take a copy of an hnswlib index that exists already; nothing is built anew.

        Parameters
        ----------
        index : hnswlib.Index
        ef : int, optional
            Breadth of a search; by default the index's, at least 100.
        threads : int, optional

        Returns
        -------
        index : HnswIndex
            Its labels are 0..n-1 in ascending order of those that the rows had.
        labels : ndarray of int64, (n,)
            The labels that the rows had.
        removed : ndarray of int64
            Rows that were marked as deleted.
        vectors : ndarray of float32, (n, d)
            The stored vectors; unit length where the index was one of "cosine".

        Raises
        ------
        InvalidInputError
            Not an hnswlib index.
        """
        module = load_hnswlib()
        if not isinstance(index, module.Index):
            raise InvalidInputError(f"index must be an hnswlib.Index, got {type(index).__name__}")
        (given,) = index.__getstate__()
        state = dict(given)
        metric, dim = state["space"], state["dim"]
        options = {
            "dim": dim,
            "metric": metric,
            "ef": max(100, state["ef"]) if ef is None else ef,
            "seed": state["seed"] % 2**63,
        }
        if not state["index_inited"] or not state["cur_element_count"]:
            empty = np.empty(0, np.int64)
            return cls(**options, threads=threads), empty, empty, np.empty((0, dim), np.float32)
        n, size = state["cur_element_count"], state["size_data_per_element"]
        level0 = state["data_level0"].view(np.uint8).reshape(n, size)
        at_label, at_data = state["label_offset"], state["offset_data"]
        labels = level0[:, at_label : at_label + 8].copy().view(np.int64).ravel()
        vectors = level0[:, at_data : at_data + 4 * dim].copy().view(np.float32)
        dead = (level0[:, 2] & 1).astype(np.bool_)  # hnswlib's delete mark: third byte of the list of links
        lengths = norms(vectors)
        unusable = np.flatnonzero(~np.isfinite(lengths) & ~dead)
        if len(unusable):
            raise InvalidInputError(
                f"index must hold finite vectors: that of label {labels[unusable[0]]} is not, and its links lead "
                "nowhere; build the index again without it"
            )
        order = np.argsort(labels, kind="stable")  # threads insert in any order; labels tell who was first
        rank = np.empty(n, np.int64)
        rank[order] = np.arange(n)
        level0[:, at_label : at_label + 8] = rank.view(np.uint8).reshape(n, 8)
        state["label_lookup_external"] = rank.astype(np.uint64)
        state["label_lookup_internal"] = np.arange(n, dtype=np.uint32)
        state |= {"space": "l2" if metric == "l2" else "ip", "normalize": False, "ep_added": True}
        copy = module.Index.__new__(module.Index)
        copy.__setstate__((state,))
        own = cls(**options, M=state["M"], ef_construction=state["ef_construction"], threads=threads)
        copy.set_ef(own.ef)
        removed = np.flatnonzero(dead[order])
        own._index, own._removed = copy, set(removed.tolist())
        own._live = set(range(n)) - own._removed
        own._longest = 0.0 if own.metric == "cosine" else float(np.nanmax(lengths))
        return own, labels[order], removed, vectors[order]
