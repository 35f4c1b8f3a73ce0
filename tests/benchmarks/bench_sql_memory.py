"""Growth of a process over many runs of SQL statements, by kind of statement, after the first ten runs.

    python tests/benchmarks/bench_sql_memory.py [--rows 1000000] [--runs 200] [--only score ...]

Exits with 1 where one grows by 50 MB or more.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
from common import machine, show, verdict

import attnbridge as ab
from attnbridge.integrations.duckdb import register

DIM, MOST, FIRST = 16, 50, 10
Run = Callable[[int], object]


def resident() -> float:
    """Return MB of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def database(rows: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database of `rows` random vectors and a registered index of 2,000."""
    rng = np.random.default_rng(3)
    index = ab.AttentionVectorBridge(dim=DIM, index="exact")
    index.add(rng.standard_normal((2000, DIM)), payload={"a": list(range(2000))})
    vector = "list_transform(range(16), lambda j: hash(i * 16 + j) % 1000 / 500 - 1)::FLOAT[16]"
    with ab.connect(index=index, config={"threads": 1}) as con:
        con.execute(f"CREATE TABLE t AS SELECT i, i // 100 AS g, {vector} AS e FROM range({rows}) r(i)")
        con.execute(f"CREATE TABLE few AS SELECT * FROM t LIMIT {max(1, rows // 1000)}")
        con.execute("CREATE TABLE ten AS SELECT * FROM t LIMIT 10")
        con.execute(f"CREATE TABLE tenth AS SELECT * FROM t LIMIT {rows // 10}")
        yield con


def workloads(con: duckdb.DuckDBPyConnection) -> dict[str, Run]:
    """Return what is run again and again, by name."""
    query = np.linspace(-1, 1, DIM, dtype=np.float32)

    def of(sql: str) -> Run:
        return lambda _: con.execute(sql, {"q": query} if "$q" in sql else None).fetchall()

    def many_queries(run: int) -> None:
        for number in range(20):
            con.execute(
                "SELECT sum(ruvector_attention_score($q::FLOAT[16], e)) FROM ten",
                {"q": query * (1 + run * 20 + number)},
            ).fetchall()

    def registered(run: int) -> None:
        index = ab.AttentionVectorBridge(dim=DIM, index="exact")
        index.add(np.random.default_rng(run).standard_normal((20_000, DIM)))
        register(con, prefix="again_", index=index)
        con.execute("SELECT * FROM again_search($q)", {"q": query}).fetchall()

    def opened(_: int) -> None:
        for _number in range(2):
            with ab.connect(config={"threads": 1}) as other:
                other.execute("SELECT ruvector_attention_score($q, $q)", {"q": query}).fetchall()

    def errors(_: int) -> None:
        for _number in range(5):
            try:
                con.execute("SELECT sum(ruvector_attention_score([1, 2]::FLOAT[2], e)) FROM t").fetchall()
            except duckdb.InvalidInputException:
                continue
            raise AssertionError("vectors of 2 and 16 numbers have no score")

    return {
        "score": of("SELECT sum(ruvector_attention_score($q::FLOAT[16], e)) FROM t"),
        "cross join": of("SELECT sum(ruvector_attention_score(q.e, d.e)) FROM ten q CROSS JOIN tenth d"),
        "1:1 join": of("SELECT sum(ruvector_attention_score(q.e, d.e)) FROM t q JOIN t d ON q.i = d.i"),
        "groups": of(
            "SELECT sum(w[1]) FROM (SELECT ruvector_attention_scores($q::FLOAT[16], list(e)) AS w FROM t GROUP BY g)"
        ),
        "lateral search": of("SELECT sum(h.score) FROM few, LATERAL (SELECT * FROM ruvector_search(few.e)) h"),
        "new queries": many_queries,
        "register": registered,
        "connect": opened,
        "errors": errors,
    }


def measured(run: Run, runs: int) -> tuple[float, float, float]:
    """Return MB after the first runs, MB it grew by from there on, and ms a run."""
    for number in range(FIRST):
        run(number)
    gc.collect()
    before, start = resident(), time.perf_counter()
    for number in range(FIRST, runs):
        run(number)
    gc.collect()
    return before, resident() - before, (time.perf_counter() - start) / max(1, runs - FIRST) * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", nargs="+", help="names of statements")
    options = parser.parse_args()
    rows, grown = [], []
    with database(options.rows) as con:
        for name, run in workloads(con).items():
            if options.only is None or name in options.only:
                base, more, milliseconds = measured(run, options.runs)
                grown.append(more)
                rows.append((name, f"{base:.0f}", verdict(more, most=MOST), f"{milliseconds:.1f}"))
    title = f"{options.rows:,} rows of FLOAT[{DIM}], {options.runs} runs ({machine()})"
    show(title, ("statement", f"MB after {FIRST} runs", "MB more at the end", "ms a run"), rows)
    sys.exit(not grown or max(grown) >= MOST)


if __name__ == "__main__":
    main()
