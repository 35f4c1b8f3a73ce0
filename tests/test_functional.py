"""Attention as functions: values by hand, float64 truth, masks, input forms, and every refusal."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import attnbridge as ab
from attnbridge import functional, scoring, validation
from attnbridge.scoring import REGISTRY, resolve

E1, E2 = [1.0, 0.0], [0.0, 1.0]
MAX32 = float(np.finfo(np.float32).max)


def truth(query, keys, scale=None, mask=None):
    """Return float64 logits and weights of scaled dot-product attention."""
    q, k = np.asarray(query, float), np.asarray(keys, float)
    logits = q @ k.T * (k.shape[1] ** -0.5 if scale is None else scale)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf) if np.asarray(mask).dtype == bool else logits + mask
    top = logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits - np.where(top == -np.inf, 0.0, top))
    return logits, weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)


@pytest.fixture
def qkv(rng):
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((5, 11), (7, 11), (7, 3))]


# ---- by hand


def test_weights_of_the_unit_vectors():
    """e^(1/sqrt 2) : 1 is 0.67 : 0.33; with scale 1, e : 1 is 0.73 : 0.27."""
    np.testing.assert_allclose(ab.attention_scores(E1, [E1, E2]), [0.669762, 0.330238], atol=1e-6)
    np.testing.assert_allclose(ab.attention_scores(E1, [E1, E2], scale=1.0), [0.731059, 0.268941], atol=1e-6)


def test_one_and_e():
    """q = [0, sqrt 2]: the logit with [0, 1] is 1, so that the weights are [1, e] / (1 + e)."""
    query, keys = [0.0, math.sqrt(2.0)], [E1, E2]
    e = math.e
    np.testing.assert_allclose(ab.attention_logits(query, keys), [0.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(ab.attention_scores(query, keys), [1 / (1 + e), e / (1 + e)], rtol=1e-6)
    np.testing.assert_allclose(
        ab.attention(query, keys, [[10.0, 0.0, 1.0], [20.0, 5.0, 1.0]]),
        [(10 + 20 * e) / (1 + e), 5 * e / (1 + e), 1.0],
        rtol=1e-6,
    )


def test_score_is_the_logit_not_a_softmax_over_one_key():
    assert ab.attention_score([1.0, 2.0], [3.0, 4.0]) == pytest.approx(11.0 / math.sqrt(2.0), rel=1e-7)
    assert ab.attention_score([1.0, 2.0], [3.0, 4.0], scale=1.0) == 11.0
    assert ab.attention_score([3.0], [-2.0]) == -6.0
    assert isinstance(ab.attention_score(E1, E2), float)


def test_softmax_by_hand():
    np.testing.assert_allclose(ab.softmax([0.0, math.log(3.0)]), [0.25, 0.75], rtol=1e-6)
    got = ab.softmax([[1e30, 1e30], [-np.inf, -5.0]])
    assert got.tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert got.dtype == np.float32
    assert ab.softmax(np.array([0.0, 1.0])).dtype == np.float64
    assert ab.softmax([3]).tolist() == [1.0]


def test_attention_types_are_the_registry():
    rows = ab.attention_types()
    assert [row["name"] for row in rows] == list(REGISTRY)
    assert rows[0] == {
        "name": "scaled_dot",
        "complexity": "O(n^2)",
        "best_for": "small sequences (<512)",
        "pairwise": True,
        "build_space": "metric",
        "aliases": ["dot", "scaled_dot_product", "sdpa"],
        "options": {"scale": None},
    }
    rows[0]["options"]["scale"] = 5.0  # the caller's copy, not the registry's
    assert ab.attention_types()[0]["options"] == {"scale": None}


@pytest.mark.parametrize("row", REGISTRY.values(), ids=REGISTRY)
def test_every_name_of_a_type_gives_the_same_numbers(row, qkv):
    q, k, v = (array / 10 for array in qkv)  # points of the unit ball as well
    options = {"multi_head": {"num_heads": 1}, "sliding": {"position": 2}}.get(row.name, {})
    want = ab.attention(q[0], k, v, row.name, **options)
    for alias in row.aliases:
        assert (ab.attention(q[0], k, v, alias, **options) == want).all()
        assert resolve(alias, {})[0] is row


# ---- truth


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("count", "keys", "dim", "width"), [(1, 1, 1, 1), (2, 3, 5, 7), (13, 11, 7, 5), (3, 1000, 384, 17)]
)
@pytest.mark.parametrize("scale", [None, 3.0])
def test_against_float64(rng, dtype, count, keys, dim, width, scale):
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in ((count, dim), (keys, dim), (keys, width)))
    k[keys // 2] = 0.0
    k[-1] = k[0]
    logits, weights = truth(q, k, scale)
    exact = dtype == np.float64
    np.testing.assert_allclose(ab.attention_logits(q, k, scale=scale), logits, rtol=1e-5, atol=1e-12 if exact else 1e-5)
    got = ab.attention_scores(q, k, scale=scale)
    # Below float32's smallest normal number a weight has no digits to compare.
    np.testing.assert_allclose(got, weights, rtol=1e-11 if exact else 1e-5, atol=0.0 if exact else 1e-37)
    assert got.dtype == (np.float64 if exact else np.float32)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=1e-5)
    assert (got[:, 0] == got[:, -1]).all()
    output = ab.attention(q, k, v, scale=scale)
    np.testing.assert_allclose(output, weights @ v.astype(float), rtol=1e-5, atol=1e-12 if exact else 1e-5)
    assert output.shape == (count, width)
    assert output.dtype == got.dtype


def test_one_query_is_a_batch_of_one(qkv):
    q, k, v = qkv
    for function, args in (
        (ab.attention_logits, (k,)),
        (ab.attention_scores, (k,)),
        (ab.attention, (k, v)),
    ):
        together = function(q, *args)
        for i in range(len(q)):
            assert function(q[i], *args).tolist() == together[i].tolist()
            assert function(q[i : i + 1], *args).tolist() == [together[i].tolist()]


def test_score_has_the_bits_of_logits(qkv):
    q, k, _ = qkv
    logits = ab.attention_logits(q, k)
    assert [[ab.attention_score(a, b) for b in k] for a in q] == logits.tolist()


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-50, 50, width=32)),
    st.data(),
)
@settings(deadline=None, max_examples=100)
def test_permuting_keys_permutes_weights(keys, data):
    order = np.array(data.draw(st.permutations(range(len(keys)))))
    query = data.draw(hnp.arrays(np.float32, keys.shape[1], elements=st.floats(-2, 2, width=32)))
    weights, permuted = ab.attention_scores(query, keys), ab.attention_scores(query, keys[order])
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    assert ((weights >= 0.0) & (weights <= 1.0)).all()
    np.testing.assert_allclose(
        ab.attention(query, keys, keys), truth(query, keys)[1] @ keys.astype(float), rtol=1e-4, atol=1e-4
    )


def test_half_of_the_largest_float32():
    big = MAX32 / 2
    query, keys = [big, -big], [[big, -big], [big, big], [-big, big], [0.0, 0.0]]
    logits = ab.attention_logits(query, keys)
    np.testing.assert_allclose(
        logits, np.array([2.0, 0.0, -2.0, 0.0]) * np.float64(np.float32(big)) ** 2 / math.sqrt(2)
    )
    assert ab.attention_scores(query, keys).tolist() == [1.0, 0.0, 0.0, 0.0]
    output = ab.attention(query, keys, keys)
    assert output.tolist() == np.float32([big, -big]).tolist()
    assert ab.attention_score(query, keys[2]) == logits[2]


def test_a_mean_of_the_largest_values_stays_finite():
    """Weights that sum to a little more than one must not push float32's largest number over the edge."""
    output = ab.attention([1.0], [[1.0], [1.0], [1.0]], [[MAX32]] * 3)
    np.testing.assert_allclose(output, [MAX32], rtol=1e-6)


