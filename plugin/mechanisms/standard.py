"""Scaled dot-product attention, plain and in tiles."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import BLOCK_REMEDY, EPS_REMEDY, AttentionConfig, as_dim_of_model, as_dropout
from attnbridge.errors import InvalidConfigError
from attnbridge.masks import SparseMask
from attnbridge.mechanisms.base import Attended, Batch, RegisteredAttention, RotaryAttention, scale_rows, with_eps
from attnbridge.mechanisms.dense import MANY_BLOCK, attend_dense, attend_plain
from attnbridge.mechanisms.neighbors import attend_nodes
from attnbridge.mechanisms.pairs import Pairs, attend_sparse
from attnbridge.mechanisms.row import (
    AttentionType,
    Ids,
    Logits,
    Option,
    Options,
    of_outputs,
    optional,
    positive,
    scale_or_default,
)
from attnbridge.metric import Keys
from attnbridge.positions import RotaryEmbedding, as_rotary
from attnbridge.validation import Float, as_bool, as_count, as_number


def _logits(query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    scale = scale_or_default(len(query), options["scale"])
    kernels.dot(query, bias, keys.data, keys.scale, keys.bias, ids, scale, out)


def _rerank(
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
    scale = scale_or_default(queries.shape[1], options["scale"])
    kernels.rerank(queries, bias, keys.data, keys.scale, keys.bias, ids, counts, scale, positions, logits, weights)


# Factor on q . k; None is 1/sqrt(d).
SCALE = Option(None, optional(positive))

SCALED_DOT = AttentionType(
    name="scaled_dot",
    complexity="O(n^2)",
    best_for="small sequences (<512)",
    pairwise=True,
    options={"scale": SCALE},
    logits=_logits,
    mechanism=lambda options: ScaledDotProductAttention(**options),
    rerank=_rerank,
    aliases=("dot", "scaled_dot_product", "sdpa"),
)

FLASH_V2 = AttentionType(
    name="flash_v2",
    complexity="O(n^2)",
    best_for="memory-efficient, large sequences",
    pairwise=True,
    options={
        "scale": SCALE,
        # Keys of a tile.
        "block_size": Option(MANY_BLOCK, partial(as_count, remedy=BLOCK_REMEDY)),
    },
    logits=_logits,
    mechanism=lambda options: FlashAttention(**options),
    rerank=_rerank,
    aliases=("flash", "flash_attention"),
    require_fit=of_outputs("block_size", MANY_BLOCK),
)

# Types whose output is that of attend_dense as it stands, and their keys at a time (None: as it finds best).
PLAIN: dict[str, int | None] = {
    name: block for row, block in ((SCALED_DOT, None), (FLASH_V2, MANY_BLOCK)) for name in (row.name, *row.aliases)
}


class DenseAttention(RegisteredAttention, RotaryAttention):
    """What the classes of scaled dot-product attention share: settings, limits, and the kernel that attends.

    Parameters
    ----------
    scale : float, optional
    dropout : float
    causal : bool
    d_model, max_seq_len : int, optional
    eps : float
    rotary : RotaryEmbedding or dict, optional
    """

    _configured: ClassVar[tuple[str, ...]] = ("scale", "dropout", "causal", "d_model", "max_seq_len")

    def __init__(
        self,
        scale: float | None,
        dropout: float,
        causal: bool,
        d_model: int | None,
        max_seq_len: int | None,
        eps: float = 0.0,
        rotary: RotaryEmbedding | Mapping[str, Any] | None = None,
    ) -> None:
        self.scale = None if scale is None else positive(scale, "scale")
        self.dropout = as_dropout(dropout)
        self.causal = as_bool(causal, "causal")
        self.d_model = None if d_model is None else as_dim_of_model(d_model)
        self.max_seq_len = None if max_seq_len is None else as_count(max_seq_len, "max_seq_len")
        self.eps = self._softmax_eps = as_number(eps, "eps", least=0.0, remedy=EPS_REMEDY)
        self.rotary = as_rotary(rotary, self.d_model)

    @classmethod
    def from_config(cls, config: AttentionConfig) -> Self:
        """Return the mechanism with the settings that it has: scale, dropout, causal, d_model and max_seq_len.

        Parameters
        ----------
        config : AttentionConfig

        Returns
        -------
        Self

        Raises
        ------
        InvalidConfigError
            No such configuration, or a setting beside its default that the mechanism has no use for.
        """
        return cls(**cls._settings_of(config))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        return {
            "scale": self.scale,
            "dropout": self.dropout,
            "causal": self.causal,
            "d_model": self.d_model,
            "max_seq_len": self.max_seq_len,
            "eps": self.eps,
            "rotary": None if self.rotary is None else self.rotary.config,
        }

    def _options(self) -> Mapping[str, Any]:
        return {"scale": self.scale}

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        return self._rotated(super()._check(query, key, value, mask, is_causal, **names))

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> Attended:
        rate, draw = self._draw(training, seed)
        tiling = self._tiling()
        if isinstance(batch.mask, SparseMask):
            mask = batch.mask
            if "left" in tiling:
                ahead = mask.indices - mask._rows()
                mask = mask._filtered((ahead >= -tiling["left"]) & (ahead <= tiling["right"]))
            return self._shrunk(
                attend_sparse(batch, mask, scale=self.scale, rate=rate, draw=draw, need_weights=need_weights)
            )
        scale = scale_or_default(batch.query.shape[-1], self.scale)
        return self._shrunk(attend_dense(batch, scale=scale, need_weights=need_weights, rate=rate, draw=draw, **tiling))

    def _shrunk(self, attended: Attended) -> Attended:
        """Return the attention with eps in the weights' denominators."""
        if self.eps == 0.0:
            return attended
        assert attended.logsumexp is not None
        factors, total = with_eps(attended.logsumexp, self.eps)
        output = attended.output
        scale_rows(output, factors[..., None])
        weights = attended.weights
        if weights is not None:
            weights = (weights * factors[..., None]).astype(weights.dtype)
        return Attended(output, weights, total)

    def _attend_edges(self, batch: Batch, pairs: Pairs) -> tuple[Float, Float]:
        features, coefficients, _ = attend_nodes(batch, pairs, self.scale, self.eps)
        return features, coefficients

    def _plainly(self, query: Any, key: Any, value: Any) -> Float | None:
        tiling = self._tiling()
        limited = self.d_model is not None or self.max_seq_len is not None
        if self.causal or limited or self.eps > 0.0 or "left" in tiling:
            return None
        if self.rotary is not None:
            return None
        return attend_plain(query, key, value, scale=self.scale, **tiling)

    def _tiling(self) -> dict[str, Any]:
        """Return what else `attend_dense` is told."""
        return {}


