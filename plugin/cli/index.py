"""`attnbridge index`: vectors from a file into an index on disk."""

import os
import time
from pathlib import Path
from typing import Any

import click

from attnbridge.cli.inputs import locked, names_of
from attnbridge.cli.output import print_json
from attnbridge.errors import InvalidInputError

# Options of the hnswlib graph: their flags and the bridge's names for them.
_GRAPH_OPTIONS = {"m": "M", "ef_construction": "ef_construction", "ef": "ef", "seed": "seed", "threads": "threads"}


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="Where to save.")
@click.option("--vector", metavar="COLUMN", help="Column of vectors (npz: array). [default: embedding]")
@click.option("--id", metavar="COLUMN", help="Column of ids (npz: array); without it rows are numbered from 0.")
@click.option(
    "--payload",
    multiple=True,
    metavar="COLUMNS",
    help="Columns to keep beside the vectors, such as lang,year; '*' keeps all others; may be given again.",
)
@click.option("--model", metavar="NAME", help="Model that made the vectors; `search --model` compares it.")
@click.option("--metric", type=click.Choice(["cosine", "ip", "l2"]), default="cosine", show_default=True)
@click.option(
    "--index",
    "index_type",
    type=click.Choice(["auto", "hnsw", "exact"]),
    default="auto",
    show_default=True,
    help="hnsw is approximate and fast, exact reads every row; auto is hnsw where hnswlib runs.",
)
@click.option("--m", type=click.IntRange(min=2), help="hnsw: links of a row. [default: 16]")
@click.option("--ef-construction", type=click.IntRange(min=1), help="hnsw: breadth while building. [default: 200]")
@click.option("--ef", type=click.IntRange(min=1), help="hnsw: least breadth of a search. [default: 100]")
@click.option("--seed", type=click.IntRange(min=0), help="hnsw: random seed. [default: 100]")
@click.option("--threads", type=click.IntRange(min=1), help="hnsw: threads that build; one of them repeats exactly.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the rows that the graph is walked over; what the walk finds is ranked by the full rows.",
)
@click.option("--index-dim", type=click.IntRange(min=1), help="Reduce those to so many principal directions.")
@click.option("--no-full", is_flag=True, help="Keep no rows but those of --dtype, and rank by them.")
@click.option("--freeze", is_flag=True, help="Save it frozen: the smallest memory where it is opened, no writes.")
@click.option("--overwrite", is_flag=True, help="Replace the index that FOLDER holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar and no summary.")
def index(
    data: Path,
    output: Path,
    vector: str | None,
    id: str | None,
    payload: tuple[str, ...],
    model: str | None,
    metric: str,
    index_type: str,
    dtype: str,
    index_dim: int | None,
    no_full: bool,
    freeze: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **graph: int | None,
) -> None:
    """Build an index from DATA: Parquet, CSV, TSV, JSON lines, npy or npz."""
    options: dict[str, Any] = {_GRAPH_OPTIONS[name]: value for name, value in graph.items() if value is not None}
    if index_type == "exact" and options:
        given = ", ".join(f"--{name.replace('_', '-')}" for name, value in graph.items() if value is not None)
        raise click.UsageError(f"--index exact has no graph to apply {given} to")
    if model is not None:
        options["model"] = model
    options |= {"dtype": dtype, "index_dim": index_dim, "keep_full": not no_full}
    columns = _columns(payload)
    _check_output(output, overwrite)
    from attnbridge.integrations import AttentionVectorBridge

    started = time.perf_counter()
    with locked(output):
        bridge = AttentionVectorBridge.from_file(
            data, vector, id, payload=columns, progress=not quiet, metric=metric, index=index_type, **options
        )
        if freeze:
            bridge.freeze(progress=not quiet)
        bridge.save(output)
    seconds = time.perf_counter() - started
    about = bridge.config
    result = {"folder": str(output), "rows": len(bridge), **{name: about[name] for name in ("dim", "metric", "index")}}
    if as_json:
        print_json({**result, "seconds": round(seconds, 3)})
    elif not quiet:
        click.echo(
            f"{output}: {len(bridge)} rows, dimension {about['dim']}, metric {metric}, index {about['index']}, "
            f"{seconds:.1f} s"
        )


def _columns(payload: tuple[str, ...]) -> list[str] | bool | None:
    """Return the columns to keep: those named, all, or none."""
    names = names_of(payload, "--payload")
    if "*" in names and len(names) > 1:
        raise click.UsageError("--payload '*' keeps all columns: name no others")
    return True if names == ["*"] else names or None


def _check_output(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot take the index, before the time to build one is spent."""
    from attnbridge.integrations.snapshot import check_target, is_index

    check_target(folder)
    if is_index(folder) and not overwrite:
        raise InvalidInputError(f"{folder} holds an index already; choose another name, or replace it with --overwrite")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InvalidInputError(f"{folder} cannot be made: {existing} is a file; choose another name")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidInputError(f"{folder} cannot be written: no permission for {existing}; choose another name")
