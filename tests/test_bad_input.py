"""Every message of the bridge's edge: it names the parameter, the rule, what was got and the remedy."""

import numpy as np
import pytest

import attnbridge as ab

Bridge = ab.AttentionVectorBridge


@pytest.fixture
def small():
    bridge = Bridge(dim=3)
    bridge.add(np.eye(3), ids=["a", "b", "c"], tokens=[np.eye(4)[:2], np.eye(4)[1:], None])
    return bridge


@pytest.mark.parametrize(
    ("error", "message", "query", "options"),
    [
        (ab.DimensionMismatchError, "query must have dimension 3, got 4", np.ones(4), {}),
        (ab.DimensionMismatchError, "query must not be empty", [], {}),
        (ab.DimensionMismatchError, r"query must be one vector \(d,\), got shape \(1, 3\)", np.ones((1, 3)), {}),
        (ab.DimensionMismatchError, r"got shape \(\)", np.float32(3), {}),
        (ab.InvalidInputError, "query must be finite: position 1 is nan", [1, np.nan, 0], {}),
        (ab.InvalidInputError, "query must be finite: position 2 is inf", [1, 0, np.inf], {}),
        (ab.InvalidInputError, "query must fit float32", [1e300, 0, 0], {}),
        (ab.InvalidInputError, "query must be real numbers, got dtype <U1", ["a", "b", "c"], {}),
        (ab.InvalidInputError, "query must be real numbers, got dtype complex", [1j, 0, 0], {}),
        (ab.InvalidInputError, "query must be real numbers, got dtype bool", [True, False, True], {}),
        (ab.InvalidInputError, "query must not hold zero vectors under metric='cosine'", [0, 0, 0], {}),
        (ab.InvalidInputError, "either a query or id=, neither given", None, {}),
        (ab.InvalidInputError, "either a query or id=, both given", [1, 0, 0], {"id": "a"}),
        (ab.InvalidInputError, r"id must be one str or int, got \['a', 'b'\]", None, {"id": ["a", "b"]}),
        (ab.InvalidInputError, "id must be one str or int, got True", None, {"id": True}),
        (ab.UnknownIdError, "id 'z' is not in the index, which holds 3 rows with str ids", None, {"id": "z"}),
        (ab.UnknownIdError, "id 0 is not in the index", None, {"id": 0}),
        (ab.InvalidConfigError, "k must be a whole number >= 1, got 0", [1, 0, 0], {"k": 0}),
        (ab.InvalidConfigError, "k must be a whole number >= 1, got -5", [1, 0, 0], {"k": -5}),
        (ab.InvalidConfigError, r"k must be a whole number >= 1, got 2\.0", [1, 0, 0], {"k": 2.0}),
        (ab.InvalidConfigError, "k must be a whole number >= 1, got True", [1, 0, 0], {"k": True}),
        (ab.InvalidConfigError, "candidates must be a whole number >= 1, got 0", [1, 0, 0], {"candidates": 0}),
        (ab.InvalidConfigError, "offset must be a whole number >= 0, got -1", [1, 0, 0], {"offset": -1}),
        (ab.InvalidConfigError, "threshold must be a finite number, got nan", [1, 0, 0], {"threshold": np.nan}),
        (ab.InvalidConfigError, "threshold must be a finite number, got 'x'", [1, 0, 0], {"threshold": "x"}),
        (ab.InvalidMaskError, "one entry for each of 3 rows, got 2", [1, 0, 0], {"filter": [True, False]}),
        (ab.InvalidMaskError, "one entry for each of 3 rows, got 0", [1, 0, 0], {"filter": np.array([], bool)}),
        (ab.InvalidMaskError, r"boolean mask \(3,\), got bool \(1, 3\)", [1, 0, 0], {"filter": np.ones((1, 3), bool)}),
        (ab.InvalidMaskError, "mask or a list of ids: .*position 0 is 0.5", [1, 0, 0], {"filter": [0.5]}),
        (ab.InvalidMaskError, "mask or a list of ids: .*position 1 is None", [1, 0, 0], {"filter": ["a", None]}),
        (ab.InvalidMaskError, "mask or a list of ids: .*got float", [1, 0, 0], {"filter": 0.5}),
        (
            ab.InvalidConfigError,
            "query_tokens are read by no stage; add rerank=",
            [1, 0, 0],
            {"query_tokens": np.eye(4)},
        ),
        (
            ab.InvalidConfigError,
            "rerank must be stages such as .*got None",
            [1, 0, 0],
            {"rerank": [None]},
        ),
        (ab.InvalidConfigError, "rerank must be stages.*class", [1, 0, 0], {"rerank": [ab.QueryExpansion]}),
        (ab.InvalidConfigError, "rerank must be stages.*class", [1, 0, 0], {"rerank": ab.QueryExpansion}),
        (ab.InvalidConfigError, "rerank must be stages.*got 5", [1, 0, 0], {"rerank": 5}),
        (ab.InvalidConfigError, "rerank must be stages.*got None", [1, 0, 0], {"rerank": None}),
        (
            ab.InvalidInputError,
            r"late_interaction needs the query's tokens; pass query_tokens=array \(m, 4\)",
            [1, 0, 0],
            {"rerank": ab.LateInteraction()},
        ),
    ],
)
def test_bad_search(small, error, message, query, options):
    with pytest.raises(error, match=message):
        small.search(query, **options)
    assert len(small.search([1, 0, 0])) == 3  # no lock is left held
    small.add([[1.0, 1.0, 1.0]], ids=["d"])


