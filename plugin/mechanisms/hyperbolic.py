"""Attention by distance on a manifold."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import as_dropout
from attnbridge.manifolds import HyperbolicSpace
from attnbridge.mechanisms.base import Batch, RegisteredAttention, require_finite_rows
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, positive
from attnbridge.metric import MAPS, Keys, Metric
from attnbridge.validation import as_bool, as_choice


def _scale(options: Options) -> float:
    return float((-options["curvature"]) ** -0.5 / options["temperature"])


def _logits(query: npt.NDArray[Any], factor: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    kernels.poincare(query, factor, keys.data, keys.scale, ids, _scale(options), out)


def _rerank(
    queries: npt.NDArray[Any],
    factor: npt.NDArray[np.float64],
    keys: Keys,
    ids: Ids,
    counts: Ids,
    options: Options,
    positions: Ids,
    logits: Logits,
    weights: Logits,
) -> None:
    scale = _scale(options)
    kernels.rerank_poincare(queries, factor, keys.data, keys.scale, ids, counts, scale, positions, logits, weights)


POINCARE = AttentionType(
    name="poincare",
    complexity="O(n^2)",
    best_for="hierarchies (embeddings of trees)",
    pairwise=True,
    options={
        # The logit is -distance / temperature.
        "temperature": Option(1.0, positive),
        "curvature": Option(-1.0, lambda value, name: HyperbolicSpace(value).curvature),
        # What vectors are: points of the ball, or tangent vectors at its origin.
        "map": Option("ball", lambda value, name: as_choice(value, name, MAPS)),
    },
    logits=_logits,
    mechanism=lambda options: HyperbolicAttention(**options),
    rerank=_rerank,
    build_space="l2",
    metric=lambda options: Metric("poincare", options["curvature"], options["map"]),
    largest_logit=0.0,
    aliases=("hyperbolic",),
)


class HyperbolicAttention(RegisteredAttention):
    """softmax(-d_c(q, k) / temperature + mask) V, d_c the distance in the Poincare ball.

    Parameters
    ----------
    curvature : float, default -1.0
    temperature : float, default 1.0
    map : {"ball", "expmap0"}, default "ball"
        Whether queries and keys are points of the ball, or tangent vectors at its origin.
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        Every call is causal.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Gulcehre et al. 2019, Hyperbolic Attention Networks, equation 2.

    Examples
    --------
    >>> import attnbridge as ab
    >>> attention = ab.HyperbolicAttention()
    >>> attention.weights([0.0, 0.0], [[0.5, 0.0], [0.0, 0.9]]).round(3)
    array([0.864, 0.136], dtype=float32)
    """

    name: ClassVar[str] = "poincare"
    row: ClassVar[AttentionType] = POINCARE

    def __init__(
        self,
        curvature: float = -1.0,
        *,
        temperature: float = 1.0,
        map: str = "ball",
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        self.space = HyperbolicSpace(curvature)
        self.temperature = positive(temperature, "temperature")
        self.map = as_choice(map, "map", MAPS)
        self.dropout = as_dropout(dropout)
        self.causal = as_bool(causal, "causal")

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        return {
            **self._options(),
            "dropout": self.dropout,
            "causal": self.causal,
        }

    def _options(self) -> Mapping[str, Any]:
        return {"curvature": self.space.curvature, "temperature": self.temperature, "map": self.map}

    def _logits(self, batch: Batch) -> Logits:
        require_finite_rows(batch.key, batch.names[1])
        options = self._options()
        metric = self.row.metric(options)  # type: ignore[misc]
        points = [metric.points(rows) for rows in batch.key]
        keys = [Keys(rows, *metric.row_terms(rows, batch.names[1])) for rows in points]
        queries = [metric.prepare(metric.points(rows), batch.names[0]) for rows in batch.query]
        out = np.empty(batch.shape)
        for problem, (q, k, _) in enumerate(batch.which):
            for i, (query, factor) in enumerate(zip(*queries[q], strict=True)):
                self.row.logits(query, factor, keys[k], None, options, out[problem, i])
        return out
