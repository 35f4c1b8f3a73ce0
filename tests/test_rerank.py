"""Rerank stages against slow float64 references, alone and composed."""

import pickle
from typing import ClassVar

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Pool, Stage, TokenRows, as_stages
from attnbridge.scoring import resolve

METRICS = ("cosine", "ip", "l2")
SCALE = {"cosine": 20.0, "ip": 7**-0.5, "l2": 7**-0.5}


# ---- the slow float64 truth


def unit(x):
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True))


def similarity(metric, query, rows):
    if metric == "l2":
        return np.array([-0.5 * sum((a - b) ** 2 for a, b in zip(query, row, strict=True)) for row in rows])
    if metric == "cosine":
        query, rows = unit(query), unit(rows)
    return np.array([sum(a * b for a, b in zip(query, row, strict=True)) for row in rows])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def z(x):
    known = ~np.isnan(x)
    out = np.zeros(len(x))
    if known.any() and x[known].std() > 0:
        out[known] = (x[known] - x[known].mean()) / x[known].std()
    return out


def expand(metric, query, rows, scores, top, scale, mix):
    """Return the new query: the attention output over the best `top`, mixed in."""
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top]
    weights = softmax(scale * similarity(metric, query, rows[best]))
    values = unit(rows[best]) if metric == "cosine" else rows[best]
    start = unit(query) if metric == "cosine" else query
    return (1 - mix) * start + mix * sum(w * v for w, v in zip(weights, values, strict=True))


def maxsim(query_tokens, weights, tokens):
    """Return sum_i w_i max_j q_i . k_j, NaN without tokens."""
    if len(tokens) == 0:
        return np.nan
    return sum(w * max(float(q @ k) for k in tokens) for q, w in zip(query_tokens, weights, strict=True))


@pytest.fixture(params=METRICS)
def setting(request, rng):
    """Return metric, bridge, rows, tokens (float16 values as float64) and a query with tokens."""
    rows = rng.standard_normal((40, 7)).astype(np.float32)
    tokens = [rng.standard_normal((n % 5, 3)).astype(np.float16) for n in range(40)]
    bridge = ab.AttentionVectorBridge(dim=7, metric=request.param)
    bridge.add(rows, tokens=tokens)
    query = rng.standard_normal(7).astype(np.float32).astype(np.float64)
    query_tokens = rng.standard_normal((4, 3)).astype(np.float32)
    return (
        request.param,
        bridge,
        rows.astype(np.float64),
        [t.astype(np.float64) for t in tokens],
        query,
        query_tokens.astype(np.float64),
    )


def check(hits, scores, k=40):
    """Hold hits over all 40 rows against every row's score."""
    assert hits.ids == sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    np.testing.assert_allclose(hits.scores, scores[hits.ids], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hits.weights, softmax(scores)[hits.ids], rtol=2e-5)


# ---- each stage


@pytest.mark.parametrize(("top", "scale", "mix"), [(10, 40.0, 0.5), (1, 1.0, 1.0), (3, 0.1, 0.25), (99, 5.0, 0.9)])
def test_expansion(setting, top, scale, mix):
    metric, bridge, rows, _, query, _ = setting
    hits = bridge.search(query, k=11, rerank=ab.QueryExpansion(top=top, scale=scale, mix=mix))
    first = SCALE[metric] * similarity(metric, query, rows)
    new = expand(metric, query, rows, first, top, scale, mix)
    second = SCALE[metric] * similarity(metric, new, rows)
    check(hits, second, 11)
    np.testing.assert_allclose(hits.parts["scaled_dot"], first[hits.ids], rtol=1e-5, atol=1e-5)
    assert hits.parts["expansion"].tolist() == hits.scores.tolist()
    before = sorted(range(40), key=lambda i: -first[i])
    assert hits.ranks_before.tolist() == [before.index(i) for i in hits.ids]
    near = similarity(metric, query, rows)[hits.ids]  # distances stay those of the query that was asked
    np.testing.assert_allclose(hits.distances, -2 * near if metric == "l2" else 1 - near, rtol=1e-5, atol=1e-5)


