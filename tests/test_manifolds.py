"""Spaces: closed forms by hand, geoopt where it is installed, what isometries keep, and every error message."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge.manifolds import as_manifold

ALL = {
    "hyperbolic": (ab.HyperbolicSpace(), 5),
    "curved": (ab.HyperbolicSpace(-3.7), 3),
    "spherical": (ab.SphericalSpace(), 5),
    "large sphere": (ab.SphericalSpace(2.5), 3),
    "euclidean": (ab.EuclideanSpace(), 7),
    "product": (
        ab.ProductSpace([(ab.HyperbolicSpace(-0.5), 5), (ab.SphericalSpace(2.0), 3), (ab.EuclideanSpace(), 2)]),
        10,
    ),
}
SPACES = pytest.mark.parametrize("name", ALL)


def points(space, dim, rng, n, near=0.7):
    """Return points in float64; of a ball up to `near` of its radius."""
    if isinstance(space, ab.ProductSpace):
        return np.concatenate([points(part, size, rng, n, near) for part, size in space.factors], axis=1)
    x = rng.standard_normal((n, dim))
    if isinstance(space, ab.EuclideanSpace):
        return x
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if isinstance(space, ab.SphericalSpace):
        return x * space.radius
    return x * space.radius * near * rng.random((n, 1))


def directions(rng, n, dim):
    x = rng.standard_normal((n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rotation(rng, dim):
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


# ---- what holds in every space


@SPACES
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_distance_is_a_metric(name, seed):
    space, dim = ALL[name]
    x, y, z = points(space, dim, np.random.default_rng(seed), 3)[:, None]
    assert space.distance(x, x).tolist() == [0.0]
    np.testing.assert_allclose(space.distance(x, y), space.distance(y, x), rtol=1e-12)
    assert space.distance(x, z) <= space.distance(x, y) + space.distance(y, z) + 1e-12


@SPACES
def test_maps_are_each_others_inverse_and_keep_lengths(name, rng):
    space, dim = ALL[name]
    x, y = points(space, dim, rng, 41), points(space, dim, rng, 41)
    y[0] = x[0]
    v = space.log_map(x, y)
    assert (v[0] == 0.0).all()
    np.testing.assert_allclose(space.exp_map(x, v), y, rtol=1e-9, atol=1e-12)
    far = space.distance(x, y)
    np.testing.assert_allclose(np.sqrt(space.inner_product(x, v, v)), far, rtol=1e-9)
    np.testing.assert_allclose(space.distance(x, space.exp_map(x, 0.25 * v)), 0.25 * far, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(space.log_map(x, space.exp_map(x, 0.5 * v)), 0.5 * v, rtol=1e-9, atol=1e-12)


@SPACES
def test_tangent_vectors(name, rng):
    space, dim = ALL[name]
    x, w = points(space, dim, rng, 11), rng.standard_normal((11, dim))
    v = space.project_tangent(x, w)
    np.testing.assert_allclose(space.project_tangent(x, v), v, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(space.inner_product(x, v, 2.0 * v), 2.0 * space.inner_product(x, v, v), rtol=1e-12)
    short = 1e-6 * v
    np.testing.assert_allclose(
        space.distance(x, space.exp_map(x, short)), np.sqrt(space.inner_product(x, short, short)), rtol=1e-6
    )


@SPACES
def test_pairwise_distances_are_the_distances(name, rng):
    space, dim = ALL[name]
    x, y = points(space, dim, rng, 7, near=0.999), points(space, dim, rng, 13, near=0.999)
    y[3] = x[2]
    got = space.pairwise_distances(x, y)
    np.testing.assert_allclose(got, space.distance(x[:, None], y), rtol=1e-12, atol=1e-14)
    assert got[2, 3] == 0.0
    single = x.astype(np.float32), y.astype(np.float32)
    if name not in (
        "spherical",
        "large sphere",
        "product",
    ):  # rounding takes points off the sphere, which is made up for
        want = space.distance(single[0].astype(float)[:, None], single[1].astype(float))
        np.testing.assert_array_equal(
            space.pairwise_distances(*single), space.pairwise_distances(*map(np.float64, single))
        )
        np.testing.assert_allclose(space.pairwise_distances(*single), want, rtol=1e-12, atol=1e-14)


@SPACES
def test_shapes_broadcast_as_numpys(name, rng):
    space, dim = ALL[name]
    x, y = points(space, dim, rng, 6).reshape(2, 3, dim), points(space, dim, rng, 3)
    v = space.log_map(x, y)
    assert v.shape == (2, 3, dim)
    assert space.distance(x, y).shape == (2, 3)
    assert space.distance(x[0, 0], y[0]).shape == ()
    assert space.exp_map(x, v).shape == space.project(x).shape == space.project_tangent(y, v).shape == (2, 3, dim)
    assert space.inner_product(x, v, v).shape == (2, 3)
    ways = space.log_map(x[0, 0], y)
    inner = space.inner_product(x[0, 0], ways[:, None], ways)
    assert inner.shape == (3, 3)
    np.testing.assert_allclose(np.diag(inner), space.distance(x[0, 0], y) ** 2, rtol=1e-9)
    assert space.mean(x).shape == (2, dim)
    assert space.mean(y, rng.random((5, 3))).shape == (5, dim)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(v[i, j], space.log_map(x[i, j], y[j]), rtol=1e-13, atol=1e-15)


@SPACES
def test_dtypes(name, rng):
    space, dim = ALL[name]
    x, y = (points(space, dim, rng, 5) for _ in range(2))
    single, other = x.astype(np.float32), y.astype(np.float32)
    v = space.project_tangent(single, 0.1 * other)
    for got in (space.log_map(single, other), space.exp_map(single, v), space.project(single), space.mean(single), v):
        assert got.dtype == np.float32
    for got in (space.log_map(x, other), space.project(x), space.mean(x), space.project_tangent(single, y)):
        assert got.dtype == np.float64
    assert space.distance(single, other).dtype == space.inner_product(single, v, v).dtype == np.float64
    np.testing.assert_allclose(space.log_map(single, other), space.log_map(x, y), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(space.mean(single), space.mean(x), rtol=1e-5, atol=1e-6)


@SPACES
def test_mean_of_equal_points_is_the_point(name, rng):
    space, dim = ALL[name]
    point = points(space, dim, rng, 1)
    np.testing.assert_allclose(space.mean(np.repeat(point, 5, axis=0)), point[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(space.mean(point), point[0], rtol=1e-12, atol=1e-14)
    others = points(space, dim, rng, 3)
    got = space.mean(np.concatenate([others, point]), [0.0, 0.0, 0.0, 1e-30])
    np.testing.assert_allclose(got, point[0], rtol=1e-12, atol=1e-14)


@SPACES
def test_mean_of_two_is_the_middle_of_the_way(name, rng):
    space, dim = ALL[name]
    x, y = points(space, dim, rng, 9), points(space, dim, rng, 9)
    middle = space.exp_map(x, 0.5 * space.log_map(x, y))
    np.testing.assert_allclose(space.mean(np.stack([x, y], axis=1)), middle, rtol=1e-9, atol=1e-11)


@SPACES
def test_weights_of_a_mean(name, rng):
    """Whole numbers are repetitions; a common factor and the order do not show."""
    space, dim = ALL[name]
    x = points(space, dim, rng, 4)
    want = space.mean(x[[0, 0, 0, 1, 3, 3]])
    for scale in (1.0, 1e-200, 1e200):
        got = space.mean(x, np.array([3.0, 1.0, 0.0, 2.0]) * scale)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(space.mean(x[::-1], [2.0, 0.0, 1.0, 3.0]), want, rtol=1e-6, atol=1e-7)
    assert np.abs(space.mean(x) - want).max() > 1e-3


@SPACES
def test_config_makes_an_equal_space(name, rng):
    space, dim = ALL[name]
    x, y = points(space, dim, rng, 5), points(space, dim, rng, 5)
    again = as_manifold(json.loads(json.dumps(space.config)))
    assert repr(again) == repr(space) == repr(pickle.loads(pickle.dumps(space)))
    assert again.distance(x, y).tolist() == space.distance(x, y).tolist()
    assert as_manifold(space) is space


# ---- the ball


@pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
def test_translation_and_rotation_keep_distances(c, rng):
    space = ab.HyperbolicSpace(-c)
    x, y = points(space, 3, rng, 50, 0.99), points(space, 3, rng, 50, 0.99)
    by, far = points(space, 3, rng, 1, 0.9)[0], space.distance(x, y)
    np.testing.assert_allclose(space.distance(space.mobius_add(by, x), space.mobius_add(by, y)), far, rtol=1e-9)
    turn = rotation(rng, 3)
    np.testing.assert_allclose(space.distance(x @ turn, y @ turn), far, rtol=1e-12)
    np.testing.assert_allclose(space.mobius_add(-by, space.mobius_add(by, x)), x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        space.mobius_add(x @ turn, y @ turn), space.mobius_add(x, y) @ turn, rtol=1e-9, atol=1e-12
    )


def test_mobius_add_by_hand():
    """On a line it is addition of velocities: (a + b) / (1 + c a b)."""
    space = ab.HyperbolicSpace()
    assert space.mobius_add(np.array([0.5]), np.array([0.5])) == pytest.approx([0.8], rel=1e-15)
    assert space.mobius_add(np.array([0.5]), np.array([-0.5])) == pytest.approx([0.0], abs=0.0)
    half = ab.HyperbolicSpace(-0.25)
    assert half.mobius_add(np.array([1.0]), np.array([0.5])) == pytest.approx([1.5 / 1.125], rel=1e-15)
    # Not commutative off a line: both sums are equally long.
    a, b = np.array([0.6, 0.0]), np.array([0.0, 0.6])
    np.testing.assert_allclose(space.mobius_add(a, b), np.array([0.6 * 1.36, 0.64 * 0.6]) / 1.1296, rtol=1e-14)
    np.testing.assert_allclose(np.abs(space.mobius_add(a, b)), np.abs(space.mobius_add(b, a))[::-1], rtol=1e-14)


def test_maps_by_hand():
    """From the origin, and along a line: artanh turns it into straight steps of 2 artanh."""
    space = ab.HyperbolicSpace()
    v = np.array([[0.3, 0.4], [0.0, -2.0]])
    np.testing.assert_allclose(space.exp_map(np.zeros(2), v), space.exp_map0(v), rtol=1e-14)
    y = space.exp_map0(v)
    np.testing.assert_allclose(space.log_map(np.zeros(2), y), space.log_map0(y), rtol=1e-12)
    at = np.array([0.5])
    length = 0.7  # a tangent vector of it is 2 / (1 - 0.25) times as long in the space
    want = math.tanh(math.atanh(0.5) + length / 0.75)
    np.testing.assert_allclose(space.exp_map(at, np.array([length])), [want], rtol=1e-14)
    np.testing.assert_allclose(space.inner_product(at, [3.0], [5.0]), 15.0 * (2.0 / 0.75) ** 2, rtol=1e-14)


@pytest.mark.parametrize("dim", [2, 5])
def test_nearly_flat_balls_are_flat(dim, rng):
    """As c falls to 0, distances become 2 |u - v|: the metric is 4 times the Euclidean one."""
    u, v = rng.standard_normal((2, 20, dim))
    gaps = []
    for curvature in (-1e-2, -1e-4, -1e-6):
        space = ab.HyperbolicSpace(curvature)
        gaps.append(np.abs(space.distance(u, v) / (2.0 * np.linalg.norm(u - v, axis=1)) - 1.0).max())
    assert gaps[2] < 1e-4
    assert gaps[1] < gaps[0] / 50
    assert gaps[2] < gaps[1] / 50
    np.testing.assert_allclose(space.log_map(u, v), v - u, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(space.exp_map(u, v), u + v, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(space.mean(u), u.mean(axis=0), rtol=1e-4, atol=1e-4)


def test_einstein_midpoint_is_the_mean_in_klein_coordinates(rng):
    """Gulcehre et al. 2019, equation 4, as it stands there."""
    space, w = ab.HyperbolicSpace(-2.0), rng.random(7)
    x = points(space, 3, rng, 7)
    squares = (x * x).sum(axis=1)
    klein = 2.0 * x / (1.0 + 2.0 * squares)[:, None]
    factor = w / np.sqrt(1.0 - 2.0 * (klein * klein).sum(axis=1))
    mean = factor @ klein / factor.sum()
    want = mean / (1.0 + np.sqrt(1.0 - 2.0 * mean @ mean))
    np.testing.assert_allclose(space.mean(x, w), want, rtol=1e-12)


@pytest.mark.parametrize("near", [0.5, 0.99])
def test_frechet_mean_is_where_the_pulls_cancel(near, rng):
    space = ab.HyperbolicSpace(-1.5)
    x, w = points(space, 3, rng, 11, near), rng.random((4, 11))
    means = space.mean(x, w, method="frechet")
    pulls = np.stack([(share[:, None] * space.log_map(m, x)).sum(axis=0) for m, share in zip(means, w, strict=True)])
    np.testing.assert_allclose(pulls, 0.0, atol=1e-9)
    for m, share in zip(means, w, strict=True):
        cost = share @ space.distance(m, x) ** 2
        nearby = space.exp_map(m, 1e-3 * directions(rng, 20, 3))
        assert all(share @ space.distance(other, x) ** 2 > cost for other in nearby)


def test_einstein_and_frechet_means_are_close_for_near_points(rng):
    space, centre = ab.HyperbolicSpace(), np.array([0.6, 0.3, 0.0])
    v, gaps = rng.standard_normal((9, 3)), []
    for size in (0.1, 0.01):
        x = space.exp_map(centre, size * v)
        gaps.append(float(space.distance(space.mean(x), space.mean(x, method="frechet"))) / size)
    assert gaps[0] > 1e-4  # they are not the same
    assert gaps[1] < 0.02 * gaps[0]


@pytest.mark.parametrize("method", ["einstein", "frechet"])
def test_means_move_with_their_points(method, rng):
    space, w = ab.HyperbolicSpace(), rng.random(9)
    x, by, turn = points(space, 3, rng, 9, 0.9), np.array([0.3, -0.5, 0.1]), rotation(rng, 3)
    mean = space.mean(x, w, method=method)
    np.testing.assert_allclose(space.mean(x @ turn, w, method=method), mean @ turn, rtol=1e-8, atol=1e-10)
    moved = space.mean(space.mobius_add(by, x), w, method=method)
    np.testing.assert_allclose(moved, space.mobius_add(by, mean), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ["einstein", "frechet"])
@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-8])
def test_means_near_the_boundary(method, gap):
    space = ab.HyperbolicSpace()
    x = np.array([[1.0 - gap, 0.0], [1.0 - gap, 0.0]])
    np.testing.assert_allclose(space.mean(x, method=method), x[0], rtol=1e-12)
    x[1, 0] *= -1.0  # opposite: the middle is the origin
    np.testing.assert_allclose(space.mean(x, method=method), 0.0, atol=1e-6)


def test_float32_means_stay_inside():
    """Points as near to the boundary as float32 has them."""
    edge = np.float32(1.0) - np.float32(2.0**-24)
    angles = np.linspace(0.0, 1e-3, 500)
    x = (edge * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
    x = x[(x.astype(float) ** 2).sum(axis=1) < 1.0 - 2e-9]
    assert len(x) > 100
    space = ab.HyperbolicSpace()
    for i in range(len(x) - 1):
        assert np.isfinite(space.distance(space.mean(x[i : i + 2]), x[i]))


# ---- the ball against geoopt


@pytest.mark.parametrize("dim", [2, 5, 17])
@pytest.mark.parametrize("c", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ball_equals_geoopt(c, dim, dtype):
    """Its own float64 is the truth for both dtypes, on the very numbers that we are given."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("geoopt")
    from geoopt.manifolds.stereographic import math as truth

    space, rng = ab.HyperbolicSpace(-c), np.random.default_rng(dim)
    tolerance = 1e-9 if dtype == np.float64 else 1e-5

    def some(n):
        radius = rng.choice([0.0, 1e-3, 0.5, 0.9, 0.99, 0.999], n) * space.radius
        return (directions(rng, n, dim) * radius[:, None]).astype(dtype)

    def tensor(array):
        return torch.tensor(np.asarray(array, np.float64))

    def hold(got, want):
        np.testing.assert_allclose(got, want.numpy(), rtol=tolerance, atol=tolerance)

    k = torch.tensor(-c, dtype=torch.float64)
    x, y = some(400), some(400)
    a, b = tensor(x), tensor(y)
    hold(space.distance(x, y), truth.dist(a, b, k=k))
    hold(space.pairwise_distances(x[:20], y[:30]), truth.dist(a[:20, None], b[:30], k=k))
    v = space.log_map(x, y)
    hold(v, truth.logmap(a, b, k=k))
    hold(space.exp_map(x, v), truth.expmap(a, tensor(v), k=k))
    hold(
        space.inner_product(x, v, y), truth.inner(a, tensor(v), b, k=k, keepdim=True)[:, 0]
    )  # which is an outer one without keepdim
    hold(space.mean(x), truth.weighted_midpoint(a, k=k, reducedim=[0]))
    w = rng.random(400)
    hold(space.mean(x, w), truth.weighted_midpoint(a, k=k, weights=tensor(w), reducedim=[0]))
    hold(space.project(3.0 * x, 1e-5), truth.project(3.0 * a, k=k, eps=1e-5))
    hold(space.mobius_add(x, y), truth.mobius_add(a, b, k=k))
    hold(space.exp_map0(v[:9] * 0.1), truth.expmap0(tensor(v[:9] * v.dtype.type(0.1)), k=k))
    hold(space.log_map0(x), truth.logmap0(a, k=k))


