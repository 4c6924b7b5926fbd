"""`logs TRIAL`: what a trial wrote, found by the first characters of its id, and followed until it ends."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_sweep import SmallSweep
from tiny_sweep import invoke

from sweeper.live_state import RunState, encode
from sweeper.results import Results
from sweeper.storage.local import LocalStore

STARTED = "2026-11-26 03:00:00,000 INFO STARTED reference\n"
STEP = "2026-11-26 03:00:01,000 INFO train 1/10 loss 0.5\n"
COMPLETED = "2026-11-26 03:00:02,000 INFO COMPLETED clean_accuracy 0.9\n"
FAILED = "2026-11-26 03:00:02,000 ERROR trial ab: boom\nTraceback (most recent call last):\nRuntimeError: boom\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Results(tmp_path / "results", create=True)
    (tmp_path / "results/logs/own").mkdir(parents=True)
    return tmp_path / "results"


def later(*steps: tuple[Path, str]) -> threading.Thread:
    """Add text to files, one after the other, while a command runs."""

    def add() -> None:
        for path, text in steps:
            time.sleep(1.2)
            with path.open("a") as file:
                file.write(text)

    thread = threading.Thread(target=add)
    thread.start()
    return thread


def test_a_log_is_found_by_the_first_characters_of_the_trials_id(sweep: SmallSweep) -> None:
    name = sweep.plan.trials[0].trial_id
    result = invoke("logs", name[:8], "--results", sweep.root)
    assert result.exit_code == 0
    assert result.stdout == (sweep.root / f"logs/small/{name}.log").read_text()
    assert f"logs/small/{name}.log" in result.stderr
    last = invoke("logs", name[:8], "--results", sweep.root, "--lines", "1").stdout
    assert "INFO COMPLETED" in last and last.count("\n") == 1


@pytest.mark.parametrize(("lines", "expected"), [("0", ""), ("1", STEP), ("2", STARTED + STEP), ("9", STARTED + STEP)])
def test_only_the_last_lines_are_printed_when_so_many_are_asked_for(root: Path, lines: str, expected: str) -> None:
    (root / "logs/own/ab12.log").write_text(STARTED + STEP)
    assert invoke("logs", "ab", "--results", root, "-n", lines).stdout == expected


def test_the_log_that_was_written_last_is_shown_of_a_trial_that_is_in_two_sweeps(root: Path) -> None:
    (root / "logs/other").mkdir()
    for number, name in enumerate(("own/ab12.log", "other/ab12.log", "own/ab12-C13.log")):
        (root / "logs" / name).write_text(name)
        time.sleep(0.02 * number)
    (root / "logs/other/ab12.log").write_text("newest")
    result = invoke("logs", "ab12", "--results", root)
    assert result.stdout == "newest"
    assert "logs/own/ab12.log" in result.stderr and "logs/own/ab12-C13.log" in result.stderr


def test_a_failed_stage_has_a_log_like_a_trial(root: Path) -> None:
    (root / "logs/own/stage-cd34.log").write_text("Traceback")
    assert invoke("logs", "stage-cd", "--results", root).stdout == "Traceback"


def test_an_unknown_trial_and_one_that_has_not_begun_are_refused(sweep: SmallSweep, tmp_path: Path) -> None:
    unknown = invoke("logs", "zzz", "--results", sweep.root)
    assert unknown.exit_code == 2 and "no trial begins with 'zzz'" in unknown.stderr
    several = invoke("logs", "", "--results", sweep.root)
    assert several.exit_code == 2 and "3 trials begin with ''" in several.stderr
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(sweep.root), str(copy)], check=True)
    name = sweep.plan.trials[0].trial_id
    (copy / f"logs/small/{name}.log").unlink()
    waiting = invoke("logs", name, "--results", copy)
    assert waiting.exit_code == 2 and "it has not begun" in waiting.stderr


@pytest.mark.parametrize("end", [COMPLETED, FAILED], ids=["completed", "failed"])
def test_a_log_is_followed_until_its_trial_ends(root: Path, end: str) -> None:
    log = root / "logs/own/ab12.log"
    log.write_text(STARTED + STEP)
    thread = later((log, STEP), (log, end))
    result = invoke("logs", "ab", "--results", root, "--follow", "-n", "1")
    thread.join()
    assert result.stdout == STEP + STEP + end


def test_following_goes_on_over_a_failure_that_is_tried_again(root: Path) -> None:
    log = root / "logs/own/ab12.log"
    log.write_text(STARTED + FAILED + STARTED)
    thread = later((log, COMPLETED))
    result = invoke("logs", "ab", "--results", root, "--follow")
    thread.join()
    assert result.stdout.endswith(STARTED + COMPLETED)


def test_following_ends_with_the_run(root: Path) -> None:
    (root / "logs/own/ab12.log").write_text(STARTED)
    LocalStore(root).replace("live/own.json", encode(RunState(sweep="own", host="far", status="interrupted"), 0.0))
    result = invoke("logs", "ab", "--results", root, "--follow")
    assert result.exit_code == 0
    assert "the run on far has ended: interrupted" in result.stderr


def test_following_ends_when_the_run_has_been_silent_for_minutes(root: Path) -> None:
    (root / "logs/own/ab12.log").write_text(STARTED)
    LocalStore(root).replace("live/own.json", encode(RunState(sweep="own", host="far"), 0.0))
    os.utime(root / "live/own.json", (time.time() - 400, time.time() - 400))
    result = invoke("logs", "ab", "--results", root, "--follow")
    assert result.exit_code == 1
    assert result.stdout == STARTED
    assert "it seems dead; `run` again continues" in result.stderr


def test_reading_a_log_imports_neither_torch_nor_ray(sweep: SmallSweep) -> None:
    words = ["logs", sweep.plan.trials[0].trial_id, "--follow", "--results", str(sweep.root)]
    script = f"""
import sys
from typer.testing import CliRunner
from sweeper.cli import app
assert CliRunner().invoke(app, {words!r}).exit_code == 0
assert not {{"torch", "ray"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
