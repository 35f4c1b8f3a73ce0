"""The operations on files that durability rests on, one function each, so that a test can make each of them fail."""

import errno
import os
import shutil
import stat
from pathlib import Path

_BINARY = getattr(os, "O_BINARY", 0)
# Neither follow a link out of the folder nor wait for the other end of a pipe.
_WARY = _BINARY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def make_folder(path: Path) -> None:
    """Make one folder."""
    path.mkdir()


def create(path: Path) -> int:
    """Make a new file and return a descriptor that writes it."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _WARY, 0o666)


def open_append(path: Path) -> int:
    """Return a descriptor that appends to a file that is there."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | _WARY)


def open_read(path: Path) -> int:
    """Return a descriptor that reads a file; of a link, a pipe, a device, or a folder an OSError (EINVAL)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _WARY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise OSError(errno.EINVAL, "not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`, or raise."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(descriptor, left) :]


def truncate(descriptor: int, size: int) -> None:
    """Cut a file to `size` bytes."""
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Have the system put a file on the disk; errors of a full disk surface here at the latest."""
    os.fsync(descriptor)


def sync_path(path: Path) -> None:
    """Have the system put a file, or what names a folder holds, on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def close(descriptor: int) -> None:
    """Close a file."""
    os.close(descriptor)


def rename(path: Path, target: Path) -> None:
    """Give a file or folder a new name that is free."""
    path.rename(target)


def replace(path: Path, target: Path) -> None:
    """Put a file in the place of another, at once."""
    path.replace(target)


def remove(path: Path) -> None:
    """Remove a file."""
    path.unlink()


def remove_folder(path: Path) -> None:
    """Remove an empty folder."""
    path.rmdir()


def remove_tree(path: Path) -> None:
    """Remove a folder and all that it holds."""
    shutil.rmtree(path)
