"""Scores in every place of a statement that they can be in, and in tables drawn at random."""

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_truth import column, create, each_score, fetch, rows_of, same

import attnbridge as ab
from attnbridge.integrations.duckdb import pairs

DIM, ROWS, OTHERS = 5, 5_000, 40
SCORE = "ruvector_attention_score"


@pytest.fixture(scope="module")
def tables():
    """What is in the tables: t of pairs, u of further vectors."""
    rng = np.random.default_rng(11)
    return {name: rows_of(rng, count, DIM) for name, count in (("a", ROWS), ("b", ROWS), ("c", ROWS), ("u", OTHERS))}


@pytest.fixture(scope="module", params=[1, 4], ids="{} threads".format)
def con(request, tables):
    with ab.connect() as con:
        con.execute(f"SET threads = {request.param}")
        i = np.arange(ROWS)
        create(con, "t", i=i, j=(i * 7) % OTHERS, g=i % 50, a=tables["a"], b=tables["b"], c=tables["c"])
        create(con, "u", j=np.arange(OTHERS), e=tables["u"])
        con.execute("CREATE TABLE kinds AS SELECT i, ['dot', 'gat', 'linear', 'flash_v2'][1 + i % 4] AS kind FROM t")
        con.execute("CREATE TABLE none AS FROM t WHERE false")
        yield con


@pytest.fixture(scope="module")
def scores(tables):
    """The score of a and b in each row."""
    return each_score(tables["a"], tables["b"])


# ---- where the vectors come from


def test_joins(con, tables):
    order = np.arange(ROWS) * 7 % OTHERS
    one_to_n = fetch(con, f"SELECT {SCORE}(e, a) FROM t JOIN u USING (j) ORDER BY i")
    same(one_to_n, each_score(tables["u"][order], tables["a"]))
    n_to_one = fetch(con, f"SELECT {SCORE}(a, e) FROM t JOIN u USING (j) ORDER BY i")
    same(n_to_one, each_score(tables["a"], tables["u"][order]))
    one_to_one = fetch(con, f"SELECT {SCORE}(x.a, y.b) FROM t x JOIN t y ON x.i = y.i ORDER BY x.i")
    same(one_to_one, each_score(tables["a"], tables["b"]))
    outer = fetch(con, f"SELECT {SCORE}(e, a) FROM t LEFT JOIN u ON t.i = u.j ORDER BY i")
    assert outer.mask.tolist() == [False] * OTHERS + [True] * (ROWS - OTHERS)
    same(outer.data[:OTHERS], each_score(tables["u"], tables["a"][:OTHERS]))


def test_cross_join(con, tables):
    got = fetch(con, f"SELECT {SCORE}(e, a) FROM u CROSS JOIN t ORDER BY u.j, t.i")
    want = [ab.attention_logits(query, tables["a"]) for query in tables["u"]]
    same(got, np.concatenate(want))
    back = fetch(con, f"SELECT {SCORE}(a, e) FROM u CROSS JOIN t ORDER BY u.j, t.i")
    same(back, each_score(np.tile(tables["a"], (OTHERS, 1)), np.repeat(tables["u"], ROWS, axis=0)))


def test_conditions(con, tables, scores):
    over = np.flatnonzero(scores > 1.5)
    assert 10 < len(over) < ROWS / 2
    assert fetch(con, f"SELECT i FROM t WHERE {SCORE}(a, b) > 1.5 ORDER BY i").tolist() == over.tolist()
    got = con.execute(f"SELECT i, {SCORE}(a, b) FROM t WHERE {SCORE}(a, b) > 1.5 ORDER BY {SCORE}(a, b) DESC, i")
    best = sorted(over, key=lambda i: (-np.float32(scores[i]), i))
    assert got.fetchall() == [(i, float(np.float32(scores[i]))) for i in best]
    few = fetch(con, f"SELECT {SCORE}(a, b) FROM t WHERE i % 977 = 3 ORDER BY i")
    same(few, scores[3::977])
    joined = con.execute(
        f"SELECT u.j, t.i FROM u JOIN t ON {SCORE}(u.e, t.a) > 3.0 AND {SCORE}(u.e, t.b) < 0.5 ORDER BY u.j, t.i"
    ).fetchall()
    first, second = (np.stack([ab.attention_logits(q, tables[name]) for q in tables["u"]]) for name in "ab")
    assert joined == list(zip(*(x.tolist() for x in np.nonzero((first > 3.0) & (second < 0.5))), strict=True))
    assert con.execute(f"SELECT {SCORE}(a, b) FROM none").fetchall() == []
    assert con.execute(f"SELECT sum({SCORE}([1.0], a)) FROM t WHERE i < 0").fetchall() == [(None,)]


