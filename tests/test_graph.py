"""Attention graphs against slow walks by networkx itself in float64, on all four classes of graphs."""

import copy
import itertools
import math
import pickle
import threading

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge.integrations import graph_data

CLASSES = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]
DIRECTIONS = ["out", "in", "both"]
NODES = [-1, -2, 0, 7, 2**70, "a", "b", (1, "x"), frozenset({3}), 2.5]  # -1 and -2 have one hash
DIM = 5

every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


# ---- the truth


def steps_from(graph, node, direction, weight):
    """Return {neighbour: (summed weight, heaviest edges)} as networkx tells it."""
    keyed = {"keys": True} if graph.is_multigraph() else {}
    if not graph.is_directed():
        found = [(e[1], e) for e in graph.edges(node, **keyed)]
    else:
        found = [(e[1], e) for e in graph.out_edges(node, **keyed)] if direction != "in" else []
        if direction != "out":
            found += [(e[0], e) for e in graph.in_edges(node, **keyed) if direction == "in" or e[0] != e[1]]
    steps = {}
    for other, edge in found:
        steps.setdefault(other, []).append((1.0 if weight is None else graph.edges[edge].get(weight, 1.0), edge))
    return {other: (sum(heavy for heavy, _ in edges), heaviest(edges)) for other, edges in steps.items()}


def heaviest(edges):
    most = max(heavy for heavy, _ in edges)
    return [edge for heavy, edge in edges if heavy == most]


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return 10.0 * float(a @ b / math.sqrt((a @ a) * (b @ b)))


def step_weights(graph, node, query, direction, weight):
    """Return {neighbour: attention weight}."""
    steps = steps_from(graph, node, direction, weight)
    shares = {n: w * math.exp(cosine(query, graph.nodes[n]["embedding"]) - 10.0) for n, (w, _) in steps.items()}
    return {n: share / sum(shares.values()) for n, share in shares.items()}


def turned(graph, direction):
    """Return a graph whose edges go out where ours are gone in a direction."""
    if not graph.is_directed() or direction == "out":
        return graph
    return graph.reverse() if direction == "in" else graph.to_undirected()


def best_paths(graph, node, k, query, direction, weight):
    """Return {node: the largest log-sum of the shortest paths to it}, by enumerating those."""
    within = nx.single_source_shortest_path_length(turned(graph, direction), node, cutoff=k)
    weights = {n: step_weights(graph, n, query, direction, weight) for n in graph}
    simple = nx.DiGraph(turned(graph, direction))
    best = {}
    for target in within:
        paths = nx.all_shortest_paths(simple, node, target)
        best[target] = max(sum(math.log(weights[a][b]) for a, b in itertools.pairwise(p)) for p in paths)
    return within, weights, best


@st.composite
def graphs(draw, nodes=NODES):
    kind = draw(st.sampled_from(CLASSES))
    count = draw(st.integers(1, len(nodes)))
    names = draw(st.permutations(nodes))[:count]
    graph = kind()
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for name in names:
        graph.add_node(name, embedding=rng.standard_normal(DIM).astype(np.float32))
    pairs = st.tuples(st.sampled_from(names), st.sampled_from(names))
    for u, v in draw(st.lists(pairs, max_size=25)):
        if draw(st.booleans()):
            graph.add_edge(u, v, heavy=float(rng.uniform(0.1, 3.0)))
        else:
            graph.add_edge(u, v)
    return graph


walks = given(
    graph=graphs(), direction=st.sampled_from(DIRECTIONS), weight=st.sampled_from([None, "heavy"]), data=st.data()
)


# ---- walks


@settings(max_examples=150, deadline=None)
@walks
def test_k_hop_is_the_best_of_all_shortest_paths(graph, direction, weight, data):
    start, k = data.draw(st.sampled_from(list(graph))), data.draw(st.integers(0, 4))
    query = data.draw(st.sampled_from([None, np.linspace(-1.0, 1.0, DIM)]))
    hits = ab.AttentionGraph(graph, weight=weight).k_hop(start, k, query, direction=direction)
    asked = graph.nodes[start]["embedding"] if query is None else query
    within, weights, best = best_paths(graph, start, k, asked, direction, weight)
    assert {hit.node: hit.hop for hit in hits} == within
    assert len(hits) == hits.visited == len(within)
    assert hits.complete
    for hit in hits:
        assert hit.score == pytest.approx(cosine(asked, graph.nodes[hit.node]["embedding"]), abs=1e-5)
        assert hit.log_weight == pytest.approx(best[hit.node], abs=1e-4)
        assert hit.log_weight == pytest.approx(sum(map(math.log, hit.weights)), abs=1e-9)
        assert (hit.path[0], hit.path[-1], len(hit.path) - 1) == (start, hit.node, hit.hop)
        for a, b, edge, share in zip(hit.path, hit.path[1:], hit.edges, hit.weights, strict=False):
            assert share == pytest.approx(weights[a][b], abs=1e-5)
            others = steps_from(graph, a, direction, weight)[b][1]
            assert edge in others or (not graph.is_directed() and (edge[1], edge[0], *edge[2:]) in others)
            assert edge in graph.edges
    order = {node: i for i, node in enumerate(graph)}
    assert hits.nodes == sorted(hits.nodes, key=lambda n: (-hits.scores[hits.nodes.index(n)], order[n]))


@settings(max_examples=100, deadline=None)
@walks
def test_weights_of_the_steps_from_a_node_sum_to_one(graph, direction, weight, data):
    start = data.draw(st.sampled_from(list(graph)))
    hits = ab.AttentionGraph(graph, weight=weight).neighborhood(start, direction=direction)
    want = step_weights(graph, start, graph.nodes[start]["embedding"], direction, weight)
    assert {hit.node: hit.weights[0] for hit in hits} == pytest.approx(want, abs=1e-5)
    assert all(hit.path == [start, hit.node] and hit.hop == 1 for hit in hits)
    if hits:
        assert sum(hit.weights[0] for hit in hits) == pytest.approx(1.0, abs=1e-12)
    else:
        assert not steps_from(graph, start, direction, None)


@settings(max_examples=60, deadline=None)
@walks
def test_relabelling_nodes_relabels_results(graph, direction, weight, data):
    names = {node: f"n{i}" for i, node in enumerate(graph)}
    other = nx.relabel_nodes(graph, names)
    start = data.draw(st.sampled_from(list(graph)))
    ours = ab.AttentionGraph(graph, weight=weight).k_hop(start, 3, direction=direction)
    theirs = ab.AttentionGraph(other, weight=weight).k_hop(names[start], 3, direction=direction)
    assert [names[node] for node in ours.nodes] == theirs.nodes
    assert [[names[node] for node in hit.path] for hit in ours] == [hit.path for hit in theirs]
    assert ours.scores.tolist() == theirs.scores.tolist()
    assert ours.log_weights.tolist() == pytest.approx(theirs.log_weights.tolist(), abs=1e-12)


