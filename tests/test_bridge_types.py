"""Every row of the registry inside the bridge: the same numbers as by value, kept on disk, whatever the path."""

import dataclasses
import json
import pickle
import threading
import warnings

import numpy as np
import pytest

import attnbridge as ab
from attnbridge import scoring
from attnbridge.errors import IndexCorruptError
from attnbridge.integrations import snapshot
from attnbridge.integrations.options import packed
from attnbridge.mechanisms.standard import SCALED_DOT
from attnbridge.scoring import REGISTRY

N, D = 61, 6


def arrays(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


HEADS = arrays(0, W_q=(4, D), W_k=(4, D), b_q=4, b_k=4)
GATV2 = arrays(1, W=(5, D), U=(5, D), a=5)

# Options of each type with which everything below is done; a new row must be listed.
CASES = {
    "scaled_dot": [{}, {"scale": 3.0}],
    "flash_v2": [{}],
    "multi_head": [
        {"num_heads": 3},
        {"num_heads": 3, "score": "weights"},
        {"num_heads": 2, "parameters": HEADS},
        {"num_heads": 2, "parameters": HEADS, "score": "weights"},
    ],
    "linear": [{}, {"feature_map": "favor", "num_features": 16}],
    "gat": [{}, {"parameters": GATV2}],
    "sparse": [{}, {"top_k": 11}],
    "moe": [{}, {"experts": ["scaled_dot", ["multi_head", {"num_heads": 2}]], "top_k": 2, "router_seed": 3}],
    "cross": [{}, {"scale": 2.0, "temperature": 0.5}],
    "poincare": [{}, {"temperature": 0.3, "map": "expmap0"}],
}
# Types that need more than vectors have tests of their own.
ELSEWHERE = {"sliding"}

PRESENT = [
    pytest.param(name, options, id=f"{name}-{number}")
    for name in REGISTRY
    if name in CASES
    for number, options in enumerate(CASES[name])
]


def test_every_row_is_tried():
    assert set(REGISTRY) <= set(CASES) | ELSEWHERE


def vectors(seed=5, count=N):
    rows = 0.25 * np.random.default_rng(seed).standard_normal((count, D))
    return (rows / np.maximum(1.0, 1.2 * np.linalg.norm(rows, axis=1, keepdims=True))).astype(np.float32)


def filled(name, options, *, metric=None, **settings):
    """Return a bridge of rows 0 to N - 1 with a payload column, none of them unit vectors."""
    if REGISTRY[name].metric is not None:
        metric = None
    bridge = ab.AttentionVectorBridge(D, metric, name, **{"index": "exact"} | settings, **options)
    bridge.add(vectors(), payload={"place": list(range(N))})
    return bridge


def by_value(bridge, query, given, rows=None):
    """Return ids, logits and weights over the rows by the functional API, best first, -inf left out."""
    keys, ids = vectors(), np.arange(N) if rows is None else np.asarray(rows)
    query, keys = np.float32(query), keys[ids]
    if bridge.config["metric"] == "cosine":
        query, keys = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, keys))
    name, options = bridge.config["attention"], bridge.config["options"] | given
    logits = ab.attention_logits(query, keys, name, **options)
    weights = ab.attention_scores(query, keys, name, **options)
    order = np.lexsort((ids, -logits))
    order = order[logits[order] > -np.inf]
    return ids[order].tolist(), logits[order], weights[order]


QUERIES = vectors(9, 7)


# ---- against the functional API


@pytest.mark.parametrize("index", ["exact", "hnsw"])
@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize(("name", "options"), PRESENT)
def test_search_equals_the_functional_api(name, options, metric, index):
    bridge = filled(name, options, metric=metric, index=index)
    for query in QUERIES:
        ids, logits, weights = by_value(bridge, query, options)
        hits = bridge.search(query, k=N, candidates=N)
        assert hits.ids == ids
        np.testing.assert_allclose(hits.scores, logits, rtol=1e-6, atol=2e-6)
        np.testing.assert_allclose(hits.weights, weights, rtol=1e-5, atol=1e-7)
        assert hits.weights.sum() == pytest.approx(1.0)
        assert hits.candidates == N
        assert hits.parts[name].tolist() == hits.scores.tolist()
        assert bridge.search(query, k=3, candidates=N).ids == ids[:3]
        assert bridge.search(query, k=3, candidates=N, offset=2).ids == ids[2:5]


