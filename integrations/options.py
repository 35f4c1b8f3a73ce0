"""An attention's options as settings to show, and as a snapshot keeps them: numbers as JSON, arrays as files."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError
from attnbridge.integrations.arrays import load_array
from attnbridge.integrations.manifest import MANIFEST, damaged
from attnbridge.integrations.snapshot import Snapshot

Array = npt.NDArray[Any]

# What stands in the manifest where an array was: its number, type and axes.
_MARK = "$array"
_DTYPES = ("<f4", "<f8")
_MOST = 100


def shown(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the shapes of arrays in their place."""
    return {name: _walked(value, lambda array: list(array.shape)) for name, value in options.items()}


def packed(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Callable[[Path], None]]]:
    """Return options as JSON, and the files of their arrays with what writes each.

    Raises
    ------
    InvalidConfigError
        An option of a kind that has no form on the disk.
    """
    files: dict[str, Callable[[Path], None]] = {}

    def put(array: Array) -> dict[str, Any]:
        given = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        number = len(files)
        files[_file(number)] = partial(_write, given)
        return {_MARK: number, "dtype": given.dtype.str, "axes": given.ndim}

    made = {name: _walked(value, put) for name, value in options.items()}
    for name, value in made.items():
        if not _is_json(value):
            raise InvalidConfigError(
                f"option {name} must be numbers, texts or arrays to be saved, got {type(options[name]).__name__}; save "
                "the bridge without it, or pickle it"
            )
    return made, files


def unpacked(options: Mapping[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """Return the options that a manifest holds, their arrays read and verified."""
    return {name: _read(value, snapshot) for name, value in options.items()}


def _file(number: int) -> str:
    return f"option_{number}.npy"


def _write(array: Array, path: Path) -> None:
    np.save(path, array)


def _walked(value: Any, leaf: Callable[[Array], Any]) -> Any:
    """Return a copy of nested values with `leaf` of each array; what holds arrays as attribute stands for these."""
    value = getattr(value, "arrays", value)
    if isinstance(value, np.ndarray):
        return leaf(value)
    if isinstance(value, Mapping):
        return {name: _walked(inner, leaf) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_walked(inner, leaf) for inner in value]
    return value


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_json(inner) for name, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, bool | int | float | str)


def _read(value: Any, snapshot: Snapshot) -> Any:
    if isinstance(value, list):
        return [_read(inner, snapshot) for inner in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {name: _read(inner, snapshot) for name, inner in value.items()}
    number, axes = (_count(value.get(name), snapshot) for name in (_MARK, "axes"))
    dtype = value.get("dtype")
    if dtype not in _DTYPES:
        raise damaged(snapshot.folder / MANIFEST, f"an option's array is of {dtype!r}, not of {' or '.join(_DTYPES)}")
    array, _ = load_array(snapshot, _file(number), dtype, axes, mmap=False)
    return array


def _count(value: Any, snapshot: Snapshot) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise damaged(snapshot.folder / MANIFEST, f"an option's array has {value!r} for a number or axes")
    return value
