"""Stages that change the query or the candidates, against slow float64 references."""

import pickle
from typing import ClassVar

import networkx as nx
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Pool, Stage, as_stages
from attnbridge.scoring import resolve

METRICS = ("cosine", "ip", "l2")
SCALE = {"cosine": 20.0, "ip": 7**-0.5, "l2": 7**-0.5}
COUNT = 41


# ---- the slow float64 truth


def unit(x):
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True))


def similarity(metric, query, rows):
    if metric == "l2":
        return -0.5 * ((rows - query) ** 2).sum(axis=1)
    return unit(rows) @ unit(query) if metric == "cosine" else rows @ query


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def z(x):
    known = np.isfinite(x)
    out = np.zeros(len(x))
    if known.any() and x[known].std() > 0:
        out[known] = (x[known] - x[known].mean()) / x[known].std()
    return out


def hopfield(metric, query, patterns, scale, mix, steps):
    """Return the state after so many steps, and the weights of the last."""
    values = unit(patterns) if metric == "cosine" else patterns
    state = unit(query) if metric == "cosine" else query
    for _ in range(steps):
        weights = softmax(scale * similarity(metric, state, patterns))
        state = (1 - mix) * state + mix * sum(w * v for w, v in zip(weights, values, strict=True))
        state = unit(state) if metric == "cosine" else state
    return state, weights


def feedback(metric, query, liked, disliked, alpha, beta, gamma):
    parts = [(alpha, unit(query) if metric == "cosine" else query)]
    for rows, factor in ((liked, beta), (disliked, -gamma)):
        if len(rows):
            parts.append((factor, (unit(rows) if metric == "cosine" else rows).mean(axis=0)))
    total = sum(factor * vector for factor, vector in parts)
    return total / sum(factor for factor, _ in parts) if metric == "l2" else total


def grown(near, order_of, candidates, budget, batch, admitted):
    """Return the rows in the order in which they joined, and who brought them in."""
    rows, brought, done = list(candidates), {}, set()
    while len(brought) < budget:
        order = order_of(rows)
        turn = [row for row in sorted(rows, key=lambda row: (-order[row], row)) if row not in done][:batch]
        if not turn:
            break
        done.update(turn)
        for row in turn:
            for other in near[row]:
                if other not in rows and other in admitted and len(brought) < budget:
                    rows.append(other)
                    brought[other] = row
    return rows, brought


@pytest.fixture(params=METRICS)
def setting(request, rng):
    """Return metric, bridge, its rows and a query in float64."""
    rows = rng.standard_normal((COUNT, 7)).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=7, metric=request.param, index="exact")
    bridge.add(rows)
    return request.param, bridge, rows.astype(np.float64), rng.standard_normal(7).astype(np.float32).astype(np.float64)


def check(hits, scores):
    """Hold hits over all rows against every row's score."""
    live = [i for i in range(len(scores)) if scores[i] > -np.inf]
    assert hits.ids == sorted(live, key=lambda i: (-scores[i], i))[: len(hits)]
    np.testing.assert_allclose(hits.scores, scores[hits.ids], rtol=2e-5, atol=2e-5)


def ranked(bridge, query, stage, **options):
    """Return the hits of a search, which are those of the query in a batch."""
    hits = bridge.search(query, rerank=stage, **options)
    assert bridge.search_batch([query, query], rerank=stage, **options)[1] == hits
    return hits


# ---- expansion


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("top", "scale", "mix"), [(10, 2.0, 0.5), (3, 0.5, 1.0), (99, 5.0, 0.1)])
def test_expansion_in_steps(setting, top, scale, mix, steps):
    metric, bridge, rows, query = setting
    first = similarity(metric, query, rows)
    best = sorted(range(COUNT), key=lambda i: (-first[i], i))[:top]
    state, weights = hopfield(metric, query, rows[best], scale, mix, steps)
    hits = ranked(bridge, query, ab.QueryExpansion(top, scale, mix, steps), k=COUNT)
    check(hits, SCALE[metric] * similarity(metric, state, rows))
    attended = hits.trace.steps[1].attended(hits.ids[0])
    assert [one.weight for one in attended] == pytest.approx(sorted(weights, reverse=True), rel=1e-4)
    assert {one.name for one in attended} == set(best)


def test_steps_go_to_a_stored_pattern():
    """Ramsauer et al. 2020, theorem 3: of patterns far apart, a step at large scale leads to the nearest."""
    bridge = ab.AttentionVectorBridge(dim=5, metric="l2", index="exact")
    bridge.add(10.0 * np.eye(5))
    hits = bridge.search([6.0, 4.0, 0, 0, 0], rerank=ab.QueryExpansion(scale=1.0, mix=1.0, steps=3), k=1)
    assert hits.scores[0] == pytest.approx(0.0, abs=1e-4)
    one = bridge.search([6.0, 4.0, 0, 0, 0], rerank=ab.QueryExpansion(scale=1.0, mix=0.5, steps=1), k=1)
    assert one.scores[0] < -1.0


