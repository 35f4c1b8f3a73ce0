"""Graph queries in SQL are those of AttentionGraph."""

import json

import duckdb
import networkx as nx
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations.duckdb import register

pytestmark = pytest.mark.filterwarnings("ignore:the pattern matches nothing")

K_HOP = "SELECT node, score, hop, path FROM ruvector_k_hop"
MATCH = "SELECT node, score, hop, path, record FROM ruvector_match"


@pytest.fixture
def graph():
    rng = np.random.default_rng(3)
    made = nx.gnp_random_graph(40, 0.08, seed=5, directed=True)
    vectors = rng.standard_normal((40, 5), np.float32)
    nx.set_node_attributes(made, dict(enumerate(vectors)), "embedding")
    nx.set_node_attributes(made, {node: ("odd" if node % 2 else "even") for node in made}, "label")
    nx.set_edge_attributes(made, "LINKS", "type")
    return ab.AttentionGraph(made, attention="scaled_dot")


@pytest.fixture
def con(graph):
    with ab.connect(graph=graph) as made:
        yield made


def k_hop_rows(hits):
    return [(str(hit.node), hit.score, hit.hop, [str(node) for node in hit.path]) for hit in hits]


def match_rows(matches):
    return [
        (str(one.paths[0].nodes[-1]), one.score, len(one.paths[0].edges), [str(node) for node in one.paths[0].nodes])
        for one in matches
    ]


@pytest.mark.parametrize("direction", ["out", "in", "both"])
def test_k_hop(con, graph, direction):
    query = np.arange(5, dtype=np.float32) - 2
    assert len(graph.k_hop(7, 3, query, direction=direction)) > 3
    found = con.execute(f"{K_HOP}(7, 3, $q, direction := $d)", {"q": query, "d": direction}).fetchall()
    assert found == k_hop_rows(graph.k_hop(7, 3, query, direction=direction))
    assert con.execute(f"{K_HOP}(7)").fetchall() == k_hop_rows(graph.k_hop(7))
    best = con.execute(f"{K_HOP}('7', k := 4, max_results := 2, query := $q)", {"q": query.tolist()}).fetchall()
    assert best == k_hop_rows(graph.k_hop(7, 4, query, limit=2))


def test_k_hop_of_a_table_of_nodes(con, graph):
    con.execute("CREATE TABLE starts AS SELECT n, n % 3 AS hops FROM range(40) t(n) UNION ALL SELECT NULL, 1")
    found = con.execute(
        "SELECT n, hit.node, hit.score FROM starts, ruvector_k_hop(n, hops) hit ORDER BY n, hit.score DESC, hit.node"
    ).fetchall()
    expected = [
        (n, str(hit.node), hit.score)
        for n in range(40)
        for hit in sorted(graph.k_hop(n, n % 3), key=lambda hit: (-hit.score, str(hit.node)))
    ]
    assert found == expected


def test_match(con, graph):
    pattern = "MATCH (a)-[:LINKS*1..2]->(b:odd) WHERE id(b) >= $least RETURN b, b.label AS label"
    matches = graph.match(pattern, params={"least": 5}, start=7)
    assert len(matches) > 1
    found = con.execute(f"{MATCH}($p, params := {{least: 5}}, start := 7)", {"p": pattern}).fetchall()
    assert [row[:4] for row in found] == match_rows(matches)
    assert [json.loads(row[4]) for row in found] == matches.records
    query = np.ones(5, np.float32)
    ranked = con.execute(
        f"{MATCH}($p, $q, MAP {{'least': 5}}, '7', per_step := 2)", {"p": pattern, "q": query}
    ).fetchall()
    best = graph.match(pattern, query, {"least": 5}, start=7, per_step=2)
    assert [row[:4] for row in ranked] == match_rows(best)
    assert [row[1] for row in ranked] == best.scores.tolist()


def test_records_are_json(con):
    (path,) = con.execute(
        "SELECT record->'p'->'nodes' FROM ruvector_match('MATCH p = (a)-->(b) RETURN p LIMIT 1')"
    ).fetchone()
    assert len(json.loads(path)) == 2
    count = con.execute(f"{MATCH}('MATCH (a:none) RETURN count(*) AS n')").fetchall()
    assert count == [(None, None, None, None, '{"n": 0}')]
    assert con.execute(f"{MATCH}(NULL)").fetchall() == con.execute(f"{K_HOP}(NULL)").fetchall() == []


