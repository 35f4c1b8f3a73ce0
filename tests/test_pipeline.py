"""Pipelines equal the same steps by hand, to the bit; each step acts; errors name the step."""

import pickle

import numpy as np
import pytest

import attnbridge as ab

DOT = ab.ScaledDotProductAttention(dropout=0.3)
HEADS = ab.MultiHeadAttention(8, 2, dropout=0.2, seed=4)


@pytest.fixture
def rng():
    return np.random.default_rng(9)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def x(request, rng):
    return rng.standard_normal((5, 8)).astype(request.param)


def plain(kind, x, **settings):
    return kind(x.shape[-1], elementwise_affine=False, **settings)(x)


# ---- by hand


@pytest.mark.parametrize("training", [False, True])
def test_every_step_by_hand(rng, x, training):
    keys, values = rng.standard_normal((2, 7, 8)).astype(x.dtype)
    mask = rng.random((5, 7)) < 0.7
    feed, norm = ab.FeedForward(8, 13, "gelu", 0.2), ab.LayerNorm(8)
    norm.set_parameters({"weight": rng.standard_normal(8), "bias": rng.standard_normal(8)})
    batch, beside = ab.BatchNorm(8, eps=1e-3), ab.BatchNorm(8, eps=1e-3)
    pipeline = (
        ab.AttentionPipeline()
        .add_norm("layer")
        .add_attention(HEADS)
        .add_dropout(0.1)
        .add_residual()
        .add_norm(norm)
        .add_attention(DOT)
        .add_residual()
        .add_norm("rms", eps=0.5)
        .mark()
        .add_feed_forward(feed)
        .add_custom(lambda stream: np.maximum(stream, 0))
        .add_residual()
        .add_norm(batch)
    )
    got = pipeline.run(x, keys, values, mask, training=training, seed=6)
    seeds = pipeline.seeds(6)
    assert len(pipeline) == len(seeds) == 13
    assert len(set(seeds)) == 13

    def at(number):
        return {"training": training, "seed": seeds[number]}

    y = plain(ab.LayerNorm, x)
    y = HEADS.forward(y, keys, values, mask, **at(1)).output
    z = x + ab.Dropout(0.1)(y, **at(2))
    y = z + DOT.forward(norm(z), keys, values, mask, **at(5)).output
    y = plain(ab.RMSNorm, y, eps=0.5)
    y = beside(y + np.maximum(feed(y, **at(9)), 0), training=training)
    np.testing.assert_array_equal(got, y)
    assert got.dtype == x.dtype
    np.testing.assert_equal(batch.parameters(), beside.parameters())


@pytest.mark.parametrize(
    "feed_forward", [None, 16, ab.FeedForward(8, 11, "silu", 0.3, seed=2)], ids=["no", "16", "own"]
)
@pytest.mark.parametrize("training", [False, True])
def test_post_norm_block_by_hand(x, feed_forward, training):
    block = ab.transformer_block(HEADS, 0.25, feed_forward=feed_forward)
    seeds = block.seeds(3)
    drop = ab.Dropout(0.25)
    y = HEADS.forward(x, x, x, training=training, seed=seeds[0]).output
    y = plain(ab.LayerNorm, x + drop(y, training=training, seed=seeds[1]))
    if feed_forward is not None:
        feed = ab.FeedForward(8, 16) if feed_forward == 16 else feed_forward
        z = drop(feed(y, training=training, seed=seeds[5]), training=training, seed=seeds[6])
        y = plain(ab.LayerNorm, y + z)
    np.testing.assert_array_equal(block.run(x, training=training, seed=3), y)


@pytest.mark.parametrize("feed_forward", [None, 16], ids=["no", "16"])
@pytest.mark.parametrize("training", [False, True])
def test_pre_norm_block_by_hand(x, feed_forward, training):
    block = ab.prenorm_transformer_block(HEADS, 0.25, feed_forward=feed_forward)
    seeds, drop = block.seeds(3), ab.Dropout(0.25)
    normed = plain(ab.LayerNorm, x)  # keys and values too
    y = HEADS.forward(normed, normed, normed, training=training, seed=seeds[1]).output
    y = x + drop(y, training=training, seed=seeds[2])
    if feed_forward is not None:
        z = ab.FeedForward(8, 16)(plain(ab.LayerNorm, y), training=training, seed=seeds[5])
        y = y + drop(z, training=training, seed=seeds[6])
    np.testing.assert_array_equal(block.run(x, training=training, seed=3), y)


