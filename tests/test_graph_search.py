"""Searches from a bridge's hits along edges, against a slow flow of attention by networkx itself in float64."""

import itertools
import math
import re
import runpy
import sys
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_graph import CLASSES, DIM, DIRECTIONS, cosine, graphs, step_weights, steps_from

import attnbridge as ab
from attnbridge.errors import (
    DimensionMismatchError,
    GraphStructureError,
    InvalidConfigError,
    InvalidInputError,
)

EXAMPLE = Path(__file__).parent.parent / "examples" / "walk_nouns.py"
QUERY = np.linspace(-1.0, 1.0, DIM)
STRANGERS = {str: "nowhere", int: 9999}  # ids that are no nodes
NAMED = [-1, -2, 0, 7, "a", "b", "c", "d", (1, "x")]

kinds_of_ids = st.sampled_from([str, int])


# ---- the truth


def flows(graph, seeds, query, hops, direction="out", weight=None, width=None):
    """Return for each hop {node: attention}, {node: best log weight}; and whether what the beam took was a near tie."""
    logits = {node: cosine(query, data["embedding"]) for node, data in graph.nodes(data=True)}
    total = sum(math.exp(logits[seed]) for seed in seeds)
    now = {seed: math.exp(logits[seed]) / total for seed in seeds}
    ways = {seed: math.log(share) for seed, share in now.items()}
    found, close = [(now, ways)], False
    for _ in range(hops):
        taken = sorted(now, key=lambda node: -now[node])
        if width is not None and len(taken) > width:
            close |= now[taken[width - 1]] < now[taken[width]] * (1.0 + 1e-4)
            taken = taken[:width]
        came, best = {}, {}
        for node in taken:
            for other, share in step_weights(graph, node, query, direction, weight).items():
                came[other] = came.get(other, 0.0) + now[node] * share
                best[other] = max(best.get(other, -math.inf), ways[node] + math.log(share))
        now, ways = came, best
        found.append((now, ways))
    return found, close


def totals(found, decay):
    masses = {}
    for hop, (came, _) in enumerate(found):
        for node, mass in came.items():
            masses[node] = masses.get(node, 0.0) + mass * decay ** max(hop - 1, 0)
    return masses


def bridge_of(graph, kind=int, strangers=True):
    """Return a bridge over the nodes of one kind that can be ids, and one that is no node."""
    bridge = ab.AttentionVectorBridge(dim=DIM, index="exact")
    rows = {node: data["embedding"] for node, data in graph.nodes(data=True) if type(node) is kind}
    if strangers:
        rows[STRANGERS[kind]] = -np.ones(DIM)
    if rows:
        bridge.add(np.stack(list(rows.values())), ids=list(rows))
    return bridge


def seeds_of(graph, bridge, query, count):
    return [one for one in bridge.search(query, k=count).ids if one in graph]


# ---- what attention comes to


@settings(max_examples=200, deadline=None)
@given(
    graph=graphs(NAMED),
    kind=kinds_of_ids,
    direction=st.sampled_from(DIRECTIONS),
    weight=st.sampled_from([None, "heavy"]),
    hops=st.integers(0, 4),
    seeds=st.integers(1, 6),
    width=st.sampled_from([None, 1, 2, 4]),
    mix=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    decay=st.sampled_from([1.0, 0.25]),
)
def test_search_is_the_formula(graph, kind, direction, weight, hops, seeds, width, mix, decay):
    bridge = bridge_of(graph, kind)
    starts = seeds_of(graph, bridge, QUERY, seeds)
    assume(starts)
    found, close = flows(graph, starts, QUERY, hops, direction, weight, width)
    assume(not close)
    masses = totals(found, decay)
    hits = ab.AttentionGraph(graph, weight=weight).search(
        bridge, QUERY, 99, hops, direction=direction, seeds=seeds, beam_width=width, mix=mix, decay=decay
    )
    assert hits.complete
    assert len(hits) == hits.visited == len(masses)
    assert {*hits.nodes} == {*masses}
    for hit, mass in zip(hits, hits.masses, strict=True):
        assert mass == pytest.approx(masses[hit.node], rel=1e-4)
        logit = cosine(QUERY, graph.nodes[hit.node]["embedding"])
        assert hit.score == pytest.approx((1.0 - mix) * math.log(masses[hit.node]) + mix * logit, abs=1e-4)
    order = {node: i for i, node in enumerate(graph)}
    assert hits.nodes == [
        node for _, _, node in sorted((-score, order[n], n) for n, score in zip(hits.nodes, hits.scores, strict=True))
    ]


