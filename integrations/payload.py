"""Payload: typed columns beside the vectors, immutable, in Arrow."""

import base64
import os
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, IndexCorruptError, InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

# A chunk of text addresses its bytes with 31 bits; merging stops well below.
_MOST_CHUNK_BYTES = 2**30
_SUPPORTED = "bool, int, float, decimal, text, binary, date, time, timestamp, duration, list and struct"
_SCALARS = (str, bytes, bool, int, float, Decimal, date, time, timedelta, np.generic, type(None))


def _plain_type(dtype: "pa.DataType") -> "pa.DataType | None":
    """Return the type that a column of `dtype` is stored as, or None where it cannot be."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(dtype):
        return _plain_type(dtype.value_type)
    if types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype):
        inner = _plain_type(dtype.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_struct(dtype):
        fields = [dtype.field(i) for i in range(dtype.num_fields)]
        inners = [_plain_type(field.type) for field in fields]
        names = {field.name for field in fields}
        if None in inners or not fields or len(names) < len(fields):  # Parquet has no struct without fields
            return None
        return pa.struct([pa.field(field.name, inner) for field, inner in zip(fields, inners, strict=True)])
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype):
        return pa.string()
    if types.is_binary(dtype) or types.is_large_binary(dtype) or types.is_binary_view(dtype):
        return pa.binary()
    if types.is_fixed_size_binary(dtype) and not types.is_decimal(dtype):
        return pa.binary()
    if types.is_decimal(dtype):
        return pa.decimal128(dtype.precision, dtype.scale) if dtype.precision <= 38 else None
    if types.is_float16(dtype):
        return pa.float32()
    if types.is_date(dtype):
        return pa.date32()
    plain = (
        types.is_null(dtype)
        or types.is_boolean(dtype)
        or types.is_integer(dtype)
        or types.is_floating(dtype)
        or types.is_time(dtype)
        or types.is_timestamp(dtype)
        or types.is_duration(dtype)
    )
    return dtype if plain else None


def _python_type(dtype: "pa.DataType") -> "pa.DataType":
    """Return `dtype` with microseconds for nanoseconds, which Python's own types do not hold."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_list(dtype):
        return pa.list_(_python_type(dtype.value_type))
    if types.is_struct(dtype):
        fields = [dtype.field(i) for i in range(dtype.num_fields)]
        return pa.struct([pa.field(field.name, _python_type(field.type)) for field in fields])
    if types.is_timestamp(dtype) and dtype.unit == "ns":
        return pa.timestamp("us", dtype.tz)
    if types.is_duration(dtype) and dtype.unit == "ns":
        return pa.duration("us")
    if types.is_time64(dtype):
        return pa.time64("us")
    return dtype


def _finer(a: str, b: str) -> str:
    units = ("s", "ms", "us", "ns")
    return max(a, b, key=units.index)


