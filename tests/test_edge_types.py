"""Edge types by any attribute: all that goes by them is as it is of a graph whose types are in the attribute "type"."""

import copy
import re

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_traverse import attend, cases, named_edges

import attnbridge as ab

pytestmark = pytest.mark.filterwarnings("ignore:the pattern matches nothing")

NAMES = ["kin", ("kin", 1), None, 7]  # an attribute's name may be anything hashable
QUERY = np.array([0.9, -0.4, 1.3])


def renamed(graph, name):
    """Return a graph whose types are in another attribute; "type" has what would mislead."""
    other = copy.deepcopy(graph)  # networkx's own copy may turn edges round
    for edge, data in named_edges(other):
        kind = data.pop("type", None)
        data["type"] = "R" if kind == "S" else "S"
        if kind is not None:
            data[name] = kind
        assert other.edges[edge] is data
    return other


def pairs(case, name):
    options = {"weight": case.weight, "missing": case.missing}
    return attend(case.graph, **options), attend(renamed(case.graph, name), edge_type=name, **options)


def told(hits):
    return [(hit.node, hit.score, hit.hop, hit.path, hit.edges, hit.weights) for hit in hits]


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(NAMES), st.data())
def test_walks_go_by_the_attribute_that_is_named(case, name, data):
    ours, theirs = pairs(case, name)
    start = data.draw(st.sampled_from(list(case.graph)))
    along = {"direction": case.direction, "edge_types": case.types}
    for walk in (
        lambda ag: ag.traverse(case.query, start, limit=None, **along),
        lambda ag: ag.k_hop(start, 3, case.query, **along),
        lambda ag: ag.neighborhood(start, case.query, **along),
    ):
        assert told(walk(ours)) == told(walk(theirs))


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 4))
def test_k_hop_covers_what_edges_of_the_types_lead_to(case, k):
    case.nodes, case.odd = None, False
    start = next(iter(case.graph))
    allowed = {node for node in case.graph if case.logit(node) is not None} | {start}
    view = nx.subgraph_view(
        case.graph,
        filter_node=allowed.__contains__,
        filter_edge=lambda u, v, *key: case.admits((u, v, *key) if (u, v, *key) in case.graph.edges else (v, u, *key)),
    )
    if view.is_directed() and case.direction != "out":
        view = view.reverse(copy=False) if case.direction == "in" else view.to_undirected(as_view=True)
    ag = attend(case.graph, missing=case.missing)
    hits = ag.k_hop(start, k, case.query, direction=case.direction, edge_types=case.types)
    lengths = nx.single_source_shortest_path_length(view, start, cutoff=k)
    assert {hit.node: hit.hop for hit in hits} == {n: hop for n, hop in lengths.items() if case.logit(n) is not None}
    near = ag.neighborhood(start, case.query, direction=case.direction, edge_types=case.types)
    assert sum(hit.weights[0] for hit in near) == pytest.approx(1.0 if len(near) else 0.0)
    assert {hit.node for hit in near} == set(case.steps(start))


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(NAMES))
def test_patterns_go_by_it_too(case, name):
    ours, theirs = pairs(case, name)
    for pattern in (
        "MATCH (a)-[r:R]->(b) RETURN a, r, type(r), b",
        "MATCH p = (a)-[:R|S*1..2]-(b) RETURN p",
        "MATCH (a)-[r]->() WHERE type(r) = 'S' RETURN a, type(r)",
    ):
        for query in (None, QUERY):
            found, other = ours.match(pattern, query), theirs.match(pattern, query)
            assert found.records == other.records
            if query is not None:
                assert found.scores.tolist() == other.scores.tolist()


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(NAMES))
def test_searches_go_by_it_too(case, name):
    seeds = [node for node in case.graph if type(node) is str and case.logit(node) is not None]
    assume(seeds)
    bridge = ab.AttentionVectorBridge(dim=3, index="exact")
    bridge.add(np.random.default_rng(0).standard_normal((len(seeds), 3)), ids=seeds)
    ours, theirs = pairs(case, name)
    options = {"direction": case.direction, "edge_types": case.types}
    one, other = ours.search(bridge, case.query, **options), theirs.search(bridge, case.query, **options)
    assert (told(one), one.masses.tolist()) == (told(other), other.masses.tolist())


class Typed(ab.HeteroConv):
    """What a layer is told of its edges."""

    def __init__(self):
        super().__init__({"R": ab.SAGEConv(3, 2, seed=1), "S": ab.SAGEConv(3, 2, seed=2)})


@pytest.mark.parametrize("name", NAMES)
def test_layers_go_by_it_too(name):
    graph = nx.MultiDiGraph()
    for node, row in enumerate(np.eye(3)):
        graph.add_node(node, embedding=row)
    graph.add_edge(0, 1, type="R")
    graph.add_edge(2, 1, type="S")
    graph.add_edge(1, 2, "S")  # its key
    ours, theirs = ab.AttentionGraph(graph), ab.AttentionGraph(renamed(graph, name), edge_type=name)
    layer = Typed()
    np.testing.assert_array_equal(ours.forward(layer).features, theirs.forward(layer).features)
    misled = ab.AttentionGraph(renamed(graph, name)).forward(layer).features
    assert not np.array_equal(misled, ours.forward(layer).features)


