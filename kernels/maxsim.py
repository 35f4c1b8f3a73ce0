"""MaxSim, the late interaction of ColBERT: how well each query token finds its match in a document; hard and soft.

A document's tokens are read in blocks and multiplied with all query tokens at a time in vector registers (tile.py). A
product is one running sum over the dimensions: it has the same bits wherever its tokens stand, and in any company.
"""

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import load
from attnbridge.kernels.tile import LANES, exp_of, row_dots, tile_product

# Document tokens at a time.
BLOCK = 64

# Up to so many query tokens are multiplied one by one: a tile of LANES would be empty for the most part.
FEW = 8

# 1 / temperature, so that it is finite in float32.
_STEEPEST = 1e37


@jit
def _converted(tokens: Any, first: Any, count: Any, scratch: Any) -> Any:
    """Write tokens[first : first + count] as numbers into `scratch`, and return it and where they start in it."""
    for row in range(count):
        for j in range(tokens.shape[1]):
            scratch[row, j] = load(tokens[first + row, j])
    return scratch, 0


def _numbers(tokens: Any, first: Any, count: Any, scratch: Any) -> Any:
    """Return an array with tokens[first : first + count] in scratch's precision, and where they start in it.

    Tokens that are of that precision are read in place.
    """
    if tokens.dtype == scratch.dtype:
        return tokens, first * tokens.shape[1]
    return _converted(tokens, first, count, scratch)


if not numba.config.DISABLE_JIT:

    @overload(_numbers)
    def _numbers_of(tokens, first, count, scratch):  # type: ignore[no-untyped-def]
        if tokens.dtype == scratch.dtype:
            return lambda tokens, first, count, scratch: (tokens, first * tokens.shape[1])
        return lambda tokens, first, count, scratch: _converted(tokens, first, count, scratch)


