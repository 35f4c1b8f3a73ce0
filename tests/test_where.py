"""One boolean SQL expression over payload and id."""

import datetime as dt
import gc
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnbridge.errors import AttentionError, InvalidInputError
from attnbridge.integrations import where as module
from attnbridge.integrations.columns import as_table
from attnbridge.integrations.payload import Payload
from attnbridge.integrations.rows import Ids
from attnbridge.integrations.where import Matcher

N = 7
COLUMNS = {
    "year": [1999, 2004, None, 2011, 2011, -5, 0],
    "lang": ["en", "de", "en", None, "fr", "", "É"],
    "tags": [["a", "b"], [], None, ["b"], ["c", None], ["a"], ["zz"]],
    "score": [0.5, float("nan"), None, -0.0, 2.5, float("inf"), 1.0],
    "day": [dt.date(2020, 1, 1 + i) for i in range(7)],
    "moment": [dt.datetime(2020, 1, 1 + i, 23, tzinfo=dt.UTC) for i in range(7)],
    "author": [{"name": f"n{i}", "born": 1900 + i} for i in range(7)],
    "text": ["1", "2", "x", "4", "5", "6", "7"],
    "uuid": list("abcdefg"),
    "With Space": [True, False, None, True, False, True, False],
    "documents": [{"year": i} for i in range(7)],
}


def payload_of(columns, count):
    return Payload.empty(0).append(as_table(columns, count), count)


PAYLOAD = payload_of(COLUMNS, N)
ALIVE = np.ones(N, np.bool_)
IDS = [f"d{i}" for i in range(N)]


def matcher_of(ids):
    held = Ids()
    held.put(0, list(ids))
    return Matcher(held)


@pytest.fixture
def matcher():
    return matcher_of(IDS)


def found(where, params=None, alive=ALIVE):
    return np.flatnonzero(matcher_of(IDS).mask(where, params, PAYLOAD, alive)).tolist()


ENGLISH_OR_FRENCH = [0, 2, 4]


@pytest.mark.parametrize(
    ("where", "params", "rows"),
    [
        ("year > 2000", None, [1, 3, 4]),
        ("year > $y AND lang = $l", {"y": 2000, "l": "fr"}, [4]),
        ("NOT year > 2000", {}, [0, 5, 6]),
        ("year IS NULL", {}, [2]),
        ("year = NULL", {}, []),
        ("year IS NOT DISTINCT FROM $y", {"y": None}, [2]),
        ("id = 'd3' OR id IN ('d1', 'nobody')", {}, [1, 3]),
        ("id IN $ids", {"ids": ["d6", "d0", "x"]}, [0, 6]),
        ("list_contains($ids, id)", {"ids": np.array(["d2"])}, [2]),
        ("lang IN ('en', 'fr')", {}, ENGLISH_OR_FRENCH),
        ("lang LIKE '_' OR lang ILIKE 'E%'", {}, [0, 2, 6]),
        ("regexp_matches(lang, '^[ef]')", {}, ENGLISH_OR_FRENCH),
        ("lang = 'É'", {}, [6]),
        ("lang = 'a''b\"' or lang = ''", {}, [5]),
        ("lang COLLATE NOCASE = 'EN'", {}, [0, 2]),
        ("lang.upper() = 'EN'", {}, [0, 2]),
        ("year BETWEEN 1999 AND 2004", {}, [0, 1]),
        ("CASE WHEN year > 2000 THEN lang = 'de' ELSE false END", {}, [1]),
        ("if(year > 2000, true, false)", {}, [1, 3, 4]),
        ("nullif(year, 2011) IS NULL", {}, [2, 3, 4]),
        ("coalesce(year, 3000) > 2500", {}, [2]),
        ("list_contains(tags, 'a')", {}, [0, 5]),
        ("tags[1] = 'b'", {}, [3]),
        ("tags && ['b', 'zz']", {}, [0, 3, 6]),
        ("len(list_filter(tags, x -> x > 'a')) > 0", {}, [0, 3, 4, 6]),
        ("len(list_filter(tags, lambda x: x > 'a')) > 0", {}, [0, 3, 4, 6]),
        ("len([t FOR t IN tags IF t = 'a']) > 0", {}, [0, 5]),
        ("list_any_value(tags) = 'c'", {}, [4]),
        ("list_sum(list_transform(tags, x -> length(x))) = 2", {}, [0, 6]),
        ("score > 2", {}, [1, 4, 5]),
        ("isnan(score) OR score = $x", {"x": 0.0}, [1, 3]),
        ("day > DATE '2020-01-01' + INTERVAL 4 DAY", {}, [5, 6]),
        ("day - INTERVAL '1 day' = $d", {"d": dt.date(2020, 1, 2)}, [2]),
        ("date_part('day', day) = 3 OR extract(day FROM day) = 4", {}, [2, 3]),
        ("moment::DATE = '2020-01-02'", {}, [1]),
        ("moment >= $m", {"m": dt.datetime(2020, 1, 7, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))}, [5, 6]),
        ("author.born > 1904", {}, [5, 6]),
        ("upper(author.name) = 'N2'", {}, [2]),
        ("author['name'] = 'n1'", {}, [1]),
        ("{'a': year}.a = 0", {}, [6]),
        ("(year, lang) = (2011, 'fr')", {}, [4]),
        ("try_cast(text AS INTEGER) IS NULL", {}, [2]),
        ('"With Space"', {}, [0, 3, 5]),
        ("documents.year = 3", {}, [3]),
        ("YEAR = 2004 AND ID = 'd1'", {}, [1]),
        ("uuid = 'c'", {}, [2]),
        ("true", {}, list(range(N))),
        ("$all", {"all": True}, list(range(N))),
        ("year = 0 -- and no more", {}, [6]),
        ("/* first */ year = 0 /* ) */", {}, [6]),
        ("lang = ');--' OR year = 0", {}, [6]),
        ("hash(year) = hash(0::BIGINT) AND version() IS NOT NULL", {}, [6]),
        ("1) = (year", {}, []),
    ],
)
def test_expressions(where, params, rows):
    assert found(where, params) == rows


