"""Arguments of the SQL functions: every kind that is taken, NULLs, and every refusal with the Python API's message."""

import math

import duckdb
import numpy as np
import pytest
from sql_truth import create, each_score, fetch, same

import attnbridge as ab

MAX32 = float(np.finfo(np.float32).max)
Q, K = [1.5, -2.25, 3.0], [0.5, 4.0, -1.75]
KEYS = [[1.0, 2.0, -1.0], [0.0, 0.5, 3.0], [4.0, 0.25, 1.0]]


@pytest.fixture(scope="module")
def con():
    with ab.connect() as con:
        con.execute("SET threads = 1")
        yield con


def value(con, call, *parameters):
    """Return what one call gives."""
    return con.execute(f"SELECT {call}", list(parameters)).fetchall()[0][0]


# ---- kinds


VECTORS = (
    "[1.5, -2.25, 3.0]",
    "[1.5, -2.25, 3.0]::FLOAT[]",
    "[1.5, -2.25, 3.0]::FLOAT[3]",
    "[1.5, -2.25, 3.0]::DOUBLE[]",
    "[1.5, -2.25, 3.0]::DOUBLE[3]",
    "[1.5, -2.25, 3.0]::DECIMAL(9, 4)[]",
    "[1.5, -2.25, 3.0]::DECIMAL(38, 10)[3]",
    "ARRAY[1.5, -2.25, 3.0]::float4[]",
    "array_value(1.5::FLOAT, -2.25, 3.0)",
    "'[1.5, -2.25, 3.0]'::FLOAT[3]",
)
COLUMNS = ("{}", "(SELECT {})", "CASE WHEN range >= 0 THEN {} END", "nth_value({}, 1) OVER ()", "lag({}, 0) OVER ()")


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("key", VECTORS)
@pytest.mark.parametrize("query", VECTORS)
def test_kinds_of_vectors(con, query, key, kind):
    call = f"ruvector_attention_score({kind.format(query)}, {kind.format(key)})"
    same(fetch(con, f"SELECT {call} FROM range(3)"), [ab.attention_score(Q, Q)] * 3)


@pytest.mark.parametrize(
    "kind", ["TINYINT", "UTINYINT", "SMALLINT", "INTEGER", "UINTEGER", "BIGINT", "UBIGINT", "HUGEINT", "DECIMAL(4, 1)"]
)
@pytest.mark.parametrize("shape", ["[]", "[3]"])
def test_whole_numbers(con, kind, shape):
    call = f"ruvector_attention_score([1, 2, 3]::{kind}{shape}, [4, 5, 60]::{kind}{shape})"
    same(np.float32([value(con, call)]), [ab.attention_score([1, 2, 3], [4, 5, 60])])
    keys = f"[[1, 2, 3], [4, 5, 60]]::{kind}{shape}"
    for rows in (f"{keys}[]", f"{keys}[2]"):
        got = value(con, f"ruvector_attention_scores([1, 2, 3]::{kind}{shape}, {rows})")
        same(np.float32(got), ab.attention_scores([1, 2, 3], [[1, 2, 3], [4, 5, 60]]))


@pytest.mark.parametrize("keys", ["DOUBLE[][]", "FLOAT[][]", "FLOAT[3][]", "FLOAT[3][3]", "DECIMAL(9, 4)[3][]"])
@pytest.mark.parametrize("values", ["DOUBLE[][]", "FLOAT[3][]", "FLOAT[][3]"])
def test_kinds_of_keys_and_values(con, keys, values):
    same(np.float32(value(con, f"ruvector_attention_scores($1, $2::{keys})", Q, KEYS)), ab.attention_scores(Q, KEYS))
    got = value(con, f"ruvector_attention($1, $2::{keys}, $3::{values})", Q, KEYS, KEYS[::-1])
    same(np.float32(got), ab.attention(Q, KEYS, KEYS[::-1]))


@pytest.mark.parametrize("kind", ["", "::FLOAT[3]", "::FLOAT[]", "::DOUBLE[]", "::REAL[]"])
@pytest.mark.parametrize(
    "make", [list, tuple, np.array, np.float32, lambda v: np.array(v, np.float16), np.asfortranarray]
)
def test_parameters(con, kind, make):
    got = value(con, f"ruvector_attention_score($1{kind}, $2{kind})", make(Q), make(K))
    same(np.float32([got]), [ab.attention_score(Q, K)])


