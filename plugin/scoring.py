"""The registry of attention types: one row a type, looked up by the functional API, the bridge and SQL alike."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from attnbridge.errors import InvalidConfigError
from attnbridge.mechanisms.base import Attention, as_attention, refuse_unbuilt
from attnbridge.mechanisms.cross import CROSS
from attnbridge.mechanisms.custom import custom_row
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
from attnbridge.validation import as_text

REGISTRY: dict[str, AttentionType] = {
    row.name: row for row in (SCALED_DOT, MULTI_HEAD, FLASH_V2, LINEAR, GAT, SPARSE, MOE, CROSS, SLIDING, POINCARE)
}

_BY_NAME = {name: row for row in REGISTRY.values() for name in (row.name, *row.aliases)}
_writing = threading.Lock()

# Arguments of the calls that options stand beside.
RESERVED = frozenset(
    [
        "M",
        "X",
        "attention",
        "attention_type",
        "bridge",
        "cache",
        "candidates",
        "cls",
        "column",
        "con",
        "dim",
        "dtype",
        "edge_features",
        "edge_type",
        "edges",
        "ef",
        "embedding",
        "ef_construction",
        "engine",
        "frame",
        "G",
        "id",
        "ids",
        "index",
        "index_dim",
        "is_causal",
        "k",
        "keep_full",
        "key",
        "keys",
        "mask",
        "max_keys",
        "metric",
        "mix",
        "missing",
        "model",
        "path",
        "payload",
        "position",
        "progress",
        "query",
        "seed",
        "self",
        "table",
        "threads",
        "token_dtype",
        "tokens",
        "type",
        "values",
        "vector",
        "vectors",
        "weight",
    ]
)

# What register_attention was given, by name.
_given: dict[str, tuple[Any, ...]] = {}


def register_attention(
    name: str,
    logit: Callable[..., float] | None = None,
    *,
    attention: Attention | None = None,
    options: Mapping[str, float] | None = None,
    best_for: str = "",
) -> None:
    """Name an attention type of one's own: it is known wherever a type's name is given, until the process ends.

    Python functions, indexes, graphs and SQL then take the name; `attention_types` lists it. Doing it again with the
    same function, or with a mechanism of equal settings, changes nothing. A saved index holds the name, and opens with
    what it stands for then.

    Parameters
    ----------
    name : str
        One that is not taken.
    logit : callable, optional
        (query (d,), key (d,), *options) -> number, higher attends more; a function that Numba compiles, or one that it
        has compiled. In an index query and keys are the vectors that the metric compares: unit vectors under cosine.
        They are read-only, float32 or float64. An index beyond a vector is an error at the first pair of vectors of a
        length, for which the function is called once more; in later pairs, where indexes may differ, Numba does not
        check them.
    attention : Attention, optional
        In its place a mechanism, whose logit and settings, as they are now, the name stands for.
    options : mapping of str to float, optional
        Of the logit: names, in the order of its arguments, and defaults. Calls may set them as they do other options.
    best_for : str, optional
        What `attention_types` says of it.

    Raises
    ------
    InvalidConfigError
        A name that is taken, neither or both of logit and attention, a logit that does not compile, or names of options
        that no argument can have.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> def chebyshev(query, key, temperature):
    ...     return -np.abs(query - key).max() / temperature
    >>> ab.register_attention("chebyshev", chebyshev, options={"temperature": 1.0})
    >>> ab.attention_logits([1.0, 1.0], [[1.0, 0.5], [0.0, 3.0]], "chebyshev", temperature=2.0)
    array([-0.25, -1.  ])
    >>> ab.unregister_attention("chebyshev")
    """
    as_text(name, "name")
    if best_for != "":
        as_text(best_for, "best_for")
    if not isinstance(options, Mapping | None):
        raise InvalidConfigError(f"options must be defaults by name, as {{'temperature': 1.0}}; got {options!r}")
    if (logit is None) == (attention is None):
        got = "none" if logit is None else "both"
        raise InvalidConfigError(f"logit or attention must be given, one of them; got {got}")
    for option in options or {}:
        if not isinstance(option, str) or not option.isidentifier():
            raise InvalidConfigError(
                f"options must have names that Python arguments may have, got {option!r}; rename it"
            )
        if option in RESERVED:
            raise InvalidConfigError(
                f"options must not have the name of an argument of searches or of graphs, got {option!r}; rename it"
            )
    if attention is None:
        assert logit is not None
        row = custom_row(name, logit, options or {}, best_for)
    else:
        if options:
            raise InvalidConfigError("options must be left out with attention, which has its own settings")
        row = _named(name, attention, best_for)
    given = (logit, attention, dict(options or {}), best_for)
    with _writing:
        if name in _given and _given[name][2:] == given[2:] and _alike(_given[name][:2], given[:2]):
            return
        if name in _BY_NAME:
            own = f", or unregister_attention({name!r})" if name in _given else ""
            raise InvalidConfigError(f"name must be one that is not taken, {name!r} is; take another{own}")
        REGISTRY[name] = _BY_NAME[name] = row
        _given[name] = given


def _alike(known: tuple[Any, Any], given: tuple[Any, Any]) -> bool:
    """Return whether two pairs of a logit and a mechanism are the same function or mechanisms with equal settings."""
    (logit, one), (other_logit, other) = known, given
    if one is None or other is None or one is other:
        return logit is other_logit and one is other
    if type(one) is not type(other) or one.config != other.config:
        return False
    parameters: list[Any] = [getattr(each, "get_parameters", list)() for each in (one, other)]
    return np.array_equal(*parameters)


def register_all(types: Any) -> None:
    """Name several mechanisms, or none of them.

    Raises
    ------
    InvalidConfigError
    """
    if not isinstance(types, Mapping):
        raise InvalidConfigError(f"types must be a dict of mechanisms by name, got {type(types).__name__}")
    before = set(_given)
    try:
        for name, attention in types.items():
            register_attention(name, attention=attention)
    except BaseException:
        for name in types:
            if name in _given and name not in before:
                unregister_attention(name)
        raise


def unregister_attention(name: str) -> None:
    """Forget an attention type of one's own; what has looked it up already keeps it.

    Parameters
    ----------
    name : str

    Raises
    ------
    InvalidConfigError
        Not a name that `register_attention` was given.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.register_attention("sharp", attention=ab.ScaledDotProductAttention(scale=10.0))
    >>> ab.unregister_attention("sharp")
    """
    with _writing:
        if name not in _given:
            own = ", ".join(sorted(_given)) or "none"
            raise InvalidConfigError(f"name must be one that register_attention was given ({own}), got {name!r}")
        del REGISTRY[name], _BY_NAME[name], _given[name]


def _named(name: str, attention: Attention, best_for: str) -> AttentionType:
    """Return a mechanism's row under another name, its settings being the defaults."""
    row, own = as_attention(attention).as_type()
    options = {key: replace(option, default=own[key]) for key, option in row.options.items()}
    return replace(row, name=name, aliases=(), options=options, best_for=best_for or row.best_for)


