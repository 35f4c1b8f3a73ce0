import datetime
import itertools
import math
import operator
import re
import warnings
from collections import deque
from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge.errors import InputTooLargeError, InvalidConfigError, InvalidInputError
from attnbridge.integrations import clock
from attnbridge.integrations.match import MatchPath, compiler, search, values

pytestmark = pytest.mark.filterwarnings("ignore:the pattern matches nothing")

_compare = values.compare
CLASSES = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]


def attend(graph, **options):
    """Return an attention graph whose nodes all have an embedding; those without one get an arbitrary one."""
    for place, node in enumerate(graph):
        graph.nodes[node].setdefault("embedding", [math.cos(place), math.sin(place)])
    return ab.AttentionGraph(graph, attention="scaled_dot", scale=1.0, **options)


@st.composite
def graphs(draw, classes=tuple(CLASSES), most=5, edges=8):
    graph = draw(st.sampled_from(classes))()
    names = draw(st.permutations(["u", "v", "w", 0, (1, "x"), "z"][:most]))
    for name in names[: draw(st.integers(1, most))]:
        graph.add_node(name, label=draw(st.sampled_from(["A", "B", ["A", "B"], None])), x=draw(st.integers(0, 2)))
    nodes = list(graph)
    for _ in range(draw(st.integers(0, edges))):
        u, v = draw(st.sampled_from(nodes)), draw(st.sampled_from(nodes))
        graph.add_edge(u, v, type=draw(st.sampled_from(["R", "S"])), w=draw(st.integers(0, 2)))
    return graph


# ---- matching by hand


def edges_of(graph):
    """Return every edge as networkx iterates over them: (name, u, v, attributes)."""
    if graph.is_multigraph():
        return [((u, v, key), u, v, data) for u, v, key, data in graph.edges(keys=True, data=True)]
    return [((u, v), u, v, data) for u, v, data in graph.edges(data=True)]


def steps_of(graph, node, direction):
    """Return (edge number, next node), in the order of edge numbers."""
    found = []
    for number, (_, u, v, _) in enumerate(edges_of(graph)):
        both = direction == "both" or not graph.is_directed()
        if u == node and (both or direction == "out"):
            found.append((number, v))
        elif v == node and (both or direction == "in"):
            found.append((number, u))
        if u == v == node and direction == "in" and graph.is_directed() and (not found or found[-1][0] != number):
            found.append((number, v))
    return found


def trails(graph, start, hops):
    """Yield (nodes, edge numbers, cuts) of all trails of these relationships: (direction, test, least, most)."""

    def go(nodes, edges, cuts):
        if len(cuts) == len(hops):
            yield nodes, edges, cuts
            return
        direction, test, least, most = hops[len(cuts)]
        begun = cuts[-1] if cuts else 0
        if len(edges) - begun >= least:
            yield from go(nodes, edges, (*cuts, len(edges)))
        if len(edges) - begun < most:
            for number, node in steps_of(graph, nodes[-1], direction):
                if number not in edges and test(edges_of(graph)[number][3]):
                    yield from go((*nodes, node), (*edges, number), cuts)

    yield from go((start,), (), ())


def by_hand(graph, ends, hops):
    """Return the sorted rows of a path: its nodes that have a pattern, and its edge numbers by relationship."""
    place = {node: i for i, node in enumerate(graph)}
    rows = set()
    for start in graph:
        for nodes, edges, cuts in trails(graph, start, hops):
            chosen = [nodes[0], *(nodes[cut] for cut in cuts)]
            if all(test(graph.nodes[node]) for test, node in zip(ends, chosen, strict=True)):
                parts = [edges[a:b] for a, b in itertools.pairwise((0, *cuts))]
                key = [place[chosen[0]]]
                for part, node in zip(parts, chosen[1:], strict=True):
                    key += [part, place[node]]
                rows.add((tuple(key), tuple(chosen), edges))
    return [(chosen, edges) for _, chosen, edges in sorted(rows)]


def found_by(ag, pattern, variables, **options):
    """Return what a match finds, as `by_hand` has it."""
    numbers = {name: number for number, (name, *_) in enumerate(edges_of(ag.graph))}
    rows = []
    for row in ag.match(pattern, **options):
        edges = tuple(numbers[edge] for edge in row.paths[0].edges)
        rows.append((tuple(row.record[name] for name in variables), edges))
    return rows


ARROWS = {"out": ("-", "->"), "in": ("<-", "-"), "both": ("-", "-")}


def has_label(wanted):
    return lambda data: wanted in (data["label"] or [])


NODE_TESTS = [
    ("", lambda data: True),
    (":A", has_label("A")),
    (":A:B", lambda data: has_label("A")(data) and has_label("B")(data)),
    (":A|B", lambda data: bool(data["label"])),
    (" {x: 1}", lambda data: data["x"] == 1),
]
EDGE_TESTS = [
    ("", lambda data: True),
    (":R", lambda data: data["type"] == "R"),
    (":R|S", lambda data: True),
    (" {w: 1}", lambda data: data["w"] == 1),
]


@st.composite
def path_patterns(
    draw, fixed=False, directions=("out", "in", "both"), most=3, node_tests=NODE_TESTS, edge_tests=EDGE_TESTS
):
    """Return a path's text, and the tests by hand: of its nodes, and of its relationships."""
    text, ends, hops = "", [], []
    for place in range(draw(st.integers(1, most)) + 1):
        if place:
            direction = draw(st.sampled_from(directions))
            shown, test = draw(st.sampled_from(edge_tests))
            least, more = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            several = not fixed and draw(st.booleans())
            left, right = ARROWS[direction]
            count = f"*{least}..{least + more}" if several else ""
            kind, space, rest = shown.partition(" ")
            text += f"{left}[{kind}{count}{space}{rest}]{right}"
            hops.append((direction, test, least, least + more) if several else (direction, test, 1, 1))
        shown, test = draw(st.sampled_from(node_tests))
        text += f"(n{place}{shown})"
        ends.append(test)
    return text, ends, hops


@settings(deadline=None, max_examples=150)
@given(graphs(), path_patterns())
def test_rows_are_those_of_an_enumeration_by_hand_in_the_graphs_order(graph, path):
    text, ends, hops = path
    names = [f"n{place}" for place in range(len(ends))]
    assert found_by(attend(graph), f"MATCH {text} RETURN *", names) == by_hand(graph, ends, hops)


@settings(deadline=None)
@given(graphs(classes=(nx.DiGraph, nx.MultiDiGraph, nx.Graph), most=5, edges=8))
def test_simple_paths_are_those_of_networkx(graph):
    simple = []
    for start, end in itertools.permutations(graph, 2):
        simple += [tuple(path) for path in nx.all_simple_edge_paths(graph, start, end, cutoff=3)]
    found = attend(graph).match("MATCH p = (a)-[*1..3]->(b) WHERE id(a) <> id(b) RETURN p")
    along = []
    for path in found.column("p"):
        if len(set(path.nodes)) == len(path.nodes):
            keys = [edge[2:] for edge in path.edges]
            along.append(tuple((u, v, *key) for (u, v), key in zip(itertools.pairwise(path.nodes), keys, strict=True)))
    assert sorted(along, key=repr) == sorted(simple, key=repr)


