"""HnswIndex and ExactIndex under one contract, and every hazard of hnswlib made harmless."""

import functools
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading

import hnswlib
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations import CandidateSource, ExactIndex, HnswIndex
from attnbridge.integrations import hnswlib as shell

Bridge = ab.AttentionVectorBridge
METRICS = ("cosine", "ip", "l2")


def rows_of(seed, n, d):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def distances_of(metric, query, rows):
    q, x = np.asarray(query, np.float64), np.asarray(rows, np.float64)
    if metric == "l2":
        return ((x - q) ** 2).sum(axis=1)
    if metric == "cosine":
        q, x = q / np.sqrt((q**2).sum()), x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return 1 - x @ q


# ---- one contract


@pytest.fixture(params=[(kind, metric) for kind in (HnswIndex, ExactIndex) for metric in METRICS], ids=str)
def source(request):
    kind, metric = request.param
    return metric, functools.partial(kind, metric=metric)


def test_a_source_is_a_source(source):
    _, make = source
    index = make(dim=3)
    assert isinstance(index, CandidateSource)
    assert (index.dim, len(index)) == (3, 0)


def test_nearest_first(source):
    metric, make = source
    rows, labels = rows_of(0, 70, 5), np.random.default_rng(1).permutation(1000)[:70]
    index = make(dim=5)
    index.add(rows[:30], labels[:30])
    index.add(rows[30:].tolist(), labels[30:].tolist())
    assert len(index) == 70
    queries = rows_of(2, 9, 5)
    found, distances = index.query(queries, 70)
    assert (found.dtype, distances.dtype, found.shape, distances.shape) == (np.int64, np.float32, (9, 70), (9, 70))
    for i, query in enumerate(queries):
        truth = distances_of(metric, query, rows)
        assert found[i].tolist() == labels[np.argsort(truth)].tolist()
        np.testing.assert_allclose(distances[i], np.sort(truth), rtol=1e-5, atol=1e-5)


def test_short_of_hits_is_padded(source):
    _, make = source
    index = make(dim=2)
    assert [a.tolist() for a in index.query([[1.0, 2.0]], 2)] == [[[-1, -1]], [[np.inf, np.inf]]]
    index.add([[1.0, 1.0], [1.0, 2.0]], [4, 5])
    labels, distances = index.query([[1.0, 2.0], [2.0, 1.0]], 5)
    assert sorted(labels[0, :2].tolist()) == [4, 5]
    assert (labels[:, 2:] == -1).all()
    assert np.isposinf(distances[:, 2:]).all()
    assert np.isfinite(distances[:, :2]).all()
    assert index.query(np.empty((0, 2)), 3)[0].shape == (0, 3)
    index.remove([4, 5])
    assert (index.query([[1.0, 2.0]], 1)[0] == -1).all()


def test_removed_labels_are_not_found(source):
    _, make = source
    rows = rows_of(3, 300, 4)
    index = make(dim=4)
    index.add(rows, np.arange(300))
    gone = np.arange(300) % 20 != 0
    index.remove(np.flatnonzero(gone))
    assert len(index) == 15
    labels, _ = index.query(rows, 15)
    assert set(labels.ravel().tolist()) <= set(np.flatnonzero(~gone).tolist()) | {-1}
    index.add(rows[:1] * 2, [1000])
    assert 1000 in index.query(rows[:1], 16)[0]
    index.remove([])
    assert len(index) == 16


@pytest.mark.parametrize(
    ("error", "message", "vectors", "labels"),
    [
        (ab.DimensionMismatchError, "vectors must have dimension 3, got 2", [[1, 2]], [5]),
        (ab.InvalidInputError, "vectors must be finite: row 0, column 1 is nan", [[1, np.nan, 2]], [5]),
        (ab.InvalidInputError, "labels must have one entry for each of 1 vectors, got 2", [[1, 2, 3]], [5, 6]),
        (ab.InvalidInputError, r"labels must be whole numbers \(n,\), got float64", [[1, 2, 3]], [5.0]),
        (ab.InvalidInputError, r"labels must be whole numbers \(n,\), got int64 \(\)", [[1, 2, 3]], 5),
        (ab.InvalidInputError, r"labels must be whole numbers \(n,\), got bool", [[1, 2, 3]], [True]),
        (ab.InvalidInputError, "labels must be >= 0, got -1", [[1, 2, 3]], [-1]),
        (ab.InvalidInputError, "labels must be distinct, got 7 more than once", [[1, 2, 3]] * 3, [7, 8, 7]),
        (ab.InvalidInputError, "labels must be new, but 0 ", [[1, 2, 3]] * 2, [9, 0]),
    ],
)
def test_bad_rows_are_refused_whole(source, error, message, vectors, labels):
    _, make = source
    index = make(dim=3)
    index.add([[1.0, 2.0, 3.0]], [0])
    with pytest.raises(error, match=message):
        index.add(vectors, labels)
    assert len(index) == 1
    assert sorted(index.query([[1, 2, 3]], 4)[0][0].tolist()) == [-1, -1, -1, 0]
    index.add([[3.0, 2.0, 1.0]], [9])


