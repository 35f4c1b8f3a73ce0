"""`attnbridge tune`: the fastest search that reaches a wanted recall, kept in the index."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import click

from attnbridge.cli.inputs import FILE, FOLDER, opened, read_queries
from attnbridge.cli.output import print_json


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Mean recall@k to reach, against exact search.",
)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits of a query.")
@click.option("--sample", type=click.IntRange(min=1), default=200, show_default=True, help="Stored rows as queries.")
@click.option("--queries", metavar="FILE", type=FILE, help="Queries of your own instead: .npy or .json, rows.")
@click.option(
    "--min-candidates",
    type=click.IntRange(min=1),
    help="Fewest candidates to try; by default as the index is set, since rerank stages see no others.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sample.")
@click.option("--dry-run", is_flag=True, help="Measure only: leave the index as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar and no table.")
def tune(
    folder: Path,
    recall: float,
    k: int,
    sample: int,
    queries: Path | None,
    min_candidates: int | None,
    seed: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Set the index in FOLDER to the fastest search that reaches a recall, and save the setting there.

    Searches use it where they are not told otherwise. Where nothing reaches the recall the index stays as it is, and
    the exit code is 1.
    """
    vectors = read_queries(queries)
    with opened(folder, write=not dry_run) as bridge:
        bridge.link(progress=not quiet)
        before = bridge.config
        with redirect_stdout(io.StringIO()):  # what it prints is printed below
            found = bridge.tune(
                recall,
                k=k,
                queries=vectors,
                sample=sample,
                min_candidates=min_candidates,
                seed=seed,
                progress=not quiet,
            )
        save = found.reached and not dry_run and bridge.config != before
        if save:
            bridge.save(folder)
    if as_json:
        about = {"target": found.target, "k": found.k, "queries": found.queries, "threads": found.threads}
        result = {"reached": found.reached, "saved": save, "best": found.best._asdict()}
        print_json({"folder": str(folder), **about, **result, "rows": [row._asdict() for row in found.rows]})
    elif not quiet:
        click.echo(str(found))
        setting = f"ef={found.best.ef}, candidates={found.best.candidates}"
        if found.reached and not dry_run:
            click.echo(f"\n{folder}: {'saved' if save else 'has already'} {setting}")
    if not found.reached:
        raise click.exceptions.Exit(1)
