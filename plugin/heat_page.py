"""Matrices of weights as a page that tells the weight under the mouse, by plotly."""

import html
import math
import textwrap
from typing import Any

import numpy as np

from attnbridge.heat_maps import LONGEST, MOST_CELLS, NOTHING, Maps, averaged, grid, notes, panel_size
from attnbridge.labels import middle_cut, shown
from attnbridge.validation import require

_MOST = 1_000_000  # cells of all panels: 5.3 MB

# Pixels of an inch: one panel fits a window of 1,000 x 800, a row of three one of 1,280.
_INCH = 70

# Buttons that work without a network; plotly's own choice has one that sends the data away.
_BUTTONS = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]
SETTINGS = {"displaylogo": False, "plotlyServerURL": "", "modeBarButtons": [_BUTTONS]}


def page(maps: Maps) -> Any:
    """Return the heat maps as a plotly figure."""
    objects, subplots = require("plotly.graph_objects", "viz"), require("plotly.subplots", "viz")
    _, queries, keys = maps.weights.shape
    maps = maps._replace(query_labels=_numbered(maps.query_labels), key_labels=_numbered(maps.key_labels))
    maps, note = averaged(maps, min(MOST_CELLS, math.isqrt(_MOST // len(maps.panels))))
    rows, columns = _categories(maps.query_labels, queries), _categories(maps.key_labels, keys)
    (down, across), (width, height) = grid(len(maps.panels)), panel_size(maps)
    beside, below = (90 + 6 * max(len(str(name)) for name in names) for names in (rows, columns))
    whole, high = across * (_INCH * width + beside), down * (_INCH * height + below)
    figure = subplots.make_subplots(
        down,
        across,
        subplot_titles=[_escaped(shown(name)) for name in maps.panels],
        horizontal_spacing=beside / whole,
        vertical_spacing=below / high,
    )
    for place, (name, weights) in enumerate(zip(maps.panels, maps.weights, strict=True)):
        told = f"query %{{y}}<br>key %{{x}}<br>weight %{{z:.4g}}<extra>{_escaped(shown(name))}</extra>"
        heat = objects.Heatmap(
            z=weights.astype(np.float32), x=columns, y=rows, coloraxis="coloraxis", hovertemplate=told
        )
        figure.add_trace(heat, row=place // across + 1, col=place % across + 1)
    figure.update_xaxes(title_text="key", title_standoff=6, automargin=True)
    figure.update_yaxes(title_text="query", title_standoff=6, automargin=True, autorange="reversed")
    lines = [*textwrap.wrap(shown(maps.title or "attention weights"), 90), *notes(maps, note)]
    most = float(maps.weights.max()) or 1.0
    figure.update_layout(
        title={"text": "<br>".join(map(_escaped, lines)), "font_size": 15},
        coloraxis={"colorscale": _viridis(), "cmin": 0.0, "cmax": most, "colorbar_title": "weight"},
        width=round(whole + 180),
        height=round(high + 80 + 20 * len(lines)),
        margin={"t": 70 + 20 * len(lines)},
    )
    return figure


def _escaped(text: str) -> str:
    """Return a text that plotly draws as it is: tags are read in its labels, names of quotes are not."""
    return html.escape(text, quote=False)


def _numbered(labels: list[str] | None) -> list[str] | None:
    """Return labels with their numbers before them, which keep equal ones apart."""
    return None if labels is None else [f"{i} {shown(label)}" for i, label in enumerate(labels)]


def _categories(labels: list[str] | None, count: int) -> list[str] | list[int]:
    """Return what a page calls rows."""
    if labels is None:
        return list(range(count))
    return [_escaped(middle_cut(label, 2 * LONGEST)) for label in labels]


def _viridis() -> list[tuple[float, str]]:
    """Return the colour scale of a page: grey for 0 itself."""
    colours = require("plotly.colors", "viz").sequential.Viridis
    steps = np.linspace(0.0, 1.0, len(colours)).tolist()
    return [(0.0, NOTHING), (1e-9, NOTHING), *zip([1e-9, *steps[1:]], colours, strict=True)]