@pytest.mark.parametrize(
    ("steps", "message"),
    [(0, "steps must be a whole number >= 1, got 0"), (1.5, "got 1.5"), (1001, "steps must be at most 1000, got 1001")],
)
def test_bad_steps(steps, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.QueryExpansion(steps=steps)


def test_expansion_does_not_attend_to_what_is_ruled_out(setting):
    metric, bridge, rows, query = setting

    class Odd:
        name, requires_tokens = "odd", False

        def apply(self, pool):
            pool.scores = np.where(pool.rows % 2 == 0, -np.inf, pool.scores)

    odd = np.arange(1, COUNT, 2)
    state, _ = hopfield(metric, query, rows[odd], 0.7, 0.5, 1)
    hits = bridge.search(query, k=COUNT, rerank=[Odd(), ab.QueryExpansion(top=COUNT, scale=0.7)])
    scores = np.full(COUNT, -np.inf)
    scores[odd] = SCALE[metric] * similarity(metric, state, rows[odd])
    check(hits, scores)
    assert len(hits) == len(odd)


def test_expansion_where_all_is_ruled_out(setting):
    _, bridge, _, query = setting

    class Nothing:
        name, requires_tokens = "nothing", False

        def apply(self, pool):
            pool.scores = np.full(len(pool.rows), -np.inf)

    assert len(bridge.search(query, rerank=[Nothing(), ab.QueryExpansion(), ab.AttentionRerank("scaled_dot")])) == 0


def test_expansion_under_poincare(rng):
    rows = rng.standard_normal((COUNT, 3)) * 0.2
    bridge = ab.AttentionVectorBridge(dim=3, attention="poincare", curvature=-0.7, index="exact")
    bridge.add(rows)
    query, space = np.array([0.1, -0.2, 0.3]), ab.HyperbolicSpace(-0.7)
    state = query
    gap = np.sinh(space.distance(state, rows) * 0.7**0.5 / 2) ** 2
    best = np.argsort(gap)[:4]
    for _ in range(2):
        gap = np.sinh(space.distance(state, rows[best]) * 0.7**0.5 / 2) ** 2
        state = 0.5 * state + 0.5 * softmax(-3.0 * gap) @ rows[best]
    hits = bridge.search(query, k=COUNT, rerank=ab.QueryExpansion(4, 3.0, steps=2))
    check(hits, -space.distance(state, rows))


# ---- Rocchio


@pytest.mark.parametrize(
    ("liked", "disliked", "factors"),
    [([3, 5, 8], [], (1.0, 0.75, 0.15)), ([3], [4, 9], (1.0, 0.75, 0.15)), ([2, 1], [7], (0.3, 0.9, 0.5)),
     ([], [11, 12], (1.0, 0.75, 0.15)), ([5], [], (0.0, 1.0, 0.0)), ([5], [6], (1.0, 0.0, 0.0))],
)  # fmt: skip
def test_rocchio(setting, liked, disliked, factors):
    metric, bridge, rows, query = setting
    stage = ab.Rocchio(*factors, positive=liked, negative=disliked)
    hits = ranked(bridge, query, stage, k=COUNT)
    new = feedback(metric, query, rows[liked], rows[disliked], *factors)
    check(hits, SCALE[metric] * similarity(metric, new, rows))
    assert hits.parts["rocchio"].tolist() == hits.scores.tolist()
    told = {one.name: one.weight for one in hits.trace.steps[1].attended(hits.ids[0])}
    assert told == {id: factors[1] / len(liked) for id in liked} | {id: -factors[2] / len(disliked) for id in disliked}


def test_rocchio_excludes_what_is_named(setting):
    _, bridge, _, query = setting
    named = ab.Rocchio(positive=[3, 5], negative=[8], exclude=True)
    hits = bridge.search(query, k=COUNT, rerank=named)
    assert set(hits.ids) == set(range(COUNT)) - {3, 5, 8}
    near = bridge.search(query, k=4).ids
    hits = bridge.search(query, k=4, candidates=4, rerank=ab.Rocchio(positive=near[:2], exclude=True))
    assert len(hits) == 4  # the search has started over with more candidates
    assert not set(hits.ids) & set(near[:2])


def test_rocchio_searches_again(setting):
    metric, bridge, rows, query = setting
    stage = ab.Rocchio(0.1, positive=[3], research=True)
    hits = bridge.search(query, k=3, candidates=5, rerank=stage, filter=np.arange(COUNT) % 2 == 1)
    new = feedback(metric, query, rows[[3]], rows[:0], 0.1, 0.75, 0.15)
    scores = np.where(np.arange(COUNT) % 2 == 1, SCALE[metric] * similarity(metric, new, rows), -np.inf)
    check(hits, scores)
    before = bridge.search(query, k=5, filter=np.arange(COUNT) % 2 == 1).ids
    assert set(hits.trace.origins) >= set(hits.ids) - set(before)
    assert set(hits.trace.origins.values()) <= {"second search, with the new query"}


def test_rocchio_under_poincare_is_a_midpoint():
    bridge = ab.AttentionVectorBridge(dim=2, attention="poincare", index="exact")
    points = np.array([[0.5, 0.0], [0.0, 0.6], [-0.3, -0.3], [0.2, 0.1]], np.float32)
    bridge.add(points, ids=["a", "b", "c", "d"])
    query = np.array([0.1, 0.1], np.float32)
    hits = bridge.search(query, rerank=ab.Rocchio(1.0, 0.5, positive=["a", "b"]))
    space = ab.HyperbolicSpace()
    middle = space.mean(np.array([query, points[0], points[1]], np.float64), [1.0, 0.25, 0.25])
    far = space.distance(middle, points.astype(np.float64))
    assert hits.ids == ["abcd"[i] for i in np.argsort(far)]
    np.testing.assert_allclose(hits.scores, -np.sort(far), atol=1e-5)
    with pytest.raises(ab.InvalidConfigError, match="negative must be empty under metric='poincare', where points"):
        bridge.search(query, rerank=ab.Rocchio(positive=["a"], negative=["b"]))
    assert bridge.search(query, rerank=ab.Rocchio(0.0, 0.0, positive=["a"])).ids == bridge.search(query).ids


def test_rocchio_that_cancels_keeps_the_query():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [0.0, 1.0]])
    hits = bridge.search([2.0, 0.0], rerank=ab.Rocchio(1.0, gamma=1.0, negative=[0]))
    assert hits.scores.tolist() == [20.0, 0.0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ab.InvalidConfigError, "positive or negative must hold ids of documents to go by, both are empty"),
        ({"positive": [1, 2], "negative": [2]}, ab.InvalidConfigError, "must not share ids, got 2 in both"),
        ({"positive": "ab"}, ab.InvalidConfigError, r"positive must be a list of ids, got 'ab'; write \['ab'\]"),
        ({"negative": 3}, ab.InvalidConfigError, r"negative must be a list of ids, got 3; write \[3\]"),
        ({"positive": [1.5]}, ab.InvalidInputError, "positive must hold ids, str or int, got 1.5"),
        ({"positive": [True]}, ab.InvalidInputError, "positive must hold ids, str or int, got True"),
        (
            {"positive": [1], "alpha": -1},
            ab.InvalidConfigError,
            "alpha must be a finite number >= 0, at most .* got -1",
        ),
        (
            {"positive": [1], "beta": np.nan},
            ab.InvalidConfigError,
            "beta must be a finite number >= 0, at most .* got nan",
        ),
        (
            {"positive": [1], "gamma": "x"},
            ab.InvalidConfigError,
            "gamma must be a finite number >= 0, at most .* got 'x'",
        ),
        ({"positive": [1], "exclude": 1}, ab.InvalidConfigError, "exclude must be True or False, got 1"),
        ({"positive": [1], "research": None}, ab.InvalidConfigError, "research must be True or False, got None"),
    ],
)
def test_bad_feedback(options, error, message):
    with pytest.raises(error, match=message):
        ab.Rocchio(**options)


