"""Every kernel against its float64 truth, and the promises that the floors above rely on.

Also runs with NUMBA_DISABLE_JIT=1, on small shapes.
"""

import copy
import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import KERNELS, KINDS, Case, as_float64, stored, variants

import attnbridge as ab
from attnbridge import kernels
from attnbridge.integrations import candidates
from attnbridge.integrations.candidates import exact_search, exact_search_each
from attnbridge.kernels.dot import FLOAT32_LIMIT, dot_float64
from attnbridge.kernels.rerank import BLOCK_BYTES
from attnbridge.kernels.softmax import exp_nonpositive
from attnbridge.kernels.topk import INSERTION_LIMIT
from attnbridge.metric import Keys, Metric

SLOW = bool(numba.config.DISABLE_JIT)  # plain Python: the same promises on smaller shapes
DIMS = (2, 3, 7) if SLOW else (1, 2, 3, 5, 7, 11, 13, 17, 31, 67, 384)
COUNTS = (1, 2, 3, 4, 5, 7) if SLOW else (1, 2, 3, 4, 5, 7, 1000)
KS = (1, 3, 10, INSERTION_LIMIT, INSERTION_LIMIT + 1, 101)
EXAMPLES = 20 if SLOW else 200


def shapes(case, ranks):
    """Yield a case in many shapes; k goes round so that small and large k meet small and large n."""
    turn = 0
    for n in COUNTS:
        for d in DIMS:
            for k in KS[turn % 3 :: 3] if ranks else (case.k,):
                yield case._replace(n=n, d=d, k=k, b=1 + turn % 5)
            turn += 1


def compare(name, case, got, want):
    """Hold the outputs of kernel and reference together; inputs must come out as they went in."""
    assert len(got) == len(want)
    tolerance = 5e-6 if KERNELS[name].float32 and case.kind != "float64" else 1e-12
    for mine, truth in zip(got, want, strict=True):
        if not isinstance(truth, np.ndarray) or truth.dtype.kind in "iu":
            np.testing.assert_array_equal(mine, truth, err_msg=f"{name} {case}")
        else:
            np.testing.assert_allclose(mine, truth, rtol=tolerance, atol=tolerance, err_msg=f"{name} {case}")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{case.kind}-{case.terms}-{'ids' if case.gathered else 'all'}")
        for name, row in KERNELS.items()
        for case in variants(row)
    ],
)
def test_kernel_equals_its_reference(name, case):
    row = KERNELS[name]
    for shape in shapes(case, row.ranks):
        args = row.inputs(np.random.default_rng(shape.n * 1000 + shape.d), shape)
        truth = copy.deepcopy(args)
        got, want = row.kernel(*args), row.reference(*truth)
        compare(name, shape, args, truth)
        if want is not None:
            np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=f"{name} {shape}")


@pytest.fixture(autouse=True)
def hashes_wrap():
    """Without the compiler numpy warns of the overflow that a hash is made of."""
    with np.errstate(over="ignore"):
        yield


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_reads_its_inputs_only(name):
    """Bit for bit, which the comparison with the reference would not see in a float input."""
    row = KERNELS[name]
    for case in variants(row):
        args = row.inputs(np.random.default_rng(5), case._replace(n=7, d=5))
        before = copy.deepcopy(args)
        row.kernel(*args)
        outputs = {"rerank": 3, "rerank_poincare": 3, "exact_top_k": 3, "exact_top_k_each": 3, "logsumexp": 0, "dot": 2}
        outputs |= {
            "to_int8": 2,
            "drop": 7,
            "mmr": 4,
            "expand": 5,
            "attend_pairs": 3,
            "linear_attention": 2,
            "attend_few": 3,
            "attend_many": 3,
            "segment_max": 2,
            "group_edges": 3,
            "gat_forward": 2,
            "gatv2_forward": 2,
        }
        outputs = outputs.get(name, 1)
        for got, want in zip(args[: len(args) - outputs], before, strict=False):
            assert got is None if want is None else np.asarray(got).tobytes() == np.asarray(want).tobytes()


