"""Attention of each node of a graph over the edges that lead to it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InputTooLargeError
from attnbridge.graph_operator import GraphInput
from attnbridge.masks import SparseMask
from attnbridge.mechanisms.base import Attention, Batch, with_eps
from attnbridge.mechanisms.listed import ListedRow, PairLogits
from attnbridge.mechanisms.pairs import Pairs, attend_problem, raise_beyond_float64
from attnbridge.mechanisms.row import scale_or_default
from attnbridge.validation import Float, kernel_ready

NAMES = ("X", "X", "X")


def as_star_batch(attention: Attention, graph: GraphInput) -> tuple[Batch, Pairs]:
    """Return one problem whose queries, keys and values are a graph's nodes, and the edges as its pairs.

    The mask lists the sources of each node's edges: in the order of the edges, and of parallel edges each.
    """
    rows, edges, most = graph.X, graph.edges, attention.max_seq_len
    attention._check(rows[:1], rows[:1], rows[:1], None, False, names=NAMES)
    degrees = np.diff(edges.indptr)
    if most is not None and degrees.max() > most:
        node = int(degrees.argmax())
        raise InputTooLargeError(
            f"edge_index must have at most max_seq_len = {most} edges to a node, node {node} has {degrees[node]}; "
            "raise max_seq_len"
        )
    shape = len(rows), len(rows)
    mask = SparseMask._of(edges.indptr, edges.sources.astype(np.int32), shape)
    bias = np.empty(0) if graph.edge_weight is None else np.log(graph.edge_weight)[edges.numbers]
    return replace(Batch.of(rows, rows, rows, names=NAMES), mask=mask), Pairs(mask, bias)


def attend_nodes(
    batch: Batch, pairs: Pairs, scale: float | None, eps: float = 0.0
) -> tuple[Float, Float, npt.NDArray[np.float64]]:
    """Return outputs (n, dv), weights (m,) and log-normalisers (n,) of scaled dot-product attention."""
    assert batch.value is not None
    query, key, value = batch.query[0], batch.key[0], batch.value[0]
    out, weights = np.empty((len(query), value.shape[1]), value.dtype), np.empty(pairs.mask.nnz, value.dtype)
    total, factor = np.empty(len(query)), scale_or_default(query.shape[1], scale)
    if attend_problem(query, key, value, pairs, len(key), factor, 0.0, 0, 0, out, weights, total):
        raise_beyond_float64(batch, False)
    if eps > 0.0:
        factors, total = with_eps(total, eps)
        out *= factors[:, None].astype(out.dtype)
        weights *= np.repeat(factors, np.diff(pairs.mask.indptr)).astype(weights.dtype)
    return out, weights, total


def attend_best_nodes(batch: Batch, pairs: Pairs, top_k: int | None, scale: float | None) -> tuple[Float, Float]:
    """Return outputs (n, dv) and weights (m,) over each node's top_k largest logits, by default ceil(sqrt(degree)).

    Of equal logits those of the first edges count.
    """
    (mask, bias), query, key = pairs, batch.query[0], batch.key[0]
    logits, targets, degrees = np.empty(mask.nnz), mask._rows(), np.diff(mask.indptr)
    factor = scale_or_default(query.shape[1], scale)
    kernels.edge_logits(query, key, kernel_ready(mask.indptr), kernel_ready(mask.indices), factor, logits)
    if len(bias):
        logits += bias
    if not (logits < np.inf).all():
        raise_beyond_float64(batch, False)
    order = np.lexsort((-logits, targets))
    kept = np.ceil(np.sqrt(degrees)).astype(np.int64) if top_k is None else np.full(len(degrees), top_k)
    chosen = np.zeros(mask.nnz, np.bool_)
    chosen[order] = np.arange(mask.nnz) - mask.indptr[targets] < kept[targets]
    chosen &= logits > -np.inf
    best = Pairs(mask._filtered(chosen), bias[chosen] if len(bias) else bias)
    features, shares, _ = attend_nodes(batch, best, scale)
    weights = np.zeros(mask.nnz, shares.dtype)
    weights[chosen] = shares
    return features, weights


def weighted_nodes(batch: Batch, pairs: Pairs, shares: npt.NDArray[np.float64]) -> tuple[Float, Float]:
    """Return sums (n, dv) of the values by shares (m,) of the edges, and these, of sum 1 for each node."""
    assert batch.value is not None
    value, targets, indptr = batch.value[0], pairs.mask._rows(), kernel_ready(pairs.mask.indptr)
    total = np.bincount(targets, shares, len(indptr) - 1)
    shares = shares / np.where(total > 0.0, total, 1.0)[targets]
    out = np.empty((len(total), value.shape[1]), value.dtype)
    kernels.segment_sum(indptr, pairs.mask.indices.astype(np.int64), shares, kernel_ready(value), out)
    return out, shares.astype(value.dtype)


def attend_listed_nodes(
    attention: Attention, batch: Batch, pairs: Pairs, pair_logits: PairLogits
) -> tuple[Float, Float]:
    """Return outputs (n, dv) and weights (m,), node by node, of a mechanism that has logits of pairs."""
    weights = np.zeros(pairs.mask.nnz, batch.key.dtype)
    rows = _weighted_rows(attention, batch, pairs, pair_logits, weights)
    return attention._listed_outputs(batch, rows)[0], weights


def _weighted_rows(
    attention: Attention, batch: Batch, pairs: Pairs, pair_logits: PairLogits, weights: Float
) -> Iterator[ListedRow]:
    """Yield the weights of each node that attends to anything, and fill weights (m,)."""
    mask, bias = pairs
    for i in np.flatnonzero(np.diff(mask.indptr)).tolist():
        start, stop = mask.indptr[i], mask.indptr[i + 1]
        ids, row = mask.indices[start:stop].astype(np.int64), np.empty(stop - start)
        pair_logits(0, i, ids, row)
        if len(bias):
            row += bias[start:stop]
        if not (row < np.inf).all():
            raise_beyond_float64(batch, False)
        there = np.flatnonzero(row > -np.inf)
        if len(there):
            shares, _ = attention._weights(batch, row[there][None, None])
            weights[start + there] = shares[0, 0]
            yield ListedRow(0, i, ids[there], shares[0, 0])


def attend_each_node(attention: Attention, batch: Batch, pairs: Pairs) -> tuple[Float, Float]:
    """Return outputs (n, dv) and weights (m,) by a call for each node, of a mechanism that needs all its keys."""
    assert batch.value is not None
    query, key, value = batch.query[0], batch.key[0], batch.value[0]
    (mask, bias), weights = pairs, np.zeros(pairs.mask.nnz, key.dtype)
    out = np.zeros((len(query), value.shape[1]), value.dtype)
    for i in np.flatnonzero(np.diff(mask.indptr)).tolist():
        place = slice(mask.indptr[i], mask.indptr[i + 1])
        ids, added = mask.indices[place], bias[place] if len(bias) else None
        own = attention._check(query[i], key[ids], value[ids], added, False, names=NAMES)
        output, shares, _ = attention._attend(own, True)
        assert shares is not None
        out[i], weights[place] = output[0, 0], shares[0, 0]
    return out, weights
