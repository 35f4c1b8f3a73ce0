"""What the benchmark scripts share: interleaved timing, tables, the data sets' folder."""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from attnbridge.integrations.timing import interleaved as interleaved
from attnbridge.integrations.timing import medians as medians

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def arguments(doc: str | None, *, data: bool = False, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with what every script takes."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds, medians are reported")
    if data:
        parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets, or a file of vectors")
    return parser


def need(path: Path) -> Path:
    """Return a path that is there, or leave with a message."""
    if not path.exists():
        sys.exit(f"{path} is not there: the data sets are no part of the project; name their folder with --data PATH")
    return path


def read_vectors(path: Path) -> np.ndarray:
    """Return float32 rows of a npy file, or the WordNet ones of the data sets' folder."""
    path = path if path.suffix == ".npy" else path / "wordnet" / "noun_emb_f16.npy"
    return np.load(need(path)).astype(np.float32)


def spread(values: Sequence[float]) -> str:
    """Return the quartiles around a median, in per cent of it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{100 * (low / middle - 1):+.0f}..{100 * (high / middle - 1):+.0f}%"


def verdict(value: float, *, most: float | None = None, least: float | None = None) -> str:
    """Return a value with the bound it is held against and whether it keeps it."""
    kept = (most is None or value <= most) and (least is None or value >= least)
    bound = f"<= {most:g}" if most is not None else f">= {least:g}"
    return f"{value:.3f} ({bound}: {'yes' if kept else 'NO'})"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, numbers to the right."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    for column in table.columns[1:]:
        column.justify = "right"
    # A pipe has no width of its own; a cut-off figure is none.
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def machine() -> str:
    """Return what the figures depend on."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores{load}, Python {sys.version.split()[0]}"
