"""The neighbour graph of an index: AttentionGraph.from_bridge."""

import re

import networkx as nx
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations import neighbour_graph

RNG = np.random.default_rng(7)
DIM = 5


def bridge_of(rows, ids=None, payload=None, **options):
    bridge = ab.AttentionVectorBridge(dim=rows.shape[1], index="exact", **options)
    bridge.add(rows, ids, payload=payload)
    return bridge


def vectors(count, dim=DIM):
    return RNG.standard_normal((count, dim)).astype(np.float32)


def nearest(rows, k):
    """Return each row's k nearest others by cosine, best first."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = (unit @ unit.T).astype(np.float64)
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1)[:, :k]


def neighbours(ag):
    """Return each node's neighbours in the order of their edges' numbers."""
    return {node: [ag.edge(n)[1] for n in numbers_from(ag, i)] for i, node in enumerate(ag.nodes)}


def numbers_from(ag, position):
    source, _ = ag.edge_index()
    return np.flatnonzero(source == position).tolist()


@pytest.mark.parametrize("chunk", [7, 4096])
def test_edges_lead_to_the_nearest_others_best_first(monkeypatch, chunk):
    monkeypatch.setattr(neighbour_graph, "_CHUNK", chunk)
    rows = vectors(23)
    ids = [f"doc {i}" for i in range(23)]
    ag = ab.AttentionGraph.from_bridge(bridge_of(rows, ids), k=4)
    assert list(ag.nodes) == ids
    want = {ids[i]: [ids[j] for j in near] for i, near in enumerate(nearest(rows, 4).tolist())}
    assert neighbours(ag) == want


def test_a_graph_index_finds_them_too():
    rows = vectors(700)
    bridge = ab.AttentionVectorBridge(dim=DIM)
    bridge.add(rows)
    bridge.link()
    ag = ab.AttentionGraph.from_bridge(bridge, k=5)
    found, want = neighbours(ag), nearest(rows, 5).tolist()
    hits = sum(len(set(found[i]) & set(want[i])) for i in range(700))
    assert hits >= 0.99 * 5 * 700
    assert all(i not in found[i] and len(found[i]) == 5 for i in range(700))


def test_deleted_documents_are_not_there_and_ids_need_not_count_up():
    rows = vectors(12)
    bridge = bridge_of(rows, list(range(100, 112)))
    bridge.delete([103, 107])
    bridge.add(-rows[:1], [100])  # a new row in place of the old one
    ag = ab.AttentionGraph.from_bridge(bridge, k=30)
    assert sorted(ag.nodes) == sorted(set(range(100, 112)) - {103, 107})
    assert all(sorted(near) == sorted(set(ag.nodes) - {node}) for node, near in neighbours(ag).items())
    want = -rows[0] / np.linalg.norm(rows[0])
    np.testing.assert_allclose(ag.graph.nodes[100]["embedding"], want, rtol=1e-6)


def test_of_more_copies_than_neighbours_a_node_still_has_no_edge_to_itself():
    ag = ab.AttentionGraph.from_bridge(bridge_of(np.ones((9, 3), np.float32)), k=2)
    assert all(len(near) == 2 and node not in near for node, near in neighbours(ag).items())


def test_one_document_has_no_neighbours():
    ag = ab.AttentionGraph.from_bridge(bridge_of(vectors(1), ["only"]))
    assert ag.nodes == ("only",)
    assert ag.edge_index().shape == (2, 0)


def test_payload_becomes_attributes():
    payload = {"label": ["Paper", "Paper", "Book"], "year": [2017, 2018, None]}
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.8, 0.6]], np.float32)
    ag = ab.AttentionGraph.from_bridge(bridge_of(rows, ["a", "b", "c"], payload), k=2)
    found = ag.match("MATCH (n:Paper)-->(m:Book) WHERE n.year > 2017 RETURN n, m").records
    assert found == [{"n": "b", "m": "c"}]
    assert ag.graph.nodes["c"]["year"] is None
    assert isinstance(ag.graph, nx.MultiDiGraph)
    np.testing.assert_array_equal(ag.graph.nodes["a"]["embedding"], rows[0])


@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("scaled_dot", {"scale": 3.0}),
        ("gat", {"temperature": 0.5}),
        ("linear", {}),
        ("multi_head", {"num_heads": 2}),
        ("poincare", {"temperature": 0.3, "map": "expmap0"}),
    ],
)
def test_logits_of_unit_queries_are_the_bridges_own(attention, options):
    rows = vectors(15, 6)
    rows = 0.5 * rows / np.abs(rows).max()
    bridge = bridge_of(rows, attention=attention, **options)
    ag = ab.AttentionGraph.from_bridge(bridge, k=3)
    query = rows[4] / np.linalg.norm(rows[4]) if attention != "poincare" else rows[4]
    hits = bridge.search(query, k=15)
    np.testing.assert_allclose(ag.logits(query, hits.ids), hits.scores, rtol=1e-4, atol=1e-4)
    assert attention in repr(ag)


def test_another_attention_or_other_options_may_be_asked_for():
    bridge = bridge_of(vectors(5), attention="gat", temperature=0.5)
    assert "temperature=0.25" in repr(ab.AttentionGraph.from_bridge(bridge, temperature=0.25))
    assert "scaled_dot" in repr(ab.AttentionGraph.from_bridge(bridge, attention="scaled_dot"))


def test_it_is_a_graph_of_that_moment():
    bridge = bridge_of(vectors(6))
    ag = ab.AttentionGraph.from_bridge(bridge, k=2)
    before = ag.forward()
    bridge.add(vectors(3))
    bridge.delete([0, 1])
    assert len(ag.nodes) == 6
    np.testing.assert_array_equal(ag.forward().features, before.features)


def test_walks_and_layers_run_over_it():
    rows = vectors(40)
    ag = ab.AttentionGraph.from_bridge(bridge_of(rows, [f"n{i}" for i in range(40)]), k=3)
    hits = ag.k_hop("n7", 2)
    assert hits.nodes[0] == "n7"
    assert {hit.node for hit in hits if hit.hop == 1} == set(neighbours(ag)["n7"])
    assert ag.forward(direction="out").coefficients.reshape(40, 3).sum(axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b: ab.AttentionGraph.from_bridge([[1.0]]), ab.InvalidInputError, "bridge must be .*, got list"),
        (lambda b: ab.AttentionGraph.from_bridge(b, k=0), ab.InvalidConfigError, "k must be a whole number >= 1"),
        (lambda b: ab.AttentionGraph.from_bridge(b, progress=1), ab.InvalidConfigError, "progress must be True or"),
        (lambda b: ab.AttentionGraph.from_bridge(b, attention="sparse"), ab.InvalidConfigError, "a graph's edges"),
        (lambda b: ab.AttentionGraph.from_bridge(b, temperature=1.0), ab.InvalidConfigError, "temperature"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(bridge_of(vectors(3)))


def test_an_empty_bridge_is_refused():
    with pytest.raises(ab.GraphStructureError, match=re.escape("bridge must hold at least one document, got none")):
        ab.AttentionGraph.from_bridge(ab.AttentionVectorBridge(dim=2, index="exact"))


def test_an_attention_that_is_no_edges_score_is_refused_before_the_search(monkeypatch):
    bridge = bridge_of(vectors(5), attention="sparse")
    monkeypatch.setattr(type(bridge), "search_batch", lambda *_: pytest.fail("it has been searched"))
    with pytest.raises(ab.InvalidConfigError, match="a graph's edges"):
        ab.AttentionGraph.from_bridge(bridge)


def test_progress_is_shown_where_it_is_asked_for(monkeypatch):
    asked = []
    bar = neighbour_graph.progress_bar
    monkeypatch.setattr(neighbour_graph, "PROGRESS_FROM", 3)
    monkeypatch.setattr(
        neighbour_graph, "progress_bar", lambda total, label, enabled: asked.append(enabled) or bar(total, label, False)
    )
    bridge = bridge_of(vectors(3))
    ab.AttentionGraph.from_bridge(bridge)
    ab.AttentionGraph.from_bridge(bridge, progress=False)
    assert asked == [True, False]