def test_params_take_many_types(rng):
    class Language(StrEnum):
        ENGLISH = "en"

    assert found("year = $y", {"y": np.int64(1999)}) == [0]
    assert found("score = $s", {"s": np.float32(0.5)}) == [0]
    assert found("$b", {"b": np.bool_(False)}) == []
    assert found("lang = $l", {"l": Language.ENGLISH}) == [0, 2]
    assert found("year IN $l", {"l": np.array([1999, 0])}) == [0, 6]
    assert found("year IN $l", {"l": pa.array([1999, 0])}) == [0, 6]
    assert found("year IN $l", {"l": (1999, None)}) == [0]
    assert found("year IN $l", {"l": []}) == []
    assert found("day = $d", {"d": np.datetime64("2020-01-03")}) == [2]
    assert found("score = $d", {"d": Decimal("2.5")}) == [4]
    assert found("INTERVAL 1 HOUR < $t", {"t": dt.timedelta(hours=2)}) == list(range(N))
    assert found("TIME '03:00' > $t", {"t": dt.time(2)}) == list(range(N))
    assert found("$u = 'b'::BLOB", {"u": b"b"}) == list(range(N))
    assert found("$u::VARCHAR = '00000000-0000-0000-0000-000000000001'", {"u": UUID(int=1)}) == list(range(N))
    assert found("list_contains($n, [1, 2])", {"n": [[1, 2], [3]]}) == list(range(N))


