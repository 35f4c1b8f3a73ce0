"""Rows in fewer bits: packed one by one, or reduced and encoded for the walk; and the store that keeps both."""

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import attnbridge as ab
from attnbridge.integrations import arrays, reduction
from attnbridge.integrations import store as stores
from attnbridge.integrations.codes import RowSettings, on_disk, pack, unpack
from attnbridge.integrations.reduction import Reduction, rows_needed
from attnbridge.integrations.snapshot import load_snapshot, write_snapshot
from attnbridge.integrations.store import Store
from attnbridge.metric import Metric

FLAT = ("cosine", "ip", "l2")  # others are walked over full rows only
MUTATIONS = 2_000 if os.environ.get("ATTNBRIDGE_SLOW") else 70
MAX = float(np.finfo(np.float32).max)
DTYPES = ("float32", "float16", "int8")
REDUCED = [(dtype, dim) for dtype in DTYPES for dim in (None, 5) if (dtype, dim) != ("float32", None)]
PACKED = ("float16", "int8")


def gaussian(n=400, d=11, seed=0):
    """Return rows whose columns differ in size, with duplicates and one large row."""
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n, d)) * np.linspace(3.0, 0.1, d)).astype(np.float32)
    rows[n // 2], rows[n // 3] = rows[0], 4 * rows[1]
    return rows


def decoded(codes):
    return on_disk(codes).astype(np.float64)


def similarity(metric, queries, rows):
    """Return what the codes' scores are held against, in float64."""
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    bias = -0.5 * (rows**2).sum(axis=1) if metric == "l2" else 0.0
    return queries @ rows.T + bias


def scores(view, prepared, metric):
    """Return the walk's scores of all rows, slowly."""
    keys, queries, scale = view.walk, prepared, np.ones(len(prepared))
    if view.reduction is not None:
        queries, scale = view.reduction.queries(prepared)
    assert (queries.dtype == np.int8) == (keys.data.dtype == np.int8)
    products = scale[:, None] * (queries.astype(np.float64) @ decoded(keys.data).T)
    if keys.scale is not None:
        products *= keys.scale
    return products if keys.bias is None else products + keys.bias


# ---- settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, r"dtype must be one of float16, float32, int8; got 'float64'"),
        ({"index_dim": 0}, r"index_dim must be a whole number >= 1, got 0"),
        ({"index_dim": 2.5}, r"index_dim must be a whole number >= 1, got 2.5"),
        ({"keep_full": 1}, r"keep_full must be True or False, got 1"),
        (
            {"keep_full": False, "dtype": "int8", "index_dim": 4},
            r"keep_full=False must go without index_dim, got index_dim=4.*leave keep_full=True, or index_dim=None",
        ),
        ({"keep_full": False}, r"keep_full=False must go with dtype='float16' or 'int8', got 'float32'.*set dtype"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        RowSettings(**options)


@pytest.mark.parametrize(
    ("options", "dim", "message"),
    [
        ({"index_dim": 9}, 8, r"index_dim must be at most dim = 8, got 9; use a smaller one, or None"),
        ({"index_dim": 9}, 4097, r"index_dim must be None where dim is over 4096, got dim=4097; reduce"),
        ({"dtype": "int8"}, 2**17 + 1, r"dtype='int8' must have at most 131072 dimensions, got 131073; use dtype="),
    ],
)
def test_settings_that_do_not_fit_the_rows(options, dim, message):
    with pytest.raises(ab.InvalidConfigError, match=message):
        Store(dim, Metric("ip"), RowSettings(**options))
    with pytest.raises(ab.InvalidConfigError, match=message):
        Store.adopt(np.empty((0, dim), np.float32), Metric("ip"), [], np.empty(0, np.int64), RowSettings(**options))


def test_settings_that_can_be():
    assert RowSettings(index_dim=np.int64(3)).index_dim == 3
    assert type(RowSettings(index_dim=np.int64(3)).index_dim) is int
    assert not RowSettings().reduced
    assert not RowSettings().packed
    assert RowSettings(index_dim=3).reduced
    assert RowSettings("int8").reduced
    assert RowSettings("int8", keep_full=False).packed


# ---- packing


@pytest.mark.parametrize("dtype", PACKED)
def test_packed_rows_are_near_and_pack_alike(dtype):
    rows = gaussian(3000, 7)
    rows[5] = 0
    codes, steps = pack(rows, dtype)
    again = unpack(codes, steps)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    assert (np.abs(again - rows) <= largest * (0.5001 / 127 if dtype == "int8" else 2.0**-11)).all()
    assert (again[5] == 0).all()
    if dtype == "int8":
        assert (np.abs(np.delete(codes, 5, 0)).max(axis=1) == 127).all()
        np.testing.assert_allclose(
            np.delete(steps, 5), np.delete(largest[:, 0], 5).astype(np.float64) / 127, rtol=1e-15
        )
    for row in (0, 5, 1777, 2999):
        one, step = pack(rows[row : row + 1], dtype)
        assert (one[0].tobytes(), step[0]) == (codes[row].tobytes(), steps[row])


@given(
    dtype=st.sampled_from(PACKED),
    rows=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 5)),
        elements=st.floats(-MAX, MAX, width=32)
        | st.sampled_from([0.0, -0.0, MAX, -MAX, MAX / 2, 1e-45, 3e-45, 1e-39, -1e-38, 65504.0, 65520.0, 1.0, 0.99999]),
    ),
)
@settings(deadline=None, max_examples=400)
def test_what_is_unpacked_packs_alike(dtype, rows):
    """At both ends of float32 too: subnormal rows, and those whose largest value is rounded up."""
    codes, steps = pack(rows, dtype)
    again = unpack(codes, steps)
    assert np.isfinite(again).all()
    twice, same = pack(again, dtype)
    assert twice.tobytes() == codes.tobytes() or (decoded(twice) == decoded(codes)).all()  # -0.0 may lose its sign
    assert same.tobytes() == steps.tobytes()
    assert unpack(twice, same).tobytes() == again.tobytes() or (unpack(twice, same) == again).all()
    assert (np.abs(again.astype(np.float64) - rows) <= np.abs(rows.astype(np.float64)).max(axis=1)[:, None] / 127).all()


