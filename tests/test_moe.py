"""Mixtures of experts: weights by hand, float64 truth, routing, capacity, jitter, and every refusal."""

import json
import math
from typing import ClassVar

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.mechanisms import moe
from attnbridge.scoring import resolve

DEFAULT = ("scaled_dot", "linear", "gat")


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def top_gates(shares, top_k):
    """Return gates by Shazeer's rule, row by row."""
    out = np.zeros(shares.shape)
    for place in np.ndindex(shares.shape[:-1]):
        best = sorted(range(shares.shape[-1]), key=lambda e: (-shares[place][e], e))[:top_k]
        out[place][best] = shares[place][best] / shares[place][best].sum()
    return out


def truth(mixture, q, k, v, gates, mask=None, causal=False):
    """Return output and weights as the sum of each expert's own weights."""
    weights = 0.0
    for number, expert in enumerate(mixture.experts):
        own = expert.weights(q, k, mask, causal).astype(np.float64)
        weights = weights + gates[..., number, None] * own
    return weights @ np.asarray(v, np.float64), weights


@pytest.fixture
def qkv(rng):
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((13, 7), (11, 7), (11, 3))]


def spread(mixture, rng):
    """Give a router that tells queries apart."""
    shapes = {name: array.shape for name, array in mixture.parameters().items()}
    mixture.set_parameters({name: rng.standard_normal(shape) for name, shape in shapes.items()})
    return mixture


# ---- by hand


def test_a_mixture_by_hand():
    """Gates 3/4 and 1/4; weights of scaled dot e/(1 + e), of elu + 1 5/9."""
    mixture = ab.MixtureOfExpertsAttention([("scaled_dot", {"scale": 1.0}), "linear"], d_model=2)
    mixture.set_parameters({"W_r": [[0.0, -math.log(3.0)], [7.0, 7.0]], "b_r": [0.0, 0.0]})
    q, k = [1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]
    np.testing.assert_allclose(mixture.router_probabilities(q), [0.75, 0.25], rtol=1e-6)
    first = 0.75 * math.e / (1 + math.e) + 0.25 * 5 / 9
    np.testing.assert_allclose(mixture.weights(q, k), [first, 1 - first], rtol=1e-6)
    np.testing.assert_allclose(mixture.logits(q, k), np.log([first, 1 - first]), rtol=1e-6)
    np.testing.assert_allclose(mixture.forward(q, k, [[10.0], [20.0]]).output, [20 - 10 * first], rtol=1e-6)


def test_the_loss_by_hand():
    """Probabilities (3/4, 1/4), (3/4, 1/4), (1/4, 3/4): P = (7/12, 5/12); first choices f = (2/3, 1/3)."""
    mixture = ab.MixtureOfExpertsAttention(["scaled_dot", "linear"], d_model=1, top_k=1)
    mixture.set_parameters({"W_r": [[math.log(3.0), 0.0]], "b_r": [0.0, 0.0]})
    queries = [[1.0], [1.0], [-1.0]]
    assert mixture.load_balance_loss(queries) == pytest.approx(2 * (2 / 3 * 7 / 12 + 1 / 3 * 5 / 12), rel=1e-6)
    both = ab.MixtureOfExpertsAttention(["scaled_dot", "linear"], d_model=1, top_k=2)
    both.set_parameters(mixture.parameters())
    assert both.load_balance_loss(queries) == pytest.approx(1.0, rel=1e-9)  # each has all queries
    mixture.set_parameters({"W_r": [[0.0, 0.0]], "b_r": [50.0, 0.0]})
    assert mixture.load_balance_loss(queries) == pytest.approx(2.0, rel=1e-9)  # one expert has all


# ---- truth


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_the_experts_own_weights(rng, qkv, dtype, top_k):
    q, k, v = (array.astype(dtype) for array in qkv)
    k[-1] = k[0]
    mixture = spread(ab.MixtureOfExpertsAttention(d_model=7, top_k=top_k), rng)
    shares = softmax(q.astype(np.float64) @ mixture.parameters()["W_r"] + mixture.parameters()["b_r"])
    np.testing.assert_allclose(mixture.router_probabilities(q), shares, rtol=1e-9)
    gates = top_gates(shares, top_k)
    assert len({tuple(row > 0) for row in gates}) > 1 or top_k == 3  # queries differ in their experts
    output, weights, context = mixture.forward(q, k, v, need_weights=True, need_context=True)
    want, mixed = truth(mixture, q, k, v, gates)
    np.testing.assert_allclose(weights, mixed, rtol=1e-5)
    np.testing.assert_allclose(output, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.exp(mixture.logits(q, k) - context.logsumexp[:, None]), mixed, rtol=1e-5)
    assert output.dtype == weights.dtype == dtype