@pytest.mark.parametrize(
    ("error", "message", "queries", "n"),
    [
        (ab.DimensionMismatchError, "queries must have dimension 3, got 2", [[1, 2]], 1),
        (ab.DimensionMismatchError, "queries must have dimension 3, got 5000", np.ones((1, 5000)), 1),
        (ab.DimensionMismatchError, r"queries must be rows \(n, d\)", [1, 2, 3], 1),
        (ab.InvalidInputError, "queries must be finite: row 0, column 2 is nan", [[1, 2, np.nan]], 1),
        (ab.InvalidConfigError, "n must be a whole number >= 1, got 0", [[1, 2, 3]], 0),
    ],
)
def test_bad_queries(source, error, message, queries, n):
    _, make = source
    index = make(dim=3)
    for _ in range(2):  # empty, and not
        with pytest.raises(error, match=message):
            index.query(queries, n)
        index.add([[1.0, 2.0, 3.0]], [len(index)])


def test_bad_removals(source):
    _, make = source
    index = make(dim=3)
    index.add(np.eye(3), [0, 1, 2])
    with pytest.raises(ab.UnknownIdError, match="label 7 is not in the index"):
        index.remove([1, 7])
    for bad in ([1.7], 1, ["1"]):
        with pytest.raises(ab.InvalidInputError, match="labels must be whole numbers"):
            index.remove(bad)
    assert len(index) == 3
    index.remove([1, 1])
    assert len(index) == 2
    with pytest.raises(ab.UnknownIdError, match="label 1 is"):
        index.remove([1])


def test_zero_vectors_only_where_they_mean_something(source):
    metric, make = source
    index = make(dim=2)
    if metric == "cosine":
        with pytest.raises(ab.InvalidInputError, match="zero vectors under metric='cosine': row 1"):
            index.add([[1, 0], [0, 0]], [0, 1])
        index.add([[1, 0]], [0])
        with pytest.raises(ab.InvalidInputError, match="queries must not hold zero vectors"):
            index.query([[0, 0]], 1)
    else:
        index.add([[0, 0]], [0])
        assert index.query([[0, 0]], 1)[1].tolist() == [[1.0 if metric == "ip" else 0.0]]


def test_writes_and_searches_at_the_same_time(source):
    _, make = source
    rows = rows_of(5, 1500, 8)
    index = make(dim=8)
    index.add(rows[:100], np.arange(100))
    errors, stop = [], threading.Event()

    def guarded(work):
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    def write(first):
        for start in range(first, first + 700, 50):
            index.add(rows[start : start + 50], np.arange(start, start + 50))

    def search():
        while not stop.is_set():
            labels, distances = index.query(rows[:20], 7)
            assert ((labels >= 0) == np.isfinite(distances)).all()
            assert (np.diff(distances) >= 0).all()

    readers = [threading.Thread(target=guarded, args=(search,)) for _ in range(3)]
    writers = [threading.Thread(target=guarded, args=(functools.partial(write, first),)) for first in (100, 800)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert errors == []
    assert len(index) == 1500
    bridge = Bridge(dim=8, metric=source[0])  # what a row's nearest neighbour is depends on the metric
    bridge.add(rows)
    truth = [hits.ids[0] for hits in bridge.search_batch(rows, k=1, exact=True)]
    assert (index.query(rows, 1)[0][:, 0] == truth).mean() >= 0.99


# ---- options


def test_settings():
    index = HnswIndex(dim=4, metric="ip", M=8, ef_construction=33, ef=44, seed=5, threads=1)
    assert index.settings() == {"dim": 4, "metric": "ip", "M": 8, "ef_construction": 33, "ef": 44, "seed": 5}
    assert (index._index.M, index._index.ef_construction, index._index.ef) == (8, 33, 44)
    assert (0 in index, index.metric) == (False, "ip")


def test_breadth_buys_recall():
    rows, queries = rows_of(6, 3000, 16), rows_of(7, 50, 16)
    exact = ExactIndex(dim=16, metric="l2")
    exact.add(rows, np.arange(3000))
    truth = exact.query(queries, 10)[0]

    def recall(**options):
        index = HnswIndex(dim=16, metric="l2", threads=1, **options)
        index.add(rows, np.arange(3000))
        found = index.query(queries, 10)[0]
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])

    narrow, wide, dense = recall(M=4, ef=10, ef_construction=20), recall(M=4, ef=200, ef_construction=20), recall()
    assert narrow < wide
    assert dense > 0.97