@pytest.mark.parametrize(("name", "options"), PRESENT)
def test_filters_are_filters_of_the_candidates(name, options):
    bridge = filled(name, options, metric="ip")
    rows = list(range(0, N, 3))
    for query in QUERIES[:3]:
        ids, logits, _ = by_value(bridge, query, options, rows)
        for filter in ({"filter": rows}, {"where": "place % 3 = 0"}):
            hits = bridge.search(query, k=N, candidates=N, **filter)
            assert hits.ids == ids
            np.testing.assert_allclose(hits.scores, logits, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(("name", "options"), PRESENT)
def test_batches_and_threads_change_nothing(name, options):
    bridge = filled(name, options, index="hnsw")
    queries = vectors(11, 40)
    alone = [bridge.search(query, k=9, candidates=30) for query in queries]
    for threads in (1, 2):
        assert bridge.search_batch(queries, k=9, candidates=30, threads=threads) == alone


class Nothing:
    """A stage that changes nothing, so that the staged path can be held to the plain one."""

    name, requires_tokens = "nothing", False

    def apply(self, pool):
        """Leave the pool as it is."""


@pytest.mark.parametrize(("name", "options"), PRESENT)
def test_the_staged_path_ranks_alike(name, options):
    bridge = filled(name, options)
    for query in QUERIES:
        plain = bridge.search(query, k=20, candidates=N)
        staged = bridge.search(query, k=20, candidates=N, rerank=Nothing())
        assert staged.ids == plain.ids
        assert staged.candidates == plain.candidates
        assert staged.ranks_before.tolist() == plain.ranks_before.tolist()
        np.testing.assert_allclose(staged.scores, plain.scores, rtol=1e-12)
        np.testing.assert_allclose(staged.distances, plain.distances, rtol=1e-6, atol=1e-6)
        expanded = bridge.search(query, k=5, rerank=ab.QueryExpansion(top=3, research=True))
        assert np.isfinite(expanded.scores).all()
        assert len(expanded) > 0


# ---- kept


@pytest.mark.parametrize(("name", "options"), PRESENT)
def test_what_is_saved_or_pickled_ranks_alike(name, options, tmp_path):
    bridge = filled(name, options, index="hnsw")
    bridge.save(tmp_path / "index")
    opened = ab.AttentionVectorBridge.open(tmp_path / "index")
    lazy = ab.AttentionVectorBridge.open(tmp_path / "index", verify="lazy", mmap=False)
    copied = pickle.loads(pickle.dumps(bridge))
    for query in QUERIES:
        want = bridge.search(query, k=9)
        assert opened.search(query, k=9) == want
        assert lazy.search(query, k=9) == want
        assert copied.search(query, k=9) == want
    assert opened.config == bridge.config
    assert json.loads(json.dumps(bridge.config, allow_nan=False))["options"] == bridge.config["options"]
    bridge.save(tmp_path / "index")
    assert not opened._home.is_current()
    assert opened.reload()
    assert opened.search(QUERIES[0], k=9) == bridge.search(QUERIES[0], k=9)


def test_parameters_are_files_with_checksums(tmp_path):
    bridge = filled("multi_head", {"num_heads": 2, "parameters": HEADS})
    assert bridge.config["options"]["parameters"] == {"W_q": [4, D], "W_k": [4, D], "b_q": [4], "b_k": [4]}
    bridge.save(tmp_path)
    (folder,) = tmp_path.glob("snapshot-*")
    files = sorted(path.name for path in folder.glob("option_*"))
    assert files == [f"option_{number}.npy" for number in range(4)]
    assert np.array_equal(np.load(folder / "option_0.npy"), HEADS["W_q"])
    path = folder / "option_1.npy"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IndexCorruptError, match=r"option_1\.npy"):
        ab.AttentionVectorBridge.open(tmp_path)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        ({"$array": 99}, "it lists no option_99.npy"),
        ({"$array": -1}, "an option's array has -1 for a number or axes"),
        ({"$array": True}, "an option's array has True for a number or axes"),
        ({"axes": 10**9}, "an option's array has 1000000000 for a number or axes"),
        ({"axes": 1}, "it must have 1 axes"),
        ({"dtype": "|O"}, r"an option's array is of '\|O', not of <f4 or <f8"),
        ({"dtype": "<f8"}, "it must hold float64 in C order"),
    ],
)
def test_a_manifest_that_lies_about_arrays_is_found_out(leaf, message, tmp_path):
    bridge = filled("multi_head", {"num_heads": 2, "parameters": HEADS})
    about = bridge._about(bridge._state.store)
    options, files = packed(bridge._options)
    options["parameters"]["W_q"] |= leaf
    files |= bridge._state.store.files()
    snapshot.write_snapshot(tmp_path, "AttentionVectorBridge", about | {"options": options}, files)
    with pytest.raises(IndexCorruptError, match=message):
        ab.AttentionVectorBridge.open(tmp_path)


