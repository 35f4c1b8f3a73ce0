"""GATConv and GATv2Conv: against dense float64 formulas, PyTorch Geometric, and what must hold of any graph."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge import errors
from attnbridge.graph_edges import by_target

LAYERS = (ab.GATConv, ab.GATv2Conv)
FILLS = ("mean", "add", "min", "max", "mul", 0.7, (0.5, -1.0, 2.0))
# Loops, one of them twice; parallel edges; node 4 with no edges, node 0 with none but its loop, node 5 with no edge in.
GRAPH = np.array([[0, 1, 2, 2, 3, 3, 3, 1, 5, 2], [0, 2, 1, 1, 2, 3, 3, 3, 1, 3]])


def trained(layer, seed=0):
    """Return the layer with random parameters, biases among them; both sides alike where they share weights."""
    rng = np.random.default_rng(seed)
    held = {name: rng.standard_normal(array.shape).astype(np.float32) for name, array in layer.parameters().items()}
    if getattr(layer, "share_weights", False):
        held |= {name.replace("lin_l", "lin_r"): held[name] for name in held if name.startswith("lin_l")}
    layer.set_parameters(held)
    return layer


def with_loops(layer, edges, attr, nodes):
    """Return the list of edges (source, target, features, number) after loops are added, edge by edge."""
    many = edges.shape[1]
    listed = [(s, t, None if attr is None else attr[e].astype(float), e) for e, (s, t) in enumerate(edges.T.tolist())]
    if not layer.add_self_loops:
        return listed
    listed = [edge for edge in listed if edge[0] != edge[1]]
    loops = []
    for i in range(nodes):
        into = [feature for _, t, feature, _ in listed if t == i]
        feature = None
        if attr is not None and isinstance(layer.fill_value, str):
            reduce = {"mean": np.mean, "add": np.sum, "min": np.min, "max": np.max, "mul": np.prod}[layer.fill_value]
            nothing = np.full(attr.shape[1], float(layer.fill_value == "mul"))
            feature = reduce(np.array(into), axis=0) if into else nothing
        elif attr is not None:
            feature = np.full(attr.shape[1], layer.fill_value)
        loops.append((i, i, feature, many + i))
    return listed + loops


def dense(layer, X, edges, attr=None, weight=None):  # noqa: N803
    """Return features and coefficients in float64 by the papers' formulas, one edge and head after the other."""
    held = {name: array.astype(np.float64) for name, array in layer.parameters().items()}
    edges, heads, width = np.asarray(edges), layer.heads, layer.out_channels
    X = np.asarray(X, np.float64)  # noqa: N806
    listed = with_loops(layer, edges, attr, len(X))
    rows = edges.shape[1] + (len(X) if layer.add_self_loops else 0)
    coefficients, output = np.zeros((rows, heads)), np.zeros((len(X), heads, width))
    zero = np.zeros(heads * width)
    if isinstance(layer, ab.GATConv):
        left = right = X @ held["lin.weight"].T
    else:
        left = X @ held["lin_l.weight"].T + held.get("lin_l.bias", zero)
        right = X @ held["lin_r.weight"].T + held.get("lin_r.bias", zero)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(X)):
            into = [edge for edge in listed if edge[1] == i]
            logits = []
            for s, _, feature, number in into:
                along = zero[part] if feature is None else (held["lin_edge.weight"] @ feature)[part]
                if isinstance(layer, ab.GATConv):
                    x = held["att_src"][0, h] @ left[s, part] + held["att_dst"][0, h] @ right[i, part]
                    x += held["att_edge"][0, h] @ along if feature is not None else 0.0
                    x = x if x > 0 else layer.negative_slope * x
                else:
                    hidden = left[s, part] + right[i, part] + along
                    x = held["att"][0, h] @ np.where(hidden > 0, hidden, layer.negative_slope * hidden)
                if weight is not None and number < len(weight):
                    x += np.log(weight[number])
                logits.append(x)
            shares = np.exp(np.array(logits) - max(logits)) if into else np.empty(0)
            for share, (s, _, _, number) in zip(shares / shares.sum(), into, strict=True):
                coefficients[number, h] = share
                output[i, h] += share * left[s, part]
    features = output.reshape(len(X), -1) if layer.concat else output.mean(axis=1)
    if layer.residual:
        features = features + X @ held["res.weight"].T
    return features + held.get("bias", 0.0), coefficients


