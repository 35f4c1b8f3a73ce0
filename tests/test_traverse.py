"""Beam search against slow walks by networkx and plain Python, on all four classes of graphs, with filters."""

import itertools
import math
import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge.integrations import clock as clock_module
from attnbridge.integrations import filters as filters_module

CLASSES = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]
DIRECTIONS = ["out", "in", "both"]
NODES = [-1, -2, 0, 7, "a", "b", (1, "x"), frozenset({3}), 2.5]
DIM = 3

every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def attend(graph, **options):
    """Return an attention graph whose logits are plain dot products."""
    return ab.AttentionGraph(graph, attention="scaled_dot", scale=1.0, **options)


# ---- the truth


class Case:
    """A graph, and how it is walked; what may be stepped is told edge by edge, in plain Python."""

    def __init__(self, graph, direction, weight, missing, types, nodes, odd):
        self.graph, self.direction, self.weight, self.missing = graph, direction, weight, missing
        self.types, self.nodes, self.odd = types, nodes, odd
        self.query = np.array([0.9, -0.4, 1.3])
        self.place = {node: i for i, node in enumerate(graph)}

    def __repr__(self):
        nodes, edges = list(self.graph.nodes(data=True)), [(*edge, data) for edge, data in named_edges(self.graph)]
        filters = (self.types, self.nodes, self.odd)
        return f"{type(self.graph)} {nodes} {edges} {self.direction} {self.weight} {self.missing} {filters}"

    @property
    def filters(self):
        """The arguments of `traverse`."""
        return {
            "edge_types": self.types,
            "node_filter": None if self.nodes is None else lambda node: node in self.nodes,
            "edge_filter": (lambda *edge: self.graph.edges[edge]["number"] % 2) if self.odd else None,
            "direction": self.direction,
        }

    def walk(self, source=None, **options):
        options = {"max_hops": 9, "beam_width": 99, "limit": None} | self.filters | options
        return attend(self.graph, weight=self.weight, missing=self.missing).traverse(self.query, source, **options)

    def logit(self, node):
        value = self.graph.nodes[node].get("embedding")
        if value is None:
            return None if self.missing == "skip" else 0.0
        return float(np.dot(self.query, value))

    def enters(self, node):
        return (self.nodes is None or node in self.nodes) and self.logit(node) is not None

    def admits(self, edge):
        data = self.graph.edges[edge]
        kind = data.get("type", edge[2] if len(edge) == 3 and isinstance(edge[2], str) else None)
        return (self.types is None or kind in self.types) and (not self.odd or data["number"] % 2 == 1)

    def steps(self, node):
        """Return {neighbour: (attention weight, edge)} of what may be stepped to."""
        found = {}
        for edge in self.graph.edges(keys=True) if self.graph.is_multigraph() else self.graph.edges:
            u, v = edge[:2]
            out = u == node and (self.direction != "in" or not self.graph.is_directed())
            back = v == node and (self.direction != "out" or not self.graph.is_directed())
            if (out or back) and self.admits(edge):
                heavy = self.graph.edges[edge].get(self.weight, 1.0) if self.weight else 1.0
                found.setdefault(v if out else u, []).append((heavy, edge))
        found = {other: edges for other, edges in found.items() if self.enters(other)}
        weights = {n: sum(h for h, _ in edges) for n, edges in found.items()}
        shares = {n: weight * math.exp(self.logit(n)) for n, weight in weights.items()}
        heaviest = {n: max(edges, key=lambda one: one[0])[1] for n, edges in found.items()}
        return {n: (share / sum(shares.values()), heaviest[n]) for n, share in shares.items()}

    def shares(self, sources):
        """Return {source: log of its share}, of those that have one."""
        known = [node for node in sources if self.logit(node) is not None]
        if not known:
            return {node: -math.log(len(sources)) for node in sources}
        total = sum(math.exp(self.logit(node)) for node in known)
        return {node: self.logit(node) - math.log(total) for node in known}

    def best(self, width):
        nodes = [node for node in self.graph if self.enters(node)]
        return sorted(sorted(nodes, key=lambda n: (-self.logit(n), self.place[n]))[:width], key=self.place.get)

    def exhaustive(self, sources):
        """Return {node: (hops, best log-sum of all shortest paths)}, by enumerating those in networkx's own view."""
        arcs = nx.DiGraph()
        arcs.add_nodes_from(sources)
        for node in self.graph:
            if node in sources or self.enters(node):
                arcs.add_edges_from((node, other, {"log": math.log(w)}) for other, (w, _) in self.steps(node).items())
        found = {}
        shares = self.shares(sources)
        for source, share in shares.items():
            for target, hops in nx.single_source_shortest_path_length(arcs, source).items():
                for path in nx.all_shortest_paths(arcs, source, target):
                    total = share + sum(arcs.edges[step]["log"] for step in itertools.pairwise(path))
                    known = found.get(target)
                    if known is None or (hops, -total) < (known[0], -known[1]):
                        found[target] = (hops, total)
        return found

    def beam(self, sources, hops, width):
        """Return {node: (hop, log-sum, path, edges, weights)} and the nodes that were left out, the plain way."""
        visited = {s: (0, share, [s], [], []) for s, share in self.shares(sources).items()}
        level, dropped = sorted(visited, key=self.place.get), set()
        for hop in range(1, hops + 1):
            ways = {}
            for node in level:
                _, total, path, edges, weights = visited[node]
                for other, (w, edge) in self.steps(node).items():
                    way = (hop, total + math.log(w), [*path, other], [*edges, edge], [*weights, w])
                    if other not in visited and (other not in ways or way[1] > ways[other][1]):
                        ways[other] = way
            ranked = sorted(ways, key=lambda n: (-ways[n][1], self.place[n]))
            dropped.update(ranked[width:])
            level = sorted(ranked[:width], key=self.place.get)
            visited.update((node, ways[node]) for node in level)
        return visited, dropped