def test_numbers_that_binary_fractions_are_not(con, rng):
    """DOUBLE and DECIMAL are made float32 as a Python list is."""
    texts = [f"{x:.9f}" for x in rng.standard_normal(300)]
    numbers = [float(x) for x in texts]
    listed = ", ".join(texts)
    for kind in ("DOUBLE", "DECIMAL(18, 9)"):
        for shape in ("[]", "[300]"):
            call = f"ruvector_attention_score([{listed}]::{kind}{shape}, [{listed}]::{kind}{shape})"
            same(np.float32([value(con, call)]), [ab.attention_score(numbers, numbers)])


def test_positional_and_named(con):
    same_calls = (
        "ruvector_attention_score($1, $2, 'scaled_dot', {scale: 0.3})",
        "ruvector_attention_score($1, $2, options := {scale: 0.3})",
        "ruvector_attention_score($1, $2, options := {'scale': 0.3}, attention_type := 'dot')",
        "ruvector_attention_score(query := $1, key := $2, options := {scale: 0.3::FLOAT::DECIMAL(4, 2)})",
        "ruvector_attention_score(key := $2, query := $1, options := MAP {'scale': 0.3})",
        "ruvector_attention_score($1, $2, 'scaled_dot', MAP {'scale': 0.3::DOUBLE})",
        "ruvector_attention_score($1, $2, 'sdpa', {scale: 0.3})",
    )
    for call in same_calls:
        assert value(con, call, Q, K) == float(np.float32(ab.attention_score(Q, K, scale=0.3))), call
    for call in (
        "ruvector_attention_scores($1, $2, 'multi_head', {num_heads: 3})",
        "ruvector_attention_scores($1, $2, options := MAP {'num_heads': 3}, attention_type := 'mha')",
        "ruvector_attention_scores(keys := $2, query := $1, attention_type := 'multi_head', options := {num_heads: 3})",
    ):
        same(np.float32(value(con, call, Q, KEYS)), ab.attention_scores(Q, KEYS, "multi_head", num_heads=3))
    ranked = value(con, "ruvector_attention_rank($1, ['x', 'y', 'z'], $2, k := 2, attention_type := 'gat')", Q, KEYS)
    logits = ab.attention_logits(Q, KEYS, "gat")
    assert [hit["id"] for hit in ranked] == [["x", "y", "z"][place] for place in np.argsort(-logits)[:2]]
    assert len(value(con, "ruvector_attention_rank($1, [3, 5, 7], $2)", Q, KEYS)) == 3
    assert value(con, "ruvector_attention_score($1, $2, options := {scale: NULL})", Q, K) == value(
        con, "ruvector_attention_score($1, $2, 'scaled_dot', NULL)", Q, K
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_prepared_statements(con, order):
    rng = np.random.default_rng(3)
    keys, queries = rng.standard_normal((3000, 7), np.float32), rng.standard_normal((3, 7), np.float32)
    with con.cursor() as cursor:
        create(cursor, "docs", i=np.arange(3000), k=keys)
        cursor.execute(
            "PREPARE ask AS SELECT ruvector_attention_score($q::FLOAT[7], k, $t, {scale: $s}) FROM docs ORDER BY i"
        )
        for which in (*order, *order):
            for kind, scale in (("scaled_dot", 0.5), ("flash_v2", 2.0)):
                literal = str(queries[which].astype(float).tolist())
                got = fetch(cursor, f"EXECUTE ask(q := {literal}, t := '{kind}', s := {scale}::DOUBLE)")
                same(got, ab.attention_logits(queries[which], keys, kind, scale=scale))
        statement = "SELECT ruvector_attention_score($1, k, $2) FROM docs ORDER BY i"
        for which in (*order, *order):
            same(fetch(cursor, statement, [queries[which], "dot"]), ab.attention_logits(queries[which], keys))
        cursor.execute("DROP TABLE docs")


# ---- NULL


@pytest.mark.parametrize(
    "call",
    [
        "ruvector_attention_score(NULL, [1.0])",
        "ruvector_attention_score([1.0], NULL)",
        "ruvector_attention_score(NULL, NULL)",
        "ruvector_attention_score(NULL::FLOAT[3], [1.0, 2.0, 3.0]::FLOAT[3])",
        "ruvector_attention_score([1.0]::FLOAT[1], NULL::FLOAT[])",
        "ruvector_attention_score([1.0]::FLOAT[1], NULL::FLOAT[1])",
        "ruvector_attention_score([1.0]::FLOAT[1], NULL)",
        "ruvector_attention_score(NULL, [NULL])",  # nothing is asked of it
        "ruvector_attention_score([1e300], NULL)",
        "ruvector_attention_score(NULL, [1e300])",
        "ruvector_attention_scores(NULL, [[1.0]])",
        "ruvector_attention_scores([1.0], NULL)",
        "ruvector_attention(NULL, [[1.0]], [[1.0]])",
        "ruvector_attention([1.0], NULL, [[1.0]])",
        "ruvector_attention([1.0], [[1.0]], NULL)",
        "ruvector_multi_head_attention([1.0], NULL, [[1.0]], 1)",
        "ruvector_flash_attention(NULL, [[1.0]], [[1.0]])",
        "ruvector_attention_rank(NULL, [1], [[1.0]])",
        "ruvector_attention_rank([1.0], [1], NULL)",
        "ruvector_attention_rank([1.0], NULL, [[1.0]])",
        "ruvector_softmax(NULL)",
        "ruvector_softmax(NULL::FLOAT[3])",
        "ruvector_maxsim(NULL, [[1.0]])",
        "ruvector_maxsim([[1.0]], NULL)",
        "ruvector_poincare_distance(NULL, [0.1])",
        "ruvector_poincare_distance([0.1], NULL)",
    ],
)
def test_null_for_null(con, call):
    assert value(con, call) is None
    assert con.execute(f"SELECT {call} FROM range(5000)").fetchall() == [(None,)] * 5000


# ---- refusals: what Python says


def refused(con, call, parameters, python, *arguments, **options):
    """Hold that a call is refused with the message of the Python call."""
    with pytest.raises(ab.AttentionError) as error:
        python(*arguments, **options)
    for statement in (f"SELECT {call}", f"SELECT {call} FROM range(3)"):
        with pytest.raises(duckdb.Error) as raised:
            con.execute(statement, parameters).fetchall()
        assert str(error.value) in str(raised.value)
        assert type(error.value).__name__ in str(raised.value)


INF, NAN = math.inf, math.nan
PAIRS = [
    ([], [1.0]),
    ([1.0], []),
    ([], []),
    ([1.0, 2.0], [1.0]),
    ([1.0], [1.0, 2.0, 3.0]),
    ([1.0, None], [1.0, 2.0]),
    ([None], [1.0]),
    ([1.0, 2.0], [None, 2.0]),
    ([NAN, 1.0], [1.0, 2.0]),
    ([1.0, INF], [1.0, 2.0]),
    ([1.0, 2.0], [1.0, NAN]),
    ([1.0, 2.0], [-INF, 0.0]),
    ([0.0, 0.0], [-INF, 0.0]),
    ([1.0, 1e300], [1.0, 2.0]),
    ([1.0, 2.0], [1.0, -1e39]),
    ([[1.0, 2.0]], [1.0, 2.0]),
    ([1.0, 2.0], [[1.0, 2.0]]),
    ([[1.0], [1.0, 2.0]], [1.0]),
]


KINDS = ("scaled_dot", "flash_v2", "multi_head", "linear", "gat", "poincare", "cross")


@pytest.mark.parametrize(
    ("query", "key", "kind"),
    [
        (query, key, kind)
        for query, key in PAIRS
        for kind in KINDS
        if kind != "cross" or [[1.0, 2.0]] not in (query, key)  # tokens
    ],
)
def test_pairs_that_are_refused(con, query, key, kind):
    options = {"num_heads": 1} if kind == "multi_head" else {}
    call = "ruvector_attention_score($1::DOUBLE[], $2::DOUBLE[], $3, $4)"
    for name, side in (("$1", query), ("$2", key)):
        if any(isinstance(one, list) for one in side):
            call = call.replace(f"{name}::DOUBLE[]", f"{name}::DOUBLE[][]")
    refused(con, call, [query, key, kind, options or None], ab.attention_score, query, key, kind, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("nope", {}),
        ("", {}),
        (None, {}),
        ("sparse", {}),
        ("moe", {}),
        ("multi_head", {"score": "weights", "num_heads": 1}),
        ("scaled_dot", {"nope": 1.0}),
        ("scaled_dot", {"scale": 0.0}),
        ("scaled_dot", {"scale": -1.0}),
        ("scaled_dot", {"scale": "much"}),
        ("multi_head", {"num_heads": 5}),
        ("multi_head", {"num_heads": 0}),
        ("multi_head", {"num_heads": 1.5}),
        ("poincare", {"curvature": 1.0}),
        ("poincare", {"map": "flat"}),
        ("linear", {"feature_map": "cosine"}),
        ("gat", {"version": "v9"}),
    ],
)
def test_types_and_options_that_are_refused(con, kind, options):
    given = [[0.1, 0.2], [0.3, 0.4], kind, options or None]
    call = "ruvector_attention_score($1, $2, $3, $4)"
    refused(con, call, given, ab.attention_score, *given[:2], kind, **options)


