"""Fusion and BM25 against slow float64 references."""

import logging
import math
import os
import pickle
import re
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Pool, as_stages
from attnbridge.rerank import bm25 as bm25_module
from attnbridge.scoring import resolve

METRICS = ("cosine", "ip", "l2")
WORDS = "wing flutter heat transfer panel shock layer jet wake slender body cone plate drag lift"


# ---- the slow float64 truth


def z(x):
    x = np.asarray(x, float)
    known = ~np.isnan(x)
    out = np.zeros(len(x))
    if known.any() and x[known].std() > 0:
        out[known] = (x[known] - x[known].mean()) / x[known].std()
    return out


def normalised(scores, method, rrf_k=60.0):
    """Return what a ranking gives each document, from its scores with None for those that it does not name."""
    named = [s for s in scores if s is not None]
    if method == "minmax":
        low, high = (min(named), max(named)) if named else (0.0, 0.0)
        return [0.0 if s is None else 1.0 if high == low else (s - low) / (high - low) for s in scores]
    if method == "zscore":
        mean = sum(named) / len(named) if named else 0.0
        spread = math.sqrt(sum((s - mean) ** 2 for s in named) / len(named)) if named else 0.0
        value = [None if s is None else (s - mean) / spread if spread else 0.0 for s in scores]
        least = min((v for v in value if v is not None), default=0.0)
        return [least if v is None else v for v in value]
    return [0.0 if s is None else 1.0 / (rrf_k + 1 + sum(other > s for other in named)) for s in scores]


def fused(rankings, method, weights=None, rrf_k=60.0):
    """Return the fused scores of documents, each ranking a list of scores or None."""
    weights = weights or [1.0] * len(rankings)
    columns = [normalised(scores, method, rrf_k) for scores in rankings]
    return np.array(
        [
            sum(w * column[i] for w, column in zip(weights, columns, strict=True)) / sum(weights)
            if any(scores[i] is not None for scores in rankings)
            else -np.inf
            for i in range(len(rankings[0]))
        ]
    )


STOP = re.findall(
    r"\w+",
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with",
)


def words(text, stop=STOP, stem=None):
    out = [word for word in re.findall(r"\w\w+", (text or "").lower()) if word not in stop]
    return [stem(word) for word in out] if stem else out


def bm25(texts, query, k1=1.5, b=0.75, **options):
    docs = [Counter(words(text, **options)) for text in texts]
    lengths = [sum(doc.values()) for doc in docs]
    mean = sum(lengths) / len(lengths)
    out = np.zeros(len(docs))
    for word in words(query, **options):
        df = sum(word in doc for doc in docs)
        idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
        for i, doc in enumerate(docs):
            if word in doc:
                out[i] += idf * doc[word] / (doc[word] + k1 * (1 - b + b * lengths[i] / mean))
    return out


def order(scores):
    """Return the places of the finite scores, best first, ties by the smaller place."""
    return [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if scores[i] > -np.inf]


