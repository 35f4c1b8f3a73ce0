"""Attention types of the user's own, and mechanisms in place of names: the same numbers everywhere."""

import inspect
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import networkx as nx
import numba
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.scoring import REGISTRY, RESERVED, resolve

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 12)).astype(np.float32)
QUERY = (X[7] + 0.2 * RNG.standard_normal(12)).astype(np.float32)


@numba.njit  # type: ignore[untyped-decorator]
def minkowski(query: Any, key: Any, p: float, temperature: float) -> float:
    total = 0.0
    for i in range(len(query)):
        total += abs(query[i] - key[i]) ** p
    return -(total ** (1.0 / p)) / temperature


@pytest.fixture
def named() -> Iterator[str]:
    ab.register_attention("minkowski", minkowski, options={"p": 3.0, "temperature": 1.0})
    yield "minkowski"
    ab.unregister_attention("minkowski")


def truth(p: float = 3.0, temperature: float = 1.0) -> np.ndarray:
    return -((np.abs(X.astype(np.float64) - QUERY) ** p).sum(axis=1) ** (1.0 / p)) / temperature


@pytest.mark.parametrize("options", [{}, {"p": 1.0}, {"p": 2.0, "temperature": 0.5}])
def test_logits_are_the_functions(named: str, options: dict[str, float]) -> None:
    logits = ab.attention_logits(QUERY, X, named, **options)
    np.testing.assert_allclose(logits, truth(**options), rtol=1e-5)
    weights = ab.attention_scores(QUERY, X, named, **options)
    np.testing.assert_allclose(weights, np.exp(logits) / np.exp(logits).sum(), atol=1e-6)
    np.testing.assert_allclose(ab.attention(QUERY, X, X, named, **options), weights @ X, atol=1e-5)
    assert ab.attention_score(QUERY, X[0], named, **options) == logits[0]


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_the_same_ids_and_scores_in_search_sql_and_graph(named: str, index: str) -> None:
    want = np.argsort(-truth(p=1.0), kind="stable")[:10]
    bridge = ab.AttentionVectorBridge(12, "l2", attention=named, p=1.0, index=index)
    bridge.add(X)
    hits = bridge.search(QUERY, k=10, candidates=len(X))
    assert hits.ids == want.tolist()
    with ab.connect(index=bridge) as con:
        con.execute("CREATE TABLE t (id BIGINT, v FLOAT[12])")
        con.executemany("INSERT INTO t VALUES (?, ?)", [(i, row.tolist()) for i, row in enumerate(X)])
        rows = con.execute(
            f"SELECT id, ruvector_attention_score($q, v, '{named}', options := {{p: 1.0}}) AS s FROM t "
            "ORDER BY s DESC, id LIMIT 10",
            {"q": QUERY},
        ).fetchall()
        found = con.execute("SELECT id FROM ruvector_search($q, 10, candidates := 300)", {"q": QUERY}).fetchall()
    assert [row[0] for row in rows] == want.tolist() == [row[0] for row in found]
    assert [row[1] for row in rows] == hits.scores.astype(np.float32).tolist()
    edges = [[0] * (len(X) - 1), list(range(1, len(X)))]
    around = ab.AttentionGraph.from_arrays(edges, X, attention=named, p=1.0).neighborhood(0, query=QUERY)
    assert around.nodes[:10] == want.tolist()
    assert around.scores[:10].tolist() == hits.scores.tolist()


def test_a_plain_function_is_compiled(named: str) -> None:
    ab.register_attention("l1", lambda query, key: -np.abs(query - key).sum())
    try:
        np.testing.assert_allclose(
            ab.attention_logits(QUERY, X, "l1"), ab.attention_logits(QUERY, X, named, p=1.0), rtol=1e-6
        )
        assert {"l1", named} <= {kind["name"] for kind in ab.attention_types()}
    finally:
        ab.unregister_attention("l1")


