"""Messages and bounds of what came with payload, where, folders and budgets; a refused write changes nothing."""

import os
import pickle
import subprocess
import sys
import time
import warnings
from copy import deepcopy

import numpy as np
import pytest
from test_bad_input import test_bad_add_changes_nothing as bad_adds
from test_bridge import METRICS, distance, similarity

import attnbridge as ab
from attnbridge.integrations import ExactIndex, HnswIndex

Bridge = ab.AttentionVectorBridge


def with_payload():
    bridge = Bridge(dim=3)
    payload = {"year": [1998, 2011, None], "lang": ["en", None, "de"]}
    bridge.add(np.eye(3), ids=["a", "b", "c"], tokens=[np.eye(4)[:2], np.eye(4)[1:], None], payload=payload)
    return bridge


@pytest.fixture
def small():
    return with_payload()


def everything(bridge):
    ids = bridge.ids()
    return ids, bridge.get(ids).tolist(), bridge.payload(ids), [t.tolist() for t in bridge.get_tokens(ids)]


# ---- payload


@pytest.mark.parametrize(
    ("error", "message", "payload"),
    [
        (ab.DimensionMismatchError, "payload column 'year' must have one value for each of 2 rows, got 3", [1, 2, 3]),
        (ab.DimensionMismatchError, "one value for each of 2 rows, got 0", []),
        (ab.InvalidInputError, "payload column 'year' must hold values of one type", [object(), 1]),
        (ab.InvalidInputError, r"one type .*: position 1 is 'x' \(str\) after int", [1, "x"]),
        (ab.InvalidInputError, "payload column 'year' must be int64 as stored, got string", ["x", "y"]),
        (ab.InvalidInputError, "payload column 'year' must be a list, a numpy array", 5),
    ],
)
def test_bad_payload_changes_nothing(small, error, message, payload):
    before = everything(small)
    with pytest.raises(error, match=message):
        small.add(np.ones((2, 3)), ["d", "a"], payload={"lang": ["x", "y"], "year": payload})
    assert everything(small) == before
    if isinstance(payload, list):
        with pytest.raises(error, match=message):
            small.set_payload(["a", "b"], {"lang": ["x", "y"], "year": payload})
    assert everything(small) == before
    small.add([[1.0, 1.0, 1.0]], ["d"], payload={"year": [2020]})
    assert small.search([1, 1, 1], k=1, where="year = 2020").payload == [{"year": 2020, "lang": None}]


def test_payload_that_is_no_table(small):
    for payload in ("x", 5, [1], [{"year": 1}]):
        with pytest.raises(
            ab.InvalidInputError, match="payload must be a dict of columns or a pandas, polars or pyarr"
        ):
            small.add(np.ones((1, 3)), ["d"], payload=payload)
    with pytest.raises(ab.InvalidInputError, match="payload must not have a column 'ID': id is the document's id"):
        small.add(np.ones((1, 3)), ["d"], payload={"ID": [1]})
    assert small.ids() == ["a", "b", "c"]


def test_set_payload_of_unknown_ids_changes_nothing(small):
    before = everything(small)
    with pytest.raises(ab.UnknownIdError, match="id 'z' is not in the index, which holds 3 rows with str ids"):
        small.set_payload(["a", "z"], {"year": [1, 2], "new": [1, 2]})
    with pytest.raises(ab.DimensionMismatchError, match="payload column 'year' must have one value for each of 2 rows"):
        small.set_payload(["a", "b"], {"year": [1]})
    assert everything(small) == before
    small.set_payload([], {"year": []})
    small.set_payload(["a"], {})
    small.set_payload([], {"year": 5})
    assert everything(small) == before
    small.set_payload(["a", "b", "a"], {"year": [1, 2, 3]})  # the last one wins
    assert [one["year"] for one in small.payload(["a", "b"])] == [3, 2]