@settings(max_examples=60, deadline=None)
@walks
def test_a_limit_of_nodes_keeps_near_ones_and_the_best_paths(graph, direction, weight, data):
    ag = ab.AttentionGraph(graph, weight=weight)
    start, most = data.draw(st.sampled_from(list(graph))), data.draw(st.integers(1, len(graph)))
    every = ag.k_hop(start, 9, direction=direction)
    hits = ag.k_hop(start, 9, direction=direction, max_nodes=most)
    best = sorted(every, key=lambda hit: (hit.hop, -hit.log_weight))[:most]
    assert {hit.node for hit in hits} == {hit.node for hit in best}
    assert hits.complete == (len(every) <= most)
    assert ag.k_hop(start, 9, direction=direction, limit=most)[:] == every[:most]


def test_a_walk_by_hand():
    graph = nx.DiGraph([("home", "left"), ("home", "right"), ("left", "goal"), ("left", "no"), ("right", "goal")])
    values = {"home": 0.0, "left": math.log(3.0), "right": 0.0, "goal": 0.0, "no": math.log(4.0)}
    nx.set_node_attributes(graph, {node: np.array([value]) for node, value in values.items()}, "embedding")
    hits = ab.AttentionGraph(graph, attention="scaled_dot", scale=1.0).k_hop("home", 2, [1.0])
    assert hits.nodes == ["no", "left", "home", "right", "goal"]  # best first, equal ones as they were added
    by = {hit.node: hit for hit in hits}
    assert by["left"].weights == pytest.approx([3 / 4])
    assert by["no"].weights == pytest.approx([3 / 4, 4 / 5])
    assert by["goal"].path == ["home", "right", "goal"]  # 1/4 * 1 is more than 3/4 * 1/5
    assert by["goal"].edges == [("home", "right"), ("right", "goal")]
    assert by["goal"].log_weight == pytest.approx(math.log(1 / 4))
    assert by["home"][3:] == (["home"], [], [], 0.0)


def test_of_equally_good_paths_the_first_node_counts():
    graph = nx.Graph([("c", "b"), ("c", "a"), ("b", "goal"), ("a", "goal")])
    nx.set_node_attributes(graph, [1.0, 1.0], "embedding")
    hits = ab.AttentionGraph(graph).k_hop("c")
    assert hits.nodes == ["c", "b", "a", "goal"]
    assert hits[3].path == ["c", "b", "goal"]


def test_parallel_edges_are_one_step_by_the_heaviest():
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", "light", w=1.0)
    graph.add_edge("a", "b", "heavy", w=2.0)
    graph.add_edge("a", "b", "as heavy", w=2.0)
    graph.add_edge("a", "c")
    graph.add_edge("b", "a", "back", w=9.0)
    nx.set_node_attributes(graph, [1.0], "embedding")
    plain = ab.AttentionGraph(graph).neighborhood("a")
    assert [(hit.node, hit.edges[0]) for hit in plain] == [("b", ("a", "b", "light")), ("c", ("a", "c", 0))]
    assert [hit.weights[0] for hit in plain] == pytest.approx([3 / 4, 1 / 4])
    assert [hit.weights[0] for hit in ab.AttentionGraph(graph).k_hop("a", 1)[1:]] == pytest.approx([3 / 4, 1 / 4])
    weighted = ab.AttentionGraph(graph, weight="w").neighborhood("a")
    assert weighted[0].edges == [("a", "b", "heavy")]
    assert [hit.weights[0] for hit in weighted] == pytest.approx([5 / 6, 1 / 6])
    both = ab.AttentionGraph(graph, weight="w").neighborhood("a", direction="both")
    assert both[0].edges == [("b", "a", "back")]
    assert [hit.weights[0] for hit in both] == pytest.approx([14 / 15, 1 / 15])


@every_class
def test_loops_and_isolated_nodes(kind):
    graph = kind([("a", "a")])
    graph.add_node("alone")
    nx.set_node_attributes(graph, [1.0], "embedding")
    ag = ab.AttentionGraph(graph)
    for direction in DIRECTIONS:
        loop = ag.neighborhood("a", direction=direction)
        assert [(hit.node, hit.hop, hit.path, hit.weights) for hit in loop] == [("a", 1, ["a", "a"], [1.0])]
        assert len(ag.neighborhood("alone", direction=direction)) == 0
        assert ag.k_hop("alone", 5, direction=direction).nodes == ["alone"]
        assert ag.k_hop("a", 5, direction=direction)[0].path == ["a"]  # the shortest


# ---- arrays


@settings(max_examples=150, deadline=None)
@given(graph=graphs())
def test_arrays_are_the_graph(graph):
    ag = ab.AttentionGraph(graph)
    nodes, keyed = list(graph), {"keys": True} if graph.is_multigraph() else {}
    edges = list(graph.edges(**keyed))
    assert list(ag.nodes) == nodes
    assert [ag.position(node) for node in nodes] == list(range(len(nodes)))
    assert ag.graph is graph
    for number, edge in enumerate(edges):
        source, target, key, attributes = ag.edge(number)
        assert (source, target) == edge[:2]
        assert key == (edge[2] if keyed else None)
        assert attributes is graph.edges[edge]
    for direction in DIRECTIONS:
        indptr, indices, numbers = ag.edges(direction)
        assert [array.dtype for array in (indptr, indices, numbers)] == [np.int64] * 3
        assert not any(array.flags.writeable for array in (indptr, indices, numbers))
        assert indptr[0] == 0
        assert len(indptr) == len(nodes) + 1
        for i, node in enumerate(nodes):
            row = slice(indptr[i], indptr[i + 1])
            found = sorted(zip(indices[row].tolist(), numbers[row].tolist(), strict=True))
            assert found == sorted(entries(edges, nodes, node, direction, graph.is_directed()))


def entries(edges, nodes, node, direction, directed):
    """Yield neighbour and number of each edge that is gone from a node, a loop once."""
    for number, (source, target, *_) in enumerate(edges):
        if source == node and (direction != "in" or not directed or target == node):
            yield nodes.index(target), number
        elif target == node and (direction != "out" or not directed):
            yield nodes.index(source), number


def test_neighbours_are_in_the_order_of_insertion():
    graph = nx.Graph([("b", "z"), ("b", "a"), ("c", "b"), ("b", "m")])
    nx.set_node_attributes(graph, [1.0], "embedding")
    indptr, indices, _ = ab.AttentionGraph(graph).edges("out")
    nodes = list(graph)
    assert [nodes[i] for i in indices[indptr[0] : indptr[1]]] == list(graph["b"]) == ["z", "a", "c", "m"]


@pytest.fixture
def arrays(rng):
    return rng.integers(0, 12, (2, 40)), rng.standard_normal((12, DIM)), rng.uniform(0.5, 2.0, 40)


