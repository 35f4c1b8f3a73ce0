"""Sparse attention: scaled dot products of listed pairs only, at a cost that grows with the pairs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from math import isqrt
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import (
    BLOCK_REMEDY,
    PATTERNS,
    WINDOW_REMEDY,
    SparseAttentionConfig,
    as_config,
    as_dim_of_model,
    as_dropout,
    refuse_useless,
)
from attnbridge.errors import InvalidConfigError, InvalidMaskError
from attnbridge.masks import SparseMask, bands
from attnbridge.mechanisms.base import Attended, Attention, Batch
from attnbridge.mechanisms.neighbors import attend_best_nodes
from attnbridge.mechanisms.pairs import (
    Pairs,
    attend_pairs,
    best_pairs,
    distinct_masks,
    raise_beyond_float64,
    restricted,
)
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, optional, positive, scale_or_default
from attnbridge.metric import Keys
from attnbridge.validation import Float, as_bool, as_choice, as_count
from attnbridge.workspace import Lend, Workspaces

# What each pattern takes beside the arguments of all; "mask" is none of a config, which holds no arrays.
_TAKES: Mapping[str, tuple[str, ...]] = {
    "top_k": ("top_k",),
    "local": ("window", "position"),
    "strided": ("block_size", "position"),
    "block": ("block_size", "position"),
    "local_global": ("window", "num_global_tokens", "position"),
    "fixed": ("block_size", "position"),
    "mask": ("mask", "position"),
}
_DEFAULTS: Mapping[str, int] = {"window": 128, "block_size": 64, "num_global_tokens": 0}
_BANDS = {
    "local": bands.window_bands,
    "local_global": bands.window_bands,
    "strided": bands.strided_bands,
    "block": bands.block_bands,
    "fixed": bands.fixed_bands,
}


# Queries times keys of patterns that are kept: smaller ones are made in no time, larger ones could be gigabytes.
_KEPT = 1 << 14, 1 << 22


def _pattern(pattern: str, shape: tuple[int, int], first: int, *arguments: int) -> SparseMask:
    return SparseMask._banded(_BANDS[pattern], shape, False, *arguments, first=first)


_kept_pattern = lru_cache(maxsize=4)(_pattern)


def _as_mask(value: Any, name: str) -> SparseMask:
    """Return a sparse mask, of one, of a boolean matrix, or of what a config holds of one."""
    if isinstance(value, SparseMask):
        return value
    if isinstance(value, Mapping):
        if set(value) != {"indptr", "indices", "shape"}:
            got = ", ".join(map(str, value)) or "nothing"
            raise InvalidMaskError(f"{name} as a mapping must have indptr, indices and shape, got {got}")
        return SparseMask(**value)
    dense = np.asarray(value)
    if dense.dtype != np.bool_ or dense.ndim != 2:
        raise InvalidMaskError(
            f"{name} must be a SparseMask or a boolean matrix (queries, keys), True attends; got {dense.dtype} "
            f"{dense.shape}"
        )
    return SparseMask.from_dense(dense)


def _mask_settings(mask: SparseMask) -> dict[str, Any]:
    """Return what JSON can hold of a mask."""
    return {"indptr": mask.indptr.tolist(), "indices": mask.indices.tolist(), "shape": list(mask.shape)}


def _as_whole(value: Any, name: str) -> int:
    return as_count(value, name, least=0)


_CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    "top_k": as_count,
    "window": partial(as_count, remedy=WINDOW_REMEDY),
    "block_size": partial(as_count, remedy=BLOCK_REMEDY),
    "num_global_tokens": _as_whole,
    "mask": _as_mask,
    "position": lambda value, name: as_count(value, name, least=0, most=2**31 - 1),  # as a mask has rows
}


def _logits(query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    attention = SparseAttention(**options)
    scale = scale_or_default(len(query), options["scale"])
    kernels.dot(query, bias, keys.data, keys.scale, keys.bias, ids, scale, out)
    keep = np.zeros(len(out), np.bool_)
    if attention.pattern == "top_k":
        best = np.empty(attention._kept(len(out)), np.int64)
        keep[best[: kernels.top_k(out, ids, best)]] = True
    else:
        (own,) = attention._rows_of_pattern(1, len(keys.data), single=True).to_pairs()[1:]
        keep[:] = np.isin(np.arange(len(out)) if ids is None else ids, own)
    out[~keep] = -np.inf


def _require_fit(options: Options, dim: int) -> None:
    """Refuse patterns over places in an index, whose rows have none."""
    if options["pattern"] != "top_k":
        raise InvalidConfigError(
            f"pattern must be 'top_k' in an index, whose rows have no order, got {options['pattern']!r}; "
            "attention='sliding' attends by a payload column"
        )


SPARSE = AttentionType(
    name="sparse",
    complexity="O(n sqrt n)",
    best_for="pattern masks, ultra-long (>16K)",
    pairwise=False,
    options={
        "pattern": Option("top_k", lambda value, name: as_choice(value, name, _TAKES)),
        # None is the pattern's default, and an error for another pattern.
        **{name: Option(None, optional(check)) for name, check in _CHECKS.items()},
        # As it can be saved with an index.
        "mask": Option(None, optional(lambda value, name: _mask_settings(_as_mask(value, name)))),
        "scale": Option(None, optional(positive)),
    },
    logits=_logits,
    mechanism=lambda options: SparseAttention(**options),
    require_fit=_require_fit,
)


class SparseAttention(Attention):
    """softmax(scale q K^T + mask) V over the pairs of a pattern only.

    Cost and memory grow with the pairs of the pattern. "top_k" reads every key of a query to find them, but keeps no
    more than a row of logits at a time.

    Parameters
    ----------
    pattern : {"top_k", "local", "strided", "block", "local_global", "fixed", "mask"}, default "top_k"
        Each query's largest logits among what it may attend to (of equal ones those of the first keys); a window;
        a window and whole strides; blocks on the diagonal; a window and global tokens; the own block and the last
        key of every block; or the pairs of a mask, given here or in the call.
    top_k : int, optional
        Logits kept for a query by "top_k"; by default ceil(sqrt(S)).
    window : int, default 128
        Keys on either side of a query; of "local" and "local_global".
    block_size : int, default 64
        Of "block" and "fixed"; the stride of "strided".
    num_global_tokens : int, default 0
        First tokens that attend to all and are attended by all; of "local_global".
    mask : SparseMask or array_like of bool (L, S), optional
        Of "mask"; or a mapping with a SparseMask's indptr, indices and shape, as in `config`.
    position : int, optional
        Which row of the pattern the first query is, as in decoding with cached keys; 0 for sequences of queries,
        needed for a single query (d,). Causal attention counts from there. Not of "top_k".
    causal : bool, default False
        Every call is causal.
    scale : float, optional
        By default 1/sqrt(d).
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    d_model : int, optional
        Queries and keys of another dimension are refused.
    max_seq_len : int, optional
        Longer sequences are refused.

    Raises
    ------
    InvalidConfigError
        A value that cannot be, or an argument of another pattern.
    InvalidMaskError

    References
    ----------
    Child et al. 2019, Generating Long Sequences with Sparse Transformers, section 4.3 (strided, fixed).
    Beltagy et al. 2020, Longformer, section 3.1 (local, local_global).
    Gupta et al. 2021, Memory-efficient Transformers via Top-k Attention, section 2 (top_k).

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> x = np.eye(4, dtype=np.float32)
    >>> ab.SparseAttention("local", window=1).forward(x, x, x).output.round(2)
    array([[0.62, 0.38, 0.  , 0.  ],
           [0.27, 0.45, 0.27, 0.  ],
           [0.  , 0.27, 0.45, 0.27],
           [0.  , 0.  , 0.38, 0.62]], dtype=float32)
    """

    name: ClassVar[str] = "sparse"
    row: ClassVar[AttentionType] = SPARSE

    def __init__(
        self,
        pattern: str = "top_k",
        *,
        top_k: int | None = None,
        window: int | None = None,
        block_size: int | None = None,
        num_global_tokens: int | None = None,
        mask: Any = None,
        position: int | None = None,
        causal: bool = False,
        scale: float | None = None,
        dropout: float = 0.0,
        d_model: int | None = None,
        max_seq_len: int | None = None,
    ) -> None:
        self.pattern = as_choice(pattern, "pattern", _TAKES)
        given = {
            "top_k": top_k,
            "window": window,
            "block_size": block_size,
            "num_global_tokens": num_global_tokens,
            "mask": mask,
            "position": position,
        }
        self._arguments: dict[str, Any] = {}
        for name, value in given.items():
            if name in _TAKES[self.pattern]:
                self._arguments[name] = _DEFAULTS.get(name) if value is None else _CHECKS[name](value, name)
            elif value is not None:
                homes = " or ".join(repr(one) for one, names in _TAKES.items() if name in names)
                raise InvalidConfigError(f"{name} belongs to pattern {homes}, got {name}={value!r} with {pattern!r}")
        self.causal = as_bool(causal, "causal")
        self.scale = None if scale is None else positive(scale, "scale")
        self.dropout = as_dropout(dropout)
        self.d_model = optional(as_dim_of_model)(d_model, "d_model")
        self.max_seq_len = optional(as_count)(max_seq_len, "max_seq_len")

    @classmethod
    def from_config(cls, config: SparseAttentionConfig) -> Self:
        """Return the mechanism of a config's pattern.

        Parameters
        ----------
        config : SparseAttentionConfig

        Returns
        -------
        SparseAttention

        Raises
        ------
        InvalidConfigError
            No such configuration, or a setting beside its default that the pattern has no use for.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseAttention.from_config(ab.SparseAttentionConfig(local_window=16)).config["window"]
        16
        """
        given = asdict(as_config(config, SparseAttentionConfig, cls.__name__))
        pattern = given.pop("pattern")
        called = {name: "window" if name == "local_window" else name for name in given}
        kinds = {each: f"{cls.__name__}({each!r})" for each in PATTERNS}
        uses = {kinds[each]: {name for name in given if called[name] in _TAKES[each]} for each in PATTERNS}
        refuse_useless(config, given, kinds[pattern], uses)
        own: dict[str, Any] = {called[name]: value for name, value in given.items() if called[name] in _TAKES[pattern]}
        return cls(pattern, **own)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        mask = self._arguments.get("mask")
        return self._settings() | ({} if mask is None else {"mask": _mask_settings(mask)})

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings().items())
        return f"SparseAttention({settings})"

    def _settings(self) -> dict[str, Any]:
        common = {name: getattr(self, name) for name in ("causal", "scale", "dropout", "d_model", "max_seq_len")}
        return {"pattern": self.pattern, **self._arguments, **common}

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        own = {**self._settings(), "mask": self.config.get("mask")}
        return self.row, {name: own.get(name) for name in self.row.options}

    def mask_for(self, queries: int, keys: int) -> SparseMask:
        """Return the mask of the pattern, and of causal attention where every call is causal.

        Parameters
        ----------
        queries, keys : int
            L and S.

        Returns
        -------
        SparseMask, (L, S)

        Raises
        ------
        InvalidConfigError
            For "top_k", whose pairs depend on queries and keys.
        InvalidMaskError
            A given mask of another shape.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SparseAttention("block", block_size=2).mask_for(4, 4).to_pairs()[1]
        array([0, 1, 0, 1, 2, 3, 2, 3])
        """
        if self.pattern == "top_k":
            raise InvalidConfigError("pattern must not be 'top_k', whose pairs depend on queries and keys")
        shape = as_count(queries, "queries"), as_count(keys, "keys")
        pattern = self._rows_of_pattern(*shape, single=False)
        if not self.causal:
            return pattern
        rows, cols = pattern.to_pairs()
        return pattern._filtered(cols <= rows + self._first)

    def _refuse_order(self) -> None:
        super()._refuse_order()
        if self.pattern != "top_k":
            raise InvalidConfigError(
                f"pattern must be 'top_k' over a graph, where a node's edges have no order; got {self.pattern!r}"
            )

    def _attend_edges(self, batch: Batch, pairs: Pairs) -> tuple[Float, Float]:
        return attend_best_nodes(batch, pairs, self._arguments["top_k"], self.scale)

    # ---- the pairs of a call

    def _kept(self, keys: int) -> int:
        """Return how many of a query's logits "top_k" keeps."""
        return min(keys, self._arguments["top_k"] or 1 + isqrt(max(keys, 1) - 1))

    @property
    def _first(self) -> int:
        """Which row of the pattern the first query is."""
        return self._arguments.get("position") or 0

    def _rows_of_pattern(self, queries: int, keys: int, single: bool, shared: bool = False) -> SparseMask:
        """Return the mask of so many queries from `position` on; not of "top_k". A shared one nobody may change."""
        position = self._arguments["position"]
        if self.pattern == "mask":
            mask: SparseMask | None = self._arguments["mask"]
            if mask is None:
                raise InvalidMaskError("mask must be given to the mechanism or to the call with pattern='mask'")
            if mask.shape[1] != keys or (position is None and mask.shape[0] != queries):
                raise InvalidMaskError(f"mask must have shape (queries, keys) = {(queries, keys)}, got {mask.shape}")
            if self._first + queries > mask.shape[0]:
                raise InvalidMaskError(
                    f"mask must have a row for position {self._first + queries - 1}, got {mask.shape[0]} rows"
                )
            return mask if mask.shape[0] == queries else mask._slice(self._first, self._first + queries)
        if single and position is None:
            raise InvalidConfigError(
                f"position must be given for a single query with pattern={self.pattern!r}: which row of it the query is"
            )
        own = (self._arguments[name] for name in _TAKES[self.pattern] if name != "position")
        make = _kept_pattern if shared and _KEPT[0] <= queries * keys <= _KEPT[1] else _pattern
        return make(self.pattern, (queries, keys), self._first, *own)

    def _pairs(self, batch: Batch, lend: Lend = np.empty) -> list[Pairs]:
        """Return what each problem attends to, in arrays that may be lent; what is_causal hides may be among it."""
        blocks, numbers = distinct_masks(batch)
        if self.pattern == "top_k":
            most = self._kept(batch.shape[2])
            return [best_pairs(batch, problem, blocks[n], most, self.scale, lend) for problem, n in enumerate(numbers)]
        own = None
        if self.pattern != "mask" or batch.mask is None or self._arguments["mask"] is not None:
            own = self._rows_of_pattern(*batch.shape[1:], single=batch.single, shared=True)
        cut = [restricted(own, block, lend) for block in blocks]
        return [cut[number] for number in numbers]

    # ---- the protocol

    def _logits(self, batch: Batch) -> Logits:
        return self._masked_logits(replace(batch, mask=None, is_causal=False))

    def _masked_logits(self, batch: Batch) -> Logits:
        """Return the logits (P, L, S), -inf where nothing may be attended."""
        pairs = self._pairs(batch)
        batch.require_finite()
        out = np.full(batch.shape, -np.inf)
        scale = scale_or_default(batch.query.shape[2], self.scale)
        for problem, (mask, bias) in enumerate(pairs):
            q, k, _ = batch.which[problem]
            for i, query in enumerate(batch.query[q]):
                ids = mask._row(i).astype(np.int64)
                row = np.empty(len(ids))
                kernels.dot(query, 0.0, batch.key[k], None, None, ids, scale, row)
                if len(bias):
                    row += bias[mask.indptr[i] : mask.indptr[i + 1]]
                if not (row < np.inf).all():
                    raise_beyond_float64(batch, len(bias) > 0)
                out[problem, i, ids] = row
        if batch.is_causal:
            queries, keys = batch.shape[1:]
            out[:, np.arange(keys) > np.arange(queries)[:, None] + self._first] = -np.inf
        return out

    def _all_weights(self, batch: Batch) -> Float:
        """Return the weights (P, L, S)."""
        weights = attend_pairs(batch, self._pairs(batch), self._first, self.scale, need_weights=True).weights
        assert weights is not None
        return weights

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> Attended:
        """Return outputs (P, L, dv), weights (P, L, S) if needed, and log-normalisers (P, L)."""
        drawn = self._draw(training, seed)
        with Workspaces() as lend:
            return attend_pairs(batch, self._pairs(batch, lend), self._first, self.scale, *drawn, need_weights)
