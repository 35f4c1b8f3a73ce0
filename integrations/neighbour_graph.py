"""The neighbour graph of an index: its rows, each with edges to those nearest to it."""

from typing import TYPE_CHECKING

import numpy as np

from attnbridge.errors import GraphStructureError
from attnbridge.integrations.documents import PROGRESS_FROM
from attnbridge.integrations.graph_data import ArrayData
from attnbridge.progress import progress_bar

if TYPE_CHECKING:
    from attnbridge.integrations.bridge import AttentionVectorBridge

# Rows whose neighbours are looked up in one go.
_CHUNK = 4_096


def neighbour_graph(bridge: "AttentionVectorBridge", k: int, progress: bool) -> ArrayData:
    """Return a bridge's documents as nodes, each with edges to the k others that its own search finds.

    A node's edges are numbered best first; its embedding is its vector, of length 1 under cosine.
    """
    still = bridge._snapshot()
    ids = still.ids()
    if not ids:
        raise GraphStructureError("bridge must hold at least one document, got none")
    rows = still.get(ids)
    place = dict(zip(ids, range(len(ids)), strict=True))
    count = min(k, len(ids) - 1)
    targets: list[int] = []
    sizes = np.zeros(len(ids), np.int64)
    with progress_bar(len(ids), "finding neighbours", progress and len(ids) >= PROGRESS_FROM) as advance:
        for start in range(0, len(ids) if count else 0, _CHUNK):
            found = still.search_batch(rows[start : start + _CHUNK], count + 1)
            for row, hits in enumerate(found, start):
                near = [place[id] for id in hits.ids if id != ids[row]][:count]
                targets += near
                sizes[row] = len(near)
            advance(len(found))
    source = np.repeat(np.arange(len(ids)), sizes)
    embeddings = still._metric.prepare(rows, "rows")[0] if still._metric.name == "cosine" else rows
    payload = still.payload(ids)
    return ArrayData(source, np.array(targets, np.int64), embeddings, None, nodes=ids, attributes=payload)