@every_direction
def test_arrays_walk_as_the_graph_that_they_are(arrays, direction):
    edges, rows, weight = arrays
    ag = ab.AttentionGraph.from_arrays(edges, rows, weight=weight, temperature=0.5)
    graph = nx.MultiDiGraph()
    graph.add_nodes_from((i, {"embedding": row}) for i, row in enumerate(rows))
    for number, (u, v) in enumerate(edges.T.tolist()):
        graph.add_edge(u, v, number, weight=weight[number])
    want = ab.AttentionGraph(graph, weight="weight", temperature=0.5).k_hop(3, 3, direction=direction)
    assert ag.k_hop(3, 3, direction=direction)[:] == want[:]
    assert nx.utils.graphs_equal(nx.MultiDiGraph(ag.graph.edges(keys=True)), nx.MultiDiGraph(graph.edges(keys=True)))
    assert ag.edge(5) == (*edges[:, 5].tolist(), 5, {"weight": weight[5]})
    assert ag.graph.nodes[4]["embedding"].tolist() == rows[4].tolist()
    with pytest.raises(nx.NetworkXError, match="Frozen"):
        ag.graph.add_edge(0, 1)
    walked = ag.k_hop(3, 3, direction=direction).to_subgraph()
    assert set(walked.edges(keys=True)) <= set(graph.edges(keys=True))


def test_matrices_are_edges_by_row(arrays):
    edges, rows, _ = arrays
    matrix = scipy.sparse.csr_array(
        (np.arange(1.0, 1.0 + edges.shape[1]), (edges[0], edges[1])), shape=(len(rows), len(rows))
    )
    order = matrix.tocoo()
    want = ab.AttentionGraph.from_arrays(np.stack([order.row, order.col]), rows, weight=order.data)
    for form in (matrix, matrix.tocsc(), scipy.sparse.csr_matrix(matrix)):
        ag = ab.AttentionGraph.from_arrays(form, rows, weight=matrix.data)
        assert ag.k_hop(0, 4)[:] == want.k_hop(0, 4)[:]
    assert ab.AttentionGraph.from_arrays(matrix, rows).edge(0)[3] == {}


def test_arrays_without_edges():
    ag = ab.AttentionGraph.from_arrays([[], []], [[1.0], [2.0]])
    assert ag.k_hop(1).nodes == [1]
    assert ag.graph.number_of_edges() == 0


# ---- what changes in the graph


def small(kind=nx.DiGraph):
    graph = kind([("a", "b"), ("b", "c"), ("a", "d")])
    nx.set_node_attributes(graph, {n: np.eye(4, dtype=np.float32)[i] for i, n in enumerate("abcd")}, "embedding")
    return graph


@every_class
def test_attributes_edited_in_place_are_seen(kind):
    graph = small(kind)
    ag = ab.AttentionGraph(graph, weight="w")
    query = [0.0, 1.0, 0.0, 0.0]
    assert ag.k_hop("a", query=query).nodes[0] == "b"
    graph.nodes["c"]["embedding"] = np.array([0.0, 2.0, 0.0, 0.0], np.float32)
    graph.nodes["b"]["embedding"][:] = [0.0, 0.0, 0.0, 1.0]
    assert ag.k_hop("a", query=query).nodes[0] == "c"
    before = {hit.node: hit.weights[0] for hit in ag.neighborhood("a", query)}
    edge = ("a", "b", 0) if graph.is_multigraph() else ("a", "b")
    graph.edges[edge]["w"] = 3
    after = {hit.node: hit.weights[0] for hit in ag.neighborhood("a", query)}
    assert (before["b"], after["b"]) == pytest.approx((1 / 2, 3 / 4))


CHANGES = {
    "add_node": lambda graph: graph.add_node("e", embedding=[1.0, 1.0, 0.0, 0.0]),
    "add_nodes_from": lambda graph: graph.add_nodes_from(["e"], embedding=[1.0, 1.0, 0.0, 0.0]),
    "add_edge": lambda graph: graph.add_edge("c", "a"),
    "add_edges_from": lambda graph: graph.add_edges_from([("d", "c")]),
    "add_weighted_edges_from": lambda graph: graph.add_weighted_edges_from([("d", "c", 2.0)]),
    "update": lambda graph: graph.update([("d", "c")]),
    "remove_node": lambda graph: graph.remove_node("b"),
    "remove_nodes_from": lambda graph: graph.remove_nodes_from(["d"]),
    "remove_edge": lambda graph: graph.remove_edge("b", "c"),
    "remove_edges_from": lambda graph: graph.remove_edges_from([("a", "b")]),
    "clear_edges": lambda graph: graph.clear_edges(),
    "relabel": lambda graph: nx.relabel_nodes(graph, {"b": "beta"}, copy=False),
}


@every_class
@pytest.mark.parametrize("change", CHANGES)
def test_changed_nodes_and_edges_are_seen(kind, change):
    graph = small(kind)
    ag = ab.AttentionGraph(graph)
    ag.k_hop("a", 5)
    CHANGES[change](graph)
    assert list(ag.nodes) == list(graph)
    within = nx.single_source_shortest_path_length(graph, "a")
    assert {hit.node: hit.hop for hit in ag.k_hop("a", 5)} == within
    assert len(ag.topology.ends[0]) == graph.number_of_edges()


def test_a_cleared_graph_has_no_nodes():
    graph = small()
    ag = ab.AttentionGraph(graph)
    graph.clear()
    with pytest.raises(nx.NodeNotFound, match="node 'a' is not in the graph"):
        ag.k_hop("a")


@every_class
def test_the_topology_is_read_once(kind, monkeypatch):
    graph = small(kind)
    reads = []
    read = graph_data.of_graph
    monkeypatch.setattr(graph_data, "of_graph", lambda graph: reads.append(graph) or read(graph))
    ag = ab.AttentionGraph(graph)
    ag.k_hop("a")
    ab.AttentionGraph(graph, attention="scaled_dot").k_hop("b")
    graph.nodes["a"]["embedding"] = np.ones(4, np.float32)
    ag.neighborhood("a")
    assert len(reads) == 1
    graph.add_edge("a", "c")
    ag.k_hop("a")
    ag.k_hop("b")
    assert len(reads) == 2


@every_class
def test_views_are_read_anew(kind):
    graph = small(kind)
    view = graph.subgraph(["a", "b", "d"])
    ag = ab.AttentionGraph(view)
    assert set(ag.k_hop("a").nodes) == {"a", "b", "d"}
    graph.remove_edge("a", "d")
    assert set(ag.k_hop("a").nodes) == {"a", "b"}
    hidden = {"b"}
    ag = ab.AttentionGraph(nx.subgraph_view(graph, filter_node=lambda node: node not in hidden))
    assert ag.k_hop("a").nodes == ["a"]
    hidden.clear()
    assert set(ag.k_hop("a").nodes) == {"a", "b", "c"}


@every_direction
def test_views_of_another_direction(direction):
    graph = small()
    back = {"out": "in", "in": "out", "both": "both"}[direction]
    mine = ab.AttentionGraph(graph).k_hop("b", direction=direction)
    reverse = ab.AttentionGraph(graph.reverse(copy=False)).k_hop("b", direction=back)
    assert [(hit.path, hit.weights) for hit in mine] == [(hit.path, hit.weights) for hit in reverse]
    undirected = ab.AttentionGraph(graph.to_undirected(as_view=True)).k_hop("b", direction=direction)
    assert set(undirected.nodes) == set("abcd")


