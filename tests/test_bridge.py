"""AttentionVectorBridge against a float64 brute force: search, writes, filters, input forms, hits."""

import itertools
import pickle
import re

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge.integrations import ExactIndex, HnswIndex
from attnbridge.integrations.hnswlib import hnswlib_problem

Bridge = ab.AttentionVectorBridge
METRICS = ("cosine", "ip", "l2")
INDEXES = ("hnsw", "exact")


# ---- the slow float64 truth


def similarity(metric, query, rows):
    """One value a row, higher is nearer."""
    q, x = np.asarray(query, np.float64), np.asarray(rows, np.float64)
    if metric == "l2":
        return -0.5 * ((x - q) ** 2).sum(axis=1)
    if metric == "cosine":
        q, x = q / np.sqrt((q**2).sum()), x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return x @ q


def distance(metric, sim):
    return -2 * sim if metric == "l2" else 1 - sim


def best_first(scores, ids):
    """Positions by descending score, ties by position."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], i))


def softmax(x):
    e = np.exp(np.asarray(x) - np.max(x))
    return e / e.sum()


def rows_of(rng, n=120, d=7):
    return rng.standard_normal((n, d)).astype(np.float32)


def filled(rng, metric="cosine", index="hnsw", n=120, d=7, ids=None, **options):
    rows = rows_of(rng, n, d)
    bridge = Bridge(dim=d, metric=metric, index=index, **options)
    bridge.add(rows, ids=ids)
    return bridge, rows


def equal_to_the_bit(a, b):
    return (
        a.ids == b.ids
        and a.candidates == b.candidates
        and all(x.tobytes() == y.tobytes() for x, y in [(a.scores, b.scores), (a.weights, b.weights)])
        and a.distances.tobytes() == b.distances.tobytes()
        and a.ranks_before.tobytes() == b.ranks_before.tobytes()
        and a.parts.keys() == b.parts.keys()
        and all(a.parts[name].tobytes() == b.parts[name].tobytes() for name in a.parts)
    )


# ---- search against the truth


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dim", "scale"), [(2, None), (7, 3.0), (31, None)])
def test_search_equals_brute_force(rng, metric, index, dim, scale):
    options = {} if scale is None else {"scale": scale}
    bridge, rows = filled(rng, metric, index, n=97, d=dim, **options)
    used = scale if scale is not None else 20.0 if metric == "cosine" else dim**-0.5
    assert bridge.config["options"] == {"scale": used}
    for query in rng.standard_normal((5, dim)):
        sim = similarity(metric, np.float32(query), rows)
        order = best_first(sim, range(97))[:11]
        hits = bridge.search(query, k=11, candidates=97)
        assert hits.ids == order
        assert hits.candidates == 97
        np.testing.assert_allclose(hits.scores, used * sim[order], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(hits.weights, softmax(used * sim)[order], rtol=2e-5)
        np.testing.assert_allclose(hits.distances, distance(metric, sim)[order], rtol=1e-5, atol=2e-6)
        assert hits.ranks_before.tolist() == list(range(11))
        assert hits.parts["scaled_dot"].tolist() == hits.scores.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_hnswlib(rng, metric):
    bridge, rows = filled(rng, metric, "exact")
    peer = hnswlib.Index(metric, 7)
    peer.init_index(len(rows))
    peer.add_items(rows)
    peer.set_ef(120)
    query = rng.standard_normal(7).astype(np.float32)
    labels, distances = peer.knn_query(query, k=9)
    hits = bridge.search(query, k=9)
    assert hits.ids == labels[0].tolist()
    np.testing.assert_allclose(hits.distances, distances[0], rtol=1e-5, atol=1e-6)


def test_weights_are_over_all_candidates_not_over_the_hits(rng):
    bridge, rows = filled(rng)
    everything = bridge.search(rows[3], k=120, candidates=120)
    assert everything.weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert bridge.search(rows[3], k=4, candidates=120).weights.tolist() == everything.weights[:4].tolist()


def test_an_equal_row_is_at_distance_zero(rng):
    for metric, index in [("l2", "exact"), ("l2", "hnsw"), ("cosine", "exact"), ("cosine", "hnsw")]:
        bridge, rows = filled(rng, metric, index)
        for hits in bridge.search_batch(10 * rows if metric == "cosine" else rows, k=1):
            assert abs(hits.distances[0]) < 1e-5
            assert metric == "cosine" or hits.distances[0] >= 0.0


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("metric", METRICS)
def test_ties_go_by_insertion_order(rng, metric, index):
    base = rows_of(rng, 5, 3)
    bridge = Bridge(dim=3, metric=metric, index=index)
    bridge.add(base[[0, 1, 2, 0, 1, 0, 3, 4, 0]], ids=list("abcdefghi"))
    hits = bridge.search(base[0], k=9)
    same = [id for id in hits.ids if id in "adfi"]
    assert same == list("adfi")
    assert len(set(hits.scores[[hits.ids.index(i) for i in "adfi"]].tolist())) == 1
    bridge.add(base[[0]], ids=["a"])  # a new row: it now stands last
    assert [id for id in bridge.search(base[0], k=9).ids if id in "adfi"] == list("dfia")
    # more of the same than k
    assert bridge.search(base[0], k=2, exact=True).ids in (["d", "f"], bridge.search(base[0], k=2).ids)


def test_rows_of_equal_score_are_cut_in_insertion_order(rng):
    bridge = Bridge(dim=3, index="exact")
    bridge.add(np.tile([[1.0, 2.0, 3.0]], (500, 1)))
    for k in (1, 3, 40, 333):
        assert bridge.search([1.0, 2.0, 3.0], k=k, candidates=1).ids == list(range(k))


# ---- batch, threads, bits


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", ["plain", "expansion", "late", "both", "filter", "exact", "threshold"])
@pytest.mark.parametrize("metric", METRICS)
def test_search_batch_is_search_to_the_bit(metric, case, threads):
    rng = np.random.default_rng(11)
    bridge = Bridge(dim=13, metric=metric)
    tokens = [rng.standard_normal((n % 6, 5)) for n in range(700)]
    rows = rows_of(rng, 700, 13)
    rows[500:] = rows[:200]  # ties
    bridge.add(rows, tokens=tokens)
    bridge.delete([3, 4, 511])
    queries = rng.standard_normal((41, 13))
    query_tokens = [rng.standard_normal((1 + n % 4, 5)) for n in range(41)]
    late, expansion = ab.LateInteraction(mix=0.4), ab.QueryExpansion(top=5, scale=7.0)
    common = {
        "plain": {},
        "expansion": {"rerank": [expansion]},
        "late": {"rerank": late},
        "both": {"rerank": [expansion, late, expansion]},
        "filter": {"filter": [i for i in range(700) if i % 3]},
        "exact": {"exact": True},
        "threshold": {"threshold": -0.1, "offset": 2},
    }[case]
    with_tokens = case in ("late", "both")
    batch = bridge.search_batch(
        queries, k=7, candidates=50, threads=threads, query_tokens=query_tokens if with_tokens else None, **common
    )
    assert len(batch) == 41
    for query, own, hits in zip(queries, query_tokens, batch, strict=True):
        alone = bridge.search(query, k=7, candidates=50, query_tokens=own if with_tokens else None, **common)
        assert equal_to_the_bit(hits, alone)
        assert hits == alone
        assert len(hits) == 7 or case == "threshold"


def test_no_queries_no_hits(rng):
    bridge, _ = filled(rng)
    assert bridge.search_batch([]) == []
    assert bridge.search_batch(np.empty((0, 7))) == []


# ---- ids and writes


def test_add_returns_ids_and_numbers_them_on():
    bridge = Bridge(dim=2, index="exact")
    assert bridge.add(np.eye(2)) == [0, 1]
    assert bridge.add([[1.0, 1.0]], ids=[7]) == [7]
    assert bridge.add([[1.0, 2.0]]) == [8]
    bridge.delete([8])
    assert bridge.add([[1.0, 2.0]]) == [9]
    assert bridge.add([[1.0, 2.0]], ids=[-5]) == [-5]
    assert bridge.ids() == [0, 1, 7, 9, -5]
    assert bridge.add(np.empty((0, 2))) == []
    assert bridge.add([], ids=[]) == []
    assert len(bridge) == 5


def test_default_ids_end_at_64_bits():
    bridge = Bridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0]], ids=[2**63 - 1])
    with pytest.raises(ab.InvalidInputError, match="no next one after 9223372036854775807"):
        bridge.add([[1.0, 0.0]])


@pytest.mark.parametrize("index", INDEXES)
def test_upsert_replaces_vector_and_tokens(rng, index):
    bridge, rows = filled(rng, index=index, ids=[f"d{i}" for i in range(120)])
    bridge.add(-rows[:1], ids=["d0"], tokens=[np.ones((2, 3))])
    assert len(bridge) == 120
    assert bridge.ids() == [f"d{i}" for i in range(1, 120)] + ["d0"]
    assert bridge.get("d0").tolist() == (-rows[0]).tolist()
    assert bridge.search(-rows[0], k=1).ids == ["d0"]
    assert "d0" not in bridge.search(rows[0], k=119).ids
    assert bridge.get_tokens("d0")[0].tolist() == np.ones((2, 3)).tolist()
    bridge.add(rows[:1], ids=["d0"])  # without tokens: those of before belong to the vector of before
    assert bridge.get_tokens(["d0"])[0].shape == (0, 3)


@pytest.mark.parametrize("index", INDEXES)
def test_of_an_id_given_twice_the_last_wins(index):
    bridge = Bridge(dim=2, index=index)
    tokens = [[[1.0]], [[2.0]], [[3.0], [4.0]], None]
    assert bridge.add([[1, 0], [0, 1], [2, 2], [3, 4]], ids=["a", "b", "a", "c"], tokens=tokens) == ["a", "b", "a", "c"]
    assert len(bridge) == 3
    assert bridge.ids() == ["b", "a", "c"]
    assert bridge.get(["a", "b"]).tolist() == [[2.0, 2.0], [0.0, 1.0]]
    assert [t.ravel().tolist() for t in bridge.get_tokens(["a", "b", "c"])] == [[3.0, 4.0], [2.0], []]
    assert bridge.search([1.0, 0.0], k=9).candidates == 3


def test_get_gives_what_was_added_to_the_bit(rng):
    bridge, rows = filled(rng)
    assert bridge.get(range(120)).tobytes() == rows.tobytes()
    assert bridge.get(5).shape == bridge.get(np.int64(5)).shape == (7,)
    assert bridge.get([5]).shape == (1, 7)
    assert bridge.get([]).shape == (0, 7)
    bridge.get(5)[:] = 99.0  # a copy
    assert bridge.get(5).tolist() == rows[5].tolist()


def test_contains():
    bridge = Bridge(dim=2, index="exact")
    bridge.add(np.eye(2))
    assert 0 in bridge
    assert np.int64(1) in bridge
    assert np.int32(2) not in bridge
    for other in ("0", True, 1.0, None, [0], b"0"):
        assert other not in bridge
    bridge.delete(0)
    assert 0 not in bridge


def test_delete_all_or_none(rng):
    bridge, rows = filled(rng)
    with pytest.raises(ab.UnknownIdError, match="id 999 is not in the index, which holds 120 rows with int ids"):
        bridge.delete([3, 999])
    assert 3 in bridge
    assert bridge.delete([3, 4, 3]) == 2
    assert bridge.delete([]) == 0
    assert bridge.delete(np.array([5, 6])) == 2
    assert len(bridge) == 116
    assert not {3, 4, 5, 6} & set(bridge.search(rows[3], k=120).ids)
    with pytest.raises(ab.UnknownIdError, match="id 3 is"):
        bridge.get([3])
    bridge.add(rows[3:4], ids=[3])
    assert bridge.search(rows[3], k=1).ids == [3]


def test_config_and_repr():
    bridge = Bridge(dim=5, metric="l2", attention="dot", M=4, ef=50, ef_construction=60, seed=9, threads=2, scale=0.5)
    assert bridge.config == {
        "dim": 5,
        "metric": "l2",
        "attention": "scaled_dot",
        "options": {"scale": 0.5},
        "index": "hnsw",
        "engine": "native",
        "M": 4,
        "ef_construction": 60,
        "ef": 50,
        "seed": 9,
        "dtype": "float32",
        "index_dim": None,
        "keep_full": True,
        "token_dtype": "float16",
        "candidates": 100,
        "threads": 2,
        "model": None,
        "frozen": False,
        "fallback": None,
        "cache": None,
    }
    assert repr(bridge) == ("AttentionVectorBridge(0 rows, dim=5, metric='l2', attention='scaled_dot', index='hnsw')")
    bridge.config["options"]["scale"] = 7.0  # a copy
    assert bridge.config["options"] == {"scale": 0.5}
    assert "M" not in Bridge(dim=5, index="exact").config


# ---- search's options


def test_more_like_this_leaves_the_document_out(rng):
    bridge, rows = filled(rng)
    sim = similarity("cosine", rows[17], rows)
    order = [i for i in best_first(sim, range(120)) if i != 17]
    for candidates in (10, 119, 1000):
        hits = bridge.search(id=17, k=10, candidates=candidates)
        assert hits.ids == order[:10]
        assert hits.candidates == min(candidates, 119)
        assert hits.ranks_before.tolist() == list(range(10))
    assert bridge.search(id=17, k=10, exact=True).ids == order[:10]
    assert bridge.search(id=np.int64(17), k=1, filter=[17, order[4]]).ids == [order[4]]
    assert bridge.search(id=17, filter=[17]).ids == []


def test_more_like_this_uses_the_documents_tokens(rng):
    bridge = Bridge(dim=2, index="exact")
    eye = np.eye(5)
    bridge.add(np.ones((4, 2)), ids=list("abcd"), tokens=[eye[:1], eye[1:2], eye[:1], None])
    assert bridge.search(id="c", rerank=ab.LateInteraction(mix=1.0)).ids[0] == "a"
    assert bridge.search(id="c", query_tokens=eye[1:2], rerank=ab.LateInteraction(mix=1.0)).ids[0] == "b"
    with pytest.raises(ab.InvalidInputError, match=r"needs the query's tokens; pass query_tokens=array \(m, 5\)"):
        bridge.search(id="d", rerank=ab.LateInteraction())


def test_a_single_document_is_not_like_any_other():
    bridge = Bridge(dim=2)
    bridge.add([[1.0, 0.0]], ids=["only"])
    hits = bridge.search(id="only")
    assert (len(hits), hits.candidates) == (0, 0)


@pytest.mark.parametrize("rerank", [(), ab.QueryExpansion()])
def test_threshold_and_offset(rng, rerank):
    bridge, _ = filled(rng)
    query = rng.standard_normal(7)
    every = bridge.search(query, k=120, candidates=120, rerank=rerank)
    for offset, k in [(0, 5), (3, 5), (118, 5), (120, 5), (10**9, 5), (3, 10**12)]:
        hits = bridge.search(query, k=k, offset=offset, candidates=120, rerank=rerank)
        assert hits.ids == every.ids[offset : offset + k]
        assert hits.weights.tolist() == every.weights[offset : offset + k].tolist()
    least = float(every.scores[30])
    assert bridge.search(query, k=120, candidates=120, threshold=least, rerank=rerank).ids == every.ids[:31]
    hits = bridge.search(query, k=120, candidates=120, threshold=np.nextafter(least, 99), offset=5, rerank=rerank)
    assert hits.ids == every.ids[5:30]
    assert bridge.search(query, threshold=1e9, rerank=rerank).ids == []
    assert len(bridge.search(query, threshold=-1e9, rerank=rerank)) == 10


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("kept", [0, 1, 5, 300, 1800, 1999, 2000])
def test_filter_by_mask_and_by_ids(index, kept):
    rng = np.random.default_rng(kept)
    bridge, rows = filled(rng, "l2", index, n=2000, d=3, ids=[f"d{i}" for i in range(2000)])
    chosen = np.sort(rng.permutation(2000)[:kept])
    query = rng.standard_normal(3)
    sim = similarity("l2", np.float32(query), rows[chosen])
    expected = [f"d{chosen[i]}" for i in best_first(sim, chosen)[:20]]
    mask = np.zeros(2000, bool)
    mask[chosen] = True
    ids = [f"d{i}" for i in chosen]
    forms = [mask, mask.tolist(), [*ids, "nowhere", *ids[:3]], set(ids), tuple(ids), np.array(ids, dtype=str)]
    for form in forms:
        hits = bridge.search(query, k=20, candidates=50, filter=form)
        assert hits.ids == expected
        assert hits.candidates == min(kept, 50)


def test_filter_follows_the_order_of_ids_after_writes(rng):
    bridge, _ = filled(rng, n=30)
    bridge.delete([4, 5])
    bridge.add(rng.standard_normal((2, 7)), ids=[0, 77])
    ids = bridge.ids()
    mask = np.array([id in (0, 29, 77) for id in ids])
    assert sorted(bridge.search(rng.standard_normal(7), filter=mask).ids) == [0, 29, 77]
    with pytest.raises(ab.InvalidMaskError, match="filter must have one entry for each of 29 rows, got 30"):
        bridge.search(rng.standard_normal(7), filter=np.ones(30, bool))


def test_filter_from_pandas_and_arrow(rng):
    import pandas as pd
    import pyarrow as pa

    bridge, _ = filled(rng, n=30)
    mask = [i % 7 == 0 for i in range(30)]
    expected = bridge.search(id=1, filter=mask).ids
    assert len(expected) == 5
    for form in (pd.Series(mask), pd.Series(mask, dtype="boolean"), pa.array(mask), pd.Series([0, 7, 14, 21, 28])):
        assert bridge.search(id=1, filter=form).ids == expected


def test_unknown_ids_match_nothing(rng):
    bridge, rows = filled(rng)
    for nothing in (["x"], [999], [], (), np.array([], np.int64), np.zeros(120, bool), [-1]):
        assert bridge.search(rows[0], filter=nothing).ids == []
        assert bridge.search_batch(rows[:3], filter=nothing)[2].ids == []


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("metric", METRICS)
def test_k_hits_come_back_whenever_k_rows_qualify(metric, index):
    rng = np.random.default_rng(2)
    narrow = {"M": 4, "ef": 10, "ef_construction": 20} if index == "hnsw" else {}
    bridge, rows = filled(rng, metric, index, n=3000, d=8, **narrow)
    gone = rng.permutation(3000)[:2850]
    bridge.delete(gone)
    left = np.setdiff1d(np.arange(3000), gone)
    for query in rng.standard_normal((10, 8)):
        for k, candidates in [(10, 10), (100, 100), (150, 150), (3000, 3000)]:
            hits = bridge.search(query, k=k, candidates=candidates)
            assert len(hits) == min(k, 150)
            assert set(hits.ids) <= set(left.tolist())
            assert len(set(hits.ids)) == len(hits)
        order = best_first(similarity(metric, np.float32(query), rows[left]), left)
        assert bridge.search(query, k=150).ids == [int(left[i]) for i in order]
        allowed = left[::2].tolist() + gone.tolist()
        assert len(bridge.search(query, k=75, filter=allowed)) == 75
        assert len(bridge.search(id=int(left[0]), k=149)) == 149


def test_more_than_there_is(rng):
    bridge, rows = filled(rng, n=9)
    for k in (9, 10, 10**6, 10**15):
        assert len(bridge.search(rows[0], k=k)) == 9
        assert len(bridge.search(rows[0], k=k, rerank=ab.QueryExpansion())) == 9
        assert [len(h) for h in bridge.search_batch(rows[:2], k=k, candidates=10**15)] == [9, 9]
        assert len(bridge.search(id=0, k=k)) == 8


@pytest.mark.parametrize("index", INDEXES)
def test_an_empty_index_has_no_hits(rng, index):
    bridge = Bridge(dim=7, index=index)
    for _ in range(2):
        for options in ({}, {"exact": True}, {"filter": []}, {"rerank": ab.QueryExpansion()}, {"filter": ["a"]}):
            hits = bridge.search(np.ones(7), **options)
            assert (hits.ids, len(hits), hits.candidates, hits.scores.shape) == ([], 0, 0, (0,))
            assert [len(h) for h in bridge.search_batch(np.ones((3, 7)), **options)] == [0, 0, 0]
        bridge.add(rows_of(rng, 3), ids=["a", "b", "c"])  # and again when everything is deleted
        bridge.delete(["a", "b", "c"])
    assert bridge.ids() == []
    assert repr(hits) == "Hits(0 of 0 candidates, " + repr(hits).split(", ")[1]
    assert hits.to_arrow().num_rows == len(hits.to_pandas()) == 0


def test_aliases(rng):
    bridge, rows = filled(rng)
    hits = bridge.search(rows[2], k=3, candidates=20, offset=1)
    pairs = bridge.attention_search(rows[2], 3, candidates=20, offset=1)
    assert pairs == list(zip(hits.ids, hits.scores.tolist(), strict=True))
    assert all(type(id) is int and type(score) is float for id, score in pairs)
    many = bridge.batch_attention_search(rows[2:4], 3, candidates=20, offset=1)
    assert many[0] == pairs
    assert len(many) == 2


# ---- input forms


class Frame:
    """Something that numpy can make an array of, as a DataFrame of another library is."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