def test_nodes_by_their_text():
    made = nx.Graph([("1", 1), (1, (2, 3)), ("alone", "x y")])
    nx.set_node_attributes(made, {node: [1.0, 0.0] for node in made}, "embedding")
    with ab.connect(graph=ab.AttentionGraph(made)) as con:
        assert {row[0] for row in con.execute(f"{K_HOP}('(2, 3)', 1)").fetchall()} == {"(2, 3)", "1"}
        assert [row[3] for row in con.execute(f"{K_HOP}('1', 1)").fetchall()] == [["1"], ["1", "1"]]
        assert len(con.execute(f"{K_HOP}(1, 1)").fetchall()) == 3


def test_two_nodes_of_one_text():
    one, two = type("One", (), {"__str__": lambda self: "same"}), type("Two", (), {"__str__": lambda self: "same"})
    made = nx.Graph([(one(), two()), (b"z", 1.5)])
    nx.set_node_attributes(made, {node: [1.0, 0.0] for node in made}, "embedding")
    with ab.connect(graph=ab.AttentionGraph(made)) as con:
        with pytest.raises(duckdb.Error, match=r"node must be one node, 2 have the text 'same': .*; relabel"):
            con.execute(f"{K_HOP}('same')").fetchall()
        assert con.execute(f"{K_HOP}('b''z''')").fetchall()[0][0] == "b'z'"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (f"{K_HOP}(99)", "node 99 is not in the graph"),
        (f"{K_HOP}([1, 2])", r"node \[1, 2\] is not in the graph"),
        (f"{K_HOP}(1, -1)", "k must be a whole number >= 0, got -1"),
        (f"{K_HOP}(1, max_results := 0)", "limit must be a whole number >= 1, got 0"),
        (f"{K_HOP}(1, query := [1, 2])", "query must have dimension 5 as the embeddings have, got 2"),
        (f"{K_HOP}(1, direction := 'up')", "direction must be one of"),
        (f"{MATCH}('MATCH (a')", "line 1, column"),
        (f"{MATCH}('MATCH (a) WHERE a.x = $x RETURN a')", "x"),
        (f"{MATCH}('MATCH (a) RETURN a', start := 99)", "node 99 is not in the graph"),
        (f"{MATCH}('MATCH (a) RETURN a', params := 3)", "params must be a STRUCT"),
    ],
)
def test_errors_are_those_of_the_graph(con, call, message):
    with pytest.raises(duckdb.Error, match=message):
        con.execute(call).fetchall()


def test_graphs_are_registered(graph):
    con = duckdb.connect()
    register(con)
    with pytest.raises(
        duckdb.Error, match=r"a graph function needs a graph, none is registered; call .*graph=\.\.\.\)"
    ):
        con.execute(f"{K_HOP}(7)").fetchall()
    with pytest.raises(ab.InvalidConfigError, match=r"graph must be an AttentionGraph, got .*; AttentionGraph"):
        register(con, graph=graph.graph)
    register(con, graph=graph)
    register(con)
    index = ab.AttentionVectorBridge(dim=5, index="exact")
    index.add(np.eye(5), ids=list("abcde"))
    register(con, index=index)
    expected = k_hop_rows(graph.k_hop(7))
    assert con.execute(f"{K_HOP}(7)").fetchall() == con.cursor().execute(f"{K_HOP}(7)").fetchall() == expected
    assert con.execute("SELECT id FROM ruvector_search([1, 0, 0, 0, 0], 1)").fetchall() == [("a",)]
    pair = nx.Graph([("x", "y")])
    nx.set_node_attributes(pair, {"x": [1.0], "y": [2.0]}, "embedding")
    other = ab.AttentionGraph(pair)
    register(con, graph=other)
    assert len(con.execute(f"{K_HOP}('x')").fetchall()) == 2
    con.close()


def test_a_graph_that_changes(con, graph):
    graph.graph.add_edge(7, "new")
    graph.graph.nodes["new"]["embedding"] = np.ones(5)
    assert "new" in {row[0] for row in con.execute(f"{K_HOP}('7', 1)").fetchall()}
