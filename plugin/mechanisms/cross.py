"""Cross attention: between two sequences as a layer, and late interaction (MaxSim) as a score of query and document."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import AttentionConfig
from attnbridge.errors import DimensionMismatchError, InvalidConfigError, InvalidInputError
from attnbridge.kernels.dot import FLOAT32_LIMIT
from attnbridge.masks import as_attention_mask
from attnbridge.mechanisms.base import Attention, Batch
from attnbridge.mechanisms.multi_head import MultiHeadAttention
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, optional, positive
from attnbridge.metric import Keys
from attnbridge.validation import Float, as_bool, as_floats, as_matrix, limit_keys, require_finite

# Products of tokens below this cannot overflow float32 on the way.
_SAFE = 1e38
_LARGEST_HALF = 65504.0


# ---- the row of the registry


def _logits(query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    kernels.dot(query, bias, keys.data, keys.scale, keys.bias, ids, options["scale"], out)


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
    scale = options["scale"]
    kernels.rerank(queries, bias, keys.data, keys.scale, keys.bias, ids, counts, scale, positions, logits, weights)


def match(
    query_tokens: Float,
    token_weights: npt.NDArray[np.float64],
    tokens: npt.NDArray[Any],
    token_scale: npt.NDArray[np.float32] | None,
    starts: Ids,
    lengths: Ids,
    options: Options,
    out: Logits,
) -> None:
    """Fill `out` (n,) with the MaxSim of each document, hard or soft, times the scale; -inf for one without tokens."""
    if len(query_tokens) == 1 and len(out):
        single = lengths == 1
        if single.any():  # the product of two vectors, whatever the other documents are
            one = query_tokens[0], float(token_weights[0]) * options["scale"], tokens, token_scale
            if single.all():
                _products(*one, starts, out)
                return
            products = np.empty(np.count_nonzero(single))
            _products(*one, starts[single], products)
            others, rest = np.empty(len(out) - len(products)), ~single
            _match(query_tokens, token_weights, tokens, token_scale, starts[rest], lengths[rest], options, others)
            out[single], out[rest] = products, others
            return
    _match(query_tokens, token_weights, tokens, token_scale, starts, lengths, options, out)


def _products(
    query: Float,
    scale: float,
    tokens: npt.NDArray[Any],
    token_scale: npt.NDArray[np.float32] | None,
    ids: Ids,
    out: Logits,
) -> None:
    if token_scale is not None:
        kernels.dot(query, 0.0, tokens[ids], token_scale[ids].astype(np.float64), None, None, scale, out)
        return
    every = len(ids) == len(tokens) and ids[0] == 0 and bool((np.diff(ids) == 1).all())
    kernels.dot(query, 0.0, tokens, None, None, None if every else ids, scale, out)


def _match(
    query_tokens: Float,
    token_weights: npt.NDArray[np.float64],
    tokens: npt.NDArray[Any],
    token_scale: npt.NDArray[np.float32] | None,
    starts: Ids,
    lengths: Ids,
    options: Options,
    out: Logits,
) -> None:
    scale, temperature = options["scale"], options["temperature"] or 0.0
    if float(np.abs(query_tokens).max()) * _largest(tokens) * query_tokens.shape[1] > _SAFE:
        query_tokens = query_tokens.astype(np.float64)
    kernels.maxsim(query_tokens, token_weights, tokens, token_scale, starts, lengths, temperature, out)
    if query_tokens.dtype == np.float32:
        # As for `kernels.dot`: what a float32 product is off by stays far below 1e-5.
        factor = max(scale, 1.0 / temperature) if temperature else scale
        far = np.flatnonzero(~(np.abs(out) * factor <= FLOAT32_LIMIT) & (lengths > 0))
        if len(far):
            again = np.empty(len(far))
            wide = query_tokens.astype(np.float64)
            kernels.maxsim(wide, token_weights, tokens, token_scale, starts[far], lengths[far], temperature, again)
            out[far] = again
    out *= scale
    out[lengths == 0] = -np.inf


def _largest(tokens: npt.NDArray[Any]) -> float:
    """Return what no number of tokens exceeds, before their scale."""
    if tokens.dtype == np.uint16:
        return _LARGEST_HALF
    return 127.0 if tokens.dtype == np.int8 else float(np.abs(tokens).max(initial=0.0))


def _token_logits(
    query_tokens: Float,
    token_weights: npt.NDArray[np.float64],
    tokens: Any,
    ids: Ids,
    options: Options,
    out: Logits,
) -> None:
    starts, lengths = tokens.starts[ids], tokens.lengths[ids]
    match(query_tokens, token_weights, tokens.data, tokens.scale, starts, lengths, options, out)


CROSS = AttentionType(
    name="cross",
    complexity="O(n*m)",
    best_for="query-document matching",
    pairwise=True,
    options={
        # Factor on the mean over the query's tokens of their best products.
        "scale": Option(1.0, positive),
        # Of the softmax over a document's tokens that takes the place of their maximum; None is the maximum.
        "temperature": Option(None, optional(positive)),
    },
    logits=_logits,
    mechanism=lambda options: _LateInteraction(options),
    rerank=_rerank,
    token_logits=_token_logits,
    aliases=("maxsim", "late_interaction"),
)


@dataclass(frozen=True)
class _TokenBatch(Batch):
    """One query of several tokens, and keys of several tokens each: those of key i are starts[i] and so many on."""

    starts: Ids
    lengths: Ids

    @property
    def shape(self) -> tuple[int, int, int]:
        """One problem of one query, and the number of keys."""
        return 1, 1, len(self.starts)

    def require_finite(self) -> None:
        """Refuse keys and values that are not finite."""
        if not np.isfinite(self.key).all():
            for i, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
                require_finite(self.key[0, start : start + length], f"{self.names[1]}[{i}]")
        if self.value is not None:
            require_finite(self.value[0], self.names[2])


class _LateInteraction(Attention):
    """How the functional API calls the row: softmax(scale MaxSim(query, key) + mask) V.

    The query (m, d) is one, of m tokens; the keys are (S, d), (S, t, d), or a list of (t_i, d).
    """

    name: ClassVar[str] = "cross"

    def __init__(self, options: Options) -> None:
        self._options = dict(options)

    @property
    def config(self) -> dict[str, Any]:
        """The row's options."""
        return dict(self._options)

    def _check(
        self,
        query: Any,
        key: Any,
        value: Any,
        mask: Any,
        is_causal: bool,
        **limits: Any,
    ) -> _TokenBatch:
        names, max_keys = limits.get("names", ("query", "key", "value")), limits.get("max_keys")
        if as_bool(is_causal, "is_causal"):
            raise InvalidConfigError("is_causal must be False for late interaction: the keys are no sequence")
        q = as_floats(query, names[0], keep_float64=True)
        if q.ndim not in (1, 2) or q.size == 0:
            raise DimensionMismatchError(
                f"{names[0]} must be a vector (d,) or the token vectors (m, d) of one query, got shape {q.shape}"
            )
        q = np.atleast_2d(q)
        require_finite(q, names[0])
        keys, lengths = _token_rows(key, names[1])
        if keys.shape[1] != q.shape[1]:
            raise DimensionMismatchError(
                f"Query and key dimensions must match: {q.shape[1]} vs {keys.shape[1]}; give both the same last axis"
            )
        if max_keys is not None:
            limit_keys(len(lengths), max_keys)
        v = None if value is None else as_matrix(value, names[2], finite=False, keep_float64=True)
        if v is not None and len(v) != len(lengths):
            raise DimensionMismatchError(f"{names[2]} must have a row for each of {len(lengths)} keys, got {len(v)}")
        wide = any(array.dtype == np.float64 for array in (q, keys, *(() if v is None else (v,))))
        dtype: type[np.floating[Any]] = np.float64 if wide else np.float32
        return _TokenBatch(
            query=q.astype(dtype, copy=False)[None],
            key=keys.astype(dtype, copy=False)[None],
            value=None if v is None else v.astype(dtype, copy=False)[None],
            which=np.zeros((1, 3), np.int64),
            lead=(),
            single=True,
            mask=None if mask is None else as_attention_mask(mask, (1, len(lengths))),
            is_causal=False,
            names=names,
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
        )

    def _logits(self, batch: Batch) -> Logits:
        assert isinstance(batch, _TokenBatch)
        batch.require_finite()  # a maximum would pass over NaN
        query, out = batch.query[0], batch.new_logits()
        weights = np.full(len(query), 1.0 / len(query))
        match(query, weights, batch.key[0], None, batch.starts, batch.lengths, self._options, out[0, 0])
        return out


