"""Cross attention: the layer against torch, late interaction against float64 loops and closed forms."""

import json
import math

import numpy as np
import pytest

import attnbridge as ab
from attnbridge import kernels
from attnbridge.rerank import TokenRows
from attnbridge.scoring import REGISTRY

HUGE = float(np.finfo(np.float32).max)


def documents(rng, lengths=(1, 2, 5, 3, 7), d=3, dtype=np.float32):
    return [rng.standard_normal((n, d)).astype(dtype) for n in lengths]


def reference(query, keys, temperature=None):
    """Return MaxSim, or soft MaxSim, of each document in float64."""
    out = []
    for key in keys:
        products = np.atleast_2d(query).astype(np.float64) @ np.atleast_2d(key).astype(np.float64).T
        if temperature is None:
            out.append(products.max(axis=1).mean())
            continue
        shares = np.exp((products - products.max(axis=1, keepdims=True)) / temperature)
        out.append(((shares * products).sum(axis=1) / shares.sum(axis=1)).mean())
    return np.array(out)


def softmax(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


# ---- late interaction


@pytest.mark.parametrize("temperature", [None, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_logits_weights_and_output_equal_the_float64_loop(rng, temperature, dtype, tokens):
    query, keys = rng.standard_normal((tokens, 3)).astype(dtype), documents(rng, dtype=dtype)
    values = rng.standard_normal((5, 2)).astype(dtype)
    options = {"scale": 3.0, "temperature": temperature}
    want = 3.0 * reference(query, keys, temperature)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(
        ab.attention_logits(query, keys, "cross", **options), want, rtol=tolerance, atol=tolerance
    )
    weights = ab.attention_scores(query, keys, "maxsim", **options)
    np.testing.assert_allclose(weights, softmax(want), rtol=tolerance)
    output = ab.attention(query, keys, values, "late_interaction", **options)
    np.testing.assert_allclose(output, softmax(want) @ values, rtol=tolerance, atol=tolerance)
    assert weights.dtype == output.dtype == dtype
    for key, logit in zip(keys, want, strict=True):
        assert ab.attention_score(query, key, "cross", **options) == pytest.approx(logit, rel=tolerance, abs=tolerance)


def test_by_hand():
    """The x token's best match is 3, the y token's 5: their mean is 4. Of the other document -1 and -2."""
    query = [[1.0, 0.0], [0.0, 1.0]]
    keys = [[[3.0, -1.0], [0.0, 5.0]], [[-1.0, -2.0]]]
    assert ab.attention_logits(query, keys, "cross").tolist() == [4.0, -1.5]
    soft = ab.attention_score([1.0, 0.0], [[math.log(3.0), 0.0], [0.0, 7.0]], "cross", temperature=1.0)
    assert soft == pytest.approx(0.75 * math.log(3.0), rel=1e-6)  # weights 3/4 and 1/4, products ln 3 and 0


def test_single_vectors_reduce_to_the_dot_product(rng):
    query, keys = rng.standard_normal(5).astype(np.float32), rng.standard_normal((7, 5)).astype(np.float32)
    for options in ({}, {"temperature": 0.3}):
        np.testing.assert_allclose(
            ab.attention_logits(query, keys, "cross", **options), ab.attention_logits(query, keys, scale=1.0), rtol=1e-6
        )
    assert ab.attention_score(query, keys[0], "cross") == pytest.approx(float(query @ keys[0]), rel=1e-6)


def test_an_array_a_list_and_lists_of_lists_agree(rng):
    query, keys = rng.standard_normal((2, 3)), rng.standard_normal((4, 5, 3))
    want = ab.attention_logits(query, keys, "cross")
    boxed = np.empty(4, object)
    boxed[:] = list(keys)
    for form in (list(keys), keys.tolist(), boxed):
        np.testing.assert_allclose(ab.attention_logits(query, form, "cross"), want, rtol=1e-6)


def test_order_of_tokens_does_not_matter_and_that_of_keys_moves_with_them(rng):
    query, keys, order = rng.standard_normal((4, 3)), documents(rng, dtype=np.float64), rng.permutation(5)
    for options in ({}, {"temperature": 0.5}):
        want = ab.attention_logits(query, keys, "cross", **options)
        turned = ab.attention_logits(query[::-1], [key[::-1] for key in keys], "cross", **options)
        np.testing.assert_allclose(turned, want, rtol=1e-12)
        moved = ab.attention_logits(query, [keys[i] for i in order], "cross", **options)
        np.testing.assert_array_equal(moved, want[order])


def test_soft_is_bounded_by_hard_and_has_no_bias_by_length(rng):
    query, keys = rng.standard_normal((4, 3)), documents(rng, dtype=np.float64)
    hard = ab.attention_logits(query, keys, "cross")
    last = np.full(5, -np.inf)
    for temperature in (1e9, 10.0, 1.0, 0.1, 1e-3):
        soft = ab.attention_logits(query, keys, "cross", temperature=temperature)
        assert (soft <= hard + 1e-12).all()
        assert (soft >= last - 1e-6).all()  # rises as the temperature falls
        last = soft
        twice = ab.attention_logits(
            query, [np.concatenate([key, key]) for key in keys], "cross", temperature=temperature
        )
        np.testing.assert_allclose(twice, soft, rtol=1e-12)
    np.testing.assert_allclose(last, hard, rtol=1e-3)
    means = [np.mean(query @ key.T) for key in keys]
    np.testing.assert_allclose(ab.attention_logits(query, keys, "cross", temperature=1e9), means, rtol=1e-6)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_huge_tokens_stay_finite(temperature):
    half = HUGE / 2
    query = np.array([[half, half], [1.0, 0.0]], np.float32)
    keys = [np.array([[half, -half]], np.float32), np.array([[half, half], [0.0, 1.0]], np.float32)]
    got = ab.attention_logits(query, keys, "cross", temperature=temperature)
    np.testing.assert_allclose(got, reference(query, keys, temperature), rtol=1e-6)
    assert ab.attention_scores(query, keys, "cross", temperature=temperature).tolist() == [0.0, 1.0]


def test_large_products_are_as_exact_as_small_ones(rng):
    """float32 sums of products near 1e6 would be off by 0.1 and more."""
    query, keys = 300.0 * rng.standard_normal((3, 64)).astype(np.float32), documents(rng, d=64)
    keys = [300.0 * key for key in keys]
    for temperature in (None, 10.0):
        got = ab.attention_logits(query, keys, "cross", temperature=temperature)
        np.testing.assert_allclose(got, reference(query, keys, temperature), rtol=1e-12)


def test_masks_and_values(rng):
    query, keys, values = rng.standard_normal((2, 3)), documents(rng, dtype=np.float64), rng.standard_normal((5, 2))
    mask = np.array([True, False, True, True, False])
    weights = ab.attention_scores(query, keys, "cross", mask=mask)
    assert weights[~mask].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(weights[mask], softmax(reference(query, keys)[mask]), rtol=1e-12)
    added = ab.attention_logits(query, keys, "cross", mask=np.arange(5.0))
    np.testing.assert_allclose(added, reference(query, keys) + np.arange(5), rtol=1e-12)
    assert ab.attention(query, keys, values, "cross", mask=np.zeros(5, bool)).tolist() == [0.0, 0.0]


def test_zeros_duplicates_and_one_key(rng):
    keys = [np.ones((2, 3))] * 3
    np.testing.assert_allclose(ab.attention_scores(rng.standard_normal((2, 3)), keys, "cross"), 1 / 3)
    assert ab.attention_logits(np.zeros((2, 3)), keys, "cross", temperature=0.1).tolist() == [0.0] * 3
    assert ab.attention_scores(np.ones(3), [np.ones((2, 3))], "cross").tolist() == [1.0]


def test_as_a_distance(rng):
    a, b = documents(rng, (2, 3))
    assert ab.AttentionDistance("cross")(a, b) == -ab.attention_score(a, b, "cross")


def test_a_document_without_tokens_has_no_weight():
    """In an index; by value it is refused."""
    row, out = REGISTRY["cross"], np.empty(2)
    tokens = TokenRows(np.ones((2, 3), np.float32), np.array([0, 2]), np.array([2, 0]))
    row.token_logits(
        np.ones((1, 3), np.float32), np.ones(1), tokens, np.array([1, 0]), {"scale": 2.0, "temperature": None}, out
    )
    assert out.tolist() == [-np.inf, 6.0]


@pytest.mark.parametrize(
    ("query", "keys", "message"),
    [
        (np.ones((1, 2, 3)), np.ones((2, 3)), r"query must be a vector \(d,\) or the token vectors \(m, d\)"),
        (np.ones((0, 3)), np.ones((2, 3)), r"query must be a vector .* got shape \(0, 3\)"),
        (np.ones((2, 3)), np.ones((2, 4)), "Query and key dimensions must match: 3 vs 4"),
        (np.ones(3), np.ones(3), r"keys must be vectors \(S, d\), token vectors \(S, t, d\) or a list"),
        (np.ones(3), [], "keys must not be empty"),
        (np.ones(3), np.ones((0, 2, 3)), "keys must not be empty"),
        (np.ones(3), [np.ones((2, 3)), np.ones((0, 3))], r"keys\[1\] must hold at least one token, got none"),
        (
            np.ones(3),
            [np.ones((2, 3)), np.ones((2, 4))],
            r"keys must have one dimension: keys\[0\] has 3, keys\[1\] has 4",
        ),
        (np.ones(3), [np.ones((2, 3)), np.ones(3)], r"keys\[1\] must be rows \(n, d\)"),
        (np.ones(3), [np.ones((2, 3)), np.full((2, 3), np.nan)], r"keys\[1\] must be finite: row 0, column 0 is nan"),
        (np.array([[1.0, np.inf]]), np.ones((2, 2)), "query must be finite: row 0, column 1 is inf"),
        ("text", np.ones((2, 2)), "query must be real numbers"),
        (np.ones(3), "text", "keys must be real numbers"),
    ],
)
def test_bad_input(query, keys, message):
    with pytest.raises((ab.InvalidInputError, ab.DimensionMismatchError), match=message):
        ab.attention_logits(query, keys, "cross")


def test_more_bad_input():
    with pytest.raises(ab.DimensionMismatchError, match="values must have a row for each of 2 keys, got 3"):
        ab.attention(np.ones(3), np.ones((2, 3)), np.ones((3, 1)), "cross")
    with pytest.raises(ab.InvalidInputError, match="values must be finite: row 1, column 0 is nan"):
        ab.attention(np.ones(3), np.ones((2, 3)), np.array([[1.0], [np.nan]]), "cross")
    with pytest.raises(ab.InputTooLargeError, match="keys must be at most max_keys = 1 rows, got 2"):
        ab.attention_logits(np.ones(3), [np.ones((5, 3)), np.ones((5, 3))], "cross", max_keys=1)
    with pytest.raises(ab.InvalidMaskError, match=r"mask must broadcast to \(queries, keys\) = \(1, 2\)"):
        ab.attention_logits(np.ones(3), np.ones((2, 3)), "cross", mask=np.ones(3, bool))
    for options in ({"scale": 0.0}, {"temperature": 0.0}, {"temperature": -1.0}):
        with pytest.raises(ab.InvalidConfigError, match=f"{next(iter(options))} must be a finite number > 0"):
            ab.attention_logits(np.ones(3), np.ones((2, 3)), "cross", **options)
    mechanism = REGISTRY["cross"].mechanism({"scale": 1.0, "temperature": None})
    assert mechanism.config == {"scale": 1.0, "temperature": None}
    with pytest.raises(ab.InvalidConfigError, match="is_causal must be False for late interaction"):
        mechanism.logits(np.ones(3), np.ones((2, 3)), is_causal=True)


def test_soft_maxsim_kernel_by_hand():
    """Products 0 and ln 3 at temperature 1/2: shares 1 and 9 of 10. The empty document has none."""
    out = np.empty(2)
    tokens = np.array([[0.0, 1.0], [math.log(3.0), 0.0]])
    starts, lengths = np.array([0, 2]), np.array([2, 0])
    kernels.maxsim(np.array([[1.0, 0.0]]), np.array([2.0]), tokens, None, starts, lengths, 0.5, out)
    assert out[0] == pytest.approx(2.0 * 0.9 * math.log(3.0), rel=1e-12)
    assert np.isnan(out[1])


# ---- the layer


def test_layer_equals_multi_head_over_another_sequence(rng):
    query, states = rng.standard_normal((5, 6)), rng.standard_normal((2, 7, 4))
    cross = ab.CrossAttention(6, 2, kdim=4, seed=3)
    heads = ab.MultiHeadAttention(6, 2, kdim=4, vdim=4, seed=3)
    mask = rng.random((5, 7)) < 0.7
    got = cross.forward(query, states, states, mask, need_weights=True)
    want = heads.forward(query, states, states, mask, need_weights=True)
    assert np.array_equal(got.output, want.output)
    assert np.array_equal(got.weights, want.weights)
    assert got.output.shape == (2, 5, 6)


def test_layer_equals_torch(rng):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.MultiheadAttention(12, 3, kdim=5, vdim=5, batch_first=True)
    ours = ab.CrossAttention(12, 3, kdim=5)
    ours.set_parameters(0.4 * rng.standard_normal(ours.parameter_count))
    held = {name: torch.from_numpy(array) for name, array in ours.parameters().items()}
    with torch.no_grad():
        for name in "qkv":
            getattr(theirs, f"{name}_proj_weight").copy_(held[f"W_{name}"])
        theirs.in_proj_bias.copy_(torch.cat([held["b_q"], held["b_k"], held["b_v"]]))
        theirs.out_proj.weight.copy_(held["W_o"])
        theirs.out_proj.bias.copy_(held["b_o"])
        query, states = (torch.from_numpy(rng.standard_normal(s).astype(np.float32)) for s in ((2, 7, 12), (2, 11, 5)))
        padding = torch.from_numpy(np.arange(11) >= np.array([[11], [4]]))
        want, shares = theirs(query, states, states, key_padding_mask=padding, need_weights=True)
    got = ours.forward(query.numpy(), states.numpy(), states.numpy(), ~padding.numpy()[:, None], need_weights=True)
    np.testing.assert_allclose(got.output, want.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.weights, shares.numpy(), rtol=1e-5, atol=1e-5)


def test_layer_settings():
    cross = ab.CrossAttention(12, 3, kdim=5, dropout=0.1, scale=2.0, max_seq_len=9, seed=4)
    assert cross.parameter_count == 2 * 144 + 2 * 60 + 48
    assert cross.vdim == 5
    again = ab.CrossAttention(**json.loads(json.dumps(cross.config)))
    assert again.config == cross.config
    assert np.array_equal(again.get_parameters(), cross.get_parameters())
    assert "causal" not in cross.config
    raw = ab.CrossAttention(12, 3, projections=False)
    assert ab.CrossAttention(**raw.config).config == raw.config
    made = ab.CrossAttention.from_config(ab.AttentionConfig(d_model=12, num_heads=3, use_bias=False), seed=2)
    assert made.config | {"d_model": 12, "num_heads": 3, "bias": False, "dropout": 0.1, "seed": 2} == made.config


def test_layer_refuses():
    cross, x, states = ab.CrossAttention(6, 2, kdim=4), np.ones((3, 6)), np.ones((5, 4))
    with pytest.raises(ab.InvalidConfigError, match="is_causal must be False for cross attention"):
        cross.forward(x, states, states, is_causal=True)
    with pytest.raises(TypeError, match="causal"):
        ab.CrossAttention(6, 2, causal=True)
    with pytest.raises(ab.InvalidInputError, match="key must be given"):
        cross.forward(x, None, states)
    with pytest.raises(ab.DimensionMismatchError, match="key must have dimension kdim = 4, got 6"):
        cross.forward(x, x, x)


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_single_vectors_among_longer_keys(rng, temperature):
    """A key of one token has the same logit among vectors, among longer keys, and alone."""
    query, keys = rng.standard_normal(19).astype(np.float32), rng.standard_normal((7, 19)).astype(np.float32)
    options = {} if temperature is None else {"temperature": temperature}
    plain = ab.attention_logits(query, keys, "cross", scale=3.0, **options)
    np.testing.assert_allclose(plain, 3.0 * keys.astype(float) @ query, rtol=1e-5, atol=1e-5)
    longer = rng.standard_normal((3, 19)).astype(np.float32)
    mixed = ab.attention_logits(query, [keys[:1], longer, *keys[1:, None]], "cross", scale=3.0, **options)
    assert mixed[[0, *range(2, 8)]].tolist() == plain.tolist()
    assert mixed[1] == ab.attention_score(query, longer, "cross", scale=3.0, **options)
    assert ab.attention_score(query, keys[4], "cross", scale=3.0, **options) == plain[4]