@st.composite
def cases(draw, missing=("raise", "skip", "zero"), filtered=True):
    kind, how = draw(st.sampled_from(CLASSES)), draw(st.sampled_from(missing))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count = int(rng.integers(1, len(NODES) + 1))
    edges = int(rng.integers(0, 5 * count))
    names, graph = [NODES[i] for i in rng.permutation(len(NODES))[:count]], kind()
    for place, name in enumerate(names):
        graph.add_node(name, embedding=rng.standard_normal(DIM))
        if how != "raise" and place and rng.random() < 0.2:
            del graph.nodes[name]["embedding"]
    for number, (u, v) in enumerate(rng.integers(0, count, (edges, 2)).tolist()):
        data = {"number": number, "w": float(rng.uniform(0.2, 3.0))}
        if rng.random() < 0.5:
            data["type"] = str(rng.choice(["R", "S"]))
        if graph.is_multigraph() and rng.random() < 0.5:
            data["key"] = str(rng.choice(["R", "S", "T"]))
        graph.add_edge(names[u], names[v], **data)
    types, nodes, odd = None, None, False
    if filtered:
        there = {kind_of(edge, data) for edge, data in named_edges(graph)} - {None}
        types = draw(st.none() | st.sets(st.sampled_from(sorted(there)), min_size=1)) if there else None
        nodes = draw(st.none() | st.just({name for name in names if rng.random() < 0.7}))
        odd = draw(st.booleans())
    return Case(graph, draw(st.sampled_from(DIRECTIONS)), draw(st.sampled_from([None, "w"])), how, types, nodes, odd)


def named_edges(graph):
    return [(edge, graph.edges[edge]) for edge in (graph.edges(keys=True) if graph.is_multigraph() else graph.edges)]


def kind_of(edge, data):
    return data.get("type", edge[2] if len(edge) == 3 and isinstance(edge[2], str) else None)


sources = st.sampled_from([None, {0}, {3}, {8}, {0, 1}, {2, 5, 7}])


def pick(case, places):
    """Return a source as `traverse` takes it, and the nodes that it is."""
    if places is None:
        return None, None
    nodes = sorted({list(case.graph)[place % len(case.graph)] for place in places}, key=case.place.get)
    return (nodes[0] if len(nodes) == 1 else nodes[::-1]), nodes


# ---- against the truth


@settings(max_examples=200, deadline=None)
@given(cases(), sources)
def test_a_wide_beam_is_an_exhaustive_search(case, places):
    source, nodes = pick(case, places)
    hits = case.walk(source)
    truth = case.exhaustive(case.best(99) if nodes is None else nodes)
    scored = {node: found for node, found in truth.items() if case.logit(node) is not None}
    assert {hit.node: hit.hop for hit in hits} == {node: hops for node, (hops, _) in scored.items()}
    assert {hit.node: hit.log_weight for hit in hits} == pytest.approx({n: log for n, (_, log) in scored.items()})
    assert (hits.complete, hits.pruned, hits.visited) == (True, 0, len(truth))


@settings(max_examples=250, deadline=None)
@given(cases(), sources, st.integers(0, 5), st.integers(1, 3))
def test_a_narrow_beam_is_a_naive_beam(case, places, hops, width):
    source, nodes = pick(case, places)
    hits = case.walk(source, max_hops=hops, beam_width=width)
    visited, dropped = case.beam(case.best(width) if nodes is None else nodes, hops, width)
    ranked = sorted((n for n in visited if case.logit(n) is not None), key=lambda n: (-case.logit(n), case.place[n]))
    assert hits.nodes == ranked
    assert (hits.complete, hits.pruned, hits.visited) == (True, len(dropped), len(visited))
    for hit in hits:
        hop, log_weight, path, edges, weights = visited[hit.node]
        assert (hit.hop, hit.path, hit.edges) == (hop, path, edges)
        assert hit.score == pytest.approx(case.logit(hit.node))
        assert hit.weights == pytest.approx(weights)
        assert hit.log_weight == pytest.approx(log_weight)


@settings(max_examples=100, deadline=None)
@given(cases(filtered=False), st.integers(0, 4))
def test_a_wide_beam_from_one_node_is_k_hop(case, hops):
    source = next(iter(case.graph))
    hits = case.walk(source, max_hops=hops)
    ag = attend(case.graph, weight=case.weight, missing=case.missing)
    assert hits[:] == ag.k_hop(source, hops, case.query, direction=case.direction)[:]
    assert hits[:] == case.walk([source], max_hops=hops)[:]


