"""Sparse attention: every pattern against dense float64 attention under the same mask, its cost in pairs, refusals."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from memory import peak, traced

import attnbridge as ab
from attnbridge import kernels
from attnbridge.mechanisms import pairs
from attnbridge.mechanisms.base import Batch
from attnbridge.mechanisms.pairs import attend_sparse

PATTERNS = {
    "local": {"window": 3},
    "strided": {"block_size": 4},
    "block": {"block_size": 5},
    "local_global": {"window": 2, "num_global_tokens": 2},
    "fixed": {"block_size": 3},
}
MAX32 = float(np.finfo(np.float32).max)


def truth(q, k, v, mask=None, scale=None):
    """Return logits, weights and output of dense attention in float64, under a boolean or additive mask."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    logits = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf) if np.asarray(mask).dtype == bool else logits + mask
    top = logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits - np.where(top == -np.inf, 0.0, top))
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    return logits, weights, weights @ v


def largest(logits, k):
    """Return where the k largest of each row are that are not -inf, ties by the smaller number."""
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    keep = np.zeros(logits.shape, bool)
    np.put_along_axis(keep, order, True, axis=-1)
    return keep & (logits > -np.inf)


def qkv(rng, lead=(), queries=17, keys=17, dim=5, width=3, dtype=np.float32):
    return [rng.standard_normal((*lead, n, d)).astype(dtype) for n, d in ((queries, dim), (keys, dim), (keys, width))]


def require_close(got, want, dtype):
    tolerance = 1e-5 if dtype == np.float32 else 1e-11
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * 0.1)
    assert got.dtype == dtype


# ---- against dense attention


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "dim", "width"), [(1, 1, 1, 1), (17, 17, 5, 3), (7, 23, 11, 2), (23, 7, 3, 13)]
)
def test_a_pattern_is_dense_attention_under_its_mask(rng, pattern, dtype, causal, queries, keys, dim, width):
    q, k, v = qkv(rng, (), queries, keys, dim, width, dtype)
    k[-1] = k[0]
    attention = ab.SparseAttention(pattern, **PATTERNS[pattern], causal=causal)
    mask = attention.mask_for(queries, keys).to_dense()
    if causal:
        assert not np.triu(mask, 1).any()
    logits, weights, output = truth(q, k, v, mask)
    got = attention.forward(q, k, v, need_weights=True, need_context=True)
    require_close(got.output, output, dtype)
    require_close(got.weights, weights, dtype)
    require_close(attention.weights(q, k), weights, dtype)
    np.testing.assert_allclose(attention.logits(q, k), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.context.logsumexp, np.logaddexp.reduce(logits, axis=1), rtol=1e-5, atol=1e-6)
    assert (got.weights[~mask] == 0.0).all()
    np.testing.assert_allclose(got.weights.sum(axis=1), mask.any(axis=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("top_k", [None, 1, 3, 40, 100])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (17, 37), (37, 17), (3, 100)])
def test_top_k_keeps_the_largest_logits(rng, dtype, causal, top_k, queries, keys):
    q, k, v = (np.round(array * 2) for array in qkv(rng, (), queries, keys, dtype=dtype))  # many ties
    attention = ab.SparseAttention(top_k=top_k, scale=0.5)
    logits = truth(q, k, v, np.tri(queries, keys, dtype=bool) if causal else None, 0.5)[0]
    most = top_k or int(np.ceil(np.sqrt(keys)))
    keep = largest(logits, most)
    _, weights, output = truth(q, k, v, keep, 0.5)
    got = attention.forward(q, k, v, is_causal=causal, need_weights=True)
    require_close(got.output, output, dtype)
    require_close(got.weights, weights, dtype)
    assert ((got.weights > 0) <= keep).all()
    masked = attention.logits(q, k, is_causal=causal)
    assert ((masked > -np.inf) == keep).all()
    np.testing.assert_allclose(masked[keep], logits[keep], rtol=1e-6)
    assert attention._kept(keys) == min(keys, most)


