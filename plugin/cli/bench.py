"""`attnbridge bench`: this library beside others, on vectors of one's own."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attnbridge.cli.bench_attention import attention, reference
from attnbridge.cli.inputs import FILE, names_of, read_queries
from attnbridge.cli.output import jsonable, print_table, table
from attnbridge.whole_file import require_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from attnbridge.integrations.benchmark import Benchmark, FilterPoint

_PLOTS = (".png", ".svg")

_Number = TypeVar("_Number", int, float)


@click.group()
def bench() -> None:
    """Measure this library beside others."""


bench.add_command(attention)
bench.add_command(reference)


@bench.command()
@click.argument("data", type=FILE, required=False)
@click.option("--vector", metavar="COLUMN", help="Column of vectors (npz: array). [default: embedding]")
@click.option(
    "--queries", metavar="N|FILE", default="1000", show_default=True, help="Rows to hold out, or a .npy or .json file."
)
@click.option("--metric", type=click.Choice(["cosine", "ip", "l2"]), default="cosine", show_default=True)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits of a query.")
@click.option("--m", "M", type=click.IntRange(min=2), default=16, show_default=True, help="Links of a row.")
@click.option("--ef-construction", type=click.IntRange(min=1), default=200, show_default=True, help="Build breadth.")
@click.option("--ef", metavar="LIST", help="Search breadths. [default: 10,20,30,50,80,120,200,400, those from k on]")
@click.option(
    "--threads",
    multiple=True,
    type=click.Choice(["one", "all"]),
    help="Threads of the searches; may be given again. [default: both]",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Interleaved; medians count.")
@click.option("--only", multiple=True, metavar="NAMES", help="Only these, such as hnswlib,faiss-sq8; may be repeated.")
@click.option(
    "--level", metavar="LIST", default="0.95,0.99", show_default=True, help="Recalls at which speeds are compared."
)
@click.option("--filters", is_flag=True, help="Search with filters too that let 50, 10, 1 and 0.1 % of the rows pass.")
@click.option("--filter-ef", type=click.IntRange(min=1), default=100, show_default=True, help="Breadth of those.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of held-out rows and filters.")
@click.option("-o", "--output", metavar="FILE", type=FILE, help="Draw recall against speed: .png or .svg.")
@click.option("--json", "json_file", metavar="FILE", type=FILE, help="Write every figure there.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar.")
def search(
    data: Path | None,
    vector: str | None,
    queries: str,
    metric: str,
    k: int,
    M: int,  # noqa: N803 - the paper's name
    ef_construction: int,
    ef: str | None,
    threads: tuple[str, ...],
    rounds: int,
    only: tuple[str, ...],
    level: str,
    filters: bool,
    filter_ef: int,
    seed: int,
    output: Path | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Compare indexes over the vectors of DATA: recall@k against queries per second, build time and bytes.

    DATA is Parquet, CSV, TSV, JSON lines, npy or npz; without it the demo's vectors are taken. hnswlib, faiss,
    usearch and voyager are asked where they are installed, all with the same M and ef-construction. Recall is against
    exact search. Every round asks every index at every breadth, so that what disturbs one disturbs all.

    Three sizes stand beside each other: what the library itself tells, the saved file, and by how much the resident
    memory of a fresh process grew when it opened that file and answered queries.
    """
    levels = _numbers(level, "--level", float)
    efs = None if ef is None else _numbers(ef, "--ef", int)
    names = names_of(only, "--only") if only else None
    if not all(0.0 < value <= 1.0 for value in levels):
        raise click.UsageError(f"--level must be recalls in (0, 1], got {level}")
    _check_files(output, json_file)
    from attnbridge.integrations.benchmark import EFS, SHARES, benchmark
    from attnbridge.threads import usable_threads

    counts = {"one": 1, "all": usable_threads()}
    held_out = int(queries) if queries.isdecimal() else read_queries(Path(queries))
    found = benchmark(
        _vectors(data, vector),
        held_out,
        metric=metric,
        k=k,
        M=M,
        ef_construction=ef_construction,
        efs=[value for value in EFS if value >= k] or [k] if efs is None else efs,
        threads=[counts[name] for name in threads or counts],
        rounds=rounds,
        only=names,
        filter_shares=SHARES if filters else (),
        filter_ef=filter_ef,
        seed=seed,
        progress=not quiet,
    )
    _show(found, levels)
    if json_file is not None:
        json_file.write_text(json.dumps(jsonable(_report(found, data, levels)), indent=2, allow_nan=False) + "\n")
    if output is not None:
        from attnbridge.cli.curves import draw

        draw(found, output)


