"""Table functions over a registered index, for a column of queries at a time."""

import json
import uuid
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbridge.errors import InvalidConfigError
from attnbridge.hits import Hits
from attnbridge.integrations.duckdb.arguments import values
from attnbridge.integrations.duckdb.lists import Lists, as_lists, struct_lists, whole
from attnbridge.jsonable import jsonable

if TYPE_CHECKING:
    from attnbridge.integrations.bridge import AttentionVectorBridge


class Registration:
    """What the macros of a database refer to by a token.

    Parameters
    ----------
    index : AttentionVectorBridge or None
    """

    def __init__(self, index: "AttentionVectorBridge | None") -> None:
        self.token = uuid.uuid4().hex
        self._index = index
        self._weakly = None if index is None else weakref.ref(index)
        first = None if index is None else next(iter(index.ids()), None)
        self.ids = "bigint" if isinstance(first, int) else "varchar"
        _registrations[self.token] = self

    @property
    def index(self) -> "AttentionVectorBridge | None":
        """The index, where there is one."""
        return None if self._weakly is None else self._weakly()

    def let_go(self) -> None:
        """Hold the index weakly from now on: the connection that it was registered with is gone."""
        self._index = None


_registrations: dict[str, Registration] = {}


def registration(token: str) -> Registration | None:
    """Return what is registered under a token in this process."""
    return _registrations.get(token)


def search_bigint(*columns: Any) -> Any:
    """Return the hits of each query, ids as whole numbers."""
    return _search("bigint", *columns)


def search_varchar(*columns: Any) -> Any:
    """Return the hits of each query, ids as text."""
    return _search("varchar", *columns)


def _search(
    ids: str, tokens: Any, queries: Any, k: Any, candidates: Any, wheres: Any, reranks: Any, _statement: Any
) -> Any:
    lists = as_lists(queries, "query")
    found: list[dict[str, Any] | None] = [None] * len(lists)
    settings = list(zip(*(values(column) for column in (tokens, k, candidates, wheres, reranks)), strict=True))
    for setting in dict.fromkeys(settings):
        rows = [row for row, one in enumerate(settings) if one == setting and not lists.is_null(row)]
        if rows:
            for row, hits in zip(rows, _searched(lists, rows, *setting), strict=True):
                found[row] = _columns(hits, ids)
    dtypes: dict[str, Any] = {"id": np.int64 if ids == "bigint" else object}
    return struct_lists(found, dtypes | {"score": np.float64, "weight": np.float64, "distance": np.float32})


def _searched(
    lists: Lists, rows: list[int], token: str, k: Any, candidates: Any, where: Any, rerank: Any
) -> list[Hits]:
    """Return the hits of some rows' queries, searched alike."""
    index = _index_of(token)
    queries: Any = lists.block(np.array(rows))
    if queries is None:
        queries = [lists.value(row) for row in rows]
    return index.search_batch(queries, k, candidates=candidates, where=where, rerank=() if rerank is None else rerank)


def _columns(hits: Hits, ids: str) -> dict[str, Any]:
    kept: Any = hits.ids if ids == "bigint" else np.array([str(id) for id in hits.ids], object)
    return {"id": kept, "score": hits.scores, "weight": hits.weights, "distance": hits.distances}


def _index_of(token: str) -> "AttentionVectorBridge":
    found = _registrations.get(token)
    if found is None or found.index is None:
        raise InvalidConfigError(
            "search needs an index, and none is registered with this database in this process; call "
            "attnbridge.integrations.duckdb.register(con, index=bridge)"
        )
    return found.index


def payload(tokens: Any, ids: Any) -> Any:
    """Return the payload of each document as JSON, NULL where it is not there any more."""
    import pyarrow as pa

    wanted = whole(ids).to_pylist()
    documents: list[str | None] = [None] * len(wanted)
    for token in dict.fromkeys(given := values(tokens)):
        index = _index_of(token)
        rows = [row for row, id in enumerate(wanted) if given[row] == token and id in index]
        records: Sequence[dict[str, Any]] = index.payload([wanted[row] for row in rows]) if rows else []
        for row, record in zip(rows, records, strict=True):
            documents[row] = json.dumps(jsonable(record), allow_nan=False)
    return pa.array(documents, pa.string())
