"""Builders and presets: every option acts, and what is built is what a constructor makes."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.sdk.builder import KINDS

RNG = np.random.default_rng(3)
X = (0.12 * RNG.standard_normal((9, 12))).astype(np.float32)
TRAINING = {"training": True, "seed": 1}


def builder(kind: str) -> Any:
    """A builder with what its kind needs, and so that each of its options shows."""
    base = ab.AttentionBuilder(12)
    return {
        "scaled_dot": base.scaled_dot,
        "multi_head": lambda: base.multi_head(2),
        "cross": lambda: base.cross(2),
        "flash": base.flash,
        "sliding": lambda: base.sliding(2),
        "linear": lambda: base.linear(16),
        "sparse": lambda: base.local_global(1, 1),
        "hyperbolic": base.hyperbolic,
        "moe": lambda: base.moe(3, 2),
    }[kind]()


# Option -> (value, training only, what is expected instead of another output).
VALUES: dict[str, tuple[Any, bool, type[Exception] | None]] = {
    "d_model": (6, False, ab.DimensionMismatchError),
    "max_seq_len": (8, False, ab.InputTooLargeError),
    "scale": (2.5, False, None),
    "dropout": (0.5, True, None),
    "causal": (True, False, None),
    "eps": (1.0, False, None),
    "num_heads": (3, False, None),
    "seed": (7, False, None),
    "use_bias": (False, False, None),
    "window": (3, False, None),
    "temperature": (0.3, False, None),
    "map": ("expmap0", False, None),
    "expert_capacity": (0.4, True, None),
    "jitter_noise": (0.9, True, None),
    "top_k": (1, False, None),
    "rotary": (100.0, False, None),
}


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, name) for kind, row in KINDS.items() for name in row.takes if name in VALUES]
)
def test_every_option_changes_the_result(kind: str, option: str) -> None:
    value, training, error = VALUES[option]
    made = builder(kind)
    if option == "top_k" and kind == "sparse":
        made, value = ab.AttentionBuilder(12).sparse("top_k").top_k(5), 2
    changed = getattr(made, option)(value).build()
    if option == "use_bias":  # zero at first
        assert "b_q" in made.build().parameters()
        assert "b_q" not in changed.parameters()
        return
    call = TRAINING if training else {}
    before = made.build().forward(X, X, X, **call).output
    if error is not None:
        with pytest.raises(error):
            changed.forward(X, X, X, **call)
        return
    assert np.abs(changed.forward(X, X, X, **call).output - before).max() > 1e-5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ab.flash(12, 3), ab.flash(12, 4)),
        (ab.linear(12), ab.linear(12, 16)),
        (ab.linear(12, 8), ab.linear(12, 16)),
        (ab.local_global(12, 1), ab.local_global(12, 2)),
        (ab.local_global(12, 1, 1), ab.local_global(12, 1, 2)),
        (ab.AttentionBuilder(12).sparse("block").block_size(2), ab.AttentionBuilder(12).sparse("block").block_size(3)),
        (ab.AttentionBuilder(12).sparse("strided"), ab.AttentionBuilder(12).sparse("strided").block_size(2)),
        (ab.hyperbolic(12), ab.hyperbolic(12, -0.3)),
        (ab.moe(12, 2), ab.moe(12, 3)),
        (ab.moe(12, 3, 1), ab.moe(12, 3, 2)),
        (ab.multi_head(12, 2), ab.multi_head(12, 3)),
    ],
    ids=str,
)
def test_arguments_of_kinds_change_what_is_built(one: Any, other: Any) -> None:
    a, b = one.build(), other.build()
    assert a.config != b.config
    if not isinstance(a, ab.FlashAttention):  # blocks are how it is computed, not what
        assert np.abs(a.forward(X, X, X).output - b.forward(X, X, X).output).max() > 1e-6


def test_every_option_is_told_of() -> None:
    own = {"pattern", "feature_map", "num_features", "block_size", "num_global_tokens", "curvature", "num_experts"}
    assert {name for row in KINDS.values() for name in row.takes} == VALUES.keys() | own


@pytest.mark.parametrize(
    ("made", "want"),
    [
        (ab.AttentionBuilder(12), ab.ScaledDotProductAttention(d_model=12)),
        (ab.AttentionBuilder(12).num_heads(3), ab.MultiHeadAttention(12, 3)),
        (
            ab.AttentionBuilder().d_model(12).num_heads(4).use_bias(True).scale(0.1).max_seq_len(1024).eps(1e-6),
            ab.MultiHeadAttention(12, 4, scale=0.1, max_seq_len=1024, eps=1e-6),
        ),
        (
            ab.AttentionBuilder(12).multi_head(6).dropout(0.1).causal(True),
            ab.MultiHeadAttention(12, 6, dropout=0.1, causal=True),
        ),
        (ab.multi_head(12, 3).rotary(50.0), ab.MultiHeadAttention(12, 3, rotary=ab.RotaryEmbedding(4, base=50.0))),
        (ab.scaled_dot(12).rotary(), ab.ScaledDotProductAttention(d_model=12, rotary=ab.RotaryEmbedding(12))),
        (ab.flash(12, 128).causal(True), ab.FlashAttention(128, d_model=12, causal=True)),
        (ab.linear(12, 16), ab.LinearAttention("favor", num_features=16, d_model=12)),
        (
            ab.local_global(12, 2, 3),
            ab.SparseAttention("local_global", window=2, num_global_tokens=3, d_model=12),
        ),
        (ab.hyperbolic(12, -0.5).temperature(2.0), ab.HyperbolicAttention(-0.5, temperature=2.0, d_model=12)),
        (
            ab.moe(12, 3, 2).expert_capacity(1.5).jitter_noise(0.01).num_heads(2),
            ab.MixtureOfExpertsAttention(
                [ab.MultiHeadAttention(12, 2, seed=seed) for seed in (1, 2, 3)],
                d_model=12,
                top_k=2,
                capacity_factor=1.5,
                jitter=0.01,
            ),
        ),
        (ab.AttentionPreset.BERT.builder(12), ab.MultiHeadAttention(12, 12, dropout=0.1)),
        (ab.AttentionPreset.GPT.builder(12), ab.MultiHeadAttention(12, 12, dropout=0.1, causal=True)),
        (
            ab.AttentionPreset.LONGFORMER.builder(12),
            ab.SparseAttention("local_global", window=256, num_global_tokens=1, d_model=12),
        ),
        (ab.AttentionPreset.PERFORMER.builder(12), ab.LinearAttention("favor", num_features=256, d_model=12)),
        (ab.AttentionPreset.FLASH_OPTIMIZED.builder(12), ab.FlashAttention(128, d_model=12)),
        (
            ab.AttentionPreset.SWITCH_TRANSFORMER.builder(12),
            ab.MixtureOfExpertsAttention(
                [ab.MultiHeadAttention(12, 1, seed=seed) for seed in range(1, 9)], d_model=12, top_k=2
            ),
        ),
        (ab.AttentionPreset.HYPERBOLIC_TREE.builder(12), ab.HyperbolicAttention(-1.0, d_model=12)),
        (ab.AttentionPreset.T5.builder(12), ab.CrossAttention(12, 12, dropout=0.1)),
        (ab.AttentionPreset.VIT.builder(12), ab.MultiHeadAttention(12, 12)),
        (ab.AttentionPreset.SPARSE_TRANSFORMER.builder(12), ab.SparseAttention("strided", d_model=12)),
        (ab.for_sequences(16, 9), ab.MultiHeadAttention(16, 8, dropout=0.1, max_seq_len=9)),
        (ab.for_generation(16, 9), ab.MultiHeadAttention(16, 8, dropout=0.1, causal=True, max_seq_len=9)),
        (ab.for_vision(16, 56), ab.MultiHeadAttention(16, 8, max_seq_len=17)),
        (ab.for_sequences(12, 512), ab.MultiHeadAttention(12, 12, dropout=0.1, max_seq_len=512)),
        (
            ab.for_sequences(12, 513),
            ab.SparseAttention("local_global", window=256, num_global_tokens=1, d_model=12, max_seq_len=513),
        ),
        (
            ab.for_sequences(12, 4097),
            ab.LinearAttention("favor", num_features=256, d_model=12, max_seq_len=4097),
        ),
        (
            ab.for_generation(12, 2048),
            ab.MultiHeadAttention(12, 12, dropout=0.1, causal=True, max_seq_len=2048),
        ),
        (ab.for_generation(12, 2049), ab.FlashAttention(128, d_model=12, causal=True, max_seq_len=2049)),
        (ab.for_graphs(16), ab.MultiHeadAttention(16, 8)),
        (ab.for_graphs(12), ab.MultiHeadAttention(12, 6)),
        (ab.for_graphs(12, hierarchical=True), ab.HyperbolicAttention(d_model=12)),
        (ab.for_large_scale(12), ab.FlashAttention(128, d_model=12)),
        (ab.for_vision(12, 56), ab.MultiHeadAttention(12, 12, max_seq_len=17)),
        (
            ab.for_moe(12, 2, 1),
            ab.MixtureOfExpertsAttention([ab.MultiHeadAttention(12, 1, seed=s) for s in (1, 2)], d_model=12, top_k=1),
        ),
        (ab.from_model_name("GPT2", 12), ab.MultiHeadAttention(12, 12, dropout=0.1, causal=True)),
        (ab.GraphAttentionBuilder(12, 5).version("v1"), ab.GraphAttention(12, 5, version="v1")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_built_is_what_is_constructed(made: Any, want: ab.Attention) -> None:
    built = made.build()
    assert type(built) is type(want)
    assert built.config == want.config
    x = X if built.d_model in (None, 12) else np.pad(X, ((0, 0), (0, 4)))
    for call in ({}, TRAINING):
        np.testing.assert_array_equal(built.forward(x, x, x, **call).output, want.forward(x, x, x, **call).output)


def test_every_pattern_that_messages_list_is_built() -> None:
    with pytest.raises(ab.InvalidConfigError, match=r"pattern must be one of .*; got 'near'") as caught:
        ab.AttentionBuilder().sparse("near").build()
    known = str(caught.value).removeprefix("pattern must be one of ").split(";")[0].split(", ")
    documented = ab.AttentionBuilder.sparse.__doc__ or ""
    for pattern in known:
        assert f'"{pattern}"' in documented
        assert ab.AttentionBuilder().sparse(pattern).build().config["pattern"] == pattern
    pairs = ab.SparseMask.window((9, 9), 1)
    got = ab.AttentionBuilder().sparse("mask").build().forward(X, X, X, pairs).output
    np.testing.assert_array_equal(got, ab.SparseAttention("local", window=1).forward(X, X, X).output)


def test_every_preset_is_told_of() -> None:
    names = "BERT GPT LONGFORMER PERFORMER FLASH_OPTIMIZED SWITCH_TRANSFORMER HYPERBOLIC_TREE T5 VIT SPARSE_TRANSFORMER"
    assert [preset.name for preset in ab.AttentionPreset] == names.split()
    for preset in ab.AttentionPreset:
        assert preset.description
        assert pickle.loads(pickle.dumps(preset)) is preset
        assert ab.AttentionPreset(preset.name.lower().replace("_", "-")) is preset
        assert ab.from_model_name(preset.name, 24) == preset.builder(24)
        assert ab.from_model_name(preset.name.lower().replace("_", "-"), 24) == preset.builder(24)


def test_a_builder_stays_as_it_is() -> None:
    base = ab.AttentionBuilder(12)
    causal = base.multi_head(2).causal(True)
    assert base.build().config == ab.ScaledDotProductAttention(d_model=12).config
    assert causal.dropout(0.5) != causal
    assert causal.build().dropout == 0.0
    assert repr(causal) == "AttentionBuilder().multi_head().d_model(12).num_heads(2).causal(True)"
    assert repr(ab.GraphAttentionBuilder(3)) == "GraphAttentionBuilder(in_dim=3)"


def test_settings_of_a_config() -> None:
    config = ab.AttentionConfig(d_model=12, num_heads=3, dropout=0.2, use_bias=False, scale=0.5, max_seq_len=9)
    made = ab.AttentionBuilder().config(config)
    assert made.build_multi_head().config == ab.MultiHeadAttention.from_config(config).config
    assert made.dropout(0.3).build().dropout == 0.3
    assert made.eps(0.5).build().config["eps"] == 0.5
    assert repr(made) == f"AttentionBuilder().config({config!r})"
    assert made.build().config == made.build_multi_head().config
    assert ab.AttentionBuilder().config(config).cross().build().config == ab.CrossAttention.from_config(config).config


def test_a_config_at_its_defaults_goes_with_every_kind() -> None:
    config = ab.AttentionConfig()
    for kind in ("scaled_dot", "flash", "linear", "multi_head", "cross", "sparse", "hyperbolic", "moe", "sliding"):
        made = getattr(ab.AttentionBuilder(), kind)().config(config).build()
        assert made.d_model == 512
        assert made.max_seq_len == 512
    dense = ab.AttentionConfig(d_model=16, dropout=0.3, scale=0.5, max_seq_len=9, causal=True)
    made = ab.AttentionBuilder().config(dense)
    assert made.build_scaled_dot_product().config == ab.ScaledDotProductAttention.from_config(dense).config
    linear = ab.AttentionConfig(d_model=16, eps=1e-3, causal=True)
    assert ab.AttentionBuilder().linear().config(linear).build().config["eps"] == 1e-3


@pytest.mark.parametrize(
    ("setting", "kind", "message"),
    [
        (
            {"num_heads": 4},
            "scaled_dot",
            "num_heads = 8, its default, or 1, with scaled_dot, got 4; cross, moe, multi_head have",
        ),
        (
            {"use_bias": False},
            "flash",
            "use_bias = True, its default, with flash, got False; cross, multi_head have it",
        ),
        (
            {"scale": 0.5},
            "hyperbolic",
            "scale = None, its default, with hyperbolic, got 0.5; cross, flash, linear, moe",
        ),
        (
            {"causal": True},
            "cross",
            "causal = False, its default, with cross, got True; flash, hyperbolic, linear, moe",
        ),
        (
            {"dropout": 0.3},
            "linear",
            "dropout = 0.1, its default, or 0.0, with linear, got 0.3; cross, flash, hyperbolic, moe",
        ),
        ({"eps": 1e-3}, "sparse", "eps = 1e-06, its default, with sparse, got 0.001; linear has it$"),
        (
            {"eps": 1e-3},
            "multi_head",
            r"eps = 1e-06, its default, with multi_head, got 0.001; linear has it; eps\(0.001\) sets that of mult",
        ),
    ],
    ids=str,
)
def test_a_config_that_a_kind_has_no_use_for(setting: dict[str, Any], kind: str, message: str) -> None:
    made = getattr(ab.AttentionBuilder(), kind)().config(ab.AttentionConfig(**setting))
    with pytest.raises(ab.InvalidConfigError, match=f"config must have {message}"):
        made.build()


DENSE = (ab.ScaledDotProductAttention, ab.FlashAttention, ab.SlidingWindowAttention)


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        *[
            (
                kind,
                {"num_heads": 4},
                f"num_heads = 8, its default, or 1, with {kind.__name__}, got 4; .*MultiHeadAttention",
            )
            for kind in (*DENSE, ab.LinearAttention, ab.MixtureOfExpertsAttention)
        ],
        *[
            (
                kind,
                {"use_bias": False},
                f"use_bias = True, .* with {kind.__name__}, .*; CrossAttention, MultiH.* have it$",
            )
            for kind in (*DENSE, ab.LinearAttention, ab.MixtureOfExpertsAttention)
        ],
        *[
            (
                kind,
                {"eps": 0.5},
                rf"eps = 1e-06, .* got 0.5; LinearAttention has it; {kind.__name__}\(..., eps=0.5\) has",
            )
            for kind in (*DENSE, ab.MultiHeadAttention)
        ],
        (
            ab.CrossAttention,
            {"eps": 0.5},
            "eps = 1e-06, its default, with CrossAttention, got 0.5; LinearAttention has it$",
        ),
        (ab.CrossAttention, {"causal": True}, "causal = False, its default, with CrossAttention, got True; Flash"),
        (
            ab.LinearAttention,
            {"dropout": 0.3},
            "dropout = 0.1, its default, or 0.0, with LinearAttention, got 0.3; Cross",
        ),
        (
            ab.MixtureOfExpertsAttention,
            {"scale": 3.0},
            "scale = None, its default, with Mix.*, got 3.0; Cross.* have it$",
        ),
        (ab.MixtureOfExpertsAttention, {"eps": 0.5}, "eps = 1e-06, .* got 0.5; LinearAttention has it$"),
    ],
    ids=str,
)
def test_a_config_that_a_mechanism_has_no_use_for(kind: Any, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ab.InvalidConfigError, match=f"^config must have {message}"):
        kind.from_config(ab.AttentionConfig(d_model=16, **setting))


def test_a_config_may_say_what_is_so_without_heads_or_dropout() -> None:
    config = ab.AttentionConfig(d_model=6, num_heads=1, dropout=0.0)
    for kind in (*DENSE, ab.LinearAttention, ab.MixtureOfExpertsAttention):
        made = kind.from_config(config)
        assert (made.d_model, made.dropout) == (6, 0.0)
    assert ab.AttentionBuilder().linear().config(config).build().d_model == 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ab.MultiHeadAttention.from_config(None), "an AttentionConfig for MultiHeadAttention, got None"),
        (
            lambda: ab.ScaledDotProductAttention.from_config({}),
            "an AttentionConfig for ScaledDotProductAttention, got {}",
        ),
        (
            lambda: ab.LinearAttention.from_config(ab.SparseAttentionConfig()),
            "an Att.* for LinearAttention, got SparseAtt",
        ),
        (lambda: ab.CrossAttention.from_config(3), "an AttentionConfig for CrossAttention, got 3"),
        (lambda: ab.MixtureOfExpertsAttention.from_config([]), "an AttentionConfig for MixtureOfExpertsAttention, got"),
        (
            lambda: ab.SparseAttention.from_config(ab.AttentionConfig()),
            r"a SparseAttentionConfig for SparseAttention, got AttentionConfig\(",
        ),
        (
            lambda: ab.GraphAttention.from_config(ab.AttentionConfig(), 8),
            r"a GraphAttentionConfig for GraphAttention, got AttentionConfig\(",
        ),
    ],
)
def test_what_is_no_config_of_a_mechanism(call: Callable[[], Any], message: str) -> None:
    remedy = (
        "SparseAttention takes SparseAttentionConfig, GraphAttention GraphAttentionConfig, all others AttentionConfig"
    )
    with pytest.raises(ab.InvalidConfigError, match=f"^config must be {message}.*; {remedy}$"):
        call()


MADE = ab.AttentionBuilder(12).scaled_dot()
EYE = np.eye(3, 12, dtype=np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ab.AttentionVectorBridge(12, attention=MADE),
        lambda: ab.attention_scores(EYE[0], EYE, MADE),
        lambda: ab.attention(EYE[0], EYE, EYE, MADE),
        lambda: ab.AttentionGraph(nx.path_graph(3), missing="skip", attention=MADE),
        lambda: ab.AttentionRerank(MADE),
        lambda: ab.AttentionPipeline().add_attention(MADE),
        lambda: ab.transformer_block(MADE, 0.1),
        lambda: ab.prenorm_transformer_block(MADE),
        lambda: ab.GraphRoPE(12).forward(MADE, EYE, EYE, EYE, np.zeros((3, 3), int)),
        lambda: ab.MixtureOfExpertsAttention([MADE], top_k=1),
        lambda: ab.register_attention("forgotten", attention=MADE),
        lambda: ab.connect(types={"forgotten": MADE}),
    ],
)
def test_a_forgotten_build(call: Callable[[], Any]) -> None:
    message = (
        r"^attention must be an attention mechanism, got AttentionBuilder\(\).scaled_dot\(\).*; build\(\) makes one$"
    )
    with pytest.raises(ab.InvalidConfigError, match=message):
        call()


def test_a_config_of_a_named_build() -> None:
    made = ab.AttentionBuilder().config(ab.AttentionConfig(d_model=64, num_heads=4))
    with pytest.raises(ab.InvalidConfigError, match="with scaled_dot, got 4"):
        made.build_scaled_dot_product()
    assert made.build_multi_head().num_heads == 4


def test_the_later_call_wins() -> None:
    config = ab.AttentionConfig(d_model=24, dropout=0.2)
    assert ab.AttentionBuilder(12).dropout(0.3).config(config).build().dropout == 0.2
    assert ab.AttentionBuilder(12).config(config).build().d_model == 24
    assert ab.AttentionBuilder().config(config).d_model(12).num_heads(2).build().config["num_heads"] == 2
    kept = ab.AttentionBuilder(12).num_heads(3).config(ab.AttentionConfig(dropout=0.2)).build()  # not told: 3 stays
    assert isinstance(kept, ab.MultiHeadAttention)
    assert (kept.d_model, kept.num_heads, kept.dropout) == (12, 3, 0.2)
    both = ab.AttentionBuilder().config(config).config(ab.AttentionConfig(causal=True, dropout=0.4)).build()
    assert (both.d_model, both.causal, both.dropout) == (24, True, 0.4)
    dropped, defaults = ab.AttentionConfig(), ab.AttentionConfig(d_model=512, dropout=0.1, causal=False)  # given: told
    made = ab.AttentionBuilder(48).num_heads(2).dropout(0.4).causal(True).config(defaults).build()
    assert (made.d_model, made.dropout, made.causal, made.config["num_heads"]) == (512, 0.1, False, 2)
    again = ab.AttentionBuilder().config(config).config(pickle.loads(pickle.dumps(defaults))).build()
    assert (again.d_model, again.dropout) == (512, 0.1)
    for equal in (
        ab.AttentionConfig.from_json(ab.AttentionConfig(dropout=0.2).to_json()),
        replace(dropped, dropout=0.2),
    ):
        kept = ab.AttentionBuilder(12).num_heads(3).causal(True).config(equal).build()  # nobody has chosen the others
        assert (equal, kept.d_model, kept.causal, kept.dropout) == (ab.AttentionConfig(dropout=0.2), 12, True, 0.2)
    eps = ab.AttentionBuilder().multi_head().config(ab.AttentionConfig(eps=1e-3)).eps(0.5).build()
    assert eps.config["eps"] == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"version": "v1"},
        {"negative_slope": 0.7},
        {"aggregation": "max"},
        {"normalize": False},
        {"temperature": 0.3},
        {"seed": 4},
        {"causal": True},
        {"edge_dim": 2},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_options_of_graph_attention(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    base = ab.GraphAttentionBuilder(12)
    made = getattr(base, name)(value).build()
    assert made.config == ab.GraphAttention(12, **change).config
    call: dict[str, Any] = TRAINING if name == "dropout" else {}
    edges = {"edge_features": RNG.standard_normal((9, 9, 2))} if name == "edge_dim" else {}
    before = base.build().forward(X, X, X, **call).output
    assert np.abs(made.forward(X, X, X, **call, **edges).output - before).max() > 1e-6


def test_a_config_of_graphs() -> None:
    config = ab.GraphAttentionConfig(aggregation="mean", negative_slope=0.3)
    made = ab.GraphAttentionBuilder(12, 4).config(config)
    assert made.build().config == ab.GraphAttention.from_config(config, 12, 4).config
    assert made.aggregation("max").build().aggregation == "max"
    with pytest.raises(ab.InvalidConfigError, match=r"negative_slope = 0\.2, its default, without in_dim, got 0\.3"):
        ab.GraphAttentionBuilder().config(config).build()
    with pytest.raises(ab.InvalidConfigError, match="edge_dim must go with in_dim"):
        ab.GraphAttentionBuilder().config(ab.GraphAttentionConfig(use_edge_features=True, edge_dim=2)).build()
    plain = ab.GraphAttentionConfig(aggregation="mean")
    assert ab.GraphAttentionBuilder().config(plain).build().config == ab.GraphAttention(aggregation="mean").config
    assert ab.GraphAttentionBuilder(12).aggregation("max").config(config).build().aggregation == "mean"
    assert ab.GraphAttentionBuilder(12).normalize(False).config(config).build().normalize is False
    assert repr(made).endswith(f").config({config!r})")
    with pytest.raises(ab.InvalidConfigError, match="seed must go with in_dim, without which there are no parameters"):
        ab.GraphAttentionBuilder().seed(3).build()
    assert ab.GraphAttentionBuilder(12).seed(3).build().config["seed"] == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ab.moe(12).expert_capacity(0), ab.InvalidConfigError, r"expert_capacity must be a finite number > 0"),
        (lambda: ab.moe(12).jitter_noise(1.0), ab.InvalidConfigError, r"jitter_noise must be in \[0, 1\), got 1.0"),
        (
            lambda: ab.AttentionBuilder(24).multi_head(8).rotary().build(),
            ab.InvalidConfigError,
            r"rotary must go with heads of even dimension, d_model=24, num_heads=8 gives 3",
        ),
        (
            lambda: ab.AttentionBuilder(5).rotary().build(),
            ab.InvalidConfigError,
            r"rotary must go with heads of even dimension, d_model=5 gives 5",
        ),
        (
            lambda: ab.AttentionBuilder(12).multi_head(2).flash(),
            ab.InvalidConfigError,
            r"flash conflicts with multi_head",
        ),
        (
            lambda: ab.flash(12).num_heads(3).build(),
            ab.InvalidConfigError,
            r"num_heads must be left out with flash; cross, moe, multi_head have it",
        ),
        (lambda: ab.flash(12).build_multi_head(), ab.InvalidConfigError, r"multi_head conflicts with flash"),
        (
            lambda: ab.AttentionBuilder(12).cross(2).causal(True).build(),
            ab.InvalidConfigError,
            r"causal must be left out with cross; ",
        ),
        (
            lambda: ab.multi_head(12, 5).build(),
            ab.DimensionMismatchError,
            r"^d_model 12 must be divisible by num_heads 5; 4 would",
        ),
        (
            lambda: ab.AttentionBuilder(100).cross().build(),
            ab.DimensionMismatchError,
            r"^d_model 100 must be divisible by num_heads 8; 10 would",
        ),
        (
            lambda: ab.AttentionBuilder(12).rotary(True),
            ab.InvalidConfigError,
            r"^base of rotary must be a finite number > 1, got True; rotary\(\) takes 10000.0, the usual one$",
        ),
        (
            lambda: ab.AttentionPreset.BERT.builder(100).build(),
            ab.DimensionMismatchError,
            r"100 must be divisible by num_heads 12",
        ),
        (
            lambda: ab.AttentionBuilder().multi_head(2).build(),
            ab.InvalidConfigError,
            r"d_model must be given to build mul",
        ),
        (lambda: ab.AttentionBuilder(0), ab.InvalidConfigError, r"d_model must be a whole number >= 1, got 0"),
        (lambda: ab.AttentionBuilder(12).dropout(1.0).build(), ab.InvalidConfigError, r"dropout must be in \[0, 1\)"),
        (
            lambda: ab.AttentionBuilder(12).config({}),
            ab.InvalidConfigError,
            r"config must be an AttentionConfig for AttentionBuilder, got {}; SparseAttention takes Spa.*, all others",
        ),
        (
            lambda: ab.GraphAttentionBuilder().config({}),
            ab.InvalidConfigError,
            r"config must be a GraphAttentionConfig for GraphAttentionBuilder, got {}; ",
        ),
        (lambda: ab.AttentionPreset("gpt9"), ab.InvalidConfigError, r"preset must be one of BERT, .*; got 'gpt9'"),
        (lambda: ab.AttentionPreset(3), ab.InvalidConfigError, r"preset must be one of BERT, .*; got 3"),
        (lambda: ab.from_model_name("gpt9", 12), ab.InvalidConfigError, r"name must be one of .*gpt2.*; got 'gpt9'"),
        (lambda: ab.from_model_name(3, 12), ab.InvalidConfigError, r"name must be one of .*; got 3"),
        (lambda: ab.for_vision(12, 15), ab.InvalidConfigError, r"patch_size must divide image_size 224, got 15"),
        (lambda: ab.for_sequences(12, 0), ab.InvalidConfigError, r"max_len must be a whole number >= 1, got 0"),
        (lambda: ab.for_generation(12, -1), ab.InvalidConfigError, r"context_length must be a whole number >= 1"),
        (lambda: ab.for_graphs(12, "yes"), ab.InvalidConfigError, r"hierarchical must be True or False, got 'yes'"),
        (
            lambda: ab.AttentionBuilder().scaled_dot().rotary().build(),
            ab.InvalidConfigError,
            r"d_model must be given with rotary; AttentionBuilder\(768\) does",
        ),
        (
            lambda: ab.linear(12).rotary().build(),
            ab.InvalidConfigError,
            r"rotary must be left out with linear; flash, multi_head, scaled_dot have it",
        ),
        (lambda: ab.flash(12).map("ball").build(), ab.InvalidConfigError, r"left out with flash; hyperbolic has it"),
        (lambda: ab.moe(12, 0).build(), ab.InvalidConfigError, r"num_experts must be a whole number >= 1, got 0"),
        (
            lambda: ab.moe(12, 2, 3).build(),
            ab.InvalidConfigError,
            r"top_k must be at most the number of experts, 2, got 3",
        ),
    ],
)
def test_what_cannot_be_built(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