@pytest.mark.parametrize("metric", METRICS)
def test_one_seed_and_one_thread_build_the_same_index_twice(tmp_path, metric):
    rows, queries = rows_of(8, 2500, 6), rows_of(9, 30, 6)
    answers = []
    for seed in (1, 1, 2):
        index = HnswIndex(dim=6, metric=metric, M=4, ef=10, seed=seed, threads=1)
        for start in range(0, 2500, 1250):
            index.add(rows[start : start + 1250], np.arange(start, start + 1250))
        path = tmp_path / f"graph{len(answers)}"
        index.write_graph(path)
        answers.append((path.read_bytes(), *(array.tobytes() for array in index.query(queries, 10))))
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[2][0]


def test_threads_do_not_change_what_a_search_finds():
    rows, queries = rows_of(8, 2500, 6), rows_of(9, 200, 6)
    index = HnswIndex(dim=6, M=4, ef=10)
    index.add(rows, np.arange(2500))
    one, three = index.query(queries, 10, threads=1), index.query(queries, 10, threads=3)
    assert one[0].tobytes() == three[0].tobytes()
    assert one[1].tobytes() == three[1].tobytes()


# ---- hnswlib's hazards, one by one: what it does itself, and what the shell makes of it


def test_hazard_wrong_dimension_query():
    """It reads beyond the query's end."""
    bridge = Bridge(dim=8)
    bridge.add(rows_of(0, 50, 8))
    for wrong in (1, 7, 9):
        with pytest.raises(ab.DimensionMismatchError, match=f"query must have dimension 8, got {wrong}"):
            bridge.search(np.ones(wrong))


def test_hazard_nan():
    """It takes them, and they sit in the graph."""
    bridge = Bridge(dim=2)
    bridge.add([[1, 0], [0, 1]])
    with pytest.raises(ab.InvalidInputError, match="vectors must be finite: row 1, column 0 is nan"):
        bridge.add([[1, 1], [np.nan, 1]])
    assert len(bridge) == 2
    assert bridge.search([1, 0], k=5).ids == [0, 1]


def unreachable():
    """Return an index whose graph leads from the entry to few rows: all links of level 0 are cut."""
    index = HnswIndex(dim=4, metric="l2", M=4, threads=1)
    index.add(rows_of(1, 60, 4), np.arange(60))
    (state,) = index._index.__getstate__()
    state = dict(state)
    level0 = state["data_level0"].view(np.uint8).reshape(60, -1)
    level0[20:, :2] = 0  # rows from 20 on lead nowhere
    copy = hnswlib.Index.__new__(hnswlib.Index)
    copy.__setstate__((state,))
    return copy


def test_hazard_short_of_hits():
    """It raises "Cannot return the results in a contiguous 2D array"."""
    index = unreachable()
    rows = rows_of(1, 60, 4)
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        index.knn_query(rows, k=60)
    own, *_ = HnswIndex.adopt(index)
    labels, distances = own.query(rows, 60)
    found = (labels >= 0).sum(axis=1)
    assert found.min() < 60
    for i in range(60):
        assert (labels[i, : found[i]] >= 0).all()
        assert len(set(labels[i, : found[i]].tolist())) == found[i]
        np.testing.assert_allclose(
            distances[i, : found[i]], distances_of("l2", rows[i], rows[labels[i, : found[i]]]), rtol=1e-4, atol=1e-5
        )
    bridge = Bridge.from_hnswlib(index)  # reads the rows where the graph does not lead to enough of them
    for hits in bridge.search_batch(rows, k=60):
        assert sorted(hits.ids) == list(range(60))