def test_top_k_by_hand():
    """Logits 2, 0, 2, 1: the two kept are equal, so half each; with one, the first of the equal ones."""
    keys = np.array([[2.0], [0.0], [2.0], [1.0]], np.float32)
    attention = ab.SparseAttention(top_k=2, scale=1.0)
    assert attention.weights([1.0], keys).tolist() == [0.5, 0.0, 0.5, 0.0]
    assert attention.forward([1.0], keys, [[1.0], [5.0], [3.0], [9.0]]).output.tolist() == [2.0]
    assert ab.SparseAttention(top_k=1).weights([1.0], keys).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert ab.SparseAttention(top_k=1).weights([0.0], keys).tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("pattern", [*PATTERNS, "top_k", "mask"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", ["sparse", "bool", "bool per head", "bool row", "float", "float per batch"])
def test_masks_of_a_call_meet_the_pattern(rng, pattern, causal, form):
    """Also one row of nothing, and keys that nobody attends to."""
    lead, length = (2, 3), 13
    q, k, v = qkv(rng, lead, length, length)
    allowed = rng.random((*lead, length, length)) < 0.5
    allowed[..., 4, :] = False
    allowed[..., 7] = False
    shared = allowed[0, 0]
    added = np.where(allowed, rng.standard_normal(allowed.shape), -np.inf)
    mask, dense = {
        "sparse": (ab.SparseMask.from_dense(shared), shared),
        "bool": (shared, shared),
        "bool per head": (allowed[:1], allowed[:1]),
        "bool row": (allowed[0, 0, 0], allowed[0, 0, 0]),
        "float": (added[0, 0], added[0, 0]),
        "float per batch": (added[:, :1], added[:, :1]),
    }[form]
    attention = ab.SparseAttention(pattern, **PATTERNS.get(pattern, {}))
    logits = truth(q, k, v, dense)[0]
    if causal:
        logits = np.where(np.tri(length, dtype=bool), logits, -np.inf)
    keep = logits > -np.inf
    if pattern == "top_k":
        keep = largest(logits, 4)
    elif pattern != "mask":
        keep = keep & attention.mask_for(length, length).to_dense()
    logits = np.where(keep, logits, -np.inf)
    weights = np.exp(logits - np.maximum(logits.max(axis=-1, keepdims=True), -1e300))
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    got = attention.forward(q, k, v, mask, causal, need_weights=True)
    require_close(got.weights, weights, np.float32)
    require_close(got.output, weights @ v.astype(float), np.float32)
    np.testing.assert_allclose(attention.logits(q, k, mask, causal), logits, rtol=1e-5, atol=1e-6)
    if form != "bool row":
        assert (got.weights[..., 4, :] == 0.0).all()
        assert (got.output[..., 4, :] == 0.0).all()


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None)
def test_any_mask(dense, seed, causal):
    """Given to the mechanism, to the call, to both, or to attend_sparse."""
    rng = np.random.default_rng(seed)
    q, k, v = qkv(rng, (2,), *dense.shape)
    visible = dense & np.tri(*dense.shape, dtype=bool) if causal else dense
    _, weights, output = truth(q, k, v, visible)
    mask = ab.SparseMask.from_dense(dense)
    for own, given_mask in (
        (mask, None),
        (None, mask),
        (dense, mask),
        (None, dense),
        (mask, np.where(dense, 0.0, -np.inf)),
    ):
        got = ab.SparseAttention("mask", mask=own).forward(q, k, v, given_mask, causal, True)
        require_close(got.weights, weights, np.float32)
        require_close(got.output, output, np.float32)
    attended = attend_sparse(Batch.of(q, k, v, None, causal), mask, scale=None, need_weights=True)
    require_close(attended.weights, weights, np.float32)
    assert attend_sparse(Batch.of(q, k, v), mask, scale=None).weights is None


def test_a_sparse_mask_is_the_same_as_its_dense_form(rng):
    """With dropout too: the same pairs are dropped."""
    q, k, v = qkv(rng, (2, 3), 19, 23)
    mask = ab.SparseMask.window((19, 23), 4, 1)
    dense = ab.ScaledDotProductAttention(dropout=0.4, scale=0.7)
    sparse = ab.SparseAttention("mask", dropout=0.4, scale=0.7)
    for training in (False, True):
        got, want = (
            attention.forward(q, k, v, form, need_weights=True, training=training, seed=11)
            for attention, form in ((sparse, mask), (dense, mask.to_dense()))
        )
        np.testing.assert_allclose(got.weights, want.weights, rtol=1e-6)
        np.testing.assert_allclose(got.output, want.output, rtol=1e-5, atol=1e-6)
    there = np.broadcast_to(mask.to_dense(), got.weights.shape)
    assert 0.3 < (got.weights[there] == 0.0).mean() < 0.5
    again = sparse.forward(q, k, v, mask, need_weights=True, training=True, seed=12).weights
    assert ((again == 0.0) != (got.weights == 0.0)).any()


# ---- invariants


@pytest.mark.parametrize("pattern", [*PATTERNS, "top_k"])
def test_batch_equals_loop(rng, pattern):
    q, k, v = qkv(rng, (2, 3))
    attention = ab.SparseAttention(pattern, **PATTERNS.get(pattern, {}))
    whole = attention.forward(q, k[:, :1], v, need_weights=True)
    for b in range(2):
        for h in range(3):
            one = attention.forward(q[b, h], k[b, 0], v[b, h], need_weights=True)
            assert one.output.tobytes() == whole.output[b, h].tobytes()
            assert one.weights.tobytes() == whole.weights[b, h].tobytes()


@pytest.mark.parametrize("pattern", [*PATTERNS, "top_k"])
def test_causal_never_looks_ahead(rng, pattern):
    q, k, v = qkv(rng)
    attention = ab.SparseAttention(pattern, **PATTERNS.get(pattern, {}))
    before = attention.forward(q, k, v, is_causal=True).output
    k[9:], v[9:] = rng.standard_normal((8, 5)), 100.0
    after = attention.forward(q, k, v, is_causal=True).output
    assert before[:9].tobytes() == after[:9].tobytes()
    assert (before[9:] != after[9:]).any()
    flag = ab.SparseAttention(pattern, **PATTERNS.get(pattern, {}), causal=True)
    assert flag.forward(q, k, v).output.tobytes() == after.tobytes()


def test_permuting_keys_permutes_the_weights_of_top_k(rng):
    q, k, _ = qkv(rng)
    order = rng.permutation(17)
    attention = ab.SparseAttention()
    np.testing.assert_allclose(attention.weights(q, k[order]), attention.weights(q, k)[:, order], rtol=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_position_says_which_rows_the_queries_are(rng, pattern):
    """As in decoding: one query, or a few, over all the keys so far."""
    q, k, v = qkv(rng)
    whole = ab.SparseAttention(pattern, **PATTERNS[pattern])
    for causal in (False, True):
        want = whole.forward(q, k, v, is_causal=causal).output
        logits = whole.logits(q, k, is_causal=causal)
        for position in (0, 6, 16):
            part = ab.SparseAttention(pattern, **PATTERNS[pattern], position=position)
            assert part.forward(q[position], k, v, is_causal=causal).output.tobytes() == want[position].tobytes()
            got = part.forward(q[position:], k, v, is_causal=causal)
            assert got.output.tobytes() == want[position:].tobytes()
            assert (part.logits(q[position], k, is_causal=causal) == logits[position]).all()


def test_position_in_a_given_mask(rng):
    q, k, v = qkv(rng)
    mask = ab.SparseMask.from_dense(rng.random((17, 17)) < 0.4)
    want = ab.SparseAttention("mask", mask=mask).forward(q, k, v).output
    got = ab.SparseAttention("mask", mask=mask, position=6).forward(q[6:11], k, v).output
    assert got.tobytes() == want[6:11].tobytes()


@pytest.mark.parametrize("threads", ["1", "2", "3"])
@pytest.mark.parametrize("pattern", ["fixed", "top_k"])
def test_chunks_and_threads_do_not_show(rng, pattern, threads, monkeypatch):
    q, k, v = qkv(rng, (), 61, 61)
    attention = ab.SparseAttention(pattern, dropout=0.3)
    want = attention.forward(q, k, v, is_causal=True, need_weights=True, training=True, seed=3)
    monkeypatch.setattr(pairs, "CHUNK", 1_000)
    monkeypatch.setenv("ATTNBRIDGE_NUM_THREADS", threads)
    got = attention.forward(q, k, v, is_causal=True, need_weights=True, training=True, seed=3)
    assert got.output.tobytes() == want.output.tobytes()
    assert got.weights.tobytes() == want.weights.tobytes()


def test_every_argument_changes_the_result(rng):
    q, k, v = qkv(rng, (), 31, 31)
    run = lambda *args, **options: ab.SparseAttention(*args, **options).forward(q, k, v, training=True, seed=1).output  # noqa: E731
    pairs_of_calls = [
        (run(), run(top_k=2)),
        (run(), run(scale=3.0)),
        (run(), run(dropout=0.5)),
        (run(), run(causal=True)),
        (run("local", window=2), run("local", window=3)),
        (run("local", window=2), run("local", window=2, position=5)),
        (run("strided", block_size=2), run("strided", block_size=3)),
        (run("block", block_size=2), run("block", block_size=3)),
        (run("fixed", block_size=4), run("block", block_size=4)),
        (run("local_global", window=2), run("local_global", window=2, num_global_tokens=1)),
        (run("local", window=2), run("local_global", window=2, num_global_tokens=1)),
        (run("mask", mask=ab.SparseMask.causal((31, 31))), run("mask", mask=ab.SparseMask.window((31, 31), 2))),
    ]
    for number, (a, b) in enumerate(pairs_of_calls):
        assert (a != b).any(), number


# ---- numbers


@pytest.mark.parametrize("options", [{"pattern": "local", "window": 1}, {"top_k": 2}], ids=["local", "top_k"])
def test_half_of_the_largest_float32(options):
    big = np.float32(MAX32 / 2)
    x = np.array([[big, -big], [-big, big], [big, big]], np.float32)
    attention = ab.SparseAttention(**options)
    output, weights, _ = attention.forward(x, x, x, need_weights=True)
    assert np.isfinite(attention.logits(x, x)[0, 0])
    assert weights.tolist() == np.eye(3).tolist()
    assert output.tolist() == x.tolist()


def test_equal_huge_logits_give_equal_weights():
    x = np.full((5, 3), MAX32 / 2, np.float32)
    attention = ab.SparseAttention("local", window=1)
    np.testing.assert_allclose(attention.weights(x, x)[2], [0.0, 1 / 3, 1 / 3, 1 / 3, 0.0], rtol=1e-7)
    np.testing.assert_allclose(attention.forward(x, x, x).output, x, rtol=1e-6)
    np.testing.assert_allclose(ab.SparseAttention(top_k=2).weights(x, x)[2], [0.5, 0.5, 0.0, 0.0, 0.0], rtol=1e-7)


# ---- cost


def test_work_is_that_of_the_pairs(monkeypatch):
    """Counted in pairs that the kernel is given: twice the tokens are twice the pairs, not four times."""
    seen = []
    kernel = kernels.attend_pairs

    def counting(queries, keys, values, indptr, *rest):
        seen.append(int(indptr[-1] - indptr[0]))
        return kernel(queries, keys, values, indptr, *rest)

    monkeypatch.setattr(kernels, "attend_pairs", counting)
    counts = {}
    for n in (1_024, 2_048, 4_096):
        x = np.ones((n, 1), np.float32)
        for pattern, arguments in (("local", {"window": 16}), ("fixed", {"block_size": int(n**0.5)}), ("top_k", {})):
            attention = ab.SparseAttention(pattern, **arguments)
            seen.clear()
            attention.forward(x, x, x)
            counts[pattern, n] = sum(seen)
            if pattern != "top_k":
                assert sum(seen) == attention.mask_for(n, n).nnz
    assert counts["local", 4_096] == 4_096 * 33 - 16 * 17
    assert counts["local", 4_096] / counts["local", 2_048] == pytest.approx(2.0, rel=0.01)
    assert counts["fixed", 4_096] / counts["fixed", 1_024] == pytest.approx(8.0, rel=0.05)  # n sqrt n
    assert counts["top_k", 4_096] == 4_096 * 64


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (16_384, {"pattern": "local", "window": 64}),
        (16_384, {"pattern": "strided", "block_size": 128}),
        (16_384, {"pattern": "mask"}),
        (4_096, {"top_k": 64}),
    ],
    ids=["local", "strided", "mask", "top_k"],
)
def test_memory_is_that_of_the_pairs(n, options):
    x = np.random.default_rng(0).standard_normal((n, 8)).astype(np.float32)
    mask = ab.SparseMask.window((n, n), 64) if options.get("pattern") == "mask" else None
    attention = ab.SparseAttention(**options)
    attention.forward(x[:200], x[:200], x[:200], None if mask is None else ab.SparseMask.causal((200, 200)))
    listed = n * attention._kept(n) if mask is None and "top_k" in options else (mask or attention.mask_for(n, n)).nnz
    with traced():
        attention.forward(x, x, x, mask)
        assert peak() < min(20 * listed + 100 * n, n * n * 4 / (10 if n > 10_000 else 4))


