"""The links of hnswlib's graphs: read right from memory and file, and never believed."""

import itertools
import os
import struct

import hnswlib
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations.adjacency import _HEADER, Adjacency
from attnbridge.integrations.walk import Walk
from attnbridge.metric import Keys

MUTATIONS = 20_000 if os.environ.get("ATTNBRIDGE_SLOW") else 3_000
N, DIM, M = 70, 3, 2  # a small M makes many layers
SIZES = {"label": 4 * (2 * M + 1) + 4 * DIM, "unit": 4 * (M + 1)}


def build(labels=None, n=N, seed=0, threads=1):
    rng = np.random.default_rng(seed)
    index = hnswlib.Index("l2", DIM)
    index.init_index(max(n, 1) + 9, M=M, ef_construction=30, random_seed=seed)
    if n:
        index.add_items(rng.standard_normal((n, DIM)).astype(np.float32), labels, num_threads=threads)
    return index


@pytest.fixture
def index():
    return build()


@pytest.fixture
def file(index, tmp_path):
    path = tmp_path / "graph.hnsw"
    index.save_index(str(path))
    return path


def state_of(index):
    (state,) = index.__getstate__()
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in state.items()}


def equal(a, b):
    mine, theirs = a.arrays(), b.arrays()
    assert a.links.levels == b.links.levels
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def plainly(path):
    """Read hnswlib's file once more, field by field: {label: [links by label, a list a layer]}, entry label."""
    data = path.read_bytes()
    n, size, at_label = struct.unpack_from("<3Q", data, 16)
    (entry,) = struct.unpack_from("<I", data, 52)
    most, most0 = struct.unpack_from("<2Q", data, 56)
    label = [struct.unpack_from("<Q", data, 96 + i * size + at_label)[0] for i in range(n)]

    def read(place):
        (count,) = struct.unpack_from("<H", data, place)
        return [label[node] for node in struct.unpack_from(f"<{count}I", data, place + 4)]

    lists = {label[i]: [read(96 + i * size)] for i in range(n)}
    place = 96 + n * size
    for i in range(n):
        (length,) = struct.unpack_from("<I", data, place)
        lists[label[i]] += [read(place + 4 + at) for at in range(0, length, 4 * (most + 1))]
        place += 4 + length
    assert most0 == 2 * most
    return lists, label[entry]


def spoken(adjacency):
    """Return the same of an adjacency."""
    links, levels = adjacency.links, adjacency.arrays()["levels"]
    out = {}
    for row in range(len(adjacency)):
        lists = [links.level0[row], *links.upper[links.start[row] : links.start[row] + levels[row]]]
        out[row] = [[link for link in one.tolist() if link >= 0] for one in lists]
    return out, links.entry


# ---- what is read


@pytest.mark.parametrize("labels", [None, "shuffled", "sparse"])
def test_memory_and_file_say_what_hnswlib_wrote(labels, tmp_path):
    rng = np.random.default_rng(1)
    rows = N if labels != "sparse" else 3 * N
    given = None if labels is None else rng.permutation(rows)[:N]
    index = build(given)
    path = tmp_path / "graph.hnsw"
    index.save_index(str(path))
    by_file = Adjacency.from_file(path, rows, dim=DIM)
    truth, entry = plainly(path)
    got, begin = spoken(by_file)
    assert {row: lists for row, lists in got.items() if row in truth} == truth
    assert all(lists == [[]] for row, lists in got.items() if row not in truth)
    assert (begin, by_file.links.levels) == (entry, max(len(lists) for lists in truth.values()) - 1)
    assert by_file.links.levels >= 2
    assert equal(by_file, Adjacency.from_index(index, rows))
    assert len(by_file) == rows
    again = Adjacency.from_arrays(by_file.arrays(), rows)
    assert equal(again, by_file)


def test_threads_insert_in_any_order():
    index = build(n=600, threads=4)
    adjacency = Adjacency.from_index(index)
    vectors = np.array(index.get_items(np.arange(600)), np.float32)
    keys = Keys(vectors, None, -0.5 * (vectors.astype(np.float64) ** 2).sum(1))
    found = Walk(adjacency).query(keys, vectors, np.zeros(600), 1, ef=50)
    assert (found.ids[:, 0] == np.arange(600)).mean() >= 0.95


@pytest.mark.parametrize("n", [0, 1, 2])
def test_small_graphs(n, tmp_path):
    index = build(n=n)
    path = tmp_path / "graph.hnsw"
    index.save_index(str(path))
    for adjacency in (Adjacency.from_index(index, 5), Adjacency.from_file(path, 5)):
        assert len(adjacency) == 5
        assert (adjacency.links.entry >= 0) == (n > 0)
        assert (adjacency.links.level0 >= 0).sum() == (2 if n == 2 else 0)
        assert adjacency.nbytes > 0
    assert len(Adjacency.from_index(hnswlib.Index("l2", 3))) == 0


