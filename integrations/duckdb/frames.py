"""The scores of the SQL functions for tables outside a database: frames, Arrow and Parquet files."""

import contextlib
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import AttentionError, InvalidInputError
from attnbridge.functional import attention_score
from attnbridge.integrations.duckdb.lists import Places, as_lists
from attnbridge.integrations.duckdb.pairs import as_float, fill_logits
from attnbridge.integrations.engine import quiet_connection
from attnbridge.mechanisms.base import Attention
from attnbridge.scoring import resolve
from attnbridge.validation import as_count, as_floats, as_matrix, as_vector

if TYPE_CHECKING:
    import pyarrow as pa

Scores = npt.NDArray[np.float32]

# Rows that are scored at a time.
_ROWS = 8192
_NAME = "score"


def score(
    table: Any,
    query: Any,
    column: str = "embedding",
    attention_type: str | Attention = "scaled_dot",
    k: int | None = None,
    **options: Any,
) -> Any:
    """Return a table with the score of each row's vector: what ``ruvector_attention_score`` gives in SQL, to the bit.

    Vectors that Arrow or polars hold are not copied. Of Parquet files, readers and relations with `k`, no more is held
    than a few thousand rows and the best.

    Parameters
    ----------
    table : pandas or polars DataFrame, polars LazyFrame, pyarrow Table, RecordBatch or RecordBatchReader, \
DuckDB relation, path-like, or list of path-like
        Paths are of Parquet files, or patterns such as "parts/*.parquet", whose files are read in the order of their
        names; DuckDB reads them, and its types are those of the result. A reader is read to its end, a LazyFrame is
        collected.
    query : array_like, (d,)
        With "cross", (m, d) too: token vectors. Read as float32.
    column : str, default "embedding"
        The column of vectors (d,): lists or arrays of numbers; with "cross", of lists of those too. NULL gives NULL.
    attention_type : str, default "scaled_dot"
        A name or alias from `attention_types`; a pairwise one.
    k : int, optional
        Only the rows of the best k scores, best first, of equal ones the earlier first; none without a vector.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    the kind of `table`, or a pyarrow Table for a reader, a relation or paths
        All columns, and "score" of float32 as the last, in pandas NaN for NULL. A pandas frame keeps its index.

    Raises
    ------
    DimensionMismatchError, InvalidInputError
        The message names the row, counted from 0.
    InvalidConfigError, NumericalInstabilityError

    Examples
    --------
    >>> import pyarrow as pa
    >>> from attnbridge.integrations.duckdb import score
    >>> table = pa.table({"id": ["a", "b", "c"], "embedding": [[1.0, 2.0], None, [3.0, 4.0]]})
    >>> score(table, [1.0, 2.0], scale=1.0)["score"].to_pylist()
    [5.0, None, 11.0]
    >>> score(table, [1.0, 2.0], k=1, scale=1.0).drop("embedding").to_pylist()
    [{'id': 'c', 'score': 11.0}]
    """
    count = None if k is None else as_count(k, "k")
    scorer = _Scorer(query, column, attention_type, options)
    if _is(table, "pandas", "DataFrame"):
        return _of_pandas(table, scorer, count)
    if _is(table, "polars", "LazyFrame"):
        return _of_polars(table.collect(), scorer, count).lazy()
    if _is(table, "polars", "DataFrame"):
        return _of_polars(table, scorer, count)
    return _of_arrow(table, scorer, count)