def test_expansion_looks_at_the_candidates_only(setting):
    metric, bridge, rows, _, query, _ = setting
    first = SCALE[metric] * similarity(metric, query, rows)
    pool = sorted(range(40), key=lambda i: -first[i])[:6]
    hits = bridge.search(query, k=6, candidates=6, rerank=ab.QueryExpansion(top=40, scale=0.5))
    new = expand(metric, query, rows[pool], first[pool], 6, 0.5, 0.5)
    second = SCALE[metric] * similarity(metric, new, rows[pool])
    assert sorted(hits.ids) == sorted(pool)
    np.testing.assert_allclose(hits.scores, np.sort(second)[::-1], rtol=1e-5, atol=1e-5)


def test_mix_zero_changes_nothing_but_rounding(setting):
    _, bridge, _, _, query, query_tokens = setting
    plain = bridge.search(query, k=40)
    expanded = bridge.search(query, k=40, rerank=ab.QueryExpansion(mix=0.0))
    assert expanded.ids == plain.ids
    np.testing.assert_allclose(expanded.scores, plain.scores, rtol=1e-6, atol=1e-6)
    late = bridge.search(query, k=40, rerank=ab.LateInteraction(mix=0.0), query_tokens=query_tokens)
    assert late.ids == plain.ids
    np.testing.assert_allclose(late.scores, z(plain.scores), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mix", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1], [3, 0, 0.5, 1e-3], [0, 0, 7, 0]])
def test_late_interaction(setting, mix, weights):
    metric, bridge, rows, tokens, query, query_tokens = setting
    hits = bridge.search(
        query, k=40, rerank=ab.LateInteraction(mix=mix), query_tokens=query_tokens, query_token_weights=weights
    )
    w = np.full(4, 0.25) if weights is None else np.array(weights) / np.sum(weights)
    matches = np.array([maxsim(query_tokens, w, own) for own in tokens])
    first = SCALE[metric] * similarity(metric, query, rows)
    check(hits, (1 - mix) * z(first) + mix * z(matches))
    np.testing.assert_allclose(hits.parts["late_interaction"], matches[hits.ids], rtol=1e-5, atol=1e-5)
    assert np.isnan(hits.parts["late_interaction"]).sum() == 8  # every fifth document has no tokens


def test_a_document_without_tokens_counts_as_average():
    eye = np.eye(3)
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(
        np.ones((4, 2)), ids=["good", "none", "bad", "empty"], tokens=[eye[:1], None, eye[1:2], np.empty((0, 3))]
    )
    hits = bridge.search([1.0, 0.0], query_tokens=eye[:1], rerank=ab.LateInteraction(mix=0.5))
    assert hits.ids == ["good", "none", "empty", "bad"]
    assert hits.scores.tolist() == pytest.approx([0.5, 0.0, 0.0, -0.5])
    assert hits == bridge.search([1.0, 0.0], query_tokens=eye[:1], rerank=ab.LateInteraction(mix=0.5))  # NaN parts


def test_no_candidate_has_tokens():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1, 0], [0, 1], [1, 1]], tokens=[None, None, [[1.0, 2.0]]])
    hits = bridge.search([1.0, 0.1], filter=[0, 1], query_tokens=[[1.0, 1.0]], rerank=ab.LateInteraction(mix=0.5))
    assert hits.ids == [0, 1]
    assert hits.scores.tolist() == pytest.approx([0.5, -0.5])
    assert np.isnan(hits.parts["late_interaction"]).all()


