"""What makes the SQL functions known to a database."""

import contextlib
import hashlib
import os
import re
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnbridge.errors import InvalidConfigError
from attnbridge.functional import MAX_KEYS
from attnbridge.integrations.duckdb import lifetimes, lookup, pairs, sets
from attnbridge.integrations.duckdb.macros import identifier, macros, text
from attnbridge.validation import as_count

if TYPE_CHECKING:
    import duckdb

    from attnbridge.integrations.bridge import AttentionVectorBridge

_HITS = "STRUCT(id {}, score DOUBLE, weight DOUBLE, distance FLOAT)[]"


def _of_any(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as DuckDB takes one of any number of arguments of any type."""

    def called(*columns: Any) -> Any:
        lifetimes.called()
        return function(*columns)

    return called


# What the macros call, and what it returns. DuckDB keeps no reference of its own to a function once the connection that
# it came by is gone, but goes on calling it: these live as long as the process.
_FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "_attnbridge_query": (_of_any(pairs.query), "BIGINT"),
    "_attnbridge_score": (_of_any(pairs.score), "FLOAT"),
    "_attnbridge_softmax": (_of_any(sets.softmax), "FLOAT[]"),
    "_attnbridge_scores": (_of_any(sets.scores), "FLOAT[]"),
    "_attnbridge_attention": (_of_any(sets.attention), "FLOAT[]"),
    "_attnbridge_rank": (_of_any(sets.rank), "STRUCT(place BIGINT, score FLOAT, weight FLOAT)[]"),
    "_attnbridge_search_bigint": (_of_any(lookup.search_bigint), _HITS.format("BIGINT")),
    "_attnbridge_search_varchar": (_of_any(lookup.search_varchar), _HITS.format("VARCHAR")),
    "_attnbridge_payload": (_of_any(lookup.payload), "VARCHAR"),
}


def register(
    con: "duckdb.DuckDBPyConnection",
    *,
    prefix: str = "ruvector_",
    index: "AttentionVectorBridge | None" = None,
    max_keys: int = MAX_KEYS,
) -> None:
    """Make the SQL functions known to a connection's database, for all its cursors.

    Doing it again changes nothing, or what is asked for anew. In a database opened read-only the functions are
    temporary: of this connection, without its cursors.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
    prefix : str, default "ruvector_"
        Of the functions' names: letters, digits and underscores, or nothing.
    index : AttentionVectorBridge, optional
        What ``ruvector_search`` searches. It is kept while `con` is there, and as long as you keep it afterwards.
    max_keys : int, default 100,000
        Longer lists of keys are refused.

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import duckdb, attnbridge.integrations.duckdb as ad
    >>> con = duckdb.connect()
    >>> ad.register(con)
    >>> con.execute("SELECT ruvector_attention_score([1, 2], [3, 4], options := {scale: 1.0})").fetchone()
    (11.0,)
    """
    limit = as_count(max_keys, "max_keys")
    if not isinstance(prefix, str) or not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]{0,40})?", prefix):
        raise InvalidConfigError(
            f"prefix must be letters, digits and underscores, none first, or empty, got {prefix!r}; leave it out"
        )
    with lifetimes.lock, con.cursor() as cursor:  # whose statements are no part of a transaction of the caller's
        lifetimes.watch(con)
        _create_functions(cursor)
        marker = f"_attnbridge_{prefix}registered"
        found = _call(con, marker)
        known = None if found is None else lookup.registration(found.partition(" ")[2])
        replaced = None
        if index is not None and (known is None or known.index is not index):
            replaced, known = known, lookup.Registration(index)
            weakref.finalize(con, known.let_go)
        elif known is None:
            known = lookup.Registration(None)
        bodies = {prefix + name: body for name, body in macros(limit, known.token, known.ids).items()}
        version = hashlib.sha256(repr(bodies).encode()).hexdigest()[:16]
        wanted = f"{version} {known.token}"
        if found != wanted:
            _create_macros(con, cursor, bodies | {marker: f"() AS {text(wanted)}"})
            if _call(con, marker) != wanted:
                raise InvalidConfigError(
                    "con must not be in a transaction that began before the functions were made; commit it first"
                )
        if replaced is not None:
            replaced.let_go()


def connect(
    database: str | os.PathLike[str] = ":memory:",
    *,
    read_only: bool = False,
    config: dict[str, Any] | None = None,
    prefix: str = "ruvector_",
    index: "AttentionVectorBridge | None" = None,
    max_keys: int = MAX_KEYS,
) -> "duckdb.DuckDBPyConnection":
    """Open a DuckDB database in which the SQL functions are known.

    Parameters
    ----------
    database : path-like, default ":memory:"
        A file, made where there is none.
    read_only, config
        As `duckdb.connect` takes them.
    prefix, index, max_keys
        As `register` takes them.

    Returns
    -------
    duckdb.DuckDBPyConnection

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> with ab.connect() as con:
    ...     con.execute("SELECT ruvector_softmax([0.0, 0.0])").fetchone()
    ([0.5, 0.5],)
    """
    import duckdb

    con = duckdb.connect(os.fspath(database), read_only=read_only, config=config or {})
    try:
        register(con, prefix=prefix, index=index, max_keys=max_keys)
    except BaseException:
        con.close()
        raise
    return con


def _create_functions(cursor: "duckdb.DuckDBPyConnection") -> None:
    import duckdb
    from duckdb import func

    there = {
        name
        for (name,) in cursor.execute(
            "SELECT function_name FROM duckdb_functions() WHERE starts_with(function_name, '_attnbridge_')"
        ).fetchall()
    }
    for name, (function, returned) in _FUNCTIONS.items():
        if name not in there:
            with contextlib.suppress(duckdb.CatalogException):  # another thread was first
                cursor.create_function(
                    name, function, return_type=returned, type=func.ARROW, null_handling=func.SPECIAL
                )


def _call(con: "duckdb.DuckDBPyConnection", macro: str) -> str | None:
    """Return what a macro without arguments returns, None where there is none."""
    import duckdb

    try:
        (value,) = con.execute(f"SELECT {identifier(macro)}()").fetchone() or (None,)
    except duckdb.CatalogException:
        return None
    return None if value is None else str(value)


def _create_macros(
    con: "duckdb.DuckDBPyConnection", cursor: "duckdb.DuckDBPyConnection", bodies: dict[str, str]
) -> None:
    """Create macros where the connection finds them: in its current schema, or temporary ones."""
    import duckdb

    places = con.execute("SELECT current_database(), current_schema()").fetchone()
    place = ".".join(map(identifier, places or ()))
    cursor.begin()
    try:
        for name, body in bodies.items():
            cursor.execute(f"CREATE OR REPLACE MACRO {place}.{identifier(name)}{body}")
        cursor.commit()
    except duckdb.InvalidInputException:  # read-only
        cursor.rollback()
        for name, body in bodies.items():
            con.execute(f"CREATE OR REPLACE TEMP MACRO {identifier(name)}{body}")
