"""FAVOR+ beside softmax attention: how the output's error falls with the number of features.

Queries, keys and values N(0, 0.5^2); the error is relative, in Frobenius norms, its geometric mean is over the seeds.
Run: python tests/benchmarks/bench_favor.py [--rounds 16] [--length 256] [--dim 64]
"""

import itertools

import numpy as np
from common import arguments, machine, show, verdict

from attnbridge import LinearAttention, ScaledDotProductAttention

FEATURES = (64, 256, 1024, 4096)


def favor_error(num_features: int, seed: int, length: int, dim: int) -> float:
    """Return the relative error of one draw of inputs and directions."""
    rng = np.random.default_rng(seed)
    query, key, value = (0.5 * rng.standard_normal((length, dim)) for _ in range(3))
    want = ScaledDotProductAttention().forward(query, key, value).output
    got = LinearAttention("favor", num_features=num_features, seed=1000 + seed).forward(query, key, value).output
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def geometric_mean(values: list[float]) -> float:
    """Return exp(mean(log(values)))."""
    return float(np.exp(np.mean(np.log(values))))


def main() -> None:
    parser = arguments(__doc__, rounds=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--dim", type=int, default=64)
    options = parser.parse_args()
    means = []
    for count in FEATURES:
        errors = [favor_error(count, seed, options.length, options.dim) for seed in range(options.rounds)]
        means.append(geometric_mean(errors))
    ratios = [few / many for few, many in itertools.pairwise(means)]
    cells = ["", *(f"{ratio:.2f}" for ratio in ratios)]
    lines = [(count, f"{mean:.4f}", cell) for count, mean, cell in zip(FEATURES, means, cells, strict=True)]
    lines.append(("geometric mean", "", verdict(geometric_mean(ratios), least=1.6)))
    show(
        f"FAVOR+, {options.length} queries and keys, d={options.dim}, {options.rounds} seeds ({machine()})",
        ["features", "error of the output", "times smaller"],
        lines,
    )


if __name__ == "__main__":
    main()