@settings(max_examples=150, deadline=None)
@given(
    graph=graphs(NAMED),
    kind=kinds_of_ids,
    direction=st.sampled_from(DIRECTIONS),
    weight=st.sampled_from([None, "heavy"]),
    hops=st.integers(0, 4),
    seeds=st.integers(1, 6),
)
def test_a_path_is_the_way_by_which_most_came(graph, kind, direction, weight, hops, seeds):
    bridge = bridge_of(graph, kind)
    starts = seeds_of(graph, bridge, QUERY, seeds)
    assume(starts)
    found, _ = flows(graph, starts, QUERY, hops, direction, weight)
    for hit in ab.AttentionGraph(graph, weight=weight).search(
        bridge, QUERY, 99, hops, direction=direction, seeds=seeds, beam_width=None
    ):
        ways = [ways.get(hit.node, -math.inf) for _, ways in found]
        assert hit.log_weight == pytest.approx(max(ways), abs=1e-4)
        assert hit.log_weight == pytest.approx(ways[hit.hop], abs=1e-4)
        share = found[0][0][hit.path[0]]
        assert hit.log_weight == pytest.approx(math.log(share) + sum(map(math.log, hit.weights)), abs=1e-4)
        assert (hit.path[-1], len(hit.path), len(hit.edges)) == (hit.node, hit.hop + 1, hit.hop)
        assert len(set(hit.path)) == len(hit.path)
        for a, b, edge, step in zip(hit.path, hit.path[1:], hit.edges, hit.weights, strict=False):
            assert step == pytest.approx(step_weights(graph, a, QUERY, direction, weight)[b], abs=1e-5)
            others = steps_from(graph, a, direction, weight)[b][1]
            assert edge in others or (not graph.is_directed() and (edge[1], edge[0], *edge[2:]) in others)


@settings(max_examples=60, deadline=None)
@given(graph=graphs([-1, -2, 0, 7, 11, 12]), direction=st.sampled_from(DIRECTIONS), hops=st.integers(0, 3))
def test_relabelled_nodes_are_relabelled_hits(graph, direction, hops):
    new = {node: f"n{i}" for i, node in enumerate(graph)}
    renamed = nx.relabel_nodes(graph, new)
    old, other = (
        ab.AttentionGraph(g).search(bridge_of(g, kind, False), QUERY, 99, hops, direction=direction)
        for g, kind in ((graph, int), (renamed, str))
    )
    assert [new[node] for node in old.nodes] == other.nodes
    np.testing.assert_allclose(old.scores, other.scores, rtol=0, atol=1e-9)  # edges may come in another order
    assert [[new[node] for node in hit.path] for hit in old] == [hit.path for hit in other]


@settings(max_examples=60, deadline=None)
@given(graph=graphs(NAMED), kind=kinds_of_ids, direction=st.sampled_from(DIRECTIONS), out=st.sampled_from(["a", 7, -1]))
def test_a_filtered_node_is_as_good_as_none(graph, kind, direction, out):
    bridge = bridge_of(graph, kind)
    rest = graph.copy()
    rest.remove_nodes_from([out])
    assume(seeds_of(rest, bridge, QUERY, 9))
    hits = ab.AttentionGraph(graph).search(bridge, QUERY, 99, direction=direction, node_filter=lambda node: node != out)
    expected = ab.AttentionGraph(rest).search(bridge, QUERY, 99, direction=direction)
    assert hits.nodes == expected.nodes
    np.testing.assert_allclose(hits.scores, expected.scores, rtol=1e-12)
    assert [hit.path for hit in hits] == [hit.path for hit in expected]


