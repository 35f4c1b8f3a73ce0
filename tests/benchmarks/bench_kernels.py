"""Every kernel of the table in tests/reference.py beside its float64 numpy reference, one thread.

Run: python tests/benchmarks/bench_kernels.py [--rows 1000] [--dim 384]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pool
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
from pathlib import Path

import numpy as np
from common import arguments, interleaved, machine, medians, show, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/

from reference import KERNELS, variants


def main() -> None:
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    lines = []
    for name, row in KERNELS.items():
        for case in variants(row):
            args = row.inputs(np.random.default_rng(0), case._replace(n=options.rows, d=options.dim))
            seconds = interleaved(
                {
                    "kernel": lambda _, run=row.kernel, args=args: run(*args),
                    "reference": lambda _, run=row.reference, args=args: run(*args),
                },
                options.rounds,
            )
            middle = medians(seconds)
            what = [name, case.kind, case.terms if row.terms else "", "ids" if case.gathered else ""]
            lines.append(
                (
                    " ".join(filter(None, what)),
                    f"{1e6 * middle['kernel']:.1f}",
                    spread(seconds["kernel"]),
                    f"{1e6 * middle['reference']:.1f}",
                    f"{middle['reference'] / middle['kernel']:.1f}",
                )
            )
    show(
        f"kernels, {options.rows:,} x {options.dim} ({machine()})",
        ["kernel", "us", "quartiles", "float64 numpy, us", "times the kernel's"],
        lines,
    )


if __name__ == "__main__":
    main()
