"""The walk against its plain reference, and against hnswlib's own search of the same graph.

Also runs with NUMBA_DISABLE_JIT=1, on small shapes.
"""

import threading

import hnswlib
import numba
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import stored

import attnbridge as ab
from attnbridge import kernels
from attnbridge.integrations import walk as walk_module
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.integrations.walk import Walk, scan, scan_is_cheaper, walk_work
from attnbridge.kernels.walk import key_of, push, row_of, score_of, sink
from attnbridge.metric import Keys, Metric

SLOW = bool(numba.config.DISABLE_JIT)
EXAMPLES = 15 if SLOW else 150
FOREVER = 2**62


class Over(Walk):
    """A walk over the same rows in every call."""

    def __init__(self, adjacency, keys):
        super().__init__(adjacency)
        self.keys = keys

    def query(self, *queries, **options):
        return super().query(self.keys, *queries, **options)


def graph(rng, n, m=4, levels=2):
    """Return any graph, no good one: random links, some rows without any, a few layers."""
    level0 = rng.integers(-1, n, (n, 2 * m))
    level0 = np.where(np.minimum.accumulate(level0, axis=1) < 0, -1, level0)  # what follows a -1 is not there
    level = np.minimum(rng.geometric(0.7, n) - 1, levels)
    entry = int(level.argmax())
    upper = []
    for row in range(n):
        for layer in range(1, level[row] + 1):
            targets = rng.permutation(np.flatnonzero(level >= layer))[:m]
            upper.append(np.concatenate([targets, np.full(m - len(targets), -1)]))
    return Adjacency(level0, np.array(upper, np.int64).reshape(-1, m), level, entry)


def outputs(b, k):
    return np.full((b, k), -7), np.full((b, k), np.nan, np.float32), np.full(b, -7), np.full(b, -7)


def built(vectors, metric, m=16, ef_construction=200, threads=1):
    index = hnswlib.Index("l2" if metric == "l2" else "ip", vectors.shape[1])
    index.init_index(len(vectors), M=m, ef_construction=ef_construction, random_seed=7)
    index.add_items(vectors, num_threads=threads)
    return index


def prepared(metric, rows, queries):
    """Return what hnswlib is given, and what the walk is given, of rows and queries."""
    kind = Metric(metric)
    keys = Keys(rows, *kind.row_terms(rows, "rows"))
    ready, bias = kind.prepare(queries, "queries")
    unit = kind.prepare(rows, "rows")[0]
    return unit, keys, ready, bias


# ---- keys and heaps


@given(st.floats(width=32, allow_nan=False), st.integers(0, 2**31 - 1), st.floats(width=32, allow_nan=False))
@settings(deadline=None, max_examples=EXAMPLES)
def test_keys_sort_as_scores_do_then_by_the_smaller_row(score, row, other):
    a, b = key_of(np.float32(score), row), key_of(np.float32(other), row)
    assert (a < b, a == b) == (score < other, score == other)
    assert (score_of(a), row_of(a)) == (np.float32(score), row)
    if row:
        assert a < key_of(np.float32(score), row - 1)


def test_minus_zero_is_zero():
    assert key_of(np.float32(-0.0), 3) == key_of(np.float32(0.0), 3)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
@settings(deadline=None, max_examples=EXAMPLES)
def test_heap_sorts(values):
    heap = np.zeros((2, len(values)), np.int64)
    for size, value in enumerate(values):
        push(heap, 1, size, value)
    out = []
    for size in range(len(values) - 1, -1, -1):
        out.append(heap[1, 0])
        sink(heap, 1, size, heap[1, size])
    assert out == sorted(values, reverse=True)
    assert (heap[0] == 0).all()