def _numbers(text: str, option: str, kind: Callable[[str], _Number]) -> list[_Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise click.UsageError(f"{option} must be {what} separated by commas, got {text!r}") from None


def _check_files(output: Path | None, json_file: Path | None) -> None:
    """Refuse what cannot be written, before the time to measure is spent."""
    if output is not None:
        if output.suffix.lower() not in _PLOTS:
            raise click.UsageError(f"--output must be a .png or .svg file, got {output.name}")
        from attnbridge.validation import require

        require("matplotlib", "viz")
    require_folder(output, "--output")
    require_folder(json_file, "--json")


def _vectors(data: Path | None, vector: str | None) -> "npt.NDArray[np.float32]":
    """Return the vectors of a file, or the demo's."""
    if data is None:
        from attnbridge.cli.demo import placed_documents

        if vector is not None:
            raise click.UsageError("--vector needs DATA, a file that has such a column")
        return placed_documents({})[2]
    import numpy as np

    from attnbridge.integrations.tables import from_file

    return np.concatenate([np.asarray(batch.vectors, np.float32) for batch in from_file(data, vector, None).batches])


# ---- what a person sees


def _show(found: "Benchmark", levels: Sequence[float]) -> None:
    about = found.about
    click.echo(
        f"{about['rows']:,} x {about['dim']} rows, {about['metric']}; {about['queries']:,} queries, k={about['k']}; "
        f"M={about['M']}, ef_construction={about['ef_construction']}; medians of {about['rounds']} rounds"
        + ("" if about["load"] is None else f"; load {about['load']:.1f} at the end")
    )
    for name, problem in found.skipped.items():
        click.echo(f"{name}: {problem}")
    _show_indexes(found)
    for threads in about["threads"]:
        _show_levels(found, levels, threads)
    _show_points(found)
    if found.filtered:
        _show_filtered(found)


def _show_indexes(found: "Benchmark") -> None:
    click.echo(f"\nBuilt with {found.about['build_threads']} thread(s); megabytes")
    made = table("index", "build s", "as it tells", "on disk", "resident", left=0)
    for index in found.indexes:
        sizes = (index.told_bytes, index.disk_bytes, index.resident_bytes)
        made.add_row(index.name, f"{index.build_seconds:.1f}", *(_figure(size, "{:,.1f}", 1e-6) for size in sizes))
    print_table(made)


def _show_levels(found: "Benchmark", levels: Sequence[float], threads: int) -> None:
    click.echo(f"\nQueries per second at equal recall@{found.about['k']}, {threads} thread(s)")
    heads = [head for level in levels for head in (f"at {level:g}", "x hnswlib", "x best peer")]
    made = table("index", *heads, left=0)
    lines: dict[str, list[str]] = {}
    for level in levels:
        for row in found.levels(level):
            if row.threads == threads:
                lines.setdefault(row.name, []).extend(
                    (
                        _figure(row.queries_per_second, "{:,.0f}"),
                        _figure(row.over_hnswlib, "{:.2f}"),
                        _figure(row.over_best_peer, "{:.2f}"),
                    )
                )
    for name, cells in lines.items():
        made.add_row(name, *cells)
    print_table(made)


def _show_points(found: "Benchmark") -> None:
    counts = found.about["threads"]
    click.echo("\nEvery breadth; queries per second")
    made = table("index", "ef", f"recall@{found.about['k']}", *(f"{count} thread(s)" for count in counts), left=0)
    for index in found.indexes:
        curves = [found.curve(index.name, count) for count in counts]
        for points in zip(*curves, strict=True):
            first = points[0]
            name = index.name if first is curves[0][0] else ""
            speeds = (f"{point.queries_per_second:,.0f}" for point in points)
            made.add_row(name, str(first.ef), f"{first.recall:.4f}", *speeds)
    print_table(made)


def _show_filtered(found: "Benchmark") -> None:
    ef = found.filtered[0].ef
    click.echo(f"\nFiltered, ef={ef}, 1 thread: recall@{found.about['k']}, fewest hits of a query, queries per second")
    made = table("index", "pass", "rows", "recall", "fewest", "queries/s", left=0)
    for name in dict.fromkeys(point.name for point in found.filtered):
        for place, point in enumerate(point for point in found.filtered if point.name == name):
            made.add_row("" if place else name, *_filter_cells(point))
    print_table(made)
    for reason in dict.fromkeys(found.unfiltered.values()):
        click.echo(reason)


def _filter_cells(point: "FilterPoint") -> Iterable[str]:
    return (
        f"{100 * point.share:g} %",
        f"{point.rows:,}",
        f"{point.recall:.4f}",
        str(point.fewest),
        f"{point.queries_per_second:,.0f}",
    )


def _figure(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)


# ---- what a machine reads


def _report(found: "Benchmark", data: Path | None, levels: Sequence[float]) -> dict[str, Any]:
    """Return every figure."""
    return {
        "data": None if data is None else str(data),
        **found.about,
        "indexes": [row._asdict() for row in found.indexes],
        "levels": [row._asdict() for level in levels for row in found.levels(level)],
        "points": [row._asdict() for row in found.points],
        "filtered": [row._asdict() for row in found.filtered],
        "skipped": dict(found.skipped),
        "unfiltered": dict(found.unfiltered),
    }
