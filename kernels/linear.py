"""Attention whose weights are products of positive features, over running sums instead of pairs."""

import math
from typing import Any

import numpy as np

from attnbridge.kernels._jit import strict_jit
from attnbridge.kernels.softmax import exp_nonpositive


@strict_jit
def elu_features(rows: Any, factor: Any, out: Any) -> Any:
    """Write out[i, j] = elu(factor * rows[i, j]) + 1: exp(x) for x < 0, x + 1 otherwise.

    Katharopoulos et al. 2020, equation 7.

    Parameters
    ----------
    rows : (n, d) float32 or float64
    factor : float
    out : (n, d) float64
    """
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            x = np.float64(rows[i, j]) * factor
            out[i, j] = exp_nonpositive(min(x, 0.0)) + max(x, 0.0)


@strict_jit
def _add(key_logs: Any, value: Any, top: Any, mass: Any, sums: Any) -> Any:
    """Add a key to the sums, which are over exp(top): a larger feature raises its top and shrinks what is there."""
    for f in range(key_logs.shape[0]):
        log = key_logs[f]
        share = 1.0
        if log > top[f]:
            shrunk = exp_nonpositive(top[f] - log)
            top[f] = log
            mass[f] *= shrunk
            for c in range(value.shape[0]):
                sums[f, c] *= shrunk
        else:
            share = exp_nonpositive(log - top[f])
        mass[f] += share
        for c in range(value.shape[0]):
            sums[f, c] += share * value[c]


@strict_jit
def linear_attention(
    query_logs: Any, key_logs: Any, value: Any, attends: Any, causal: Any, out: Any, normalizer: Any
) -> Any:
    """Write out[i] = sum_j w_ij value[j] / sum_j w_ij, w_ij = sum_f exp(query_logs[i, f] + key_logs[j, f]).

    Katharopoulos et al. 2020, equations 5 and 6 (causal: 9 to 12), phi(x) = exp(logs): O(l + s), never l x s.

    Parameters
    ----------
    query_logs : (l, m) float64
    key_logs : (s, m) float64
    value : (s, dv) float32 or float64
    attends : (s,) bool
        Keys that are False count for no query.
    causal : bool
        Query i sees keys 0..i.
    out : (l, dv) float64, 0 where nothing is attended
    normalizer : (l,) float64
        Filled with log(sum_j w_ij), -inf where nothing is attended.

    Notes
    -----
    Each feature's sums are kept relative to the largest of its keys so far: whatever the features' sizes, a
    denominator cannot underflow. Compiled strictly: where arrays lie less than a vector loop's stride apart, the
    compiler's check for overlaps takes the scalar loop, and fastmath's sums would depend on the allocator.
    """
    features = key_logs.shape[1]
    top = np.full(features, -np.inf)
    mass = np.zeros(features)
    sums = np.zeros((features, value.shape[1]))
    shares = np.empty(features)
    seen = 0
    for i in range(query_logs.shape[0]):
        last = min(i + 1, key_logs.shape[0]) if causal else key_logs.shape[0]
        while seen < last:
            if attends[seen]:
                _add(key_logs[seen], value[seen], top, mass, sums)
            seen += 1
        peak = -np.inf
        for f in range(features):
            peak = max(peak, query_logs[i, f] + top[f])
        out[i, :] = 0.0
        normalizer[i] = peak
        if peak == -np.inf:
            continue
        for f in range(features):
            shares[f] = exp_nonpositive(query_logs[i, f] + top[f] - peak)
        total = 0.0
        for f in range(features):
            total += shares[f] * mass[f]
        for f in range(features):
            share = shares[f] / total
            for c in range(value.shape[1]):
                out[i, c] += share * sums[f, c]
        normalizer[i] = peak + math.log(total)
