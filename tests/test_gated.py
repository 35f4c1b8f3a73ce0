"""Calibrated and Gated, and the criteria, against slow float64 references."""

import math
import pickle
import time

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Pool, as_stages
from attnbridge.rerank.calibrated import fit_logistic
from attnbridge.rerank.criteria import CRITERIA, TOP
from attnbridge.rerank.gated import _chosen
from attnbridge.rerank.judged import ndcg
from attnbridge.scoring import resolve

METRICS = ("cosine", "ip", "l2")


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


# ---- calibrated


@pytest.fixture
def bridge(rng):
    """Return a bridge of 43 documents, every fifth of which has no tokens."""
    bridge = ab.AttentionVectorBridge(dim=7, index="exact")
    bridge.add(rng.standard_normal((43, 7)), tokens=[rng.standard_normal((n % 5, 3)) for n in range(43)])
    return bridge


def test_calibrated_against_the_reference(bridge, rng):
    query, tokens = rng.standard_normal(7), rng.standard_normal((4, 3)).astype(np.float32)
    stages = [ab.QueryExpansion(top=3), ab.LateInteraction(mix=0.3)]
    coefficients = {"scaled_dot": 0.25, "expansion": -0.125, "late_interaction": 2.0}
    stage = ab.Calibrated(coefficients, -1.5, {"late_interaction": 0.75})
    options = {"k": 43, "candidates": 43, "query_tokens": tokens}
    before = bridge.search(query, rerank=stages, **options)
    assert np.isnan(before.parts["late_interaction"]).sum() == 9
    truth = {}
    for i, id in enumerate(before.ids):
        parts = {name: float(before.parts[name][i]) for name in coefficients}
        if math.isnan(parts["late_interaction"]):
            parts["late_interaction"] = 0.75
        truth[id] = sigmoid(-1.5 + sum(coefficients[name] * parts[name] for name in coefficients))
    hits = bridge.search(query, rerank=[*stages, stage], **options)
    assert hits.ids == sorted(truth, key=lambda id: (-truth[id], id))
    np.testing.assert_allclose(hits.scores, [truth[id] for id in hits.ids], rtol=1e-12)
    assert hits.parts["calibrated"].tolist() == hits.scores.tolist()
    cut = bridge.search(query, rerank=[*stages, stage], threshold=0.5, **options)
    assert cut.ids == [id for id in hits.ids if truth[id] >= 0.5]
    batch = bridge.search_batch(
        [query] * 2, k=43, candidates=43, query_tokens=[tokens] * 2, rerank=[*stages, stage], threads=2
    )
    assert batch == [hits, hits]


def test_a_document_alone_has_the_probability_that_it_has_among_others(bridge, rng):
    query, tokens = rng.standard_normal(7), rng.standard_normal((4, 3)).astype(np.float32)
    stages = [
        ab.LateInteraction(mix=0.5),
        ab.Calibrated({"scaled_dot": 0.1, "late_interaction": 1.0}, -1.0, {"late_interaction": 0.0}),
    ]
    among = bridge.search(query, k=43, candidates=43, query_tokens=tokens, rerank=stages)
    for id, p in zip(among.ids, among.scores.tolist(), strict=True):
        alone = bridge.search(query, filter=[id], query_tokens=tokens, rerank=stages)
        assert (alone.ids, alone.scores.tolist()) == ([id], [pytest.approx(p, rel=1e-6)])


def test_the_fit_recovers_what_judgements_were_drawn_from(rng):
    features = rng.standard_normal((40_000, 3)) * [1.0, 20.0, 0.01] + [0.0, 5.0, -2.0]
    wanted, intercept = np.array([0.7, -0.05, 60.0]), 119.0
    labels = rng.random(40_000) < 1 / (1 + np.exp(-(features @ wanted + intercept)))
    coefficients, at, means = fit_logistic(features, labels, 1.0)
    np.testing.assert_allclose(coefficients, wanted, rtol=0.07)
    assert at == pytest.approx(intercept, rel=0.05)
    np.testing.assert_allclose(means, features.mean(axis=0), rtol=1e-9, atol=1e-12)
    again = fit_logistic(features, labels, 1.0)
    assert again[0].tolist() == coefficients.tolist()
    # the gradient is zero there, by the definition of the loss
    x = (features - means) / features.std(axis=0)
    positives = labels.sum()
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    error = 1 / (1 + np.exp(-(features @ coefficients + at))) - targets
    assert abs(error.sum()) < 1e-3
    np.testing.assert_allclose(x.T @ error + coefficients * features.std(axis=0), 0.0, atol=1e-3)