def test_copies_of_a_graph_do_not_carry_the_topology():
    graph = small()
    ab.AttentionGraph(graph).k_hop("a")
    assert b"Topology" not in pickle.dumps(graph)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        other.remove_edge("a", "b")
        assert set(ab.AttentionGraph(other).k_hop("a").nodes) == {"a", "d"}
    assert set(ab.AttentionGraph(graph).k_hop("a").nodes) == set("abcd")


def test_an_attention_graph_can_be_pickled(arrays):
    graph = small()
    for ag in (ab.AttentionGraph(graph), ab.AttentionGraph.from_arrays(*arrays[:2])):
        other = pickle.loads(pickle.dumps(ag))
        start = ag.nodes[0]
        assert other.k_hop(start)[:] == ag.k_hop(start)[:]


def test_results_stay_what_they_were():
    graph = small()
    hits = ab.AttentionGraph(graph).k_hop("a")
    before = hits[:]
    graph.remove_node("b")
    assert hits[:] == before
    walked = hits.to_subgraph()
    assert walked.nodes["b"].keys() == {"score", "hop"}
    assert walked.edges["a", "b"].keys() == {"attention"}


def some_hidden(graph):
    """Return views of a graph whose edges a filter hides: all between two nodes, or some of parallel ones."""
    kept = [("a", "b", 0), ("c", "d", 0)] if graph.is_multigraph() else [("a", "b"), ("c", "d")]
    yield graph.edge_subgraph(kept)
    yield nx.subgraph_view(graph, filter_edge=lambda u, v, key=0: {u, v} != {"b", "c"} and key != 1)
    yield nx.subgraph_view(graph, filter_edge=lambda u, v, key=0: False)


@pytest.mark.parametrize("direction", DIRECTIONS)
@every_class
def test_views_that_hide_edges_are_as_their_copies(kind, direction):
    graph = kind()
    graph.add_nodes_from((node, {"embedding": row}) for node, row in zip("abcd", np.eye(4) + 0.1, strict=True))
    graph.add_edges_from(["ab", "bc", "ca", "cd", "aa", "ab", "ba", "aa"])
    for view in some_hidden(graph):
        ag, own = ab.AttentionGraph(view), ab.AttentionGraph(view.copy())
        query, pattern = np.arange(4.0), "MATCH (a)-[r]->(b) RETURN a, r, b"
        assert ag.topology.named(np.arange(ag.topology.count)) == list(view.edges)
        assert ag.k_hop("a", 2, query, direction=direction)[:] == own.k_hop("a", 2, query, direction=direction)[:]
        assert ag.match(pattern).records == own.match(pattern).records
        for mine, copied in zip(ag.forward(direction=direction), own.forward(direction=direction), strict=True):
            np.testing.assert_array_equal(mine, copied, strict=True)


@pytest.mark.parametrize("kind", [nx.Graph, nx.MultiGraph])
def test_a_filter_that_sees_an_edge_from_one_end_only_is_refused(kind):
    view = nx.subgraph_view(small(kind), filter_edge=lambda u, v, key=0: u < v)
    with pytest.raises(ab.GraphStructureError, match=r"edges of an undirected graph must be seen from both ends"):
        ab.AttentionGraph(view).k_hop("a")


@every_class
def test_a_graph_that_changes_while_it_is_read_is_told_of(kind):
    graph = small(kind)

    class Adding:
        """A node whose hash is asked while the adjacency is gone through: another thread, as it were."""

        def __hash__(self):
            if armed:
                graph.add_edge("d", len(graph))
            return 5

    armed = []
    graph.add_node(Adding(), embedding=np.ones(4))
    for node in "ad":
        graph.add_edge(node, next(n for n in graph if isinstance(n, Adding)))
    ag = ab.AttentionGraph(graph)
    armed.append(True)
    with pytest.raises(ab.GraphStructureError, match="G must not change during a call, it changed while it was read"):
        ag.k_hop("a")


@every_class
def test_a_graph_that_changes_between_two_passes_over_it_is_told_of(kind):
    graph = small(kind)
    edge = next(iter(graph.edges))

    class Removing:
        """A node whose hash is asked when degrees have been counted: another thread, as it were."""

        def __hash__(self):
            if armed:
                armed.clear()
                graph.remove_edge(*edge)
            return 5

    armed = []
    graph.add_node(Removing(), embedding=np.ones(4))
    ag = ab.AttentionGraph(graph)
    armed.append(True)
    with pytest.raises(ab.GraphStructureError, match="G must not change during a call, it changed while it was read"):
        ag.k_hop("a")
    assert ag.topology.count == graph.number_of_edges()  # what was read is not kept


@every_class
def test_no_walk_is_over_half_of_a_graph_before_and_half_after_a_change(kind):
    graph = small(kind)

    class Moving:
        """A node whose hash is asked when degrees have been counted: another thread, as it were."""

        def __hash__(self):
            if armed:
                armed.clear()
                graph.remove_edge("a", "b")
                graph.add_edge("c", "d")  # as many edges as before
            return 5

    armed = []
    graph.add_node(Moving(), embedding=np.ones(4))
    ag = ab.AttentionGraph(graph)
    armed.append(True)
    assert set(ag.neighborhood("a").nodes) == {"d"}
    assert ag.topology.named(np.arange(ag.topology.count)) == list(graph.edges)


@every_class
def test_a_node_that_goes_during_a_call_is_told_of(kind):
    graph = small(kind)
    ag = ab.AttentionGraph(graph)

    def removing(node):
        if "d" in graph:
            graph.remove_node("d")
        return True

    with pytest.raises(ab.GraphStructureError, match=r"G must not change during a call, node 'd' is gone; lock it, or"):
        ag.traverse(np.ones(4), "a", max_hops=5, beam_width=9, direction="both", node_filter=removing)
    data = graph_data.NetworkxData(graph, "embedding", None, "raise")
    topology = data.topology()
    graph.remove_node("a")
    with pytest.raises(ab.GraphStructureError, match=r"G must not change during a call, node 'a' is gone"):
        data.vector(topology, topology.position("a"))


def test_a_views_filter_may_raise_a_key_error():
    view = nx.subgraph_view(small(), filter_node=lambda node: {"a": 1, "b": 1, "c": 1}[node] > 0 if armed else True)
    armed = []
    ag = ab.AttentionGraph(view)
    armed.append(True)
    with pytest.raises(KeyError, match="d"):
        ag.k_hop("a")


def test_other_errors_of_a_views_filter_come_through():
    def broken(node):
        raise RuntimeError("no such table")

    view = nx.subgraph_view(small(), filter_node=lambda node: not armed or broken(node))
    armed = []
    ag = ab.AttentionGraph(view)
    armed.append(True)
    with pytest.raises(RuntimeError, match="no such table"):
        ag.k_hop("a")


