"""Snapshots on disk: written beside the old one, checked by sums, made current by one rename.

A folder holds ``CURRENT`` (the current snapshot's name and its manifest's checksum), one subfolder a snapshot with
``manifest.json`` and the files that it lists with size and checksums, and what was done since in a journal.
"""

import errno
import hashlib
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from attnbridge.errors import IndexCorruptError, InputTooLargeError, InvalidConfigError, InvalidInputError
from attnbridge.integrations import files as disk
from attnbridge.integrations.blocks import BLOCK_BYTES, Blocks, block_sums, read_small
from attnbridge.integrations.journal import JOURNAL, journal_path, records
from attnbridge.integrations.lock import LOCK, WriterLock
from attnbridge.integrations.manifest import FORMAT_VERSION, MANIFEST, damaged, field, read_manifest
from attnbridge.threads import usable_threads

_CURRENT = "CURRENT"
_SNAPSHOT = re.compile(r"snapshot-[0-9a-f]{12}")
_TEMPORARY = re.compile(r"\.writing-snapshot-[0-9a-f]{12}(-current)?")
_POINTER = re.compile(rf"({_SNAPSHOT.pattern}) ([0-9a-f]{{32}})\n")
_MOST_POINTER = 1 << 10
_MOST_MANIFEST = 256 << 20

# Where saves cannot exclude each other, what a killed one left is taken for that after this many seconds.
_ABANDONED = 86_400

Verify = Literal["full", "lazy"]
Writer = Callable[[Path], None]
T = TypeVar("T")
F = TypeVar("F", int, float, str, bool, list[Any], dict[str, Any])


# ---- what a folder holds


def is_index(folder: Path) -> bool:
    """Return whether the folder holds a snapshot of ours."""
    return (folder / _CURRENT).is_file()


def current_snapshot(root: Path) -> str:
    """Return the name of a folder's current snapshot, or nothing."""
    return _pointer(root).partition(" ")[0]


def _is_ours(path: Path) -> bool:
    patterns = (_SNAPSHOT, _TEMPORARY, JOURNAL)
    return path.name == LOCK or any(pattern.fullmatch(path.name) for pattern in patterns)


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


def _pointer(root: Path) -> str:
    """Return what CURRENT holds, or nothing."""
    try:
        return read_small(root / _CURRENT, _MOST_POINTER).decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, IndexCorruptError):
        return ""


# ---- writing


def write_snapshot(
    folder: str | os.PathLike[str], kind: str, about: Mapping[str, Any], files: Mapping[str, Writer]
) -> str:
    """Write a snapshot and make it current; on any error the folder is as before.

    Saves to one folder wait for each other. Journals of snapshots before are removed with them.

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

    Returns
    -------
    str
        The new snapshot's name.

    Raises
    ------
    ConcurrencyError
        Another process has the folder open for writing.
    """
    root = Path(folder)
    check_target(root)
    made = _make_folders(root)
    try:
        with _alone(root) as alone:
            name = _write(root, kind, about, files)
            _remove_old(root, alone)
            return name
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # not empty: another process has saved there
                disk.remove_folder(path)
        raise


