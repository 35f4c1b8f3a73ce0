"""Dropped cursors, closed connections, forks, errors, Ctrl-C and many threads: no crash, and right numbers afterwards.

Each scenario is a script in a process of its own, whose exit code tells.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PATIENCE = 300  # only a test that fails waits for it
BENCHMARKS = Path(__file__).parent / "benchmarks"

# What every script begins with: a table of numbers whose scores are known, an index, and checks of both.
_BEGIN = """
import gc, os, random, signal, sys, threading, time, weakref
import duckdb
import numpy as np
import attnbridge as ab
from attnbridge.integrations.duckdb import register

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
ROWS = 200_000
SCORES = "SELECT sum(ruvector_attention_score([1, 2]::FLOAT[2], e, options := {scale: 1.0})) FROM t"
SUM = sum(i % 100 + 2 for i in range(ROWS))
POINTS = np.random.default_rng(5).standard_normal((200, 4)).astype(np.float32)


def filled(con, rows=ROWS):
    con.execute(f"CREATE TABLE t AS SELECT i, [i % 100, 1]::FLOAT[2] AS e FROM range({rows}) r(i)")
    return con


def new_index():
    index = ab.AttentionVectorBridge(dim=4, index="exact")
    index.add(POINTS, payload={"a": list(range(200))})
    return index


def scores_are_right(con):
    assert con.execute(SCORES).fetchall() == [(SUM,)]
    weights = con.execute("SELECT ruvector_attention_scores([1, 2], [[3, 4], [5, 6]])").fetchone()[0]
    assert weights == ab.attention_scores([1, 2], [[3, 4], [5, 6]]).tolist()


def search_is_right(con, index):
    for point in POINTS[:3]:
        rows = con.execute("SELECT id, score, weight FROM ruvector_search($q, k := 5)", {"q": point}).fetchall()
        hits = index.search(point, k=5)
        assert rows == list(zip(hits.ids, hits.scores.tolist(), hits.weights.tolist())), (rows, hits)
