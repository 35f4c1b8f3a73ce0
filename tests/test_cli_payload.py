"""The command line and payload: what `index` keeps, what `search` filters by and shows."""

import json
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

import attnbridge as ab
import attnbridge.cli as command_line
from attnbridge.cli.inputs import params_of
from attnbridge.cli.output import jsonable

Bridge = ab.AttentionVectorBridge
ROWS, DIM = 40, 5


def run(*args, **options):
    """Run in this process; an unexpected exception fails the test with its traceback."""
    result = CliRunner().invoke(command_line.cli, [str(arg) for arg in args], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeeds(*args):
    result = run(*args)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def fails(*args, code=1):
    """Return the message of a command that must fail; nothing goes to stdout."""
    result = run(*args)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a Parquet file of vectors, ids and columns of many kinds."""
    vectors = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)
    columns = {
        "id": [f"d{i}" for i in range(ROWS)],
        "embedding": vectors.tolist(),
        "year": [1990 + i for i in range(ROWS)],
        "lang": ["en" if i % 2 else "ä\u65e5" for i in range(ROWS)],
        "a,b": [None if i == 3 else f"{i}\n" + "long " * 20 for i in range(ROWS)],
        "day": [date(2020, 1, 1) + timedelta(i) for i in range(ROWS)],
        "price": [Decimal(f"{i}.50") for i in range(ROWS)],
        "raw": [bytes([i]) for i in range(ROWS)],
        "ratio": [float("nan") if i == 3 else i / 4 for i in range(ROWS)],
        "tags": [[i, None] for i in range(ROWS)],
    }
    path = tmp_path_factory.mktemp("data") / "docs.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Return an index with all of the file's columns."""
    path = tmp_path_factory.mktemp("indexes") / "a"
    succeeds("index", data, "-o", path, "--id", "id", "--payload", "*", "--index", "exact", "--model", "m1")
    return path


def searched(folder, *args):
    return json.loads(succeeds("search", folder, *args, "--json"), parse_constant=pytest.fail)


def ids(folder, *args):
    return {hit["id"] for hit in searched(folder, "--like", "d0", "-k", ROWS, *args)["hits"]}


# ---- index


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], []),
        (["--payload", "lang,year"], ["lang", "year"]),
        (["--payload", "lang", "--payload", " year "], ["lang", "year"]),
        (["--payload", 'year,"a,b"'], ["year", "a,b"]),
        (["--payload", "*"], ["year", "lang", "a,b", "day", "price", "raw", "ratio", "tags"]),
    ],
)
def test_index_keeps_the_columns_named(data, tmp_path, options, expected):
    succeeds("index", data, "-o", tmp_path / "a", "--id", "id", "--index", "exact", *options)
    built = Bridge.open(tmp_path / "a")
    assert list(built.payload("d5")) == expected
    whole = pq.read_table(data).to_pylist()[5]
    assert built.payload("d5") == {name: whole[name] for name in expected}
    assert list(json.loads(succeeds("info", tmp_path / "a", "--json"))["payload"]) == expected


@pytest.mark.parametrize(
    ("payload", "code", "message"),
    [
        ("nope", 1, "payload must name columns of .*docs.parquet, got 'nope'; its columns are: id, embedding, year"),
        ("id", 1, "payload must not name 'id': it is the column of ids of"),
        ("year,year", 1, "payload must name each column once, got 'year' again"),
        ("year,,lang", 2, "--payload must be names separated by commas, one of them is empty"),
        ("", 2, "--payload must be names separated by commas, one of them is empty"),
        ('"year', 2, "--payload must be names separated by commas, got '\"year': unexpected end of data"),
        ("*,year", 2, r"--payload '\*' keeps all columns: name no others"),
    ],
)
def test_columns_that_cannot_be_kept(data, tmp_path, payload, code, message):
    found = fails("index", data, "-o", tmp_path / "a", "--id", "id", "--payload", payload, code=code)
    assert re.match(message, found), found
    assert not (tmp_path / "a").exists()


def test_all_columns_of_a_file_whose_id_is_not_named(data, tmp_path):
    message = fails("index", data, "-o", tmp_path / "a", "--payload", "*")
    assert message == f"payload must not have a column 'id': name it as the id of {data}, or list the columns to keep"


# ---- search