def test_feedback_on_unknown_documents(setting):
    metric, bridge, _, query = setting
    bridge.delete(3)
    stage = ab.Rocchio(positive=[1, 3, *range(50, 56)])
    message = r"positive must be ids of the index, 7 of 8 are not in it: 3, 50, 51, 52, 53, \.\.\.; add them"
    with pytest.raises(ab.UnknownIdError, match=message):
        bridge.search(query, rerank=stage)
    with pytest.raises(ab.UnknownIdError, match="negative must be ids of the index, 1 of 1 are not in it: 'x'; add"):
        bridge.search(query, rerank=ab.Rocchio(negative=["x"]))
    if metric == "l2":
        with pytest.raises(ab.InvalidConfigError, match=r"alpha \+ beta - gamma must be > 0 under metric='l2'.* got 0"):
            bridge.search(query, rerank=ab.Rocchio(0.15, negative=[1]))


# ---- neighbours


def nearest(metric, rows, row, n=16):
    order = np.argsort(-similarity(metric, rows[row], rows), kind="stable")
    return [int(i) for i in order[: n + 1] if i != row][:n]


@pytest.mark.parametrize(("budget", "batch"), [(1, 1), (5, 2), (12, 3), (100, 10)])
def test_neighbours_of_the_best_join(setting, budget, batch):
    metric, bridge, rows, query = setting
    scores = SCALE[metric] * similarity(metric, query, rows)
    admitted = set(range(0, COUNT, 2)) | {1, 3}
    found = [i for i in sorted(range(COUNT), key=lambda i: -scores[i]) if i in admitted][:4]
    near = [nearest(metric, rows, row) for row in range(COUNT)]
    want, brought = grown(near, lambda _: scores, found, budget, batch, admitted)
    stage = ab.GraphAdaptive(budget=budget, batch=batch)
    hits = ranked(bridge, query, stage, k=4, candidates=4, filter=sorted(admitted))
    assert hits.candidates == len(want)
    assert hits.ids == sorted(want, key=lambda i: -scores[i])[:4]
    assert hits.trace.origins == {row: f"neighbour of {parent}" for row, parent in brought.items()}
    np.testing.assert_allclose(hits.trace.steps[1].scores, scores[want], rtol=1e-5, atol=1e-5)
    assert hits.trace.steps[1].rows.tolist() == want


@pytest.fixture(scope="module")
def linked():
    """Return a bridge whose rows are linked, but for the last hundred, its links and rows."""
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((700, 5)).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=5, metric="l2", M=4, seed=3, index="hnsw")
    bridge.add(rows[:600], ids=[f"doc{i}" for i in range(600)])
    bridge.link(progress=False)
    bridge.add(rows[600:], ids=[f"doc{i}" for i in range(600, 700)])
    native = bridge._state.source.native(bridge._state.store.view)
    assert native.bound == 600
    return bridge, native.walk.adjacency.links.level0, rows.astype(np.float64)


