"""Making the SQL functions known: again, elsewhere, from several places at once, and where it cannot be."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import duckdb
import pytest

import attnbridge as ab
from attnbridge.errors import InvalidConfigError
from attnbridge.integrations.duckdb import lookup, register, registration

NEAREST = "SELECT id FROM ruvector_search([1, 0], k := 1)"
NAMES = {
    "attention",
    "attention_rank",
    "attention_score",
    "attention_scores",
    "attention_softmax",
    "attention_types",
    "flash_attention",
    "maxsim",
    "multi_head_attention",
    "poincare_distance",
    "search",
    "softmax",
}


def make(id="a"):
    """Return an index with one document."""
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0]], [id])
    return bridge


@pytest.fixture
def con():
    with duckdb.connect() as made:
        yield made


def softmax(con, name="ruvector_softmax"):
    return con.execute(f"SELECT {name}([0.0, 0.0])").fetchall()


HALVES = [([0.5, 0.5],)]


def oids(con):
    """Return the macros' identities, which change where one is made anew."""
    rows = con.execute("SELECT function_name, function_oid FROM duckdb_functions() WHERE macro_definition IS NOT NULL")
    return sorted(rows.fetchall())


# ---- again


def test_all_functions_are_there(con):
    register(con)
    there = con.execute("SELECT function_name FROM duckdb_functions() WHERE starts_with(function_name, 'ruvector_')")
    assert {name.removeprefix("ruvector_") for (name,) in there.fetchall()} >= NAMES


def test_again_changes_nothing(con):
    bridge = make()
    register(con, index=bridge)
    before = oids(con)
    register(con, index=bridge)
    register(con)
    with con.cursor() as cursor:
        register(cursor, index=bridge)
    assert oids(con) == before
    assert con.execute(NEAREST).fetchall() == [("a",)]


def test_a_limit_is_changed_and_the_index_kept(con):
    bridge = make()
    register(con, index=bridge)
    register(con, max_keys=2)
    assert con.execute(NEAREST).fetchall() == [("a",)]
    with pytest.raises(duckdb.InvalidInputException, match="keys must be at most max_keys = 2 rows, got 3"):
        con.execute("SELECT ruvector_attention_scores([1], [[1], [2], [3]])").fetchall()
    register(con)
    assert len(con.execute("SELECT ruvector_attention_scores([1], [[1], [2], [3]])").fetchall()[0][0]) == 3


def test_another_index_replaces_the_one_before(con):
    first, second = make("a"), make("b")
    register(con, index=first)
    register(con, index=second)
    assert con.execute(NEAREST).fetchall() == [("b",)]
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert con.execute(NEAREST).fetchall() == [("b",)]


def test_a_macro_that_was_dropped_comes_back(con):
    register(con)
    con.execute("DROP MACRO ruvector_softmax")
    register(con)
    assert softmax(con) == HALVES


def test_it_leaves_no_unfinished_result(con):
    register(con)
    assert con.sql("SELECT 1").fetchall() == [(1,)]  # DuckDB refuses this where one is
    register(con)
    assert con.sql("SELECT 1").fetchall() == [(1,)]


def test_a_result_that_was_not_fetched_is_lost(con):
    con.execute("FROM range(5000)")
    register(con)
    assert con.fetchall() == []


# ---- prefixes


def test_prefixes_side_by_side(con):
    for prefix in ("", "attention_", "ruvector_", "RuVector_", "_"):
        register(con, prefix=prefix)
    for name in ("softmax", "attention_softmax", "ruvector_softmax", "attention_attention_softmax", "_softmax"):
        assert softmax(con, name) == HALVES
    for name in ("attention_score", "attention_attention_score", "ruvector_attention_score"):
        assert con.execute(f"SELECT {name}([1, 2], [3, 4], options := {{scale: 1.0}})").fetchall() == [(11.0,)]
    assert len(con.execute("FROM attention_types()").fetchall()) == len(ab.attention_types())


def test_prefixes_with_an_index_each(con):
    first, second = make("a"), make("b")
    register(con, index=first)
    register(con, prefix="other_", index=second)
    assert con.execute(NEAREST).fetchall() == [("a",)]
    assert con.execute(NEAREST.replace("ruvector", "other")).fetchall() == [("b",)]