def test_blocks_equal_torch(x):
    """A whole encoder layer, both orders of norm, relu and no dropout."""
    torch = pytest.importorskip("torch")
    for first, make in ((False, ab.transformer_block), (True, ab.prenorm_transformer_block)):
        theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=first, batch_first=True).eval()
        feed = ab.FeedForward(8, 16)
        state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
        feed.set_parameters({name: state[name] for name in feed.parameters()})
        heads, own = ab.MultiHeadAttention(8, 2), {}
        for name, weight, bias in zip(
            "qkv",
            np.split(state["self_attn.in_proj_weight"], 3),
            np.split(state["self_attn.in_proj_bias"], 3),
            strict=True,
        ):
            own |= {f"W_{name}": weight, f"b_{name}": bias}
        own |= {"W_o": state["self_attn.out_proj.weight"], "b_o": state["self_attn.out_proj.bias"]}
        heads.set_parameters(own)
        want = theirs(torch.from_numpy(x.astype(np.float32))[None])[0].detach().numpy()
        np.testing.assert_allclose(make(heads, 0.0, feed_forward=feed).run(x), want, rtol=1e-5, atol=1e-5)


def test_self_attention_is_over_the_stream(rng, x):
    """Two attentions without keys: each over what the one before it left."""
    pipeline = ab.AttentionPipeline().add_attention(DOT).add_attention(DOT)
    y = DOT.forward(x, x, x).output
    np.testing.assert_array_equal(pipeline.run(x), DOT.forward(y, y, y).output)
    keys = rng.standard_normal((3, 8)).astype(x.dtype)
    y = DOT.forward(x, keys, keys).output
    np.testing.assert_array_equal(pipeline.run(x, keys), DOT.forward(y, keys, keys).output)
    np.testing.assert_array_equal(pipeline.run(x[0], keys), DOT.forward(y[0], keys, keys).output)


def test_leading_axes(rng):
    x = rng.standard_normal((2, 3, 5, 8))
    block = ab.prenorm_transformer_block(HEADS, feed_forward=16)
    for b, c in np.ndindex(2, 3):
        np.testing.assert_allclose(block.run(x)[b, c], block.run(x[b, c]), rtol=1e-11, atol=1e-12)


# ---- each step acts

BASE = (
    ("add_norm", "layer"),
    ("add_attention", HEADS),
    ("add_dropout", 0.1),
    ("add_residual",),
    ("mark",),
    ("add_feed_forward", 16),
    ("add_custom", np.tanh),
    ("add_residual",),
    ("add_norm", "rms"),
)
# Step number -> what stands in its place, and whether it acts in training only.
OTHERS = [
    (0, ("add_norm", "rms"), False),
    (0, ("add_norm", ab.LayerNorm(8, eps=0.5)), False),
    (0, ("add_norm", ab.BatchNorm(8)), False),
    (1, ("add_attention", ab.MultiHeadAttention(8, 2, dropout=0.2, seed=5)), False),
    (1, ("add_attention", ab.ScaledDotProductAttention(dropout=0.3, d_model=8)), False),
    (2, ("add_dropout", 0.5), True),
    (2, ("add_dropout", 0.0), True),
    (3, None, False),
    (4, None, None),
    (5, ("add_feed_forward", ab.FeedForward(8, 16, "gelu")), False),
    (5, ("add_feed_forward", 17), False),
    (6, ("add_custom", np.sin), False),
    (6, None, False),
    (7, None, False),
    (8, ("add_norm", "layer"), False),
    (8, None, False),
]


def built(steps):
    pipeline = ab.AttentionPipeline()
    for name, *arguments in steps:
        pipeline = getattr(pipeline, name)(*arguments)
    return pipeline


@pytest.mark.parametrize(("number", "other", "only_training"), OTHERS, ids=range(len(OTHERS)))
def test_a_step_that_is_another_gives_another_result(rng, number, other, only_training):
    x = rng.standard_normal((5, 8))
    # In place of a step that goes, one that does nothing: the draws of the others stay.
    steps = (*BASE[:number], other or ("add_custom", np.copy), *BASE[number + 1 :])
    for training in (False, True):
        one, two = (built(each).run(x, training=training, seed=1) for each in (BASE, steps))
        same = only_training is None or (only_training and not training)  # a mark after a residual is where it stands
        assert np.array_equal(one, two) == same


