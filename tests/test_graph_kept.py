"""What an attention graph keeps: nobody who is handed it can change it."""

import networkx as nx
import numpy as np
import pytest

import attnbridge as ab


def attend(kind):
    graph = kind([("a", "b"), ("b", "c"), ("c", "a")])
    for place, node in enumerate(graph):
        graph.nodes[node]["embedding"] = [1.0, float(place)]
    return ab.AttentionGraph(graph)


@pytest.mark.parametrize("kind", [nx.DiGraph, nx.MultiGraph])
def test_what_is_kept_cannot_be_changed(kind):
    ag = attend(kind)
    kept = ag.topology
    assert kept is ag.topology
    assert ag.nodes == kept.nodes == ("a", "b", "c")
    assert kept.keys is None or isinstance(kept.keys, tuple)
    with pytest.raises(TypeError):
        kept.index["a"] = 2
    for array in (*kept.ends, *kept.edges("out"), *kept.edges("in"), *kept.edges("both")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_keys_of_arrays_cannot_be_changed():
    ag = ab.AttentionGraph.from_arrays([[0, 1], [1, 0]], np.eye(2, dtype=np.float32))
    assert ag.topology.keys == range(2)
    assert ag.nodes == (0, 1)


def test_arrays_are_copied():
    X, features = np.eye(3), np.ones((2, 1))  # noqa: N806
    ag = ab.AttentionGraph.from_arrays([[0, 0], [1, 2]], X, edge_features=features)
    before = ag.neighborhood(0, [0.0, 1.0, 0.5]).nodes
    X[:], features[:] = np.nan, np.nan
    assert ag.neighborhood(0, [0.0, 1.0, 0.5]).nodes == before == [1, 2]
    assert np.isfinite(ag.edge(0)[3]["features"]).all()
    for shown in (ag.graph.nodes[0]["embedding"], ag.edge(0)[3]["features"]):
        with pytest.raises(ValueError, match="read-only"):
            shown[0] = 1.0


def test_a_bad_embedding_is_named_even_where_it_is_the_query():
    ag = attend(nx.DiGraph)
    ag.graph.nodes["a"]["embedding"] = np.array([1.0, np.nan])
    with pytest.raises(ab.InvalidInputError, match=r"^embedding of node 'a' must be finite: position 1 is nan"):
        ag.neighborhood("a")


@pytest.mark.parametrize("value", [["a", "b"], [True, False]])
def test_a_list_is_not_told_to_use_astype(value):
    ag = attend(nx.DiGraph)
    ag.graph.nodes["b"]["embedding"] = value
    with pytest.raises(ab.InvalidInputError, match=r"^embedding of node 'b' must be real.*with float\(\) of each$"):
        ag.neighborhood("a")
    ag.graph.nodes["b"]["embedding"] = np.array(value)
    with pytest.raises(ab.InvalidInputError, match=r"convert with .astype\('float32'\)$"):
        ag.neighborhood("a")


@pytest.mark.parametrize(
    "rows", [[[1.0, 2]] * 3, [[1, 2]] * 3, [[True, False], [1.0, 0.0], [1.0, 0.0]], [[1.0, 1e39]] * 3, [[1.0]] * 3]
)
def test_lists_at_once_are_what_they_are_one_by_one(rows):
    def read(values):
        graph = nx.DiGraph([("a", "b"), ("a", "c")])
        nx.set_node_attributes(graph, dict(zip("abc", values, strict=True)), "embedding")
        try:
            return ab.AttentionGraph(graph).logits([0.5, 0.25], [0, 1, 2]).tolist()
        except ab.AttentionError as error:
            return str(error)

    assert read(rows) == read(list(map(tuple, rows)))


@pytest.mark.parametrize(
    ("kind", "told"), [("bool", "got True; of a CSR matrix A, A.data$"), ("csr", "got a matrix; pass")]
)
def test_weights_of_a_matrix_are_its_data(kind, told):
    import scipy.sparse

    matrix = scipy.sparse.csr_array(np.array([[0.0, 2.0], [1.0, 0.0]]))
    given = True if kind == "bool" else matrix
    with pytest.raises(ab.InvalidInputError, match=rf"^weight must be \(2,\), one for each edge, {told}"):
        ab.AttentionGraph.from_arrays(matrix, np.eye(2), weight=given)