def test_missing_and_constant_features():
    rng = np.random.default_rng(5)
    features = rng.standard_normal((500, 3))
    features[:, 2] = 4.25
    labels = features[:, 0] + rng.standard_normal(500) > 0
    holes = features.copy()
    holes[::3, 1] = np.nan
    holes[1::7, 1] = -np.inf
    coefficients, intercept, means = fit_logistic(holes, labels, 0.5)
    known = np.isfinite(holes[:, 1])
    assert means[1] == pytest.approx(holes[known, 1].mean())
    filled = np.where(np.isfinite(holes), holes, means)
    np.testing.assert_allclose(coefficients, fit_logistic(filled, labels, 0.5)[0], rtol=1e-6, atol=1e-9)
    assert coefficients[2] == 0.0
    assert fit_logistic(np.full((4, 1), np.nan), labels[:4] | True ^ (np.arange(4) > 1), 1.0)[2].tolist() == [0.0]
    assert np.isfinite(intercept)


def test_separable_judgements_stay_finite():
    features = np.array([[1.0], [2.0], [3.0], [4.0]])
    labels = np.array([False, False, True, True])
    for l2 in (0.0, 1.0):
        coefficients, intercept, _ = fit_logistic(features, labels, l2)
        p = 1 / (1 + np.exp(-(features[:, 0] * coefficients[0] + intercept)))
        assert (np.diff(p) > 0).all()
        assert p[1] < 0.5 < p[2]
        assert p[0] > 0.01
    with_l2 = fit_logistic(features, labels, 10.0)[0]
    assert 0 < with_l2[0] < coefficients[0]


def clusters(rng, **options):
    """Return a bridge of 30 clusters of 4 documents, and queries with the documents of their own cluster."""
    centres = rng.standard_normal((30, 11))
    rows = np.repeat(centres, 4, axis=0) + 0.3 * rng.standard_normal((120, 11))
    size = 0.1 if options.get("attention") == "hyperbolic" else 1.0  # inside the ball
    rows *= size
    queries = centres + 0.3 * rng.standard_normal((30, 11))
    queries *= size
    bridge = ab.AttentionVectorBridge(dim=11, index="exact", **options)
    bridge.add(rows, tokens=[row.reshape(1, -1) for row in rows])
    return bridge, queries, [dict.fromkeys(range(4 * i, 4 * i + 4), 1) for i in range(30)]


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "scaled_dot"},
        {"attention": "scaled_dot", "metric": "ip"},
        {"attention": "scaled_dot", "metric": "l2"},
        {"attention": "hyperbolic"},
        {"attention": "multi_head", "num_heads": 1},
    ],
)
def test_one_threshold_means_the_same_for_every_type(options):
    rng = np.random.default_rng(9)
    bridge, queries, relevant = clusters(rng, **options)
    stage = ab.Calibrated.fit(bridge, queries[:15], relevant[:15])
    found = bridge.search_batch(queries[15:], k=120, candidates=120, rerank=stage)
    p = np.concatenate([hits.scores for hits in found])
    truth = np.concatenate([[id in own for id in hits.ids] for hits, own in zip(found, relevant[15:], strict=True)])
    assert ((p >= 0) & (p <= 1)).all()
    for low, high in ((0.0, 0.1), (0.9, 1.0)):  # what is said to be likely is
        inside = (p >= low) & (p <= high)
        assert inside.any()
        assert low - 0.1 <= truth[inside].mean() <= high + 0.1
    kept = [hits.ids for hits in bridge.search_batch(queries[15:], k=120, candidates=120, rerank=stage, threshold=0.5)]
    right = sum(id in own for ids, own in zip(kept, relevant[15:], strict=True) for id in ids)
    assert right / sum(map(len, kept)) > 0.75
    assert right / 60 > 0.5


