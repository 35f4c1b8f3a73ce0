"""One boolean SQL expression over payload and id, evaluated by DuckDB where it can touch nothing else."""

import functools
import json
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.integrations import engine
from attnbridge.integrations.payload import Payload
from attnbridge.integrations.rows import Ids

if TYPE_CHECKING:
    import duckdb

# Beyond these DuckDB's parser takes seconds (nested comments) and its optimizer too (long sums).
_MOST_CHARACTERS = 20_000
_CACHED_MASKS = 64
_QUICK_ROWS = 100_000
_VIEW = "__attnbridge__"  # no payload column's name is likely to hide behind it
_PLACE = "__attnbridge_place__"  # a row's number: where DuckDB makes a join of an IN it keeps no order

# What an expression is made of; subqueries, windows, stars and the rest are not.
_ALLOWED = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "LAMBDA",
    "LAMBDA_REF",
    "OPERATOR",
    "PARAMETER",
    "TYPE",
}
_REFUSED = {
    "SUBQUERY": "must have no subquery (SELECT, ANY); compare with a list: id IN $ids, list_contains(tags, 'a')",
    "WINDOW": "must have no window function (OVER); it sees one row at a time",
    "STAR": "must name its columns one by one, without * or COLUMNS",
}
# Scalar functions that tell of the session, run SQL, or make values of any size past DuckDB's memory limit.
_DENIED = {
    "array_reduce",
    "array_resize",
    "bitstring",
    "combine",
    "current_setting",
    "finalize",
    "format",
    "generate_series",
    "getvariable",
    "json_deserialize_sql",
    "json_serialize_plan",
    "json_serialize_sql",
    "list_reduce",
    "list_resize",
    "lpad",
    "parse_duckdb_log_message",
    "printf",
    "range",
    "reduce",
    "repeat",
    "rpad",
    "to_aggregate_state",
}
# What changes by itself is allowed, but its masks are not kept: names without parentheses, and functions.
_CLOCK_NAMES = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
_CHANGING = _CLOCK_NAMES | {
    "age",
    "current_localtime",
    "current_localtimestamp",
    "gen_random_uuid",
    "get_current_time",
    "get_current_timestamp",
    "now",
    "random",
    "today",
    "transaction_timestamp",
    "uuid",
    "uuidv4",
    "uuidv7",
}


_matchers: "weakref.WeakSet[Matcher]" = weakref.WeakSet()


class _Expression(NamedTuple):
    """What a checked text refers to: names that may be columns (lower case), parameters, and whether it is stable."""

    names: frozenset[str]
    params: frozenset[str]
    stable: bool


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every expression of a serialized tree."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            if "class" in node:
                yield node
            if node.get("class") != "CONSTANT":  # what a constant holds is data
                waiting.extend(node.values())


def _serialized(text: str) -> Any:
    """Return the tree of `text`, which must be one expression."""
    query = f"SELECT (\n{text}\n)"
    with engine.running_engine().connection.cursor() as cursor:
        (answer,) = cursor.execute("SELECT json_serialize_sql($1::VARCHAR)", [query]).fetchone() or ("",)
    try:
        parsed = json.loads(answer)
    except RecursionError:
        raise InvalidInputError("where must be nested less deeply; split it, or pass lists as parameters") from None
    if parsed["error"]:
        message = str(parsed["error_message"]).partition("\n")[0][:200]
        if "Only SELECT" in message:
            raise _not_one(text)
        position = int(parsed.get("position", 9)) - len("SELECT (\n")
        raise InvalidInputError(f"where must be one SQL expression: {message} at position {position} of {_short(text)}")
    node = parsed["statements"][0]["node"]
    clauses = ("where_clause", "having", "qualify", "sample", "group_expressions", "group_sets", "modifiers")
    if (
        len(parsed["statements"]) != 1
        or node["type"] != "SELECT_NODE"
        or node["from_table"]["type"] != "EMPTY"
        or len(node["select_list"]) != 1
        or node["select_list"][0]["alias"]
        or node["cte_map"]["map"]
        or any(node[clause] for clause in clauses)
    ):
        raise _not_one(text)
    return node["select_list"][0]


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")


def _not_one(text: str) -> InvalidInputError:
    return InvalidInputError(
        f"where must be one SQL expression, without statements and clauses of its own, got {_short(text)}; "
        "write what would stand after WHERE"
    )


@functools.lru_cache(maxsize=256)
def _checked(text: str) -> _Expression:
    """Parse `text` and refuse all that is not made of columns, constants, parameters and functions of them."""
    names: set[str] = set()
    params: set[str] = set()
    stable = True
    for node in _nodes(_serialized(text)):
        kind = node["class"]
        if kind not in _ALLOWED or node["type"] == "GROUPING_FUNCTION":
            rule = _REFUSED.get(kind, "must be made of columns, constants, $parameters, operators and functions")
            raise InvalidInputError(f"where {rule}; got {_short(text)}")
        if kind == "COLUMN_REF":
            parts = {part.lower() for part in node["column_names"]}
            names |= parts
            stable = stable and not parts & _CLOCK_NAMES
        elif kind == "PARAMETER":
            params.add(node["identifier"])
        elif kind == "FUNCTION":
            path = [node["schema"], node.get("catalog", ""), *node.get("qualified_name", {}).get("path", [])]
            names |= {part.lower() for part in path}  # column.function()
            stable = _is_stable(node["function_name"]) and stable
    for param in params:
        if param.isdecimal():
            raise InvalidInputError(f"where must name its parameters, as $name, not ? or $1; got {_short(text)}")
    return _Expression(frozenset(names), frozenset(params), stable)


