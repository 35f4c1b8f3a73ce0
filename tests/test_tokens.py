"""Token vectors as a bridge stores them: float16, or int8 with a scale for each token; every way in, out and on."""

import hashlib
import io
import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from memory import peak, traced

import attnbridge as ab
from attnbridge.cli import cli
from attnbridge.integrations import store as stores
from attnbridge.integrations.codes import RowSettings
from attnbridge.integrations.snapshot import write_snapshot
from attnbridge.integrations.tokens import TokenArrays, as_tokens

Bridge = ab.AttentionVectorBridge
DTYPES = ["float16", "int8"]
N, DIM, TOKEN_DIM = 60, 5, 7
LENGTHS = [3, 1, 0, 11, 2]


def vectors(n=N):
    return np.random.default_rng(0).standard_normal((n, DIM)).astype(np.float32)


def documents(n=N, seed=1):
    """Return tokens of n documents: some have none, some tokens are zeros, sizes differ by powers of ten."""
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal((LENGTHS[i % 5], TOKEN_DIM)) * 10.0 ** rng.integers(-3, 4) for i in range(n)]
    for array in made[::4]:
        array[:1] = 0.0
    return made


def codes(n=N, seed=2):
    """Return int8 tokens of n documents and an array of scales for each; -128 is a code like others."""
    rng = np.random.default_rng(seed)
    given = [rng.integers(-128, 128, (LENGTHS[i % 5], TOKEN_DIM)).astype(np.int8) for i in range(n)]
    return given, [rng.random(len(array)).astype(np.float32) for array in given]


def quantised(array):
    """Return codes and scales of one document's tokens: the definition, token by token."""
    out, scales = np.zeros(np.shape(array), np.int8), np.zeros(len(array), np.float32)
    for i, token in enumerate(np.asarray(array, np.float32).astype(np.float64)):
        largest = np.abs(token).max()
        if largest:
            out[i], scales[i] = np.rint(token * (127.0 / largest)), largest / 127.0
    return out, scales


def filled(token_dtype="int8", tokens=None, token_scale=None, **options):
    bridge = Bridge(DIM, token_dtype=token_dtype, **{"index": "exact"} | options)
    bridge.add(vectors(), tokens=documents() if tokens is None else tokens, token_scale=token_scale)
    return bridge


def stored(bridge):
    """Return each live document's tokens as they are stored, as bytes: data and scales."""
    view = bridge._state.store.view
    arrays = view.stored_tokens(view.live_rows)
    scales = [None] * len(arrays.data) if arrays.scales is None else [scale.tobytes() for scale in arrays.scales]
    return {
        id: (array.dtype.name, array.shape, array.tobytes(), scale)
        for id, array, scale in zip(view.live_ids(), arrays.data, scales, strict=True)
    }


# ---- what is kept of what is given


def test_float16_is_the_default():
    assert Bridge(DIM).config["token_dtype"] == "float16"
    bridge = filled("float16")
    assert bridge._state.store.view.tokens.scale is None
    for got, want in zip(bridge.get_tokens(range(N)), documents(), strict=True):
        assert got.dtype == np.float16
        assert got.tobytes() == want.astype(np.float16).tobytes()


def test_int8_codes_and_scales_are_those_of_the_definition():
    bridge = filled("int8")
    tokens = bridge._state.store.view.tokens
    assert (tokens.data.dtype, tokens.scale.dtype, tokens.scale.shape) == (np.int8, np.float32, (len(tokens.data),))
    given = documents()
    assert tokens.lengths.tolist() == [len(array) for array in given]
    for i, array in enumerate(given):
        part = slice(tokens.starts[i], tokens.starts[i] + tokens.lengths[i])
        want, scales = quantised(array)
        assert tokens.data[part].tolist() == want.tolist()
        np.testing.assert_allclose(tokens.scale[part], scales, rtol=1e-7)
        got = bridge.get_tokens(i)[0]
        assert (got.dtype, got.shape) == (np.float32, array.shape)
        assert got.tobytes() == (tokens.data[part] * tokens.scale[part][:, None]).astype(np.float32).tobytes()
        assert (np.abs(got - array) <= 0.50001 * scales[:, None] + 1e-30).all()
    zeros = [i for i, array in enumerate(given) if len(array) and not array[0].any()]
    assert zeros
    for i in zeros:
        assert not bridge.get_tokens(i)[0][0].any()
        assert tokens.scale[tokens.starts[i]] == 0


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.integers(1, 6)),
        elements=st.floats(-65504, 65504, width=32),
    )
)
def test_any_token_comes_back_within_half_a_step(array):
    made = as_tokens([array], None, 1, array.shape[1], "int8")
    values = made.data[0] * made.scales[0][:, None]
    step = np.abs(array).max(axis=1, initial=0.0).astype(np.float64)[:, None] / 127
    # A scale below the normal range of float32 has fewer bits.
    assert (np.abs(values - array.astype(np.float64)) <= 0.50001 * step + 127 * 1.5e-45).all()
    assert (np.abs(values) < 65505).all()


