"""What every attention mechanism shares: the shapes it takes, the calls it answers, what it returns."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from attnbridge.masks import Mask, SparseMask, as_attention_mask
from attnbridge.mechanisms.listed import ListedRow, PairLogits, attend_listed
from attnbridge.mechanisms.row import AttentionType
from attnbridge.metric import Keys
from attnbridge.validation import Float, as_bool, as_count, as_floats, limit_keys, require_finite, require_given

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
        Query i attends to keys 0..i.
    names : tuple of str
        What errors call query, key and value.
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
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Problems, queries and keys: (P, L, S)."""
        return len(self.which), self.query.shape[1], self.key.shape[1]

    def apply_mask(self, logits: Logits) -> None:
        """Put -inf where logits (P, L, S) may not be attended, and add a float mask."""
        if self.mask is not None:
            self.mask.apply(logits.reshape(*self.lead, *logits.shape[1:]))
        if self.is_causal:
            queries, keys = logits.shape[1:]
            logits[:, np.arange(keys) > np.arange(queries)[:, None]] = -np.inf

    def restore(self, array: npt.NDArray[Any], axis: int = 1) -> npt.NDArray[Any]:
        """Return (P, L, ...) in the caller's shape: (..., L, ...), without L, which is at `axis`, for one query."""
        whole = array.reshape(*self.lead, *array.shape[1:])
        return np.squeeze(whole, axis=len(self.lead) + axis - 1) if self.single else whole

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


def require_finite_rows(array: npt.NDArray[Any], name: str) -> None:
    """Refuse NaN and infinity in (m, n, d), naming row and, where there are several, block."""
    if len(array) == 1:
        require_finite(array[0], name)
        return
    for block, rows in enumerate(array):
        require_finite(rows, f"{name}[{block}]")


def limit_length(batch: Batch, most: int | None) -> None:
    """Refuse more queries or keys than a sequence may have."""
    if most is None:
        return
    for name, length in zip(batch.names, batch.shape[1:], strict=False):
        if length > most:
            raise InputTooLargeError(
                f"{name} must be at most max_seq_len = {most} long, got {length}; raise max_seq_len, or cut it"
            )


class Attention(ABC):
    """A mechanism: logits of pairs, weights over keys, output over values.

    It holds parameters and settings, never anything of a call, so that one object serves many threads.

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
            Query i attends to keys 0..i only.
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
                *batch.problems(), mask=mask, is_causal=batch.is_causal, logsumexp=batch.restore(total, total.ndim - 1)
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

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{type(self).__name__}({settings})"

    def _plainly(self, query: Any, key: Any, value: Any) -> Float | None:
        """Return the output where there is a short way to it, None where there is not."""
        return None

    # ---- the same on checked inputs, problem by problem

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        """Check the inputs of a call."""
        return Batch.of(query, key, value, mask, as_bool(is_causal, "is_causal") or self.causal, **names)

    def _masked_logits(self, batch: Batch) -> Logits:
        """Return the logits (P, L, S), -inf where nothing may be attended."""
        logits = self._logits(batch)
        if not np.isfinite(logits).all():  # finite float32 cannot get here: products are redone in float64
            batch.require_finite()
            if np.isnan(logits).any() or (logits == np.inf).any():
                query, key, _ = batch.names
                raise InvalidInputError(f"{query} and {key} must have products within float64 (1.8e308); rescale them")
        batch.apply_mask(logits)
        return logits

    def _all_weights(self, batch: Batch) -> Float:
        """Return the weights (P, L, S)."""
        weights, _ = self._weights(batch, self._masked_logits(batch))
        return weights.astype(batch.key.dtype, copy=False)

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
        weights, total = self._weights(batch, self._masked_logits(batch))
        rate, draw = self._draw(training, seed)
        if rate > 0.0:
            for problem in range(len(weights)):
                kernels.drop(weights[problem], rate, draw, problem, 0, 0)
        output = self._outputs(batch, weights)
        return Attended(output, weights.astype(batch.key.dtype, copy=False) if need_weights else None, total)

    # ---- what subclasses build on

    def _pair_logits(self, batch: Batch) -> PairLogits | None:
        """Return what fills the logits of listed pairs, with all prepared that is of the batch; None: there is no such.

        The batch's mask is a SparseMask.
        """
        return None

    def _listed_outputs(self, batch: Batch, rows: Iterator[ListedRow]) -> Float:
        """Return what `_outputs` does, from the weights of the queries that attend to anything."""
        assert batch.value is not None
        out = np.zeros((*batch.shape[:2], batch.value.shape[-1]))
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
        return logits, total

    def _outputs(self, batch: Batch, weights: Logits) -> Float:
        """Return each query's weighted sum of the values, (P, L, dv)."""
        assert batch.value is not None
        out = np.empty((*weights.shape[:2], batch.value.shape[-1]))
        for problem, (rows, number) in enumerate(zip(weights, batch.which[:, 2], strict=True)):
            for i, row in enumerate(rows):
                kernels.weighted_sum(row, batch.value[number], None, None, out[problem, i])
        if not np.isfinite(out).all():
            batch.require_finite()
        return out.astype(batch.value.dtype, copy=False)


class RegisteredAttention(Attention):
    """A mechanism whose logit of a query is that of a row of the registry."""

    row: ClassVar[AttentionType]

    @abstractmethod
    def _options(self) -> Mapping[str, Any]:
        """Return the row's options."""

    def _logits(self, batch: Batch) -> Logits:
        out = np.empty(batch.shape)
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
