"""Multi-head attention against float64 loops, against torch, and what it promises beside the numbers."""

import json
import math
import pickle
import threading

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.scoring import REGISTRY

HEADS = (1, 2, 3, 6)


def reference(query, key, value, held, heads, scale=None, mask=None):
    """Return output (L, dv), weights (H, L, S) and logits (H, L, S) in float64, head by head; mask bool or float."""
    q, k, v = (np.asarray(array, np.float64) for array in (query, key, value))
    if held:
        q, k, v = (
            rows @ held[f"W_{name}"].astype(np.float64).T + held.get(f"b_{name}", 0.0)
            for name, rows in (("q", q), ("k", k), ("v", v))
        )
    width, dv = q.shape[1] // heads, v.shape[1] // heads
    outputs, weights, logits = [], [], []
    for h in range(heads):
        cut = slice(h * width, (h + 1) * width)
        scores = q[:, cut] @ k[:, cut].T * (width**-0.5 if scale is None else scale)
        if mask is not None:
            scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
        logits.append(scores)
        with np.errstate(invalid="ignore"):
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares = np.nan_to_num(shares / shares.sum(axis=1, keepdims=True))
        weights.append(shares)
        outputs.append(shares @ v[:, h * dv : (h + 1) * dv])
    output = np.concatenate(outputs, axis=1)
    if held:
        output = output @ held["W_o"].astype(np.float64).T + held.get("b_o", 0.0)
        output[~np.stack(weights).any(axis=(0, 2))] = 0.0
    return output, np.stack(weights), np.stack(logits)


def randomised(attention, rng):
    """Give every parameter, biases too, a value."""
    attention.set_parameters(rng.standard_normal(attention.parameter_count) * 0.4)
    return attention


