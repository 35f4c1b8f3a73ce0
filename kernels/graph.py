"""Attention along the edges of graphs."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import FLOAT32_LIMIT, dot
from attnbridge.kernels.lanes import (
    LANES,
    lanes_at,
    lanes_beyond,
    lanes_less,
    lanes_max,
    lanes_product,
    lanes_sum,
    lanes_times,
    lanes_wide,
    put_lanes,
)
from attnbridge.kernels.tile import exp_of, weighted_rows

# Heads at a time.
HEADS = LANES

# Edges whose messages are added up at a time: sums of sums keep what one long one would lose of float32.
_RUN = 256


@jit
def gatv2(query: Any, keys: Any, edges: Any, a: Any, negative_slope: Any, scale: Any, out: Any) -> Any:
    """Write out[j] = scale * a . LeakyReLU(query + keys[j] + edges[j]).

    Brody et al. 2022, equation 7; all three are projected already: W q, U k, V e.

    Parameters
    ----------
    query : (o,) float32 or float64
    keys : (s, o) float32 or float64
    edges : (s, o) float32 or float64, or None
    a : (o,) float32 or float64
    negative_slope : float, 0 to 1
        LeakyReLU(x) = max(x, negative_slope * x).
    scale : float
    out : (s,) float64
    """
    for j in range(keys.shape[0]):
        total = 0.0
        for c in range(query.shape[0]):
            hidden = query[c] + keys[j, c]
            if edges is not None:
                hidden += edges[j, c]
            total += a[c] * max(hidden, negative_slope * hidden)
        out[j] = scale * total


@jit
def edge_logits(queries: Any, keys: Any, indptr: Any, indices: Any, scale: Any, out: Any) -> None:
    """Write out[p] = scale * queries[i] . keys[indices[p]], p = indptr[i] .. indptr[i + 1] - 1.

    Vaswani et al. 2017, equation 1, before the softmax, by the edges that lead to each node.

    Parameters
    ----------
    queries, keys : (n, d) float32 or float64
    indptr : (n + 1,) int64
    indices : (m,) int32
    scale : float
    out : (m,) float64
    """
    for i in range(queries.shape[0]):
        start, stop = indptr[i], indptr[i + 1]
        dot(queries[i], 0.0, keys, None, None, indices[start:stop], scale, out[start:stop])


@jit
def group_edges(source: Any, target: Any, indptr: Any, sources: Any, numbers: Any) -> Any:
    """Write the edges by the node that they lead to, those of one node in their own order: a counting sort.

    Parameters
    ----------
    source, target : (m,) int64, 0 to n - 1
    indptr : (n + 1,) int64
        Node i has the entries from indptr[i] up to indptr[i + 1].
    sources : (m,) int64
        The source of each entry's edge.
    numbers : (m,) int64
        Which edge each entry is.
    """
    indptr[:] = 0
    for e in range(target.shape[0]):
        indptr[target[e] + 1] += 1
    for i in range(indptr.shape[0] - 1):
        indptr[i + 1] += indptr[i]
    free = indptr.copy()
    for e in range(target.shape[0]):
        place = free[target[e]]
        free[target[e]] = place + 1
        sources[place] = source[e]
        numbers[place] = e


@jit
def gat_forward(
    indptr: Any,
    sources: Any,
    numbers: Any,
    loops: Any,
    projected: Any,
    along: Any,
    log_weight: Any,
    negative_slope: Any,
    bias: Any,
    first: Any,
    stop: Any,
    out: Any,
    coefficients: Any,
) -> Any:
    """Write out[i] = b + sum_e alpha_e x[s_e], alpha_e = softmax_e(LeakyReLU(u[s_e] + v[i] + along[e]) + w_e).

    w = log_weight. Over the edges e that lead to node i, from s_e, and for each head. Velickovic et al. 2018,
    equations 3 and 4.

    Parameters
    ----------
    indptr, sources, numbers : (n + 1,), (m,), (m,) int64
        As `group_edges` writes them.
    loops : int
        Number of the loop of node 0, then they are added to all nodes in place of those given; or -1.
    projected : (n, H c + 2 H') float32 or float64
        x, H heads side by side, then u and v, whose number of heads is rounded up to a multiple of HEADS.
    along : (edges, H') of the same dtype, or (0, 0)
    log_weight : (edges,) float64, or (0,)
    negative_slope : float, 0 to 1
        LeakyReLU(x) = max(x, negative_slope * x).
    bias : (H c,) of the same dtype
        b.
    first, stop : int
        Which nodes are done.
    out : (n, H c) of the same dtype
        b for a node without edges.
    coefficients : (edges, H) of the same dtype
        alpha, at the edge's number; 0 of the loops that are replaced.

    Returns
    -------
    int
        How many nodes have a logit beyond FLOAT32_LIMIT (float64: 1e300), or one that is NaN.
    """
    columns, step, strange = out.shape[1], projected.shape[1], 0
    away, heads = (step - columns) // 2, coefficients.shape[1]
    base = np.int64(0)  # a literal, as _exponentials takes it to make vectors, is compiled for by itself
    short = columns == heads * LANES
    room, near, which, top, odd, total = _workspace(indptr, first, stop, base, projected)
    slope, limit = projected.dtype.type(negative_slope), _limit(projected)
    for i in range(first, stop):
        count = _entries(indptr, sources, numbers, loops, i, near, which)
        if count < indptr[i + 1] - indptr[i] or count == 0:
            _clear(indptr, sources, numbers, loops, i, bias, out, coefficients)
        if loops >= 0:
            near[count], which[count] = i, loops + i
            count += 1
        odd[:] = 0.0
        found = lanes_at(odd, 0)
        for head in range(0, away if count > 0 else 0, HEADS):
            start = columns + head
            target = lanes_at(projected, i * step + start + away)
            for j in range(count):
                x = lanes_sum(lanes_at(projected, near[j] * step + start), target)
                if along.size > 0:
                    x = lanes_sum(x, lanes_at(along, which[j] * away + head))
                found = lanes_sum(found, lanes_beyond(x, limit))
                put_lanes(room, j * HEADS, lanes_max(x, lanes_times(slope, x)))
            _weigh(room, base, count, which, log_weight)
            _exponentials(room, 0, count, top, total)
            if short and head + HEADS <= heads:
                _spread_short(room, base, count, head, near, projected, i, out)
                _scale_short(top, head, bias, i, out)
            else:
                _spread(room, base, count, head, heads, near, projected, i, out)
                for t in range(_RUN, count, _RUN):
                    _spread_more(room, base, t, count, head, heads, near, projected, i, out)
                _scale(top, head, heads, bias, i, out)
            _give(room, base, count, head, which, top, coefficients)
        put_lanes(odd, 0, found)
        strange += 1 if odd.sum() > 0.0 else 0
    return strange


@jit
def gatv2_forward(
    indptr: Any,
    sources: Any,
    numbers: Any,
    loops: Any,
    left: Any,
    right: Any,
    attributes: Any,
    edge_matrix: Any,
    log_weight: Any,
    a: Any,
    negative_slope: Any,
    bias: Any,
    first: Any,
    stop: Any,
    out: Any,
    coefficients: Any,
) -> Any:
    """Write out[i] = b + sum_e alpha_e l[s_e], alpha_e = softmax_e(a . LeakyReLU(l[s_e] + r[i] + M b_e) + w_e).

    w = log_weight. Over the edges e that lead to node i, from s_e, and for each head. Brody et al. 2022, equation 7.

    Parameters
    ----------
    indptr, sources, numbers : (n + 1,), (m,), (m,) int64
        As `group_edges` writes them.
    loops : int
        Number of the loop of node 0, then they are added to all nodes in place of those given; or -1.
    left, right : (n, H c) float32 or float64
        l and r: H heads side by side.
    attributes : (edges, b) of the same dtype, or (0, 0)
    edge_matrix : (b, H c) of the same dtype
        M, transposed.
    log_weight : (edges,) float64, or (0,)
    a : (H c,) of the same dtype
    negative_slope : float, 0 to 1
        LeakyReLU(x) = max(x, negative_slope * x).
    bias : (H c,) of the same dtype
        b.
    first, stop : int
        Which nodes are done.
    out : (n, H c) of the same dtype
        b for a node without edges.
    coefficients : (edges, H) of the same dtype
        alpha, at the edge's number; 0 of the loops that are replaced.

    Returns
    -------
    int
        How many nodes have a logit beyond FLOAT32_LIMIT (float64: 1e300), or one that is NaN.
    """
    heads, columns, strange = coefficients.shape[1], out.shape[1], 0
    width = columns // heads
    room, near, which, top, odd, total = _workspace(indptr, first, stop, heads, left)
    room[:] = 0.0  # lanes beyond the last head are not written
    slope, limit, hidden = left.dtype.type(negative_slope), _limit(left), np.empty(columns, left.dtype)
    for i in range(first, stop):
        count = _entries(indptr, sources, numbers, loops, i, near, which)
        if count < indptr[i + 1] - indptr[i] or count == 0:
            _clear(indptr, sources, numbers, loops, i, bias, out, coefficients)
        if loops >= 0:
            near[count], which[count] = i, loops + i
            count += 1
        odd[:] = 0.0
        found, rows = lanes_at(odd, 0), _padded(count, left)
        for j in range(count):
            s, e = near[j], which[j]
            for c in range(columns):
                hidden[c] = left[s, c] + right[i, c]
            if attributes.size > 0:
                for b in range(attributes.shape[1]):
                    x = attributes[e, b]
                    for c in range(columns):
                        hidden[c] += x * edge_matrix[b, c]
            for c in range(columns):
                hidden[c] = a[c] * max(hidden[c], slope * hidden[c])
            for h in range(heads):
                x = left.dtype.type(0.0)
                for c in range(h * width, (h + 1) * width):
                    x += hidden[c]
                room[(h // HEADS * rows + j) * HEADS + h % HEADS] = x
        for head in range(0, heads if count > 0 else 0, HEADS):
            for j in range(count):
                found = lanes_sum(found, lanes_beyond(lanes_at(room, head * rows + j * HEADS), limit))
            _weigh(room, head * rows, count, which, log_weight)
            _exponentials(room, head * rows, count, top, total)
            if width == LANES and head + HEADS <= heads:
                _spread_short(room, head * rows, count, head, near, left, i, out)
                _scale_short(top, head, bias, i, out)
            else:
                _spread(room, head * rows, count, head, heads, near, left, i, out)
                for t in range(_RUN, count, _RUN):
                    _spread_more(room, head * rows, t, count, head, heads, near, left, i, out)
                _scale(top, head, heads, bias, i, out)
            _give(room, head * rows, count, head, which, top, coefficients)
        put_lanes(odd, 0, found)
        strange += 1 if odd.sum() > 0.0 else 0
    return strange


@jit
def _padded(count: Any, like: Any) -> Any:
    """Return how many edges there is room for: float32's exponentials are taken in whole vectors."""
    return (count + 3) // 4 * 4 if like.itemsize == 4 else count


@jit
def _limit(like: Any) -> Any:
    """Return the largest logit that a precision suffices for."""
    return like.dtype.type(FLOAT32_LIMIT if like.itemsize == 4 else 1e300)


@jit
def _workspace(indptr: Any, first: Any, stop: Any, heads: Any, like: Any) -> Any:
    """Return room for one node's edges, and for numbers of HEADS heads."""
    most = 0
    for i in range(first, stop):
        most = max(most, indptr[i + 1] - indptr[i])
    most = _padded(most + 1, like)  # an added loop
    room, near, which = np.empty(most * (heads + HEADS), like.dtype), np.empty(most, np.int64), np.empty(most, np.int64)
    return room, near, which, np.empty(HEADS, like.dtype), np.empty(HEADS, like.dtype), np.empty(HEADS, np.float64)


# What follows is called for each node: short functions of one loop or two, in which the compiler leaves out the
# counting of references to arrays. That would take longer than the work.


@jit
def _entries(indptr: Any, sources: Any, numbers: Any, loops: Any, i: Any, near: Any, which: Any) -> Any:
    """List the sources and numbers of a node's edges, but for loops where those are added; return how many."""
    count = 0
    for p in range(indptr[i], indptr[i + 1]):
        near[count], which[count] = sources[p], numbers[p]
        count += 0 if loops >= 0 and sources[p] == i else 1
    return count


@jit
def _clear(indptr: Any, sources: Any, numbers: Any, loops: Any, i: Any, bias: Any, out: Any, coefficients: Any) -> None:
    """Write zeros for loops that are replaced, and the bias for a node, which may be without edges."""
    for p in range(indptr[i], indptr[i + 1] if loops >= 0 else indptr[i]):
        for h in range(coefficients.shape[1] if sources[p] == i else 0):
            coefficients[numbers[p], h] = 0.0
    for c in range(out.shape[1]):
        out[i, c] = bias[c]


@jit
def _weigh(logits: Any, base: Any, count: Any, which: Any, log_weight: Any) -> None:
    """Add the logarithms of edges' weights to their logits, where there are any."""
    for j in range(count if log_weight.size > 0 else 0):
        x = logits.dtype.type(log_weight[which[j]])
        for lane in range(HEADS):
            logits[base + j * HEADS + lane] += x


@jit
def _spread(logits: Any, base: Any, count: Any, head: Any, heads: Any, near: Any, rows: Any, i: Any, out: Any) -> None:
    """Write the mean of the first rows by HEADS heads of any width, or as many as there are."""
    step, columns, some = rows.shape[1], out.shape[1], min(count, _RUN)
    width = columns // heads
    for lane in range(min(HEADS, heads - head)):
        start = (head + lane) * width
        weighted_rows(logits, base + lane, HEADS, some, rows, near, start, step, out, i * columns + start, width)


@jit
def _spread_more(
    logits: Any, base: Any, t: Any, count: Any, head: Any, heads: Any, near: Any, rows: Any, i: Any, out: Any
) -> None:
    """Add the mean of further rows, from the t-th on."""
    step, left, width = rows.shape[1], min(_RUN, count - t), out.shape[1] // heads
    part, weight = np.empty(width, rows.dtype), base + t * HEADS
    for lane in range(min(HEADS, heads - head)):
        start = (head + lane) * width
        weighted_rows(logits, weight + lane, HEADS, left, rows, near[t:], start, step, part, 0, width)
        for c in range(width):
            out[i, start + c] += part[c]


@jit
def _spread_short(logits: Any, base: Any, count: Any, head: Any, near: Any, rows: Any, i: Any, out: Any) -> None:
    """Write the sum of the rows weighted by HEADS heads of LANES columns each."""
    step, end = rows.shape[1], i * out.shape[1] + head * LANES
    for t in range(0, count, _RUN):
        at, x = near[t] * step + head * LANES, base + t * HEADS
        a = lanes_times(logits[x], lanes_at(rows, at))
        b = lanes_times(logits[x + 1], lanes_at(rows, at + LANES))
        c = lanes_times(logits[x + 2], lanes_at(rows, at + 2 * LANES))
        d = lanes_times(logits[x + 3], lanes_at(rows, at + 3 * LANES))
        e = lanes_times(logits[x + 4], lanes_at(rows, at + 4 * LANES))
        f = lanes_times(logits[x + 5], lanes_at(rows, at + 5 * LANES))
        g = lanes_times(logits[x + 6], lanes_at(rows, at + 6 * LANES))
        h = lanes_times(logits[x + 7], lanes_at(rows, at + 7 * LANES))
        for j in range(t + 1, min(count, t + _RUN)):
            at, x = near[j] * step + head * LANES, base + j * HEADS
            a = lanes_sum(lanes_times(logits[x], lanes_at(rows, at)), a)
            b = lanes_sum(lanes_times(logits[x + 1], lanes_at(rows, at + LANES)), b)
            c = lanes_sum(lanes_times(logits[x + 2], lanes_at(rows, at + 2 * LANES)), c)
            d = lanes_sum(lanes_times(logits[x + 3], lanes_at(rows, at + 3 * LANES)), d)
            e = lanes_sum(lanes_times(logits[x + 4], lanes_at(rows, at + 4 * LANES)), e)
            f = lanes_sum(lanes_times(logits[x + 5], lanes_at(rows, at + 5 * LANES)), f)
            g = lanes_sum(lanes_times(logits[x + 6], lanes_at(rows, at + 6 * LANES)), g)
            h = lanes_sum(lanes_times(logits[x + 7], lanes_at(rows, at + 7 * LANES)), h)
        if t > 0:
            a, b = lanes_sum(lanes_at(out, end), a), lanes_sum(lanes_at(out, end + LANES), b)
            c, d = lanes_sum(lanes_at(out, end + 2 * LANES), c), lanes_sum(lanes_at(out, end + 3 * LANES), d)
            e, f = lanes_sum(lanes_at(out, end + 4 * LANES), e), lanes_sum(lanes_at(out, end + 5 * LANES), f)
            g, h = lanes_sum(lanes_at(out, end + 6 * LANES), g), lanes_sum(lanes_at(out, end + 7 * LANES), h)
        put_lanes(out, end, a)
        put_lanes(out, end + LANES, b)
        put_lanes(out, end + 2 * LANES, c)
        put_lanes(out, end + 3 * LANES, d)
        put_lanes(out, end + 4 * LANES, e)
        put_lanes(out, end + 5 * LANES, f)
        put_lanes(out, end + 6 * LANES, g)
        put_lanes(out, end + 7 * LANES, h)


@jit
def _exponentials(logits: Any, base: Any, count: Any, top: Any, total: Any) -> None:
    """Turn the logits of HEADS heads, side by side from `base` on, into exponentials; write top = 1 / their sums.

    What float32 suffices for is within twice FLOAT32_LIMIT, edge weights in it, and is not taken from the largest: the
    polynomial holds there, and the sums are in float64.
    """
    stop, room = base + count * HEADS, base + _padded(count, logits) * HEADS
    if logits.itemsize > 4:
        most = lanes_at(logits, base)
        for j in range(base + HEADS, stop, HEADS):
            most = lanes_max(most, lanes_at(logits, j))
        for j in range(base, stop, HEADS):
            put_lanes(logits, j, lanes_less(lanes_at(logits, j), most))
    for j in range(stop, room, HEADS):
        put_lanes(logits, j, lanes_less(lanes_at(logits, base), lanes_at(logits, base)))
    for x in range(base, room):
        logits[x] = exp_of(logits[x])
    added = lanes_wide(lanes_at(logits, base))
    for j in range(base + HEADS, stop, HEADS):
        added = lanes_sum(added, lanes_wide(lanes_at(logits, j)))
    put_lanes(total, 0, added)
    for lane in range(HEADS):
        top[lane] = 1.0 / total[lane]


@jit
def _give(logits: Any, base: Any, count: Any, head: Any, which: Any, top: Any, coefficients: Any) -> None:
    """Write exponentials of HEADS heads, or as many as there are, over their sums, at the edges' numbers."""
    heads = coefficients.shape[1]
    live = min(HEADS, heads - head)
    scale = lanes_at(top, 0)
    for j in range(count):
        share = lanes_product(lanes_at(logits, base + j * HEADS), scale)
        if live == HEADS:
            put_lanes(coefficients, which[j] * heads + head, share)
        else:
            put_lanes(logits, base + j * HEADS, share)
            for lane in range(live):
                coefficients[which[j], head + lane] = logits[base + j * HEADS + lane]


@jit
def _scale(top: Any, head: Any, heads: Any, bias: Any, i: Any, out: Any) -> None:
    """Scale sums of rows, so that their weights have sum 1, and add the bias."""
    width = out.shape[1] // heads
    for lane in range(min(HEADS, heads - head)):
        factor = top[lane]
        for c in range((head + lane) * width, (head + lane + 1) * width):
            out[i, c] = factor * out[i, c] + bias[c]


@jit
def _scale_short(top: Any, head: Any, bias: Any, i: Any, out: Any) -> None:
    """Scale sums of rows by HEADS heads of LANES columns each, and add the bias."""
    step = i * out.shape[1]
    for at in range(head * LANES, (head + HEADS) * LANES, LANES):
        scaled = lanes_times(top[at // LANES - head], lanes_at(out, step + at))
        put_lanes(out, step + at, lanes_sum(scaled, lanes_at(bias, at)))
