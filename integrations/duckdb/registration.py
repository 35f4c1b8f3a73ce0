"""What makes the SQL functions known to a database."""

import hashlib
import os
import re
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnbridge.errors import InvalidConfigError
from attnbridge.functional import MAX_KEYS
from attnbridge.integrations.duckdb import lifetimes, lookup, pairs, sets, walks
from attnbridge.integrations.duckdb.macros import identifier, macros, text
from attnbridge.integrations.duckdb.registered import NONE, Registered
from attnbridge.mechanisms.base import Attention
from attnbridge.scoring import register_all
from attnbridge.validation import as_count

if TYPE_CHECKING:
    import duckdb

    from attnbridge.integrations.bridge import AttentionVectorBridge
    from attnbridge.integrations.networkx import AttentionGraph

_HITS = "STRUCT(id {}, score DOUBLE, weight DOUBLE, distance FLOAT)[]"
_WALKED = "STRUCT(node VARCHAR, score DOUBLE, hop BIGINT, path VARCHAR[]{})[]"


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
    "_attnbridge_distance": (_of_any(pairs.distance), "FLOAT"),
    "_attnbridge_softmax": (_of_any(sets.softmax), "FLOAT[]"),
    "_attnbridge_scores": (_of_any(sets.scores), "FLOAT[]"),
    "_attnbridge_attention": (_of_any(sets.attention), "FLOAT[]"),
    "_attnbridge_rank": (_of_any(sets.rank), "STRUCT(place BIGINT, score FLOAT, weight FLOAT)[]"),
    "_attnbridge_search_bigint": (_of_any(lookup.search_bigint), _HITS.format("BIGINT")),
    "_attnbridge_search_varchar": (_of_any(lookup.search_varchar), _HITS.format("VARCHAR")),
    "_attnbridge_payload": (_of_any(lookup.payload), "VARCHAR"),
    "_attnbridge_k_hop": (_of_any(walks.k_hop), _WALKED.format("")),
    "_attnbridge_match": (_of_any(walks.match), _WALKED.format(", record VARCHAR")),
}

# What macros refer to by a token.
_REGISTERED: "dict[str, Registered[Any]]" = {"index": lookup.indexes, "graph": walks.graphs}

# The GNU C library gives freed memory back to the system, page by page, until a block as large as this has been freed
# (mallopt(3), M_MMAP_THRESHOLD); then it keeps what DuckDB asks for again with each chunk's Arrow column.
_LARGEST = (32 << 20) - (64 << 10)

# What each connection keeps alive: index and graph by where the macros over them are, and their prefix.
_kept: "weakref.WeakKeyDictionary[duckdb.DuckDBPyConnection, dict[tuple[_Place, str], dict[str, Any]]]" = (
    weakref.WeakKeyDictionary()
)


class _Place(NamedTuple):
    """Where macros are made: in the current schema, or among the connection's temporary ones."""

    database: str
    schema: str
    temporary: bool

    def create(self, name: str) -> str:
        """Return the SQL that makes a macro there, up to its parameters."""
        if self.temporary:
            return f"CREATE OR REPLACE TEMP MACRO {identifier(name)}"
        return f"CREATE OR REPLACE MACRO {'.'.join(map(identifier, (self.database, self.schema, name)))}"