def masks(rng, queries, keys):
    boolean = rng.random((queries, keys)) < 0.6
    boolean[0] = False
    padding = np.ones((1, keys), bool)
    padding[0, keys // 2 :] = False
    return [None, boolean, padding, rng.standard_normal((queries, keys))]


# ---- numbers


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("which", range(4), ids=["plain", "boolean", "padding", "float"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_float64_loop(rng, heads, which, dtype):
    attention = randomised(ab.MultiHeadAttention(6, heads), rng)
    query, key, value = (rng.standard_normal((n, 6)).astype(dtype) for n in (5, 7, 7))
    mask = masks(rng, 5, 7)[which]
    want, shares, logits = reference(query, key, value, attention.parameters(), heads, mask=mask)
    output, weights, _ = attention.forward(query, key, value, mask, need_weights=True, average_attn_weights=False)
    tolerance = 2e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(output, want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(weights, shares, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(attention.weights(query, key, mask), shares.mean(axis=0), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        attention.logits(query, key, mask), logits.mean(axis=0), rtol=10 * tolerance, atol=10 * tolerance
    )
    assert output.dtype == weights.dtype == dtype


def test_two_heads_by_hand():
    """Head 0 has products 0 and 2, head 1 equal ones: weights [1, e^2] / (1 + e^2), and a half each."""
    attention = ab.MultiHeadAttention(2, 2, projections=False, scale=1.0)
    query, key = [math.sqrt(2.0), 5.0], [[0.0, 1.0], [math.sqrt(2.0), 1.0]]
    e2 = math.exp(2.0)
    output, weights, _ = attention.forward(
        query, key, [[0.0, 0.0], [1.0, 1.0]], need_weights=True, average_attn_weights=False
    )
    np.testing.assert_allclose(weights, [[1 / (1 + e2), e2 / (1 + e2)], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(output, [e2 / (1 + e2), 0.5], rtol=1e-6)
    np.testing.assert_allclose(attention.logits(query, key), [2.5, 3.5], rtol=1e-6)  # (0 + 5) / 2, (2 + 5) / 2


@pytest.mark.parametrize("projections", [True, False])
def test_leading_axes_equal_a_loop(rng, projections):
    attention = ab.MultiHeadAttention(6, 3, projections=projections, seed=1)
    query, key = rng.standard_normal((2, 1, 5, 6)), rng.standard_normal((7, 11, 6))
    value = rng.standard_normal((7, 11, 6))
    output, weights, context = attention.forward(query, key, value, need_weights=True, need_context=True)
    each = attention.forward(query, key, value, need_weights=True, average_attn_weights=False).weights
    assert output.shape == (2, 7, 5, 6)
    assert weights.shape == (2, 7, 5, 11)
    assert each.shape == (2, 7, 3, 5, 11)
    assert context.logsumexp.shape == (2, 7, 3, 5)
    for b, c in np.ndindex(2, 7):
        alone = attention.forward(query[b, 0], key[c], value[c], need_weights=True)
        np.testing.assert_allclose(output[b, c], alone.output, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(weights[b, c], alone.weights, rtol=1e-12, atol=1e-12)
    one = attention.forward(query[0, 0, 3], key[2], value[2], need_weights=True, average_attn_weights=False)
    assert one.weights.shape == (3, 11)
    np.testing.assert_allclose(one.output, output[0, 2, 3], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.weights, each[0, 2, :, 3], rtol=1e-12, atol=1e-12)


def test_weights_follow_from_the_context(rng):
    attention = ab.MultiHeadAttention(6, 2, projections=False)
    x = rng.standard_normal((5, 6))
    _, weights, context = attention.forward(x, x, x, need_weights=True, need_context=True, average_attn_weights=False)
    parts = x.reshape(5, 2, 3).transpose(1, 0, 2)
    logits = parts @ parts.transpose(0, 2, 1) * 3**-0.5
    np.testing.assert_allclose(np.exp(logits - context.logsumexp[..., None]), weights, rtol=1e-12)


def test_permuting_keys_permutes_weights(rng):
    attention = ab.MultiHeadAttention(6, 2, seed=3)
    query, key, order = rng.standard_normal((3, 6)), rng.standard_normal((7, 6)), rng.permutation(7)
    np.testing.assert_allclose(
        attention.weights(query, key)[:, order], attention.weights(query, key[order]), rtol=1e-12
    )
    assert attention.weights(query, key).sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("by", ["call", "object"])
def test_causal_never_looks_ahead(rng, by):
    attention = ab.MultiHeadAttention(6, 3, causal=by == "object")
    x = rng.standard_normal((7, 6)).astype(np.float32)
    changed = x.copy()
    changed[4:] = 9.0
    one, two = (attention.forward(x, rows, rows, is_causal=by == "call").output for rows in (x, changed))
    np.testing.assert_array_equal(one[:4], two[:4])
    assert (one[4:] != two[4:]).any()
    assert (np.triu(attention.weights(x, x, is_causal=by == "call"), 1) == 0.0).all()


def test_nothing_to_attend_to_gives_zeros_without_the_bias(rng):
    attention = randomised(ab.MultiHeadAttention(6, 2), rng)
    x, mask = rng.standard_normal((3, 6)), np.ones((3, 3), bool)
    mask[1] = False
    output, weights, _ = attention.forward(x, x, x, mask, need_weights=True)
    assert (output[1] == 0.0).all()
    assert (weights[1] == 0.0).all()
    assert output[0].all()


def test_zeros_duplicates_and_one_key():
    attention = ab.MultiHeadAttention(4, 2)
    assert attention.weights(np.zeros(4), np.ones((3, 4))).tolist() == pytest.approx([1 / 3] * 3)
    assert attention.weights(np.ones(4), np.ones((1, 4))).tolist() == [1.0]
    value = np.arange(4.0)[None]
    raw = ab.MultiHeadAttention(4, 2, projections=False)
    assert raw.forward(np.ones(4), np.ones((1, 4)), value).output.tolist() == value[0].tolist()


def test_huge_vectors_stay_finite():
    huge = np.full((3, 4), np.finfo(np.float32).max / 2, np.float32)
    raw = ab.MultiHeadAttention(4, 2, projections=False)
    output, weights, _ = raw.forward(huge, huge, huge, need_weights=True)
    np.testing.assert_allclose(output, huge, rtol=1e-6)
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)
    projected = ab.MultiHeadAttention(4, 2)
    assert np.isfinite(projected.forward(huge, huge, huge / 8).output).all()
    assert np.isfinite(projected.logits(huge, huge)).all()
    projected.set_parameters({name: np.ones_like(array) for name, array in projected.parameters().items()})
    with pytest.raises(ab.NumericalInstabilityError, match="output must be within float32"):
        projected.forward(huge, huge, huge)


# ---- torch


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kdim", [None, 5])
def test_equals_torch(rng, bias, kdim):
    torch = pytest.importorskip("torch")
    batch, queries, keys, d, heads = 3, 7, 11, 12, 4
    theirs = torch.nn.MultiheadAttention(
        d, heads, bias=bias, batch_first=True, kdim=kdim, vdim=None if kdim is None else 13
    )
    ours = randomised(ab.MultiHeadAttention(d, heads, bias=bias, kdim=kdim, vdim=None if kdim is None else 13), rng)
    held = {name: torch.from_numpy(array) for name, array in ours.parameters().items()}
    with torch.no_grad():
        if kdim is None:
            theirs.in_proj_weight.copy_(torch.cat([held["W_q"], held["W_k"], held["W_v"]]))
        else:
            for name in "qkv":
                getattr(theirs, f"{name}_proj_weight").copy_(held[f"W_{name}"])
        theirs.out_proj.weight.copy_(held["W_o"])
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([held["b_q"], held["b_k"], held["b_v"]]))
            theirs.out_proj.bias.copy_(held["b_o"])
    shapes = [(batch, queries, d), (batch, keys, kdim or d), (batch, keys, 13 if kdim else d)]
    given = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    tensors = [torch.from_numpy(array) for array in given]
    padding = np.arange(keys) >= np.array([[keys], [keys - 3], [2]])  # torch: True is left out
    causal = np.triu(np.ones((queries, keys), bool), 1)
    cases = [
        ({}, {}),
        ({"key_padding_mask": torch.from_numpy(padding)}, {"mask": ~padding[:, None, :]}),
        ({"attn_mask": torch.from_numpy(causal)}, {"is_causal": True}),
        (
            {"key_padding_mask": torch.from_numpy(padding), "attn_mask": torch.from_numpy(causal)},
            {"mask": ~padding[:, None, :], "is_causal": True},
        ),
    ]
    for their_masks, our_masks in cases:
        for average in (True, False):
            with torch.no_grad():
                want, shares = theirs(*tensors, **their_masks, need_weights=True, average_attn_weights=average)
            output, weights, _ = ours.forward(*given, **our_masks, need_weights=True, average_attn_weights=average)
            np.testing.assert_allclose(output, want.numpy(), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(weights, shares.numpy(), rtol=1e-5, atol=1e-5)


# ---- options


def test_every_option_changes_the_result(rng):
    x = rng.standard_normal((5, 12)).astype(np.float32)

    def output(**options):
        return ab.MultiHeadAttention(12, **{"num_heads": 4} | options).forward(x, x, x).output

    plain = output()
    for options in ({"num_heads": 3}, {"scale": 3.0}, {"causal": True}, {"projections": False}, {"seed": 1}):
        assert not np.allclose(plain, output(**options)), options
    assert np.array_equal(plain, output(bias=True))  # biases are zero at first
    assert ab.MultiHeadAttention(12, 4, bias=False).parameter_count == 4 * 144
    assert ab.MultiHeadAttention(12, 4, projections=False).parameter_count == 0
    assert ab.MultiHeadAttention(12, 4, kdim=5, vdim=7).parameter_count == 144 * 2 + 12 * 5 + 12 * 7 + 48


def test_dropout_acts_in_training_only(rng):
    attention = ab.MultiHeadAttention(6, 2, dropout=0.5, projections=False)
    x = rng.standard_normal((7, 6))
    plain = attention.forward(x, x, x, need_weights=True, average_attn_weights=False).weights
    one = attention.forward(x, x, x, need_weights=True, average_attn_weights=False, training=True, seed=1).weights
    again = attention.forward(x, x, x, need_weights=True, average_attn_weights=False, training=True, seed=1).weights
    other = attention.forward(x, x, x, need_weights=True, average_attn_weights=False, training=True, seed=2).weights
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert ((one == 0.0) != (one[::-1] == 0.0)).any()  # each head drops its own
    np.testing.assert_allclose(one[one > 0], 2 * plain[one > 0], rtol=1e-12)


def test_config_makes_an_equal_mechanism():
    attention = ab.MultiHeadAttention(12, 3, bias=False, kdim=5, dropout=0.1, scale=2.0, causal=True, seed=4)
    again = ab.MultiHeadAttention(**json.loads(json.dumps(attention.config)))
    assert again.config == attention.config
    assert np.array_equal(again.get_parameters(), attention.get_parameters())
    raw = ab.MultiHeadAttention(12, 3, projections=False)
    assert ab.MultiHeadAttention(**raw.config).config == raw.config
    assert raw.config["bias"] is False
    made = ab.MultiHeadAttention.from_config(
        ab.AttentionConfig(d_model=12, num_heads=3, dropout=0.2, use_bias=False, scale=0.5, max_seq_len=9, causal=True)
    )
    want = {"d_model": 12, "num_heads": 3, "dropout": 0.2, "bias": False, "scale": 0.5, "max_seq_len": 9}
    assert made.config | want | {"causal": True} == made.config


# ---- parameters


def test_parameters_are_glorot_uniform_and_seeded():
    attention = ab.MultiHeadAttention(64, 8)
    held = attention.parameters()
    assert list(held) == ["W_q", "W_k", "W_v", "W_o", "b_q", "b_k", "b_v", "b_o"]
    bound = math.sqrt(6.0 / 128)
    for name in ("W_q", "W_k", "W_v", "W_o"):
        assert held[name].dtype == np.float32
        assert 0.98 * bound < np.abs(held[name]).max() <= bound
        assert held[name].std() == pytest.approx(bound / math.sqrt(3.0), rel=0.03)
    assert not any(held[name].any() for name in ("b_q", "b_k", "b_v", "b_o"))
    assert attention.parameter_count == 4 * 64**2 + 4 * 64 == len(attention.get_parameters())
    assert np.array_equal(attention.get_parameters(), ab.MultiHeadAttention(64, 8).get_parameters())


def test_parameters_come_back_in_both_forms(rng):
    attention, other = ab.MultiHeadAttention(6, 2, kdim=5), ab.MultiHeadAttention(6, 2, kdim=5)
    flat = rng.standard_normal(attention.parameter_count).astype(np.float32)
    attention.set_parameters(flat)
    assert np.array_equal(attention.get_parameters(), flat)
    assert np.array_equal(attention.parameters()["W_k"], flat[36 : 36 + 30].reshape(6, 5))
    other.set_parameters(attention.parameters())
    assert np.array_equal(other.get_parameters(), flat)
    attention.parameters()["W_q"][:] = 0.0  # a copy
    flat[:] = 0.0
    assert attention.get_parameters().all()
    assert np.array_equal(pickle.loads(pickle.dumps(attention)).get_parameters(), attention.get_parameters())


def test_set_parameters_swaps_all_at_once(rng):
    """Every output under way belongs to one set of parameters or to the other."""
    attention = ab.MultiHeadAttention(6, 2)
    x = rng.standard_normal((3, 6)).astype(np.float32)
    sets = [rng.standard_normal(attention.parameter_count).astype(np.float32) for _ in range(2)]
    wants = []
    for flat in sets:
        attention.set_parameters(flat)
        wants.append(attention.forward(x, x, x).output)
    done = threading.Event()

    def swap():
        while not done.is_set():
            for flat in sets:
                attention.set_parameters(flat)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(200):
            output = attention.forward(x, x, x).output
            assert any(np.array_equal(output, want) for want in wants)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (np.zeros(7), r"parameters must be 24 numbers in one vector, got shape \(7,\)"),
        (np.zeros((4, 6)), r"parameters must be 24 numbers in one vector, got shape \(4, 6\)"),
        (np.full(24, np.nan), "parameters must be finite: position 0 is nan"),
        ({"W_q": np.zeros((2, 2))}, "missing W_k, W_o, W_v, b_k, b_o, b_q, b_v, unknown none"),
        (dict.fromkeys(("W_q", "W_k", "W_v", "W_o", "b_q", "b_k", "b_v", "b_o", "b"), 0), "missing none, unknown b"),
        ("zeros", "parameters must be real numbers"),
    ],
)
def test_bad_parameters(parameters, message):
    attention = ab.MultiHeadAttention(2, 1)
    before = attention.get_parameters()
    with pytest.raises(ab.AttentionError, match=message):
        attention.set_parameters(parameters)
    assert np.array_equal(attention.get_parameters(), before)


def test_bad_parameter_shapes():
    attention = ab.MultiHeadAttention(2, 1)
    held = attention.parameters()
    with pytest.raises(ab.DimensionMismatchError, match=r"parameters\['W_v'\] must be \(2, 2\), got shape \(3, 2\)"):
        attention.set_parameters(held | {"W_v": np.zeros((3, 2))})
    with pytest.raises(ab.InvalidInputError, match=r"parameters\['b_o'\] must be finite"):
        attention.set_parameters(held | {"b_o": [np.inf, 0.0]})
    raw = ab.MultiHeadAttention(2, 1, projections=False)
    raw.set_parameters({})
    raw.set_parameters([])
    with pytest.raises(ab.InvalidConfigError, match="parameters must be none: missing none, unknown W_k, W_o"):
        raw.set_parameters(held | {})


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 768, "num_heads": 5}, "Query dimension 768 must be divisible by num_heads 5; 4 would do"),
        ({"d_model": 0}, "d_model must be a whole number >= 1"),
        ({"d_model": 8, "num_heads": 0}, "num_heads must be a whole number >= 1"),
        ({"d_model": 8, "scale": 0.0}, "scale must be a finite number > 0"),
        ({"d_model": 8, "dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"d_model": 8, "bias": 1}, "bias must be True or False"),
        ({"d_model": 8, "projections": 1}, "projections must be True or False"),
        ({"d_model": 8, "kdim": 0}, "kdim must be a whole number >= 1"),
        ({"d_model": 8, "vdim": 0}, "vdim must be a whole number >= 1"),
        ({"d_model": 8, "max_seq_len": 0}, "max_seq_len must be a whole number >= 1"),
        ({"d_model": 8, "seed": -1}, "seed must be a whole number >= 0"),
        ({"d_model": 8, "causal": 1}, "causal must be True or False"),
        ({"d_model": 8, "projections": False, "kdim": 8}, "kdim and vdim must be left out with projections=False"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((ab.InvalidConfigError, ab.DimensionMismatchError), match=message):
        ab.MultiHeadAttention(**options)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 8), (3, 6), (3, 6)), "query must have dimension d_model = 6, got 8"),
        (((3, 6), (3, 6), (3, 6)), "key must have dimension kdim = 4, got 6"),
        (((3, 6), (3, 4), (3, 6)), "value must have dimension vdim = 5, got 6"),
        (((9, 6), (3, 4), (3, 5)), "query must be at most max_seq_len = 7 long, got 9"),
        (((3, 6), (9, 4), (9, 5)), "key must be at most max_seq_len = 7 long, got 9"),
        (((3, 6), (3, 4), (2, 5)), "value must have a row for each of 3 keys, got 2"),
    ],
)
def test_bad_shapes(shapes, message):
    attention = ab.MultiHeadAttention(6, 2, kdim=4, vdim=5, max_seq_len=7)
    with pytest.raises(ab.AttentionError, match=message):
        attention.forward(*(np.zeros(shape) for shape in shapes))


def test_bad_input():
    attention, x = ab.MultiHeadAttention(4, 2), np.ones((3, 4))
    with pytest.raises(ab.DimensionMismatchError, match="Query and key dimensions must match: 4 vs 8"):
        attention.forward(x, np.ones((3, 8)), x)
    bad = x.copy()
    bad[2, 1] = np.nan
    with pytest.raises(ab.InvalidInputError, match="key must be finite: row 2, column 1 is nan"):
        attention.forward(x, bad, x)
    with pytest.raises(ab.InvalidInputError, match="value must be finite: row 2, column 1 is nan"):
        attention.forward(x, x, bad)
    with pytest.raises(ab.InvalidInputError, match="key must be finite: row 2, column 1 is nan"):
        attention.weights(x, bad)
    for given in ({"key": None, "value": x}, {"key": x, "value": None}):
        with pytest.raises(ab.InvalidInputError, match=r"(key|value) must be given; for self-attention"):
            attention.forward(x, **given)
    with pytest.raises(ab.InvalidConfigError, match="average_attn_weights must be True or False"):
        attention.forward(x, x, x, average_attn_weights=1)
    with pytest.raises(ab.DimensionMismatchError, match="Value dimension 5 must be divisible by num_heads 2"):
        ab.MultiHeadAttention(4, 2, projections=False).forward(x, x, np.ones((3, 5)))


# ---- the row of the registry


def row_parameters(rng, d=6, e=4):
    held = {"W_q": rng.standard_normal((e, d)), "W_k": rng.standard_normal((e, d))}
    held |= {"b_q": rng.standard_normal(e), "b_k": rng.standard_normal(e)}
    held |= {"W_v": rng.standard_normal((8, 5)), "b_v": rng.standard_normal(8)}
    held |= {"W_o": rng.standard_normal((3, 8)), "b_o": rng.standard_normal(3)}
    return {name: array.astype(np.float32) for name, array in held.items()}


@pytest.mark.parametrize("score", ["logits", "weights"])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_row_equals_the_float64_loop(rng, score, projected, masked):
    held = row_parameters(rng) if projected else None
    query, key = (rng.standard_normal((n, 6)).astype(np.float32) for n in (3, 7))
    value = rng.standard_normal((7, 5 if projected else 6)).astype(np.float32)
    mask = masks(rng, 3, 7)[1] if masked else None
    want, shares, logits = reference(query, key, value, held, 2, mask=mask)
    options = {"num_heads": 2, "parameters": held, "score": score, "mask": mask}
    with np.errstate(divide="ignore"):
        scores = np.log(shares.mean(axis=0)) if score == "weights" else logits.mean(axis=0)
    np.testing.assert_allclose(ab.attention_logits(query, key, "multi_head", **options), scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        ab.attention_scores(query, key, "mha", **options), shares.mean(axis=0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(ab.attention(query, key, value, "multihead", **options), want, rtol=1e-5, atol=1e-5)


def test_one_head_is_scaled_dot(rng):
    query, key = rng.standard_normal(6), rng.standard_normal((7, 6))
    one = ab.attention_logits(query, key, "multi_head", num_heads=1)
    assert np.array_equal(one, ab.attention_logits(query, key))


def test_pairwise_by_logits_only(rng):
    q, k = rng.standard_normal(8), rng.standard_normal(8)
    assert ab.attention_score(q, k, "multi_head", num_heads=4) == pytest.approx(q @ k / math.sqrt(2.0) / 4, rel=1e-6)
    with pytest.raises(ab.InvalidConfigError, match=r"attention_type must be pairwise .* got 'multi_head'"):
        ab.attention_score(q, k, "multi_head", score="weights")
    with pytest.raises(ab.InvalidConfigError, match="attention_type must be pairwise for a distance"):
        ab.AttentionDistance("multi_head", score="weights")
    assert ab.AttentionDistance("multi_head", num_heads=4)(q, k) == -ab.attention_score(q, k, "mha", num_heads=4)


def test_score_by_weights_can_order_differently():
    """One head is sure of key 0, the other a little for key 1: the mean logit says 1, the mean weight 0."""
    query = [1.0, 1.0]
    key = [[9.0, -9.9], [1.0, 1.0], [-20.0, 1.0]]
    logits = ab.attention_logits(query, key, "multi_head", num_heads=2)
    by_weights = ab.attention_logits(query, key, "multi_head", num_heads=2, score="weights")
    assert logits.argmax() == 1
    assert by_weights.argmax() == 0


def test_small_weights_keep_their_order():
    """Beyond exp's range, where weights themselves are 0."""
    got = ab.attention_logits(
        [1.0, 1.0], [[2e4, 2e4], [0.0, 0.0], [-1.0, -1.0]], "multi_head", num_heads=2, score="weights"
    )
    assert np.isfinite(got).all()
    assert np.argsort(-got).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, "Query dimension 6 must be divisible by num_heads 4; [36] would do"),
        ({"score": "both"}, "score must be one of logits, weights"),
        ({"parameters": [1]}, "parameters must be a dict of arrays W_q, W_k, ..., got list"),
        ({"parameters": {"W": [1]}}, "parameters must be named W_q, .*; got 'W'"),
        ({"parameters": {"W_q": np.ones((2, 6))}}, "parameters must hold W_q and W_k, W_k is missing"),
        (
            {"parameters": {"W_q": np.ones((2, 6)), "W_k": np.ones((4, 6))}},
            r"parameters\['W_k'\] must have as many rows as W_q, 2, got 4",
        ),
        (
            {"parameters": {"W_q": np.ones((2, 5)), "W_k": np.ones((2, 6))}},
            r"parameters\['W_q'\] must have a column for each of 6 dimensions, got 5",
        ),
        ({"parameters": {"W_q": np.ones(6), "W_k": np.ones((2, 6))}}, r"parameters\['W_q'\] must be \(out, in\)"),
        (
            {"parameters": {"W_q": np.ones((3, 6)), "W_k": np.ones((3, 6))}},
            "Projected dimension 3 must be divisible by num_heads 2",
        ),
        (
            {"parameters": {"W_q": np.ones((2, 6)), "W_k": np.full((2, 6), np.nan)}},
            r"parameters\['W_k'\] must be finite",
        ),
        (
            {"parameters": {"W_q": np.ones((2, 6)), "W_k": np.ones((2, 6)), "b_v": np.ones(2)}},
            "parameters must hold W_v with b_v",
        ),
        (
            {
                "parameters": {
                    "W_q": np.ones((2, 6)),
                    "W_k": np.ones((2, 6)),
                    "W_v": np.ones((4, 6)),
                    "W_o": np.ones((2, 3)),
                }
            },
            r"parameters\['W_o'\] must have a column for each row of W_v, 4, got 3",
        ),
    ],
)
def test_bad_row_options(options, message):
    with pytest.raises((ab.InvalidConfigError, ab.DimensionMismatchError, ab.InvalidInputError), match=message):
        ab.attention_logits(np.ones(6), np.ones((3, 6)), "multi_head", **{"num_heads": 2} | options)


@pytest.mark.parametrize("name", ["W_v", "W_o"])
def test_row_values_must_fit(name):
    held = {"W_q": np.ones((2, 6)), "W_k": np.ones((2, 6)), name: np.ones((2, 5))}
    with pytest.raises(
        ab.DimensionMismatchError, match=rf"parameters\['{name}'\] must have a column for each of 4 dim"
    ):
        ab.attention(np.ones(6), np.ones((3, 6)), np.ones((3, 4)), "multi_head", num_heads=2, parameters=held)


def test_row_is_registered():
    row = REGISTRY["multi_head"]
    assert (row.complexity, row.best_for, row.pairwise) == ("O(n^2)", "general purpose", True)
    mechanism = row.mechanism({"num_heads": 2, "scale": None, "score": "logits", "parameters": None})
    assert mechanism.config == {"num_heads": 2, "scale": None, "score": "logits"}
    assert mechanism.parameters() == {}