def test_where_and_params_filter(folder):
    assert ids(folder, "--where", "year > 2020 AND lang = 'en'") == {f"d{i}" for i in range(31, ROWS, 2)}
    assert ids(folder, "--where", "year > $y AND lang = $l", "--param", "y=2020", "--param", "l=ä\u65e5") == {
        f"d{i}" for i in range(32, ROWS, 2)
    }
    assert ids(folder, "--where", '"a,b" IS NULL') == {"d3"}
    assert ids(folder, "--where", "id IN $ids", "--param", 'ids=["d4", "d5"]') == {"d4", "d5"}
    assert ids(folder, "--where", "false") == set()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2020", 2020),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ('"2020"', "2020"),
        ("[1, 2]", [1, 2]),
        ("en", "en"),
        ("a=b", "a=b"),
        ("", ""),
        ("NaN", "NaN"),
        ("{}", "{}"),
        ("007", "007"),
    ],
)
def test_params_are_json_or_text(text, value):
    (found,) = params_of([f"x={text}"], "true").values()
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--param", "y=1"], "--param needs --where"),
        (["--where", "true", "--param", "y"], "--param must be NAME=VALUE, got 'y'"),
        (["--where", "true", "--param", "=1"], "--param must be NAME=VALUE, got '=1'"),
        (["--where", "true", "--param", "y=1", "--param", "y=2"], "--param gives y twice"),
        (["--time-budget", "0"], "Invalid value for '--time-budget': 0.0 is not in the range x>0."),
    ],
)
def test_wrong_usage(folder, args, message):
    assert fails("search", folder, "--like", "d0", *args, code=2) == message


def test_errors_of_where_are_the_library_s(folder):
    assert "the columns are id, year, lang" in fails("search", folder, "--like", "d0", "--where", "yeer > 1")
    assert "'y' is missing" in fails("search", folder, "--like", "d0", "--where", "year > $y")
    assert "must not be empty" in fails("search", folder, "--like", "d0", "--where", "")


def test_radius_time_and_model_reach_the_library(folder):
    bridge = Bridge.open(folder, read_only=True)
    near = bridge.search(id="d0", radius=0.8)
    assert 0 < len(near) < ROWS - 1
    assert [hit["id"] for hit in searched(folder, "--like", "d0", "--radius", 0.8)["hits"]] == near.ids
    assert len(searched(folder, "--like", "d0", "--radius", 2.0)["hits"]) == ROWS - 1
    assert len(searched(folder, "--like", "d0", "--radius", 2.0, "-k", 3)["hits"]) == 3
    assert searched(folder, "--like", "d0", "--time-budget", 60, "--model", "m1")["complete"] is True
    assert fails("search", folder, "--like", "d0", "--model", "m2") == (
        f"model must be 'm1', which made the vectors of {folder}, got 'm2'"
    )


def test_candidates_are_those_of_the_index(folder, tmp_path, data):
    made = Bridge.from_parquet(data, index="exact", candidates=7)
    made.save(tmp_path / "a")
    assert searched(tmp_path / "a", "--like", "d0", "-k", 2)["candidates"] == 7


def test_a_cut_search_says_so_on_stderr(folder, monkeypatch):
    result = run("search", folder, "--like", "d0", "--rerank", "expansion", "--time-budget", 1e-9, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["complete"] is False
    assert result.stderr == ("Warning: the time budget ended the search early: hits may be missing, or not reranked\n")
    queries = json.dumps(np.ones((9, DIM)).tolist())
    result = run("search", folder, "--vector-json", queries, "--rerank", "expansion", "--time-budget", 1e-9)
    assert "ended the search early for 9 of 9 queries: " in result.stderr


def test_payload_in_json(folder):
    (hit,) = searched(folder, "--like", "d0", "--where", "id = 'd3'")["hits"]
    assert hit["payload"] == {
        "year": 1993,
        "lang": "en",
        "a,b": None,
        "day": "2020-01-04",
        "price": 3.5,
        "raw": "Aw==",
        "ratio": None,
        "tags": [3, None],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("12345678901234567890123456789012345678"), 12345678901234567890123456789012345678),
        (Decimal("-0.25"), -0.25),
        (timedelta(milliseconds=1500), 1.5),
        (time(10, 30), "10:30:00"),
        (datetime(2020, 1, 31, 10, tzinfo=UTC), "2020-01-31T10:00:00+00:00"),
        ({"a": [float("inf"), True, None]}, {"a": [None, True, None]}),
    ],
)
def test_values_as_json(value, expected):
    found = jsonable(value)
    assert (type(found), found) == (type(expected), expected)