def _common_type(a: "pa.DataType", b: "pa.DataType") -> "pa.DataType | None":
    """Return the type that holds every value of both, or None; whether the values at hand fit, the cast says."""
    import pyarrow as pa
    from pyarrow import types

    if a == b or types.is_null(b):
        return a
    if types.is_null(a):
        return b
    if types.is_integer(a) and types.is_integer(b):
        if types.is_signed_integer(a) == types.is_signed_integer(b):
            return a if a.bit_width > b.bit_width else b
        signed, unsigned = (a, b) if types.is_signed_integer(a) else (b, a)
        width = max(signed.bit_width, 2 * unsigned.bit_width)
        return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(width)
    numbers = [types.is_integer(t) or types.is_floating(t) for t in (a, b)]
    if all(numbers):
        return pa.float64()
    if types.is_decimal(a) and types.is_decimal(b):
        scale = max(a.scale, b.scale)
        precision = max(a.precision - a.scale, b.precision - b.scale) + scale
        return pa.decimal128(precision, scale) if precision <= 38 else None
    if types.is_timestamp(a) and types.is_timestamp(b) and a.tz == b.tz:
        return pa.timestamp(_finer(a.unit, b.unit), a.tz)
    if types.is_duration(a) and types.is_duration(b):
        return pa.duration(_finer(a.unit, b.unit))
    if types.is_time(a) and types.is_time(b):
        unit = _finer(a.unit, b.unit)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    for day, moment in ((a, b), (b, a)):
        if types.is_date(day) and types.is_timestamp(moment) and moment.tz is None:
            return moment
    if types.is_list(a) and types.is_list(b):
        inner = _common_type(a.value_type, b.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_struct(a) and types.is_struct(b):
        fields = {a.field(i).name: a.field(i).type for i in range(a.num_fields)}
        for i in range(b.num_fields):
            name, inner = b.field(i).name, b.field(i).type
            fields[name] = _common_type(fields[name], inner) if name in fields else inner
        return None if None in fields.values() else pa.struct(list(fields.items()))
    return None


def _converted(array: "pa.Array", dtype: "pa.DataType") -> "pa.Array":
    """Cast without loss; a struct's fields are matched by name, those it lacks are NULL."""
    import pyarrow as pa
    from pyarrow import types

    if array.type == dtype:
        return array
    if types.is_struct(dtype):
        names = [array.type.field(i).name for i in range(array.type.num_fields)]
        parts = []
        for i in range(dtype.num_fields):
            field = dtype.field(i)
            part = array.field(names.index(field.name)) if field.name in names else pa.nulls(len(array))
            parts.append(_converted(part, field.type))
        return pa.StructArray.from_arrays(parts, fields=list(dtype), mask=array.is_null())
    if types.is_list(dtype) and types.is_list(array.type):
        whole = array if array.offset == 0 else array.take(pa.array(np.arange(len(array))))  # no slices below
        values = _converted(whole.values, dtype.value_type)
        return pa.ListArray.from_arrays(whole.offsets, values, type=dtype, mask=whole.is_null())
    return array.cast(dtype)


def _columns(payload: Any, name: str) -> list[tuple[Any, Any]]:
    """Return the columns of a dict or a table of any kind as (name, values)."""
    import pyarrow as pa

    if isinstance(payload, Mapping):
        return list(payload.items())
    if isinstance(payload, pa.RecordBatch | pa.Table):
        return list(zip(payload.schema.names, payload.columns, strict=True))
    if hasattr(payload, "iloc") and hasattr(payload, "columns"):  # pandas
        return [(column, payload.iloc[:, i]) for i, column in enumerate(payload.columns)]
    if hasattr(payload, "get_columns") and hasattr(payload, "schema"):  # polars
        return [(series.name, series) for series in payload.get_columns()]
    raise InvalidInputError(
        f"{name} must be a dict of columns or a pandas, polars or pyarrow table, got {type(payload).__name__}; "
        'write {"column": [values]}'
    )


def _check_names(names: list[Any], name: str) -> None:
    seen: dict[str, str] = {}
    for column in names:
        if not isinstance(column, str) or not column or not column.isprintable():
            raise InvalidInputError(
                f"{name} must name its columns with printable text that is not empty, got {column!r}; rename it"
            )
        folded = column.casefold()
        if folded == "id":
            raise InvalidInputError(f"{name} must not have a column {column!r}: id is the document's id; rename it")
        if folded in seen:
            raise InvalidInputError(
                f"{name} must have distinct column names, without regard to case: got {seen[folded]!r} and "
                f"{column!r}; rename one"
            )
        seen[folded] = column


def _arrow(values: Any) -> "pa.ChunkedArray | pa.Array | None":
    """Return a column's values in Arrow, copied where their owner may change them; None for what is no column."""
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray):
        if values.ndim == 0:
            return None
        if values.ndim > 1 or values.dtype.kind not in "biufmM":
            return pa.array(list(values) if values.ndim > 1 else values.tolist())
        native = np.ma.getdata(values).astype(values.dtype.newbyteorder("="))  # a copy
        return pa.array(native, mask=np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None)
    if hasattr(values, "iloc"):  # pandas: NaN stands for NULL
        return pa.array(values.copy(), from_pandas=True)
    if hasattr(values, "to_arrow"):  # polars, whose Object columns would come as addresses
        return None if str(values.dtype) == "Object" else values.to_arrow()
    if isinstance(values, list | tuple | range):
        return pa.array(values)
    return None


