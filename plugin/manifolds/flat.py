"""Flat space, as a factor of products and to compare with."""

from typing import Any

import numpy as np

from attnbridge.manifolds.base import Double, Manifold, gap_squares, lengths


class EuclideanSpace(Manifold):
    """The space of all vectors (d,), where geodesics are straight lines and the mean is the arithmetic one.

    Examples
    --------
    >>> import attnbridge as ab
    >>> float(ab.EuclideanSpace().distance([0.0, 0.0], [3.0, 4.0]))
    5.0
    """

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal space, and its name."""
        return {"name": "euclidean"}

    def _check(self, points: Double, name: str) -> None:
        """Any vector is a point."""

    def _check_tangent(self, x: Double, v: Double, name: str) -> None:
        """Any vector is tangent."""

    def _distance(self, a: Double, b: Double) -> Double:
        return lengths(a - b)

    def _pairwise(self, a: Double, b: Double, out: Double) -> Double:
        return np.sqrt(gap_squares(a, b, out), out=out)

    def _inner_product(self, x: Double, u: Double, v: Double) -> Double:
        return np.asarray((u * v).sum(axis=-1))

    def _exp_map(self, x: Double, v: Double) -> Double:
        return x + v

    def _log_map(self, x: Double, y: Double) -> Double:
        return y - x

    def _project(self, points: Double) -> Double:
        return points

    def _project_tangent(self, x: Double, v: Double) -> Double:
        return v

    def _mean(self, x: Double, w: Double) -> Double:
        return np.asarray((w[..., None] * x).sum(axis=-2) / w.sum(axis=-1)[..., None])
