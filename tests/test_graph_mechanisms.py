"""Attention over whole graphs: every mechanism against its own forward, node by node; the five calls; every refusal."""

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import peak, traced

import attnbridge as ab
from attnbridge.mechanisms import graph as graph_module
from attnbridge.scoring import resolve

DIM = 6
X2 = np.eye(3, dtype=np.float32)
DOT = ab.ScaledDotProductAttention()


def _row(name, **options):
    row, settled = resolve(name, options)
    return row.mechanism(settled)


def _random(parameters, seed=3):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(array.shape) for name, array in parameters.items()}


def _heads(**options):
    made = ab.MultiHeadAttention(DIM, 3, **options)
    if made.projections:
        made.set_parameters(_random(made.parameters()))
    return made


MECHANISMS = {
    "dot": lambda: ab.ScaledDotProductAttention(),
    "dot-scale": lambda: ab.ScaledDotProductAttention(scale=3.0, d_model=DIM, max_seq_len=40),
    "flash": lambda: ab.FlashAttention(block_size=2),
    "heads": _heads,
    "heads-plain": lambda: _heads(projections=False),
    "cross": lambda: ab.CrossAttention(DIM, 2),
    "linear": lambda: ab.LinearAttention(),
    "linear-eps": lambda: ab.LinearAttention(eps=0.5),
    "favor": lambda: ab.LinearAttention("favor", num_features=16),
    "cosine": lambda: ab.GraphAttention(),
    "cosine-cold": lambda: ab.GraphAttention(temperature=0.001),
    "cosine-mean": lambda: ab.GraphAttention(aggregation="mean"),
    "cosine-max": lambda: ab.GraphAttention(aggregation="max"),
    "cosine-raw": lambda: ab.GraphAttention(normalize=False),
    "geometric": lambda: ab.GeometricAttention(ab.EuclideanSpace(), radius=2.5),
    "poincare": lambda: ab.HyperbolicAttention(map="expmap0"),
    "poincare-values": lambda: ab.HyperbolicAttention(map="expmap0", values="manifold"),
    "sparse": lambda: ab.SparseAttention("top_k", top_k=2),
    "sparse-root": lambda: ab.SparseAttention(),
    "moe": lambda: ab.MixtureOfExpertsAttention(),
    "moe-sparse": lambda: ab.MixtureOfExpertsAttention(["scaled_dot", ("sparse", {"top_k": 2})]),
    "row-heads": lambda: _row("multi_head", num_heads=2),
    "row-maxsim": lambda: _row("cross", scale=2.0),
}
# Whose weights are no softmax of all logits: they sum to something else.
UNNORMALISED = {"cosine-raw", "linear-eps"}


def graph(rng, n=9, m=40, dtype=np.float32):
    """Nodes 0 and 1 without edges to them, a zero row, twins, parallel edges, a self loop."""
    X = rng.standard_normal((n, DIM)).astype(dtype)  # noqa: N806
    X[2], X[3] = 0.0, X[4]
    edges = np.stack([rng.integers(0, n, m), rng.integers(2, n, m)])
    edges[:, 1], edges[:, 2] = edges[:, 0], [5, 5]
    return X, edges


def loop(mechanism, X, edges, weight=None, values=None, edge_attr=None):  # noqa: N803
    """Attend node by node through `forward`, which is tested elsewhere."""
    values = X if values is None else values
    features, coefficients = np.zeros((len(X), values.shape[1]), X.dtype), np.zeros(edges.shape[1], X.dtype)
    for i in range(len(X)):
        into = np.flatnonzero(edges[1] == i)
        if not len(into):
            continue
        sources = edges[0, into]
        added = None if weight is None else np.log(weight[into])
        given = {} if edge_attr is None else {"edge_features": edge_attr[into]}
        features[i] = mechanism.forward(X[i], X[sources], values[sources], added, **given).output
        if isinstance(mechanism, ab.FlashAttention):
            coefficients[into] = mechanism.weights(X[i], X[sources], added)
        else:
            coefficients[into] = mechanism.forward(
                X[i], X[sources], values[sources], added, need_weights=True, **given
            ).weights
    return features, coefficients


def agree(got, want, dtype):
    tolerance = {"rtol": 1e-5, "atol": 5e-6} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-11}
    for mine, truth in zip(got, want, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, truth, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MECHANISMS)