@pytest.mark.parametrize("compiled", [False, True])
def test_an_index_beyond_the_vectors(compiled: bool) -> None:
    def third(query: Any, key: Any, offset: float) -> float:
        return query[2 + int(offset)] * key[2]

    ab.register_attention("third", numba.njit(third) if compiled else third, options={"offset": 0.0})
    try:
        assert ab.attention_logits([1.0, 2.0, 3.0], [[0.0, 0.0, 2.0]], "third").tolist() == [6.0]
        message = "logit of 'third' must read within query and key, which are 2 long here: .*index.*out of bounds"
        for _ in range(2):
            with pytest.raises(ab.InvalidInputError, match=message):
                ab.attention_logits([1.0, 2.0], [[0.0, 0.0]], "third")
        with pytest.raises(ab.InvalidInputError, match="which are 3 long here"):
            ab.attention_logits([1.0, 2.0, 3.0], [[0.0, 0.0, 2.0]], "third", offset=1.0)
        with pytest.raises(ab.InvalidInputError, match="which are 2 long here"):
            ab.attention_logits(np.ones(2), np.ones((3, 2)), "third")  # float64
        bridge = ab.AttentionVectorBridge(2, "ip", attention="third", index="exact")
        bridge.add([[0.5, 0.5]])
        with pytest.raises(ab.InvalidInputError, match="which are 2 long here"):
            bridge.search([0.5, 0.5], k=1)
    finally:
        ab.unregister_attention("third")


def test_unit_vectors_under_cosine(named: str) -> None:
    bridge = ab.AttentionVectorBridge(12, attention=named, p=2.0, index="exact")
    bridge.add(X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    query = QUERY / np.linalg.norm(QUERY)
    want = -np.linalg.norm(unit - query, axis=1)
    hits = bridge.search(QUERY, k=5)
    assert hits.ids == np.argsort(-want)[:5].tolist()
    np.testing.assert_allclose(hits.scores, np.sort(want)[::-1][:5], atol=1e-6)


def test_saved_under_its_name(named: str, tmp_path: Any) -> None:
    bridge = ab.AttentionVectorBridge(12, "l2", attention=named, p=1.0)
    bridge.add(X)
    bridge.save(tmp_path / "index")
    again = ab.AttentionVectorBridge.open(tmp_path / "index")
    assert again.search(QUERY, k=3).ids == bridge.search(QUERY, k=3).ids
    assert again.config["attention"] == named


def test_opened_where_nobody_has_named_it(tmp_path: Any) -> None:
    ab.register_attention("passing", minkowski, options={"p": 2.0, "temperature": 1.0})
    try:
        bridge = ab.AttentionVectorBridge(12, "l2", attention="passing")
        bridge.add(X)
        bridge.save(tmp_path / "index")
    finally:
        ab.unregister_attention("passing")
    message = (
        r"saved with attention 'passing', which is not known here; call register_attention\('passing', ...\) before"
    )
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.AttentionVectorBridge.open(tmp_path / "index")


MECHANISMS = [
    ab.ScaledDotProductAttention(scale=0.3),
    ab.FlashAttention(128),
    ab.LinearAttention(),
    ab.LinearAttention("favor", num_features=64, seed=3),
    ab.HyperbolicAttention(-0.01, temperature=0.5, values="manifold"),
    ab.MultiHeadAttention(12, 3, seed=4),
    ab.MultiHeadAttention(12, 4, projections=False),
    ab.CrossAttention(12, 3),
    ab.GraphAttention(12, 5, seed=2),
    ab.GraphAttention(temperature=0.3),
    ab.SparseAttention(top_k=20),
    ab.MixtureOfExpertsAttention([("scaled_dot", {"scale": 2.0}), "gat"], d_model=12, top_k=2),
    ab.MixtureOfExpertsAttention([ab.ScaledDotProductAttention(scale=2.0), ab.GraphAttention(12)]),
]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=str)
def test_a_mechanism_is_the_type_with_its_settings(mechanism: ab.Attention) -> None:
    rows = X[:40] * 0.1
    row, options = mechanism.as_type()
    np.testing.assert_array_equal(row.mechanism(options).logits(QUERY, rows), mechanism.logits(QUERY, rows))
    np.testing.assert_array_equal(ab.attention_logits(QUERY, rows, mechanism), mechanism.logits(QUERY, rows))
    assert resolve(row.name, {name: value for name, value in options.items() if value is not None})[0] is row
    bridge = ab.AttentionVectorBridge(12, "poincare" if row.name == "poincare" else "ip", attention=mechanism)
    bridge.add(rows)
    hits = bridge.search(QUERY * 0.1, k=5, candidates=40)
    logits = mechanism.logits(QUERY * 0.1, rows)
    assert hits.ids == np.lexsort((np.arange(40), -logits))[:5].tolist()
    np.testing.assert_allclose(hits.scores, np.sort(logits)[::-1][:5], rtol=1e-5)