def test_where_all_scores_are_alike_the_order_is_that_of_insertion():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(np.tile([[0.3, 0.7]], (5, 1)), tokens=[[[0.1, 0.2, 0.3]]] * 5)
    options = {"query_tokens": [[0.5, 0.1, 0.9]], "k": 5}
    for rerank in ([ab.LateInteraction(mix=0.3)], [ab.QueryExpansion(), ab.LateInteraction()]):
        hits = bridge.search([0.9, 0.1], rerank=rerank, **options)
        assert hits.ids == [0, 1, 2, 3, 4]
        assert hits.scores.tolist() == [0.0] * 5
        assert hits.weights.tolist() == pytest.approx([0.2] * 5)
    none = bridge.search([0.9, 0.1], query_tokens=np.zeros((1, 3)), rerank=ab.LateInteraction(mix=1.0), k=5)
    assert (none.ids, none.scores.tolist()) == ([0, 1, 2, 3, 4], [0.0] * 5)
    one = bridge.search([0.9, 0.1], filter=[3], rerank=ab.LateInteraction(), **options)
    assert (one.ids, one.scores.tolist(), one.weights.tolist()) == ([3], [0.0], [1.0])


def test_the_largest_query_tokens():
    huge = np.finfo(np.float32).max
    tokens = np.array([[[1, 0, 0]], [[0, 60000, 0]], [[60000, 60000, 60000]], [[-60000, 1, 0]]], np.float64)
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(np.ones((4, 2)), tokens=list(tokens))
    for size in (huge, huge / 2, 1.0, 1e-30):
        query_tokens = np.array([[1, 0.5, 0.25], [0, 1, -1]], np.float32) * np.float32(size)
        hits = bridge.search([1.0, 0.0], query_tokens=query_tokens, rerank=ab.LateInteraction(mix=1.0))
        truth = np.array([maxsim(query_tokens.astype(np.float64), [0.5, 0.5], own) for own in tokens])
        assert hits.ids == sorted(range(4), key=lambda i: -truth[i])
        np.testing.assert_allclose(hits.parts["late_interaction"], truth[hits.ids], rtol=1e-5)
        np.testing.assert_allclose(hits.scores, z(truth)[hits.ids], rtol=1e-5)


def test_the_largest_token_weights():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add(np.ones((2, 2)), tokens=[[[1.0, 0.0]], [[0.0, 1.0]]])
    for weights in (np.array([1e308, 1e308]), np.array([1e-308, 1e-308]), [5, 5]):
        hits = bridge.search(
            [1, 0], query_tokens=[[2.0, 1.0], [2.0, 1.0]], query_token_weights=weights, rerank=ab.LateInteraction()
        )
        assert hits.parts["late_interaction"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("mix", [0.5, 0.4999999])
def test_where_query_and_output_cancel_the_query_stays(mix):
    bridge = ab.AttentionVectorBridge(dim=3, index="exact")
    rows = np.array([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.1], [-3.0, -2.0, 1.0]])
    bridge.add(rows[:1])  # the output is minus the query
    plain = bridge.search([1, 2, 3])
    hits = bridge.search([1, 2, 3], rerank=ab.QueryExpansion(mix=mix))
    np.testing.assert_allclose(hits.scores, plain.scores, rtol=1e-5)
    assert hits.scores[0] == pytest.approx(-20.0)
    bridge.add(rows[1:])
    hits = bridge.search([1, 2, 3], rerank=ab.QueryExpansion(top=1, mix=mix))
    assert np.isfinite(hits.scores).all()


def test_cancelling_is_no_matter_under_l2():
    bridge = ab.AttentionVectorBridge(dim=2, metric="l2", index="exact", scale=1.0)
    bridge.add([[-1.0, 0.0], [-1.0, 5.0]])
    hits = bridge.search([1.0, 0.0], rerank=ab.QueryExpansion(top=1, mix=0.5))  # the new query is the origin
    assert hits.scores.tolist() == pytest.approx([-0.5, -13.0])


# ---- composed


