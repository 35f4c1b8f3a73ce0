"""Hyperbolic space as a ball of coordinates, in which trees fit without crowding."""

from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError, NumericalInstabilityError
from attnbridge.manifolds.base import Double, Float, Manifold, coordinates, divided, lengths, squared_lengths
from attnbridge.validation import as_choice, as_count, as_number

# 1 - c |x|^2 of the outermost points: nearer to the boundary, the rounding of the coordinates is all that is left.
MARGIN = 1e-9

# The longest tangent vector, times sqrt(c), whose image float32 can still tell from the boundary.
LONGEST = 8.0

# 1 - c |x|^2 of points nearer to the boundary than a dtype can tell: that of 8 / sqrt(c) long tangent vectors.
_TOO_NEAR = {np.dtype(np.float32): float(np.cosh(LONGEST) ** -2), np.dtype(np.float64): MARGIN}

MEANS = ("einstein", "frechet")


class HyperbolicSpace(Manifold):
    """The Poincare ball of a curvature K < 0: points x with c |x|^2 < 1, c = -K.

    With the margin m(x) = 1 - c |x|^2 and the Moebius addition (+) of `mobius_add`::

        d(x, y)   = 2 / sqrt(c) asinh(sqrt(c |x - y|^2 / (m(x) m(y))))
        <u, v>_x  = (2 / m(x))^2 u . v
        exp_x(v)  = x (+) tanh(sqrt(c) |v| / m(x)) v / (sqrt(c) |v|)
        log_x(y)  = m(x) d(x, y) / 2  w / |w|,  w = -x (+) y

    All vectors are tangent vectors. Products of margins stand where the usual forms subtract products of coordinates,
    so that no digits are lost near the boundary.

    Parameters
    ----------
    curvature : float, default -1.0
        -1e6 to -1e-6.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Nickel and Kiela 2017, Poincare Embeddings for Learning Hierarchical Representations, equation 1 (the distance, with
    acosh(1 + 2 s) = 2 asinh(sqrt(s))); Ganea et al. 2018, Hyperbolic Neural Networks, equations 2 and 3 and lemma 2;
    Ungar 2008, A Gyrovector Space Approach to Hyperbolic Geometry.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.HyperbolicSpace().distance([0.0, 0.0], [[0.5, 0.0], [0.0, 0.9]]).round(4)
    array([1.0986, 2.9444])
    """

    def __init__(self, curvature: float = -1.0) -> None:
        self.curvature = as_number(
            curvature, "curvature", least=-1e6, most=-1e-6, remedy="curvature is negative: -1.0 is the usual one"
        )

    @property
    def c(self) -> float:
        """Minus the curvature."""
        return -self.curvature

    @property
    def radius(self) -> float:
        """The ball's radius, 1 / sqrt(c)."""
        return float(self.c**-0.5)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal space, and its name."""
        return {"name": "hyperbolic", "curvature": self.curvature}

    def margins(self, squares: Double, name: str) -> npt.NDArray[np.float64]:
        """Return 1 - c |x|^2 of each point, the outermost of which are refused.

        Parameters
        ----------
        squares : ndarray of float64
            |x|^2.
        name : str
            What an error calls the points.

        Returns
        -------
        ndarray of float64

        Raises
        ------
        InvalidInputError
            A point on the boundary or beyond; the row is named.
        """
        margins = 1.0 - self.c * squares
        outside = np.flatnonzero(~(margins > MARGIN))
        if len(outside):
            row = outside[0]
            raise InvalidInputError(
                f"{name} must lie inside the ball of radius {self.radius:g} (curvature {self.curvature:g}): row {row} "
                f"has length {np.sqrt(squares.flat[row]):.9g}; map='expmap0' takes tangent "
                "vectors into it, HyperbolicSpace.project moves points back inside"
            )
        return np.asarray(margins, np.float64)

    def exp_map0(self, vectors: npt.ArrayLike) -> Float:
        """Return the points that tangent vectors at the origin lead to: tanh(sqrt(c) |v|) v / (sqrt(c) |v|).

        Ganea et al. 2018, lemma 2. The point of v lies at distance 2 |v| from the origin.

        Parameters
        ----------
        vectors : array_like, (..., d)
            At most 8 / sqrt(c) long.

        Returns
        -------
        ndarray, the shape of `vectors`
            float32, or float64 where `vectors` is.

        Raises
        ------
        InvalidInputError
            A vector so long that float32 cannot tell its point from the boundary; the row is named.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.HyperbolicSpace().exp_map0([3.0, 4.0]).round(4)
        array([0.5999, 0.7999], dtype=float32)
        """
        v = coordinates(vectors, "vectors")
        length = lengths(v.astype(np.float64)) / self.radius
        beyond = np.flatnonzero(length > LONGEST)
        if len(beyond):
            raise InvalidInputError(
                f"vectors must be at most {LONGEST * self.radius:g} long, or their points are too near the boundary: "
                f"row {beyond[0]} has length {length.flat[beyond[0]] * self.radius:g}; scale the vectors down"
            )
        factor = np.divide(np.tanh(length), length, out=np.ones_like(length), where=length > 0.0)
        return np.asarray((v * factor[..., None]).astype(v.dtype))

    def log_map0(self, points: npt.ArrayLike) -> Float:
        """Return the tangent vectors at the origin that lead to points: artanh(sqrt(c) |x|) x / (sqrt(c) |x|).

        Ganea et al. 2018, lemma 2; the inverse of `exp_map0`.

        Parameters
        ----------
        points : array_like, (..., d)

        Returns
        -------
        ndarray, the shape of `points`
            float32, or float64 where `points` is.

        Raises
        ------
        InvalidInputError
            A point outside the ball.

        Examples
        --------
        >>> import attnbridge as ab
        >>> space = ab.HyperbolicSpace()
        >>> space.log_map0(space.exp_map0([0.3, 0.4])).round(4)
        array([0.3, 0.4], dtype=float32)
        """
        x = coordinates(points, "points")
        squares = squared_lengths(x.astype(np.float64))
        self.margins(squares, "points")
        length = np.sqrt(squares) / self.radius
        factor = np.divide(np.arctanh(length), length, out=np.ones_like(length), where=length > 0.0)
        return np.asarray((x * factor[..., None]).astype(x.dtype))

    def project(self, points: npt.ArrayLike, margin: float = 1e-5) -> Float:
        """Return points with those pulled in along their radius that lie beyond (1 - margin) / sqrt(c).

        Nickel and Kiela 2017, section 3.

        Parameters
        ----------
        points : array_like, (..., d)
        margin : float, default 1e-5
            Share of the radius to stay away from the boundary, 1e-6 to 0.5.

        Returns
        -------
        ndarray, the shape of `points`
            float32, or float64 where `points` is.

        Raises
        ------
        InvalidInputError, InvalidConfigError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.HyperbolicSpace().project([[3.0, 4.0], [0.3, 0.4]], margin=0.1).round(3)
        array([[0.54, 0.72],
               [0.3 , 0.4 ]], dtype=float32)
        """
        x = coordinates(points, "points")
        share = as_number(margin, "margin", least=1e-6, most=0.5)
        return np.asarray(self._pulled(x.astype(np.float64), share).astype(x.dtype))

    def mobius_add(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Float:
        """Return Moebius sums of points, x (+) y: y carried along by the translation that takes the origin to x.

        Ganea et al. 2018, equation 2, as (G x + m(x) (x + y)) / (G + m(x) m(y)) with G = c |x + y|^2 and the margins
        m(x) = 1 - c |x|^2, in which nothing cancels. It keeps distances: d(x (+) y, x (+) z) = d(y, z).

        Parameters
        ----------
        x, y : array_like, (..., d)
            Points; a single one goes with every row.

        Returns
        -------
        ndarray, (..., d)
            float32, or float64 where `x` or `y` is.

        Raises
        ------
        DimensionMismatchError
        InvalidInputError
            A point outside the ball, or a sum nearer to its boundary than the dtype can tell.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.HyperbolicSpace().mobius_add([0.5, 0.0], [0.5, 0.0])
        array([0.8, 0. ], dtype=float32)
        """
        a, b, dtype = self._pair(x, y, "x", "y")
        return self._cast(self._added(a, b, self._margin(b)), dtype, "y")

    def mean(
        self,
        points: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        *,
        method: str = "einstein",
        tolerance: float = 1e-12,
        max_iterations: int = 1000,
    ) -> Float:
        """Return the weighted means of points.

        The Einstein midpoint, in Klein coordinates k = 2 x / (1 + c |x|^2) the mean sum_i w_i g_i k_i / sum_i w_i g_i
        under the Lorentz factors g_i = 1 / sqrt(1 - c |k_i|^2), has a closed form (Ungar 2008; Gulcehre et al. 2019,
        equation 4). The Frechet mean, the point of least sum_i w_i d(m, x_i)^2, is found as the Einstein midpoint under
        the weights w_i s_i / sinh(s_i), s_i = sqrt(c) d(m, x_i), again and again: as acosh^2 is concave, that never
        leads away from it. Of two points alike in weight, both are the middle of the way between them.

        Parameters
        ----------
        points : array_like, (..., n, d)
        weights : array_like, (..., n), optional
            At least 0, not all of them 0; need not sum to 1. By default all alike.
        method : {"einstein", "frechet"}, default "einstein"
        tolerance : float, default 1e-12
            Of the Frechet mean: length of the last step, in units of 1 / sqrt(c) (or what rounding makes of it near the
            boundary).
        max_iterations : int, default 1000
            Of the Frechet mean.

        Returns
        -------
        ndarray, (..., d)

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError
        NumericalInstabilityError
            The tolerance is not reached.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.HyperbolicSpace().mean([[0.0, 0.0], [0.8, 0.0]]).round(4)
        array([0.5, 0. ], dtype=float32)
        """
        x, w, dtype = self._weighted(points, weights)
        small, most = as_number(tolerance, "tolerance", above=0.0), as_count(max_iterations, "max_iterations")
        if as_choice(method, "method", MEANS) == "einstein":
            return self._cast(self._mean(x, w), dtype, None)
        return self._cast(self._frechet(x, w, small, most), dtype, None)

    def midpoint(self, total: Double, moment: Double, vector: Double) -> Double:
        """Return Einstein midpoints of sums over points of factors f_i = 2 / (1 - c |x_i|^2) under weights.

        Parameters
        ----------
        total : ndarray of float64, (...)
            sum_i w_i
        moment : ndarray of float64, (...)
            sum_i w_i (f_i - 1)
        vector : ndarray of float64, (..., d)
            sum_i w_i f_i x_i

        Returns
        -------
        ndarray of float64, (..., d)
            The origin where all weights are 0.
        """
        # Lorentz: moment^2 - c |vector|^2 = sum_ij w_i w_j cosh(sqrt(c) d_ij), at least total^2.
        norm = np.sqrt(np.maximum(moment**2 - self.c * squared_lengths(vector), total**2))
        return divided(vector, (moment + norm)[..., None])

    # ---- the formulas, on checked float64 arrays

    def _margin(self, x: Double) -> Double:
        return np.asarray(1.0 - self.c * squared_lengths(x))

    def _check(self, points: Double, name: str) -> None:
        self.margins(squared_lengths(points), name)

    def _check_tangent(self, x: Double, v: Double, name: str) -> None:
        """Any vector is tangent."""

    def _cast(self, points: Double, dtype: Any, name: str | None) -> Float:
        if name is not None:
            near = np.flatnonzero(~(self._margin(points) > _TOO_NEAR[np.dtype(dtype)]))
            if len(near):
                raise InvalidInputError(
                    f"{name} must lead to points that {np.dtype(dtype).name} can tell from the boundary: row {near[0]} "
                    "does not; scale it down, or pass float64 arrays"
                )
            return np.asarray(points.astype(dtype))
        out = points.astype(dtype)
        outside = ~(self._margin(out.astype(np.float64)) > MARGIN)  # rounded outward
        return np.asarray(np.where(outside[..., None], (points * (1.0 - 2.0**-22)).astype(dtype), out))

    def _distance(self, a: Double, b: Double) -> Double:
        ratio = self.c * squared_lengths(a - b) / (self._margin(a) * self._margin(b))
        return np.asarray(2.0 * self.radius * np.arcsinh(np.sqrt(ratio)))

    def _pairwise(self, a: Double, b: Double, out: Double) -> Double:
        factors, scales = 1.0 / self._margin(a), self.c / self._margin(b)
        for point, factor, row in zip(a, factors, out, strict=True):
            kernels.poincare(point, factor, b, scales, None, -self.radius, row)
        return out

    def _inner_product(self, x: Double, u: Double, v: Double) -> Double:
        return np.asarray((2.0 / self._margin(x)) ** 2 * (u * v).sum(axis=-1))

    def _added(self, x: Double, y: Double, margin: Double) -> Double:
        """Return x (+) y, with the margin of y."""
        both, own = x + y, self._margin(x)[..., None]
        gap = self.c * squared_lengths(both)[..., None]
        return np.asarray((gap * x + own * both) / (gap + own * margin[..., None]))

    def _exp_map(self, x: Double, v: Double) -> Double:
        length, own = lengths(v), self._margin(x)
        angle = length / (own * self.radius)
        y = (self.radius * np.tanh(angle))[..., None] * divided(v, length[..., None])
        return self._added(x, y, np.cosh(np.minimum(angle, 300.0)) ** -2)

    def _log_map(self, x: Double, y: Double) -> Double:
        gap, own = y - x, self._margin(x)
        way = own[..., None] * gap - self.c * squared_lengths(gap)[..., None] * x  # -x (+) y but for its length
        return np.asarray((0.5 * own * self._distance(x, y))[..., None] * divided(way, lengths(way)[..., None]))

    def _project(self, points: Double) -> Double:
        return self._pulled(points, 1e-5)

    def _pulled(self, points: Double, margin: float) -> Double:
        most, length = (1.0 - margin) * self.radius, lengths(points)
        factor = np.divide(most, length, out=np.ones_like(length), where=length > most)
        return np.asarray(points * factor[..., None])

    def _project_tangent(self, x: Double, v: Double) -> Double:
        return v

    def _mean(self, x: Double, w: Double) -> Double:
        factors = 2.0 / self._margin(x)
        vector = ((w * factors)[..., None] * x).sum(axis=-2)
        return self.midpoint(w.sum(axis=-1), (w * (factors - 1.0)).sum(axis=-1), vector)

    def _frechet(self, x: Double, w: Double, tolerance: float, max_iterations: int) -> Double:
        centre, step, unit = self._mean(x, w), np.asarray(np.inf), self.radius
        for _ in range(max_iterations):
            far = self._distance(centre[..., None, :], x) / unit
            before, centre = centre, self._mean(x, w * divided(far, np.sinh(far), 1.0))
            step = self._distance(before, centre) / unit
            rounding = 64.0 * np.finfo(float).eps / self._margin(centre)
            if (step <= np.maximum(tolerance, rounding)).all():
                return centre
        raise NumericalInstabilityError(
            f"the Frechet mean must be reached to {tolerance:g} within max_iterations = {max_iterations} steps, the "
            f"last of which was {step.max():.3g}; raise max_iterations or tolerance"
        )
