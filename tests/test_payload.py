"""Payload: typed columns beside the vectors."""

import base64
import contextlib
import datetime as dt
import math
import pickle
import time
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attnbridge.errors import DimensionMismatchError, IndexCorruptError, InvalidInputError
from attnbridge.integrations import payload as module
from attnbridge.integrations.columns import as_table
from attnbridge.integrations.payload import Payload

UTC = dt.UTC


def column(values, count=None, **options):
    return as_table({"c": values}, len(values) if count is None else count, **options)["c"]


def payload_of(columns, count):
    return Payload.empty(0).append(as_table(columns, count), count)


@pytest.mark.parametrize(
    ("values", "dtype", "stored"),
    [
        ([1, None, 3], pa.int64(), [1, None, 3]),
        ((1.5, 2), pa.float64(), [1.5, 2.0]),
        (range(3), pa.int64(), [0, 1, 2]),
        ([True, None], pa.bool_(), [True, None]),
        ([None, None], pa.null(), [None, None]),
        ([], pa.null(), []),
        (["a", None, "É"], pa.string(), ["a", None, "É"]),
        ([b"a", None], pa.binary(), [b"a", None]),
        ([Decimal("1.10"), Decimal("22")], pa.decimal128(4, 2), [Decimal("1.10"), Decimal("22.00")]),
        ([dt.date(2020, 1, 2)], pa.date32(), [dt.date(2020, 1, 2)]),
        ([dt.time(1, 2)], pa.time64("us"), [dt.time(1, 2)]),
        ([dt.timedelta(1)], pa.duration("us"), [dt.timedelta(1)]),
        ([dt.datetime(2020, 1, 2)], pa.timestamp("us"), [dt.datetime(2020, 1, 2)]),
        ([dt.datetime(2020, 1, 2, tzinfo=UTC)], pa.timestamp("us", "UTC"), [dt.datetime(2020, 1, 2, tzinfo=UTC)]),
        ([["a"], [], None], pa.list_(pa.string()), [["a"], [], None]),
        ([{"a": 1}, {"b": ["x"]}], pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]), None),
        ([np.int64(1), np.int64(2)], pa.int64(), [1, 2]),
        (np.array([1, 2], np.int8), pa.int8(), [1, 2]),
        (np.array([1, 2], ">i4"), pa.int32(), [1, 2]),
        (np.arange(6, dtype=np.uint64)[::2], pa.uint64(), [0, 2, 4]),
        (np.array([1.5], np.float16), pa.float32(), [1.5]),
        (np.array([True, False]), pa.bool_(), [True, False]),
        (np.ma.array([1, 2], mask=[False, True]), pa.int64(), [1, None]),
        (np.array(["a", "b"]), pa.string(), ["a", "b"]),
        (np.array(["a", None], object), pa.string(), ["a", None]),
        (np.array([b"a"]), pa.binary(), [b"a"]),
        (np.array(["2020-01-02", "NaT"], "M8[D]"), pa.date32(), [dt.date(2020, 1, 2), None]),
        (np.array(["2020-01-02"], "M8[s]"), pa.timestamp("s"), [dt.datetime(2020, 1, 2)]),
        (np.array([5], "m8[ms]"), pa.duration("ms"), [dt.timedelta(milliseconds=5)]),
        (np.array([[1.0, 2.0]], np.float32), pa.list_(pa.float32()), [[1.0, 2.0]]),
        (pa.array(["a", "b"]).dictionary_encode(), pa.string(), ["a", "b"]),
        (pa.array(["a"], pa.large_string()), pa.string(), ["a"]),
        (pa.array([b"ab"], pa.binary(2)), pa.binary(), [b"ab"]),
        (pa.array([b"ab"], pa.large_binary()), pa.binary(), [b"ab"]),
        (pa.array([0], pa.date64()), pa.date32(), [dt.date(1970, 1, 1)]),
        (pa.array([[1], [2]], pa.list_(pa.int8(), 1)), pa.list_(pa.int8()), [[1], [2]]),
        (pa.array([["a"]], pa.large_list(pa.large_string())), pa.list_(pa.string()), [["a"]]),
        (pa.chunked_array([[1], [2, 3]]), pa.int64(), [1, 2, 3]),
        (pd.Series([1.0, math.nan]), pa.float64(), [1.0, None]),
        (pd.Series(["a", None, "b"]), pa.string(), ["a", None, "b"]),
        (pd.Series(["a", math.nan], dtype=object), pa.string(), ["a", None]),
        (pd.Series([1, pd.NA], dtype="Int16"), pa.int16(), [1, None]),
        (pd.Series(["a", None], dtype="category"), pa.string(), ["a", None]),
        (pd.Series(pd.to_datetime(["2020-01-02", None]).astype("M8[us]")), pa.timestamp("us"), None),
    ],
)
def test_column_types(values, dtype, stored):
    got = column(values)
    assert got.type == dtype
    if stored is not None:
        assert got.to_pylist() == stored


