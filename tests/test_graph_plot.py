"""Pictures of walks and matches: what is drawn is read back from the axes."""

import sys
from itertools import combinations

import networkx as nx
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations.graph_layout import layered
from attnbridge.integrations.graph_plot import _edges

pytest.importorskip("matplotlib")
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon

CLASSES = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]
START, NO_SCORE = to_rgba("#D55E00"), to_rgba("#d9d9d9")


def with_embeddings(graph, seed=5):
    rng = np.random.default_rng(seed)
    for node in graph:
        graph.nodes[node]["embedding"] = rng.standard_normal(3)
    return ab.AttentionGraph(graph)


def random_graph(kind, seed, nodes=23, edges=50):
    rng = np.random.default_rng(seed)
    graph = kind()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(rng.integers(0, nodes, (edges, 2)).tolist())
    return with_embeddings(graph, seed)


def of_kind(figure, kind):
    return [patch for patch in figure.axes[0].patches if type(patch) is kind]


def boxes(figure):
    """Return {label: box}: labels are drawn in the middles of boxes."""
    found = {}
    for box in of_kind(figure, FancyBboxPatch):
        middle = (box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2)
        (text,) = [text for text in figure.axes[0].texts if np.allclose(text.get_position(), middle, atol=1e-9)]
        found[text.get_text()] = box
    return found


def edge_names(figure):
    labels = {*boxes(figure), *(text.get_text() for text in figure.axes[0].texts if "hop " in text.get_text())}
    return sorted(text.get_text() for text in figure.axes[0].texts if text.get_text() not in labels)


def overlapping(a, b):
    return (
        a.get_x() < b.get_x() + b.get_width()
        and b.get_x() < a.get_x() + a.get_width()
        and a.get_y() < b.get_y() + b.get_height()
        and b.get_y() < a.get_y() + a.get_height()
    )


# ---- what is drawn


@pytest.fixture
def star():
    graph = nx.star_graph(4, create_using=nx.DiGraph)
    return with_embeddings(graph)


def test_colours_are_scores(star):
    hits = star.k_hop(0, 1)
    figure = hits.plot()
    scores = dict(zip(map(str, hits.nodes), hits.scores.tolist(), strict=True))
    low, high = min(scores.values()), max(scores.values())
    for label, box in boxes(figure).items():
        assert box.get_facecolor() == colormaps["viridis"]((scores[label] - low) / (high - low))
    bar = figure.axes[1]
    assert bar.get_ylabel() == "score"
    assert bar.get_ylim() == pytest.approx((low, high))