def test_deleted_rows_keep_their_links(index):
    before = Adjacency.from_index(index)
    index.mark_deleted(3)
    assert equal(Adjacency.from_index(index), before)


def test_arrays_may_be_mapped(index, tmp_path):
    adjacency = Adjacency.from_index(index)
    for name, array in adjacency.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    arrays = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in adjacency.arrays()}
    mapped = Adjacency.from_arrays(arrays, N)
    assert equal(mapped, adjacency)
    assert np.shares_memory(mapped.links.level0, arrays["level0"])


# ---- what is refused


def spoil(state, name, value):
    return {**state, name: value}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cur_element_count", 2**40, "nodes"),
        ("cur_element_count", N + 1, "layer 0 takes"),
        ("cur_element_count", -1, "nodes"),
        ("enterpoint_node", N, f"its entry point is node {N} of {N}"),
        ("max_M0", 0, "its lists of layer 0 hold 0 links"),
        ("max_M0", 2 * M + 1, f"its lists of layer 0 hold {2 * M + 1} links"),
        ("max_M", 0, "its lists hold 0 links"),
        ("max_M", M + 1, f"its lists of layer 0 hold {2 * M} links"),
        ("max_M", 10**9, "its lists hold"),
        ("offset_data", 0, "do not fit together"),
        ("label_offset", 1, "do not fit together"),
        ("size_data_per_element", 2**40, "do not fit together"),
        ("offset_level0", 4, "do not fit together"),
        ("max_level", "high", "max_level is not a number"),
        ("cur_element_count", float("nan"), "cur_element_count is not a number"),
        ("data_level0", None, "reading its arrays"),
        ("data_level0", np.zeros(7, np.int8), "layer 0 takes 7 bytes"),
        ("data_level0", np.zeros(7), "an array of bytes"),
        ("link_lists", np.zeros(7, np.int8), "its upper layers take 7 bytes"),
        ("element_levels", np.zeros(3, np.int32), "levels are missing"),
        ("element_levels", np.full(N, -1, np.int32), "a node is in -1 upper layers"),
        ("element_levels", np.full(N, 10**6, np.int32), "a node is in 1000000 upper layers"),
        ("element_levels", np.zeros(N, np.int32), "its upper layers take"),
    ],
)
def test_a_forged_field_is_named(index, name, value, message):
    with pytest.raises(ab.IndexCorruptError, match=f"the hnswlib graph is damaged: .*{message}"):
        Adjacency.from_state(spoil(state_of(index), name, value))


def test_a_missing_field_is_named(index):
    state = state_of(index)
    for name in ("max_M0", "data_level0", "element_levels", "enterpoint_node"):
        with pytest.raises(ab.IndexCorruptError, match=name):
            Adjacency.from_state({key: value for key, value in state.items() if key != name})


def poke(state, name, at, value, kind="<u4"):
    array = state[name].view(np.uint8)
    array[at : at + np.dtype(kind).itemsize] = np.array([value], kind).view(np.uint8)
    return state


def test_a_forged_link_is_named(index):
    size = SIZES["label"] + 8
    for name, at, value, kind, message in (
        ("data_level0", 5 * size + 4, N, "<u4", f"a link in layer 0 leads to node {N} of {N}"),
        ("data_level0", 5 * size + 4, 2**32 - 1, "<u4", "a link in layer 0 leads to node 4294967295"),
        ("data_level0", 5 * size, 2 * M + 1, "<u2", f"a list of layer 0 counts {2 * M + 1} links of {2 * M}"),
        ("data_level0", 5 * size + SIZES["label"], N, "<u8", f"label {N} is beyond the {N} rows"),
        ("data_level0", 5 * size + SIZES["label"], 2**63, "<u8", "label 9223372036854775808 is beyond"),
        ("data_level0", 5 * size + SIZES["label"], 6, "<u8", "two of its nodes have one label"),
        ("link_lists", 4, N + 3, "<u4", f"a link in the upper layers leads to node {N + 3} of {N}"),
        ("link_lists", 0, M + 1, "<u2", f"a list of the upper layers counts {M + 1} links"),
    ):
        with pytest.raises(ab.IndexCorruptError, match=message):
            Adjacency.from_state(poke(state_of(index), name, at, value, kind))


def test_a_link_into_a_layer_that_the_row_is_not_in_is_refused(index):
    """The walk would read the lists of another row."""
    state = state_of(index)
    levels = state["element_levels"][:N]
    bottom = int(np.flatnonzero(levels == 0)[0])
    with pytest.raises(ab.IndexCorruptError, match="a link in layer 1 leads to a row that is not in that layer"):
        Adjacency.from_state(poke(state, "link_lists", 4, bottom))