# ---- the reduction


@pytest.mark.parametrize("metric", FLAT)
@pytest.mark.parametrize(("dtype", "dim"), REDUCED)
def test_scores_are_near_those_of_the_full_rows(metric, dtype, dim):
    rows, queries = gaussian(), gaussian(9, seed=1)
    kind = Metric(metric)
    prepared, _ = kind.prepare(queries, "queries")
    scale, bias = kind.row_terms(rows, "rows")
    made = Reduction.fit(rows, metric=kind, dtype=dtype, index_dim=dim)
    codes, clipped = made.encode(rows, scale)
    assert codes.shape == (len(rows), dim or 11)
    asked, factor = made.queries(prepared)
    got = factor[:, None] * (asked.astype(np.float64) @ decoded(codes).T) + (0.0 if bias is None else bias)
    units = rows if scale is None else rows * scale[:, None]
    truth = similarity(metric, prepared, rows)
    if dim is not None:  # held against the float64 projection
        directions = made.directions.astype(np.float64)
        np.testing.assert_allclose(directions @ directions.T, np.eye(dim), atol=1e-6)
        truth = truth - prepared.astype(np.float64) @ (np.eye(11) - directions.T @ directions) @ units.T.astype(float)
    lengths = np.linalg.norm(prepared, axis=1)[:, None] * np.linalg.norm(units, axis=1)
    error = np.abs(got - truth) / lengths
    inside = np.ones(len(rows), np.bool_)
    if dtype == "int8":
        inside = (np.abs(codes) < 127).all(axis=1)
        assert inside.mean() > 0.9
        assert clipped < 10
    else:
        assert clipped == 0
    assert error[:, inside].max() < {"float32": 1e-6, "float16": 1e-3, "int8": 0.1}[dtype]


def test_principal_directions_are_those_of_the_second_moment():
    """Constant columns count: products are to be kept, which a centred analysis would not."""
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((500, 5)) * [3, 0.1, 2, 0.1, 0.1] + [0, 0, 0, 10, 0]).astype(np.float32)
    made = Reduction.fit(rows, metric=Metric("ip"), dtype="float32", index_dim=3)
    kept = made.directions.T @ made.directions
    np.testing.assert_allclose(np.diag(kept), [1, 0, 1, 1, 0], atol=1e-2)
    values, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows)
    np.testing.assert_allclose(kept, vectors[:, 2:] @ vectors[:, 2:].T, atol=1e-5)
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_directions_keep_all_products(dtype):
    rows = gaussian()
    made = Reduction.fit(rows, metric=Metric("ip"), dtype=dtype, index_dim=11)
    codes, _ = made.encode(rows)
    asked, factor = made.queries(rows)
    got = factor[:, None] * (asked.astype(np.float64) @ decoded(codes).T)
    truth = rows.astype(np.float64) @ rows.T
    assert np.abs(got - truth).max() / np.abs(truth).max() < {"float32": 1e-6, "float16": 1e-3, "int8": 0.05}[dtype]


