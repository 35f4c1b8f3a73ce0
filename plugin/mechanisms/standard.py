"""Scaled dot-product attention, plain and in tiles."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import as_dropout
from attnbridge.mechanisms.base import Attended, Batch, RegisteredAttention
from attnbridge.mechanisms.dense import attend_dense
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, optional, positive, scale_or_default
from attnbridge.metric import Keys
from attnbridge.validation import as_bool


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

# Types whose output is that of attend_dense as it stands.
PLAIN = (SCALED_DOT.name, *SCALED_DOT.aliases)


class ScaledDotProductAttention(RegisteredAttention):
    """softmax(scale q K^T + mask) V.

    Parameters
    ----------
    scale : float, optional
        By default 1/sqrt(d).
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        Every call is causal.

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

    def __init__(self, *, scale: float | None = None, dropout: float = 0.0, causal: bool = False) -> None:
        self.scale = None if scale is None else positive(scale, "scale")
        self.dropout = as_dropout(dropout)
        self.causal = as_bool(causal, "causal")

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        return {"scale": self.scale, "dropout": self.dropout, "causal": self.causal}

    def _options(self) -> Mapping[str, Any]:
        return {"scale": self.scale}

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> Attended:
        scale = scale_or_default(batch.query.shape[-1], self.scale)
        rate, draw = self._draw(training, seed)
        return attend_dense(batch, scale=scale, need_weights=need_weights, rate=rate, draw=draw)