def simple_paths_of(graph):
    """Return (nodes, edges) of the simple paths of up to 3 edges, as networkx enumerates them."""
    paths = []
    for start, end in itertools.permutations(graph, 2):
        for edges in nx.all_simple_edge_paths(graph, start, end, cutoff=3):
            paths.append(((start, *(edge[1] for edge in edges)), tuple(edges)))
    return paths


# A pattern, and which of networkx's paths it is, by nodes' attributes and the edges' attributes.
FILTERED = [
    (
        "(a:A)-[:R*1..3]->(b) WHERE b.x >= 1",
        lambda nodes, edges: has_label("A")(nodes[0]) and nodes[-1]["x"] >= 1 and all(e["type"] == "R" for e in edges),
    ),
    (
        "(a)-[r:R]->(m)-[s:S]->(b) WHERE a.x < b.x OR NOT r.w = s.w",
        lambda nodes, edges: (
            [e["type"] for e in edges] == ["R", "S"]
            and (nodes[0]["x"] < nodes[2]["x"] or edges[0]["w"] != edges[1]["w"])
        ),
    ),
    (
        "(a)-[{w: 1}]->(m:B)-[*1..2]->(b:A|B)",
        lambda nodes, edges: (
            len(edges) > 1 and edges[0]["w"] == 1 and has_label("B")(nodes[1]) and bool(nodes[-1]["label"])
        ),
    ),
]


@settings(deadline=None)
@given(graphs(edges=10), st.sampled_from(FILTERED))
def test_matches_are_the_simple_paths_of_networkx_filtered_by_hand(graph, case):
    pattern, keeps = case
    wanted = [
        (nodes, edges)
        for nodes, edges in simple_paths_of(graph)
        if keeps([graph.nodes[node] for node in nodes], [graph.edges[edge] for edge in edges])
    ]
    found = attend(graph).match(f"MATCH p = {pattern} RETURN p").column("p")
    simple = [path for path in found if len(set(path.nodes)) == len(path.nodes)]
    ours = [
        (
            path.nodes,
            tuple((*ends, *edge[2:]) for ends, edge in zip(itertools.pairwise(path.nodes), path.edges, strict=True)),
        )
        for path in simple
    ]
    assert sorted(ours, key=repr) == sorted(wanted, key=repr)


@settings(deadline=None, max_examples=80)
@given(graphs(), st.data())
def test_the_order_of_work_changes_nothing(graph, data):
    """Whatever the plan takes the cheapest node to be, rows and their order stay."""
    (first, _, _), (second, _, _) = data.draw(path_patterns(most=2)), data.draw(path_patterns(most=2))
    pattern = f"MATCH {first}, {second.replace('n0', 'm0').replace('n2', 'm2')} WHERE n0.x <= m0.x OR n1:A RETURN *"
    ag = attend(graph)
    expected = ag.match(pattern)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.Screens, "count", lambda self, element: data.draw(st.integers(0, 9)))
        again = ag.match(pattern)
    assert again.records == expected.records
    assert [row.paths for row in again] == [row.paths for row in expected]


@settings(deadline=None)
@given(graphs(), path_patterns(most=2))
def test_a_condition_is_the_same_wherever_it_is_written(graph, path):
    """A start, id(a) = value, id(a) IN list, and picking rows out of all."""
    text, ends, _ = path
    ag, node = attend(graph), list(graph)[-1]
    every = [row.record for row in ag.match(f"MATCH {text} RETURN *") if row.record["n0"] == node]
    assert ag.match(f"MATCH {text} RETURN *", start=node).records == every
    for condition in ("id(n0) = $n", "$n = id(n0)", "id(n0) IN [$n, 'none']", "NOT id(n0) <> $n"):
        assert ag.match(f"MATCH {text} WHERE {condition} RETURN *", params={"n": node}).records == every
    last = f"n{len(ends) - 1}"
    kept = [row.record for row in ag.match(f"MATCH {text} RETURN *") if row.record[last] == node]
    assert ag.match(f"MATCH {text} WHERE id({last}) = $n RETURN *", params={"n": node}).records == kept


@settings(deadline=None)
@given(graphs(), path_patterns(most=2))
def test_relabelled_nodes_relabel_rows(graph, path):
    text, _, _ = path
    mapping = {node: f"node {i}" for i, node in enumerate(graph)}
    expected = attend(graph).match(f"MATCH {text} RETURN *").records
    relabelled = nx.relabel_nodes(graph, mapping)
    found = attend(relabelled).match(f"MATCH {text} RETURN *").records
    assert found == [{name: mapping[node] for name, node in record.items()} for record in expected]


# What grand-cypher reads.
GRAND_PATHS = path_patterns(True, ("out", "in"), 2, [NODE_TESTS[0], NODE_TESTS[1], NODE_TESTS[4]], EDGE_TESTS[:3])


@settings(deadline=None, max_examples=60)
@given(graphs(classes=(nx.DiGraph,)), GRAND_PATHS)
def test_grand_cypher_finds_the_same(graph, path):
    grand = pytest.importorskip("grandcypher")
    text, ends, _ = path
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))  # which it finds in other places
    labelled = nx.DiGraph()
    for node, data in graph.nodes(data=True):
        label = [data["label"]] if isinstance(data["label"], str) else data["label"] or []
        labelled.add_node(str(node), x=data["x"], name=str(node), __labels__=set(label))
    for u, v, data in graph.edges(data=True):
        labelled.add_edge(str(u), str(v), __labels__={data["type"]}, type=data["type"], w=data["w"])
    names = [f"n{place}" for place in range(len(ends))]
    columns = ", ".join(f"{name}.name" for name in names)
    theirs = grand.GrandCypher(labelled).run(f"MATCH {text} RETURN {columns}")
    ours = attend(graph).match(f"MATCH {text} RETURN *").records
    expected = sorted(zip(*(theirs[f"{name}.name"] for name in names), strict=True))
    found = sorted(tuple(str(row[name]) for name in names) for row in ours)
    # it maps different nodes of a pattern to different nodes of the graph
    assert [row for row in found if len(set(row)) == len(row)] == [row for row in expected if len(set(row)) == len(row)]


# ---- what openCypher says, on small graphs


@pytest.fixture
def papers():
    graph = nx.MultiDiGraph()
    graph.add_node("gat", label="Paper", labels=["Graph", "Paper"], year=2018, title="Graph attention", tags=["a", "b"])
    graph.add_node("gcn", label="Paper", labels=("Graph",), year=2017, title="Graph convolution", score=0.5)
    graph.add_node(
        "bert", label="Paper", year=np.int64(2019), title=np.str_("Deep bidirectional"), tags=np.array([1, 2])
    )
    graph.add_node("ada", label={"Person", "Author"}, born=datetime.date(1990, 1, 2), active=np.True_)
    graph.add_node("bob", label="Person", born=datetime.date(1985, 5, 5), active=False, year=None)
    graph.add_edge("gat", "gcn", "CITES", page=3)
    graph.add_edge("gat", "gcn", "EXTENDS")
    graph.add_edge("bert", "gat", "CITES", page=1)
    graph.add_edge("ada", "gat", type="WROTE", order=1)
    graph.add_edge("bob", "gat", type="WROTE", order=2)
    graph.add_edge("bob", "bob", 7)
    return attend(graph)


def only(ag, expression, **options):
    """Return the value of an expression of gat, CITES and gcn."""
    pattern = f"MATCH p = (a)-[r:CITES]->(b) WHERE id(a) = 'gat' RETURN {expression} AS value"
    return ag.match(pattern, **options).column("value")[0]


