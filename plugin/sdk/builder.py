"""Builders: an attention mechanism, option by option."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple, Self, TypeVar

from attnbridge.config import (
    AttentionConfig,
    GraphAttentionConfig,
    as_config,
    as_dim_of_model,
    heads_divide,
    refuse_useless,
)
from attnbridge.errors import InvalidConfigError
from attnbridge.mechanisms import (
    Attention,
    CrossAttention,
    FlashAttention,
    GraphAttention,
    HyperbolicAttention,
    LinearAttention,
    MixtureOfExpertsAttention,
    MultiHeadAttention,
    ScaledDotProductAttention,
    SlidingWindowAttention,
    SparseAttention,
)
from attnbridge.mechanisms.moe import as_jitter
from attnbridge.positions import RotaryEmbedding
from attnbridge.validation import as_count, as_number

A = TypeVar("A", bound=Attention)


class Kind(NamedTuple):
    """What a builder can build.

    Parameters
    ----------
    make : callable
        (**arguments) -> Attention.
    takes : mapping of str to str
        The builder's options, and what the constructor calls them.
    requires : tuple of str
        Options that must be given.
    """

    make: Callable[..., Attention]
    takes: Mapping[str, str]
    requires: tuple[str, ...] = ()


def _same(*names: str, **others: str) -> dict[str, str]:
    return {name: name for name in names} | others


def _experts(num_experts: int, num_heads: int = 1, **arguments: Any) -> Attention:
    """Return a mixture of so many experts of one shape, each with projections of its own."""
    d_model, seed = arguments["d_model"], arguments.get("seed", 0)
    experts = [
        MultiHeadAttention(d_model, num_heads, scale=arguments.get("scale"), seed=seed + 1 + number)
        for number in range(as_count(num_experts, "num_experts"))
    ]
    arguments.pop("scale", None)
    return MixtureOfExpertsAttention(experts, **arguments)


_ALL = _same("d_model", "causal", "max_seq_len")
_DENSE = _ALL | _same("scale", "dropout", "eps")
_ROTARY = _same("rotary")
_HEADS = _same("d_model", "max_seq_len", "num_heads", "scale", "dropout", "seed", use_bias="bias")

KINDS: dict[str, Kind] = {
    "scaled_dot": Kind(ScaledDotProductAttention, _DENSE | _ROTARY),
    "multi_head": Kind(MultiHeadAttention, _HEADS | _ROTARY | _same("causal", "eps"), ("d_model",)),
    "cross": Kind(CrossAttention, _HEADS, ("d_model",)),
    "flash": Kind(FlashAttention, _DENSE | _ROTARY | _same("block_size")),
    "sliding": Kind(SlidingWindowAttention, _DENSE | _same("window")),
    "linear": Kind(LinearAttention, _ALL | _same("feature_map", "num_features", "scale", "eps", "seed")),
    "sparse": Kind(
        SparseAttention,
        _ALL | _same("pattern", "window", "block_size", "num_global_tokens", "top_k", "scale", "dropout"),
    ),
    "hyperbolic": Kind(HyperbolicAttention, _ALL | _same("curvature", "temperature", "map", "dropout")),
    "moe": Kind(
        _experts,
        _ALL
        | _same("num_experts", "num_heads", "top_k", "scale", "dropout", "seed")
        | {"expert_capacity": "capacity_factor", "jitter_noise": "jitter"},
        ("d_model",),
    ),
}


# The number of heads where it is not given, as the constructors have it.
_HEADS_OF = {"multi_head": 8, "cross": 8, "moe": 1}


class _Builder:
    """Options that were set; every call returns a builder of its own, and leaves this one as it is."""

    _kind: str | None = None

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._config: Any = None
        self._told: dict[str, Any] = {}

    def _with(self, **options: Any) -> Self:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__, _options=self._options | options)
        return made

    def _configured(self, config: Any, kind: type[AttentionConfig | GraphAttentionConfig]) -> Self:
        """Return a builder where what a configuration was given goes over what was set before, as later options do."""
        told: dict[str, Any] = as_config(config, kind, type(self).__name__).told()
        made = self._with()
        made._told = self._told | told
        made._config = config if self._config is None else replace(self._config, **told)
        made._options = {name: value for name, value in self._options.items() if name not in told}
        return made

    def _unsaid(self) -> dict[str, Any]:
        """Return the configuration's settings beside their defaults that no option set later has another value of."""
        if self._config is None:
            return {}
        others = {field.name: field.default for field in fields(self._config)}
        return {
            name: value for name, value in self._told.items() if name not in self._options and value != others[name]
        }

    def dropout(self, p: float) -> Self:
        """Drop weights in training.

        Parameters
        ----------
        p : float
            The rate, in [0, 1).

        Returns
        -------
        Self
        """
        return self._with(dropout=p)

    def causal(self, causal: bool = True) -> Self:
        """Let query i attend to keys 0..i only.

        Parameters
        ----------
        causal : bool, default True

        Returns
        -------
        Self
        """
        return self._with(causal=causal)

    def seed(self, seed: int) -> Self:
        """Draw initial parameters, or random features, from another seed.

        Parameters
        ----------
        seed : int

        Returns
        -------
        Self
        """
        return self._with(seed=seed)

    def temperature(self, temperature: float) -> Self:
        """Divide logits by a number.

        Parameters
        ----------
        temperature : float

        Returns
        -------
        Self
        """
        return self._with(temperature=temperature)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


