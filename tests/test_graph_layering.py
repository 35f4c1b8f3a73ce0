"""Layers and attention over whole attention graphs, on all four classes of graphs."""

import collections
import copy
import pickle
import re
import threading

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge.graph_operator import GraphOperator, GraphOutput, refuse_unused

CLASSES = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]
DIRECTIONS = ["in", "out", "both"]
NODES = [-1, -2, 0, 7, "a", "b", (1, "x"), frozenset({3}), 2.5]
DIM = 3

every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


class Weighted(GraphOperator):
    """The sum of the messages, each times its edge's first feature, weight and the length of its type."""

    def __init__(self, edge_dim=None, typed=False, loops=False, weights=True):
        self.edge_dim, self.loops, self.weights = edge_dim, loops, weights
        self.__dict__["needs_edge_type"] = typed
        self.given = None

    def _refuse(self, edge_attr, edge_weight, edge_type):
        if not self.weights:
            refuse_unused("edge_weight", edge_weight, "Weighted", "leave it out")
        assert (edge_attr is None) == (self.edge_dim is None)
        assert (edge_type is None) == (not self.needs_edge_type)

    def _over(self, graph):
        self.given = graph
        rows, edges = graph.X, graph.edges
        factors = np.ones(len(edges.sources), rows.dtype)
        factors *= 1.0 if graph.edge_attr is None else graph.edge_attr[:, 0]
        factors *= 1.0 if graph.edge_weight is None else graph.edge_weight.astype(rows.dtype)
        factors *= 1.0 if graph.edge_type is None else np.array([len(kind) for kind in graph.edge_type], rows.dtype)
        targets = np.repeat(np.arange(len(rows)), np.diff(edges.indptr))
        features = np.zeros_like(rows)
        np.add.at(features, targets, factors[edges.numbers][:, None] * rows[edges.sources])
        if self.loops:
            features += rows
            factors = np.append(factors, np.ones(len(rows), rows.dtype))
        return GraphOutput(features + 1.0, factors)  # the 1 is a bias


def edges_of(graph):
    return list(graph.edges(**({"keys": True} if graph.is_multigraph() else {})))


def columns(graph, direction):
    """Return the messages as networkx tells them: (source, target, edge)."""
    edges = edges_of(graph)
    along = [(e[0], e[1], e) for e in edges]
    back = [(e[1], e[0], e) for e in edges]
    if graph.is_directed() and direction != "both":
        return along if direction == "in" else back
    return along + [column for column in back if column[0] != column[1]]


@st.composite
def graphs(draw, nodes=NODES):
    kind = draw(st.sampled_from(CLASSES))
    names = draw(st.permutations(nodes))[: draw(st.integers(1, len(nodes)))]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    graph = kind()
    for name in names:
        graph.add_node(name, embedding=rng.standard_normal(DIM).astype(np.float32))
    pairs = st.tuples(st.sampled_from(names), st.sampled_from(names))
    for u, v in draw(st.lists(pairs, max_size=20)):
        weight = {"heavy": float(rng.uniform(0.1, 3.0))} if draw(st.booleans()) else {}
        graph.add_edge(u, v, f=rng.standard_normal(2), type=draw(st.sampled_from(["a", "bb"])), **weight)
    return graph


def sums(values, keys, names):
    out = dict.fromkeys(names, 0.0)
    for value, key in zip(values, keys, strict=True):
        out[key] += value
    return out


# ---- forward: properties


@settings(max_examples=120, deadline=None)
@given(graph=graphs(), direction=st.sampled_from(DIRECTIONS))
def test_edge_index_is_what_networkx_tells(graph, direction):
    ag = ab.AttentionGraph(graph)
    place = {node: i for i, node in enumerate(graph)}
    want = [(place[source], place[target]) for source, target, _ in columns(graph, direction)]
    index = ag.edge_index(direction)
    assert index.dtype == np.int64
    assert index.T.tolist() == [list(pair) for pair in want]