@settings(max_examples=100, deadline=None)
@given(cases(), sources, st.integers(1, 3))
def test_relabelling_nodes_relabels_results(case, places, width):
    source, nodes = pick(case, places)
    names = {node: f"n{i}" for i, node in enumerate(case.graph)}
    other = Case(
        nx.relabel_nodes(case.graph, names),
        case.direction,
        case.weight,
        case.missing,
        case.types,
        None if case.nodes is None else {names[node] for node in case.nodes},
        case.odd,
    )
    ours = case.walk(source, beam_width=width)
    theirs = other.walk(None if source is None else [names[node] for node in nodes], beam_width=width)
    assert [[names[node] for node in hit.path] for hit in ours] == [hit.path for hit in theirs]
    assert ours.scores.tolist() == theirs.scores.tolist()
    assert ours.log_weights.tolist() == pytest.approx(theirs.log_weights.tolist(), abs=1e-12)
    assert ours.pruned == theirs.pruned


@settings(max_examples=100, deadline=None)
@given(cases(), sources)
def test_filters_walk_the_view_that_networkx_makes_of_them(case, places):
    source, nodes = pick(case, places)
    nodes = case.best(99) if nodes is None else nodes
    given = {node for node in nodes if case.logit(node) is not None} or set(nodes)
    view = nx.subgraph_view(
        case.graph,
        filter_node=lambda node: node in given or case.enters(node),
        filter_edge=lambda u, v, *key: case.admits((u, v, *key) if (u, v, *key) in case.graph.edges else (v, u, *key)),
    )
    along = view if case.direction == "out" or not view.is_directed() else view.reverse(copy=False)
    along = view.to_undirected(as_view=True) if case.direction == "both" and view.is_directed() else along
    lengths = [nx.single_source_shortest_path_length(along, node) for node in given]
    want = {node: min(one[node] for one in lengths if node in one) for node in set().union(*lengths)}
    assert {hit.node: hit.hop for hit in case.walk(source)} == {
        n: h for n, h in want.items() if case.logit(n) is not None
    }


# ---- by hand


def compass():
    """A graph whose weights are easy: e^score is 1, 2, 3, 4."""
    graph = nx.DiGraph([("home", "left"), ("home", "right"), ("left", "goal"), ("left", "no"), ("right", "goal")])
    values = {"home": 0.0, "left": math.log(3.0), "right": 0.0, "goal": 0.0, "no": math.log(4.0)}
    nx.set_node_attributes(graph, {node: np.array([value]) for node, value in values.items()}, "embedding")
    return graph


def test_a_beam_of_one_by_hand():
    hits = attend(compass()).traverse([1.0], "home", beam_width=1)
    assert hits.nodes == ["no", "left", "home"]  # left is 3/4, from there no is 4/5; nothing leads on
    assert hits[0].path == ["home", "left", "no"]
    assert hits[0].edges == [("home", "left"), ("left", "no")]
    assert hits[0].weights == pytest.approx([3 / 4, 4 / 5])
    assert hits[0].log_weight == pytest.approx(math.log(3 / 5))
    assert (hits.pruned, hits.visited, hits.complete) == (2, 3, True)  # right, goal
    assert repr(hits).startswith("GraphHits(3 of 3 nodes visited, 2 pruned)\n1. 'no'")
    both = attend(compass()).traverse([1.0], "home", beam_width=2)
    assert {hit.node: hit.path for hit in both}["goal"] == ["home", "right", "goal"]  # 1/4 * 1 is more than 3/4 * 1/5
    assert both.pruned == 0


def test_several_sources_by_hand():
    hits = attend(compass()).traverse([1.0], ["right", "left"])
    by = {hit.node: hit for hit in hits}
    assert by["left"][2:] == (0, ["left"], [], [], pytest.approx(math.log(3 / 4)))
    assert by["right"].log_weight == pytest.approx(math.log(1 / 4))
    assert by["goal"].path == ["right", "goal"]  # 1/4 against 3/4 * 1/5
    assert by["goal"].log_weight == pytest.approx(math.log(1 / 4))
    assert by["goal"].weights == [1.0]
    assert by["no"].log_weight == pytest.approx(math.log(3 / 5))
    assert hits.explain().splitlines() == [
        "1. 'no': score 1.3863, hop 1, log weight -0.5108",
        "   'left'  share 0.7500",
        "   'left' -> 'no'  weight 0.8000",
        "2. 'left': score 1.0986, hop 0, log weight -0.2877",
        "   'left'  share 0.7500",
        "3. 'right': score 0.0000, hop 0, log weight -1.3863",
        "   'right'  share 0.2500",
        "4. 'goal': score 0.0000, hop 1, log weight -1.3863",
        "   'right'  share 0.2500",
        "   'right' -> 'goal'  weight 1.0000",
    ]
    walked = hits.to_subgraph()
    assert set(walked.edges) == {("left", "no"), ("right", "goal")}
    assert {node: data["hop"] for node, data in walked.nodes(data=True)} == {"left": 0, "right": 0, "no": 1, "goal": 1}


