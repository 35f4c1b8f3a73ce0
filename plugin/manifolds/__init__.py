"""Curved spaces as coordinates: one protocol for the ball, the sphere, flat space and their products."""

from attnbridge.manifolds.base import Float, Manifold
from attnbridge.manifolds.flat import EuclideanSpace
from attnbridge.manifolds.hyperbolic import HyperbolicSpace
from attnbridge.manifolds.product import ProductSpace, as_manifold
from attnbridge.manifolds.spherical import SphericalSpace

__all__ = [
    "EuclideanSpace",
    "Float",
    "HyperbolicSpace",
    "Manifold",
    "ProductSpace",
    "SphericalSpace",
    "as_manifold",
]
