"""What was done since the last save, on the disk before it is acknowledged.

A folder's ``journal-<hex>`` holds what happened after ``snapshot-<hex>``, and goes with it: a new snapshot begins
without one. It is a header and then records, one for each operation::

    header   magic, format version, the snapshot's 12 hex digits, CRC-32 of these
    record   magic, sequence number, length of the body, CRC-32 of the body, CRC-32 of these; body; end mark

A record that is cut off where the file ends, or goes over into zeros there, is what a crash leaves: its `append` has
never returned, so it is dropped. Anything else that does not agree is damage.
"""

import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from attnbridge.errors import ConcurrencyError, IndexCorruptError, InvalidInputError
from attnbridge.integrations import files
from attnbridge.integrations.blocks import Reader

JOURNAL = re.compile(r"journal-[0-9a-f]{12}")
_VERSION = 1
_HEADER = struct.Struct("<8sI12sI")
_RECORD = struct.Struct("<4sQQII")
_MAGIC, _RECORD_MAGIC, _END = b"attnjrnl", b"rec:", b".end"
_PIECE = 1 << 20


def journal_path(root: Path, snapshot: str) -> Path:
    """Return where the journal of a snapshot (its name) is."""
    return root / snapshot.replace("snapshot-", "journal-")


def _corrupt(path: Path, at: int, what: str) -> IndexCorruptError:
    return IndexCorruptError(f"{path} is damaged at byte {at}: {what}; restore it from a backup")


def _signed(form: struct.Struct, *fields: object) -> bytes:
    """Return the fields packed, their CRC-32 as the last one."""
    unsigned = form.pack(*fields, 0)[:-4]
    return unsigned + struct.pack("<I", zlib.crc32(unsigned))


def _is_signed(raw: bytes) -> bool:
    return zlib.crc32(raw[:-4]) == int.from_bytes(raw[-4:], "little")


class _Scan:
    """One pass over a journal's records; `end` is where the last whole one ends, `count` how many there were."""

    def __init__(self, root: Path, snapshot: str) -> None:
        self.path = journal_path(root, snapshot)
        self.end = self.count = 0
        try:
            self._reader = Reader(self.path)
        except FileNotFoundError:
            self.size = 0
            return
        self.size = self._reader.size
        raw = self._reader.read(0, _HEADER.size)
        if len(raw) < _HEADER.size or self._zeros(_HEADER.size - 1):
            return  # its first record was never whole
        magic, version, of, _ = _HEADER.unpack(raw)
        if magic != _MAGIC:
            raise _corrupt(self.path, 0, "it does not begin as a journal")
        if not _is_signed(raw):
            raise _corrupt(self.path, 0, "the checksum of its header differs")
        if version > _VERSION:
            raise IndexCorruptError(
                f"{self.path} has journal version {version}, this attnbridge reads up to {_VERSION}; upgrade attnbridge"
            )
        if f"snapshot-{of.decode('latin-1')}" != snapshot:
            raise _corrupt(self.path, 0, f"it is the journal of another snapshot than {snapshot}")
        self.end = _HEADER.size

    def _zeros(self, start: int) -> bool:
        """Return whether there is nothing but zeros from `start` to the end of the file."""
        return not any(self._reader.read(at, _PIECE).strip(b"\0") for at in range(start, self.size, _PIECE))

    def bodies(self) -> Iterator[memoryview]:
        """Yield each record's body, checked; stop before one that a crash has cut off."""
        while self.end and self.end + _RECORD.size <= self.size:
            raw = self._reader.read(self.end, _RECORD.size)
            magic, sequence, length, crc, _ = _RECORD.unpack(raw)
            if magic != _RECORD_MAGIC or not _is_signed(raw):
                if self._zeros(self.end + _RECORD.size - 1):
                    return
                raise _corrupt(self.path, self.end, "the header of a record differs from its checksum")
            if sequence != self.count:
                raise _corrupt(self.path, self.end, f"record {sequence} where record {self.count} must be")
            stop = self.end + _RECORD.size + length + len(_END)
            if stop > self.size:
                return
            body = self._reader.read(self.end + _RECORD.size, length + len(_END))
            if body[-1] == 0 and stop == self.size:
                return
            if body[length:] != _END or zlib.crc32(memoryview(body)[:length]) != crc:
                raise _corrupt(self.path, self.end, f"the checksum of record {sequence} differs")
            self.end = stop
            self.count += 1
            yield memoryview(body)[:length]

    def warn(self) -> None:
        """Say that the journal ends in a record that a crash has cut off, where it does."""
        if self.end < self.size:
            warnings.warn(
                f"{self.path} ends in an operation that was cut off when its process or the machine stopped, "
                f"{self.size - self.end} bytes from byte {self.end}: it was never acknowledged and is dropped",
                RuntimeWarning,
                stacklevel=3,
            )


