"""Multi-head attention: several attentions side by side, each over its share of the columns."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge.config import EPS_REMEDY, AttentionConfig, as_dim_of_model, as_dropout, heads_divide
from attnbridge.errors import DimensionMismatchError, InvalidConfigError
from attnbridge.mechanisms.base import AttentionContext, AttentionOutput, Batch
from attnbridge.mechanisms.dense import attend_plain
from attnbridge.mechanisms.head_logits import (
    BIASES,
    MATRICES,
    NONE,
    Parameters,
    as_parameter,
    as_parameters,
    head_mean_logits,
    head_mean_weights,
    require_fit,
    scale_of,
)
from attnbridge.mechanisms.heads import Heads, mean_over_heads
from attnbridge.mechanisms.row import AttentionType, Option, Options, optional, positive
from attnbridge.parameters import named_parameters
from attnbridge.positions import RotaryEmbedding, as_rotary
from attnbridge.validation import Float, as_bool, as_choice, as_count, as_number, require_given

MULTI_HEAD = AttentionType(
    name="multi_head",
    complexity="O(n^2)",
    best_for="general purpose",
    pairwise=True,
    options={
        # Must divide the dimension.
        "num_heads": Option(8, as_count),
        # Factor on a head's product; None is 1/sqrt(d / num_heads).
        "scale": Option(None, optional(positive)),
        # What ranks: the mean of the heads' logits, or the logarithm of the mean of their weights.
        "score": Option("logits", lambda value, name: as_choice(value, name, ("logits", "weights"))),
        # W_q, W_k and, where they are wanted, b_q, b_k; W_v, b_v, W_o, b_o for outputs.
        "parameters": Option(None, optional(as_parameters)),
    },
    logits=head_mean_logits,
    mechanism=lambda options: _RowHeads(options),
    weights=head_mean_weights,
    aliases=("mha", "multihead"),
    pairwise_with=lambda options: options["score"] == "logits",
    require_fit=require_fit,
    # Each head sees a part of the unit vector: their mean is scaled_dot's logit of scale 20.
    index_scale=lambda options, dim, unit: (
        20.0 * options["num_heads"] if unit and options["parameters"] is None else scale_of(options, dim)
    ),
)


class _RowHeads(Heads):
    """What the functional API calls: parameters as they are given, heads that are checked with the vectors."""

    name: ClassVar[str] = "multi_head"

    def __init__(self, options: Options) -> None:
        self.num_heads, self.scale, self.score = options["num_heads"], options["scale"], options["score"]
        self._held = options["parameters"] or NONE

    @property
    def config(self) -> dict[str, Any]:
        """The row's options but the parameters."""
        return {"num_heads": self.num_heads, "scale": self.scale, "score": self.score}

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of the parameters given."""
        return {name: array.copy() for name, array in self._held.items()}

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        batch = super()._check(query, key, value, mask, is_causal, **names)
        require_fit(self._options(self._held), batch.query.shape[-1])
        if batch.value is None:
            return batch
        dim = batch.value.shape[-1]
        if "W_v" in self._held and self._held["W_v"].shape[1] != dim:
            columns = self._held["W_v"].shape[1]
            raise DimensionMismatchError(
                f"parameters['W_v'] must have a column for each of {dim} dimensions of {batch.names[2]}, got {columns}"
            )
        if "W_o" in self._held and "W_v" not in self._held and self._held["W_o"].shape[1] != dim:
            columns = self._held["W_o"].shape[1]
            raise DimensionMismatchError(
                f"parameters['W_o'] must have a column for each of {dim} dimensions of {batch.names[2]}, got {columns}"
            )
        return batch


class MultiHeadAttention(Heads):
    """Concat(head_1, ..., head_H) W_o^T + b_o, head_h = softmax(scale Q_h K_h^T + mask) V_h.

    Q = query W_q^T + b_q, K = key W_k^T + b_k, V = value W_v^T + b_v, cut into H runs of columns; without projections
    query, key and value themselves are cut. A query that may attend to nothing has zero output, without b_o.

    Parameters
    ----------
    d_model : int
        Dimension of queries and of the output; of keys and values too where not told otherwise.
    num_heads : int, default 8
        Must divide d_model.
    bias : bool, default True
        Whether projections have biases. Without projections there are none.
    projections : bool, default True
        Whether there are W_q, W_k, W_v and W_o.
    kdim, vdim : int, optional
        Dimension of keys and of values where it is another; with projections only. Without projections, values may
        have any dimension that num_heads divides.
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    scale : float, optional
        Factor on a head's product; by default 1/sqrt(d_model / num_heads).
    causal : bool, default False
        Every call is causal.
    max_seq_len : int, optional
        More queries or keys are refused.
    eps : float, default 0.0
        Added to the denominators of the heads' weights, exp(logits) / (sum + eps).
    rotary : RotaryEmbedding or dict, optional
        Turns each head's queries and keys, after their projections, by their places, 0 the first of each; its dim is
        d_model / num_heads. A dict as its `config`.
    seed : int, default 0
        Of the initial parameters: matrices uniform within sqrt(6 / (rows + columns)) (Glorot and Bengio 2010), biases
        zero.

    Raises
    ------
    InvalidConfigError, DimensionMismatchError

    References
    ----------
    Vaswani et al. 2017, Attention Is All You Need, section 3.2.2.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> attention = ab.MultiHeadAttention(4, num_heads=2)
    >>> attention.parameter_count  # 4 d^2 + 4 d
    80
    >>> x = np.eye(4, dtype=np.float32)
    >>> output, weights, _ = attention.forward(x, x, x, need_weights=True, average_attn_weights=False)
    >>> output.shape, weights.shape
    ((4, 4), (2, 4, 4))
    """

    name: ClassVar[str] = "multi_head"
    _configured: ClassVar[tuple[str, ...]] = (
        "d_model",
        "num_heads",
        "dropout",
        "use_bias",
        "scale",
        "max_seq_len",
        "causal",
    )
    d_model: int

    def __init__(
        self,
        d_model: int,
        num_heads: int = 8,
        *,
        bias: bool = True,
        projections: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        dropout: float = 0.0,
        scale: float | None = None,
        causal: bool = False,
        max_seq_len: int | None = None,
        eps: float = 0.0,
        rotary: RotaryEmbedding | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.d_model = as_dim_of_model(d_model)
        self.num_heads = heads_divide(self.d_model, num_heads)
        self.projections = as_bool(projections, "projections")
        self.bias = as_bool(bias, "bias") and self.projections
        self.kdim = self.d_model if kdim is None else as_dim_of_model(kdim, "kdim")
        self.vdim = self.d_model if vdim is None else as_dim_of_model(vdim, "vdim")
        if not self.projections and (kdim is not None or vdim is not None):
            raise InvalidConfigError("kdim and vdim must be left out with projections=False: nothing maps to d_model")
        self.dropout = as_dropout(dropout)
        self.scale = None if scale is None else positive(scale, "scale")
        self.causal = as_bool(causal, "causal")
        self.max_seq_len = None if max_seq_len is None else as_count(max_seq_len, "max_seq_len")
        self.eps = self._softmax_eps = as_number(eps, "eps", least=0.0, remedy=EPS_REMEDY)
        self.rotary = as_rotary(rotary, self.d_model // self.num_heads)
        self.seed = as_count(seed, "seed", least=0)
        self._held = self._initial()

    @classmethod
    def from_config(cls, config: AttentionConfig, *, seed: int = 0) -> Self:
        """Return the mechanism of a configuration.

        Parameters
        ----------
        config : AttentionConfig
        seed : int, default 0

        Returns
        -------
        MultiHeadAttention

        Raises
        ------
        InvalidConfigError
            No such configuration, or a setting beside its default that the mechanism has no use for.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.MultiHeadAttention.from_config(ab.AttentionConfig(d_model=8, num_heads=2)).max_seq_len
        512
        """
        settings = cls._settings_of(config)
        bias = settings.pop("use_bias")
        return cls(**settings, bias=bias, seed=seed)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism, of the same initial parameters."""
        return {
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "bias": self.bias,
            "projections": self.projections,
            "kdim": self.kdim if self.projections else None,
            "vdim": self.vdim if self.projections else None,
            "dropout": self.dropout,
            "scale": self.scale,
            "causal": self.causal,
            "max_seq_len": self.max_seq_len,
            "eps": self.eps,
            "rotary": None if self.rotary is None else self.rotary.config,
            "seed": self.seed,
        }

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        return MULTI_HEAD, {
            "num_heads": self.num_heads,
            "scale": self.scale,
            "score": self.score,
            "parameters": dict(self._held) or None,
        }

    # ---- parameters

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter, in the order of the flat vector."""
        if not self.projections:
            return {}
        columns = dict(zip(MATRICES, (self.d_model, self.kdim, self.vdim, self.d_model), strict=True))
        shapes: dict[str, tuple[int, ...]] = {name: (self.d_model, count) for name, count in columns.items()}
        return shapes | (dict.fromkeys(BIASES, (self.d_model,)) if self.bias else {})

    def _initial(self) -> Parameters:
        rng, held = np.random.default_rng(self.seed), {}
        for name, shape in self._shapes().items():
            bound = np.sqrt(6.0 / sum(shape)) if name in MATRICES else 0.0
            held[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        return held

    @property
    def parameter_count(self) -> int:
        """How many numbers the parameters are: 4 d^2 + 4 d where all dimensions are d_model, with biases."""
        return sum(int(np.prod(shape)) for shape in self._shapes().values())

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of the parameters: W_q, W_k, W_v, W_o (out, in) and b_q, b_k, b_v, b_o (out,).

        Returns
        -------
        dict of str to ndarray of float32
        """
        return {name: array.copy() for name, array in self._held.items()}

    def get_parameters(self) -> npt.NDArray[np.float32]:
        """Return all parameters in one vector, in the order of `parameters`, matrices row by row.

        Returns
        -------
        ndarray of float32, (parameter_count,)

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.MultiHeadAttention(4, num_heads=2).get_parameters().shape
        (80,)
        """
        return np.concatenate([np.empty(0, np.float32), *(array.reshape(-1) for array in self._held.values())])

    def set_parameters(self, parameters: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> None:
        """Put other parameters in place; a call that has begun goes on with those before.

        Parameters
        ----------
        parameters : array_like, (parameter_count,), or dict of str to array_like
            As `get_parameters` or `parameters` return them.

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError
            Another length, other names or shapes, or a value that is not finite; nothing has changed then.

        Examples
        --------
        >>> import numpy as np, attnbridge as ab
        >>> attention = ab.MultiHeadAttention(2, num_heads=1, bias=False)
        >>> attention.set_parameters(np.arange(16))
        >>> attention.parameters()["W_k"]
        array([[4., 5.],
               [6., 7.]], dtype=float32)
        """
        shapes = self._shapes()
        if isinstance(parameters, Mapping):
            self._held = named_parameters(parameters, shapes)
            return
        flat = as_parameter(parameters, "parameters")
        if flat.shape != (self.parameter_count,):
            raise DimensionMismatchError(
                f"parameters must be {self.parameter_count} numbers in one vector, got shape {flat.shape}"
            )
        ends = np.cumsum([np.prod(shape, dtype=np.int64) for shape in shapes.values()])
        parts = np.split(flat, ends[:-1]) if shapes else []
        self._held = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    # ---- calls

    def forward(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        value: npt.ArrayLike,
        mask: Any = None,
        is_causal: bool = False,
        need_weights: bool = False,
        need_context: bool = False,
        *,
        training: bool = False,
        seed: int | None = None,
        average_attn_weights: bool = True,
    ) -> AttentionOutput:
        """Return the heads' outputs, side by side and projected.

        Parameters
        ----------
        query : array_like, (d_model,) or (..., L, d_model)
            Leading axes are broadcast.
        key : array_like, (..., S, kdim)
        value : array_like, (..., S, vdim)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
            Boolean: True attends (torch's masks of this module say the opposite). Float: added to every head's logits.
        is_causal : bool, default False
            Query i attends to keys 0..i only; after `at(p)` to keys 0..p + i.
        need_weights : bool, default False
            Return the weights too.
        need_context : bool, default False
            Return what a backward pass needs: query, key and value as given, logsumexp of each head (..., H, L).
        training : bool, default False
            Apply dropout.
        seed : int, optional
            What is random in training is drawn from it; by default fresh.
        average_attn_weights : bool, default True
            Return the mean of the heads' weights, (..., L, S), or each head's, (..., H, L, S).

        Returns
        -------
        AttentionOutput
            float32, or float64 where query, key or value is.

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError, InputTooLargeError
        NumericalInstabilityError
            An output beyond float32.
        """
        plain = mask is seed is None and is_causal is need_weights is need_context is training is False
        if plain and not (self.projections or self.causal or self.max_seq_len or self.eps or self.rotary):
            output = self._plainly(query, key, value)
            if output is not None:
                return AttentionOutput(output)
        for name, given in (("key", key), ("value", value)):
            require_given(given, name)
        batch = self._check(query, key, value, mask, is_causal)
        need_weights, need_context = as_bool(need_weights, "need_weights"), as_bool(need_context, "need_context")
        average = as_bool(average_attn_weights, "average_attn_weights")
        output, heads, totals = self._attend_heads(
            batch, need_weights, need_context, as_bool(training, "training"), seed
        )
        weights = context = None
        if heads is not None:
            weights = batch.restore(mean_over_heads(heads)) if average else batch.restore(heads, 2)
            weights = weights.astype(batch.key.dtype, copy=False)
        if totals is not None:
            context = AttentionContext(
                *batch.problems(),
                mask=mask,
                is_causal=batch.is_causal,
                logsumexp=batch.restore(totals, 2),
                first=batch.first,
            )
        return AttentionOutput(batch.restore(output), weights, context)

    def _plainly(self, query: Any, key: Any, value: Any) -> Float | None:
        if type(query) is not np.ndarray or query.ndim == 0 or query.shape[-1] != self.d_model:
            return None
        return attend_plain(query, key, value, scale=self.scale, heads=self.num_heads)

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        batch = super()._check(query, key, value, mask, is_causal, same_dim=self.kdim == self.d_model, **names)
        self._require_dim(batch.names[1], batch.key, "kdim")
        if batch.value is not None and self.projections:
            self._require_dim(batch.names[2], batch.value, "vdim")
        return batch

    def _require_dim(self, name: str, array: Float, setting: str) -> None:
        dim = getattr(self, setting)
        if array.shape[-1] != dim:
            raise DimensionMismatchError(f"{name} must have dimension {setting} = {dim}, got {array.shape[-1]}")
