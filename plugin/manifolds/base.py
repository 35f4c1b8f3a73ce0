"""What all spaces can do, and the checks before it: each space adds its formulas, on checked float64 arrays."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, InvalidInputError, NumericalInstabilityError
from attnbridge.validation import as_floats, require_finite
from attnbridge.workspace import FEW_NUMBERS, workspace

Float = npt.NDArray[np.floating[Any]]
Double = npt.NDArray[np.float64]

# What overflows is refused as a result, by `_representable`.
QUIET: Any = {"over": "ignore", "invalid": "ignore"}


class Manifold(ABC):
    """A space of points given by coordinates (..., d): distances, geodesics from and to points, means.

    Shapes broadcast as numpy's do. All is computed in float64; points and tangent vectors come back as float32, or as
    float64 where an array of float64 was given, distances and inner products always as float64.

    Attributes
    ----------
    config : dict
        The arguments that make an equal space, and its name, JSON.

    References
    ----------
    Nickel and Kiela 2017, Poincare Embeddings for Learning Hierarchical Representations; Ganea et al. 2018, Hyperbolic
    Neural Networks; Skopek et al. 2020, Mixed-curvature Variational Autoencoders (all maps of the three curvatures).

    Examples
    --------
    >>> import attnbridge as ab
    >>> spaces = ab.HyperbolicSpace(), ab.SphericalSpace(), ab.EuclideanSpace()
    >>> all(isinstance(space, ab.Manifold) for space in spaces)
    True
    """

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal space, and its name."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.config.items() if name != "name")
        return f"{type(self).__name__}({settings})"

    def distance(self, u: npt.ArrayLike, v: npt.ArrayLike) -> Double:
        """Return the lengths of the shortest ways between points.

        Parameters
        ----------
        u, v : array_like, (..., d)
            Points; a single one goes with every row.

        Returns
        -------
        ndarray of float64, (...)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> float(ab.HyperbolicSpace().distance([0.0], [0.5]).round(6))
        1.098612
        """
        a, b, _ = self._pair(u, v, "u", "v")
        with np.errstate(**QUIET):
            return _representable(self._distance(a, b), np.float64)

    def pairwise_distances(self, u: npt.ArrayLike, v: npt.ArrayLike) -> Double:
        """Return the distance of each point to each of others, without an array of all their differences.

        Parameters
        ----------
        u : array_like, (L, d)
        v : array_like, (S, d)

        Returns
        -------
        ndarray of float64, (L, S)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.EuclideanSpace().pairwise_distances([[0.0], [1.0]], [[2.0], [3.0], [5.0]])
        array([[2., 3., 5.],
               [1., 2., 4.]])
        """
        first, second = coordinates(u, "u"), coordinates(v, "v")
        if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
            raise DimensionMismatchError(
                f"u and v must be rows (L, d) and (S, d), got shapes {first.shape} and {second.shape}"
            )
        a, b = first.astype(np.float64), second.astype(np.float64)
        self._check(a, "u")
        self._check(b, "v")
        return _representable(self._pairwise(a, b, np.empty((len(a), len(b)))), np.float64)

    def inner_product(self, x: npt.ArrayLike, u: npt.ArrayLike, v: npt.ArrayLike) -> Double:
        """Return the Riemannian inner products of tangent vectors at points.

        Parameters
        ----------
        x : array_like, (..., d)
            Points.
        u, v : array_like, (..., d)
            Tangent vectors at `x`.

        Returns
        -------
        ndarray of float64, (...)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.HyperbolicSpace().inner_product([0.0, 0.0], [1.0, 0.0], [[2.0, 0.0], [0.0, 3.0]])
        array([8., 0.])
        """
        a, b, _ = self._pair(x, u, "x", "u", tangent=True)
        a, c, _ = self._pair(x, v, "x", "v", tangent=True)
        _same_rows(b, c, "u", "v")
        with np.errstate(**QUIET):
            return _representable(self._inner_product(*np.broadcast_arrays(a, b, c)), np.float64)

    def exp_map(self, x: npt.ArrayLike, v: npt.ArrayLike) -> Float:
        """Return where geodesics lead that start at points in the direction and with the length of tangent vectors.

        Parameters
        ----------
        x : array_like, (..., d)
            Points.
        v : array_like, (..., d)
            Tangent vectors at `x`.

        Returns
        -------
        ndarray, (..., d)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import numpy as np, attnbridge as ab
        >>> ab.SphericalSpace().exp_map([1.0, 0.0], [0.0, np.pi / 3]).round(4)
        array([0.5  , 0.866], dtype=float32)
        """
        a, b, dtype = self._pair(x, v, "x", "v", tangent=True)
        with np.errstate(**QUIET):
            return self._cast(self._exp_map(a, b), dtype, "v")

    def log_map(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Float:
        """Return the tangent vectors at points that lead to others; the inverse of `exp_map`.

        Parameters
        ----------
        x, y : array_like, (..., d)
            Points.

        Returns
        -------
        ndarray, (..., d)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SphericalSpace().log_map([1.0, 0.0], [0.0, 1.0]).round(4)
        array([0.    , 1.5708], dtype=float32)
        """
        a, b, dtype = self._pair(x, y, "x", "y")
        with np.errstate(**QUIET):
            return _representable(self._log_map(a, b), dtype)

    def project(self, points: npt.ArrayLike) -> Float:
        """Return the nearest points of the space.

        Parameters
        ----------
        points : array_like, (..., d)

        Returns
        -------
        ndarray, (..., d)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SphericalSpace().project([3.0, 4.0]).round(4)
        array([0.6, 0.8], dtype=float32)
        """
        x = coordinates(points, "points")
        return self._project(x.astype(np.float64)).astype(x.dtype)

    def project_tangent(self, x: npt.ArrayLike, v: npt.ArrayLike) -> Float:
        """Return vectors without what is not tangent to the space at points.

        Parameters
        ----------
        x : array_like, (..., d)
            Points.
        v : array_like, (..., d)
            Vectors of any direction.

        Returns
        -------
        ndarray, (..., d)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.SphericalSpace().project_tangent([1.0, 0.0], [2.0, 3.0])
        array([0., 3.], dtype=float32)
        """
        a, b, dtype = self._pair(x, v, "x", "v", tangent=None)
        with np.errstate(**QUIET):
            return _representable(self._project_tangent(*np.broadcast_arrays(a, b)), dtype)

    def mean(self, points: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Float:
        """Return the weighted means of points.

        Parameters
        ----------
        points : array_like, (..., n, d)
        weights : array_like, (..., n), optional
            At least 0, not all of them 0; need not sum to 1. By default all alike.

        Returns
        -------
        ndarray, (..., d)

        Raises
        ------
        DimensionMismatchError, InvalidInputError, NumericalInstabilityError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.EuclideanSpace().mean([[0.0], [4.0]], weights=[3.0, 1.0])
        array([1.], dtype=float32)
        """
        x, w, dtype = self._weighted(points, weights)
        return self._cast(self._mean(x, w), dtype, None)

    # ---- checks

    def _pair(
        self, first: Any, second: Any, name: str, other: str, tangent: bool | None = False
    ) -> tuple[Double, Double, Any]:
        """Return a point and another (or a tangent vector; None: any vector) in float64, and the result's dtype."""
        given, beside = coordinates(first, name), coordinates(second, other)
        _same_rows(given, beside, name, other)
        dtype = np.result_type(given, beside)
        a, b = given.astype(np.float64), beside.astype(np.float64)
        self._check(a, name)
        if tangent is False:
            self._check(b, other)
        elif tangent:
            self._check_tangent(a, b, other)
        return a, b, dtype

    def _weighted(self, points: Any, weights: Any) -> tuple[Double, Double, Any]:
        """Return points (..., n, d) and weights (..., n) of largest 1 in float64, and the result's dtype."""
        x = coordinates(points, "points")
        if x.ndim < 2 or x.shape[-2] == 0:
            raise DimensionMismatchError(f"points must be rows (..., n, d), n >= 1, got shape {x.shape}")
        double = x.astype(np.float64)
        self._check(double, "points")
        if weights is None:
            return double, np.ones(x.shape[:-1]), x.dtype
        w = as_floats(weights, "weights", keep_float64=True).astype(np.float64)
        if w.ndim == 0 or w.shape[-1] != x.shape[-2]:
            raise DimensionMismatchError(f"weights must be one for each of {x.shape[-2]} points, got shape {w.shape}")
        try:
            lead = np.broadcast_shapes(w.shape[:-1], x.shape[:-2])
        except ValueError:
            raise DimensionMismatchError(
                f"weights and points must have equal leading axes, got shapes {w.shape} and {x.shape}"
            ) from None
        require_finite(w.reshape(-1, w.shape[-1]), "weights")
        low = np.argwhere(w < 0.0)
        if len(low):
            raise InvalidInputError(
                f"weights must be at least 0: position {low[0][-1]} is {w[tuple(low[0])]:g}; weights of a mean have "
                "no sign"
            )
        largest = w.max(axis=-1, keepdims=True)
        if (largest == 0.0).any():
            raise InvalidInputError("weights must not all be 0: nothing is left to take the mean of")
        return (
            np.broadcast_to(double, (*lead, *x.shape[-2:])),
            np.broadcast_to(w / largest, (*lead, w.shape[-1])),
            x.dtype,
        )

    # ---- the formulas of a space, on checked float64 arrays that broadcast

    @abstractmethod
    def _check(self, points: Double, name: str) -> None:
        """Refuse points that are not of the space, by row."""

    @abstractmethod
    def _check_tangent(self, x: Double, v: Double, name: str) -> None:
        """Refuse vectors that are not tangent at points, by row."""

    def _cast(self, points: Double, dtype: Any, name: str | None) -> Float:
        """Return computed points in the result's dtype; `name`: whom to blame for one that cannot be told apart."""
        return _representable(points, dtype)

    @abstractmethod
    def _distance(self, a: Double, b: Double) -> Double: ...

    @abstractmethod
    def _pairwise(self, a: Double, b: Double, out: Double) -> Double:
        """Fill and return the distances (L, S) of C-contiguous rows (L, d) and (S, d)."""

    @abstractmethod
    def _inner_product(self, x: Double, u: Double, v: Double) -> Double: ...

    @abstractmethod
    def _exp_map(self, x: Double, v: Double) -> Double: ...

    @abstractmethod
    def _log_map(self, x: Double, y: Double) -> Double: ...

    @abstractmethod
    def _project(self, points: Double) -> Double: ...

    @abstractmethod
    def _project_tangent(self, x: Double, v: Double) -> Double: ...

    @abstractmethod
    def _mean(self, x: Double, w: Double) -> Double:
        """Return the means of points (..., n, d) under weights (..., n)."""


