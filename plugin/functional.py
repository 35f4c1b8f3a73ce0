"""Attention as functions: logits, weights and outputs of any registered type."""

from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, InvalidInputError, InvalidMaskError
from attnbridge.metric import Keys
from attnbridge.scoring import REGISTRY, AttentionType, resolve
from attnbridge.validation import as_count, as_floats, as_matrix, as_vector, limit_keys, require_finite

MAX_KEYS = 100_000


def attention_types() -> list[dict[str, Any]]:
    """List the attention types that every interface of this library knows.

    Returns
    -------
    list of dict
        name, complexity, best_for, pairwise, build_space (the space in which an index is built for it), aliases,
        options (name to default).

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.attention_types()[0]["name"]
    'scaled_dot'
    """
    return [
        {
            "name": row.name,
            "complexity": row.complexity,
            "best_for": row.best_for,
            "pairwise": row.pairwise,
            "build_space": row.build_space,
            "aliases": list(row.aliases),
            "options": {name: option.default for name, option in row.options.items()},
        }
        for row in REGISTRY.values()
    ]


def _inputs(query: Any, keys: Any, max_keys: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return queries (L, d) and keys (S, d) in one precision, and whether one query alone was given.

    Whether the keys are finite, the logits tell.
    """
    q = as_floats(query, "query", keep_float64=True)
    if q.ndim not in (1, 2):
        raise DimensionMismatchError(f"query must be (d,) or (L, d), got shape {q.shape}")
    if q.size == 0:
        raise DimensionMismatchError("query must not be empty: it has no values")
    require_finite(q, "query")
    k = as_matrix(keys, "keys", finite=False, keep_float64=True)
    if len(k) == 0:
        raise InvalidInputError("keys must not be empty: attention needs at least one key")
    if k.shape[1] != q.shape[-1]:
        raise DimensionMismatchError(
            f"Query and key dimensions must match: {q.shape[-1]} vs {k.shape[1]}; give both the same last axis"
        )
    limit_keys(len(k), as_count(max_keys, "max_keys"))
    if q.dtype != k.dtype:
        q, k = q.astype(np.float64), k.astype(np.float64)
    return np.atleast_2d(q), k, q.ndim == 1


def _logits(
    row: AttentionType, options: dict[str, Any], queries: np.ndarray, keys: np.ndarray
) -> npt.NDArray[np.float64]:
    out = np.empty((len(queries), len(keys)))
    bias, stored = np.zeros(len(queries)), Keys(keys)
    if row.metric is not None:
        require_finite(keys, "keys")
        metric = row.metric(options)
        points = metric.points(keys)
        stored = Keys(points, *metric.row_terms(points, "keys"))
        queries, bias = metric.prepare(metric.points(queries), "query")
    for i in range(len(queries)):
        row.logits(queries[i], bias[i], stored, None, options, out[i])
    if not np.isfinite(out).all():  # a finite float32 key cannot get here: products are redone in float64
        require_finite(keys, "keys")
        raise InvalidInputError("query and keys must have products within float64 (1.8e308); rescale them")
    return out


def _masked(logits: npt.NDArray[np.float64], mask: Any) -> npt.NDArray[np.float64]:
    """Add a mask to the logits: a boolean one lets True attend, a float one is added."""
    if mask is None:
        return logits
    m = np.asarray(mask)
    try:
        m = np.broadcast_to(m, logits.shape)
    except ValueError:
        raise InvalidMaskError(
            f"mask must broadcast to (queries, keys) = {logits.shape}, got shape {m.shape}"
        ) from None
    if m.dtype == np.bool_:
        return np.where(m, logits, -np.inf)
    if m.dtype.kind != "f":  # whole numbers too: a mask of 0 and 1 would be added, and 0 mask nothing
        raise InvalidMaskError(
            f"mask must be boolean (True attends) or float (added), got dtype {m.dtype}; use .astype(bool) or float"
        )
    if np.isnan(m).any() or (m == np.inf).any():
        raise InvalidMaskError("mask must be finite or -inf; NaN and +inf have no meaning in it")
    with np.errstate(over="ignore"):
        total: npt.NDArray[np.float64] = logits + m.astype(np.float64)
    if (total == np.inf).any():
        raise InvalidMaskError("mask must stay within float64 when added to the logits (1.8e308); lower it")
    return total


def _weights(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    for row in logits:
        kernels.softmax(row, row)
    return logits


def attention_logits(
    query: Any,
    keys: Any,
    attention_type: str = "scaled_dot",
    *,
    mask: Any = None,
    max_keys: int = MAX_KEYS,
    **options: Any,
) -> npt.NDArray[np.float64]:
    """Return the logit of each query with each key; higher attends more.

    Parameters
    ----------
    query : array_like, (d,) or (L, d)
    keys : array_like, (S, d)
    attention_type : str, default "scaled_dot"
        A name or alias from `attention_types`.
    mask : array_like, broadcastable to (L, S), optional
        Boolean: True attends. Float: added to the logits.
    max_keys : int, default 100,000
        More keys than this are refused.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    ndarray of float64, (S,) or (L, S)
        float64, since float32 inputs may have logits beyond float32.

    Raises
    ------
    DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError, InputTooLargeError

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.attention_logits([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], scale=1.0)
    array([1., 0.])
    """
    row, checked = resolve(attention_type, options)
    queries, stored, single = _inputs(query, keys, max_keys)
    logits = _masked(_logits(row, checked, queries, stored), mask)
    return logits[0] if single else logits


def attention_scores(
    query: Any,
    keys: Any,
    attention_type: str = "scaled_dot",
    *,
    mask: Any = None,
    max_keys: int = MAX_KEYS,
    **options: Any,
) -> npt.NDArray[np.floating[Any]]:
    """Return how each query spreads its attention over the keys: weights that sum to 1.

    Vaswani et al. 2017, equation 1: softmax(q K^T / sqrt(d)).

    Parameters
    ----------
    query : array_like, (d,) or (L, d)
    keys : array_like, (S, d)
    attention_type : str, default "scaled_dot"
        A name or alias from `attention_types`.
    mask : array_like, broadcastable to (L, S), optional
        Boolean: True attends. Float: added to the logits. A query that may attend to nothing has zero weights.
    max_keys : int, default 100,000
        More keys than this are refused.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    ndarray, (S,) or (L, S)
        float32, or float64 where query or keys are.

    Raises
    ------
    DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError, InputTooLargeError

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.attention_scores([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]).round(2)
    array([0.67, 0.33], dtype=float32)
    """
    row, checked = resolve(attention_type, options)
    queries, stored, single = _inputs(query, keys, max_keys)
    weights = _weights(_masked(_logits(row, checked, queries, stored), mask)).astype(stored.dtype, copy=False)
    return weights[0] if single else weights


def attention_score(query: Any, key: Any, attention_type: str = "scaled_dot", **options: Any) -> float:
    """Return the logit of one pair; the same number as `attention_logits` gives it among others.

    Parameters
    ----------
    query, key : array_like, (d,)
    attention_type : str, default "scaled_dot"
        A name or alias from `attention_types`; a pairwise one.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    float

    Raises
    ------
    DimensionMismatchError, InvalidInputError, InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.attention_score([1.0, 2.0], [3.0, 4.0], scale=1.0)
    11.0
    """
    row, checked = resolve(attention_type, options)
    q = as_vector(query, "query", keep_float64=True)
    k = as_vector(key, "key", keep_float64=True)
    if len(q) != len(k):
        raise DimensionMismatchError(
            f"Query and key dimensions must match: {len(q)} vs {len(k)}; give both the same length"
        )
    if q.dtype != k.dtype:
        q, k = q.astype(np.float64), k.astype(np.float64)
    return float(_logits(row, checked, q[None], k[None])[0, 0])


def attention(
    query: Any,
    keys: Any,
    values: Any,
    attention_type: str = "scaled_dot",
    *,
    mask: Any = None,
    max_keys: int = MAX_KEYS,
    **options: Any,
) -> npt.NDArray[np.floating[Any]]:
    """Return the attention output: the values' mean under the attention weights.

    Parameters
    ----------
    query : array_like, (d,) or (L, d)
    keys : array_like, (S, d)
    values : array_like, (S, dv)
    attention_type : str, default "scaled_dot"
        A name or alias from `attention_types`.
    mask : array_like, broadcastable to (L, S), optional
        Boolean: True attends. Float: added to the logits. A query that may attend to nothing has zero output.
    max_keys : int, default 100,000
        More keys than this are refused.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    ndarray, (dv,) or (L, dv)
        float32, or float64 where query, keys or values are.

    Raises
    ------
    DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError, InputTooLargeError

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.attention([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]], scale=1.0).round(2)
    array([12.69], dtype=float32)
    """
    row, checked = resolve(attention_type, options)
    queries, stored, single = _inputs(query, keys, max_keys)
    v = as_matrix(values, "values", finite=False, keep_float64=True)
    if len(v) != len(stored):
        raise DimensionMismatchError(f"values must have a row for each of {len(stored)} keys, got {len(v)}")
    weights = _weights(_masked(_logits(row, checked, queries, stored), mask))
    out = np.empty((len(queries), v.shape[1]))
    for w, o in zip(weights, out, strict=True):
        kernels.weighted_sum(w, v, None, None, o)
    if not np.isfinite(out).all():
        require_finite(v, "values")
    out = out.astype(np.result_type(stored.dtype, v.dtype), copy=False)
    return out[0] if single else out


def softmax(scores: Any) -> npt.NDArray[np.floating[Any]]:
    """Return exp(scores) over its sum along the last axis, stable for scores of any size.

    Parameters
    ----------
    scores : array_like, (n,) or (m, n)
        Finite, or -inf for an exact zero.

    Returns
    -------
    ndarray, the shape of `scores`
        float32, or float64 where `scores` is.

    Raises
    ------
    InvalidInputError
        NaN or +inf, nothing at all, or a row of nothing but -inf.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.softmax([0.0, 0.0, -float("inf")])
    array([0.5, 0.5, 0. ], dtype=float32)
    """
    array = as_floats(scores, "scores", keep_float64=True)
    if array.ndim not in (1, 2):
        raise DimensionMismatchError(f"scores must be (n,) or (m, n), got shape {array.shape}")
    if array.size == 0:
        raise InvalidInputError("scores must not be empty: softmax needs at least one")
    if np.isnan(array).any() or (array == np.inf).any():
        raise InvalidInputError("scores must be finite or -inf; NaN and +inf have no softmax")
    rows = np.atleast_2d(array).astype(np.float64)
    if (rows == -np.inf).all(axis=1).any():
        raise InvalidInputError("scores must not all be -inf: there is nothing to attend to")
    return _weights(rows).reshape(array.shape).astype(array.dtype, copy=False)
