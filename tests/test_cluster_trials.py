"""Real Ray on this machine: the same outcomes as without it, lost workers, failures, interruption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_cluster import workers_of

from sweeper.results import Results

pytestmark = pytest.mark.ray

SPACE = """
_SHORT = {"num_epochs": 2, "retraining/num_epochs": 1, "target/training/num_epochs": 2, "base_width": 2, "depth": 1, "codebook_size": 8}


def variants():
    return [{**_SHORT}, {**_SHORT, "beta": 0.0}, {**_SHORT, "quantize": False},
            {"model": "identity", "retrain": "none", "target/training/num_epochs": 2}EXTRA]


EVALUATION = "quick"
"""
SIZES = ["--set", "train_images=200", "--set", "validation_images=20", "--set", "test_images=100"]


def command(space: Path, root: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "sweeper", "run", str(space), "--results", str(root), *SIZES, *options]


def outcomes(root: Path) -> dict[tuple[object, ...], list[bool]]:
    rows = Results(root).read("scores", ["trial_id", "threat", "attack", "epsilon", "classifier", "outcomes"]).to_pylist()
    return {tuple(row[name] for name in ("trial_id", "threat", "attack", "epsilon", "classifier")): row["outcomes"] for row in rows}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "tiny.py"
    path.write_text(SPACE.replace("EXTRA", ""))
    return path


@pytest.fixture(scope="module")
def inline_root(space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inline")
    subprocess.run(command(space, root, "--inline"), check=True, capture_output=True, timeout=120)
    return root


@pytest.mark.slow
def test_one_worker_gives_the_outcomes_of_a_run_without_ray(space: Path, inline_root: Path, tmp_path: Path) -> None:
    expected = outcomes(inline_root)
    assert len({key[0] for key in expected}) == 4
    subprocess.run(command(space, tmp_path, "--max-concurrent", "1"), capture_output=True, timeout=180, check=True)
    assert outcomes(tmp_path) == expected


def test_a_killed_worker_of_two_costs_its_trial_nothing_but_time(space: Path, inline_root: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(space, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    killed = False
    deadline = time.monotonic() + 120
    while not killed and process.poll() is None and time.monotonic() < deadline:
        logs = [path for path in tmp_path.glob("logs/*/*.log") if "STARTED" in path.read_text()]
        busy = workers_of(process.pid)
        if logs and busy:
            busy[0].kill()
            killed = True
        time.sleep(0.05)
    _, said = process.communicate(timeout=180)
    assert killed
    assert process.returncode == 0, said
    assert said.count("was lost; it continues from its last checkpoint; it is run again") == 1
    assert outcomes(tmp_path) == outcomes(inline_root)
    lost = Results(tmp_path).read("attempts", ["status", "reason"], {"status": "failed"}).to_pylist()
    assert [row["reason"] for row in lost] == ["lost"]


def test_a_failing_trial_is_named_with_its_log_and_the_others_go_on(tmp_path: Path) -> None:
    space = tmp_path / "failing.py"
    space.write_text(
        SPACE.replace('{**_SHORT}, {**_SHORT, "beta": 0.0}', '{**_SHORT, "learning_rate": 10.0, "optimizer": "sgd", "alpha": 1e30}').replace(
            "EXTRA", ""
        )
    )
    done = subprocess.run(command(space, tmp_path / "root"), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1
    assert "failed (nan)" in done.stderr
    assert "Ray" not in done.stderr + done.stdout, "no Ray noise on the terminal"
    assert "learning_rate 10" in done.stderr
    rows = Results(tmp_path / "root").read("attempts", ["status", "reason", "log"]).to_pylist()
    assert sorted(row["status"] for row in rows) == ["completed"] * 2 + ["failed"]
    assert "Diverged" in Path(next(row["log"] for row in rows if row["status"] == "failed")).read_text()
    again = subprocess.run(command(space, tmp_path / "root", "--inline"), capture_output=True, text=True, timeout=180, check=False)
    assert again.returncode == 1
    assert "0 trials to run" in again.stderr


@pytest.mark.parametrize("word", [pytest.param("SIGINT", marks=pytest.mark.slow), "SIGTERM"])
def test_an_interrupted_sweep_ends_with_130_and_the_next_run_continues(word: str, space: Path, inline_root: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(space, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("parts/trials/*/*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, getattr(signal, word))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command continues" in said
    assert "Traceback" not in said
    subprocess.run(command(space, tmp_path, "--inline"), check=True, capture_output=True, timeout=120)
    assert outcomes(tmp_path) == outcomes(inline_root)


def test_more_gpus_than_any_node_has_are_refused_before_any_work(space: Path, tmp_path: Path) -> None:
    done = subprocess.run(command(space, tmp_path, "--gpus-per-trial", "64"), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--gpus-per-trial must be at most" in done.stderr and "got 64" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("artifacts/*"))


def test_ten_kills_of_the_driver_leave_the_tables_of_an_uninterrupted_run(space: Path, inline_root: Path, tmp_path: Path) -> None:
    for kill in range(10):
        process = subprocess.Popen(command(space, tmp_path, "--inline"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(3.0 + 0.35 * kill)
        process.kill()
        process.wait()
    subprocess.run(command(space, tmp_path, "--inline"), check=True, capture_output=True, timeout=120)
    assert outcomes(tmp_path) == outcomes(inline_root)
    completed = Results(tmp_path).read("attempts", ["trial_id"], {"status": "completed"}).column("trial_id").to_pylist()
    assert sorted(completed) == sorted({key[0] for key in outcomes(inline_root)})  # each once
