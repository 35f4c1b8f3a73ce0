"""Checksums of a file's blocks: made when it is written, held against it as a whole or at each block's first touch."""

import errno
import os
import sys
import weakref
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attnbridge.integrations import files
from attnbridge.integrations.manifest import Listed, damaged
from attnbridge.threads import for_chunks

BLOCK_BYTES = 1 << 16
_CHUNK = 64  # blocks that one thread verifies before it takes the next


class Reader:
    """A regular file open for reading, closed when nothing refers to it any more.

    Reading goes through the descriptor: it outlives the file's name, and a file that shrinks meanwhile gives fewer
    bytes where a mapping would end the process.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = files.open_read(path)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EIO):
                raise damaged(path, f"it cannot be read ({error.strerror})") from error
            raise
        self.path = path
        self.size = os.fstat(self._descriptor).st_size
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start`, fewer where the file ends; never asks for more than it had."""
        count = max(0, min(count, self.size - start))
        try:
            if sys.platform == "win32":  # no pread; nor can a file be removed while it is open
                with self.path.open("rb") as file:
                    file.seek(start)
                    return file.read(count)
            raw = os.pread(self._descriptor, count, start)
            while raw and len(raw) < count:  # one call reads at most 2 GiB
                more = os.pread(self._descriptor, count - len(raw), start + len(raw))
                if not more:
                    break
                raw += more
            return raw
        except OSError as error:
            raise damaged(self.path, f"bytes {start} to {start + count} cannot be read ({error.strerror})") from error


def read_small(path: Path, most: int) -> bytes:
    """Return what a file holds, or an error where that is more than `most` bytes."""
    reader = Reader(path)
    if reader.size > most:
        raise damaged(path, f"it has {reader.size} bytes, at most {most} are allowed")
    return reader.read(0, most)


def block_sums(path: Path) -> str:
    """Return the CRC-32 of each block of a file, 8 hex digits each."""
    with path.open("rb") as file:
        return "".join(f"{zlib.crc32(block):08x}" for block in iter(lambda: file.read(BLOCK_BYTES), b""))


class Blocks:
    """The blocks of one file, verified where they are first touched; any number of threads may call.

    A block that fails is not remembered as verified: every later touch of it raises again.

    Attributes
    ----------
    pending : bool
        Whether blocks are left to verify; callers in a hurry ask this first.
    count : int
        The number of blocks.
    """

    def __init__(self, path: Path, listed: Listed, block_bytes: int) -> None:
        self._reader: Reader | None = Reader(path)
        if self._reader.size != listed.size:
            raise damaged(path, f"{self._reader.size} bytes instead of {listed.size}")
        self.path = path
        self.size = listed.size
        self.count = len(listed.sums)
        self._sums = listed.sums
        self._block = block_bytes
        self._verified = np.zeros(self.count, np.bool_)
        self.pending = True
        self._settle()

    def check(self, start: int, stop: int) -> None:
        """Verify the blocks that hold bytes `start` to `stop`."""
        if self.pending and start < stop:
            first = start // self._block
            self._verify(first + np.flatnonzero(~self._verified[first : (stop - 1) // self._block + 1]))

    def check_rows(self, rows: npt.NDArray[np.int64], offset: int, row_bytes: int) -> None:
        """Verify the blocks that hold these rows of an array whose data begins at byte `offset`."""
        if not self.pending or not len(rows) or not row_bytes:
            return
        starts = offset + rows * row_bytes
        first, last = starts // self._block, (starts + row_bytes - 1) // self._block
        spanned = [first]
        for step in range(1, int((last - first).max()) + 1):
            spanned.append(np.minimum(first + step, last))
        blocks = np.concatenate(spanned)
        self._verify(np.unique(blocks[~self._verified[blocks]]))

    def check_all(self, threads: int = 1) -> None:
        """Verify all that is not verified yet, on up to `threads` threads."""
        if self.pending:
            left = np.flatnonzero(~self._verified)
            for_chunks(lambda start, stop: self._verify(left[start:stop]), len(left), _CHUNK, threads)

    def _verify(self, blocks: npt.NDArray[np.int64]) -> None:
        reader = self._reader
        if reader is None:  # another thread has just verified the last of them
            return
        for block in blocks.tolist():
            start = block * self._block
            stop = min(start + self._block, self.size)
            if zlib.crc32(reader.read(start, stop - start)) != self._sums[block]:
                raise damaged(self.path, f"its checksum differs in bytes {start} to {stop}")
            self._verified[block] = True
        self._settle()

    def _settle(self) -> None:
        if self._verified.all():
            self.pending = False
            self._reader = None
