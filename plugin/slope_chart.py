"""The picture of one search: ranks after every step as a slope chart, weights as bars; drawn by `Hits.plot`."""

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.drawing import BLUE, GREEN, GREY, PICTURES, SKY, VERMILLION, as_output, blank, drawable, save_picture
from attnbridge.errors import InvalidInputError
from attnbridge.explain import ranks_by_step, trace_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnbridge.hits import Hits

_MOST = 20  # hits that are drawn
_LONGEST_ID, _LONGEST_STEP = 28, 20  # columns
_ROW, _LETTER = 0.27, 0.085  # inches of a hit's row, and of a letter
_LABELS = 0.35  # where the first ranks are written, left of the first step

# Each way that a hit can go looks different in more than its colour.
_STYLES: dict[str, dict[str, Any]] = {
    "up": {"color": BLUE, "linestyle": "-", "marker": "^", "linewidth": 1.8},
    "down": {"color": VERMILLION, "linestyle": "--", "marker": "v", "linewidth": 1.8},
    "as by distance": {"color": GREY, "linestyle": ":", "marker": "o", "linewidth": 1.3},
    "came in later": {"color": GREEN, "linestyle": "-.", "marker": "D", "linewidth": 1.8},
}


class _Path(NamedTuple):
    """One hit's ranks, from 1, by step; NaN where it was not there."""

    ranks: npt.NDArray[np.float64]
    final: int

    @property
    def way(self) -> str:
        first = self.ranks[0]
        if np.isnan(first):
            return "came in later"
        return "up" if self.final < first else "down" if self.final > first else "as by distance"


def draw(hits: "Hits", path: str | PathLike[str] | None = None) -> "Figure":
    """Return the figure, written to `path` if there is one; see `Hits.plot`."""
    file = None if path is None else as_output(path, PICTURES)
    if not len(hits):
        raise InvalidInputError("hits must be at least one to be drawn: the search found none")
    steps, paths = _paths(hits)
    names, font = drawable(hits.ids[: len(paths)], _LONGEST_ID)
    heads, _ = drawable(steps, _LONGEST_STEP)
    scale, inverse, low, high = _rank_scale(paths)
    between = max(1.0, _LETTER * max(map(len, heads)) + 0.15)
    width, bars = between * (len(steps) - 1 + 3 * _LABELS), 2.2
    height = 1.7 + _ROW * (scale(high) - scale(low))
    figure = blank(width + bars + 0.4 + _LETTER * max(map(len, names)), height)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[width, bars])
    left.set_yscale("function", functions=(scale, inverse))
    left.set_ylim(high, low)
    _slopes(left, heads, paths, scale, inverse)
    if high - low > 1.01 * (scale(high) - scale(low)):
        left.set_xlabel("ranks beyond the hits' own are drawn closer together", fontsize="small", color=GREY)
    _bars(right, hits, paths, names, font)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(_title(hits, len(paths)), fontsize="medium")
    if file is not None:
        save_picture(figure, file)
    return figure


def _paths(hits: "Hits") -> tuple[list[str], list[_Path]]:
    """Return the steps' names, and the way of each hit that is drawn."""
    named = ranks_by_step(hits, trace_of(hits))
    table = np.array([[np.nan if rank is None else rank + 1 for rank in ranks[:_MOST]] for _, ranks in named])
    return [name for name, _ in named], [_Path(ranks, int(ranks[-1])) for ranks in table.T]


def _rank_scale(paths: list[_Path]) -> tuple[Callable[[Any], Any], Callable[[Any], Any], float, float]:
    """Return a scale for ranks, its inverse, and the first and last rank in view.

    A row for each rank that the hits have in the end; ranks before and after those share a few rows.
    """
    first, last = paths[0].final, paths[-1].final
    every = np.stack([path.ranks for path in paths])
    best, worst = float(np.nanmin(every)), float(np.nanmax(every))
    knots = [(first - 0.5, first - 0.5), (last + 0.5, last + 0.5)]  # rank, row
    if best < first:  # as many rows as there are first ranks to write, if not fewer ranks
        knots.insert(0, (best, first - 0.5 - min(first - best, max(3.0, float(np.sum(every[:, 0] < first))))))
    if worst > last:
        knots.append((worst, last + 0.5 + min(worst - last, max(3.0, float(np.sum(every[:, 0] > last))))))
    ranks, rows = np.array(knots).T
    steepness = np.diff(ranks) / np.diff(rows)
    ranks = np.array([ranks[0] - 0.5 * steepness[0], *ranks, ranks[-1] + 0.5 * steepness[-1]])
    rows = np.array([rows[0] - 0.5, *rows, rows[-1] + 0.5])

    def scale(values: Any) -> Any:
        return np.interp(values, ranks, rows)

    def inverse(values: Any) -> Any:
        return np.interp(values, rows, ranks)

    return scale, inverse, float(ranks[0]), float(ranks[-1])