def test_keys_alone_are_types_where_no_attribute_is():
    graph = nx.MultiDiGraph()
    graph.add_nodes_from([0, 1, 2], embedding=[1.0])
    graph.add_edge(0, 1, "road", type="rail")
    graph.add_edge(0, 2, "rail", type="road")
    assert ab.AttentionGraph(graph).neighborhood(0, edge_types="road").nodes == [2]
    assert ab.AttentionGraph(graph, edge_type=None).neighborhood(0, edge_types="road").nodes == [1]
    assert ab.AttentionGraph(graph, edge_type=None).match("MATCH ()-[:road]->(b) RETURN b").records == [{"b": 1}]


def test_a_matchs_own_attribute_wins():
    graph = nx.DiGraph()
    graph.add_nodes_from([0, 1, 2], embedding=[1.0])
    graph.add_edge(0, 1, type="road", by="rail")
    graph.add_edge(0, 2, type="rail", by="road")
    ag = ab.AttentionGraph(graph, edge_type="by")
    assert ag.match("MATCH ()-[:road]->(b) RETURN b").records == [{"b": 2}]
    assert ag.match("MATCH ()-[:road]->(b) RETURN b", type="type").records == [{"b": 1}]
    assert "-[road]->" in ag.match("MATCH (a)-[:road]->(b) RETURN b").explain()


def test_pictures_name_edges_by_it():
    pytest.importorskip("matplotlib")
    graph = nx.DiGraph()
    graph.add_nodes_from(["a", "b"], embedding=[1.0])
    graph.add_edge("a", "b", type="wrong", by="rail")
    hits = ab.AttentionGraph(graph, edge_type="by").k_hop("a")
    assert any("rail" in text.get_text() for text in hits.plot().axes[0].texts)
    assert any("wrong" in text.get_text() for text in hits.plot(edge_label="type").axes[0].texts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from("RS")), min_size=1, max_size=12))
def test_types_of_arrays_are_those_of_the_graph_that_they_are(edges):
    rows = np.random.default_rng(1).standard_normal((5, 3))
    source, target, types = zip(*edges, strict=True)
    ag = ab.AttentionGraph.from_arrays([source, target], rows, edge_type=np.array(types))
    assert [data["type"] for *_, data in ag.graph.edges(data=True)] == [ag.edge(i)[3]["type"] for i in _order(ag)]
    copied = ab.AttentionGraph(ag.graph)
    kind = types[0]
    for walk in (
        lambda ag: ag.k_hop(source[0], 3, QUERY, edge_types=kind),
        lambda ag: ag.traverse(QUERY, source[0], edge_types=[kind], limit=None),
    ):
        one, other = walk(ag), walk(copied)
        assert one.nodes == other.nodes
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)
    want = sorted((u, v) for u, v, one in edges if one == kind)
    assert sorted(row["a"] * 9 + row["b"] for row in ag.match(f"MATCH (a)-[:{kind}]->(b) RETURN a, b").records) == [
        9 * u + v for u, v in want
    ]
    layer = Typed()
    np.testing.assert_allclose(
        ag.forward(layer).features,
        layer.graph_forward(rows.astype(np.float64), [source, target], edge_type=types)[0],
        rtol=1e-5,
        atol=1e-6,
    )


def _order(ag):
    return [key for *_, key in ag.graph.edges(keys=True)]


@pytest.mark.parametrize(
    ("error", "message", "given"),
    [
        (ab.DimensionMismatchError, "edge_type must have an entry for each of 2 edges, got 1", ["R"]),
        (ab.InvalidInputError, "edge_type must be a text for each edge, of edge 1 it is 3", ["R", 3]),
        (ab.InvalidInputError, "edge_type must be a text for each edge, got 'RS'", "RS"),
        (ab.InvalidInputError, "edge_type must be a text for each edge, got 5", 5),
    ],
)
def test_types_of_arrays_that_cannot_be(error, message, given):
    with pytest.raises(error, match=re.escape(message)):
        ab.AttentionGraph.from_arrays([[0, 1], [1, 0]], [[1.0], [2.0]], edge_type=given)


def test_names_and_types_that_cannot_be():
    graph = nx.DiGraph([(0, 1)])
    nx.set_node_attributes(graph, [1.0], "embedding")
    for name in ("embedding", "weight", "edge_features", "edge_type"):
        message = f"{name} must be an attribute's name, which is hashable, got ['by']"
        with pytest.raises(ab.InvalidConfigError, match=re.escape(message)):
            ab.AttentionGraph(graph, **{name: ["by"]})
    for name in ("label", "edge_label"):
        message = f"{name} must be an attribute's name, which is hashable, got ['by']"
        with pytest.raises(ab.InvalidConfigError, match=re.escape(message)):
            ab.AttentionGraph(graph).k_hop(0).plot(**{name: ["by"]})
    ag = ab.AttentionGraph(graph, edge_type="by")
    message = "got 'R'; known are none: no edge has a text as attribute 'by', edge_type= names another"
    for walk in (ag.k_hop, ag.neighborhood):
        with pytest.raises(ab.InvalidConfigError, match=re.escape(message)):
            walk(0, edge_types="R")
        with pytest.raises(ab.InvalidConfigError, match="edge_types must be a text or a list of texts"):
            walk(0, edge_types=3)
    with pytest.raises(ab.GraphStructureError, match=re.escape("every edge must have attribute 'by', a text, edge (0")):
        ag.forward(Typed())