def test_nan_in_numpy_stays():
    got = column(np.array([1.0, math.nan]))
    assert got.null_count == 0
    assert math.isnan(got[1].as_py())


def test_input_may_be_changed_afterwards():
    array, series = np.array([1.0, 2.0]), pd.Series([1.0, 2.0])
    table = as_table({"a": array, "s": series}, 2)
    array[:] = 9
    series[:] = 9
    assert table.to_pylist() == [{"a": 1.0, "s": 1.0}, {"a": 2.0, "s": 2.0}]


def test_tables_of_any_kind():
    expected = {"n": [1, 2], "t": ["a", None]}
    for given in [
        expected,
        pa.table(expected),
        pa.RecordBatch.from_pydict(expected),
        pd.DataFrame({"n": [1, 2], "t": ["a", None]}, index=[5, 5]),
    ]:
        assert as_table(given, 2).to_pydict() == expected
    assert as_table({}, 5).num_columns == 0
    with pytest.raises(InvalidInputError, match="distinct column names"):
        as_table(pd.DataFrame([[1, 2]], columns=["a", "a"]), 1)
    with pytest.raises(InvalidInputError, match="that is not empty, got 0"):
        as_table(pd.DataFrame([[1, 2]]), 1)


def test_polars():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(
        {
            "t": ["a", None],
            "c": pl.Series(["x", "y"], dtype=pl.Categorical),
            "e": pl.Series(["x", None], dtype=pl.Enum(["x"])),
            "l": [["a"], []],
            "s": [{"a": 1}, {"a": None}],
            "d": [dt.datetime(2020, 1, 1)] * 2,
            "k": pl.Series([["x"], []], dtype=pl.List(pl.Categorical)),
        }
    )
    expected = {"t": ["a", None], "c": ["x", "y"], "e": ["x", None], "l": [["a"], []], "s": [{"a": 1}, {"a": None}]}
    expected |= {"d": [dt.datetime(2020, 1, 1)] * 2, "k": [["x"], []]}
    assert as_table(frame, 2).to_pydict() == expected
    assert column(frame["c"]).type == pa.string()
    with pytest.raises(InvalidInputError, match=r"payload column 'c' must be a list, .* got Series"):
        column(pl.Series([object()], dtype=pl.Object))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("en", pa.string()),
        (b"x", pa.binary()),
        (True, pa.bool_()),
        (3, pa.int64()),
        (2.5, pa.float64()),
        (None, pa.null()),
        (dt.date(2020, 1, 1), pa.date32()),
        (dt.datetime(2020, 1, 1, tzinfo=UTC), pa.timestamp("us", "UTC")),
        (dt.timedelta(3), pa.duration("us")),
        (Decimal("1.5"), pa.decimal128(2, 1)),
        (np.float32(2.5), pa.float32()),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_scalars(value, dtype, count):
    got = column(value, count, scalars=True)
    assert got.type == dtype
    assert got.to_pylist() == [value] * count


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([1, 2], 'payload must be a dict of columns or a pandas, polars or pyarrow table, got list; write {"column"'),
        ({"": [1, 2]}, "payload must name its columns with printable text that is not empty, got ''; rename it"),
        ({3: [1, 2]}, "got 3; rename it"),
        ({"a\n": [1, 2]}, "got 'a\\n'; rename it"),
        ({"Id": [1, 2]}, "payload must not have a column 'Id': id is the document's id; rename it"),
        ({"a": [1, 2], "A": [1, 2]}, "without regard to case: got 'a' and 'A'; rename one"),
        ({"c": "ab"}, "payload column 'c' must be a list, a numpy array, a pandas or polars Series or an Arrow array"),
        ({"c": np.array(3)}, "got ndarray; put the values of 2 rows into a list"),
        ({"c": ["a", 1]}, "position 1 is 1 (int) after str; convert them to one type"),
        ({"c": [None, 1, "a"]}, "position 2 is 'a' (str) after int"),
        ({"c": [2**70, 1]}, "payload column 'c' must hold values of one type"),
        ({"c": [object(), object()]}, "payload column 'c' must hold values of one type"),
        ({"c": np.array([1j, 2])}, "payload column 'c' must hold values of one type"),
        ({"c": [{}, {}]}, "not struct<>; convert it to text"),
        ({"c": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8()))}, "payload column 'c' must be bool, int"),
        ({"c": pa.array([None, None], pa.month_day_nano_interval())}, "convert it to text"),
        ({"c": pa.array([1, 2], pa.timestamp("us", "Mars/Olympus"))}, "payload column 'c' cannot be stored as"),
    ],
)
def test_bad_payload(payload, message):
    with pytest.raises(InvalidInputError) as caught:
        as_table(payload, 2)
    assert message in str(caught.value)