@pytest.mark.parametrize("case", bad_adds.pytestmark[0].args[1], ids=lambda case: case[1][:40])
def test_every_bad_add_leaves_payload_and_tokens_as_they_are(small, case):
    error, message, vectors, options = case
    if "ids" not in options and "ids must be given" not in message:
        options = {"ids": [f"new{i}" for i in range(len(np.atleast_1d(np.array(vectors, dtype=object))))]}
    before, view = everything(small), small._state.store.view
    count = len(vectors) if hasattr(vectors, "__len__") else 0
    with pytest.raises(error):
        small.add(vectors, **options, payload={"year": [7] * count, "new": ["x"] * count})
    assert everything(small) == before
    assert small._state.store.view is view
    small.add([[1.0, 1.0, 1.0]], ids=["d"], payload={"new": [1]})
    assert small.payload("d") == {"year": None, "lang": None, "new": 1}


# ---- where


@pytest.mark.parametrize(
    ("message", "where", "params"),
    [
        ("where must be one SQL expression: syntax error", "year >", None),
        ("where must be one SQL expression", "year > 1; DROP TABLE x", None),
        ("where must have no subquery", "SELECT 1", None),
        ("where cannot be evaluated: .*nowhere.*; the columns are id, year, lang", "nowhere > 1", None),
        ("params must have a value for each .name in where: 'y' is missing; add it", "year > $y", None),
        ("'y' is missing", "year > $y", {"x": 1}),
        ("params must be named in where: 'x' is not", "year > 1", {"x": 1}),
        ("params must be a dict", "year > $y", "y"),
        ("where must name its parameters", "year > ?", None),
        ("where must be a BOOLEAN expression, got", "year + 1", None),
        ("where must be a SQL expression as str, got int", 5, None),
        ("where must not be empty", "  ", None),
        ("where must have no subquery", "year IN (SELECT 1)", None),
        ("where must not aggregate", "max(year) > 1", None),
        ("is not allowed|is unknown|must be made of", "read_text('/etc/passwd') = ''", None),
    ],
)
def test_bad_where_through_every_door(small, message, where, params):
    before = everything(small)
    for ask in (
        lambda: small.search([1, 0, 0], where=where, params=params),
        lambda: small.search(id="a", where=where, params=params),
        lambda: small.search([1, 0, 0], where=where, params=params, filter=["a"], exact=True),
        lambda: small.search_batch(np.eye(3), where=where, params=params),
        lambda: small.search_batch(np.eye(3), where=[None, where, None], params=[None, params, None]),
        lambda: small.delete(where=where, params=params),
    ):
        with pytest.raises(ab.InvalidInputError, match=message):
            ask()
    assert everything(small) == before
    assert small.search([1, 0, 0], where="year > 2000").ids == ["b"]


def test_params_without_where(small):
    for ask in (
        lambda: small.search([1, 0, 0], params={}),
        lambda: small.search_batch(np.eye(3), params={"a": 1}),
        lambda: small.search_batch(np.eye(3), where=[None, "year > $y", None], params=[{}, {"y": 1}, None]),
        lambda: small.ids(params={"y": 1}),
        lambda: small.delete(["a"], params={"y": 1}),
    ):
        with pytest.raises(ab.InvalidInputError, match="params are values for where=, which is not given"):
            ask()


def test_params_of_one_expression_among_queries_without(small):
    found = small.search_batch(np.eye(3), where=[None, "year > $y", None], params={"y": 2000})
    assert [len(hits) for hits in found] == [3, len(small.ids(where="year > $y", params={"y": 2000})), 3]
    assert found[1].ids == small.ids(where="year > 2000") == ["b"]


def test_delete_takes_ids_or_where(small):
    with pytest.raises(ab.InvalidInputError, match=r"either ids or where=, neither given; clear\(\) takes everything"):
        small.delete()
    with pytest.raises(ab.InvalidInputError, match="either ids or where=, both given"):
        small.delete(["a"], where="year > 1")
    assert small.delete(where="false") == 0
    assert len(small) == 3


@pytest.mark.parametrize("name", ["filter", "where", "params"])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_lists_of_the_wrong_length_in_a_batch(small, name, length):
    one = {"filter": ["a"], "where": "year > $y", "params": {"y": 1}}
    options = {"where": "year > $y", "params": {"y": 1}} | {name: [one[name]] * length}
    if name == "filter":
        options = {"filter": [["a"]] * length}
    with pytest.raises(ab.InvalidInputError, match=f"{name} must have one entry for each of 3 queries, got {length}"):
        small.search_batch(np.eye(3), **options)