@pytest.mark.parametrize("mechanism", [m for m in MECHANISMS if m.as_type()[0].is_pairwise(m.as_type()[1])], ids=str)
def test_a_mechanism_on_edges_and_in_sql(mechanism: ab.Attention) -> None:
    rows, query = X[:20] * 0.1, QUERY * 0.1
    graph = nx.star_graph(19)
    nx.set_node_attributes(graph, dict(enumerate(rows)), "embedding")
    logits = mechanism.logits(query, rows)
    around = ab.AttentionGraph(graph, attention=mechanism).neighborhood(0, query=query)
    want = 1 + np.argsort(-logits[1:], kind="stable")
    assert around.nodes == want.tolist()
    assert around.scores.tolist() == logits[want].tolist()
    name = "of_a_test"
    try:
        with ab.connect(types={name: mechanism}) as con:
            con.execute("CREATE TABLE t (i INT, v FLOAT[12])")
            con.executemany("INSERT INTO t VALUES (?, ?)", [(i, row.tolist()) for i, row in enumerate(rows)])
            sql = f"SELECT ruvector_attention_score($q, v, '{name}') FROM t ORDER BY i"
            scores = [row[0] for row in con.execute(sql, {"q": query}).fetchall()]
    finally:
        ab.unregister_attention(name)
    assert scores == logits.astype(np.float32).tolist()


def test_a_name_for_a_mechanism_takes_other_options() -> None:
    ab.register_attention("sharp", attention=ab.ScaledDotProductAttention(scale=3.0), best_for="few")
    try:
        np.testing.assert_array_equal(ab.attention_logits(QUERY, X, "sharp"), ab.attention_logits(QUERY, X, scale=3.0))
        np.testing.assert_array_equal(
            ab.attention_logits(QUERY, X, "sharp", scale=1.0), ab.attention_logits(QUERY, X, scale=1.0)
        )
        assert next(kind for kind in ab.attention_types() if kind["name"] == "sharp")["best_for"] == "few"
        assert pickle.loads(pickle.dumps(REGISTRY["sharp"])) is REGISTRY["sharp"]
    finally:
        ab.unregister_attention("sharp")


def test_sliding_by_a_column() -> None:
    made = ab.AttentionVectorBridge(12, attention=ab.SlidingWindowAttention(5), position="place", index="exact")
    made.add(X, payload={"place": list(range(len(X)))})
    plain = ab.AttentionVectorBridge(12, attention="sliding", window=5, position="place", index="exact")
    plain.add(X, payload={"place": list(range(len(X)))})
    assert made.search(QUERY, k=20, position=50).ids == plain.search(QUERY, k=20, position=50).ids


def test_a_stage_by_a_mechanism() -> None:
    bridge = ab.AttentionVectorBridge(12)
    bridge.add(X)
    by_object = bridge.search(QUERY, k=5, rerank=ab.AttentionRerank(ab.GraphAttention(12, seed=1)))
    by_row = bridge.search(
        QUERY, k=5, rerank=ab.AttentionRerank("gat", parameters=ab.GraphAttention(12, seed=1).parameters())
    )
    assert by_object.ids == by_row.ids
    assert by_object.scores.tolist() == by_row.scores.tolist()


