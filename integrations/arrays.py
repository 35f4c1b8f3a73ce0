"""The .npy files of a snapshot, read without trusting a word of their headers."""

import math
import mmap as memory
import os
import re
import reprlib
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.blocks import Reader
from attnbridge.integrations.manifest import damaged
from attnbridge.integrations.snapshot import Snapshot

# As numpy.save writes it: the magic, version 1.0, and the length of a Python dict's text, which is not evaluated.
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(r"\{'descr': '([^']{1,20})', 'fortran_order': False, 'shape': \((\d*(?:, ?\d+)*,?)\), \} *\n")
_MOST_BYTES = 2**62

# Reading a value of a mapped file brings in the pages around it, up to so many bytes; a mapping that is read at random
# is given back when so much of it may be in memory, a small one never.
_AROUND = 2 << 20
_MOST_TOUCHED = 64 << 20
SMALL = 256 << 20


def load_array(
    snapshot: Snapshot, file: str, dtype: npt.DTypeLike, ndim: int, *, mmap: bool
) -> tuple[npt.NDArray[np.generic], int]:
    """Return one of a snapshot's arrays, and where in the file its data begins.

    Parameters
    ----------
    snapshot : Snapshot
    file : str
    dtype : dtype-like
        What the array must be of.
    ndim : int
        How many axes it must have.
    mmap : bool
        Map it into memory, copy-on-write; its blocks are left to be verified by whoever reads them. Otherwise it is
        verified and read.

    Returns
    -------
    tuple of array and int

    Raises
    ------
    IndexCorruptError
        Another dtype or order, or a header that claims more or less than the file holds.
    """
    path = snapshot.folder / file
    blocks = snapshot.blocks(file)
    expected = np.dtype(dtype)
    if mmap:
        blocks.check(0, len(_MAGIC) + 2)
        blocks.check(0, min(blocks.size, len(_MAGIC) + 2 + 0xFFFF))
    else:
        snapshot.path(file)
    with path.open("rb") as opened:
        raw = opened.read(len(_MAGIC) + 2)
        if raw[: len(_MAGIC)] != _MAGIC:
            raise damaged(path, "it is no .npy file of version 1.0")
        offset = len(_MAGIC) + 2 + int.from_bytes(raw[len(_MAGIC) :], "little")
        text = opened.read(offset - len(raw)).decode("latin-1")
        header = _HEADER.fullmatch(text)
        if header is None or header[1] != expected.str:
            raise damaged(path, f"it must hold {expected} in C order, its header is {reprlib.repr(text.strip())}")
        sizes = [size.strip() for size in header[2].split(",") if size.strip()]
        # Twenty digits at most: neither Python's limit for numbers in texts nor numpy's for arrays is reached.
        if len(sizes) != ndim or any(len(size) > 20 for size in sizes):
            raise damaged(path, f"it must have {ndim} axes, its shape is ({reprlib.repr(header[2])[1:-1]})")
        shape = tuple(map(int, sizes))
        claimed = offset + math.prod(shape) * expected.itemsize
        if claimed != blocks.size or math.prod(max(size, 1) for size in shape) * expected.itemsize > _MOST_BYTES:
            raise damaged(path, f"its header claims shape {shape}, {claimed} bytes, but it has {blocks.size}")
        if not math.prod(shape):
            return np.empty(shape, expected), offset
        if os.fstat(opened.fileno()).st_size != claimed:  # numpy would make a file longer that is too short to map
            raise damaged(path, "it has become shorter")
        if mmap:  # a plain array over the mapping: numpy's memmap class is slow to slice
            return np.asarray(np.memmap(opened, expected, "c", offset, shape)), offset
        array = np.empty(shape, expected)
        opened.readinto(array.data.cast("B"))
        return array, offset


class Mapped:
    """The file behind rows that `load_array` has mapped: rows can be read past the mapping, and its pages given back.

    Nobody writes to such rows: what is given back comes from the file again when it is next read, so that readers
    need not know.

    Parameters
    ----------
    path : Path
    offset : int
        Where in the file the rows begin.
    array : (n, d) ndarray

    Attributes
    ----------
    size : int
        Bytes.
    """

    def __init__(self, path: Path, offset: int, array: npt.NDArray[Any]) -> None:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        self.size = array.nbytes
        # weakly: an array that was copied to grow must not stay in memory
        self._mapping = weakref.ref(base) if isinstance(base, memory.mmap) else None
        self._touched = 0
        self._reader, self._offset = Reader(path), offset
        self._dtype, self._dim = array.dtype, array.shape[1]

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows without bringing in what lies around them."""
        size = self._dtype.itemsize * self._dim
        raw = bytearray().join(
            [self._reader.read(self._offset + row * size, size) for row in rows.tolist()]
        )  # writable: kernels know no other
        if len(raw) < size * len(rows):
            raise damaged(self._reader.path, "it has become shorter")
        return np.frombuffer(raw, self._dtype).reshape(len(rows), self._dim)

    def touch(self, places: int) -> None:
        """Count reads at random places, and give back what they have brought in where that may have become much."""
        if self.size <= SMALL:
            return
        self._touched += places * _AROUND  # threads may lose a count: it is a guess
        if self._touched >= _MOST_TOUCHED:
            self.release()

    def release(self) -> None:
        """Take the pages out of this process's memory; they may stay in the system's cache of the file."""
        self._touched = 0
        mapping = None if self._mapping is None else self._mapping()
        advice = getattr(memory, "MADV_DONTNEED", None)  # Windows has none
        if mapping is not None and advice is not None:
            with suppress(OSError):  # locked into memory by the user
                mapping.madvise(advice)