def test_given_codes_are_kept_to_the_bit():
    given, scales = codes()
    bridge = filled("int8", given, scales)
    for i, (dtype, shape, data, scale) in stored(bridge).items():
        assert (dtype, shape) == ("int8", given[i].shape)
        assert (data, scale) == (given[i].tobytes(), scales[i].tobytes())
    given[0][:] = 1  # the bridge has its own
    scales[0][:] = 9.0
    assert bridge.get_tokens(0)[0].tolist() != np.full((3, TOKEN_DIM), 9.0).tolist()


def test_given_codes_become_float16():
    given, scales = codes()
    bridge = filled("float16", given, scales)
    for got, code, scale in zip(bridge.get_tokens(range(N)), given, scales, strict=True):
        assert got.dtype == np.float16
        assert got.tobytes() == (code.astype(np.float32) * scale[:, None]).astype(np.float16).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("scale", "each"),
    [
        (0.25, lambda i, n: np.full(n, 0.25)),
        (np.float32(0.5), lambda i, n: np.full(n, 0.5)),
        (2, lambda i, n: np.full(n, 2.0)),
        (0, lambda i, n: np.zeros(n)),
        (np.array(0.5), lambda i, n: np.full(n, 0.5)),
        ([i / 8 for i in range(N)], lambda i, n: np.full(n, i / 8)),
        (np.arange(N) / 8, lambda i, n: np.full(n, i / 8)),
        ([i / 8 if LENGTHS[i % 5] else None for i in range(N)], lambda i, n: np.full(n, i / 8)),
        ([np.arange(LENGTHS[i % 5]) / 4 for i in range(N)], lambda i, n: np.arange(n) / 4),
        ([(np.arange(LENGTHS[i % 5]) / 4).tolist() for i in range(N)], lambda i, n: np.arange(n) / 4),
        (
            [0.5 if i % 3 else np.arange(LENGTHS[i % 5]) for i in range(N)],
            lambda i, n: np.full(n, 0.5) if i % 3 else np.arange(n),
        ),
    ],
    ids=range(11),
)
def test_forms_of_token_scale(dtype, scale, each):
    given = [np.full((LENGTHS[i % 5], TOKEN_DIM), i % 50 - 20, np.int8) for i in range(N)]
    bridge = filled(dtype, given, scale)
    for i, got in enumerate(bridge.get_tokens(range(N))):
        assert got.tolist() == (given[i] * each(i, len(given[i]))[:, None]).tolist()  # few bits: exact in both


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_and_floats_go_together(dtype):
    code = np.array([[1, -128], [3, 0]], np.int8)
    tokens = [code, np.ones((1, 2)), None, code[:0], [code[0], code[1]], code[:, ::-1].tolist()]
    bridge = Bridge(2, index="exact", token_dtype=dtype)
    bridge.add(np.ones((6, 2)), tokens=tokens, token_scale=[0.5, None, None, None, [0.5, 2.0], None])
    values = [t.tolist() for t in bridge.get_tokens(range(6))]
    assert values[0] == [[0.5, -64], [1.5, 0]]
    np.testing.assert_allclose(values[1], [[1, 1]], rtol=1e-7)
    assert values[2:4] == [[], []]
    assert values[4] == [[0.5, -64], [6, 0]]
    np.testing.assert_allclose(values[5], [[-128, 1], [0, 3]], rtol=2e-3, atol=0.51 * 128 / 127)  # a list is of values


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_array_for_all_documents(dtype):
    block = np.random.default_rng(3).integers(-127, 128, (4, 3, 5)).astype(np.int8)
    bridge = Bridge(2, index="exact", token_dtype=dtype)
    bridge.add(np.ones((4, 2)), tokens=block, token_scale=np.full((4, 3), 0.5))
    assert np.array(bridge.get_tokens(range(4))).tolist() == (block * 0.5).tolist()


def test_codes_of_another_library():
    bridge = Bridge(2, index="exact", token_dtype="int8")
    with pytest.raises(ab.InvalidInputError, match=r"tokens\[0\] is int8 and needs token_scale"):
        bridge.add(np.ones((1, 2)), tokens=[Tensor()])
    bridge.add(np.ones((1, 2)), tokens=[Tensor()], token_scale=0.5)
    assert bridge.get_tokens(0)[0].tolist() == [[0.5] * 3] * 2


def test_an_upsert_within_one_add_keeps_the_last_ones_scales():
    code = np.array([[1, 2]], np.int8)
    bridge = Bridge(2, index="exact", token_dtype="int8")
    bridge.add(np.ones((3, 2)), ids=["a", "b", "a"], tokens=[code, code, code], token_scale=[1.0, 2.0, 3.0])
    assert [t.tolist() for t in bridge.get_tokens(["a", "b"])] == [[[3, 6]], [[2, 4]]]


def test_documents_without_tokens_before_and_after():
    bridge = Bridge(2, index="exact", token_dtype="int8")
    bridge.add(np.ones((2, 2)))
    bridge.add(np.ones((1, 2)), tokens=[None], token_scale=0.5)  # a stream of batches may have such
    with pytest.raises(ab.InvalidInputError, match="this bridge stores no tokens"):
        bridge.get_tokens(0)
    bridge.add(np.ones((2, 2)), tokens=[None, np.eye(3)])
    bridge.add(np.ones((1, 2)))
    bridge.add(np.ones((1, 2)), tokens=[-np.eye(3)[:1]])
    assert [t.shape for t in bridge.get_tokens(range(7))] == [(0, 3)] * 4 + [(3, 3), (0, 3), (1, 3)]
    np.testing.assert_allclose(bridge.get_tokens(4)[0], np.eye(3), rtol=1e-6)
    np.testing.assert_allclose(bridge.get_tokens(6)[0], [[-1, 0, 0]], rtol=1e-6)


