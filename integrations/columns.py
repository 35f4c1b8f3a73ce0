"""Columns of a payload as users give them, and the types that they are stored as."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbridge.errors import DimensionMismatchError, InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

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


def python_type(dtype: "pa.DataType") -> "pa.DataType":
    """Return `dtype` with microseconds for nanoseconds, which Python's own types do not hold."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_list(dtype):
        return pa.list_(python_type(dtype.value_type))
    if types.is_struct(dtype):
        fields = [dtype.field(i) for i in range(dtype.num_fields)]
        return pa.struct([pa.field(field.name, python_type(field.type)) for field in fields])
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


def common_type(a: "pa.DataType", b: "pa.DataType") -> "pa.DataType | None":
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
        inner = common_type(a.value_type, b.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_struct(a) and types.is_struct(b):
        fields = {a.field(i).name: a.field(i).type for i in range(a.num_fields)}
        for i in range(b.num_fields):
            name, inner = b.field(i).name, b.field(i).type
            fields[name] = common_type(fields[name], inner) if name in fields else inner
        return None if None in fields.values() else pa.struct(list(fields.items()))
    return None


def converted(array: "pa.Array", dtype: "pa.DataType") -> "pa.Array":
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
            parts.append(converted(part, field.type))
        return pa.StructArray.from_arrays(parts, fields=list(dtype), mask=array.is_null())
    if types.is_list(dtype) and types.is_list(array.type):
        whole = array if array.offset == 0 else array.take(pa.array(np.arange(len(array))))  # no slices below
        values = converted(whole.values, dtype.value_type)
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
        made = pa.array(values)
        if pa.types.is_date(made.type) or pa.types.is_timestamp(made.type):
            _require_one_kind_of_time(values)
        return made
    return None


def _require_one_kind_of_time(values: Any) -> None:
    """Refuse dates among times, and times with a zone among those without: Arrow would make them alike."""
    kinds = {
        (type(value), isinstance(value, datetime) and value.tzinfo is not None)
        for value in values
        if isinstance(value, date)
    }
    if len({issubclass(kind, datetime) for kind, _ in kinds}) > 1 or len({zone for _, zone in kinds}) > 1:
        raise ValueError("dates, times, and times with a time zone are mixed")


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
    chunked = stored if isinstance(stored, pa.ChunkedArray) else pa.chunked_array([stored], dtype)
    for chunk in chunked.chunks:
        try:
            _require_readable(chunk)
        except (pa.ArrowException, OverflowError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InvalidInputError(
                f"{what} must hold values that Python can read back, one of type {dtype} is beyond that ({reason}); "
                "convert it to text or to a number"
            ) from error
    return chunked


def _require_readable(array: "pa.Array") -> None:
    """Refuse what Arrow holds and Python cannot: dates beyond year 9999, text that is no UTF-8."""
    import pyarrow as pa
    from pyarrow import compute, types

    dtype = array.type
    if types.is_list(dtype):
        _require_readable(array.flatten())
    elif types.is_struct(dtype):
        for part in array.flatten():
            _require_readable(part)
    elif types.is_string(dtype):
        array.validate(full=True)
    elif types.is_date(dtype) or types.is_timestamp(dtype) or types.is_duration(dtype):
        if getattr(dtype, "unit", "") == "ns":  # all of them are within Python's years
            return
        numbers = array.view(pa.int32() if types.is_date(dtype) else pa.int64())
        for end in compute.min_max(numbers).as_py().values():
            if end is not None:
                pa.array([end], numbers.type).view(dtype)[0].as_py()


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
    >>> from attnbridge.integrations.columns import as_table
    >>> as_table({"year": [1999, 2004], "lang": "en"}, 2, scalars=True).to_pylist()
    [{'year': 1999, 'lang': 'en'}, {'year': 2004, 'lang': 'en'}]
    """
    import pyarrow as pa

    columns = _columns(payload, name)
    _check_names([column for column, _ in columns], name)
    return pa.table({column: _column(values, column, count, name, scalars) for column, values in columns})
