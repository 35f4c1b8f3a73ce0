"""Norms, dropout and feed-forward networks: by hand, against torch, and what they promise beside the numbers."""

import json
import pickle
import threading

import numpy as np
import pytest
from scipy.special import erf

import attnbridge as ab
from attnbridge.layers import Layer

MADE = {
    "layer": lambda: ab.LayerNorm(7),
    "layer_two": lambda: ab.LayerNorm((5, 7), eps=1e-3),
    "layer_no_bias": lambda: ab.LayerNorm(7, bias=False),
    "layer_plain": lambda: ab.LayerNorm(7, elementwise_affine=False),
    "rms": lambda: ab.RMSNorm(7),
    "rms_eps": lambda: ab.RMSNorm((5, 7), eps=1e-2),
    "rms_plain": lambda: ab.RMSNorm(7, elementwise_affine=False),
    "batch": lambda: ab.BatchNorm(7),
    "batch_mean": lambda: ab.BatchNorm(7, momentum=None),
    "batch_plain": lambda: ab.BatchNorm(7, affine=False, track_running_stats=False),
    "dropout": lambda: ab.Dropout(0.3),
    "feed": lambda: ab.FeedForward(7, 11, "gelu", 0.2),
    "feed_no_bias": lambda: ab.FeedForward(7, activation="silu", bias=False, seed=3),
}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture(params=MADE)
def layer(request, rng):
    return randomised(MADE[request.param](), rng)


def randomised(layer, rng):
    """Give every parameter a value of its own; variances stay positive."""
    held = {
        name: array if name == "num_batches_tracked" else np.abs(rng.standard_normal(array.shape)) + 0.1
        for name, array in layer.parameters().items()
    }
    layer.set_parameters(held)
    return layer


# ---- by hand


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer_norm_by_hand(dtype):
    """Mean 2, variance 1: (x - 2) / sqrt(1 + 3) * weight + bias."""
    layer = ab.LayerNorm(2, eps=3.0)
    layer.set_parameters({"weight": [2.0, 4.0], "bias": [10.0, 20.0]})
    out = layer.forward(np.array([1.0, 3.0], dtype))
    np.testing.assert_allclose(out, [9.0, 22.0], rtol=1e-7)
    assert out.dtype == dtype


def test_rms_norm_by_hand():
    layer = ab.RMSNorm(2, eps=3.5)
    layer.set_parameters({"weight": [2.0, 3.0]})
    np.testing.assert_allclose(layer.forward([3.0, 4.0]), [1.5, 3.0], rtol=1e-6)  # mean square 12.5, root of 16


def test_batch_norm_by_hand():
    """Columns [0, 2] and [1, 5]: means 1, 3, variances 1, 4, unbiased 2, 8."""
    layer = ab.BatchNorm(2, eps=0.0, momentum=0.25)
    out = layer.forward([[0.0, 1.0], [2.0, 5.0]], training=True)
    np.testing.assert_allclose(out, [[-1.0, -1.0], [1.0, 1.0]], rtol=1e-6)
    held = layer.parameters()
    np.testing.assert_allclose(held["running_mean"], [0.25, 0.75])
    np.testing.assert_allclose(held["running_var"], [1.25, 2.75])
    assert held["num_batches_tracked"] == 1
    np.testing.assert_allclose(layer.forward([0.25, 0.75]), [0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(layer.forward([1.25, 0.75]), [1.25**-0.5, 0.0], rtol=1e-6)
    assert layer.parameters()["num_batches_tracked"] == 1


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("gelu", lambda x: x * 0.5 * (1.0 + erf(x / 2.0**0.5))),
        ("silu", lambda x: x / (1.0 + np.exp(-x))),
    ],
)
@pytest.mark.parametrize("x", [-50.0, -1.5, 0.0, 0.5, 80.0])
def test_feed_forward_by_hand(activation, function, x):
    layer = ab.FeedForward(1, 1, activation)
    layer.set_parameters(
        {"linear1.weight": [[2.0]], "linear1.bias": [1.0], "linear2.weight": [[3.0]], "linear2.bias": [4.0]}
    )
    want = 3.0 * function(2.0 * x + 1.0) + 4.0
    np.testing.assert_allclose(layer.forward(np.array([x])), [want], rtol=1e-12)
    np.testing.assert_allclose(layer.forward([x]), [want], rtol=1e-6)


