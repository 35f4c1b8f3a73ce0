"""Sequences whose items are made when they are asked for."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class MadeSequence(Sequence[Item]):
    """A sequence that makes its items by their number: slices are lists, negative numbers count from the end."""

    @abstractmethod
    def _item(self, i: int) -> Item:
        """Return the item at i, 0 <= i < len."""

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        return self._item(range(len(self))[index])

    def __iter__(self) -> Iterator[Item]:
        return map(self._item, range(len(self)))