def test_aggregates(con, tables, scores):
    narrow = scores.astype(np.float32)
    got = con.execute(f"SELECT g, max({SCORE}(a, b)), arg_max(i, {SCORE}(a, b)) FROM t GROUP BY g ORDER BY g")
    for group, largest, place in got.fetchall():
        rows = np.arange(group, ROWS, 50)
        assert largest == narrow[rows].max()
        assert narrow[place] == largest
    having = fetch(con, f"SELECT g FROM t GROUP BY g HAVING max({SCORE}(a, b)) > 4 ORDER BY g")
    assert having.tolist() == [group for group in range(50) if narrow[group::50].max() > 4]
    counted = con.execute(f"SELECT round({SCORE}(a, b)), count(*) FROM t GROUP BY round({SCORE}(a, b))").fetchall()
    assert {k + 0.0: n for k, n in counted} == Counter((np.round(narrow) + 0.0).tolist())


def test_subqueries_and_ctes(con, tables):
    query, want = tables["u"][3], ab.attention_logits(tables["u"][3], tables["a"])
    for source in ("(SELECT e FROM u WHERE j = 3)", "(SELECT e[:] FROM u WHERE j = 3)", "(FROM one)"):
        got = fetch(con, f"WITH one AS (SELECT e FROM u WHERE j = 3) SELECT {SCORE}({source}, a) FROM t ORDER BY i")
        same(got, want)
    correlated = fetch(con, f"SELECT {SCORE}((SELECT e FROM u WHERE u.j = t.j), a) FROM t ORDER BY i")
    same(correlated, each_score(tables["u"][np.arange(ROWS) * 7 % OTHERS], tables["a"]))
    lateral = fetch(con, f"SELECT s FROM t, LATERAL (SELECT {SCORE}(t.a, t.b) AS s) ORDER BY i")
    same(lateral, each_score(tables["a"], tables["b"]))
    nearest = con.execute(f"""
        SELECT u.j, hit.i FROM u, LATERAL (
            SELECT t.i FROM t ORDER BY {SCORE}(u.e, t.a) DESC, t.i LIMIT 3) AS hit ORDER BY ALL""").fetchall()
    expected = [
        (j, int(i))
        for j, q in enumerate(tables["u"])
        for i in sorted(np.argsort(-np.float32(ab.attention_logits(q, tables["a"])), kind="stable")[:3])
    ]
    assert nearest == expected
    missing = con.execute(f"SELECT {SCORE}((SELECT e FROM u WHERE j = -1), a) FROM t").fetchall()
    assert missing == [(None,)] * ROWS
    stages = f"""
        WITH candidates AS (SELECT i, a FROM t ORDER BY {SCORE}($q, a) DESC, i LIMIT 100),
        scored AS MATERIALIZED (SELECT i, {SCORE}($q, a, 'gat') AS s FROM candidates)
        SELECT i FROM scored ORDER BY s DESC, i LIMIT 10"""
    first = np.argsort(-np.float32(want), kind="stable")[:100]
    second = np.float32(ab.attention_logits(query, tables["a"][first], "gat"))
    best = sorted(range(100), key=lambda n: (-second[n], first[n]))[:10]
    assert fetch(con, stages, {"q": query}).tolist() == first[best].tolist()


