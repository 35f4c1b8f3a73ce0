"""The bridge's other constructors: from an hnswlib index, from files, from DuckDB."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.hits import Id
from attnbridge.integrations.documents import PROGRESS_FROM, State
from attnbridge.integrations.graph import Graph
from attnbridge.integrations.hnswlib import HnswIndex
from attnbridge.integrations.persistent import Persistent
from attnbridge.integrations.store import Store
from attnbridge.integrations.tables import Columns, Source, from_file, from_relation, require_table
from attnbridge.mechanisms.base import Attention
from attnbridge.metric import SMALLEST_NORM, norms
from attnbridge.progress import progress_bar
from attnbridge.scoring import resolve
from attnbridge.validation import as_matrix

if TYPE_CHECKING:
    import duckdb
    import hnswlib


class Constructors(Persistent):
    """What `AttentionVectorBridge` can be made from, besides arrays."""

    @classmethod
    def from_hnswlib(
        cls,
        index: "hnswlib.Index",
        vectors: npt.ArrayLike | None = None,
        ids: Sequence[Id] | None = None,
        *,
        attention: str | Attention = "scaled_dot",
        threads: int | None = None,
        **options: Any,
    ) -> Self:
        """Take over an hnswlib index with its graph; nothing is built anew, and `index` stays as it is.

        Parameters
        ----------
        index : hnswlib.Index
        vectors : array_like, (n, d), optional
            Rows to score, in ascending order of label, deleted ones left out; by default the index's own (which
            hnswlib has normalised where its space is "cosine").
        ids : list of str or of int, optional
            Names in the same order; by default the labels.
        attention : str or Attention, default "scaled_dot"
        threads : int, optional
        **options : object
            The attention's options, and ef (breadth of a search; by default the index's, at least 100).

        Returns
        -------
        AttentionVectorBridge

        Raises
        ------
        InvalidInputError, DimensionMismatchError, InvalidConfigError

        Examples
        --------
        >>> import hnswlib, numpy as np, attnbridge as ab
        >>> index = hnswlib.Index("l2", 2)
        >>> index.init_index(10)
        >>> index.add_items(np.array([[0.0, 0.0], [3.0, 4.0]]), [7, 8])
        >>> ab.AttentionVectorBridge.from_hnswlib(index).search([3.0, 3.0], k=1).ids
        [8]
        """
        ef = options.pop("ef", None)
        source, labels, removed, own = HnswIndex.adopt(index, ef=ef, threads=threads)
        settings = source.settings()
        for name in settings:
            if name in options:
                raise InvalidConfigError(f"{name} cannot be given: it is that of the hnswlib index")
        dim, metric = settings.pop("dim"), settings.pop("metric")
        fitting = resolve(attention, {})[0].build_space == metric  # graph of a type with a metric of its own
        bridge = cls(dim, None if fitting else metric, attention, threads=threads, **settings, **options)
        live = np.setdiff1d(np.arange(len(labels)), removed)
        names = bridge._state.store.new_ids(labels[live].tolist() if ids is None else ids, len(live))
        if len(set(names)) < len(names):
            raise InvalidInputError("ids must be distinct: they name the index's rows one by one")
        if vectors is not None:
            given = as_matrix(vectors, "vectors", dim=source.dim)
            if len(given) != len(live):
                raise InvalidInputError(f"vectors must have a row for each of {len(live)} labels, got {len(given)}")
            own[live] = given
        size, space = norms(own[removed]), bridge._metric.space
        sound = (size > SMALLEST_NORM) & (size < (np.inf if space is None else space.radius))
        own[removed[~sound]] = 1.0 if space is None else 0.0  # nothing refers to them, searches come through there
        own = bridge._metric.points(own)
        bridge._state = State(
            Store.adopt(own, bridge._metric, names, live, bridge._state.store.settings),
            # the index's own "ip" is in the order of the rows
            Graph(source, len(labels), engine=bridge._engine, metric=bridge._metric if fitting else None),
        )
        bridge._link(False, False)
        return bridge

    @classmethod
    def from_parquet(
        cls,
        path: str | os.PathLike[str],
        vector: str = "embedding",
        id: str | None = "id",
        *,
        payload: Columns = None,
        progress: bool = True,
        **options: Any,
    ) -> Self:
        """Read a Parquet file; `from_file` reads other formats too.

        Parameters
        ----------
        path : path-like
        vector : str, default "embedding"
            Column of float lists.
        id : str or None, default "id"
            Column of ids; None numbers the rows from 0.
        payload : list of str or bool, optional
            Columns to keep as payload; True for all others than those two. Types go through Arrow: ENUM, UUID, JSON,
            INTERVAL, BIT and TIMETZ become text, HUGEINT a decimal, a MAP a list of key and value.
        progress : bool, default True
        **options : object
            As for the constructor, without dim.

        Returns
        -------
        AttentionVectorBridge

        Raises
        ------
        InvalidInputError
            No such file or column (the known ones are listed), vectors of mixed length (row named), NULLs.

        Examples
        --------
        >>> import pathlib, tempfile, attnbridge as ab, pyarrow as pa, pyarrow.parquet as pq
        >>> table = pa.table({"id": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]], "year": [1998, 2017]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(table, pathlib.Path(folder, "docs.parquet"))
        ...     bridge = ab.AttentionVectorBridge.from_parquet(pathlib.Path(folder, "docs.parquet"), payload=["year"])
        >>> bridge.ids(), bridge.payload("b")
        (['a', 'b'], {'year': 2017})
        """
        return cls.from_file(path, vector, id, payload=payload, progress=progress, **options)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        vector: str | None = None,
        id: str | None = None,
        *,
        payload: Columns = None,
        progress: bool = True,
        **options: Any,
    ) -> Self:
        """Read vectors from Parquet, CSV, JSON lines, npy or npz.

        Parameters
        ----------
        path : path-like
        vector, id : str, optional
            Columns of a table, arrays of a npz file; without id the rows are numbered from 0.
        payload : list of str or bool, optional
            As for `from_parquet`; of a npz file, arrays of one value a row.
        progress : bool, default True
        **options : object
            As for the constructor, without dim.

        Returns
        -------
        AttentionVectorBridge

        Raises
        ------
        InvalidInputError

        Examples
        --------
        >>> import pathlib, tempfile, numpy as np, attnbridge as ab
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(pathlib.Path(folder, "docs.npy"), np.eye(3))
        ...     bridge = ab.AttentionVectorBridge.from_file(pathlib.Path(folder, "docs.npy"))
        >>> len(bridge)
        3
        """
        return cls._from_source(from_file(path, vector, id, payload), progress, options)

    @classmethod
    def from_duckdb(
        cls,
        con: "duckdb.DuckDBPyConnection",
        table: str,
        vector: str = "embedding",
        id: str | None = "id",
        *,
        payload: Columns = None,
        progress: bool = True,
        **options: Any,
    ) -> Self:
        """Read a DuckDB table or view.

        Parameters
        ----------
        con : duckdb.DuckDBPyConnection
        table : str
        vector : str, default "embedding"
            Column of float lists or arrays.
        id : str or None, default "id"
            Column of ids; None numbers the rows from 0.
        payload : list of str or bool, optional
            Columns to keep as payload; True for all others than those two. Types go through Arrow: ENUM, UUID, JSON,
            INTERVAL, BIT and TIMETZ become text, HUGEINT a decimal, a MAP a list of key and value.
        progress : bool, default True
        **options : object
            As for the constructor, without dim.

        Returns
        -------
        AttentionVectorBridge

        Raises
        ------
        InvalidInputError
            No such table or column (the known ones are listed), vectors of mixed length (row named), NULLs.

        Examples
        --------
        >>> import duckdb, attnbridge as ab
        >>> con = duckdb.connect()
        >>> _ = con.execute("CREATE TABLE docs AS SELECT 'a' AS id, [1.0, 0.0]::FLOAT[2] AS embedding")
        >>> ab.AttentionVectorBridge.from_duckdb(con, "docs").ids()
        ['a']
        """
        import duckdb

        try:
            require_table(con, table)
            relation = con.table(table)
        except duckdb.Error as error:
            raise InvalidInputError(f"table must name a table or view: {str(error).splitlines()[0]}") from error
        return cls._from_source(from_relation(relation, vector, id, f"table {table}", payload), progress, options)

    @classmethod
    def _from_source(cls, source: Source, progress: bool, options: Mapping[str, Any]) -> Self:
        if source.dim == 0:
            next(source.batches)  # raises: the first row has no vector
            raise InvalidInputError("vectors must not be empty: row 0 has no values")
        bridge = cls(source.dim, **options)
        first = 0
        with progress_bar(source.total, "indexing", progress and source.total >= PROGRESS_FROM) as advance:
            for vectors, ids, payload in source.batches:
                try:
                    bridge.add(vectors, ids, payload=payload, progress=False)
                except InvalidInputError as error:
                    if not first:
                        raise
                    raise InvalidInputError(f"{error} (counted from row {first} of the data)") from error
                first += len(vectors)
                advance(len(vectors))
            bridge.link(progress=False)
        if len(bridge) < first:
            warnings.warn(
                f"{first - len(bridge)} of {first} rows had an id that came again; the last row of an id counts",
                UserWarning,
                stacklevel=3,
            )
        return bridge
