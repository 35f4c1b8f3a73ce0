"""GraphSAGE, GIN, layers by type of edge: float64 truth, PyTorch Geometric, properties, and every refusal."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab

DIM, OUT = 5, 7
EDGES = [[0], [1]]
X3 = np.eye(3, dtype=np.float32)


def randomised(layer, seed=3):
    rng = np.random.default_rng(seed)
    layer.set_parameters({name: rng.standard_normal(array.shape) for name, array in layer.parameters().items()})
    return layer


def gin(eps=0.3, sizes=(DIM, 11, OUT)):
    return randomised(ab.GINConv(ab.MLP(sizes), eps))


def graph(rng, n=13, m=60, dtype=np.float32, loops=True):
    """Nodes 0 and 1 without edges to them; parallel edges; self loops or none."""
    edges = np.stack([rng.integers(0, n, m), rng.integers(2, n, m)])
    edges[:, 1] = edges[:, 0]
    edges = np.concatenate([edges, [[4, 5], [4, 5]]], axis=1) if loops else edges[:, edges[0] != edges[1]]
    return rng.standard_normal((n, DIM)).astype(dtype), edges


def aggregated(rows, edges, aggr, weight=None):
    """Return what leads to each node as one, in float64, and each edge's share of it."""
    out, shares = np.zeros(rows.shape), np.zeros(edges.shape[1])
    for i in range(len(rows)):
        into = np.flatnonzero(edges[1] == i)
        if not len(into):
            continue
        near = rows[edges[0, into]]
        if aggr == "max":
            out[i] = near.max(axis=0)
            for winner in near.argmax(axis=0):
                shares[into[winner]] += 1.0 / rows.shape[1]
        else:
            own = np.ones(len(into)) if weight is None else weight[into]
            shares[into] = own / own.sum()
            out[i] = shares[into] @ near
    return out, shares


def agree(got, want, dtype):
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-10}
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, **tolerance)


