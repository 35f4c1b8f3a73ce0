"""Scores of tables outside a database: the numbers of the SQL function, in every kind of table."""

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import attnbridge as ab
from attnbridge.errors import (
    DimensionMismatchError,
    InvalidConfigError,
    InvalidInputError,
    NumericalInstabilityError,
)
from attnbridge.integrations.duckdb import frames, score

ROWS, DIM = 61, 8
GAPS = (3, 40)
PAIRWISE = [row["name"] for row in ab.attention_types() if row["pairwise"]]


@pytest.fixture(scope="module")
def vectors():
    made = np.random.default_rng(5).standard_normal((ROWS, DIM)).astype(np.float32)
    made[20] = made[10]  # a tie
    return made / 10  # inside the ball


@pytest.fixture(scope="module")
def query():
    return np.random.default_rng(6).standard_normal(DIM) / 10


@pytest.fixture(scope="module")
def table(vectors):
    rows = [None if i in GAPS else row.tolist() for i, row in enumerate(vectors)]
    return pa.table({"id": np.arange(ROWS), "embedding": pa.array(rows, pa.list_(pa.float32()))})


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Have all that is done in parts done in several."""
    monkeypatch.setattr(frames, "_ROWS", 16)


@pytest.fixture(scope="module")
def in_sql(table, query):
    """Return a function that asks SQL for the scores of a table."""

    def ask(attention_type, options="NULL", table=table, query=query):
        with ab.connect() as con:
            con.register("documents", table)
            rows = con.execute(
                f"SELECT ruvector_attention_score($q, embedding, $type, {options}) FROM documents",
                {"q": query.tolist(), "type": attention_type},
            ).fetchall()
        return [number for (number,) in rows]

    return ask


def chunked(table):
    """Return the same rows in chunks of other lengths, one of them empty."""
    return pa.concat_tables([table.slice(0, 5), table.slice(5, 0), table.slice(5, 30), table.slice(35)])


def as_polars(table):
    return pytest.importorskip("polars").from_arrow(table)


def as_objects(table, make=np.array):
    rows = [None if row is None else make(row) for row in table["embedding"].to_pylist()]
    made = table.drop("embedding").to_pandas()
    made.insert(1, "embedding", pd.Series(rows, dtype=object))
    return made


def as_arrays(table):
    """Return the same with a column of FLOAT[8]."""
    kind = pa.list_(pa.float32(), DIM)
    return table.set_column(1, "embedding", pa.array(table["embedding"].to_pylist(), kind))


def as_tensors(table):
    """Return the same with a column of Arrow's tensors."""
    kind = pa.fixed_shape_tensor(pa.float32(), (DIM,))
    lists = as_arrays(table)["embedding"].combine_chunks()
    return table.set_column(1, "embedding", pa.ExtensionArray.from_storage(kind, lists))


def recast(table, kind):
    return table.set_column(1, "embedding", table["embedding"].cast(kind))


def as_views(table):
    views = pa.array(table["embedding"].to_pylist(), pa.list_view(pa.float32()))
    return table.set_column(table.schema.get_field_index("embedding"), "embedding", views)


def as_relation(table):
    return duckdb.connect().from_arrow(table)


KINDS = {
    "table": lambda table: table,
    "chunked table": chunked,
    "batch": lambda table: table.combine_chunks().to_batches()[0],
    "reader": lambda table: table.to_reader(11),
    "arrays": as_arrays,
    "chunked arrays": lambda table: chunked(as_arrays(table)),
    "tensors": as_tensors,
    "large lists": lambda table: recast(table, pa.large_list(pa.float32())),
    "doubles": lambda table: recast(table, pa.list_(pa.float64())),
    "views": as_views,
    "relation": as_relation,
    "relation of arrays": lambda table: as_relation(as_arrays(table)),
    "pandas of arrays": as_objects,
    "pandas of float32 arrays": lambda table: as_objects(table, lambda row: np.array(row, np.float32)),
    "pandas of lists": lambda table: as_objects(table, list),
    "pandas of tuples": lambda table: as_objects(table, tuple),
    "pandas of Arrow": lambda table: table.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": as_polars,
    "polars of arrays": lambda table: as_polars(as_arrays(table)),
    "polars in chunks": lambda table: as_polars(chunked(table)),
    "polars lazily": lambda table: as_polars(table).lazy(),
}


