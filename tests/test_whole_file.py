"""Files written as a whole, and what is no file: devices, pipes, folders, sockets."""

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from attnbridge import whole_file
from attnbridge.whole_file import write_whole

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")


def written(data=b"data"):
    return lambda stream: stream.write(data)


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    for data in (b"made", b"replaced"):
        write_whole(link, written(data))
        assert link.is_symlink()
        assert target.read_bytes() == data
    assert sorted(tmp_path.iterdir()) == [link, target]


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path, linked):
    pipe, file = tmp_path / "pipe", tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        file = tmp_path / "link"
        file.symlink_to(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(file, written(b"x" * 100_000))  # more than a pipe holds
    reader.join(10)
    assert read == [b"x" * 100_000]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert sorted(tmp_path.iterdir()) == sorted({pipe, file})


@pytest.fixture
def device(tmp_path, monkeypatch):
    """Return a link to a file that says that it is a character device."""
    file, link = tmp_path / "device", tmp_path / "link.png"
    file.write_bytes(b"")
    link.symlink_to(file)
    inode = file.stat().st_ino
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **options: _told(real(path, **options), inode))
    return file, link


def _told(found, inode):
    if found.st_ino != inode:
        return found
    return os.stat_result((stat.S_IFCHR | 0o666, *tuple(found)[1:]))


def test_a_device_is_written_into_and_stays_the_same(device):
    file, link = device
    before = file.lstat().st_ino
    write_whole(link, written(b"into it"))
    assert file.read_bytes() == b"into it"
    assert file.lstat().st_ino == before
    assert link.is_symlink()
    assert sorted(file.parent.iterdir()) == [file, link]


def test_errors_of_a_device_come_through_and_name_the_file(device, monkeypatch):
    _, link = device

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match=r"No space left on device: .*link\.png") as error:
        write_whole(link, written())
    assert error.value.errno == errno.ENOSPC


def test_a_directory_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("folder", "link"):
        with pytest.raises(
            IsADirectoryError, match="must be a regular file, a character device or a FIFO, this is a directory"
        ):
            write_whole(tmp_path / name, written())
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_socket_is_refused():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:  # a short name: 108 bytes
        file = Path(folder, "s")
        listening.bind(str(file))
        with pytest.raises(OSError, match=r"this is a socket: .*/s"):
            write_whole(file, written())
        assert stat.S_ISSOCK(file.stat().st_mode)


def test_a_block_device_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "disk"
    file.write_bytes(b"all there is")
    mode, real = stat.S_IFBLK | 0o660, Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **options: os.stat_result((mode, *tuple(real(path))[1:])))
    with pytest.raises(OSError, match="this is a block device"):
        write_whole(file, written(b""))
    assert file.read_bytes() == b"all there is"


_PRINTS = """
import sys
from pathlib import Path
from attnbridge.whole_file import write_whole
print("before", flush=True)
write_whole(Path("/dev/stdout"), lambda stream: stream.write(b"data\\n"))
print("after")
"""


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="there is no /dev/stdout here")
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_the_output_of_this_process_is_written_in_its_place(tmp_path, to):
    file = tmp_path / "out"
    with file.open("wb") as stream:
        target = subprocess.PIPE if to == "pipe" else stream
        done = subprocess.run([sys.executable, "-c", _PRINTS], stdout=target, check=True)
    assert (done.stdout if to == "pipe" else file.read_bytes()) == b"before\ndata\nafter\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"before")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(file, written())
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]