# ---- truth


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"normalize": True}, {"root_weight": False}, {"project": True}, {"bias": False}],
    ids=lambda options: next(iter(options), "default"),
)
@pytest.mark.parametrize("aggr", ["mean", "max", "weighted"])
def test_sage_against_float64(rng, aggr, options, loops, dtype):
    X, edges = graph(rng, dtype=dtype, loops=loops)  # noqa: N806
    weight = rng.uniform(0.1, 3.0, edges.shape[1]) if aggr == "weighted" else None
    aggr = "mean" if aggr == "weighted" else aggr
    layer = randomised(ab.SAGEConv(DIM, OUT, aggr, **options))
    p = {name: array.astype(np.float64) for name, array in layer.parameters().items()}
    wide = X.astype(np.float64)
    rows = np.maximum(wide @ p["lin.weight"].T + p["lin.bias"], 0.0) if "project" in options else wide
    near, shares = aggregated(rows, edges, aggr, weight)
    want = near @ p["lin_l.weight"].T + p.get("lin_l.bias", 0.0)
    if options.get("root_weight", True):
        want = want + wide @ p["lin_r.weight"].T
    if "normalize" in options:
        want = want / np.linalg.norm(want, axis=1, keepdims=True)
    got = layer.graph_forward(X, edges, edge_weight=weight)
    agree(got.features, want, dtype)
    if aggr == "mean" or "project" not in options or dtype == np.float64:  # float32 has ties of its own
        agree(got.coefficients, shares, dtype)
    np.testing.assert_allclose(np.bincount(edges[1], got.coefficients)[2:].max(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("sizes", [(DIM, OUT), (DIM, 11, OUT), (DIM, 3, 2, OUT)])
def test_gin_against_float64(rng, sizes, loops, dtype):
    X, edges = graph(rng, dtype=dtype, loops=loops)  # noqa: N806
    layer = gin(0.3, sizes)
    p = {name: array.astype(np.float64) for name, array in layer.parameters().items()}
    want = (1.0 + p["eps"]) * X
    np.add.at(want, edges[1], X.astype(np.float64)[edges[0]])
    for number in range(len(sizes) - 1):
        want = want @ p[f"nn.{2 * number}.weight"].T + p[f"nn.{2 * number}.bias"]
        want = np.maximum(want, 0.0) if number < len(sizes) - 2 else want
    got = layer.graph_forward(X, edges)
    np.testing.assert_allclose(got.features, want, rtol=1e-5 if dtype == np.float32 else 1e-10, atol=2e-5)
    assert got.features.dtype == got.coefficients.dtype == dtype
    assert (got.coefficients == 1.0).all()


def test_max_by_hand():
    """Columns are won by edge 1, by edge 0 (the first of equals), by edge 0; edge 2 brings nothing."""
    layer = ab.SAGEConv(3, 3, "max", root_weight=False, bias=False)
    layer.set_parameters({"lin_l.weight": np.eye(3)})
    X = [[1.0, 7.0, -1.0], [2.0, 7.0, -2.0], [0.0, 0.0, -3.0], [9.0, 9.0, 9.0]]  # noqa: N806
    got = layer.graph_forward(X, [[0, 1, 2], [3, 3, 3]])
    assert got.features.tolist() == [[0.0] * 3] * 3 + [[2.0, 7.0, -1.0]]
    np.testing.assert_allclose(got.coefficients, [2 / 3, 1 / 3, 0.0], rtol=1e-6)


def test_extreme_weights_of_edges():
    layer = ab.SAGEConv(1, 1, root_weight=False, bias=False)
    layer.set_parameters({"lin_l.weight": [[1.0]]})
    for weight in ([1e300, 3e300], [1e-300, 3e-300], [1.7e308, 1.7e308]):
        got = layer.graph_forward([[0.0], [4.0], [0.0]], [[0, 1], [2, 2]], edge_weight=np.array(weight))
        np.testing.assert_allclose(
            got.coefficients, np.array(weight) / max(weight) / sum(np.divide(weight, max(weight)))
        )


def test_zero_output_is_not_normalised_to_nan():
    layer = ab.SAGEConv(2, 2, normalize=True, bias=False)
    assert layer.graph_forward(np.zeros((2, 2)), EDGES).features.tolist() == [[0.0, 0.0], [0.0, 0.0]]


# ---- PyTorch Geometric


def state(conv):
    return {name: tensor.detach().numpy() for name, tensor in conv.state_dict().items()}


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"root_weight": False, "bias": False}, {"project": True}])
@pytest.mark.parametrize("aggr", ["mean", "max"])
def test_sage_equals_pyg(rng, aggr, options, loops):
    torch = pytest.importorskip("torch")
    conv = pytest.importorskip("torch_geometric.nn").SAGEConv(DIM, OUT, aggr, **options)
    X, edges = graph(rng, loops=loops)  # noqa: N806
    layer = ab.SAGEConv(DIM, OUT, aggr, **options)
    layer.set_parameters(state(conv))
    want = conv(torch.from_numpy(X), torch.from_numpy(edges)).detach().numpy()
    np.testing.assert_allclose(layer.graph_forward(X, edges).features, want, rtol=0, atol=1e-5)
    want = conv(torch.from_numpy(X), torch.empty((2, 0), dtype=torch.int64)).detach().numpy()
    np.testing.assert_allclose(layer.graph_forward(X, [[], []]).features, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("train_eps", [False, True])
def test_gin_equals_pyg(rng, train_eps, loops):
    torch = pytest.importorskip("torch")
    pyg = pytest.importorskip("torch_geometric.nn")
    network = torch.nn.Sequential(torch.nn.Linear(DIM, 11), torch.nn.ReLU(), torch.nn.Linear(11, OUT))
    conv = pyg.GINConv(network, eps=0.25, train_eps=train_eps)
    X, edges = graph(rng, loops=loops)  # noqa: N806
    layer = ab.GINConv(ab.MLP([DIM, 11, OUT]))
    layer.set_parameters(state(conv))
    want = conv(torch.from_numpy(X), torch.from_numpy(edges)).detach().numpy()
    np.testing.assert_allclose(layer.graph_forward(X, edges).features, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("aggr", ["sum", "mean", "max"])
def test_hetero_equals_pyg(rng, aggr):
    """Against PyG's own HeteroConv, and a loop over its layers; type "c" has no edges."""
    torch = pytest.importorskip("torch")
    pyg = pytest.importorskip("torch_geometric.nn")
    X, edges = graph(rng)  # noqa: N806
    types = np.array(["a", "b", "d"])[rng.integers(0, 3, edges.shape[1])]
    network = torch.nn.Sequential(torch.nn.Linear(DIM, OUT))
    convs = {
        "a": pyg.SAGEConv(DIM, OUT),
        "b": pyg.SAGEConv(DIM, OUT, "max"),
        "c": pyg.SAGEConv(DIM, OUT),
        "d": pyg.GINConv(network, eps=0.5),
    }
    own = {
        "a": ab.SAGEConv(DIM, OUT),
        "b": ab.SAGEConv(DIM, OUT, "max"),
        "c": ab.SAGEConv(DIM, OUT),
        "d": ab.GINConv(ab.MLP([DIM, OUT])),
    }
    layer = ab.HeteroConv(own, aggr)
    layer.set_parameters({f"convs.{kind}.{name}": a for kind, conv in convs.items() for name, a in state(conv).items()})
    got = layer.graph_forward(X, edges, edge_type=types)
    x, parts = torch.from_numpy(X), {kind: torch.from_numpy(edges[:, types == kind]) for kind in convs}
    each = torch.stack([conv(x, parts[kind]) for kind, conv in convs.items()])
    want = each.sum(0) if aggr == "sum" else each.mean(0) if aggr == "mean" else each.max(0).values
    np.testing.assert_allclose(got.features, want.detach().numpy(), rtol=0, atol=1e-5)
    hetero = pyg.HeteroConv({("n", kind, "n"): conv for kind, conv in convs.items()}, aggr=aggr)
    theirs = hetero({"n": x}, {("n", kind, "n"): part for kind, part in parts.items()})["n"]
    np.testing.assert_allclose(got.features, theirs.detach().numpy(), rtol=0, atol=1e-5)


def test_hetero_of_heads_equals_pyg(rng):
    """GAT and GATv2, one with features of edges, of two heads each."""
    torch = pytest.importorskip("torch")
    pyg = pytest.importorskip("torch_geometric.nn")
    X, edges = graph(rng)  # noqa: N806
    types = rng.integers(0, 2, edges.shape[1])
    attr = rng.standard_normal((edges.shape[1], 3)).astype(np.float32)
    convs = [
        pyg.GATConv(DIM, 4, heads=2, add_self_loops=False),
        pyg.GATv2Conv(DIM, 4, heads=2, add_self_loops=False, edge_dim=3),
    ]
    layer = ab.HeteroConv(
        {
            0: ab.GATConv(DIM, 4, heads=2, add_self_loops=False),
            1: ab.GATv2Conv(DIM, 4, heads=2, add_self_loops=False, edge_dim=3),
        }
    )
    layer.set_parameters({f"convs.{i}.{name}": a for i, conv in enumerate(convs) for name, a in state(conv).items()})
    got = layer.graph_forward(X, edges, attr, edge_type=types)
    x, want, coefficients = torch.from_numpy(X), 0.0, np.empty((edges.shape[1], 2), np.float32)
    for kind, conv in enumerate(convs):
        part = torch.from_numpy(edges[:, types == kind])
        given = torch.from_numpy(attr[types == kind]) if kind else None
        features, (_, alpha) = conv(x, part, given, return_attention_weights=True)
        want = want + features.detach().numpy()
        coefficients[types == kind] = alpha.detach().numpy()
    np.testing.assert_allclose(got.features, want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.coefficients, coefficients, rtol=0, atol=1e-5)


# ---- layers by type


def test_hetero_equals_its_layers(rng):
    """Features are the layers' sum, coefficients those of the own type's layer, for any hashable types."""
    X, edges = graph(rng, dtype=np.float64)  # noqa: N806
    kinds = [("a", 1), None, 3]
    types = [kinds[i] for i in rng.integers(0, 3, edges.shape[1])]
    layers = {
        kinds[0]: ab.GraphAttention(DIM, OUT, edge_dim=2),
        kinds[1]: randomised(ab.SAGEConv(DIM, OUT)),
        kinds[2]: randomised(ab.SAGEConv(DIM, OUT), 4),
    }
    attr, weight = rng.standard_normal((edges.shape[1], 2)), rng.uniform(0.5, 2.0, edges.shape[1])
    for aggr in ("sum", "mean", "max"):
        layer = ab.HeteroConv(layers, aggr)
        got = layer.graph_forward(X, edges, attr, edge_weight=weight, edge_type=types)
        features, coefficients = [], np.zeros(edges.shape[1])
        for kind, one in layers.items():
            own = np.array([other == kind for other in types])
            given = attr[own] if kind == kinds[0] else None
            output = one.graph_forward(X, edges[:, own], given, edge_weight=weight[own])
            features.append(output.features)
            coefficients[own] = output.coefficients
        want = {"sum": np.sum, "mean": np.mean, "max": np.max}[aggr](features, axis=0)
        np.testing.assert_allclose(got.features, want, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(got.coefficients, coefficients, rtol=1e-10)
        for node in range(len(X)):
            near = layer.forward_neighborhood(node, X, edges, attr, edge_weight=weight, edge_type=types)
            np.testing.assert_allclose(near.features, got.features[node], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(near.coefficients, got.coefficients[edges[1] == node], rtol=1e-10)


def test_hetero_without_any_edges_of_a_type():
    """Root weight 2 and bias 1 of the one, and the mean of the other's single edge."""
    lonely, busy = ab.SAGEConv(1, 1), ab.SAGEConv(1, 1, root_weight=False, bias=False)
    lonely.set_parameters({"lin_l.weight": [[5.0]], "lin_l.bias": [1.0], "lin_r.weight": [[2.0]]})
    busy.set_parameters({"lin_l.weight": [[1.0]]})
    layer = ab.HeteroConv({"lonely": lonely, "busy": busy})
    got = layer.graph_forward([[1.0], [10.0]], [[0], [1]], edge_type=["busy"])
    assert got.features.tolist() == [[3.0], [22.0]]
    assert layer.graph_forward([[1.0]], [[], []], edge_type=[]).features.tolist() == [[3.0]]


@pytest.mark.parametrize("turned", [False, True])
def test_hetero_of_one_head_and_of_none(turned):
    X, edges = np.eye(3, dtype=np.float32), [[0, 1, 2, 1], [1, 2, 0, 0]]  # noqa: N806
    heads, none = ab.GATConv(3, 4, add_self_loops=False), ab.SAGEConv(3, 4)
    convs = {"h": heads, "n": none}
    layer = ab.HeteroConv(dict(reversed(convs.items())) if turned else convs)
    features, coefficients = layer.graph_forward(X, edges, edge_type=["h", "n", "n", "h"])
    of_heads = heads.graph_forward(X, [[0, 1], [1, 0]])
    of_none = none.graph_forward(X, [[1, 2], [2, 0]])
    assert coefficients.shape == (4, 1)
    assert coefficients[[0, 3]].tolist() == of_heads.coefficients.tolist()
    assert coefficients[[1, 2], 0].tolist() == of_none.coefficients.tolist()
    np.testing.assert_allclose(features, of_heads.features + of_none.features, rtol=1e-6)


OPPOSITE = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layer",
    [
        ab.SAGEConv(2, 4),
        ab.SAGEConv(2, 4, "max"),
        ab.SAGEConv(2, 4, project=True),
        ab.GATConv(2, 4),
        ab.GATv2Conv(2, 4, residual=True),
        ab.GINConv(ab.MLP([2, 4])),
        ab.HeteroConv({"a": ab.SAGEConv(2, 4), "b": ab.GATConv(2, 4, add_self_loops=False)}),
    ],
)
def test_features_beyond_range_are_an_error_without_warnings(layer, dtype):
    X = (0.9 * np.finfo(dtype).max * OPPOSITE).astype(dtype)  # noqa: N806
    names = layer.parameters()
    layer.set_parameters({name: np.full(array.shape, 3.0) * np.sign(array + 0.01) for name, array in names.items()})
    kinds = ["a", "a", "b", "b"] if layer.needs_edge_type else None
    with pytest.raises(ab.NumericalInstabilityError, match=f"must be within {np.dtype(dtype)}.*rescale X"):
        layer.graph_forward(X, [[0, 1, 2, 0], [1, 0, 1, 2]], edge_type=kinds)


@pytest.mark.parametrize("size", [1e300, 1.0, 1e-300])
def test_normalised_outputs_of_any_size(size):
    layer = ab.SAGEConv(2, 2, normalize=True, root_weight=False, bias=False)
    layer.set_parameters({"lin_l.weight": np.eye(2)})
    got = layer.graph_forward(size * np.array([[3.0, 4.0]]), [[0], [0]]).features
    np.testing.assert_allclose(got, [[0.6, 0.8]] if size > 1e-12 else size / 1e-12 * np.array([[3.0, 4.0]]), rtol=1e-12)


def test_hetero_parameters():
    layer = ab.HeteroConv({"a": ab.SAGEConv(1, 1, bias=False), "a.b": ab.SAGEConv(1, 1, bias=False)})
    names = ["convs.a.lin_l.weight", "convs.a.lin_r.weight", "convs.a.b.lin_l.weight", "convs.a.b.lin_r.weight"]
    before = layer.parameters()
    assert list(before) == names
    layer.set_parameters({name: [[float(i)]] for i, name in enumerate(names)})
    assert [array.item() for array in layer.parameters().values()] == [0.0, 1.0, 2.0, 3.0]
    bad = {name: [[9.0]] for name in names} | {names[3]: [[np.nan]]}
    with pytest.raises(ab.InvalidInputError, match="must be finite"):
        layer.set_parameters(bad)
    assert [array.item() for array in layer.parameters().values()] == [0.0, 1.0, 2.0, 3.0]


# ---- properties

LAYERS = {
    "mean": lambda: randomised(ab.SAGEConv(DIM, OUT, normalize=True)),
    "max": lambda: randomised(ab.SAGEConv(DIM, OUT, "max")),
    "project": lambda: randomised(ab.SAGEConv(DIM, OUT, "max", project=True)),
    "gin": gin,
    "hetero": lambda: ab.HeteroConv({0: gin(), 1: randomised(ab.SAGEConv(DIM, OUT))}, "mean"),
}


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 8))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.standard_normal((n, DIM)), np.array(pairs, np.int64).reshape(-1, 2).T, rng


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=15, deadline=None)
@given(drawn=graphs())
def test_properties(name, drawn):
    """Relabelled nodes, edges in another order, one node alone, all give the same; shares sum to 1."""
    X, edges, rng = drawn  # noqa: N806
    n, m = len(X), edges.shape[1]
    layer, close = LAYERS[name](), {"rtol": 1e-9, "atol": 1e-10}
    types = rng.integers(0, 2, m) if name == "hetero" else None
    features, coefficients = layer.graph_forward(X, edges, edge_type=types)

    labels, order = rng.permutation(n), np.argsort(edges[1], kind="stable")  # the order within a node decides ties
    renamed = np.empty_like(X)
    renamed[labels] = X
    again = layer.graph_forward(renamed, labels[edges[:, order]], edge_type=None if types is None else types[order])
    np.testing.assert_allclose(again.features[labels], features, **close)
    np.testing.assert_allclose(again.coefficients, coefficients[order], **close)

    if name in ("mean", "max", "project"):
        sums = np.bincount(edges[1], coefficients, n)
        np.testing.assert_allclose(sums, np.bincount(edges[1], minlength=n) > 0, atol=1e-12)
    for node in range(n):
        one = layer.forward_neighborhood(node, X, edges, edge_type=types)
        into = np.flatnonzero(edges[1] == node)
        assert one.nodes.tolist() == edges[0, into].tolist()
        np.testing.assert_allclose(one.features, features[node], **close)
        np.testing.assert_allclose(one.coefficients, coefficients[into], **close)
    if types is None:
        simple = np.unique(edges, axis=1)
        csr = nx.to_scipy_sparse_array(nx.DiGraph(simple.T.tolist()), nodelist=None) if simple.size else None
        if csr is not None and csr.shape == (n, n):
            seats = list(nx.DiGraph(simple.T.tolist()))
            listed = layer.sparse_forward(X[seats], csr)
            np.testing.assert_allclose(listed.features, layer.graph_forward(X, simple).features[seats], **close)
        hop, near = layer.forward_k_hop(0, X, simple, 1), layer.forward_neighborhood(0, X, simple)
        assert sorted(hop.nodes.tolist()) == sorted(near.nodes.tolist())
        np.testing.assert_allclose(hop.features, near.features, **close)