def test_fit_reads_stages_tokens_and_text(rng):
    bridge, queries, relevant = clusters(rng)
    tokens = [query[None].astype(np.float32) for query in queries]
    stage = ab.Calibrated.fit(
        bridge, queries, [list(own) for own in relevant], rerank="expansion, late_interaction", query_tokens=tokens
    )
    assert list(stage.coefficients) == ["scaled_dot", "expansion", "late_interaction"]
    assert stage.means.keys() == stage.coefficients.keys()
    assert stage == ab.Calibrated.fit(
        bridge, queries, relevant, rerank=["expansion", "late_interaction"], query_tokens=tokens
    )
    only = ab.Calibrated.fit(
        bridge, queries, relevant, rerank="late_interaction", query_tokens=tokens, parts=["late_interaction"], l2=0.0
    )
    assert list(only.coefficients) == ["late_interaction"]
    assert only.coefficients["late_interaction"] > 0
    fused = ab.Calibrated.fit(
        bridge, queries, relevant, rerank="fusion(['scores', late_interaction])", query_tokens=tokens
    )
    assert "fusion" not in fused.coefficients  # which depends on the other candidates
    assert "fusion.late_interaction" in fused.coefficients
    with pytest.raises(ab.InvalidConfigError, match="query_text is read by no stage"):
        ab.Calibrated.fit(bridge, queries, relevant, query_text=["a"] * 30)


def test_calibrated_behind_a_gate(rng):
    bridge, queries, relevant = clusters(rng)
    middle = float(np.median([probe(bridge, query, "coherence")["value"] for query in queries]))
    gated = ab.Gated("expansion", "coherence", middle)
    stage = ab.Calibrated.fit(bridge, queries, relevant, rerank=gated)
    assert list(stage.coefficients) == ["scaled_dot", "expansion"]
    found = bridge.search_batch(queries, rerank=[gated, stage])
    applied = [not np.isnan(hits.parts["expansion"]).any() for hits in found]
    assert sum(applied) == 15
    assert all(np.isfinite(hits.scores).all() for hits in found)


def test_what_is_ruled_out_stays_so(bridge, rng):
    class RuleOut:
        name, requires_tokens, level = "rule_out", False, "candidates"

        def apply(self, pool):
            pool.scores = np.where(pool.rows % 2 == 0, -np.inf, pool.scores)

    query = rng.standard_normal(7)
    stages = [RuleOut(), ab.Calibrated({"scaled_dot": 1.0}, 0.0)]
    assert all(id % 2 for id in bridge.search(query, k=43, rerank=stages).ids)
    gate = [RuleOut(), ab.Gated("expansion", "gap", None)]
    assert all(id % 2 for id in bridge.search(query, k=43, rerank=gate).ids)


@pytest.mark.parametrize(
    ("relevant", "error", "message"),
    [
        ([[0]], ab.InvalidInputError, r"relevant must have one mapping \{id: grade\} for each of 2 queries, got 1"),
        ({0: [0]}, ab.InvalidInputError, "relevant must have one mapping .* for each of 2 queries, got <class 'dict'>"),
        (["ab", [0]], ab.InvalidInputError, r"relevant\[0\] must be a mapping .* or a collection of ids, got 'ab'"),
        ([3, [0]], ab.InvalidInputError, r"relevant\[0\] must be a mapping .* or a collection of ids, got 3"),
        ([{0: "x"}, [0]], ab.InvalidInputError, r"relevant\[0\] must have finite grades, 0 has 'x'"),
        ([{0: np.nan}, [0]], ab.InvalidInputError, r"relevant\[0\] must have finite grades, 0 has nan"),
        ([[], {3: 0}], ab.InvalidInputError, r"relevant must name at least one relevant document \(grade > 0\), got"),
        (
            [[0, 100, 101, 102], [103, 104, 105, 100]],
            ab.UnknownIdError,
            r"relevant must name documents of the bridge, 6 ids are unknown, the first of which are "
            r"\[100, 101, 102, 103, 104\]; add those documents, or leave their judgements out",
        ),
    ],
)
def test_judgements_that_cannot_be(bridge, rng, relevant, error, message):
    queries = rng.standard_normal((2, 7))
    with pytest.raises(error, match=message):
        ab.Calibrated.fit(bridge, queries, relevant)
    with pytest.raises(error, match=message):
        ab.Gated.fit("expansion", bridge, queries, relevant)


