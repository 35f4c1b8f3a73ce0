"""`attnbridge visualize`: an attention matrix as a picture or a page."""

import json
from pathlib import Path
from typing import Any

import click

from attnbridge.cli.inputs import FILE, named_values, read_array
from attnbridge.errors import InvalidInputError


@click.command()
@click.option(
    "--input",
    "input_file",
    metavar="FILE",
    type=FILE,
    required=True,
    help="Rows (n, d) that attend to each other (.npy, .json); or query and key arrays (.npz, a .json object).",
)
@click.option("--attention-type", metavar="NAME", default="scaled_dot", show_default=True, help="A registry's type.")
@click.option("--output", metavar="FILE", type=FILE, required=True, help=".png, .svg, or .html, which shows weights.")
@click.option(
    "--option",
    "option_texts",
    metavar="NAME=VALUE",
    multiple=True,
    help="An option of the type: JSON, else text; may be given again.",
)
@click.option(
    "--labels",
    metavar="FILE",
    type=FILE,
    help='A label a line, or a .json list; a .json object {"query": [...], "key": [...]} where those differ.',
)
@click.option("--causal", is_flag=True, help="Query i attends to keys 0 to i only.")
@click.option("--head", metavar="N|mean", help="multi_head: this head alone, or the mean; else all, and the mean.")
def visualize(
    input_file: Path,
    attention_type: str,
    output: Path,
    option_texts: tuple[str, ...],
    labels: Path | None,
    causal: bool,
    head: str | None,
) -> None:
    """Draw which query attends to which key.

    A row is a query, a column a key. Of an archive only query and key are read: values have no part in weights.
    """
    from attnbridge.attention_maps import SUFFIXES
    from attnbridge.attention_maps import visualize as draw
    from attnbridge.drawing import as_output
    from attnbridge.scoring import resolve

    as_output(output, SUFFIXES, "--output")
    options = named_values(option_texts, "--option")
    resolve(attention_type, {name: value for name, value in options.items() if name != "mask"})
    query, key = _read(input_file)
    query_labels, key_labels = (None, None) if labels is None else _read_labels(labels, key is None)
    place = int(head) if head is not None and head.isascii() and head.isdigit() else head
    if place is not None and place != "mean" and not isinstance(place, int):
        raise click.UsageError(f"--head must be the number of a head or 'mean', got {head!r}")
    draw(
        query,
        key,
        attention_type,
        output,
        is_causal=causal,
        head=place,
        query_labels=query_labels,
        key_labels=key_labels,
        **options,
    )


def _read(file: Path) -> tuple[Any, Any]:
    """Return queries and keys out of a file; None for the keys of rows that attend to each other."""
    kind = file.suffix.lower()
    if kind == ".npy":
        return read_array(file), None
    if kind == ".npz":
        arrays = _archive(file)
    elif kind == ".json":
        arrays = _parsed(file)
        if not isinstance(arrays, dict):
            return arrays, None
    else:
        raise click.UsageError(f"--input must be a .npy, .npz or .json file, got {file.name}")
    if "query" not in arrays:
        known = ", ".join(arrays) or "none"
        raise InvalidInputError(f"{file} must hold an array named query, and key where it is another; it has: {known}")
    return arrays["query"], arrays.get("key")


def _archive(file: Path) -> dict[str, Any]:
    """Return the arrays query and key of a .npz file, the names alone of the others."""
    from attnbridge.integrations.tables import load_numpy, reading

    loaded = load_numpy(file)
    if not hasattr(loaded, "files"):
        raise InvalidInputError(f"{file} must be an archive of arrays (.npz), it is one array: call it .npy")
    with loaded, reading(file):
        return {name: loaded[name] if name in ("query", "key") else None for name in loaded.files}


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{file} must be JSON in UTF-8: {error}") from error


def _read_labels(file: Path, alone: bool) -> tuple[list[str] | None, list[str] | None]:
    """Return labels of queries and of keys."""
    if file.suffix.lower() == ".json":
        found = _parsed(file)
    else:
        try:
            found = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{file} must be text in UTF-8: {error}") from error
    if isinstance(found, list):
        if not alone:
            raise InvalidInputError(
                f"{file} must say whose labels they are, where queries and keys are two arrays: "
                '{"query": [...], "key": [...]} in a .json file'
            )
        return found, None
    if not isinstance(found, dict) or not found or not found.keys() <= {"query", "key"}:
        raise InvalidInputError(f"{file} must hold a list of labels, or an object of query and key with a list each")
    return found.get("query"), found.get("key")