def garden(kind=nx.DiGraph):
    """Two flowers and what they are: with these rows logits are 10, 6 and 0."""
    graph = kind()
    rows = {"rose": [1.0, 0.0], "tulip": [0.6, 0.8], "flower": [0.0, 1.0], "plant": [0.0, -1.0], "weed": [0.6, -0.8]}
    for noun, row in rows.items():
        graph.add_node(noun, embedding=np.array(row))
    graph.add_edge("rose", "flower", type="is")
    graph.add_edge("tulip", "flower", type="is")
    graph.add_edge("tulip", "weed", type="was")
    graph.add_edge("flower", "plant", type="is")
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([rows[noun] for noun in ("rose", "tulip")], ids=["rose", "tulip"])
    return graph, bridge


def test_by_hand():
    graph, bridge = garden()
    hits = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], 9, mix=0.0)
    tulip = math.exp(6.0) / (math.exp(10.0) + math.exp(6.0))
    rose, weed = 1.0 - tulip, tulip * math.exp(6.0) / (math.exp(6.0) + 1.0)
    flower = rose + tulip - weed
    expected = {"rose": rose, "flower": flower, "plant": 0.25 * flower, "tulip": tulip, "weed": weed}
    assert dict(zip(hits.nodes, hits.masses.tolist(), strict=True)) == pytest.approx(expected, rel=1e-6)
    assert hits.nodes == sorted(expected, key=lambda node: -expected[node])
    np.testing.assert_allclose(hits.scores, np.log(hits.masses), rtol=1e-12)
    assert [hit.path for hit in hits if hit.node == "plant"] == [["rose", "flower", "plant"]]
    mixed = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], 9, mix=0.5)
    assert mixed.scores[mixed.nodes.index("weed")] == pytest.approx(0.5 * math.log(weed) + 0.5 * 6.0)
    by_type = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], 9, edge_types="is")
    assert dict(zip(by_type.nodes, by_type.masses.tolist(), strict=True)) == pytest.approx(
        {"rose": rose, "tulip": tulip, "flower": 1.0, "plant": 0.25}
    )


def test_no_hops_is_the_bridges_order():
    graph, bridge = garden()
    hits = ab.AttentionGraph(graph).search(bridge, [0.8, 0.6], 9, 0)
    assert hits.nodes == bridge.search([0.8, 0.6]).ids == ["tulip", "rose"]
    assert hits.masses.sum() == pytest.approx(1.0)
    assert [hit.path for hit in hits] == [["tulip"], ["rose"]]


def test_all_attention_goes_on_where_no_node_is_the_last():
    graph = nx.cycle_graph(6, create_using=nx.DiGraph)
    graph.add_edges_from([(0, 3), (2, 2)])
    rng = np.random.default_rng(3)
    nx.set_node_attributes(graph, {node: rng.standard_normal(DIM) for node in graph}, "embedding")
    for hops in range(5):
        hits = ab.AttentionGraph(graph).search(bridge_of(graph), QUERY, 99, hops, decay=1.0)
        assert hits.masses.sum() == pytest.approx(hops + 1)


def test_logits_far_apart_keep_an_order():
    graph, bridge = garden()
    hits = ab.AttentionGraph(graph, attention="scaled_dot", scale=5000.0).search(bridge, [1.0, 0.0], 9, mix=0.0)
    assert hits.masses[-1] == 0.0  # less than float64 can tell, but its logarithm is there
    assert np.isfinite(hits.scores).all()
    assert hits.nodes[-2:] == ["tulip", "weed"]


