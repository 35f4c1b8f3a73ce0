"""A search, and what a rerank changes: docstrings of numpy and networkx, asked in words, nothing downloaded.

The first order is by cosine. Late interaction then compares the query's words with each document's words, one by one.

Run: python examples/vector_search.py     (scikit-learn makes the vectors: TF-IDF and truncated SVD)
"""

import numpy as np

import attnbridge as ab
from attnbridge.demo_corpus import gather
from attnbridge.demo_vectors import WordSpace

QUESTION = "shortest path between two nodes"

documents = [
    document
    for document in gather({"numpy": "numpy numpy.linalg numpy.fft", "networkx": "networkx"})
    if len(document.text.split()) > 20
]
space = WordSpace([f"{document.id}\n{document.text}" for document in documents], dim=128)


def tokens(text: str) -> np.ndarray:
    """Return a unit vector for each of a text's first 60 words."""
    return space.tokens(space.words(text, 60))


bridge = ab.AttentionVectorBridge(space.dim, metric="cosine")
bridge.add(
    space.fitted,
    ids=[document.id for document in documents],
    tokens=[tokens(f"{document.id}\n{document.text}") for document in documents],
    payload={"package": [document.id.partition(".")[0] for document in documents]},
    progress=False,
)

query = space.vectors([QUESTION])[0]
plain = bridge.search(query, k=5)
reranked = bridge.search(query, k=5, query_tokens=tokens(QUESTION), rerank=ab.LateInteraction(mix=0.7))

print(f"{len(documents)} docstrings, asked for: {QUESTION}\n")
for title, hits in {"by cosine": plain, "after late interaction": reranked}.items():
    print(f"{title:52} score  weight  was")
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:2} {hit.id:49} {hit.score:5.2f}  {hit.weight:6.3f}  {hit.rank_before + 1:3}")
    print()

only = bridge.search(query, k=2, where="package = 'numpy'")
print(f"in numpy alone: {', '.join(only.ids)}\n")
print(reranked.explain(1))
