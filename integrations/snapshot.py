"""Snapshots on disk: written beside the old one, checked by sums, made current by one rename.

A folder holds ``CURRENT`` (the current snapshot's name and its manifest's checksum) and one subfolder a snapshot
with ``manifest.json`` and the files that it lists with size and checksum.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from attnbridge.errors import IndexCorruptError, InvalidInputError

FORMAT_VERSION = 1
_CURRENT = "CURRENT"
_MANIFEST = "manifest.json"
_SNAPSHOT = re.compile(r"snapshot-[0-9a-f]{12}")
_TEMPORARY = re.compile(r"\.writing-snapshot-[0-9a-f]{12}(-current)?")
_POINTER = re.compile(rf"({_SNAPSHOT.pattern}) ([0-9a-f]{{32}})\n")

# Where saves cannot exclude each other, what a killed one left is taken for that after this many seconds.
_ABANDONED = 86_400

Writer = Callable[[Path], None]
T = TypeVar("T")


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


def _is_ours(path: Path) -> bool:
    return bool(_SNAPSHOT.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name))


def check_target(folder: Path) -> None:
    """Refuse a folder that `write_snapshot` would refuse, so that a caller can ask before long work."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidInputError(f"folder must be a folder, but {folder} is a file; choose another name")
    # A file CURRENT alone says nothing: a LevelDB folder has one too.
    if not _POINTER.fullmatch(_pointer(folder)) and not all(_is_ours(path) for path in folder.iterdir()):
        raise InvalidInputError(
            f"folder must be empty or hold an index, but {folder} holds other files; choose another name"
        )


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Let one save at a time work on a folder, and yield whether that could be had; it ends with the process."""
    if sys.platform == "win32":
        yield False
        return
    import fcntl

    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # some network file systems
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _pointer(root: Path) -> str:
    """Return what CURRENT holds, or nothing."""
    try:
        return (root / _CURRENT).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _remove_old(root: Path, alone: bool) -> None:
    """Remove what saves before left: snapshots that are not current, and the unfinished work of killed ones."""
    name = _pointer(root).partition(" ")[0]
    for path in root.iterdir():
        if not _is_ours(path) or path.name == name:
            continue
        with suppress(OSError):
            if alone or _SNAPSHOT.fullmatch(path.name) or time.time() - path.stat().st_mtime > _ABANDONED:
                _remove(path)


def write_snapshot(
    folder: str | os.PathLike[str], kind: str, about: Mapping[str, Any], files: Mapping[str, Writer]
) -> None:
    """Write a snapshot and make it current; on any error the folder is as before.

    Saves to one folder wait for each other.

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
    check_target(root)
    made = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root) as alone:
        try:
            _write(root, kind, about, files)
        except BaseException:
            if made:
                with suppress(OSError):  # not empty: another process has saved there
                    root.rmdir()
            raise
        _remove_old(root, alone)


def _write(root: Path, kind: str, about: Mapping[str, Any], files: Mapping[str, Writer]) -> None:
    name = f"snapshot-{uuid.uuid4().hex[:12]}"
    temporary = root / f".writing-{name}"
    pointer = root / f".writing-{name}-current"
    try:
        temporary.mkdir(parents=True)
        listed = {}
        for file, write in files.items():
            path = temporary / file
            try:
                write(path)
                _sync(path)
            except OSError as error:
                if error.errno is not None:
                    raise
                # numpy's says only how many of how many values were written
                raise OSError(errno.EIO, f"not written in full ({error}): is the disk full?", str(path)) from error
            listed[file] = {"bytes": path.stat().st_size, "blake2b": _digest(path)}
        manifest = {"format_version": FORMAT_VERSION, "kind": kind, **about, "files": listed}
        text = json.dumps(manifest, indent=1)
        _write_text(temporary / _MANIFEST, text)
        _sync(temporary)
        temporary.rename(root / name)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        _write_text(pointer, f"{name} {digest}\n")
        _sync(root)
        pointer.replace(root / _CURRENT)
        _sync(root)
    except BaseException:
        if not _pointer(root).startswith(name):  # Ctrl-C may come after the new one has become current
            for left in (temporary, root / name, pointer):
                _remove(left)
        raise


def read_snapshot(folder: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], Path]:
    """Return the current snapshot's manifest and subfolder, every file verified; `load_snapshot` says how."""
    return load_snapshot(folder, kind, lambda manifest, snapshot: (manifest, snapshot))


def load_snapshot(folder: str | os.PathLike[str], kind: str, load: Callable[[dict[str, Any], Path], T]) -> T:
    """Verify every file of the current snapshot by size and checksum, and return load(manifest, subfolder).

    Another process may save, and so remove what is being read: then this begins again with the new snapshot.

    Raises
    ------
    IndexCorruptError
        No folder, no index of this kind, a newer format, or a file that is missing or damaged.
    """
    root = Path(folder)
    while True:
        current = _pointer(root)
        try:
            return load(*_verified(root, current, kind))
        except (FileNotFoundError, IndexCorruptError) as error:
            if _pointer(root) != current:
                continue
            if isinstance(error, IndexCorruptError):
                raise
            raise IndexCorruptError(
                f"folder {root} is damaged: {error.filename} is missing; restore it from a backup"
            ) from error


def _verified(root: Path, current: str, kind: str) -> tuple[dict[str, Any], Path]:
    if not is_index(root):
        state = "is a file, not an index" if root.is_file() else "does not exist"
        if root.is_dir():
            state = "is no index: it has no file CURRENT"
        raise IndexCorruptError(f"folder {root} {state}; bridge.save(folder) or 'attnbridge index' makes one")
    fields = _POINTER.fullmatch(current)
    if fields is None or not (root / fields[1]).is_dir():
        raise IndexCorruptError(f"{root / _CURRENT} is damaged or names a missing snapshot; restore it from a backup")
    snapshot = root / fields[1]
    raw = (snapshot / _MANIFEST).read_bytes()
    if hashlib.blake2b(raw, digest_size=16).hexdigest() != fields[2]:
        raise IndexCorruptError(
            f"{snapshot / _MANIFEST} is damaged: its checksum is not that in {root / _CURRENT}; restore it from a "
            "backup"
        )
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