# ---- masks


def test_boolean_mask_lets_true_attend(qkv):
    q, k, v = qkv
    mask = np.random.default_rng(3).random((5, 7)) < 0.5
    mask[0], mask[1], mask[2] = True, False, [True] + [False] * 6
    logits, weights = truth(q, k, mask=mask)
    got = ab.attention_scores(q, k, mask=mask)
    np.testing.assert_allclose(got, weights, rtol=1e-5)
    assert (got[~mask] == 0.0).all()
    assert got[0].tolist() == ab.attention_scores(q[0], k).tolist()
    assert got[1].tolist() == [0.0] * 7  # nothing to attend to: zeros, not NaN
    assert got[2].tolist() == [1.0] + [0.0] * 6
    masked = ab.attention_logits(q, k, mask=mask)
    np.testing.assert_array_equal(masked == -np.inf, ~mask)
    np.testing.assert_allclose(masked[mask], logits[mask], rtol=1e-5)
    output = ab.attention(q, k, v, mask=mask)
    np.testing.assert_allclose(output, weights @ v, rtol=1e-5, atol=1e-6)
    assert output[1].tolist() == [0.0] * 3
    assert output[2].tolist() == v[0].tolist()


def test_float_mask_is_added(qkv):
    q, k, v = qkv
    mask = np.random.default_rng(3).standard_normal((5, 7))
    mask[2, 3], mask[4] = -np.inf, -np.inf
    np.testing.assert_allclose(ab.attention_scores(q, k, mask=mask), truth(q, k, mask=mask)[1], rtol=1e-5)
    assert ab.attention_scores(q, k, mask=mask)[2, 3] == 0.0
    assert ab.attention(q, k, v, mask=mask)[4].tolist() == [0.0] * 3
    np.testing.assert_allclose(ab.attention_logits(q, k, mask=2.0), ab.attention_logits(q, k) + 2.0)


