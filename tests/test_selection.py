"""Stages that choose among the candidates, and the one that smooths their scores, against slow float64 references."""

import math
from itertools import product
from typing import ClassVar

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Pool, as_stages
from attnbridge.scoring import resolve

METRICS = ("cosine", "ip", "l2", "poincare")
N, DIM = 43, 7


# ---- the slow float64 truth


def unit(x):
    length = math.sqrt(sum(v * v for v in x))
    return [v / length for v in x] if length else [0.0] * len(x)


def square(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def likeness(metric, rows):
    """Return the likeness of all pairs: cosines, or what falls with the distance."""
    rows, count = [[float(v) for v in row] for row in rows], len(rows)
    out = np.empty((count, count))
    mean = [sum(column) / count for column in zip(*rows, strict=True)]
    spread = sum(square(row, mean) for row in rows) / count
    for (i, x), (j, y) in product(enumerate(rows), repeat=2):
        if metric == "l2":
            out[i, j] = 1.0 / (1.0 + square(x, y) / (2.0 * spread)) if spread else 1.0
        elif metric == "poincare":
            inside = (1.0 - square(x, [0.0] * len(x))) * (1.0 - square(y, [0.0] * len(y)))
            out[i, j] = 1.0 / math.cosh(math.acosh(1.0 + 2.0 * square(x, y) / inside) / 2.0) ** 2
        else:
            out[i, j] = sum(a * b for a, b in zip(unit(x), unit(y), strict=True))
    return out


def best_first(scores):
    return sorted((i for i, s in enumerate(scores) if s > -np.inf), key=lambda i: (-scores[i], i))


def pick(scores, alike, balance, count):
    """Return what maximal marginal relevance picks, best first, and the value that each is picked for."""
    left = best_first(scores)
    low, high = min(scores[i] for i in left), max(scores[i] for i in left)
    relevance = {i: (scores[i] - low) / (high - low) if high > low else 1.0 for i in left}
    picked, values = [left.pop(0)], [1.0]
    while left and len(picked) < count:
        value = {i: balance * relevance[i] - (1 - balance) * max(alike[i, p] for p in picked) for i in left}
        one = max(left, key=lambda i: value[i])  # the first of equals, in the order so far
        picked.append(one)
        values.append(value[one])
        left.remove(one)
    return picked, values


def grouped(scores, groups, per_group):
    out = []
    for i in best_first(scores):
        if groups[i] is None or sum(groups[o] == groups[i] for o in out) < per_group:
            out.append(i)
    return out


def z(x):
    return (x - x.mean()) / x.std() if x.std() > 1e-12 else np.zeros(len(x))


def smooth(scores, alike, scale, mix):
    """Return the mixed scores, and what the others' scores are around each."""
    own = z(scores)
    around = np.empty(len(own))
    for i in range(len(own)):
        logits = scale * alike[i]
        logits[i] = -np.inf
        weights = np.exp(logits - logits.max())
        around[i] = (weights * own).sum() / weights.sum()
    return (1 - mix) * own + mix * z(around), around


# ---- settings


def points(rng, metric, count):
    rows = rng.standard_normal((count, DIM))
    if metric == "poincare":
        rows *= 0.3 * rng.random((count, 1))
    return rows.astype(np.float32).astype(np.float64)


@pytest.fixture(params=METRICS)
def setting(request, rng):
    """Return metric, bridge, rows, a query and its scores so far by row."""
    metric = request.param
    attention = "poincare" if metric == "poincare" else "scaled_dot"
    bridge = ab.AttentionVectorBridge(DIM, metric, attention, index="exact")
    rows, query = points(rng, metric, N), points(rng, metric, 1)[0]
    bridge.add(rows)
    plain = bridge.search(query, k=N)
    scores = np.empty(N)
    scores[plain.ids] = plain.scores
    return metric, bridge, rows, query, scores


class Own:
    name: ClassVar[str] = "own"
    requires_tokens: ClassVar[bool] = False

    def __init__(self, change):
        self.change = change

    def apply(self, pool):
        self.change(pool)


def given(scores):
    """Return a stage that sets the scores of the rows."""

    def change(pool):
        pool.scores = np.asarray(scores, np.float64)[pool.rows]

    return Own(change)


def without(rows):
    def change(pool):
        pool.scores = np.where(np.isin(pool.rows, rows), -np.inf, pool.scores)

    return Own(change)


def falls(scores):
    return bool((np.diff(scores) < 0.0).all())


# ---- MMR


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("k", [1, 5, N, 3 * N])
def test_mmr(setting, balance, k):
    metric, bridge, rows, query, scores = setting
    hits = bridge.search(query, k=k, rerank=ab.MMR(balance))
    picked, values = pick(scores, likeness(metric, rows), balance, k)
    assert hits.ids == picked
    np.testing.assert_allclose(hits.parts["mmr"], values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hits.scores, hits.parts["mmr"], rtol=1e-12)
    assert falls(hits.scores)
    assert hits.candidates == N


def test_mmr_with_an_offset_goes_on_where_it_was(setting):
    _, bridge, _, query, _ = setting
    whole = bridge.search(query, k=20, rerank=ab.MMR(0.5)).ids
    assert bridge.search(query, k=8, offset=12, rerank=ab.MMR(0.5)).ids == whole[12:]


def test_mmr_of_1_is_the_plain_order(setting):
    """Where scores are equal too, and where [0, 1] cannot tell them apart."""
    _, bridge, _, query, _ = setting
    assert bridge.search(query, k=N, rerank=ab.MMR(1.0)).ids == bridge.search(query, k=N).ids
    for scores in (np.zeros(N), np.arange(N) // 5, -np.arange(N) * 1e-20 - (np.arange(N) == 3), np.arange(N) * 4e306):
        hits = bridge.search(query, k=N, rerank=[given(scores), ab.MMR(1.0)])
        assert hits.ids == bridge.search(query, k=N, rerank=given(scores)).ids
        assert falls(hits.scores)


def test_mmr_of_0_goes_to_what_is_farthest(setting):
    metric, bridge, rows, query, scores = setting
    hits = bridge.search(query, k=N, rerank=ab.MMR(0.0))
    alike, left = likeness(metric, rows), set(range(N))
    assert hits.ids[0] == int(np.argmax(scores))
    for place, id in enumerate(hits.ids[:-1]):
        left.remove(id)
        nearest = {i: max(alike[i, p] for p in hits.ids[: place + 1]) for i in left}
        assert hits.ids[place + 1] == min(left, key=nearest.get)


def test_mmr_takes_one_of_each_cluster_first(rng):
    centres = np.eye(5)
    rows = np.repeat(centres, 8, axis=0) + 0.01 * rng.standard_normal((40, 5))
    for metric in ("cosine", "ip", "l2"):
        bridge = ab.AttentionVectorBridge(5, metric, index="exact")
        bridge.add(rows)
        query = [5.0, 4.0, 3.0, 2.0, 1.0]
        assert {id // 8 for id in bridge.search(query, k=5).ids} == {0}
        assert {id // 8 for id in bridge.search(query, k=5, rerank=ab.MMR(0.2)).ids} == set(range(5))


def test_mmr_under_l2_tells_rows_of_one_direction_apart():
    bridge = ab.AttentionVectorBridge(2, "l2", index="exact")
    bridge.add([[1.0, 1.0], [1.0, 1.1], [9.0, 9.0]])
    assert bridge.search([0.0, 0.0], k=2, rerank=ab.MMR(0.2)).ids == [0, 2]


def test_mmr_of_duplicates_keeps_the_order_of_picks_to_the_last_hit():
    bridge = ab.AttentionVectorBridge(3, index="exact")
    bridge.add(np.repeat(np.eye(3), 6, axis=0))
    hits = bridge.search([3.0, 2.0, 1.0], k=18, rerank=ab.MMR(0.4))
    assert hits.ids[:3] == [0, 6, 12]
    assert sorted(hits.ids) == list(range(18))
    assert falls(hits.scores)
    assert hits.ids == bridge.search([3.0, 2.0, 1.0], k=18, rerank=[ab.MMR(0.4), ab.MMR(1.0)]).ids


def test_mmr_of_rows_that_are_all_the_same(setting):
    metric, _, _, _, _ = setting
    bridge = ab.AttentionVectorBridge(2, metric, "poincare" if metric == "poincare" else "scaled_dot", index="exact")
    bridge.add(np.tile([[0.3, 0.7]], (9, 1)))
    for balance in (0.0, 0.5, 1.0):
        hits = bridge.search([0.5, 0.1], k=9, rerank=ab.MMR(balance))
        assert hits.ids == list(range(9))
        np.testing.assert_allclose(hits.parts["mmr"], [1.0] + [balance - (1 - balance)] * 8, atol=1e-6)


def test_mmr_leaves_what_it_did_not_pick_below(setting):
    """What comes after it and rules out hits finds the others by their value after the last pick."""
    metric, bridge, rows, query, scores = setting
    picked, _ = pick(scores, likeness(metric, rows), 0.6, 4)
    seen = {}
    look = Own(lambda pool: seen.update(zip(pool.rows.tolist(), pool.scores, strict=True)))
    assert bridge.search(query, k=4, rerank=[ab.MMR(0.6), look]).ids == picked
    rest = [i for i in range(N) if i not in picked]
    assert max(seen[i] for i in rest) < seen[picked[-1]]
    alike, low, high = likeness(metric, rows), scores.min(), scores.max()
    value = {i: 0.6 * (scores[i] - low) / (high - low) - 0.4 * max(alike[i, p] for p in picked) for i in rest}
    np.testing.assert_allclose([seen[i] for i in rest], [value[i] for i in rest], rtol=1e-5, atol=1e-5)
    hits = bridge.search(query, k=4, rerank=[ab.MMR(0.6), without(picked[:2])])
    assert hits.ids == [*picked[2:], *sorted(rest, key=lambda i: -value[i])[:2]]


def test_mmr_says_what_each_hit_is_most_like(setting):
    metric, bridge, rows, query, _ = setting
    hits = bridge.search(query, k=6, rerank=ab.MMR(0.5))
    alike, attended = likeness(metric, rows), hits.trace.steps[-1].attended
    assert attended(hits.ids[0]) == []
    for place, id in enumerate(hits.ids[1:], 1):
        [one] = attended(id)
        nearest = max(hits.ids[:place], key=lambda p, id=id: alike[id, p])
        assert (one.kind, one.name) == ("candidate", nearest)
        assert one.weight == pytest.approx(alike[id, nearest], abs=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("keep_full", [False, True])
def test_rows_of_fewer_bits(rng, dtype, metric, keep_full):
    bridge = ab.AttentionVectorBridge(DIM, metric, dtype=dtype, keep_full=keep_full)
    bridge.add(points(rng, metric, N) * 10.0 ** rng.integers(-2, 3, (N, 1)))
    rows, query = np.array([bridge.get(i) for i in range(N)], np.float64), points(rng, metric, 1)[0]
    plain = bridge.search(query, k=N, candidates=N)
    scores = np.empty(N)
    scores[plain.ids] = plain.scores
    alike = likeness(metric, rows)
    hits = bridge.search(query, k=9, candidates=N, rerank=ab.MMR(0.4))
    assert hits.ids == pick(scores, alike, 0.4, 9)[0]
    smoothed = bridge.search(query, k=N, candidates=N, rerank=ab.ListwiseSmoothing(3.0, 0.5))
    truth, around = smooth(scores, alike, 3.0, 0.5)
    np.testing.assert_allclose(smoothed.scores, truth[smoothed.ids], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(smoothed.parts["smoothing"], around[smoothed.ids], rtol=1e-4, atol=1e-4)


def test_likeness_of_extreme_rows():
    huge = np.finfo(np.float32).max / 2
    rows = np.array([[1, 0], [0, 1], [-1, 0.5], [0.8, -1]])
    for size, metric in product((huge, 1.0, 1e-18), ("ip", "l2")):
        bridge = ab.AttentionVectorBridge(2, metric, index="exact")
        bridge.add(rows * size)
        stored = rows.astype(np.float32).astype(np.float64)
        hits = bridge.search([1e-3, 2e-3], k=4, rerank=[given([4, 3, 2, 1]), ab.MMR(0.3)])
        assert hits.ids == pick([4, 3, 2, 1], likeness(metric, stored), 0.3, 4)[0]
    bridge = ab.AttentionVectorBridge(2, "ip", index="exact")
    bridge.add([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])  # a zero row is like no other
    hits = bridge.search([1.0, 0.0], k=4, rerank=[given([4, 3, 2, 1]), ab.MMR(0.0)])
    assert hits.ids == [0, 1, 2, 3]
    near = [at.weight for id in hits.ids[1:] for at in hits.trace.steps[-1].attended(id)]
    assert near == [0.0, 0.0, 0.0]
    far = ab.AttentionVectorBridge(2, "l2", index="exact")
    far.add(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 4.0]]) + 2.0**20)
    assert far.search([2.0**20] * 2, k=3, rerank=ab.MMR(0.0)).ids == [0, 2, 1]


# ---- smoothing


@pytest.mark.parametrize(("scale", "mix"), [(40.0, 0.2), (5.0, 1.0), (0.3, 0.5), (200.0, 0.7)])
def test_smoothing(setting, scale, mix):
    metric, bridge, rows, query, scores = setting
    hits = bridge.search(query, k=N, rerank=ab.ListwiseSmoothing(scale, mix))
    truth, around = smooth(scores, likeness(metric, rows), scale, mix)
    np.testing.assert_allclose(hits.scores, truth[hits.ids], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(hits.parts["smoothing"], around[hits.ids], rtol=1e-4, atol=1e-4)
    assert hits.ids == best_first(truth)


def test_smoothing_with_mix_0_changes_nothing_but_rounding(setting):
    _, bridge, _, query, scores = setting
    hits = bridge.search(query, k=N, rerank=ab.ListwiseSmoothing(mix=0.0))
    assert hits.ids == bridge.search(query, k=N).ids
    np.testing.assert_allclose(hits.scores, z(scores)[hits.ids], rtol=1e-9, atol=1e-12)


def test_smoothing_leaves_out_what_is_ruled_out(setting):
    metric, bridge, rows, query, scores = setting
    out = [1, 2, 3, 5, 8, 13, 21, 34]
    stay = [i for i in range(N) if i not in out]
    hits = bridge.search(query, k=N, rerank=[without(out), ab.ListwiseSmoothing(6.0, 0.5)])
    truth, _ = smooth(scores[stay], likeness(metric, rows[stay]), 6.0, 0.5)
    assert hits.ids == [stay[i] for i in best_first(truth)]
    np.testing.assert_allclose(hits.scores, np.sort(truth)[::-1], rtol=1e-4, atol=1e-4)


def test_a_neighbour_lifts_its_like():
    bridge = ab.AttentionVectorBridge(2, index="exact")
    bridge.add(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]), ids=["good", "like good", "bad", "like bad"])
    scores = given([5.0, 1.0, 0.0, 2.0])
    assert bridge.search([1, 1], rerank=scores).ids == ["good", "like bad", "like good", "bad"]
    hits = bridge.search([1, 1], rerank=[scores, ab.ListwiseSmoothing(mix=0.4)])
    assert hits.ids == ["good", "like good", "like bad", "bad"]
    assert hits.parts["smoothing"][1] == pytest.approx(z(np.array([5.0, 1, 0, 2]))[0], abs=1e-6)


# ---- groups


def with_groups(setting, values, name="parent"):
    _, bridge, _, _, _ = setting
    bridge.set_payload(list(range(N)), {name: values})
    return bridge


@pytest.mark.parametrize("per_group", [1, 2, 5, 99])
@pytest.mark.parametrize("kinds", [1, 4, 20])
def test_groups(setting, per_group, kinds, rng):
    _, _, _, query, scores = setting
    groups = [None if v == 0 else f"p{v}" for v in rng.integers(0, kinds + 1, N).tolist()]
    bridge = with_groups(setting, groups)
    truth = grouped(scores, groups, per_group)
    hits = bridge.search(query, k=N, rerank=ab.GroupBy("parent", per_group))
    assert hits.ids == truth
    np.testing.assert_array_equal(hits.scores, scores[truth])
    for place, id in enumerate(truth):
        before = sum(groups[o] == groups[id] for o in truth[:place]) if groups[id] else 0
        assert hits.parts["group_by"][place] == before
    assert bridge.search(query, k=7, offset=2, rerank=ab.GroupBy("parent", per_group)).ids == truth[2:9]


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2], [1, 2], None, [1], [2, 1], [1], []],
        [{"a": 1, "b": [2]}, {"a": 1, "b": [2]}, None, {"a": 1, "b": []}, {"a": 2, "b": [2]}, {"a": 1, "b": []}, None],
        [1.5, 1.5, math.nan, 2.0, 3.0, 2.0, math.nan],
        [True, True, None, False, None, False, None],
        [b"x", b"x", None, b"y", b"z", b"y", None],
    ],
    ids=["lists", "structs", "floats", "bools", "bytes"],
)
def test_groups_by_values_of_any_type(values):
    bridge = ab.AttentionVectorBridge(2, index="exact")
    bridge.add(np.stack([np.ones(7), 0.1 * np.arange(7)], axis=1), payload={"parent": values})
    assert bridge.search([1.0, 0.0], k=7, rerank=ab.GroupBy("parent")).ids == [0, 2, 3, 4, 6]


