"""Attention as functions: logits, weights and outputs of any registered type."""

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, InvalidConfigError, InvalidInputError
from attnbridge.mechanisms.base import Attention, Batch
from attnbridge.mechanisms.cached import CachedAttention
from attnbridge.mechanisms.dense import attend_plain
from attnbridge.mechanisms.multi_head import MULTI_HEAD
from attnbridge.mechanisms.row import AttentionType, Options
from attnbridge.mechanisms.standard import PLAIN
from attnbridge.metric import Keys
from attnbridge.scoring import REGISTRY, refuse_options, resolve
from attnbridge.validation import Float, as_count, as_floats, as_vector, require_given

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


_NAMES = ("query", "keys", "values")
MULTI_HEAD_NAMES = frozenset((MULTI_HEAD.name, *MULTI_HEAD.aliases))


def _checked(
    attention_type: str | Attention,
    options: dict[str, Any],
    query: Any,
    keys: Any,
    values: Any,
    mask: Any,
    max_keys: int,
) -> tuple[Attention, Batch]:
    """Return the mechanism of a type, and its checked inputs."""
    if isinstance(attention_type, Attention):
        refuse_options(options)
        mechanism = attention_type
    else:
        row, checked = resolve(attention_type, options)
        mechanism = row.mechanism(checked)
    most = as_count(max_keys, "max_keys")
    return mechanism, mechanism._check(query, keys, values, mask, False, names=_NAMES, max_keys=most)


def _plainly(
    attention_type: str | Attention, options: dict[str, Any], query: Any, keys: Any, values: Any, max_keys: int
) -> npt.NDArray[np.floating[Any]] | None:
    """Return the output of a type that has a short way to it, with options that it takes; else None."""
    heads, block = 1, None
    if isinstance(attention_type, Attention):
        return None
    if attention_type in PLAIN:
        block = PLAIN[attention_type]
        if options and options.keys() != {"scale"}:
            return None
    elif attention_type in MULTI_HEAD_NAMES and options.keys() <= {"num_heads", "scale"}:
        heads = options.get("num_heads", 8)
        if type(heads) is not int or heads < 1:
            return None
    else:
        return None
    scale = options.get("scale")
    if scale is not None and not (type(scale) is float and 0.0 < scale < math.inf):
        return None
    return attend_plain(query, keys, values, scale=scale, heads=heads, max_keys=max_keys, block=block)


def attention_logits(
    query: Any,
    keys: Any,
    attention_type: str | Attention = "scaled_dot",
    *,
    mask: Any = None,
    max_keys: int = MAX_KEYS,
    **options: Any,
) -> npt.NDArray[np.float64]:
    """Return the logit of each query with each key; higher attends more.

    Parameters
    ----------
    query : array_like, (d,) or (..., L, d)
        Leading axes of query, keys and values are broadcast.
    keys : array_like, (..., S, d)
        With "cross", a query (m, d) is one of m tokens, and keys may be (S, t, d) or a list of (t, d): tokens of each.
    attention_type : str or Attention, default "scaled_dot"
        A name or alias from `attention_types`, or a mechanism.
    mask : array_like, broadcastable to (..., L, S), optional
        Boolean: True attends. Float: added to the logits.
    max_keys : int, default 100,000
        More keys than this are refused.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    ndarray of float64, (S,) or (..., L, S)
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
    if isinstance(attention_type, CachedAttention):
        logits = attention_type.through(attention_logits, query, keys, mask=mask, max_keys=max_keys, **options)
        return cast(npt.NDArray[np.float64], logits)
    mechanism, batch = _checked(attention_type, options, query, keys, None, mask, max_keys)
    return batch.restore(mechanism._masked_logits(batch))


def attention_scores(
    query: Any,
    keys: Any,
    attention_type: str | Attention = "scaled_dot",
    *,
    mask: Any = None,
    max_keys: int = MAX_KEYS,
    **options: Any,
) -> npt.NDArray[np.floating[Any]]:
    """Return how each query spreads its attention over the keys: weights that sum to 1.

    Vaswani et al. 2017, equation 1: softmax(q K^T / sqrt(d)).

    Parameters
    ----------
    query : array_like, (d,) or (..., L, d)
        Leading axes of query, keys and values are broadcast.
    keys : array_like, (..., S, d)
        With "cross", a query (m, d) is one of m tokens, and keys may be (S, t, d) or a list of (t, d): tokens of each.
    attention_type : str or Attention, default "scaled_dot"
        A name or alias from `attention_types`, or a mechanism.
    mask : array_like, broadcastable to (..., L, S), optional
        Boolean: True attends. Float: added to the logits. A query that may attend to nothing has zero weights.
    max_keys : int, default 100,000
        More keys than this are refused.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    ndarray, (S,) or (..., L, S)
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
    if isinstance(attention_type, CachedAttention):
        weights = attention_type.through(attention_scores, query, keys, mask=mask, max_keys=max_keys, **options)
        return cast(Float, weights)
    mechanism, batch = _checked(attention_type, options, query, keys, None, mask, max_keys)
    return batch.restore(mechanism._all_weights(batch))