def error_of(where, params=None, payload=PAYLOAD, alive=ALIVE, ids=IDS):
    with pytest.raises(InvalidInputError) as caught:
        matcher_of(ids).mask(where, params, payload, alive)
    assert isinstance(caught.value, AttentionError)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (None, 'where must be a SQL expression as str, got NoneType; write "year > 2000"'),
        (b"year > 1", "where must be a SQL expression as str, got bytes"),
        ("", "where must not be empty; leave it out"),
        (" \n\t", "where must not be empty"),
        ("x" * 20_001, "where must have at most 20000 characters, got 20001; pass long lists as parameters"),
        ("year > 1 OR " * 90_000 + "true", "at most 20000 characters"),
        ("year = 1\0", "where must be text in Unicode, without NUL, got 'year = 1\\x00'; take it out"),
        ("lang = '\ud800'", "where must be text in Unicode"),
        ("year >", "where must be one SQL expression: syntax error at or near \")\" at position 7 of 'year >'"),
        ("year year year", "at position 5 of"),
        ("true /*", "unterminated /* comment"),
        ("'open", "where must be one SQL expression: unterminated"),
        ("WHERE year > 1", "where must be one SQL expression: syntax error"),
        ("year AS y", "syntax error"),
        ("1=1; DROP TABLE x", 'syntax error at or near ";" at position 3'),
        ("1=1); DROP TABLE x; SELECT (1", "where must be one SQL expression, without statements and clauses"),
        ("1=1); SELECT (1", "where must be one SQL expression"),
        ("true) FROM t WHERE (1=1", "write what would stand after WHERE"),
        ("true) UNION SELECT (1=1", "without statements and clauses"),
        ("true) WHERE (1=1", "without statements and clauses"),
        ("true) GROUP BY (1", "without statements and clauses"),
        ("true) HAVING (1=1", "where must be"),
        ("true) QUALIFY (1=1", "without statements and clauses"),
        ("true) LIMIT (1", "without statements and clauses"),
        ("true) ORDER BY (1", "without statements and clauses"),
        ("true) USING SAMPLE (1", "where must be one SQL expression"),
        ("true), (false", "without statements and clauses"),
        ("SELECT 1", "where must have no subquery (SELECT, ANY); compare with a list: id IN $ids"),
        ("id IN (SELECT id FROM documents)", "no subquery"),
        ("EXISTS (FROM duckdb_settings())", "no subquery"),
        ("year = ANY([1, 2])", "no subquery"),
        ("FROM 'x.csv'", "where must"),
        ("INSERT INTO t VALUES (1)", "where must be one SQL expression"),
        ("COPY t TO 'x'", "where must be one SQL expression"),
        ("row_number() OVER () = 1", "where must have no window function (OVER); it sees one row at a time"),
        ("*", "where must name its columns one by one, without * or COLUMNS"),
        ("COLUMNS('y.*') > 1", "where must name its columns one by one"),
        ("DEFAULT", "where must be made of columns, constants, $parameters, operators and functions; got 'DEFAULT'"),
        ("#1 = 1", "where must be made of columns"),
        ("grouping(year) = 1", "where must be made of columns"),
        ("sum(year) > 1", "where must not aggregate over rows, got sum(); list_sum() and the like aggregate a list"),
        ("count(*) > 1", "where must"),
        ("geomean(year) > 1", "geomean() is not allowed"),
        ("nosuch(year) > 1", "where must use functions that DuckDB has: nosuch is unknown; its manual lists them"),
        ("getenv('HOME') = 'x'", "getenv is unknown"),
        ("read_csv('x')", "where must use functions of a row's values alone: read_csv() is not allowed; leave it out"),
        ("read_text('x') = ''", "read_text() is not allowed"),
        ("unnest([true, false])", "unnest() is not allowed"),
        ("generate_subscripts(tags, 1) = 1", "generate_subscripts() is not allowed"),
        ("current_setting('threads') = '1'", "current_setting() is not allowed"),
        ("getvariable('x') = 1", "getvariable() is not allowed"),
        ("nextval('x') = 1", "nextval() is not allowed"),
        ("currval('x') = 1", "currval() is not allowed"),
        ("sleep_ms(1000) IS NULL", "sleep_ms() is not allowed"),
        ("pg_sleep(1) IS NULL", "pg_sleep() is not allowed"),
        ("write_log('x') IS NULL", "write_log() is not allowed"),
        ("setseed(0.5) IS NULL", "setseed() is not allowed"),
        ("error('x')", "error() is not allowed"),
        ("current_query() = ''", "current_query() is not allowed"),
        ("current_catalog() = ''", "current_catalog() is not allowed"),
        ("pg_get_viewdef(1) = ''", "pg_get_viewdef() is not allowed"),
        ("json_serialize_sql('x') = ''", "json_serialize_sql() is not allowed"),
        ("len(repeat('x', 1000000000)) > 1", "repeat() is not allowed"),
        ("lpad('x', 1000000000, 'y') = 'a'", "lpad() is not allowed"),
        ("rpad('x', 1000000000, 'y') = 'a'", "rpad() is not allowed"),
        ("printf('%1000000000d', 1) = 'a'", "printf() is not allowed"),
        ("format('{:>1000000000}', 'a') = 'a'", "format() is not allowed"),
        ("list_reduce(['a', 'b'], (a, b) -> a || a) = 'x'", "list_reduce() is not allowed"),
        ("len(range(1000000000)) > 1", "range() is not allowed"),
        ("__internal_barrier(true)", "__internal_barrier"),
        ("year = ?", "where must name its parameters, as $name, not ? or $1; got 'year = ?'"),
        ("year = $1", "where must name its parameters"),
        ("nosuch = 1", 'Referenced column "nosuch" not found in FROM clause!; the columns are id, year, lang, tags'),
        ("nosuch.year = 1", "the columns are id, year"),
        ("rowid = 1", "the columns are id, year"),
        ("year", "where must be a BOOLEAN expression, got BIGINT from 'year'; compare it: year > 0"),
        ("lang", "where must be a BOOLEAN expression, got VARCHAR"),
        ("NULL", "where must be a BOOLEAN expression"),
        ("(true, false)", "where must be a BOOLEAN expression"),
        ("-- nothing", "where must be"),
        ("year = 'x'", "where cannot be evaluated: Conversion Error: Could not convert string 'x' to INT64"),
        ("text::INTEGER > 3", "where cannot be evaluated: Conversion Error: Could not convert string 'x' to INT32"),
        ("tags > 3", "where cannot be evaluated: "),
        ("upper(year) = 'X'", "where cannot be evaluated: Binder Error: No function matches"),
        ("regexp_matches(lang, '(')", "where cannot be evaluated: "),
        ("year::nosuch = 1", "where cannot be evaluated: "),
        ("'today'::DATE = day", "where cannot be evaluated: "),  # else its mask must not be kept
        ("'now'::TIMESTAMPTZ = moment", "where cannot be evaluated: "),
    ],
)
def test_errors(where, message):
    assert message in error_of(where)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "params must have a value for each $name in where: 'y' is missing; add it"),
        ({"Y": 1}, "'y' is missing"),
        ({"y": 1, "z": 2}, "params must be named in where: 'z' is not; write $z there, or leave it out"),
        ({"y": 1, 3: 2}, "params must be named in where: 3 is not"),
        ([1], 'params must be a dict of the values of where\'s $names, got list; write {"name": value}'),
        (
            {"y": {"a": 1}},
            "params must be numbers, text, bytes, bool, None, dates and times, or lists of these: 'y' is",
        ),
        ({"y": [object()]}, "'y' is object; convert it"),
        ({"y": 2**64}, "params must fit 64 bits: 'y' is 18446744073709551616; use a float or text"),
        ({"y": "\ud800"}, "params must be text in Unicode: 'y' is '\\ud800'; take the surrogate out"),
        ({"y": "x"}, "where cannot be evaluated: "),
    ],
)
def test_params_errors(params, message):
    assert message in error_of("year = $y", params)


