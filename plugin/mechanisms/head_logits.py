"""Logits of attention heads side by side, over raw vectors or their projections: what the row multi_head computes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import heads_divide
from attnbridge.errors import DimensionMismatchError, InvalidConfigError
from attnbridge.mechanisms.row import Ids, Logits, Options, gathered
from attnbridge.metric import Keys
from attnbridge.validation import as_floats, require_finite

Parameters = Mapping[str, npt.NDArray[np.float32]]

MATRICES = ("W_q", "W_k", "W_v", "W_o")
BIASES = ("b_q", "b_k", "b_v", "b_o")
NONE: Parameters = {}

# Keys whose heads are taken apart at a time: float64 copies of them are made.
_BLOCK = 4_096

_LARGEST = float(np.finfo(np.float32).max)


def as_parameter(value: Any, name: str) -> npt.NDArray[np.float32]:
    """Return a finite parameter array as float32, a copy of one's own."""
    array = as_floats(value, name)
    require_finite(array, name)
    return np.array(array, np.float32)


def as_parameters(value: Any, name: str) -> Parameters:
    """Return the projections of a query and a key, and those of values where they are given."""
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"{name} must be a dict of arrays W_q, W_k, ..., got {type(value).__name__}")
    known = (*MATRICES, *BIASES)
    for key in value:
        if key not in known:
            raise InvalidConfigError(f"{name} must be named {', '.join(known)}; got {key!r}")
    for key in ("W_q", "W_k"):
        if key not in value:
            raise InvalidConfigError(f"{name} must hold W_q and W_k, {key} is missing; add it")
    held = {key: as_parameter(value[key], f"{name}[{key!r}]") for key in known if key in value}
    for key, array in held.items():
        axes = 2 if key in MATRICES else 1
        if array.ndim != axes or array.size == 0:
            rule = "(out, in)" if axes == 2 else "(out,)"
            raise DimensionMismatchError(f"{name}[{key!r}] must be {rule}, got shape {array.shape}")
    rows = {key: len(array) for key, array in held.items()}
    pairs = [("W_k", "W_q"), ("b_q", "W_q"), ("b_k", "W_k"), ("b_v", "W_v"), ("b_o", "W_o")]
    for one, other in pairs:
        if one in rows and other not in rows:
            raise InvalidConfigError(f"{name} must hold {other} with {one}; add it")
        if one in rows and rows[one] != rows[other]:
            raise DimensionMismatchError(
                f"{name}[{one!r}] must have as many rows as {other}, {rows[other]}, got {rows[one]}"
            )
    if "W_v" in held and "W_o" in held and held["W_o"].shape[1] != rows["W_v"]:
        raise DimensionMismatchError(
            f"{name}['W_o'] must have a column for each row of W_v, {rows['W_v']}, got {held['W_o'].shape[1]}"
        )
    return held


def require_fit(options: Options, dim: int) -> None:
    """Refuse heads that do not divide what they share, and projections of vectors of another dimension."""
    held = options["parameters"]
    if held is None:
        heads_divide(dim, options["num_heads"])
        return
    heads_divide(len(held["W_q"]), options["num_heads"], "Projected dimension")
    for name in ("W_q", "W_k"):
        if held[name].shape[1] != dim:
            raise DimensionMismatchError(
                f"parameters[{name!r}] must have a column for each of {dim} dimensions, got {held[name].shape[1]}"
            )


def scale_of(options: Options, dim: int) -> float:
    """Return the factor on a head's product."""
    if options["scale"] is not None:
        return float(options["scale"])
    held = options["parameters"]
    width = dim if held is None else len(held["W_q"])
    return float((width / options["num_heads"]) ** -0.5)


def _projected(query: npt.NDArray[Any], held: Parameters) -> Logits:
    """Return W_q q + b_q."""
    out = np.empty(len(held["W_q"]))
    kernels.dot(query, 0.0, held["W_q"], None, None, None, 1.0, out)
    return out + held["b_q"] if "b_q" in held else out


def _folded(projected: Logits, held: Parameters, like: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], float]:
    """Return what a key's product with is W_k k . projected, and the share of b_k: keys need not be projected."""
    out = np.empty(held["W_k"].shape[1])
    kernels.weighted_sum(projected, held["W_k"], None, None, out)
    share = float(projected @ held["b_k"]) if "b_k" in held else 0.0
    if like.dtype == np.float64 or np.abs(out).max() > _LARGEST:
        return out, share
    return out.astype(np.float32), share


def head_mean_logits(
    query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits
) -> None:
    """Fill `out` with the mean of the heads' logits, or with the logarithm of the mean of their weights."""
    require_fit(options, len(query))
    if options["score"] == "weights":
        out[:] = log_mean_weights(head_logits(query, keys, ids, options))
        return
    held, scale = options["parameters"], scale_of(options, len(query)) / options["num_heads"]
    if held is None:
        kernels.dot(query, bias, keys.data, keys.scale, keys.bias, ids, scale, out)
        return
    folded, share = _folded(_projected(query, held), held, query)
    kernels.dot(folded, share, keys.data, keys.scale, None, ids, scale, out)


def head_mean_weights(
    query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, logits: Logits, out: Logits
) -> None:
    """Fill `out` with the mean of the heads' weights."""
    require_fit(options, len(query))
    heads = head_logits(query, keys, ids, options)
    for head in heads:
        kernels.softmax(head, head)
    heads.mean(axis=0, out=out)


def head_logits(query: npt.NDArray[Any], keys: Keys, ids: Ids | None, options: Options) -> Logits:
    """Return each head's logits (H, m)."""
    count = len(keys.data) if ids is None else len(ids)
    heads, held = options["num_heads"], options["parameters"]
    if held is None:
        parts, shares = query.astype(np.float64).reshape(heads, -1), np.zeros(heads)
        if keys.bias is not None:  # l2: a head's similarity is minus half its squared distance
            shares = -0.5 * (parts**2).sum(axis=1)
    else:
        projected = _projected(query, held).reshape(heads, -1)
        weights = held["W_k"].reshape(heads, projected.shape[1], -1)
        parts = np.einsum("he,hed->hd", projected, weights.astype(np.float64))
        shares = (projected * held["b_k"].reshape(projected.shape)).sum(axis=1) if "b_k" in held else np.zeros(heads)
    out = np.empty((heads, count))
    for start in range(0, count, _BLOCK):
        part = slice(start, min(start + _BLOCK, count))
        some = np.arange(part.start, part.stop) if ids is None else ids[part]
        rows = gathered(keys, some).astype(np.float64)
        if held is not None:
            out[:, part] = parts @ rows.T
            continue
        rows = rows.reshape(len(rows), heads, -1)
        np.einsum("hd,mhd->hm", parts, rows, out=out[:, part])
        if keys.bias is not None:
            out[:, part] -= 0.5 * (rows**2).sum(axis=2).T
    out += shares[:, None]
    out *= scale_of(options, len(query))
    return out


def log_mean_weights(heads: Logits) -> Logits:
    """Return log(mean_h softmax(heads[h])) of logits (H, ..., m); without the logarithm small ones would be 0."""
    for head in heads.reshape(-1, heads.shape[-1]):
        total = kernels.logsumexp(head)
        if total > -np.inf:
            head -= total
    out: Logits = np.logaddexp.reduce(heads, axis=0) - np.log(len(heads))
    return out