def test_what_has_no_form_on_the_disk_is_refused(tmp_path):
    bridge = filled("scaled_dot", {})
    bridge._options["scale"] = object()
    with pytest.raises(
        ab.InvalidConfigError, match="option scale must be numbers, texts or arrays to be saved, got obj"
    ):
        bridge.save(tmp_path)


# ---- options


# For each type and option another value, and what it goes with.
OTHER = {
    ("scaled_dot", "scale"): ({}, 3.0),
    ("flash_v2", "scale"): ({}, 3.0),
    ("multi_head", "num_heads"): ({"scale": 1.0, "num_heads": 2}, 3),
    ("multi_head", "scale"): ({"num_heads": 2}, 3.0),
    ("multi_head", "score"): ({"num_heads": 2}, "weights"),
    ("multi_head", "parameters"): ({"num_heads": 2}, HEADS),
    ("linear", "feature_map"): ({}, "favor"),
    ("linear", "num_features"): ({"feature_map": "favor"}, 16),
    ("linear", "feature_seed"): ({"feature_map": "favor"}, 5),
    ("linear", "scale"): ({}, 3.0),
    ("gat", "temperature"): ({}, 1.0),
    ("gat", "negative_slope"): ({"parameters": GATV2}, 0.7),
    ("gat", "parameters"): ({}, GATV2),
    ("sparse", "top_k"): ({}, 3),
    ("sparse", "scale"): ({}, 3.0),
    ("moe", "experts"): ({"top_k": 1}, ["scaled_dot"]),
    ("moe", "top_k"): ({}, 1),
    ("moe", "router_seed"): ({}, 7),
    ("cross", "scale"): ({}, 3.0),
    ("poincare", "temperature"): ({}, 0.3),
    ("poincare", "curvature"): ({}, -0.5),
    ("poincare", "map"): ({}, "expmap0"),
}


# Options with tests of their own below, and those of patterns over sequences, which an index is not.
OTHERWISE = {("gat", "version"), ("cross", "temperature")}
OUTPUTS = {("flash_v2", "block_size"), ("poincare", "values")}  # a ranking makes none
PATTERNS = {("sparse", name) for name in ("pattern", "window", "block_size", "num_global_tokens", "mask", "position")}


def test_every_option_is_tried():
    options = {(row.name, option) for row in REGISTRY.values() for option in row.options if row.name not in ELSEWHERE}
    assert options <= set(OTHER) | OTHERWISE | OUTPUTS | PATTERNS


