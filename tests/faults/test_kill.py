"""kill -9 and a full disk, during saves and journalled writes: whole states only, and nothing acknowledged is lost."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import attnbridge as ab

Bridge = ab.AttentionVectorBridge
HERE = Path(__file__).parent

# Whoever runs it in parts must come to the same states: operation `number` of any life is always the same.
DIM, FIRST = 4, 300


def operation(number):
    """Return operation `number`: its name and what it needs."""
    rng = np.random.default_rng(number)
    kind = ("add", "upsert", "set_payload", "delete", "add", "where")[number % 6]
    count = int(rng.integers(1, 30))
    return kind, count, rng


def new_model():
    return {"rows": {}, "next": 0}


def rows_of(number, count):
    return np.full((count, DIM), number + 1.0) + np.arange(DIM)


def play(model, number):
    """Do operation `number` to the model, a dict of id to [number of its vector, payload], and return what to do."""
    kind, count, rng = operation(number)
    ids = list(model["rows"])
    some = sorted({ids[i] for i in rng.integers(0, len(ids), count)}) if ids else []
    if kind in ("add", "upsert") or not some:
        ids = list(range(model["next"], model["next"] + count)) if kind == "add" or not some else some
        for id in ids:
            model["rows"].pop(id, None)
            model["rows"][id] = [number, number]
        model["next"] = max([model["next"], *(id + 1 for id in ids)])
        return lambda bridge: bridge.add(
            rows_of(number, len(ids)),
            ids,
            tokens=[np.full((1 + number % 3, 2), number % 100)] * len(ids),
            payload={"number": [number] * len(ids)},
        )
    if kind == "set_payload":
        for id in some:
            model["rows"][id][1] = -number
        return lambda bridge: bridge.set_payload(some, {"number": -number})
    if kind == "delete":
        for id in some[:5]:
            del model["rows"][id]
        return lambda bridge: bridge.delete(some[:5])
    rest = number % 17
    for id in [id for id, (_, value) in model["rows"].items() if value % 17 == rest and value > 0]:
        del model["rows"][id]
    return lambda bridge: bridge.delete(where="number % 17 = $rest AND number > 0", params={"rest": rest})


def copied(model):
    return {"rows": {id: list(row) for id, row in model["rows"].items()}, "next": model["next"]}


def state_after(model, number):
    after = copied(model)
    play(after, number)
    return after["rows"]


def state_of(bridge):
    """Return what a bridge holds, all its parts held against each other, as the model puts it."""
    ids = bridge.ids()
    vectors = bridge.get(ids).reshape(-1, DIM) - np.arange(DIM)
    assert (vectors == vectors[:, :1]).all()
    numbers = (vectors[:, 0] - 1).astype(int).tolist()
    if ids:
        assert [len(t) for t in bridge.get_tokens(ids)] == [1 + number % 3 for number in numbers]
    table = bridge.to_arrow()
    assert table["id"].to_pylist() == ids
    payload = table["number"].to_pylist() if ids else []
    for id in ids[:: max(1, len(ids) // 5)]:
        vector = bridge.get(id)
        # Exact, for a walk may miss a row: one among up to 29 copies each of its neighbours, whose links go to their
        # copies, is now and then linked to by none (1 row in 20,000 here), and then no ef finds it.
        assert bridge.search(vector, k=1, exact=True).distances[0] < 1e-3
        assert id in bridge.search(vector, k=len(ids), radius=1e-3, exact=True).ids
        walked = bridge.search(vector, k=1)  # the graph is that of these rows
        assert walked.distances[0] == pytest.approx(((bridge.get(walked.ids[0]) - vector) ** 2).sum(), abs=1e-3)
    return {id: [number, value] for id, number, value in zip(ids, numbers, payload, strict=True)}


def opened(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an operation that was cut off
        return Bridge.open(folder, **options)


# A child forks a grandchild for each life, so that imports are paid for once. Commands come in as lines.
_LIVES = """
import os, sys
sys.path.insert(0, sys.argv[1])
import attnbridge as ab
from test_kill import *
# What is loaded late is loaded now.
warm = Bridge(dim=DIM, metric="l2")
warm.add(rows_of(0, 300), payload={"number": [0] * 300})
warm.search(rows_of(0, 1)[0], where="number > 0")
for line in sys.stdin:
    what, folder, first = line.split()
    child = os.fork()
    if not child:
        try:
            WORKS[what](Path(folder), int(first))
        except BaseException as error:
            print("error", repr(error), flush=True)
        finally:
            os._exit(1)
    print("pid", child, flush=True)
    os.waitpid(child, 0)
    print("over", flush=True)
