"""Feedback against a slow float64 reference."""

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.rerank import as_stages


def unit(x):
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True))


def z(x):
    return (x - x.mean()) / x.std()


def similarity(metric, query, rows):
    if metric == "l2":
        return -0.5 * ((rows - query) ** 2).sum(axis=1)
    return unit(rows) @ unit(query) if metric == "cosine" else rows @ query


def feedback(metric, rows, scores, top, scale, mix):
    """Return the new scores of all candidates, one at a time."""
    values = unit(rows) if metric == "cosine" else rows
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top]
    standard = z(scores)
    weights = np.exp(scale * (standard[best] - standard[best[0]]))
    output = sum(w * values[i] for w, i in zip(weights / weights.sum(), best, strict=True))
    return (1 - mix) * standard + mix * z(similarity(metric, output, rows))


@pytest.fixture(params=["cosine", "ip", "l2"])
def setting(request, rng):
    rows = rng.standard_normal((31, 7)).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=7, metric=request.param)
    bridge.add(rows)
    return request.param, bridge, rows.astype(np.float64), rng.standard_normal(7).astype(np.float32)


@pytest.mark.parametrize(("top", "scale", "mix"), [(3, 3.0, 0.2), (1, 1.0, 1.0), (5, 0.1, 0.7), (99, 2.0, 0.5)])
def test_feedback(setting, top, scale, mix):
    metric, bridge, rows, query = setting
    hits = bridge.search(query, k=31, rerank=ab.Feedback(top, scale, mix))
    first = similarity(metric, query.astype(np.float64), rows)
    want = feedback(metric, rows, first, top, scale, mix)
    assert hits.ids == sorted(range(31), key=lambda i: -want[i])
    np.testing.assert_allclose(hits.scores, want[hits.ids], rtol=1e-5, atol=1e-5)
    best = bridge.search(query, k=top).ids
    attended = hits.trace.steps[1].attended(hits.trace.rows[0])
    assert [one.name for one in attended] == best
    assert sum(one.weight for one in attended) == pytest.approx(1.0)


@pytest.mark.parametrize("stage", [ab.Feedback(mix=0.6), ab.QueryExpansion(scale=1.0)])
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_rows_that_are_kept_packed_only(setting, stage, dtype):
    metric, full, rows, query = setting
    packed = ab.AttentionVectorBridge(dim=7, metric=metric, dtype=dtype, keep_full=False)
    packed.add(rows)
    full = ab.AttentionVectorBridge(dim=7, metric=metric)
    full.add(packed.get(list(range(31))))  # what is left of them
    ours, theirs = packed.search(query, k=31, rerank=stage), full.search(query, k=31, rerank=stage)
    assert ours.ids == theirs.ids
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)


def test_a_batch_is_its_queries_one_by_one(setting):
    _, bridge, rows, _ = setting
    assert bridge.search_batch(rows, rerank="feedback") == [bridge.search(row, rerank=ab.Feedback()) for row in rows]


def test_mix_zero_keeps_the_order(setting):
    _, bridge, _, query = setting
    plain = bridge.search(query, k=31)
    assert bridge.search(query, k=31, rerank=ab.Feedback(mix=0.0)).ids == plain.ids


def test_it_builds_on_the_stages_before(rng):
    rows = rng.standard_normal((20, 5))
    tokens = [rng.standard_normal((3, 4)) for _ in range(20)]
    bridge = ab.AttentionVectorBridge(dim=5, index="exact")
    bridge.add(rows, tokens=tokens)
    late = bridge.search(rows[0], k=20, rerank="late_interaction", query_tokens=tokens[1])
    scores = np.empty(20)
    scores[late.ids] = late.scores
    both = bridge.search(rows[0], k=20, rerank="late_interaction, feedback(mix=0.4)", query_tokens=tokens[1])
    want = feedback("cosine", rows.astype(np.float32).astype(np.float64), scores, 5, 3.0, 0.4)
    np.testing.assert_allclose(both.scores, want[both.ids], rtol=1e-4, atol=1e-5)


def test_what_is_ruled_out_is_not_attended_to(rng):
    class RuleOut:
        name, requires_tokens = "rule_out", False

        def apply(self, pool):
            pool.scores = np.where(pool.rows % 2 == 0, -np.inf, pool.scores)

    rows = rng.standard_normal((30, 6))
    bridge = ab.AttentionVectorBridge(dim=6, index="exact")
    bridge.add(rows)
    odd = ab.AttentionVectorBridge(dim=6, index="exact")
    odd.add(rows[1::2], ids=list(range(1, 30, 2)))
    hits = bridge.search(rows[0], k=30, rerank=[RuleOut(), ab.Feedback()])
    alone = odd.search(rows[0], k=30, rerank=ab.Feedback())
    assert hits.ids == alone.ids
    np.testing.assert_allclose(hits.scores, alone.scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [[[1.0, 0.0]], [[1.0, 0.0]] * 4, [[1.0, 0.0], [-1.0, 0.0]]])
def test_pools_in_which_nothing_differs(rows):
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(rows)
    hits = bridge.search([0.0, 1.0], rerank=ab.Feedback())  # two opposite rows: their mean has no direction
    assert sorted(hits.ids) == list(range(len(rows)))
    assert hits.scores.tolist() == [0.0] * len(rows)


def test_settings():
    assert as_stages(repr(ab.Feedback(top=3))) == (ab.Feedback(top=3),)
    for options, message in [
        ({"top": 0}, "top must be a whole number >= 1, got 0"),
        ({"scale": 0}, "scale must be a finite number > 0, got 0"),
        ({"mix": 1.5}, r"mix must be a finite number >= 0, at most 1, got 1\.5"),
    ]:
        with pytest.raises(ab.InvalidConfigError, match=message):
            ab.Feedback(**options)
    bridge = ab.AttentionVectorBridge(dim=2)
    assert len(bridge.search([1.0, 0.0], rerank=ab.Feedback())) == 0