# ---- in the registry


def test_row_of_the_registry(rng):
    row = next(row for row in ab.attention_types() if row["name"] == "sparse")
    assert row["complexity"] == "O(n sqrt n)"
    assert row["best_for"] == "pattern masks, ultra-long (>16K)"
    assert row["pairwise"] is False
    assert row["build_space"] == "metric"
    assert row["options"]["pattern"] == "top_k"
    q, k, v = qkv(rng)
    for pattern, arguments in {"top_k": {"top_k": 3}, **PATTERNS}.items():
        attention = ab.SparseAttention(pattern, **arguments)
        about = {"pattern": pattern, **arguments}
        assert (ab.attention(q, k, v, "sparse", **about) == attention.forward(q, k, v).output).all()
        assert (ab.attention_scores(q, k, "sparse", **about) == attention.weights(q, k)).all()
        assert (ab.attention_logits(q, k, "sparse", **about) == attention.logits(q, k)).all()
    mask = ab.SparseMask.window((17, 17), 2)
    got = ab.attention(q, k, v, "sparse", pattern="mask", mask=mask)
    assert (got == ab.SparseAttention("local", window=2).forward(q, k, v).output).all()
    one = ab.attention_logits(q[4], k, "sparse", pattern="local", window=2, position=4)
    assert np.flatnonzero(one > -np.inf).tolist() == [2, 3, 4, 5, 6]