def test_judgements_that_teach_nothing(bridge, rng):
    queries = rng.standard_normal((2, 7))
    last = [hits.ids[-1:] for hits in bridge.search_batch(queries, k=43, candidates=43)]
    with pytest.raises(ab.InvalidInputError, match="relevant must name documents among the 3 best hits, none is there"):
        ab.Calibrated.fit(bridge, queries, last, k=3)
    with pytest.raises(ab.InvalidInputError, match="relevant must leave hits that are not relevant, all 86 are; raise"):
        ab.Calibrated.fit(bridge, queries, [range(43)] * 2)
    with pytest.raises(ab.InvalidInputError, match="parts must be some of scaled_dot, got 'nothing'"):
        ab.Calibrated.fit(bridge, queries, last, parts="nothing")
    with pytest.raises(ab.InvalidInputError, match=r"parts must be some of scaled_dot, got \[\]"):
        ab.Calibrated.fit(bridge, queries, last, parts=[])
    with pytest.raises(ab.InvalidConfigError, match="l2 must be a finite number >= 0, got -1"):
        ab.Calibrated.fit(bridge, queries, last, l2=-1)
    with pytest.raises(ab.InvalidConfigError, match="k must be a whole number >= 1, got 0"):
        ab.Calibrated.fit(bridge, queries, last, k=0)


def test_parts_that_are_not_there(bridge, rng):
    query = rng.standard_normal(7)
    stage = ab.Calibrated({"poincare": 1.0}, 0.0)
    with pytest.raises(
        ab.InvalidInputError,
        match="calibrated needs the part 'poincare', which is not among those left before it: scaled_dot; search with",
    ):
        bridge.search(query, rerank=stage)
    stages = [ab.LateInteraction(), ab.Calibrated({"late_interaction": 1.0}, 0.0)]
    with pytest.raises(
        ab.InvalidInputError,
        match=r"calibrated needs a mean of 'late_interaction', which 9 candidates lack; give means=\{'late",
    ):
        bridge.search(query, candidates=43, query_tokens=np.ones((1, 3)), rerank=stages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, 0.0), "coefficients must hold at least one part, got none"),
        (([1.0], 0.0), r"coefficients must be a mapping \{part: number\}, got \[1\.0\]"),
        (({"a": np.nan}, 0.0), r"coefficients\['a'\] must be a finite number, got nan"),
        (({"a": 1.0}, "x"), "intercept must be a finite number, got 'x'"),
        (({"a": 1.0}, 0.0, 3), r"means must be a mapping \{part: number\}, got 3"),
        (({"a": 1.0}, 0.0, {"a": np.inf}), r"means\['a'\] must be a finite number, got inf"),
    ],
)
def test_calibrated_that_cannot_be(arguments, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.Calibrated(*arguments)


def test_calibrated_as_text_and_as_a_value():
    stage = ab.Calibrated({"scaled_dot": 0.5}, -7, means={"scaled_dot": 3})
    assert as_stages(repr(stage)) == (stage,)
    assert pickle.loads(pickle.dumps(stage)) == stage
    with pytest.raises(ab.InvalidConfigError, match="rerank must have expansion before calibrated, whose result"):
        as_stages([stage, "expansion"])
    with pytest.raises(ab.InvalidConfigError, match="rerank must have gated before calibrated, whose result"):
        as_stages([stage, "gated(expansion, 'gap')"])


# ---- criteria


def reference(name, metric, query, rows, scores):
    """Return a criterion of a query over rows, in float64 loops."""
    best = sorted(range(len(rows)), key=lambda i: (-scores[i], i))[:TOP]

    def near(q):
        if metric == "l2":
            return [-0.5 * float(((q - row) ** 2).sum()) for row in rows]
        norm = np.linalg.norm if metric == "cosine" else lambda _: 1.0
        return [float(q @ row) / float(norm(q) * norm(row)) for row in rows]

    if name == "gap":
        return float((scores[best[0]] - scores[best[-1]]) / np.std(scores)) if np.std(scores) > 0 else 0.0
    if name == "entropy":
        if len(best) == 1:
            return 0.0
        e = [math.exp(scores[i] - scores[best[0]]) for i in best]
        return -sum(x / sum(e) * math.log(x / sum(e)) for x in e) / math.log(len(best))
    if name == "coherence":
        units = [rows[i] / np.linalg.norm(rows[i]) for i in best]
        pairs = [float(a @ b) for i, a in enumerate(units) for b in units[:i]]
        return sum(pairs) / len(pairs) if pairs else 1.0
    if name == "similarity":
        return max(near(query))
    values = [rows[i] / np.linalg.norm(rows[i]) if metric == "cosine" else rows[i] for i in best]
    closeness = near(sum(values) / len(values))
    nearest = sorted(range(len(rows)), key=lambda i: (-closeness[i], i))[: len(best)]
    return len(set(nearest) & set(best)) / len(best)


def probe(bridge, query, name, **options):
    """Return a criterion of a query, and the query, rows and scores that it was computed of."""
    seen = {}

    class Probe:
        name, requires_tokens = "probe", False

        def apply(self, pool):
            seen.update(value=CRITERIA[name](pool), scores=pool.scores.copy(), rows=pool.rows.copy())

    bridge.search(query, rerank=Probe(), **options)
    return seen


@pytest.mark.parametrize("count", [1, 2, 7, 60])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_criteria_against_the_reference(name, metric, count, rng):
    rows = rng.standard_normal((count, 13)).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=13, metric=metric, index="exact")
    bridge.add(rows)
    query = rng.standard_normal(13).astype(np.float32)
    seen = probe(bridge, query, name, k=count)
    own = rows.astype(np.float64)[seen["rows"]]
    truth = reference(name, metric, query.astype(np.float64), own, seen["scores"])
    assert seen["value"] == pytest.approx(truth, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_criteria_of_packed_rows(name, metric, dtype, rng):
    rows = (rng.standard_normal((60, 13)) * np.geomspace(1, 30, 60)[:, None]).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=13, metric=metric, dtype=dtype, keep_full=False, index="exact")
    bridge.add(rows)
    query = rng.standard_normal(13).astype(np.float32)
    seen = probe(bridge, query, name, k=60)
    own = np.asarray(bridge.get(bridge.ids()), np.float64)[seen["rows"]]
    truth = reference(name, metric, query.astype(np.float64), own, seen["scores"])
    assert seen["value"] == pytest.approx(truth, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_criteria_of_degenerate_pools(name):
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    for data in (np.zeros((5, 3)), np.ones((5, 3)), np.array([[1, 0, 0], [-1, 0, 0]])):
        keys = Keys(data.astype(np.float32))
        for scores in (np.zeros(len(data)), np.arange(len(data), dtype=float), np.full(len(data), 1e300)):
            pool = Pool(
                np.ones(3, np.float32), 0.0, Metric("ip"), keys, np.arange(len(data)), scores, attention, options
            )
            assert math.isfinite(CRITERIA[name](pool))
        pool.scores = np.full(len(data), -np.inf)  # nothing is left
        assert math.isnan(CRITERIA[name](pool))
        assert not ab.Gated("expansion", name, -1e9).applies(CRITERIA[name](pool))
        pool.scores[1] = 2.0
        assert math.isfinite(CRITERIA[name](pool))


def test_rows_that_point_all_ways_agree_on_nothing():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [-1.0, 0.0]])
    assert probe(bridge, [1.0, 0.0], "agreement")["value"] == 0.0