def test_a_mark_moves_the_residual(rng, x):
    start = ab.AttentionPipeline().add_attention(DOT)
    attended = DOT.forward(x, x, x).output
    np.testing.assert_array_equal(start.add_custom(np.tanh).add_residual().run(x), x + np.tanh(attended))
    np.testing.assert_array_equal(start.mark().add_custom(np.tanh).add_residual().run(x), attended + np.tanh(attended))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("layer",), ("layer", None, 0.5)),
        (("rms",), ("rms", None, 0.5)),
        (("batch", 8), ("batch", 8, 0.5)),
        (("layer", 8), ("layer", 8, 0.5)),
    ],
)
def test_eps_of_a_named_norm_acts(x, one, two):
    def run(name, dim=None, eps=None):
        return ab.AttentionPipeline().add_attention(DOT).add_norm(name, dim, eps=eps).run(x)

    assert not np.allclose(run(*one), run(*two))


def test_named_norms_with_a_dimension_have_parameters(x):
    start = ab.AttentionPipeline().add_attention(DOT)
    for name, kind in (("layer", ab.LayerNorm), ("rms", ab.RMSNorm), ("batch", ab.BatchNorm)):
        pipeline = start.add_norm(name, 8)
        np.testing.assert_array_equal(pipeline.run(x), kind(8)(DOT.forward(x, x, x).output))
    first, second = (pipeline.run(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    pipeline.run(x, training=True, seed=0)
    assert not np.allclose(pipeline.run(x), first)  # running statistics have moved


def test_keys_values_and_mask_act(rng, x):
    block = ab.transformer_block(HEADS, 0.0)
    keys, values = rng.standard_normal((2, 7, 8)).astype(x.dtype)
    mask = np.arange(7) < 3
    runs = [block.run(x), block.run(x, keys), block.run(x, keys, values), block.run(x, keys, values, mask)]
    for i, one in enumerate(runs):
        assert not any(np.allclose(one, other) for other in runs[:i])


# ---- what else it promises


def test_a_pipeline_is_never_changed(x):
    one = ab.AttentionPipeline().add_attention(DOT)
    want = one.run(x)
    two = one.add_norm()
    assert (len(ab.AttentionPipeline()), len(one), len(two)) == (0, 1, 2)
    np.testing.assert_array_equal(one.run(x), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(two)).run(x), two.run(x))


def test_parts_are_those_that_run(x):
    """Parameters that are put into a part act: those of a network made of a number too."""
    pipeline = built(BASE)
    assert pipeline.parts[1] is HEADS
    assert [type(part).__name__ for part in pipeline.parts] == [
        "NoneType", "MultiHeadAttention", "Dropout", "NoneType", "NoneType", "FeedForward", *["NoneType"] * 3
    ]  # fmt: skip
    before, feed = pipeline.run(x), pipeline.parts[5]
    feed.set_parameters({name: -array for name, array in feed.parameters().items()})
    assert not np.allclose(pipeline.run(x), before)


def test_seeds(x):
    block = ab.transformer_block(HEADS, 0.5)
    np.testing.assert_array_equal(block.run(x, training=True, seed=1), block.run(x, training=True, seed=1))
    assert not np.allclose(block.run(x, training=True, seed=1), block.run(x, training=True, seed=2))
    assert not np.allclose(block.run(x, training=True), block.run(x, training=True))
    np.testing.assert_array_equal(block.run(x, seed=1), block.run(x))
    assert block.seeds(None) == [None] * 4
    assert block.add_norm().seeds(7)[:4] == block.seeds(7)
    twice = ab.AttentionPipeline().add_attention(ab.ScaledDotProductAttention()).add_dropout(0.5).add_dropout(0.5)
    kept = twice.run(np.ones((40, 50)), training=True, seed=1) > 0
    assert abs(kept.mean() - 0.25) < 0.05  # two draws, not the same one twice


def test_input_and_residual_survive_a_function_that_writes_in_place(x):
    def spoil(stream):
        stream[:] = 0
        return stream

    kept = x.copy()
    pipeline = ab.AttentionPipeline().add_custom(spoil).add_residual().add_attention(DOT)
    np.testing.assert_array_equal(pipeline.run(x), DOT.forward(x, x, x).output)
    np.testing.assert_array_equal(x, kept)


def test_repr_is_the_code_that_makes_it():
    pipeline = built(BASE)
    assert repr(pipeline) == (
        f"AttentionPipeline().add_norm('layer').add_attention({HEADS!r}).add_dropout(0.1).add_residual().mark()"
        ".add_feed_forward(FeedForward(d_model=8, d_ff=16, activation='relu', dropout=0.0, bias=True, seed=0))"
        ".add_custom(tanh).add_residual().add_norm('rms')"
    )
    names = {name: getattr(ab, name) for name in ab.__all__} | {"tanh": np.tanh}
    assert repr(eval(repr(pipeline), names)) == repr(pipeline)
    assert repr(ab.AttentionPipeline().add_norm("batch", 8, eps=0.1)).endswith(".add_norm('batch', dim=8, eps=0.1)")
    assert repr(ab.AttentionPipeline().add_norm(ab.RMSNorm(4))).endswith(
        ".add_norm(RMSNorm(normalized_shape=(4,), eps=None, elementwise_affine=True))"
    )


@pytest.mark.parametrize(
    "attention",
    [
        ab.FlashAttention(16, causal=True),
        ab.LinearAttention(),
        ab.SparseAttention(),
        ab.SlidingWindowAttention(2),
        ab.MixtureOfExpertsAttention(),
        ab.GraphAttention(),
        ab.CrossAttention(8, 2),
        ab.FlashAttention(rotary=ab.RotaryEmbedding(8)),
    ],
    ids=lambda a: type(a).__name__,
)
def test_any_mechanism_goes_in(x, attention):
    got = ab.AttentionPipeline().add_attention(attention).run(x, training=True, seed=1)
    own = ab.AttentionPipeline().add_attention(attention).seeds(1)[0]
    np.testing.assert_array_equal(got, attention.forward(x, x, x, training=True, seed=own).output)


# ---- errors

START = ab.AttentionPipeline().add_attention(DOT)
X = np.ones((3, 8), np.float32)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ab.AttentionPipeline().run(X), ab.InvalidConfigError, "pipeline must have an attention to run"),
        (lambda: ab.AttentionPipeline().add_norm().run(X), ab.InvalidConfigError, "pipeline must have an attention"),
        (lambda: START.add_attention("flash"), ab.InvalidConfigError, "attention must be an attention mechanism, got"),
        (lambda: START.add_norm("group"), ab.InvalidConfigError, "norm must be one of batch, layer, rms; got 'group'"),
        (lambda: START.add_norm("batch"), ab.InvalidConfigError, 'dim must be given with "batch"'),
        (lambda: START.add_norm("layer", 0), ab.InvalidConfigError, "^dim must be a whole number >= 1, got 0"),
        (lambda: START.add_norm("batch", 0), ab.InvalidConfigError, "^dim must be a whole number >= 1, got 0"),
        (lambda: START.add_norm(ab.FeedForward(8)), ab.InvalidConfigError, "be a norm, .*; add_feed_forward adds"),
        (lambda: START.add_norm(ab.Dropout(0.5)), ab.InvalidConfigError, r"must be a norm, .*; add_dropout adds it"),
        (lambda: START.add_norm("layer", eps=-1), ab.InvalidConfigError, "eps must be a finite number >= 0"),
        (lambda: START.add_norm(ab.RMSNorm(8), 8), ab.InvalidConfigError, "dim and eps must be left out with a layer"),
        (lambda: START.add_norm(ab.RMSNorm(8), eps=1), ab.InvalidConfigError, "dim and eps must be left out with"),
        (lambda: START.add_dropout(1.0), ab.InvalidConfigError, r"p must be in \[0, 1\), got 1.0"),
        (lambda: START.add_dropout(-0.5), ab.InvalidConfigError, r"p must be in \[0, 1\), got -0.5"),
        (lambda: START.add_custom(3), ab.InvalidConfigError, "function must be callable with the stream, got 3"),
        (lambda: START.add_feed_forward(16), ab.InvalidConfigError, r"give FeedForward\(d_model, 16\)"),
        (lambda: ab.AttentionPipeline().add_feed_forward(16), ab.InvalidConfigError, "must be a FeedForward unless"),
        (lambda: START.add_feed_forward("wide"), ab.InvalidConfigError, "feed_forward must be a whole number"),
        (lambda: START.run(X, None, X), ab.InvalidConfigError, "keys must be given with values"),
        (lambda: START.run(X, training=1), ab.InvalidConfigError, "training must be True or False"),
        (lambda: START.run(X, seed=-1), ab.InvalidConfigError, "seed must be a whole number >= 0"),
        (lambda: START.run(1.0), ab.DimensionMismatchError, r"query must be \(d,\) or \(..., L, d\), got shape \(\)"),
        (lambda: START.run(X, np.ones((3, 7))), ab.DimensionMismatchError, "Query and key dimensions must match: 8"),
        (lambda: START.run([["a"]]), ab.InvalidInputError, "query must be real numbers"),
        (lambda: ab.transformer_block(DOT, None), ab.InvalidConfigError, r"^dropout must be in \[0, 1\), got None"),
        (lambda: ab.prenorm_transformer_block(DOT, 1.0), ab.InvalidConfigError, r"^dropout must be in .*, got 1.0"),
        (lambda: ab.prenorm_transformer_block("bert"), ab.InvalidConfigError, "attention must be an attention mech"),
        (lambda: ab.transformer_block(DOT, feed_forward=9), ab.InvalidConfigError, r"FeedForward\(d_model, 9\)"),
        (
            lambda: START.add_custom(lambda s: s[:, :4]).add_norm("rms").add_residual().run(X),
            ab.DimensionMismatchError,
            r"add_residual must find the shape that it adds, \(3, 8\): step 2, add_custom\(<lambda>\), has made it "
            r"\(3, 4\)",
        ),
        (
            lambda: START.add_residual().run(X, X, np.ones((3, 2))),
            ab.DimensionMismatchError,
            r"step 1, add_attention\(Scaled.*, has made it \(3, 2\)",
        ),
        (lambda: START.add_custom(lambda s: None).run(X), ab.InvalidInputError, "must return an array, got None"),
        (lambda: START.add_custom(lambda s: "no").run(X), ab.InvalidInputError, "returns must be real numbers"),
        (lambda: START.add_custom(lambda s: s[0, 0]).run(X), ab.DimensionMismatchError, r"must return \(..., d\)"),
        (lambda: START.add_custom(lambda s: s * np.nan).run(X), ab.InvalidInputError, "returns must be finite: row 0"),
        (lambda: START.add_custom(lambda s: s * 3e38).add_residual().mark().add_residual().run(X),
         ab.NumericalInstabilityError, "add_residual must stay within float32"),
    ],
)  # fmt: skip
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_error_names_its_step():
    pipeline = START.add_custom(lambda stream: stream[:, :4]).add_norm("layer", 8)
    with pytest.raises(ab.DimensionMismatchError, match=r"x must be \(..., 8\)") as caught:
        pipeline.run(X)
    assert caught.value.__notes__ == ["in step 3 of the pipeline, add_norm('layer', dim=8)"]


