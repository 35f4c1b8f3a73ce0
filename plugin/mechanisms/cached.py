"""A mechanism whose answers are kept in a cache."""

import math
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from attnbridge.cache import AttentionCache, Key, NotKeyedError, Same, as_cache, content, is_bypassed, new_version
from attnbridge.errors import InvalidConfigError
from attnbridge.graph_edges import InEdges
from attnbridge.graph_operator import GraphInput, GraphOutput
from attnbridge.mechanisms.base import Attended, Attention, AttentionOutput, Batch, Logits, as_attention
from attnbridge.mechanisms.row import AttentionType
from attnbridge.positions import RotaryEmbedding
from attnbridge.validation import Float

# Arguments with which a result is not a function of the others, or holds more than its arrays.
_NOT_KEPT = ("need_context", "training", "seed")
_PLAIN_ARGUMENTS = 6  # of `forward`, before need_context

# What a mechanism of the user's own may hold besides numbers, text and arrays.
_FIXED = (FunctionType, BuiltinFunctionType, type, AttentionType)


class CachedAttention(Attention):
    """A mechanism whose `forward`, `logits` and `weights` are taken from a cache where they were computed before.

    `Attention.cached` makes it. Calls over graphs are taken from there too; everything else is the mechanism's own. An
    index, a graph or SQL, which would rank without the cache, refuse it. Calls in training, with a seed or with
    need_context=True are computed, as are those with inputs whose content cannot be told: objects that are neither
    arrays nor numbers, or lists, dicts or masks of those.

    Parameters
    ----------
    attention : Attention
    cache : AttentionCache

    Raises
    ------
    InvalidConfigError

    Notes
    -----
    Another value of one of its attributes, or other parameters by `set_parameters`, make another mechanism of it: what
    was kept before is not returned. Arrays of mechanisms of your own are compared value by
    value, and one that holds other things that may change is computed each time.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> cache = ab.AttentionCache()
    >>> attention = ab.MultiHeadAttention(4, num_heads=2).cached(cache)
    >>> x = np.eye(4, dtype=np.float32)
    >>> bool((attention.forward(x, x, x).output == attention.forward(x, x, x).output).all()), cache.hits
    (True, 1)
    >>> attention.set_parameters(np.zeros(attention.parameter_count))
    >>> attention.forward(x, x, x).output.any(), cache.hits
    (np.False_, 1)
    """

    _inner: Attention

    def __init__(self, attention: Attention, cache: AttentionCache) -> None:
        as_attention(attention)
        if cache is None:
            raise InvalidConfigError("cache must be an AttentionCache, got None; make AttentionCache(max_bytes)")
        self._inner = attention._inner if isinstance(attention, CachedAttention) else attention
        self._cache = as_cache(cache)
        self._known: tuple[Any, int] = (None, 0)  # a state of the mechanism, and its version

    @property
    def name(self) -> str:  # type: ignore[override]
        """The mechanism's."""
        return self._inner.name

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """The mechanism's."""
        return self._inner.causal

    @property
    def dropout(self) -> float:  # type: ignore[override]
        """The mechanism's."""
        return self._inner.dropout

    @property
    def d_model(self) -> int | None:  # type: ignore[override]
        """The mechanism's."""
        return self._inner.d_model

    @property
    def max_seq_len(self) -> int | None:  # type: ignore[override]
        """The mechanism's."""
        return self._inner.max_seq_len

    @property
    def rotary(self) -> RotaryEmbedding | None:  # type: ignore[override]
        """The mechanism's."""
        return self._inner.rotary

    @property
    def _softmax_eps(self) -> float:  # type: ignore[override]
        return self._inner._softmax_eps

    @property
    def config(self) -> dict[str, Any]:
        """The mechanism's."""
        return self._inner.config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":  # what copy and pickle ask before there is anything
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return f"{self._inner!r}.cached({self._cache!r})"

    def forward(self, *args: Any, **options: Any) -> AttentionOutput:
        """Return what the mechanism's `forward` does.

        Parameters
        ----------
        *args, **options : object
            As it takes them.

        Returns
        -------
        AttentionOutput
        """
        if len(args) > _PLAIN_ARGUMENTS or any(
            not (options.get(name) is None or options[name] is False) for name in _NOT_KEPT
        ):
            return self._inner.forward(*args, **options)
        output: AttentionOutput = self._found("forward", self._inner.forward, args, options)
        return output

    def logits(self, *args: Any, **options: Any) -> Logits:
        """Return what the mechanism's `logits` does.

        Parameters
        ----------
        *args, **options : object
            As it takes them.

        Returns
        -------
        ndarray of float64
        """
        found: Logits = self._found("logits", self._inner.logits, args, options)
        return found

    def weights(self, *args: Any, **options: Any) -> Float:
        """Return what the mechanism's `weights` does.

        Parameters
        ----------
        *args, **options : object
            As it takes them.

        Returns
        -------
        ndarray
        """
        found: Float = self._found("weights", self._inner.weights, args, options)
        return found

    def through(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return what a function of this library returns with the mechanism as its attention_type.

        Parameters
        ----------
        function : callable
        *args, **options : object
            Its other arguments.

        Returns
        -------
        object
        """

        def compute(*args: Any, **options: Any) -> Any:
            return function(*args, attention_type=self._inner, **options)

        return self._found(f"{function.__module__}.{function.__qualname__}", compute, args, options)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the mechanism's.

        Returns
        -------
        dict of str to ndarray
        """
        return self._inner.parameters()

    def as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        """Refuse: what ranks candidates would not look into the cache.

        Raises
        ------
        InvalidConfigError
        """
        raise InvalidConfigError(
            "attention must be without its cache where it ranks candidates, pairs or edges, which would not look into "
            f"it; give the {type(self._inner).__name__} itself, and to an AttentionVectorBridge cache=AttentionCache()"
        )

    def require_dim(self, dim: int) -> None:
        """Refuse what the mechanism refuses.

        Parameters
        ----------
        dim : int
        """
        self._inner.require_dim(dim)

    def at(self, position: int, *, turned_keys: bool = False) -> Attention:
        """Return the mechanism for queries that begin at a place, with the same cache.

        Parameters
        ----------
        position : int
        turned_keys : bool, default False

        Returns
        -------
        Attention
        """
        inner: Any = self._inner
        return CachedAttention(inner.at(position, turned_keys=turned_keys), as_cache(self._cache))  # type: ignore[arg-type]

    def _over(self, graph: GraphInput) -> GraphOutput:
        def compute(X: Float, indptr: Any, sources: Any, numbers: Any, *others: Any) -> GraphOutput:  # noqa: N803
            return self._inner._over(GraphInput(X, InEdges(indptr, sources, numbers), *others))

        output: GraphOutput = self._found("graph_forward", compute, (graph.X, *graph.edges, *graph[2:]), {})
        return output

    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        self._inner._refuse(edge_attr, edge_weight, edge_type)

    def _check(self, *args: Any, **options: Any) -> Batch:
        return self._inner._check(*args, **options)

    def _logits(self, batch: Batch) -> Logits:
        return self._inner._logits(batch)

    def _masked_logits(self, batch: Batch) -> Logits:
        return self._inner._masked_logits(batch)

    def _all_weights(self, batch: Batch) -> Float:
        return self._inner._all_weights(batch)

    def _attend(self, batch: Batch, *args: Any, **options: Any) -> Attended:
        return self._inner._attend(batch, *args, **options)

    def _found(self, name: str, compute: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Return a copy of what is kept of a call, or do it."""
        cache = self._cache
        assert cache is not None
        if is_bypassed():
            return compute(*args, **options)
        room, most = cache.max_bytes, sum(getattr(one, "nbytes", 0) for one in (*args, *options.values()))
        if not isinstance(most, int) or most > room:  # too large to be kept, not worth a copy
            return compute(*args, **options)
        try:
            version = self._version()
            given, named = content(args), content(options)
        except NotKeyedError:
            return compute(*args, **options)
        key = Key((name, version, given, named))
        kept = cache.get(key)
        if kept is not None:
            return _copied(kept)
        result = compute(*args, **options)
        # What the arguments and the mechanism are now is what they were, or nobody knows what this is the answer to.
        if self._version() == version and content(args) == given and content(options) == named:
            cache.put(key, _copied(result))
        return result

    def _version(self) -> int:
        """Return the number of the state that the mechanism is in."""
        state, (before, number) = _state(self._inner), self._known
        if state != before:
            number = new_version()
            self._known = (state, number)
        return number


def _state(thing: Any, ours: bool = True) -> Any:
    """Return what a mechanism's results depend on: settings by value, parameters by identity.

    Arrays of a mechanism of the user's own may change where they are: those are taken by value.

    Raises
    ------
    NotKeyedError
        A mechanism of the user's own that holds something else that may change.
    """
    kind = type(thing)
    if isinstance(thing, Attention):
        ours = kind.__module__.startswith("attnbridge.")
        return (kind, *((name, _state(value, ours)) for name, value in vars(thing).items()))
    if isinstance(thing, dict):
        return (kind, *((name, _state(value, ours)) for name, value in thing.items()))
    if isinstance(thing, list | tuple):
        return (kind, *(_state(value, ours) for value in thing))
    if kind is float and math.isnan(thing):
        return (kind, "nan")
    if kind in (int, float, bool, str, bytes, type(None)):
        return (kind, thing)
    if kind is np.ndarray and not ours:
        return (kind, thing.dtype.str, thing.shape, thing.tobytes())
    if not ours and not isinstance(thing, _FIXED):
        raise NotKeyedError(f"a {kind.__name__}")
    return Same(thing)


def _copied(value: Any) -> Any:
    """Return a result whose arrays are copies."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple):
        parts = map(_copied, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
