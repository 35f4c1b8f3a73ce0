"""Attention through the public API beside torch and numpy, one thread each.

Run: python tests/benchmarks/bench_attention.py [--rounds 31]
What is not installed (torch, ruvector-attention) is left out with a line that says so.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch start their pools
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["ATTNBRIDGE_NUM_THREADS"] = "1"

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import arguments, interleaved, machine, medians, show, spread, verdict

import attnbridge as ab
from attnbridge.mechanisms.dense import attend_plain

# A measurement is of so many seconds of calls.
SLICE = 0.004


def numpy_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Attention as one would write it for speed: BLAS, in place, float32."""
    weights = query @ np.swapaxes(key, -1, -2)
    weights *= np.float32(query.shape[-1] ** -0.5)
    weights -= weights.max(axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights @ value


def torch_attention(*arrays: np.ndarray) -> Callable[[], object]:
    """Return a call of torch's attention on (..., L, d) arrays; with 4 axes it is fastest."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    tensors = [torch.from_numpy(array) for array in arrays]
    four = [tensor[(None,) * (4 - tensor.ndim)] for tensor in tensors]
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(*four)


def repeated(call: Callable[[], object]) -> Callable[[int], None]:
    """Return a function that calls often enough to be timed, and remembers how often."""
    call()
    start = time.perf_counter()
    call()
    count = max(1, int(SLICE / max(time.perf_counter() - start, 1e-7)))

    def run(_: int) -> None:
        for _ in range(count):
            call()

    run.count = count  # type: ignore[attr-defined]
    return run


def measured(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, str]]:
    """Return the median microseconds of each call, and their quartiles."""
    runs = {name: repeated(call) for name, call in calls.items()}
    seconds = interleaved(runs, rounds)
    middle = medians(seconds)
    return {name: (1e6 * middle[name] / runs[name].count, spread(seconds[name])) for name in calls}  # type: ignore[attr-defined]


def row(name: str, calls: dict[str, Callable[[], object]], bounds: dict[str, float], rounds: int) -> list[str]:
    """Return a line of the table: times, and ratios to the peers with their bounds."""
    found = measured(calls, rounds)
    mine, quartiles = found["attnbridge"]
    cells = [name, f"{mine:.1f}", quartiles]
    for peer in ("torch", "numpy"):
        if peer not in found:
            cells += ["-", "-"]
            continue
        ratio = mine / found[peer][0]
        cells += [f"{found[peer][0]:.1f}", verdict(ratio, most=bounds[peer]) if peer in bounds else f"{ratio:.3f}"]
    return cells


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Return gaussian float32 arrays."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def peers(q: np.ndarray, k: np.ndarray, v: np.ndarray, with_torch: bool) -> dict[str, Callable[[], object]]:
    """Return the calls to compare, each on inputs in its own best form."""
    calls: dict[str, Callable[[], object]] = {
        "attnbridge": lambda: ab.attention(q, k, v),
        "numpy": lambda: numpy_attention(q, k, v),
    }
    if with_torch:
        calls["torch"] = torch_attention(np.atleast_2d(q), k, v)
    return calls


def heads_row(with_torch: bool, rounds: int) -> list[str]:
    """One query of eight heads side by side, (S, 8 * 64) keys: nothing is transposed, by anyone."""
    q, k, v = arrays((512,), (512, 512), (512, 512))
    split = [np.swapaxes(array.reshape(-1, 8, 64), 0, 1) for array in (q, k, v)]
    calls: dict[str, Callable[[], object]] = {
        "attnbridge": lambda: attend_plain(q, k, v, heads=8, max_keys=512),
        "numpy": lambda: numpy_attention(*split),
    }
    if with_torch:
        calls["torch"] = torch_attention(*split)
    return row("1 query, 8 heads x 64 side by side, 512 keys", calls, {"torch": 0.9, "numpy": 1.0}, rounds)


def window_row(rounds: int) -> list[str]:
    """A window of 256 keys on either side of 16,384 queries, beside all keys."""
    q, k, v = arrays(*[(16_384, 64)] * 3)
    window, whole = ab.SlidingWindowAttention(256), ab.FlashAttention()
    calls = {
        "attnbridge": lambda: window.forward(q, k, v),
        "flash": lambda: whole.forward(q, k, v),
    }
    found = measured(calls, max(3, rounds // 10))
    mine, dense = found["attnbridge"][0], found["flash"][0]
    return ["window, n = 16,384, w = 256", f"{mine / 1e3:.1f}", f"{dense / 1e3:.1f}", verdict(mine / dense, most=0.1)]


def peak_memory(n: int) -> float | None:
    """Return by how many MB a process grows at its peak in self-attention over n, its result aside; Linux tells."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    code = (
        "import sys, numpy as np, attnbridge as ab\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "n = int(sys.argv[1])\n"
        "x = np.random.default_rng(0).standard_normal((n, 64)).astype(np.float32)\n"
        "ab.attention(x[:64], x, x)\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # the peak so far is forgotten
        "before = peak(); out = ab.attention(x, x, x); after = peak()\n"
        "print((after - before) / 1024 - out.nbytes / 2**20)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(n)], capture_output=True, text=True, check=True)
    return max(0.0, float(run.stdout))


def ruvector_row(rounds: int) -> list[str] | None:
    """One query over 512 keys that are the values too, as ruvector-attention takes them."""
    if find_spec("ruvector_attention") is None:
        return None
    from ruvector_attention import attend

    q, k = arrays((64,), (512, 64))
    found = measured({"attnbridge": lambda: ab.attention(q, k, k), "ruvector": lambda: attend(q, k)}, rounds)
    mine, other = found["attnbridge"][0], found["ruvector"][0]
    return ["1 query x 512 keys, d=64", f"{mine:.1f}", f"{other:.1f}", verdict(other / mine, least=5.0)]


def main() -> None:
    options = arguments(__doc__, rounds=31).parse_args()
    with_torch = find_spec("torch") is not None
    if not with_torch:
        print("torch is not installed: its columns are empty")
    rounds, lines = options.rounds, []
    for keys, most in ((128, 1.0), (512, 0.8), (2048, 0.8)):
        calls = peers(*arrays((64,), (keys, 64), (keys, 64)), with_torch)
        lines.append(row(f"1 query x {keys:,} keys, d=64", calls, {"torch": most, "numpy": 1.0}, rounds))
    calls = peers(*arrays((8, 1, 64), (8, 512, 64), (8, 512, 64)), with_torch)
    lines.append(row("1 query, 8 heads x 64, 512 keys", calls, {"torch": 0.9, "numpy": 1.0}, rounds))
    lines.append(heads_row(with_torch, rounds))
    for dim in (64, 128, 256, 384):
        calls = peers(*arrays((32, dim), (1000, dim), (1000, dim)), with_torch)
        lines.append(row(f"32 queries x 1,000 keys, d={dim}", calls, {"torch": 1.2, "numpy": 1.0}, rounds))
    calls = peers(*arrays(*[(2048, 64)] * 3), with_torch)
    lines.append(row("self-attention, n=2,048, d=64", calls, {"torch": 1.0, "numpy": 0.9}, max(5, rounds // 2)))
    columns = ["one thread", "us", "quartiles", "torch, us", "times torch's", "numpy, us", "times numpy's"]
    show(f"attention ({machine()})", columns, lines)

    show("window attention", ["", "ms", "all keys, ms", "times"], [window_row(rounds)])
    memory = peak_memory(8192)
    if memory is None:
        print("the peak of a process's memory is told by Linux only: it is left out")
    else:
        line = ["self-attention, n=8,192, d=64", verdict(memory, most=16.0)]
        show("peak memory", ["", "MB beside the result"], [line])
    native = ruvector_row(rounds)
    if native is None:
        print("ruvector-attention is not installed: it is left out")
    else:
        show("ruvector-attention", ["", "us", "its us", "times as fast"], [native])


if __name__ == "__main__":
    main()
