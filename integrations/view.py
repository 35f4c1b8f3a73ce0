"""One state of a store, which searches read while writers make the next one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.hits import Id
from attnbridge.integrations import arrays
from attnbridge.integrations.arrays import Mapped
from attnbridge.integrations.blocks import Blocks
from attnbridge.integrations.codes import on_disk, unpack
from attnbridge.integrations.reduction import Reduction
from attnbridge.integrations.rows import Ids
from attnbridge.integrations.tokens import TokenArrays
from attnbridge.metric import Keys
from attnbridge.rerank import TokenRows
from attnbridge.threads import usable_threads
from attnbridge.validation import as_mask, kernel_ready

if TYPE_CHECKING:
    from attnbridge.integrations.payload import Payload

Rows = npt.NDArray[np.int64]

# Of a token's scale on the disk: a float32.
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Guard:
    """What of the memory-mapped files has to be verified before it is read.

    Parameters
    ----------
    rows, tokens, token_scales : (Blocks, int) or None
        The file's blocks and where its array begins; None for what is not mapped.
    row_bytes, token_bytes : int
        Of one entry.
    codes : Blocks, optional
    mapped : Mapped, optional
        The rows' mapping.
    """

    rows: tuple[Blocks, int]
    row_bytes: int
    tokens: tuple[Blocks, int] | None = None
    token_bytes: int = 0
    codes: Blocks | None = None
    mapped: Mapped | None = None
    token_scales: tuple[Blocks, int] | None = None

    def check_rows(self, rows: Rows | None = None) -> None:
        """Verify what the given rows (None: all) lie in."""
        blocks, offset = self.rows
        if not blocks.pending:
            return
        if rows is None:
            blocks.check_all(usable_threads())
        else:
            blocks.check_rows(rows, offset, self.row_bytes)

    def check_walk(self) -> None:
        """Verify all that a walk may read: the codes, or where there are none the rows."""
        blocks = self.rows[0] if self.codes is None else self.codes
        if blocks.pending:
            blocks.check_all(usable_threads())

    def check_tokens(self, tokens: TokenRows, rows: Rows | None = None) -> None:
        """Verify what the tokens of the given rows (None: all) lie in."""
        for file, size in ((self.tokens, self.token_bytes), (self.token_scales, _SCALE_BYTES)):
            if file is None or not file[0].pending:
                continue
            blocks, offset = file
            if rows is None:
                blocks.check_all(usable_threads())
                continue
            for start, length in zip(tokens.starts[rows].tolist(), tokens.lengths[rows].tolist(), strict=True):
                first = offset + start * size
                blocks.check(first, first + length * size)


class Allowed:
    """The rows that a filter lets pass, as a mask or as a list; each is made from the other when it is asked for.

    Parameters
    ----------
    count : int
        How many rows there are.
    mask : (count,) bool, optional
    rows : (m,) int64, ascending, optional
    """

    __slots__ = ("_count", "_mask", "_rows", "passing")

    def __init__(self, count: int, mask: npt.NDArray[np.bool_] | None = None, rows: Rows | None = None) -> None:
        self._count, self._mask, self._rows = count, mask, rows
        self.passing = int(np.count_nonzero(mask)) if rows is None else len(rows)  # type: ignore[arg-type]

    @property
    def rows(self) -> Rows:
        """The rows' numbers, ascending."""
        if self._rows is None:
            mask = np.require(self._mask, requirements=["C", "A"]).view(np.uint8)
            if mask.ctypes.data % 8:
                mask = mask.copy()
            out = np.empty(self.passing + 1, np.int64)
            kernels.true_rows(kernel_ready(mask), kernel_ready(mask[: len(mask) // 8 * 8].view(np.uint64)), out)
            self._rows = out[: self.passing]
        return self._rows

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Whether each row passes."""
        if self._mask is None:
            mask = np.zeros(self._count, np.bool_)
            mask[self._rows] = True
            self._mask = mask  # whole: the queries of a batch share it over threads
        return self._mask

    def __and__(self, other: "Allowed") -> "Allowed":
        return Allowed(self._count, self.mask & other.mask)


@dataclass(frozen=True)
class View:
    """Rows, ids, tokens and payload as they were at one moment; nothing in it changes any more.

    Parameters
    ----------
    keys : Keys
        All rows, dead ones included.
    alive : (n,) bool
        Which rows are not dead.
    live : int
        How many those are.
    ids : Ids
        Of each row; there may be more by now.
    tokens : TokenRows or None
    payload : Payload or None
        None where no document was ever given any.
    guard : Guard or None
    walk : Keys
        All rows as the walk reads them: `keys` itself, or codes.
    reduction : Reduction or None
        How queries are encoded for `walk`; None where that holds float32 rows of full dimension.
    steps : (n,) float64 or None
        What packed rows are multiplied with.
    clipped : int
        How many values of the rows the reduction has clipped.
    """

    keys: Keys
    alive: npt.NDArray[np.bool_]
    live: int
    ids: Ids
    tokens: TokenRows | None
    payload: "Payload | None"
    guard: Guard | None
    walk: Keys
    reduction: Reduction | None
    steps: npt.NDArray[np.float64] | None
    clipped: int

    @property
    def count(self) -> int:
        """How many rows there are, dead ones included."""
        return len(self.alive)

    @property
    def live_rows(self) -> Rows:
        """The live rows' numbers."""
        # Not by cached_property: in Python 3.11 that has a lock, which a forked child may find held for ever.
        rows: Rows | None = self.__dict__.get("_live_rows")
        if rows is None:
            rows = self.__dict__["_live_rows"] = np.flatnonzero(self.alive)
        return rows

    @property
    def code_bytes(self) -> int:
        """How many bytes are kept for the walk alone: codes and directions."""
        if self.walk is self.keys or self.reduction is None:
            return 0
        directions = self.reduction.directions
        return self.walk.data.nbytes + (0 if directions is None else directions.nbytes)

    def live_ids(self) -> list[Id]:
        """Return the live rows' ids in order of insertion."""
        if self.live == self.count:
            return self.ids.part(0, self.count)
        return self.ids.at(self.live_rows)

    def check_rows(self, rows: Rows | None = None) -> None:
        """Verify rows (None: all) of a memory-mapped file that is verified as it is read."""
        if self.guard is not None:
            self.guard.check_rows(rows)

    def check_walk(self) -> None:
        """Verify all that a walk may read, where files are memory-mapped and verified as they are read."""
        if self.guard is not None:
            self.guard.check_walk()

    def gathered(self, labels: npt.NDArray[np.int64]) -> tuple[Keys, npt.NDArray[np.int64]]:
        """Return full rows to rank, and where in them each label (-1 for none) is: all of them, where they are.

        Of a large mapped file a copy of those named: its pages would fill the memory that the codes spare.
        """
        if not self._apart():
            return self.keys, labels
        assert self.guard is not None
        assert self.guard.mapped is not None
        rows = np.unique(labels[labels >= 0])
        scale, bias = (None if part is None else part[rows] for part in (self.keys.scale, self.keys.bias))
        data = self.guard.mapped.read(rows).view(self.keys.data.dtype)
        return Keys(data, scale, bias), np.where(labels >= 0, np.searchsorted(rows, labels), -1)

    def ranked(self, count: int) -> None:
        """Say that so many full rows were read where they are; now and then they are let go as by `release`."""
        if self._apart():
            assert self.guard is not None
            assert self.guard.mapped is not None
            self.guard.mapped.touch(count)

    def _apart(self) -> bool:
        """Whether full rows are read for the best candidates only, from a large mapped file."""
        mapped = None if self.guard is None or self.walk is self.keys else self.guard.mapped
        return mapped is not None and mapped.size > arrays.SMALL

    def release(self) -> None:
        """Take memory-mapped full rows out of this process's memory; they are read again where they are needed."""
        if self.guard is not None and self.guard.mapped is not None:
            self.guard.mapped.release()

    def check_tokens(self, rows: Rows | None = None) -> None:
        """Verify the tokens of rows (None: all) of a memory-mapped file that is verified as it is read."""
        if self.guard is not None and self.tokens is not None:
            self.guard.check_tokens(self.tokens, rows)

    def vectors(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Return a copy of the given rows."""
        self.check_rows(rows)
        taken: npt.NDArray[np.float32] = self.keys.data[rows]
        return taken if self.steps is None else unpack(taken, self.steps[rows])

    def tokens_of(self, row: int) -> npt.NDArray[np.float16] | npt.NDArray[np.float32]:
        """Return a row's token vectors (n, dt): float16 as stored, or float32 values of int8 codes."""
        stored = self.stored_tokens(np.array([row]))
        if stored.scales is None:
            return stored.data[0]
        values: npt.NDArray[np.float32] = stored.data[0] * stored.scales[0][:, None]
        return values

    def stored_tokens(self, rows: Rows) -> TokenArrays:
        """Return the tokens of the given rows as they are stored, not copied."""
        assert self.tokens is not None
        self.check_tokens(rows)
        data, scales = on_disk(self.tokens.data), self.tokens.scale
        spans = [
            slice(start, start + length)
            for start, length in zip(self.tokens.starts[rows].tolist(), self.tokens.lengths[rows].tolist(), strict=True)
        ]
        return TokenArrays([data[span] for span in spans], None if scales is None else [scales[span] for span in spans])

    def records(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the payload of the given rows."""
        return [{} for _ in rows] if self.payload is None else self.payload.records(rows)

    def allowed(self, filter: npt.NDArray[np.bool_] | list[Id], places: Callable[[], dict[Id, int]]) -> Allowed:
        """Return the rows that a mask over the live rows or a list of ids lets pass."""
        if isinstance(filter, np.ndarray):
            mask = as_mask(filter, "filter", self.live)
            if self.live < self.count:
                spread = np.zeros(self.count, np.bool_)
                spread[self.live_rows] = mask
                mask = spread
            return Allowed(self.count, mask)
        row_of = places()
        rows = np.unique(np.array([row_of[id] for id in filter if id in row_of], np.int64))
        rows = rows[: np.searchsorted(rows, self.count)]
        return Allowed(self.count, rows=rows[self.alive[rows]])
