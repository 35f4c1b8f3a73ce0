"""Linear attention: closed forms, float64 truth, FAVOR+'s convergence, masks, and every refusal."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from memory import peak, traced

import attnbridge as ab
from attnbridge import kernels
from attnbridge.mechanisms.linear import log_features, orthogonal_directions
from attnbridge.scoring import REGISTRY, resolve

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

MAX32 = float(np.finfo(np.float32).max)
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (13, 11, 7, 5), (3, 101, 17, 2)]
MAPS = [{"feature_map": "elu"}, {"feature_map": "favor", "num_features": 19, "seed": 3}]
IDS = ["elu", "favor"]


def elu1(x):
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x + 1.0, np.exp(np.minimum(x, 0.0)))


def phi(x, feature_map="elu", num_features=None, seed=None, scale=None):
    """Return features as the papers write them."""
    x = np.asarray(x, np.float64)
    if feature_map == "elu":
        return elu1(x * math.sqrt(scale or 1.0))
    x = x * math.sqrt(scale or x.shape[-1] ** -0.5)
    w = orthogonal_directions(x.shape[-1], num_features or 256, seed or 0)
    return np.exp(x @ w.T - (x * x).sum(axis=-1, keepdims=True) / 2) / math.sqrt(len(w))


def truth(q, k, v, mask=None, causal=False, eps=0.0, **options):
    """Return output and weights by all pairs."""
    products = phi(q, **options) @ np.swapaxes(phi(k, **options), -1, -2)
    if mask is not None:
        products = products * (mask if np.asarray(mask).dtype == bool else np.exp(mask))
    if causal:
        products = np.where(np.tril(np.ones(products.shape[-2:], bool)), products, 0.0)
    total = products.sum(axis=-1, keepdims=True) + eps
    weights = products / np.where(total == 0.0, 1.0, total)
    return weights @ v.astype(np.float64), weights


def inputs(rng, count, keys, dim, width, dtype=np.float32):
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in ((count, dim), (keys, dim), (keys, width)))
    k[keys // 2], k[-1] = 0.0, k[0]
    return q, k, v


# ---- closed forms


def test_elu_by_hand():
    """phi(q) = [2, 1], phi(k) = [2, 1] and [1, 2]: products 5 and 4."""
    mechanism = ab.LinearAttention()
    output, weights, _ = mechanism.forward(
        [1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[10.0, 0.0, 3.0], [20.0, 9.0, 3.0]], need_weights=True
    )
    np.testing.assert_allclose(weights, [5 / 9, 4 / 9], rtol=1e-6)
    np.testing.assert_allclose(output, [130 / 9, 4.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(mechanism.logits([1.0, 0.0], [[1.0, 0.0]]), [math.log(5.0)], rtol=1e-12)
    # phi(-log 2) = 1/2
    np.testing.assert_allclose(mechanism.logits([-math.log(2.0)], [[3.0]]), [math.log(2.0)], rtol=1e-6)


def test_one_favor_feature_by_hand():
    """exp(w x - x^2/2) exp(w y - y^2/2), x = sqrt(scale) q."""
    (w,) = orthogonal_directions(1, 1, 5)[0]
    mechanism = ab.LinearAttention("favor", num_features=1, seed=5, scale=4.0)
    x, y = 2.0 * 0.3, 2.0 * -0.7
    want = w * (x + y) - (x * x + y * y) / 2
    np.testing.assert_allclose(mechanism.logits(np.array([0.3]), np.array([[-0.7]])), [want], rtol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", MAPS, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(rng, shape, dtype, options, causal):
    q, k, v = inputs(rng, *shape, dtype)
    output, weights, context = ab.LinearAttention(**options, causal=causal).forward(
        q, k, v, need_weights=True, need_context=True
    )
    want, shares = truth(q, k, v, causal=causal, **options)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(output, want, **close)
    np.testing.assert_allclose(weights, shares, **close)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
    assert output.dtype == weights.dtype == dtype
    logits = ab.LinearAttention(**options, causal=causal).logits(q, k)
    np.testing.assert_allclose(np.exp(logits - context.logsumexp[:, None]), shares, rtol=1e-5, atol=1e-9)
    alone = ab.LinearAttention(**options, causal=causal).forward(q, k, v).output
    assert alone.tolist() == output.tolist()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", MAPS, ids=IDS)
def test_masks(rng, options, causal):
    """Of keys for one or all problems, of pairs, and added ones: all of them give the pairwise result."""
    q = rng.standard_normal((2, 3, 5, 7)).astype(np.float32)
    k, v = rng.standard_normal((2, 1, 11, 7)).astype(np.float32), rng.standard_normal((3, 11, 2)).astype(np.float32)
    mechanism = ab.LinearAttention(**options, causal=causal)
    masks = {
        "keys": rng.random(11) < 0.5,
        "keys of a problem": rng.random((2, 1, 1, 11)) < 0.5,
        "one": np.asarray(True),
        "pairs": rng.random((5, 11)) < 0.5,
        "none": np.zeros((3, 1, 11), bool),
        "added": rng.standard_normal((3, 5, 11)),
        "added to keys": np.where(rng.random(11) < 0.5, -np.inf, 0.3),
    }
    for name, mask in masks.items():
        output, weights, context = mechanism.forward(q, k, v, mask, need_weights=True, need_context=True)
        want, shares = truth(q, k, v, mask, causal, **options)
        np.testing.assert_allclose(output, want, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(weights, shares, rtol=1e-4, atol=1e-6, err_msg=name)
        nothing = (shares == 0.0).all(axis=-1)
        assert (output[nothing] == 0.0).all()
        assert (np.isneginf(context.logsumexp) == nothing).all()
    assert nothing.any() == causal  # the first key is masked: a causal first query has none
    dense = mechanism.forward(q, k, v, np.broadcast_to(masks["keys"], (5, 11))).output
    np.testing.assert_allclose(mechanism.forward(q, k, v, masks["keys"]).output, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", MAPS, ids=IDS)
def test_invariants(rng, options):
    q, k, v = inputs(rng, 5, 11, 7, 3)
    mechanism = ab.LinearAttention(**options)
    output, weights, _ = mechanism.forward(q, k, v, need_weights=True)
    order = rng.permutation(11)
    np.testing.assert_allclose(mechanism.forward(q, k[order], v[order]).output, output, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mechanism.weights(q, k[order]), weights[:, order], rtol=1e-6)
    for i in range(5):  # a batch is a loop, to the bit
        assert mechanism.forward(q[i], k, v).output.tolist() == output[i].tolist()
        assert mechanism.logits(q[i], k[2:3]).tolist() == mechanism.logits(q, k)[i, 2:3].tolist()
    stacked = mechanism.forward(np.stack([q, 2 * q]), np.stack([k, k[order]]), v, is_causal=True).output
    assert stacked[1].tolist() == mechanism.forward(2 * q, k[order], v, is_causal=True).output.tolist()
    later = v.copy()
    later[3:] = 1e6
    causal = mechanism.forward(q, k, v, is_causal=True).output
    assert mechanism.forward(q, k, later, is_causal=True).output[:3].tolist() == causal[:3].tolist()
    assert (weights[:, 0] == weights[:, -1]).all()  # equal keys


@pytest.mark.parametrize("options", MAPS, ids=IDS)
@pytest.mark.parametrize("length", [1e-30, 1e2, 1e5, MAX32 / 2])
def test_vectors_of_any_length(rng, options, length):
    """Features of long vectors are far beyond float64; the quotient is not."""
    signs = rng.choice([-1.0, 1.0], (5, 7))
    rows = (length * signs).astype(np.float32)
    mechanism = ab.LinearAttention(**options)
    for causal in (False, True):
        output, weights, _ = mechanism.forward(rows, rows, np.eye(5, dtype=np.float32), None, causal, need_weights=True)
        np.testing.assert_allclose(output, weights, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    assert np.isfinite(mechanism.logits(rows, rows)).all()
    same = np.full((3, 7), length, np.float32)
    np.testing.assert_allclose(mechanism.weights(same, same), 1 / 3, rtol=1e-6)


def test_products_below_float64_are_summed_in_logarithms():
    """elu + 1 of -400 is exp(-400): the largest of one key meets the smallest of the query."""
    q, k = np.array([0.0, -800.0]), np.array([[-800.0, 0.0], [-300.0, -800.0]])
    got = ab.LinearAttention().logits(q, k)
    np.testing.assert_allclose(got, [-800.0 + math.log(2.0), -300.0], rtol=1e-12)
    np.testing.assert_allclose(ab.LinearAttention().weights(q, k), [0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("queries", [5, 13])
def test_extreme_rows_among_plain_ones(rng, queries):
    """Plain features and logarithms agree, and a pair has the same logit whatever rows are beside it."""
    q, k, v = inputs(rng, queries, 11, 7, 3, np.float64)
    q[1, 0], q[2, 1], k[3, 2], k[4, 0] = -1e3, 1e200, 1e150, -700.0
    got = ab.LinearAttention().logits(q, k)
    _, options = resolve("linear", {})
    logs = [log_features(rows, options, "rows") for rows in (q, k)]
    np.testing.assert_allclose(got, np.logaddexp.reduce(logs[0][:, None] + logs[1], axis=2), rtol=1e-12, atol=1e-12)
    for i, j in itertools.product(range(queries), range(11)):
        assert ab.attention_score(q[i], k[j], "linear") == got[i, j]
    weights = ab.LinearAttention().weights(q, k)
    np.testing.assert_allclose(ab.LinearAttention().forward(q, k, v).output, weights @ v, rtol=1e-10, atol=1e-12)


def test_sums_do_not_depend_on_where_arrays_lie(rng):
    """Small arrays between others that come and go: some lie closer than a vector loop's stride."""
    given = [np.abs(rng.standard_normal((n, width))) for n, width in ((2, 5), (3, 5), (3, 7))]
    results, around = set(), []
    for _ in range(2000):
        around.append(np.empty(int(rng.integers(1, 40))))
        if len(around) > 30:
            del around[int(rng.integers(30))]
        out, total = np.empty((2, 7)), np.empty(2)
        arrays = [array.copy() for array in given]
        kernels.linear_attention(*arrays, np.ones(3, np.bool_), False, out, total)
        results.add(out.tobytes() + total.tobytes())
    assert len(results) == 1


