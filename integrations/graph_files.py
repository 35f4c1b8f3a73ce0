"""Graphs and their nodes' embeddings out of files, by networkx's readers."""

import ast
import bz2
import csv
import gzip
import inspect
import io
import json
import re
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from attnbridge.errors import InvalidInputError
from attnbridge.integrations.node_names import node_of
from attnbridge.integrations.tables import from_file
from attnbridge.integrations.topology import of_graph
from attnbridge.validation import as_choice

FORMATS = ("graphml", "gml", "edgelist", "csv", "json")
_FORMAT_OF = {
    ".graphml": "graphml",
    ".gml": "gml",
    ".edgelist": "edgelist",
    ".edges": "edgelist",
    ".txt": "edgelist",
    ".tsv": "edgelist",
    ".csv": "csv",
    ".json": "json",
}
SUFFIXES = tuple(_FORMAT_OF)
# The first line of a table of edges that has one.
_HEADERS = (("source", "target"), ("from", "to"), ("u", "v"))
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}


def format_of(path: str | PathLike[str]) -> str:
    """Return the format that a file's name tells, a .gz or .bz2 behind it left out.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str

    Raises
    ------
    InvalidInputError

    Examples
    --------
    >>> from attnbridge.integrations.graph_files import format_of
    >>> format_of("papers.graphml.gz")
    'graphml'
    """
    file = Path(path)
    suffix = Path(file.stem).suffix if file.suffix.lower() in _OPENERS else file.suffix
    if suffix.lower() not in _FORMAT_OF:
        raise InvalidInputError(
            f"a graph's file must end in {', '.join(SUFFIXES)}, or these with .gz or .bz2, got {file.name!r}; "
            f"or name its format: {', '.join(FORMATS)}"
        )
    return _FORMAT_OF[suffix.lower()]


def read_graph(path: str | PathLike[str], form: str | None = None, *, directed: bool | None = None) -> Any:
    """Return the graph of a file.

    Parameters
    ----------
    path : path-like
        Compressed where it ends in .gz or .bz2.
    form : {"graphml", "gml", "edgelist", "csv", "json"}, optional
        By default as the name ends. An edge list has two nodes a line, and perhaps a weight or a dictionary of
        attributes; so has CSV, or a header: source, target, and the attributes' names. JSON is networkx's node-link or
        adjacency data.
    directed : bool, optional
        Of an edge list, which does not say it: whether edges lead from the first node to the second; by default not.

    Returns
    -------
    networkx.Graph, DiGraph, MultiGraph or MultiDiGraph

    Raises
    ------
    InvalidConfigError
        Another format.
    InvalidInputError
        Another suffix, or what cannot be read as that format.
    OSError
    """
    file = Path(path)
    kind = format_of(file) if form is None else as_choice(form, "form", FORMATS)
    if directed is not None and kind not in ("edgelist", "csv"):
        raise InvalidInputError(f"directed must be left out: a file of {kind} says itself whether its edges are")
    data = _bytes(file)
    readers = {"graphml": _graphml, "gml": _gml, "json": _json}
    try:
        if kind in readers:
            return readers[kind](data)
        return (_csv if kind == "csv" else _edge_list)(data, bool(directed))
    except Exception as error:  # networkx's readers raise what they stumble on, of many classes
        reason = str(error).strip() or type(error).__name__
        raise InvalidInputError(f"{file} cannot be read as {kind}: {reason.splitlines()[0]}") from error