# ---- gated


@pytest.mark.parametrize("above", [True, False])
def test_a_gate_applies_its_stage_or_leaves_the_pool_alone(bridge, rng, above):
    queries = rng.standard_normal((20, 7))
    stage = ab.QueryExpansion(top=3)
    values = [probe(bridge, query, "coherence")["value"] for query in queries]
    threshold = sorted(values)[10]
    gated = ab.Gated(stage, "coherence", threshold, above)
    found = bridge.search_batch(queries, rerank=gated, threads=2)
    applied = [value >= threshold if above else value < threshold for value in values]
    assert sum(applied) == 10
    for query, hits, does, value in zip(queries, found, applied, values, strict=True):
        alone = bridge.search(query, rerank=stage if does else ())
        assert (hits.ids, hits.scores.tolist()) == (alone.ids, alone.scores.tolist())
        assert hits.parts["gated"].tolist() == [value] * 10
        if does:
            assert hits.parts["expansion"].tolist() == alone.parts["expansion"].tolist()
            row = hits.trace.rows[0]
            assert hits.trace.steps[-1].attended(row) == alone.trace.steps[-1].attended(row)
        else:
            assert np.isnan(hits.parts["expansion"]).all()
        assert hits == bridge.search(query, rerank=gated)
        assert hits.timings["gated"] > 0


def test_a_gate_without_a_bound(bridge, rng):
    query = rng.standard_normal(7)
    always = bridge.search(query, rerank=ab.Gated("expansion", "gap"))
    assert always.ids == bridge.search(query, rerank="expansion").ids
    never = bridge.search(query, rerank=ab.Gated("expansion", "gap", above=False))
    assert never.scores.tolist() == bridge.search(query).scores.tolist()