@pytest.mark.parametrize(
    "form",
    ["list", "tuple", "float64", "fortran", "strided", "read-only", "memmap", "pandas", "column", "frame", "object"],
)
def test_input_forms_agree(rng, tmp_path, form):
    import pandas as pd

    rows = rows_of(rng, 20)

    def formed(array):
        if form == "memmap":
            np.save(tmp_path / "rows.npy", array)
            return np.load(tmp_path / "rows.npy", mmap_mode="r")
        if form == "read-only":
            array = array.copy()
            array.setflags(write=False)
        return {
            "list": array.tolist(),
            "tuple": tuple(array.tolist()),
            "float64": array.astype(np.float64),
            "fortran": np.asfortranarray(array),
            "strided": np.repeat(array, 2, axis=array.ndim - 1)[..., ::2],
            "pandas": pd.DataFrame(array) if array.ndim == 2 else pd.Series(array),
            "column": pd.Series(list(array)),
            "frame": Frame(array),
            "object": pd.Series(list(array)).to_numpy() if array.ndim == 2 else array,
        }.get(form, array)

    bridge, plain = Bridge(dim=7, threads=1), Bridge(dim=7, threads=1)
    bridge.add(formed(rows), ids=np.arange(20))
    plain.add(rows)
    assert bridge.get(range(20)).tobytes() == rows.tobytes()
    assert equal_to_the_bit(bridge.search(formed(rows[3])), plain.search(rows[3]))
    assert equal_to_the_bit(bridge.search_batch(formed(rows))[7], plain.search(rows[7]))