@settings(max_examples=120, deadline=None)
@given(graph=graphs(), direction=st.sampled_from(DIRECTIONS), weight=st.sampled_from([None, "heavy"]))
def test_coefficients_of_a_nodes_in_edges_sum_to_one(graph, direction, weight):
    ag = ab.AttentionGraph(graph, weight=weight)
    output = ag.forward(direction=direction)
    found = columns(graph, direction)
    assert output.coefficients.shape == (len(found),)
    targets = {target for _, target, _ in found}
    totals = sums(output.coefficients.tolist(), [target for _, target, _ in found], graph)
    assert totals == pytest.approx({node: float(node in targets) for node in graph}, abs=1e-5)
    messages = {node: np.zeros(DIM) for node in graph}
    for share, (source, target, _) in zip(output.coefficients, found, strict=True):
        messages[target] += share * graph.nodes[source]["embedding"].astype(np.float64)
    np.testing.assert_allclose(output.features, [messages[node] for node in graph], atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(graph=graphs(), weight=st.sampled_from([None, "heavy"]), direction=st.sampled_from(DIRECTIONS))
def test_coefficients_are_the_weights_of_neighborhood(graph, weight, direction):
    ag = ab.AttentionGraph(graph, weight=weight)
    shares = ag.forward(direction=direction).coefficients.tolist()
    found = collections.Counter()  # parallel edges are one step in a walk
    for share, (source, target, _) in zip(shares, columns(graph, direction), strict=True):
        found[source, target] += share
    for node in graph:
        hits = ag.neighborhood(node, direction=direction)
        want = {(hit.node, node): hit.weights[0] for hit in hits}
        assert {pair: share for pair, share in found.items() if pair[1] == node} == pytest.approx(want, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), direction=st.sampled_from(DIRECTIONS), weight=st.sampled_from([None, "heavy"]))
def test_relabelling_nodes_relabels_results(graph, direction, weight):
    names = {node: f"n{i}" for i, node in enumerate(graph)}
    ours = ab.AttentionGraph(graph, weight=weight)
    theirs = ab.AttentionGraph(nx.relabel_nodes(graph, names), weight=weight)
    assert tuple(names[node] for node in ours.nodes) == theirs.nodes
    mine, other = ours.forward(direction=direction), theirs.forward(direction=direction)
    np.testing.assert_allclose(mine.features, other.features, atol=1e-6)

    def by_names(ag, coefficients, called):
        pairs = [tuple(called(ag.nodes[i]) for i in pair) for pair in ag.edge_index(direction).T.tolist()]
        return sorted((pair, round(float(share), 4)) for pair, share in zip(pairs, coefficients, strict=True))

    assert by_names(ours, mine.coefficients, names.get) == by_names(theirs, other.coefficients, str)
    query = np.ones(DIM, np.float32)
    ranks = {names[node]: rank for node, rank in ours.pagerank(query).items()}
    assert ranks == pytest.approx(theirs.pagerank(query), abs=1e-6)
    some = list(graph)[::2]
    np.testing.assert_allclose(ours.embed(some), theirs.embed([names[node] for node in some]), atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(graph=graphs(), direction=st.sampled_from(DIRECTIONS))
def test_what_edges_have_goes_with_them(graph, direction):
    ag = ab.AttentionGraph(graph, weight="heavy", edge_features="f")
    layer = Weighted(edge_dim=2, typed=True)
    output = ag.forward(layer, direction=direction)
    want = []
    for _, _, edge in columns(graph, direction):
        data = graph.edges[edge]
        want.append(data["f"][0] * data.get("heavy", 1.0) * len(data["type"]))
    np.testing.assert_allclose(output.coefficients, want, rtol=1e-5)
    assert layer.given.X.dtype == np.float32
    assert layer.given.X.flags.c_contiguous


@settings(max_examples=40, deadline=None)
@given(graph=graphs(), direction=st.sampled_from(DIRECTIONS))
def test_edits_in_place_are_seen_after_refresh_and_not_before(graph, direction):
    ag = ab.AttentionGraph(graph, weight="heavy", edge_features="f")

    def run():
        return ag.forward(Weighted(edge_dim=2, typed=True), direction=direction)

    before = run()
    for node in graph:
        graph.nodes[node]["embedding"] = 2.0 * graph.nodes[node]["embedding"]
    for edge in edges_of(graph):
        graph.edges[edge].update(f=3.0 * graph.edges[edge]["f"], type=2 * graph.edges[edge]["type"], heavy=5.0)
    same = run()
    np.testing.assert_array_equal(same.features, before.features)
    np.testing.assert_array_equal(same.coefficients, before.coefficients)
    ag.refresh()
    fresh = ab.AttentionGraph(graph, weight="heavy", edge_features="f")
    after = run()
    want = fresh.forward(Weighted(edge_dim=2, typed=True), direction=direction)
    np.testing.assert_array_equal(after.features, want.features)
    np.testing.assert_array_equal(after.coefficients, want.coefficients)
    assert np.abs(after.features - before.features).max() > 0.0 or not graph.number_of_edges()


# ---- forward: by hand


def line(kind=nx.DiGraph, **options):
    """Return a -> b -> c, b -> b, and an attention graph of it."""
    graph = kind([("a", "b"), ("b", "c"), ("b", "b")])
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [2.0, 2.0]}
    nx.set_node_attributes(graph, {node: np.array(row, np.float32) for node, row in vectors.items()}, "embedding")
    return graph, ab.AttentionGraph(graph, **options)