@pytest.mark.parametrize("metric", FLAT)
@pytest.mark.parametrize(("dtype", "dim"), [*REDUCED, ("int8", 11)])
def test_the_same_bits_alone_and_among_others(metric, dtype, dim):
    rows = gaussian(700, 11)
    kind = Metric(metric)
    prepared, _ = kind.prepare(rows, "queries")
    scale, _ = kind.row_terms(rows, "rows")
    made = Reduction.fit(rows, metric=kind, dtype=dtype, index_dim=dim)
    again = Reduction.fit(rows, metric=kind, dtype=dtype, index_dim=dim)
    assert (made.step, made.arrays().keys()) == (again.step, again.arrays().keys())
    codes, clipped = made.encode(rows, scale)
    asked, factor = made.queries(prepared)
    alone = 0
    for i in range(len(rows)):
        one = slice(i, i + 1)
        code, count = made.encode(rows[one], None if scale is None else scale[one])
        query, own = made.queries(prepared[one])
        assert (code.tobytes(), query.tobytes(), own[0]) == (codes[i].tobytes(), asked[i].tobytes(), factor[i])
        alone += count
    assert alone == clipped
    for stop in (2, 3, 5, 300):
        assert made.queries(prepared[:stop])[0].tobytes() == asked[:stop].tobytes()


@pytest.mark.parametrize(("dtype", "dim"), [*REDUCED, ("int8", 1)])
@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((20, 5)),
        np.ones((20, 5)),
        np.ones((1, 5)),
        np.eye(5),
        np.tile([[0, 0, 7, 0, 0]], (20, 1)),
        np.full((20, 5), MAX / 2),
        np.vstack([np.zeros((99, 5)), np.full((1, 5), -MAX)]),
        np.full((3, 5), 1e-42),
        np.vstack([np.eye(5) * 10.0**i for i in range(-30, 30, 6)]),
    ],
    ids=["zeros", "equal", "one", "eye", "constant", "huge", "mostly-zeros", "subnormal", "spread"],
)
def test_degenerate_rows(rows, dtype, dim):
    rows = rows.astype(np.float32)
    made = Reduction.fit(rows, metric=Metric("ip"), dtype=dtype, index_dim=dim)
    assert 0 < made.step < np.inf
    codes, _ = made.encode(rows)
    queries, factor = made.queries(rows)
    assert np.isfinite(decoded(codes)).all()
    assert np.isfinite(queries.astype(np.float64)).all()
    assert np.isfinite(factor).all()
    got = factor[:, None] * (queries.astype(np.float64) @ decoded(codes).T)
    truth = rows.astype(np.float64) @ rows.T.astype(np.float64)
    if dim is None or np.linalg.matrix_rank(rows.astype(np.float64)) <= dim:
        most = np.abs(truth).max()
        assert np.abs(got - truth).max() <= 0.03 * most + 1e-80


@pytest.mark.parametrize(("dtype", "dim"), [("int8", None), ("float16", None), ("float32", 1), ("int8", 1)])
def test_one_dimension(dtype, dim):
    rows = np.array([[1.0], [-2.0], [0.5]], np.float32)
    made = Reduction.fit(rows, metric=Metric("l2"), dtype=dtype, index_dim=dim)
    codes, _ = made.encode(rows)
    queries, factor = made.queries(rows)
    got = factor[:, None] * (queries.astype(np.float64) @ decoded(codes).T)
    np.testing.assert_allclose(got, rows @ rows.T, atol=0.05)


def test_no_rows_and_no_queries():
    made = Reduction.fit(np.empty((0, 3), np.float32), metric=Metric("cosine"), dtype="int8", index_dim=2)
    codes, clipped = made.encode(np.empty((0, 3), np.float32), np.empty(0))
    assert (codes.shape, clipped) == ((0, 2), 0)
    assert [part.shape for part in made.queries(np.empty((0, 3), np.float32))] == [(0, 2), (0,)]
    assert made.queries(np.zeros((1, 3), np.float32))[1].tolist() == [0.0]


@pytest.mark.parametrize(("dtype", "most"), [("int8", 127), ("float16", 65504), ("float32", 65504)])
def test_clipped_values_are_counted(dtype, most):
    rows = gaussian(50)
    dim = 11 if dtype == "float32" else None
    made = Reduction.fit(rows, metric=Metric("ip"), dtype=dtype, index_dim=dim)
    beyond = np.zeros((3, 11), np.float32)
    beyond[1] = 1e9
    beyond[2, 4] = -MAX
    codes, clipped = made.encode(beyond)
    assert np.abs(decoded(codes)).max() == most
    assert clipped == np.count_nonzero(np.abs(decoded(codes)) == most) >= 11