def test_float16_and_integers(rng):
    half = rows_of(rng, 20).astype(np.float16)
    bridge = Bridge(dim=7, metric="l2")
    bridge.add(half)
    assert bridge.get(range(20)).tolist() == half.astype(np.float32).tolist()
    assert bridge.search(half[4], k=1).ids == [4]
    whole = Bridge(dim=3, metric="ip")
    whole.add(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    assert whole.search([1, 0, 0], k=1).distances.tolist() == [-3.0]


@pytest.mark.parametrize(
    "ids",
    [
        ("a", "b", "c"),
        np.array(["a", "b", "c"]),
        np.array(["a", "b", "c"], dtype=object),
        [np.str_("a"), "b", "c"],
        (c for c in "abc"),
    ],
)
def test_str_ids_in_any_form(ids):
    bridge = Bridge(dim=2, index="exact")
    assert bridge.add(np.ones((3, 2)), ids=ids) == ["a", "b", "c"]
    assert [type(id) for id in bridge.ids()] == [str] * 3


def test_int_ids_in_any_form():
    import enum

    import pandas as pd

    number = enum.IntEnum("number", ["ONE"])
    forms = [(5, 6), np.array([5, 6], np.uint8), [np.int16(5), np.uint64(6)], range(5, 7), pd.Series([5, 6])]
    for ids in [*forms, pd.Index([5, 6]), [number.ONE + 4, 6], {5: "x", 6: "y"}]:
        bridge = Bridge(dim=2, index="exact")
        assert bridge.add(np.ones((2, 2)), ids=ids) == [5, 6]
        assert [type(id) for id in bridge.ids()] == [int, int]
    assert type(Bridge(dim=2, index="exact").add(np.ones((1, 2)), ids=[number.ONE])[0]) is int


def test_ids_of_all_kinds_of_text():
    bridge = Bridge(dim=2, index="exact")
    ids = ["", " ", "ä", "日本", "a\nb", "\x00", "🦆", "a" * 5000, "NULL"]
    rows = np.random.default_rng(0).random((9, 2))
    assert bridge.add(rows, ids=ids) == ids
    assert bridge.ids() == ids
    for id, row in zip(ids, rows, strict=True):
        assert id in bridge
        assert bridge.get(id).tolist() == np.float32(row).tolist()


# ---- huge and tiny values


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("metric", METRICS)
def test_float32_max_over_two_is_finite_and_correct(metric, index):
    rng = np.random.default_rng(1)
    huge = np.finfo(np.float32).max / 2
    rows = rng.uniform(-1, 1, (400, 5)) * huge
    rows[::2] /= huge  # ordinary ones among them
    rows = rows.astype(np.float32)
    bridge = Bridge(dim=5, metric=metric, index=index)
    bridge.add(rows)
    for query in (rows[7], rows[8], rows[9] * np.float32(1e-30)):
        sim = similarity(metric, query, rows)
        order = best_first(sim, range(400))[:20]
        for rerank in ((), ab.QueryExpansion(mix=0.0)):
            hits = bridge.search(query, k=20, candidates=30, rerank=rerank)
            assert hits.ids == order
            assert np.isfinite(hits.scores).all()
            scale = bridge.config["options"]["scale"]
            np.testing.assert_allclose(
                hits.scores, scale * sim[order], rtol=1e-5, atol=max(1e-5, 1e-12 * np.abs(sim).max())
            )
            assert np.isfinite(hits.weights).all()
        expanded = bridge.search(query, k=20, candidates=30, rerank=ab.QueryExpansion())
        assert np.isfinite(expanded.scores).all()


def test_a_long_query_among_ordinary_rows():
    rng = np.random.default_rng(1)
    for metric in ("ip", "l2"):
        bridge, rows = filled(rng, metric, n=900)
        query = (rng.standard_normal(7) * 1e37).astype(np.float32)
        truth = similarity("ip" if metric == "l2" else metric, query, rows)  # under l2 the rows differ by q . x alone
        if metric == "ip":
            assert bridge.search(query, k=30).ids == best_first(truth, range(900))[:30]
        assert np.isfinite(bridge.search(query, k=30).scores).all()
        assert np.isfinite(bridge.search(query, k=30).weights).all()


def test_tiny_values_are_harmless():
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((60, 5)) * 1e-25).astype(np.float32)
    cosine = Bridge(dim=5)
    cosine.add(rows)
    order = best_first(similarity("cosine", rows[3], rows), range(60))
    assert cosine.search(rows[3], k=60).ids == order
    for metric in ("ip", "l2"):
        bridge = Bridge(dim=5, metric=metric)
        bridge.add(rows)
        hits = bridge.search(rows[3], k=60)
        assert sorted(hits.ids) == list(range(60))
        np.testing.assert_allclose(hits.weights, 1 / 60, rtol=1e-5)


