"""ruvector_search: what the bridge finds, as a table."""

import json
import threading

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import attnbridge as ab
from attnbridge.errors import AttentionError
from attnbridge.integrations.duckdb import lookup, register
from attnbridge.integrations.hnswlib import hnswlib_problem

COLUMNS = ("id", "score", "weight", "distance")


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(3).normal(size=(300, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def bridge(vectors):
    """An index with text for ids, payload and tokens."""
    made = ab.AttentionVectorBridge(dim=5, index="exact")
    ids = [f"d{i}" for i in range(300)]
    payload = {"year": [1990 + i % 30 for i in range(300)], "text": [f"word{i % 7} common" for i in range(300)]}
    tokens = [np.roll(vectors[i : i + 1], shift, axis=1).repeat(2, axis=0) for i, shift in enumerate([0, 1, 2] * 100)]
    made.add(vectors, ids, payload=payload, tokens=tokens)
    return made


@pytest.fixture(scope="module")
def con(bridge, vectors):
    with ab.connect(index=bridge) as made:
        made.execute("CREATE TABLE queries (number INTEGER, embedding FLOAT[5], k INTEGER, place VARCHAR)")
        rows = [(i, (row + 0.1).tolist(), 1 + i % 4, f"year > {1990 + i % 20}") for i, row in enumerate(vectors[:60])]
        made.executemany("INSERT INTO queries VALUES (?, ?, ?, ?)", rows)
        yield made


def rows_of(hits):
    return list(
        zip(map(str, hits.ids), hits.scores.tolist(), hits.weights.tolist(), hits.distances.tolist(), strict=True)
    )


def found(con, arguments, values=None, columns="id, score, weight, distance"):
    rows = con.execute(f"SELECT {columns} FROM ruvector_search({arguments})", values).fetchall()
    return [(str(row[0]), *row[1:]) for row in rows]


def message_of(con, arguments, values=None):
    """Return the Python error that a search fails with, as (name of its class, message)."""
    with pytest.raises(duckdb.InvalidInputException) as caught:
        found(con, arguments, values)
    name, _, message = str(caught.value).partition("executing the UDF: ")[2].partition(": ")
    return name, message


# ---- one search


def test_it_is_the_bridges_search(con, bridge, vectors):
    assert found(con, "$q", {"q": vectors[7]}) == rows_of(bridge.search(vectors[7]))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("k := 3", {"k": 3}),
        ("3", {"k": 3}),
        ("k := 3, candidates := 40", {"k": 3, "candidates": 40}),
        ("where_sql := 'year > 2010'", {"where": "year > 2010"}),
        ("where_sql := 'year > $y', params := {y: 2010}", {"where": "year > $y", "params": {"y": 2010}}),
        ("where_sql := 'year > $y', params := MAP {'y': 2010}", {"where": "year > $y", "params": {"y": 2010}}),
        (
            "where_sql := 'year IN $y', params := {y: [1991, 1999]}",
            {"where": "year IN $y", "params": {"y": [1991, 1999]}},
        ),
        ("rerank := 'expansion(top=5)'", {"rerank": "expansion(top=5)"}),
        ("rerank := 'default'", {"rerank": "default"}),
        ("rerank := ['expansion', 'mmr(0.5)']", {"rerank": ["expansion", "mmr(0.5)"]}),
        ("rerank := 'bm25(''text'')', query_text := 'word3'", {"rerank": "bm25('text')", "query_text": "word3"}),
        ("exact := true", {"exact": True}),
        ("k := NULL, radius := 0.5", {"radius": 0.5}),
        ("radius := 0.5", {"radius": 0.5, "k": 10}),
        ("threshold := 15", {"threshold": 15}),
        ("k := 1000", {"k": 1000}),
    ],
)
def test_options_are_those_of_python(con, bridge, vectors, arguments, options):
    want = rows_of(bridge.search(vectors[7], **options))
    assert found(con, f"$q, {arguments}", {"q": vectors[7]}) == want
    assert want


