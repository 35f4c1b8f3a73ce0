"""SQL functions against the Python API, to the bit: every type, every shape of statement."""

import re

import duckdb
import numpy as np
import pytest
from sql_truth import create, each_score, fetch, plain, rows_of, same

import attnbridge as ab
from attnbridge.scoring import REGISTRY, resolve
from attnbridge.selftest import LATE, SETTINGS, Setting, into_ball

DIM = 12  # a multiple of the settings' heads
ROWS = 400

PAIRWISE = [
    setting
    for setting in (*SETTINGS, *LATE)
    if setting.mechanism is None and REGISTRY[setting.name].is_pairwise(resolve(setting.name, setting.of(DIM))[1])
]
each_pairwise = pytest.mark.parametrize("setting", PAIRWISE, ids=str)


@pytest.fixture(scope="module")
def con():
    """A database of pairs: g has 7 groups, a and b are vectors, points those in a ball."""
    rng = np.random.default_rng(5)
    a, b = rows_of(rng, ROWS, DIM), rows_of(rng, ROWS, DIM)
    with ab.connect() as con:
        con.execute("SET threads = 1")
        places, (p, q) = np.arange(ROWS), (into_ball(rows, 0.5).astype(np.float32) for rows in (a, b))
        create(con, "t", i=places, g=places % 7, a=a, b=b, p=p, q=q)
        yield con


def numbers(con, name, order="i"):
    """Return a column of vectors, in order."""
    return np.stack(fetch(con, f"SELECT {name} FROM t ORDER BY {order}"))


def columns_for(setting):
    return ("p", "q") if setting.name == "poincare" else ("a", "b")


# ---- every pairwise type


def test_every_pairwise_type_has_a_setting():
    assert {s.name for s in PAIRWISE} == {row.name for row in REGISTRY.values() if row.pairwise}


@each_pairwise
def test_scores_of_a_constant_query(con, setting):
    a, b = columns_for(setting)
    options = setting.of(DIM)
    query, keys = numbers(con, a)[0], numbers(con, b)
    got = fetch(
        con,
        f"SELECT ruvector_attention_score($q, {b}, $type, $options) FROM t ORDER BY i",
        {"q": query, "type": setting.name, "options": plain(options)},
    )
    same(got, each_score([query] * ROWS, keys, setting.name, **options))
    same(got, ab.attention_logits(query, keys, setting.name, **options))


@each_pairwise
def test_scores_of_two_columns(con, setting):
    a, b = columns_for(setting)
    options = setting.of(DIM)
    want = each_score(numbers(con, a), numbers(con, b), setting.name, **options)
    for queries in (a, f"{a}::FLOAT[]"):
        for keys in (b, f"{b}::FLOAT[]", f"{b}::DOUBLE[]"):
            got = fetch(
                con,
                f"SELECT ruvector_attention_score({queries}, {keys}, $type, $options) FROM t ORDER BY i",
                {"type": setting.name, "options": plain(options)},
            )
            same(got, want)


@each_pairwise
def test_scores_of_a_cross_join(con, setting):
    a, b = columns_for(setting)
    options = setting.of(DIM)
    statement = f"""
        SELECT ruvector_attention_score(x.{a}, y.{b}, attention_type := $type, options := $options)
        FROM (FROM t WHERE i < 5) x CROSS JOIN t y ORDER BY x.i, y.i"""
    got = fetch(con, statement, {"type": setting.name, "options": plain(options)})
    queries, keys = numbers(con, a)[:5], numbers(con, b)
    same(got, each_score(np.repeat(queries, ROWS, axis=0), np.tile(keys, (5, 1)), setting.name, **options))


@each_pairwise
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(con, setting, bad):
    """Wherever they are among others that are, and never a score of them."""
    a, b = columns_for(setting)
    spoilt = np.full(DIM, 0.125, np.float32)
    spoilt[place := len(str(setting)) % DIM] = bad
    given = {"type": setting.name, "options": plain(setting.of(DIM)), "spoilt": spoilt}
    wrong = "CASE WHEN i = 301 THEN $spoilt::FLOAT[] ELSE {}::FLOAT[] END"
    constant = f"(SELECT {a} FROM t WHERE i = 2)"
    cases = [(wrong.format(a), b, "query"), (a, wrong.format(b), "key"), (constant, wrong.format(b), "key")]
    for query, key, name in cases:
        with pytest.raises(duckdb.InvalidInputException) as raised:
            con.execute(f"SELECT ruvector_attention_score({query}, {key}, $type, $options) FROM t", given).fetchall()
        where = rf"{name}(\[0\])? must be finite: (position|row 0, column) {place} is"
        assert re.search(where, str(raised.value))