def test_far_from_the_origin_l2_keeps_its_digits():
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((200, 6)) + 5000).astype(np.float32)
    bridge = Bridge(dim=6, metric="l2")
    bridge.add(rows)
    query = rows[11] + np.float32(0.125)
    sim = similarity("l2", query, rows)
    hits = bridge.search(query, k=200, candidates=200)
    assert hits.ids == best_first(sim, range(200))
    np.testing.assert_allclose(hits.scores, sim[hits.ids] * 6**-0.5, rtol=1e-4, atol=1e-6)


# ---- Hits


def test_hits_as_a_sequence(rng):
    bridge, rows = filled(rng)
    hits = bridge.search(rows[0], k=5)
    assert len(hits) == 5
    assert hits[0] == ab.Hit(
        hits.ids[0], hits.scores[0], hits.weights[0], float(hits.distances[0]), hits.ranks_before[0]
    )
    assert list(hits) == [hits[i] for i in range(5)]
    assert hits[-1].id == hits.ids[4]
    assert hits[np.int64(1)].id == hits.ids[1]
    assert [hit.id for hit in hits[1:4:2]] == hits.ids[1:4:2]
    assert [hit.id for hit in reversed(hits)] == hits.ids[::-1]
    assert hits[0] in hits
    assert all(type(value) is float for value in hits[2][1:4])
    assert type(hits[2].rank_before) is int
    for bad in (5, -6):
        with pytest.raises(IndexError):
            hits[bad]
    assert set(hits.timings) == {"candidates", "rerank", "total"}
    assert hits.timings["total"] == pytest.approx(hits.timings["candidates"] + hits.timings["rerank"])