def test_bridge_ranks_inside_the_pattern(rng):
    rows = rng.standard_normal((40, 5)).astype(np.float32)
    query = rng.standard_normal(5).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=5, metric="ip", attention="sparse", top_k=4, index="exact")
    bridge.add(rows)
    hits = bridge.search(query, k=40, candidates=40)
    logits = truth(query[None], rows, rows)[0][0]
    keep = largest(logits, 4)
    best = [row for row in np.argsort(-logits).tolist() if keep[row]]
    assert hits.ids == best
    np.testing.assert_allclose(hits.scores, logits[best], rtol=1e-5)
    weights = np.exp(logits[best] - logits[best].max())
    np.testing.assert_allclose(hits.weights, weights / weights.sum(), rtol=1e-5)


def test_bridge_with_nothing_to_rank():
    bridge = ab.AttentionVectorBridge(dim=2, attention="sparse", index="exact")
    bridge.add([[1.0, 0.0]], payload={"year": [1]})
    assert bridge.search([1.0, 0.0], where="year > 1").ids == []
    assert bridge.search([1.0, 0.0], where="year = 1").ids == [0]


# ---- settings


@pytest.mark.parametrize("pattern", [*PATTERNS, "top_k"])
def test_config_makes_an_equal_mechanism(pattern):
    attention = ab.SparseAttention(pattern, **PATTERNS.get(pattern, {}), causal=True, scale=2.0, dropout=0.25)
    config = json.loads(json.dumps(attention.config))
    again = ab.SparseAttention(**config)
    assert again.config == attention.config
    if pattern != "top_k":
        assert again.mask_for(11, 13) == attention.mask_for(11, 13)
    assert repr(attention).startswith(f"SparseAttention(pattern={pattern!r}, ")