"""


def journalled_life(folder, first):
    """Do operations from number `first` on, and tell of each when it is done."""
    model = json.loads((folder.parent / "model.json").read_text())
    model["rows"] = {int(id): row for id, row in model["rows"].items()}
    with opened(folder, journal=True) as bridge:
        assert state_of(bridge) == model["rows"]
        print("begin", flush=True)
        for number in range(first, first + 10_000):
            play(model, number)(bridge)
            os.write(1, b"done %d\n" % number)  # as a whole: a kill may come between the writes of a print


def saving_life(folder, first):
    """Save a state, change it, save it again; tell of each save."""
    model = new_model()
    bridge = Bridge(dim=DIM, metric="l2")
    for number in range(FIRST, FIRST + 12):
        play(model, number)(bridge)
    print("begin", flush=True)
    for number in range(FIRST + 12, FIRST + 10_000):
        play(model, number)(bridge)
        bridge.save(folder)
        os.write(1, b"done %d\n" % number)  # as a whole: a kill may come between the writes of a print


WORKS = {"journal": journalled_life, "save": saving_life}


class Lives:
    """A process that lives lives, one after the other, until it is killed in each."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", _LIVES, HERE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_one(self, what, folder, first, least, patience):
        """Live until `patience` seconds after `least` operations; return the numbers of what was acknowledged."""
        self.process.stdin.write(f"{what} {folder} {first}\n")
        self.process.stdin.flush()
        lines, pid, begun = [], None, False
        for line in self.process.stdout:
            words = line.split()
            if words[0] == "pid":
                pid = int(words[1])
                continue
            if words[0] == "over":
                return [int(line.split()[1]) for line in lines]
            assert words[0] == ("done" if begun else "begin"), line
            if begun and line.endswith("\n"):
                lines.append(line)
            begun = True
            if len(lines) == least:
                time.sleep(patience)
                os.kill(pid, signal.SIGKILL)
        raise AssertionError(self.process.stderr.read())


@pytest.fixture
def lives():
    made = Lives()
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.mark.slow
def test_killed_during_journalled_writes(tmp_path, lives, rounds):
    """What was acknowledged is there; the operation that was being done is there as a whole or not at all."""
    rng = np.random.default_rng(0)
    folder, model, first = tmp_path / "index", new_model(), 0
    bridge = Bridge(dim=DIM, metric="l2")
    while first < FIRST:
        play(model, first)(bridge)
        first += 1
    bridge.save(folder)
    unfinished = set()
    for round in range(rounds(8, 50)):
        (tmp_path / "model.json").write_text(json.dumps(model))
        done = lives.kill_one("journal", folder, first, rng.integers(3), rng.uniform(0, 0.15))
        assert done == list(range(first, first + len(done)))
        for number in done:
            play(model, number)
        first += len(done)
        more = copied(model)
        play(more, first)
        with opened(folder, read_only=True, verify=("full", "lazy")[round % 2]) as reader:
            found = state_of(reader)
        assert found in (model["rows"], more["rows"]), f"round {round}, operation {first}: {operation(first)[0]}"
        unfinished.add(found == model["rows"])
        if found != model["rows"]:
            model, first = more, first + 1
        if round % 5 == 4:  # a new snapshot, a new journal
            with opened(folder, journal=True) as bridge:
                bridge.save(folder)
    assert first > FIRST
    assert list(found) == list(model["rows"])  # in order of insertion


@pytest.mark.slow
def test_killed_during_saves_over_a_snapshot(tmp_path, lives, rounds):
    rng = np.random.default_rng(1)
    folder, model = tmp_path / "index", new_model()
    bridge = Bridge(dim=DIM, metric="l2")
    for number in range(FIRST, FIRST + 12):
        play(model, number)(bridge)
    bridge.save(folder)
    states = [dict(model["rows"])]
    for number in range(FIRST + 12, FIRST + 100):
        play(model, number)
        states.append({id: list(row) for id, row in model["rows"].items()})
    states[0] = state_of(bridge)
    before = states[0]
    for round in range(rounds(8, 50)):
        done = lives.kill_one("save", folder, 0, rng.integers(3), rng.uniform(0, 0.1))
        with opened(folder, verify=("full", "lazy")[round % 2]) as reader:
            found = state_of(reader)
        last = done[-1] - FIRST - 11 if done else 0
        assert found in ((states[last] if done else before), states[last + 1]), f"round {round} after state {last}"
        before = found
    bridge.save(folder)
    assert len(list(folder.iterdir())) == 2  # what the killed ones left is gone


