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
    if name == "cross":
        return late_interaction(query, key, value, mask, options)
    q, k, v = (np.asarray(array, np.float64) for array in (query, key, value))
    rows = q[None] if q.ndim == 1 else q
    lead = np.broadcast_shapes(rows.shape[:-2], k.shape[:-2], v.shape[:-2])
    rows, k, v = (np.broadcast_to(array, lead + array.shape[-2:]) for array in (rows, k, v))
    shape = rows.shape[-2], k.shape[-2]
    first = options["position"] or 0 if name == "sparse" else 0
    bias = np.broadcast_to(bias_of(*shape, mask, is_causal, first), lead + shape)
    made = [TYPES[name](rows[i], k[i], v[i], bias[i], options) for i in np.ndindex(lead)]
    whole = (np.array(part).reshape(lead + part[0].shape) for part in zip(*made, strict=True))
    return Truth(*(part[..., 0, :] if q.ndim == 1 else part for part in whole))


def bias_of(queries: int, keys: int, mask: Any = None, is_causal: bool = False, first: int = 0) -> Array:
    """Return what is added to the logits: 0 or -inf for a boolean mask, the numbers of a float one.

    Causal: query i stands at first + i and attends to keys up to there.
    """
    bias = np.zeros((queries, keys))
    if mask is not None:
        mask = np.asarray(mask.to_dense() if hasattr(mask, "to_dense") else mask)
        bias = bias + (np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask)
    if is_causal:
        bias = np.where(np.arange(keys) > first + np.arange(queries)[:, None], -np.inf, bias)
    return np.asarray(bias, np.float64)


# ---- shared by the formulas


def softmax(logits: Array) -> Array:
    """Return exp(logits) over its sum along the last axis; zeros where all are -inf."""
    top = logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits - np.where(top == -np.inf, 0.0, top))
    total = powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers / np.where(total == 0.0, 1.0, total))


def log_softmax(logits: Array) -> Array:
    """Return the logarithm of `softmax`; -inf where all are -inf."""
    total = np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return np.asarray(logits - np.where(total == -np.inf, 0.0, total))


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


# ---- features


def elu_features(rows: Array) -> Array:
    """Return elu(x) + 1 (Katharopoulos et al. 2020, equation 7)."""
    return np.where(rows > 0.0, rows + 1.0, np.exp(np.minimum(rows, 0.0)))


def favor_features(rows: Array, directions: Array) -> Array:
    """Return exp(w . x - |x|^2 / 2) / sqrt(m) for each of m directions (Choromanski et al. 2021, equation 5)."""
    products = rows @ directions.T - 0.5 * (rows**2).sum(axis=-1, keepdims=True)
    return np.asarray(np.exp(products) / np.sqrt(len(directions)))


# ---- patterns


def window(queries: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.bool_]:
    """Return which keys are at most so far from a query, on either side."""
    return np.asarray(np.abs(queries - keys) <= size)


def pattern(
    name: str, queries: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], options: Options
) -> npt.NDArray[np.bool_]:
    """Return the pairs of a sparse pattern from positions (L, 1) and (1, S).

    Beltagy et al. 2020, section 3.1 (local, local_global); Child et al. 2019, section 4.3 (strided, fixed).
    """
    if name == "local":
        return window(queries, keys, options["window"])
    if name == "local_global":
        count = options["num_global_tokens"]
        return np.asarray(window(queries, keys, options["window"]) | (queries < count) | (keys < count))
    size = options["block_size"]
    same_block = queries // size == keys // size
    if name == "block":
        return np.asarray(same_block)
    if name == "fixed":
        return np.asarray(same_block | (keys % size == size - 1))
    if name == "strided":
        return np.asarray(window(queries, keys, size) | ((queries - keys) % size == 0))
    raise KeyError(name)


def largest(logits: Array, count: int) -> npt.NDArray[np.bool_]:
    """Return which logits of each row are its largest, ties by the earlier key; never those that are -inf."""
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :count]
    out = np.zeros(logits.shape, bool)
    np.put_along_axis(out, order, True, axis=-1)
    return out & (logits > -np.inf)


# ---- the types