def test_the_beam_leaves_out_what_little_attention_came_to():
    graph, bridge = garden()
    ag = ab.AttentionGraph(graph)
    whole, cut = (ag.search(bridge, [1.0, 0.0], 9, beam_width=width) for width in (None, 1))
    tulip = whole.masses[whole.nodes.index("tulip")]
    assert (whole.pruned, whole.pruned_mass, whole.complete) == (0, 0.0, True)
    assert (cut.pruned, cut.complete) == (1, True)  # tulip, of two seeds
    assert cut.pruned_mass == pytest.approx(tulip)
    assert set(whole.nodes) - set(cut.nodes) == {"weed"}
    assert "4 nodes visited, 1 pruned" in repr(cut)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_again_is_the_same(kind):
    rng = np.random.default_rng(1)
    graph = kind()
    graph.add_nodes_from((i, {"embedding": rng.standard_normal(DIM).astype(np.float32)}) for i in range(300))
    graph.add_edges_from(rng.integers(300, size=(900, 2)).tolist())
    ag, bridge = ab.AttentionGraph(graph), bridge_of(graph)
    first, second = (ag.search(bridge, QUERY, 50, seeds=40, beam_width=30) for _ in range(2))
    assert first.pruned > 0
    assert list(first) == list(second)
    assert first.nodes[:10] == ag.search(bridge, QUERY, seeds=40, beam_width=30).nodes


def test_ties_are_in_the_order_of_the_graph():
    graph = nx.DiGraph([("s", node) for node in "dacb"])
    nx.set_node_attributes(graph, [1.0, 1.0], "embedding")
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 1.0]], ids=["s"])
    assert ab.AttentionGraph(graph).search(bridge, [1.0, 1.0]).nodes == ["s", "d", "a", "c", "b"]


def test_nodes_without_embedding_are_no_seeds_and_no_steps():
    graph, bridge = garden()
    del graph.nodes["tulip"]["embedding"]
    del graph.nodes["plant"]["embedding"]
    hits = ab.AttentionGraph(graph, missing="skip").search(bridge, [1.0, 0.0])
    assert hits.nodes == ["rose", "flower"]
    assert hits.masses.tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(GraphStructureError, match="node 'tulip' has none"):
        ab.AttentionGraph(graph, missing="raise").search(bridge, [1.0, 0.0])


def test_arrays_are_searched_as_a_graph():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((50, DIM)).astype(np.float32)
    edges = rng.integers(50, size=(2, 120))
    graph = nx.MultiDiGraph()
    graph.add_nodes_from((i, {"embedding": row}) for i, row in enumerate(rows))
    graph.add_edges_from(edges.T.tolist())
    bridge = ab.AttentionVectorBridge(dim=DIM, index="exact")
    bridge.add(rows)
    found = [
        ag.search(bridge, QUERY, 50, seeds=8)
        for ag in (ab.AttentionGraph.from_arrays(edges, rows), ab.AttentionGraph(graph))
    ]
    assert found[0].nodes == found[1].nodes
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-12)


@pytest.mark.parametrize("attention", ["gat", "scaled_dot", "linear"])
def test_the_graphs_own_attention_decides(attention):
    graph, bridge = garden()
    ag = ab.AttentionGraph(graph, attention=attention)
    hits = ag.search(bridge, [1.0, 0.2], 9, mix=0.3)
    logits = ag.logits([1.0, 0.2], [ag.position(node) for node in hits.nodes])
    np.testing.assert_allclose(hits.scores, 0.7 * np.log(hits.masses) + 0.3 * logits, rtol=1e-9)


def test_edges_that_were_added_are_gone_at_the_next_call():
    graph, bridge = garden()
    ag = ab.AttentionGraph(graph)
    assert "weed" not in ag.search(bridge, [1.0, 0.0], edge_types=["is"]).nodes
    graph.add_edge("rose", "weed", type="is")
    assert "weed" in ag.search(bridge, [1.0, 0.0], edge_types=["is"]).nodes


def test_edges_are_filtered():
    graph, bridge = garden(nx.MultiDiGraph)
    hits = ab.AttentionGraph(graph).search(
        bridge, [1.0, 0.0], 9, edge_filter=lambda u, v, key: (u, v) != ("flower", "plant")
    )
    assert set(hits.nodes) == {"rose", "tulip", "flower", "weed"}


# ---- what comes back


