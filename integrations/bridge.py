"""AttentionVectorBridge: reranked nearest-neighbour search over vectors with ids."""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.hits import Hits, Id
from attnbridge.integrations.candidates import CandidateSource, ExactIndex
from attnbridge.integrations.constructors import PROGRESS_FROM, Constructors
from attnbridge.integrations.hnswlib import HnswIndex, hnswlib_problem
from attnbridge.integrations.search import Request, Searcher
from attnbridge.integrations.snapshot import Snapshot, load_snapshot, write_snapshot
from attnbridge.integrations.store import Store, check_query_tokens, id_list, is_one_id, token_list
from attnbridge.metric import Metric
from attnbridge.progress import progress_bar
from attnbridge.rerank import Stage
from attnbridge.scoring import resolve
from attnbridge.threads import ReadWriteLock, usable_threads
from attnbridge.validation import as_choice, as_count, as_dim, as_matrix, as_number, as_vector

_KIND = "AttentionVectorBridge"
_GRAPH = "graph.hnsw"


class AttentionVectorBridge(Constructors):
    """Nearest-neighbour search whose candidates are ranked by attention over the stored vectors.

    Candidates come from an hnswlib index; scores from the attention's kernel over the full stored rows; rerank
    stages may follow. Many threads may search at a time; a write waits for them and they for it.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    metric : {"cosine", "ip", "l2"}, default "cosine"
        What near means: q . x over both lengths, q . x, or -abs(q - x)^2 / 2. Logits are the attention's scale times
        this similarity, so that plain attention keeps the metric's order.
    attention : str, default "scaled_dot"
        A name or alias from `attention_types`.
    index : {"auto", "hnsw", "exact"} or CandidateSource, default "auto"
        Where candidates come from. "auto" is hnswlib, or exact search with a warning where hnswlib does not run.
    M, ef_construction, ef, seed : int, optional
        hnswlib's build and search breadth, and its random seed; by default those of `HnswIndex` (16, 200, 100, 100).
    threads : int, optional
        For building and for batches; by default ATTNBRIDGE_NUM_THREADS or the usable cores. With one thread, one
        seed builds the same index twice.
    **options : object
        The attention's options. For scaled_dot: scale, by default 20 under cosine (unit vectors need a temperature of
        0.05 for weights that differ) and 1/sqrt(dim) otherwise.

    Raises
    ------
    InvalidConfigError
        Unknown metric, attention, index or option (the known ones are listed), or a value that cannot be.
    MissingDependencyError
        index="hnsw" where hnswlib does not run; the message says why.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, metric="cosine")
    >>> bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["east", "north-east", "north"])
    ['east', 'north-east', 'north']
    >>> hits = bridge.search([0.9, 0.2], k=2)
    >>> hits.ids, hits.scores.round(2)
    (['east', 'north-east'], array([19.52, 16.87]))
    """

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        attention: str = "scaled_dot",
        *,
        index: str | CandidateSource = "auto",
        M: int | None = None,  # noqa: N803 - the paper's name
        ef_construction: int | None = None,
        ef: int | None = None,
        seed: int | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        self._dim = as_dim(dim)
        self._metric = Metric(metric)
        self._attention, self._options = resolve(attention, options)
        if self._options.get("scale", 0.0) is None:
            self._options["scale"] = self._metric.default_scale(self._dim)
        self._threads = usable_threads(threads)
        self._fallback: str | None = None
        hnsw = {"M": M, "ef_construction": ef_construction, "ef": ef, "seed": seed}
        self._hnsw = {name: value for name, value in hnsw.items() if value is not None}
        if self._hnsw and index not in ("auto", "hnsw"):
            raise InvalidConfigError(f"{', '.join(self._hnsw)} can be given for index='hnsw' only, got index={index!r}")
        self._source = self._make_source(index) if isinstance(index, str) else self._own_source(index)
        self._store = Store(self._dim, self._metric)
        self._lock = ReadWriteLock()

    def _own_source(self, index: object) -> CandidateSource:
        """Return a source of the user's own, which must fit."""
        if not isinstance(index, CandidateSource):
            raise InvalidConfigError(
                f"index must be 'auto', 'hnsw', 'exact' or a CandidateSource, got {type(index).__name__}"
            )
        if index.dim != self._dim:
            raise InvalidConfigError(f"index must have dim={self._dim}, got {index.dim}")
        if getattr(index, "metric", self._metric.name) != self._metric.name:
            raise InvalidConfigError(f"index must have metric={self._metric.name!r}, got {index.metric!r}")  # type: ignore[attr-defined]
        if len(index):
            raise InvalidConfigError(f"index must be empty, got one with {len(index)} rows; add them here")
        self._index_name = {HnswIndex: "hnsw", ExactIndex: "exact"}.get(type(index), "custom")
        return index

    def _make_source(self, index: str) -> CandidateSource:
        as_choice(index, "index", ("auto", "hnsw", "exact"))
        if index == "auto":
            self._fallback = hnswlib_problem()
            if self._fallback is not None:
                warnings.warn(f"searching exactly, without hnswlib: {self._fallback}", RuntimeWarning, stacklevel=3)
            index = "hnsw" if self._fallback is None else "exact"
        self._index_name = index
        if index == "exact":
            return ExactIndex(self._dim, self._metric.name)
        return HnswIndex(self._dim, self._metric.name, **self._hnsw, threads=self._threads)

    # ---- what is in it

    @property
    def config(self) -> dict[str, Any]:
        """Every setting, defaults filled in; `fallback` says why hnswlib is not used, where it is not."""
        settings = self._source.settings() if isinstance(self._source, HnswIndex) else {}
        return {
            "dim": self._dim,
            "metric": self._metric.name,
            "attention": self._attention.name,
            "options": dict(self._options),
            "index": self._index_name,
            **{name: settings[name] for name in ("M", "ef_construction", "ef", "seed") if name in settings},
            "threads": self._threads,
            "fallback": self._fallback,
        }

    def __len__(self) -> int:
        return len(self._store)

    def __contains__(self, id: object) -> bool:
        return is_one_id(id) and id in self._store.row_of

    def __repr__(self) -> str:
        return (
            f"AttentionVectorBridge({len(self):,} rows, dim={self._dim}, metric={self._metric.name!r}, "
            f"attention={self._attention.name!r}, index={self._index_name!r})"
        )

    def ids(self) -> list[Id]:
        """Return all ids in order of insertion; the order of a boolean filter.

        Returns
        -------
        list of str or int

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> bridge.ids()
        [0, 1]
        """
        with self._lock.read():
            return [id for id in self._store.ids if id is not None]

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
        with self._lock.read():
            rows = self._store.rows_of(id_list(ids))
            vectors: npt.NDArray[np.float32] = self._store.rows.data[rows]
        return vectors[0] if is_one_id(ids) else vectors

    def get_tokens(self, ids: Id | Sequence[Id]) -> list[npt.NDArray[np.float16]]:
        """Return stored token vectors.

        Parameters
        ----------
        ids : str, int or a list of them

        Returns
        -------
        list of ndarray of float16, (n_i, dt)

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
        with self._lock.read():
            tokens = self._store.tokens
            if tokens is None:
                raise InvalidInputError("this bridge stores no tokens; give them to add(vectors, ids, tokens=...)")
            return [tokens.of(row).copy() for row in self._store.rows_of(id_list(ids))]

    # ---- writes

    def add(
        self,
        vectors: npt.ArrayLike,
        ids: Sequence[Id] | npt.NDArray[Any] | None = None,
        *,
        tokens: Sequence[npt.ArrayLike | None] | None = None,
        progress: bool = True,
    ) -> list[Id]:
        """Add documents, or replace those whose ids are there already; all of them or, on an error, none.

        A replaced or deleted row is found no more, but its space is not given back before all rows are added to a new
        bridge.

        Parameters
        ----------
        vectors : array_like, (n, d)
        ids : list of str or of int, optional
            By default numbers from 0, or from the largest id so far. Of an id given twice the last one wins.
        tokens : list of array_like (n_i, dt), optional
            Token vectors of each document for `LateInteraction`, stored as float16; None for one without.
        progress : bool, default True
            Show a progress bar for long work, where stderr is a terminal.

        Returns
        -------
        list of str or int
            The ids.

        Raises
        ------
        DimensionMismatchError, InvalidInputError
            Wrong shapes, NaN (row named), zero vectors under cosine, ids of another type than those there.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> bridge.add([[1.0, 0.0], [0.0, 1.0]])
        [0, 1]
        >>> bridge.add([[1.0, 1.0]], ids=[1])
        [1]
        >>> len(bridge)
        2
        """
        matrix = as_matrix(vectors, "vectors", dim=self._dim)
        with self._lock.write():
            store = self._store
            given = store.new_ids(ids, len(matrix))
            stored = store.tokens.dim if store.tokens is not None else None
            halves = None if tokens is None else token_list(tokens, len(matrix), stored)
            last = {id: position for position, id in enumerate(given)}
            kept = sorted(last.values())
            if len(kept) < len(given):
                matrix = matrix[kept]
                halves = None if halves is None else [halves[i] for i in kept]
            rows = store.append(matrix, halves)
            self._link(matrix, rows, progress)
            replaced = store.publish([given[i] for i in kept], rows)
            if replaced:
                self._source.remove(replaced)
        return given

    def _link(self, matrix: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], progress: bool) -> None:
        if not len(rows):
            return
        if isinstance(self._source, HnswIndex):
            with progress_bar(len(rows), "linking", progress and len(rows) >= PROGRESS_FROM) as advance:
                self._source.add(matrix, rows, progress=advance)
        else:
            self._source.add(matrix, rows)

    def delete(self, ids: Id | Sequence[Id]) -> int:
        """Take documents out; all of them or, on an unknown id, none.

        Parameters
        ----------
        ids : str, int or a list of them

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
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> bridge.delete([0]), 0 in bridge
        (1, False)
        """
        with self._lock.write():
            rows = self._store.forget(id_list(ids))
            if rows:
                self._source.remove(rows)
        return len(rows)

    # ---- search

    def search(
        self,
        query: npt.ArrayLike | None = None,
        k: int = 10,
        *,
        id: Id | None = None,
        candidates: int = 100,
        filter: Any = None,
        threshold: float | None = None,
        offset: int = 0,
        exact: bool = False,
        query_tokens: npt.ArrayLike | None = None,
        query_token_weights: npt.ArrayLike | None = None,
        rerank: Stage | Sequence[Stage] = (),
    ) -> Hits:
        """Return the best k documents for one query.

        Parameters
        ----------
        query : array_like, (d,)
            Either this or `id`.
        k : int, default 10
            Where fewer documents qualify, fewer come back.
        id : str or int, optional
            Search with a stored document's vector (and tokens), leaving the document itself out: "more like this".
        candidates : int, default 100
            How many of the index's nearest rows are ranked; at least k + offset.
        filter : array_like of bool, or list of ids, optional
            What may be returned: one bool for each document in the order of `ids()`, or ids (unknown ones match
            nothing).
        threshold : float, optional
            Least final score.
        offset : int, default 0
            Skip this many of the best.
        exact : bool, default False
            Compare with every row instead of asking the index.
        query_tokens : array_like, (m, dt), optional
            The query's token vectors, for `LateInteraction`.
        query_token_weights : array_like, (m,), optional
            Weights of the query's tokens, for instance their idf; equal by default.
        rerank : Stage or list of Stage
            Stages after the attention's ranking, in this order.

        Returns
        -------
        Hits

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError, UnknownIdError

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["e", "ne", "n"])
        >>> bridge.search([1.0, 0.1], k=2).ids
        ['e', 'ne']
        >>> bridge.search(id="n", k=1).ids
        ['ne']
        >>> bridge.search([1.0, 0.1], filter=["n", "ne"], k=1).ids
        ['ne']
        """
        if (query is None) == (id is None):
            raise InvalidInputError(
                "search takes either a query or id=, " + ("neither" if query is None else "both") + " given"
            )
        with self._lock.read():
            exclude = -1
            if id is None:
                vector = as_vector(query, "query", dim=self._dim)
            else:
                if not is_one_id(id):
                    raise InvalidInputError(f"id must be one str or int, got {id!r}; search for several one by one")
                (exclude,) = self._store.rows_of(id_list(id))
                vector = self._store.rows.data[exclude]
                reads_tokens = any(stage.requires_tokens for stage in _stages(rerank))
                if query_tokens is None and reads_tokens and self._store.tokens is not None:
                    own = self._store.tokens.of(exclude)
                    query_tokens = own if len(own) else None
            request = self._request(
                vector[None],
                k,
                candidates=candidates,
                filter=filter,
                threshold=threshold,
                offset=offset,
                exact=exact,
                exclude=exclude,
                rerank=rerank,
                query_tokens=None if query_tokens is None else [query_tokens],
                query_token_weights=None if query_token_weights is None else [query_token_weights],
                threads=1,
            )
            return self._searcher().run(request)[0]

    def search_batch(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        candidates: int = 100,
        filter: Any = None,
        threshold: float | None = None,
        offset: int = 0,
        exact: bool = False,
        query_tokens: Sequence[npt.ArrayLike] | None = None,
        query_token_weights: Sequence[npt.ArrayLike | None] | None = None,
        rerank: Stage | Sequence[Stage] = (),
        threads: int | None = None,
    ) -> list[Hits]:
        """Return the best k documents for each query; the same, to the bit, as `search` for each alone.

        Parameters
        ----------
        queries : array_like, (b, d)
        k, candidates, filter, threshold, offset, exact
            As for `search`, the same for all queries.
        query_tokens : list of array_like (m_i, dt), optional
            One for each query.
        query_token_weights : list of array_like (m_i,), optional
            One for each query.
        rerank : Stage or list of Stage
            As for `search`.
        threads : int, optional
            The bridge's own number by default.

        Returns
        -------
        list of Hits

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["e", "n"])
        >>> [hits.ids for hits in bridge.search_batch([[1.0, 0.1], [0.1, 1.0]], k=1)]
        [['e'], ['n']]
        """
        matrix = as_matrix(queries, "queries", dim=self._dim)
        with self._lock.read():
            request = self._request(
                matrix,
                k,
                candidates=candidates,
                filter=filter,
                threshold=threshold,
                offset=offset,
                exact=exact,
                exclude=-1,
                rerank=rerank,
                query_tokens=query_tokens,
                query_token_weights=query_token_weights,
                threads=self._threads if threads is None else usable_threads(threads),
            )
            return self._searcher().run(request)

    def _searcher(self) -> Searcher:
        return Searcher(self._store, self._source, self._metric, self._attention, self._options)

    def _request(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        candidates: int,
        filter: Any,
        threshold: float | None,
        offset: int,
        rerank: Stage | Sequence[Stage],
        query_tokens: Any,
        query_token_weights: Any,
        **checked: Any,
    ) -> Request:
        k = as_count(k, "k")
        offset = as_count(offset, "offset", least=0)
        return Request(
            queries=queries,
            k=k,
            offset=offset,
            candidates=max(as_count(candidates, "candidates"), k + offset),
            threshold=None if threshold is None else as_number(threshold, "threshold"),
            allowed=None if filter is None else self._store.allowed_rows(filter),
            stages=_stages(rerank),
            query_tokens=self._query_tokens(len(queries), query_tokens, query_token_weights, _stages(rerank)),
            **checked,
        )

    def _query_tokens(self, count: int, tokens: Any, weights: Any, stages: Sequence[Stage]) -> Any:
        """Return checked tokens and weights for each query, where a stage reads them."""
        needing = [stage.name for stage in stages if stage.requires_tokens]
        if not needing:
            for name, given in (("query_tokens", tokens), ("query_token_weights", weights)):
                if given is not None:
                    raise InvalidConfigError(f"{name} are read by no stage; add rerank=[LateInteraction()]")
            return None
        stored = self._store.tokens
        if stored is None:
            raise InvalidInputError(
                f"{needing[0]} needs stored tokens, this bridge has none; give them to add(vectors, ids, tokens=...)"
            )
        if tokens is None:
            raise InvalidInputError(f"{needing[0]} needs the query's tokens; pass query_tokens=array (m, {stored.dim})")
        if weights is None:
            weights = [None] * count
        for name, given in (("query_tokens", tokens), ("query_token_weights", weights)):
            if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str):
                raise InvalidInputError(f"{name} must be a list of arrays, got {type(given).__name__}")
            if len(given) != count:
                raise InvalidInputError(f"{name} must have one array for each of {count} queries, got {len(given)}")
        return [check_query_tokens(t, w, stored) for t, w in zip(tokens, weights, strict=True)]

    def attention_search(self, query: npt.ArrayLike, k: int = 10, **options: Any) -> list[tuple[Id, float]]:
        """Return (id, score) pairs of `search`.

        Parameters
        ----------
        query : array_like, (d,)
        k : int, default 10
        **options : object
            As for `search`.

        Returns
        -------
        list of (id, float)

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["e", "n"])
        >>> bridge.attention_search([1.0, 0.0], k=1)
        [('e', 20.0)]
        """
        return _pairs(self.search(query, k, **options))

    def batch_attention_search(
        self, queries: npt.ArrayLike, k: int = 10, **options: Any
    ) -> list[list[tuple[Id, float]]]:
        """Return (id, score) pairs of `search_batch`.

        Parameters
        ----------
        queries : array_like, (b, d)
        k : int, default 10
        **options : object
            As for `search_batch`.

        Returns
        -------
        list of list of (id, float)

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["e", "n"])
        >>> bridge.batch_attention_search([[1.0, 0.0]], k=1)
        [[('e', 20.0)]]
        """
        return [_pairs(hits) for hits in self.search_batch(queries, k, **options)]

    # ---- disk

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything to a folder, atomically and with checksums; a failed save leaves the last one in place.

        Parameters
        ----------
        folder : path-like
            Made where missing; one that holds other things than an index is refused.

        Raises
        ------
        InvalidInputError
            The folder holds other files.
        InvalidConfigError
            The candidates come from a source of your own, which this library cannot write.
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
        if self._index_name == "custom":
            raise InvalidConfigError(
                f"index must be 'hnsw' or 'exact' for save, got a {type(self._source).__name__}; save its rows by get()"
            )
        with self._lock.read():
            config = self.config
            about = {name: config[name] for name in ("dim", "metric", "attention", "options", "index")}
            about["rows"] = len(self)
            files = self._store.files()
            if self._fallback is not None:  # a graph is built where it is opened with hnswlib
                about |= {"index": "hnsw", "hnsw": self._hnsw}
            if isinstance(self._source, HnswIndex):
                about["hnsw"] = {name: config[name] for name in ("M", "ef_construction", "ef", "seed")}
                about["longest"] = self._source.longest
                if self._store.rows.count:
                    files[_GRAPH] = self._source.write_graph
            write_snapshot(folder, _KIND, about, files)

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, mmap: bool = True, threads: int | None = None
    ) -> "AttentionVectorBridge":
        """Read a saved bridge.

        Parameters
        ----------
        folder : path-like
        mmap : bool, default True
            Map rows and tokens into memory instead of reading them; they are copied once rows are added.
        threads : int, optional
            For building and for batches.

        Returns
        -------
        AttentionVectorBridge

        Raises
        ------
        IndexCorruptError
            No index, or a damaged one: the message names the file.

        Examples
        --------
        >>> import tempfile, attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2)
        >>> _ = bridge.add([[1.0, 0.0]], ids=["a"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bridge.save(folder)
        ...     print(len(ab.AttentionVectorBridge.open(folder, mmap=False)))
        1
        """
        usable_threads(threads)

        def load(snapshot: Snapshot) -> AttentionVectorBridge:
            about = snapshot.manifest
            bridge = cls(
                about["dim"],
                about["metric"],
                about["attention"],
                index="auto" if about["index"] == "hnsw" else "exact",
                threads=threads,
                **about.get("hnsw", {}),
                **about["options"],
            )
            bridge._store = store = Store.read(snapshot.folder, about["files"], bridge._metric, mmap)
            alive = store.rows.alive
            if isinstance(bridge._source, HnswIndex) and _GRAPH in about["files"]:
                removed = set(np.flatnonzero(~alive).tolist())
                bridge._source.read_graph(snapshot.path(_GRAPH), removed, about["longest"])
            elif alive.any():
                bridge._source.add(store.rows.data[alive], np.flatnonzero(alive))
            return bridge

        return load_snapshot(folder, _KIND, load)


def _pairs(hits: Hits) -> list[tuple[Id, float]]:
    return list(zip(hits.ids, hits.scores.tolist(), strict=True))


def _stages(rerank: Any) -> tuple[Stage, ...]:
    stages = tuple(rerank) if isinstance(rerank, Iterable) else (rerank,)
    for stage in stages:
        if not isinstance(stage, Stage) or isinstance(stage, type):
            raise InvalidConfigError(
                f"rerank must be stages such as QueryExpansion() or LateInteraction(), got {stage!r}"
            )
    return stages