def scores_of(made):
    """Return the scores of any kind of table, None for NULL."""
    if isinstance(made, pd.DataFrame):
        return [None if np.isnan(x) else float(x) for x in made["score"]]
    if type(made).__name__ == "LazyFrame":
        made = made.collect()
    column = made["score"]
    return column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()


def ids_of(made):
    made = made.collect() if type(made).__name__ == "LazyFrame" else made
    return np.asarray(made["id"]).tolist()


# ---- numbers


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_has_the_scores_of_sql(kind, table, query, in_sql):
    given = KINDS[kind](table)
    made = score(given, query)
    assert scores_of(made) == in_sql("scaled_dot")
    assert ids_of(made) == list(range(ROWS))
    same = {"reader": pa.Table, "relation": pa.Table, "relation of arrays": pa.Table}.get(kind, type(given))
    assert type(made) is same


@pytest.mark.parametrize("kind", KINDS)
def test_best_of_every_kind_of_table(kind, table, query, in_sql):
    expected = np.array([-np.inf if x is None else x for x in in_sql("scaled_dot")])
    order = np.argsort(-expected, kind="stable")
    for k in (1, 5, 40, ROWS - len(GAPS), ROWS + 100):
        best = order[: min(k, ROWS - len(GAPS))]
        given = KINDS[kind](table)
        made = score(given, query, k=k)
        assert ids_of(made) == best.tolist()
        assert scores_of(made) == expected[best].tolist()
        assert type(made) is {"reader": pa.Table}.get(kind, pa.Table if "relation" in kind else type(given))


def test_equal_scores_are_in_the_order_of_the_rows(table, query):
    same = table.set_column(1, "embedding", pa.array([[1.0] * DIM] * ROWS, pa.list_(pa.float32())))
    for kind in KINDS:
        made = score(KINDS[kind](same), query, k=37)
        assert ids_of(made) == list(range(37)), kind


@pytest.mark.parametrize("attention_type", PAIRWISE)
def test_every_pairwise_type(attention_type, table, query, in_sql):
    made = score(table, query, attention_type=attention_type)
    assert made["score"].type == pa.float32()
    assert made["score"].to_pylist() == in_sql(attention_type)
    for i in (0, 17, ROWS - 1):
        key = np.array(table["embedding"][i].as_py(), np.float32)
        expected = ab.attention_score(query.astype(np.float32), key, attention_type)
        assert made["score"][i].as_py() == np.float32(expected)


def test_options_are_those_of_the_type(table, query, in_sql):
    assert score(table, query, scale=0.5)["score"].to_pylist() == in_sql("scaled_dot", "{scale: 0.5}")
    made = score(table, query, attention_type="poincare", curvature=-0.5, temperature=2.0)
    assert made["score"].to_pylist() == in_sql("poincare", "{curvature: -0.5, temperature: 2.0}")


