"""The command `report`: from stored tables to files, without torch, ray or a rerun."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_report
from tiny_sweep import Swept, invoke, tiny_sweep

from sweeper.report import assemble
from sweeper.report.content import Report


@pytest.fixture(scope="session")
def swept() -> Swept:
    return tiny_sweep()


@pytest.fixture
def copied(swept: Swept, tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    shutil.copytree(swept.root, root)
    return root


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Put a made up report in the place of the sweep's own, and remember what was asked for."""
    asked: list[dict[str, object]] = []

    def build(results: object, sweep: str, **which: object) -> Report:
        asked.append({"sweep": sweep, **which})
        made = small_report.report()
        small = replace(made.sections[1], items=made.sections[1].items[1:])  # the figure of one panel
        return replace(made, sections=(made.sections[0], small, *made.sections[3:]))

    monkeypatch.setattr(assemble, "build", build)
    return asked


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_sweep_is_reported_into_its_results_root_without_torch_or_ray(copied: Path) -> None:
    before = names(copied)
    result = invoke("report", "tiny", "--results", copied)
    assert result.exit_code == 0, result.stderr
    path = copied / "reports" / "tiny-digits.html"
    assert result.stdout == f"{path}\n"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "digits" in text and not re.search(r"https?://", text)
    assert [name for name in names(copied) if name not in before] == ["reports/tiny-digits.html"]
    assert invoke("doctor", "--results", copied).exit_code == 0

    # the same bytes from another process, which needs neither torch nor ray nor a display
    script = f"""
import sys
from typer.testing import CliRunner
from sweeper.cli import app
result = CliRunner().invoke(app, ["report", "tiny", "--results", {str(copied)!r}])
assert result.exit_code == 0, result.stderr
assert not {{"torch", "ray", "matplotlib.pyplot"}} & set(sys.modules)
"""
    path.unlink()
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert path.read_text(encoding="utf-8") == text


def test_the_command_line_alone_imports_no_matplotlib() -> None:
    script = "import sys, sweeper.cli; assert not {'matplotlib', 'jinja2', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_verdicts_are_told_beside_the_path(copied: Path, asked: list[dict[str, object]], tmp_path: Path) -> None:
    file = tmp_path / "new" / "mine.html"
    result = invoke("report", "tiny", "--results", copied, "--file", file)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{file}\n" and names(file.parent) == ["mine.html"]
    assert "One seed only." in result.stderr
    assert re.search(r"^fails +Accuracy falls below 10 % without a defense\. +4\.3", result.stderr, re.MULTILINE)
    assert re.search(r"^not tested +As a_b & <b>", result.stderr, re.MULTILINE)
    assert not (copied / "reports").exists()


def test_the_plan_that_is_named_is_the_one_that_is_reported(copied: Path, asked: list[dict[str, object]]) -> None:
    assert invoke("report", "tiny", "--results", copied).exit_code == 0
    (first,) = asked
    assert first["sweep"] == "tiny" and first["dataset"] == "digits"
    hash_ = str(first["plan_hash"])
    assert invoke("report", "tiny", "--results", copied, "--plan", hash_[:8], "--dataset", "digits").exit_code == 0
    assert asked[1] == first


def test_parts_and_page_are_written_together_over_older_ones(copied: Path, asked: list[dict[str, object]], tmp_path: Path) -> None:
    file, out = tmp_path / "page.html", tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    (out / "report.html").write_text("old")
    file.write_text("old")
    result = invoke("report", "tiny", "--results", copied, "--file", file, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{file}\n"
    assert file.read_bytes() == (out / "report.html").read_bytes() and file.stat().st_size > 10_000
    assert {"mine.txt", "report.html", "figures/figure3.svg", "tables/table1.tex", "strips/strips-VQUNet-clean-1.png"} <= set(names(out))
    assert not [name for name in names(tmp_path) if "/." in name or name.startswith(".")]


def test_parts_alone_have_the_page_among_them(copied: Path, asked: list[dict[str, object]], tmp_path: Path) -> None:
    result = invoke("report", "tiny", "--results", copied, "--out", tmp_path / "out")
    assert result.stdout == f"{tmp_path / 'out' / 'report.html'}\n"
    assert not (copied / "reports").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tinny",), "no sweep 'tinny'"),
        (("tinny",), "did you mean 'tiny'"),
        (("tiny", "--dataset", "cifar10"), "no sweep 'tiny on cifar10'"),
        (("tiny", "--plan", "nothing"), "with plan nothing"),
        (("tiny", "--file", "."), "--file takes the name of a file, got the folder ."),
        (("tiny", "--out", "taken"), "--out takes a folder, got the file taken"),
        (("tiny", "--file", "taken/page.html"), "taken"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_reported_is_said_and_nothing_is_written(
    words: tuple[str, ...], message: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, object]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    before = names(tmp_path)
    result = invoke("report", *words, "--results", copied)
    assert result.exit_code == 2, result.output
    assert message in result.stderr and "Traceback" not in result.stderr and result.stdout == ""
    assert names(tmp_path) == before


def test_a_root_without_results_is_named(tmp_path: Path) -> None:
    result = invoke("report", "tiny", "--results", tmp_path / "nowhere")
    assert result.exit_code == 2 and "no results under" in result.stderr
    assert list(tmp_path.iterdir()) == []
