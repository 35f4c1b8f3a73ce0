"""Saving and opening: round trips, damage of every kind, and what a folder may hold."""

import gc
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations import HnswIndex, files
from attnbridge.integrations import blocks as block_sums
from attnbridge.integrations import snapshot as snapshots
from attnbridge.integrations.arrays import load_array
from attnbridge.integrations.journal import Journal
from attnbridge.integrations.snapshot import check_folder, load_snapshot, write_snapshot

Bridge = ab.AttentionVectorBridge
CONTENT = {
    "CURRENT",
    "manifest.json",
    "rows.npy",
    "ids.json",
    "terms.npy",
    "links.npy",
    "upper_links.npy",
    "levels.npy",
    "entry.npy",
    "tokens.npy",
    "token_lengths.npy",
}


def filled(index="hnsw", metric="cosine", ids=None, n=300, **options):
    rng = np.random.default_rng(3)
    bridge = Bridge(dim=6, metric=metric, index=index, **options)
    bridge.add(rng.standard_normal((n, 6)), ids=ids, tokens=[rng.standard_normal((i % 4, 3)) for i in range(n)])
    return bridge


def same(a, b):
    assert a.ids() == b.ids()
    assert (len(a), a.config) == (len(b), b.config)
    ids = a.ids()
    assert a.get(ids).tobytes() == b.get(ids).tobytes()
    if a._state.store.view.tokens is not None:
        assert [t.tobytes() for t in a.get_tokens(ids)] == [t.tobytes() for t in b.get_tokens(ids)]
    queries = np.random.default_rng(4).standard_normal((12, 6))
    for options in ({}, {"exact": True}, {"filter": ids[::3]}, {"rerank": ab.QueryExpansion()}):
        assert a.search_batch(queries, k=7, **options) == b.search_batch(queries, k=7, **options)
    if a._state.store.view.tokens is not None:
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
    assert (tmp_path / "deep" / "folder" / "LOCK").exists()  # as long as the bridge that has written is there
    again.close()
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

    assert is_mapped(Bridge.open(tmp_path)._state.store.view.keys.data)
    assert is_mapped(Bridge.open(tmp_path)._state.store.view.tokens.data)
    assert not is_mapped(Bridge.open(tmp_path, mmap=False)._state.store.view.keys.data)
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
    filled(n=270).save(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} | {"CURRENT"} == CONTENT
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format_version"], manifest["kind"], manifest["rows"]) == (3, "AttentionVectorBridge", 270)
    assert manifest["hnsw"] == {"M": 16, "ef_construction": 200, "ef": 100, "seed": 100}
    for name, listed in manifest["files"].items():
        raw = (folder / name).read_bytes()
        sums = [zlib.crc32(raw[at : at + 65536]) for at in range(0, len(raw), 65536)]
        assert listed == {"bytes": len(raw), "crc32": "".join(f"{crc:08x}" for crc in sums)}
    assert manifest["block_bytes"] == 65536
    assert np.load(folder / "rows.npy").shape == (270, 6)  # plain files, that anyone can read
    assert json.loads((folder / "ids.json").read_text())["ids"] == list(range(270))


# ---- damage


def find(folder, name):
    (path,) = folder.rglob(name)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "index"
    filled(n=260).save(folder)
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
    assert len(Bridge.open(copy)) == 260


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
    other = filled(n=260, metric="l2")
    other.save(tmp_path / "other")
    shutil.copy(find(tmp_path / "other", "rows.npy"), find(copy, "rows.npy"))
    shutil.copy(find(tmp_path / "other", "links.npy"), find(copy, "links.npy"))
    with pytest.raises(ab.IndexCorruptError, match=r"links\.npy is damaged"):
        Bridge.open(copy)


def resign(folder, raw):
    """Put other bytes in the manifest's place, its checksum in CURRENT made right."""
    path = find(folder, "manifest.json")
    path.write_bytes(raw)
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    (folder / "CURRENT").write_text(f"{path.parent.name} {digest}\n")


