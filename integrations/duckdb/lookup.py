"""Table functions over a registered index, for a column of queries at a time."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from operator import is_not
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import AttentionError, InvalidConfigError
from attnbridge.hits import Hits
from attnbridge.integrations.duckdb.arguments import as_options, values
from attnbridge.integrations.duckdb.lists import Lists, as_lists, whole
from attnbridge.integrations.duckdb.registered import Registered
from attnbridge.integrations.search import columns_of
from attnbridge.jsonable import jsonable
from attnbridge.validation import as_bool

if TYPE_CHECKING:
    import pyarrow as pa

    from attnbridge.integrations.bridge import AttentionVectorBridge

indexes: "Registered[AttentionVectorBridge]" = Registered("index", "search")

# What `search_batch` takes once for all queries, and once for each.
_ALIKE = ("k", "candidates", "ef", "exact", "radius", "threshold", "rerank")
_EACH = ("where", "params", "query_text", "position")


def ids_of(token: str) -> str:
    """Return which of the search functions goes with the ids of a token's index: bigint or varchar."""
    index = indexes.get(token)
    return "bigint" if index is not None and index._state.store.id_type is int else "varchar"


def search_bigint(*columns: Any) -> Any:
    """Return the hits of each query, ids as whole numbers."""
    return _search("bigint", *columns)


def search_varchar(*columns: Any) -> Any:
    """Return the hits of each query, ids as text."""
    return _search("varchar", *columns)


class _Searches:
    """The queries of a chunk that go to one index, each with its options.

    Parameters
    ----------
    queries, tokens : Lists
    options : dict of str to list
        Under the Python API's names, a value for each query.
    """

    def __init__(self, queries: Lists, tokens: Lists, options: dict[str, list[Any]]) -> None:
        self.queries, self.tokens, self.options = queries, tokens, options

    def batches(self) -> Iterator[list[int]]:
        """Yield the rows of queries, NULL left out, that one call can search."""
        given = [[value is not None for value in self.options[name]] for name in ("query_text", "position")]
        columns = [*(self.options[name] for name in _ALIKE), *given, (~_nulls(self.tokens)).tolist()]
        differing = [column for column in columns if any(map(is_not, column, repeat(column[0])))]
        batches: dict[str, list[int]] = {}
        for row in np.flatnonzero(~_nulls(self.queries)).tolist():
            batches.setdefault(repr([column[row] for column in differing]), []).append(row)
        yield from batches.values()

    def run(self, index: "AttentionVectorBridge", rows: list[int], threads: int) -> list[Hits]:
        """Return the hits of some rows' queries, which `batches` put together."""
        block = self.queries.block(np.array(rows))
        if block is not None and len(rows) > 1:
            options = self._alike(rows[0]) | {name: self._each(name, rows) for name in _EACH}
            if not self.tokens.is_null(rows[0]):
                options["query_tokens"] = [self.tokens.value(row) for row in rows]
            try:
                return index.search_batch(block, **options, threads=min(threads, index.config["threads"]))
            except AttentionError:  # which of the queries it is, they say one by one
                pass
        return [self._one(index, row) for row in rows]

    def _one(self, index: "AttentionVectorBridge", row: int) -> Hits:
        options = self._alike(row) | {name: self.options[name][row] for name in _EACH}
        return index.search(self.queries.value(row), **options, query_tokens=self.tokens.value(row))

    def _alike(self, row: int) -> dict[str, Any]:
        return {name: self.options[name][row] for name in _ALIKE}

    def _each(self, name: str, rows: list[int]) -> list[Any] | None:
        column = [self.options[name][row] for row in rows]
        return column if any(value is not None for value in column) else None


def _search(
    ids: str, tokens: Any, queries: Any, options: Any, query_tokens: Any, threads: Any, _statement: Any
) -> "pa.Array":
    lists = as_lists(queries, "query")
    searches = _Searches(lists, as_lists(query_tokens, "query_tokens"), _options(whole(options)))
    found: list[Hits | None] = [None] * len(lists)
    if len(lists):
        token, most = whole(tokens)[0].as_py(), whole(threads)[0].as_py()
        for rows in searches.batches():
            for row, hits in zip(rows, searches.run(indexes.require(token), rows, most), strict=True):
                found[row] = hits
    return _as_column(found, ids)


def _options(column: "pa.StructArray") -> dict[str, list[Any]]:
    """Return the columns of a struct of options, as Python values under their names."""
    import pyarrow as pa

    options = {field.name: values(pa.chunked_array([column.field(field.name)])) for field in column.type}
    for name, convert in _CONVERT.items():
        once = {id(value): value for value in options[name]}  # one object stays one: a search tells filters by that
        made = {key: convert(value) for key, value in once.items()}
        options[name] = [made[id(value)] for value in options[name]]
    return options


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "exact": lambda value: value is not None and as_bool(value, "exact"),
    "rerank": lambda value: () if value is None else value,
    "params": lambda value: None if value is None else as_options(value, "params"),
}


def _nulls(lists: Lists) -> npt.NDArray[np.bool_]:
    return np.zeros(len(lists), np.bool_) if lists.valid is None else ~lists.valid


def _as_column(found: Sequence[Hits | None], ids: str) -> "pa.Array":
    """Return hits as a column of lists of structs, None as NULL."""
    import pyarrow as pa

    null = np.array([hits is None for hits in found], np.bool_)
    columns = columns_of([hits for hits in found if hits is not None])
    fields = [_as_ids(columns.ids.tolist(), ids), *map(pa.array, (columns.scores, columns.weights, columns.distances))]
    hits = pa.StructArray.from_arrays(fields, ["id", "score", "weight", "distance"])
    offsets = np.zeros(len(found) + 1, np.int32)
    offsets[1:][~null] = columns.lengths
    np.cumsum(offsets, out=offsets)
    return pa.ListArray.from_arrays(pa.array(offsets), hits, mask=pa.array(null) if null.any() else None)


def _as_ids(ids: list[Any], kind: str) -> "pa.Array":
    import pyarrow as pa

    if kind == "varchar":
        return pa.array([str(id) for id in ids], pa.string())
    if ids and not isinstance(ids[0], int):
        raise InvalidConfigError(
            "the index held whole numbers for ids when it was registered and holds text now; call "
            "attnbridge.integrations.duckdb.register(con, index=bridge) again"
        )
    return pa.array(ids, pa.int64())


def payload(tokens: Any, ids: Any) -> "pa.Array":
    """Return the payload of each document as JSON, NULL where the document is not there any more."""
    import pyarrow as pa

    wanted = whole(ids).to_pylist()
    if not wanted:
        return pa.array([], pa.string())
    store = indexes.require(whole(tokens)[0].as_py())._state.store
    if store.id_type is int:  # text, where it was empty when it was registered
        wanted = [None if id is None else int(id) for id in wanted]
    view, rows = store.found(wanted)
    there = [row for row in rows if row >= 0]
    records = iter(view.records(np.array(there, np.int64)))
    documents = [json.dumps(jsonable(next(records)), allow_nan=False) if row >= 0 else None for row in rows]
    return pa.array(documents, pa.string())