@pytest.mark.parametrize("name", ["attention_scores", "attention", "attention_rank"])
@pytest.mark.parametrize(
    ("query", "keys", "kind", "options"),
    [
        ([1.0], [], "scaled_dot", {}),
        ([], [[1.0]], "scaled_dot", {}),
        ([1.0], [[]], "scaled_dot", {}),
        ([1.0], [[1.0], [1.0, 2.0]], "scaled_dot", {}),
        ([1.0], [[1.0, 2.0]], "scaled_dot", {}),
        ([1.0], [[1.0], None], "scaled_dot", {}),
        ([1.0], [[1.0], [None]], "scaled_dot", {}),
        ([None], [[1.0]], "scaled_dot", {}),
        ([1.0], [[1.0], [NAN]], "scaled_dot", {}),
        ([INF], [[1.0]], "linear", {}),
        ([1.0], [[-INF], [1.0]], "linear", {}),
        ([1.0], [[1.0], [1e300]], "scaled_dot", {}),
        ([1.0, 2.0], [[1.0, 2.0]], "multi_head", {"num_heads": 3}),
        ([1.0], [[1.0]], "nope", {}),
        ([1.0], [[1.0]], "sparse", {"top_k": 0}),
        ([1.0], [[1.0]], "sliding", {}),
        ([0.5, 2.0], [[0.5, 0.5]], "poincare", {}),
    ],
)
def test_sets_that_are_refused(con, name, query, keys, kind, options):
    python = {"attention_rank": ab.attention_logits}.get(name) or getattr(ab, name)
    more = {"attention": [[[1.0]] * len(keys)]}.get(name, [])
    given = {"q": query, "k": keys, "t": kind, "o": options or None}
    call = {
        "attention_scores": "ruvector_attention_scores($q::DOUBLE[], $k::DOUBLE[][], $t, $o)",
        "attention": f"ruvector_attention($q::DOUBLE[], $k::DOUBLE[][], {[[1.0]] * len(keys)}::DOUBLE[][], $t, $o)",
        "attention_rank": f"""ruvector_attention_rank(
            $q::DOUBLE[], {[0] * len(keys)}::INTEGER[], $k::DOUBLE[][], NULL, $t, $o)""",
    }[name]
    refused(con, call, given, python, query, keys, *more, kind, **options)