# ---- nothing, one, zeros


def test_kernels_on_nothing():
    rows, query, no_ids = np.ones((3, 2), np.float32), np.ones(2, np.float32), np.empty(0, np.int64)
    kernels.dot(query, 0.0, rows, None, None, no_ids, 1.0, np.empty(0))
    kernels.dot(query, 0.0, rows[:0], None, None, None, 1.0, np.empty(0))
    assert kernels.softmax(np.empty(0), np.empty(0)) == -np.inf
    assert kernels.logsumexp(np.empty(0)) == -np.inf
    positions = np.full(4, -7)
    assert kernels.top_k(np.empty(0), None, positions) == 0
    assert kernels.top_k(np.ones(3), None, np.empty(0, np.int64)) == 0
    assert (positions == -7).all()
    out = np.ones(2)
    kernels.weighted_sum(np.empty(0), rows, None, no_ids, out)
    assert (out == 0.0).all()
    kernels.row_squares(rows[:0], np.empty(0))


@pytest.mark.parametrize("ids", [None, np.empty(0, np.int64)], ids=["no-rows", "no-ids"])
def test_exact_top_k_of_nothing_is_padding(ids):
    rows = np.ones((0 if ids is None else 3, 2), np.float32)
    positions, logits = np.full((2, 3), -7), np.ones((2, 3))
    kernels.exact_top_k(np.ones((2, 2), np.float32), np.zeros(2), rows, None, None, ids, 1.0, positions, logits)
    assert (positions == -1).all()
    assert (logits == -np.inf).all()


def test_rerank_pads_what_is_short():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], np.float32)
    positions, logits, weights = np.full((2, 4), -7), np.ones((2, 4)), np.ones((2, 4))
    ids = np.array([[1, 2, 0], [0, 0, 0]])
    queries, counts = np.array([[1.0, 0.0]] * 2, np.float32), np.array([3, 0])
    kernels.rerank(queries, np.zeros(2), rows, None, None, ids, counts, 1.0, positions, logits, weights)
    assert positions.tolist() == [[1, 2, 0, -1], [-1, -1, -1, -1]]
    assert logits.tolist() == [[2.0, 1.0, 0.0, -np.inf], [-np.inf] * 4]
    e = math.e
    np.testing.assert_allclose(weights[0], np.array([e * e, e, 1.0, 0.0]) / (e * e + e + 1.0), rtol=1e-12)
    assert (weights[1] == 0.0).all()


def test_zero_query_gives_equal_weights():
    weights, positions, logits = np.empty((1, 5)), np.empty((1, 5), np.int64), np.empty((1, 5))
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    ids, count = np.array([[4, 2, 0, 1, 3]]), np.array([5])
    query = np.zeros((1, 3), np.float32)
    kernels.rerank(query, np.zeros(1), rows, None, None, ids, count, 1.0, positions, logits, weights)
    assert ids[0, positions[0]].tolist() == [0, 1, 2, 3, 4]
    assert (weights == 0.2).all()


# ---- numbers


def test_exp_nonpositive():
    x = np.concatenate([-np.linspace(0.0, 700.0, 2_001 if SLOW else 200_001), -np.geomspace(1e-300, 1.0, 301)])
    got = np.array([exp_nonpositive(value) for value in x])
    np.testing.assert_allclose(got, np.exp(x), rtol=1e-12)
    assert exp_nonpositive(0.0) == 1.0
    assert exp_nonpositive(-709.0) == 0.0
    assert exp_nonpositive(-1e308) == 0.0
    assert exp_nonpositive(-np.inf) == 0.0