def check(hits, scores):
    """Hold hits, and what they were chosen from, against every document's score."""
    best = order(scores)[: len(hits)]
    assert hits.ids == best
    np.testing.assert_allclose(hits.scores, scores[best], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(everything(hits, len(scores)), scores, rtol=1e-5, atol=1e-6)


def everything(hits, count=41):
    """Return the score of every row after the last stage, -inf for those that are none of the candidates."""
    step, out = hits.trace.steps[-1], np.full(count, -np.inf)
    out[step.rows] = step.scores
    return out


@pytest.fixture(params=METRICS)
def setting(request, rng):
    """Return a bridge of 41 documents with tokens, text and a year, its texts, and a query with tokens."""
    rows = rng.standard_normal((41, 7)).astype(np.float32)
    tokens = [rng.standard_normal((n % 5, 3)).astype(np.float16) for n in range(41)]
    texts = [" ".join(rng.choice(re.findall(r"\w+", WORDS), size=n % 11)) if n % 13 else None for n in range(41)]
    bridge = ab.AttentionVectorBridge(dim=7, metric=request.param, index="exact")
    bridge.add(rows, tokens=tokens, payload={"text": texts, "year": list(range(41))})
    return bridge, texts, rng.standard_normal(7), {"query_tokens": rng.standard_normal((4, 3)).astype(np.float32)}


def all_scores(bridge, query, **options):
    """Return every document's score as an array by id, -inf for those that are no hits."""
    hits = bridge.search(query, k=len(bridge), candidates=len(bridge), **options)
    out = np.full(len(bridge), -np.inf)
    out[hits.ids] = hits.scores
    return out


# ---- fusion


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
@pytest.mark.parametrize("weights", [None, [1, 1, 1], [3.0, 0.5, 0.0], [0, 0, 2]])
def test_fusion_against_the_reference(setting, method, weights):
    bridge, _, query, reads = setting
    plain = all_scores(bridge, query)
    late = all_scores(bridge, query, rerank=ab.LateInteraction(mix=1.0), **reads)
    given = {3: 2.5, 4: -1.0, 17: 2.5, 40: 0.0}
    stage = ab.Fusion(["scores", ab.LateInteraction(mix=1.0), given], method, weights)
    truth = fused([plain.tolist(), late.tolist(), [given.get(i) for i in range(41)]], method, weights)
    hits = bridge.search(query, k=41, candidates=41, rerank=stage, **reads)
    check(hits, truth)
    assert list(hits.parts) == ["scaled_dot", "fusion", "fusion.scores", "fusion.late_interaction", "fusion.ranking_3"]
    assert hits.parts["fusion"].tolist() == hits.scores.tolist()
    np.testing.assert_allclose(hits.parts["fusion.scores"], plain[hits.ids], rtol=1e-6)
    np.testing.assert_array_equal(hits.parts["fusion.ranking_3"], [given.get(i, np.nan) for i in hits.ids])
    alone = bridge.search(query, k=41, candidates=41, rerank=ab.LateInteraction(mix=1.0), **reads)
    maxsim = dict(zip(alone.ids, alone.parts["late_interaction"], strict=True))
    np.testing.assert_array_equal(hits.parts["fusion.late_interaction"], [maxsim[i] for i in hits.ids])
    assert (
        hits
        == bridge.search_batch(
            [query] * 3, k=41, candidates=41, rerank=stage, query_tokens=[reads["query_tokens"]] * 3, threads=2
        )[1]
    )


@pytest.fixture
def three():
    """Return a bridge of a, b, c, d, whose logits to [1, 0] are 4, 3, 1 and 0."""
    bridge = ab.AttentionVectorBridge(dim=2, metric="ip", index="exact", scale=1.0)
    bridge.add([[4.0, 0.0], [3.0, 0.0], [1.0, 5.0], [0.0, 7.0]], ids=["a", "b", "c", "d"])
    return bridge


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        # minmax: logits 1, 3/4, 1/4, 0; the other list 0, -, 1, 1/2
        ({}, {"c": 0.625, "a": 0.5, "b": 0.375, "d": 0.25}),
        ({"weights": [3, 1]}, {"a": 0.75, "b": 0.5625, "c": 0.4375, "d": 0.125}),
        ({"method": "rrf"}, {"a": (1 / 61 + 1 / 63) / 2, "c": (1 / 63 + 1 / 61) / 2, "d": (1 / 64 + 1 / 62) / 2}),
        ({"method": "rrf", "rrf_k": 0}, {"a": (1 + 1 / 3) / 2, "c": (1 / 3 + 1) / 2, "d": 3 / 8, "b": 1 / 4}),
    ],
)
def test_fusion_by_hand(three, options, scores):
    for given in ({"a": 10.0, "c": 30.0, "d": 20.0}, [("d", 20), ("c", 30), ("a", 10)], ["c", "d", "a"]):
        hits = three.search([1.0, 0.0], rerank=ab.Fusion(["scores", given], **options))
        found = dict(zip(hits.ids, hits.scores.tolist(), strict=True))
        assert {id: found[id] for id in scores} == pytest.approx(scores)
        assert hits.scores.tolist() == sorted(found.values(), reverse=True)


def test_zscores_by_hand(three):
    hits = three.search([1.0, 0.0], rerank=ab.Fusion(["scores", {"a": 1.0, "b": 3.0}], "zscore"))
    spread = math.sqrt(2.5)  # of 4, 3, 1, 0
    wanted = {"a": 2 / spread - 1, "b": 1 / spread + 1, "c": -1 / spread - 1, "d": -2 / spread - 1}
    assert dict(zip(hits.ids, hits.scores.tolist(), strict=True)) == pytest.approx(
        {id: score / 2 for id, score in wanted.items()}
    )