def test_many_threads_may_register(named: str) -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            ab.register_attention("shared", minkowski, options={"p": 1.0, "temperature": 1.0})
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ab.unregister_attention("shared")
    assert not errors


def writes(query: Any, key: Any) -> float:
    key[0] = 0.0
    return float(key[0])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "scaled_dot",
            {"logit": lambda q, k: 0.0},
            r"name must be one that is not taken, 'scaled_dot' is; take another$",
        ),
        ("mha", {"attention": ab.FlashAttention()}, r"name must be one that is not taken, 'mha' is"),
        ("minkowski", {"attention": ab.FlashAttention()}, r"name must be one that is not taken, 'minkowski' is"),
        ("", {"logit": minkowski}, r"name must be a text of at least one character"),
        ("new", {}, r"logit or attention must be given, one of them; got none"),
        ("new", {"logit": minkowski, "attention": ab.FlashAttention()}, r"one of them; got both"),
        ("new", {"logit": 3}, r"logit must be a function \(query, key\) -> number, got 3"),
        ("new", {"logit": lambda q: 0.0}, r"logit of 'new' must take query, key and its 0 options in their order"),
        ("new", {"logit": minkowski, "options": {"p": 1.0}}, r"must take query, key and its 1 options"),
        ("new", {"logit": lambda q, k: "a"}, r"vectors that it cannot write to, and that returns a number: .*Literal"),
        ("new", {"logit": writes}, r"logit of 'new' must be a function .*[Rr]eadonly array"),
        ("new", {"logit": print}, r"logit must be a function written in Python, got <built-in function print>"),
        (
            "new",
            {"logit": lambda q, k, mask: mask, "options": {"mask": 1.0}},
            r"options must not have the name of an arg",
        ),
        ("new", {"logit": minkowski, "options": ["p"]}, r"options must be defaults by name, .*; got \['p'\]"),
        ("new", {"logit": minkowski, "options": {3: 1.0}}, r"names that Python arguments may have, got 3; rename it"),
        ("new", {"logit": minkowski, "options": {"a b": 1.0}}, r"arguments may have, got 'a b'; rename it"),
        ("new", {"logit": minkowski, "best_for": 3}, r"best_for must be a text of at least one character, got 3"),
        ("new", {"logit": lambda q, k: q.nothing}, r"logit of 'new' must be a function that Numba compiles"),
        ("new", {"logit": lambda q, k, a: 0.0, "options": {"a": "x"}}, r"options\['a'\] must be a finite number"),
        ("new", {"attention": "gat"}, r"attention must be an attention mechanism, got 'gat'; build\(\) makes one"),
        ("new", {"attention": ab.FlashAttention(), "options": {"a": 1}}, r"options must be left out with attention"),
    ],
)
def test_registering_what_cannot_be(named: str, name: str, arguments: dict[str, Any], message: str) -> None:
    before = list(REGISTRY)
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.register_attention(name, **arguments)
    assert list(REGISTRY) == before


def test_unregistering_what_is_not_ones_own(named: str) -> None:
    with pytest.raises(ab.InvalidConfigError, match=r"register_attention was given \(minkowski\), got 'gat'"):
        ab.unregister_attention("gat")


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (ab.ScaledDotProductAttention(causal=True), r"causal must be False where keys have no order, as candidates"),
        (ab.GraphAttention(12, edge_dim=2), r"edge_dim must be None and normalize True .* got edge_dim=2"),
        (ab.GraphAttention(12, normalize=False), r"got edge_dim=None, normalize=False"),
        (
            ab.ScaledDotProductAttention(eps=0.5),
            r"eps must be 0 where candidates are ranked, whose weights sum to 1; got",
        ),
        (ab.LinearAttention(eps=0.5), r"eps must be 0 where candidates are ranked, whose weights sum to 1; got 0.5"),
        (ab.GeometricAttention(ab.SphericalSpace()), r"GeometricAttention ranks as no attention type does"),
    ],
)
def test_mechanisms_that_rank_as_no_type(mechanism: ab.Attention, message: str) -> None:
    with pytest.raises(ab.InvalidConfigError, match=message):
        ab.AttentionVectorBridge(12, attention=mechanism)