def test_forms_of_a_mask_agree(qkv):
    q, k, _ = qkv
    mask = np.array([True, False, True, True, False, False, True])
    want = ab.attention_scores(q, k, mask=np.tile(mask, (5, 1)))
    as_numbers = np.where(mask, 0.0, -np.inf)
    for form in (mask, mask.tolist(), mask[None], as_numbers, as_numbers.astype(np.float32), as_numbers.tolist()):
        assert ab.attention_scores(q, k, mask=form).tolist() == want.tolist()
    for_each = np.array([True, False, True, True, True])[:, None]
    assert (ab.attention_scores(q, k, mask=for_each).sum(axis=1) > 0.5).tolist() == for_each[:, 0].tolist()


# ---- input forms


def forms(array, folder):
    """Return an array in every form that a caller may have it in, all with the same float32 values."""
    mapped = folder / f"{array.shape}.npy"
    np.save(mapped, array)
    wide = np.empty((*array.shape[:-1], 2 * array.shape[-1]), np.float32)
    wide[..., ::2] = array
    frozen = array.copy()
    frozen.flags.writeable = False
    objects = np.empty(len(array), object)
    objects[:] = list(array) if array.ndim == 2 else array.tolist()
    return {
        "list": array.tolist(),
        "tuple": tuple(array.tolist()),
        "fortran": np.asfortranarray(array),
        "strided": wide[..., ::2],
        "reversed": np.ascontiguousarray(array[..., ::-1])[..., ::-1],
        "read-only": frozen,
        "memory-mapped": np.load(mapped, mmap_mode="r"),
        "big-endian": array.astype(">f4"),
        "object": objects,
    }


