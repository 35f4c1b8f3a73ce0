"""Working memory that a thread keeps from call to call, so that large temporaries are not allocated anew each time."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

# Smaller arrays are allocated: that costs less than looking for one.
LEAST_BYTES = 1 << 15

# Larger ones are allocated too, and not kept; and the most that a thread keeps in all.
MOST_BYTES = 1 << 24
KEPT_BYTES = 1 << 25

_PAGE = 4_096

# Calls on fewer numbers take a few microseconds, which lending would be a part of.
FEW_NUMBERS = 1 << 13

# (shape, dtype) -> array of any content: np.empty, or `Workspaces`.
Lend = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]


class _Free(threading.local):
    """The buffers of a thread that are not in use; they go with it."""

    def __init__(self) -> None:
        self.buffers: list[npt.NDArray[np.uint8]] = []


_free = _Free()


def workspace(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> "_Lent":
    """Lend an array of any content to a with block; nothing may refer to it afterwards.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype, default float64

    Returns
    -------
    context manager
        Of a C-contiguous ndarray.

    Examples
    --------
    >>> from attnbridge.workspace import workspace
    >>> with workspace((300, 100)) as first:
    ...     place = first.ctypes.data
    >>> with workspace((100, 300)) as second:
    ...     print(second.ctypes.data == place)
    True
    """
    return _Lent(shape, dtype)


class _Lent:
    """An array that is lent as long as a with block lasts."""

    __slots__ = ("_buffer", "_dtype", "_shape")

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._shape, self._dtype = shape, dtype

    def __enter__(self) -> npt.NDArray[Any]:
        array, self._buffer = _lent(self._shape, self._dtype)
        return array

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._buffer is not None and _is_over(kind):
            _give_back(self._buffer)


class Workspaces:
    """Lends arrays of any content until the end of a with block; nothing may refer to them afterwards.

    Parameters
    ----------
    size : int, optional
        About how many numbers the arrays will have: for few, the block is given `np.empty` itself.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.workspace import Workspaces
    >>> with Workspaces() as lend:
    ...     rows, flags = lend((300, 100), np.float64), lend((300, 400), np.bool_)
    ...     print(rows.dtype, flags.shape)
    float64 (300, 400)
    """

    __slots__ = ("_lent", "_size")

    def __init__(self, size: int = MOST_BYTES) -> None:
        self._lent: list[npt.NDArray[np.uint8]] = []
        self._size = size

    def __enter__(self) -> Lend:
        return np.empty if self._size < FEW_NUMBERS else self._lend

    def _lend(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        """Return a C-contiguous array that is lent."""
        array, buffer = _lent(shape, dtype)
        if buffer is not None:
            self._lent.append(buffer)
        return array

    def take_back(self) -> None:
        """Take everything back that is lent, to lend it again."""
        while self._lent:
            _give_back(self._lent.pop())

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if _is_over(kind):
            self.take_back()


def _is_over(kind: type[BaseException] | None) -> bool:
    """Return whether nothing writes any more: after Ctrl-C a thread may."""
    return kind is None or issubclass(kind, Exception)


def _lent(shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
    """Return an array, and the buffer that it is part of, or None where it is new."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if not LEAST_BYTES <= size <= MOST_BYTES:
        return np.empty(shape, kind), None
    buffer = _taken(size)
    return np.ndarray(shape, kind, buffer), buffer


def _taken(size: int) -> npt.NDArray[np.uint8]:
    """Return the smallest free buffer that has room; where none has, a new one in place of a smaller one."""
    buffers = _free.buffers  # smallest first
    for place, buffer in enumerate(buffers):
        if len(buffer) >= size:
            return buffers.pop(place)
    if buffers:
        buffers.pop()
    return np.empty(-(-size // _PAGE) * _PAGE, np.uint8)


def _give_back(buffer: npt.NDArray[np.uint8]) -> None:
    buffers = _free.buffers
    buffers.append(buffer)
    buffers.sort(key=len)
    while sum(map(len, buffers)) > KEPT_BYTES:
        buffers.pop(0)


def kept_bytes() -> int:
    """Return how much working memory this thread keeps.

    Returns
    -------
    int

    Examples
    --------
    >>> from attnbridge.workspace import kept_bytes, release
    >>> release()
    >>> kept_bytes()
    0
    """
    return sum(map(len, _free.buffers))


def release() -> None:
    """Let this thread's working memory go.

    Examples
    --------
    >>> from attnbridge.workspace import release
    >>> release()
    """
    _free.buffers.clear()
