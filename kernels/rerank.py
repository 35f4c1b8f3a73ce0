"""The fused rerank: candidate ids -> logits -> softmax weights -> the k best, one call for a batch of queries."""

from typing import Any

import numpy as np

from attnbridge.kernels._jit import jit
from attnbridge.kernels.dot import dot
from attnbridge.kernels.softmax import exp_nonpositive
from attnbridge.kernels.topk import top_k

# Rows of one block of the exact scan: a block stays in the second-level cache while every query passes over it.
BLOCK = 256

# With a list for each query a block is a range of rows: this many bytes of them, or as many as a query picks a
# few passes' worth from.
BLOCK_BYTES = 1 << 19
ROWS_A_VISIT = 32


@jit
def weigh_best(scores: Any, ids: Any, positions: Any, logits: Any, weights: Any) -> Any:
    """Write the positions of the best scores, ties by the smaller id, these, and their softmax among all scores."""
    found = top_k(scores, ids, positions)
    # The denominator over the best logit, which top_k has found already.
    total = 0.0
    if found > 0:
        best = scores[positions[0]]
        for i in range(scores.shape[0]):
            total += exp_nonpositive(scores[i] - best)
    for i in range(positions.shape[0]):
        if i < found:
            logit = scores[positions[i]]
            logits[i] = logit
            weights[i] = exp_nonpositive(logit - scores[positions[0]]) / total
        else:
            positions[i] = -1
            logits[i] = -np.inf
            weights[i] = 0.0


@jit
def rerank(
    queries: Any,
    query_bias: Any,
    rows: Any,
    row_scale: Any,
    row_bias: Any,
    ids: Any,
    counts: Any,
    scale: Any,
    positions: Any,
    logits: Any,
    weights: Any,
) -> Any:
    """Rank each query's candidates by their logits and weigh the best ones among all of them.

    logits_i = (row_scale[r] * query . rows[r] + row_bias[r] + query_bias) * scale, r = ids[i];
    weights = softmax over all candidates, reported for the k best.

    Parameters
    ----------
    queries : (b, d) float32
    query_bias : (b,) float64
    rows : (n, d) float32, int8 or uint16 (bits of float16)
    row_scale, row_bias : (n,) float64 or None (1 and 0)
    ids : (b, m) int64, the first counts[i] of row i are candidates
    counts : (b,) int64
    scale : float
    positions : (b, k) int64, filled with positions in `ids`, best first, then -1; ties by the smaller id
    logits, weights : (b, k) float64
    """
    buffer = np.empty(ids.shape[1], np.float64)
    for b in range(queries.shape[0]):
        count = counts[b]
        candidates = ids[b, :count]
        scores = buffer[:count]
        dot(queries[b], query_bias[b], rows, row_scale, row_bias, candidates, scale, scores)
        weigh_best(scores, candidates, positions[b], logits[b], weights[b])


@jit
def _keep_best(scores: Any, positions: Any, logits: Any) -> Any:
    """Write the positions of the best scores and these, best first, then -1 and -inf."""
    found = top_k(scores, None, positions)
    for i in range(positions.shape[0]):
        if i < found:
            logits[i] = scores[positions[i]]
        else:
            positions[i] = -1
            logits[i] = -np.inf


@jit
def exact_top_k(
    queries: Any,
    query_bias: Any,
    rows: Any,
    row_scale: Any,
    row_bias: Any,
    ids: Any,
    scale: Any,
    positions: Any,
    logits: Any,
    difference: Any = None,
    work: Any = None,
) -> Any:
    """Find each query's k best among all the rows named in `ids` (or all rows), by reading every one.

    Parameters
    ----------
    queries : (b, d) float32
    query_bias : (b,) float64
    rows : (n, d) float32, int8 or uint16 (bits of float16)
    row_scale, row_bias : (n,) float64 or None (1 and 0)
    ids : (m,) int64 ascending, or None for all rows
    scale : float
    positions : (b, k) int64, filled with positions in `ids` (row numbers without), best first, then -1
    logits : (b, k) float64
    difference : True or None
        As for `dot`.
    work : (b, m) float64, or None
        Working memory; None allocates it. The caller bounds b.
    """
    count = rows.shape[0]
    if ids is not None:
        count = ids.shape[0]
    scores = np.empty((queries.shape[0], count), np.float64) if work is None else work
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        for b in range(queries.shape[0]):
            out = scores[b, start:stop]
            if ids is not None:
                dot(queries[b], query_bias[b], rows, row_scale, row_bias, ids[start:stop], scale, out, difference)
            else:
                scales = None if row_scale is None else row_scale[start:stop]
                biases = None if row_bias is None else row_bias[start:stop]
                dot(queries[b], query_bias[b], rows[start:stop], scales, biases, None, scale, out, difference)
    for b in range(queries.shape[0]):
        _keep_best(scores[b], positions[b], logits[b])


@jit
def exact_top_k_each(
    queries: Any,
    query_bias: Any,
    rows: Any,
    row_scale: Any,
    row_bias: Any,
    ids: Any,
    starts: Any,
    scale: Any,
    positions: Any,
    logits: Any,
    difference: Any = None,
    work: Any = None,
) -> Any:
    """Find each query's k best among the rows of its own list; to the bit what `exact_top_k` finds for it alone.

    Parameters
    ----------
    queries : (b, d) float32
    query_bias : (b,) float64
    rows : (n, d) float32, int8 or uint16 (bits of float16)
    row_scale, row_bias : (n,) float64 or None (1 and 0)
    ids : (m,) int64, the lists one after the other, each ascending
    starts : (b + 1,) int64, query i reads ids[starts[i] : starts[i + 1]]
    scale : float
    positions : (b, k) int64, filled with positions in the query's list, best first, then -1
    logits : (b, k) float64
    difference : True or None
        As for `dot`.
    work : (m,) float64, or None
        Working memory; None allocates it. The caller bounds m.

    Notes
    -----
    Goes through the rows range by range, every query taking those of its list in the range, so that rows in the
    cache serve all queries.
    """
    n = rows.shape[0]
    scores = np.empty(ids.shape[0], np.float64) if work is None else work
    block = max(
        BLOCK_BYTES // max(1, rows.shape[1] * rows.itemsize),
        ROWS_A_VISIT * n * queries.shape[0] // max(1, ids.shape[0]),
        1,
    )
    ends = starts[:-1].copy()
    for stop in range(block, n + block, block):
        for b in range(queries.shape[0]):
            start = ends[b]
            end = start
            while end < starts[b + 1] and ids[end] < stop:
                end += 1
            ends[b] = end
            if end > start:
                own = ids[start:end]
                out = scores[start:end]
                dot(queries[b], query_bias[b], rows, row_scale, row_bias, own, scale, out, difference)
    for b in range(queries.shape[0]):
        _keep_best(scores[starts[b] : starts[b + 1]], positions[b], logits[b])