@pytest.mark.parametrize("index", ["hnsw", "exact"])
def test_groups_are_filled_from_more_candidates(rng, index):
    """The nearest 300 rows are of three parents: the best of the others are far beyond the first candidates."""
    count = 400
    parents = [i % 3 if i < 300 else i for i in range(count)]
    rows = np.stack([np.ones(count), 0.01 * np.arange(count), np.zeros(count)], axis=1)
    order = rng.permutation(count)
    bridge = ab.AttentionVectorBridge(3, "l2", index=index)
    bridge.add(rows[order], ids=order.tolist(), payload={"parent": [parents[i] for i in order]})
    stage, query = ab.GroupBy("parent"), np.array([1.0, -0.005, 0.0])
    truth = [0, 1, 2, *range(300, count)]
    hits = bridge.search(query, k=10, candidates=20, rerank=stage)
    assert hits.ids == truth[:10]
    assert hits.candidates == 320
    assert bridge.search(query, k=2, candidates=20, rerank=stage).candidates == 20  # enough at once
    assert bridge.search(query, k=5, offset=6, candidates=20, rerank=stage).ids == truth[6:11]
    assert bridge.search(query, k=300, rerank=stage).ids == truth  # there are no more
    even = [i for i in range(count) if i % 2 == 0]
    kept = [0, 2, 4, *range(300, count, 2)]
    assert bridge.search(query, k=9, candidates=10, filter=even, rerank=stage).ids == kept[:9]
    near = bridge.search(query, k=10, candidates=20, rerank=stage, threshold=bridge.search(query, k=50).scores[-1])
    assert near.ids == [0, 1, 2]
    queries = query + np.array([[0.0], [0.5], [9.0]]) * [0.0, 1.0, 0.0]
    several = bridge.search_batch(queries, k=10, candidates=20, rerank=stage, threads=2)
    assert several == [bridge.search(one, k=10, candidates=20, rerank=stage) for one in queries]
    assert several[0].ids == truth[:10]
    bridge.delete([0, 300, 302])
    assert bridge.search(query, k=6, candidates=20, rerank=stage).ids == [1, 2, 3, 301, 303, 304]


