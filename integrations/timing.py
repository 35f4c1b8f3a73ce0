"""Timing on a busy machine: runs in turns, so that what disturbs one disturbs all."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

_Name = TypeVar("_Name", bound=Hashable)


def interleaved(
    runs: Mapping[_Name, Callable[[int], object]], rounds: int, advance: Callable[[int], object] | None = None
) -> dict[_Name, list[float]]:
    """Return the seconds of each run in each round; every round runs all of them, so that drift meets all alike.

    Parameters
    ----------
    runs : dict of callable
        Each is called with the round's number, from which it may pick fresh inputs.
    rounds : int
        How many count; one more goes before them.
    advance : callable, optional
        Called with 1 after each run.

    Returns
    -------
    dict of list of float

    Examples
    --------
    >>> from attnbridge.integrations.timing import interleaved
    >>> seconds = interleaved({"sum": lambda number: sum(range(100))}, rounds=3)
    >>> len(seconds["sum"])
    3
    """
    seconds: dict[_Name, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(-1, rounds):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:  # each goes first in its turn
            started = time.perf_counter()
            runs[name](number)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
            if advance is not None:
                advance(1)
    return seconds


def medians(seconds: Mapping[_Name, Sequence[float]]) -> dict[_Name, float]:
    """Return the median of each run.

    Parameters
    ----------
    seconds : dict of list of float

    Returns
    -------
    dict of float

    Examples
    --------
    >>> from attnbridge.integrations.timing import medians
    >>> medians({"a": [3.0, 1.0, 2.0]})
    {'a': 2.0}
    """
    return {name: statistics.median(values) for name, values in seconds.items()}
