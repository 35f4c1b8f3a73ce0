"""`attnbridge evaluate`: whether rerank stages rank better, on one's own judged queries."""

from pathlib import Path
from typing import Any

import click

from attnbridge.cli.inputs import FILE, FOLDER
from attnbridge.cli.judged import judged, judged_options, needs_of
from attnbridge.cli.output import print_json
from attnbridge.whole_file import require_folder


@click.command()
@judged_options
@click.option(
    "--rerank",
    multiple=True,
    metavar="TEXT",
    help='Stages beside plain, such as "expansion(top=5), late_interaction", or "default"; may be given again.',
)
@click.option("--measure", "measures", multiple=True, metavar="NAME", help="As ir-measures has it; may be given again.")
@click.option("--run", "runs", multiple=True, metavar="FILE", type=FILE, help="A TREC run to compare too.")
@click.option("--run-dir", metavar="FOLDER", type=FOLDER, help="Write a TREC run for each system.")
@click.option(
    "--rounds", type=click.IntRange(min=0), default=3, show_default=True, help="Timed rounds; 0: do not time."
)
def evaluate(
    folder: Path,
    rerank: tuple[str, ...],
    measures: tuple[str, ...],
    runs: tuple[Path, ...],
    run_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure rankings on the judged queries of FOLDER: an evaluation folder, or a saved index.

    An evaluation folder holds corpus.jsonl (or doc_ids.json), queries.jsonl (or query_ids.json), docs.npy,
    queries.npy and qrels.tsv (or qrels/test.tsv, qrels.txt); for late interaction doc_tokens.npy (or
    doc_tokens_i8.npy with meta.json), doc_token_offsets.npy, query_tokens.npy and query_token_offsets.npy.
    """
    require_folder(run_dir, "--run-dir")
    from attnbridge import evaluate as measure
    from attnbridge.integrations import read_run
    from attnbridge.integrations.judged import as_systems

    systems = as_systems(rerank)
    del systems["plain"]
    with judged(folder, needs_of(systems.values()), **options) as (bridge, inputs, others):
        found = measure(
            bridge,
            systems=systems,
            measures=measures or None,
            runs=_named(runs, read_run),
            progress=not options["quiet"],
            **inputs,
            **others,
        )
    if not as_json:  # first what took the time
        click.echo(str(found))
    files = [] if run_dir is None else found.write_runs(run_dir)
    if as_json:
        print_json({"folder": str(folder), **found.to_dict(), "runs": [str(file) for file in files]})
    else:
        for file in files:
            click.echo(f"{file}")


def _named(files: tuple[Path, ...], read: Any) -> dict[str, Any]:
    """Return runs by the names of their files."""
    named: dict[str, Any] = {}
    for file in files:
        if file.stem in named:
            raise click.UsageError(f"--run files must have names of their own, {file.stem} is there twice")
        named[file.stem] = read(file)
    return named