# ---- against the reference


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "int8 x int8"])
@pytest.mark.parametrize("terms", ["plain", "scale", "bias"])
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=EXAMPLES)
def test_walk_equals_its_reference(kind, terms, data, seed):
    """Whole numbers: scores are exact, and ties are many."""
    if terms != "plain" and kind == "float16":
        return  # a compilation of its own, and nothing new
    rng = np.random.default_rng(seed)
    n, d, b = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    ef, k, e = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)), data.draw(st.integers(0, 3))
    whole = kind == "int8 x int8"
    rows = stored(rng.integers(-3, 4, (n, d)), "int8" if whole else kind)
    queries = rng.integers(-3, 4, (b, d)).astype(np.int8 if whole else np.float32)
    scale = 2.0 ** rng.integers(-2, 2, n) if terms == "scale" else None
    bias = rng.integers(-8, 8, n).astype(np.float64) if terms == "bias" else None
    adjacency = graph(rng, n)
    allowed = rng.random((2, n)) < rng.random()
    which = rng.integers(-1, 2, b)
    most = ef + data.draw(st.integers(0, 5))
    least = np.where(rng.random(b) < 0.5, np.inf, rng.integers(-10, 10, b))
    entries = rng.integers(-1, n, (b, e)).astype(np.int32)
    steps = data.draw(st.sampled_from([FOREVER, 0, 3]))
    factor = 2.0 ** rng.integers(-2, 2, b) if terms != "plain" else None
    args = queries, factor, rng.integers(-8, 8, b).astype(np.float64), rows, scale, bias, adjacency.links, ef
    args = *args, allowed, which, least.astype(np.float64), entries, steps
    got, want = outputs(b, k), outputs(b, k)
    work = walk_work(n, max(adjacency.width, e), most, lanes=data.draw(st.integers(1, 3)))
    kernels.walk(*args, work, *got)
    reference.walk(*args, most, *want)
    for mine, truth, name in zip(got, want, ("ids", "scores", "counts", "steps"), strict=True):
        assert mine.tolist() == truth.tolist(), name


@pytest.mark.parametrize("kind", ["float32", "int8 x int8"])
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=EXAMPLES)
def test_scan_equals_its_reference(kind, data, seed):
    """Whole numbers: scores are exact, and ties are many; chunks of int8 and what is left of them."""
    rng = np.random.default_rng(seed)
    n, d, b = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 70)), data.draw(st.integers(1, 4))
    k, whole, terms = data.draw(st.integers(1, 12)), kind != "float32", data.draw(st.booleans())
    rows = rng.integers(-3, 4, (n, d)).astype(np.int8 if whole else np.float32)
    queries = rng.integers(-3, 4, (b, d)).astype(rows.dtype)
    factor = 2.0 ** rng.integers(-2, 2, b) if terms else None
    scale, bias = (2.0 ** rng.integers(-2, 2, n), rng.integers(-8, 8, n).astype(np.float64)) if terms else (None, None)
    args = queries, factor, rng.integers(-8, 8, b).astype(np.float64), rows, scale, bias
    among = rng.permutation(n)[: data.draw(st.integers(0, n))]
    got, want = outputs(b, k)[:3], outputs(b, k)[:3]
    kernels.scan(*args, among, np.empty((b, k), np.int64), *got)
    reference.scan(*args, among, *want)
    for mine, truth in zip(got, want, strict=True):
        assert mine.tolist() == truth.tolist()


def test_whole_products_of_the_largest_numbers_are_exact():
    rng = np.random.default_rng(0)
    for d in (1, 31, 32, 33, 384, 500):
        rows = rng.choice(np.array([-128, -127, 127], np.int8), (9, d))
        got = outputs(2, 9)[:3]
        kernels.scan(rows[:2], None, np.zeros(2), rows, None, None, np.arange(9), np.empty((2, 9), np.int64), *got)
        truth = rows[:2].astype(np.int64) @ rows.astype(np.int64).T
        assert (got[1] == np.take_along_axis(truth, got[0], axis=1)).all()