def register(
    con: "duckdb.DuckDBPyConnection | ModuleType",
    *,
    prefix: str = "ruvector_",
    index: "AttentionVectorBridge | None" = None,
    graph: "AttentionGraph | None" = None,
    types: Mapping[str, Attention] | None = None,
    max_keys: int = MAX_KEYS,
) -> None:
    """Make the SQL functions known to a connection's database, for all its cursors.

    They are macros in the current schema, over functions that live in this process. A database file keeps the macros
    alone: opened by `duckdb.connect`, DuckDB says that a function ``_attnbridge_...`` does not exist, until this is
    called (or `connect`). In a database opened read-only the macros are temporary: of this connection, without its
    cursors.

    Doing it again changes nothing, or what is asked for anew; without `index` or `graph` the one before stays. What
    `con` executed last and was not fetched is lost.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        Or the module duckdb, for its default connection.
    prefix : str, default "ruvector_"
        Of the functions' names: letters, digits and underscores, at most 40, or nothing.
    index : AttentionVectorBridge, optional
        What ``ruvector_search`` searches, as it is at each search. It is kept while `con` is there, and as long as you
        keep it afterwards. Whether ids are BIGINT or VARCHAR is settled here, VARCHAR where it is empty.
    graph : AttentionGraph, optional
        What ``ruvector_k_hop`` and ``ruvector_match`` walk, as it is at each call; kept as the index is.
    types : mapping of str to Attention, optional
        Mechanisms under names that the functions take as they take those of `attention_types`; all of Python's do from
        then on too (`register_attention`).
    max_keys : int, default 100,000
        Longer lists of keys are refused.

    Raises
    ------
    InvalidConfigError
        A connection that is closed, or in a transaction while something has to be made; a prefix with which a macro of
        your own would be replaced.

    Notes
    -----
    ``ruvector_search(query, k := 10, candidates, where_sql, rerank, params, query_text, query_tokens, position, ef,
    exact, radius, threshold)`` is `AttentionVectorBridge.search` as a table of id, score, weight, distance and payload:
    every argument may differ by row where it is lateral (``FROM queries, ruvector_search(embedding, k := 5)``), and
    NULL is Python's None. Rows come best first out of one search; joins, lateral ones too, promise no order. payload
    is JSON, ``{}`` where the index has none, NULL where the document was removed meanwhile, and is read only where it
    is selected. It searches with as many threads as DuckDB has, at most the index's own number.

    ``ruvector_k_hop(node, k := 2, query, max_results, direction := 'out')`` is `AttentionGraph.k_hop` as a table of
    node, score, hop and path, ``ruvector_match(pattern, query, params, start, per_step)`` is `AttentionGraph.match` as
    a table of the same about each row's first path, node being its last, and record: what RETURN gives, as JSON. Nodes
    are text there; a node given is one that equals the value, or whose text it is.

    Examples
    --------
    >>> import duckdb, attnbridge.integrations.duckdb as ad
    >>> con = duckdb.connect()
    >>> ad.register(con)
    >>> con.execute("SELECT ruvector_attention_score([1, 2], [3, 4], options := {scale: 1.0})").fetchone()
    (11.0,)
    """
    limit = as_count(max_keys, "max_keys")
    if not isinstance(prefix, str) or not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]{0,39})?", prefix):
        raise InvalidConfigError(
            f"prefix must be at most 40 letters, digits and underscores, no digit first, or empty, got {prefix!r}; "
            "leave it out"
        )
    con = _connection(con)
    _require_kinds(index, graph)
    if types is not None:
        register_all(types)
    with lifetimes.lock:
        place = _place(con)
        there = _there(con, place)
        marker = f"_attnbridge_{prefix}registered"
        found = there.get((marker.lower(), "macro"), "").strip("'")
        tokens = {
            name: _token(con, prefix, found, name) if thing is None else _REGISTERED[name].token_of(thing)
            for name, thing in {"index": index, "graph": graph}.items()
        }
        made = macros(limit, **tokens, ids=lookup.ids_of(tokens["index"]))
        bodies = {prefix + name: body for name, body in made.items()}
        wanted = " ".join([hashlib.sha256(repr(bodies).encode()).hexdigest()[:16], *tokens.values()])
        missing = {name.lower() for name in (*_FUNCTIONS, *bodies)} - {name for name, _ in there}
        if found != wanted or missing:
            _require_no_transaction(con)
            with con.cursor() as cursor:
                _create_functions(cursor, missing)
                yours = {} if found else {key: there[key] for key in there if key[0] in map(str.lower, bodies)}
                _create_macros(
                    con if place.temporary else cursor, place, bodies | {marker: f"() AS {text(wanted)}"}, yours
                )
        things = {name: _REGISTERED[name].get(token) for name, token in tokens.items()}
        _kept.setdefault(con, {})[place, prefix.lower()] = things
        lifetimes.watch(con)


def connect(
    database: str | os.PathLike[str] = ":memory:",
    *,
    read_only: bool = False,
    config: dict[str, Any] | None = None,
    prefix: str = "ruvector_",
    index: "AttentionVectorBridge | None" = None,
    graph: "AttentionGraph | None" = None,
    types: Mapping[str, Attention] | None = None,
    max_keys: int = MAX_KEYS,
) -> "duckdb.DuckDBPyConnection":
    """Open a DuckDB database in which the SQL functions are known.

    Parameters
    ----------
    database : path-like, default ":memory:"
        A file, made where there is none.
    read_only, config
        As `duckdb.connect` takes them.
    prefix, index, graph, types, max_keys
        As `register` takes them.

    Returns
    -------
    duckdb.DuckDBPyConnection

    Raises
    ------
    InvalidConfigError
        As of `register`; a file that cannot be opened is an error of DuckDB's.

    Examples
    --------
    >>> import attnbridge as ab
    >>> with ab.connect() as con:
    ...     con.execute("SELECT ruvector_softmax([0.0, 0.0])").fetchone()
    ([0.5, 0.5],)
    """
    import duckdb

    if not isinstance(database, str | os.PathLike):
        raise InvalidConfigError(f"database must be a path or ':memory:', got {database!r}; leave it out")
    con = duckdb.connect(os.fspath(database), read_only=read_only, config=config or {})
    try:
        register(con, prefix=prefix, index=index, graph=graph, types=types, max_keys=max_keys)
    except BaseException:
        con.close()
        raise
    return con