class AttentionBuilder(_Builder):
    """An attention mechanism, option by option: a kind, its options, `build`.

    Every method but the last returns a new builder; one that is kept may be gone on with in several ways. What a kind
    has no use for is refused by `build`, which names both.

    Parameters
    ----------
    d_model : int, optional
        Dimension of queries and keys.

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> attention = ab.AttentionBuilder(768).multi_head(12).dropout(0.1).causal(True).build()
    >>> attention.num_heads, attention.dropout, attention.causal
    (12, 0.1, True)
    >>> ab.AttentionBuilder(768).flash(128).num_heads(12).build()
    Traceback (most recent call last):
    ...
    attnbridge.errors.InvalidConfigError: num_heads must be left out with flash; cross, moe, multi_head have it
    """

    def __init__(self, d_model: int | None = None) -> None:
        super().__init__()
        if d_model is not None:
            self._options["d_model"] = as_dim_of_model(d_model)

    # ---- kinds

    def _of(self, kind: str, **options: Any) -> Self:
        if self._kind not in (None, kind):
            raise InvalidConfigError(f"{kind} conflicts with {self._kind}, which was chosen before; choose one of them")
        made = self._with(**{name: value for name, value in options.items() if value is not None})
        made._kind = kind
        return made

    def scaled_dot(self) -> Self:
        """Build `ScaledDotProductAttention`.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("scaled_dot")

    def multi_head(self, num_heads: int | None = None) -> Self:
        """Build `MultiHeadAttention`.

        Parameters
        ----------
        num_heads : int, optional
            Must divide d_model; 8 where it is not given at all.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("multi_head", num_heads=num_heads)

    def cross(self, num_heads: int | None = None) -> Self:
        """Build `CrossAttention`, a decoder's over an encoder's states.

        Parameters
        ----------
        num_heads : int, optional

        Returns
        -------
        AttentionBuilder
        """
        return self._of("cross", num_heads=num_heads)

    def flash(self, block_size: int | None = None) -> Self:
        """Build `FlashAttention`.

        Parameters
        ----------
        block_size : int, optional
            Keys at a time.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("flash", block_size=block_size)

    def sliding(self, window: int | None = None) -> Self:
        """Build `SlidingWindowAttention`.

        Parameters
        ----------
        window : int, optional
            Keys on either side of a query.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("sliding", window=window)

    def linear(self, num_features: int | None = None) -> Self:
        """Build `LinearAttention`: with a number of features that of Performers (FAVOR+), without elu(x) + 1.

        Parameters
        ----------
        num_features : int, optional

        Returns
        -------
        AttentionBuilder
        """
        return self._of("linear", num_features=num_features, feature_map=None if num_features is None else "favor")

    def local_global(self, window: int | None = None, num_global_tokens: int = 1) -> Self:
        """Build `SparseAttention` over a window and tokens that attend to all and are attended by all.

        Parameters
        ----------
        window : int, optional
            Keys on either side of a query.
        num_global_tokens : int, default 1
            The first so many tokens.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("sparse", pattern="local_global", window=window, num_global_tokens=num_global_tokens)

    def sparse(self, pattern: str = "top_k") -> Self:
        """Build `SparseAttention` over another pattern; `window`, `block_size` and `top_k` set its numbers.

        Parameters
        ----------
        pattern : {"top_k", "local", "strided", "block", "local_global", "fixed", "mask"}, default "top_k"
            "mask" is the pairs of each call's mask.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("sparse", pattern=pattern)

    def hyperbolic(self, curvature: float = -1.0) -> Self:
        """Build `HyperbolicAttention`.

        Parameters
        ----------
        curvature : float, default -1.0
            Negative.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("hyperbolic", curvature=curvature)

    def moe(self, num_experts: int = 8, top_k: int = 2) -> Self:
        """Build `MixtureOfExpertsAttention`: experts of one shape, each with projections of its own.

        Parameters
        ----------
        num_experts : int, default 8
        top_k : int, default 2
            Experts of a query.

        Returns
        -------
        AttentionBuilder
        """
        return self._of("moe", num_experts=num_experts, top_k=top_k)

    # ---- options

    def d_model(self, d_model: int) -> Self:
        """Set the dimension of queries and keys.

        Parameters
        ----------
        d_model : int

        Returns
        -------
        AttentionBuilder
        """
        return self._with(d_model=as_dim_of_model(d_model))

    def num_heads(self, num_heads: int) -> Self:
        """Set the number of heads; of a mixture, each expert's.

        Parameters
        ----------
        num_heads : int
            Must divide d_model.

        Returns
        -------
        AttentionBuilder
        """
        return self._with(num_heads=num_heads)

    def use_bias(self, use_bias: bool = True) -> Self:
        """Say whether projections have biases.

        Parameters
        ----------
        use_bias : bool, default True

        Returns
        -------
        AttentionBuilder
        """
        return self._with(use_bias=use_bias)

    def scale(self, scale: float) -> Self:
        """Set the factor on q . k.

        Parameters
        ----------
        scale : float

        Returns
        -------
        AttentionBuilder
        """
        return self._with(scale=scale)

    def max_seq_len(self, max_seq_len: int) -> Self:
        """Refuse longer sequences.

        Parameters
        ----------
        max_seq_len : int

        Returns
        -------
        AttentionBuilder
        """
        return self._with(max_seq_len=max_seq_len)

    def eps(self, eps: float) -> Self:
        """Add a number to the denominators of the weights.

        Parameters
        ----------
        eps : float

        Returns
        -------
        AttentionBuilder
        """
        return self._with(eps=eps)

    def rotary(self, base: float = 10_000.0) -> Self:
        """Turn queries and keys by their places: logits then go by how far apart they are.

        Parameters
        ----------
        base : float, default 10,000
            Of the angles, as `RotaryEmbedding` has it; its dimension is that of a head.

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        InvalidConfigError
        """
        remedy = "rotary() takes 10000.0, the usual one"
        return self._with(rotary=as_number(base, "base of rotary", above=1.0, remedy=remedy))

    def window(self, window: int) -> Self:
        """Set the keys on either side of a query.

        Parameters
        ----------
        window : int

        Returns
        -------
        AttentionBuilder
        """
        return self._with(window=window)

    def block_size(self, block_size: int) -> Self:
        """Set the size of blocks, or the stride of a strided pattern.

        Parameters
        ----------
        block_size : int

        Returns
        -------
        AttentionBuilder
        """
        return self._with(block_size=block_size)

    def top_k(self, top_k: int) -> Self:
        """Set how many keys, or experts, a query keeps.

        Parameters
        ----------
        top_k : int

        Returns
        -------
        AttentionBuilder
        """
        return self._with(top_k=top_k)

    def map(self, map: str) -> Self:
        """Say what vectors of hyperbolic attention are.

        Parameters
        ----------
        map : {"ball", "expmap0"}

        Returns
        -------
        AttentionBuilder
        """
        return self._with(map=map)

    def expert_capacity(self, factor: float) -> Self:
        """Limit how many queries an expert takes in training.

        Parameters
        ----------
        factor : float
            Of the mean load; above 0.

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        InvalidConfigError
        """
        return self._with(expert_capacity=as_number(factor, "expert_capacity", above=0.0))

    def jitter_noise(self, jitter: float) -> Self:
        """Multiply the router's input by random numbers about 1 in training.

        Parameters
        ----------
        jitter : float
            They are from 1 - jitter to 1 + jitter; in [0, 1).

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        InvalidConfigError
        """
        return self._with(jitter_noise=as_jitter(jitter, "jitter_noise"))

    def config(self, config: AttentionConfig) -> Self:
        """Take the settings of a configuration.

        Those that it was given are as options set here: they go over what was set before, and options that are set
        later go over them. Those left at their defaults fill in, for a kind that has them, what nothing else sets.
        `build` refuses a setting beside its default that the kind has no use for.

        Parameters
        ----------
        config : AttentionConfig
            Its eps is that of linear attention; `eps` sets that of other kinds.

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        InvalidConfigError
        """
        return self._configured(config, AttentionConfig)

    # ---- building

    def build(self) -> Attention:
        """Return the mechanism; without a kind multi-head attention where there are heads, else scaled dot-product.

        Returns
        -------
        Attention

        Raises
        ------
        InvalidConfigError
            An option, or a setting of the configuration that is not its default, that the kind has no use for; or an
            option that it needs.
        DimensionMismatchError
        """
        kind = self._kind
        if kind is None:
            kind = "multi_head" if "num_heads" in self._options or self._config is not None else "scaled_dot"
        make, takes, requires = KINDS[kind]
        for name in self._options:
            if name not in takes:
                homes = ", ".join(other for other in sorted(KINDS) if name in KINDS[other].takes)
                raise InvalidConfigError(
                    f"{name} must be left out with {kind}; {homes} {'have' if ',' in homes else 'has'} it"
                )
        given = {} if self._config is None else asdict(self._config)
        if kind != "linear":  # as from_config has it: a configuration's eps is that of linear attention and of norms
            given.pop("eps", None)
        if self._config is not None:
            own = {"eps": f"eps({{!r}}) sets that of {kind}"} if "eps" in takes else {}
            refuse_useless(self._config, self._unsaid(), kind, _uses(), own)
        options = {name: value for name, value in given.items() if name in takes and value is not None} | self._options
        if options.get("causal") is False and "causal" not in self._options:
            del options["causal"]
        for name in requires:
            if name not in options:
                raise InvalidConfigError(f"{name} must be given to build {kind}; AttentionBuilder(768) does")
        if "num_heads" in takes and "d_model" in options:
            heads_divide(options["d_model"], options.get("num_heads", _HEADS_OF[kind]), "d_model")
        if "rotary" in options:
            options["rotary"] = _rotary(options, kind)
        return make(**{takes[name]: value for name, value in options.items()})

    def build_multi_head(self) -> MultiHeadAttention:
        """Return a `MultiHeadAttention`.

        Returns
        -------
        MultiHeadAttention

        Raises
        ------
        InvalidConfigError, DimensionMismatchError
        """
        return _exactly(self.multi_head().build(), MultiHeadAttention)

    def build_scaled_dot_product(self) -> ScaledDotProductAttention:
        """Return a `ScaledDotProductAttention`.

        Returns
        -------
        ScaledDotProductAttention

        Raises
        ------
        InvalidConfigError
        """
        return _exactly(self.scaled_dot().build(), ScaledDotProductAttention)

    def __repr__(self) -> str:
        kind = "" if self._kind is None else f".{self._kind}()"
        config = "" if self._config is None else f".config({self._config!r})"
        given = "".join(f".{name}({value!r})" for name, value in self._options.items())
        return f"AttentionBuilder(){kind}{config}{given}"


def _uses() -> dict[str, set[str]]:
    """Return the settings of a configuration that each kind has a use for."""
    return {kind: set(KINDS[kind].takes) - ({"eps"} if kind != "linear" else set()) for kind in KINDS}


def _rotary(options: Mapping[str, Any], kind: str) -> RotaryEmbedding:
    """Return the embedding of a head's dimension."""
    if "d_model" not in options:
        raise InvalidConfigError("d_model must be given with rotary; AttentionBuilder(768) does")
    heads = options.get("num_heads", _HEADS_OF[kind]) if kind == "multi_head" else 1
    width = options["d_model"] // heads
    if width % 2:
        of_heads = f", num_heads={heads}" if kind == "multi_head" else ""
        raise InvalidConfigError(
            f"rotary must go with heads of even dimension, d_model={options['d_model']}{of_heads} gives {width}"
        )
    return RotaryEmbedding(width, base=options["rotary"])


