"""MaxSim over stored tokens on one thread, hard and soft, beside a BLAS product per document in numpy.

32 query tokens x 100 documents x 180 tokens x 128 dimensions. numpy reads float32 tokens, the fastest that it has.
Run: python tests/benchmarks/bench_late_interaction.py [--rounds 101]
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy starts its pool
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

from typing import Any

import numpy as np
from common import arguments, interleaved, machine, medians, show, spread, verdict

from attnbridge import kernels

DOCUMENTS, LENGTH, DIM, SOFT = 100, 180, 128, 20.0


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def with_numpy(query_tokens: np.ndarray, documents: list[np.ndarray]) -> Any:
    """Return the loop that one would write: the fastest of numpy's forms here."""
    return lambda _: [(query_tokens @ own.T).max(1).sum() for own in documents]


def soft_with_numpy(query_tokens: np.ndarray, documents: list[np.ndarray]) -> Any:
    def one(own: np.ndarray) -> Any:
        products = query_tokens @ own.T
        shares = np.exp(np.float32(SOFT) * (products - products.max(1, keepdims=True)))
        return ((shares * products).sum(1) / shares.sum(1)).sum()

    return lambda _: [one(own) for own in documents]


def stored(tokens: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray | None, np.ndarray]]:
    """Return tokens as they are kept, their scale, and the values that those stand for."""
    half = tokens.astype(np.float16)
    scale = (np.abs(tokens).max(axis=1) / 127.0).astype(np.float32)
    codes = np.round(tokens / scale[:, None]).astype(np.int8)
    return {
        "float32": (tokens, None, tokens.astype(np.float64)),
        "float16": (half.view(np.uint16), None, half.astype(np.float64)),
        "int8": (codes, scale, codes * scale[:, None].astype(np.float64)),
    }


def reference(query_tokens: np.ndarray, values: np.ndarray, temperature: float) -> np.ndarray:
    products = values.reshape(DOCUMENTS, LENGTH, DIM) @ query_tokens.T.astype(np.float64)
    best = products.max(axis=1)
    if temperature:
        shares = np.exp((products - best[:, None]) / temperature)
        best = (shares * products).sum(axis=1) / shares.sum(axis=1)
    out: np.ndarray = best.sum(axis=1)
    return out


def table(count: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    query_tokens = unit(rng.standard_normal((count, DIM))).astype(np.float32)
    tokens = unit(rng.standard_normal((DOCUMENTS * LENGTH, DIM))).astype(np.float32)
    starts, lengths = LENGTH * np.arange(DOCUMENTS), np.full(DOCUMENTS, LENGTH)
    weights, out = np.ones(count), np.empty(DOCUMENTS)
    documents = np.split(tokens, DOCUMENTS)
    runs = {"numpy": with_numpy(query_tokens, documents), "numpy, soft": soft_with_numpy(query_tokens, documents)}
    errors, sizes = {}, {"numpy": tokens.nbytes, "numpy, soft": tokens.nbytes}
    for kind, (data, scale, values) in stored(tokens).items():
        for end, temperature in (("", 0.0), (", soft", 1.0 / SOFT)):
            args = query_tokens, weights, data, scale, starts, lengths, temperature, out
            kernels.maxsim(*args)
            errors[kind + end] = np.abs(out / reference(query_tokens, values, temperature) - 1.0).max()
            runs[kind + end] = lambda _, args=args: kernels.maxsim(*args)
            sizes[kind + end] = data.nbytes + (0 if scale is None else scale.nbytes)
    seconds = interleaved(runs, rounds)
    middle = medians(seconds)
    bounds = {"float32": 0.9, "int8": 1.2} if count == 32 else {}
    lines = []
    for name in runs:
        ratio = middle[name] / middle["numpy"]
        lines.append(
            (
                name,
                f"{1e3 * middle[name]:.3f}",
                spread(seconds[name]),
                verdict(ratio, most=bounds[name]) if name in bounds else f"{ratio:.3f}",
                f"{sizes[name] / 1e6:.1f}",
                f"{errors[name]:.0e}" if name in errors else "",
            )
        )
    show(
        f"{count} query tokens x {DOCUMENTS} documents x {LENGTH} tokens x {DIM} dimensions, one thread ({machine()})",
        ["tokens", "ms", "quartiles", "times numpy's", "MB", "largest relative error"],
        lines,
    )


def main() -> None:
    options = arguments(__doc__, rounds=101).parse_args()
    for count in (32, 8, 64):
        table(count, options.rounds)


if __name__ == "__main__":
    main()