class _Scorer:
    """Scores of one column's vectors, batch after batch."""

    def __init__(self, query: Any, column: str, attention_type: str | Attention, options: dict[str, Any]) -> None:
        self.kind, self.checked = resolve(attention_type, options)
        if not self.kind.is_pairwise(self.checked):
            attention_score([0.0], [0.0], attention_type, **options)  # which says why not
        vector = as_floats(query, "query")
        several = self.kind.token_logits is not None and vector.ndim == 2
        self.query = as_matrix(vector, "query") if several else as_vector(vector, "query")
        self.column, self.attention_type, self.options = column, attention_type, options
        self.done = 0

    def __call__(self, vectors: "pa.Array") -> "tuple[Scores, npt.NDArray[np.bool_]]":
        """Return the scores of the rows that come next, and which are not NULL."""
        import pyarrow as pa

        keys = as_lists(pa.chunked_array([vectors]), "key")

        def one(place: int) -> float:
            try:
                score = attention_score(self.query, keys.value(place), self.attention_type, **self.options)
                as_float(np.array([score]))
            except AttentionError as error:
                row = f"row {self.done + place} of column {self.column!r}"
                raise type(error)(f"{error} ({row})") from error
            return score

        out, valid = np.zeros(len(keys)), np.ones(len(keys), np.bool_) if keys.valid is None else keys.valid
        places: Places = np.flatnonzero(valid)
        if len(places):
            fill_logits(out, places, self.kind, self.checked, self.query, keys, one)
        try:
            scores = as_float(out)
        except AttentionError:
            for place in places:
                one(int(place))  # which says whose does not fit
            raise
        self.done += len(keys)
        return scores, valid

    def all(self, arrays: "Iterable[pa.Array]") -> "tuple[Scores, npt.NDArray[np.bool_]]":
        """Return the scores of a whole column, and which are not NULL."""
        made = [self(part) for array in arrays for part in _sliced(array)]
        if not made:
            return np.empty(0, np.float32), np.empty(0, np.bool_)
        return np.concatenate([scores for scores, _ in made]), np.concatenate([valid for _, valid in made])

    def require(self, names: Sequence[Any]) -> None:
        """Refuse a table without the column, or with one of the name that the scores are to have."""
        if list(names).count(self.column) != 1:
            raise InvalidInputError(
                f"column must name one column of the table, got {self.column!r}; its columns are: "
                f"{', '.join(map(str, names))}"
            )
        if _NAME in names:
            raise InvalidInputError(f"table must have no column {_NAME!r}, as the scores are called; rename or drop it")

    def require_vectors(self, kind: "pa.DataType") -> None:
        """Refuse a column of anything but lists of numbers."""
        import pyarrow as pa

        types, depth, inner = pa.types, 0, getattr(kind, "storage_type", kind)
        views = types.is_list_view, types.is_large_list_view
        while any(is_kind(inner) for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list, *views)):
            depth, inner = depth + 1, inner.value_type
        numbers = types.is_floating(inner) or types.is_integer(inner) or types.is_decimal(inner)
        if not types.is_null(inner) and (depth == 0 or not numbers):
            raise InvalidInputError(
                f"column must name one of vectors, lists or arrays of numbers, but {self.column!r} is of {kind}"
            )


def _is(table: Any, package: str, name: str) -> bool:
    """Return whether an object is of a class, also a derived one, of a package that may not be installed."""
    return any(
        kind.__module__.partition(".")[0] == package and kind.__qualname__ == name for kind in type(table).__mro__
    )


def _sliced(array: Any) -> Iterator[Any]:
    """Yield an array, or a batch, in parts, without a copy."""
    for start in range(0, len(array), _ROWS):
        yield array.slice(start, _ROWS)


def _best(scores: Scores, valid: npt.NDArray[np.bool_], k: int) -> Places:
    """Return the places of the best k scores, best first."""
    places: Places = np.flatnonzero(valid)
    if len(places) > k:  # the k-th best score, and all that are as good
        places = places[scores[places] >= np.partition(scores[places], len(places) - k)[len(places) - k]]
    return places[np.argsort(-scores[places], kind="stable")[:k]]


def _of_pandas(frame: Any, scorer: _Scorer, k: int | None) -> Any:
    scorer.require(list(frame.columns))
    scores, valid = scorer.all(_pandas_arrays(frame[scorer.column], scorer))
    if k is not None:
        best = _best(scores, valid, k)
        return frame.iloc[best].assign(**{_NAME: scores[best]})
    return frame.assign(**{_NAME: np.where(valid, scores, np.float32(np.nan))})