def test_an_entry_point_below_the_top_is_refused(index):
    state = state_of(index)
    bottom = int(np.flatnonzero(state["element_levels"][:N] == 0)[0])
    with pytest.raises(ab.IndexCorruptError, match="its entry point is not in the top layer"):
        Adjacency.from_state(spoil(state, "enterpoint_node", bottom))


def test_labels_must_be_below_the_rows(index, file):
    for make in (lambda: Adjacency.from_index(index, N - 1), lambda: Adjacency.from_file(file, N - 1)):
        with pytest.raises(ab.IndexCorruptError, match=f"label {N - 1} is beyond the {N - 1} rows of the store"):
            make()


def test_a_file_of_another_dimension_is_refused(file):
    with pytest.raises(ab.IndexCorruptError, match=f"{file.name}: .*its vectors have {DIM} values instead of 5"):
        Adjacency.from_file(file, dim=5)


def test_a_file_of_another_m_is_refused(file):
    assert len(Adjacency.from_file(file, M=M)) == N
    with pytest.raises(ab.IndexCorruptError, match=f"its lists hold {M} links instead of 16"):
        Adjacency.from_file(file, M=16)


def test_a_cut_file_is_refused_wherever_it_ends(file):
    data = file.read_bytes()
    for end in [*range(120), *range(120, len(data), 37), *range(len(data) - 90, len(data))]:
        file.write_bytes(data[:end])
        with pytest.raises(ab.IndexCorruptError, match="graph"):
            Adjacency.from_file(file)
    file.write_bytes(data + b"\0\0\0\0")
    with pytest.raises(ab.IndexCorruptError, match="its upper layers do not end with the file"):
        Adjacency.from_file(file)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("level0", lambda a: a[:-1], "levels of"),
        ("level0", lambda a: a[0], "wrong shape"),
        ("level0", lambda a: a.astype(np.float32), "whole numbers"),
        (
            "level0",
            lambda a: np.where(np.arange(a.size).reshape(a.shape) == 9, N, a),
            f"a link in layer 0 leads to row {N}",
        ),
        (
            "level0",
            lambda a: np.where(np.arange(a.size).reshape(a.shape) == 9, -2, a),
            "a link in layer 0 leads to row -2",
        ),
        ("level0", lambda a: a[:, :0], "no width"),
        ("upper", lambda a: a[:-1], "lists above layer 0"),
        ("upper", lambda a: a + N, "a link in the upper layers leads to row"),
        ("upper", lambda a: np.zeros_like(a), "not in that layer"),
        ("levels", lambda a: np.zeros_like(a), "lists above layer 0 but needs 0"),
        ("levels", lambda a: a.astype(np.int64) - 1, "a row is in -1 upper layers"),
        ("levels", lambda a: a + 150, "upper layers"),
        ("entry", lambda a: a + N, "its entry point is row"),
        ("entry", lambda a: np.array([-1]), "links but no entry point"),
        ("entry", lambda a: a[:0], "its entry point is not a number"),
        ("entry", lambda a: a * 0.5, "its entry point is not a number"),
    ],
)
def test_forged_arrays_are_refused(index, name, change, message):
    arrays = Adjacency.from_index(index).arrays()
    with pytest.raises(ab.IndexCorruptError, match=message):
        Adjacency.from_arrays({**arrays, name: change(arrays[name])})


def test_arrays_of_other_rows_are_refused(index):
    arrays = Adjacency.from_index(index).arrays()
    with pytest.raises(ab.IndexCorruptError, match=f"it has {N} rows, the store {N + 1}"):
        Adjacency.from_arrays(arrays, N + 1)
    with pytest.raises(ab.IndexCorruptError, match="'upper' is missing"):
        Adjacency.from_arrays({name: array for name, array in arrays.items() if name != "upper"})


# ---- fuzz


def walkable(adjacency, rng):
    """Hold every index that the kernel computes against its array, in plain Python; then walk."""
    links = adjacency.links
    n, levels = len(adjacency), adjacency.arrays()["levels"]
    assert links.entry == -1 or 0 <= links.entry < n
    assert links.entry == -1 or links.levels <= levels[links.entry]
    assert links.level0.min(initial=-1) >= -1
    assert links.level0.max(initial=-1) < n
    for row, level in itertools.product(range(n), range(1, links.levels + 1)):
        if levels[row] < level:
            continue
        around = links.upper[links.start[row] + level - 1]
        assert links.start[row] >= 0
        assert all(levels[other] >= level for other in around if other >= 0)
    if n > N:
        return
    rows = rng.standard_normal((n, DIM)).astype(np.float32)
    found = Walk(adjacency).query(Keys(rows), rows[:3], np.zeros(min(3, n)), 4, ef=9)
    assert found.ids.max(initial=-1) < n