def test_equal_scores_share_the_best_of_their_ranks(three):
    hits = three.search([1.0, 0.0], rerank=ab.Fusion([{"a": 1, "b": 2, "c": 2, "d": 3}], "rrf"))
    assert hits.ids == ["d", "b", "c", "a"]
    assert hits.scores.tolist() == pytest.approx([1 / 61, 1 / 62, 1 / 62, 1 / 64])


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_fusion_of_one_list_is_that_list(setting, method):
    bridge, _, query, reads = setting
    options = {"k": 41, "candidates": 41}
    assert (
        bridge.search(query, rerank=ab.Fusion(["scores"], method), **options).ids == bridge.search(query, **options).ids
    )
    for stage in (ab.LateInteraction(), ab.LateInteraction(mix=1.0), ab.QueryExpansion(top=3)):
        given = reads if stage.requires_tokens else {}
        alone = bridge.search(query, rerank=stage, **options, **given)
        assert bridge.search(query, rerank=ab.Fusion([stage], method), **options, **given).ids == alone.ids
    mapping = {7: 1.0, 3: -4.0, 20: 1.0 + 1e-12, 11: 0.0}
    assert bridge.search(query, rerank=ab.Fusion([mapping], method), **options).ids == [20, 7, 11, 3]
    assert bridge.search(query, rerank=ab.Fusion([[5, 40, 2, 9]], method), k=3).ids == [5, 40, 2]
    assert len(bridge.search(query, rerank=ab.Fusion([{}], method))) == 0


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_the_order_of_candidates_and_of_rankings_does_not_matter(method, rng):
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    keys = Keys(rng.standard_normal((13, 5)).astype(np.float32))
    query = rng.standard_normal(5).astype(np.float32)

    def run(rows, rankings, weights):
        pool = Pool(query, 0.0, Metric("ip"), keys, rows, np.empty(0), attention, options)
        pool.scores = np.round(pool.logits(), 1)  # with ties
        ab.Fusion(rankings, method, weights).apply(pool)
        assert pool.parts.keys() >= {"fusion", "fusion.scores", "fusion.expansion"}
        return dict(zip(pool.rows.tolist(), pool.scores.tolist(), strict=True))

    first = run(np.arange(13), ["scores", ab.QueryExpansion(top=2)], [1, 2])
    for _ in range(5):
        again = run(rng.permutation(13), [ab.QueryExpansion(top=2), "scores"], [2, 1])
        assert again == pytest.approx(first, rel=1e-12)


def test_documents_from_elsewhere_join(setting):
    bridge, _, query, _ = setting
    plain = all_scores(bridge, query)
    near = order(plain)
    given = {near[2]: 5.0, near[30]: 4.0, near[35]: 1.0, near[40]: 3.0}
    hits = bridge.search(query, k=6, candidates=6, rerank=ab.Fusion(["scores", given], depth=3))
    pool = [*near[:6], near[30], near[40]]  # the best three, one of which is there already
    truth = np.full(41, -np.inf)
    truth[pool] = fused([plain[pool].tolist(), [given.get(i) for i in pool]], "minmax")
    check(hits, truth)
    assert hits.ranks_before.tolist() == [near.index(i) if near.index(i) < 6 else -1 for i in hits.ids]
    assert hits.trace.origins == dict.fromkeys([near[30], near[40]], "ranking 2 of fusion")
    assert hits.candidates == 8
    assert [i for i, part in zip(hits.ids, hits.parts["scaled_dot"], strict=True) if np.isnan(part)] == [
        i for i in hits.ids if i in (near[30], near[40])
    ]


def test_who_joins_is_seen_by_the_stages_of_the_fusion(setting):
    bridge, _, query, reads = setting
    near = order(all_scores(bridge, query))
    late = ab.LateInteraction(mix=1.0)
    hits = bridge.search(query, k=5, candidates=5, rerank=ab.Fusion([late, [near[39]]], weights=[1, 0]), **reads)
    alone = bridge.search(query, k=41, candidates=41, filter=[*near[:5], near[39]], rerank=late, **reads)
    assert order(everything(hits)) == alone.ids
    # and what a stage of the fusion finds by itself joins as well
    research = ab.QueryExpansion(top=2, mix=1.0, research=True)
    found = bridge.search(query, k=5, candidates=5, rerank=research)
    hits = bridge.search(query, k=5, candidates=5, rerank=ab.Fusion(["scores", research]))
    assert set(order(everything(hits))) == {*near[:5], *found.ids}
    assert hits.trace.origins == {i: "second search, with the expanded query" for i in found.ids if i not in near[:5]}


def test_who_joins_after_a_mix_has_no_score_so_far(setting):
    bridge, _, query, reads = setting
    near = order(all_scores(bridge, query))
    stages = [ab.LateInteraction(mix=0.5), ab.Fusion(["scores", [near[39], near[0]]])]
    hits = bridge.search(query, k=5, candidates=5, rerank=stages, **reads)
    before = all_scores(bridge, query, filter=near[:5], rerank=stages[0], **reads)
    pool = [*near[:5], near[39]]
    truth = np.full(41, -np.inf)
    truth[pool] = fused([[*before[near[:5]], None], [1.0, None, None, None, None, 2.0]], "minmax")
    check(hits, truth)


def test_only_what_the_search_may_return_joins(setting):
    bridge, _, query, _ = setting
    near = order(all_scores(bridge, query))
    given = {near[20]: 9.0, near[21]: 8.0, near[22]: 7.0, near[23]: 6.0}
    odd = [i for i in range(41) if i != near[20]]
    stage = ab.Fusion(["scores", given], depth=2)
    hits = bridge.search(query, k=3, candidates=3, filter=odd, rerank=stage)
    assert set(order(everything(hits))) == {*near[:3], near[21], near[22]}
    bridge.delete([near[21]])
    hits = bridge.search(query, k=3, candidates=3, filter=odd, rerank=stage)
    assert set(order(everything(hits))) == {*near[:3], near[22], near[23]}
    radius = float(bridge.search(query, k=10).distances[-1])
    within = bridge.search(query, radius=radius, rerank=ab.Fusion(["scores", given]))
    assert set(within.ids) == set(bridge.search(query, radius=radius).ids)
    alike = bridge.search(id=near[0], k=3, candidates=3, rerank=ab.Fusion(["scores", {near[0]: 1.0, near[9]: 2.0}]))
    assert near[0] not in order(everything(alike))
    assert near[9] in order(everything(alike))


