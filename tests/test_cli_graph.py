"""`attnbridge graph`: every format, every action as the Python API does it, and every message."""

import bz2
import csv
import gzip
import io
import json

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import attnbridge as ab
import attnbridge.cli as command_line
from attnbridge.integrations.graph_files import read_graph

pytestmark = pytest.mark.filterwarnings("ignore:the pattern matches nothing")

DIM = 3
CLASSES = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]


def run(*args, command="graph"):
    """Run in this process; an unexpected exception fails the test with its traceback."""
    result = CliRunner().invoke(command_line.cli, [command, *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeeds(*args, command="graph"):
    result = run(*args, command=command)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def hits(*args):
    return json.loads(succeeds(*args, "--format", "json"))["hits"]


def fails(*args, code=1, command="graph"):
    result = run(*args, command=command)
    assert result.exit_code == code, result.stdout
    assert result.stdout == ""
    return result.stderr.split("Error: ")[1].strip()


def citations(kind=nx.DiGraph):
    """Return papers p0 to p9; p3 cites p2 and p1, and so on."""
    rng = np.random.default_rng(11)
    graph = kind()
    for number in range(10):
        vector = rng.standard_normal(DIM).round(3).tolist()
        graph.add_node(f"p{number}", labels="Paper", year=2000 + number, embedding=vector)
    for number in range(1, 10):
        for cited in {number - 1, number // 2}:
            graph.add_edge(f"p{number}", f"p{cited}", type="CITES" if cited % 2 else "EXTENDS", share=0.5 + number)
    return graph


def as_text(graph, form="{}"):
    made = graph.copy()
    for node in made:
        made.nodes[node]["embedding"] = form.format(" ".join(map(str, graph.nodes[node]["embedding"])))
    return made


def write_json(graph, file, layout=nx.node_link_data, **options):
    file.write_text(json.dumps(layout(graph, **options)))


WRITERS = {
    "spaces.graphml": lambda graph, file: nx.write_graphml(as_text(graph), file),
    "brackets.graphml": lambda graph, file: nx.write_graphml(as_text(graph, "[{}]"), file),
    "packed.graphml.gz": lambda graph, file: nx.write_graphml(as_text(graph), file),
    "packed.graphml.bz2": lambda graph, file: nx.write_graphml(as_text(graph), file),
    "lists.gml": nx.write_gml,
    "text.gml": lambda graph, file: nx.write_gml(as_text(graph), file),
    "packed.gml.gz": nx.write_gml,
    "edges.json": lambda graph, file: write_json(graph, file, edges="edges"),
    "links.json": lambda graph, file: write_json(graph, file, edges="links"),
    "adjacency.JSON": lambda graph, file: write_json(graph, file, nx.adjacency_data),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "citations.graphml"
    nx.write_graphml(as_text(citations()), path)
    return path


@pytest.fixture(scope="module")
def ag():
    return ab.AttentionGraph(citations())


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The folder of an index of the papers."""
    folder, graph = tmp_path_factory.mktemp("indexes") / "papers", citations()
    rows = np.array([graph.nodes[node]["embedding"] for node in graph], np.float32)
    bridge = ab.AttentionVectorBridge(dim=DIM, index="exact")
    bridge.add(rows, ids=list(graph), payload={"year": [graph.nodes[node]["year"] for node in graph]})
    bridge.save(folder)
    return folder


# ---- formats


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", WRITERS)
def test_formats_hold_the_same_graph(kind, name, tmp_path):
    graph = citations(kind)
    WRITERS[name](graph, tmp_path / name)
    expected = ab.AttentionGraph(graph).k_hop("p9", 2)
    found = hits(tmp_path / name, "--k-hop", "p9")
    assert [hit["node"] for hit in found] == expected.nodes
    assert [hit["score"] for hit in found] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert [hit["path"] for hit in found] == [hit.path for hit in expected]
    assert [hit["weights"] for hit in found] == [pytest.approx(hit.weights, abs=1e-6) for hit in expected]
    pattern = "MATCH (a)-[:EXTENDS]->(b:Paper) WHERE b.year < 2004 RETURN a, b.year AS y"
    rows = [hit["record"] for hit in hits(tmp_path / name, "--match", pattern)]
    assert sorted(map(str, rows)) == sorted(map(str, ab.AttentionGraph(graph).match(pattern).records))


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("name", ["a.edgelist", "a.txt", "a.edges", "a.tsv", "a.csv", "a.edgelist.gz"])
@pytest.mark.parametrize("data", [False, True, ["weight"]])
def test_edge_lists(name, directed, data, tmp_path):
    graph = (nx.DiGraph if directed else nx.Graph)([(1, 2), (2, 3), (3, 4)])
    if data:
        nx.set_edge_attributes(graph, 0.5, "weight")
    delimiter = {"a.csv": ",", "a.tsv": "\t"}.get(name, " ")
    nx.write_edgelist(graph, tmp_path / name, delimiter=delimiter, data=data)
    np.save(tmp_path / "rows.npy", np.eye(4))
    flags = ["--directed"] if directed else []
    found = hits(tmp_path / name, "--k-hop", "2", "--embeddings", tmp_path / "rows.npy", *flags)
    assert {hit["node"] for hit in found} == ({"2", "3", "4"} if directed else {"1", "2", "3", "4"})
    read = read_graph(tmp_path / name, directed=directed or None)
    assert nx.utils.edges_equal(nx.relabel_nodes(read, int).edges(data=True), graph.edges(data=True))
    assert read.is_directed() == directed


def test_a_table_of_edges_has_a_header(tmp_path):
    (tmp_path / "a.csv").write_text('Source,Target,type,weight,n\n"Smith, J",b,knows,0.5,2\n\nb,c,,1.5,\n')
    graph = read_graph(tmp_path / "a.csv")
    assert list(graph.edges(data=True)) == [
        ("Smith, J", "b", {"type": "knows", "weight": 0.5, "n": 2}),
        ("b", "c", {"weight": 1.5}),
    ]


def test_edge_lists_have_comments_and_dictionaries(tmp_path):
    (tmp_path / "a.edgelist").write_text("# a comment\n\na b {'type': '#1'}  \nb c # a remark\nc d 2\n")
    graph = read_graph(tmp_path / "a.edgelist")
    assert list(graph.edges(data=True)) == [("a", "b", {"type": "#1"}), ("b", "c", {}), ("c", "d", {"weight": 2})]


def test_gml_without_labels_has_numbers(tmp_path):
    (tmp_path / "a.gml").write_text("graph [ node [ id 7 embedding 1.0 embedding 2.0 ] node [ id 8 embedding 2.0 "
                                    "embedding 0.0 ] edge [ source 7 target 8 ] ]")  # fmt: skip
    assert [hit["node"] for hit in hits(tmp_path / "a.gml", "--neighborhood", "7")] == [8]


def test_the_format_can_be_named(tmp_path):
    write_json(citations(), tmp_path / "graph.dat", edges="edges")
    assert hits(tmp_path / "graph.dat", "--input-format", "json", "--k-hop", "p0", "--k", "0")[0]["node"] == "p0"


def test_numbers_of_a_file_are_nodes_of_a_shell(tmp_path):
    graph = nx.path_graph(3)
    nx.set_node_attributes(graph, [1.0, 0.5], "embedding")
    write_json(graph, tmp_path / "a.json", edges="edges")
    assert {hit["node"] for hit in hits(tmp_path / "a.json", "--k-hop", "1")} == {0, 1, 2}
    graph.add_node("1", embedding=[0.0, 1.0])
    write_json(graph, tmp_path / "a.json", edges="edges")
    assert [hit["node"] for hit in hits(tmp_path / "a.json", "--k-hop", "1")] == ["1"]
    graph.add_node(2.0 + 0.5, embedding=[0.0, 1.0])
    graph.add_node("2.5", embedding=[0.0, 1.0])
    write_json(graph, tmp_path / "a.json", edges="edges")
    assert [hit["node"] for hit in hits(tmp_path / "a.json", "--k-hop", "2.5")] == ["2.5"]


# ---- embeddings


def test_embeddings_of_another_attribute(tmp_path):
    graph = citations()
    for data in graph.nodes.values():
        data["vector"] = data.pop("embedding")
    write_json(graph, tmp_path / "a.json", edges="edges")
    assert len(hits(tmp_path / "a.json", "--embedding", "vector", "--k-hop", "p9", "--limit", "4")) == 4


@pytest.mark.parametrize("with_nodes", [False, True])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_embeddings_of_a_file(suffix, with_nodes, tmp_path):
    graph = citations()
    nodes, rows = list(graph), np.array([graph.nodes[node].pop("embedding") for node in graph], np.float32)
    nx.write_graphml(graph, tmp_path / "a.graphml")
    order = np.random.default_rng(0).permutation(len(nodes)) if with_nodes else np.arange(len(nodes))
    path = tmp_path / f"rows{suffix}"
    names = [nodes[i] for i in order]
    if suffix == ".npy":
        if with_nodes:
            pytest.skip("a .npy file has no ids")
        np.save(path, rows)
    elif suffix == ".npz":
        np.savez(path, node=np.array(names), vectors=rows[order])
    else:
        pq.write_table(pa.table({"node": names, "vectors": pa.array(list(rows[order]))}), path)
    options = ["--embeddings", path, *([] if suffix == ".npy" else ["--vector", "vectors"])]
    found = hits(tmp_path / "a.graphml", "--k-hop", "p9", *options, *(["--id", "node"] if with_nodes else []))
    expected = ab.AttentionGraph(citations()).k_hop("p9", 2)
    assert [hit["node"] for hit in found] == expected.nodes
    assert [hit["score"] for hit in found] == pytest.approx(expected.scores.tolist(), abs=1e-5)


def test_embeddings_of_some_nodes(tmp_path):
    nx.write_edgelist(nx.path_graph(4), tmp_path / "a.edgelist", data=False)
    pq.write_table(pa.table({"id": [0, 1, 3], "embedding": pa.array([[1.0, 0.0], [0.5, 1.0], [0.0, 1.0]])}),
                   tmp_path / "rows.parquet")  # fmt: skip
    call = [tmp_path / "a.edgelist", "--embeddings", tmp_path / "rows.parquet", "--id", "id", "--k-hop", "0"]
    assert "node '2' has none" in fails(*call)
    assert {hit["node"] for hit in hits(*call, "--k", "3", "--missing", "skip")} == {"0", "1"}
    assert {hit["node"] for hit in hits(*call, "--k", "3", "--missing", "zero")} == {"0", "1", "2", "3"}


@pytest.mark.parametrize(("rows", "ids", "message"), [
    (np.eye(2), None, "must have a row for each of 3 nodes, in their order, got 2; name its column of nodes as the id"),
    (np.eye(3), ["0", "1", "9"], "must have rows of the graph's nodes only, it has one of '9'"),
    (np.eye(3), ["0", "1", "1"], "must have one row for each node, it has two of '1'"),
])  # fmt: skip
def test_embeddings_that_do_not_fit(rows, ids, message, tmp_path):
    nx.write_edgelist(nx.path_graph(3), tmp_path / "a.edgelist", data=False)
    path = tmp_path / "rows.npz"
    np.savez(path, embedding=rows, **({} if ids is None else {"id": np.array(ids)}))
    options = [] if ids is None else ["--id", "id"]
    assert message in fails(tmp_path / "a.edgelist", "--k-hop", "0", "--embeddings", path, *options)


@pytest.mark.parametrize(("text", "got"), [
    ("1.0 two", "'two'"), ("[1.0, nan]", "'nan'"), ("", "''"), ("[]", "''"), ("1.0,,2.0", "''"), ("1_0 2", "'1_0'"),
    ("[[1.0]]", "'[1.0]'"), ("0x1 2", "'0x1'"), ("\u0661 2", "'\u0661'"), ("inf 1", "'inf'"),
])  # fmt: skip
def test_texts_that_are_no_numbers(text, got, tmp_path):
    graph = nx.path_graph(2)
    nx.set_node_attributes(graph, {0: "1.0, -2e-1", 1: text}, "embedding")
    nx.write_graphml(graph, tmp_path / "a.graphml")
    message = fails(tmp_path / "a.graphml", "--k-hop", "0")
    assert f"embedding of node '1' must be finite numbers such as \"0.1 0.2\", got {got} in" in message


def test_embeddings_of_other_lengths_are_named(tmp_path):
    graph = nx.path_graph(2)
    nx.set_node_attributes(graph, {0: "1.0 2.0", 1: "1.0 2.0 3.0"}, "embedding")
    nx.write_graphml(graph, tmp_path / "a.graphml")
    assert "embedding of node '1' must have dimension 2" in fails(tmp_path / "a.graphml", "--k-hop", "0")


def test_a_pattern_without_query_needs_no_embeddings(tmp_path):
    file = tmp_path / "a.json"
    write_json(nx.DiGraph([("a", "b"), ("b", "c")]), file)
    found = [hit["record"] for hit in hits(file, "--match", "MATCH (a)-->(b) RETURN a, b")]
    assert found == [{"a": "a", "b": "b"}, {"a": "b", "b": "c"}]
    message = "no node has an embedding, attribute 'embedding': pass --embeddings FILE, or name another attribute with"
    pattern = ("--match", "MATCH (a) RETURN a")
    for args in (("--k-hop", "a"), (*pattern, "--query", "[1, 0]"), (*pattern, "--query-node", "a")):
        assert message in fails(file, *args)
    assert fails(file, "--k-hop", "a", "--missing", "skip").startswith(message)
    graph = nx.DiGraph([("a", "b")])
    graph.nodes["a"]["embedding"] = [1.0]
    write_json(graph, file)
    assert "every node must have attribute 'embedding', node 'b' has none" in fails(file, *pattern)


# ---- queries and actions


def test_queries_are_the_same_by_any_way(file, ag, tmp_path):
    vector = [0.5, -1.0, 0.25]
    np.save(tmp_path / "q.npy", vector)
    (tmp_path / "q.json").write_text(json.dumps(vector))
    expected = ag.k_hop("p9", 2, vector)
    for query in (json.dumps(vector), f"  {vector}", tmp_path / "q.npy", tmp_path / "q.json"):
        found = hits(file, "--k-hop", "p9", "--query", query)
        assert [hit["node"] for hit in found] == expected.nodes
        assert [hit["score"] for hit in found] == pytest.approx(expected.scores.tolist(), rel=1e-6)
    like = ag.k_hop("p9", 2, ag.graph.nodes["p3"]["embedding"])
    assert [hit["node"] for hit in hits(file, "--k-hop", "p9", "--query-node", "p3")] == like.nodes


def test_k_hop_takes_its_options(file, ag):
    expected = ag.k_hop("p2", 1, direction="both", limit=3)
    found = hits(file, "--k-hop", "p2", "--k", "1", "--direction", "both", "--limit", "3")
    assert [hit["path"] for hit in found] == [hit.path for hit in expected]
    assert [hit["edges"] for hit in found] == [[list(edge) for edge in hit.edges] for hit in expected]
    assert [hit["log_weight"] for hit in found] == pytest.approx(expected.log_weights.tolist(), abs=1e-6)


def test_neighborhood_takes_its_options(file, ag):
    expected = ag.neighborhood("p2", direction="in")
    assert [hit["node"] for hit in hits(file, "--neighborhood", "p2", "--direction", "in")] == expected.nodes


def test_traverse_takes_its_options(file, ag):
    expected = ag.traverse([1.0, 0.5, 0.0], ["p9", "p7"], max_hops=2, beam_width=3, limit=4, edge_types=["CITES"])
    options = ["--max-hops", 2, "--beam-width", 3, "--limit", 4, "--edge-type", "CITES"]
    found = hits(file, "--traverse", "--start", "p9", "--start", "p7", "--query", "[1.0, 0.5, 0.0]", *options)
    assert [hit["path"] for hit in found] == [hit.path for hit in expected]
    nowhere = hits(file, "--traverse", "--query", "[1.0, 0.5, 0.0]")
    assert [hit["path"] for hit in nowhere] == [hit.path for hit in ag.traverse([1.0, 0.5, 0.0])]


def test_match_takes_its_options(file, ag):
    pattern = "MATCH p = (a:Paper)-[*1..2]->(b) WHERE b.year >= $y RETURN b, p, b.embedding AS e"
    expected = ag.match(pattern, [1.0, 0.5, 0.0], {"y": 2002}, start="p9", per_step=1)
    options = ["--param", "y=2002", "--start", "p9", "--per-step", 1, "--query", "[1.0, 0.5, 0.0]"]
    found = hits(file, "--match", pattern, *options)
    assert [hit["record"]["b"] for hit in found] == expected.column("b")
    assert [hit["record"]["p"]["nodes"] for hit in found] == [list(path.nodes) for path in expected.column("p")]
    assert [hit["record"]["e"] for hit in found] == expected.column("e")
    assert [hit["score"] for hit in found] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert [(hit["node"], hit["hop"], hit["path"]) for hit in found] == [(r.node, r.hop, r.path) for r in expected]


def test_labels_and_types_of_other_attributes(tmp_path):
    graph = nx.DiGraph()
    graph.add_node("a", kind="Paper", also="New", embedding=[1.0, 0.0])
    graph.add_node("b", kind="Author", embedding=[1.0, 0.0])
    graph.add_edge("a", "b", relation="BY")
    write_json(graph, tmp_path / "a.json", edges="edges")
    pattern = "MATCH (a:Paper:New)-[:BY]->(b:Author) RETURN a"
    assert hits(tmp_path / "a.json", "--match", pattern) == []
    named = ["--label", "kind", "--label", "also", "--type", "relation"]
    assert [hit["record"] for hit in hits(tmp_path / "a.json", "--match", pattern, *named)] == [{"a": "a"}]


def test_walks_go_by_types_of_other_attributes(tmp_path):
    graph = citations()
    for _, _, data in graph.edges(data=True):
        data["by"] = data.pop("type").lower()
    write_json(graph, tmp_path / "a.json", edges="edges")
    ag = ab.AttentionGraph(graph, edge_type="by")
    by = ["--type", "by", "--edge-type", "cites"]
    for action, expected in (
        (["--k-hop", "p9"], ag.k_hop("p9", edge_types="cites")),
        (["--neighborhood", "p9"], ag.neighborhood("p9", edge_types="cites")),
        (["--traverse", "--query", "[1, 0, 0]"], ag.traverse([1.0, 0.0, 0.0], edge_types="cites")),
    ):
        assert [hit["path"] for hit in hits(tmp_path / "a.json", *action, *by)] == [hit.path for hit in expected]
        assert "no edge has a text as attribute 'type'" in fails(tmp_path / "a.json", *action, *by[2:])


def test_search_takes_its_options(file, index, ag):
    with ab.AttentionVectorBridge.open(index, read_only=True) as bridge:
        plain = ag.search(bridge, [1.0, 0.5, 0.0])
        expected = ag.search(
            bridge, [1.0, 0.5, 0.0], 4, 1, where="year > $y", params={"y": 2003}, seeds=3, beam_width=2,
            edge_types="CITES", direction="both",
        )  # fmt: skip
    call = [file, "--search", index, "--query", "[1.0, 0.5, 0.0]"]
    assert [hit["path"] for hit in hits(*call)] == [hit.path for hit in plain]
    options = ["--where", "year > $y", "--param", "y=2003", "--limit", 4, "--max-hops", 1, "--seeds", 3]
    found = hits(*call, *options, "--beam-width", 2, "--edge-type", "CITES", "--direction", "both")
    assert [hit["path"] for hit in found] == [hit.path for hit in expected] != [hit.path for hit in plain][:4]
    assert [hit["score"] for hit in found] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert ", mass 0." in succeeds(*call, "--explain")
    late = run(*call, "--time-budget", "1e-9", "--format", "json")
    told = json.loads(late.stdout)
    assert {hit["hop"] for hit in told["hits"]} == {0}  # the seeds
    assert not told["complete"]


def test_ids_that_are_numbers_are_nodes_that_are_texts(tmp_path):
    graph = nx.DiGraph([(1, 2), (2, 3)])
    nx.set_node_attributes(graph, {1: "1 0", 2: "0 1", 3: "1 1"}, "embedding")
    nx.write_graphml(graph, tmp_path / "a.graphml")  # where nodes are texts
    write_json(graph, tmp_path / "a.json", edges="edges")
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=[1, 2])
    bridge.save(tmp_path / "index")
    for name, kind in (("a.graphml", str), ("a.json", int)):
        found = hits(tmp_path / name, "--search", tmp_path / "index", "--query", "[1, 0]")
        assert {hit["node"] for hit in found} == {kind(1), kind(2), kind(3)}


def test_pagerank_takes_its_options(file, ag):
    ranks = ag.pagerank([1.0, 0.5, 0.0], 0.5, direction="in")
    best = sorted(ranks, key=lambda node: -ranks[node])
    call = [file, "--pagerank", "--query", "[1.0, 0.5, 0.0]", "--alpha", 0.5, "--direction", "in"]
    found = hits(*call)
    assert [hit["node"] for hit in found] == best
    assert [hit["pagerank"] for hit in found] == pytest.approx([ranks[node] for node in best], rel=1e-6)
    rows = list(csv.reader(io.StringIO(succeeds(*call, "--limit", 3, "--format", "csv"))))
    assert [row[0] for row in rows] == ["node", *best[:3]]
    text = succeeds(*call, "--limit", 3)
    assert text.startswith("3 hits of 10 nodes\n")
    assert f"{ranks[best[0]]:.4g}" in text
    like = ag.pagerank(ag.graph.nodes["p3"]["embedding"])
    assert next(hit["node"] for hit in hits(file, "--pagerank", "--query-node", "p3")) == max(like, key=like.get)


def test_max_hops_bounds_a_match(file):
    assert "go on beyond 1 hops" in fails(file, "--match", "MATCH (a)-[*]->(b) RETURN a", "--max-hops", 1)


def test_attention_and_weights(file):
    expected = ab.AttentionGraph(citations(), attention="scaled_dot", scale=0.5, weight="share").k_hop("p9", 2)
    options = ["--attention", "scaled_dot", "--option", "scale=0.5", "--weight", "share"]
    found = hits(file, "--k-hop", "p9", *options)
    assert [hit["score"] for hit in found] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert [hit["weights"] for hit in found] == [pytest.approx(hit.weights, abs=1e-6) for hit in expected]


def test_time_is_over(tmp_path):
    graph = nx.complete_graph(60)
    nx.set_node_attributes(graph, [1.0, 0.5], "embedding")
    write_json(graph, tmp_path / "a.json", edges="edges")
    for action in (["--match", "MATCH (a)--(b)--(c)--(d) RETURN a"], ["--traverse", "--query", "[1.0, 0.0]"]):
        result = run(tmp_path / "a.json", *action, "--time-budget", "1e-9", "--format", "json")
        assert result.exit_code == 0
        assert result.stderr == "Warning: the time budget ended the search early: hits may be missing\n"
        assert json.loads(result.stdout)["complete"] is False
    result = run(tmp_path / "a.json", "--k-hop", "0", "--max-nodes", "5")
    assert result.stderr == "Warning: the limit of nodes ended the search early: hits may be missing\n"
    assert result.stdout.startswith("5 hits of 5 nodes visited\n")


# ---- output


def test_a_table_of_hits(file, ag):
    lines = succeeds(file, "--k-hop", "p9", "--k", "1").splitlines()
    best = ag.k_hop("p9", 1)[0]
    assert lines[0] == "3 hits of 3 nodes visited"
    assert lines[1].split() == ["rank", "node", "score", "hop", "log", "weight", "path"]
    assert lines[3].split() == ["1", best.node, f"{best.score:.4f}", "0", "0.0000", "p9"]
    assert any(line.endswith("p9 - p8") for line in lines)


def test_a_table_of_rows(file):
    lines = succeeds(file, "--match", "MATCH (a)-[r]->(b) RETURN a, b.year, r ORDER BY b.year LIMIT 2").splitlines()
    assert lines[0] == "2 rows"
    assert lines[1].split() == ["row", "a", "b.year", "r"]
    assert lines[3].split()[:3] == ["1", "p1", "2000"]
    lines = succeeds(file, "--match", "MATCH (a)-->(b) RETURN a", "--query", "[1, 0, 0]", "--start", "p1").splitlines()
    assert lines[3].split() == ["1", "p1", "0.0000", "1.00"]
    assert succeeds(file, "--match", "MATCH (a)-->(a) RETURN a").splitlines() == ["0 rows"]


def test_long_tables_say_how_many_there_are(tmp_path):
    graph = nx.star_graph(1000)
    nx.set_node_attributes(graph, [1.0], "embedding")
    write_json(graph, tmp_path / "a.json", edges="edges")
    lines = succeeds(tmp_path / "a.json", "--k-hop", "0").splitlines()
    assert lines[0] == "1,001 hits of 1,001 nodes visited"
    assert lines[-1] == "The first 1000 of them; all with --format csv or json"
    assert len(hits(tmp_path / "a.json", "--k-hop", "0")) == 1001


def test_explained(file, ag):
    out = succeeds(file, "--k-hop", "p9", "--explain")
    assert out.endswith(f"\n\n{ag.k_hop('p9').explain()}\n")
    pattern = "MATCH (a)-->(b) WHERE b.year = 2000 RETURN a"
    assert succeeds(file, "--match", pattern, "--explain").endswith(f"\n\n{ag.match(pattern).explain()}\n")


def test_csv(file, ag):
    rows = list(csv.DictReader(io.StringIO(succeeds(file, "--k-hop", "p9", "--format", "csv"))))
    expected = ag.k_hop("p9")
    assert list(rows[0]) == ["node", "score", "hop", "log_weight", "path", "edges", "weights"]
    assert [row["node"] for row in rows] == expected.nodes
    assert [json.loads(row["path"]) for row in rows] == [hit.path for hit in expected]
    pattern = "MATCH (a)-->(b) RETURN a, b.year AS score, b.none AS none"
    rows = list(csv.DictReader(io.StringIO(succeeds(file, "--match", pattern, "--format", "csv"))))
    assert list(rows[0]) == ["a", "score", "none", "path", "edges", "weights"]
    assert [row["score"] for row in rows] == [str(year) for year in ag.match(pattern).column("score")]
    assert {row["none"] for row in rows} == {""}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("action", [["--k-hop", "p9"], ["--match", "MATCH (a)-->(b) RETURN a"]])
def test_plots(file, suffix, action, tmp_path):
    pytest.importorskip("matplotlib")
    succeeds(file, *action, "--plot", tmp_path / f"a{suffix}", "--plot-label", "year")
    data = (tmp_path / f"a{suffix}").read_bytes()
    assert data.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    if suffix == ".png":
        width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
        assert 500 < width < 4000
        assert 200 < height < 4000
    if suffix == ".svg":
        assert b"2009" in data


# ---- what is refused

ONE_OF = "give one of --match, --k-hop, --traverse, --neighborhood, --search, --pagerank"


@pytest.mark.parametrize(("args", "message"), [
    ([], ONE_OF),
    (["--k-hop", "p1", "--traverse"], ONE_OF),
    (["--k-hop", "p1", "--query", "[1]", "--query-node", "p1"], "give one query: either --query or --query-node"),
    (["--traverse"], "--traverse needs a query: give --query or --query-node"),
    (["--pagerank"], "--pagerank needs a query: give --query or --query-node"),
    (["--search", "nowhere"], "--search needs a query: give --query or --query-node"),
    (["--search", "nowhere", "--query", "[1]", "--param", "x=1"], "--param needs --where, whose $names have values"),
    (["--pagerank", "--query", "[1]", "--explain"], "--explain and --plot show ways, which --pagerank has none of"),
    (["--pagerank", "--query", "[1]", "--plot", "a.png"],
     "--explain and --plot show ways, which --pagerank has none of"),
    (["--k-hop", "p1", "--explain", "--format", "csv"],
     "--explain is for people to read: give it with --format table"),
    (["--k-hop", "p1", "--plot-label", "year"], "--plot-label needs --plot"),
    (["--k-hop", "p1", "--vector", "v"], "--vector needs --embeddings"),
    (["--k-hop", "p1", "--id", "v"], "--id needs --embeddings"),
    (["--k-hop", "p1", "--embedding", "v", "--embeddings", "v.npy"],
     "--embedding names an attribute of nodes: give it without --embeddings"),
    (["--k-hop", "p1", "--directed"],
     "--directed is for edge lists: a file of graphml says itself whether its edges are"),
    (["--match", "MATCH (a) RETURN a", "--start", "p1", "--start", "p2"],
     "--start must be given once for --match, got 2"),
    (["--match", "MATCH (a) RETURN a", "--per-step", "2"], "--per-step needs a query, which steps are ranked by"),
    (["--match", "MATCH (a) RETURN a", "--param", "x"], "--param must be NAME=VALUE, got 'x'"),
    (["--k-hop", "p1", "--query", "q.txt"], "--query must be a .npy or .json file, got q.txt"),
])  # fmt: skip
def test_wrong_usage(file, args, message):
    assert fails(file, *args, code=2) == message


VALUES = {"--start": "p1", "--edge-type": "CITES", "--param": "x=1", "--label": "kind", "--type": "type",
          "--direction": "in", "--time-budget": "1", "--where": "id <> 'p3'", "--alpha": "0.5"}  # fmt: skip
ACTIONS = {
    "--match": ("--start", "--max-hops", "--time-budget", "--per-step", "--param", "--label", "--type"),
    "--k-hop": ("--k", "--max-nodes", "--limit", "--direction", "--edge-type", "--type"),
    "--traverse": ("--limit", "--direction", "--beam-width", "--edge-type", "--start", "--max-hops", "--time-budget",
                   "--type"),
    "--neighborhood": ("--direction", "--edge-type", "--type"),
    "--search": ("--limit", "--direction", "--beam-width", "--edge-type", "--max-hops", "--time-budget", "--type",
                 "--param", "--where", "--seeds"),
    "--pagerank": ("--limit", "--direction", "--alpha"),
}  # fmt: skip


@pytest.mark.parametrize("option", sorted({option for options in ACTIONS.values() for option in options}))
@pytest.mark.parametrize("action", ACTIONS)
def test_options_of_another_action(file, index, action, option):
    value = {"--match": ["MATCH (a) RETURN a"], "--traverse": [], "--pagerank": [], "--search": [index]}
    call = [file, action, *value.get(action, ["p1"]), "--query", "[1, 0, 0]", option, VALUES.get(option, "2")]
    if option in ACTIONS[action]:
        more = ["--where", "id <> $x"] if action == "--search" and option == "--param" else []
        succeeds(*call[:-1], "x=p1" if more else call[-1], *more)
    else:
        of = " and ".join(name for name in ACTIONS if option in ACTIONS[name])
        message = fails(*call, code=2)
        assert message.startswith(f"{option} is for ")
        assert message.endswith(f", not for {action}")
        assert set(message.split(",")[0].split()) >= set(of.split())


@pytest.mark.parametrize(("args", "message"), [
    (["--k-hop", "p77"], "node 'p77' is not in the graph"),
    (["--neighborhood", "p77"], "node 'p77' is not in the graph"),
    (["--match", "MATCH (a) RETURN a", "--start", "p77"], "node 'p77' is not in the graph"),
    (["--k-hop", "p1", "--query-node", "p77"], "node 'p77' is not in the graph"),
    (["--traverse", "--query", "[1, 0, 0]", "--start", "p77"], "node 'p77' is not in the graph"),
    (["--k-hop", "p1", "--query", "[1, 0"], "--query must be JSON such as [0.1, 0.2]"),
    (["--k-hop", "p1", "--query", "[[1, 0, 0]]"], "--query must be one vector (d,), got shape (1, 3)"),
    (["--k-hop", "p1", "--query", "[1, 0]"], "query must have dimension 3 as the embeddings have, got 2"),
    (["--k-hop", "p1", "--embedding", "none"], "no node has an embedding, attribute 'none': pass --embeddings FILE"),
    (["--k-hop", "p1", "--attention", "none"], "'none'"),
    (["--k-hop", "p1", "--option", "none=1"], "none"),
    (["--k-hop", "p1", "--weight", "type"], "attribute 'type' of edge"),
    (["--match", "MATCH (a"], "line 1, column 9"),
    (["--match", "MATCH (a) WHERE a.year = $y RETURN a"], "$y"),
    (["--traverse", "--query", "[1, 0, 0]", "--edge-type", "NONE"], "NONE"),
    (["--search", "nowhere", "--query", "[1, 0, 0]"], "nowhere"),
    (["--k-hop", "p1", "--plot", "a.jpg"], "--plot must end in .png, .svg or .pdf, got 'a.jpg'"),
    (["--k-hop", "p1", "--plot", "nowhere/a.png"], "--plot must be in a folder that is there"),
    (["--k-hop", "p1", "--query", "none.npy"], "none.npy cannot be read"),
    (["--k-hop", "p1", "--embeddings", "none.npy"], "data must be a file, but none.npy does not exist"),
])  # fmt: skip
def test_failures_are_messages(file, args, message):
    assert message in fails(file, *args)


def test_a_query_node_without_embedding(tmp_path):
    graph = citations()
    del graph.nodes["p3"]["embedding"]
    write_json(graph, tmp_path / "a.json", edges="edges")
    message = fails(tmp_path / "a.json", "--k-hop", "p1", "--query-node", "p3", "--missing", "skip")
    assert message == "--query-node must be a node with an embedding, 'p3' has none"


def test_lists_are_tuples_as_nodes(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"directed": False, "multigraph": False, "nodes": [
        {"id": 1.0, "embedding": [1.0]}, {"id": "1.0 ", "embedding": [1.0]}, {"id": True, "embedding": [1.0]},
        {"id": "x", "embedding": [1.0]}, {"id": [1, 2], "embedding": [1.0]}, {"id": "(1, 2)", "embedding": [1.0]}],
        "edges": [{"source": "x", "target": [1, 2]}]}))  # fmt: skip
    assert hits(tmp_path / "a.json", "--k-hop", "x")[1]["node"] == [1, 2]
    assert hits(tmp_path / "a.json", "--k-hop", "(1, 2)")[0]["node"] == "(1, 2)"


BROKEN = {
    "a.graphml": (b"<graphml", "cannot be read as graphml"),
    "b.graphml": (b"", "cannot be read as graphml"),
    "c.graphml": (b"<other/>", "cannot be read as graphml"),
    "a.gml": (b"graph [ node [ id 1", "cannot be read as gml"),
    "b.gml": (b"", "cannot be read as gml"),
    "c.gml": ("graph [ node [ id 1 label \"é\" ] ]".encode(), "cannot be read as gml"),
    "a.json": (b"{", "cannot be read as json"),
    "b.json": (b"[]", "it must be an object with nodes, and edges or links (node-link data), or adjacency"),
    "c.json": (b'{"nodes": [{"id": 0}], "edges": [{"source": 0}]}', "cannot be read as json"),
    "d.json": (b'{"nodes": 1, "edges": 2}', "cannot be read as json"),
    "e.json": (b'{"nodes": [1], "adjacency": [[1]]}', "cannot be read as json"),
    "a.edgelist": (b"a b\na\n", "line 2 must have two nodes, got 'a'"),
    "b.edgelist": (b"a b c\n", "line 1 must have a weight, a dictionary or nothing behind two nodes, got 'c'"),
    "c.edgelist": (b"a b {1: 2}\n", "line 1 must have a weight, a dictionary or nothing"),
    "d.edgelist": (b"a \xff\n", "cannot be read as edgelist"),
    "a.csv": (b"a,b\n,c\n", "line 2 must have two nodes, got 'c'"),
    "b.csv": (b'a,"b\n', "cannot be read as csv"),
    "c.csv": (b"a,b,c\n", "line 1 must have a weight"),
    "a.json.gz": (b"no gzip", "cannot be unpacked"),
    "b.json.gz": (gzip.compress(b'{"nodes": []}')[:-6], "cannot be unpacked"),
    "a.json.bz2": (b"no bzip2", "cannot be unpacked"),
    "b.json.bz2": (bz2.compress(b'{"nodes": []}')[:-6], "cannot be unpacked"),
    "a.txt": (b"", "G must have at least one node, got none"),
    "a.dat": (b"", "a graph's file must end in .graphml, .gml, .edgelist, .edges, .txt, .tsv, .csv, .json, or these "
              "with .gz or .bz2, got 'a.dat'; or name its format: graphml, gml, edgelist, csv, json"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, tmp_path):
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    assert message in fails(tmp_path / name, "--k-hop", "a")


def test_files_that_are_not_there(tmp_path):
    assert fails(tmp_path / "a.json", "--k-hop", "a") == f"{tmp_path / 'a.json'}: No such file or directory"
    assert "No such file" in fails(tmp_path / "a.json.gz", "--k-hop", "a")


def test_directed_is_of_edge_lists_in_python(file):
    with pytest.raises(ab.InvalidInputError, match="directed must be left out: a file of graphml says itself"):
        read_graph(file, directed=True)


def test_formats_are_those_of_the_reader(file):
    with pytest.raises(ab.InvalidConfigError, match="form must be one of csv, edgelist, gml, graphml, json; got 'dot'"):
        read_graph(file, "dot")
    assert "'graphml', 'gml', 'edgelist', 'csv', 'json'" in fails(
        file, "--k-hop", "p1", "--input-format", "dot", code=2
    )


# ---- SQL


def test_sql_walks_a_graph(file, ag, tmp_path):
    statement = "SELECT node FROM ruvector_k_hop('p9', 2) LIMIT 3"
    out = succeeds("--graph", file, statement, "--format", "json", command="sql")
    assert [row["node"] for row in json.loads(out)] == ag.k_hop("p9", 2).nodes[:3]
    nx.write_edgelist(nx.path_graph(3), tmp_path / "a.edgelist", data=False)
    np.save(tmp_path / "rows.npy", np.eye(3))
    call = ["--graph", tmp_path / "a.edgelist", "--embeddings", tmp_path / "rows.npy", "--format", "json"]
    out = succeeds(*call, "SELECT record FROM ruvector_match('MATCH (a)--(b) RETURN a', start := '2')", command="sql")
    assert len(json.loads(out)) == 1
    named = ["--graph", file, "--embedding", "none", statement]
    assert "no node has an embedding, attribute 'none'" in fails(*named, command="sql")


def test_sql_needs_a_graph():
    for option in ("--embedding", "--embeddings"):
        assert fails("SELECT 1", option, "x", command="sql", code=2) == f"{option} needs --graph"
    message = fails("SELECT node FROM ruvector_k_hop('a')", command="sql")
    assert message == "a graph function needs a graph, none is registered; name its file with --graph"