def test_wrong_length():
    with pytest.raises(DimensionMismatchError, match="tags column 'c' must have one value for each of 3 rows, got 2"):
        as_table({"c": [1, 2]}, 3, name="tags")


def test_append_and_records():
    payload = Payload.empty(2)
    assert (payload.names, len(payload), payload.nbytes) == ([], 2, 0)
    assert payload.records([0, 1, 1]) == [{}, {}, {}]
    first = payload.append(as_table({"a": [1, 2]}, 2), 2)
    second = first.append(as_table({"b": ["x"]}, 1), 1).append(None, 1)
    assert first.names == ["a"]
    assert second.names == second.schema.names == ["a", "b"]
    assert len(payload) == 2
    assert len(first) == 4
    assert len(second) == 6
    assert second.nbytes > 0
    assert second.table().to_pydict() == {"a": [None, None, 1, 2, None, None], "b": [None] * 4 + ["x", None]}
    assert second.records(np.array([4, 2])) == [{"a": None, "b": "x"}, {"a": 1, "b": None}]
    assert second.table(np.array([3, 0])).to_pydict() == {"a": [2, None], "b": [None, None]}
    assert second.append(None, 0) is second
    assert second.append(as_table({"new": []}, 0), 0).names == ["a", "b", "new"]


@pytest.mark.parametrize(
    ("stored", "given", "dtype"),
    [
        (pa.null(), pa.string(), pa.string()),
        (pa.int8(), pa.null(), pa.int8()),
        (pa.int8(), pa.int32(), pa.int32()),
        (pa.int64(), pa.int8(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.int64(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(4, 2), pa.decimal128(6, 1), pa.decimal128(7, 2)),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.duration("ms"), pa.duration("s"), pa.duration("ms")),
        (pa.time32("s"), pa.time64("us"), pa.time64("us")),
        (pa.time32("s"), pa.time32("ms"), pa.time32("ms")),
        (pa.date32(), pa.timestamp("us"), pa.timestamp("us")),
        (pa.list_(pa.int8()), pa.list_(pa.float64()), pa.list_(pa.float64())),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.string())]), None),
        (pa.int64(), pa.string(), "error"),
        (pa.bool_(), pa.int8(), "error"),
        (pa.int64(), pa.uint64(), "error"),
        (pa.string(), pa.binary(), "error"),
        (pa.timestamp("us", "UTC"), pa.timestamp("us"), "error"),
        (pa.date32(), pa.timestamp("us", "UTC"), "error"),
        (pa.decimal128(38, 0), pa.decimal128(10, 9), "error"),
        (pa.list_(pa.int8()), pa.int8(), "error"),
        (pa.list_(pa.int8()), pa.list_(pa.string()), "error"),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string())]), "error"),
    ],
)
def test_promotion(stored, given, dtype):
    samples = {"list": [[0], None, []], "struct": [{}, None, {}], "decimal": [Decimal(0), None, Decimal(1)]}

    def array(kind):
        name = str(kind)
        values = next((v for key, v in samples.items() if name.startswith(key)), [0, None, 1])
        if pa.types.is_list(kind) and pa.types.is_null(kind.value_type):
            values = [[None], None, []]
        if pa.types.is_boolean(kind):
            values = [True, None, False]
        if pa.types.is_null(kind):
            values = [None, None, None]
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            values = ["a", None, "b"]
        if name == "list<item: string>" or name == "list<element: string>":
            values = [["a"], None, []]
        return pa.array(values, kind)

    for one, other in [(stored, given), (given, stored)]:
        payload = payload_of({"c": array(one)}, 3)
        table = as_table({"c": array(other)}, 3)
        if dtype == "error":
            with pytest.raises(InvalidInputError, match=r"payload column 'c' must be .* as stored, got .*; convert it"):
                payload.append(table, 3)
            with pytest.raises(InvalidInputError, match="payload column 'c' must be"):
                payload.update(np.array([0, 1, 2]), table)
            continue
        both = payload.append(table, 3).table()["c"]
        assert dtype is None or both.type == dtype
        assert both.null_count == array(one).null_count + array(other).null_count
        assert both.slice(0, 3).to_pylist() == array(one).cast(both.type).to_pylist() if dtype else True