def test_the_nearest_nodes_by_hand():
    hits = attend(compass()).traverse([1.0], beam_width=2, max_hops=1)
    assert {hit.node: hit.hop for hit in hits} == {"left": 0, "no": 0, "goal": 1}
    assert {hit.node: hit.log_weight for hit in hits} == pytest.approx(
        {"left": math.log(3 / 7), "no": math.log(4 / 7), "goal": math.log(3 / 7 / 5)}  # no keeps its part of the step
    )
    tied = attend(compass()).traverse([1.0], beam_width=3, max_hops=0)
    assert tied.nodes == ["no", "left", "home"]  # of home, right and goal the first
    none = attend(compass()).traverse([1.0], node_filter=lambda node: False)
    assert (len(none), none.complete, none.pruned, none.visited) == (0, True, 0, 0)
    assert none.explain() == ""


def test_of_equal_ways_and_equal_nodes_the_first_counts():
    graph = nx.Graph([("c", "b"), ("c", "a"), ("c", "d"), ("b", "goal"), ("a", "goal")])
    nx.set_node_attributes(graph, [1.0, 1.0], "embedding")
    hits = attend(graph).traverse([1.0, 0.0], "c", beam_width=2)
    assert hits.nodes == ["c", "b", "a", "goal"]
    assert hits[3].path == ["c", "b", "goal"]
    assert hits.pruned == 1


def test_of_equal_ways_the_first_node_counts_whatever_its_rank():
    graph = nx.DiGraph([("s", "y"), ("s", "x"), ("s", "far"), ("x", "goal"), ("x", "other"), ("y", "goal")])
    values = {"s": 0.0, "y": 0.0, "x": math.log(2.0), "far": -99.0, "goal": 0.0, "other": 0.0}
    nx.set_node_attributes(graph, {node: np.array([value]) for node, value in values.items()}, "embedding")
    hits = {hit.node: hit for hit in attend(graph).traverse([1.0], "s", beam_width=2)}
    assert math.exp(hits["x"].log_weight) == pytest.approx(2 / 3)
    assert hits["goal"].path == ["s", "y", "goal"]  # 1/3 * 1 as 2/3 * 1/2


def test_a_node_left_out_may_be_reached_again():
    graph = nx.DiGraph([("s", "x"), ("s", "y"), ("x", "y")])
    nx.set_node_attributes(graph, {"s": [0.0], "x": [1.0], "y": [0.0]}, "embedding")
    hits = attend(graph).traverse([1.0], "s", beam_width=1)
    assert {hit.node: hit.path for hit in hits}["y"] == ["s", "x", "y"]
    assert (hits.pruned, hits.visited) == (1, 3)
    assert attend(graph).traverse([1.0], "s", beam_width=1, limit=2)[:] == hits[:2]


@every_class
def test_loops_cycles_and_isolated_nodes(kind):
    graph = nx.cycle_graph(5, create_using=kind)
    graph.add_edges_from([(0, 0), (2, 2)])
    graph.add_node("alone")
    nx.set_node_attributes(graph, [1.0], "embedding")
    ag = attend(graph)
    for direction in DIRECTIONS:
        hits = ag.traverse([1.0], 0, max_hops=1000, limit=None, direction=direction)
        assert sorted(hits.nodes) == [0, 1, 2, 3, 4]  # each once
        assert max(hits.hops) == (4 if graph.is_directed() and direction != "both" else 2)
        shares = {hit.node: hit.weights[0] for hit in hits if hit.hop == 1}
        assert sum(shares.values()) == pytest.approx(len(shares) / (len(shares) + 1))  # the loop has its share
        assert ag.traverse([1.0], "alone", direction=direction).nodes == ["alone"]


def test_parallel_edges_that_do_not_pass_weigh_nothing():
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", "road", w=1.0)
    graph.add_edge("a", "b", "rail", w=2.0)
    graph.add_edge("a", "c", type="road", w=1.0)
    graph.add_edge("a", "d", "rail", type="air")  # the attribute, not the key
    graph.add_edge("a", "d", 7, w=5.0)  # no type
    nx.set_node_attributes(graph, [1.0], "embedding")
    ag = attend(graph, weight="w")

    def found(**filters):
        hits = ag.traverse([1.0], "a", **filters)
        return {hit.node: (hit.edges[0][2], round(hit.weights[0], 6)) for hit in hits if hit.hop}

    assert found() == {"b": ("rail", 0.3), "c": (0, 0.1), "d": (7, 0.6)}
    assert found(edge_types="road") == {"b": ("road", 0.5), "c": (0, 0.5)}
    assert found(edge_types=["road", "rail"]) == {"b": ("rail", 0.75), "c": (0, 0.25)}
    assert found(edge_types="air") == {"d": ("rail", 1.0)}
    assert found(edge_filter=lambda u, v, key: key != "rail", node_filter=lambda node: node != "d") == {
        "b": ("road", 0.5),
        "c": (0, 0.5),
    }
    ag = attend(graph)  # each weighs 1
    assert found() == {"b": ("road", 0.4), "c": (0, 0.2), "d": ("rail", 0.4)}
    assert found(edge_types="road") == {"b": ("road", 0.5), "c": (0, 0.5)}
    assert found(edge_filter=lambda u, v, key: key != "rail") == {
        "b": ("road", 0.333333),
        "c": (0, 0.333333),
        "d": (7, 0.333333),
    }


