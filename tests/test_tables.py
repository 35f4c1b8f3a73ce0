"""Bridges out of Parquet, DuckDB, CSV, JSON lines and numpy files."""

import csv
import gc
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import numpy as np
import pytest

import attnbridge as ab

Bridge = ab.AttentionVectorBridge


def rows_of(rng, n=120, d=7):
    return rng.standard_normal((n, d)).astype(np.float32)


@pytest.fixture
def table(rng):
    import pyarrow as pa

    rows = rows_of(rng, 25, 3)
    ids = [f"d{i}" for i in range(25)]
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
    return rows, ids, pa.table({"id": ids, "embedding": rows.tolist(), "fixed": fixed, "n": list(range(100, 125))})


@pytest.mark.parametrize("column", ["embedding", "fixed"])
def test_from_parquet(table, tmp_path, column):
    import pyarrow.parquet as pq

    rows, ids, data = table
    pq.write_table(data, tmp_path / "docs.parquet")
    bridge = Bridge.from_parquet(tmp_path / "docs.parquet", vector=column, metric="l2", index="exact")
    assert bridge.ids() == ids
    assert bridge.get(ids).tobytes() == rows.tobytes()
    assert bridge.config["metric"] == "l2"
    assert Bridge.from_parquet(str(tmp_path / "docs.parquet"), column, "n").ids() == list(range(100, 125))
    assert Bridge.from_parquet(tmp_path / "docs.parquet", column, None).ids() == list(range(25))


def test_from_parquet_of_many_batches(tmp_path, rng):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rng.standard_normal((25_001, 2)).astype(np.float32)
    pq.write_table(pa.table({"id": np.arange(25_001)[::-1], "embedding": list(rows)}), tmp_path / "big.parquet")
    bridge = Bridge.from_parquet(tmp_path / "big.parquet", index="exact", progress=False)
    assert bridge.ids() == list(range(25_000, -1, -1))
    assert bridge.get(bridge.ids()).tobytes() == rows.tobytes()


def test_a_bad_row_in_a_later_batch_is_named(tmp_path, rng):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rng.standard_normal((12_000, 2)).astype(np.float32)
    rows[10_004, 1] = np.nan
    pq.write_table(pa.table({"embedding": list(rows)}), tmp_path / "nan.parquet")
    with pytest.raises(ab.InvalidInputError, match=r"row 4, column 1 is nan.*counted from row 10000 of the data"):
        Bridge.from_parquet(tmp_path / "nan.parquet", id=None, index="exact")
    mixed = rows.tolist()
    mixed[10_007] = [1.0, 2.0, 3.0]
    pq.write_table(pa.table({"embedding": mixed}), tmp_path / "mixed.parquet")
    with pytest.raises(ab.InvalidInputError, match="vectors of one length: row 10007 has 3 values, row 0 has 2"):
        Bridge.from_parquet(tmp_path / "mixed.parquet", id=None, index="exact")


@pytest.mark.parametrize("kind", ["FLOAT[3]", "DOUBLE[]", "FLOAT[]", "DOUBLE[3]", "INTEGER[]", "DECIMAL(9,4)[]"])
def test_from_duckdb(kind):
    import duckdb

    con = duckdb.connect()
    con.execute(f"CREATE TABLE docs AS SELECT range AS id, [range, 2, 1]::{kind} AS embedding FROM range(9)")
    con.execute(
        "CREATE SCHEMA s; CREATE TABLE s.docs AS SELECT 'k' || id AS key, embedding AS v FROM docs WHERE id > 3"
    )
    con.execute("CREATE VIEW few AS SELECT * FROM docs WHERE id < 3")
    con.execute('CREATE TABLE "odd name" AS SELECT id AS "the id", embedding AS "a ""vector""" FROM few')
    assert Bridge.from_duckdb(con, "docs").get(4).tolist() == [4.0, 2.0, 1.0]
    assert Bridge.from_duckdb(con, "few", index="exact").ids() == [0, 1, 2]
    assert Bridge.from_duckdb(con, "main.docs", id=None).ids() == list(range(9))
    schema = Bridge.from_duckdb(con, "s.docs", vector="v", id="key", metric="ip")
    assert schema.ids() == ["k4", "k5", "k6", "k7", "k8"]
    odd = Bridge.from_duckdb(con, '"odd name"', vector='a "vector"', id="the id")
    assert odd.ids() == [0, 1, 2]
    assert con.execute("SELECT count(*) FROM docs").fetchone() == (9,)  # the connection goes on


