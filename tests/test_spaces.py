"""Hyperbolic distance and spread inner products: closed forms, float64 truths, and walks under their logits."""

import copy
import pickle

import hnswlib
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge import kernels
from attnbridge.integrations import ExactIndex, HnswIndex
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.integrations.candidates import exact_search, exact_search_each
from attnbridge.integrations.walk import Walk
from attnbridge.metric import Keys, Metric, norms
from attnbridge.rerank import Stage

Bridge = ab.AttentionVectorBridge


def true_distance(u, v, c=1.0):
    """Return distances in float64 by the Lorentz form, in as much precision as that has."""
    u, v = np.asarray(u, np.longdouble), np.asarray(v, np.longdouble)
    gap = ((u - v) ** 2).sum(axis=-1)
    x = 1 + 2 * c * gap / ((1 - c * (u * u).sum(axis=-1)) * (1 - c * (v * v).sum(axis=-1)))
    return np.asarray(np.arccosh(x) / np.sqrt(np.longdouble(c)), np.float64)


def tree(rng, n, dim, c=1.0, farthest=10.0):
    """Return points of a ball, as float32: depth is distance from the centre, children lie about their parents."""
    points, depth = np.zeros((n, dim)), np.zeros(n, int)
    for node in range(1, n):
        parent = int(node * rng.random())
        depth[node] = depth[parent] + 1
        points[node] = points[parent] + rng.standard_normal(dim) * np.exp(-0.7 * depth[parent])
        points[node] /= np.linalg.norm(points[node])
    step = farthest / depth.max() / 2
    space = ab.HyperbolicSpace(-c)
    return space.exp_map0((points * (step * depth)[:, None] * space.radius).astype(np.float32))


def graph(rows, space):
    index = hnswlib.Index(space, rows.shape[1])
    index.init_index(len(rows), M=16, ef_construction=200, random_seed=7)
    index.add_items(rows, num_threads=1)
    return Adjacency.from_index(index)


def recall(found, truth):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)])


# ---- HyperbolicSpace


@pytest.mark.parametrize("r", [0.0, 1e-6, 0.5, 0.9, 1 - 1e-6])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_distance_from_the_centre_is_two_artanh(r, dim):
    point = np.zeros(dim)
    point[-1] = r
    space = ab.HyperbolicSpace()
    assert float(space.distance(np.zeros(dim), point)) == pytest.approx(2 * np.arctanh(r), rel=1e-9)
    # opposite points: the way leads through the centre
    assert float(space.distance(-point, point)) == pytest.approx(4 * np.arctanh(r), rel=1e-9)


def test_curvature_scales_the_ball_and_its_distances():
    """Of the same figure in a ball of c times the curvature, lengths are 1 / sqrt(c)."""
    rng = np.random.default_rng(0)
    u, v = tree(rng, 40, 3).astype(float), tree(rng, 40, 3).astype(float)
    narrow = ab.HyperbolicSpace(-4.0)
    assert narrow.radius == 0.5
    np.testing.assert_allclose(narrow.distance(u / 2, v / 2), ab.HyperbolicSpace().distance(u, v) / 2, rtol=1e-12)
    np.testing.assert_allclose(narrow.distance(u / 2, v / 2), true_distance(u / 2, v / 2, 4.0), rtol=1e-6, atol=1e-9)


def test_distance_is_a_metric():
    rng = np.random.default_rng(1)
    points = tree(rng, 30, 2).astype(float)
    space = ab.HyperbolicSpace()
    table = np.stack([space.distance(point, points) for point in points])
    assert (np.diag(table) == 0.0).all()
    np.testing.assert_allclose(table, table.T, rtol=1e-12)
    assert (table[:, :, None] + table[None] >= table[:, None, :].transpose(0, 2, 1) - 1e-9).all()


def test_near_points_keep_their_digits():
    """acosh(1 + x) of them is 0 in float64; the limit is 2 |u - v| / (1 - |u|^2)."""
    point = np.array([0.6, 0.0])
    near = point + np.array([0.0, 1e-12])
    assert float(ab.HyperbolicSpace().distance(point, near)) == pytest.approx(2e-12 / 0.64, rel=1e-4)


