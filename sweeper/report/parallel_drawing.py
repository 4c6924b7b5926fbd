"""Draw parallel axes: a line per trial, whose color and width say how good it is.

The color runs from pale to dark, so that a black and white printer keeps its order.
"""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from sweeper.report.charts import Axis, Parallel
from sweeper.report.drawing import even_lines

_INK = "#000000"
_SHADES = (0.85, 0.2)  # of viridis, from worst to best: seen on white and on dark paper


def shade(share: float) -> str:
    """Return the color of a share in [0, 1], 1 for the best: pale to dark, as #rrggbb."""
    worst, best = _SHADES
    red, green, blue, _ = matplotlib.colormaps["viridis"](worst + (best - worst) * share)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def draw_parallel(axes: Axes, plot: Parallel) -> None:
    """Draw one line per trial across axes side by side, the best on top, and the scale of their colors."""
    axes.set_axis_off()
    reaches = [_range(axis, [way.values[place] for way in plot.ways]) for place, axis in enumerate(plot.axes)]
    shades = [way.shade for way in plot.ways]
    low, high = min(shades), max(shades)
    best = [0.5 if low == high else (high - one if plot.less_is_better else one - low) / (high - low) for one in shades]
    for share, way in sorted(zip(best, plot.ways, strict=True), key=lambda pair: pair[0]):  # the best on top
        heights = [
            math.nan if value is None else _height(value, axis, reach) for value, axis, reach in zip(way.values, plot.axes, reaches, strict=True)
        ]
        dashes = (0, (3, 1.5)) if way.is_broken else "solid"
        axes.plot(range(len(heights)), heights, color=shade(share), linewidth=0.8 + 1.1 * share, linestyle=dashes, marker="o", markersize=2.5)
    for place, (axis, reach) in enumerate(zip(plot.axes, reaches, strict=True)):
        axes.plot([place, place], [0, 1], color=_INK, linewidth=0.9)
        axes.text(place, -0.13, _broken(axis.label), ha="center", va="top", fontsize=8)
        if axis.categories:
            for at, word in enumerate(axis.categories):
                axes.text(place + 0.04, _height(at, axis, reach), word, va="center", fontsize=7)
        else:
            axes.text(place, -0.03, f"{reach[0]:.3g}", ha="center", va="top", fontsize=7)
            axes.text(place, 1.03, f"{reach[1]:.3g}", ha="center", va="bottom", fontsize=7)
    _draw_scale(axes, plot, len(plot.axes) - 0.4, (low, high))


def _draw_scale(axes: Axes, plot: Parallel, left: float, reach: tuple[float, float]) -> None:
    """Draw the color's scale right of the last axis, more always higher."""
    steps = 24
    for step in range(steps):
        share = (step + 0.5) / steps
        color = shade(1 - share if plot.less_is_better else share)
        axes.add_patch(Rectangle((left, step / steps), 0.14, 1.02 / steps, facecolor=color, edgecolor="none", linewidth=0))
    for at, value in ((0.0, reach[0]), (0.5, sum(reach) / 2), (1.0, reach[1])) if reach[0] < reach[1] else ((0.5, reach[0]),):
        axes.text(left + 0.2, at, f"{value:.3g}", va="center", fontsize=7)
    better = "less is better" if plot.less_is_better else "more is better"
    axes.text(left, -0.13, even_lines(f"{plot.shade_label}, {better}", 18), va="top", fontsize=8)
    axes.set_xlim(-0.35, left + 0.75)
    axes.set_ylim(-0.05, 1.08)


def _broken(label: str) -> str:
    """Return a label in lines of about 13 characters, broken at its spaces and after its underscores."""
    return even_lines(label.replace("_", "_ "), 13).replace("_ ", "_")


def _range(axis: Axis, values: Sequence[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None] + list(axis.span or ())
    return (0.0, float(max(1, len(axis.categories) - 1))) if axis.categories else (min(known), max(known))


def _height(value: float, axis: Axis, reach: tuple[float, float]) -> float:
    low, high = reach
    if low == high:
        return 0.5
    return math.log(value / low) / math.log(high / low) if axis.log else (value - low) / (high - low)