@pytest.mark.parametrize(
    ("direction", "pairs", "features"),
    [
        ("in", ["ab", "bc", "bb"], [[1.0, 1.0], [2.0, 2.0], [1.0, 2.0]]),
        ("out", ["ba", "cb", "bb"], [[1.0, 2.0], [3.0, 4.0], [1.0, 1.0]]),
        ("both", ["ab", "bc", "bb", "ba", "cb"], [[1.0, 2.0], [4.0, 4.0], [1.0, 2.0]]),
    ],
)
def test_directions_by_hand(direction, pairs, features):
    _, ag = line()
    output = ag.forward(Weighted(), direction=direction)
    assert output.features.tolist() == features
    assert ["".join(ag.nodes[i] for i in pair) for pair in ag.edge_index(direction).T.tolist()] == pairs


@every_direction
def test_undirected_edges_carry_messages_both_ways(direction):
    _, ag = line(nx.Graph)
    assert ["".join(ag.nodes[i] for i in pair) for pair in ag.edge_index(direction).T.tolist()] == [
        "ab",
        "bc",
        "bb",
        "ba",
        "cb",
    ]
    assert ag.forward(Weighted(), direction=direction).features.tolist() == [[1.0, 2.0], [4.0, 4.0], [1.0, 2.0]]


