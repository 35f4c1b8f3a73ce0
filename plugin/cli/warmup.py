"""`attnbridge warmup`: have every common kernel compiled and kept on disk."""

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from attnbridge.errors import InvalidConfigError
from attnbridge.progress import progress_bar


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar and no summary.")
def warmup(quiet: bool) -> None:
    """Compile the kernels once, so that no later search waits for it."""
    started = time.perf_counter()
    folder = _lasting_cache_folder()
    metrics = ("cosine", "ip", "l2", "poincare")
    steps: list[Callable[[], None]] = [
        _functions,
        _types,
        _layers,
        *(lambda m=metric: _bridge(m) for metric in metrics),
    ]
    for dtype in ("float16", "int8"):
        steps += [lambda m=metric, d=dtype: _compressed(m, d) for metric in ("cosine", "l2")]  # type: ignore[misc]
    with progress_bar(len(steps), "compiling", not quiet) as advance:
        for step in steps:
            step()
            advance(1)
    if not quiet:
        click.echo(f"{folder}: ready in {time.perf_counter() - started:.1f} s")


def _lasting_cache_folder() -> Path:
    """Return where compiled kernels are kept; a folder that only this process knows is of no use later."""
    from attnbridge.kernels import _jit

    if _jit.CACHE_FOLDER.name != f"attnbridge-{_jit.source_key()}":
        raise InvalidConfigError("no folder for compiled kernels can be written; name one that can in NUMBA_CACHE_DIR")
    return _jit.CACHE_FOLDER


def _functions() -> None:
    """Call the functional API once."""
    import numpy as np

    from attnbridge import functional

    keys = np.eye(3, 8, dtype=np.float32)
    functional.softmax(keys[0])
    functional.attention_score(keys[0], keys[1])
    functional.attention_scores(keys[0], keys)
    functional.attention_logits(keys, keys)
    for rows in (keys, np.eye(40, 8, dtype=np.float32)):  # few queries, and many
        functional.attention(rows, rows, rows)
    functional.attention_score(keys[0] / 2, keys[1] / 2, "poincare")


def _types() -> None:
    """Attend once by each type of the registry: one query, and a sequence of them, causal where that is possible."""
    import numpy as np

    from attnbridge.errors import InvalidConfigError
    from attnbridge.integrations.attention_bench import call_of
    from attnbridge.scoring import REGISTRY, resolve

    rows = np.eye(64, 8, dtype=np.float32) / 2  # few queries have a kernel of their own
    for name in REGISTRY:
        call_of(name, rows[0], rows, rows)()
        call_of(name, rows, rows, rows)()
        with suppress(InvalidConfigError):  # no sequence, or no place in one
            mechanism = REGISTRY[name].mechanism(resolve(name, {})[1])
            mechanism.forward(rows, rows, rows, is_causal=True)


def _layers() -> None:
    """Run the layers over a small graph once."""
    import numpy as np

    from attnbridge.graph_layers import GATConv, GATv2Conv

    for layer in (GATConv(8, 4, heads=2), GATv2Conv(8, 4, heads=2)):
        layer.graph_forward(np.eye(3, 8, dtype=np.float32), [[0, 1], [1, 2]])


def _bridge(metric: str) -> None:
    """Use a small bridge from its making to its reopening, so that whatever it calls is compiled."""
    import numpy as np

    from attnbridge.integrations import AttentionVectorBridge
    from attnbridge.rerank import MMR, LateInteraction, ListwiseSmoothing, QueryExpansion

    rows = np.random.default_rng(0).random((64, 8), dtype=np.float32) / 8
    built = AttentionVectorBridge(8, metric, "poincare" if metric == "poincare" else "scaled_dot")
    built.add(rows, tokens=list(rows.reshape(64, 2, 4)))
    built.link()
    coded = AttentionVectorBridge(8, metric, built.config["attention"], index="exact", token_dtype="int8")
    coded.add(rows, tokens=list(rows.reshape(64, 2, 4)))
    coded.search(id=1, k=3, rerank="default")
    with tempfile.TemporaryDirectory() as folder:
        built.save(folder)
        for bridge in (built, AttentionVectorBridge.open(folder, mmap=False)):
            bridge.search(rows[0], k=3)
            bridge.search(rows[0], k=3, exact=True)
            bridge.search(id=1, k=3, rerank=[QueryExpansion(), LateInteraction()])
            bridge.search(id=1, k=3, rerank=[ListwiseSmoothing(), MMR()])
            bridge.search_batch(rows, k=40, filter=[1, 2, 3])
            bridge.search(rows[0], k=3, filter=np.arange(64) % 2 == 0)


def _compressed(metric: str, dtype: str) -> None:
    """Walk over rows of fewer bits, reduced ones and those that are all that is kept."""
    import numpy as np

    from attnbridge.integrations import AttentionVectorBridge
    from attnbridge.integrations.reduction import rows_needed

    rows = np.random.default_rng(0).random((rows_needed(4), 4), dtype=np.float32)
    for options in ({"index_dim": 2}, {"keep_full": False}):
        bridge = AttentionVectorBridge(4, metric, M=2, ef_construction=2, dtype=dtype, **options)
        bridge.add(rows if "index_dim" in options else rows[:64], progress=False)
        bridge.link(progress=False)
        bridge.search(rows[0], k=3)
        bridge.search(rows[0], k=3, filter=[1, 2, 3])
