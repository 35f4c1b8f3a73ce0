"""The picture of a walk or a match: boxes by hop, coloured by score, edges as wide as their attention."""

import textwrap
from collections import Counter
from itertools import pairwise
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.drawing import GREY, VERMILLION, as_output, blank, drawable, save_picture
from attnbridge.errors import InvalidInputError
from attnbridge.heat_maps import NOTHING
from attnbridge.integrations.graph_data import as_hashable
from attnbridge.integrations.graph_layout import Layout, layered
from attnbridge.integrations.node_names import same_node
from attnbridge.validation import as_count, require

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
MOST_NODES = 60  # that are drawn where nobody asks for more
MOST_HITS = 200  # that can be asked for
_MOST_NAMED = 40  # edges; the names of more would hide them
_LONGEST, _LONGEST_OF_MANY, _MANY = 28, 14, 7  # columns of a label, and where there are more columns of nodes than this
_FONT, _SMALL = 8.0, 6.5  # points
_HEIGHT, _PAD, _MARGIN = 0.24, 0.09, 0.2  # inches: of a box, beside its text, around all
_HEAD = 0.28  # inches: above the first row
_LINE = "#8c8c8c"
_THIN, _WIDE = 0.6, 2.8  # points of an edge without attention, and what all attention adds
_PLACES = (0.62, 0.5, 0.74, 0.38, 0.86, 0.26)  # along an edge, where its name may stand


class _Sizes(NamedTuple):
    """Inches: the left end and the width of each column of boxes, the first row's top, and from one row to the next."""

    lefts: npt.NDArray[np.float64]
    widths: npt.NDArray[np.float64]
    top: float
    row: float
    width: float
    height: float


class _Edge(NamedTuple):
    """An edge to be drawn."""

    source: Any
    target: Any
    attention: float | None
    name: str
    offset: float  # of parallel edges, in inches from the middle of their boxes
    rank: int  # among parallel ones

    @property
    def loop(self) -> bool:
        return same_node(self.source, self.target)


def draw(
    graph: Any,
    path: str | PathLike[str] | None,
    title: str,
    *,
    starts: "set[Any] | None" = None,
    label: Any = None,
    edge_label: Any = "type",
) -> "Figure":
    """Return the figure of a subgraph as `to_subgraph` makes it, written to `path` if there is one.

    Parameters
    ----------
    graph : networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
        Nodes with hop and perhaps score, edges perhaps with attention.
    path : str or path or None
    title : str
    starts : set of hashable, optional
        Nodes to mark.
    label, edge_label : hashable, optional
        The attributes that nodes and edges are called by.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidConfigError, InvalidInputError, MissingDependencyError
    """
    file = None if path is None else as_output(path, SUFFIXES)
    label, edge_label = as_hashable(label, "label"), as_hashable(edge_label, "edge_label")
    if not len(graph):
        raise InvalidInputError("hits must be at least one to be drawn, there are none")
    require("matplotlib", "viz")
    edges = _edges(graph, edge_label)
    layout = _layout(graph, edges)
    longest = _LONGEST if len(layout.columns) <= _MANY else _LONGEST_OF_MANY
    calls = [graph.nodes[node].get(label, node) if label is not None else node for node in graph]
    texts, font = drawable(calls, longest)
    names = dict(zip(graph, texts, strict=True))
    named, edge_font = drawable([edge.name for edge in edges], longest)
    named = named if len(edges) <= _MOST_NAMED else [""] * len(edges)
    sizes = _measured(layout, names, font, edges, named, edge_font)
    scores = {node: graph.nodes[node].get("score", np.nan) for node in graph}
    figure, panel = _canvas(sizes, _lines(title, graph, edges, scores, sizes.width), np.isfinite([*scores.values()]))
    colours = _Colours(scores)
    arcs = [_draw_edge(panel, edge, layout, number, sizes, graph) for number, edge in enumerate(edges)]
    for node, name in names.items():
        _draw_node(panel, _box(node, layout, sizes), name, font, colours.of(node), node in (starts or ()))
    _heads(panel, layout, sizes, graph)
    _name_edges(panel, edges, arcs, named, edge_font)
    _keys(figure, colours, edges, starts or set())
    if file is not None:
        save_picture(figure, file)
    return figure