def resolve(attention_type: str | Attention, options: Options) -> tuple[AttentionType, dict[str, Any]]:
    """Return the registry's row and the options, checked, with defaults filled in.

    Of a mechanism they are its own.

    Raises
    ------
    InvalidConfigError
        Unknown type or option (the known ones are listed), or an option's value that cannot be, or would change
        nothing.
    """
    if isinstance(attention_type, Attention):
        refuse_options(options)
        return attention_type.as_type()
    row = _BY_NAME.get(attention_type) if isinstance(attention_type, str) else None
    if row is None:
        refuse_unbuilt(attention_type)
        raise InvalidConfigError(
            f"attention type must be one of {', '.join(sorted(_BY_NAME))}; got {attention_type!r}; "
            "register_attention names one of your own"
        )
    for name in options:
        if name not in row.options:
            known = ", ".join(sorted(row.options)) or "none"
            raise InvalidConfigError(f"{row.name} has no option {name!r}; its options are: {known}")
    checked = {
        name: option.check(options[name], name) if name in options else option.default
        for name, option in row.options.items()
    }
    if row.require_use is not None:
        row.require_use(checked)
    return row, checked


def refuse_options(options: Options) -> None:
    """Refuse options with a mechanism."""
    if options:
        names = ", ".join(sorted(options))
        raise InvalidConfigError(f"{names} must be left out with a mechanism, which has its own settings")


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