def rewrite(folder, **changes):
    """Change the manifest, its checksum kept right."""
    manifest = json.loads(find(folder, "manifest.json").read_text())
    resign(folder, json.dumps(manifest | changes).encode())


def test_a_newer_format(copy):
    rewrite(copy, format_version=4)
    with pytest.raises(ab.IndexCorruptError, match="has format version 4, this attnbridge reads up to 3; upgrade attn"):
        Bridge.open(copy)
    rewrite(copy, format_version=3)
    assert len(Bridge.open(copy)) == 260


def test_an_older_format(copy):
    rewrite(copy, format_version=2)
    message = "format version 2 of an older development version of attnbridge, this one reads version 3; build the"
    with pytest.raises(ab.IndexCorruptError, match=message):
        Bridge.open(copy)


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
    with pytest.raises(ab.InvalidConfigError, match="was saved with attention 'from_the_future', which is not known"):
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
        for name in (".writing-snapshot-0123456789ad-current", "journal-0123456789ab", "LOCK"):
            (tmp_path / name).write_text("half")
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


STEPS = ["rows.npy", "ids.json", "links.npy", "manifest.json", "current", "rename", "replace", "sync"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("before", [True, False])
def test_a_failed_save_changes_nothing(tmp_path, monkeypatch, step, error, before):
    bridge, folder = filled(n=270), tmp_path / "index"
    if before:
        bridge.save(folder)
        content = files_of(folder)
    bridge.add(np.ones((1, 6)), ids=[77])
    sync, write = files.sync_path, snapshots._write_bytes

    def fail_at(name):
        def failing(path, *data):
            (write if data else sync)(path, *data)
            if path.name.endswith(name):
                raise error

        return failing

    def fail(*arguments):
        raise error

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(files, "rename", fail)
        elif step == "replace":
            patch.setattr(files, "replace", fail)
        else:
            patch.setattr(files, "sync_path", fail_at("index" if step == "sync" else step))
            patch.setattr(snapshots, "_write_bytes", fail_at(step))
        with pytest.raises(type(error)):
            bridge.save(folder)
    if before:
        assert files_of(folder) == content
        assert len(Bridge.open(folder)) == 270
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
    replace, sync = files.replace, files.sync_path
    done = []

    def replaced(path, target):
        replace(path, target)
        done.append(target)
        if when == "at once":
            raise error

    def synced(path):
        sync(path)
        if done:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", replaced)
        patch.setattr(files, "sync_path", synced)
        with pytest.raises(type(error)):
            bridge.save(tmp_path)
    same(bridge, Bridge.open(tmp_path))
    bridge.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        filled(n=5).save(tmp_path / "file" / "below")


# ---- snapshots as such: what is verified, and when


BLOCK = 65536
ROWS = np.random.default_rng(8).random((3000, 97), np.float32)  # 18 blocks, rows across their borders
WRITERS = {
    "rows.npy": lambda path: np.save(path, ROWS),
    "empty.npy": lambda path: np.save(path, ROWS[:0]),
    "text.json": lambda path: path.write_text("[1]"),
}


@pytest.fixture
def folder(tmp_path):
    write_snapshot(tmp_path / "index", "Test", {"rows": 3000, "deep": {"M": 16, "x": 1.5, "on": True}}, WRITERS)
    return tmp_path / "index"


def opened(folder, verify="lazy"):
    return load_snapshot(folder, "Test", lambda snapshot: snapshot, verify=verify)


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_snapshot_tells_what_it_holds(folder):
    snapshot = opened(folder, "full")
    assert snapshot.files == ["rows.npy", "empty.npy", "text.json"]
    assert ("rows.npy" in snapshot, "other.npy" in snapshot) == (True, False)
    assert (snapshot.name, snapshot.size("text.json")) == (snapshot.folder.name, 3)
    assert snapshot.path("text.json").read_text() == "[1]"
    with pytest.raises(ab.IndexCorruptError, match=r"manifest\.json is damaged: it lists no other\.npy"):
        snapshot.blocks("other.npy")


def test_a_save_returns_the_name_of_the_snapshot(tmp_path):
    name = write_snapshot(tmp_path, "Test", {}, WRITERS)
    assert opened(tmp_path).name == name
    again = write_snapshot(tmp_path, "Test", {}, WRITERS)
    assert again != name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CURRENT", again]


def test_verify_is_full_or_lazy(folder):
    with pytest.raises(ab.InvalidConfigError, match="verify must be 'full' or 'lazy', got 'no'"):
        opened(folder, "no")


def test_full_verifies_all_and_lazy_nothing_but_sizes(folder):
    assert [opened(folder, "full").blocks(file).pending for file in WRITERS] == [False, False, False]
    snapshot = opened(folder, "lazy")
    assert [snapshot.blocks(file).pending for file in WRITERS] == [True, True, True]
    snapshot.path("text.json")
    assert [snapshot.blocks(file).pending for file in WRITERS] == [True, True, False]
    flip(find(folder, "rows.npy"), 5 * BLOCK + 3)
    opened(folder, "lazy")
    with pytest.raises(
        ab.IndexCorruptError, match=r"rows\.npy is damaged: its checksum differs in bytes 327680 to 393216"
    ):
        opened(folder, "full")
    path = find(folder, "rows.npy")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged: 1164129 bytes instead of 1164128"):
        opened(folder, "lazy")


def test_each_block_is_verified_at_its_first_touch_only(folder, monkeypatch):
    blocks = opened(folder).blocks("rows.npy")
    read, seen = block_sums.Reader.read, []

    def counted(self, start, count):
        seen.append(start // BLOCK)
        return read(self, start, count)

    monkeypatch.setattr(block_sums.Reader, "read", counted)
    blocks.check(10, 10)
    assert seen == []
    blocks.check(BLOCK - 1, BLOCK + 1)
    blocks.check(0, 2 * BLOCK)
    assert seen == [0, 1]
    rows = np.array([2999, 0, 2999, 1000, 844], np.int64)  # row 844 lies across the border of blocks 4 and 5
    expected = sorted(
        {at // BLOCK for row in rows.tolist() for at in (128 + row * 388, 128 + row * 388 + 387)} - {0, 1}
    )
    assert expected == [4, 5, 17]
    blocks.check_rows(rows, 128, 388)
    assert seen[2:] == expected
    blocks.check_rows(rows, 128, 388)
    blocks.check_rows(rows[:0], 128, 388)
    blocks.check_rows(rows, 128, 0)
    assert len(seen) == 2 + len(expected)
    blocks.check_rows(np.array([1]), 0, 4 * BLOCK)  # rows larger than blocks
    assert set(seen) == {0, 1, *expected, *range(4, 8)}
    assert blocks.pending
    blocks.check_all(2)
    assert sorted(seen) == list(range(18))
    assert not blocks.pending
    blocks.check_all()
    assert len(seen) == 18


def test_a_damaged_block_raises_at_every_touch_and_others_do_not(folder):
    snapshot = opened(folder)
    flip(find(folder, "rows.npy"), 7 * BLOCK)
    blocks = snapshot.blocks("rows.npy")
    for _ in range(3):
        blocks.check(0, 7 * BLOCK)
        blocks.check(8 * BLOCK, blocks.size)
        for check in (
            lambda: blocks.check(8 * BLOCK - 1, 8 * BLOCK),
            lambda: blocks.check_rows(np.array([1200]), 128, 388),
            blocks.check_all,
            lambda: blocks.check_all(2),
            lambda: snapshot.path("rows.npy"),
        ):
            with pytest.raises(
                ab.IndexCorruptError, match=r"rows\.npy is damaged: its checksum differs in bytes 458752"
            ):
                check()
        assert blocks.pending


def test_a_file_that_shrinks_or_fails_while_it_is_open(folder, monkeypatch):
    snapshot = opened(folder)
    os.truncate(find(folder, "rows.npy"), 3 * BLOCK + 5)
    snapshot.blocks("rows.npy").check(0, 3 * BLOCK)
    with pytest.raises(ab.IndexCorruptError, match="its checksum differs in bytes 196608 to 262144"):
        snapshot.blocks("rows.npy").check(3 * BLOCK, 3 * BLOCK + 1)

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(ab.IndexCorruptError, match=r"bytes 262144 to 327680 cannot be read \(Input/output error"):
        snapshot.blocks("rows.npy").check(4 * BLOCK, 5 * BLOCK)


def test_blocks_outlive_the_folder(folder):
    blocks = opened(folder).blocks("rows.npy")
    write_snapshot(folder, "Test", {}, WRITERS)
    shutil.rmtree(folder)
    blocks.check_all(2)
    assert not blocks.pending


def test_many_threads_verify_the_same_blocks(folder):
    for _ in range(20):
        blocks = opened(folder).blocks("rows.npy")
        errors = []

        def work(seed, blocks=blocks, errors=errors):
            rng = np.random.default_rng(seed)
            try:
                while blocks.pending:
                    blocks.check_rows(rng.integers(0, 3000, 5), 128, 388)
            except Exception as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (errors, blocks.pending) == ([], False)


def test_open_descriptors_are_closed(folder):
    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what tests before have left
    before = count()
    snapshot = opened(folder, "full")
    assert count() == before
    snapshot = opened(folder)
    assert count() == before + 3
    snapshot.path("rows.npy")
    assert count() == before + 2
    del snapshot
    assert count() == before


@pytest.mark.parametrize("verify", ["full", "lazy"])
def test_another_save_while_loading_begins_again(folder, verify):
    seen = []

    def load(snapshot):
        seen.append(snapshot.name)
        if len(seen) < 3:
            write_snapshot(folder, "Test", {}, WRITERS)
        if len(seen) == 1:
            raise ab.IndexCorruptError("what was being read is gone")
        return (snapshot.folder / "text.json").read_text()

    assert load_snapshot(folder, "Test", load, verify=verify) == "[1]"
    assert len(set(seen)) == 3


def test_swapped_blocks_are_found(folder):
    path = find(folder, "rows.npy")
    raw = path.read_bytes()
    path.write_bytes(raw[: 2 * BLOCK] + raw[3 * BLOCK : 4 * BLOCK] + raw[2 * BLOCK : 3 * BLOCK] + raw[4 * BLOCK :])
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged: its checksum differs in bytes 131072"):
        opened(folder, "full")


def test_files_that_are_not_listed_are_ignored(folder):
    (find(folder, "rows.npy").parent / "notes.txt").write_text("mine")
    assert "notes.txt" not in opened(folder, "full").files


def test_check_folder(folder):
    snapshot = opened(folder).name
    expected = [
        ("CURRENT", 55, 1),
        (f"{snapshot}/manifest.json", find(folder, "manifest.json").stat().st_size, 1),
        (f"{snapshot}/rows.npy", 1_164_128, 18),
        (f"{snapshot}/empty.npy", 128, 1),
        (f"{snapshot}/text.json", 3, 1),
    ]
    assert check_folder(folder) == expected
    journal = Journal(folder, snapshot)
    journal.append([b"a"])
    journal.append([b"b"])
    assert check_folder(folder, "Test") == [*expected, (journal.path.name, journal.size, 2)]
    journal.close()
    flip(journal.path, journal.size - 5)
    with pytest.raises(ab.IndexCorruptError, match=rf"{journal.path.name} is damaged at byte 61: the checksum of rec"):
        check_folder(folder)
    flip(find(folder, "text.json"), 0)
    with pytest.raises(ab.IndexCorruptError, match=r"text\.json is damaged"):
        check_folder(folder)
    with pytest.raises(ab.IndexCorruptError, match="holds a Test, not a Bridge"):
        check_folder(folder, "Bridge")


# ---- hostile manifests and files, every checksum right


def entry(path, **changes):
    return {"bytes": path.stat().st_size, "crc32": block_sums.block_sums(path)} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "2"}, "format_version must be a whole number, got '2'"),
        ({"format_version": True}, "format_version must be a whole number, got True"),
        ({"format_version": 2.0}, r"format_version must be a whole number, got 2\.0"),
        ({"format_version": 0}, "format_version must be >= 1, got 0"),
        ({"format_version": -1}, "format_version must be >= 1, got -1"),
        ({"format_version": None}, "format_version must be a whole number, got None"),
        ({"kind": 7}, "kind must be a text, got 7"),
        ({"kind": ""}, "the length of kind must be >= 1 and <= 100, got 0"),
        ({"block_bytes": 0}, "block_bytes must be >= 4096 and <= 16777216, got 0"),
        ({"block_bytes": 2**40}, "block_bytes must be >= 4096 and <= 16777216"),
        ({"block_bytes": "65536"}, "block_bytes must be a whole number"),
        ({"files": []}, r"files must be a map, got \[\]"),
        ({"files": {f"f{i}.npy": 0 for i in range(101)}}, "the length of files must be <= 100, got 101"),
        ({"files": {"../rows.npy": {}}}, r"files must have plain names such as rows\.npy, got '\.\./rows\.npy'"),
        ({"files": {"/etc/passwd": {}}}, "files must have plain names"),
        ({"files": {"..": {}}}, "files must have plain names"),
        ({"files": {"": {}}}, "files must have plain names"),
        ({"files": {"a\\b.npy": {}}}, "files must have plain names"),
        ({"files": {"rows.npy\n": {}}}, "files must have plain names"),
        ({"files": {"manifest.json": {}}}, "files must have plain names"),
        ({"files": {"rows.npy": 3}}, r"the entry of rows\.npy must be a map, got 3"),
        ({"files": {"rows.npy": {"crc32": ""}}}, "it has no bytes"),
        ({"files": {"rows.npy": {"bytes": -1, "crc32": ""}}}, "bytes must be >= 0"),
        ({"files": {"rows.npy": {"bytes": 2**63, "crc32": ""}}}, "bytes must be >= 0 and <= 9223372036854775807"),
        ({"files": {"rows.npy": {"bytes": 10**400, "crc32": ""}}}, "bytes must be >= 0"),
        ({"files": {"rows.npy": {"bytes": 2**62, "crc32": "0" * 8}}}, r"crc32 of rows\.npy must be 8 hex digits for"),
        ({"files": {"rows.npy": {"bytes": 3, "crc32": 7}}}, "crc32 must be a text, got 7"),
        ({"files": {"rows.npy": {"bytes": 3, "crc32": "0000 000"}}}, "crc32 of rows.npy must be 8 hex digits for each"),
        ({"files": {"rows.npy": {"bytes": 3, "crc32": "zzzzzzzz"}}}, "crc32 of rows.npy must be 8 hex digits for each"),
        ({"files": {"rows.npy": {"bytes": 3, "crc32": "0" * 16}}}, "crc32 of rows.npy must be 8 hex digits for each"),
    ],
)
@pytest.mark.parametrize("verify", ["full", "lazy"])
def test_hostile_fields(folder, verify, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ab.IndexCorruptError, match=rf"manifest\.json is damaged: {message}"):
        opened(folder, verify)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b"7",
        b"null",
        b"\xff\xfe{}",
        b'{"kind": "\xed\xa0\x80"}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"kind": "Test", "kind": "Test"}',
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"{}",
    ],
    ids=range(14),
)
def test_a_manifest_that_is_no_json_of_ours(folder, raw):
    resign(folder, raw)
    with pytest.raises(ab.IndexCorruptError, match=r"manifest\.json is damaged: .*; restore it from a backup"):
        opened(folder)


