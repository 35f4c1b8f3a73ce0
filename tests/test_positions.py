"""Rotary embedding: the relative-position property, attention by hand, options that act; graph distances."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab

PLACES = st.integers(0, 10_000)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def turned(x, positions, base=10000.0, interleaved=True):
    """Return x (L, d) turned by way of complex numbers, in float64."""
    x, half = np.asarray(x, np.float64), np.shape(x)[-1] // 2
    pairs = x.reshape(len(x), half, 2) if interleaved else x.reshape(len(x), 2, half).transpose(0, 2, 1)
    angles = np.outer(positions, base ** (-np.arange(half) / half))
    made = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    out = np.stack([made.real, made.imag], axis=-1)
    return out.reshape(x.shape) if interleaved else out.transpose(0, 2, 1).reshape(x.shape)


def attended(q, k, v, scale):
    logits = q @ k.T * scale
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ v, weights, logits


# ---- the rotation


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([2, 6, 64, 128]), PLACES, PLACES, PLACES, st.booleans(), st.sampled_from([10.0, 10000.0, 500000.0]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_products_depend_on_the_difference_alone(dim, m, n, shift, interleaved, base, seed):
    rotary = ab.RotaryEmbedding(dim, base, interleaved=interleaved)
    query, key = np.random.default_rng(seed).standard_normal((2, dim)).astype(np.float32)
    query /= np.linalg.norm(query)
    key /= np.linalg.norm(key)

    def product(i, j):
        one, other = rotary.rotate(query, i), rotary.rotate(key, j)
        assert one.dtype == other.dtype == np.float32
        return one @ other

    assert abs(product(m, n) - product(m + shift, n + shift)) < 1e-5
    assert abs(np.linalg.norm(rotary.rotate(query, m)) - 1.0) < 1e-5


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rotation_equals_complex_numbers(rng, interleaved, dtype):
    rotary = ab.RotaryEmbedding(6, 100.0, interleaved=interleaved)
    x, places = rng.standard_normal((7, 6)).astype(dtype), rng.integers(0, 10_000, 7)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    for positions in (None, places):
        want = turned(x, np.arange(7) if positions is None else positions, 100.0, interleaved)
        got = rotary.rotate(x, positions)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        assert got.dtype == dtype


def test_first_place_changes_nothing_and_a_quarter_turn_swaps():
    rotary = ab.RotaryEmbedding(2)
    np.testing.assert_array_equal(rotary.rotate([3.0, 4.0]), [3.0, 4.0])
    np.testing.assert_allclose(rotary.rotate([3.0, 4.0], 11), turned([[3.0, 4.0]], [11])[0], rtol=1e-6)  # 3.5 pi
    np.testing.assert_allclose(rotary.rotate([3.0, 4.0], 11), [4.0, -3.0], atol=0.03)


def test_pairs_of_the_two_layouts(rng):
    x, order = rng.standard_normal((5, 6)), [0, 2, 4, 1, 3, 5]
    one, other = ab.RotaryEmbedding(6), ab.RotaryEmbedding(6, interleaved=False)
    np.testing.assert_allclose(one.rotate(x)[:, order], other.rotate(x[:, order]), rtol=1e-12)
    assert not np.allclose(one.rotate(x), other.rotate(x))


def test_leading_axes_and_positions_broadcast(rng):
    rotary = ab.RotaryEmbedding(4)
    x, places = rng.standard_normal((2, 3, 5, 4)), rng.integers(0, 100, (2, 1, 5))
    for b, h in np.ndindex(2, 3):
        np.testing.assert_array_equal(rotary.rotate(x)[b, h], rotary.rotate(x[b, h]))
        np.testing.assert_array_equal(rotary.rotate(x, places)[b, h], rotary.rotate(x[b, h], places[b, 0]))
    np.testing.assert_array_equal(rotary.rotate(x[0, 0]), rotary.rotate(x[0, 0], np.arange(5)))
    np.testing.assert_array_equal(rotary.rotate(x[0, 0, 3], 7), rotary.rotate(x[0, 0], np.full(5, 7))[3])
    assert rotary.rotate(np.empty((0, 4))).shape == (0, 4)


def test_transformers_convention(rng):
    """Halves, as transformers' apply_rotary_pos_emb: x cos + rotate_half(x) sin."""
    x = rng.standard_normal((5, 8))
    angles = np.outer(np.arange(5), 10000.0 ** (-np.arange(0, 8, 2) / 8))
    cosine, sine = np.tile(np.cos(angles), 2), np.tile(np.sin(angles), 2)
    want = x * cosine + np.concatenate([-x[:, 4:], x[:, :4]], axis=1) * sine
    np.testing.assert_allclose(ab.RotaryEmbedding(8, interleaved=False).rotate(x), want, rtol=1e-12)