def test_several_queries_and_types_in_one_statement(con, tables):
    q, r = tables["u"][:2]
    got = con.execute(
        f"""SELECT {SCORE}($q, a), {SCORE}($r, a), {SCORE}($q, b, 'gat'), {SCORE}($r, b, 'linear'),
            {SCORE}(a, b, 'poincare', {{map: 'expmap0'}}), {SCORE}($q, a, options := {{scale: 2.0}}),
            {SCORE}($r, [1, 2, 3, 4, {SCORE}($q, a)]) FROM t ORDER BY i""",
        {"q": q, "r": r},
    ).fetchnumpy()
    a, b = tables["a"], tables["b"]
    inner = np.float32(ab.attention_logits(q, a))
    wanted = [
        ab.attention_logits(q, a),
        ab.attention_logits(r, a),
        ab.attention_logits(q, b, "gat"),
        ab.attention_logits(r, b, "linear"),
        each_score(a, b, "poincare", map="expmap0"),
        ab.attention_logits(q, a, scale=2.0),
        ab.attention_logits(r, np.column_stack([np.tile(np.float32([1, 2, 3, 4]), (ROWS, 1)), inner])),
    ]
    for one, want in zip(got.values(), wanted, strict=True):
        same(one, want)


def test_types_and_options_in_columns(con, tables):
    kinds = ["dot", "gat", "linear", "flash_v2"]
    want = np.empty(ROWS)
    for n, kind in enumerate(kinds):
        want[n::4] = each_score(tables["a"][n::4], tables["b"][n::4], kind)
    same(fetch(con, f"SELECT {SCORE}(a, b, kind) FROM t JOIN kinds USING (i) ORDER BY i"), want)
    for n, kind in enumerate(kinds):
        want[n::4] = ab.attention_logits(tables["u"][0], tables["b"][n::4], kind)
    same(fetch(con, f"SELECT {SCORE}($1, b, kind) FROM t JOIN kinds USING (i) ORDER BY i", [tables["u"][0]]), want)
    scaled = fetch(con, f"SELECT {SCORE}(a, b, options := {{scale: 1.0 + i % 3}}) FROM t ORDER BY i")
    for n in range(3):
        same(scaled[n::3], each_score(tables["a"][n::3], tables["b"][n::3], scale=1.0 + n))


# ---- groups and windows


def test_groups(con, tables):
    a, b = tables["a"], tables["b"]
    got = con.execute(
        """
        SELECT ruvector_attention_scores($q, list(a ORDER BY i)) AS weights,
            ruvector_attention($q, list(a ORDER BY i), list(b ORDER BY i)) AS output,
            ruvector_attention(first(b ORDER BY i), list(a ORDER BY i), list(b ORDER BY i), 'gat') AS own,
            ruvector_attention_rank($q, list(i ORDER BY i), list(a ORDER BY i), k := 3) AS best,
            ruvector_softmax(list(ruvector_attention_score(a, b) ORDER BY i)) AS shares
        FROM t WHERE i % 3 = 0 GROUP BY g ORDER BY g""",
        {"q": tables["u"][1]},
    ).fetchnumpy()
    kept = np.arange(ROWS)[::3]
    for group in range(50):
        rows, q = kept[kept % 50 == group], tables["u"][1]
        same(got["weights"][group], ab.attention_scores(q, a[rows]))
        same(got["output"][group], ab.attention(q, a[rows], b[rows]))
        same(got["own"][group], ab.attention(b[rows[0]], a[rows], b[rows], "gat"))
        same(got["shares"][group], ab.softmax(each_score(a[rows], b[rows]).astype(np.float32)))
        logits = ab.attention_logits(q, a[rows])
        assert [hit["id"] for hit in got["best"][group]] == rows[np.argsort(-logits, kind="stable")[:3]].tolist()