def test_params_that_differ_in_case_alone():
    message = error_of("year = $y OR year = $Y", {"y": 1, "Y": 2})
    assert message == "params must have distinct names, without regard to case, got Y, y; rename one"


def test_dead_rows_are_not_evaluated():
    alive = ALIVE.copy()
    alive[2] = False  # 'x' is no number
    assert found("text::INTEGER > 4", alive=alive) == [4, 5, 6]
    assert found("true", alive=alive) == [0, 1, 3, 4, 5, 6]
    assert found("id = 'd2'", alive=alive) == []
    assert found("true", alive=np.zeros(N, np.bool_)) == []


def test_int_ids_and_no_payload():
    matcher = matcher_of([10, 20, -(2**63), 2**63 - 1])
    alive = np.ones(4, np.bool_)
    assert matcher.mask("id > 10", None, Payload.empty(4), alive).tolist() == [False, True, False, True]
    assert "the columns are id" in error_of("year = 1", None, Payload.empty(4), alive, [1, 2, 3, 4])


@pytest.mark.parametrize("where", ["id = 'x'", "id = 3", "true", "id IN ('x', 'y')"])
def test_empty_store(where):
    alive = np.ones(0, np.bool_)
    assert matcher_of([]).mask(where, None, Payload.empty(0), alive).shape == (0,)
    assert "cannot be evaluated" in error_of("year = 1", None, Payload.empty(0), alive, [])