def test_types_that_are_no_texts_are_none():
    graph = nx.DiGraph([(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)])
    nx.set_node_attributes(graph, [1.0], "embedding")
    for node, kind in enumerate([np.array([1, 2]), None, 7, np.str_("R"), "R"], 1):
        graph.edges[0, node]["type"] = kind
    ag = attend(graph)
    assert ag.traverse([1.0], 0, edge_types="R").nodes == [0, 4, 5]
    with pytest.raises(ab.InvalidConfigError, match=r"got '7'; known are 'R'$"):
        ag.traverse([1.0], 0, edge_types="7")


@every_direction
def test_edge_filters_are_asked_by_the_edges_names(direction):
    graph = nx.DiGraph([("a", "b"), ("b", "c")])
    nx.set_node_attributes(graph, [1.0], "embedding")
    asked = []
    attend(graph).traverse([1.0], "b", direction=direction, edge_filter=lambda u, v: asked.append((u, v)))
    assert set(asked) == {"out": {("b", "c")}, "in": {("a", "b")}, "both": {("a", "b"), ("b", "c")}}[direction]


def test_a_node_is_asked_for_once_and_not_read_where_it_does_not_pass():
    graph = nx.complete_graph(5)
    nx.set_node_attributes(graph, [1.0], "embedding")
    graph.nodes[4]["embedding"] = "no vector"
    asked = []
    hits = attend(graph).traverse([1.0], [0, 1], node_filter=lambda node: asked.append(node) or node != 4)
    assert hits.nodes == [0, 1, 2, 3]
    assert sorted(asked) == [0, 1, 2, 3, 4]


def test_sources_need_not_pass_and_are_not_stepped_to_then():
    graph = nx.complete_graph(3)
    nx.set_node_attributes(graph, [1.0], "embedding")
    hits = attend(graph).traverse([1.0], 0, node_filter=lambda node: node != 0)
    assert {hit.node: hit.weights for hit in hits} == {0: [], 1: [0.5], 2: [0.5]}
    both = attend(graph).traverse([1.0], [0, 1], node_filter=lambda node: node != 0)
    assert {hit.node: (hit.path, hit.weights) for hit in both}[2] == ([1, 2], [1.0])  # 0 takes nothing from 1's steps


# ---- sources


def test_what_a_source_may_be():
    graph = nx.DiGraph([((1, 2), 1), (2, 3), ("ab", 3)])
    nx.set_node_attributes(graph, [1.0], "embedding")
    ag = attend(graph)

    def starts(source):
        return [hit.node for hit in ag.traverse([1.0], source, max_hops=0)]

    assert starts((1, 2)) == [(1, 2)]
    assert starts([(1, 2)]) == [(1, 2)]
    assert starts([1, 2, 1]) == [1, 2]  # the same node twice is one
    assert starts((2, 3)) == starts({2, 3}) == starts(np.array([2, 3])) == [2, 3]  # no such node
    assert starts(range(2, 4)) == starts(iter([2, 3])) == starts({3: 0, 2: 0}.keys()) == [2, 3]
    assert starts("ab") == ["ab"]
    assert ag.traverse([1.0], [2, 2], max_hops=0)[0].log_weight == 0.0


@pytest.mark.parametrize("source", ["z", ["a", "z"], ("a", "z"), [["a"]], {"a": 1}, 1.5])
def test_sources_that_are_not_there(source):
    graph = nx.Graph([("a", "b")])
    nx.set_node_attributes(graph, [1.0], "embedding")
    with pytest.raises(nx.NodeNotFound, match=r"node .* is not in the graph"):
        attend(graph).traverse([1.0], source)


@pytest.mark.parametrize("missing", ["skip", "zero", "raise"])
def test_sources_without_embedding(missing):
    graph = nx.DiGraph([("a", "b"), ("c", "d")])
    nx.set_node_attributes(graph, {node: [1.0] for node in "abcd"}, "embedding")
    ag = attend(graph, missing=missing)
    del graph.nodes["a"]["embedding"]
    if missing == "raise":
        with pytest.raises(ab.GraphStructureError, match="node 'a' has none"):
            ag.traverse([1.0], "a")
        return
    alone = ag.traverse([1.0], "a")
    assert {hit.node: hit.log_weight for hit in alone} == ({"b": 0.0} if missing == "skip" else {"a": 0.0, "b": 0.0})
    several = {hit.node: hit.log_weight for hit in ag.traverse([1.0], ["a", "c"])}
    share = math.log(1 / (1 + math.e))
    if missing == "skip":  # all attention goes to the other one
        assert several == {"c": 0.0, "d": 0.0}
        del graph.nodes["c"]["embedding"]
        neither = {hit.node: hit.log_weight for hit in ag.traverse([1.0], ["a", "c"])}
        assert neither == pytest.approx({"b": math.log(0.5), "d": math.log(0.5)})
    else:
        assert several == pytest.approx({"a": share, "b": share, "c": share + 1.0, "d": share + 1.0})