def test_from_file_forms(table, tmp_path):
    import pandas as pd

    rows, ids, _ = table
    frame = pd.DataFrame({"id": ids, "embedding": [json.dumps(row) for row in rows.tolist()], "n": range(25)})
    frame.to_csv(tmp_path / "d.csv", index=False)
    frame.to_csv(tmp_path / "d.tsv", index=False, sep="\t")
    lines = [
        json.dumps({"id": i, "embedding": row, "n": n})
        for n, (i, row) in enumerate(zip(ids, rows.tolist(), strict=True))
    ]
    for name in ("d.jsonl", "d.ndjson", "d.json"):
        (tmp_path / name).write_text("\n".join(lines))
    for name in ("d.csv", "d.tsv", "d.jsonl", "d.ndjson", "d.json"):
        bridge = Bridge.from_file(tmp_path / name, id="id")
        gc.collect()
        assert bridge.ids() == ids
        assert bridge.get(ids).tolist() == rows.tolist()
        assert Bridge.from_file(tmp_path / name, "embedding", "n").ids() == list(range(25))
        assert Bridge.from_file(tmp_path / name).ids() == list(range(25))
    np.save(tmp_path / "d.npy", rows)
    np.savez(tmp_path / "d.npz", embedding=rows, id=ids, other=np.arange(25))
    np.savez(tmp_path / "one.npz", whatever=rows.astype(np.float64))
    assert Bridge.from_file(tmp_path / "d.npy").get(range(25)).tolist() == rows.tolist()
    assert Bridge.from_file(tmp_path / "d.npz", id="id").ids() == ids
    assert Bridge.from_file(tmp_path / "d.npz", "embedding", "other").ids() == list(range(25))
    assert Bridge.from_file(tmp_path / "one.npz").get(range(25)).tolist() == rows.tolist()


def test_file_names_are_not_patterns(table, tmp_path):
    rows, ids, data = table
    import pyarrow.parquet as pq

    for name in ("a[1].parquet", "b*.parquet", "c?.parquet", "it's.parquet", "ä ö.PARQUET"):
        pq.write_table(data, tmp_path / name)
        pq.write_table(data.slice(0, 1), tmp_path / "b1.parquet")
        assert Bridge.from_parquet(tmp_path / name, index="exact").ids() == ids
    assert len(rows) == 25


def test_file_refusals(tmp_path, rng):
    def refused(message, name, *arguments, content=None, error=ab.InvalidInputError):
        if isinstance(content, str):
            (tmp_path / name).write_text(content)
        with pytest.raises(error, match=message):
            Bridge.from_file(tmp_path / name, *arguments)

    refused("data must be a file, but .*nowhere.parquet does not exist", "nowhere.parquet")
    refused(r"data must be one of \.parquet, .*\.npz; got d\.txt", "d.txt", content="1 2 3")
    refused("d.parquet cannot be read", "d.parquet", content="not parquet")
    refused("n.npy cannot be read", "n.npy", content="not numpy")
    refused("z.npz cannot be read", "z.npz", content="not a zip")
    csv = 'id,embedding,text\na,"[1.0, 2.0]",x\nb,"[3.0, 4.0]",y\n'
    refused(
        "vector must name a column of .*d.csv, got 'vec'; its columns are: id, embedding, text",
        "d.csv",
        "vec",
        content=csv,
    )
    refused("id must name a column of .*d.csv, got 'key'; its columns", "d.csv", None, "key")
    refused("column 'text' of .*d.csv must hold lists of numbers", "d.csv", "text")
    refused("must hold at least one row, it is empty", "e.csv", content="id,embedding\n")
    refused("vector must name a column of", "e.jsonl", content="")
    refused("row 1 has 1 values, row 0 has 2", "m.jsonl", content='{"embedding": [1, 2]}\n{"embedding": [3]}\n')
    refused("vector in every row: row 1 is NULL", "n.jsonl", content='{"embedding": [1, 2]}\n{"embedding": null}\n')
    refused("row 0 is NULL", "n0.jsonl", content='{"embedding": null}\n{"embedding": [1, 2]}\n')
    refused("row 1 has a NULL in its vector", "i.jsonl", content='{"embedding": [1, 2]}\n{"embedding": [3, null]}\n')
    refused(
        "id in every row: row 1 is NULL",
        "k.jsonl",
        None,
        "id",
        content='{"id": "a", "embedding": [1, 2]}\n{"id": null, "embedding": [3, 4]}\n',
    )
    refused("row 0 has no values", "0.jsonl", content='{"embedding": []}\n{"embedding": []}\n')
    rows = rng.standard_normal((4, 2))
    np.save(tmp_path / "d.npy", rows)
    refused("holds one array without names: leave out vector and id", "d.npy", "embedding")
    np.save(tmp_path / "flat.npy", rows.ravel())
    refused(r"flat.npy must be rows \(n, d\), got shape \(8,\)", "flat.npy", error=ab.DimensionMismatchError)
    np.save(tmp_path / "none.npy", np.empty((0, 2)))
    refused("none.npy must hold at least one row", "none.npy")
    np.savez(tmp_path / "d.npz", a=rows, b=np.arange(3))
    refused("vector must name an array of .*d.npz, got 'embedding'; its arrays are: a, b", "d.npz")
    refused("id must name an array of .*d.npz, got 'c'", "d.npz", "a", "c")
    refused("id must name an array with an id for each of 4 rows, got 3", "d.npz", "a", "b")
    np.savez(tmp_path / "p.npz", a=np.array([{}, []], dtype=object))
    refused("p.npz cannot be read", "p.npz")


