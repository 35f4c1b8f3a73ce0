"""SQL functions beside DuckDB's array_inner_product, and beside the Python API that they stand for. One thread.

Rows are clustered, a little inside the unit ball; the ten best of a constant query. Bounds are ratios of medians.
Run: python tests/benchmarks/bench_sql.py [--rows 200000] [--rounds 5] [--only WORD]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pool
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["ATTNBRIDGE_NUM_THREADS"] = "1"

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from common import arguments, interleaved, machine, medians, show

import attnbridge as ab

DIM, K, CLUSTERS = 384, 10, 1000
PAIRWISE = [row["name"] for row in ab.attention_types() if row["pairwise"] and row["name"] != "scaled_dot"]
TEN_BEST = f"SELECT id, {{}} AS score FROM {{}} ORDER BY score DESC LIMIT {K}"
CROSS = "SELECT q.id, d.id, {} AS score FROM ten q CROSS JOIN few d {}"
LATERAL = f"SELECT q.id, s.id, s.score{{}} FROM asked q, ruvector_search(q.embedding, k := {K}) s"

Run = Callable[[int], object]
Case = tuple[str, Run, float | None]  # what it is, and how many times the peer's time it may take


def made_rows(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows around centres, all of length 0.9."""
    centres = rng.standard_normal((CLUSTERS, DIM), np.float32)
    rows = centres[rng.integers(0, CLUSTERS, count)]
    for start in range(0, count, 10_000):
        part = rows[start : start + 10_000]
        part += 0.5 * rng.standard_normal(part.shape, np.float32)
        part *= 0.9 / np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def table(rows: np.ndarray) -> pa.Table:
    """Return rows with their number, as DuckDB reads them."""
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    return pa.table({"id": np.arange(len(rows)), "embedding": embedding})


def connected(rows: np.ndarray, queries: np.ndarray, folder: Path, index: Any) -> duckdb.DuckDBPyConnection:
    """Return a connection with the tables of all questions."""
    con = ab.connect(config={"threads": "1"}, index=index)
    tables = {"data": table(rows), "questions": table(queries)}
    for name, data in tables.items():
        con.register(name, data)
    con.execute("CREATE TABLE documents AS FROM data")
    con.execute("CREATE TABLE lists AS SELECT id, embedding::FLOAT[] AS embedding FROM data")
    con.execute("CREATE TABLE few AS FROM data LIMIT (SELECT count(*) // 4 FROM data)")
    con.execute("CREATE TABLE groups AS SELECT id // 50 AS name, list(embedding) AS keys FROM "
                "(FROM documents LIMIT 100_000) GROUP BY ALL")  # fmt: skip
    con.execute("CREATE TABLE pairs AS SELECT a.id, a.embedding AS a, b.embedding AS b FROM few a "
                "JOIN few b ON b.id = (a.id + 1) % (SELECT count(*) FROM few)")  # fmt: skip
    con.execute("CREATE TABLE asked AS FROM questions")
    con.execute("CREATE TABLE ten AS FROM questions LIMIT 10")
    con.execute("CREATE TABLE tiny AS FROM data LIMIT 10")
    con.execute(f"COPY documents TO '{folder}/documents.parquet'")
    return con


