"""`attnbridge bench attention` and `bench reference`: what a call of attention takes on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.inputs import FILE
from attnbridge.cli.output import jsonable, print_table, table
from attnbridge.whole_file import require_folder

if TYPE_CHECKING:
    from attnbridge.integrations.attention_bench import Measured, Reached

_JSON = click.option("--json", "json_file", metavar="FILE", type=FILE, help="Write every figure there.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Show no progress bar.")


@click.command()
@click.option("--dim", type=click.IntRange(min=1), default=128, show_default=True, help="Dimension of the vectors.")
@click.option("--num-keys", type=click.IntRange(min=1), default=1000, show_default=True, help="Keys and values.")
@click.option("--num-queries", type=click.IntRange(min=1), default=1, show_default=True, help="Queries of a call.")
@click.option(
    "--attention-type",
    "types",
    metavar="NAME",
    multiple=True,
    default=("all",),
    show_default="all",
    help="A type of the registry; may be given again.",
)
@click.option("--iterations", type=click.IntRange(min=1), default=100, show_default=True, help="Timed calls of each.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random vectors.")
@_JSON
@_QUIET
def attention(
    dim: int,
    num_keys: int,
    num_queries: int,
    types: tuple[str, ...],
    iterations: int,
    seed: int,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Time a call of attention of each type, on random float32 vectors.

    numpy and torch (where it is installed) compute plain softmax attention over the same arrays; a figure in their
    columns says how many times as fast a type is. They take turns, several calls at a time. Memory is what numpy and
    Python hold at most during a call; what a kernel asks of the system itself does not show.
    """
    require_folder(json_file, "--json")
    from attnbridge.integrations.attention_bench import bench_attention

    found = bench_attention(dim, num_keys, num_queries, types, iterations, seed, not quiet)
    click.echo(
        f"{num_queries:,} {'query' if num_queries == 1 else 'queries'} x {num_keys:,} keys, dimension {dim:,}; "
        f"{iterations:,} calls of each"
    )
    _show_types(found)
    about = {"dim": dim, "num_keys": num_keys, "num_queries": num_queries, "iterations": iterations, "seed": seed}
    _write(json_file, {**about, "types": [row._asdict() for row in found]})


def _show_types(found: "list[Measured]") -> None:
    peers = [peer for peer in ("numpy", "torch") if any(row.name == peer for row in found)]
    made = table("attention", "median us", "p95 us", "calls/s", "peak KB", *(f"x {peer}" for peer in peers), left=0)
    for row in found:
        ratios = {"numpy": row.over_numpy, "torch": row.over_torch}
        made.add_row(
            row.name,
            f"{row.seconds * 1e6:,.1f}",
            f"{row.p95 * 1e6:,.1f}",
            f"{row.calls_per_second:,.0f}",
            f"{row.peak_bytes / 1e3:,.1f}",
            *(f"{ratios[peer]:.3f}" for peer in peers),
        )
    print_table(made)


@click.command()
@click.option("--iterations", type=click.IntRange(min=1), default=200, show_default=True, help="Timed calls of each.")
@_JSON
@_QUIET
def reference(iterations: int, json_file: Path | None, quiet: bool) -> None:
    """Hold the times of common calls against the targets of a reference table; the exit code is 1 where one is missed.

    Times are medians through the functions that users call, checks of the arguments included.
    """
    require_folder(json_file, "--json")
    from attnbridge.integrations.attention_bench import bench_reference

    found = bench_reference(iterations, progress=not quiet)
    _show_targets(found)
    _write(json_file, {"iterations": iterations, "lines": [row._asdict() for row in found]})
    missed = [row.what for row in found if not row.passed]
    if missed:
        raise click.ClickException(f"{len(missed)} of {len(found)} targets missed: {'; '.join(missed)}")


def _show_targets(found: "list[Reached]") -> None:
    made = table("what", "target", "measured", "median us", "peak KB", "", left=0)
    for row in found:
        passed = "pass" if row.passed else "FAIL"
        made.add_row(row.what, row.target, row.got, f"{row.seconds * 1e6:,.1f}", f"{row.peak_bytes / 1e3:,.1f}", passed)
    print_table(made)


def _write(file: Path | None, report: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(jsonable(report), indent=2, allow_nan=False) + "\n")
