"""Every mechanism under a sparse mask: the same as under the mask held densely, at a cost that grows with pairs."""

import threading

import numpy as np
import pytest
from memory import peak, traced

import attnbridge as ab
from attnbridge.mechanisms.graph_logits import Network

KEYS = 23

MECHANISMS = {
    "scaled_dot": lambda **more: ab.ScaledDotProductAttention(**more),
    "flash": lambda **more: ab.FlashAttention(**more),
    "sliding": lambda **more: ab.SlidingWindowAttention(4, **more),
    "sliding at places": lambda **more: ab.SlidingWindowAttention(4, position=7, **more),
    "multi_head": lambda **more: ab.MultiHeadAttention(6, 3, **more),
    "multi_head unprojected": lambda **more: ab.MultiHeadAttention(6, 2, projections=False, **more),
    "cross": lambda **more: ab.CrossAttention(6, 2, **more),
    "gat cosine": lambda **more: ab.GraphAttention(**more),
    "gat v2": lambda **more: ab.GraphAttention(6, 5, **more),
    "gat v1": lambda **more: ab.GraphAttention(6, 5, version="v1", **more),
    "gat mean": lambda **more: ab.GraphAttention(6, 5, aggregation="mean", **more),
    "gat max": lambda **more: ab.GraphAttention(6, 5, aggregation="max", **more),
    "gat logits": lambda **more: ab.GraphAttention(6, 5, normalize=False, **more),
    "gat max of logits": lambda **more: ab.GraphAttention(6, 5, normalize=False, aggregation="max", **more),
    "linear": lambda **more: ab.LinearAttention(),
    "linear eps": lambda **more: ab.LinearAttention(eps=0.5),
    "linear favor": lambda **more: ab.LinearAttention("favor", num_features=16, scale=0.5),
    "hyperbolic": lambda **more: ab.HyperbolicAttention(map="expmap0", **more),
    "hyperbolic midpoint": lambda **more: ab.HyperbolicAttention(-0.5, map="expmap0", values="manifold", **more),
    "geometric": lambda **more: ab.GeometricAttention(ab.EuclideanSpace(), **more),
    "geometric sphere": lambda **more: ab.GeometricAttention(ab.SphericalSpace(), radius=1.7, **more),
    "geometric within": lambda **more: ab.GeometricAttention(ab.EuclideanSpace(), radius=3.0, **more),
    "moe": lambda **more: ab.MixtureOfExpertsAttention(jitter=0.1, **more),
    "moe of others": lambda **more: ab.MixtureOfExpertsAttention(
        [
            ab.LinearAttention(eps=0.5),
            ab.MultiHeadAttention(6, 2),
            ab.SlidingWindowAttention(3, causal=True),
            ab.GraphAttention(6, 5),
            ab.MixtureOfExpertsAttention(["scaled_dot", "linear"]),
        ],
        top_k=4,
        **more,
    ),
    "moe of hyperbolic": lambda **more: ab.MixtureOfExpertsAttention(
        [ab.HyperbolicAttention(map="expmap0"), ab.GeometricAttention(ab.EuclideanSpace(), radius=2.5)], **more
    ),
}
SPHERES = {"geometric sphere"}


def sequences(rng, name, lead=(), dtype=np.float64, count=KEYS):
    q, k, v = (rng.standard_normal((*lead, count, 6)).astype(dtype) for _ in range(3))
    if name in SPHERES:
        q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    return q, k, v


def some_mask(rng, count=KEYS):
    """Return a random mask, two queries of which attend to nothing."""
    dense = rng.random((count, count)) < 0.3
    dense[[4, count - 1]] = False
    return ab.SparseMask.from_dense(dense)


def require_same(mechanism, arrays, mask, tolerance, **call):
    more = {"need_weights": not isinstance(mechanism, ab.FlashAttention), "need_context": True, **call}
    listed = mechanism.forward(*arrays, mask, **more)
    dense = mechanism.forward(*arrays, mask.to_dense(), **more)
    for got, want in list(zip(listed, dense, strict=True))[: 1 + more["need_weights"]]:
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(listed.context.logsumexp, dense.context.logsumexp, rtol=tolerance, atol=tolerance)
    alone = mechanism.forward(*arrays, mask, **call).output
    np.testing.assert_array_equal(alone, listed.output)
    return listed


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-10)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_a_sparse_mask_is_the_dense_one(rng, name, dtype, tolerance, is_causal):
    if name == "cross" and is_causal:
        pytest.skip("cross attention is never causal")
    mask = some_mask(rng)
    got = require_same(MECHANISMS[name](), sequences(rng, name, dtype=dtype), mask, tolerance, is_causal=is_causal)
    assert not got.output[[4, KEYS - 1]].any()
    assert got.weights is None or not got.weights[..., [4, KEYS - 1], :].any()
    assert got.output.any()