def test_labels_and_types(papers):
    assert papers.match("MATCH (a:Graph) RETURN a").column("a") == ["gat", "gcn"]
    assert papers.match("MATCH (a:Paper:Graph) RETURN labels(a)").column("labels(a)") == [["Paper", "Graph"]] * 2
    assert papers.match("MATCH (a:Author|Graph) RETURN a").column("a") == ["gat", "gcn", "ada"]
    assert papers.match("MATCH (a) WHERE NOT a:Paper RETURN labels(a) AS l").column("l") == [
        ["Author", "Person"],
        ["Person"],
    ]
    assert papers.match("MATCH (a)-[r]->(b) RETURN type(r)").column("type(r)") == [
        *("CITES", "EXTENDS", "CITES", "WROTE", "WROTE", None)
    ]
    assert papers.match("MATCH (a)-[r:EXTENDS|WROTE]->() RETURN a").column("a") == ["gat", "ada", "bob"]
    assert papers.match("MATCH ()-[r]->(b) WHERE r:WROTE RETURN r").column("r") == [
        ("ada", "gat", 0),
        ("bob", "gat", 0),
    ]
    graph = nx.DiGraph()
    graph.add_node(1, kind="A")
    graph.add_edge(1, 1, name="R", type="S")
    ag = attend(graph)
    assert len(ag.match("MATCH (a:A)-[:R]->(a) RETURN a", labels="kind", type="name")) == 1
    assert len(ag.match("MATCH (a:A)-[:R]->(a) RETURN a")) == 0
    assert len(ag.match("MATCH (a)-[:S]->(a) RETURN a", labels=["kind", "kinds"])) == 1


def test_relationships_are_unique_in_a_row_and_nodes_are_not(papers):
    assert len(papers.match("MATCH (a)-[r]->(b)<-[s]-(c) WHERE id(a) = 'gat' RETURN a")) == 2  # r, s and s, r
    found = papers.match("MATCH (a)-[:CITES]-(b)-[]-(c) WHERE id(b) = 'gcn' RETURN c").column("c")
    assert found == ["gat"]  # by EXTENDS
    assert len(papers.match("MATCH (a)-[r]->(b), (c)-[s]->(d) RETURN a")) == 6 * 5
    assert len(papers.match("MATCH (a)-[*2]->(b), (c)-[s]->(d) WHERE id(a) = 'bert' RETURN a")) == 2 * 4
    assert papers.match("MATCH (a)-[r*1..3]->(a) RETURN r").column("r") == [[("bob", "bob", 7)]]
    assert papers.match("MATCH (a)--(a) RETURN a").column("a") == ["bob"]  # a self loop has one way to be gone
    assert papers.match("MATCH (a)-[r:WROTE]-(b)-[s:WROTE]-(c) RETURN a, c").records == [
        {"a": "ada", "c": "bob"},
        {"a": "bob", "c": "ada"},
    ]


def test_cycles_end_and_hops_may_be_none():
    ag = attend(nx.cycle_graph(3, create_using=nx.DiGraph))
    assert len(ag.match("MATCH (a)-[*]->(b) RETURN a")) == 9
    assert ag.match("MATCH (a)-[r*0..]->(b) WHERE id(a) = 0 RETURN b, r").records == [
        {"b": 0, "r": []},
        {"b": 1, "r": [(0, 1)]},
        {"b": 2, "r": [(0, 1), (1, 2)]},
        {"b": 0, "r": [(0, 1), (1, 2), (2, 0)]},
    ]
    assert len(ag.match("MATCH (a)-[*4..]->(b) RETURN a")) == 0
    assert len(ag.match("MATCH (a)-[*0]->(b) RETURN a")) == 3


def test_paths_and_relationships_read_from_left_to_right_whatever_their_arrows():
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 3)])
    ag = attend(graph)
    path = MatchPath((3, 2, 1, 0), ((2, 3), (1, 2), (0, 1)))
    found = ag.match(
        "MATCH p = (a)<-[r*2]-(b)<-[s]-(c) RETURN p, r, s, length(p) AS n, nodes(p) AS v, relationships(p) AS e"
    )
    expected = {"p": path, "r": [(2, 3), (1, 2)], "s": (0, 1), "n": 3, "v": [3, 2, 1, 0], "e": list(path.edges)}
    assert found.records == [expected]
    assert found[0].paths == (path,)
    assert ag.match("MATCH p = (a)<-[r*2]-(b)<-[s]-(c {}) WHERE id(c) = 0 RETURN *").records == [
        {"p": path, "a": 3, "r": [(2, 3), (1, 2)], "b": 1, "s": (0, 1), "c": 0}
    ]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a.year", 2018),
        ("a.nothing", None),
        ("r.page", 3),
        ("id(b)", "gcn"),
        ("a", "gat"),
        ("r", ("gat", "gcn", "CITES")),
        ("length(p)", 1),
        ("[a.year, null, 'x']", [2018, None, "x"]),
        # comparisons
        ("a.year > 2017", True),
        ("a.year <> 2018", False),
        ("a.year = 2018.0", True),
        ("a.year = '2018'", False),
        ("a.year <> '2018'", True),
        ("a.year < 'x'", None),
        ("a.year < null", None),
        ("null = null", None),
        ("null <> 1", None),
        ("true = 1", False),
        ("true > false", True),
        ("true > 0", None),
        ("'b' > 'a'", True),
        ("2017 < a.year <= 2018", True),
        ("2017 < a.year <= 2017", False),
        ("2018 < a.year < null", False),
        ("[1, 2] = [1, 2.0]", True),
        ("[1, null] = [1, 2]", None),
        ("[1, null] = [2, null]", False),
        ("[1] = [1, 2]", False),
        ("a = b", False),
        ("a = a", True),
        ("a <> b", True),
        ("a < b", None),
        ("r IN relationships(p)", True),
        ("b IN nodes(p)", True),
        # truth
        ("true AND null", None),
        ("false AND null", False),
        ("true OR null", True),
        ("false OR null", None),
        ("true XOR true", False),
        ("true XOR true XOR true", True),
        ("true XOR null", None),
        ("NOT null", None),
        ("NOT false", True),
        ("a.year AND true", None),
        ("NOT 1", None),
        # lists and texts
        ("2018 IN [2017, a.year]", True),
        ("1 IN [2, null]", None),
        ("1 IN [2, 3]", False),
        ("null IN []", False),
        ("null IN [1]", None),
        ("1 IN a.year", None),
        ("'b' IN a.tags", True),
        ("a.title CONTAINS 'att'", True),
        ("a.title STARTS WITH 'att'", False),
        ("a.title ENDS WITH 'tion'", True),
        ("a.title CONTAINS null", None),
        ("a.year CONTAINS '2'", None),
        ("a.nothing IS NULL", True),
        ("a.year IS NOT NULL", True),
        ("a.year IS NULL", False),
        ("a:Paper", True),
        ("r:EXTENDS", False),
        # arithmetic
        ("1 + 2 * 3 - 4", 3),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("7 / 2.0", 3.5),
        ("-7 % 3", -1),
        ("7.5 % 2", 1.5),
        ("-a.year", -2018),
        ("1 / 0", None),
        ("1.0 / 0", None),
        ("1 % 0", None),
        ("1 + null", None),
        ("1 + 'x'", None),
        ("true + 1", None),
        ("'x' + 'y'", "xy"),
        ("[1] + [2]", [1, 2]),
    ],
)
def test_values_are_those_of_opencypher(papers, expression, value):
    found = only(papers, expression)
    assert found == value
    assert type(found) is type(value)