def test_huge_numbers_are_those_of_sql(table, query, in_sql):
    """Sums beyond float32 are computed anew in float64, row by row."""
    rows = table["embedding"].to_pylist()
    rows[2] = [3e38, -3e38] * (DIM // 2)
    huge = table.set_column(1, "embedding", pa.array(rows, pa.list_(pa.float32())))
    big = np.full(DIM, 2.0)
    assert score(huge, big)["score"].to_pylist() == in_sql("scaled_dot", table=huge, query=big)


def test_token_lists(rng):
    query = rng.standard_normal((3, 5))
    documents = [rng.standard_normal((1 + i % 4, 5)) for i in range(40)]
    expected = [
        np.float32(ab.attention_score(query.astype(np.float32), d.astype(np.float32), "cross")) for d in documents
    ]
    lists = pa.array([d.tolist() for d in documents] + [None], pa.list_(pa.list_(pa.float32())))
    made = score(pa.table({"tokens": lists}), query, "tokens", "cross")
    assert made["score"].to_pylist() == [*expected, None]
    frame = pd.DataFrame({"tokens": pd.Series(documents, dtype=object)})
    assert score(frame, query, "tokens", "cross")["score"].tolist() == expected
    best = score(frame, query, "tokens", "maxsim", k=3)
    assert best.index.tolist() == np.argsort(-np.array(expected), kind="stable")[:3].tolist()


def test_query_of_one_vector_meets_token_lists_and_other_way_round(rng, table, query):
    tokens = rng.standard_normal((3, DIM))
    made = score(table, tokens, attention_type="cross")["score"].to_pylist()
    assert [i for i, x in enumerate(made) if x is None] == list(GAPS)
    key = np.array(table["embedding"][0].as_py(), np.float32)
    assert made[0] == np.float32(ab.attention_score(tokens.astype(np.float32), key, "cross"))


def test_vectors_are_not_copied(table, query, monkeypatch):
    """The kernel gets Arrow's own memory."""
    arrays = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(64 * DIM, np.float32)), DIM)})
    memory = arrays["embedding"].chunk(0).values.buffers()[1]
    seen = []
    real = frames.fill_logits

    def look(out, places, kind, options, vector, keys, one):
        seen.append(keys.items.data.ctypes.data - memory.address)
        real(out, places, kind, options, vector, keys, one)

    monkeypatch.setattr(frames, "fill_logits", look)
    score(arrays, query)
    assert seen == [16 * part * DIM * 4 for part in range(4)]


def test_slice_reads_its_own_rows_only(table, query, in_sql):
    expected = in_sql("scaled_dot")[7:30]
    for whole in (table, as_arrays(table), recast(table, pa.list_(pa.float64())), as_tensors(table)):
        assert score(whole.slice(7, 23), query)["score"].to_pylist() == expected
    broken = table["embedding"].to_pylist()
    broken[0] = [1.0]
    other = table.set_column(1, "embedding", pa.array(broken, pa.list_(pa.float32())))
    assert score(other.slice(7, 23), query)["score"].to_pylist() == expected


# ---- what comes back


def test_pandas_keeps_its_index_and_columns(table, query):
    frame = as_objects(table).set_index(pd.Index([f"row{i}" for i in range(ROWS)], name="name"))
    frame["lang"] = pd.Categorical(["de", *["en"] * (ROWS - 1)])
    before = frame.copy()
    made = score(frame, query)
    pd.testing.assert_frame_equal(made.drop(columns="score"), frame)
    pd.testing.assert_frame_equal(frame, before)
    assert made["score"].dtype == np.float32
    best = score(frame, query, k=4)
    pd.testing.assert_frame_equal(best.drop(columns="score"), frame.loc[best.index])
    assert np.isnan(made["score"].iloc[list(GAPS)]).all()


def test_missing_in_pandas(query, vectors):
    for nothing in (None, np.nan, pd.NA, pd.NaT):
        frame = pd.DataFrame({"embedding": pd.Series([vectors[0], nothing, vectors[1]], dtype=object)})
        assert np.isnan(score(frame, query)["score"]).tolist() == [False, True, False]


def test_rows_of_pandas_may_be_of_several_types(vectors, query):
    rows = [
        vectors[0],
        vectors[1].astype(np.float64),
        vectors[2].tolist(),
        [*map(np.float32, vectors[3])],
        [2**70] * DIM,
    ]
    made = score(pd.DataFrame({"embedding": pd.Series(rows, dtype=object)}), query)
    plain = score(pa.table({"embedding": [[float(x) for x in row] for row in rows]}), query)
    assert made["score"].tolist() == plain["score"].to_pylist()