def test_hazard_search_before_init_or_when_empty():
    """Before init_index it crashes, when empty it raises."""
    assert Bridge(dim=3).search([1, 2, 3]).ids == []
    assert HnswIndex(dim=3).query([[1, 2, 3]], 1)[0].tolist() == [[-1]]
    assert Bridge.from_hnswlib(hnswlib.Index("l2", 3)).search([1, 2, 3]).ids == []


def limited(code, size, *arguments):
    """Run code where no file can grow beyond `size` bytes, as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(code), *map(str, arguments)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )


def test_hazard_full_disk(tmp_path):
    """It says nothing, and the file is cut short."""
    plain = limited(
        """
        import sys, hnswlib, numpy as np
        index = hnswlib.Index("l2", 16)
        index.init_index(1000)
        index.add_items(np.random.default_rng(0).random((1000, 16)))
        index.save_index(sys.argv[1])
        """,
        50_000,
        tmp_path / "plain",
    )
    assert (plain.returncode, (tmp_path / "plain").stat().st_size <= 50_000) == (0, True)
    ours = limited(
        """
        import sys, numpy as np
        from attnbridge.integrations import HnswIndex
        index = HnswIndex(dim=16, metric="l2")
        index.add(np.random.default_rng(0).random((1000, 16)), np.arange(1000))
        try:
            index.save(sys.argv[1])
        except OSError as error:
            print(error)
        """,
        50_000,
        tmp_path / "ours",
    )
    assert "not written in full" in ours.stdout, ours.stderr
    assert "is the disk full?" in ours.stdout
    assert not (tmp_path / "ours").exists()


def test_hazard_wrong_dimension_load(tmp_path):
    """It loads the file of another dimension and reads garbage."""
    index = HnswIndex(dim=6, M=8)
    index.add(rows_of(0, 30, 6), np.arange(30))
    index.write_graph(tmp_path / "graph")
    for options, got in [
        ({"dim": 5, "M": 8}, "its vectors have 6 values instead of 5"),
        ({"dim": 6, "M": 9}, "its lists hold 8 links instead of 9"),
    ]:
        with pytest.raises(ab.IndexCorruptError, match=f"graph: the hnswlib graph is damaged: {got}"):
            HnswIndex(**options).read_graph(tmp_path / "graph", set(), 0.0)
    (tmp_path / "stub").write_bytes(b"\0" * 40)
    with pytest.raises(ab.IndexCorruptError, match="its file is cut short"):
        HnswIndex(dim=6).read_graph(tmp_path / "stub", set(), 0.0)
    (tmp_path / "cut").write_bytes((tmp_path / "graph").read_bytes()[:-7])
    with pytest.raises(
        ab.IndexCorruptError,
        match="cut: the hnswlib graph is damaged: its file is cut short",
    ):
        HnswIndex(dim=6, M=8).read_graph(tmp_path / "cut", set(), 0.0)


def test_hazard_garbage_in_level_0(tmp_path):
    """It loads it, and a search then reads out of bounds."""
    index = HnswIndex(dim=6, metric="l2")
    index.add(rows_of(0, 200, 6), np.arange(200))
    index.remove([7])
    index.save(tmp_path / "index")
    again = HnswIndex.open(tmp_path / "index")
    assert again.query(rows_of(0, 200, 6), 3)[0].tolist() == index.query(rows_of(0, 200, 6), 3)[0].tolist()
    assert (len(again), 7 in again, again.settings()) == (199, False, index.settings())
    with pytest.raises(ab.InvalidInputError, match="7 has been used"):
        again.add(np.ones((1, 6)), [7])
    (graph,) = (tmp_path / "index").glob("*/graph.hnsw")
    raw = bytearray(graph.read_bytes())
    for at in (96, 200, len(raw) // 2, len(raw) - 1):
        raw[at] ^= 0x40
        graph.write_bytes(raw)
        with pytest.raises(ab.IndexCorruptError, match=r"graph\.hnsw is damaged: its checksum differs in bytes 0 to"):
            HnswIndex.open(tmp_path / "index")
        raw[at] ^= 0x40


def test_hazard_forged_links(tmp_path):
    """It follows them wherever they lead, out of its memory too."""
    index = HnswIndex(dim=6, M=4, metric="l2")
    index.add(rows_of(0, 300, 6), np.arange(1000, 1300))
    index.remove([1007])
    index.write_graph(tmp_path / "graph")
    raw = (tmp_path / "graph").read_bytes()
    size = 4 * 9 + 4 * 6 + 8
    for at, value, message in (
        (96 + 5 * size + 4, 300, "a link in layer 0 leads to node 300 of 300"),
        (96 + 5 * size, 9, "a list of layer 0 counts 9 links of 8"),
        (96 + 300 * size, 4, "its upper layers|its file"),
    ):
        forged = bytearray(raw)
        forged[at : at + 4] = np.uint32(value).tobytes()
        (tmp_path / "forged").write_bytes(forged)
        with pytest.raises(ab.IndexCorruptError, match=message):
            HnswIndex(dim=6, M=4, metric="l2").read_graph(tmp_path / "forged", set(), 0.0)
    state = index.__getstate__()
    copy = HnswIndex.__new__(HnswIndex)
    copy.__setstate__(state)
    queries = rows_of(1, 40, 6)
    assert (copy.query(queries, 5)[0] == index.query(queries, 5)[0]).all()
    assert (1007 in copy, len(copy)) == (False, 299)
    copy.add(rows_of(2, 30, 6), np.arange(30))
    graph = state["graph"]
    level0 = graph["data_level0"].view(np.uint8).copy()
    level0[5 * size + 4 : 5 * size + 8] = np.frombuffer(np.uint32(300).tobytes(), np.uint8)
    for forged, message in (
        ({"data_level0": level0.view(np.int8)}, "a link in layer 0 leads to node 300 of 300"),
        ({"data_level0": graph["data_level0"][:-8]}, "layer 0 takes"),
        ({"link_lists": graph["link_lists"][:-4]}, "its upper layers take"),
        ({"enterpoint_node": 300}, "its entry point is node 300 of 300"),
        ({"cur_element_count": 301}, "levels are missing|layer 0 takes"),
        ({"max_M": 5}, "its lists of layer 0 hold 8 links"),
    ):
        with pytest.raises(ab.IndexCorruptError, match=message):
            HnswIndex.__new__(HnswIndex).__setstate__(state | {"graph": graph | forged})


def test_hazard_slow_get_items():
    """It copies into Python lists; the bridge reads rows of its own."""
    rows = rows_of(0, 500, 6) * 3
    bridge = Bridge(dim=6)  # cosine, where hnswlib would give back unit vectors
    bridge.add(rows)
    assert bridge.get(range(500)).tobytes() == rows.tobytes()


def test_hazard_search_while_adding():
    """Without a lock its own rows were found in 0.86 of cases afterwards."""
    rows = rows_of(4, 4000, 16)
    bridge = Bridge(dim=16, metric="l2")
    bridge.add(rows[:500])
    errors, done = [], threading.Event()

    def search():
        try:
            while not done.is_set():
                for hits in bridge.search_batch(rows[:64], k=5):
                    assert len(hits) == 5
                    assert None not in hits.ids
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(500, 4000, 500):
        bridge.add(rows[start : start + 500])
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    found = [hits.ids[0] for hits in bridge.search_batch(rows, k=1)]
    assert np.mean(np.array(found) == np.arange(4000)) >= 0.999


def test_hazard_full_capacity():
    """It raises "The number of elements exceeds the specified limit"."""
    index = HnswIndex(dim=3, metric="l2")
    rows = rows_of(0, 5000, 3)
    for start, stop in [(0, 1), (1, 1024), (1024, 1025), (1025, 5000)]:
        index.add(rows[start:stop], np.arange(start, stop))
    assert len(index) == 5000
    assert (index.query(rows, 1)[0][:, 0] == np.arange(5000)).mean() >= 0.999


def test_hazard_label_used_again():
    """It takes one as an update in place, of a deleted one as a resurrection."""
    index = HnswIndex(dim=2)
    index.add([[1, 0], [0, 1]], [3, 4])
    index.remove([4])
    for label in (3, 4):
        with pytest.raises(ab.InvalidInputError, match=f"labels must be new, but {label} has been used; take another"):
            index.add([[1, 1]], [label])
    assert index.query([[0, 1]], 2)[0].tolist() == [[3, -1]]


def test_hazard_overflow():
    """Distances beyond float32 are inf and NaN, and the order is anything."""
    for metric in ("ip", "l2"):
        index = HnswIndex(dim=3, metric=metric)
        index.add(rows_of(0, 50, 3), np.arange(50))
        labels, _ = index.query(np.float32([[1, 2, 3], [3e38, 3e38, 0], [1, 1, 1]]), 4)
        assert (labels[[0, 2]] >= 0).all()
        assert (labels[1] == -1).all()
        index.add([[1e20, 0, 0]], [50])  # from now on the graph itself is built on sand
        assert (index.query([[1, 2, 3]], 4)[0] == -1).all()
        assert index.longest == pytest.approx(1e20)


def test_overflow_is_remembered_on_disk(tmp_path):
    rows = rows_of(0, 300, 3)
    rows[9] *= 1e25
    for metric in ("ip", "l2"):
        bridge = Bridge(dim=3, metric=metric)
        bridge.add(rows)
        bridge.save(tmp_path / metric)
        index = HnswIndex(dim=3, metric=metric)
        index.add(rows, np.arange(300))
        index.save(tmp_path / f"{metric}-index")
        assert HnswIndex.open(tmp_path / f"{metric}-index").longest == index.longest > 1e24
        again, adopted = Bridge.open(tmp_path / metric), Bridge.from_hnswlib(index._index)
        for query in rows[:20]:
            expected = bridge.search(query, exact=True).ids
            assert bridge.search(query).ids == again.search(query).ids == adopted.search(query).ids == expected


# ---- a broken-off add


class Stop(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop, RuntimeError])
def test_ctrl_c_leaves_no_half_added_rows(error):
    rows = rows_of(0, 7000, 4)
    index = HnswIndex(dim=4, metric="l2", ef_construction=40)
    index.add(rows[:100], np.arange(100))
    seen = []

    def interrupt(count):
        seen.append(count)
        if len(seen) == 2:
            raise error

    with pytest.raises(error):
        index.add(rows[100:], np.arange(100, 7000), progress=interrupt)
    assert seen == [2000, 2000]
    assert (len(index), 150 in index) == (100, False)
    assert index.query(rows[150:160], 50)[0].max() < 100
    index.add(rows[6000:], np.arange(6000, 7000))  # labels that had not been reached yet
    assert (index.query(rows[6000:], 1)[0][:, 0] == np.arange(6000, 7000)).mean() > 0.99
    with pytest.raises(ab.InvalidInputError, match="150 has been used"):
        index.add(rows[150:151], [150])


def test_rows_that_cannot_be_linked_are_found_all_the_same(monkeypatch, tmp_path):
    rows = rows_of(0, 3000, 4)
    bridge = Bridge(dim=4, metric="l2", ef_construction=40)

    def broken(self, vectors, labels, threads):
        raise RuntimeError("no more of it")

    with monkeypatch.context() as patch:
        patch.setattr(HnswIndex, "add", broken)
        with pytest.warns(
            RuntimeWarning, match=r"stored and found, but not linked .*no more of it.*link\(\) tries again"
        ):
            assert bridge.add(rows) == list(range(3000))
        assert bridge.search(rows[2999], k=1).ids == [2999]
        with pytest.raises(RuntimeError, match="no more of it"):
            bridge.link()
        bridge.save(tmp_path / "x")
    assert bridge.memory()["graph"] == 0
    again = Bridge.open(tmp_path / "x")
    for one in (bridge, again):
        one.link()
        assert one.memory()["graph"] > 0
        assert [hits.ids[0] for hits in one.search_batch(rows[::10], k=1)] == list(range(0, 3000, 10))


def test_ctrl_c_ends_the_waiting_for_links_and_nothing_else(monkeypatch):
    rows = rows_of(0, 3000, 4)
    bridge = Bridge(dim=4, metric="l2", ef_construction=40)
    with monkeypatch.context() as patch:
        patch.setattr(bridge._linker, "wait", lambda advance: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bridge.add(rows)
    assert len(bridge) == 3000
    assert bridge.search(rows[2999], k=1).ids == [2999]
    bridge.link()
    assert bridge._state.source.linked == 3000


# ---- where hnswlib does not run


@pytest.fixture
def fresh():
    """Forget what is known of hnswlib, before and after."""
    shell.hnswlib_problem.cache_clear()
    yield
    shell.hnswlib_problem.cache_clear()


def test_hnswlib_is_missing(monkeypatch, tmp_path, fresh):
    rows = rows_of(0, 300, 4)
    whole = Bridge(dim=4)
    whole.add(rows, ids=[f"d{i}" for i in range(300)])
    whole.delete(["d5"])
    whole.save(tmp_path / "saved")
    expected = [whole.search(row, exact=True) for row in rows[:10]]
    shell.hnswlib_problem.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "hnswlib" else find(name, *a))
    with pytest.warns(RuntimeWarning) as caught:
        bridge = Bridge(dim=4)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith("searching exactly, without hnswlib: hnswlib is not installed (it needs a C++ compiler): ")
    assert "pip install --force-reinstall --no-cache-dir --no-binary hnswlib hnswlib" in text
    assert caught[0].filename == __file__
    assert bridge.config["index"] == "exact"
    assert bridge.config["fallback"] in text
    bridge.add(rows)
    assert bridge.search(rows[3], k=1).ids == [3]
    for make in (functools.partial(Bridge, dim=4, index="hnsw"), functools.partial(HnswIndex, dim=4)):
        with pytest.raises(ab.MissingDependencyError, match="hnswlib is not installed"):
            make()
    with pytest.raises(ab.MissingDependencyError, match="hnswlib is not installed"):
        Bridge.from_hnswlib(object())
    with pytest.raises(ImportError):
        Bridge(dim=4, index="hnsw")
    assert Bridge(dim=4, index="exact").config["fallback"] is None
    with pytest.warns(RuntimeWarning, match="searching exactly") as caught:
        again = Bridge.open(tmp_path / "saved")
    assert len(caught) == 1
    assert [again.search(row) for row in rows[:10]] == expected
    again.add(rows[:1], ids=["d5"])
    again.save(tmp_path / "saved")
    monkeypatch.undo()
    shell.hnswlib_problem.cache_clear()
    back = Bridge.open(tmp_path / "saved")  # saved without a graph: it is built anew
    assert (len(back), back.config["index"], back.config["M"]) == (300, "hnsw", 16)
    assert [back.search(row, k=1).ids for row in rows[:10]] == [again.search(row, k=1).ids for row in rows[:10]]


_CRASHING = """
import os, signal
{how}
"""

_USE = """
import sys, warnings
import numpy as np, attnbridge as ab
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    bridge = ab.AttentionVectorBridge(dim=3)
    bridge.add(np.eye(3))