def test_a_later_row_that_is_no_vector(tmp_path):
    rows = [f'{i},"[1.0, {i}.0]"' for i in range(11_000)]
    (tmp_path / "d.csv").write_text("\n".join(["id,embedding", *rows, '11000,"one, two"']))
    with pytest.raises(ab.InvalidInputError, match=r"column 'embedding' of .*d\.csv must hold lists of numbers: "):
        Bridge.from_file(tmp_path / "d.csv", index="exact")


def test_table_refusals():
    import duckdb

    con = duckdb.connect()
    con.execute("CREATE TABLE docs AS SELECT range AS id, [range, 'NaN'::DOUBLE] AS embedding, 'x' AS t FROM range(4)")
    con.execute("CREATE TABLE empty AS SELECT * FROM docs WHERE id < 0")
    for message, arguments in [
        ("table must name a table or view: .*nope", ("nope",)),
        ("vector must name a column of table docs, got 'v'; its columns are: id, embedding, t", ("docs", "v")),
        ("id must name a column of table docs, got 'key'", ("docs", "embedding", "key")),
        ("column 't' of table docs must hold lists of numbers", ("docs", "t")),
        ("table empty must hold at least one row", ("empty",)),
        ("row 0, column 1 is nan", ("docs",)),
    ]:
        with pytest.raises(ab.InvalidInputError, match=message):
            Bridge.from_duckdb(con, *arguments)


def test_ids_of_other_kinds_than_numbers_and_text_are_refused():
    con = duckdb.connect()
    con.execute(
        "CREATE TABLE docs AS SELECT i % 2 = 0 AS even, i / 2 AS half, uuid() AS u, [i, 1.0] AS embedding "
        "FROM range(4) t(i)"
    )
    for column in ("even", "half"):
        with pytest.raises(ab.InvalidInputError, match=f"whole numbers or text: '{column}' of"):
            ab.AttentionVectorBridge.from_duckdb(con, "docs", id=column)
    assert len(ab.AttentionVectorBridge.from_duckdb(con, "docs", id="u")) == 4


def test_ids_that_come_again_are_told():
    con = duckdb.connect()
    con.execute("CREATE TABLE docs AS SELECT i // 2 AS id, [i, 1.0] AS embedding FROM range(6) t(i)")
    with pytest.warns(UserWarning, match="3 of 6 rows had an id that came again"):
        bridge = ab.AttentionVectorBridge.from_duckdb(con, "docs")
    assert bridge.get([0, 1, 2])[:, 0].tolist() == [1.0, 3.0, 5.0]


# ---- payload