def test_digits_survive_a_large_offset(rng):
    """Means of 1e6 leave float32 no digits for the variance; float64 has them."""
    x = (1e6 + rng.integers(-8, 9, (5, 8))).astype(np.float32)
    want = x - x.astype(np.float64).mean(axis=1, keepdims=True)
    want /= np.sqrt((want**2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(ab.LayerNorm(8)(x), want, rtol=1e-6, atol=1e-6)
    down = x - x.astype(np.float64).mean(axis=0)
    down /= np.sqrt((down**2).mean(axis=0) + 1e-5)
    np.testing.assert_allclose(ab.BatchNorm(8)(x, training=True), down, rtol=1e-6, atol=1e-6)


# ---- torch


def torch_norms(torch):
    return {
        "layer": torch.nn.LayerNorm(7),
        "layer_two": torch.nn.LayerNorm((5, 7), eps=1e-3),
        "layer_no_bias": torch.nn.LayerNorm(7, bias=False),
        "layer_plain": torch.nn.LayerNorm(7, elementwise_affine=False),
        "rms": torch.nn.RMSNorm(7),
        "rms_eps": torch.nn.RMSNorm((5, 7), eps=1e-2),
        "rms_plain": torch.nn.RMSNorm(7, elementwise_affine=False),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [kind for kind in MADE if kind.startswith(("layer", "rms"))])
def test_norms_equal_torch(rng, kind, dtype):
    torch = pytest.importorskip("torch")
    ours = randomised(MADE[kind](), rng)
    theirs = torch_norms(torch)[kind].to(torch.float64 if dtype == np.float64 else torch.float32)
    assert set(theirs.state_dict()) == set(ours.parameters())
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.parameters().items()})
    for scale in (1.0, 1e-4, 1e3):
        x = (scale * (rng.standard_normal((3, 5, 7)) + 0.5)).astype(dtype)
        want = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours(x), want, rtol=1e-5, atol=1e-5)
    zeros = np.zeros((2, 5, 7), dtype)
    np.testing.assert_allclose(ours(zeros), theirs(torch.from_numpy(zeros)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize(("affine", "track"), [(True, True), (False, True), (True, False)])
def test_batch_norm_equals_torch(rng, momentum, affine, track):
    torch = pytest.importorskip("torch")
    ours = randomised(ab.BatchNorm(7, 1e-4, momentum, affine, track), rng)
    theirs = torch.nn.BatchNorm1d(7, 1e-4, momentum, affine, track)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.parameters().items()})
    for step in range(6):
        x = (rng.standard_normal((3, 5, 7)) * (1 + step) - step).astype(np.float32)
        training = step != 4
        theirs.train(training)
        want = theirs(torch.from_numpy(x).transpose(1, 2)).transpose(1, 2).detach().numpy()
        np.testing.assert_allclose(ours(x, training=training), want, rtol=1e-5, atol=1e-5)
        state = theirs.state_dict()
        assert set(state) == set(ours.parameters())
        for name, array in ours.parameters().items():
            np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-5, atol=1e-6)
    again = ab.BatchNorm(7, 1e-4, momentum, affine, track)
    again.set_parameters({name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    np.testing.assert_allclose(again(x), ours(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_equals_torch(rng, activation, bias):
    torch = pytest.importorskip("torch")
    ours = randomised(ab.FeedForward(7, 11, activation, bias=bias), rng)
    one, two = torch.nn.Linear(7, 11, bias), torch.nn.Linear(11, 7, bias)
    for name, linear in (("linear1", one), ("linear2", two)):
        held = {k.removeprefix(f"{name}."): v for k, v in ours.parameters().items() if k.startswith(name)}
        linear.load_state_dict({k: torch.from_numpy(v) for k, v in held.items()})
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    want = two(getattr(torch.nn.functional, activation)(one(torch.from_numpy(x)))).detach().numpy()
    np.testing.assert_allclose(ours(x), want, rtol=1e-5, atol=1e-5)


# ---- what all layers promise


def test_leading_axes_are_rows(layer, rng):
    x = rng.standard_normal((2, 3, 5, 7))
    own = layer._own_shape() or (7,)
    flat = x.reshape(-1, *own)
    np.testing.assert_allclose(layer(x), layer(flat).reshape(x.shape), rtol=1e-12, atol=1e-14)
    if layer.config.get("track_running_stats", True):
        np.testing.assert_allclose(layer(x)[1, 2], layer(x[1, 2]), rtol=1e-12, atol=1e-14)


def test_float32_is_near_float64(layer, rng):
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    narrow, wide = layer(x), layer(x.astype(np.float64))
    assert narrow.dtype == np.float32
    assert wide.dtype == np.float64
    np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-5)


def test_any_array_goes_in_and_none_is_changed(layer, rng):
    x = rng.standard_normal((3, 5, 7))
    kept, want = x.copy(), layer(x, training=True, seed=1)
    assert not np.shares_memory(want, x)
    fresh = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(fresh(np.asfortranarray(x)), layer(x))
    x.flags.writeable = False
    layer(x, training=True, seed=1)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_allclose(layer(x.tolist()), layer(x), rtol=1e-5, atol=1e-5)


def test_config_makes_an_equal_layer(layer, rng):
    x = rng.standard_normal((3, 5, 7))
    again = type(layer)(**json.loads(json.dumps(layer.config)))
    assert repr(again).replace("[5, 7]", "(5, 7)") == repr(layer)
    again.set_parameters(layer.parameters())
    np.testing.assert_array_equal(again(x, training=True, seed=2), layer(x, training=True, seed=2))


def test_every_parameter_counts(layer, rng):
    """A parameter that is another gives another output."""
    x, held = rng.standard_normal((3, 5, 7)), layer.parameters()
    want = layer(x)
    for name in held:
        if name == "num_batches_tracked":
            continue
        layer.set_parameters(held | {name: held[name] + 1.0})
        assert not np.allclose(layer(x), want)
    layer.set_parameters(held)
    for array in layer.parameters().values():  # copies
        array += 1
    np.testing.assert_array_equal(layer(x), want)


def test_call_is_forward(layer, rng):
    x = rng.standard_normal((3, 5, 7))
    np.testing.assert_array_equal(layer(x), layer.forward(x))
    assert isinstance(layer, Layer)


def test_no_rows(layer):
    if len(layer._own_shape()) == 2:
        assert layer(np.empty((0, 5, 7))).shape == (0, 5, 7)
    elif layer.config.get("track_running_stats", True):
        assert layer(np.empty((0, 7))).shape == (0, 7)


# ---- dropout


def test_dropout_scales_what_it_keeps(rng):
    x = rng.standard_normal((200, 50)) + 10.0
    out = ab.Dropout(0.3)(x, training=True, seed=1)
    dropped = out == 0.0
    np.testing.assert_allclose(out[~dropped], x[~dropped] / 0.7, rtol=1e-12)
    assert abs(dropped.mean() - 0.3) < 0.02
    assert abs(dropped.mean(axis=0) - 0.3).max() < 0.15  # of every column some


@pytest.mark.parametrize("layer", [ab.Dropout(0.5), ab.FeedForward(64, 64, dropout=0.5)], ids=["dropout", "feed"])
def test_draws_follow_the_seed(layer, rng):
    x = rng.standard_normal((4, 64))
    out = [layer(x, training=True, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(out[0], out[1])
    assert (out[0] != out[2]).any()
    assert (layer(x, training=True) != layer(x, training=True)).any()
    np.testing.assert_array_equal(layer(x, seed=1), layer(x, seed=2))
    assert (layer(x) != out[0]).any()


def test_dropout_of_a_network_is_of_its_hidden_layer():
    """Ones in, identity: what is left is 0 or 2; the bias after it stays."""
    layer = ab.FeedForward(64, 64, dropout=0.5)
    layer.set_parameters(
        {"linear1.weight": np.eye(64), "linear1.bias": np.zeros(64)}
        | {"linear2.weight": np.eye(64), "linear2.bias": np.full(64, 5.0)}
    )
    assert set(layer(np.ones(64), training=True, seed=0)) == {5.0, 7.0}


# ---- batch norm's state


def test_threads_count_each_batch_once(rng):
    layer = ab.BatchNorm(3, momentum=None)
    batches = rng.standard_normal((8, 25, 11, 3))

    def work(mine):
        for batch in mine:
            layer(batch, training=True)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = layer.parameters()
    assert held["num_batches_tracked"] == 200
    np.testing.assert_allclose(held["running_mean"], batches.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(held["running_var"], batches.var(axis=2, ddof=1).mean(axis=(0, 1)), rtol=1e-4)


def test_evaluation_and_untracked_norms_change_nothing(rng):
    x = rng.standard_normal((5, 3))
    layer = ab.BatchNorm(3)
    before = layer.parameters()
    layer(x)
    np.testing.assert_equal(layer.parameters(), before)
    plain = ab.BatchNorm(3, track_running_stats=False)
    plain(x, training=True)
    assert set(plain.parameters()) == {"weight", "bias"}
    np.testing.assert_array_equal(plain(x), plain(x, training=True))


# ---- errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ab.LayerNorm(0), ab.InvalidConfigError, "normalized_shape must be a whole number >= 1, got 0"),
        (lambda: ab.LayerNorm(()), ab.InvalidConfigError, "normalized_shape must be a whole number or several"),
        (lambda: ab.RMSNorm("7"), ab.InvalidConfigError, "normalized_shape must be a whole number >= 1, got '7'"),
        (lambda: ab.LayerNorm(7, eps=-1.0), ab.InvalidConfigError, "eps must be a finite number >= 0"),
        (lambda: ab.RMSNorm(7, eps=float("nan")), ab.InvalidConfigError, "eps must be a finite number >= 0"),
        (lambda: ab.LayerNorm(7, bias=1), ab.InvalidConfigError, "bias must be True or False"),
        (lambda: ab.BatchNorm(2.5), ab.InvalidConfigError, "num_features must be a whole number"),
        (
            lambda: ab.BatchNorm(7, momentum=1.5),
            ab.InvalidConfigError,
            "momentum must be a finite number >= 0, at most 1",
        ),
        (lambda: ab.Dropout(1.0), ab.InvalidConfigError, r"p must be in \[0, 1\), got 1.0"),
        (lambda: ab.Dropout(-0.1), ab.InvalidConfigError, r"p must be in \[0, 1\)"),
        (lambda: ab.FeedForward(7, 0), ab.InvalidConfigError, "d_ff must be a whole number >= 1, got 0"),
        (
            lambda: ab.FeedForward(7, activation="tanh"),
            ab.InvalidConfigError,
            "activation must be one of gelu, relu, silu",
        ),
        (lambda: ab.FeedForward(7, dropout=1.0), ab.InvalidConfigError, r"dropout must be in \[0, 1\)"),
        (lambda: ab.FeedForward(7, seed=-1), ab.InvalidConfigError, "seed must be a whole number >= 0"),
        (lambda: ab.LayerNorm(7)(np.ones(6)), ab.DimensionMismatchError, r"x must be \(..., 7\) for LayerNorm.*\(6,\)"),
        (lambda: ab.LayerNorm((5, 7))(np.ones(7)), ab.DimensionMismatchError, r"x must be \(..., 5, 7\)"),
        (lambda: ab.Dropout()(1.0), ab.DimensionMismatchError, r"x must be \(..., d\)"),
        (lambda: ab.Dropout()(np.ones((3, 0))), ab.DimensionMismatchError, "x must not be empty"),
        (lambda: ab.RMSNorm(2)([[1.0, 2.0], [np.nan, 1.0]]), ab.InvalidInputError, "row 1, column 0 is nan"),
        (lambda: ab.Dropout()([1.0, np.inf]), ab.InvalidInputError, "position 1 is inf"),
        (lambda: ab.Dropout()(["a"]), ab.InvalidInputError, "x must be real numbers"),
        (lambda: ab.Dropout()([1.0], seed=-1), ab.InvalidConfigError, "seed must be a whole number >= 0"),
        (lambda: ab.Dropout()([1.0], training="yes"), ab.InvalidConfigError, "training must be True or False"),
        (lambda: ab.BatchNorm(2)([[1.0, 2.0]], training=True), ab.InvalidInputError, "at least 2 rows.*got 1"),
        (lambda: ab.BatchNorm(2, track_running_stats=False)([1.0, 2.0]), ab.InvalidInputError, "at least 2 rows"),
        (lambda: ab.LayerNorm(2, eps=0.0)([1.0, 1.0]), ab.NumericalInstabilityError, "vary where eps is 0"),
        (lambda: ab.LayerNorm(2)(np.array([1e200, 0])), ab.NumericalInstabilityError, "squares within float64"),
        (
            lambda: ab.BatchNorm(1)(np.array([[1e30], [-1e30]]), training=True),
            ab.NumericalInstabilityError,
            "mean and variance within float32",
        ),
        (
            lambda: filled(ab.FeedForward(1, 1), 1e30)([1e30]),
            ab.NumericalInstabilityError,
            "output of FeedForward must be within float32",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def filled(layer, value):
    layer.set_parameters({name: np.full(array.shape, value) for name, array in layer.parameters().items()})
    return layer


def test_what_overflows_on_the_way_is_done_in_float64():
    """1e30 * 1e30 * 1e-30 is within float32, its first product is not."""
    layer = ab.FeedForward(1, 1, bias=False)
    layer.set_parameters({"linear1.weight": [[1e30]], "linear2.weight": [[1e-30]]})
    np.testing.assert_allclose(layer([1e30]), [1e30], rtol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ([1.0], ab.InvalidConfigError, "parameters must be a dict of arrays by name, got list"),
        ({"weight": np.ones(2)}, ab.InvalidConfigError, "missing bias, unknown none"),
        ({"weight": np.ones(2), "bias": np.ones(2), "gain": 1}, ab.InvalidConfigError, "missing none, unknown gain"),
        ({"weight": np.ones(2), "bias": np.ones(3)}, ab.DimensionMismatchError, r"parameters\['bias'\] must be \(2,\)"),
        ({"weight": np.ones(2), "bias": [1.0, np.nan]}, ab.InvalidInputError, r"parameters\['bias'\] must be finite"),
    ],
)
def test_parameters_that_do_not_fit(parameters, error, message):
    layer = ab.LayerNorm(2)
    with pytest.raises(error, match=message):
        layer.set_parameters(parameters)
    np.testing.assert_array_equal(layer.parameters()["weight"], [1.0, 1.0])


def test_statistics_that_cannot_be():
    layer = ab.BatchNorm(1)
    held = layer.parameters()
    with pytest.raises(ab.InvalidInputError, match="running_var'] must be >= 0"):
        layer.set_parameters(held | {"running_var": [-1.0]})
    with pytest.raises(ab.InvalidConfigError, match="num_batches_tracked'] must be a whole number >= 0"):
        layer.set_parameters(held | {"num_batches_tracked": -1})
    np.testing.assert_equal(layer.parameters(), held)
    layer.set_parameters(held | {"num_batches_tracked": 2**40 + 1})
    assert layer.parameters()["num_batches_tracked"] == 2**40 + 1