def test_the_links_of_the_graph_are_followed(linked):
    bridge, level0, rows = linked
    near = [[int(i) for i in row if i >= 0] for row in level0]
    near += [nearest("l2", rows, row) for row in range(600, 700)]
    rng, through_the_tail = np.random.default_rng(2), 0
    for _ in range(20):
        query = rng.standard_normal(5)
        scores = 5**-0.5 * similarity("l2", query, rows)
        found = sorted(range(700), key=lambda i: -scores[i])[:6]
        want, brought = grown(near, lambda _, s=scores: s, found, 30, 4, set(range(700)))
        through_the_tail += any(parent >= 600 for parent in brought.values())
        hits = bridge.search(query, k=5, candidates=6, rerank=ab.GraphAdaptive(budget=30, batch=4))
        assert hits.trace.steps[1].rows.tolist() == want
        assert hits.trace.origins == {row: f"neighbour of 'doc{parent}'" for row, parent in brought.items()}
    assert through_the_tail


def test_an_index_gives_the_neighbours_of_rows(linked):
    bridge, level0, rows = linked
    seen = {}

    class Ask:
        name, requires_tokens = "ask", False

        def apply(self, pool):
            seen["linked"] = pool.index.neighbours(np.array([7, 3]))
            seen["mixed"] = pool.index.neighbours(np.array([650, 3]))

    bridge.search(rows[0], rerank=Ask())
    own = [[int(i) for i in level0[row] if i >= 0] for row in (7, 3)]
    assert seen["linked"][0].tolist() == own[0] + own[1]
    assert seen["linked"][1].tolist() == [len(own[0]), len(own[1])]
    assert seen["mixed"][0].tolist() == nearest("l2", rows, 650) + own[1]
    assert seen["mixed"][1].tolist() == [16, len(own[1])]
    assert seen["mixed"][0].dtype == seen["linked"][0].dtype == np.int64


@pytest.mark.parametrize("make", ["edges", "array", "graph", "directed", "multi"])
def test_neighbours_in_a_graph_of_ones_own(setting, make):
    metric, bridge, rows, query = setting
    scores = SCALE[metric] * similarity(metric, query, rows)
    order = sorted(range(COUNT), key=lambda i: -scores[i])
    a, b, c = order[0], order[20], order[30]
    edges = [(a, b), (c, b), (a, 999), (998, 999)]
    source = {
        "edges": edges,
        "array": np.array(edges).T,
        "graph": nx.Graph(edges),
        "directed": nx.DiGraph(edges),
        "multi": nx.MultiDiGraph(edges + edges),
    }[make]
    stage = ab.GraphAdaptive(source, budget=7)
    hits = ranked(bridge, query, stage, k=5, candidates=5)
    assert hits.trace.steps[1].rows.tolist() == [*order[:5], b, c]
    assert hits.trace.origins == {b: f"neighbour of {a}", c: f"neighbour of {b}"}
    assert hits.ids == order[:5]
    kept = bridge.search(query, k=5, candidates=5, rerank=stage, filter=[i for i in range(COUNT) if i != b])
    assert kept.trace.origins == {}  # c is reached by way of b only


def test_a_graph_is_read_as_it_is(setting):
    _, bridge, _, query = setting
    order = bridge.search(query, k=COUNT).ids
    graph = nx.Graph([(order[0], order[9])])
    stage = ab.GraphAdaptive(graph)
    assert bridge.search(query, k=3, candidates=3, rerank=stage).trace.origins.keys() == {order[9]}
    graph.add_edge(order[9], order[15])
    assert bridge.search(query, k=3, candidates=3, rerank=stage).trace.origins.keys() == {order[9], order[15]}


def test_a_row_outside_the_radius_does_not_join(setting):
    metric, bridge, _, query = setting
    far = bridge.search(query, k=COUNT)
    radius = float(far.distances[9])
    if metric == "l2":
        assert radius > 0
    graph = [(far.ids[0], far.ids[12]), (far.ids[0], far.ids[5])]
    hits = bridge.search(query, k=3, candidates=3, radius=radius, rerank=ab.GraphAdaptive(graph))
    assert far.ids[12] not in hits.trace.origins
    by_id = bridge.search(id=far.ids[0], k=3, candidates=3, rerank=ab.GraphAdaptive(nx.complete_graph(COUNT)))
    assert far.ids[0] not in by_id.trace.steps[1].rows.tolist()
    assert by_id.candidates == COUNT - 1


class Guide:
    """Matches that are known beforehand."""

    name: ClassVar[str] = "fake"
    requires_tokens: ClassVar[bool] = False

    def __init__(self, matches, mix):
        self.known, self.mix, self.asked = np.asarray(matches), mix, []

    def matches(self, pool, rows):
        self.asked += rows.tolist()
        return self.known[rows]

    def apply(self, pool):
        raise AssertionError


