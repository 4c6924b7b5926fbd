"""What a table's cells say: the same text in the page and in LaTeX, the raw values in CSV."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.report.charts import Axis, Chart, Parallel, Plot
from sweeper.report.content import Cell, Claims, Figure, Panel, Series, Table
from sweeper.tables import text_of

UNITS = {"percent": "%", "points": "points"}


@dataclass(frozen=True)
class Shown:
    """A table as text: headings, rows of cells, and which columns are numbers, to be set right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def shown(table: Table) -> Shown:
    """Return a table's text. A heading that does not name its unit gets it: `after (%)`.

    Raises:
        ValueError: If a column has a format that there is not.
    """
    headings = tuple(_heading(table, name) for name in table.columns)
    rows = tuple(tuple(cell(row, name, table.formats.get(name, "")) for name in table.columns) for row in table.rows)
    return Shown(headings, rows, tuple(_is_numeric(table, name) for name in table.columns))


def cell(row: Mapping[str, Cell], name: str, format: str) -> str:
    """Return one cell's text, with its interval in brackets where the row has one; nothing for None.

    Raises:
        ValueError: If there is no such format.
    """
    value, low, high = (formatted(row.get(key), format) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} [{low}, {high}]" if value and low and high else value


def formatted(value: Cell, format: str) -> str:
    """Return a value's text: shares 93.1, differences of shares -0.95, numbers to four digits. A word among numbers stays a word."""
    if format not in ("", "percent", "points", "number", "integer", "text"):
        raise ValueError(f"a column's format is percent, points, number, integer or text, got {format!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text_of(value)
    if format == "percent":
        return f"{100 * value:.1f}"
    if format == "points":
        return "0.00" if round(100 * value, 2) == 0 else f"{100 * value:+.2f}"
    if format == "integer":
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"
    return str(value) if format == "text" else f"{value:.4g}" if format == "number" else text_of(value)


def raw_columns(table: Table) -> list[str]:
    """Return a table's columns with the bounds of their intervals, which stand in columns of their own in CSV."""
    found = {name for row in table.rows for name in row}
    return [name for column in table.columns for name in (column, f"{column}_low", f"{column}_high") if name == column or name in found]


def slug(name: str) -> str:
    """Return a name as part of a file's name or of an address: letters, digits, `.`, `_` and `-`, never empty or hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Cell]]) -> str:
    """Return rows as CSV with raw values: nothing is rounded, None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def claims_table(claims: Claims) -> Table:
    """Return claims as a table, for what has no better way to show them."""
    rows = tuple(
        {"claim": c.claim, "where": c.where, "verdict": c.verdict, "checks": ": ".join(words for words in (c.said, c.checks) if words),
         "measured": c.measured, "why": c.why}
        for c in claims.claims
    )  # fmt: skip
    return Table(claims.name, claims.title, claims.caption, ("claim", "where", "verdict", "checks", "measured", "why"), rows)


def span(values: Sequence[float]) -> str:
    """Return `0.31`, or `0.31 to 0.4` of two values, to four digits; nothing of none."""
    return " to ".join(dict.fromkeys(formatted(value, "number") for value in values))


def figure_rows(figure: Figure) -> list[dict[str, Cell]]:
    """Return every number of a figure, one row per panel, curve and x: the value, its interval, single seeds."""
    rows: list[dict[str, Cell]] = []
    for panel in figure.panels:
        for series in panel.series:
            for index, x in enumerate(series.x):
                row: dict[str, Cell] = {"panel": panel.title, "curve": series.name, "x": x, "y": _at(series.y, index)}
                row |= {"low": _at(series.low, index), "high": _at(series.high, index)}
                rows.append(row | {f"seed_{number}": _at(seed, index) for number, seed in enumerate(series.points, start=1)})
    return rows


def panel_table(panel: Panel) -> Shown:
    """Return a panel's numbers to six digits: a row per x, a column per curve, intervals in brackets, single seeds on a second line."""
    places = sorted({x for series in panel.series for x in series.x})
    rows = tuple((_digits(x), *(_point(series, x) for series in panel.series)) for x in places)
    return Shown((panel.x_label, *(series.name for series in panel.series)), rows, (True,) * (1 + len(panel.series)))


def chart_rows(chart: Chart) -> list[dict[str, Cell]]:
    """Return every number of a chart: one row per plot, layer and mark, or per trial and parallel axis. A category has its word beside its place."""
    rows: list[dict[str, Cell]] = []
    for plot in chart.plots:
        if isinstance(plot, Parallel):
            for way in plot.ways:
                of_way: dict[str, Cell] = {"plot": plot.title, "of": way.name, "may_be_chosen": not way.is_broken}
                rows += [
                    of_way | {"axis": axis.label, "value": value, "value_word": _word(axis, value)}
                    for axis, value in zip(plot.axes, way.values, strict=True)
                ]
            continue
        for layer in plot.layers:
            for mark in layer.marks if layer.look != "link" else ():
                row: dict[str, Cell] = {"plot": plot.title, "layer": layer.name, "of": mark.name, "x": mark.x, "y": mark.y}
                row |= {"low": mark.low, "high": mark.high, "x_low": mark.x_low, "x_high": mark.x_high}
                rows.append(row | {"x_word": _word(plot.x, mark.x), "y_word": _word(plot.y, mark.y)})
    return rows


def plot_table(plot: Plot | Parallel) -> Shown:
    """Return a plot's numbers to six digits: a row per mark, intervals in brackets, words at categories; or a row per trial across parallel axes."""
    if isinstance(plot, Parallel):
        across = tuple((way.name, *(_on(axis, value) for axis, value in zip(plot.axes, way.values, strict=True))) for way in plot.ways)
        return Shown(("trial", *(axis.label for axis in plot.axes)), across, (False, *(not axis.categories for axis in plot.axes)))
    marks = [(layer, mark) for layer in plot.layers if layer.look != "link" for mark in layer.marks if mark.name]
    if all(layer.look == "bar" for layer, _ in marks):
        return Shown((plot.y.label, plot.x.label), tuple((mark.name, _digits(mark.x)) for _, mark in marks), (False, True))
    rows = tuple(
        (mark.name, layer.name, _bounded(plot.x, mark.x, mark.x_low, mark.x_high), _bounded(plot.y, mark.y, mark.low, mark.high))
        for layer, mark in marks
    )
    return Shown(("trial", "as", plot.x.label, plot.y.label), rows, (False, False, not plot.x.categories, not plot.y.categories))


def _word(axis: Axis, value: float | None) -> str | None:
    return axis.categories[round(value)] if axis.categories and value is not None else None


def _on(axis: Axis, value: float | None) -> str:
    return _word(axis, value) or _digits(value)


def _bounded(axis: Axis, value: float | None, low: float | None, high: float | None) -> str:
    return _on(axis, value) + ("" if low is None or high is None else f" [{_digits(low)}, {_digits(high)}]")


def _point(series: Series, x: float) -> str:
    if x not in series.x:
        return ""
    index = series.x.index(x)
    value, low, high = (_digits(_at(values, index)) for values in (series.y, series.low, series.high))
    seeds = [_digits(_at(seed, index)) or "none" for seed in series.points]
    return (f"{value} [{low}, {high}]" if value and low and high else value) + (f"\nseeds {', '.join(seeds)}" if seeds else "")


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _heading(table: Table, name: str) -> str:
    heading, unit = table.headings.get(name, name.replace("_", " ")), UNITS.get(table.formats.get(name, ""), "")
    return f"{heading} ({unit})" if unit and unit.rstrip("s") not in heading else heading


def _is_numeric(table: Table, name: str) -> bool:
    values = [row.get(name) for row in table.rows]
    return table.formats.get(name) != "text" and any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
