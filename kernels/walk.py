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
from attnbridge.kernels.dot import chunk_dots, load, prefetch, term

LOW = 0xFFFFFFFF
WORST = -(1 << 63)  # below the key of any row


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


def _float_products(
    queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any, difference: Any
) -> Any:
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
            s0 += term(x, load(rows[a, j]), difference)
            s1 += term(x, load(rows[b, j]), difference)
            s2 += term(x, load(rows[c, j]), difference)
            s3 += term(x, load(rows[e, j]), difference)
        scores[lane, i] = s0
        scores[lane, i1] = s1
        scores[lane, i2] = s2
        scores[lane, i3] = s3
        i += 4


def _whole_products(
    queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any, difference: Any
) -> Any:
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
        s0, s1, s2, s3, done = chunk_dots(queries, number, rows, a, b, c, e)
        for j in range(done, rows.shape[1]):
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


def products(
    queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any, difference: Any
) -> Any:
    """Write scores[lane, i] = queries[number] . rows[near[lane, i]], i < count, four rows a pass.

    In float32 (there minus the squared difference where `difference` is not None), or, of int8 queries and rows, in
    whole numbers.
    """
    if queries.dtype == np.int8:
        return _whole_products(queries, number, rows, near, scores, lane, count, difference)
    return _float_products(queries, number, rows, near, scores, lane, count, difference)


if not numba.config.DISABLE_JIT:

    @overload(products)
    def _products(
        queries: Any, number: Any, rows: Any, near: Any, scores: Any, lane: Any, count: Any, difference: Any
    ) -> Any:
        return _whole_products if queries.dtype == numba.int8 else _float_products


@jit
def add_terms(
    factor: Any, bias: Any, row_scale: Any, row_bias: Any, near: Any, scores: Any, lane: Any, count: Any
) -> Any:
    """Turn products into scores: factor * row_scale[r] * product + row_bias[r] + bias, r = near[lane, i]."""
    for i in range(count):
        row = near[lane, i]
        value = factor * np.float64(scores[lane, i])
        if row_scale is not None:
            value *= row_scale[row]
        if row_bias is not None:
            value += row_bias[row] + bias
        scores[lane, i] = value


# ---- the walk. What a lane is at, in state[lane]:
QUERY = 0  # its query's number, -1 for none
LEVEL = 1  # the layer of the graph it is in
CURRENT = 2  # above layer 0: the key of the best row so far
FRONT = 3  # how many rows it may still leave by their links
FOUND = 4  # how many results
PENDING = 5  # how many rows are waiting to be scored
STEPS = 6  # how many rows of layer 0 it has left by their links
NODE = 7  # the row whose links are next, -1 for none
BOUND = 8  # a key must be above this to count
FIELDS = 9

LINKS_A_LINE = 16  # of 64 bytes
ROW_LINES = 6  # of a row, asked for before it is read: all 24 of 384 float32 made a walk slower


SCANNED = 256  # rows that every query passes over while they are in the second-level cache


@jit
def _forget(visited: Any, epochs: Any, lane: Any) -> Any:
    """Begin a new epoch, in which no row has been visited."""
    if epochs[lane] == 255:
        visited[lane, :] = 0
        epochs[lane] = 0
    epochs[lane] += 1


