"""Answers that are kept: equal to those computed, never another query's, never stale, within the budget."""

import copy
import gc
import multiprocessing
import pickle
import sys
import threading

import networkx as nx
import numpy as np
import pytest
from conftest import SLOW
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory import taken, traced

import attnbridge as ab
from attnbridge.cache import Key, NotKeyedError, content, uncached
from attnbridge.mechanisms.base import Attention, Batch

Bridge = ab.AttentionVectorBridge


def bridge_of(count=300, dim=8, seed=0, **options):
    rng = np.random.default_rng(seed)
    made = Bridge(dim, **{"index": "exact", **options})
    made.add(
        rng.standard_normal((count, dim)),
        ids=[f"d{i}" for i in range(count)],
        tokens=[rng.standard_normal((3, 4)) for _ in range(count)],
        payload={"year": [2000 + i % 7 for i in range(count)], "text": [f"word{i % 11} and" for i in range(count)]},
        progress=False,
    )
    return made


def same_hits(a, b):
    assert a == b
    assert a.payload == b.payload
    assert a.trace.rows == b.trace.rows
    assert a.trace.origins == b.trace.origins
    for mine, theirs in zip(a.trace.steps, b.trace.steps, strict=True):
        assert mine.name == theirs.name
        assert np.array_equal(mine.rows, theirs.rows)
        assert np.array_equal(mine.scores, theirs.scores)
        for row in a.trace.rows:
            assert (mine.attended and mine.attended(row)) == (theirs.attended and theirs.attended(row))
    return True


# ---- the cache itself


def test_what_is_counted():
    cache = ab.AttentionCache(100_000)
    one, other = Key((1,)), Key((2,))
    assert cache.hit_rate == 0.0
    assert cache.get(one) is None
    cache.put(one, (1.0, 2.0))
    assert cache.get(Key((1,))) == (1.0, 2.0)
    assert cache.get(other) is None
    assert (cache.hits, cache.misses, cache.hit_rate, len(cache)) == (1, 2, 1 / 3, 1)
    assert repr(cache).startswith("AttentionCache(1 entries, ")
    cache.clear()
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (0, 0, 0, 0)


def test_the_least_recently_used_goes_first():
    cache = ab.AttentionCache(6_000)
    keys = [Key((number,)) for number in range(20)]
    cache.put(keys[0], "first")
    cache.put(keys[1], "second")
    number = 2
    while len(cache) == number:
        assert cache.get(keys[0]) == "first"  # used again and again
        cache.put(keys[number], "more")
        number += 1
    assert cache.get(keys[0]) == "first"
    assert cache.get(keys[1]) is None


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "many", None])
def test_a_budget_that_cannot_be(wrong):
    with pytest.raises(ab.InvalidConfigError, match="max_bytes must be a whole number >= 1"):
        ab.AttentionCache(wrong)


@pytest.mark.parametrize("wrong", [5, "cache", ab.AttentionCache])
def test_what_is_no_cache(wrong, tmp_path):
    with pytest.raises(ab.InvalidConfigError, match="cache must be an AttentionCache or None"):
        Bridge(2, cache=wrong)
    bridge = Bridge(2)
    with pytest.raises(ab.InvalidConfigError, match="cache must be an AttentionCache or None"):
        bridge.cache = wrong
    bridge.save(tmp_path / "index")
    with pytest.raises(ab.InvalidConfigError, match="cache must be an AttentionCache or None"):
        Bridge.open(tmp_path / "index", cache=wrong)
    with pytest.raises(ab.InvalidConfigError, match="cache must be an AttentionCache"):
        ab.ScaledDotProductAttention().cached(wrong)


def test_a_mechanism_needs_a_cache():
    with pytest.raises(ab.InvalidConfigError, match="cache must be an AttentionCache, got None"):
        ab.ScaledDotProductAttention().cached(None)


def test_what_is_larger_than_the_budget_is_not_kept():
    cache = ab.AttentionCache(2_000)
    cache.put(Key(("a",)), "a")
    cache.put(Key(("b",)), np.zeros(1_000))
    assert len(cache) == 1
    assert cache.get(Key(("a",))) == "a"  # nothing went for it
    attention = ab.ScaledDotProductAttention().cached(cache)
    x = np.ones((500, 4), np.float32)
    assert np.array_equal(attention.forward(x, x, x).output, attention.forward(x, x, x).output)
    assert len(cache) == 1


