"""A real search on Ray that is killed, whole or one worker of it: nothing is lost, nothing is run twice, and what it found is what is stored."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_cluster import workers_of
from tiny_search import Searched, search, tiny_search
from tiny_sweep import SIZES, invoke

from sweeper.results import Results
from sweeper.search.stored import StoredSearch, read_search

pytestmark = pytest.mark.ray

TRIALS = 6
SEED = "11"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root where another search of the space has made what all share, but the figures of its reference."""
    root = tmp_path / "results"
    shutil.copytree(tiny_search().root, root)
    return root


def start(searched: Searched, root: Path, trials: int = TRIALS) -> "subprocess.Popen[str]":
    words = ["run", str(searched.space), "--results", str(root), "--epsilons", "0.1", *SIZES, "--search-seed", SEED, "--trials", str(trials)]
    command = [sys.executable, "-m", "sweeper", *words, "--max-concurrent", "2", "--cpus-per-trial", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a driver and every process of its Ray at once, as a node that loses its power."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.suspend()  # none of them sees another die
    family += [child for child in psutil.Process(process.pid).children(recursive=True) if child not in family]
    for one in family:
        one.kill()
    psutil.wait_procs(family, timeout=30)
    process.communicate()


def proposed(root: Path) -> int:
    return len(list(root.glob("parts/suggestions/*/*.parquet")))


def ended(root: Path) -> int:
    return len(list(root.glob("parts/attempts/*/*.parquet")))


def wait_until(process: "subprocess.Popen[str]", is_so: Callable[[], bool]) -> bool:
    """Return whether it came to be so before the process ended by itself."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.02)
    return False


def check(found: StoredSearch, root: Path, trials: int = TRIALS) -> None:
    """Hold a finished search against what must be true however often it was killed."""
    assert [trial.number for trial in found.trials] == list(range(trials))
    assert {trial.state for trial in found.trials} == {"completed", "stopped"}
    assert all(trial.rungs for trial in found.trials)  # each was compared at the rung
    attempts = Results(root).read("attempts").to_pylist()
    completed = Counter((row["trial_id"], row["evaluation_id"]) for row in attempts if row["status"] == "completed")
    assert set(completed.values()) == {1}
    suggestions = Results(root).read("suggestions", where={"plan_hash": found.search_id}).to_pylist()
    assert all(completed[name, row["rung_evaluation_id"]] == 1 for row in suggestions for name in row["rung_trial_ids"])
    # the Pareto set by hand, from every completed trial
    values = {trial.label: found.values(trial) for trial in found.trials if trial.state == "completed"}
    assert None not in values.values() and len(values) >= trials // 2
    points = [value for value in values.values() if value is not None]
    best = {
        label for label, value in values.items()
        if value and not any(other != value and all(a >= b for a, b in zip(other, value, strict=True)) for other in points)
    }  # fmt: skip
    front = json.loads(invoke("pareto", "tiny", "--results", root, "--format", "json").stdout)
    assert {row["label"] for row in front} == best
    assert all(row["test_robust_score"] is not None for row in front)


def test_a_search_that_is_killed_three_times_loses_nothing_and_runs_nothing_twice(root: Path) -> None:
    searched, before = tiny_search(), proposed(root)
    ends = ended(root)
    moments: list[Callable[[], bool]] = [
        lambda: proposed(root) > before,  # after the first suggestion
        lambda: proposed(root) >= before + 3 and ended(root) > ends + 1,  # in the middle
        lambda: proposed(root) >= before + TRIALS,  # near the end: all are proposed, the last are running
    ]
    for moment in moments:
        process = start(searched, root)
        assert wait_until(process, moment)
        kill(process)
        known = Results(root).read("suggestions", ["number", "plan_hash"]).to_pylist()
        assert Counter((row["plan_hash"], row["number"]) for row in known).most_common(1)[0][1] == 1
    result = search(searched.space, root, "--search-seed", SEED, "--trials", TRIALS)  # to its end, in this process: what is stored is all that counts
    assert result.exit_code == 0, result.stderr
    check(read_search(Results(root), "tiny"), root)


@pytest.mark.slow
def test_a_killed_worker_costs_a_search_a_lost_attempt_and_no_trial(root: Path) -> None:
    searched, before = tiny_search(), proposed(root)
    process = start(searched, root, 4)
    busy: list[Any] = []

    def is_running() -> bool:
        busy[:] = workers_of(process.pid)
        return proposed(root) > before + 1 and bool(busy)

    assert wait_until(process, is_running)
    busy[0].kill()
    said, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert "4 trials by random, scheduler halving" in said
    check(read_search(Results(root), "tiny"), root, 4)
    failed = Results(root).read("attempts", ["reason"], {"status": "failed"}).column("reason").to_pylist()
    assert failed == ["lost"]