def test_stages_compose_in_the_order_given(setting):
    metric, bridge, rows, tokens, query, query_tokens = setting
    first = SCALE[metric] * similarity(metric, query, rows)
    matches = np.array([maxsim(query_tokens, np.full(4, 0.25), own) for own in tokens])
    expansion, late = ab.QueryExpansion(top=4, scale=3.0, mix=0.6), ab.LateInteraction(mix=0.4)
    # expansion, then late interaction over its scores
    new = expand(metric, query, rows, first, 4, 3.0, 0.6)
    second = SCALE[metric] * similarity(metric, new, rows)
    hits = bridge.search(query, k=40, query_tokens=query_tokens, rerank=[expansion, late])
    check(hits, 0.6 * z(second) + 0.4 * z(matches))
    assert list(hits.parts) == ["scaled_dot", "expansion", "late_interaction"]
    assert list(hits.timings) == ["candidates", "rerank", "expansion", "late_interaction", "total"]
    # late interaction chooses what the expansion attends to
    mixed = 0.6 * z(first) + 0.4 * z(matches)
    new = expand(metric, query, rows, mixed, 4, 3.0, 0.6)
    swapped = bridge.search(query, k=40, query_tokens=query_tokens, rerank=[late, expansion])
    check(swapped, SCALE[metric] * similarity(metric, new, rows))
    assert swapped.ids != hits.ids


def test_the_same_stage_twice(setting):
    metric, bridge, rows, _, query, _ = setting
    stage = ab.QueryExpansion(top=3, scale=2.0, mix=0.5)
    hits = bridge.search(query, k=40, rerank=[stage, stage, stage])
    scores, at = [SCALE[metric] * similarity(metric, query, rows)], query
    for _ in range(3):
        at = expand(metric, at, rows, scores[-1], 3, 2.0, 0.5)
        scores.append(SCALE[metric] * similarity(metric, at, rows))
    check(hits, scores[-1])
    names = ["scaled_dot", "expansion", "expansion+", "expansion++"]
    assert list(hits.parts) == names
    for name, own in zip(names, scores, strict=True):
        np.testing.assert_allclose(hits.parts[name], own[hits.ids], rtol=1e-5, atol=1e-5)


def test_the_last_bit_does_not_depend_on_where_arrays_lie():
    rng = np.random.default_rng(0)
    bridge = ab.AttentionVectorBridge(dim=6, index="exact")
    bridge.add(rng.standard_normal((21, 6)), tokens=[rng.standard_normal((i % 4, 3)) for i in range(21)])
    queries = rng.standard_normal((12, 6))
    options = {"query_tokens": [np.eye(3)] * 12, "rerank": ab.LateInteraction(), "threads": 2}
    first, kept = bridge.search_batch(queries, **options), []
    for _ in range(200):
        kept.append(bridge.search_batch(queries, **options))  # the next ones lie elsewhere
        assert kept[-1] == first


def test_no_stage_and_an_empty_list_are_alike(setting):
    _, bridge, _, _, query, _ = setting
    assert bridge.search(query, rerank=[]) == bridge.search(query) == bridge.search(query, rerank=())


# ---- a stage of one's own


class Own:
    name: ClassVar[str] = "own"
    requires_tokens: ClassVar[bool] = False

    def __init__(self, change):
        self.change = change

    def apply(self, pool):
        self.change(pool)


def test_a_stage_of_ones_own(setting):
    metric, bridge, rows, _, query, _ = setting
    seen = {}

    def newest(pool):
        seen.update(rows=pool.rows.copy(), scores=pool.scores.copy(), query=pool.query.copy())
        pool.scores = pool.rows.astype(np.float32)
        pool.parts["age"] = list(range(len(pool.rows)))

    stage = Own(newest)
    assert isinstance(stage, Stage)
    hits = bridge.search(query, k=5, candidates=20, rerank=stage)
    assert hits.ids == sorted(seen["rows"].tolist())[::-1][:5]
    assert hits.scores.dtype == np.float64
    assert hits.parts["age"].tolist() == hits.ranks_before.tolist()
    first = SCALE[metric] * similarity(metric, query, rows)
    np.testing.assert_allclose(seen["scores"], first[seen["rows"]], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen["query"], unit(query) if metric == "cosine" else query, rtol=1e-6)


