"""Hyperbolic space as a ball of coordinates, in which trees fit without crowding."""

from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidInputError
from attnbridge.validation import as_floats, as_number, require_finite

Float = npt.NDArray[np.floating[Any]]

# 1 - c |x|^2 of the outermost points: nearer to the boundary, the rounding of the coordinates is all that is left.
MARGIN = 1e-9

# The longest tangent vector, times sqrt(c), whose image float32 can still tell from the boundary.
LONGEST = 8.0


class HyperbolicSpace:
    """The Poincare ball of a curvature K < 0: points x with c |x|^2 < 1, c = -K.

    Parameters
    ----------
    curvature : float, default -1.0
        -1e6 to -1e-6.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Nickel and Kiela 2017, Poincare Embeddings for Learning Hierarchical Representations; Ganea et al. 2018,
    Hyperbolic Neural Networks.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.HyperbolicSpace().distance([0.0, 0.0], [[0.5, 0.0], [0.0, 0.9]]).round(4)
    array([1.0986, 2.9444])
    """

    def __init__(self, curvature: float = -1.0) -> None:
        self.curvature = as_number(curvature, "curvature", least=-1e6, most=-1e-6)

    @property
    def c(self) -> float:
        """Minus the curvature."""
        return -self.curvature

    @property
    def radius(self) -> float:
        """The ball's radius, 1 / sqrt(c)."""
        return float(self.c**-0.5)

    def __repr__(self) -> str:
        return f"HyperbolicSpace(curvature={self.curvature!r})"

    def margins(self, squares: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
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

    def distance(self, u: npt.ArrayLike, v: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the distances of points, 2 / sqrt(c) asinh(sqrt(c |u - v|^2 / ((1 - c |u|^2) (1 - c |v|^2)))).

        Nickel and Kiela 2017, equation 1, in a form that keeps its digits for near points.

        Parameters
        ----------
        u, v : array_like, (d,) or (n, d)
            A single point goes with every row.

        Returns
        -------
        ndarray of float64, () or (n,)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> float(ab.HyperbolicSpace().distance([0.0], [0.5]).round(6))
        1.098612
        """
        a, b = _points(u, "u").astype(np.float64), _points(v, "v").astype(np.float64)
        try:
            gap = a - b
            if a.shape[-1] != b.shape[-1]:
                raise ValueError
        except ValueError:
            raise DimensionMismatchError(
                f"u and v must have rows of one shape, got {a.shape} and {b.shape}; a single point goes with every row"
            ) from None
        factors = self.margins(_squares(a), "u") * self.margins(_squares(b), "v")
        return np.asarray(2.0 * self.radius * np.arcsinh(np.sqrt(self.c * _squares(gap) / factors)))

    def exp_map0(self, vectors: npt.ArrayLike) -> Float:
        """Return the points that tangent vectors at the origin lead to: tanh(sqrt(c) |v|) v / (sqrt(c) |v|).

        Ganea et al. 2018, lemma 2. The point of v lies at distance 2 |v| from the origin.

        Parameters
        ----------
        vectors : array_like, (d,) or (n, d)
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
        v = _points(vectors, "vectors")
        length = np.sqrt(_squares(v.astype(np.float64))) / self.radius
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
        points : array_like, (d,) or (n, d)

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
        x = _points(points, "points")
        squares = _squares(x.astype(np.float64))
        self.margins(squares, "points")
        length = np.sqrt(squares) / self.radius
        factor = np.divide(np.arctanh(length), length, out=np.ones_like(length), where=length > 0.0)
        return np.asarray((x * factor[..., None]).astype(x.dtype))

    def project(self, points: npt.ArrayLike, margin: float = 1e-5) -> Float:
        """Return points with those pulled in along their radius that lie beyond (1 - margin) / sqrt(c).

        Nickel and Kiela 2017, section 3.

        Parameters
        ----------
        points : array_like, (d,) or (n, d)
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
        x = _points(points, "points")
        most = (1.0 - as_number(margin, "margin", least=1e-6, most=0.5)) * self.radius
        length = np.sqrt(_squares(x.astype(np.float64)))
        factor = np.divide(most, length, out=np.ones_like(length), where=length > most)
        return np.asarray((x * factor[..., None]).astype(x.dtype))


def _points(value: Any, name: str) -> Float:
    """Return one point (d,) or rows of them, finite."""
    array = as_floats(value, name, keep_float64=True)
    if array.ndim not in (1, 2) or array.shape[-1] == 0:
        raise DimensionMismatchError(f"{name} must be (d,) or (n, d), d >= 1, got shape {array.shape}")
    require_finite(array, name)
    return array


def _squares(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray((x * x).sum(axis=-1))