@pytest.mark.parametrize("name", MECHANISMS)
def test_batches_and_dropout_are_those_of_the_dense_mask(rng, name):
    dropout = 0.0 if name.startswith("linear") else 0.4
    mechanism = MECHANISMS[name](dropout=dropout)
    q, k, v = sequences(rng, name, (2, 3))
    got = require_same(mechanism, (q, k[:, :1], v[0, 1]), some_mask(rng), 1e-10, training=True, seed=11)
    if dropout:
        other = mechanism.forward(q, k[:, :1], v[0, 1], some_mask(rng), training=True, seed=12)
        assert (got.output != other.output).any()


@pytest.mark.parametrize("name", MECHANISMS)
def test_no_pairs_and_a_single_query(rng, name):
    q, k, v = sequences(rng, name)
    mechanism = MECHANISMS[name]()
    none = mechanism.forward(q, k, v, ab.SparseMask.from_pairs([], [], (KEYS, KEYS)), need_context=True)
    assert not none.output.any()
    assert (none.context.logsumexp == -np.inf).all()
    require_same(mechanism, (q[0], k, v), ab.SparseMask.from_pairs([0, 0], [3, 5], (1, KEYS)), 1e-10)


@pytest.mark.parametrize("name", [name for name in MECHANISMS if name != "sliding at places"])
def test_memory_grows_with_the_pairs(rng, name):
    count = 20_000
    arrays = sequences(rng, name, dtype=np.float32, count=count)
    cols = (np.repeat(np.arange(count), 5) + np.tile([0, 1, 2, 77, 19_000], count)) % count
    mask = ab.SparseMask.from_pairs(np.repeat(np.arange(count), 5), cols, (count, count))
    mechanism = MECHANISMS[name]()
    small = ab.SparseMask.window((3, 3), 1)
    mechanism.forward(*(x[:3] for x in arrays), small)  # compiled before it is measured
    with traced():
        output = mechanism.forward(*arrays, mask).output
        assert peak() < 100_000_000
    assert output.shape == (count, 6)
    assert np.isfinite(output).all()


