"""Attention by distance on a manifold."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import as_dim_of_model
from attnbridge.manifolds import HyperbolicSpace
from attnbridge.mechanisms.base import Batch, require_finite_rows
from attnbridge.mechanisms.geometric import GeometricAttention
from attnbridge.mechanisms.listed import ListedRow
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, of_outputs, optional, positive
from attnbridge.metric import MAPS, Keys, Metric, squares
from attnbridge.validation import Float, as_choice, as_count

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
    d_model : int, optional
        Queries and keys of another dimension are refused.
    max_seq_len : int, optional
        Longer sequences are refused.

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
        d_model: int | None = None,
        max_seq_len: int | None = None,
    ) -> None:
        super().__init__(HyperbolicSpace(curvature), temperature=temperature, dropout=dropout, causal=causal)
        self.map = as_choice(map, "map", MAPS)
        self.values = as_choice(values, "values", VALUES)
        self.d_model = optional(as_dim_of_model)(d_model, "d_model")
        self.max_seq_len = optional(as_count)(max_seq_len, "max_seq_len")

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        return {
            **self._options(),
            "dropout": self.dropout,
            "causal": self.causal,
            "d_model": self.d_model,
            "max_seq_len": self.max_seq_len,
        }

    def _options(self) -> Mapping[str, Any]:
        return {
            "curvature": self.space.curvature,
            "temperature": self.temperature,
            "map": self.map,
            "values": self.values,
        }

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        return self.row, {**self._options(), "values": "euclidean"}

    @property
    def _metric(self) -> Metric:
        return Metric("poincare", self.space.curvature, self.map)

    def _logits(self, batch: Batch) -> Logits:
        """Return what the registry's row gives, to the bit."""
        fill, out = self._pair_logits(batch), batch.new_logits()
        for problem, rows in enumerate(out):
            for i, row in enumerate(rows):
                fill(problem, i, None, row)
        return out

    def _pair_logits(self, batch: Batch) -> Callable[[int, int, Ids | None, Logits], None]:
        require_finite_rows(batch.key, batch.names[1])
        options, metric = self._options(), self._metric
        points = [metric.points(rows) for rows in batch.key]
        keys = [Keys(rows, *metric.row_terms(rows, batch.names[1])) for rows in points]
        queries = [metric.prepare(metric.points(rows), batch.names[0]) for rows in batch.query]

        def fill(problem: int, i: int, ids: Ids | None, out: Logits) -> None:
            q, k, _ = batch.which[problem]
            rows, factors = queries[q]
            self.row.logits(rows[i], factors[i], keys[k], ids, options, out)
            if self.radius is not None:
                out[out * -self.temperature > self.radius] = -np.inf

        return fill

    def _outputs(self, batch: Batch, weights: Logits) -> Float:
        if self.values == "euclidean":
            return super()._outputs(batch, weights)
        every = (ListedRow(p, i, None, row) for p, rows in enumerate(weights) for i, row in enumerate(rows))
        return self._midpoints(batch, every)

    def _listed_outputs(self, batch: Batch, rows: Iterator[ListedRow]) -> Float:
        return super()._listed_outputs(batch, rows) if self.values == "euclidean" else self._midpoints(batch, rows)

    def _midpoints(self, batch: Batch, rows: Iterator[ListedRow]) -> Float:
        """Return the Einstein midpoint of each query's values under its weights, (P, L, dv)."""
        assert batch.value is not None
        require_finite_rows(batch.value, batch.names[2])
        metric = self._metric
        points = [metric.points(values) for values in batch.value]
        factors = [2.0 / self.space.margins(squares(values), batch.names[2]) for values in points]
        sums = np.zeros((*batch.shape[:2], batch.value.shape[-1]))
        totals, moments = np.zeros(batch.shape[:2]), np.zeros(batch.shape[:2])
        for problem, i, ids, weights in rows:
            number = batch.which[problem, 2]
            own = factors[number] if ids is None else factors[number][ids]
            totals[problem, i], moments[problem, i] = weights.sum(), weights @ (own - 1.0)
            kernels.weighted_sum(weights, points[number], factors[number], ids, sums[problem, i])
        midpoints = self.space._cast(self.space.midpoint(totals, moments, sums), batch.value.dtype, None)
        return metric.given(midpoints)
