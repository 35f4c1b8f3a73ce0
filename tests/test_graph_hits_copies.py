"""Copies of what walks and patterns return, by pickle and by copy: they are what the originals are."""

import copy
import pickle

import networkx as nx
import numpy as np
import pytest

import attnbridge as ab

COPIES = [lambda found: pickle.loads(pickle.dumps(found)), copy.deepcopy, copy.copy]


def _graph(kind):
    graph = kind()
    graph.add_nodes_from((f"n{i}", {"embedding": np.array([1.0, i]), "year": 2000 + i}) for i in range(5))
    graph.add_edges_from(((f"n{i}", f"n{i + 1}") for i in range(4)), type="CITES")
    return graph


def _networkx(kind):
    return lambda: (ab.AttentionGraph(_graph(kind)), "n0")


def _view(view):
    return lambda: (ab.AttentionGraph(view(_graph(nx.DiGraph))), "n1")


def _arrays():
    rows = np.arange(10.0).reshape(5, 2)
    return ab.AttentionGraph.from_arrays([[0, 1, 2], [1, 2, 3]], rows, edge_type=["CITES", "BY", "CITES"]), 0


GRAPHS = [
    *map(_networkx, (nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph)),
    _arrays,
    _view(lambda graph: graph.subgraph(["n0", "n1", "n2"])),
    _view(lambda graph: nx.subgraph_view(graph, filter_edge=lambda u, v: u != "n3")),
    _view(lambda graph: graph.reverse(copy=False)),
]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("made", GRAPHS)
def test_copies_of_results_are_what_they_are(made, copied):
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    ag, start = made()
    query, index = [1.0, 0.5], ab.AttentionVectorBridge(dim=2, index="exact")
    index.add([[1.0, 0.5]], ids=[start])
    pattern = "MATCH p = (a)-[r]->(b) RETURN a, r, b, p, type(r) AS kind"
    for found in (
        ag.k_hop(start),
        ag.k_hop(start, query=query),
        ag.traverse(query, start),
        ag.search(index, query),
        ag.match(pattern),
        ag.match(pattern, query, start=start),
    ):
        other = copied(found)
        assert len(found)
        assert (type(other), repr(other), other.explain()) == (type(found), repr(found), found.explain())
        assert repr(list(other)) == repr(list(found))
        assert np.array_equal(other.scores, found.scores) or found.scores is None is other.scores
        assert repr(other.to_pandas()) == repr(found.to_pandas())
        assert repr(other.to_subgraph().adj) == repr(found.to_subgraph().adj)
        texts = [[text.get_text() for text in one.plot().axes[0].texts] for one in (found, other)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("made", GRAPHS)
def test_copies_of_graphs_find_the_same(made, copied):
    ag, start = made()
    ag.k_hop(start)  # what is kept of it is no hindrance
    other = copied(ag)
    assert repr(other) == repr(ag)
    assert repr(list(other.k_hop(start, query=[1.0, 0.5]))) == repr(list(ag.k_hop(start, query=[1.0, 0.5])))


def test_a_deep_copy_has_a_graph_of_its_own():
    graph = _graph(nx.DiGraph)
    found = ab.AttentionGraph(graph).match("MATCH (a)-[r]->(b) RETURN b")
    other = copy.deepcopy(found)
    graph.edges["n0", "n1"]["type"] = "LIKES"
    assert "LIKES" in found.explain()
    assert "LIKES" not in other.explain()
