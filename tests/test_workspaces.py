"""Working memory that threads keep: repeated calls allocate next to nothing beyond their results, and never grow."""

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from memory import peak, taken, traced

import attnbridge as ab
from attnbridge import workspace as workspaces
from attnbridge.workspace import KEPT_BYTES, MOST_BYTES, kept_bytes, release, workspace

RNG = np.random.default_rng(0)
X = RNG.standard_normal((512, 32)).astype(np.float32)
SMALL = X[:6]


@pytest.fixture(autouse=True)
def _nothing_kept():
    release()
    yield
    release()


@pytest.fixture(scope="module")
def bridges():
    rows = RNG.standard_normal((20_000, 32)).astype(np.float32)
    made = {index: ab.AttentionVectorBridge(32, index=index) for index in ("exact", "hnsw")}
    for bridge in made.values():
        bridge.add(rows, progress=False)
    return made


# Calls over 512 x 512 pairs or 20,000 rows: a float64 for each pair would be 2 MB, for each row 160 KB.
CALLS = {
    "attention": lambda b: ab.attention(X, X, X),
    "attention_scores": lambda b: ab.attention_scores(X, X),
    "attention_logits": lambda b: ab.attention_logits(X, X),
    "causal weights": lambda b: ab.ScaledDotProductAttention().weights(X, X, is_causal=True),
    "float64 weights": lambda b: ab.attention_scores(X.astype(np.float64), X),
    "graph": lambda b: ab.GraphAttention().forward(X, X, X).output,
    "graph, mean": lambda b: ab.GraphAttention(aggregation="mean").forward(X, X, X, need_weights=True)[:2],
    "hyperbolic": lambda b: ab.HyperbolicAttention().forward(X * 0.05, X * 0.05, X).output,
    "linear weights": lambda b: ab.LinearAttention().weights(X, X),
    "moe": lambda b: ab.MixtureOfExpertsAttention().forward(X * 0.05, X * 0.05, X).output,
    "sparse": lambda b: ab.SparseAttention().forward(X, X, X).output,
    "multi_head": lambda b: ab.MultiHeadAttention(32, 4).forward(X, X, X, need_weights=True)[:2],
    "search": lambda b: b["hnsw"].search(X[0]).scores,
    "exact": lambda b: b["hnsw"].search(X[0], exact=True).scores,
    "filtered": lambda b: b["hnsw"].search_batch(X[:3], filter=[[1, 2], None, list(range(0, 20_000, 2))])[2].scores,
    "exact index": lambda b: b["exact"].search(X[0], rerank="expansion").scores,
}

# Of those that are in working memory, what a call may take beyond its result.
LEAN = {
    "attention": 50_000,
    "attention_scores": 50_000,
    "attention_logits": 50_000,
    "causal weights": 50_000,
    "search": 50_000,
    "exact": 50_000,
    "exact index": 50_000,
    "graph": 400_000,  # projected rows
    "hyperbolic": 400_000,
}


def arrays_of(result):
    return [result] if isinstance(result, np.ndarray) else [one for one in result if one is not None]


@pytest.mark.parametrize("name", LEAN)
def test_a_repeated_call_takes_next_to_nothing_beyond_its_result(name, bridges):
    for _ in range(3):
        CALLS[name](bridges)
    with traced():
        arrays = arrays_of(CALLS[name](bridges))
        assert peak() - sum(array.nbytes for array in arrays) <= LEAN[name]