def test_input_forms_agree(qkv, tmp_path):
    q, k, v = (np.round(array * 64) / 64 for array in qkv)  # values that float16 holds too
    want = ab.attention(q, k, v)
    made = [forms(array, tmp_path) for array in (q, k, v)]
    for name in made[0]:
        got = ab.attention(*(form[name] for form in made))
        assert got.dtype == np.float32, name
        assert got.tolist() == want.tolist(), name
    halves = [array.astype(np.float16) for array in (q, k, v)]
    assert ab.attention(*halves).tolist() == want.tolist()
    doubles = [array.astype(np.float64) for array in (q, k, v)]
    got = ab.attention(*doubles)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    for place in range(3):  # one float64 array among float32 ones
        mixed = ab.attention(*(doubles[i] if i == place else array for i, array in enumerate((q, k, v))))
        assert mixed.dtype == np.float64
        np.testing.assert_allclose(mixed, got, rtol=1e-5, atol=1e-6)
    whole = [np.round(array).astype(np.int64) for array in (q, k, v)]
    assert ab.attention(*whole).tolist() == ab.attention(*(array.astype(np.float32) for array in whole)).tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_inputs_stay_as_they_are(qkv, dtype):
    arrays = [array.astype(dtype) for array in qkv]
    mask = np.zeros((5, 7))
    mask[1] = -np.inf
    before = [array.tobytes() for array in (*arrays, mask)]
    ab.attention(*arrays, mask=mask)
    ab.attention_logits(*arrays[:2], mask=mask)
    ab.attention_score(arrays[0][0], arrays[1][0])
    ab.softmax(arrays[0])
    assert [array.tobytes() for array in (*arrays, mask)] == before


def test_results_are_the_callers_own(qkv):
    q, k, v = qkv
    for result in (ab.attention_logits(q, k), ab.attention_scores(q, k), ab.attention(q, k, v), ab.softmax(q)):
        assert result.flags.writeable
        assert result.flags.c_contiguous
        assert not any(np.shares_memory(result, array) for array in qkv)


# ---- refusals, each with the words that lead out of it