def test_parallel_edges_are_messages_of_their_own():
    graph = nx.MultiDiGraph([("a", "b"), ("a", "b"), ("c", "b")])
    nx.set_node_attributes(graph, {"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [1.0, 0.0]}, "embedding")
    np.testing.assert_allclose(ab.AttentionGraph(graph).forward().coefficients, [1 / 3] * 3, rtol=1e-6)


def test_the_default_is_the_graphs_own_attention():
    _, ag = line(attention="scaled_dot", scale=2.0)
    rows, index = [[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], ag.edge_index()
    want = ab.ScaledDotProductAttention(scale=2.0).graph_forward(rows, index)
    for output in (ag.forward(), ag.forward(ab.ScaledDotProductAttention(scale=2.0))):
        np.testing.assert_array_equal(output.coefficients, want.coefficients)
        np.testing.assert_array_equal(output.features, want.features)


def test_edge_features_reach_graph_attention():
    graph, _ = line()
    features = {("a", "b"): [1.0, 0.5], ("b", "c"): [0.0, 2.0], ("b", "b"): [-1.0, 0.25]}
    nx.set_edge_attributes(graph, features, "f")
    layer = ab.GraphAttention(in_dim=2, edge_dim=2, seed=3)
    ag = ab.AttentionGraph(graph, edge_features="f")
    rows = [graph.nodes[node]["embedding"] for node in graph]
    want = layer.graph_forward(rows, ag.edge_index(), [features[edge] for edge in graph.edges])
    np.testing.assert_array_equal(ag.forward(layer).coefficients, want.coefficients)
    arrays = ab.AttentionGraph.from_arrays(
        ag.edge_index(), rows, edge_features=[features[edge] for edge in graph.edges]
    )
    np.testing.assert_array_equal(arrays.forward(layer).coefficients, want.coefficients)
    assert arrays.graph.edges[0, 1, 0]["features"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "features",
    [
        [np.float32([1, 2]), np.float32([3, 4]), np.float32([5, 6])],
        [np.float64([1, 2]), np.float32([3, 4]), [5, 6]],
        [(1, 2), [3.0, 4], np.array([5, 6])],
    ],
)
def test_edge_features_of_any_numbers(features):
    graph, _ = line()
    for edge, value in zip(graph.edges, features, strict=True):
        graph.edges[edge]["f"] = value
    layer = Weighted(edge_dim=2)
    ab.AttentionGraph(graph, edge_features="f").forward(layer)
    assert layer.given.edge_attr.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_features_of_no_edges():
    ag = ab.AttentionGraph.from_arrays([[], []], [[1.0, 2.0]])
    layer = Weighted(edge_dim=4)
    assert ag.forward(layer).features.tolist() == [[1.0, 1.0]]
    assert layer.given.edge_attr.shape == (0, 4)


def test_a_key_is_a_type_where_there_is_no_attribute():
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", "likes")
    graph.add_edge("a", "b", "x", type="knows well")
    nx.set_node_attributes(graph, [1.0], "embedding")
    layer = Weighted(typed=True)
    ab.AttentionGraph(graph).forward(layer, direction="both")
    assert layer.given.edge_type == ["likes", "knows well"] * 2


def test_float64_embeddings_stay_what_they_are():
    graph, _ = line()
    graph.nodes["b"]["embedding"] = np.array([0.1, 0.2])
    layer = Weighted()
    ab.AttentionGraph(graph).forward(layer)
    assert layer.given.X.dtype == np.float64
    assert layer.given.X.tolist() == [[1.0, 0.0], [0.1, 0.2], [2.0, 2.0]]


@every_direction
def test_layers_of_the_library_run_over_a_graph(direction):
    graph, _ = line(nx.MultiDiGraph)
    for number, edge in enumerate(edges_of(graph)):
        graph.edges[edge].update(f=[0.5 * number, 1.0], type="ab"[number % 2])
    ag = ab.AttentionGraph(graph, edge_features="f")
    X, index = [graph.nodes[node]["embedding"] for node in graph], ag.edge_index(direction)  # noqa: N806
    numbers = [edges_of(graph).index(edge) for _, _, edge in columns(graph, direction)]
    features = [[0.5 * number, 1.0] for number in numbers]
    gat = ab.GATConv(2, 3, heads=2, edge_dim=2)
    want = gat.graph_forward(X, index, features)
    found = ag.forward(gat, direction=direction)
    np.testing.assert_array_equal(found.features, want.features)
    np.testing.assert_array_equal(found.coefficients, want.coefficients)  # of the loops too
    plain = ab.GATv2Conv(2, 3, add_self_loops=False)
    for a, b in [(plain, {}), (ab.GATv2Conv(2, 3, add_self_loops=False, edge_dim=2), {"edge_attr": features})]:
        layer = ab.HeteroConv({"a": a, "b": plain})
        want = layer.graph_forward(X, index, **b, edge_type=["ab"[number % 2] for number in numbers])
        np.testing.assert_array_equal(ag.forward(layer, direction=direction).features, want.features)


# ---- missing embeddings


@pytest.mark.parametrize("loops", [False, True])
def test_a_node_that_is_skipped_takes_and_sends_nothing(loops):
    graph, _ = line()
    graph.add_edge("c", "a")
    del graph.nodes["c"]["embedding"]
    ag = ab.AttentionGraph(graph, missing="skip", weight="heavy")
    graph.edges["a", "b"]["heavy"] = 3.0
    layer = Weighted(loops=loops)
    output = ag.forward(layer)
    assert ag.edge_index().T.tolist() == [[0, 1], [1, 2], [1, 1], [2, 0]]
    assert output.coefficients.tolist() == [3.0, 0.0, 1.0, 0.0] + [1.0, 1.0, 0.0] * loops
    assert output.features.tolist() == [[1.0 + loops, 1.0], [4.0, 2.0 + loops], [0.0, 0.0]]
    assert len(layer.given.edge_weight) == 2
    both = ag.forward(Weighted(), direction="both")
    assert both.coefficients.tolist() == [3.0, 0.0, 1.0, 0.0, 3.0, 0.0, 0.0]


def test_a_skipped_node_without_edges_has_no_features():
    graph = nx.Graph([("a", "b")])
    nx.set_node_attributes(graph, [1.0], "embedding")
    graph.add_node("alone")
    output = ab.AttentionGraph(graph, missing="skip").forward(Weighted(loops=True))
    assert output.features.tolist() == [[3.0], [3.0], [0.0]]
    assert output.coefficients.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_missing_embeddings_may_be_zero():
    graph, _ = line()
    del graph.nodes["a"]["embedding"]
    layer = Weighted()
    ab.AttentionGraph(graph, missing="zero").forward(layer)
    assert layer.given.X.tolist() == [[0.0, 0.0], [0.0, 1.0], [2.0, 2.0]]


def test_embeddings_that_cannot_be_are_named():
    graph, ag = line()
    for value, error, message in [
        (None, ab.GraphStructureError, "node 'b' has none"),
        ([1.0], ab.DimensionMismatchError, "embedding of node 'b' must have dimension 2 as node 'a' has, got 1"),
        (["x", "y"], ab.InvalidInputError, "embedding of node 'b' must be real numbers"),
        ([1.0, np.nan], ab.InvalidInputError, "embedding of node 'b' must be finite: position 1 is nan"),
    ]:
        graph.nodes["b"]["embedding"] = value
        for call in (ag.forward, ag.embed):
            with pytest.raises(error, match=re.escape(message)):
                call()
    graph.nodes["b"]["embedding"] = [0.0, 1.0]
    ag.forward()  # nothing is left of what failed


def test_without_any_embedding_left_there_is_nothing_to_compute():
    graph, _ = line()
    ag = ab.AttentionGraph(graph, missing="skip")
    for node in graph:
        del graph.nodes[node]["embedding"]
    for call in (ag.forward, ag.embed):
        with pytest.raises(ab.GraphStructureError, match="no node has an embedding, attribute 'embedding': set it"):
            call()
    with pytest.raises(ab.GraphStructureError, match="no node has an embedding, attribute 'embedding': set it"):
        ag.pagerank([1.0, 0.0])


# ---- what is refused


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, ab.GraphStructureError, "every edge must have attribute 'f', edge ('b', 'c') has none; set it"),
        ([1.0], ab.DimensionMismatchError, "attribute 'f' of edge ('b', 'c') must have dimension 2, got 1"),
        (1.0, ab.DimensionMismatchError, "attribute 'f' of edge ('b', 'c') must be one vector (d,), got shape ()"),
        (["x", "y"], ab.InvalidInputError, "attribute 'f' of edge ('b', 'c') must be real numbers"),
        ([1.0, np.nan], ab.InvalidInputError, "attribute 'f' of edge ('b', 'c') must be finite: position 1 is nan"),
        (np.float32([np.inf, 1]), ab.InvalidInputError, "attribute 'f' of edge ('b', 'c') must be finite"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_edge_features_that_cannot_be_are_named(value, error, message, plain):
    graph, ag = line(edge_features="f")
    for edge in graph.edges:
        graph.edges[edge]["f"] = [1.0, 2.0] if plain else np.float32([1, 2])
    graph.edges["b", "c"]["f"] = value
    with pytest.raises(error, match=re.escape(message)):
        ag.forward(Weighted(edge_dim=2))
    ag.forward(Weighted())  # has no use for them


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([[1.0]], ab.DimensionMismatchError, "edge_features must have a row for each of 2 edges, got 1"),
        ([1.0, 2.0], ab.DimensionMismatchError, "edge_features must be rows (n, d), got shape (2,)"),
        ([[1.0], [np.nan]], ab.InvalidInputError, "edge_features must be finite: row 1, column 0 is nan"),
        ([["x"], ["y"]], ab.InvalidInputError, "edge_features must be real numbers"),
    ],
)
def test_edge_features_as_arrays_that_cannot_be(features, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ab.AttentionGraph.from_arrays([[0, 0], [1, 1]], [[1.0], [2.0]], edge_features=features)


def test_a_layer_that_needs_edge_features_says_where_to_get_them():
    _, ag = line()
    with pytest.raises(ab.InvalidConfigError, match="edge_dim=2; AttentionGraph with edge_features= has some"):
        ag.forward(Weighted(edge_dim=2))


def test_weights_that_a_layer_has_no_use_for_are_refused():
    graph, ag = line(weight="heavy")
    message = "edge_weight must be left out with Weighted.*; AttentionGraph without weight= has none"
    with pytest.raises(ab.InvalidConfigError, match=message):
        ag.forward(Weighted(weights=False))
    ab.AttentionGraph(graph).forward(Weighted(weights=False))


def test_types_that_are_missing_are_refused():
    graph, ag = line()
    nx.set_edge_attributes(graph, {("a", "b"): "x", ("b", "c"): 3, ("b", "b"): "x"}, "type")
    message = "every edge must have attribute 'type', a text, edge ('b', 'c') has none; set it"
    with pytest.raises(ab.GraphStructureError, match=re.escape(message)):
        ag.forward(Weighted(typed=True))
    arrays = ab.AttentionGraph.from_arrays([[0], [0]], [[1.0]])
    with pytest.raises(ab.GraphStructureError, match="these of arrays have none; from_arrays takes them as edge_type="):
        arrays.forward(Weighted(typed=True))


@pytest.mark.parametrize("call", ["forward", "edge_index"])
def test_an_unknown_direction_is_refused(call):
    _, ag = line()
    with pytest.raises(ab.InvalidConfigError, match="direction must be one of both, in, out; got 'up'"):
        getattr(ag, call)(direction="up")


def test_what_is_no_layer_is_refused():
    _, ag = line()
    with pytest.raises(ab.InvalidConfigError, match=re.escape("layer must be a GraphOperator such as GATConv(...)")):
        ag.forward("gat")


def test_a_weight_that_cannot_be_is_named():
    graph, ag = line(weight="heavy")
    graph.edges["b", "c"]["heavy"] = -1.0
    for call in (ag.forward, lambda: ag.pagerank([1.0, 0.0])):
        with pytest.raises(ab.InvalidConfigError, match=re.escape("attribute 'heavy' of edge ('b', 'c')")):
            call()


# ---- the snapshot


@every_class
def test_another_topology_is_seen_without_refresh(kind):
    graph, ag = line(kind)
    ag.forward()
    graph.add_node("d", embedding=np.ones(2, np.float32))
    graph.add_edge("d", "a")
    output = ag.forward()
    assert len(output.features) == 4
    assert output.features[0].tolist() == [1.0, 1.0] if graph.is_directed() else len(output.coefficients) == 7


def test_a_view_is_read_anew():
    graph, _ = line()
    ag = ab.AttentionGraph(graph.subgraph(["a", "b"]))
    assert ag.forward(Weighted()).features.tolist() == [[1.0, 1.0], [2.0, 2.0]]
    graph.nodes["a"]["embedding"] = [5.0, 0.0]
    assert ag.forward(Weighted()).features.tolist() == [[1.0, 1.0], [6.0, 2.0]]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda ag: pickle.loads(pickle.dumps(ag))])