def test_payload_columns_of_every_kind_of_file(table, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, ids, data = table
    data = data.append_column("odd, name", pa.array([None, *(f"t{i}" for i in range(1, 25))]))
    pq.write_table(data, tmp_path / "d.parquet")
    records = data.select(["n", "odd, name"]).to_pylist()
    lines = [json.dumps({k: v for k, v in r.items() if k != "fixed"}) for r in data.to_pylist()]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    columns = ["id", "embedding", "n", "odd, name"]
    with (tmp_path / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *([record[name] for name in columns] for record in data.to_pylist())])
    for name in ("d.parquet", "d.jsonl", "d.csv"):
        kept = Bridge.from_file(tmp_path / name, id="id", payload=["n", "odd, name"], index="exact")
        assert kept.payload(ids) == records
        assert kept.get(ids).tobytes() == rows.tobytes()
        few = Bridge.from_file(tmp_path / name, id="id", payload=("odd, name",), index="exact")
        assert few.payload("d7") == {"odd, name": "t7"}
        for nothing in (None, False, []):
            assert Bridge.from_file(tmp_path / name, id="id", payload=nothing, index="exact").payload("d7") == {}
    everything = Bridge.from_parquet(tmp_path / "d.parquet", payload=True, index="exact").payload("d7")
    assert everything == {"fixed": rows[7].tolist(), "n": 107, "odd, name": "t7"}
    assert Bridge.from_file(tmp_path / "d.csv", id="id", payload=True, index="exact").payload(ids) == records


def test_payload_of_npz(tmp_path, rng):
    rows = rng.standard_normal((10_005, 2)).astype(np.float32)
    arrays = {
        "n": np.arange(10_005, dtype=np.int16),
        "t": np.array([f"ä{i}" for i in range(10_005)]),
        "day": np.datetime64("2020-01-01") + np.arange(10_005),
        "half": np.arange(10_005) % 2 == 0,
    }
    np.savez(tmp_path / "d.npz", embedding=rows, key=np.arange(10_005)[::-1], **arrays)
    bridge = Bridge.from_file(tmp_path / "d.npz", id="key", payload=True, index="exact", progress=False)
    for row in (0, 9_999, 10_000, 10_004):
        expected = {name: values[row].item() for name, values in arrays.items()}
        assert bridge.payload(10_004 - row) == expected
    assert Bridge.from_file(tmp_path / "d.npz", payload=["t"], index="exact").payload(3) == {"t": "ä3"}
    np.savez(tmp_path / "two.npz", embedding=rows, other=rows, few=np.arange(3))
    for name, shape in (("other", r"\(10005, 2\)"), ("few", r"\(3,\)")):
        with pytest.raises(ab.InvalidInputError, match=f"one value for each of 10005 rows: '{name}' .*shape {shape}"):
            Bridge.from_file(tmp_path / "two.npz", payload=[name])
    np.save(tmp_path / "d.npy", rows)
    assert len(Bridge.from_file(tmp_path / "d.npy", payload=False, index="exact")) == 10_005
    for payload in (True, ["n"], []):
        with pytest.raises(ab.InvalidInputError, match=r"without names: leave out payload, or make a \.npz file"):
            Bridge.from_file(tmp_path / "d.npy", payload=payload)


_KINDS = {
    "'a'::ENUM('a', 'b')": "a",
    "'7a2f0c1e-0000-4000-8000-000000000001'::UUID": "7a2f0c1e-0000-4000-8000-000000000001",
    "'{\"k\": 1}'::JSON": '{"k": 1}',
    "INTERVAL 40 DAY": "40 days",
    "'101'::BIT": "101",
    "'10:00:00+01'::TIMETZ": "10:00:00+01",
    "12345678901234567890123456789012345678::HUGEINT": Decimal("12345678901234567890123456789012345678"),
    "5::UHUGEINT": Decimal(5),
    "18446744073709551615::UBIGINT": 18446744073709551615,
    "1.50::DECIMAL(9, 2)": Decimal("1.50"),
    "'ab'::BLOB": b"ab",
    "true": True,
    "DATE '2020-01-31'": date(2020, 1, 31),
    "TIMESTAMP '2020-01-31 10:00:00'": datetime(2020, 1, 31, 10),
    "TIMESTAMPTZ '2020-01-31 10:00:00+00'": datetime(2020, 1, 31, 10, tzinfo=UTC),
    "[1, 2]::INTEGER[2]": [1, 2],
    "['a'::ENUM('a', 'b'), NULL]": ["a", None],
    "MAP {'k': [1::HUGEINT]}": [{"key": "k", "value": [Decimal(1)]}],
    "{'a': INTERVAL 1 DAY, 'b c': ['11'::BIT], 'd': {'e': 2}}": {"a": "1 day", "b c": ["11"], "d": {"e": 2}},
    "NULL": None,
}


