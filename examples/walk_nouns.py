"""Walks over a graph of real things, each from one of them with the vector of another as the question.

Without arguments: functions and classes of numpy, scipy and networkx, as they are installed. Edges are the links of
their See Also sections; vectors come from their docstrings, See Also taken out, as `attnbridge demo` makes them
(pip install 'attnbridge[demo]').
With a folder that has nouns.parquet, noun_edges.parquet and noun_emb_f16.npy: the nouns of WordNet and their relations.

Run: python examples/walk_nouns.py [FOLDER]
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import networkx as nx
import numpy as np

import attnbridge as ab

MODULES = {
    "numpy": "numpy numpy.linalg numpy.fft numpy.random",
    "scipy": "scipy.fft scipy.integrate scipy.interpolate scipy.linalg scipy.ndimage scipy.optimize scipy.signal "
    "scipy.sparse.linalg scipy.spatial scipy.special scipy.stats",
    "networkx": "networkx",
}
# From where, and whose vector the question is.
FUNCTIONS = [
    ("numpy.linalg.svd", "scipy.linalg.null_space"),
    ("numpy.median", "scipy.stats.trim_mean"),
    ("numpy.polyfit", "scipy.interpolate.CubicSpline"),
    ("scipy.optimize.minimize", "scipy.optimize.least_squares"),
    ("networkx.pagerank", "networkx.betweenness_centrality"),
]
NOUNS = [("violin", "orchestra"), ("volcano", "island"), ("castle", "king"), ("ship", "war"), ("lawyer", "crime")]


def functions() -> tuple[nx.MultiDiGraph, Callable[[str], str]]:
    """Return what is installed as a graph, and what finds a node by its name."""
    from attnbridge.demo_corpus import gather
    from attnbridge.demo_vectors import WordSpace

    documents = gather(MODULES)
    texts = [f"{document.id}\n{document.text}" for document in documents]
    graph = nx.MultiDiGraph()
    for document, vector in zip(documents, WordSpace(texts).fitted, strict=True):
        graph.add_node(document.id, embedding=vector)
    for document in documents:
        graph.add_edges_from((document.id, other, "see also") for other in document.relevant)
    return graph, str


def nouns(folder: Path) -> tuple[nx.MultiDiGraph, Callable[[str], str]]:
    """Return WordNet's nouns as a graph, and what finds the first sense of a word."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "nouns.parquet").to_pydict()
    vectors = np.load(folder / "noun_emb_f16.npy").astype(np.float32)
    names, first = {}, {}
    graph = nx.MultiDiGraph()
    for id, lemmas, vector in zip(table["id"], table["lemmas"], vectors, strict=True):
        word = lemmas.partition("|")[0]
        names[id] = f"{word} {id}" if word in first else word
        first.setdefault(word, names[id])
        graph.add_node(names[id], embedding=vector)
    edges = pyarrow.parquet.read_table(folder / "noun_edges.parquet").to_pydict()
    for source, target, relation in zip(edges["src"], edges["dst"], edges["rel"], strict=True):
        graph.add_edge(names[source], names[target], relation)
    return graph, first.__getitem__


def main(arguments: Sequence[str]) -> None:
    """Print the paths."""
    graph, named = nouns(Path(arguments[0])) if arguments else functions()
    ag = ab.AttentionGraph(graph)
    print(ag)
    direction = "out" if arguments else "both"  # WordNet has each relation both ways, by two names
    for start, question in NOUNS if arguments else FUNCTIONS:
        query = graph.nodes[named(question)]["embedding"]
        hits = ag.traverse(query, named(start), max_hops=4, limit=2, direction=direction)
        print(f"\nfrom {start!r}, asked for what is like {question!r}: {hits.visited} nodes visited")
        print(hits.explain())


if __name__ == "__main__":
    main(sys.argv[1:])