def test_exp_in_the_loops_of_softmax():
    """The same accuracy where the compiler has vectorised it and may have reordered its terms."""
    x = np.concatenate([[0.0], -np.linspace(0.0, 690.0, 501 if SLOW else 50_001)])
    out = np.empty(len(x))
    total = kernels.softmax(x, out)
    np.testing.assert_allclose(out / out[0], np.exp(x), rtol=1e-12)
    assert total == pytest.approx(math.log(math.fsum(np.exp(x))), rel=1e-13)


@pytest.mark.parametrize("logits", [[-np.inf], [-np.inf] * 5], ids=["one", "five"])
def test_softmax_of_all_masked_is_zero(logits):
    out = np.full(len(logits), np.nan)
    assert kernels.softmax(np.array(logits), out) == -np.inf
    assert out.tolist() == [0.0] * len(logits)
    assert kernels.logsumexp(np.array(logits)) == -np.inf


def test_masked_logits_have_exactly_no_weight():
    logits = np.array([-np.inf, 1.0, -np.inf, 1.0, -np.inf])
    out = np.empty(5)
    assert kernels.softmax(logits, out) == pytest.approx(1.0 + math.log(2.0), rel=1e-15)
    assert out.tolist() == [0.0, 0.5, 0.0, 0.5, 0.0]


@pytest.mark.parametrize("n", range(2, 40))
def test_equal_logits_have_equal_weights_to_the_bit(n):
    """In a vectorised loop, in its tail, in another array or in place."""
    logits = np.full(n, -1.2345)
    logits[0] = 2.0
    apart, in_place = np.empty(n), logits.copy()
    kernels.softmax(logits, apart)
    kernels.softmax(in_place, in_place)
    assert len(set(apart[1:].tolist())) == 1
    assert apart.tolist() == in_place.tolist()


def test_softmax_in_place():
    logits = np.array([0.0, math.log(3.0)])
    kernels.softmax(logits, logits)
    np.testing.assert_allclose(logits, [0.25, 0.75], rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1e3, -1e3, 1e15, 1e308])
def test_softmax_at_any_height(shift):
    logits = np.array([shift, shift, -np.inf, shift])
    out = np.empty(4)
    total = kernels.softmax(logits, out)
    np.testing.assert_allclose(out, [1 / 3, 1 / 3, 0.0, 1 / 3], rtol=1e-12)
    assert total == pytest.approx(shift + math.log(3.0), rel=1e-12)
    assert kernels.logsumexp(logits) == total