def test_ids_may_grow():
    ids, start = Ids(), 0
    matcher = Matcher(ids)
    for count in [0, 1, 2, 3, 50, 51, 52, 1000]:
        ids.put(start, [*(f"d{i}" for i in range(start, count)), "not yet in the view"])
        start = count
        mask = matcher.mask("id <> 'd1' AND id <> 'not'", None, Payload.empty(count), np.ones(count, np.bool_))
        assert mask.tolist() == [i != 1 for i in range(count)]
    assert matcher.mask("id = 'd1'", None, Payload.empty(2), np.ones(2, np.bool_)).tolist() == [False, True]


def test_order_over_many_chunks_and_threads(rng):
    count = 300_000
    values = rng.integers(0, 1000, count)
    payload, done = Payload.empty(0), 0
    for stop in [150_000, 210_000, 240_000, 260_000, 299_000, count]:
        payload = payload.append(as_table({"v": values[done:stop]}, stop - done), stop - done)
        done = stop
    alive = rng.random(count) < 0.8
    mask = matcher_of(list(range(count))).mask("v < $v AND id % 3 = 0", {"v": 300}, payload, alive)
    assert (mask == ((values < 300) & (np.arange(count) % 3 == 0) & alive)).all()


def test_rows_are_those_of_an_in_that_duckdb_makes_a_join_of():
    count = 30  # in short chunks, of which its threads finish one before another
    payload, matcher = Payload.empty(0), matcher_of(list(range(count)))
    for start in range(0, count, 5):
        payload = payload.append(as_table({"v": range(start, start + 5)}, 5), 5)
    for turn in range(2_000):
        wanted = [turn % count, 7, 11, 22, 29]
        mask = matcher.mask("v IN $wanted", {"wanted": wanted}, payload, np.ones(count, np.bool_))
        assert np.flatnonzero(mask).tolist() == sorted(set(wanted))


def test_column_of_the_name_that_places_go_by():
    payload = Payload.empty(0).append(as_table({module._PLACE: [5, 6, 7]}, 3), 3)
    for name in (module._PLACE, module._PLACE.upper()):
        mask = matcher_of([1, 2, 3]).mask(f"{name} = 6", None, payload, np.ones(3, np.bool_))
        assert mask.tolist() == [False, True, False]
    with pytest.raises(InvalidInputError, match="where cannot be evaluated"):
        matcher_of([1, 2, 3]).mask(f"{module._PLACE} = 1", None, Payload.empty(3), np.ones(3, np.bool_))


def calls(monkeypatch):
    """Count what is evaluated."""
    counted = []
    real = module._computed
    monkeypatch.setattr(module, "_computed", lambda *given: counted.append(1) or real(*given))
    return counted


def test_masks_are_kept(matcher, monkeypatch):
    evaluated = calls(monkeypatch)
    first = matcher.mask("year > $y", {"y": 2000}, PAYLOAD, ALIVE)
    assert matcher.mask("year > $y", {"y": np.int64(2000)}, PAYLOAD, ALIVE) is first
    assert not first.flags.writeable
    assert len(evaluated) == 1
    assert matcher.mask("year > $y", {"y": 2000.5}, PAYLOAD, ALIVE) is not first
    assert matcher.mask("year > $y", {"y": 1000}, PAYLOAD, ALIVE).sum() == 4
    assert matcher.mask("year > $y", {"y": True}, PAYLOAD, ALIVE).sum() == 4
    assert len(evaluated) == 4
    changed = PAYLOAD.update(np.array([0]), as_table({"year": [2020]}, 1))
    assert matcher.mask("year > $y", {"y": 2000}, changed, ALIVE).tolist() == [1, 1, 0, 1, 1, 0, 0]
    assert matcher.mask("year > $y", {"y": 2000}, PAYLOAD, ALIVE.copy()) is not first
    assert matcher.mask("year > $y", {"y": 2000}, PAYLOAD, ALIVE) is first


