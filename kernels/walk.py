"""Best-first search over the links of an HNSW graph, under the logit of the rows.

Malkov and Yashunin 2018, algorithms 2 and 5. A node's worth and its row number travel as one whole number, a *key*:
the bits of the float32 score, made to sort as numbers do, above the row number turned round. The larger key is the
better row, of equals that with the smaller row number, so that one comparison settles order and ties.
"""

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import load, prefetch

LOW = 0xFFFFFFFF
LARGEST = float(np.finfo(np.float32).max)
WORST = -(1 << 63)  # a key below that of any row


@jit
def key_of(score: Any, row: Any) -> Any:
    """Return the key of a row with a float32 score."""
    bits = np.int64(np.float32(score).view(np.int32))
    if score == 0:
        bits = np.int64(0)  # -0.0 as well
    if bits < 0:
        bits ^= 0x7FFFFFFF
    return (bits << 32) | (LOW - np.int64(row))


@jit
def row_of(key: Any) -> Any:
    """Return the row number in a key."""
    return LOW - (key & LOW)


@jit
def score_of(key: Any) -> Any:
    """Return the float32 score in a key."""
    bits = key >> 32
    if bits < 0:
        bits ^= 0x7FFFFFFF
    return np.int32(bits).view(np.float32)


# ---- heaps of keys, one a lane: heap[lane, 0] is the largest


@jit
def push(heap: Any, lane: Any, size: Any, key: Any) -> Any:
    """Add a key to a heap of `size` keys, the largest on top."""
    hole = size
    while hole > 0:
        parent = (hole - 1) >> 1
        if heap[lane, parent] >= key:
            break
        heap[lane, hole] = heap[lane, parent]
        hole = parent
    heap[lane, hole] = key


@jit
def sink(heap: Any, lane: Any, size: Any, key: Any) -> Any:
    """Put a key in place of the largest of `size` keys."""
    hole = 0
    child = 1
    while child + 1 < size:
        child += heap[lane, child + 1] > heap[lane, child]
        if heap[lane, child] <= key:
            break
        heap[lane, hole] = heap[lane, child]
        hole = child
        child = 2 * hole + 1
    else:
        if child < size and heap[lane, child] > key:
            heap[lane, hole] = heap[lane, child]
            hole = child
    heap[lane, hole] = key


# ---- scores of a few rows


def _float_products(queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any) -> Any:
    last = count - 1
    i = 0
    while i < count:
        i1 = min(i + 1, last)
        i2 = min(i + 2, last)
        i3 = min(i + 3, last)
        a = near[lane, i]
        b = near[lane, i1]
        c = near[lane, i2]
        e = near[lane, i3]
        s0 = np.float32(0)
        s1 = np.float32(0)
        s2 = np.float32(0)
        s3 = np.float32(0)
        for j in range(rows.shape[1]):
            x = queries[number, j]
            s0 += x * load(rows[a, j])
            s1 += x * load(rows[b, j])
            s2 += x * load(rows[c, j])
            s3 += x * load(rows[e, j])
        scores[lane, i] = s0
        scores[lane, i1] = s1
        scores[lane, i2] = s2
        scores[lane, i3] = s3
        i += 4


def _whole_products(queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any) -> Any:
    last = count - 1
    i = 0
    while i < count:
        i1 = min(i + 1, last)
        i2 = min(i + 2, last)
        i3 = min(i + 3, last)
        a = near[lane, i]
        b = near[lane, i1]
        c = near[lane, i2]
        e = near[lane, i3]
        s0 = np.int32(0)
        s1 = np.int32(0)
        s2 = np.int32(0)
        s3 = np.int32(0)
        for j in range(rows.shape[1]):
            x = np.int32(queries[number, j])
            s0 = np.int32(s0 + np.int32(x * np.int32(rows[a, j])))
            s1 = np.int32(s1 + np.int32(x * np.int32(rows[b, j])))
            s2 = np.int32(s2 + np.int32(x * np.int32(rows[c, j])))
            s3 = np.int32(s3 + np.int32(x * np.int32(rows[e, j])))
        scores[lane, i] = s0
        scores[lane, i1] = s1
        scores[lane, i2] = s2
        scores[lane, i3] = s3
        i += 4


def products(queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any) -> Any:
    """Write scores[lane, i] = queries[number] . rows[near[lane, i]], i < count, four rows a pass.

    In float32, or, of int8 queries and rows, in whole numbers.
    """
    if queries.dtype == np.int8:
        return _whole_products(queries, number, rows, near, scores, lane, count)
    return _float_products(queries, number, rows, near, scores, lane, count)


if not numba.config.DISABLE_JIT:

    @overload(products)
    def _products(queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any) -> Any:
        return _whole_products if queries.dtype == numba.int8 else _float_products


@jit
def add_terms(
    queries: Any, number: Any, bias: Any, rows: Any, row_scale: Any, row_bias: Any, near: Any, scores: Any, lane: Any, count: Any
) -> Any:
    """Make products scores: row_scale[r] * product + row_bias[r] + bias[number], r = near[lane, i]."""
    for i in range(count):
        row = near[lane, i]
        value = np.float64(scores[lane, i])
        if row_scale is not None:
            value *= row_scale[row]
        if row_bias is not None:
            value += row_bias[row] + bias[number]
        scores[lane, i] = value