def test_groups_within_a_radius_are_all_there_are(setting):
    metric, _, _, query, scores = setting
    groups = [i % 6 for i in range(N)]
    bridge = with_groups(setting, groups)
    radius = float(np.sort(bridge.search(query, k=N).distances)[20])
    near = bridge.search(query, k=None, radius=radius)
    hits = bridge.search(query, k=None, radius=radius, rerank=ab.GroupBy("parent"))
    inside = np.where(np.isin(np.arange(N), near.ids), scores, -np.inf)
    assert hits.ids == grouped(inside, groups, 1), metric


def test_a_group_that_lost_all_but_what_was_ruled_out_asks_for_no_more(setting):
    """It was not the grouping that left too few."""
    _, _, _, query, scores = setting
    bridge = with_groups(setting, list(range(N)))
    least = float(np.sort(scores)[-3])
    hits = bridge.search(query, k=10, candidates=12, rerank=[ab.Threshold(least), ab.GroupBy("parent")])
    assert (len(hits), hits.candidates) == (3, 12)


def test_a_column_that_is_not_there(setting):
    _, bridge, _, query, _ = setting
    with pytest.raises(ab.InvalidInputError, match="'parent' is none; they are: none"):
        bridge.search(query, rerank=ab.GroupBy("parent"))
    with_groups(setting, list(range(N)), "chapter")
    with pytest.raises(
        ab.InvalidInputError, match=r"column must be one of the payload's, 'parent' is none; .* chapter"
    ):
        bridge.search(query, rerank=ab.GroupBy("parent"))


