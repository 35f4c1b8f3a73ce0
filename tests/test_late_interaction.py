"""Late interaction: hard and soft MaxSim over stored tokens of both kinds, against float64 loops."""

import numpy as np
import pytest

import attnbridge as ab
from attnbridge import kernels
from attnbridge.kernels.maxsim import BLOCK, FEW
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Pool, TokenRows, as_stages
from attnbridge.scoring import REGISTRY, resolve
from attnbridge.trace import Attended

DIM = 13
LENGTHS = (3, 0, 1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5, 11)


def late(query_tokens, weights, tokens, soft=None):
    """Return sum_i w_i max_j s_ij, or of the means of s_ij under softmax_j(soft s_ij)."""
    total = 0.0
    for weight, q in zip(weights, query_tokens, strict=True):
        products = (np.asarray(tokens, np.float64).reshape(-1, len(q)) @ np.asarray(q, np.float64)).tolist()
        if not products:
            return np.nan
        best = max(products)
        if soft is not None:
            shares = [np.exp(soft * (s - best)) for s in products]
            best = sum(p * s for p, s in zip(shares, products, strict=True)) / sum(shares)
        total += weight * best
    return total


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def kept(values, kind):
    """Return tokens as a store keeps them, and the float64 values that they stand for."""
    if kind == "float16":
        half = values.astype(np.float16)
        return half.view(np.uint16), None, half.astype(np.float64)
    scale = (np.abs(values).max(axis=1) / 127.0).astype(np.float32)
    codes = np.round(values / scale[:, None]).astype(np.int8)
    return codes, scale, codes * scale[:, None].astype(np.float64)


def pool_of(values, lengths, query_tokens, weights=None, kind="float16"):
    """Return a pool of documents of equal vectors, and the tokens of each as float64."""
    data, scale, numbers = kept(values, kind)
    lengths = np.array(lengths)
    starts = np.cumsum(lengths) - lengths
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    keys, n = Keys(np.ones((len(lengths), 2), np.float32)), len(lengths)
    query = np.ones(2, np.float32)
    pool = Pool(query, 0.0, Metric("ip"), keys, np.arange(n), np.arange(n, 0.0, -1.0), attention, options)
    pool.tokens = TokenRows(data, starts, lengths, scale)
    pool.query_tokens = np.asarray(query_tokens, np.float32)
    m = len(pool.query_tokens)
    pool.query_token_weights = np.full(m, 1.0 / m) if weights is None else np.asarray(weights, np.float64)
    return pool, [numbers[s : s + c] for s, c in zip(starts, lengths, strict=True)]


@pytest.fixture
def values(rng):
    return unit(rng.standard_normal((sum(LENGTHS), DIM)))


@pytest.mark.parametrize("kind", ["float16", "int8"])
@pytest.mark.parametrize("m", [1, 3, FEW, FEW + 1, 32, 33, 64, 71])
def test_matches_are_those_of_the_stored_values(rng, values, kind, m):
    weights = rng.random(m)
    pool, documents = pool_of(values, LENGTHS, unit(rng.standard_normal((m, DIM))), weights / weights.sum(), kind)
    for soft in (None, 0.5, 20.0):
        got = ab.LateInteraction(soft=soft).matches(pool, pool.rows)
        want = [late(pool.query_tokens, pool.query_token_weights, own, soft) for own in documents]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        assert np.isnan(got).tolist() == [length == 0 for length in LENGTHS]


@pytest.mark.parametrize("dim", [1, 2, 7, 17, 67])
def test_any_dimension(rng, dim):
    pool, documents = pool_of(rng.standard_normal((9, dim)), (4, 5), rng.standard_normal((11, dim)), kind="int8")
    want = [late(pool.query_tokens, pool.query_token_weights, own, 3.0) for own in documents]
    np.testing.assert_allclose(ab.LateInteraction(soft=3.0).matches(pool, pool.rows), want, rtol=1e-5)


def test_by_hand():
    """Products 0 and ln 3, factor 2: shares 1 and 9 of ten."""
    tokens = np.array([[0.0, 1.0], [1.0, 0.0]])
    pool, _ = pool_of(tokens, (2,), [[np.log(3.0), 0.0]])
    assert ab.LateInteraction().matches(pool, pool.rows)[0] == pytest.approx(np.log(3.0), rel=1e-6)
    assert ab.LateInteraction(soft=2.0).matches(pool, pool.rows)[0] == pytest.approx(0.9 * np.log(3.0), rel=1e-6)


