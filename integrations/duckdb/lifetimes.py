"""What a fork and the end of the interpreter need of the connections that functions are registered with.

DuckDB's threads call Python functions. A child of a fork is without them, and the end of a connection would wait for
them for ever. An interpreter that ends while they call aborts: so it has to wait until they are done.
"""

import atexit
import contextlib
import ctypes
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

# Held while functions are registered. It can be taken twice, since what Python's garbage collector or a signal comes
# upon in between may register too.
lock = threading.RLock()

_connections: "weakref.WeakSet[duckdb.DuckDBPyConnection]" = weakref.WeakSet()

# A fork waits so long for a registration going on: the child would find the database's locks held for ever.
_FORK_PATIENCE = 30.0
_held_for_fork = False

# A statement goes on in DuckDB's threads, after what was fetched of it, if they called within so many seconds.
_GOING_ON = 10.0
_last_call = -_GOING_ON


def watch(con: "duckdb.DuckDBPyConnection") -> None:
    """Remember a connection, as long as it is there."""
    _connections.add(con)


def called() -> None:
    """Note when a thread of DuckDB's calls a function."""
    global _last_call
    if threading.get_ident() != threading.main_thread().ident:
        _last_call = time.monotonic()


def _end_statements() -> None:
    """Before the interpreter ends: close connections, and with them their cursors, where a statement goes on."""
    import duckdb

    if time.monotonic() - _last_call < _GOING_ON:
        for con in list(_connections):
            with contextlib.suppress(duckdb.Error):  # a daemon thread is in it
                con.close()


def _hold_for_fork() -> None:
    global _held_for_fork
    _held_for_fork = lock.acquire(timeout=_FORK_PATIENCE)


def _let_go_after_fork() -> None:
    if _held_for_fork:
        lock.release()


def _forget_threads() -> None:
    """In a forked child: never close the connections that it inherited."""
    global lock, _last_call
    lock, _last_call = threading.RLock(), -_GOING_ON
    for con in list(_connections):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(con))
    _connections.clear()


atexit.register(_end_statements)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_for_fork, after_in_parent=_let_go_after_fork, after_in_child=_forget_threads)