def test_sizes_are_limited_before_anything_is_read(folder, monkeypatch):
    os.truncate(find(folder, "manifest.json"), 1 << 40)  # sparse
    with pytest.raises(ab.IndexCorruptError, match="it has 1099511627776 bytes, at most 268435456 are allowed"):
        opened(folder)
    os.truncate(folder / "CURRENT", 1 << 40)
    with pytest.raises(ab.IndexCorruptError, match="CURRENT is damaged or names a missing snapshot"):
        opened(folder)
    monkeypatch.setattr(snapshots, "_MOST_MANIFEST", 100)
    with pytest.raises(
        ab.InputTooLargeError, match=r"the manifest must have at most 100 bytes, got .*; split the index"
    ):
        write_snapshot(folder.parent / "other", "Test", {}, WRITERS)
    assert not (folder.parent / "other").exists()


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        server.bind(path.name)
    finally:
        os.chdir(here)
        server.close()


@pytest.mark.parametrize("name", ["rows.npy", "manifest.json", "CURRENT"])
@pytest.mark.parametrize(
    "make",
    [make_fifo, make_socket, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)],
    ids=["fifo", "socket", "folder", "device", "loop"],
)
def test_what_is_no_regular_file(folder, name, make):
    path = find(folder, name)
    path.unlink()
    make(path)
    message = (
        "is no index|CURRENT is damaged or" if name == "CURRENT" else f"{name} is damaged: it cannot be read .not a"
    )
    with pytest.raises(ab.IndexCorruptError, match=message):
        opened(folder)