def test_bytes():
    """int8 takes half the bytes of float16, and four for each token's scale."""
    tokens = [np.ones((3, 128))] * 100
    sizes = {}
    for dtype in DTYPES:
        bridge = Bridge(2, index="exact", token_dtype=dtype)
        bridge.add(np.ones((100, 2)), tokens=tokens)
        sizes[dtype] = bridge.memory()["tokens"]
    assert sizes == {"float16": 100 * (3 * 256 + 16), "int8": 100 * (3 * 132 + 16)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_adding_takes_no_more_memory_than_what_is_stored(dtype):
    tokens = list(np.random.default_rng(0).standard_normal((200, 50, 64)))  # float64: 5 MB
    Bridge(2, index="exact", token_dtype=dtype).add(np.ones((1, 2)), tokens=tokens[:1])  # loads the kernel
    bridge = Bridge(2, index="exact", token_dtype=dtype)
    with traced():
        bridge.add(np.ones((200, 2)), tokens=tokens)
        assert peak() < 2.5 * bridge.memory()["tokens"]  # the checked arrays, and the store's own


# ---- what is refused


BAD = np.ones((2, 3))
CODE = np.ones((2, 3), np.int8)


class Frame:
    """What becomes an array, and has no one type, as a table."""

    def __array__(self, dtype=None, copy=None):
        return np.ones((2, 3))


class Tensor(Frame):
    """Codes of another library."""

    dtype = "torch.int8"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("error", "message", "tokens", "scale"),
    [
        (ab.InvalidInputError, r"tokens\[1\] is int8 and needs token_scale: value = code \* scale", [None, CODE], None),
        (ab.InvalidInputError, r"tokens\[0\] is int8 and needs token_scale", [CODE, CODE], [None, 1.0]),
        (ab.InvalidInputError, r"tokens\[0\] is int8 and needs token_scale", [list(CODE), None], None),
        (ab.InvalidInputError, "token_scale is that of int8 tokens, and no tokens are given", None, 1.0),
        (
            ab.InvalidInputError,
            r"token_scale can be given for int8 tokens only: tokens\[1\] is float64; leave it out, or pass None",
            [CODE, BAD],
            1.0,
        ),
        (ab.InvalidInputError, r"for int8 tokens only: tokens\[0\] is Frame", [Frame(), CODE], 1.0),
        (ab.InvalidInputError, r"for int8 tokens only: tokens\[0\] is int64", [[[1, 2, 3]], CODE], [1.0, 1.0]),
        (ab.InvalidInputError, r"for int8 tokens only: tokens\[0\] is uint8", [CODE.view(np.uint8), None], 1.0),
        (ab.DimensionMismatchError, "have one entry for each of 2 vectors, got 3", [CODE, CODE], [1.0, 1.0, 1.0]),
        (ab.InvalidConfigError, "token_scale must be a finite number >= 0, at most 65504, got nan", [CODE] * 2, np.nan),
        (ab.InvalidConfigError, "token_scale must be a finite number >= 0, at most 65504, got -1", [CODE] * 2, -1),
        (ab.InvalidConfigError, "token_scale must be a finite number .* got 'one'", [CODE] * 2, "one"),
        (ab.InvalidConfigError, "token_scale must be a finite number .* got True", [CODE] * 2, True),
        (ab.InvalidConfigError, r"token_scale must be a finite number .* got \{\}", [CODE] * 2, {}),
        (ab.InvalidConfigError, r"token_scale\[1\] must be a finite number .* got inf", [CODE] * 2, [1.0, np.inf]),
        (ab.InvalidConfigError, r"token_scale\[0\] must be a finite number .* got -0.5", [CODE] * 2, [-0.5, 1.0]),
        (ab.InvalidConfigError, r"token_scale\[0\] must be a finite number .* got '1'", [CODE] * 2, ["1", 1.0]),
        (
            ab.DimensionMismatchError,
            r"token_scale\[1\] must be a number, or one for each of 2 tokens, got shape \(3,\)",
            [CODE] * 2,
            [1.0, np.ones(3)],
        ),
        (
            ab.DimensionMismatchError,
            r"one for each of 2 tokens, got shape \(2, 1\)",
            [CODE] * 2,
            [1.0, np.ones((2, 1))],
        ),
        (
            ab.InvalidInputError,
            r"token_scale\[1\] must be finite: position 1 is nan",
            [CODE] * 2,
            [1.0, np.array([1, np.nan])],
        ),
        (
            ab.InvalidInputError,
            r"token_scale\[0\] must be >= 0: position 1 is -2.0; turn the signs of its codes",
            [CODE] * 2,
            [np.array([1, -2]), 1.0],
        ),
        (ab.InvalidInputError, r"token_scale\[0\] must be real numbers", [CODE] * 2, [["a", "b"], 1.0]),
        (ab.InvalidInputError, r"token_scale\[0\] must fit float32", [CODE] * 2, [np.array([1, 1e300]), 1.0]),
        (ab.DimensionMismatchError, r"tokens\[1\] has 2, those before have 3", [CODE, CODE[:, :2]], 1.0),
        (ab.DimensionMismatchError, r"tokens\[0\] must be rows", [CODE[0], CODE], 1.0),
        (ab.InvalidInputError, r"tokens\[1\] must be finite: row 0, column 2 is inf", [BAD, [[1, 2, np.inf]]], None),
        (ab.InvalidInputError, r"tokens\[1\] must be .*rows of one length", [BAD, [[1, 2], [1]]], None),
    ],
)
def test_bad_tokens(dtype, error, message, tokens, scale):
    bridge = Bridge(2, index="exact", token_dtype=dtype)
    bridge.add(np.ones((1, 2)), ids=["first"], tokens=[BAD])
    with pytest.raises(error, match=message):
        bridge.add(np.ones((2, 2)), ids=["a", "b"], tokens=tokens, token_scale=scale)
    assert bridge.ids() == ["first"]
    assert [t.shape for t in bridge.get_tokens(["first"])] == [(2, 3)]