def test_values_of_other_types_compare_as_python_does(papers):
    day = datetime.date(1988, 1, 1)
    assert papers.match("MATCH (a) WHERE a.born > $day RETURN a", params={"day": day}).column("a") == ["ada"]
    assert papers.match("MATCH (a) WHERE a.born > 3 OR a.born <> $day RETURN a", params={"day": day}).column("a") == [
        *("ada", "bob")
    ]
    assert papers.match("MATCH (a {active: true}) RETURN a").column("a") == ["ada"]
    assert papers.match("MATCH (a) WHERE a.active RETURN a").column("a") == ["ada"]
    assert papers.match("MATCH (a {tags: [1, 2]}) RETURN a").column("a") == ["bert"]
    assert papers.match("MATCH (a {tags: $t}) RETURN a", params={"t": ("a", "b")}).column("a") == ["gat"]
    assert papers.match("MATCH (a) WHERE 2 IN a.tags AND a.year = 2019 RETURN a").column("a") == ["bert"]
    assert papers.match("MATCH (a) WHERE a.title STARTS WITH 'Deep' RETURN a").column("a") == ["bert"]


def test_null_in_a_property_map_is_met_by_nothing(papers):
    assert len(papers.match("MATCH (a {nothing: null}) RETURN a")) == 0
    assert len(papers.match("MATCH (a {year: $y}) RETURN a", params={"y": None})) == 0


