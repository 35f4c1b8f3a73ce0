"""Measure attention: time and memory of a call of every type, and the figures that a reference table asks for."""

import math
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.functional import attention, attention_score
from attnbridge.integrations.timing import medians
from attnbridge.progress import progress_bar
from attnbridge.scoring import REGISTRY, resolve
from attnbridge.validation import as_count

Array = npt.NDArray[Any]
Call = Callable[[], object]

# Calls that are timed in a row, in turns with those of the others, so that what disturbs one disturbs all; and calls
# before them: kernels are compiled, data is where the processor finds it.
_BURST, _WARM = 20, 3

ITERATIONS = 200


class Measured(NamedTuple):
    """What one call took.

    Parameters
    ----------
    name : str
    seconds : float
        Median.
    p95 : float
        The time that 95 of 100 calls stay within.
    calls_per_second : float
        Over all calls, slow ones among them.
    peak_bytes : int
        Most that numpy and Python held beyond what they held before; what a kernel asks of the system itself does not
        show.
    over_numpy, over_torch : float or None
        How many times as fast as plain softmax attention over the same arrays there.

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import Measured
    >>> Measured("scaled_dot", 1e-5, 2e-5, 9e4, 4_000, 1.5, None).over_numpy
    1.5
    """

    name: str
    seconds: float
    p95: float
    calls_per_second: float
    peak_bytes: int
    over_numpy: float | None
    over_torch: float | None