def test_a_stage_that_writes_in_place_leaves_the_parts_before_alone(setting):
    _, bridge, _, _, query, _ = setting
    plain = bridge.search(query, k=40)

    def double(pool):
        pool.scores *= 2

    hits = bridge.search(query, k=40, rerank=[Own(double), ab.QueryExpansion(mix=0.0), Own(double)])
    assert hits.parts["scaled_dot"].tolist() == plain.scores.tolist()
    np.testing.assert_allclose(hits.parts["expansion"], plain.scores, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hits.scores, 2 * plain.scores, rtol=1e-6, atol=1e-6)


def test_a_stage_may_rule_candidates_out_with_minus_infinity(setting):
    _, bridge, _, _, query, _ = setting

    def odd_only(pool):
        pool.scores = np.where(pool.rows % 2, pool.scores, -np.inf)

    hits = bridge.search(query, k=40, rerank=Own(odd_only))
    assert len(hits) == 20
    assert all(id % 2 for id in hits.ids)
    assert hits.weights.sum() == pytest.approx(1.0)


def test_a_stage_may_rule_all_candidates_out(setting):
    _, bridge, _, _, query, _ = setting

    def none(pool):
        pool.scores = np.full(len(pool.rows), -np.inf)

    assert len(bridge.search(query, k=40, rerank=Own(none))) == 0


def test_a_stage_that_leaves_too_few_is_given_more_candidates(setting):
    metric, bridge, rows, _, query, _ = setting

    def few(pool):
        pool.scores = np.where(pool.rows % 5 == 0, pool.scores, -np.inf)
        pool.short = np.isfinite(pool.scores).sum() < pool.wanted

    hits = bridge.search(query, k=7, candidates=7, rerank=Own(few))
    first = SCALE[metric] * similarity(metric, query, rows)
    assert hits.ids == sorted(range(0, 40, 5), key=lambda i: -first[i])[:7]
    assert hits.candidates in (28, 40)
    assert len(bridge.search(query, k=9, candidates=9, rerank=Own(few))) == 8  # there are no more
    assert hits == bridge.search_batch([query], k=7, candidates=7, rerank=Own(few))[0]


@pytest.mark.parametrize(
    "scores", [[1.0, 2.0], np.full(40, np.nan), np.full(40, np.inf), np.zeros((40, 1)), 3.0, np.empty(0)]
)
def test_a_stage_that_leaves_no_scores_is_named(setting, scores):
    _, bridge, _, _, query, _ = setting

    def spoil(pool):
        pool.scores = scores

    with pytest.raises(ab.InvalidInputError, match="stage 'own' must leave a score for each of 40 candidates"):
        bridge.search(query, k=3, rerank=Own(spoil))
    with pytest.raises(ab.InvalidInputError, match="stage 'own'"):
        bridge.search_batch([query] * 20, rerank=[Own(spoil)])
    assert len(bridge.search(query)) == 10


