"""What every attention mechanism shares: the shapes it takes, the calls it answers, what it returns."""

import inspect
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import AttentionConfig, as_config, refuse_useless
from attnbridge.errors import DimensionMismatchError, InputTooLargeError, InvalidConfigError, InvalidInputError
from attnbridge.graph_operator import GraphInput, GraphOperator, GraphOutput, refuse_unused
from attnbridge.masks import Mask, SparseMask, as_attention_mask
from attnbridge.mechanisms.listed import ListedRow, PairLogits, attend_listed
from attnbridge.mechanisms.row import AttentionType
from attnbridge.metric import Keys
from attnbridge.positions import RotaryEmbedding, require_head_dim
from attnbridge.validation import (
    Float,
    all_finite,
    as_bool,
    as_count,
    as_floats,
    limit_keys,
    require_finite,
    require_given,
)
from attnbridge.workspace import FEW_NUMBERS, LEAST_BYTES, Lend, Workspaces, workspace

if TYPE_CHECKING:
    from attnbridge.cache import AttentionCache
    from attnbridge.mechanisms.pairs import Pairs

Logits = npt.NDArray[np.float64]
Names = tuple[str, str, str]
_NAMES = ("query", "key", "value")


@dataclass(frozen=True)
class AttentionContext:
    """What a forward pass leaves for a backward pass.

    Parameters
    ----------
    query, key, value : ndarray, (..., L, d), (..., S, d), (..., S, dv)
        As they were used, in one precision and with all leading axes.
    mask : ndarray, SparseMask or None
    is_causal : bool
    logsumexp : ndarray of float64, (..., L)
        The logarithm of each query's normaliser: weights = exp(logits - logsumexp); -inf where nothing is attended.
    first : int, default 0
        Place of query 0 (see `at`): where is_causal, query i attends to keys 0..first + i.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> x = np.eye(2, dtype=np.float32)
    >>> context = ab.ScaledDotProductAttention(scale=1.0).forward(x, x, x, need_context=True).context
    >>> context.logsumexp.round(4)
    array([1.3133, 1.3133])
    """

    query: Float
    key: Float
    value: Float
    mask: Any
    is_causal: bool
    logsumexp: npt.NDArray[np.float64]
    first: int = 0


class AttentionOutput(NamedTuple):
    """What a forward pass returns.

    Parameters
    ----------
    output : ndarray, (..., L, dv), or (..., dv) for one query
    weights : ndarray or None, (..., L, S), or (..., S) for one query
        As the values were weighted (dropout included), where they were asked for.
    context : AttentionContext or None
        Where it was asked for.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> x = np.eye(2, dtype=np.float32)
    >>> output, weights, _ = ab.ScaledDotProductAttention().forward(x, x, x, need_weights=True)
    >>> weights.round(2)
    array([[0.67, 0.33],
           [0.33, 0.67]], dtype=float32)
    """

    output: Float
    weights: Float | None = None
    context: AttentionContext | None = None


class Attended(NamedTuple):
    """Outputs (P, L, dv), weights (P, L, S) and log-normalisers (P, L) of problems."""

    output: Float
    weights: Float | None
    logsumexp: npt.NDArray[np.float64] | None


def with_eps(total: Logits, eps: float) -> tuple[Logits, Logits]:
    """Return factors that turn softmax weights into exp(logits) / (sum + eps), and log-normalisers to match.

    With eps = 1 a query may attend to nothing at all (Miller 2023, Attention Is Off By One).
    """
    with np.errstate(over="ignore"):  # where nothing is attended, or next to it: 0
        factors = np.exp(-total)
        factors *= eps
        factors += 1.0
        np.divide(1.0, factors, out=factors)
    larger = np.logaddexp(total, np.log(eps))
    larger[total == -np.inf] = -np.inf
    return factors, larger


def scale_rows(array: Float, factors: npt.NDArray[np.float64]) -> None:
    """Multiply by factors in place, in float64."""
    if array.size < FEW_NUMBERS:
        np.multiply(array, factors, out=array, casting="same_kind")
        return
    with workspace(array.shape) as wide:
        np.copyto(wide, array)
        wide *= factors
        np.copyto(array, wide, casting="same_kind")


