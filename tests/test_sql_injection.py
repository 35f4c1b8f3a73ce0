"""What is given to the SQL functions is data: nothing of it is run, read or dropped."""

import json

import duckdb
import numpy as np
import pytest

import attnbridge as ab
from attnbridge.errors import AttentionError
from attnbridge.integrations.duckdb import macros, register

SECRET = "the-secret-of-this-test"

# Texts that do something wherever they are run as SQL or Python; {folder} holds secret.csv and nothing else.
ATTACKS = [
    "'; DROP TABLE x; --",
    '"; DROP TABLE x; --',
    "x'); DROP TABLE x; --",
    "1=1); DROP TABLE x; SELECT (1",
    "true /* */ ; DELETE FROM x",
    "true -- comment\n; DROP TABLE x",
    "$$; DROP TABLE x; $$",
    "id IN (SELECT secret FROM x)",
    "EXISTS (SELECT 1 FROM x)",
    "(SELECT count(*) FROM read_csv('{folder}/secret.csv')) > 0",
    "'the' IN (FROM read_text('{folder}/secret.csv'))",
    "read_csv('{folder}/secret.csv')",
    "read_text('{folder}/secret.csv')",
    "length((SELECT content FROM read_blob('{folder}/secret.csv'))) > 0",
    "(SELECT * FROM '{folder}/secret.csv')",
    "COPY x TO '{folder}/out.csv'",
    "(COPY (SELECT 1) TO '{folder}/out.csv')",
    "ATTACH '{folder}/new.duckdb'",
    "EXPORT DATABASE '{folder}/out'",
    "PRAGMA database_list",
    "INSTALL httpfs; LOAD httpfs",
    "getenv('ATTNBRIDGE_SECRET') = '{secret}'",
    "query('DROP TABLE x')",
    "query_table('x')",
    "(FROM duckdb_settings())",
    "current_setting('threads') = 1",
    "getvariable('secret') = '{secret}'",
    "__import__('os').system('touch {folder}/out')",
    "open('{folder}/out', 'w')",
    "lambda: 1",
    "UPDATE x SET secret = ''",
    "1; SELECT 1",
    "year = 1 UNION SELECT secret FROM x",
]


@pytest.fixture(scope="module")
def bridge():
    made = ab.AttentionVectorBridge(dim=2, index="exact")
    made.add([[1.0, 0.0], [0.0, 1.0]], ["a", "b"], payload={"year": [1, 2], "text": ["one", "two"]})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("attacks")
    (made / "secret.csv").write_text(f"secret\n{SECRET}\n")
    return made


@pytest.fixture(scope="module")
def con(bridge):
    with ab.connect(index=bridge) as made:
        made.execute("CREATE TABLE x AS SELECT ? AS secret", [SECRET])
        made.execute(f"SET VARIABLE secret = '{SECRET}'")
        functions = "SELECT function_name, macro_definition FROM duckdb_functions() ORDER BY ALL"
        before = made.execute(functions).fetchall()
        yield made
        assert made.execute(functions).fetchall() == before


@pytest.fixture
def safe(con, folder, monkeypatch):
    """Return a connection, and a function that fills an attack in; at the end nothing has happened."""
    monkeypatch.setenv("ATTNBRIDGE_SECRET", SECRET)
    monkeypatch.chdir(folder)
    yield con, lambda attack: attack.replace("{folder}", str(folder)).replace("{secret}", SECRET)
    assert con.execute("SELECT secret FROM x").fetchall() == [(SECRET,)]
    assert con.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("x",)]
    databases = con.execute("SELECT database_name FROM duckdb_databases() ORDER BY ALL").fetchall()
    assert databases == [("memory",), ("system",), ("temp",)]
    assert [path.name for path in folder.iterdir()] == ["secret.csv"]


def refused(con, sql, values=None):
    """Run a statement that has to fail with an error of ours, and return the message, which gives nothing away."""
    with pytest.raises(duckdb.InvalidInputException) as caught:
        con.execute(sql, values).fetchall()
    name, _, message = str(caught.value).partition("executing the UDF: ")[2].partition(": ")
    assert SECRET not in message or SECRET in str(values)
    assert issubclass(getattr(ab.errors, name), AttentionError)
    return message