def test_windows(con, tables):
    before = fetch(con, f"SELECT {SCORE}(lag(a) OVER (ORDER BY i), a) FROM t ORDER BY i")
    assert before.mask.tolist() == [True] + [False] * (ROWS - 1)
    same(before.data[1:], each_score(tables["a"][:-1], tables["a"][1:]))
    lists = fetch(
        con,
        """
        SELECT ruvector_attention_scores(a, list(b) OVER (ORDER BY i ROWS BETWEEN 2 PRECEDING AND CURRENT ROW))
        FROM t WHERE i < 300 ORDER BY i""",
    )
    for i, weights in enumerate(lists):
        same(weights, ab.attention_scores(tables["a"][i], tables["b"][max(0, i - 2) : i + 1]))
    ranks = fetch(con, f"SELECT rank() OVER (PARTITION BY g ORDER BY {SCORE}(a, b) DESC, i) FROM t ORDER BY i")
    narrow = each_score(tables["a"], tables["b"]).astype(np.float32)
    for group in range(50):
        assert (np.argsort(ranks[group::50]) == np.argsort(-narrow[group::50], kind="stable")).all()
    qualified = fetch(con, f"SELECT i FROM t QUALIFY row_number() OVER (ORDER BY {SCORE}(a, b) DESC, i) = 1")
    assert qualified.tolist() == [narrow.argmax()]


# ---- how long a query's number holds


def test_forty_query_columns_used_twice(con, tables):
    """More queries at once than any small store would keep, each chunk 2,048 of them in every column."""
    columns = ", ".join(f"list_transform(a, lambda x: x + {n})::FLOAT[{DIM}] AS q{n}" for n in range(40))
    calls = ", ".join(f"{SCORE}(q{n}, {key}) AS {key}{n}" for key in "bc" for n in range(40))
    got = con.execute(f"SELECT {calls} FROM (SELECT i, b, c, {columns} FROM t) ORDER BY i").fetchnumpy()
    for n in range(40):
        queries = tables["a"] + np.float32(n)
        for key in "bc":
            some = slice(n, None, 101)
            same(got[f"{key}{n}"][some], each_score(queries[some], tables[key][some]))
    assert all(len(batch.codes) == 1 for batch in pairs._batches.values())
    assert len(pairs._batches) <= 272


def test_scores_within_scores(con, tables):
    """The outer query is read before 40 others are, and scored after all of them."""
    inner = ", ".join(f"{SCORE}(b, c, options := {{scale: {n}.0}})" for n in range(1, 41))
    ones = [1.0] * 40
    got = fetch(con, f"SELECT {SCORE}({ones}, [{inner}]) FROM t ORDER BY i")
    products = each_score(tables["b"], tables["c"], scale=1.0)
    some = slice(None, None, 250)
    keys = np.stack([each_score(tables["b"][some], tables["c"][some], scale=float(n)) for n in range(1, 41)], axis=1)
    same(got[some], ab.attention_logits(ones, keys.astype(np.float32)))
    assert len(products) == len(got)


def test_more_distinct_queries_than_a_chunk(con, tables):
    got = fetch(con, f"SELECT {SCORE}(x.a, y.b) FROM t x JOIN t y ON y.i = {ROWS - 1} - x.i ORDER BY x.i")
    same(got, each_score(tables["a"], tables["b"][::-1]))
    product = fetch(con, f"SELECT max({SCORE}(x.a, y.b)) FROM t x, t y WHERE y.i % 500 = 0 GROUP BY x.i ORDER BY x.i")
    keys = tables["b"][::500]
    want = np.float32([ab.attention_logits(query, keys).max() for query in tables["a"]])
    np.testing.assert_array_equal(product, want)


def test_queries_end_with_their_statement(con):
    con.execute(f"SELECT sum({SCORE}(a, b)), sum({SCORE}([1, 2, 3, 4, 5], a)) FROM t").fetchall()
    with pytest.raises(Exception, match="must match"):
        con.execute(f"SELECT {SCORE}(a, [1.0, 2.0]) FROM t").fetchall()
    assert all(len(batch.codes) == 1 for batch in pairs._batches.values())
    assert len(pairs._batches) <= 272
    with pytest.raises(Exception, match="the query of this score is not known any more"):
        con.execute("SELECT _attnbridge_score(0, [1.0])").fetchall()


