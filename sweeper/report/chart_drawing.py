"""Draw charts: points of single trials with their intervals, bars, parallel axes; as SVG for a page, and as whole SVG and PNG files.

What became of a trial is told by the shape of its mark, and by color beside it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ruler
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sweeper.report.charts import Axis, Chart, Look, Mark, Marks, Parallel, Plot
from sweeper.report.drawing import even_lines, for_page, lay_out, saved, settings, sheet
from sweeper.report.parallel_drawing import draw_parallel

_INK, _BLUE, _GREEN, _PURPLE, _RED = "#000000", "#0072B2", "#009E73", "#CC79A7", "#D55E00"


@dataclass(frozen=True)
class _Style:
    marker: str
    color: str
    size: float = 5.0
    is_hollow: bool = False
    alpha: float = 1.0
    line: float = 0.0  # width of a line through the marks, 0 for none
    cross: float = 0.8  # opacity of the intervals


_STYLES: dict[Look, _Style] = {
    "point": _Style("o", _INK),
    "hollow": _Style("s", _RED, is_hollow=True, cross=0.25),
    "crossed": _Style("x", _PURPLE, 6.0, cross=0.25),
    "faint": _Style("o", _INK, 4.5, alpha=0.4, cross=0.15),
    "strong": _Style("D", _BLUE, 6.0),
    "second": _Style("^", _GREEN, 6.5, is_hollow=True, cross=0.3),
    "ring": _Style("o", _INK, 12.0, is_hollow=True),
    "line": _Style("", _BLUE, line=1.3),
    "link": _Style("", _GREEN, line=1.1),
    "foot": _Style("|", _INK, 8.0),
    "foot_failed": _Style("v", _RED, 5.0),
    "bar": _Style("s", _BLUE),
}


def chart_legend(chart: Chart) -> dict[str, Look]:
    """Return the names of a chart's layers with their looks, in order."""
    layers = [layer for plot in chart.plots if isinstance(plot, Plot) for layer in plot.layers]
    return {layer.name: layer.look for layer in layers if layer.name}


def plot_svg(plot: Plot | Parallel, inches: tuple[float, float], *, unique: str) -> str:
    """Return one plot as an `<svg>` element for a page, as `drawing.panel_svg` does."""
    with settings(unique):
        canvas = Canvas(figsize=inches, layout="constrained", facecolor="none")
        _draw(canvas.add_subplot(), plot, inches)
        lay_out(canvas)
        return for_page(saved(canvas, "svg").decode())


def look_svg(look: Look, *, unique: str) -> str:
    """Return a legend's sample of a look as an `<svg>` element for a page."""
    with settings(unique):
        canvas = Canvas(figsize=(0.5, 0.16), facecolor="none")
        sample = _artist(look, [0.03, 0.97] if _STYLES[look].line else [0.5], [0.5, 0.5] if _STYLES[look].line else [0.5])
        sample.set_markersize(min(8.0, _STYLES[look].size))
        canvas.add_artist(sample)
        return for_page(saved(canvas, "svg").decode())


def chart_files(chart: Chart, statement: str) -> dict[str, bytes]:
    """Return the whole chart as files, by their ending: `svg`, and `png` of 150 dots per inch. Title, legend and statement are in them."""
    with settings(chart.name):
        samples = {name: _artist(look, [], []) for name, look in chart_legend(chart).items()}
        canvas, all_axes = sheet(chart.title, statement, samples, len(chart.plots), chart.columns, chart.inches)
        for axes, plot in zip(all_axes, chart.plots, strict=True):
            _draw(axes, plot, chart.inches)
        lay_out(canvas)
        return {"svg": saved(canvas, "svg"), "png": saved(canvas, "png")}


def _draw(axes: Axes, plot: Plot | Parallel, inches: tuple[float, float]) -> None:
    axes.set_title(even_lines(plot.title, int(inches[0] * 13)))
    if isinstance(plot, Parallel):
        draw_parallel(axes, plot)
    else:
        _draw_plot(axes, plot, inches)