def _make_folders(root: Path) -> list[Path]:
    """Make a folder and those above it, and return which were made."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    made = []
    for path in reversed(missing):
        with suppress(FileExistsError):  # by another process just now
            disk.make_folder(path)
            made.append(path)
            disk.sync_path(path.parent)
    return made


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
            alone = True
        except OSError:  # some network file systems
            alone = False
        lock = WriterLock.acquire(root, "save")
        try:
            yield alone
        finally:
            lock.release()
    finally:
        os.close(descriptor)


def _write(root: Path, kind: str, about: Mapping[str, Any], files: Mapping[str, Writer]) -> str:
    name = f"snapshot-{uuid.uuid4().hex[:12]}"
    temporary = root / f".writing-{name}"
    pointer = root / f".writing-{name}-current"
    try:
        disk.make_folder(temporary)
        listed = {file: _write_file(temporary / file, write) for file, write in files.items()}
        about = {"format_version": FORMAT_VERSION, "kind": kind, "block_bytes": BLOCK_BYTES, **about, "files": listed}
        manifest = json.dumps(about, indent=1, allow_nan=False).encode()
        if len(manifest) > _MOST_MANIFEST:
            raise InputTooLargeError(
                f"the manifest must have at most {_MOST_MANIFEST} bytes, got {len(manifest)}; split the index"
            )
        _write_bytes(temporary / MANIFEST, manifest)
        disk.sync_path(temporary)
        disk.rename(temporary, root / name)
        _write_bytes(pointer, f"{name} {_digest(manifest)}\n".encode())
        disk.sync_path(root)
        disk.replace(pointer, root / _CURRENT)
        disk.sync_path(root)
    except BaseException:
        if not _pointer(root).startswith(name):  # Ctrl-C may come after the new one has become current
            for left in (temporary, root / name, pointer):
                _remove(left)
        raise
    return name


def _write_file(path: Path, write: Writer) -> dict[str, Any]:
    try:
        write(path)
        disk.sync_path(path)
    except OSError as error:
        if error.errno is not None:
            raise
        # numpy's says only how many of how many values were written
        raise OSError(errno.EIO, f"not written in full ({error}): is the disk full?", str(path)) from error
    return {"bytes": path.stat().st_size, "crc32": block_sums(path)}


def _write_bytes(path: Path, data: bytes) -> None:
    descriptor = disk.create(path)
    try:
        disk.write(descriptor, data)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)


def _digest(manifest: bytes) -> str:
    return hashlib.blake2b(manifest, digest_size=16).hexdigest()


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            disk.remove_tree(path)
        else:
            disk.remove(path)


def _remove_old(root: Path, alone: bool) -> None:
    """Remove what saves before left: snapshots that are not current, and the unfinished work of killed ones."""
    name = current_snapshot(root)
    for path in root.iterdir():
        if not _is_ours(path) or path.name in (LOCK, name, journal_path(root, name).name):
            continue
        with suppress(OSError):
            if alone or not _TEMPORARY.fullmatch(path.name) or time.time() - path.stat().st_mtime > _ABANDONED:
                _remove(path)


# ---- reading


class Snapshot:
    """A snapshot that is being read: its manifest, and its files as far as they are verified.

    Its files are open from the beginning, so that `blocks` work after another save has removed the folder.

    Parameters
    ----------
    folder : Path
        The snapshot's own folder.
    digest : str
        The manifest's checksum.
    kind : str or None
        What it must be of; None takes any.

    Attributes
    ----------
    manifest : dict
        ``format_version``, ``kind``, ``block_bytes``, and ``files`` are checked; ask for the rest by `setting`.
    """

    def __init__(self, folder: Path, digest: str, kind: str | None) -> None:
        self.folder = folder
        raw = read_small(folder / MANIFEST, _MOST_MANIFEST)
        if _digest(raw) != digest:
            raise damaged(folder / MANIFEST, f"its checksum is not that in {folder.parent / _CURRENT}")
        self.manifest, block_bytes, listed = read_manifest(raw, folder / MANIFEST, kind)
        self._blocks = {file: Blocks(folder / file, entry, block_bytes) for file, entry in listed.items()}

    @property
    def name(self) -> str:
        """The snapshot's name."""
        return self.folder.name

    @property
    def files(self) -> list[str]:
        """The names of the files that the manifest lists."""
        return list(self._blocks)

    def __contains__(self, file: object) -> bool:
        return file in self._blocks

    def size(self, file: str) -> int:
        """Return a file's size in bytes."""
        return self.blocks(file).size

    def blocks(self, file: str) -> Blocks:
        """Return the blocks of a file that is to be memory-mapped, to be verified before they are read."""
        if file not in self._blocks:
            raise damaged(self.folder / MANIFEST, f"it lists no {file}")
        return self._blocks[file]

    def path(self, file: str) -> Path:
        """Return the path of a file that is to be read as a whole, all of it verified."""
        self.blocks(file).check_all(usable_threads())
        return self.folder / file

    def verify(self) -> None:
        """Verify every file."""
        for blocks in self._blocks.values():
            blocks.check_all(usable_threads())

    def setting(self, name: str, kind: type[F], least: float | None = None, most: float | None = None) -> F:
        """Return a field of the manifest, checked; an error names the manifest.

        Parameters
        ----------
        name : str
            ``hnsw.M`` is field M of the object hnsw.
        kind : type
            int, float, str, bool, list, or dict. A float may be written as a whole number; NaN and infinity are
            refused.
        least, most : float, optional
            Bounds of a number, or of the length of anything else.

        Returns
        -------
        kind

        Raises
        ------
        IndexCorruptError
            Missing, of another type, or out of bounds.
        """
        return field(self.manifest, name, kind, self.folder / MANIFEST, least, most)