def test_values_and_heads_that_are_refused(con):
    for values in ([], [[1.0]], [[1.0], [None]], [[1.0], [NAN]], [[1.0], [1.0, 2.0]], [[1.0], None], [[1.0]] * 3):
        call = "ruvector_attention($1, $2, $3::DOUBLE[][])"
        keys = [[1.0], [2.0]]
        refused(con, call, [[1.0], keys, values], ab.attention, [1.0], keys, values)
    refused(
        con,
        "ruvector_multi_head_attention($1, $2, $2)",
        [Q, KEYS],
        ab.attention,
        Q,
        KEYS,
        KEYS,
        "multi_head",
        num_heads=4,
    )
    for size in (0, -1, 1.5, "many"):
        call = "ruvector_flash_attention($1, $2, $2, block_size := $3)"
        refused(con, call, [Q, KEYS, size], ab.attention, Q, KEYS, KEYS, "flash_v2", block_size=size)


def test_too_many_keys():
    with ab.connect(max_keys=4) as con:
        keys = [[1.0]] * 5
        call = "ruvector_attention_scores($1, $2)"
        assert len(value(con, call, [1.0], keys[:4])) == 4
        refused(con, call, [[1.0], keys], ab.attention_scores, [1.0], keys, max_keys=4)
        call = "ruvector_attention($1, $2, $2)"
        refused(con, call, [[1.0], keys], ab.attention, [1.0], keys, keys, max_keys=4)
        call = "ruvector_attention_rank($1, [1, 2, 3, 4, 5], $2)"
        refused(con, call, [[1.0], keys], ab.attention_logits, [1.0], keys, max_keys=4)


def test_softmax_that_is_refused(con):
    for scores in ([], [NAN], [INF], [None], [-INF], [-INF, -INF], [1.0, None], [1e300]):
        refused(con, "ruvector_softmax($1::DOUBLE[])", [scores], ab.softmax, scores)
    same(np.float32(value(con, "ruvector_softmax([0.0, '-inf'::FLOAT, 1.0])")), ab.softmax([0.0, -INF, 1.0]))


