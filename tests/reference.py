"""The truth, slowly: every kernel again in float64 numpy, and the one table that tests and benchmarks run through.

A reference takes the arguments of its kernel and fills the same outputs; a test calls both on copies of the same
arguments and compares all of them, so that an input that was written to shows as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from attnbridge import kernels
from attnbridge.kernels.dot import FLOAT32_LIMIT
from attnbridge.kernels.graph import HEADS
from attnbridge.kernels.tile import LANES
from attnbridge.reference import TYPES as TYPES  # that of the attention types is installed, for `attnbridge test`
from attnbridge.reference import truth as truth

Array = np.ndarray[Any, Any]

KINDS = ("float32", "float64", "float16", "int8")


def as_float64(rows: Array) -> Array:
    """Return stored rows as numbers; uint16 holds the bits of a float16."""
    return (rows.view(np.float16) if rows.dtype == np.uint16 else rows).astype(np.float64)


def stored(values: Array, kind: str) -> Array:
    """Return values as the kernels store them; float16 as its bits."""
    if kind == "float16":
        return np.ascontiguousarray(values, np.float16).view(np.uint16)
    return np.ascontiguousarray(np.round(values) if kind == "int8" else values, kind)


# ---- the references


def dot(
    query: Array,
    query_bias: float,
    rows: Array,
    row_scale: Array | None,
    row_bias: Array | None,
    ids: Array | None,
    scale: float,
    out: Array,
    difference: bool | None = None,
) -> None:
    """Fill out with (row_scale * query . row + row_bias + query_bias) * scale; or the scaled squared differences."""
    if difference is None:
        values = as_float64(rows) @ query.astype(np.float64)
    else:
        values = -((as_float64(rows) - query.astype(np.float64)) ** 2).sum(axis=1)
    if row_scale is not None:
        values = values * row_scale
    if row_bias is not None:
        values = values + row_bias
    values = (values + query_bias if difference is None else values * query_bias) * scale
    out[:] = values if ids is None else values[ids]


def softmax(logits: Array, out: Array) -> float:
    """Fill out with exp(logits) over its sum; return the log-sum-exp."""
    total = logsumexp(logits)
    out[:] = 0.0 if total == -np.inf else np.exp(logits - total)
    return total


def logsumexp(logits: Array) -> float:
    """Return log(sum(exp(logits)))."""
    return float(np.logaddexp.reduce(logits, initial=-np.inf))


def top_k(scores: Array, ids: Array | None, positions: Array) -> int:
    """Fill positions with those of the largest scores, ties by the smaller id; return how many."""
    order = np.lexsort((np.arange(len(scores)) if ids is None else ids, -scores))[: len(positions)]
    positions[: len(order)] = order
    return len(order)


def weighted_sum(weights: Array, rows: Array, row_scale: Array | None, ids: Array | None, out: Array) -> None:
    """Fill out with the sum of weights * row_scale * row."""
    values = as_float64(rows) if row_scale is None else as_float64(rows) * row_scale[:, None]
    out[:] = weights @ (values if ids is None else values[ids])


def expand(
    query: Array,
    query_bias: float,
    rows: Array,
    row_scale: Array | None,
    row_bias: Array | None,
    value_scale: Array | None,
    unit: bool,
    scores: Array,
    ids: Array,
    scale: float,
    mix: float,
    steps: int,
    curvature: float,
    least: float,
    near: Array,
    weights: Array,
    out: Array,
    out_bias: Array,
    difference: bool | None = None,
) -> tuple[int, int]:
    """Fill out with the query after so many Hopfield steps over the rows of the best scores."""
    alive = np.flatnonzero(scores > -np.inf)
    best = ids[alive[np.lexsort((ids[alive], -scores[alive]))[: len(near)]]]
    near[:], weights[:] = -1, 0.0
    near[: len(best)] = best
    state, bias, ruled_out = query.astype(np.float64), query_bias, len(scores) - len(alive)
    values = as_float64(rows) if value_scale is None else as_float64(rows) * value_scale[:, None]
    for _ in range(steps if len(best) else 0):
        worth = np.empty(len(best))
        dot(state, bias, rows, row_scale, row_bias, best, scale, worth, difference)
        weights[: len(best)] = np.exp(worth - worth.max()) / np.exp(worth - worth.max()).sum()
        new = (1.0 - mix) * state + mix * (weights[: len(best)] @ values[best])
        if np.linalg.norm(new) < least * np.linalg.norm(state):
            break
        state = new / np.linalg.norm(new) if unit else new
        if difference is not None:
            bias = 1.0 / (1.0 + curvature * (state @ state))
        elif row_bias is not None:
            bias = -0.5 * (state @ state)
    out[:], out_bias[:] = state, bias
    return len(best), ruled_out


def row_squares(rows: Array, out: Array) -> None:
    """Fill out with the squared Euclidean lengths."""
    out[:] = (as_float64(rows) ** 2).sum(axis=1)


def drop(
    weights: Array, rate: float, draw: int, problem: int, first_query: int, first_key: int, ids: Array | None = None
) -> None:
    """Zero what a hash of the pair's place draws below `rate`, and divide the rest by 1 - rate."""
    whole = 2**64 - 1

    def scrambled(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
        return x ^ (x >> 31)

    step = 0x9E3779B97F4A7C15
    start = scrambled((draw + step * (problem + 1)) & whole)
    for i in range(weights.shape[0]):
        row = scrambled((start + step * (first_query + i + 1)) & whole)
        for j in range(weights.shape[1]):
            key = first_key + (j if ids is None else int(ids[j]))
            number = scrambled((row + step * (key + 1)) & whole) >> 11
            weights[i, j] = weights[i, j] / (1.0 - rate) if number >= int(rate * 2**53) else 0.0


def attend_pairs(
    queries: Array,
    keys: Array,
    values: Array,
    indptr: Array,
    indices: Array,
    bias: Array,
    first: int,
    reach: int,
    scale: float,
    rate: float,
    draw: int,
    problem: int,
    out: Array,
    weights: Array,
    total: Array,
) -> int:
    """Fill out, weights and total from the dense matrix of logits, -inf where no pair is listed."""
    logits = np.full((len(queries), len(keys)), -np.inf)
    rows = np.repeat(np.arange(len(queries)), np.diff(indptr))
    products = as_float64(queries) @ as_float64(keys).T * scale
    logits[rows, indices] = products[rows, indices] + (bias if len(bias) else 0.0)
    logits[np.arange(len(keys)) >= np.arange(len(queries))[:, None] + first + reach] = -np.inf
    shares = np.empty_like(logits)
    for i, row in enumerate(logits):
        total[i] = softmax(row, shares[i])
    if rate > 0.0:
        drop(shares, rate, draw, problem, first, 0)
    if weights.size:
        seen = indices < rows + first + reach
        weights[seen] = shares[rows[seen], indices[seen]]
    out[:] = shares @ as_float64(values)
    return -1


def segment_sum(indptr: Array, sources: Array, weights: Array, rows: Array, out: Array) -> None:
    """Fill out with each segment's weighted sum of rows, by slices."""
    for i in range(len(out)):
        own = slice(indptr[i], indptr[i + 1])
        out[i] = (weights[own, None] * as_float64(rows)[sources[own]]).sum(axis=0)


def segment_max(indptr: Array, sources: Array, rows: Array, out: Array, shares: Array) -> None:
    """Fill out with each segment's largest of each column, 0 of none, and shares with how many are an entry's."""
    shares[:] = 0.0
    for i in range(len(out)):
        own = rows[sources[indptr[i] : indptr[i + 1]]]
        out[i] = own.max(axis=0) if len(own) else 0.0
        for winner in own.argmax(axis=0) if len(own) else ():
            shares[indptr[i] + winner] += 1.0 / rows.shape[1]


def attend(
    lanes: int,
    query: Array,
    key: Array,
    value: Array,
    which: Array,
    heads: int,
    scale: float,
    left: int,
    right: int,
    allowed: Array,
    added: Array,
    block: int,
    rate: float,
    draw: int,
    first: int,
    stop: int,
    out: Array,
    total: Array,
    weights: Array,
) -> int:
    """Fill out, total and weights by way of the whole matrix, for some groups of `lanes` queries."""
    queries, keys, dim, width = query.shape[1], key.shape[1], query.shape[2] // heads, value.shape[2] // heads
    groups = -(-queries // lanes)
    i, j = np.arange(queries)[:, None], np.arange(keys)
    for p, (q, k, v, m) in enumerate(which):
        for h in range(heads):
            mine = slice(h * dim, (h + 1) * dim), slice(h * width, (h + 1) * width)
            logits = query[q, :, mine[0]].astype(np.float64) @ key[k, :, mine[0]].astype(np.float64).T * scale
            logits[(j < i - left) | (j > i + right)] = -np.inf
            if allowed.size:
                logits[~np.broadcast_to(allowed[m], logits.shape)] = -np.inf
            if added.size:
                logits = logits + added[m]
            norms = np.logaddexp.reduce(logits, axis=1, initial=-np.inf)
            shares = np.exp(logits - np.where(norms == -np.inf, 0.0, norms)[:, None])
            if rate:
                drop(shares, rate, draw, p * heads + h, 0, 0)
            means = shares @ value[v, :, mine[1]].astype(np.float64)
            for group in range(groups):
                if first <= (p * heads + h) * groups + group < stop:
                    rows = slice(group * lanes, (group + 1) * lanes)
                    out[p, rows, mine[1]] = means[rows]
                    if total.size:
                        total[p, h, rows] = norms[rows]
                    if weights.size:
                        weights[p, h, rows] = shares[rows]
    return 0


def maxsim(
    query_tokens: Array,
    token_weights: Array,
    tokens: Array,
    token_scale: Array | None,
    starts: Array,
    lengths: Array,
    temperature: float,
    out: Array,
) -> None:
    """Fill out with sum_a token_weights[a] * the largest of query_tokens[a] . tokens, or their softmax's mean."""
    values = as_float64(tokens) if token_scale is None else as_float64(tokens) * token_scale[:, None].astype(np.float64)
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        products = query_tokens.astype(np.float64) @ values[start : start + length].T
        shares = products == products.max(axis=1, keepdims=True, initial=-np.inf)
        if temperature:
            shares = np.exp((products - products.max(axis=1, keepdims=True, initial=-np.inf)) / temperature)
        out[i] = token_weights @ ((shares * products).sum(axis=1) / shares.sum(axis=1)) if length else np.nan


def weigh_best(scores: Array, ids: Array, positions: Array, logits: Array, weights: Array) -> None:
    """Fill positions, logits and weights with the best scores."""
    all_weights = np.empty(len(scores))
    softmax(scores, all_weights)
    found = top_k(scores, ids, positions)
    logits[:found] = scores[positions[:found]]
    weights[:found] = all_weights[positions[:found]]


def rerank(
    queries: Array,
    query_bias: Array,
    rows: Array,
    row_scale: Array | None,
    row_bias: Array | None,
    ids: Array,
    counts: Array,
    scale: float,
    positions: Array,
    logits: Array,
    weights: Array,
) -> None:
    """Fill positions, logits and weights with each query's best candidates."""
    positions[:], logits[:], weights[:] = -1, -np.inf, 0.0
    for b, count in enumerate(counts):
        candidates = ids[b, :count]
        scores = np.empty(count)
        dot(queries[b], query_bias[b], rows, row_scale, row_bias, candidates, scale, scores)
        weigh_best(scores, candidates, positions[b], logits[b], weights[b])


def poincare(
    query: Array, query_scale: float, rows: Array, row_scale: Array, ids: Array | None, scale: float, out: Array
) -> None:
    """Fill out with minus scale times the distance in the ball of curvature -1, acosh(1 + 2 s)."""
    squares = ((as_float64(rows) - query.astype(np.float64)) ** 2).sum(axis=1) * row_scale * query_scale
    values = -scale * np.arccosh(1.0 + 2.0 * squares)
    out[:] = values if ids is None else values[ids]


def rerank_poincare(
    queries: Array,
    query_scale: Array,
    rows: Array,
    row_scale: Array,
    ids: Array,
    counts: Array,
    scale: float,
    positions: Array,
    logits: Array,
    weights: Array,
) -> None:
    """Fill positions, logits and weights with each query's best candidates by hyperbolic distance."""
    positions[:], logits[:], weights[:] = -1, -np.inf, 0.0
    for b, count in enumerate(counts):
        candidates, scores = ids[b, :count], np.empty(count)
        poincare(queries[b], query_scale[b], rows, row_scale, candidates, scale, scores)
        weigh_best(scores, candidates, positions[b], logits[b], weights[b])


def exact_top_k(
    queries: Array,
    query_bias: Array,
    rows: Array,
    row_scale: Array | None,
    row_bias: Array | None,
    ids: Array | None,
    scale: float,
    positions: Array,
    logits: Array,
    difference: bool | None = None,
) -> None:
    """Fill positions and logits with each query's best among all rows (or those in ids)."""
    positions[:], logits[:] = -1, -np.inf
    for b in range(len(queries)):
        scores = np.empty(len(rows) if ids is None else len(ids))
        dot(queries[b], query_bias[b], rows, row_scale, row_bias, ids, scale, scores, difference)
        found = top_k(scores, None, positions[b])
        logits[b, :found] = scores[positions[b, :found]]


def exact_top_k_each(
    queries: Array,
    query_bias: Array,
    rows: Array,
    row_scale: Array | None,
    row_bias: Array | None,
    ids: Array,
    starts: Array,
    scale: float,
    positions: Array,
    logits: Array,
    difference: bool | None = None,
) -> None:
    """Fill positions and logits with each query's best among the rows of its own list."""
    for b in range(len(queries)):
        one, own = slice(b, b + 1), ids[starts[b] : starts[b + 1]]
        about = queries[one], query_bias[one], rows, row_scale, row_bias
        exact_top_k(*about, own, scale, positions[one], logits[one], difference)


def likenesses(rows: Array, factors: Array | None) -> Array:
    """Return the likeness of all pairs: products within [-1, 1], or what falls with the distance."""
    values = rows.astype(np.float64)
    if factors is None:
        return np.clip(values @ values.T, -1.0, 1.0)
    squares = np.stack([((values - row) ** 2).sum(axis=1) for row in values])
    return 1.0 / (1.0 + factors[:, None] * factors * squares)


def mmr(
    relevance: Array,
    rows: Array,
    factors: Array | None,
    balance: float,
    order: Array,
    values: Array,
    likest: Array,
    near: Array,
) -> None:
    """Fill order with the first and then, each time, the best of relevance less likeness to those before."""
    alike = likenesses(rows, factors)
    order[0], values[0], likest[0], near[0] = 0, 1.0, -1, np.nan
    left = list(range(1, len(rows)))
    for t in range(1, len(order) + 1):
        for j in left:
            picked = order[:t].tolist()
            near[j] = max(alike[i, j] for i in picked)
            likest[j] = next(i for i in picked if alike[i, j] == near[j])
            values[j] = balance * relevance[j] - (1.0 - balance) * near[j]
        if t < len(order):
            order[t] = min(left, key=lambda j: (-values[j], j))
            left.remove(order[t])


def diffuse(rows: Array, factors: Array | None, scale: float, values: Array, out: Array) -> None:
    """Fill out with each row's attention over the others' values."""
    logits = scale * likenesses(rows, factors)
    np.fill_diagonal(logits, -np.inf)
    for i, row in enumerate(logits):
        weights = np.empty(len(row))
        out[i] = weights @ values if softmax(row, weights) > -np.inf else np.nan


def true_rows(mask: Array, words: Array, out: Array) -> None:
    """Fill out with the positions where the mask is not 0, and -1 at the end."""
    out[:] = [*np.flatnonzero(mask), -1]


def list_levels(words: Array, unit: int, levels: Array) -> int:
    """Fill levels with how many lists each record holds; return how many words were read, or -1."""
    left = words.tolist()
    for i in range(len(levels)):
        if not left:
            return -1
        size = left.pop(0)
        if size % (4 * unit) or size // 4 > len(left):
            return -1
        levels[i] = size // (4 * unit)
        del left[: size // 4]
    return len(words) - len(left)


def project(rows: Array, factors: Array, directions: Array, out: Array) -> None:
    """Fill out with each row's products with the directions, times its factor."""
    out[:] = factors[:, None] * (rows.astype(np.float64) @ directions.astype(np.float64).T)


def elu_features(rows: Array, factor: float, out: Array) -> None:
    """Fill out with elu(factor * rows) + 1."""
    x = factor * rows.astype(np.float64)
    out[:] = np.where(x < 0.0, np.exp(np.minimum(x, 0.0)), x + 1.0)


def linear_attention(
    query_logs: Array, key_logs: Array, value: Array, attends: Array, causal: bool, out: Array, normalizer: Array
) -> None:
    """Fill out and normalizer by all pairs: weights are sums over the features of exp(query + key)."""
    logits = np.logaddexp.reduce(query_logs[:, None] + key_logs[None], axis=2)
    logits[:, ~attends] = -np.inf
    if causal:
        logits[np.arange(len(key_logs)) > np.arange(len(query_logs))[:, None]] = -np.inf
    weights = np.empty(logits.shape)
    for i, row in enumerate(logits):
        normalizer[i] = softmax(row, weights[i])
    out[:] = weights @ value.astype(np.float64)


def gatv2(
    query: Array, keys: Array, edges: Array | None, a: Array, negative_slope: float, scale: float, out: Array
) -> None:
    """Fill out with scale * a . LeakyReLU(query + key + edge)."""
    hidden = query.astype(np.float64) + keys + (0.0 if edges is None else edges)
    out[:] = scale * np.where(hidden < 0.0, negative_slope * hidden, hidden) @ a.astype(np.float64)


def edge_logits(queries: Array, keys: Array, indptr: Array, indices: Array, scale: float, out: Array) -> None:
    """Fill out with the scaled products of each node and those that its entries name."""
    targets = np.repeat(np.arange(len(queries)), np.diff(indptr))
    out[:] = scale * (queries[targets].astype(np.float64) * keys[indices]).sum(axis=1)


def group_edges(source: Array, target: Array, indptr: Array, sources: Array, numbers: Array) -> None:
    """Fill indptr, sources and numbers by a stable sort."""
    numbers[:] = np.argsort(target, kind="stable")
    sources[:] = source[numbers]
    indptr[:] = np.concatenate([[0], np.cumsum(np.bincount(target, minlength=len(indptr) - 1))])


def turned_dots(
    query: Array,
    key: Array,
    heads: int,
    cosine: Array,
    sine: Array,
    turns: Array,
    scale: float,
    limit: float,
    out: Array,
) -> int:
    """Fill out by complex numbers: a pair of columns is one, a turn another of length 1; return how many are beyond."""
    left, right = (
        rows.astype(np.float64).reshape(len(rows), heads, -1).view(np.complex128).swapaxes(0, 1)
        for rows in (query, key)
    )
    phases = (cosine + 1j * sine)[turns]  # (L, S, d / 2)
    out[:] = scale * np.einsum("hic,ijc,hjc->hij", left.conj(), phases, right).real
    out[:, turns < 0] = -np.inf
    return int((np.abs(out[:, turns >= 0]) > limit).sum())


def _attend_edges(
    indptr: Array,
    sources: Array,
    numbers: Array,
    loops: int,
    logit: Callable[[int, int, int], Array],
    rows: Array,
    log_weight: Array,
    first: int,
    stop: int,
    out: Array,
    coefficients: Array,
) -> int:
    """Fill out and coefficients node by node from the logits (H,) of node, source and edge; return how many are odd."""
    heads, odd = coefficients.shape[1], 0
    limit = FLOAT32_LIMIT if rows.dtype == np.float32 else 1e300
    for i in range(first, stop):
        entries = range(indptr[i], indptr[i + 1])
        edges = [(sources[p], numbers[p]) for p in entries if loops < 0 or sources[p] != i]
        coefficients[[numbers[p] for p in entries]] = 0.0
        edges += [(i, loops + i)] if loops >= 0 else []
        out[i] = 0.0
        if not edges:
            continue
        logits = np.array([logit(i, s, e) for s, e in edges])
        odd += bool((np.abs(logits) > limit).any())
        if log_weight.size:
            logits += log_weight[[e for _, e in edges]][:, None]
        shares = np.exp(logits - np.logaddexp.reduce(logits, axis=0))
        messages = rows[[s for s, _ in edges]].astype(np.float64).reshape(len(edges), heads, -1)
        coefficients[[e for _, e in edges]] = shares
        out[i] = (shares[:, :, None] * messages).sum(axis=0).reshape(-1)
    return odd


def gat_forward(
    indptr: Array,
    sources: Array,
    numbers: Array,
    loops: int,
    projected: Array,
    along: Array,
    log_weight: Array,
    negative_slope: float,
    bias: Array,
    first: int,
    stop: int,
    out: Array,
    coefficients: Array,
) -> int:
    """Fill out and coefficients from LeakyReLU(u[source] + v[node] + along[edge])."""
    heads, columns = coefficients.shape[1], out.shape[1]
    wide = projected.astype(np.float64)
    near, far = wide[:, columns:][:, :heads], wide[:, (columns + wide.shape[1]) // 2 :][:, :heads]

    def logit(i: int, s: int, e: int) -> Array:
        x = near[s] + far[i] + (along[e, :heads] if along.size else 0.0)
        return np.where(x < 0.0, negative_slope * x, x)

    edges = indptr, sources, numbers, loops
    rows = projected[:, :columns]
    found = _attend_edges(*edges, logit, rows, log_weight, first, stop, out, coefficients)
    out[first:stop] += bias
    return found


def gatv2_forward(
    indptr: Array,
    sources: Array,
    numbers: Array,
    loops: int,
    left: Array,
    right: Array,
    attributes: Array,
    edge_matrix: Array,
    log_weight: Array,
    a: Array,
    negative_slope: float,
    bias: Array,
    first: int,
    stop: int,
    out: Array,
    coefficients: Array,
) -> int:
    """Fill out and coefficients from a . LeakyReLU(l[source] + r[node] + b[edge] M)."""

    def logit(i: int, s: int, e: int) -> Array:
        x = left[s].astype(np.float64) + right[i]
        if attributes.size:
            x += attributes[e].astype(np.float64) @ edge_matrix
        return (a * np.where(x < 0.0, negative_slope * x, x)).reshape(coefficients.shape[1], -1).sum(axis=1)

    edges = indptr, sources, numbers, loops
    found = _attend_edges(*edges, logit, left, log_weight, first, stop, out, coefficients)
    out[first:stop] += bias
    return found


def to_int8(rows: Array, codes: Array, steps: Array) -> None:
    """Fill codes with the rows over their steps, rounded, and steps with the 127th of the largest value."""
    for i, row in enumerate(rows.astype(np.float64)):
        largest = np.abs(row).max()
        steps[i] = largest / 127
        codes[i] = np.rint(row * (127 / largest)) if largest else 0


def walk(
    queries: Array,
    query_scale: Array | None,
    query_bias: Array,
    rows: Array,
    row_scale: Array | None,
    row_bias: Array | None,
    links: Any,
    ef: int,
    allowed: Array,
    which: Array,
    least: Array,
    entries: Array,
    max_steps: int,
    most: int,
    ids: Array,
    scores: Array,
    counts: Array,
    steps: Array,
    difference: bool | None = None,
) -> None:
    """Fill ids, scores, counts and steps by algorithms 2 and 5 of the HNSW paper; `most` results with a `least`."""
    ids[:], scores[:] = -1, -np.inf
    for b, query in enumerate(queries):
        worth = np.empty(len(rows))
        bias = 1.0 if difference else query_bias[b] if row_bias is not None else 0.0
        factor = 1.0 if query_scale is None else query_scale[b]
        dot(query.astype(np.float64) * factor, bias, rows, row_scale, row_bias, None, 1.0, worth, difference)
        best = lambda nodes: max(nodes, key=lambda row: (worth[row], -row))  # noqa: E731, B023
        seen = {row for row in entries[b].tolist() if row >= 0}
        if not seen:
            here = links.entry
            for level in range(links.levels, 0, -1):
                while True:
                    around = [row for row in links.upper[links.start[here] + level - 1].tolist() if row >= 0]
                    there = best([here, *around])
                    if there == here:
                        break
                    here = there
            seen = {here}
        front: set[int] = set()
        found: list[int] = []
        fresh, left = sorted(seen), 0
        while True:
            for row in fresh:
                bar = _bar(worth, found, ef, least[b], most)
                if bar is not None and (worth[row], -row) < bar:
                    continue
                front.add(row)
                if which[b] < 0 or allowed[which[b], row]:
                    found.append(row)
                    found.sort(key=lambda row: (-worth[row], row))
                    while len(found) > most or (len(found) > ef and worth[found[-1]] < least[b]):
                        found.pop()
            bar = _bar(worth, found, ef, least[b], most)
            front = {row for row in front if bar is None or (worth[row], -row) >= bar}
            if not front:
                break
            left += 1
            if left > max_steps:
                break
            here = best(front)
            front.remove(here)
            around = dict.fromkeys(links.level0[here].tolist())  # a damaged list may name a row twice
            fresh = [row for row in around if row >= 0 and row not in seen]
            seen.update(fresh)
        counts[b], steps[b] = min(len(found), ids.shape[1]), left
        ids[b, : counts[b]] = found[: counts[b]]
        scores[b, : counts[b]] = worth[found[: counts[b]]]


def scan(
    queries: Array,
    query_scale: Array | None,
    query_bias: Array,
    rows: Array,
    row_scale: Array | None,
    row_bias: Array | None,
    among: Array,
    ids: Array,
    scores: Array,
    counts: Array,
) -> None:
    """Fill ids, scores and counts with each query's best rows of those given."""
    ids[:], scores[:], counts[:] = -1, -np.inf, min(ids.shape[1], len(among))
    for b, query in enumerate(queries):
        factor = 1.0 if query_scale is None else query_scale[b]
        bias = query_bias[b] if row_bias is not None else 0.0
        worth = np.empty(len(among))
        dot(query.astype(np.float64) * factor, bias, rows, row_scale, row_bias, among, 1.0, worth)
        best = np.lexsort((among, -worth))[: counts[b]]
        ids[b, : counts[b]], scores[b, : counts[b]] = among[best], worth[best]


def _bar(worth: Array, found: list[int], ef: int, least: float, most: int) -> tuple[float, int] | None:
    """Return what a row must be as good as to be taken up, None while anything is."""
    if len(found) < ef:
        return None
    worst = (worth[found[-1]], -found[-1])
    return worst if len(found) >= most else min(worst, (least, -(2**31)))


# ---- inputs


class Case(NamedTuple):
    """What inputs to make.

    `terms` names what rows and query carry beside their values: "plain" nothing (metric ip), "scale" a factor for
    each row (cosine), "bias" a bias for each row and for the query (l2), "both", "difference" a factor for each row and
    for the query on the squared difference (poincare).
    """

    n: int = 1000
    d: int = 384
    kind: str = "float32"
    terms: str = "plain"
    gathered: bool = False
    k: int = 10
    b: int = 3

    def __str__(self) -> str:
        return "-".join(str(part) for part in self)


def _terms(rng: np.random.Generator, case: Case) -> tuple[Array | None, Array | None]:
    # Powers of two and small whole numbers: with `_whole` values every logit is exact, and ties are true ties.
    scale = 2.0 ** rng.integers(-2, 2, case.n) if case.terms in ("scale", "both", "difference") else None
    bias = rng.integers(-8, 8, case.n).astype(np.float64) if case.terms in ("bias", "both") else None
    return scale, bias


def _flag(case: Case) -> tuple[bool | None]:
    """Return the last argument of what takes products or squared differences."""
    return (True if case.terms == "difference" else None,)


def _precision(case: Case) -> Any:
    return np.float64 if case.kind == "float64" else np.float32


def _unit(case: Case) -> float:
    """Return what a stored 1 stands for: int8 rows hold thirtieths."""
    return 1.0 / 30.0 if case.kind == "int8" else 1.0


def _gaussian(rng: np.random.Generator, case: Case) -> Array:
    """Return gaussian rows with the degenerate ones among them: a zero row, a duplicate, one large row."""
    values = rng.standard_normal((case.n, case.d)) / _unit(case)
    if case.n >= 4:
        values[1], values[2], values[3] = 0.0, values[0], 4.0 * values[3]
    return stored(np.clip(values, -127, 127) if case.kind == "int8" else values, case.kind)


def _whole(rng: np.random.Generator, case: Case) -> Array:
    return stored(rng.integers(-3, 4, (case.n, case.d)), case.kind)


def _dot(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    query = rng.standard_normal(case.d).astype(_precision(case))
    ids = rng.integers(0, case.n, case.n + 3) if case.gathered else None
    scale = case.d**-0.5 * _unit(case)
    bias = 0.0 if case.terms in ("plain", "scale") else 1.25
    out = np.empty(case.n + 3 * case.gathered)
    return query, bias, _gaussian(rng, case), *_terms(rng, case), ids, scale, out, *_flag(case)


def _softmax(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    logits = 10.0 * rng.standard_normal(case.n)
    logits[case.n // 2 + 1 :: 3] = -np.inf
    return logits, np.empty(case.n)


def _logsumexp(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    return _softmax(rng, case)[:1]


def _top_k(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    scores = rng.integers(0, max(2, case.n // 3), case.n).astype(np.float64)
    scores[case.n // 2 + 1 :: 5] = -np.inf
    return scores, rng.permutation(case.n) if case.gathered else None, np.full(case.k, -7)


def _weighted_sum(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    ids = rng.integers(0, case.n, case.n + 3) if case.gathered else None
    weights = rng.random(case.n + 3 * case.gathered)
    return weights, _gaussian(rng, case), _terms(rng, case)[0], ids, np.empty(case.d)


def _expand(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Scores with ties among them, some or all of them -inf; one step and two; fewer scores than are to be found."""
    query, bias, rows, row_scale, row_bias, _, scale, *_ = _dot(rng, case)
    scores = rng.integers(0, 5, case.n).astype(np.float64)
    scores[case.n // 2 + 1 :: 3] = -np.inf
    if case.d == 3:
        scores[:] = -np.inf
    value_scale = row_scale if case.terms in ("scale", "both") else None
    if case.terms == "difference":
        scale *= 0.01 * case.d**-0.5
    settings = scale, 0.4, 1 + case.n % 2, -1e-5, 1e-6
    out = np.empty(case.k, np.int64), np.empty(case.k), np.empty_like(query), np.empty(1)
    return (
        query,
        bias,
        rows,
        row_scale,
        row_bias,
        value_scale,
        value_scale is not None and case.n % 3 > 0,
        scores,
        rng.permutation(case.n),
        *settings,
        *out,
        *_flag(case),
    )


def _row_squares(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    return _gaussian(rng, case), np.empty(case.n)


def _drop(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    weights = rng.random((case.n, case.d)).astype(case.kind)
    ids = np.sort(rng.permutation(3 * case.d)[: case.d]).astype(np.int32) if case.gathered else None
    return weights, 0.3, int(rng.integers(2**63)), 2, 5, 7, ids


def _attend_pairs(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Rows of pairs of all lengths: none, all, some; with everything that is optional, or with nothing of it."""
    kind = _precision(case)
    pairs = rng.random((case.b, case.n)) < rng.choice([0.0, 0.1, 0.5, 1.0], (case.b, 1))
    pairs[-1] = True
    indptr = np.concatenate([[0], np.cumsum(pairs.sum(axis=1))])
    indices = np.nonzero(pairs)[1].astype(np.int32)
    bias = np.where(rng.random(len(indices)) < 0.2, -np.inf, rng.standard_normal(len(indices)))
    queries, keys = rng.standard_normal((case.b, case.d)).astype(kind), _gaussian(rng, case)
    values = rng.standard_normal((case.n, 3)).astype(kind)
    some = bias, 1, case.n // 2, case.d**-0.5, 0.3, int(rng.integers(2**63)), 2
    rest = some if case.gathered else (np.empty(0), 0, case.n, case.d**-0.5, 0.0, 0, 0)
    out, weights = np.full((case.b, 3), np.nan, kind), np.zeros(len(indices) if case.gathered else 0, kind)
    return queries, keys, values, indptr, indices, *rest, out, weights, np.full(case.b, np.nan)


def _segments(rng: np.random.Generator, case: Case) -> tuple[Array, Array, Array, Array]:
    """Segments of all lengths over rows, an entry several times among them, and room for the output."""
    counts = np.append(rng.integers(0, 4, case.b), [0, case.n])
    indptr = np.append(0, np.cumsum(counts))
    rows = _gaussian(rng, case)
    rows[-1] = rows[0]
    return indptr, rng.integers(0, case.n, indptr[-1]), rows, np.full((len(counts), case.d), np.nan, rows.dtype)


def _segment_sum(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    indptr, sources, rows, out = _segments(rng, case)
    return indptr, sources, rng.standard_normal(len(sources)), rows, out


def _segment_max(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    indptr, sources, rows, out = _segments(rng, case)
    return indptr, sources, rows, out, np.full(len(sources), np.nan)


def _attend(rng: np.random.Generator, case: Case, lanes: int) -> tuple[Any, ...]:
    """Two problems of two heads over one block of keys; or, `gathered`, a part of it with all there is."""
    queries, heads, kind = 37 if case.n < 50 else 3, 2, _precision(case)
    query = rng.standard_normal((2, queries, heads * case.d)).astype(kind)
    keys = rng.standard_normal((1, case.n, heads * case.d)).astype(kind)
    values = rng.standard_normal((2, case.n, heads * case.b)).astype(kind)
    if case.n >= 4:
        keys[0, 1], keys[0, 2] = 0.0, keys[0, 0]
    which = np.array([[0, 0, 1, 1], [1, 0, 0, 0]])
    allowed, added = np.empty((0, 0, 0), np.bool_), np.empty((0, 0, 0), kind)
    left, right, rate, first, weights = 2 * case.n, 2 * case.n, 0.0, 0, np.empty((0, 0, 0, 0), kind)
    stop = 2 * heads * -(-queries // lanes)
    if case.gathered:
        left, right, rate, first, stop = 2 + case.n // 2, 1 + case.n // 3, 0.3, 1, stop - 1
        shape = (2, queries if case.d % 2 else 1, case.n if case.d % 3 else 1)
        if case.d % 4 < 2:
            allowed = rng.random(shape) < 0.7
        else:
            added = np.where(rng.random(shape) < 0.7, rng.standard_normal(shape), -np.inf).astype(kind)
        weights = np.zeros((2, heads, queries, case.n), kind)
    results = np.zeros((2, queries, heads * case.b), kind), np.zeros((2, heads, queries)), weights
    settings = heads, case.d**-0.5, left, right, allowed, added, 5 if case.n < 50 else 300, rate, 7, first, stop
    return query, keys, values, which, *settings, *results


def _maxsim(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """A few query tokens, or so many that they are multiplied as tiles; the largest product, or `gathered`, soft."""
    many = (case.b, 10, 37)[case.d % 3]
    query_tokens = (rng.standard_normal((many, case.d)) * _unit(case)).astype(_precision(case))
    cuts = np.sort(rng.integers(0, case.n + 1, case.n // 4))
    cuts = np.concatenate([[0], cuts, [case.n]])  # some documents have no tokens
    scale = (0.5 + rng.random(case.n)).astype(np.float32) if case.kind == "int8" else None
    inputs = query_tokens, rng.random(many), _gaussian(rng, case), scale, cuts[:-1], np.diff(cuts)
    return *inputs, 0.7 if case.gathered else 0.0, np.empty(len(cuts) - 1)


def _search(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    queries = rng.integers(-3, 4, (case.b, case.d)).astype(_precision(case))
    bias = rng.integers(-8, 8, case.b).astype(np.float64) if case.terms in ("bias", "both") else np.zeros(case.b)
    if case.terms == "difference":
        bias = 2.0 ** rng.integers(-2, 2, case.b)
    return queries, bias, _whole(rng, case), *_terms(rng, case)


def _ranked(case: Case) -> tuple[Array, Array]:
    return np.full((case.b, case.k), -7), np.full((case.b, case.k), np.nan)


def _rerank(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    ids = np.stack([rng.permutation(case.n) for _ in range(case.b)])
    counts = rng.integers(0, case.n + 1, case.b)
    counts[0] = case.n
    scale = 2.0**-3
    return *_search(rng, case), ids, counts, scale, *_ranked(case), np.full((case.b, case.k), np.nan)


def _points(rng: np.random.Generator, case: Case, count: int) -> tuple[Array, Array]:
    """Return points of the unit ball, some of them near its boundary, and 1 / (1 - |x|^2) of each."""
    values = rng.standard_normal((count, case.d))
    radius = 1.0 - 10.0 ** rng.uniform(-6.0, -0.1, count)
    points = (values / np.linalg.norm(values, axis=1, keepdims=True) * radius[:, None]).astype(_precision(case))
    return points, 1.0 / (1.0 - (points.astype(np.float64) ** 2).sum(axis=1))


def _poincare(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Rows with the centre, a duplicate and the query itself among them."""
    rows, _ = _points(rng, case, case.n)
    queries, factors = _points(rng, case, 1)
    if case.n >= 4:
        rows[1], rows[2], rows[3] = 0.0, rows[0], queries[0]
    scales = 1.0 / (1.0 - (rows.astype(np.float64) ** 2).sum(axis=1))
    ids = rng.integers(0, case.n, case.n + 3) if case.gathered else None
    return queries[0], factors[0], rows, scales, ids, 0.7, np.empty(case.n + 3 * case.gathered)


def _rerank_poincare(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    ids = np.stack([rng.permutation(case.n) for _ in range(case.b)])
    counts = rng.integers(0, case.n + 1, case.b)
    counts[0] = case.n
    inputs = *_points(rng, case, case.b), *_points(rng, case, case.n), ids, counts, 0.7
    return *inputs, *_ranked(case), np.full((case.b, case.k), np.nan)


def _exact_top_k(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    ids = np.sort(rng.permutation(case.n)[: case.n // 2 + 1]) if case.gathered else None
    return *_search(rng, case), ids, 2.0**-3, *_ranked(case), *_flag(case)


def _exact_top_k_each(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Lists of all lengths: none of the rows, all of them, one, half."""
    lengths = [(0, case.n, 1, case.n // 2)[(case.n + b) % 4] for b in range(case.b)]
    ids = np.concatenate([np.sort(rng.permutation(case.n)[:length]) for length in lengths])
    return *_search(rng, case), ids, np.concatenate([[0], np.cumsum(lengths)]), 2.0**-3, *_ranked(case), *_flag(case)


def _mmr(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Fractions whose products and values are exact: ties are true ties."""
    count = min(case.n, 100)
    rows = rng.integers(-3, 4, (count, case.d)) * 2.0 ** -np.ceil(np.log2(3.0 * case.d**0.5))
    if count >= 4:
        rows[1], rows[2] = 0.0, rows[0]
    relevance = np.sort(rng.integers(0, 33, count) / 32.0)[::-1].copy()
    factors = 2.0 ** rng.integers(-2, 3, count) if case.gathered else None
    order, likest = np.full(min(case.k, count), -7), np.full(count, -7)
    rows = np.ascontiguousarray(rows, _precision(case))
    return relevance, rows, factors, 0.5, order, np.full(count, -7.0), likest, np.full(count, -7.0)


def _diffuse(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    rows = rng.standard_normal((min(case.n, 100), case.d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if len(rows) >= 4:
        rows[1], rows[2] = 0.0, rows[0]
    factors = rng.random(len(rows)) if case.gathered else None
    return rows.astype(_precision(case)), factors, 3.0, rng.standard_normal(len(rows)), np.full(len(rows), -7.0)


def _true_rows(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Few or half of the rows, the first and the last among them."""
    mask = (rng.random(case.n) < (0.5 if case.gathered else 0.02)).astype(np.uint8)
    mask[:1] = mask[-1:] = 1
    return mask, mask[: case.n // 8 * 8].view(np.uint64), np.full(mask.sum() + 1, -7)


def _list_levels(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Records of 0 to 3 lists, whole, or with the last one cut short."""
    levels = rng.integers(0, 4, case.n) * (rng.random(case.n) < 0.3)
    levels[-1] = 1
    unit = case.d % 7 + 2
    records = [np.full(1 + level * unit, 4 * level * unit, np.uint32) for level in levels]
    words = np.concatenate(records)
    return words[:-1] if case.gathered else words, unit, np.full(case.n, -7)


def _project(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    directions = (rng.standard_normal((case.b, case.d)) * case.d**-0.5).astype(_precision(case))
    return _gaussian(rng, case), 2.0 * rng.random(case.n), directions, np.empty((case.n, case.b), _precision(case))


def _elu_features(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    return 10.0 * _gaussian(rng, case), 0.7, np.empty((case.n, case.d))


def _linear_attention(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """More queries than keys and fewer; features far apart; the first key attended by none, once all of them."""
    features, queries = case.d % 23 + 1, (case.n + 2) % 13 + 1
    spread = 10.0 ** rng.integers(-1, 3)
    query_logs, key_logs = (spread * rng.standard_normal((count, features)) for count in (queries, case.n))
    attends = rng.random(case.n) < 0.7
    attends[0] = False
    value = rng.standard_normal((case.n, case.b)).astype(case.kind)
    return query_logs, key_logs, value, attends, case.gathered, np.empty((queries, case.b)), np.empty(queries)


def _gatv2(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    edges = _gaussian(rng, case) if case.gathered else None
    query, a = (rng.standard_normal(case.d).astype(_precision(case)) for _ in range(2))
    return query, _gaussian(rng, case), edges, a, 0.2, case.d**-0.5, np.empty(case.n)


def _turned_dots(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Few distances and more than there are keys, some of them of no pair; heads of few columns and of many."""
    kind, half, heads = _precision(case), case.d % 40 + 1, (1, 3, 8)[case.n % 3]
    queries, count = (case.n + 2) % 13 + 1, 3 if case.d % 2 else case.n + 5
    query, key = (rng.standard_normal((rows, heads * 2 * half)).astype(kind) for rows in (queries, case.n))
    angles = rng.standard_normal((count, half))
    turns = rng.integers(-1, count, (queries, case.n))
    return (
        query,
        key,
        heads,
        np.cos(angles),
        np.sin(angles),
        turns,
        half**-0.5,
        1.0,
        np.empty((heads, *turns.shape), kind),
    )


def _group_edges(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Fewer nodes than edges, or more; the last ones without edges."""
    nodes = case.d + 2
    source, target = rng.integers(0, case.d, (2, case.n))
    return source, target, np.full(nodes + 1, -7), np.full(case.n, -7), np.full(case.n, -7)


def _in_edges(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Edges between a few nodes with loops, parallel ones and one of 600; how many there are and the added loops."""
    nodes = 7
    source, target, indptr, sources, numbers = _group_edges(rng, case._replace(d=nodes - 2))
    if case.n > 100:
        target[: case.n // 2] = 3
    group_edges(source, target, indptr, sources, numbers)
    loops = case.n if case.gathered else -1
    rows = case.n + nodes * case.gathered
    log_weight = rng.standard_normal(rows) if case.d % 2 else np.empty(0)
    return nodes, (indptr, sources, numbers, loops), rows, log_weight


def _edge_logits(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    nodes, (indptr, sources, _, _), _, _ = _in_edges(rng, case)
    queries, keys = rng.standard_normal((2, nodes, case.d)).astype(_precision(case))
    return queries, keys, indptr, sources.astype(np.int32), case.d**-0.5, np.zeros(case.n)


def _gat_forward(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    """Heads below, at and above a multiple of HEADS; all nodes, or some."""
    kind, width, heads = _precision(case), case.d % 40 + 1, (1, 3, 8, 9, 16)[case.n % 5]
    nodes, edges, rows, log_weight = _in_edges(rng, case)
    padded = -(-heads // HEADS) * HEADS
    projected = rng.standard_normal((nodes, heads * width + 2 * padded)).astype(kind)
    along = rng.standard_normal((rows, padded)).astype(kind) if case.d % 3 else np.empty((0, 0), kind)
    part = (1, nodes - 1) if case.d % 2 else (0, nodes)
    out, coefficients = np.zeros((nodes, heads * width), kind), np.zeros((rows, heads), kind)
    bias = rng.standard_normal(heads * width).astype(kind)
    return *edges, projected, along, log_weight, 0.2, bias, *part, out, coefficients


def _gatv2_forward(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    kind, width, heads = _precision(case), case.d % 40 + 1, (1, 3, 8, 9, 16)[case.n % 5]
    nodes, edges, rows, log_weight = _in_edges(rng, case)
    left, right = rng.standard_normal((2, nodes, heads * width)).astype(kind)
    size = 2 if case.d % 3 else 0
    attributes = rng.standard_normal((rows if size else 0, size)).astype(kind)
    matrix, a = (rng.standard_normal(shape).astype(kind) for shape in ((size, heads * width), heads * width))
    a /= kind(width**0.5)
    part = (1, nodes - 1) if case.d % 2 else (0, nodes)
    out, coefficients = np.zeros((nodes, heads * width), kind), np.zeros((rows, heads), kind)
    bias = rng.standard_normal(heads * width).astype(kind)
    return *edges, left, right, attributes, matrix, log_weight, a, 0.2, bias, *part, out, coefficients


def _to_int8(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
    return _gaussian(rng, case), np.full((case.n, case.d), -7, np.int8), np.empty(case.n)


# ---- the table


@dataclass(frozen=True)
class Kernel:
    """A kernel, its truth, and what its inputs can vary in."""

    kernel: Callable[..., Any]
    reference: Callable[..., Any]
    inputs: Callable[[np.random.Generator, Case], tuple[Any, ...]]
    kinds: tuple[str, ...] = KINDS
    terms: bool = False  # row_scale and row_bias
    gathers: bool = False  # ids given or None
    ranks: bool = False  # k
    difference: bool = False  # squared differences instead of products
    float32: bool = False  # products of gaussians in single precision, the others are exact or in double


KERNELS = {
    "dot": Kernel(kernels.dot, dot, _dot, terms=True, gathers=True, difference=True, float32=True),
    "softmax": Kernel(kernels.softmax, softmax, _softmax, kinds=("float64",)),
    "logsumexp": Kernel(kernels.logsumexp, logsumexp, _logsumexp, kinds=("float64",)),
    "top_k": Kernel(kernels.top_k, top_k, _top_k, kinds=("float64",), gathers=True, ranks=True),
    "weighted_sum": Kernel(kernels.weighted_sum, weighted_sum, _weighted_sum, terms=True, gathers=True),
    "expand": Kernel(kernels.expand, expand, _expand, terms=True, difference=True, float32=True),
    "row_squares": Kernel(kernels.row_squares, row_squares, _row_squares),
    "drop": Kernel(kernels.drop, drop, _drop, kinds=("float32", "float64"), gathers=True, float32=True),
    "attend_pairs": Kernel(
        kernels.attend_pairs, attend_pairs, _attend_pairs, kinds=("float32", "float64"), gathers=True, float32=True
    ),
    "segment_sum": Kernel(kernels.segment_sum, segment_sum, _segment_sum, kinds=("float32", "float64"), float32=True),
    "segment_max": Kernel(kernels.segment_max, segment_max, _segment_max, kinds=("float32", "float64")),
    "attend_few": Kernel(
        kernels.attend_few,
        partial(attend, 1),
        partial(_attend, lanes=1),
        kinds=("float32", "float64"),
        gathers=True,
        float32=True,
    ),
    "attend_many": Kernel(
        kernels.attend_many,
        partial(attend, LANES),
        partial(_attend, lanes=LANES),
        kinds=("float32", "float64"),
        gathers=True,
        float32=True,
    ),
    "maxsim": Kernel(kernels.maxsim, maxsim, _maxsim, gathers=True, float32=True),
    "rerank": Kernel(kernels.rerank, rerank, _rerank, terms=True, ranks=True),
    "exact_top_k": Kernel(
        kernels.exact_top_k, exact_top_k, _exact_top_k, terms=True, gathers=True, ranks=True, difference=True
    ),
    "mmr": Kernel(kernels.mmr, mmr, _mmr, kinds=("float32", "float64"), gathers=True, ranks=True, float32=True),
    "diffuse": Kernel(kernels.diffuse, diffuse, _diffuse, kinds=("float32", "float64"), gathers=True, float32=True),
    "true_rows": Kernel(kernels.true_rows, true_rows, _true_rows, kinds=("float32",), gathers=True),
    "list_levels": Kernel(kernels.list_levels, list_levels, _list_levels, kinds=("float32",), gathers=True),
    "project": Kernel(kernels.project, project, _project, kinds=("float32", "float64"), float32=True),
    "elu_features": Kernel(kernels.elu_features, elu_features, _elu_features, kinds=("float32", "float64")),
    "linear_attention": Kernel(
        kernels.linear_attention, linear_attention, _linear_attention, kinds=("float32", "float64"), gathers=True
    ),
    "gatv2": Kernel(kernels.gatv2, gatv2, _gatv2, kinds=("float32", "float64"), gathers=True, float32=True),
    "turned_dots": Kernel(kernels.turned_dots, turned_dots, _turned_dots, kinds=("float32", "float64"), float32=True),
    "group_edges": Kernel(kernels.group_edges, group_edges, _group_edges, kinds=("float64",)),
    "edge_logits": Kernel(kernels.edge_logits, edge_logits, _edge_logits, kinds=("float32", "float64"), float32=True),
    "gat_forward": Kernel(
        kernels.gat_forward, gat_forward, _gat_forward, kinds=("float32", "float64"), gathers=True, float32=True
    ),
    "gatv2_forward": Kernel(
        kernels.gatv2_forward, gatv2_forward, _gatv2_forward, kinds=("float32", "float64"), gathers=True, float32=True
    ),
    "to_int8": Kernel(kernels.to_int8, to_int8, _to_int8, kinds=("float32",)),
    "exact_top_k_each": Kernel(
        kernels.exact_top_k_each, exact_top_k_each, _exact_top_k_each, terms=True, ranks=True, difference=True
    ),
    "poincare": Kernel(kernels.poincare, poincare, _poincare, kinds=("float32", "float64"), gathers=True, float32=True),
    "rerank_poincare": Kernel(
        kernels.rerank_poincare,
        rerank_poincare,
        _rerank_poincare,
        kinds=("float32",),
        ranks=True,
        float32=True,
    ),
}

# Every pairing of dtype and terms would be a compilation of its own: the metrics' three for float32, all terms for
# the quantised rows that carry scales, none for float64.
_TERMS = {"float32": ("plain", "scale", "bias"), "float64": ("plain",), "float16": ("both",), "int8": ("both",)}


def variants(row: Kernel) -> Iterator[Case]:
    """Yield a case for each code path of a kernel, in its default shape."""
    for kind in row.kinds:
        differs = ("difference",) if row.difference and kind.startswith("float") and kind != "float16" else ()
        for terms in (*_TERMS[kind], *differs) if row.terms else ("plain",):
            for gathered in (False, True) if row.gathers else (False,):
                yield Case(kind=kind, terms=terms, gathered=gathered)