def test_copies_begin_without_a_snapshot(again):
    _, ag = line()
    before = ag.forward(Weighted())
    twin = again(ag)
    for node in twin.graph:
        twin.graph.nodes[node]["embedding"] = np.float32([3, 3])
    assert twin.forward(Weighted()).features.tolist() == [[1.0, 1.0], [7.0, 7.0], [4.0, 4.0]]
    np.testing.assert_array_equal(ag.forward(Weighted()).features, before.features)


def test_readers_never_see_a_half_made_snapshot():
    """Embeddings are all of one number at any time; a snapshot read before a refresh does not outlive it."""
    graph = nx.gnm_random_graph(300, 900, seed=1, directed=True)
    shared = np.zeros(1, np.float32)
    nx.set_node_attributes(graph, shared, "embedding")
    ag = ab.AttentionGraph(graph, attention="scaled_dot")
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            layer = Weighted()
            ag.forward(layer)
            if len(np.unique(layer.given.X)) != 1:
                wrong.append(layer.given.X)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 60):
        shared[0] = number
        ag.refresh()
        layer = Weighted()
        ag.forward(layer)
        if layer.given.X[0, 0] != number:
            wrong.append((number, layer.given.X[0, 0]))
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong


# ---- embed


@pytest.mark.parametrize(
    ("attention", "options"),
    [("gat", {}), ("scaled_dot", {"scale": 2.0}), ("linear", {}), ("multi_head", {"num_heads": 3})],
)
def test_embed_is_attention_with_the_mean_as_query(attention, options):
    rng = np.random.default_rng(3)
    graph = nx.path_graph(6)
    rows = rng.standard_normal((6, 6)).astype(np.float32)
    nx.set_node_attributes(graph, dict(enumerate(rows)), "embedding")
    ag = ab.AttentionGraph(graph, attention=attention, **options)
    for nodes, chosen in [(None, rows), ([4, 1, 1, 4], rows[[1, 4]]), (iter([5]), rows[[5]]), (2, rows[[2]])]:
        want = ab.attention(chosen.mean(axis=0), chosen, chosen, attention, **options)
        np.testing.assert_allclose(ag.embed(nodes), want, rtol=1e-5, atol=1e-6)
    arrays = ab.AttentionGraph.from_arrays([[0], [1]], rows, attention=attention, **options)
    np.testing.assert_array_equal(arrays.embed([1, 4]), ag.embed([1, 4]))
    arrays = ab.AttentionGraph.from_arrays([[0], [1]], rows.astype(np.float64), attention=attention, **options)
    assert arrays.embed().dtype == np.float64


