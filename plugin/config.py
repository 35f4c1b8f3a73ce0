"""Settings of attention mechanisms as values: checked when they are made, compared by content, written as JSON."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

from attnbridge.errors import DimensionMismatchError, InvalidConfigError
from attnbridge.validation import as_bool, as_choice, as_count, as_number, as_text

PATTERNS = ("top_k", "local", "strided", "block", "local_global", "fixed")
AGGREGATIONS = ("sum", "mean", "max")
# A projection of 65,536 dimensions has 16 GB; that of the largest known models 1.5.
MOST_D_MODEL = 65_536
# What is so of a mechanism that has no use for the setting.
_OF_NONE: Mapping[str, Any] = {"num_heads": 1, "dropout": 0.0}
# What ends the messages about these settings.
EPS_REMEDY = "1e-6 is the usual one"
WINDOW_REMEDY = "128 keys on either side are the default"
BLOCK_REMEDY = "64 is the usual one"


class _Config:
    """What all of them can do."""

    _given: tuple[str, ...]

    def to_json(self) -> str:
        """Return the settings as a JSON object.

        Returns
        -------
        str
        """
        return json.dumps(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the settings that `to_json` wrote; what is left out has its default.

        Parameters
        ----------
        text : str

        Raises
        ------
        InvalidConfigError
            Not a JSON object, an unknown name (the known ones are listed), or a value that cannot be.
        """
        try:
            given = json.loads(as_text(text, "text"))
        except ValueError as error:
            raise InvalidConfigError(f"text must be a JSON object: {error}") from None
        if not isinstance(given, dict):
            raise InvalidConfigError(f"text must be a JSON object, got {text!r}")
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name in given:
            if name not in known:
                raise InvalidConfigError(f"{cls.__name__} has no setting {name!r}; it has {', '.join(known)}")
        return cls(**given)

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Remember which settings are given."""
        made = super().__new__(cls)
        names = [field.name for field in fields(cls)[: len(args)]]  # type: ignore[arg-type]
        object.__setattr__(made, "_given", (*names, *settings))
        return made

    def told(self) -> dict[str, Any]:
        """Return the settings that were given, not left at their defaults.

        Where all of them were, as `from_json` and `dataclasses.replace` do, they are those that differ from their
        defaults: nobody has chosen the others.

        Returns
        -------
        dict of str to object

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.AttentionConfig(d_model=512, num_heads=4).told()
        {'d_model': 512, 'num_heads': 4}
        """
        defaults = {field.name: field.default for field in fields(self)}  # type: ignore[arg-type]
        told = {name: getattr(self, name) for name in self._given}
        if told.keys() == defaults.keys():
            return {name: value for name, value in told.items() if value != defaults[name]}
        return told

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


C = TypeVar("C", bound=_Config)


def as_config(value: Any, kind: type[C], user: str) -> C:
    """Return a configuration of the kind that its user takes."""
    if not isinstance(value, kind):
        article = "an" if kind is AttentionConfig else "a"
        raise InvalidConfigError(
            f"config must be {article} {kind.__name__} for {user}, got {value!r}; SparseAttention takes "
            "SparseAttentionConfig, GraphAttention GraphAttentionConfig, all others AttentionConfig"
        )
    return value


def refuse_useless(
    config: _Config,
    settings: Mapping[str, Any],
    user: str,
    uses: Mapping[str, Collection[str]],
    own: Mapping[str, str] | None = None,
) -> None:
    """Refuse those settings of a configuration, beside their defaults, that its user has no use for.

    Parameters
    ----------
    config : _Config
    settings : mapping of str to object
        Those of it that count.
    user : str
    uses : mapping of str to collection of str
        The settings that each user has a use for.
    own : mapping of str to str, optional
        How the user is given, {!r}, what a setting of this name is elsewhere.
    """
    defaults = {field.name: field.default for field in fields(config)}  # type: ignore[arg-type]
    for name, value in settings.items():
        if name in uses[user] or value in (defaults[name], _OF_NONE.get(name)):
            continue
        homes = sorted(other for other in uses if name in uses[other])
        of_none = f", or {_OF_NONE[name]!r}," if name in _OF_NONE else ","
        instead = f"; {own[name].format(value)}" if own and name in own else ""
        raise InvalidConfigError(
            f"config must have {name} = {defaults[name]!r}, its default{of_none} with {user}, got {value!r}; "
            f"{', '.join(homes)} {'have' if len(homes) > 1 else 'has'} it{instead}"
        )


def as_dropout(value: Any, name: str = "dropout") -> float:
    """Return a rate of dropout in [0, 1)."""
    with suppress(InvalidConfigError):
        rate = as_number(value, name, least=0.0, most=1.0)
        if rate < 1.0:
            return rate
    raise InvalidConfigError(f"{name} must be in [0, 1), got {value!r}; 0.0 drops nothing, 1.0 would drop everything")


def as_dim_of_model(value: Any, name: str = "d_model") -> int:
    """Return a dimension that a mechanism may make square matrices of."""
    return as_count(value, name, most=MOST_D_MODEL, remedy="768 to 16384 are usual")


def heads_divide(dim: int, num_heads: Any, what: str = "Query dimension") -> int:
    """Return a number of heads that divides a dimension."""
    heads = as_count(num_heads, "num_heads")
    if dim % heads:
        near = nearest_divisor(dim, heads)
        raise DimensionMismatchError(f"{what} {dim} must be divisible by num_heads {heads}; {near} would do")
    return heads


def nearest_divisor(dim: int, count: int) -> int:
    """Return the divisor of a dimension next to a number, of two the smaller one."""
    return min((n for n in range(1, dim + 1) if dim % n == 0), key=lambda n: abs(n - count))


@dataclass(frozen=True)
class AttentionConfig(_Config):
    """Settings of sequence attention, for `from_config` of each of its mechanisms.

    These are `ScaledDotProductAttention`, `FlashAttention`, `SlidingWindowAttention`, `LinearAttention`,
    `MultiHeadAttention`, `CrossAttention` and `MixtureOfExpertsAttention`; `SparseAttention` takes a
    `SparseAttentionConfig`, `GraphAttention` a `GraphAttentionConfig`. A setting beside its default that a mechanism
    has no use for is refused; num_heads=1 and dropout=0.0 are not, which say what is so of mechanisms without heads or
    dropout.

    Parameters
    ----------
    d_model : int, default 512
        Dimension of queries and keys, up to 65,536.
    num_heads : int, default 8
        Must divide d_model.
    dropout : float, default 0.1
        Rate at which weights are dropped in training, [0, 1).
    use_bias : bool, default True
        Whether projections have biases.
    scale : float, optional
        Factor on q . k; by default 1/sqrt(d_k).
    max_seq_len : int, default 512
        Longer sequences are refused.
    causal : bool, default False
        Query i attends to keys 0..i only.
    eps : float, default 1e-6
        Added to denominators (linear attention, norms).

    Raises
    ------
    InvalidConfigError, DimensionMismatchError

    Examples
    --------
    >>> import attnbridge as ab
    >>> config = ab.AttentionConfig(d_model=256, num_heads=4)
    >>> config.d_k, config.scale_or_default
    (64, 0.125)
    >>> ab.AttentionConfig.from_json(config.to_json()) == config
    True
    """

    d_model: int = 512
    num_heads: int = 8
    dropout: float = 0.1
    use_bias: bool = True
    scale: float | None = None
    max_seq_len: int = 512
    causal: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        self._set("d_model", as_dim_of_model(self.d_model))
        self._set("num_heads", heads_divide(self.d_model, self.num_heads, "d_model"))
        self._set("dropout", as_dropout(self.dropout))
        self._set("use_bias", as_bool(self.use_bias, "use_bias"))
        self._set("scale", None if self.scale is None else as_number(self.scale, "scale", above=0.0))
        self._set("max_seq_len", as_count(self.max_seq_len, "max_seq_len"))
        self._set("causal", as_bool(self.causal, "causal"))
        self._set("eps", as_number(self.eps, "eps", above=0.0, remedy=EPS_REMEDY))

    @property
    def d_k(self) -> int:
        """Dimension of a head."""
        return self.d_model // self.num_heads

    @property
    def scale_or_default(self) -> float:
        """The given scale, or 1/sqrt(d_k)."""
        return float(self.d_k**-0.5 if self.scale is None else self.scale)


@dataclass(frozen=True)
class GraphAttentionConfig(_Config):
    """Settings of attention along edges.

    Parameters
    ----------
    use_edge_features : bool, default False
        Whether logits see the edges' features.
    edge_dim : int, optional
        Their dimension; with use_edge_features.
    aggregation : {"sum", "mean", "max"}, default "sum"
        How weighted neighbours become one vector.
    normalize : bool, default True
        Whether weights are the softmax of the logits over the neighbours, or the logits themselves.
    negative_slope : float, default 0.2
        Of LeakyReLU, 0 to 1.

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.GraphAttentionConfig(aggregation="mean").to_json()[:60]
    '{"use_edge_features": false, "edge_dim": null, "aggregation"'
    """

    use_edge_features: bool = False
    edge_dim: int | None = None
    aggregation: str = "sum"
    normalize: bool = True
    negative_slope: float = 0.2

    def __post_init__(self) -> None:
        self._set("use_edge_features", as_bool(self.use_edge_features, "use_edge_features"))
        self._set("edge_dim", None if self.edge_dim is None else as_dim_of_model(self.edge_dim, "edge_dim"))
        if self.use_edge_features != (self.edge_dim is not None):
            raise InvalidConfigError(
                f"edge_dim must be given with use_edge_features=True, and only then: got edge_dim={self.edge_dim!r} "
                f"with use_edge_features={self.use_edge_features}"
            )
        self._set("aggregation", as_choice(self.aggregation, "aggregation", AGGREGATIONS))
        self._set("normalize", as_bool(self.normalize, "normalize"))
        self._set("negative_slope", as_number(self.negative_slope, "negative_slope", least=0.0, most=1.0))


@dataclass(frozen=True)
class SparseAttentionConfig(_Config):
    """Settings of attention over a pattern of pairs.

    Parameters
    ----------
    pattern : {"top_k", "local", "strided", "block", "local_global", "fixed"}, default "local"
    block_size : int, default 64
        Of block and fixed patterns; the stride of strided ones.
    local_window : int, default 128
        Keys on either side of a query, of local and local_global patterns.
    num_global_tokens : int, default 0
        First tokens that attend to all and are attended by all, of local_global patterns.
    top_k : int, optional
        Largest logits kept for a query, of the top_k pattern; by default ceil(sqrt(S)).

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.SparseAttentionConfig(pattern="local_global", num_global_tokens=2).num_global_tokens
    2
    """

    pattern: str = "local"
    block_size: int = 64
    local_window: int = 128
    num_global_tokens: int = 0
    top_k: int | None = None

    def __post_init__(self) -> None:
        self._set("pattern", as_choice(self.pattern, "pattern", PATTERNS))
        self._set("block_size", as_count(self.block_size, "block_size", remedy=BLOCK_REMEDY))
        self._set("local_window", as_count(self.local_window, "local_window", remedy=WINDOW_REMEDY))
        self._set("num_global_tokens", as_count(self.num_global_tokens, "num_global_tokens", least=0))
        self._set("top_k", None if self.top_k is None else as_count(self.top_k, "top_k"))