def _slopes(
    panel: "Axes", heads: list[str], paths: list[_Path], scale: Callable[[Any], Any], inverse: Callable[[Any], Any]
) -> None:
    """Draw one line for each hit."""
    steps = np.arange(len(heads))
    panel.set_xlim(-2 * _LABELS, len(heads) - 1 + _LABELS)
    panel.set_xticks(steps, heads, parse_math=False)
    panel.xaxis.tick_top()
    panel.tick_params(length=0, labelleft=False)
    panel.spines[:].set_visible(False)
    for step in range(len(heads)):
        panel.axvline(step, color="#dddddd", linewidth=0.8, zorder=0)
    named: set[str] = set()
    for path in paths:
        label = None if path.way in named else path.way
        named.add(path.way)
        panel.plot(steps, path.ranks, label=label, markersize=5, **_STYLES[path.way])
        panel.annotate(f"{path.final}", (steps[-1], path.final), xytext=(7, 0), textcoords="offset points", va="center")
    known = [path for path in paths if not np.isnan(path.ranks[0])]
    rows = scale([path.ranks[0] for path in known])
    for path, row in zip(known, spread(rows, 0.9), strict=True):
        place = float(inverse(row))
        panel.plot([-0.3 * _LABELS, -0.08], [place, path.ranks[0]], color="#aaaaaa", linewidth=0.7)
        panel.text(-0.4 * _LABELS, place, f"{path.ranks[0]:.0f}", ha="right", va="center", fontsize="small")


def spread(places: npt.NDArray[np.float64], gap: float) -> npt.NDArray[np.float64]:
    """Return places of labels that keep a gap: the closest to those wanted (isotonic regression), within their ends.

    Parameters
    ----------
    places : ndarray, (n,)
    gap : float

    Returns
    -------
    ndarray, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.slope_chart import spread
    >>> spread(np.array([1.0, 5.0, 5.5, 8.0]), 1.0)
    array([1.  , 4.75, 5.75, 8.  ])
    """
    from scipy.optimize import isotonic_regression

    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    wanted = places[order] - steps
    if len(places):
        wanted = np.clip(isotonic_regression(wanted).x, places.min(), places.max() - steps[-1])
    out = np.empty(len(places))
    out[order] = wanted + steps
    return out


def _bars(panel: "Axes", hits: "Hits", paths: list[_Path], names: list[str], font: dict[str, Any]) -> None:
    """Draw the weights beside the ends of the lines."""
    finals = [path.final for path in paths]
    weights = np.asarray(hits.weights[: len(paths)], float)
    panel.barh(finals, weights, height=0.6, color=SKY)
    for final, weight in zip(finals, weights.tolist(), strict=True):
        panel.annotate(
            f"{weight:.3g}", (weight, final), xytext=(3, 0), textcoords="offset points", va="center", fontsize="small"
        )
    panel.set_yticks(finals, names, **font)
    panel.tick_params(axis="y", length=0, labelleft=True)
    panel.set_xlim(0.0, 1.35 * max(weights.max(), 1e-12))
    panel.set_xticks([])
    panel.set_title("weight", fontsize="medium")
    panel.spines[:].set_visible(False)
    panel.spines["left"].set_visible(True)


def _title(hits: "Hits", drawn: int) -> str:
    shown = f"the first {drawn} of {len(hits)} hits" if drawn < len(hits) else f"{drawn} hit{'s' * (drawn != 1)}"
    return f"Rank after each step: {shown}, {hits.candidates} candidates"