def test_hits_equality(rng):
    bridge, rows = filled(rng)
    a, b = bridge.search(rows[0], k=5), bridge.search(rows[0], k=5)
    assert a == b
    assert a != bridge.search(rows[0], k=4)
    assert a != bridge.search(rows[1], k=5)
    assert a != bridge.search(rows[0], k=5, candidates=50)
    assert a != list(a)
    b.scores[0] += 1e-9
    assert a != b
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)
    same = ab.Hits(["x"], *[np.zeros(1)] * 4, {"p": np.ones(1), "q": np.zeros(1)}, {}, 1)
    swapped = ab.Hits(["x"], *[np.zeros(1)] * 4, {"q": np.zeros(1), "p": np.ones(1)}, {}, 1)
    other = ab.Hits(["x"], *[np.zeros(1)] * 4, {"q": np.ones(1), "p": np.zeros(1)}, {}, 1)
    assert same == swapped
    assert same != other


def test_hits_repr(rng):
    bridge, rows = filled(rng, ids=[f"näme{i}" for i in range(120)])
    text = repr(bridge.search(rows[0], k=3))
    assert re.match(r"Hits\(3 of 100 candidates, \d+\.\d\d ms\)\n   1  näme0 +score +20\.0000  weight 0\.", text)
    assert len(text.splitlines()) == 4
    assert repr(bridge.search(rows[0], k=25)).endswith("... 5 more")


