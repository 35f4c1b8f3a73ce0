"""Attention by distance: float64 truths, what isometries keep, the radius, midpoints of values, errors."""

import json

import numpy as np
import pytest
from memory import peak, traced
from test_manifolds import ALL, SPACES, points, rotation

import attnbridge as ab

BALL = ab.HyperbolicSpace()


def softmax(logits):
    """Return the weights in float64; zeros where all logits are -inf."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.nan_to_num(weights / weights.sum(axis=-1, keepdims=True))


def case(name, rng, queries=5, keys=7, features=3, dtype=np.float64):
    """Return a space, positions (a duplicate among them) and features."""
    space, dim = ALL[name]
    q, k = points(space, dim, rng, queries, 0.95), points(space, dim, rng, keys, 0.95)
    k[1], k[2] = k[0], q[0]
    return space, q.astype(dtype), k.astype(dtype), rng.standard_normal((keys, features)).astype(dtype)


# ---- any space


@SPACES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [None, "bool", "float", "causal"])
def test_output_is_its_float64_truth(name, dtype, masked, rng):
    space, q, k, v = case(name, rng, dtype=dtype)
    logits = -space.distance(q.astype(float)[:, None], k.astype(float)) / 0.7
    options = {}
    if masked == "bool":
        options["mask"] = rng.random((5, 7)) < 0.5
        options["mask"][3] = False
        logits[~options["mask"]] = -np.inf
    elif masked == "float":
        options["mask"] = rng.standard_normal((5, 7))
        logits += options["mask"]
    elif masked == "causal":
        options["is_causal"] = True
        logits[np.triu_indices(5, 1, 7)] = -np.inf
    attention = ab.GeometricAttention(space, temperature=0.7)
    output, weights, _ = attention.forward_geometric(q, k, v, need_weights=True, **options)
    assert output.dtype == weights.dtype == dtype
    want = softmax(logits)
    np.testing.assert_allclose(weights, want, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(output, want @ v.astype(float), rtol=1e-5, atol=1e-6)
    assert (weights[want == 0.0] == 0.0).all()
    np.testing.assert_allclose(attention.logits(q, k, **options), logits, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(attention.weights(q, k, **options), weights)
    np.testing.assert_array_equal(attention.forward(q, k, v, **options).output, output)


@SPACES
@pytest.mark.parametrize("radius", [0.3, 1.5, 1e9])
def test_radius(name, radius, rng):
    space, q, k, v = case(name, rng)
    distances = space.pairwise_distances(q, k)
    want = softmax(np.where(distances <= radius, -distances, -np.inf))
    own = ab.GeometricAttention(space, radius=radius)
    output, weights, _ = own.forward_geometric(q, k, v, need_weights=True)
    np.testing.assert_allclose(weights, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(output, want @ v, rtol=1e-9, atol=1e-12)
    plain = ab.GeometricAttention(space)
    np.testing.assert_array_equal(plain.forward_geometric(q, k, v, radius=radius).output, output)
    assert plain.radius is None  # a call leaves nothing behind
    np.testing.assert_array_equal(own.forward_geometric(q, k, v, radius=1e9).output, plain.forward(q, k, v).output)
    # A float mask cannot bring back what is too far away.
    np.testing.assert_allclose(own.weights(q, k, mask=np.full((5, 7), 50.0)), want, rtol=1e-9, atol=1e-12)


def test_radius_by_hand():
    """Nothing within reach is nothing at all; the rim belongs to it."""
    attention = ab.GeometricAttention(ab.EuclideanSpace(), radius=2.0)
    out, weights, _ = attention.forward_geometric([[0.0], [9.0]], [[2.0], [-2.1]], [[5.0], [7.0]], need_weights=True)
    assert weights.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert out.tolist() == [[5.0], [0.0]]


@SPACES
def test_rotations_and_translations_leave_the_weights(name, rng):
    space, q, k, _ = case(name, rng)
    attention = ab.GeometricAttention(space, temperature=0.5, radius=3.0)
    weights = attention.weights(q, k)
    if name == "product":
        turn = np.zeros((10, 10))
        for start, stop in ((0, 5), (5, 8), (8, 10)):
            turn[start:stop, start:stop] = rotation(rng, stop - start)
    else:
        turn = rotation(rng, q.shape[1])
    np.testing.assert_allclose(attention.weights(q @ turn, k @ turn), weights, rtol=1e-8, atol=1e-12)
    if isinstance(space, ab.HyperbolicSpace):
        by = 0.5 * points(space, q.shape[1], rng, 1)[0]
        moved = attention.weights(space.mobius_add(by, q), space.mobius_add(by, k))
        np.testing.assert_allclose(moved, weights, rtol=1e-8, atol=1e-12)
        assert np.abs(attention.weights(space.mobius_add(by, q), k) - weights).max() > 1e-2
    if name == "euclidean":
        np.testing.assert_allclose(attention.weights(q + 3.0, k + 3.0), weights, rtol=1e-8, atol=1e-12)


@SPACES
def test_batches_orders_and_single_queries(name, rng):
    space, dim = ALL[name]
    q = points(space, dim, rng, 2 * 3 * 5).reshape(2, 3, 5, dim)
    k = points(space, dim, rng, 3 * 7).reshape(3, 7, dim)
    v = rng.standard_normal((2, 1, 7, 2))
    attention = ab.GeometricAttention(space, causal=True)
    output, weights, _ = attention.forward_geometric(q, k, v, need_weights=True)
    assert output.shape == (2, 3, 5, 2)
    for i in range(2):
        for j in range(3):
            alone = attention.forward_geometric(q[i, j], k[j], v[i, 0], need_weights=True)
            np.testing.assert_array_equal(output[i, j], alone.output)
            np.testing.assert_array_equal(weights[i, j], alone.weights)
    assert (weights[..., np.triu_indices(5, 1, 7)[0], np.triu_indices(5, 1, 7)[1]] == 0.0).all()
    free, order = ab.GeometricAttention(space), rng.permutation(7)
    np.testing.assert_allclose(free.weights(q, k[:, order]), free.weights(q, k)[..., order], rtol=1e-12)
    one = free.forward_geometric(q[0, 0, 0], k[0], v[0, 0], need_weights=True)
    assert one.output.shape == (2,)
    assert one.weights.shape == (7,)
    assert free.forward_geometric(q[0, 0], k[0, :1], v[0, 0, :1]).output.tolist() == [v[0, 0, 0].tolist()] * 5


def test_every_option_shows(rng):
    space, q, k, v = case("spherical", rng)
    plain = ab.GeometricAttention(space).forward_geometric(q, k, v).output
    for changed in (
        ab.GeometricAttention(space, temperature=0.2),
        ab.GeometricAttention(space, radius=1.0),
        ab.GeometricAttention(space, causal=True),
        ab.GeometricAttention(ab.EuclideanSpace()),
    ):
        assert np.abs(changed.forward_geometric(q, k, v).output - plain).max() > 1e-2
    dropping = ab.GeometricAttention(space, dropout=0.5)
    np.testing.assert_array_equal(dropping.forward_geometric(q, k, v).output, plain)
    first, again, other = (
        dropping.forward_geometric(q, k, v, need_weights=True, training=True, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.output, again.output)
    assert (first.weights == 0.0).any()
    assert (first.weights != other.weights).any()
    kept = first.weights > 0.0
    np.testing.assert_allclose(first.weights[kept], 2.0 * ab.GeometricAttention(space).weights(q, k)[kept], rtol=1e-9)


@SPACES
def test_config_makes_an_equal_mechanism(name, rng):
    space, q, k, v = case(name, rng)
    attention = ab.GeometricAttention(space, temperature=0.3, radius=2.0, dropout=0.1, causal=True)
    again = ab.GeometricAttention(**json.loads(json.dumps(attention.config)))
    assert again.config == attention.config
    np.testing.assert_array_equal(again.forward(q, k, v).output, attention.forward(q, k, v).output)
    assert "temperature=0.3" in repr(attention)


def test_memory_is_that_of_the_weights(rng):
    """No array of all differences: at 64 dimensions it would be 64 times as large."""
    n, dim = 700, 64
    for space in (BALL, ab.SphericalSpace(), ab.EuclideanSpace()):
        x = points(space, dim, rng, n)
        attention = ab.GeometricAttention(space)
        attention.logits(x[:3], x[:3])
        with traced():
            attention.logits(x, x)
            assert peak() < 6 * n * n * 8


# ---- the ball


def test_hyperbolic_attention_is_geometric_attention_in_the_ball(rng):
    space, q, k, v = case("curved", rng)
    hyperbolic = ab.HyperbolicAttention(space.curvature, temperature=0.6)
    geometric = ab.GeometricAttention(space, temperature=0.6)
    for radius in (None, 1.0):
        got = hyperbolic.forward_geometric(q, k, v, radius=radius, need_weights=True)
        want = geometric.forward_geometric(q, k, v, radius=radius, need_weights=True)
        np.testing.assert_allclose(got.weights, want.weights, rtol=1e-12)
        np.testing.assert_allclose(got.output, want.output, rtol=1e-12)
    assert (got.weights == 0.0).any()
    tangent = ab.HyperbolicAttention(space.curvature, temperature=0.6, map="expmap0")
    got = tangent.forward_geometric(space.log_map0(q), space.log_map0(k), v, radius=1.0)
    np.testing.assert_allclose(got.output, want.output, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_are_the_registrys_to_the_bit(dtype, rng):
    _, q, k, _ = case("hyperbolic", rng, dtype=dtype)
    for values in ("euclidean", "manifold"):
        logits = ab.HyperbolicAttention(temperature=0.7, values=values).logits(q, k)
        assert logits.tolist() == ab.attention_logits(q, k, "poincare", temperature=0.7, values=values).tolist()
        for i in range(5):
            for j in range(7):
                alone = ab.attention_score(q[i], k[j], "poincare", temperature=0.7, values=values)
                assert alone == logits[i, j]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("curvature", [-1.0, -4.0])
def test_values_on_the_manifold_have_einstein_midpoints(curvature, dtype, rng):
    space = ab.HyperbolicSpace(curvature)
    q, k = (points(space, 3, rng, n, 0.9).astype(dtype) for n in (5, 7))
    v = points(space, 2, rng, 7, 0.99).astype(dtype)  # of a dimension of their own
    attention = ab.HyperbolicAttention(curvature, values="manifold")
    output, weights, _ = attention.forward(q, k, v, need_weights=True)
    assert output.dtype == dtype
    np.testing.assert_allclose(output, space.mean(v.astype(float), weights.astype(float)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(output, ab.attention(q, k, v, "poincare", values="manifold", curvature=curvature))
    flat = ab.attention(q, k, v, "poincare", curvature=curvature)
    np.testing.assert_array_equal(flat, ab.HyperbolicAttention(curvature).forward(q, k, v).output)
    assert np.abs(flat - output).max() > 1e-2
    # Tangent vectors in, tangent vectors out.
    narrow = points(space, 2, rng, 7, 0.9).astype(dtype)
    tangent = ab.HyperbolicAttention(curvature, values="manifold", map="expmap0")
    got = tangent.forward(space.log_map0(q), space.log_map0(k), space.log_map0(narrow)).output
    assert got.dtype == dtype
    np.testing.assert_allclose(space.exp_map0(got), attention.forward(q, k, narrow).output, rtol=1e-4, atol=1e-5)


def test_midpoints_by_hand():
    """Of 0 and 0.8 alike in weight the middle is 0.5; of one value, and of equal ones, itself; of none the origin."""
    attention = ab.HyperbolicAttention(values="manifold")
    q, k, v = np.array([[0.5, 0.0]] * 3), np.array([[0.0, 0.0], [0.8, 0.0]]), np.array([[0.0], [0.8]])
    mask = np.array([[True, True], [False, True], [False, False]])
    np.testing.assert_allclose(attention.forward(q, k, v, mask).output, [[0.5], [0.8], [0.0]], rtol=1e-12)
    same = attention.forward(q, k, np.array([[0.3, 0.4], [0.3, 0.4]])).output
    np.testing.assert_allclose(same, [[0.3, 0.4]] * 3, rtol=1e-14)
    out = attention.forward_geometric(q, k, v, radius=1e-3).output
    assert out.tolist() == [[0.0]] * 3
    dropped = ab.HyperbolicAttention(values="manifold", dropout=0.999).forward(q, k, v, training=True, seed=1).output
    assert dropped.tolist() == [[0.0]] * 3


def test_midpoints_move_with_their_points(rng):
    q, k, v = (points(BALL, 3, rng, n, 0.9) for n in (5, 7, 7))
    attention, by, turn = ab.HyperbolicAttention(values="manifold"), np.array([0.2, -0.4, 0.5]), rotation(rng, 3)
    out = attention.forward(q, k, v).output
    np.testing.assert_allclose(
        attention.forward(q @ turn, k @ turn, v @ turn).output, out @ turn, rtol=1e-8, atol=1e-10
    )
    moved = attention.forward(*(BALL.mobius_add(by, part) for part in (q, k, v))).output
    np.testing.assert_allclose(moved, BALL.mobius_add(by, out), rtol=1e-8, atol=1e-10)
    batch = attention.forward(np.stack([q, q[::-1]]), k, v).output
    np.testing.assert_array_equal(batch, np.stack([out, out[::-1]]))


def test_config_of_hyperbolic_attention():
    attention = ab.HyperbolicAttention(
        -0.5, temperature=0.2, map="expmap0", values="manifold", dropout=0.1, causal=True
    )
    assert ab.HyperbolicAttention(**json.loads(json.dumps(attention.config))).config == attention.config
    assert attention.config["values"] == "manifold"


# ---- errors

Q, K, V = np.zeros((2, 2)), np.full((3, 2), 0.1), np.ones((3, 1))
FLAT = ab.GeometricAttention(ab.EuclideanSpace())
INSIDE = ab.GeometricAttention(BALL)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ab.GeometricAttention("ball"), ab.InvalidConfigError, r"space must be a Manifold .* got 'ball'"),
        (
            lambda: ab.GeometricAttention(BALL, temperature=0),
            ab.InvalidConfigError,
            "temperature must be a finite numb",
        ),
        (lambda: ab.GeometricAttention(BALL, radius=0.0), ab.InvalidConfigError, "radius must be a finite number > 0"),
        (lambda: ab.GeometricAttention(BALL, dropout=1.0), ab.InvalidConfigError, r"dropout must be in \[0, 1\)"),
        (lambda: ab.GeometricAttention(BALL, causal=1), ab.InvalidConfigError, "causal must be True or False"),
        (lambda: FLAT.forward_geometric(Q, K, V, radius=-1.0), ab.InvalidConfigError, "radius must be a finite number"),
        (
            lambda: FLAT.forward_geometric(Q, K, V, need_weights=1),
            ab.InvalidConfigError,
            "need_weights must be True or",
        ),
        (lambda: FLAT.forward_geometric(Q, K, V, training=1), ab.InvalidConfigError, "training must be True or False"),
        (
            lambda: FLAT.forward_geometric(Q, K[:, :1], V),
            ab.DimensionMismatchError,
            "Query and key dimensions must match: 2 vs 1",
        ),
        (
            lambda: FLAT.forward_geometric(Q, K, V[:2]),
            ab.DimensionMismatchError,
            "features must have a row for each of 3 keys, got 2",
        ),
        (lambda: FLAT.forward_geometric(Q, K[:0], V[:0]), ab.InvalidInputError, "key_pos must not be empty"),
        (
            lambda: FLAT.forward_geometric(Q, [[0.0, np.nan]], V[:1]),
            ab.InvalidInputError,
            "key_pos must be finite: row 0, column 1 is nan",
        ),
        (lambda: FLAT.forward_geometric(Q, K, V * np.inf), ab.InvalidInputError, "features must be finite: row 0"),
        (
            lambda: INSIDE.forward_geometric(Q, K * 11.0, V),
            ab.InvalidInputError,
            "key_pos must lie inside the ball of radius 1",
        ),
        (lambda: INSIDE.forward_geometric(Q + 1.0, K, V), ab.InvalidInputError, "query_pos must lie inside the ball"),
        (
            lambda: INSIDE.forward(np.stack([Q, Q + 1.0]), K, V),
            ab.InvalidInputError,
            r"query\[1\] must lie inside the ball .* row 0",
        ),
        (
            lambda: ab.GeometricAttention(ab.ProductSpace([(BALL, 2), (BALL, 3)])).forward(Q, K, V),
            ab.DimensionMismatchError,
            r"query must have 5 coordinates \(2 \+ 3\), got 2",
        ),
        (lambda: ab.HyperbolicAttention(0.0), ab.InvalidConfigError, "curvature must be a finite number"),
        (
            lambda: ab.HyperbolicAttention(values="klein"),
            ab.InvalidConfigError,
            "values must be one of euclidean, manifold; got 'klein'",
        ),
        (
            lambda: ab.attention(Q, K, V, "poincare", values="points"),
            ab.InvalidConfigError,
            "values must be one of euclidean, manifold; got 'points'",
        ),
        (
            lambda: ab.attention(Q, K, V, "poincare", values="manifold"),
            ab.InvalidInputError,
            "values must lie inside the ball of radius 1 .* row 0 has length 1",
        ),
        (
            lambda: ab.HyperbolicAttention(values="manifold").forward(Q, K, V * np.nan),
            ab.InvalidInputError,
            "value must be finite: row 0, column 0 is nan",
        ),
    ],
)
def test_errors_name_the_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()