@pytest.mark.parametrize(
    "prefix", ["1a", "a b", 'a"b', "a'b", "a;b", "a.b", "ä", "a-", "a" * 41, "a\n", None, 3, b"a", "--", "/*"]
)
def test_bad_prefixes(con, prefix):
    with pytest.raises(InvalidConfigError) as caught:
        register(con, prefix=prefix)
    assert str(caught.value) == (
        "prefix must be at most 40 letters, digits and underscores, no digit first, or empty, "
        f"got {prefix!r}; leave it out"
    )


def test_the_longest_prefix(con):
    register(con, prefix="a" * 40)
    assert softmax(con, "a" * 40 + "softmax") == HALVES


def test_your_own_macros_stay(con):
    con.execute("CREATE MACRO softmax(x) AS x + 1")
    with pytest.raises(InvalidConfigError) as caught:
        register(con, prefix="")
    assert str(caught.value) == (
        "prefix must leave the macros alone that are there: softmax would be replaced; take another prefix, or drop "
        "them"
    )
    assert con.execute("SELECT softmax(1)").fetchall() == [(2,)]
    with pytest.raises(duckdb.CatalogException):
        con.execute("SELECT attention_score([1], [1])")
    register(con)
    con.execute("DROP MACRO softmax")
    register(con, prefix="")
    assert softmax(con, "softmax") == HALVES


def test_a_prefix_that_makes_another_ones_name_is_refused(con):
    register(con, prefix="")
    with pytest.raises(InvalidConfigError, match="multi_head_attention would be replaced"):
        register(con, prefix="multi_head_")


# ---- where the index lives


def test_the_index_lives_as_long_as_the_connection():
    con = duckdb.connect()
    bridge = make()
    gone = weakref.ref(bridge)
    register(con, index=bridge)
    del bridge
    gc.collect()
    assert con.execute(NEAREST).fetchall() == [("a",)]
    con.close()
    del con
    gc.collect()
    assert gone() is None


def test_a_cursor_searches_on_where_the_index_is_kept():
    con = duckdb.connect()
    cursor, bridge = con.cursor(), make()
    register(con, index=bridge)
    del con
    gc.collect()
    assert cursor.execute(NEAREST).fetchall() == [("a",)]
    del bridge
    gc.collect()
    with pytest.raises(duckdb.InvalidInputException) as caught:
        cursor.execute(NEAREST).fetchall()
    assert str(caught.value).endswith(
        "InvalidConfigError: search needs an index, the one registered is gone, or of another process; call "
        "attnbridge.integrations.duckdb.register(con, index=...)"
    )
    register(cursor, index=make("b"))
    assert cursor.execute(NEAREST).fetchall() == [("b",)]
    cursor.close()


def test_a_cursor_that_registers_keeps_the_index_too():
    con = duckdb.connect()
    cursor, bridge = con.cursor(), make()
    register(con, index=bridge)
    register(cursor, index=bridge)
    del con, bridge
    gc.collect()
    assert cursor.execute(NEAREST).fetchall() == [("a",)]


def test_without_an_index_search_says_so(con):
    register(con)
    with pytest.raises(duckdb.InvalidInputException) as caught:
        con.execute(NEAREST).fetchall()
    assert str(caught.value).endswith(
        "InvalidConfigError: search needs an index, none is registered; call "
        "attnbridge.integrations.duckdb.register(con, index=...)"
    )


def test_registrations_do_not_pile_up():
    bridge = make()
    gc.collect()
    before = len(lookup.indexes._tokens), len(lookup.indexes._things), len(registration._kept)
    for _ in range(10):
        with ab.connect(index=bridge) as con:
            register(con, index=bridge)
            register(con, prefix="other_", index=bridge)
    del con
    gc.collect()
    after = len(lookup.indexes._tokens), len(lookup.indexes._things), len(registration._kept)
    assert after == (before[0] + 1, before[1] + 1, before[2])
    token = lookup.indexes.token_of(bridge)
    del bridge
    gc.collect()
    assert lookup.indexes.known(token) == lookup.indexes.known("")