def test_many_that_may_not_join_do_not_hide_those_that_may():
    rng = np.random.default_rng(3)
    bridge = ab.AttentionVectorBridge(dim=3, index="exact")
    bridge.add(rng.standard_normal((500, 3)))
    given = list(range(500))
    stage = ab.Fusion([given[:-3]], depth=2)
    hits = bridge.search([1, 0, 0], k=2, candidates=2, filter=range(480, 500), rerank=stage)
    near = bridge.search([1, 0, 0], k=2, filter=range(480, 500)).ids
    assert order(everything(hits, 500)) == sorted({480, 481, *near} - {497, 498, 499})


def test_unknown_ids_are_passed_over(three):
    known = three.search([1.0, 0.0], rerank=ab.Fusion(["scores", {"c": 1.0}]))
    assert three.search([1.0, 0.0], rerank=ab.Fusion(["scores", {"c": 1.0, "zz": 8.0, 7: 1.0}])) == known
    ids = [f"x{i}" for i in range(7)]
    with pytest.raises(
        ab.UnknownIdError,
        match=r"rankings\[1\] of fusion must name documents of this index, it holds none of the 7 ids, the first of "
        r"which are \['x0', 'x1', 'x2', 'x3', 'x4'\]; give the ids that add\(\) was given",
    ):
        three.search([1.0, 0.0], rerank=ab.Fusion(["scores", ids]))


def test_a_function_of_the_query_text(three):
    asked = []

    def full_text(text):
        asked.append(text)
        return [] if text == "none" else {"d": 2.0, "b": 1.0}

    stage = ab.Fusion(["scores", full_text], weights=[0, 1])
    first, second = three.search_batch([[1.0, 0.0]] * 2, query_text=["one", "none"], rerank=stage, threads=1)
    assert asked == ["one", "none"]
    assert first.ids == ["d", "a", "b", "c"]
    assert second.scores.tolist() == [0.0] * 4
    with pytest.raises(ab.InvalidInputError, match="fusion needs the query's text"):
        three.search([1.0, 0.0], rerank=stage)
    with pytest.raises(ab.InvalidConfigError, match="query_text is read by no stage"):
        three.search([1.0, 0.0], rerank=ab.Fusion(["scores"]), query_text="one")
    with pytest.raises(ab.InvalidInputError, match=r"what rankings\[0\] of fusion returns must be a mapping .* got 3$"):
        three.search([1.0, 0.0], rerank=ab.Fusion([lambda text: 3]), query_text="one")


class RuleOut:
    name, requires_tokens, level = "rule_out", False, "candidates"

    def apply(self, pool):
        pool.scores = np.where(pool.rows % 2 == 0, -np.inf, pool.scores)


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_what_is_ruled_out_stays_so(setting, method):
    bridge, _, query, _ = setting
    plain = all_scores(bridge, query)
    given = {i: float(i) for i in range(20)}
    hits = bridge.search(query, k=41, candidates=41, rerank=[RuleOut(), ab.Fusion(["scores", given], method)])
    odd = list(range(1, 41, 2))
    truth = np.full(41, -np.inf)
    truth[odd] = fused([plain[odd].tolist(), [given.get(i) for i in odd]], method)
    check(hits, truth)
    # a stage inside rules out of its own ranking only
    hits = bridge.search(query, k=41, candidates=41, rerank=ab.Fusion(["scores", RuleOut()], method))
    check(hits, fused([plain.tolist(), [plain[i] if i % 2 else None for i in range(41)]], method))


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_one_candidate_and_equal_scores(method):
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[0.9, 0.1]] * 5)
    stage = ab.Fusion(["scores", [4, 0]], method)
    one = bridge.search([1.0, 0.0], filter=[0], rerank=stage)
    value = {"minmax": 1.0, "zscore": 0.0, "rrf": 1 / 61}[method]
    assert (one.ids, one.scores.tolist()) == ([0], [pytest.approx(value)])
    assert bridge.search([1.0, 0.0], rerank=stage).ids == [4, 0, 1, 2, 3]
    assert bridge.search([1.0, 0.0], rerank=ab.Fusion(["scores"], method)).ids == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_the_largest_scores(three, method):
    huge = np.finfo(np.float64).max
    hits = three.search([1.0, 0.0], rerank=ab.Fusion([{"a": -huge, "b": 0.0, "c": huge, "d": 1e300}], method))
    assert hits.ids == ["c", "d", "b", "a"]
    weighted = ab.Fusion([{"a": 1.0, "b": 0.0}, {"b": 1.0, "a": 0.0}], weights=[huge, huge / 2])
    assert three.search([1.0, 0.0], rerank=weighted).scores.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_stage_inside_a_fusion_is_told_of_and_tells(setting):
    bridge, _, query, reads = setting
    alone = bridge.search(query, rerank=ab.QueryExpansion(top=3))
    hits = bridge.search(query, rerank=ab.Fusion(["scores", ab.QueryExpansion(top=3)]))
    step = hits.trace.steps[-1]
    assert step.name == "fusion"
    row = hits.trace.rows[0]
    assert step.attended(row) == alone.trace.steps[-1].attended(row)
    assert len(step.attended(row)) == 3
    again = pickle.loads(pickle.dumps(hits))
    assert again == hits
    twice = bridge.search(query, rerank=ab.Fusion([ab.LateInteraction(), ab.LateInteraction(mix=1.0)]), **reads)
    assert "fusion.late_interaction+" in twice.parts
    nested = bridge.search(query, rerank=ab.Fusion(["scores", ab.Fusion(["scores", ab.QueryExpansion(top=3)])]))
    assert nested.parts.keys() >= {"fusion", "fusion.scores", "fusion.fusion"}