@pytest.mark.parametrize(
    ("error", "message", "tokens", "weights"),
    [
        (ab.DimensionMismatchError, "stored tokens' dimension 4, got 5", np.eye(5), None),
        (ab.InvalidInputError, "query_tokens must hold at least one token, got none", np.empty((0, 4)), None),
        (
            ab.InvalidInputError,
            "query_tokens must be finite: row 1, column 2 is nan",
            [[1, 2, 3, 4], [1, 2, np.nan, 4]],
            None,
        ),
        (ab.DimensionMismatchError, r"query_tokens must be rows \(n, d\), got shape \(4,\)", np.ones(4), None),
        (
            ab.DimensionMismatchError,
            r"one entry for each of 2 query tokens, got shape \(3,\)",
            np.eye(4)[:2],
            [1, 2, 3],
        ),
        (ab.DimensionMismatchError, r"got shape \(\)", np.eye(4)[:2], 5.0),
        (ab.InvalidInputError, "query_token_weights must be >= 0 with a positive sum", np.eye(4)[:2], [1, -1]),
        (ab.InvalidInputError, "query_token_weights must be >= 0 with a positive sum", np.eye(4)[:2], [0, 0]),
        (ab.InvalidInputError, "query_token_weights must be finite: position 1 is nan", np.eye(4)[:2], [1, np.nan]),
        (ab.InvalidInputError, "query_token_weights must be real numbers", np.eye(4)[:2], ["a", "b"]),
    ],
)
def test_bad_query_tokens(small, error, message, tokens, weights):
    with pytest.raises(error, match=message):
        small.search([1, 0, 0], query_tokens=tokens, query_token_weights=weights, rerank=ab.LateInteraction())