def test_struct_fields_are_joined_by_name():
    payload = payload_of({"s": [{"a": 1, "b": [1]}, None]}, 2)
    payload = payload.append(as_table({"s": [{"c": "x", "b": [0.5]}]}, 1), 1)
    assert payload.table()["s"].to_pylist() == [
        {"a": 1, "b": [1.0], "c": None},
        None,
        {"a": None, "b": [0.5], "c": "x"},
    ]


def test_promotion_of_slices():
    payload = payload_of({"s": pa.array([[1], None, [2, 3], []]).slice(1), "t": pa.array([1, 2, 3, 4]).slice(1)}, 3)
    payload = payload.append(as_table({"s": [[0.5]], "t": [0.5]}, 1), 1)
    assert payload.table().to_pydict() == {"s": [None, [2.0, 3.0], [], [0.5]], "t": [2.0, 3.0, 4.0, 0.5]}


def test_whole_numbers_are_never_rounded():
    big = payload_of({"c": [2**53 + 1]}, 1)
    with pytest.raises(InvalidInputError, match=r"must not lose values on the way from int64 to double: .*; convert"):
        big.append(as_table({"c": [0.5]}, 1), 1)
    with pytest.raises(InvalidInputError, match="must not lose values"):
        payload_of({"c": [0.5]}, 1).append(as_table({"c": [2**53 + 1]}, 1), 1)
    assert payload_of({"c": [0.5]}, 1).append(as_table({"c": [2**53]}, 1), 1).records([1]) == [{"c": 2.0**53}]


def test_names_that_differ_in_case():
    payload = payload_of({"Year": [1]}, 1)
    for change in [lambda t: payload.append(t, 1), lambda t: payload.update(np.array([0]), t)]:
        with pytest.raises(InvalidInputError, match="column 'year' must be written as the stored column 'Year'"):
            change(as_table({"year": [2]}, 1))


def test_many_small_appends_equal_one(rng):
    sizes = rng.integers(0, 9, 400)
    values = rng.integers(0, 1000, sizes.sum())
    payload, done = Payload.empty(0), 0
    for size in sizes:
        part = values[done : done + size]
        payload = payload.append(as_table({"n": part, "t": [str(v) for v in part]}, size), int(size))
        done += size
        assert len(payload._chunks) <= 2 * math.log2(max(done, 2)) + 1
    assert payload.table().to_pydict() == {"n": values.tolist(), "t": [str(v) for v in values]}


def test_fifty_thousand_appends_are_fast(rounds):
    count = rounds(10_000, 50_000)
    payload, begin = Payload.empty(0), time.perf_counter()
    for i in range(count):
        payload = payload.append(as_table({"n": [i], "t": ["x"]}, 1), 1)
    assert time.perf_counter() - begin < 20
    assert payload.table()["n"].to_pylist() == list(range(count))


def test_chunks_stay_below_what_text_can_address(monkeypatch):
    monkeypatch.setattr(module, "_MOST_CHUNK_BYTES", 1000)
    payload = Payload.empty(0)
    for i in range(100):
        payload = payload.append(as_table({"t": [f"{i:0100}"]}, 1), 1)
    assert all(chunk.nbytes <= 1000 for chunk in payload._chunks)
    assert [int(t) for t in payload.table()["t"].to_pylist()] == list(range(100))
    kept = payload.take(np.arange(0, 100, 3))
    assert [int(t) for t in kept.table()["t"].to_pylist()] == list(range(0, 100, 3))


