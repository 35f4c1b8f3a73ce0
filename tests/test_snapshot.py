"""Saving and opening: round trips, damage of every kind, and what a folder may hold."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations import HnswIndex
from attnbridge.integrations import snapshot as snapshots

Bridge = ab.AttentionVectorBridge
CONTENT = {"CURRENT", "manifest.json", "rows.npy", "ids.json", "graph.hnsw", "tokens.npy", "token_lengths.npy"}


def filled(index="hnsw", metric="cosine", ids=None, n=200, **options):
    rng = np.random.default_rng(3)
    bridge = Bridge(dim=6, metric=metric, index=index, **options)
    bridge.add(rng.standard_normal((n, 6)), ids=ids, tokens=[rng.standard_normal((i % 4, 3)) for i in range(n)])
    return bridge


def same(a, b):
    assert a.ids() == b.ids()
    assert (len(a), a.config) == (len(b), b.config)
    ids = a.ids()
    assert a.get(ids).tobytes() == b.get(ids).tobytes()
    if a._store.tokens is not None:
        assert [t.tobytes() for t in a.get_tokens(ids)] == [t.tobytes() for t in b.get_tokens(ids)]
    queries = np.random.default_rng(4).standard_normal((12, 6))
    for options in ({}, {"exact": True}, {"filter": ids[::3]}, {"rerank": ab.QueryExpansion()}):
        assert a.search_batch(queries, k=7, **options) == b.search_batch(queries, k=7, **options)
    if a._store.tokens is not None:
        options = {"query_tokens": [np.eye(3)] * 12, "rerank": ab.LateInteraction()}
        assert a.search_batch(queries, **options) == b.search_batch(queries, **options)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


# ---- round trips


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("index", ["hnsw", "exact"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_round_trip(tmp_path, metric, index, mmap):
    graph = {"M": 5, "ef": 33, "ef_construction": 44, "seed": 6} if index == "hnsw" else {}
    bridge = filled(index, metric, scale=2.5, **graph)
    bridge.delete(list(range(0, 200, 7)))
    bridge.add(np.ones((2, 6)), ids=[3, 900])
    bridge.save(tmp_path / "deep" / "folder")
    again = Bridge.open(str(tmp_path / "deep" / "folder"), mmap=mmap)
    same(bridge, again)
    for each in (bridge, again):  # and they go on alike
        assert each.add(np.full((3, 6), [1, 2, 3, 4, 5, 6]) * [[1], [2], [-1]]) == [901, 902, 903]
        each.delete([4])
        each.add(-np.ones((1, 6)), ids=[900], tokens=[[[1.0, 2.0, 3.0]]])
    assert again.get(900).tolist() == [-1] * 6
    same(bridge, again)
    again.save(tmp_path / "deep" / "folder")  # the folder whose files are mapped
    same(bridge, again)
    same(again, Bridge.open(tmp_path / "deep" / "folder", mmap=mmap))
    assert len(list((tmp_path / "deep" / "folder").iterdir())) == 2


@pytest.mark.parametrize("ids", [["", "ä", "日本🦆", "a\nb", "\x00", "1"], [0, -1, 2**63 - 1, -(2**63), 5, 6]])
def test_ids_come_back_as_they_were(tmp_path, ids):
    bridge = Bridge(dim=2, index="exact")
    bridge.add(np.arange(12).reshape(6, 2) + 1, ids=ids)
    bridge.save(tmp_path)
    again = Bridge.open(tmp_path)
    assert again.ids() == ids
    assert [type(id) for id in again.ids()] == [type(id) for id in ids]
    assert [again.get(id).tolist() for id in ids] == [bridge.get(id).tolist() for id in ids]


def test_default_ids_go_on_after_the_largest_ever(tmp_path):
    bridge = filled("exact", n=10)
    bridge.delete([8, 9])
    bridge.save(tmp_path)
    assert Bridge.open(tmp_path).add(np.ones((1, 6))) == bridge.add(np.ones((1, 6))) == [10]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("index", ["hnsw", "exact"])
def test_empty_bridges(tmp_path, index, mmap):
    bridge = Bridge(dim=6, index=index)
    for _ in range(2):
        bridge.save(tmp_path)
        again = Bridge.open(tmp_path, mmap=mmap)
        assert (len(again), again.search(np.ones(6)).ids) == (0, [])
        again.add(np.ones((1, 6)), ids=["a"])
        assert again.search(np.ones(6)).ids == ["a"]
        bridge.add(np.ones((1, 6)), ids=["a"])  # then: everything deleted
        bridge.delete(["a"])


def test_rows_are_mapped_or_read(tmp_path):
    filled().save(tmp_path)

    def is_mapped(array):
        while isinstance(array, np.ndarray):
            if isinstance(array, np.memmap):
                return True
            array = array.base
        return False

    assert is_mapped(Bridge.open(tmp_path)._store.rows.data)
    assert is_mapped(Bridge.open(tmp_path)._store.tokens.data)
    assert not is_mapped(Bridge.open(tmp_path, mmap=False)._store.rows.data)
    (rows,) = tmp_path.glob("*/rows.npy")
    before = rows.read_bytes()
    mapped = Bridge.open(tmp_path)
    mapped.add(np.ones((300, 6)))
    mapped.delete(list(range(100)))
    assert rows.read_bytes() == before


def test_open_with_threads(tmp_path):
    filled().save(tmp_path)
    assert Bridge.open(tmp_path, threads=1).config["threads"] == 1
    with pytest.raises(ab.InvalidConfigError, match="threads must be a whole number >= 1, got 0"):
        Bridge.open(tmp_path, threads=0)


def test_what_is_on_disk(tmp_path):
    filled(n=50).save(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} | {"CURRENT"} == CONTENT
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format_version"], manifest["kind"], manifest["rows"]) == (1, "AttentionVectorBridge", 50)
    assert manifest["hnsw"] == {"M": 16, "ef_construction": 200, "ef": 100, "seed": 100}
    for name, listed in manifest["files"].items():
        raw = (folder / name).read_bytes()
        assert listed == {"bytes": len(raw), "blake2b": hashlib.blake2b(raw, digest_size=16).hexdigest()}
    assert np.load(folder / "rows.npy").shape == (50, 6)  # plain files, that anyone can read
    assert json.loads((folder / "ids.json").read_text())["ids"] == list(range(50))


# ---- damage


def find(folder, name):
    (path,) = folder.rglob(name)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "index"
    filled(n=60).save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_flipped_byte_is_found_and_its_file_named(copy, name):
    path = find(copy, name)
    raw = path.read_bytes()
    places = {0, 1, 7, len(raw) // 3, len(raw) // 2, len(raw) - 2, len(raw) - 1}
    for at in sorted(places):
        for mask in (0x01, 0x20, 0xFF):
            damaged = bytearray(raw)
            damaged[at] ^= mask
            path.write_bytes(damaged)
            with pytest.raises(ab.IndexCorruptError, match=rf"{name}.* is damaged|{name}.*restore it from a backup"):
                Bridge.open(copy)
    path.write_bytes(raw)
    assert len(Bridge.open(copy)) == 60


@pytest.mark.parametrize("name", sorted(CONTENT))
@pytest.mark.parametrize("left", [0, 1, 0.5, -1])
def test_a_file_cut_short_is_named(copy, name, left):
    path = find(copy, name)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(left * len(raw)) if isinstance(left, float) else left])
    with pytest.raises(ab.IndexCorruptError, match=f"{name} .*restore it from a backup"):
        Bridge.open(copy)


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_longer_file_is_named(copy, name):
    path = find(copy, name)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ab.IndexCorruptError, match=f"{name} .*restore it from a backup"):
        Bridge.open(copy)


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_missing_file_is_named(copy, name):
    find(copy, name).unlink()
    with pytest.raises(ab.IndexCorruptError, match=rf"{name}( is missing|; bridge\.save)"):
        Bridge.open(copy)


def test_a_missing_snapshot(copy):
    shutil.rmtree(find(copy, "manifest.json").parent)
    with pytest.raises(ab.IndexCorruptError, match="CURRENT is damaged or names a missing snapshot"):
        Bridge.open(copy)


def test_files_swapped_between_two_snapshots(copy, tmp_path):
    other = filled(n=60, metric="l2")
    other.save(tmp_path / "other")
    shutil.copy(find(tmp_path / "other", "rows.npy"), find(copy, "rows.npy"))
    shutil.copy(find(tmp_path / "other", "graph.hnsw"), find(copy, "graph.hnsw"))
    with pytest.raises(ab.IndexCorruptError, match=r"graph\.hnsw is damaged"):
        Bridge.open(copy)


def rewrite(folder, **changes):
    """Change the manifest, its checksum kept right."""
    path = find(folder, "manifest.json")
    text = json.dumps(json.loads(path.read_text()) | changes)
    path.write_text(text)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    (folder / "CURRENT").write_text(f"{path.parent.name} {digest}\n")


def test_a_newer_format(copy):
    rewrite(copy, format_version=2)
    with pytest.raises(ab.IndexCorruptError, match="has format version 2, this attnbridge reads up to 1; upgrade attn"):
        Bridge.open(copy)
    rewrite(copy, format_version=1)
    assert len(Bridge.open(copy)) == 60


def test_an_index_of_another_kind(copy, tmp_path):
    with pytest.raises(ab.IndexCorruptError, match="holds a AttentionVectorBridge, not a HnswIndex"):
        HnswIndex.open(copy)
    index = HnswIndex(dim=2)
    index.save(tmp_path / "bare")
    assert len(HnswIndex.open(tmp_path / "bare")) == 0
    with pytest.raises(ab.IndexCorruptError, match="holds a HnswIndex, not a AttentionVectorBridge"):
        Bridge.open(tmp_path / "bare")


def test_an_unknown_attention_on_disk(copy):
    rewrite(copy, attention="from_the_future")
    with pytest.raises(ab.InvalidConfigError, match=r"attention type must be one of .*; got 'from_the_future'"):
        Bridge.open(copy)


def test_what_is_no_index(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "CURRENT").mkdir()
    for name, message in [
        ("nowhere", r"nowhere does not exist; bridge\.save\(folder\) or 'attnbridge index' makes one"),
        ("file", "file is a file, not an index"),
        ("folder", "folder is no index: it has no file CURRENT"),
        ("other", "other is no index: it has no file CURRENT"),
        ("file/below", "below does not exist"),
    ]:
        with pytest.raises(ab.IndexCorruptError, match=message):
            Bridge.open(tmp_path / name)
    with pytest.raises(OSError, match="no index"):
        Bridge.open(tmp_path / "folder")


# ---- what a folder may hold


@pytest.mark.parametrize("name", ["notes.txt", "snapshot-2024", "CURRENT", ".writing-down", "rows.npy", ".hidden"])
def test_a_folder_with_other_files_is_refused(tmp_path, name):
    (tmp_path / name).write_text("MANIFEST-000001\n")  # as a LevelDB's CURRENT has it
    with pytest.raises(ab.InvalidInputError, match=r"folder must be empty or hold an index, but .* holds other files"):
        filled(n=5).save(tmp_path)
    assert files_of(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "MANIFEST-000001\n"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ab.InvalidInputError, match=r"folder must be a folder, but .*file is a file; choose another name"
    ):
        filled(n=5).save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


def test_what_others_put_into_an_index_stays(tmp_path):
    bridge = filled(n=5)
    bridge.save(tmp_path)
    for name in ("notes.txt", "snapshot-mine", ".writing-a-novel", "snapshot-0123456789ab.zip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    bridge.save(tmp_path)
    assert len(Bridge.open(tmp_path)) == 5
    for name in ("notes.txt", "snapshot-mine", ".writing-a-novel", "snapshot-0123456789ab.zip"):
        assert (tmp_path / name / "x").read_text() == "x"


def test_what_killed_saves_left_is_cleaned(tmp_path):
    bridge = filled(n=5)
    for _ in range(2):  # into a folder with nothing else, and into an index
        for name in ("snapshot-0123456789ab", ".writing-snapshot-0123456789ac"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "rows.npy").write_text("half")
        (tmp_path / ".writing-snapshot-0123456789ad-current").write_text("half")
        bridge.save(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        same(bridge, Bridge.open(tmp_path))


def test_where_saves_cannot_exclude_each_other_fresh_work_is_left_alone(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*arguments):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    bridge = filled(n=5)
    bridge.save(tmp_path)
    young, old = tmp_path / ".writing-snapshot-0123456789ab", tmp_path / ".writing-snapshot-0123456789ac"
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    bridge.save(tmp_path)
    assert (young.exists(), old.exists()) == (True, False)
    same(bridge, Bridge.open(tmp_path))


# ---- a save that fails at any step


STEPS = ["rows.npy", "ids.json", "graph.hnsw", "manifest.json", "current", "rename", "replace", "sync"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("before", [True, False])
def test_a_failed_save_changes_nothing(tmp_path, monkeypatch, step, error, before):
    bridge, folder = filled(n=20), tmp_path / "index"
    if before:
        bridge.save(folder)
        content = files_of(folder)
    bridge.add(np.ones((1, 6)), ids=[77])
    sync = snapshots._sync

    def fail_at(name):
        def failing(path):
            sync(path)
            if path.name.endswith(name):
                raise error

        return failing

    def fail(*arguments):
        raise error

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(Path, "rename", fail)
        elif step == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(snapshots, "_sync", fail_at("index" if step == "sync" else step))
        with pytest.raises(type(error)):
            bridge.save(folder)
    if before:
        assert files_of(folder) == content
        assert len(Bridge.open(folder)) == 20
    else:
        assert not folder.exists()
    bridge.save(folder)
    same(bridge, Bridge.open(folder))


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["at once", "while syncing"])
def test_an_error_after_the_new_snapshot_is_current_does_not_take_it_away(tmp_path, monkeypatch, error, when):
    bridge = filled(n=20)
    bridge.save(tmp_path)
    bridge.add(np.ones((1, 6)), ids=[77])
    replace, sync = Path.replace, snapshots._sync
    done = []

    def replaced(self, target):
        replace(self, target)
        done.append(target)
        if when == "at once":
            raise error

    def synced(path):
        sync(path)
        if done:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replaced)
        patch.setattr(snapshots, "_sync", synced)
        with pytest.raises(type(error)):
            bridge.save(tmp_path)
    same(bridge, Bridge.open(tmp_path))
    bridge.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        filled(n=5).save(tmp_path / "file" / "below")
