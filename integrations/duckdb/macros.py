"""The SQL of the functions: macros over what Python registers, since only macros have defaults and named arguments."""

from string import Template
from typing import Any

from attnbridge.functional import attention_types

# Names of our own are such as no table or column of a user's has. The key's tag as a union, the same for all keys, is
# there so that a constant query's number is not computed when a statement is planned; something volatile would do too,
# but by that DuckDB orders no window.
_MACROS = {
    "attention_score": """
        (query, key, attention_type := 'scaled_dot', options := NULL) AS
        _attnbridge_score(_attnbridge_query(query, attention_type, options, union_tag(union_value(k := key))), key)""",
    "maxsim": """
        (query_tokens, key_tokens) AS
        _attnbridge_score(
            _attnbridge_query(query_tokens, 'cross', NULL, union_tag(union_value(k := key_tokens))), key_tokens)""",
    "poincare_distance": """
        (a, b, curvature := -1.0) AS
        _attnbridge_distance(
            _attnbridge_query(a, 'poincare', {curvature: curvature}, union_tag(union_value(k := b))), b)""",
    "attention_scores": """
        (query, keys, attention_type := 'scaled_dot', options := NULL) AS
        _attnbridge_scores(query, keys, attention_type, options, $max_keys)""",
    "attention": """
        (query, keys, values, attention_type := 'scaled_dot', options := NULL) AS
        _attnbridge_attention(query, keys, values, attention_type, options, $max_keys)""",
    "multi_head_attention": """
        (query, keys, values, num_heads := 4) AS
        _attnbridge_attention(query, keys, values, 'multi_head', {num_heads: num_heads}, $max_keys)""",
    "flash_attention": """
        (query, keys, values, block_size := 64) AS
        _attnbridge_attention(query, keys, values, 'flash_v2', {block_size: block_size}, $max_keys)""",
    "attention_rank": """
        (query, ids, keys, k := NULL, attention_type := 'scaled_dot', options := NULL) AS
        list_transform(
            _attnbridge_rank(query, keys, attention_type, options, $max_keys, k, len(ids)),
            lambda _attnbridge_hit: {
                id: ids[_attnbridge_hit.place], score: _attnbridge_hit.score, weight: _attnbridge_hit.weight})""",
    "softmax": "(scores) AS _attnbridge_softmax(scores)",
    "attention_softmax": "(scores) AS _attnbridge_softmax(scores)",  # where the prefix does not say what it belongs to
    "attention_types": "() AS TABLE SELECT * FROM (VALUES $types) AS types(name, complexity, best_for)",
    "search": """
        (query, k := 10, candidates := NULL, where_sql := NULL, rerank := NULL, params := NULL, query_text := NULL,
        query_tokens := NULL, position := NULL, ef := NULL, exact := false, radius := NULL, threshold := NULL) AS TABLE
        SELECT _attnbridge_hit.id, _attnbridge_hit.score, _attnbridge_hit.weight, _attnbridge_hit.distance,
            _attnbridge_payload($index, _attnbridge_hit.id)::JSON AS payload
        FROM (SELECT unnest(_attnbridge_search_$ids($index, query, {
            k: k, candidates: candidates, "where": where_sql, rerank: rerank, params: params, query_text: query_text,
            position: position, ef: ef, exact: exact, radius: radius, threshold: threshold
        }, query_tokens, current_setting('threads'), current_query_id())) AS _attnbridge_hit)""",
    "k_hop": """
        (node, k := 2, query := NULL, max_results := NULL, direction := 'out') AS TABLE
        SELECT _attnbridge_hit.node, _attnbridge_hit.score, _attnbridge_hit.hop, _attnbridge_hit.path
        FROM (SELECT unnest(_attnbridge_k_hop(
            $graph, node, k, query, max_results, direction, current_query_id())) AS _attnbridge_hit)""",
    "match": """
        (pattern, query := NULL, params := NULL, start := NULL, per_step := NULL) AS TABLE
        SELECT _attnbridge_hit.node, _attnbridge_hit.score, _attnbridge_hit.hop, _attnbridge_hit.path,
            _attnbridge_hit.record::JSON AS record
        FROM (SELECT unnest(_attnbridge_match(
            $graph, pattern, query, params, start, per_step, current_query_id())) AS _attnbridge_hit)""",
}


def macros(max_keys: int, index: str, graph: str, ids: str) -> dict[str, str]:
    """Return what follows the name of each macro in CREATE MACRO, by its name without a prefix.

    Parameters
    ----------
    max_keys : int
        Limit of keys by value.
    index, graph : str
        The tokens under which they are registered.
    ids : {"bigint", "varchar"}
        The type of the index's ids.
    """
    types = [f"({text(row['name'])}, {text(row['complexity'])}, {text(row['best_for'])})" for row in attention_types()]
    given: dict[str, Any] = {"max_keys": max_keys, "index": text(index), "graph": text(graph), "ids": ids}
    given["types"] = ", ".join(types)
    return {name: Template(" ".join(body.split())).substitute(given) for name, body in _MACROS.items()}


def text(value: str) -> str:
    """Return text as a literal of SQL."""
    return "'" + value.replace("'", "''") + "'"


def identifier(value: str) -> str:
    """Return a name as SQL has it."""
    return '"' + value.replace('"', '""') + '"'