def test_payload_in_a_table(folder):
    lines = succeeds("search", folder, "--like", "d0", "--where", "id IN ('d3', 'd4')").splitlines()
    assert lines[1].split()[-4:] == ["year", "lang", "a,b", "day"]
    rows = {line.split()[1]: line for line in lines[3:5]}
    assert "1993   en" in rows["d3"]
    assert rows["d3"].split()[-1] == "2020-01-04"
    assert "4 long long" in rows["d4"]
    assert "long...   2020-01-05" in rows["d4"]
    assert lines[5] == "More payload with --json: price, raw, ratio, tags"


def test_table_of_no_hits_and_of_no_payload(folder, tmp_path):
    lines = succeeds("search", folder, "--like", "d0", "--where", "false").splitlines()
    assert lines[1].split()[-2:] == ["rank", "before"]
    made = Bridge(2, index="exact")
    made.add(np.eye(2))
    made.save(tmp_path / "a")
    assert len(succeeds("search", tmp_path / "a", "--like", "0").splitlines()) == 4


def test_odd_column_names_and_values(tmp_path):
    made = Bridge(2, index="exact")
    made.add(np.eye(2), payload={"[red]x[/red]": ["\x1b[31m", "b"], "日本": ["[b]", "語" * 50]})
    made.save(tmp_path / "a")
    out = succeeds("search", tmp_path / "a", "--vector-json", "[1, 0]")
    assert "\x1b" not in out
    assert "[red]x[/red]" in out
    assert r"'\x1b[31m'" in out
    assert "語" * 18 + "..." in out


def test_a_terminal_s_width_decides_what_is_shown(folder, monkeypatch):
    monkeypatch.setattr("attnbridge.cli.output._width", lambda: 80)
    lines = succeeds("search", folder, "--like", "d0", "--where", "id IN ('d3', 'd4')").splitlines()
    assert lines[1].split()[-2:] == ["year", "lang"]
    assert all(cell_len(line) <= 80 for line in lines[1:5])
    assert lines[5] == "More payload with --json: a,b, day, price, raw, ratio, tags"
    monkeypatch.setattr("attnbridge.cli.output._width", lambda: 92)
    lines = succeeds("search", folder, "--like", "d0", "--where", "id IN ('d3', 'd4')").splitlines()
    assert lines[1].split()[-3:] == ["year", "lang", "a,b"]
    assert any(re.search(r"  4 lo[a-z ]*\.\.\.$", line.rstrip()) for line in lines)
    assert all(cell_len(line) <= 92 for line in lines[1:5])


# ---- info


def test_info_shows_payload_model_and_dead_rows(folder, tmp_path):
    about = json.loads(succeeds("info", folder, "--json"))
    assert about["model"] == "m1"
    assert about["payload"]["year"] == "int64"
    assert about["payload"]["price"] == "decimal128(4, 2)"
    assert about["linked_rows"] is None
    text = succeeds("info", folder)
    assert "payload a,b" in text
    assert "linked" not in text
    with Bridge.open(folder) as bridge:
        bridge.delete(["d0", "d1"])
        bridge.save(tmp_path / "b")
    about = json.loads(succeeds("info", tmp_path / "b", "--json"))
    assert (about["rows"], about["dead_rows"]) == (ROWS - 2, 2)
    with Bridge.open(tmp_path / "b", journal=True) as bridge:
        bridge.delete("d2")
    about = json.loads(succeeds("info", tmp_path / "b", "--json"))
    assert about["journal_bytes"] > 0
    assert f"{about['journal_bytes']} bytes of changes since, not counted above" in succeeds("info", tmp_path / "b")


def test_info_names_a_damaged_payload(folder, tmp_path):
    with Bridge.open(folder) as bridge:
        bridge.save(tmp_path / "b")
    (path,) = (tmp_path / "b").glob("snapshot-*/payload.parquet")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert fails("info", tmp_path / "b").startswith(f"{path} is damaged")
