"""Draw figures: SVG text that stands inside a page and follows its colors, whole SVG and PNG files beside it.

A system has the same color, dash and marker in every figure of a report. The colors are those of Okabe and Ito, "Color universal design", 2008,
without the yellow, which cannot be seen on white; as (dash, marker) differs too, nothing is told by color alone. Only matplotlib's object interface
is used: no display, no global figure, the same bytes for the same content.
"""

import io
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import fill

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sweeper.report.content import Figure, Panel, Report, Series

COLORS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
DASHES = ((), (5, 1.5), (1.2, 1.2), (6, 1.5, 1.2, 1.5), (9, 3))  # on, off, … in line widths; the first is solid
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "h")
BANDS = 4  # intervals of so many curves are readable as bands; of more, as bars
MANY = 12  # with more values than this, only some carry their marker

_PANEL_INCHES = (3.4, 2.6)
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, and found by the browser's search
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # a name may hold a $
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#808080",
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "lines.markersize": 4.5,
    "lines.markeredgewidth": 0.6,
    "axes.facecolor": "none",
}
_RENDERING = threading.RLock()  # matplotlib's settings are the process's
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Style:
    """How one system is drawn everywhere. A dash is on, off, … in line widths; () is solid."""

    color: str
    dash: tuple[float, ...]
    marker: str


def style(index: int) -> Style:
    """Return the style of the system that appears as number `index`, from 0: (dash, marker) repeats after 60, the whole after 420."""
    return Style(COLORS[index % len(COLORS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)])


def styles_of(report: Report) -> dict[str, Style]:
    """Return name -> style for every curve of a report, by order of first appearance."""
    panels = [panel for item in report.items() if item.kind == "figure" for panel in item.panels]
    names = dict.fromkeys(series.name for panel in panels for series in panel.series)
    return {name: style(index) for index, name in enumerate(names)}


def legend_of(figure: Figure) -> dict[str, bool]:
    """Return the names in a figure, in order, and whether their curve is drawn heavier anywhere in it."""
    names: dict[str, bool] = {}
    for series in (series for panel in figure.panels for series in panel.series):
        names[series.name] = names.get(series.name, False) or series.stress
    return names


def has_numbers(panel: Panel) -> bool:
    """Say whether there is anything to draw in a panel; if not, it says why."""
    return bool(_drawable(panel))


def panel_svg(panel: Panel, styles: Mapping[str, Style], *, unique: str) -> str:
    """Return one panel as an `<svg>` element for a page: no fixed size, black is the page's ink, `unique` keeps its ids apart from others'."""
    with settings(unique):
        canvas = Canvas(figsize=_PANEL_INCHES, layout="constrained", facecolor="none")
        _draw(canvas.add_subplot(), panel, styles)
        lay_out(canvas)
        return for_page(saved(canvas, "svg").decode())


def swatch_svg(style: Style, *, stress: bool, unique: str) -> str:
    """Return a legend's sample of a curve as an `<svg>` element for a page."""
    with settings(unique):
        canvas = Canvas(figsize=(0.5, 0.16), facecolor="none")
        canvas.add_artist(_sample(style, stress, [0.03, 0.5, 0.97], [0.5, 0.5, 0.5]))
        return for_page(saved(canvas, "svg").decode())


def figure_files(figure: Figure, styles: Mapping[str, Style], statement: str) -> dict[str, bytes]:
    """Return the whole figure as files, by their ending: `svg`, and `png` of 150 dots per inch. Title, legend and statement are in them."""
    with settings(figure.name):
        samples = {name: _sample(styles[name], stress, [], []) for name, stress in legend_of(figure).items()}
        canvas, all_axes = sheet(figure.title, statement, samples, len(figure.panels), figure.columns, _PANEL_INCHES)
        for axes, panel in zip(all_axes, figure.panels, strict=True):
            _draw(axes, panel, styles)
        lay_out(canvas)  # once, for both files
        return {"svg": saved(canvas, "svg"), "png": saved(canvas, "png")}


def sheet(
    title: str, statement: str, samples: Mapping[str, Line2D], count: int, columns: int, inches: tuple[float, float]
) -> tuple[Canvas, list[Axes]]:
    """Return a white canvas with title, statement and legend, and its axes, empty.

    Args:
        samples: What the legend shows, by name.
        count: How many axes, of `inches` each, at most `columns` side by side.
    """
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    width = max(4.6, inches[0] * columns)
    across = max(1, int(width * 72 / (44 + 5.2 * max(map(len, samples), default=1))))
    lines = math.ceil(len(samples) / across)
    heading = fill(title, int(width * 13)) + "\n" + fill(statement, int(width * 13))
    height = inches[1] * rows + 0.17 * lines + 0.2 + 0.16 * (heading.count("\n") + 1)
    canvas = Canvas(figsize=(width, height), layout="constrained", facecolor="white")
    canvas.suptitle(heading, x=0.01, ha="left", fontsize=9)
    if samples:
        canvas.legend([*samples.values()], [*samples], loc="outside lower left", ncols=across, frameon=False, handlelength=4, fontsize=8)
    return canvas, [canvas.add_subplot(rows, columns, index + 1) for index in range(count)]


@contextmanager
def settings(salt: str) -> Iterator[None]:
    """Draw with these settings and nobody's own, and give those back."""
    with _RENDERING, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_SETTINGS, "svg.hashsalt": salt})  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield


def lay_out(canvas: Canvas) -> None:
    """Make room for all words now: left to matplotlib, saving would draw everything once more for it."""
    engine = canvas.get_layout_engine()
    assert engine is not None
    engine.execute(canvas)
    canvas.set_layout_engine("none")