def _is_stable(name: str) -> bool:
    """Return whether a function's value depends on its arguments alone; refuse functions that are not for rows."""
    name = name.lower()
    if name in _CHANGING:
        return False
    function = engine.running_engine().functions.get(name)
    if function is None:
        raise InvalidInputError(f"where must use functions that DuckDB has: {name} is unknown; its manual lists them")
    if "aggregate" in function.kinds:
        raise InvalidInputError(
            f"where must not aggregate over rows, got {name}(); list_{name}() and the like aggregate a list"
        )
    if function.kinds == {"macro"} and function.macro is not None:
        try:
            return _checked(function.macro).stable
        except InvalidInputError:
            pass  # it reads DuckDB's tables, aggregates or unnests
    elif (
        function.kinds & {"scalar", "macro"} == {"scalar"}
        and function.stable
        and name not in _DENIED
        and not name.startswith("__")
    ):
        return True
    raise InvalidInputError(f"where must use functions of a row's values alone: {name}() is not allowed; leave it out")


def _plain(value: Any, name: str) -> Any:
    """Return a parameter's value in Python's own types."""
    if isinstance(value, np.generic):
        value = value.item()
    for convert in ("tolist", "to_pylist", "to_list"):
        if hasattr(value, convert):
            value = getattr(value, convert)()
            break
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(
                f"params must be text in Unicode: {name!r} is {value!r}; take the surrogate out"
            ) from None
        return str.__str__(value)  # of an enum too
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**64:
            raise InvalidInputError(f"params must fit 64 bits: {name!r} is {value}; use a float or text")
        return int(value)
    if value is None or isinstance(value, bool | float | bytes | date | time | timedelta | Decimal | UUID):
        return value
    raise InvalidInputError(
        f"params must be numbers, text, bytes, bool, None, dates and times, or lists of these: {name!r} is "
        f"{type(value).__name__}; convert it"
    )


def _check_params(params: Any, expression: _Expression) -> dict[str, Any]:
    """Return the values of exactly the parameters that the expression names."""
    params = {} if params is None else params
    if not isinstance(params, dict):
        raise InvalidInputError(
            f"params must be a dict of the values of where's $names, got {type(params).__name__}; "
            'write {"name": value}'
        )
    for name in sorted(expression.params):
        if name not in params:
            raise InvalidInputError(f"params must have a value for each $name in where: {name!r} is missing; add it")
    for name in params:
        if name not in expression.params:
            raise InvalidInputError(
                f"params must be named in where: {name!r} is not; write ${name} there, or leave it out"
            )
    if len({name.lower() for name in params}) < len(params):
        raise InvalidInputError(
            f"params must have distinct names, without regard to case, got {', '.join(sorted(params))}; rename one"
        )
    return {name: _plain(value, name) for name, value in params.items()}


def _check_text(where: Any) -> str:
    if not isinstance(where, str):
        raise InvalidInputError(
            f'where must be a SQL expression as str, got {type(where).__name__}; write "year > 2000"'
        )
    if not where.strip():
        raise InvalidInputError("where must not be empty; leave it out to search all documents")
    if len(where) > _MOST_CHARACTERS:
        raise InvalidInputError(
            f"where must have at most {_MOST_CHARACTERS} characters, got {len(where)}; pass long lists as "
            "parameters: id IN $ids"
        )
    if "\0" in where or any("\ud800" <= character <= "\udfff" for character in where):
        raise InvalidInputError(f"where must be text in Unicode, without NUL, got {_short(where)}; take it out")
    return where