# ---- radius and budget


@pytest.mark.parametrize("value", [np.nan, np.inf, "x", [1]])
@pytest.mark.parametrize("name", ["radius", "time_budget", "threshold"])
def test_bad_numbers(small, name, value):
    for ask in (small.search, lambda query, **options: small.search_batch([query], **options)):
        with pytest.raises(ab.InvalidConfigError, match=f"{name} must be a finite number"):
            ask([1, 0, 0], **{name: value})


@pytest.mark.parametrize("value", [0, 0.0, -1])
def test_a_budget_must_be_positive(small, value):
    with pytest.raises(ab.InvalidConfigError, match=f"time_budget must be a finite number > 0, got {value}"):
        small.search([1, 0, 0], time_budget=value)


@pytest.mark.parametrize("index", ["hnsw", "exact"])
@pytest.mark.parametrize("metric", METRICS)
def test_radius_equals_brute_force(rng, metric, index):
    rows = rng.standard_normal((700, 5)).astype(np.float32)
    wide = {"M": 48, "ef": 700, "ef_construction": 700, "threads": 1} if index == "hnsw" else {}  # misses nothing
    bridge = Bridge(dim=5, metric=metric, index=index, **wide)
    bridge.add(rows, payload={"n": np.arange(700)})
    bridge.delete(range(0, 700, 7))
    live = [i for i in range(700) if i % 7]
    for query in rng.standard_normal((4, 5)).astype(np.float32):
        far = distance(metric, similarity(metric, query, rows[live]))
        order = np.argsort(far, kind="stable")
        for count in (0, 1, 30, 150, 599, 600):
            radius = far[order[0]] - 0.5 if count == 0 else far[order[count - 1]] + 1e-4
            inside = [live[i] for i in order if far[i] <= radius]
            hits = bridge.search(query, radius=radius)
            assert hits.ids == inside
            assert hits.candidates == len(inside)
            assert hits.complete
            assert bridge.search(query, radius=radius, k=20, offset=3).ids == inside[3:23]
            assert bridge.search(query, radius=radius, candidates=1, exact=True).ids == inside
            assert bridge.search(query, radius=radius, where="n < 350").ids == [i for i in inside if i < 350]
            (batch,) = bridge.search_batch([query], radius=radius)
            assert batch == hits
    assert bridge.search(id=1, radius=1e6).ids == bridge.search(id=1, k=700).ids
    assert len(bridge.search(id=1, radius=1e6)) == 599


def test_a_tiny_budget_still_gives_hits(monkeypatch):
    monkeypatch.setattr("attnbridge.integrations.nearest._VALUES_A_LOOK", 2_000)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5_000, 4)).astype(np.float32)
    bridge = Bridge(dim=4, metric="l2", index="exact")
    bridge.add(rows)
    hits = bridge.search(rows[7], k=5, exact=True, time_budget=1e-9)
    assert not hits.complete
    assert "time was over" in repr(hits)
    first = similarity("l2", rows[7], rows[:500])  # what is read before the first look at the clock
    assert hits.ids == np.argsort(-first, kind="stable")[:5].tolist()
    full = bridge.search(rows[7], k=5, exact=True)
    assert full.complete
    assert bridge.search(rows[7], k=5, exact=True, time_budget=1e6) == full
    stages = bridge.search(rows[7], k=5, time_budget=1e-9, rerank=ab.QueryExpansion())
    assert not stages.complete
    assert list(stages.parts) == ["scaled_dot"]
    batch = bridge.search_batch(rows[:40], k=5, time_budget=1e-9, threads=1)
    assert [len(hits) > 0 for hits in batch] == [True] * 4 + [False] * 36
    assert not any(hits.complete for hits in batch)
    assert bridge.search_batch(rows[7:8], k=5, time_budget=1e6) == [full]
    within = bridge.search(rows[7], radius=4.0, time_budget=1e-9)
    assert not within.complete
    assert set(within.ids) <= set(bridge.search(rows[7], radius=4.0).ids)


# ---- hits and tables