def test_tokens_rank_as_in_python(con, bridge, vectors):
    tokens = vectors[:3] + 0.2
    want = rows_of(bridge.search(vectors[7], rerank="late_interaction", query_tokens=tokens))
    got = found(con, "$q, rerank := 'late_interaction', query_tokens := $t", {"q": vectors[7], "t": tokens})
    assert got == want != rows_of(bridge.search(vectors[7]))


@pytest.mark.parametrize("kind", ["FLOAT[5]", "FLOAT[]", "DOUBLE[]", "DOUBLE[5]"])
def test_a_query_may_be_an_array_or_a_list(con, bridge, vectors, kind):
    got = found(con, f"$q::{kind}", {"q": vectors[7].tolist()})
    assert got == rows_of(bridge.search(vectors[7]))


def test_whole_numbers_are_a_query_too(con, bridge):
    assert found(con, "[1, 0, -2, 0, 3]") == rows_of(bridge.search([1, 0, -2, 0, 3]))


def test_columns_have_their_types(con):
    relation = con.sql("FROM ruvector_search([1, 0, 0, 0, 0])")
    assert dict(zip(relation.columns, map(str, relation.types), strict=True)) == {
        "id": "VARCHAR",
        "score": "DOUBLE",
        "weight": "DOUBLE",
        "distance": "FLOAT",
        "payload": "JSON",
    }


def test_hits_come_best_first(con):
    scores = [score for _, score, *_ in found(con, "[1, 2, 3, 4, 5], k := 300")]
    assert len(scores) == 300
    assert scores == sorted(scores, reverse=True)


def test_null_finds_nothing(con):
    assert found(con, "NULL") == found(con, "NULL::FLOAT[5]") == []


def test_fewer_than_k_qualify(con, bridge, vectors):
    got = found(con, "$q, k := 50, where_sql := 'year = 1995'", {"q": vectors[7]})
    assert len(got) == 10
    assert got == rows_of(bridge.search(vectors[7], 50, where="year = 1995"))
    assert found(con, "$q, where_sql := 'year < 0'", {"q": vectors[7]}) == []


# ---- lateral


def test_lateral_equals_the_batch(con, bridge, vectors):
    rows = con.execute(
        "SELECT number, s.id, s.score, s.weight, s.distance FROM queries, ruvector_search(embedding, k := 4) s"
    ).fetchall()
    for number, hits in enumerate(bridge.search_batch(vectors[:60] + np.float32(0.1), 4)):
        got = sorted((row[1:] for row in rows if row[0] == number), key=lambda row: -row[1])
        assert got == rows_of(hits)


def test_lateral_with_options_by_row(con, bridge, vectors):
    rows = con.execute(
        """SELECT number, k, place, rerank, list((s.id, s.score, s.weight, s.distance) ORDER BY s.score DESC)
        FROM (SELECT *, CASE number % 3 WHEN 0 THEN 'expansion' WHEN 1 THEN 'mmr(0.5)' END AS rerank,
              CASE WHEN number % 4 > 0 THEN place END AS maybe FROM queries),
        ruvector_search(embedding, k := k, candidates := 30 + number % 2, where_sql := maybe, rerank := rerank) s
        GROUP BY ALL ORDER BY number"""
    ).fetchall()
    assert len(rows) == 60
    for number, k, where, rerank, got in rows:
        hits = bridge.search(
            vectors[number] + np.float32(0.1),
            k,
            candidates=30 + number % 2,
            where=where if number % 4 else None,
            rerank=() if rerank is None else rerank,
        )
        assert got == rows_of(hits)