def parts(rng, count=60):
    payload = Payload.empty(0)
    for start in range(0, count, 6):
        table = as_table({"n": list(range(start, start + 6)), "l": [[str(start)]] * 6}, 6)
        payload = payload.append(table, 6)
    return payload


def test_update(rng):
    payload = parts(rng)
    rows = rng.permutation(60)[:25]
    table = as_table({"n": (rows + 1000).tolist(), "new": [{"a": str(r)} for r in rows]}, 25)
    changed = payload.update(rows, table)
    chosen = set(rows.tolist())
    assert changed.table()["n"].to_pylist() == [r + 1000 if r in chosen else r for r in range(60)]
    assert changed.table()["new"].to_pylist() == [{"a": str(r)} if r in chosen else None for r in range(60)]
    assert changed.table()["l"].equals(payload.table()["l"])
    assert payload.table()["n"].to_pylist() == list(range(60))
    assert payload.update(np.array([3]), as_table({"n": [0.5]}, 1)).records([2, 3])[1]["n"] == 0.5
    assert payload.update(np.array([3]), as_table({"n": [None]}, 1)).records([3])[0]["n"] is None
    assert payload.update(np.array([], np.int64), as_table({}, 0)).names == ["n", "l"]


def test_take(rng):
    payload = parts(rng)
    for rows in [np.arange(60), np.flatnonzero(rng.random(60) < 0.5), rng.permutation(60)[:20], np.array([], np.int64)]:
        taken = payload.take(rows)
        assert len(taken) == len(rows)
        assert taken.table()["n"].to_pylist() == rows.tolist()
        assert taken.schema == payload.schema
    assert len(Payload.empty(9).take(np.array([1, 5]))) == 2
    assert len(Payload.empty(9).take(np.array([5, 1]))) == 2


EVERY = {
    "null": pa.nulls(3),
    "bool": [True, None, False],
    "u32": pa.array([1, None, 2**32 - 1], pa.uint32()),
    "u64": pa.array([1, None, 2**64 - 1], pa.uint64()),
    "f32": pa.array([1, None, math.inf], pa.float32()),
    "decimal": [Decimal("1.10"), None, Decimal("-2")],
    "text": ["", None, "É\0"],
    "binary": [b"", None, b"\xff"],
    "date": [dt.date(1, 1, 1), None, dt.date(9999, 12, 31)],
    "time_s": pa.array([1, None, 2], pa.time32("s")),
    "time_ns": pa.array([1, None, 2000], pa.time64("ns")),
    "ts_s": pa.array([1, None, 2], pa.timestamp("s")),
    "ts_ns": pa.array([1, None, 2001], pa.timestamp("ns")),
    "ts_tz": pa.array([1, None, 2], pa.timestamp("ms", "Europe/Vienna")),
    "dur_s": pa.array([1, None, 2], pa.duration("s")),
    "dur_ns": pa.array([1, None, 2001], pa.duration("ns")),
    "list": [[1, None], None, []],
    "nulls": [[None], None, []],
    "struct": [{"a": [dt.timedelta(1)], "b": None}, None, {"a": None, "b": None}],
    "list_ns": pa.array([[1], None, []], pa.list_(pa.timestamp("ns"))),
    "struct_ns": pa.array([{"a": 1}, None, {"a": None}], pa.struct([("a", pa.duration("ns"))])),
}


@pytest.mark.parametrize(
    "payload",
    [
        payload_of(EVERY, 3),
        payload_of(EVERY, 3).append(None, 2),
        payload_of({key: as_table({key: value}, 3)[key].slice(0, 0) for key, value in EVERY.items()}, 0),
        Payload.empty(0),
        Payload.empty(5),
    ],
    ids=["every type", "chunks", "no rows", "nothing", "no columns"],
)
def test_round_trips(payload, tmp_path):
    payload.write(tmp_path / "payload.parquet")
    for got in [Payload.read(tmp_path / "payload.parquet", len(payload)), pickle.loads(pickle.dumps(payload))]:
        assert len(got) == len(payload)
        assert got.schema.equals(payload.schema)
        assert got.table().equals(payload.table())
        assert got.append(None, 1).names == payload.names


