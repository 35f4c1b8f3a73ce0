"""Attention matrices as pictures: which query attends to which key, as a heat map or a page that answers the mouse."""

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.drawing import PICTURES, as_output, blank, drawable, save_picture, write_whole
from attnbridge.errors import DimensionMismatchError, InputTooLargeError, InvalidConfigError, InvalidInputError
from attnbridge.labels import middle_cut, shown
from attnbridge.mechanisms.heads import Heads
from attnbridge.scoring import resolve
from attnbridge.validation import Float, as_count, as_floats, as_matrix, require, require_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = ".html"
SUFFIXES = (*PICTURES, PAGE)

# Weights that are computed at most; rows or columns of a picture; and cells of all panels of a page (5.3 MB).
_MOST_WEIGHTS, _MOST_CELLS, _MOST_PAGE = 50_000_000, 1_000, 1_000_000
_MOST_CELLS_OF_MANY = 400  # of one of several panels, which have fewer pixels
_MOST_HEADS = 24
_LONGEST = 18  # columns of a label
_NOTHING = "#d9d9d9"  # the colour of a weight of 0: no colour of the scale
_STRIDES = (1, 2, 5)
_FONT = 8.0

# Buttons that work without a network; plotly's own choice has one that sends the data away.
_BUTTONS = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]
_PAGE_SETTINGS = {"displaylogo": False, "plotlyServerURL": "", "modeBarButtons": [_BUTTONS]}


class _Maps(NamedTuple):
    """Checked weights (P, L, S), what the P panels are called, and the names of rows and columns."""

    weights: Float
    panels: list[str]
    query_labels: list[str] | None
    key_labels: list[str] | None
    title: str


def visualize(
    query: npt.ArrayLike,
    key: npt.ArrayLike | None = None,
    attention_type: str = "scaled_dot",
    path: str | PathLike[str] | None = None,
    *,
    mask: Any = None,
    is_causal: bool = False,
    head: int | str | None = None,
    query_labels: Sequence[object] | None = None,
    key_labels: Sequence[object] | None = None,
    **options: Any,
) -> Any:
    """Draw how queries spread their attention over keys.

    Parameters
    ----------
    query : array_like, (L, d)
        With "cross" each row is a query of its own; (L, m, d) are queries of m tokens.
    key : array_like, (S, d), optional
        With "cross" (S, t, d) too: keys of t tokens. By default the queries: self-attention.
    attention_type : str, default "scaled_dot"
        A name or alias from `attention_types`. multi_head gets a panel for each head and one for their mean.
    path : str or path, optional
        A .png, .svg or .html file to write; see `plot_attention`.
    mask : array_like, broadcastable to (L, S), optional
        Boolean: True attends. Float: added to the logits.
    is_causal : bool, default False
        Query i attends to keys 0..i only.
    head : int or "mean", optional
        multi_head: draw this head alone, or the mean of all.
    query_labels, key_labels : list of str, optional
        One for each row and column; in self-attention the keys' are the queries' where they are not given.
    **options : object
        Options of the type, as `attention_types` lists them. sliding: `position` is by default each row's own place.

    Returns
    -------
    matplotlib.figure.Figure, or plotly.graph_objects.Figure
        plotly's for a .html path.

    Raises
    ------
    MissingDependencyError
        matplotlib or plotly is not installed.
    DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError
    InputTooLargeError
        More than 50,000,000 weights.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> figure = ab.visualize(np.eye(3), is_causal=True, scale=1.0)
    >>> figure.axes[0].images[0].get_array().filled(0).round(2)
    array([[1.  , 0.  , 0.  ],
           [0.27, 0.73, 0.  ],
           [0.21, 0.21, 0.58]])
    """
    weights, panels, name = _weights(query, key, attention_type, mask, is_causal, head, options)
    if key is None and key_labels is None:
        key_labels = query_labels
    told = options | ({"is_causal": True} if is_causal else {})
    title = name + "".join(f", {option} {middle_cut(shown(value), 40)}" for option, value in told.items())
    return plot_attention(weights, path, query_labels=query_labels, key_labels=key_labels, panels=panels, title=title)