@jit
def _ask(rows: Any, row_scale: Any, row_bias: Any, near: Any, lane: Any, count: Any) -> Any:
    """Ask for the first of `count` rows into the cache; once it is being read the processor sees what comes next."""
    step = max(1, 64 // rows.itemsize)
    lines = min((rows.shape[1] + step - 1) // step, ROW_LINES)
    for i in range(count):
        for line in range(lines):
            prefetch(rows, near[lane, i], line * step)
        if row_scale is not None:
            prefetch(row_scale, near[lane, i], 0)
        if row_bias is not None:
            prefetch(row_bias, near[lane, i], 0)


@jit
def _gather(around: Any, place: Any, visited: Any, epochs: Any, near: Any, lane: Any) -> Any:
    """Note which rows of a list of links are new, and return how many they are."""
    epoch = epochs[lane]
    count = 0
    j = 0
    width = around.shape[1]
    while j < width and around[place, j] >= 0:  # a loop with a break would cost an atomic count of references a call
        row = around[place, j]
        near[lane, count] = row
        count += visited[lane, row] != epoch
        visited[lane, row] = epoch
        j += 1
    return count


@jit
def _begin(
    number: Any, entries: Any, levels: Any, entry: Any, state: Any, visited: Any, epochs: Any, near: Any, lane: Any
) -> Any:
    """Give a lane a query: its first rows are its own entry points, or that of the graph."""
    state[lane, QUERY] = number
    state[lane, LEVEL] = levels
    state[lane, CURRENT] = WORST
    state[lane, FRONT] = 0
    state[lane, FOUND] = 0
    state[lane, STEPS] = 0
    state[lane, NODE] = -1
    state[lane, BOUND] = WORST
    _forget(visited, epochs, lane)
    count = 0
    for j in range(entries.shape[1]):
        row = entries[number, j]
        if row >= 0 and visited[lane, row] != epochs[lane]:
            visited[lane, row] = epochs[lane]
            near[lane, count] = row
            count += 1
    if count > 0:
        state[lane, LEVEL] = 0
    else:
        near[lane, 0] = entry
        visited[lane, entry] = epochs[lane]
        count = 1
    state[lane, PENDING] = count


@jit
def _descend(state: Any, near: Any, scores: Any, lane: Any) -> Any:
    """Go to the best of the rows above layer 0, or down where none is better; on reaching layer 0 return True."""
    best = state[lane, CURRENT]
    for i in range(state[lane, PENDING]):
        best = max(best, key_of(scores[lane, i], near[lane, i]))
    if best == state[lane, CURRENT]:
        state[lane, LEVEL] -= 1
    state[lane, CURRENT] = best
    state[lane, NODE] = row_of(best)
    return state[lane, LEVEL] == 0


@jit
def _collect(
    allowed: Any, which: Any, ef: Any, least: Any, state: Any, near: Any, scores: Any, front: Any, found: Any, lane: Any
) -> Any:
    """Take the scored rows of layer 0 among the candidates, and those that may be returned among the results."""
    size = state[lane, FRONT]
    full = state[lane, FOUND]
    bound = state[lane, BOUND]
    for i in range(state[lane, PENDING]):
        key = key_of(scores[lane, i], near[lane, i])
        if key > bound:
            push(front, lane, size, key)
            size += 1
            if which < 0 or allowed[which, near[lane, i]]:
                if full < ef or (full < found.shape[1] and ~found[lane, 0] > least):
                    push(found, lane, full, ~key)
                    full += 1
                else:
                    sink(found, lane, full, ~key)
                if full >= ef:
                    bound = ~found[lane, 0]
                    if full < found.shape[1]:
                        bound = min(bound, least)
    state[lane, FRONT] = size
    state[lane, FOUND] = full
    state[lane, BOUND] = bound


@jit
def _advance(max_steps: Any, level0: Any, state: Any, front: Any, lane: Any) -> Any:
    """Choose the next row to leave by its links; return False where the walk is at its end."""
    size = state[lane, FRONT]
    if size == 0 or front[lane, 0] < state[lane, BOUND]:
        return False
    state[lane, STEPS] += 1
    if state[lane, STEPS] > max_steps:
        return False
    node = row_of(front[lane, 0])
    state[lane, NODE] = node
    for line in range((level0.shape[1] + LINKS_A_LINE - 1) // LINKS_A_LINE):
        prefetch(level0, node, line * LINKS_A_LINE)
    size -= 1
    if size > 0:
        sink(front, lane, size, front[lane, size])
    state[lane, FRONT] = size
    return True


@jit
def _report(full: Any, found: Any, lane: Any, number: Any, ids: Any, scores: Any) -> Any:
    """Write a lane's results, best first; return how many."""
    while full > ids.shape[1]:
        full -= 1
        sink(found, lane, full, found[lane, full])
    for i in range(full - 1, -1, -1):
        key = ~found[lane, 0]
        ids[number, i] = row_of(key)
        scores[number, i] = score_of(key)
        sink(found, lane, i, found[lane, i])
    for i in range(full, ids.shape[1]):
        ids[number, i] = -1
        scores[number, i] = -np.inf
    return full


@jit
def walk(
    queries: Any,
    query_scale: Any,
    query_bias: Any,
    rows: Any,
    row_scale: Any,
    row_bias: Any,
    links: Any,
    ef: Any,
    allowed: Any,
    which: Any,
    least: Any,
    entries: Any,
    max_steps: Any,
    work: Any,
    ids: Any,
    scores: Any,
    counts: Any,
    steps: Any,
    difference: Any = None,
) -> Any:
    """Find each query's best rows by walking the graph: greedily down its layers, then best first with breadth ef.

    score = query_scale * row_scale[r] * query . rows[r] + row_bias[r] + query_bias, in float32; with `difference`
    -row_scale[r] * |query - rows[r]|^2.

    Parameters
    ----------
    queries : (b, d) float32, or int8 where the rows are
    query_scale : (b,) float64 or None (1)
    query_bias : (b,) float64
    rows : (n, d) float32, int8 or uint16 (bits of float16)
    row_scale, row_bias : (n,) float64 or None (1 and 0; without row_bias, query_bias is not used)
    links : NamedTuple
        level0 (n, 2M) int32, upper (t, M) int32: links by row number, then -1. start (n,) int32: where in `upper`
        the row's lists begin, layer 1 first. entry : int, levels : int. All checked: nothing is, in here.
    ef : int
        Breadth, at most the width of work.found.
    allowed : (f, n) bool or uint8
        Filters: other rows are walked through but not returned.
    which : (b,) int64
        The row of `allowed` that holds for a query, -1 for none.
    least : (b,) float64
        All rows met with at least this score are results, beyond ef as well, as far as work.found is wide; inf for
        the ef best only.
    entries : (b, e) int32
        Rows to begin at instead of the graph's entry point, then -1.
    max_steps : int
        Rows of layer 0 that a query may leave by their links.
    work : NamedTuple
        What the walk writes on, l lanes wide: visited (l, n) uint8, epochs (l,) uint8, both zero at first and then
        left alone; state (l, FIELDS) int64; near (l, w) int32 and scores (l, w) float32, w >= 2M, M and e;
        front (l, n) and found (l, at least ef) int64.
    ids : (b, k) int64, filled with row numbers, best first, ties by the smaller, then -1
    scores : (b, k) float32
    counts : (b,) int64, how many were found, at most k
    steps : (b,) int64
        How many rows of layer 0 were left; more than max_steps where that was the end of it.
    difference : True or None
        True for rows and queries in floats only.

    Notes
    -----
    Each lane has a query of its own, and they take turns: while one lane's rows come from memory, the others work.
    What a query finds depends on nothing but the query.

    The caller sees to it that no product leaves float32.
    """
    visited = work.visited
    epochs = work.epochs
    state = work.state
    near = work.near
    near_scores = work.scores
    front = work.front
    found = work.found
    level0 = links.level0
    upper = links.upper
    start = links.start
    lanes = min(state.shape[0], queries.shape[0])
    state[:, QUERY] = -1
    begun = 0
    ended = 0
    while ended < queries.shape[0]:
        for lane in range(lanes):
            number = state[lane, QUERY]
            if number < 0:
                if begun < queries.shape[0]:
                    _begin(begun, entries, links.levels, links.entry, state, visited, epochs, near, lane)
                    begun += 1
                continue
            node = state[lane, NODE]
            if node >= 0:  # first turn: which rows are next
                level = state[lane, LEVEL]
                if level > 0:
                    count = _gather(upper, start[node] + level - 1, visited, epochs, near, lane)
                else:
                    count = _gather(level0, node, visited, epochs, near, lane)
                _ask(rows, row_scale, row_bias, near, lane, count)
                state[lane, PENDING] = count
                state[lane, NODE] = -1
                continue
            # second turn: score them, and choose where to go on
            count = state[lane, PENDING]
            products(queries, number, rows, near, near_scores, lane, count, difference)
            factor = 1.0 if query_scale is None else query_scale[number]
            add_terms(factor, query_bias[number], row_scale, row_bias, near, near_scores, lane, count)
            if state[lane, LEVEL] > 0:
                if not _descend(state, near, near_scores, lane):
                    continue
                _forget(visited, epochs, lane)  # seen from above does not count in layer 0
                state[lane, PENDING] = 1
                near[lane, 0] = row_of(state[lane, CURRENT])
                near_scores[lane, 0] = score_of(state[lane, CURRENT])
                visited[lane, near[lane, 0]] = epochs[lane]
            bound = key_of(least[number], LOW)
            _collect(allowed, which[number], ef, bound, state, near, near_scores, front, found, lane)
            if not _advance(max_steps, level0, state, front, lane):
                counts[number] = _report(state[lane, FOUND], found, lane, number, ids, scores)
                steps[number] = state[lane, STEPS]
                state[lane, QUERY] = -1
                ended += 1


@jit
def scan(
    queries: Any,
    query_scale: Any,
    query_bias: Any,
    rows: Any,
    row_scale: Any,
    row_bias: Any,
    among: Any,
    found: Any,
    ids: Any,
    scores: Any,
    counts: Any,
) -> Any:
    """Find each query's best rows among those given by reading them all; what they score is to the bit the walk's.

    Parameters
    ----------
    queries, query_scale, query_bias, rows, row_scale, row_bias
        As `walk` takes them.
    among : (m,) int64, each row once
    found : (b, k) int64, to write on
    ids : (b, k) int64, filled with row numbers, best first, ties by the smaller, then -1
    scores : (b, k) float32
    counts : (b,) int64, how many were found, at most k
    """
    near = np.empty((1, SCANNED), np.int32)
    near_scores = np.empty((1, SCANNED), np.float32)
    counts[:] = 0
    k = found.shape[1]
    for begin in range(0, among.shape[0], SCANNED):
        count = min(SCANNED, among.shape[0] - begin)
        for i in range(count):
            near[0, i] = among[begin + i]
        _ask(rows, row_scale, row_bias, near, 0, count)
        for b in range(queries.shape[0]):
            products(queries, b, rows, near, near_scores, 0, count, None)
            factor = 1.0 if query_scale is None else query_scale[b]
            add_terms(factor, query_bias[b], row_scale, row_bias, near, near_scores, 0, count)
            full = counts[b]
            bound = -np.inf if full < k else score_of(~found[b, 0])
            for i in range(count):
                if near_scores[0, i] >= bound:
                    key = key_of(near_scores[0, i], near[0, i])
                    if full < k:
                        push(found, b, full, ~key)
                        full += 1
                    elif key > ~found[b, 0]:
                        sink(found, b, full, ~key)
                    if full == k:
                        bound = score_of(~found[b, 0])
            counts[b] = full
    for b in range(queries.shape[0]):
        _report(counts[b], found, b, b, ids, scores)


@jit
def list_levels(words: Any, unit: Any, levels: Any) -> Any:
    """Read how many lists of links each node has above layer 0; return how many words that took, or -1.

    hnswlib's file ends with a record a node: the number of bytes that follow, then so many bytes of links.

    Parameters
    ----------
    words : (w,) uint32
    unit : int
        Words of one list.
    levels : (n,) int64
        Filled; -1 is returned where a record ends beyond the words or is no whole number of lists.
    """
    place: Any = 0
    for i in range(levels.shape[0]):
        if place >= words.shape[0]:
            return -1
        size = np.int64(words[place])
        place += 1 + size // 4
        if size % (4 * unit) != 0 or place > words.shape[0]:
            return -1
        levels[i] = size // (4 * unit)
    return place
