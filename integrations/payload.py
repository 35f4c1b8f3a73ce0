"""Payload: typed columns beside the vectors, immutable, in Arrow."""

import base64
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import IndexCorruptError, InvalidInputError
from attnbridge.integrations.columns import common_type, converted, python_type

if TYPE_CHECKING:
    import pyarrow as pa

# A chunk of text addresses its bytes with 31 bits; merging stops well below.
_MOST_CHUNK_BYTES = 2**30


class _Chunk(NamedTuple):
    """Consecutive rows: an array for each column, and the bytes of all."""

    rows: int
    arrays: "tuple[pa.Array, ...]"
    nbytes: int


def _chunk(rows: int, arrays: "list[pa.Array]") -> _Chunk:
    return _Chunk(rows, tuple(arrays), sum(array.nbytes for array in arrays))


def _merged(chunks: list[_Chunk]) -> tuple[_Chunk, ...]:
    """Merge chunks from the end until each has at least twice the rows of the next: O(log n) chunks and copies."""
    import pyarrow as pa

    first = len(chunks) - 1
    rows, nbytes = (chunks[-1].rows, chunks[-1].nbytes) if chunks else (0, 0)
    while first > 0 and chunks[first - 1].rows < 2 * rows and chunks[first - 1].nbytes + nbytes <= _MOST_CHUNK_BYTES:
        first -= 1
        rows, nbytes = rows + chunks[first].rows, nbytes + chunks[first].nbytes
    tail = chunks[max(first, 0) :]
    if len(tail) > 1:
        tail = [_chunk(rows, [pa.concat_arrays(parts) for parts in zip(*(c.arrays for c in tail), strict=True)])]
    return (*chunks[: max(first, 0)], *tail)