# ---- parameters and settings


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (
            ab.SAGEConv(3, 2, project=True),
            {
                "lin.weight": (3, 3),
                "lin.bias": (3,),
                "lin_l.weight": (2, 3),
                "lin_l.bias": (2,),
                "lin_r.weight": (2, 3),
            },
        ),
        (ab.SAGEConv(3, 2, root_weight=False, bias=False), {"lin_l.weight": (2, 3)}),
        (ab.GINConv(ab.MLP([3, 5, 2], bias=False)), {"eps": (1,), "nn.0.weight": (5, 3), "nn.2.weight": (2, 5)}),
        (ab.MLP([3, 2]), {"0.weight": (2, 3), "0.bias": (2,)}),
    ],
    ids=["sage", "sage-least", "gin", "mlp"],
)
def test_parameters(layer, shapes):
    held = layer.parameters()
    assert {name: array.shape for name, array in held.items()} == shapes
    assert all(array.dtype == np.float32 for array in held.values())
    again = type(layer)(**layer.config)
    for name, array in again.parameters().items():
        np.testing.assert_array_equal(array, held[name])
        array += 1.0  # a copy
    assert again.parameters().keys() == held.keys()
    np.testing.assert_array_equal(again.parameters()[name], held[name])
    assert type(layer).__name__ in repr(layer)