def _odd_one(values: Any) -> str:
    """Say at which position a column's values change their type, where that is so."""
    first = None
    for position, value in enumerate(values if isinstance(values, list | tuple) else []):
        if value is None:
            continue
        first = type(value) if first is None else first
        if type(value) is not first:
            return f"position {position} is {value!r} ({type(value).__name__}) after {first.__name__}"
    return ""


def _column(values: Any, column: str, count: int, name: str, scalars: bool) -> "pa.ChunkedArray":
    """Return one column, checked and of a type that can be stored."""
    import pyarrow as pa

    what = f"{name} column {column!r}"
    repeated = scalars and isinstance(values, _SCALARS)
    try:
        array = _arrow(np.array([values]) if isinstance(values, np.generic) else [values]) if repeated else None
        array = _arrow(values) if array is None else array
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = _odd_one(values) or str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"{what} must hold values of one type ({_SUPPORTED}): {reason}; convert them to one type"
        ) from error
    if array is None:
        raise InvalidInputError(
            f"{what} must be a list, a numpy array, a pandas or polars Series or an Arrow array, "
            f"got {type(values).__name__}; put the values of {count} rows into a list"
        )
    if repeated:
        array = pa.nulls(count) if array[0].as_py() is None else pa.repeat(array[0], count)
    if len(array) != count:
        raise DimensionMismatchError(f"{what} must have one value for each of {count} rows, got {len(array)}")
    dtype = _plain_type(array.type)
    if dtype is None:
        raise InvalidInputError(f"{what} must be {_SUPPORTED}, not {array.type}; convert it to text")
    try:
        if pa.types.is_timestamp(dtype):
            pa.scalar(0, dtype).as_py()  # a time zone that Python does not know
        stored = array.cast(dtype)
    except (pa.ArrowException, KeyError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InvalidInputError(f"{what} cannot be stored as {dtype}: {reason}; convert it to text") from error
    return stored if isinstance(stored, pa.ChunkedArray) else pa.chunked_array([stored], dtype)


def as_table(payload: Any, count: int, *, name: str = "payload", scalars: bool = False) -> "pa.Table":
    """Return payload for `count` rows as an Arrow table of checked names and types.

    Parameters
    ----------
    payload : dict, pandas.DataFrame, polars.DataFrame, pyarrow.Table or pyarrow.RecordBatch
        A dict holds a list, numpy array, Series or Arrow array of `count` values for each column.
    count : int
    name : str
        What errors call it.
    scalars : bool
        Let a dict's value be one scalar too, repeated for all rows.

    Returns
    -------
    pyarrow.Table
        A table without columns has no rows.

    Raises
    ------
    InvalidInputError
        A name that is empty, not printable, taken or reserved (id), or a column that is not of one supported type.
    DimensionMismatchError
        A column that does not have `count` values.

    Examples
    --------
    >>> from attnbridge.integrations.payload import as_table
    >>> as_table({"year": [1999, 2004], "lang": "en"}, 2, scalars=True).to_pylist()
    [{'year': 1999, 'lang': 'en'}, {'year': 2004, 'lang': 'en'}]
    """
    import pyarrow as pa

    columns = _columns(payload, name)
    _check_names([column for column, _ in columns], name)
    return pa.table({column: _column(values, column, count, name, scalars) for column, values in columns})


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
    >>> from attnbridge.integrations.payload import Payload, as_table
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
            common = _common_type(types[name], dtype) if name in types else dtype
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
                arrays.append(_converted(given[name], dtype))
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
        plain = pa.schema([(field.name, _python_type(field.type)) for field in table.schema])
        records: list[dict[str, Any]] = table.cast(plain, safe=False).to_pylist()
        return records

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
