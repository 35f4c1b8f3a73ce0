"""A cache of answers by the exact content of what was asked, within a budget of bytes."""

import itertools
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import numpy as np

from attnbridge.errors import InvalidConfigError
from attnbridge.masks import SparseMask
from attnbridge.mechanisms.row import AttentionType
from attnbridge.validation import as_count

# What an entry takes beside key and value: its places in the table (three times, while that grows) and in the order
# of use, its key's hash, the tuple that holds value and size.
_OVERHEAD = 512

# So many take a while by Python's own hash.
_MANY_BYTES = 4_096

# Arrays that are their bytes.
_PLAIN_KINDS = frozenset("biufcSU")

_numbers = itertools.count(1)
_caches: "weakref.WeakSet[AttentionCache]" = weakref.WeakSet()
_bypassed: ContextVar[bool] = ContextVar("attnbridge_cache_bypassed", default=False)


class NotKeyedError(Exception):
    """Something whose content cannot be told exactly: what depends on it is not kept."""


class Key:
    """What was asked, exactly: found by a hash, equal by content.

    Parameters
    ----------
    content : tuple
        Hashable, of what `content` returns.
    """

    __slots__ = ("content", "number")

    def __init__(self, content: tuple[Any, ...]) -> None:
        self.content, self.number = content, hash(content)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.number == other.number and self.content == other.content