def test_threads_walk_alike(rng):
    graph = nx.gnp_random_graph(60, 0.1, seed=1, directed=True)
    nx.set_node_attributes(graph, {n: rng.standard_normal(8).astype(np.float32) for n in graph}, "embedding")
    ag = ab.AttentionGraph(graph)
    found = []
    threads = [threading.Thread(target=lambda: found.append(ag.k_hop(0, 3, direction="both")[:])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(hits == found[0] for hits in found)


# ---- embeddings


@pytest.mark.parametrize("row", [t for t in ab.attention_types() if t["pairwise"]], ids=lambda row: row["name"])
def test_scores_are_those_of_the_attention_type(row, rng):
    rows = 0.2 * rng.standard_normal((9, 8)).astype(np.float32)
    graph = nx.cycle_graph(9)
    nx.set_node_attributes(graph, dict(enumerate(rows)), "embedding")
    ag = ab.AttentionGraph(graph, attention=row["name"])
    want = ab.attention_logits(rows[0], rows, row["name"])
    np.testing.assert_array_equal(ag.logits(rows[0], np.arange(9)), want)
    hits = ag.k_hop(0, 4)
    np.testing.assert_array_equal(hits.scores, want[hits.nodes])
    assert ag.neighborhood(0)[0].weights[0] == pytest.approx(
        float(ab.softmax(want[[1, 8]].astype(np.float64)).max()), abs=1e-12
    )


@pytest.mark.parametrize("row", [t for t in ab.attention_types() if not t["pairwise"]], ids=lambda row: row["name"])
def test_types_that_are_not_pairwise_are_refused(row):
    options = {"position": 0} if row["name"] == "sliding" else {}
    with pytest.raises(
        ab.InvalidConfigError, match=f"attention must be pairwise for a graph's edges, got '{row['name']}'"
    ):
        ab.AttentionGraph(small(), attention=row["name"], **options)


def test_embeddings_of_any_kind_of_number():
    rows = [[1, 2], (0.5, 1.0), np.array([1.0, 0.1]), np.array([3, 1], np.float16), np.array([2, 2]), np.ones(2, ">f8")]
    rows += [np.array([[0.3, 9.0], [0.4, 9.0]], np.float32)[:, 0]]
    graph = nx.star_graph(len(rows) - 1)
    nx.set_node_attributes(graph, dict(enumerate(rows)), "embedding")
    ag = ab.AttentionGraph(graph, attention="scaled_dot", scale=1.0)
    want = [float(np.dot(np.asarray(row, np.float64), [1.0, 2.0])) for row in rows]
    for query in ([1.0, 2.0], np.array([1.0, 2.0])):
        np.testing.assert_allclose(ag.logits(query, np.arange(len(rows))), want, rtol=1e-3)
        hits = ag.k_hop(0, query=query)
        np.testing.assert_allclose(hits.scores, sorted(want, reverse=True), rtol=1e-3)
    for position in range(len(rows)):  # to the bit what it is among others
        assert ag.logits([1.0, 2.0], [position])[0] == ag.logits([1.0, 2.0], np.arange(len(rows)))[position]


def test_embeddings_are_read_some_at_a_time(monkeypatch, rng):
    graph = nx.complete_graph(23)
    rows = rng.standard_normal((23, 3)).astype(np.float32)
    nx.set_node_attributes(graph, dict(enumerate(rows)), "embedding")
    for ag in (ab.AttentionGraph(graph), ab.AttentionGraph.from_arrays(np.array(graph.edges).T, rows)):
        whole = ag.logits(rows[0], [5, *range(23)])
        monkeypatch.setattr(graph_data, "_BLOCK", 5 * 8 * 3)
        assert ag.logits(rows[0], [5, *range(23)]).tolist() == whole.tolist()
        monkeypatch.undo()
    assert ag.logits([1.0, 2.0, 3.0], []).shape == (0,)


def test_other_names_of_attributes():
    graph = nx.Graph()
    graph.add_node("a", vector=[1.0])
    graph.add_node("b", vector=[2.0])
    graph.add_edge("a", "b", far=3.0)
    assert ab.AttentionGraph(graph, "vector", weight="far").k_hop("a").nodes == ["a", "b"]


def gaps():
    graph = nx.path_graph(["a", "b", "c", "d"])
    graph.add_edge("a", "x")
    for node, value in {"a": [1.0, 0.0], "c": [1.0, 1.0], "d": [0.0, 1.0], "x": [1.0, 0.5], "b": None}.items():
        graph.nodes[node]["embedding"] = value
    return graph


def test_missing_embeddings_raise():
    graph = gaps()
    with pytest.raises(
        ab.GraphStructureError, match="every node must have attribute 'embedding', node 'b' has none; set"
    ):
        ab.AttentionGraph(graph)
    graph.nodes["b"]["embedding"] = [1.0, 1.0]
    ag = ab.AttentionGraph(graph)
    del graph.nodes["b"]["embedding"]
    for call in (lambda: ag.k_hop("a"), lambda: ag.k_hop("b"), lambda: ag.logits([1.0, 0.0], [1])):
        with pytest.raises(ab.GraphStructureError, match="node 'b' has none"):
            call()


def test_nodes_without_embedding_are_skipped():
    ag = ab.AttentionGraph(gaps(), missing="skip")
    assert ag.k_hop("a", 9).nodes == ["a", "x"]
    assert [(hit.node, hit.weights) for hit in ag.neighborhood("a")] == [("x", [1.0])]
    assert ag.logits([1.0, 0.0], [1, 0]).tolist() == [-math.inf, pytest.approx(10.0)]
    with pytest.raises(ab.GraphStructureError, match="node 'b' must have an embedding to be the query; pass query="):
        ag.k_hop("b")
    hits = ag.k_hop("b", 1, [1.0, 0.0])  # it can be a start, but is no hit
    assert [hit.path for hit in hits] == [["b", "a"], ["b", "c"]]
    assert "score" not in hits.to_subgraph().nodes["b"]


def test_missing_embeddings_are_zero():
    ag = ab.AttentionGraph(gaps(), missing="zero")
    hits = ag.k_hop("a", 9)
    assert set(hits.nodes) == set("abcdx")
    assert {hit.node: hit.score for hit in hits}["b"] == 0.0
    with pytest.raises(ab.GraphStructureError, match="node 'b' must have an embedding to be the query"):
        ag.neighborhood("b")
    assert ag.k_hop("b", 1, [1.0, 0.0])[-1].node == "b"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0, 2.0], ab.DimensionMismatchError, "embedding of node 'b' must have dimension 4 as the query has, got 2"),
        (np.ones(5, np.float32), ab.DimensionMismatchError, "embedding of node 'b' must have dimension 4 as the query"),
        (
            [[1.0] * 4],
            ab.DimensionMismatchError,
            r"embedding of node 'b' must be one vector \(d,\), got shape \(1, 4\)",
        ),
        ([], ab.DimensionMismatchError, "embedding of node 'b' must not be empty"),
        ("text", ab.InvalidInputError, "embedding of node 'b' must be real numbers, got a text: 'text'$"),
        ([1.0, "x", 2.0, 3.0], ab.InvalidInputError, "embedding of node 'b' must be real numbers"),
        ([1.0, None, 2.0, 3.0], ab.InvalidInputError, "embedding of node 'b' must be real numbers: position 1 is None"),
        (
            np.array([0, 1, np.nan, 0], np.float32),
            ab.InvalidInputError,
            "embedding of node 'b' must be finite: position 2",
        ),
        ([0.0, math.inf, 1.0, 0.0], ab.InvalidInputError, "embedding of node 'b' must be finite: position 1 is inf"),
        ([1e300, 0.0, 0.0, 0.0], ab.InvalidInputError, "embedding of node 'b' must fit float32"),
    ],
)
def test_a_bad_embedding_names_its_node(value, error, message):
    graph = small()
    graph.nodes["b"]["embedding"] = value
    ag = ab.AttentionGraph(graph)
    with pytest.raises(error, match=message):
        ag.k_hop("a")
    with pytest.raises(error, match=message):
        ag.logits(np.ones(4), [0, 1])
    with pytest.raises(error, match=message.replace("dimension 4 as the query has, got", ".*")):
        ag.neighborhood("b" if error is ab.InvalidInputError else "a")


