"""The sphere: directions, and whatever closes on itself."""

from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidInputError, NumericalInstabilityError
from attnbridge.manifolds.base import Double, Float, Manifold, divided, gap_squares, lengths, squared_lengths
from attnbridge.validation import as_count, as_number
from attnbridge.workspace import workspace

# By how much of the radius a point may be off the sphere, and of its own length a tangent vector off the tangent plane.
TOLERANCE = 1e-5

# Points nearer than this angle to being opposite have no shortest way that their coordinates could tell.
OPPOSITE = 1e-6


class SphericalSpace(Manifold):
    """The sphere of a radius r about the origin: points x with abs(x) = r, of curvature 1 / r^2.

    With t = d(x, y) / r, the angle between two points::

        d(x, y)      = 2 r atan2(abs(x - y), abs(x + y))       r acos(x . y / r^2), with all its digits
        <u, v>_x     = u . v
        exp_x(v)     = cos(abs(v) / r) x + r sin(abs(v) / r) v / abs(v)
        log_x(y)     = d(x, y) w / abs(w),  w = y - (x . y / r^2) x
        mean         = the Frechet mean: the m with sum_i w_i log_m(x_i) = 0

    Parameters
    ----------
    radius : float, default 1.0
        1e-3 to 1e3.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Skopek et al. 2020, Mixed-curvature Variational Autoencoders, section 2; Kahan 2006, How Futile are Mindless
    Assessments of Roundoff, section 12 (the angle); Karcher 1977, Riemannian Center of Mass, and Afsari 2011,
    Riemannian L^p center of mass (the mean).

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.SphericalSpace(2.0).distance([2.0, 0.0], [[0.0, 2.0], [-2.0, 0.0]]).round(4)
    array([3.1416, 6.2832])
    """

    def __init__(self, radius: float = 1.0) -> None:
        self.radius = as_number(radius, "radius", least=1e-3, most=1e3)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal space, and its name."""
        return {"name": "spherical", "radius": self.radius}

    def mean(
        self,
        points: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        *,
        tolerance: float = 1e-12,
        max_iterations: int = 1000,
    ) -> Float:
        """Return the weighted Frechet means of points: m <- exp_m(mean of log_m(x_i)), from their projected mean.

        Karcher 1977. Of points within an open half sphere it is the one point of least weighted squared distance
        (Afsari 2011, theorem 2.1); of points spread wider it is one of locally least.

        Parameters
        ----------
        points : array_like, (..., n, d)
        weights : array_like, (..., n), optional
            At least 0, not all of them 0; need not sum to 1. By default all alike.
        tolerance : float, default 1e-12
            Length of the last step, in radii.
        max_iterations : int, default 1000

        Returns
        -------
        ndarray, (..., d)

        Raises
        ------
        InvalidInputError
            Points that cancel, as opposite ones do: no point is nearer to them than others.
        NumericalInstabilityError
            The tolerance is not reached.
        DimensionMismatchError, InvalidConfigError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SphericalSpace().mean([[1.0, 0.0], [0.0, 1.0]]).round(4)
        array([0.7071, 0.7071], dtype=float32)
        """
        x, w, dtype = self._weighted(points, weights)
        small, most = as_number(tolerance, "tolerance", above=0.0), as_count(max_iterations, "max_iterations")
        return self._frechet(x, w, small, most).astype(dtype)

    def _check(self, points: Double, name: str) -> None:
        if points.shape[-1] < 2:
            raise DimensionMismatchError(f"{name} must have at least 2 coordinates on a sphere, got {points.shape[-1]}")
        length = lengths(points)
        off = np.flatnonzero(~(np.abs(length - self.radius) <= TOLERANCE * self.radius))
        if len(off):
            raise InvalidInputError(
                f"{name} must lie on the sphere of radius {self.radius:g} (to {TOLERANCE:g} of it): row {off[0]} has "
                f"length {length.flat[off[0]]:.9g}; SphericalSpace.project moves points onto it"
            )

    def _check_tangent(self, x: Double, v: Double, name: str) -> None:
        tilt = np.abs((divided(v, lengths(v)[..., None]) * x).sum(axis=-1)) / self.radius
        off = np.flatnonzero(~(tilt <= TOLERANCE))
        if len(off):
            raise InvalidInputError(
                f"{name} must be tangent to the sphere (to {TOLERANCE:g} of its length): row {off[0]} has "
                f"{tilt.flat[off[0]]:.3g} of its length along the point; SphericalSpace.project_tangent takes that off"
            )

    def _unit(self, points: Double) -> Double:
        return np.asarray(points / lengths(points)[..., None])

    def _distance(self, a: Double, b: Double) -> Double:
        a, b = self._unit(a), self._unit(b)
        return np.asarray(2.0 * self.radius * np.arctan2(lengths(a - b), lengths(a + b)))

    def _pairwise(self, a: Double, b: Double, out: Double) -> Double:
        a, b = self._unit(a), self._unit(b)
        with workspace(out.shape) as other:
            np.sqrt(gap_squares(-a, b, other), out=other)
            np.arctan2(np.sqrt(gap_squares(a, b, out), out=out), other, out=out)
        return np.multiply(out, 2.0 * self.radius, out=out)

    def _inner_product(self, x: Double, u: Double, v: Double) -> Double:
        return np.asarray((u * v).sum(axis=-1))

    def _exp_map(self, x: Double, v: Double) -> Double:
        length = lengths(v)[..., None]
        angle = length / self.radius
        return self._project(np.cos(angle) * x + self.radius * np.sin(angle) * divided(v, length))

    def _log_map(self, x: Double, y: Double) -> Double:
        opposite = np.flatnonzero(lengths(self._unit(x) + self._unit(y)) <= OPPOSITE)
        if len(opposite):
            raise InvalidInputError(
                f"x and y must not be opposite points: row {opposite[0]} is; all ways between them are equally short"
            )
        return self._way(x, y)

    def _way(self, x: Double, y: Double) -> Double:
        a, b = self._unit(x), self._unit(y)
        gap = b - a
        way = gap - (a * gap).sum(axis=-1, keepdims=True) * a
        return np.asarray(self._distance(x, y)[..., None] * divided(way, lengths(way)[..., None]))

    def _project(self, points: Double) -> Double:
        length = lengths(points)
        zero = np.flatnonzero(length == 0.0)
        if len(zero):
            raise InvalidInputError(
                f"points must not be zero vectors: row {zero[0]} has no direction in which to move it onto the sphere"
            )
        return np.asarray(points * (self.radius / length)[..., None])

    def _project_tangent(self, x: Double, v: Double) -> Double:
        unit = self._unit(x)
        return np.asarray(v - (v * unit).sum(axis=-1, keepdims=True) * unit)

    def _mean(self, x: Double, w: Double) -> Double:
        return self._frechet(x, w, 1e-12, 1000)

    def _frechet(self, x: Double, w: Double, tolerance: float, max_iterations: int) -> Double:
        share = w / w.sum(axis=-1, keepdims=True)
        centre = (share[..., None] * self._unit(x)).sum(axis=-2)
        if (lengths(centre) <= OPPOSITE).any():
            raise InvalidInputError(
                "points must not cancel, as opposite ones do: no point of the sphere is their mean; weights can favour "
                "some of them"
            )
        centre = self._project(centre)
        step = np.inf
        for _ in range(max_iterations):
            move = (share[..., None] * self._way(centre[..., None, :], x)).sum(axis=-2)
            centre = self._exp_map(centre, self._project_tangent(centre, move))
            step = float(np.sqrt(squared_lengths(move).max(initial=0.0))) / self.radius
            if step <= max(tolerance, 16.0 * np.finfo(float).eps):
                return centre
        raise NumericalInstabilityError(
            f"the Frechet mean must be reached to {tolerance:g} within max_iterations = {max_iterations} steps, the "
            f"last of which was {step:.3g}; raise max_iterations or tolerance"
        )