def test_a_lane_forgets_after_255_epochs():
    """A mark of one byte comes round; what it marked must not."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-3, 4, (9, 2)).astype(np.float32)
    adjacency = graph(rng, 9)
    queries, work = np.repeat(rows, 70, axis=0), walk_work(9, adjacency.width, 9, lanes=1)
    b = len(queries)
    nothing = (
        np.empty((0, 1), np.bool_),
        np.full(b, -1),
        np.full(b, np.inf),
        np.empty((b, 0), np.int32),
        FOREVER,
    )
    got = outputs(b, 5)
    kernels.walk(queries, None, np.zeros(b), rows, None, None, adjacency.links, 5, *nothing, work, *got)
    for i in range(0, b, 70):
        assert (got[0][i : i + 70] == got[0][i]).all()


# ---- against hnswlib


def disagreement(index, walk, unit, ready, bias, ef, k, metric):
    """Return for how many queries other rows are found, equals (to 1e-5) aside."""
    index.set_ef(ef)
    labels, _ = index.knn_query(ready, k=k, num_threads=1)
    found = walk.query(ready, bias, k, ef=ef)
    assert (found.counts == k).all()

    def worth(ids):
        values = unit[ids].astype(np.float64)
        wide = ready[:, None].astype(np.float64)
        return np.sort(-((values - wide) ** 2).sum(2) if metric == "l2" else (values * wide).sum(2), axis=1)

    same = np.isclose(worth(labels.astype(np.int64)), worth(found.ids), rtol=1e-5, atol=1e-5).all(axis=1)
    return int((~same).sum())


def reached(adjacency):
    """Return how many rows the links lead to from the entry point."""
    seen, front = set(), {adjacency.links.entry}
    while front:
        seen |= front
        front = set(adjacency.links.level0[list(front)].ravel().tolist()) - seen - {-1}
    return len(seen)


@pytest.mark.skipif(SLOW, reason="graphs of real size")
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_walk_finds_what_hnswlib_finds(metric):
    """Several M, dimensions and sizes: at least 99.9 % of the queries, equals aside."""
    rng = np.random.default_rng(11)
    asked = wrong = 0
    for n, d, m in ((1, 3, 16), (2, 3, 16), (17, 2, 2), (300, 5, 4), (3_000, 7, 16), (4_000, 67, 8), (2_000, 384, 16)):
        rows = rng.standard_normal((n, d)).astype(np.float32)
        queries = rng.standard_normal((500, d)).astype(np.float32)
        unit, keys, ready, bias = prepared(metric, rows, queries)
        index = built(unit, metric, m, 60)
        walk = Over(Adjacency.from_index(index), keys)
        reachable = reached(Adjacency.from_index(index))
        for ef in (10, 50):
            k = min(10, n, reachable)
            asked += len(queries)
            wrong += disagreement(index, walk, unit, ready, bias, ef, k, metric)
    assert wrong <= asked / 1000


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_walk_over_equal_rows_returns_the_first_of_what_it_meets(metric):
    rows = np.ones((20, 3), np.float32)
    unit, keys, ready, bias = prepared(metric, rows, rows[:1])
    found = Over(Adjacency.from_index(built(unit, metric)), keys).query(ready, bias, 20, ef=20)
    count = found.counts[0]
    assert found.ids[0, :count].tolist() == sorted(found.ids[0, :count].tolist())
    assert len(set(found.scores[0, :count].tolist())) == 1


def test_deleted_rows_are_walked_through():
    """As hnswlib does it: marked rows lead on but are not found."""
    rng = np.random.default_rng(5)
    n = 60 if SLOW else 1_500
    rows = rng.standard_normal((n, 8)).astype(np.float32)
    index = built(rows, "l2")
    alive = np.ones(n, np.bool_)
    alive[rng.permutation(n)[: n // 2]] = False
    for row in np.flatnonzero(~alive):
        index.mark_deleted(row)
    index.set_ef(30)
    keys = Keys(rows, *Metric("l2").row_terms(rows, "rows"))
    ready, bias = Metric("l2").prepare(rng.standard_normal((50, 8)).astype(np.float32), "queries")
    found = Over(Adjacency.from_index(index), keys).query(ready, bias, 10, ef=30, allowed=alive[None])
    labels, _ = index.knn_query(ready, k=10, num_threads=1)
    assert alive[found.ids].all()
    assert (np.sort(found.ids) == np.sort(labels.astype(np.int64))).all(axis=1).mean() >= 0.98


def test_what_is_not_linked_is_not_found():
    """Two parts that no link joins: only the entry point's is found, and the walk ends."""
    level0 = np.array([[1, -1], [0, -1], [3, -1], [2, -1], [-1, -1]])
    adjacency = Adjacency(level0, np.empty((0, 1), np.int32), np.zeros(5, np.int64), 0)
    rows = np.eye(5, dtype=np.float32)
    walk = Over(adjacency, Keys(rows))
    found = walk.query(rows, np.zeros(5), 4, ef=4)
    assert (np.sort(found.ids[:, :2]) == [0, 1]).all()
    assert (found.ids[:, 2:] == -1).all()
    assert (found.counts == 2).all()
    there = walk.query(rows, np.zeros(5), 4, ef=4, entries=np.array([[2], [3], [4], [-1], [99]]))
    assert there.counts.tolist() == [2, 2, 1, 2, 2]
    assert there.ids[2].tolist() == [4, -1, -1, -1]


def test_nothing_is_found_in_nothing():
    adjacency = Adjacency.from_index(hnswlib.Index("l2", 3), rows=2)
    walk = Over(adjacency, Keys(np.ones((2, 3), np.float32)))
    found = walk.query(np.ones((4, 3), np.float32), np.zeros(4), 2, ef=10)
    assert (found.ids == -1).all()
    assert (found.scores == -np.inf).all()
    assert Over(adjacency, Keys(np.ones((2, 3), np.float32))).query(np.ones((0, 3), np.float32), np.zeros(0), 2, ef=2)