def test_bad_batches(small):
    late = ab.LateInteraction()
    queries = np.eye(3)
    with pytest.raises(ab.InvalidInputError, match="query_tokens must have one array for each of 3 queries, got 2"):
        small.search_batch(queries, query_tokens=[np.eye(4)] * 2, rerank=late)
    with pytest.raises(ab.InvalidInputError, match="query_token_weights must have one array for each of 3 queries"):
        small.search_batch(queries, query_tokens=[np.eye(4)] * 3, query_token_weights=[None], rerank=late)
    for bad in (5, "abc", (t for t in queries)):
        with pytest.raises(ab.InvalidInputError, match="query_tokens must be a list of arrays, got"):
            small.search_batch(queries, query_tokens=bad, rerank=late)
    with pytest.raises(ab.DimensionMismatchError, match="queries must have dimension 3, got 2"):
        small.search_batch(np.eye(2))
    with pytest.raises(ab.DimensionMismatchError, match=r"queries must be rows \(n, d\), got shape \(3,\)"):
        small.search_batch(np.ones(3))
    with pytest.raises(ab.InvalidInputError, match="queries must be finite: row 1, column 0 is inf"):
        small.search_batch([[1, 2, 3], [np.inf, 0, 0]])
    with pytest.raises(ab.InvalidInputError, match="rows of one length: row 0 has 3 values, row 1 has 2"):
        small.search_batch([[1, 2, 3], [1, 2]])
    with pytest.raises(ab.InvalidConfigError, match="threads must be a whole number >= 1, got 0"):
        small.search_batch(queries, threads=0)
    hits = small.search_batch(queries, query_tokens=np.stack([np.eye(4)] * 3), rerank=late)  # one 3-d array
    assert [len(h) for h in hits] == [3, 3, 3]