@pytest.mark.parametrize(("sql", "value"), _KINDS.items(), ids=_KINDS)
def test_payload_types_of_duckdb(sql, value):
    con = duckdb.connect()
    con.execute(f"SET TimeZone = 'UTC'; CREATE TABLE docs AS SELECT 7 AS id, [1.0, 2.0] AS embedding, {sql} AS \"x y\"")
    con.execute("INSERT INTO docs VALUES (8, [2.0, 1.0], NULL)")
    bridge = Bridge.from_duckdb(con, "docs", payload=True, index="exact")
    assert bridge.payload([7, 8]) == [{"x y": value}, {"x y": None}]
    assert bridge.search([1.0, 2.0], where='"x y" IS NOT NULL').ids == ([] if value is None else [7])


def test_payload_refusals():
    con = duckdb.connect()
    con.execute(
        'CREATE TABLE docs AS SELECT 7 AS id, [1.0, 2.0] AS embedding, union_value(k := 1) AS un, 1 AS "ID""", '
        "{'m': MAP {'a': 1}} AS deep, 170141183460469231731687303715884105727::HUGEINT AS huge, "
        "2 AS year, 3 AS v, 4 AS c0"
    )
    known = 'id, embedding, un, ID", deep, huge, year, v, c0'
    for payload, message in [
        (["nope"], f"payload must name columns of table docs, got 'nope'; its columns are: {known}"),
        (["year", 3], "payload must name columns of table docs, got 3; its columns are"),
        (["embedding"], "must not name 'embedding': it is the column of vectors of table docs; leave it out"),
        (["id"], "must not name 'id': it is the column of ids of table docs; leave it out"),
        (["year", "v", "year"], "payload must name each column once, got 'year' again; leave it out"),
        ("year", r"payload must be a list of column names, True for all, or None, got 'year'; write \['name'\]"),
        (7, "payload must be a list of column names, True for all, or None, got 7"),
        (["un"], "payload column 'un' must be bool, int.* not sparse_union.*; convert it to text"),
        (["deep"], "payload column 'deep' must be bool, int.* not struct<m: map.*; convert it to text"),
        (["v", "huge"], r"column 'huge' of table docs cannot be read as payload: .*DECIMAL\(38,0\).*; leave it out"),
    ]:
        with pytest.raises(ab.InvalidInputError, match=message):
            Bridge.from_duckdb(con, "docs", payload=payload)
    with pytest.raises(ab.InvalidInputError, match="column 'id': name it as the id of table docs, or list the columns"):
        Bridge.from_duckdb(con, "docs", id=None, payload=True)
    odd = Bridge.from_duckdb(con, "docs", payload=["c0", "v", 'ID"', "year"])
    assert odd.payload(7) == {"c0": 4, "v": 3, 'ID"': 1, "year": 2}


def test_a_payload_value_that_cannot_be_read_later(tmp_path):
    """The column is named, not that of the vectors."""
    lines = ["id,embedding,year", *(f'{i},"[1.0, {i}.0]",{i}' for i in range(30_000)), '30000,"[1.0, 2.0]",MMXX']
    (tmp_path / "d.csv").write_text("\n".join(lines))
    with pytest.raises(ab.InvalidInputError, match=r"column 'year' of .*d\.csv cannot be read as payload: .*CSV Error"):
        Bridge.from_file(tmp_path / "d.csv", id="id", payload=["year"], index="exact", progress=False)


def test_payload_of_an_id_that_comes_again_is_the_last(tmp_path):
    con = duckdb.connect()
    con.execute("CREATE TABLE docs AS SELECT i // 2 AS id, [i, 1.0] AS embedding, i AS n FROM range(6) t(i)")
    with pytest.warns(UserWarning, match="3 of 6 rows had an id that came again"):
        bridge = Bridge.from_duckdb(con, "docs", payload=True)
    assert bridge.payload([0, 1, 2]) == [{"n": 1}, {"n": 3}, {"n": 5}]
