"""The k best of many scores, best first, ties by the smaller id."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit

# Up to here insertion into a sorted list is faster than a heap.
INSERTION_LIMIT = 32


@jit
def better(scores: Any, ids: Any, i: Any, j: Any) -> Any:
    """Return whether position i ranks before position j: higher score, then smaller id (or position)."""
    if scores[i] != scores[j]:
        return scores[i] > scores[j]
    if ids is not None:
        return ids[i] < ids[j]
    return i < j


@jit
def _sink(scores: Any, ids: Any, heap: Any, start: Any, size: Any) -> Any:
    """Restore the heap (worst on top) below `start`."""
    moving = heap[start]
    hole = start
    child = 2 * hole + 1
    while child < size:
        if child + 1 < size and better(scores, ids, heap[child], heap[child + 1]):
            child += 1
        if better(scores, ids, heap[child], moving):
            break
        heap[hole] = heap[child]
        hole = child
        child = 2 * hole + 1
    heap[hole] = moving


@jit
def top_k(scores: Any, ids: Any, positions: Any) -> Any:
    """Write the positions of the best scores, best first; return how many, min(n, len(positions)).

    Parameters
    ----------
    scores : (n,) float64
    ids : (n,) int64, breaks ties (the smaller first), or None: the earlier position first
    positions : (k,) int64
    """
    n = scores.shape[0]
    k = min(n, positions.shape[0])
    if k == 0:
        return k
    if k <= INSERTION_LIMIT:
        filled = 0
        for i in range(n):
            if filled == k:
                if not better(scores, ids, i, positions[k - 1]):
                    continue
                hole = k - 1
            else:
                hole = filled
                filled += 1
            while hole > 0 and better(scores, ids, i, positions[hole - 1]):
                positions[hole] = positions[hole - 1]
                hole -= 1
            positions[hole] = i
        return k
    for i in range(k):
        positions[i] = i
    for start in range(k // 2 - 1, -1, -1):
        _sink(scores, ids, positions, start, k)
    for i in range(k, n):
        if better(scores, ids, i, positions[0]):
            positions[0] = i
            _sink(scores, ids, positions, 0, k)
    for size in range(k - 1, 0, -1):
        worst = positions[0]
        positions[0] = positions[size]
        positions[size] = np.int64(worst)
        _sink(scores, ids, positions, 0, size)
    return k