def test_lateral_with_params_texts_and_tokens_by_row(con, bridge, vectors):
    rows = con.execute(
        """SELECT number, list((s.id, s.score, s.weight, s.distance) ORDER BY s.score DESC, s.id)
        FROM queries, ruvector_search(embedding, where_sql := 'year > $y', params := {y: 1990 + number % 5},
            rerank := 'bm25(''text'')', query_text := 'word' || (number % 7)) s GROUP BY ALL ORDER BY number"""
    ).fetchall()
    for number, got in rows:
        hits = bridge.search(
            vectors[number] + np.float32(0.1),
            where="year > $y",
            params={"y": 1990 + number % 5},
            rerank="bm25('text')",
            query_text=f"word{number % 7}",
        )
        assert got == sorted(rows_of(hits), key=lambda row: (-row[1], row[0]))
    rows = con.execute(
        """SELECT number, s.id, s.score FROM queries, ruvector_search(embedding, k := 1,
            rerank := CASE WHEN number % 2 = 0 THEN 'late_interaction' END,
            query_tokens := CASE WHEN number % 2 = 0 THEN [embedding::FLOAT[], embedding::FLOAT[]] END) s"""
    ).fetchall()
    assert len(rows) == 60
    for number, id, score in rows:
        query = vectors[number] + np.float32(0.1)
        options = {"rerank": "late_interaction", "query_tokens": np.stack([query, query])} if number % 2 == 0 else {}
        hits = bridge.search(query, 1, **options)
        assert (id, score) == (hits.ids[0], hits.scores[0])


def test_lateral_passes_over_null_and_keeps_places(con, bridge, vectors):
    rows = con.execute(
        "SELECT number, s.id FROM (SELECT number, CASE WHEN number % 3 > 0 THEN embedding END AS e FROM queries), "
        "ruvector_search(e, k := 1) s ORDER BY number"
    ).fetchall()
    kept = [i for i in range(60) if i % 3]
    assert rows == [(i, bridge.search(vectors[i] + np.float32(0.1), 1).ids[0]) for i in kept]


def test_lateral_over_thousands(con, bridge, rng):
    queries = rng.normal(size=(5000, 5)).astype(np.float32)
    table = pa.table({"number": range(5000), "embedding": list(queries)})
    con.register("many", table)
    got = con.execute(
        "SELECT number, list(s.id ORDER BY s.score DESC) FROM many, ruvector_search(embedding, k := 2) s "
        "GROUP BY ALL ORDER BY number"
    ).fetchall()
    assert got == [(i, hits.ids) for i, hits in enumerate(bridge.search_batch(queries, 2))]


def test_left_join_keeps_queries_without_hits(con):
    rows = con.execute(
        "SELECT n, s.id FROM (VALUES (1, [1, 0, 0, 0, 0]), (2, NULL)) q(n, e) "
        "LEFT JOIN ruvector_search(e, k := 1) s ON true ORDER BY n"
    ).fetchall()
    assert rows[0][1] is not None
    assert rows[1] == (2, None)


def test_join_with_a_table(con, bridge, vectors):
    con.execute(
        "CREATE OR REPLACE TEMP TABLE titles AS SELECT 'd' || i AS id, 'title ' || i AS title FROM range(300) r(i)"
    )
    got = con.execute(
        "SELECT title FROM ruvector_search($q, k := 5) JOIN titles USING (id) ORDER BY score DESC", {"q": vectors[9]}
    ).fetchall()
    assert got == [(f"title {id[1:]}",) for id in bridge.search(vectors[9], 5).ids]


def test_a_prepared_statement_searches_anew(con, bridge, vectors):
    con.execute("PREPARE nearest AS SELECT id FROM ruvector_search($q::FLOAT[5], k := 1)")
    for i in (3, 4, 5):
        ((id,),) = con.execute(f"EXECUTE nearest(q := {vectors[i].tolist()})").fetchall()
        assert id == bridge.search(vectors[i], 1).ids[0] == f"d{i}"