def test_ids_of_another_kind_than_registered(con):
    bridge, other = ab.AttentionVectorBridge(dim=2, index="exact"), make("a")
    bridge.add([[1.0, 0.0]], [1])
    register(con, index=bridge)
    lookup.indexes._things[lookup.indexes.token_of(bridge)] = other  # as if it had been emptied and filled with text
    with pytest.raises(duckdb.InvalidInputException) as caught:
        con.execute(NEAREST).fetchall()
    assert str(caught.value).endswith(
        "InvalidConfigError: the index held whole numbers for ids when it was registered and holds text now; call "
        "attnbridge.integrations.duckdb.register(con, index=bridge) again"
    )


# ---- databases and schemas


def test_two_databases_two_indexes():
    with ab.connect(index=make("a")) as first, ab.connect(index=make("b")) as second:
        assert first.execute(NEAREST).fetchall() == [("a",)]
        assert second.execute(NEAREST).fetchall() == [("b",)]


def test_in_another_database_they_are_made_again(con):
    bridge = make()
    register(con, index=bridge)
    con.execute("ATTACH ':memory:' AS other; USE other")
    with pytest.raises(duckdb.CatalogException):
        con.execute(NEAREST)
    register(con)  # which keeps the index
    assert con.execute(NEAREST).fetchall() == [("a",)]
    con.execute("USE memory")
    assert con.execute(NEAREST).fetchall() == [("a",)]


@pytest.mark.parametrize("elsewhere", ["USE s", "SET schema = 'memory.s'", "SET search_path = 's,main'"])
def test_in_another_schema_of_the_database_they_are_found(con, elsewhere):
    con.execute("CREATE SCHEMA s")
    first, second = make("a"), make("b")
    register(con, index=first)
    con.execute(elsewhere)
    assert con.execute(NEAREST).fetchall() == [("a",)]
    register(con)
    assert con.execute(NEAREST).fetchall() == [("a",)]
    register(con, index=second)  # of this schema
    assert con.execute(NEAREST).fetchall() == [("b",)]
    con.execute("USE memory.main")
    assert con.execute(NEAREST).fetchall() == [("a",)]


def test_names_of_databases_are_quoted(con):
    con.execute("CREATE TABLE x (i INTEGER)")
    con.execute("""ATTACH ':memory:' AS "o""; DROP TABLE x; --" """)
    con.execute("""USE "o""; DROP TABLE x; --" """)
    con.execute("""CREATE SCHEMA "s'""; DROP TABLE x; --" """)
    con.execute("""USE "o""; DROP TABLE x; --"."s'""; DROP TABLE x; --" """)
    register(con, index=(bridge := make()))
    assert con.execute(NEAREST).fetchall() == [(bridge.ids()[0],)]
    assert con.execute("SELECT count(*) FROM memory.main.x").fetchall() == [(0,)]


def test_macros_called_by_their_full_name(con):
    register(con)
    con.execute("ATTACH ':memory:' AS other; USE other")
    assert softmax(con, "memory.main.ruvector_softmax") == HALVES


# ---- files


def run(code, *arguments):
    """Run Python in another process and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]  # DuckDB may have drawn a progress bar


OTHER_PROCESS = """
import sys, attnbridge as ab
bridge = ab.AttentionVectorBridge(dim=2, index="exact")
bridge.add([[1.0, 0.0]], [sys.argv[2]])
with ab.connect(sys.argv[1], index=bridge, max_keys=7) as con:
    print(con.execute("SELECT id FROM ruvector_search([1, 0], k := 1)").fetchall())
    con.execute("CREATE TABLE IF NOT EXISTS documents AS SELECT [1.0, 0.0]::FLOAT[2] AS embedding")
