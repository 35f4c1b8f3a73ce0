"""The metrics of a vector index: how each turns stored rows and a query into similarities.

A similarity is higher for nearer rows and is what attention scales into a logit:

==========  =============================================  ================================
metric      similarity                                     distance (of the first three, hnswlib's)
==========  =============================================  ================================
cosine      q . x / (abs(q) abs(x))                        1 - similarity
ip          q . x                                          1 - similarity
l2          -abs(q - x)^2 / 2                              -2 similarity
poincare    -c abs(q - x)^2 / ((1 - c q.q) (1 - c x.x))    2 / sqrt(c) asinh(sqrt(-similarity))
==========  =============================================  ================================

All come from one kernel: (row_scale * q . x + row_bias + query_bias) * scale, for poincare
row_scale * query_bias * -abs(q - x)^2 * scale: near the boundary of the ball, a product would lose what tells points
apart.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.manifolds import Float, HyperbolicSpace
from attnbridge.validation import as_choice

FLAT_METRICS = ("cosine", "ip", "l2")
METRICS = (*FLAT_METRICS, "poincare")
MAPS = ("ball", "expmap0")

# The power of their lengths with which rows are linked under ip: of 0.5 to 1 the lowest at which, over rows without any
# structure, no more of the nearest are missed than with the lengths themselves.
_IP_LENGTHS = 0.85

# Rows shorter than this lose digits in float32 products; under cosine they count as zero vectors.
SMALLEST_NORM = 1e-30


class Keys(NamedTuple):
    """Stored rows as the kernels read them: (scale * row . query + bias), scale and bias None for 1 and 0."""

    data: npt.NDArray[Any]  # (n, d) float32, int8 or uint16 (bits of float16)
    scale: npt.NDArray[np.float64] | None = None  # (n,)
    bias: npt.NDArray[np.float64] | None = None  # (n,)


def squares(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the squared Euclidean norm of each row, accumulated in float64."""
    out = np.empty(len(rows), np.float64)
    kernels.row_squares(rows, out)
    return out


def norms(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the Euclidean norm of each row, accumulated in float64."""
    return np.sqrt(squares(rows))


class Metric:
    """How near rows are to a query.

    Parameters
    ----------
    name : {"cosine", "ip", "l2", "poincare"}
    curvature : float, optional
        Of poincare, -1.0 by default.
    map : {"ball", "expmap0"}, default "ball"
        Whether vectors given are points of the ball, or tangent vectors at its origin. Rows are points in any case.

    Attributes
    ----------
    build : str
        The metric of the graph that hnswlib builds.
    row_term : {"scale", "bias"} or None
        What `row_terms` returns.
    difference : True or None
        As the kernels take it.
    graph_differs : bool
        Whether the order in the space of `build` and `graph_rows` is not the metric's own.
    """

    def __init__(self, name: str, curvature: float | None = None, map: str = "ball") -> None:
        self.name = as_choice(name, "metric", METRICS)
        self.space: HyperbolicSpace | None = None
        if name == "poincare":
            self.space = HyperbolicSpace(-1.0 if curvature is None else curvature)
        elif curvature is not None:
            raise InvalidConfigError(f"curvature is of metric='poincare' only, got {curvature!r} with {name!r}")
        self.map = as_choice(map, "map", MAPS)
        self.build = "l2" if self.space else name
        self.row_term = {"cosine": "scale", "ip": None, "l2": "bias", "poincare": "scale"}[name]
        self.difference = True if self.space else None
        self.graph_differs = name in ("ip", "poincare")

    def default_scale(self, dim: int) -> float:
        """Return the bridge's logit scale: 20 under cosine, where 1/sqrt(d) would leave all weights alike."""
        return 20.0 if self.name == "cosine" else dim**-0.5

    def row_terms(
        self, rows: Float, name: str
    ) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
        """Return the rows' scale and bias for `Keys`; rows that the metric cannot take are refused by number."""
        if self.space is not None:
            return self.space.c / self.space.margins(squares(rows), name), None
        if self.name == "ip":
            return None, None
        if self.name == "l2":
            return None, -0.5 * squares(rows)
        length = norms(rows)
        self._refuse_zero(length, name)
        return 1.0 / length, None

    def prepare(self, queries: npt.NDArray[Any], name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Return queries (b, d) as the kernels want them, and a bias for each (under poincare a factor)."""
        if self.space is not None:
            return queries, 1.0 / self.space.margins(squares(queries), name)
        if self.name == "ip":
            return queries, np.zeros(len(queries))
        if self.name == "l2":
            return queries, -0.5 * squares(queries)
        length = norms(queries)
        self._refuse_zero(length, name)
        return (queries / length[:, None]).astype(np.float32), np.zeros(len(queries))

    def points(self, vectors: Float) -> Float:
        """Return vectors as they are stored and searched with."""
        return vectors if self.space is None or self.map == "ball" else self.space.exp_map0(vectors)

    def given(self, rows: Float) -> Float:
        """Return stored rows as they were given, but for rounding where they were mapped."""
        return rows if self.space is None or self.map == "ball" else self.space.log_map0(rows)

    def graph_rows(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what a graph is best built of that is walked under the similarity of the rows themselves.

        By the inner product all links lead to the longest rows, and a filter's rows among the short ones are missed;
        with lengths drawn together more of them are found, and the longest no less (tests/benchmarks/bench_spaces.py).
        """
        if self.name != "ip":
            return rows
        length = norms(rows)
        factor = np.where(length > 0.0, length, 1.0) ** (_IP_LENGTHS - 1.0)
        return (rows * factor[:, None]).astype(np.float32)

    def similarity(self, distance: float) -> float:
        """Return the similarity at a distance; none is reached where the distance cannot be."""
        if self.space is not None:
            return -(np.sinh(distance / (2.0 * self.space.radius)) ** 2) if distance >= 0.0 else np.inf
        return -0.5 * distance if self.name == "l2" else 1.0 - distance

    def distances(self, similarities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Return the distance for each similarity."""
        if self.space is not None:
            return np.asarray(2.0 * self.space.radius * np.arcsinh(np.sqrt(-similarities)), np.float32)
        distances = -2.0 * similarities if self.name == "l2" else 1.0 - similarities
        with np.errstate(over="ignore"):
            return distances.astype(np.float32)

    def _refuse_zero(self, length: npt.NDArray[np.float64], name: str) -> None:
        short = np.flatnonzero(length < SMALLEST_NORM)
        if len(short):
            raise InvalidInputError(
                f"{name} must not hold zero vectors under metric='cosine': row {short[0]} has norm "
                f"{length[short[0]]:g}; drop it, or use metric='ip' or 'l2'"
            )