def test_index_that_repeats_itself(table, query):
    frame = as_objects(table).set_index(pd.Index([0] * ROWS))
    assert score(frame, query, k=5)["id"].tolist() == score(table, query, k=5)["id"].to_pylist()


def test_schema_and_metadata_stay(table, query):
    given = table.replace_schema_metadata({"made": "here"})
    for k in (None, 3):
        made = score(given, query, k=k)
        assert made.schema.metadata == {b"made": b"here"}
        assert made.schema.remove_metadata() == table.schema.append(pa.field("score", pa.float32()))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("views",)])
def test_no_rows(kind, table, query):
    for k in (None, 3):
        made = score(
            KINDS[kind](table.slice(0, 0)) if kind != "batch" else table.to_batches()[0].slice(0, 0), query, k=k
        )
        assert scores_of(made) == []


def test_nothing_but_null(table, query):
    for column in (pa.nulls(3), pa.nulls(3, pa.list_(pa.float32())), pa.nulls(3, pa.list_(pa.float32(), DIM))):
        given = pa.table({"embedding": column})
        assert score(given, query)["score"].to_pylist() == [None] * 3
        assert score(given, query, k=2).num_rows == 0
        assert score(given.to_batches()[0], query, k=2).num_rows == 0


# ---- Parquet


@pytest.fixture(scope="module")
def parts(table, tmp_path_factory):
    """Return a folder of Parquet files that hold the rows one after the other."""
    folder = tmp_path_factory.mktemp("parts")
    for number, (start, count) in enumerate([(0, 20), (20, 0), (20, 41)]):
        pq.write_table(table.slice(start, count), folder / f"part{number}.parquet", row_group_size=9)
    return folder


def test_parquet_paths(parts, table, query, in_sql):
    files = sorted(parts.iterdir())
    for k in (None, 5):
        expected = score(table, query, k=k)
        for paths in (files, tuple(map(str, files)), parts / "*.parquet", str(parts / "part[0-2].parquet")):
            made = score(paths, query, k=k)
            assert isinstance(made, pa.Table)
            assert made.to_pydict() == expected.to_pydict()
    assert score(files[2], query)["score"].to_pylist() == in_sql("scaled_dot")[20:]


def test_parquet_name_may_look_like_a_pattern(table, query, tmp_path):
    pq.write_table(table, tmp_path / "a[1].parquet")
    assert score(tmp_path / "a[1].parquet", query).num_rows == ROWS


def test_parquet_that_duckdb_wrote(table, query, tmp_path, in_sql):
    as_relation(as_arrays(table)).write_parquet(str(tmp_path / "made.parquet"))
    assert score(tmp_path / "made.parquet", query)["score"].to_pylist() == in_sql("scaled_dot")


_MEMORY = """
import resource
import numpy as np, pyarrow as pa
from attnbridge.integrations.duckdb import score
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
score("small.parquet", np.ones(256), k=10).num_rows  # all that is loaded once
before = peak()
for _ in range(2):
    assert score("large.parquet", np.ones(256), k=10).num_rows == 10
print(peak() - before)
"""


