"""`attnbridge search`: the best rows of an index for a query."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.inputs import FILE, FOLDER, PARAM_HELP, WHERE_HELP, ids_of, params_of, read_array, read_query
from attnbridge.cli.output import finite, jsonable, print_json, print_table, shown, widened

if TYPE_CHECKING:
    from attnbridge.hits import Hits
    from attnbridge.rerank import Stage

# Payload columns that a table has room for.
_COLUMNS = 4


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--like", metavar="ID", help="Query: the row with this id (itself left out).")
@click.option("--vector", "vector_file", metavar="FILE", type=FILE, help="Query: .npy or .json, one vector or rows.")
@click.option("--vector-json", metavar="JSON", help='Query: "[0.1, 0.2]", or a list of those.')
@click.option("-k", type=click.IntRange(min=1), help="How many hits; by default 10, or all that --radius holds.")
@click.option("--where", metavar="SQL", help=WHERE_HELP)
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help=PARAM_HELP)
@click.option("--radius", type=click.FLOAT, help="Largest distance of a hit.")
@click.option("--candidates", type=click.IntRange(min=1), help="Rows that are ranked; by default as the index is set.")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="Skip so many of the best.")
@click.option("--threshold", type=float, help="Least score of a hit.")
@click.option("--exact", is_flag=True, help="Compare with every row instead of asking the graph.")
@click.option(
    "--time-budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Begin no further step after so long; what is found by then is shown.",
)
@click.option("--model", metavar="NAME", help="Model of the query: refuse an index whose vectors are of another.")
@click.option(
    "--rerank",
    multiple=True,
    metavar="TEXT",
    help='Stages after the first ranking, such as "expansion(top=5), late_interaction"; given again, further ones. '
    'Or "default" alone.',
)
@click.option(
    "--query-tokens",
    metavar="FILE",
    type=FILE,
    help="Stages that read tokens: .npy (m, dt), or (b, m, dt) for b queries; --like has the row's own.",
)
@click.option(
    "--query-text",
    "query_texts",
    multiple=True,
    metavar="TEXT",
    help="Stages that read the query's words: these; given again, of the next query.",
)
@click.option("--explain", is_flag=True, help="Say of each hit where it came from, and its rank after every step.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object, or a list of them where rows were given.")
def search(
    folder: Path,
    like: str | None,
    vector_file: Path | None,
    vector_json: str | None,
    rerank: tuple[str, ...],
    query_tokens: Path | None,
    query_texts: tuple[str, ...],
    params: tuple[str, ...],
    model: str | None,
    explain: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search the index in FOLDER, ranked by attention."""
    if sum(form is not None for form in (like, vector_file, vector_json)) != 1:
        raise click.UsageError("give one query: either --like, --vector or --vector-json")
    if explain and as_json:
        raise click.UsageError("--explain is for people to read: give it without --json")
    options["rerank"] = _stages(rerank)
    _check_needs(options["rerank"], like is not None, query_tokens, query_texts)
    options["params"] = params_of(params, options["where"])
    query: Any = None if like is not None else read_query(vector_file, vector_json)
    if query_tokens is not None:
        options["query_tokens"] = read_array(query_tokens)
    if query_texts:
        options["query_text"] = list(query_texts) if query is not None and query.ndim == 2 else _one(query_texts)
    from attnbridge.integrations import AttentionVectorBridge

    bridge = AttentionVectorBridge.open(folder, read_only=True, model=model)
    found: Hits | list[Hits]
    if like is not None:
        (id,) = ids_of(bridge, [like], "--like")
        found = bridge.search(id=id, **options)
    elif query.ndim == 1:
        found = bridge.search(query, **options)
    else:
        found = bridge.search_batch(query, **options)
    if as_json:
        _print_json(found)
    else:
        _print_tables(found, explain)
    _warn_of_cut(found if isinstance(found, list) else [found])


def _warn_of_cut(found: "list[Hits]") -> None:
    """Say on stderr what the time budget has cut short."""
    cut = sum(not hits.complete for hits in found)
    if cut:
        of = f" for {cut} of {len(found)} queries" if len(found) > 1 else ""
        click.echo(
            f"Warning: the time budget ended the search early{of}: hits may be missing, or not reranked", err=True
        )


def _stages(texts: tuple[str, ...]) -> "tuple[Stage, ...] | str":
    """Return the stages that the texts name, in their order; "default" is the bridge's to choose."""
    from attnbridge.rerank import as_stages

    return "default" if texts == ("default",) else as_stages(texts)


def _check_needs(rerank: "tuple[Stage, ...] | str", like: bool, tokens: Path | None, texts: tuple[str, ...]) -> None:
    """Refuse what no stage reads, and stages without what they read."""
    if isinstance(rerank, str):  # what it reads depends on the index
        return
    by_tokens = [stage.name for stage in rerank if stage.requires_tokens]
    by_text = [stage.name for stage in rerank if getattr(stage, "requires_text", False)]
    if by_tokens and tokens is None and not like:
        raise click.UsageError(f"--rerank {by_tokens[0]} needs --query-tokens FILE, or --like")
    if by_text and not texts:
        raise click.UsageError(f"--rerank {by_text[0]} needs --query-text TEXT")
    if texts and not by_text:
        raise click.UsageError("--query-text needs a --rerank stage that reads the query's words")


def _one(texts: tuple[str, ...]) -> str:
    if len(texts) > 1:
        raise click.UsageError(f"--query-text must be given once for one query, got {len(texts)}")
    return texts[0]


def _as_dict(hits: "Hits") -> dict[str, Any]:
    return {
        "hits": [
            {
                "id": hit.id,
                "score": finite(hit.score),
                "weight": finite(hit.weight),
                "distance": finite(hit.distance),
                "rank_before": hit.rank_before,
                "parts": {name: finite(float(values[i])) for name, values in hits.parts.items()},
                "payload": jsonable(hits.payload[i]),
            }
            for i, hit in enumerate(hits)
        ],
        "candidates": hits.candidates,
        "complete": hits.complete,
        "timings": dict(hits.timings),
    }


def _print_json(found: "Hits | list[Hits]") -> None:
    print_json([_as_dict(hits) for hits in found] if isinstance(found, list) else _as_dict(found))


def _print_tables(found: "Hits | list[Hits]", explain: bool) -> None:
    several = isinstance(found, list)
    for number, hits in enumerate(found if isinstance(found, list) else [found], 1):
        query = f"query {number}: " if several else ""
        click.echo(f"{query}{len(hits)} of {hits.candidates} candidates, {1e3 * hits.timings['total']:.2f} ms")
        rows = [
            [
                str(rank),
                shown(hit.id),
                f"{hit.score:#.6g}",
                f"{hit.weight:.4f}",
                f"{hit.distance:#.6g}",
                str(hit.rank_before + 1) if hit.rank_before >= 0 else "-",
            ]
            for rank, hit in enumerate(hits, 1)
        ]
        heads = ["rank", "id", "score", "weight", "distance", "rank before"]
        made, columns = widened(heads, rows, hits.payload, _COLUMNS)
        print_table(made)
        hidden = list(hits.payload[0])[columns:] if rows else []
        if hidden:
            click.echo(f"More payload with --json: {', '.join(map(shown, hidden))}")
        for i in range(len(hits) if explain else 0):
            click.echo(f"\n{hits.explain(i)}")