def test_links_out_of_the_folder(folder, tmp_path):
    path = find(folder, "rows.npy")
    shutil.move(path, tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged: it cannot be read .not a regular file"):
        opened(folder)
    shutil.move(path.parent, tmp_path / "snapshot")
    path.parent.symlink_to(tmp_path / "snapshot")
    with pytest.raises(ab.IndexCorruptError, match="CURRENT is damaged or names a missing snapshot"):
        opened(folder)


def test_settings_are_checked(folder):
    snapshot = opened(folder)
    assert snapshot.setting("rows", int, 0, 3000) == 3000
    assert snapshot.setting("deep.M", int, least=2) == 16
    assert repr(snapshot.setting("deep.M", float)) == "16.0"
    assert snapshot.setting("deep.x", float) == 1.5
    assert snapshot.setting("deep.on", bool) is True
    assert snapshot.setting("deep", dict)["M"] == 16
    for name, kind, bounds, message in [
        ("nothing", int, (), "it has no nothing"),
        ("rows.M", int, (), "it has no rows.M"),
        ("deep.on", int, (), "deep.on must be a whole number, got True"),
        ("deep.x", int, (), "deep.x must be a whole number, got 1.5"),
        ("deep", list, (), "deep must be a list, got {"),
        ("rows", int, (3001,), "rows must be >= 3001, got 3000"),
        ("deep.x", float, (None, 1), "deep.x must be <= 1, got 1.5"),
        ("deep", dict, (0, 2), "the length of deep must be >= 0 and <= 2, got 3"),
    ]:
        with pytest.raises(ab.IndexCorruptError, match=rf"manifest\.json is damaged: {message}"):
            snapshot.setting(name, kind, *bounds)
    rewrite(folder, big=10**400, huge=0)
    resign(folder, find(folder, "manifest.json").read_bytes().replace(b'"huge": 0', b'"huge": 1e999'))
    for name in ("big", "huge"):
        with pytest.raises(ab.IndexCorruptError, match=f"{name} must be a number, got"):
            opened(folder).setting(name, float)


# ---- arrays


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("verify", ["full", "lazy"])
def test_arrays_come_back(folder, verify, mmap):
    snapshot = opened(folder, verify)
    rows, offset = load_array(snapshot, "rows.npy", np.float32, 2, mmap=mmap)
    assert (type(rows), offset) == (np.ndarray, 128)
    assert rows.tobytes() == ROWS.tobytes()
    assert isinstance(rows.base, np.memmap) == mmap
    assert snapshot.blocks("rows.npy").pending == (mmap and verify == "lazy")
    rows[0, 0] += 1  # copy-on-write
    assert opened(folder, "full")
    empty, _ = load_array(snapshot, "empty.npy", np.float32, 2, mmap=mmap)
    assert empty.shape == (0, 97)


def test_a_header_is_verified_before_it_is_believed(folder):
    snapshot = opened(folder)
    flip(find(folder, "rows.npy"), 70)
    with pytest.raises(ab.IndexCorruptError, match="its checksum differs in bytes 0 to 65536"):
        load_array(snapshot, "rows.npy", np.float32, 2, mmap=True)


def header(shape="(3000, 97)", descr="'<f4'", order="False", text=None):
    text = text or f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    ("head", "message"),
    [
        (header("(3001, 97)"), r"its header claims shape \(3001, 97\), 1164516 bytes, but it has 1164128"),
        (header("(2999, 97)"), r"its header claims shape \(2999, 97\)"),
        (header("(9999999999999, 97)"), "its header claims shape"),
        (header("(0, 99999999999999999999)"), "its header claims shape"),
        (header("(" + "9" * 25 + ", 97)"), "it must have 2 axes, its shape is"),
        (header("(291000,)"), r"it must have 2 axes, its shape is \(291000,\)"),
        (header("()"), r"it must have 2 axes, its shape is \(\)"),
        (header("(-3000, -97)"), "it must hold float32 in C order, its header is"),
        (header(descr="'<f8'"), "it must hold float32 in C order, its header is"),
        (header(descr="'>f4'"), "it must hold float32 in C order"),
        (header(descr="'|O'"), "it must hold float32 in C order"),
        (header(descr="[('a', '<f4')]"), "it must hold float32 in C order"),
        (header(order="True"), "it must hold float32 in C order"),
        (header(text="(" * 117), "it must hold float32 in C order"),
        (header(text="__import__('os').abort()"), "it must hold float32 in C order"),
        (b"\x93NUMPY\x02\x00" + header()[8:], r"it is no \.npy file of version 1\.0"),
        (b"\x80\x04pickle" + header()[8:], r"it is no \.npy file"),
        (header()[:8] + b"\xff\xff" + header()[10:], "it must hold float32 in C order"),
    ],
    ids=range(18),
)
def test_hostile_headers(tmp_path, head, message, mmap):
    assert header() == np.lib.format.magic(1, 0) + header()[8:]
    write_snapshot(tmp_path, "Test", {}, {"rows.npy": lambda path: path.write_bytes(head + ROWS.tobytes())})
    with pytest.raises(ab.IndexCorruptError, match=rf"rows\.npy is damaged: {message}"):
        load_array(opened(tmp_path), "rows.npy", np.float32, 2, mmap=mmap)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("length", [0, 1, 9, 10, 60, 128])