def test_plans_compute_no_query_ahead(con):
    """A query that is constant is read once a chunk, neither when a statement is planned nor for each row."""
    pairs._last.clear()
    for call in (
        f"{SCORE}([1, 2, 3, 4, 5], a)",
        f"{SCORE}([1, 2, 3, 4, 5]::FLOAT[{DIM}], a[:])",
        f"{SCORE}((FROM one), a)",
    ):
        first = next(pairs._numbers)
        con.execute(f"WITH one AS (SELECT e FROM u WHERE j = 3) SELECT sum({call}) FROM t").fetchall()
        chunks = math.ceil(ROWS / 2048)
        assert chunks <= next(pairs._numbers) - first - 1 <= 2 * chunks
        assert all(len(batch.codes) == 1 for batch in pairs._last)
        plan = con.execute(f"EXPLAIN WITH one AS (SELECT e FROM u WHERE j = 3) SELECT {call} FROM t").fetchall()[0][1]
        assert "_attnbridge_query(" in "".join(plan.split()).replace("│", "")


def test_calls_of_constants_alone(con):
    """DuckDB computes them when it plans, the number first: also of many tokens, and where they fail."""
    for count in (1, 20_000):
        tokens = np.ones((count, 5), np.float32).tolist()
        got = con.execute("SELECT ruvector_maxsim($1, [[1, 2, 3, 4, 5]]) FROM range(3)", [tokens]).fetchall()
        assert got == [(15.0,)] * 3
    with pytest.raises(Exception, match="Query and key dimensions must match: 2 vs 3"):
        con.execute(f"SELECT {SCORE}([1, 2], [1, 2, 3])").fetchall()


def test_cursors_in_threads(con, tables, scores):
    """Each with queries of its own, at once."""
    want = [ab.attention_logits(tables["u"][number], tables["a"]) for number in range(4)]

    def ask(number):
        with con.cursor() as cursor:
            for _ in range(10):
                statement = f"SELECT {SCORE}($1, a), {SCORE}(a, b) FROM t ORDER BY i"
                constant, pair = cursor.execute(statement, [tables["u"][number]]).fetchnumpy().values()
                same(constant, want[number])
                same(pair, scores)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))


# ---- tables drawn at random


number = st.floats(-1e6, 1e6, width=32)
entry = st.one_of(number, number, number, st.none())


@st.composite
def drawn(draw):
    """Return rows of queries and keys, most of one length, with NULLs; and which of them to keep."""
    dim = draw(st.integers(1, 4))
    vector = st.one_of(
        st.none(),
        st.lists(number, min_size=dim, max_size=dim),
        st.lists(number, min_size=dim, max_size=dim),
        st.lists(entry, min_size=0, max_size=5),
    )
    pool = draw(st.lists(vector, min_size=1, max_size=4))  # the same rows again and again
    rows = st.lists(st.tuples(st.sampled_from(pool), st.one_of(vector, st.sampled_from(pool))), max_size=20)
    return draw(rows), draw(st.integers(0, 5)), draw(st.sampled_from(["scaled_dot", "gat", "linear", "cross"]))


def outcome(call):
    """Return what a call gives as float32, or its error's message."""
    try:
        return call()
    except ab.AttentionError as error:
        return str(error)


@pytest.fixture(scope="module")
def scratch():
    with ab.connect() as con:
        yield con