def test_views_of_the_hits():
    pytest.importorskip("pandas")
    graph, bridge = garden()
    hits = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], 3)
    frame = hits.to_pandas()
    assert frame["node"].tolist() == hits.nodes
    assert frame["mass"].tolist() == hits.masses.tolist()
    walked = hits.to_subgraph()
    assert set(walked.edges) == {pair for hit in hits for pair in itertools.pairwise(hit.path)}
    assert {node: walked.nodes[node]["score"] for node in hits.nodes} == pytest.approx(
        dict(zip(hits.nodes, hits.scores.tolist(), strict=True))
    )
    assert hits.explain().splitlines()[:2] == [
        f"1. 'rose': score {hits[0].score:.4f}, hop 0, log weight {hits[0].log_weight:.4f}, mass {hits.masses[0]:.4f}",
        f"   'rose'  share {hits.masses[0]:.4f}",
    ]


def test_an_empty_bridge_finds_nothing():
    graph, _ = garden()
    hits = ab.AttentionGraph(graph).search(ab.AttentionVectorBridge(dim=2, index="exact"), [1.0, 0.0])
    assert (list(hits), hits.complete, hits.visited, repr(hits)) == ([], True, 0, "GraphHits(0 of 0 nodes visited)")


def test_a_filter_that_lets_no_seed_pass_finds_nothing():
    graph, bridge = garden()
    hits = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], node_filter=lambda node: node == "plant")
    assert (hits.nodes, hits.masses.tolist(), hits.complete) == ([], [], True)


def test_a_time_budget_that_is_used_up_is_told():
    graph, bridge = garden()
    hits = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], time_budget=0.0)
    assert {hit.hop for hit in hits} == {0}  # the seeds
    assert not hits.complete
    assert ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], time_budget=60.0).complete


def test_a_time_budget_ends_the_walk_between_hops():
    graph, bridge = garden()
    asked = []

    def slow(node):
        if node == "flower":
            asked.append(node)
            time.sleep(0.3)
        return True

    hits = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], 9, 3, node_filter=slow, time_budget=0.2)
    assert asked == ["flower"]
    assert not hits.complete
    assert {"rose", "tulip"} <= set(hits.nodes)
    assert "plant" not in hits.nodes


# ---- the example


def walks_of(out):
    """Return (start, question, paths) of each walk that examples/walk_nouns.py has printed."""
    for part in out.split("\nfrom ")[1:]:
        head, *lines = part.splitlines()
        start, question = re.findall(r"'([^']+)'", head)
        paths = re.split(r"^\d\. .*$", "\n".join(lines), flags=re.M)[1:]
        yield (
            start,
            question,
            [re.findall(r"^   '([^']+)' (<?-.*-?>?) '([^']+)'  weight", path, re.M) for path in paths],
        )


def test_the_example_walks_over_what_is_installed(capsys, monkeypatch):
    pytest.importorskip("sklearn")
    space = runpy.run_path(str(EXAMPLE))
    graph, named = space["functions"]()
    monkeypatch.setitem(space["main"].__globals__, "functions", lambda: (graph, named))  # made once
    space["main"]([])
    walks = list(walks_of(capsys.readouterr().out))
    assert [(start, question) for start, question, _ in walks] == space["FUNCTIONS"]
    steps = [step for _, _, paths in walks for path in paths for step in path]
    assert len(steps) > 10
    for a, arrow, b in steps:
        assert arrow.startswith(("-[", "<-["))
        assert graph.has_edge(a, b) if arrow.endswith(">") else graph.has_edge(b, a)