def test_short_arrays(tmp_path, length, mmap):
    write_snapshot(tmp_path, "Test", {}, {"rows.npy": lambda path: path.write_bytes(header()[:length])})
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged: it"):
        load_array(opened(tmp_path), "rows.npy", np.float32, 2, mmap=mmap)


def test_an_array_that_shrinks_while_it_is_read(folder, monkeypatch):
    snapshot = opened(folder, "full")
    os.truncate(find(folder, "rows.npy"), 3 * BLOCK)
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged: it has become shorter"):
        load_array(snapshot, "rows.npy", np.float32, 2, mmap=False)
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged: it has become shorter"):
        load_array(snapshot, "rows.npy", np.float32, 2, mmap=True)


_ADDRESS_SPACE = """
import resource, sys
from attnbridge.integrations.snapshot import load_snapshot
from attnbridge import IndexCorruptError
import numpy as np
from attnbridge.integrations.arrays import load_array
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20),) * 2)
try:
    load_snapshot(sys.argv[1], "Test", lambda s: load_array(s, "rows.npy", np.float32, 2, mmap=False), verify="lazy")
except IndexCorruptError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("how", ["header", "manifest", "sizes"])
def test_claims_are_refused_without_memory_for_them(tmp_path, how):
    head = header("(99999999999, 97)") if how == "header" else header()
    write_snapshot(tmp_path, "Test", {}, {"rows.npy": lambda path: path.write_bytes(head + ROWS.tobytes())})
    if how == "manifest":
        rewrite(tmp_path, files={"rows.npy": {"bytes": 2**62, "crc32": "00000000"}})
    if how == "sizes":
        os.truncate(find(tmp_path, "rows.npy"), 1 << 42)
    run = subprocess.run(
        [sys.executable, "-c", _ADDRESS_SPACE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout.startswith("refused"), run.stderr