# ---- FAVOR+


@pytest.mark.parametrize(("dim", "features"), [(1, 3), (7, 5), (7, 19), (11, 22)])
def test_directions_are_orthogonal_in_blocks(dim, features):
    directions = orthogonal_directions(dim, features, 0)
    assert directions.shape == (features, dim)
    for start in range(0, features, dim):
        block = directions[start : start + dim]
        products = block @ block.T
        np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-12)


def test_directions_are_gaussian_each():
    """Of 4,000 blocks: mean 0, covariance 1, and lengths with the variance of chi."""
    drawn = np.stack([orthogonal_directions.__wrapped__(3, 3, seed) for seed in range(4000)])
    for direction in (drawn[:, 0], drawn[:, 2]):
        assert np.abs(direction.mean(axis=0)).max() < 0.06
        np.testing.assert_allclose(np.cov(direction.T), np.eye(3), atol=0.09)
        assert (direction**2).sum(axis=1).var() == pytest.approx(6.0, rel=0.1)  # chi^2 with 3 degrees


def test_favor_is_unbiased(rng):
    """The mean of phi(q) . phi(k) over directions is exp(scale q . k)."""
    q, k = rng.standard_normal((2, 5)) * 0.7
    products = [
        np.exp(ab.LinearAttention("favor", num_features=64, seed=seed, scale=0.6).logits(q, k[None])[0])
        for seed in range(300)
    ]
    error = np.std(products) / math.sqrt(300)
    assert abs(np.mean(products) - math.exp(0.6 * q @ k)) < 4 * error
    assert error < 0.1 * math.exp(0.6 * q @ k)


