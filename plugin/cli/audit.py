"""`attnbridge audit`: how good an index's answers are, how fast it gives them and how large it is."""

from pathlib import Path

import click

from attnbridge.cli.inputs import FILE, FOLDER, opened, read_queries
from attnbridge.cli.output import print_json


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits of a query.")
@click.option("--sample", type=click.IntRange(min=1), default=200, show_default=True, help="Stored rows as queries.")
@click.option("--queries", metavar="FILE", type=FILE, help="Queries of your own instead: .npy or .json, rows.")
@click.option(
    "--selectivity",
    "selectivities",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the rows that a random filter lets pass; may be given again. [default: 1.0, 0.5, 0.1, 0.01]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sample and the filters.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar.")
def audit(
    folder: Path,
    k: int,
    sample: int,
    queries: Path | None,
    selectivities: tuple[float, ...],
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the index in FOLDER: recall@k against exact search, with and without filters, speed and bytes.

    By default some stored rows are the queries, each with itself left out; queries of your users tell more.
    """
    vectors = read_queries(queries)
    options = {"selectivities": selectivities} if selectivities else {}
    with opened(folder, write=False) as bridge:
        bridge.link(progress=not quiet)
        found = bridge.audit(k, queries=vectors, sample=sample, seed=seed, progress=not quiet, **options)
    if as_json:
        rows = [row._asdict() for row in found.rows]
        about = {"k": found.k, "queries": found.queries, "threads": found.threads}
        print_json({"folder": str(folder), **about, "rows": rows, "bytes": dict(found.bytes)})
    else:
        click.echo(str(found))