# ---- a full disk


@contextmanager
def files_up_to(size):
    """Let no file grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def some_life(folder, count=60):
    model, bridge = new_model(), Bridge(dim=DIM, metric="l2")
    for number in range(count):
        play(model, number)(bridge)
    bridge.save(folder)
    return model, count


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("journalled", [0, 7])
def test_a_full_disk_during_journalled_writes(tmp_path, journalled):
    folder = tmp_path / "index"
    model, first = some_life(folder)
    with Bridge.open(folder, journal=True) as bridge:
        for number in range(first, first + journalled):
            play(model, number)(bridge)
        first += journalled
        (journal,) = folder.glob("journal-*") if journalled else [None]
        size = journal.stat().st_size if journalled else 0
        for number in range(first, first + 12):
            before, view = content(folder), state_of(bridge)
            if state_after(model, number) == model["rows"]:  # a where that nothing matches
                continue
            for room in (0, 1, 20, 60):
                with files_up_to(size + room), pytest.raises(OSError, match="File too large") as error:
                    play(copied(model), number)(bridge)
                assert error.value.errno == errno.EFBIG
                assert content(folder).keys() - {Path("LOCK")} == before.keys() - {Path("LOCK")}
                assert all(content(folder)[path] == before[path] for path in before if path.name != "LOCK")
                assert state_of(bridge) == view
            play(model, number)(bridge)  # there is room again
            assert state_of(bridge) == model["rows"]
            (journal,) = folder.glob("journal-*")
            size = journal.stat().st_size
            with Bridge.open(folder, read_only=True) as reader:
                assert state_of(reader) == model["rows"]


def test_a_full_disk_during_a_save(tmp_path):
    folder = tmp_path / "index"
    model, first = some_life(folder)
    with Bridge.open(folder, journal=True) as bridge:
        for number in range(first, first + 9):
            play(model, number)(bridge)
        before = content(folder)
        sizes = sorted({path.stat().st_size for path in folder.rglob("*") if path.is_file()})
        for size in [0, 1, *(size - 1 for size in sizes if size > 1)]:
            if size >= sizes[-1]:
                break
            with files_up_to(size), pytest.raises(OSError, match=r"File too large|is the disk full"):
                bridge.save(folder)
            after = content(folder)
            assert {path: raw for path, raw in after.items() if path.name != "LOCK"} == {
                path: raw for path, raw in before.items() if path.name != "LOCK"
            }
            assert state_of(bridge) == model["rows"]
        play(model, first + 9)(bridge)  # into the old journal
        with Bridge.open(folder, read_only=True) as reader:
            assert state_of(reader) == model["rows"]
        bridge.save(folder)
        play(model, first + 10)(bridge)
    with Bridge.open(folder) as reader:
        assert state_of(reader) == model["rows"]


@pytest.fixture
def tiny_disk(tmp_path):
    """Return a file system of 6 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full(tiny_disk):
    folder = tiny_disk / "index"
    model, first = some_life(folder)
    with Bridge.open(folder, journal=True, mmap=False) as bridge:
        play(model, first)(bridge)
        (journal,) = folder.glob("journal-*")
        ballast = tiny_disk / "ballast"
        for number in range(first + 1, first + 9):
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            before = journal.read_bytes()
            view, refused = state_of(bridge), 0
            with pytest.raises(OSError, match="No space left") as error:
                bridge.save(folder)
            assert error.value.errno in (errno.ENOSPC, errno.EIO)
            with pytest.raises(OSError, match="No space left"):
                bridge.add(
                    np.ones((400, DIM)), payload={"number": [0] * 400}
                )  # more than the journal's last page holds
            refused += 1
            assert journal.read_bytes() == before
            assert state_of(bridge) == view
            ballast.unlink()
            play(model, number)(bridge)
            with Bridge.open(folder, read_only=True, mmap=False) as reader:
                assert state_of(reader) == model["rows"] == state_of(bridge)
        assert refused
        bridge.save(folder)
