"""Rows put together over the edges that lead to each node: the kernels' calls, shared out over threads."""

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.graph_edges import InEdges
from attnbridge.threads import for_chunks, usable_threads
from attnbridge.validation import Float

# Numbers that a thread adds up at a time: some milliseconds.
_CHUNK = 8_000_000


def segment_sum(edges: InEdges, weights: npt.NDArray[np.float64], rows: Float) -> Float:
    """Return sum_p weights[p] rows[source of p] over each node's entries p, in the precision of rows."""
    out = np.empty((len(edges.indptr) - 1, rows.shape[1]), rows.dtype)

    def work(start: int, stop: int) -> None:
        kernels.segment_sum(edges.indptr[start : stop + 1], edges.sources, weights, rows, out[start:stop])

    for_chunks(work, len(out), _nodes(edges, rows), usable_threads())
    return out


def segment_max(edges: InEdges, rows: Float) -> tuple[Float, npt.NDArray[np.float64]]:
    """Return the largest of each column over each node's entries, 0 of none; and which share of columns is whose."""
    out = np.empty((len(edges.indptr) - 1, rows.shape[1]), rows.dtype)
    shares = np.empty(len(edges.sources))

    def work(start: int, stop: int) -> None:
        kernels.segment_max(edges.indptr[start : stop + 1], edges.sources, rows, out[start:stop], shares)

    for_chunks(work, len(out), _nodes(edges, rows), usable_threads())
    return out, shares


def _nodes(edges: InEdges, rows: Float) -> int:
    """Return how many nodes go to a thread at a time."""
    count = len(edges.indptr) - 1
    return 1 + int(_CHUNK // (1 + rows.shape[1] * len(edges.sources) // count))


def in_order(edges: InEdges, by_entry: Float) -> Float:
    """Return what is an entry's in the order of the edges as given."""
    out = np.empty_like(by_entry)
    out[edges.numbers] = by_entry
    return out