# ---- in attention


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("kind", [ab.ScaledDotProductAttention, ab.FlashAttention])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_attention_by_hand(rng, kind, interleaved, dtype):
    q, k, v = (rng.standard_normal((n, 6)).astype(dtype) for n in (11, 13, 13))
    rotary = ab.RotaryEmbedding(6, 100.0, interleaved=interleaved)
    attention = kind(rotary=rotary)
    one, other = turned(q, np.arange(11), 100.0, interleaved), turned(k, np.arange(13), 100.0, interleaved)
    want, weights, logits = attended(one, other, v, 6**-0.5)
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(attention.forward(q, k, v).output, want, **near)
    np.testing.assert_allclose(attention.weights(q, k), weights, **near)
    np.testing.assert_allclose(attention.logits(q, k), logits, **near)
    pairs = ab.SparseMask.from_dense(rng.random((11, 13)) < 0.5)
    np.testing.assert_allclose(
        attention.forward(q, k, v, pairs).output, attention.forward(q, k, v, pairs.to_dense()).output, **near
    )
    assert not np.allclose(attention.forward(q, k, v).output, kind().forward(q, k, v).output)


@pytest.mark.parametrize("projections", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_heads_by_hand(rng, projections, dtype):
    """Each head is turned after its projection."""
    q, k, v = (rng.standard_normal((n, 12)).astype(dtype) for n in (5, 7, 7))
    attention = ab.MultiHeadAttention(12, 3, projections=projections, rotary=ab.RotaryEmbedding(4, 50.0), seed=2)
    held = {name: array.astype(np.float64) for name, array in attention.parameters().items()}
    made = [q, k, v] if not held else [x @ held[f"W_{n}"].T + held[f"b_{n}"] for x, n in ((q, "q"), (k, "k"), (v, "v"))]
    parts = []
    for h in range(3):
        one, other, value = (np.asarray(x[:, 4 * h : 4 * h + 4], np.float64) for x in made)
        parts.append(attended(turned(one, np.arange(5), 50.0), turned(other, np.arange(7), 50.0), value, 0.5))
    want = np.concatenate([output for output, _, _ in parts], axis=1)
    if held:
        want = want @ held["W_o"].T + held["b_o"]
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-10}
    output, weights, _ = attention.forward(q, k, v, need_weights=True, average_attn_weights=False)
    np.testing.assert_allclose(output, want, **near)
    np.testing.assert_allclose(weights, [shares for _, shares, _ in parts], **near)
    np.testing.assert_allclose(attention.weights(q, k), np.mean([shares for _, shares, _ in parts], axis=0), **near)
    np.testing.assert_allclose(attention.logits(q, k), np.mean([logits for _, _, logits in parts], axis=0), **near)
    pairs = ab.SparseMask.from_dense(rng.random((5, 7)) < 0.6)
    np.testing.assert_allclose(
        attention.forward(q, k, v, pairs).output, attention.forward(q, k, v, pairs.to_dense()).output, **near
    )


MECHANISMS = [
    ab.ScaledDotProductAttention(rotary=ab.RotaryEmbedding(8)),
    ab.FlashAttention(32, rotary=ab.RotaryEmbedding(8, 500.0, interleaved=False), causal=True),
    ab.MultiHeadAttention(8, 2, rotary=ab.RotaryEmbedding(4)),
    ab.MultiHeadAttention(8, 2, rotary=ab.RotaryEmbedding(4), projections=False, causal=True),
]


@pytest.mark.parametrize("attention", MECHANISMS, ids=lambda a: type(a).__name__)
def test_config_makes_an_equal_mechanism(rng, attention):
    x = rng.standard_normal((5, 8)).astype(np.float32)
    again = type(attention)(**json.loads(json.dumps(attention.config)))
    assert again.rotary == attention.rotary
    np.testing.assert_array_equal(again.forward(x, x, x).output, attention.forward(x, x, x).output)
    copy = pickle.loads(pickle.dumps(attention))
    np.testing.assert_array_equal(copy.forward(x, x, x).output, attention.forward(x, x, x).output)
    plain = type(attention)(**attention.config | {"rotary": None})
    for call in (lambda a: a.forward(x, x, x).output, lambda a: a.weights(x, x), lambda a: a.logits(x, x)):
        with np.errstate(invalid="ignore"):
            assert not np.allclose(call(plain), call(attention))