def test_missing_embeddings_on_the_way():
    graph = nx.path_graph(4)
    nx.set_node_attributes(graph, {0: [1.0], 1: [1.0], 3: [1.0]}, "embedding")
    assert attend(graph, missing="skip").traverse([1.0], 0).nodes == [0, 1]
    assert attend(graph, missing="zero").traverse([1.0], 0).nodes == [0, 1, 3, 2]
    assert attend(graph, missing="skip").traverse([1.0], max_hops=0).nodes == [0, 1, 3]
    graph.nodes[2]["embedding"] = [1.0]
    ag = attend(graph)
    del graph.nodes[2]["embedding"]
    for source in (0, None):
        with pytest.raises(ab.GraphStructureError, match="node 2 has none"):
            ag.traverse([1.0], source)
    assert ag.traverse([1.0], 0, node_filter=lambda node: node != 2).nodes == [0, 1]


# ---- attributes as they are now


@every_class
def test_attributes_edited_in_place_are_seen(kind):
    graph = kind()
    graph.add_edge("a", "b", type="R", w=1.0)
    graph.add_edge("a", "c", type="R", w=1.0)
    nx.set_node_attributes(graph, {"a": [0.0], "b": [0.0], "c": [0.0]}, "embedding")
    ag = attend(graph, weight="w")

    def weights(**filters):
        return {hit.node: hit.weights[0] for hit in ag.traverse([1.0], "a", **filters) if hit.hop}

    edge = graph["a"]["c"][0] if graph.is_multigraph() else graph["a"]["c"]
    assert weights() == weights(edge_types="R") == {"b": 0.5, "c": 0.5}
    edge["w"] = 3.0
    assert weights() == pytest.approx({"b": 0.25, "c": 0.75})
    graph.nodes["b"]["embedding"] = [math.log(3.0)]
    assert weights() == pytest.approx({"b": 0.5, "c": 0.5})
    edge["type"] = "S"
    assert weights(edge_types="R") == {"b": 1.0}
    assert weights(edge_types="S") == {"c": 1.0}
    other = graph["a"]["b"][0] if graph.is_multigraph() else graph["a"]["b"]
    other["type"] = "S"  # no R is left, and S is another edge's too
    assert weights(edge_types="S") == pytest.approx({"b": 0.5, "c": 0.5})
    with pytest.raises(ab.InvalidConfigError, match=r"got 'R'; known are 'S'$"):
        weights(edge_types="R")
    del edge["type"]
    assert weights(edge_types=["S"]) == {"b": 1.0}


def test_types_are_looked_for_among_all_edges_only_once(monkeypatch):
    graph = nx.path_graph(500, create_using=nx.DiGraph)
    nx.set_node_attributes(graph, [1.0], "embedding")
    nx.set_edge_attributes(graph, "common", "type")
    graph.edges[498, 499]["type"] = "rare"
    ag, read = attend(graph), []
    plain = filters_module.Allowed._types
    monkeypatch.setattr(
        filters_module.Allowed, "_types", lambda self, numbers: read.append(len(numbers)) or plain(self, numbers)
    )
    assert ag.traverse([1.0], 0, edge_types="rare").nodes == [0]
    first = sum(read)
    assert ag.traverse([1.0], 0, edge_types=["rare"]).nodes == [0]
    assert (first, sum(read) - first) == (500, 2)  # all and one step; then the one known, and one step
    graph.remove_node(499)
    with pytest.raises(ab.InvalidConfigError, match="known are 'common'"):
        ag.traverse([1.0], 0, edge_types="rare")


def test_a_changed_graph_is_walked_as_it_is():
    graph = nx.path_graph(3, create_using=nx.DiGraph)
    nx.set_node_attributes(graph, [1.0], "embedding")
    ag = attend(graph)
    assert ag.traverse([1.0], 0).nodes == [0, 1, 2]
    graph.add_edge(2, 3)
    graph.nodes[3]["embedding"] = [1.0]
    graph.remove_edge(0, 1)
    assert ag.traverse([1.0], 0).nodes == [0]
    assert ag.traverse([1.0], 1).nodes == [1, 2, 3]


def test_arrays_walk_as_the_graph_that_they_are(rng):
    pairs, rows = rng.integers(0, 30, (2, 120)), rng.standard_normal((30, 4))
    ag = ab.AttentionGraph.from_arrays(pairs, rows, weight=rng.uniform(0.1, 2.0, 120))
    same = ab.AttentionGraph(ag.graph, weight="weight")
    for direction in DIRECTIONS:
        options = {"direction": direction, "beam_width": 4, "edge_filter": lambda u, v, key: key % 3}
        assert ag.traverse(rows[3], 0, **options)[:] == same.traverse(rows[3], 0, **options)[:]
    with pytest.raises(
        ab.InvalidConfigError, match="edge_types must be types that edges have, got 'R'; known are none"
    ):
        ag.traverse(rows[3], 0, edge_types="R")


# ---- time


