"""Rows are printed for people, papers and programs; what a program reads is alone on standard output."""

import csv
import io
import json

import pytest

from sweeper.tables import FORMATS, print_rows, text_of

ROWS = [
    {"variant": "K=8 [a] | 5 %", "score": 0.123456, "seeds": 2, "done": True, "missing": None},
    {"variant": "x_1 & [bold]", "score": 1.0, "seeds": 10, "done": False, "missing": None},
]


def printed(capsys: pytest.CaptureFixture[str], format: str, **more: object) -> tuple[str, str]:
    print_rows(ROWS, format, **more)  # pyright: ignore[reportArgumentType]
    said = capsys.readouterr()
    return said.out, said.err


def test_json_is_alone_on_standard_output_and_rounds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, "json", title="Title", notes=["A note."])
    assert json.loads(out) == ROWS
    assert "A note." in err


def test_csv_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, "csv", notes=["A note."])
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["variant"] for row in rows] == [row["variant"] for row in ROWS]
    assert [int(row["seeds"]) for row in rows] == [2, 10]
    assert rows[0]["missing"] == ""
    assert "A note." in err


def test_a_table_shows_brackets_as_they_are_with_its_notes_below(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, "table", title="Title [of] it", notes=["Interval [bold] 0.1"])
    for words in ("Title [of] it", "K=8 [a] | 5 %", "x_1 & [bold]", "0.1235", "Interval [bold] 0.1"):
        assert words in out
    assert out.index("Title") < out.index("0.1235") < out.index("Interval")
    assert err == ""


def test_markdown_and_latex_escape_what_they_would_read_as_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    markdown, _ = printed(capsys, "markdown")
    lines = markdown.strip().split("\n")
    assert len(lines) == 4
    assert "K=8 [a] \\| 5 %" in lines[2]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    latex, _ = printed(capsys, "latex")
    assert r"x\_1 \& [bold]" in latex
    assert r"5 \%" in latex
    assert latex.strip().startswith(r"\begin{tabular}")


def test_columns_choose_and_order(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = printed(capsys, "csv", columns=["seeds", "variant"])
    assert out.splitlines()[0] == "seeds,variant"


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows_print_without_an_error(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], format)
    assert format != "json" or json.loads(capsys.readouterr().out) == []


def test_cells_are_short() -> None:
    assert [text_of(value) for value in (None, True, 0.123456, 3, [0.5, 1.0], "word")] == ["", "yes", "0.1235", "3", "0.5 / 1", "word"]