def test_widths_are_attention(star):
    hits = star.k_hop(0, 1)
    figure = hits.plot()
    walked = hits.to_subgraph()
    assert [line.get_linewidth() for line in of_kind(figure, PathPatch)] == pytest.approx(
        [0.6 + 2.8 * attention for _, _, attention in walked.edges(data="attention")]
    )
    assert edge_names(figure) == sorted(f"{attention:.2f}" for _, _, attention in walked.edges(data="attention"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["start", "attention 0.1", "0.5", "1"]


def test_the_start_is_marked(star):
    found = boxes(star.k_hop(0, 1).plot())
    assert [label for label, box in found.items() if box.get_edgecolor() == START] == ["0"]


def test_several_starts_are_marked(star):
    found = boxes(star.traverse([1.0, 0.0, 0.0], [1, 2]).plot())
    assert sorted(label for label, box in found.items() if box.get_edgecolor() == START) == ["1", "2"]


@pytest.mark.parametrize("kind", CLASSES)
def test_arrows_are_directions(kind):
    graph = kind([("a", "b"), ("b", "c")])
    hits = with_embeddings(graph).k_hop("c", direction="in" if graph.is_directed() else "out")
    figure = hits.plot()
    found, heads = boxes(figure), of_kind(figure, Polygon)
    assert len(heads) == (2 if graph.is_directed() else 0)
    tips = {tuple(np.round(head.get_xy()[0], 6)) for head in heads}
    ends = {(round(found[name].get_x() + found[name].get_width(), 6), round(middle(found[name]), 6)) for name in "bc"}
    assert tips == (ends if graph.is_directed() else set())  # edges are gone against their direction, to the left


def middle(box):
    return box.get_y() + box.get_height() / 2


def test_columns_are_hops():
    ag = with_embeddings(nx.path_graph(4))
    figure = ag.k_hop(0, 3).plot()
    found = boxes(figure)
    lefts = [found[str(node)].get_x() for node in range(4)]
    assert lefts == sorted(set(lefts))
    heads = [text for text in figure.axes[0].texts if text.get_text().startswith("hop ")]
    for node, head in enumerate(heads):
        box = found[str(node)]
        assert head.get_text() == f"hop {node}"
        assert head.get_position()[0] == pytest.approx(box.get_x() + box.get_width() / 2)


def test_types_and_keys_are_named():
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", "likes")
    graph.add_edge("b", "c", 0)
    graph.add_edge("c", "d", 0, type="CITES", since=1999)
    matches = with_embeddings(graph).match("MATCH (x)-->(y) RETURN x")
    assert edge_names(matches.plot()) == ["CITES", "likes"]
    assert edge_names(matches.plot(edge_label="since")) == ["1999", "likes"]
    graph.add_edge("b", "c", 1)
    assert edge_names(with_embeddings(graph).match("MATCH (x)-->(y) RETURN x").plot()) == ["0", "1", "CITES", "likes"]


def test_nodes_are_called_by_an_attribute(star):
    star.graph.nodes[1]["name"] = "first"
    assert set(boxes(star.k_hop(0, 1).plot(label="name"))) == {"0", "first", "2", "3", "4"}


def test_a_match_without_query_has_neither_colours_nor_widths():
    figure = with_embeddings(nx.path_graph(3)).match("MATCH (a)--(b) RETURN a").plot()
    assert {box.get_facecolor() for box in boxes(figure).values()} == {NO_SCORE}
    assert {line.get_linewidth() for line in of_kind(figure, PathPatch)} == {1.2}
    assert len(figure.axes) == 1
    assert not figure.legends


def test_a_start_without_embedding_is_grey():
    graph = nx.path_graph(3)
    nx.set_node_attributes(graph, {1: [1.0, 0.0], 2: [0.0, 1.0]}, "embedding")
    figure = ab.AttentionGraph(graph, missing="skip").k_hop(0, query=[1.0, 0.5]).plot()
    assert boxes(figure)["0"].get_facecolor() == NO_SCORE
    assert figure.texts[0].get_text() == "2 hits\ngrey: no score"


def test_equal_scores_have_the_middle_colour():
    graph = nx.path_graph(3)
    nx.set_node_attributes(graph, [1.0, 0.0], "embedding")
    found = boxes(ab.AttentionGraph(graph).k_hop(0).plot())
    assert {box.get_facecolor() for box in found.values()} == {colormaps["viridis"](0.5)}


# ---- room


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_over_a_node(kind, seed):
    """No box is over another, no edge goes through a box that is not its own, and each label is inside its box."""
    figure = random_graph(kind, seed).match("MATCH (a)--(b)--(c) RETURN a LIMIT 12", query=[1.0, 0.0, 0.5]).plot()
    figure.draw_without_rendering()
    found, panel = boxes(figure), figure.axes[0]
    assert not any(overlapping(a, b) for a, b in combinations(found.values(), 2))
    right, bottom = panel.get_xlim()[1], panel.get_ylim()[0]
    for text in panel.texts:
        if text.get_text() in found:
            within, extent = found[text.get_text()].get_window_extent(), text.get_window_extent()
            assert within.x0 <= extent.x0 < extent.x1 <= within.x1
            assert within.y0 <= extent.y0
    for box in found.values():
        assert 0 <= box.get_x() < box.get_x() + box.get_width() <= right
        assert 0 <= box.get_y() < box.get_y() + box.get_height() <= bottom
    for line in of_kind(figure, PathPatch):
        points = np.concatenate(line.get_path().to_polygons(closed_only=False))
        for box in found.values():
            inside_x = (points[:, 0] > box.get_x() + 0.01) & (points[:, 0] < box.get_x() + box.get_width() - 0.01)
            inside_y = (points[:, 1] > box.get_y() + 0.01) & (points[:, 1] < box.get_y() + box.get_height() - 0.01)
            assert not (inside_x & inside_y).any()


def test_every_edge_is_drawn_with_loops_and_parallel_ones():
    graph = nx.MultiDiGraph([("a", "b"), ("a", "b"), ("b", "a"), ("a", "a"), ("b", "b"), ("b", "b"), ("b", "c")])
    graph.add_edges_from([("c", "a"), ("c", "c")])
    figure = with_embeddings(graph).match("MATCH (x)-->(y) RETURN x").plot()
    lines = [tuple(map(tuple, line.get_path().vertices)) for line in of_kind(figure, PathPatch)]
    assert len(set(lines)) == graph.number_of_edges()


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph])
def test_names_of_edges_hide_no_other(kind):
    """The nodes but one are in one column, each joined to each; their edges pass beside it."""
    graph = nx.relabel_nodes(nx.complete_graph(5, create_using=kind), dict(enumerate("abcde")))
    figure = with_embeddings(graph).match("MATCH (x)-[*1..2]-(y) RETURN y", [1.0, 0.5, 0.0], start="a").plot()
    figure.draw_without_rendering()
    named = [text for text in figure.axes[0].texts if "." in text.get_text()]
    assert len(named) == graph.number_of_edges()
    extents = [text.get_bbox_patch().get_window_extent() for text in named]
    if kind is nx.Graph:
        assert not any(a.overlaps(b) for a, b in combinations([e.padded(-1.5) for e in extents], 2))
    assert all(0 <= extent.x0 < extent.x1 <= figure.bbox.width for extent in extents)


