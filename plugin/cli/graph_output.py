"""What `attnbridge graph` prints: nodes that a walk has found, or rows of a match."""

import csv
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.output import jsonable, print_json, print_table, shortened, shown, table
from attnbridge.labels import middle_cut

if TYPE_CHECKING:
    from attnbridge.integrations.graph_hits import GraphHits
    from attnbridge.integrations.match import Matches

# Rows that a table shows, columns of one of its cells, and hits that are explained.
_MOST_ROWS, _CELL, _EXPLAINED = 1000, 60, 10


def show(found: "GraphHits | Matches", form: str, explain: bool) -> None:
    """Print hits: for people, as CSV or as one JSON document.

    Parameters
    ----------
    found : GraphHits or Matches
    form : {"table", "csv", "json"}
    explain : bool
        Whether a table is followed by the way to each hit.
    """
    if form == "json":
        print_json({"hits": list(map(_plain, _records(found))), "complete": found.complete})
    elif form == "csv":
        _print_csv(found)
    else:
        _print_table(found)
        if explain and len(found):
            click.echo(f"\n{found.explain(_EXPLAINED)}")


def show_ranks(ranks: list[tuple[Any, float]], count: int, form: str) -> None:
    """Print nodes and their PageRank: for people, as CSV or as one JSON document.

    Parameters
    ----------
    ranks : list of (hashable, float)
        The best first.
    count : int
        How many nodes there are.
    form : {"table", "csv", "json"}
    """
    if form == "json":
        print_json({"hits": [{"node": _plain(node), "pagerank": rank} for node, rank in ranks], "complete": True})
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([("node", "pagerank"), *((_cell(_plain(node)), rank) for node, rank in ranks)])
    else:
        made = table("rank", "node", "pagerank")
        for place, (node, rank) in enumerate(ranks, 1):
            made.add_row(str(place), _text(node), f"{rank:.4g}")
        click.echo(f"{_count(len(ranks), 'hit')} of {_count(count, 'node')}")
        print_table(made)


def _returned(found: "GraphHits | Matches") -> "Matches | None":
    """Return a match's rows, None of a walk."""
    from attnbridge.integrations.match import Matches

    return found if isinstance(found, Matches) else None


def _records(found: "GraphHits | Matches") -> Iterable[dict[str, Any]]:
    """Yield all that is known of each hit."""
    matches = _returned(found)
    hit: Any  # a GraphHit, or a Match
    for hit in found:
        record = {"node": hit.node, "score": hit.score, "hop": hit.hop, "path": hit.path, "edges": hit.edges}
        record["weights"] = list(hit.weights)
        if matches is None:
            yield {**record, "log_weight": hit.log_weight}
        else:
            yield {"record": hit.record, **record}


def _plain(value: Any) -> Any:
    """Return a value as JSON can say it."""
    import numpy as np

    from attnbridge.integrations.match import MatchPath

    if isinstance(value, MatchPath):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    made = jsonable(value)
    return made if made is None or isinstance(made, bool | int | float | str) else str(made)


def _print_csv(found: "GraphHits | Matches") -> None:
    """Print a table that programs read: lists are JSON."""
    matches = _returned(found)
    names = ["node", "score", "hop", "log_weight", "path", "edges", "weights"]
    if matches is not None:
        own = [name for name in ("score", "path", "edges", "weights") if name not in matches.columns]
        names = [*matches.columns, *own]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for record in _records(found):
        cells = {**record, **record.get("record", {})}
        writer.writerow([_cell(_plain(cells[name])) for name in names])


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, allow_nan=False)
    return "" if value is None else value


def _print_table(found: "GraphHits | Matches") -> None:
    """Print a table for people."""
    matches = _returned(found)
    shown_rows: Any = found[:_MOST_ROWS]
    if matches is None:
        made = table("rank", "node", "score", "hop", "log weight", "path")
        for rank, hit in enumerate(shown_rows, 1):
            made.add_row(str(rank), _text(hit.node), _number(hit.score), str(hit.hop), _number(hit.log_weight),
                         _path(hit.path))  # fmt: skip
        made.columns[-1].justify = "left"
    else:
        made = _match_table(matches, shown_rows)
    click.echo(_count(len(found), "hit" if matches is None else "row") + _visited(found))
    if len(found):
        print_table(made)
    if len(found) > _MOST_ROWS:
        click.echo(f"The first {_MOST_ROWS} of them; all with --format csv or json")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _visited(found: Any) -> str:
    """Return of how many nodes hits were chosen; nothing of a match."""
    return "" if _returned(found) is not None else f" of {_count(found.visited, 'node')} visited"


def _match_table(matches: "Matches", rows: Any) -> Any:
    """Return the columns of RETURN, and with a query the score and the weights of the steps."""
    scored = matches.scores is not None
    made = table("row", *map(shown, matches.columns), *(["score", "weights"] if scored else []))
    for rank, row in enumerate(rows, 1):
        cells = [_text(row.record[name]) for name in matches.columns]
        if scored:
            cells += [_number(row.score), " ".join(f"{weight:.2f}" for weight in row.weights)]
        made.add_row(str(rank), *cells)
    for name, column in zip(matches.columns, made.columns[1:], strict=False):
        if not all(isinstance(row.record[name], int | float | None) for row in rows):
            column.justify = "left"
    return made


def _text(value: Any) -> str:
    from attnbridge.integrations.match import MatchPath

    return _path(value.nodes) if isinstance(value, MatchPath) else shortened(value, _CELL)


def _path(nodes: Iterable[Any]) -> str:
    return middle_cut(" - ".join(middle_cut(shown(node), 24) for node in nodes), 2 * _CELL)


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"  # no -0.0000