def test_unequal_columns_are_rotated_and_equal_ones_not():
    rng = np.random.default_rng(4)
    equal = rng.standard_normal((2000, 16)).astype(np.float32)
    unequal = equal * np.float32([10, *[1] * 15])
    fit = lambda rows, dtype="int8": Reduction.fit(rows, metric=Metric("ip"), dtype=dtype)  # noqa: E731
    assert fit(equal).directions is None
    assert fit(unequal, "float16").directions is None
    turned = fit(unequal)
    np.testing.assert_allclose(turned.directions @ turned.directions.T, np.eye(16), atol=1e-6)
    wide = np.zeros((3, 513), np.float32)
    wide[:, 0] = 9
    assert fit(wide).directions is None  # a query would pay more than it gains


def test_a_sample_is_enough(monkeypatch):
    monkeypatch.setattr(reduction, "SAMPLE", 100)
    rows = gaussian(400)
    made = Reduction.fit(rows, metric=Metric("ip"), dtype="int8", index_dim=3)
    other = Reduction.fit(rows, metric=Metric("ip"), dtype="int8", index_dim=3, seed=1)
    assert made.step != other.step


def test_arrays_come_back():
    made = Reduction.fit(gaussian(), metric=Metric("ip"), dtype="int8", index_dim=3)
    again = Reduction.from_arrays(made.arrays(), "int8", 11)
    assert again.step == made.step
    assert again.directions.tobytes() == made.directions.tobytes()
    plain = Reduction("float16", 0.25)
    assert Reduction.from_arrays(plain.arrays(), "float16", 11).arrays() == {"step": [0.25]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "step must be one number > 0"),
        ({"step": np.array([np.nan])}, "step must be one number > 0"),
        ({"step": np.array([np.inf])}, "step must be one number > 0"),
        ({"step": np.array([0.0])}, "step must be one number > 0"),
        ({"step": np.array([1.0, 1.0])}, "step must be one number > 0"),
        ({"step": np.array([1])}, "step must be one number > 0"),
        ({"directions": np.eye(11)}, r"must be float32 of shape \(1 to 11, 11\), got float64 \(11, 11\)"),
        ({"directions": np.eye(3, 10, dtype=np.float32)}, r"of shape \(1 to 11, 11\), got float32 \(3, 10\)"),
        ({"directions": np.zeros((0, 11), np.float32)}, r"got float32 \(0, 11\)"),
        ({"directions": np.zeros((12, 11), np.float32)}, r"got float32 \(12, 11\)"),
        ({"directions": np.zeros(11, np.float32)}, r"got float32 \(11,\)"),
        ({"directions": np.zeros((2, 11), np.float32)}, "directions must have length 1"),
        ({"directions": np.full((2, 11), np.nan, np.float32)}, "directions must have length 1"),
        ({"directions": np.full((2, 11), MAX, np.float32)}, "directions must have length 1"),
    ],
)
def test_forged_arrays(change, message):
    given = Reduction.fit(gaussian(), metric=Metric("ip"), dtype="int8", index_dim=3).arrays() | change
    given = {name: array for name, array in given.items() if array is not None}
    with pytest.raises(ab.IndexCorruptError, match=f"the reduction is damaged: .*{message}.*restore it from a backup"):
        Reduction.from_arrays(given, "int8", 11)


# ---- the store


ALL = [RowSettings(dtype, dim) for dtype, dim in REDUCED] + [RowSettings(dtype, keep_full=False) for dtype in PACKED]


@pytest.fixture(autouse=True)
def early(monkeypatch):
    """Fit once 60 rows live."""
    monkeypatch.setattr(stores, "rows_needed", lambda dim: 60)


def named(settings):
    return f"{settings.dtype}-{settings.index_dim}-{'full' if settings.keep_full else 'packed'}"


def put(store, rows, first=0, payload=None):
    return store.add(list(range(first, first + len(rows))), rows, None, payload)


def consistent(store, metric):
    """Hold everything that a view says about its rows against the rows."""
    view = store.view
    rows = view.vectors(np.arange(view.count))
    prepared, _ = Metric(metric).prepare(gaussian(4, 11, seed=5), "queries")
    assert len(view.walk.data) == view.count == len(view.keys.data)
    truth = similarity(metric, prepared, rows)
    scaled = view.keys._replace(scale=np.ones(view.count) if view.keys.scale is None else view.keys.scale)
    exact = scaled.scale * (prepared.astype(np.float64) @ decoded(view.keys.data).T)
    np.testing.assert_allclose(exact + (0 if view.keys.bias is None else view.keys.bias), truth, rtol=1e-5, atol=1e-5)
    got = scores(view, prepared, metric)
    assert (view.walk.bias is None) == (metric != "l2")
    if view.walk is not view.keys:
        assert view.keys.data.dtype == np.float32
        codes, _ = view.reduction.encode(view.keys.data, view.keys.scale)
        assert codes.tobytes() == np.ascontiguousarray(view.walk.data).tobytes()
        assert view.walk.bias is view.keys.bias or view.walk.bias.tobytes() == view.keys.bias.tobytes()
        assert view.code_bytes >= view.walk.data.nbytes
    elif view.reduction is None:
        assert view.code_bytes == 0
        np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-5)
    else:
        assert view.code_bytes == 0
        tolerance = 0.02 if store.settings.dtype == "int8" else 1e-5
        assert np.abs(got - truth).max(initial=0) <= tolerance * np.abs(truth).max(initial=0)