def near(got, want, tolerance=1e-5):
    for mine, truth in zip(got, want, strict=True):
        assert mine.shape == truth.shape
        np.testing.assert_allclose(mine, truth, rtol=tolerance, atol=tolerance)


def inputs(seed=0, nodes=6, edges=GRAPH, dim=5, edge_dim=3, dtype=np.float32):
    rng = np.random.default_rng(seed)
    attr = rng.standard_normal((edges.shape[1], edge_dim)).astype(dtype)
    return rng.standard_normal((nodes, dim)).astype(dtype), edges, attr, 0.1 + rng.random(edges.shape[1])


# ---- by hand and against the dense formulas


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("heads", [1, 2, 8, 11])
@pytest.mark.parametrize("width", [1, 3, 8, 37])
def test_layers_follow_their_formulas(kind, heads, width, dtype):
    X, edges, attr, weight = inputs(dtype=dtype)  # noqa: N806
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for options in ({}, {"add_self_loops": False, "residual": True}, {"concat": False, "bias": False}):
        plain, featured = (
            trained(kind(5, width, heads, **options)),
            trained(kind(5, width, heads, edge_dim=3, **options)),
        )
        for weights in (None, weight):
            got = plain.graph_forward(X, edges, edge_weight=weights)
            assert got.features.dtype == got.coefficients.dtype == dtype
            near(got, dense(plain, X, edges, weight=weights), tolerance)
            got = featured.forward_with_edges(X, edges, attr, edge_weight=weights)
            near(got, dense(featured, X, edges, attr, weights), tolerance)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("fill", FILLS, ids=str)
def test_added_loops_have_the_features_asked_for(kind, fill):
    X, edges, attr, _ = inputs()  # noqa: N806
    layer = trained(kind(5, 4, 3, edge_dim=3, fill_value=fill))
    near(layer.graph_forward(X, edges, attr), dense(layer, X, edges, attr))


@pytest.mark.parametrize("kind", LAYERS)
def test_one_node_and_no_edges(kind):
    X = np.array([[1.0, -2.0]], np.float32)  # noqa: N806
    none = np.empty((2, 0), np.int64)
    bare = trained(kind(2, 3, 2, add_self_loops=False))
    got = bare.graph_forward(X, none)
    assert got.coefficients.shape == (0, 2)
    assert got.features[0].tolist() == bare.parameters()["bias"].tolist()
    looped = trained(kind(2, 3, 2))
    for edges in (none, [[0], [0]]):
        got = looped.graph_forward(X, edges)
        assert got.coefficients[-1].tolist() == [1.0, 1.0]
        assert (got.coefficients[:-1] == 0.0).all()
        near(got, dense(looped, X, np.asarray(edges)))
    featured = trained(kind(2, 3, 2, edge_dim=2))
    near(featured.graph_forward(X, none, np.empty((0, 2))), dense(featured, X, none, np.empty((0, 2))))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("width", "heads"), [(3, 2), (8, 8)])
def test_ten_thousand_edges_to_one_node(kind, width, heads):
    rng = np.random.default_rng(0)
    X = (1.0 + 0.1 * rng.standard_normal((10_001, 4))).astype(np.float32)  # noqa: N806
    edges = np.stack([np.arange(1, 10_001), np.zeros(10_000, np.int64)])
    layer = kind(4, width, heads, add_self_loops=False)
    got = layer.graph_forward(X, edges)
    want = layer.graph_forward(X.astype(np.float64), edges)
    near(got, want, 1e-6)
    np.testing.assert_allclose(got.coefficients, want.coefficients, rtol=1e-5)
    assert got.coefficients.astype(np.float64).sum(axis=0) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("size", [30.0, 1e4, 1e20, 1e35])