def test_equal_content_and_nothing_else_is_equal():
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    different = [
        None, 0, 0.0, -0.0, False, "", b"", (), [], {}, (0,), [0], (0.0,), "0",
        zero, -zero, zero.reshape(2, 2), zero.astype(np.float64), zero.view(np.int32), one, zero[:2],
        np.float32(0), np.float64(0), np.array(0.0), {"a": 1}, {"a": 1.0}, {"b": 1}, {"a": 1, "b": 2}, {"b": 2, "a": 1},
        ab.SparseMask([0, 1], [0], (1, 2)), ab.SparseMask([0, 1], [1], (1, 2)), ab.SparseMask([0, 1], [0], (1, 3)),
        ab.QueryExpansion(), ab.QueryExpansion(top=3), ab.MMR(), ab.MMR(0.5), ab.Gated(ab.MMR(), "gap", 2.0),
        ab.AttentionRerank("multi_head", num_heads=2),
        ab.AttentionRerank("multi_head", num_heads=4), ab.Threshold(1.0), ab.Threshold(-1.0),
    ]  # fmt: skip
    keys = [Key((content(value),)) for value in different]
    assert all((a == b) == (i == j) for i, a in enumerate(keys) for j, b in enumerate(keys))
    assert keys == [Key((content(copy.deepcopy(value)),)) for value in different]


def test_a_hash_alone_is_not_enough():
    """Keys whose hashes are equal are told apart by their content."""
    one, other = Key((content(np.float32(1)),)), Key((content(np.float32(2)),))
    other.number = one.number
    cache = ab.AttentionCache()
    cache.put(one, "one")
    assert hash(one) == hash(other)
    assert cache.get(other) is None


def test_long_arrays_are_equal_by_every_byte():
    """Rows in another order have the hash's sums, and are another question all the same."""
    rows = np.random.default_rng(0).integers(0, 9, (100, 64)).astype(np.int64)
    swapped, changed = rows.copy(), rows.copy()
    swapped[[90, 91]] = rows[[91, 90]]
    changed[50, 3] += 1
    assert hash(content(rows)) == hash(content(swapped))
    keys = [Key((content(one),)) for one in (rows, swapped, changed, rows.view(np.uint64), rows.reshape(64, 100))]
    assert all((a == b) == (i == j) for i, a in enumerate(keys) for j, b in enumerate(keys))
    assert keys[0] == Key((content(rows.copy()),))


@pytest.mark.parametrize("value", [len, object(), np.array([object()]), ab.BM25("text", stemmer=str.lower), {1, 2}])
def test_what_cannot_be_told_exactly(value):
    with pytest.raises(NotKeyedError):
        content(value)


def test_bytes_are_what_is_really_taken():
    """The memory that entries take, measured, is not more than what is counted."""
    cache = ab.AttentionCache(1 << 28)
    attention = ab.ScaledDotProductAttention().cached(cache)
    bridge = bridge_of(cache=cache)
    rng = np.random.default_rng(1)
    x, queries = rng.standard_normal((1_000, 6, 8)).astype(np.float32), rng.standard_normal((1_000, 8))
    for run in (
        lambda: [attention.forward(one, one, one, need_weights=True) for one in x] and None,
        lambda: [bridge.search(one, k=3) for one in queries] and None,
        lambda: [bridge.search(one, k=3, rerank="expansion", filter=["d1", "d2", "d3"]) for one in queries] and None,
    ):
        with uncached():
            run()
        before = cache.bytes
        with traced():
            run()
            gc.collect()
            assert taken() <= cache.bytes - before <= 4 * taken()


def test_a_copy_begins_empty():
    cache = ab.AttentionCache(12_345)
    cache.put(Key((1,)), 1)
    for made in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert (made.max_bytes, len(made)) == (12_345, 0)
    attention = copy.deepcopy(ab.MultiHeadAttention(4, num_heads=2).cached(cache))
    assert attention.forward(np.eye(4), np.eye(4), np.eye(4)).output.shape == (4, 4)


# ---- searches