def test_more_links_than_rows_are_refused():
    with pytest.raises(ab.IndexCorruptError, match="the graph has 3 rows, but only 2 vectors are there"):
        Over(graph(np.random.default_rng(0), 3), Keys(np.ones((2, 3), np.float32))).query(
            np.ones((1, 3), np.float32), np.zeros(1), 1, ef=1
        )


# ---- promises


@pytest.fixture(scope="module")
def some():
    """A walk over a graph of hnswlib's, queries, and the rows."""
    rng = np.random.default_rng(3)
    n = 80 if SLOW else 2_000
    rows = rng.standard_normal((n, 11)).astype(np.float32)
    unit, keys, ready, bias = prepared("cosine", rows, rng.standard_normal((8 if SLOW else 131, 11)).astype(np.float32))
    return Over(Adjacency.from_index(built(unit, "cosine")), keys), ready, bias, unit


def same(a, b):
    for mine, theirs in zip(a, b, strict=True):
        assert mine.tobytes() == theirs.tobytes()


def test_any_split_of_a_batch_and_any_number_of_lanes_finds_the_same(some, monkeypatch):
    walk, queries, bias, _ = some
    whole = walk.query(queries, bias, 10, ef=40)
    same(walk.query(queries, bias, 10, ef=40), whole)
    for lanes in (1, 2, 3, 7):
        monkeypatch.setattr(walk_module, "LANES", lanes)
        fresh = Over(walk.adjacency, walk.keys)
        same(fresh.query(queries, bias, 10, ef=40), whole)
        for step in (1, 2, 5):
            parts = [
                fresh.query(queries[i : i + step], bias[i : i + step], 10, ef=40) for i in range(0, len(queries), step)
            ]
            same([np.concatenate(part) for part in zip(*parts, strict=True)], whole)


def test_threads_share_a_walk(some):
    walk, queries, bias, _ = some
    whole = walk.query(queries, bias, 10, ef=40)
    wrong = []

    def ask():
        for ef, n in ((40, 10), (60, 20), (40, 10)):
            found = walk.query(queries, bias, n, ef=ef)
            if ef == 40 and any(a.tobytes() != b.tobytes() for a, b in zip(found, whole, strict=True)):
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("share", [0.5, 0.05, 0.0])
def test_only_allowed_rows_come_back(some, share):
    walk, queries, bias, unit = some
    rng = np.random.default_rng(1)
    allowed = rng.random((3, len(unit))) < share
    which = rng.integers(-1, 3, len(queries))
    found = walk.query(queries, bias, 10, ef=40, allowed=allowed, which=which)
    plain = walk.query(queries, bias, 10, ef=40)
    shared = []
    for i, filter in enumerate(which):
        ids = found.ids[i, : found.counts[i]]
        if filter < 0:
            assert ids.tolist() == plain.ids[i].tolist()
            continue
        assert allowed[filter, ids].all()
        assert len(set(ids.tolist())) == len(ids) == min(10, allowed[filter].sum())
        passing = np.flatnonzero(allowed[filter])
        truth = passing[np.argsort(-(unit[passing] @ queries[i]))[: len(ids)]]
        shared.append(len(set(truth.tolist()) & set(ids.tolist())) / max(len(ids), 1))
    assert share == 0.0 or np.mean(shared) >= 0.95


def test_scan_finds_the_best_of_what_it_is_given(some):
    walk, queries, bias, unit = some
    among = np.flatnonzero(np.random.default_rng(0).random(len(unit)) < 0.3)
    found = scan(walk.keys, queries, bias, 5, among)
    truth = among[np.argsort(-(queries @ unit[among].T), axis=1)[:, :5]]
    assert (np.sort(found.ids) == np.sort(truth)).all(axis=1).mean() >= 0.99
    everywhere = walk.query(queries, bias, 5, ef=len(unit))  # the same bits as the walk's
    assert (scan(walk.keys, queries, bias, 5, np.arange(len(unit))).scores == everywhere.scores).mean() >= 0.99
    assert scan(walk.keys, queries, bias, 5, among[:2]).counts.tolist() == [2] * len(queries)
    assert (scan(walk.keys, queries, bias, 5, among[:0]).ids == -1).all()


def test_what_a_scan_costs_beside_a_walk():
    for row_bytes in (192, 1_536):
        assert scan_is_cheaper(0, 1_000, 50, row_bytes)
        assert not scan_is_cheaper(100_000, 100_000, 30, row_bytes)
        assert scan_is_cheaper(8_000, 80_000, 30, row_bytes)
        assert scan_is_cheaper(1_000, 10_000_000, 30, row_bytes)
        assert not scan_is_cheaper(5_000_000, 10_000_000, 30, row_bytes)