@pytest.mark.parametrize(
    "python_curvature", [(-1.0, [1.1, 0.0], [0.1, 0.1]), (-1.0, [0.1], [0.1, 0.2]), (1.0, [0.1], [0.1])]
)
def test_distances_that_are_refused(con, python_curvature):
    curvature, a, b = python_curvature
    call = "ruvector_poincare_distance($1, $2, $3)"
    refused(con, call, [a, b, curvature], lambda: ab.HyperbolicSpace(curvature).distance(a, b))


def test_options_and_k_that_are_refused(con):
    for options in ("3", "'scale'", "[1.0]"):
        with pytest.raises(duckdb.InvalidInputException, match="options must be a STRUCT such as"):
            con.execute(f"SELECT ruvector_attention_score([1], [1], options := {options})").fetchall()
    for k in ("0", "-1", "1.5", "'x'"):
        with pytest.raises(duckdb.InvalidInputException, match="k must be a whole number >= 1"):
            con.execute(f"SELECT ruvector_attention_rank([1], [1], [[1]], k := {k})").fetchall()
    for ids in ("[]", "[1, 2]"):
        with pytest.raises(duckdb.InvalidInputException, match="ids must have an entry for each of 1 keys, got"):
            con.execute(f"SELECT ruvector_attention_rank([1], {ids}, [[1]])").fetchall()


@pytest.mark.parametrize(
    "what", ["'text'", "['a', 'b']", "[true]", "[DATE '2020-01-01']", "{a: 1}", "[{a: 1}]", "3", "2.5"]
)
def test_what_holds_no_numbers(con, what):
    """A number where a list belongs, DuckDB refuses itself where it can tell."""
    for call, name in (
        (f"ruvector_attention_score({what}, [1.0])", "query"),
        (f"ruvector_attention_score([1.0], {what})", "key"),
        (f"ruvector_attention_scores({what}, [[1.0]])", "query"),
        (f"ruvector_attention_scores([1.0], {what})", "keys"),
        (f"ruvector_softmax({what})", "scores"),
        (f"ruvector_maxsim([[1.0]], {what})", "key"),
        (f"ruvector_poincare_distance({what}, [0.1])", "query"),
    ):
        with pytest.raises(duckdb.Error) as raised:
            con.execute(f"SELECT {call}").fetchall()
        if not isinstance(raised.value, duckdb.BinderException):
            assert f"{name} must be" in str(raised.value)
        else:
            assert "LIST" in str(raised.value) or "list" in str(raised.value)


# ---- sizes


def test_scores_beyond_float(con):
    call = "ruvector_attention_score($1::FLOAT[], $2::FLOAT[], options := {scale: 1.0})"
    assert value(con, call, [1e30], [3e8]) == float(np.float32(ab.attention_score([1e30], [3e8], scale=1.0)))
    with pytest.raises(duckdb.InvalidInputException, match=r"NumericalInstabilityError: the score must fit FLOAT"):
        value(con, call, [1e30], [1e30])
    assert math.isfinite(ab.attention_score([1e30], [1e30], scale=1.0))
    assert value(con, "ruvector_attention_scores([1e30], [[1e30], [-1e30]])") == [1.0, 0.0]
    with pytest.raises(duckdb.InvalidInputException, match=r"the score must fit FLOAT"):
        value(con, "ruvector_attention_rank([1e30], [1, 2], [[1e30], [-1e30]])")


def test_huge_and_tiny_numbers(con):
    queries = np.array([[MAX32, MAX32], [MAX32, -MAX32], [1e-45, 1e-38], [-0.0, -0.0], [3e20, 1.0], [0.0, 1.0]], "f")
    keys = np.array([[1.0, -1.0], [1.0, 0.5], [1e-45, 1e-38], [0.0, 0.0], [1e17, 1e20], [MAX32, 0.0]], "f")
    create(con, "sizes", i=np.arange(6), q=queries, k=keys)
    with np.errstate(over="ignore"):
        same(fetch(con, "SELECT ruvector_attention_score(q, k) FROM sizes ORDER BY i"), each_score(queries, keys))
        for row, query in enumerate(queries):
            statement = "SELECT ruvector_attention_score($1, k) FROM sizes WHERE i NOT IN (0, 1, 5) ORDER BY i"
            if row > 1:
                same(fetch(con, statement, [query]), each_score([query] * 3, keys[[2, 3, 4]]))
    zeros = fetch(con, "SELECT ruvector_attention_score(q, [-0.0, 0.0]) FROM sizes WHERE i < 4 ORDER BY i")
    same(zeros, each_score(queries[:4], [[-0.0, 0.0]] * 4))
