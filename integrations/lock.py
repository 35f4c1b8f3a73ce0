"""One process writes into a folder, many read: the file LOCK, held by flock as long as a folder is open for writing.

The lock dies with its process, whatever that leaves behind: a file LOCK that nobody holds means nothing. Where there
is no flock (Windows, some network file systems) nothing is excluded.
"""

import errno
import json
import os
import shlex
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from attnbridge.errors import ConcurrencyError, IndexCorruptError
from attnbridge.integrations.manifest import parse_json

LOCK = "LOCK"

# How long to wait for another process that saves, and for one that has the lock but has not yet said who it is.
_PATIENCE = 60.0
_COURTESY = 2.0
_POLL = 0.01
_MOST_CONTENT = 4096


class _Held:
    """A folder that this process has locked, and how many ask for it."""

    def __init__(self, key: str, descriptor: int | None) -> None:
        self.key = key
        self.descriptor = descriptor
        self.count = 1
        self.valid = True  # not in a forked child

    def give_up(self) -> None:
        """Close the file, which ends the lock unless a forked parent has it open too."""
        self.valid = False
        if _registry.get(self.key) is self:
            del _registry[self.key]
        if self.descriptor is not None:
            os.close(self.descriptor)


# Re-entrant: the garbage collector may release a lock in the midst of any of this.
_registry_lock = threading.RLock()
_registry: dict[str, _Held] = {}


class WriterLock:
    """The right of this process to write into a folder, shared by all its bridges that ask.

    Made by `acquire`; the last `release` of a process gives it up.

    Examples
    --------
    >>> import tempfile
    >>> from attnbridge.integrations.lock import WriterLock
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = WriterLock.acquire(folder)
    ...     print(lock.held)
    ...     lock.release()
    ...     print(lock.held)
    True
    False
    """

    def __init__(self, root: Path, held: _Held) -> None:
        self.root = root
        self._held: _Held | None = held

    @classmethod
    def acquire(cls, root: str | os.PathLike[str], why: Literal["open", "save"] = "open") -> "WriterLock":
        """Lock a folder, waiting up to a minute for a process that is only saving into it.

        Parameters
        ----------
        root : path-like
            A folder that is there.
        why : {'open', 'save'}
            What others are told: whether it lasts.

        Returns
        -------
        WriterLock

        Raises
        ------
        ConcurrencyError
            Another process has it open for writing; the message says which.
        OSError
            The file LOCK cannot be made there.
        """
        folder = Path(root)
        key = os.path.realpath(folder)
        begun = time.monotonic()
        while True:
            with _registry_lock:
                held = _registry.get(key)
                if held is not None and held.descriptor is not None and not _names(folder / LOCK, held.descriptor):
                    held.give_up()  # the folder has been removed and made again
                elif held is not None:
                    held.count += 1
                    if _registry.get(key) is held:
                        if why == "open" and held.descriptor is not None:
                            _introduce(held.descriptor, why)
                        return cls(folder, held)
                    continue
                taken, descriptor = _take(folder / LOCK, why)
                if taken:
                    held = _registry[key] = _Held(key, descriptor)
                    return cls(folder, held)
            holder = _holder(folder / LOCK)
            patience = {"open": 0.0, "save": _PATIENCE}.get(str(holder.get("why")), _COURTESY)
            if time.monotonic() - begun >= patience:
                raise ConcurrencyError(_refusal(folder, holder))
            time.sleep(_POLL)

    @property
    def held(self) -> bool:
        """Whether this process may write: not after `release`, and not in a forked child."""
        return self._held is not None and self._held.valid

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        with _registry_lock:
            held, self._held = self._held, None
            if held is None or not held.valid:
                return
            held.count -= 1
            if held.count:
                return
            path = Path(held.key, LOCK)
            if held.descriptor is not None and _names(path, held.descriptor):
                with suppress(OSError):  # removed while still locked: `_take` looks whether it has got the file's name
                    path.unlink()
            held.give_up()


def _names(path: Path, descriptor: int) -> bool:
    """Return whether the path names the file that is open."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _take(path: Path, why: str) -> tuple[bool, int | None]:
    """Try once to lock the file; return whether that went well, and its descriptor."""
    if sys.platform == "win32":
        return True, None
    import fcntl

    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise OSError(error.errno, f"cannot lock the folder for writing ({error.strerror})", str(path)) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file; remove it", str(path))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False, None
            except OSError:  # some network file systems: as without a lock
                pass
            if _names(path, descriptor):
                _introduce(descriptor, why)
                return True, descriptor
            os.close(descriptor)  # whoever held it before has removed it meanwhile
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise


def _introduce(descriptor: int, why: str) -> None:
    """Write who holds the lock, for others' error messages; a full disk must not keep anyone from it."""
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _short(shlex.join(sys.orig_argv), 200),
        "why": why,
    }
    with suppress(OSError):
        raw = json.dumps(about).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, raw, 0)


def _short(text: str, most: int) -> str:
    """Return the text in one line of printable characters, cut to a length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * most]).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _holder(path: Path) -> dict[str, Any]:
    """Return what the lock's holder wrote, as far as it is of use."""
    try:
        with path.open("rb") as file:
            about = parse_json(file.read(_MOST_CONTENT), str(path))
    except (OSError, IndexCorruptError):
        return {}
    kinds = {"pid": int, "host": str, "since": str, "command": str, "why": str}
    return {name: value for name, value in about.items() if type(value) is kinds.get(name)}


def _refusal(folder: Path, holder: dict[str, Any]) -> str:
    doing = "being saved" if holder.get("why") == "save" else "open for writing"
    who = f"process {holder['pid']}" if 0 <= holder.get("pid", -1) < 2**32 else "another process"
    if "host" in holder:
        who += f" on host {_short(holder['host'], 100)}"
    with suppress(KeyError, ValueError, OverflowError):
        who += f" since {datetime.fromisoformat(holder['since']).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if holder.get("command"):
        who += f" ({_short(holder['command'], 200)})"
    remedy = "try again when that is done" if holder.get("why") == "save" else "close it there"
    return f"folder {folder} is {doing} by {who}; open it with read_only=True, or {remedy}"


def _forget() -> None:
    """In a forked child: the locks are the parent's, which keeps them when the child's copies are closed."""
    global _registry_lock
    _registry_lock = threading.RLock()
    for held in list(_registry.values()):
        held.give_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
