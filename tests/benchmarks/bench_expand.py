"""What the stages that change the query or the candidates add to a search with 100 candidates, on one thread.

Rows of 32 dimensions' worth of structure, as text embeddings have, in an index of 100,000 x 384 that is built first.
Run: python tests/benchmarks/bench_expand.py
"""

import time
from typing import Any

import numpy as np
from common import arguments, machine, show, verdict

import attnbridge as ab

DIM, STRUCTURE, NOISE, QUERIES = 384, 32, 1.7, 1_000

STAGES: dict[str, Any] = {
    "plain": (),
    "expansion": ab.QueryExpansion(),
    "graph_adaptive": ab.GraphAdaptive(budget=100),
    "rocchio": ab.Rocchio(positive=[1, 2, 3]),
    "attention_rerank(scaled_dot)": ab.AttentionRerank("scaled_dot"),
}
LIMITS = {"expansion": 1.1, "graph_adaptive": 2.0}


def built(rows: int) -> tuple[ab.AttentionVectorBridge, np.ndarray]:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((STRUCTURE, DIM))
    count = rows + QUERIES
    values = rng.standard_normal((count, STRUCTURE)) @ base + NOISE * rng.standard_normal((count, DIM))
    bridge = ab.AttentionVectorBridge(dim=DIM, seed=1)
    bridge.add(values[:rows], progress=False)
    bridge.link(progress=False)
    return bridge, values[rows:].astype(np.float32)


def measured(bridge: ab.AttentionVectorBridge, queries: np.ndarray, rounds: int) -> dict[str, tuple[Any, Any]]:
    """Return each stage's seconds a query in batches and one by one, the stages by turns.

    Of this thread's own processor time: what else runs on the machine counts as little as may be.
    """
    names = list(STAGES)
    batches: dict[str, list[float]] = {name: [] for name in names}
    singles: dict[str, list[float]] = {name: [] for name in names}
    for stage in STAGES.values():
        bridge.search_batch(queries[:8], rerank=stage, threads=1)
    for turn in range(rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            began = time.thread_time()
            bridge.search_batch(queries, rerank=STAGES[name], threads=1)
            batches[name].append((time.thread_time() - began) / len(queries))
        for number in range(100):
            shift = (turn + number) % len(names)
            query = queries[(turn * 100 + number) % len(queries)]
            for name in names[shift:] + names[:shift]:
                began = time.thread_time()
                bridge.search(query, rerank=STAGES[name])
                singles[name].append(time.thread_time() - began)
    return {name: (np.median(batches[name]), np.median(singles[name])) for name in names}


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    seconds = measured(*built(options.rows), options.rounds)
    base = seconds["plain"]
    lines = []
    for name, pair in seconds.items():
        line = [name]
        for value, plain in zip(pair, base, strict=True):
            ratio, most = value / plain, LIMITS.get(name)
            line += [f"{1e6 * value:.0f}", f"{ratio:.3f}" if most is None else verdict(ratio, most=most)]
        lines.append(tuple(line))
    show(
        f"a search of 100 candidates among {options.rows:,} x {DIM}, one thread ({machine()})",
        ["stage", "us a query, batch", "over plain", "us, one by one", "over plain"],
        lines,
    )


if __name__ == "__main__":
    main()