def state(store):
    view = store.view
    parts = [view.keys.data, view.keys.scale, view.keys.bias, view.walk.data, view.alive, view.steps]
    step = None if view.reduction is None else view.reduction.step
    return [None if part is None else part.tobytes() for part in parts], view.live_ids(), view.clipped, step


@pytest.mark.parametrize("metric", FLAT)
@pytest.mark.parametrize("chosen", [RowSettings(), *ALL], ids=named)
def test_a_store_through_its_life(metric, chosen):
    rows = gaussian(150)
    store = Store(11, Metric(metric), chosen)
    consistent(store, metric)
    put(store, rows[:50])
    assert (store.view.walk is store.view.keys) or not chosen.reduced
    first = store.view
    consistent(store, metric)
    put(store, rows[50:100], 50)
    assert (store.view.walk is not store.view.keys) == chosen.reduced
    consistent(store, metric)
    kept = store.view.reduction
    put(store, rows[100:120], 10)  # upserts
    store.skip(3)
    store.kill([0, 1, 2], [0, 1, 2])
    consistent(store, metric)
    before = store.view
    compact = store.compacted(before)
    consistent(compact, metric)
    assert compact.settings == store.settings
    put(store, rows[120:], 300)
    compact.catch_up(before, store)
    consistent(store, metric)
    consistent(compact, metric)
    if chosen.reduced:
        assert store.view.reduction is kept
        assert compact.view.reduction is not kept  # fitted again
    assert first.count == 50
    np.testing.assert_array_equal(first.vectors(np.arange(50)), store.view.vectors(np.arange(50)))
    ids = compact.view.live_ids()
    for id in ids:
        mine, theirs = store.rows_of([id])[1], compact.rows_of([id])[1]
        got = compact.view.vectors(np.array(theirs))
        assert got.tobytes() == store.view.vectors(np.array(mine)).tobytes()
        if chosen.packed:
            assert compact.view.walk.data[theirs].tobytes() == store.view.walk.data[mine].tobytes()
    again = pickle.loads(pickle.dumps(store))
    assert state(again) == state(store)
    assert again.settings == chosen
    for each in (store, again):
        put(each, rows[:5], 900)
    assert state(again) == state(store)
    empty = store.emptied()
    assert (empty.settings, len(empty)) == (chosen, 0)
    frozen = store.frozen()
    put(store, rows[:9], 2000)
    consistent(frozen, metric)


@pytest.mark.parametrize("chosen", ALL, ids=named)
def test_rows_one_by_one_are_as_all_at_once(chosen):
    rows = gaussian(90)
    at_once, one_by_one = (Store(11, Metric("cosine"), chosen) for _ in range(2))
    for store in (at_once, one_by_one):
        put(store, rows[:60])
    put(at_once, rows[60:], 60)
    for i in range(60, 90):
        put(one_by_one, rows[i : i + 1], i)
    assert state(at_once) == state(one_by_one)


def test_replaced_rows_do_not_count_for_a_fit():
    store = Store(11, Metric("ip"), RowSettings("int8"))
    put(store, gaussian(40))
    put(store, gaussian(40))
    put(store, gaussian(40))
    assert store.view.reduction is None
    put(store, gaussian(20), 40)
    assert store.view.reduction is not None


def test_a_fit_needs_ten_rows_a_dimension_and_ten_thousand():
    assert [rows_needed(dim) for dim in (1, 384, 1000, 1024)] == [10_000, 10_000, 10_000, 10_240]


def test_adopted_rows():
    rows, ids = gaussian(100), [*range(0, 100, 2), *range(1, 40, 2)]
    for chosen in (RowSettings(), *ALL):
        store = Store.adopt(rows, Metric("cosine"), ids, np.array(ids), chosen)
        consistent(store, "cosine")
        assert (store.view.walk is not store.view.keys) == chosen.reduced
        assert len(store) == len(ids)


def test_clipped_values_of_the_store():
    store = Store(11, Metric("ip"), RowSettings("int8"))
    put(store, gaussian(60))
    before = store.view.clipped
    put(store, np.full((2, 11), 1e6, np.float32), 100)
    assert store.view.clipped >= before + 10