"""


def test_a_file_of_another_process(tmp_path):
    path = str(tmp_path / "a.duckdb")
    assert run(OTHER_PROCESS, path, "theirs") == "[('theirs',)]"
    with duckdb.connect(path) as con:
        with pytest.raises(duckdb.CatalogException, match=r"_attnbridge_softmax does not exist"):
            softmax(con)
        with pytest.raises(duckdb.CatalogException, match=r"_attnbridge_search_varchar does not exist"):
            con.execute(NEAREST)
    with ab.connect(path) as con:
        assert con.execute("SELECT ruvector_attention_score([1, 0], embedding) FROM documents").fetchall()[0][0] > 0
        with pytest.raises(duckdb.InvalidInputException, match="search needs an index, none is registered"):
            con.execute(NEAREST).fetchall()
        register(con, index=make("mine"))
        assert con.execute(NEAREST).fetchall() == [("mine",)]
    assert run(OTHER_PROCESS, path, "theirs") == "[('theirs',)]"


def test_a_file_reopened_in_the_same_process(tmp_path):
    path, bridge = tmp_path / "a.duckdb", make()
    with ab.connect(path, index=bridge):
        pass
    with ab.connect(path) as con:
        assert con.execute(NEAREST).fetchall() == [("a",)]
        before = oids(con)
    with ab.connect(str(path), index=bridge) as con:
        assert oids(con) == before


def test_macros_of_an_older_version_are_replaced(tmp_path):
    path = tmp_path / "a.duckdb"
    with duckdb.connect(path) as con:
        con.execute("CREATE MACRO _attnbridge_ruvector_registered() AS 'v0 0123'")
        con.execute("CREATE MACRO ruvector_softmax(x, y) AS x + y")
        con.execute("CREATE MACRO ruvector_old(x) AS x")
    with ab.connect(path) as con:
        assert softmax(con) == HALVES


@pytest.mark.parametrize("made_before", [False, True])
def test_read_only_databases(tmp_path, made_before):
    path = str(tmp_path / "a.duckdb")
    if made_before:
        assert run(OTHER_PROCESS, path, "theirs") == "[('theirs',)]"
    else:
        duckdb.connect(path).close()
    before = Path(path).read_bytes()
    with ab.connect(path, read_only=True, index=make()) as con:
        assert con.execute(NEAREST).fetchall() == [("a",)]
        assert softmax(con) == HALVES
        register(con)
        assert con.execute(NEAREST).fetchall() == [("a",)]
        with con.cursor() as cursor:
            register(cursor, index=make("b"))
            assert cursor.execute(NEAREST).fetchall() == [("b",)]
        assert con.execute(NEAREST).fetchall() == [("a",)]
    assert Path(path).read_bytes() == before


def test_two_processes_read_one_file(tmp_path):
    path = str(tmp_path / "a.duckdb")
    run(OTHER_PROCESS, path, "theirs")
    code = OTHER_PROCESS.replace("max_keys=7", "read_only=True").replace(
        'con.execute("CREATE', '0 and con.execute("CREATE'
    )
    with ab.connect(path, read_only=True, index=make()) as con:
        assert run(code, path, "theirs") == "[('theirs',)]"
        assert con.execute(NEAREST).fetchall() == [("a",)]


def test_a_file_that_another_process_writes_is_duckdbs_error(tmp_path):
    path = str(tmp_path / "a.duckdb")
    with ab.connect(path):
        done = subprocess.run([sys.executable, "-c", OTHER_PROCESS, path, "b"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Could not set lock on file" in done.stderr


def test_connect_closes_what_it_cannot_register(tmp_path):
    path = tmp_path / "a.duckdb"
    with pytest.raises(InvalidConfigError, match="prefix must be"):
        ab.connect(path, prefix="a b")
    run(OTHER_PROCESS, str(path), "theirs")  # which could not open it otherwise


@pytest.mark.parametrize("database", [None, 3, b"a.duckdb"])
def test_connect_takes_a_path(database):
    with pytest.raises(InvalidConfigError) as caught:
        ab.connect(database)
    assert str(caught.value) == f"database must be a path or ':memory:', got {database!r}; leave it out"


def test_connect_passes_settings_on(tmp_path):
    with ab.connect(config={"threads": 1}) as con:
        assert con.execute("SELECT current_setting('threads')").fetchall() == [(1,)]


# ---- transactions


def test_in_a_transaction_what_is_there_stays(con):
    bridge = make()
    register(con, index=bridge)
    con.begin()
    con.execute("CREATE TABLE t (i INTEGER)")
    register(con, index=bridge)
    assert con.execute(NEAREST).fetchall() == [("a",)]
    con.rollback()
    assert con.execute(NEAREST).fetchall() == [("a",)]
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_in_a_transaction_nothing_is_made(con, end):
    con.begin()
    con.execute("CREATE TABLE t (i INTEGER)")
    with pytest.raises(InvalidConfigError) as caught:
        register(con)
    assert str(caught.value) == (
        "con must not be in a transaction when functions are made or changed; commit it or roll it back first"
    )
    assert con.execute("SELECT count(*) FROM t").fetchall() == [(0,)]  # which goes on
    getattr(con, end)()
    register(con)
    assert softmax(con) == HALVES
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(int(end == "commit"),)]


def test_in_an_aborted_transaction(con):
    con.begin()
    with pytest.raises(duckdb.CatalogException):
        con.execute("FROM nowhere")
    with pytest.raises(InvalidConfigError) as caught:
        register(con)
    assert str(caught.value) == "con must not be in an aborted transaction; con.rollback() ends it"
    con.rollback()
    register(con)
    assert softmax(con) == HALVES


def test_a_transaction_of_another_connection_is_not_in_the_way(con):
    with con.cursor() as other:
        other.begin()
        other.execute("CREATE TABLE t (i INTEGER)")
        register(con)
        assert softmax(con) == HALVES
        other.rollback()
        assert softmax(other) == HALVES


# ---- threads


def together(count, work):
    errors = []
    barrier = threading.Barrier(count)

    def one(number):
        barrier.wait()
        try:
            work(number)
        except Exception as error:  # noqa: BLE001 - which the test then shows
            errors.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_with_cursors_of_one_connection(con):
    cursors, bridge = [con.cursor() for _ in range(8)], make()

    def work(number):
        register(cursors[number], index=bridge)
        assert cursors[number].execute(NEAREST).fetchall() == [("a",)]
        assert softmax(cursors[number]) == HALVES

    together(8, work)
    assert con.execute(NEAREST).fetchall() == [("a",)]


def test_threads_with_connections_of_their_own():
    def work(number):
        with ab.connect(index=make(f"d{number}")) as con:
            assert con.execute(NEAREST).fetchall() == [(f"d{number}",)]

    together(8, work)


def test_threads_on_one_file(tmp_path):
    bridge = make()

    def work(_number):
        with ab.connect(tmp_path / "a.duckdb", index=bridge) as con:
            assert con.execute(NEAREST).fetchall() == [("a",)]

    together(8, work)


# ---- what is no connection, no index, no limit


@pytest.mark.parametrize("thing", [None, "a.duckdb", 3, Path("a.duckdb")])
def test_what_is_no_connection(thing):
    with pytest.raises(InvalidConfigError) as caught:
        register(thing)
    assert (
        str(caught.value) == f"con must be a connection of DuckDB's, got {thing!r}; attnbridge.connect(path) opens one"
    )


def test_a_closed_connection(con):
    con.close()
    with pytest.raises(InvalidConfigError) as caught:
        register(con)
    assert str(caught.value) == "con must be open, this connection is closed; open another one"


def test_the_module_stands_for_its_default_connection():
    code = (
        "import duckdb; from attnbridge.integrations.duckdb import register; register(duckdb);"
        "print(duckdb.sql('SELECT ruvector_softmax([0.0, 0.0])').fetchall())"
    )
    assert run(code) == "[([0.5, 0.5],)]"


@pytest.mark.parametrize("thing", ["folder", 3, [[1.0, 0.0]], {}])
def test_what_is_no_index(con, thing):
    with pytest.raises(InvalidConfigError) as caught:
        register(con, index=thing)
    assert str(caught.value) == (
        f"index must be an AttentionVectorBridge, got {thing!r}; AttentionVectorBridge.open(folder) reads one"
    )


@pytest.mark.parametrize("limit", [0, -1, True, "x", 2.5, None])
def test_what_is_no_limit(con, limit):
    with pytest.raises(InvalidConfigError) as caught:
        register(con, max_keys=limit)
    assert str(caught.value) == f"max_keys must be a whole number >= 1, got {limit!r}"
