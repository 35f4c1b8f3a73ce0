"""Attention of a query over a list of keys, a row each: the functional API for columns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError
from attnbridge.functional import attention as attend
from attnbridge.functional import attention_logits, attention_scores
from attnbridge.functional import softmax as softmax_of
from attnbridge.integrations.duckdb.arguments import settings, values
from attnbridge.integrations.duckdb.lists import Lists, as_lists, list_column, struct_lists
from attnbridge.integrations.duckdb.pairs import as_float
from attnbridge.validation import as_count

Array = npt.NDArray[Any]

_RANKED: dict[str, Any] = {"place": np.int64, "score": np.float32, "weight": np.float32}


def softmax(scores: Any) -> Any:
    """Return the softmax of each list of scores."""
    lists = as_lists(scores, "scores")
    return list_column([None if lists.is_null(row) else softmax_of(lists.value(row)) for row in range(len(lists))])


def scores(queries: Any, keys: Any, types: Any, options: Any, limits: Any) -> Any:
    """Return the weights of each query over its keys."""

    def one(query: Any, rows: Any, name: str, limit: int, /, **option: Any) -> Array:
        return attention_scores(query, rows, name, max_keys=limit, **option)

    return list_column(_each(one, [as_lists(queries, "query"), as_lists(keys, "keys")], types, options, limits))


def attention(queries: Any, keys: Any, contents: Any, types: Any, options: Any, limits: Any) -> Any:
    """Return the output of each query over its keys and values."""

    def one(query: Any, rows: Any, means: Any, name: str, limit: int, /, **option: Any) -> Array:
        return attend(query, rows, means, name, max_keys=limit, **option)

    lists = [as_lists(queries, "query"), as_lists(keys, "keys"), as_lists(contents, "values")]
    return list_column(_each(one, lists, types, options, limits))


def rank(queries: Any, keys: Any, types: Any, options: Any, limits: Any, most: Any, entries: Any) -> Any:
    """Return for each query its keys' places, from 1, with score and weight: the best `most`, or all, best first."""

    def one(
        query: Any, rows: Any, name: str, limit: int, count: Any, ids: int | None, /, **option: Any
    ) -> dict[str, Array] | None:
        if ids is None:
            return None
        logits = attention_logits(query, rows, name, max_keys=limit, **option)
        if ids != len(logits):
            raise DimensionMismatchError(f"ids must have an entry for each of {len(logits)} keys, got {ids}")
        weights = attention_scores(query, rows, name, max_keys=limit, **option)
        best = np.argsort(-logits, kind="stable")[: None if count is None else as_count(count, "k")]
        return {"place": best + 1, "score": as_float(logits[best]), "weight": weights[best]}

    lists = [as_lists(queries, "query"), as_lists(keys, "keys")]
    return struct_lists(_each(one, lists, types, options, limits, most, entries), _RANKED)


def _each(one: Callable[..., Any], lists: list[Lists], types: Any, options: Any, *others: Any) -> list[Any]:
    """Return what `one` makes of each row, None where a list is NULL."""
    codes, pairs = settings(types, options)
    rest = [values(column) for column in others]
    made: list[Any] = []
    for row, code in enumerate(codes):
        if any(column.is_null(row) for column in lists):
            made.append(None)
            continue
        name, option = pairs[code]
        made.append(one(*(column.value(row) for column in lists), name, *(other[row] for other in rest), **option))
    return made