def test_the_example_walks_over_nouns(tmp_path, capsys, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    space = runpy.run_path(str(EXAMPLE))
    words = [word for pair in space["NOUNS"] for word in pair]
    ids = [f"n{i}" for i in range(len(words))]
    second = {"id": [*ids, "n99"], "lemmas": [f"{word}|other" for word in words] + ["violin"]}
    parquet.write_table(pyarrow.table(second), tmp_path / "nouns.parquet")
    edges = {"src": ids[::2], "dst": ids[1::2], "rel": ["part_of"] * 5}
    parquet.write_table(pyarrow.table(edges), tmp_path / "noun_edges.parquet")
    np.save(tmp_path / "noun_emb_f16.npy", np.eye(11, 16, dtype=np.float16))
    monkeypatch.setattr(sys, "argv", ["walk_nouns.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    walks = list(walks_of(capsys.readouterr().out))
    assert [(start, question) for start, question, _ in walks] == space["NOUNS"]
    for start, question, paths in walks:
        assert paths[0] == [(start, "-[part_of]->", question)]


# ---- the bridge's own filters


def filtered_garden():
    graph, bridge = garden()
    bridge.add([[0.0, 1.0], [0.0, -1.0]], ids=["flower", "plant"])
    bridge.set_payload(bridge.ids(), {"year": [1, 2, 3, 4]})
    return ab.AttentionGraph(graph), bridge


@settings(max_examples=60, deadline=None)
@given(graph=graphs(NAMED), kind=kinds_of_ids, direction=st.sampled_from(DIRECTIONS), data=st.data())
def test_filters_choose_the_seeds_and_then_the_hits(graph, kind, direction, data):
    bridge = bridge_of(graph, kind)
    some = data.draw(st.lists(st.sampled_from(bridge.ids()), unique=True))
    mask = np.isin(np.array(bridge.ids()), np.array(some, dtype=np.array(bridge.ids()).dtype))
    assume(any(one in graph for one in some))
    ag, chosen = ab.AttentionGraph(graph), {"direction": direction, "beam_width": None}
    only = bridge_of(graph, kind)
    only.delete([one for one in only.ids() if one not in some])
    whole = ag.search(only, QUERY, 99, **chosen)  # a bridge that holds no others has the same seeds
    seeded = ag.search(bridge, QUERY, 99, filter=some, filter_hits=False, **chosen)
    assert (seeded.nodes, seeded.masses.tolist()) == (whole.nodes, whole.masses.tolist())
    kept = [(hit.node, hit.score, hit.path) for hit in whole if hit.node in some]
    for filter in (some, mask):
        hits = ag.search(bridge, QUERY, 99, filter=filter, **chosen)
        assert [(hit.node, hit.score, hit.path) for hit in hits] == kept


def test_where_and_filter_choose_seeds_and_hits():
    ag, bridge = filtered_garden()
    unfiltered = ag.search(bridge, [1.0, 0.0], 9).nodes
    assert set(unfiltered) == {"rose", "tulip", "flower", "plant", "weed"}
    late = ag.search(bridge, [1.0, 0.0], 9, where="year >= $y", params={"y": 3})
    assert set(late.nodes) == {"flower", "plant"}  # weed is no document
    early = ag.search(bridge, [1.0, 0.0], 9, where="year = 1 OR year = 4")
    assert {hit.node: hit.path[0] for hit in early} == {"rose": "rose", "plant": "rose"}  # by flower, which is none
    assert [hit.path for hit in early if hit.node == "plant"] == [["rose", "flower", "plant"]]
    both = ag.search(bridge, [1.0, 0.0], 9, filter=["tulip", "flower"], where="year < 3")
    assert both.nodes == ["tulip"]
    seeds = ag.search(bridge, [1.0, 0.0], 9, filter=["tulip", "flower"], where="year < 3", filter_hits=False)
    assert set(seeds.nodes) == {"tulip", "flower", "weed", "plant"}
    assert {hit.path[0] for hit in seeds} == {"tulip"}
    assert len(ag.search(bridge, [1.0, 0.0], 1, where="year = 4")) == 1  # the best of those that pass
    assert ag.search(bridge, [1.0, 0.0], where="year > 9").nodes == []
    mask = np.array([False, True, False, False])
    assert ag.search(bridge, [1.0, 0.0], filter=mask).nodes == ["tulip"]


def test_a_document_that_is_replaced_passes_by_what_it_is_now():
    ag, bridge = filtered_garden()
    bridge.delete(["rose"])
    bridge.add([[1.0, 0.0]], ids=["rose"], payload={"year": [7]})
    assert ag.search(bridge, [1.0, 0.0], 9, where="year IN (2, 7)").nodes == ["rose", "tulip"]
    mask = np.array([one in ("rose", "plant") for one in bridge.ids()])
    assert set(ag.search(bridge, [1.0, 0.0], 9, filter=mask).nodes) == {"rose", "plant"}


@pytest.mark.parametrize(
    "options",
    [
        {"exact": True, "candidates": 7},
        {"ef": 300},
        {"threshold": 15.0},
        {"radius": 0.3},
        {"rerank": "expansion(top=5)"},
        {"entry_points": ["rose"]},
    ],
)
def test_the_bridge_is_told_the_rest(options, monkeypatch):
    graph, _ = garden()
    bridge = ab.AttentionVectorBridge(dim=2)
    bridge.add([[1.0, 0.0], [0.6, 0.8]], ids=["rose", "tulip"])
    told = []
    search = bridge.search
    monkeypatch.setattr(bridge, "search", lambda *given, **named: told.append(named) or search(*given, **named))
    hits = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], 9, hops=0, **options)
    assert options.items() <= told[0].items()
    assert sorted(hits.nodes) == sorted(bridge.search([1.0, 0.0], 100, **options).ids)
    assert ("tulip" in hits.nodes) == (options.keys().isdisjoint(["threshold", "radius"]))


# ---- nodes that are no ids


@settings(max_examples=40, deadline=None)
@given(graph=graphs(NAMED), direction=st.sampled_from(DIRECTIONS), hops=st.integers(0, 2))
def test_nodes_of_any_kind_are_found_by_a_mapping(graph, direction, hops):
    bridge = bridge_of(graph, int)
    assume(seeds_of(graph, bridge, QUERY, 9))
    new = {node: ("node", node) for node in graph}
    other = nx.relabel_nodes(graph, new)
    plain = ab.AttentionGraph(graph).search(bridge, QUERY, 99, hops, direction=direction)
    for node_of in ({node: name for node, name in new.items() if type(node) is int}, lambda id: ("node", id)):
        hits = ab.AttentionGraph(other).search(bridge, QUERY, 99, hops, direction=direction, node_of=node_of)
        assert {hit.node: hit.path for hit in hits} == {new[hit.node]: [new[one] for one in hit.path] for hit in plain}
        np.testing.assert_allclose(np.sort(hits.scores), np.sort(plain.scores), rtol=0, atol=1e-9)


def test_filters_follow_the_mapping():
    _, bridge = filtered_garden()
    graph = nx.relabel_nodes(garden()[0], lambda noun: (noun,))
    hits = ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], where="year IN (1, 4)", node_of=lambda noun: (noun,))
    assert {hit.node: hit.path[0] for hit in hits} == {("rose",): ("rose",), ("plant",): ("rose",)}