def settings_of_sets():
    """Return every type of the registry, pairwise or not, with its settings as far as SQL has lists for them."""
    mixed = [s for s in SETTINGS if any(isinstance(expert, tuple) for expert in s.options.get("experts", ()))]
    experts = Setting("moe", "standard", {"experts": ["scaled_dot", "linear", "gat"], "top_k": 2, "router_seed": 3})
    return [s for s in (*SETTINGS, *LATE, experts) if s.mechanism is None and s not in mixed]


@pytest.mark.parametrize("setting", settings_of_sets(), ids=str)
def test_weights_outputs_and_ranks(con, setting):
    """Over groups of keys, each with the query that comes first."""
    a, b = columns_for(setting)
    options = setting.of(DIM)
    given = {"type": setting.name, "options": plain(options)}
    called = {
        "weights": f"ruvector_attention_scores(first({a} ORDER BY i), list({b} ORDER BY i), $type, $options)",
        "output": f"ruvector_attention(first({a} ORDER BY i), list({b} ORDER BY i), list({b} ORDER BY i), "
        "$type, $options)",
        "ranked": f"""ruvector_attention_rank(
            first({a} ORDER BY i), list(i ORDER BY i), list({b} ORDER BY i), 9, $type, $options)""",
    }
    found = {name: fetch(con, f"SELECT {call} FROM t GROUP BY g ORDER BY g", given) for name, call in called.items()}
    queries, keys = numbers(con, a), numbers(con, b)
    for group in range(7):
        q, k = queries[group], keys[group::7]
        weights = ab.attention_scores(q, k, setting.name, **options)
        same(found["weights"][group], weights)
        same(found["output"][group], ab.attention(q, k, k, setting.name, **options))
        logits = ab.attention_logits(q, k, setting.name, **options)
        best = np.argsort(-logits, kind="stable")[:9]
        assert [hit["id"] for hit in found["ranked"][group]] == (best * 7 + group).tolist()
        same(np.array([hit["score"] for hit in found["ranked"][group]], np.float32), logits[best])
        same(np.array([hit["weight"] for hit in found["ranked"][group]], np.float32), weights[best])


@pytest.mark.parametrize("name", [row.name for row in REGISTRY.values() if not row.pairwise])
def test_scores_of_types_that_are_not_pairwise_are_refused(con, name):
    options = {"position": 0} if name == "sliding" else {}
    with pytest.raises(ValueError, match="pairwise") as error:
        ab.attention_score([1.0], [1.0], name, **options)
    with pytest.raises(duckdb.InvalidInputException) as refused:
        con.execute("SELECT ruvector_attention_score([1], [1], $1, $2)", [name, options or None]).fetchall()
    assert str(error.value) in str(refused.value)


# ---- the named functions


def test_multi_head_flash_softmax_and_types(con):
    keys, values = numbers(con, "b"), numbers(con, "p")
    query = numbers(con, "a")[2]
    for name, arguments, options in (
        ("multi_head", "", {"num_heads": 4}),
        ("multi_head", ", num_heads := 3", {"num_heads": 3}),
        ("multi_head", ", 6", {"num_heads": 6}),
        ("flash", "", {"block_size": 64}),
        ("flash", ", block_size := 7", {"block_size": 7}),
    ):
        statement = f"""
            SELECT ruvector_{name}_attention($1, list(b ORDER BY i), list(p ORDER BY i){arguments}) FROM t"""
        same(fetch(con, statement, [query])[0], ab.attention(query, keys, values, name, **options))
    scores = numbers(con, "a")
    for name in ("softmax", "attention_softmax"):
        got = fetch(con, f"SELECT ruvector_{name}(a) FROM t ORDER BY i")
        for row, one in zip(got, scores, strict=True):
            same(row, ab.softmax(one))
    assert con.execute("FROM ruvector_attention_types()").fetchall() == [
        (row["name"], row["complexity"], row["best_for"]) for row in ab.attention_types()
    ]


@pytest.mark.parametrize("curvature", [-1.0, -0.5, -3])
def test_poincare_distance_is_that_of_the_space(con, curvature):
    p, q = numbers(con, "p"), numbers(con, "q")
    space = ab.HyperbolicSpace(curvature)
    want = np.array([float(space.distance(u, v)) for u, v in zip(p, q, strict=True)])
    given = [] if curvature == -1.0 else [curvature]
    extra = ", curvature := $1" if given else ""
    same(fetch(con, f"SELECT ruvector_poincare_distance(p, q{extra}) FROM t ORDER BY i", given), want)
    for first in ("p", "p::FLOAT[]"):
        statement = f"SELECT ruvector_poincare_distance({first}, p{extra}) FROM t ORDER BY i"
        same(fetch(con, statement, given), np.zeros(ROWS))  # not -0.0
    statement = f"SELECT ruvector_poincare_distance((SELECT p FROM t WHERE i = 7), q{extra}) FROM t ORDER BY i"
    same(fetch(con, statement, given), space.distance(p[7], q))