def test_large_inputs_are_done_in_float64(kind, size):
    """Logits far beyond what float32 holds to 1e-5, and beyond float32."""
    X, edges, attr, _ = inputs()  # noqa: N806
    X, attr = X * np.float32(size), attr * np.float32(size)  # noqa: N806
    layer = trained(kind(5, 2, 2, edge_dim=3))
    got, want = layer.graph_forward(X, edges, attr), dense(layer, X, edges, attr)
    np.testing.assert_allclose(got.features, want[0], rtol=1e-6, atol=1e-6 * size)
    np.testing.assert_allclose(got.coefficients, want[1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_output_beyond_its_precision_is_an_error(kind):
    layer = kind(2, 2)
    layer.set_parameters({name: np.full_like(array, 3.0) for name, array in layer.parameters().items()})
    with pytest.raises(errors.NumericalInstabilityError, match=r"within float32 \(3.4e\+38\).*rescale X"):
        layer.graph_forward(np.full((2, 2), 2e38, np.float32), [[0], [1]])
    with pytest.raises(errors.NumericalInstabilityError, match=r"within float64 \(1.8e\+308\).*rescale X"):
        layer.graph_forward(np.full((2, 2), 1e308), [[0], [1]])


@pytest.mark.parametrize("kind", LAYERS)
def test_extreme_weights_of_edges(kind):
    X, edges, _, _ = inputs()  # noqa: N806
    weight = np.geomspace(1e-300, 1e300, edges.shape[1])
    layer = trained(kind(5, 2, 2))
    near(layer.graph_forward(X, edges, edge_weight=weight), dense(layer, X, edges, weight=weight))


# ---- what holds of any graph


graphs = st.integers(1, 9).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30))
)