def _connection(con: Any) -> "duckdb.DuckDBPyConnection":
    """Return an open connection that macros can be made in."""
    import duckdb

    if con is duckdb:
        con = duckdb.default_connection()
    if not isinstance(con, duckdb.DuckDBPyConnection):
        raise InvalidConfigError(
            f"con must be a connection of DuckDB's, got {con!r}; attnbridge.connect(path) opens one"
        )
    return con


def _require_kinds(index: Any, graph: Any) -> None:
    if index is not None:
        from attnbridge.integrations.bridge import AttentionVectorBridge

        if not isinstance(index, AttentionVectorBridge):
            raise InvalidConfigError(
                f"index must be an AttentionVectorBridge, got {index!r}; AttentionVectorBridge.open(folder) reads one"
            )
    if graph is not None:
        from attnbridge.integrations.networkx import AttentionGraph

        if not isinstance(graph, AttentionGraph):
            raise InvalidConfigError(f"graph must be an AttentionGraph, got {graph!r}; AttentionGraph(G) makes one")


def _require_no_transaction(con: "duckdb.DuckDBPyConnection") -> None:
    """Refuse a connection in a transaction, which would not see what is made meanwhile."""
    ids = {con.execute("SELECT txid_current()").fetchall()[0] for _ in range(2)}
    if len(ids) == 1:
        raise InvalidConfigError(
            "con must not be in a transaction when functions are made or changed; commit it or roll it back first"
        )


def _place(con: "duckdb.DuckDBPyConnection") -> _Place:
    """Return the current schema, or the connection's temporary one where that cannot be written."""
    import duckdb

    query = (
        "SELECT database_name, current_schema(), readonly OR internal OR type <> 'duckdb' FROM duckdb_databases() "
        "WHERE database_name = current_database()"
    )
    try:
        ((database, schema, fixed),) = con.execute(query).fetchall()
    except duckdb.ConnectionException as error:
        raise InvalidConfigError("con must be open, this connection is closed; open another one") from error
    except duckdb.TransactionException as error:
        raise InvalidConfigError("con must not be in an aborted transaction; con.rollback() ends it") from error
    return _Place("temp", "main", True) if fixed else _Place(database, schema, False)


def _there(con: "duckdb.DuckDBPyConnection", place: _Place) -> dict[tuple[str, str], str]:
    """Return our functions, and all macros in a place: definitions by lower-case name and kind."""
    query = (
        "SELECT lower(function_name), function_type, coalesce(string_agg(macro_definition, '; '), '') "
        "FROM duckdb_functions() WHERE (database_name = 'system' AND starts_with(function_name, '_attnbridge_')) "
        "OR (database_name = ? AND schema_name = ? AND macro_definition IS NOT NULL) GROUP BY ALL"
    )
    found = con.execute(query, [place.database, place.schema]).fetchall()
    return {(name, kind): definition for name, kind, definition in found}


def _token(con: "duckdb.DuckDBPyConnection", prefix: str, found: str, name: str) -> str:
    """Return the token of the index or the graph that is registered, here or from this connection elsewhere."""
    registered = _REGISTERED[name]
    if found:
        return registered.known(dict(zip(_REGISTERED, found.split()[1:], strict=False)).get(name, NONE))
    for (_, other), things in _kept.get(con, {}).items():
        if other == prefix.lower() and things[name] is not None:
            return registered.token_of(things[name])
    return NONE


def _create_functions(cursor: "duckdb.DuckDBPyConnection", missing: set[str]) -> None:
    from duckdb import func

    np.empty(_LARGEST, np.uint8)  # and freed
    for name, (function, returned) in _FUNCTIONS.items():
        if name in missing:
            cursor.create_function(name, function, return_type=returned, type=func.ARROW, null_handling=func.SPECIAL)


def _create_macros(
    con: "duckdb.DuckDBPyConnection", place: _Place, bodies: dict[str, str], yours: dict[tuple[str, str], str]
) -> None:
    """Create macros, all or none of them, and none in place of one of the user's."""
    con.begin()
    try:
        for name, body in bodies.items():
            con.execute(place.create(name) + body)
        now = _there(con, place) if yours else {}
        replaced = sorted(name for (name, kind), definition in yours.items() if now[name, kind] != definition)
        if replaced:
            raise InvalidConfigError(
                f"prefix must leave the macros alone that are there: {', '.join(replaced)} would be replaced; take "
                "another prefix, or drop them"
            )
        con.commit()
    except BaseException:
        con.rollback()
        raise