def as_limit(limit: Any) -> int:
    """Return how many hits are to be drawn.

    Raises
    ------
    InvalidConfigError
    """
    return as_count(limit, "limit", most=MOST_HITS)


def fitting(hits: "Iterable[set[Any]]") -> int:
    """Return how many hits, of which these are the nodes, have few enough nodes to be drawn; at least one."""
    nodes: set[Any] = set()
    count = 0
    for count, more in enumerate(hits, 1):
        nodes |= more
        if len(nodes) > MOST_NODES or count > MOST_HITS:
            return max(1, count - 1)
    return count


def of_how_many(count: int, total: int, noun: str, complete: bool) -> str:
    """Return a title that says how many hits of how many are drawn."""
    nouns = noun if total == 1 else f"{noun}s"
    shown = f"The first {count:,} of {total:,} {nouns}" if count < total else f"{total:,} {nouns}"
    return shown if complete else f"{shown}, cut short"


# ---- what is drawn


def _edges(graph: Any, edge_label: Any) -> list[_Edge]:
    """Return the edges with their names, parallel ones beside each other."""
    found: list[tuple[Any, Any, dict[Any, Any], Any]]
    if graph.is_multigraph():
        found = [(u, v, data, key) for u, v, key, data in graph.edges(keys=True, data=True)]
    else:
        found = [(u, v, data, None) for u, v, data in graph.edges(data=True)]
    parallel = Counter(frozenset((u, v)) for u, v, *_ in found)
    seen: Counter[frozenset[Any]] = Counter()
    edges = []
    for u, v, data, key in found:
        ends = frozenset((u, v))
        rank, count = seen[ends], parallel[ends]
        seen[ends] += 1
        apart = min(0.13, 0.8 * _HEIGHT / max(1, count - 1))
        attention = data.get("attention")
        kind = data.get(edge_label)
        if kind is None and key is not None and (not isinstance(key, int) or graph.number_of_edges(u, v) > 1):
            kind = key
        called = [*([] if kind is None else [str(kind)]), *([] if attention is None else [f"{attention:.2f}"])]
        edges.append(_Edge(u, v, attention, " ".join(called), (rank - (count - 1) / 2) * apart, rank))
    return edges


def _layout(graph: Any, edges: list[_Edge]) -> Layout:
    """Return the layout of a graph whose nodes have hops."""
    hops = {node: graph.nodes[node]["hop"] for node in graph}
    column = {hop: number for number, hop in enumerate(sorted(set(hops.values())))}
    scores = [graph.nodes[node].get("score", -np.inf) for node in graph]
    order = {node: -score for node, score in zip(graph, scores, strict=True)}
    heights = {edge.source: 1.4 + 0.3 * edge.rank for edge in edges if edge.loop}
    ends = [(edge.source, edge.target) for edge in edges]
    return layered({node: column[hop] for node, hop in hops.items()}, ends, order, heights)


def _lines(title: str, graph: Any, edges: list[_Edge], scores: dict[Any, float], width: float) -> list[str]:
    """Return what stands above the picture."""
    (shown,), _ = drawable([title], 200)
    notes = []
    if not np.isfinite([*scores.values()]).all() and np.isfinite([*scores.values()]).any():
        notes.append("grey: no score")
    if len(edges) > _MOST_NAMED and any(edge.name for edge in edges):
        notes.append(f"the names of {len(edges)} edges are left out")
    room = int(max(width, 4.0) * 13)
    return [line for text in (shown, "; ".join(notes)) for line in textwrap.wrap(text, room)]


# ---- sizes