def test_a_gate_is_what_its_stage_is(bridge, rng):
    assert ab.Gated(ab.QueryExpansion(), "gap").level == "candidates"
    assert ab.Gated(ab.LateInteraction(), "gap").level == "scores"
    assert ab.Gated(ab.LateInteraction(), "gap").requires_tokens
    assert ab.Gated(ab.BM25("text"), "gap").requires_text
    assert not ab.Gated(ab.QueryExpansion(), "gap").requires_text
    query = rng.standard_normal(7)
    with pytest.raises(ab.InvalidInputError, match="gated needs the query's tokens"):
        bridge.search(query, rerank=ab.Gated(ab.LateInteraction(), "gap"))
    research = ab.QueryExpansion(top=2, mix=1.0, research=True)
    hits = bridge.search(query, k=5, candidates=5, rerank=ab.Gated(research, "gap"))
    assert hits.ids == bridge.search(query, k=5, candidates=5, rerank=research).ids


def test_gates_as_text_and_as_values():
    stage = ab.Gated(ab.QueryExpansion(top=5), "coherence", 0.4)
    assert as_stages("gated(expansion(top=5), 'coherence', 0.4)") == (stage,)
    assert as_stages("Gated('expansion(5)', criterion='coherence', threshold=0.4, above=True)") == (stage,)
    for one in (stage, ab.Gated("expansion", "gap", None, False)):
        assert as_stages(repr(one)) == (one,)
        assert pickle.loads(pickle.dumps(one)) == one
        assert hash(one) == hash(as_stages(repr(one))[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, "gap"), "rerank must be stages such as .* got 3"),
        (("expansion, expansion", "gap"), "stage must be one stage, got 'expansion, expansion'"),
        (("expansion", "luck"), "criterion must be one of agreement, coherence, entropy, gap, similarity; got 'luck'"),
        (("expansion", "gap", np.inf), "threshold must be a finite number, got inf"),
        (("expansion", "gap", "x"), "threshold must be a finite number, got 'x'"),
        (("expansion", "gap", 0.5, 1), "above must be True or False, got 1"),
    ],
)
def test_gates_that_cannot_be(arguments, message):
    with pytest.raises((ab.InvalidConfigError, ab.InvalidInputError), match=message):
        ab.Gated(*arguments)


# ---- fitting a gate


@pytest.mark.parametrize(
    ("ids", "grades", "value"),
    [
        (["a", "b"], {"a": 1}, 1.0),
        (["x", "y", "a"], {"a": 1}, 0.5),  # 1 / log2(4)
        (["b", "a"], {"a": 2, "b": 1}, (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))),  # linear gains, not 2^g - 1
        (["a"], {"a": 1, "b": 1, "c": 0, "d": -2}, 1 / (1 + 1 / math.log2(3))),
        ([*"klmnopqrst", "a"], {"a": 3}, 0.0),
        ([], {"a": 1}, 0.0),
        (["d"], {"a": 1, "d": -2}, 0.0),
    ],
)
def test_ndcg_by_hand(ids, grades, value):
    assert ndcg(ids, grades) == pytest.approx(value)
    assert math.isnan(ndcg(ids, {"a": 0}))


def test_the_fit_finds_the_split_that_gains_were_made_of(rng):
    signal, noise = rng.random(300), rng.random(300)
    order = rng.permutation(300)
    gains = np.where(signal >= 0.6, 0.2, -0.1) + 0.01 * rng.standard_normal(300)
    criterion, threshold, above = _chosen({"noise": noise, "signal": signal}, gains, order, 5)
    assert (criterion, above) == ("signal", True)
    assert 0.54 < threshold < 0.66
    criterion, threshold, above = _chosen({"noise": noise, "signal": -signal}, gains, order, 5)
    assert (criterion, above) == ("signal", False)
    assert -0.66 < threshold < -0.54
    assert _chosen({"signal": signal}, np.full(300, -0.1), order, 5) == ("signal", None, False)
    assert _chosen({"signal": signal}, np.full(300, 0.1), order, 5) == ("signal", None, True)
    assert _chosen({"signal": signal}, np.zeros(300), order, 5) == ("signal", None, False)