# ---- the sphere


def test_great_circles_by_hand():
    space = ab.SphericalSpace(2.0)
    pole, east, south = np.array([0.0, 0.0, 2.0]), np.array([2.0, 0.0, 0.0]), np.array([0.0, 0.0, -2.0])
    assert float(space.distance(pole, east)) == pytest.approx(math.pi, rel=1e-15)  # a quarter of 2 pi r
    assert float(space.distance(pole, south)) == pytest.approx(2.0 * math.pi, rel=1e-15)
    np.testing.assert_allclose(space.log_map(pole, east), [math.pi, 0.0, 0.0], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(space.exp_map(pole, [0.0, 2.0 * math.pi / 6.0, 0.0])[1:], [1.0, 3.0**0.5], rtol=1e-6)
    np.testing.assert_allclose(space.exp_map(pole, np.array([4.0 * math.pi, 0.0, 0.0])), pole, atol=1e-14)  # once round
    assert float(space.inner_product(pole, [1.0, 2.0, 0.0], [3.0, 4.0, 0.0])) == 11.0
    np.testing.assert_allclose(space.project_tangent(pole, [1.0, 2.0, 3.0]), [1.0, 2.0, 0.0], atol=1e-7)


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 0.5, 2.0, math.pi - 1e-5, math.pi - 1e-9])
def test_angles_keep_their_digits(angle):
    """Where acos of the product has none left."""
    x, y = np.array([1.0, 0.0]), np.array([math.cos(angle), math.sin(angle)])
    space = ab.SphericalSpace()
    assert float(space.distance(x, y)) == pytest.approx(angle, rel=1e-9)
    assert space.pairwise_distances(x[None], y[None])[0, 0] == pytest.approx(angle, rel=1e-9)


