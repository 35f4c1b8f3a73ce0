"""Scaled dot-product attention in tiles and streams: against float64, against torch, and what it promises."""

import json

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.kernels.tile import exp_nonpositive_float32
from attnbridge.mechanisms.base import Batch
from attnbridge.mechanisms.dense import FEW, attend_dense, attend_plain
from attnbridge.mechanisms.standard import PLAIN
from attnbridge.scoring import REGISTRY

MAX32 = float(np.finfo(np.float32).max)
DOT = ab.ScaledDotProductAttention()


def truth(q, k, v, *, scale=None, mask=None, left=None, right=None):
    """Return output and weights in float64 numpy, over any leading axes."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    logits = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf) if np.asarray(mask).dtype == bool else logits + mask
    i, j = np.arange(q.shape[-2])[:, None], np.arange(k.shape[-2])
    if left is not None:
        logits = np.where(j < i - left, -np.inf, logits)
    if right is not None:
        logits = np.where(j > i + right, -np.inf, logits)
    highest = logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits - np.where(np.isinf(highest), 0.0, highest))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / np.where(total == 0.0, 1.0, total)
    return weights @ v, weights


def near(got, want, rtol=1e-5):
    """Hold together to a relative error of the largest number of each output."""
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * max(np.abs(want).max(), 1e-30))


def made(rng, *shapes, dtype=np.float32):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


# ---- truth


SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (FEW, 67, 13, 11), (FEW + 1, 67, 13, 11), (37, 131, 67, 17), (101, 1009, 3, 131)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("queries", "keys", "dim", "width"), SHAPES)
@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal", "keys"])
def test_against_float64(rng, queries, keys, dim, width, kind, dtype):
    q, k, v = made(rng, (queries, dim), (keys, dim), (keys, width), dtype=dtype)
    mask = {
        "bool": rng.random((queries, keys)) < 0.6,
        "float": np.where(rng.random((queries, keys)) < 0.6, rng.standard_normal((queries, keys)), -np.inf),
        "keys": rng.random(keys) < 0.6,
    }.get(kind)
    right = 0 if kind == "causal" else None
    want, weights = truth(q, k, v, mask=mask, right=right)
    got = DOT.forward(q, k, v, mask, kind == "causal", need_weights=True, need_context=True)
    tolerance = 1e-5 if dtype == np.float32 else 1e-11
    near(got.output, want, tolerance)
    near(got.weights, weights, tolerance)
    assert got.output.dtype == got.weights.dtype == dtype
    assert DOT.forward(q, k, v, mask, kind == "causal").output.tobytes() == got.output.tobytes()
    near(DOT.weights(q, k, mask, kind == "causal"), weights, tolerance)
    logits = DOT.logits(q, k, mask, kind == "causal")
    assert got.context.logsumexp.shape == (queries,)
    np.testing.assert_allclose(got.context.logsumexp, np.logaddexp.reduce(logits, axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", [3, 70])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 5), (7, 2), (40, 33), (500, 500)])
@pytest.mark.parametrize("keys", [1, 41, 257])
def test_bands(rng, queries, keys, left, right):
    q, k, v = made(rng, (queries, 5), (keys, 5), (keys, 7))
    got = attend_dense(Batch.of(q, k, v), scale=0.5, left=left, right=right, need_weights=True)
    want, weights = truth(q, k, v, scale=0.5, left=left, right=right)
    near(got.output[0], want)
    near(got.weights[0], weights)
    assert (got.weights[0][weights == 0.0] == 0.0).all()


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("block", [1, 3, 64, 1000])
def test_heads_side_by_side_are_those_of_each_alone(rng, queries, block):
    heads, dim, width = 3, 5, 7
    q, k, v = made(rng, (2, queries, heads * dim), (2, 83, heads * dim), (1, 83, heads * width))
    mask = rng.random((2, queries, 83)) < 0.8
    batch = Batch.of(q, k, v, mask)
    got = attend_dense(batch, scale=0.4, heads=heads, need_weights=True, rate=0.2, draw=9, block=block)
    assert got.output.shape == (2, queries, heads * width)
    assert got.weights.shape == (2, heads, queries, 83)
    assert got.logsumexp.shape == (2, heads, queries)
    for h in range(heads):
        parts = [np.ascontiguousarray(np.split(array, heads, axis=-1)[h]) for array in (q, k, v)]
        weights = truth(*parts, scale=0.4, mask=mask)[1]
        logits = np.where(mask, parts[0].astype(float) @ np.swapaxes(parts[1], 1, 2).astype(float) * 0.4, -np.inf)
        np.testing.assert_allclose(got.logsumexp[:, h], np.logaddexp.reduce(logits, axis=-1), rtol=1e-5, atol=1e-5)
        kept = got.weights[:, h] > 0.0
        near(got.weights[:, h][kept], (weights / 0.8)[kept])
        near(got.output[..., h * width : (h + 1) * width], got.weights[:, h].astype(float) @ parts[2].astype(float))
    assert attend_dense(batch, scale=0.4, heads=heads, rate=0.2, draw=9, block=block).output.tobytes() == (
        got.output.tobytes()
    )


def test_exp_in_float32():
    x = np.concatenate([np.linspace(-87.0, 0.0, 200_001), -np.geomspace(1e-30, 1.0, 301)]).astype(np.float32)
    got = np.array([exp_nonpositive_float32(value) for value in x])
    np.testing.assert_allclose(got, np.exp(x.astype(float)), rtol=3e-7)
    for below in (-87.5, -1e30, -np.inf):
        assert exp_nonpositive_float32(np.float32(below)) == 0.0


# ---- torch


@pytest.mark.parametrize("queries", [1, FEW + 1, 67])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float", "broadcast"])
def test_against_torch(rng, queries, kind):
    torch = pytest.importorskip("torch")
    q, k, v = made(rng, (2, 3, queries, 17), (2, 3, 101, 17), (2, 3, 101, 13))
    mask = {
        "bool": rng.random((2, 3, queries, 101)) < 0.7,
        "float": rng.standard_normal((queries, 101)).astype(np.float32),
        "broadcast": rng.random((2, 1, 1, 101)) < 0.7,
    }.get(kind)
    want = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)), None if mask is None else torch.from_numpy(mask), is_causal=kind == "causal"
    ).numpy()
    for mechanism in (DOT, ab.FlashAttention(33)):
        near(mechanism.forward(q, k, v, mask, kind == "causal").output, want)


# ---- promises


@pytest.mark.parametrize("queries", [1, 5, 33, 70])
def test_a_batch_is_the_loop_over_its_slices(rng, queries):
    q, k, v = made(rng, (2, 3, queries, 19), (2, 3, 71, 19), (2, 3, 71, 23))
    whole = ab.attention(q, k, v)
    careful = DOT.forward(q, k, v, np.ones((queries, 71), bool)).output
    for b in np.ndindex(2, 3):
        assert whole[b].tobytes() == ab.attention(q[b], k[b], v[b]).tobytes()
        assert careful[b].tobytes() == whole[b].tobytes()
    shared = ab.attention(q, k[:1, :1], v[:1, :1])
    assert shared[1, 2].tobytes() == ab.attention(q[1, 2], k[0, 0], v[0, 0]).tobytes()


@pytest.mark.parametrize("queries", [3, 33, 70])
def test_a_query_does_not_depend_on_its_neighbours(rng, queries):
    """Not on huge ones either, nor on whether it goes by tile or stream."""
    q, k, v = made(rng, (queries, 19), (300, 19), (300, 23))
    alone = ab.attention(q[1], k, v)
    among = ab.attention(q, k, v)[1]
    np.testing.assert_allclose(among, alone, rtol=1e-5, atol=1e-6)
    q[0], q[2] = MAX32 / 2, 1e6
    assert ab.attention(q, k, v)[1].tobytes() == among.tobytes()


def test_the_same_bits_on_any_number_of_threads(rng, monkeypatch):
    q, k, v = made(rng, (2, 1031, 32), (2, 1031, 32), (2, 1031, 32))
    mask = rng.random((1031, 1031)) < 0.5
    results = set()
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("ATTNBRIDGE_NUM_THREADS", threads)
        results.add(DOT.forward(q, k, v, mask).output.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("queries", [1, 4, 40])
def test_the_quick_way_has_the_numbers_of_the_careful_one(rng, queries):
    q, k, v = made(rng, (queries, 24), (90, 24), (90, 12))
    quick = attend_plain(q, k, v, max_keys=90)
    assert quick.tobytes() == DOT.forward(q, k, v).output.tobytes()
    heads = attend_plain(q, k, v, heads=3, scale=0.3, max_keys=90)
    assert heads.tobytes() == attend_dense(Batch.of(q, k, v), heads=3, scale=0.3).output.tobytes()
    assert ab.attention(q[0], k, v).shape == (12,)
    for name in PLAIN:
        assert ab.attention(q, k, v, name).tobytes() == ab.attention(q.tolist(), k.tolist(), v.tolist(), name).tobytes()
    quick[:] = 0.0  # the caller's own
    assert ab.attention(q, k, v).any()


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, v: (q.tolist(), k, v),
        lambda q, k, v: (q.astype(np.float64), k, v),
        lambda q, k, v: (q[:, ::-1], k, v),
        lambda q, k, v: (q, k[:, :1], v),
        lambda q, k, v: (q, k, v[1:]),
        lambda q, k, v: (q, k[0], v),
        lambda q, k, v: (q[None], k, v),
        lambda q, k, v: (q, k[None], v[None]),
        lambda q, k, v: (q, k[:0], v[:0]),
        lambda q, k, v: (q, k, v[:, :0]),
        lambda q, k, v: (q[:, :0], k[:, :0], v),
        lambda q, k, v: (q[:0], k, v),
        lambda q, k, v: (np.float32(1.0).reshape(()), k, v),
        lambda q, k, v: (q * np.float32(1e30), k, v),
        lambda q, k, v: (q, np.repeat(k, 8, axis=0), np.repeat(v, 8, axis=0)),
    ],
    ids=range(15),
)
def test_the_quick_way_leaves_what_needs_care(rng, change):
    q, k, v = change(*made(rng, (5, 24), (90, 24), (90, 12)))
    assert attend_plain(q, k, v, max_keys=100) is None


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("queries", [1, 4, 40])
@pytest.mark.parametrize("mechanism", [DOT, ab.FlashAttention(causal=True), ab.SlidingWindowAttention(3)], ids=str)
def test_what_is_not_finite_is_refused_by_row(rng, mechanism, queries, place, bad):
    arrays = made(rng, (queries, 7), (90, 7), (90, 5))
    row = (0, 80, 80)[place]
    arrays[place][row, 3] = bad
    name = ("query", "key", "value")[place]
    with pytest.raises(ab.InvalidInputError, match=rf"{name} must be finite: row {row}, column 3 is {bad}"):
        mechanism.forward(*arrays)
    if mechanism is DOT:
        name = ("query", "keys", "values")[place]
        with pytest.raises(ab.InvalidInputError, match=f"{name} must be finite"):
            ab.attention(*arrays)


# ---- numbers at the ends of float32


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("scale", [None, 1.0, 4.0, 30.0, 1e4])
def test_large_logits(rng, queries, scale):
    """Beyond what float32 holds to 1e-5."""
    q, k, v = made(rng, (queries, 31), (500, 31), (500, 3))
    near(DOT.forward(q, k, v).output, truth(q, k, v)[0])
    mechanism = ab.ScaledDotProductAttention(scale=scale)
    want, weights = truth(q, k, v, scale=scale)
    got = mechanism.forward(q, k, v, need_weights=True)
    near(got.output, want)
    seen = weights > 1e-25
    np.testing.assert_allclose(got.weights[seen], weights[seen], rtol=2e-5)


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("level", [30.0, -30.0, 1e3, -1e3, 1e20, -1e20, MAX32 / 2, -MAX32 / 2])
def test_equal_logits_of_any_size_give_equal_weights(queries, level):
    q, k = np.ones((queries, 1), np.float32), np.full((7, 1), level, np.float32)
    v = np.arange(14.0, dtype=np.float32).reshape(7, 2)
    got = ab.ScaledDotProductAttention(scale=3.0).forward(q, k, v, need_weights=True)
    np.testing.assert_allclose(got.output, np.tile([6.0, 7.0], (queries, 1)), rtol=1e-6)
    np.testing.assert_allclose(got.weights, 1 / 7, rtol=1e-6)


@pytest.mark.parametrize("queries", [2, 40])
def test_half_of_the_largest_float32(rng, queries):
    big = np.float32(MAX32 / 2)
    q = rng.choice(np.array([big, -big], np.float32), (queries, 4))
    k = rng.choice(np.array([big, -big], np.float32), (11, 4))
    v = np.full((11, 3), big, np.float32)
    got = ab.attention(q, k, v)
    assert np.isfinite(got).all()
    near(got, truth(q / np.sqrt(big), k / np.sqrt(big), v / big)[0] * float(big))


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("hidden", [-1e4, -1e9, float(np.finfo(np.float32).min), -1e300, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_that_add_a_large_number(rng, queries, hidden, dtype):
    """As a mask over some keys nothing of them is left; over all keys it changes nothing, unless it is -inf."""
    q, k, v = made(rng, (queries, 5), (13, 5), (13, 3))
    with np.errstate(over="ignore"):
        hidden = dtype(hidden)
    some = np.where(np.arange(13) % 3 == 0, hidden, dtype(0.0))
    near(DOT.forward(q, k, v, some).output, truth(q, k, v, mask=some == 0.0)[0])
    every = DOT.forward(q, k, v, np.full(13, hidden)).output
    if np.isinf(hidden):
        assert not every.any()
    elif hidden == -1e4:
        near(every, truth(q, k, v)[0])
    else:
        logits = truth(q, k, v, mask=np.full(13, float(hidden)))[0]
        near(every, logits)


def test_a_mask_beyond_float64_is_refused(rng):
    q, k = np.array([[1e200, 0.0]] * 9), np.array([[1e108, 0.0]])
    with pytest.raises(ab.InvalidMaskError, match="mask must stay within float64 when added"):
        DOT.forward(q, k, k, np.array([1.7e308]))


def test_products_beyond_float64_are_refused():
    q = np.full((9, 2), 1e300)
    with pytest.raises(ab.InvalidInputError, match=r"query and key must have products within float64 \(1.8e308\)"):
        DOT.forward(q, q, q)


def test_a_query_without_keys_has_zero_output(rng):
    q, k, v = made(rng, (40, 5), (13, 5), (13, 3))
    mask = np.ones((40, 13), bool)
    mask[[3, 39]] = False
    for rows in (slice(None), slice(2, 5)):
        got = DOT.forward(q[rows], k, v, mask[rows], need_weights=True, need_context=True)
        empty = ~mask[rows].any(axis=1)
        assert not got.output[empty].any()
        assert not got.weights[empty].any()
        assert (got.context.logsumexp == -np.inf).tolist() == empty.tolist()


def test_causal_never_looks_ahead(rng):
    q, k, v = made(rng, (70, 5), (70, 5), (70, 3))
    before = ab.FlashAttention(causal=True).forward(q, k, v).output
    k[50:], v[50:] = 3.0, -7.0
    after = ab.FlashAttention(causal=True).forward(q, k, v).output
    assert after[:50].tobytes() == before[:50].tobytes()
    assert (after[50:] != before[50:]).any(axis=1).all()


# ---- dropout


@pytest.mark.parametrize("queries", [3, 70])
def test_dropout_is_that_of_the_whole_matrix(rng, queries):
    q, k, v = made(rng, (2, queries, 5), (2, 131, 5), (2, 131, 3))
    mechanism = ab.ScaledDotProductAttention(dropout=0.3)
    plain = mechanism.forward(q, k, v, need_weights=True).weights
    got = mechanism.forward(q, k, v, need_weights=True, training=True, seed=4)
    near(got.output, got.weights.astype(float) @ v.astype(float))
    dropped = got.weights == 0.0
    assert 0.2 < dropped.mean() < 0.4
    near(got.weights[~dropped], plain[~dropped] / 0.7)
    draw = int(np.random.default_rng(4).integers(2**63))
    for problem in range(2):
        whole = plain[problem].astype(np.float64)
        ab.kernels.drop(whole, 0.3, draw, problem, 0, 0)
        assert ((whole == 0.0) == dropped[problem]).all()
    for tile in (1, 7, 64, 1000):
        flash = ab.FlashAttention(tile, dropout=0.3).forward(q, k, v, training=True, seed=4).output
        near(flash, got.output)
    other = mechanism.forward(q, k, v, training=True, seed=5).output
    assert (other != got.output).any()
    assert mechanism.forward(q, k, v, training=True, seed=4).output.tobytes() == got.output.tobytes()


def test_dropout_of_a_row_that_is_done_in_float64(rng):
    q, k, v = made(rng, (40, 5), (50, 5), (50, 3))
    k = np.ones_like(k)
    mechanism = ab.ScaledDotProductAttention(dropout=0.5)
    small = mechanism.forward(q, k, v, training=True, seed=1, need_weights=True).weights
    q[:] = 1e8
    large = mechanism.forward(q, k, v, training=True, seed=1, need_weights=True).weights
    assert ((small == 0.0) == (large == 0.0)).all()


# ---- flash


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("block", [1, 2, 31, 64, 1000])
def test_flash_equals_scaled_dot(rng, queries, block):
    q, k, v = made(rng, (queries, 17), (301, 17), (301, 5))
    np.testing.assert_allclose(
        ab.FlashAttention(block).forward(q, k, v).output, DOT.forward(q, k, v).output, rtol=1e-5, atol=1e-6
    )
    for name in ("flash_v2", "flash", "flash_attention"):
        np.testing.assert_allclose(
            ab.attention(q, k, v, name, block_size=block), ab.attention(q, k, v), rtol=1e-5, atol=1e-6
        )
        assert ab.attention_scores(q, k, name).tobytes() == ab.attention_scores(q, k).tobytes()


def test_flash_does_not_make_weights(rng):
    q, k, v = made(rng, (3, 2), (4, 2), (4, 2))
    with pytest.raises(ab.InvalidConfigError, match=r"need_weights must be False with FlashAttention.*its weights\(\)"):
        ab.FlashAttention().forward(q, k, v, need_weights=True)
    assert ab.FlashAttention().weights(q, k).tobytes() == DOT.weights(q, k).tobytes()


# ---- settings


@pytest.mark.parametrize("cls", [ab.ScaledDotProductAttention, ab.FlashAttention, ab.SlidingWindowAttention])
def test_config_makes_an_equal_mechanism(cls):
    mechanism = cls(scale=0.5, dropout=0.25, causal=True, d_model=4, max_seq_len=9, eps=0.5)
    assert cls(**json.loads(json.dumps(mechanism.config))).config == mechanism.config
    config = ab.AttentionConfig(d_model=6, num_heads=1, dropout=0.2, scale=0.7, max_seq_len=5, causal=True)
    assert cls.from_config(config).config == mechanism.config | {
        "scale": 0.7,
        "dropout": 0.2,
        "d_model": 6,
        "max_seq_len": 5,
        "eps": 0.0,
    }


@pytest.mark.parametrize("cls", [ab.ScaledDotProductAttention, ab.FlashAttention, ab.SlidingWindowAttention])
def test_limits_of_a_config(cls, rng):
    mechanism = cls.from_config(ab.AttentionConfig(d_model=4, num_heads=1, max_seq_len=5))
    x = np.ones((5, 4), np.float32)
    assert (mechanism.forward(x, x, x).output == 1.0).all()
    with pytest.raises(ab.DimensionMismatchError, match="query must have dimension d_model = 4, got 3"):
        mechanism.forward(x[:, :3], x[:, :3], x)
    long = np.ones((6, 4), np.float32)
    with pytest.raises(ab.InputTooLargeError, match="query must be at most max_seq_len = 5 long, got 6"):
        mechanism.forward(long, x, x)
    with pytest.raises(ab.InputTooLargeError, match="key must be at most max_seq_len = 5 long, got 6"):
        mechanism.weights(x, long)


REFUSED = [
    (lambda: ab.FlashAttention(0), r"block_size must be a whole number >= 1, got 0"),
    (lambda: ab.attention([1.0], [[1.0]], [[1.0]], "flash", block_size=-1), r"block_size must be a whole number >= 1"),
    (lambda: ab.SlidingWindowAttention(0), r"window must be a whole number >= 1, got 0"),
    (lambda: ab.SlidingWindowAttention(position=-1), r"position must be a whole number >= 0, got -1"),
    (lambda: ab.SlidingWindowAttention(position=[1, 2.5]), r"position must be a whole number >= 0, got 2.5"),
    (lambda: ab.ScaledDotProductAttention(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
    (lambda: ab.ScaledDotProductAttention(scale=0.0), r"scale must be"),
    (lambda: ab.ScaledDotProductAttention(d_model=0), r"d_model must be a whole number >= 1, got 0"),
    (lambda: ab.FlashAttention(max_seq_len=0), r"max_seq_len must be a whole number >= 1, got 0"),
    (lambda: ab.attention_scores([1.0], [[1.0]], "sliding"), r"sliding needs position=\.\.\., the query's place among"),
    (
        lambda: ab.attention_scores([1.0], [[1.0]], "sliding", position=1),
        r"position must be the place of one of 1 keys, 0 to 0, got 1",
    ),
    (
        lambda: ab.attention_scores([[1.0]] * 3, [[1.0]] * 4, "sliding", position=[0, 1]),
        r"position must be one number, or one for each of 3 queries, got 2",
    ),
    (lambda: ab.attention_score([1.0], [1.0], "sliding"), r"attention_type must be pairwise"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused(call, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        call()


# ---- sliding


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 40, 1000])
@pytest.mark.parametrize("queries", [4, 131])
def test_sliding_window(rng, queries, window, causal):
    q, k, v = made(rng, (2, queries, 5), (2, 131, 5), (2, 131, 3))
    mask = rng.random((queries, 131)) < 0.9
    mechanism = ab.SlidingWindowAttention(window, causal=causal, scale=0.6)
    want, weights = truth(q, k, v, scale=0.6, left=window, right=0 if causal else window, mask=mask)
    got = mechanism.forward(q, k, v, mask, need_weights=True)
    near(got.output, want)
    near(got.weights, weights)
    near(mechanism.weights(q, k, mask), weights)
    assert ((mechanism.weights(q, k, mask) == 0.0) == (weights == 0.0)).all()
    near(
        mechanism.forward(q, k, v, mask, is_causal=True).output,
        truth(q, k, v, scale=0.6, left=window, right=0, mask=mask)[0],
    )


def test_sliding_at_a_position(rng):
    q, k, v = made(rng, (3, 5), (29, 5), (29, 7))
    whole = ab.SlidingWindowAttention(2)
    padded = np.zeros((29, 5), np.float32)
    padded[[5, 0, 28]] = q
    for causal in (False, True):
        want = ab.SlidingWindowAttention(2, causal=causal).forward(padded, k, v, need_weights=True)
        for query, place in zip(q, (5, 0, 28), strict=True):
            options = {"position": place, "window": 2, "causal": causal}
            near(ab.attention_scores(query, k, "sliding", **options), want.weights[place])
            near(ab.attention(query, k, v, "sliding", **options), want.output[place])
        near(ab.attention(q, k, v, "local", position=[5, 0, 28], window=2, causal=causal), want.output[[5, 0, 28]])
        near(
            ab.attention(q, k, v, "sliding_window", position=np.array([5, 0, 28]), window=2, causal=causal),
            want.output[[5, 0, 28]],
        )
    same = ab.attention_scores(np.stack([q[0]] * 2), k, "sliding", position=7, window=1)
    assert (np.flatnonzero(same[0]) == [6, 7, 8]).all()
    assert same[0].tolist() == same[1].tolist()
    assert whole.config["position"] is None
    logits = ab.attention_logits(q[0], k, "sliding", position=3, window=1, scale=1.0)
    np.testing.assert_allclose(logits[2:5], (k[2:5] @ q[0]).astype(float), rtol=1e-5)
    assert (np.delete(logits, [2, 3, 4]) == -np.inf).all()


def test_rows_of_the_registry():
    flash, sliding = REGISTRY["flash_v2"], REGISTRY["sliding"]
    assert (flash.complexity, flash.best_for, flash.pairwise, flash.build_space) == (
        "O(n^2)",
        "memory-efficient, large sequences",
        True,
        "metric",
    )
    assert (sliding.complexity, sliding.best_for, sliding.pairwise, sliding.build_space) == (
        "O(n*w)",
        "local context",
        False,
        None,
    )
    assert sliding.options["window"].default == 128


@pytest.mark.parametrize("cls", [ab.ScaledDotProductAttention, ab.FlashAttention, ab.MultiHeadAttention])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("eps", [1e-6, 1.0, 30.0])
def test_eps_is_added_to_the_denominators(cls, masked, eps, rng):
    plain, made = (
        cls(6, 2, projections=False, eps=e) if cls is ab.MultiHeadAttention else cls(eps=e, scale=0.5)
        for e in (0.0, eps)
    )
    q, k, v = rng.standard_normal((4, 6)), rng.standard_normal((5, 6)), rng.standard_normal((5, 4))
    mask = np.ones((4, 5), bool)
    mask[0], mask[2, 1:] = False, False
    for given in (mask, ab.SparseMask.from_dense(mask)) if masked else (None,):
        heads = 2 if cls is ab.MultiHeadAttention else 1
        want, shares = np.zeros((4, 4)), np.zeros((4, 5))
        for h in range(heads):
            part, values = slice(h * 6 // heads, (h + 1) * 6 // heads), slice(h * 4 // heads, (h + 1) * 4 // heads)
            scale = 3**-0.5 if heads == 2 else 0.5
            up = np.exp(scale * q[:, part] @ k[:, part].T) * (mask if masked else 1.0)
            share = up / (up.sum(axis=1, keepdims=True) + eps)
            shares += share / heads
            want[:, values] = share @ v[:, values]
        found = made.forward(q, k, v, given, need_context=True)
        np.testing.assert_allclose(found.output, want, atol=1e-12)
        np.testing.assert_allclose(made.weights(q, k, given), shares, atol=1e-12)
        if cls is not ab.FlashAttention:
            found = made.forward(q, k, v, given, need_weights=True)
            np.testing.assert_allclose(found.weights, shares, atol=1e-12)
        if cls is ab.ScaledDotProductAttention:
            logits = made.logits(q, k, given)
            total = made.forward(q, k, v, given, need_context=True).context.logsumexp
            np.testing.assert_allclose(np.exp(logits[1:] - total[1:, None]), shares[1:], atol=1e-12)
    assert np.abs(plain.forward(q, k, v).output - made.forward(q, k, v).output).max() > eps * 1e-3 / (1 + eps)