def test_masks_kept_are_bounded_and_hold_no_payload(matcher):
    for y in range(3 * module._CACHED_MASKS):
        matcher.mask("year > $y", {"y": y}, PAYLOAD, ALIVE)
    assert len(matcher._masks) == module._CACHED_MASKS
    gone = payload_of({"year": [1] * N}, N)
    matcher.mask("year = 1", None, gone, ALIVE)
    referent = module.weakref.ref(gone)
    del gone
    gc.collect()
    assert referent() is None


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("day < current_date", False),
        ("day < now()", False),
        ("day < today()", False),
        ("moment < CURRENT_TIMESTAMP", False),
        ("day < ago(INTERVAL 1 DAY)", False),
        ("age(day::TIMESTAMP) > INTERVAL 1 DAY", False),
        ("random() < 2", False),
        ("gen_random_uuid() IS NOT NULL", False),
        ("day < DATE '2030-01-01'", True),
        ("uuid <= 'g'", True),
    ],
)
def test_masks_that_change_by_themselves_are_not_kept(matcher, where, kept):
    first = matcher.mask(where, None, PAYLOAD, ALIVE)
    assert first.all()
    assert (matcher.mask(where, None, PAYLOAD, ALIVE) is first) == kept


def test_random_is_drawn_anew(matcher):
    payload, alive = payload_of({"x": np.arange(64)}, 64), np.ones(64, np.bool_)
    matcher = matcher_of(list(range(64)))
    assert len({matcher.mask("random() < 0.5", None, payload, alive).tobytes() for _ in range(5)}) > 1


def test_functions_allowed_are_the_safe_ones():
    """Of all functions that DuckDB has, go through those whose names tell of files, settings and the session."""
    functions = module.engine.running_engine().functions
    allowed = set()
    for name in functions:
        try:
            module._is_stable(name)
            allowed.add(name)
        except InvalidInputError:
            pass
    assert len(allowed) > 400
    telling = ("read_", "write", "copy", "pragma", "duckdb_", "pg_", "sleep", "env", "setting", "variable", "seq")
    suspicious = {name for name in allowed if any(word in name for word in telling)}
    assert not {name for name in suspicious if not functions[name].macro}
    assert not allowed & {"glob", "query", "query_table", "nextval", "currval", "setval", "setseed", "unnest"}
    assert not any(functions[name].kinds & {"aggregate", "pragma"} - {"pragma"} for name in allowed)


def test_the_instance_is_shut():
    with module.engine.running_engine().connection.cursor() as cursor:
        for statement in [
            "FROM read_csv('/etc/passwd')",
            "COPY (SELECT 1) TO '/tmp/attnbridge_must_not_be.csv'",
            "ATTACH '/tmp/attnbridge_must_not_be.db'",
            "INSTALL httpfs",
            "LOAD '/tmp/x.duckdb_extension'",
            "SET enable_external_access = true",
            "SET GLOBAL threads = 1",
            "FROM PAYLOAD",
        ]:
            with pytest.raises(duckdb.Error):
                cursor.execute(statement)
        for name, value in [("max_expression_depth", 250), ("python_enable_replacements", False), ("TimeZone", "UTC")]:
            assert cursor.execute("SELECT current_setting($1)", [name]).fetchone() == (value,)


def test_nothing_stays_registered(matcher):
    matcher.mask("year > 1", None, PAYLOAD, ALIVE)
    error_of("year = 'x'")
    with module.engine.running_engine().connection.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchone() == (0,)
        assert cursor.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)


def run(code, timeout=60):
    imports = "import numpy as np\nfrom attnbridge.integrations.columns import as_table\n"
    imports += "from attnbridge.integrations.payload import Payload\n"
    imports += "from attnbridge.integrations.rows import Ids\nfrom attnbridge.integrations.where import Matcher\n"
    code = imports + inspect.getsource(matcher_of) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)


