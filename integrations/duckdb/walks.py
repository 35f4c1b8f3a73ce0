"""Table functions over a registered graph."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnbridge.integrations.duckdb.arguments import as_options, values
from attnbridge.integrations.duckdb.lists import as_lists
from attnbridge.integrations.duckdb.registered import Registered
from attnbridge.integrations.match.reader import MatchPath
from attnbridge.integrations.node_names import node_of
from attnbridge.jsonable import jsonable

if TYPE_CHECKING:
    import pyarrow as pa

    from attnbridge.integrations.match.matches import Match
    from attnbridge.integrations.networkx import AttentionGraph

graphs: "Registered[AttentionGraph]" = Registered("graph", "a graph function")


def k_hop(
    tokens: Any, nodes: Any, hops: Any, queries: Any, limits: Any, directions: Any, _statement: Any
) -> "pa.Array":
    """Return the nodes within some hops of each node, best first; NULL for NULL."""
    import pyarrow as pa

    vectors = as_lists(queries, "query")
    arguments = zip(*map(values, (tokens, nodes, hops, limits, directions)), strict=True)
    found: list[list[dict[str, Any]] | None] = []
    for row, (token, node, k, limit, direction) in enumerate(arguments):
        if node is None:
            found.append(None)
            continue
        graph = graphs.require(token)
        start, query = node_of(graph.topology, node), vectors.value(row)
        hits = graph.k_hop(start, k, query, limit=limit, direction=direction)
        found.append([_row(hit.node, hit.score, hit.path) for hit in hits])
    return pa.array(found, _rows())


def match(
    tokens: Any, patterns: Any, queries: Any, params: Any, starts: Any, per_steps: Any, _statement: Any
) -> "pa.Array":
    """Return the rows of each pattern, of its first path; NULL for NULL."""
    import pyarrow as pa

    vectors = as_lists(queries, "query")
    arguments = zip(*map(values, (tokens, patterns, params, starts, per_steps)), strict=True)
    found: list[list[dict[str, Any]] | None] = []
    for row, (token, pattern, given, start, per_step) in enumerate(arguments):
        if pattern is None:
            found.append(None)
            continue
        graph = graphs.require(token)
        first = None if start is None else node_of(graph.topology, start)
        matches = graph.match(pattern, vectors.value(row), as_options(given, "params"), start=first, per_step=per_step)
        found.append([_match(one) for one in matches])
    return pa.array(found, _rows(record=pa.string()))


def _match(one: "Match") -> dict[str, Any]:
    """Return a row of a match: of its first path (there is none in the count of no rows), and what it returns."""
    record = {name: value._asdict() if isinstance(value, MatchPath) else value for name, value in one.record.items()}
    as_json = {"record": json.dumps(jsonable(record), allow_nan=False, default=str)}
    if not one.paths:
        return {"node": None, "score": one.score, "hop": None, "path": None} | as_json
    return _row(one.node, one.score, one.path) | as_json


def _row(node: Any, score: float | None, path: Sequence[Any]) -> dict[str, Any]:
    return {"node": str(node), "score": score, "hop": len(path) - 1, "path": list(map(str, path))}


def _rows(**more: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    fields = {"node": pa.string(), "score": pa.float64(), "hop": pa.int64(), "path": pa.list_(pa.string())} | more
    return pa.list_(pa.struct(list(fields.items())))
