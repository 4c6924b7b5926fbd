"""`python -m sweeper` from a folder that has packages or modules named like ours, with the user's own search space and model by path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_sweep import MODEL, SIZES

NAMES = ("models", "attacks", "search_spaces")
SPACE = """
EVALUATION = "quick"
_SHORT = {"num_epochs": 1, "retraining/num_epochs": 1, "target/training/num_epochs": 1}


def variants():
    return [{**_SHORT, "model": "models/smoother.py"}, {**_SHORT, "model": "identity", "retrain": "none"}]
"""
FOREIGN = "raise RuntimeError('the foreign file was imported')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of the user's: packages named like ours that must not be imported, a model and a search space in them."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(FOREIGN)
        (tmp_path / name / "pgd.py").write_text(FOREIGN)
    (tmp_path / "models" / "smoother.py").write_text(MODEL)
    (tmp_path / "search_spaces" / "mine.py").write_text(SPACE)
    return tmp_path


def run(folder: Path, *words: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def test_a_sweep_runs_and_reads_in_a_folder_with_packages_named_like_ours(folder: Path) -> None:
    done = run(folder, "-m", "sweeper", "run", "search_spaces/mine.py", "--inline", *SIZES)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 trials completed" in done.stdout
    counted = run(folder, "-m", "sweeper", "query", "select count(*) as n from trials where model like 'file:smoother@%'", "--format", "csv")
    assert counted.stdout == "n\n1\n"


@pytest.mark.ray
def test_workers_get_the_users_own_files_and_not_his_packages(folder: Path) -> None:
    done = run(folder, "-m", "sweeper", "run", "search_spaces/mine.py", *SIZES, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 trials completed" in done.stdout


def test_a_sweep_is_planned_in_a_folder_with_modules_named_like_ours(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(FOREIGN)
    done = run(tmp_path, "-m", "sweeper", "plan", "smoke")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 trials to run" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_package_imported_earlier_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("")
    done = run(tmp_path, "-c", f"import {name}, sweeper")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: a foreign package '{name}' ({tmp_path / name}.py) was imported before sweeper")
    assert "import sweeper first" in last


def test_the_names_mean_our_packages_whichever_is_imported_first(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(FOREIGN)
    done = run(tmp_path, "-c", "import sweeper, models, attacks, search_spaces; print(models.__doc__[:9])")
    assert done.stdout == "Purifiers\n", done.stderr