SEARCHES = [
    {},
    {"k": 3},
    {"k": 3, "offset": 2},
    {"candidates": 20},
    {"filter": ["d3", "d5", "d8"]},
    {"filter": np.arange(300) % 2 == 0},
    {"filter": np.arange(300) % 3 == 0},
    {"where": "year > 2003"},
    {"where": "year > $y", "params": {"y": 2004}},
    {"where": "year > $y", "params": {"y": 2005}},
    {"radius": 0.9},
    {"radius": 0.8},
    {"threshold": 1.0},
    {"threshold": 2.0},
    {"exact": True, "k": 4},
    {"rerank": "default"},
    {"rerank": "expansion"},
    {"rerank": "expansion(top=3)"},
    {"rerank": ["expansion(research=True)", ab.MMR(0.6)]},
    {"rerank": ab.Gated(ab.QueryExpansion(), "gap", 2.5)},
    {"rerank": ab.AttentionRerank("multi_head", num_heads=2, score="weights")},
    {"rerank": ab.GroupBy("year")},
    {"rerank": ab.Rocchio(positive=["d3"], negative=["d9"])},
    {"rerank": ab.Rocchio(positive=["d4"], negative=["d9"])},
    {"rerank": ab.BM25("text"), "query_text": "word3"},
    {"rerank": ab.BM25("text"), "query_text": "word4"},
    {"rerank": "late_interaction", "query_tokens": np.eye(4)[:2]},
    {"rerank": "late_interaction", "query_tokens": np.eye(4)[1:]},
    {"rerank": "late_interaction", "query_tokens": np.eye(4)[:2], "query_token_weights": [1.0, 3.0]},
    {"rerank": "default", "query_tokens": np.eye(4)[:2]},
]


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_kept_hits_are_those_that_a_search_finds(index):
    bridge = bridge_of(index=index)
    cache = bridge.cache = ab.AttentionCache()
    query = np.random.default_rng(3).standard_normal(8)
    for number, options in enumerate(SEARCHES):
        with uncached():
            plain = bridge.search(query, **options)
        first, again = bridge.search(query, **options), bridge.search(query, **options)
        assert same_hits(plain, first)
        assert same_hits(plain, again)
        # every search of the list is one of its own
        assert (cache.misses, cache.hits) == (number + 1, number + 1), options
        assert again.timings.keys() == {"cache", "total"}
    with uncached():
        found = [bridge.search(id=id, k=4) for id in ("d1", "d2")]
    for _ in range(2):
        assert [bridge.search(id=id, k=4) for id in ("d1", "d2")] == found
    assert cache.hits == len(SEARCHES) + 2


def test_settings_of_a_walk_are_part_of_the_question():
    bridge = bridge_of(count=2_000, index="hnsw", M=4)
    cache = bridge.cache = ab.AttentionCache()
    query = np.random.default_rng(3).standard_normal(8)
    asked = [{"ef": 10}, {"ef": 11}, {"entry_points": ["d5"]}, {"entry_points": ["d6"]}, {"entry_points": ["d5", "d6"]}]
    for options in asked:
        first = bridge.search(query, k=5, **options)
        assert bridge.search(query, k=5, **options) == first
    assert (cache.hits, cache.misses) == (5, 5)


def test_of_a_batch_the_queries_that_are_not_kept_are_searched():
    bridge = bridge_of(index="hnsw")
    queries = np.random.default_rng(3).standard_normal((40, 8))
    lists = [["d1", "d2", f"d{i}"] if i % 2 else None for i in range(40)]
    texts = [f"word{i % 5}" for i in range(40)]
    for options in (
        {},
        {"filter": lists},
        {"rerank": ab.BM25("text"), "query_text": texts},
        {"rerank": "late_interaction", "query_tokens": [np.eye(4)[: 1 + i % 3] for i in range(40)]},
        {"entry_points": [["d1"] if i % 2 else ["d2"] for i in range(40)]},
    ):
        bridge.cache = None
        plain = bridge.search_batch(queries, 5, **options)
        cache = bridge.cache = ab.AttentionCache()
        half = {name: value[::2] if isinstance(value, list) else value for name, value in options.items()}
        assert bridge.search_batch(queries[::2], 5, **half) == plain[::2]
        found = bridge.search_batch(queries, 5, **options)
        assert all(map(same_hits, plain, found))
        assert (cache.hits, cache.misses) == (20, 40)
        assert bridge.search_batch(
            queries[:1], 5, **{n: v[:1] if isinstance(v, list) else v for n, v in options.items()}
        )
        assert cache.hits == 21


def test_what_a_caller_writes_into_changes_nobody_elses_answer():
    bridge = bridge_of(cache=ab.AttentionCache())
    query = np.random.default_rng(3).standard_normal(8)
    with uncached():
        plain = bridge.search(query, rerank="expansion")
    for _ in range(3):
        hits = bridge.search(query, rerank="expansion")
        assert same_hits(plain, hits)
        hits.ids[0] = "mine"
        hits.ids.append("another")
        for array in (hits.scores, hits.weights, hits.distances, hits.ranks_before, *hits.parts.values()):
            array[:] = 7
        for step in hits.trace.steps:
            step.rows[:], step.scores[:] = 0, 0
        hits.trace.rows.clear()
        hits.parts["more"] = hits.scores