@pytest.mark.parametrize(
    ("tokens", "scale"),
    [([[1, 2, 70_000.0]], None), ([[0, 0, -3e38]], None), (np.array([[1, 0, -128]], np.int8), 60_000.0)],
)
def test_tokens_that_are_too_large(tokens, scale):
    for dtype, message in (
        ("float16", r"tokens must fit float16 \(up to 65504\): tokens\[1\] does not; rescale it"),
        ("int8", r"tokens must be at most 65504 in size: tokens\[1\] is not; rescale it"),
    ):
        with pytest.raises(ab.InvalidInputError, match=message):
            Bridge(2, index="exact", token_dtype=dtype).add(np.ones((2, 2)), tokens=[None, tokens], token_scale=scale)
        bridge = Bridge(2, index="exact", token_dtype=dtype)
        bridge.add(np.ones((1, 2)), tokens=[[[65504.0, -65504.0, 0.0]]])
        np.testing.assert_allclose(bridge.get_tokens(0)[0], [[65504, -65504, 0]], rtol=1e-7)


def test_masked_tokens_are_refused():
    masked = np.ma.masked_array(np.ones((2, 3), np.int8), [[0, 1, 0], [0, 0, 0]])
    with pytest.raises(ab.InvalidInputError, match=r"tokens\[0\] must have no masked values"):
        Bridge(2, index="exact", token_dtype="int8").add(np.ones((1, 2)), tokens=[masked], token_scale=1.0)


@pytest.mark.parametrize("given", ["float32", "int4", None, 8, np.dtype("float32")])
def test_unknown_token_dtypes(given):
    with pytest.raises(ab.InvalidConfigError, match="token_dtype must be one of float16, int8; got"):
        Bridge(2, token_dtype=given)


def test_token_dtype_as_numpy_names_it():
    assert Bridge(2, token_dtype=np.dtype("int8")).config["token_dtype"] == "int8"


def test_token_dtype_goes_with_every_kind_of_index(tmp_path):
    """Also with types that have a metric of their own, and through the other constructors."""
    assert Bridge(2, attention="poincare", token_dtype="int8").config["token_dtype"] == "int8"
    np.save(tmp_path / "docs.npy", np.ones((3, 2)))
    bridge = Bridge.from_file(tmp_path / "docs.npy", token_dtype="int8", index="exact")
    bridge.add(np.ones((1, 2)), tokens=[[[1.0, 0.5]]])
    assert bridge._state.store.view.tokens.data.tolist() == [[127, 64]]
    duckdb = pytest.importorskip("duckdb")
    con = duckdb.connect()
    con.execute("CREATE TABLE docs AS SELECT 1 AS id, [1.0, 0.0]::FLOAT[2] AS embedding")
    assert Bridge.from_duckdb(con, "docs", token_dtype="int8").config["token_dtype"] == "int8"


def test_token_dtype_of_an_adopted_index():
    hnswlib = pytest.importorskip("hnswlib")
    index = hnswlib.Index("l2", 2)
    index.init_index(10)
    index.add_items(np.eye(2))
    bridge = Bridge.from_hnswlib(index, token_dtype="int8")
    bridge.add([[1.0, 1.0]], ids=[7], tokens=[[[1.0, -2.0]]])
    assert bridge._state.store.view.tokens.data.tolist() == [[64, -127]]


# ---- every way on: to the bit


def changed(bridge):
    """Delete, replace and add, so that rows are dead, documents without tokens come between, and arrays grow."""
    given, scales = codes(10, seed=5)
    bridge.delete([id for id in range(0, N, 7) if id in bridge])
    bridge.add(vectors(10), ids=list(range(20, 30)), tokens=given, token_scale=scales)
    bridge.add(vectors(3), ids=[100, 101, 102])
    bridge.add(vectors(8), ids=list(range(200, 208)), tokens=documents(8, seed=6))
    return bridge


