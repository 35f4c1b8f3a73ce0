"""Killed processes, full disks, and readers and writers of one folder at the same time."""

import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import attnbridge as ab

Bridge = ab.AttentionVectorBridge
HERE = Path(__file__).parent


def start(code, *arguments, limit=None):
    """Run Python code in a process of its own, where no file may grow beyond `limit` bytes."""

    def prepare():
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-B", "-c", textwrap.dedent(code), *map(str, arguments)],
        preexec_fn=prepare,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def of_state(state, n=2000):
    """Return a bridge all of whose rows tell which state it is."""
    bridge = Bridge(dim=4, metric="l2", index="exact")
    bridge.add(np.full((n, 4), state), tokens=[np.full((1, 2), state)] * n)
    return bridge


def state_of(folder):
    """Return the one state that a folder's rows and tokens agree on."""
    bridge = Bridge.open(folder)
    assert len(bridge) == 2000
    states = set(bridge.get(range(2000)).ravel().tolist())
    states |= {float(t) for token in bridge.get_tokens(range(0, 2000, 100)) for t in token.ravel()}
    (state,) = states
    return int(state)


# Each file fills the disk once: rows.npy 160 kB, graph.hnsw more than that, ids.json, tokens.npy, the manifest.
_SAVE = """
import resource, sys, numpy as np, attnbridge as ab
bridge = ab.AttentionVectorBridge(dim=20, metric="l2", index=sys.argv[2])
rng = np.random.default_rng(0)
n = int(sys.argv[3])
bridge.add(rng.random((n, 20)), ids=["x" * 500 + str(i) for i in range(n)], tokens=[np.ones((3, 2))] * n)
bridge.search(rng.random(20))
limit = int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    bridge.save(sys.argv[1])
except OSError as error:
    print("OSError", error)
else:
    print("saved")
"""


@pytest.mark.parametrize(
    ("index", "n", "limit"),
    [("hnsw", 2000, 170_000), ("exact", 2000, 100_000), ("exact", 2000, 200_000), ("exact", 20, 1), ("exact", 20, 0)],
)
@pytest.mark.parametrize("before", [True, False])
def test_full_disk(tmp_path, index, n, limit, before):
    folder = tmp_path / "index"
    if before:
        of_state(1).save(folder)
        content = sorted(folder.rglob("*"))
    process = start(_SAVE, folder, index, n, limit, limit=1 << 30)
    out, err = process.communicate(timeout=120)
    assert out.startswith("OSError"), out + err
    if before:
        assert sorted(folder.rglob("*")) == content
        assert state_of(folder) == 1
    else:
        assert not folder.exists()


_SAVE_ON_AND_ON = """
import sys, numpy as np, attnbridge as ab
sys.path.insert(0, sys.argv[2])
from test_faults import of_state
bridges = [of_state(state) for state in (1, 2)]
print("ready", flush=True)
while True:
    for bridge in bridges:
        bridge.save(sys.argv[1])
"""


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_while_saving(tmp_path, rounds):
    rng = np.random.default_rng(0)
    states = set()
    for round in range(rounds(6, 150)):
        folder = tmp_path / f"index{round % 3}"  # the later rounds find what the killed ones before left
        process = start(_SAVE_ON_AND_ON, folder, HERE)
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            wait_until((folder / "CURRENT").exists)
            time.sleep(rng.uniform(0, 0.03))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        states.add(state_of(folder))
    assert states <= {1, 2}
    for folder in tmp_path.iterdir():
        of_state(3).save(folder)
        assert state_of(folder) == 3
        assert len(list(folder.iterdir())) == 2  # nothing of the killed ones is left


@pytest.mark.slow
def test_killed_in_the_first_save(tmp_path, rounds):
    rng = np.random.default_rng(1)
    for round in range(rounds(4, 60)):
        folder = tmp_path / f"index{round}"
        process = start(_SAVE_ON_AND_ON, folder, HERE)
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            time.sleep(rng.uniform(0, 0.01))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if (folder / "CURRENT").exists():
            assert state_of(folder) in (1, 2)
        else:
            with pytest.raises(ab.IndexCorruptError, match=r"does not exist|is no index"):
                Bridge.open(folder)
        of_state(3).save(folder)
        assert state_of(folder) == 3
        assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("when", ["before the rename", "between the renames"])
def test_killed_at_the_worst_moments(tmp_path, when):
    folder = tmp_path / "index"
    for _ in range(2):  # into nothing, and into an index
        had = (folder / "CURRENT").exists()
        process = start(
            """
            import os, signal, sys
            from pathlib import Path
            sys.path.insert(0, sys.argv[2])
            from test_faults import of_state
            def die(*arguments):
                os.kill(os.getpid(), signal.SIGKILL)
            setattr(Path, sys.argv[3], die)
            of_state(2).save(sys.argv[1])
            """,
            folder,
            HERE,
            "rename" if when == "before the rename" else "replace",
        )
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert any(path.name.startswith(".writing-") for path in folder.iterdir())
        if had:
            assert state_of(folder) == 1
        of_state(1).save(folder)
        assert state_of(folder) == 1
        assert len(list(folder.iterdir())) == 2


def test_open_while_another_process_saves(tmp_path, rounds):
    folder = tmp_path / "index"
    of_state(1).save(folder)
    process = start(_SAVE_ON_AND_ON, folder, HERE)
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        states = {state_of(folder) for _ in range(rounds(40, 2000))}
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert states <= {1, 2}


def test_several_processes_save_into_one_folder(tmp_path, rounds):
    folder = tmp_path / "index"
    processes = [start(_SAVE_ON_AND_ON, folder, HERE) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        wait_until((folder / "CURRENT").exists)
        for _ in range(rounds(30, 500)):
            assert state_of(folder) in (1, 2)
        assert [process.poll() for process in processes] == [None] * 3
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert state_of(folder) in (1, 2)


def test_what_is_open_stays_readable_when_it_is_replaced(tmp_path):
    of_state(1).save(tmp_path)
    bridge = Bridge.open(tmp_path)
    for state in (2, 3):
        of_state(state).save(tmp_path)
    assert set(bridge.get(range(2000)).ravel().tolist()) == {1.0}
    assert bridge.search([1, 1, 1, 1]).ids == list(range(10))
    assert state_of(tmp_path) == 3
