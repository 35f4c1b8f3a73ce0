"""Files that are written as a whole or not at all."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from attnbridge.errors import InvalidInputError


def require_folder(file: Path | None, name: str) -> None:
    """Refuse a file that cannot be written for want of its folder, before the time to fill it is spent.

    Parameters
    ----------
    file : Path or None
    name : str
        What named it.

    Raises
    ------
    InvalidInputError
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise InvalidInputError(f"{name} must be in a folder that is there, got {file}; make {file.parent} first")


def write_whole(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file as a whole or, where anything fails, not at all: what was there before stays as it was.

    Parameters
    ----------
    file : Path
    write : callable
        Called with a stream.

    Raises
    ------
    OSError
        It names the file.
    """
    made = BytesIO()
    write(made)
    with whole_file(file) as beside, beside.open("xb") as stream:
        stream.write(made.getbuffer())


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yield the name of a file to be made, which then takes the place of `file`: as a whole or not at all.

    What has no place to take, a character device or a FIFO (/dev/null, /dev/stdout), is written into once the
    file is made.

    Parameters
    ----------
    file : Path
        A link stays, and what it points to is written. A directory, a socket or a block device is refused.

    Yields
    ------
    Path

    Raises
    ------
    OSError
        It names the file.
    """
    try:
        with _into(file) if _is_stream(file) else _instead(file) as made:
            yield made
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


def _is_stream(file: Path) -> bool:
    """Return whether a file takes bytes and keeps none; refuse what takes no bytes."""
    try:
        found = file.stat()  # not of the resolved name: /dev/stdout may be a pipe, which has none
    except FileNotFoundError:
        return False
    if stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode):
        return True
    if stat.S_ISREG(found.st_mode):
        return _output(found) is not None
    code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "of another kind")
    raise OSError(code, f"the file to write must be a regular file, a character device or a FIFO, this is {kind}")


def _output(found: os.stat_result) -> int | None:
    """Return where this process writes its output, if that is the file: another in its place would miss the rest."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


@contextmanager
def _into(file: Path) -> Iterator[Path]:
    """Yield the name of a file to be made, and copy that into a stream."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made")
        yield made
        output = _output(file.stat())
        # Neither O_CREAT nor O_TRUNC: it was there, and a stream has nothing to cut off.
        descriptor = os.open(file, os.O_WRONLY) if output is None else os.dup(output)
        with made.open("rb") as source, os.fdopen(descriptor, "wb") as target:
            shutil.copyfileobj(source, target)


@contextmanager
def _instead(file: Path) -> Iterator[Path]:
    """Yield the name of a file to be made, which then takes a regular file's place."""
    target = file.resolve()  # what a link points to is written, as by other programs
    beside = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())  # a full disk is known here at the latest
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
