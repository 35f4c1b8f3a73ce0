"""What the commands share: queries, ids and values out of the shell, and an index opened for writing."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.errors import InvalidInputError

if TYPE_CHECKING:
    from attnbridge.hits import Id
    from attnbridge.integrations import AttentionVectorBridge

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(path_type=Path)
WHERE_HELP = "Only rows where this SQL expression over payload and id is true: \"year > 2020 AND lang = 'en'\"."
PARAM_HELP = 'Value of $NAME in --where: JSON (a number, true, null, "text", a list), else text; may be given again.'


def names_of(texts: Sequence[str], option: str) -> list[str]:
    """Return names out of a repeatable option that takes several, separated by commas; quotes hide a comma.

    Parameters
    ----------
    texts : sequence of str
    option : str
        Its name, for errors.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from attnbridge.cli.inputs import names_of
    >>> names_of(["lang, year", '"a,b"'], "--payload")
    ['lang', 'year', 'a,b']
    """
    names: list[str] = []
    for text in texts:
        try:
            row = next(csv.reader([text], skipinitialspace=True, strict=True)) or [""]
        except csv.Error as error:
            raise click.UsageError(f"{option} must be names separated by commas, got {text!r}: {error}") from error
        names += [name.strip() for name in row]
    if not all(names):
        raise click.UsageError(f"{option} must be names separated by commas, one of them is empty")
    return names


def params_of(texts: Sequence[str], where: str | None) -> dict[str, Any] | None:
    """Return the values of --param NAME=VALUE, None where there are none.

    Parameters
    ----------
    texts : sequence of str
    where : str or None
        What they are for.

    Returns
    -------
    dict or None

    Examples
    --------
    >>> from attnbridge.cli.inputs import params_of
    >>> params_of(["y=2020", "lang=en", 'code="007"', "ids=[1, 2]"], "...")
    {'y': 2020, 'lang': 'en', 'code': '007', 'ids': [1, 2]}
    """
    if not texts:
        return None
    if where is None:
        raise click.UsageError("--param needs --where")
    return named_values(texts, "--param")


def named_values(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Return the values of a repeatable option that takes NAME=VALUE, each JSON or else text.

    Parameters
    ----------
    texts : sequence of str
    option : str
        Its name, for errors.

    Returns
    -------
    dict of str to object

    Examples
    --------
    >>> from attnbridge.cli.inputs import named_values
    >>> named_values(["scale=2.0", "map=expmap0"], "--option")
    {'scale': 2.0, 'map': 'expmap0'}
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not name or not mark:
            raise click.UsageError(f"{option} must be NAME=VALUE, got {text!r}")
        if name in values:
            raise click.UsageError(f"{option} gives {name} twice")
        values[name] = _value(value)
    return values


def _value(text: str) -> Any:
    """Return a JSON scalar or list, or the text itself where it is none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, dict) else value


def read_query(
    file: Path | None, text: str | None, option: str = "--vector", text_option: str = "--vector-json"
) -> Any:
    """Return one query (d,) or rows (b, d) out of a file, or out of JSON; the bridge checks the rest.

    Parameters
    ----------
    file : Path or None
        .npy or .json.
    text : str or None
        JSON, where there is no file.
    option : str
        Which one names the file, for errors.
    text_option : str
        Which one has the JSON.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> from attnbridge.cli.inputs import read_query
    >>> read_query(None, "[0.5, 2.0]")
    array([0.5, 2. ], dtype=float32)
    """
    from attnbridge.validation import as_floats

    if file is None:
        return as_floats(_parsed(text or "", text_option), text_option)
    if file.suffix.lower() == ".npy":
        return as_floats(read_array(file), str(file))
    if file.suffix.lower() == ".json":
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{file} must be JSON in UTF-8: {error}") from error
        return as_floats(_parsed(text, str(file)), str(file))
    raise click.UsageError(f"{option} must be a .npy or .json file, got {file.name}")


def read_queries(file: Path | None) -> Any:
    """Return the rows (b, d) of --queries, one vector as one row; None where it is not given.

    Parameters
    ----------
    file : Path or None

    Returns
    -------
    ndarray or None

    Examples
    --------
    >>> from attnbridge.cli.inputs import read_queries
    >>> read_queries(None) is None
    True
    """
    if file is None:
        return None
    queries = read_query(file, None, "--queries")
    return queries[None] if queries.ndim == 1 else queries


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} must be JSON such as [0.1, 0.2]: {error}") from error


def read_array(file: Path) -> Any:
    """Return the array of a .npy file.

    Parameters
    ----------
    file : Path

    Returns
    -------
    ndarray
    """
    import numpy as np

    from attnbridge.integrations.tables import load_numpy

    array = load_numpy(file)
    if not isinstance(array, np.ndarray):
        array.close()
        raise InvalidInputError(f"{file} must hold one array (.npy), got an archive of several")
    return array


def ids_of(bridge: "AttentionVectorBridge", texts: Sequence[str], option: str) -> "list[Id]":
    """Return the ids that a shell's words stand for: ints where the index holds ints.

    Parameters
    ----------
    bridge : AttentionVectorBridge
    texts : sequence of str
    option : str
        Where they were given, for errors.

    Returns
    -------
    list of str or int

    Examples
    --------
    >>> import attnbridge as ab
    >>> from attnbridge.cli.inputs import ids_of
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0]])
    >>> ids_of(bridge, ["0"], "--like")
    [0]
    """
    if not isinstance(next(iter(bridge.ids()), ""), int):
        return list(texts)
    ids: list[Id] = []
    for text in texts:
        try:
            ids.append(int(text))
        except ValueError:
            raise InvalidInputError(f"{option} must be a whole number, as this index's ids are; got {text!r}") from None
    return ids


def can_ask() -> bool:
    """Return whether a person sits at the other end of stdin.

    Returns
    -------
    bool
    """
    return sys.stdin is not None and sys.stdin.isatty()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the process that writes an index, from before long work is begun; a folder that is none stays as it is.

    Parameters
    ----------
    folder : Path

    Yields
    ------
    None

    Raises
    ------
    ConcurrencyError
        Another process has it open for writing; the message says which.
    """
    from attnbridge.integrations.lock import WriterLock
    from attnbridge.integrations.snapshot import is_index

    lock = WriterLock.acquire(folder) if is_index(folder) else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def opened(folder: Path, *, write: bool) -> "Iterator[AttentionVectorBridge]":
    """Open an index: to be read, or locked to be written.

    Parameters
    ----------
    folder : Path
    write : bool

    Yields
    ------
    AttentionVectorBridge
    """
    from attnbridge.integrations import AttentionVectorBridge

    with (
        locked(folder) if write else nullcontext(),
        AttentionVectorBridge.open(folder, read_only=not write) as bridge,
    ):
        yield bridge