@pytest.mark.parametrize("attack", ATTACKS)
def test_where(safe, attack):
    con, fill = safe
    refused(con, "FROM ruvector_search([1, 0], where_sql := $a)", {"a": fill(attack)})
    refused(con, "FROM (VALUES ($a)) t(a), ruvector_search([1, 0], where_sql := a)", {"a": fill(attack)})


@pytest.mark.parametrize("attack", ATTACKS)
def test_params_are_values(safe, attack):
    con, fill = safe
    given = {"a": fill(attack)}
    assert (
        con.execute(
            "SELECT id FROM ruvector_search([1, 0], where_sql := 'text = $t', params := {t: $a})", given
        ).fetchall()
        == []
    )
    assert (
        len(
            con.execute(
                "SELECT id FROM ruvector_search([1, 0], where_sql := 'text <> $t', params := {t: $a})", given
            ).fetchall()
        )
        == 2
    )
    refused(con, "FROM ruvector_search([1, 0], where_sql := 'text = $t', params := MAP {$a: 1})", given)


@pytest.mark.parametrize("attack", ATTACKS)
def test_rerank(safe, attack):
    con, fill = safe
    message = refused(con, "FROM ruvector_search([1, 0], rerank := $a)", {"a": fill(attack)})
    assert message.startswith("rerank")
    message = refused(con, "FROM ruvector_search([1, 0], rerank := $a)", {"a": f"bm25({fill(attack)})"})
    assert message.startswith("rerank")
    refused(con, "FROM ruvector_search([1, 0], rerank := ['mmr', $a])", {"a": fill(attack)})


@pytest.mark.parametrize("attack", ATTACKS)
def test_query_text_is_words(safe, attack):
    con, fill = safe
    rows = con.execute(
        "SELECT id FROM ruvector_search([1, 0], rerank := 'bm25(''text'')', query_text := $a)", {"a": fill(attack)}
    ).fetchall()
    assert len(rows) == 2


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("argument", ["k", "candidates", "ef", "exact", "radius", "threshold", "position"])
def test_other_arguments(safe, attack, argument):
    con, fill = safe
    refused(con, f"FROM ruvector_search([1, 0], {argument} := $a)", {"a": fill(attack)})


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_query_is_no_text(safe, attack):
    con, fill = safe
    given = {"a": fill(attack)}
    assert "query must be real numbers" in refused(con, "FROM ruvector_search($a)", given)
    assert "query must be real numbers" in refused(con, "SELECT ruvector_attention_score($a, [1, 2])", given)
    assert "must be real numbers" in refused(con, "SELECT ruvector_attention_score([1, 2], $a)", given)
    assert "must be real numbers" in refused(con, "SELECT ruvector_softmax($a)", given)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attention_types_and_options(safe, attack):
    con, fill = safe
    given = {"a": fill(attack)}
    refused(con, "SELECT ruvector_attention_score([1, 2], [1, 2], $a)", given)
    refused(con, "SELECT ruvector_attention_scores([1, 2], [[1, 2]], $a)", given)
    refused(con, "SELECT ruvector_attention_score([1, 2], [1, 2], options := MAP {$a: 1})", given)
    refused(con, "SELECT ruvector_attention_score([1, 2], [1, 2], options := {scale: $a})", given)
    refused(con, "SELECT ruvector_attention_score([1, 2], [1, 2], options := $a)", given)
    refused(con, "SELECT ruvector_multi_head_attention([1, 2], [[1, 2]], [[1, 2]], num_heads := $a)", given)