class ScaledDotProductAttention(DenseAttention):
    """softmax(scale q K^T + mask) V.

    Outputs are computed in tiles, under a `SparseMask` for its pairs alone; the matrix of weights is made where it is
    asked for.

    Parameters
    ----------
    scale : float, optional
        By default 1/sqrt(d).
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        Every call is causal.
    d_model : int, optional
        Queries and keys of another dimension are refused.
    max_seq_len : int, optional
        Longer sequences are refused.
    eps : float, default 0.0
        Added to the denominators of the weights, exp(logits) / (sum + eps).
    rotary : RotaryEmbedding or dict, optional
        Turns queries and keys by their places, 0 the first of each; a dict as its `config`.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Vaswani et al. 2017, Attention Is All You Need, equation 1.

    Examples
    --------
    >>> import attnbridge as ab
    >>> attention = ab.ScaledDotProductAttention(scale=1.0)
    >>> attention.forward([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]]).output.round(2)
    array([12.69], dtype=float32)
    """

    name: ClassVar[str] = "scaled_dot"
    row: ClassVar[AttentionType] = SCALED_DOT

    def __init__(
        self,
        *,
        scale: float | None = None,
        dropout: float = 0.0,
        causal: bool = False,
        d_model: int | None = None,
        max_seq_len: int | None = None,
        eps: float = 0.0,
        rotary: RotaryEmbedding | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scale, dropout, causal, d_model, max_seq_len, eps, rotary)


class FlashAttention(DenseAttention):
    """softmax(scale q K^T + mask) V in tiles, never the matrix of weights.

    The same numbers as `ScaledDotProductAttention`, to rounding.

    Parameters
    ----------
    block_size : int, default 64
        Keys that are attended to at a time, by 32 queries; memory in use grows with it, and not with the sequences.
    scale : float, optional
        By default 1/sqrt(d).
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        Every call is causal; what lies ahead is not computed.
    d_model : int, optional
        Queries and keys of another dimension are refused.
    max_seq_len : int, optional
        Longer sequences are refused.
    eps : float, default 0.0
        Added to the denominators of the weights, exp(logits) / (sum + eps).
    rotary : RotaryEmbedding or dict, optional
        Turns queries and keys by their places, 0 the first of each; a dict as its `config`.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Dao 2023, FlashAttention-2, algorithm 1; Rabe & Staats 2021, Self-attention Does Not Need O(n^2) Memory.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> x = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    >>> output = ab.FlashAttention(block_size=128).forward(x, x, x).output
    >>> bool(np.allclose(output, ab.ScaledDotProductAttention().forward(x, x, x).output, atol=1e-6))
    True
    """

    name: ClassVar[str] = "flash_v2"
    row: ClassVar[AttentionType] = FLASH_V2

    def __init__(
        self,
        block_size: int = MANY_BLOCK,
        *,
        scale: float | None = None,
        dropout: float = 0.0,
        causal: bool = False,
        d_model: int | None = None,
        max_seq_len: int | None = None,
        eps: float = 0.0,
        rotary: RotaryEmbedding | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scale, dropout, causal, d_model, max_seq_len, eps, rotary)
        self.block_size = as_count(block_size, "block_size", remedy=BLOCK_REMEDY)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        return {"block_size": self.block_size, **super().config}

    def _options(self) -> Mapping[str, Any]:
        return {"scale": self.scale, "block_size": self.block_size}

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        return self.row, {**self._options(), "block_size": MANY_BLOCK}

    def _attend(self, batch: Batch, need_weights: bool = False, *args: Any) -> Attended:
        if need_weights:
            raise InvalidConfigError(
                "need_weights must be False with FlashAttention, which never makes the matrix of weights; "
                "its weights() does, or use ScaledDotProductAttention"
            )
        return super()._attend(batch, False, *args)

    def _tiling(self) -> dict[str, Any]:
        return {"block": self.block_size}