def one_query(con: duckdb.DuckDBPyConnection, query: np.ndarray, folder: Path) -> tuple[Run, list[Case]]:
    """Return what DuckDB's function takes, and ours in every form of query and column."""
    given = {"q": query.tolist()}

    def run(score: str, source: str = "documents", values: Any = given) -> Run:
        sql = TEN_BEST.format(score, source)
        return lambda _: con.execute(sql, values).fetchall()

    con.execute(f"PREPARE prepared AS {TEN_BEST.format('ruvector_attention_score($q, embedding)', 'documents')}")
    literal = f"{query.tolist()}"
    parquet = f"'{folder}/documents.parquet'"
    ours = "ruvector_attention_score({}, {})".format
    cases: list[Case] = [
        ("list_inner_product of lists", run("list_inner_product($q, embedding)", "lists"), None),
        ("list parameter", run(ours("$q", "embedding")), 1.2),
        ("numpy parameter", run(ours("$q", "embedding"), values={"q": query}), 1.2),
        ("$q::FLOAT[384]", run(ours("$q::FLOAT[384]", "embedding")), 1.2),
        ("prepared statement", lambda _: con.execute(f"EXECUTE prepared(q := {literal})").fetchall(), 1.2),
        ("scalar subquery", run(ours("(SELECT embedding FROM asked LIMIT 1)", "embedding"), values=None), 1.2),
        *((name, run(ours("$q", f"embedding, '{name}'")), None) for name in PAIRWISE),
        ("lists, $q::FLOAT[384]", run(ours("$q::FLOAT[384]", "embedding"), "lists"), 2.3),
        ("lists, embedding::FLOAT[384]", run(ours("$q", "embedding::FLOAT[384]"), "lists"), 2.3),
        ("lists, list parameter", run(ours("$q", "embedding"), "lists"), 2.3),
        (
            "Parquet, array_inner_product",
            run("array_inner_product($q::FLOAT[384], embedding::FLOAT[384])", parquet),
            None,
        ),
        ("Parquet, $q::FLOAT[384]", run(ours("$q::FLOAT[384]", "embedding"), parquet), None),
    ]
    return run("array_inner_product($q::FLOAT[384], embedding)"), cases


def questions(
    con: duckdb.DuckDBPyConnection, index: ab.AttentionVectorBridge | None, queries: np.ndarray, folder: Path
) -> Iterator[tuple[str, Run, list[Case]]]:
    """Yield what is compared: the peer's name, the peer, and what is held against it."""

    def rows(sql: str, values: Any = None) -> Run:
        return lambda _: con.execute(sql, values).fetchall()

    def arrow(sql: str) -> Run:
        return lambda _: con.sql(sql).to_arrow_table()

    peer, cases = one_query(con, queries[0], folder)
    if index is not None:
        search = f"SELECT id, score FROM ruvector_search($q, k := {K})"
        cases.append(("ruvector_search, index", rows(search, {"q": queries[0].tolist()}), 0.3))
    yield "array_inner_product", peer, cases
    if index is not None:
        yield (
            "search_batch",
            lambda _: index.search_batch(queries, K),
            [("lateral ruvector_search", rows(LATERAL.format("")), 1.3)],
        )
        yield (
            "search_batch, payload",
            lambda _: [hits.payload for hits in index.search_batch(queries, K)],
            [("lateral ruvector_search, payload", rows(LATERAL.format(", s.payload")), 1.3)],
        )
    theirs, ours = "array_inner_product({}, {})".format, "ruvector_attention_score({}, {})".format
    both = ("q.embedding", "d.embedding")
    best = "ORDER BY score DESC LIMIT 10"
    yield (
        "cross join, array_inner_product",
        rows(CROSS.format(theirs(*both), best)),
        [("cross join, ten best", rows(CROSS.format(ours(*both), best)), 1.6)],
    )
    ordered = "ORDER BY q.id, score DESC"
    yield (
        "cross join, array_inner_product",
        arrow(CROSS.format(theirs(*both), ordered)),
        [("cross join, all in order", arrow(CROSS.format(ours(*both), ordered)), 1.6)],
    )
    yield (
        "two columns, array_inner_product",
        rows(TEN_BEST.format(theirs("a", "b"), "pairs")),
        [("two columns", rows(TEN_BEST.format(ours("a", "b"), "pairs")), None)],
    )
    yield grouped(con, queries[0])
    values = {"q": queries[0].tolist()}
    for name, query, given in (
        ("literal", f"{values['q']}::FLOAT[384]", None),
        ("parameter", "$q::FLOAT[384]", values),
    ):
        yield (
            f"array_inner_product, {name}, 10 rows",
            rows(TEN_BEST.format(theirs(query, "embedding"), "tiny"), given),
            [(f"{name}, 10 rows", rows(TEN_BEST.format(ours(query, "embedding"), "tiny"), given), None)],
        )


