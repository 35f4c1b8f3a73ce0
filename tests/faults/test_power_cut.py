"""Every operation on the disk fails in turn, or is the last one before the power goes: nothing acknowledged is lost.

`Disk` stands between integrations/files.py and the disk and remembers what was synced. When the power goes, what was
not is lost, or half there, or there as zeros; names of a folder that was not synced go back to what they were.
"""

import errno
import json
import os
import shutil
import warnings
from contextlib import suppress

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations import files
from attnbridge.integrations.journal import Journal, records
from attnbridge.integrations.snapshot import load_snapshot, write_snapshot

OPERATIONS = [name for name in vars(files) if callable(getattr(files, name)) and not name.startswith("_")]
OPERATIONS = [name for name in OPERATIONS if getattr(files, name).__module__ == files.__name__ and name != "open_read"]


class PowerCut(BaseException):
    """Nothing runs any more, no clean-up either."""


class Disk:
    """integrations/files.py with a fault at its operation number `at`."""

    def __init__(self, root, stash, patch, fault=None, at=-1, lasting=False):
        self.root, self.stash, self.fault, self.at, self.lasting = root, stash, fault, at, lasting
        self.count = 0
        self.synced = {}  # inode: content on the disk
        self.pending = []  # (folder, paths, function that undoes it), of folders not synced since
        stash.mkdir(parents=True)
        for path in self.all_files():
            self.synced[path.stat().st_ino] = path.read_bytes()
        self.real = {name: getattr(files, name) for name in OPERATIONS}
        for name in OPERATIONS:
            patch.setattr(files, name, self.operation(name))

    def all_files(self):
        return [path for path in self.root.rglob("*") if path.is_file() and path.name != "LOCK"]

    def operation(self, name):
        def operate(*arguments):
            number, self.count = self.count, self.count + 1
            due = number == self.at or (number > self.at >= 0 and (self.lasting or self.fault is PowerCut))
            if due and self.fault is PowerCut:
                if name == "write" and number == self.at:
                    self.real[name](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise PowerCut
            if due:
                if name == "write":
                    self.real[name](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                if name == "close":
                    self.real[name](*arguments)
                raise OSError(self.fault, os.strerror(self.fault), name)
            return getattr(self, name, self.real[name])(*arguments)

        return operate

    # ---- operations that leave something to lose

    def aside(self):
        return self.stash / str(len(list(self.stash.iterdir())))

    def undoable(self, undo, *paths):
        self.pending.append((paths[0].parent, set(paths), undo))

    def make_folder(self, path):
        self.real["make_folder"](path)
        self.undoable(lambda: path.rename(self.aside()), path)

    def create(self, path):
        descriptor = self.real["create"](path)
        self.undoable(lambda: path.rename(self.aside()), path)
        return descriptor

    def rename(self, path, target):
        self.real["rename"](path, target)
        self.undoable(lambda: target.rename(path), target, path)

    def replace(self, path, target):
        old = self.aside()
        if target.exists():
            os.link(target, old)
        self.real["replace"](path, target)

        def undo():
            target.rename(path)
            if old.exists():
                os.link(old, target)

        self.undoable(undo, target, path)

    def remove(self, path):
        old = self.aside()
        path.rename(old)
        self.undoable(lambda: old.rename(path), path)

    remove_tree = remove_folder = remove

    def sync(self, descriptor):
        self.real["sync"](descriptor)
        self.remember(descriptor)

    def remember(self, descriptor):
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123
            self.synced[os.fstat(descriptor).st_ino] = file.read()

    def sync_path(self, path):
        self.real["sync_path"](path)
        if path.is_dir():
            self.pending = [each for each in self.pending if each[0] != path]
        else:
            self.synced[path.stat().st_ino] = path.read_bytes()

    # ---- the power goes

    def crash(self, rng):
        """Leave on the disk what a power cut may leave."""
        # None, some, all, or one of them; in any order, but what rests on a lost one is lost with it.
        share, only = [(0, -1), (0.5, -1), (1, -1), (0, rng.integers(len(self.pending) + 1))][rng.integers(4)]
        undone, lost = set(), []
        for number, (_, paths, undo) in enumerate(self.pending):
            if rng.random() < share or number == only or undone & paths:
                undone |= paths
                lost.append(undo)
        for undo in reversed(lost):
            undo()
        for path in self.all_files():
            now, old = path.read_bytes(), self.synced.get(path.stat().st_ino, b"")
            if now == old:
                continue
            least = min(len(old), len(now)) if now.startswith(old) or old.startswith(now) else 0
            kept = now[: rng.integers(least, len(now) + 1)]
            path.write_bytes([old, now, kept, kept.ljust(len(now), b"\0")][rng.integers(4)])


# ---- a life of an index: saves, appends, undone appends


class Life:
    """Saves and appends, and the states that the disk may be in: one, or while something is being done, two."""

    def __init__(self, root):
        self.root = root
        self.possible = [None]
        self.journal = None
        self.doing = ""

    def do(self, what, state, action):
        self.doing = what
        self.possible = [self.possible[-1], state]
        action()
        self.possible = [state]

    def save(self, state):
        def action():
            about = {"rows.npy": lambda path: np.save(path, np.arange(20_000)), "state.json": write}
            name = write_snapshot(self.root, "Test", {"n": len(state)}, about)
            self.close()
            self.journal = Journal(self.root, name)

        def write(path):
            path.write_text(json.dumps(state))

        self.do("save", state, action)

    def append(self, value):
        text = json.dumps(value).encode()
        self.do("append", [*self.possible[-1], value], lambda: self.journal.append([text[:2], text[2:]]))

    def undo(self):
        self.do("undo", self.possible[-1][:-1], self.journal.undo)

    def live(self):
        self.save(["a"])
        self.append("b" * 5000)
        self.append("c")
        self.undo()
        self.append("d")
        self.save(["e"])
        self.append("f")
        self.save([])
        self.append("g")
        self.append("h")

    def close(self):
        if self.journal is not None:
            self.journal.close()


def state_of(root):
    """Return what the next process finds."""

    def load(snapshot):
        state = json.loads(snapshot.path("state.json").read_text())
        assert snapshot.setting("n", int) == len(state)
        assert np.load(snapshot.path("rows.npy")).tolist() == list(range(20_000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a record cut off
            return state + [json.loads(bytes(body)) for body in records(root, snapshot.name)]

    try:
        return load_snapshot(root, "Test", load)
    except ab.IndexCorruptError as error:
        if "does not exist" in str(error) or "is no index" in str(error):
            return None
        raise


def go_on(root, found):
    """Append and save as the next process does, which also removes what is left."""
    if found is not None:
        journal = Journal(root, load_snapshot(root, "Test", lambda snapshot: snapshot.name))
        journal.append([b'"more"'])
        journal.close()
        assert state_of(root) == [*found, "more"]
    life = Life(root)
    life.save(["new"])
    life.append("newer")
    life.close()
    assert state_of(root) == ["new", "newer"]
    assert len(list(root.iterdir())) == 3


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """`Disk` plays the disk; the real one need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def length_of_a_life(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path / "dry" / "index", tmp_path / "dry" / "stash", patch)
        life = Life(disk.root)
        life.live()
        life.close()
    assert state_of(disk.root) == ["g", "h"]
    return disk.count


@pytest.mark.slow
def test_power_cut_at_every_operation(tmp_path, monkeypatch, rounds):
    rng = np.random.default_rng(0)
    count = length_of_a_life(tmp_path, monkeypatch)
    assert count > 90
    found = set()
    for at in range(count):
        for round in range(rounds(6, 60)):
            root = tmp_path / f"{at}-{round}" / "index"
            life = Life(root)
            with monkeypatch.context() as patch:
                disk = Disk(root, tmp_path / f"{at}-{round}" / "stash", patch, PowerCut, at)
                with suppress(PowerCut):
                    life.live()
                    life.close()
            life.close()
            disk.crash(rng)
            state = state_of(root)
            assert state in life.possible, f"operation {at}, while {life.doing}"
            found.add((life.doing, life.possible.index(state)))
            go_on(root, state)
            shutil.rmtree(tmp_path / f"{at}-{round}")
    assert found >= {(doing, which) for doing in ("save", "append", "undo") for which in (0, 1)}


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_every_operation_fails_once_or_from_then_on(tmp_path, monkeypatch, number, lasting):
    count = length_of_a_life(tmp_path, monkeypatch)
    for at in range(count):
        root = tmp_path / str(at) / "index"
        life = Life(root)
        with monkeypatch.context() as patch:
            Disk(root, tmp_path / str(at) / "stash", patch, number, at, lasting)
            try:
                life.live()
            except OSError as raised:
                error = raised.errno
            else:  # what cannot be removed, and a file that complains when it is closed, does no harm
                error = number
                life.possible = life.possible[-1:]
        assert error == number, f"operation {at}"
        life.close()
        state = state_of(root)
        assert state in life.possible, f"operation {at}, while {life.doing}"
        if not lasting and len(life.possible) == 2:
            if life.doing == "append":
                assert state == life.possible[0]
            left = [path.name for path in root.iterdir()] if root.exists() else []
            assert not any(name.startswith(".writing") or name == "LOCK" for name in left), f"operation {at}"
            assert sum(name.startswith("snapshot-") for name in left) <= 1 + (state == life.possible[1]), left
        go_on(root, state)
        shutil.rmtree(tmp_path / str(at))


def test_the_disk_of_this_test_forgets_what_was_not_synced(tmp_path, monkeypatch):
    """Without its fsyncs the journal loses what it has acknowledged: the test above would find it."""
    lost = 0
    for seed in range(20):
        life = Life(tmp_path / str(seed) / "index")
        with monkeypatch.context() as patch:
            disk = Disk(life.root, tmp_path / str(seed) / "stash", patch)
            life.save(["a"])
            patch.setattr(disk, "sync", lambda descriptor: None)
            life.append("b")
        life.close()
        disk.crash(np.random.default_rng(seed))
        lost += state_of(life.root) == ["a"]
    assert lost > 3