def plot_attention(
    weights: npt.ArrayLike,
    path: str | PathLike[str] | None = None,
    *,
    query_labels: Sequence[object] | None = None,
    key_labels: Sequence[object] | None = None,
    panels: Sequence[str] | None = None,
    title: str = "",
) -> Any:
    """Draw attention weights: one row a query, one column a key, grey where nothing is attended to.

    Parameters
    ----------
    weights : array_like, (L, S) or (P, L, S)
        As mechanisms return them; P panels beside each other, heads for example, with one colour scale.
    path : str or path, optional
        A .png or .svg picture, or a .html page (5 MB, and up to 6 MB of weights) that needs no network: the weight
        under the mouse is told, and parts can be enlarged. Of more than 1,000 rows or columns (400 where there are
        several panels; in a page 1,000,000 cells in all) neighbours are averaged, and the title says so.
    query_labels, key_labels : list of str, optional
        One for each row and column; by default their numbers.
    panels : list of str, optional
        One title for each panel.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure, or plotly.graph_objects.Figure
        plotly's for a .html path.

    Raises
    ------
    MissingDependencyError
        matplotlib or plotly is not installed.
    DimensionMismatchError, InvalidInputError

    Examples
    --------
    >>> import attnbridge as ab
    >>> figure = ab.plot_attention([[0.9, 0.1], [0.4, 0.6]], key_labels=["wing", "flow"])
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['wing', 'flow']
    """
    file = None if path is None else as_output(path, SUFFIXES)
    maps = _checked(weights, panels, query_labels, key_labels, title)
    if file is not None and file.suffix.lower() == PAGE:
        page = _page(maps)
        text = page.to_html(full_html=True, include_plotlyjs=True, include_mathjax=False, config=_PAGE_SETTINGS)
        head = f"<head><title>{html.escape(title or 'attention weights')}</title>"
        written = text.replace("<head>", head, 1).encode("utf-8", "backslashreplace")
        write_whole(file, lambda stream: stream.write(written))
        return page
    figure = _picture(maps)
    if file is not None:
        save_picture(figure, file)
    return figure


def _weights(
    query: Any, key: Any, attention_type: str, mask: Any, is_causal: bool, head: Any, options: Mapping[str, Any]
) -> tuple[Float, list[str], str]:
    """Return weights (P, L, S), what the P panels are called, and the type's name."""
    row, checked = resolve(attention_type, dict(options))
    tokens = row.token_logits is not None
    query = _rows(query, "query", tokens)
    key = query if key is None else _rows(key, "key", tokens)
    if row.name == "sliding" and checked["position"] is None:
        checked["position"] = list(range(len(query)))
    mechanism = row.mechanism(checked)
    heads = mechanism.num_heads if isinstance(mechanism, Heads) else None
    if head is not None and heads is None:
        raise InvalidConfigError(f"head must be left out with {row.name}, which has none; multi_head has")
    wanted = None if head in (None, "mean") else as_count(head, "head", least=0, most=(heads or 1) - 1)
    count = len(query) * len(key) * (heads or 1)
    if count > _MOST_WEIGHTS:
        raise InputTooLargeError(
            f"a picture must be of at most {_MOST_WEIGHTS:,} weights (queries x keys x heads), got {count:,}; "
            "cut query or key"
        )
    if tokens:
        if mask is not None:
            raise InvalidConfigError(f"mask must be left out with {row.name}: each row is a query of its own")
        each = [mechanism.weights(one, key, None, is_causal) for one in query]
        return np.stack(each)[None], [""], row.name
    if not isinstance(mechanism, Heads):
        return mechanism.weights(query, key, mask, is_causal)[None], [""], row.name
    parts = np.concatenate(mechanism._head_weights(mechanism._check(query, key, None, mask, is_causal)))
    mean = parts.mean(axis=0)[None]
    if wanted is not None:
        return parts[wanted : wanted + 1], [f"head {wanted}"], row.name
    if head == "mean":
        return mean, ["mean"], row.name
    if len(parts) > _MOST_HEADS:
        raise InvalidConfigError(
            f"head must be given where there are more than {_MOST_HEADS} heads, here {heads}: a number, or 'mean'"
        )
    return np.concatenate([parts, mean]), [*(f"head {h}" for h in range(len(parts))), "mean"], row.name


def _rows(value: Any, name: str, tokens: bool) -> Float:
    """Return rows (n, d), or for a type that reads tokens (n, m, d) too; at least one."""
    rows = as_floats(value, name, keep_float64=True)
    if not (tokens and rows.ndim == 3):
        rows = as_matrix(rows, name, keep_float64=True)
    if not rows.size:
        raise InvalidInputError(f"{name} must not be empty: there is nothing to draw")
    return rows


def _checked(weights: Any, panels: Any, query_labels: Any, key_labels: Any, title: str) -> _Maps:
    array = as_floats(weights, "weights", keep_float64=True)
    if array.ndim not in (2, 3) or not array.size:
        raise DimensionMismatchError(
            f"weights must be (queries, keys) or (panels, queries, keys), none of them 0, got shape {array.shape}"
        )
    array = array.reshape(-1, *array.shape[-2:])
    require_finite(array.reshape(-1, array.shape[-1]), "weights")
    if array.min() < 0:
        raise InvalidInputError(f"weights must not be negative, got {array.min():g}; logits become weights by softmax")
    names = [""] * len(array) if panels is None else list(panels)
    if len(names) != len(array):
        raise DimensionMismatchError(f"panels must be one title for each of {len(array)} panels, got {len(names)}")
    _, queries, keys = array.shape
    rows, columns = _labels(query_labels, "query_labels", queries), _labels(key_labels, "key_labels", keys)
    return _Maps(array, names, rows, columns, title)


