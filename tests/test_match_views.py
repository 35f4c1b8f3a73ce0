"""What matches show of themselves: words, a graph, and the ends of paths."""

import math

import networkx as nx
import numpy as np
import pytest

import attnbridge as ab

QUERY = [1.0, 0.2]


@pytest.fixture
def papers():
    graph = nx.DiGraph()
    vectors = {"gat": [0.9, 0.1], "transformer": [0.6, 0.8], "gcn": [1.0, 0.0], "seq2seq": [0.0, 1.0]}
    for name, vector in vectors.items():
        graph.add_node(name, label="Paper", embedding=vector)
    graph.add_edges_from([("gat", "transformer"), ("gat", "gcn"), ("transformer", "seq2seq")], type="CITES")
    return ab.AttentionGraph(graph)


def softmax(ag, nodes):
    logits = ag.logits(QUERY, [ag.position(node) for node in nodes])
    return dict(zip(nodes, np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum(), strict=True))


def test_each_step_is_told_with_its_weight(papers):
    matches = papers.match("MATCH (a)-[:CITES]->(b) RETURN a, b", QUERY)
    first = softmax(papers, papers.nodes)["gat"]
    second = softmax(papers, ["transformer", "gcn"])["gcn"]
    assert matches.explain(1).splitlines() == [
        f"1. a 'gat', b 'gcn': score {math.log(first * second):.4f}",
        f"   start at 'gat'  weight {first:.4f}",
        f"   'gat' -[CITES]-> 'gcn'  weight {second:.4f}",
        "... 2 more",
    ]


def test_a_given_start_has_no_weight_and_hops_have_one_each(papers):
    (row,) = papers.match("MATCH (a)-[*2]->(b) RETURN b", QUERY, start="gat")
    lines = papers.match("MATCH (a)-[*2]->(b) RETURN b", QUERY, start="gat").explain().splitlines()
    assert lines[1:] == [
        "   start at 'gat'",
        f"   'gat' -[CITES]-> 'transformer'  weight {row.weights[0]:.4f}",
        f"   'transformer' -[CITES]-> 'seq2seq'  weight {row.weights[1]:.4f}",
    ]


def test_a_path_from_its_middle_is_told_as_it_was_gone():
    """The second path is gone through from b, which is bound: to its right, then to its left against the edge."""
    graph = nx.MultiDiGraph([("x", "b", "one"), ("y", "b", "two"), ("b", "z", "three")])
    nx.set_node_attributes(graph, dict(zip(graph, np.eye(4), strict=True)), "embedding")
    pattern = "MATCH (a)-[r]->(b), (c)-[s]->(b)-[t]->(d) RETURN b"
    found = ab.AttentionGraph(graph).match(pattern, [1.0, 0.5, 0.25, 0.125], start="x")
    (row,) = found
    assert found.explain().splitlines()[1:] == [
        "   start at 'x'",
        f"   'x' -[one]-> 'b'  weight {row.weights[0]:.4f}",
        f"   'b' -[three]-> 'z'  weight {row.weights[1]:.4f}",
        f"   'b' <-[two]- 'y'  weight {row.weights[2]:.4f}",
    ]
    walked = found.to_subgraph()
    assert dict(walked.nodes(data="hop")) == {"x": 0, "b": 1, "z": 2, "y": 2}
    assert {edge[2]: edge[3] for edge in walked.edges(keys=True, data="attention")} == pytest.approx(
        {"one": row.weights[0], "three": row.weights[1], "two": row.weights[2]}
    )


def test_without_query_no_weights_are_told(papers):
    matches = papers.match("MATCH (a)-->(b)-->(c) RETURN a, c")
    assert matches.explain().splitlines() == [
        "1. a 'gat', c 'seq2seq'",
        "   start at 'gat'",
        "   'gat' -[CITES]-> 'transformer'",
        "   'transformer' -[CITES]-> 'seq2seq'",
    ]


def test_the_count_of_no_rows_has_no_steps(papers):
    matches = papers.match("MATCH (a)-->(a) RETURN count(*) AS n")
    assert matches.explain() == "1. n 0"
    assert len(matches.to_subgraph()) == 0
    (row,) = matches
    assert (row.node, row.hop, row.path, row.edges) == (None, None, [], [])


def test_limits(papers):
    matches = papers.match("MATCH (a) RETURN a")
    assert matches.explain(2).splitlines()[-1] == "... 2 more"
    with pytest.raises(ab.InvalidConfigError, match="limit must be a whole number >= 1, got 0"):
        matches.explain(0)


def test_long_values_are_cut():
    graph = nx.Graph()
    graph.add_node("x" * 200, embedding=[1.0])
    line = ab.AttentionGraph(graph).match("MATCH (a) RETURN a").explain().splitlines()[0]
    assert len(line) < 80


def test_subgraph_has_attributes_and_what_was_found(papers):
    papers.graph.nodes["gat"]["hop"] = "own"
    matches = papers.match("MATCH (a)-[:CITES]->(b) RETURN b", QUERY, start="gat")
    walked = matches.to_subgraph()
    assert type(walked) is nx.DiGraph
    assert set(walked) == {"gat", "gcn", "transformer"}
    for node, data in walked.nodes(data=True):
        assert data["label"] == "Paper"
        assert data["score"] == pytest.approx(papers.logits(QUERY, [papers.position(node)])[0])
        assert data["hop"] == (0 if node == "gat" else 1)
    weights = softmax(papers, ["transformer", "gcn"])
    for _, target, data in walked.edges(data=True):
        assert data == {"type": "CITES", "attention": pytest.approx(weights[target])}
    walked.nodes["gat"]["label"] = "changed"
    assert papers.graph.nodes["gat"]["label"] == "Paper"
    assert papers.graph.nodes["gat"]["hop"] == "own"


def test_subgraph_without_query_has_no_scores(papers):
    walked = papers.match("MATCH (a)-->(b) RETURN b").to_subgraph()
    assert not any("score" in data for _, data in walked.nodes(data=True))
    assert not any("attention" in data for *_, data in walked.edges(data=True))


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph])
@pytest.mark.parametrize("query", [None, [1.0, 0.5, 0.25]])
def test_subgraph_is_the_union_of_paths(kind, query):
    rng = np.random.default_rng(7)
    graph = kind(rng.integers(0, 9, (19, 2)).tolist())
    nx.set_node_attributes(graph, {node: rng.standard_normal(3) for node in graph}, "embedding")
    matches = ab.AttentionGraph(graph).match("MATCH (a)-->(b)-[*1..2]->(c), (b)-->(d) RETURN a", query)
    assert len(matches) > 3
    paths = [path for row in matches for path in row.paths]
    walked = matches.to_subgraph()
    assert type(walked) is kind
    assert set(walked) == {node for path in paths for node in path.nodes}
    expected = kind(edge for path in paths for edge in path.edges)
    assert all(walked.has_edge(*edge) for edge in expected.edges)
    assert walked.number_of_edges() == expected.number_of_edges()
    if query is not None:
        shares = {share for row in matches for share in row.weights}
        assert {share for *_, share in walked.edges(data="attention")} <= shares


def test_a_row_has_its_ends(papers):
    row = papers.match("MATCH (a)-->(b)-->(c) RETURN a", QUERY)[0]
    assert (row.node, row.hop, row.path) == ("seq2seq", 2, ["gat", "transformer", "seq2seq"])
    assert row.edges == [("gat", "transformer"), ("transformer", "seq2seq")]
    assert row.score == pytest.approx(sum(map(math.log, row.weights)))
