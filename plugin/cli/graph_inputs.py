"""A graph out of a file, for the commands that walk one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.inputs import FILE, named_values

if TYPE_CHECKING:
    from attnbridge.integrations.networkx import AttentionGraph

_FORMATS = ("graphml", "gml", "edgelist", "csv", "json")

# Parameters of `load_graph`, each an option.
SOURCE = (
    "input_format",
    "directed",
    "embedding",
    "embeddings_file",
    "vector",
    "id",
    "weight",
    "missing",
    "attention",
    "option_texts",
)

_OPTIONS = (
    click.option("--input-format", type=click.Choice(_FORMATS), help="Of FILE; by default as its name ends."),
    click.option("--directed", is_flag=True, help="Edges of an edge list lead from the first node to the second."),
    click.option("--embedding", metavar="NAME", help="The nodes' attribute with the vector. [default: embedding]"),
    click.option(
        "--embeddings",
        "embeddings_file",
        metavar="FILE",
        type=FILE,
        help="Or the vectors: .npy, .npz, .parquet, .csv or .jsonl, a row for each node, in their order or by --id.",
    ),
    click.option("--vector", metavar="COLUMN", help="--embeddings: its column (npz: array) of vectors."),
    click.option("--id", metavar="COLUMN", help="--embeddings: its column of nodes."),
    click.option("--weight", metavar="NAME", help="The edges' attribute with a weight > 0. [default: all weigh 1]"),
    click.option(
        "--missing",
        type=click.Choice(["raise", "skip", "zero"]),
        default="raise",
        show_default=True,
        help="Nodes without embedding: refuse them, never step there, or take zeros.",
    ),
    click.option("--attention", metavar="NAME", default="gat", show_default=True, help="A registry's type."),
    click.option(
        "--option",
        "option_texts",
        metavar="NAME=VALUE",
        multiple=True,
        help="An option of the type: JSON, else text; may be given again.",
    ),
)


def graph_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say how a graph is read: `SOURCE`.

    Parameters
    ----------
    command : callable

    Returns
    -------
    callable
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def load_graph(
    file: Path,
    *,
    input_format: str | None = None,
    directed: bool = False,
    embedding: str | None = None,
    embeddings_file: Path | None = None,
    vector: str | None = None,
    id: str | None = None,
    weight: str | None = None,
    missing: str = "raise",
    attention: str = "gat",
    option_texts: tuple[str, ...] = (),
    edge_type: str | None = None,
    scored: bool = True,
) -> "AttentionGraph":
    """Return the attention graph of a file.

    Parameters
    ----------
    file : Path
    input_format : str or None
        By default as the file's name ends.
    directed : bool
        Of an edge list.
    embedding : str or None
        The nodes' attribute with vectors.
    embeddings_file : Path or None
        Or a file of vectors; there the columns of these and of nodes are:
    vector, id : str or None
    weight, missing, attention
        As `AttentionGraph` takes them.
    option_texts : tuple of str
        NAME=VALUE, options of the type.
    edge_type : str or None
        The edges' attribute with their type; by default "type".
    scored : bool
        Whether nodes are to be scored; else a graph may be without any embedding.

    Returns
    -------
    AttentionGraph

    Raises
    ------
    click.ClickException, AttentionError, OSError
    """
    for name, value in (("--vector", vector), ("--id", id)):
        if value is not None and embeddings_file is None:
            raise click.UsageError(f"{name} needs --embeddings")
    if embedding is not None and embeddings_file is not None:
        raise click.UsageError("--embedding names an attribute of nodes: give it without --embeddings")
    from attnbridge.integrations.graph_files import format_of, parse_embeddings, read_graph, set_embeddings
    from attnbridge.integrations.networkx import AttentionGraph
    from attnbridge.scoring import resolve

    options = named_values(option_texts, "--option")
    resolve(attention, options)  # before a large file is read
    kind = input_format or format_of(file)
    if directed and kind not in ("edgelist", "csv"):
        raise click.UsageError(f"--directed is for edge lists: a file of {kind} says itself whether its edges are")
    graph, name = read_graph(file, kind, directed=directed or None), embedding or "embedding"
    if embeddings_file is None:
        parse_embeddings(graph, name)
    else:
        for attributes in graph._node.values():
            attributes.pop(name, None)
        set_embeddings(graph, embeddings_file, name, vector=vector, id=id)
    if graph and all(attributes.get(name) is None for attributes in graph._node.values()):
        if scored:
            raise click.ClickException(
                f"no node has an embedding, attribute {name!r}: pass --embeddings FILE, or name another attribute with "
                "--embedding"
            )
        missing = "skip"
    if edge_type is not None:
        options["edge_type"] = edge_type
    return AttentionGraph(graph, name, weight=weight, missing=missing, attention=attention, **options)


@contextmanager
def nodes_reported() -> Iterator[None]:
    """Turn networkx's error of a node that is not there into a message.

    Yields
    ------
    None
    """
    import networkx as nx

    try:
        yield
    except nx.NodeNotFound as error:
        raise click.ClickException(str(error)) from error
