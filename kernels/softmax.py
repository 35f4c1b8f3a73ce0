"""Softmax and log-sum-exp in float64, with exact zeros for masked (-inf) logits."""

import math
from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit, strict_jit

# exp(x) = 2^n * exp(r), n = floor(x / ln 2 + 1/2), |r| <= ln(2) / 2; ln 2 in two parts keeps r exact.
_LOG2E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


@strict_jit
def exp_nonpositive(x: Any) -> Any:
    """Return exp(x) for x <= 0, branch-free so that loops over it vectorise; below -708 exactly 0.

    Taylor polynomial of degree 10 on |r| <= ln(2)/2 (relative error below 3e-13).
    """
    y = max(x, -708.0)
    n = np.floor(y * _LOG2E + 0.5)
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    p = 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = np.int64((np.int64(np.int32(n)) + np.int64(1023)) << np.int64(52)).view(np.float64)
    return p * power if x >= -708.0 else 0.0


@jit
def maximum(logits: Any) -> Any:
    """Return max_j logits[j], or -inf where there is none."""
    m = -np.inf
    for j in range(logits.shape[0]):
        m = max(m, logits[j])
    return m


@strict_jit
def softmax(logits: Any, out: Any) -> Any:
    """Write out[j] = exp(logits[j] - m) / sum_i exp(logits[i] - m), m = max(logits); return the log-sum-exp.

    Parameters
    ----------
    logits : (n,) float64, finite or -inf
    out : (n,) float64, may be `logits`

    Notes
    -----
    A logit of -inf gives exactly 0; where all are -inf, all weights are 0 and the log-sum-exp is -inf.
    """
    n = logits.shape[0]
    m = maximum(logits)
    if m == -np.inf:
        for j in range(n):
            out[j] = 0.0
        return m
    for j in range(n):
        out[j] = exp_nonpositive(logits[j] - m)
    total = 0.0
    for j in range(n):
        total += out[j]
    inverse = 1.0 / total
    for j in range(n):
        out[j] *= inverse
    return m + math.log(total)


@strict_jit
def logsumexp(logits: Any) -> Any:
    """Return log(sum_j exp(logits[j])), -inf where all logits are -inf.

    Parameters
    ----------
    logits : (n,) float64, finite or -inf
    """
    m = maximum(logits)
    if m == -np.inf:
        return m
    total = 0.0
    for j in range(logits.shape[0]):
        total += exp_nonpositive(logits[j] - m)
    return m + math.log(total)
