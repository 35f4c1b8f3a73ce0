"""What numpy and Python allocate, measured while no thread of an earlier test is at work."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

from attnbridge.integrations import graph


def taken() -> int:
    """Return the bytes that are allocated now, of what was since `traced` began."""
    return tracemalloc.get_traced_memory()[0]


def peak() -> int:
    """Return the most bytes at any time since `traced` began."""
    return tracemalloc.get_traced_memory()[1]


@contextmanager
def traced() -> Iterator[None]:
    """Trace what is allocated in a with block; bridges of earlier tests have linked their rows before it begins."""
    gc.collect()
    for linker in list(graph._linkers):
        thread = linker._thread
        if thread is not None:
            thread.join(60)
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