def saved(canvas: Canvas, kind: str) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format=kind, dpi=150 if kind == "png" else 72, metadata=_NO_METADATA if kind == "svg" else {"Software": None})
    return file.getvalue()


def _drawable(panel: Panel) -> list[Series]:
    return [series for series in panel.series if any(_known(series.y)) or any(any(_known(seed)) for seed in series.points)]


def _draw(axes: Axes, panel: Panel, styles: Mapping[str, Style]) -> None:
    axes.set_title(even_lines(panel.title, 44))
    drawable = _drawable(panel)
    if not drawable:
        axes.set_axis_off()
        words = fill(panel.missing or "Nothing was measured.", 38)
        axes.text(0, 0.95, words, transform=axes.transAxes, va="top").set_in_layout(False)  # takes no room from the other panels
        return
    positive = [value for series in drawable for value in _numbers(series.y) if value > 0]
    if panel.y_log and positive:
        axes.set_yscale("log", nonpositive="mask")
        few = max(positive) < 100 * min(positive)  # less than two decades: ticks between the powers of ten too
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    with_interval = sum(bool(any(_known(series.low))) for series in drawable)
    for index, series in enumerate(drawable):
        _draw_series(axes, series, styles[series.name], index, band=with_interval <= BANDS)
    whole = all(float(x).is_integer() for series in drawable for x in series.x)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
    axes.set_xlabel(even_lines(panel.x_label, 48))
    axes.set_ylabel(even_lines(panel.y_label, 34))
    if panel.y_range is not None:
        low, high = panel.y_range
        room = 0 if panel.y_log and positive else 0.03 * (high - low)  # a marker at the very edge stays whole
        axes.set_ylim(low - room, high + room)


def _draw_series(axes: Axes, series: Series, style: Style, index: int, *, band: bool) -> None:
    y = _numbers(series.y)
    seeds = [value for seed in series.points for value in _numbers(seed)]
    axes.plot(series.x * len(series.points), seeds, linestyle="none", marker=style.marker, color=style.color, alpha=0.35, markersize=2.8)
    if any(_known(series.low)) and any(_known(series.high)):
        low, high = _numbers(series.low), _numbers(series.high)
        if band and sum(map(_whole, zip(y, low, high, strict=True))) > 1:
            axes.fill_between(series.x, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.fill_between(series.x, low, high, facecolor="none", edgecolor=style.color, alpha=0.45, linewidth=0.5)
        else:
            places = [x for x in series.x for _ in range(3)]
            ends = [end for bounds in zip(low, high, strict=True) for end in (*bounds, math.nan)]  # nan: one bar does not join the next
            axes.plot(places, ends, color=style.color, linewidth=0.9, marker="_", markersize=4, alpha=0.8)
    line = _sample(style, series.stress, series.x, y)
    line.set_markevery(_marked(y, index))
    axes.add_line(line)
    axes.autoscale_view()


def _sample(style: Style, stress: bool, x: Sequence[float], y: Sequence[float]) -> Line2D:
    width = 2.8 if stress else 1.3
    line = Line2D(
        x, y, color=style.color, linewidth=width, marker=style.marker, markersize=6 if stress else 4.5, markevery=[1] if len(x) == 3 else None
    )
    if style.dash:
        line.set_dashes(style.dash)
        line.set_dash_capstyle("butt")
    return line


def _marked(y: Sequence[float], index: int) -> list[int]:
    """Return which values carry a marker: all of few, about eight of many, and each that no line reaches. Curves take turns."""
    if len(y) <= MANY:
        return list(range(len(y)))
    step = math.ceil(len(y) / 8)
    padded = [math.nan, *y, math.nan]
    alone = [place for place in range(len(y)) if math.isnan(padded[place]) and math.isnan(padded[place + 2])]
    return sorted({*range(index % step, len(y), step), *alone})


def even_lines(text: str, width: int) -> str:
    """Return text in as few lines as the width allows, of about the same length."""
    most = fill(text, width).count("\n")
    even = min(width, len(text) // (most + 1) + 1)
    return next(tried for tried in (fill(text, narrow) for narrow in range(even, width + 1)) if tried.count("\n") == most)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _known(values: Sequence[float | None]) -> Iterator[bool]:
    return (value is not None and not math.isnan(value) for value in values)


def _whole(values: Sequence[float]) -> bool:
    return not any(math.isnan(value) for value in values)


def for_page(svg: str) -> str:
    """Return matplotlib's file as an element: nothing that names an address, no size, no ids but those referred to, the page's ink."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</defs>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', svg))

    def element(found: re.Match[str]) -> str:
        tag = found[0]
        if tag.startswith("<svg"):
            tag = re.sub(r'<svg .*?(viewBox="[^"]*").*', r'<svg \1 fill="currentColor" aria-hidden="true">', tag, flags=re.DOTALL)
        tag = tag.replace("xlink:href=", "href=").replace("#000000", "currentColor").replace("font-family: 'DejaVu Sans', sans-serif; ", "")
        tag = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", tag)
        tag = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)
        return re.sub(r"\s+", " ", tag)

    svg = re.sub(r"<[^>]*>", element, svg)  # names of curves stand between elements, escaped, and stay as they are
    svg = re.sub(r"\s*\n\s*", "\n", svg).strip()
    # a marker's style is the same at each of its places: said once
    return re.sub(r'<g (clip-path="[^"]*")>((?:\n<use [^>]* (style="[^"]*")/>)(?:\n<use [^>]* \3/>)*)\n</g>', _style_once, svg)


def _style_once(found: re.Match[str]) -> str:
    return f"<g {found[1]} {found[3]}>" + found[2].replace(f" {found[3]}", "") + "\n</g>"
