"""The registry of attention types: one row a type, looked up by the functional API, the bridge and SQL alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.manifolds import HyperbolicSpace
from attnbridge.metric import MAPS, Keys, Metric
from attnbridge.validation import as_choice, as_number

Logits = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """An option of an attention type: its default, and the check of a given value."""

    default: Any
    check: Callable[[Any, str], Any]


@dataclass(frozen=True)
class AttentionType:
    """A row of the registry.

    Parameters
    ----------
    name, complexity, best_for : str
    pairwise : bool
        Whether the logit of a pair does not depend on the other keys.
    options : mapping of str to Option
    logits : callable
        (query (d,), query_bias, Keys, ids (m,) or None, options, out (m,) float64) -> None; fills `out`.
    rerank : callable
        (queries (b, d), query_bias (b,), Keys, ids (b, m), counts (b,), options, positions, logits, weights) ->
        None; the fused kernel, fills the last three, (b, k) each.
    build_space : str or None
        The space in which hnswlib builds: "metric" for the bridge's own.
    metric : callable or None
        (options) -> Metric, of a type that brings its own; its rows and queries are given as this prepares them.
    largest_logit : float or None
        An upper bound of the logit that is reached by equal vectors, where there is one.
    aliases : tuple of str
    """

    name: str
    complexity: str
    best_for: str
    pairwise: bool
    options: Mapping[str, Option]
    logits: Callable[..., None]
    rerank: Callable[..., None]
    build_space: str | None = "metric"
    metric: Callable[[Options], Metric] | None = None
    largest_logit: float | None = None
    aliases: tuple[str, ...] = field(default=())

    def __reduce__(self) -> tuple[Any, ...]:
        return _named, (self.name,)


def _named(name: str) -> AttentionType:
    """Return a row of the registry, for pickle."""
    return REGISTRY[name]


def _positive(value: Any, name: str) -> float:
    return as_number(value, name, above=0.0)


def scaled_dot_scale(dim: int, options: Options) -> float:
    """Return the given scale, or 1/sqrt(d)."""
    scale = options["scale"]
    return float(dim**-0.5 if scale is None else scale)


def _scaled_dot_logits(
    query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits
) -> None:
    kernels.dot(query, bias, keys.data, keys.scale, keys.bias, ids, scaled_dot_scale(len(query), options), out)


def _scaled_dot_rerank(
    queries: npt.NDArray[Any],
    bias: npt.NDArray[np.float64],
    keys: Keys,
    ids: Ids,
    counts: Ids,
    options: Options,
    positions: Ids,
    logits: Logits,
    weights: Logits,
) -> None:
    scale = scaled_dot_scale(queries.shape[1], options)
    kernels.rerank(queries, bias, keys.data, keys.scale, keys.bias, ids, counts, scale, positions, logits, weights)


def _poincare_scale(options: Options) -> float:
    return float((-options["curvature"]) ** -0.5 / options["temperature"])


def _poincare_logits(
    query: npt.NDArray[Any], factor: float, keys: Keys, ids: Ids | None, options: Options, out: Logits
) -> None:
    kernels.poincare(query, factor, keys.data, keys.scale, ids, _poincare_scale(options), out)


def _poincare_rerank(
    queries: npt.NDArray[Any],
    factor: npt.NDArray[np.float64],
    keys: Keys,
    ids: Ids,
    counts: Ids,
    options: Options,
    positions: Ids,
    logits: Logits,
    weights: Logits,
) -> None:
    scale = _poincare_scale(options)
    kernels.rerank_poincare(queries, factor, keys.data, keys.scale, ids, counts, scale, positions, logits, weights)


REGISTRY: dict[str, AttentionType] = {
    row.name: row
    for row in (
        AttentionType(
            name="scaled_dot",
            complexity="O(n^2)",
            best_for="small sequences (<512)",
            pairwise=True,
            options={
                # Factor on q . k; None is 1/sqrt(d).
                "scale": Option(None, lambda value, name: None if value is None else _positive(value, name)),
            },
            logits=_scaled_dot_logits,
            rerank=_scaled_dot_rerank,
            aliases=("dot", "scaled_dot_product", "sdpa"),
        ),
        AttentionType(
            name="poincare",
            complexity="O(n^2)",
            best_for="hierarchies (embeddings of trees)",
            pairwise=True,
            options={
                # The logit is -distance / temperature.
                "temperature": Option(1.0, _positive),
                "curvature": Option(-1.0, lambda value, name: HyperbolicSpace(value).curvature),
                # What vectors are: points of the ball, or tangent vectors at its origin.
                "map": Option("ball", lambda value, name: as_choice(value, name, MAPS)),
            },
            logits=_poincare_logits,
            rerank=_poincare_rerank,
            build_space="l2",
            metric=lambda options: Metric("poincare", options["curvature"], options["map"]),
            largest_logit=0.0,
            aliases=("hyperbolic",),
        ),
    )
}

_BY_NAME = {name: row for row in REGISTRY.values() for name in (row.name, *row.aliases)}


def resolve(attention_type: str, options: Options) -> tuple[AttentionType, dict[str, Any]]:
    """Return the registry's row and the options, checked, with defaults filled in.

    Raises
    ------
    InvalidConfigError
        Unknown type or option (the known ones are listed), or an option's value that cannot be.
    """
    row = _BY_NAME.get(attention_type) if isinstance(attention_type, str) else None
    if row is None:
        raise InvalidConfigError(f"attention type must be one of {', '.join(sorted(_BY_NAME))}; got {attention_type!r}")
    for name in options:
        if name not in row.options:
            known = ", ".join(sorted(row.options)) or "none"
            raise InvalidConfigError(f"{row.name} has no option {name!r}; its options are: {known}")
    checked = {
        name: option.check(options[name], name) if name in options else option.default
        for name, option in row.options.items()
    }
    return row, checked


def metric_of(row: AttentionType, options: Options, given: str | None) -> Metric:
    """Return the metric to search by: the type's own, or the given one, cosine by default.

    Raises
    ------
    InvalidConfigError
        Unknown metric, or one that does not go with the type.
    """
    if row.metric is None:
        if given == "poincare":
            raise InvalidConfigError(f"metric='poincare' goes with attention='poincare' only, got {row.name!r}")
        return Metric("cosine" if given is None else given)
    own = row.metric(options)
    if given not in (None, own.name):
        raise InvalidConfigError(
            f"metric must be left out with attention={row.name!r}, which brings its own ({own.name!r}), got {given!r}"
        )
    return own