# ---- a least score


def test_threshold(setting):
    _, bridge, _, query, scores = setting
    order = best_first(scores)
    hits = bridge.search(query, k=N, rerank=ab.Threshold(scores[order[9]]))
    assert hits.ids == order[:10]
    assert hits.parts["threshold"].tolist() == hits.scores.tolist() == scores[order[:10]].tolist()
    assert hits.weights.sum() == pytest.approx(1.0)
    assert len(bridge.search(query, k=N, rerank=ab.Threshold(scores.max() + 1.0))) == 0
    assert bridge.search(query, k=N, rerank=ab.Threshold(-1e308)).ids == order


def test_threshold_then_what_chooses(setting):
    metric, _, rows, query, scores = setting
    groups = [i % 5 for i in range(N)]
    bridge = with_groups(setting, groups)
    kept = np.where(scores >= np.sort(scores)[-11], scores, -np.inf)
    least = ab.Threshold(np.sort(scores)[-11])
    assert bridge.search(query, k=N, rerank=[least, ab.GroupBy("parent")]).ids == grouped(kept, groups, 1)
    first = grouped(kept, groups, 1)
    left = np.where(np.isin(np.arange(N), first), scores, -np.inf)
    hits = bridge.search(query, k=N, rerank=[least, ab.GroupBy("parent"), ab.MMR(0.1)])
    alike = np.full((N, N), np.nan)
    alike[np.ix_(first, first)] = likeness(metric, rows[first])
    assert hits.ids == pick(left, alike, 0.1, N)[0]