@pytest.mark.parametrize("chosen", ALL, ids=named)
@pytest.mark.parametrize("there", [0, 30, 70])
def test_a_write_that_is_broken_off_leaves_nothing(chosen, there, monkeypatch):
    rows = gaussian(200)
    store = Store(11, Metric("l2"), chosen)
    put(store, rows[:there])
    before, view = state(store), store.view

    def broken(*_):
        raise KeyboardInterrupt

    for target in ("_learn_kind", "_publish", "_put_tokens", "_fit"):
        with monkeypatch.context() as patch:
            patch.setattr(Store, target, broken)
            with pytest.raises(KeyboardInterrupt):
                put(store, rows[100:], 500)
        assert store.view is view
        assert state(store) == before
    with monkeypatch.context() as patch:
        patch.setattr(Reduction, "encode", broken)
        if chosen.reduced:
            with pytest.raises(KeyboardInterrupt):
                put(store, rows[100:], 500)
            assert state(store) == before
    put(store, rows[100:], 500)
    other = Store(11, Metric("l2"), chosen)
    put(other, rows[:there])
    put(other, rows[100:], 500)
    assert state(store) == state(other)


@pytest.mark.parametrize("chosen", ALL, ids=named)
def test_zero_vectors_are_refused_before_they_are_packed(chosen):
    store = Store(11, Metric("cosine"), chosen)
    with pytest.raises(ab.InvalidInputError, match=r"vectors must not hold zero vectors.*row 1"):
        put(store, np.vstack([gaussian(2)[:1], np.zeros((1, 11), np.float32)]))
    assert store.view.count == 0


# ---- on disk


def save(store, folder):
    write_snapshot(folder, "Test", {}, store.files())


def read(folder, chosen, metric="cosine", *, mmap=True, dim=11):
    return load_snapshot(
        folder, "Test", lambda snapshot: Store.read(snapshot, dim, Metric(metric), mmap, chosen), verify="lazy"
    )


def made(chosen, metric="cosine", n=100):
    store = Store(11, Metric(metric), chosen)
    put(store, gaussian(n))
    store.kill([3], [3])
    return store


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("metric", FLAT)
@pytest.mark.parametrize("chosen", [RowSettings(), *ALL], ids=named)
@pytest.mark.parametrize("n", [20, 100])
def test_a_store_comes_back_from_disk(tmp_path, chosen, metric, mmap, n):
    store = made(chosen, metric, n)
    save(store, tmp_path)
    again = read(tmp_path, chosen, metric, mmap=mmap)
    again.view.check_walk()
    assert state(again) == state(store)
    consistent(again, metric)
    for each in (store, again):
        put(each, gaussian(70, seed=8), 1000)
    assert state(again) == state(store)
    save(again, tmp_path)
    assert state(read(tmp_path, chosen, metric, mmap=mmap)) == state(store)
    empty = Store(11, Metric(metric), chosen)
    save(empty, tmp_path)
    assert state(read(tmp_path, chosen, metric, mmap=mmap)) == state(empty)


def flip(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("chosen", "file"),
    [
        (RowSettings(), "rows.npy"),
        (RowSettings("int8", keep_full=False), "rows.npy"),
        (RowSettings("int8"), "codes.npy"),
        (RowSettings("float16", 5), "codes.npy"),
    ],
)
def test_the_walk_is_verified_once(tmp_path, chosen, file, monkeypatch):
    save(made(chosen, n=30_000), tmp_path)  # more than a header's worth of blocks
    store = read(tmp_path, chosen)
    store.view.check_walk()
    guard = store.view.guard
    blocks = guard.codes or guard.rows[0]
    assert not blocks.pending
    assert guard.rows[0].pending == chosen.reduced
    monkeypatch.setattr(type(blocks), "check_all", None)  # not called any more
    store.view.check_walk()
    monkeypatch.undo()
    monkeypatch.setattr(stores, "rows_needed", lambda dim: 60)
    (path,) = tmp_path.glob(f"*/{file}")
    flip(path, -1)
    bad = read(tmp_path, chosen)
    for _ in range(2):
        with pytest.raises(ab.IndexCorruptError, match=rf"{file} is damaged: its checksum"):
            bad.view.check_walk()
    for use in (lambda: put(bad, gaussian(), 90_000), bad.files, lambda: pickle.dumps(bad)):
        with pytest.raises(ab.IndexCorruptError, match=rf"{file} is damaged: its checksum"):
            use()
    in_memory = Store(11, Metric("cosine"), chosen)
    in_memory.view.check_walk()


def forged(store, folder, **changes):
    """Save with other arrays (None: without the file), all checksums right."""
    files = store.files()
    for name, array in changes.items():
        file = f"{name}.npy"
        if array is None:
            del files[file]
        else:
            files[file] = lambda path, array=array: np.save(path, array)
    write_snapshot(folder, "Test", {}, files)


