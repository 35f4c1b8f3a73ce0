"""Causal attention of queries that begin at a place: the rows of the whole pass, under any mask, by every call."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab

ROTARY = ab.RotaryEmbedding(4)
MECHANISMS = {
    "scaled_dot": ab.ScaledDotProductAttention(rotary=ab.RotaryEmbedding(8)),
    "scaled_dot, eps": ab.ScaledDotProductAttention(rotary=ab.RotaryEmbedding(8), eps=1.0),
    "flash": ab.FlashAttention(3, rotary=ab.RotaryEmbedding(8)),
    "heads, projected": ab.MultiHeadAttention(8, 2, rotary=ROTARY),
    "heads": ab.MultiHeadAttention(8, 2, rotary=ROTARY, projections=False),
    "heads, eps": ab.MultiHeadAttention(8, 2, rotary=ROTARY, projections=False, eps=0.5),
}
MASKS = ("none", "matrix", "keys", "float", "sparse", "lead", "float lead")
every = pytest.mark.parametrize("name", MECHANISMS)


def causal(name, **changed):
    mechanism = MECHANISMS[name]
    made = type(mechanism)(**mechanism.config | {"causal": True} | changed)
    assert made.at(2).causal
    assert made.at(2).config == made.config
    return made


def masks(kind, rng, lead, n):
    """Return a mask of all queries, and what takes its rows from a place on."""
    if kind == "none":
        return None, lambda start, stop: None
    if kind == "keys":
        keys = rng.random(n) > 0.4
        return keys, lambda start, stop: keys[:stop]
    matrix = rng.random((*(lead if "lead" in kind else ()), n, n)) > 0.4
    if "float" in kind:
        matrix = np.where(matrix, rng.standard_normal(matrix.shape), -np.inf).astype(np.float32)
    if kind == "sparse":
        whole = ab.SparseMask.from_dense(matrix)
        return whole, lambda start, stop: ab.SparseMask.from_dense(matrix[start:stop, :stop])
    return matrix, lambda start, stop: matrix[..., start:stop, :stop]


def calls(name):
    """Return what each call of a mechanism returns by query, the queries along the axis before the last."""

    def context(a, q, k, v, mask, **told):
        got = a.forward(q, k, v, mask, need_context=True, **told).context
        assert got.is_causal
        assert got.first == a._start
        return np.moveaxis(got.logsumexp, -2, -1) if "heads" in name else got.logsumexp[..., None]

    made = {
        "forward": lambda a, q, k, v, mask, **told: a.forward(q, k, v, mask, **told).output,
        "context": context,
        "weights": lambda a, q, k, v, mask, **told: a.weights(q, k, mask, **told),
        "logits": lambda a, q, k, v, mask, **told: a.logits(q, k, mask, **told),
    }
    if name != "flash":
        made["need_weights"] = lambda a, q, k, v, m, **told: a.forward(q, k, v, m, need_weights=True, **told).weights
    return made


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(list(MECHANISMS)), st.sampled_from(MASKS), st.sampled_from([(), (2,), (2, 1)]), st.booleans(),
    st.sampled_from([np.float32, np.float64]), st.integers(2, 20), st.data(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_chunks_are_rows_of_the_whole(name, kind, lead, built, dtype, n, data, seed):
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    rng = np.random.default_rng(seed)
    q, k, v = rng.standard_normal((3, *lead, n, 8)).astype(dtype)
    mask, rows = masks(kind, rng, lead, n)
    attention, told = (causal(name), {}) if built else (MECHANISMS[name], {"is_causal": True})
    for call in calls(name).values():
        want = call(attention, q, k, v, mask, **told)[..., start:stop, :]
        got = call(
            attention.at(start), q[..., start:stop, :], k[..., :stop, :], v[..., :stop, :], rows(start, stop), **told
        )
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want[..., : got.shape[-1]], rtol=1e-5, atol=1e-6)


@every
@pytest.mark.parametrize("n", [11, 300])
def test_keys_ahead_are_not_attended(name, n):
    """A place below the keys' end: what lies ahead of each query has no weight, few queries or many."""
    x = np.random.default_rng(1).standard_normal((n, 8)).astype(np.float32)
    attention = causal(name)
    whole, weights = attention.forward(x, x, x).output, attention.weights(x, x)
    for start in (0, 1, n // 2, n - 1):
        for stop in {start + 1, min(start + 4, n), n}:
            moved = attention.at(start)
            np.testing.assert_allclose(
                moved.forward(x[start:stop], x, x).output, whole[start:stop], rtol=1e-5, atol=1e-6
            )
            got = moved.weights(x[start:stop], x)
            np.testing.assert_array_equal(got > 0, np.tri(n, dtype=bool)[start:stop])
            np.testing.assert_allclose(got, weights[start:stop], rtol=1e-5, atol=1e-6)
    one = attention.at(n // 2)
    np.testing.assert_allclose(one.forward(x[n // 2], x, x).output, whole[n // 2], rtol=1e-5, atol=1e-6)
    far = attention.at(10**6)  # all keys are behind
    np.testing.assert_array_equal(far.weights(x[:3], x), MECHANISMS[name].at(10**6).weights(x[:3], x))


@every
def test_elsewhere_all_keys_are_attended(name):
    x = np.random.default_rng(2).standard_normal((9, 8)).astype(np.float32)
    assert (MECHANISMS[name].at(4).weights(x[4:], x) > 0).all()
    assert not MECHANISMS[name].at(4).forward(x[4:], x, x, need_context=True).context.is_causal


@every
@pytest.mark.parametrize("listed", [False, True])
def test_dropout_leaves_what_lies_ahead_alone(name, listed):
    """The pairs dropped are those of the same mask given as an array, with the same seed."""
    x = np.random.default_rng(3).standard_normal((12, 8)).astype(np.float32)
    attention, seen = causal(name, dropout=0.5), np.tri(12, dtype=bool)[5:]
    free = type(attention)(**attention.config | {"causal": False}).at(5)
    mask = ab.SparseMask.from_dense(np.ones((7, 12), bool)) if listed else None
    want = free.forward(x[5:], x, x, ab.SparseMask.from_dense(seen) if listed else seen, training=True, seed=4).output
    got = attention.at(5).forward(x[5:], x, x, mask, training=True, seed=4).output
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert not np.allclose(got, attention.at(5).forward(x[5:], x, x, mask).output)


@pytest.mark.parametrize("name", ["scaled_dot", "flash", "heads"])
def test_turned_keys(name):
    x = np.random.default_rng(4).standard_normal((12, 8)).astype(np.float32)
    attention = causal(name)
    got = attention.at(5, turned_keys=True).forward(x[5:], attention.turn(x), x).output
    np.testing.assert_allclose(got, attention.forward(x, x, x).output[5:], rtol=1e-5, atol=1e-6)


@every
def test_places_share_no_answers(name):
    x = np.random.default_rng(5).standard_normal((12, 8)).astype(np.float32)
    cache = ab.AttentionCache()
    attention = causal(name)
    kept, free = attention.cached(cache), MECHANISMS[name].cached(cache)
    for _ in range(2):
        for start in (0, 3, 4):
            moved = attention.at(start)
            np.testing.assert_array_equal(kept.at(start).forward(x[:5], x, x).output, moved.forward(x[:5], x, x).output)
            np.testing.assert_array_equal(kept.at(start).weights(x[:5], x), moved.weights(x[:5], x))
            np.testing.assert_array_equal(kept.at(start).logits(x[:5], x), moved.logits(x[:5], x))
            want = MECHANISMS[name].at(start).logits(x[:5], x)
            np.testing.assert_array_equal(free.at(start).logits(x[:5], x), want)
            np.testing.assert_array_equal(free.at(start).logits(x[:5], x, is_causal=True), moved.logits(x[:5], x))
    moved = kept.at(3)
    first, hits = moved.forward(x[:5], x, x).output, cache.hits
    np.testing.assert_array_equal(moved.forward(x[:5], x, x).output, first)
    assert cache.hits == hits + 1


@every
def test_pickled_with_its_place(name):
    x = np.random.default_rng(6).standard_normal((12, 8)).astype(np.float32)
    moved = causal(name).at(5)
    again = pickle.loads(pickle.dumps(moved))
    assert again.causal
    assert repr(again) == repr(moved)
    np.testing.assert_array_equal(again.weights(x[5:], x), moved.weights(x[5:], x))


@pytest.mark.parametrize("name", ["scaled_dot", "flash", "heads, projected"])
def test_large_logits_are_redone_behind_the_query_too(name):
    """Rows whose float32 products overflow go by float64, over the same keys."""
    x = np.random.default_rng(7).standard_normal((9, 8)).astype(np.float32)
    x[2] *= np.float32(1e30)
    attention = causal(name)
    want = attention.forward(x, x, x * 0 + np.arange(9, dtype=np.float32)[:, None]).output[4:]
    got = attention.at(4).forward(x[4:], x, x * 0 + np.arange(9, dtype=np.float32)[:, None]).output
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@every
def test_refusals_name_what_was_given(name):
    """Causal over a graph or as a ranking is refused as before, wherever the queries begin."""
    moved, x = causal(name).at(3), np.eye(3, 8, dtype=np.float32)
    with pytest.raises(ab.InvalidConfigError, match="causal must be False where keys have no order"):
        moved.as_type()
    with pytest.raises(ab.InvalidConfigError, match="causal must be False over a graph"):
        moved.graph_forward(x, [[0, 1], [1, 2]])
    with pytest.raises(ab.InvalidConfigError, match="is_causal must be True or False"):
        MECHANISMS[name].at(3).weights(x, x, is_causal=1)
    bad = x.copy()
    bad[2, 1] = np.nan
    with pytest.raises(ab.InvalidInputError, match="key must be finite: row 2, column 1"):
        causal(name).at(0).forward(x[:1], bad, x)  # though the query does not see it
    with pytest.raises(ab.InvalidInputError, match="value must be finite: row 2, column 1"):
        causal(name).at(1).forward(x[:1], x, bad)


def test_the_builders_mechanism():
    attention = ab.scaled_dot(8).rotary().causal().build()
    x = np.random.default_rng(8).standard_normal((6, 8)).astype(np.float32)
    assert attention.at(3).causal
    got = attention.at(3).forward(x[3:], x, x, need_weights=True).weights
    np.testing.assert_array_equal(got > 0, np.tri(6, dtype=bool)[3:])