@pytest.mark.parametrize("sign", ["=", "<>", "<", "<=", ">", ">="])
@pytest.mark.parametrize(("left", "right"), list(itertools.product([-1, 0, 1.5, float("nan")], repeat=2)))
def test_numbers_compare_as_numbers(sign, left, right):
    python = {
        "=": operator.eq,
        "<>": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
    assert values.compare(sign, left, right) is python[sign](left, right)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.builds(dict),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.frozensets(st.integers(), max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_the_order_is_total_and_agrees_with_comparisons(x, y, z):
    keys = [values.order_key(value) for value in (x, y, z)]
    assert all(sorted(turned) == sorted(keys) for turned in itertools.permutations(keys))
    assert hash(keys[0]) is not None
    if values.compare("<", x, y) is True:
        assert keys[0] < keys[1] or isinstance(values.plain(x), list)
    assert values.compare("=", x, y) == values.compare("=", y, x)
    if values.equal(x, y) is True:
        assert keys[0] == keys[1]


@settings(deadline=None)
@given(st.integers(-20, 20), st.integers(-20, 20).filter(bool))
def test_whole_quotients_go_towards_zero(left, right):
    quotient, rest = compiler.arithmetic("/", left, right), compiler.arithmetic("%", left, right)
    assert quotient == int(left / right)
    assert quotient * right + rest == left


# ---- columns and their order


def test_order_is_by_type_with_null_last_and_first_where_descending():
    graph = nx.DiGraph()
    for name, x in enumerate([None, 2, "b", True, 1.5, "a", [1], float("nan"), False, {"k": 1}, 10**400]):
        graph.add_node(name, x=x, even=name % 2 == 0)
    ag = attend(graph)
    expected = [9, 6, 5, 2, 8, 3, 4, 1, 10, 7, 0]  # map, list, texts, false, true, numbers, NaN, null
    assert ag.match("MATCH (a) RETURN a ORDER BY a.x").column("a") == expected
    assert ag.match("MATCH (a) RETURN a ORDER BY a.x DESC").column("a") == expected[::-1]
    assert ag.match("MATCH (a) RETURN a ORDER BY a.even DESC, a").column("a") == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9]
    assert ag.match("MATCH (a) RETURN a ORDER BY a.even").column("a") == [1, 3, 5, 7, 9, 0, 2, 4, 6, 8, 10]  # ties stay
    assert ag.match("MATCH (a) RETURN a, -id(a) AS a_ ORDER BY a_ SKIP 1 LIMIT 2").column("a") == [9, 8]
    assert ag.match("MATCH (a) RETURN a SKIP $s LIMIT $n", params={"s": 8, "n": 9}).column("a") == [8, 9, 10]
    assert ag.match("MATCH (a) RETURN a LIMIT 0").records == []


def test_distinct_and_count(papers):
    match = papers.match
    assert match("MATCH (a)-->(b) RETURN DISTINCT b").column("b") == ["gcn", "gat", "bob"]
    assert match("MATCH (a)-->(b) RETURN DISTINCT b ORDER BY b DESC SKIP 1").column("b") == ["gcn", "gat"]
    assert match("MATCH (a)-->(b) RETURN DISTINCT b SKIP 1 LIMIT 1").column("b") == ["gat"]
    assert match("MATCH (a)-->(b) RETURN b, count(*) AS n, count(DISTINCT a) AS m, count(a.year) AS y").records == [
        {"b": "gcn", "n": 2, "m": 1, "y": 2},
        {"b": "gat", "n": 3, "m": 3, "y": 1},
        {"b": "bob", "n": 1, "m": 1, "y": 0},
    ]
    found = match("MATCH (a)-->(b) RETURN b, count(*) ORDER BY count(*) DESC, b LIMIT 2")
    assert found.records == [{"b": "gat", "count(*)": 3}, {"b": "gcn", "count(*)": 2}]
    assert found[1].paths == (MatchPath(("gat", "gcn"), (("gat", "gcn", "CITES"),)),)
    none = match("MATCH (a:Nothing) RETURN count(a) AS n")
    assert none.records == [{"n": 0}]
    assert none[0] == ({"n": 0}, None, (), ())
    assert match("MATCH (a:Nothing) RETURN a, count(*)").records == []


def test_1_and_1_0_are_one_value_and_true_another():
    graph = nx.DiGraph()
    graph.add_nodes_from((i, {"x": x}) for i, x in enumerate([1, 1.0, True, np.float32(1), None, None]))
    assert attend(graph).match("MATCH (a) RETURN DISTINCT a.x AS x").column("x") == [1, True, None]


def test_conditions_of_no_node(papers):
    assert len(papers.match("MATCH (a) WHERE $all RETURN a", params={"all": True})) == 5
    assert len(papers.match("MATCH (a) WHERE $all AND a:Paper RETURN a", params={"all": None})) == 0
    assert len(papers.match("MATCH (a) WHERE 1 > 2 RETURN a", query=[1.0, 0.0])) == 0


def test_attributes_edited_in_place_are_seen(papers):
    pattern = "MATCH (a:Paper {year: 1999})-[:OF]->(b) RETURN b"
    assert len(papers.match(pattern)) == 0
    papers.graph.nodes["bert"]["year"] = 1999
    papers.graph.edges["bert", "gat", "CITES"]["type"] = "OF"
    assert papers.match(pattern).column("b") == ["gat"]
    papers.graph.add_edge("bert", "gcn", type="OF")
    assert papers.match(pattern).column("b") == ["gat", "gcn"]


def test_nodes_may_be_anything_hashable():
    graph = nx.DiGraph([((1, 2), frozenset([3])), (frozenset([3]), 1.5)])
    ag = attend(graph)
    for node in graph:
        for condition in ("id(a) = $n", "id(a) IN $l"):
            found = ag.match(f"MATCH (a) WHERE {condition} RETURN a, id(a)", params={"n": node, "l": [node]})
            assert found.records == [{"a": node, "id(a)": node}]
    assert ag.match("MATCH (a) WHERE id(a) = [1, 2] RETURN a").column("a") == [(1, 2)]
    assert len(ag.match("MATCH (a) WHERE id(a) = true OR id(a) = $n RETURN a", params={"n": None})) == 0
    assert len(attend(nx.path_graph(2)).match("MATCH (a) WHERE id(a) = true RETURN a")) == 0  # 1, to a dict


def test_graphs_from_arrays_are_matched():
    ag = ab.AttentionGraph.from_arrays([[0, 0, 1], [1, 1, 2]], np.eye(3))
    assert ag.match("MATCH (a)-[r]->(b)-->(c) RETURN r, c").records == [
        {"r": (0, 1, 0), "c": 2},
        {"r": (0, 1, 1), "c": 2},
    ]


def test_what_a_match_returns(papers):
    found = papers.match("MATCH (a)-[r:WROTE]->(b) RETURN a, b.year AS year, r")
    assert found.columns == ("a", "year", "r")
    assert len(found) == 2
    assert found.complete
    assert found.scores is None
    assert found[-1] == found[1] == found[1:][0]
    assert found[1].record == {"a": "bob", "year": 2018, "r": ("bob", "gat", 0)}
    assert (found[1].score, found[1].weights) == (None, ())
    assert repr(found) == "Matches(2 rows of a, year, r)"
    with pytest.raises(IndexError):
        found[2]
    with pytest.raises(KeyError, match="no column 'b'; there are a, year, r"):
        found.column("b")


def test_tables(papers):
    pytest.importorskip("pandas")
    table = papers.match("MATCH (a)-[r:WROTE]->(b) RETURN a, b.year AS year, r").to_pandas()
    assert table["year"].dtype == np.int64
    assert table.to_dict("records")[1] == {"a": "bob", "year": 2018, "r": ("bob", "gat", 0)}
    scored = papers.match("MATCH (a)-[r:WROTE]->(b) RETURN r", query=[1.0, 0.0])
    assert scored.to_pandas().columns.tolist() == ["r", "score"]
    assert scored.to_pandas()["score"].tolist() == scored.scores.tolist()
    named = papers.match("MATCH (a) RETURN score(a) AS score", query=[1.0, 0.0])
    assert named.to_pandas()["score"].tolist() == named.column("score")
    assert papers.match("MATCH (a:Nothing) RETURN a").to_pandas().shape == (0, 1)


# ---- with a query


def softmax(logits):
    shifted = np.exp(np.array(logits) - max(logits))
    return shifted / shifted.sum()


def scored_by_hand(graph, start, hops, query, weight=None):
    """Return (nodes, edge numbers, weights) of paths whose relationships are all of one hop."""

    def go(nodes, edges, weights):
        if len(edges) == len(hops):
            yield nodes, edges, weights
            return
        direction, test, _, _ = hops[len(edges)]
        steps = [step for step in steps_of(graph, nodes[-1], direction) if step[0] not in edges]
        steps = [step for step in steps if test(edges_of(graph)[step[0]][3])]
        if not steps:
            return
        logits = [float(np.dot(query, graph.nodes[node]["embedding"])) for _, node in steps]
        if weight is not None:
            logits = [
                logit + math.log(edges_of(graph)[n][3][weight]) for logit, (n, _) in zip(logits, steps, strict=True)
            ]
        for (number, node), share in zip(steps, softmax(logits), strict=True):
            yield from go((*nodes, node), (*edges, number), (*weights, share))

    return list(go((start,), (), ()))


@settings(deadline=None)
@given(graphs(), st.lists(st.sampled_from(["out", "in", "both"]), min_size=1, max_size=3), st.booleans())
def test_scores_are_the_logarithms_of_weights_by_hand(graph, directions, weighed):
    for _, _, _, data in edges_of(graph):
        data["w"] += 1
    weight = "w" if weighed else None
    ag, start, query = attend(graph, weight=weight), next(iter(graph)), [0.7, -0.2]
    hops = [(direction, lambda data: data["type"] == "R", 1, 1) for direction in directions]
    text = "(n0)" + "".join(f"{'[:R]'.join(ARROWS[d])}(n{i + 1})" for i, d in enumerate(directions))
    found = ag.match(f"MATCH {text} RETURN *", query=query, start=start)
    expected = scored_by_hand(graph, start, hops, query, weight)
    names = [f"n{i}" for i in range(len(hops) + 1)]
    numbers = {name: number for number, (name, *_) in enumerate(edges_of(graph))}
    rows = {
        (tuple(row.record[name] for name in names), tuple(numbers[edge] for edge in row.paths[0].edges)): row
        for row in found
    }
    assert set(rows) == {(nodes, edges) for nodes, edges, _ in expected}
    for nodes, edges, weights in expected:
        row = rows[nodes, edges]
        np.testing.assert_allclose(row.weights, weights, rtol=1e-5)
        assert row.score == pytest.approx(np.log(weights).sum(), abs=1e-4)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@settings(deadline=None)
@given(graphs(), path_patterns(most=2), st.integers(1, 3), st.integers(0, 5))
def test_a_query_orders_rows_and_changes_none(graph, path, per_step, limit):
    names = itertools.count()
    text = re.sub(r"\[", lambda _: f"[r{next(names)}", path[0])  # rows differ by which relationship has which edges
    ag, query = attend(graph), [0.7, -0.2]
    ranked = ag.match(f"MATCH {text} RETURN *", query=query)
    as_sets = [{(repr(row.record), row.paths) for row in rows} for rows in (ranked, ag.match(f"MATCH {text} RETURN *"))]
    assert as_sets[0] == as_sets[1]
    assert len(as_sets[0]) == len(ranked)
    for row in ranked:
        assert row.score == pytest.approx(sum(map(math.log, row.weights)))
        assert len(row.weights) == len(row.paths[0].edges) + 1  # the first node is a choice too
    first = ag.match(f"MATCH {text} RETURN * LIMIT $n", query=query, params={"n": limit})
    assert list(first) == list(ranked)[:limit]
    pruned = ag.match(f"MATCH {text} RETURN *", query=query, per_step=per_step)
    kept = [repr(row) for row in pruned]
    assert kept == [repr(row) for row in ranked if repr(row) in kept]
    if max((len(list(graph)), *(len(steps_of(graph, node, "both")) for node in graph))) <= per_step:
        assert list(pruned) == list(ranked)


def test_rows_that_score_alike_are_in_the_graphs_order():
    graph = nx.star_graph(4, create_using=nx.DiGraph)
    graph.add_edges_from((leaf, 9) for leaf in range(1, 5))
    nx.set_node_attributes(graph, [1.0, 0.0], "embedding")
    found = attend(graph).match("MATCH (a)-->(b)-->(c) RETURN b", query=[1.0, 1.0], start=0)
    assert found.column("b") == [1, 2, 3, 4]
    assert found[0].weights == (0.25, 1.0)


def test_what_the_pattern_says_of_a_node_says_who_shares_its_weight():
    graph = nx.star_graph(3, create_using=nx.DiGraph)
    for node in graph:
        graph.nodes[node].update(embedding=[float(node), 0.0], year=2000 + node)
    ag = attend(graph)
    weights = softmax([1.0, 2.0])
    for pattern in (
        "MATCH (a)-->(b) WHERE b.year < 2003 RETURN b",
        "MATCH (a)-->(b) WHERE b.year < a.year + 3 RETURN b",
    ):
        found = ag.match(pattern, query=[1.0, 0.0], start=0)
        assert found.column("b") == [2, 1]
        np.testing.assert_allclose([row.weights[0] for row in found], weights[::-1], rtol=1e-6)
    best = ag.match("MATCH (a)-->(b) RETURN b, score(b) AS s", query=[1.0, 0.0], start=0, per_step=1)
    assert best.records == [{"b": 3, "s": 3.0}]
    assert best[0].weights[0] == pytest.approx(softmax([1.0, 2.0, 3.0])[2])


def test_two_paths_are_gone_through_one_after_the_other():
    graph = nx.DiGraph([("a", "b"), ("c", "b"), ("d", "b")])
    nx.set_node_attributes(graph, {"a": [0.0], "b": [0.0], "c": [1.0], "d": [2.0]}, "embedding")
    found = attend(graph).match("MATCH (x)-->(y), (z)-->(y) RETURN z", query=[1.0], start="a")
    assert found.column("z") == ["d", "c"]
    np.testing.assert_allclose(found[0].weights, [1.0, softmax([1.0, 2.0])[1]], rtol=1e-6)


def test_score_in_conditions_and_order(papers):
    query = [1.0, 0.0]  # embeddings are (cos, sin) of a node's place
    found = papers.match("MATCH (a) WHERE score(a) > 0 RETURN a, score(a) AS s ORDER BY s", query=query)
    assert found.column("a") == ["gcn", "gat"]
    assert found.column("s") == pytest.approx([math.cos(1), 1.0], abs=1e-6)
    found = papers.match("MATCH (a)-->(b) WHERE score(b) > score(a) RETURN DISTINCT a ORDER BY a", query=query)
    assert found.column("a") == ["bert", "ada", "bob"]
    grouped = papers.match("MATCH (a)-->(b) RETURN b, count(*) AS n", query=query)
    assert grouped.scores.tolist() == sorted(grouped.scores.tolist(), reverse=True)
    counted = papers.match("MATCH (a:Nothing) RETURN count(*) AS n", query=query)
    assert counted[0].score is None
    assert np.isnan(counted.scores).all()


def test_nodes_without_embedding_are_an_error_or_never_stepped_to():
    graph = nx.DiGraph([("a", "b"), ("a", "c"), ("c", "d")])
    nx.set_node_attributes(graph, {"a": [1.0], "b": [1.0], "d": [1.0]}, "embedding")
    ag = ab.AttentionGraph(graph, missing="skip")
    assert ag.match("MATCH (a)-[*1..2]->(b) RETURN b", query=[1.0], start="a").column("b") == ["b"]
    assert ag.match("MATCH (a)-[*1..2]->(b) RETURN b", start="a").column("b") == ["b", "c", "d"]
    raising = attend(nx.path_graph(3))
    del raising.graph.nodes[1]["embedding"]
    with pytest.raises(ab.AttentionError, match="node 1 has none"):
        raising.match("MATCH (a)--(b) RETURN b", query=[1.0, 0.0])


# ---- what is refused


@pytest.mark.parametrize(
    ("pattern", "column", "message"),
    [
        ("MATCH (a) WHERE b.x = 1 RETURN a", 17, "b is not in the pattern; known are a"),
        ("MATCH () RETURN b", 17, "b is not in the pattern; known are none"),
        ("MATCH (a) RETURN a ORDER BY b", 29, "b is not in the pattern; known are a"),
        ("MATCH (a)-[a]->() RETURN a", 10, "a is already the name of a node in this pattern"),
        ("MATCH ()-[r]->()-[r]->() RETURN r", 17, "r is already the name of a relationship in this pattern"),
        ("MATCH ()-[r*2]->(r) RETURN r", 17, "r is already the name of a list of relationships in this pattern"),
        ("MATCH p = (p) RETURN p", 11, "p is already the name of a path in this pattern"),
        ("MATCH p = (a) RETURN p.x", 22, "p is a path and has no properties"),
        ("MATCH ()-[r*2]->() RETURN r.x", 27, "r is a list of relationships and has no properties"),
        ("MATCH p = (a) WHERE p:A RETURN p", 21, "p is a path and has no labels"),
        ("MATCH ()-[r]->() RETURN labels(r)", 25, "labels takes a node; r is a relationship"),
        ("MATCH (a) RETURN type(a)", 18, "type takes a relationship; a is a node"),
        ("MATCH (a) RETURN length(a)", 18, "length takes a path; a is a node"),
        ("MATCH (a) RETURN id(a.x)", 18, "id takes the name of a node, got a.x"),
        ("MATCH (a) WHERE count(a) > 1 RETURN a", 17, "count is supported as a whole column of RETURN only"),
        ("MATCH (a) RETURN count(a) + 1", 18, "count is supported as a whole column of RETURN only"),
        ("MATCH (a) RETURN a ORDER BY count(a)", 29, "count is supported as a whole column of RETURN only"),
        ("MATCH (a) RETURN score(a)", 18, "score(a) needs a query to score with; pass query="),
        ("MATCH (a) WHERE a = 'x' RETURN a", 17, "a is a node and 'x' a value; compare id(a)"),
        ("MATCH (a) WHERE 1 = 1 AND $p <> a RETURN a", 33, "a is a node and $p a value; compare id(a)"),
        ("MATCH (a) WHERE a IN [1, $p] RETURN a", 17, "a is a node and [1, $p] a list of values; compare id(a)"),
        ("MATCH (a)-->(b) WHERE id(a) = b RETURN a", 31, "b is a node and id(a) a value; compare id(b)"),
        ("MATCH () RETURN *", 10, "RETURN * has nothing to return: no part of the pattern has a name"),
        ("MATCH (a) RETURN a.x, a.x", 23, "RETURN has two columns called a.x; name one of them with AS"),
        ("MATCH (a) RETURN *, a", 21, "RETURN has two columns called a; name one of them with AS"),
        (
            "MATCH (a) RETURN DISTINCT a ORDER BY a.x",
            38,
            "with DISTINCT or count, ORDER BY takes columns of RETURN only",
        ),
        ("MATCH (a) RETURN count(*) ORDER BY a", 36, "with DISTINCT or count, ORDER BY takes columns of RETURN only"),
    ],
)
def test_names_and_functions_are_checked_before_anything_is_read(papers, pattern, column, message):
    with pytest.raises(InvalidInputError) as caught:
        papers.match(pattern, params={"p": 1})
    first, _, caret = str(caught.value).split("\n")
    assert first.startswith(f"pattern, line 1, column {column}: {message}")
    assert len(caret) == column + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_step": 3}, "per_step must come with a query, which steps are ranked by; got 3 without"),
        ({"per_step": 0, "query": [1.0, 0.0]}, "per_step must be a whole number >= 1, got 0"),
        ({"max_hops": 0}, "max_hops must be a whole number >= 1, got 0"),
        ({"max_rows": 1.5}, "max_rows must be a whole number >= 1, got 1.5"),
        ({"time_budget": -1}, "time_budget must be a finite number >= 0, got -1"),
        ({"labels": 3}, "labels must be a text of at least one character, got 3"),
        ({"labels": []}, r"labels must name at least one attribute, got \[\]; leave it out for the usual ones"),
        ({"type": ""}, "type must be a text of at least one character, got ''"),
        ({"params": [1]}, r"params must be values by name, such as {'year': 2010}, got \[1\]"),
        ({"params": {1: 2}}, "params must be values by name, such as {'year': 2010}, got {1: 2}"),
        ({"params": {"m": 1}}, r"params must have a value for \$n, which the pattern uses; given are \$m"),
        ({}, r"params must have a value for \$n, which the pattern uses; given are none"),
        ({"params": {"n": -1}}, r"LIMIT \$n must be a whole number >= 0, got -1"),
        ({"params": {"n": "1"}}, r"LIMIT \$n must be a whole number >= 0, got '1'"),
    ],
)
def test_options_are_checked(papers, options, message):
    with pytest.raises(InvalidConfigError, match=message):
        papers.match("MATCH (a) RETURN a LIMIT $n", **options)


