"""How long a fresh process takes: the import alone, and from start to the first hit of an index on disk.

Run: python tests/benchmarks/bench_startup.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import arguments, interleaved, machine, medians, show, spread, verdict

import attnbridge as ab

FIRST_HIT = """
import sys, numpy as np, attnbridge as ab
bridge = ab.AttentionVectorBridge.open(sys.argv[1])
hits = bridge.search(np.load(sys.argv[2]), k=10)
assert len(hits) == 10
"""

MODULES = """
import sys
before = set(sys.modules)
import attnbridge
print(*sorted(set(sys.modules) - before))
"""

HEAVY = ("numba", "hnswlib", "networkx", "duckdb", "pandas", "scipy", "numpy", "pyarrow", "rich", "click")


def python(*code: str) -> None:
    subprocess.run([sys.executable, "-c", *code], check=True, cwd=tempfile.gettempdir())


def main() -> None:
    options = arguments(__doc__, rounds=15).parse_args()
    loaded = subprocess.run([sys.executable, "-c", MODULES], check=True, capture_output=True, text=True).stdout.split()
    print("import attnbridge loads:", *loaded)
    print("of the heavy ones:", *([name for name in HEAVY if name in loaded] or ["none"]))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        index, query = str(Path(folder) / "index"), str(Path(folder) / "query.npy")
        bridge = ab.AttentionVectorBridge(dim=384)
        rows = rng.standard_normal((10_000, 384), np.float32)
        bridge.add(rows, progress=False)
        bridge.save(index)
        np.save(query, rows[7])
        runs = {
            "nothing": lambda _: python("pass"),
            "import numpy": lambda _: python("import numpy"),
            "import attnbridge": lambda _: python("import attnbridge"),
            "import numba, hnswlib": lambda _: python("import numba, hnswlib"),
            "open 10,000 rows, first hit": lambda _: python(FIRST_HIT, index, query),
        }
        seconds = interleaved(runs, options.rounds)
    middle = medians(seconds)
    bound = {
        "import attnbridge": "over numpy's: " + verdict(middle["import attnbridge"] / middle["import numpy"], most=1.3),
        "open 10,000 rows, first hit": "s over numba's, hnswlib's: "
        + verdict(middle["open 10,000 rows, first hit"] - middle["import numba, hnswlib"], most=1.2),
    }
    show(
        f"process start to end, warm cache ({machine()})",
        ["python -c", "ms", "quartiles", "bound"],
        [(name, f"{1e3 * value:.0f}", spread(seconds[name]), bound.get(name, "")) for name, value in middle.items()],
    )


if __name__ == "__main__":
    main()