def test_favors_error_falls_with_the_root_of_the_features():
    from bench_favor import FEATURES, favor_error, geometric_mean

    means = [geometric_mean([favor_error(count, seed, 128, 64) for seed in range(4)]) for count in FEATURES]
    ratios = [few / many for few, many in itertools.pairwise(means)]
    assert geometric_mean(ratios) >= 1.6
    assert min(ratios) > 1.2
    assert means[-1] < 0.2


def test_favor_comes_near_softmax_attention(rng):
    q, k, v = (array / 2 for array in inputs(rng, 13, 11, 5, 3, np.float64))
    for scale in (None, 0.9):
        want = ab.ScaledDotProductAttention(scale=scale).forward(q, k, v).output
        got = ab.LinearAttention("favor", num_features=20_000, scale=scale).forward(q, k, v).output
        np.testing.assert_allclose(got, want, atol=0.02)


# ---- options


def test_every_option_acts(rng):
    q, k, v = inputs(rng, 5, 11, 7, 3)
    plain = ab.LinearAttention("favor").forward(q, k, v).output
    for options in ({"num_features": 255}, {"seed": 1}, {"scale": 0.5}, {"eps": 0.1}, {"causal": True}):
        assert not np.allclose(ab.LinearAttention("favor", **options).forward(q, k, v).output, plain)
    assert not np.allclose(ab.LinearAttention().forward(q, k, v).output, plain)
    for options in ({"num_features": 256}, {"seed": 0}, {"scale": 7**-0.5}):
        assert ab.LinearAttention("favor", **options).forward(q, k, v).output.tolist() == plain.tolist()
    assert not np.allclose(
        ab.LinearAttention(scale=0.5).forward(q, k, v).output, ab.LinearAttention().forward(q, k, v)[0]
    )