def saved_and_opened(bridge, folder, **options):
    bridge.save(folder)
    return Bridge.open(folder, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("verify", ["full", "lazy"])
def test_saved_and_opened(tmp_path, dtype, mmap, verify):
    bridge = changed(filled(dtype))
    again = saved_and_opened(bridge, tmp_path, mmap=mmap, verify=verify)
    assert again.config == bridge.config
    assert again.config["token_dtype"] == dtype
    assert stored(again) == stored(bridge)
    assert changed(again) is again  # the mapped arrays grow
    assert stored(again) == stored(changed(bridge))
    again.save(tmp_path)  # the folder whose files are mapped
    assert stored(Bridge.open(tmp_path)) == stored(bridge)
    again.close()


def test_files_of_int8(tmp_path):
    bridge = changed(filled())
    bridge.save(tmp_path)
    tokens = bridge._state.store.view.tokens
    for name, array in (("tokens", tokens.data), ("token_scales", tokens.scale), ("token_lengths", tokens.lengths)):
        loaded = np.load(find(tmp_path, f"{name}.npy"))
        assert (loaded.dtype, loaded.tobytes()) == (array.dtype, array.tobytes())
    manifest = json.loads(find(tmp_path, "manifest.json").read_text())
    assert manifest["token_dtype"] == "int8"
    assert {"tokens.npy", "token_scales.npy", "token_lengths.npy"} < set(manifest["files"])


def test_both_files_are_mapped(tmp_path):
    bridge = saved_and_opened(filled(), tmp_path)
    tokens = bridge._state.store.view.tokens
    for array in (tokens.data, tokens.scale):
        while not isinstance(array, np.memmap):
            array = array.base
    assert bridge.memory()["tokens"] == len(tokens.data) * (TOKEN_DIM + 4) + 2 * 8 * N


@pytest.mark.parametrize("dtype", DTYPES)
def test_pickled(dtype):
    bridge = changed(filled(dtype))
    again = pickle.loads(pickle.dumps(bridge))
    assert again.config == bridge.config
    assert stored(again) == stored(bridge)
    assert stored(changed(again)) == stored(changed(bridge))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_compacted(tmp_path, dtype, index):
    bridge = changed(filled(dtype, index=index))
    before = stored(bridge)
    size = bridge.memory()["tokens"]
    assert bridge.compact() > 0
    assert stored(bridge) == before
    assert bridge.memory()["tokens"] < size
    mapped = saved_and_opened(changed(bridge), tmp_path, verify="lazy")
    before = stored(mapped)
    assert mapped.compact() > 0
    assert stored(mapped) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_compacting_catches_up_with_writes(dtype, monkeypatch):
    bridge = changed(filled(dtype, index="hnsw"))
    late, scales = codes(4, seed=9)
    built = Bridge._built

    def meanwhile(self, *args):
        if self.ids()[-1] != 503:
            self.add(vectors(4), ids=[500, 21, 502, 503], tokens=late, token_scale=scales)
            self.delete(22)
        return built(self, *args)

    monkeypatch.setattr(Bridge, "_built", meanwhile)
    expected = pickle.loads(pickle.dumps(bridge))
    expected.add(vectors(4), ids=[500, 21, 502, 503], tokens=late, token_scale=scales)
    expected.delete(22)
    assert bridge.compact() > 0
    assert stored(bridge) == stored(expected)


def test_compacting_away_every_token(tmp_path):
    bridge = filled()
    bridge.add(vectors(1), ids=[900])
    bridge.delete(list(range(N)))
    bridge.compact()
    for each in (bridge, saved_and_opened(bridge, tmp_path)):
        assert each.get_tokens(900)[0].shape == (0, TOKEN_DIM)
        each.add(vectors(1), tokens=[np.ones((1, TOKEN_DIM))], ids=[901])
        np.testing.assert_allclose(each.get_tokens(901)[0], np.ones((1, TOKEN_DIM)), rtol=1e-6)
    bridge.clear()
    assert bridge.config["token_dtype"] == "int8"
    bridge.add(vectors(1), tokens=[np.ones((1, 2))])
    assert bridge._state.store.view.tokens.data.tolist() == [[127, 127]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_journalled(tmp_path, dtype):
    filled(dtype).save(tmp_path)
    with Bridge.open(tmp_path, journal=True) as bridge:
        changed(bridge)
        bridge.add(vectors(2), ids=[300, 301], tokens=[None, None])
        bridge.add(np.empty((0, DIM)), tokens=[])
        expected = stored(bridge)
    for mmap in (True, False):
        assert stored(Bridge.open(tmp_path, mmap=mmap)) == expected
    reader = Bridge.open(tmp_path, read_only=True)
    with Bridge.open(tmp_path, journal=True) as bridge:
        bridge.add(vectors(1), ids=[400], tokens=[np.full((2, TOKEN_DIM), 3, np.int8)], token_scale=0.1)
        assert reader.reload()
        assert stored(reader) == stored(bridge)


def test_a_journal_in_which_tokens_came_first(tmp_path):
    Bridge(DIM, index="exact", token_dtype="int8").save(tmp_path)
    given, scales = codes(5)
    with Bridge.open(tmp_path, journal=True) as bridge:
        bridge.add(vectors(1), tokens=[None])
        bridge.add(vectors(5), tokens=given, token_scale=scales)
        expected = stored(bridge)
    assert stored(Bridge.open(tmp_path)) == expected


def test_reload_takes_the_folders_token_dtype(tmp_path):
    filled("float16").save(tmp_path)
    reader = Bridge.open(tmp_path, read_only=True)
    filled("int8").save(tmp_path)
    assert reader.reload()
    assert reader.config["token_dtype"] == "int8"
    assert stored(reader) == stored(filled("int8"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_frozen_and_thawed(tmp_path, dtype):
    bridge = filled(dtype, index="hnsw")
    expected = stored(bridge)
    bridge.freeze()
    for each in (bridge, saved_and_opened(bridge, tmp_path), pickle.loads(pickle.dumps(bridge))):
        assert stored(each) == expected
        each.thaw()
        assert len(stored(changed(each))) > N - 10


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_write_that_fails_leaves_the_tokens(dtype, monkeypatch):
    bridge = changed(filled(dtype))
    expected = stored(bridge)

    def fails(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(stores.Store, "_learn_kind", fails)
    given, scales = codes(7, seed=8)
    with pytest.raises(KeyboardInterrupt):
        bridge.add(vectors(7), ids=list(range(30, 37)), tokens=given, token_scale=scales)
    monkeypatch.undo()
    assert stored(bridge) == expected
    bridge.add(vectors(7), ids=list(range(700, 707)), tokens=given, token_scale=scales)
    after = stored(bridge)
    assert {id: after[id] for id in expected} == expected
    assert after[703][2:] == (given[3].tobytes(), scales[3].tobytes()) or dtype == "float16"


def test_a_reader_keeps_its_view_while_tokens_are_added():
    bridge = filled()
    view = bridge._state.store.view
    before = [view.tokens_of(row).tobytes() for row in range(N)]
    for seed in range(6):
        bridge.add(vectors(), ids=list(range(1_000 * seed, 1_000 * seed + N)), tokens=documents(seed=seed))
    assert [view.tokens_of(row).tobytes() for row in range(N)] == before


# ---- older indexes


def find(folder, name):
    (path,) = Path(folder).rglob(name)
    return path


def rewrite(folder, change):
    """Change the manifest, its checksum kept right."""
    path = find(folder, "manifest.json")
    manifest = json.loads(path.read_text())
    change(manifest)
    raw = json.dumps(manifest).encode()
    path.write_bytes(raw)
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    (Path(folder) / "CURRENT").write_text(f"{path.parent.name} {digest}\n")


def test_an_index_that_does_not_say_its_token_dtype(tmp_path):
    bridge = filled("float16")
    bridge.save(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest.pop("token_dtype"))
    again = Bridge.open(tmp_path)
    assert again.config["token_dtype"] == "float16"
    assert stored(again) == stored(bridge)


def test_a_pickle_that_does_not_say_its_token_dtype():
    bridge = filled("float16")
    state = bridge._state.store.__getstate__()
    rows = RowSettings()
    del rows.__dict__["token_dtype"]
    made = stores.Store.__new__(stores.Store)
    made.__setstate__(state | {"settings": rows, "tokens": state["tokens"][:2]})
    assert made.settings.token_dtype == "float16"
    assert made.view.tokens.data.tobytes() == bridge._state.store.view.tokens.data.tobytes()


# ---- damage


TOKEN_FILES = ["tokens.npy", "token_scales.npy", "token_lengths.npy"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "index"
    changed(filled()).save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("name", TOKEN_FILES)
def test_a_flipped_byte_is_found_and_its_file_named(copy, name):
    path = find(copy, name)
    raw = path.read_bytes()
    for at in sorted({0, 1, 7, 70, len(raw) // 3, len(raw) // 2, len(raw) - 2, len(raw) - 1}):
        damaged = bytearray(raw)
        damaged[at] ^= 0x20
        path.write_bytes(damaged)
        for options in ({}, {"mmap": False, "verify": "lazy"}):
            with pytest.raises(ab.IndexCorruptError, match=rf"{name} is damaged: its checksum .*restore it from a"):
                Bridge.open(copy, **options)
    path.write_bytes(raw)
    assert len(Bridge.open(copy)) > N


@pytest.mark.parametrize("name", TOKEN_FILES)
@pytest.mark.parametrize("verify", ["full", "lazy"])
def test_a_file_of_another_length_is_named(copy, name, verify):
    path = find(copy, name)
    raw = path.read_bytes()
    for cut in (b"", raw[:1], raw[: len(raw) // 2], raw[:-1], raw + b"\n"):
        path.write_bytes(cut)
        with pytest.raises(ab.IndexCorruptError, match=f"{name} .*restore it from a backup"):
            Bridge.open(copy, verify=verify)
    path.unlink()
    with pytest.raises(ab.IndexCorruptError, match=f"{name} is missing"):
        Bridge.open(copy, verify=verify)


def forged(bridge, folder, about, **changes):
    """Save with other arrays (None: without the file), all checksums right."""
    files = bridge._state.store.files()
    for name, array in changes.items():
        files[f"{name}.npy"] = lambda path, array=array: np.save(path, array)
        if array is None:
            del files[f"{name}.npy"]
    about = bridge._about(bridge._state.store) | {"options": {"scale": 1.0}} | about
    write_snapshot(folder, "AttentionVectorBridge", about, files)


COUNT = sum(LENGTHS) * N // 5


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    ("dtype", "about", "changes", "message"),
    [
        ("int8", {}, {"token_scales": None}, r"it lists no token_scales\.npy"),
        ("int8", {}, {"token_lengths": None}, r"it lists no token_lengths\.npy"),
        (
            "int8",
            {},
            {"token_scales": np.ones(COUNT - 1, np.float32)},
            rf"scales\.npy must have shape \({COUNT},\), got",
        ),
        ("int8", {}, {"token_scales": np.ones((COUNT, 1), np.float32)}, r"token_scales\.npy is damaged: .* 1 axes"),
        ("int8", {}, {"token_scales": np.ones(COUNT)}, r"token_scales\.npy is damaged: it must hold float32"),
        ("int8", {}, {"tokens": np.ones((COUNT, 2), np.float16)}, r"tokens\.npy is damaged: it must hold int8"),
        ("int8", {}, {"tokens": np.ones((COUNT + 1, 2), np.int8)}, r"token_lengths\.npy does not fit tokens\.npy"),
        ("int8", {"token_dtype": "float16"}, {}, r"tokens\.npy is damaged: it must hold float16"),
        ("float16", {"token_dtype": "int8"}, {}, r"tokens\.npy is damaged: it must hold int8"),
        (
            "float16",
            {},
            {"token_scales": np.ones(COUNT, np.float32)},
            r"token_scales\.npy is damaged: its index keeps tokens as float16, without scales",
        ),
        ("int8", {"token_dtype": "int4"}, {}, "has settings that cannot be: token_dtype must be one of"),
        ("int8", {"token_dtype": None}, {}, "has settings that cannot be: token_dtype must be one of"),
        ("int8", {"token_dtype": ["int8"]}, {}, "has settings that cannot be: token_dtype must be one of"),
    ],
)
def test_forged_files(tmp_path, mmap, dtype, about, changes, message):
    bridge = filled(dtype)
    forged(bridge, tmp_path / "sound", {})
    assert stored(Bridge.open(tmp_path / "sound", mmap=mmap)) == stored(bridge)
    forged(bridge, tmp_path / "forged", about, **changes)
    with pytest.raises(ab.IndexCorruptError, match=message):
        Bridge.open(tmp_path / "forged", mmap=mmap)


LARGE = 500


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return the folder of an index whose token files have several blocks each."""
    folder = tmp_path_factory.mktemp("tokens") / "large"
    rng = np.random.default_rng(4)
    bridge = Bridge(DIM, index="exact", token_dtype="int8")
    bridge.add(vectors(LARGE), tokens=list(rng.standard_normal((LARGE, 100, 5))))
    bridge.delete(0)
    bridge.save(folder)
    return folder


@pytest.mark.parametrize("name", ["tokens.npy", "token_scales.npy"])
def test_lazily_each_block_is_verified_where_it_is_read(large, tmp_path, name):
    folder = Path(shutil.copytree(large, tmp_path / "copy"))
    path = find(folder, name)
    raw = bytearray(path.read_bytes())
    assert len(raw) > 3 * 65536
    raw[-1] ^= 1  # the last document's
    path.write_bytes(raw)
    bridge = Bridge.open(folder, verify="lazy")
    sound = Bridge.open(large)
    first = list(range(1, 20))
    assert [t.tobytes() for t in bridge.get_tokens(first)] == [t.tobytes() for t in sound.get_tokens(first)]
    bridge.search(id=5, rerank=ab.LateInteraction(), filter=first)
    reads = [
        lambda: bridge.get_tokens(LARGE - 1),
        lambda: bridge.search(id=LARGE - 1, rerank=ab.LateInteraction()),
        lambda: bridge.search(id=5, rerank=ab.LateInteraction(), filter=[LARGE - 1]),
        lambda: bridge.add(vectors(1), ids=[9_999]),
        lambda: bridge.compact(),
        lambda: bridge.save(tmp_path / "other"),
        lambda: pickle.dump(bridge, io.BytesIO()),
    ]
    for _ in range(2):  # what has failed once is not taken for verified
        for read in reads:
            with pytest.raises(ab.IndexCorruptError, match=rf"{name} is damaged: its checksum differs in bytes"):
                read()
    assert len(bridge) == LARGE - 1
    with pytest.raises(ab.IndexCorruptError, match=rf"{name} is damaged"):
        Bridge.open(folder)


def test_lazily_no_more_is_verified_than_is_read(large):
    bridge = Bridge.open(large, verify="lazy")
    guard = bridge._state.store.view.guard
    files = (guard.tokens[0], guard.token_scales[0])
    assert all(blocks.pending and not blocks._verified.all() for blocks in files)
    before = [blocks._verified.sum() for blocks in files]
    bridge.get_tokens(LARGE - 1)
    assert [blocks._verified.sum() for blocks in files] == [count + 1 for count in before]
    bridge._state.store.view.check_tokens()
    assert not any(blocks.pending for blocks in files)


def test_a_damaged_journal_of_codes(tmp_path):
    """A record whose checksums are right, and whose tokens cannot be."""
    from attnbridge.integrations.journal import Journal
    from attnbridge.integrations.operations import encode

    arrays = {
        "vectors": vectors(2),
        "token_lengths": np.array([1, 2]),
        "tokens": np.ones((3, 4), np.int8),
        "token_scales": np.ones(3, np.float32),
    }
    bad = {
        "needs token_scale": {"token_scales": None},
        "one for each of": {"token_scales": np.ones(2, np.float32)},
        "must be finite": {"token_scales": np.array([1, np.nan, 1], np.float32)},
        "must be >= 0": {"token_scales": np.array([1, 1, -1], np.float32)},
        "for int8 tokens only": {"tokens": np.ones((3, 4), np.float16)},
        "must have one array for each of 2 vectors": {"token_lengths": np.array([1, 1, 1])},
        "token_lengths": {"token_lengths": None},
    }
    for number, (message, changes) in enumerate([("", {}), *bad.items()]):
        folder = tmp_path / str(number)
        Bridge(DIM, index="exact", token_dtype="int8").save(folder)
        journal = Journal(folder, find(folder, "manifest.json").parent.name)
        given = {name: array for name, array in (arrays | changes).items() if array is not None}
        journal.append(encode({"operation": "add", "ids": [1, 2]}, given))
        journal.close()
        if not message:
            assert [t.tolist() for t in Bridge.open(folder).get_tokens([1, 2])] == [[[1] * 4], [[1] * 4] * 2]
            continue
        with pytest.raises(ab.IndexCorruptError, match=f"record 0 of .* cannot be replayed: .*{message}"):
            Bridge.open(folder)


# ---- searching


def test_more_like_this_has_the_documents_own_tokens():
    bridge = Bridge(2, index="exact", token_dtype="int8")
    eye = np.eye(5)
    bridge.add(np.ones((4, 2)), ids=list("abcd"), tokens=[eye[:1], eye[1:2], eye[:1], None])
    assert bridge.search(id="c", rerank=ab.LateInteraction(mix=1.0)).ids[0] == "a"
    own = bridge.search(id="c", rerank=ab.LateInteraction())
    assert own == bridge.search(id="c", rerank=ab.LateInteraction(), query_tokens=bridge.get_tokens("c")[0])


def maxsim(query, tokens):
    """Return MaxSim, the mean over the query's tokens, in float64; NaN without tokens."""
    if not len(tokens):
        return np.nan
    return (np.asarray(query, np.float64) @ tokens.astype(np.float64).T).max(axis=1).mean()


@pytest.mark.parametrize("index", ["exact", "hnsw"])
@pytest.mark.parametrize("how", ["late_interaction", "cross"])
def test_searches_read_codes_with_their_scales(index, how, tmp_path):
    """Needs kernels that know of scales."""
    rng = np.random.default_rng(11)
    given = [array / max(1e-9, np.abs(array).max(initial=0)) * 10.0 ** rng.integers(-1, 2) for array in documents()]
    options = {"attention": "cross"} if how == "cross" else {}
    rerank = [ab.LateInteraction(mix=1.0)] if how == "late_interaction" else []
    query_tokens = rng.standard_normal((4, TOKEN_DIM)).astype(np.float32)
    asked = {"k": N, "candidates": N, "query_tokens": query_tokens, "rerank": rerank}
    bridges = {dtype: filled(dtype, given, index=index, **options) for dtype in DTYPES}
    bridges["opened"] = saved_and_opened(bridges["int8"], tmp_path, verify="lazy")
    parts = {}
    for name, bridge in bridges.items():
        hits = bridge.search(vectors()[3], **asked)
        assert hits == bridge.search_batch(vectors()[3:4], **asked | {"query_tokens": [query_tokens]})[0]
        parts[name] = dict(sorted(zip(hits.ids, hits.parts[how].tolist(), strict=True)))
        for id, part in parts[name].items():
            np.testing.assert_allclose(part, maxsim(query_tokens, bridge.get_tokens(id)[0]), rtol=1e-5, atol=1e-5)
        assert len(parts[name]) == (N if how == "late_interaction" else sum(1 for array in given if len(array)))
    np.testing.assert_array_equal(list(parts["opened"].items()), list(parts["int8"].items()))  # NaN are equal
    for id, part in parts["int8"].items():
        if len(given[id]):
            # each product is off by half a step in each dimension at most, and so is the largest of them
            step = np.abs(given[id]).max() / 127
            bound = 0.51 * step * np.abs(query_tokens).sum(axis=1).max() + 1e-3 * np.abs(parts["float16"][id])
            assert abs(part - parts["float16"][id]) <= bound


# ---- small things


def test_token_arrays():
    made = TokenArrays([np.ones((2, 3), np.int8), np.ones((0, 3), np.int8)], [np.ones(2, np.float32), np.ones(0)])
    assert (made.lengths.tolist(), made.dim) == ([2, 0], 3)
    assert (made.take([1]).lengths.tolist(), made.take([1]).dim) == ([0], None)
    assert TokenArrays([]).take([]) == TokenArrays([])


def test_info_tells_the_token_dtype(tmp_path):
    changed(filled()).save(tmp_path)
    about = json.loads(CliRunner().invoke(cli, ["info", str(tmp_path), "--json"]).stdout)
    assert about["config"]["token_dtype"] == "int8"
    assert about["files"]["token_scales.npy"] > 0
    shown = CliRunner().invoke(cli, ["info", str(tmp_path)]).stdout
    assert "token_dtype" in shown


def test_no_warnings_for_zeros():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bridge = filled("int8", [np.zeros((2, TOKEN_DIM))] * N)
    assert not np.concatenate(bridge.get_tokens(range(N))).any()
