"""Attention by distance on a manifold."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.manifolds import HyperbolicSpace
from attnbridge.mechanisms.base import Batch, require_finite_rows
from attnbridge.mechanisms.geometric import GeometricAttention
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, of_outputs, positive
from attnbridge.metric import MAPS, Keys, Metric, squares
from attnbridge.validation import Float, as_choice

VALUES = ("euclidean", "manifold")


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
        # How values are averaged; logits and weights are the same either way.
        "values": Option("euclidean", lambda value, name: as_choice(value, name, VALUES)),
    },
    logits=_logits,
    mechanism=lambda options: HyperbolicAttention(**options),
    rerank=_rerank,
    build_space="l2",
    metric=lambda options: Metric("poincare", options["curvature"], options["map"]),
    largest_logit=0.0,
    aliases=("hyperbolic",),
    require_fit=of_outputs("values", "euclidean"),
)


class HyperbolicAttention(GeometricAttention):
    """softmax(-d_c(q, k) / temperature + mask) V, d_c the distance in the Poincare ball.

    Parameters
    ----------
    curvature : float, default -1.0
        -1e6 to -1e-6.
    temperature : float, default 1.0
    map : {"ball", "expmap0"}, default "ball"
        Whether queries, keys, and values on the manifold are points of the ball, or tangent vectors at its origin.
    values : {"euclidean", "manifold"}, default "euclidean"
        Whether values are any vectors, and the output is their weighted mean; or points, given as `map` says, and the
        output is their Einstein midpoint under the weights, given likewise (the origin where all weights are 0).
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        Every call is causal.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Gulcehre et al. 2019, Hyperbolic Attention Networks, equations 2 (weights) and 4 (midpoint); Ungar 2008, A
    Gyrovector Space Approach to Hyperbolic Geometry.

    Examples
    --------
    >>> import attnbridge as ab
    >>> attention = ab.HyperbolicAttention(values="manifold")
    >>> attention.weights([0.0, 0.0], [[0.5, 0.0], [0.0, 0.9]]).round(3)
    array([0.864, 0.136], dtype=float32)
    >>> attention.forward([0.4, 0.0], [[0.0, 0.0], [0.8, 0.0]], [[0.0], [0.8]]).output.round(3)
    array([0.422], dtype=float32)
    """

    name: ClassVar[str] = "poincare"
    row: ClassVar[AttentionType] = POINCARE
    space: HyperbolicSpace

    def __init__(
        self,
        curvature: float = -1.0,
        *,
        temperature: float = 1.0,
        map: str = "ball",
        values: str = "euclidean",
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__(HyperbolicSpace(curvature), temperature=temperature, dropout=dropout, causal=causal)
        self.map = as_choice(map, "map", MAPS)
        self.values = as_choice(values, "values", VALUES)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        return {
            **self._options(),
            "dropout": self.dropout,
            "causal": self.causal,
        }

    def _options(self) -> Mapping[str, Any]:
        return {
            "curvature": self.space.curvature,
            "temperature": self.temperature,
            "map": self.map,
            "values": self.values,
        }

    @property
    def _metric(self) -> Metric:
        return Metric("poincare", self.space.curvature, self.map)

    def _logits(self, batch: Batch) -> Logits:
        """Return what the registry's row gives, to the bit."""
        require_finite_rows(batch.key, batch.names[1])
        options, metric = self._options(), self._metric
        points = [metric.points(rows) for rows in batch.key]
        keys = [Keys(rows, *metric.row_terms(rows, batch.names[1])) for rows in points]
        queries = [metric.prepare(metric.points(rows), batch.names[0]) for rows in batch.query]
        out = np.empty(batch.shape)
        for problem, (q, k, _) in enumerate(batch.which):
            for i, (query, factor) in enumerate(zip(*queries[q], strict=True)):
                self.row.logits(query, factor, keys[k], None, options, out[problem, i])
        if self.radius is not None:
            out[out * -self.temperature > self.radius] = -np.inf
        return out

    def _outputs(self, batch: Batch, weights: Logits) -> Float:
        if self.values == "euclidean":
            return super()._outputs(batch, weights)
        assert batch.value is not None
        require_finite_rows(batch.value, batch.names[2])
        metric = self._metric
        points = [metric.points(rows) for rows in batch.value]
        factors = [2.0 / self.space.margins(squares(rows), batch.names[2]) for rows in points]
        sums = np.empty((*weights.shape[:2], batch.value.shape[-1]))
        moments = np.empty(weights.shape[:2])
        for problem, (rows, number) in enumerate(zip(weights, batch.which[:, 2], strict=True)):
            np.dot(rows, factors[number] - 1.0, out=moments[problem])
            for i, row in enumerate(rows):
                kernels.weighted_sum(row, points[number], factors[number], None, sums[problem, i])
        midpoints = self.space._cast(self.space.midpoint(weights.sum(axis=-1), moments, sums), batch.value.dtype, None)
        return metric.given(midpoints)