def test_hits_as_tables(rng, monkeypatch):
    bridge, rows = filled(rng, ids=[f"d{i}" for i in range(120)])
    hits = bridge.search(rows[0], k=5, rerank=ab.QueryExpansion())
    columns = ["id", "score", "weight", "distance", "rank_before", "part_scaled_dot", "part_expansion"]
    frame = hits.to_pandas()
    table = hits.to_arrow()
    assert list(frame.columns) == table.column_names == columns
    assert frame["id"].tolist() == table["id"].to_pylist() == hits.ids
    assert frame["rank_before"].tolist() == table["rank_before"].to_pylist() == hits.ranks_before.tolist()
    assert frame["part_expansion"].tolist() == hits.scores.tolist()

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("attnbridge.validation.importlib.import_module", missing)
    with pytest.raises(ab.MissingDependencyError, match=r"pandas is not installed; pip install 'attnbridge\[pandas\]'"):
        hits.to_pandas()


# ---- a random life, against a dict


@st.composite
def operations(draw):
    ids = st.integers(0, 12)
    one = st.one_of(
        st.tuples(st.just("add"), st.lists(ids, min_size=0, max_size=6)),
        st.tuples(st.just("new"), st.integers(0, 3)),
        st.tuples(st.just("delete"), st.lists(ids, max_size=4)),
        st.tuples(st.just("search"), st.integers(1, 20)),
        st.tuples(st.just("filter"), st.lists(ids, max_size=6)),
        st.tuples(st.just("like"), ids),
        st.tuples(st.just("reopen"), st.booleans()),
    )
    return draw(st.lists(one, min_size=1, max_size=14)), draw(st.sampled_from(METRICS)), draw(st.sampled_from(INDEXES))