def _measured(
    layout: Layout,
    names: dict[Any, str],
    font: dict[str, Any],
    edges: list[_Edge],
    edge_names: list[str],
    edge_font: dict[str, Any],
) -> _Sizes:
    """Return sizes in which every text has room."""
    texts = dict(zip(names, _widths([*names.values()], _FONT, font), strict=True))
    named = max([0.55, *(width + 0.5 for width in _widths(edge_names, _SMALL, edge_font))])
    widths = np.array([max([0.4, *(texts[node] + 2 * _PAD for node in column)]) for column in layout.columns])
    behind = np.array([_behind(set(column), edges, layout) for column in layout.columns])
    lefts = _MARGIN + np.append(0.0, np.cumsum((widths + np.maximum(behind, named))[:-1]))
    most = max(map(len, layout.columns))
    row = 0.42 if most <= 12 else 0.34 if most <= 25 else 0.28
    rows = [*layout.rows.values(), *(row for bends in layout.bends for _, row in bends)]
    top = _HEAD + max([0.0, *(_up(edge) - 0.05 for edge in edges if edge.loop)])
    width = float(lefts[-1] + widths[-1] + max(0.55, behind[-1]))
    return _Sizes(lefts, widths, top, row, width, top + row * (max(rows) + 1.3))


def _behind(column: set[Any], edges: list[_Edge], layout: Layout) -> float:
    """Return how much room edges within a column take beside it, their names included."""
    within = [edge for edge in edges if {edge.source, edge.target} <= column]
    return max((0.75 * _out(edge, layout) + 0.35 for edge in within), default=0.0)


def _out(edge: _Edge, layout: Layout) -> float:
    """Return how far beside their column the points of an edge between two of its boxes are."""
    if edge.loop:
        return 0.0
    return 0.25 + 0.2 * min(8.0, abs(layout.rows[edge.source] - layout.rows[edge.target])) + 0.07 * edge.rank


def _up(loop: _Edge) -> float:
    """Return how far above its box the points of a self loop are."""
    return 0.2 + 0.11 * loop.rank


def _widths(texts: list[str], size: float, font: dict[str, Any]) -> list[float]:
    """Return how wide texts are, in inches."""
    figure = blank(1.0, 1.0)
    drawn = [figure.text(0.0, 0.0, text, fontsize=size, **font) for text in texts]
    figure.draw_without_rendering()
    return [float(text.get_window_extent().width) / figure.dpi for text in drawn]


def _canvas(sizes: _Sizes, lines: list[str], scored: Any) -> "tuple[Figure, Axes]":
    """Return a figure with a title, and axes on it whose unit is an inch."""
    above, below, beside = 0.22 + 0.17 * len(lines), 0.4, 1.0 if scored.any() else 0.1
    width, height = max(4.4, sizes.width + beside), max(1.7, above + sizes.height + below)
    figure = blank(width, height)
    figure.set_layout_engine("none")
    bottom = (height - above - sizes.height - below) / 2 + below
    panel = figure.add_axes(
        (0.0, bottom / height, sizes.width / width, sizes.height / height),
        xlim=(0.0, sizes.width),
        ylim=(sizes.height, 0.0),
    )
    panel.set_axis_off()
    figure.text(_MARGIN / width, 1 - 0.1 / height, "\n".join(lines), fontsize=_FONT + 1, va="top", parse_math=False)
    return figure, panel


class _Box(NamedTuple):
    """A node's box: its left end, its right end and its middle, in inches."""

    left: float
    right: float
    middle: float


def _box(node: Any, layout: Layout, sizes: _Sizes) -> _Box:
    column = layout.column_of[node]
    left = float(sizes.lefts[column])
    return _Box(left, left + float(sizes.widths[column]), _level(layout.rows[node], sizes))


def _level(row: float, sizes: _Sizes) -> float:
    return sizes.top + sizes.row * (row + 0.5)


# ---- drawing