def test_a_mixture_with_a_router_of_its_own_ranks_as_no_type() -> None:
    mixture = ab.MixtureOfExpertsAttention(d_model=12)
    mixture.set_parameters({"W_r": np.ones((12, 3)), "b_r": np.zeros(3)})
    with pytest.raises(ab.InvalidConfigError, match=r"parameters must be those drawn from the seed where a mixture"):
        ab.AttentionVectorBridge(12, attention=mixture)


def test_options_beside_a_mechanism() -> None:
    for call in (
        lambda: ab.AttentionVectorBridge(12, attention=ab.FlashAttention(), scale=2.0),
        lambda: ab.attention_logits(QUERY, X, ab.FlashAttention(), scale=2.0),
        lambda: ab.AttentionRerank(ab.FlashAttention(), scale=2.0),
    ):
        with pytest.raises(ab.InvalidConfigError, match=r"scale must be left out with a mechanism, which has its own"):
            call()


def test_another_dimension_than_the_mechanisms() -> None:
    message = r"attention must have d_model = 12 as the vectors have, got 8"
    with pytest.raises(ab.DimensionMismatchError, match=message):
        ab.AttentionVectorBridge(12, attention=ab.ScaledDotProductAttention(d_model=8))
    ag = ab.AttentionGraph.from_arrays([[0], [1]], X[:2], attention=ab.ScaledDotProductAttention(d_model=8))
    with pytest.raises(ab.DimensionMismatchError, match=message):
        ag.neighborhood(0)


def test_a_graphs_layer_is_its_mechanism() -> None:
    edges, mechanism = [[0, 1, 2, 2], [1, 2, 0, 1]], ab.MultiHeadAttention(12, 3, seed=8)
    found = ab.AttentionGraph.from_arrays(edges, X[:4], attention=mechanism).forward()
    want = mechanism.graph_forward(X[:4], edges)
    np.testing.assert_array_equal(found.features, want.features)
    np.testing.assert_array_equal(found.coefficients, want.coefficients)


@pytest.mark.parametrize(
    "make", [lambda eps: ab.ScaledDotProductAttention(eps=eps), lambda eps: ab.MultiHeadAttention(12, 3, eps=eps)]
)
def test_eps_over_a_graph(make: Any) -> None:
    edges, rows = [[0, 1, 2, 2], [1, 2, 0, 1]], X[:4]
    found = make(0.5).graph_forward(rows, edges)
    for node, sources in ((1, [0, 2]), (2, [1]), (0, [2])):
        want = make(0.5).forward(rows[node], rows[sources], rows[sources], need_weights=True)
        np.testing.assert_allclose(found.features[node], want.output, atol=1e-6)
        own = [i for i, (_, target) in enumerate(zip(*edges, strict=True)) if target == node]
        np.testing.assert_allclose(found.coefficients[own], want.weights, atol=1e-6)
    np.testing.assert_array_equal(found.features[3], 0.0)
    assert np.abs(found.features - make(0.0).graph_forward(rows, edges).features).max() > 1e-3


def test_no_places_over_a_graph() -> None:
    attention = ab.ScaledDotProductAttention(rotary=ab.RotaryEmbedding(12))
    with pytest.raises(ab.InvalidConfigError, match=r"rotary must be None over a graph, where nodes have no places"):
        attention.graph_forward(X[:2], [[0], [1]])