def _exactly(made: Attention, kind: type[A]) -> A:
    assert isinstance(made, kind)
    return made


class GraphAttentionBuilder(_Builder):
    """A `GraphAttention`, option by option.

    Parameters
    ----------
    in_dim : int, optional
        Dimension of queries and keys; without it, logits are cosines.
    out_dim : int, optional
        Hidden dimension; by default in_dim.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.GraphAttentionBuilder(64, 16).version("v1").aggregation("mean").build().config["version"]
    'v1'
    """

    def __init__(self, in_dim: int | None = None, out_dim: int | None = None) -> None:
        super().__init__()
        given = {"in_dim": in_dim, "out_dim": out_dim}
        self._options = {name: value for name, value in given.items() if value is not None}

    def version(self, version: str) -> Self:
        """Choose GATv2 or GAT.

        Parameters
        ----------
        version : {"v2", "v1"}

        Returns
        -------
        GraphAttentionBuilder
        """
        return self._with(version=version)

    def edge_dim(self, edge_dim: int) -> Self:
        """Let logits see the edges' features.

        Parameters
        ----------
        edge_dim : int
            Their dimension.

        Returns
        -------
        GraphAttentionBuilder
        """
        return self._with(edge_dim=edge_dim)

    def negative_slope(self, negative_slope: float) -> Self:
        """Set the slope of LeakyReLU below 0.

        Parameters
        ----------
        negative_slope : float

        Returns
        -------
        GraphAttentionBuilder
        """
        return self._with(negative_slope=negative_slope)

    def aggregation(self, aggregation: str) -> Self:
        """Say how weighted neighbours become one vector.

        Parameters
        ----------
        aggregation : {"sum", "mean", "max"}

        Returns
        -------
        GraphAttentionBuilder
        """
        return self._with(aggregation=aggregation)

    def normalize(self, normalize: bool = True) -> Self:
        """Say whether weights are the softmax of the logits, or the logits themselves.

        Parameters
        ----------
        normalize : bool, default True

        Returns
        -------
        GraphAttentionBuilder
        """
        return self._with(normalize=normalize)

    def config(self, config: GraphAttentionConfig) -> Self:
        """Take the settings of a configuration.

        Those that it was given go over what was set before; options that are set later go over them. Without in_dim
        there are no parameters: `build` refuses a negative_slope or an edge_dim then.

        Parameters
        ----------
        config : GraphAttentionConfig

        Returns
        -------
        GraphAttentionBuilder

        Raises
        ------
        InvalidConfigError
        """
        return self._configured(config, GraphAttentionConfig)

    def build(self) -> GraphAttention:
        """Return the mechanism.

        Returns
        -------
        GraphAttention

        Raises
        ------
        InvalidConfigError
        """
        given = {}
        if "seed" in self._options and "in_dim" not in self._options:
            raise InvalidConfigError(
                "seed must go with in_dim, without which there are no parameters to draw; GraphAttentionBuilder(64)"
            )
        slope = self._unsaid().get("negative_slope")
        if slope is not None and "in_dim" not in self._options:
            raise InvalidConfigError(
                f"config must have negative_slope = {GraphAttentionConfig().negative_slope}, its default, without "
                f"in_dim, got {slope}; GraphAttentionBuilder(64) has it"
            )
        if self._config is not None:
            names = ["edge_dim", "aggregation", "normalize"] + (["negative_slope"] if "in_dim" in self._options else [])
            given = {name: getattr(self._config, name) for name in names}
        return GraphAttention(**given | self._options)

    def __repr__(self) -> str:
        config = "" if self._config is None else f".config({self._config!r})"
        given = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        return f"GraphAttentionBuilder({given}){config}"


__all__ = ["KINDS", "AttentionBuilder", "GraphAttentionBuilder", "Kind"]