@given(st.integers(0, 2**32), st.sampled_from([0.25, 1.0, 9.0]), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_maps_are_each_others_inverse(seed, c, dim):
    space = ab.HyperbolicSpace(-c)
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((5, dim)) * rng.uniform(0.0, 1.0) * space.radius
    v[0] = 0.0
    points = space.exp_map0(v)
    assert (norms(points) < space.radius).all()
    np.testing.assert_allclose(space.log_map0(points), v, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(space.distance(np.zeros(dim), points), 2 * norms(v), rtol=1e-9, atol=1e-12)


def test_maps_of_one_point_and_dtypes():
    space = ab.HyperbolicSpace()
    assert space.exp_map0(np.float32([0.1, 0.2])).dtype == np.float32
    assert space.exp_map0(np.array([0.1, 0.2])).dtype == np.float64
    assert space.project([0.0, 0.0]).tolist() == [0.0, 0.0]
    pulled = space.project([[30.0, 40.0], [0.3, 0.4]])
    np.testing.assert_allclose(norms(pulled), [1 - 1e-5, 0.5], rtol=1e-6)
    assert repr(space) == "HyperbolicSpace(curvature=-1.0)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda s: s.distance([0.0, 0.0], [[0.0, 0.5], [0.0, 1.0]]),
            ab.InvalidInputError,
            r"v must lie inside the ball of radius 1 \(curvature -1\): row 1 has length 1.*; map='expmap0' .*project",
        ),
        (lambda s: s.distance([2.0], [0.0]), ab.InvalidInputError, "u must lie inside .* row 0 has length 2"),
        (
            lambda s: s.distance([0.0], [[0.0, 0.5]]),
            ab.DimensionMismatchError,
            r"u and v must have rows of one shape, got \(1,\) and \(1, 2\)",
        ),
        (
            lambda s: s.distance(np.zeros((2, 3)), np.zeros((3, 3))),
            ab.DimensionMismatchError,
            r"u and v must have rows of one shape, got \(2, 3\) and \(3, 3\)",
        ),
        (
            lambda s: s.exp_map0([[1.0], [9.0]]),
            ab.InvalidInputError,
            "vectors must be at most 8 long, .*: row 1 has length 9; scale the vectors down",
        ),
        (lambda s: s.log_map0([1.0]), ab.InvalidInputError, "points must lie inside the ball"),
        (lambda s: s.log_map0(0.5), ab.DimensionMismatchError, r"points must be \(d,\) or \(..., d\), d >= 1, got"),
        (lambda s: s.exp_map0([np.nan]), ab.InvalidInputError, "vectors must be finite: position 0 is nan"),
        (lambda s: s.project([1.0], margin=0.0), ab.InvalidConfigError, "margin must be a finite number >= 1e-06"),
    ],
)
def test_space_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(ab.HyperbolicSpace())


@pytest.mark.parametrize("curvature", [0.0, 1.0, -1e-7, -1e7, float("nan"), "flat", None])
def test_curvature_errors(curvature):
    message = "curvature must be a finite number >= -1e.06, at most -1e-06, got"
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.HyperbolicSpace(curvature)
    with pytest.raises(ab.InvalidConfigError, match=message):
        Bridge(dim=2, attention="poincare", curvature=curvature)


# ---- the functional API


def test_logits_by_hand():
    """tanh(1) lies 2 from the centre."""
    r = np.tanh(1.0)
    assert ab.attention_score(np.array([0.0]), np.array([r]), "poincare") == pytest.approx(-2.0, rel=1e-12)
    logits = ab.attention_logits(np.zeros(2), np.array([[0, 0], [r, 0], [0, -r]]), "poincare", temperature=4.0)
    np.testing.assert_allclose(logits, [0.0, -0.5, -0.5], rtol=1e-12)
    # tangent vectors of length 1, a curvature of -4: the distance is 2 in any case
    for options in ({}, {"curvature": -4.0}):
        score = ab.attention_score(np.zeros(3), np.array([0.0, 0.6, 0.8]), "hyperbolic", map="expmap0", **options)
        assert score == pytest.approx(-2.0, rel=1e-12)
    weights = ab.attention_scores([0.0], [[0.0], [r]], "poincare", temperature=2.0)
    np.testing.assert_allclose(weights, np.array([1.0, np.exp(-1.0)]) / (1.0 + np.exp(-1.0)), rtol=1e-6)
    out = ab.attention([0.0], [[0.5], [-0.5]], [[1.0, 2.0], [3.0, 4.0]], "poincare")
    np.testing.assert_allclose(out, [2.0, 3.0], rtol=1e-6)