def test_sphere_equals_geoopt(rng):
    torch = pytest.importorskip("torch")
    geoopt = pytest.importorskip("geoopt")
    truth, space = geoopt.SphereExact(), ab.SphericalSpace()
    x, y = directions(rng, 100, 5), directions(rng, 100, 5)
    a, b = torch.tensor(x), torch.tensor(y)
    v = space.log_map(x, y)
    np.testing.assert_allclose(space.distance(x, y), truth.dist(a, b).numpy(), rtol=1e-9)
    np.testing.assert_allclose(v, truth.logmap(a, b).numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(space.exp_map(x, v), truth.expmap(a, torch.tensor(v)).numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(space.project_tangent(x, y), truth.proju(a, b).numpy(), rtol=1e-9, atol=1e-12)


def test_spherical_mean_is_where_the_pulls_cancel(rng):
    space = ab.SphericalSpace(3.0)
    x = space.project(directions(rng, 11, 4) + np.array([2.0, 0.0, 0.0, 0.0]))
    w = rng.random((3, 11))
    turn = rotation(rng, 4)
    means = space.mean(x, w)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 3.0, rtol=1e-14)
    for mean, share in zip(means, w, strict=True):
        np.testing.assert_allclose((share[:, None] * space.log_map(mean, x)).sum(axis=0), 0.0, atol=1e-10)
    np.testing.assert_allclose(space.mean(x @ turn, w), means @ turn, rtol=1e-9, atol=1e-10)


# ---- products


def test_product_is_its_parts(rng):
    space, dim = ALL["product"]
    ball, sphere, flat = (part for part, _ in space.factors)
    x, y = points(space, dim, rng, 9), points(space, dim, rng, 9)
    parts = [(ball, slice(0, 5)), (sphere, slice(5, 8)), (flat, slice(8, 10))]
    want = np.sqrt(sum(part.distance(x[:, own], y[:, own]) ** 2 for part, own in parts))
    np.testing.assert_allclose(space.distance(x, y), want, rtol=1e-12)
    v = space.log_map(x, y)
    for part, own in parts:
        np.testing.assert_allclose(v[:, own], part.log_map(x[:, own], y[:, own]), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(space.mean(x)[own], part.mean(x[:, own]), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(space.project(2.0 * x)[:, own], part.project(2.0 * x[:, own]), rtol=1e-12)
        np.testing.assert_allclose(space.project_tangent(x, y)[:, own], part.project_tangent(x[:, own], y[:, own]))
    inner = sum(part.inner_product(x[:, own], v[:, own], v[:, own]) for part, own in parts)
    np.testing.assert_allclose(space.inner_product(x, v, v), inner, rtol=1e-12)
    assert space.dim == 10


def test_a_product_of_products(rng):
    inner = ab.ProductSpace([(ab.SphericalSpace(), 2), (ab.EuclideanSpace(), 1)])
    outer = ab.ProductSpace([(inner, 3), (ab.EuclideanSpace(), 2)])
    x, y = points(outer, 5, rng, 4), points(outer, 5, rng, 4)
    flat = ab.ProductSpace([(ab.SphericalSpace(), 2), (ab.EuclideanSpace(), 3)])
    np.testing.assert_allclose(outer.distance(x, y), flat.distance(x, y), rtol=1e-13)
    assert as_manifold(outer.config).config == outer.config


# ---- errors

BALL, SPHERE, FLAT = ab.HyperbolicSpace(), ab.SphericalSpace(), ab.EuclideanSpace()
PRODUCT = ab.ProductSpace([(BALL, 2), (SPHERE, 3)])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ab.HyperbolicSpace(0.5), ab.InvalidConfigError, r"curvature must be .* at most -1e-06, got 0.5"),
        (lambda: ab.SphericalSpace(0.0), ab.InvalidConfigError, r"radius must be a finite number >= 0.001, .* got 0.0"),
        (lambda: ab.SphericalSpace(-1), ab.InvalidConfigError, "radius must be"),
        (
            lambda: BALL.exp_map([0.0, 1.0], [0.1, 0.1]),
            ab.InvalidInputError,
            r"x must lie inside the ball of radius 1 .*: row 0 has length 1; .*HyperbolicSpace.project",
        ),
        (
            lambda: BALL.mobius_add([0.1], [[0.2], [2.0]]),
            ab.InvalidInputError,
            "y must lie inside .* row 1 has length 2",
        ),
        (lambda: BALL.mean([[0.1], [2.0]]), ab.InvalidInputError, "points must lie inside .* row 1 has length 2"),
        (
            lambda: BALL.exp_map([[0.0], [0.5]], [[1.0], [9.0]]),
            ab.InvalidInputError,
            "v must lead to points that float32 can tell from the boundary: row 1 does not; scale it down, or pass flo",
        ),
        (lambda: BALL.exp_map(np.zeros(1), np.array([1e300])), ab.InvalidInputError, "that float64 can tell from the"),
        (lambda: BALL.mobius_add([0.9999], [0.9999]), ab.InvalidInputError, "y must lead to points that float32"),
        (
            lambda: BALL.mean([[0.1]], method="median"),
            ab.InvalidConfigError,
            "method must be one of einstein, frechet;",
        ),
        (lambda: BALL.mean([[0.1]], tolerance=0.0), ab.InvalidConfigError, "tolerance must be a finite number > 0"),
        (lambda: SPHERE.mean([[1.0, 0.0]], max_iterations=0), ab.InvalidConfigError, "max_iterations must be"),
        (
            lambda: BALL.mean([[0.9, 0.0], [0.0, 0.9], [0.0, -0.2]], method="frechet", max_iterations=2),
            ab.NumericalInstabilityError,
            r"the Frechet mean must be reached to 1e-12 within max_iterations = 2 steps, the last of which was .*; ra",
        ),
        (
            lambda: SPHERE.mean([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]], max_iterations=1),
            ab.NumericalInstabilityError,
            "the Frechet mean must be reached to 1e-12 within max_iterations = 1 steps",
        ),
        (
            lambda: SPHERE.distance([1.0, 0.0], [[0.0, 1.0], [0.0, 1.1]]),
            ab.InvalidInputError,
            r"v must lie on the sphere of radius 1 \(to 1e-05 of it\): row 1 has length 1.1\d*; SphericalSpace.project",
        ),
        (
            lambda: SPHERE.exp_map([1.0, 0.0], [1.0, 1.0]),
            ab.InvalidInputError,
            r"v must be tangent to the sphere .*: row 0 has 0.707 of its length along .*project_tangent",
        ),
        (
            lambda: SPHERE.log_map([[1.0, 0.0]], [[-1.0, 0.0]]),
            ab.InvalidInputError,
            "x and y must not be opposite points: row 0 is; all ways",
        ),
        (lambda: SPHERE.mean([[1.0, 0.0], [-1.0, 0.0]]), ab.InvalidInputError, "points must not cancel, as opposite"),
        (
            lambda: SPHERE.project([[1.0, 0.0], [0.0, 0.0]]),
            ab.InvalidInputError,
            "points must not be zero vectors: row 1",
        ),
        (lambda: SPHERE.distance([1.0], [1.0]), ab.DimensionMismatchError, "u must have at least 2 coordinates"),
        (
            lambda: BALL.log_map([0.1, 0.2], [[0.1]]),
            ab.DimensionMismatchError,
            r"x and y must have rows of one shape, got \(2,\) and \(1, 1\); a single point goes with every row",
        ),
        (
            lambda: FLAT.inner_product([0.0], [[1.0], [2.0]], [[1.0], [2.0], [3.0]]),
            ab.DimensionMismatchError,
            "u and v must have rows of one shape",
        ),
        (
            lambda: FLAT.distance(1.0, [1.0]),
            ab.DimensionMismatchError,
            r"u must be \(d,\) or \(..., d\), d >= 1, got s",
        ),
        (lambda: FLAT.distance([[[np.nan]]], [1.0]), ab.InvalidInputError, "u must be finite: row 0, column 0 is nan"),
        (
            lambda: FLAT.pairwise_distances([1.0], [[1.0]]),
            ab.DimensionMismatchError,
            r"u and v must be rows \(L, d\) and \(S, d\), got shapes \(1,\) and \(1, 1\)",
        ),
        (
            lambda: FLAT.exp_map(np.float32([3e38]), np.float32([3e38])),
            ab.NumericalInstabilityError,
            r"the result must be within float32 \(3.4e\+38\); scale the input down",
        ),
        (lambda: FLAT.distance(np.array([1e308]), -np.array([1e308])), ab.NumericalInstabilityError, "within float64"),
        (
            lambda: BALL.inner_product([0.9], np.array([1e300]), np.array([1e300])),
            ab.NumericalInstabilityError,
            "within float64",
        ),
        (lambda: FLAT.mean([1.0, 2.0]), ab.DimensionMismatchError, r"points must be rows \(..., n, d\), n >= 1, got"),
        (lambda: FLAT.mean(np.ones((0, 2))), ab.DimensionMismatchError, r"points must be rows \(..., n, d\), n >= 1"),
        (
            lambda: FLAT.mean([[1.0], [2.0]], [1.0]),
            ab.DimensionMismatchError,
            r"weights must be one for each of 2 points, got shape \(1,\)",
        ),
        (
            lambda: FLAT.mean(np.ones((3, 2, 1)), np.ones((4, 2))),
            ab.DimensionMismatchError,
            r"weights and points must have equal leading axes, got shapes \(4, 2\) and \(3, 2, 1\)",
        ),
        (
            lambda: FLAT.mean([[1.0], [2.0]], [1.0, -1.0]),
            ab.InvalidInputError,
            "weights must be at least 0: position 1 is -1; weights of a mean have no sign",
        ),
        (lambda: FLAT.mean([[1.0]], [np.inf]), ab.InvalidInputError, "weights must be finite"),
        (lambda: FLAT.mean([[1.0]], [0.0]), ab.InvalidInputError, "weights must not all be 0: nothing is left"),
        (
            lambda: PRODUCT.distance(np.zeros(4), np.zeros(4)),
            ab.DimensionMismatchError,
            r"u must have 5 coordinates \(2 \+ 3\), got 4",
        ),
        (lambda: PRODUCT.project(np.zeros(6)), ab.DimensionMismatchError, r"points must have 5 coordinates"),
        (
            lambda: PRODUCT.distance([2.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]),
            ab.InvalidInputError,
            r"u\[..., 0:2\] must lie inside the ball",
        ),
        (
            lambda: PRODUCT.exp_map([0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]),
            ab.InvalidInputError,
            r"v\[..., 2:5\] must be tangent to the sphere",
        ),
        (
            lambda: PRODUCT.exp_map([0.0, 0.0, 1.0, 0.0, 0.0], [20.0, 0.0, 0.0, 0.0, 0.0]),
            ab.InvalidInputError,
            r"v\[..., 0:2\] must lead to points",
        ),
        (lambda: ab.ProductSpace([]), ab.InvalidConfigError, "factors must not be empty: a product needs at least one"),
        (lambda: ab.ProductSpace([BALL]), ab.InvalidConfigError, r"factors must be pairs \(space, dim\), got"),
        (lambda: ab.ProductSpace([(BALL, 0)]), ab.InvalidConfigError, "dim must be a whole number >= 1, got 0"),
        (
            lambda: ab.ProductSpace([("ball", 2)]),
            ab.InvalidConfigError,
            r"space must be a Manifold \(HyperbolicSpace\(\), ...\) or its config, got 'ball'",
        ),
        (
            lambda: as_manifold({"name": "torus"}),
            ab.InvalidConfigError,
            "space's name must be one of euclidean, hyperb",
        ),
        (
            lambda: as_manifold({"name": "euclidean", "radius": 1}),
            ab.InvalidConfigError,
            "space must be the config of a EuclideanSpace, got",
        ),
    ],
)
def test_errors_name_the_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()