print(bridge.search([0, 1, 0.1], k=1).ids, bridge.config["index"], len(caught), caught[0].category.__name__)
print(caught[0].message)
try:
    ab.AttentionVectorBridge(dim=3, index="hnsw")
except ab.MissingDependencyError as error:
    print(error)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    print(len(ab.AttentionVectorBridge.open(sys.argv[1])), "hnswlib" in sys.modules)
"""


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGILL)", "died of signal 4, as a build for another CPU does"),
        ("raise ImportError('libstdc++.so.6: no such file')", "ImportError: libstdc++.so.6: no such file"),
    ],
)
def test_hnswlib_does_not_run(tmp_path, how, why):
    saved = Bridge(dim=3)
    saved.add(np.eye(3))
    saved.save(tmp_path / "saved")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "hnswlib.py").write_text(_CRASHING.format(how=how))
    run = subprocess.run(
        [sys.executable, "-c", _USE, str(tmp_path / "saved")],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "fake")},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert lines[0] == "[1] exact 1 RuntimeWarning", run.stderr
    assert f"hnswlib does not run on this machine ({why})" in lines[1]
    assert lines[1].endswith("pip install --force-reinstall --no-cache-dir --no-binary hnswlib hnswlib")
    assert lines[2] in lines[1]
    assert lines[3] == "3 False"


def test_a_probe_that_cannot_be_run_is_no_evidence(monkeypatch, fresh, tmp_path):
    def none(*arguments, **options):
        raise OSError("no more processes")

    monkeypatch.setattr(shell, "_probe_marker", lambda origin: tmp_path / "never")
    monkeypatch.setattr(shell.subprocess, "run", none)
    assert shell.hnswlib_problem() is None
    assert not (tmp_path / "never").exists()


def test_the_probe_runs_once_for_a_build_and_a_cpu(monkeypatch, fresh, tmp_path):
    runs = []
    real = subprocess.run
    monkeypatch.setattr(shell, "_probe_marker", lambda origin: tmp_path / "marker")
    monkeypatch.setattr(shell.subprocess, "run", lambda *a, **o: runs.append(a) or real(*a, **o))
    for _ in range(3):
        shell.hnswlib_problem.cache_clear()
        assert shell.hnswlib_problem() is None
    assert len(runs) == 1
