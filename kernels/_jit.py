"""The one decorator of the kernels: compile options and where compiled code is cached."""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

# Never "nnan" or "ninf": a masked logit is -inf and a non-finite input must stay visible.
FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}


def source_key() -> str:
    """Return a hash of every kernel source and the package version.

    Numba does not see an edit in a callee that lives in another file, and would go on running the old code.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    with suppress(PackageNotFoundError):  # imported from a plain folder that was never installed
        digest.update(version("attnbridge").encode())
    return digest.hexdigest()


def _user_cache_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _temporary_folder(prefix: str) -> Path:
    """Return a new folder that goes when this process ends, or a path that cannot exist where none can be made."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    except OSError:
        return Path(os.devnull) / prefix
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child must not take the folder from its parent
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def cache_folder() -> Path:
    """Return the first writable one of NUMBA_CACHE_DIR, the package folder, the user's cache, a temporary one."""
    key = f"attnbridge-{source_key()}"
    candidates = [Path(__file__).parent / "__pycache__" / key]
    with suppress(RuntimeError):  # no home folder
        candidates.append(_user_cache_folder() / "attnbridge" / key)
    if os.environ.get("NUMBA_CACHE_DIR"):
        candidates.insert(0, Path(os.environ["NUMBA_CACHE_DIR"]) / key)
    for folder in candidates:
        if _writable(folder):
            return folder
    return _temporary_folder(f"{key}-")


CACHE_FOLDER = cache_folder()
_CACHED = CACHE_FOLDER.is_dir()  # not where nothing at all can be written


def jit(function: F) -> F:
    """Compile `function` on its first call, GIL released, cached on disk in `CACHE_FOLDER` where there is one."""
    return _compiled(function, FASTMATH)


def strict_jit(function: F) -> F:
    """Compile as `jit` does, but to IEEE arithmetic: the same bits in a vectorised loop, in its tail and alone."""
    return _compiled(function, False)


def _compiled(function: F, fastmath: set[str] | bool) -> F:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE_FOLDER)  # read while decorating; the users' own caches stay where they are
    try:
        return numba.njit(nogil=True, cache=_CACHED, fastmath=fastmath, error_model="numpy")(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before
