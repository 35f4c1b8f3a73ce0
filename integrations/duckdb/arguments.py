"""Arguments of SQL functions, other than vectors, as the Python API takes them."""

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError
from attnbridge.integrations.duckdb.lists import whole

Setting = tuple[Any, dict[str, Any]]


def settings(types: Any, options: Any) -> tuple[npt.NDArray[np.int64], list[Setting]]:
    """Return for each row which of the distinct settings it has, and those: attention type and options.

    Raises
    ------
    InvalidConfigError
    """
    names, given = whole(types), whole(options)
    if _same(names) and _same(given):
        one = [(names[0].as_py(), as_options(given[0].as_py()))] if len(names) else []
        return np.zeros(len(names), np.int64), one
    found: dict[str, int] = {}
    distinct: list[Setting] = []
    codes = np.empty(len(names), np.int64)
    for row, (name, option) in enumerate(zip(names.to_pylist(), given.to_pylist(), strict=True)):
        code = found.setdefault(repr((name, option)), len(found))
        if code == len(distinct):
            distinct.append((name, as_options(option)))
        codes[row] = code
    return codes, distinct


def values(column: Any) -> list[Any]:
    """Return a column of anything but vectors as Python values."""
    array = whole(column)
    if _same(array):
        return [plain(array[0].as_py())] * len(array) if len(array) else []
    return [plain(value) for value in array.to_pylist()]


def _same(array: Any) -> bool:
    """Return whether all rows are equal, as those of a constant are."""
    import pyarrow as pa

    if len(array) < 2 or array.null_count == len(array):
        return True
    return bool(array.equals(pa.repeat(array[0], len(array))))


def plain(value: Any) -> Any:
    """Return a value of SQL as Python's options have it: decimals as floats."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def as_options(value: Any, name: str = "options") -> dict[str, Any]:
    """Return values by name out of a STRUCT, a MAP or NULL.

    Raises
    ------
    InvalidConfigError
    """
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(entry, tuple) and len(entry) == 2 for entry in value):
        value = dict(value)
    if not isinstance(value, dict):
        raise InvalidConfigError(f"{name} must be a STRUCT such as {{scale: 1.0}}, got {value!r}")
    return {name: plain(inner) for name, inner in value.items()}