# ---- edges


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_edge_features_in_the_order_of_the_mask(rng, version, is_causal):
    attention = ab.GraphAttention(6, 5, version=version, edge_dim=3, dropout=0.3)
    q, k, v = sequences(rng, "gat", (2,))
    mask = some_mask(rng)
    listed = rng.standard_normal((mask.nnz, 3))
    dense = np.zeros((KEYS, KEYS, 3))
    dense[mask.to_pairs()] = listed
    call = {"is_causal": is_causal, "need_weights": True, "training": True, "seed": 3}
    want = attention.forward(q, k, v, mask.to_dense(), edge_features=dense, **call)
    for edges in (listed, dense):
        got = attention.forward(q, k, v, mask, edge_features=edges, **call)
        np.testing.assert_allclose(got.output, want.output, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(got.weights, want.weights, rtol=1e-10, atol=1e-10)
    for method in (attention.logits, attention.weights):
        got = method(q, k, mask, is_causal, edge_features=listed)
        np.testing.assert_allclose(got, method(q, k, mask.to_dense(), is_causal, edge_features=dense), rtol=1e-10)
    other = attention.forward(q, k, v, mask, edge_features=listed[::-1].copy(), **call)
    assert abs(other.output - want.output).max() > 1e-3


def test_edge_features_of_another_number_of_pairs_are_refused(rng):
    attention = ab.GraphAttention(6, 5, edge_dim=3)
    q, k, v = sequences(rng, "gat")
    mask = ab.SparseMask.window((KEYS, KEYS), 1)
    message = rf"edge_features as a matrix must be \({mask.nnz}, 3\) under a SparseMask.*\({KEYS}, 3\)"
    with pytest.raises(ab.DimensionMismatchError, match=message):
        attention.forward(q, k, v, mask, edge_features=rng.standard_normal((KEYS, 3)))
    edges = rng.standard_normal((mask.nnz, 3))
    edges[5, 1] = np.nan
    with pytest.raises(ab.InvalidInputError, match="edge_features"):
        attention.forward(q, k, v, mask, edge_features=edges)
    edges = rng.standard_normal((1, KEYS, 3))
    np.testing.assert_allclose(
        attention.forward(q, k, v, mask, edge_features=edges).output,
        attention.forward(q, k, v, mask.to_dense(), edge_features=edges).output,
        rtol=1e-10,
    )


def test_edges_cost_their_number():
    count = 20_000
    rng = np.random.default_rng(5)
    attention = ab.GraphAttention(6, 5, edge_dim=3)
    mask = ab.SparseMask.window((count, count), 2)
    arrays = sequences(rng, "gat", dtype=np.float32, count=count)
    edges = rng.standard_normal((mask.nnz, 3)).astype(np.float32)
    with traced():
        output = attention.forward(*arrays, mask, edge_features=edges).output
        assert peak() < 100_000_000
    assert np.isfinite(output).all()


# ---- refusals


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("place", [1, 2])
def test_a_key_that_nobody_attends_must_be_finite(rng, name, place):
    arrays = sequences(rng, name)
    mask = ab.SparseMask.from_pairs([0, 7], [0, 6], (KEYS, KEYS))
    arrays[place][11, 2] = np.nan
    with pytest.raises(ab.InvalidInputError, match="row 11"):
        MECHANISMS[name]().forward(*arrays, mask)


def test_products_beyond_float64_are_refused():
    rows = np.full((2, 3), 1e200)
    message = "query and key must have products within float64"
    for mask in (ab.SparseMask.causal((2, 2)), np.tri(2, dtype=bool)):
        with pytest.raises(ab.InvalidInputError, match=message):
            ab.SlidingWindowAttention(1, position=1, scale=1.0).forward(rows, rows, rows, mask)


def test_extreme_features_of_linear_attention(rng):
    q, k, v = sequences(rng, "linear")
    q[3], k[5], k[7] = -900.0, 1e200, -800.0
    require_same(ab.LinearAttention(), (q, k, v), some_mask(rng), 1e-10)


def test_an_expert_that_reads_all_keys_is_computed_densely(rng):
    experts = [ab.SparseAttention("top_k", top_k=4), ab.LinearAttention()]
    require_same(ab.MixtureOfExpertsAttention(experts), sequences(rng, "moe"), some_mask(rng), 1e-10)


# ---- parameters that change during a call


def two_sets(rng):
    attention = ab.GraphAttention(6, 5)
    return attention, [
        {name: rng.standard_normal(array.shape) for name, array in attention.parameters().items()} for _ in range(2)
    ]


@pytest.mark.parametrize("sparse", [False, True])
def test_a_call_sees_one_set_of_parameters(rng, monkeypatch, sparse):
    attention, (first, second) = two_sets(rng)
    q, k, v = sequences(rng, "gat")
    mask = some_mask(rng) if sparse else None
    attention.set_parameters(first)
    want = attention.forward(q, k, v, mask).output
    project = Network.keys

    def keys(self, rows):
        attention.set_parameters(second)
        return project(self, rows)

    monkeypatch.setattr(Network, "keys", keys)
    np.testing.assert_array_equal(attention.forward(q, k, v, mask).output, want)


@pytest.mark.parametrize("sparse", [False, True])
def test_calls_while_parameters_change(rng, sparse):
    attention, sets = two_sets(rng)
    q, k, v = sequences(rng, "gat")
    mask = some_mask(rng) if sparse else None
    wanted = []
    for one in sets:
        attention.set_parameters(one)
        wanted.append(attention.forward(q, k, v, mask).output)
    done = threading.Event()

    def swap():
        while not done.is_set():
            for one in sets:
                attention.set_parameters(one)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        outputs = [attention.forward(q, k, v, mask).output for _ in range(200)]
    finally:
        done.set()
        thread.join()
    assert all(any(np.array_equal(output, want) for want in wanted) for output in outputs)