def test_threads_with_a_cursor_each(con, bridge, vectors):
    wrong = []

    def work(offset):
        with con.cursor() as cursor:
            for i in range(offset, 40, 4):
                got = found(cursor, "$q, where_sql := 'year > 2000'", {"q": vectors[i]})
                if got != rows_of(bridge.search(vectors[i], where="year > 2000")):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "query", "options"),
    [
        ("[1, 2]", [1, 2], {}),
        ("[1, 2, 3, 4, 'nan'::FLOAT]", [1, 2, 3, 4, float("nan")], {}),
        ("[1, 2, 3, 4, 'inf'::FLOAT]", [1, 2, 3, 4, float("inf")], {}),
        ("[1, 2, NULL, 4, 5]", [1, 2, None, 4, 5], {}),
        ("[]", [], {}),
        ("[0, 0, 0, 0, 0]", [0, 0, 0, 0, 0], {}),
        ("[[1, 2, 3, 4, 5]]", [[1, 2, 3, 4, 5]], {}),
        ("[1, 2, 3, 4, 5], k := 0", [1, 2, 3, 4, 5], {"k": 0}),
        ("[1, 2, 3, 4, 5], k := 'x'", [1, 2, 3, 4, 5], {"k": "x"}),
        ("[1, 2, 3, 4, 5], k := 2.5", [1, 2, 3, 4, 5], {"k": 2.5}),
        ("[1, 2, 3, 4, 5], k := [1]", [1, 2, 3, 4, 5], {"k": [1]}),
        ("[1, 2, 3, 4, 5], candidates := -1", [1, 2, 3, 4, 5], {"candidates": -1}),
        ("[1, 2, 3, 4, 5], rerank := 'nothing'", [1, 2, 3, 4, 5], {"rerank": "nothing"}),
        ("[1, 2, 3, 4, 5], rerank := 3", [1, 2, 3, 4, 5], {"rerank": 3}),
        ("[1, 2, 3, 4, 5], where_sql := 'nowhere = 1'", [1, 2, 3, 4, 5], {"where": "nowhere = 1"}),
        ("[1, 2, 3, 4, 5], where_sql := 'year >'", [1, 2, 3, 4, 5], {"where": "year >"}),
        ("[1, 2, 3, 4, 5], where_sql := ''", [1, 2, 3, 4, 5], {"where": ""}),
        ("[1, 2, 3, 4, 5], where_sql := 1", [1, 2, 3, 4, 5], {"where": 1}),
        ("[1, 2, 3, 4, 5], where_sql := 'year > $y'", [1, 2, 3, 4, 5], {"where": "year > $y"}),
        ("[1, 2, 3, 4, 5], params := {y: 1}", [1, 2, 3, 4, 5], {"params": {"y": 1}}),
        ("[1, 2, 3, 4, 5], query_text := 'a'", [1, 2, 3, 4, 5], {"query_text": "a"}),
        ("[1, 2, 3, 4, 5], rerank := 'bm25(''text'')'", [1, 2, 3, 4, 5], {"rerank": "bm25('text')"}),
        ("[1, 2, 3, 4, 5], query_tokens := [[1, 2, 3, 4, 5]]", [1, 2, 3, 4, 5], {"query_tokens": [[1, 2, 3, 4, 5]]}),
        (
            "[1, 2, 3, 4, 5], rerank := 'late_interaction', query_tokens := [[1, 2]]",
            [1, 2, 3, 4, 5],
            {"rerank": "late_interaction", "query_tokens": [[1, 2]]},
        ),
        ("[1, 2, 3, 4, 5], position := 3", [1, 2, 3, 4, 5], {"position": 3}),
        ("[1, 2, 3, 4, 5], ef := 50", [1, 2, 3, 4, 5], {"ef": 50}),
        ("[1, 2, 3, 4, 5], radius := 'x'", [1, 2, 3, 4, 5], {"radius": "x"}),
        ("[1, 2, 3, 4, 5], threshold := 'x'", [1, 2, 3, 4, 5], {"threshold": "x"}),
    ],
)
def test_errors_are_those_of_python(con, bridge, arguments, query, options):
    with pytest.raises(AttentionError) as wanted:
        bridge.search(query, **options)
    name, message = message_of(con, arguments)
    assert (name, message.replace(".0", "")) == (type(wanted.value).__name__, str(wanted.value).replace(".0", ""))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'text'", "query must be real numbers, got string; cast it, as in query::FLOAT[]"),
        ("3", "query must be a list or an array of numbers such as FLOAT[384], got one number"),
        ("[1, 2, 3, 4, 5], exact := 'no'", "exact must be True or False, got 'no'"),
        (
            "[1, 2, 3, 4, 5], where_sql := 'year > $y', params := 3",
            "params must be a STRUCT such as {scale: 1.0}, got 3",
        ),
    ],
)
def test_what_python_is_never_given(con, arguments, message):
    assert message_of(con, arguments)[1] == message


