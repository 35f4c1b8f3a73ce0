"""A bridge on disk: snapshots, the journal between them, one writer and many readers."""

import os
import pickle
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from attnbridge.cache import AttentionCache, as_cache
from attnbridge.errors import AttentionError, ConcurrencyError, IndexCorruptError, InvalidConfigError
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.integrations.arrays import load_array
from attnbridge.integrations.documents import Documents, State
from attnbridge.integrations.graph import Foreign, Graph
from attnbridge.integrations.journal import Journal, journal_path
from attnbridge.integrations.lock import WriterLock
from attnbridge.integrations.operations import Operation, encode, operations
from attnbridge.integrations.options import packed, unpacked
from attnbridge.integrations.snapshot import Snapshot, current_snapshot, is_index, load_snapshot, write_snapshot
from attnbridge.integrations.store import Store
from attnbridge.integrations.tokens import TokenArrays
from attnbridge.mechanisms.base import Attention
from attnbridge.metric import METRICS
from attnbridge.scoring import REGISTRY
from attnbridge.threads import usable_threads
from attnbridge.validation import as_choice, as_text

KIND = "AttentionVectorBridge"

# The file of each of an adjacency's arrays.
_LINKS = {"level0": "links.npy", "upper": "upper_links.npy", "levels": "levels.npy", "entry": "entry.npy"}

# Below so many bytes everything is verified on opening, where not asked otherwise.
_VERIFY_IN_FULL = 1 << 30


@dataclass
class Home:
    """The folder that a bridge was opened from.

    Parameters
    ----------
    folder : Path
    snapshot : str
        The one that was read, and its journal.
    options : dict
        With which it was opened.
    """

    folder: Path
    snapshot: str
    options: dict[str, Any]
    journaled: int = 0  # bytes of the journal that are in the bridge
    lock: WriterLock | None = None
    journal: Journal | None = None
    closed: bool = False

    def is_current(self) -> bool:
        """Return whether the folder still holds what the bridge has read or written."""
        return (current_snapshot(self.folder), _journal_size(self.folder, self.snapshot)) == (
            self.snapshot,
            self.journaled,
        )

    def close(self) -> None:
        """Let the folder go."""
        if self.journal is not None:
            self.journal.close()
        if self.lock is not None:
            self.lock.release()
        self.journal = self.lock = None
        self.closed = True


class Persistent(Documents):
    """Documents that are saved to a folder and opened from it."""

    model: str | None
    _index_name: str
    _engine: str
    _fallback: str | None
    _options: dict[str, Any]
    _home: Home | None = None
    _saved: object = None  # the view that the home folder holds
    _cache: AttentionCache | None = None
    _owned: tuple[dict[str, Any], int] | None = None  # options of the attention, and their number in the cache

    if TYPE_CHECKING:  # the bridge's own, as far as they are used here

        def __init__(
            self, dim: int, metric: str | None = ..., attention: str | Attention = ..., **options: Any
        ) -> None: ...

        @property
        def config(self) -> dict[str, Any]:
            """Every setting."""

    # ---- before and after a write

    def _begin_write(self) -> None:
        home = self._home
        if home is None:
            return
        if home.closed:
            raise InvalidConfigError(f"a closed bridge cannot be written to: open {home.folder} again")
        if home.options["read_only"]:
            raise InvalidConfigError(
                f"read_only must be False for a write, but {home.folder} was opened with read_only=True"
            )
        self._take_lock(home)

    @staticmethod
    def _take_lock(home: Home) -> None:
        """Become the process that writes the home folder, from what it holds now."""
        if home.lock is not None and home.lock.held:
            return
        if home.journal is not None:  # a forked child has its parent's
            home.journal.close()
            home.journal = None
        lock = WriterLock.acquire(home.folder)
        try:
            _require_current(home)
        except BaseException:
            lock.release()
            raise
        home.lock = lock

    @contextmanager
    def _recorded(self, operation: str, **values: Any) -> Iterator[None]:
        home = self._home
        if home is None or not home.options["journal"]:
            yield
            return
        if home.journal is None:
            home.journal = Journal(home.folder, home.snapshot)
        journal, view = home.journal, self._state.store.view
        journal.append(_encoded(operation, **values))
        try:
            yield
        except BaseException:
            if self._state.store.view is view:
                journal.undo()
            raise
        finally:
            home.journaled = journal.size

    def _replay(self, operation: Operation, where: str) -> None:
        """Do once more what the journal tells."""
        try:
            name, ids = operation.values.get("operation"), operation.values.get("ids")
            if name == "add":
                vectors, tokens = operation.arrays["vectors"], _tokens_of(operation)
                self.add(vectors, ids, **tokens, payload=_table_of(operation), wait=False)
            elif name == "set_payload":
                self.set_payload(ids, _table_of(operation))  # type: ignore[arg-type]
            elif name == "delete":
                self.delete(ids)
            elif name == "clear":
                self.clear()
            else:
                raise InvalidConfigError(f"it tells of an operation {name!r}")
        except (AttentionError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, IndexCorruptError):
                raise
            raise IndexCorruptError(f"{where} cannot be replayed: {error}; restore it from a backup") from error

    # ---- disk

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything to a folder, atomically and with checksums; a failed save leaves the last one in place.

        Searches go on meanwhile, writes wait. An index that the folder holds already is replaced, whoever wrote it;
        only a bridge that was opened from the folder compares.

        Parameters
        ----------
        folder : path-like
            Made where missing; one that holds other things than an index is refused.

        Raises
        ------
        InvalidInputError
            The folder holds other files.
        InvalidConfigError
            The candidates come from a source of your own, which this library cannot write; or the folder was opened
            with read_only=True.
        ConcurrencyError
            Another process has the folder open for writing, or has written to it since it was opened here.
        OSError
            The disk is full, or the folder cannot be written.

        Examples
        --------
        >>> import tempfile, attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2)
        >>> _ = bridge.add([[1.0, 0.0]], ids=["a"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bridge.save(folder)
        ...     print(ab.AttentionVectorBridge.open(folder, mmap=False).ids())
        ['a']
        """
        source = self._state.source
        if isinstance(source, Foreign):
            name = type(source.source).__name__
            raise InvalidConfigError(f"index must be 'hnsw' or 'exact' for save, got a {name}; save its rows by get()")
        home = self._home
        if home is not None and not _same_folder(home.folder, Path(folder)):
            home = None
        with self._write(begin=home is not None, change=False):
            if home is not None:
                _require_current(home)
            store, source = self._state
            about = self._about(store)
            if isinstance(source, Graph):
                with source.resting() as adjacency:
                    about |= {"linked": source.linked, "longest": source.longest}
                    self._save(folder, about, store, adjacency, home)
            else:
                self._save(folder, about, store, None, home)

    def _about(self, store: Store) -> dict[str, Any]:
        config = self.config
        names = ["dim", "metric", "attention", "index", "engine"]
        names += ["dtype", "index_dim", "keep_full", "token_dtype", "candidates"]
        about = {name: config[name] for name in names if name in config}
        about |= {"rows": len(store), "model": self.model, "frozen": self._frozen}
        if self._fallback is not None:  # a graph is built where it is opened with hnswlib
            about["index"] = "hnsw"
        if about["index"] == "hnsw":
            about["hnsw"] = {name: config[name] for name in ("M", "ef_construction", "ef", "seed") if name in config}
        return about

    def _save(
        self, folder: Any, about: dict[str, Any], store: Store, adjacency: Adjacency | None, home: Home | None
    ) -> None:
        options, files = packed(self._options)
        about |= {"options": options}
        files |= store.files()
        if adjacency is not None:
            for part, array in adjacency.arrays().items():
                files[_LINKS[part]] = partial(_write_array, array)
        name = write_snapshot(folder, KIND, about, files)
        if home is not None:
            if home.journal is not None:
                home.journal.close()
            home.snapshot, home.journal, home.journaled = name, None, 0
            self._saved = store.view

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        mmap: bool = True,
        verify: str | None = None,
        read_only: bool = False,
        journal: bool = False,
        model: str | None = None,
        threads: int | None = None,
        cache: AttentionCache | None = None,
    ) -> Self:
        """Read a saved bridge.

        Any number of processes may have a folder open. One of them may write: the first write locks the folder (as
        does `journal`), until that bridge is closed or its process ends. What others read stays as it was opened, until
        they `reload`.

        Parameters
        ----------
        folder : path-like
        mmap : bool, default True
            Map rows and tokens into memory instead of reading them; they are copied once rows are added.
        verify : {"full", "lazy"}, optional
            Hold every block of every file against its checksum now, or each when it is first read; by default in full
            below 1 GB.
        read_only : bool, default False
            Refuse every write.
        journal : bool, default False
            Write each change to a journal as well, flushed to the disk before the call returns. A journal that is
            there is replayed in any case.
        model : str, optional
            Name of the model that embeds your queries: another than that of the vectors is an error.
        threads : int, optional
            For building and for batches.
        cache : AttentionCache, optional
            Where searches look for their hits first.

        Returns
        -------
        AttentionVectorBridge

        Raises
        ------
        IndexCorruptError
            No index, or a damaged one: the message names the file.
        InvalidConfigError
            It was saved with an attention type of one's own, which must be registered before; or the vectors are of
            another model, or of one that is not known.
        ConcurrencyError
            journal=True, and another process has the folder open for writing; the message says which.

        Examples
        --------
        >>> import tempfile, attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, model="my-model")
        >>> _ = bridge.add([[1.0, 0.0]], ids=["a"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bridge.save(folder)
        ...     print(len(ab.AttentionVectorBridge.open(folder, mmap=False, model="my-model")))
        1
        """
        if read_only and journal:
            raise InvalidConfigError("journal must be False with read_only=True: there is nothing to write")
        if verify is not None:
            as_choice(verify, "verify", ("full", "lazy"))
        if model is not None:
            as_text(model, "model")
        as_cache(cache)
        usable_threads(threads)
        root = Path(folder)
        lock = WriterLock.acquire(root) if journal and is_index(root) else None
        options = {"mmap": mmap, "verify": verify, "read_only": read_only, "journal": journal, "model": model}

        def load(snapshot: Snapshot) -> tuple[Self, Home]:
            size = sum(snapshot.size(file) for file in snapshot.files)
            if verify == "full" or (verify is None and size < _VERIFY_IN_FULL):
                snapshot.verify()
            bridge = cls._loaded(snapshot, mmap, threads)
            home = Home(root, snapshot.name, options, lock=lock)
            home.journaled = _journal_size(root, snapshot.name)  # what comes while this is read, a reload brings again
            for number, operation in enumerate(operations(root, snapshot.name)):
                bridge._frozen = False  # or it would not have been written
                bridge._replay(operation, f"record {number} of {journal_path(root, snapshot.name)}")
            if current_snapshot(root) != snapshot.name:  # the journal may have gone before it was read
                raise IndexCorruptError(f"folder {root} is being saved over and over; try again")
            return bridge, home

        try:
            bridge: Self
            bridge, home = load_snapshot(root, KIND, load, verify="lazy")
            if model is not None and bridge.model != model:
                raise InvalidConfigError(
                    f"model must be {bridge.model!r}, which made the vectors of {root}, got {model!r}"
                    if bridge.model is not None
                    else f"model cannot be compared: {root} does not say which made its vectors; set bridge.model and "
                    "save it"
                )
            bridge._settle(home, cache)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return bridge

    def _settle(self, home: Home, cache: AttentionCache | None) -> None:
        """Take a folder as the one that this bridge is of."""
        self._cache = cache
        if home.options["journal"]:
            home.journal = Journal(home.folder, home.snapshot)
            home.journaled = home.journal.size
        self._home, self._saved = home, self._state.store.view
        weakref.finalize(self, home.close)

    @classmethod
    def _loaded(cls, snapshot: Snapshot, mmap: bool, threads: int | None) -> Self:
        about = snapshot.manifest
        attention = snapshot.setting("attention", str)
        if attention not in REGISTRY:
            raise InvalidConfigError(
                f"{snapshot.folder} was saved with attention {attention!r}, which is not known here; call "
                f"register_attention({attention!r}, ...) before it is opened (known are {', '.join(REGISTRY)})"
            )
        try:
            bridge = cls(
                snapshot.setting("dim", int),
                as_choice(about.get("metric"), "metric", METRICS),
                attention,
                index={"hnsw": "auto", "exact": "exact"}[as_choice(about.get("index"), "index", ("hnsw", "exact"))],
                dtype=snapshot.setting("dtype", str),
                index_dim=about.get("index_dim"),
                keep_full=snapshot.setting("keep_full", bool),
                token_dtype=about.get("token_dtype", "float16"),  # older indexes do not say
                candidates=snapshot.setting("candidates", int),
                engine=about.get("engine"),
                model=about.get("model"),
                threads=threads,
                **(snapshot.setting("hnsw", dict) if "hnsw" in about else {}),
                **unpacked(snapshot.setting("options", dict), snapshot),
            )
        except (AttentionError, TypeError) as error:
            if isinstance(error, IndexCorruptError):
                raise
            raise IndexCorruptError(f"{snapshot.folder} has settings that cannot be: {error}") from error
        store = Store.read(snapshot, bridge._dim, bridge._metric, mmap, bridge._state.store.settings)
        graph = bridge._state.source
        if isinstance(graph, Graph) and _LINKS["level0"] in snapshot:
            graph = _saved_graph(snapshot, graph, store)
        bridge._state, bridge._frozen = State(store, graph), snapshot.setting("frozen", bool)
        bridge._link(False, False)
        return bridge

    def reload(self) -> bool:
        """Read the folder's newest snapshot (and journal), where that is another than the one that was read.

        Searches go on meanwhile, with what was there before.

        Returns
        -------
        bool
            Whether there was anything new.

        Raises
        ------
        InvalidConfigError
            The bridge was not opened from a folder.
        ConcurrencyError
            The bridge holds changes that are not saved, and would lose them.

        Examples
        --------
        >>> import tempfile, attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2)
        >>> _ = bridge.add([[1.0, 0.0]], ids=["a"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bridge.save(folder)
        ...     reader = ab.AttentionVectorBridge.open(folder, mmap=False, read_only=True)
        ...     _ = bridge.add([[0.0, 1.0]], ids=["b"])
        ...     bridge.save(folder)
        ...     print(reader.reload(), reader.ids())
        True ['a', 'b']
        """
        home = self._home
        if home is None:
            raise InvalidConfigError("reload needs a bridge that was opened from a folder; this one was not")
        with self._writer:
            if home.closed:
                raise InvalidConfigError(f"a closed bridge cannot reload: open {home.folder} again")
            if home.is_current():
                return False
            if self._state.store.view is not self._saved and not home.options["journal"]:
                raise ConcurrencyError(
                    f"folder {home.folder} has been written to by others, and this bridge holds changes that are not "
                    "saved: save() it to another folder first"
                )
            fresh = type(self).open(home.folder, threads=self._threads, **home.options | {"journal": False})
            if (fresh._dim, fresh._metric.name) != (self._dim, self._metric.name):
                raise InvalidConfigError(
                    f"folder {home.folder} now holds vectors of dim={fresh._dim}, metric={fresh._metric.name!r}, not "
                    f"dim={self._dim}, metric={self._metric.name!r}; open() it anew"
                )
            assert fresh._home is not None
            # Another may have been saved there, or this one after tune: with its settings, all but threads.
            names = (
                "_metric",
                "_attention",
                "_options",
                "_candidates",
                "_hnsw",
                "_index_name",
                "_engine",
                "_fallback",
                "_model",
                "_frozen",
            )
            for name in names:
                setattr(self, name, getattr(fresh, name))
            self._state, self._saved = fresh._state, fresh._saved
            home.snapshot, home.journaled = fresh._home.snapshot, fresh._home.journaled
            if home.journal is not None:
                home.journal.close()
                home.journal = None
        self._linker.start()
        return True

    def close(self) -> None:
        """Let the folder go that the bridge was opened from; it can be searched on, but not written to.

        Examples
        --------
        >>> import tempfile, attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bridge.save(folder)
        ...     with ab.AttentionVectorBridge.open(folder, mmap=False, journal=True) as opened:
        ...         _ = opened.add([[1.0, 0.0]], ids=["a"])
        ...     print(ab.AttentionVectorBridge.open(folder, mmap=False).ids())
        ['a']
        """
        with self._writer:
            if self._home is not None:
                self._home.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- pickle

    def __getstate__(self) -> dict[str, Any]:
        with self._writer:
            left_out = ("_home", "_saved", "_writer", "_writing_thread", "_compacting", "_linker", "_cache", "_owned")
            state = {name: value for name, value in self.__dict__.items() if name not in left_out}
            # As bytes: rows and graph must be of one moment, and pickle comes to them when others may write again.
            state["_state"] = pickle.dumps(self._state, pickle.HIGHEST_PROTOCOL)
            return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = pickle.loads(state["_state"])
        self._ready()


def _require_current(home: Home) -> None:
    if not home.is_current():
        raise ConcurrencyError(
            f"folder {home.folder} has been written to since this bridge was opened; reload() reads what is there now, "
            "save() to another folder keeps what is here"
        )


def _journal_size(root: Path, snapshot: str) -> int:
    path = journal_path(root, snapshot)
    return path.stat().st_size if path.exists() else 0


def _same_folder(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


def _saved_graph(snapshot: Snapshot, empty: Graph, store: Store) -> Graph:
    """Return the snapshot's graph, every link of it checked; hnswlib's index is made from it when it is needed."""
    linked = snapshot.setting("linked", int, least=0, most=store.view.count)
    longest = snapshot.setting("longest", float, least=0)
    arrays = {}
    for part, (dtype, ndim) in Adjacency.ARRAYS.items():
        # not mapped: a link that changes on the disk after it was checked would lead anywhere
        arrays[part], _ = load_array(snapshot, _LINKS[part], dtype, ndim, mmap=False)
    try:
        adjacency = Adjacency.from_arrays(arrays, linked)
    except IndexCorruptError as error:
        raise IndexCorruptError(f"{snapshot.folder / _LINKS['level0']}: {error}") from error
    if adjacency.links.entry >= 0 and adjacency.M != empty.index.M:
        raise IndexCorruptError(
            f"{snapshot.folder} is damaged: its lists hold {adjacency.M} links, not M={empty.index.M}"
        )
    return Graph(empty.index, linked, engine=empty.engine, metric=empty.metric, adjacency=adjacency, longest=longest)


def _write_array(array: npt.NDArray[Any], path: Path) -> None:
    np.save(path, array)


def _encoded(
    operation: str, *, ids: Any = None, vectors: Any = None, tokens: TokenArrays | None = None, table: Any = None
) -> Any:
    """Return a journal record of an operation."""
    arrays: dict[str, Any] = {}
    if vectors is not None:
        arrays["vectors"] = vectors
    if tokens is not None:
        none = np.empty((0, tokens.dim or 0), np.float16 if tokens.scales is None else np.int8)
        arrays["token_lengths"] = tokens.lengths
        arrays["tokens"] = np.concatenate([none, *(array for array in tokens.data if len(array))])
        if tokens.scales is not None:
            arrays["token_scales"] = np.concatenate([np.empty(0, np.float32), *tokens.scales])
    blobs = {}
    if table is not None:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        blobs["table"] = sink.getvalue().to_pybytes()
    return encode({"operation": operation, "ids": ids}, arrays, blobs)


def _tokens_of(operation: Operation) -> dict[str, Any]:
    """Return the arguments of `add` that a record's tokens are."""
    arrays, given = operation.arrays, {}
    for argument, name in (("tokens", "tokens"), ("token_scale", "token_scales")):
        if name in arrays:
            ends = np.cumsum(arrays["token_lengths"])
            given[argument] = np.split(arrays[name], ends[:-1]) if len(ends) else []
    return given


def _table_of(operation: Operation) -> Any:
    if "table" not in operation.blobs:
        return None
    import pyarrow as pa

    with pa.ipc.open_stream(operation.blobs["table"]) as reader:
        return reader.read_all()
