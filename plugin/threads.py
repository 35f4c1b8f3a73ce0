"""One lazily made thread pool for batches, and the lock that lets many read and one write."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from attnbridge.errors import InvalidConfigError
from attnbridge.validation import as_count

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def usable_threads(threads: int | None = None) -> int:
    """Return `threads`, else ATTNBRIDGE_NUM_THREADS, else the cores this process may use.

    Parameters
    ----------
    threads : int, optional

    Returns
    -------
    int

    Raises
    ------
    InvalidConfigError
        Not a whole number >= 1.

    Examples
    --------
    >>> from attnbridge.threads import usable_threads
    >>> usable_threads(3)
    3
    """
    if threads is not None:
        return as_count(threads, "threads")
    setting = os.environ.get("ATTNBRIDGE_NUM_THREADS")
    if setting:
        if not setting.isdecimal() or int(setting) < 1:
            raise InvalidConfigError(f"ATTNBRIDGE_NUM_THREADS must be a whole number >= 1, got {setting!r}")
        return int(setting)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(usable_threads(), thread_name_prefix="attnbridge")
        return _pool


def _forget_pool() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()  # a forked child has the pool's threads no more


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def for_chunks(work: Callable[[int, int], None], count: int, chunk: int, threads: int) -> None:
    """Call work(start, stop) for consecutive chunks of range(count), on up to `threads` threads.

    The calling thread takes part, so that nothing waits for a busy pool and Ctrl-C is seen between chunks. The
    first error ends the work and is raised here.
    """
    starts = itertools.count(0, chunk)  # its next() is atomic, as is append
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for start in starts:
                if start >= count or errors:
                    return
                work(start, min(start + chunk, count))
        except BaseException as error:  # noqa: BLE001 - raised by the calling thread below
            errors.append(error)

    helpers: list[Future[None]] = []
    for _ in range(min(threads, -(-count // chunk)) - 1):
        try:
            helpers.append(_get_pool().submit(run))
        except RuntimeError:  # the interpreter is shutting down
            break
    run()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if errors:
        raise errors[0]


class ReadWriteLock:
    """Many readers or one writer; a waiting writer goes before new readers."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._condition:
            while self._writing or self._writers_waiting:
                self._condition.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                if not self._readers:
                    self._condition.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._condition:
            self._writers_waiting += 1
            try:
                while self._writing or self._readers:
                    self._condition.wait()
            finally:
                self._writers_waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()