def fuzzed(rng, fields, arrays):
    """Change a field, or some bytes, words or halves of an array, in place."""
    if rng.random() < 0.35:
        name = fields.dtype.names[rng.integers(len(fields.dtype.names))]
        kind = fields.dtype[name]
        if kind.kind == "f":
            return
        info = np.iinfo(kind)
        old = int(fields[name])
        options = [0, 1, info.max, info.min, old + 1, old - 1, 2 * old, int(rng.integers(min(info.max, 2**62)))]
        fields[name] = min(max(options[rng.integers(len(options))], info.min), info.max)
        return
    data = arrays[rng.integers(len(arrays))]
    if not len(data):
        return
    for _ in range(rng.integers(1, 4)):
        width = int(rng.choice([1, 2, 4]))
        at = int(rng.integers(max(len(data) // width, 1))) * width
        part = data[at : at + width]
        value = rng.choice(
            [0, 1, N - 1, N, 2**16 - 1, 2**31, 2**32 - 1, int(rng.integers(2**32)), int(rng.integers(N))]
        )
        part[:] = np.array([value], "<u4").view(np.uint8)[: len(part)]


def test_random_changes_of_the_file(file):
    """Refused, or harmless. hnswlib itself is never asked to load it."""
    rng = np.random.default_rng(8)
    data = np.fromfile(file, np.uint8)
    size = SIZES["label"] + 8
    refused = 0
    for turn in range(MUTATIONS):
        changed = data.copy()
        fields = changed[: _HEADER.itemsize].view(_HEADER)[:1]
        nodes = changed[96 : 96 + N * size]
        fuzzed(rng, fields[0], [nodes, changed[96 + N * size :]])
        changed.tofile(file)
        try:
            adjacency = Adjacency.from_file(file, None if turn % 2 else N)
        except ab.IndexCorruptError:
            refused += 1
            continue
        if turn % 3 == 0:
            walkable(adjacency, rng)
    assert refused > MUTATIONS / 2


def test_random_changes_of_the_memory(index):
    rng = np.random.default_rng(9)
    whole = state_of(index)
    refused = 0
    for turn in range(MUTATIONS):
        state = state_of_copy(whole)
        fields = np.zeros(1, _HEADER)
        for name in _HEADER.names:
            fields[name] = state[name]
        arrays = [state["data_level0"].view(np.uint8), state["link_lists"].view(np.uint8)]
        arrays.append(state["element_levels"].view(np.uint8)[: 4 * N])
        fuzzed(rng, fields[0], arrays)
        state |= {name: fields[name][0].item() for name in _HEADER.names}
        try:
            adjacency = Adjacency.from_state(state, None if turn % 2 else N)
        except ab.IndexCorruptError:
            refused += 1
            continue
        if turn % 3 == 0:
            walkable(adjacency, rng)
    assert refused > MUTATIONS / 2


def state_of_copy(state):
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in state.items()}


def test_random_changes_of_the_arrays(index):
    rng = np.random.default_rng(10)
    whole = Adjacency.from_index(index).arrays()
    refused = 0
    for turn in range(MUTATIONS):
        arrays = state_of_copy(whole)
        name = list(arrays)[rng.integers(4)]
        flat = arrays[name].reshape(-1)
        for _ in range(rng.integers(1, 4)):
            info = np.iinfo(flat.dtype)
            value = int(rng.choice([-2, -1, 0, 1, N - 1, N, 2**31 - 1, int(rng.integers(N))]))
            flat[rng.integers(len(flat))] = min(max(value, info.min), info.max)
        try:
            adjacency = Adjacency.from_arrays(arrays)
        except ab.IndexCorruptError:
            refused += 1
            continue
        if turn % 3 == 0:
            walkable(adjacency, rng)
    assert refused > MUTATIONS / 4


def test_holes_and_widths_that_do_not_fit_are_refused():
    """hnswlib would follow them out of its memory when rows are added."""
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((400, 6)).astype(np.float32)
    index = hnswlib.Index("l2", 6)
    index.init_index(400, M=4, ef_construction=20, random_seed=1)
    index.add_items(rows, num_threads=1)
    arrays = Adjacency.from_index(index).arrays()
    for name in ("level0", "upper"):
        holed = {part: array.copy() for part, array in arrays.items()}
        place = np.flatnonzero(holed[name][:, 1] >= 0)[0]
        holed[name][place, 0] = -1
        with pytest.raises(ab.IndexCorruptError, match="goes on after its end"):
            Adjacency.from_arrays(holed)
    for wrong in (arrays["level0"][:, :-1], np.pad(arrays["level0"], ((0, 0), (0, 5)), constant_values=-1)):
        with pytest.raises(ab.IndexCorruptError, match=f"its lists hold {wrong.shape[1]} links in layer 0 and 4 above"):
            Adjacency.from_arrays(arrays | {"level0": wrong})