@pytest.mark.parametrize("name", CALLS)
def test_bits_are_those_of_fresh_memory_and_stay(name, bridges, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(workspaces, "MOST_BYTES", 0)
        want = [array.copy() for array in arrays_of(CALLS[name](bridges))]
        assert kept_bytes() == 0
    first, second = arrays_of(CALLS[name](bridges)), arrays_of(CALLS[name](bridges))
    for buffer in workspaces._free.buffers:
        buffer[:] = 0xFF  # what a next call would write: no result may be part of it
    for got in (first, second, arrays_of(CALLS[name](bridges))):
        assert [array.tobytes() for array in got] == [array.tobytes() for array in want]


def test_it_is_lent_again():
    with workspace((100, 200)) as first:
        first[:] = 3.0
        place = first.ctypes.data
        assert (first.shape, first.dtype, first.flags.c_contiguous) == ((100, 200), np.float64, True)
    with workspace((400, 100), np.float32) as second:
        assert second.ctypes.data == place
    assert kept_bytes() >= 100 * 200 * 8


def test_what_is_in_use_is_not_lent_twice():
    with workspace((20_000,)) as first, workspace((20_000,)) as second:
        first[:], second[:] = 1.0, 2.0
        assert (first == 1.0).all()
        with pytest.raises(ZeroDivisionError), workspace((20_000,)):
            raise ZeroDivisionError
    assert len(workspaces._free.buffers) == 3


def test_a_larger_one_takes_the_place_of_a_smaller():
    for size in (10_000, 20_000, 40_000):
        with workspace((size,)):
            pass
    assert len(workspaces._free.buffers) == 1
    assert kept_bytes() >= 320_000


def test_neither_small_nor_huge_ones_are_kept():
    for size in (1, 1_000, MOST_BYTES // 8 + 1):
        with workspace((size,)) as lent:
            assert lent.shape == (size,)
    assert kept_bytes() == 0


def test_a_thread_never_keeps_more_than_its_share():
    def nest(depth):
        with workspace((MOST_BYTES // 8,)):
            if depth:
                nest(depth - 1)

    nest(5)
    assert 0 < kept_bytes() <= KEPT_BYTES


def test_each_thread_has_its_own_and_takes_it_along():
    kept, mine = [], []
    with workspace((20_000,)):
        pass

    def work():
        with workspace((20_000,)) as lent:
            mine.append(lent.ctypes.data)
        kept.append(weakref.ref(workspaces._free.buffers[0]))
        assert kept[0]() is not None

    place = workspaces._free.buffers[0].ctypes.data
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert mine[0] != place
    assert kept[0]() is None


# ---- no growth


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def growing_calls(bridges, cache):
    cached = ab.ScaledDotProductAttention().cached(cache)
    cached_bridge = ab.AttentionVectorBridge(32, index="exact", cache=cache)
    cached_bridge.add(X, progress=False)
    masks = {"bool": np.tri(6, dtype=bool), "float": np.zeros((6, 6))}
    return [
        lambda i: ab.attention(SMALL, SMALL, SMALL),
        lambda i: ab.attention(SMALL, SMALL, SMALL, mask=masks["float"]),
        lambda i: ab.attention_scores(X[:100], X[:100]),
        lambda i: ab.attention_logits(SMALL, X),
        lambda i: ab.GraphAttention().forward(X[:100], X[:100], X[:100], mask=None).output,
        lambda i: ab.ScaledDotProductAttention().forward(SMALL, SMALL, SMALL, masks["bool"]).output,
        lambda i: bridges["hnsw"].search(X[i % 512]),
        lambda i: bridges["exact"].search(X[i % 512]),
        lambda i: bridges["hnsw"].search(X[i % 512], rerank="default"),
        lambda i: cached.forward(X[i % 200 : i % 200 + 3], SMALL, SMALL),
        lambda i: cached_bridge.search(X[i % 512]),
    ]


@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_grows(threads, rounds, bridges):
    """10,000 calls (fewer in a reduced run) leave as much memory taken as the first ones did."""
    cache = ab.AttentionCache(200_000)
    calls, count = growing_calls(bridges, cache), rounds(660, 11_000)

    def run(total):
        def work():
            for i in range(total // threads):
                calls[i % len(calls)](i)

        several = [threading.Thread(target=work) for _ in range(threads)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
        gc.collect()

    def growth():
        before = taken()
        run(count)
        return taken() - before

    run(220)
    with traced():  # before the cache is full: what goes is to be counted too
        cache.clear()
        run(2_200)
        assert cache.bytes > 0.9 * cache.max_bytes
        # As many searches as have ever run at the same moment keep 180 KB each for the next: so many rounds may see one
        # more of them, and what grows by calls grows in every round. The cache holds another selection of entries.
        assert any(growth() <= 60_000 for _ in range(threads))
    run(220)
    before = resident()
    run(count)
    if Path("/proc/self/statm").exists():
        assert resident() - before <= 24 << 20