@pytest.mark.parametrize(
    ("error", "message", "node_of"),
    [
        (InvalidConfigError, "node_of must be a mapping or a function from ids to nodes, got 'rose'", "rose"),
        (InvalidInputError, "node_of must give nodes, of 'rose' it gave ['rose'], not hashable", lambda id: [id]),
        (GraphStructureError, "node_of must give nodes, none of 2 hits is; the first is 'rose'", {"rose": "Rose"}),
    ],
)
def test_mappings_that_cannot_be(error, message, node_of):
    graph, bridge = garden()
    with pytest.raises(error, match=re.escape(message)):
        ab.AttentionGraph(graph).search(bridge, [1.0, 0.0], node_of=node_of)


# ---- bad input


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (InvalidConfigError, "k must be a whole number >= 1, got 0", {"k": 0}),
        (InvalidConfigError, "hops must be a whole number >= 0, got -1", {"hops": -1}),
        (InvalidConfigError, "seeds must be a whole number >= 1, got 0", {"seeds": 0}),
        (InvalidConfigError, "beam_width must be a whole number >= 1, got 0", {"beam_width": 0}),
        (InvalidConfigError, "mix must be a finite number >= 0, at most 1, got 1.5", {"mix": 1.5}),
        (InvalidConfigError, "mix must be a finite number >= 0, at most 1, got -0.1", {"mix": -0.1}),
        (InvalidConfigError, "decay must be a finite number > 0, at most 1, got 0", {"decay": 0}),
        (InvalidConfigError, "decay must be a finite number > 0, at most 1, got nan", {"decay": math.nan}),
        (InvalidConfigError, "time_budget must be a finite number >= 0, got -1", {"time_budget": -1}),
        (InvalidConfigError, "direction must be one of both, in, out; got 'up'", {"direction": "up"}),
        (InvalidConfigError, "got 'has'; known are 'is', 'was'", {"edge_types": "has"}),
        (InvalidConfigError, "node_filter must be a function", {"node_filter": "rose"}),
        (InvalidConfigError, "edge_filter must be a function", {"edge_filter": 1}),
        (InvalidConfigError, "search has no option 'offset'; passed on to the bridge are entry_points,", {"offset": 3}),
        (InvalidConfigError, "filter_hits must be True or False, got 1", {"filter_hits": 1, "filter": ["rose"]}),
        (InvalidConfigError, "filter_hits=False must come with filter= or where=", {"filter_hits": False}),
        (InvalidConfigError, "exact must be True or False, got 'yes'", {"exact": "yes"}),
        (InvalidInputError, "where must be", {"where": "kind ="}),
        (InvalidInputError, "params", {"params": {"y": 1}}),
        (DimensionMismatchError, "query must have dimension 2, got 3", {"query": [1.0, 0.0, 0.0]}),
        (InvalidInputError, "query must be finite: position 1 is nan", {"query": [1.0, math.nan]}),
    ],
)
def test_bad_input(error, message, options):
    graph, bridge = garden()
    with pytest.raises(error) as caught:
        ab.AttentionGraph(graph).search(bridge, **{"query": [1.0, 0.0]} | options)
    assert message in str(caught.value)