@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
def test_scores_are_mixed_as_z_scores(rng, values, mix):
    pool, documents = pool_of(values, LENGTHS, rng.standard_normal((5, DIM)))
    pool.scores[4] = -np.inf
    before = np.delete(pool.scores, 4)
    ab.LateInteraction(mix=mix, soft=20.0).apply(pool)
    matches = np.array([late(pool.query_tokens, pool.query_token_weights, own, 20.0) for own in documents])
    known = np.delete(matches, 4)  # what is ruled out is no part of either
    new = (matches - np.nanmean(known)) / np.nanstd(known)
    old = np.insert((before - before.mean()) / before.std(), 4, -np.inf)
    want = (1.0 - mix) * old + mix * np.nan_to_num(new) if mix < 1.0 else np.nan_to_num(new)
    want[4] = -np.inf
    np.testing.assert_allclose(pool.scores, want, rtol=1e-4, atol=1e-5)


# ---- limits and invariances


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_soft_lies_between_the_mean_and_the_maximum(rng, values, kind):
    pool, documents = pool_of(values, LENGTHS, unit(rng.standard_normal((6, DIM))), kind=kind)
    hard = ab.LateInteraction().matches(pool, pool.rows)
    means = [np.mean(pool.query_tokens @ own.T) if len(own) else np.nan for own in documents]
    by_factor = [ab.LateInteraction(soft=soft).matches(pool, pool.rows) for soft in (1e-30, 1.0, 10.0, 100.0, 1e30)]
    np.testing.assert_allclose(by_factor[0], means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_factor[-1], hard, rtol=1e-6)
    many = np.array(LENGTHS) > 1
    assert (np.diff([means, *by_factor[1:-1], hard], axis=0)[:, many] > 0).all()
    one = np.array(LENGTHS) == 1
    assert all(np.allclose(soft[one], hard[one], rtol=1e-6) for soft in by_factor)


@pytest.mark.parametrize("soft", [1e-320, 1e308, 1e39, 1e-39])
def test_factors_beyond_float32(rng, soft):
    for size in (1.0, 1e30, 1e-30):
        query_tokens = size * rng.standard_normal((3, 5))
        pool, documents = pool_of(rng.standard_normal((6, 5)), (6,), query_tokens)
        products = pool.query_tokens.astype(np.float64) @ documents[0].T
        want = (products.max(axis=1) if soft * size > 1.0 else products.mean(axis=1)).mean()
        got = ab.LateInteraction(soft=soft).matches(pool, pool.rows)
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("soft", [None, 20.0])
def test_a_document_whose_tokens_come_twice_is_no_better(rng, values, soft):
    query_tokens = unit(rng.standard_normal((9, DIM)))
    once, _ = pool_of(values, LENGTHS, query_tokens)
    cuts = np.cumsum(LENGTHS)[:-1]
    twice, _ = pool_of(
        np.concatenate([np.tile(own, (2, 1)) for own in np.split(values, cuts)]), 2 * np.array(LENGTHS), query_tokens
    )
    stage = ab.LateInteraction(soft=soft)
    np.testing.assert_allclose(stage.matches(twice, twice.rows), stage.matches(once, once.rows), rtol=2e-6)


@pytest.mark.parametrize("kind", ["float16", "int8"])
@pytest.mark.parametrize("m", [3, 32, 35])
@pytest.mark.parametrize("soft", [None, 20.0])
def test_a_candidate_has_the_same_bits_in_any_company(rng, values, kind, m, soft):
    pool, _ = pool_of(values, LENGTHS, unit(rng.standard_normal((m, DIM))), kind=kind)
    stage = ab.LateInteraction(soft=soft)
    together = stage.matches(pool, pool.rows)
    order = rng.permutation(len(LENGTHS))
    assert stage.matches(pool, order).tobytes() == together[order].tobytes()
    alone = np.concatenate([stage.matches(pool, np.array([row])) for row in pool.rows])
    assert alone.tobytes() == together.tobytes()


