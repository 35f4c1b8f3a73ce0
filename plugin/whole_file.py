"""Files that are written as a whole or not at all."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
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
    target = file.resolve()  # what a link points to is written, as by other programs
    beside = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with beside.open("xb") as stream:
            stream.write(made.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())  # a full disk is known here at the latest
        beside.replace(target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise
