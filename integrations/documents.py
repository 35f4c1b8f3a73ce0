"""What a bridge holds and how it is changed: one writer at a time, and readers that never wait for it."""

import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from attnbridge.errors import ConcurrencyError, InvalidConfigError, InvalidInputError
from attnbridge.hits import Id
from attnbridge.integrations.codes import RowSettings
from attnbridge.integrations.graph import LINK_FROM, Foreign, Graph, Linker
from attnbridge.integrations.hnswlib import HnswIndex
from attnbridge.integrations.inputs import id_list, is_one_id, refuse_params
from attnbridge.integrations.store import Store
from attnbridge.integrations.tokens import TokenArrays, as_tokens
from attnbridge.integrations.view import View
from attnbridge.metric import Metric
from attnbridge.progress import progress_bar
from attnbridge.validation import as_matrix

if TYPE_CHECKING:
    import pyarrow as pa

# Fewer rows than this are linked before a progress bar would be seen.
PROGRESS_FROM = 5_000


class State(NamedTuple):
    """The documents and where candidates among them come from; put in place together."""

    store: Store
    source: Graph | Foreign | None


_all: "weakref.WeakSet[Documents]" = weakref.WeakSet()


class Documents:
    """Vectors with ids, tokens and payload, and their index."""

    _frozen = False

    def _hold(
        self,
        dim: int,
        metric: Metric,
        threads: int,
        source: Graph | Foreign | None,
        hnsw: dict[str, Any],
        rows: RowSettings,
    ) -> None:
        """Begin empty; `hnsw` are the options of a new graph."""
        self._dim, self._metric, self._threads, self._hnsw = dim, metric, threads, hnsw
        self._state = State(Store(dim, metric, rows), source)
        self._ready()

    def _ready(self) -> None:
        """Make what a copy has not: locks and the linking thread."""
        self._reset_locks()
        this = weakref.ref(self)

        def state() -> tuple[Graph, View] | None:
            bridge = this()
            if bridge is None:
                return None
            store, source = bridge._state
            return (source, store.view) if isinstance(source, Graph) else None

        self._linker = Linker(state)
        _all.add(self)

    def _reset_locks(self) -> None:
        self._writer = threading.Lock()
        self._writing_thread: int | None = None
        self._compacting = threading.Lock()

    def _after_fork(self) -> None:
        """In a forked child: whoever held the locks is not there, and what he was writing is not finished."""
        unfinished = self._writer.locked()
        self._reset_locks()
        self._state.store.lock = threading.Lock()
        if unfinished:
            self._state.store.restore()

    # ---- what is in it

    def __len__(self) -> int:
        return len(self._state.store)

    def __contains__(self, id: object) -> bool:
        return is_one_id(id) and id in self._state.store

    def ids(self, *, where: str | None = None, params: Mapping[str, Any] | None = None) -> list[Id]:
        """Return ids in order of insertion; without `where` all of them, the order of a boolean filter.

        Parameters
        ----------
        where : str, optional
            As for `search`.
        params : dict, optional
            As for `search`.

        Returns
        -------
        list of str or int

        Raises
        ------
        InvalidInputError
            An expression that cannot be, or params without it.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> bridge.ids()
        [0, 1]
        """
        store = self._state.store
        view = store.view
        if where is None:
            refuse_params(params)
            return view.live_ids()
        return view.ids.at(store.matching(where, params, view).rows)

    def get(self, ids: Id | Sequence[Id]) -> npt.NDArray[np.float32]:
        """Return stored vectors as they were added.

        Parameters
        ----------
        ids : str, int or a list of them

        Returns
        -------
        ndarray of float32, (n, d), or (d,) for one id alone

        Raises
        ------
        UnknownIdError
            An id that is not there; the message names it.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[3.0, 4.0]], ids=["a"])
        >>> bridge.get("a")
        array([3., 4.], dtype=float32)
        """
        view, rows = self._state.store.rows_of(id_list(ids))
        vectors = self._metric.given(view.vectors(np.array(rows, np.int64)))
        return vectors[0] if is_one_id(ids) else vectors

    def get_tokens(self, ids: Id | Sequence[Id]) -> list[npt.NDArray[np.float16] | npt.NDArray[np.float32]]:
        """Return the values of stored token vectors.

        Parameters
        ----------
        ids : str, int or a list of them

        Returns
        -------
        list of ndarray, (n_i, dt)
            float16 as they are stored; of token_dtype="int8" float32, each code times its token's scale.

        Raises
        ------
        UnknownIdError
        InvalidInputError
            The bridge stores no tokens.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[3.0, 4.0]], ids=["a"], tokens=[[[1.0, 0.0, 0.0]]])
        >>> bridge.get_tokens("a")[0].shape
        (1, 3)
        """
        if self._state.store.view.tokens is None:
            raise InvalidInputError("this bridge stores no tokens; give them to add(vectors, ids, tokens=...)")
        view, rows = self._state.store.rows_of(id_list(ids))
        return [view.tokens_of(row).copy() for row in rows]

    def payload(self, ids: Id | Sequence[Id]) -> Any:
        """Return the payload of documents.

        Parameters
        ----------
        ids : str, int or a list of them

        Returns
        -------
        list of dict, or one dict for one id alone
            Column to value, None where there is none.

        Raises
        ------
        UnknownIdError

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[3.0, 4.0]], ids=["a"], payload={"year": [2020]})
        >>> bridge.payload("a")
        {'year': 2020}
        """
        view, rows = self._state.store.rows_of(id_list(ids))
        records = view.records(np.array(rows, np.int64))
        return records[0] if is_one_id(ids) else records

    def to_arrow(self) -> "pa.Table":
        """Return everything but the tokens as an Arrow table: id, vector, and the payload's columns.

        Returns
        -------
        pyarrow.Table
            In order of insertion.

        Raises
        ------
        InvalidInputError
            A payload column is named "vector".

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[3.0, 4.0]], ids=["a"], payload={"year": [2020]})
        >>> bridge.to_arrow().column_names
        ['id', 'vector', 'year']
        """
        import pyarrow as pa

        view = self._state.store.view
        rows = view.live_rows
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(self._metric.given(view.vectors(rows)).ravel()), self._dim)
        table = pa.table({"id": view.live_ids(), "vector": vectors})
        if view.payload is None:
            return table
        payload = view.payload.table(rows)
        if "vector" in payload.column_names:
            raise InvalidInputError(
                "payload must have no column 'vector' for to_arrow, which gives that name to vectors"
            )
        for name in payload.column_names:
            table = table.append_column(payload.schema.field(name), payload.column(name))
        return table

    def memory(self) -> dict[str, int]:
        """Return where the bytes are.

        Returns
        -------
        dict of str to int
            Bytes of rows (mapped ones too), codes (what the walk has for itself), norms, ids (estimated from a
            sample), graph (links, and hnswlib's index with its copy of the vectors, where that is loaded), tokens and
            payload, all dead rows included; and those of the whole process that are in memory ("resident").

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[3.0, 4.0]])
        >>> bridge.memory()["rows"]
        8
        """
        store, source = self._state
        view = store.view
        terms = [array for array in (view.keys.scale, view.keys.bias) if array is not None]
        tokens = 0 if view.tokens is None else sum(array.nbytes for array in view.tokens if array is not None)
        return {
            "rows": view.keys.data.nbytes,
            "codes": view.code_bytes,
            "norms": sum(array.nbytes for array in terms),
            "ids": store.id_bytes + view.alive.nbytes,
            "graph": source.nbytes if isinstance(source, Graph) else 0,
            "tokens": tokens,
            "payload": 0 if view.payload is None else view.payload.nbytes,
            "resident": _resident(),
        }

    def _snapshot(self) -> Self:
        """Return a bridge of the documents of this moment, to be read only."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._state = State(self._state.store.frozen(), self._state.source)
        return made

    # ---- writes

    def _begin_write(self) -> None:
        """Refuse a write that must not be; called by the one writer before anything is changed."""

    @contextmanager
    def _recorded(self, operation: str, **values: Any) -> Iterator[None]:
        """Record a write that is checked and about to be done, and forget it where it is not done after all."""
        yield

    @contextmanager
    def _write(self, *, begin: bool = True, change: bool = True) -> Iterator[State]:
        """Be the one writer; without `begin` only to keep others from writing, without `change` to save."""
        if self._writing_thread == threading.get_ident():
            raise ConcurrencyError(
                "a bridge cannot be changed from within one of its own writes (a progress callback, an iterator of "
                "ids): the change would wait for itself; make it afterwards"
            )
        with self._writer:
            self._writing_thread = threading.get_ident()
            try:
                if begin:
                    if change and self._frozen:
                        raise InvalidConfigError("a frozen bridge cannot be written to: thaw() it first")
                    self._begin_write()
                yield self._state
            finally:
                self._writing_thread = None

    def add(
        self,
        vectors: npt.ArrayLike,
        ids: Sequence[Id] | npt.NDArray[Any] | None = None,
        *,
        tokens: Sequence[npt.ArrayLike | None] | None = None,
        token_scale: float | Sequence[npt.ArrayLike | None] | npt.NDArray[Any] | None = None,
        payload: Any = None,
        wait: bool = True,
        progress: bool = True,
    ) -> list[Id]:
        """Add documents, or replace those whose ids are there already; all of them or, on an error, none.

        Searches go on meanwhile. What is added is found from the moment it is stored: searches read the rows one by one
        until they are linked in the graph, which begins where some hundred are not.

        Parameters
        ----------
        vectors : array_like, (n, d)
        ids : list of str or of int, optional
            By default numbers from 0, or from the largest id so far. Of an id given twice the last one wins.
        tokens : list of array_like (n_i, dt), optional
            Token vectors of each document for `LateInteraction`, stored as the bridge's token_dtype; None for one
            without. As floats, up to 65504 in size; or as arrays of int8 codes, which need `token_scale`.
        token_scale : float, or list of float or of array_like (n_i,), optional
            What int8 tokens are multiplied with (value = code * scale, scale >= 0): one number for all, for each
            document, or for each token; None for a document whose tokens are floats. With token_dtype="int8" codes and
            scales are stored as they are given.
        payload : dict of columns, or a table of pandas, polars or pyarrow, optional
            Values to filter by and to have returned. New columns may come at any time: rows before have None there.
        wait : bool, default True
            Return when the rows are linked; Ctrl-C then ends the waiting, nothing else. False returns when they are
            stored, and leaves the linking to a thread in the background.
        progress : bool, default True
            Show a progress bar while waiting, where stderr is a terminal.

        Returns
        -------
        list of str or int
            The ids.

        Raises
        ------
        DimensionMismatchError, InvalidInputError
            Wrong shapes, NaN (row named), zero vectors under cosine, ids of another type than those there, payload
            of the wrong length or of a type that the column has not.
        InvalidConfigError
            The bridge was opened with read_only=True.
        ConcurrencyError
            The bridge was opened from a folder that another process is writing.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> bridge.add([[1.0, 0.0], [0.0, 1.0]], payload={"year": [1998, 2017]})
        [0, 1]
        >>> bridge.add([[1.0, 1.0]], ids=[1])
        [1]
        >>> len(bridge), bridge.payload(1)
        (2, {'year': None})
        """
        matrix = as_matrix(vectors, "vectors", dim=self._dim)
        with self._write() as (store, source):
            given = store.new_ids(ids, len(matrix))
            dtype = store.settings.token_dtype
            stored = as_tokens(tokens, token_scale, len(matrix), store.token_dim, dtype)
            table = None if payload is None else _as_table(payload, len(matrix))
            last = {id: position for position, id in enumerate(given)}
            kept = sorted(last.values())
            if len(kept) < len(given):
                matrix = matrix[kept]
                stored = None if stored is None else stored.take(kept)
                table = None if table is None else table.take(kept)
            points = self._metric.points(matrix)
            self._metric.row_terms(points, "vectors")  # refuses what the metric cannot take
            columns = store.appended(table, len(matrix))
            distinct = [given[i] for i in kept]
            with self._recorded("add", ids=distinct, vectors=matrix, tokens=stored, table=table):
                self._append(store, source, distinct, points, stored, columns)
        self._link(wait, progress)
        return given

    @staticmethod
    def _append(
        store: Store,
        source: Graph | Foreign | None,
        ids: list[Id],
        matrix: npt.NDArray[np.float32],
        tokens: TokenArrays | None,
        payload: Any,
    ) -> None:
        if not ids:
            return
        if isinstance(source, Foreign):
            first = store.view.count
            try:
                source.add(matrix, np.arange(first, first + len(matrix)))
            except BaseException:
                store.skip(len(matrix))  # the source may have taken some of the labels
                raise
        replaced = store.add(ids, matrix, tokens, payload)
        if replaced and source is not None:
            source.remove(replaced)

    def _link(self, wait: bool, progress: bool) -> None:
        """Have the tail linked in the background, and wait where it is long."""
        store, source = self._state
        if not isinstance(source, Graph) or not source.has_work(store.view):
            return
        if not wait:
            self._linker.start()
            return
        try:
            self._wait_linked(progress)
        except Exception as error:  # noqa: BLE001 - hnswlib's, of any kind
            warnings.warn(
                f"rows are stored and found, but not linked in the graph ({error!r}): searches read them one by one; "
                "link() tries again",
                RuntimeWarning,
                stacklevel=3,
            )

    def _wait_linked(self, progress: bool) -> None:
        store, source = self._state
        assert isinstance(source, Graph)
        lacking = source.lacks(store.view)
        with progress_bar(lacking, "linking", progress and lacking >= PROGRESS_FROM) as advance:
            self._linker.wait(advance)

    def link(self, *, progress: bool = True) -> None:
        """Wait until every row is linked in the graph; for instance before measuring.

        Parameters
        ----------
        progress : bool, default True
            Show a progress bar for long work, where stderr is a terminal.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2)
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> bridge.link()
        """
        if isinstance(self._state.source, Graph):
            self._wait_linked(progress)
            with self._state.source.resting():
                pass  # the links are read out for searches

    def set_payload(self, ids: Id | Sequence[Id], payload: Any) -> None:
        """Change payload values of documents, leaving vectors and other columns as they are.

        Parameters
        ----------
        ids : str, int or a list of them
        payload : dict of columns, or a table of pandas, polars or pyarrow
            A value for each id, or in a dict one for all of them. New columns are made.

        Raises
        ------
        UnknownIdError
            An id that is not there; nothing is changed then.
        InvalidInputError, DimensionMismatchError

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"])
        >>> bridge.set_payload(["b"], {"lang": ["en"]})
        >>> bridge.payload(["a", "b"])
        [{'lang': None}, {'lang': 'en'}]
        """
        named = id_list(ids)
        with self._write() as (store, _):
            table = _as_table(payload, len(named), scalars=True)
            _, rows = store.rows_of(named)
            last = {row: position for position, row in enumerate(rows)}
            kept = list(last.values())
            if len(kept) < len(named):
                table = table.take(kept)
            columns = store.updated(list(last), table)
            with self._recorded("set_payload", ids=[named[i] for i in kept], table=table):
                store.set_payload(columns)

    def delete(
        self, ids: Id | Sequence[Id] | None = None, *, where: str | None = None, params: Mapping[str, Any] | None = None
    ) -> int:
        """Take documents out; all of them or, on an unknown id, none.

        Parameters
        ----------
        ids : str, int or a list of them
            Either these or `where`.
        where : str, optional
            As for `search`.
        params : dict, optional
            As for `search`.

        Returns
        -------
        int
            How many were taken out.

        Raises
        ------
        UnknownIdError
            An id that is not there; the message names it.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"], payload={"year": [1998, 2017]})
        >>> bridge.delete("a")
        1
        >>> bridge.delete(where="year > 2000")
        1
        """
        if (ids is None) == (where is None):
            both = "neither" if ids is None else "both"
            raise InvalidInputError(f"delete takes either ids or where=, {both} given; clear() takes everything out")
        if where is None:
            refuse_params(params)
        with self._write() as (store, source):
            if where is None:
                gone = list(dict.fromkeys(id_list(ids)))
                _, rows = store.rows_of(gone)
            else:
                rows = store.matching(where, params, store.view).rows.tolist()
                gone = store.view.ids.at(np.array(rows, np.int64))
            if rows:
                with self._recorded("delete", ids=gone):
                    store.kill(gone, rows)
                if source is not None:
                    source.remove(rows)
        self._link(False, False)
        return len(rows)

    def clear(self) -> None:
        """Take everything out, payload columns too; numbering goes on.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> bridge.clear()
        >>> len(bridge), bridge.add([[1.0, 0.0]])
        (0, [2])
        """
        with self._write() as (store, source), self._recorded("clear"):
            if isinstance(source, Foreign):
                source.remove(store.view.live_rows.tolist())
                store.kill(store.view.live_ids(), store.view.live_rows.tolist())
            else:
                self._state = State(store.emptied(), source and self._new_graph())

    def _new_graph(self) -> Graph:
        source = self._state.source
        assert isinstance(source, Graph)
        index = HnswIndex(**source.index.settings(), threads=self._threads)
        return Graph(index, engine=source.engine, metric=self._metric)

    def freeze(self, *, progress: bool = True) -> None:
        """Link every row, then let hnswlib's index go with its copy of the vectors: the smallest memory.

        Searches go on, by walking the links; writes are refused until `thaw`. A frozen bridge is saved, opened and
        pickled frozen.

        Parameters
        ----------
        progress : bool, default True
            Show a progress bar for long work, where stderr is a terminal.

        Raises
        ------
        InvalidConfigError
            engine="hnswlib", which searches what would go, or a source of your own.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2)
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> bridge.freeze()
        >>> bridge.search([1.0, 0.1], k=1).ids
        [0]
        """
        source = self._state.source
        if isinstance(source, Foreign):
            name = type(source.source).__name__
            raise InvalidConfigError(f"index must be 'hnsw' or 'exact' for freeze, got a {name}")
        if isinstance(source, Graph) and source.engine != "native":
            raise InvalidConfigError(
                f"engine must be 'native' for freeze, got {source.engine!r}: it searches the index"
            )
        with self._write(begin=False) as (store, source):  # others wait: their rows would be linked for ever
            if isinstance(source, Graph):
                view = store.view
                with progress_bar(
                    source.lacks(view), "linking", progress and source.lacks(view) >= PROGRESS_FROM
                ) as on:
                    while source.linking(view):
                        linked = source.linked
                        source.step(view)
                        on(source.linked - linked)
                source.unload()
            self._frozen = True

    def thaw(self) -> None:
        """Let a frozen bridge be written to again; hnswlib's index is made from the links when rows are added.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2)
        >>> bridge.freeze()
        >>> bridge.thaw()
        >>> bridge.add([[1.0, 0.0]])
        [0]
        """
        with self._write(begin=False):
            self._frozen = False

    def compact(self, *, progress: bool = True) -> int:
        """Give back the space of replaced and deleted rows; the graph is built anew from those that live.

        Searches and writes go on meanwhile.

        Parameters
        ----------
        progress : bool, default True
            Show a progress bar for long work, where stderr is a terminal.

        Returns
        -------
        int
            How many dead rows there were.

        Raises
        ------
        InvalidConfigError
            The candidates come from a source of your own.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> _ = bridge.delete(0)
        >>> bridge.compact()
        1
        """
        if isinstance(self._state.source, Foreign):
            name = type(self._state.source.source).__name__
            raise InvalidConfigError(f"index must be 'hnsw' or 'exact' for compact, got a {name}; make a new bridge")
        with self._compacting:
            with self._write() as (store, source):
                before = store.view
            if before.live == before.count:
                return 0
            fresh = store.compacted(before)
            graph = self._built(fresh.view, source, progress) if isinstance(source, Graph) else None
            with self._write() as state:
                if state.store is not store:  # cleared or reloaded meanwhile
                    return 0
                gone = fresh.catch_up(before, store)
                if graph is not None:
                    graph.remove(gone)
                self._state = State(fresh, graph)
        self._link(False, False)
        return before.count - before.live

    def _built(self, view: View, old: Graph, progress: bool) -> Graph:
        """Return a graph with all rows of a view, made by one thread while others search the old one."""
        graph = self._new_graph()
        with progress_bar(view.count, "compacting", progress and view.count >= PROGRESS_FROM) as advance:
            while view.count >= LINK_FROM and graph.linking(view):
                linked = graph.linked
                graph.step(view, threads=1 if old.busy else None)
                advance(graph.linked - linked)
        return graph


def _as_table(payload: Any, count: int, *, scalars: bool = False) -> "pa.Table":
    from attnbridge.integrations.columns import as_table

    return as_table(payload, count, scalars=scalars)


def _resident() -> int:
    """Return how many bytes of this process are in memory."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most there has been, where the present is not told
    return peak if sys.platform == "darwin" else 1024 * peak


def _forget_writers() -> None:
    for documents in list(_all):
        documents._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_writers)