@given(
    hnp.arrays(
        np.float64,
        st.integers(1, 40),
        elements=st.floats(-1e6, 1e6) | st.just(-np.inf) | st.just(0.0),
        fill=st.nothing(),
    )
)
@settings(deadline=None, max_examples=EXAMPLES)
def test_softmax_sums_to_one_and_agrees_with_logsumexp(logits):
    out = np.empty(len(logits))
    total = kernels.softmax(logits, out)
    assert total == kernels.logsumexp(logits)
    if total == -np.inf:
        assert (out == 0.0).all()
    else:
        assert out.sum() == pytest.approx(1.0, rel=1e-12)
        assert (out[logits == -np.inf] == 0.0).all()
        assert (np.diff(out[np.argsort(logits, kind="stable")]) >= 0.0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("largest", [5.0, 15.0, FLOAT32_LIMIT, 50.0, 1000.0])
def test_weights_are_within_1e_5_of_float64(largest, kind):
    """Weights below 1e-30 of the largest are let off: there the logit's own rounding is all that one could see."""
    for seed, d in enumerate((7, 31) if SLOW else (2, 7, 31, 128, 384, 1536)):
        rng = np.random.default_rng(seed)
        query = rng.standard_normal(d).astype(np.float64 if kind == "float64" else np.float32)
        values = rng.standard_normal((20 if SLOW else 1000, d))
        rows = stored(values * 30.0 if kind == "int8" else values, kind)
        products = as_float64(rows) @ query.astype(np.float64)
        scale = largest / products.max()
        logits = np.empty(len(rows))
        kernels.dot(query, 0.0, rows, None, None, None, scale, logits)
        weights = np.empty(len(rows))
        kernels.softmax(logits, weights)
        truth = np.exp((products - products.max()) * scale)
        truth /= truth.sum()
        seen = truth > 1e-30
        np.testing.assert_allclose(weights[seen], truth[seen], rtol=1e-5, err_msg=f"d={d}")


def test_products_beyond_float32_are_finite_and_correct():
    """Float32's largest number, halved: products near 1e76, sums that overflow, and sums that cancel to NaN."""
    big = np.float32(np.finfo(np.float32).max / 2)
    query = np.array([big, -big, big], np.float32)
    rows = np.array([[big, big, 0], [big, -big, big], [-big, big, -big], [big, big, big], [0, 0, 0]], np.float32)
    square = float(big) ** 2
    out = np.empty(5)
    with np.errstate(over="ignore", invalid="ignore"):  # as compiled code, which does not warn
        kernels.dot(query, 0.0, rows, None, None, None, 3**-0.5, out)
    np.testing.assert_allclose(out, np.array([0.0, 3.0, -3.0, 1.0, 0.0]) * square * 3**-0.5, rtol=1e-15)
    weights = np.empty(5)
    kernels.softmax(out, weights)
    assert weights.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    squares = np.empty(5)
    kernels.row_squares(rows, squares)
    np.testing.assert_allclose(squares, np.array([2.0, 3.0, 3.0, 3.0, 0.0]) * square, rtol=1e-15)
    mean = np.empty(3)
    kernels.weighted_sum(np.full(5, 0.2), rows, None, None, mean)
    np.testing.assert_allclose(mean, np.array([0.4, 0.4, 0.2]) * float(big), rtol=1e-15)


def test_a_product_beyond_the_limit_is_a_float64_one():
    rng = np.random.default_rng(1)
    query = rng.standard_normal(31).astype(np.float32)
    rows = rng.standard_normal((9, 31)).astype(np.float32)
    out = np.empty(9)
    kernels.dot(query, 0.0, rows, None, None, None, 1e4, out)
    beyond = np.abs(out) > FLOAT32_LIMIT
    assert beyond.sum() > 5
    np.testing.assert_allclose(out[beyond], 1e4 * (rows.astype(float) @ query.astype(float))[beyond], rtol=1e-13)
    assert out[beyond].tolist() == [dot_float64(query, rows, row) * 1e4 for row in np.flatnonzero(beyond)]


def test_every_half_is_read_exactly():
    """All 65,536 bit patterns, subnormals, infinities and NaN among them."""
    bits = np.arange(0, 65_536, 257 if SLOW else 1, dtype=np.uint16)
    out = np.empty((len(bits), 1))
    for value, total in zip(bits.reshape(-1, 1, 1), out, strict=True):
        kernels.weighted_sum(np.ones(1), value, None, None, total)
    np.testing.assert_array_equal(out[:, 0], bits.view(np.float16).astype(np.float64))


# ---- order


@pytest.mark.parametrize("k", [1, 2, INSERTION_LIMIT - 1, INSERTION_LIMIT, INSERTION_LIMIT + 1, 64, 200])
@pytest.mark.parametrize("given_ids", [False, True], ids=["positions", "ids"])
def test_top_k_breaks_ties_by_the_smaller_id(k, given_ids):
    rng = np.random.default_rng(k)
    for n in (1, 5, 33, 34, 150, 199, 200, 201):
        for levels in (1, 2, 7, 1000):
            scores = rng.integers(0, levels, n).astype(np.float64)
            ids = rng.permutation(10 * n)[:n] if given_ids else None
            order = np.lexsort((np.arange(n) if ids is None else ids, -scores))[:k]
            positions = np.full(k, -7)
            found = kernels.top_k(scores, ids, positions)
            assert found == min(n, k)
            assert positions[:found].tolist() == order.tolist()
            assert (positions[found:] == -7).all()


@given(
    hnp.arrays(
        np.float64, st.integers(0, 80), elements=st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1e-300, 2.0, 1e308])
    ),
    st.integers(1, 90),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=EXAMPLES)
def test_top_k_equals_a_sort(scores, k, random):
    ids = np.array(random.sample(range(1000), len(scores)), np.int64)
    positions = np.empty(k, np.int64)
    found = kernels.top_k(scores, ids, positions)
    assert positions[:found].tolist() == np.lexsort((ids, -scores))[:k].tolist()


# ---- the same bits everywhere


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_has_the_same_logit_wherever_it_stands(kind):
    """Four rows go through one pass: a row's place among them, and the code path, must not show in its bits."""
    n = 9
    for d in (2, 3, 7) if SLOW else (*range(1, 70), 96, 100, 127, 128, 257, 384):
        rng = np.random.default_rng(d)
        query = rng.standard_normal(d).astype(np.float64 if kind == "float64" else np.float32)
        rows = stored(rng.standard_normal((n, d)) * (30.0 if kind == "int8" else 1.0), kind)
        terms = (
            (2.0 ** rng.integers(-2, 2, n) + 0.1, rng.standard_normal(n))
            if kind in ("float16", "int8")
            else (None,) * 2
        )
        scale, bias = 0.37, 0.11
        whole = np.empty(n)
        kernels.dot(query, bias, rows, *terms, None, scale, whole)
        for ids in (
            np.arange(n),
            np.arange(n)[::-1].copy(),
            rng.integers(0, n, 14),
            np.array([3]),
            np.array([5, 5, 2]),
        ):
            gathered = np.empty(len(ids))
            kernels.dot(query, bias, rows, *terms, ids, scale, gathered)
            assert gathered.tolist() == whole[ids].tolist(), f"gather, d={d}"
        for i in range(n):
            alone = np.empty(1)
            parts = [None if term is None else term[i : i + 1] for term in terms]
            kernels.dot(query, bias, rows[i : i + 1], *parts, None, scale, alone)
            assert alone[0] == whole[i], f"alone, d={d}"
        shuffled = rng.permutation(n)
        queries, biases = np.stack([query, -query, query]), np.array([bias, 0.0, bias])
        for ids in (None, np.arange(n), np.array([0, 2, 3, 7, 8])):
            positions, logits = np.empty((3, n), np.int64), np.empty((3, n))
            kernels.exact_top_k(queries, biases, rows, *terms, ids, scale, positions, logits)
            found = n if ids is None else len(ids)
            near = positions[0, :found] if ids is None else ids[positions[0, :found]]
            assert logits[0, :found].tolist() == whole[near].tolist(), f"exact_top_k, d={d}"
            assert positions[2].tolist() == positions[0].tolist()
        positions, logits, weights = np.empty((3, n), np.int64), np.empty((3, n)), np.empty((3, n))
        ids, counts = np.stack([shuffled] * 3), np.array([n, n, n - 2])
        kernels.rerank(queries, biases, rows, *terms, ids, counts, scale, positions, logits, weights)
        assert logits[0].tolist() == whole[shuffled[positions[0]]].tolist(), f"rerank, d={d}"
        assert logits[2, : n - 2].tolist() == whole[shuffled[positions[2, : n - 2]]].tolist(), f"short rerank, d={d}"


@given(st.integers(1, 12 if SLOW else 300), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=EXAMPLES)
def test_blocks_of_the_exact_scan_do_not_show(n, d, seed):
    """Rows beyond one block of the scan start a new one, at another place among the four of a pass."""
    rng = np.random.default_rng(seed)
    query, rows = rng.standard_normal(d).astype(np.float32), rng.standard_normal((n, d)).astype(np.float32)
    out, positions, logits = np.empty(n), np.empty((1, n), np.int64), np.empty((1, n))
    kernels.dot(query, 0.0, rows, None, None, None, 1.0, out)
    kernels.exact_top_k(query[None], np.zeros(1), rows, None, None, None, 1.0, positions, logits)
    assert positions[0].tolist() == np.lexsort((np.arange(n), -out)).tolist()
    assert logits[0].tolist() == out[positions[0]].tolist()


def alone(queries, bias, rows, terms, lists, k):
    """Return the positions and logits of one `exact_top_k` for each query."""
    positions, logits = np.full((len(queries), k), -7), np.full((len(queries), k), np.nan)
    for b, own in enumerate(lists):
        one = slice(b, b + 1)
        kernels.exact_top_k(queries[one], bias[one], rows, *terms, own, 0.37, positions[one], logits[one])
    return positions, logits


def each(queries, bias, rows, terms, lists, k):
    """Return the positions and logits of one `exact_top_k_each`."""
    positions, logits = np.full((len(queries), k), -7), np.full((len(queries), k), np.nan)
    starts = np.concatenate([[0], np.cumsum([len(own) for own in lists])])
    ids = np.concatenate(lists)
    kernels.exact_top_k_each(queries, bias, rows, *terms, ids, starts, 0.37, positions, logits)
    return positions, logits


@pytest.mark.parametrize("d", [1, 7] if SLOW else [1, 7, 16, 384, 1536])
def test_a_list_for_each_query_gives_the_bits_of_one_query_alone(d):
    """Over many blocks of rows, dense and sparse lists, ties (equal rows) and logits of -inf."""
    rng = np.random.default_rng(d)
    n = 40 if SLOW else max(3_000, 3 * BLOCK_BYTES // (4 * d)) if d > 1 else 20_000
    values = rng.standard_normal((n, d)).astype(np.float32)
    values[n // 2 :] = values[: n - n // 2]
    bias = rng.standard_normal(n)
    bias[::7] = -np.inf
    bias[n // 2 :] = bias[: n - n // 2]
    shares = (1.0, 0.5, 0.1, 0.01, 0.0, 1.0, 0.001)
    lists = [np.flatnonzero(rng.random(n) < share) for share in shares]
    lists += [np.array([n - 1]), np.array([0]), np.arange(0, n, 7), np.array([0, n // 2, n - 1])]
    queries, query_bias = rng.standard_normal((len(lists), d)).astype(np.float32), rng.standard_normal(len(lists))
    for terms in ((None, None), (None, bias)):
        for some in (lists, lists[2:5], lists[6:]):  # another mean length: other blocks
            for k in (1, 10, INSERTION_LIMIT + 1):
                got = each(queries[: len(some)], query_bias[: len(some)], values, terms, some, k)
                want = alone(queries[: len(some)], query_bias[: len(some)], values, terms, some, k)
                for mine, truth in zip(got, want, strict=True):
                    assert mine.tobytes() == truth.tobytes()
    assert (want[0][-1] >= 0).sum() == 3


@pytest.mark.parametrize("n", [0, 3])
def test_exact_top_k_each_of_nothing_is_padding(n):
    empty = np.empty(0, np.int64)
    queries, rows = np.ones((2, 2), np.float32), np.ones((n, 2), np.float32)
    positions, logits = each(queries, np.zeros(2), rows, (None, None), [empty, empty], 3)
    assert (positions == -1).all()
    assert (logits == -np.inf).all()


@given(st.integers(1, 12 if SLOW else 60), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=EXAMPLES)
def test_any_lists_rank_as_a_sort_does(n, b, k, seed):
    """Whole numbers: many ties, which go by the smaller id."""
    rng = np.random.default_rng(seed)
    rows, queries = rng.integers(-1, 2, (n, 2)).astype(np.float32), rng.integers(-1, 2, (b, 2)).astype(np.float32)
    lists = [np.flatnonzero(rng.random(n) < rng.random()) for _ in range(b)]
    positions, _ = each(queries, np.zeros(b), rows, (None, None), lists, k)
    for query, own, found in zip(queries, lists, positions, strict=True):
        order = np.lexsort((own, -(rows[own] @ query)))[:k]
        assert found.tolist() == [*order.tolist(), *[-1] * (k - len(order))]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_exact_search_each_is_exact_search_for_each(metric, monkeypatch):
    """In chunks of memory that hold no list, one, a few, or all."""
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((60, 5)).astype(np.float32)
    kind = Metric(metric)
    keys = Keys(rows, *kind.row_terms(rows, "rows"))
    queries, bias = kind.prepare(np.concatenate([rows[:4], rng.standard_normal((7, 5)).astype(np.float32)]), "queries")
    shares = (1.0, 0.5, 0.0, 0.0, 0.1, 1.0, 0.05, 0.3, 0.0, 1.0, 0.0)
    lists = [np.flatnonzero(rng.random(60) < share) for share in shares]
    want = [exact_search(keys, kind, queries[i : i + 1], bias[i : i + 1], 12, own) for i, own in enumerate(lists)]
    for most in (8, 1_000, 16 * 61, 2_400, 32 << 20):
        monkeypatch.setattr(candidates, "_SCAN_BYTES", most)
        labels, distances = exact_search_each(keys, kind, queries, bias, 12, lists)
        assert labels.tolist() == [found.tolist() for (found,), _ in want]
        assert distances.tobytes() == np.concatenate([far for _, far in want]).tobytes()
        for own, found in zip(lists, labels, strict=True):
            assert set(found.tolist()) <= {*own.tolist(), -1}
            assert (found >= 0).sum() == min(12, len(own))
    labels, distances = exact_search_each(keys, kind, queries[:0], bias[:0], 12, [])
    assert labels.shape == distances.shape == (0, 12)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_search_batch_equals_search_to_the_bit_on_any_number_of_threads(metric, index):
    rng = np.random.default_rng(3)
    bridge = ab.AttentionVectorBridge(dim=11, metric=metric, index=index, threads=2)
    bridge.add(rng.standard_normal((20 if SLOW else 300, 11)))
    queries = rng.standard_normal((3 if SLOW else 37, 11))
    k = 10 if SLOW else 40
    alone = [bridge.search(query, k=k) for query in queries]
    for threads in (1, 2, 3):
        for got, want in zip(bridge.search_batch(queries, k=k, threads=threads), alone, strict=True):
            assert got.ids == want.ids
            assert got.scores.tolist() == want.scores.tolist()
            assert got.weights.tolist() == want.weights.tolist()
            assert got.distances.tolist() == want.distances.tolist()


# ---- maxsim


def test_maxsim_by_hand():
    """Document 0: the x token's best match is 3, the y token's is 5; weighted 3 + 2 * 5. Document 1 is empty."""
    query_tokens = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    tokens = np.array([[3.0, -1.0], [0.0, 5.0], [-1.0, -2.0]], np.float32)
    out = np.empty(3)
    starts, lengths = np.array([0, 2, 2]), np.array([2, 0, 1])
    kernels.maxsim(query_tokens, np.array([1.0, 2.0]), tokens, None, starts, lengths, 0.0, out)
    assert out[0] == 13.0
    assert np.isnan(out[1])
    assert out[2] == -5.0


def test_maxsim_does_not_depend_on_the_order_of_a_documents_tokens():
    rng = np.random.default_rng(0)
    query_tokens, tokens = (
        rng.standard_normal((5, 7)).astype(np.float32),
        rng.standard_normal((6, 7)).astype(np.float32),
    )
    sums = np.empty((2, 1))
    for out, rows in zip(sums, (tokens, tokens[::-1].copy()), strict=True):
        kernels.maxsim(query_tokens, np.ones(5), rows, None, np.array([0]), np.array([6]), 0.0, out)
    assert sums[0, 0] == sums[1, 0]


def test_case_names_are_distinct():
    names = [(name, str(case)) for name, row in KERNELS.items() for case in variants(row)]
    assert len(set(names)) == len(names)
    assert str(Case()) == "1000-384-float32-plain-False-10-3"
