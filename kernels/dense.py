"""Softmax attention over all keys or a band of them, without the matrix of weights (online softmax).

Milakov & Gimelshein 2018, Online normalizer calculation for softmax; Rabe & Staats 2021, Self-attention does not need
O(n^2) memory; Dao et al. 2022, FlashAttention, algorithm 1.
"""

import math
from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import FLOAT32_LIMIT, dot_float64
from attnbridge.kernels.dropout import drop
from attnbridge.kernels.tile import LANES, ROWS, exp_of, row_dots, tile_product, weighted_rows

# Whom a logit this far below the largest belongs to, nobody attends to.
_NEGLIGIBLE = 64.0


@jit
def _bounds(itemsize: Any) -> Any:
    """Return what a precision holds: products as they are up to the first; a row if its largest logit is in between.

    A float32 logit has its 1e-5 up to 167; whatever a mask takes below the last number is no -inf for that.
    """
    if itemsize == 4:
        return FLOAT32_LIMIT, -_NEGLIGIBLE, 128.0, -3e38
    return 1e300, -1e300, 1e300, -1.7e308


@jit
def _exact(query: Any, rows: Any, row: Any, scale: Any, bottom: Any) -> Any:
    """Return scale * query . rows[row] by way of float64; inf where there is no such number, to be seen."""
    value = dot_float64(query, rows, row) * scale
    return max(value, bottom) if abs(value) < np.inf else np.inf


@jit
def _settle(weights: Any, top: Any, total: Any, rate: Any, draw: Any, problem: Any, query: Any, first_key: Any) -> None:
    """Turn a query's logits into its weights, as the values were weighted."""
    for j in range(weights.shape[1]):
        weights[0, j] = exp_of(weights[0, j] - top) / total if total > 0.0 else 0.0
    if rate > 0.0:
        drop(weights, rate, draw, problem, query, first_key)


@jit
def _logarithm(top: Any, total: Any, finite: Any, itemsize: Any) -> Any:
    """Return a query's log-normaliser; NaN where it must be done in float64."""
    _, lowest, highest, _ = _bounds(itemsize)
    if finite and top == -np.inf:
        return top
    return top + math.log(total) if finite and lowest <= top <= highest else np.nan