@pytest.mark.parametrize(
    ("error", "message", "vectors", "options"),
    [
        (ab.DimensionMismatchError, "vectors must have dimension 3, got 2", np.eye(2), {}),
        (ab.DimensionMismatchError, r"vectors must be rows \(n, d\), got shape \(3,\)", np.ones(3), {}),
        (ab.DimensionMismatchError, r"got shape \(\)", 5, {}),
        (ab.DimensionMismatchError, r"got shape \(1, 1, 3\)", np.ones((1, 1, 3)), {}),
        (ab.DimensionMismatchError, "vectors must have dimension 3, got 0", np.empty((2, 0)), {}),
        (
            ab.InvalidInputError,
            "vectors must be finite: row 1, column 2 is nan; drop it",
            [[1, 2, 3], [1, 2, np.nan]],
            {},
        ),
        (ab.InvalidInputError, "vectors must be finite: row 0, column 0 is -inf", [[-np.inf, 2, 3]], {}),
        (ab.InvalidInputError, "vectors must fit float32 .*row 1 does not", [[1, 2, 3], [1e39, 2, 3]], {}),
        (
            ab.InvalidInputError,
            "one length: row 0 has 3 values, row 2 has 2; pad or drop it",
            [[1, 2, 3], [1, 2, 3], [1, 2]],
            {},
        ),
        (ab.InvalidInputError, "vectors must be real numbers, got dtype", [["a", "b", "c"]], {}),
        (ab.InvalidInputError, "vectors must be real numbers, got dtype datetime64", np.zeros((1, 3), "M8[s]"), {}),
        (
            ab.InvalidInputError,
            "zero vectors under metric='cosine': row 1 has norm 0; drop it",
            [[1, 2, 3], [0, 0, 0]],
            {},
        ),
        (ab.InvalidInputError, "row 0 has norm 1e-35", [[1e-35, 0, 0]], {}),
        (
            ab.DimensionMismatchError,
            "ids must have one entry for each of 2 vectors, got 1",
            np.ones((2, 3)),
            {"ids": ["x"]},
        ),
        (
            ab.DimensionMismatchError,
            "ids must have one entry for each of 2 vectors, got 1",
            np.ones((2, 3)),
            {"ids": "xy"},
        ),
        (ab.DimensionMismatchError, "got 1", np.ones((2, 3)), {"ids": np.array("xy")}),
        (ab.InvalidInputError, "ids must be given: this bridge holds str ids", np.ones((2, 3)), {}),
        (
            ab.InvalidInputError,
            r"ids must be str or int: position 1 is 2\.5 \(float\)",
            np.ones((2, 3)),
            {"ids": ["x", 2.5]},
        ),
        (ab.InvalidInputError, r"position 0 is None \(NoneType\); convert it", np.ones((1, 3)), {"ids": [None]}),
        (ab.InvalidInputError, r"position 0 is True \(bool\)", np.ones((1, 3)), {"ids": [True]}),
        (ab.InvalidInputError, r"position 0 is True \(bool\)", np.ones((1, 3)), {"ids": np.array([True])}),
        (ab.InvalidInputError, r"position 0 is \('x',\) \(tuple\)", np.ones((1, 3)), {"ids": [("x",)]}),
        (ab.InvalidInputError, "ids must be a list of str or int, got bytes", np.ones((2, 3)), {"ids": b"xy"}),
        (ab.InvalidInputError, "ids must be a list of str or int, got object", np.ones((1, 3)), {"ids": object()}),
        (ab.InvalidInputError, "all str or all int: position 0 is 5 after str ids", np.ones((1, 3)), {"ids": [5]}),
        (ab.InvalidInputError, "all str or all int: position 1 is 5 after str", np.ones((2, 3)), {"ids": ["x", 5]}),
        (
            ab.InvalidInputError,
            "ids must fit 64 bits: position 0 is 9223372036854775808",
            np.ones((1, 3)),
            {"ids": [2**63]},
        ),
        (
            ab.InvalidInputError,
            "tokens must be a list of arrays .*got str",
            np.ones((1, 3)),
            {"ids": ["x"], "tokens": "t"},
        ),
        (
            ab.InvalidInputError,
            "tokens must be a list of arrays .*got int",
            np.ones((1, 3)),
            {"ids": ["x"], "tokens": 5},
        ),
        (
            ab.DimensionMismatchError,
            "tokens must have one array for each of 1 vectors, got 2",
            np.ones((1, 3)),
            {"ids": ["x"], "tokens": [np.eye(4)] * 2},
        ),
        (
            ab.DimensionMismatchError,
            r"tokens must have one dimension: tokens\[0\] has 5, those before have 4",
            np.ones((1, 3)),
            {"ids": ["x"], "tokens": [np.eye(5)]},
        ),
        (
            ab.DimensionMismatchError,
            r"tokens\[0\] must be rows",
            np.ones((1, 3)),
            {"ids": ["x"], "tokens": [np.ones(4)]},
        ),
        (
            ab.InvalidInputError,
            r"tokens\[1\] must be finite: row 0, column 1 is nan",
            np.ones((2, 3)),
            {"ids": ["x", "y"], "tokens": [None, [[1, np.nan, 3, 4]]]},
        ),
        (
            ab.InvalidInputError,
            r"tokens must fit float16 \(up to 65504\): tokens\[0\] does not",
            np.ones((1, 3)),
            {"ids": ["x"], "tokens": [[[1, 2, 3, 70000.0]]]},
        ),
    ],
)
def test_bad_add_changes_nothing(small, error, message, vectors, options):
    if "ids" not in options and "ids must be given" not in message:
        options = {"ids": [f"new{i}" for i in range(len(np.atleast_1d(np.array(vectors, dtype=object))))]}
    with pytest.raises(error, match=message):
        small.add(vectors, **options)
    assert small.ids() == ["a", "b", "c"]
    assert small.get(["a", "b", "c"]).tolist() == np.eye(3).tolist()
    assert len(small.search([1, 1, 1], k=10)) == 3
    assert small.add([[1.0, 1.0, 1.0]], ids=["d"]) == ["d"]


def test_the_first_tokens_must_agree_among_themselves():
    bridge = Bridge(dim=2)
    with pytest.raises(ab.DimensionMismatchError, match=r"tokens\[2\] has 5, those before have 4"):
        bridge.add(np.ones((3, 2)), tokens=[None, np.eye(4), np.eye(5)])
    assert len(bridge) == 0
    bridge.add(np.ones((1, 2)), tokens=[np.eye(5)])
    with pytest.raises(ab.InvalidInputError, match="this bridge has none; give them to add") as error:
        Bridge(dim=2).search([1, 0], query_tokens=np.eye(5), rerank=ab.LateInteraction())
    assert "late_interaction needs stored tokens" in str(error.value)
    with pytest.raises(
        ab.InvalidInputError, match=r"this bridge stores no tokens; give them to add\(vectors, ids, tok"
    ):
        Bridge(dim=2).get_tokens([0])