@given(graphs, st.booleans(), st.integers(1, 10), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_properties_of_random_graphs(graph, loops, heads, seed):
    """Coefficients sum to 1 over a node's edges; nodes and edges in another order give the same in that order."""
    nodes, pairs = graph
    edges, rng = np.array(pairs, np.int64).reshape(-1, 2).T, np.random.default_rng(seed)
    X = rng.standard_normal((nodes, 3)).astype(np.float32)  # noqa: N806
    attr, weight = rng.standard_normal((edges.shape[1], 2)).astype(np.float32), 0.5 + rng.random(edges.shape[1])
    order, turn = rng.permutation(nodes), rng.permutation(edges.shape[1])
    for kind in LAYERS:
        layer = trained(kind(3, 2, heads, add_self_loops=loops, edge_dim=2), seed)
        got = layer.graph_forward(X, edges, attr, edge_weight=weight)
        ends = np.concatenate([edges[1], np.arange(nodes) if loops else []]).astype(np.int64)
        sums = np.zeros((nodes, heads))
        np.add.at(sums, ends, got.coefficients)
        reached = np.isin(np.arange(nodes), ends)
        np.testing.assert_allclose(sums[reached], 1.0, rtol=1e-6)
        assert (got.coefficients >= 0.0).all()
        assert (got.features[~reached] == layer.parameters()["bias"]).all()
        near(got, dense(layer, X, edges, attr, weight))
        named = np.argsort(order)  # node i is now named[i]
        relabelled = layer.graph_forward(X[order], named[edges], attr, edge_weight=weight)
        near(relabelled, (got.features[order], _moved(got.coefficients, len(turn), np.arange(len(turn)), order)), 1e-6)
        turned = layer.graph_forward(X, edges[:, turn], attr[turn], edge_weight=weight[turn])
        near(turned, (got.features, _moved(got.coefficients, len(turn), turn, np.arange(nodes))), 1e-6)


def _moved(coefficients, edges, turn, order):
    """Return coefficients of edges in another order, and of the loops of nodes in another."""
    loops = coefficients[edges:]
    return np.concatenate([coefficients[:edges][turn], loops[order] if len(loops) else loops])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("loops", [False, True])
def test_a_node_alone_and_among_all_others(kind, loops):
    X, edges, attr, weight = inputs()  # noqa: N806
    layer = trained(kind(5, 3, 2, add_self_loops=loops, edge_dim=3, fill_value="mean"))
    whole = layer.graph_forward(X, edges, attr, edge_weight=weight)
    for node in range(len(X)):
        alone = layer.forward_neighborhood(node, X, edges, attr, edge_weight=weight)
        np.testing.assert_allclose(alone.features, whole.features[node], rtol=1e-5, atol=1e-6)
        into = np.flatnonzero(edges[1] == node)
        rows = np.append(into, edges.shape[1] + node) if loops else into
        np.testing.assert_allclose(alone.coefficients, whole.coefficients[rows], rtol=1e-5, atol=1e-7)
        assert alone.nodes.tolist() == [*edges[0, into].tolist(), *([node] if loops else [])]


def test_k_hop_is_attention_over_all_nodes_so_near():
    X, edges, _, _ = inputs()  # noqa: N806
    layer = trained(ab.GATConv(5, 3, 2))
    got = layer.forward_k_hop(3, X, edges, 2)
    assert got.nodes[:-1].tolist()[:3] == [1, 2, 3]
    star = np.stack([got.nodes[:-1], np.full(len(got.nodes) - 1, 3)])
    np.testing.assert_allclose(got.features, dense(layer, X, star)[0][3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_sparse_matrices_and_other_layouts_give_the_same_bits(kind):
    X, _, _, _ = inputs()  # noqa: N806
    matrix = sp.random_array((6, 6), density=0.5, rng=np.random.default_rng(1), format="csr")
    edges = np.stack(matrix.nonzero())
    layer = trained(kind(5, 3, 2))
    want = layer.graph_forward(X, edges)
    read_only = edges.copy()
    read_only.flags.writeable = False
    forms = [layer.sparse_forward(X, matrix)]
    forms += [layer.graph_forward(X, form) for form in (edges.tolist(), edges.astype(np.int32), read_only)]
    forms.append(layer.graph_forward(np.asfortranarray(X), np.asfortranarray(edges)))
    for got in forms:
        assert got.features.tobytes() == want.features.tobytes()
        assert got.coefficients.tobytes() == want.coefficients.tobytes()


@pytest.mark.parametrize("kind", LAYERS)
def test_threads_do_not_show(kind, monkeypatch):
    rng = np.random.default_rng(0)
    X, edges = rng.standard_normal((3_000, 8)).astype(np.float32), rng.integers(0, 3_000, (2, 60_000))  # noqa: N806
    layer = kind(8, 16, 8)
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("ATTNBRIDGE_NUM_THREADS", threads)
        results.append(layer.graph_forward(X, edges))
    assert results[0].features.tobytes() == results[1].features.tobytes()
    assert results[0].coefficients.tobytes() == results[1].coefficients.tobytes()


def test_grouping_is_stable():
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 50, (2, 2_000))
    edges = by_target(source, target, 53)
    order = np.argsort(target, kind="stable")
    assert edges.numbers.tolist() == order.tolist()
    assert edges.sources.tolist() == source[order].tolist()
    assert np.diff(edges.indptr).tolist() == np.bincount(target, minlength=53).tolist()


# ---- parameters, settings, errors


@pytest.mark.parametrize("kind", LAYERS)
def test_parameters_are_copies_and_initial_ones_are_seeded(kind):
    layer = kind(7, 3, 2, edge_dim=2, residual=True, seed=5)
    held = layer.parameters()
    for name, array in held.items():
        bound = (6.0 / (array.shape[-2] + array.shape[-1])) ** 0.5 if array.ndim > 1 else 0.0
        assert (np.abs(array) <= bound).all(), name
        assert array.ndim == 1 or np.abs(array).max() > 0.5 * bound, name
    again, other = kind(7, 3, 2, edge_dim=2, residual=True, seed=5), kind(7, 3, 2, edge_dim=2, residual=True)
    assert all((again.parameters()[name] == held[name]).all() for name in held)
    assert any((other.parameters()[name] != held[name]).any() for name in held)
    X, edges = np.ones((2, 7)), [[0], [1]]  # noqa: N806
    before = layer.graph_forward(X, edges, [[1.0, 2.0]])
    held["res.weight"][:] = 9.0
    assert (layer.parameters()["res.weight"] != 9.0).all()
    layer.set_parameters(held)
    held["res.weight"][:] = 0.0
    assert (layer.parameters()["res.weight"] == 9.0).all()
    assert (layer.graph_forward(X, edges, [[1.0, 2.0]]).features != before.features).all()


def test_settings_make_the_layer_again():
    layer = ab.GATv2Conv(4, 3, heads=2, edge_dim=2, fill_value=[1.0, 2.0], share_weights=True, residual=True)
    assert ab.GATv2Conv(**layer.config).config == layer.config
    assert repr(layer) == (
        "GATv2Conv(in_channels=4, out_channels=3, heads=2, concat=True, negative_slope=0.2, add_self_loops=True, "
        "edge_dim=2, fill_value=(1.0, 2.0), bias=True, share_weights=True, residual=True, seed=0)"
    )
    assert ab.GATConv(**ab.GATConv(2, 1).config).config == ab.GATConv(2, 1).config
    shared = layer.parameters()
    assert (shared["lin_l.weight"] == shared["lin_r.weight"]).all()


X2, E2 = np.ones((2, 2), np.float32), [[0], [1]]
CONFIG, INPUT, SHAPE = errors.InvalidConfigError, errors.InvalidInputError, errors.DimensionMismatchError


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda kind: kind(0, 1), CONFIG, "in_channels must be a whole number >= 1, got 0"),
        (lambda kind: kind(1, 1.5), CONFIG, "out_channels must be a whole number >= 1, got 1.5"),
        (lambda kind: kind(1, 1, 0), CONFIG, "heads must be a whole number >= 1, got 0"),
        (lambda kind: kind(1, 1, concat=1), CONFIG, "concat must be True or False, got 1"),
        (lambda kind: kind(1, 1, negative_slope=2), CONFIG, "negative_slope must be a finite number >= 0, at most 1"),
        (lambda kind: kind(1, 1, add_self_loops="no"), CONFIG, "add_self_loops must be True or False"),
        (lambda kind: kind(1, 1, edge_dim=0), CONFIG, "edge_dim must be a whole number >= 1"),
        (lambda kind: kind(1, 1, edge_dim=2, fill_value="sum"), CONFIG, "fill_value must be .*one of add, max, mean"),
        (lambda kind: kind(1, 1, edge_dim=2, fill_value=np.nan), CONFIG, "fill_value must be a finite number"),
        (lambda kind: kind(1, 1, edge_dim=2, fill_value=[1.0]), SHAPE, "fill_value must have dimension 2, got 1"),
        (lambda kind: kind(1, 1, fill_value="max"), CONFIG, "fill_value must be left out, got 'max'.*takes edge_dim"),
        (
            lambda kind: kind(1, 1, edge_dim=1, add_self_loops=False, fill_value=1.0),
            CONFIG,
            "fill_value must be left out, got 1.0.*add_self_loops=True",
        ),
        (lambda kind: kind(1, 1, bias=None), CONFIG, "bias must be True or False"),
        (lambda kind: kind(1, 1, residual=0), CONFIG, "residual must be True or False"),
        (lambda kind: kind(1, 1, seed=-1), CONFIG, "seed must be a whole number >= 0"),
        (
            lambda kind: kind(2, 1).graph_forward(X2, E2, [[1.0]]),
            CONFIG,
            "edge_attr must be left out .*give .*edge_dim",
        ),
        (lambda kind: kind(2, 1, edge_dim=1).graph_forward(X2, E2), INPUT, "edge_attr must be given to .* edge_dim=1"),
        (
            lambda kind: kind(2, 1, edge_dim=1).graph_forward(X2, E2, [[1.0, 2.0]]),
            SHAPE,
            "edge_attr must have edge_dim = 1 columns, got 2",
        ),
        (
            lambda kind: kind(2, 1, edge_dim=1).graph_forward(X2, E2, [[1.0], [2.0]]),
            SHAPE,
            "edge_attr must have a row for each of 1 edges, got 2",
        ),
        (lambda kind: kind(2, 1).graph_forward(X2, E2, edge_type=["a"]), CONFIG, "edge_type must be left out .*Hetero"),
        (lambda kind: kind(3, 1).graph_forward(X2, E2), SHAPE, "X must have in_channels = 3 columns, got 2"),
        (lambda kind: kind(2, 1).graph_forward(X2, E2, edge_weight=[0.0]), INPUT, "edge_weight must be > 0"),
        (
            lambda kind: kind(2, 1).graph_forward(X2, [[0], [2]]),
            errors.GraphStructureError,
            r"edge_index must be between nodes 0 to 1, edge 0 is \(0, 2\)",
        ),
        (
            lambda kind: kind(2, 1).graph_forward(X2, [[0, -1], [1, 1]]),
            errors.GraphStructureError,
            r"edge 1 is \(-1, 1\)",
        ),
        (lambda kind: kind(2, 1).set_parameters(np.ones(3)), CONFIG, "parameters must be a dict .*got ndarray"),
        (lambda kind: kind(2, 1).set_parameters({"W": 1}), CONFIG, "parameters must be att.*missing att.*unknown W"),
        (
            lambda kind: kind(2, 1).set_parameters(kind(3, 1).parameters()),
            SHAPE,
            r"parameters\['lin.*weight'\] must be \(1, 2\), got shape \(1, 3\)",
        ),
        (
            lambda kind: kind(2, 1).set_parameters(kind(2, 1).parameters() | {"bias": [np.inf]}),
            INPUT,
            r"parameters\['bias'\] must be finite",
        ),
    ],
)
@pytest.mark.parametrize("kind", LAYERS)
def test_errors(kind, call, error, message):
    with pytest.raises(error, match=message):
        call(kind)


