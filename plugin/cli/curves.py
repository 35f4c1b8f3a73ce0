"""The drawing of `attnbridge bench search`: queries per second against recall."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbridge.validation import require

if TYPE_CHECKING:
    from attnbridge.integrations.benchmark import Benchmark, Point

# Recalls that get a tick, as far as they are in view.
_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)

# Where the picture begins, if any curve gets that far.
_LEAST = 0.8

# Colours that are told apart in the usual forms of colour blindness too (Okabe and Ito), one for each library.
_COLOURS = {
    "attnbridge": "#D55E00",
    "hnswlib": "#000000",
    "faiss": "#0072B2",
    "usearch": "#009E73",
    "voyager": "#CC79A7",
}
_MARKERS = "osD^vPX*"
_LINES = ("-", "--", ":", "-.")


def draw(found: "Benchmark", file: Path) -> None:
    """Draw one panel for each number of threads.

    The recall axis is logarithmic in what is missed: the way from 0.9 to 0.99 is as long as that from 0.99 to 0.999.

    Parameters
    ----------
    found : Benchmark
    file : Path
        Its suffix says which format.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", "viz")
    counts = found.about["threads"]
    figure = figure_module.Figure(figsize=(1.5 + 5.5 * len(counts), 5.5), layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False, sharey=True)[0]
    styles = _styles([index.name for index in found.indexes])
    for panel, threads in zip(panels, counts, strict=True):
        _panel(panel, found, threads, styles)
    panels[0].set_ylabel("queries per second")
    about = found.about
    figure.suptitle(
        f"{about['rows']:,} x {about['dim']}, {about['metric']}, M={about['M']}, "
        f"ef_construction={about['ef_construction']}; up and to the right is better"
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(file, dpi=150)


def _styles(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return each index's line: a colour for its library, a dash and a marker for its setting."""
    styles = {}
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        library = name.partition("-")[0]
        setting = seen.setdefault(library, 0)
        seen[library] += 1
        ours = library == "attnbridge"
        styles[name] = {
            "color": _COLOURS[library],
            "linestyle": _LINES[setting % len(_LINES)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 2.5 if ours else 1.3,
            "zorder": 3 if ours else 2,
        }
    return styles


def _panel(panel: Any, found: "Benchmark", threads: int, styles: dict[str, dict[str, Any]]) -> None:
    """Draw every index's curve on one number of threads."""
    ticker = require("matplotlib.ticker", "viz")
    answers = found.about["queries"] * found.about["k"]
    most = 1.0 - 0.5 / answers  # where a recall of 1 is drawn: half a miss away from it
    best = max(point.recall for point in found.points)
    least = min(_LEAST, best - 0.1)
    for name, style in styles.items():
        curve: list[Point] = found.curve(name, threads)
        shown = [point for point in curve if point.recall >= least]
        panel.plot(
            [min(point.recall, most) for point in shown],
            [point.queries_per_second for point in shown],
            label=name,
            **style,
        )
    panel.set_xscale("function", functions=_missed_scale(0.1 / answers))
    panel.set_yscale("log")
    last = 1.0 - 0.7 * (1.0 - min(best, most))
    panel.set_xlim(least, last)
    ticks = {tick: f"{tick:g}" for tick in _TICKS if least <= tick < last} | ({most: "1"} if best > most else {})
    panel.set_xticks(list(ticks), list(ticks.values()))
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.yaxis.set_minor_formatter(ticker.NullFormatter())
    panel.grid(alpha=0.3)
    panel.set_xlabel(f"recall@{found.about['k']}, logarithmic in what is missed")
    panel.set_title(f"{threads} thread{'s' if threads > 1 else ''}")


def _missed_scale(least: float) -> tuple[Any, Any]:
    """Return an axis' scale and its inverse: the logarithm of what is missed, no smaller than `least`."""
    import numpy as np

    def scale(recall: Any) -> Any:
        return -np.log10(np.maximum(1.0 - np.asarray(recall), least))

    def inverse(scaled: Any) -> Any:
        return 1.0 - 10.0 ** -np.asarray(scaled)

    return scale, inverse