def _token_rows(value: Any, name: str) -> tuple[Float, Ids]:
    """Return the token vectors of all keys, one after the other, and how many each has."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = list(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and any(_depth(one) > 1 for one in value):
        rows = [as_matrix(one, f"{name}[{i}]", finite=False, keep_float64=True) for i, one in enumerate(value)]
        for i, one in enumerate(rows):
            if len(one) == 0:
                raise InvalidInputError(f"{name}[{i}] must hold at least one token, got none")
            if one.shape[1] != rows[0].shape[1]:
                raise DimensionMismatchError(
                    f"{name} must have one dimension: {name}[0] has {rows[0].shape[1]}, {name}[{i}] has {one.shape[1]}"
                )
        return np.concatenate(rows), np.array([len(one) for one in rows])
    array = as_floats(value, name, keep_float64=True)
    if array.ndim not in (2, 3) and array.size:
        raise DimensionMismatchError(
            f"{name} must be vectors (S, d), token vectors (S, t, d) or a list of (t, d), got shape {array.shape}"
        )
    if array.size == 0:
        raise InvalidInputError(f"{name} must not be empty: attention needs at least one key")
    length = array.shape[1] if array.ndim == 3 else 1
    return array.reshape(-1, array.shape[-1]), np.full(len(array), length)


def _depth(value: Any) -> int:
    """Return how many axes a key has, by its first entries."""
    if isinstance(value, np.ndarray):
        return value.ndim
    if not isinstance(value, Sequence) or isinstance(value, str):
        return 0
    return 1 + (_depth(value[0]) if len(value) else 0)


# ---- over whole sequences


class CrossAttention(MultiHeadAttention):
    """Multi-head attention of one sequence over another: the encoder-decoder attention of a transformer.

    Queries are the decoder's states, keys and values the encoder's; there is no order between the two, so nothing is
    causal. The registry's ``cross`` is another thing, late interaction: `attention_logits(tokens, documents, "cross")`.

    Parameters
    ----------
    d_model : int
        Dimension of queries and of the output.
    num_heads : int, default 8
        Must divide d_model.
    bias : bool, default True
        Whether projections have biases.
    projections : bool, default True
        Whether there are W_q, W_k, W_v and W_o.
    kdim : int, optional
        Dimension of the encoder's states, where it is not d_model; with projections only.
    vdim : int, optional
        Dimension of the values; by default kdim.
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    scale : float, optional
        Factor on a head's product; by default 1/sqrt(d_model / num_heads).
    max_seq_len : int, optional
        More queries or keys are refused.
    seed : int, default 0
        Of the initial parameters.

    Raises
    ------
    InvalidConfigError, DimensionMismatchError

    References
    ----------
    Vaswani et al. 2017, Attention Is All You Need, section 3.2.3.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> attention = ab.CrossAttention(8, num_heads=2, kdim=6)
    >>> decoder, encoder = np.ones((3, 8)), np.ones((5, 6))
    >>> attention.forward(decoder, encoder, encoder).output.shape
    (3, 8)
    """

    name: ClassVar[str] = "cross"
    _configured: ClassVar[tuple[str, ...]] = ("d_model", "num_heads", "dropout", "use_bias", "scale", "max_seq_len")

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
        max_seq_len: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            d_model,
            num_heads,
            bias=bias,
            projections=projections,
            kdim=kdim,
            vdim=kdim if vdim is None else vdim,
            dropout=dropout,
            scale=scale,
            max_seq_len=max_seq_len,
            seed=seed,
        )

    @classmethod
    def from_config(cls, config: AttentionConfig, *, seed: int = 0) -> Self:
        """Return the mechanism of a configuration, which must not be causal.

        Parameters
        ----------
        config : AttentionConfig
        seed : int, default 0

        Returns
        -------
        CrossAttention

        Raises
        ------
        InvalidConfigError
            No such configuration, or a setting beside its default that the mechanism has no use for.
        """
        settings = cls._settings_of(config)
        bias = settings.pop("use_bias")
        return cls(**settings, bias=bias, seed=seed)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism, of the same initial parameters."""
        absent = ("causal", "eps", "rotary")
        return {name: value for name, value in super().config.items() if name not in absent}

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        if as_bool(is_causal, "is_causal"):
            raise InvalidConfigError("is_causal must be False for cross attention, whose keys are of another sequence")
        return super()._check(query, key, value, mask, False, **names)
