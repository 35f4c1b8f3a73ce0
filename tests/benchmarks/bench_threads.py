"""A batch of 1,000 on two threads and on one, beside a pure-CPU control in the same rounds.

The control is arithmetic in registers, on the same pool: what this machine gives two threads at best.
Run: python tests/benchmarks/bench_threads.py [--data FOLDER or vectors.npy]
"""

import numba
import numpy as np
from common import arguments, interleaved, machine, medians, show, spread, verdict

import attnbridge as ab
from attnbridge.threads import for_chunks

BATCH, CHUNKS = 1_000, 64


@numba.njit(nogil=True)
def spin(steps):
    """Return the end of a chain of integer steps; it touches no memory and each step waits for the one before."""
    state = np.uint64(88172645463325252)
    for _ in range(steps):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
    return state


def control(threads: int, steps: int) -> None:
    """Spin in as many chunks as a batch has, on the pool that batches use."""
    for_chunks(lambda start, stop: spin((stop - start) * steps) and None, CHUNKS, 1, threads)


def vectors(options) -> np.ndarray:
    """Return 20,000 WordNet rows where the data sets are there, else clustered gaussians."""
    path = options.data if options.data.suffix == ".npy" else options.data / "wordnet" / "noun_emb_f16.npy"
    if path.exists():
        return np.load(path)[:20_000].astype(np.float32)
    print(f"{path} is not there: made-up vectors instead")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 384))
    return (centres[rng.integers(0, 200, 20_000)] + 0.5 * rng.standard_normal((20_000, 384))).astype(np.float32)


def main() -> None:
    options = arguments(__doc__, data=True, rounds=25).parse_args()
    rows = vectors(options)
    bridge = ab.AttentionVectorBridge(dim=rows.shape[1])
    bridge.add(rows)
    rng = np.random.default_rng(1)
    queries = rows[rng.integers(0, len(rows), BATCH)] + 0.02 * rng.standard_normal((BATCH, rows.shape[1]))
    plain = {"search_batch": {}, "search_batch, QueryExpansion": {"rerank": [ab.QueryExpansion()]}}
    plain["search_batch, exact"] = {"exact": True}
    for name, how in plain.items():
        one, *others = (bridge.search_batch(queries, threads=threads, **how) for threads in (1, 2, 3, 7))
        same = all(
            a.ids == b.ids
            and a.scores.tobytes() == b.scores.tobytes()
            and a.weights.tobytes() == b.weights.tobytes()
            and a.distances.tobytes() == b.distances.tobytes()
            for other in others
            for a, b in zip(one, other, strict=True)
        )
        print(f"{name}: 1, 2, 3 and 7 threads give {'the same bits' if same else 'DIFFERENT RESULTS'}")
    runs = {}
    for threads in (1, 2):
        runs["control", threads] = lambda _, t=threads: control(t, 2_000_000)
        for name, how in plain.items():
            runs[name, threads] = lambda _, t=threads, h=how: bridge.search_batch(queries, threads=t, **h)
    seconds = interleaved(runs, options.rounds)
    middle = medians(seconds)
    fastest = {run: min(values) for run, values in seconds.items()}
    names = [name for name, threads in runs if threads == 1]
    gain = {name: middle[name, 1] / middle[name, 2] for name in names}
    # Where others use the machine at the same time, the second core is there in some rounds only: in the fastest.
    best = {name: fastest[name, 1] / fastest[name, 2] for name in names}
    show(
        f"batch of {BATCH:,}, {len(rows):,} x {rows.shape[1]} rows ({machine()})",
        [
            "what",
            "1 thread, ms",
            "quartiles",
            "2 threads, ms",
            "quartiles",
            "speed-up",
            "over the control's",
            "fastest rounds: speed-up",
            "over the control's",
        ],
        [
            (
                name,
                f"{1e3 * middle[name, 1]:.1f}",
                spread(seconds[name, 1]),
                f"{1e3 * middle[name, 2]:.1f}",
                spread(seconds[name, 2]),
                f"{gain[name]:.2f}",
                verdict(gain[name] / gain["control"], least=0.85) if name != "control" else "",
                f"{best[name]:.2f}",
                f"{best[name] / best['control']:.3f}" if name != "control" else "",
            )
            for name in gain
        ],
    )


if __name__ == "__main__":
    main()