def test_an_embedding_that_the_type_cannot_take_names_its_node():
    graph = small()
    ag = ab.AttentionGraph(graph, attention="poincare")
    with pytest.raises(ab.InvalidInputError, match="query must lie inside the ball"):
        ag.k_hop("a", query=[2.0, 0.0, 0.0, 0.0])
    for node in graph:
        graph.nodes[node]["embedding"] = 0.5 * graph.nodes[node]["embedding"]
    graph.nodes["d"]["embedding"] = [3.0, 0.0, 0.0, 0.0]
    with pytest.raises(ab.InvalidInputError, match="embedding of node 'd' must lie inside the ball"):
        ag.k_hop("a")
    nx.set_node_attributes(graph, {"b": np.full(4, 1e200), "d": np.ones(4)}, "embedding")
    with pytest.raises(ab.InvalidInputError, match="query and embedding of node 'b' must have products within float64"):
        ab.AttentionGraph(graph, attention="scaled_dot").neighborhood("a", np.full(4, 1e150))


def test_logits_that_are_far_apart_weigh_nothing():
    graph = nx.path_graph(3)
    nx.set_node_attributes(graph, {0: np.array([-1e154]), 1: np.array([1.0]), 2: np.array([1e154])}, "embedding")
    ag = ab.AttentionGraph(graph, attention="scaled_dot", scale=1.7)
    hits = ag.k_hop(1, 1, np.array([1e154]))
    assert [(hit.node, hit.weights) for hit in hits] == [(2, [1.0]), (1, []), (0, [0.0])]
    assert hits.log_weights.tolist() == [0.0, 0.0, -math.inf]


# ---- errors


@every_class
def test_nodes_that_are_not_there(kind):
    ag = ab.AttentionGraph(small(kind))
    for node in ("z", ["not hashable"], None):
        for call in (ag.neighborhood, ag.k_hop, ag.position):
            with pytest.raises(nx.NodeNotFound, match=r"is not in the graph"):
                call(node)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": -1}, "k must be a whole number >= 0, got -1"),
        ({"k": 1.5}, "k must be a whole number >= 0, got 1.5"),
        ({"limit": 0}, "limit must be a whole number >= 1, got 0"),
        ({"max_nodes": 0}, "max_nodes must be a whole number >= 1, got 0"),
        ({"direction": "sideways"}, "direction must be one of both, in, out; got 'sideways'"),
    ],
)
def test_options_that_cannot_be(options, message):
    ag = ab.AttentionGraph(small())
    with pytest.raises(ab.InvalidConfigError, match=message):
        ag.k_hop("a", **options)
    if "direction" in options:
        for call in (lambda: ag.neighborhood("a", **options), lambda: ag.edges(**options)):
            with pytest.raises(ab.InvalidConfigError, match=message):
                call()


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ([1.0, 2.0], ab.DimensionMismatchError, "query must have dimension 4 as the embeddings have, got 2"),
        ([[1.0] * 4], ab.DimensionMismatchError, r"query must be one vector \(d,\)"),
        ([1.0, math.nan, 0.0, 0.0], ab.InvalidInputError, "query must be finite: position 1"),
        ("north", ab.InvalidInputError, "query must be real numbers"),
    ],
)
def test_bad_queries(query, error, message):
    ag = ab.AttentionGraph(small())
    for call in (lambda: ag.k_hop("a", query=query), lambda: ag.neighborhood("a", query)):
        with pytest.raises(error, match=message):
            call()
    arrays = ab.AttentionGraph.from_arrays([[0], [1]], np.eye(4))
    if "dimension" in message:
        message = "query must have dimension 4 as X has, got 2"
    with pytest.raises(error, match=message):
        arrays.k_hop(0, query=query)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, "heavy", None])
@every_class
def test_weights_that_cannot_be_name_the_edge(kind, value):
    graph = small(kind)
    edge = ("a", "d", 0) if graph.is_multigraph() else ("a", "d")
    graph.edges[edge]["w"] = value
    ag = ab.AttentionGraph(graph, weight="w")
    with pytest.raises(
        ab.InvalidConfigError, match=r"attribute 'w' of edge \('a', 'd'.*\) must be a finite number > 0"
    ):
        ag.neighborhood("a")


def test_graphs_that_cannot_be():
    with pytest.raises(ab.GraphStructureError, match="G must have at least one node, got none"):
        ab.AttentionGraph(nx.Graph())
    with pytest.raises(
        ab.InvalidInputError, match=r"G must be a networkx graph, got list; arrays go into AttentionGraph.from"
    ):
        ab.AttentionGraph([("a", "b")])
    for missing in ("raise", "zero"):
        with pytest.raises(
            ab.GraphStructureError,
            match="no node has an embedding, attribute 'embedding': set it, or pass missing='skip' to match patterns",
        ):
            ab.AttentionGraph(nx.path_graph(3), missing=missing)
    with pytest.raises(ab.InvalidConfigError, match="missing must be one of raise, skip, zero; got 'guess'"):
        ab.AttentionGraph(small(), missing="guess")
    with pytest.raises(ab.InvalidConfigError, match="attention type must be one of"):
        ab.AttentionGraph(small(), attention="nothing")
    with pytest.raises(ab.InvalidConfigError, match="gat has no option 'heads'"):
        ab.AttentionGraph(small(), heads=3)


@every_class
def test_patterns_are_found_where_no_node_has_an_embedding(kind):
    graph = kind([(1, 2), (2, 3)])
    ag = ab.AttentionGraph(graph, missing="skip")
    pattern = "MATCH (a)-->(b) WHERE id(a) = 2 RETURN a, b"
    bare = ag.match(pattern)
    nx.set_node_attributes(graph, [1.0, 0.0], "embedding")
    assert bare.records == ab.AttentionGraph(graph).match(pattern).records != []
    assert bare.explain().count("start at 2") == len(bare)
    assert ag.neighborhood(2).nodes[-1] == 3  # as they are now
    nx.set_node_attributes(graph, None, "embedding")
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0]], ids=[1])
    query = [1.0, 0.0]
    for call in (
        lambda: ag.neighborhood(1),
        lambda: ag.neighborhood(1, query),
        lambda: ag.k_hop(1),
        lambda: ag.k_hop(1, query=query),
        lambda: ag.traverse(query),
        lambda: ag.traverse(query, 1),
        lambda: ag.match(pattern, query),
        lambda: ag.logits(query, [0]),
        lambda: ag.search(bridge, query),
        lambda: ag.pagerank(query),
        ag.embed,
        lambda: ag.embed(1),
        ag.forward,
    ):
        with pytest.raises(ab.GraphStructureError, match=r"^no node has an embedding, attribute 'embedding': set it$"):
            call()