def test_logits_near_the_boundary_in_float32():
    """Points at 1e-6 from it: the coordinates' differences are exact where products would have lost them."""
    rng = np.random.default_rng(2)
    for dim in (1, 2, 5, 16):
        directions = rng.standard_normal((200, dim))
        directions[100:] = directions[:100] + 1e-3 * rng.standard_normal((100, dim))  # near pairs as well
        directions /= norms(directions)[:, None]
        points = (directions * (1 - 1e-6 * rng.uniform(1, 3, 200))[:, None]).astype(np.float32)
        want = ab.HyperbolicSpace().distance(points[:, None].repeat(200, 1).reshape(-1, dim), np.tile(points, (200, 1)))
        got = -ab.attention_logits(points, points, "poincare")
        np.testing.assert_allclose(got.ravel(), want, rtol=1e-6, atol=1e-6)


def test_a_distance_has_no_negative():
    distance = ab.AttentionDistance("poincare", temperature=2.0)
    assert distance([0.5], [0.5]) == 0.0
    assert distance([0.0], [0.5]) == pytest.approx(np.arctanh(0.5), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ab.attention_logits([0.0], [[0.5], [1.5]], "poincare"),
            r"keys must lie inside .* row 1 has length 1.5",
        ),
        (lambda: ab.attention_logits([1.0], [[0.5]], "poincare"), "query must lie inside the ball"),
        (lambda: ab.attention_logits([0.0], [[np.nan]], "poincare"), "keys must be finite: row 0, column 0 is nan"),
        (lambda: ab.attention_score([0.0], [9.0], "poincare", map="expmap0"), "vectors must be at most 8 long"),
        (
            lambda: ab.attention_score([0.0], [0.1], "poincare", map="klein"),
            "map must be one of ball, expmap0; got 'kle",
        ),
        (
            lambda: ab.attention_score([0.0], [0.1], "poincare", temperature=0),
            "temperature must be a finite number > 0",
        ),
        (lambda: ab.attention_score([0.0], [0.1], "poincare", scale=2), "poincare has no option 'scale'; .*curvature"),
        (lambda: Metric("l2", -1.0), "curvature is of metric='poincare' only, got -1.0 with 'l2'"),
        (
            lambda: Bridge(2, "l2", "poincare"),
            r"metric must be left out with attention='poincare', .*'poincare'\), got",
        ),
        (lambda: Bridge(2, "poincare"), "metric='poincare' goes with attention='poincare' only, got 'scaled_dot'"),
        (lambda: HnswIndex(2, "poincare"), "metric must be one of cosine, ip, l2; got 'poincare'"),
        (
            lambda: Bridge(2, attention="poincare", index=HnswIndex(2, "cosine")),
            "index must have metric='l2', got 'cosine'",
        ),
    ],
)
def test_errors_name_the_remedy(call, message):
    with pytest.raises(ab.AttentionError, match=message):
        call()


