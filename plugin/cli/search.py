"""`attnbridge search`: the best rows of an index for a query."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.output import finite, print_json, print_table, shown, table
from attnbridge.errors import InvalidInputError

if TYPE_CHECKING:
    from attnbridge.hits import Hits, Id
    from attnbridge.integrations import AttentionVectorBridge
    from attnbridge.rerank import Stage

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--like", metavar="ID", help="Query: the row with this id (itself left out).")
@click.option("--vector", "vector_file", metavar="FILE", type=_FILE, help="Query: .npy or .json, one vector or rows.")
@click.option("--vector-json", metavar="JSON", help='Query: "[0.1, 0.2]", or a list of those.')
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many hits.")
@click.option("--candidates", type=click.IntRange(min=1), default=100, show_default=True, help="Rows that are ranked.")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="Skip so many of the best.")
@click.option("--threshold", type=float, help="Least score of a hit.")
@click.option("--exact", is_flag=True, help="Compare with every row instead of asking the graph.")
@click.option(
    "--rerank",
    multiple=True,
    type=click.Choice(["expansion", "late_interaction"]),
    help="A stage after the first ranking; give it again for more, in this order.",
)
@click.option("--expansion-top", type=click.IntRange(min=1), help="Candidates attended to. [default: 10]")
@click.option(
    "--expansion-scale", type=click.FloatRange(min=0, min_open=True), help="Higher follows the first. [default: 40.0]"
)
@click.option("--expansion-mix", type=click.FloatRange(0, 1), help="Share of the new query. [default: 0.5]")
@click.option("--late-interaction-mix", type=click.FloatRange(0, 1), help="Share of the new score. [default: 0.7]")
@click.option(
    "--query-tokens",
    metavar="FILE",
    type=_FILE,
    help="late_interaction: .npy (m, dt), or (b, m, dt) for b queries; --like has the row's own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object, or a list of them where rows were given.")
def search(
    folder: Path,
    like: str | None,
    vector_file: Path | None,
    vector_json: str | None,
    rerank: tuple[str, ...],
    query_tokens: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Search the index in FOLDER, ranked by attention."""
    if sum(form is not None for form in (like, vector_file, vector_json)) != 1:
        raise click.UsageError("give one query: either --like, --vector or --vector-json")
    stage_options = _stage_options(rerank, options)
    if query_tokens is not None and "late_interaction" not in rerank:
        raise click.UsageError("--query-tokens needs --rerank late_interaction")
    if "late_interaction" in rerank and like is None and query_tokens is None:
        raise click.UsageError("--rerank late_interaction needs --query-tokens FILE, or --like")
    query: Any = None if like is not None else _read_query(vector_file, vector_json)
    if query_tokens is not None:
        options["query_tokens"] = _read_array(query_tokens)
    options["rerank"] = _stages(rerank, stage_options)
    from attnbridge.integrations import AttentionVectorBridge

    bridge = AttentionVectorBridge.open(folder)
    found: Hits | list[Hits]
    if like is not None:
        found = bridge.search(id=_id_of(bridge, like), **options)
    elif query.ndim == 1:
        found = bridge.search(query, **options)
    else:
        found = bridge.search_batch(query, **options)
    (_print_json if as_json else _print_tables)(found)


def _stage_options(rerank: tuple[str, ...], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Move the stages' own options out of `options`; one without its stage is wrong usage."""
    taken: dict[str, dict[str, Any]] = {"expansion": {}, "late_interaction": {}}
    for name in list(options):
        stage, _, option = name.rpartition("_")
        if stage not in taken:
            continue
        value = options.pop(name)
        if value is not None and stage not in rerank:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --rerank {stage}")
        if value is not None:
            taken[stage][option] = value
    return taken


def _stages(names: tuple[str, ...], options: dict[str, dict[str, Any]]) -> "list[Stage]":
    from attnbridge.rerank import LateInteraction, QueryExpansion

    kinds = {kind.name: kind for kind in (QueryExpansion, LateInteraction)}
    return [kinds[name](**options[name]) for name in names]


def _read_query(file: Path | None, text: str | None) -> Any:
    """Return one query (d,) or rows (b, d); the bridge checks the rest."""
    from attnbridge.validation import as_floats

    if file is None:
        return as_floats(_parsed(text or "", "--vector-json"), "--vector-json")
    if file.suffix.lower() == ".npy":
        return as_floats(_read_array(file), str(file))
    if file.suffix.lower() == ".json":
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{file} must be JSON in UTF-8: {error}") from error
        return as_floats(_parsed(text, str(file)), str(file))
    raise click.UsageError(f"--vector must be a .npy or .json file, got {file.name}")


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} must be JSON such as [0.1, 0.2]: {error}") from error


def _read_array(file: Path) -> Any:
    import numpy as np

    from attnbridge.integrations.tables import load_numpy

    array = load_numpy(file)
    if not isinstance(array, np.ndarray):
        array.close()
        raise InvalidInputError(f"{file} must hold one array (.npy), got an archive of several")
    return array


def _id_of(bridge: "AttentionVectorBridge", text: str) -> "Id":
    """Return the id that a shell's word stands for: an int where the index holds ints."""
    if text in bridge or not isinstance(next(iter(bridge.ids()), text), int):
        return text
    try:
        return int(text)
    except ValueError:
        raise InvalidInputError(f"--like must be a whole number, as this index's ids are; got {text!r}") from None


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
            }
            for i, hit in enumerate(hits)
        ],
        "candidates": hits.candidates,
        "timings": dict(hits.timings),
    }


def _print_json(found: "Hits | list[Hits]") -> None:
    print_json([_as_dict(hits) for hits in found] if isinstance(found, list) else _as_dict(found))


def _print_tables(found: "Hits | list[Hits]") -> None:
    several = isinstance(found, list)
    for number, hits in enumerate(found if isinstance(found, list) else [found], 1):
        query = f"query {number}: " if several else ""
        click.echo(f"{query}{len(hits)} of {hits.candidates} candidates, {1e3 * hits.timings['total']:.2f} ms")
        made = table("rank", "id", "score", "weight", "distance", "rank before")
        for rank, hit in enumerate(hits, 1):
            made.add_row(
                str(rank),
                shown(hit.id),
                f"{hit.score:#.6g}",
                f"{hit.weight:.4f}",
                f"{hit.distance:#.6g}",
                str(hit.rank_before + 1) if hit.rank_before >= 0 else "-",
            )
        print_table(made)