@pytest.mark.parametrize("missing", ["raise", "skip", "zero"])
def test_a_query_of_another_length_than_all_embeddings_is_at_fault(missing):
    graph = small()
    if missing != "raise":
        del graph.nodes["d"]["embedding"]
    ag, query = ab.AttentionGraph(graph, missing=missing), np.ones(3)
    every = (
        lambda: ag.k_hop("a", query=query),
        lambda: ag.traverse(query),
        lambda: ag.match("MATCH (a) RETURN a", query),
    )
    for call in every:
        with pytest.raises(
            ab.DimensionMismatchError, match=r"^query must have dimension 4 as the embeddings have, got 3$"
        ):
            call()
    graph.nodes["b"]["embedding"] = [1.0, 2.0, 3.0]  # then it may be the query's length that is meant
    for call in every:
        with pytest.raises(
            ab.DimensionMismatchError, match=r"^embedding of node 'a' must have dimension 3 as the query has, got 4$"
        ):
            call()


def test_a_start_that_is_skipped_is_no_hit():
    ag = ab.AttentionGraph(gaps(), missing="skip")
    hits = ag.k_hop("b", 1, [1.0, 0.0])
    assert "b" not in hits.nodes
    assert len(hits)
    assert all(hit.path[0] == "b" for hit in hits)
    assert "unless it has no embedding and is skipped" in ab.AttentionGraph.k_hop.__doc__


@pytest.mark.parametrize(
    ("edges", "options", "error", "message"),
    [
        ([[0, 1]], {}, ab.DimensionMismatchError, r"edges must be \(2, m\) or a SciPy matrix, got shape \(1, 2\)"),
        ([[0.5], [1.0]], {}, ab.InvalidInputError, "edges must be whole numbers of rows of X, got dtype float64"),
        ([[0, 0], [1, 3]], {}, ab.GraphStructureError, r"edges must be between nodes 0 to 2, edge 1 is \(0, 3\)"),
        ([[0, -1], [1, 1]], {}, ab.GraphStructureError, r"edge 1 is \(-1, 1\)"),
        (
            scipy.sparse.eye_array(4),
            {},
            ab.DimensionMismatchError,
            r"edges must be \(3, 3\) as X has 3 rows, got \(4, 4\)",
        ),
        (
            [[0], [1]],
            {"weight": [1, 2]},
            ab.DimensionMismatchError,
            r"weight must be \(1,\), one for each edge, got shape",
        ),
        (
            [[0], [1]],
            {"weight": [0.0]},
            ab.InvalidInputError,
            "weight must be > 0, of edge 0 it is 0; leave the edge out",
        ),
        ([[0], [1]], {"weight": [math.nan]}, ab.InvalidInputError, "weight must be finite: position 0 is nan"),
        ([[0], [1]], {"attention": "moe"}, ab.InvalidConfigError, "attention must be pairwise for a graph's edges"),
    ],
)
def test_arrays_that_cannot_be(edges, options, error, message):
    with pytest.raises(error, match=message):
        ab.AttentionGraph.from_arrays(edges, np.eye(3), **options)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (np.empty((0, 3)), ab.GraphStructureError, "X must have at least one row, got none"),
        ([1.0, 2.0], ab.DimensionMismatchError, r"X must be rows \(n, d\), got shape \(2,\)"),
        ([[1.0], [math.nan]], ab.InvalidInputError, "X must be finite: row 1, column 0 is nan"),
    ],
)
def test_rows_that_cannot_be(rows, error, message):
    with pytest.raises(error, match=message):
        ab.AttentionGraph.from_arrays([[], []], rows)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 4], "positions must be 0 to 3, got 0 to 4"),
        ([-1], "positions must be 0 to 3, got -1 to -1"),
        ([0.5], r"positions must be whole numbers \(m,\), got float64"),
        (2, r"positions must be whole numbers \(m,\), got int64 \(\)"),
    ],
)
def test_positions_that_cannot_be(positions, message):
    with pytest.raises(ab.InvalidInputError, match=message):
        ab.AttentionGraph(small()).logits(np.ones(4), positions)


def test_numbers_of_edges_that_are_not_there():
    ag = ab.AttentionGraph(small())
    for number in (3, -1):
        with pytest.raises(ab.InvalidConfigError, match=r"number must be 0 to 2, got (3|-1)"):
            ag.edge(number)
    for number in (1.5, "1", None):
        with pytest.raises(ab.InvalidConfigError, match=r"number must be a whole number, 0 to 2, got (1.5|'1'|None)"):
            ag.edge(number)
    assert ag.edge(np.int64(1)) == ag.edge(1)
    graph = nx.Graph()
    graph.add_node("a", embedding=[1.0])
    with pytest.raises(ab.InvalidConfigError, match="number must be that of an edge, the graph has none; got 0"):
        ab.AttentionGraph(graph).edge(0)


@pytest.mark.parametrize("kind", [nx.MultiGraph, nx.MultiDiGraph])
def test_weights_whose_sum_is_beyond_float64(kind):
    graph = kind()
    graph.add_nodes_from((node, {"embedding": [1.0, 0.0]}) for node in "abcd")
    graph.add_weighted_edges_from([("a", "b", 1e308)] * 2 + [("a", "c", 1e308), ("a", "d", 1e-300)], "w")
    ag = ab.AttentionGraph(graph, weight="w")
    query = [1.0, 0.0]
    for hits in (ag.neighborhood("a", query), ag.k_hop("a", 1, query), ag.traverse(query, "a", max_hops=1)):
        weights = {hit.node: hit.log_weight for hit in hits if hit.node != "a"}
        tiny = math.log(1e-300) - math.log(1e308) - math.log(3.0)
        assert weights == pytest.approx({"b": math.log(2 / 3), "c": math.log(1 / 3), "d": tiny}, abs=1e-12)
    ranks = ag.pagerank(query, direction="out")
    assert sum(ranks.values()) == pytest.approx(1.0)
    for *_, data in graph.edges(data=True):
        data["w"] *= 1e-10
    assert ranks == pytest.approx(ag.pagerank(query), abs=1e-12)
    if graph.is_directed():
        assert ranks["b"] > ranks["c"] > ranks["d"]


# ---- results


def test_hits_are_a_sequence():
    hits = ab.AttentionGraph(small()).k_hop("a", query=[0.0, 1.0, 0.5, 0.0])
    assert len(hits) == 4
    assert [hit.node for hit in hits] == hits.nodes == ["b", "c", "a", "d"]
    assert hits[-1] == hits[3] == hits[:][3]
    assert hits.scores.tolist() == [hit.score for hit in hits]
    assert hits.hops.tolist() == [1, 2, 0, 1]
    assert (hits[1].path, hits[1].edges) == (["a", "b", "c"], [("a", "b"), ("b", "c")])
    with pytest.raises(IndexError):
        hits[4]