def test_config_of_a_mask():
    attention = ab.SparseAttention("mask", mask=np.eye(3, dtype=bool))
    assert attention.config["mask"] == {"indptr": [0, 1, 2, 3], "indices": [0, 1, 2], "shape": [3, 3]}
    again = ab.SparseAttention(**json.loads(json.dumps(attention.config)))
    assert again.config == attention.config
    assert again.mask_for(3, 3) == ab.SparseMask.from_pairs([0, 1, 2], [0, 1, 2], (3, 3))
    assert ab.SparseAttention("mask").config["mask"] is None
    assert repr(attention).startswith("SparseAttention(pattern='mask', mask=SparseMask(shape=(3, 3), nnz=3), ")


def test_from_config_takes_what_the_pattern_has():
    for pattern, names in {
        "top_k": {"top_k": 7},
        "local": {"window": 9},
        "strided": {"block_size": 5},
        "block": {"block_size": 5},
        "local_global": {"window": 9, "num_global_tokens": 2},
        "fixed": {"block_size": 5},
    }.items():
        own = {"local_window" if name == "window" else name: value for name, value in names.items()}
        got = ab.SparseAttention.from_config(ab.SparseAttentionConfig(pattern, **own)).config
        assert got == ab.SparseAttention(pattern, **names).config
        assert got.items() >= names.items()
    defaults = ab.SparseAttention.from_config(ab.SparseAttentionConfig()).config
    assert defaults == ab.SparseAttention("local").config
    assert defaults["window"] == 128


