"""MaxSim, the late interaction of ColBERT: how well each query token finds its match in a document; hard and soft."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import load
from attnbridge.kernels.softmax import exp_nonpositive


@jit
def _eight_dots(pair: Any, query_tokens: Any, a: Any, b: Any, c: Any, e: Any) -> Any:
    """Return pair[0] . query_tokens[i], then pair[1] . query_tokens[i], for i in (a, b, c, e).

    Six streams of reads for eight products: half as many reads a product as two passes of four.
    """
    zero = query_tokens.dtype.type(0)
    s0 = zero
    s1 = zero
    s2 = zero
    s3 = zero
    t0 = zero
    t1 = zero
    t2 = zero
    t3 = zero
    for j in range(query_tokens.shape[1]):
        x = pair[0, j]
        y = pair[1, j]
        qa = query_tokens[a, j]
        qb = query_tokens[b, j]
        qc = query_tokens[c, j]
        qe = query_tokens[e, j]
        s0 += x * qa
        s1 += x * qb
        s2 += x * qc
        s3 += x * qe
        t0 += y * qa
        t1 += y * qb
        t2 += y * qc
        t3 += y * qe
    return s0, s1, s2, s3, t0, t1, t2, t3


@jit
def maxsim(query_tokens: Any, token_weights: Any, tokens: Any, starts: Any, lengths: Any, out: Any) -> Any:
    """Write out[i] = sum_a token_weights[a] * max_b query_tokens[a] . tokens[b], b over document i's tokens.

    Khattab and Zaharia 2020 (ColBERT), equation 3, with a weight for each query token.

    Parameters
    ----------
    query_tokens : (m, d) float32
    token_weights : (m,) float64
    tokens : (t, d) float32, int8 or uint16 (bits of float16), all documents' tokens in a row
    starts, lengths : (n,) int64, document i's tokens are tokens[starts[i] : starts[i] + lengths[i]]
    out : (n,) float64; a document without tokens gets NaN
    """
    m, d = query_tokens.shape
    pair = np.empty((2, d), query_tokens.dtype)  # two document tokens at a time, as numbers
    best = np.empty(m, query_tokens.dtype)
    for i in range(starts.shape[0]):
        if lengths[i] == 0:
            out[i] = np.nan
            continue
        best[:] = -np.inf
        end = starts[i] + lengths[i]
        for row in range(starts[i], end, 2):
            other = min(row + 1, end - 1)
            for j in range(d):
                pair[0, j] = load(tokens[row, j])
                pair[1, j] = load(tokens[other, j])
            for a in range(0, m, 4):
                a1 = min(a + 1, m - 1)
                a2 = min(a + 2, m - 1)
                a3 = min(a + 3, m - 1)
                s0, s1, s2, s3, t0, t1, t2, t3 = _eight_dots(pair, query_tokens, a, a1, a2, a3)
                best[a] = max(best[a], s0, t0)
                best[a1] = max(best[a1], s1, t1)
                best[a2] = max(best[a2], s2, t2)
                best[a3] = max(best[a3], s3, t3)
        total = 0.0
        for a in range(m):
            total += token_weights[a] * np.float64(best[a])
        out[i] = total


@jit
def soft_maxsim(
    query_tokens: Any, token_weights: Any, tokens: Any, starts: Any, lengths: Any, temperature: Any, out: Any
) -> Any:
    """Write out[i] = sum_a token_weights[a] * sum_b softmax_b(s[a, b] / temperature) * s[a, b].

    s[a, b] = query_tokens[a] . tokens[b]. It is `maxsim` with the softmax-weighted mean of a query token's products in
    place of the largest: never above it, equal to it in the limit of temperature 0, and the same for a document whose
    tokens all come twice (no bias by length).

    Parameters
    ----------
    query_tokens : (m, d) float32
    token_weights : (m,) float64
    tokens : (t, d) float32, int8 or uint16 (bits of float16), all documents' tokens in a row
    starts, lengths : (n,) int64, document i's tokens are tokens[starts[i] : starts[i] + lengths[i]]
    temperature : float
    out : (n,) float64; a document without tokens gets NaN
    """
    m, d = query_tokens.shape
    longest = 1
    for i in range(lengths.shape[0]):
        longest = max(longest, lengths[i])
    pair = np.empty((2, d), query_tokens.dtype)
    products = np.empty((m, longest), query_tokens.dtype)
    for i in range(starts.shape[0]):
        count = lengths[i]
        if count == 0:
            out[i] = np.nan
            continue
        for b in range(0, count, 2):
            other = min(b + 1, count - 1)
            for j in range(d):
                pair[0, j] = load(tokens[starts[i] + b, j])
                pair[1, j] = load(tokens[starts[i] + other, j])
            for a in range(0, m, 4):
                a1 = min(a + 1, m - 1)
                a2 = min(a + 2, m - 1)
                a3 = min(a + 3, m - 1)
                s0, s1, s2, s3, t0, t1, t2, t3 = _eight_dots(pair, query_tokens, a, a1, a2, a3)
                products[a, b], products[a, other] = s0, t0
                products[a1, b], products[a1, other] = s1, t1
                products[a2, b], products[a2, other] = s2, t2
                products[a3, b], products[a3, other] = s3, t3
        total = 0.0
        for a in range(m):
            best = products[a, 0]
            for b in range(1, count):
                best = max(best, products[a, b])
            weight = 0.0
            below = 0.0
            for b in range(count):
                gap = np.float64(products[a, b]) - np.float64(best)
                share = exp_nonpositive(gap / temperature)
                weight += share
                below += share * gap
            total += token_weights[a] * (np.float64(best) + below / weight)
        out[i] = total