def test_hits_as_a_table():
    pytest.importorskip("pandas")
    hits = ab.AttentionGraph(small(nx.MultiGraph)).k_hop("a")
    frame = hits.to_pandas()
    assert frame.columns.tolist() == ["node", "score", "hop", "path", "edges", "weights", "log_weight"]
    assert [tuple(row) for row in frame.itertuples(index=False)] == [tuple(hit) for hit in hits]
    empty = ab.AttentionGraph(small()).neighborhood("d").to_pandas()
    assert (len(empty), empty.columns.tolist()) == (0, frame.columns.tolist())


@every_class
@every_direction
def test_what_was_walked(kind, direction):
    graph = small(kind)
    graph.add_edge("b", "d", kind="road", attention="mine")
    graph.nodes["c"][7] = "seven"
    hits = ab.AttentionGraph(graph).k_hop("b", direction=direction)
    walked = hits.to_subgraph()
    assert type(walked) is kind
    assert {n: data["hop"] for n, data in walked.nodes(data=True)} == {hit.node: hit.hop for hit in hits}
    assert {n: data["score"] for n, data in walked.nodes(data=True)} == {hit.node: hit.score for hit in hits}
    for hit in hits:
        for edge, weight in zip(hit.edges, hit.weights, strict=True):
            assert walked.edges[edge]["attention"] == weight
            others = {name: value for name, value in graph.edges[edge].items() if name != "attention"}
            assert {name: value for name, value in walked.edges[edge].items() if name != "attention"} == others
    used = {frozenset(edge[:2]) for hit in hits for edge in hit.edges}
    assert {frozenset(edge[:2]) for edge in walked.edges} == used
    if "c" in walked:
        assert walked.nodes["c"][7] == "seven"
        assert walked.nodes["c"]["embedding"] is graph.nodes["c"]["embedding"]
    assert "score" not in graph.nodes["b"]
    assert [data.get("attention") for *_, data in graph.edges(data=True)].count("mine") == 1
    few = ab.AttentionGraph(graph).k_hop("b", direction=direction, limit=1).to_subgraph()
    assert list(few) == hits[0].path


def test_explained():
    graph = nx.DiGraph([("a", "b"), ("c", "b"), ("c", "d")])
    nx.set_node_attributes(graph, {"a": [1.0, 0], "b": [0, 1.0], "c": [0.0, 1.0], "d": [1.0, 0.0]}, "embedding")
    ag = ab.AttentionGraph(graph, attention="scaled_dot", scale=1.0)
    hits = ag.k_hop("a", 3, [1.0, 0.0], direction="both")
    assert hits.explain(2).splitlines() == [
        "1. 'a': score 1.0000, hop 0, log weight 0.0000",
        "2. 'd': score 1.0000, hop 3, log weight -1.6265",
        "   'a' -> 'b'  weight 1.0000",
        "   'b' <- 'c'  weight 0.2689",
        "   'c' -> 'd'  weight 0.7311",
        "... 2 more",
    ]
    assert repr(hits).startswith("GraphHits(4 of 4 nodes visited)\n1. 'a'")
    assert repr(ag.k_hop("a", 3, direction="both", max_nodes=2)).startswith(
        "GraphHits(2 of 2 nodes visited, cut short)\n"
    )
    assert repr(ag.neighborhood("d")) == "GraphHits(0 of 1 nodes visited)"
    with pytest.raises(ab.InvalidConfigError, match="limit must be a whole number >= 1"):
        hits.explain(0)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (nx.Graph, ["   'a' -- 'b'  weight 1.0000"]),
        (nx.MultiGraph, ["   'a' -[0]- 'b'  weight 1.0000"]),
        (nx.MultiDiGraph, ["   'a' -[0]-> 'b'  weight 1.0000"]),
    ],
)
def test_explained_with_keys(kind, lines):
    graph = kind([("a", "b")])
    nx.set_node_attributes(graph, [1.0], "embedding")
    hits = ab.AttentionGraph(graph).neighborhood("a")
    assert hits.explain().splitlines()[1:] == lines
    if kind is nx.MultiDiGraph:
        back = ab.AttentionGraph(graph).neighborhood("b", direction="in")
        assert back.explain().splitlines()[1:] == ["   'b' <-[0]- 'a'  weight 1.0000"]


def test_explained_with_types():
    graph = nx.DiGraph([("a", "b", {"type": "CITES", "by": "LIKES"}), ("c", "b", {"type": 3})])
    nx.set_node_attributes(graph, [1.0], "embedding")
    hits = ab.AttentionGraph(graph).k_hop("a", 2, direction="both")
    assert hits.explain().splitlines()[1:] == [
        "2. 'b': score 10.0000, hop 1, log weight 0.0000",
        "   'a' -[CITES]-> 'b'  weight 1.0000",
        "3. 'c': score 10.0000, hop 2, log weight -0.6931",
        "   'a' -[CITES]-> 'b'  weight 1.0000",
        "   'b' <- 'c'  weight 0.5000",
    ]
    named = ab.AttentionGraph(graph, edge_type="by").neighborhood("a")
    assert named.explain().splitlines()[1:] == ["   'a' -[LIKES]-> 'b'  weight 1.0000"]
    keyed = nx.MultiDiGraph()
    keyed.add_edge("a", "b", 0, type="CITES")
    keyed.add_edge("b", "c", "NEAR")
    nx.set_node_attributes(keyed, [1.0], "embedding")
    ag = ab.AttentionGraph(keyed)
    steps = ["   'a' -[CITES]-> 'b'  weight 1.0000", "   'b' -[NEAR]-> 'c'  weight 1.0000"]
    assert ag.k_hop("a", 2).explain().splitlines()[-2:] == steps
    assert ag.match("MATCH (x)-->()-->() RETURN 1", start="a").explain().splitlines()[-2:] == [
        line.partition("  weight")[0] for line in steps
    ]
    arrays = ab.AttentionGraph.from_arrays([[0], [1]], [[1.0], [2.0]], edge_type=["CITES"])
    assert arrays.neighborhood(0).explain().splitlines()[1:] == ["   0 -[CITES]-> 1  weight 1.0000"]


def test_shown():
    ag = ab.AttentionGraph(small(nx.MultiDiGraph), attention="scaled_dot", scale=2.0)
    assert repr(ag) == "AttentionGraph(MultiDiGraph of 4 nodes, 3 edges, 'scaled_dot', scale=2.0)"
    assert repr(ab.AttentionGraph(small(nx.Graph))).startswith("AttentionGraph(Graph of 4 nodes, 3 edges, 'gat'")


def test_twice_stored_entries_are_edges_in_csr_form_and_added_in_coo_form():
    rows, ones = [[1.0], [1.0], [1.0]], np.ones(3)
    coo = scipy.sparse.coo_array((ones, ([0, 0, 0], [1, 1, 2])), shape=(3, 3))
    csr = scipy.sparse.csr_array((ones, [1, 1, 2], [0, 3, 3, 3]), shape=(3, 3))
    assert [ab.AttentionGraph.from_arrays(matrix, rows).topology.count for matrix in (coo, csr)] == [2, 3]