# ---- exact search and the walk


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("curvature", [-1.0, -0.3])
def test_exact_search_is_brute_force(dim, curvature):
    rng = np.random.default_rng(dim)
    rows = tree(rng, 300, dim, -curvature)
    rows[7], rows[9] = rows[8], 0.0
    queries = np.concatenate([rows[:5], tree(rng, 20, dim, -curvature)])
    metric = Metric("poincare", curvature)
    keys = Keys(rows, *metric.row_terms(rows, "rows"))
    ready, bias = metric.prepare(queries, "queries")
    labels, distances = exact_search(keys, metric, ready, bias, 12, None)
    truth = np.stack([ab.HyperbolicSpace(curvature).distance(q.astype(float), rows) for q in queries])
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :12], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(distances, np.take_along_axis(truth, labels, axis=1), rtol=1e-6, atol=1e-6)
    lists = [np.flatnonzero(rng.random(300) < 0.3) for _ in queries]
    each = exact_search_each(keys, metric, ready, bias, 12, lists)
    for i, own in enumerate(lists):
        alone = exact_search(keys, metric, ready[i : i + 1], bias[i : i + 1], 12, own)
        assert alone[0].tolist() == each[0][i : i + 1].tolist()
        assert alone[1].tobytes() == each[1][i : i + 1].tobytes()


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_walk_of_differences_equals_its_reference(kind):
    """Over all rows: exact values, so that ids and scores are equal."""
    rng = np.random.default_rng(3)
    for n, d in ((1, 1), (5, 2), (40, 3), (60, 11)):
        rows = reference.stored(rng.integers(-3, 4, (n, d)), kind)
        scale = 2.0 ** rng.integers(-2, 2, n)
        level0 = np.full((n, 8), -1)
        level0[:, : min(n, 8)] = np.stack([rng.permutation(n)[: min(n, 8)] for _ in range(n)])
        adjacency = Adjacency(level0, np.empty((0, level0.shape[1] // 2), np.int32), np.zeros(n, np.int64), 0)
        queries, bias = rng.integers(-3, 4, (6, d)).astype(np.float32), 2.0 ** rng.integers(-2, 2, 6)
        found = Walk(adjacency).query(Keys(rows, scale), queries, bias, 3, ef=4, difference=True)
        ids, scores = np.full((6, 3), -7), np.full((6, 3), np.nan, np.float32)
        counts, steps = np.zeros(6, np.int64), np.zeros(6, np.int64)
        about = adjacency.links, min(4, n), np.empty((0, 1), bool), np.full(6, -1), np.full(6, np.inf)
        begin, ef = np.empty((6, 0), np.int32), min(4, n)
        arguments = queries, None, bias, rows, scale, None, *about, begin, 2**62, ef, ids, scores, counts, steps, True
        reference.walk(*arguments)
        assert found.ids.tolist() == ids.tolist()
        assert found.scores.tolist() == (scores * bias[:, None]).astype(np.float32).tolist()


def test_walk_with_a_least_similarity():
    """`least` counts the query's factor as the scores do."""
    rng = np.random.default_rng(4)
    rows = tree(rng, 500, 3)
    metric = Metric("poincare")
    keys = Keys(rows, *metric.row_terms(rows, "rows"))
    ready, bias = metric.prepare(rows[:20], "queries")
    least = np.full(20, -(np.sinh(1.5) ** 2))  # a distance of 3
    walk = Walk(graph(rows, "l2"))
    found = walk.query(keys, ready, bias, 10, ef=50, least=least, most=500, difference=True)
    for i, query in enumerate(rows[:20]):
        inside = np.flatnonzero(ab.HyperbolicSpace().distance(query.astype(float), rows) <= 3.0)
        got = found.ids[i][found.scores[i] >= least[i]]
        assert len(set(got) & set(inside)) >= 0.98 * len(inside)
        assert set(got) <= set(inside)


@pytest.mark.parametrize("dim", [5, 16])
def test_walk_under_the_distance_finds_a_trees_nearest(dim):
    rng = np.random.default_rng(dim)
    points = tree(rng, 4_000, dim, farthest=13.0)
    order = rng.permutation(4_000)
    rows, queries = np.ascontiguousarray(points[order[200:]]), points[order[:200]]
    metric = Metric("poincare")
    keys = Keys(rows, *metric.row_terms(rows, "rows"))
    ready, bias = metric.prepare(queries, "queries")
    truth, far = exact_search(keys, metric, ready, bias, 10, None)
    found = Walk(graph(rows, metric.build)).query(keys, ready, bias, 10, ef=100, difference=metric.difference)
    assert recall(found.ids, truth) >= 0.99
    same = found.ids == truth
    np.testing.assert_allclose(metric.distances(found.scores)[same], far[same], rtol=1e-6, atol=1e-6)


# ---- the bridge


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_bridge_ranks_by_hyperbolic_distance(index):
    rng = np.random.default_rng(5)
    rows = tree(rng, 600, 4, 0.5)
    rows[11], rows[12] = rows[10], 0.0
    bridge = Bridge(4, attention="poincare", curvature=-0.5, temperature=0.3, index=index)
    bridge.add(rows, wait=True)
    assert bridge.config["metric"] == "poincare"
    options = {"temperature": 0.3, "curvature": -0.5, "map": "ball", "values": "euclidean"}
    assert bridge.config["options"] == options
    space = ab.HyperbolicSpace(-0.5)
    queries = tree(rng, 15, 4, 0.5)
    for query, batch in zip(queries, bridge.search_batch(queries, k=10, candidates=600), strict=True):
        far = space.distance(query.astype(float), rows)
        best = np.sort(far)[:10]
        np.testing.assert_allclose(batch.distances, best, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batch.scores, -best / 0.3, rtol=1e-6, atol=1e-6)
        weights = np.exp(-(far - far.min()) / 0.3)
        np.testing.assert_allclose(batch.weights, (weights / weights.sum())[batch.ids], rtol=1e-5)
        alone = bridge.search(query, k=10, candidates=600)
        assert (alone.ids, alone.scores.tolist()) == (batch.ids, batch.scores.tolist())
        within = bridge.search(query, radius=2.5)
        assert sorted(within.ids) == np.flatnonzero(far <= 2.5).tolist()
        few = bridge.search(query, k=5, filter=list(range(0, 600, 7)))
        assert few.distances.tolist() == pytest.approx(np.sort(far[::7])[:5].tolist(), rel=1e-6, abs=1e-6)
    assert bridge.search(rows[10], k=2).ids == [10, 11]
    assert bridge.search(id=10, k=1).ids == [11]
    assert bridge.get(10).tolist() == rows[10].tolist()


def test_bridge_keeps_its_curvature(tmp_path):
    rng = np.random.default_rng(6)
    rows = tree(rng, 400, 3, 2.0)
    bridge = Bridge(3, attention="poincare", curvature=-2.0)
    bridge.add(rows, ids=[f"n{i}" for i in range(400)], wait=True)
    want = [bridge.search(row, k=5).distances.tolist() for row in rows[:9]]
    bridge.save(tmp_path / "a")
    opened = Bridge.open(tmp_path / "a")
    for other in (opened, pickle.loads(pickle.dumps(bridge)), copy.deepcopy(bridge)):
        assert other.config == bridge.config
        assert [other.search(row, k=5).distances.tolist() for row in rows[:9]] == want
        other.add(rows[:3] * 0.5, ids=["n1", "new", "n2"])
        other.delete("n0")
        live = np.stack([other.get(id) for id in other.ids()]).astype(float)
        far = ab.HyperbolicSpace(-2.0).distance(rows[0].astype(float), live)
        np.testing.assert_allclose(other.search(rows[0], k=7).distances, np.sort(far)[:7], rtol=1e-6, atol=1e-6)
        assert other.compact() == 3
        np.testing.assert_allclose(other.search(rows[0], k=7).distances, np.sort(far)[:7], rtol=1e-6, atol=1e-6)
    wider = Bridge(3, attention="poincare", curvature=-0.5)
    wider.add(rows)
    reader = Bridge.open(tmp_path / "a", read_only=True)
    wider.save(tmp_path / "a")
    assert reader.reload()
    assert reader.config["options"]["curvature"] == -0.5
    assert reader.search(rows[5], k=3).distances.tolist() == wider.search(rows[5], k=3).distances.tolist()


def test_tangent_vectors_go_in_and_come_out(tmp_path):
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((80, 3)).astype(np.float32)
    vectors[0] = 0.0
    bridge = Bridge(3, attention="poincare", map="expmap0")
    bridge.add(vectors)
    bridge.save(tmp_path)
    with Bridge.open(tmp_path, journal=True) as writer:
        writer.add(vectors[:1] + 2.0, ids=[80])
    for other in (bridge, Bridge.open(tmp_path, mmap=False)):
        np.testing.assert_allclose(other.get(list(range(80))), vectors, rtol=1e-4, atol=1e-6)
        assert other.search(vectors[3], k=1).ids == other.search(vectors[3] * 1.0001, k=1).ids == [3]
        near = other.search(vectors[0], k=80).distances[:40]
        assert near == pytest.approx(2 * np.sort(norms(vectors))[:40], rel=1e-4, abs=1e-6)
        assert other.search(id=3, k=5).ids == other.search(vectors[3], k=6).ids[1:]
    np.testing.assert_allclose(Bridge.open(tmp_path, mmap=False).get(80), [2.0, 2.0, 2.0], rtol=1e-4)
    table = bridge.to_arrow()
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), vectors, rtol=1e-4, atol=1e-6)


def test_points_outside_are_refused_whole():
    bridge = Bridge(2, attention="poincare")
    message = "vectors must lie inside the ball of radius 1 .*: row 1 has length 1.5; map='expmap0'"
    with pytest.raises(ab.InvalidInputError, match=message):
        bridge.add([[0.1, 0.2], [1.5, 0.0]])
    assert len(bridge) == 0
    bridge.add([[0.1, 0.2]])
    with pytest.raises(ab.InvalidInputError, match="query must lie inside the ball"):
        bridge.search([1.0, 0.0])


def test_an_l2_index_of_the_users_own_serves_poincare():
    rng = np.random.default_rng(8)
    rows = tree(rng, 300, 3)
    index = hnswlib.Index("l2", 3)
    index.init_index(300)
    index.add_items(rows)
    index.mark_deleted(17)
    bridge = Bridge.from_hnswlib(index, attention="poincare")
    far = ab.HyperbolicSpace().distance(rows[17].astype(float), np.delete(rows, 17, axis=0))
    np.testing.assert_allclose(bridge.search(rows[17], k=5).distances, np.sort(far)[:5], rtol=1e-6, atol=1e-6)
    cosine = hnswlib.Index("cosine", 3)
    with pytest.raises(ab.InvalidConfigError, match="metric must be left out with attention='poincare'"):
        Bridge.from_hnswlib(cosine, attention="poincare")
    given = Bridge(3, attention="poincare", index=HnswIndex(3, "l2"))
    given.add(rows)
    assert given.search(rows[4], k=1).distances[0] == 0.0


def test_exact_index_by_hyperbolic_distance():
    index = ExactIndex(2, "poincare", curvature=-4.0)
    index.add([[0.0, 0.0], [0.25, 0.0]], [3, 5])
    labels, distances = index.query([[0.0, 0.0]], 2)
    assert labels.tolist() == [[3, 5]]
    assert distances[0].tolist() == pytest.approx([0.0, np.arctanh(0.5)])


def test_expansion_stays_in_the_ball():
    rows = tree(np.random.default_rng(9), 200, 3)
    bridge = Bridge(3, attention="poincare")
    bridge.add(rows)
    stage = ab.QueryExpansion(top=2, mix=1.0, scale=1e-9)  # the plain mean of the two nearest

    class Seen:
        name = "seen"
        requires_tokens = False

        def apply(self, pool):
            self.query = pool.query

    seen: Stage = Seen()
    first = bridge.search(rows[50], k=2).ids
    hits = bridge.search(rows[50], k=3, rerank=[stage, seen])
    np.testing.assert_allclose(seen.query, rows[first].mean(axis=0), rtol=1e-5, atol=1e-6)
    far = ab.HyperbolicSpace().distance(seen.query.astype(float), rows)
    np.testing.assert_allclose(-hits.scores, np.sort(far)[:3], rtol=1e-5, atol=1e-5)


# ---- inner product, lengths spread over 10x


def spread_rows(n, dim):
    """Return rows in clusters, lengths from 1 to 10."""
    rng = np.random.default_rng(10)
    centres = rng.standard_normal((30, dim))
    rows = centres[rng.integers(0, 30, n + 100)] + 0.7 * rng.standard_normal((n + 100, dim))
    rows /= norms(rows)[:, None]
    return (rows[100:] * rng.uniform(1.0, 10.0, n)[:, None]).astype(np.float32), rows[:100].astype(np.float32)


def test_inner_product_of_spread_lengths_is_found():
    rows, queries = spread_rows(4_000, 24)
    bridge = Bridge(24, "ip")
    bridge.add(rows, wait=True)
    truth = np.argsort(-(queries.astype(float) @ rows.T), axis=1)[:, :10]
    found = np.array([hits.ids for hits in bridge.search_batch(queries, k=10)])
    assert recall(found, truth) >= 0.95


def test_short_rows_are_found_in_a_graph_of_lengths_drawn_together():
    """A filter that lets the shorter half pass, walked under the plain product."""
    rows, queries = spread_rows(4_000, 24)
    short = norms(rows) < np.median(norms(rows))
    products = queries.astype(float) @ rows.T
    truth = np.argsort(-np.where(short, products, -np.inf), axis=1)[:, :10]
    everything = np.argsort(-products, axis=1)[:, :10]
    walk = Walk(graph(Metric("ip").graph_rows(rows), "ip"))
    keys, bias = Keys(rows), np.zeros(len(queries))
    assert recall(walk.query(keys, queries, bias, 10, ef=100, allowed=short[None]).ids, truth) >= 0.98
    assert recall(walk.query(keys, queries, bias, 10, ef=100).ids, everything) >= 0.98


def test_rows_of_a_graph():
    rows = np.float32([[0.0, 0.0], [3.0, 4.0], [0.0, 1e-30]])
    np.testing.assert_allclose(
        Metric("ip").graph_rows(rows), rows / np.array([[1.0], [5.0], [1e-30]]) ** 0.15, rtol=1e-6
    )
    for name in ("cosine", "l2", "poincare"):
        assert Metric(name).graph_rows(rows) is rows


def test_dots_are_what_they_were_beside_differences():
    """The flag has a type of its own: None, True and left out."""
    rows, query = np.eye(3, dtype=np.float32), np.float32([1.0, 2.0, 3.0])
    got = []
    for flag in ((), (None,), (True,)):
        out = np.empty(3)
        kernels.dot(query, 1.0, rows, None, None, None, 1.0, out, *flag)
        got.append(out.tolist())
    assert got == [[2.0, 3.0, 4.0], [2.0, 3.0, 4.0], [-13.0, -11.0, -9.0]]