def test_one_filter_for_all(some):
    walk, queries, bias, unit = some
    allowed = np.zeros((1, len(unit)), np.bool_)
    allowed[0, 5] = True
    found = walk.query(queries, bias, 3, ef=10, allowed=allowed)
    assert (found.ids == [5, -1, -1]).all()


def test_least_finds_all_within_a_radius(some):
    walk, queries, bias, unit = some
    scores = queries @ unit.T
    least = np.sort(scores, axis=1)[:, -30].astype(np.float64) - 1e-6
    found = walk.query(queries, bias, 5, ef=10, least=least, most=60)
    recall = []
    for i in range(len(queries)):
        inside = set(np.flatnonzero(scores[i] >= least[i]).tolist())
        recall.append(len(inside & set(found.ids[i].tolist())) / len(inside))
    assert np.mean(recall) >= 0.97
    assert (walk.query(queries, bias, 5, ef=10, least=np.full(len(queries), np.inf), most=60).counts == 10).all()


def test_a_budget_of_steps_ends_a_walk(some):
    walk, queries, bias, _ = some
    free = walk.query(queries, bias, 10, ef=20)
    assert (free.steps >= 10).all()
    short = walk.query(queries, bias, 10, ef=20, max_steps=4)
    assert (short.steps == 5).all()
    assert (short.counts > 0).all()
    enough = walk.query(queries, bias, 10, ef=20, max_steps=int(free.steps.max()))
    same(enough, free)


def test_workspaces_are_kept_and_grow(some):
    walk, queries, bias, unit = some
    fresh = Over(walk.adjacency, walk.keys)
    fresh.query(queries[:1], bias[:1], 3, ef=5)
    (first,) = fresh._free
    fresh.query(queries[:1], bias[:1], 3, ef=4)
    assert fresh._free[0].found is first.found
    whole = fresh.query(queries, bias, 50, ef=50)  # more lanes and breadth
    wide = np.tile(np.arange(len(unit)), (len(queries), 1))[:, :70]
    fresh.query(queries, bias, 60, ef=60, entries=wide)  # longer lists
    same(fresh.query(queries, bias, 50, ef=50), whole)
    assert len(fresh._free) == 1


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_compressed_rows_find_nearly_the_same(some, kind):
    walk, queries, bias, unit = some
    plain = walk.query(queries, bias, 10, ef=40)
    if kind == "float16":
        found = Over(walk.adjacency, Keys(stored(unit, "float16"))).query(queries, bias, 10, ef=40)
    else:
        codes, whole = np.round(127 * unit).astype(np.int8), np.round(127 * queries).astype(np.int8)
        found = Over(walk.adjacency, Keys(codes)).query(whole, bias, 10, ef=40)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(found.ids.tolist(), plain.ids.tolist(), strict=True)]
    assert np.mean(shared) >= (0.99 if kind == "float16" else 0.8)


def test_int8_queries_have_a_scale_of_their_own():
    """Under l2 the product counts beside the biases: codes need their steps."""
    rng = np.random.default_rng(6)
    n = 60 if SLOW else 1_500
    rows, queries = rng.standard_normal((n, 16)).astype(np.float32), rng.standard_normal((20, 16)).astype(np.float32)
    unit, keys, ready, bias = prepared("l2", rows, queries)
    adjacency = Adjacency.from_index(built(unit, "l2"))
    step, steps = np.abs(rows).max() / 127, np.abs(queries).max(axis=1).astype(np.float64) / 127
    whole = Keys(np.round(rows / step).astype(np.int8), np.full(n, np.float64(step)), keys.bias)
    asked = np.round(queries / steps[:, None]).astype(np.int8)
    found = Over(adjacency, whole).query(asked, bias, 10, ef=50, query_scale=steps)
    plain = Over(adjacency, keys).query(ready, bias, 10, ef=50)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(found.ids.tolist(), plain.ids.tolist(), strict=True)]
    assert np.mean(shared) >= 0.9
    assert np.abs(found.scores - plain.scores).max() < 0.5


def test_read_only_rows_are_read_in_place(some):
    walk, queries, bias, _ = some
    frozen = [None if part is None else part.copy() for part in walk.keys]
    for part in frozen:
        if part is not None:
            part.flags.writeable = False
    again = Over(walk.adjacency, Keys(*frozen))
    same(again.query(queries, bias, 10, ef=40), walk.query(queries, bias, 10, ef=40))