"""


# Once with DuckDB's threads, once without, in one process.
_BOTH = "for threads in (1, 4):\n"


def run(code, *arguments, begin=_BEGIN, both=False, may_leak=False):
    """Run a script and return what it printed; it must leave with 0, and with nothing on stderr."""
    code = textwrap.dedent(code)
    made = subprocess.run(
        [
            *(sys.executable, "-B", "-X", "faulthandler", "-c"),
            begin + (_BOTH + textwrap.indent(code, " ") if both else code),
            *map(str, arguments),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert made.returncode == 0, (made.returncode, made.stdout[-3000:], made.stderr[-5000:])
    assert may_leak or not made.stderr, made.stderr[-5000:]
    return made.stdout


# ---- connections that are gone


def test_dropped_cursors_and_closed_connections():
    run("""
        con = filled(duckdb.connect(config={"threads": 4}))
        first, other = con.cursor(), con.cursor()
        register(first)
        del first
        gc.collect()
        for each in (con, other, con.cursor()):
            scores_are_right(each)

        con.close()  # and with it, as DuckDB has it, its cursors
        for closed in (con, other):
            for use in (lambda: closed.execute(SCORES), lambda: register(closed)):
                try:
                    use()
                except (duckdb.ConnectionException, ab.InvalidConfigError) as error:
                    assert "closed" in str(error), error
                else:
                    raise AssertionError("closed, and answers")

        con = filled(ab.connect())
        other = con.cursor()
        del con
        gc.collect()
        scores_are_right(other)
        register(other, prefix="again_")
        assert other.execute("SELECT again_softmax([0, 0])").fetchall() == [([0.5, 0.5],)]

        def local():  # the connection is gone when this returns
            con = filled(ab.connect())
            return con.cursor(), con.execute(SCORES)
        cursor, result = local()
        gc.collect()
        assert result.fetchall() == [(SUM,)]
        scores_are_right(cursor)
        """)


def test_dropped_index():
    run("""
        con, index = filled(ab.connect()), new_index()
        register(con, index=index)
        cursor = con.cursor()
        search_is_right(cursor, index)
        con.execute("SELECT id FROM ruvector_search([1, 2, 3, 4])")
        del index  # the connection keeps it
        gc.collect()
        for point in POINTS[:3]:
            assert len(cursor.execute("SELECT * FROM ruvector_search($q)", {"q": point}).fetchall()) == 10
        del con
        gc.collect()
        try:
            cursor.execute("SELECT * FROM ruvector_search([1, 2, 3, 4])").fetchall()
        except duckdb.InvalidInputException as error:
            assert "search needs an index" in str(error), error
        else:
            raise AssertionError("searched what is gone")
        scores_are_right(cursor)

        kept = new_index()  # other than that: who keeps the index, searches on
        con = filled(ab.connect(index=kept))
        cursor = con.cursor()
        del con
        gc.collect()
        search_is_right(cursor, kept)
        register(cursor, index=(other := new_index()))
        search_is_right(cursor, other)

        con, first = ab.connect(), new_index()  # what is replaced is not kept
        register(con, index=first)
        gone = weakref.ref(first)
        del first
        register(con, index=other)
        gc.collect()
        assert gone() is None
        search_is_right(con, other)
        """)


def test_reopened_file(tmp_path, rounds):
    run(
        """
        path, index = sys.argv[1], new_index()
        with ab.connect(path) as con:
            filled(con)
        for time_ in range(int(sys.argv[2])):
            con = ab.connect(path, index=index if time_ % 2 else None)
            scores_are_right(con)
            if time_ % 2:
                search_is_right(con, index)
            if time_ % 3:
                con.close()
            del con
            gc.collect()
        with duckdb.connect(path) as con:  # the macros are there, the functions are not
            try:
                con.execute(SCORES)
            except duckdb.CatalogException as error:
                assert "_attnbridge_" in str(error), error
            else:
                raise AssertionError("not registered, and answers")
            register(con)
            scores_are_right(con)
        """,
        tmp_path / "a.db",
        rounds(15, 50),
    )


def test_many_connections(rounds):
    run(
        """
        live = []
        for number in range(int(sys.argv[1])):
            con = ab.connect(config={"threads": 1})
            score = "SELECT ruvector_attention_score([1], [$n::INTEGER], options := {scale: 1.0})"
            value = con.execute(score, {"n": number})
            live.append((con.cursor(), value, number))
            del con
            for cursor, value, number in live[:: max(1, len(live) // 3)]:
                assert cursor.execute("SELECT ruvector_softmax([0, 0])").fetchone() == ([0.5, 0.5],)
            if len(live) == 20:
                assert [value.fetchone() for _, value, _ in live] == [(float(n),) for _, _, n in live]
                live.clear()
                gc.collect()
        """,
        rounds(60, 200),
    )


def test_close_while_a_cursor_runs(rounds):
    """In another thread: right numbers, or an error, and other connections work on."""
    run(
        """
        index = new_index()
        there = filled(ab.connect(index=index, config={"threads": 2}))
        for number in range(int(sys.argv[1])):
            con = filled(ab.connect(index=index, config={"threads": 1 + number % 4}), 1_000_000)
            cursor, ended, going = con.cursor(), [], True

            def work():
                try:
                    while going:
                        assert cursor.execute(SCORES).fetchall() == [(5 * SUM,)]
                except (duckdb.ConnectionException, ab.InvalidConfigError) as error:
                    ended.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(random.random() / 2)
            try:
                con.close()
            except duckdb.ResourceInUseException as error:  # as DuckDB has it
                assert "busy" in str(error), error
            else:
                thread.join()
                assert "closed" in str(ended[0])
            going = False
            thread.join()
            con.close()
            scores_are_right(there)
        search_is_right(there, index)
        """,
        rounds(5, 50),
    )


# ---- the end of the interpreter


@pytest.mark.parametrize(
    "code",
    [
        "con.execute('SELECT ruvector_softmax([0.0, 0.0])')",
        "rows = con.cursor().execute('SELECT ruvector_attention_score([1, 2]::FLOAT[2], e) FROM t'); rows.fetchone()",
        """
def work(cursor):
    for _ in range(5):
        scores_are_right(cursor)
for _ in range(3):
    threading.Thread(target=work, args=(con.cursor(),)).start()
        """,
        """
relation = con.sql("SELECT ruvector_attention_score([1, 2]::FLOAT[2], e) AS s FROM t")
relation.limit(2).fetchall()
con.execute("SELECT * FROM ruvector_search([1, 2, 3, 4])")
keep = lambda: (con, index, relation)
try:
    con.execute("SELECT ruvector_attention_score([1], [1, 2])")
except duckdb.InvalidInputException as error:
    last = error
        """,
    ],
    ids=["plain", "pending", "threads", "kept"],
)
def test_exit_with_open_connections(code):
    run(f"index = new_index()\ncon = filled(ab.connect(index=index))\n{code}")


# ---- fork


def test_fork():
    """The child's own connection and the inherited one, in a child of os.fork that ends as Python does, and others."""
    printed = run(
        """
        import multiprocessing
        index = new_index()
        con = filled(ab.connect(index=index, config={"threads": threads}))
        scores_are_right(con)
        search_is_right(con, index)

        def child():
            own = filled(ab.connect(index=index))
            for each in (own, con, con.cursor()):
                scores_are_right(each)
                search_is_right(each, index)
            print("right", flush=True)

        number = os.fork()
        if number == 0:
            child()
            sys.exit(0)
        assert os.waitpid(number, 0)[1] == 0
        number = os.fork()
        if number == 0:
            sys.exit(0)  # nothing used
        assert os.waitpid(number, 0)[1] == 0
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        scores_are_right(con)
        search_is_right(con, index)
        """,
        both=True,
        may_leak=True,  # in a child whose inherited connections are never closed
    )
    assert printed.split() == ["right"] * 4


def test_fork_while_threads_query_and_register(rounds):
    """No lock of ours stays held in the child."""
    run(
        """
        index, going = new_index(), True
        con = filled(ab.connect(index=index))

        def again(work):
            while going:
                work()

        mine = [con.cursor() for _ in range(3)]
        works = [
            lambda: scores_are_right(mine[0]),
            lambda: search_is_right(mine[1], index),
            lambda: register(mine[2], prefix="other_", max_keys=random.randrange(10, 10_000)),
        ]
        threads = [threading.Thread(target=again, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        failed = []
        for _ in range(int(sys.argv[1])):
            time.sleep(random.random() / 10)
            number = os.fork()
            if number == 0:
                with ab.connect(index=index, config={"threads": 1}) as own:
                    search_is_right(own, index)
                    register(own, prefix="other_")
                    scores_are_right(filled(own))
                os._exit(0)
            failed.append(os.waitpid(number, 0)[1])
        going = False
        for thread in threads:
            thread.join()
        assert not any(failed), failed
        scores_are_right(con)
        """,
        rounds(5, 50),
    )


# ---- errors


def test_errors_in_the_middle_of_a_table(rounds):
    run(
        """
        con, index = filled(ab.connect(config={"threads": threads})), new_index()
        register(con, index=index)
        con.execute("CREATE TABLE bad AS SELECT i, CASE WHEN i = 150_000 THEN [1] ELSE e END AS e FROM "
                    "(SELECT i, e::FLOAT[] AS e FROM t)")
        con.execute("CREATE TABLE log (n INTEGER)")
        FAILING = [
            ("SELECT sum(ruvector_attention_score([1, 2]::FLOAT[2], e)) FROM bad", "DimensionMismatchError"),
            ("SELECT sum(ruvector_attention_score([1, 2]::FLOAT[2], e, 'no_such')) FROM t", "no_such"),
            ("SELECT * FROM (SELECT [1, 2] AS q FROM range(100)) x, LATERAL (SELECT * FROM ruvector_search(x.q))",
             "DimensionMismatchError"),
            ("SELECT * FROM ruvector_search([1, 2, 3, 4], k := 0)", "k must be"),
            ("SELECT * FROM ruvector_search([1, 2, 3, 4], where_sql := 'no_such > 1')", "no_such"),
            ("SELECT ruvector_softmax([NULL])", "scores"),
        ]

        def fails(statement, said):
            try:
                con.execute(statement).fetchall()
            except duckdb.InvalidInputException as error:
                assert said in str(error), error
            else:
                raise AssertionError(statement)

        for statement, said in FAILING:
            fails(statement, said)
            scores_are_right(con)
            search_is_right(con, index)
        for number in range(int(sys.argv[1])):
            fails(*FAILING[number % len(FAILING)] if number % 50 == 0 else FAILING[2 + number % 4])
        scores_are_right(con)

        con.begin()  # as after an error of DuckDB's own functions: what was done before counts, or nothing
        con.execute("INSERT INTO log VALUES (1)")
        try:
            con.execute("SELECT error('mine')").fetchall()
        except duckdb.InvalidInputException:
            pass
        def state():
            try:
                return con.execute("SELECT count(*) FROM log").fetchall()
            except duckdb.TransactionException as error:
                return str(error)
        expected = state()
        con.rollback()
        con.begin()
        con.execute("INSERT INTO log VALUES (1)")
        fails(*FAILING[0])
        assert state() == expected, (state(), expected)
        con.rollback()
        assert con.execute("SELECT count(*) FROM log").fetchall() == [(0,)]
        scores_are_right(con)
        """,
        rounds(200, 1000),
        both=True,
    )


def test_any_exception_within_a_function():
    run(
        """
        from attnbridge.integrations.duckdb import lookup, pairs
        con, index = filled(ab.connect(config={"threads": threads})), new_index()
        register(con, index=index)
        real, calls = pairs.pair_logits, 0
        for kind in (MemoryError, KeyboardInterrupt, SystemExit, RuntimeError, RecursionError, StopIteration):
            def broken(*arguments):
                global calls
                calls += 1
                if calls % 20 == 0:
                    raise kind("made up")
                return real(*arguments)
            pairs.pair_logits = broken
            for _ in range(5):
                try:
                    con.execute(SCORES).fetchall()
                except duckdb.InvalidInputException as error:
                    assert kind.__name__ in str(error), error
                else:
                    raise AssertionError(kind)
            pairs.pair_logits = real
            scores_are_right(con)

            def fails(*arguments):
                raise kind("made up")
            good, lookup._Searches.run = lookup._Searches.run, fails
            try:
                con.execute("SELECT * FROM ruvector_search([1, 2, 3, 4])").fetchall()
            except duckdb.InvalidInputException as error:
                assert kind.__name__ in str(error), error
            else:
                raise AssertionError(kind)
            lookup._Searches.run = good
            search_is_right(con, index)
        """,
        both=True,
    )


# ---- interrupted statements

_ENDLESS = (
    _BEGIN
    + """
con, index = filled(ab.connect(config={"threads": int(sys.argv[1])})), new_index()
register(con, index=index)
con.execute("CREATE TABLE many AS SELECT e FROM t, range(10)")  # two million rows
con.execute("CREATE TABLE q AS SELECT [i, 1, 2, 3]::FLOAT[4] AS q FROM range(1_000_000) r(i)")
# Of so many rows that an interrupt ends them.
ENDLESS = {
    "score": "SELECT sum(ruvector_attention_score([1, 2]::FLOAT[2], e)) FROM many, range(100_000)",
    "search": "SELECT sum(h.score) FROM q, LATERAL (SELECT * FROM ruvector_search(q.q)) h",
}


def interrupted(error):
    # A Python exception within a function comes as DuckDB's, between functions DuckDB sees the signal itself.
    return (
        isinstance(error, KeyboardInterrupt)
        or (isinstance(error, RuntimeError) and "Query interrupted" in str(error))
        or (isinstance(error, duckdb.InterruptException) and "Interrupted" in str(error))
        or (isinstance(error, duckdb.InvalidInputException) and "KeyboardInterrupt" in str(error))
    )
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_ctrl_c_at_any_moment(threads, rounds):
    run(
        """
import subprocess

# A second signal, should Python have lost the first one in a callback (a weak reference's, ctypes'), whose exceptions
# it ignores, and says so on stderr.
SEND = "sleep {}; kill -INT {pid}; sleep 15; kill -INT {pid}"
sys.unraisablehook = lambda told: told.exc_type is KeyboardInterrupt or sys.__unraisablehook__(told)
for what, count in ("score", int(sys.argv[2])), ("search", int(sys.argv[3])):
    for number in range(count):
        sender = None
        try:
            send = SEND.format(0.02 + random.random() / 4, pid=os.getpid())
            sender = subprocess.Popen(["sh", "-c", send], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            con.execute(ENDLESS[what]).fetchall()
        except BaseException as error:
            assert interrupted(error), repr(error)
        else:
            raise AssertionError("not interrupted")
        if sender is not None:
            sender.kill()
            sender.wait()
        if number % 5 == 0:
            scores_are_right(con)
        search_is_right(con, index)
""",
        threads,
        rounds(20, 200),
        # DuckDB's threads go on for 50 chunks each before they heed a signal: seconds of search.
        rounds(4, 40) if threads == 4 else rounds(20, 200),
        begin=_ENDLESS,
    )


@pytest.mark.parametrize("threads", [1, 4])
def test_interrupt_from_another_thread(threads, rounds):
    run(
        """
for number in range(int(sys.argv[2])):
    statement, ended = ENDLESS["search" if number % 2 else "score"], threading.Event()

    def interrupt():  # again and again, since one that comes before the statement is lost
        while not ended.wait(random.random() / 10):
            con.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        con.execute(statement).fetchall()
    except duckdb.InterruptException as error:
        assert interrupted(error), repr(error)
    else:
        raise AssertionError("not interrupted")
    finally:
        ended.set()
        thread.join()
    scores_are_right(con)
    search_is_right(con, index)
""",
        threads,
        rounds(6, 60),
        begin=_ENDLESS,
    )


# ---- many threads

_MIXED = (
    _BEGIN
    + """
index = new_index()
con = filled(ab.connect(index=index, config={"threads": int(sys.argv[1])}), 5000)
EACH = "SELECT i, ruvector_attention_score($q::FLOAT[2], e) FROM t WHERE i < 300"
E = np.stack([np.arange(5000) % 100, np.ones(5000)], 1).astype(np.float32)
SEARCH = "SELECT id, score FROM ruvector_search($q, k := 3, where_sql := 'a < 150')"


def floats(values):
    return [float(np.float32(value)) for value in values]


def one(number, rng):
    # Return a statement, its parameters, and what it returns, or what its error says.
    query = rng.standard_normal(2).astype(np.float32)
    if number == 0:
        return EACH, {"q": query}, list(zip(range(300), floats(ab.attention_logits(query, E[:300]))))
    if number == 1:
        statement = "SELECT ruvector_attention_scores($q, list(e ORDER BY i), 'dot') FROM t WHERE i < 50"
        return statement, {"q": query}, [(ab.attention_scores(query, E[:50], "dot").tolist(),)]
    if number == 2:
        statement = "SELECT ruvector_attention($q, list(e ORDER BY i), list(e ORDER BY i)) FROM t WHERE i < 40"
        return statement, {"q": query}, [(ab.attention(query, E[:40], E[:40]).tolist(),)]
    if number == 3:
        point = POINTS[rng.integers(0, 200)]
        hits = new.search(point, k=3, where="a < 150")
        return SEARCH, {"q": point}, list(zip(hits.ids, hits.scores.tolist()))
    if number == 4:
        statement = "SELECT a.i, ruvector_attention_score(a.e, b.e, 'dot') FROM t a JOIN t b ON b.i = a.i + 7 " \\
            "WHERE a.i < 50 ORDER BY a.i"
        return statement, None, list(zip(range(50), DOTS))
    if number == 5:
        return EACH.replace("[2]", "[3]"), {"q": [1, 2, 3]}, "DimensionMismatchError: "
    if number == 6:
        return "SELECT * FROM ruvector_search($q)", {"q": query}, "DimensionMismatchError: "
    return "SELECT count(*), sum(i) FROM t", None, [(5000, 5000 * 4999 // 2)]


new = new_index()
DOTS = floats(ab.attention_score(E[i], E[i + 7], "dot") for i in range(50))
failures = []


def client(cursor, seed, statements):
    rng = np.random.default_rng(seed)
    try:
        for _ in range(statements):
            statement, given, wanted = one(int(rng.integers(0, 8)), rng)
            try:
                got = cursor.execute(statement, given).fetchall()
            except duckdb.InvalidInputException as error:
                assert isinstance(wanted, str) and wanted in str(error), (statement, str(error))
            else:
                assert got == wanted, (statement, got[:5], wanted[:5])
    except BaseException as error:
        failures.append(repr(error))


def all_at_once(*works):
    ended = threading.Event()

    def aside(work):
        try:
            while not ended.is_set():
                work()
        except BaseException as error:
            failures.append(repr(error))

    others = [threading.Thread(target=aside, args=(work,)) for work in works]
    clients = [
        threading.Thread(target=client, args=(given, seed, int(sys.argv[2]))) for seed, given in enumerate(CURSORS)
    ]
    for thread in [*others, *clients]:
        thread.start()
    for thread in clients:
        thread.join()
    ended.set()
    for thread in others:
        thread.join()
    assert not failures, failures
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_threads_with_a_cursor_each(threads, rounds):
    run("CURSORS = [con.cursor() for _ in range(4)]\nall_at_once()", threads, rounds(100, 1000), begin=_MIXED)


@pytest.mark.slow
def test_threads_with_a_connection_each(rounds):
    run(
        """
        CURSORS = [filled(ab.connect(index=index), 5000) for _ in range(4)]
        all_at_once()
        """,
        2,
        rounds(100, 1000),
        begin=_MIXED,
    )


@pytest.mark.slow
def test_threads_while_others_register_and_write(rounds):
    run(
        """
        CURSORS = [con.cursor() for _ in range(4)]
        registering, at = con.cursor(), [1000]


        def again():
            register(registering, max_keys=random.randrange(1000, 100_000))
            register(registering, prefix="other_", max_keys=random.randrange(1000, 100_000))


        def write():
            index.add(np.ones((5, 4)), ids=range(at[0], at[0] + 5), payload={"a": range(at[0], at[0] + 5)})
            index.delete(range(at[0], at[0] + 5))
            at[0] += 5


        all_at_once(again, write)
        """,
        2,
        rounds(100, 1000),
        begin=_MIXED,
    )


# ---- memory


@pytest.mark.slow
def test_memory_is_stable(rounds):
    """As the benchmark has it: less than 50 MB more after the first ten runs."""
    rows, runs = rounds((20_000, 40), (1_000_000, 200))
    made = subprocess.run(
        [sys.executable, BENCHMARKS / "bench_sql_memory.py", "--rows", str(rows), "--runs", str(runs)],
        cwd=BENCHMARKS,
        env=os.environ | {"MALLOC_ARENA_MAX": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.count("yes)") == 9, made.stdout