def coordinates(value: Any, name: str) -> Float:
    """Return points or vectors (..., d), finite."""
    array = as_floats(value, name, keep_float64=True)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise DimensionMismatchError(f"{name} must be (d,) or (..., d), d >= 1, got shape {array.shape}")
    require_finite(array if array.ndim <= 2 else array.reshape(-1, array.shape[-1]), name)
    return array


def _same_rows(a: npt.NDArray[Any], b: npt.NDArray[Any], name: str, other: str) -> None:
    try:
        np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        if a.shape[-1] == b.shape[-1]:
            return
    except ValueError:
        pass
    raise DimensionMismatchError(
        f"{name} and {other} must have rows of one shape, got {a.shape} and {b.shape}; a single point goes with every "
        "row"
    )


def _representable(values: Double, dtype: Any) -> npt.NDArray[Any]:
    """Return computed values in the result's dtype, and refuse those beyond its range."""
    with np.errstate(over="ignore"):
        out = values.astype(dtype, copy=False)
    if not np.isfinite(out).all():
        raise NumericalInstabilityError(
            f"the result must be within {np.dtype(dtype).name} ({np.finfo(dtype).max:.2g}); scale the input down"
        )
    return out


def squared_lengths(x: Double) -> Double:
    """Return |x|^2 along the last axis."""
    if x.size < FEW_NUMBERS:
        return np.asarray((x * x).sum(axis=-1))
    with workspace(x.shape) as squares:
        return np.asarray(np.multiply(x, x, out=squares).sum(axis=-1))


def lengths(x: Double) -> Double:
    """Return |x| along the last axis, of numbers of any size."""
    with workspace(x.shape) as scaled:
        largest = np.abs(x, out=scaled).max(axis=-1, keepdims=True)
        scaled.fill(0.0)
        np.divide(x, largest, out=scaled, where=largest != 0.0)
        return np.asarray(largest[..., 0] * np.sqrt(squared_lengths(scaled)))


def divided(x: Double, by: Double, otherwise: float = 0.0) -> Double:
    """Return x / by, and what it is otherwise where that is a division by 0."""
    out = np.full(np.broadcast_shapes(np.shape(x), np.shape(by)), otherwise)
    return np.asarray(np.divide(x, by, out=out, where=by != 0.0))


def gap_squares(a: Double, b: Double, out: Double) -> Double:
    """Fill and return |a_i - b_j|^2 (L, S) of rows (L, d) and (S, d)."""
    for point, row in zip(a, out, strict=True):
        kernels.dot(point, 1.0, b, None, None, None, -1.0, row, True)
    return out
