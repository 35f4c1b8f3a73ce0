"""Late interaction in thirty lines: words as token vectors, documents as their means.

The mean of a long document is diluted by all its words; MaxSim looks at each query word's best match alone.

Run: python examples/late_interaction.py
"""

import numpy as np

import attnbridge as ab

DOCUMENTS = {
    "lists": "sorted lists",
    "lookup": "binary search finds where a value would go in a sorted table without reading every row of it",
    "graph": "shortest path between two nodes of a graph",
    "walk": "random walk along the edges of a graph",
}
QUERY = "sorted table"

words = sorted({word for text in [*DOCUMENTS.values(), QUERY] for word in text.split()})
rng = np.random.default_rng(0)
vector_of = dict(zip(words, rng.standard_normal((len(words), 64)), strict=True))


def tokens(text: str) -> np.ndarray:
    """Return one unit vector a word, (n, 64)."""
    rows = np.stack([vector_of[word] for word in text.split()])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


token_lists = [tokens(text) for text in DOCUMENTS.values()]
bridge = ab.AttentionVectorBridge(dim=64)
bridge.add([t.mean(axis=0) for t in token_lists], ids=list(DOCUMENTS), tokens=token_lists)

query_tokens = tokens(QUERY)
query = query_tokens.mean(axis=0)
print("plain           ", bridge.search(query, k=2).ids)
late = bridge.search(query, k=2, query_tokens=query_tokens, rerank=ab.LateInteraction(mix=0.7))
print("late interaction", late.ids)