def _scaled_dot(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    return spread(scaled_products(q, k, options["scale"]), v, bias)


def _multi_head(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    """Vaswani et al. 2017, section 3.2.2; nothing to attend to gives zeros, not the last bias."""
    held = {name: np.asarray(array, np.float64) for name, array in (options["parameters"] or {}).items()}

    def project(rows: Array, name: str) -> Array:
        return rows @ held[f"W_{name}"].T + held.get(f"b_{name}", 0.0) if f"W_{name}" in held else rows

    count = options["num_heads"]
    parts = zip(*(np.split(project(*rows), count, axis=-1) for rows in ((q, "q"), (k, "k"), (v, "v"))), strict=True)
    heads = [spread(scaled_products(a, b, options["scale"]), c, bias) for a, b, c in parts]
    weights = np.mean([head.weights for head in heads], axis=0)
    logits = np.mean([head.logits for head in heads], axis=0)
    if options.get("score") == "weights":  # in logarithms: weights that float64 cannot hold differ too
        logits = np.logaddexp.reduce([log_softmax(head.logits) for head in heads]) - np.log(count)
    output = project(np.concatenate([head.output for head in heads], axis=-1), "o")
    return Truth(logits, weights, np.where(weights.any(axis=-1, keepdims=True), output, 0.0))


def _linear(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    scale = options["scale"]
    if options["feature_map"] == "favor":
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        features = [favor_features(rows * scale**0.5, options["directions"]) for rows in (q, k)]
    else:
        features = [elu_features(rows * (1.0 if scale is None else scale) ** 0.5) for rows in (q, k)]
    return spread(np.log(features[0] @ features[1].T), v, bias)


def _gat(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    """Brody et al. 2022, equation 7 (v2); Velickovic et al. 2018, equation 3 (v1); without parameters the cosine."""
    temperature, slope = options["temperature"], options["negative_slope"]
    slope = 0.2 if slope is None else slope
    if options["parameters"] is None:
        unit = [rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-300) for rows in (q, k)]
        return spread(unit[0] @ unit[1].T / (0.1 if temperature is None else temperature), v, bias)
    held = {name: np.asarray(array, np.float64) for name, array in options["parameters"].items()}
    if options["version"] == "v1":
        sums = (q @ held["W"].T @ held["a_q"])[:, None] + k @ held["W"].T @ held["a_k"]
        logits = np.where(sums > 0.0, sums, slope * sums)
    else:
        hidden = (q @ held["W"].T)[:, None] + k @ held["U"].T
        logits = np.where(hidden > 0.0, hidden, slope * hidden) @ held["a"]
    return spread(logits / (1.0 if temperature is None else temperature), v, bias)


def _sparse(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    logits = scaled_products(q, k, options["scale"])
    name = options["pattern"]
    if name == "top_k":
        count = options["top_k"]
        count = int(np.ceil(np.sqrt(len(k)))) if count is None else count
        allowed = largest(logits + bias, count)
    else:
        rows, columns = np.arange(len(q))[:, None] + (options["position"] or 0), np.arange(len(k))[None]
        allowed = pattern(name, rows, columns, options)
    return spread(logits, v, np.where(allowed, bias, -np.inf))


def _sliding(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    """Beltagy et al. 2020, section 3.1; queries stand where they are, or where they are told to."""
    place = options["position"]
    rows = (np.arange(len(q)) if place is None else np.broadcast_to(place, len(q)))[:, None]
    columns = np.arange(len(k))[None]
    allowed = window(rows, columns, options["window"])
    if options["causal"]:
        allowed &= columns <= rows
    return spread(scaled_products(q, k, options["scale"]), v, np.where(allowed, bias, -np.inf))


def _moe(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    """Shazeer et al. 2017, equations 1 and 3 to 5 without noise: gates of the top_k experts, over their sum.

    It is the experts' weights that are mixed.
    """
    router = options["router"]
    shares = softmax(q @ np.asarray(router["W_r"], np.float64) + np.asarray(router["b_r"], np.float64))
    gates = np.where(largest(shares, options["top_k"]), shares, 0.0)
    gates /= gates.sum(axis=-1, keepdims=True)
    weights = np.zeros(bias.shape)
    for gate, (name, own) in zip(gates.T, options["experts"], strict=True):
        weights += gate[:, None] * TYPES[name](q, k, v, bias, own).weights
    with np.errstate(divide="ignore"):
        return Truth(np.log(weights), weights, weights @ v)


def late_interaction(query: Any, keys: Any, value: Any, mask: Any, options: Options) -> Truth:
    """Return MaxSim of one query's tokens (m, d), or (d,), with keys (S, d), (S, t, d) or a list of (t, d).

    Khattab and Zaharia 2020, equation 3, as a mean over the query's tokens; with a temperature the maximum is the mean
    of the products under their softmax.
    """
    tokens = np.atleast_2d(np.asarray(query, np.float64))
    logits = np.empty(len(keys))
    for i, key in enumerate(keys):
        products = tokens @ np.atleast_2d(np.asarray(key, np.float64)).T
        best = products
        if options["temperature"] is None:
            best = products.max(axis=1)
        else:
            best = (softmax(products / options["temperature"]) * products).sum(axis=1)
        logits[i] = options["scale"] * best.mean()
    found = spread(logits[None], np.asarray(value, np.float64), bias_of(1, len(keys), mask))
    return Truth(*(part[0] for part in found))


def _poincare(q: Array, k: Array, v: Array, bias: Array, options: Options) -> Truth:
    c = -options["curvature"]
    if options["map"] == "expmap0":
        q, k = exp_map0(q, c), exp_map0(k, c)
    found = spread(-poincare_distance(q[:, None], k[None], c) / options["temperature"], v, bias)
    if options.get("values") == "manifold":
        found = found._replace(output=einstein_midpoint(found.weights, v, c))
    return found


TYPES: dict[str, Formula] = {
    "scaled_dot": _scaled_dot,
    "multi_head": _multi_head,
    "flash_v2": _scaled_dot,
    "linear": _linear,
    "gat": _gat,
    "sparse": _sparse,
    "moe": _moe,
    "sliding": _sliding,
    "poincare": _poincare,
}