@jit
def _columns(query_tokens: Any) -> Any:
    """Return query tokens as columns, LANES of them in each (d, LANES) array; zeros beyond the last."""
    m, d = query_tokens.shape
    columns = np.zeros((-(-m // LANES), d, LANES), query_tokens.dtype)
    for a in range(m):
        for j in range(d):
            columns[a // LANES, j, a % LANES] = query_tokens[a, j]
    return columns


@jit
def _products(query_tokens: Any, columns: Any, group: Any, numbers: Any, start: Any, count: Any, out: Any) -> Any:
    """Write out[r, l] = query_tokens[group LANES + l] . numbers[r], r < count, which start at element `start`."""
    d, first = query_tokens.shape[1], group * LANES
    few = query_tokens.shape[0] - first
    if few > FEW:
        tile_product(numbers, start, d, 1, count, d, columns[group], out, None)
        return
    line = np.empty(BLOCK, query_tokens.dtype)
    for a in range(few):
        row_dots(query_tokens[first + a], numbers, start, d, count, line)
        for r in range(count):
            out[r, a] = line[r]


@jit
def _raise(products: Any, count: Any, best: Any) -> Any:
    """Write best[l] = max(best[l], max_r products[r, l])."""
    for r in range(count):
        for lane in range(LANES):
            best[lane] = max(best[lane], products[r, lane])


@jit
def _soften(products: Any, count: Any, steepness: Any, best: Any, top: Any, part: Any, sums: Any) -> Any:
    """Add products to the sums over what came before them of exp(steepness (s - best)), times 1 and times s - best."""
    for lane in range(LANES):
        top[lane] = best[lane]
    _raise(products, count, top)
    for lane in range(LANES):
        gap = best[lane] - top[lane]
        share = np.float64(exp_of(gap * steepness))
        sums[1, lane] = share * (sums[1, lane] + np.float64(gap) * sums[0, lane])
        sums[0, lane] *= share
        best[lane] = top[lane]
        part[0, lane] = part[1, lane] = 0
    for r in range(count):
        for lane in range(LANES):
            gap = products[r, lane] - best[lane]
            share = exp_of(gap * steepness)
            part[0, lane] += share
            part[1, lane] += share * gap
    for lane in range(LANES):  # in float64, for documents of many tokens
        sums[0, lane] += np.float64(part[0, lane])
        sums[1, lane] += np.float64(part[1, lane])


@jit
def _match(
    query_tokens: Any,
    token_weights: Any,
    tokens: Any,
    token_scale: Any,
    starts: Any,
    lengths: Any,
    temperature: Any,
    out: Any,
) -> Any:
    """Fill `out` with the hard MaxSim where `temperature` is None, else with the soft one."""
    m, d = query_tokens.shape
    kind = query_tokens.dtype.type
    columns, groups = _columns(query_tokens), -(-m // LANES)
    scratch, products = np.empty((BLOCK, d), query_tokens.dtype), np.zeros((BLOCK, LANES), query_tokens.dtype)
    best, sums = np.empty((groups, LANES), query_tokens.dtype), np.empty((groups, 2, LANES))
    top, part = np.empty(LANES, query_tokens.dtype), np.empty((2, LANES), query_tokens.dtype)
    for i in range(starts.shape[0]):
        if lengths[i] == 0:
            out[i] = np.nan
            continue
        best[:] = -np.inf
        sums[:] = 0.0
        for first in range(0, lengths[i], BLOCK):
            count, token = min(BLOCK, lengths[i] - first), starts[i] + first
            numbers, start = _numbers(tokens, token, count, scratch)
            for group in range(groups):
                _products(query_tokens, columns, group, numbers, start, count, products)
                if token_scale is not None:
                    for r in range(count):
                        for lane in range(LANES):
                            products[r, lane] *= kind(token_scale[token + r])
                if temperature is None:
                    _raise(products, count, best[group])
                else:
                    if first == 0:
                        best[group] = products[0]
                    steepness = kind(min(1.0 / temperature, _STEEPEST))
                    _soften(products, count, steepness, best[group], top, part, sums[group])
        total = 0.0
        for a in range(m):
            value = np.float64(best[a // LANES, a % LANES])
            if temperature is not None:
                value += sums[a // LANES, 1, a % LANES] / sums[a // LANES, 0, a % LANES]
            total += token_weights[a] * value
        out[i] = total


@jit
def maxsim(
    query_tokens: Any, token_weights: Any, tokens: Any, token_scale: Any, starts: Any, lengths: Any, out: Any
) -> Any:
    """Write out[i] = sum_a token_weights[a] * max_b query_tokens[a] . tokens[b], b over document i's tokens.

    Khattab and Zaharia 2020 (ColBERT), equation 3, with a weight for each query token.

    Parameters
    ----------
    query_tokens : (m, d) float32 or float64
    token_weights : (m,) float64
    tokens : (t, d) float32, float64, int8 or uint16 (bits of float16), all documents' tokens in a row
    token_scale : (t,) float32 or None (1)
        What each of `tokens` is multiplied with.
    starts, lengths : (n,) int64, document i's tokens are tokens[starts[i] : starts[i] + lengths[i]]
    out : (n,) float64; a document without tokens gets NaN
    """
    _match(query_tokens, token_weights, tokens, token_scale, starts, lengths, None, out)


@jit
def soft_maxsim(
    query_tokens: Any,
    token_weights: Any,
    tokens: Any,
    token_scale: Any,
    starts: Any,
    lengths: Any,
    temperature: Any,
    out: Any,
) -> Any:
    """Write out[i] = sum_a token_weights[a] * sum_b softmax_b(s[a, b] / temperature) * s[a, b].

    s[a, b] = query_tokens[a] . tokens[b]. It is `maxsim` with the softmax-weighted mean of a query token's products in
    place of the largest: never above it, equal to it in the limit of temperature 0, and the same for a document whose
    tokens all come twice (no bias by length).

    Parameters
    ----------
    query_tokens : (m, d) float32 or float64
    token_weights : (m,) float64
    tokens : (t, d) float32, float64, int8 or uint16 (bits of float16), all documents' tokens in a row
    token_scale : (t,) float32 or None (1)
        What each of `tokens` is multiplied with.
    starts, lengths : (n,) int64, document i's tokens are tokens[starts[i] : starts[i] + lengths[i]]
    temperature : float
    out : (n,) float64; a document without tokens gets NaN
    """
    _match(query_tokens, token_weights, tokens, token_scale, starts, lengths, temperature, out)