CHANGES = {
    "add": lambda bridge: bridge.add(np.full((1, 8), 0.9), ids=["new"]),
    "upsert": lambda bridge: bridge.add(np.full((1, 8), 0.9), ids=["d250"]),
    "delete": lambda bridge: bridge.delete(["d0"]),
    "payload": lambda bridge: bridge.set_payload(["d0"], {"year": [1900]}),
    "compact": lambda bridge: bridge.compact(),
    "clear": lambda bridge: bridge.clear(),
}


@pytest.mark.parametrize("index", ["exact", "hnsw"])
@pytest.mark.parametrize("change", CHANGES)
def test_no_answer_outlives_a_change(change, index):
    bridge = bridge_of(index=index, cache=ab.AttentionCache())
    bridge.delete(["d9"])  # for compact to have something to do
    asked = [{}, {"where": "year > 2001"}] if change != "clear" else [{}]
    for options in asked:
        bridge.search(np.ones(8), k=5, **options)
    CHANGES[change](bridge)
    for options in asked:
        with uncached():
            plain = bridge.search(np.ones(8), k=5, **options)
        before = bridge.cache.hits
        assert same_hits(bridge.search(np.ones(8), k=5, **options), plain)
        assert bridge.cache.hits == before


def test_tuned_breadth_is_another_question():
    bridge = bridge_of(count=2_000, index="hnsw", M=4, ef=10, candidates=10, cache=ab.AttentionCache())
    bridge.search(np.ones(8))
    bridge._set_search(ef=200, candidates=50)  # as tune does
    with uncached():
        plain = bridge.search(np.ones(8))
    assert bridge.search(np.ones(8)) == plain
    assert bridge.cache.hits == 0


def test_what_measures_searches_does_not_ask_the_cache():
    bridge = bridge_of(count=600, index="hnsw", cache=ab.AttentionCache())
    bridge.tune(recall=0.5, sample=20, progress=False)
    bridge.audit(sample=20)
    assert (len(bridge.cache), bridge.cache.misses) == (0, 0)


def test_reload_and_open(tmp_path):
    writer = bridge_of()
    writer.save(tmp_path / "index")
    cache = ab.AttentionCache()
    reader = Bridge.open(tmp_path / "index", mmap=False, read_only=True, cache=cache)
    assert reader.config["cache"] == cache.max_bytes
    first = reader.search(np.ones(8), k=3)
    assert reader.search(np.ones(8), k=3) == first
    writer.add(np.ones((1, 8)), ids=["one"])
    writer.save(tmp_path / "index")
    assert reader.reload()
    assert reader.cache is cache
    assert reader.search(np.ones(8), k=3).ids[0] == "one"
    assert cache.hits == 1
    writer.save(tmp_path / "copy")
    assert Bridge.open(tmp_path / "copy", mmap=False).cache is None  # it is not saved
    assert pickle.loads(pickle.dumps(writer)).config["cache"] is None


def test_another_index_in_the_same_folder_with_other_settings(tmp_path):
    """reload takes over the attention too: an owner of another number."""
    rows = np.random.default_rng(0).standard_normal((50, 8))
    one = Bridge(8, index="exact", scale=5.0)
    one.add(rows)
    one.save(tmp_path / "index")
    reader = Bridge.open(tmp_path / "index", mmap=False, read_only=True, cache=ab.AttentionCache())
    before = reader.search(rows[0])
    other = Bridge(8, index="exact", scale=7.0)
    other.add(rows)
    other.save(tmp_path / "index")
    reader.reload()
    np.testing.assert_allclose(reader.search(rows[0]).scores, before.scores * 1.4)


def test_one_cache_serves_several():
    cache = ab.AttentionCache()
    several = [
        bridge_of(seed=0, cache=cache),
        bridge_of(seed=0, cache=cache, scale=3.0),
        bridge_of(seed=1, cache=cache),
        bridge_of(seed=0, cache=cache, metric="l2"),
    ]
    found = [bridge.search(np.ones(8)) for bridge in several]
    for bridge, first in zip(several, found, strict=True):
        assert bridge.search(np.ones(8)) == first
        with uncached():
            assert bridge.search(np.ones(8)) == first
    assert (cache.hits, cache.misses) == (4, 4)


def test_what_is_not_kept():
    class Own:
        name, requires_tokens = "own", False

        def apply(self, pool):
            pool.scores = pool.scores[::-1]

    class Slower(ab.QueryExpansion):
        """One of ours, with something of a user's in it."""

    bridge = bridge_of(cache=ab.AttentionCache())
    for options in (
        {"time_budget": 10.0},
        {"rerank": Own()},
        {"rerank": Slower()},
        {"rerank": ab.BM25("text", stemmer=str.lower), "query_text": "word3"},
    ):
        assert bridge.search(np.ones(8), **options) == bridge.search(np.ones(8), **options)
    source = bridge_of(index=Source(8), cache=bridge.cache)
    assert source.search(np.ones(8)) == source.search(np.ones(8))
    assert (len(bridge.cache), bridge.cache.hits, bridge.cache.misses) == (0, 0, 0)


