"""Print rows as a table for people, as Markdown or LaTeX for papers, as CSV or JSON for programs.

JSON and CSV hold the values themselves and are alone on standard output; the others hold what a person reads, and their notes follow the table.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeper import latex

FORMATS = ("table", "csv", "json", "markdown", "latex")
RAW_FORMATS = ("csv", "json")
WRAPPED_WIDTH = 18  # a column of words may be wrapped to this width where the terminal is narrow; numbers are never broken
ROOMY_WIDTH = 120  # a pipe's table that is no wider keeps its headings on one line


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    format: str,
    columns: Sequence[str] | None = None,
    title: str = "",
    notes: Sequence[str] = (),
    droppable: Sequence[str] = (),
) -> None:
    """Print rows in a format; notes follow a table, and go to standard error beside the other formats.

    Args:
        columns: Names and order of the columns; by default those of all rows, as they first appear.
        droppable: Columns that a narrow terminal may do without, the first to go first; a note names what was left out.
    """
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    notes = list(notes)
    if format == "json":
        print(json.dumps([dict(row) for row in rows], default=str, allow_nan=False))
    elif format == "csv":
        print(_csv(names, [[_raw(row.get(name)) for name in names] for row in rows]))
    else:
        cells = [[text_of(row.get(name)) for name in names] for row in rows]
        if format == "table":
            notes += _print_table(names, cells, title, droppable)
        else:
            numeric = [_is_numeric([row[index] for row in cells]) for index in range(len(names))]
            print(_markdown(names, cells, numeric) if format == "markdown" else latex.tabular(names, cells, numeric))
    console = Console(stderr=format != "table", highlight=False)
    for note in notes:
        console.print(note, soft_wrap=not console.is_terminal, markup=False)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, numbers to the right; nothing for no rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[text_of(row.get(name)) for name in names] for row in rows]
    return _markdown(names, cells, [_is_numeric([row[index] for row in cells]) for index in range(len(names))]) if rows else ""


def text_of(value: Any) -> str:
    """Return a cell's text: numbers short, times to the second, lists joined, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list | tuple):
        return " / ".join(text_of(item) for item in value) if len(value) <= 8 else f"{len(value)} values"
    return str(value)


def _raw(value: Any) -> str:
    """Return a value for CSV: nothing is rounded, lists and truth values are JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return value.isoformat() if isinstance(value, datetime) else json.dumps(value, default=str)


def _print_table(names: Sequence[str], cells: Sequence[Sequence[str]], title: str, droppable: Sequence[str]) -> list[str]:
    """Print a table and return a note if columns were left out. A pipe gets every column unwrapped, a terminal what fits into its width."""
    widths = {name: max((len(row[index]) for row in cells), default=0) for index, name in enumerate(names)}
    headings = {name: _heading(name, widths[name]) for name in names}
    is_terminal = sys.stdout.isatty()
    if not is_terminal and sum(max(widths[name], len(name)) + 2 for name in names) <= ROOMY_WIDTH:
        headings = {name: [name] for name in names}
    widths = {name: max([widths[name], *map(len, headings[name])]) for name in names}
    numbers = {name for index, name in enumerate(names) if _is_numeric([row[index] for row in cells])}
    console = Console(highlight=False)
    width = console.width if is_terminal else max(80, sum(widths.values()) + 2 * len(names))
    least = {name: min(widths[name], max(WRAPPED_WIDTH, *map(len, headings[name]))) if name not in numbers else widths[name] for name in names}
    shown = list(names)
    for name in droppable:
        if sum(least[name] + 1 for name in shown) - 1 <= width:
            break
        shown = [other for other in shown if other != name]
    gap = 2 if sum(least[name] + 2 for name in shown) - 2 <= width else 1
    fitted = _fit({name: widths[name] for name in shown}, {name: least[name] for name in shown}, width - gap * (len(shown) - 1))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, gap, 0, 0))
    lines = max((len(headings[name]) for name in shown), default=1)
    for name in shown:
        heading = "\n".join([""] * (lines - len(headings[name])) + headings[name])
        table.add_column(heading, justify="right" if name in numbers else "left", overflow="fold", width=fitted[name])
    for row in cells:
        table.add_row(*(_unmarked(text) for name, text in zip(names, row, strict=True) if name in shown))
    if title:
        console.print(title, style="bold", markup=False, soft_wrap=True)
    if shown:
        needed = sum(fitted.values()) + gap * len(shown)  # what cannot be made narrower runs over the edge
        Console(highlight=False, width=max(width, needed)).print(table)
    left_out = [name for name in names if name not in shown]
    return [f"Left out on {width} columns: {', '.join(left_out)}; widen the terminal, or use another --format."] if left_out else []


def _fit(widths: dict[str, int], least: dict[str, int], available: int) -> dict[str, int]:
    """Return widths that fit, taken from the widest of the columns that may be wrapped."""
    fitted = dict(widths)
    while sum(fitted.values()) > available:
        widest = max(fitted, key=lambda name: (fitted[name] > least[name], fitted[name]))
        if fitted[widest] <= least[widest]:
            break
        fitted[widest] -= 1
    return fitted


def _unmarked(text: str) -> str:
    return text.replace("[", r"\[")  # an interval, not a style


def _heading(name: str, width: int) -> list[str]:
    """Return a column's name in lines no longer than its cells, or than its longest word: `adaptive@0.1 %` above 2.1 takes two."""
    words = [word for word in re.split(r"(?<=_)| |(?=@)", name) if word]
    joints = {word: ("" if word.startswith("@") or previous.endswith("_") else " ") for previous, word in zip(words, words[1:], strict=False)}
    width = max([width, *map(len, words)], default=width)
    lines = words[:1]
    for word in words[1:]:
        joined = lines[-1] + joints[word] + word
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines or [""]


def _is_numeric(column: Sequence[str]) -> bool:
    """Say whether a column holds numbers, some of them perhaps replaced by a word such as `missing`."""
    found = [_is_number(text) for text in column if any(letter.isdigit() for letter in text)]
    return bool(found) and all(found)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?%?", text.split(" ")[0]) is not None


def _csv(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(cells)
    return out.getvalue().rstrip("\n")


def _markdown(names: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    rule = ["---:" if number else "---" for number in numeric]
    lines = [names, rule, *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
