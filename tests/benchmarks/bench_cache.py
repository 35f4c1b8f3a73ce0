"""The hit rate of an AttentionCache under Zipf-distributed queries, and what hits and misses cost, on one thread.

Zipf(1.1) over 1,000 distinct queries, 20,000 asked, with a quarter of the bytes that all their answers would take: at
least 60 % must be hits. Times are medians of interleaved rounds.
Run: python tests/benchmarks/bench_cache.py [--rounds 300]
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from common import arguments, interleaved, machine, medians, show, verdict

import attnbridge as ab

DISTINCT, ASKED, EXPONENT, SHARE = 1_000, 20_000, 1.1, 0.25
DIM, ROWS, KEYS = 64, 20_000, 256

Ask = Callable[[int], Any]


def zipf(rng: np.random.Generator) -> list[int]:
    """Return which of the distinct queries is asked each time."""
    shares = np.arange(1, DISTINCT + 1) ** -EXPONENT
    return rng.choice(DISTINCT, ASKED, p=shares / shares.sum()).tolist()


def systems(rng: np.random.Generator) -> dict[str, Callable[[ab.AttentionCache | None], Ask]]:
    """Return what asks a numbered query, made with a cache or without."""
    rows, queries = rng.standard_normal((ROWS, DIM)), rng.standard_normal((DISTINCT, DIM)).astype(np.float32)
    keys = rng.standard_normal((KEYS, DIM)).astype(np.float32)

    def search(cache: ab.AttentionCache | None, **settings: Any) -> Ask:
        bridge = ab.AttentionVectorBridge(DIM, threads=1, cache=cache)
        bridge.add(rows, progress=False)
        return lambda number: bridge.search(queries[number % DISTINCT], **settings).ids

    def forward(cache: ab.AttentionCache | None) -> Ask:
        plain = ab.MultiHeadAttention(DIM, 8)
        attention = plain if cache is None else plain.cached(cache)
        return lambda number: attention.forward(queries[number % DISTINCT], keys, keys).output

    return {
        "search": search,
        "search, rerank=default": lambda cache: search(cache, rerank="default"),
        f"multi_head, 1 query x {KEYS} keys": forward,
    }


def measured(make: Callable[[ab.AttentionCache | None], Ask], places: list[int], rounds: int) -> tuple[list, list]:
    """Return a row of the hit rate and one of times."""
    full, emptied = ab.AttentionCache(1 << 33), ab.AttentionCache(1 << 33)
    hit, missing, without = make(full), make(emptied), make(None)
    for number in range(DISTINCT):
        hit(number)
    cache = ab.AttentionCache(int(SHARE * full.bytes))
    ask, most = make(cache), 0
    for place in places:
        ask(place)
        most = max(most, cache.bytes)

    def miss(number: int) -> None:
        emptied.clear()
        missing(number)

    middle = medians(interleaved({"without": without, "miss": miss, "hit": hit}, rounds))
    rate = [verdict(cache.hit_rate, least=0.6), f"{len(cache)} of {DISTINCT}", f"{cache.max_bytes:,}"]
    times = [f"{1e6 * middle[kind]:.0f}" for kind in ("without", "miss", "hit")]
    ratios = [f"{middle[kind] / middle['without']:.2f}" for kind in ("miss", "hit")]
    return [*rate, verdict(most / cache.max_bytes, most=1)], [*times, *ratios]


def main() -> None:
    """Print hit rates and times of searches and of a mechanism's calls."""
    options = arguments(__doc__, rounds=300).parse_args()
    rng = np.random.default_rng(0)
    places = zipf(rng)
    rows = {name: measured(make, places, options.rounds) for name, make in systems(rng).items()}
    title = f"Zipf({EXPONENT}) over {DISTINCT:,} queries, {ASKED:,} asked, {SHARE:.0%} of the bytes of all; {machine()}"
    show(title, ["", "hit rate", "entries", "budget", "most / budget"], [(name, *row[0]) for name, row in rows.items()])
    columns = ["", "without", "miss", "hit", "miss / without", "hit / without"]
    show("Microseconds a call", columns, [(name, *row[1]) for name, row in rows.items()])


if __name__ == "__main__":
    main()