DEEP = {
    "parentheses": ("(", "true", ")"),
    "not": ("not ", "true", ""),
    "lists": ("[", "", "]"),
    "minus": ("- ", "1 > 0", ""),
    "sum": ("1 + ", "1 > 0", ""),
    "case": ("case when true then ", "true", " end"),
    "comments": ("/*", "", ""),
    "functions": ("abs(", "1", ")"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_nesting_does_not_crash(kind):
    done = run(f"""
        from attnbridge.errors import InvalidInputError
        from attnbridge.integrations import where
        where._MOST_CHARACTERS = 10**6 if {kind == "parentheses"} else where._MOST_CHARACTERS
        before, inside, after = {DEEP[kind]!r}
        outcomes = []
        for depth in [10, 100, 200, 300, 900, 3000, 9999, 100_000]:
            text = before * depth + inside + after * depth
            try:
                matcher_of([1]).mask(text, None, Payload.empty(1), np.ones(1, bool))
                outcomes.append("mask")
            except InvalidInputError as error:
                outcomes.append("error")
        print(outcomes[0], outcomes[-1])
        """)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "error"


def test_tree_too_deep_for_python(monkeypatch):
    def too_deep(text):
        raise RecursionError

    module.engine.running_engine()
    monkeypatch.setattr(module.json, "loads", too_deep)
    assert "where must be nested less deeply; split it, or pass lists as parameters" in error_of("1 = 1 AND 2 = 2")


WORDS = """true year id ( ) ; -- /* */ ' " $a ? SELECT FROM UNION DROP TABLE documents duckdb_settings() , = > 1 * OR AS
    x read_text('/etc/passwd') WITH LIMIT sum( :: -> [ ] { } COPY TO '/tmp/attnbridge_fuzz' ATTACH ':memory:' #1 é"""
PIECES = st.sampled_from([*WORDS.split(), "\n"])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=12).map(" ".join) | st.text(max_size=40))
def test_fuzzed_text_is_a_mask_or_an_error(text):
    try:
        mask = matcher_of(IDS).mask(text, {"a": 1} if "$a" in text else None, PAYLOAD, ALIVE)
    except InvalidInputError as error:
        started = str(error).startswith(("where ", "params "))
    else:
        started = mask.shape == (N,)
    assert started
    assert not os.path.exists("/tmp/attnbridge_fuzz")  # noqa: PTH110


def test_threads(matcher):
    expected = {y: [v is not None and v > y for v in COLUMNS["year"]] for y in range(1990, 2014)}
    wrong = []

    def work(seed):
        for step in range(40):
            y = 1990 + (seed * 7 + step) % 24
            where = f"year > {y}" if seed % 2 else "year > $y"
            mask = matcher.mask(where, None if seed % 2 else {"y": y}, PAYLOAD, ALIVE)
            if mask.tolist() != expected[y]:
                wrong.append((seed, y))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("way", ["sys.exit(0 if right else 1)", "os._exit(0 if right else 1)"])
def test_fork(way):
    done = run(f"""
        import os, signal, sys, threading
        count = 200_000
        matcher = matcher_of(range(count))
        payload = Payload.empty(0).append(as_table({{"x": np.arange(count)}}, count), count)
        alive = np.ones(count, bool)
        assert matcher.mask("x < 10", None, payload, alive).sum() == 10
        matcher._lock.acquire()  # as another thread may hold it
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            right = matcher.mask("x < 20 AND id > 0", None, payload, alive).sum() == 19
            {way}
        matcher._lock.release()
        assert os.waitpid(child, 0)[1] == 0
        assert matcher.mask("x < 30", None, payload, alive).sum() == 30
        print("both")
        """)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("both")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals between threads here")
def test_ctrl_c():
    count = 200_000
    payload, alive = payload_of({"x": np.arange(count)}, count), np.ones(count, np.bool_)
    slow = "list_sum(list_transform($l, y -> list_sum(list_transform($l, z -> z * y + x)))) > 3"
    main = threading.get_ident()
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))
    matcher = matcher_of(list(range(count)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which workers of pytest-xdist ignore
    timer.start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            matcher.mask(slow, {"l": list(range(30))}, payload, alive)
        assert time.monotonic() - begin < 10
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert matcher.mask("x < 3", None, payload, alive).sum() == 3


def test_ctrl_c_that_duckdb_saw(monkeypatch):
    def interrupted(*given):
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr(module, "_computed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found("year = 0")


def test_errors_on_the_waiting_path_and_off_the_main_thread(monkeypatch):
    monkeypatch.setattr(module, "_QUICK_ROWS", 0)
    assert "where cannot be evaluated" in error_of("text::INTEGER > 3")
    assert found("year = 0") == [6]
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(found("year = 0")))
    thread.start()
    thread.join()
    assert outcome == [[6]]


def test_import_is_light():
    done = run("""
        import sys
        from attnbridge.integrations import where
        """)
    assert done.returncode == 0
    code = (
        "import sys; import attnbridge.integrations as i; import importlib.util as u; before = set(sys.modules);"
        "import attnbridge.integrations.where, attnbridge.integrations.payload;"
        "print([m for m in ('duckdb', 'pyarrow') if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