def test_batches_masks_and_causal(rng):
    q, k = rng.standard_normal((2, 1, 5, 7)).astype(np.float32), rng.standard_normal((3, 11, 7)).astype(np.float32)
    v = rng.standard_normal((11, 2)).astype(np.float32)
    mixture = spread(ab.MixtureOfExpertsAttention(d_model=7), rng)
    gates = top_gates(mixture.router_probabilities(q), 2)
    pairs = rng.random((5, 11)) < 0.4
    pairs[2] = False
    for mask, causal in ((None, True), (pairs, False), (pairs, True), (rng.standard_normal((3, 1, 11)), False)):
        output, weights, _ = mixture.forward(q, k, v, mask, causal, need_weights=True)
        want, mixed = truth(mixture, q, k, v, gates, mask, causal)
        np.testing.assert_allclose(weights, mixed, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(output, want, rtol=1e-4, atol=1e-6)
    masked = mixture.forward(q, k, v, pairs, need_weights=True)
    assert (masked.weights[..., 2, :] == 0.0).all()
    assert (masked.output[..., 2, :] == 0.0).all()
    always = spread(ab.MixtureOfExpertsAttention(d_model=7, causal=True), np.random.default_rng(0))
    always.set_parameters(mixture.parameters())
    assert always.forward(q, k, v).output.tolist() == mixture.forward(q, k, v, is_causal=True).output.tolist()


def test_invariants(rng, qkv):
    q, k, v = qkv
    mixture = spread(ab.MixtureOfExpertsAttention(d_model=7), rng)
    output, weights, _ = mixture.forward(q, k, v, need_weights=True)
    order = rng.permutation(11)
    np.testing.assert_allclose(mixture.weights(q, k[order]), weights[:, order], rtol=1e-6)
    for i in range(13):
        assert mixture.forward(q[i], k, v).output.tolist() == output[i].tolist()
    later = k.copy()
    later[3:] *= -7.0
    causal = mixture.weights(q, k, is_causal=True)
    assert mixture.weights(q, later, is_causal=True)[:3].tolist() == causal[:3].tolist()


def test_small_weights_have_logits():
    """A weight of e^-1000 is 0 in float64; its logarithm is not."""
    mixture = ab.MixtureOfExpertsAttention([("scaled_dot", {"scale": 1.0}), ("scaled_dot", {"scale": 2.0})])
    logits = mixture.logits([1.0], [[0.0], [-1000.0]])
    first, _ = mixture.router_probabilities([1.0])
    np.testing.assert_allclose(logits, [0.0, -1000.0 + math.log(first)], atol=1e-12)


def test_huge_vectors():
    rows = np.full((3, 2), np.finfo(np.float32).max / 2, np.float32)
    output, weights, _ = ab.MixtureOfExpertsAttention().forward(rows, rows, rows, need_weights=True)
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(output, rows, rtol=1e-6)


# ---- experts


def test_experts_may_be_mechanisms(rng, qkv):
    q, k, v = qkv
    for experts in (
        [ab.LinearAttention("favor", num_features=5), ab.GraphAttention(7, 3)],
        [ab.LinearAttention(eps=2.0), ab.ScaledDotProductAttention(causal=True)],
        [ab.HyperbolicAttention(map="expmap0"), "dot"],
    ):
        mixture = spread(ab.MixtureOfExpertsAttention(experts, d_model=7), rng)
        gates = top_gates(mixture.router_probabilities(q), 2)
        _, mixed = truth(mixture, q, k, v, gates)
        mixed /= mixed.sum(axis=1, keepdims=True)  # with eps in an expert, weights sum to less than 1
        np.testing.assert_allclose(mixture.weights(q, k), mixed, rtol=1e-5, atol=1e-7)
        again = ab.MixtureOfExpertsAttention(**json.loads(json.dumps(mixture.config)))
        again.set_parameters(mixture.parameters())
        assert again.weights(q, k).tolist() == mixture.weights(q, k).tolist()


class Nearest(ab.Attention):
    """Attends to the key of its own number: what a query attends to depends on its place."""

    name: ClassVar[str] = "nearest"
    calls: ClassVar[list] = []

    @property
    def config(self):
        return {}

    def _logits(self, batch):
        self.calls.append(batch.shape)
        out = np.zeros(batch.shape)
        out[:, np.arange(batch.shape[1]), np.arange(batch.shape[1])] = 5.0
        return out


def test_what_depends_on_a_querys_place_sees_all_queries(rng, qkv):
    q, k, v = qkv[0][:5], qkv[1], qkv[2]
    mixture = spread(ab.MixtureOfExpertsAttention([Nearest(), "scaled_dot", "gat"], d_model=7, top_k=1), rng)
    gates = top_gates(mixture.router_probabilities(q), 1)
    assert 0 < gates[:, 0].sum() < 5
    _, mixed = truth(mixture, q, k, v, gates, None, True)
    np.testing.assert_allclose(mixture.weights(q, k, is_causal=True), mixed, rtol=1e-5, atol=1e-7)


def test_an_expert_sees_the_queries_that_are_sent_to_it(rng, qkv, monkeypatch):
    q, k, _ = qkv
    seen = {}
    for kind in (ab.ScaledDotProductAttention, ab.LinearAttention, ab.GraphAttention):
        plain = kind._logits

        def counted(self, batch, plain=plain):
            seen[self.name] = seen.get(self.name, 0) + batch.shape[1]
            return plain(self, batch)

        monkeypatch.setattr(kind, "_logits", counted)
    mixture = spread(ab.MixtureOfExpertsAttention(d_model=7, top_k=1), rng)
    mixture.logits(q, k)
    choices = mixture.router_probabilities(q).argmax(axis=1)
    assert seen == {
        name: count for name, count in zip(DEFAULT, np.bincount(choices, minlength=3), strict=True) if count
    }


# ---- training


def test_capacity_by_hand():
    """Four queries that all want expert 0, then 1: ceil(0.5 * 2 * 4 / 2) = 2 places each; the last two get nothing."""
    mixture = ab.MixtureOfExpertsAttention(["scaled_dot", "linear"], d_model=1, capacity_factor=0.5)
    mixture.set_parameters({"W_r": [[math.log(3.0), 0.0]], "b_r": [0.0, 0.0]})
    q = np.ones((4, 1), np.float32)
    assert mixture._gates(q, True, 0).tolist() == pytest.approx(np.array([[0.75, 0.25]] * 2 + [[0, 0]] * 2))
    k, v = np.array([[0.5], [-1.0]]), np.array([[1.0], [2.0]])
    trained = mixture.forward(q, k, v, need_weights=True, training=True, seed=0)
    plain = mixture.forward(q, k, v, need_weights=True)
    assert trained.output[:2].tolist() == plain.output[:2].tolist()
    assert (trained.output[2:] == 0.0).all()
    assert (trained.weights[2:] == 0.0).all()
    assert (plain.output > 0.0).all()


def test_first_choices_go_before_second_ones():
    """Query 0 wants 0 then 1, query 1 wants 1 then 0; one place each: each keeps its first choice, whole."""
    mixture = ab.MixtureOfExpertsAttention(["scaled_dot", "linear"], d_model=1, capacity_factor=0.5)
    mixture.set_parameters({"W_r": [[1.0, -1.0]], "b_r": [0.0, 0.0]})
    assert mixture._gates(np.array([[1.0], [-1.0]]), True, 0).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_capacity_is_kept_and_gates_sum_to_1_or_0(rng):
    q = rng.standard_normal((101, 7)).astype(np.float32)
    for factor in (0.3, 1.0, 1.25, 3.0):
        mixture = spread(ab.MixtureOfExpertsAttention(d_model=7, capacity_factor=factor), rng)
        gates = mixture._gates(q, True, 0)
        assert (gates > 0).sum(axis=0).max() <= math.ceil(factor * 2 * 101 / 3)
        total = gates.sum(axis=1)
        assert np.isclose(total, 1.0).sum() + (total == 0.0).sum() == 101
        assert (total == 0.0).any() == (factor == 0.3)
        inference = mixture._gates(q, False, 0)
        np.testing.assert_allclose(inference.sum(axis=1), 1.0)
        if factor == 3.0:  # room for all
            np.testing.assert_allclose(gates, inference, rtol=1e-12)


def test_jitter_acts_in_training_only_and_by_the_seed(rng, qkv):
    q, k, v = qkv
    plain, shaken = (
        ab.MixtureOfExpertsAttention(d_model=7, jitter=jitter, capacity_factor=3.0) for jitter in (0.0, 0.5)
    )
    router = {"W_r": rng.standard_normal((7, 3)), "b_r": rng.standard_normal(3)}
    for mixture in (plain, shaken):
        mixture.set_parameters(router)
    want = plain.forward(q, k, v).output
    assert shaken.forward(q, k, v).output.tolist() == want.tolist()
    assert plain.forward(q, k, v, training=True, seed=1).output.tolist() == want.tolist()
    drawn = shaken.forward(q, k, v, training=True, seed=1).output
    assert not np.allclose(drawn, want)
    assert shaken.forward(q, k, v, training=True, seed=1).output.tolist() == drawn.tolist()
    assert not np.allclose(shaken.forward(q, k, v, training=True, seed=2).output, drawn)


def test_dropout_acts_in_training_only(qkv):
    q, k, v = qkv
    mixture = ab.MixtureOfExpertsAttention(dropout=0.5, capacity_factor=3.0)
    plain = mixture.forward(q, k, v, need_weights=True)
    drawn = mixture.forward(q, k, v, need_weights=True, training=True, seed=3)
    kept = drawn.weights > 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(drawn.weights[kept], 2 * plain.weights[kept], rtol=1e-6)
    np.testing.assert_allclose(drawn.output, drawn.weights @ v, rtol=1e-5, atol=1e-6)


# ---- settings


def test_every_option_acts(qkv):
    q, k, v = qkv
    plain = ab.MixtureOfExpertsAttention().forward(q, k, v).output
    for options in (
        {"experts": ["gat", "linear", "scaled_dot"]},
        {"experts": [("scaled_dot", {"scale": 3.0}), "linear", "gat"]},
        {"top_k": 1},
        {"seed": 1},
        {"causal": True},
    ):
        assert not np.allclose(ab.MixtureOfExpertsAttention(**options).forward(q, k, v).output, plain, atol=1e-4), (
            options
        )


def test_the_router_is_drawn_from_the_seed():
    router = ab.MixtureOfExpertsAttention(d_model=1000, seed=3).parameters()
    assert router["W_r"].std() == pytest.approx(0.02, rel=0.05)
    assert abs(router["W_r"].mean()) < 0.002
    assert (router["b_r"] == 0.0).all()
    assert router["W_r"].shape == (1000, 3)
    again = ab.MixtureOfExpertsAttention(d_model=1000, seed=3).parameters()
    assert again["W_r"].tolist() == router["W_r"].tolist()
    again["W_r"][:] = 0.0  # the caller's copy
    assert ab.MixtureOfExpertsAttention(d_model=1000, seed=3).parameters()["W_r"].any()
    rows = np.random.default_rng(0).standard_normal((5, 7))
    own = ab.MixtureOfExpertsAttention(seed=4)  # without d_model: the same router, of the queries' dimension
    fixed = ab.MixtureOfExpertsAttention(d_model=7, seed=4)
    assert own.router_probabilities(rows).tolist() == fixed.router_probabilities(rows).tolist()
    assert own.parameters() == {}
    assert fixed.router_probabilities(rows[0]).tolist() == fixed.router_probabilities(rows)[0].tolist()


def test_config_makes_an_equal_mechanism():
    options = {
        "experts": ["gat", ["linear", {"feature_map": "favor"}]],
        "d_model": 7,
        "top_k": 1,
        "capacity_factor": 2.0,
        "jitter": 0.1,
        "seed": 3,
        "causal": True,
        "dropout": 0.2,
        "max_seq_len": 9,
    }
    mixture = ab.MixtureOfExpertsAttention(**options)
    assert mixture.config == options
    config = ab.AttentionConfig(d_model=16, dropout=0.3, causal=True, max_seq_len=5)
    made = ab.MixtureOfExpertsAttention.from_config(config, ["gat", "linear"], top_k=1, seed=2).config
    want = {"d_model": 16, "dropout": 0.3, "causal": True, "max_seq_len": 5, "top_k": 1, "seed": 2}
    assert made.items() >= want.items()


# ---- the registry


def test_functions_are_the_class(qkv):
    q, k, v = qkv
    options = {"experts": ["gat", ("linear", {"feature_map": "favor"}), "dot"], "top_k": 2}
    mixture = ab.MixtureOfExpertsAttention(**options, seed=3)
    options["router_seed"] = 3
    for name in ("moe", "mixture_of_experts"):
        assert ab.attention(q, k, v, name, **options).tolist() == mixture.forward(q, k, v).output.tolist()
    logits = ab.attention_logits(q, k, "moe", **options)
    row, checked = resolve("moe", options)
    own, weights = np.empty(11), np.empty(11)
    for i in range(13):
        row.logits(q[i], 0.0, ab.metric.Keys(k), None, checked, own)
        np.testing.assert_allclose(own, logits[i], rtol=1e-12, atol=1e-12)
    row.weigh(q[12], 0.0, ab.metric.Keys(k), None, checked, own, weights)
    np.testing.assert_allclose(weights, mixture.weights(q[12], k), rtol=1e-6)
    row.logits(q[0], 0.0, ab.metric.Keys(k), np.empty(0, int), checked, np.empty(0))
    assert resolve("moe", json.loads(json.dumps(checked)))[1] == checked


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_in_the_bridge(rng, metric, tmp_path):
    rows, query = rng.standard_normal((60, 7)).astype(np.float32), rng.standard_normal(7).astype(np.float32)
    experts = ["gat", ("scaled_dot", {"scale": 20.0})]
    bridge = ab.AttentionVectorBridge(7, metric, "moe", candidates=60, experts=experts, router_seed=3)
    bridge.add(rows)
    hits = bridge.search(query, k=60)
    x, y = (a / np.linalg.norm(a, axis=-1, keepdims=True) if metric == "cosine" else a for a in (query, rows))
    want = ab.attention_logits(x, y, "moe", experts=experts, router_seed=3)
    np.testing.assert_allclose(hits.scores, want[hits.ids], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(hits.weights, np.exp(hits.scores), rtol=1e-9)
    bridge.save(tmp_path / "saved")
    with ab.AttentionVectorBridge.open(tmp_path / "saved") as again:
        assert again.search(query, k=60).scores.tolist() == hits.scores.tolist()


# ---- refusals

CONFIG, ONE = ab.InvalidConfigError, np.ones((1, 2))


def mixture(*args, **options):
    return ab.MixtureOfExpertsAttention(*args, **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mixture("gat"), CONFIG, "experts must be a sequence of at least one attention type, got 'gat'"),
        (lambda: mixture([]), CONFIG, r"experts must be a sequence of at least one attention type, got \[\]"),
        (lambda: mixture([5, "gat"]), CONFIG, r"experts must be names of attention types, or \(name, options\), got 5"),
        (lambda: mixture([("gat", 5), "gat"]), CONFIG, r"experts must be names .*got \('gat', 5\)"),
        (lambda: mixture(["gat", "nothing"]), CONFIG, "attention type must be one of .*; got 'nothing'"),
        (lambda: mixture([("gat", {"scale": 1.0}), "gat"]), CONFIG, "gat has no option 'scale'"),
        (lambda: mixture([{"name": "nothing"}, "gat"]), CONFIG, "a dict must have the name of one, got 'nothing'"),
        (lambda: mixture([{"scale": 1.0}, "gat"]), CONFIG, "a dict must have the name of one, got None"),
        (
            lambda: mixture([ab.ScaledDotProductAttention(dropout=0.1), "gat"]),
            CONFIG,
            "experts must have dropout 0, got ScaledDotProductAttention.*give dropout to the mixture",
        ),
        (
            lambda: mixture([ab.ScaledDotProductAttention(eps=0.1), "gat"]),
            CONFIG,
            r"experts of softmax attention must have eps 0, got ScaledDot.*weights are mixed as they are",
        ),
        (
            lambda: mixture([ab.GraphAttention(2, edge_dim=1), "gat"]),
            CONFIG,
            "experts must weigh by vectors alone: .*no edge_dim; got GraphAttention",
        ),
        (lambda: mixture([ab.GraphAttention(normalize=False), "gat"]), CONFIG, "experts must weigh by vectors alone"),
        (lambda: mixture([ab.GraphAttention(aggregation="max"), "gat"]), CONFIG, "experts must weigh by vectors alone"),
        (lambda: mixture(top_k=4), CONFIG, "top_k must be at most the number of experts, 3, got 4"),
        (lambda: mixture(top_k=0), CONFIG, "top_k must be a whole number >= 1, got 0"),
        (
            lambda: ab.AttentionVectorBridge(2, attention="moe", experts=["gat"]),
            CONFIG,
            "top_k must be at most the number of experts, 1, got 2",
        ),
        (
            lambda: ab.attention_scores(ONE, ONE, "moe", experts=["gat", "poincare"]),
            CONFIG,
            "experts must be pairwise types that score any vectors, got 'poincare'",
        ),
        (
            lambda: ab.attention_scores(ONE, ONE, "moe", experts=["gat", "moe"]),
            CONFIG,
            "experts must be pairwise types that score any vectors, got 'moe'",
        ),
        (
            lambda: ab.attention_scores(ONE, ONE, "moe", experts="gat"),
            CONFIG,
            "experts must be a sequence of at least one attention type, got 'gat'",
        ),
        (lambda: ab.attention_score([1.0], [1.0], "moe"), CONFIG, "attention_type must be pairwise .*got 'moe'"),
        (lambda: mixture(d_model=0), CONFIG, "d_model must be a whole number >= 1, got 0"),
        (lambda: mixture(capacity_factor=0.0), CONFIG, "capacity_factor must be a finite number > 0, got 0.0"),
        (lambda: mixture(jitter=-0.1), CONFIG, "jitter must be a finite number >= 0, got -0.1"),
        (lambda: mixture(jitter=1.0), CONFIG, r"jitter must be in \[0, 1\), got 1.0"),
        (lambda: mixture(seed=-1), CONFIG, "seed must be a whole number >= 0, got -1"),
        (lambda: mixture(causal=0), CONFIG, "causal must be True or False, got 0"),
        (lambda: mixture(dropout=1.0), CONFIG, r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: mixture(max_seq_len=0), CONFIG, "max_seq_len must be a whole number >= 1"),
        (
            lambda: mixture(max_seq_len=1).forward(np.ones((2, 2)), ONE, ONE),
            ab.InputTooLargeError,
            "query must be at most max_seq_len = 1 long, got 2",
        ),
        (
            lambda: mixture(d_model=3).forward(ONE, ONE, ONE),
            ab.DimensionMismatchError,
            "query must have dimension d_model = 3, got 2",
        ),
        (
            lambda: mixture(d_model=3).router_probabilities(ONE),
            ab.DimensionMismatchError,
            "query must have dimension d_model = 3, got 2",
        ),
        (
            lambda: mixture().router_probabilities([]),
            ab.DimensionMismatchError,
            r"query must be \(d,\) or \(\.\.\., L, d\), not empty, got shape \(0,\)",
        ),
        (lambda: mixture().router_probabilities([np.nan]), ab.InvalidInputError, "query must be finite"),
        (lambda: mixture().set_parameters({}), CONFIG, "set_parameters needs a mechanism with d_model"),
        (
            lambda: mixture(d_model=2).set_parameters({"W_r": np.ones((2, 3))}),
            CONFIG,
            "parameters must be W_r, b_r; got W_r",
        ),
        (
            lambda: mixture(d_model=2).set_parameters({"W_r": np.ones((3, 2)), "b_r": np.ones(3)}),
            ab.DimensionMismatchError,
            r"parameters\['W_r'\] must be \(2, 3\), got shape \(3, 2\)",
        ),
        (
            lambda: mixture(d_model=2).set_parameters({"W_r": np.ones((2, 3)), "b_r": [1.0, np.inf, 0.0]}),
            ab.InvalidInputError,
            r"parameters\['b_r'\] must be finite: position 1 is inf",
        ),
        (
            lambda: mixture().forward(ONE, [[-np.inf, 1.0]], ONE),
            ab.InvalidInputError,
            "key must be finite: row 0, column 0 is -inf",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_default_experts_are_pairwise():
    assert moe.EXPERTS == DEFAULT
    assert all(resolve(name, {})[0].pairwise for name in moe.EXPERTS)