# Points and bars


def _draw_plot(axes: Axes, plot: Plot, inches: tuple[float, float]) -> None:
    for name, axis in (("x", plot.x), ("y", plot.y)):
        if axis.log:
            axes.set(**{f"{name}scale": "log"})
    feet = False
    for layer in plot.layers:
        if layer.look == "bar":
            _draw_bars(axes, layer)
            continue
        at_foot = [mark for mark in layer.marks if mark.y is None]
        standing = [(mark.x, mark.y, mark) for mark in layer.marks if mark.y is not None]
        _draw_intervals(axes, layer)
        across = _apart([x for x, _, _ in standing]) if plot.x.categories else [x for x, _, _ in standing]
        axes.add_line(_artist(layer.look, across, [y for _, y, _ in standing]))
        if at_foot:
            foot = _artist(layer.look, [mark.x for mark in at_foot], [0.03] * len(at_foot))
            foot.set_transform(axes.get_xaxis_transform())
            axes.add_artist(foot)
            feet = True
    axes.autoscale_view()
    _rule(axes.xaxis, plot.x, [mark.x for layer in plot.layers for mark in layer.marks])
    if sum(map(len, plot.x.categories)) > 26:  # more words than fit side by side
        axes.tick_params("x", rotation=30)
    _rule(axes.yaxis, plot.y, [mark.y for layer in plot.layers for mark in layer.marks if mark.y is not None])
    _reach(axes, "x", plot.x)
    _reach(axes, "y", plot.y)
    if feet:
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.1 * (high - low), high)
    axes.set_xlabel(even_lines(plot.x.label, int(inches[0] * 14)))
    axes.set_ylabel(even_lines(plot.y.label, int(inches[1] * 13)))
    if any(layer.look == "bar" for layer in plot.layers):
        axes.set_xlim(0, 150)  # room for the words beside a bar of 100 %
        axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        axes.set_ylim(len(plot.y.categories) - 0.4, -0.6)  # the first on top
        axes.grid(False, axis="y")
    else:
        _write_notes(axes, plot, inches)


def _draw_bars(axes: Axes, layer: Marks) -> None:
    for mark in layer.marks:
        assert mark.y is not None
        axes.barh(mark.y, mark.x, height=0.6, color=_STYLES["bar"].color)
        axes.text(mark.x + 2, mark.y, mark.note, va="center", fontsize=7.5)


def _draw_intervals(axes: Axes, layer: Marks) -> None:
    style, gap = _STYLES[layer.look], math.nan
    up = [(mark.x, mark.low, mark.high) for mark in layer.marks if mark.low is not None and mark.high is not None]
    across = [(mark.y, mark.x_low, mark.x_high) for mark in layer.marks if None not in (mark.y, mark.x_low, mark.x_high)]
    look = {"color": style.color, "linewidth": 0.8, "alpha": style.cross, "zorder": 1.5}  # behind every mark
    if up:
        axes.plot([place for x, _, _ in up for place in (x, x, gap)], [end for _, low, high in up for end in (low, high, gap)], **look)
    if across:
        axes.plot([end for _, low, high in across for end in (low, high, gap)], [place for y, _, _ in across for place in (y, y, gap)], **look)  # pyright: ignore[reportArgumentType]


def _artist(look: Look, x: Sequence[float], y: Sequence[float]) -> Line2D:
    style = _STYLES[look]
    edge = 1.3 if style.is_hollow or style.marker in ("x", "|") else 0.6
    line = Line2D(x, y, color=style.color, alpha=style.alpha, linewidth=style.line or 1, linestyle="solid" if style.line else "none")
    line.set_marker(style.marker)
    line.set_markersize(style.size)
    line.set_markerfacecolor("none" if style.is_hollow else style.color)
    line.set_markeredgewidth(edge)
    return line