K2 = [E1, E2]
BAD_INPUT = [
    # what must agree does not
    (
        lambda: ab.attention_scores([1.0] * 3, K2),
        ab.DimensionMismatchError,
        r"dimensions must match: 3 vs 2; give both",
    ),
    (lambda: ab.attention_score([1.0] * 3, E1), ab.DimensionMismatchError, r"dimensions must match: 3 vs 2; give both"),
    (
        lambda: ab.attention(E1, K2, [[1.0]]),
        ab.DimensionMismatchError,
        r"values must have a row for each of 2 keys, got 1",
    ),
    (
        lambda: ab.attention_scores([[[1.0]]], K2),
        ab.DimensionMismatchError,
        r"Query and key dimensions must match: 1 vs 2",
    ),
    (
        lambda: ab.attention_scores(1.0, K2),
        ab.DimensionMismatchError,
        r"query must be \(d,\) or \(\.\.\., L, d\), got shape \(\)",
    ),
    (
        lambda: ab.attention_scores(E1, E2),
        ab.DimensionMismatchError,
        r"keys must be rows \(n, d\) or .*goes in as keys\[None, :\]",
    ),
    (
        lambda: ab.attention(E1, K2, [1.0, 2.0]),
        ab.DimensionMismatchError,
        r"values must be rows \(n, d\) or \(\.\.\., n, d\), got shape \(2,\)",
    ),
    (
        lambda: ab.attention_score(K2, E1),
        ab.DimensionMismatchError,
        r"query must be one vector \(d,\), got shape \(2, 2\)",
    ),
    (
        lambda: ab.attention_score(E1, K2),
        ab.DimensionMismatchError,
        r"key must be one vector \(d,\), got shape \(2, 2\)",
    ),
    (
        lambda: ab.softmax([[[1.0]]]),
        ab.DimensionMismatchError,
        r"scores must be \(n,\) or \(m, n\), got shape \(1, 1, 1\)",
    ),
    # empty
    (lambda: ab.attention_scores([], K2), ab.DimensionMismatchError, r"query must not be empty: it has no values"),
    (lambda: ab.attention_score([], []), ab.DimensionMismatchError, r"query must not be empty"),
    (lambda: ab.attention_score(E1, []), ab.DimensionMismatchError, r"key must not be empty"),
    (
        lambda: ab.attention_scores(E1, []),
        ab.InvalidInputError,
        r"keys must not be empty: attention needs at least one key",
    ),
    (lambda: ab.attention_scores(E1, np.empty((0, 2))), ab.InvalidInputError, r"keys must not be empty"),
    (lambda: ab.attention_scores(E1, [[], []]), ab.DimensionMismatchError, r"keys must not be empty: its rows have no"),
    (lambda: ab.softmax([]), ab.InvalidInputError, r"scores must not be empty: softmax needs at least one"),
    # not finite
    (
        lambda: ab.attention_scores([1.0, np.nan], K2),
        ab.InvalidInputError,
        r"query must be finite: position 1 is nan; drop",
    ),
    (
        lambda: ab.attention_scores([E1, [np.inf, 0]], K2),
        ab.InvalidInputError,
        r"query must be finite: row 1, column 0 is inf",
    ),
    (
        lambda: ab.attention_scores(E1, [E1, [np.nan, 0]]),
        ab.InvalidInputError,
        r"keys must be finite: row 1, column 0 is nan",
    ),
    (
        lambda: ab.attention_scores(E1, [E1, [0, -np.inf]]),
        ab.InvalidInputError,
        r"keys must be finite: row 1, column 1 is -inf",
    ),
    (lambda: ab.attention_score(E1, [0, np.inf]), ab.InvalidInputError, r"key must be finite: position 1 is inf"),
    (
        lambda: ab.attention(E1, K2, [[1.0], [np.nan]]),
        ab.InvalidInputError,
        r"values must be finite: row 1, column 0 is nan",
    ),
    (
        lambda: ab.softmax([1.0, np.nan]),
        ab.InvalidInputError,
        r"scores must be finite or -inf; NaN and \+inf have no softmax",
    ),
    (lambda: ab.softmax([1.0, np.inf]), ab.InvalidInputError, r"scores must be finite or -inf"),
    (
        lambda: ab.softmax([[0.0, 1.0], [-np.inf] * 2]),
        ab.InvalidInputError,
        r"scores must not all be -inf: there is nothing",
    ),
    # not representable
    (
        lambda: ab.attention_scores([1.0, 1e39], K2),
        ab.InvalidInputError,
        r"query must fit float32 \(up to 3.4e38\): row 1",
    ),
    (
        lambda: ab.attention_scores(E1, [E1, [1e300, 0]]),
        ab.InvalidInputError,
        r"keys must fit float32.*row 1 does not; rescale",
    ),
    (
        lambda: ab.attention_scores(np.full(2, 1e200), np.full((1, 2), 1e200)),
        ab.InvalidInputError,
        r"products within float64 \(1.8e308\); rescale them",
    ),
    # not numbers, not rows
    (
        lambda: ab.attention_scores(E1, [[1.0, 2.0], [3.0]]),
        ab.InvalidInputError,
        r"keys.*row 0 has 2 values, row 1 has 1; pad",
    ),
    (
        lambda: ab.attention_scores(E1, [E1, [E1]]),
        ab.InvalidInputError,
        r"keys must be numbers in rows of one length, got list; ",
    ),
    (
        lambda: ab.attention_scores(E1, np.array([np.ones(2), np.ones(2), np.ones(3)], object)),
        ab.InvalidInputError,
        r"keys must be rows of one length: row 0 has 2 values, row 2 has 3",
    ),
    (
        lambda: ab.attention_scores("ab", K2),
        ab.InvalidInputError,
        r"query must be real numbers, got a text",
    ),
    (lambda: ab.attention_scores(E1, [["a", "b"]]), ab.InvalidInputError, r"keys must be real numbers, got dtype <U1"),
    (
        lambda: ab.attention_scores(E1, [[1j, 0]]),
        ab.InvalidInputError,
        r"keys must be real numbers, got dtype complex128; pass abs\(\), or .real$",
    ),
    (
        lambda: ab.attention_scores(np.array(["2026-01-01"], "M8[D]"), K2),
        ab.InvalidInputError,
        r"query must be real numbers, got dtype datetime64\[D\]; pass their differences as numbers$",
    ),
    (
        lambda: ab.attention_scores(np.array([1], "m8[D]"), K2),
        ab.InvalidInputError,
        r"query must be real numbers, got dtype timedelta64\[D\]; divide by a unit$",
    ),
    (
        lambda: ab.attention_scores([True, False], K2),
        ab.InvalidInputError,
        r"query must be real numbers, got dtype bool",
    ),
    (lambda: ab.attention_scores([None, 1.0], K2), ab.InvalidInputError, r"query must be "),
    (lambda: ab.attention_scores(None, K2), ab.InvalidInputError, r"query must be "),
    (lambda: ab.attention_scores({"a": 1}, K2), ab.InvalidInputError, r"query must be "),
    # too large
    (
        lambda: ab.attention_scores(E1, [E1] * 3, max_keys=2),
        ab.InputTooLargeError,
        r"keys must be at most max_keys = 2 rows, got 3; pass max_keys=3 to allow it, or put them into an Attention",
    ),
    (lambda: ab.attention(E1, K2, K2, max_keys=1), ab.InputTooLargeError, r"max_keys = 1 rows, got 2"),
    (lambda: ab.attention_logits(E1, K2, max_keys=1), ab.InputTooLargeError, r"max_keys = 1 rows, got 2"),
    (
        lambda: ab.attention_scores(E1, K2, max_keys=0),
        ab.InvalidConfigError,
        r"max_keys must be a whole number >= 1, got 0",
    ),
    (
        lambda: ab.attention_scores(E1, K2, max_keys=2.5),
        ab.InvalidConfigError,
        r"max_keys must be a whole number >= 1, got 2.5",
    ),
    (lambda: ab.attention_scores(E1, K2, max_keys=True), ab.InvalidConfigError, r"max_keys must be a whole number"),
    # masks
    (
        lambda: ab.attention_scores(E1, K2, mask=[True] * 3),
        ab.InvalidMaskError,
        r"mask must broadcast to \(queries, keys\) = \(1, 2\), got shape \(3,\)",
    ),
    (
        lambda: ab.attention_scores([E1] * 3, K2, mask=np.ones((2, 2), bool)),
        ab.InvalidMaskError,
        r"= \(3, 2\), got shape \(2, 2\)",
    ),
    (lambda: ab.attention_scores(E1, K2, mask=[1, 0]), ab.InvalidMaskError, r"mask must be boolean.*got dtype int64"),
    (
        lambda: ab.attention_scores(E1, np.ma.masked_equal([[1.0, 0.0], [0.0, 1.0]], 0.0)),
        ab.InvalidInputError,
        r"keys must have no masked values; fill them",
    ),
    (lambda: ab.attention_scores(E1, K2, scale=10**400), ab.InvalidConfigError, r"scale must be a finite number > 0"),
    (lambda: ab.attention_scores(E1, K2, mask=["a", "b"]), ab.InvalidMaskError, r"mask must be boolean.*got dtype <U1"),
    (
        lambda: ab.attention_scores(E1, K2, mask=[1j, 0]),
        ab.InvalidMaskError,
        r"mask must be boolean.*got dtype complex128",
    ),
    (
        lambda: ab.attention_scores(E1, K2, mask=[np.nan, 0]),
        ab.InvalidMaskError,
        r"mask must be finite or -inf; NaN and",
    ),
    (lambda: ab.attention_scores(E1, K2, mask=[np.inf, 0]), ab.InvalidMaskError, r"mask must be finite or -inf"),
    (
        lambda: ab.attention_scores(np.array([1e200, 0]), np.array([[1e108, 0]]), mask=[1.7e308]),
        ab.InvalidMaskError,
        r"mask must stay within float64 when added to the logits \(1.8e308\)",
    ),
    # types and options
    (
        lambda: ab.attention_scores(E1, K2, "flesh"),
        ab.InvalidConfigError,
        r"attention type must be one of .*scaled_dot.*sdpa.*; got 'flesh'",
    ),
    (lambda: ab.attention_score(E1, E2, ""), ab.InvalidConfigError, r"attention type must be one of .*; got ''"),
    (lambda: ab.attention_logits(E1, K2, 7), ab.InvalidConfigError, r"attention type must be one of .*; got 7"),
    (
        lambda: ab.attention(E1, K2, K2, temperature=2),
        ab.InvalidConfigError,
        r"scaled_dot has no option 'temperature'; .* scale",
    ),
    (
        lambda: ab.attention_scores(E1, K2, scale=0.0),
        ab.InvalidConfigError,
        r"scale must be a finite number > 0, got 0.0",
    ),
    (
        lambda: ab.attention_scores(E1, K2, scale=-1),
        ab.InvalidConfigError,
        r"scale must be a finite number > 0, got -1",
    ),
    (
        lambda: ab.attention_scores(E1, K2, scale=np.inf),
        ab.InvalidConfigError,
        r"scale must be a finite number > 0, got inf",
    ),
    (
        lambda: ab.attention_scores(E1, K2, scale=np.nan),
        ab.InvalidConfigError,
        r"scale must be a finite number > 0, got nan",
    ),
    (
        lambda: ab.attention_scores(E1, K2, scale="1"),
        ab.InvalidConfigError,
        r"scale must be a finite number > 0, got '1'",
    ),
    (
        lambda: ab.attention_scores(E1, K2, scale=True),
        ab.InvalidConfigError,
        r"scale must be a finite number > 0, got True",
    ),
    (
        lambda: ab.attention_scores(E1, K2, scale=[1]),
        ab.InvalidConfigError,
        r"scale must be a finite number > 0, got \[1\]",
    ),
    (lambda: ab.AttentionDistance("nope"), ab.InvalidConfigError, r"attention type must be one of .*; got 'nope'"),
    (
        lambda: ab.AttentionDistance(scales=2),
        ab.InvalidConfigError,
        r"scaled_dot has no option 'scales'; its options are: scale",
    ),
    (lambda: ab.AttentionDistance()(E1, [1.0]), ab.DimensionMismatchError, r"dimensions must match: 2 vs 1"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_INPUT, ids=range(len(BAD_INPUT)))
def test_refused(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, ab.AttentionError)
    assert isinstance(caught.value, ValueError)


def test_refusals_of_the_shared_checks():
    """What no function of this floor reaches with its own arguments."""
    with pytest.raises(ab.DimensionMismatchError, match=r"query must have dimension 3, got 2"):
        validation.as_vector(E1, "query", dim=3)
    with pytest.raises(ab.DimensionMismatchError, match=r"vectors must have dimension 3, got 2"):
        validation.as_matrix(K2, "vectors", dim=3)
    with pytest.raises(ab.InvalidConfigError, match=r"k must be a whole number >= 1, got -2"):
        validation.as_count(-2, "k")
    with pytest.raises(ab.InvalidConfigError, match=r"offset must be a whole number >= 0, got '1'"):
        validation.as_count("1", "offset", least=0)
    with pytest.raises(ab.InvalidConfigError, match=r"mix must be a finite number >= 0, at most 1, got 1.5"):
        validation.as_number(1.5, "mix", least=0.0, most=1.0)
    with pytest.raises(ab.InvalidConfigError, match=r"metric must be one of cosine, ip, l2; got 'l1'"):
        validation.as_choice("l1", "metric", ("l2", "ip", "cosine"))
    with pytest.raises(ab.InvalidMaskError, match=r"filter must be a boolean mask \(3,\), got int64 \(3,\)"):
        validation.as_mask([1, 0, 1], "filter", 3)
    with pytest.raises(ab.InvalidMaskError, match=r"filter must be a boolean mask \(3,\), got bool \(1, 3\)"):
        validation.as_mask([[True] * 3], "filter", 3)
    with pytest.raises(ab.InvalidMaskError, match=r"filter must have one entry for each of 3 rows, got 2"):
        validation.as_mask([True, False], "filter", 3)
    with pytest.raises(
        ab.MissingDependencyError, match=r"nowhere_to_be is not installed; pip install 'attnbridge\[viz\]'"
    ):
        validation.require("nowhere_to_be.found", "viz")
    assert validation.require("math", "viz") is math
    assert validation.as_mask([True, False], "filter", 2).tolist() == [True, False]
    assert validation.as_count(np.int32(3), "k") == 3
    assert validation.as_number(np.float32(0.5), "mix") == 0.5


def test_max_keys_is_a_limit_that_can_be_moved():
    keys = np.zeros((functional.MAX_KEYS + 1, 1), np.float32)
    with pytest.raises(
        ab.InputTooLargeError, match=r"at most max_keys = 100000 rows, got 100001; pass max_keys=100001"
    ):
        ab.attention_scores([1.0], keys)
    weights = ab.attention_scores([1.0], keys, max_keys=len(keys))
    assert len(weights) == len(keys)
    np.testing.assert_allclose(weights, 1.0 / len(keys), rtol=1e-6)
    assert len(ab.attention_scores([1.0], keys[1:])) == functional.MAX_KEYS


# ---- as a distance


def test_distance_is_minus_the_logit():
    distance = ab.AttentionDistance("scaled_dot", scale=1.0)
    assert distance([1.0, 2.0], [3.0, 4.0]) == -11.0
    assert ab.AttentionDistance()([1.0, 2.0], [3.0, 4.0]) == pytest.approx(-11.0 / math.sqrt(2.0), rel=1e-7)
    assert repr(distance) == "AttentionDistance('scaled_dot', scale=1.0)"
    assert repr(ab.AttentionDistance("sdpa")) == "AttentionDistance('scaled_dot', scale=None)"


@pytest.fixture
def bounded(monkeypatch):
    """A registry with a type whose logit is at most 2, and one that is not pairwise."""
    from dataclasses import replace

    row = REGISTRY["scaled_dot"]
    for extra in (replace(row, name="bounded", largest_logit=2.0), replace(row, name="listwise", pairwise=False)):
        monkeypatch.setitem(scoring._BY_NAME, extra.name, extra)


@pytest.mark.usefixtures("bounded")
def test_distance_from_the_largest_logit_where_there_is_one():
    assert ab.AttentionDistance("bounded", scale=2.0)(E1, E1) == 0.0
    assert ab.AttentionDistance("bounded", scale=2.0)(E1, E2) == 2.0


@pytest.mark.usefixtures("bounded")
def test_only_a_pairwise_type_is_a_distance():
    with pytest.raises(
        ab.InvalidConfigError, match=r"must be pairwise for a distance, got 'listwise', whose logit of a"
    ):
        ab.AttentionDistance("listwise")


def test_distance_in_scikit_learn(rng):
    neighbors = pytest.importorskip("sklearn.neighbors")
    rows, queries = rng.standard_normal((41, 7)), rng.standard_normal((5, 7))
    model = neighbors.NearestNeighbors(n_neighbors=6, algorithm="brute", metric=ab.AttentionDistance(scale=1.0))
    distances, found = model.fit(rows).kneighbors(queries)
    products = queries @ rows.T
    order = np.argsort(-products, axis=1)[:, :6]
    assert found.tolist() == order.tolist()
    np.testing.assert_allclose(distances, -np.take_along_axis(products, order, axis=1), rtol=1e-6)


def test_distance_survives_pickling():
    distance = pickle.loads(pickle.dumps(ab.AttentionDistance("dot", scale=2.0)))
    assert (repr(distance), distance([1.0, 0.0], [3.0, 0.0])) == ("AttentionDistance('scaled_dot', scale=2.0)", -6.0)