class _Colours:
    """The colours of scores."""

    def __init__(self, scores: dict[Any, float]) -> None:
        colors = require("matplotlib.colors", "viz")
        known = [score for score in scores.values() if np.isfinite(score)]
        low, high = (min(known), max(known)) if known else (0.0, 0.0)
        if low == high:  # one colour, from the middle of the scale
            low, high = low - 0.5, high + 0.5
        self.any, self._scores = bool(known), scores
        self.norm, self.map = colors.Normalize(low, high), require("matplotlib", "viz").colormaps["viridis"]

    def of(self, node: Any) -> Any:
        """Return a node's colour."""
        score = self._scores[node]
        return self.map(self.norm(score)) if np.isfinite(score) else NOTHING


def _draw_node(panel: "Axes", box: _Box, name: str, font: dict[str, Any], colour: Any, start: bool) -> None:
    patches, colors = require("matplotlib.patches", "viz"), require("matplotlib.colors", "viz")
    panel.add_patch(
        patches.FancyBboxPatch(
            (box.left, box.middle - _HEIGHT / 2),
            box.right - box.left,
            _HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=colour,
            edgecolor=VERMILLION if start else "#333333",
            linewidth=2.2 if start else 0.7,
            zorder=3,
        )
    )
    red, green, blue = colors.to_rgb(colour)
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
    centre = (box.left + box.right) / 2
    panel.text(
        centre,
        box.middle,
        name,
        fontsize=_FONT,
        ha="center",
        va="center_baseline",
        color="black" if light else "white",
        zorder=4,
        **font,
    )


def _draw_edge(panel: "Axes", edge: _Edge, layout: Layout, number: int, sizes: _Sizes, graph: Any) -> Any:
    """Draw an edge, and return the curve (4, 2) on which its name is written."""
    patches, paths = require("matplotlib.patches", "viz"), require("matplotlib.path", "viz")
    source, target = _box(edge.source, layout, sizes), _box(edge.target, layout, sizes)
    points = _points(edge, source, target, layout, layout.bends[number], sizes)
    codes = [paths.Path.MOVETO, *[paths.Path.CURVE4] * (len(points) - 1)]
    drawn = points.copy() if source.left <= target.left else points[::-1].copy()
    if graph.is_directed():
        thick = _width(edge.attention) / 72
        head = _head(drawn[-1], drawn[-1] - drawn[-2], 0.07 + thick, 0.03 + 0.8 * thick)
        panel.add_patch(patches.Polygon(head, closed=True, facecolor=_LINE, linewidth=0.0, zorder=1))
        drawn[-1] = head[1:].mean(axis=0)
    line = paths.Path(drawn, codes)
    style = {"facecolor": "none", "edgecolor": _LINE, "capstyle": "butt", "zorder": 1}
    panel.add_patch(patches.PathPatch(line, linewidth=_width(edge.attention), **style))
    return points[-4:]


def _head(tip: Any, along: Any, length: float, half: float) -> npt.NDArray[np.float64]:
    """Return the corners of an arrow's head, its tip first."""
    along = along / np.hypot(*along)
    across = np.array([-along[1], along[0]])
    back = tip - length * along
    return np.array([tip, back + half * across, back - half * across])


def _width(attention: float | None) -> float:
    return 2 * _THIN if attention is None else _THIN + _WIDE * attention


def _points(
    edge: _Edge, source: _Box, target: _Box, layout: Layout, bends: list[tuple[int, float]], sizes: _Sizes
) -> npt.NDArray[np.float64]:
    """Return the points of Bezier curves, four for the first and three for each further one, from left to right."""
    if source.left == target.left:
        return _beside(edge, source, target, _out(edge, layout))
    left, right = (source, target) if source.left < target.left else (target, source)
    ends = [(left.right, left.middle + edge.offset)]
    for column, row in bends:
        begin = float(sizes.lefts[column])
        ends += [(begin, _level(row, sizes)), (begin + float(sizes.widths[column]), _level(row, sizes))]
    ends.append((right.left, right.middle + edge.offset))
    points = [ends[0]]
    for (x0, y0), (x1, y1) in pairwise(ends):
        middle = (x0 + x1) / 2
        points += [(middle, y0), (middle, y1), (x1, y1)]
    return np.array(points)