def _labels(labels: Any, name: str, count: int) -> list[str] | None:
    if labels is None:
        return None
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray):
        raise InvalidInputError(f"{name} must be a list of texts, got {labels!r:.80}")
    if len(labels) != count:
        whose = "queries" if name == "query_labels" else "keys"
        raise DimensionMismatchError(f"{name} must be one for each of {count} {whose}, got {len(labels)}")
    return [str(label) for label in labels]


def _averaged(maps: _Maps, most: int) -> tuple[_Maps, str]:
    """Return maps of at most so many rows and columns, and what to say of that."""
    blocks = [-(-size // most) for size in maps.weights.shape[1:]]
    if blocks == [1, 1]:
        return maps, ""
    weights = maps.weights
    for axis, block in enumerate(blocks, 1):
        starts = np.arange(0, weights.shape[axis], block)
        sizes = np.diff(starts, append=weights.shape[axis])
        weights = np.add.reduceat(weights, starts, axis=axis) / np.expand_dims(sizes, [0, 3 - axis])
    queries, keys = maps.weights.shape[1:]
    made = maps._replace(
        weights=weights,
        query_labels=_ranges(maps.query_labels, queries, blocks[0]),
        key_labels=_ranges(maps.key_labels, keys, blocks[1]),
    )
    return made, f"{queries:,} x {keys:,} weights, each cell the mean of {blocks[0]} x {blocks[1]}"


def _ranges(labels: list[str] | None, count: int, block: int) -> list[str] | None:
    """Return what blocks of rows are called."""
    if block == 1:
        return labels
    names = [str(i) for i in range(count)] if labels is None else labels
    return [f"{names[start]} to {names[min(start + block, count) - 1]}" for start in range(0, count, block)]


def _grid(panels: int) -> tuple[int, int]:
    """Return rows and columns of panels."""
    columns = math.ceil(math.sqrt(panels))
    return -(-panels // columns), columns


def _size(maps: _Maps) -> tuple[float, float]:
    """Return a panel's width and height in inches: larger for more cells, square for square ones."""
    most = 7.2 if len(maps.panels) == 1 else 3.0
    queries, keys = maps.weights.shape[1:]
    cell = min(0.3, most / max(queries, keys))
    return max(keys * cell, 0.35 * most), max(queries * cell, 0.35 * most)


# ---- pictures


def _picture(maps: _Maps) -> "Figure":
    """Return the heat maps as a figure."""
    maps, note = _averaged(maps, _MOST_CELLS if len(maps.panels) == 1 else _MOST_CELLS_OF_MANY)
    across, (width, height) = _grid(len(maps.panels)), _size(maps)
    figure = blank(max(5.0, across[1] * (width + 0.6) + 1.6), across[0] * (height + 0.5) + 1.2)
    axes = figure.subplots(*across, squeeze=False, sharex=True, sharey=True).ravel()
    colours = require("matplotlib", "viz").colormaps["viridis"].with_extremes(bad=_NOTHING)
    image: Any = None
    for place, panel in enumerate(axes):
        panel.set_visible(place < len(maps.panels))
        if place < len(maps.panels):
            image = panel.imshow(
                np.ma.masked_equal(maps.weights[place], 0.0),
                cmap=colours,
                vmin=0.0,
                vmax=maps.weights.max() or 1.0,
                aspect="auto",
                interpolation="nearest",
            )
            panel.set_title(maps.panels[place], fontsize=_FONT + 1, parse_math=False)
            panel.tick_params(labelsize=_FONT, labelbottom=place + across[1] >= len(maps.panels), labelleft=True)
    figure.colorbar(image, ax=axes.tolist(), label="weight", shrink=0.9)
    figure.supxlabel("key", fontsize=_FONT + 1)
    figure.supylabel("query", fontsize=_FONT + 1)
    (title,), font = drawable([maps.title or "attention weights"], 200)
    lines = [*textwrap.wrap(title, int(figure.get_figwidth() * 11)), *_notes(maps, note)]
    figure.suptitle("\n".join(lines), fontsize=_FONT + 1, **font)
    _label(figure, axes[: len(maps.panels)].tolist(), maps)
    return figure


def _notes(maps: _Maps, averaged: str) -> list[str]:
    """Return what stands below the title."""
    return [text for text in (averaged, "grey: weight 0" if (maps.weights == 0.0).any() else "") if text]


def _label(figure: "Figure", panels: "list[Axes]", maps: _Maps) -> None:
    """Write as many labels as there is room for, none over another."""
    for name, labels, count in (
        ("x", maps.key_labels, maps.weights.shape[2]),
        ("y", maps.query_labels, maps.weights.shape[1]),
    ):
        texts, font = drawable(range(count) if labels is None else labels, _LONGEST)
        upright = name == "x" and max(map(len, texts)) > 3
        for stride in _strides(count):
            places = list(range(0, count, stride))
            shown_texts = [texts[place] for place in places]
            for panel in panels:
                axis = panel.xaxis if name == "x" else panel.yaxis
                axis.set_ticks(places, shown_texts, rotation=90 if upright else 0, **font)
            figure.draw_without_rendering()
            if not any(_overlap(panel, name) for panel in panels):
                break


def _strides(count: int) -> list[int]:
    """Return 1, 2, 5, 10, 20, ... up to one that leaves a single label."""
    powers = range(len(str(count)) + 1)
    return [stride for stride in (base * 10**power for power in powers for base in _STRIDES) if stride < count] + [
        count
    ]


def _overlap(panel: "Axes", name: str) -> bool:
    """Return whether one of an axis' labels touches the next."""
    axis = panel.xaxis if name == "x" else panel.yaxis
    boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_visible()]
    spans = sorted((box.x0, box.x1) if name == "x" else (box.y0, box.y1) for box in boxes)
    return any(after[0] < before[1] for before, after in pairwise(spans))


# ---- pages


def _page(maps: _Maps) -> Any:
    """Return the heat maps as a plotly figure."""
    objects, subplots = require("plotly.graph_objects", "viz"), require("plotly.subplots", "viz")
    _, queries, keys = maps.weights.shape
    maps = maps._replace(query_labels=_numbered(maps.query_labels), key_labels=_numbered(maps.key_labels))
    maps, note = _averaged(maps, min(_MOST_CELLS, math.isqrt(_MOST_PAGE // len(maps.panels))))
    rows, columns = _categories(maps.query_labels, queries), _categories(maps.key_labels, keys)
    (down, across), (width, height) = _grid(len(maps.panels)), _size(maps)
    beside, below = (90 + 6 * max(len(str(name)) for name in names) for names in (rows, columns))
    whole, high = across * (100 * width + beside), down * (100 * height + below)
    figure = subplots.make_subplots(
        down,
        across,
        subplot_titles=[html.escape(shown(name)) for name in maps.panels],
        horizontal_spacing=beside / whole,
        vertical_spacing=below / high,
    )
    for place, (name, weights) in enumerate(zip(maps.panels, maps.weights, strict=True)):
        told = f"query %{{y}}<br>key %{{x}}<br>weight %{{z:.4g}}<extra>{html.escape(shown(name))}</extra>"
        heat = objects.Heatmap(
            z=weights.astype(np.float32), x=columns, y=rows, coloraxis="coloraxis", hovertemplate=told
        )
        figure.add_trace(heat, row=place // across + 1, col=place % across + 1)
    figure.update_xaxes(title_text="key", title_standoff=6, automargin=True)
    figure.update_yaxes(title_text="query", title_standoff=6, automargin=True, autorange="reversed")
    lines = [*textwrap.wrap(shown(maps.title or "attention weights"), 90), *_notes(maps, note)]
    most = float(maps.weights.max()) or 1.0
    figure.update_layout(
        title={"text": "<br>".join(map(html.escape, lines)), "font_size": 15},
        coloraxis={"colorscale": _viridis(), "cmin": 0.0, "cmax": most, "colorbar_title": "weight"},
        width=round(whole + 180),
        height=round(high + 80 + 20 * len(lines)),
        margin={"t": 70 + 20 * len(lines)},
    )
    return figure


def _numbered(labels: list[str] | None) -> list[str] | None:
    """Return labels with their numbers before them, which keep equal ones apart."""
    return None if labels is None else [f"{i} {shown(label)}" for i, label in enumerate(labels)]


def _categories(labels: list[str] | None, count: int) -> list[str] | list[int]:
    """Return what a page calls rows."""
    if labels is None:
        return list(range(count))
    return [html.escape(middle_cut(label, 2 * _LONGEST)) for label in labels]


def _viridis() -> list[tuple[float, str]]:
    """Return the colour scale of a page: grey for 0 itself."""
    colours = require("plotly.colors", "viz").sequential.Viridis
    steps = np.linspace(0.0, 1.0, len(colours)).tolist()
    return [(0.0, _NOTHING), (1e-9, _NOTHING), *zip([1e-9, *steps[1:]], colours, strict=True)]
