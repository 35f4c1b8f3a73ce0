"""Rotary position embedding by graph distance: keys turned by their hops from each query's node."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import heads_divide
from attnbridge.errors import DimensionMismatchError, InvalidConfigError, InvalidInputError
from attnbridge.positions import RotaryEmbedding, as_vectors, as_whole, cosines_and_sines
from attnbridge.validation import Float, as_array, as_count, as_floats, require_given

if TYPE_CHECKING:
    from attnbridge.masks import SparseMask
    from attnbridge.mechanisms.base import Attention, AttentionOutput

_Wide = npt.NDArray[np.float64]

# Numbers of logits, or of turned keys, that are made at a time: what fits into caches, and 16 MB of float32.
_MOST_LOGITS, _MOST_TURNED = 1 << 19, 1 << 22

# Largest logit whose float32 has five digits after the point; above it all is done in float64.
_LARGEST = 128.0


class _Pairs(NamedTuple):
    """Checked queries (L, d) and keys (S, d) of so many heads, hops (L, S), -1 for no logit, and what is added."""

    query: Float
    key: Float
    heads: int
    hops: npt.NDArray[np.int64]
    added: _Wide | None

    def wide(self) -> "_Pairs":
        """Return the same in float64."""
        return self._replace(query=self.query.astype(np.float64), key=self.key.astype(np.float64))


@dataclass(frozen=True)
class GraphRoPE:
    """Rotary embedding by graph distance: a key is turned by its hops from the query's node, the query stays.

    The product of a query and a key then depends on the two vectors and on how far apart their nodes are. Nodes that
    cannot be reached are not attended.

    Parameters
    ----------
    dim : int
        Dimension of a head's queries and keys; even.
    base : float, default 10000.0
        > 1.
    max_distance : int, optional
        Nodes farther away count as being at it (as Shaw et al. 2018 clip relative positions); by default any number of
        hops is told from any other.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Su et al. 2021, RoFormer, equation 34, the relative position being the length of the shortest path, as in Ying et
    al. 2021, Do Transformers Really Perform Bad for Graph Representation?, section 3.1.2.

    Examples
    --------
    Three nodes on a path, and one apart.

    >>> import numpy as np, attnbridge as ab
    >>> hops = np.array([[0, 1, 2, -1], [1, 0, 1, -1], [2, 1, 0, -1], [-1, -1, -1, 0]])
    >>> x = np.ones((4, 2), np.float32)
    >>> rope, attention = ab.GraphRoPE(2), ab.ScaledDotProductAttention()
    >>> rope.forward(attention, x, x, x, hops, need_weights=True).weights.round(2)
    array([[0.6 , 0.32, 0.08, 0.  ],
           [0.26, 0.49, 0.26, 0.  ],
           [0.08, 0.32, 0.6 , 0.  ],
           [0.  , 0.  , 0.  , 1.  ]], dtype=float32)
    """

    dim: int
    base: float = 10000.0
    max_distance: int | None = None

    def __post_init__(self) -> None:
        most = None if self.max_distance is None else as_count(self.max_distance, "max_distance")
        rotary = RotaryEmbedding(self.dim, self.base)
        for name, value in (("dim", rotary.dim), ("base", rotary.base), ("max_distance", most)):
            object.__setattr__(self, name, value)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal embedding."""
        return asdict(self)

    def rotate(self, x: npt.ArrayLike, hops: npt.ArrayLike) -> Float:
        """Return keys turned by their hops from one query's node, or from each of several.

        Parameters
        ----------
        x : array_like, (S, dim) or (..., S, dim)
        hops : array_like, (S,) or (..., S)
            Leading axes are broadcast. -1 or inf: not to be reached, such a key stays as it is.

        Returns
        -------
        ndarray, (..., S, dim)

        Raises
        ------
        DimensionMismatchError, InvalidInputError
        """
        array, distances = as_vectors(x, "x", self.dim), self._distances(hops)
        try:
            lead = np.broadcast_shapes(array.shape[:-1], distances.shape)
        except ValueError:
            raise DimensionMismatchError(
                f"hops must have one number for each of the keys {array.shape[:-1]}, got shape {distances.shape}"
            ) from None
        return self._turned(np.broadcast_to(array, (*lead, self.dim)), distances)

    def forward(
        self,
        attention: "Attention",
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        value: npt.ArrayLike,
        hops: npt.ArrayLike,
        mask: Any = None,
        *,
        need_weights: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> "AttentionOutput":
        """Return the output of an attention whose keys are turned by their hops from each query's node.

        Parameters
        ----------
        attention : ScaledDotProductAttention, FlashAttention, MultiHeadAttention or GraphAttention
            Without order: not causal, without a rotary embedding of its own. Heads are turned each; projections there
            must be none (projections=False), they would come after the rotation.
        query : array_like, (L, d)
        key : array_like, (S, d)
        value : array_like, (S, dv)
        hops : array_like, (L, S)
            Length of the shortest path from each query's node to each key's, as `scipy.sparse.csgraph.shortest_path`
            gives it with unweighted=True; -1 or inf: none.
        mask : array_like or SparseMask, broadcastable to (L, S), optional
            Boolean: True attends. Float: added to the logits.
        need_weights : bool, default False
        training : bool, default False
        seed : int, optional

        Returns
        -------
        AttentionOutput

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError
        """
        from attnbridge.mechanisms.base import AttentionOutput

        require_given(value, "value")
        pairs = self._checked(attention, query, key, hops, mask)
        own = None if seed is None else as_count(seed, "seed", least=0)
        if _by_dots(attention):
            output, weights = self._attend(attention, pairs, value, need_weights, training, own)
            return AttentionOutput(output, weights)
        if _by_tables(attention, pairs):
            return self._attend_listed(attention, pairs, value, need_weights, training, own)
        parts = [
            attention.forward(q, k, value, allowed, False, need_weights, training=training, seed=_seed(own, start))
            for start, q, k, allowed in self._turned_blocks(pairs)
        ]
        output = np.concatenate([part.output[..., 0, :] for part in parts])
        shares = [part.weights[..., 0, :] for part in parts if part.weights is not None]
        return AttentionOutput(output, np.concatenate(shares) if shares else None)

    def logits(
        self,
        attention: "Attention",
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        hops: npt.ArrayLike,
        mask: Any = None,
    ) -> _Wide:
        """Return the logit of each query with each key, turned by its hops; -inf where there is no way.

        Parameters
        ----------
        attention : Attention
            As in `forward`.
        query : array_like, (L, d)
        key : array_like, (S, d)
        hops : array_like, (L, S)
        mask : array_like or SparseMask, broadcastable to (L, S), optional

        Returns
        -------
        ndarray of float64, (L, S)

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError
        """
        pairs = self._checked(attention, query, key, hops, mask)
        if _by_tables(attention, pairs):
            made = [
                np.take_along_axis(attention.logits(q, k, listed), places, axis=1)
                for _, q, k, listed, places in self._listed_blocks(pairs)
            ]
            return np.where(pairs.hops >= 0, np.concatenate(made), -np.inf)
        if not _by_dots(attention):
            blocks = self._turned_blocks(pairs)
            return np.concatenate([attention.logits(q, k, allowed)[:, 0] for _, q, k, allowed in blocks])
        attention._check(pairs.query, pairs.key, None, None, False)
        made = [logits.mean(axis=0, dtype=np.float64) for _, logits in self._logit_blocks(attention, pairs)]
        return np.concatenate(made)

    def _checked(self, attention: "Attention", query: Any, key: Any, hops: Any, mask: Any) -> _Pairs:
        """Return the pairs of a call; what may not be attended has no way to it either."""
        from attnbridge.masks import as_attention_mask

        heads = _heads_of(attention)
        width = heads * self.dim
        queries, keys = as_vectors(query, "query", width), as_vectors(key, "key", width)
        for name, array in (("query", queries), ("key", keys)):
            if array.ndim != 2 or len(array) == 0:
                raise DimensionMismatchError(f"{name} must be rows (n, {width}), at least one, got shape {array.shape}")
        shape = len(queries), len(keys)
        distances = self._distances(hops)
        if distances.shape != shape:
            raise DimensionMismatchError(f"hops must be {shape}, queries by keys, got shape {distances.shape}")
        dtype = np.result_type(queries, keys)
        queries, keys = (np.ascontiguousarray(array, dtype) for array in (queries, keys))
        if mask is None:
            return _Pairs(queries, keys, heads, distances, None)
        added = np.zeros(shape)
        as_attention_mask(mask, shape).apply(added)
        distances = np.where(added == -np.inf, -1, distances)
        return _Pairs(queries, keys, heads, distances, added if (added[distances >= 0] != 0.0).any() else None)

    # ---- logits as products: queries turned once for each distance

    def _attend(
        self, attention: Any, pairs: _Pairs, value: Any, need_weights: bool, training: bool, seed: int | None
    ) -> tuple[Float, Float | None]:
        """Return outputs (L, dv), and weights (L, S), the mean over heads, if needed."""
        batch = attention._check(pairs.query, pairs.key, value, None, False)
        if batch.lead:
            raise DimensionMismatchError(f"value must be rows (S, dv), got {len(batch.lead)} more axes")
        batch.require_finite()
        heads_divide(batch.value.shape[-1], pairs.heads, "Value dimension")
        values = batch.value[0].reshape(len(pairs.key), pairs.heads, -1).swapaxes(0, 1)
        over_logits, outputs, weights = _over_logits(attention), [], []
        for start, logits in self._logit_blocks(attention, pairs):
            # Products of nothing, to which the mask adds the logits.
            no_query, no_key = (np.zeros((pairs.heads, count, 1), logits.dtype) for count in logits.shape[1:])
            made = over_logits.forward(
                no_query, no_key, values, logits, False, need_weights, training=training, seed=_seed(seed, start)
            )
            outputs.append(made.output.swapaxes(0, 1).reshape(logits.shape[1], -1))
            if made.weights is not None:
                weights.append(made.weights.mean(axis=0, dtype=np.float64))
        dtype = batch.value.dtype
        shares = np.concatenate(weights).astype(dtype, copy=False) if weights else None
        return np.concatenate(outputs).astype(dtype, copy=False), shares

    def _logit_blocks(self, attention: Any, pairs: _Pairs) -> Iterator[tuple[int, Float]]:
        """Yield the first of some queries and their logits (H, b, S), in float64 where float32 does not suffice."""
        scale = self.dim**-0.5 if attention.scale is None else attention.scale
        rotary = RotaryEmbedding(self.dim, self.base)
        farthest, keys = int(pairs.hops.max(initial=0)), len(pairs.key)
        few = farthest <= 4 * keys
        tables = cosines_and_sines(rotary, np.arange(farthest + 1 if few else 0))
        step = max(1, _MOST_LOGITS // (keys * (pairs.heads if few else pairs.key.shape[1])))
        for start in range(0, len(pairs.query), step):
            rows = slice(start, start + step)
            turns = pairs.hops[rows]
            if not few:
                places, numbers = np.unique(turns, return_inverse=True)
                tables, turns = cosines_and_sines(rotary, places), np.where(turns < 0, -1, numbers.reshape(turns.shape))
            added = None if pairs.added is None else pairs.added[rows]
            block = pairs._replace(query=pairs.query[rows], hops=turns, added=added)
            yield start, _logits_of(block, tables, scale)

    # ---- keys turned once for each distance, each query listing the one of a key that is its own

    def _attend_listed(
        self, attention: Any, pairs: _Pairs, value: Any, need_weights: bool, training: bool, seed: int | None
    ) -> "AttentionOutput":
        """Return outputs (L, dv), and weights (L, S) if needed."""
        from attnbridge.mechanisms.base import AttentionOutput

        values = as_floats(value, "value", keep_float64=True)
        if values.ndim != 2 or len(values) != len(pairs.key):
            raise DimensionMismatchError(f"value must be {len(pairs.key)} rows, one a key, got shape {values.shape}")
        values = np.repeat(values, int(pairs.hops.max(initial=0)) + 1, axis=0)
        outputs, shares = [], []
        for start, q, k, listed, places in self._listed_blocks(pairs):
            own = _seed(seed, start)
            made = attention.forward(q, k, values, listed, False, need_weights, training=training, seed=own)
            outputs.append(made.output)
            if made.weights is not None:
                rows = np.take_along_axis(made.weights, places, axis=1)
                shares.append(np.where(pairs.hops[start : start + len(q)] >= 0, rows, rows.dtype.type(0.0)))
        return AttentionOutput(np.concatenate(outputs), np.concatenate(shares) if shares else None)

    def _listed_blocks(self, pairs: _Pairs) -> Iterator[tuple[int, Float, Float, "SparseMask", npt.NDArray[np.int64]]]:
        """Yield the first of some queries, they (b, d), all turned keys (S T, d), a mask, and where keys are (b, S)."""
        from attnbridge.masks import SparseMask

        count, turns = len(pairs.key), int(pairs.hops.max(initial=0)) + 1
        table = self._turner(pairs.key, turns - 1, 0)(np.broadcast_to(np.arange(turns)[:, None], (turns, count)))
        keys = np.ascontiguousarray(table.swapaxes(0, 1)).reshape(count * turns, -1)
        step = max(1, _MOST_TURNED // len(keys))
        for start in range(0, len(pairs.query), step):
            rows = slice(start, start + step)
            reached = pairs.hops[rows] >= 0
            places = np.maximum(pairs.hops[rows], 0) + np.arange(count) * turns
            indptr = np.concatenate([[0], np.cumsum(reached.sum(axis=1))])
            yield start, pairs.query[rows], keys, SparseMask(indptr, places[reached], (len(places), len(keys))), places

    # ---- keys turned for each query: for whatever else

    def _turned_blocks(self, pairs: _Pairs) -> Iterator[tuple[int, Float, Float, npt.NDArray[Any]]]:
        """Yield the first of some queries, they (b, 1, d), their turned keys (b, S, d) and masks (b, 1, S)."""
        turned_by = self._turner(pairs.key, int(pairs.hops.max(initial=0)), len(pairs.query))
        allowed: npt.NDArray[Any] = pairs.hops >= 0
        if pairs.added is not None:
            allowed = np.where(allowed, pairs.added, -np.inf)
        step = max(1, _MOST_TURNED // pairs.key.size)
        for start in range(0, len(pairs.query), step):
            rows = slice(start, start + step)
            yield start, pairs.query[rows, None], turned_by(np.maximum(pairs.hops[rows], 0)), allowed[rows, None]

    def _turner(self, keys: Float, farthest: int, queries: int) -> Callable[[npt.NDArray[Any]], Float]:
        """Return what gives keys (b, S, d) turned by hops (b, S), looked up where there are few distances."""
        heads = keys.shape[1] // self.dim

        def turned(hops: npt.NDArray[Any]) -> Float:
            parts = keys.reshape(1, len(keys), heads, self.dim)
            every = np.broadcast_to(parts, (len(hops), *parts.shape[1:]))
            return self._turned(every, hops[..., None]).reshape(len(hops), *keys.shape)

        if farthest >= queries or (farthest + 1) * keys.size > _MOST_TURNED:
            return turned
        table, rows = turned(np.arange(farthest + 1)[:, None]), np.arange(len(keys))
        return lambda hops: table[hops, rows]

    def _turned(self, x: Float, distances: npt.NDArray[np.int64]) -> Float:
        """Return x (..., dim), turned by distances (...); by none where there is no way."""
        rotary = RotaryEmbedding(self.dim, self.base)
        places = np.maximum(distances, 0)
        farthest = int(places.max(initial=0))
        if farthest > places.size:  # more angles than vectors
            return rotary._turned(x, *cosines_and_sines(rotary, places))
        cosine, sine = cosines_and_sines(rotary, np.arange(farthest + 1))
        return rotary._turned(x, cosine.astype(x.dtype)[places], sine.astype(x.dtype)[places])

    def _distances(self, hops: Any) -> npt.NDArray[np.int64]:
        """Return hops as whole numbers, -1 where there is no way, none beyond max_distance."""
        array = as_array(hops, "hops")
        if array.dtype.kind == "f":
            array = np.where(array == np.inf, -1.0, array)
        whole = as_whole(array, "hops", least=-1)
        return whole if self.max_distance is None else np.minimum(whole, self.max_distance)


def _logits_of(pairs: _Pairs, tables: tuple[_Wide, _Wide], scale: float) -> Float:
    """Return the logits (H, b, S) of pairs whose hops are rows of the tables."""
    shape = pairs.heads, *pairs.hops.shape
    if pairs.query.dtype == np.float32:
        small = pairs.added is None or np.abs(pairs.added[pairs.hops >= 0]).max(initial=0.0) <= _LARGEST
        out = np.empty(shape, np.float32)
        q, k, heads = pairs[:3]
        if small and not kernels.turned_dots(q, k, heads, *tables, pairs.hops, scale, _LARGEST, out):
            if pairs.added is not None:
                out += pairs.added.astype(np.float32)
            return out
    wide, logits = pairs.wide(), np.empty(shape)
    most = np.finfo(np.float64).max
    beyond = kernels.turned_dots(wide.query, wide.key, pairs.heads, *tables, pairs.hops, scale, most, logits)
    if pairs.added is not None:
        logits += pairs.added
    if beyond or (logits == np.inf).any():
        raise InvalidInputError("query and key must have products within float64 (1.8e308); rescale them")
    return logits


def _by_dots(attention: Any) -> bool:
    """Return whether an attention's logits are the scaled products of its heads, and no more; heirs may change them."""
    from attnbridge.mechanisms.multi_head import MultiHeadAttention
    from attnbridge.mechanisms.standard import FlashAttention, ScaledDotProductAttention

    return type(attention) in (ScaledDotProductAttention, FlashAttention, MultiHeadAttention)


def _by_tables(attention: Any, pairs: _Pairs) -> bool:
    """Return whether keys are few enough to be turned by every distance, for a mechanism that takes what is listed."""
    from attnbridge.mechanisms.graph import GraphAttention

    few = (int(pairs.hops.max(initial=0)) + 1) * pairs.key.size <= _MOST_TURNED
    return type(attention) is GraphAttention and pairs.added is None and few


def _over_logits(attention: Any) -> "Attention":
    """Return an attention with what acts after the logits: dropout, eps, and blocks of keys."""
    from attnbridge.mechanisms.standard import FlashAttention, ScaledDotProductAttention

    if isinstance(attention, FlashAttention):
        return FlashAttention(attention.block_size, scale=1.0, dropout=attention.dropout, eps=attention.eps)
    return ScaledDotProductAttention(scale=1.0, dropout=attention.dropout, eps=attention.eps)


def _seed(seed: int | None, start: int) -> int | None:
    """Return the seed of the queries from `start` on: a block must not draw what the one before it drew."""
    return seed if seed is None or start == 0 else int(np.random.default_rng([seed, start]).integers(2**63))


def _heads_of(attention: Any) -> int:
    """Return how many heads share the columns of an attention whose keys may be turned one query at a time."""
    from attnbridge.mechanisms.base import refuse_unbuilt
    from attnbridge.mechanisms.graph import GraphAttention
    from attnbridge.mechanisms.multi_head import MultiHeadAttention
    from attnbridge.mechanisms.standard import FlashAttention, ScaledDotProductAttention

    kinds = (ScaledDotProductAttention, FlashAttention, MultiHeadAttention, GraphAttention)
    refuse_unbuilt(attention)
    if not isinstance(attention, kinds):
        known = ", ".join(kind.__name__ for kind in kinds)
        raise InvalidConfigError(f"attention must be one of {known}; got {attention!r}")
    if attention.causal:
        raise InvalidConfigError("causal must be False where places are nodes of a graph, which have no order")
    if attention.rotary is not None:
        raise InvalidConfigError("rotary must be None where places are nodes of a graph; GraphRoPE turns the keys")
    if not isinstance(attention, MultiHeadAttention):
        return 1
    if attention.projections:
        raise InvalidConfigError("projections must be False with GraphRoPE: they would come after the rotation")
    return attention.num_heads
