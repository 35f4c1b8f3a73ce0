"""Columns of lists between Arrow, as DuckDB hands them to a function, and numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.validation import kernel_ready

if TYPE_CHECKING:
    import pyarrow as pa

Places = npt.NDArray[np.int64]
Valid = npt.NDArray[np.bool_] | None  # None where nothing is NULL
# Bytes. DuckDB's buffers have room for 2,048 rows also where there is one.
_SMALL = 1 << 17


def whole(column: Any) -> "pa.Array":
    """Return a column as one array, without a copy where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def validity(array: "pa.Array") -> Valid:
    """Return which rows are not NULL."""
    if not array.null_count:
        return None
    valid: npt.NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


class Numbers(NamedTuple):
    """The numbers of all rows, one after the other: as float32, and as they came where some are beyond it."""

    data: npt.NDArray[np.float32]
    valid: Valid
    wide: npt.NDArray[Any] | None = None

    def part(self, start: int, stop: int) -> npt.NDArray[np.float32] | list[float | None]:
        """Return numbers as the Python API takes them: float32, or a list where one is NULL or beyond float32."""
        part = self.data[start:stop]
        if self.valid is not None and not self.valid[start:stop].all():
            return [float(x) if known else None for x, known in zip(part, self.valid[start:stop], strict=True)]
        return part if self.wide is None or np.isfinite(part).all() else self.wide[start:stop].tolist()


@dataclass(frozen=True)
class Lists:
    """A column of lists: what they hold (numbers, or lists again), and where each row's part begins and how long it is.

    Parameters
    ----------
    items : Numbers or Lists
    starts, lengths : ndarray of int64, (n,)
    valid : ndarray of bool, (n,), or None
    """

    items: "Numbers | Lists"
    starts: Places
    lengths: Places
    valid: Valid

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def depth(self) -> int:
        """How many lists a number is in."""
        return 1 + (0 if isinstance(self.items, Numbers) else self.items.depth)

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return self.items.data.nbytes if isinstance(self.items, Numbers) else self.items.nbytes

    def detached(self) -> "Lists":
        """Return the same lists without the buffers of DuckDB's that they lie in, if those may be much larger."""
        if self.nbytes > _SMALL:
            return self
        items = self.items
        inner = items.detached() if isinstance(items, Lists) else items._replace(data=items.data.copy())
        return Lists(inner, self.starts.copy(), self.lengths, self.valid)

    def is_null(self, row: int) -> bool:
        """Return whether a row is NULL."""
        return self.valid is not None and not self.valid[row]

    def value(self, row: int) -> Any:
        """Return a row as the Python API takes it: an array, or nested lists where it has gaps or is ragged."""
        if self.is_null(row):
            return None
        start, stop = int(self.starts[row]), int(self.starts[row] + self.lengths[row])
        if isinstance(self.items, Numbers):
            return self.items.part(start, stop)
        block = self.items.block(slice(start, stop))
        return [self.items.value(inner) for inner in range(start, stop)] if block is None else block

    def block(self, rows: slice | Places) -> npt.NDArray[np.float32] | None:
        """Return rows of numbers as an array (n, d), where all are as long and none has a gap; else None."""
        if not isinstance(self.items, Numbers) or self.items.wide is not None:
            return None
        starts, lengths = self.starts[rows], self.lengths[rows]
        if len(starts) == 0 or lengths[0] == 0 or (lengths != lengths[0]).any():
            return None
        if self.valid is not None and not self.valid[rows].all():
            return None
        count, dim = len(starts), int(lengths[0])
        first, last = int(starts[0]), int(starts[-1]) + dim
        if last - first == count * dim and (np.diff(starts) == dim).all():
            if self.items.valid is not None and not self.items.valid[first:last].all():
                return None
            return self.items.data[first:last].reshape(count, dim)
        places = starts[:, None] + np.arange(dim)
        if self.items.valid is not None and not self.items.valid[places].all():
            return None
        gathered: npt.NDArray[np.float32] = self.items.data[places]
        return gathered


def as_lists(column: Any, name: str) -> Lists:
    """Return a column of lists or arrays of numbers, at any depth.

    Raises
    ------
    InvalidInputError
        Something else than numbers in lists.
    """
    array = whole(column)
    lists = _read(array, name)
    if isinstance(lists, Lists):
        return lists
    if array.null_count == len(array):  # a NULL without a type
        nothing = np.zeros(len(array), np.int64)
        return Lists(lists, nothing, nothing, validity(array))
    raise InvalidInputError(f"{name} must be a list or an array of numbers such as FLOAT[384], got one number")


def _read(array: "pa.Array", name: str) -> Lists | Numbers:
    import pyarrow as pa

    kind, count = array.type, len(array)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        items = array.values.slice(array.offset * size, count * size)  # a slice's values are those of the whole
        starts = np.arange(count, dtype=np.int64) * size
        return Lists(_read(items, name), starts, np.full(count, size, np.int64), validity(array))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = array.offsets.to_numpy().astype(np.int64, copy=False)
        items = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        return Lists(_read(items, name), offsets[:-1] - offsets[0], np.diff(offsets), validity(array))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        starts, lengths = (part.to_numpy().astype(np.int64) for part in (array.offsets, array.sizes))
        return Lists(_read(array.values, name), starts, lengths, validity(array))
    if pa.types.is_null(kind):
        return Numbers(np.zeros(count, np.float32), np.zeros(count, np.bool_))
    return _numbers(array, name)


def _numbers(array: "pa.Array", name: str) -> Numbers:
    import pyarrow as pa

    kind, valid = array.type, validity(array)
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InvalidInputError(f"{name} must be real numbers, got {kind}; cast it, as in {name}::FLOAT[]")
    if array.null_count:
        array = array.fill_null(0)
    given = array.to_numpy(zero_copy_only=False)
    if given.dtype == np.float32:
        return Numbers(kernel_ready(given), valid)
    with np.errstate(over="ignore"):
        narrow = given.astype(np.float32)
    beyond = np.isinf(narrow).any() and (np.isinf(narrow) & np.isfinite(given)).any()  # an error where it is used
    return Numbers(narrow, valid, given if beyond else None)


def list_column(rows: Sequence[npt.NDArray[np.float32] | None]) -> "pa.Array":
    """Return arrays, or None for NULL, as a column of FLOAT[]."""
    import pyarrow as pa

    return _lists(rows, [0 if row is None else len(row) for row in rows], pa.array(_joined(rows, np.float32)))


def struct_lists(rows: Sequence[dict[str, npt.NDArray[Any]] | None], dtypes: Mapping[str, npt.DTypeLike]) -> "pa.Array":
    """Return for each row a list of structs, of arrays under their names, or NULL for None."""
    import pyarrow as pa

    columns = [
        pa.array(_joined([None if row is None else row[name] for row in rows], dtype)) for name, dtype in dtypes.items()
    ]
    lengths = [0 if row is None else len(row[next(iter(dtypes))]) for row in rows]
    return _lists(rows, lengths, pa.StructArray.from_arrays(columns, list(dtypes)))


def _joined(rows: Sequence[npt.NDArray[Any] | None], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    parts = [row for row in rows if row is not None]
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)


def _lists(rows: Sequence[Any], lengths: Sequence[int], items: "pa.Array") -> "pa.Array":
    """Return items, one row's after the other's, as lists; None among the rows is NULL."""
    import pyarrow as pa

    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    null = np.array([row is None for row in rows], np.bool_)
    return pa.ListArray.from_arrays(pa.array(offsets), items, mask=pa.array(null) if null.any() else None)
