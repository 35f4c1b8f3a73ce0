"""Files that are written as a whole or not at all."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO


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

    Parameters
    ----------
    file : Path

    Yields
    ------
    Path

    Raises
    ------
    OSError
        It names the file.
    """
    target = file.resolve()  # what a link points to is written, as by other programs
    beside = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())  # a full disk is known here at the latest
        beside.replace(target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise
