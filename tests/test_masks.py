"""Sparse masks: patterns held against their definition pair by pair, forms against each other, every refusal."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from memory import peak, traced

import attnbridge as ab
from attnbridge.masks import DenseMask, as_attention_mask

SparseMask = ab.SparseMask
SHAPES = [(0, 0), (0, 3), (3, 0), (1, 1), (1, 7), (7, 1), (5, 11), (11, 5), (13, 13), (23, 23)]
boolean = hnp.arrays(np.bool_, st.tuples(st.integers(0, 12), st.integers(0, 12)))


def pairwise(shape, attends, causal=False):
    """Return the dense mask of a rule (i, j) -> bool."""
    rule = lambda i, j: attends(i, j) and not (causal and j > i)  # noqa: E731
    return np.array([[rule(i, j) for j in range(shape[1])] for i in range(shape[0])], bool).reshape(shape)


def require_canonical(mask):
    """Hold a mask to its promises: rows ascending and unique, dtypes, read-only."""
    assert mask.indptr.dtype == np.int64
    assert mask.indices.dtype == np.int32
    assert mask.indptr.shape == (mask.shape[0] + 1,)
    assert mask.indptr[-1] == mask.nnz
    assert not mask.indptr.flags.writeable
    assert not mask.indices.flags.writeable
    for i in range(mask.shape[0]):
        row = mask.indices[mask.indptr[i] : mask.indptr[i + 1]].tolist()
        assert row == sorted(set(row))


# ---- patterns


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 30])
def test_patterns_by_their_definition(shape, causal, size):
    """Longformer's window and global tokens, the Sparse Transformer's two patterns."""
    cases = [
        (SparseMask.window(shape, size, causal=causal), lambda i, j: abs(i - j) <= size),
        (
            SparseMask.window(shape, size, num_global=2, causal=causal),
            lambda i, j: abs(i - j) <= size or i < 2 or j < 2,
        ),
        (SparseMask.strided(shape, size, causal=causal), lambda i, j: abs(i - j) <= size or (i - j) % size == 0),
        (
            SparseMask.fixed(shape, size, causal=causal),
            lambda i, j: i // size == j // size or j % size == size - 1,
        ),
    ]
    if causal:
        cases.append((SparseMask.causal(shape), lambda i, j: True))
    else:
        cases.append((SparseMask.block(shape, size), lambda i, j: i // size == j // size))
    for mask, attends in cases:
        require_canonical(mask)
        assert mask.shape == shape
        np.testing.assert_array_equal(mask.to_dense(), pairwise(shape, attends, causal))


@given(st.integers(0, 14), st.integers(0, 14), st.integers(1, 6), st.data())
@settings(deadline=None)
def test_blocks_are_squares_of_pairs(queries, keys, size, data):
    coarse = data.draw(hnp.arrays(np.bool_, (-(-queries // size), -(-keys // size))))
    mask = SparseMask.block((queries, keys), size, coarse)
    require_canonical(mask)
    assert mask.to_dense().tolist() == np.kron(coarse, np.ones((size, size), bool))[:queries, :keys].tolist()
    assert SparseMask.block((queries, keys), size, np.argwhere(coarse)) == mask
    assert mask.to_blocks(size).tolist() == coarse.tolist()
    assert SparseMask.block((queries, keys), size, mask.to_blocks(size)) == mask


def test_a_window_by_hand():
    mask = SparseMask.window((5, 5), 1)
    assert mask.to_dense().astype(int).tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1],
    ]
    assert mask.nnz == 13
    assert mask.max_attended == 3
    assert mask.sparsity_ratio == pytest.approx(12 / 25)
    assert repr(mask) == "SparseMask(shape=(5, 5), nnz=13)"


def test_counts_are_closed_forms():
    """Of n queries with w keys on either side, n (2w + 1) - w (w + 1) pairs: O(n w), whatever n squared is."""
    n, w, s = 16_384, 256, 128
    mask = SparseMask.window((n, n), w)
    assert mask.nnz == n * (2 * w + 1) - w * (w + 1)
    assert mask.max_attended == 2 * w + 1
    assert SparseMask.block((n, n), s).nnz == n * s
    assert SparseMask.strided((n, n), s).max_attended == 2 * s + 1 + n // s - 3
    assert SparseMask.causal((1_000, 1_000)).nnz == 500_500


def test_building_takes_memory_of_the_pairs():
    n, w = 16_384, 64
    with traced():
        mask = SparseMask.window((n, n), w, num_global=1)
        assert peak() < min(16 * mask.nnz + 64 * 8 * n, n * n / 4)


# ---- forms


@given(boolean)
@settings(deadline=None)
def test_every_form_gives_the_same_mask(dense):
    mask = SparseMask.from_dense(dense)
    require_canonical(mask)
    np.testing.assert_array_equal(mask.to_dense(), dense)
    rows, cols = mask.to_pairs()
    np.testing.assert_array_equal(np.stack([rows, cols], axis=1), np.argwhere(dense))
    csr = mask.to_csr()
    np.testing.assert_array_equal(csr.toarray(), dense)
    assert csr.dtype == np.bool_
    forms = [
        SparseMask.from_pairs(rows, cols, dense.shape),
        SparseMask.from_csr(mask.indptr, mask.indices, dense.shape),
        SparseMask.from_scipy(csr),
        SparseMask.from_scipy(scipy.sparse.coo_array(dense.astype(float))),
        SparseMask.block(dense.shape, 1, dense),
        SparseMask.block(dense.shape, 1, mask.to_blocks(1)),
        pickle.loads(pickle.dumps(mask)),
    ]
    for form in forms:
        require_canonical(form)
        assert form == mask
    assert mask.nnz == dense.sum()
    assert mask.max_attended == dense.sum(axis=1).max(initial=0)
    assert mask.sparsity_ratio == pytest.approx(1.0 - dense.mean() if dense.size else 0.0)


@given(boolean, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_pairs_in_any_order_and_twice(dense, random):
    pairs = [tuple(pair) for pair in np.argwhere(dense).tolist()] * 2
    random.shuffle(pairs)
    rows, cols = zip(*pairs, strict=True) if pairs else ((), ())
    mask = SparseMask.from_pairs(rows, cols, dense.shape)
    require_canonical(mask)
    np.testing.assert_array_equal(mask.to_dense(), dense)


def test_rows_out_of_order_are_sorted():
    mask = SparseMask.from_csr([0, 3, 3, 5], [2, 0, 2, 1, 0], (3, 4))
    require_canonical(mask)
    assert mask.indices.tolist() == [0, 2, 0, 1]
    assert mask.indptr.tolist() == [0, 2, 2, 4]


def test_scipys_zeros_do_not_attend():
    matrix = scipy.sparse.coo_matrix(([1.0, 0.0, 1.0, -1.0], ([0, 1, 2, 2], [1, 1, 0, 0])), shape=(3, 2))
    assert SparseMask.from_scipy(matrix).to_pairs()[0].tolist() == [0]
    assert matrix.nnz == 4  # the caller's stays as it was


@given(boolean, st.data())
@settings(deadline=None)
def test_and_or_transpose_are_numpys(dense, data):
    other = data.draw(hnp.arrays(np.bool_, dense.shape))
    a, b = SparseMask.from_dense(dense), SparseMask.from_dense(other)
    for mask, want in ((a & b, dense & other), (a | b, dense | other), (a.transpose(), dense.T)):
        require_canonical(mask)
        np.testing.assert_array_equal(mask.to_dense(), want)
    assert a.transpose().transpose() == a
    assert (a == b) == (dense == other).all()


def test_equality_is_of_content():
    a = SparseMask.window((5, 7), 2)
    assert a == SparseMask.window((5, 7), 2)
    assert a != SparseMask.window((5, 7), 1)
    assert SparseMask.from_pairs([0], [0], (2, 3)) != SparseMask.from_pairs([0], [0], (2, 4))
    assert a != "mask"
    with pytest.raises(TypeError):
        hash(a)
    with pytest.raises(TypeError):
        a & np.ones((5, 7), bool)


def test_a_mask_does_not_change_with_what_it_was_made_of():
    indptr, indices = np.array([0, 1, 2]), np.array([0, 1])
    mask = SparseMask.from_csr(indptr, indices, (2, 2))
    indices[0] = indptr[1] = 0
    assert mask.to_dense().tolist() == [[True, False], [False, True]]
    mask.to_csr().indices[:] = 0
    assert mask.indices.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        mask.indices[0] = 1


# ---- where a mask is accepted


def test_apply_puts_minus_infinity_outside():
    mask = SparseMask.from_pairs([0, 1], [1, 0], (2, 3))
    logits = np.arange(12.0).reshape(2, 2, 3)
    as_attention_mask(mask, (2, 2, 3)).apply(logits)
    inf = np.inf
    assert logits.tolist() == [[[-inf, 1.0, -inf], [3.0, -inf, -inf]], [[-inf, 7.0, -inf], [9.0, -inf, -inf]]]


def test_arrays_are_dense_masks():
    assert isinstance(as_attention_mask(np.ones((2, 3), bool), (2, 3)), DenseMask)


def test_mechanisms_that_compute_densely_take_one(rng):
    mask = SparseMask.window((5, 7), 2)
    q, k, v = (rng.standard_normal((2, n, 3)) * 0.3 for n in (5, 7, 7))
    for attention in (ab.ScaledDotProductAttention(), ab.HyperbolicAttention()):
        for form in (attention.logits, attention.weights):
            np.testing.assert_allclose(form(q, k, mask), form(q, k, mask.to_dense()), rtol=1e-12)
        got, want = (attention.forward(q, k, v, m, True).output for m in (mask, mask.to_dense()))
        np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(
        ab.attention_scores(q, k, mask=mask), ab.attention_scores(q, k, mask=mask.to_dense()), rtol=1e-12
    )


# ---- refusals

HALF = SparseMask.from_pairs([0, 0, 1], [0, 1, 1], (2, 2))

BAD = [
    (lambda: SparseMask.from_csr([0, 1], [0], (2, 2)), ab.SparseMatrixError, "a value more than 2 queries, got 2"),
    (
        lambda: SparseMask.from_csr([0, 2, 1], [0], (2, 2)),
        ab.SparseMatrixError,
        "indptr must not fall: it does from 2 to 1 at row 1",
    ),
    (
        lambda: SparseMask.from_csr([0, 1, 3], [0, 1], (2, 2)),
        ab.SparseMatrixError,
        "from 0 to the number of indices, 2; got 0 to 3",
    ),
    (lambda: SparseMask.from_csr([1, 1, 1], [0], (2, 2)), ab.SparseMatrixError, "got 1 to 1"),
    (lambda: SparseMask.from_csr([-1, 0, 1], [0], (2, 2)), ab.SparseMatrixError, "got -1 to 1"),
    (
        lambda: SparseMask.from_csr([0, 1, 2], [0, 2], (2, 2)),
        ab.SparseMatrixError,
        r"indices must be in 0..1: position 1 is 2",
    ),
    (
        lambda: SparseMask([0, 1, 2], [0, -1], (2, 2)),
        ab.SparseMatrixError,
        r"indices must be in 0..1: position 1 is -1",
    ),
    (
        lambda: SparseMask.from_pairs([0, 5], [0, 0], (2, 2)),
        ab.SparseMatrixError,
        r"rows must be in 0..1: position 1 is 5",
    ),
    (lambda: SparseMask.from_pairs([0], [-3], (2, 2)), ab.SparseMatrixError, r"cols must be in 0..1: position 0 is -3"),
    (lambda: SparseMask.from_pairs([0, 1], [0], (2, 2)), ab.SparseMatrixError, "of one length, got 2 and 1"),
    (
        lambda: SparseMask.from_pairs([0.5], [0], (2, 2)),
        ab.SparseMatrixError,
        r"rows must be whole numbers in one dimension, got float64 \(1,\)",
    ),
    (lambda: SparseMask.from_pairs([[0]], [0], (2, 2)), ab.SparseMatrixError, r"rows must be whole .*\(1, 1\)"),
    (lambda: SparseMask.causal((-1, 2)), ab.SparseMatrixError, r"shape must be two whole numbers .* got \(-1, 2\)"),
    (lambda: SparseMask.causal(3), ab.SparseMatrixError, "shape must be two whole numbers .* got 3"),
    (lambda: SparseMask.causal((2, 3, 4)), ab.SparseMatrixError, "shape must be two whole numbers"),
    (lambda: SparseMask.causal((2, 2**31)), ab.SparseMatrixError, "0 to 2147483647"),
    (lambda: SparseMask.from_scipy(np.eye(2)), ab.SparseMatrixError, "must be a scipy.sparse matrix .* got ndarray"),
    (lambda: SparseMask.from_dense([[0, 1]]), ab.InvalidMaskError, r"dense must be a boolean matrix .* int64 \(1, 2\)"),
    (lambda: SparseMask.from_dense([True]), ab.InvalidMaskError, r"dense must be a boolean matrix .* bool \(1,\)"),
    (
        lambda: SparseMask.block((4, 4), 2, np.ones((2, 3), bool)),
        ab.InvalidMaskError,
        r"boolean matrix of \(2, 2\) blocks, got shape \(2, 3\)",
    ),
    (lambda: SparseMask.block((4, 4), 2, [1, 2, 3]), ab.InvalidMaskError, r"blocks must be pairs \(m, 2\).*\(3,\)"),
    (lambda: SparseMask.block((4, 4), 2, [(0, 2)]), ab.SparseMatrixError, "cols must be in 0..1: position 0 is 2"),
    (
        lambda: HALF.to_blocks(2),
        ab.SparseMatrixError,
        r"whole blocks of 2: of block \(0, 0\), 3 of 4 pairs attend; choose the block_size",
    ),
    (lambda: HALF & SparseMask.causal((2, 3)), ab.InvalidMaskError, r"one shape: \(2, 2\) vs \(2, 3\)"),
    (lambda: HALF | SparseMask.causal((2, 3)), ab.InvalidMaskError, r"one shape: \(2, 2\) vs \(2, 3\)"),
    (lambda: SparseMask.window((4, 4), 0), ab.InvalidConfigError, "window must be a whole number >= 1, got 0"),
    (lambda: SparseMask.window((4, 4), 1, -1), ab.InvalidConfigError, "num_global must be a whole number >= 0, got -1"),
    (lambda: SparseMask.strided((4, 4), 0), ab.InvalidConfigError, "stride must be a whole number >= 1, got 0"),
    (lambda: SparseMask.fixed((4, 4), -1), ab.InvalidConfigError, "block_size must be a whole number >= 1, got -1"),
    (lambda: SparseMask.block((4, 4), 0), ab.InvalidConfigError, "block_size must be a whole number >= 1, got 0"),
    (lambda: HALF.to_blocks(0), ab.InvalidConfigError, "block_size must be a whole number >= 1, got 0"),
    (lambda: SparseMask.window((4, 4), 1, causal=1), ab.InvalidConfigError, "causal must be True or False, got 1"),
    (
        lambda: ab.attention_scores(np.eye(2), np.eye(2), mask=SparseMask.causal((2, 3))),
        ab.InvalidMaskError,
        r"shape \(queries, keys\) = \(2, 2\), got a SparseMask \(2, 3\)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=range(len(BAD)))
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("make", "pairs"),
    [
        (lambda shape: ab.SparseMask.causal(shape), "500,000,500,000"),
        (lambda shape: ab.SparseMask.strided(shape, 1_000), "2,997,001,000"),
        (lambda shape: ab.SparseMask.window(shape, 2_000), "3,996,998,000"),
        (lambda shape: ab.SparseMask.fixed(shape, 250), "4,249,000,000"),
        (lambda shape: ab.SparseMask.block(shape, 5_000), "5,000,000,000"),
        (lambda shape: ab.SparseMask.block(shape, 300_000, [(0, 0), (3, 3)]), "100,000,000,000"),
        (lambda shape: ab.SparseAttention("local", window=5_000).mask_for(*shape), "9,975,995,000"),
    ],
)
def test_patterns_of_too_many_pairs_are_refused_before_they_are_listed(make, pairs):
    with traced():
        with pytest.raises(ab.InputTooLargeError, match=f"at most 2,147,483,647 pairs, got {pairs}; choose a narrower"):
            make((10**6, 10**6))
        assert peak() < 400e6


def test_patterns_of_very_many_queries_are_counted_in_pieces():
    with traced():
        with pytest.raises(ab.InputTooLargeError, match="got 549,756,338,176 in the first 1,048,576 queries"):
            ab.SparseMask.causal((2**31 - 1, 2**31 - 1))
        assert peak() < 400e6
    assert ab.SparseMask.window((2**20 + 3, 2), 1).nnz == 5


@pytest.mark.parametrize("pattern", ["window", "strided", "fixed", "block"])
def test_sizes_up_to_int64_are_those_of_everything(pattern):
    for size in (5, 2**33, 2**63 - 1):
        assert getattr(ab.SparseMask, pattern)((4, 5), size).nnz == 20
    with pytest.raises(ab.InvalidConfigError, match=f"must fit 63 bits, got {2**63}"):
        getattr(ab.SparseMask, pattern)((4, 5), 2**63)
