"""What a snapshot says of itself: manifest.json, read as if an enemy had written it.

::

    {"format_version": 2, "kind": "AttentionVectorBridge", "block_bytes": 65536, ...,
     "files": {"rows.npy": {"bytes": 70000, "crc32": "<8 hex digits a block>"}, ...}}
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from attnbridge.errors import IndexCorruptError

FORMAT_VERSION = 3
MANIFEST = "manifest.json"

_FILE = re.compile(r"[a-z0-9_]{1,64}(\.[a-z0-9]{1,16})+")
_MOST_FILES = 100
_BLOCK_BYTES = (1 << 12, 1 << 24)
_MOST_BYTES = 2**63 - 1
_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "a map"}

T = TypeVar("T", int, float, str, bool, list[Any], dict[str, Any])


class Listed(NamedTuple):
    """A file as the manifest lists it: its size and the CRC-32 of each of its blocks."""

    size: int
    sums: npt.NDArray[np.uint32]


def damaged(path: Path, what: str) -> IndexCorruptError:
    """Return the error that says what is wrong with a file."""
    return IndexCorruptError(f"{path} is damaged: {what}; restore it from a backup")


def parse_json(raw: bytes | memoryview, where: str) -> dict[str, Any]:
    """Return a JSON object, or raise IndexCorruptError: nesting bombs, NaN, and a name twice included."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a name twice in one object")
        return made

    try:
        parsed = json.loads(str(raw, "utf-8"), parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise IndexCorruptError(f"{where} is damaged: {error}; restore it from a backup") from error
    if not isinstance(parsed, dict):
        raise IndexCorruptError(
            f"{where} is damaged: it must hold a JSON object, got a {type(parsed).__name__}; restore it from a backup"
        )
    return parsed


def field(
    values: Mapping[str, Any],
    name: str,
    kind: type[T],
    path: Path,
    least: float | None = None,
    most: float | None = None,
) -> T:
    """Return values[name], a dotted name going down into objects, or raise an error that names `path`.

    A `float` may be written as a whole number, an `int` is no `bool`. `least` and `most` bound a number, or the
    length of anything else.
    """
    value: Any = values
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise damaged(path, f"it has no {name}")
        value = value[part]
    if kind is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise damaged(path, f"{name} must be {_KINDS[kind]}, got {reprlib.repr(value)}")
    size = value if isinstance(value, int | float) else len(value)
    if (least is not None and size < least) or (most is not None and size > most):
        bounds = [f">= {least}"] * (least is not None) + [f"<= {most}"] * (most is not None)
        what = name if size is value else f"the length of {name}"
        raise damaged(path, f"{what} must be {' and '.join(bounds)}, got {reprlib.repr(size)}")
    return value


def read_manifest(raw: bytes, path: Path, kind: str | None) -> tuple[dict[str, Any], int, dict[str, Listed]]:
    """Return the manifest, its block size, and its files, each value checked by type and range."""
    manifest = parse_json(raw, str(path))
    version = field(manifest, "format_version", int, path, least=1)
    if version > FORMAT_VERSION:
        raise IndexCorruptError(
            f"folder {path.parent.parent} has format version {reprlib.repr(version)}, this attnbridge reads up to "
            f"{FORMAT_VERSION}; upgrade attnbridge"
        )
    if version < FORMAT_VERSION:
        raise IndexCorruptError(
            f"folder {path.parent.parent} has format version {version} of an older development version of attnbridge, "
            f"this one reads version {FORMAT_VERSION}; build the index again"
        )
    found = field(manifest, "kind", str, path, least=1, most=100)
    if kind is not None and found != kind:
        raise IndexCorruptError(f"folder {path.parent.parent} holds a {reprlib.repr(found)[1:-1]}, not a {kind}")
    block = field(manifest, "block_bytes", int, path, *_BLOCK_BYTES)
    files = field(manifest, "files", dict, path, most=_MOST_FILES)
    return manifest, block, {file: _listed(file, listed, block, path) for file, listed in files.items()}


def _listed(file: str, listed: Any, block: int, path: Path) -> Listed:
    if not _FILE.fullmatch(file) or file == MANIFEST:
        raise damaged(path, f"files must have plain names such as rows.npy, got {reprlib.repr(file)}")
    if not isinstance(listed, dict):
        raise damaged(path, f"the entry of {file} must be a map, got {reprlib.repr(listed)}")
    size = field(listed, "bytes", int, path, 0, _MOST_BYTES)
    digits = field(listed, "crc32", str, path)
    blocks = -(-size // block)
    try:
        raw = bytes.fromhex(digits) if len(digits) == 8 * blocks else b""
    except ValueError:
        raw = b""
    if len(raw) != 4 * blocks:
        raise damaged(path, f"crc32 of {file} must be 8 hex digits for each of {blocks} blocks")
    return Listed(size, np.frombuffer(raw, ">u4").astype(np.uint32))