def test_shared_weights_must_be_alike():
    layer = ab.GATv2Conv(2, 1, share_weights=True)
    for name in ("weight", "bias"):
        held = layer.parameters()
        held[f"lin_r.{name}"] += 1.0
        with pytest.raises(CONFIG, match=rf"parameters\['lin_r.{name}'\] must equal .*share_weights=False"):
            layer.set_parameters(held)
    with pytest.raises(CONFIG, match="share_weights must be True or False"):
        ab.GATv2Conv(2, 1, share_weights=2)


# ---- PyTorch Geometric


def beside_pyg(kind, X, edges, attr, **options):  # noqa: N803
    """Return what we and PyTorch Geometric make of a graph with the same parameters, added loops behind."""
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("torch_geometric.nn")
    theirs, ours = getattr(nn, kind.__name__), kind(X.shape[1], 3, 4, **options)
    if isinstance(options.get("fill_value"), tuple):
        options = options | {"fill_value": torch.tensor(options["fill_value"])}
    torch.manual_seed(0)
    conv = theirs(X.shape[1], 3, 4, **options).eval()
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape))
        ours.set_parameters({name: tensor.numpy() for name, tensor in conv.state_dict().items()})
        passed = None if attr is None else torch.from_numpy(attr)
        index = torch.from_numpy(np.ascontiguousarray(edges))
        features, (_, shares) = conv(torch.from_numpy(X), index, passed, return_attention_weights=True)
    got = ours.graph_forward(X, edges, attr)
    kept = got.coefficients
    if ours.add_self_loops:
        left = np.concatenate([edges[0] != edges[1], np.ones(len(X), np.bool_)])
        assert (kept[~left] == 0.0).all()
        kept = kept[left]
    return (got.features, kept), (features.numpy(), shares.numpy())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("featured", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("rest", [{}, {"bias": False}, {"residual": True}, {"negative_slope": 0.5}], ids=str)
def test_equals_pyg(kind, loops, featured, concat, rest):
    """Loops given and parallel edges among them, nodes without edges too."""
    X, edges, attr, _ = inputs()  # noqa: N806
    many = np.random.default_rng(1).integers(0, 40, (2, 300))
    wide = np.random.default_rng(2).standard_normal((50, 5)).astype(np.float32)
    attrs = np.random.default_rng(3).standard_normal((300, 3)).astype(np.float32)
    options = {"add_self_loops": loops, "concat": concat} | rest | ({"edge_dim": 3} if featured else {})
    for rows, index, features in ((X, edges, attr), (wide, many, attrs)):
        near(*beside_pyg(kind, rows, index, features if featured else None, **options))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("fill", FILLS, ids=str)
def test_added_loops_equal_those_of_pyg(kind, fill):
    X, edges, attr, _ = inputs()  # noqa: N806
    near(*beside_pyg(kind, X, edges, attr, edge_dim=3, fill_value=fill))


def test_shared_weights_equal_pyg():
    X, edges, attr, _ = inputs()  # noqa: N806
    for options in ({}, {"bias": False}, {"edge_dim": 3}):
        passed = attr if "edge_dim" in options else None
        near(*beside_pyg(ab.GATv2Conv, X, edges, passed, share_weights=True, **options))


@pytest.mark.parametrize("kind", LAYERS)
def test_ten_thousand_edges_to_one_node_equal_pyg(kind):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2_000, 16)).astype(np.float32)  # noqa: N806
    edges = rng.integers(0, 2_000, (2, 12_000))
    edges[1, :10_000] = 7
    near(*beside_pyg(kind, X, edges, None))
