"""Print rows as a table for people, or as CSV, JSON, Markdown or LaTeX for programs and papers. JSON and CSV go to standard output alone."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

FORMATS = ("table", "csv", "json", "markdown", "latex")


def print_rows(
    rows: Sequence[Mapping[str, Any]], format: str, columns: Sequence[str] | None = None, title: str = "", notes: Sequence[str] = ()
) -> None:
    """Print rows in a format; notes follow a table, and go to standard error beside the other formats."""
    if format == "json":
        print(json.dumps([dict(row) for row in rows], default=str, allow_nan=False))
    else:
        names = list(columns or (rows[0] if rows else []))
        cells = [[text_of(row.get(name)) for name in names] for row in rows]
        if format == "table":
            _print_table(names, cells, title)
        else:
            print({"csv": _csv, "markdown": _markdown, "latex": _latex}[format](names, cells))
    for note in notes:
        Console(stderr=format != "table", highlight=False).print(note, soft_wrap=True)


def text_of(value: Any) -> str:
    """Return a cell's text: numbers short, lists joined, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " / ".join(text_of(item) for item in value) if len(value) <= 8 else f"{len(value)} values"
    return str(value)


def _print_table(names: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    wide = max((sum(len(cell) + 2 for cell in row) for row in [names, *cells]), default=80) + 20
    console = Console(highlight=False, width=None if sys.stdout.isatty() else max(80, wide))
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(names):
        is_number = all(_is_number(row[index]) for row in cells)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _is_number(text: str) -> bool:
    first = text.split(" ")[0].rstrip("%")
    return not first or first.lstrip("+-").replace(".", "", 1).replace("e-", "", 1).isdigit()


def _csv(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(cells)
    return out.getvalue().rstrip("\n")


def _markdown(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _latex(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    special = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\^{}"}

    def safe(line: Sequence[str]) -> str:
        return " & ".join("".join(special.get(letter, letter) for letter in cell) for cell in line) + r" \\"

    body = "\n".join([r"\toprule", safe(names), r"\midrule", *(safe(row) for row in cells), r"\bottomrule"])
    return f"\\begin{{tabular}}{{{'l' * len(names)}}}\n{body}\n\\end{{tabular}}"
