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
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock

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


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, without which the function is compiled: whatever fails here costs time, no more."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code of a signature, None where there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 - a damaged pickle raises anything; numba would read its index again to save
            self._remove(self._cache_file._index_path)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save compiled code, unless the disk is full or the folder has gone."""
        try:
            super().save_overload(sig, data)
        except OSError:  # the index is written first: it must not lead to what an older numba has left there
            self._remove(self._cache_file._index_path)

    @staticmethod
    def _remove(path: str) -> None:
        with suppress(OSError):
            Path(path).unlink()


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
        compiled = numba.njit(nogil=True, fastmath=fastmath, error_model="numpy")(function)
        if _CACHED and not numba.config.DISABLE_JIT:
            with suppress(OSError, RuntimeError):  # the folder cannot be written any more
                compiled._cache = _Cache(function)
        return compiled  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before


# A child that is forked while another thread compiles, or loads compiled code, would find Numba's lock held for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
