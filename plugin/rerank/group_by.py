"""Grouping: no five chunks of one parent."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attnbridge.rerank.likeness import best_first
from attnbridge.rerank.pool import Pool
from attnbridge.validation import as_count, as_text


@dataclass(frozen=True)
class GroupBy:
    """Keep the best candidates of each group: those with the same value in a column of the payload.

    Where that leaves fewer than the search needs, it starts over with more candidates, until there are enough or
    every row was seen.

    Parameters
    ----------
    column : str
        The payload's column; values may be of any type, lists too. A row without a value (None, NaN) is a group of its
        own.
    per_group : int, default 1
        How many of each group stay.

    Raises
    ------
    InvalidConfigError
        `column` is no text, or `per_group` < 1.
    InvalidInputError
        In a search: the payload has no such column; those there are listed.

    Notes
    -----
    A hit's part is its place in its group, from 0.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> payload = {"parent": ["A", "A", "B"]}
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], ids=["a1", "a2", "b1"], payload=payload)
    >>> bridge.search([1.0, 0.0], k=2, rerank=ab.GroupBy("parent")).ids
    ['a1', 'b1']
    """

    column: str
    per_group: int = 1
    name: ClassVar[str] = "group_by"
    level: ClassVar[str] = "selection"
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", as_text(self.column, "column"))
        object.__setattr__(self, "per_group", as_count(self.per_group, "per_group"))

    def apply(self, pool: Pool) -> None:
        """Rule out what its group has enough of.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        InvalidConfigError
            A pool that no search of an index made.
        InvalidInputError
            No such column.
        """
        best = best_first(pool)
        values = pool.require_index(self.name).column(self.column, pool.rows[best])
        seen: Counter[Hashable] = Counter()
        places = np.full(len(pool.rows), np.nan)
        for position, value in zip(best.tolist(), values, strict=True):
            places[position] = 0.0
            if value is not None and value == value:  # NaN is not
                key = _key(value)
                places[position] = seen[key]
                seen[key] += 1
        stays = places < self.per_group
        pool.scores = np.where(stays, pool.scores, -np.inf)
        pool.parts[self.name] = places
        left = int(stays.sum())
        if pool.wanted is not None and left < min(pool.wanted, len(best)):
            pool.short = True


def _key(value: Any) -> Hashable:
    """Return a value as a key of a dict, whatever it is made of."""
    if isinstance(value, dict):
        return tuple((name, _key(one)) for name, one in sorted(value.items()))
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else value