def test_wrong_patterns_starts_and_queries_are_refused(papers):
    with pytest.raises(InvalidConfigError, match="pattern must be a text of at least one character, got None"):
        papers.match(None)
    for start in ("nobody", ["gat"]):
        with pytest.raises(nx.NodeNotFound, match="is not in the graph"):
            papers.match("MATCH (a) RETURN a", start=start)
    with pytest.raises(ab.DimensionMismatchError, match="query must have dimension 2 as the embeddings have, got 3"):
        papers.match("MATCH (a) RETURN a", query=[1.0, 0.0, 0.0])
    with pytest.raises(InvalidInputError, match="query must be finite"):
        papers.match("MATCH (a) RETURN a", query=[1.0, float("nan")])


def _collections(values):
    """Return a list as every other kind of collection and iterator that is at hand."""
    made = [values, tuple(values), set(values), np.array(values), deque(values), dict.fromkeys(values).keys()]
    made += [iter(values), (value for value in values), dict(enumerate(values)).values()]
    made += [pytest.importorskip("pandas").Series(values), pytest.importorskip("pandas").Index(values)]
    arrow = pytest.importorskip("pyarrow")
    return [*made, arrow.array(values), arrow.chunked_array([values])]


def test_in_looks_in_collections_of_every_kind(papers):
    pattern = "MATCH (a) WHERE a.year IN $x RETURN a, a.year IN $x AS there"
    wanted = papers.match(pattern, params={"x": [2017, 2019]}).records
    outside = papers.match("MATCH (a) WHERE NOT a.year IN $x RETURN a", params={"x": [2017, 2019]}).records
    assert wanted
    assert outside
    for made in _collections([2017, 2019]):
        assert papers.match(pattern, params={"x": made}).records == wanted, type(made)
    for made in _collections([2017, 2019]):
        found = papers.match("MATCH (a) WHERE NOT a.year IN $x RETURN a", params={"x": made})
        assert found.records == outside, type(made)
    for made in _collections(["gat"]):
        assert papers.match("MATCH (a) WHERE id(a) IN $x RETURN a", params={"x": made}).column("a") == ["gat"]
    assert papers.match(pattern, params={"x": range(2017, 2020, 2)}).records == wanted
    assert papers.match(pattern, params={"x": None}).records == []