# ---- what all of them keep to


EVERY = (ab.MMR(0.4), ab.GroupBy("parent", 2), ab.Threshold(-0.5), ab.ListwiseSmoothing(5.0, 0.6))


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_what_is_ruled_out_stays_so(setting, stage):
    _, _, _, query, _ = setting
    bridge = with_groups(setting, [i % 9 for i in range(N)])
    out = list(range(0, N, 2))
    hits = bridge.search(query, k=N, rerank=[given(np.linspace(-1, 1, N)), without(out), stage])
    assert not set(hits.ids) & set(out)
    assert len(hits) > 0
    assert len(bridge.search(query, k=N, rerank=[without(range(N)), stage])) == 0


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_one_candidate(setting, stage):
    _, _, _, query, _ = setting
    bridge = with_groups(setting, [0] * N)
    hits = bridge.search(query, k=9, filter=[4], rerank=[given(np.ones(N)), stage])
    assert hits.ids == [4]
    assert hits.scores.tolist() == ([0.0] if stage.name == "smoothing" else [1.0])
    assert hits.weights.tolist() == [1.0]


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_where_all_scores_are_alike(setting, stage):
    _, _, _, query, _ = setting
    bridge = with_groups(setting, [0, 1] * (N // 2) + [0])
    hits = bridge.search(query, k=N, rerank=[given(np.ones(N)), stage])
    assert hits.ids[0] == 0
    if stage.name == "group_by":
        assert hits.ids == [0, 1, 2, 3]
    elif stage.name != "mmr":
        assert hits.ids == list(range(N))
    assert np.isfinite(hits.scores).all()


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_a_batch_is_its_searches_to_the_bit(setting, stage, rng):
    metric, _, _, _, _ = setting
    bridge = with_groups(setting, [i % 9 for i in range(N)])
    queries = points(rng, metric, 23)
    differs = False
    for k, candidates in ((5, 11), (N, N)):
        alone = [bridge.search(query, k=k, candidates=candidates, rerank=stage) for query in queries]
        assert bridge.search_batch(queries, k=k, candidates=candidates, rerank=stage, threads=2) == alone
        plain = bridge.search_batch(queries, k=k, candidates=candidates)
        differs |= [hits.ids for hits in alone] != [hits.ids for hits in plain]
    assert differs


@pytest.mark.parametrize("stage", [s for s in EVERY if s.name != "group_by"], ids=lambda stage: stage.name)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("wanted", [None, 6])
def test_the_order_of_candidates_does_not_matter(rng, stage, metric, wanted):
    """Nor does an index have to be there."""
    rows = points(rng, metric, 19).astype(np.float32)
    rows[3] = rows[11]
    metric = Metric(metric)
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    keys = Keys(rows, *metric.row_terms(rows, "rows"))
    scores = rng.integers(-2, 9, 19).astype(np.float64)
    scores[5] = -np.inf

    def scored(order):
        pool = Pool(rows[0], 0.0, metric, keys, order, scores[order], attention, options, wanted=wanted)
        stage.apply(pool)
        assert pool.attended is None
        return dict(zip(order.tolist(), zip(pool.scores, pool.parts[stage.name], strict=True), strict=True))

    first = scored(np.arange(19))
    for _ in range(5):
        other = scored(rng.permutation(19))
        assert {i: str(v) for i, v in first.items()} == {i: str(other[i]) for i in first}  # NaN equals NaN


def test_groups_need_an_index():
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    pool = Pool(
        np.ones(2, np.float32), 0.0, Metric("ip"), Keys(np.eye(2, dtype=np.float32)), np.arange(2), np.zeros(2),
        attention, options,
    )  # fmt: skip
    with pytest.raises(ab.InvalidConfigError, match="group_by needs an index to ask, this pool has none"):
        ab.GroupBy("parent").apply(pool)


@pytest.mark.parametrize("later", [ab.QueryExpansion(), ab.ListwiseSmoothing()], ids=lambda stage: stage.name)
@pytest.mark.parametrize("stage", EVERY[:3], ids=lambda stage: stage.name)
def test_stages_in_an_order_that_cannot_be(stage, later):
    message = f"rerank must have {later.name} before {stage.name}, whose result it would undo"
    with pytest.raises(ab.InvalidConfigError, match=message):
        as_stages([stage, later])
    for other in EVERY[:3]:
        assert as_stages([later, stage, other]) == (later, stage, other)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("mmr", [ab.MMR()]),
        ("threshold(-2), MMR(0.25)", [ab.Threshold(-2), ab.MMR(0.25)]),
        ("smoothing(scale=5), group_by('parent', 3)", [ab.ListwiseSmoothing(5), ab.GroupBy("parent", 3)]),
    ],
)
def test_stages_as_text(text, stages):
    assert list(as_stages(text)) == stages
    assert list(as_stages(str(stages))) == stages


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        (ab.MMR, {"lambda_": 1.5}, "lambda_ must be a finite number >= 0, at most 1, got 1.5"),
        (ab.MMR, {"lambda_": -0.1}, "lambda_ must be a finite number >= 0, at most 1, got -0.1"),
        (ab.MMR, {"lambda_": math.nan}, "lambda_ must be a finite number >= 0, at most 1, got nan"),
        (ab.GroupBy, {"column": ""}, "column must be a text of at least one character, got ''"),
        (ab.GroupBy, {"column": 3}, "column must be a text of at least one character, got 3"),
        (ab.GroupBy, {"column": "a", "per_group": 0}, "per_group must be a whole number >= 1, got 0"),
        (ab.GroupBy, {"column": "a", "per_group": 1.5}, r"per_group must be a whole number >= 1, got 1\.5"),
        (ab.Threshold, {"score": math.inf}, "score must be a finite number, got inf"),
        (ab.Threshold, {"score": "1"}, "score must be a finite number, got '1'"),
        (ab.ListwiseSmoothing, {"scale": 0}, "scale must be a finite number > 0, got 0"),
        (ab.ListwiseSmoothing, {"mix": 1.1}, "mix must be a finite number >= 0, at most 1, got 1.1"),
    ],
)
def test_bad_settings(stage, options, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        stage(**options)