def test_a_stage_inside_a_fusion_that_leaves_no_scores_is_named(setting):
    bridge, _, query, _ = setting

    class Spoil:
        name, requires_tokens = "spoil", False

        def apply(self, pool):
            pool.scores = np.full(len(pool.rows), np.nan)

    with pytest.raises(ab.InvalidInputError, match="stage 'spoil' must leave a score for each of 41 candidates"):
        bridge.search(query, rerank=ab.Fusion(["scores", Spoil()]))


def test_a_fusion_asks_for_more_candidates_where_a_stage_of_it_does(setting):
    bridge, _, query, _ = setting

    class Few:
        name, requires_tokens = "few", False

        def apply(self, pool):
            pool.scores = np.where(pool.rows % 5 == 0, pool.scores, -np.inf)
            pool.short = np.isfinite(pool.scores).sum() < pool.wanted

    plain = all_scores(bridge, query)
    wanted = [i for i in order(plain) if i % 5 == 0][:7]
    assert bridge.search(query, k=7, candidates=7, rerank=ab.Fusion([Few()])).ids == wanted
    assert bridge.search(query, k=7, candidates=7, rerank=ab.Fusion(["scores", Few()])).candidates == 7


@pytest.mark.parametrize("attention", ["sparse", "cross"])
def test_who_the_attention_leaves_out_does_not_join(attention, rng):
    options = {"pattern": "top_k", "top_k": 4} if attention == "sparse" else {}
    bridge = ab.AttentionVectorBridge(dim=3, index="exact", attention=attention, **options)
    tokens = [rng.standard_normal((0 if i % 2 else 2, 3)) for i in range(20)]
    bridge.add(rng.standard_normal((20, 3)), tokens=tokens)
    reads = {"query_tokens": rng.standard_normal((2, 3))} if attention == "cross" else {}
    hits = bridge.search([1, 0, 0], k=6, candidates=6, rerank=ab.Fusion(["scores", list(range(20))]), **reads)
    found = order(everything(hits, 20))
    if attention == "cross":  # a document without tokens has nothing to attend to
        assert sorted(found) == list(range(0, 20, 2))
    else:  # the best four of any
        assert set(found) == set(bridge.search([1, 0, 0], k=20, candidates=20).ids)


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_a_fusion_over_an_opened_bridge(tmp_path, setting, method):
    """Rows and tokens of memory-mapped files that only join are verified and read as the others are."""
    bridge, _, query, reads = setting
    bridge.save(tmp_path / "b")
    opened = ab.AttentionVectorBridge.open(tmp_path / "b", read_only=True)
    stage = ab.Fusion([ab.LateInteraction(), list(range(41))], method)
    options = {"k": 3, "candidates": 3, "rerank": stage, **reads}
    assert opened.search(query, **options) == bridge.search(query, **options)