@pytest.mark.parametrize(
    ("pattern", "setting", "message"),
    [
        (
            "top_k",
            {"local_window": 5},
            r"local_window = 128, its default, with SparseAttention\('top_k'\), got 5; SparseAttention\('local'\), "
            r"SparseAttention\('local_global'\) have it$",
        ),
        (
            "top_k",
            {"block_size": 3},
            r"block_size = 64, its default, with SparseAttention\('top_k'\), got 3; Spa.* have",
        ),
        ("fixed", {"top_k": 3}, r"top_k = None, .*'fixed'\), got 3; SparseAttention\('top_k'\) has it$"),
        (
            "local",
            {"num_global_tokens": 2},
            r"num_global_tokens = 0, .* got 2; SparseAttention\('local_global'\) has it$",
        ),
    ],
    ids=str,
)
def test_from_config_refuses_what_the_pattern_has_not(pattern, setting, message):
    with pytest.raises(ab.InvalidConfigError, match=f"^config must have {message}"):
        ab.SparseAttention.from_config(ab.SparseAttentionConfig(pattern, **setting))


def test_mask_for_follows_causal_and_position():
    causal = ab.SparseAttention("local", window=2, causal=True)
    assert causal.mask_for(7, 7) == ab.SparseMask.window((7, 7), 2, causal=True)
    later = ab.SparseAttention("local", window=2, position=3, causal=True)
    assert (later.mask_for(4, 7).to_dense() == causal.mask_for(7, 7).to_dense()[3:]).all()


