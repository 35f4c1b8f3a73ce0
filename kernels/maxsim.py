"""MaxSim, the late interaction of ColBERT: how well each query token finds its match in a document."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import four_dots, load


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
    token = np.empty(d, query_tokens.dtype)
    best = np.empty(m, query_tokens.dtype)
    for i in range(starts.shape[0]):
        if lengths[i] == 0:
            out[i] = np.nan
            continue
        best[:] = -np.inf
        for row in range(starts[i], starts[i] + lengths[i]):
            for j in range(d):
                token[j] = load(tokens[row, j])
            for a in range(0, m, 4):
                a1 = min(a + 1, m - 1)
                a2 = min(a + 2, m - 1)
                a3 = min(a + 3, m - 1)
                s0, s1, s2, s3 = four_dots(token, query_tokens, a, a1, a2, a3)
                best[a] = max(best[a], s0)
                best[a1] = max(best[a1], s1)
                best[a2] = max(best[a2], s2)
                best[a3] = max(best[a3], s3)
        total = 0.0
        for a in range(m):
            total += token_weights[a] * np.float64(best[a])
        out[i] = total