@dataclass(frozen=True)
class Batch:
    """Checked inputs, cut into problems: one sequence of queries over one set of keys each.

    Parameters
    ----------
    query : ndarray, (mq, L, d)
    key : ndarray, (mk, S, d)
    value : ndarray or None, (mv, S, dv)
        C-contiguous, all of one dtype, float32 or float64.
    which : ndarray of int64, (P, 3)
        For each problem the number of its query, key and value; leading axes are broadcast without a copy.
    lead : tuple of int
        The leading axes; their product is P.
    single : bool
        The query was given without its axis of L.
    mask : Mask or None
    is_causal : bool
        Query i attends to keys 0..first + i.
    names : tuple of str
        What errors call query, key and value.
    room : list of ndarray, (P, L, S)
        Working memory for logits that nobody keeps, while it is lent; taken out by who uses it.
    first : int
        Place of query 0 among the keys; other than 0 after `at`.
    """

    query: Float
    key: Float
    value: Float | None
    which: npt.NDArray[np.int64]
    lead: tuple[int, ...]
    single: bool
    mask: Mask | None
    is_causal: bool
    names: Names
    room: list[Logits] = field(default_factory=list, kw_only=True)
    first: int = field(default=0, kw_only=True)

    @classmethod
    def of(
        cls,
        query: Any,
        key: Any,
        value: Any = None,
        mask: Any = None,
        is_causal: bool = False,
        *,
        names: Names = _NAMES,
        max_keys: int | None = None,
        same_dim: bool = True,
        first: int = 0,
    ) -> Self:
        """Check query (d,) or (..., L, d), key (..., S, d), value (..., S, dv) and the mask; None: no value is needed.

        Whether keys and values are finite, the results tell.
        """
        q = _array(query, names[0], least=1)
        require_finite(q, names[0])
        k = _array(key, names[1], least=2)
        if k.shape[-2] == 0:
            raise InvalidInputError(f"{names[1]} must not be empty: attention needs at least one key")
        if same_dim and k.shape[-1] != q.shape[-1]:
            raise DimensionMismatchError(
                f"Query and key dimensions must match: {q.shape[-1]} vs {k.shape[-1]}; give both the same last axis"
            )
        if max_keys is not None:
            limit_keys(k.shape[-2], max_keys)
        v = None if value is None else _array(value, names[2], least=2)
        if v is not None and v.shape[-2] != k.shape[-2]:
            raise DimensionMismatchError(
                f"{names[2]} must have a row for each of {k.shape[-2]} keys, got {v.shape[-2]}"
            )
        arrays = [q, k] if v is None else [q, k, v]
        if any(array.dtype is not q.dtype for array in arrays) and any(array.dtype != q.dtype for array in arrays):
            arrays = [array.astype(np.float64) for array in arrays]
        single = q.ndim == 1
        if single:
            arrays[0] = arrays[0][None]
        lead = _lead([array.shape[:-2] for array in arrays], names)
        which = np.zeros((math.prod(lead), 3), np.int64)
        for place, array in enumerate(arrays):
            arrays[place], which[:, place] = cut_blocks(array, lead, 2)
        if v is None:
            which[:, 2] = which[:, 1]
        return cls(
            query=arrays[0],
            key=arrays[1],
            value=None if v is None else arrays[2],
            which=which,
            lead=lead,
            single=single,
            mask=None if mask is None else as_attention_mask(mask, (*lead, arrays[0].shape[-2], k.shape[-2])),
            is_causal=as_bool(is_causal, "is_causal"),
            names=names,
            first=first,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Problems, queries and keys: (P, L, S)."""
        return len(self.which), self.query.shape[1], self.key.shape[1]

    def new_logits(self) -> Logits:
        """Return an array (P, L, S) to be filled with logits: the working memory where there is some."""
        fits = self.room and self.room[0].shape == self.shape
        return self.room.pop() if fits else np.empty(self.shape)

    @contextmanager
    def working(self) -> Iterator["Batch"]:
        """Lend the batch with working memory for logits; no result may be part of it."""
        if math.prod(self.shape) * 8 < LEAST_BYTES:
            yield self
            return
        with workspace(self.shape) as room:
            yield replace(self, room=[room])

    def apply_mask(self, logits: Logits) -> None:
        """Put -inf where logits (P, L, S) may not be attended, and add a float mask."""
        if self.mask is not None:
            self.mask.apply(logits.reshape(*self.lead, *logits.shape[1:]))
        if self.is_causal:
            for i in range(logits.shape[1]):
                logits[:, i, self.first + i + 1 :] = -np.inf

    def restore(self, array: npt.NDArray[Any], axis: int = 1) -> npt.NDArray[Any]:
        """Return (P, L, ...) in the caller's shape: (..., L, ...), without L, which is at `axis`, for one query."""
        whole = array.reshape(*self.lead, *array.shape[1:])
        return np.squeeze(whole, axis=len(self.lead) + axis - 1) if self.single else whole

    def rotated(self, rotary: RotaryEmbedding, heads: int, start: int, turned_keys: bool = False) -> Self:
        """Return the batch with queries and keys turned by their places, head by head, query 0 at `start`."""
        for array in (self.query, self.key):
            require_head_dim(rotary, array.shape[-1] // heads)
        self.require_finite()  # the row as it was given is named
        key = self.key if turned_keys else rotary._heads(self.key, heads)
        return replace(self, query=rotary._heads(self.query, heads, start), key=key)

    def problems(self) -> tuple[Float, Float, Float]:
        """Return query, key and value with all leading axes: (..., L, d), (..., S, d), (..., S, dv)."""
        assert self.value is not None
        arrays = (self.query, self.key, self.value)
        q, k, v = (
            (array if len(array) == len(self.which) else array[numbers]).reshape(*self.lead, *array.shape[1:])
            for array, numbers in zip(arrays, self.which.T, strict=True)
        )
        return q, k, v

    def require_finite(self) -> None:
        """Refuse keys and values that are not finite, by row; called where a result is not."""
        require_finite_rows(self.key, self.names[1])
        if self.value is not None:
            require_finite_rows(self.value, self.names[2])


def _array(value: Any, name: str, least: int) -> Float:
    array = as_floats(value, name, keep_float64=True)
    if array.size == 0 and array.ndim == 1 and least == 2:
        array = array.reshape(0, 0)
    if array.ndim < least:
        if least == 1:
            raise DimensionMismatchError(f"{name} must be (d,) or (..., L, d), got shape {array.shape}")
        raise DimensionMismatchError(
            f"{name} must be rows (n, d) or (..., n, d), got shape {array.shape}; one vector goes in as {name}[None, :]"
        )
    if least == 2 and array.shape[-1] == 0 and array.shape[-2] > 0:
        raise DimensionMismatchError(f"{name} must not be empty: its rows have no values")
    if least == 1 and array.size == 0:
        raise DimensionMismatchError(f"{name} must not be empty: it has no values")
    return array


def _lead(leads: list[tuple[int, ...]], names: Names) -> tuple[int, ...]:
    if all(lead == leads[0] for lead in leads):
        return leads[0]
    try:
        return np.broadcast_shapes(*leads)
    except ValueError:
        shapes = ", ".join(f"{name} {lead}" for name, lead in zip(names, leads, strict=False))
        raise DimensionMismatchError(f"leading axes must be equal or 1, got {shapes}") from None


def cut_blocks(array: npt.NDArray[Any], lead: tuple[int, ...], tail: int) -> tuple[npt.NDArray[Any], Any]:
    """Return (..., *tail axes) as (m, *tail axes), and for each of the prod(lead) problems which of the m is its."""
    own = array.shape[: array.ndim - tail]
    if not own:
        return array[None], np.zeros(math.prod(lead), np.int64)
    blocks = array.reshape(-1, *array.shape[array.ndim - tail :])
    numbers = np.arange(len(blocks)).reshape(own)
    return blocks, (numbers if own == lead else np.broadcast_to(numbers, lead)).reshape(-1)


def wide_outputs(batch: Batch, lend: Lend) -> npt.NDArray[np.float64]:
    """Return an array (P, L, dv) for outputs in float64: lent, unless they are returned so."""
    assert batch.value is not None
    shape = (*batch.shape[:2], batch.value.shape[-1])
    return np.empty(shape) if batch.value.dtype == np.float64 else lend(shape, np.float64)


def require_finite_rows(array: npt.NDArray[Any], name: str) -> None:
    """Refuse NaN and infinity in (m, n, d), naming row and, where there are several, block."""
    if len(array) == 1:
        require_finite(array[0], name)
        return
    for block, rows in enumerate(array):
        require_finite(rows, f"{name}[{block}]")


class Attention(GraphOperator):
    """A mechanism: logits of pairs, weights over keys, output over values.

    It holds parameters and settings, never anything of a call, so that one object serves many threads. Over a graph
    each node is a query, and the sources of its edges are keys and values: its features are
    forward(X[i], X[sources], X[sources]), its edges' coefficients the weights; a node without edges has zeros. Weights
    of edges multiply within the softmax. There is no dropout over graphs.

    Attributes
    ----------
    name : str
    config : dict
        The arguments that make an equal mechanism (parameters aside), JSON.

    Examples
    --------
    >>> import attnbridge as ab
    >>> isinstance(ab.ScaledDotProductAttention(), ab.Attention)
    True
    """

    name: ClassVar[str]
    causal: bool = False
    dropout: float = 0.0
    d_model: int | None = None
    max_seq_len: int | None = None
    _softmax_eps: float = 0.0  # in the denominators of weights
    _configured: ClassVar[tuple[str, ...]] = ()  # settings of an AttentionConfig that `from_config` takes
    rotary: RotaryEmbedding | None = None

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism, defaults filled in."""

    @abstractmethod
    def _logits(self, batch: Batch) -> Logits:
        """Return the logits (P, L, S) before any mask."""

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
    ) -> AttentionOutput:
        """Return the attention output: each query's mean of the values under its weights.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)
            Leading axes are broadcast, as in torch's ``scaled_dot_product_attention``.
        key : array_like, (..., S, d)
        value : array_like, (..., S, dv)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
            Boolean: True attends. Float: added to the logits. A query that may attend to nothing has zero output. Under
            a `SparseMask` only its pairs are computed, in memory that does not grow with L x S.
        is_causal : bool, default False
            Query i attends to keys 0..i only; after `at(p)` to keys 0..p + i.
        need_weights : bool, default False
            Return the weights too, (..., L, S).
        need_context : bool, default False
            Return what a backward pass needs.
        training : bool, default False
            Apply what acts in training only (dropout).
        seed : int, optional
            What is random in training is drawn from it; by default fresh.

        Returns
        -------
        AttentionOutput
            float32, or float64 where query, key or value is.

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError
        """
        if mask is seed is None and is_causal is need_weights is need_context is training is False:
            output = self._plainly(query, key, value)
            if output is not None:
                return AttentionOutput(output)
        require_given(value, "value")
        batch = self._check(query, key, value, mask, is_causal)
        need_weights, need_context = as_bool(need_weights, "need_weights"), as_bool(need_context, "need_context")
        output, weights, total = self._attend(batch, need_weights, need_context, as_bool(training, "training"), seed)
        context = None
        if need_context:
            assert total is not None
            assert batch.value is not None
            context = AttentionContext(
                *batch.problems(),
                mask=mask,
                is_causal=batch.is_causal,
                logsumexp=batch.restore(total, total.ndim - 1),
                first=batch.first,
            )
        return AttentionOutput(batch.restore(output), None if weights is None else batch.restore(weights), context)

    def logits(self, query: npt.ArrayLike, key: npt.ArrayLike, mask: Any = None, is_causal: bool = False) -> Logits:
        """Return the logit of each query with each key; -inf where it may not attend.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)
        key : array_like, (..., S, d)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
        is_causal : bool, default False

        Returns
        -------
        ndarray of float64, (..., L, S), or (..., S) for one query

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidMaskError
        """
        batch = self._check(query, key, None, mask, is_causal)
        return batch.restore(self._masked_logits(batch))

    def weights(self, query: npt.ArrayLike, key: npt.ArrayLike, mask: Any = None, is_causal: bool = False) -> Float:
        """Return how each query spreads over the keys: weights that sum to 1, or zeros where nothing is attended.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)
        key : array_like, (..., S, d)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
        is_causal : bool, default False

        Returns
        -------
        ndarray, (..., L, S), or (..., S) for one query
            float32, or float64 where query or key is.

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidMaskError
        """
        batch = self._check(query, key, None, mask, is_causal)
        return batch.restore(self._all_weights(batch))

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return the trainable arrays by name; none of a mechanism without any.

        Returns
        -------
        dict of str to ndarray
        """
        return {}

    def as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        """Return the attention type, with its options, that ranks as this mechanism does.

        It is what an index, a graph and SQL compute by when they are given a mechanism: as it is then, parameters that
        are set later are not seen. What acts on sequences or on outputs alone (dropout, the length of sequences,
        blocks, how values are averaged) has no part in it.

        Returns
        -------
        tuple of AttentionType, dict

        Raises
        ------
        InvalidConfigError
            A mechanism that ranks as no type does.
        """
        if self.causal:
            raise InvalidConfigError("causal must be False where keys have no order, as candidates; got True")
        if self.rotary is not None:
            raise InvalidConfigError(
                f"rotary must be None where keys have no places, as candidates; got {self.rotary!r}"
            )
        eps = self._softmax_eps or getattr(self, "eps", 0.0)
        if eps > 0.0:
            raise InvalidConfigError(f"eps must be 0 where candidates are ranked, whose weights sum to 1; got {eps}")
        return self._as_type()

    def cached(self, cache: "AttentionCache") -> "Attention":
        """Return this mechanism with its answers kept: `forward`, `logits` and `weights` look into the cache first.

        What a result of a subclass of your own depends on must be state of the instance: class attributes and globals
        are not seen, and what was kept before they changed would be returned.

        Parameters
        ----------
        cache : AttentionCache
            It may serve other mechanisms and indexes too.

        Returns
        -------
        Attention
            Calls in training, with a seed or with need_context=True are not kept.

        Raises
        ------
        InvalidConfigError

        Examples
        --------
        >>> import attnbridge as ab
        >>> cache = ab.AttentionCache()
        >>> attention = ab.ScaledDotProductAttention().cached(cache)
        >>> [attention.logits([1.0, 0.0], [[1.0, 0.0]]).round(2).tolist() for _ in range(2)], cache.hits
        ([[0.71], [0.71]], 1)
        """
        from attnbridge.mechanisms.cached import CachedAttention

        return CachedAttention(self, cache)

    def require_dim(self, dim: int) -> None:
        """Refuse vectors of another dimension than this mechanism's, where it has one.

        Parameters
        ----------
        dim : int

        Raises
        ------
        DimensionMismatchError
        """
        if self.d_model not in (None, dim):
            raise DimensionMismatchError(f"attention must have d_model = {dim} as the vectors have, got {self.d_model}")

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        raise InvalidConfigError(f"{type(self).__name__} ranks as no attention type does; name one instead")

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{type(self).__name__}({settings})"

    def _plainly(self, query: Any, key: Any, value: Any) -> Float | None:
        """Return the output where there is a short way to it, None where there is not."""
        return None

    # ---- the same on checked inputs, problem by problem

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        """Check the inputs of a call."""
        batch = Batch.of(query, key, value, mask, as_bool(is_causal, "is_causal") or self.causal, **names)
        self._check_limits(batch)
        return batch

    def _check_limits(self, batch: Batch) -> None:
        """Refuse inputs of another dimension, and sequences that are longer, where there is such a limit."""
        if self.d_model is not None and batch.query.shape[-1] != self.d_model:
            raise DimensionMismatchError(
                f"{batch.names[0]} must have dimension d_model = {self.d_model}, got {batch.query.shape[-1]}"
            )
        if self.max_seq_len is None:
            return
        for name, length in zip(batch.names, batch.shape[1:], strict=False):
            if length > self.max_seq_len:
                raise InputTooLargeError(
                    f"{name} must be at most max_seq_len = {self.max_seq_len} long, got {length}; raise max_seq_len, "
                    "or cut it"
                )

    def _masked_logits(self, batch: Batch) -> Logits:
        """Return the logits (P, L, S), -inf where nothing may be attended."""
        logits = self._logits(batch)
        top = logits.max(initial=0.0)  # NaN where there is one
        if not (
            logits.min(initial=0.0) > -np.inf and top < np.inf
        ):  # finite float32 cannot get here: products are redone in float64
            batch.require_finite()
            if not top < np.inf:
                query, key, _ = batch.names
                raise InvalidInputError(f"{query} and {key} must have products within float64 (1.8e308); rescale them")
        batch.apply_mask(logits)
        return logits

    def _all_weights(self, batch: Batch) -> Float:
        """Return the weights (P, L, S)."""
        with batch.working() as own:
            weights, _ = self._weights(own, self._masked_logits(own))
            return weights.astype(batch.key.dtype)

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> "Attended":
        """Return outputs (P, L, dv), weights (P, L, S) if needed, and log-normalisers (P, L) if needed."""
        pair_logits = self._pair_logits(batch) if isinstance(batch.mask, SparseMask) else None
        if pair_logits is not None:
            return Attended(*attend_listed(self, batch, pair_logits, need_weights, *self._draw(training, seed)))
        with batch.working() as own:
            weights, total = self._weights(own, self._masked_logits(own))
            rate, draw = self._draw(training, seed)
            if rate > 0.0:
                for problem in range(len(weights)):
                    kernels.drop(weights[problem], rate, draw, problem, 0, 0)
            output = self._outputs(own, weights)
            return Attended(output, weights.astype(batch.key.dtype) if need_weights else None, total)

    # ---- over graphs

    def _over(self, graph: GraphInput) -> GraphOutput:
        from attnbridge.mechanisms.neighbors import as_star_batch  # which is about this class

        batch, pairs = as_star_batch(self, graph)
        features, by_target = self._attend_edges(batch, pairs)
        coefficients = np.empty(len(by_target), features.dtype)
        coefficients[graph.edges.numbers] = by_target
        return GraphOutput(features, coefficients)

    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        kind = type(self).__name__
        refuse_unused("edge_attr", edge_attr, kind, "GraphAttention with in_dim and edge_dim takes features of edges")
        refuse_unused("edge_type", edge_type, kind, "HeteroConv has a layer for each type")
        self._refuse_order()

    def _refuse_order(self) -> None:
        """Refuse settings that go by the order of keys, which a node's edges do not have."""
        if self.causal:
            raise InvalidConfigError("causal must be False over a graph, where a node's edges have no order; got True")
        if self.rotary is not None:
            raise InvalidConfigError(
                f"rotary must be None over a graph, where nodes have no places; got {self.rotary!r}"
            )

    def _attend_edges(self, batch: Batch, pairs: "Pairs") -> tuple[Float, Float]:
        """Return features (n, dv) and coefficients (m,), as `as_star_batch` has nodes and edges."""
        from attnbridge.mechanisms.neighbors import attend_each_node, attend_listed_nodes

        pair_logits = self._pair_logits(batch)
        if pair_logits is None:
            return attend_each_node(self, batch, pairs)
        return attend_listed_nodes(self, batch, pairs, pair_logits)

    # ---- what subclasses build on

    @classmethod
    def _settings_of(cls, config: AttentionConfig) -> dict[str, Any]:
        """Return the settings of a configuration that the mechanism has; others must be as they are by default."""
        from attnbridge import mechanisms  # which this module is part of

        kind, name = as_config(config, AttentionConfig, cls.__name__), cls.__name__
        known = [each for each in vars(mechanisms).values() if isinstance(each, type) and issubclass(each, Attention)]
        uses = {each.__name__: each._configured for each in (*known, cls)}
        own = (
            {"eps": f"{name}(..., eps={{!r}}) has one of its weights"}
            if "eps" in inspect.signature(cls).parameters
            else {}
        )
        refuse_useless(kind, asdict(kind), name, uses, own)
        return {setting: getattr(kind, setting) for setting in cls._configured}

    def _pair_logits(self, batch: Batch) -> PairLogits | None:
        """Return what fills the logits of listed pairs, with all prepared that is of the batch; None: there is no such.

        The batch's mask is a SparseMask.
        """
        return None

    def _listed_outputs(self, batch: Batch, rows: Iterator[ListedRow]) -> Float:
        """Return what `_outputs` does, from the weights of the queries that attend to anything."""
        assert batch.value is not None
        with Workspaces() as lend:
            out = wide_outputs(batch, lend)
            out.fill(0.0)
            for problem, i, ids, weights in rows:
                kernels.weighted_sum(weights, batch.value[batch.which[problem, 2]], None, ids, out[problem, i])
            return out.astype(batch.value.dtype, copy=False)

    def _draw(self, training: bool, seed: int | None) -> tuple[float, int]:
        """Return the rate of dropout of this call, and the number from which all that is random is drawn."""
        if seed is not None:
            seed = as_count(seed, "seed", least=0)
        if not training:
            return 0.0, 0
        return self.dropout, int(np.random.default_rng(seed).integers(2**63))

    def _weights(self, batch: Batch, logits: Logits) -> tuple[Logits, npt.NDArray[np.float64]]:
        """Return the weights in place of the masked logits, and the logarithm of each row's normaliser (P, L)."""
        total = np.empty(logits.shape[:2])
        for problem, rows in enumerate(logits):
            for i, row in enumerate(rows):
                total[problem, i] = kernels.softmax(row, row)
        if self._softmax_eps > 0.0:
            factors, total = with_eps(total, self._softmax_eps)
            logits *= factors[..., None]
        return logits, total

    def _outputs(self, batch: Batch, weights: Logits) -> Float:
        """Return each query's weighted sum of the values, (P, L, dv)."""
        assert batch.value is not None
        with Workspaces(weights.size) as lend:
            out = wide_outputs(batch, lend)
            for problem, (rows, number) in enumerate(zip(weights, batch.which[:, 2], strict=True)):
                for i, row in enumerate(rows):
                    kernels.weighted_sum(row, batch.value[number], None, None, out[problem, i])
            if not all_finite(out):
                batch.require_finite()
            return out.astype(batch.value.dtype, copy=False)