# ---- the walk. What a lane is at, in state[lane]:
QUERY = 0  # its query's number, -1 for none
LEVEL = 1  # the layer of the graph it is in
CURRENT = 2  # above layer 0: the key of the best row so far
FRONT = 3  # how many candidates
FOUND = 4  # how many results
PENDING = 5  # how many rows are waiting to be scored
STEPS = 6  # how many nodes it has left by their links
NODE = 7  # the node whose links are next, -1 for none
FIELDS = 8


@jit
def _open_epoch(visited: Any, epochs: Any, lane: Any) -> Any:
    """Forget which rows were visited."""
    epochs[lane] += 1
    if epochs[lane] == 0:
        visited[lane, :] = 0
        epochs[lane] = 1


@jit
def _gather(around: Any, node: Any, visited: Any, epoch: Any, near: Any, rows: Any, lane: Any) -> Any:
    """Note which rows of a list of links are new, ask for them into the cache, and return how many."""
    count = 0
    j = 0
    width = around.shape[1]
    while j < width and around[node, j] >= 0:
        row = around[node, j]
        near[lane, count] = row
        count += visited[lane, row] != epoch
        visited[lane, row] = epoch
        j += 1
    step = max(1, 64 // rows.itemsize)
    lines = (rows.shape[1] + step - 1) // step
    for i in range(count):
        for line in range(lines):
            prefetch(rows, near[lane, i], line * step)
    return count


@jit
def walk(
    queries: Any,
    query_bias: Any,
    keys: Any,
    links: Any,
    ef: Any,
    work: Any,
    ids: Any,
    scores: Any,
    counts: Any,
) -> Any:
    """Find each query's best rows.
    """
    state = work.state
    near = work.near
    front = work.front
    found = work.found
    visited = work.visited
    epochs = work.epochs
    near_scores = work.scores
    rows = keys.data
    row_scale = keys.scale
    row_bias = keys.bias
    level0 = links.level0
    upper = links.upper
    start = links.start
    lanes = min(visited.shape[0], queries.shape[0])
    for lane in range(lanes):
        state[lane, QUERY] = -1
    begun = 0
    ended = 0
    while ended < queries.shape[0]:
        for lane in range(lanes):
            if state[lane, QUERY] < 0:
                if begun == queries.shape[0]:
                    continue
                state[lane, QUERY] = begun
                begun += 1
                state[lane, LEVEL] = links.levels
                state[lane, CURRENT] = WORST
                state[lane, FRONT] = 0
                state[lane, FOUND] = 0
                state[lane, STEPS] = 0
                state[lane, PENDING] = 1
                state[lane, NODE] = -1
                _open_epoch(visited, epochs, lane)
                near[lane, 0] = links.entry
                visited[lane, links.entry] = epochs[lane]
                continue
            node = state[lane, NODE]
            if node >= 0:
                level = state[lane, LEVEL]
                if level > 0:
                    state[lane, PENDING] = _gather(upper, start[node] + level - 1, visited, epochs[lane], near, rows, lane)
                else:
                    state[lane, PENDING] = _gather(level0, node, visited, epochs[lane], near, rows, lane)
                state[lane, NODE] = -1
                state[lane, STEPS] += 1
                continue
            number = state[lane, QUERY]
            count = state[lane, PENDING]
            products(queries, number, rows, near, near_scores, lane, count)
            add_terms(queries, number, query_bias, rows, row_scale, row_bias, near, near_scores, lane, count)
            if state[lane, LEVEL] > 0:
                best = state[lane, CURRENT]
                for i in range(count):
                    best = max(best, key_of(near_scores[lane, i], near[lane, i]))
                if best == state[lane, CURRENT]:
                    state[lane, LEVEL] -= 1
                if state[lane, LEVEL] > 0:
                    state[lane, CURRENT] = best
                    state[lane, NODE] = row_of(best)
                    prefetch(upper, start[state[lane, NODE]] + state[lane, LEVEL] - 1, 0)
                    continue
                _open_epoch(visited, epochs, lane)
                near[lane, 0] = row_of(best)
                visited[lane, row_of(best)] = epochs[lane]
                near_scores[lane, 0] = score_of(best)
                count = 1
            # layer 0
            size = state[lane, FRONT]
            full = state[lane, FOUND]
            for i in range(count):
                key = key_of(near_scores[lane, i], near[lane, i])
                if full < ef:
                    push(found, lane, full, ~key)
                    full += 1
                    push(front, lane, size, key)
                    size += 1
                elif key > ~found[lane, 0]:
                    sink(found, lane, full, ~key)
                    push(front, lane, size, key)
                    size += 1
            state[lane, FOUND] = full
            if size > 0 and (full < ef or front[lane, 0] >= ~found[lane, 0]):
                node = row_of(front[lane, 0])
                state[lane, NODE] = node
                prefetch(level0, node, 0)
                prefetch(level0, node, 16)
                size -= 1
                if size > 0:
                    sink(front, lane, size, front[lane, size])
                state[lane, FRONT] = size
                continue
            # the end
            while full > ids.shape[1]:
                full -= 1
                sink(found, lane, full, found[lane, full])
            counts[number] = full
            for i in range(full - 1, -1, -1):
                key = ~found[lane, 0]
                ids[number, i] = row_of(key)
                scores[number, i] = score_of(key)
                sink(found, lane, i, found[lane, i])
            state[lane, QUERY] = -1
            ended += 1