def test_an_unknown_argument_is_refused(con):
    with pytest.raises(duckdb.BinderException, match="does not support the supplied arguments"):
        found(con, "[1, 2, 3, 4, 5], nearest := 3")


def test_of_many_queries_the_bad_one_is_told(con, bridge):
    with pytest.raises(duckdb.InvalidInputException, match="query must have dimension 5, got 2"):
        con.execute(
            "SELECT * FROM (VALUES ([1, 2, 3, 4, 5]), ([1, 2]), ([5, 4, 3, 2, 1])) q(e), ruvector_search(e) s"
        ).fetchall()
    with pytest.raises(duckdb.InvalidInputException, match="query must be finite: position 0 is nan"):
        con.execute(
            "SELECT * FROM (SELECT * REPLACE (CASE WHEN number = 9 THEN ['nan'::FLOAT, 1, 1, 1, 1]::FLOAT[5] "
            "ELSE embedding END AS embedding) FROM queries), ruvector_search(embedding) s"
        ).fetchall()
    assert len(found(con, "[1, 2, 3, 4, 5]")) == 10  # the connection goes on


# ---- indexes


def test_an_empty_index_finds_nothing_and_then_what_is_added():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    with ab.connect(index=bridge) as con:
        assert found(con, "[1, 0]") == []
        bridge.add([[1.0, 0.0]], [5], payload={"year": [7]})
        assert con.execute("SELECT id, payload->>'year' FROM ruvector_search([1, 0])").fetchall() == [("5", "7")]
        register(con, index=bridge)  # now it is known what ids are
        assert con.execute("SELECT id, payload->>'year' FROM ruvector_search([1, 0])").fetchall() == [(5, "7")]


def test_whole_numbers_for_ids():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [0.0, 1.0]], [-3, 2**62])
    with ab.connect(index=bridge) as con:
        relation = con.sql("SELECT id FROM ruvector_search([0, 1])")
        assert str(relation.types[0]) == "BIGINT"
        assert relation.fetchall() == [(2**62,), (-3,)]


def test_text_that_looks_like_numbers_stays_text():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [0.0, 1.0]], ["007", "1e3"], payload={"n": [1, 2]})
    with ab.connect(index=bridge) as con:
        rows = con.execute("SELECT id, payload->>'n' FROM ruvector_search([1, 0])").fetchall()
    assert rows == [("007", "1"), ("1e3", "2")]


@pytest.mark.parametrize("settings", [{"metric": "l2"}, {"metric": "ip"}, {"attention": "poincare"}])
def test_other_metrics(settings, rng):
    bridge = ab.AttentionVectorBridge(dim=3, index="exact", **settings)
    rows = (0.1 * rng.normal(size=(50, 3))).astype(np.float32)
    bridge.add(rows)
    with ab.connect(index=bridge) as con:
        con.execute("CREATE TABLE queries AS SELECT i, [i / 100, 0.1, 0.2]::FLOAT[3] AS e FROM range(20) r(i)")
        got = con.execute(
            "SELECT i, list((s.id, s.score, s.weight, s.distance) ORDER BY s.score DESC, s.id) "
            "FROM queries, ruvector_search(e, k := 5) s GROUP BY i ORDER BY i"
        ).fetchall()
        single = con.execute(
            "SELECT id, score, weight, distance FROM ruvector_search([0.1, 0.1, 0.2], k := 5)"
        ).fetchall()
    for i, mine in got:
        hits = bridge.search(np.array([i / 100, 0.1, 0.2], np.float32), 5)
        assert [(str(id), *rest) for id, *rest in mine] == rows_of(hits)
    assert [(str(id), *rest) for id, *rest in single] == rows_of(bridge.search([0.1, 0.1, 0.2], 5))