def test_initial_parameters():
    held = ab.SAGEConv(30, 50, seed=5).parameters()
    bound = (6 / 80) ** 0.5
    for name in ("lin_l.weight", "lin_r.weight"):
        assert 0.95 * bound < np.abs(held[name]).max() <= bound
    assert (held["lin_l.bias"] == 0.0).all()
    assert (ab.SAGEConv(30, 50, seed=6).parameters()["lin_l.weight"] != held["lin_l.weight"]).all()


def test_gin_copies_its_network():
    network = randomised(ab.MLP([2, 2]))
    layer = ab.GINConv(network, 0.5)
    np.testing.assert_array_equal(layer.parameters()["nn.0.weight"], network.parameters()["0.weight"])
    assert layer.parameters()["eps"].tolist() == [0.5]
    before = layer.graph_forward(np.eye(2), EDGES).features
    randomised(network, 9)
    assert layer.graph_forward(np.eye(2), EDGES).features.tolist() == before.tolist()


# ---- refusals

SAGE, GIN = ab.SAGEConv(3, 2), ab.GINConv(ab.MLP([3, 2]))
TYPED = ab.HeteroConv({"a": SAGE, "b": ab.SAGEConv(3, 2, "max")})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ab.SAGEConv(3, 2, "sum"), ab.InvalidConfigError, "aggr must be one of max, mean; got 'sum'"),
        (lambda: ab.SAGEConv(0, 2), ab.InvalidConfigError, "in_channels must be a whole number >= 1"),
        (lambda: ab.SAGEConv(3, 2, seed=-1), ab.InvalidConfigError, "seed must be a whole number >= 0"),
        (lambda: ab.SAGEConv(3, 2, normalize=1), ab.InvalidConfigError, "normalize must be True or False"),
        (lambda: SAGE.graph_forward(X3, EDGES, [[1.0]]), ab.InvalidConfigError, "edge_attr must be left out with SAGE"),
        (lambda: SAGE.graph_forward(X3, EDGES, edge_type=["a"]), ab.InvalidConfigError, "edge_type must be left out"),
        (
            lambda: ab.SAGEConv(3, 2, "max").graph_forward(X3, EDGES, edge_weight=[1.0]),
            ab.InvalidConfigError,
            "edge_weight must be left out with aggr='max'",
        ),
        (
            lambda: SAGE.graph_forward(X3[:, :2], EDGES),
            ab.DimensionMismatchError,
            "X must have in_channels = 3 columns, got 2",
        ),
        (
            lambda: ab.SAGEConv(3, 2).set_parameters({"lin_l.weight": np.ones((2, 3))}),
            ab.InvalidConfigError,
            "missing lin_l.bias, lin_r.weight, unknown none",
        ),
        (
            lambda: SAGE.set_parameters(SAGE.parameters() | {"lin_l.bias": [1.0]}),
            ab.DimensionMismatchError,
            r"parameters\['lin_l.bias'\] must be \(2,\), got shape \(1,\)",
        ),
        (lambda: SAGE.set_parameters(np.ones(3)), ab.InvalidConfigError, "parameters must be a dict of arrays by name"),
        (
            lambda: randomised(ab.SAGEConv(3, 2)).graph_forward(3e38 * np.ones((3, 3), np.float32), EDGES),
            ab.NumericalInstabilityError,
            "features must be within float32; rescale X, or the parameters",
        ),
        (lambda: ab.GINConv(lambda x: x), ab.InvalidConfigError, r"nn must be an MLP, as MLP\(\[16, 32, 8\]\)"),
        (lambda: ab.GINConv(ab.MLP([3, 2]), np.nan), ab.InvalidConfigError, "eps must be a finite number"),
        (lambda: GIN.graph_forward(X3, EDGES, [[1.0]]), ab.InvalidConfigError, "edge_attr must be left out with GIN"),
        (
            lambda: GIN.graph_forward(X3, EDGES, edge_weight=[1.0]),
            ab.InvalidConfigError,
            "edge_weight must be left out with GINConv",
        ),
        (lambda: GIN.graph_forward(X3, EDGES, edge_type=["a"]), ab.InvalidConfigError, "edge_type must be left out"),
        (
            lambda: GIN.graph_forward(X3[:, :2], EDGES),
            ab.DimensionMismatchError,
            r"X must have nn.sizes\[0\] = 3 columns, got 2",
        ),
        (lambda: ab.MLP([3]), ab.InvalidConfigError, r"sizes must be dimensions .* two at least, got \[3\]"),
        (lambda: ab.MLP("34"), ab.InvalidConfigError, "sizes must be dimensions"),
        (lambda: ab.MLP([3, 0]), ab.InvalidConfigError, r"sizes\[1\] must be a whole number >= 1"),
        (lambda: ab.MLP([3, 2])(np.ones((1, 4))), ab.DimensionMismatchError, "X must have dimension 3, got 4"),
        (lambda: ab.MLP([1, 1])([[np.inf]]), ab.InvalidInputError, "X must be finite"),
        (lambda: ab.HeteroConv({}), ab.InvalidConfigError, "convs must be a mapping of at least one type"),
        (lambda: ab.HeteroConv([SAGE]), ab.InvalidConfigError, "convs must be a mapping of at least one type"),
        (lambda: ab.HeteroConv({"a": SAGE}, "cat"), ab.InvalidConfigError, "aggr must be one of max, mean, sum"),
        (lambda: ab.HeteroConv({"a": 3}), ab.InvalidConfigError, r"convs\['a'\] must be a layer or an attention"),
        (lambda: ab.HeteroConv({"a": TYPED}), ab.InvalidConfigError, r"convs\['a'\] must be a layer or an attention"),
        (lambda: ab.HeteroConv({1: SAGE, "1": SAGE}), ab.InvalidConfigError, "convs must have types that read differ"),
        (
            lambda: TYPED.graph_forward(X3, EDGES),
            ab.InvalidInputError,
            "edge_type must be given, of each edge one of 'a', 'b'",
        ),
        (
            lambda: TYPED.graph_forward(X3, [[0, 1], [1, 1]], edge_type=["a", "c"]),
            ab.GraphStructureError,
            "edge_type must be one of 'a', 'b', of edge 1 it is 'c'",
        ),
        (
            lambda: TYPED.graph_forward(X3, EDGES, edge_type=[["a"]]),
            ab.GraphStructureError,
            r"of edge 0 it is \['a'\]",
        ),
        (
            lambda: TYPED.graph_forward(X3, EDGES, edge_type=["a", "b"]),
            ab.DimensionMismatchError,
            "edge_type must have an entry for each of 1 edges, got 2",
        ),
        (lambda: TYPED.graph_forward(X3, EDGES, edge_type="a"), ab.InvalidInputError, "edge_type must be a sequence"),
        (lambda: TYPED.graph_forward(X3, EDGES, edge_type=5), ab.InvalidInputError, "edge_type must be a sequence"),
        (lambda: TYPED.forward_k_hop(0, X3, EDGES), ab.InvalidInputError, "edge_type must be given"),
        (
            lambda: TYPED.graph_forward(X3, EDGES, [[1.0]], edge_type=["a"]),
            ab.InvalidConfigError,
            "edge_attr must be left out with HeteroConv, .* none of its layers has an edge_dim",
        ),
        (
            lambda: TYPED.graph_forward(X3, EDGES, edge_weight=[1.0], edge_type=["a"]),
            ab.InvalidConfigError,
            "edge_weight must be left out with aggr='max'",
        ),
        (
            lambda: ab.HeteroConv({"a": SAGE, "b": ab.SAGEConv(3, 4)}).graph_forward(X3, EDGES, edge_type=["a"]),
            ab.DimensionMismatchError,
            r"convs must give features of one dimension, .* got 'a': \(2,\), 'b': \(4,\)",
        ),
        (
            lambda: ab.HeteroConv({"a": SAGE, "b": ab.GATConv(3, 2)}),
            ab.InvalidConfigError,
            r"convs\['b'\] must have add_self_loops=False: give loops as edges of a type of their own",
        ),
        (
            lambda: ab.HeteroConv({"a": SAGE, "b": ab.GATConv(3, 1, 2, add_self_loops=False)}).graph_forward(
                X3, EDGES, edge_type=["a"]
            ),
            ab.DimensionMismatchError,
            r"convs must give coefficients of as many heads, .* got 'a': \(\), 'b': \(2,\)",
        ),
        (
            lambda: TYPED.set_parameters({"lin_l.weight": [[1.0]]}),
            ab.InvalidConfigError,
            "parameters must begin with convs.a., convs.b.; got 'lin_l.weight'",
        ),
        (
            lambda: ab.HeteroConv({"a": ab.ScaledDotProductAttention()}).set_parameters({"convs.a.W": [[1.0]]}),
            ab.InvalidConfigError,
            r"parameters must have none of convs.a.\*",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