@pytest.mark.parametrize(
    ("chosen", "changes", "message"),
    [
        (RowSettings("int8", 5), {"codes": np.zeros((100, 4), np.int8)}, r"codes.npy must have shape \(100, 5\)"),
        (RowSettings("int8", 5), {"codes": np.zeros((99, 5), np.int8)}, r"codes.npy must have shape \(100, 5\)"),
        (RowSettings("int8", 5), {"codes": np.zeros((100, 5), np.float16)}, r"codes.npy is damaged: it must hold int8"),
        (
            RowSettings("float16"),
            {"codes": np.zeros((100, 11), np.int8)},
            r"codes.npy is damaged: it must hold float16",
        ),
        (RowSettings("int8", 5), {"reduction_step": np.array([np.nan])}, r"the reduction is damaged: its step"),
        (RowSettings("int8", 5), {"reduction_step": np.ones(2)}, r"reduction_step.npy must have shape \(1,\)"),
        (RowSettings("int8", 5), {"reduction_step": None}, r"it lists no reduction_step.npy"),
        (RowSettings("int8", 5), {"reduction_directions": None}, r"it lists no reduction_directions.npy"),
        (
            RowSettings("int8", 5),
            {"reduction_directions": np.zeros((5, 11), np.float32)},
            r"the reduction is damaged: its directions must have length 1",
        ),
        (
            RowSettings("int8", 5),
            {"reduction_directions": np.eye(4, 11, dtype=np.float32)},
            r"reduction_directions.npy must have shape \(5, 11\)",
        ),
        (
            RowSettings("float16"),
            {"reduction_directions": np.eye(4, 11, dtype=np.float32)},
            r"must have shape \(11, 11\)",
        ),
        (RowSettings("int8", 5), {"clipped": np.zeros(2, np.int64)}, r"clipped.npy must have shape \(1,\)"),
        (RowSettings("int8", 5), {"clipped": np.array([-1])}, r"clipped.npy is damaged: it must hold a count"),
        (RowSettings("int8", keep_full=False), {"steps": None}, r"it lists no steps.npy"),
        (RowSettings("int8", keep_full=False), {"steps": np.full(100, np.nan)}, r"steps.npy.*must hold finite numbers"),
        (RowSettings("int8", keep_full=False), {"terms": np.full(100, np.inf)}, r"terms.npy.*must hold finite numbers"),
        (RowSettings("int8", keep_full=False), {"steps": np.ones(99)}, r"steps.npy must have shape \(100,\)"),
        (
            RowSettings("int8", keep_full=False),
            {"rows": np.zeros((100, 11), np.float32)},
            r"rows.npy is damaged: it must hold int8",
        ),
        (
            RowSettings("float16", keep_full=False),
            {"rows": np.zeros((100, 11), np.uint16)},
            r"rows.npy is damaged: it must hold float16",
        ),
        (RowSettings("int8"), {"rows": np.zeros((100, 11), np.int8)}, r"rows.npy is damaged: it must hold float32"),
        (RowSettings(), {"codes": np.zeros((100, 11), np.int8)}, r"codes.npy is damaged: its index keeps no codes"),
    ],
)
@pytest.mark.parametrize("mmap", [True, False])
def test_forged_files(tmp_path, chosen, changes, message, mmap):
    forged(made(chosen), tmp_path, **changes)
    with pytest.raises(ab.IndexCorruptError, match=message):
        read(tmp_path, chosen, mmap=mmap)


def test_other_settings_than_the_files_were_written_with(tmp_path):
    for written in (RowSettings(), *ALL):
        save(made(written), tmp_path / named(written))
        for asked in ALL:
            same = written == asked or (not written.reduced and not written.packed and asked.reduced)
            if same:  # a store that has not been fitted yet has no codes
                read(tmp_path / named(written), asked)
            else:
                with pytest.raises(ab.IndexCorruptError, match=r"is damaged|must have shape"):
                    read(tmp_path / named(written), asked)


def test_random_changes_of_the_files(tmp_path):
    """Refused, or a store whose every row can be read and scored."""
    rng = np.random.default_rng(6)
    refused = 0
    for turn in range(MUTATIONS):
        chosen = ALL[turn % len(ALL)]
        store = made(chosen)
        names = [name for name in store.files() if name.endswith(".npy")]
        name = names[rng.integers(len(names))]
        folder = tmp_path / str(turn % 8)
        save(store, folder)
        (path,) = folder.glob(f"*/{name}")
        array = np.load(path)
        raw = bytearray(array.tobytes())
        for _ in range(rng.integers(1, 4)):
            raw[rng.integers(len(raw))] = rng.integers(256)
        changed = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
        forged(store, folder, **{name.removesuffix(".npy"): changed})
        try:
            again = read(folder, chosen, mmap=bool(turn % 2))
        except ab.IndexCorruptError:
            refused += 1
            continue
        view = again.view
        view.check_walk()
        with np.errstate(all="ignore"):
            assert view.vectors(view.live_rows).shape == (99, 11)
            assert scores(view, gaussian(2), "cosine").shape == (2, 100)
    assert refused > MUTATIONS / 50


