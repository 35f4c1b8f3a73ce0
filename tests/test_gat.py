"""Graph attention: values by hand, float64 truth, edges, aggregations, and every refusal."""

import contextlib
import json
import math

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.scoring import resolve

MAX32 = float(np.finfo(np.float32).max)
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 5, 7, 2), (13, 11, 7, 5, 3), (3, 101, 17, 2, 11)]
FORMS = ["cosine", "v2", "v1"]


def leaky(x, slope=0.2):
    return np.where(x > 0, x, slope * x)


def truth_logits(form, q, k, p, edges=None, slope=0.2, temperature=None):
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    p = {name: array.astype(np.float64) for name, array in p.items()}
    if form == "cosine":
        lengths = np.linalg.norm(q, axis=-1)[..., :, None] * np.linalg.norm(k, axis=-1)[..., None, :]
        return q @ np.swapaxes(k, -1, -2) / np.where(lengths == 0.0, 1.0, lengths) / (temperature or 0.1)
    if form == "v2":
        hidden = (q @ p["W"].T)[..., :, None, :] + (k @ p["U"].T)[..., None, :, :]
        if edges is not None:
            hidden = hidden + edges @ p["V"].T
        return leaky(hidden, slope) @ p["a"] / (temperature or 1.0)
    total = (q @ p["W"].T @ p["a_q"])[..., :, None] + (k @ p["W"].T @ p["a_k"])[..., None, :]
    if edges is not None:
        total = total + edges @ p["V"].T @ p["a_e"]
    return leaky(total, slope) / (temperature or 1.0)


def softmax(logits):
    top = logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits - np.where(np.isneginf(top), 0.0, top))
    return weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)


def made(form, dim, out_dim=None, **options):
    return (
        ab.GraphAttention(**options) if form == "cosine" else ab.GraphAttention(dim, out_dim, version=form, **options)
    )


@pytest.fixture
def qkv(rng):
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((5, 7), (11, 7), (11, 3))]


# ---- by hand


def test_v2_by_hand():
    """W q = [1, 2], U k = [-3, 1]: hidden [-2, 3], LeakyReLU [-0.4, 3], times a = [10, 1] is -1."""
    mechanism = ab.GraphAttention(1, 2)
    mechanism.set_parameters({"W": [[1.0], [2.0]], "U": [[-3.0], [1.0]], "a": [10.0, 1.0]})
    np.testing.assert_allclose(mechanism.logits([1.0], [[1.0], [0.0]]), [-1.0, 12.0], rtol=1e-7)
    assert mechanism.weights([1.0], [[1.0], [1.0]]).tolist() == [0.5, 0.5]
    with_edges = ab.GraphAttention(1, 2, edge_dim=1)
    with_edges.set_parameters({"W": [[1.0], [2.0]], "U": [[-3.0], [1.0]], "a": [10.0, 1.0], "V": [[2.0], [0.0]]})
    logits = with_edges.logits([1.0], [[1.0], [1.0]], edge_features=[[0.0], [2.0]])
    np.testing.assert_allclose(logits, [-1.0, 23.0], rtol=1e-7)


def test_v1_by_hand():
    """a_q . W q = 2, a_k . W k = -3: LeakyReLU(-1) = -0.2; with the edge's 5, 4."""
    mechanism = ab.GraphAttention(2, 1, version="v1", edge_dim=1)
    mechanism.set_parameters({"W": [[2.0, 0.0]], "a_q": [1.0], "a_k": [-1.5], "V": [[1.0]], "a_e": [5.0]})
    logits = mechanism.logits([1.0, 9.0], [[1.0, 0.0]] * 2, edge_features=[[0.0], [1.0]])
    np.testing.assert_allclose(logits, [-0.2, 4.0], rtol=1e-6)