def test_an_error_of_the_function_is_its_own():
    def fail(stream):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        START.add_custom(fail).run(X)
    assert caught.value.__notes__ == ["in step 2 of the pipeline, add_custom(fail)"]
    with pytest.raises(TypeError) as caught:
        START.add_custom(lambda: X).run(X)
    assert caught.value.__notes__ == ["in step 2 of the pipeline, add_custom(<lambda>)"]


def test_blocks_take_a_layer_of_dropout():
    layer = ab.Dropout(0.25)
    assert ab.transformer_block(DOT, layer).parts[1] is layer
    assert ab.prenorm_transformer_block(DOT, layer).parts[2] is layer


def test_a_custom_step_may_return_what_it_keeps():
    room = np.empty((5, 4), np.float32)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    keeps, makes = (lambda x: np.maximum(x, 0.0, out=room)), (lambda x: np.maximum(x, 0.0))
    runs = [
        ab.AttentionPipeline()
        .add_attention(ab.ScaledDotProductAttention())
        .add_custom(step)
        .mark()
        .add_attention(ab.ScaledDotProductAttention())
        .add_custom(step)
        .add_residual()
        .add_custom(step)
        .run(x)
        for step in (keeps, makes)
    ]
    np.testing.assert_array_equal(*runs)
    assert not np.shares_memory(runs[0], room)
