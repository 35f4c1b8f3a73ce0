"""`attnbridge graph`: walks over a graph in a file, and patterns in it, by attention."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.graph_inputs import SOURCE, graph_options, load_graph, nodes_reported
from attnbridge.cli.graph_output import show, show_ranks
from attnbridge.cli.inputs import FILE, FOLDER, WHERE_HELP, named_values, opened, read_query
from attnbridge.errors import InvalidInputError

if TYPE_CHECKING:
    from attnbridge.integrations.graph_hits import GraphHits
    from attnbridge.integrations.match import Matches
    from attnbridge.integrations.networkx import AttentionGraph

_ACTIONS = ("match", "k_hop", "traverse", "neighborhood", "search", "pagerank")

# Actions that have no question of their own, and how many hits they show.
_ASKED = ("traverse", "search", "pagerank")
_SHOWN = 10

# Which actions an option is for, of those that are not for all.
_FOR = {
    "k": ("k_hop",),
    "max_nodes": ("k_hop",),
    "limit": ("k_hop", "traverse", "search", "pagerank"),
    "direction": ("k_hop", "traverse", "neighborhood", "search", "pagerank"),
    "beam_width": ("traverse", "search"),
    "edge_types": ("k_hop", "traverse", "neighborhood", "search"),
    "starts": ("traverse", "match"),
    "max_hops": ("traverse", "match", "search"),
    "time_budget": ("traverse", "match", "search"),
    "per_step": ("match",),
    "params": ("match", "search"),
    "labels": ("match",),
    "type": ("match", "k_hop", "traverse", "neighborhood", "search"),
    "where": ("search",),
    "seeds": ("search",),
    "alpha": ("pagerank",),
}
_FLAGS = {"starts": "--start", "edge_types": "--edge-type", "params": "--param", "labels": "--label"}


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


@click.command()
@click.argument("file", type=FILE)
@click.option("--match", metavar="PATTERN", help='Match, such as "MATCH (a:Paper)-[:CITES]->(b) RETURN b LIMIT 5".')
@click.option("--k-hop", metavar="NODE", help="Show the nodes within --k steps of one.")
@click.option("--traverse", is_flag=True, help="Walk towards the query, from --start or else the nodes most like it.")
@click.option("--neighborhood", metavar="NODE", help="Show how attention spreads over a node's neighbours.")
@click.option(
    "--search", metavar="FOLDER", type=FOLDER, help="Go on from this index's hits for the query; its ids are nodes."
)
@click.option("--pagerank", is_flag=True, help="Rank nodes by PageRank, personalised by the query's attention.")
@click.option("--query", metavar="JSON|FILE", help='Query: "[0.1, 0.2]", or one vector in a .npy or .json file.')
@click.option("--query-node", metavar="NODE", help="Query: the embedding of this node.")
@click.option("--start", "starts", multiple=True, metavar="NODE", help="--match: the first node. --traverse: several.")
@click.option("--k", type=click.IntRange(min=0), help="--k-hop: steps. [default: 2]")
@click.option("--max-nodes", type=click.IntRange(min=1), help="--k-hop: nodes visited at most.")
@click.option(
    "--max-hops",
    type=click.IntRange(min=1),
    help="--traverse, --search: steps; --match: of *. [default: 3; 2; 16]",
)
@click.option(
    "--beam-width",
    type=click.IntRange(min=1),
    help="--traverse, --search: nodes kept at each step. [default: 16; 256]",
)
@click.option("--per-step", type=click.IntRange(min=1), help="--match: nodes kept at each step, the best.")
@click.option("--limit", type=click.IntRange(min=1), help="Walks: hits at most. [default: 10; --k-hop: all]")
@click.option("--direction", type=click.Choice(["out", "in", "both"]), help="Walks: of edges. [default: out]")
@click.option("--edge-type", "edge_types", multiple=True, metavar="TYPE", help="Walks: along edges of it only.")
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="--match, --where: value of $NAME: JSON, else text."
)
@click.option("--label", "labels", multiple=True, metavar="NAME", help="--match: attribute of nodes with their labels.")
@click.option("--type", metavar="NAME", help="Attribute of edges with their type. [default: type]")
@click.option("--where", metavar="SQL", help=f"--search: {WHERE_HELP[0].lower()}{WHERE_HELP[1:]}")
@click.option("--seeds", type=click.IntRange(min=1), help="--search: hits of the index to go on from. [default: 100]")
@click.option("--alpha", type=click.FloatRange(0, 1), help="--pagerank: chance to go on along an edge. [default: 0.85]")
@click.option(
    "--time-budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="--traverse, --search, --match: end after so long; what is found by then is shown.",
)
@graph_options
@click.option("--plot", metavar="FILE", type=FILE, help="Draw what was walked or matched: .png, .svg or .pdf.")
@click.option("--plot-label", metavar="NAME", help="--plot: attribute that nodes are called by.")
@click.option("--explain", is_flag=True, help="Tell of the first hits each step of the way.")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True, help="Of hits."
)
def graph(
    file: Path,
    query: str | None,
    query_node: str | None,
    plot: Path | None,
    plot_label: str | None,
    explain: bool,
    form: str,
    **asked: Any,
) -> None:
    """Walk or rank the graph in FILE by attention, or match a pattern.

    One of --match, --k-hop, --traverse, --neighborhood, --search and --pagerank says how.

    FILE is GraphML, GML, an edge list, CSV, or node-link or adjacency JSON, perhaps with .gz or .bz2 behind that. Where
    nodes cannot have lists an embedding is text: "[0.1, 0.2]" or "0.1 0.2".
    """
    action = _action(asked)
    if explain and form != "table":
        raise click.UsageError("--explain is for people to read: give it with --format table")
    if query is not None and query_node is not None:
        raise click.UsageError("give one query: either --query or --query-node")
    if action in _ASKED and query is None and query_node is None:
        raise click.UsageError(f"{_flag(action)} needs a query: give --query or --query-node")
    if action == "pagerank" and (explain or plot is not None):
        raise click.UsageError("--explain and --plot show ways, which --pagerank has none of")
    _check_plot(plot, plot_label)
    arguments = _arguments(action, asked, query is not None or query_node is not None)
    vector, type_name = None if query is None else _read(query), arguments.pop("type", None)
    with nodes_reported():
        scored = action != "match" or query is not None or query_node is not None
        loaded = load_graph(file, **{name: asked[name] for name in SOURCE}, edge_type=type_name, scored=scored)
        if query_node is not None:
            vector = _embedding(loaded, query_node, asked["embedding"] or "embedding")
        if action == "pagerank":
            _rank(loaded, vector, form, arguments)
            return
        found = _run(loaded, action, asked[action], vector, arguments)
    if plot is not None:
        found.plot(plot, label=plot_label)
    show(found, form, explain)
    if not found.complete:
        which = "time budget" if "time_budget" in arguments else "limit of nodes"
        click.echo(f"Warning: the {which} ended the search early: hits may be missing", err=True)


def _action(asked: dict[str, Any]) -> str:
    """Return what is to be done, and refuse options of anything else."""
    actions = [name for name in _ACTIONS if asked[name] not in (None, False)]
    if len(actions) != 1:
        raise click.UsageError("give one of " + ", ".join(map(_flag, _ACTIONS)))
    for name, of in _FOR.items():
        if asked[name] not in (None, ()) and actions[0] not in of:
            raise click.UsageError(f"{_flag(name)} is for {' and '.join(map(_flag, of))}, not for {_flag(actions[0])}")
    return actions[0]


def _check_plot(plot: Path | None, plot_label: str | None) -> None:
    """Refuse a picture that cannot be written before anything is walked."""
    if plot is None:
        if plot_label is not None:
            raise click.UsageError("--plot-label needs --plot")
        return
    from attnbridge.drawing import as_output
    from attnbridge.integrations.graph_plot import SUFFIXES
    from attnbridge.validation import require

    as_output(plot, SUFFIXES, "--plot")
    require("matplotlib", "viz")


def _arguments(action: str, asked: dict[str, Any], queried: bool) -> dict[str, Any]:
    """Return what was given for the action, as the Python API takes it."""
    given = {name: asked[name] for name in _FOR if asked[name] not in (None, ())}
    if action == "match" and len(given.get("starts", ())) > 1:
        raise click.UsageError(f"--start must be given once for --match, got {len(given['starts'])}")
    if "per_step" in given and not queried:
        raise click.UsageError("--per-step needs a query, which steps are ranked by")
    if action == "search" and "params" in given and "where" not in given:
        raise click.UsageError("--param needs --where, whose $names have values")
    if "params" in given:
        given["params"] = named_values(given["params"], "--param")
    for name in ("edge_types", "labels"):
        if name in given:
            given[name] = list(given[name])
    return given


def _read(query: str) -> Any:
    """Return the query of --query."""
    is_json = query.lstrip().startswith("[")
    vector = read_query(None if is_json else Path(query), query, "--query", "--query")
    if vector.ndim != 1:
        raise InvalidInputError(f"--query must be one vector (d,), got shape {vector.shape}")
    return vector


def _node(loaded: "AttentionGraph", text: str) -> Any:
    from attnbridge.integrations.node_names import node_of

    return node_of(loaded.topology, text)


def _embedding(loaded: "AttentionGraph", text: str, name: str) -> Any:
    """Return the embedding of a node, to be the query."""
    from attnbridge.integrations.graph_data import name_of
    from attnbridge.validation import as_vector

    node = loaded.nodes[loaded.position(_node(loaded, text))]
    value = loaded.graph.nodes[node].get(name)
    if value is None:
        raise InvalidInputError(f"--query-node must be a node with an embedding, {node!r} has none")
    return as_vector(value, name_of(node), keep_float64=True)


def _run(
    loaded: "AttentionGraph", action: str, target: Any, query: Any, arguments: dict[str, Any]
) -> "GraphHits | Matches":
    """Return what is found."""
    if action == "search":
        return _search(loaded, target, query, arguments)
    starts = [_node(loaded, text) for text in arguments.pop("starts", ())]
    if action == "match":
        return loaded.match(target, query, start=starts[0] if starts else None, **arguments)
    if action == "traverse":
        return loaded.traverse(query, starts or None, **arguments)
    node = _node(loaded, target)
    if action == "neighborhood":
        return loaded.neighborhood(node, query, **arguments)
    return loaded.k_hop(node, query=query, **arguments)


def _search(loaded: "AttentionGraph", folder: Path, query: Any, arguments: dict[str, Any]) -> "GraphHits":
    """Return what is found from an index's hits on; ids that are numbers may be texts as nodes, as in many files."""
    index, names = loaded.topology.index, {"limit": "k", "max_hops": "hops"}
    arguments = {names.get(name, name): value for name, value in arguments.items()}
    with opened(folder, write=False) as bridge:
        return loaded.search(bridge, query, node_of=lambda id: id if id in index else str(id), **arguments)


def _rank(loaded: "AttentionGraph", query: Any, form: str, arguments: dict[str, Any]) -> None:
    """Show the nodes with the greatest PageRank; of equal ones the first."""
    limit = arguments.pop("limit", _SHOWN)
    ranks = loaded.pagerank(query, **arguments)
    best = sorted(ranks.items(), key=lambda one: -one[1])[:limit]
    show_ranks(best, len(ranks), form)