def as_attention(value: Any) -> Attention:
    """Return a mechanism; of a builder, its `build` makes one."""
    if not isinstance(value, Attention):
        raise InvalidConfigError(f"attention must be an attention mechanism, got {value!r}; build() makes one")
    return value


def refuse_unbuilt(value: Any) -> None:
    """Refuse a builder where a mechanism, or something else, may be given."""
    if callable(getattr(value, "build", None)):
        as_attention(value)


class RotaryAttention(Attention):
    """A mechanism that can turn queries and keys by their places."""

    _start: int = 0
    _turned_keys: bool = False

    def at(self, position: int, *, turned_keys: bool = False) -> Self:
        """Return the mechanism for queries that begin at a place: decoding, with the keys so far in a cache.

        Parameters
        ----------
        position : int
            Place of the first query; key j is at j. Where it is causal, query i attends to keys 0..position + i only;
            elsewhere to all keys that it is given.
        turned_keys : bool, default False
            Whether keys are given as `turn` returns them: each is turned once, not again at every step.

        Returns
        -------
        Attention
            With the same parameters; its config does not tell the place.

        Raises
        ------
        InvalidConfigError
            Without a rotary embedding places have no meaning; turned_keys with projections, which come before.

        Examples
        --------
        >>> import numpy as np, attnbridge as ab
        >>> attention = ab.ScaledDotProductAttention(rotary=ab.RotaryEmbedding(4))
        >>> x, kept = np.eye(3, 4, dtype=np.float32), np.empty((3, 4), np.float32)
        >>> for t in range(3):
        ...     kept[t] = attention.turn(x[t : t + 1], t)[0]
        ...     output = attention.at(t, turned_keys=True).forward(x[t], kept[: t + 1], x[: t + 1]).output
        >>> bool(np.allclose(output, attention.forward(x, x, x, is_causal=True).output[2]))
        True

        Several queries at once, as a prompt is read in chunks:

        >>> attention = ab.ScaledDotProductAttention(rotary=ab.RotaryEmbedding(4), causal=True)
        >>> attention.at(1).weights(x[1:], x).round(2)
        array([[0.28, 0.72, 0.  ],
               [0.27, 0.27, 0.45]], dtype=float32)
        >>> bool(np.allclose(attention.at(1).forward(x[1:], x, x).output, attention.forward(x, x, x).output[1:]))
        True
        """
        self._require_rotary("at() moves the queries to theirs")
        moved = copy(self)
        moved._start = as_count(position, "position", least=0)
        moved._turned_keys = as_bool(turned_keys, "turned_keys")
        if moved._turned_keys:
            self._refuse_projections("turned_keys must be False")
        return moved

    def turn(self, key: npt.ArrayLike, position: int = 0) -> Float:
        """Return keys turned by their places, each head's columns alike: what `at(turned_keys=True)` attends to.

        Parameters
        ----------
        key : array_like, (..., S, d)
        position : int, default 0
            Place of the first.

        Returns
        -------
        ndarray, (..., S, d)

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError, InputTooLargeError
        """
        rotary = self._require_rotary("turn() turns the keys by theirs")
        self._refuse_projections("keys must be turned by forward()")
        rows, heads = _array(key, "key", least=2), getattr(self, "num_heads", 1)
        if rows.shape[-1] != rotary.dim * heads:
            raise DimensionMismatchError(f"key must be (..., S, {rotary.dim * heads}), got shape {rows.shape}")
        require_finite_rows(rows.reshape(1, -1, rows.shape[-1]), "key")
        start = as_count(position, "position", least=0)
        return rotary._heads(rows.reshape(-1, *rows.shape[-2:]), heads, start).reshape(rows.shape)

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        return super()._check(query, key, value, mask, is_causal, first=self._start, **names)

    def _require_rotary(self, why: str) -> RotaryEmbedding:
        if self.rotary is None:
            raise InvalidConfigError(f"rotary must be given for places to count; {why}")
        return self.rotary

    def _refuse_projections(self, what: str) -> None:
        if getattr(self, "projections", False):
            raise InvalidConfigError(f"{what} with projections, which come before the turn; got projections=True")

    def _rotated(self, batch: Batch, heads: int = 1) -> Batch:
        """Return the batch, turned where there is an embedding."""
        if self.rotary is None:
            return batch
        return batch.rotated(self.rotary, heads, self._start, self._turned_keys)


class RegisteredAttention(Attention):
    """A mechanism whose logit of a query is that of a row of the registry."""

    row: ClassVar[AttentionType]

    @abstractmethod
    def _options(self) -> Mapping[str, Any]:
        """Return the row's options."""

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        return self.row, dict(self._options())

    def _logits(self, batch: Batch) -> Logits:
        out = batch.new_logits()
        options = self._options()
        for problem, (q, k, _) in enumerate(batch.which):
            keys = Keys(batch.key[k])
            for i, query in enumerate(batch.query[q]):
                self.row.logits(query, 0.0, keys, None, options, out[problem, i])
        return out

    def _pair_logits(self, batch: Batch) -> PairLogits | None:
        keys, options = [Keys(rows) for rows in batch.key], self._options()

        def fill(problem: int, i: int, ids: npt.NDArray[np.int64], out: Logits) -> None:
            q, k, _ = batch.which[problem]
            self.row.logits(batch.query[q, i], 0.0, keys[k], ids, options, out)

        return fill