def grouped(con: duckdb.DuckDBPyConnection, query: np.ndarray) -> tuple[str, Run, list[Case]]:
    """Return the weights of groups of 50 keys: the Python API in a loop, and SQL, which reads lists and makes them."""
    table = con.sql("SELECT keys FROM groups").to_arrow_table()
    keys = [np.array(row.values.flatten()).reshape(-1, DIM) for row in table["keys"]]
    few, score = "(FROM documents LIMIT 100_000)", "ruvector_attention_scores($q, {})".format
    sql = {
        "groups of 50 keys, attention_scores": f"SELECT {score('keys')} FROM groups",
        "groups of 50 keys, nothing but read": "SELECT keys FROM groups",
        "GROUP BY, attention_scores": f"SELECT {score('list(embedding)')} FROM {few} GROUP BY id // 50",
        "GROUP BY, nothing but list": f"SELECT list(embedding) FROM {few} GROUP BY id // 50",
    }

    def run(one: str) -> Run:
        values = {"q": query.tolist()} if "$q" in one else None
        return lambda _: con.sql(one, params=values).to_arrow_table()

    cases: list[Case] = [(name, run(one), None) for name, one in sql.items()]
    return "attention_scores, Python loop", lambda _: [ab.attention_scores(query, part) for part in keys], cases


def compared(peer: str, theirs: Run, cases: list[Case], rounds: int) -> list[tuple[str, ...]]:
    """Return the lines of one comparison."""
    runs: dict[str, Run] = {peer: theirs} | {name: run for name, run, _ in cases}
    middle = medians(interleaved(runs, rounds))
    lines = []
    for name, _, most in cases:
        ratio = middle[name] / middle[peer]
        bound = ("", "") if most is None else (f"{most:g}", "ok" if ratio <= most else "SHORT")
        lines.append((name, peer, f"{1e3 * middle[name]:.1f}", f"{1e3 * middle[peer]:.1f}", f"{ratio:.2f}", *bound))
    return lines


def recall(con: duckdb.DuckDBPyConnection, queries: np.ndarray) -> float:
    """Return the share of the ten best that ruvector_search finds."""
    exact, found = (
        "SELECT id FROM documents ORDER BY array_inner_product($q::FLOAT[384], embedding) DESC LIMIT 10",
        "SELECT id FROM ruvector_search($q)",
    )
    hits = [[set(con.execute(sql, {"q": q.tolist()}).fetchall()) for sql in (exact, found)] for q in queries]
    return float(np.mean([len(a & b) / K for a, b in hits]))


def parse() -> argparse.Namespace:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1000, help="of the lateral join")
    parser.add_argument(
        "--without-index", action="store_true", help="leave out what needs an index, which is slow to build"
    )
    parser.add_argument("--only", default="", help="comparisons whose peer's name has this in it")
    return parser.parse_args()


def main() -> None:
    options = parse()
    rng = np.random.default_rng(0)
    rows = made_rows(options.rows + options.queries, rng)
    rows, queries = rows[: options.rows], rows[options.rows :]
    index = None
    if not options.without_index:
        index = ab.AttentionVectorBridge(dim=DIM)
        payload = {"title": [f"document {i}" for i in range(len(rows))], "year": 1900 + np.arange(len(rows)) % 100}
        index.add(rows, payload=payload)
    with tempfile.TemporaryDirectory() as folder, connected(rows, queries, Path(folder), index) as con:
        if index is not None:
            print(f"recall@10 of ruvector_search: {recall(con, queries[:20]):.3f}")
        lines = []
        for peer, theirs, cases in questions(con, index, queries, Path(folder)):
            if options.only in peer:
                lines += compared(peer, theirs, cases, options.rounds)
    show(
        f"{options.rows:,} x {DIM}, one thread, medians of {options.rounds} ({machine()}, DuckDB {duckdb.__version__})",
        ["SQL", "peer", "ms", "peer's ms", "times", "at most", ""],
        lines,
    )


if __name__ == "__main__":
    main()