def test_payload_of_hits_is_that_of_the_moment_of_the_search(small):
    hits = small.search([1, 0.5, 0.1], k=3)
    late = small.search([1, 0.5, 0.1], k=3)
    small.set_payload(["a", "b"], {"year": 1, "new": "x"})
    small.delete("c")
    small.compact()
    assert hits.payload == [{"year": 1998, "lang": "en"}, {"year": 2011, "lang": None}, {"year": None, "lang": "de"}]
    frame, table = hits.to_pandas(), hits.to_arrow()
    assert frame["payload_lang"].isna().tolist() == [False, True, False]
    assert table["payload_lang"].to_pylist() == ["en", None, "de"]
    assert table["payload_year"].to_pylist() == [1998, 2011, None]
    again = pickle.loads(pickle.dumps(late))
    assert again == late
    assert again.payload == hits.payload
    assert small.search([1, 0.5, 0.1]).payload[0] == {"year": 1, "lang": "en", "new": "x"}
    assert Bridge(dim=2, index="exact").search([1, 0]).payload == []


def test_to_arrow_and_the_name_vector(small):
    table = small.to_arrow()
    assert table.column_names == ["id", "vector", "year", "lang"]
    assert table.to_pylist()[1] == {"id": "b", "vector": [0.0, 1.0, 0.0], "year": 2011, "lang": None}
    small.set_payload("a", {"vector": "x"})
    with pytest.raises(ab.InvalidInputError, match="payload must have no column 'vector' for to_arrow"):
        small.to_arrow()
    assert Bridge(dim=2, index="exact").to_arrow().num_rows == 0


def test_memory_adds_up():
    rng = np.random.default_rng(0)
    for index in ("hnsw", "exact"):
        bridge = Bridge(dim=16, index=index)
        tokens = [np.ones((3, 8))] * 1000
        bridge.add(rng.standard_normal((1000, 16)), tokens=tokens, payload={"n": np.arange(1000)})
        parts = bridge.memory()
        assert parts["rows"] == 1000 * 16 * 4
        assert parts["norms"] == 1000 * 8
        assert parts["tokens"] == 1000 * (3 * 8 * 2 + 8 + 8)
        assert parts["payload"] == 1000 * 8
        assert parts["graph"] >= 1000 * 16 * 4 if index == "hnsw" else parts["graph"] == 0
        assert parts["ids"] > 1000 * 8
        assert parts["resident"] > sum(size for name, size in parts.items() if name != "resident")
        bridge.delete(range(500))
        assert bridge.memory()["rows"] == parts["rows"]  # dead ones included
        bridge.compact()
        assert bridge.memory()["rows"] == parts["rows"] // 2


# ---- pickle


def dumped(bridge, how, folder):
    if how == "pickle":
        return pickle.loads(pickle.dumps(bridge))
    if how == "deepcopy":
        return deepcopy(bridge)
    joblib = pytest.importorskip("joblib")
    joblib.dump(bridge, folder / "bridge.joblib")
    return joblib.load(folder / "bridge.joblib")


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "joblib"])
@pytest.mark.parametrize("index", ["hnsw", "exact"])
def test_copies_are_whole_and_independent(tmp_path, rng, index, how):
    bridge = Bridge(dim=6, index=index, model="m", candidates=17, scale=3.0, **({"M": 5} if index == "hnsw" else {}))
    rows = rng.standard_normal((600, 6))
    tokens = [np.full((i % 3, 2), i) for i in range(600)]
    bridge.add(rows, [f"d{i}" for i in range(600)], tokens=tokens, payload={"n": np.arange(600)})
    bridge.delete(where="n % 5 = 0")
    made = dumped(bridge, how, tmp_path)
    assert made.config == bridge.config
    assert everything(made) == everything(bridge)
    assert (made._state.source.linked if index == "hnsw" else 600) == 600  # the graph comes along
    for query in rows[:20]:
        assert made.search(query) == bridge.search(query)
        assert made.search(query, where="n < 100").ids == bridge.search(query, where="n < 100").ids
    made.add(rows[:1], ["new"])
    made.delete("d1")
    assert "new" not in bridge
    assert "d1" in bridge
    assert made.search(rows[0], k=1).ids == ["new"]
    assert len(made) == len(bridge)