def test_a_sequence_takes_the_querys_position():
    bridge = ab.AttentionVectorBridge(dim=2, attention="sliding", position="place", window=2, index="exact")
    bridge.add(np.ones((9, 2)), payload={"place": list(range(9))})
    with ab.connect(index=bridge) as con:
        rows = con.execute("SELECT id FROM ruvector_search([1, 0], position := 4) ORDER BY id").fetchall()
        assert rows == [(2,), (3,), (4,), (5,), (6,)]
        rows = con.execute(
            "SELECT p, count(*) FROM (VALUES (0), (4)) q(p), ruvector_search([1, 0], position := p) "
            "GROUP BY p ORDER BY p"
        ).fetchall()
        assert rows == [(0, 3), (4, 5)]
        with pytest.raises(duckdb.InvalidInputException, match="sliding needs the query's place"):
            con.execute("FROM ruvector_search([1, 0])").fetchall()


def test_hnsw_takes_ef(rng):
    rows = rng.normal(size=(500, 8)).astype(np.float32)
    if hnswlib_problem() is not None:
        pytest.skip("hnswlib does not run here")
    bridge = ab.AttentionVectorBridge(dim=8, index="hnsw", threads=1)
    bridge.add(rows)
    with ab.connect(index=bridge) as con:
        got = found(con, "$q, k := 5, ef := 10", {"q": rows[0]})
    assert got == rows_of(bridge.search(rows[0], 5, ef=10))


# ---- payload


def test_payload_is_the_hits_payload_as_json(con, bridge, vectors):
    rows = con.execute("SELECT id, payload FROM ruvector_search($q)", {"q": vectors[7]}).fetchall()
    hits = bridge.search(vectors[7])
    assert [(id, json.loads(payload)) for id, payload in rows] == list(zip(hits.ids, hits.payload, strict=True))
    years = con.execute("SELECT (payload->>'year')::INTEGER FROM ruvector_search($q)", {"q": vectors[7]}).fetchall()
    assert [year for (year,) in years] == [record["year"] for record in hits.payload]


def test_payload_is_made_only_where_it_is_selected(con, monkeypatch):
    made = []
    monkeypatch.setattr(lookup, "jsonable", lambda record: made.append(record) or record)
    assert len(found(con, "[1, 2, 3, 4, 5]")) == 10
    assert con.execute("SELECT count(*) FROM ruvector_search([1, 2, 3, 4, 5])").fetchall() == [(10,)]
    assert made == []
    assert "payload" not in con.execute("EXPLAIN SELECT id FROM ruvector_search([1, 2, 3, 4, 5])").fetchall()[0][1]
    assert len(con.execute("SELECT payload FROM ruvector_search([1, 2, 3, 4, 5])").fetchall()) == len(made) == 10


def test_documents_without_payload_have_an_empty_one():
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0]], ["a"])
    with ab.connect(index=bridge) as con:
        assert con.execute("SELECT payload FROM ruvector_search([1, 0])").fetchall() == [("{}",)]
        bridge.add([[0.0, 1.0]], ["b"], payload={"year": [3]})
        rows = con.execute("SELECT id, payload FROM ruvector_search([1, 0])").fetchall()
    assert rows == [("a", '{"year": null}'), ("b", '{"year": 3}')]


def test_a_document_that_is_gone_by_then_has_none(bridge):
    token = lookup.indexes.token_of(bridge)
    tokens, ids = pa.chunked_array([[token] * 3]), pa.chunked_array([["d0", "not there", None]])
    first, *rest = lookup.payload(tokens, ids).to_pylist()
    assert json.loads(first) == bridge.payload("d0")
    assert rest == [None, None]


def test_tables_named_as_within_the_macro(con, bridge, vectors):
    for name in ("hit", "found", "s", "k"):
        con.execute(
            f'CREATE OR REPLACE TEMP TABLE "{name}" AS SELECT -1 AS id, -1.0 AS score, $q AS e', {"q": vectors[3]}
        )
        got = con.execute(f'SELECT r.id, r.score FROM "{name}", ruvector_search("{name}".e, 3) r ORDER BY 2 DESC')
        hits = bridge.search(vectors[3], 3)
        assert got.fetchall() == list(zip(hits.ids, hits.scores.tolist(), strict=True))