class Looks:
    """A clock that goes one second further each time somebody looks at it."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        self.now += 1
        return float(self.now)


@pytest.mark.parametrize("source", [0, [0, 5], None])
@pytest.mark.parametrize("filters", [{}, {"edge_types": "R"}, {"edge_filter": lambda u, v: True}])
def test_a_walk_that_is_cut_short_is_the_whole_one_up_to_a_hop(source, filters, monkeypatch, rng):
    graph = nx.gnp_random_graph(40, 0.08, seed=1, directed=True)
    for node in graph:
        graph.nodes[node]["embedding"] = rng.standard_normal(3)
    nx.set_edge_attributes(graph, "R", "type")
    ag, query = attend(graph), np.ones(3)

    def walk(**options):
        return ag.traverse(query, source, limit=None, beam_width=5, **filters, **options)

    whole = [walk(max_hops=hops)[:] for hops in range(6)]
    monkeypatch.setattr(clock_module, "_PIECE", 7)
    monkeypatch.setattr("attnbridge.integrations.expansion._GROUP", 5)
    seen = []
    for budget in itertools.count():
        monkeypatch.setattr(clock_module, "time", Looks())
        hits = walk(max_hops=5, time_budget=budget)
        if hits.complete:
            break
        if source is None and hits[:] not in whole:  # not all nodes were looked at yet
            assert set(hits.hops.tolist()) <= {0}
            assert len(hits) <= 5
            continue
        assert hits[:] in [[], *whole[:5]]
        seen.append(len(hits))
    assert hits[:] == whole[5]
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3


def test_no_time_finds_nothing_and_says_so():
    graph = nx.path_graph(5)
    nx.set_node_attributes(graph, [1.0], "embedding")
    for source in (0, [0, 1], None):
        hits = attend(graph).traverse([1.0], source, time_budget=0)
        assert (len(hits), hits.complete, hits.visited) == (0, False, 0)
        assert repr(hits) == "GraphHits(0 of 0 nodes visited, cut short)"
        assert hits.to_subgraph().number_of_nodes() == 0


@pytest.mark.parametrize("name", ["node_filter", "edge_filter"])
def test_a_slow_filter_does_not_keep_it_beyond_its_time(name):
    graph = nx.star_graph(3000)
    nx.set_node_attributes(graph, [1.0], "embedding")
    ag = attend(graph)
    ag.traverse([1.0], 0)
    begun = time.monotonic()
    hits = ag.traverse([1.0], 0, time_budget=0.05, **{name: lambda *_: time.sleep(0.001) or True})
    assert time.monotonic() - begun < 1.0  # all of them take 3 seconds
    assert (hits.nodes, hits.complete) == ([0], False)


def test_a_rare_type_does_not_take_all_the_time(monkeypatch):
    graph = nx.path_graph(400, create_using=nx.DiGraph)
    nx.set_node_attributes(graph, [1.0], "embedding")
    nx.set_edge_attributes(graph, "common", "type")
    graph.edges[398, 399]["type"] = "rare"
    ag = attend(graph)
    monkeypatch.setattr(filters_module, "_PIECE", 2)
    monkeypatch.setattr(filters_module, "_BEGIN", 2)
    monkeypatch.setattr(clock_module, "time", Looks())
    hits = ag.traverse([1.0], 397, edge_types=["rare", "common"], time_budget=50)  # 200 looks would find it
    assert (hits.nodes, hits.complete) == ([397, 398, 399], True)
    hits = ag.traverse([1.0], 0, edge_types="none", time_budget=50)
    assert (hits.nodes, hits.complete) == ([0], True)
    with pytest.raises(ab.InvalidConfigError, match="got 'none'; known are 'common', 'rare'"):
        ag.traverse([1.0], 0, edge_types="none", time_budget=5000)


def test_enough_time_changes_nothing(rng):
    graph = nx.gnp_random_graph(300, 0.05, seed=2)
    for node in graph:
        graph.nodes[node]["embedding"] = rng.standard_normal(3)
        graph.nodes[node]["even"] = node % 2 == 0
    nx.set_edge_attributes(graph, {edge: 0.1 + i % 7 for i, edge in enumerate(graph.edges)}, "w")
    ag, query = attend(graph, weight="w"), np.ones(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock_module, "_PIECE", 11)
        patch.setattr("attnbridge.integrations.expansion._GROUP", 50)
        budgeted = [ag.traverse(query, s, limit=None, beam_width=40, time_budget=1e6) for s in (0, [1, 2], None)]
    for source, hits in zip((0, [1, 2], None), budgeted, strict=True):
        free = ag.traverse(query, source, limit=None, beam_width=40)
        assert (hits.nodes, hits.pruned, hits.complete) == (free.nodes, free.pruned, True)
        assert [hit.path for hit in hits] == [hit.path for hit in free]
        assert hits.log_weights.tolist() == pytest.approx(free.log_weights.tolist(), abs=1e-12)


# ---- what cannot be


@pytest.fixture
def typed():
    graph = nx.DiGraph()
    graph.add_edge("a", "b", type="R")
    graph.add_edge("b", "c", type="S")
    nx.set_node_attributes(graph, [1.0, 0.0, 0.0, 0.0], "embedding")
    return graph


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_hops": -1}, "max_hops must be a whole number >= 0, got -1"),
        ({"max_hops": 1.5}, r"max_hops must be a whole number >= 0, got 1\.5"),
        ({"beam_width": 0}, "beam_width must be a whole number >= 1, got 0"),
        ({"beam_width": None}, "beam_width must be a whole number >= 1, got None"),
        ({"limit": 0}, "limit must be a whole number >= 1, got 0"),
        ({"direction": "sideways"}, "direction must be one of both, in, out; got 'sideways'"),
        ({"time_budget": -0.1}, "time_budget must be a finite number >= 0, got -0.1"),
        ({"time_budget": math.nan}, "time_budget must be a finite number >= 0, got nan"),
        ({"edge_types": "Q"}, "edge_types must be types that edges have, got 'Q'; known are 'R', 'S'$"),
        ({"edge_types": ["R", "Q", "P"]}, "got 'P', 'Q'; known are 'R', 'S'$"),
        ({"edge_types": []}, r"edge_types must be a text or a list of texts, at least one, got \[\]"),
        ({"edge_types": [1]}, r"edge_types must be a text or a list of texts, at least one, got \[1\]"),
        ({"edge_types": 7}, "edge_types must be a text or a list of texts, at least one, got 7"),
        ({"node_filter": ["a"]}, r"node_filter must be a function, \(node\) -> bool, got \['a'\]"),
        ({"edge_filter": "R"}, r"edge_filter must be a function, \(u, v\) -> bool, got 'R'"),
        ({"source": []}, r"source must be a node, a list of at least one node, or None for .*, got \[\]"),
        ({"source": np.array(1)}, r"source must be a node, a list of at least one node, .*, got array\(1\)"),
        ({"source": ()}, r"source must be a node, a list of at least one node, or None for .*, got \(\)"),
    ],
)
def test_options_that_cannot_be(typed, options, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        attend(typed).traverse([1.0, 0.0, 0.0, 0.0], **{"source": "a"} | options)


def test_many_known_types_are_not_all_listed():
    graph = nx.path_graph(31, create_using=nx.DiGraph)
    nx.set_node_attributes(graph, [1.0], "embedding")
    for u, v in graph.edges:
        graph.edges[u, v]["type"] = f"T{u}"
    with pytest.raises(ab.InvalidConfigError, match=r"known are 'T0', 'T1', .*'T19' and 10 more$"):
        attend(graph).traverse([1.0], 0, edge_types="Q")


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (None, ab.InvalidInputError, r"query must be given, the vector \(d,\) .*, got None"),
        ([1.0, 2.0], ab.DimensionMismatchError, "query must have dimension 4 as the embeddings have, got 2"),
        ([[1.0] * 4], ab.DimensionMismatchError, r"query must be one vector \(d,\)"),
        ([1.0, math.nan, 0.0, 0.0], ab.InvalidInputError, "query must be finite: position 1"),
        ("north", ab.InvalidInputError, "query must be real numbers"),
    ],
)
@pytest.mark.parametrize("source", ["a", None])
def test_queries_that_cannot_be(typed, query, source, error, message):
    with pytest.raises(error, match=message):
        attend(typed).traverse(query, source)


@pytest.mark.parametrize("name", ["node_filter", "edge_filter"])
@pytest.mark.parametrize("budget", [None, 9.0])
def test_what_a_filter_raises_comes_through(typed, name, budget):
    class OwnError(Exception):
        pass

    def fails(*_):
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        attend(typed).traverse([1.0, 0.0, 0.0, 0.0], "a", time_budget=budget, **{name: fails})


@pytest.mark.parametrize("name", ["node_filter", "edge_filter"])
@pytest.mark.parametrize("budget", [None, 9.0])
def test_a_filter_that_says_neither_yes_nor_no_is_named(typed, name, budget):
    def each(*_):
        return np.array([True, False])

    with pytest.raises(
        ab.InvalidInputError, match=rf"{name} must return True or False, of '.*' it returned ndarray array.*\.any\(\)"
    ):
        attend(typed).traverse([1.0, 0.0, 0.0, 0.0], "a", time_budget=budget, **{name: each})
    truthy = attend(typed).traverse([1.0, 0.0, 0.0, 0.0], "a", time_budget=budget, **{name: lambda *_: np.True_})
    assert truthy[:] == attend(typed).traverse([1.0, 0.0, 0.0, 0.0], "a")[:]
    nothing = attend(typed).traverse([1.0, 0.0, 0.0, 0.0], "a", time_budget=budget, **{name: lambda *_: None})
    assert nothing.nodes == ["a"]


def test_a_bad_weight_names_its_edge(typed):
    typed.edges["a", "b"]["w"] = -1.0
    with pytest.raises(ab.InvalidConfigError, match=r"attribute 'w' of edge \('a', 'b'\) must be a finite number > 0"):
        attend(typed, weight="w").traverse([1.0, 0.0, 0.0, 0.0], "a")
    hits = attend(typed, weight="w").traverse([1.0, 0.0, 0.0, 0.0], "a", edge_filter=lambda u, v: u != "a")
    assert hits.nodes == ["a"]  # the edge is not read
