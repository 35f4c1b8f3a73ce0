"""The registry of attention types: one row a type, looked up by the functional API, the bridge and SQL alike."""

from typing import Any

from attnbridge.errors import InvalidConfigError
from attnbridge.mechanisms.cross import CROSS
from attnbridge.mechanisms.graph import GAT
from attnbridge.mechanisms.hyperbolic import POINCARE
from attnbridge.mechanisms.linear import LINEAR
from attnbridge.mechanisms.moe import MOE
from attnbridge.mechanisms.multi_head import MULTI_HEAD
from attnbridge.mechanisms.row import AttentionType, Options
from attnbridge.mechanisms.sliding import SLIDING
from attnbridge.mechanisms.sparse import SPARSE
from attnbridge.mechanisms.standard import FLASH_V2, SCALED_DOT
from attnbridge.metric import Metric

REGISTRY: dict[str, AttentionType] = {
    row.name: row for row in (SCALED_DOT, MULTI_HEAD, FLASH_V2, LINEAR, GAT, SPARSE, MOE, CROSS, SLIDING, POINCARE)
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
