"""Attention along edges: the characters of Les Miserables, each attending to those they meet.

Vectors are spectral: the first eigenvectors of the graph's Laplacian, which put near each other who share company.

Run: python examples/graph_attention.py
"""

import networkx as nx
import numpy as np

import attnbridge as ab

G = nx.les_miserables_graph()  # comes with networkx; an edge's weight is how many chapters two characters share
names = list(G)
_, axes = np.linalg.eigh(nx.normalized_laplacian_matrix(G).toarray())
vectors = dict(zip(names, axes[:, 1:9], strict=True))
nx.set_node_attributes(G, vectors, "embedding")
group = {name: number for number, part in enumerate(nx.community.louvain_communities(G, seed=0)) for name in part}

graph = ab.AttentionGraph(G)  # attention="gat": softmax of cosine / 0.1 over the neighbours

ASKED = "Marius"
hits = graph.neighborhood(ASKED)
print(f"{ASKED} meets {len(hits)} characters; he attends most to\n\nneighbour        weight  same group")
for hit in hits[:5]:
    print(f"{hit.node:16} {hit.weights[0]:6.3f}  {'yes' if group[hit.node] == group[ASKED] else 'no'}")

# The same weights without a graph object: GraphAttention under the adjacency as a mask.
X = np.stack([vectors[name] for name in names])
adjacency = ab.SparseMask.from_scipy(nx.to_scipy_sparse_array(G, weight=None))
attention = ab.GraphAttention()
weights = attention.weights(X, X, adjacency)
by_hit = weights[names.index(ASKED), [names.index(hit.node) for hit in hits]]
by_walk = np.array([hit.weights[0] for hit in hits])
print(f"\nlargest difference from GraphAttention under the adjacency: {np.abs(by_hit - by_walk).max():.0e}")

# What the attention is worth: how much of it stays within a character's own group, beside an even share for all.
same = np.array([[group[a] == group[b] for b in names] for a in names])
dense = adjacency.to_dense()
even = (dense & same).sum(axis=1) / dense.sum(axis=1)
attended = (weights * same).sum(axis=1)
print(f"\nwithin the own group: {even.mean():.0%} of all neighbours, {attended.mean():.0%} of the attention")

# A question goes along edges too: who within two steps is most like Gavroche, and over whom?
print(f"\nlike Gavroche   score  over\n{'-' * 44}")
for hit in graph.k_hop(ASKED, k=2, query=vectors["Gavroche"], limit=5):
    print(f"{hit.node:14} {hit.score:6.3f}  {' > '.join(hit.path)}")