def _pandas_arrays(series: Any, scorer: _Scorer) -> "Iterator[pa.Array]":
    """Yield a column of a pandas frame as Arrow has it: its own arrays, or made of a few thousand Python objects."""
    held = series.array
    if hasattr(held, "__arrow_array__"):
        column = held.__arrow_array__()
        scorer.require_vectors(column.type)
        yield from _chunks(column)
        return
    if series.dtype != object:
        raise InvalidInputError(
            f"column must name one of vectors, lists or arrays of numbers, but {scorer.column!r} is of {series.dtype}"
        )
    is_missing = sys.modules["pandas"].isna
    for start in range(0, len(series), _ROWS):
        rows = [None if not hasattr(row, "__len__") and is_missing(row) else row for row in held[start : start + _ROWS]]
        array = _as_array(rows, start, scorer)
        scorer.require_vectors(array.type)
        yield array


def _as_array(rows: list[Any], first: int, scorer: _Scorer) -> Any:
    """Return rows of a column of Python objects as an Arrow array."""
    import pyarrow as pa

    lists = [list(row) if isinstance(row, np.ndarray) and row.ndim > 1 else row for row in rows]
    refusals = (pa.ArrowException, TypeError, ValueError, OverflowError)
    with contextlib.suppress(*refusals):
        return pa.array(lists)
    try:  # rows of several types
        return pa.array([None if row is None else np.asarray(row, np.float64) for row in lists])
    except refusals:
        for place, row in enumerate(lists):
            try:
                kind = pa.array([row]).type
                if row is not None and not pa.types.is_list(kind):
                    raise TypeError(f"it is a {type(row).__name__}")
            except refusals as error:
                raise InvalidInputError(
                    f"column must name one of vectors, lists or arrays of numbers, but row {first + place} of "
                    f"{scorer.column!r} is none: {error}"
                ) from error
        raise


def _chunks(column: Any) -> "list[pa.Array]":
    """Return the arrays of a column, the storage of an extension type's."""
    return [getattr(array, "storage", array) for array in getattr(column, "chunks", [column])]


def _of_polars(frame: Any, scorer: _Scorer, k: int | None) -> Any:
    import pyarrow as pa

    scorer.require(frame.columns)
    polars = sys.modules["polars"]
    column = frame.select(scorer.column).to_arrow().column(0)
    scorer.require_vectors(column.type)
    scores, valid = scorer.all(_chunks(column))
    if k is not None:
        best = _best(scores, valid, k)
        return frame[best].with_columns(polars.Series(_NAME, scores[best]))
    made = polars.from_arrow(pa.array(scores, mask=~valid))
    return frame.with_columns(made.alias(_NAME))


def _of_arrow(table: Any, scorer: _Scorer, k: int | None) -> Any:
    import pyarrow as pa

    schema, batches = _batches(table)
    scorer.require(schema.names)
    scorer.require_vectors(schema.field(scorer.column).type)
    if k is None and isinstance(table, pa.Table | pa.RecordBatch):
        scores, valid = scorer.all(_chunks(table.column(scorer.column)))
        return table.append_column(_NAME, pa.array(scores, mask=~valid))
    kept = _Kept(schema, k)
    for batch in batches:
        for part in [batch] if k is None else _sliced(batch):
            kept.add(part, *scorer.all(_chunks(part.column(scorer.column))))
    made = kept.table()
    if not isinstance(table, pa.RecordBatch):
        return made
    best = made.combine_chunks().to_batches()
    return best[0] if best else table.slice(0, 0).append_column(_NAME, pa.array([], pa.float32()))