@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
def test_a_guide_says_whose_turn_it_is(setting, rng, mix):
    metric, bridge, rows, query = setting
    scores = SCALE[metric] * similarity(metric, query, rows)
    guide = Guide(np.where(rng.random(COUNT) < 0.1, np.nan, rng.standard_normal(COUNT)), mix)

    def order(members):
        mixed = (1 - mix) * z(scores[members]) + mix * z(guide.known[members])
        return dict(zip(members, mixed.tolist(), strict=True))

    near = [nearest(metric, rows, row) for row in range(COUNT)]
    found = sorted(range(COUNT), key=lambda i: -scores[i])[:4]
    want, brought = grown(near, order, found, 9, 1, set(range(COUNT)))
    stage = ab.GraphAdaptive(budget=9, batch=1, guide=guide)
    bridge.search(query, k=13, candidates=13, rerank=stage)
    guide.asked.clear()
    hits = bridge.search(query, k=4, candidates=4, rerank=stage)
    assert hits.trace.steps[1].rows.tolist() == want
    assert guide.asked == want  # each once
    np.testing.assert_allclose(hits.trace.steps[1].scores, scores[want], rtol=1e-5, atol=1e-5)
    assert hits.trace.origins == {row: f"neighbour of {parent}" for row, parent in brought.items()}


def test_what_a_guide_reads_is_asked_for(setting):
    guide = Guide(np.zeros(COUNT), 0.5)
    guide.requires_tokens = True
    guide.requires_text = True
    stage = ab.GraphAdaptive(guide=guide)
    assert stage.requires_tokens
    assert stage.requires_text
    assert not ab.GraphAdaptive().requires_tokens
    with pytest.raises(ab.InvalidInputError, match="graph_adaptive needs stored tokens, this bridge has none"):
        setting[1].search(setting[3], rerank=stage, query_text="a")