@jit
def attend_few(
    query: Any,
    key: Any,
    value: Any,
    which: Any,
    heads: Any,
    scale: Any,
    left: Any,
    right: Any,
    allowed: Any,
    added: Any,
    block: Any,
    rate: Any,
    draw: Any,
    first: Any,
    stop: Any,
    out: Any,
    total: Any,
    weights: Any,
) -> Any:
    """Write out[i] = sum_j softmax_j(scale query[i] . key[j] + mask[i, j]) value[j], i - left <= j <= i + right.

    One query after the other: the faster way for up to eight of them.

    Parameters
    ----------
    query : (mq, L, H d) float32 or float64
    key : (mk, S, H d) of the query's dtype
    value : (mv, S, H dv) of the query's dtype
        H heads side by side, each for itself.
    which : (P, 4) int64
        For each problem the number of its query, key, value and mask.
    heads : int
        H.
    scale : float
    left, right : int
    allowed : (mm, L or 1, S or 1) bool, or of no size
        True attends.
    added : (mm, L or 1, S or 1) of the query's dtype, or of no size
        Added to the logits; only one of the two masks.
    block : int
        Keys at a time.
    rate : float, [0, 1)
        Of dropout.
    draw : int
        As `drop` takes it; head h of problem p is its problem p H + h.
    first, stop : int
        Which of the P * H * L (problem, head, query) are done.
    out : (P, L, H dv) of the query's dtype
    total : (P, H, L) float64, or of no size where it is not asked for
        The logarithm of sum_j exp(logit_j): -inf where there is nothing to attend to, and NaN where the precision does
        not suffice, or something is not finite; that query is to be done in float64.
    weights : (P, H, L, S) of zeros, of the query's dtype, or of no size where they are not asked for

    Notes
    -----
    A float32 product beyond FLOAT32_LIMIT is redone in float64.

    Returns
    -------
    int
        How many are to be done in float64.
    """
    queries, keys, dim, width = query.shape[1], key.shape[1], query.shape[2] // heads, value.shape[2] // heads
    masked = allowed.size + added.size > 0
    limit, _, _, bottom = _bounds(query.itemsize)
    lowest, zero = query.dtype.type(-np.inf), query.dtype.type(0.0)
    size = -(-block // LANES)
    logits = np.empty((size + 1, LANES), query.dtype)
    x, part = np.empty(dim, query.dtype), np.empty(width, query.dtype)
    undone = 0
    for item in range(first, stop):
        p, h, i = item // (heads * queries), item // queries % heads, item % queries
        for c in range(dim):
            x[c] = query[which[p, 0], i, h * dim + c] * scale
        first_key, stop_key = max(0, i - left), min(keys, i + right + 1)
        top, mass = lowest, 0.0
        mean = out[p, i, h * width : (h + 1) * width]
        for c in range(width):
            mean[c] = zero
        for t in range(first_key, stop_key, block):
            w = min(block, stop_key - t)
            row_dots(x, key, ((which[p, 1] * keys + t) * heads + h) * dim, heads * dim, w, logits)
            highest, strange = _top(logits, w, limit)
            if strange or masked or weights.size > 0:
                column = logits.reshape((size + 1) * LANES, 1)
                if strange:
                    _repair(column, query, key, which[p], heads, h, i, 1, t, w, scale, limit, bottom)
                if masked:
                    _mask(column, allowed, added, which[p, 3], i, 1, t, w, bottom)
                if weights.size > 0:
                    weights[p, h, i, t : t + w] = column[:w, 0]
                highest, _ = _top(logits, w, limit)
            highest = max(top, highest)
            base = highest if highest > lowest else zero
            shrink = exp_of(top - base)
            top = highest
            mass = mass * shrink + _exponentials_of(logits, w, base)
            if rate > 0.0:
                drop(logits.reshape(1, (size + 1) * LANES)[:, :w], rate, draw, p * heads + h, i, t)
            start = ((which[p, 2] * keys + t) * heads + h) * width
            weighted_rows(logits, 0, 1, w, value, None, start, heads * width, part, 0, width)
            for c in range(width):
                mean[c] = mean[c] * shrink + part[c]
        inverse = query.dtype.type(1.0 / mass if mass > 0.0 else 0.0)
        finite = True
        for c in range(width):
            mean[c] *= inverse
            finite &= abs(mean[c]) < np.inf
        logarithm = _logarithm(top, mass, finite, query.itemsize)
        undone += 1 if np.isnan(logarithm) else 0
        if total.size > 0:
            total[p, h, i] = logarithm
        if weights.size > 0:
            row = weights[p, h, i, first_key:stop_key]
            _settle(row.reshape(1, row.size), top, mass, rate, draw, p * heads + h, i, first_key)
    return undone


@jit
def _exponentials_of(logits: Any, count: Any, base: Any) -> Any:
    """Turn the first logits into their exponentials, and return the sum."""
    last = (count - 1) // LANES
    logits[last, (count - 1) % LANES + 1 :] = -np.inf
    total = logits.dtype.type(0.0)
    for j in range(last + 1):
        for lane in range(LANES):
            e = exp_of(logits[j, lane] - base)
            logits[j, lane] = e
            total += e
    return total


@jit
def _top(logits: Any, count: Any, limit: Any) -> Any:
    """Return the largest of the first logits, and whether one is beyond the limit, or no number.

    By columns, in the last row: a maximum that heeds NaN is no sum that the compiler would split over a vector.
    """
    last, highest = (count - 1) // LANES, logits[logits.shape[0] - 1]
    logits[last, (count - 1) % LANES :] = logits[last, (count - 1) % LANES]
    strange = _highest(logits, last + 1, limit, highest)
    top = highest[0]
    for lane in range(LANES):
        top = max(top, highest[lane])
    return top, strange


@jit
def attend_many(
    query: Any,
    key: Any,
    value: Any,
    which: Any,
    heads: Any,
    scale: Any,
    left: Any,
    right: Any,
    allowed: Any,
    added: Any,
    block: Any,
    rate: Any,
    draw: Any,
    first: Any,
    stop: Any,
    out: Any,
    total: Any,
    weights: Any,
) -> Any:
    """Write out[i] = sum_j softmax_j(scale query[i] . key[j] + mask[i, j]) value[j], i - left <= j <= i + right.

    In tiles of LANES queries by `block` keys; those outside the band are not touched.

    Parameters
    ----------
    query : (mq, L, H d) float32 or float64
    key : (mk, S, H d) of the query's dtype
    value : (mv, S, H dv) of the query's dtype
        H heads side by side, each for itself.
    which : (P, 4) int64
        For each problem the number of its query, key, value and mask.
    heads : int
        H.
    scale : float
    left, right : int
    allowed : (mm, L or 1, S or 1) bool, or of no size
        True attends.
    added : (mm, L or 1, S or 1) of the query's dtype, or of no size
        Added to the logits; only one of the two masks.
    block : int
        Keys at a time.
    rate : float, [0, 1)
        Of dropout.
    draw : int
        As `drop` takes it; head h of problem p is its problem p H + h.
    first, stop : int
        Which of the P * H * ceil(L / LANES) (problem, head, tile of queries) are done.
    out : (P, L, H dv) of the query's dtype
    total : (P, H, L) float64, or of no size where it is not asked for
        The logarithm of sum_j exp(logit_j): -inf where there is nothing to attend to, and NaN where the precision does
        not suffice, or something is not finite; that query is to be done in float64.
    weights : (P, H, L, S) of zeros, of the query's dtype, or of no size where they are not asked for

    Notes
    -----
    A float32 product beyond FLOAT32_LIMIT is redone in float64.

    Returns
    -------
    int
        How many are to be done in float64.
    """
    queries, keys, dim, width = query.shape[1], key.shape[1], query.shape[2] // heads, value.shape[2] // heads
    masked = allowed.size + added.size > 0
    limit, _, _, bottom = _bounds(query.itemsize)
    tiles = -(-queries // LANES)
    packed = np.zeros((dim, LANES), query.dtype)
    logits = np.empty((-(-block // ROWS) * ROWS, LANES), query.dtype)
    means = np.empty((-(-width // ROWS) * ROWS, LANES), query.dtype)
    state = np.empty((5, LANES), query.dtype)
    mass = np.empty(LANES)
    undone = 0
    for item in range(first, stop):
        p, h, i = item // (heads * tiles), item // tiles % heads, item % tiles * LANES
        n = min(LANES, queries - i)
        q, k, v = which[p, 0], which[p, 1], which[p, 2]
        for lane in range(n):
            for c in range(dim):
                packed[c, lane] = query[q, i + lane, h * dim + c] * scale
        packed[:, n:] = 0.0
        means[:] = 0.0
        mass[:] = 0.0
        state[0] = -np.inf
        first_key, stop_key = max(0, i - left), min(keys, i + n + right)
        for t in range(first_key, stop_key, block):
            w = min(block, stop_key - t)
            tile_product(key, ((k * keys + t) * heads + h) * dim, heads * dim, 1, w, dim, packed, logits, None)
            changed = _highest(logits, w, limit, state[1])
            if changed:
                _repair(logits, query, key, which[p], heads, h, i, n, t, w, scale, limit, bottom)
            if masked:
                changed = True
                _mask(logits, allowed, added, which[p, 3], i, n, t, w, bottom)
            if t < i + n - 1 - left or t + w - 1 > i + right:
                changed = True
                _cut(logits, w, t - i - right, t - i + left)
            if changed:
                _highest(logits, w, limit, state[1])
            if weights.size > 0:
                weights[p, h, i : i + n, t : t + w] = logits[:w, :n].T
            _exponentials(logits, w, state, mass)
            if rate > 0.0:
                drop(logits[:w, :n].T, rate, draw, p * heads + h, i, t)
            start = ((v * keys + t) * heads + h) * width
            tile_product(value, start, 1, heads * width, width, w, logits, means, state[2])
        for lane in range(n):
            inverse = query.dtype.type(1.0 / mass[lane] if mass[lane] > 0.0 else 0.0)
            finite = True
            for c in range(width):
                x = means[c, lane] * inverse
                out[p, i + lane, h * width + c] = x
                finite &= abs(x) < np.inf
            logarithm = _logarithm(state[0, lane], mass[lane], finite, query.itemsize)
            undone += 1 if np.isnan(logarithm) else 0
            if total.size > 0:
                total[p, h, i + lane] = logarithm
            if weights.size > 0:
                row = weights[p, h, i + lane, first_key:stop_key]
                place = p * heads + h
                _settle(row.reshape(1, row.size), state[0, lane], mass[lane], rate, draw, place, i + lane, first_key)
    return undone


@jit
def _highest(logits: Any, count: Any, limit: Any, highest: Any) -> Any:
    """Write each column's largest logit; return whether one is beyond the limit, or none at all."""
    most, zero, one = logits.dtype.type(limit), logits.dtype.type(0.0), logits.dtype.type(1.0)
    strange = zero
    highest[:] = -np.inf
    for j in range(count):
        for lane in range(LANES):
            x = logits[j, lane]
            highest[lane] = x if x > highest[lane] else highest[lane]
            strange += zero if abs(x) <= most else one
    return strange > 0


@jit
def _repair(
    logits: Any,
    query: Any,
    key: Any,
    which: Any,
    heads: Any,
    head: Any,
    i: Any,
    n: Any,
    t: Any,
    count: Any,
    scale: Any,
    limit: Any,
    bottom: Any,
) -> None:
    """Redo in float64 the logits beyond the limit."""
    dim = query.shape[2] // heads
    rows = key[which[1]].reshape(key.shape[1] * heads, dim)
    for lane in range(n):
        x = query[which[0], i + lane, head * dim : (head + 1) * dim]
        for j in range(count):
            if not abs(logits[j, lane]) <= limit:
                logits[j, lane] = _exact(x, rows, (t + j) * heads + head, scale, bottom)


@jit
def _cut(logits: Any, count: Any, ahead: Any, behind: Any) -> None:
    """Put -inf outside of the band: column `lane` keeps row j where ahead + j <= lane <= behind + j."""
    for j in range(count):
        for lane in range(LANES):
            if lane < ahead + j or lane > behind + j:
                logits[j, lane] = -np.inf


@jit
def _mask(logits: Any, allowed: Any, added: Any, which: Any, i: Any, n: Any, t: Any, count: Any, bottom: Any) -> None:
    """Mask the logits of n queries from i and of keys from t on."""
    bools = allowed.size > 0
    lines, columns = (allowed.shape[1], allowed.shape[2]) if bools else (added.shape[1], added.shape[2])
    at, width = (t, count) if columns > 1 else (0, 1)
    lowest, lower = logits.dtype.type(-np.inf), logits.dtype.type(bottom)
    for lane in range(n):
        line = min(i + lane, lines - 1)
        if bools:
            keep = allowed[which, line, at : at + width]
            for j in range(count):
                x = logits[j, lane]  # read in any case: a choice of numbers, where a branch would be guessed wrong
                logits[j, lane] = x if keep[j if width > 1 else 0] else lowest
        else:
            more = added[which, line, at : at + width]
            for j in range(count):
                x = more[j if width > 1 else 0]
                y = logits[j, lane] + x
                y = y if y > lower else lower
                logits[j, lane] = x if x == lowest else y


@jit
def _exponentials(logits: Any, count: Any, state: Any, mass: Any) -> None:
    """Turn the tile's logits into their exponentials, and bring each column's state up to date.

    state : largest logit so far, largest of the tile, factor on what was summed so far, two rows of work space
    """
    top, highest, shrink, base, more = state[0], state[1], state[2], state[3], state[4]
    for lane in range(LANES):
        new = max(top[lane], highest[lane])
        base[lane] = new if new > -np.inf else 0.0
        shrink[lane] = exp_of(top[lane] - base[lane])
        top[lane] = new
        more[lane] = 0.0
    for j in range(count):
        for lane in range(LANES):
            e = exp_of(logits[j, lane] - base[lane])
            logits[j, lane] = e
            more[lane] += e
    for lane in range(LANES):
        mass[lane] = mass[lane] * shrink[lane] + more[lane]