def test_options_have_no_name_of_an_argument() -> None:
    calls = (
        ab.AttentionVectorBridge,
        ab.AttentionVectorBridge.from_hnswlib,
        ab.AttentionVectorBridge.from_duckdb,
        ab.AttentionVectorBridge.from_parquet,
        ab.AttentionGraph,
        ab.AttentionGraph.from_arrays,
        ab.AttentionGraph.from_bridge,
        ab.AttentionRerank,
        ab.attention,
        ab.attention_logits,
        ab.attention_score,
        ab.attention_scores,
    )
    names = {name for call in calls for name in inspect.signature(call).parameters if name != "options"}
    assert names - RESERVED == set()


def test_a_logit_that_is_no_number() -> None:
    ab.register_attention("strange", lambda query, key: np.log(key[0]))
    try:
        rows = np.array([[1.0, 1.0], [-1.0, 2.0]], np.float32)
        bridge = ab.AttentionVectorBridge(2, "l2", attention="strange", index="exact")
        bridge.add(rows)
        for call in (
            lambda: bridge.search([1.0, 1.0], k=1),
            lambda: bridge.search_batch([[1.0, 1.0]], k=1),
            lambda: ab.attention_logits(rows[0], rows, "strange"),
        ):
            with pytest.raises(ab.InvalidInputError, match=r"logit of 'strange' must be finite .*, got nan"):
                call()
    finally:
        ab.unregister_attention("strange")


def test_a_logit_of_vectors_of_one_dimension() -> None:
    matrix = RNG.standard_normal((12, 12)).astype(np.float32)
    ab.register_attention("bilinear", lambda query, key: np.dot(query, np.dot(matrix, key)))
    try:
        want = X.astype(np.float64) @ (matrix.T.astype(np.float64) @ QUERY)
        np.testing.assert_allclose(ab.attention_logits(QUERY, X, "bilinear"), want, rtol=1e-4, atol=1e-3)
    finally:
        ab.unregister_attention("bilinear")


def test_types_for_sql_are_named_all_or_none() -> None:
    with pytest.raises(ab.InvalidConfigError, match=r"name must be one that is not taken, 'gat' is"):
        ab.connect(types={"one_of_two": ab.FlashAttention(), "gat": ab.FlashAttention()})
    assert "one_of_two" not in REGISTRY
    with pytest.raises(ab.InvalidConfigError, match=r"types must be a dict of mechanisms by name, got list"):
        ab.connect(types=[ab.FlashAttention()])  # type: ignore[arg-type]


def test_a_row_that_is_not_named_any_more() -> None:
    ab.register_attention("gone", minkowski, options={"p": 2.0, "temperature": 1.0})
    data = pickle.dumps(REGISTRY["gone"])
    ab.unregister_attention("gone")
    with pytest.raises(ab.InvalidConfigError, match=r"got 'gone'; register_attention names one of your own"):
        pickle.loads(data)


def test_a_mechanism_of_equal_settings_keeps_its_name() -> None:
    made = ab.multi_head(16, 4).build
    try:
        for _ in range(2):
            ab.connect(types={"four_heads": made()}).close()
        others = {"four_heads": made()}
        others["four_heads"].set_parameters(2.0 * made().get_parameters())
        for types in (others, {"four_heads": ab.multi_head(16, 2).build()}, {"four_heads": ab.FlashAttention()}):
            with pytest.raises(ab.InvalidConfigError, match="name must be one that is not taken, 'four_heads' is"):
                ab.connect(types=types)
    finally:
        ab.unregister_attention("four_heads")


def test_what_a_logit_raises() -> None:
    with pytest.raises(ab.InvalidConfigError, match=r"logit of 'texts' must be a function that Numba compiles"):
        ab.register_attention("texts", lambda query, key: float(str(query[0])))

    def refuses(query, key):
        if key[0] == 0.0:
            raise ValueError("zero")
        return key[0]

    ab.register_attention("refuses", refuses)
    try:
        for keys in ([[0.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]]):  # at the first pair, and later
            with pytest.raises(ab.InvalidInputError, match=r"'refuses' must give a number .* ValueError\('zero'"):
                ab.attention_logits([1.0, 1.0], keys, "refuses")
    finally:
        ab.unregister_attention("refuses")
