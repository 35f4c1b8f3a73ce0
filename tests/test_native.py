"""The native engine: our walk over hnswlib's links, beside hnswlib itself and exact search."""

import pickle
import threading
import time

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations import graph as graphs

Bridge = ab.AttentionVectorBridge
METRICS = ["cosine", "ip", "l2"]
N, DIM = 3_000, 16


def made(metric="cosine", n=N, payload=None, **options):
    rows = np.random.default_rng(2).standard_normal((n, DIM)).astype(np.float32)
    bridge = Bridge(DIM, metric, **{"threads": 1, "M": 8, "ef_construction": 80} | options)
    bridge.add(rows, payload=payload)
    return bridge, rows


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(3).standard_normal((400, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def pairs():
    """Both engines over the same graphs."""
    return {metric: (made(metric)[0], made(metric, engine="hnswlib")[0]) for metric in METRICS}


def walked(bridge):
    """Return whether a search walks, over how many rows."""
    graph = bridge._state.source
    native = graph.native(bridge._state.store.view)
    return None if native is None else native.bound


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_both_engines_find_the_same(pairs, queries, metric):
    native, hnsw = pairs[metric]
    assert (walked(native), walked(hnsw)) == (N, None)
    for options in ({}, {"candidates": 10}, {"candidates": 10, "k": 3}, {"offset": 4, "k": 2}):
        ours, theirs = native.search_batch(queries, **options), hnsw.search_batch(queries, **options)
        same = [a.ids == b.ids for a, b in zip(ours, theirs, strict=True)]
        assert np.mean(same) >= 0.997  # equals aside
        for a, b in zip(ours, theirs, strict=True):
            if a.ids == b.ids:
                np.testing.assert_allclose(a.distances, b.distances, atol=5e-5)
                np.testing.assert_allclose(a.scores, b.scores, atol=1e-12)


def test_l2_far_from_the_origin():
    """Where lengths are a thousand times the distances, order and distances are right to float32 of the distances."""
    rng = np.random.default_rng(4)
    rows = (rng.standard_normal((3_000, 8)) + 1_000.0).astype(np.float32)
    bridge = Bridge(8, "l2", threads=1)
    bridge.add(rows)
    assert walked(bridge) == 3_000
    for place in range(0, 3_000, 100):
        hits = bridge.search(rows[place], candidates=10)
        truth = ((rows.astype(np.float64) - rows[place]) ** 2).sum(axis=1)
        np.testing.assert_allclose(hits.distances, truth[hits.ids], rtol=1e-5)
        assert set(hits.ids) == set(np.argsort(truth)[:10].tolist())
        assert (hits.ids[0], hits.distances[0]) == (place, 0.0)


def test_ip_finds_long_rows_and_under_a_filter_short_ones():
    """Lengths spread over a factor of 10: the graph is built of rows whose lengths are drawn together."""
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((6_000, 24)).astype(np.float32)
    rows *= rng.uniform(1.0, 10.0, (6_000, 1)).astype(np.float32)
    bridge = Bridge(24, "ip", threads=1)
    bridge.add(rows)
    bridge.link()
    asked = rng.standard_normal((200, 24)).astype(np.float32)
    short = np.linalg.norm(rows, axis=1) < np.median(np.linalg.norm(rows, axis=1))

    def recall(filter):
        found = bridge.search_batch(asked, filter=filter)
        truth = bridge.search_batch(asked, filter=filter, exact=True)
        return np.mean([len(set(a.ids) & set(b.ids)) / 10 for a, b in zip(found, truth, strict=True)])

    assert walked(bridge) == 6_000
    assert recall(None) >= 0.98
    assert recall(short) >= 0.95


@pytest.mark.parametrize("options", [{"metric": "ip"}, {"attention": "poincare", "map": "expmap0"}])
def test_hnswlib_is_not_asked_where_it_orders_otherwise(queries, monkeypatch, options):
    """Its graph of ip is one of other lengths, that of poincare one of l2: both are walked, or rows are read."""
    bridge = Bridge(DIM, **options, threads=1, M=8, ef_construction=80)
    monkeypatch.setattr(bridge._state.source, "query", None)
    rows = np.random.default_rng(2).standard_normal((6_000, DIM)).astype(np.float32) / 2
    asked = queries[:20] / 2
    bridge.add(rows, wait=False)
    while bridge._state.source.has_work(bridge._state.store.view):
        found, truth = bridge.search_batch(asked), bridge.search_batch(asked, exact=True)
        shared = [len(set(a.ids) & set(b.ids)) / 10 for a, b in zip(found, truth, strict=True)]
        assert np.mean(shared) >= 0.6
    assert walked(bridge) == 6_000


@pytest.mark.parametrize("metric", METRICS)
def test_alone_in_a_batch_and_in_any_number_of_threads(pairs, queries, metric):
    bridge = pairs[metric][0]
    rng = np.random.default_rng(1)
    filters = [None, rng.random(N) < 0.5, rng.random(N) < 0.02, list(range(7))]
    mixed = [filters[i % 4] for i in range(60)]
    for options in ({}, {"ef": 37, "candidates": 12}, {"radius": 0.5}):
        whole = bridge.search_batch(queries[:60], filter=mixed, **options)
        assert bridge.search_batch(queries[:60], filter=mixed, threads=3, **options) == whole
        assert bridge.search_batch(queries[:60], filter=mixed, **options) == whole
        assert [bridge.search(q, filter=f, **options) for q, f in zip(queries, mixed, strict=False)] == whole


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("share", [0.7, 0.3, 0.1, 0.01, 0.0])
def test_filters_are_followed_in_the_walk(pairs, queries, metric, share):
    bridge = pairs[metric][0]
    mask = np.random.default_rng(5).random(N) < share
    found = bridge.search_batch(queries[:100], filter=mask)
    truth = bridge.search_batch(queries[:100], filter=mask, exact=True)
    assert all(len(a) == len(b) and mask[a.ids].all() for a, b in zip(found, truth, strict=True))
    assert (
        share == 0.0
        or np.mean([len(set(a.ids) & set(b.ids)) / len(b) for a, b in zip(found, truth, strict=True)]) >= 0.97
    )


def test_deletes_act_at_once_and_k_hits_come_back(queries):
    bridge, rows = made()
    gone = list(range(0, N, 2))
    before = walked(bridge)
    bridge.delete(gone)
    assert walked(bridge) == before
    for hits in bridge.search_batch(queries[:50]):
        assert len(hits) == 10
        assert not set(hits.ids) & set(gone)
    bridge.add(rows[:1], ids=[0])
    assert bridge.search(rows[0], k=1).ids == [0]


def test_a_tail_is_merged_and_the_links_are_read_out_again_after_linking(queries):
    bridge, _ = made()
    more = queries[:100]
    bridge.add(more, ids=range(10_000, 10_100))
    assert walked(bridge) == N  # too few to be linked
    assert [hits.ids[0] for hits in bridge.search_batch(more)] == list(range(10_000, 10_100))
    bridge.link()
    assert walked(bridge) == N + 100
    assert [hits.ids[0] for hits in bridge.search_batch(more)] == list(range(10_000, 10_100))


def test_hnswlib_answers_while_the_walk_is_far_behind(queries, monkeypatch):
    bridge, _ = made()
    graph = bridge._state.source
    monkeypatch.setattr(graphs, "_REFRESHING", 1e-9)  # not for a long time
    monkeypatch.setattr(graph, "_refreshed", graph._refreshed)
    rows = np.random.default_rng(9).standard_normal((2_000, DIM)).astype(np.float32)
    bridge.add(rows[:900])
    assert (graph.linked, walked(bridge)) == (3_900, 3_000)  # the others are read
    assert [hits.ids[0] for hits in bridge.search_batch(rows[:900:9])] == list(range(3_000, 3_900, 9))
    bridge.add(rows[900:])
    assert (graph.linked, walked(bridge)) == (5_000, None)
    assert [hits.ids[0] for hits in bridge.search_batch(rows[::20])] == list(range(3_000, 5_000, 20))
    bridge.link()
    assert walked(bridge) == 5_000


def test_a_search_of_an_older_state_does_not_meet_newer_rows(queries):
    bridge, rows = made()
    older = bridge._snapshot()
    bridge.add(rows + 1e-3)
    bridge.link()
    assert walked(bridge) == 2 * N
    assert walked(older) is None
    for hits in older.search_batch(rows[:20]):
        assert max(hits.ids) < N
        assert len(hits) == 10


@pytest.mark.parametrize("metric", METRICS)
def test_all_within_a_radius(pairs, queries, metric):
    bridge = pairs[metric][0]
    for query in queries[:20]:
        every = bridge.search(query, k=200, exact=True)
        radius = float(every.distances[150])
        truth = set(bridge.search(query, radius=radius, exact=True).ids)
        found = bridge.search(query, radius=radius)
        assert (found.distances <= radius).all()
        assert len(truth & set(found.ids)) >= 0.95 * len(truth)


def test_ef_widens_the_search(queries):
    bridge, _ = made(ef=10)
    truth = [set(hits.ids) for hits in bridge.search_batch(queries, exact=True)]

    def recall(**options):
        found = bridge.search_batch(queries, candidates=10, **options)
        return np.mean([len(set(hits.ids) & true) / 10 for hits, true in zip(found, truth, strict=True)])

    assert recall() < recall(ef=40) < recall(ef=200)
    assert recall(ef=10) <= recall()  # which looks for one more, to see ties
    for value, got in ((0, "0"), (2.5, "2.5"), ("a", "'a'")):
        with pytest.raises(ab.InvalidConfigError, match=f"ef must be a whole number >= 1, got {got}"):
            bridge.search(queries[0], ef=value)


def test_entry_points_are_where_the_walk_begins(queries):
    """Two clusters that no link joins: only from within is the other found."""
    rng = np.random.default_rng(0)
    far = np.concatenate([rng.standard_normal((600, 4)), 1e3 + rng.standard_normal((600, 4))]).astype(np.float32)
    bridge = Bridge(4, "l2", threads=1, M=2, ef_construction=10, ef=10)
    bridge.add(far)
    graph = bridge._state.source
    level0 = graph._native.walk.adjacency.links.level0
    level0[np.arange(1_200)[:, None] // 600 != level0 // 600] = -1
    for row in level0:
        row[:] = np.concatenate([row[row >= 0], row[row < 0]])
    entry = graph._native.walk.adjacency.links.entry
    other = 1_199 if entry < 600 else 0
    near, there = far[other], [other, 5_000]
    steps = {"candidates": 5, "k": 5, "ef": 5}
    assert bridge.search(near, entry_points=there, **steps).ids[0] == other
    lists = [None, there, []]
    found = bridge.search_batch([near] * 3, entry_points=lists, **steps)
    assert found[1].ids[0] == other
    assert found[0] == found[2] == bridge.search(near, **steps)


def test_what_only_a_walk_can_follow_is_refused_elsewhere(queries):
    hnsw = Bridge(DIM, engine="hnswlib")
    exact = Bridge(DIM, index="exact")
    for bridge, name in ((hnsw, "index='hnsw' and engine='hnswlib'"), (exact, "index='exact'")):
        for option in ({"ef": 10}, {"entry_points": [1]}):
            message = f"{next(iter(option))} can be given where the engine is 'native' only.* this bridge has {name}"
            with pytest.raises(ab.InvalidConfigError, match=message):
                bridge.search(queries[0], **option)
    bridge = Bridge(DIM)
    for given in ("ab", 3, [["a"]]):
        with pytest.raises(ab.InvalidInputError, match="entry_points must have a list of ids for each of 2 queries"):
            bridge.search_batch(queries[:2], entry_points=given)
    with pytest.raises(ab.InvalidInputError, match=r"ids must be str or int: position 0 is 1\.5"):
        bridge.search(queries[0], entry_points=[1.5])
    with pytest.raises(ab.InvalidConfigError, match="engine must be one of hnswlib, native; got 'fast'"):
        Bridge(DIM, engine="fast")
    with pytest.raises(ab.InvalidConfigError, match="engine can be given for index='hnsw' only, got index='exact'"):
        Bridge(DIM, index="exact", engine="native")


def test_a_time_budget_ends_the_walk(queries):
    bridge, _ = made()
    whole = bridge.search(queries[0], k=5)
    free = bridge.search(queries[0], k=5, time_budget=60.0)
    assert (free, free.complete) == (whole, True)
    bridge._state.source.pace = 10.0  # rows in a second
    short = bridge.search(queries[0], k=5, ef=3_000, candidates=10, time_budget=1.5)
    assert (len(short), short.complete) == (5, False)
    bridge._state.source.pace = 1.0
    read = bridge.search(queries[0], k=5, candidates=2_000, time_budget=60.0)  # too few found, and time to read all
    assert (read.ids, read.complete) == (bridge.search(queries[0], k=5, exact=True).ids, True)


def test_huge_queries_and_rows_are_read_exactly():
    for scale in (1e25, 1e37):
        rows = (np.random.default_rng(0).standard_normal((400, 4)) * scale).astype(np.float32)
        bridge = Bridge(4, "ip", threads=1)
        bridge.add(rows)
        bridge.link()
        for query in rows[:10]:
            assert bridge.search(query).ids == bridge.search(query, exact=True).ids


# ---- freeze and thaw


def test_a_frozen_bridge_is_searched_but_not_written_to(queries, tmp_path):
    bridge, rows = made(payload={"n": np.arange(N)})
    before = bridge.search_batch(queries)
    size = bridge.memory()["graph"]
    bridge.add(rows[:10], ids=range(10_000, 10_010), payload={"n": np.zeros(10, int)})
    bridge.delete(list(range(10_000, 10_010)))
    bridge.freeze()
    assert bridge.config["frozen"]
    assert bridge.memory()["graph"] < size - 4 * DIM * N
    assert [hits.ids for hits in bridge.search_batch(queries)] == [hits.ids for hits in before]
    copies = [pickle.loads(pickle.dumps(bridge))]
    bridge.save(tmp_path)
    copies += [Bridge.open(tmp_path), Bridge.open(tmp_path, mmap=False, verify="lazy")]
    truth = bridge.search_batch(queries)
    for copy in (bridge, *copies):
        for write in (
            lambda copy=copy: copy.add(rows[:1]),
            lambda copy=copy: copy.delete(0),
            lambda copy=copy: copy.set_payload(0, {"n": 5}),
            lambda copy=copy: copy.clear(),
            lambda copy=copy: copy.compact(),
        ):
            with pytest.raises(ab.InvalidConfigError, match=r"a frozen bridge cannot be written to: thaw\(\) it first"):
                write()
        assert copy.search_batch(queries) == truth
        assert len(copy._state.source.index) == 0
        copy.thaw()
        assert copy.add(rows[:300] + 0.1, ids=range(20_000, 20_300)) == list(range(20_000, 20_300))
        copy.delete([0, 20_001])
        assert len(copy) == N + 298
        assert copy.search(rows[7] + 0.1, k=1).ids == [20_007]
        copy.freeze()
        copy.freeze()
        assert copy.search(rows[9] + 0.1, k=1).ids == [20_009]
        assert not {0, 20_001} & set(copy.search(rows[0], k=100).ids)


def test_freezing_an_empty_or_small_or_exact_bridge(queries):
    for options in ({}, {"index": "exact"}):
        bridge = Bridge(DIM, **options)
        bridge.freeze()
        assert len(bridge.search(queries[0])) == 0
        bridge.thaw()
        bridge.add(queries[:20])
        bridge.freeze()
        assert bridge.search(queries[3], k=1).ids == [3]


def test_what_cannot_be_frozen():
    with pytest.raises(ab.InvalidConfigError, match="engine must be 'native' for freeze, got 'hnswlib'"):
        Bridge(2, engine="hnswlib").freeze()

    class Mine:
        dim = 2

        def add(self, vectors, labels): ...
        def remove(self, labels): ...
        def query(self, queries, n): ...
        def __len__(self):
            return 0

    with pytest.raises(ab.InvalidConfigError, match="index must be 'hnsw' or 'exact' for freeze, got a Mine"):
        Bridge(2, index=Mine()).freeze()


def test_one_graph_whether_it_was_made_or_read(queries, tmp_path):
    """Links read out of hnswlib and put back give the same index."""
    bridge, rows = made("l2")
    bridge.delete([3, 4])
    bridge.save(tmp_path)
    opened = Bridge.open(tmp_path)
    opened.add(rows[:300] + 1.0)
    a, b = bridge._state.source.index, opened._state.source.index
    assert (len(a), len(b)) == (N - 2, N + 298)
    fresh = Bridge.open(tmp_path)
    fresh._state.source._load(fresh._state.store.view)
    labels, distances = fresh._state.source.index.query(queries, 20)
    truth, near = a.query(queries, 20)
    assert (labels == truth).all()
    assert (distances == near).all()


# ---- a second search with the expanded query


@pytest.mark.parametrize("engine", ["native", "hnswlib"])
def test_research_finds_what_the_expanded_query_finds(queries, engine):
    bridge, rows = made(engine=engine)
    stage = ab.QueryExpansion(top=5, scale=10.0, mix=0.8, research=True)
    new = 0
    for query in queries[:40]:
        hits = bridge.search(query, candidates=20, rerank=stage)
        first = bridge.search(query, k=20, candidates=20)
        unit = query / np.linalg.norm(query)
        near = np.array([rows[i] / np.linalg.norm(rows[i]) for i in first.ids[:5]], np.float64)
        weights = np.exp(10 * (near @ unit))
        expanded = 0.2 * unit + 0.8 * (weights / weights.sum()) @ near
        truth = bridge.search(expanded, k=10, exact=True)
        assert len(set(hits.ids) & set(truth.ids)) >= 9
        both = [i for i in hits.ids if i in truth.ids]
        scores = dict(zip(truth.ids, truth.scores, strict=True))
        np.testing.assert_allclose([hits.scores[hits.ids.index(i)] for i in both], [scores[i] for i in both], rtol=1e-4)
        # what the first search had not found has no rank and no part from it, but its distance from the query
        for place, id in enumerate(hits.ids):
            there = id in first.ids
            assert (hits.ranks_before[place] >= 0) == there
            assert np.isnan(hits.parts["scaled_dot"][place]) == (not there)
            new += not there
        cosines = [1 - unit @ rows[i] / np.linalg.norm(rows[i]) for i in hits.ids]
        np.testing.assert_allclose(hits.distances, cosines, atol=1e-5)
    assert new > 20
    batch = bridge.search_batch(queries[:10], candidates=20, rerank=stage)
    again = [bridge.search(query, candidates=20, rerank=stage) for query in queries[:10]]
    assert [hits.ids for hits in batch] == [hits.ids for hits in again]
    np.testing.assert_array_equal([hits.scores for hits in batch], [hits.scores for hits in again])


def test_research_keeps_to_filters_radius_and_the_document_itself(queries):
    bridge, _ = made()
    stage = ab.QueryExpansion(mix=0.9, research=True)
    allowed = list(range(0, N, 3))
    for query in queries[:10]:
        assert set(bridge.search(query, filter=allowed, candidates=20, rerank=stage).ids) <= set(allowed)
        hits = bridge.search(query, radius=0.4, rerank=stage)
        assert (hits.distances <= 0.4).all()
    assert 17 not in bridge.search(id=17, candidates=20, rerank=stage).ids


def test_research_needs_an_index_and_a_bool():
    with pytest.raises(ab.InvalidConfigError, match="research must be True or False, got 1"):
        ab.QueryExpansion(research=1)
    from attnbridge.metric import Keys, Metric
    from attnbridge.rerank import Pool
    from attnbridge.scoring import resolve

    row, options = resolve("scaled_dot", {})
    one = np.ones((1, 2), np.float32)
    pool = Pool(one[0], 0.0, Metric("ip"), Keys(one), np.zeros(1, np.int64), np.zeros(1), row, options)
    with pytest.raises(ab.InvalidConfigError, match="research must be False for a pool without an index to search"):
        ab.QueryExpansion(research=True).apply(pool)


class Rows:
    """A stage that leaves other rows."""

    name, requires_tokens = "rows", False

    def __init__(self, rows):
        self.rows = rows

    def apply(self, pool):
        pool.rows = np.array(self.rows)
        pool.scores = np.arange(len(self.rows), dtype=np.float64)


def test_a_stage_may_leave_other_rows(queries):
    bridge, _ = made(n=400)
    hits = bridge.search(queries[0], rerank=[Rows([5, 300, 7]), ab.QueryExpansion()])
    assert set(hits.ids) == {5, 7, 300}
    assert bridge.search(queries[0], rerank=Rows([])).ids == []
    bridge.delete(7)
    for rows, message in (
        ([1, 1], "must leave distinct row numbers"),
        ([0.5], "must leave distinct row numbers"),
        ([7], "must leave rows of the search"),
        ([400], "must leave rows of the search"),
        ([-1], "must leave rows of the search"),
    ):
        with pytest.raises(ab.InvalidInputError, match=f"stage 'rows' {message}"):
            bridge.search(queries[0], rerank=Rows(rows))


# ---- threads


def test_searches_go_on_while_rows_are_linked_and_links_are_read(queries):
    bridge, rows = made(n=1_000)
    more = np.random.default_rng(8).standard_normal((4_000, DIM)).astype(np.float32)
    failures, done = [], threading.Event()

    def search():
        while not done.is_set():
            for place in range(0, 1_000, 97):
                if bridge.search(rows[place], k=1).ids != [place]:
                    failures.append(place)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for start in range(0, 4_000, 500):
            ids = bridge.add(more[start : start + 500])
            if bridge.search(more[start + 3], k=1).ids != [ids[3]]:
                failures.append(ids[3])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    bridge.link()
    assert walked(bridge) == 5_000


# ---- what a reviewer found


def test_a_thawed_bridge_is_read_back_with_its_journal(tmp_path):
    bridge = Bridge(4)
    bridge.add(np.eye(4))
    bridge.freeze()
    bridge.save(tmp_path)
    reader = Bridge.open(tmp_path)
    with Bridge.open(tmp_path, journal=True) as writer:
        writer.thaw()
        writer.add([[1.0, 1.0, 1.0, 1.0]], [9])
    assert reader.reload()
    for opened in (reader, Bridge.open(tmp_path)):
        assert (opened.ids(), opened.config["frozen"]) == ([0, 1, 2, 3, 9], False)


def test_what_was_emptied_is_frozen_saved_and_opened(tmp_path):
    for ending in (Bridge.freeze, Bridge.link):
        bridge = Bridge(4)
        bridge.add(np.eye(4))
        bridge.delete([0, 1, 2, 3])
        ending(bridge)
        bridge.save(tmp_path)
        opened = Bridge.open(tmp_path)
        assert (len(opened), opened.search([1, 0, 0, 0]).ids) == (0, [])
        opened.thaw()
        opened.add(np.eye(4), ids=range(4))
        opened.link()
        assert opened.search([0, 0, 1, 0], k=1).ids == [2]


def test_freezing_does_not_wait_for_writers_that_never_rest():
    bridge, done = Bridge(8, threads=1), threading.Event()
    rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)

    def write():
        while not done.is_set():
            try:
                bridge.add(rows, wait=False)
            except ab.InvalidConfigError:
                return

    thread = threading.Thread(target=write)
    thread.start()
    while len(bridge) < 2_000:
        time.sleep(0.001)
    try:
        bridge.freeze(progress=False)
    finally:
        done.set()
        thread.join()
    assert bridge.config["frozen"]
    assert walked(bridge) == len(bridge)


COMPRESSED = [{"dtype": "int8", "index_dim": 5}, {"dtype": "int8"}, {"dtype": "float16"}] + [
    {"dtype": dtype, "keep_full": False} for dtype in ("int8", "float16")
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("options", COMPRESSED)
def test_all_within_a_radius_by_the_full_rows(metric, options):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((10_500, 8)).astype(np.float32)
    bridge = Bridge(8, metric, M=8, ef_construction=40, **options)
    bridge.add(rows)
    assert (bridge.memory()["codes"] > 0) == ("keep_full" not in options)
    recall = []
    for query in rng.standard_normal((10, 8)):
        radius = float(bridge.search(query, k=200, exact=True).distances[-1])
        truth = bridge.search(query, radius=radius, exact=True)
        for filter in (None, np.arange(10_500) % 3 > 0):
            truth = bridge.search(query, radius=radius, exact=True, filter=filter)
            found = bridge.search(query, radius=radius, filter=filter)
            recall.append(len(set(found.ids) & set(truth.ids)) / len(truth))
            assert (found.distances <= radius).all()
    assert np.mean(recall) >= 0.93


@pytest.mark.parametrize("options", [{}, *COMPRESSED[1:]])
def test_rows_behind_many_equal_ones_are_found(options):
    """A walk that meets nothing but equals of its last hit is not believed, whatever the rows are walked by."""
    rng = np.random.default_rng(1)
    rows = np.concatenate([np.ones((10_000, 8)), rng.standard_normal((1_000, 8))]).astype(np.float32)
    bridge = Bridge(8, **options)
    bridge.add(rows, progress=False)
    alone = sum(place in bridge.search(rows[place], k=5).ids for place in range(10_000, 11_000, 50))
    assert alone >= 18
    assert bridge.search(rows[0], k=5).ids == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("options", [{}, {"dtype": "int8", "index_dim": 16}, {"dtype": "int8"}])
def test_filters_far_from_the_query(options):
    """The walk is given up, and codes that cannot tell are not believed."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((10_500, 32)).astype(np.float32)
    bridge = Bridge(32, M=8, ef_construction=40, threads=1, **options)
    bridge.add(rows)
    query = rng.standard_normal(32)
    order = np.argsort(rows @ query / np.linalg.norm(rows, axis=1))
    for share in (0.5, 0.1):
        mask = np.zeros(10_500, bool)
        mask[order[: int(share * 10_500)]] = True
        hits = bridge.search(query, filter=mask)
        truth = bridge.search(query, filter=mask, exact=True)
        assert len(set(hits.ids) & set(truth.ids)) >= 9
        np.testing.assert_allclose(hits.distances, truth.distances, atol=1e-3)


def test_ef_is_as_broad_as_was_asked_for(queries):
    """With as many candidates, as broad a walk as hnswlib's; and no more candidates than it finds by default."""
    bridge, _ = made()
    native = bridge._state.source._native.walk
    view = bridge._state.store.view
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    plain = native.query(view.keys, unit, np.zeros(len(unit)), 10, ef=10)
    for hits, ids in zip(bridge.search_batch(queries, k=10, ef=10), plain.ids, strict=True):
        assert set(hits.ids) == set(ids.tolist())
        assert hits.candidates == 10
    assert bridge.search(queries[0], k=3, ef=500).candidates == 100


def test_entry_points_as_arrays(queries):
    bridge, _ = made()
    lists = bridge.search_batch(queries[:2], entry_points=[[1, 2], [3, 4]])
    assert bridge.search_batch(queries[:2], entry_points=np.array([[1, 2], [3, 4]])) == lists
    assert bridge.search(queries[0], entry_points=np.array([1, 2])) == lists[0]


def test_dtypes_of_numpy_are_taken():
    config = Bridge(4, dtype=np.dtype("int8")).config
    assert (config["dtype"], type(config["dtype"])) == ("int8", str)
    for wrong in (np.dtype("int16"), 8, None):
        with pytest.raises(ab.InvalidConfigError, match="dtype must be one of float16, float32, int8; got"):
            Bridge(4, dtype=wrong)
