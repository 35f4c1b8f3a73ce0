"""`attnbridge sql`: results in every format, and errors as the Python API says them."""

import ctypes
import json
import os
import signal
import subprocess
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import attnbridge as ab
import attnbridge.cli as command_line
from attnbridge.cli.sql import _interruptible

ROWS, DIM = 30, 5

# A column of each of the types that are hard to print, and its JSON.
HARD = {
    "170141183460469231731687303715884105727::HUGEINT": 2**127 - 1,
    "12.50::DECIMAL(5, 2)": 12.5,
    "'nan'::DOUBLE": None,
    "['1', NULL, 'inf']::FLOAT[]": [1.0, None, None],
    "[1, 2]::FLOAT[2]": [1.0, 2.0],
    "[[1], [2, 3]]": [[1], [2, 3]],
    "'ab'::BLOB": "YWI=",
    "MAP {1: 'a'}": {"1": "a"},
    "{'a': 1, 'b \"c': [DATE '2020-01-31']}": {"a": 1, 'b "c': ["2020-01-31"]},
    "DATE '10000-01-01'": "10000-01-01",
    "DATE 'infinity'": "infinity",
    "TIMESTAMP_NS '2020-01-01 00:00:00.123456789'": "2020-01-01 00:00:00.123456789",
    "[TIME '12:00:01']": ["12:00:01"],
    "INTERVAL 1 MONTH": "1 month",
    "'f5279798-72cb-4662-9f8e-57824858515e'::UUID": "f5279798-72cb-4662-9f8e-57824858515e",
    "BITSTRING '101'": "101",
    "'{\"a\": [1]}'::JSON": {"a": [1]},
    "NULL::JSON": None,
    "NULL": None,
    "'a'::ENUM ('a', 'b')": "a",
    "true": True,
}


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def parquet(vectors, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "docs.parquet"
    pq.write_table(pa.table({"id": np.arange(ROWS), "embedding": pa.array(list(vectors))}), path)
    return path


@pytest.fixture(scope="module")
def folder(vectors, tmp_path_factory):
    """Return an index."""
    path = tmp_path_factory.mktemp("indexes") / "docs"
    made = ab.AttentionVectorBridge(DIM, index="exact")
    made.add(vectors, payload={"lang": ["de" if i % 2 else "en" for i in range(ROWS)]})
    made.save(path)
    return path


def run(*args, stdin=None):
    """Run in this process; an unexpected exception fails the test with its traceback."""
    result = CliRunner().invoke(command_line.cli, ["sql", *map(str, args)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeeds(*args, stdin=None):
    result = run(*args, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def fails(*args, code=1, stdin=None):
    """Return what stderr says of a command that must fail; nothing goes to stdout."""
    result = run(*args, stdin=stdin)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr.partition("Error: ")[2].rstrip("\n")


def rows_of(*args, stdin=None):
    return json.loads(succeeds(*args, "--format", "json", stdin=stdin))


# ---- what is asked


def test_scores_of_a_parquet_file_are_the_library_s(parquet, vectors):
    query = [0.5, -1.0, 0.25, 2.0, 0.0]
    rows = rows_of(
        f"SELECT id, ruvector_attention_score($q, embedding) AS score FROM '{parquet}' ORDER BY score DESC LIMIT 7",
        f"--param=q={json.dumps(query)}",
    )
    scores = ab.attention_logits(np.array(query, np.float32), vectors).astype(np.float32)
    best = np.argsort(-scores, kind="stable")[:7]
    assert rows == [{"id": i, "score": float(scores[i])} for i in best]


def test_index_is_searched_with_its_payload(folder, vectors):
    rows = rows_of(
        "SELECT * FROM ruvector_search($q::FLOAT[5], k := 3, where_sql := $w)",
        "--index", folder, "--param", f"q={vectors[7].tolist()}", "--param", "w=lang = 'de'",
    )  # fmt: skip
    with ab.AttentionVectorBridge.open(folder) as bridge:
        hits = bridge.search(vectors[7], 3, where="lang = 'de'")
    assert [row["id"] for row in rows] == list(hits.ids)
    assert [row["score"] for row in rows] == pytest.approx(hits.scores.tolist())
    assert rows[0]["payload"] == {"lang": "de"}


def test_last_of_several_statements_is_printed(tmp_path):
    assert rows_of("CREATE TABLE t AS SELECT range AS i FROM range(4); SELECT 1; SELECT sum(i) AS s FROM t;") == [
        {"s": 6}
    ]
    assert rows_of("BEGIN; SELECT 1; INSERT INTO t VALUES (2); ROLLBACK; SELECT count(*) AS n FROM t",
                   "--database", made(tmp_path, "CREATE TABLE t (i INTEGER)")) == [{"n": 0}]  # fmt: skip


def test_earlier_statements_run_to_their_end():
    sql = "CREATE SEQUENCE s; SELECT nextval('s') FROM range(100000); SELECT nextval('s') AS n"
    assert rows_of(sql) == [{"n": 100_001}]
    assert "late" in fails("SELECT CASE WHEN i = 99999 THEN error('late') END FROM range(100000) t (i); SELECT 1")


def made(folder, sql):
    """Return a database file in which a statement was run."""
    file = folder / "made.duckdb"
    succeeds(sql, "--database", file)
    return file


def test_stdin_and_file(tmp_path):
    assert rows_of("-", stdin="SELECT 'ü' AS x;\n-- done\n") == [{"x": "ü"}]
    file = tmp_path / "ask.sql"
    file.write_text("SELECT 'ü' AS x;", encoding="utf-8")
    assert rows_of("--file", file) == [{"x": "ü"}]
    file.write_bytes(b"SELECT '\xff'")
    assert fails("--file", file).startswith(f"{file} must be SQL in UTF-8: ")
    assert fails("-", stdin=b"\xff").startswith("stdin must be SQL in UTF-8: ")
    assert fails("--file", tmp_path / "never.sql") == f"{tmp_path}/never.sql: No such file or directory"


def test_parameters_go_to_the_statements_that_have_them():
    sql = "CREATE TABLE t AS SELECT $a AS a; SELECT a, $b AS b, $c AS c FROM t"
    assert rows_of(sql, "--param", "a=1.5", "--param", "b=text", "--param", "c=null") == [
        {"a": 1.5, "b": "text", "c": None}
    ]
    assert rows_of("SELECT $1 + 1 AS x", "--param", "1=2") == [{"x": 3}]
    assert fails("SELECT 1", "--param", "q=1", code=2) == "--param q: the SQL has no $q"
    assert fails("SELECT $q", code=2) == "the SQL has $q: give its value with --param q=VALUE"
    assert fails("SELECT $q", "--param", "q", code=2) == "--param must be NAME=VALUE, got 'q'"


def test_prefix_and_threads():
    assert rows_of("SELECT att_softmax([0, 0]) AS s", "--prefix", "att_") == [{"s": [0.5, 0.5]}]
    assert fails("SELECT 1", "--prefix", "a b").startswith("prefix must be at most 40 letters")
    assert rows_of("SELECT current_setting('threads') AS n", "--threads", 3) == [{"n": 3}]


def test_variables_of_python_are_no_tables():
    for name in ("relation", "statement", "values", "con", "text"):
        assert f"Table with name {name} does not exist" in fails(f"FROM {name}")


def test_progress_bar_is_for_terminals(monkeypatch):
    asked = "SELECT current_setting('enable_progress_bar') AS bar"
    assert rows_of(asked) == [{"bar": False}]
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda stream: True, raising=False)
    assert rows_of(asked) == [{"bar": True}]


@pytest.mark.parametrize(
    "sql", ["SELECT ';' AS x", "SELECT ';--' AS x -- ;'", "SELECT /* ; */ ';' AS x", "SELECT ';' AS x;"]
)
@pytest.mark.parametrize("end", ["", ";", " ; -- done; really", "-- done;", "/* ; */;", ";;\n"])
def test_comments_and_semicolons(sql, end):
    (row,) = rows_of(sql + end if "--" not in sql.replace("';--'", "") else f"{sql}\n{end}")
    assert row["x"].startswith(";")


# ---- the database


def test_database_is_made_and_keeps_what_is_written(tmp_path):
    file = made(tmp_path, "CREATE TABLE t AS SELECT 1 AS i")
    for option in ([], ["--read-only"]):
        asked = "SELECT i, ruvector_attention_score([1, 2], [3, 4], options := {scale: 1.0}) AS s FROM t"
        assert rows_of(asked, "--database", file, *option) == [{"i": 1, "s": 11.0}]
    assert "read-only" in fails("INSERT INTO t VALUES (2)", "--database", file, "--read-only")
    with duckdb.connect(file) as con:
        assert con.sql("FROM t").fetchall() == [(1,)]


def test_nothing_is_made_for_what_cannot_be(tmp_path):
    file = tmp_path / "never.duckdb"
    assert "database does not exist" in fails("SELECT 1", "--database", file, "--read-only")
    assert "syntax error" in fails("SELEC 1", "--database", file)
    assert "missing" in fails("SELECT 1", "--database", file, "--index", tmp_path / "missing")
    assert fails("SELECT 1", "--read-only", code=2) == "--read-only needs --database"
    assert list(tmp_path.iterdir()) == []
    assert "IO Error" in fails("SELECT 1", "--database", tmp_path / "missing" / "x.duckdb")
    (tmp_path / "text.duckdb").write_text("no database")
    assert "not a valid DuckDB database" in fails("SELECT 1", "--database", tmp_path / "text.duckdb")


# ---- results


def test_table(vectors):
    sql = f"SELECT 'word' AS name, range AS i, {vectors[0].tolist() * 9}::FLOAT[] AS v, NULL AS n FROM range(2)"
    head, rule, first, second = succeeds(sql).splitlines()
    assert head.split() == ["name", "i", "v", "n"]
    assert set(rule) == {"─"}
    assert first.split()[:2] == ["word", "0"]
    assert first.rstrip().endswith("...")
    assert len(second) < 80
    assert "0.1" in succeeds("SELECT 0.1::FLOAT AS x")
    assert succeeds(sql, "--format", "table") == succeeds(sql)


def test_table_without_rows_has_its_head():
    assert [line.split() for line in succeeds("SELECT 1 AS a, 2 AS b WHERE false").splitlines()[::2]] == [
        ["a", "b"],
        ["0", "rows"],
    ]


def test_table_of_many_rows_says_that_it_is_cut():
    lines = succeeds("FROM range(1001)").splitlines()
    assert lines[-2].split() == ["999"]
    assert lines[-1] == "The first 1000 rows; all of them with --format csv or json"
    assert len(succeeds("FROM range(1000)").splitlines()) == 1002
    assert len(rows_of("FROM range(5000)")) == 5000


def test_columns_beyond_a_terminal_s_width_are_named(monkeypatch):
    monkeypatch.setattr("attnbridge.cli.output._width", lambda: 30)
    lines = succeeds("SELECT 'some words' AS a, 'some words' AS b, 'some words' AS c").splitlines()
    assert lines[-1] == "More columns with --format json: c"
    assert max(map(len, lines[:-1])) <= 30


def test_plan_is_printed_as_it_is():
    assert "╭" in succeeds("EXPLAIN SELECT 1")


def test_columns_of_one_name():
    assert rows_of("SELECT 1 AS a, 2 AS a, 3 AS a_1") == [{"a": 1, "a_1": 2, "a_1_1": 3}]
    assert succeeds("SELECT 1 AS a, 2 AS a").split()[:2] == ["a", "a_1"]


@pytest.mark.parametrize("expression", HARD)
def test_hard_values(expression, tmp_path):
    sql = f"SELECT {expression} AS x"
    text = succeeds(sql, "--format", "json")
    assert json.loads(text, parse_constant=pytest.fail) == [{"x": HARD[expression]}]
    assert succeeds(sql).splitlines()[0].strip() == "x"
    assert succeeds(sql, "--format", "csv").splitlines()[0] == "x"
    file = tmp_path / "x.parquet"
    assert succeeds(sql, "--output", file) == ""
    assert duckdb.sql(f"SELECT count(*) FROM '{file}'").fetchall() == [(1,)]


def test_timestamps_with_a_time_zone_need_no_other_package():
    sql = "SET TimeZone = 'UTC'; SELECT TIMESTAMPTZ '2020-01-31 12:00:00+02' AS t, [t] AS l"
    assert rows_of(sql) == [{"t": "2020-01-31 10:00:00+00", "l": ["2020-01-31 10:00:00+00"]}]
    assert "2020-01-31 10:00:00+00" in succeeds(sql)


def test_json_without_rows_is_an_empty_list():
    assert succeeds("SELECT 1 WHERE false", "--format", "json") == "[]\n"


def test_csv(tmp_path):
    sql = "SELECT * FROM (VALUES (1, 'a,b', [1.5, NULL]), (2, NULL, NULL)) t (i, s, v)"
    expected = 'i,s,v\n1,"a,b","[1.5, NULL]"\n2,,\n'
    assert succeeds(sql, "--format", "csv") == expected
    assert succeeds(sql, "-o", tmp_path / "x.csv") == ""
    assert (tmp_path / "x.csv").read_text() == expected
    assert rows_of(f"SELECT sum(i) AS s FROM '{tmp_path}/x.csv'") == [{"s": 3}]


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.parquet", "x.PQ"])
def test_output_is_read_back(name, tmp_path):
    file = tmp_path / name
    file.write_text("old")
    assert succeeds("SELECT range AS i, 'a' AS s FROM range(3000)", "--output", file) == ""
    read = "read_parquet" if name.endswith("PQ") else f"read_{file.suffix[1:]}"
    assert duckdb.sql(f"SELECT count(*), sum(i), max(s) FROM {read}('{file}')").fetchall() == [(3000, 4498500, "a")]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_format_goes_before_the_name(tmp_path):
    succeeds("SELECT 1 AS i", "--output", tmp_path / "x.csv", "--format", "json")
    assert json.loads((tmp_path / "x.csv").read_text()) == [{"i": 1}]


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.parquet"])
def test_failed_output_leaves_the_old_file(name, tmp_path):
    (tmp_path / name).write_text("old")
    sql = "SELECT CASE WHEN range = 90000 THEN error('late') ELSE 'a' END AS x FROM range(100000)"
    assert "late" in fails(sql, "--output", tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "old")]


def test_statements_without_rows(tmp_path):
    assert succeeds("CREATE TABLE t AS FROM range(5)") == "5 rows\n"
    assert succeeds("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1)") == "1 row\n"
    assert succeeds("CREATE TABLE t (i INTEGER); DELETE FROM t") == "0 rows\n"
    for sql in ("CREATE TABLE t (i INTEGER)", "CREATE MACRO m(a) AS a", "SET threads = 1", "CHECKPOINT", "BEGIN"):
        assert run(sql).stdout in ("ok\n", "0 rows\n"), sql
    done = run("CREATE TABLE t AS FROM range(5)", "--format", "json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "5 rows\n")
    message = fails("CREATE TABLE t AS FROM range(5)", "--output", tmp_path / "x.csv")
    assert message == f"the last statement returns no rows to write to {tmp_path}/x.csv: 5 rows"
    assert list(tmp_path.iterdir()) == []


def test_rows_that_a_statement_returns_are_printed():
    sql = "CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1), (2) RETURNING i + 1 AS next"
    assert rows_of(sql) == [{"next": 2}, {"next": 3}]
    assert rows_of("CREATE TABLE t (i INTEGER); DESCRIBE t")[0]["column_name"] == "i"
    assert rows_of("CREATE TABLE t (i INTEGER); PRAGMA table_info('t')")[0]["name"] == "i"
    assert rows_of('SELECT 7 AS "Count"') == [{"Count": 7}]
    assert rows_of('SELECT true AS "Success"') == [{"Success": True}]


# ---- errors


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT ruvector_attention_score([1, 2], [1, 2, 3])", "Query and key dimensions must match: 2 vs 3"),
        ("SELECT ruvector_attention_score([1, 2], [3, NULL])", "key must be real numbers: position 1 is None (NULL)"),
        ("SELECT ruvector_attention_score([1], [1], 'sparse')", "attention_type must be pairwise"),
        ("SELECT ruvector_softmax([])", "scores must not be empty"),
        ("SELECT ruvector_attention_score([1], [1], options := {nope: 1})", "scaled_dot has no option 'nope'"),
    ],
)
def test_errors_of_functions_are_the_python_api_s(sql, message):
    assert fails(sql).startswith(message)
    assert fails(sql.replace("SELECT", "CREATE TABLE t AS SELECT") + "; SELECT 1").startswith(message)


def test_errors_of_sql():
    assert fails("SELEC 1").startswith('Parser Error: syntax error at or near "SELEC"')
    assert "LINE 1: SELEC 1" in fails("SELEC 1")
    assert fails("FROM nothing").startswith("Catalog Error: Table with name nothing does not exist!")
    assert fails("FROM 'never.parquet'").startswith("IO Error: No files found")
    assert "Conversion Error" in fails("SELECT 'a'::INTEGER")


def test_search_without_an_index_names_the_option():
    message = fails("FROM ruvector_search([1, 2])")
    assert message.startswith("search needs an index")
    assert message.endswith("; name its folder with --index")


def test_wrong_usage(tmp_path):
    one = 'give either SQL ("-" reads it from stdin) or --file'
    assert fails(code=2) == one
    assert fails("SELECT 1", "--file", "x.sql", code=2) == one
    for empty in ("", " ; ", "-- nothing"):
        assert fails("-", stdin=empty, code=2) == "SQL must hold a statement, it is empty"
    assert fails("SELECT 1", "--format", "parquet", code=2) == "--format parquet needs --output FILE"
    assert "without --output" in fails("SELECT 1", "--format", "table", "--output", tmp_path / "x.csv", code=2)
    assert "--output must end in .csv, .json, .parquet, .pq, got x.txt" in fails(
        "SELECT 1", "-o", tmp_path / "x.txt", code=2
    )
    assert "must be in a folder that is there" in fails("SELECT 1", "-o", tmp_path / "a" / "x.csv")
    assert "--threads" in fails("SELECT 1", "--threads", 0, code=2)


def test_help_shows_an_example():
    text = succeeds("--help")
    assert 'attnbridge sql "SELECT id, ruvector_attention_score(\\$q, embedding) AS score\n' in text


# ---- as a process

_INTERRUPTED = """
import os, signal, sys, threading
from attnbridge.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
threading.Timer(4, os.kill, (os.getpid(), signal.SIGINT)).start()
sys.argv = ["attnbridge", "sql", *sys.argv[1:]]
main()
"""

_ENDLESS = {
    "in SQL": "SELECT sum(a.range * b.range) AS s FROM range(3000000) a, range(3000000) b",
    "in a function": "SELECT sum(ruvector_attention_score([1.0, a.range], [1.0, b.range])) AS s "
    "FROM range(1000000) a, range(1000000) b",
}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("where", _ENDLESS)
def test_ctrl_c_ends_with_130(where, threads, tmp_path):
    command = [sys.executable, "-c", _INTERRUPTED, _ENDLESS[where], f"--threads={threads}", "--output=x.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_within_a_callback_of_ctypes_is_raised_at_the_end(monkeypatch):
    said = []

    def hook(told):
        said.append(told.exc_type)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    interrupted = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    wrong = ctypes.CFUNCTYPE(None)(lambda: 1 / 0)

    def work():
        with duckdb.connect() as con, _interruptible(con):
            wrong()
            interrupted()  # as where Numba loads a kernel
            assert con.execute("SELECT 1").fetchone() == (1,)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert said == [ZeroDivisionError]
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_reader_that_leaves_causes_no_noise(form):
    command = [sys.executable, "-m", "attnbridge", "sql", "FROM range(1000)", "--format", form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything is written: it must find the pipe broken
        stderr = process.stderr.read()
        process.wait(timeout=120)
    assert stderr == b""
    assert process.returncode == 1
