"""Attention within a window around each query."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import WINDOW_REMEDY
from attnbridge.errors import InvalidConfigError
from attnbridge.mechanisms.base import Attended, Attention, Batch
from attnbridge.mechanisms.listed import PairLogits
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, scale_or_default
from attnbridge.mechanisms.standard import SCALE, DenseAttention
from attnbridge.metric import Keys
from attnbridge.validation import as_bool, as_count

WINDOW = 128


def _band(position: int, options: Options, keys: int) -> tuple[int, int]:
    """Return the first key that a query at a position attends to, and where they stop."""
    window = options["window"]
    return max(0, position - window), min(keys, position + (0 if options["causal"] else window) + 1)


def _logits(query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    """Fill `out` with the products inside the window, -inf outside; keys are in order."""
    first, stop = _band(int(options["position"]), options, len(out))
    inside = np.arange(first, stop) if ids is None else ids[first:stop]
    scale = scale_or_default(len(query), options["scale"])
    out[:] = -np.inf
    kernels.dot(query, bias, keys.data, keys.scale, keys.bias, inside, scale, out[first:stop])


def as_position(value: Any, name: str) -> int | list[int]:
    """Return the place of one query among the keys, or of each of several."""
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and np.ndim(value) == 1:
        return [as_count(place, name, least=0) for place in value]
    return as_count(value, name, least=0)


def _mechanism(options: Options) -> "SlidingWindowAttention":
    if options["position"] is None:
        raise InvalidConfigError("sliding needs position=..., the query's place among the keys")
    return SlidingWindowAttention(**options)


SLIDING = AttentionType(
    name="sliding",
    complexity="O(n*w)",
    best_for="local context",
    pairwise=False,
    options={
        "window": Option(WINDOW, partial(as_count, remedy=WINDOW_REMEDY)),
        # The query's place among the keys, 0 the first; or one place for each query.
        "position": Option(None, as_position),
        "causal": Option(False, as_bool),
        "scale": SCALE,
    },
    logits=_logits,
    mechanism=_mechanism,
    build_space=None,
    aliases=("sliding_window", "local"),
)


class SlidingWindowAttention(DenseAttention):
    """softmax(scale q K^T + mask) V over the keys within `window` of each query's place.

    Query i attends to keys i - window .. i + window; causal, to i - window .. i. Time grows with n * window, and memory
    with the result alone.

    Parameters
    ----------
    window : int, default 128
        Keys on either side, > 0.
    position : int or sequence of int, optional
        The queries' places among the keys, one for all or one each; by default query i is at key i.
    scale : float, optional
        By default 1/sqrt(d).
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        No query attends to keys behind its place.
    d_model : int, optional
        Queries and keys of another dimension are refused.
    max_seq_len : int, optional
        Longer sequences are refused.
    eps : float, default 0.0
        Added to the denominators of the weights, exp(logits) / (sum + eps).

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Beltagy et al. 2020, Longformer, section 3.1.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> x = np.zeros((5, 2), np.float32)
    >>> ab.SlidingWindowAttention(1).weights(x, x)[:2].round(2)
    array([[0.5 , 0.5 , 0.  , 0.  , 0.  ],
           [0.33, 0.33, 0.33, 0.  , 0.  ]], dtype=float32)
    >>> ab.attention_scores(x[0], x, "sliding", position=4, window=1)
    array([0. , 0. , 0. , 0.5, 0.5], dtype=float32)
    """

    name: ClassVar[str] = "sliding"
    row: ClassVar[AttentionType] = SLIDING

    def __init__(
        self,
        window: int = WINDOW,
        *,
        position: int | Sequence[int] | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        causal: bool = False,
        d_model: int | None = None,
        max_seq_len: int | None = None,
        eps: float = 0.0,
    ) -> None:
        super().__init__(scale, dropout, causal, d_model, max_seq_len, eps)
        self.window = as_count(window, "window", remedy=WINDOW_REMEDY)
        self.position = None if position is None else as_position(position, "position")

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        settings = {name: value for name, value in super().config.items() if name != "rotary"}
        return {"window": self.window, "position": self.position, **settings}

    def _options(self) -> Mapping[str, Any]:
        return {"window": self.window, "position": self.position, "causal": self.causal, "scale": self.scale}

    def as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        """Return the attention type, with its options, that ranks as this mechanism does; windows may be causal.

        Returns
        -------
        tuple of AttentionType, dict
        """
        return self._as_type()

    def _tiling(self) -> dict[str, Any]:
        return {"left": self.window, "right": 0 if self.causal else self.window}

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        # The window itself is causal, at any place; the batch's own causality is that of the call.
        batch = Batch.of(query, key, value, mask, is_causal, **names)
        self._check_limits(batch)
        self._positions(batch)
        return batch

    def _refuse_order(self) -> None:
        raise InvalidConfigError(
            "SlidingWindowAttention must run over sequences, it attends by places in them; over a graph "
            "ScaledDotProductAttention attends to all of a node's edges"
        )

    def _positions(self, batch: Batch) -> list[int]:
        """Return each query's place."""
        _, queries, keys = batch.shape
        if self.position is None:
            return list(range(queries))
        places = self.position if isinstance(self.position, list) else [self.position] * queries
        if len(places) != queries:
            raise InvalidConfigError(
                f"position must be one number, or one for each of {queries} queries, got {len(places)}"
            )
        if max(places, default=0) >= keys:
            raise InvalidConfigError(
                f"position must be the place of one of {keys} keys, 0 to {keys - 1}, got {max(places)}"
            )
        return places

    def _logits(self, batch: Batch) -> Logits:
        out = batch.new_logits()
        options = dict(self._options())
        places = self._positions(batch)
        for problem, (q, k, _) in enumerate(batch.which):
            keys = Keys(batch.key[k])
            for i, query in enumerate(batch.query[q]):
                self.row.logits(query, 0.0, keys, None, options | {"position": places[i]}, out[problem, i])
        return out

    def _pair_logits(self, batch: Batch) -> PairLogits | None:
        options, places = self._options(), self._positions(batch)
        scale = scale_or_default(batch.query.shape[-1], self.scale)

        def fill(problem: int, i: int, ids: Ids, out: Logits) -> None:
            q, k, _ = batch.which[problem]
            kernels.dot(batch.query[q, i], 0.0, batch.key[k], None, None, ids, scale, out)
            first, stop = _band(places[i], options, batch.shape[2])
            out[(ids < first) | (ids >= stop)] = -np.inf

        return fill

    def _attend(self, batch: Batch, *args: Any) -> Attended:
        if self.position is None:
            return super()._attend(batch, *args)
        return Attention._attend(self, batch, *args)  # a window each: by way of the logits
