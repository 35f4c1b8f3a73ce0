"""Bridges over hnswlib indexes that exist already, and over candidate sources of one's own."""

import hnswlib
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations import CandidateSource, ExactIndex

Bridge = ab.AttentionVectorBridge
METRICS = ("cosine", "ip", "l2")


def similarity(metric, query, rows):
    """One value a row, higher is nearer."""
    q, x = np.asarray(query, np.float64), np.asarray(rows, np.float64)
    if metric == "l2":
        return -0.5 * ((x - q) ** 2).sum(axis=1)
    if metric == "cosine":
        q, x = q / np.sqrt((q**2).sum()), x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return x @ q


def best_first(scores, ids):
    """Positions by descending score, ties by position."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], i))


def rows_of(rng, n=120, d=7):
    return rng.standard_normal((n, d)).astype(np.float32)


def filled(rng, metric="cosine", index="hnsw", n=120, d=7, ids=None, **options):
    rows = rows_of(rng, n, d)
    bridge = Bridge(dim=d, metric=metric, index=index, **options)
    bridge.add(rows, ids=ids)
    return bridge, rows


# ---- from_hnswlib


def given_index(space, rows, labels=None, **options):
    index = hnswlib.Index(space, rows.shape[1])
    index.init_index(len(rows) + 10, random_seed=3, **options)
    index.add_items(rows, labels, num_threads=1)
    return index


@pytest.mark.parametrize("metric", METRICS)
def test_from_hnswlib_reuses_the_graph(rng, metric):
    rows = rows_of(rng, 2000, 12)
    labels = rng.permutation(10**6)[:2000] + 7
    index = given_index(metric, rows, labels, M=5, ef_construction=10)  # a poor graph: a new one would answer otherwise
    before = index.__getstate__()[0]
    bridge = Bridge.from_hnswlib(index)
    assert bridge.config["metric"] == metric
    assert (bridge.config["M"], bridge.config["ef_construction"], bridge.config["index"]) == (5, 10, "hnsw")
    assert bridge.ids() == np.arange(2000)[np.argsort(np.argsort(labels))].tolist() or sorted(bridge.ids()) == sorted(
        labels.tolist()
    )
    index.set_ef(100)
    queries = rng.standard_normal((50, 12)).astype(np.float32)
    peer, distances = index.knn_query(queries, k=10)
    exact = 0
    for query, expected, near, hits in zip(queries, peer, distances, bridge.search_batch(queries), strict=True):
        ten = bridge.search(query, k=10, candidates=10)
        assert set(ten.ids) == set(expected.tolist())
        np.testing.assert_allclose(np.sort(ten.distances), near, rtol=1e-4, atol=1e-5)
        exact += set(hits.ids) == set(bridge.search(query, exact=True).ids)
    assert exact < 50  # or this test cannot tell one graph from another
    after = index.__getstate__()[0]
    assert all(np.array_equal(before[name], after[name]) for name in before if name != "ef")


@pytest.mark.parametrize("metric", METRICS)
def test_from_hnswlib_with_deleted_rows(rng, metric):
    rows = rows_of(rng, 60, 4)
    index = given_index(metric, rows, np.arange(60) * 3)
    for label in (0, 30, 177):
        index.mark_deleted(label)
    bridge = Bridge.from_hnswlib(index)
    assert len(bridge) == 57
    assert set(bridge.ids()) == set(range(0, 180, 3)) - {0, 30, 177}
    assert bridge.search(rows[10], k=60).ids == [
        3 * i for i in best_first(similarity(metric, rows[10], rows), range(60)) if 3 * i not in (0, 30, 177)
    ]
    bridge.add(rows[:1], ids=[0])
    assert bridge.search(rows[0], k=1, exact=True).ids == ([0] if metric != "ip" else bridge.search(rows[0], k=1).ids)
    assert len(index.get_ids_list()) == 60
    stored = bridge.get(3)
    np.testing.assert_allclose(stored, rows[1] / np.linalg.norm(rows[1]) if metric == "cosine" else rows[1], rtol=1e-6)


def test_from_hnswlib_with_vectors_and_ids(rng):
    rows = rows_of(rng, 40, 4)
    order = rng.permutation(40)
    index = given_index("cosine", rows[order], order)  # inserted in another order than that of the labels
    names = [f"n{i}" for i in range(40)]
    bridge = Bridge.from_hnswlib(index, vectors=5 * rows, ids=names, scale=3.0)
    assert bridge.get(names).tobytes() == (5 * rows).tobytes()
    assert bridge.search(rows[8], k=1).ids == ["n8"]
    assert bridge.search(rows[8], k=1).scores[0] == pytest.approx(3.0)
    assert bridge.config["options"] == {"scale": 3.0}
    bridge.add(rows[:1], ids=["n0"])
    assert len(bridge) == 40


def test_from_hnswlib_then_write_and_save(rng, tmp_path):
    rows = rows_of(rng, 300, 4)
    index = given_index("l2", rows[:200])
    bridge = Bridge.from_hnswlib(index)
    bridge.add(rows[200:])
    bridge.delete([5])
    assert index.get_current_count() == 200
    bridge.save(tmp_path / "x")
    again = Bridge.open(tmp_path / "x")
    for query in rows[:20]:
        assert again.search(query) == bridge.search(query)
    assert [h.ids[0] for h in again.search_batch(rows, k=1)][6:] == list(range(6, 300))


def test_from_hnswlib_empty():
    started = hnswlib.Index("l2", 3)
    started.init_index(5)
    for index in (hnswlib.Index("l2", 3), started):
        bridge = Bridge.from_hnswlib(index)
        assert (len(bridge), bridge.config["metric"]) == (0, "l2")
        assert bridge.search([1.0, 2.0, 3.0]).ids == []
        assert bridge.add([[1.0, 2.0, 3.0]]) == [0]


def test_from_hnswlib_refusals(rng):
    rows = rows_of(rng, 10, 4)
    index = given_index("l2", rows)
    with pytest.raises(ab.InvalidInputError, match=r"index must be an hnswlib\.Index, got str"):
        Bridge.from_hnswlib("index.bin")
    with pytest.raises(ab.InvalidInputError, match="vectors must have a row for each of 10 labels, got 9"):
        Bridge.from_hnswlib(index, vectors=rows[:9])
    with pytest.raises(ab.DimensionMismatchError, match="vectors must have dimension 4, got 3"):
        Bridge.from_hnswlib(index, vectors=rows[:, :3])
    with pytest.raises(ab.DimensionMismatchError, match="one entry for each of 10 vectors, got 2"):
        Bridge.from_hnswlib(index, ids=["a", "b"])
    with pytest.raises(ab.InvalidInputError, match="ids must be distinct"):
        Bridge.from_hnswlib(index, ids=["a"] * 10)
    bad = given_index("l2", np.where(np.arange(10)[:, None] == 6, np.nan, rows), np.arange(10) + 100)
    with pytest.raises(ab.InvalidInputError, match="index must hold finite vectors: that of label 106"):
        Bridge.from_hnswlib(bad)
    bad.mark_deleted(106)
    assert len(Bridge.from_hnswlib(bad)) == 9


# ---- a source of one's own


class BruteForce:
    """The least that a CandidateSource can be."""

    def __init__(self, dim):
        self.dim = dim
        self.rows = {}
        self.spoil = lambda labels, distances: (labels, distances)

    def add(self, vectors, labels):
        self.rows |= dict(zip(labels.tolist(), np.array(vectors, np.float64), strict=True))

    def remove(self, labels):
        for label in labels:
            del self.rows[label]

    def query(self, queries, n):
        out = np.full((len(queries), n), -1), np.full((len(queries), n), np.inf)
        names = np.array(list(self.rows), np.int64)
        data = np.array(list(self.rows.values()))
        for i, query in enumerate(queries):
            near = ((data - query) ** 2).sum(axis=1)
            best = np.argsort(near)[:n]
            out[0][i, : len(best)], out[1][i, : len(best)] = names[best], near[best]
        return self.spoil(*out)

    def __len__(self):
        return len(self.rows)


def test_custom_source(rng, tmp_path):
    source = BruteForce(7)
    assert isinstance(source, CandidateSource)
    bridge, rows = filled(rng, "l2", index=source)
    plain, _ = filled(np.random.default_rng(7), "l2", index="exact")
    assert bridge.get(range(120)).tobytes() == plain.get(range(120)).tobytes()
    for each in (bridge, plain):
        each.delete([3, 9])
        each.add(rows[:2] + 1, ids=[0, 500])
    assert len(source) == 119
    for query in rng.standard_normal((20, 7)):
        for options in ({}, {"candidates": 10}, {"filter": list(range(100))}, {"rerank": ab.QueryExpansion()}):
            ours, theirs = bridge.search(query, **options), plain.search(query, **options)
            assert ours.ids == theirs.ids
            np.testing.assert_allclose(ours.distances, theirs.distances, rtol=1e-4, atol=1e-5)
    assert bridge.config["index"] == "custom"
    with pytest.raises(ab.InvalidConfigError, match="index must be 'hnsw' or 'exact' for save, got a BruteForce"):
        bridge.save(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_custom_source_refusals():
    with pytest.raises(ab.InvalidConfigError, match="index must have dim=7, got 8"):
        Bridge(dim=7, index=BruteForce(8))
    used = ExactIndex(7)
    used.add(np.ones((2, 7)), [0, 1])
    with pytest.raises(ab.InvalidConfigError, match="index must be empty, got one with 2 rows"):
        Bridge(dim=7, index=used)
    for bad in (None, 5, dict, []):
        with pytest.raises(ab.InvalidConfigError, match="index must be 'auto', 'hnsw', 'exact' or a CandidateSource"):
            Bridge(dim=7, index=bad)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda labels, distances: (labels + 1000, distances), "label 1.* but only 120 rows were added"),
        (lambda labels, distances: (labels.astype(float), distances), "whole-number labels"),
        (lambda labels, distances: (labels[:, :3], distances), r"of shape \(1, 20\), got int64 \(1, 3\)"),
        (lambda labels, distances: (labels, distances[:, :3]), r"of shape \(1, 20\)"),
        (lambda labels, distances: (labels[0], distances[0]), r"of shape \(1, 20\)"),
        (lambda labels, distances: (labels * 0 + 5, distances), "returned label 5 twice for one query"),
    ],
)
def test_a_source_that_breaks_the_protocol_is_told(rng, spoil, message):
    source = BruteForce(7)
    bridge, rows = filled(rng, "l2", index=source)
    source.spoil = spoil
    with pytest.raises(ab.IndexCorruptError, match=message):
        bridge.search(rows[0], candidates=20)


@pytest.mark.parametrize("kind", ["gaps", "negative", "unsigned", "short", "list"])
def test_a_sloppy_source_does_no_harm(rng, kind):
    source = BruteForce(7)
    bridge, rows = filled(rng, "l2", index=source)
    expected = bridge.search(rows[0], k=10, candidates=20)

    def spoil(labels, distances):
        if kind == "gaps":
            labels[:, ::2] = -1
        elif kind == "negative":
            labels[:, 4:] = -77
        elif kind == "short":
            labels[:] = -1
        elif kind == "list":
            return labels.tolist(), distances.tolist()
        else:
            labels = labels.astype(np.uint64)
        return labels, distances

    source.spoil = spoil
    hits = bridge.search(rows[0], k=10, candidates=20)
    assert hits.ids == expected.ids
    np.testing.assert_allclose(hits.distances, expected.distances, rtol=1e-4, atol=1e-5)


class Failing(BruteForce):
    def __init__(self, dim):
        super().__init__(dim)
        self.fail = None

    def add(self, vectors, labels):
        super().add(vectors, labels)
        if self.fail == "add":
            raise self.error

    def remove(self, labels):
        if self.fail == "remove":
            raise self.error
        super().remove(labels)


@pytest.mark.parametrize("error", [RuntimeError("lost connection"), KeyboardInterrupt()])
def test_a_failing_source_leaves_no_half_added_rows(rng, error):
    source = Failing(7)
    bridge, rows = filled(rng, "l2", index=source)
    source.error = error
    source.fail = "add"
    with pytest.raises(type(error)):
        bridge.add(rows[:2] * 2, ids=[0, 500])
    assert (len(bridge), 500 in bridge) == (120, False)
    assert bridge.get(0).tolist() == rows[0].tolist()
    assert bridge.search(rows[0], k=200).ids == best_first(similarity("l2", rows[0], rows), range(120))
    source.fail = "remove"  # the write is done here, only the source could not follow
    with pytest.raises(type(error)):
        bridge.delete([1])
    with pytest.raises(type(error)):
        bridge.add(rows[:1] * 3, ids=[0])
    assert 1 not in bridge
    hits = bridge.search(rows[0], k=200)
    assert None not in hits.ids
    assert sorted(hits.ids) == [0, *range(2, 120)]
    source.fail = None
    assert bridge.add(rows[:1]) == [120]
    assert bridge.get(120).tolist() == rows[0].tolist()


def test_what_belongs_to_the_index_cannot_be_given():
    index = hnswlib.Index("l2", 2)
    index.init_index(10)
    index.add_items(np.array([[0.0, 0.0], [3.0, 4.0]]))
    for name, value in (("metric", "ip"), ("M", 4), ("seed", 3)):
        with pytest.raises(ab.InvalidConfigError, match=f"{name} cannot be given"):
            ab.AttentionVectorBridge.from_hnswlib(index, **{name: value})
    assert ab.AttentionVectorBridge.from_hnswlib(index, ef=7).config["ef"] == 7