@settings(deadline=None, max_examples=60)
@given(operations())
def test_a_random_life_equals_a_dict(tmp_path_factory, life):
    steps, metric, index = life
    rng = np.random.default_rng(len(steps))
    bridge = Bridge(dim=3, metric=metric, index=index, **({"M": 4, "ef": 10} if index == "hnsw" else {}))
    model = {}  # id -> (row, token), in order of insertion
    following = 0
    vectors = rng.integers(-2, 3, (100, 3)) + np.array([0.5, 0.25, 0.125])  # ties are common
    used = iter(range(10**6))
    for step, argument in steps:
        if step in ("add", "new"):
            count = len(argument) if step == "add" else argument
            rows = [vectors[next(used) % 100] for _ in range(count)]
            tokens = [np.full((next(used) % 3, 2), i) for i in range(count)]
            given = bridge.add(np.reshape(rows, (count, 3)), ids=argument if step == "add" else None, tokens=tokens)
            assert given == (argument if step == "add" else list(range(following, following + count)))
            last = {id: i for i, id in enumerate(given)}
            for i, id in enumerate(given):
                if last[id] == i:
                    model.pop(id, None)
                    model[id] = (np.float32(rows[i]), tokens[i])
            following = max([following, *(id + 1 for id in given)])
        elif step == "delete":
            unknown = [id for id in argument if id not in model]
            if unknown:
                with pytest.raises(ab.UnknownIdError, match=f"id {unknown[0]} "):
                    bridge.delete(argument)
            else:
                assert bridge.delete(argument) == len(set(argument))
                for id in set(argument):
                    del model[id]
        elif step == "reopen":
            folder = tmp_path_factory.mktemp("life")
            bridge.save(folder)
            bridge = Bridge.open(folder, mmap=argument)
        else:
            query, k, names, options = vectors[7], 5, list(model), {}
            if step == "search":
                k = argument
            elif step == "filter":
                options["filter"] = argument
                names = [id for id in model if id in argument]
            elif argument in model:
                query, names, options["id"] = model[argument][0], [id for id in model if id != argument], argument
            hits = bridge.search(None if "id" in options else query, k=k, **options)
            rows = np.array([model[id][0] for id in names]).reshape(-1, 3)
            sim = similarity(metric, np.float32(query), rows)
            assert len(hits) == min(k, len(names))
            found = [names.index(id) for id in hits.ids]
            np.testing.assert_allclose(sim[found], np.sort(sim)[::-1][: len(found)], rtol=1e-5, atol=1e-5)
            for a, b in itertools.pairwise(found):
                assert a < b or not np.array_equal(rows[a], rows[b])  # equal rows in order of insertion
        assert bridge.ids() == list(model)
        assert len(bridge) == len(model)
    if model:
        assert bridge.get(list(model)).tolist() == [row.tolist() for row, _ in model.values()]
    if bridge._state.store.view.tokens is not None:
        for tokens, (_, own) in zip(bridge.get_tokens(list(model)), model.values(), strict=True):
            assert tokens.tolist() == own.tolist()