@pytest.mark.parametrize("mask", [None, "pairs"])
def test_eps_is_in_the_denominator(rng, mask):
    q, k, v = inputs(rng, 5, 11, 7, 3)
    mask = None if mask is None else rng.random((5, 11)) < 0.5
    output, weights, context = ab.LinearAttention(eps=3.0).forward(q, k, v, mask, need_weights=True, need_context=True)
    want, shares = truth(q, k, v, mask, eps=3.0)
    np.testing.assert_allclose(output, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights, shares, rtol=1e-5)
    logits = ab.LinearAttention(eps=3.0).logits(q, k, mask)
    np.testing.assert_allclose(np.exp(logits - context.logsumexp[:, None]), shares, rtol=1e-5)
    masked = ab.LinearAttention(eps=3.0).forward(q, k, v, np.zeros((1, 11), bool), need_context=True)
    assert (masked.output == 0.0).all()
    assert np.isneginf(masked.context.logsumexp).all()


def test_training_has_nothing_to_drop(rng):
    q, k, v = inputs(rng, 5, 11, 7, 3)
    mechanism = ab.LinearAttention()
    assert mechanism.forward(q, k, v, training=True).output.tolist() == mechanism.forward(q, k, v).output.tolist()


def test_config_makes_an_equal_mechanism():
    for options in (
        {},
        {"feature_map": "favor", "num_features": 3, "seed": 2, "scale": 2.0, "eps": 1e-3, "causal": True},
    ):
        mechanism = ab.LinearAttention(**options)
        assert ab.LinearAttention(**mechanism.config).config == mechanism.config
        assert mechanism.config.items() >= options.items()
    made = ab.LinearAttention.from_config(
        ab.AttentionConfig(scale=2.0, eps=1e-3, causal=True, max_seq_len=5), feature_map="favor", num_features=7, seed=1
    )
    assert made.config == {
        "feature_map": "favor",
        "num_features": 7,
        "seed": 1,
        "scale": 2.0,
        "eps": 1e-3,
        "causal": True,
        "d_model": 512,
        "max_seq_len": 5,
    }


# ---- the registry


