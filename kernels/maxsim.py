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
FEW = 4

# Of 1 / temperature, in float32.
_FLATTEST, _STEEPEST = 1e-37, 1e37

# Of a difference of two products.
_LOWEST = -1e38


@jit
def _converted(tokens: Any, first: Any, count: Any, scratch: Any) -> Any:
    """Write tokens[first : first + count] as numbers into `scratch`, and return it and where they start in it."""
    for row in range(count):
        for j in range(tokens.shape[1]):
            scratch[row, j] = load(tokens[first + row, j])
    return scratch, 0


def numbers(tokens: Any, first: Any, count: Any, scratch: Any) -> Any:
    """Return an array with tokens[first : first + count] in scratch's precision, and where they start in it.

    Tokens that are of that precision are read in place.
    """
    if tokens.dtype == scratch.dtype:
        return tokens, first * tokens.shape[1]
    return _converted(tokens, first, count, scratch)


if not numba.config.DISABLE_JIT:

    @overload(numbers)
    def _numbers(tokens, first, count, scratch):  # type: ignore[no-untyped-def]
        if tokens.dtype == scratch.dtype:
            return lambda tokens, first, count, scratch: (tokens, first * tokens.shape[1])
        return lambda tokens, first, count, scratch: _converted(tokens, first, count, scratch)


@jit
def _products(
    query_tokens: Any, columns: Any, group: Any, tokens: Any, start: Any, count: Any, line: Any, out: Any
) -> Any:
    """Write out[r, l] = query_tokens[group LANES + l] . token r < count; those start at element `start` of `tokens`."""
    d, first = query_tokens.shape[1], group * LANES
    few = query_tokens.shape[0] - first
    if few > FEW:
        tile_product(tokens, start, d, 1, count, d, columns[group], out, None)
        return
    for a in range(few):
        row_dots(query_tokens[first + a], tokens, start, d, count, line)
        for r in range(count):
            out[r, a] = line[r]


@jit
def _reduce(products: Any, count: Any, steepness: Any, best: Any, top: Any, part: Any, sums: Any) -> Any:
    """Go on with the maxima over tokens and, where `steepness` > 0, with the sums that a softmax-weighted mean is of.

    sums[0] = sum_b exp(steepness (s_b - best)); sums[1] is of the same terms, each times s_b - best. Both are adapted
    when `best` rises.
    """
    for lane in range(LANES):
        top[lane] = best[lane]
    for r in range(count):
        for lane in range(LANES):
            top[lane] = max(top[lane], products[r, lane])
    if steepness > 0.0:
        for lane in range(LANES):
            gap = max(best[lane] - top[lane], best.dtype.type(_LOWEST))  # finite: there are no sums yet
            share = np.float64(exp_of(gap * steepness))
            sums[1, lane] = share * (sums[1, lane] + np.float64(gap) * sums[0, lane])
            sums[0, lane] *= share
            part[0, lane] = 0.0
            part[1, lane] = 0.0
        for r in range(count):
            for lane in range(LANES):
                gap = products[r, lane] - top[lane]
                share = exp_of(gap * steepness)
                part[0, lane] += share
                part[1, lane] += share * gap
        for lane in range(LANES):  # in float64, for documents of many tokens
            sums[0, lane] += np.float64(part[0, lane])
            sums[1, lane] += np.float64(part[1, lane])
    for lane in range(LANES):
        best[lane] = top[lane]


@jit
def maxsim(
    query_tokens: Any,
    token_weights: Any,
    tokens: Any,
    token_scale: Any,
    starts: Any,
    lengths: Any,
    temperature: Any,
    out: Any,
) -> Any:
    """Write out[i] = sum_a token_weights[a] * max_b s[a, b], s[a, b] = query_tokens[a] . tokens[b], b of document i.

    Khattab and Zaharia 2020 (ColBERT), equation 3, with a weight for each query token. With a temperature > 0 it is
    soft: sum_b softmax_b(s[a, b] / temperature) * s[a, b] takes the place of the maximum, which it is never above and
    equals in the limit of temperature 0. Soft or hard, a document whose tokens all come twice has the same MaxSim.

    Parameters
    ----------
    query_tokens : (m, d) float32 or float64
    token_weights : (m,) float64
    tokens : (t, d) float32, float64, int8 or uint16 (bits of float16), all documents' tokens in a row
    token_scale : (t,) float32 or None (1)
        What each of `tokens` is multiplied with.
    starts, lengths : (n,) int64, document i's tokens are tokens[starts[i] : starts[i] + lengths[i]]
    temperature : float
        0 for the maximum.
    out : (n,) float64; a document without tokens gets NaN
    """
    m, d = query_tokens.shape
    kind, groups = query_tokens.dtype.type, (m + LANES - 1) // LANES
    steepness = kind(0.0) if temperature == 0.0 else kind(max(_FLATTEST, min(1.0 / temperature, _STEEPEST)))
    columns, line = np.empty((groups, d, LANES), query_tokens.dtype), np.empty(BLOCK, query_tokens.dtype)
    scratch, products = np.empty((BLOCK, d), query_tokens.dtype), np.empty((BLOCK, LANES), query_tokens.dtype)
    best, sums = np.empty((groups, LANES), query_tokens.dtype), np.empty((groups, 2, LANES))
    top, part = np.empty(LANES, query_tokens.dtype), np.empty((2, LANES), query_tokens.dtype)
    for group in range(groups):
        for j in range(d):
            for lane in range(LANES):  # beyond the last, that again
                columns[group, j, lane] = query_tokens[min(group * LANES + lane, m - 1), j]
    for r in range(BLOCK):
        for lane in range(LANES):  # what few query tokens leave alone
            products[r, lane] = 0.0
    for i in range(starts.shape[0]):
        if lengths[i] == 0:
            out[i] = np.nan
            continue
        for group in range(groups):
            for lane in range(LANES):
                best[group, lane] = -np.inf
                sums[group, 0, lane] = 0.0
                sums[group, 1, lane] = 0.0
        for first in range(0, lengths[i], BLOCK):
            count, token = min(BLOCK, lengths[i] - first), starts[i] + first
            block, start = numbers(tokens, token, count, scratch)
            for group in range(groups):
                _products(query_tokens, columns, group, block, start, count, line, products)
                if token_scale is not None:
                    for r in range(count):
                        factor = kind(token_scale[token + r])
                        for lane in range(LANES):
                            products[r, lane] *= factor
                _reduce(products, count, steepness, best[group], top, part, sums[group])
        total = 0.0
        for group in range(groups):
            for lane in range(min(LANES, m - group * LANES)):
                value = np.float64(best[group, lane])
                if steepness > 0.0:
                    value += sums[group, 1, lane] / sums[group, 0, lane]
                total += token_weights[group * LANES + lane] * value
        out[i] = total