@pytest.mark.parametrize(
    ("rankings", "options", "error", "message"),
    [
        ("scores", {}, ab.InvalidConfigError, r"rankings must be a list of at least one ranking, .* got 'scores'"),
        ([], {}, ab.InvalidConfigError, "rankings must be a list of at least one ranking"),
        ({"a": 1.0}, {}, ab.InvalidConfigError, "rankings must be a list of at least one ranking"),
        (["expansion, late_interaction"], {}, ab.InvalidConfigError, r"rankings\[0\] must be 'scores' or one stage"),
        (["nothing"], {}, ab.InvalidConfigError, "rerank names no stage 'nothing'"),
        (
            ["scores", ab.LateInteraction],
            {},
            ab.InvalidConfigError,
            r"rankings\[1\] must be an object, got the class L",
        ),
        ([3], {}, ab.InvalidInputError, r"rankings\[0\] must be a mapping .* got 3$"),
        ([[("a", 1.0), "b"]], {}, ab.InvalidInputError, r"rankings\[0\] must be a mapping .* got 'b' among them"),
        ([[1.5, "b"]], {}, ab.InvalidInputError, r"rankings\[0\] must be a mapping .* got the id 1\.5"),
        ([[True, "b"]], {}, ab.InvalidInputError, r"rankings\[0\] must be a mapping .* got the id True"),
        ([["a", "b", "a"]], {}, ab.InvalidInputError, r"rankings\[0\] must name each id once, 'a' comes twice; keep"),
        (
            [{"a": np.nan}],
            {},
            ab.InvalidInputError,
            r"rankings\[0\] must have finite scores, 'a' has nan; leave it out",
        ),
        ([{"a": "x"}], {}, ab.InvalidInputError, r"rankings\[0\] must have finite scores, 'a' has 'x'"),
        (["scores"], {"method": "max"}, ab.InvalidConfigError, "method must be one of minmax, rrf, zscore; got 'max'"),
        (["scores"], {"weights": [1, 2]}, ab.InvalidConfigError, "weights must be one number for each of 1 rankings"),
        (["scores"], {"weights": 1}, ab.InvalidConfigError, "weights must be one number for each of 1 rankings, got 1"),
        (["scores"], {"weights": [-1]}, ab.InvalidConfigError, r"weights\[0\] must be a finite number >= 0, got -1"),
        (["scores"], {"weights": [0]}, ab.InvalidConfigError, r"weights must not all be 0, got \[0\]"),
        (["scores"], {"rrf_k": -1}, ab.InvalidConfigError, "rrf_k must be a finite number >= 0, got -1"),
        (["scores"], {"depth": 0}, ab.InvalidConfigError, "depth must be a whole number >= 1, got 0"),
    ],
)
def test_fusions_that_cannot_be(rankings, options, error, message):
    with pytest.raises(error, match=message):
        ab.Fusion(rankings, **options)


def test_fusions_as_text_and_as_values():
    stage = ab.Fusion(["scores", ab.BM25("text", b=0.5)], method="rrf")
    assert as_stages("fusion(['scores', bm25('text', b=0.5)], method='rrf')") == (stage,)
    assert ab.Fusion(["scores", "bm25('text', b=0.5)"], "rrf") == stage
    given = ab.Fusion(["scores", {"a": 1, 7: -2.5}, ["x"], ab.QueryExpansion(top=3)], weights=np.array([1, 2, 0, 1]))
    for one in (stage, given, ab.Fusion([["a"]]), ab.Fusion([[]])):
        assert as_stages(repr(one)) == (one,)
        assert hash(one) == hash(as_stages(repr(one))[0])
    assert as_stages("fusion([late_interaction, 'scores'])") == (ab.Fusion([ab.LateInteraction(), "scores"]),)
    assert ab.Fusion([[np.int64(3), np.int64(4)]]) == ab.Fusion([{3: 2.0, 4: 1.0}])
    assert not ab.Fusion(["scores"]).requires_tokens
    assert not ab.Fusion(["scores", ["a"]]).requires_text
    assert ab.Fusion(["scores", ab.LateInteraction()]).requires_tokens
    assert ab.Fusion(["scores", ab.Fusion([ab.BM25("text")])]).requires_text


def test_a_ranking_from_elsewhere_needs_an_index():
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    keys = Keys(np.ones((3, 2), np.float32))
    pool = Pool(keys.data[0], 0.0, Metric("ip"), keys, np.arange(3), np.zeros(3), attention, options, query_text="a")
    with pytest.raises(ab.InvalidConfigError, match="fusion needs an index to ask"):
        ab.Fusion([{"a": 1.0}]).apply(pool)
    with pytest.raises(ab.InvalidConfigError, match="bm25 needs an index to ask"):
        ab.BM25("text").apply(pool)
    pool.query_text = None
    with pytest.raises(ab.InvalidInputError, match="bm25 needs the query's text; pass query_text="):
        ab.BM25("text").apply(pool)


# ---- BM25


@pytest.fixture
def _bm25s():
    pytest.importorskip("bm25s")


@pytest.mark.usefixtures("_bm25s")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k1": 0.9, "b": 0.4},
        {"k1": 0.0},
        {"b": 0.0, "mix": 0.3},
        {"b": 1.0, "mix": 0.0},
        {"stopwords": ["wing", "heat"]},
        {"stopwords": None},
        {"stemmer": lambda word: word[:2]},
    ],
)
def test_bm25_against_the_reference(setting, options):
    bridge, texts, query, _ = setting
    stage = ab.BM25("text", **options)
    text = "The Wing, and heat-transfer: wing!  (unheard of) slender"
    plain = all_scores(bridge, query)
    given = {"k1": stage.k1, "b": stage.b}
    if "stopwords" in options:
        given["stop"] = options["stopwords"] or []
    if "stemmer" in options:
        given["stem"] = options["stemmer"]
    truth = bm25(texts, text, **given)
    hits = bridge.search(query, k=41, candidates=41, rerank=stage, query_text=text)
    mixed = (1 - stage.mix) * z(plain) + stage.mix * z(truth)
    np.testing.assert_allclose(hits.scores, mixed[hits.ids], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hits.parts["bm25"], truth[hits.ids], rtol=1e-5)
    assert len(hits) == 41
    assert (
        hits
        == bridge.search_batch([query] * 3, k=41, candidates=41, rerank=stage, query_text=["a", text, "b"], threads=2)[
            1
        ]
    )