def attention_score(query: Any, key: Any, attention_type: str | Attention = "scaled_dot", **options: Any) -> float:
    """Return the logit of one pair; the same number as `attention_logits` gives it among others.

    Parameters
    ----------
    query, key : array_like, (d,)
        With "cross", (t, d) too: token vectors.
    attention_type : str or Attention, default "scaled_dot"
        A name or alias from `attention_types`, or a mechanism; a pairwise one.
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
    require_pairwise(row, checked, "the score of a pair")
    if row.token_logits is not None:
        mechanism = row.mechanism(checked)
        return float(mechanism._masked_logits(mechanism._check(query, [key], None, None, False)).item())
    q = as_vector(query, "query", keep_float64=True)
    k = as_vector(key, "key", keep_float64=True)
    return float(pair_logits(row, checked, q, k[None])[0])


def require_pairwise(row: AttentionType, options: Options, use: str, name: str = "attention_type") -> None:
    """Refuse a type whose logit of a pair depends on the other keys, where they are not known."""
    if not row.is_pairwise(options):
        raise InvalidConfigError(
            f"{name} must be pairwise for {use}, got {row.name!r}, whose logit of a pair depends on the other keys; "
            "attention_logits gives it among them"
        )


def pair_logits(row: AttentionType, options: Options, query: Float, keys: Float) -> npt.NDArray[np.float64]:
    """Return the logits (n,) of a query (d,) with keys (n, d), of a pairwise type with checked options.

    Raises
    ------
    DimensionMismatchError, InvalidInputError
    """
    if row.metric is None and query.dtype == keys.dtype and len(query) == keys.shape[1]:  # without the detours of many
        logits = np.empty(len(keys))
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused below
            row.logits(query, 0.0, Keys(keys), None, options, logits)
        if np.isfinite(logits).all():
            return logits
    mechanism = row.mechanism(options)
    batch = mechanism._check(query, keys, None, None, False)
    masked: npt.NDArray[np.float64] = mechanism._masked_logits(batch)[0, 0]
    return masked


def aligned_logits(row: AttentionType, options: Options, queries: Float, keys: Float) -> npt.NDArray[np.float64]:
    """Return the logit of each query (n, d) with the key (n, d) beside it, of a pairwise type with checked options.

    Raises
    ------
    InvalidInputError
    """
    count = len(keys)
    if row.rerank is not None:  # each with one candidate
        bias, stored = np.zeros(count), Keys(keys)
        if row.metric is not None:
            metric = row.metric(options)
            points = metric.points(keys)
            queries, bias = metric.prepare(metric.points(queries), "query")
            stored = Keys(points, *metric.row_terms(points, "key"))
        ids, places = np.arange(count)[:, None], np.empty((count, 1), np.int64)
        logits, weights = np.empty((2, count, 1))
        row.rerank(queries, bias, stored, ids, np.ones(count, np.int64), options, places, logits, weights)
        if np.isfinite(logits).all():
            return logits[:, 0]
    return np.concatenate([pair_logits(row, options, q, k[None]) for q, k in zip(queries, keys, strict=True)])


def attention(
    query: Any,
    keys: Any,
    values: Any,
    /,  # poincare has an option named values
    attention_type: str | Attention = "scaled_dot",
    *,
    mask: Any = None,
    max_keys: int = MAX_KEYS,
    **options: Any,
) -> npt.NDArray[np.floating[Any]]:
    """Return the attention output: the values' mean under the attention weights.

    Parameters
    ----------
    query : array_like, (d,) or (..., L, d)
        Leading axes of query, keys and values are broadcast.
    keys : array_like, (..., S, d)
        With "cross", a query (m, d) is one of m tokens, and keys may be (S, t, d) or a list of (t, d): tokens of each.
    values : array_like, (..., S, dv)
    attention_type : str or Attention, default "scaled_dot"
        A name or alias from `attention_types`, or a mechanism.
    mask : array_like, broadcastable to (..., L, S), optional
        Boolean: True attends. Float: added to the logits. A query that may attend to nothing has zero output.
    max_keys : int, default 100,000
        More keys than this are refused.
    **options : object
        Options of the type, as `attention_types` lists them; for scaled_dot: scale (default 1/sqrt(d)).

    Returns
    -------
    ndarray, (dv,) or (..., L, dv)
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
    if mask is None and type(max_keys) is int and type(attention_type) is str:
        output = _plainly(attention_type, options, query, keys, values, max_keys)
        if output is not None:
            return output
    if isinstance(attention_type, CachedAttention):
        output = attention_type.through(attention, query, keys, values, mask=mask, max_keys=max_keys, **options)
        return cast(Float, output)
    require_given(values, "values")
    mechanism, batch = _checked(attention_type, options, query, keys, values, mask, max_keys)
    return batch.restore(mechanism._attend(batch).output)


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
    for row in rows:
        kernels.softmax(row, row)
    return rows.reshape(array.shape).astype(array.dtype, copy=False)