@pytest.mark.parametrize(("name", "option"), [pair for pair in OTHER if pair[0] in REGISTRY])
def test_every_option_changes_the_scores(name, option):
    with_it, value = OTHER[name, option]
    plain, other = filled(name, with_it), filled(name, with_it | {option: value})
    pairs = [(plain.search(q, k=9), other.search(q, k=9)) for q in QUERIES]
    assert any(a.ids != b.ids or not np.allclose(a.scores, b.scores, rtol=1e-6) for a, b in pairs)


def test_multi_head_of_unit_vectors_is_scaled_dot_of_scale_20():
    bridge, plain = filled("multi_head", {"num_heads": 3}), filled("scaled_dot", {})
    assert bridge.config["options"] == {"num_heads": 3, "scale": 60.0, "score": "logits", "parameters": None}
    for query in QUERIES:
        ours, theirs = bridge.search(query), plain.search(query)
        assert ours.ids == theirs.ids
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-6)
        assert not np.allclose(ours.weights, theirs.weights)  # the mean of the heads' own
    assert filled("multi_head", {"num_heads": 3}, metric="ip").config["options"]["scale"] == 2**-0.5
    assert filled("multi_head", {"num_heads": 2, "parameters": HEADS}).config["options"]["scale"] == 2**-0.5


