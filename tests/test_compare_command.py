"""The commands compare and pareto: what they print, what they refuse, and that they only read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from report_tables import Root
from test_comparison import Photos, finished, trial
from test_ranking import a_plan
from tiny_sweep import invoke

from sweeper.cli import READING
from sweeper.datasets import Splits
from sweeper.estimate import describe


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results")
    made = Photos(path, sweep="mine")
    made.variant("reference", {seed: trial(100) for seed in range(3)})
    made.variant("worse", {seed: trial(96, never_broken=24 if seed < 2 else 27) for seed in range(3)})
    made.variant("none", {0: None}, model="identity")
    finished(made)
    return path


def test_compare_prints_differences_and_what_they_are_tested_by(root: Path) -> None:
    result = invoke("compare", "mine", "worse", "--results", root)
    assert result.exit_code == 0, result.output
    assert "mine on digits (small, standard): robust_score against reference, seed by seed" in result.stdout
    assert "-29.2 [-32.8, -25.6]" in result.stdout and "lower" in result.stdout
    assert "Holm over the 1 row of this table" in result.stdout


def test_compare_gives_programs_the_values_alone(root: Path) -> None:
    result = invoke("compare", "mine", "--results", root, "--format", "json")
    rows = {row["label"]: row for row in json.loads(result.stdout)}
    assert rows["worse"]["differences"] == pytest.approx([-0.3, -0.3, -0.275])
    assert rows["none"]["difference"] is None and rows["none"]["verdict"] == "not tested"
    assert "Without a value: none, seed 0 (missing)" in result.stderr


def test_compare_speaks_of_two_checkpoints_only_if_asked(root: Path) -> None:
    ids = [row["trial_id"] for row in json.loads(invoke("query", "select * from sweeps order by label, seed", "--results", root, "--format",
                                                        "json").stdout) if row["seed"] == 0 and row["label"] != "none"]  # fmt: skip
    result = invoke("compare", "mine", *ids, "--checkpoints", "--results", root)
    assert result.exit_code == 0, result.output
    assert "adaptive@0.1 of two checkpoints" in result.stdout and "-30.0" in result.stdout and "<0.0001" in result.stdout
    assert "these two checkpoints on 120 images only" in result.stdout
    refused = invoke("compare", "mine", *ids, "--checkpoints", "--against", "reference", "--results", root)
    assert refused.exit_code == 2 and "--against compares settings" in refused.stderr


def test_pareto_names_the_set_and_what_dominates_the_rest(root: Path) -> None:
    result = invoke("pareto", "mine", "--results", root)
    assert result.exit_code == 0, result.output
    reference, worse = (next(line for line in result.stdout.splitlines() if line.startswith(label)) for label in ("reference", "worse"))
    assert "none: in the Pareto set" in reference and "50.0" in reference and "83.3" in reference
    assert worse.split()[-2] == "reference"
    assert "Unranked or without both figures: none (missing)." in result.stdout
    rows = json.loads(invoke("pareto", "mine", "--results", root, "--format", "json").stdout)
    assert {row["label"]: row["dominated_by"] for row in rows} == {"reference": [], "worse": ["reference"]}


def test_what_fails_a_validity_check_is_in_no_pareto_set_unless_unchecked(tmp_path: Path) -> None:
    made = Root(tmp_path, sweep="mine")  # the target is scored on 8 images, the variant on 120
    made.variant("reference", {0: trial(100)})
    finished(made)
    assert "Unranked or without both figures: reference (unranked)." in invoke("pareto", "mine", "--results", tmp_path).stdout
    assert "none: in the Pareto set" in invoke("pareto", "mine", "--unchecked", "--results", tmp_path).stdout


@pytest.mark.parametrize("words", [("compare", "mine", "wrse"), ("compare", "mien"), ("pareto", "mien"), ("compare", "mine", "--format", "xml")])
def test_wrong_arguments_are_refused_in_a_sentence(words: tuple[str, ...], root: Path) -> None:
    result = invoke(*words, "--results", root)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_comparing_changes_nothing_and_imports_neither_torch_nor_ray(root: Path) -> None:
    assert {"compare", "pareto"} <= set(READING)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    script = f"""
import sys
from typer.testing import CliRunner
from sweeper.cli import app
for words in (["compare", "mine"], ["pareto", "mine"]):
    result = CliRunner().invoke(app, [*words, "--results", {str(root)!r}])
    assert result.exit_code == 0, result.stderr
assert not {{"torch", "ray"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        (1, "nothing is tested between settings with one seed; between two checkpoints 13 points (240 images)"),
        (2, "between settings none that an accuracy can have (2 seeds"),
        (3, "between settings 55 points (3 seeds, if robust_score moves by 12 points from seed to seed"),  # 5.6535 * 12 * sqrt(2 / 3)
    ],
)
def test_a_plan_says_which_difference_it_can_detect(seeds: int, sentence: str, splits: Splits, tmp_path: Path) -> None:
    _, notes = describe(a_plan(splits, seeds=seeds), tmp_path, slots=1)
    assert sum(sentence in note for note in notes) == 1


def test_a_quick_plan_says_nothing_about_differences(splits: Splits, tmp_path: Path) -> None:
    _, notes = describe(a_plan(splits, evaluation_name="quick"), tmp_path, slots=1)
    assert not any("smallest difference" in note for note in notes)