@pytest.mark.parametrize("options", MAPS, ids=IDS)
def test_functions_are_the_class(rng, options):
    q, k, v = inputs(rng, 5, 11, 7, 3)
    mechanism = ab.LinearAttention(**options)
    if "seed" in options:
        options = {name: value for name, value in options.items() if name != "seed"} | {"feature_seed": options["seed"]}
    for name in ("linear", "performer", "linear_attention"):
        assert ab.attention(q, k, v, name, **options).tolist() == mechanism.forward(q, k, v).output.tolist()
    logits = ab.attention_logits(q, k, "linear", **options)
    assert ab.attention_score(q[2], k[3], "linear", **options) == logits[2, 3]
    own = np.empty(11)
    row, checked = resolve("linear", options)
    row.logits(q[2], 0.0, ab.metric.Keys(k), None, checked, own)
    assert own.tolist() == logits[2].tolist()
    few = np.empty(3)
    row.logits(q[2], 0.0, ab.metric.Keys(k), np.array([7, 0, 7]), checked, few)
    assert few.tolist() == logits[2, [7, 0, 7]].tolist()
    assert row.pairwise
    assert REGISTRY["linear"].build_space == "metric"


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_in_the_bridge(rng, metric, dtype, tmp_path):
    """Over stored rows of any kind: the order of the logits of unit rows under cosine, of the rows otherwise."""
    rows, query = rng.standard_normal((60, 7)).astype(np.float32), rng.standard_normal(7).astype(np.float32)
    bridge = ab.AttentionVectorBridge(
        7, metric, "linear", feature_map="favor", num_features=32, feature_seed=1, scale=0.8, dtype=dtype, candidates=60
    )
    bridge.add(rows)
    hits = bridge.search(query, k=60)
    x, y = (a / np.linalg.norm(a, axis=-1, keepdims=True) if metric == "cosine" else a for a in (query, rows))
    want = ab.attention_logits(x, y, "linear", feature_map="favor", num_features=32, feature_seed=1, scale=0.8)
    close = {"float32": 1e-5, "float16": 1e-2, "int8": 1e-1}[dtype]
    np.testing.assert_allclose(hits.scores, want[hits.ids], atol=close)
    np.testing.assert_allclose(hits.weights.sum(), 1.0, rtol=1e-9)
    assert (np.diff(hits.scores) <= 0).all()
    bridge.save(tmp_path / "saved")
    with ab.AttentionVectorBridge.open(tmp_path / "saved") as again:
        assert again.search(query, k=60).scores.tolist() == hits.scores.tolist()


def test_memory_is_linear(rng):
    """Pairs would take 2 GB; features, queries, keys, values and output are a handful of (n, 8) in float64."""
    n = 16_000
    q = rng.standard_normal((n, 8)).astype(np.float32)
    mechanism = ab.LinearAttention()
    mechanism.forward(q[:2], q[:2], q[:2], is_causal=True)
    with traced():
        mechanism.forward(q, q, q, rng.random(n) < 0.9, is_causal=True)
        assert peak() < 16 * n * 8 * 8