def test_embed_reads_embeddings_as_they_are_now_and_passes_over_skipped_nodes():
    graph, _ = line()
    ag = ab.AttentionGraph(graph, missing="skip")
    ag.forward()
    graph.nodes["a"]["embedding"] = [7.0, 7.0]
    assert ag.embed("a").tolist() == [7.0, 7.0]
    del graph.nodes["b"]["embedding"]
    np.testing.assert_array_equal(ag.embed(["a", "b", "c"]), ag.embed(["c", "a"]))
    np.testing.assert_array_equal(ag.embed(graph), ag.embed())
    with pytest.raises(
        ab.GraphStructureError, match="nodes must be some with an embedding, attribute 'embedding', none"
    ):
        ag.embed(["b"])


def test_a_node_may_be_a_tuple():
    graph = nx.Graph([((1, 2), 1), (1, 2)])
    nx.set_node_attributes(graph, {(1, 2): [1.0, 0.0], 1: [0.0, 1.0], 2: [0.0, 3.0]}, "embedding")
    ag = ab.AttentionGraph(graph)
    assert ag.embed((1, 2)).tolist() == [1.0, 0.0]
    assert ag.embed([1, 1]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("nodes", ["nobody", 17, ["a", "nobody"], [["a"]], [None]])
def test_nodes_that_are_not_there(nodes):
    _, ag = line()
    with pytest.raises(nx.NodeNotFound, match="is not in the graph"):
        ag.embed(nodes)


def test_a_subgraph_needs_a_node():
    _, ag = line()
    with pytest.raises(ab.GraphStructureError, match="nodes must be at least one node, got none"):
        ag.embed([])


# ---- pagerank


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), weight=st.sampled_from([None, "heavy"]), alpha=st.sampled_from([0.0, 0.3, 0.85]))
def test_pagerank_is_networkx_personalised_by_attention(graph, weight, alpha):
    query = np.array([0.5, -1.0, 2.0], np.float32)
    ag = ab.AttentionGraph(graph, weight=weight)
    logits = ag.logits(query, range(len(graph)))
    shares = np.exp(logits - logits.max())
    chance = dict(zip(graph, (shares / shares.sum()).tolist(), strict=True))
    want = nx.pagerank(graph, alpha, personalization=chance, weight=weight)
    found = ag.pagerank(query, alpha)
    assert list(found) == list(graph)
    assert found == pytest.approx(want, abs=1e-8)
    assert sum(found.values()) == pytest.approx(1.0)
    for direction in ("in", "both"):
        turned = nx.MultiDiGraph()
        turned.add_nodes_from(graph)
        for source, target, edge in columns(graph, "out" if direction == "in" else "both"):
            turned.add_edge(source, target, **graph.edges[edge])
        want = nx.pagerank(turned, alpha, personalization=chance, weight=weight)
        assert ag.pagerank(query, alpha, direction=direction) == pytest.approx(want, abs=1e-8)


