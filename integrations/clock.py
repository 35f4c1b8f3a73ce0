"""A time budget, and work in pieces between which it is looked at."""

import time
from collections.abc import Iterator

_TICKS = 256  # ticks between two looks at the clock
_PIECE = 4096  # what is read between two looks: about 5 ms where it takes Python


class Expired(Exception):  # noqa: N818
    """The time budget is used up."""


class Clock:
    """A time budget.

    Parameters
    ----------
    budget : float or None
        Seconds from now.
    kept : float, default 0
        The share of them that is kept back for what follows.
    """

    def __init__(self, budget: float | None = None, kept: float = 0.0) -> None:
        self._until = None if budget is None else time.monotonic() + (1.0 - kept) * budget
        self._kept = 0.0 if budget is None else kept * budget
        self._ticks = 0

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return self._until is not None

    @property
    def expired(self) -> bool:
        """Whether it is used up."""
        return self._until is not None and time.monotonic() >= self._until

    def part(self, share: float) -> "Clock":
        """Return a clock with a share of the time that is left."""
        return Clock(None if self._until is None else share * (self._until - time.monotonic()))

    def prolong(self) -> None:
        """Go on for half of what was kept back."""
        if self._until is not None:
            self._kept /= 2.0
            self._until += self._kept

    def check(self) -> None:
        """Look at the clock.

        Raises
        ------
        Expired
        """
        if self.expired:
            raise Expired

    def tick(self) -> None:
        """Look at the clock now and then.

        Raises
        ------
        Expired
        """
        self._ticks += 1
        if self._ticks % _TICKS == 1:
            self.check()

    def pieces(self, count: int) -> Iterator[slice]:
        """Yield slices that together are so many things, with a look at the clock before each; one if there is no end.

        Raises
        ------
        Expired
        """
        size = max(count, 1) if self._until is None else _PIECE
        for start in range(0, count, size):
            self.check()
            yield slice(start, start + size)