class Source:
    """A source of candidates of the user's own: whatever was added first."""

    def __init__(self, dim):
        self.dim, self.count = dim, 0

    def __len__(self):
        return self.count

    def add(self, vectors, labels):
        self.count += len(labels)

    def remove(self, labels):
        pass

    def query(self, queries, n):
        labels = np.tile(np.arange(n), (len(queries), 1))
        return labels, np.zeros(labels.shape, np.float32)


def test_errors_are_those_without_a_cache():
    bridge = bridge_of(cache=ab.AttentionCache())
    bridge.search(np.ones(8))
    with pytest.raises(ab.InvalidInputError, match="query"):
        bridge.search(np.full(8, np.nan))
    with pytest.raises(ab.InvalidConfigError, match="k must be a whole number"):
        bridge.search(np.ones(8), k=0)


def test_linking_leaves_what_was_kept_behind():
    """A row of the tail is read, a linked one walked to: each is a state of its own."""
    bridge = bridge_of(count=1_000, index="hnsw", cache=ab.AttentionCache())
    bridge.add(np.random.default_rng(5).standard_normal((100, 8)), ids=[f"t{i}" for i in range(100)], progress=False)
    before = bridge.search(np.ones(8))
    version = bridge._state.source.version
    bridge.link(progress=False)
    assert bridge._state.source.version != version
    with uncached():
        plain = bridge.search(np.ones(8))
    assert bridge.search(np.ones(8)) == plain
    assert bridge.cache.hits == 0
    assert before.ids


def test_a_graph_that_changes_is_not_asked_through_the_cache():
    bridge = bridge_of(index="hnsw", cache=ab.AttentionCache())
    graph = bridge._state.source
    with graph._change():
        assert graph.version is None
        bridge.search(np.ones(8))
        assert bridge.cache.misses == 0
    bridge.search(np.ones(8))
    assert (bridge.cache.misses, len(bridge.cache)) == (1, 1)


# ---- mechanisms

X = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
MECHANISMS = {
    "scaled_dot": lambda: ab.ScaledDotProductAttention(),
    "multi_head": lambda: ab.MultiHeadAttention(8, num_heads=2),
    "flash": lambda: ab.FlashAttention(),
    "sliding": lambda: ab.SlidingWindowAttention(2),
    "linear": lambda: ab.LinearAttention(),
    "sparse": lambda: ab.SparseAttention(),
    "moe": lambda: ab.MixtureOfExpertsAttention(),
    "hyperbolic": lambda: ab.HyperbolicAttention(),
    "gat": lambda: ab.GraphAttention(in_dim=8),
    "cross": lambda: ab.CrossAttention(8, num_heads=2),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_kept_results_are_those_that_are_computed(name):
    plain, cache = MECHANISMS[name](), ab.AttentionCache()
    cached, x = plain.cached(cache), X * 0.1
    assert (cached.name, cached.config, cached.causal, cached.dropout) == (
        plain.name,
        plain.config,
        plain.causal,
        plain.dropout,
    )
    for call in (
        lambda m: m.forward(x, x, x).output,
        lambda m: m.forward(x[0], x, x[:, :3] if name not in ("multi_head", "cross") else x).output,
        lambda m: m.forward(x, x, x, is_causal=name != "cross").output,
        lambda m: m.forward(x, x, x, np.tri(6, dtype=bool)).output,
        lambda m: m.forward(x, x, x, mask=np.eye(6, dtype=bool)).output,
        lambda m: m.logits(x, x),
        lambda m: m.weights(x, x),
    ):
        want, before = call(plain), cache.hits
        for _ in range(3):
            got = call(cached)
            assert got.dtype == want.dtype
            assert got.tobytes() == want.tobytes()
            got[:] = 7  # changes nobody else's
        assert cache.hits == before + 2


def test_the_functions_ask_it_too():
    cache = ab.AttentionCache()
    plain = ab.ScaledDotProductAttention(scale=2.0)
    cached = plain.cached(cache)
    mask = np.tri(6, dtype=bool)
    for call in (
        lambda m: ab.attention(X, X, X, m),
        lambda m: ab.attention(X, X, X, m, mask=mask),
        lambda m: ab.attention_scores(X, X, m),
        lambda m: ab.attention_logits(X, X, m),
    ):
        before = cache.hits
        assert all(np.array_equal(call(cached), call(plain)) for _ in range(2))
        assert cache.hits == before + 1
    with pytest.raises(ab.InputTooLargeError, match="max_keys"):
        ab.attention(X, X, X, cached, max_keys=2)
    with pytest.raises(ab.InvalidConfigError, match="scale must be left out"):
        ab.attention(X, X, X, cached, scale=1.0)


def test_calls_that_are_no_function_of_their_inputs_are_computed():
    cache = ab.AttentionCache()
    attention = ab.ScaledDotProductAttention(dropout=0.5).cached(cache)
    drops = [attention.forward(X, X, X, training=True).output for _ in range(5)]
    assert any(not np.array_equal(drops[0], one) for one in drops)
    attention.forward(X, X, X, training=True, seed=0)
    attention.forward(X, X, X, seed=0)
    assert attention.forward(X, X, X, need_context=True).context is not None
    assert attention.forward(X, X, X, None, False, False, True).context is not None
    assert (len(cache), cache.misses) == (0, 0)
    with pytest.raises(ab.InvalidConfigError, match="training must be True or False"):
        attention.forward(X, X, X, training=0)


@pytest.mark.parametrize("name", ["multi_head", "gat", "cross"])
def test_other_parameters_make_another_mechanism(name):
    plain, cache = MECHANISMS[name](), ab.AttentionCache()
    cached = plain.cached(cache)
    before = cached.forward(X, X, X).output
    held = {key: array * 2 for key, array in plain.parameters().items()}
    cached.set_parameters(held)
    after = cached.forward(X, X, X).output
    assert np.array_equal(after, plain.forward(X, X, X).output)
    assert not np.array_equal(after, before)
    assert cache.hits == 0
    assert np.array_equal(cached.forward(X, X, X).output, after)
    assert cache.hits == 1


def test_another_router_makes_another_mechanism():
    plain, cache = ab.MixtureOfExpertsAttention(d_model=8), ab.AttentionCache()
    cached = plain.cached(cache)
    cached.forward(X, X, X)
    held = plain.parameters()
    plain.set_parameters({name: -array for name, array in held.items()})
    assert np.array_equal(cached.forward(X, X, X).output, plain.forward(X, X, X).output)
    assert cache.hits == 0


def test_another_attribute_makes_another_mechanism():
    plain, cache = ab.ScaledDotProductAttention(), ab.AttentionCache()
    cached = plain.cached(cache)
    cached.forward(X, X, X)
    plain.scale = 3.0
    assert np.array_equal(cached.forward(X, X, X).output, plain.forward(X, X, X).output)
    assert cache.hits == 0


class Own(Attention):
    """A mechanism of the user's own, whose array changes where it is."""

    name = "own"

    def __init__(self, held=None):
        self.factor = np.ones(8, np.float32)
        self.held = held

    @property
    def config(self):
        return {}

    def _logits(self, batch: Batch):
        return np.stack([(batch.query[q] * self.factor) @ batch.key[k].T for q, k, _ in batch.which]).astype(np.float64)


def test_arrays_of_ones_own_may_change_where_they_are():
    cache, plain = ab.AttentionCache(), Own()
    cached = plain.cached(cache)
    first = cached.forward(X, X, X).output
    assert np.array_equal(cached.forward(X, X, X).output, first)
    assert cache.hits == 1
    plain.factor[:] = 2.0
    assert np.array_equal(cached.forward(X, X, X).output, plain.forward(X, X, X).output)
    assert not np.array_equal(cached.forward(X, X, X).output, first)


def test_of_ones_own_what_cannot_be_told_is_computed():
    cache = ab.AttentionCache()
    attention = Own(held=object()).cached(cache)
    assert np.array_equal(attention.forward(X, X, X).output, attention.forward(X, X, X).output)
    assert cache.misses == 0


def test_inputs_that_change_during_the_call_are_not_kept():
    cache = ab.AttentionCache()

    class Meddling(Own):
        def _logits(self, batch):
            mine[0, 0] += 1.0
            return super()._logits(batch)

    mine = X.copy()
    Meddling().cached(cache).forward(mine, X, X)
    assert (cache.misses, len(cache)) == (1, 0)


def test_several_mechanisms_share_a_cache():
    cache = ab.AttentionCache()
    several = [make().cached(cache) for make in MECHANISMS.values()]
    twice = [[attention.forward(X * 0.1, X * 0.1, X).output for attention in several] for _ in range(2)]
    assert all(map(np.array_equal, *twice))
    assert (cache.hits, cache.misses) == (len(several), len(several))
    again = several[0].cached(ab.AttentionCache())
    again.forward(X, X, X)
    assert cache.misses == len(several)  # the other cache's, once


def test_a_cached_mechanism_goes_where_its_cache_is_used():
    cached = ab.ScaledDotProductAttention(scale=7.0).cached(ab.AttentionCache())
    assert isinstance(cached, ab.Attention)
    for call in (
        lambda: Bridge(8, attention=cached),
        lambda: ab.AttentionGraph(nx.path_graph(3), missing="skip", attention=cached),
        lambda: ab.register_attention("kept", attention=cached),
        lambda: ab.connect(types={"kept": cached}),
        lambda: ab.AttentionRerank(cached),
        lambda: ab.AttentionDistance(cached),
    ):
        remedy = r"give the ScaledDotProductAttention itself, and to an AttentionVectorBridge cache=AttentionCache\(\)$"
        with pytest.raises(ab.InvalidConfigError, match="^attention must be without its cache where.*; " + remedy):
            call()
    with pytest.raises(ab.InvalidConfigError, match=r"experts must be without a cache.*cached\(.*; cache the mixture$"):
        ab.MixtureOfExpertsAttention([cached], d_model=8, top_k=1)
    with pytest.raises(ab.DimensionMismatchError, match="d_model"):
        Bridge(8, attention=ab.ScaledDotProductAttention(d_model=4).cached(ab.AttentionCache()))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cached.nothing


def test_masks_that_are_lists_of_pairs():
    cache = ab.AttentionCache()
    attention = ab.ScaledDotProductAttention().cached(cache)
    outputs = [
        attention.forward(X, X, X, mask=mask).output
        for mask in (ab.SparseMask.window((6, 6), 1), ab.SparseMask.window((6, 6), 2), ab.SparseMask.window((6, 6), 1))
    ]
    assert np.array_equal(outputs[0], outputs[2])
    assert not np.array_equal(outputs[0], outputs[1])
    assert (cache.hits, cache.misses) == (1, 2)


# ---- many threads, and a life of writes


def run_threads(work, count=8):
    errors, gate = [], threading.Barrier(count)

    def run(number):
        try:
            gate.wait()
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_eight_threads_lose_no_count_and_stay_in_the_budget(rounds):
    """Answers are the keys' own, every question is counted once, and no thread ever sees more than the budget."""
    calls, keys = rounds(2_000, 40_000), [Key((number, "x" * (number % 300))) for number in range(200)]
    cache, most, switch = ab.AttentionCache(60_000), [0] * 8, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(thread):
        rng = np.random.default_rng(thread)
        for number in rng.integers(0, 200, calls).tolist():
            value = cache.get(keys[number])
            assert value in (None, (number, "x"))
            if value is None:
                cache.put(keys[number], (number, "x"))
            most[thread] = max(most[thread], cache.bytes)

    try:
        run_threads(work)
    finally:
        sys.setswitchinterval(switch)
    assert cache.hits + cache.misses == 8 * calls
    assert cache.hits > 0
    assert 0 < max(most) <= cache.max_bytes
    assert cache.bytes == sum(size for _, size in cache._entries.values())


def test_eight_threads_search_while_one_writes(rounds):
    """Each thread sees its own writes at once: what it has deleted is never found."""
    bridge = bridge_of(count=400, index="exact", cache=ab.AttentionCache(200_000))
    queries = np.random.default_rng(9).standard_normal((30, 8))

    def work(thread):
        rng = np.random.default_rng(thread)
        for step in range(rounds(15, 300)):
            mine = f"own{thread}-{step}"
            vector = queries[int(rng.integers(30))]
            bridge.add(vector[None], ids=[mine], progress=False)
            assert mine in bridge.search(vector, k=200).ids
            assert mine in bridge.search(vector, k=200).ids
            bridge.delete([mine])
            assert mine not in bridge.search(vector, k=200).ids

    run_threads(work)
    for vector in queries:
        with uncached():
            plain = bridge.search(vector)
        assert bridge.search(vector) == plain == bridge.search(vector)
    assert bridge.cache.bytes <= 200_000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_an_empty_cache_that_works():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    cache = ab.AttentionCache()
    cache.put(Key((1,)), 1)

    def child(answers):
        got = [cache.get(Key((1,)))]
        cache.put(Key((2,)), 2)
        answers.put([*got, cache.get(Key((2,))), len(cache)])

    context = multiprocessing.get_context("fork")
    with cache._lock:  # held by somebody at the moment of the fork
        answers = context.SimpleQueue()
        process = context.Process(target=child, args=(answers,))
        process.start()
    process.join(60)
    assert process.exitcode == 0
    assert answers.get() == [None, 2, 1]
    assert len(cache) == 1


vectors = st.tuples(*[st.integers(-2, 2)] * 3).map(lambda v: v if any(v) else (1, 0, 0))
numbers = st.integers(0, 20)


class CachedLife(RuleBasedStateMachine):
    """A bridge with a cache against one without, under the same writes."""

    @initialize(index=st.sampled_from(["exact", "hnsw"]), budget=st.sampled_from([3_000, 20_000, 1_000_000]))
    def begin(self, index, budget):
        self.plain = Bridge(3, index=index, threads=1)
        self.cached = Bridge(3, index=index, threads=1, cache=ab.AttentionCache(budget))

    def both(self, act):
        return act(self.plain), act(self.cached)

    @rule(rows=st.dictionaries(numbers, vectors, min_size=1, max_size=5))
    def add(self, rows):
        years = [number % 4 for number in rows]
        self.both(lambda b: b.add(list(rows.values()), ids=list(rows), payload={"year": years}, progress=False))

    @rule(ids=st.lists(numbers, max_size=4))
    def delete(self, ids):
        self.both(lambda b: b.delete([id for id in set(ids) if id in b]))

    @rule(id=numbers, year=st.integers(0, 4))
    def payload(self, id, year):
        if id in self.plain:
            self.both(lambda b: b.set_payload([id], {"year": [year]}))

    @rule()
    def compact(self):
        self.both(lambda b: b.compact())

    @rule()
    def clear_cache(self):
        self.cached.cache.clear()

    @rule(
        query=vectors,
        k=st.integers(1, 4),
        where=st.sampled_from([None, "year > 1", "year = 2"]),
        filter=st.sampled_from([None, [1, 2, 3], [2, 4, 6, 8]]),
        rerank=st.sampled_from([(), "expansion", "mmr(0.5)", "default"]),
        exact=st.booleans(),
        again=st.integers(1, 2),
    )
    def search(self, query, k, where, filter, rerank, exact, again):
        if where is not None and not len(self.plain):
            return
        options = {"where": where, "filter": filter, "rerank": rerank, "exact": exact}
        for _ in range(again):
            want, got = self.both(lambda b: b.search(query, k, **options))
            assert same_hits(want, got)

    @rule(queries=st.lists(vectors, min_size=1, max_size=4), k=st.integers(1, 4))
    def batch(self, queries, k):
        want, got = self.both(lambda b: b.search_batch(queries, k))
        assert all(map(same_hits, want, got))

    @invariant()
    def in_budget(self):
        if hasattr(self, "cached"):
            cache = self.cached.cache
            assert cache.bytes <= cache.max_bytes
            assert cache.bytes == sum(size for _, size in cache._entries.values())


CachedLife.TestCase.settings = settings(
    max_examples=200 if SLOW else 15,
    stateful_step_count=50 if SLOW else 20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCachedLife = CachedLife.TestCase


def test_what_a_cached_mechanism_says_of_itself() -> None:
    cache = ab.AttentionCache()
    rows, edges = np.eye(4, dtype=np.float32), [[0, 1, 2], [1, 2, 1]]
    inner = ab.MultiHeadAttention(4, 2, max_seq_len=3, eps=0.5)
    found, want = inner.cached(cache).graph_forward(rows, edges), inner.graph_forward(rows, edges)
    np.testing.assert_array_equal(found.features, want.features)
    np.testing.assert_array_equal(found.coefficients, want.coefficients)
    kept, hits = inner.cached(cache), cache.hits
    for weight in ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]):
        weighed = inner.graph_forward(rows, edges, edge_weight=weight)
        np.testing.assert_array_equal(kept.graph_forward(rows, edges, edge_weight=weight).features, weighed.features)
    assert cache.hits == hits + 1
    with pytest.raises(ab.InputTooLargeError, match="max_seq_len = 3"):
        inner.cached(cache).graph_forward(rows, [[0, 1, 2, 3], [1, 1, 1, 1]])
    turned = ab.ScaledDotProductAttention(d_model=4, rotary=ab.RotaryEmbedding(4))
    assert turned.cached(cache).rotary is turned.rotary
    with pytest.raises(ab.InvalidConfigError, match="rotary must be None over a graph"):
        turned.cached(cache).graph_forward(rows, edges)
    with pytest.raises(ab.DimensionMismatchError, match="attention must have d_model = 5"):
        ab.AttentionVectorBridge(5, attention=turned.cached(cache))
