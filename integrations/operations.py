"""An operation as bytes for the journal and back: JSON values, arrays, and blobs; nothing in it is ever executed."""

import json
import math
import reprlib
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import IndexCorruptError, InvalidInputError
from attnbridge.integrations.journal import journal_path, records
from attnbridge.integrations.manifest import parse_json

_DTYPES = {"float32": "<f4", "float16": "<f2", "int64": "<i8", "int8": "|i1"}
_LENGTH = struct.Struct("<Q")
_ALIGN = 8
_MOST_AXES = 8


class Operation(NamedTuple):
    """What one record of the journal says."""

    values: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    blobs: dict[str, bytes]


def _padding(size: int) -> int:
    return -size % _ALIGN


def encode(
    values: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    blobs: Mapping[str, bytes] | None = None,
) -> list[bytes | memoryview]:
    """Return an operation as buffers, to be written one after the other.

    Parameters
    ----------
    values : mapping
        JSON values.
    arrays : mapping of str to array, optional
        float32, float16, int64, or int8; not copied where they lie in C order.
    blobs : mapping of str to bytes, optional

    Returns
    -------
    list of bytes-like

    Raises
    ------
    InvalidInputError
        What has no place in a journal: NaN among the values, another dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations.operations import decode, encode
    >>> body = b"".join(encode({"op": "add", "ids": ["a"]}, {"rows": np.ones((1, 2), np.float32)}))
    >>> decode(memoryview(body)).arrays["rows"].tolist()
    [[1.0, 1.0]]
    """
    listed: list[list[Any]] = []
    parts: list[bytes | memoryview] = []
    for name, array in (arrays or {}).items():
        if array.dtype.name not in _DTYPES:
            raise InvalidInputError(f"arrays must be of {', '.join(_DTYPES)}, got {name} of {array.dtype}")
        listed.append([name, array.dtype.name, list(array.shape)])
        data = np.ascontiguousarray(array, _DTYPES[array.dtype.name]).reshape(-1).view(np.uint8)
        parts += [data.data.toreadonly(), bytes(_padding(data.size))]
    sizes = [[name, len(blob)] for name, blob in (blobs or {}).items()]
    for blob in (blobs or {}).values():
        parts += [blob, bytes(_padding(len(blob)))]
    try:
        text = json.dumps({"values": dict(values), "arrays": listed, "blobs": sizes}, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"values must be JSON values, got one that is not: {error}") from error
    head = [_LENGTH.pack(len(text)), text, bytes(_padding(len(text)))]
    return [part for part in head + parts if len(part)]


def decode(body: memoryview, where: str = "a record of the journal") -> Operation:
    """Return what `encode` was given; arrays are read-only views of `body`.

    Parameters
    ----------
    body : memoryview
    where : str
        What the error message calls it.

    Returns
    -------
    Operation

    Raises
    ------
    IndexCorruptError
        Not what `encode` writes.
    """
    body = memoryview(body).cast("B")
    at = 0

    def take(size: int) -> memoryview:
        nonlocal at
        start, at = at, at + size + _padding(size)
        if at > len(body):
            raise _nonsense(where, f"it claims more than its {len(body)} bytes")
        return body[start : start + size]

    (length,) = _LENGTH.unpack(take(_LENGTH.size))
    about = parse_json(take(length), where)
    if set(about) != {"values", "arrays", "blobs"} or not isinstance(about["values"], dict):
        raise _nonsense(where, f"it must have values, arrays, and blobs, got {reprlib.repr(about)}")
    arrays = {}
    for name, dtype, shape in _entries(about["arrays"], (str, str, list), where):
        if dtype not in _DTYPES or len(shape) > _MOST_AXES or not all(_is_size(n, len(body)) for n in shape):
            raise _nonsense(where, f"array {reprlib.repr(name)} is {reprlib.repr(dtype)} of {reprlib.repr(shape)}")
        data = take(math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize)
        arrays[name] = np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
    blobs = {}
    for name, size in _entries(about["blobs"], (str, int), where):
        if not _is_size(size, len(body)):
            raise _nonsense(where, f"blob {reprlib.repr(name)} has {reprlib.repr(size)} bytes")
        blobs[name] = bytes(take(size))
    if at != len(body) or len(arrays) != len(about["arrays"]) or len(blobs) != len(about["blobs"]):
        raise _nonsense(where, "it holds more than it lists")
    return Operation(about["values"], arrays, blobs)


def _nonsense(where: str, what: str) -> IndexCorruptError:
    return IndexCorruptError(f"{where} is damaged: {what}; restore it from a backup")


def _is_size(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _entries(listed: Any, kinds: tuple[type, ...], where: str) -> Iterator[Any]:
    """Yield the entries of a list of lists, each of values of these types."""
    if not isinstance(listed, list):
        raise _nonsense(where, f"it must list its arrays and blobs, got {reprlib.repr(listed)}")
    for entry in listed:
        if not isinstance(entry, list) or tuple(map(type, entry)) != kinds:
            raise _nonsense(where, f"an array or a blob is listed as {reprlib.repr(entry)}")
        yield entry


def operations(root: Path, snapshot: str) -> Iterator[Operation]:
    """Yield every acknowledged operation in a snapshot's journal, in order; see `records`."""
    path = journal_path(root, snapshot)
    for number, body in enumerate(records(root, snapshot)):
        yield decode(body, f"{path}: record {number}")