def _computed(cursor: "duckdb.DuckDBPyConnection", query: str, params: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return the query's columns; Ctrl-C breaks it off.

    Python sees Ctrl-C on the main thread alone, and not while that is inside DuckDB: so over many rows it waits
    outside. Over few rows DuckDB looks for it often enough; and in a forked child a thread of ours can make DuckDB
    1.5 crash when Python ends.
    """
    done = threading.Event()
    outcome: list[dict[str, Any]] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(cursor.execute(query, params or None).fetchnumpy())
        except BaseException as error:  # noqa: BLE001 - raised by the calling thread below
            errors.append(error)
        finally:
            done.set()

    if rows <= _QUICK_ROWS or engine.forked or threading.current_thread() is not threading.main_thread():
        run()
    else:
        worker = threading.Thread(target=run, name="attnbridge-where", daemon=True)
        worker.start()
        try:
            done.wait()
        except BaseException:
            cursor.interrupt()
            raise
        finally:
            worker.join()
    if errors:
        raise errors[0]
    return outcome[0]


class Matcher:
    """Masks of the rows of which an expression is true.

    Parameters
    ----------
    ids : Ids
        The documents' ids, all str or all int.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations.columns import as_table
    >>> from attnbridge.integrations.payload import Payload
    >>> from attnbridge.integrations.rows import Ids
    >>> from attnbridge.integrations.where import Matcher
    >>> payload = Payload.empty(0).append(as_table({"year": [1999, 2004, None]}, 3), 3)
    >>> ids = Ids()
    >>> ids.put(0, ["a", "b", "c"])
    >>> Matcher(ids).mask("year > $y", {"y": 2000}, payload, np.ones(3, bool))
    array([False,  True, False])
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._column: Payload | None = None  # the ids in Arrow, as far as they were asked for
        self._masks: OrderedDict[Any, tuple[Any, Any, npt.NDArray[np.bool_]]] = OrderedDict()
        self._lock = threading.Lock()
        _matchers.add(self)

    def mask(
        self, where: str, params: dict[str, Any] | None, payload: Payload, alive: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Return the live rows of which `where` is TRUE; of NULL it is not.

        Parameters
        ----------
        where : str
            One SQL expression of DuckDB's, of type BOOLEAN, over the payload's columns and id.
        params : dict or None
            The values of its $names.
        payload : Payload
        alive : ndarray of bool (count,)
            Must not change afterwards: it and `payload` are known again by identity.

        Returns
        -------
        ndarray of bool (count,)
            Read-only.

        Raises
        ------
        InvalidInputError
            A syntax error, an unknown column, anything but a boolean expression of a row's values, parameters that
            do not fit it, or what DuckDB cannot compute of a live row.
        """
        expression = _checked(_check_text(where))
        values = _check_params(params, expression)
        key = (where, repr(sorted(values.items())), id(payload), id(alive))
        with self._lock:
            cached = self._masks.get(key)
            if cached is not None and cached[0]() is payload and cached[1]() is alive:
                self._masks.move_to_end(key)
                return cached[2]
        mask = self._evaluated(where, values, expression, payload, alive)
        mask.flags.writeable = False
        if expression.stable:
            with self._lock:
                self._masks[key] = (weakref.ref(payload), weakref.ref(alive), mask)
                self._masks.move_to_end(key)
                while len(self._masks) > _CACHED_MASKS:
                    self._masks.popitem(last=False)
        return mask

    def _id_column(self, count: int) -> Any:
        """Return the first `count` ids as an Arrow column; those not seen before are appended to it."""
        import pyarrow as pa

        with self._lock:
            column = Payload.empty(0) if self._column is None else self._column
            if len(column) < count:
                new = pa.table({"id": pa.array(self._ids.part(len(column), count))})
                column = self._column = column.append(new, count - len(column))
        return column.table()["id"].slice(0, count) if count else pa.chunked_array([pa.nulls(0)])

    def _evaluated(
        self,
        where: str,
        params: dict[str, Any],
        expression: _Expression,
        payload: Payload,
        alive: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_]:
        import duckdb
        import pyarrow as pa

        stored = payload.table()
        columns = {name: stored[name] for name in payload.names if name.lower() in expression.names}
        if "id" in expression.names:
            columns["id"] = self._id_column(len(alive))
        place = _PLACE
        while place in expression.names:
            place += "_"
        columns[place] = pa.array(np.arange(len(alive), dtype=np.int32))
        table = pa.table(columns)
        if not alive.all():  # a stale value must not raise errors, so DuckDB does not get to see it
            table = table.filter(pa.array(alive))
        with engine.running_engine().connection.cursor() as cursor:
            cursor.register(_VIEW, table.to_reader())
            try:
                query = f"SELECT (\n{where}\n) AS m, {place} FROM {_VIEW}"
                result = _computed(cursor, query, params, table.num_rows)
            except duckdb.BinderException as error:
                known = f"; the columns are {', '.join(['id', *payload.names])}" if "not found" in str(error) else ""
                raise InvalidInputError(f"where cannot be evaluated: {_reason(error)}{known}") from error
            except (duckdb.Error, RuntimeError) as error:
                if "Query interrupted" in str(error):  # DuckDB saw Ctrl-C
                    raise KeyboardInterrupt from error
                raise InvalidInputError(f"where cannot be evaluated: {_reason(error)}; got {_short(where)}") from error
            finally:
                cursor.unregister(_VIEW)
            description = cursor.description
            dtype = str(description[0][1]) if description else ""
        if dtype != "BOOLEAN":
            raise InvalidInputError(
                f"where must be a BOOLEAN expression, got {dtype} from {_short(where)}; compare it: year > 0"
            )
        mask = np.zeros(len(alive), np.bool_)
        mask[result[place]] = np.ma.filled(result["m"], False)
        return mask


def _forget_threads() -> None:
    """In a forked child: whoever held the locks is not there."""
    for matcher in list(_matchers):
        matcher._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
