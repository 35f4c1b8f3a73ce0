"""DuckDB where it can touch nothing but what it is given: the instance that evaluates expressions."""

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from attnbridge.threads import usable_threads

if TYPE_CHECKING:
    import duckdb

MOST_DEPTH = 250  # of an expression
_MOST_MEMORY = "2GB"

# GLOBAL where a cursor would start with the default again.
_SETTINGS = (
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET autoload_known_extensions = false",
    "SET autoinstall_known_extensions = false",
    "SET GLOBAL python_enable_replacements = false",
    f"SET GLOBAL max_expression_depth = {MOST_DEPTH}",
    "SET GLOBAL lambda_syntax = 'ENABLE_SINGLE_ARROW'",  # x -> x + 1 beside lambda x: x + 1
    f"SET memory_limit = '{_MOST_MEMORY}'",
    "SET GLOBAL TimeZone = 'UTC'",  # the same answer on every machine
    "SET lock_configuration = true",
)


class Function(NamedTuple):
    """What DuckDB knows of a function's name, over all its overloads."""

    kinds: set[str]
    stable: bool
    macro: str | None


class Engine(NamedTuple):
    """The DuckDB instance of one process: in memory, shut off from files, extensions and Python variables."""

    connection: "duckdb.DuckDBPyConnection"
    functions: dict[str, Function]


def quiet_connection(threads: int | None = None) -> "duckdb.DuckDBPyConnection":
    """Return a database in memory of our own, that prints nothing.

    In a REPL, a notebook or `python -c` DuckDB draws a progress bar of what takes 2 seconds, onto stdout.
    """
    import duckdb

    connection = duckdb.connect(config={} if threads is None else {"threads": threads})
    connection.execute("SET enable_progress_bar = false")
    return connection


_engine: Engine | None = None
_engine_lock = threading.Lock()
forked = False


def running_engine() -> Engine:
    """Return this process's instance, made when it is first asked for."""
    global _engine
    with _engine_lock:
        if _engine is None:
            connection = quiet_connection(usable_threads())
            for setting in _SETTINGS:
                connection.execute(setting)
            found = connection.execute(
                "SELECT function_name, list(function_type), bool_and(coalesce(stability, 'CONSISTENT') = "
                "'CONSISTENT'), any_value(macro_definition) FROM duckdb_functions() GROUP BY function_name"
            ).fetchall()
            functions = {name.lower(): Function(set(kinds), stable, macro) for name, kinds, stable, macro in found}
            _engine = Engine(connection, functions)
        return _engine


def _forget_engine() -> None:
    """In a forked child: DuckDB's threads are not there; closing the instance would wait for them for ever."""
    global _engine, _engine_lock, forked
    if _engine is not None:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_engine.connection))  # never closed
    _engine, _engine_lock, forked = None, threading.Lock(), True


if hasattr(os, "register_at_fork"):
    # A fork waits for `import duckdb`: a child would find the module's lock held for ever.
    os.register_at_fork(
        before=lambda: _engine_lock.acquire() and None,
        after_in_parent=lambda: _engine_lock.release(),
        after_in_child=_forget_engine,
    )