def bench_attention(
    dim: int = 128,
    num_keys: int = 1000,
    num_queries: int = 1,
    types: Sequence[str] = ("all",),
    iterations: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> list[Measured]:
    """Measure `attention` of types of the registry, beside softmax(q K^T / sqrt(d)) V in numpy and torch.

    Parameters
    ----------
    dim, num_keys, num_queries : int
    types : sequence of str
        Names or aliases, or "all".
    iterations : int
        Timed calls of each; all take turns.
    seed : int
        Of the random vectors.
    progress : bool

    Returns
    -------
    list of Measured
        The types as they were named, then numpy, then torch where it is installed.

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import bench_attention
    >>> [row.name for row in bench_attention(8, 10, types=["scaled_dot"], iterations=2)][:2]
    ['scaled_dot', 'numpy']
    """
    dim, num_keys = as_count(dim, "dim"), as_count(num_keys, "num_keys")
    num_queries = as_count(num_queries, "num_queries")
    names = list(REGISTRY) if "all" in types else [resolve(name, {})[0].name for name in types]
    arrays = _arrays(dim, num_keys, num_queries, as_count(seed, "seed", least=0))
    calls: dict[str, Call] = {name: call_of(name, *arrays) for name in dict.fromkeys(names)}
    return measured(calls | _peers(*arrays), as_count(iterations, "iterations"), progress)


def _arrays(dim: int, keys: int, queries: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return query (d,) or (L, d), key and value, standard normal float32."""
    rng = np.random.default_rng(seed)
    query = rng.standard_normal(dim if queries == 1 else (queries, dim), np.float32)
    return query, rng.standard_normal((keys, dim), np.float32), rng.standard_normal((keys, dim), np.float32)


def call_of(name: str, query: Array, key: Array, value: Array, **options: Any) -> Call:
    """Return a call of the functional API with arrays that the type takes; its defaults where none fit is changed."""
    if name == "poincare":
        query, key = (rows / (1.0 + np.linalg.norm(rows, axis=-1, keepdims=True)) for rows in (query, key))
    if name == "multi_head":
        options = {"num_heads": math.gcd(8, query.shape[-1]), **options}
    if name == "sliding":
        last = len(key) - 1
        options = {"position": last if query.ndim == 1 else [min(i, last) for i in range(len(query))], **options}
    return partial(attention, query, key, value, name, max_keys=len(key), **options)


def _peers(query: Array, key: Array, value: Array) -> dict[str, Call]:
    scale = np.float32(query.shape[-1] ** -0.5)

    def by_numpy() -> Array:
        logits = query @ key.T * scale
        logits -= logits.max(axis=-1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=-1, keepdims=True)
        return np.asarray(logits @ value)

    peers: dict[str, Call] = {"numpy": by_numpy}
    try:
        torch = import_module("torch")
    except ImportError:
        return peers
    # Four axes and no gradients: with fewer, or with them, torch takes a slower way.
    tensors = [torch.from_numpy(np.atleast_2d(rows))[None, None] for rows in (query, key, value)]

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def by_torch() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(*tensors)

    return peers | {"torch": by_torch}


def measured(calls: Mapping[str, Call], iterations: int, progress: bool = False) -> list[Measured]:
    """Return what each call took, in turns of several; those named numpy and torch the others are held against.

    Parameters
    ----------
    calls : dict of callable
    iterations : int
    progress : bool

    Returns
    -------
    list of Measured

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import measured
    >>> measured({"sum": lambda: sum(range(100))}, iterations=3)[0].name
    'sum'
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with progress_bar(iterations * len(calls), "measuring", progress) as advance:
        for done in range(0, iterations, _BURST):
            count = min(_BURST, iterations - done)
            for name, call in calls.items():
                seconds[name] += _burst(call, count)
                advance(count)
    typical = medians(seconds)
    return [
        Measured(
            name,
            typical[name],
            float(np.quantile(taken, 0.95)),
            iterations / sum(taken),
            peak_bytes(calls[name]),
            *(typical[peer] / typical[name] if peer in typical else None for peer in ("numpy", "torch")),
        )
        for name, taken in seconds.items()
    ]


def _burst(call: Call, count: int) -> list[float]:
    """Return the seconds of so many calls in a row, after some that do not count."""
    taken = []
    for _ in range(_WARM):
        call()
    for _ in range(count):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


def peak_bytes(call: Call) -> int:
    """Return the most that numpy and Python held during a call, beyond what they held before.

    Parameters
    ----------
    call : callable

    Returns
    -------
    int

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import peak_bytes
    >>> peak_bytes(lambda: bytes(10_000)) >= 10_000
    True
    """
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not already:
            tracemalloc.stop()


# ---- the reference table


@dataclass(frozen=True)
class Target:
    """A line of the reference table.

    Parameters
    ----------
    what : str
    call : callable
    most_seconds : float or None
        What the median may be.
    least_rate : float or None
        What the calls per second must be.
    slow : callable or None
        Something that `call` must be `least_ratio` times as fast as.
    least_ratio : float or None

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import Target
    >>> Target("nothing", lambda: None, most_seconds=1e-5).goal
    '< 10 us'
    """

    what: str
    call: Call
    most_seconds: float | None = None
    least_rate: float | None = None
    slow: Call | None = None
    least_ratio: float | None = None

    @property
    def goal(self) -> str:
        """The target in words."""
        if self.most_seconds is not None:
            return f"< {microseconds(self.most_seconds)}"
        return f"> {self.least_rate:g} calls/s" if self.least_rate is not None else f">= {self.least_ratio:g}x"


class Reached(NamedTuple):
    """What a line of the reference table came to.

    Parameters
    ----------
    what, target, got : str
    seconds : float
        Median.
    peak_bytes : int
    passed : bool

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import Reached
    >>> Reached("dot, 128-d", "< 10 us", "6.1 us", 6.1e-6, 300, True).passed
    True
    """

    what: str
    target: str
    got: str
    seconds: float
    peak_bytes: int
    passed: bool


def microseconds(seconds: float) -> str:
    """Return a time in the unit in which it is easily read.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import microseconds
    >>> microseconds(6.14e-6), microseconds(0.0021)
    ('6.14 us', '2.1 ms')
    """
    if seconds >= 1.0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def targets() -> list[Target]:
    """Return the lines of the reference table; all go through the functions that users call, float32, one query.

    Returns
    -------
    list of Target

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import targets
    >>> targets()[0].what
    'dot product, d=128'
    """
    pair = _arrays(128, 1, 1)
    few, some, many, thousand = (_arrays(64, keys, 1) for keys in (128, 512, 2048, 1000))
    heads, thousand_heads, batch = _arrays(512, 512, 1), _arrays(512, 1000, 1), _arrays(384, 1000, 32)
    logits = np.empty(len(some[1]))
    compiled = partial(kernels.dot, some[0], 0.0, some[1], None, None, None, 0.125, logits)
    plain = partial(_plain_logits, some[0].tolist(), some[1].tolist(), 0.125)
    return [
        Target("dot product, d=128", partial(attention_score, pair[0], pair[1][0]), 10e-6),
        Target("scaled_dot, 128 keys, d=64", call_of("scaled_dot", *few), 15e-6),
        Target("scaled_dot, 512 keys, d=64", call_of("scaled_dot", *some), 45e-6),
        Target("multi_head, 8 heads x 64, 512 keys", call_of("multi_head", *heads), 38e-6),
        Target("flash_v2, 512 keys, d=64", call_of("flash_v2", *some), 38e-6),
        Target("flash_v2, 2,048 keys, d=64", call_of("flash_v2", *many), 150e-6),
        Target("scaled_dot, 1,000 keys, d=64", call_of("scaled_dot", *thousand), 500e-6),
        Target("multi_head, 8 heads x 64, 1,000 keys", call_of("multi_head", *thousand_heads), 2e-3),
        Target("scaled_dot, 32 queries x 1,000 keys, d=384", call_of("scaled_dot", *batch), 50e-3),
        Target("compiled logits, 512 keys, over a Python loop", compiled, slow=plain, least_ratio=2.0),
        Target("scaled_dot calls, 1,000 keys, d=64", call_of("scaled_dot", *thousand), least_rate=100.0),
    ]


def _plain_logits(query: list[float], keys: list[list[float]], scale: float) -> list[float]:
    """Return the logits as they are written without numpy or a compiler."""
    return [scale * sum(x * y for x, y in zip(query, key, strict=True)) for key in keys]


def bench_reference(
    iterations: int = ITERATIONS, lines: Sequence[Target] | None = None, progress: bool = False
) -> list[Reached]:
    """Measure the lines of the reference table.

    Parameters
    ----------
    iterations : int
        Timed calls of each line; all lines take turns.
    lines : sequence of Target, optional
        Those of `targets` by default.
    progress : bool

    Returns
    -------
    list of Reached

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> from attnbridge.integrations.attention_bench import Target, bench_reference
    >>> bench_reference(3, [Target("nothing", lambda: None, most_seconds=1.0)])[0].passed
    True
    """
    lines = targets() if lines is None else lines
    if not lines:
        raise InvalidConfigError("lines must not be empty: there is nothing to measure")
    calls = {line.what: line.call for line in lines}
    slow = {f"{line.what}, slow": line.slow for line in lines if line.slow is not None}
    found = {row.name: row for row in measured(calls | slow, as_count(iterations, "iterations"), progress)}
    return [_reached(line, found[line.what], found.get(f"{line.what}, slow")) for line in lines]


def _reached(line: Target, row: Measured, slow: Measured | None) -> Reached:
    if line.most_seconds is not None:
        got, passed = microseconds(row.seconds), row.seconds <= line.most_seconds
    elif line.least_rate is not None:
        got, passed = f"{row.calls_per_second:,.0f} calls/s", row.calls_per_second >= line.least_rate
    else:
        assert slow is not None
        assert line.least_ratio is not None
        ratio = slow.seconds / row.seconds
        got, passed = f"{ratio:.3g}x", ratio >= line.least_ratio
    return Reached(line.what, line.goal, got, row.seconds, row.peak_bytes, passed)