def test_a_source_of_ones_own_keeps_its_settings():
    for make in (HnswIndex, ExactIndex):
        options = {"M": 5, "ef": 33, "ef_construction": 44, "seed": 3} if make is HnswIndex else {}
        bridge = Bridge(dim=2, index=make(dim=2, **options))
        bridge.add(np.eye(2))
        before = bridge.config
        bridge.delete(0)
        assert bridge.compact() == 1
        assert bridge.config == before
        bridge.clear()
        assert bridge.config == before


# ---- folders


@pytest.fixture
def folder(tmp_path, small):
    small.model = "my-model"
    small.save(tmp_path / "index")
    return tmp_path / "index"


WRITES = {
    "add": lambda bridge: bridge.add([[1.0, 2.0, 3.0]], ["d"]),
    "set_payload": lambda bridge: bridge.set_payload("a", {"year": 1}),
    "delete": lambda bridge: bridge.delete("a"),
    "delete where": lambda bridge: bridge.delete(where="year > 1"),
    "clear": lambda bridge: bridge.clear(),
    "compact": lambda bridge: bridge.compact(),
}


def test_bad_options_of_open(folder):
    for options, message in [
        ({"verify": "x"}, "verify must be one of full, lazy; got 'x'"),
        ({"verify": True}, "verify must be one of full, lazy; got True"),
        ({"read_only": True, "journal": True}, "journal must be False with read_only=True"),
        ({"model": "other"}, "model must be 'my-model', which made the vectors of .*, got 'other'"),
        ({"model": 5}, "model must be"),
        ({"threads": 0}, "threads must be a whole number >= 1, got 0"),
        ({"journal": True, "model": "other"}, "model must be 'my-model'"),
    ]:
        with pytest.raises(ab.InvalidConfigError, match=message):
            Bridge.open(folder, **options)
    assert not (folder / "LOCK").exists()  # nor is it held by what was refused
    with Bridge.open(folder, model="my-model") as bridge:
        bridge.model = None
        bridge.save(folder)
    with pytest.raises(
        ab.InvalidConfigError, match=r"model cannot be compared: .* does not say which made its vectors"
    ):
        Bridge.open(folder, model="my-model")


@pytest.mark.parametrize("name", WRITES)
def test_writes_on_read_only_and_on_closed_bridges(folder, name):
    reader = Bridge.open(folder, read_only=True)
    closed = Bridge.open(folder, journal=True)
    closed.close()
    closed.close()
    for bridge, message in [
        (reader, "read_only must be False for a write, but .* was opened with read_only=True"),
        (closed, "a closed bridge cannot be written to: open .* again"),
    ]:
        before = everything(bridge)
        with pytest.raises(ab.InvalidConfigError, match=message):
            WRITES[name](bridge)
        with pytest.raises(ab.InvalidConfigError, match=message):
            bridge.save(folder)
        assert everything(bridge) == before
        assert bridge.search([1, 0, 0], k=1, where="year > 1").ids == ["a"]
        bridge.save(folder.parent / "copy")  # elsewhere it may
        assert everything(Bridge.open(folder.parent / "copy")) == before
    with pytest.raises(ab.InvalidConfigError, match="a closed bridge cannot reload"):
        closed.reload()


_HOLDER = """
import sys, attnbridge as ab
bridge = ab.AttentionVectorBridge.open(sys.argv[1], journal=True)
print("open", flush=True)
for line in sys.stdin:
    bridge.add([[1.0, 2.0, 3.0]], [line.strip()], payload={"year": [5]})
    print("added", flush=True)
"""