def test_records_are_python_values():
    (record,) = payload_of(EVERY, 3).records([2])
    assert record["ts_ns"] == dt.datetime(1970, 1, 1, 0, 0, 0, 2)
    assert type(record["ts_ns"]) is dt.datetime
    assert record["dur_ns"] == dt.timedelta(microseconds=2)
    assert record["time_ns"] == dt.time(0, 0, 0, 2)
    assert record["decimal"] == Decimal("-2")
    assert record["null"] is None
    assert payload_of(EVERY, 3).records([]) == []
    assert payload_of(EVERY, 3).records([0])[0]["list_ns"] == [dt.datetime(1970, 1, 1)]


def write(path, payload):
    payload.write(path)
    return path.read_bytes()


def test_damaged_files(tmp_path, rng):
    path = tmp_path / "payload.parquet"
    whole = write(path, payload_of(EVERY, 3))
    with pytest.raises(IndexCorruptError, match=r"payload\.parquet must hold the payload of 4 rows, it has 3"):
        Payload.read(path, 4)
    with pytest.raises(IndexCorruptError, match=r"nothing\.parquet cannot be read as a payload: .*; restore it"):
        Payload.read(tmp_path / "nothing.parquet", 3)
    for content in [b"", b"PAR1", b"no parquet at all", whole[:-1], whole[: len(whole) // 2], whole[5:]]:
        path.write_bytes(content)
        with pytest.raises(IndexCorruptError, match=r"payload\.parquet cannot be read as a payload"):
            Payload.read(path, 3)
    for meta in [{}, {"attnbridge.rows": "x"}, {"attnbridge.rows": "3"}]:
        pq.write_table(pa.table({"a": [1, 2, 3]}).replace_schema_metadata(meta), path)
        with pytest.raises(IndexCorruptError, match="cannot be read as a payload"):
            Payload.read(path, 3)
    schema = base64.b64encode(pa.schema([("b", pa.int64())]).serialize().to_pybytes()).decode()
    meta = {"attnbridge.rows": "3", "attnbridge.schema": schema}
    pq.write_table(pa.table({"a": [1, 2, 3]}).replace_schema_metadata(meta), path)
    with pytest.raises(IndexCorruptError, match="cannot be read as a payload"):
        Payload.read(path, 3)


def test_flipped_bytes_are_errors_or_the_same(tmp_path, rng, rounds):
    path = tmp_path / "payload.parquet"
    payload = payload_of({"n": list(range(50)), "t": [str(i) * 3 for i in range(50)]}, 50)
    whole = write(path, payload)
    for at in rng.integers(0, len(whole), rounds(150, 2000)):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with contextlib.suppress(IndexCorruptError):
            assert len(Payload.read(path, 50)) == 50


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0, 2**62], pa.timestamp("s")),
        pa.array([0, 2**61], pa.timestamp("us")),
        pa.array([0, -(2**61)], pa.timestamp("us", tz="Europe/Berlin")),
        pa.array([0, 10**7], pa.date32()),
        pa.array([0, 2**62], pa.duration("s")),
        np.array([0, 10**12], "M8[s]"),
        pa.array([[0], [0, 2**62]], pa.list_(pa.timestamp("s"))),
        pa.StructArray.from_arrays([pa.array([0, 2**62], pa.timestamp("s"))], ["t"]),
        pa.array([b"a", b"\xff"]).view(pa.string()),
    ],
    ids=str,
)
def test_what_could_not_be_read_back_is_refused(values):
    """Arrow holds dates beyond Python's, and text that is none: acknowledged, they could never be returned or saved."""
    with pytest.raises(InvalidInputError, match=r"column 't' must hold values that Python can read back.*convert it"):
        as_table({"t": values}, 2)


def test_the_outermost_dates_that_python_knows():
    first, last = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59)
    table = as_table({"t": [first, last], "d": [first.date(), last.date()], "x": [None, None]}, 2)
    assert table["t"].to_pylist() == [first, last]
    assert table["d"].to_pylist() == [first.date(), last.date()]
    assert as_table({"t": pa.array([None, None], pa.timestamp("s"))}, 2)["t"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    "values",
    [
        [dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 15, 30)],
        [dt.datetime(2020, 1, 1, 12), None, dt.datetime(2020, 1, 1, 12, tzinfo=UTC)],
    ],
)
def test_dates_and_times_of_different_kinds_are_not_made_alike(values):
    with pytest.raises(InvalidInputError, match="must hold values of one type"):
        as_table({"t": values}, len(values))