# ---- refusals

X = np.eye(4, dtype=np.float32)


def searched(**options):
    bridge = ab.AttentionVectorBridge(dim=4, attention="sparse", index="exact", **options)
    bridge.add(X)
    return bridge.search(X[0], k=2)


HUGE = np.full((2, 2), 1e200)

BAD = [
    (
        lambda: ab.SparseAttention("diagonal"),
        ab.InvalidConfigError,
        "pattern must be one of block, fixed, .*'diagonal'",
    ),
    (
        lambda: ab.SparseAttention(window=3),
        ab.InvalidConfigError,
        "window belongs to pattern 'local' or 'local_global', got window=3 with 'top_k'",
    ),
    (
        lambda: ab.SparseAttention("local", top_k=3),
        ab.InvalidConfigError,
        "top_k belongs to pattern 'top_k', got top_k=3 with 'local'",
    ),
    (
        lambda: ab.SparseAttention("local", block_size=3),
        ab.InvalidConfigError,
        "block_size belongs to pattern 'strided' or 'block' or 'fixed', got block_size=3 with 'local'",
    ),
    (
        lambda: ab.SparseAttention("local", num_global_tokens=0),
        ab.InvalidConfigError,
        "num_global_tokens belongs to pattern 'local_global'",
    ),
    (lambda: ab.SparseAttention(mask=X > 0), ab.InvalidConfigError, "mask belongs to pattern 'mask', got mask="),
    (lambda: ab.SparseAttention(position=0), ab.InvalidConfigError, "position belongs to pattern 'local' or"),
    (lambda: ab.SparseAttention(top_k=0), ab.InvalidConfigError, "top_k must be a whole number >= 1, got 0"),
    (lambda: ab.SparseAttention("local", window=0), ab.InvalidConfigError, "window must be a whole number >= 1, got 0"),
    (
        lambda: ab.SparseAttention("block", block_size=-1),
        ab.InvalidConfigError,
        "block_size must be a whole number >= 1, got -1",
    ),
    (
        lambda: ab.SparseAttention("local_global", num_global_tokens=-1),
        ab.InvalidConfigError,
        "num_global_tokens must be a whole number >= 0, got -1",
    ),
    (
        lambda: ab.SparseAttention("local", position=-1),
        ab.InvalidConfigError,
        "position must be a whole number >= 0, got -1",
    ),
    (lambda: ab.SparseAttention(scale=0), ab.InvalidConfigError, "scale must be a finite number > 0, got 0"),
    (lambda: ab.SparseAttention(dropout=1.0), ab.InvalidConfigError, r"dropout must be in \[0, 1\), got 1.0"),
    (lambda: ab.SparseAttention(causal=1), ab.InvalidConfigError, "causal must be True or False, got 1"),
    (
        lambda: ab.SparseAttention("mask", mask=[[1, 0]]),
        ab.InvalidMaskError,
        "mask must be a SparseMask or a boolean matrix",
    ),
    (
        lambda: ab.SparseAttention("mask", mask={"rows": [0]}),
        ab.InvalidMaskError,
        "mask as a mapping must have indptr, indices and shape, got rows",
    ),
    (lambda: ab.SparseAttention().mask_for(3, 3), ab.InvalidConfigError, "pattern must not be 'top_k'"),
    (lambda: ab.SparseAttention("local").mask_for(0, 3), ab.InvalidConfigError, "queries must be a whole number >= 1"),
    (
        lambda: ab.SparseAttention("local").weights(X[0], X),
        ab.InvalidConfigError,
        "position must be given for a single query with pattern='local': which row of it the query is",
    ),
    (
        lambda: ab.attention_scores(X[0], X, "sparse", pattern="fixed"),
        ab.InvalidConfigError,
        "position must be given for a single query with pattern='fixed'",
    ),
    (
        lambda: ab.SparseAttention("mask").weights(X, X),
        ab.InvalidMaskError,
        "mask must be given to the mechanism or to the call with pattern='mask'",
    ),
    (
        lambda: ab.SparseAttention("mask", mask=X > 0).weights(X[:3], X),
        ab.InvalidMaskError,
        r"mask must have shape \(queries, keys\) = \(3, 4\), got \(4, 4\)",
    ),
    (
        lambda: ab.SparseAttention("mask", mask=X > 0, position=2).weights(X[:3], X),
        ab.InvalidMaskError,
        "mask must have a row for position 4, got 4 rows",
    ),
    (
        lambda: ab.SparseAttention().weights(X, X, ab.SparseMask.causal((4, 3))),
        ab.InvalidMaskError,
        r"\(queries, keys\) = \(4, 4\), got a SparseMask \(4, 3\)",
    ),
    (
        lambda: ab.attention_score(X[0], X[0], "sparse"),
        ab.InvalidConfigError,
        "must be pairwise for the score of a pair, got 'sparse'",
    ),
    (
        lambda: searched(window=3),
        ab.InvalidConfigError,
        "window belongs to pattern",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=range(len(BAD)))
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("options", [{"top_k": 2}, {"pattern": "local", "window": 1}], ids=["top_k", "local"])
@pytest.mark.parametrize("method", ["logits", "weights", "forward"])
def test_bad_numbers_are_refused(options, method):
    """Also in keys that nobody attends to."""
    attention = ab.SparseAttention(**options)
    run = getattr(attention, method)
    args = (X,) if method == "forward" else ()
    for bad in (np.nan, np.inf):
        keys = X.copy()
        keys[2, 1] = bad
        with pytest.raises(ab.InvalidInputError, match=f"key must be finite: row 2, column 1 is {bad}"):
            run(X[:1][[0]], keys, *args)
        with pytest.raises(ab.InvalidInputError, match=f"query must be finite: row 2, column 1 is {bad}"):
            run(keys, X, *args)
    with pytest.raises(ab.InvalidInputError, match="query and key must have products within float64"):
        run(HUGE, HUGE, *([HUGE] if args else []))
    with pytest.raises(ab.InvalidInputError, match="products within float64"):  # the sum of +inf and -inf is NaN
        run(HUGE, HUGE * [1.0, -1.0], *([HUGE] if args else []))
    added = np.full((2, 2), 1e308)
    with pytest.raises(ab.InvalidMaskError, match="mask must stay within float64 when added"):
        run(np.full((2, 2), 1e153), np.full((2, 2), 1.2e155), *([HUGE] if args else []), added)


def test_values_must_be_finite():
    values = X.copy()
    values[3, 0] = np.nan
    with pytest.raises(ab.InvalidInputError, match="value must be finite: row 3, column 0 is nan"):
        ab.SparseAttention("local", window=1).forward(X[:1], X, values)


def test_numbers_beyond_int64_are_refused():
    for pattern, name in (("local", "window"), ("block", "block_size"), ("local_global", "num_global_tokens")):
        with pytest.raises(ab.InvalidConfigError, match=f"{name} must fit 63 bits, got {2**63}"):
            ab.SparseAttention(pattern, **{name: 2**63})
    x = np.eye(4, dtype=np.float32)
    with pytest.raises(ab.InvalidConfigError, match=f"position must be at most {2**31 - 1}, got {10**30}"):
        ab.attention(x, x, x, "sparse", pattern="local", position=10**30)


@pytest.mark.parametrize(("pattern", "name"), [("local", "window"), ("strided", "block_size")])
def test_the_largest_position_and_sizes_attend_to_everything(pattern, name):
    x = np.eye(4, dtype=np.float32)
    options = {"pattern": pattern, "position": 2**31 - 1, name: 2**63 - 1}
    np.testing.assert_array_equal(ab.attention(x[0], x, x, "sparse", **options), ab.attention(x[0], x, x))