def records(root: str | os.PathLike[str], snapshot: str) -> Iterator[memoryview]:
    """Yield the body of every acknowledged record, in order; none where there is no journal.

    A RuntimeWarning says where a record at the end was cut off and is dropped.

    Parameters
    ----------
    root : path-like
        The index's folder.
    snapshot : str
        The name of the current snapshot.

    Yields
    ------
    memoryview

    Raises
    ------
    IndexCorruptError
        Damage: the message names the file and the byte.
    """
    scan = _Scan(Path(root), snapshot)
    yield from scan.bodies()
    scan.warn()


class Journal:
    """Appends to a snapshot's journal; whoever makes one holds the folder's `WriterLock`.

    The file is made by the first `append`. What a crash cut off at its end is cut away now: `records` first, which
    warns of it.

    Parameters
    ----------
    root : path-like
    snapshot : str
        The name of the current snapshot.

    Attributes
    ----------
    count : int
        Number of records.
    size : int
        Bytes of the file, 0 before the first record.
    broken : bool
        After a failed fsync nobody knows what is on the disk; nothing is appended any more.
    """

    def __init__(self, root: str | os.PathLike[str], snapshot: str) -> None:
        self._root = Path(root)
        self._snapshot = snapshot
        self.path = journal_path(self._root, snapshot)
        self.broken = False
        self._before: int | None = None  # where the last record begins, as long as it can be undone
        self._descriptor: int | None = None
        scan = _Scan(self._root, snapshot)
        for _ in scan.bodies():
            pass
        self.count, self.size = scan.count, scan.end
        if scan.end:
            self._descriptor = files.open_append(self.path)
            if scan.end < scan.size:
                try:
                    self._cut(scan.end)
                except BaseException:
                    self.close()
                    raise
        elif scan.size or self.path.exists():
            files.remove(self.path)  # a crash while it was being made

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Put one record on the disk; when this returns it stays, and when it raises it is not there.

        Parameters
        ----------
        parts : sequence of bytes-like
            The body, in pieces.

        Raises
        ------
        OSError
            The disk is full, or fails.
        ConcurrencyError
            The folder has another snapshot by now, or another writer.
        """
        self._check()
        views = [memoryview(part).cast("B") for part in parts]
        crc = 0
        for view in views:
            crc = zlib.crc32(view, crc)
        header = _signed(_RECORD, _RECORD_MAGIC, self.count, sum(map(len, views)), crc)
        if self._descriptor is None:
            self._make([header, *views, _END])
        else:
            self._write(self._descriptor, [header, *views, _END])
        self.count += 1

    def _check(self) -> None:
        if self.broken:
            raise OSError(f"{self.path} failed before and takes no more records; save the bridge to start a new one")
        if not self._is_ours():
            raise ConcurrencyError(
                f"folder {self._root} was saved or changed by another bridge since it was opened; open it again"
            )

    def _is_ours(self) -> bool:
        """Return whether folder and file are as this journal left them."""
        if not (self._root / self._snapshot).is_dir():  # saved meanwhile: the journal is not of the current snapshot
            return False
        if self._descriptor is None:
            return not self.path.exists()
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor)) and found.st_size == self.size

    def _make(self, parts: Sequence[bytes | memoryview]) -> None:
        digits = self._snapshot.removeprefix("snapshot-").encode()
        header = _signed(_HEADER, _MAGIC, _VERSION, digits)
        self._descriptor = files.create(self.path)
        try:
            self._write(self._descriptor, [header, *parts], len(header))
            files.sync_path(self._root)
        except BaseException:
            unsure = self.broken or self._before is not None  # an fsync failed, the file's or the folder's
            self.close()
            with suppress(OSError):
                files.remove(self.path)
                files.sync_path(self._root)
                self.broken = unsure
            self.size, self._before = 0, None
            raise

    def _write(self, descriptor: int, parts: Sequence[bytes | memoryview], skip: int = 0) -> None:
        """Append the parts; the record begins after `skip` bytes of them."""
        before = self.size
        try:
            for part in parts:
                files.write(descriptor, part)
            try:
                files.sync(descriptor)
            except OSError:
                self.broken = True  # the system may have dropped the pages, and say so only once
                raise
        except BaseException:
            if before:
                with suppress(OSError):
                    self._cut(before)
            raise
        self.size = before + sum(map(len, parts))
        self._before = before + skip

    def _cut(self, size: int) -> None:
        """Cut the file to its first `size` bytes, or refuse to go on with it."""
        if self._descriptor is None:
            return
        was, self.broken = self.broken, True
        files.truncate(self._descriptor, size)
        files.sync(self._descriptor)
        self.size, self._before, self.broken = size, None, was

    def undo(self) -> None:
        """Take the record of the last `append` away again.

        Raises
        ------
        InvalidInputError
            There was no `append` since the journal was opened, or since the last `undo`.
        """
        if self._before is None:
            raise InvalidInputError("undo needs a record that append has just written; there is none")
        self._check()
        self._cut(self._before)
        self.count -= 1

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self.broken = True
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):  # all that counts has been synced
                files.close(descriptor)