def test_a_bridge_is_a_bridge():
    graph, _ = garden()
    with pytest.raises(InvalidInputError) as caught:
        ab.AttentionGraph(graph).search([[1.0, 0.0]], [1.0, 0.0])
    assert str(caught.value) == (
        "bridge must be an AttentionVectorBridge whose ids are nodes, got list; "
        "bridge.add(vectors, ids=nodes) fills one"
    )


def test_ids_that_are_no_nodes():
    graph, _ = garden()
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["Rose", "Tulip"])
    with pytest.raises(GraphStructureError) as caught:
        ab.AttentionGraph(graph).search(bridge, [1.0, 0.1])
    assert str(caught.value) == ("the bridge's ids must be nodes of the graph, none of 2 hits is; the first is 'Rose'")


def test_a_bridge_of_another_dimension():
    graph, _ = garden()
    bridge = ab.AttentionVectorBridge(dim=3, index="exact")
    bridge.add([[1.0, 0.0, 0.0]], ids=["rose"])
    with pytest.raises(DimensionMismatchError, match="query must have dimension 2 as the embeddings have, got 3"):
        ab.AttentionGraph(graph).search(bridge, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("hops", [0, 2])
def test_seeds_are_found_whatever_the_time_budget(hops):
    graph = nx.cycle_graph(30)
    for node in graph:
        graph.nodes[node]["embedding"] = [1.0, node / 30]
    ag, bridge = ab.AttentionGraph(graph), ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([graph.nodes[node]["embedding"] for node in graph], ids=list(graph))
    hits = ag.search(bridge, [0.0, 1.0], hops=hops, time_budget=0.0, node_filter=lambda node: node < 28)
    assert (hits.nodes, hits.complete) == ([27], False)
    plain = ag.search(bridge, [0.0, 1.0], k=3, hops=hops, time_budget=0.0)
    assert (plain.nodes, plain.complete) == ([29, 28, 27], hops == 0)
    asked = []
    whole = ag.search(bridge, [0.0, 1.0], k=30, hops=hops, time_budget=60.0, node_filter=lambda n: asked.append(n) or 1)
    assert whole.complete
    assert len(asked) == len(set(asked)) == 30
    none = ag.search(bridge, [0.0, 1.0], hops=hops, time_budget=0.0, node_filter=lambda node: False)
    assert none.nodes == []