class Payload:
    """Typed columns of a number of rows; immutable: what changes it returns another one.

    Parameters
    ----------
    schema : pyarrow.Schema
    chunks : sequence of _Chunk
        All rows, in order.

    Examples
    --------
    >>> from attnbridge.integrations.columns import as_table
    >>> from attnbridge.integrations.payload import Payload
    >>> payload = Payload.empty(1).append(as_table({"year": [1999]}, 1), 1)
    >>> payload.records([0, 1])
    [{'year': None}, {'year': 1999}]
    """

    def __init__(self, schema: "pa.Schema", chunks: tuple[_Chunk, ...]) -> None:
        self.schema = schema
        self._chunks = chunks
        self._rows = sum(chunk.rows for chunk in chunks)

    @classmethod
    def empty(cls, rows: int) -> "Payload":
        """Return `rows` rows without columns."""
        import pyarrow as pa

        return cls(pa.schema([]), (_Chunk(rows, (), 0),) if rows else ())

    @classmethod
    def _of(cls, table: "pa.Table", rows: int) -> "Payload":
        if not table.num_columns:
            return cls.empty(rows)
        chunks: tuple[_Chunk, ...] = ()
        for batch in table.to_batches():
            chunks = _merged([*chunks, _chunk(batch.num_rows, batch.columns)])
        return cls(table.schema, chunks)

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return list(self.schema.names)

    @property
    def nbytes(self) -> int:
        """The bytes that the columns take."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def __len__(self) -> int:
        return self._rows

    def _joined(self, given: "pa.Schema") -> "pa.Schema":
        """Return the schema of the stored columns and those given."""
        import pyarrow as pa

        folded = {name.casefold(): name for name in self.schema.names}
        types = dict(zip(self.schema.names, self.schema.types, strict=True))
        for name, dtype in zip(given.names, given.types, strict=True):
            stored = folded.get(name.casefold(), name)
            if stored != name:
                raise InvalidInputError(
                    f"payload column {name!r} must be written as the stored column {stored!r}: names differ in "
                    "more than case; rename it"
                )
            common = common_type(types[name], dtype) if name in types else dtype
            if common is None:
                raise InvalidInputError(
                    f"payload column {name!r} must be {types[name]} as stored, got {dtype}; convert it, or choose "
                    "another column name"
                )
            types[name] = common
        return (
            self.schema
            if types == dict(zip(self.schema.names, self.schema.types, strict=True))
            else pa.schema(list(types.items()))
        )

    def _widened(self, schema: "pa.Schema") -> list[_Chunk]:
        """Return the chunks with the columns and types of `schema`."""
        return (
            list(self._chunks)
            if schema is self.schema
            else [
                _chunk(chunk.rows, self._arrays(chunk.rows, dict(zip(self.names, chunk.arrays, strict=True)), schema))
                for chunk in self._chunks
            ]
        )

    @staticmethod
    def _arrays(rows: int, given: "dict[str, pa.Array]", schema: "pa.Schema") -> "list[pa.Array]":
        import pyarrow as pa

        arrays = []
        for name, dtype in zip(schema.names, schema.types, strict=True):
            if name not in given:
                arrays.append(pa.nulls(rows, dtype))
                continue
            try:
                arrays.append(converted(given[name], dtype))
            except pa.ArrowInvalid as error:
                reason = str(error).strip().partition("\n")[0]
                raise InvalidInputError(
                    f"payload column {name!r} must not lose values on the way from {given[name].type} to {dtype}: "
                    f"{reason}; convert them, or choose another column name"
                ) from error
        return arrays

    def append(self, table: "pa.Table | None", count: int) -> "Payload":
        """Return this payload with `count` more rows; a column that either side lacks is NULL there.

        Parameters
        ----------
        table : pyarrow.Table or None
            From `as_table`; None for rows without payload.
        count : int

        Returns
        -------
        Payload

        Raises
        ------
        InvalidInputError
            A column whose values the stored type does not take, nor a wider one both.
        """
        if count == 0 and (table is None or not table.num_columns):
            return self
        schema = self.schema if table is None else self._joined(table.schema)
        chunks = self._widened(schema)
        if count:
            columns = {} if table is None else dict(zip(table.schema.names, table.columns, strict=True))
            whole = {name: _as_one(column) for name, column in columns.items()}
            chunks.append(_chunk(count, self._arrays(count, whole, schema)))
        return Payload(schema, _merged(chunks))

    def update(self, rows: npt.NDArray[np.int64], table: "pa.Table") -> "Payload":
        """Return this payload with other values in some rows; a new column is NULL elsewhere.

        Parameters
        ----------
        rows : ndarray of int64 (m,)
            Distinct row numbers.
        table : pyarrow.Table
            From `as_table`, m rows in the order of `rows`.

        Returns
        -------
        Payload

        Raises
        ------
        InvalidInputError
            A column whose values the stored type does not take, nor a wider one both.
        """
        import pyarrow as pa

        schema = self._joined(table.schema)
        chunks = self._widened(schema)
        if not table.num_columns or not len(rows):
            return Payload(schema, tuple(chunks))
        given = {name: _as_one(column) for name, column in zip(table.schema.names, table.columns, strict=True)}
        fields = pa.schema([schema.field(name) for name in given])
        values = dict(zip(given, self._arrays(len(rows), given, fields), strict=True))
        start = 0
        for i, chunk in enumerate(chunks):
            here = np.flatnonzero((rows >= start) & (rows < start + chunk.rows))
            if len(here):
                source = np.arange(chunk.rows)
                source[rows[here] - start] = chunk.rows + np.arange(len(here))
                arrays = list(chunk.arrays)
                for name, array in values.items():
                    column = schema.names.index(name)
                    arrays[column] = pa.concat_arrays([arrays[column], array.take(pa.array(here))]).take(
                        pa.array(source)
                    )
                chunks[i] = _chunk(chunk.rows, arrays)
            start += chunk.rows
        return Payload(schema, tuple(chunks))

    def take(self, rows: npt.NDArray[np.int64]) -> "Payload":
        """Return a payload of the given rows, in that order."""
        import pyarrow as pa

        if len(rows) and not (np.diff(rows) > 0).all():
            return Payload._of(self.table(rows), len(rows))
        chunks: tuple[_Chunk, ...] = ()
        start = 0
        for chunk in self._chunks:  # each by itself: together their text may be beyond one array's 2 GB
            low, high = np.searchsorted(rows, (start, start + chunk.rows))
            if high > low:
                index = pa.array(rows[low:high] - start)
                chunks = _merged([*chunks, _chunk(high - low, [array.take(index) for array in chunk.arrays])])
            start += chunk.rows
        return Payload(self.schema, chunks)

    def records(self, rows: Any) -> list[dict[str, Any]]:
        """Return the given rows as dicts of Python values, with every column; None stands for NULL."""
        import pyarrow as pa

        if not self.schema.names:
            return [{} for _ in rows]
        table = self.table(np.asarray(rows, np.int64))
        plain = pa.schema([(field.name, python_type(field.type)) for field in table.schema])
        records: list[dict[str, Any]] = table.cast(plain, safe=False).to_pylist()
        return records

    def values(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> list[Any]:
        """Return one column's values, of all rows where none are named."""
        import pyarrow as pa

        place = self.names.index(name)
        column = pa.chunked_array([chunk.arrays[place] for chunk in self._chunks], self.schema.field(place).type)
        column = column if rows is None else column.take(pa.array(rows))
        out: list[Any] = column.cast(python_type(column.type), safe=False).to_pylist()
        return out

    def table(self, rows: npt.NDArray[np.int64] | None = None) -> "pa.Table":
        """Return all rows, or the given ones in that order, as an Arrow table (no rows where it has no columns)."""
        import pyarrow as pa

        columns = [
            pa.chunked_array([chunk.arrays[i] for chunk in self._chunks], dtype)
            for i, dtype in enumerate(self.schema.types)
        ]
        table = pa.Table.from_arrays(columns, schema=self.schema)
        return table if rows is None else table.take(pa.array(rows))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, from which `read` makes the same payload."""
        import pyarrow.parquet as pq

        stored = {"rows": str(len(self)), "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode()}
        table = self.table().replace_schema_metadata({f"attnbridge.{key}": value for key, value in stored.items()})
        pq.write_table(table, os.fspath(path), write_page_checksum=True)

    @classmethod
    def read(cls, path: str | os.PathLike[str], rows: int) -> "Payload":
        """Read what `write` wrote of `rows` rows.

        Parameters
        ----------
        path : path-like
        rows : int

        Returns
        -------
        Payload

        Raises
        ------
        IndexCorruptError
            No such file, a damaged one, or one of another number of rows.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(os.fspath(path), page_checksum_verification=True) as file:
                stored = file.schema_arrow.metadata or {}
                found = int(stored[b"attnbridge.rows"])
                if found != rows or (file.schema_arrow.names and file.metadata.num_rows != rows):
                    raise IndexCorruptError(f"{path} must hold the payload of {rows} rows, it has {found}")
                schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored[b"attnbridge.schema"])))
                return cls._of(file.read().replace_schema_metadata(None).cast(schema), rows)
        except IndexCorruptError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise IndexCorruptError(f"{path} cannot be read as a payload: {reason}; restore it") from error


def _as_one(column: "pa.ChunkedArray") -> "pa.Array":
    import pyarrow as pa

    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])