class Bytes:
    """Bytes with a hash that is read as fast as they are; equal by every byte.

    Parameters
    ----------
    data : bytes
        At least 64.
    """

    __slots__ = ("data", "number")

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data, np.uint64, len(data) // 8)
        sums = int(np.add.reduce(words)), int(np.add.reduce(words[: len(words) // 3]))
        self.data, self.number = data, hash((len(data), *sums, data[:64], data[-64:]))

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bytes) and self.data == other.data


class Same:
    """An object that is equal to itself only.

    Parameters
    ----------
    thing : object
    """

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.thing is other.thing


def new_version() -> int:
    """Return a number that was never returned before: of an owner in one state."""
    return next(_numbers)


@contextmanager
def uncached() -> Iterator[None]:
    """Have searches and mechanisms compute what they are asked, whatever caches hold: for what measures them."""
    before = _bypassed.set(True)
    try:
        yield
    finally:
        _bypassed.reset(before)


def is_bypassed() -> bool:
    """Return whether caches are not to be asked here."""
    return _bypassed.get()


def content(value: Any) -> Any:
    """Return a hashable copy of a value's content, equal for equal content only: types, shapes and every bit.

    Raises
    ------
    NotKeyedError
        A function, an object of another library, an array of objects.
    """
    kind = type(value)
    if value is None or kind in (int, str, bytes, bool):
        return (kind, value)
    if kind is float:
        return (kind, value.hex())  # -0.0 is not 0.0
    if kind is np.ndarray or isinstance(value, np.generic):
        if value.dtype.kind not in _PLAIN_KINDS:
            raise NotKeyedError(f"an array of {value.dtype}")
        data = value.tobytes()
        return (kind, value.dtype.str, value.shape, data if len(data) < _MANY_BYTES else Bytes(data))
    if isinstance(value, list | tuple):
        return (kind, *map(content, value))
    if kind in (dict, MappingProxyType):
        return (kind, *((content(name), content(one)) for name, one in value.items()))
    if kind is SparseMask:
        return (kind, value.shape, value.indptr.tobytes(), value.indices.dtype.str, value.indices.tobytes())
    if kind is AttentionType:
        return Same(value)
    if kind.__module__.startswith("attnbridge.rerank."):  # a stage is what it was made with
        return (kind, *((name, content(one)) for name, one in vars(value).items()))
    raise NotKeyedError(f"a {kind.__name__}")


def size_of(value: Any) -> int:
    """Return about how many bytes an entry's key or value takes; what others share with it counts in full."""
    size = sys.getsizeof(value)
    if isinstance(value, np.ndarray):
        return size if value.base is None else size + value.nbytes
    if isinstance(value, Bytes):
        return size + sys.getsizeof(value.data)
    if isinstance(value, Same | type):
        return 64  # the object itself is its owner's
    if isinstance(value, Mapping):
        return size + sum(size_of(name) + size_of(one) for name, one in value.items())
    if isinstance(value, list | tuple):
        return size + sum(map(size_of, value))
    return size


class AttentionCache:
    """Answers that were given before, by the exact content of what was asked; the least recently used go first.

    An option of `AttentionVectorBridge` (cache=...) and of mechanisms (`attention.cached(cache)`); one may serve
    several of them, in any number of threads. A hash finds an entry, and its stored content (dtype, shape and bytes of
    every input, all settings) must be equal: no other query's answer is ever returned. Entries belong to one state of
    one owner: whatever changes the owner (adding or deleting documents, `set_parameters`, ...) leaves them behind, and
    they go as others come. Results are copies, to be written on.

    Parameters
    ----------
    max_bytes : int, default 64 MiB
        The most that keys, values and what holds them may take, as `bytes` counts; it is never exceeded: older entries
        go before a new one is stored, and what is larger than the budget is not stored.

    Raises
    ------
    InvalidConfigError
        No whole number above 0.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> cache = ab.AttentionCache(max_bytes=1_000_000)
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact", cache=cache)
    >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["e", "n"])
    >>> [bridge.search([1.0, 0.1], k=1).ids for _ in range(4)]
    [['e'], ['e'], ['e'], ['e']]
    >>> cache.hits, cache.misses, cache.hit_rate, len(cache)
    (3, 1, 0.75, 1)
    """

    def __init__(self, max_bytes: int = 1 << 26) -> None:
        self._max_bytes = as_count(max_bytes, "max_bytes")
        self._begin()
        _caches.add(self)

    def _begin(self) -> None:
        """Be empty, and held by nobody."""
        self._lock = threading.Lock()  # held for moments, never while an answer is computed
        self._entries: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._bytes = self._hits = self._misses = 0

    @property
    def max_bytes(self) -> int:
        """The budget.

        Returns
        -------
        int
        """
        return self._max_bytes

    @property
    def bytes(self) -> int:
        """How many bytes the entries take, keys and what holds them included.

        Returns
        -------
        int
        """
        return self._bytes

    @property
    def hits(self) -> int:
        """How often an answer was there.

        Returns
        -------
        int
        """
        return self._hits

    @property
    def misses(self) -> int:
        """How often it was not; what is not to be kept at all is not counted.

        Returns
        -------
        int
        """
        return self._misses

    @property
    def hit_rate(self) -> float:
        """Hits over hits and misses, 0 to 1; 0 where nothing was asked.

        Returns
        -------
        float
        """
        with self._lock:
            return self._hits / max(1, self._hits + self._misses)

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all entries, and count from 0.

        Examples
        --------
        >>> import attnbridge as ab
        >>> cache = ab.AttentionCache()
        >>> attention = ab.ScaledDotProductAttention().cached(cache)
        >>> _ = attention.forward([1.0], [[1.0]], [[1.0]])
        >>> cache.clear()
        >>> len(cache), cache.bytes, cache.misses
        (0, 0, 0)
        """
        with self._lock:
            self._entries.clear()
            self._bytes = self._hits = self._misses = 0

    def get(self, key: Key) -> Any:
        """Return what is kept under a key, None where nothing is; it is counted, and must not be written on.

        Parameters
        ----------
        key : Key

        Returns
        -------
        object
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._misses += 1
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return entry[0]

    def put(self, key: Key, value: Any) -> None:
        """Keep a value that nobody else holds, where it fits into the budget.

        Parameters
        ----------
        key : Key
        value : object
            Of arrays, numbers, text, and lists, tuples and dicts of those.
        """
        size = sys.getsizeof(key) + size_of(key.content) + size_of(value) + _OVERHEAD
        if size > self._max_bytes:
            return
        with self._lock:
            if key in self._entries:  # another thread has come before
                return
            while self._bytes + size > self._max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._bytes -= freed
            self._entries[key] = (value, size)
            self._bytes += size

    def __repr__(self) -> str:
        return (
            f"AttentionCache({len(self):,} entries, {self.bytes:,} of {self.max_bytes:,} bytes, "
            f"hit rate {self.hit_rate:.0%})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._max_bytes,)  # a copy begins empty


def as_cache(value: Any) -> AttentionCache | None:
    """Return a cache or None.

    Raises
    ------
    InvalidConfigError
    """
    if value is None or isinstance(value, AttentionCache):
        return value
    raise InvalidConfigError(f"cache must be an AttentionCache or None, got {value!r}; make AttentionCache(max_bytes)")


def _after_fork() -> None:
    """In a forked child: whoever held a lock is not there, and may have left things half done."""
    for cache in list(_caches):
        cache._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