def test_pagerank_of_arrays_and_of_skipped_nodes():
    graph, _ = line()
    graph.edges["b", "c"]["heavy"] = 4.0
    named = ab.AttentionGraph(graph, weight="heavy")
    rows = [graph.nodes[node]["embedding"] for node in graph]
    arrays = ab.AttentionGraph.from_arrays(named.edge_index(), rows, weight=[1.0, 4.0, 1.0])
    ours = named.pagerank([1.0, 0.0])
    assert list(arrays.pagerank([1.0, 0.0]).values()) == pytest.approx(list(ours.values()), abs=1e-9)
    del graph.nodes["c"]["embedding"]
    skipping = ab.AttentionGraph(graph, missing="skip")
    ranks = skipping.pagerank([1.0, 0.0], alpha=0.0)
    assert ranks["c"] == 0.0
    assert skipping.pagerank([1.0, 0.0])["c"] > 0.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"direction": "up"}, ab.InvalidConfigError, "direction must be one of both, in, out; got 'up'"),
        ({"alpha": 1.5}, ab.InvalidConfigError, "alpha must be a finite number >= 0, at most 1, got 1.5"),
        ({"max_iter": 0}, ab.InvalidConfigError, "max_iter must be a whole number >= 1, got 0"),
        ({"tol": 0.0}, ab.InvalidConfigError, "tol must be a finite number > 0, got 0.0"),
        ({"max_iter": 1, "tol": 1e-12}, nx.PowerIterationFailedConvergence, "1 iterations"),
    ],
)
def test_what_pagerank_cannot_be_asked(options, error, message):
    _, ag = line()
    with pytest.raises(error, match=message):
        ag.pagerank([1.0, 0.0], **options)
    with pytest.raises(ab.DimensionMismatchError, match="query must have dimension 2 as the embeddings have, got 1"):
        ag.pagerank([1.0])