def test_many_nodes_are_limited_with_a_note():
    ag = with_embeddings(nx.star_graph(99))
    figure = ag.k_hop(0, 1).plot()
    assert len(boxes(figure)) == 60
    title, note = figure.texts[0].get_text().split("\n")
    assert title == "The first 60 of 100 hits"
    assert note == "the names of 59 edges are left out"
    assert edge_names(figure) == []
    few = ag.k_hop(0, 1).plot(limit=3)
    assert few.texts[0].get_text() == "The first 3 of 100 hits"
    assert len(boxes(ag.k_hop(0, 1).plot(limit=100))) == 100


def test_a_walk_cut_short_says_so():
    hits = with_embeddings(nx.star_graph(9)).k_hop(0, max_nodes=3)
    assert hits.plot().texts[0].get_text() == "3 hits, cut short"


def test_one_hit_is_drawn():
    figure = with_embeddings(nx.empty_graph(1)).k_hop(0).plot()
    assert list(boxes(figure)) == ["0"]
    assert figure.texts[0].get_text() == "1 hit"


def test_odd_names_are_drawn(tmp_path):
    graph = nx.Graph()
    names = ["$x^2", "two\nlines", "翼翼翼", "x" * 90, ("a", 1), "", "_private", "﷽", "&<>"]
    graph.add_edges_from(("root", name) for name in names)
    figure = with_embeddings(graph).k_hop("root").plot(tmp_path / "odd.png")
    found = {text.get_text() for text in figure.axes[0].texts}
    assert {"$x^2", "('a', 1)", "'two\\nlines'", "_private", "&<>"} <= found
    assert max(len(name) for name in found) <= 28