def load_snapshot(
    folder: str | os.PathLike[str], kind: str | None, load: Callable[[Snapshot], T], *, verify: Verify = "full"
) -> T:
    """Return load(snapshot) for a folder's current snapshot.

    Another process may save, and so remove what is being read: then this begins again with the new snapshot.

    Parameters
    ----------
    folder : path-like
    kind : str or None
        What the snapshot must be of; None takes any.
    load : callable
        Called with a `Snapshot`, more than once where the folder is saved meanwhile.
    verify : {'full', 'lazy'}
        Whether every file is verified now, or each at `Snapshot.path` and the first touch of its `Blocks`. The
        manifest and the sizes of all files are verified in any case.

    Returns
    -------
    Any
        What `load` returned.

    Raises
    ------
    IndexCorruptError
        No folder, no index of this kind, another format, or a file that is missing or damaged.
    """
    if verify not in ("full", "lazy"):
        raise InvalidConfigError(f"verify must be 'full' or 'lazy', got {verify!r}")
    root = Path(folder)
    while True:
        current = _pointer(root)
        try:
            snapshot = _find(root, current, kind)
            if verify == "full":
                snapshot.verify()
            return load(snapshot)
        except (FileNotFoundError, IndexCorruptError) as error:
            if _pointer(root) != current:
                continue
            if isinstance(error, IndexCorruptError):
                raise
            raise IndexCorruptError(
                f"folder {root} is damaged: {error.filename} is missing; restore it from a backup"
            ) from error


def _find(root: Path, current: str, kind: str | None) -> Snapshot:
    if not is_index(root):
        state = "is a file, not an index" if root.is_file() else "does not exist"
        if root.is_dir():
            state = "is no index: it has no file CURRENT"
        raise IndexCorruptError(f"folder {root} {state}; bridge.save(folder) or 'attnbridge index' makes one")
    fields = _POINTER.fullmatch(current)
    if fields is None or not (root / fields[1]).is_dir() or (root / fields[1]).is_symlink():
        raise IndexCorruptError(f"{root / _CURRENT} is damaged or names a missing snapshot; restore it from a backup")
    return Snapshot(root / fields[1], fields[2], kind)


class Checked(NamedTuple):
    """A file that was verified: its name within the index's folder, its size, and how many blocks or records."""

    file: str
    bytes: int
    parts: int


def check_folder(folder: str | os.PathLike[str], kind: str | None = None) -> list[Checked]:
    """Verify every file of the current snapshot and its journal, and return what was verified.

    Parameters
    ----------
    folder : path-like
    kind : str, optional
        What the snapshot must be of.

    Returns
    -------
    list of Checked

    Raises
    ------
    IndexCorruptError
        The first damage that was found.
    """
    root = Path(folder)

    def check(snapshot: Snapshot) -> list[Checked]:
        names = [root / _CURRENT, snapshot.folder / MANIFEST]
        done = [Checked(str(path.relative_to(root)), path.stat().st_size, 1) for path in names]
        for file in snapshot.files:
            blocks = snapshot.blocks(file)
            done.append(Checked(f"{snapshot.name}/{file}", blocks.size, blocks.count))
        journal = journal_path(root, snapshot.name)
        if journal.exists():
            count = sum(1 for _ in records(root, snapshot.name))
            done.append(Checked(journal.name, journal.stat().st_size, count))
        return done

    return load_snapshot(root, kind, check)
