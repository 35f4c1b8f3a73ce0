"""The truth, slowly: every attention type again in float64 numpy, from its formula and without any kernel.

`truth` takes what a mechanism takes and loops over the leading axes; below it every type sees one problem: queries
(L, d), keys (S, d), values (S, dv) and what is added to the logits (L, S), masks of any kind folded into it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Options = Mapping[str, Any]


class Truth(NamedTuple):
    """Logits and weights (..., L, S), output (..., L, dv); logits are -inf where a pair may not attend."""

    logits: Array
    weights: Array
    output: Array


# query (L, d), key (S, d), value (S, dv), bias (L, S), options and parameters
Formula = Callable[[Array, Array, Array, Array, Options], Truth]


def truth(
    name: str, query: Any, key: Any, value: Any, mask: Any = None, is_causal: bool = False, **options: Any
) -> Truth:
    """Return what a type of the registry must give, (d,) or (..., L, d) and so on, options filled in by the caller."""
    q, k, v = (np.asarray(array, np.float64) for array in (query, key, value))
    rows = q[None] if q.ndim == 1 else q
    lead = np.broadcast_shapes(rows.shape[:-2], k.shape[:-2], v.shape[:-2])
    rows, k, v = (np.broadcast_to(array, lead + array.shape[-2:]) for array in (rows, k, v))
    bias = np.broadcast_to(bias_of(rows.shape[-2], k.shape[-2], mask, is_causal), (*lead, rows.shape[-2], k.shape[-2]))
    made = [TYPES[name](rows[i], k[i], v[i], bias[i], options) for i in np.ndindex(lead)]
    whole = (np.array(part).reshape(lead + part[0].shape) for part in zip(*made, strict=True))
    return Truth(*(part[..., 0, :] if q.ndim == 1 else part for part in whole))


def bias_of(queries: int, keys: int, mask: Any = None, is_causal: bool = False) -> Array:
    """Return what is added to the logits: 0 or -inf for a boolean mask, the numbers of a float one; causal ones too."""
    bias = np.zeros((queries, keys))
    if mask is not None:
        mask = np.asarray(mask.dense() if hasattr(mask, "dense") else mask)
        bias = bias + (np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask)
    if is_causal:
        bias = np.where(np.arange(keys) > np.arange(queries)[:, None], -np.inf, bias)
    return np.asarray(bias, np.float64)


# ---- shared by the formulas


def softmax(logits: Array) -> Array:
    """Return exp(logits) over its sum along the last axis; zeros where all are -inf."""
    top = logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits - np.where(top == -np.inf, 0.0, top))
    total = powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers / np.where(total == 0.0, 1.0, total))


def attend(query: Any, key: Any, value: Any, scale: float | None = None, mask: Any = None, causal: bool = False) -> Any:
    """Return the output of dense scaled dot-product attention (Vaswani et al. 2017, equation 1)."""
    return truth("scaled_dot", query, key, value, mask, causal, scale=scale).output


def scaled_products(query: Array, key: Array, scale: float | None = None) -> Array:
    """Return scale q . k, scale 1/sqrt(d) by default."""
    return query @ key.T * (query.shape[-1] ** -0.5 if scale is None else scale)


def spread(logits: Array, value: Array, bias: Array) -> Truth:
    """Return softmax(logits + bias) and its mean of the values."""
    logits = logits + bias
    weights = softmax(logits)
    return Truth(logits, weights, weights @ value)


# ---- the Poincare ball


def mobius_add(u: Array, v: Array, c: float) -> Array:
    """Return u (+) v in the ball of curvature -c, rows by rows (Ganea et al. 2018, equation 4)."""
    uv, uu, vv = ((a * b).sum(axis=-1, keepdims=True) for a, b in ((u, v), (u, u), (v, v)))
    above = (1.0 + 2.0 * c * uv + c * vv) * u + (1.0 - c * uu) * v
    return np.asarray(above / (1.0 + 2.0 * c * uv + c * c * uu * vv))


def poincare_distance(u: Array, v: Array, c: float) -> Array:
    """Return 2 / sqrt(c) artanh(sqrt(c) |-u (+) v|) (Ganea et al. 2018, equation 6)."""
    length = np.sqrt((mobius_add(-u, v, c) ** 2).sum(axis=-1))
    return np.asarray(2.0 / np.sqrt(c) * np.arctanh(np.sqrt(c) * length))


def exp_map0(vectors: Array, c: float) -> Array:
    """Return tanh(sqrt(c) |v|) v / (sqrt(c) |v|) (Ganea et al. 2018, lemma 2)."""
    length = np.sqrt(c * (vectors**2).sum(axis=-1, keepdims=True))
    return np.where(length > 0.0, np.tanh(length) * vectors / np.where(length > 0.0, length, 1.0), 0.0)


def einstein_midpoint(weights: Array, points: Array, c: float) -> Array:
    """Return each row's weighted midpoint of points of the ball; the origin where all weights are 0.

    On the hyperboloid it is the weighted sum of the points, taken back onto the hyperboloid (Gulcehre et al. 2019,
    equation 3, there in Klein coordinates).
    """
    squares = c * (points**2).sum(axis=-1, keepdims=True)
    time = weights @ ((1.0 + squares) / (1.0 - squares))
    space = weights @ (2.0 * points / (1.0 - squares))
    length = np.sqrt(time**2 - c * (space**2).sum(axis=-1, keepdims=True))
    nothing = weights.sum(axis=-1, keepdims=True) == 0.0
    return np.where(nothing, 0.0, space / np.where(nothing, 1.0, length + time))


# ---- the types


def _scaled_dot(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    return spread(scaled_products(q, k, options["scale"]), v, bias)


def _poincare(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    c = -options["curvature"]
    if options["map"] == "expmap0":
        q, k = exp_map0(q, c), exp_map0(k, c)
    return spread(-poincare_distance(q[:, None], k[None], c) / options["temperature"], v, bias)


TYPES: dict[str, Formula] = {"scaled_dot": _scaled_dot, "poincare": _poincare}