# ---- memory that is given back


def resident(path):
    """Return how many bytes of a mapped file are in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.fixture
def large(tmp_path):
    """A store of 16 MiB of rows and where these are."""
    store = Store(256, Metric("cosine"), RowSettings("int8", 4))
    put(store, np.random.default_rng(1).standard_normal((16_384, 256)).astype(np.float32))
    save(store, tmp_path)
    again = read(tmp_path, store.settings, dim=256)
    (path,) = tmp_path.glob("*/rows.npy")
    return again, path, store


linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc")


@linux
def test_memory_of_mapped_rows_is_given_back(large):
    store, path, truth = large
    rows = np.arange(0, 16_384, 3)
    values = store.view.keys.data[rows]
    assert resident(path) > 8 << 20
    store.view.release()
    assert resident(path) < 1 << 20
    assert store.view.keys.data[rows].tobytes() == values.tobytes() == truth.view.keys.data[rows].tobytes()
    assert resident(path) > 8 << 20
    put(store, np.ones((1, 256), np.float32), 99_999)  # copied: nothing of the mapping is left
    assert resident(path) == 0
    store.view.release()
    store.view.ranked(10**9)


@linux
def test_many_ranked_rows_give_memory_back(large, monkeypatch):
    store, path, _ = large
    store.view.keys.data.sum()
    store.view.ranked(10**6)
    assert resident(path) > 8 << 20  # small: it may stay
    monkeypatch.setattr(arrays, "SMALL", 1 << 20)
    store.view.ranked(32)
    assert resident(path) < 1 << 20
    store.view.keys.data.sum()
    for _ in range(31):
        store.view.ranked(1)
    assert resident(path) > 8 << 20
    store.view.ranked(1)
    assert resident(path) < 1 << 20


@linux
def test_rows_that_the_walk_reads_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "SMALL", 0)
    save(made(RowSettings()), tmp_path)
    store = read(tmp_path, RowSettings())
    (path,) = tmp_path.glob("*/rows.npy")
    store.view.keys.data.sum()
    before = resident(path)
    store.view.ranked(10**6)
    assert resident(path) == before > 0


def test_rows_to_rank_are_copied_from_a_large_file(large, monkeypatch):
    """A search reads them past the mapping: nothing of it comes into memory."""
    store, path, truth = large
    keys, rows = truth.view.keys, np.random.default_rng(0).integers(0, 16_384, (5, 40))
    rows[2, 30:] = -1
    rows[4] = -1
    assert store.view.gathered(rows) == (store.view.keys, rows)
    monkeypatch.setattr(arrays, "SMALL", 1 << 20)
    before = resident(path)
    found, places = store.view.gathered(rows)
    assert resident(path) == before
    assert ((places < 0) == (rows < 0)).all()
    there = rows >= 0
    assert found.data[places[there]].tobytes() == keys.data[rows[there]].tobytes()
    assert found.scale[places[there]].tobytes() == keys.scale[rows[there]].tobytes()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1024 * 4)
    with pytest.raises(ab.IndexCorruptError, match=r"rows\.npy is damaged: it has become shorter"):
        store.view.gathered(np.array([[16_383]]))


def test_readers_do_not_notice(large):
    store, _, truth = large
    view, expected, errors = store.view, truth.view.keys.data, []
    done = threading.Event()

    def reader(seed):
        rng = np.random.default_rng(seed)
        while not done.is_set():
            rows = rng.integers(0, 16_384, 100)
            if view.vectors(rows).tobytes() != expected[rows].tobytes():
                errors.append(rows)

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        view.release()
    done.set()
    for thread in threads:
        thread.join()
    assert not errors


def test_nothing_to_give_back(monkeypatch, large):
    made(RowSettings("int8")).view.release()
    made(RowSettings("int8")).view.ranked(10**9)
    store, _, _ = large
    monkeypatch.delattr(arrays.memory, "MADV_DONTNEED", raising=False)  # as on Windows
    store.view.release()


def test_locked_memory_stays(large):
    class Locked:
        def madvise(self, advice):
            raise OSError("locked")

    store, _, _ = large
    mapped, locked = store.view.guard.mapped, Locked()
    mapped._mapping = lambda: locked
    mapped.release()