def test_a_folder_that_another_process_writes(folder):
    stale = Bridge.open(folder)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "open\n"
        message = f"is open for writing by process {holder.pid} "
        with pytest.raises(ab.ConcurrencyError, match=message):
            Bridge.open(folder, journal=True)
        for write in WRITES.values():
            before = everything(stale)
            with pytest.raises(ab.ConcurrencyError, match=message):
                write(stale)
            assert everything(stale) == before
        with pytest.raises(ab.ConcurrencyError, match=message):
            stale.save(folder)
        reader = Bridge.open(folder, read_only=True)
        assert reader.reload() is False
        holder.stdin.write("new\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "added\n"
        assert reader.reload() is True
        assert reader.payload("new") == {"year": 5, "lang": None}
    finally:
        holder.kill()
        holder.communicate()
    with pytest.raises(
        ab.ConcurrencyError, match=r"has been written to since this bridge was opened; reload\(\) reads"
    ):
        stale.add([[1.0, 1.0, 1.0]], ["mine"])
    assert stale.reload()
    stale.add([[1.0, 1.0, 1.0]], ["mine"])
    assert stale.ids() == ["a", "b", "c", "new", "mine"]


def test_reload_without_a_folder_and_over_changes(folder, small):
    with pytest.raises(ab.InvalidConfigError, match="reload needs a bridge that was opened from a folder"):
        Bridge(dim=3).reload()
    bridge = Bridge.open(folder)
    bridge.add([[1.0, 1.0, 1.0]], ["mine"])
    bridge.save(folder)
    other = Bridge.open(folder)
    bridge.add([[1.0, 1.0, 2.0]], ["not saved"])
    other.add([[1.0, 1.0, 3.0]], ["other"])
    other.save(folder)
    with pytest.raises(ab.ConcurrencyError, match=r"holds changes that are not saved: save\(\) it to another folder"):
        bridge.reload()
    assert bridge.ids() == ["a", "b", "c", "mine", "not saved"]
    different = Bridge(dim=2)
    different.save(folder)
    with pytest.raises(ab.InvalidConfigError, match="now holds vectors of dim=2, metric='cosine', not dim=3"):
        other.reload()
    assert other.ids() == ["a", "b", "c", "mine", "other"]


def test_reload_takes_the_settings_too(folder):
    reader = Bridge.open(folder, read_only=True)
    with Bridge.open(folder) as bridge:
        bridge._set_search(ef=77, candidates=55)
        bridge.model = "newer"
        bridge.save(folder)
        assert reader.reload()
        assert reader.config == bridge.config
        assert (reader.config["ef"], reader.config["candidates"]) == (77, 55)
    changed = Bridge(dim=3, scale=2.0, index="exact")
    changed.add(np.eye(3), ids=list("abc"))
    changed.save(folder)
    assert reader.reload()
    assert reader.config == changed.config
    assert reader.search([1, 0, 0]) == changed.search([1, 0, 0])


def test_a_journal_cut_in_the_middle_of_a_record(folder):
    with Bridge.open(folder, journal=True) as bridge:
        bridge.add([[1.0, 2.0, 3.0]], ["d"], payload={"year": [7]})
        (journal,) = folder.glob("journal-*")
        whole = journal.stat().st_size
        bridge.set_payload("d", {"year": 8})
    raw = journal.read_bytes()
    for size in (whole + 1, whole + 30, len(raw) - 1):
        journal.write_bytes(raw[:size])
        for options in ({}, {"read_only": True}, {"verify": "lazy"}):
            with pytest.warns(RuntimeWarning, match="ends in an operation that was cut off .* never acknowledged"):
                again = Bridge.open(folder, **options)
            assert again.payload("d")["year"] == 7
            again.close()
    with pytest.warns(RuntimeWarning, match="cut off"):
        bridge = Bridge.open(folder, journal=True)
    bridge.set_payload("d", {"year": 9})
    bridge.close()
    assert Bridge.open(folder).payload("d")["year"] == 9
    journal.write_bytes(raw[: whole - 20] + b"?" + raw[whole - 19 :])
    with pytest.raises(ab.IndexCorruptError, match=f"{journal.name} is damaged at byte"):
        Bridge.open(folder)


# ---- lazy verification


@pytest.fixture
def large(tmp_path, rng):
    """Return a folder whose rows fill several blocks, and the rows."""
    rows = rng.standard_normal((3_000, 64)).astype(np.float32)
    bridge = Bridge(dim=64, metric="l2")
    bridge.add(rows, payload={"n": np.arange(3_000)})
    bridge.save(tmp_path / "index")
    return tmp_path / "index", rows


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 64]))