@pytest.mark.parametrize("attention", MECHANISMS, ids=lambda a: type(a).__name__)
def test_a_shift_of_both_sequences_changes_nothing(rng, attention):
    """What only the difference of places counts for: padding in front, masked, leaves the rest as it was."""
    x = rng.standard_normal((5, 8)).astype(np.float32)
    later = np.concatenate([rng.standard_normal((3, 8)).astype(np.float32), x])
    mask = np.ones((8, 8), bool)
    mask[:, :3] = False
    want = attention.forward(x, x, x).output
    np.testing.assert_allclose(attention.forward(later, later, later, mask).output[3:], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", MECHANISMS, ids=lambda a: type(a).__name__)
def test_decoding_step_by_step_equals_the_whole(rng, attention):
    x = rng.standard_normal((6, 8)).astype(np.float32)
    whole = attention.forward(x, x, x, is_causal=True).output
    for t in range(6):
        step = attention.at(t).forward(x[t], x[: t + 1], x[: t + 1]).output
        np.testing.assert_allclose(step, whole[t], rtol=1e-5, atol=1e-5)
    two = attention.at(4).forward(x[4:], x, x, np.tri(6, dtype=bool)[4:]).output
    np.testing.assert_allclose(two, whole[4:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", [a for a in MECHANISMS if not getattr(a, "projections", False)])
def test_decoding_over_turned_keys(rng, attention):
    """Each key is turned once; the same bits as when all are turned at every step."""
    x, kept = rng.standard_normal((6, 8)).astype(np.float32), np.empty((6, 8), np.float32)
    for t in range(6):
        kept[t] = attention.turn(x[t : t + 1], t)[0]
        step = attention.at(t, turned_keys=True)
        want = attention.at(t).forward(x[t], x[: t + 1], x[: t + 1]).output
        np.testing.assert_array_equal(step.forward(x[t], kept[: t + 1], x[: t + 1]).output, want)
    np.testing.assert_allclose(step.logits(x[5], kept), attention.at(5).logits(x[5], x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(attention.turn(x), kept)
    np.testing.assert_array_equal(attention.turn(np.stack([x, x])[None])[0, 1], kept)
    cached = attention.cached(ab.AttentionCache())
    for moved, keys in ((cached.at(5, turned_keys=True), kept), (cached.at(5), x)):
        want = attention.at(5).forward(x[5], x, x).output
        np.testing.assert_array_equal(moved.forward(x[5], keys, x).output, want)
    far = attention.at(9).at(5).forward(x[5], x, x).output  # a later at() is about keys as they are
    np.testing.assert_array_equal(far, attention.at(5).forward(x[5], x, x).output)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ab.FlashAttention().turn(np.ones((2, 8))),
            ab.InvalidConfigError,
            r"rotary must be given.*turn\(\) turns",
        ),
        (lambda: MECHANISMS[2].turn(np.ones((2, 8))), ab.InvalidConfigError, "projections, which come before the turn"),
        (lambda: MECHANISMS[2].at(1, turned_keys=True), ab.InvalidConfigError, "turned_keys must be False with proj"),
        (lambda: MECHANISMS[0].at(1, turned_keys=1), ab.InvalidConfigError, "turned_keys must be True or False"),
        (
            lambda: MECHANISMS[0].turn(np.ones((2, 6))),
            ab.DimensionMismatchError,
            r"key must be \(..., S, 8\), got shape",
        ),
        (lambda: MECHANISMS[0].turn(np.ones(8)), ab.DimensionMismatchError, "key must be"),
        (lambda: MECHANISMS[0].turn(np.full((2, 8), np.nan)), ab.InvalidInputError, "key"),
        (lambda: MECHANISMS[0].turn(np.ones((2, 8)), -1), ab.InvalidConfigError, "position must be"),
    ],
)
def test_keys_that_cannot_be_turned(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("attention", MECHANISMS, ids=lambda a: type(a).__name__)
def test_candidates_have_no_places(attention):
    free = type(attention)(**attention.config | {"causal": False}).at(0)
    with pytest.raises(ab.InvalidConfigError, match="rotary must be None where keys have no places"):
        free.as_type()
    with pytest.raises(ab.InvalidConfigError, match="rotary must be None where keys have no places"):
        ab.AttentionVectorBridge(8, attention=free)
    with pytest.raises(ab.InvalidConfigError, match="rotary must be None where keys have no places"):
        ab.register_attention("turned", attention=free)
    with pytest.raises(ab.InvalidConfigError, match="rotary must be None in experts"):
        ab.MixtureOfExpertsAttention(["linear", free])


def test_batches_and_one_query(rng):
    attention = ab.MultiHeadAttention(8, 2, rotary=ab.RotaryEmbedding(4))
    q, x = rng.standard_normal((2, 3, 5, 8)), rng.standard_normal((3, 7, 8))
    output = attention.forward(q, x, x).output
    for b, c in np.ndindex(2, 3):
        np.testing.assert_allclose(output[b, c], attention.forward(q[b, c], x[c], x[c]).output, rtol=1e-12, atol=1e-12)
    one = attention.forward(q[0, 0, 0], x[0], x[0]).output
    np.testing.assert_allclose(one, output[0, 0, 0], rtol=1e-12, atol=1e-12)


# ---- graph distances

HOPS = np.array([[0, 1, 2, 3, -1], [1, 0, 1, 2, -1], [2, 1, 0, 1, -1], [3, 2, 1, 0, -1], [-1, -1, -1, -1, 0]])


def graph_logits(q, k, hops, heads, scale, base=10000.0):
    """Return logits (L, S) pair by pair, the mean over heads."""
    out, width = np.full(hops.shape, -np.inf), q.shape[1] // heads
    for i, j in zip(*np.nonzero(hops >= 0), strict=True):
        key = turned(k[j].reshape(heads, width), [hops[i, j]] * heads, base)
        out[i, j] = (q[i].reshape(heads, width) * key).sum() * scale / heads
    return out


@pytest.mark.parametrize(
    ("attention", "dim", "heads", "scale"),
    [
        (ab.ScaledDotProductAttention(), 6, 1, 6**-0.5),
        (ab.FlashAttention(scale=0.3), 6, 1, 0.3),
        (ab.MultiHeadAttention(6, 3, projections=False), 2, 3, 2**-0.5),
    ],
    ids=["dot", "flash", "heads"],
)
def test_graph_logits_pair_by_pair(rng, attention, dim, heads, scale):
    q, k, v = (rng.standard_normal((5, 6)) for _ in range(3))
    rope = ab.GraphRoPE(dim, 100.0)
    want = graph_logits(q, k, HOPS, heads, scale, 100.0)
    np.testing.assert_allclose(rope.logits(attention, q, k, HOPS), want, rtol=1e-11, atol=1e-12)
    if heads == 1:
        weights = np.exp(want - want.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(rope.forward(attention, q, k, v, HOPS).output, weights @ v, rtol=1e-10, atol=1e-12)
    narrow = rope.forward(attention, *(x.astype(np.float32) for x in (q, k, v)), HOPS).output
    np.testing.assert_allclose(narrow, rope.forward(attention, q, k, v, HOPS).output, rtol=1e-5, atol=1e-5)


def test_graph_attention_takes_it(rng):
    """The cosine of a query and a turned key; a network's logit of them."""
    x, rope = rng.standard_normal((5, 6)), ab.GraphRoPE(6)
    cosine = ab.GraphAttention(temperature=0.5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    want = graph_logits(unit, unit, HOPS, 1, 2.0)
    np.testing.assert_allclose(rope.logits(cosine, x, x, HOPS), want, rtol=1e-5, atol=1e-6)
    network = ab.GraphAttention(6, 4)
    got = rope.logits(network, x, x, HOPS)
    for i in range(5):
        alone = network.logits(x[i], rope.rotate(x, HOPS[i]))
        np.testing.assert_allclose(got[i], np.where(HOPS[i] >= 0, alone, -np.inf), rtol=1e-10)


def test_distance_acts_and_far_nodes_count_as_at_the_limit(rng):
    x, attention = rng.standard_normal((5, 6)), ab.ScaledDotProductAttention()
    logits = ab.GraphRoPE(6).logits(attention, x, x, HOPS)
    assert not np.allclose(logits[0, 3], ab.GraphRoPE(6).logits(attention, x, x, np.minimum(HOPS, 2))[0, 3])
    clipped = ab.GraphRoPE(6, max_distance=2).logits(attention, x, x, HOPS)
    np.testing.assert_array_equal(clipped, ab.GraphRoPE(6).logits(attention, x, x, np.minimum(HOPS, 2)))
    assert not np.allclose(logits[0, 1], ab.GraphRoPE(6, 50.0).logits(attention, x, x, HOPS)[0, 1])


def test_nodes_that_cannot_be_reached(rng):
    from scipy.sparse.csgraph import shortest_path

    x, attention, rope = rng.standard_normal((5, 6)), ab.ScaledDotProductAttention(), ab.GraphRoPE(6)
    output, weights, _ = rope.forward(attention, x, x, x, HOPS, need_weights=True)
    np.testing.assert_array_equal(weights > 0, HOPS >= 0)
    np.testing.assert_allclose(output[4], x[4])
    distances = shortest_path(HOPS == 1, unweighted=True)
    assert np.isinf(distances).any()
    np.testing.assert_array_equal(rope.forward(attention, x, x, x, distances).output, output)
    alone = np.full((5, 5), -1)
    np.testing.assert_array_equal(rope.forward(attention, x, x, x, alone).output, np.zeros((5, 6)))


@pytest.mark.parametrize("kind", ["bool", "float", "sparse"])
def test_masks_beside_hops(rng, kind):
    x, attention, rope = rng.standard_normal((5, 6)), ab.ScaledDotProductAttention(), ab.GraphRoPE(6)
    allowed = rng.random((5, 5)) < 0.6
    mask = {"bool": allowed, "float": np.where(allowed, 0.5, -np.inf), "sparse": ab.SparseMask.from_dense(allowed)}[
        kind
    ]
    plain = rope.logits(attention, x, x, HOPS)
    want = np.where(allowed, plain + (0.5 if kind == "float" else 0.0), -np.inf)
    np.testing.assert_allclose(rope.logits(attention, x, x, HOPS, mask), want, rtol=1e-12)
    weights = rope.forward(attention, x, x, x, HOPS, mask, need_weights=True).weights
    np.testing.assert_array_equal(weights > 0, want > -np.inf)


def test_blocks_of_queries_equal_one(rng, monkeypatch):
    x, hops = rng.standard_normal((29, 6)), rng.integers(-1, 9, (29, 29))
    attention, rope = ab.ScaledDotProductAttention(dropout=0.4), ab.GraphRoPE(6)
    whole = rope.forward(attention, x, x, x, hops, need_weights=True)
    monkeypatch.setattr("attnbridge.graph_rope._MOST_LOGITS", 5 * 29)
    parts = rope.forward(attention, x, x, x, hops, need_weights=True)
    np.testing.assert_allclose(parts.output, whole.output, rtol=1e-12)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-12)
    dropped = [rope.forward(attention, x, x, x, hops, training=True, seed=s).output for s in (1, 1, 2)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])
    assert not np.allclose(dropped[0], whole.output)
    same = np.full((10, 10), 0)
    zeros, ones = np.zeros((10, 6)), np.ones((10, 6))
    kept = rope.forward(attention, zeros, zeros, ones, same, training=True, seed=1, need_weights=True).weights > 0
    assert (kept[:5] != kept[5:]).any()  # a block does not draw what the one before it drew


def test_many_distances_equal_few(rng):
    """A path of 40 nodes: beyond a number of distances keys are turned pair by pair, not looked up."""
    x, attention, rope = rng.standard_normal((40, 6)), ab.ScaledDotProductAttention(), ab.GraphRoPE(6)
    hops = np.abs(np.arange(40)[:, None] - np.arange(40))
    few, many = rope.logits(attention, x, x, hops), rope.logits(attention, x[:20], x, hops[:20])
    np.testing.assert_allclose(few[:20], many, rtol=1e-12)
    np.testing.assert_allclose(few, graph_logits(x, x, hops, 1, 6**-0.5), rtol=1e-9, atol=1e-12)


def test_rotated_keys_are_those_of_the_sequence(rng):
    x = rng.standard_normal((5, 6))
    np.testing.assert_allclose(ab.GraphRoPE(6).rotate(x, HOPS[0]), turned(x, [0, 1, 2, 3, 0]), rtol=1e-12)
    every = ab.GraphRoPE(6).rotate(x, HOPS)
    assert every.shape == (5, 5, 6)
    np.testing.assert_allclose(every[2], ab.GraphRoPE(6).rotate(x, HOPS[2]), rtol=1e-12)
    far = ab.GraphRoPE(2).rotate(x[:2, :2], [1_000_000, 3])  # a table would be larger than the keys
    np.testing.assert_allclose(far, turned(x[:2, :2], [1_000_000, 3]), rtol=1e-9)
    assert ab.GraphRoPE(6, 50.0, 3).config == {"dim": 6, "base": 50.0, "max_distance": 3}
    assert ab.GraphRoPE(**ab.GraphRoPE(6, 50.0, 3).config) == ab.GraphRoPE(6, 50.0, 3)


def test_heads_dropout_and_weights(rng):
    """Each head's own logits; dropout, eps, another width of values."""
    q, k, v = rng.standard_normal((5, 6)), rng.standard_normal((5, 6)), rng.standard_normal((5, 9))
    attention, rope = ab.MultiHeadAttention(6, 3, projections=False, eps=0.7, dropout=0.5), ab.GraphRoPE(2, 50.0)
    wants, shares = [], []
    for h in range(3):
        logits = graph_logits(q[:, 2 * h : 2 * h + 2], k[:, 2 * h : 2 * h + 2], HOPS, 1, 2**-0.5, 50.0)
        weights = np.exp(logits) / (np.exp(logits).sum(axis=1, keepdims=True) + 0.7)
        wants.append(weights @ v[:, 3 * h : 3 * h + 3])
        shares.append(weights)
    output, weights, _ = rope.forward(attention, q, k, v, HOPS, need_weights=True)
    np.testing.assert_allclose(output, np.concatenate(wants, axis=1), rtol=1e-10)
    np.testing.assert_allclose(weights, np.mean(shares, axis=0), rtol=1e-10, atol=1e-300)
    dropped = [rope.forward(attention, q, k, v, HOPS, training=True, seed=s).output for s in (1, 1, 2)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])


def test_float32_beside_float64(rng):
    """Within 5e-7 of the float64 reference; logits that float32 does not hold are done in float64."""
    x, hops = rng.standard_normal((60, 64)).astype(np.float32), rng.integers(-1, 7, (60, 60))
    unit = 2.0 * x / np.linalg.norm(x, axis=1, keepdims=True)
    for d, far in ((64, hops), (2, hops * 100_003)):
        short = unit[:, :d]
        want = graph_logits(short.astype(np.float64), short.astype(np.float64), np.maximum(far, -1), 1, d**-0.5)
        got = ab.GraphRoPE(d).logits(ab.ScaledDotProductAttention(), short, short, np.maximum(far, -1))
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-7)
    x = 0.5 * x
    rope, attention = ab.GraphRoPE(64), ab.ScaledDotProductAttention()
    wide = x.astype(np.float64)
    want = rope.forward(attention, wide, wide, wide, hops).output
    got = rope.forward(attention, x, x, x, hops).output
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 5e-7
    steep = ab.ScaledDotProductAttention(scale=400.0)
    logits = graph_logits(wide, wide, hops, 1, 400.0)
    assert np.abs(logits[hops >= 0]).max() > 1000.0
    np.testing.assert_allclose(rope.logits(steep, x, x, hops), logits, rtol=1e-10, atol=1e-10)
    got = rope.forward(steep, x, x, x, hops).output
    np.testing.assert_allclose(got, rope.forward(steep, wide, wide, wide, hops).output, atol=1e-6)
    low = np.where(hops >= 0, -1e9, 0.0)  # added to all alike: no weight changes
    np.testing.assert_allclose(rope.forward(attention, x, x, x, hops, low).output, want, atol=1e-6)


def test_hops_far_apart(rng):
    """Distances without a table of all that are between; those of other queries, and none."""
    x, rope, attention = rng.standard_normal((4, 6)), ab.GraphRoPE(6, 50.0), ab.ScaledDotProductAttention()
    hops = np.array([[0, 1_000_000, -1, 7], [3, 0, 123_456, -1], [-1, -1, -1, -1], [5, 5, 999_999, 0]])
    np.testing.assert_allclose(
        rope.logits(attention, x, x, hops), graph_logits(x, x, hops, 1, 6**-0.5, 50.0), rtol=1e-9, atol=1e-12
    )


def graph_attention_by_hand(attention, q, k, v, hops, mask, need_weights=False):
    """Query by query, over keys turned for it."""
    outputs, weights = [], []
    for i, row in enumerate(hops):
        turned_keys = ab.GraphRoPE(6, 50.0).rotate(k, row)
        made = attention.forward(q[i], turned_keys, v, mask[i][None], need_weights=need_weights)
        outputs.append(made.output)
        weights.append(made.weights)
    return np.array(outputs), weights


@pytest.mark.parametrize("kind", ["plain", "bool", "float"])
@pytest.mark.parametrize(
    "attention",
    [
        ab.GraphAttention(),
        ab.GraphAttention(6, 4, aggregation="mean"),
        ab.GraphAttention(6, 4, version="v1", aggregation="max"),
        ab.GraphAttention(6, normalize=False),
    ],
    ids=["cosine", "mean", "max", "logits"],
)
def test_graph_attention_query_by_query(rng, attention, kind, monkeypatch):
    q, k, v = rng.standard_normal((5, 6)), rng.standard_normal((5, 6)), rng.standard_normal((5, 3))
    chosen = rng.random((5, 5)) < 0.7
    mask = {"plain": None, "bool": chosen, "float": np.where(chosen, 0.5, -np.inf)}[kind]
    added = np.where(
        HOPS >= 0, 0.0 if mask is None else np.where(chosen, 0.5 if kind == "float" else 0.0, -np.inf), -np.inf
    )
    rope = ab.GraphRoPE(6, 50.0)
    want, shares = graph_attention_by_hand(attention, q, k, v, HOPS, added, need_weights=True)
    output, weights, _ = rope.forward(attention, q, k, v, HOPS, mask, need_weights=True)
    np.testing.assert_allclose(output, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(weights, shares, rtol=1e-6, atol=1e-7)
    logits = rope.logits(attention, q, k, HOPS, mask)
    np.testing.assert_array_equal(logits > -np.inf, added > -np.inf)
    monkeypatch.setattr("attnbridge.graph_rope._MOST_TURNED", 2 * 20)  # two queries at a time, or keys for each
    np.testing.assert_allclose(rope.forward(attention, q, k, v, HOPS, mask).output, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(rope.logits(attention, q, k, HOPS, mask), logits, rtol=1e-6, atol=1e-7)
    monkeypatch.setattr("attnbridge.graph_rope._MOST_TURNED", 4 * 30)
    np.testing.assert_allclose(rope.forward(attention, q, k, v, HOPS, mask).output, want, rtol=1e-6, atol=1e-7)


def test_limits_of_the_attention_hold():
    x, near = np.ones((3, 4)), np.zeros((3, 3), int)
    with pytest.raises(ab.InputTooLargeError, match="max_seq_len = 2"):
        ab.GraphRoPE(4).forward(ab.FlashAttention(max_seq_len=2), x, x, x, near)
    with pytest.raises(ab.InputTooLargeError, match="max_seq_len = 2"):
        ab.GraphRoPE(4).logits(ab.FlashAttention(max_seq_len=2), x, x, near)
    with pytest.raises(ab.DimensionMismatchError, match="d_model = 8, got 4"):
        ab.GraphRoPE(4).logits(ab.ScaledDotProductAttention(d_model=8), x, x, near)


# ---- errors

DOT = ab.ScaledDotProductAttention()
X = np.ones((2, 4))
NEAR = np.zeros((2, 2), int)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ab.RotaryEmbedding(5), ab.InvalidConfigError, "dim must be even.*got 5"),
        (lambda: ab.RotaryEmbedding(0), ab.InvalidConfigError, "dim must be a whole number >= 1, got 0"),
        (lambda: ab.RotaryEmbedding(4, 1.0), ab.InvalidConfigError, "base must be a finite number > 1"),
        (lambda: ab.RotaryEmbedding(4, max_seq_len=0), ab.InvalidConfigError, "max_seq_len must be a whole number"),
        (lambda: ab.RotaryEmbedding(4, interleaved=1), ab.InvalidConfigError, "interleaved must be True or False"),
        (
            lambda: ab.RotaryEmbedding(6).rotate(X),
            ab.DimensionMismatchError,
            r"x must be \(..., 6\), got shape \(2, 4\)",
        ),
        (lambda: ab.RotaryEmbedding(4).rotate(X, [1, 2, 3]), ab.DimensionMismatchError, "positions must broadcast"),
        (lambda: ab.RotaryEmbedding(4).rotate(X, [[1], [2]]), ab.DimensionMismatchError, "positions must broadcast"),
        (lambda: ab.RotaryEmbedding(4).rotate(X, [0, -1]), ab.InvalidInputError, "positions must be >= 0, got -1"),
        (lambda: ab.RotaryEmbedding(4).rotate(X, [0, 0.5]), ab.InvalidInputError, "positions must be whole.*got 0.5"),
        (
            lambda: ab.RotaryEmbedding(4).rotate(X, [[1], [2, 3]]),
            ab.InvalidInputError,
            "positions must be rows of one length: row 0 has 1 values, row 1 has 2",
        ),
        (
            lambda: ab.GraphRoPE(4).forward(DOT, X, X, X, [[1], [2, 3]]),
            ab.InvalidInputError,
            "hops must be rows of one length: row 0 has 1 values, row 1 has 2",
        ),
        (
            lambda: ab.RotaryEmbedding(4).rotate(X, ["a", "b"]),
            ab.InvalidInputError,
            "positions must be whole.*dtype <U1",
        ),
        (lambda: ab.RotaryEmbedding(4).rotate(X * np.nan), ab.InvalidInputError, "x must be finite"),
        (lambda: ab.RotaryEmbedding(4, max_seq_len=1).rotate(X), ab.InputTooLargeError, "below max_seq_len = 1, got 1"),
        (
            lambda: ab.RotaryEmbedding(4, max_seq_len=9).rotate(X, [9, 1]),
            ab.InputTooLargeError,
            "max_seq_len = 9, got 9",
        ),
        (
            lambda: ab.RotaryEmbedding(4).rotate(np.full((9, 4), 3e38, np.float32)),
            ab.NumericalInstabilityError,
            "must stay within float32",
        ),
        (lambda: ab.FlashAttention(rotary=3), ab.InvalidConfigError, "rotary must be a RotaryEmbedding, its config"),
        (lambda: ab.FlashAttention(rotary={"width": 3}), ab.InvalidConfigError, "rotary must be as the config"),
        (
            lambda: ab.FlashAttention(d_model=6, rotary=ab.RotaryEmbedding(4)),
            ab.DimensionMismatchError,
            "rotary must have dim = 6 as queries and keys of a head have, got 4",
        ),
        (
            lambda: ab.MultiHeadAttention(8, 2, rotary=ab.RotaryEmbedding(8)),
            ab.DimensionMismatchError,
            "rotary must have dim = 4",
        ),
        (
            lambda: ab.FlashAttention(rotary=ab.RotaryEmbedding(6)).forward(X, X, X),
            ab.DimensionMismatchError,
            "rotary must have dim = 4",
        ),
        (
            lambda: ab.FlashAttention(rotary=ab.RotaryEmbedding(4, max_seq_len=1)).weights(X[:1], X),
            ab.InputTooLargeError,
            "below max_seq_len = 1, got 1",
        ),
        (
            lambda: ab.FlashAttention(rotary=ab.RotaryEmbedding(4)).forward(X, [X[0], [1, 1, 1, np.inf]], X),
            ab.InvalidInputError,
            "key must be finite: row 1, column 3 is inf",
        ),
        (lambda: DOT.at(3), ab.InvalidConfigError, "rotary must be given for places to count"),
        (
            lambda: ab.FlashAttention(rotary=ab.RotaryEmbedding(4)).at(-1),
            ab.InvalidConfigError,
            "position must be a whole number >= 0",
        ),
        (lambda: ab.GraphRoPE(3), ab.InvalidConfigError, "dim must be even"),
        (lambda: ab.GraphRoPE(4, max_distance=0), ab.InvalidConfigError, "max_distance must be a whole number >= 1"),
        (lambda: ab.GraphRoPE(4).rotate(X, [1, 2, 3]), ab.DimensionMismatchError, "hops must have one number for each"),
        (lambda: ab.GraphRoPE(4).rotate(X, [1, -2]), ab.InvalidInputError, "hops must be >= -1, got -2"),
        (lambda: ab.GraphRoPE(4).rotate(X, [1.0, np.nan]), ab.InvalidInputError, "hops must be whole.*got nan"),
        (lambda: ab.GraphRoPE(4).forward(DOT, X, X, X, [0, 1]), ab.DimensionMismatchError, r"hops must be \(2, 2\)"),
        (lambda: ab.GraphRoPE(4).forward(DOT, X[0], X, X, NEAR), ab.DimensionMismatchError, "query must be rows"),
        (lambda: ab.GraphRoPE(4).forward(DOT, X, X[:0], X, NEAR), ab.DimensionMismatchError, "key must be rows"),
        (lambda: ab.GraphRoPE(6).forward(DOT, X, X, X, NEAR), ab.DimensionMismatchError, r"query must be \(..., 6\)"),
        (lambda: ab.GraphRoPE(4).forward(DOT, X, X, None, NEAR), ab.InvalidInputError, "value must be given"),
        (lambda: ab.GraphRoPE(4).forward(DOT, X, X, X, NEAR, np.ones((3, 3), bool)), ab.InvalidMaskError, "mask"),
        (lambda: ab.GraphRoPE(4).forward(DOT, X, X, X[:1], NEAR), ab.DimensionMismatchError, "value must have a row"),
        (lambda: ab.GraphRoPE(4).forward(DOT, X, X, X[None], NEAR), ab.DimensionMismatchError, "value must be rows"),
        (
            lambda: ab.GraphRoPE(4).forward(ab.GraphAttention(), X, X, X[None], NEAR),
            ab.DimensionMismatchError,
            "value must be 2 rows, one a key",
        ),
        (lambda: ab.GraphRoPE(4).forward(DOT, X, X, X * np.nan, NEAR), ab.InvalidInputError, "value"),
        (
            lambda: ab.GraphRoPE(2).forward(ab.MultiHeadAttention(4, 2, projections=False), X, X, X[:, :3], NEAR),
            ab.DimensionMismatchError,
            "Value dimension 3 must be divisible by num_heads 2",
        ),
        (
            lambda: ab.GraphRoPE(4).logits(DOT, X * 1e200, X * 1e200, NEAR),
            ab.InvalidInputError,
            "query and key must have products within float64",
        ),
        (
            lambda: ab.GraphRoPE(4).forward(ab.FlashAttention(), X, X, X, NEAR, need_weights=True),
            ab.InvalidConfigError,
            "need_weights must be False with FlashAttention",
        ),
        (
            lambda: ab.GraphRoPE(4).forward(ab.LinearAttention(), X, X, X, NEAR),
            ab.InvalidConfigError,
            "attention must be one of ScaledDot.*GraphAttention; got LinearAttention",
        ),
        (
            lambda: ab.GraphRoPE(4).logits(ab.FlashAttention(causal=True), X, X, NEAR),
            ab.InvalidConfigError,
            "causal must be False where places are nodes",
        ),
        (
            lambda: ab.GraphRoPE(4).logits(ab.FlashAttention(rotary=ab.RotaryEmbedding(4)), X, X, NEAR),
            ab.InvalidConfigError,
            "rotary must be None where places are nodes",
        ),
        (
            lambda: ab.GraphRoPE(2).logits(ab.MultiHeadAttention(4, 2), X, X, NEAR),
            ab.InvalidConfigError,
            "projections must be False with GraphRoPE",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