@pytest.mark.usefixtures("_bm25s")
def test_words_that_no_document_has(setting):
    bridge, _, query, _ = setting
    for text in ("nothing here", "the", "?", " "):
        hits = bridge.search(query, k=41, candidates=41, rerank=ab.BM25("text"), query_text=text)
        assert hits.scores.tolist() == [0.0] * 41
        assert len(bridge.search(query, rerank=ab.Fusion([ab.BM25("text")]), query_text=text)) == 0


@pytest.mark.usefixtures("_bm25s")
@pytest.mark.parametrize("texts", [[None, None], ["", ""], ["the", "?"]])
def test_documents_without_words(texts):
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [0.0, 1.0]], payload={"text": texts})
    if texts[0] is None:
        bridge.set_payload([0, 1], {"text": ["x", "y"]})  # so that the column is one of text
        bridge.set_payload([0, 1], {"text": [None, None]})
    hits = bridge.search([1.0, 0.0], rerank=ab.BM25("text"), query_text="a word")
    assert (hits.ids, hits.scores.tolist()) == ([0, 1], [0.0, 0.0])


@pytest.mark.usefixtures("_bm25s")
@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_hybrid_search(setting, method):
    bridge, texts, query, _ = setting
    text = "slender cone drag"
    plain, words = all_scores(bridge, query), bm25(texts, text)
    near = order(plain)
    best = [i for i in order(words) if words[i] > 0]
    hits = bridge.search(
        query, k=5, candidates=5, rerank=ab.Fusion(["scores", ab.BM25("text", depth=4)], method), query_text=text
    )
    pool = sorted({*near[:5], *best[:4]})
    # no word in common: the score 0, but no rank
    listed = [words[i] if method != "rrf" or words[i] > 0 else None for i in pool]
    truth = np.full(41, -np.inf)
    truth[pool] = fused([plain[pool].tolist(), listed], method)
    check(hits, truth)
    assert hits.trace.origins == dict.fromkeys(set(best[:4]) - set(near[:5]), "bm25")
    assert list(hits.parts) == ["scaled_dot", "fusion", "fusion.scores", "fusion.bm25"]
    np.testing.assert_allclose(hits.parts["fusion.bm25"], words[hits.ids], rtol=1e-5)
    # with a filter, its best among those that pass
    allowed = [i for i in range(41) if i not in best[:3]]
    stage = ab.Fusion([ab.BM25("text", depth=4)], method)
    hits = bridge.search(query, k=5, candidates=5, filter=allowed, query_text=text, rerank=stage)
    wanted = {*best[3:7], *[i for i in near if i in allowed][:5]}
    # the fusion of one list is that list
    assert order(everything(hits)) == [i for i in best if i in wanted]


@pytest.mark.usefixtures("_bm25s")
def test_the_index_is_made_once_for_each_state(monkeypatch, setting):
    bridge, texts, query, _ = setting
    made = []

    class Counted(bm25_module.WordIndex):
        def __init__(self, *args):
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr(bm25_module, "WordIndex", Counted)
    stage = ab.BM25("text")

    def found():
        hits = bridge.search(query, k=len(bridge), candidates=50, rerank=stage, query_text="wing drag")
        return dict(zip(hits.ids, hits.parts["bm25"].tolist(), strict=True))

    for _ in range(3):
        found()
    bridge.search_batch([query] * 50, rerank=ab.Fusion(["scores", stage]), query_text=["heat"] * 50, threads=2)
    found()
    assert len(made) == 1
    # what has been removed is no part of the statistics
    bridge.delete([1, 2, 3])
    left = [i for i in range(41) if i not in (1, 2, 3)]
    truth = bm25([texts[i] for i in left], "wing drag")
    assert found() == pytest.approx(dict(zip(left, truth, strict=True)), rel=1e-5)
    bridge.set_payload([0], {"text": ["wing wing"]})
    truth = bm25(["wing wing", *[texts[i] for i in left[1:]]], "wing drag")
    assert found() == pytest.approx(dict(zip(left, truth, strict=True)), rel=1e-5)
    assert len(made) == 3
    # a few settings are kept beside each other
    for b in (0.1, 0.2, 0.3, 0.1, 0.2, 0.3):
        bridge.search(query, rerank=ab.BM25("text", b=b), query_text="wing")
    found()
    assert len(made) == 6
    for b in (0.4, 0.5, 0.6, 0.7, 0.8):
        bridge.search(query, rerank=ab.BM25("text", b=b), query_text="wing")
    found()
    assert len(made) == 12
    assert len(bridge._state.store.view._cache["bm25"]) == 4