def test_the_order_of_tokens_does_not_matter(rng, values):
    query_tokens = unit(rng.standard_normal((10, DIM)))
    pool, _ = pool_of(values, (len(values),), query_tokens)
    moved, _ = pool_of(values[rng.permutation(len(values))], (len(values),), query_tokens)
    hard, soft = ab.LateInteraction(), ab.LateInteraction(soft=20.0)
    assert hard.matches(moved, moved.rows) == hard.matches(pool, pool.rows)
    np.testing.assert_allclose(soft.matches(moved, moved.rows), soft.matches(pool, pool.rows), rtol=1e-6)
    swapped, _ = pool_of(values, (len(values),), query_tokens[::-1])
    np.testing.assert_allclose(soft.matches(swapped, swapped.rows), soft.matches(pool, pool.rows), rtol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_batch_is_its_queries_one_by_one(rng, metric):
    bridge = ab.AttentionVectorBridge(dim=7, metric=metric)
    bridge.add(rng.standard_normal((60, 7)), tokens=[rng.standard_normal((n % 6, 5)) for n in range(60)])
    queries, tokens = rng.standard_normal((9, 7)), [rng.standard_normal((n + 1, 5)) for n in range(9)]
    rerank = [ab.LateInteraction(soft=20.0, top_tokens=4)]
    batch = bridge.search_batch(queries, k=20, query_tokens=tokens, rerank=rerank)
    for query, own, hits in zip(queries, tokens, batch, strict=True):
        assert hits == bridge.search(query, k=20, query_tokens=own, rerank=rerank)


# ---- large numbers


@pytest.mark.parametrize("soft", [None, 1e-3, 20.0])
def test_what_exceeds_float32_is_done_again(soft):
    """Codes whose scales are as large as float32 goes, some with products of both signs."""
    codes = np.array([[127, 0, 1], [-127, 5, 0], [127, 127, 127], [1, 1, 1], [-1, -1, -1]], np.int8)
    scale = np.array([1e36, 2.5e36, 2.5e36, 1.0, 2.5e36], np.float32)
    lengths = np.array([2, 1, 1, 1])
    pool, _ = pool_of(np.ones((5, 3)), lengths, [[3e38, -1e37, 1.0], [1.0, 2.0, -1e38]])
    pool.tokens = TokenRows(codes, np.array([0, 2, 3, 4]), lengths, scale)
    got = ab.LateInteraction(soft=soft).matches(pool, pool.rows)
    numbers = codes * scale[:, None].astype(np.float64)
    documents = [numbers[s : s + c] for s, c in zip(pool.tokens.starts, lengths, strict=True)]
    with np.errstate(over="ignore"):
        want = [late(pool.query_tokens, [0.5, 0.5], own, soft) for own in documents]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_cross_attention_reads_codes(rng, values):
    """One token and several, hard and soft, below and beyond what float32 is trusted with."""
    codes, scale, numbers = kept(values, "int8")
    lengths = np.array(LENGTHS)
    starts = np.cumsum(lengths) - lengths
    tokens, rows = TokenRows(codes, starts, lengths, scale), np.array([3, 0, 1, 2, 9, 8])
    for m, size, temperature in ((1, 1.0, None), (1, 1e3, 0.1), (4, 1.0, None), (4, 1e3, None), (9, 1.0, 0.1)):
        query_tokens, out = (size * rng.standard_normal((m, DIM))).astype(np.float32), np.empty(6)
        options = {"scale": 2.0, "temperature": temperature}
        REGISTRY["cross"].token_logits(query_tokens, np.full(m, 1.0 / m), tokens, rows, options, out)
        soft = None if temperature is None else 1.0 / temperature
        documents = [numbers[starts[r] : starts[r] + lengths[r]] for r in rows]
        want = [2.0 * late(query_tokens, [1.0 / m] * m, own, soft) for own in documents]
        np.testing.assert_allclose(out, np.nan_to_num(want, nan=-np.inf), rtol=1e-5, atol=1e-6)


# ---- the tokens that are read


def test_top_tokens_are_the_heaviest(rng, values):
    query_tokens, weights = rng.standard_normal((6, DIM)), np.array([0.1, 0.3, 0.05, 0.3, 0.0, 0.25])
    pool, documents = pool_of(values, LENGTHS, query_tokens, weights)
    for top, chosen in ((1, None), (2, [1, 3]), (3, [1, 3, 5]), (5, [0, 1, 2, 3, 5]), (6, range(6)), (99, range(6))):
        got = ab.LateInteraction(top_tokens=top).matches(pool, pool.rows)
        if chosen is None:  # of two that weigh the same
            chosen = [min((1, 3), key=lambda i: alike(query_tokens)[i])]
        chosen = list(chosen)
        w = weights[chosen] / weights[chosen].sum()
        want = [late(pool.query_tokens[chosen], w, own) for own in documents]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    every = ab.LateInteraction().matches(pool, pool.rows)
    assert ab.LateInteraction(top_tokens=6).matches(pool, pool.rows).tobytes() == every.tobytes()


def alike(query_tokens):
    """Return each token's mean cosine with the others."""
    cosines = unit(query_tokens) @ unit(query_tokens).T
    return (cosines.sum(axis=1) - 1.0) / (len(query_tokens) - 1)


def test_of_equal_tokens_those_least_like_the_others_are_read():
    """Two bundles and a lone one, which goes first; lengths do not matter, and one of zeros comes last."""
    query_tokens = np.array([[0, 0, 0], [9, 1, 0], [9, 2, 0], [8, 0, 1], [0, 1, 3], [0, 0, 0.1]])
    pool, _ = pool_of(np.eye(3), (1, 1, 1), query_tokens)
    order = []
    for top in range(1, 7):
        ab.LateInteraction(top_tokens=top).apply(pool)
        read = {one.query for one in pool.attended(2)}
        order += sorted(read.difference(order))
    want = sorted(range(1, 6), key=lambda i: alike(query_tokens[1:])[i - 1])
    assert order == [*want, 0]
    assert set(order[:2]) == {4, 5}
    same, _ = pool_of(np.eye(3), (1, 1, 1), np.tile([[1.0, 2.0, 3.0]], (4, 1)))
    ab.LateInteraction(top_tokens=2).apply(same)
    assert [one.query for one in same.attended(0)] == [0, 1]


# ---- explained


def test_attended_tokens_by_hand():
    """Terms 0.5 * 2, 0.25 * -1 and 0.25 * 3: shares 1, -0.25 and 0.75 of 2."""
    tokens = np.array([[1, -1, 0], [2, -2, -5], [0, -4, 3], [1, 0, 1]], float)
    pool, _ = pool_of(tokens, (3, 1, 0), np.eye(3), [0.5, 0.25, 0.25])
    ab.LateInteraction().apply(pool)
    assert pool.attended(0) == [
        Attended("token", 1, 0.5, query=0),
        Attended("token", 2, 0.375, query=2),
        Attended("token", 0, -0.125, query=1),
    ]
    assert [one.name for one in pool.attended(1)] == [0, 0, 0]
    assert pool.attended(2) == []
    pool.query_tokens = np.zeros((1, 3), np.float32)
    pool.query_token_weights = np.ones(1)
    ab.LateInteraction().apply(pool)
    assert pool.attended(0) == [Attended("token", 0, 0.0, query=0)]


@pytest.mark.parametrize("kind", ["float16", "int8"])
@pytest.mark.parametrize("soft", [None, 5.0])
def test_shares_are_of_maxsim(rng, values, kind, soft):
    query_tokens, weights = rng.standard_normal((7, DIM)), rng.random(7)
    pool, documents = pool_of(values, LENGTHS, query_tokens, weights / weights.sum(), kind)
    ab.LateInteraction(soft=soft, top_tokens=5).apply(pool)
    heaviest = sorted(np.argsort(-weights)[:5].tolist())
    w = weights[heaviest] / weights[heaviest].sum()
    for row in (0, 4, 8):
        found, own = pool.attended(row), documents[row]
        assert sorted(one.query for one in found) == heaviest
        assert [one.weight for one in found] == sorted((one.weight for one in found), reverse=True)
        assert sum(abs(one.weight) for one in found) == pytest.approx(1.0)
        terms = [late(pool.query_tokens[[q]], [a], own, soft) for q, a in zip(heaviest, w, strict=True)]
        shares = dict(zip(heaviest, np.array(terms) / np.abs(terms).sum(), strict=True))
        for one in found:
            assert one.name == int((own @ pool.query_tokens[one.query].astype(np.float64)).argmax())
            assert one.weight == pytest.approx(shares[one.query], rel=1e-9)


def test_hits_hold_what_their_tokens_attended_to():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(np.ones((2, 2)), tokens=[[[0.0, 1.0], [1.0, 0.0]], [[0.5, 0.5]]])
    hits = bridge.search([1.0, 0.0], query_tokens=[[2.0, 0.0], [1.0, 0.0]], rerank=ab.LateInteraction())
    row = hits.trace.rows[0]
    found = hits.trace.steps[-1].attended(row)
    assert [(one.kind, one.name, one.query) for one in found] == [("token", 1, 0), ("token", 1, 1)]
    assert [one.weight for one in found] == pytest.approx([2 / 3, 1 / 3])


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft": 0}, "soft must be a finite number > 0, got 0"),
        ({"soft": -1.0}, r"soft must be a finite number > 0, got -1\.0"),
        ({"soft": np.inf}, "soft must be a finite number > 0, got inf"),
        ({"soft": "20"}, "soft must be a finite number > 0, got '20'"),
        ({"soft": True}, "soft must be a finite number > 0, got True"),
        ({"top_tokens": 0}, "top_tokens must be a whole number >= 1, got 0"),
        ({"top_tokens": 1.5}, r"top_tokens must be a whole number >= 1, got 1\.5"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.LateInteraction(**options)


def test_settings_are_values():
    stage = ab.LateInteraction(mix=1, soft=np.float32(20.0), top_tokens=np.int64(8))
    assert stage == ab.LateInteraction(1.0, 20.0, 8)
    assert as_stages(repr(stage)) == (stage,)
    assert as_stages("late_interaction(soft=20, top_tokens=8, mix=1)") == (stage,)


def test_what_is_missing_is_named():
    stage = ab.LateInteraction()
    pool, _ = pool_of(np.eye(3), (1, 2), np.eye(3))
    pool.query_tokens = np.ones((1, 4), np.float32)
    with pytest.raises(ab.DimensionMismatchError, match="query_tokens must have the stored tokens' dimension 3, got 4"):
        stage.apply(pool)
    pool.query_tokens = None
    with pytest.raises(ab.InvalidInputError, match=r"late_interaction needs the query's tokens; pass query_tokens=arr"):
        stage.matches(pool, pool.rows)
    pool.tokens = None
    with pytest.raises(ab.InvalidInputError, match=r"needs stored tokens, this pool has none; give them to add\(vec"):
        stage.apply(pool)


def test_a_bridge_names_what_is_missing():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(np.eye(2))
    with pytest.raises(ab.InvalidInputError, match=r"late_interaction needs stored tokens, this bridge has none; give"):
        bridge.search([1.0, 0.0], query_tokens=np.eye(3), rerank="late_interaction(soft=20)")
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(np.eye(2), tokens=[np.eye(3)] * 2)
    with pytest.raises(ab.InvalidInputError, match=r"needs the query's tokens; pass query_tokens=array \(m, 3\)"):
        bridge.search([1.0, 0.0], rerank=ab.LateInteraction(soft=20.0))
    with pytest.raises(ab.DimensionMismatchError, match="query_tokens must have the stored tokens' dimension 3, got 5"):
        bridge.search([1.0, 0.0], query_tokens=np.eye(5), rerank=ab.LateInteraction(top_tokens=2))


def test_the_kernel_sums_long_documents_in_float64():
    """Of 40,000 tokens half match less well; a sum of so many shares in float32 would be off by far more."""
    tokens = np.tile(np.array([[1.0], [0.5]], np.float32), (20_000, 1))
    out = np.empty(1)
    one, lengths = np.array([[1.0]], np.float32), np.array([40_000])
    kernels.maxsim(one, np.ones(1), tokens, None, np.zeros(1, np.int64), lengths, 1.0, out)
    e = np.exp(0.5)
    assert out[0] == pytest.approx((e + 0.5) / (e + 1.0), rel=5e-7)
