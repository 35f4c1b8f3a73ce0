"""One lazily made thread pool for batches, and the lock that lets many read and one write."""

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context

from attnbridge.errors import ConcurrencyError, InvalidConfigError
from attnbridge.validation import as_count

_MOST_THREADS = 4096

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
        count = as_count(threads, "threads")
        if count > _MOST_THREADS:
            raise InvalidConfigError(f"threads must be at most {_MOST_THREADS}, got {count}")
        return count
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
            helpers.append(_get_pool().submit(copy_context().run, run))
        except RuntimeError:  # the interpreter is shutting down
            break
    run()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if errors:
        raise errors[0]


# The locks that the code running now holds; for_chunks hands it on to the pool's threads.
_held: ContextVar[frozenset[int]] = ContextVar("attnbridge_held_locks", default=frozenset())

_locks: "weakref.WeakSet[ReadWriteLock]" = weakref.WeakSet()

# A fork waits so long for the locks that it must not interrupt.
_FORK_PATIENCE = 30.0


class ReadWriteLock:
    """Many readers or one writer, in turns.

    A waiting writer goes before new readers, and readers that waited for a writer go before the next one, so that
    neither starves.

    Who holds it may read again (a rerank stage or a progress callback may ask the bridge), but a reader that writes
    would wait for itself: that is an error.

    Parameters
    ----------
    fork_waits : bool, default False
        A fork waits until nobody holds the lock: what it guards is not Python's, and half of a change would be copied
        into the child.
    """

    def __init__(self, *, fork_waits: bool = False) -> None:
        self._fork_waits = fork_waits
        self._reset()
        _locks.add(self)

    def _reset(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._readers = 0
        self._readers_waiting = 0
        self._admitted = 0  # readers that waited for the last writer and go before the next one
        self._writing = False
        self._writers_waiting = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        held = _held.get()
        if id(self) in held:
            yield
            return
        with self._condition:
            if self._writing or self._writers_waiting:
                self._readers_waiting += 1
                try:
                    while self._writing or (self._writers_waiting and not self._admitted):
                        self._condition.wait()
                finally:
                    self._readers_waiting = max(0, self._readers_waiting - 1)
                    self._admitted = max(0, self._admitted - 1)
                    if not self._admitted:
                        self._condition.notify_all()
            self._readers += 1
        token = _held.set(held | {id(self)})
        try:
            yield
        finally:
            _held.reset(token)
            with self._condition:
                self._readers = max(0, self._readers - 1)  # 0 already in a child forked meanwhile
                if not self._readers:
                    self._condition.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock alone."""
        held = _held.get()
        if id(self) in held:
            raise ConcurrencyError(
                "an index cannot be changed from within one of its own searches or writes (a progress callback): the "
                "change would wait for them to end; make it afterwards"
            )
        self._acquire(None)
        token = _held.set(held | {id(self)})
        try:
            yield
        finally:
            _held.reset(token)
            self._release()

    def _acquire(self, timeout: float | None) -> bool:
        with self._condition:
            self._writers_waiting += 1
            try:
                free = self._condition.wait_for(lambda: not (self._writing or self._readers or self._admitted), timeout)
                self._writing = self._writing or free
            finally:
                self._writers_waiting = max(0, self._writers_waiting - 1)
                if not self._writing:  # given up: let the readers in that waited behind
                    self._condition.notify_all()
            return free

    def _release(self) -> None:
        with self._condition:
            self._writing = False
            self._admitted = self._readers_waiting
            self._condition.notify_all()


# What the fork going on holds.
_held_for_fork: list[ReadWriteLock] = []


def _hold_for_fork() -> None:
    """Before a fork: wait until no foreign code works on what the locks guard."""
    held = _held.get()
    for lock in list(_locks):
        if lock._fork_waits and id(lock) not in held and lock._acquire(_FORK_PATIENCE):
            _held_for_fork.append(lock)


def _let_go_after_fork() -> None:
    while _held_for_fork:
        _held_for_fork.pop()._release()


def _forget_threads() -> None:
    """In a forked child: the threads that ran the pool and held the locks are not there any more."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()
    _held_for_fork.clear()
    for lock in list(_locks):
        lock._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_for_fork, after_in_parent=_let_go_after_fork, after_in_child=_forget_threads)