def test_equals_forward_node_by_node(rng, name, weighted, dtype):
    mechanism = MECHANISMS[name]()
    X, edges = graph(rng, dtype=dtype)  # noqa: N806
    if weighted and name == "cosine-raw":
        with pytest.raises(ab.InvalidConfigError, match="edge_weight must be left out with normalize=False"):
            mechanism.graph_forward(X, edges, edge_weight=np.ones(edges.shape[1]))
        return
    weight = rng.uniform(0.1, 3.0, edges.shape[1]) if weighted else None
    got = mechanism.graph_forward(X, edges, edge_weight=weight)
    assert isinstance(got, ab.GraphOutput)
    agree(got, loop(mechanism, X, edges, weight), dtype)
    assert (got.features[:2] == 0.0).all()
    sums = np.bincount(edges[1], got.coefficients, len(X))
    if name not in UNNORMALISED:
        reached = np.bincount(edges[1], minlength=len(X)) > 0
        if name == "geometric":  # a node with nothing within the radius attends to nothing
            reached &= sums > 0.0
        np.testing.assert_allclose(sums, reached, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("edge_dim", [None, 3])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "negative_slope": 0.7}, {"normalize": False}])
@pytest.mark.parametrize("aggregation", ["sum", "mean", "max"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_graph_attention_with_parameters(rng, version, aggregation, options, edge_dim, dtype):
    mechanism = ab.GraphAttention(DIM, 5, version=version, aggregation=aggregation, edge_dim=edge_dim, **options)
    X, edges = graph(rng, dtype=dtype)  # noqa: N806
    held = mechanism.parameters()["W" if version == "v1" else "U"].astype(np.float64)
    values = (X.astype(np.float64) @ held.T).astype(dtype)
    edge_attr = None if edge_dim is None else rng.standard_normal((edges.shape[1], edge_dim)).astype(dtype)
    got = mechanism.graph_forward(X, edges, edge_attr)
    agree(got, loop(mechanism, X, edges, values=values, edge_attr=edge_attr), dtype)
    assert got.features.shape == (len(X), 5)
    if options.get("normalize", True):
        weight = rng.uniform(0.1, 3.0, edges.shape[1])
        got = mechanism.graph_forward(X, edges, edge_attr, edge_weight=weight)
        agree(got, loop(mechanism, X, edges, weight, values, edge_attr), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_graph_attention_by_kernel_equals_pair_by_pair(rng, monkeypatch, version, dtype):
    """The kernels of the layers, logits that float32 is too short for, and the path without kernels."""
    X, edges = graph(rng, 30, 300, dtype)  # noqa: N806
    attr, weight = rng.standard_normal((300, 2)), rng.uniform(1e-9, 1e9, 300)
    made, taken = [], []
    run = graph_module.attend_network
    for path in ("kernel", "pairs"):
        for temperature, factors in ((1.0, None), (0.7, weight), (0.01, None)):
            mechanism = ab.GraphAttention(DIM, 11, version=version, edge_dim=2, temperature=temperature)

            def attend(*args, path=path):
                result = run(*args) if path == "kernel" else None
                taken.append(result is not None)
                return result

            monkeypatch.setattr(graph_module, "attend_network", attend)
            made.append(mechanism.graph_forward(X, edges, attr, edge_weight=factors))
    assert taken == [True] * 3 + [False] * 3
    for mine, truth in zip(made[:3], made[3:], strict=True):
        agree(mine, truth, dtype)


def test_graph_attention_by_hand():
    """Projected [1], [2], logits LeakyReLU(1 + 1) and LeakyReLU(1 + 2): weights 1 : e, values 1 and 2."""
    mechanism = ab.GraphAttention(1, 1, version="v1")
    mechanism.set_parameters({"W": [[2.0]], "a_q": [1.0], "a_k": [1.0]})
    features, coefficients = mechanism.graph_forward([[0.5], [0.5], [1.0]], [[1, 2], [0, 0]])
    share = np.e / (1 + np.e)
    np.testing.assert_allclose(coefficients, [1 - share, share], rtol=1e-6)
    np.testing.assert_allclose(features[0], [1 + share], rtol=1e-6)


def test_weights_of_edges_by_hand():
    """Three equal sources: a weight of 2 counts as two edges."""
    X = np.ones((4, 1), np.float32)  # noqa: N806
    X[3] = 5.0
    attention = ab.ScaledDotProductAttention(scale=1e-9)
    got = attention.graph_forward(X, [[1, 3], [0, 0]], edge_weight=[1.0, 3.0])
    np.testing.assert_allclose(got.coefficients, [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(got.features[0], [4.0], rtol=1e-6)


def test_large_products_are_redone_in_float64(rng):
    X = (1e19 * rng.standard_normal((4, DIM))).astype(np.float32)  # noqa: N806
    edges = np.array([[0, 1, 2, 3], [0, 0, 0, 0]])
    attention = ab.ScaledDotProductAttention(scale=1e-38)
    agree(attention.graph_forward(X, edges), loop(attention, X, edges), np.float32)


def _large():
    made = ab.GraphAttention(2)
    made.set_parameters({"W": np.eye(2), "U": np.eye(2), "a": [1e38, 1e38]})
    return made


@pytest.mark.parametrize("mechanism", [DOT, ab.SparseAttention(), _large()])
def test_products_beyond_float64(mechanism):
    with pytest.raises(ab.InvalidInputError, match="X must have products within float64"):
        mechanism.graph_forward(np.full((2, 2), 1e300), [[0], [1]])


def test_features_beyond_float32():
    mechanism = _large()
    mechanism.set_parameters({"W": np.eye(2), "U": 10 * np.eye(2), "a": [0.0, 0.0]})
    with pytest.raises(ab.NumericalInstabilityError, match="features must be within float32; rescale X"):
        mechanism.graph_forward(np.full((2, 2), 2e38, np.float32), [[0], [1]])


# ---- the other calls, and properties


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 8))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = np.array(pairs, np.int64).reshape(-1, 2).T
    return rng.standard_normal((n, DIM)).astype(np.float32), edges, rng


KINDS = ["dot", "heads", "cosine", "linear", "geometric", "sparse", "moe"]


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=15, deadline=None)
@given(drawn=graphs())
def test_properties(name, drawn):
    mechanism = MECHANISMS[name]()
    X, edges, rng = drawn  # noqa: N806
    n, m = len(X), edges.shape[1]
    features, coefficients = mechanism.graph_forward(X, edges)
    close = {"rtol": 2e-5, "atol": 2e-6}

    labels = rng.permutation(n)  # node i is called labels[i]
    renamed = np.empty_like(X)
    renamed[labels] = X
    again = mechanism.graph_forward(renamed, labels[edges].reshape(2, m))
    np.testing.assert_allclose(again.features[labels], features, **close)
    np.testing.assert_allclose(again.coefficients, coefficients, **close)

    for node in range(n):
        one = mechanism.forward_neighborhood(node, X, edges)
        into = np.flatnonzero(edges[1] == node)
        assert one.nodes.tolist() == edges[0, into].tolist()
        np.testing.assert_allclose(one.features, features[node], **close)
        np.testing.assert_allclose(one.coefficients, coefficients[into], **close)

    simple = np.unique(edges, axis=1)
    csr = sp.csr_array((np.ones(simple.shape[1]), simple), shape=(n, n))
    whole, listed = mechanism.graph_forward(X, simple), mechanism.sparse_forward(X, csr)
    np.testing.assert_allclose(listed.features, whole.features, **close)
    np.testing.assert_allclose(listed.coefficients, whole.coefficients, **close)


@settings(max_examples=40, deadline=None)
@given(drawn=graphs(), k=st.integers(1, 4))
def test_k_hop(drawn, k):
    X, edges, _ = drawn  # noqa: N806
    edges = np.unique(edges, axis=1)
    mechanism = ab.GraphAttention()
    against = nx.DiGraph([(target, source) for source, target in edges.T.tolist()])
    against.add_nodes_from(range(len(X)))
    for node in range(len(X)):
        got = mechanism.forward_k_hop(node, X, edges, k)
        steps = nx.single_source_shortest_path_length(against, node, k)
        if not against.has_edge(node, node):
            del steps[node]
        else:
            steps[node] = 1
        assert got.nodes.tolist() == sorted(steps, key=lambda other: (steps[other], other))
        near = mechanism.forward_neighborhood(node, X, edges)
        if k == 1:
            order = np.argsort(near.nodes)
            assert got.nodes.tolist() == near.nodes[order].tolist()
            np.testing.assert_allclose(got.coefficients, near.coefficients[order], rtol=1e-6)
            np.testing.assert_allclose(got.features, near.features, rtol=1e-5, atol=1e-6)


def test_neighborhood_takes_what_edges_have(rng):
    X, edges = graph(rng)  # noqa: N806
    mechanism = ab.GraphAttention(DIM, 5, edge_dim=2)
    attr, weight = rng.standard_normal((edges.shape[1], 2)), rng.uniform(0.5, 2.0, edges.shape[1])
    whole = mechanism.forward_with_edges(X, edges, attr, edge_weight=weight)
    for node in range(len(X)):
        one = mechanism.forward_neighborhood(node, X, edges, attr, edge_weight=weight)
        np.testing.assert_allclose(one.features, whole.features[node], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one.coefficients, whole.coefficients[edges[1] == node], rtol=1e-5)


def test_csr_entries_of_value_zero_are_edges():
    X = np.eye(2, dtype=np.float32)  # noqa: N806
    matrix = sp.csr_array(([0.0, 2.0], ([0, 1], [1, 1])), shape=(2, 2))
    got = ab.ScaledDotProductAttention(scale=1e-9).sparse_forward(X, matrix)
    np.testing.assert_allclose(got.coefficients, [0.5, 0.5], rtol=1e-6)
    weighted = ab.ScaledDotProductAttention(scale=1e-9).sparse_forward(X, matrix, edge_weight=matrix.data + 1.0)
    np.testing.assert_allclose(weighted.coefficients, [0.25, 0.75], rtol=1e-6)


def test_csr_with_room_left_over():
    matrix = sp.csr_array((2, 2))
    matrix.indptr, matrix.indices, matrix.data = np.array([0, 1, 1]), np.array([1, 7]), np.ones(2)
    assert ab.ScaledDotProductAttention().sparse_forward(np.eye(2), matrix).coefficients.tolist() == [1.0]


def _unsound(form, **arrays):
    """Return a 5 x 5 matrix with an entry at (0, 1), then with arrays that SciPy does not look at."""
    matrix = sp.coo_array(([1.0], ([0], [1])), shape=(5, 5)).asformat(form)
    for name, value in arrays.items():
        setattr(matrix, name, value if isinstance(value, tuple) else np.array(value))
    return matrix


UNSOUND = [
    ("csr", {"indices": [7]}, r"indices must be in 0..4, entry 0 is 7"),
    ("csr", {"indices": [-1]}, r"indices must be in 0..4, entry 0 is -1"),
    ("csr", {"indices": [10**8]}, r"indices must be in 0..4, entry 0 is 100000000"),
    ("csr", {"indices": [0.0]}, r"indices must be 1 whole numbers, got float64 \(1,\)"),
    ("csr", {"indptr": [0, 1, 0, 1, 1, 1]}, "indptr must not fall: it does from 1 to 0 at row 1"),
    ("csr", {"indptr": [0, 1, 1, 1, 1, 9]}, "indptr must end at most at the number of indices, 1; got 9"),
    ("csr", {"indptr": [1, 1, 1, 1, 1, 1]}, "indptr must start at 0, got 1"),
    ("csr", {"indptr": [0, 1]}, r"indptr must be 6 whole numbers, got int64 \(2,\)"),
    ("csr", {"data": []}, "data must have 1 values as indptr says, got 0"),
    ("csc", {"indices": [10**8]}, r"indices must be in 0..4, entry 0 is 100000000"),
    ("csc", {"indptr": [0, 0, 1, 1, 1, 9]}, "indptr must end at most at the number of indices, 1; got 9"),
    ("bsr", {"indices": [10**8]}, r"indices must be in 0..4, entry 0 is 100000000"),
    ("coo", {"coords": (np.array([10**8]), np.array([0]))}, r"row must be in 0..4, entry 0 is 100000000"),
    ("coo", {"coords": (np.array([0]), np.array([-(10**8)]))}, r"col must be in 0..4, entry 0 is -100000000"),
]


@pytest.mark.parametrize(("form", "arrays", "message"), UNSOUND)
def test_matrices_whose_arrays_do_not_fit(form, arrays, message):
    matrix, X = _unsound(form, **arrays), np.ones((5, 4), np.float32)  # noqa: N806
    with pytest.raises(ab.SparseMatrixError, match=f"edge_index.{message}"):
        ab.ScaledDotProductAttention().sparse_forward(X, matrix)
    with pytest.raises(ab.SparseMatrixError, match=f"edges.{message}"):
        ab.AttentionGraph.from_arrays(matrix, X)
    with pytest.raises(ab.SparseMatrixError, match=f"matrix.{message}"):
        ab.SparseMask.from_scipy(matrix)


def test_lists_that_make_a_wrong_matrix():
    matrix = _unsound("lil")
    matrix.rows[0] = [12]
    with pytest.raises(ab.SparseMatrixError, match=r"edge_index.indices must be in 0..4, entry 0 is 12"):
        ab.ScaledDotProductAttention().sparse_forward(np.ones((5, 4)), matrix)


def test_weights_in_lists_have_the_range_of_float64():
    edges = [[0, 1, 2], [2, 2, 2]]
    for small in ([1e-320, 1e-320, 2e-320], [1e300, 1e300, 2e300]):
        got = DOT.graph_forward(np.zeros((3, 1)), edges, edge_weight=small).coefficients
        np.testing.assert_allclose(got, [0.25, 0.25, 0.5], rtol=1e-3)
        assert ab.AttentionGraph.from_arrays(edges, np.eye(3), weight=small)._data.weight.tolist() == small


def test_no_memory_of_n_times_n(rng):
    """20,000 nodes: an n x n matrix of the smallest numbers is 400 MB."""
    X = rng.standard_normal((20_000, 4)).astype(np.float32)  # noqa: N806
    edges = rng.integers(0, 50, (2, 300)) * 400
    for mechanism in (ab.ScaledDotProductAttention(), ab.GraphAttention(), ab.LinearAttention(), ab.SparseAttention()):
        with traced():
            mechanism.graph_forward(X, edges)
            assert peak() < 40e6


# ---- refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: DOT.graph_forward(X2, [[0], [1]], np.ones((1, 2))), ab.InvalidConfigError, "edge_attr must be left"),
        (lambda: DOT.graph_forward(X2, [[0], [1]], edge_type=["a"]), ab.InvalidConfigError, "edge_type must be left"),
        (
            lambda: ab.ScaledDotProductAttention(causal=True).graph_forward(X2, [[0], [1]]),
            ab.InvalidConfigError,
            "causal must be False over a graph",
        ),
        (
            lambda: ab.SlidingWindowAttention(2).graph_forward(X2, [[0], [1]]),
            ab.InvalidConfigError,
            "SlidingWindowAttention must run over sequences",
        ),
        (
            lambda: ab.SparseAttention("local").graph_forward(X2, [[0], [1]]),
            ab.InvalidConfigError,
            "pattern must be 'top_k' over a graph",
        ),
        (
            lambda: ab.SparseAttention(causal=True).graph_forward(X2, [[0], [1]]),
            ab.InvalidConfigError,
            "causal must be False over a graph",
        ),
        (
            lambda: ab.MixtureOfExpertsAttention([ab.SlidingWindowAttention(2), "gat"]).graph_forward(X2, [[0], [1]]),
            ab.InvalidConfigError,
            "SlidingWindowAttention must run over sequences",
        ),
        (
            lambda: ab.MixtureOfExpertsAttention(causal=True).graph_forward(X2, [[0], [1]]),
            ab.InvalidConfigError,
            "causal must be False over a graph",
        ),
        (
            lambda: ab.GraphAttention(3, edge_dim=2).graph_forward(X2, [[0], [1]]),
            ab.InvalidConfigError,
            r"edge_attr must be given, \(edges, 2\)",
        ),
        (
            lambda: ab.GraphAttention(3, edge_dim=2).graph_forward(X2, [[0], [1]], [[1.0]]),
            ab.DimensionMismatchError,
            r"edge_attr must be \(1, 2\) as edge_dim says",
        ),
        (
            lambda: ab.GraphAttention(3).graph_forward(X2, [[0], [1]], [[1.0]]),
            ab.InvalidConfigError,
            "edge_attr must be left out with GraphAttention",
        ),
        (
            lambda: ab.GraphAttention(5).graph_forward(X2, [[0], [1]]),
            ab.DimensionMismatchError,
            "must be in_dim 5, got 3",
        ),
        (
            lambda: ab.ScaledDotProductAttention(d_model=5).graph_forward(X2, [[0], [1]]),
            ab.DimensionMismatchError,
            "X must have dimension d_model = 5, got 3",
        ),
        (
            lambda: ab.CrossAttention(3, 1, kdim=4).graph_forward(X2, [[0], [1]]),
            ab.DimensionMismatchError,
            "X must have dimension kdim = 4, got 3",
        ),
        (
            lambda: ab.MultiHeadAttention(3, 1, max_seq_len=1).graph_forward(X2, [[0, 0], [1, 1]]),
            ab.InputTooLargeError,
            "at most max_seq_len = 1 edges to a node, node 1 has 2",
        ),
        # of what is common to all that runs over graphs
        (lambda: DOT.graph_forward(X2, [[0], [3]]), ab.GraphStructureError, r"nodes 0 to 2, edge 0 is \(0, 3\)"),
        (lambda: DOT.graph_forward(X2, [[-1], [1]]), ab.GraphStructureError, r"nodes 0 to 2, edge 0 is \(-1, 1\)"),
        (lambda: DOT.graph_forward(X2, [0, 1]), ab.DimensionMismatchError, r"edge_index must be \(2, m\)"),
        (lambda: DOT.graph_forward(X2, [[0, 1]]), ab.DimensionMismatchError, r"edge_index must be \(2, m\)"),
        (lambda: DOT.graph_forward(X2, [[0.0], [1.0]]), ab.InvalidInputError, "edge_index must be whole numbers"),
        (
            lambda: DOT.graph_forward(X2, [[0, 1], [1]]),
            ab.InvalidInputError,
            "edge_index must be two rows of whole numbers, of one length: where edges lead from",
        ),
        (
            lambda: ab.AttentionGraph.from_arrays([[0, 1], [1]], X2),
            ab.InvalidInputError,
            "edges must be two rows of whole numbers, of one length",
        ),
        (
            lambda: DOT.graph_forward(X2, [[0], [1]], edge_weight=["1"]),
            ab.InvalidInputError,
            "edge_weight must be real numbers",
        ),
        (
            lambda: DOT.graph_forward(X2, sp.eye_array(4, format="csr")),
            ab.DimensionMismatchError,
            r"edge_index must be \(3, 3\) as X has 3 rows, got \(4, 4\)",
        ),
        (lambda: DOT.sparse_forward(X2, [[0], [1]]), ab.InvalidInputError, "csr must be a SciPy sparse matrix"),
        (lambda: DOT.forward_with_edges(X2, [[0], [1]], None), ab.InvalidInputError, "edge_attr must be given"),
        (lambda: DOT.graph_forward(np.empty((0, 3)), [[], []]), ab.GraphStructureError, "X must have at least one row"),
        (lambda: DOT.graph_forward([1.0, 2.0], [[0], [1]]), ab.DimensionMismatchError, r"X must be rows \(n, d\)"),
        (lambda: DOT.graph_forward([[1.0], [np.nan]], [[0], [1]]), ab.InvalidInputError, "X must be finite: row 1"),
        (
            lambda: DOT.graph_forward(X2, [[0], [1]], edge_weight=[1.0, 2.0]),
            ab.DimensionMismatchError,
            r"edge_weight must be \(1,\), one for each edge",
        ),
        (
            lambda: DOT.graph_forward(X2, [[0, 1], [1, 1]], edge_weight=[1.0, 0.0]),
            ab.InvalidInputError,
            "edge_weight must be > 0, of edge 1 it is 0; leave the edge out",
        ),
        (
            lambda: DOT.graph_forward(X2, [[0], [1]], edge_weight=[np.inf]),
            ab.InvalidInputError,
            "edge_weight must be finite",
        ),
        (
            lambda: ab.GraphAttention(3, edge_dim=2).graph_forward(X2, [[0], [1]], np.ones((2, 2))),
            ab.DimensionMismatchError,
            "edge_attr must have a row for each of 1 edges, got 2",
        ),
        (lambda: DOT.forward_neighborhood(3, X2, [[0], [1]]), ab.InvalidConfigError, "node must be at most 2, got 3"),
        (lambda: DOT.forward_neighborhood("a", X2, [[0], [1]]), ab.InvalidConfigError, "node must be a whole number"),
        (lambda: DOT.forward_k_hop(-1, X2, [[0], [1]]), ab.InvalidConfigError, "node must be a whole number >= 0"),
        (lambda: DOT.forward_k_hop(0, X2, [[0], [1]], 0), ab.InvalidConfigError, "k must be a whole number >= 1"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
