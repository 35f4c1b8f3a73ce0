"""The writer lock: within a process, between processes, over death and fork."""

import errno
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime

import pytest

import attnbridge as ab
from attnbridge.errors import ConcurrencyError
from attnbridge.integrations import lock as locks
from attnbridge.integrations.lock import WriterLock
from attnbridge.integrations.snapshot import check_target, load_snapshot, write_snapshot


def save(folder, text="x"):
    return write_snapshot(folder, "Test", {}, {"text.txt": lambda path: path.write_text(text)})


def text_of(folder):
    return load_snapshot(folder, "Test", lambda snapshot: snapshot.path("text.txt").read_text())


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


_HOLD = """
import sys
from attnbridge.integrations.lock import WriterLock
lock = WriterLock.acquire(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


def let_go(process):
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "released\n"


def end(process):
    process.kill()
    process.communicate()


@pytest.fixture
def holder(tmp_path):
    process = start(_HOLD, tmp_path, "open")
    yield process
    end(process)


def test_acquired_and_released(tmp_path):
    lock = WriterLock.acquire(tmp_path)
    assert (lock.held, lock.root) == (True, tmp_path)
    about = json.loads((tmp_path / "LOCK").read_text())
    assert about.keys() == {"pid", "host", "since", "command", "why"}
    assert (about["pid"], about["why"]) == (os.getpid(), "open")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(about["since"])).total_seconds()) < 60
    lock.release()
    lock.release()
    assert not lock.held
    assert list(tmp_path.iterdir()) == []


def test_bridges_of_one_process_share_it(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "link").symlink_to("index")
    a, b = WriterLock.acquire(tmp_path / "index"), WriterLock.acquire(str(tmp_path / "link"), "save")
    save(tmp_path / "index")
    a.release()
    a.release()
    assert (a.held, b.held, (tmp_path / "index" / "LOCK").exists()) == (False, True, True)
    b.release()
    assert not (tmp_path / "index" / "LOCK").exists()


def test_another_process_is_told_who_has_it(tmp_path, holder):
    message = (
        rf"folder {tmp_path} is open for writing by process {holder.pid} on host \S+ since "
        rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(.*python.* -c .*\); open it with read_only=True, or close it there"
    )
    begun = time.monotonic()
    with pytest.raises(ConcurrencyError, match=message) as raised:
        WriterLock.acquire(tmp_path)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - begun < 1
    let_go(holder)
    WriterLock.acquire(tmp_path).release()


def test_a_save_into_a_folder_that_another_process_has_open(tmp_path):
    name = save(tmp_path, "before")
    process = start(_HOLD, tmp_path, "open")
    try:
        called = []
        with pytest.raises(ConcurrencyError, match=f"open for writing by process {process.pid}"):
            write_snapshot(tmp_path, "Test", {}, {"text.txt": called.append})
        assert called == []
        assert text_of(tmp_path) == "before"  # reading goes on
        assert {path.name for path in tmp_path.iterdir()} == {"CURRENT", "LOCK", name}
        let_go(process)
        save(tmp_path, "after")
        assert text_of(tmp_path) == "after"
    finally:
        end(process)


def test_a_process_that_is_only_saving_is_waited_for(tmp_path):
    process = start(_HOLD, tmp_path, "save")
    try:
        threading.Timer(0.3, lambda: print(file=process.stdin, flush=True)).start()
        begun = time.monotonic()
        lock = WriterLock.acquire(tmp_path)
        assert 0.2 < time.monotonic() - begun < 20
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
        lock.release()
    finally:
        end(process)


def test_waiting_ends(tmp_path, monkeypatch):
    process = start(_HOLD, tmp_path, "save")
    try:
        monkeypatch.setattr(locks, "_PATIENCE", 0.1)
        with pytest.raises(
            ConcurrencyError, match=rf"is being saved by process {process.pid} .*try again when that is"
        ):
            WriterLock.acquire(tmp_path)
    finally:
        end(process)


def test_a_save_that_is_joined_by_an_open_says_so(tmp_path):
    short = WriterLock.acquire(tmp_path, "save")
    lasting = WriterLock.acquire(tmp_path, "open")
    short.release()
    assert json.loads((tmp_path / "LOCK").read_text())["why"] == "open"
    lasting.release()


def test_the_lock_dies_with_its_process(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / "LOCK").exists()
    lock = WriterLock.acquire(tmp_path)
    assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "who"),
    [
        (b"", "another process"),
        (b"\xff\x00garbage", "another process"),
        (b"[1]", "another process"),
        (b"[" * 100_000, "another process"),
        (b'{"pid": "7", "host": 3, "since": [], "command": {}, "why": 1}', "another process"),
        (b'{"pid": -1, "since": "yesterday"}', "another process"),
        (
            b'{"pid": 4711, "host": "h\\u001b[2J", "since": "2026-11-21T06:00:01+00:00", "command": "python app.py"}',
            "process 4711 on host h [2J since 2026-11-21 06:00:01 UTC (python app.py)",
        ),
        (b'{"host": "' + b"h" * 1000 + b'"}', f"another process on host {'h' * 97}..."),
    ],
    ids=range(8),
)
def test_whatever_the_file_says(tmp_path, holder, monkeypatch, content, who):
    monkeypatch.setattr(locks, "_COURTESY", 0.05)
    with (tmp_path / "LOCK").open("r+b") as file:
        file.truncate()
        file.write(content)
    message = f"is open for writing by {who}; open it with read_only=True, or close it there"
    with pytest.raises(ConcurrencyError, match=re.escape(message)):
        WriterLock.acquire(tmp_path)


def test_who_has_not_yet_said_is_waited_for(tmp_path, holder):
    content = (tmp_path / "LOCK").read_bytes()
    (tmp_path / "LOCK").write_bytes(b"")
    threading.Timer(0.2, lambda: (tmp_path / "LOCK").write_bytes(content)).start()
    with pytest.raises(ConcurrencyError, match=f"by process {holder.pid} "):
        WriterLock.acquire(tmp_path)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12: fork where threads have been
def test_a_forked_child_does_not_own_it(tmp_path):
    lock = WriterLock.acquire(tmp_path)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            assert not lock.held
            lock.release()  # of no effect
            assert (tmp_path / "LOCK").exists()
            with pytest.raises(ConcurrencyError, match=f"process {os.getppid()}"):
                WriterLock.acquire(tmp_path)
            os.write(theirs, b"refused")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(ours, 10) == b"refused"
    os.close(ours)
    os.close(theirs)
    assert lock.held
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from attnbridge.integrations.lock import WriterLock as W; W.acquire(sys.argv[1])",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConcurrencyError: folder" in process.stderr  # the parent has it still
    lock.release()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path):
    process = start(
        """
        import os, sys, time
        from attnbridge.integrations.lock import WriterLock
        lock = WriterLock.acquire(sys.argv[1])
        if os.fork():
            print("ready", flush=True)
            os.read(0, 1)
            os._exit(0)
        os.close(1)
        time.sleep(30)
        """,
        tmp_path,
    )
    pid = process.pid
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    try:
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 10
        while True:  # the child runs its hooks in its own time
            try:
                WriterLock.acquire(tmp_path).release()
                break
            except ConcurrencyError:
                assert time.monotonic() < deadline
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)


def test_a_folder_that_was_removed_and_made_again(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    old = WriterLock.acquire(folder)
    (folder / "LOCK").unlink()
    folder.rmdir()
    folder.mkdir()
    new = WriterLock.acquire(folder)
    assert (old.held, new.held, (folder / "LOCK").exists()) == (False, True, True)
    old.release()
    assert (folder / "LOCK").exists()
    new.release()
    assert list(folder.iterdir()) == []


def test_where_there_is_no_flock_nothing_is_excluded(tmp_path, holder, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = WriterLock.acquire(tmp_path)
    assert lock.held
    lock.release()


def test_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    lock = WriterLock.acquire(tmp_path)
    assert (lock.held, list(tmp_path.iterdir())) == (True, [])
    again = WriterLock.acquire(tmp_path)
    lock.release()
    again.release()
    assert not again.held


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match=r"cannot lock the folder for writing .*/proc/LOCK"):
        WriterLock.acquire("/proc")  # even root cannot make files there
    with pytest.raises(FileNotFoundError, match=r"cannot lock the folder for writing .*nowhere/LOCK"):
        WriterLock.acquire(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "LOCK")
    with pytest.raises(OSError, match=r"not a regular file; remove it: .*LOCK"):
        WriterLock.acquire(tmp_path)
    assert stat.S_ISFIFO((tmp_path / "LOCK").lstat().st_mode)
    (tmp_path / "LOCK").unlink()
    (tmp_path / "LOCK").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="cannot lock the folder for writing"):
        WriterLock.acquire(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_lock_and_journals_belong_to_an_index(tmp_path):
    for name in ("LOCK", "journal-0123456789ab"):
        (tmp_path / name).write_text("")
    check_target(tmp_path)
    (tmp_path / "journal").write_text("")
    with pytest.raises(ab.InvalidInputError, match="folder must be empty or hold an index"):
        check_target(tmp_path)


def test_many_threads(tmp_path):
    errors = []

    def work():
        try:
            for _ in range(50):
                lock = WriterLock.acquire(tmp_path)
                assert lock.held
                lock.release()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, list(tmp_path.iterdir())) == ([], [])


_TAKE_TURNS = """
import sys, time
from pathlib import Path
from attnbridge.integrations.lock import WriterLock
folder, counter = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    lock = WriterLock.acquire(folder, "save")
    n = int(counter.read_text())
    time.sleep(0.0005)
    counter.write_text(str(n + 1))
    lock.release()
"""


def test_processes_take_turns(tmp_path, rounds):
    """The file is removed at each release: nobody may end up with the lock on a file that has lost its name."""
    count = rounds(25, 400)
    (tmp_path / "index").mkdir()
    (tmp_path / "counter").write_text("0")
    processes = [start(_TAKE_TURNS, tmp_path / "index", tmp_path / "counter", count) for _ in range(3)]
    for process in processes:
        process.communicate(timeout=300)
        assert process.returncode == 0
    assert (tmp_path / "counter").read_text() == str(3 * count)