def _bytes(file: Path) -> bytes:
    """Return what a file holds."""
    opener = _OPENERS.get(file.suffix.lower())
    try:
        if opener is None:
            return file.read_bytes()
        with opener(file, "rb") as stream:
            data: bytes = stream.read()
            return data
    except (EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidInputError(f"{file} cannot be unpacked: {error}") from error


def _graphml(data: bytes) -> Any:
    import networkx as nx

    return nx.read_graphml(io.BytesIO(data))


def _gml(data: bytes) -> Any:
    """Return a graph of GML: nodes are its labels, or their numbers where they have none."""
    import networkx as nx

    lines = data.decode("ascii").splitlines()  # other characters are entities, as GML has it
    by_number = nx.parse_gml(lines, label=None)
    labelled = all("label" in attributes for _, attributes in by_number.nodes(data=True))
    return nx.parse_gml(lines) if labelled and len(by_number) else by_number


def _json(data: bytes) -> Any:
    """Return a graph of networkx's node-link or adjacency data."""
    import networkx as nx

    found = json.loads(data.decode())
    if isinstance(found, dict) and "nodes" in found:
        if "adjacency" in found:
            return nx.adjacency_graph(found)
        for name in ("edges", "links"):
            if name in found:  # networkx 3.3 calls the option link
                option = "edges" if "edges" in inspect.signature(nx.node_link_graph).parameters else "link"
                return nx.node_link_graph(found, **{option: name})
    raise InvalidInputError("it must be an object with nodes, and edges or links (node-link data), or adjacency")


def _edge_list(data: bytes, directed: bool) -> Any:
    """Return a graph of lines with two nodes, and perhaps a weight or a dictionary of attributes, between spaces."""
    graph = _empty(directed)
    for number, line in enumerate(data.decode("utf-8-sig").splitlines(), 1):
        text = line if "{" in line else line.partition("#")[0]
        if text.strip() and not text.lstrip().startswith("#"):
            source, target, rest = (*text.split(None, 2), "", "")[:3]
            _require_ends(source, target, number)
            graph.add_edge(source, target, **_attributes(rest.strip(), number))
    return graph


def _csv(data: bytes, directed: bool) -> Any:
    """Return a graph of a table: of source, target and attributes by their names, or without a header as edge lists."""
    graph = _empty(directed)
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True, strict=True)
    names: list[str] | None = None
    for place, row in enumerate(rows):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if not place and tuple(cell.lower() for cell in cells[:2]) in _HEADERS:
            names = cells[2:]
            continue
        source, target, *rest = (*cells, "", "")[: max(2, len(cells))]
        _require_ends(source, target, rows.line_num)
        if names is None:
            attributes = _attributes(",".join(rest), rows.line_num)
        else:
            attributes = {name: _number_or_text(cell) for name, cell in zip(names, rest, strict=False) if cell}
        graph.add_edge(source, target, **attributes)
    return graph


def _empty(directed: bool) -> Any:
    import networkx as nx

    return nx.DiGraph() if directed else nx.Graph()


def _require_ends(source: str, target: str, number: int) -> None:
    if not source or not target:
        raise InvalidInputError(f"line {number} must have two nodes, got {(source or target)!r}")


def _attributes(text: str, number: int) -> dict[str, Any]:
    """Return what stands behind an edge's nodes: nothing, a weight or a dictionary."""
    try:
        value = ast.literal_eval(text) if text else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"weight": value}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return value
    raise InvalidInputError(f"line {number} must have a weight, a dictionary or nothing behind two nodes, got {text!r}")


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# ---- embeddings


def parse_embeddings(graph: Any, name: Any) -> None:
    """Make numbers of the embeddings that a file could only hold as text: "[0.1, 0.2]", "0.1 0.2" or "0.1,0.2".

    Parameters
    ----------
    graph : networkx.Graph
        Changed in place.
    name : hashable
        The nodes' attribute.

    Raises
    ------
    InvalidInputError
        What is no number; its node is named.
    """
    for node, attributes in graph.nodes(data=True):
        value = attributes.get(name)
        if isinstance(value, str):
            attributes[name] = _numbers(value, node)


def _numbers(text: str, node: Any) -> list[float]:
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1].strip()
    numbers = []
    for part in re.split(r"\s*,\s*|\s+", inner):
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", part, re.ASCII):
            raise InvalidInputError(
                f'embedding of node {node!r} must be finite numbers such as "0.1 0.2", got {part!r} in {text[:60]!r}'
            )
        numbers.append(float(part))
    return numbers


def set_embeddings(
    graph: Any, path: str | PathLike[str], name: Any, *, vector: str | None = None, id: str | None = None
) -> None:
    """Give nodes the rows of a file as embeddings.

    Parameters
    ----------
    graph : networkx.Graph
        Changed in place.
    path : path-like
        .npy, .npz, Parquet, CSV or JSON lines, as `AttentionVectorBridge.from_parquet` and the like read them.
    name : hashable
        The nodes' attribute to set.
    vector : str, optional
        The column or array of vectors.
    id : str, optional
        That of the nodes; without it rows are those of the nodes in the graph's order.

    Raises
    ------
    InvalidInputError
        As many rows as there are no nodes, or a row of no node, or two of one.
    """
    source = from_file(path, vector, id)
    if id is None and source.total != len(graph):
        raise InvalidInputError(
            f"{path} must have a row for each of {len(graph)} nodes, in their order, got {source.total}; "
            "name its column of nodes as the id"
        )
    topology, seen = of_graph(graph), set()
    for given, row in _rows(source.batches, iter(topology.nodes) if id is None else None):
        node = given if id is None else node_of(topology, given)
        if node not in topology.index:
            raise InvalidInputError(f"{path} must have rows of the graph's nodes only, it has one of {given!r}")
        if node in seen:
            raise InvalidInputError(f"{path} must have one row for each node, it has two of {node!r}")
        seen.add(node)
        graph.nodes[node][name] = row


def _rows(batches: Any, nodes: "Iterator[Any] | None") -> "Iterator[tuple[Any, Any]]":
    """Yield what each row is of, and the row."""
    for batch in batches:
        rows = batch.vectors.astype("float32", copy=True)
        yield from zip(batch.ids if nodes is None else (next(nodes) for _ in rows), rows, strict=True)