def test_cosine_by_hand():
    """Cosines 1, 0, -1/sqrt 2 and, of a zero vector, 0; over a temperature of 0.1."""
    logits = ab.GraphAttention().logits([3.0, 0.0], [[2.0, 0.0], [0.0, 5.0], [-1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(logits, [10.0, 0.0, -10 / math.sqrt(2), 0.0], rtol=1e-12)
    assert ab.attention_score([0.0, 0.0], [1.0, 0.0], "gat") == 0.0


# ---- truth


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(rng, shape, dtype, form, edges):
    count, keys, dim, width, out_dim = shape
    if edges and form == "cosine":
        return
    q, k, v = (rng.standard_normal(s).astype(dtype) for s in ((count, dim), (keys, dim), (keys, width)))
    k[keys // 2], k[-1] = 0.0, k[0]
    features = rng.standard_normal((count, keys, 3)) if edges else None
    mechanism = made(form, dim, out_dim, **({"edge_dim": 3} if edges else {}))
    given = {"edge_features": features} if edges else {}
    want = truth_logits(form, q, k, mechanism.parameters(), features)
    np.testing.assert_allclose(mechanism.logits(q, k, **given), want, rtol=1e-5, atol=1e-6 if edges else 1e-11)
    output, weights, context = mechanism.forward(q, k, v, need_weights=True, need_context=True, **given)
    shares = softmax(want)
    np.testing.assert_allclose(weights, shares, rtol=2e-5, atol=1e-12)
    np.testing.assert_allclose(output, shares @ v.astype(np.float64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.exp(want - context.logsumexp[:, None]), shares, rtol=1e-5)
    assert output.dtype == weights.dtype == dtype


@pytest.mark.parametrize("form", FORMS)
def test_batches_masks_and_causal(rng, form):
    q, k = rng.standard_normal((2, 1, 5, 7)).astype(np.float32), rng.standard_normal((3, 11, 7)).astype(np.float32)
    v = rng.standard_normal((11, 2)).astype(np.float32)
    mechanism = made(form, 7, 13)
    want = truth_logits(form, q, k, mechanism.parameters())
    adjacency = rng.random((5, 11)) < 0.4
    adjacency[2] = False
    tril = np.tril(np.ones((5, 11), bool))
    for mask, causal in ((None, True), (adjacency, False), (adjacency, True), (rng.standard_normal((3, 1, 11)), False)):
        logits = want if mask is None else np.where(mask, want, -np.inf) if mask.dtype == bool else want + mask
        logits = np.where(tril, logits, -np.inf) if causal else logits
        output, weights, _ = mechanism.forward(q, k, v, mask, causal, need_weights=True)
        np.testing.assert_allclose(weights, softmax(logits), rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(output, softmax(logits) @ v, rtol=1e-4, atol=1e-6)
    masked = mechanism.forward(q, k, v, adjacency, need_weights=True)
    assert (masked.output[..., 2, :] == 0.0).all()
    assert (masked.weights[..., 2, :] == 0.0).all()
    always = made(form, 7, 13, causal=True).forward(q, k, v).output
    assert always.tolist() == mechanism.forward(q, k, v, is_causal=True).output.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_invariants(rng, qkv, form):
    q, k, v = qkv
    mechanism = made(form, 7, 13)
    weights, output = mechanism.weights(q, k), mechanism.forward(q, k, v).output
    order = rng.permutation(11)
    np.testing.assert_allclose(mechanism.weights(q, k[order]), weights[:, order], rtol=1e-6)
    for i in range(5):
        assert mechanism.forward(q[i], k, v).output.tolist() == output[i].tolist()
        assert mechanism.logits(q[i], k[2:3]).tolist() == mechanism.logits(q, k)[i, 2:3].tolist()
    later = k.copy()
    later[3:] *= -7.0
    causal = mechanism.weights(q, k, is_causal=True)
    assert mechanism.weights(q, later, is_causal=True)[:3].tolist() == causal[:3].tolist()


@pytest.mark.parametrize("length", [1e-38, MAX32 / 2])
def test_vectors_of_any_length(length):
    rows = np.array([[length, 0.0], [length, length], [-length, 0.0]], np.float32)
    unit = np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]], np.float32)
    np.testing.assert_allclose(
        ab.GraphAttention().logits(rows, rows), ab.GraphAttention().logits(unit, unit), atol=1e-5
    )
    for version in ("v1", "v2"):
        output, weights, _ = made(version, 2, 3).forward(rows, rows, rows, need_weights=True)
        assert np.isfinite(output).all()
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)


def test_v1_orders_keys_alike_for_every_query_and_v2_does_not(rng):
    q, k = rng.standard_normal((13, 7)), rng.standard_normal((11, 7))
    orders = {v: {tuple(np.argsort(row)) for row in made(v, 7, 13).logits(3 * q, k)} for v in ("v1", "v2")}
    assert len(orders["v1"]) == 1
    assert len(orders["v2"]) > 1


# ---- settings


def test_aggregations(rng, qkv):
    q, k, v = qkv
    adjacency = rng.random((5, 11)) < 0.5
    adjacency[3] = False
    weights = ab.GraphAttention(7).weights(q, k, adjacency)
    weighted = weights[..., None].astype(np.float64) * v
    want = {
        "sum": weighted.sum(axis=1),
        "mean": weighted.sum(axis=1) / np.maximum(adjacency.sum(axis=1), 1)[:, None],
        "max": np.where(adjacency[..., None], weighted, -np.inf).max(axis=1),
    }
    want["max"][3] = 0.0
    for aggregation, expected in want.items():
        got = ab.GraphAttention(7, aggregation=aggregation).forward(q, k, v, adjacency).output
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
        assert got.dtype == np.float32
        single = ab.GraphAttention(7, aggregation=aggregation).forward(q[1], k, v, adjacency[1]).output
        assert single.tolist() == got[1].tolist()
    negative = (
        ab.GraphAttention(aggregation="max").forward([1.0], [[1.0], [1.0]], [[-4.0], [6.0]], [True, False]).output
    )
    assert negative.tolist() == [-4.0]  # a masked value's 0 is not the largest


def test_without_normalizing_weights_are_the_logits(rng, qkv):
    q, k, v = qkv
    adjacency = rng.random((5, 11)) < 0.5
    adjacency[3] = False
    mechanism = ab.GraphAttention(7, normalize=False)
    want = np.where(adjacency, ab.GraphAttention(7).logits(q, k), 0.0)
    output, weights, context = mechanism.forward(q, k, v, adjacency, need_weights=True, need_context=True)
    np.testing.assert_allclose(weights, want, rtol=1e-6)
    np.testing.assert_allclose(mechanism.weights(q, k, adjacency), want, rtol=1e-6)
    np.testing.assert_allclose(output, want @ v, rtol=1e-5, atol=1e-6)
    assert context.logsumexp.tolist() == [0.0, 0.0, 0.0, -np.inf, 0.0]


def test_dropout_acts_in_training_only(qkv):
    q, k, v = qkv
    for aggregation in ("sum", "mean", "max"):
        mechanism = ab.GraphAttention(7, aggregation=aggregation, dropout=0.5)
        plain = mechanism.forward(q, k, v, need_weights=True)
        drawn = mechanism.forward(q, k, v, need_weights=True, training=True, seed=3)
        assert drawn.output.tolist() == mechanism.forward(q, k, v, training=True, seed=3).output.tolist()
        kept = drawn.weights > 0
        assert 0 < kept.sum() < kept.size
        np.testing.assert_allclose(drawn.weights[kept], 2 * plain.weights[kept], rtol=1e-6)
        assert not np.allclose(drawn.output, plain.output)


def test_every_option_acts(rng, qkv):
    q, k, v = qkv
    plain = ab.GraphAttention(7).forward(q, k, v).output
    options = [
        {"version": "v1"},
        {"out_dim": 3},
        {"temperature": 0.5},
        {"negative_slope": 0.7},
        {"aggregation": "mean"},
        {"aggregation": "max"},
        {"normalize": False},
        {"seed": 1},
        {"causal": True},
    ]
    for option in options:
        assert not np.allclose(ab.GraphAttention(7, **option).forward(q, k, v).output, plain), option
    assert not np.allclose(
        ab.GraphAttention().forward(q, k, v)[0], ab.GraphAttention(temperature=1.0).forward(q, k, v)[0]
    )
    features = rng.standard_normal((5, 11, 2))
    edged = ab.GraphAttention(7, edge_dim=2)
    got = edged.forward(q, k, v, edge_features=features).output
    assert not np.allclose(edged.forward(q, k, v, edge_features=2 * features).output, got)


def test_edges_are_broadcast(rng):
    q, k = rng.standard_normal((3, 5, 7)).astype(np.float32), rng.standard_normal((11, 7)).astype(np.float32)
    mechanism = ab.GraphAttention(7, edge_dim=2)
    features = rng.standard_normal((11, 2)).astype(np.float32)
    whole = np.ascontiguousarray(np.broadcast_to(features, (3, 5, 11, 2)))
    assert (
        mechanism.logits(q, k, edge_features=features).tolist() == mechanism.logits(q, k, edge_features=whole).tolist()
    )
    own = rng.standard_normal((3, 5, 11, 2)).astype(np.float32)
    together = mechanism.weights(q, k, edge_features=own)
    for i in range(3):
        assert mechanism.weights(q[i], k, edge_features=own[i]).tolist() == together[i].tolist()
        assert mechanism.weights(q[i, 4], k, edge_features=own[i, 4]).tolist() == together[i, 4].tolist()
    assert mechanism._edges is None  # nothing of a call stays


def test_parameters_and_config():
    for options in ({}, {"version": "v1"}, {"edge_dim": 2}, {"version": "v1", "edge_dim": 2}):
        mechanism = ab.GraphAttention(7, 13, seed=5, **options)
        again = ab.GraphAttention(**json.loads(json.dumps(mechanism.config)))
        assert again.config == mechanism.config
        for name, array in mechanism.parameters().items():
            assert array.dtype == np.float32
            assert array.tolist() == again.parameters()[name].tolist()
            array[:] = 0.0  # the caller's copy
            assert mechanism.parameters()[name].any()
    shapes = {name: array.shape for name, array in ab.GraphAttention(7, 13, edge_dim=2).parameters().items()}
    assert shapes == {"W": (13, 7), "U": (13, 7), "a": (13,), "V": (13, 2)}
    shapes = {name: array.shape for name, array in ab.GraphAttention(7, version="v1", edge_dim=2).parameters().items()}
    assert shapes == {"W": (7, 7), "a_q": (7,), "a_k": (7,), "V": (7, 2), "a_e": (7,)}
    weight = ab.GraphAttention(300, 200).parameters()["W"]
    assert np.abs(weight).max() == pytest.approx(math.sqrt(6 / 500), rel=1e-3)  # Xavier uniform
    assert ab.GraphAttention().parameters() == {}
    assert ab.GraphAttention().config["temperature"] == 0.1


def test_from_config():
    config = ab.GraphAttentionConfig(
        use_edge_features=True, edge_dim=3, aggregation="max", normalize=False, negative_slope=0.1
    )
    mechanism = ab.GraphAttention.from_config(config, 7, 5, version="v1", seed=2, dropout=0.3, causal=True)
    assert mechanism.config == {
        "in_dim": 7,
        "out_dim": 5,
        "version": "v1",
        "edge_dim": 3,
        "temperature": 1.0,
        "negative_slope": 0.1,
        "aggregation": "max",
        "normalize": False,
        "seed": 2,
        "dropout": 0.3,
        "causal": True,
    }


# ---- the registry


@pytest.mark.parametrize("form", FORMS)
def test_functions_are_the_class(qkv, form):
    q, k, v = qkv
    options = {"temperature": 0.7}
    mechanism = made(form, 7, 13, temperature=0.7)
    if form != "cosine":
        options |= {"version": form, "parameters": mechanism.parameters()}
    for name in ("gat", "gatv2", "graph"):
        assert ab.attention(q, k, v, name, **options).tolist() == mechanism.forward(q, k, v).output.tolist()
    logits = mechanism.logits(q, k)
    assert ab.attention_score(q[2], k[3], "gat", **options) == logits[2, 3]
    row, checked = resolve("gat", options)
    own = np.empty(3)
    row.logits(q[2], 0.0, ab.metric.Keys(k), np.array([7, 0, 7]), checked, own)
    assert own.tolist() == logits[2, [7, 0, 7]].tolist()
    row.logits(q[2], 0.0, ab.metric.Keys(k), np.empty(0, int), checked, np.empty(0))
    assert resolve("gat", json.loads(json.dumps(checked)))[1] == checked  # as a saved bridge has it


def test_the_functions_options_act(qkv):
    q, k, _ = qkv
    parameters = ab.GraphAttention(7).parameters()
    plain = ab.attention_logits(q, k, "gat", parameters=parameters)
    assert not np.allclose(ab.attention_logits(q, k, "gat", parameters=parameters, negative_slope=0.5), plain)
    np.testing.assert_allclose(ab.attention_logits(q, k, "gat", parameters=parameters, temperature=2.0), plain / 2)
    cosine = ab.attention_logits(q, k, "gat")
    np.testing.assert_allclose(ab.attention_logits(q, k, "gat", temperature=0.2), cosine / 2)
    np.testing.assert_allclose(ab.attention_logits(q, k, "gat", temperature=0.1), cosine)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("form", FORMS)
def test_in_the_bridge(rng, form, metric, tmp_path):
    rows, query = rng.standard_normal((60, 7)).astype(np.float32), rng.standard_normal(7).astype(np.float32)
    mechanism = made(form, 7, 5)
    options = {} if form == "cosine" else {"version": form, "parameters": mechanism.parameters()}
    warned = pytest.warns(UserWarning, match="v1' orders keys alike") if form == "v1" else contextlib.nullcontext()
    with warned:
        bridge = ab.AttentionVectorBridge(7, metric, "gat", candidates=60, **options)
    bridge.add(rows)
    hits = bridge.search(query, k=60)
    x, y = (a / np.linalg.norm(a, axis=-1, keepdims=True) if metric == "cosine" else a for a in (query, rows))
    np.testing.assert_allclose(hits.scores, mechanism.logits(x, y)[hits.ids], rtol=1e-5, atol=1e-5)
    assert (np.diff(hits.scores) <= 0).all()
    bridge.save(tmp_path / "saved")
    with warned, ab.AttentionVectorBridge.open(tmp_path / "saved") as again:
        assert again.search(query, k=60).scores.tolist() == hits.scores.tolist()


# ---- refusals

ONE = np.ones((1, 2))
V2 = {"W": np.ones((3, 2)), "U": np.ones((3, 2)), "a": np.ones(3)}
V1 = {"W": np.ones((3, 2)), "a_q": np.ones(3), "a_k": np.ones(3)}
CONFIG = ab.InvalidConfigError


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ab.GraphAttention(out_dim=3), CONFIG, "out_dim must go with in_dim or parameters, .*cosines; got 3"),
        (lambda: ab.GraphAttention(version="v2"), CONFIG, "version must go with in_dim or parameters"),
        (lambda: ab.GraphAttention(edge_dim=2), CONFIG, "edge_dim must go with in_dim"),
        (lambda: ab.GraphAttention(negative_slope=0.1), CONFIG, "negative_slope must go with in_dim"),
        (
            lambda: ab.attention_scores(ONE, ONE, "gat", negative_slope=0.1),
            CONFIG,
            "negative_slope must go with in_dim or parameters",
        ),
        (
            lambda: ab.AttentionGraph.from_arrays([[0], [0]], [[1.0]], negative_slope=0.9),
            CONFIG,
            "negative_slope must go with in_dim or parameters, without which logits are cosines; got 0.9",
        ),
        (
            lambda: ab.AttentionGraph.from_arrays([[0], [0]], [[1.0]], version="v1"),
            CONFIG,
            "version must go with in_dim or parameters",
        ),
        (
            lambda: ab.AttentionVectorBridge(2, attention="gat", version="v1"),
            CONFIG,
            "version must go with in_dim or parameters",
        ),
        (lambda: ab.GraphAttention(0), CONFIG, "in_dim must be a whole number >= 1, got 0"),
        (lambda: ab.GraphAttention(2, 0), CONFIG, "out_dim must be a whole number >= 1, got 0"),
        (lambda: ab.GraphAttention(2, version="v3"), CONFIG, "version must be one of v1, v2; got 'v3'"),
        (lambda: ab.GraphAttention(2, edge_dim=0), CONFIG, "edge_dim must be a whole number >= 1, got 0"),
        (lambda: ab.GraphAttention(temperature=0), CONFIG, "temperature must be a finite number > 0, got 0"),
        (lambda: ab.GraphAttention(2, negative_slope=2), CONFIG, "negative_slope must be .* at most 1, got 2"),
        (lambda: ab.GraphAttention(aggregation="min"), CONFIG, "aggregation must be one of max, mean, sum; got 'min'"),
        (lambda: ab.GraphAttention(normalize=1), CONFIG, "normalize must be True or False, got 1"),
        (lambda: ab.GraphAttention(seed=-1), CONFIG, "seed must be a whole number >= 0, got -1"),
        (lambda: ab.GraphAttention(dropout=1.0), CONFIG, r"dropout must be in \[0, 1\), got 1.0"),
        (
            lambda: ab.GraphAttention.from_config(ab.GraphAttentionConfig(), None),
            CONFIG,
            "in_dim must be a whole number",
        ),
        (
            lambda: ab.GraphAttention(3).logits(ONE, ONE),
            ab.DimensionMismatchError,
            "Query and key dimension must be in_dim 3, got 2",
        ),
        (
            lambda: ab.attention_scores(np.ones((1, 3)), np.ones((1, 3)), "gat", parameters=V2),
            ab.DimensionMismatchError,
            "must be in_dim 2, got 3",
        ),
        (lambda: ab.GraphAttention().set_parameters({}), CONFIG, "set_parameters needs a mechanism with in_dim"),
        (
            lambda: ab.GraphAttention(2, 3).set_parameters(V1),
            CONFIG,
            "parameters of version 'v2' must be W, U, a; got W, a_q, a_k",
        ),
        (
            lambda: ab.attention_scores(ONE, ONE, "gat", parameters=V2, version="v1"),
            CONFIG,
            "parameters of version 'v1' must be W, a_q, a_k; got W, U, a",
        ),
        (
            lambda: ab.GraphAttention(2, 3, edge_dim=1).set_parameters(V2),
            CONFIG,
            "parameters of version 'v2' must be W, U, a, V; got W, U, a",
        ),
        (
            lambda: ab.GraphAttention(2, 3).set_parameters(V2 | {"W": np.ones(3)}),
            ab.DimensionMismatchError,
            r"parameters\['W'\] must be \(out_dim, in_dim\), got shape \(3,\)",
        ),
        (
            lambda: ab.GraphAttention(2, 3).set_parameters(V2 | {"a": np.ones(2)}),
            ab.DimensionMismatchError,
            r"parameters\['a'\] must be \(3,\) as W is \(3, 2\), got \(2,\)",
        ),
        (
            lambda: ab.GraphAttention(5, 3).set_parameters(V2),
            ab.DimensionMismatchError,
            r"parameters\['W'\] must be \(3, 5\), got shape \(3, 2\)",
        ),
        (
            lambda: ab.GraphAttention(2, 3, edge_dim=1).set_parameters(V2 | {"V": np.ones((2, 1))}),
            ab.DimensionMismatchError,
            r"parameters\['V'\] must be \(3, edge_dim\) as W is",
        ),
        (
            lambda: ab.GraphAttention(2, 3, edge_dim=1).set_parameters(V2 | {"V": np.ones((3, 2))}),
            ab.DimensionMismatchError,
            r"parameters\['V'\] must be \(3, 1\), got shape \(3, 2\)",
        ),
        (
            lambda: ab.GraphAttention(2, 3).set_parameters(V2 | {"a": [1.0, np.nan, 1.0]}),
            ab.InvalidInputError,
            r"parameters\['a'\] must be finite: position 1 is nan",
        ),
        (
            lambda: ab.attention_scores(ONE, ONE, "gat", parameters=V2 | {"a": [1.0, np.inf, 1.0]}),
            ab.InvalidInputError,
            r"parameters\['a'\] must be finite: position 1 is inf",
        ),
        (
            lambda: ab.attention_scores(ONE, ONE, "gat", parameters=[1.0]),
            CONFIG,
            "parameters must be a dict of arrays W, U",
        ),
        (
            lambda: ab.GraphAttention(2, edge_dim=1).forward(ONE, ONE, ONE),
            CONFIG,
            "edge_features must be given with edge_dim, and only then: got none",
        ),
        (
            lambda: ab.GraphAttention(2).forward(ONE, ONE, ONE, edge_features=[[[1.0]]]),
            CONFIG,
            "edge_features must be given with edge_dim, and only then: got some",
        ),
        (lambda: ab.GraphAttention(2, edge_dim=1).weights(ONE, ONE), CONFIG, "edge_features must be given"),
        (
            lambda: ab.GraphAttention(2, edge_dim=1).logits(ONE, ONE, edge_features=np.ones((1, 2, 1))),
            ab.DimensionMismatchError,
            r"edge_features must broadcast to \(1, 1, 1\), got shape \(1, 2, 1\)",
        ),
        (
            lambda: ab.GraphAttention(2, edge_dim=2).logits(ONE, ONE, edge_features=np.ones((1, 1, 1))),
            ab.DimensionMismatchError,
            r"edge_features must broadcast to \(1, 1, 2\)",
        ),
        (
            lambda: ab.GraphAttention(2, edge_dim=1).logits(ONE, ONE, edge_features=[[[np.nan]]]),
            ab.InvalidInputError,
            "edge_features must be finite: row 0, column 0 is nan",
        ),
        (
            lambda: ab.GraphAttention().logits(ONE, [[np.inf, 1.0]]),
            ab.InvalidInputError,
            "key must be finite: row 0, column 0 is inf",
        ),
        (
            lambda: ab.GraphAttention(aggregation="max").forward(ONE, ONE, [[np.nan]]),
            ab.InvalidInputError,
            "value must be finite: row 0, column 0 is nan",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