def test_an_error_in_a_stage_comes_through(setting):
    _, bridge, _, _, query, _ = setting
    with pytest.raises(ZeroDivisionError):
        bridge.search_batch([query] * 20, rerank=Own(lambda pool: 1 // 0))
    bridge.add(np.ones((1, 7)))  # no lock is left held


def test_stages_by_hand():
    """A stage needs a pool and nothing of the bridge."""
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    keys = Keys(np.array([[1, 0], [0, 1], [3, 4]], np.float32))
    tokens = TokenRows(np.array([[1], [3], [2]], np.float16).view(np.uint16), np.array([0, 1, 3]), np.array([1, 2, 0]))
    pool = Pool(
        np.array([1, 1], np.float32), 0.0, Metric("ip"), keys, np.arange(3), np.zeros(3), attention, options, tokens
    )
    assert pool.logits().tolist() == [1, 1, 7]
    pool.query_tokens, pool.query_token_weights = np.array([[2]], np.float32), np.array([1.0])
    pool.scores = pool.logits()
    ab.LateInteraction(mix=1.0).apply(pool)
    assert pool.parts["late_interaction"].tolist()[:2] == [2.0, 6.0]
    assert pool.scores.tolist() == pytest.approx([-1.0, 1.0, 0.0])
    ab.QueryExpansion(top=1, mix=1.0).apply(pool)  # attends to row 1, the best so far
    assert pool.query.tolist() == [0.0, 1.0]
    assert pool.scores.tolist() == [0.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("stage", "message", "options"),
    [
        (ab.QueryExpansion, "top must be a whole number >= 1, got 0", {"top": 0}),
        (ab.QueryExpansion, r"top must be a whole number >= 1, got 2\.5", {"top": 2.5}),
        (ab.QueryExpansion, "scale must be a finite number > 0, got 0", {"scale": 0}),
        (ab.QueryExpansion, "scale must be a finite number > 0, got inf", {"scale": np.inf}),
        (ab.QueryExpansion, "mix must be a finite number >= 0, at most 1, got 1.5", {"mix": 1.5}),
        (ab.QueryExpansion, "mix must be a finite number >= 0, at most 1, got -0.1", {"mix": -0.1}),
        (ab.LateInteraction, "mix must be a finite number >= 0, at most 1, got nan", {"mix": np.nan}),
        (ab.LateInteraction, "mix must be a finite number >= 0, at most 1, got '1'", {"mix": "1"}),
        (ab.LateInteraction, "mix must be a finite number >= 0, at most 1, got True", {"mix": True}),
    ],
)
def test_bad_settings(stage, message, options):
    with pytest.raises(ab.InvalidConfigError, match=message):
        stage(**options)


def test_stages_are_values():
    assert ab.QueryExpansion(top=np.int64(5), mix=np.float32(0.5)) == ab.QueryExpansion(top=5)
    assert repr(ab.LateInteraction(mix=1)) == "LateInteraction(mix=1.0, soft=None, top_tokens=None, weighting='given')"
    with pytest.raises(AttributeError):
        ab.LateInteraction().mix = 0.1


@pytest.mark.parametrize("stage", [ab.QueryExpansion(top=3), ab.LateInteraction(mix=0.7), ab.LateInteraction(mix=1.0)])
def test_what_one_stage_rules_out_the_next_does_not_bring_back(stage):
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((30, 6))
    tokens = [rng.standard_normal((3, 4)) for _ in range(30)]
    bridge = ab.AttentionVectorBridge(dim=6, index="exact")
    bridge.add(rows, tokens=tokens)

    class RuleOut:
        name, requires_tokens = "rule_out", False

        def apply(self, pool):
            pool.scores = np.where(pool.rows % 2 == 0, -np.inf, pool.scores)

    reads = {"query_tokens": tokens[0]} if stage.requires_tokens else {}
    hits = bridge.search(rows[0], k=30, rerank=[RuleOut(), stage], **reads)
    assert sorted(hits.ids) == list(range(1, 30, 2))
    assert np.isfinite(hits.scores).all()


# ---- stages as text, and their order


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("expansion", [ab.QueryExpansion()]),
        ("QueryExpansion(5, mix=0.25), late_interaction", [ab.QueryExpansion(5, mix=0.25), ab.LateInteraction()]),
        ("[expansion(research=True)]", [ab.QueryExpansion(research=True)]),
        ("", []),
        (["expansion(top=3)", ab.LateInteraction()], [ab.QueryExpansion(3), ab.LateInteraction()]),
    ],
)
def test_stages_as_text(text, stages):
    assert list(as_stages(text)) == stages
    assert list(as_stages(str(stages))) == stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("expansion(", r"rerank must be stages written as in Python, such as .* got 'expansion\('"),
        ("expand", "rerank names no stage 'expand'; the stages are: .*expansion.* and 'default' alone"),
        ("a.b()", r"rerank must be names of stages and their options, got 'a.b\(\)'"),
        ("3", "rerank must be names of stages"),
        ("calibrated", r"rerank: .*missing .*'coefficients'.*, in 'calibrated"),
        ("group_by, expansion", r"rerank: .*missing .*'column'.*, in 'group_by"),
        ("expansion(tops=3)", r"rerank: .*unexpected keyword argument 'tops', in 'expansion\(tops=3\)'"),
        ("expansion(top=open)", "rerank takes numbers, text, lists and stages as options, got 'open'"),
        ("expansion(mix=2)", "mix must be a finite number >= 0, at most 1, got 2"),
    ],
)
def test_text_that_names_no_stages(text, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        as_stages(text)


class Last(Own):
    level = "selection"


def test_stages_in_an_order_that_cannot_be(setting):
    _, bridge, _, _, query, _ = setting
    last = Last(lambda pool: None)
    with pytest.raises(ab.InvalidConfigError, match=r"rerank must have expansion before own, whose result it would"):
        bridge.search(query, rerank=[last, ab.QueryExpansion()])
    assert len(bridge.search(query, rerank=[ab.QueryExpansion(), last])) == 10


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"query_text": "a"}, ab.InvalidConfigError, "query_text is read by no stage; add one that reads it"),
        ({"rerank": [None]}, ab.InvalidConfigError, "rerank must be stages such as .* got None"),
    ],
)
def test_text_that_nobody_reads(setting, call, error, message):
    _, bridge, _, _, query, _ = setting
    with pytest.raises(error, match=message):
        bridge.search(query, **call)


