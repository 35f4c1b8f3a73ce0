"""Products of spaces: coordinates side by side, squared distances added."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from attnbridge.errors import DimensionMismatchError, InvalidConfigError
from attnbridge.manifolds.base import Double, Float, Manifold
from attnbridge.manifolds.flat import EuclideanSpace
from attnbridge.manifolds.hyperbolic import HyperbolicSpace
from attnbridge.manifolds.spherical import SphericalSpace
from attnbridge.validation import as_choice, as_count
from attnbridge.workspace import workspace


class ProductSpace(Manifold):
    """The product of spaces: each has so many of the coordinates, and geometry acts on each part alone.

    d(x, y)^2 = sum_k d_k(x_k, y_k)^2, <u, v>_x = sum_k <u_k, v_k>_(x_k); maps, projections and means (Einstein
    midpoints in hyperbolic parts, Frechet means in spherical ones) part by part.

    Parameters
    ----------
    factors : iterable of (Manifold, int)
        Each space and its number of coordinates.

    Attributes
    ----------
    dim : int
        The number of all coordinates.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Skopek et al. 2020, Mixed-curvature Variational Autoencoders, section 2.3; Gu et al. 2019, Learning Mixed-Curvature
    Representations in Product Spaces.

    Examples
    --------
    >>> import attnbridge as ab
    >>> space = ab.ProductSpace([(ab.SphericalSpace(), 2), (ab.EuclideanSpace(), 1)])
    >>> float(space.distance([1.0, 0.0, 0.0], [1.0, 0.0, 4.0]))
    4.0
    """

    def __init__(self, factors: Iterable[tuple[Manifold, int]]) -> None:
        try:
            pairs = [(space, dim) for space, dim in factors]
        except (TypeError, ValueError):
            raise InvalidConfigError(f"factors must be pairs (space, dim), got {factors!r}") from None
        if not pairs:
            raise InvalidConfigError("factors must not be empty: a product needs at least one (space, dim)")
        self.factors = [(as_manifold(space), as_count(dim, "dim")) for space, dim in pairs]
        ends = np.cumsum([dim for _, dim in self.factors]).tolist()
        self.dim: int = ends[-1]
        self._parts = [(space, slice(end - dim, end)) for (space, dim), end in zip(self.factors, ends, strict=True)]

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal space, and its name."""
        return {"name": "product", "factors": [[space.config, dim] for space, dim in self.factors]}

    def __repr__(self) -> str:
        return f"ProductSpace({self.factors!r})"

    def _check(self, points: Double, name: str) -> None:
        if points.shape[-1] != self.dim:
            parts = " + ".join(str(dim) for _, dim in self.factors)
            raise DimensionMismatchError(f"{name} must have {self.dim} coordinates ({parts}), got {points.shape[-1]}")
        for space, part in self._parts:
            space._check(points[..., part], _named(name, part))

    def _check_tangent(self, x: Double, v: Double, name: str) -> None:
        for space, part in self._parts:
            space._check_tangent(x[..., part], v[..., part], _named(name, part))

    def _cast(self, points: Double, dtype: Any, name: str | None) -> Float:
        parts = [space._cast(points[..., part], dtype, name and _named(name, part)) for space, part in self._parts]
        return np.concatenate(parts, axis=-1)

    def _joined(self, parts: Iterable[Double]) -> Double:
        return np.concatenate(list(parts), axis=-1)

    def _distance(self, a: Double, b: Double) -> Double:
        parts = [space._distance(a[..., part], b[..., part]) for space, part in self._parts]
        return np.asarray(np.sqrt(sum(distance**2 for distance in parts)))

    def _pairwise(self, a: Double, b: Double, out: Double) -> Double:
        out.fill(0.0)
        with workspace(out.shape) as near:
            for space, part in self._parts:
                space._pairwise(np.ascontiguousarray(a[:, part]), np.ascontiguousarray(b[:, part]), near)
                out += np.multiply(near, near, out=near)
        return np.sqrt(out, out=out)

    def _inner_product(self, x: Double, u: Double, v: Double) -> Double:
        return np.asarray(
            sum(space._inner_product(x[..., part], u[..., part], v[..., part]) for space, part in self._parts)
        )

    def _exp_map(self, x: Double, v: Double) -> Double:
        return self._joined(space._exp_map(x[..., part], v[..., part]) for space, part in self._parts)

    def _log_map(self, x: Double, y: Double) -> Double:
        return self._joined(space._log_map(x[..., part], y[..., part]) for space, part in self._parts)

    def _project(self, points: Double) -> Double:
        if points.shape[-1] != self.dim:
            self._check(points, "points")
        return self._joined(space._project(points[..., part]) for space, part in self._parts)

    def _project_tangent(self, x: Double, v: Double) -> Double:
        return np.asarray(
            self._joined(space._project_tangent(x[..., part], v[..., part]) for space, part in self._parts)
        )

    def _mean(self, x: Double, w: Double) -> Double:
        return self._joined(space._mean(x[..., part], w) for space, part in self._parts)


def _named(name: str, part: slice) -> str:
    return f"{name}[..., {part.start}:{part.stop}]"


_SPACES: dict[str, type[Manifold]] = {
    "euclidean": EuclideanSpace,
    "hyperbolic": HyperbolicSpace,
    "product": ProductSpace,
    "spherical": SphericalSpace,
}


def as_manifold(value: Any, name: str = "space") -> Manifold:
    """Return a space, of itself or of its config.

    Raises
    ------
    InvalidConfigError
    """
    if isinstance(value, Manifold):
        return value
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"{name} must be a Manifold (HyperbolicSpace(), ...) or its config, got {value!r}")
    options = dict(value)
    kind = _SPACES[as_choice(options.pop("name", None), f"{name}'s name", _SPACES)]
    try:
        return kind(**options)
    except TypeError:
        raise InvalidConfigError(f"{name} must be the config of a {kind.__name__}, got {value!r}") from None