def test_properties_and_labels_that_are_collections_count_as_lists():
    for made in _collections(["x", "y"]):
        if not isinstance(made, Iterator):  # which would be read once only
            graph = nx.Graph()
            graph.add_node(0, tags=made, label=made)
            pattern = "MATCH (a:y) WHERE 'x' IN a.tags AND NOT 'z' IN a.tags RETURN a"
            assert attend(graph).match(pattern).column("a") == [0], type(made)


@pytest.mark.parametrize("given", [2017, "2017", b"2017", {2017: 1}, np.int64(2017), np.array(2017), 1.5, True])
def test_in_refuses_a_parameter_that_is_no_list(papers, given):
    message = f"$x must be a list, which IN looks in, got {given!r}; pass a list"
    for pattern in ("MATCH (a) WHERE NOT a.year IN $x RETURN a", "MATCH (a) RETURN 1 IN $x AS there"):
        with pytest.raises(InvalidConfigError, match=f"^{re.escape(message)}$"):
            papers.match(pattern, params={"x": given})


class _Raising:
    """What cannot be compared."""

    def __eq__(self, other):
        raise RuntimeError("no")

    __lt__ = __eq__
    __hash__ = object.__hash__


@pytest.mark.parametrize(
    ("pattern", "whose"),
    [
        ("MATCH (a {x: 1}) RETURN a", "'x' of node 'u'"),
        ("MATCH (a) WHERE NOT a.x = 1 RETURN a", "'x' of node 'u'"),
        ("MATCH (a) WHERE a.x < 1 RETURN a", "'x' of node 'u'"),
        ("MATCH (a) WHERE 1 IN [a.x] RETURN a", "'x' of node 'u'"),
        ("MATCH (a) RETURN a.x = 1 AS one", "'x' of node 'u'"),
        ("MATCH (a) RETURN a ORDER BY a.x = 1", "'x' of node 'u'"),
        ("MATCH (a)-[r {w: 1}]->() RETURN a", "'w' of edge ('u', 'v')"),
        ("MATCH (a)-[r]->(b) WHERE r.w = b.x RETURN a", "'w' of edge ('u', 'v') and 'x' of node 'v'"),
    ],
)
def test_what_an_attribute_s_comparison_raises_says_whose_it_is(pattern, whose):
    graph = nx.DiGraph()
    graph.add_node("u", x=_Raising())
    graph.add_node("v", x=1)
    graph.add_edge("u", "v", w=_Raising())
    with pytest.raises(RuntimeError, match="no") as caught:
        attend(graph).match(pattern)
    assert caught.value.__notes__ == [f"while match compared attribute {whose}"]
    assert len(attend(graph).match("MATCH (a) RETURN DISTINCT a.x ORDER BY a.x")) == 2  # by their texts


def test_params_in_a_property_map_must_have_values(papers):
    with pytest.raises(InvalidConfigError, match=r"params must have a value for \$y, "):
        papers.match("MATCH (a {year: $y}) RETURN a")


@pytest.mark.parametrize("query", [None, [1.0, 0.0]])
def test_hops_without_a_bound_end_in_an_error_not_in_silence(query):
    ag = attend(nx.path_graph(20, create_using=nx.DiGraph))
    with pytest.raises(InputTooLargeError) as caught:
        ag.match("MATCH (a)-[*]->(b) RETURN b", start=0, query=query)
    assert str(caught.value) == (
        "pattern, line 1, column 10: paths of * go on beyond 16 hops; bound it, as in *1..4, or pass max_hops=\n"
        "  MATCH (a)-[*]->(b) RETURN b\n"
        "           ^"
    )
    assert len(ag.match("MATCH (a)-[*]->(b) RETURN b", start=0, max_hops=19, query=query)) == 19
    assert len(ag.match("MATCH (a)-[*]->(b) RETURN b", start=4, query=query)) == 15
    assert len(ag.match("MATCH (a)-[*17..19]->(b) RETURN b", start=0, query=query)) == 3
    with pytest.raises(InputTooLargeError, match="go on beyond 18 hops"):
        ag.match("MATCH (a)-[*18..]->(b) RETURN b", start=0, query=query)