def test_damage_that_is_not_touched_does_not_matter(large):
    folder, rows = large
    (path,) = folder.rglob("rows.npy")
    flip(path, path.stat().st_size - 100)  # the last block
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged"):
        Bridge.open(folder, verify="full")
    bridge = Bridge.open(folder, verify="lazy", read_only=True)
    allowed = list(range(200))
    truth = np.argsort(-similarity("l2", rows[5], rows[:200]), kind="stable")[:10].tolist()
    assert bridge.search(rows[5], filter=allowed).ids == truth
    assert bridge.search(rows[5], where="n < 200").ids == truth
    assert bridge.get(7).tolist() == rows[7].tolist()
    for touch in (
        lambda: bridge.get(2_999),
        lambda: bridge.search(rows[5], exact=True),
        lambda: bridge.search(id=2_999),
        lambda: bridge.search_batch(rows[:3], exact=True),
        lambda: bridge.to_arrow(),
        lambda: bridge.save(folder.parent / "copy"),
        lambda: pickle.dumps(bridge),
    ):
        for _ in range(2):
            with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged"):
                touch()
    assert bridge.search(rows[5], filter=allowed).ids == truth
    with Bridge.open(folder, verify="lazy") as writer:
        with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged"):
            writer.add(rows[:1], [5_000])
        assert len(writer) == 3_000


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_graph_is_walked_at_once_and_hnswlib_is_loaded_for_linking(large):
    folder, rows = large
    bridge = Bridge.open(folder, verify="lazy")
    graph = bridge._state.source
    truth = bridge.search(rows[5], exact=True).ids
    assert len(set(bridge.search(rows[5]).ids) & set(truth)) >= 9
    assert (graph.linked, len(graph.index)) == (3_000, 0)
    links = bridge.memory()["graph"]
    assert links < 3_000 * 64 * 4
    bridge.delete(7)
    assert 7 not in bridge.search(rows[7]).ids
    assert len(graph.index) == 0
    bridge.add(rows[:300] + 0.5, range(5_000, 5_300))
    assert (graph.linked, len(graph.index)) == (3_300, 3_299)
    assert bridge.memory()["graph"] > links + 3_000 * 64 * 4


def test_hnswlib_as_the_engine_is_loaded_after_the_first_search(large):
    folder, rows = large
    hnsw = Bridge(dim=64, metric="l2", engine="hnswlib", threads=1)
    hnsw.add(rows)
    hnsw.save(folder)
    bridge = Bridge.open(folder, verify="lazy", read_only=True)
    assert bridge.config["engine"] == "hnswlib"
    truth = bridge.search(rows[5], exact=True).ids
    assert bridge.search(rows[5]).ids == truth
    wait_until(lambda: bridge._state.source.ready)
    assert len(bridge._state.source.index) == 3_000
    for query in rows[:20]:
        assert bridge.search(query) == hnsw.search(query)
    assert bridge.memory()["graph"] > 3_000 * 64 * 4


def test_damaged_rows_are_named_where_somebody_waits_for_hnswlib(large):
    folder, rows = large
    hnsw = Bridge(dim=64, metric="l2", engine="hnswlib")
    hnsw.add(rows)
    hnsw.save(folder)
    (path,) = folder.rglob("rows.npy")
    flip(path, path.stat().st_size - 100)
    bridge = Bridge.open(folder, verify="lazy", read_only=True)
    assert bridge.search(rows[5], k=1, filter=[5]).ids == [5]  # what is read is sound
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged"):
        bridge.link()
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged"):
        bridge.search(rows[5], k=1)


def test_damaged_links_are_named_on_opening(large):
    folder, _ = large
    (path,) = [path for path in folder.rglob("links.npy") if path.name == "links.npy"]
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ab.IndexCorruptError, match=r"links\.npy is damaged"):
        Bridge.open(folder, verify="lazy", read_only=True)


def test_a_forked_child_may_not_use_its_parents_journal(folder):
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    bridge = Bridge.open(folder, journal=True)
    bridge.add([[1.0, 2.0, 3.0]], ["d"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            bridge.add([[1.0, 2.0, 4.0]], ["from the child"])
        except ab.ConcurrencyError:
            code = 0 if bridge.search([1, 2, 3], k=1).ids == ["d"] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bridge.add([[1.0, 2.0, 5.0]], ["e"])
    bridge.close()
    assert Bridge.open(folder).ids() == ["a", "b", "c", "d", "e"]
