"""Write a report's parts as files beside it, for papers and slides: figures as SVG, PNG and CSV, tables as CSV and LaTeX, pictures
as PNG, and one row per check and trial as CSV."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from sweeper.latex import escape, tabular
from sweeper.report import cells, chart_drawing, drawing
from sweeper.report.cells import slug
from sweeper.report.charts import Chart
from sweeper.report.content import Checks, Figure, Report, Strips, Table


def export(report: Report, folder: Path, page: bytes) -> list[Path]:
    """Write report.html (its page), figures/, tables/ and strips/ into a folder and return the files, the page first.

    Files of these names are replaced, others left alone.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If a table's column has a format that there is not.
    """
    written = {"report.html": page}
    for name, content in _files(report):
        path, dot, ending = name.rpartition(".")
        number = 2
        while name in written:  # two items of one name
            name, number = f"{path}-{number}{dot}{ending}", number + 1
        written[name] = content
    for name, content in written.items():
        write_whole(folder / name, content)
    return [folder / name for name in written]


def write_whole(path: Path, content: bytes) -> None:
    """Write or replace a file at once: a reader sees the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _files(report: Report) -> Iterator[tuple[str, bytes]]:
    styles = drawing.styles_of(report)
    for item in report.items():
        if isinstance(item, Figure):
            for ending, content in drawing.figure_files(item, styles, item.statement or report.statement).items():
                yield f"figures/{slug(item.name)}.{ending}", content
            rows = cells.figure_rows(item)
            columns = list(dict.fromkeys([*("panel", "curve", "x", "y", "low", "high"), *(name for row in rows for name in row)]))
            yield f"figures/{slug(item.name)}.csv", cells.csv_text(columns, rows).encode()
        elif isinstance(item, Chart):
            for ending, content in chart_drawing.chart_files(item, item.statement or report.statement).items():
                yield f"figures/{slug(item.name)}.{ending}", content
            rows = cells.chart_rows(item)
            columns = list(dict.fromkeys(name for row in rows for name in row))
            yield f"figures/{slug(item.name)}.csv", cells.csv_text(columns, rows).encode()
        elif isinstance(item, Strips):
            yield from _pictures(item)
        elif isinstance(item, Checks):
            columns = list(dict.fromkeys(name for row in item.single for name in row))
            yield f"tables/{slug(item.name)}.csv", cells.csv_text(columns, item.single).encode()
        else:
            table = item if isinstance(item, Table) else cells.claims_table(item)
            yield f"tables/{slug(item.name)}.csv", cells.csv_text(cells.raw_columns(table), table.rows).encode()
            yield f"tables/{slug(item.name)}.tex", latex(table, item.statement or report.statement).encode()


def _pictures(strips: Strips) -> Iterator[tuple[str, bytes]]:
    for strip in strips.strips:
        for word, pictures in strip.rows:
            for number, picture in enumerate(pictures, start=1):
                yield f"strips/{slug(strips.name)}-{slug(strip.system)}-{slug(word)}-{number}.png", picture.png


def latex(table: Table, statement: str) -> str:
    """Return a table for a paper, in the style of the package booktabs: caption, label, notes and the statement of data set and scale.

    The wording of the cells is the page's; everything is escaped, braces too.
    """
    shown = cells.shown(table)
    caption = " ".join(escape(_sentence(text)) for text in (table.title, table.caption, *table.notes, statement) if text)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{{slug(table.name)}}}"]
    return "\n".join([*lines, tabular(shown.headings, shown.rows, shown.numeric), r"\end{table}"]) + "\n"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ":")) else text + "."