def _batches(table: Any) -> "tuple[pa.Schema, Iterable[pa.RecordBatch]]":
    """Return the columns of a table and its rows, a batch at a time."""
    import duckdb
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table.schema, table.to_batches()
    if isinstance(table, pa.RecordBatch):
        return table.schema, [table]
    if isinstance(table, pa.RecordBatchReader):
        return table.schema, table
    if isinstance(table, duckdb.DuckDBPyRelation):
        reader = table.to_arrow_reader(_ROWS)
        return reader.schema, reader
    if isinstance(table, str | os.PathLike):
        return _parquet([table])
    if isinstance(table, list | tuple) and table and all(isinstance(path, str | os.PathLike) for path in table):
        return _parquet(table)
    raise InvalidInputError(
        "table must be a pandas or polars frame, a pyarrow Table, RecordBatch or RecordBatchReader, a DuckDB relation "
        f"or paths of Parquet files, got {type(table).__name__}"
    )


def _parquet(paths: Sequence[str | os.PathLike[str]]) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Return the columns of Parquet files and their rows, as DuckDB reads them."""
    import duckdb

    files = [file for path in paths for file in _files(os.fspath(path))]
    con = quiet_connection(threads=1)  # a row group in memory for each
    try:
        reader = con.read_parquet(files).to_arrow_reader(_ROWS)
    except duckdb.Error as error:
        raise _unreadable(paths, error) from error
    return reader.schema, _read(reader, paths)


def _read(reader: "pa.RecordBatchReader", paths: Sequence[Any]) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    try:
        yield from reader
    except (pa.ArrowException, OSError) as error:  # pyarrow wraps what DuckDB finds in a later batch
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise _unreadable(paths, error) from error


def _unreadable(paths: Sequence[Any], error: Exception) -> InvalidInputError:
    reason = str(error).strip().splitlines()[0]
    return InvalidInputError(f"{', '.join(map(str, paths))} cannot be read as Parquet: {reason}")


def _files(path: str) -> list[str]:
    """Return the files of a path, itself or what it is a pattern of, as DuckDB takes names that are no patterns."""
    if "://" in path:
        return [path]
    if Path(path).is_dir():
        raise InvalidInputError(f"table must be Parquet files, but {path} is a folder; pass {Path(path, '*.parquet')}")
    found = [path] if Path(path).exists() else []
    if not found and glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (of any root)
    if not found:
        raise InvalidInputError(f"table must be Parquet files, but {path} does not exist")
    return [re.sub(r"([*?[])", r"[\1]", name) for name in found]


class _Kept:
    """Rows of a table with their scores: the best k of those that come, or all."""

    def __init__(self, schema: "pa.Schema", k: int | None) -> None:
        self._schema, self._k = schema, k
        self._batches: list[pa.RecordBatch] = []
        self._scores: list[Scores] = []
        self._valid: list[npt.NDArray[np.bool_]] = []
        self._count = 0

    def add(self, batch: "pa.RecordBatch", scores: Scores, valid: npt.NDArray[np.bool_]) -> None:
        """Take in more rows."""
        import pyarrow as pa

        if self._k is not None:
            places = np.sort(_best(scores, valid, self._k))
            if len(places) == 0:
                return
            batch, scores, valid = batch.take(pa.array(places)), scores[places], valid[places]
        self._batches.append(batch)
        self._scores.append(scores)
        self._valid.append(valid)
        self._count += len(scores)
        if self._k is not None and self._count > 2 * self._k + _ROWS:
            self._cut()

    def _cut(self) -> None:
        """Let go of all rows but the best."""
        import pyarrow as pa

        scores, valid = np.concatenate(self._scores), np.concatenate(self._valid)
        best = _best(scores, valid, self._k or 0)
        kept = pa.Table.from_batches(self._batches, self._schema).take(pa.array(best))
        self._batches, self._scores, self._valid = kept.to_batches(), [scores[best]], [valid[best]]
        self._count = len(best)

    def table(self) -> "pa.Table":
        """Return the rows with their scores, the best first where only those were kept."""
        import pyarrow as pa

        if self._k is not None and self._batches:
            self._cut()
        parts = [pa.array(scores, mask=~valid) for scores, valid in zip(self._scores, self._valid, strict=True)]
        made = pa.Table.from_batches(self._batches, self._schema)
        return made.append_column(_NAME, pa.chunked_array(parts, pa.float32()))
