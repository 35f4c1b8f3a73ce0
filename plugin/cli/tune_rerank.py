"""`attnbridge tune-rerank`: the rerank stages that suit one's own data."""

from pathlib import Path
from typing import Any

import click

from attnbridge.cli.judged import Needs, judged, judged_options, needs_of
from attnbridge.cli.output import print_json


@click.command("tune-rerank")
@judged_options
@click.option(
    "--grid", multiple=True, metavar="TEXT", help='Stages to try besides the usual ones: "expansion(mix=0.2)".'
)
@click.option("--only-grid", is_flag=True, help="Try those of --grid alone.")
@click.option("--measure", default="nDCG@10", show_default=True, metavar="NAME", help="What to maximise.")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Parts of the queries.")
def tune_rerank(
    folder: Path,
    grid: tuple[str, ...],
    only_grid: bool,
    measure: str,
    folds: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Choose rerank stages and their options by cross-validation on the judged queries of FOLDER.

    FOLDER is what `attnbridge evaluate` takes. Figures are of queries held out: each fold is ranked by what was the
    best on the others. The choice, made on all of them, is text for --rerank.
    """
    if only_grid and not grid:
        raise click.UsageError("--only-grid needs --grid")
    from attnbridge import tune_rerank as tune
    from attnbridge.integrations.judged import as_systems
    from attnbridge.integrations.rerank_tuning import GRID, default_grid

    own = needs_of(as_systems(grid).values())
    usual = Needs() if only_grid else needs_of(as_systems(GRID).values())
    # What the usual settings read is read where it is there, and not asked for where it is not.
    needs = Needs(
        *(mine if mine else (None if theirs is None else "") for mine, theirs in zip(own, usual, strict=True))
    )
    with judged(folder, needs, **options) as (bridge, inputs, others):
        tokens = bridge.memory()["tokens"] > 0 and inputs["query_tokens"] is not None
        settings = [] if only_grid else default_grid(tokens=tokens, text=inputs["query_text"] is not None)
        settings += [text.strip() for text in grid if text.strip() not in settings]
        found = tune(
            bridge, grid=settings, measure=measure, folds=folds, progress=not options["quiet"], **inputs, **others
        )
    if as_json:
        print_json({"folder": str(folder), **found.to_dict()})
    else:
        click.echo(str(found))