@pytest.mark.parametrize("attack", ATTACKS)
def test_ids_of_lists_are_values(safe, attack):
    con, fill = safe
    ((ranked,),) = con.execute(
        "SELECT ruvector_attention_rank([1, 0], [$a, 'b'], [[1, 0], [0, 1]])", {"a": fill(attack)}
    ).fetchall()
    assert [best["id"] for best in ranked] == [fill(attack), "b"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_prefixes(safe, attack):
    con, fill = safe
    for prefix in (fill(attack), f"a{fill(attack)}", f"ruvector_{fill(attack)}"):
        with pytest.raises(AttentionError, match="prefix must be at most 40 letters"):
            register(con, prefix=prefix)


@pytest.mark.parametrize("attack", ATTACKS)
def test_ids_and_payload_come_back_as_they_are(attack):
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    column = attack.replace("\n", " ")
    bridge.add([[1.0, 0.0], [0.0, 1.0]], [attack, "b"], payload={column: [attack, None]})
    with ab.connect(index=bridge) as con:
        con.execute("CREATE TABLE x (id VARCHAR)")
        rows = con.execute("SELECT id, payload FROM ruvector_search([1, 0])").fetchall()
        assert [(id, json.loads(payload)) for id, payload in rows] == [
            (attack, {column: attack}),
            ("b", {column: None}),
        ]
        quoted = '"' + column.replace('"', '""') + '"'
        rows = con.execute(
            "SELECT id FROM ruvector_search([1, 0], where_sql := $w, params := {t: $a})",
            {"w": f"{quoted} = $t AND id = $t", "a": attack},
        ).fetchall()
        assert rows == [(attack,)]
        assert con.execute("SELECT count(*) FROM x").fetchall() == [(0,)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_tables_and_columns_of_from_duckdb(safe, attack):
    con, fill = safe
    con.execute("CREATE TEMP TABLE documents AS SELECT 'a' AS id, [1.0, 0.0]::FLOAT[2] AS embedding, 1 AS year")
    name = fill(attack)
    with pytest.raises(AttentionError, match="table must name a table or view"):
        ab.AttentionVectorBridge.from_duckdb(con, name)
    for given in ({"vector": name}, {"id": name}, {"payload": [name]}):
        with pytest.raises(AttentionError, match=r"must name (a column|columns) of table documents"):
            ab.AttentionVectorBridge.from_duckdb(con, "documents", **given)
    quoted = '"' + name.replace('"', '""') + '"'
    con.execute(f"CREATE TEMP TABLE {quoted} AS SELECT 'a' AS id, [1.0, 0.0]::FLOAT[2] AS {quoted}, 1 AS year")
    made = ab.AttentionVectorBridge.from_duckdb(con, quoted, vector=name, payload=True)
    assert made.payload("a") == {"year": 1}
    con.execute(f"DROP TABLE {quoted}")
    con.execute("DROP TABLE documents")


def test_texts_of_the_registry(monkeypatch):
    """Names and descriptions of the types stand in a macro as literals."""
    texts = ["o'clock", "'; DROP TABLE x; --", "$max_keys $$ ${token}", 'two  blanks\nand "lines"', "\\'"]
    rows = [{"name": text, "complexity": text[::-1], "best_for": text * 2} for text in texts]
    monkeypatch.setattr(macros, "attention_types", lambda: rows)
    with duckdb.connect() as con:
        con.execute("CREATE TABLE x (i INTEGER)")
        register(con)
        got = con.execute("FROM ruvector_attention_types()").fetchall()
        assert got == [(text, text[::-1], text * 2) for text in texts]
        assert con.execute("SELECT count(*) FROM x").fetchall() == [(0,)]


@pytest.mark.parametrize("name", ["secret.csv", "{folder}/secret.csv", '"secret.csv"', '"{folder}/secret.csv"'])
def test_a_table_is_no_file(safe, name):
    con, fill = safe
    with pytest.raises(AttentionError, match=r"table or view: there is no .*secret\.csv.* in the database; from_p"):
        ab.AttentionVectorBridge.from_duckdb(con, fill(name), vector="secret")


@pytest.mark.parametrize("value", ["", "a'b", 'a"b', "a''b", "--", "ü; DROP TABLE x", "a.b", '"a"."b"', "\\'"])
def test_literals_and_names(value):
    with duckdb.connect() as con:
        assert con.execute(f"SELECT {macros.text(value)}").fetchall() == [(value,)]
        if value:
            relation = con.sql(f"SELECT 1 AS {macros.identifier(value)}")
            assert relation.columns == [value]


def test_a_token_of_somebody_elses_finds_nothing(safe):
    """Without the token, 122 random bits, the functions beneath the macros search no index."""
    con, _ = safe
    for token in ("none", "", "a", "%", "*"):
        message = refused(con, "SELECT _attnbridge_payload($a, 'a')", {"a": token})
        assert message.startswith("search needs an index")


def test_vectors_are_read_from_numbers_only(safe):
    con, _ = safe
    con.execute("CREATE TEMP TABLE vectors AS SELECT ['1; DROP TABLE x', '2'] AS e")
    assert "must be real numbers" in refused(con, "FROM vectors, ruvector_search(e)")
    con.execute("DROP TABLE vectors")
    assert np.isfinite(con.execute("SELECT score FROM ruvector_search([1, 0])").fetchall()).all()