def test_a_gate_is_fitted_on_what_a_search_gains(rng):
    """Judgements made so that expansion helps exactly where the best candidates are coherent."""
    bridge, queries, _ = clusters(rng)
    queries = np.concatenate([queries, rng.standard_normal((30, 11))])
    stage = ab.QueryExpansion(top=4, scale=5.0, mix=0.7)
    values = [probe(bridge, query, "coherence", k=10)["value"] for query in queries]
    middle = float(np.median(values))
    relevant = []
    for query, value in zip(queries, values, strict=True):
        plain, after = bridge.search(query).ids, bridge.search(query, rerank=stage).ids
        best = after if value >= middle else plain
        relevant.append({id: 10 - i for i, id in enumerate(best[:10])})
    gated = ab.Gated.fit(stage, bridge, queries, relevant, criteria=["coherence", "gap"])
    assert (gated.criterion, gated.above) == ("coherence", True)
    assert gated.threshold == pytest.approx(middle, abs=0.05)
    assert gated == ab.Gated.fit(stage, bridge, queries, relevant, criteria=["coherence", "gap"])
    assert ab.Gated.fit(stage, bridge, queries, [bridge.search(q).ids for q in queries]).applies(1e9) is False
    found = [bridge.search(query, rerank=stage).ids[:3] for query in queries]
    always = ab.Gated.fit(stage, bridge, queries, found, candidates=50)
    applied = [
        always.applies(probe(bridge, query, always.criterion, k=10, candidates=50)["value"]) for query in queries
    ]
    assert sum(applied) > 50


def test_a_gate_is_fitted_with_what_its_stage_reads(rng):
    bridge, queries, relevant = clusters(rng)
    bridge.set_payload(bridge.ids(), {"text": [f"cluster{i // 4}" for i in range(120)]})
    tokens = [query[None].astype(np.float32) for query in queries]
    late = ab.Gated.fit("late_interaction", bridge, queries, relevant, query_tokens=tokens)
    assert late.stage == ab.LateInteraction()
    after = ab.Gated.fit(
        "expansion", bridge, queries, relevant, rerank="late_interaction", query_tokens=tokens, folds=3, seed=5
    )
    assert after.stage == ab.QueryExpansion()
    pytest.importorskip("bm25s")
    texts = [f"cluster{i}" for i in range(30)]
    words = ab.Gated.fit("bm25('text', mix=0.9)", bridge, queries, relevant, query_text=texts)
    found = bridge.search_batch(queries, k=4, rerank=words, query_text=texts)
    plain = bridge.search_batch(queries, k=4)
    right = [sum(id in own for hits, own in zip(x, relevant, strict=True) for id in hits.ids) for x in (found, plain)]
    assert right[0] > right[1]
    with pytest.raises(ab.InvalidConfigError, match="query_text is read by no stage"):
        ab.Gated.fit("expansion", bridge, queries, relevant, query_text=texts)


def test_fits_of_a_gate_that_cannot_be(bridge, rng):
    queries = rng.standard_normal((4, 7))
    with pytest.raises(ab.InvalidInputError, match="relevant must judge at least 5 queries, one for each fold, got 3"):
        ab.Gated.fit("expansion", bridge, queries, [[0], [1], [2], {3: 0}])
    with pytest.raises(ab.InvalidConfigError, match="folds must be a whole number >= 2, got 1"):
        ab.Gated.fit("expansion", bridge, queries, [[0]] * 4, folds=1)
    with pytest.raises(ab.InvalidConfigError, match=r"criteria must be one of agreement, .* got 'luck'"):
        ab.Gated.fit("expansion", bridge, queries, [[0]] * 4, criteria=["luck"])
    with pytest.raises(ab.InvalidConfigError, match=r"criteria must name at least one of agreement, .*; got none"):
        ab.Gated.fit("expansion", bridge, queries, [[0]] * 4, criteria=[])


def test_criteria_cost_little(rng):
    """Of a hundred candidates of usual size: far below the search itself."""
    bridge = ab.AttentionVectorBridge(dim=384, index="exact")
    bridge.add(rng.standard_normal((500, 384)))
    spent = {}

    class Timed:
        name, requires_tokens = "timed", False

        def apply(self, pool):
            for name, criterion in CRITERIA.items():
                started = time.perf_counter()
                criterion(pool)
                spent.setdefault(name, []).append(time.perf_counter() - started)

    for query in rng.standard_normal((30, 384)):
        bridge.search(query, rerank=Timed())
    assert max(float(np.median(times)) for times in spent.values()) < 1e-3