@pytest.mark.parametrize("method", ["get", "delete", "get_tokens"])
def test_unknown_ids_are_named(small, method):
    with pytest.raises(ab.UnknownIdError, match=r"^id 'z' is not in the index, which holds 3 rows with str ids$"):
        getattr(small, method)(["a", "z"])
    with pytest.raises(KeyError, match="id 1 is not"):
        getattr(small, method)(1)
    with pytest.raises(ab.InvalidInputError, match="position 0 is None"):
        getattr(small, method)([None])
    with pytest.raises(ab.UnknownIdError, match="holds 0 rows with no ids"):
        getattr(Bridge(dim=3), "get" if method == "get_tokens" else method)(["a"])
    assert len(small) == 3


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("dim must be a whole number >= 1, got 0", {"dim": 0}),
        (r"dim must be a whole number >= 1, got 3\.0", {"dim": 3.0}),
        ("dim must be a whole number >= 1, got '3'", {"dim": "3"}),
        ("metric must be one of cosine, ip, l2, poincare; got 'euclid'", {"metric": "euclid"}),
        (r"metric must be one of cosine, ip, l2, poincare; got \['l2'\]", {"metric": ["l2"]}),
        ("attention type must be one of .*scaled_dot.*; got 'flash9'", {"attention": "flash9"}),
        ("attention type must be one of .*; got None", {"attention": None}),
        ("scaled_dot has no option 'temperature'; its options are: scale", {"temperature": 1.0}),
        ("scale must be a finite number > 0, got 0", {"scale": 0.0}),
        ("scale must be a finite number > 0, got 'x'", {"scale": "x"}),
        ("index must be one of auto, exact, hnsw; got 'faiss'", {"index": "faiss"}),
        ("M must be a whole number >= 2, got 1", {"M": 1}),
        ("M must be at most 10000, got 10001", {"M": 10001}),
        ("ef must be a whole number >= 1, got 0", {"ef": 0}),
        ("ef_construction must be a whole number >= 1, got -1", {"ef_construction": -1}),
        ("seed must be a whole number >= 0, got -1", {"seed": -1}),
        ("seed must fit 63 bits, got 1180591620717411303424", {"seed": 2**70}),
        ("ef must fit 63 bits", {"ef": 2**63}),
        ("threads must be a whole number >= 1, got 0", {"threads": 0}),
        ("threads must be a whole number >= 1, got True", {"threads": True}),
    ],
)
def test_bad_settings(message, options):
    with pytest.raises(ab.InvalidConfigError, match=message):
        Bridge(**{"dim": 3} | options)


def test_every_error_is_an_attention_error_and_a_builtin_one(small):
    with pytest.raises(ValueError, match="dimension"):
        small.search(np.ones(4))
    with pytest.raises(KeyError):
        small.get("z")
    with pytest.raises(ab.AttentionError):
        small.get("z")


class Differentiated:
    """As a torch tensor with requires_grad."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.parametrize("given", [Differentiated(), [Differentiated(), Differentiated()]], ids=["one", "rows"])
def test_a_tensor_that_is_being_differentiated_is_refused(given):
    keys = np.eye(2, dtype=np.float32)
    for call in (lambda: ab.attention(keys, given, keys), lambda: ab.ScaledDotProductAttention().logits(keys, given)):
        with pytest.raises(
            ab.InvalidInputError, match=r"must be .*requires grad.*; pass a tensor on as tensor.detach()"
        ):
            call()


def test_a_tensor_of_torch_that_is_being_differentiated_is_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ab.InvalidInputError, match=r"query must be .*pass a tensor on as tensor.detach\(\).cpu"):
        ab.attention(tensor, np.ones((2, 3)), np.ones((2, 3)))
    assert ab.attention(tensor.detach(), np.ones((2, 3)), np.ones((2, 3))).tolist() == np.ones((2, 3)).tolist()
