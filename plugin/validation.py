"""What is checked at the public edge, in one place; nothing below checks again."""

import importlib
import math
import operator
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import (
    DimensionMismatchError,
    InputTooLargeError,
    InvalidConfigError,
    InvalidInputError,
    InvalidMaskError,
    MissingDependencyError,
)

Float = npt.NDArray[np.floating[Any]]

_FLOAT32 = np.dtype(np.float32)

# Of more numbers no array of flags is made.
_LARGE = 1 << 14


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{package} is not installed; pip install 'attnbridge[{extra}]' brings it ({error})"
        ) from error


class _Address:
    """An array's memory as numpy's array interface, marked writeable."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def kernel_ready(array: np.ndarray) -> np.ndarray:
    """Return `array` C-contiguous and marked writeable, copied only where its layout asks for it.

    Numba compiles a read-only array as a type of its own; kernels never write to their inputs, so a view that
    claims to be writeable spares that second compilation.
    """
    if not array.flags.c_contiguous:  # ascontiguousarray would make a vector of a lone number
        array = np.ascontiguousarray(array)
    if array.flags.writeable or array.size == 0:
        return array
    return np.asarray(_Address(array))


def _ragged_row(value: Any, name: str) -> str:
    """Say which row breaks the shape, for input that numpy cannot make an array of."""
    shapeless = (
        f"{name} must be numbers in rows of one length, got {type(value).__name__}; pass an array or lists of numbers"
    )
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and len(value) > 0:
        try:
            sizes = [np.size(row) for row in value]
        except ValueError:
            return shapeless
        for row, size in enumerate(sizes):
            if value[row] is None:
                return f"{name} must be rows of numbers: row {row} is None (NULL); fill or drop it"
            if size != sizes[0]:
                return (
                    f"{name} must be rows of one length: row 0 has {sizes[0]} values, row {row} has {size}; "
                    "pad or drop it"
                )
    return shapeless


def as_floats(value: Any, name: str, *, keep_float64: bool = False) -> Float:
    """Return `value` as a float array: float32, or float64 where that is what it is and may stay.

    Raises
    ------
    InvalidInputError
        Not numbers, ragged rows, or a value beyond the range of float32.
    """
    if type(value) is np.ndarray and value.dtype is _FLOAT32 and value.flags.carray:  # as it is asked for: no detours
        return value
    if np.ma.is_masked(value):  # np.asarray would let what is under the mask come through
        raise InvalidInputError(f"{name} must have no masked values; fill them with .filled(), or drop their rows")
    array = as_array(value, name)
    if array.dtype == object and array.size > 0:
        try:  # a column of lists or arrays, as pandas and pyarrow give it
            array = np.stack([np.asarray(row) for row in array])
        except (ValueError, TypeError) as error:
            raise InvalidInputError(_ragged_row(value, name)) from error
    if array.dtype.kind not in "fiu" and array.size > 0:
        gaps = [place for place, entry in np.ndenumerate(array) if entry is None]
        if gaps:
            at = ", ".join(map(str, gaps[0]))
            raise InvalidInputError(f"{name} must be real numbers: position {at} is None (NULL); fill or drop it")
        if array.ndim == 0 and array.dtype.kind in "US":
            raise InvalidInputError(f"{name} must be real numbers, got a text: {array.item()!r:.60}")
        how = "convert with .astype('float32')" if hasattr(value, "astype") else "convert with float() of each"
        how = {"M": "pass their differences as numbers", "m": "divide by a unit", "c": "pass abs(), or .real"}.get(
            array.dtype.kind, how
        )
        raise InvalidInputError(f"{name} must be real numbers, got dtype {array.dtype}; {how}")
    if keep_float64 and array.dtype.kind == "f" and array.dtype.itemsize == 8 and isinstance(value, np.ndarray):
        return kernel_ready(array.astype(np.float64, copy=False))  # in this machine's byte order
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32, copy=False)
    if array.dtype.itemsize > 4 and not all_finite(narrow):
        beyond = np.argwhere(np.isfinite(array) & ~np.isfinite(narrow))
        if len(beyond):
            at = f"row {beyond[0][0]}" if array.ndim else "the value"
            raise InvalidInputError(f"{name} must fit float32 (up to 3.4e38): {at} does not; rescale it")
    return kernel_ready(narrow)


def as_array(value: Any, name: str) -> npt.NDArray[Any]:
    """Return `value` as an array of whatever it is of.

    Raises
    ------
    InvalidInputError
        Ragged rows, or a tensor that is being differentiated.
    """
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(_ragged_row(value, name)) from error
    except RuntimeError as error:  # as torch says no to a tensor that is being differentiated
        reason = str(error).rstrip(".")
        raise InvalidInputError(
            f"{name} must be numbers that numpy can read: {reason}; pass a tensor on as tensor.detach().cpu().numpy()"
        ) from error


def all_finite(array: npt.NDArray[Any]) -> bool:
    """Return whether there is neither NaN nor infinity; of large arrays no copy is made."""
    if array.size < _LARGE:
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore", invalid="ignore"):
        if array.flags.c_contiguous and array.dtype in (np.float32, np.float64):
            flat = array.reshape(-1)
            if math.isfinite(np.dot(flat, flat)):  # most often one pass says so
                return True
        return bool(array.min() > -np.inf and array.max() < np.inf)


def require_finite(array: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity, naming the row."""
    if all_finite(array):
        return
    where = np.argwhere(~np.isfinite(array))[0]
    at = f"row {where[0]}, column {where[1]}" if array.ndim == 2 else f"position {where[0]}"
    raise InvalidInputError(
        f"{name} must be finite: {at} is {array[tuple(where)]}; drop it, or replace it with np.nan_to_num"
    )


def as_vector(value: Any, name: str, *, dim: int | None = None, keep_float64: bool = False) -> Float:
    """Return one finite vector (d,).

    Raises
    ------
    DimensionMismatchError
        Not one-dimensional, empty, or not `dim` long.
    InvalidInputError
        Not numbers, or not finite.
    """
    array = as_floats(value, name, keep_float64=keep_float64)
    if array.ndim != 1:
        raise DimensionMismatchError(f"{name} must be one vector (d,), got shape {array.shape}")
    if array.size == 0:
        raise DimensionMismatchError(f"{name} must not be empty: it has no values")
    if dim is not None and len(array) != dim:
        raise DimensionMismatchError(f"{name} must have dimension {dim}, got {len(array)}")
    require_finite(array, name)
    return array


def as_matrix(
    value: Any, name: str, *, dim: int | None = None, finite: bool = True, keep_float64: bool = False
) -> Float:
    """Return rows (n, d), n >= 0.

    Raises
    ------
    DimensionMismatchError
        Not two-dimensional, or rows that are not `dim` long.
    InvalidInputError
        Not numbers, ragged, or (when `finite`) with NaN or infinity, row named.
    """
    array = as_floats(value, name, keep_float64=keep_float64)
    if array.size == 0 and array.ndim == 1:
        array = array.reshape(0, dim or 0)
    if array.ndim != 2:
        raise DimensionMismatchError(
            f"{name} must be rows (n, d), got shape {array.shape}; one vector goes in as {name}[None, :]"
        )
    if dim is not None and array.shape[1] != dim:
        raise DimensionMismatchError(f"{name} must have dimension {dim}, got {array.shape[1]}")
    if array.shape[1] == 0 and array.shape[0] > 0:
        raise DimensionMismatchError(f"{name} must not be empty: its rows have no values")
    if finite:
        require_finite(array, name)
    return array


def require_given(value: Any, name: str) -> None:
    """Refuse None where a forward pass needs an array."""
    if value is None:
        raise InvalidInputError(f"{name} must be given; for self-attention it is the query's array")


def as_count(value: Any, name: str, *, least: int = 1, most: int = 2**63 - 1, remedy: str = "") -> int:
    """Return a whole number of at least `least` and, `most` left out, of 63 bits; errors end with the remedy."""
    then = f"; {remedy}" if remedy else ""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InvalidConfigError(f"{name} must be a whole number >= {least}, got {value!r}{then}") from None
    if number < least:
        raise InvalidConfigError(f"{name} must be a whole number >= {least}, got {number}{then}")
    if number > most:
        got = number if number.bit_length() < 1000 else f"a number of {number.bit_length()} bits"  # may not be printed
        rule = "must fit 63 bits" if most == 2**63 - 1 else f"must be at most {most}"
        raise InvalidConfigError(f"{name} {rule}, got {got}{then}")
    return number


def as_dim(value: Any) -> int:
    """Return a vector's dimension, 1 to 2^20: what a row's bytes can be counted with everywhere."""
    return as_count(value, "dim", most=2**20)


def as_number(
    value: Any,
    name: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    remedy: str = "",
) -> float:
    """Return a finite number inside the bounds; errors end with the remedy."""
    then = f"; {remedy}" if remedy else ""
    rule = "a finite number"
    if above > -math.inf:
        rule += f" > {above:g}"
    if least > -math.inf:
        rule += f" >= {least:g}"
    if most < math.inf:
        rule += f", at most {most:g}"
    try:
        if isinstance(value, bool | np.bool_ | str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidConfigError(f"{name} must be {rule}, got {value!r}{then}") from None
    if not (math.isfinite(number) and number > above and least <= number <= most):
        raise InvalidConfigError(f"{name} must be {rule}, got {value!r}{then}")
    return number


def as_choice(value: Any, name: str, choices: Iterable[str]) -> str:
    """Return one of the known names, or list them."""
    known = sorted(choices)
    if not isinstance(value, str) or value not in known:
        raise InvalidConfigError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    return str(value)


def as_text(value: Any, name: str) -> str:
    """Return text of at least one character."""
    if not isinstance(value, str) or not value:
        raise InvalidConfigError(f"{name} must be a text of at least one character, got {value!r}")
    return value


def as_bool(value: Any, name: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidConfigError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_mask(value: Any, name: str, length: int) -> npt.NDArray[np.bool_]:
    """Return a boolean mask of exactly `length`."""
    mask = np.asarray(value)
    if mask.dtype != np.bool_ or mask.ndim != 1:
        raise InvalidMaskError(f"{name} must be a boolean mask ({length},), got {mask.dtype} {mask.shape}")
    if len(mask) != length:
        raise InvalidMaskError(f"{name} must have one entry for each of {length} rows, got {len(mask)}")
    return mask


def limit_keys(count: int, max_keys: int) -> None:
    """Refuse more keys than allowed by value."""
    if count > max_keys:
        raise InputTooLargeError(
            f"keys must be at most max_keys = {max_keys} rows, got {count}; pass max_keys={count} to allow it, "
            "or put them into an AttentionVectorBridge"
        )