def test_a_stage_reads_the_query_in_words(setting):
    _, bridge, _, _, query, _ = setting
    seen = []
    stage = Own(lambda pool: seen.append(pool.query_text))
    stage.requires_text = True
    bridge.search(query, rerank=stage, query_text="one")
    bridge.search_batch([query, query], rerank=stage, query_text=["two", "three"], threads=1)
    assert seen == ["one", "two", "three"]
    with pytest.raises(ab.InvalidInputError, match="own needs the query's text; pass query_text="):
        bridge.search(query, rerank=stage)
    with pytest.raises(ab.InvalidInputError, match="query_text must have one text for each of 2 queries, got 1"):
        bridge.search_batch([query, query], rerank=stage, query_text=["a"])
    with pytest.raises(ab.InvalidInputError, match="query_text must have one text for each of 2 queries, got 'ab'"):
        bridge.search_batch([query, query], rerank=stage, query_text="ab")


def test_stages_ask_the_index(setting):
    _, bridge, _, _, query, _ = setting
    bridge.set_payload(list(range(40)), {"year": list(range(2000, 2040))})
    bridge.delete(3)
    seen = {}

    def ask(pool):
        seen["rows"] = pool.index.rows_of([5, 3, 77]).tolist()
        seen["admits"] = pool.index.admits(np.array([3, 4, 5])).tolist()
        seen["ids"] = pool.index.ids_of(np.array([7, 9]))
        seen["years"] = pool.index.column("year", np.array([9, 7]))
        pool.index.column("nothing")

    with pytest.raises(ab.InvalidInputError, match=r"column must be one of the payload's, 'nothing' is none; .* year"):
        bridge.search(query, rerank=Own(ask), filter=[4, 6, 8])
    assert seen == {"rows": [5, -1, -1], "admits": [False, True, False], "ids": [7, 9], "years": [2009, 2007]}


def test_hits_carry_every_candidate_after_every_step(setting):
    _, bridge, _, _, query, _ = setting
    hits = bridge.search(query, k=3, candidates=9, rerank=ab.QueryExpansion(top=2))
    trace = hits.trace
    assert [step.name for step in trace.steps] == ["scaled_dot", "expansion"]
    assert trace.rows == hits.ids  # ids are row numbers here
    assert trace.steps[1].ranks(trace.rows) == [0, 1, 2]
    assert trace.steps[0].ranks(trace.rows) == hits.ranks_before.tolist()
    assert trace.steps[1].score(trace.rows[0]) == hits.scores[0]
    attended = trace.steps[1].attended(trace.rows[0])
    assert [one.name for one in attended] == bridge.search(query, k=2).ids
    assert sum(one.weight for one in attended) == pytest.approx(1.0)
    again = pickle.loads(pickle.dumps(hits))
    assert again == hits
    assert again.trace.steps[1].attended(trace.rows[2]) == attended
    plain = bridge.search(query, k=3, offset=1)
    assert plain.trace.steps[0].ranks(plain.trace.rows) == [1, 2, 3]
