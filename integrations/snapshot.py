"""Snapshots on disk: written beside the old one, checked by sums, made current by one rename.

A folder holds ``CURRENT`` (the current snapshot's name and its manifest's checksum) and one subfolder a snapshot
with ``manifest.json`` and the files that it lists with size and checksum.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attnbridge.errors import IndexCorruptError, InvalidInputError

FORMAT_VERSION = 1
_CURRENT = "CURRENT"
_MANIFEST = "manifest.json"

Writer = Callable[[Path], None]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(path: Path) -> None:
    """Have the system write a file or folder to the disk; errors of a full disk surface here at the latest."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def is_index(folder: Path) -> bool:
    """Return whether the folder holds a snapshot of ours."""
    return (folder / _CURRENT).is_file()


def write_snapshot(
    folder: str | os.PathLike[str], kind: str, about: Mapping[str, Any], files: Mapping[str, Writer]
) -> None:
    """Write a snapshot and make it current; on any error the folder is as before.

    Parameters
    ----------
    folder : path-like
        Made where missing. One that holds other things than an index is refused.
    kind : str
        What the snapshot is of.
    about : mapping
        JSON values for the manifest.
    files : mapping of str to callable
        File name to a function that writes it.
    """
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise InvalidInputError(f"folder must be a folder, but {root} is a file; choose another name")
    made = not root.exists()
    if not made and not is_index(root) and any(p for p in root.iterdir() if not p.name.startswith(".writing-")):
        raise InvalidInputError(
            f"folder must be empty or hold an index, but {root} holds other files; choose another name"
        )
    root.mkdir(parents=True, exist_ok=True)
    name = f"snapshot-{uuid.uuid4().hex[:12]}"
    temporary = root / f".writing-{name}"
    try:
        temporary.mkdir()
        listed = {}
        for file, write in files.items():
            path = temporary / file
            write(path)
            _sync(path)
            listed[file] = {"bytes": path.stat().st_size, "blake2b": _digest(path)}
        manifest = {"format_version": FORMAT_VERSION, "kind": kind, **about, "files": listed}
        text = json.dumps(manifest, indent=1)
        _write_text(temporary / _MANIFEST, text)
        _sync(temporary)
        temporary.rename(root / name)
        pointer = root / f".writing-{name}-current"
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        _write_text(pointer, f"{name} {digest}\n")
        pointer.replace(root / _CURRENT)
        _sync(root)
    except BaseException:
        if made:
            shutil.rmtree(root, ignore_errors=True)
        else:
            for left in (temporary, root / name):
                shutil.rmtree(left, ignore_errors=True)
            (root / f".writing-{name}-current").unlink(missing_ok=True)
        raise
    for old in root.glob("snapshot-*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)


def read_snapshot(folder: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], Path]:
    """Return the current snapshot's manifest and subfolder, every file's size and checksum verified.

    Raises
    ------
    IndexCorruptError
        No folder, no index of this kind, a newer format, or a file that is missing or damaged.
    """
    root = Path(folder)
    for attempt in range(3):
        try:
            return _read_once(root, kind)
        except FileNotFoundError as error:
            # Another process may have saved and removed the snapshot that CURRENT named a moment ago.
            if attempt == 2:
                raise IndexCorruptError(
                    f"folder {root} is damaged: {error.filename} is missing; restore it from a backup"
                ) from error
    raise AssertionError("unreachable")


def _read_once(root: Path, kind: str) -> tuple[dict[str, Any], Path]:
    if not is_index(root):
        state = "is no index: it has no file CURRENT" if root.is_dir() else "does not exist"
        raise IndexCorruptError(f"folder {root} {state}; bridge.save(folder) or 'attnbridge index' makes one")
    fields = (root / _CURRENT).read_text(encoding="utf-8", errors="replace").split()
    if len(fields) != 2 or Path(fields[0]).name != fields[0]:
        raise IndexCorruptError(f"{root / _CURRENT} is damaged; restore it from a backup")
    snapshot = root / fields[0]
    raw = (snapshot / _MANIFEST).read_bytes()
    if hashlib.blake2b(raw, digest_size=16).hexdigest() != fields[1]:
        raise IndexCorruptError(f"{snapshot / _MANIFEST} is damaged: its checksum differs; restore it from a backup")
    manifest: dict[str, Any] = json.loads(raw)
    if manifest["format_version"] > FORMAT_VERSION:
        raise IndexCorruptError(
            f"folder {root} has format version {manifest['format_version']}, this attnbridge reads up to "
            f"{FORMAT_VERSION}; upgrade attnbridge"
        )
    if manifest["kind"] != kind:
        raise IndexCorruptError(f"folder {root} holds a {manifest['kind']}, not a {kind}")
    for file, listed in manifest["files"].items():
        path = snapshot / file
        if path.stat().st_size != listed["bytes"]:
            raise IndexCorruptError(
                f"{path} is damaged: {path.stat().st_size} bytes instead of {listed['bytes']}; restore it from a backup"
            )
        if _digest(path) != listed["blake2b"]:
            raise IndexCorruptError(f"{path} is damaged: its checksum differs; restore it from a backup")
    return manifest, snapshot