@pytest.mark.parametrize("rows", ["RETURN b", "RETURN DISTINCT b", "RETURN b, count(*) AS n", "RETURN b ORDER BY b"])
@pytest.mark.parametrize(
    ("behind", "left"),
    [
        ("LIMIT 99999999999999999999999", slice(None)),
        ("SKIP 9223372036854775807 LIMIT 1", slice(0)),
        ("SKIP 99999999999999999999999", slice(0)),
        ("SKIP 3 LIMIT 9223372036854775807", slice(3, None)),
    ],
)
def test_skip_and_limit_may_be_of_any_size(rows, behind, left):
    ag = attend(nx.path_graph(5))
    words = behind.split()
    given = {word.lower(): int(number) for word, number in zip(words[::2], words[1::2], strict=True)}
    named = " ".join(f"{word} ${word.lower()}" for word in words[::2])
    everything = ag.match(f"MATCH (a)--(b) {rows}").records
    assert len(everything) >= 5
    assert ag.match(f"MATCH (a)--(b) {rows} {behind}").records == everything[left]
    assert ag.match(f"MATCH (a)--(b) {rows} {named}", params=given).records == everything[left]


@pytest.mark.parametrize("query", [None, [1.0, 0.0]])
def test_too_many_rows_are_an_error_and_a_limit_helps(query):
    ag = attend(nx.complete_graph(6))
    with pytest.raises(InputTooLargeError, match="the pattern must match at most max_rows = 29 times, got more; add"):
        ag.match("MATCH (a)--(b) RETURN a", max_rows=29, query=query)
    assert len(ag.match("MATCH (a)--(b) RETURN a", max_rows=30, query=query)) == 30
    assert len(ag.match("MATCH (a)--(b) RETURN a LIMIT 29", max_rows=29, query=query)) == 29
    with pytest.raises(InputTooLargeError, match="max_rows = 29"):
        ag.match("MATCH (a)--(b) RETURN a ORDER BY b LIMIT 1", max_rows=29, query=query)


def test_names_that_nothing_has_are_warned_of():
    graph = nx.DiGraph()
    graph.add_nodes_from([(0, {"label": "Paper"}), (1, {"labels": ["Author", "Person"]})], embedding=[1.0])
    graph.add_edge(0, 1, type="BY")
    ag = ab.AttentionGraph(graph)
    typed = r"the pattern matches nothing: no edge has type 'AT' or 'B'; known are 'BY' \(type= names the attribute\)"
    with pytest.warns(UserWarning, match=typed) as seen:
        assert not ag.match("MATCH (a)-[:B|AT]->(b) RETURN b")
    assert [(one.filename, len(seen)) for one in seen] == [(__file__, 1)]
    labelled = "no node has label 'Papr'; known are 'Paper', 'Author', 'Person' "
    with pytest.warns(UserWarning, match=labelled) as seen:
        assert ag.match("MATCH (a:Papr)-[:AT|BY]->(b) RETURN count(*)").records == [{"count(*)": 0}]
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ag.match("MATCH (a:Papr)-[:AT]->(b) RETURN b")  # they are looked for once
        ag.match("MATCH (a:Author)-[:BY]->(b:Paper) RETURN b")  # all are there, but not so
        ag.match("MATCH (a:Paper|Nobody)-[:BY|NEVER]->(b) RETURN b")  # there is a row
        ag.match("MATCH (a:New) RETURN a", time_budget=60)
    many = nx.Graph()
    many.add_nodes_from((i, {"label": f"l{i}", "embedding": [1.0]}) for i in range(22))
    with pytest.warns(UserWarning, match="known are 'l0', .*, 'l19' and 2 more"):
        ab.AttentionGraph(many).match("MATCH (a:l22) RETURN a")
    untyped = "no edge has type 'R'; known are none: no edge has a text as attribute 'type', type= names another"
    with pytest.warns(UserWarning, match=f"{untyped}$"):
        ab.AttentionGraph(many).match("MATCH (a)-[:R]-(b) RETURN b")


def test_attributes_that_nothing_has_are_warned_of():
    graph = nx.DiGraph()
    graph.add_nodes_from([(0, {"label": "Paper"}), (1, {"label": "Paper", "kind": 3})], embedding=[1.0])
    graph.add_edge(0, 1, type="BY")
    ag = ab.AttentionGraph(graph)
    pattern = "MATCH (a:Paper)-[:BY]->(b) RETURN b"
    assert ag.match(pattern).column("b") == [1]
    typed = "no edge has type 'BY'; known are none: no edge has a text as attribute 'typ', type= names another"
    with pytest.warns(UserWarning, match=f"{typed}$") as seen:
        assert not ag.match(pattern, type="typ")
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="as attribute 'sort', "):  # in another attribute it is looked for again
        assert not ag.match(pattern, type="sort")
    labelled = "no node has label 'Paper'; known are none: no node has a text as attribute 'kind' or 'x', labels= names"
    with pytest.warns(UserWarning, match=labelled):
        assert not ag.match(pattern, labels=["kind", "x"])


@pytest.mark.parametrize("query", [None, [1.0, 0.0]])
def test_a_time_budget_ends_with_what_is_found_so_far(query):
    ag = attend(nx.complete_graph(12))
    pattern = "MATCH (a)-[*1..12]-(b) RETURN a"  # more paths than anybody waits for
    found = ag.match(pattern, time_budget=0.05, query=query, max_rows=10**9)
    assert not found.complete
    assert repr(found).endswith("rows of a, incomplete)")
    assert ag.match(pattern, time_budget=0, query=query).records == []
    assert ag.match("MATCH (a)--(b) RETURN a", time_budget=60, query=query).complete


class _Ticking:
    """A clock that goes on by what is compared only."""

    def __init__(self):
        self.now, self.compared = 0.0, 0

    def monotonic(self):
        return self.now

    def compare(self, *given):
        self.now += 0.001
        self.compared += 1
        return _compare(*given)


@pytest.mark.parametrize("query", [None, [1.0, 0.0]])
@pytest.mark.parametrize(
    "pattern",
    [
        "MATCH (a), (b) WHERE a = b AND a <> b RETURN b",
        "MATCH (a) WHERE a.x > 1 RETURN a",
        "MATCH (a)--(b) WHERE a.x > b.x RETURN a",
        "MATCH (a)-[r]-() WHERE r.x > 1 RETURN a",
        "MATCH (a)-[*1..3]-(b) WHERE a.x > b.x RETURN a",
        "MATCH (a), (b)--(c) WHERE a.x > 1 AND b.x > 1 AND c.x > a.x RETURN b ORDER BY a.x LIMIT 3",
    ],
)
def test_conditions_that_fail_use_the_time_budget_too(pattern, query, monkeypatch):
    graph, ticking = nx.complete_graph(40), _Ticking()
    nx.set_node_attributes(graph, 0, "x")
    nx.set_edge_attributes(graph, 0, "x")
    ag = attend(graph)
    monkeypatch.setattr(clock, "time", ticking)
    monkeypatch.setattr(values, "compare", ticking.compare)
    whole = ag.match(pattern, query=query)
    assert (whole.records, whole.complete) == ([], True)
    assert ticking.compared >= 40
    ticking.compared = 0
    found = ag.match(pattern, query=query, time_budget=0.02)
    assert (found.records, found.complete) == ([], False)
    assert 15 <= ticking.compared <= 22  # a share is kept for what follows; two conditions may be looked at together


def test_hits_of_a_partial_match_are_rows_of_the_whole():
    ag = attend(nx.complete_graph(7))
    pattern = "MATCH (a)-[*1..4]-(b) WHERE id(b) = 6 RETURN a"
    everything = {row.paths for row in ag.match(pattern)}
    assert {row.paths for row in ag.match(pattern, time_budget=0.005)} <= everything
