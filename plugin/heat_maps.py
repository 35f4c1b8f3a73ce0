"""Matrices of weights as heat maps."""

import math
import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnbridge.drawing import blank, drawable
from attnbridge.validation import Float, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CELLS, MOST_OF_MANY = 1_000, 400  # rows or columns of one panel, and of each of several: they have fewer pixels
LONGEST = 18  # columns of a label
NOTHING = "#d9d9d9"  # the colour of a weight of 0: no colour of the scale
_STRIDES = (1, 2, 5)
_FONT = 8.0


class Maps(NamedTuple):
    """Checked weights (P, L, S), what the P panels are called, and the names of rows and columns."""

    weights: Float
    panels: list[str]
    query_labels: list[str] | None
    key_labels: list[str] | None
    title: str


def averaged(maps: Maps, most: int) -> tuple[Maps, str]:
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


def grid(panels: int) -> tuple[int, int]:
    """Return rows and columns of panels."""
    columns = math.ceil(math.sqrt(panels))
    return -(-panels // columns), columns


def panel_size(maps: Maps) -> tuple[float, float]:
    """Return a panel's width and height in inches: larger for more cells, square for square ones."""
    most = 7.2 if len(maps.panels) == 1 else 3.0
    queries, keys = maps.weights.shape[1:]
    cell = min(0.3, most / max(queries, keys))
    return max(keys * cell, 0.35 * most), max(queries * cell, 0.35 * most)


def picture(maps: Maps) -> "Figure":
    """Return the heat maps as a figure."""
    maps, note = averaged(maps, MOST_CELLS if len(maps.panels) == 1 else MOST_OF_MANY)
    across, (width, height) = grid(len(maps.panels)), panel_size(maps)
    figure = blank(max(5.0, across[1] * (width + 0.6) + 1.6), across[0] * (height + 0.5) + 1.2)
    panels = figure.subplots(*across, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    while len(panels) > len(maps.panels):
        panels.pop().remove()
    colours = require("matplotlib", "viz").colormaps["viridis"].with_extremes(bad=NOTHING)
    most = maps.weights.max() or 1.0
    for place, (panel, weights) in enumerate(zip(panels, maps.weights, strict=True)):
        shown = np.ma.masked_equal(weights, 0.0)
        image = panel.imshow(shown, cmap=colours, vmin=0.0, vmax=most, aspect="auto", interpolation="nearest")
        panel.set_title(maps.panels[place], fontsize=_FONT + 1, parse_math=False)
        panel.tick_params(labelsize=_FONT, labelbottom=place + across[1] >= len(panels), labelleft=True)
    figure.colorbar(image, ax=panels, label="weight", shrink=0.9)
    figure.supxlabel("key", fontsize=_FONT + 1)
    figure.supylabel("query", fontsize=_FONT + 1)
    (title,), font = drawable([maps.title or "attention weights"], 200)
    lines = [*textwrap.wrap(title, int(figure.get_figwidth() * 11)), *notes(maps, note)]
    figure.suptitle("\n".join(lines), fontsize=_FONT + 1, **font)
    _label(figure, panels, maps)
    return figure


def notes(maps: Maps, averaged: str) -> list[str]:
    """Return what stands below the title."""
    return [text for text in (averaged, "grey: weight 0" if (maps.weights == 0.0).any() else "") if text]


class _Ticks:
    """The labels of one axis of all panels, thinned until none is over another."""

    def __init__(self, panels: "list[Axes]", name: str, labels: list[str] | None, count: int, room: float) -> None:
        self._axes = [panel.xaxis if name == "x" else panel.yaxis for panel in panels]
        self._texts, self._font = drawable(range(count) if labels is None else labels, LONGEST)
        if len(set(self._texts)) < count:  # cut to the same letters, or alike as they came
            self._texts = [f"{place} {text}" for place, text in enumerate(self._texts)]
        self._ends = ("x0", "x1") if name == "x" else ("y0", "y1")
        self._upright = name == "x" and max(map(len, self._texts)) > 3
        self._left = _strides(count, 72 * room / _FONT)  # were the labels one below the other without a gap

    def set(self) -> None:
        """Write the labels."""
        places = range(0, len(self._texts), self._left[0])
        texts = [self._texts[place] for place in places]
        for axis in self._axes:
            axis.set_ticks(list(places), texts, rotation=90 if self._upright else 0, **self._font)

    def thin(self) -> bool:
        """Take the next stride if a label touches another; return whether one did."""
        if len(self._left) == 1 or not any(map(self._overlap, self._axes)):
            return False
        del self._left[0]
        return True

    def _overlap(self, axis: Any) -> bool:
        boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_visible()]
        spans = sorted(tuple(getattr(box, end) for end in self._ends) for box in boxes)
        return any(after[0] < before[1] for before, after in pairwise(spans))


def _label(figure: "Figure", panels: "list[Axes]", maps: Maps) -> None:
    """Write as many labels as there is room for: those of one axis take room from the other's."""
    (_, queries, keys), (width, height) = maps.weights.shape, panel_size(maps)
    axes = [
        _Ticks(panels, "x", maps.key_labels, keys, width),
        _Ticks(panels, "y", maps.query_labels, queries, height),
    ]
    crowded = True
    while crowded:
        for ticks in axes:
            ticks.set()
        figure.draw_without_rendering()
        crowded = bool(sum([ticks.thin() for ticks in axes]))  # each of them gets its turn


def _strides(count: int, most: float) -> list[int]:
    """Return 1, 2, 5, 10, 20, ... from one that leaves no more than so many labels to one that leaves a single one."""
    powers = range(len(str(count)) + 1)
    strides = (base * 10**power for power in powers for base in _STRIDES)
    return [*(stride for stride in strides if stride < count <= most * stride), count]