def test_pictures_are_the_same_each_time(tmp_path):
    hits = random_graph(nx.MultiDiGraph, 3).k_hop(0, 3)
    for name in ("a.png", "b.png"):
        hits.plot(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG\r\n"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_files_are_written_whole(star, tmp_path, suffix, begins):
    file = tmp_path / f"walk{suffix}"
    figure = star.k_hop(0, 1).plot(file)
    data = file.read_bytes()
    assert data.startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    if suffix == ".png":
        width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
        assert (width, height) == tuple(int(150 * inches) for inches in figure.get_size_inches())


# ---- what is refused


def test_nothing_found_is_refused():
    ag = with_embeddings(nx.empty_graph(2))
    for found in (ag.neighborhood(0), ag.match("MATCH (a)-->(b) RETURN a")):
        with pytest.raises(ab.InvalidInputError, match="hits must be at least one to be drawn, there are none"):
            found.plot()
    with pytest.raises(ab.InvalidInputError, match="there are none"):
        ag.match("MATCH (a)-->(b) RETURN count(*)").plot()


def test_bad_arguments_are_refused(star, tmp_path):
    for found in (star.k_hop(0), star.match("MATCH (a)-->(b) RETURN a")):
        with pytest.raises(ab.InvalidInputError, match=r"path must end in .png, .svg or .pdf, got 'a.jpg'"):
            found.plot(tmp_path / "a.jpg")
        for limit, message in ((0, "limit must be a whole number >= 1, got 0"), (201, "limit must be at most 200")):
            with pytest.raises(ab.InvalidConfigError, match=message):
                found.plot(limit=limit)
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written_are_refused(star, tmp_path):
    for found in (star.k_hop(0), star.match("MATCH (a)-->(b) RETURN a")):
        with pytest.raises(ab.InvalidInputError, match=r"path must be the path of a file, a text or a Path, got 3$"):
            found.plot(3)
        with pytest.raises(ab.InvalidInputError, match=r"path must be in a folder that is there, got .*a.png; make"):
            found.plot(tmp_path / "nowhere" / "a.png")


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph])
def test_nodes_that_numpy_compares_one_by_one(kind):
    """A tuple == a number of numpy is an array, which is neither true nor false."""
    pair, number = (1, 2), np.int64(7)
    graph = kind([(pair, number), (number, number), ((3, 4), number)])
    ag = with_embeddings(graph)
    arrow = "<-[0]-" if graph.is_multigraph() else "<-"
    hits = ag.k_hop(number, 1, direction="in")
    steps = [line for line in hits.explain().splitlines() if line.startswith("   ")]
    if graph.is_directed():
        assert len(steps) == 2
        assert all(f"{number!r} {arrow} (" in line for line in steps)
    assert len(boxes(hits.plot())) == 3
    matches = ag.match("MATCH (a)-[r]->(b) RETURN a, r, b", query=np.ones_like(graph.nodes[pair]["embedding"]))
    assert matches.explain().count("start at") == len(matches)
    assert len(boxes(matches.plot())) == 3
    assert sum(edge.loop for edge in _edges(matches.to_subgraph(), "type")) == 1


def test_without_matplotlib(star, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ab.MissingDependencyError, match=r"pip install 'attnbridge\[viz\]'"):
        star.k_hop(0).plot()


# ---- places


def test_a_long_edge_passes_beside_what_is_between():
    column_of = {"a": 0, "b": 1, "c": 2}
    layout = layered(column_of, [("a", "b"), ("b", "c"), ("a", "c")], dict.fromkeys("abc", 0.0))
    ((column, row),) = layout.bends[2]
    assert column == 1
    assert abs(row - layout.rows["b"]) >= 0.7


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_has_no_crossings(seed):
    tree = nx.random_labeled_rooted_tree(30, seed=seed)
    hops = nx.single_source_shortest_path_length(tree, tree.graph["root"])
    edges = [tuple(sorted(edge, key=hops.__getitem__)) for edge in tree.edges]
    rows = layered(hops, edges, dict.fromkeys(tree, 0.0)).rows
    for (a, b), (c, d) in combinations(edges, 2):
        if hops[a] == hops[c]:
            assert (rows[a] - rows[c]) * (rows[b] - rows[d]) >= 0
    for a, b in combinations(tree, 2):
        assert hops[a] != hops[b] or abs(rows[a] - rows[b]) > 1 - 1e-5


def test_the_best_is_on_top_among_siblings():
    order = {"a": 0.0, "b": 3.0, "c": 1.0, "d": 2.0}
    layout = layered({"a": 0, "b": 1, "c": 1, "d": 1}, [("a", "b"), ("a", "c"), ("a", "d")], order)
    assert layout.columns == [["a"], ["c", "d", "b"]]


def test_layout_without_edges_keeps_the_order():
    layout = layered(dict.fromkeys("abc", 0), [], {"a": 2.0, "b": 1.0, "c": 1.0})
    assert layout.columns == [["b", "c", "a"]]
    assert layout.rows == {"b": 0.0, "c": 1.0, "a": 2.0}