def _beside(edge: _Edge, source: _Box, target: _Box, out: float) -> npt.NDArray[np.float64]:
    """Return the curve of an edge within a column: at the boxes' right side, a self loop above its box."""
    right = source.right
    if edge.loop:
        top, up = source.middle - _HEIGHT / 2, _up(edge)
        from_x, to_x = right - 0.3, right - 0.1
        return np.array([(from_x, top), (from_x - 0.05, top - up), (to_x + 0.05, top - up), (to_x, top)])
    ends = [(right, source.middle), (right, target.middle)]
    bulge = [(right + out, middle) for _, middle in ends]
    return np.array([ends[0], *bulge, ends[1]])


def _heads(panel: "Axes", layout: Layout, sizes: _Sizes, graph: Any) -> None:
    """Write above each column how many hops away it is."""
    for nodes, left, width in zip(layout.columns, sizes.lefts, sizes.widths, strict=True):
        hop = graph.nodes[nodes[0]]["hop"]
        panel.text(left + width / 2, 0.2, f"hop {hop}", ha="center", va="bottom", fontsize=_SMALL + 0.5, color=GREY)


def _name_edges(panel: "Axes", edges: list[_Edge], arcs: list[Any], names: list[str], font: dict[str, Any]) -> None:
    """Write names beside their edges, each where it hides no other if there is such a place."""
    frame = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    style = {"fontsize": _SMALL, "va": "center", "color": "#333333", "zorder": 2, "bbox": frame, **font}
    taken: list[Any] = []
    order = sorted(range(len(edges)), key=lambda number: not edges[number].loop)
    for edge, points, name in ((edges[i], arcs[i], names[i]) for i in order):  # loops, whose place is fixed, first
        if not name:
            continue
        loop = edge.loop
        text = panel.text(0.0, 0.0, name, ha="left" if loop else "center", **style)
        beside = (points[-1][0] + 0.04, points[-1][1] - _up(edge) + 0.1)
        for place in [beside] if loop else [_along(points, t) for t in (*_PLACES, _PLACES[0])]:
            text.set_position(place)
            extent = text.get_window_extent()
            if not any(extent.overlaps(other) for other in taken):
                break
        taken.append(extent)


def _along(points: npt.NDArray[np.float64], t: float) -> tuple[float, float]:
    """Return a point of a cubic Bezier curve."""
    shares = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    x, y = shares @ points
    return float(x), float(y)


def _keys(figure: "Figure", colours: _Colours, edges: list[_Edge], starts: set[Any]) -> None:
    """Draw the colour bar, and below the picture what widths and borders mean."""
    width, height = figure.get_size_inches().tolist()
    if colours.any:
        tall = min(2.6, 0.75 * height)
        bar = figure.add_axes((1 - 0.72 / width, (height - tall) / 2 / height, 0.13 / width, tall / height))
        mappable = require("matplotlib.cm", "viz").ScalarMappable(colours.norm, colours.map)
        figure.colorbar(mappable, cax=bar).set_label("score", fontsize=_FONT)
        bar.tick_params(labelsize=_SMALL)
        bar.yaxis.set_label_position("left")
    lines, patches = require("matplotlib.lines", "viz"), require("matplotlib.patches", "viz")
    handles: list[Any] = []
    if starts:
        handles.append(patches.Patch(facecolor="white", edgecolor=VERMILLION, linewidth=2.2, label="start"))
    if any(edge.attention is not None for edge in edges):
        handles += [
            lines.Line2D([], [], color=_LINE, linewidth=_width(share), label=f"{'attention ' * (not i)}{share:g}")
            for i, share in enumerate((0.1, 0.5, 1.0))
        ]
    if handles:
        figure.legend(handles=handles, loc="lower left", ncols=len(handles), frameon=False, fontsize=_FONT - 0.5)