@settings(max_examples=150, deadline=None)
@given(case=drawn(), kind=st.sampled_from([pa.float32(), pa.float64()]), large=st.booleans())
def test_tables_at_random(scratch, case, kind, large):
    """As an Arrow view of a slice: numbers and NULLs as Python has them, or one of the errors that Python has."""
    rows, skipped, name = case
    listed = (pa.large_list if large else pa.list_)(kind)
    made = pa.table(
        {
            "i": pa.array(range(len(rows)), pa.int64()),
            "q": pa.array([q for q, _ in rows], listed),
            "k": pa.array([k for _, k in rows], listed),
        }
    )
    wanted = [
        outcome(lambda q=q, k=k: None if q is None or k is None else np.float32(ab.attention_score(q, k, name)))
        for q, k in rows[skipped:]
    ]
    scratch.register("made", made.slice(min(skipped, len(rows))))
    call = f"SELECT {SCORE}(q, k, '{name}') FROM made ORDER BY i"
    messages = [want for want in wanted if isinstance(want, str)]
    if messages:
        with pytest.raises(Exception, match="Error") as raised:
            scratch.execute(call).fetchall()
        assert any(message in str(raised.value) for message in messages)
    else:
        got = [None if x is None else np.float32(x) for (x,) in scratch.execute(call).fetchall()]
        assert got == wanted
        assert [x is not None and math.copysign(1, x) for x in got] == [
            x is not None and math.copysign(1, x) for x in wanted
        ]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_sets_at_random(scratch, data):
    """Lists of keys of any number, with NULLs in any place."""
    dim = data.draw(st.integers(1, 3))
    vector = st.one_of(*[st.lists(number, min_size=dim, max_size=dim)] * 4, st.none(), st.lists(entry, max_size=3))
    plain = st.lists(number, min_size=dim, max_size=dim)
    keys = st.one_of(st.none(), st.lists(plain, max_size=4), st.lists(vector, max_size=3))
    rows = data.draw(st.lists(st.tuples(vector, keys), max_size=6))
    listed = pa.list_(pa.float32())
    queries, sets = pa.array([q for q, _ in rows], listed), pa.array([k for _, k in rows], pa.list_(listed))
    made = pa.table({"i": pa.array(range(len(rows)), pa.int64()), "q": queries, "k": sets})
    wanted = [
        outcome(lambda q=q, k=k: None if q is None or k is None else ab.attention_scores(q, k).tolist())
        for q, k in rows
    ]
    scratch.register("made", made)
    call = "SELECT ruvector_attention_scores(q, k) FROM made ORDER BY i"
    messages = [want for want in wanted if isinstance(want, str)]
    if messages:
        with pytest.raises(Exception, match="Error") as raised:
            scratch.execute(call).fetchall()
        assert any(message in str(raised.value) for message in messages)
    else:
        assert [x for (x,) in scratch.execute(call).fetchall()] == wanted


def test_arrow_arrays_of_a_slice(scratch, tables):
    """A view of FLOAT[n] rows that begins within its memory."""
    made = pa.table({"i": np.arange(ROWS), "a": column(tables["a"]), "b": column(tables["b"])}).slice(1_234, 3_000)
    scratch.register("made", made)
    part = slice(1_234, 4_234)
    same(fetch(scratch, f"SELECT {SCORE}(a, b) FROM made ORDER BY i"), each_score(tables["a"][part], tables["b"][part]))
    repeated = pa.table({"v": pa.array(["x", "y", "x"] * 100).dictionary_encode(), "i": range(300)})
    scratch.register("repeated", repeated)
    got = fetch(
        scratch,
        f"SELECT {SCORE}(e.w, [1.0, 2.0]) FROM repeated JOIN (VALUES ('x', [1.0, 0.5]), ('y', [3.0, 4.0])) e(v, w) "
        "USING (v) ORDER BY i",
    )
    same(got, each_score([[1.0, 0.5], [3.0, 4.0], [1.0, 0.5]] * 100, [[1.0, 2.0]] * 300))


def test_names_of_the_users_own(con):
    """Relations and columns called as anything is within the macros, or was."""
    scores = [(id, np.float32(ab.attention_score([1.0, 1.0], [x, 0.0]))) for id, x in (("c", 3), ("b", 2), ("a", 1))]
    for name in ("best", "hit", "k", "query", "keys", "key", "options", "found", "_attnbridge_score"):
        con.execute(
            f'CREATE OR REPLACE TEMP TABLE "{name}" AS SELECT 9 AS place, 99.0 AS score, 42 AS weight, 7 AS id, '
            f"['a', 'b', 'c'] AS ids, [[1, 0], [2, 0], [3, 0]]::FLOAT[2][] AS ks, [1, 1]::FLOAT[2] AS \"{name}\""
        )
        rank = f'ruvector_attention_rank("{name}"."{name}", ids, ks)'
        (ranked,) = con.execute(f'SELECT {rank} FROM "{name}"').fetchone()
        assert [(one["id"], np.float32(one["score"])) for one in ranked] == scores
        con.execute(f'DROP TABLE "{name}"')