def test_maxsim_of_token_lists(con):
    """Documents of 1 to 5 tokens, as lists and as arrays of as many tokens."""
    rng = np.random.default_rng(0)
    documents = [rng.standard_normal((1 + n % 5, DIM)).astype(np.float32) for n in range(60)]
    query = rng.standard_normal((3, DIM)).astype(np.float32)
    con.execute("CREATE OR REPLACE TEMP TABLE tokens (i INTEGER, k FLOAT[12][])")
    for i, tokens in enumerate(documents):
        con.execute("INSERT INTO tokens VALUES (?, ?)", [i, tokens.tolist()])
    want = ab.attention_logits(query, documents, "maxsim")
    np.testing.assert_array_equal(want, each_score([query] * 60, documents, "maxsim"))
    for keys in ("k", "k::FLOAT[][]", "k::DOUBLE[12][]"):
        same(fetch(con, f"SELECT ruvector_maxsim($1, {keys}) FROM tokens ORDER BY i", [query.tolist()]), want)
    given = [query.tolist(), {"temperature": 0.5, "scale": 2.0}]
    got = fetch(con, "SELECT ruvector_attention_score($1, k, 'cross', $2) FROM tokens ORDER BY i", given)
    same(got, ab.attention_logits(query, documents, "cross", temperature=0.5, scale=2.0))
    got = fetch(con, "SELECT ruvector_attention_scores($1, list(k ORDER BY i), 'cross') FROM tokens", [query.tolist()])
    same(got[0], ab.attention_scores(query, documents, "cross"))
    # each document with the one before it, where there is one
    got = fetch(con, "SELECT ruvector_maxsim(lag(k) OVER (ORDER BY i), k) FROM tokens ORDER BY i")
    assert got.mask.tolist() == [True] + [False] * 59
    same(got.data[1:], each_score(documents[:-1], documents[1:], "maxsim"))
    three = con.execute("SELECT k[1:3]::FLOAT[12][3] AS k FROM tokens WHERE len(k) >= 3 ORDER BY i").fetchnumpy()["k"]
    got = fetch(
        con,
        "SELECT ruvector_maxsim($1::FLOAT[12][3], k[1:3]::FLOAT[12][3]) FROM tokens WHERE len(k) >= 3 ORDER BY i",
        [query.tolist()],
    )
    same(got, [ab.attention_score(query, [list(row) for row in tokens], "maxsim") for tokens in three])
    # a vector is one token
    got = fetch(con, "SELECT ruvector_maxsim($1, k[1]) FROM tokens ORDER BY i", [query.tolist()])
    same(got, each_score([query] * 60, [tokens[0] for tokens in documents], "maxsim"))


# ---- a large table


def test_100_000_rows_of_384():
    rng = np.random.default_rng(1)
    count = 100_000
    a, b = (rng.standard_normal((count, 384), np.float32) for _ in range(2))
    query = rng.standard_normal(384, np.float32)
    want, pairs_ = ab.attention_logits(query, b), each_score(a[::50], b[::50])
    with ab.connect() as con:
        create(con, "big", i=np.arange(count), a=a, b=b)
        statement = "SELECT ruvector_attention_score($1, b), ruvector_attention_score(a, b), i FROM big"
        first, second, ids = con.execute(statement, [query]).fetchnumpy().values()
        same(first[np.argsort(ids)], want)
        same(second[np.argsort(ids)][::50], pairs_)
        con.execute("SET threads = 1")
        again = con.execute(statement, [query]).fetchnumpy().values()
        for one, other in zip(again, (first, second, ids), strict=True):
            np.testing.assert_array_equal(one, other[np.argsort(ids)])
        best = con.execute(
            "SELECT i, ruvector_attention_score($1, b) AS s FROM big WHERE i % 3 = 0 ORDER BY s DESC LIMIT 10", [query]
        ).fetchall()
        order = np.argsort(-want[::3], kind="stable")[:10]
        assert best == [(int(place) * 3, float(np.float32(want[place * 3]))) for place in order]


@pytest.mark.slow
@each_pairwise
def test_many_rows_of_384(setting, rounds):
    count = rounds(300, 20_000)
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal((count, 384), np.float32) for _ in range(2))
    if setting.name == "poincare":
        a, b = (into_ball(rows, 0.5).astype(np.float32) for rows in (a, b))
    options = setting.of(384)
    with ab.connect() as con:
        create(con, "big", i=np.arange(count), a=a, b=b)
        got = con.execute(
            """SELECT ruvector_attention_score(a, b, $1, $2) AS pair,
                ruvector_attention_score((SELECT a FROM big WHERE i = 1), b, $1, $2) AS one FROM big ORDER BY i""",
            [setting.name, plain(options)],
        ).fetchnumpy()
        same(got["pair"], each_score(a, b, setting.name, **options))
        same(got["one"], ab.attention_logits(a[1], b, setting.name, **options))