def test_neighbours_where_logits_depend_on_who_is_there(rng):
    """Sparse attention keeps the root of how many there are: of more candidates, more."""
    rows = rng.standard_normal((COUNT, 7)).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=7, attention="sparse", index="exact")
    bridge.add(rows)
    hits = bridge.search(rows[3], k=10, candidates=25, rerank=ab.GraphAdaptive(nx.complete_graph(COUNT)))
    assert hits.candidates == COUNT
    scores = similarity("cosine", rows[3].astype(np.float64), rows.astype(np.float64))
    assert hits.ids == np.argsort(-scores)[: int(np.ceil(COUNT**0.5))].tolist()[: len(hits)]
    assert len(hits) == int(np.ceil(COUNT**0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be a whole number >= 1, got 0"),
        ({"batch": 1.5}, "batch must be a whole number >= 1, got 1.5"),
        ({"source": "nn"}, "source must be 'knn', a networkx graph, or edges as pairs of ids, got 'nn'"),
        ({"source": 7}, "source must be 'knn', a networkx graph, or edges as pairs of ids, got 7"),
        ({"source": [(1, 2), (3,)]}, r"source must be .* pairs of ids; edge 1 is \(3,\)"),
        ({"source": [(1, 2.5)]}, r"source must have pairs of ids, str or int; edge 0 is \(1, 2.5\)"),
        ({"source": np.zeros((3, 2), int)}, r"or an array \(2, e\), got an array of shape \(3, 2\)"),
        ({"source": []}, "source must have at least one edge, got none"),
        ({"guide": ab.QueryExpansion()}, r"guide must be a stage that can match any row, such as LateInteraction\(\)"),
    ],
)
def test_bad_graphs(options, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.GraphAdaptive(**options)


@pytest.mark.parametrize("source", [[("a", "b"), ("c", "a")], nx.path_graph(["a", "b", "c"])])
def test_a_graph_of_other_ids(setting, source):
    _, bridge, _, query = setting
    with pytest.raises(ab.InvalidInputError, match="source must have ids of the index as its nodes, none of its 3 is"):
        bridge.search(query, rerank=ab.GraphAdaptive(source))
    with pytest.raises(ab.InvalidInputError, match="none of its 0 is one: it is empty"):
        bridge.search(query, rerank=ab.GraphAdaptive(nx.Graph()))
    known = ab.GraphAdaptive([("a", "b"), (40, "b")])  # one of them is there
    assert bridge.search(query, k=1, candidates=1, rerank=known).trace.origins == {}


# ---- attention


@pytest.fixture
def pool(setting):
    """Return the metric and the pool of a search, as a stage sees it."""
    metric, bridge, _, query = setting
    caught = []

    class Catch:
        name, requires_tokens = "catch", False

        def apply(self, pool):
            caught.append(pool)

    bridge.search(query, candidates=17, rerank=Catch())
    return metric, caught[0]


@pytest.mark.parametrize(
    ("type", "options"),
    [("scaled_dot", {"scale": 0.7}), ("flash", {"scale": 0.7}), ("multi_head", {"num_heads": 7, "scale": 0.7}),
     ("multi_head", {"num_heads": 7, "scale": 0.7, "score": "weights"}), ("linear", {}), ("gat", {}),
     ("sparse", {"scale": 0.7}), ("sparse", {"scale": 0.7, "top_k": 3}), ("moe", {}), ("cross", {})],
)  # fmt: skip
@pytest.mark.parametrize("mix", [1.0, 0.3])
@pytest.mark.parametrize("setting", ["cosine", "ip"], indirect=True)  # an l2 similarity is no product of two vectors
def test_attention_of_any_type(pool, type, options, mix):
    """To the bit what the functional API says of the same rows."""
    metric, pool = pool
    before = pool.scores.copy()
    ab.AttentionRerank(type, mix=mix, **options).apply(pool)
    rows = pool.keys.data[pool.rows]
    if metric == "cosine":
        rows = unit(rows.astype(np.float64)).astype(np.float32)
    settings = {"num_heads": 7} if type == "multi_head" else {}
    want = ab.attention_logits(pool.query, rows, type, **(options | settings))
    got = pool.parts["attention_rerank"]
    if metric == "ip" and "score" not in options:  # the same kernels
        assert got.tolist() == want.tolist()
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_allclose(got[finite], want[finite], rtol=2e-5, atol=2e-5)
    mixed = want if mix == 1.0 else np.where(finite, (1 - mix) * z(before) + mix * z(want), want)
    np.testing.assert_allclose(pool.scores[finite], mixed[finite], rtol=1e-4, atol=1e-4)
    assert (pool.scores[~finite] == -np.inf).all()


@pytest.mark.parametrize("type", ["scaled_dot", "multi_head", "flash", "linear", "gat", "moe", "sparse"])
def test_a_stage_ranks_as_a_bridge_of_its_type(setting, type):
    metric, plain, rows, query = setting
    options = {"num_heads": 7} if type == "multi_head" else {}
    bridge = ab.AttentionVectorBridge(dim=7, metric=metric, attention=type, index="exact", **options)
    bridge.add(rows)
    want = bridge.search(query, k=17, candidates=17)
    got = plain.search(query, k=17, candidates=17, rerank=ab.AttentionRerank(type, **options))
    # sparse leaves too few, the search then starts over: what a bridge finds among all rows
    want = bridge.search(query, k=17, candidates=68) if type == "sparse" else want
    assert got.ids == want.ids
    assert got.scores.tolist() == want.scores.tolist()


def test_what_each_head_says(setting):
    metric, bridge, rows, query = setting
    q, x = (unit(query), unit(rows)) if metric == "cosine" else (query, rows)
    product = [similarity("l2" if metric == "l2" else "ip", q[[j]], x[:, [j]]) for j in range(7)]
    scale = 20.0 * 7 if metric == "cosine" else 1.0
    heads = ranked(bridge, query, ab.AttentionRerank("multi_head", num_heads=7), k=COUNT)
    weights = ranked(bridge, query, ab.AttentionRerank("multi_head", num_heads=7, score="weights"), k=COUNT)
    for j in range(7):
        name = f"attention_rerank.head_{j}"
        np.testing.assert_allclose(heads.parts[name], scale * product[j][heads.ids], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(weights.parts[name], softmax(scale * product[j])[weights.ids], rtol=1e-4, atol=1e-6)
    every = np.mean([weights.parts[f"attention_rerank.head_{j}"] for j in range(7)], axis=0)
    np.testing.assert_allclose(np.exp(weights.scores), every, rtol=1e-5)
    twice = bridge.search(query, rerank=[ab.AttentionRerank("multi_head", mix=0.5, num_heads=7)] * 2)
    assert "attention_rerank+.head_6" in twice.parts
    attended = weights.trace.steps[1].attended(weights.ids[0])
    assert [one.name for one in attended] == weights.ids
    assert [one.weight for one in attended] == pytest.approx(every.tolist(), rel=1e-5)


def test_attention_with_mix_zero_changes_nothing_but_the_scale(setting):
    _, bridge, _, query = setting
    plain = bridge.search(query, k=COUNT)
    hits = bridge.search(query, k=COUNT, rerank=ab.AttentionRerank("sparse", mix=0.0))
    assert hits.ids == plain.ids
    np.testing.assert_allclose(hits.scores, z(plain.scores), rtol=1e-6, atol=1e-6)


def test_set_dependent_types_see_what_is_not_ruled_out(setting):
    metric, bridge, rows, query = setting

    class Even:
        name, requires_tokens = "even", False

        def apply(self, pool):
            pool.scores = np.where(pool.rows % 2 == 0, pool.scores, -np.inf)

    hits = bridge.search(query, k=4, rerank=[Even(), ab.AttentionRerank("sparse", top_k=4)])
    scores = similarity(metric, query, rows)
    assert hits.ids == [i for i in np.argsort(-scores).tolist() if i % 2 == 0][:4]


def test_points_of_the_ball(rng):
    rows = (0.3 * unit(rng.standard_normal((COUNT, 5)))).astype(np.float32)
    query = np.array([0.1, 0.2, 0.0, 0.3, -0.1], np.float32)
    far = ab.HyperbolicSpace(-0.5).distance(query.astype(np.float64), rows.astype(np.float64))
    for metric in ("ip", "l2"):
        bridge = ab.AttentionVectorBridge(dim=5, metric=metric, index="exact")
        bridge.add(rows)
        hits = ranked(bridge, query, ab.AttentionRerank("poincare", curvature=-0.5, temperature=0.5), k=COUNT)
        check(hits, -2.0 * far)
        same = ab.attention_logits(query, rows, "poincare", curvature=-0.5, temperature=0.5)
        assert hits.scores.tolist() == same[hits.ids].tolist()
        tangent = bridge.search(query, k=COUNT, rerank=ab.AttentionRerank("poincare", map="expmap0"))
        want = ab.attention_logits(query, rows, "poincare", map="expmap0")
        np.testing.assert_allclose(tangent.scores, want[tangent.ids], rtol=1e-6)
    bridge.add([[2.0, 0, 0, 0, 0]])
    with pytest.raises(ab.InvalidInputError, match=r"candidates must lie inside .* radius 1 .*map='expmap0'"):
        bridge.search(query, rerank=ab.AttentionRerank("poincare"))
    with pytest.raises(ab.InvalidInputError, match="query must lie inside the ball"):
        bridge.search([1.0, 0, 0, 0, 0], k=1, candidates=1, rerank=ab.AttentionRerank("poincare"))
    assert len(bridge.search(query, k=42, rerank=ab.AttentionRerank("poincare", map="expmap0"))) == 42


@pytest.mark.parametrize("map", ["ball", "expmap0"])
def test_points_of_a_ball_in_another(rng, map):
    vectors = (0.3 * rng.standard_normal((COUNT, 3))).clip(-0.4, 0.4).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=3, attention="poincare", map=map, index="exact")
    bridge.add(vectors)
    query = np.array([0.1, 0.0, -0.2], np.float32)
    same = bridge.search(query, k=COUNT, rerank=ab.AttentionRerank("poincare", map=map, temperature=2.0))
    plain = bridge.search(query, k=COUNT)
    assert same.ids == plain.ids
    np.testing.assert_allclose(same.scores, plain.scores / 2.0, rtol=1e-6)
    other = bridge.search(query, k=COUNT, rerank=ab.AttentionRerank("poincare", map=map, curvature=-0.3))
    want = ab.attention_logits(query, vectors, "poincare", map=map, curvature=-0.3)
    np.testing.assert_allclose(other.scores, want[other.ids], rtol=1e-5)
    message = "attention_rerank by 'scaled_dot' needs a bridge of metric cosine, ip or l2, this one has 'poincare'"
    with pytest.raises(ab.InvalidConfigError, match=message):
        bridge.search(query, rerank=ab.AttentionRerank("dot"))


def test_cross_matches_tokens_where_there_are_any(rng):
    rows, tokens = (
        rng.standard_normal((9, 3)),
        [rng.standard_normal((n % 3 + 1, 4)).astype(np.float16) for n in range(9)],
    )
    asked = rng.standard_normal((2, 4)).astype(np.float32)
    bridge = ab.AttentionVectorBridge(dim=3, index="exact")
    bridge.add(rows, tokens=tokens)
    stage = ab.AttentionRerank("maxsim")
    hits = bridge.search(rows[0], k=9, query_tokens=asked, rerank=stage)
    want = np.array([np.mean([max(q @ t for t in own.astype(np.float64)) for q in asked]) for own in tokens])
    check(hits, want)
    own = bridge.search(id=4, k=8, rerank=stage)  # its own tokens are the query's
    asked = tokens[4].astype(np.float64)
    want = [np.mean([max(q @ t for t in tokens[i].astype(np.float64)) for q in asked]) for i in own.ids]
    np.testing.assert_allclose(own.scores, want, rtol=1e-5)
    with pytest.raises(ab.InvalidInputError, match="attention_rerank needs the query's tokens; pass query_tokens"):
        bridge.search(rows[0], rerank=stage)
    pooled = ab.AttentionVectorBridge(dim=3, index="exact")
    pooled.add(rows)
    hits = pooled.search(rows[0], k=9, rerank=stage)
    check(hits, similarity("cosine", rows[0], rows))
    with pytest.raises(ab.InvalidInputError, match="attention_rerank needs stored tokens, this bridge has none"):
        pooled.search(rows[0], rerank=stage, query_tokens=asked)


@pytest.mark.parametrize(
    ("type", "options", "message"),
    [
        ("sliding", {}, "type must not be 'sliding', which attends by places in a sequence and candidates have none"),
        ("nothing", {}, "attention type must be one of .*scaled_dot.*; got 'nothing'"),
        ("scaled_dot", {"heads": 3}, "scaled_dot has no option 'heads'; its options are: scale"),
        ("scaled_dot", {"mix": 2}, "mix must be a finite number >= 0, at most 1, got 2"),
        ("multi_head", {"num_heads": 0}, "num_heads must be a whole number >= 1, got 0"),
    ],
)
def test_bad_attention(type, options, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.AttentionRerank(type, **options)


def test_attention_that_does_not_fit(setting):
    _, bridge, _, query = setting
    with pytest.raises(ab.DimensionMismatchError, match="7 must be divisible by num_heads 8"):
        bridge.search(query, rerank=ab.AttentionRerank("multi_head"))
    with pytest.raises(ab.InvalidConfigError, match="pattern must be 'top_k' in an index"):
        bridge.search(query, rerank=ab.AttentionRerank("sparse", pattern="local"))
    parameters = {"W": np.eye(7), "a_q": np.ones(7), "a_k": np.ones(7)}
    with pytest.warns(UserWarning, match="gat of version 'v1' orders keys alike for every query"):
        ab.AttentionRerank("gat", version="v1", parameters=parameters)


# ---- all of them


@pytest.mark.parametrize(
    "stage",
    [
        ab.QueryExpansion(3, 5.0, 0.25, 2, True),
        ab.Rocchio(0.5, positive=["a", 3], exclude=True),
        ab.GraphAdaptive([("a", 1)], budget=7),
        ab.GraphAdaptive(),
        ab.AttentionRerank("multi_head", mix=0.25, num_heads=4, score="weights"),
    ],
)
def test_stages_are_values(stage):
    (read,) = as_stages(repr(stage))
    assert read == stage
    assert hash(read) == hash(stage)
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert isinstance(stage, Stage)
    with pytest.raises(AttributeError):
        stage.budget = stage.type = 3
    with pytest.raises(AttributeError):
        del stage.type


def test_attention_is_its_options():
    one, same = (ab.AttentionRerank("mha", parameters={"W_q": np.eye(4), "W_k": np.eye(4)}) for _ in range(2))
    other = ab.AttentionRerank("multi_head", parameters={"W_q": np.eye(4), "W_k": 2 * np.eye(4)})
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "multi_head"
    assert pickle.loads(pickle.dumps(one)) == one
    assert ab.AttentionRerank("dot") == ab.AttentionRerank("scaled_dot", scale=None)


@pytest.mark.parametrize(
    "stage",
    [ab.QueryExpansion(steps=2), ab.QueryExpansion(research=True), ab.Rocchio(positive=[1], negative=[2]),
     ab.Rocchio(positive=[1], exclude=True), ab.GraphAdaptive(nx.path_graph(5)), ab.AttentionRerank("sparse"),
     ab.AttentionRerank("moe", mix=0.5)],
)  # fmt: skip
@pytest.mark.parametrize("rows", [[[1.0, 2.0]] * 5, [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, -1.0]]])
def test_few_candidates_and_equal_ones(stage, rows):
    for metric in METRICS:
        bridge = ab.AttentionVectorBridge(dim=2, metric=metric, index="exact")
        bridge.add(rows)
        for count in (1, 5):
            hits = bridge.search([1.0, 1.0], k=count, candidates=count, rerank=stage)
            assert np.isfinite(hits.scores).all()
            assert 0 < len(hits) <= count


@pytest.mark.parametrize(
    "stage",
    [ab.QueryExpansion(scale=3.0, steps=2), ab.Rocchio(positive=[1], negative=[2]),
     ab.AttentionRerank("sparse", mix=0.5), ab.AttentionRerank("multi_head", num_heads=7, mix=0.4)],
)  # fmt: skip
def test_the_order_of_the_candidates_does_not_matter(setting, stage):
    """Rows put in another order give the same scores to the same ids."""
    metric, bridge, rows, query = setting
    other = ab.AttentionVectorBridge(dim=7, metric=metric, index="exact")
    turned = np.random.default_rng(3).permutation(COUNT)
    other.add(rows[turned], ids=turned.tolist())
    one, two = (made.search(query, k=COUNT, rerank=stage) for made in (bridge, other))
    assert one.ids == two.ids
    np.testing.assert_allclose(one.scores, two.scores, rtol=1e-6, atol=1e-6)


def test_stages_that_need_an_index_say_so():
    attention, options = resolve("scaled_dot", {"scale": 1.0})
    keys = Keys(np.eye(3, dtype=np.float32))
    made = Pool(np.ones(3, np.float32), 0.0, Metric("ip"), keys, np.arange(3), np.zeros(3), attention, options)
    for stage in (ab.Rocchio(positive=[1]), ab.GraphAdaptive()):
        with pytest.raises(ab.InvalidConfigError, match=f"{stage.name} needs an index to ask, this pool has none"):
            stage.apply(made)
    for stage in (ab.QueryExpansion(research=True), ab.Rocchio(positive=[1], research=True)):
        with pytest.raises(ab.InvalidConfigError, match="research must be False for a pool without an index"):
            stage.apply(made)
    ab.AttentionRerank("scaled_dot", scale=2.0).apply(made)
    assert made.scores.tolist() == [2.0, 2.0, 2.0]
    assert made.attended is None


@pytest.mark.parametrize("before", ["late_interaction", "attention_rerank('dot')"])
def test_neighbours_join_before_scores_are_mixed(before):
    with pytest.raises(ab.InvalidConfigError, match="rerank must have graph_adaptive before"):
        as_stages(f"{before}, graph_adaptive")
    assert len(as_stages(f"expansion, graph_adaptive, rocchio(positive=['a']), {before}")) == 4


@pytest.mark.parametrize(
    "late",
    [
        "graph_adaptive",
        "gated(graph_adaptive(budget=20), 'gap')",
        "gated(gated(graph_adaptive, 'gap'), 'gap')",
        "fusion(['graph_adaptive'])",
        "fusion(['scores', 'gated(graph_adaptive, \\'gap\\')'])",
        "rocchio(positive=['a'])",
        "attention_rerank('linear')",
        "late_interaction(mix=1.0)",
        "bm25('text')",
    ],
)
def test_what_takes_no_notice_of_the_scores_so_far_comes_first(late):
    with pytest.raises(ab.InvalidConfigError, match="before feedback, whose result it would undo"):
        as_stages(f"feedback, {late}")
    assert len(as_stages(f"{late}, feedback")) == 2


def test_a_stage_that_would_undo_itself_is_not_to_be_there_twice():
    with pytest.raises(ab.InvalidConfigError, match="rerank must not have attention_rerank twice: the second"):
        as_stages("attention_rerank('dot'), attention_rerank('linear')")
    assert len(as_stages("attention_rerank('dot'), attention_rerank('linear', mix=0.5)")) == 2