def test_multi_head_under_l2_shares_out_the_distance():
    """Each head sees its part of minus half the squared distance; with parameters, products of projections."""
    query, rows = QUERIES[0].astype(np.float64), vectors().astype(np.float64)
    parts = -0.5 * ((query - rows) ** 2).reshape(N, 3, 2).sum(axis=2).T
    shares = np.exp(parts - parts.max(axis=1, keepdims=True))
    shares = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    hits = filled("multi_head", {"num_heads": 3, "scale": 1.0}, metric="l2").search(QUERIES[0], k=N, candidates=N)
    np.testing.assert_allclose(hits.scores, parts.mean(axis=0)[hits.ids], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(hits.weights, shares[hits.ids], rtol=1e-5)
    by_weights = filled("multi_head", {"num_heads": 3, "scale": 1.0, "score": "weights"}, metric="l2")
    assert by_weights.search(QUERIES[0], k=N, candidates=N).ids == np.argsort(-shares).tolist()
    projected = filled("multi_head", {"num_heads": 2, "parameters": HEADS}, metric="l2")
    ids, logits, _ = by_value(projected, QUERIES[0], {"parameters": HEADS})
    got = projected.search(QUERIES[0], k=N, candidates=N)
    assert got.ids == ids
    np.testing.assert_allclose(got.scores, logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_packed_rows_are_read_as_numbers(dtype):
    for options in ({"num_heads": 3}, {"num_heads": 2, "parameters": HEADS, "score": "weights"}):
        packed = filled("multi_head", options, index="hnsw", dtype=dtype, keep_full=False)
        full = filled("multi_head", options)
        for query in QUERIES:
            ours, theirs = packed.search(query, k=N, candidates=N), full.search(query, k=N, candidates=N)
            assert len(set(ours.ids[:10]) & set(theirs.ids[:10])) >= 8
            scores = dict(zip(theirs.ids, theirs.scores.tolist(), strict=True))
            np.testing.assert_allclose(ours.scores, [scores[id] for id in ours.ids], rtol=0.1, atol=0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_heads": 4}, ab.DimensionMismatchError, "Query dimension 6 must be divisible by num_heads 4"),
        (
            {"num_heads": 3, "parameters": HEADS},
            ab.DimensionMismatchError,
            "Projected dimension 4 must be divisible by num_heads 3",
        ),
        (
            {"num_heads": 1, "parameters": arrays(0, W_q=(4, 7), W_k=(4, 7))},
            ab.DimensionMismatchError,
            r"parameters\['W_q'\] must have a column for each of 6 dimensions, got 7",
        ),
    ],
)
def test_options_that_do_not_fit_the_vectors(options, error, message):
    with pytest.raises(error, match=message):
        ab.AttentionVectorBridge(D, attention="multi_head", **options)


def test_a_type_without_an_index_is_refused(monkeypatch):
    bare = dataclasses.replace(SCALED_DOT, name="bare", build_space=None)
    monkeypatch.setitem(scoring._BY_NAME, "bare", bare)
    with pytest.raises(ab.InvalidConfigError, match="attention='bare' cannot rank documents"):
        ab.AttentionVectorBridge(D, attention="bare")


@pytest.mark.skipif("gat" not in REGISTRY, reason="no gat in the registry")
def test_gat_v1_warns_once():
    with pytest.warns(UserWarning, match="orders keys alike for every query") as caught:
        bridge = filled("gat", {"version": "v1", "parameters": arrays(2, W=(5, D), a_q=5, a_k=5)})
    assert len(caught) == 1
    orders = {tuple(bridge.search(query, k=N, candidates=N).ids) for query in QUERIES}
    assert len(orders) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled("gat", {"version": "v2", "parameters": GATV2})


@pytest.mark.skipif("sparse" not in REGISTRY, reason="no sparse in the registry")
def test_outside_the_pattern_there_are_no_hits():
    bridge = filled("sparse", {"top_k": 4})
    best = filled("scaled_dot", {}).search(QUERIES[0], k=4)
    for rerank in ((), Nothing()):
        hits = bridge.search(QUERIES[0], k=10, rerank=rerank)
        assert hits.ids == best.ids
        assert hits.candidates == N
        json.dumps([hit._asdict() for hit in hits], allow_nan=False)
        assert hits.weights.sum() == pytest.approx(1.0)


# ---- cross: tokens


def with_tokens(options=None, lengths=(3, 1, 0, 5, 2), **settings):
    rng = np.random.default_rng(3)
    bridge = ab.AttentionVectorBridge(D, "ip", "cross", **{"index": "exact"} | settings, **options or {})
    tokens = [rng.standard_normal((lengths[i % 5], 4)).astype(np.float16) for i in range(N)]
    bridge.add(vectors(), tokens=tokens)
    return bridge, tokens


@pytest.mark.parametrize("rerank", [(), Nothing()], ids=["plain", "staged"])
@pytest.mark.parametrize("options", [{}, {"scale": 3.0, "temperature": 0.7}], ids=["hard", "soft"])
@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_cross_ranks_by_tokens(rng, options, rerank, index):
    bridge, tokens = with_tokens(options, index=index)
    have = [i for i in range(N) if len(tokens[i])]
    for query in QUERIES[:3]:
        asked = rng.standard_normal((3, 4)).astype(np.float32)
        keys = [tokens[i].astype(np.float32) for i in have]
        logits = ab.attention_logits(asked, keys, "cross", **options)
        order = np.argsort(-logits)
        hits = bridge.search(query, k=N, candidates=N, query_tokens=asked, rerank=rerank)
        assert hits.ids == [have[i] for i in order]  # a document without tokens is none
        np.testing.assert_allclose(hits.scores, logits[order], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(hits.weights, ab.attention_scores(asked, keys, "cross", **options)[order], rtol=1e-5)
        assert hits.candidates == N


def test_cross_takes_its_candidates_by_the_vectors(rng):
    bridge, tokens = with_tokens()
    query, asked = QUERIES[0], rng.standard_normal((3, 4))
    near = filled("scaled_dot", {}, metric="ip").search(query, k=10, candidates=10).ids
    hits = bridge.search(query, k=10, candidates=10, query_tokens=asked)
    assert set(hits.ids) == {id for id in near if len(tokens[id])}


def test_cross_weighs_query_tokens(rng):
    bridge, tokens = with_tokens()
    asked = rng.standard_normal((2, 4)).astype(np.float32)
    hits = bridge.search(QUERIES[0], query_tokens=asked, query_token_weights=[0.0, 2.0], candidates=N)
    want = bridge.search(QUERIES[0], query_tokens=asked[1:], candidates=N)
    assert hits.ids == want.ids
    np.testing.assert_allclose(hits.scores, want.scores, rtol=1e-6)
    assert hits.ids[0] == max(
        (i for i in range(N) if len(tokens[i])), key=lambda i: (tokens[i].astype(np.float32) @ asked[1]).max()
    )


def test_cross_in_batches_by_id_and_on_disk(rng, tmp_path):
    bridge, _ = with_tokens({"temperature": 0.4}, index="hnsw")
    asked = [rng.standard_normal((n, 4)) for n in (1, 3, 2, 4, 1, 2, 5)]
    alone = [bridge.search(q, k=7, query_tokens=t) for q, t in zip(QUERIES, asked, strict=True)]
    for threads in (1, 2):
        assert bridge.search_batch(QUERIES, k=7, query_tokens=asked, threads=threads) == alone
    bridge.save(tmp_path)
    for opened in (
        ab.AttentionVectorBridge.open(tmp_path),
        ab.AttentionVectorBridge.open(tmp_path, verify="lazy"),
    ):
        assert opened.search_batch(QUERIES, k=7, query_tokens=asked) == alone
    own = bridge.search(id=4, k=3)
    assert own == bridge.search(
        bridge.get([4])[0],
        k=3,
        query_tokens=bridge._state.store.view.tokens_of(4),
        filter=[i for i in range(N) if i != 4],
    )


def test_cross_goes_with_stages_over_tokens(rng):
    bridge, _ = with_tokens()
    asked = rng.standard_normal((3, 4))
    plain = bridge.search(QUERIES[0], k=5, query_tokens=asked, candidates=N)
    again = bridge.search(QUERIES[0], k=5, query_tokens=asked, candidates=N, rerank=ab.LateInteraction(mix=1.0))
    assert again.ids == plain.ids
    np.testing.assert_allclose(again.parts["late_interaction"], plain.scores, rtol=1e-5, atol=1e-6)
    expanded = bridge.search(QUERIES[0], k=5, query_tokens=asked, rerank=ab.QueryExpansion(research=True))
    assert np.isfinite(expanded.scores).all()


def test_cross_asks_for_tokens(rng):
    bridge, _ = with_tokens()
    with pytest.raises(ab.InvalidInputError, match=r"cross needs the query's tokens; pass query_tokens=array \(m, 4\)"):
        bridge.search(QUERIES[0])
    with pytest.raises(ab.InvalidInputError, match="cross needs the query's tokens"):
        bridge.search(id=2)  # has none
    bare = filled("cross", {}, metric="ip")
    with pytest.raises(ab.InvalidInputError, match="cross needs stored tokens, this bridge has none"):
        bare.search(QUERIES[0], query_tokens=np.ones((2, 4)))
    plain = filled("scaled_dot", {"scale": 1.0}, metric="ip")
    assert bare.search(QUERIES[0]).ids == plain.search(QUERIES[0]).ids
    assert bare.search(QUERIES[0]).scores.tolist() == plain.search(QUERIES[0]).scores.tolist()


# ---- sliding: positions


def sliding(metric="ip", places=None, **options):
    bridge = ab.AttentionVectorBridge(D, metric, "sliding", position="place", index="exact", **options)
    bridge.add(vectors(), payload={"place": list(range(N)) if places is None else places})
    return bridge


needs_sliding = pytest.mark.skipif("sliding" not in REGISTRY, reason="no sliding in the registry")


@needs_sliding
@pytest.mark.parametrize("causal", [False, True])
def test_sliding_is_scaled_dot_within_the_window(causal):
    bridge, plain = sliding(window=7, causal=causal, scale=2.0), filled("scaled_dot", {"scale": 2.0}, metric="ip")
    for place in (0, 3, 20, 20.5, N - 1, N + 3):
        rows = [i for i in range(N) if place - 7 <= i <= place + (0 if causal else 7)]
        for more, kept in (
            ({}, rows),
            ({"where": "place % 2 = 0"}, rows[rows[0] % 2 :: 2]),
            ({"filter": rows[:3]}, rows[:3]),
        ):
            hits = bridge.search(QUERIES[0], k=N, position=place, **more)
            want = plain.search(QUERIES[0], k=N, filter=kept)
            assert hits.ids == want.ids
            assert hits.scores.tolist() == want.scores.tolist()
            np.testing.assert_allclose(hits.weights, want.weights, rtol=1e-12)
            assert set(hits.ids) == set(kept)
    assert len(bridge.search(QUERIES[0], position=-100)) == 0
    staged = bridge.search(QUERIES[0], position=30, rerank=Nothing())
    assert staged.ids == bridge.search(QUERIES[0], position=30).ids


@needs_sliding
def test_sliding_in_batches_and_on_disk(tmp_path):
    bridge = sliding("cosine", window=5)
    places = [0, 9, 9, 30, 41, 60, 200]
    alone = [bridge.search(q, k=4, position=p) for q, p in zip(QUERIES, places, strict=True)]
    for threads in (1, 2):
        assert bridge.search_batch(QUERIES, k=4, position=places, threads=threads) == alone
    same = bridge.search_batch(QUERIES, k=4, position=9)
    assert same[1] == alone[1]
    assert (
        bridge.search(id=9, k=4, position=9).ids
        == [i for i in bridge.search(bridge.get([9])[0], position=9).ids if i != 9][:4]
    )
    bridge.save(tmp_path)
    assert ab.AttentionVectorBridge.open(tmp_path).search(QUERIES[1], k=4, position=9) == alone[1]


@needs_sliding
def test_sliding_leaves_rows_without_a_place_out():
    bridge = sliding(places=[None if i % 5 == 0 else float(i) for i in range(N)], window=4)
    assert sorted(bridge.search(QUERIES[0], k=N, position=10).ids) == [6, 7, 8, 9, 11, 12, 13, 14]


@needs_sliding
def test_sliding_asks_for_positions():
    with pytest.raises(ab.InvalidConfigError, match=r"sliding needs position=\.\.\., the payload column"):
        ab.AttentionVectorBridge(D, attention="sliding")
    bridge = sliding()
    with pytest.raises(ab.InvalidInputError, match="sliding needs the query's place; pass position=number"):
        bridge.search(QUERIES[0])
    with pytest.raises(ab.InvalidInputError, match="sliding needs the query's place"):
        bridge.search_batch(QUERIES)
    with pytest.raises(ab.InvalidConfigError, match="position must be a finite number, got 'here'"):
        bridge.search(QUERIES[0], position="here")
    with pytest.raises(ab.InvalidConfigError, match="position must be a finite number, got nan"):
        bridge.search(QUERIES[0], position=np.nan)
    with pytest.raises(ab.InvalidInputError, match="position must have one entry for each of 7 queries, got 2"):
        bridge.search_batch(QUERIES, position=[1, 2])
    lacking = ab.AttentionVectorBridge(D, attention="sliding", position="no such", index="exact")
    assert len(lacking.search(QUERIES[0], position=3)) == 0
    lacking.add(vectors(), payload={"place": list(range(N))})
    with pytest.raises(
        ab.InvalidInputError, match=r"position must be a column of the payload, 'no such' is none; .* place"
    ):
        lacking.search(QUERIES[0], position=3)


def test_position_is_of_sliding_only():
    with pytest.raises(
        ab.InvalidConfigError, match="position can be given with attention='sliding' only, got attention='sc"
    ):
        filled("scaled_dot", {}).search(QUERIES[0], position=3)


# ---- many at a time


@pytest.mark.parametrize(("name", "options"), PRESENT)
def test_searches_of_many_threads_do_not_mix(name, options):
    bridge = filled(name, options)
    want = [bridge.search(query, k=5) for query in QUERIES]
    wrong = []

    def work(offset):
        for turn in range(3 * len(QUERIES)):
            i = (turn + offset) % len(QUERIES)
            if bridge.search(QUERIES[i], k=5) != want[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
