"""How the commands print: JSON for machines, tables for people."""

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from attnbridge.jsonable import finite as finite  # the other commands take these from here
from attnbridge.jsonable import jsonable as jsonable
from attnbridge.labels import shown as shown

if TYPE_CHECKING:
    from rich.table import Table

# Columns that a table may take where no terminal limits it.
_UNLIMITED = 100_000

# Columns that a payload value takes at most, and the fewest to which a longer one is cut; and between two values.
_LONGEST, _NARROWEST, _GAP = 40, 10, 3


def print_json(document: Any) -> None:
    """Print one JSON document.

    Parameters
    ----------
    document : object
        Whatever JSON can say.

    Examples
    --------
    >>> from attnbridge.cli.output import print_json
    >>> print_json({"rows": 2})
    {
      "rows": 2
    }
    """
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def table(*columns: str, left: int = 1) -> "Table":
    """Return an empty table in which nothing is ever cut off.

    Parameters
    ----------
    *columns : str
        Headings; none are shown where all are empty.
    left : int, default 1
        Which column is aligned to the left; the others are numbers.

    Returns
    -------
    rich.table.Table

    Examples
    --------
    >>> from attnbridge.cli.output import table
    >>> len(table("rank", "id").columns)
    2
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=any(columns), pad_edge=False)
    for position, name in enumerate(columns):
        made.add_column(name, justify="left" if position == left else "right", overflow="fold")
    return made


def print_table(made: "Table") -> None:
    """Print a table: as wide as the terminal, or without colours as wide as it wants to be.

    Parameters
    ----------
    made : rich.table.Table

    Examples
    --------
    >>> from attnbridge.cli.output import print_table, table
    >>> made = table("rank", "id")
    >>> made.add_row("1", "a")
    >>> print_table(made)  # doctest: +NORMALIZE_WHITESPACE
    rank   id
    ─────────
       1   a
    """
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    Console(force_terminal=terminal, width=_width(), markup=False, emoji=False, highlight=False).print(made)


def shortened(value: object, longest: int = _LONGEST) -> str:
    """Return a payload value as a table shows it: in one line, cut where it is long, nothing for NULL.

    Parameters
    ----------
    value : object
    longest : int
        Columns of a terminal that it may take, at least 4.

    Returns
    -------
    str

    Examples
    --------
    >>> from attnbridge.cli.output import shortened
    >>> shortened(2020), shortened(None), shortened("a" + chr(10) + "b"), shortened("kilometre", 8)
    ('2020', '', 'a b', 'kilom...')
    """
    from rich.cells import cell_len, set_cell_size

    text = shown("" if value is None else " ".join(str(value).split()))
    return text if cell_len(text) <= longest else set_cell_size(text, longest - 3).rstrip() + "..."


def widened(heads: list[str], rows: list[list[str]], records: list[dict[str, Any]], most: int) -> "tuple[Table, int]":
    """Return a table of rows with payload columns to their right, as far as the terminal has room for them.

    Parameters
    ----------
    heads : list of str
    rows : list of list of str
    records : list of dict
        Each row's payload; all have the same columns.
    most : int
        How many payload columns at most.

    Returns
    -------
    tuple of rich.table.Table and int
        The table, and how many payload columns it has: the first ones.

    Examples
    --------
    >>> from attnbridge.cli.output import widened
    >>> made, count = widened(["rank", "id"], [["1", "a"]], [{"year": 2020, "lang": "en"}], most=1)
    >>> [column.header for column in made.columns], count
    (['rank', 'id', 'year'], 1)
    """
    from rich.cells import cell_len

    room = _width() - sum(_GAP + max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)) + _GAP
    texts: list[list[str]] = []
    for name in list(records[0])[:most] if records else []:
        values = [name, *(record[name] for record in records)]
        wanted = max(cell_len(shortened(value)) for value in values)
        width = min(wanted, room - _GAP)
        if width < min(wanted, _NARROWEST):
            break
        texts.append([shortened(value, width) for value in values])
        room -= width + _GAP
    made = table(*heads, *(column[0] for column in texts))
    for name, column in zip(records[0] if records else (), made.columns[len(heads) :], strict=False):
        if not all(isinstance(record[name], int | float | None) for record in records):
            column.justify = "left"
    for i, row in enumerate(rows, 1):
        made.add_row(*row, *(column[i] for column in texts))
    return made, len(texts)


def _width() -> int:
    """Return how wide a table may be."""
    if sys.stdout is None or not sys.stdout.isatty():
        return _UNLIMITED
    return shutil.get_terminal_size().columns