@pytest.mark.skipif(os.name == "nt", reason="resource is of POSIX")
def test_best_of_a_large_parquet_file_in_little_memory(tmp_path, rng):
    """300 MB of vectors, twice; a third of one may be held."""
    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), 256)})
    for name, parts in (("small", 2), ("large", 60)):
        with pq.ParquetWriter(tmp_path / f"{name}.parquet", schema) as to:
            for _ in range(parts):
                vectors = pa.FixedSizeListArray.from_arrays(rng.standard_normal(5_000 * 256, np.float32), 256)
                to.write_batch(pa.record_batch([np.arange(5_000), vectors], schema=schema))
    done = subprocess.run([sys.executable, "-c", _MEMORY], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100


def test_duckdb_draws_no_bar_of_its_own():
    """Its default where nobody runs a file, as here: onto stdout, between what a program prints."""
    program = (
        "import duckdb; from attnbridge.integrations.engine import quiet_connection, running_engine\n"
        "for con in duckdb.connect(), quiet_connection(), running_engine().connection.cursor():\n"
        "    print(con.execute(\"SELECT current_setting('enable_progress_bar')\").fetchone()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "False", "False"], done.stderr


# ---- errors


def refuses(error, match, *args, **options):
    with pytest.raises(error, match=match):
        score(*args, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_column_must_be_there_and_score_must_not(kind, table, query):
    refuses(InvalidInputError, "got 'vector'; its columns are: id, embedding$", KINDS[kind](table), query, "vector")
    taken = table.append_column("score", pa.nulls(ROWS))
    refuses(InvalidInputError, "must have no column 'score'.*rename or drop it", KINDS[kind](taken), query)


def test_column_must_be_one(table, query):
    twice = pa.table([table["embedding"], table["embedding"]], ["embedding", "embedding"])
    refuses(
        InvalidInputError,
        "one column of the table, got 'embedding'; its columns are: embedding, embedding",
        twice,
        query,
    )


@pytest.mark.parametrize(
    "column", [[1, 2], ["a", "b"], [["a"], ["b"]], [b"ab", None], [[True], [False]], [{"x": 1.0}] * 2]
)
def test_column_must_hold_vectors(column, query):
    tables = [pa.table({"embedding": column}), pd.DataFrame({"embedding": pd.Series(column)})]
    tables += [as_polars(tables[0]), pd.DataFrame({"embedding": pd.Series(column, dtype=object)})]
    for given in tables:
        refuses(InvalidInputError, "must name one of vectors.*'embedding'", given, query)


def test_row_of_pandas_that_is_no_vector_is_named(vectors, query):
    for wrong in ("text", {"a": 1}, 7, [1.0, "x"]):
        rows = [*vectors[:40], wrong]
        frame = pd.DataFrame({"embedding": pd.Series(rows, dtype=object)})
        refuses(InvalidInputError, "row 40 of 'embedding'", frame, query)


def test_dtype_of_pandas_that_holds_no_vectors(query):
    refuses(InvalidInputError, "'embedding' is of float64$", pd.DataFrame({"embedding": [1.0]}), query)
    refuses(InvalidInputError, "'embedding' is of int64$", pd.DataFrame({"embedding": pd.array([1])}), query)


@pytest.mark.parametrize("kind", ["table", "reader", "relation", "pandas of lists", "polars", "batch"])
@pytest.mark.parametrize("k", [None, 2])
def test_wrong_rows_are_named(kind, k, table, query):
    rows = table["embedding"].to_pylist()
    for wrong, error, message in (
        ([1.0, 2.0], DimensionMismatchError, "Query and key dimensions must match: 8 vs 2"),
        ([], DimensionMismatchError, "key must not be empty"),
        ([1.0] * 7 + [None], InvalidInputError, "key must be real numbers: position 7 is None"),
        ([1.0] * 6 + [float("inf"), 0.0], InvalidInputError, "key must be finite: position 6 is inf"),
    ):
        broken = table.set_column(1, "embedding", pa.array([*rows[:37], wrong, *rows[38:]], pa.list_(pa.float32())))
        refuses(error, f"^{message}.*\\(row 37 of column 'embedding'\\)$", KINDS[kind](broken), query, k=k)


def test_wrong_row_of_parquet_is_counted_over_all_files(parts, table, query, tmp_path):
    broken = table.set_column(1, "embedding", pa.array([[1.0]] * ROWS, pa.list_(pa.float32())))
    pq.write_table(broken, tmp_path / "last.parquet")
    refuses(DimensionMismatchError, rf"\(row {ROWS} of column", [parts / "*.parquet", tmp_path / "last.parquet"], query)


def test_wrong_dimension_of_all(table, query):
    refuses(DimensionMismatchError, r"8 vs 3.*\(row 0 of column 'v'\)", pa.table({"v": [[1.0, 2.0, 3.0]]}), query, "v")


def test_numbers_beyond_float32(table, query):
    given = pa.table({"embedding": [[1.0] * DIM, [1e300] * DIM]})
    refuses(InvalidInputError, "key must fit float32", given, query)
    given = pa.table({"embedding": pa.array([[0.0] * DIM] * 30 + [[3e38] * DIM], pa.list_(pa.float32()))})
    refuses(NumericalInstabilityError, r"must fit FLOAT.*\(row 30 of", given, [3e38] * DIM, scale=1.0)


def test_wrong_query(table):
    refuses(DimensionMismatchError, r"query must be one vector \(d,\), got shape \(2, 2\)", table, np.ones((2, 2)))
    refuses(InvalidInputError, "query must be finite: position 1 is nan", table, [0.0, np.nan])
    refuses(DimensionMismatchError, "query must not be empty", table, [])
    refuses(InvalidInputError, "query must be", table, None)
    refuses(
        InvalidInputError,
        "query must be finite: row 0, column 1 is nan",
        table,
        [[0.0, np.nan]],
        attention_type="cross",
    )


def test_wrong_type_options_and_k(table, query):
    refuses(InvalidConfigError, "attention type must be one of .*; got 'nope'", table, query, attention_type="nope")
    refuses(
        InvalidConfigError,
        "must be pairwise for the score of a pair, got 'sparse'",
        table,
        query,
        attention_type="sparse",
    )
    refuses(InvalidConfigError, "scaled_dot has no option 'shape'; its options are: scale", table, query, shape=1)
    refuses(InvalidConfigError, "scale must be", table, query, scale=-1.0)
    for k in (0, -1, 1.5, "3", True):
        refuses(InvalidConfigError, "k must be a whole number >= 1, got", table, query, k=k)


@pytest.mark.parametrize("wrong", [None, 5, np.ones((2, 8)), {"embedding": [[1.0]]}, [], [[1.0]], pd.Series([[1.0]])])
def test_unknown_kind_of_table(wrong, query):
    refuses(InvalidInputError, f"table must be a pandas or polars frame.*got {type(wrong).__name__}$", wrong, query)


def test_wrong_paths(parts, table, query, tmp_path):
    refuses(InvalidInputError, "but .*never.parquet does not exist$", tmp_path / "never.parquet", query)
    refuses(InvalidInputError, r"but .*\*.parquet does not exist$", str(tmp_path / "*.parquet"), query)
    refuses(InvalidInputError, "is a folder; pass .*parquet$", str(parts), query)
    Path(tmp_path, "text.parquet").write_text("id,embedding\n")
    refuses(InvalidInputError, "text.parquet cannot be read as Parquet: ", tmp_path / "text.parquet", query)
    pq.write_table(table.rename_columns(["id", "vector"]), tmp_path / "other.parquet")
    refuses(
        InvalidInputError,
        "other.parquet cannot be read as Parquet: .*mismatch",
        [parts / "part0.parquet", tmp_path / "other.parquet"],
        query,
    )


def test_damaged_parquet_is_named(table, query, tmp_path):
    pq.write_table(table, tmp_path / "docs.parquet", compression="zstd")
    damaged = bytearray(Path(tmp_path, "docs.parquet").read_bytes())
    damaged[60:600] = bytes(540)
    Path(tmp_path, "docs.parquet").write_bytes(damaged)
    refuses(InvalidInputError, "docs.parquet cannot be read as Parquet", tmp_path / "docs.parquet", query)


def test_derived_frames_are_frames(table, query):
    class Mine(pd.DataFrame):
        pass

    assert score(Mine(as_objects(table)), query)["score"].notna().sum() == ROWS - len(GAPS)


def test_neither_pandas_nor_polars_is_needed():
    code = (
        "import sys\nclass Absent:\n"
        "    def find_spec(self, name, *rest):\n        if name in ('pandas', 'polars'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\nimport pyarrow as pa\nfrom attnbridge.integrations.duckdb import score\n"
        "print(score(pa.table({'embedding': [[2.0]]}), [1.0])['score'])\nscore(5, [1.0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "2" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("got int")