@pytest.mark.usefixtures("_bm25s")
def test_threads_share_one_index(monkeypatch, setting):
    bridge, _, query, _ = setting
    made, ready = [], threading.Barrier(4)
    build = bm25_module.BM25._built
    monkeypatch.setattr(bm25_module.BM25, "_built", lambda self, source: made.append(1) or build(self, source))
    found = []

    def search():
        ready.wait()
        found.append(bridge.search(query, rerank=ab.BM25("text", mix=0.5), query_text="wing heat"))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(hits == found[0] for hits in found)


@pytest.mark.usefixtures("_bm25s")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_while_an_index_is_made_can_make_one(setting):
    bridge, _, query, _ = setting
    with bm25_module._building:
        child = os.fork()
        if child == 0:
            hits = bridge.search(query, rerank=ab.BM25("text"), query_text="wing")
            os._exit(0 if len(hits) == 10 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.usefixtures("_bm25s")
def test_a_bridge_is_saved_as_before_once_it_has_searched(tmp_path, setting):
    bridge, _, query, _ = setting
    stage = ab.BM25("text", stemmer=lambda word: word[:3])
    hits = bridge.search(query, rerank=stage, query_text="wing")
    bridge.save(tmp_path / "b")
    assert ab.AttentionVectorBridge.open(tmp_path / "b").search(query, rerank=stage, query_text="wing") == hits


@pytest.mark.usefixtures("_bm25s")
@pytest.mark.parametrize("language", bm25_module.LANGUAGES)
def test_stop_words_of_every_language(language):
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0]], payload={"text": ["the und el der och"]})
    assert len(bridge.search([1.0, 0.0], rerank=ab.BM25("text", stopwords=language), query_text="the und")) == 1


@pytest.mark.usefixtures("_bm25s")
def test_bm25s_prints_nothing():
    code = (
        "import logging, attnbridge as ab; logging.basicConfig(level=logging.DEBUG)\n"
        "logging.getLogger('numba').setLevel(logging.WARNING)\n"
        "bridge = ab.AttentionVectorBridge(dim=2, index='exact')\n"
        "bridge.add([[1.0, 0.0]], payload={'text': ['a wing']})\n"
        "bridge.search([1.0, 0.0], rerank=ab.Fusion([ab.BM25('text')]), query_text='wing')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, [line for line in run.stderr.splitlines() if "bm25" in line.lower() or "%|" in line]) == (
        "",
        [],
    )
    assert logging.getLogger("bm25s").level in (logging.NOTSET, logging.WARNING)


@pytest.mark.usefixtures("_bm25s")
def test_columns_that_cannot_be(setting):
    bridge, _, query, _ = setting
    with pytest.raises(
        ab.InvalidInputError, match=r"bm25 needs a column of text: 'year' of 0 is 0; name another column"
    ):
        bridge.search(query, rerank=ab.BM25("year"), query_text="a")
    with pytest.raises(
        ab.InvalidInputError, match="column must be one of the payload's, 'txt' is none; they are: text"
    ):
        bridge.search(query, rerank=ab.BM25("txt"), query_text="a")
    with pytest.raises(ab.InvalidInputError, match="bm25 needs the query's text; pass query_text="):
        bridge.search(query, rerank=ab.BM25("text"))


def test_without_bm25s(monkeypatch, setting):
    bridge, _, query, _ = setting
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ab.MissingDependencyError, match=r"bm25s is not installed; pip install 'attnbridge\[text\]'"):
        bridge.search(query, rerank=ab.BM25("text", k1=1.25), query_text="wing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": ""}, "column must be a text of at least one character, got ''"),
        ({"column": 3}, "column must be a text of at least one character, got 3"),
        ({"k1": -1}, "k1 must be a finite number >= 0, got -1"),
        ({"b": 1.5}, "b must be a finite number >= 0, at most 1, got 1.5"),
        ({"mix": 2}, "mix must be a finite number >= 0, at most 1, got 2"),
        ({"depth": 0}, "depth must be a whole number >= 1, got 0"),
        ({"stopwords": "klingon"}, "stopwords must be one of danish, dutch, english, .* got 'klingon'"),
        ({"stopwords": [1]}, r"stopwords must be a language, a list of words or None, got \[1\]"),
        ({"stopwords": 1}, "stopwords must be a language, a list of words or None, got 1"),
        ({"stemmer": "english"}, "stemmer must be a function word -> stem, or None, got 'english'"),
    ],
)
def test_bm25_that_cannot_be(options, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.BM25(**{"column": "text", **options})


def test_bm25_as_text_and_as_values():
    stage = ab.BM25("text", k1=1, b=np.float32(0.5), stopwords=["a", "b"])
    assert as_stages(repr(stage)) == (stage,)
    assert as_stages("bm25('text'), BM25('title', mix=0.5)") == (ab.BM25("text"), ab.BM25("title", mix=0.5))
    assert hash(stage) == hash(as_stages(repr(stage))[0])