def _apart(places: Sequence[float]) -> list[float]:
    """Return the places of marks on an axis of categories, those of one category set a little apart."""
    seen: Counter[float] = Counter()
    found = []
    for x in places:
        turn = seen[x] % 9
        found.append(x + 0.08 * ((turn + 1) // 2) * (-1) ** turn)
        seen[x] += 1
    return found


def _rule(ruler: Ruler, axis: Axis, values: Sequence[float]) -> None:
    """Put ticks where they can be read: words at categories, a few round numbers else."""
    if axis.categories:
        ruler.set_major_locator(FixedLocator(range(len(axis.categories))))
        ruler.set_major_formatter(FuncFormatter(lambda value, _: axis.categories[round(value)]))
    elif axis.log:
        reached = [*values, *(axis.span or ())]
        decades = math.log10(max(reached) / min(reached))  # few: ticks between the powers of ten too
        ruler.set_major_locator(MaxNLocator(5) if decades < 1 else LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=8))
        ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ruler.set_minor_formatter(NullFormatter())
    else:
        whole = all(float(value).is_integer() for value in (*values, *(axis.span or ())))
        ruler.set_major_locator(MaxNLocator(6, integer=whole))


def _reach(axes: Axes, name: str, axis: Axis) -> None:
    """Let an axis reach over its whole span, or all of its categories."""
    limits = axes.get_xlim() if name == "x" else axes.get_ylim()
    if axis.categories:
        limits = (-0.5, len(axis.categories) - 0.5)
    elif axis.span is not None:
        low, high = axis.span
        if axis.log:
            room = (high / low) ** 0.04
            limits = (min(limits[0], low / room), max(limits[1], high * room))
        else:
            room = 0.04 * ((high - low) or 1.0)
            limits = (min(limits[0], low - room), max(limits[1], high + room))
    axes.set(**{f"{name}lim": limits})


def _write_notes(axes: Axes, plot: Plot, inches: tuple[float, float]) -> None:
    """Write notes beside their marks, one for marks at the same place, where they cover no other note and no marked place."""
    marks = [mark for layer in plot.layers for mark in layer.marks if mark.note]
    width, height = 72 * inches[0] * 0.8, 72 * inches[1] * 0.75  # of the axes, nearly, in points
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()

    def place_of(mark: Mark) -> tuple[float, float]:
        return (mark.x - left) / (right - left) * width, ((mark.y or 0.0) - bottom) / (top - bottom) * height

    everywhere = [place_of(mark) for layer in plot.layers for mark in layer.marks if mark.name and mark.y is not None]
    together: dict[tuple[float, float], list[Mark]] = {}
    for mark in marks:
        place = place_of(mark)
        near = next((known for known in together if math.dist(known, place) < 3), place)
        together.setdefault(near, []).append(mark)
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in everywhere]
    for (x, y), mine in together.items():
        words = ", ".join(dict.fromkeys(mark.note for mark in mine[:4])) + (f" and {len(mine) - 4} more" if len(mine) > 4 else "")
        long, tall = 5.0 * len(words) + 2, 9.0
        corners = [(dx if dx > 0 else dx - long, dy if dy > 0 else dy - tall) for dx, dy in ((6, 4), (6, -4), (-6, 4), (-6, -4))]
        boxes = [(x + dx, y + dy, x + dx + long, y + dy + tall) for dx, dy in corners]
        costs = [sum(_overlap(box, other) for other in taken) + _outside(box, width, height) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        mark, corner = mine[0], corners[best]
        axes.annotate(words, (mark.x, mark.y or 0.0), xytext=corner, textcoords="offset points", fontsize=7.5, annotation_clip=False)


Box = tuple[float, float, float, float]


def _overlap(one: Box, other: Box) -> float:
    return max(0.0, min(one[2], other[2]) - max(one[0], other[0])) * max(0.0, min(one[3], other[3]) - max(one[1], other[1]))


def _outside(box: Box, width: float, height: float) -> float:
    return 20 * (max(0.0, -box[0]) + max(0.0, box[2] - width) + max(0.0, -box[1]) + max(0.0, box[3] - height))