# ---- refusals


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: ab.LinearAttention("relu"),
            ab.InvalidConfigError,
            "feature_map must be one of elu, favor; got 'relu'",
        ),
        (
            lambda: ab.LinearAttention(num_features=5),
            ab.InvalidConfigError,
            "num_features is of feature_map='favor' only, got 5 with 'elu'",
        ),
        (lambda: ab.LinearAttention(seed=0), ab.InvalidConfigError, "seed is of feature_map='favor' only, got 0"),
        (
            lambda: ab.attention([1.0], [[1.0]], [[1.0]], "linear", num_features=5),
            ab.InvalidConfigError,
            "num_features is of feature_map='favor' only",
        ),
        (
            lambda: ab.AttentionGraph.from_arrays([[0], [0]], [[1.0]], attention="linear", num_features=99),
            ab.InvalidConfigError,
            "num_features is of feature_map='favor' only, got 99 with 'elu'",
        ),
        (
            lambda: ab.AttentionGraph.from_arrays([[0], [0]], [[1.0]], attention="linear", feature_seed=1),
            ab.InvalidConfigError,
            "feature_seed is of feature_map='favor' only, got 1 with 'elu'",
        ),
        (
            lambda: ab.AttentionVectorBridge(3, attention="linear", num_features=5),
            ab.InvalidConfigError,
            "num_features is of feature_map='favor' only",
        ),
        (
            lambda: ab.LinearAttention("favor", num_features=0),
            ab.InvalidConfigError,
            "num_features must be .* >= 1, got 0",
        ),
        (lambda: ab.LinearAttention("favor", seed=-1), ab.InvalidConfigError, "seed must be .* >= 0, got -1"),
        (lambda: ab.LinearAttention(scale=0.0), ab.InvalidConfigError, "scale must be a finite number > 0, got 0.0"),
        (lambda: ab.LinearAttention(eps=-1.0), ab.InvalidConfigError, "eps must be a finite number >= 0, got -1.0"),
        (lambda: ab.LinearAttention(causal=1), ab.InvalidConfigError, "causal must be True or False, got 1"),
        (lambda: ab.LinearAttention(max_seq_len=0), ab.InvalidConfigError, "max_seq_len must be .* >= 1, got 0"),
        (
            lambda: ab.LinearAttention(max_seq_len=2).forward(np.ones((3, 2)), np.ones((2, 2)), np.ones((2, 2))),
            ab.InputTooLargeError,
            "query must be at most max_seq_len = 2 long, got 3; raise max_seq_len, or cut it",
        ),
        (
            lambda: ab.LinearAttention(max_seq_len=2).logits([1.0], np.ones((3, 1))),
            ab.InputTooLargeError,
            "key must be at most max_seq_len = 2 long, got 3",
        ),
        (
            lambda: ab.LinearAttention("favor").logits(np.array([1e200]), np.array([[1.0]])),
            ab.InvalidInputError,
            r"query must have squared lengths within float64 \(1.8e308\); rescale it",
        ),
        (
            lambda: ab.LinearAttention("favor").forward(np.array([1.0]), np.array([[1e200]]), [[1.0]]),
            ab.InvalidInputError,
            "key must have squared lengths within float64",
        ),
        (
            lambda: ab.LinearAttention().forward([1.0], [[-np.inf]], [[1.0]]),
            ab.InvalidInputError,
            "key must be finite: row 0, column 0 is -inf",
        ),
        (
            lambda: ab.LinearAttention().forward([1.0], [[1.0], [2.0]], [[1.0], [np.nan]]),
            ab.InvalidInputError,
            "value must be finite: row 1, column 0 is nan",
        ),
        (lambda: ab.LinearAttention().forward([1.0], [[1.0]], [[1.0]], seed=-1), ab.InvalidConfigError, "seed must be"),
        (
            lambda: ab.LinearAttention().forward([1.0, 2.0, 3.0], [[1.0, 1.0]], [[1.0]]),
            ab.DimensionMismatchError,
            "Query and key dimensions must match: 3 vs 2",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_log_features_of_nothing():
    for options in ({}, {"feature_map": "favor", "num_features": 19}):
        _, checked = resolve("linear", options)
        assert log_features(np.empty((0, 7), np.float32), checked, "keys").shape[0] == 0
    row, checked = resolve("linear", {})
    row.logits(
        np.ones(3, np.float32), 0.0, ab.metric.Keys(np.ones((2, 3), np.float32)), np.empty(0, int), checked, np.empty(0)
    )


def test_the_kernel_shrinks_what_came_before():
    """A later key whose features are e^1000 times larger: alone it counts, and what a causal query saw before stays."""
    query, key = np.zeros((2, 1)), np.array([[0.0], [1000.0]])
    out, normalizer = np.empty((2, 1)), np.empty(2)
    kernels.linear_attention(query, key, np.array([[3.0], [5.0]]), np.ones(2, bool), True, out, normalizer)
    assert out.tolist() == [[3.0], [5.0]]
    assert normalizer.tolist() == [0.0, 1000.0]