def test_hnswlib_runs_here():
    assert hnswlib_problem() is None
    assert isinstance(Bridge(dim=2)._state.source.index, HnswIndex)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "candidates", "offset"), [(5, 20, 0), (20, 20, 0), (3, 20, 4), (60, 100, 0)])
def test_more_equal_rows_than_candidates_come_in_order_of_insertion(metric, k, candidates, offset):
    """Of more equal rows than it returns hnswlib picks any."""
    rng = np.random.default_rng(5)
    bridge = Bridge(dim=4, metric=metric)
    bridge.add(np.concatenate([[[1.0, 2.0, 3.0, 4.0]] * 300, 0.1 * rng.standard_normal((200, 4))]))
    query = [1.0, 2.0, 3.0, 4.0]
    expected = list(range(offset, offset + k))
    assert bridge.search(query, k=k, candidates=candidates, offset=offset).ids == expected
    (batch,) = bridge.search_batch([query], k=k, candidates=candidates, offset=offset)
    assert batch.ids == expected
    assert bridge.search(id=0, k=k, candidates=candidates, offset=offset).ids == [i + 1 for i in expected]


def test_what_no_stage_reads_is_refused():
    bridge = Bridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0]], tokens=[[[1.0, 0.0]]])
    for extra in ({"query_tokens": [[1.0, 0.0]]}, {"query_token_weights": [1.0]}):
        for stages in ((), ab.QueryExpansion()):
            with pytest.raises(ab.InvalidConfigError, match=f"{next(iter(extra))} are read by no stage"):
                bridge.search([1.0, 0.0], rerank=stages, **extra)


@pytest.mark.parametrize("given", [{"M": 8}, {"ef": -5}, {"seed": 1}, {"ef_construction": 9}])
def test_graph_options_without_a_graph_are_refused(given):
    with pytest.raises(ab.InvalidConfigError, match=f"{next(iter(given))} can be given for index='hnsw' only"):
        Bridge(dim=2, index="exact", **given)


def test_a_ready_index_of_ours_is_saved_like_one_made_here(tmp_path):
    for source, name in ((HnswIndex(dim=2, M=5), "hnsw"), (ExactIndex(dim=2), "exact")):
        bridge = Bridge(dim=2, index=source)
        bridge.add([[1.0, 0.0], [0.0, 1.0]])
        bridge.save(tmp_path / name)
        again = Bridge.open(tmp_path / name)
        assert (again.config["index"], again.config.get("M")) == (name, 5 if name == "hnsw" else None)
        assert again.search([1.0, 0.1]) == bridge.search([1.0, 0.1])
    with pytest.raises(ab.InvalidConfigError, match="index must have metric='cosine', got 'l2'"):
        Bridge(dim=2, index=ExactIndex(dim=2, metric="l2"))


def test_dimension_has_a_limit():
    for make in (Bridge, ExactIndex, HnswIndex):
        with pytest.raises(ab.InvalidConfigError, match="dim must be at most 1048576, got 1000000000"):
            make(dim=10**9)


def test_parts_and_timings_are_each_hit_list_s_own():
    bridge = Bridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0], [0.0, 1.0]])
    first, second = bridge.search_batch([[1.0, 0.0], [0.0, 1.0]])
    first.parts["scaled_dot"][:] = 0.0
    first.timings.clear()
    assert first.scores[0] == 20.0
    assert "total" in second.timings


def test_hits_are_made_when_they_are_asked_for(rng):
    """Each attribute once, the same alone and in a batch; what is not there is said."""
    bridge, rows = filled(rng)
    batch = bridge.search_batch(rows[:5], k=4)
    for hits, row in zip(batch, rows[:5], strict=True):
        alone = bridge.search(row, k=4)
        assert hits.distances is hits.distances
        assert (len(hits), hits.complete, hits.candidates) == (4, True, alone.candidates)
        hits.scores[0] += 1.0  # a copy stands in parts
        assert hits.parts["scaled_dot"].tolist() == alone.scores.tolist()
        assert pickle.loads(pickle.dumps(hits)) == hits
    with pytest.raises(AttributeError, match="Hits has no attribute 'score'"):
        batch[0].score  # noqa: B018
