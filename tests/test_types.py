"""Every attention type: against its float64 formula, what all of them promise, and what each option does."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from reference import TYPES

import attnbridge as ab
from attnbridge import mechanisms, selftest
from attnbridge.mechanisms.base import Attention
from attnbridge.scoring import REGISTRY, resolve
from attnbridge.selftest import (
    LIMIT,
    SETTINGS,
    Setting,
    Shape,
    draw,
    error_of_class,
    error_of_functions,
    masked,
    parameters_of,
    whole,
)

MAX32 = float(np.finfo(np.float32).max)

# (d,), (L, d), (B, L, d), (B, H, L, d); prime sizes; one key, one query; as many queries as keys; more than a tile.
GRID = (
    Shape((), None, 1, 2, 3),
    Shape((), None, 13, 7, 5),
    Shape((), 1, 1, 3, 2),
    Shape((), 5, 2, 13, 7),
    Shape((), 13, 13, 11, 3),
    Shape((2,), 1, 5, 3, 7),
    Shape((3,), 7, 11, 5, 2),
    Shape((2, 3), 5, 7, 2, 11),
    Shape((2,), 67, 131, 31, 5),
    Shape((), 131, 263, 17, 3),
)

each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def mechanism(setting, like):
    """Return the mechanism of a setting for vectors as wide as these."""
    return selftest.made(setting, like.shape[-1])


def test_every_type_has_a_formula_and_a_setting():
    assert set(TYPES) | {"cross"} == set(REGISTRY)  # late interaction has a formula over ragged tokens
    assert selftest.untested() == []


# ---- against the formulas


@each_setting
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", selftest.MASKS)
def test_grid(setting, dtype, kind):
    for shape in GRID:
        q, k, v = draw(setting, shape, dtype, seed=1)
        mask = masked(kind, shape, seed=1)
        want = selftest.truth(setting, q, k, v, **mask)
        limit = LIMIT if dtype == np.float32 else selftest.LIMIT64
        error = error_of_class(setting, q, k, v, want, **mask)
        assert error <= limit, f"{shape}: {error:.2e}"
        if kind != "causal":
            error = error_of_functions(setting, q, k, v, want, **mask)
            assert error <= limit, f"functions, {shape}: {error:.2e}"


@each_setting
def test_masks_together(setting):
    """Causal with a boolean mask and with a float one; a mask of one row for all, and one of a column."""
    for shape in (shape for shape in GRID if shape.queries is not None):
        q, k, v = draw(setting, shape)
        allowed = masked("bool", shape, seed=2)["mask"]
        for mask in (
            {"mask": allowed, "is_causal": True},
            {**masked("float", shape, seed=2), "is_causal": True},
            {"mask": allowed[..., :1, :]},
            {"mask": allowed[(0,) * len(shape.lead)][0]},
            {"mask": np.arange(shape.queries)[:, None] % 2 == 0},
            {"mask": np.float32(0.5)},
        ):
            want = selftest.truth(setting, q, k, v, **mask)
            error = error_of_class(setting, q, k, v, want, **mask)
            assert error <= LIMIT, f"{shape}, {mask}: {error:.2e}"


def forms(array):
    """Return an array in the forms in which a caller may have it, its values as they were."""
    wide = np.empty((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    frozen = array.copy()
    frozen.flags.writeable = False
    return {
        "float16": array.astype(np.float16),
        "float32": array,
        "float64": array.astype(np.float64),
        "list": array.tolist(),
        "strided": wide[..., ::2],
        "fortran": np.asfortranarray(array),
        "reversed": np.ascontiguousarray(array[::-1])[::-1],
        "read-only": frozen,
    }


@each_setting
def test_forms_of_the_same_numbers(setting):
    shape = Shape((2,), 5, 11, 7, 3)
    arrays = [np.round(array * 256) / 256 for array in draw(setting, shape)]  # what float16 holds too
    want = selftest.truth(setting, *arrays)
    given = [forms(array) for array in arrays]
    for name in given[0]:
        own = [form[name] for form in given]
        error = max(error_of_class(setting, *own, want), error_of_functions(setting, *own, want))
        assert error <= LIMIT, f"{name}: {error:.2e}"
        dtype = np.float64 if name == "float64" else np.float32
        assert mechanism(setting, arrays[0]).forward(*own).output.dtype == dtype, name


@each_setting
def test_whole_numbers(setting):
    if setting.name == "poincare":  # a ball so large that whole numbers lie in it
        setting = Setting("poincare", "geometric", {**setting.options, "curvature": -1e-4})
    rng = np.random.default_rng(3)
    shapes = ((3, 7 * setting.heads), (5, 7 * setting.heads), (5, 2 * setting.heads))
    arrays = [rng.integers(-3, 4, shape) for shape in shapes]
    want = selftest.truth(setting, *arrays)
    assert error_of_functions(setting, *arrays, want) <= LIMIT
    assert error_of_class(setting, *arrays, want) <= LIMIT


LATE = pytest.mark.parametrize("setting", selftest.LATE, ids=str)


@LATE
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("tokens", "lengths"), [(1, [1]), (2, [3, 1, 2, 7]), (7, [5] * 11), (1, [1] * 13)])
def test_late_interaction(setting, dtype, tokens, lengths):
    """A query of tokens with keys of tokens: a list, an array where all are as long, vectors where all have one."""
    query, keys, value = selftest.draw_tokens(tokens, lengths, dtype)
    forms = [keys, [key.tolist() for key in keys]] if dtype == np.float32 else [keys]
    forms += [np.stack(keys)] if len(set(lengths)) == 1 else []
    forms += [np.concatenate(keys)] if set(lengths) == {1} else []
    for kind in ("none", "bool", "float", "sparse"):
        mask = masked(kind, Shape((), None, len(keys), 13, 3))
        want = selftest.truth(setting, query, keys, value, **mask)
        for form in forms:
            got = error_of_functions(setting, query, form, value, want, **mask)
            assert got <= (LIMIT if dtype == np.float32 else selftest.LIMIT64), f"{kind}, {type(form)}: {got:.2e}"
    if tokens == 1:
        want = ab.attention_scores(query, keys, "cross", **setting.options)
        assert ab.attention_scores(query[0], keys, "cross", **setting.options).tobytes() == want.tobytes()


@LATE
def test_late_interaction_keeps_its_promises(setting):
    query, keys, value = selftest.draw_tokens(3, [2, 5, 1, 1, 7])
    weights = ab.attention_scores(query, keys, "cross", **setting.options)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    order = np.array([3, 1, 4, 0, 2])
    permuted = ab.attention_scores(query, [keys[i] for i in order], "cross", **setting.options)
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-6)
    shuffled = ab.attention_scores(query[::-1], [key[::-1] for key in keys], "cross", **setting.options)
    np.testing.assert_allclose(shuffled, weights, rtol=1e-5)
    nothing = np.zeros(5, bool)
    assert not ab.attention_scores(query, keys, "cross", mask=nothing, **setting.options).any()
    assert not ab.attention(query, keys, value, "cross", mask=nothing, **setting.options).any()
    assert ab.attention_scores(query, keys[:1], "cross", **setting.options).tolist() == [1.0]
    huge = [np.full((2, 7), 1e15, np.float32)] * 3
    np.testing.assert_allclose(ab.attention_scores(huge[0], huge, "cross", **setting.options), 1.0 / 3.0, rtol=1e-6)
    big = [np.float32(MAX32 / 2) * np.sign(key) for key in (query, *keys)]
    want = selftest.truth(setting, big[0], big[1:], value)
    assert error_of_functions(setting, big[0], big[1:], value, want) <= LIMIT


# ---- what all of them promise


@each_setting
def test_weights_sum_to_one_over_what_may_be_attended(setting):
    for shape in GRID:
        q, k, v = draw(setting, shape)
        allowed = masked("bool", shape)["mask"]
        weights = mechanism(setting, q).weights(q, k, mask=allowed)
        reached = np.isfinite(selftest.truth(setting, q, k, v, mask=allowed).logits)  # patterns leave some out
        assert (reached <= allowed).all()
        np.testing.assert_allclose(weights.sum(axis=-1), reached.any(axis=-1), atol=1e-5)
        assert ((weights >= 0.0) & (weights <= 1.0)).all()
        assert (weights[~allowed] == 0.0).all()


@each_setting
def test_permuting_keys_permutes_weights(setting):
    if (
        setting.mechanism
        or REGISTRY[setting.name].build_space is None
        or setting.options.get("pattern", "top_k") != "top_k"
    ):
        pytest.skip("its logits depend on where a key stands")
    for shape in GRID:
        q, k, v = draw(setting, shape)
        order = np.random.default_rng(5).permutation(shape.keys)
        own = mechanism(setting, q)
        k[..., 2:3, :] *= np.float32(0.9)  # no duplicates and no zero query: between equal logits it goes by place
        q[~q.any(axis=-1)] = 0.1
        output, weights = whole(own, q, k, v)
        other, shuffled = whole(own, q, k[..., order, :], v[..., order, :])
        np.testing.assert_allclose(shuffled, weights[..., order], rtol=1e-5, atol=1e-30)
        assert selftest.output_error(other, output.astype(float)) <= LIMIT


@each_setting
def test_a_batch_is_a_loop_to_the_bit(setting):
    for shape in (shape for shape in GRID if shape.lead):
        q, k, v = draw(setting, shape)
        own = mechanism(setting, q)
        together = (*whole(own, q, k, v), own.logits(q, k))
        for i in np.ndindex(shape.lead):
            alone = (*whole(own, q[i], k[i], v[i]), own.logits(q[i], k[i]))
            assert [part.tobytes() for part in alone] == [part[i].tobytes() for part in together]


@each_setting
def test_leading_axes_are_broadcast(setting):
    q, k, v = draw(setting, Shape((2, 3), 5, 7, 11, 2))
    own = mechanism(setting, q)
    want = own.forward(q, np.broadcast_to(k[:1], k.shape), np.broadcast_to(v[0, 0], v.shape)).output
    got = own.forward(q, k[:1], v[0, 0]).output
    assert got.tobytes() == want.tobytes()


@each_setting
def test_causal_never_looks_ahead(setting):
    """Later keys and values are changed, and no bit of an earlier output or weight changes."""
    for shape in (Shape((), 13, 13, 7, 3), Shape((2,), 7, 11, 5, 2), Shape((), 67, 67, 31, 5)):
        q, k, v = draw(setting, shape)
        own = mechanism(setting, q)
        want, weights = whole(own, q, k, v, is_causal=True)
        first = selftest.first_place(setting)
        for cut in (1, shape.queries // 2, shape.queries - 1 - first):
            later_k, later_v, seen = k.copy(), v.copy(), cut + first
            later_k[..., seen:, :] = k[..., seen:, ::-1] * np.float32(0.5)
            later_v[..., seen:, :] = v[..., seen:, ::-1] * np.float32(0.5)
            got, later = whole(own, q, later_k, later_v, is_causal=True)
            assert got[..., :cut, :].tobytes() == want[..., :cut, :].tobytes()
            assert later[..., :cut, :].tobytes() == weights[..., :cut, :].tobytes()
            assert (later[..., :cut, seen:] == 0.0).all()
            if cut == 1:
                assert (got[..., 1:, :] != want[..., 1:, :]).any()


@each_setting
def test_nothing_to_attend_to_gives_zeros(setting):
    for shape in GRID:
        q, k, v = draw(setting, shape)
        logits = (shape.keys,) if shape.queries is None else shape.logits
        for mask in (np.zeros(logits, bool), np.full(logits, -np.inf)):
            own = mechanism(setting, q)
            output, weights = whole(own, q, k, v, mask=mask)
            context = own.forward(q, k, v, mask=mask, need_context=True).context
            assert not output.any()
            assert not weights.any()
            assert (context.logsumexp == -np.inf).all()
            assert (mechanism(setting, q).logits(q, k, mask=mask) == -np.inf).all()


@each_setting
def test_one_key_has_all_the_weight(setting):
    q, k, v = draw(setting, Shape((2,), 3, 1, 5, 7))
    output, weights = whole(mechanism(setting, q), q, k, v)
    reached = np.isfinite(selftest.truth(setting, q, k, v).logits)  # patterns leave some out
    assert (weights == reached).all()
    assert weights.any()
    np.testing.assert_allclose(output, np.where(reached, v, 0.0), rtol=1e-5)


@each_setting
def test_inputs_stay_as_they_are(setting):
    arrays = [*draw(setting, Shape((2,), 5, 7, 3, 2), np.float64), np.zeros((5, 7))]
    before = [array.tobytes() for array in arrays]
    own = mechanism(setting, arrays[0])
    output, weights = whole(own, *arrays[:3], mask=arrays[3])
    context = own.forward(*arrays, need_context=True).context
    assert [array.tobytes() for array in arrays] == before
    assert not any(np.shares_memory(made, array) for made in (output, weights) for array in arrays)
    heads = (setting.options["num_heads"],) if setting.name == "multi_head" else ()
    assert context.logsumexp.shape == (2, *heads, 5)


@each_setting
def test_a_mechanism_is_made_again_from_its_config(setting):
    q, k, v = draw(setting, Shape((), 5, 7, 3, 2))
    own = mechanism(setting, q)
    if type(own) not in classes().values():
        pytest.skip("made by the registry alone")
    written = json.dumps(own.config)
    again = type(own)(**json.loads(written))
    assert json.dumps(again.config) == written
    if own.parameters():
        again.set_parameters(own.parameters())
    assert again.forward(q, k, v).output.tobytes() == own.forward(q, k, v).output.tobytes()


def test_all_equal_huge_logits_are_uniform():
    for setting in (setting for setting in SETTINGS if setting.name in DOT_FAMILY):
        huge = np.full((5, 7 * setting.heads), 1e15, np.float32)
        weights = mechanism(setting, huge).weights(huge[:3], huge)
        np.testing.assert_allclose(weights, np.where(weights > 0.0, 1.0 / (weights > 0.0).sum(axis=1)[:, None], 0.0))
        assert (weights > 0.0).any(axis=1).all()


# Types whose logits are products of the given numbers.
DOT_FAMILY = ("scaled_dot", "flash_v2", "multi_head", "sparse", "sliding", "cross")


def test_half_of_the_largest_float32_is_finite_in_the_dot_product_family():
    for setting in (setting for setting in SETTINGS if setting.name in DOT_FAMILY):
        rng = np.random.default_rng(9)
        signs = [rng.choice([-1.0, 1.0], (rows, width * setting.heads)) for rows, width in ((3, 5), (7, 5), (7, 2))]
        q, k, v = (np.asarray(MAX32 / 2 * sign, np.float32) for sign in signs)
        want = selftest.truth(setting, q, k, v)
        assert error_of_class(setting, q, k, v, want) <= LIMIT, setting
        assert error_of_functions(setting, q, k, v, want) <= LIMIT, setting


# ---- every option does something


@dataclass
class Change:
    """An option's other value, and what it shows in.

    Parameters
    ----------
    value : object
    base : dict
        The arguments beside it.
    what : tuple of str
        Which of logits, weights and output of the functional API must change; the others must not.
    call : dict
        Arguments of `forward`.
    heads : int
        What dimensions must be a multiple of.
    widths : tuple of int, optional
        Dimensions of query, key and value that are refused without the change.
    raises : type, optional
        What `forward` raises with the change.
    refused : bool
        Whether the call is refused without the change.
    same : bool
        Whether the change is in how, not in what is computed.
    shows : callable
        (mechanism, arrays, call) -> something that must change.
    """

    value: Any
    base: dict = field(default_factory=dict)
    what: tuple = ("logits", "weights", "output")
    call: dict = field(default_factory=dict)
    heads: int = 1
    widths: tuple | None = None
    raises: type | None = None
    refused: bool = False
    same: bool = False
    shows: Callable = lambda own, arrays, call: own.forward(*arrays, **call).output.round(4).tolist()


TWO = {"num_heads": 2}
FAVOR = {"feature_map": "favor"}


def projections(dim):
    return {name: np.random.default_rng(i).standard_normal((4, dim)) for i, name in enumerate(("W_q", "W_k"))}


NETWORK = parameters_of(lambda dim: {"W": (5, dim), "U": (5, dim), "a": (5,)})(7)
V1 = {"W": NETWORK["W"], "a_q": NETWORK["a"], "a_k": -NETWORK["a"]}

TWO_MASKS = [ab.SparseMask.window((11, 13), size) for size in (1, 2)]

OPTIONS = {
    ("scaled_dot", "scale"): Change(2.0),
    ("flash_v2", "scale"): Change(2.0),
    ("flash_v2", "block_size"): Change(3, what=()),  # test_block_size_changes_how_not_what
    ("sliding", "window"): Change(3, {"position": 5}),
    ("sliding", "position"): Change(7, {"position": 2, "window": 2}),
    ("sliding", "causal"): Change(True, {"position": 5}),
    ("sliding", "scale"): Change(2.0, {"position": 5}),
    ("multi_head", "num_heads"): Change(2, {"num_heads": 1}, heads=2),
    ("multi_head", "scale"): Change(2.0, TWO, heads=2),
    ("multi_head", "score"): Change("weights", TWO, what=("logits",), heads=2),
    ("multi_head", "parameters"): Change(projections(14), TWO, heads=2),
    ("linear", "feature_map"): Change("favor"),
    ("linear", "num_features"): Change(11, FAVOR),
    ("linear", "feature_seed"): Change(5, FAVOR),
    ("linear", "scale"): Change(0.5),
    ("gat", "version"): Change("v1", {"parameters": V1}, refused=True),
    ("gat", "temperature"): Change(0.5),
    ("gat", "negative_slope"): Change(0.9, {"parameters": NETWORK}),
    ("gat", "parameters"): Change(NETWORK),
    ("sparse", "pattern"): Change("block", {"pattern": "strided", "block_size": 3}),
    ("sparse", "top_k"): Change(2),
    ("sparse", "window"): Change(3, {"pattern": "local"}),
    ("sparse", "block_size"): Change(3, {"pattern": "block"}),
    ("sparse", "num_global_tokens"): Change(2, {"pattern": "local_global", "window": 1}),
    ("sparse", "position"): Change(2, {"pattern": "local", "window": 1}),
    ("sparse", "mask"): Change(TWO_MASKS[1], {"pattern": "mask", "mask": TWO_MASKS[0]}),
    ("sparse", "scale"): Change(2.0),
    ("moe", "experts"): Change(["scaled_dot", "gat"]),
    ("moe", "top_k"): Change(1),
    ("moe", "router_seed"): Change(1),
    ("cross", "scale"): Change(2.0),
    ("cross", "temperature"): Change(0.5),
    ("poincare", "temperature"): Change(0.3),
    ("poincare", "curvature"): Change(-0.5),
    ("poincare", "map"): Change("expmap0"),
    ("poincare", "values"): Change("manifold", what=("output",)),
}

TRAINING = {"training": True, "seed": 5}
DENSE = {
    "dropout": Change(0.5, call=TRAINING),
    "causal": Change(True),
    "d_model": Change(5, raises=ab.DimensionMismatchError),
    "max_seq_len": Change(12, raises=ab.InputTooLargeError),
    "eps": Change(1.0),
}
HEADS = {"d_model": 14, "num_heads": 2}
ROTARY = ab.RotaryEmbedding(14).config
BALL = {"space": ab.HyperbolicSpace().config}


def names_of_parameters(own, arrays, call):
    return list(own.parameters())


# Mechanism class -> argument of its constructor -> what shows it.
ARGUMENTS = {
    "ScaledDotProductAttention": {"scale": Change(2.0), **DENSE, "rotary": Change(ROTARY, heads=2)},
    "FlashAttention": {
        "block_size": Change(3, same=True),
        "scale": Change(2.0),
        **DENSE,
        "rotary": Change(ROTARY, heads=2),
    },
    "SlidingWindowAttention": {
        "window": Change(2),
        "position": Change(5, {"window": 2}),
        "scale": Change(2.0),
        **DENSE,
    },
    "MultiHeadAttention": {
        "d_model": Change(10, HEADS, widths=(10, 10, 10)),
        "num_heads": Change(7, HEADS),
        "bias": Change(False, HEADS, shows=names_of_parameters),
        "projections": Change(False, HEADS, heads=2),
        "kdim": Change(3, HEADS, widths=(14, 3, 14)),
        "vdim": Change(5, HEADS, widths=(14, 14, 5)),
        "dropout": Change(0.5, HEADS, call=TRAINING),
        "scale": Change(2.0, HEADS),
        "causal": Change(True, HEADS),
        "max_seq_len": Change(12, HEADS, raises=ab.InputTooLargeError),
        "eps": Change(1.0, HEADS),
        "rotary": Change(ROTARY, {"d_model": 14, "num_heads": 1}),
        "seed": Change(1, HEADS),
    },
    "CrossAttention": {
        "d_model": Change(10, HEADS, widths=(10, 10, 10)),
        "num_heads": Change(7, HEADS),
        "bias": Change(False, HEADS, shows=names_of_parameters),
        "projections": Change(False, HEADS, heads=2),
        "kdim": Change(3, HEADS, widths=(14, 3, 3)),
        "vdim": Change(5, HEADS, widths=(14, 14, 5)),
        "dropout": Change(0.5, HEADS, call=TRAINING),
        "scale": Change(2.0, HEADS),
        "max_seq_len": Change(12, HEADS, raises=ab.InputTooLargeError),
        "seed": Change(1, HEADS),
    },
    "GraphAttention": {
        "in_dim": Change(7),
        "out_dim": Change(3, {"in_dim": 7}),
        "version": Change("v1", {"in_dim": 7}),
        "edge_dim": Change(2, {"in_dim": 7}, call={"edge_features": np.ones((13, 2))}, refused=True),
        "temperature": Change(0.5),
        "negative_slope": Change(0.9, {"in_dim": 7}),
        "aggregation": Change("max"),
        "normalize": Change(False),
        "seed": Change(1, {"in_dim": 7}),
        "dropout": Change(0.5, call=TRAINING),
        "causal": Change(True),
    },
    "SparseAttention": {
        "pattern": Change("block", {"pattern": "strided", "block_size": 3}),
        "top_k": Change(2),
        "window": Change(3, {"pattern": "local"}),
        "block_size": Change(3, {"pattern": "block"}),
        "num_global_tokens": Change(2, {"pattern": "local_global", "window": 1}),
        "mask": Change(TWO_MASKS[1], {"pattern": "mask", "mask": TWO_MASKS[0]}),
        "position": Change(2, {"pattern": "local", "window": 1}),
        "causal": Change(True),
        "scale": Change(2.0),
        "dropout": Change(0.5, call=TRAINING),
        "d_model": Change(5, raises=ab.DimensionMismatchError),
        "max_seq_len": Change(12, raises=ab.InputTooLargeError),
    },
    "LinearAttention": {
        "feature_map": Change("favor"),
        "num_features": Change(11, FAVOR),
        "seed": Change(5, FAVOR),
        "scale": Change(0.5),
        "eps": Change(1.0),
        "causal": Change(True),
        "d_model": Change(5, raises=ab.DimensionMismatchError),
        "max_seq_len": Change(12, raises=ab.InputTooLargeError),
    },
    "MixtureOfExpertsAttention": {
        "experts": Change(["scaled_dot", "gat"]),
        "d_model": Change(7, shows=names_of_parameters),
        "top_k": Change(1),
        "capacity_factor": Change(0.3, call=TRAINING),
        "jitter": Change(0.9, {"top_k": 1}, call=TRAINING),
        "seed": Change(1),
        "causal": Change(True),
        "dropout": Change(0.5, {"capacity_factor": 100.0}, call=TRAINING),
        "max_seq_len": Change(12, raises=ab.InputTooLargeError),
    },
    "GeometricAttention": {
        "space": Change(ab.EuclideanSpace().config, BALL),
        "temperature": Change(0.3, BALL),
        "radius": Change(1.0, BALL),
        "dropout": Change(0.5, BALL, call=TRAINING),
        "causal": Change(True, BALL),
    },
    "HyperbolicAttention": {
        "curvature": Change(-0.5),
        "temperature": Change(0.3),
        "map": Change("expmap0"),
        "values": Change("manifold"),
        "dropout": Change(0.5, call=TRAINING),
        "causal": Change(True),
        "d_model": Change(5, raises=ab.DimensionMismatchError),
        "max_seq_len": Change(12, raises=ab.InputTooLargeError),
    },
}


def classes():
    """Return the mechanism classes by name."""
    found = {name: getattr(mechanisms, name) for name in mechanisms.__all__}
    return {
        name: thing
        for name, thing in found.items()
        if isinstance(thing, type) and issubclass(thing, Attention) and not inspect.isabstract(thing)
    }


def test_the_tables_list_every_option_and_every_argument():
    assert set(OPTIONS) == {(row.name, option) for row in REGISTRY.values() for option in row.options}
    assert set(ARGUMENTS) == set(classes())
    for name, thing in classes().items():
        assert list(ARGUMENTS[name]) == list(inspect.signature(thing).parameters), name


def given(name, base, heads):
    """Return arrays that a type takes: of the dimension that is asked for, or 7."""
    if name == "cross" and "d_model" not in base:
        tokens, keys, _ = selftest.draw_tokens(3, [2] * 13)
        return tokens, keys, keys[0][:1] * np.arange(13, dtype=np.float32)[:, None]
    dim = base.get("d_model", 7 * heads)
    return draw(Setting("poincare" if name == "geometric" else name, ""), Shape((), 11, 13, dim, dim))


def same(one, other):
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda part: part)
def test_every_option_changes_the_result(name, option):
    change = OPTIONS[name, option]
    q, k, v = given(name, {}, change.heads)

    def results(options):
        own = REGISTRY[name].mechanism(resolve(name, options)[1])
        return {"logits": own.logits(q, k), "weights": own.weights(q, k), "output": own.forward(q, k, v).output}

    if change.refused:
        with pytest.raises(ab.AttentionError, match=option):
            results(change.base)
        assert not same(results({**change.base, option: change.value})["weights"], results({})["weights"])
        return
    before, after = results(change.base), results({**change.base, option: change.value})
    assert {part for part in before if not same(before[part], after[part])} == set(change.what)
    if option not in change.base:  # what is left out is the default that is listed
        listed = results({**change.base, option: REGISTRY[name].options[option].default})
        assert all((listed[part] == before[part]).all() for part in before)


def test_block_size_changes_how_not_what():
    """Sums over other blocks: the same numbers to a rounding, but not to the last bit."""
    q, k, v = draw(Setting("flash_v2", ""), Shape((), 67, 263, 7, 5))
    small, large = (ab.FlashAttention(block_size=size).forward(q, k, v).output for size in (8, 64))
    assert small.tobytes() != large.tobytes()
    np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, row in ARGUMENTS.items() for argument in row]
)
def test_every_argument_changes_the_result(name, argument):
    change, thing = ARGUMENTS[name][argument], classes()[name]
    arrays = given(thing.name, change.base, change.heads)
    before, after = thing(**change.base), thing(**{**change.base, argument: change.value})
    if argument != "mask":  # which the config holds as lists
        assert after.config[argument] == change.value
        assert repr(change.value) in repr(after)
    if change.raises is not None:
        assert before.forward(*arrays).output.size
        with pytest.raises(change.raises, match=argument):
            after.forward(*arrays)
        return
    if change.widths is not None:
        arrays = [np.ones((11, width), np.float32) for width in change.widths]
        with pytest.raises(ab.DimensionMismatchError):
            before.forward(*arrays)
        assert after.forward(*arrays).output.shape[0] == 11
        return
    if change.refused:
        with pytest.raises(ab.AttentionError, match=argument):
            before.forward(*arrays, **change.call)
        before_call = {}
    else:
        before_call = change.call
    shown = change.shows(after, arrays, change.call), change.shows(before, arrays, before_call)
    assert (shown[0] == shown[1]) == change.same


@each_setting
def test_every_argument_of_forward_does_what_it_says(setting):
    q, k, v = draw(setting, Shape((), 11, 13, 7, 3))
    own = mechanism(setting, q)
    plain = own.forward(q, k, v)
    assert plain.weights is None
    assert plain.context is None
    asked = own.forward(q, k, v, need_weights=not isinstance(own, ab.FlashAttention), need_context=True)
    assert selftest.output_error(asked.output, plain.output.astype(float)) <= LIMIT
    weights = own.weights(q, k)
    if asked.weights is not None:
        assert asked.weights.dtype == weights.dtype == np.float32
        np.testing.assert_allclose(asked.weights, weights, rtol=1e-5, atol=1e-30)
    context = asked.context
    assert (context.mask, context.is_causal) == (None, own.causal and setting.name != "sliding")
    for kept, array in zip((context.query, context.key, context.value), (q, k, v), strict=True):
        assert kept.tobytes() == array.tobytes()
    allowed = masked("bool", Shape((), 11, 13, 7, 3))["mask"]
    assert not same(own.forward(q, k, v, mask=allowed).output, plain.output)
    causal = own.forward(q, k, v, is_causal=True, need_context=True)
    assert not same(causal.output, plain.output) or own.causal
    assert causal.context.is_causal
    if setting.name != "moe":  # whose experts are full after so many queries in training
        assert own.forward(q, k, v, training=True, seed=1).output.tobytes() == plain.output.tobytes()


@pytest.mark.parametrize(
    "name", [name for name, row in ARGUMENTS.items() if "dropout" in row and name != "FlashAttention"]
)
def test_dropout_is_drawn_from_the_seed(name):
    change, thing = ARGUMENTS[name]["dropout"], classes()[name]
    arrays = given(thing.name, change.base, change.heads)
    one_head = {"num_heads": 1} if "num_heads" in change.base else {}  # of several, the mean of the weights is given
    own = thing(**{**change.base, **one_head, "dropout": 0.5})
    one, again, other = (own.forward(*arrays, need_weights=True, training=True, seed=seed) for seed in (1, 1, 2))
    assert one.output.tobytes() == again.output.tobytes()
    assert one.weights.tobytes() == again.weights.tobytes()
    assert (one.output != other.output).any()
    whole = own.forward(*arrays, need_weights=True).weights
    kept = one.weights > 0.0
    np.testing.assert_allclose(one.weights[kept], 2.0 * whole[kept], rtol=1e-5)
    assert 0.25 < kept.mean() / (whole > 0.0).mean() < 0.75
    # Each weight is kept with probability 1/2 at twice its size: the mean over many draws is the weight.
    draws = [own.forward(*arrays, training=True, seed=seed).output for seed in range(400)]
    plain = own.forward(*arrays).output
    spread = np.std(draws, axis=0) / 20.0
    assert (np.abs(np.mean(draws, axis=0) - plain) < 5.0 * spread + 1e-5).all()


# ---- what is refused (Must show 6; that of the functional API's arguments stands in test_functional.py)


def of(thing, *args, **options):
    return lambda: thing(*args, **options)


def rows(count, dim):
    return np.ones((count, dim), np.float32)


def with_nan(count, dim, row):
    array = rows(count, dim)
    array[row, -1] = np.nan
    return array


REFUSED = [
    (
        of(ab.ScaledDotProductAttention().forward, rows(2, 768), rows(3, 384), rows(3, 384)),
        ab.DimensionMismatchError,
        "Query and key dimensions must match: 768 vs 384; give both the same last axis",
    ),
    (
        of(ab.AttentionConfig, d_model=768, num_heads=5),
        ab.DimensionMismatchError,
        "d_model 768 must be divisible by num_heads 5; 4 would do",
    ),
    (
        of(ab.attention_scores, rows(1, 768), rows(3, 768), "multi_head", num_heads=5),
        ab.DimensionMismatchError,
        "Query dimension 768 must be divisible by num_heads 5; 4 would do",
    ),
    (
        of(ab.attention, rows(2, 4), rows(3, 4), rows(3, 5), "multi_head", num_heads=2),
        ab.DimensionMismatchError,
        "Value dimension 5 must be divisible by num_heads 2; 1 would do",
    ),
    (
        of(ab.SparseAttention, "local", window=0),
        ab.InvalidConfigError,
        "window must be a whole number >= 1, got 0; 128 keys on either side are the default",
    ),
    (
        of(ab.attention, rows(2, 4), rows(3, 4), rows(3, 4), "sparse", pattern="block", block_size=0),
        ab.InvalidConfigError,
        "block_size must be a whole number >= 1, got 0; 64 is the usual one",
    ),
    (
        of(ab.attention_scores, rows(2, 4), rows(3, 4), "sliding"),
        ab.InvalidConfigError,
        "sliding needs position=..., the query's place among the keys",
    ),
    (
        of(ab.AttentionVectorBridge, 4, attention="sliding"),
        ab.InvalidConfigError,
        "sliding needs position=..., the payload column that holds a row's place, got None",
    ),
    (
        of(ab.attention_scores, rows(2, 4), rows(3, 4), "sliding", position=3),
        ab.InvalidConfigError,
        "position must be the place of one of 3 keys, 0 to 2, got 3",
    ),
    (
        of(ab.attention_score, rows(1, 4)[0], rows(1, 4)[0], "sliding", position=0),
        ab.InvalidConfigError,
        "attention_type must be pairwise for the score of a pair, got 'sliding', whose logit of a pair depends on the "
        "other keys; attention_logits gives it among them",
    ),
    (
        of(ab.SlidingWindowAttention, -3),
        ab.InvalidConfigError,
        "window must be a whole number >= 1, got -3; 128 keys on either side are the default",
    ),
    (
        of(ab.FlashAttention, 0),
        ab.InvalidConfigError,
        "block_size must be a whole number >= 1, got 0; 64 is the usual one",
    ),
    (
        of(ab.FlashAttention().forward, rows(2, 3), rows(2, 3), rows(2, 3), need_weights=True),
        ab.InvalidConfigError,
        "need_weights must be False with FlashAttention, which never makes the matrix of weights; its weights() does, "
        "or use ScaledDotProductAttention",
    ),
    (
        of(ab.MultiHeadAttention, 768, 5),
        ab.DimensionMismatchError,
        "Query dimension 768 must be divisible by num_heads 5; 4 would do",
    ),
    (
        of(ab.attention, rows(1, 4) / 9, rows(3, 4) / 9, rows(3, 4), "poincare", values="manifold"),
        ab.InvalidInputError,
        "values must lie inside the ball of radius 1 (curvature -1): row 0 has length 2; map='expmap0' takes tangent "
        "vectors into it, HyperbolicSpace.project moves points back inside",
    ),
    (
        of(ab.attention_scores, rows(1, 4), [rows(2, 4), rows(1, 3)], "cross"),
        ab.DimensionMismatchError,
        "keys must have one dimension: keys[0] has 4, keys[1] has 3",
    ),
    (
        of(ab.attention_scores, rows(2, 4), [rows(2, 4), with_nan(3, 4, 2)], "cross"),
        ab.InvalidInputError,
        "keys[1] must be finite: row 2, column 3 is nan; drop it, or replace it with np.nan_to_num",
    ),
    (
        of(ab.attention_scores, rows(1, 4), rows(3, 4), "moe", top_k=5),
        ab.InvalidConfigError,
        "top_k must be at most the number of experts, 3, got 5",
    ),
    (
        of(ab.SparseAttention, top_k=0),
        ab.InvalidConfigError,
        "top_k must be a whole number >= 1, got 0",
    ),
    (
        of(ab.ScaledDotProductAttention().forward, rows(2, 3), rows(5, 3), rows(5, 3), ab.SparseMask.causal((5, 2))),
        ab.InvalidMaskError,
        "mask must have shape (queries, keys) = (2, 5), got a SparseMask (5, 2)",
    ),
    (
        of(ab.ScaledDotProductAttention, dropout=1.0),
        ab.InvalidConfigError,
        "dropout must be in [0, 1), got 1.0; 0.0 drops nothing, 1.0 would drop everything",
    ),
    (
        of(ab.HyperbolicAttention, dropout=-0.1),
        ab.InvalidConfigError,
        "dropout must be in [0, 1), got -0.1; 0.0 drops nothing, 1.0 would drop everything",
    ),
    (
        of(ab.AttentionConfig, dropout=float("nan")),
        ab.InvalidConfigError,
        "dropout must be in [0, 1), got nan; 0.0 drops nothing, 1.0 would drop everything",
    ),
    (
        of(ab.SparseAttention, dropout="0.5"),
        ab.InvalidConfigError,
        "dropout must be in [0, 1), got '0.5'; 0.0 drops nothing, 1.0 would drop everything",
    ),
    (
        of(ab.LinearAttention, "favor", num_features=10**15),
        ab.InvalidConfigError,
        "num_features must be at most 100000, got 1000000000000000; a few times the dimension will do",
    ),
    (
        of(ab.attention, rows(2, 3), rows(5, 3), rows(5, 3), "linear", feature_map="favor", num_features=10**15),
        ab.InvalidConfigError,
        "num_features must be at most 100000, got 1000000000000000; a few times the dimension will do",
    ),
    (
        of(ab.LinearAttention, eps=-1.0),
        ab.InvalidConfigError,
        "eps must be a finite number >= 0, got -1.0; 1e-6 is the usual one",
    ),
    (
        of(ab.SlidingWindowAttention, 0),
        ab.InvalidConfigError,
        "window must be a whole number >= 1, got 0; 128 keys on either side are the default",
    ),
    *(
        (of(make, 10**7), ab.InvalidConfigError, "d_model must be at most 65536, got 10000000; 768 to 16384 are usual")
        for make in (
            ab.AttentionConfig,
            lambda dim: ab.MultiHeadAttention(dim, 1),
            lambda dim: ab.CrossAttention(dim, 1),
            lambda dim: ab.ScaledDotProductAttention(d_model=dim),
            lambda dim: ab.MixtureOfExpertsAttention(["scaled_dot"], d_model=dim),
        )
    ),
    *(
        (of(make, 10**7), ab.InvalidConfigError, f"{name} must be at most 65536, got 10000000; 768 to 16384 are usual")
        for name, make in (
            ("kdim", lambda dim: ab.MultiHeadAttention(4, 1, kdim=dim)),
            ("vdim", lambda dim: ab.MultiHeadAttention(4, 1, vdim=dim)),
            ("in_dim", ab.GraphAttention),
            ("out_dim", lambda dim: ab.GraphAttention(4, dim)),
            ("edge_dim", lambda dim: ab.GraphAttention(4, edge_dim=dim)),
        )
    ),
    *(
        (
            of(call, rows(2, 3), rows(5, 3), None),
            ab.InvalidInputError,
            f"{name} must be given; for self-attention it is the query's array",
        )
        for name, call in (
            ("value", ab.ScaledDotProductAttention().forward),
            ("value", ab.GraphAttention().forward),
            ("value", ab.MultiHeadAttention(3, 1).forward),
            ("values", ab.attention),
            ("values", lambda *arrays: ab.attention(*arrays, "linear")),
        )
    ),
    (
        of(ab.SparseAttention, top_k=10**2000),
        ab.InvalidConfigError,
        "top_k must fit 63 bits, got a number of 6644 bits",
    ),
    (
        of(ab.AttentionConfig, eps=0.0),
        ab.InvalidConfigError,
        "eps must be a finite number > 0, got 0.0; 1e-6 is the usual one",
    ),
    (
        of(ab.AttentionConfig, eps=-1e-6),
        ab.InvalidConfigError,
        "eps must be a finite number > 0, got -1e-06; 1e-6 is the usual one",
    ),
    (
        of(ab.SparseAttentionConfig, local_window=0),
        ab.InvalidConfigError,
        "local_window must be a whole number >= 1, got 0; 128 keys on either side are the default",
    ),
    (
        of(ab.SparseAttentionConfig, block_size=-4),
        ab.InvalidConfigError,
        "block_size must be a whole number >= 1, got -4; 64 is the usual one",
    ),
    (
        of(ab.HyperbolicAttention, 0.0),
        ab.InvalidConfigError,
        "curvature must be a finite number >= -1e+06, at most -1e-06, got 0.0; curvature is negative: -1.0 is "
        "the usual one",
    ),
    (
        of(ab.HyperbolicAttention, 1.0),
        ab.InvalidConfigError,
        "curvature must be a finite number >= -1e+06, at most -1e-06, got 1.0; curvature is negative: -1.0 is "
        "the usual one",
    ),
    (
        of(ab.HyperbolicAttention, temperature=0),
        ab.InvalidConfigError,
        "temperature must be a finite number > 0, got 0",
    ),
    (
        of(ab.attention_scores, [0.5, 0.0], [[0.0, 0.5], [3.0, 4.0]], "poincare"),
        ab.InvalidInputError,
        "keys must lie inside the ball of radius 1 (curvature -1): row 1 has length 5; map='expmap0' takes tangent "
        "vectors into it, HyperbolicSpace.project moves points back inside",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[message[:40] for _, _, message in REFUSED])
def test_refused(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    assert isinstance(caught.value, ab.AttentionError)


@each_setting
def test_every_type_refuses_what_no_type_takes(setting):
    """The same words from every mechanism."""
    q, k, v = draw(setting, Shape((), 5, 7, 3, 2))
    own = mechanism(setting, q)
    bad_key, bad_value = k.copy(), v.copy()
    bad_key[4, 0], bad_value[6, 1] = np.nan, np.inf
    bad_query = q.copy()
    bad_query[2, 1] = -np.inf
    wide = np.zeros((7, k.shape[1] * 2), np.float32)
    remedy = "; drop it, or replace it with np.nan_to_num"
    for call, error, message in (
        (of(own.forward, q, wide, v), ab.DimensionMismatchError, f"must match: {q.shape[1]} vs {wide.shape[1]}"),
        (of(own.logits, q, wide), ab.DimensionMismatchError, f"must match: {q.shape[1]} vs {wide.shape[1]}"),
        (of(own.forward, q[:, :0], k, v), ab.DimensionMismatchError, "query must not be empty"),
        (of(own.forward, q, k[:0], v[:0]), ab.InvalidInputError, "key must not be empty: attention needs"),
        (of(own.weights, q, k[:0]), ab.InvalidInputError, "key must not be empty: attention needs at least one key"),
        (of(own.forward, q, k, v[:6]), ab.DimensionMismatchError, "value must have a row for each of 7 keys, got 6"),
        (
            of(own.forward, bad_query, k, v),
            ab.InvalidInputError,
            f"query must be finite: row 2, column 1 is -inf{remedy}",
        ),
        (of(own.forward, q, bad_key, v), ab.InvalidInputError, f"key must be finite: row 4, column 0 is nan{remedy}"),
        (of(own.weights, q, bad_key), ab.InvalidInputError, f"key must be finite: row 4, column 0 is nan{remedy}"),
        (of(own.logits, q, bad_key), ab.InvalidInputError, f"key must be finite: row 4, column 0 is nan{remedy}"),
        (
            of(own.forward, q, k, bad_value),
            ab.InvalidInputError,
            f"value must be finite: row 6, column 1 is inf{remedy}",
        ),
        (of(own.forward, q, k, v, np.ones((5, 6), bool)), ab.InvalidMaskError, "got shape (5, 6)"),
        (of(own.forward, q, k, v, np.ones((5, 7), int)), ab.InvalidMaskError, "mask must be boolean (True attends)"),
        (of(own.forward, q, k, v, np.full((5, 7), np.nan)), ab.InvalidMaskError, "mask must be finite or -inf"),
        (of(own.forward, q, k, v, is_causal=1), ab.InvalidConfigError, "is_causal must be True or False, got 1"),
        (of(own.forward, q, k, v, training=1), ab.InvalidConfigError, "training must be True or False, got 1"),
        (of(own.forward, q, k, v, need_weights=1), ab.InvalidConfigError, "need_weights must be True or False, got 1"),
        (of(own.forward, q, k, v, need_context=1), ab.InvalidConfigError, "need_context must be True or False, got 1"),
        (of(own.forward, q, k, v, training=True, seed=-1), ab.InvalidConfigError, "seed must be a whole number >= 0"),
        (
            of(ab.attention, q, k, v, setting.name, max_keys=6, **setting.of(q.shape[-1])),
            ab.InputTooLargeError,
            "keys must be at most max_keys = 6 rows, got 7; pass max_keys=7 to allow it",
        ),
        (
            of(ab.attention, q, k, v, setting.name, nonsense=1),
            ab.InvalidConfigError,
            f"{setting.name} has no option 'nonsense'; its options are: ",
        ),
    ):
        if setting.mechanism is None or ("max_keys" not in message and "option" not in message):
            with pytest.raises(error) as caught:
                call()
            assert message in str(caught.value)


@pytest.mark.parametrize("name", REGISTRY)
def test_no_option_takes_just_anything(name):
    for option in REGISTRY[name].options:
        with pytest.raises(ab.AttentionError, match=option):
            resolve(name, {option: object()})
