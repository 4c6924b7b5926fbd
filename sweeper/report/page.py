"""Write a report as one HTML file that holds everything: it opens offline, in any browser, without a script."""

import base64
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sweeper.report import cells, chart_drawing, drawing
from sweeper.report.cells import slug
from sweeper.report.charts import Chart, Parallel, Plot
from sweeper.report.content import Figure, Panel, Picture, Report

PICTURE_WIDTH = 96  # pixels of the screen that a small picture is scaled up to, by a whole factor of at most 3


def render(report: Report) -> str:
    """Return the whole page. The same report gives the same text; every label is escaped.

    Raises:
        ValueError: If a table's column has a format that there is not.
    """
    styles = drawing.styles_of(report)
    environment = Environment(
        loader=PackageLoader("sweeper.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        draw=lambda panel, item, index: Markup(drawing.panel_svg(panel, styles, unique=f"{item}-{index}")),
        swatch=lambda name, stress, item, index: Markup(drawing.swatch_svg(styles[name], stress=stress, unique=f"{item}-legend-{index}")),
        legend_of=drawing.legend_of,
        describe=_describe,
        draw_plot=lambda plot, inches, item, index: Markup(chart_drawing.plot_svg(plot, inches, unique=f"{item}-{index}")),
        look=lambda look, item, index: Markup(chart_drawing.look_svg(look, unique=f"{item}-legend-{index}")),
        chart_legend=chart_drawing.chart_legend,
        describe_plot=_describe_plot,
        plot_table=cells.plot_table,
        has_numbers=drawing.has_numbers,
        has_intervals=lambda panel: any(series.low for series in panel.series),
        panel_table=cells.panel_table,
        shown=cells.shown,
        span=cells.span,
        image=_image,
    )
    return environment.get_template("page.html.j2").render(report=report, anchors=_anchors(report))


def _anchors(report: Report) -> list[Mapping[str, Any]]:
    """Return the id of each section and of the items in it; no two are the same."""
    taken: Counter[str] = Counter({"warnings": 1, "contents": 1})

    def anchor(name: str) -> str:
        taken[slug(name)] += 1
        return slug(name) if taken[slug(name)] == 1 else f"{slug(name)}.{taken[slug(name)]}"

    return [{"section": anchor(section.name), "parts": [anchor(item.name) for item in section.items]} for section in report.sections]


def _describe(figure: Figure, panel: Panel) -> str:
    """Return what a reader hears who does not see a panel; its numbers stand in the table below it."""
    names = ", ".join(series.name for series in panel.series)
    return f"{figure.title}, {panel.title}: {panel.y_label} over {panel.x_label} of {names}. The numbers stand below the figure."


def _describe_plot(chart: Chart, plot: Plot | Parallel) -> str:
    if isinstance(plot, Parallel):
        words = f"{len(plot.ways)} trials across {', '.join(axis.label for axis in plot.axes)}"
    else:
        words = f"{plot.y.label} over {plot.x.label}"
    return f"{chart.title}, {plot.title}: {words}. The numbers stand below the figure."


def _image(picture: Picture, words: str) -> Markup:
    width, height = struct.unpack(">II", picture.png[16:24])
    factor = min(3, max(1, round(PICTURE_WIDTH / max(width, 1))))
    address = "data:image/png;base64," + base64.b64encode(picture.png).decode()
    alternative = f"{words}: {picture.note}" if picture.note else words
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(address, factor * width, factor * height, alternative)
