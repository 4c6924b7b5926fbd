"""The reference and the best row are attacked again after a sweep, once, until the best one holds; on demand every trial is."""

import json
import shutil
from pathlib import Path

import pytest
from small_sweep import Silent, SmallSweep
from tiny_sweep import invoke

from sweeper.escalation import Probe, pending
from sweeper.keys import PROBES_VERSION
from sweeper.plan import PlannedTrial
from sweeper.probes.levels import ADVICE, HEALTH, STRENGTH
from sweeper.ranking import rank
from sweeper.results import Results
from sweeper.sweep import inline, run_sweep

PROBED = {"kind": "validity", "level": "standard", "message": "planted"}


@pytest.fixture
def copied(sweep: SmallSweep, tmp_path: Path) -> Path:
    root = tmp_path / "results"
    shutil.copytree(sweep.root, root)
    return root


def checks_of(results: Results, trial: PlannedTrial) -> set[str]:
    return set(results.read("checks", ["check"], {"trial_id": trial.trial_id}).column("check").to_pylist())


def due(sweep: SmallSweep, root: Path) -> set[tuple[str, str]]:
    return {(probe.trial.label, probe.check) for probe in pending(sweep.plan, Results(root))}


class Watching(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.probes: list[str] = []

    def probe_ended(self, probe: Probe, problem: str | None) -> None:
        assert problem is None
        self.probes.append(probe.check)


def test_every_trial_is_probed_and_the_reference_and_the_best_row_are_attacked_again(sweep: SmallSweep) -> None:
    results = Results(sweep.root)
    best = next(row for row in rank(results, sweep.plan.sweep).rows if row["rank"] == 1)
    for trial in sweep.plan.trials:
        is_attacked = trial.is_reference or trial.trial_id in best["trial_ids"]
        assert checks_of(results, trial) == {*HEALTH, *(STRENGTH if is_attacked else ())}
    rows = results.read("checks").to_pylist()
    assert all(row["seconds"] >= 0 and row["message"] and row["probes_version"] == PROBES_VERSION for row in rows)
    assert due(sweep, sweep.root) == set()


def test_a_check_whose_row_is_lost_is_stored_again_without_another_attack(sweep: SmallSweep, copied: Path) -> None:
    before = Results(copied).read("checks").to_pylist()
    reference = next(trial for trial in sweep.plan.trials if trial.is_reference)
    for path in [path for folder in ("parts/checks", "compacted", "manifests") for path in (copied / folder).rglob("*") if path.is_file()]:
        path.unlink()
    shutil.copytree(sweep.root / "parts", copied / "parts", dirs_exist_ok=True)
    lost = [probe for probe in _probes(sweep, reference)][0]
    path = copied / Results(copied).folder.part_name("checks", lost.part)
    path.unlink()
    assert due(sweep, copied) == {(reference.label, lost.check)}
    watching = Watching()
    assert run_sweep(sweep.plan, sweep.splits, copied, None, inline, watching) == []
    assert watching.probes == [lost.check]
    after = Results(copied).read("checks").to_pylist()
    order = lambda row: (row["trial_id"], row["check"])  # noqa: E731
    assert sorted(after, key=order) == sorted(before, key=order)  # its seconds, too: it was not made again


def _probes(sweep: SmallSweep, trial: PlannedTrial) -> list[Probe]:
    return [Probe(trial, "standard", check) for check in STRENGTH]


def test_where_the_best_row_does_not_hold_the_next_one_is_attacked(sweep: SmallSweep, copied: Path) -> None:
    results = Results(copied)
    first, second, *_ = (row for row in rank(results, sweep.plan.sweep).rows if row["rank"] is not None)
    failure = {"check": "C13", "outcome": "fail", "probes_version": PROBES_VERSION + 1, **PROBED}
    names = [{"trial_id": name, "evaluation_id": first["evaluation_id"]} for name in first["trial_ids"]]
    results.publish("checks", "planted", [name | failure for name in names])
    assert {row["label"]: row["rank"] for row in rank(Results(copied), sweep.plan.sweep).rows}[first["label"]] is None
    reference = next(trial.label for trial in sweep.plan.trials if trial.is_reference)
    expected = set() if second["label"] == reference else {(second["label"], check) for check in STRENGTH}
    assert due(sweep, copied) == expected


def test_on_demand_every_trial_is_attacked_again_with_all_advice(sweep: SmallSweep, copied: Path) -> None:
    done = invoke("check", "small", "--results", copied, "--run", "all", "--level", "full", "--all", "--format", "json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    not_run = {(row["check"], row["message"]) for row in rows if row["outcome"] == "not_run" and row["check"] in {*HEALTH, *STRENGTH, *ADVICE}}
    assert {check for check, _ in not_run} <= {"C32"}  # of one seed there is no other
    assert invoke("check", "small", "--results", copied, "--run", "all", "--level", "full").stderr == ""  # nothing is made twice


@pytest.mark.parametrize(("words", "message"), [
    (["--run", "some"], "--run must be best or all, got 'some'"),
    (["--run", "all", "--level", "hard"], "--level must be standard or full, got 'hard'"),
])  # fmt: skip
def test_nonsense_is_refused(sweep: SmallSweep, words: list[str], message: str) -> None:
    done = invoke("check", "small", "--results", sweep.root, *words)
    assert done.exit_code == 2 and message in done.stderr


def test_the_plan_says_what_the_checks_add(sweep: SmallSweep, tmp_path: Path) -> None:
    words = [word for word in sweep.arguments if word != str(sweep.root) and word != "--results"]
    rows = json.loads(invoke("plan", *words, "--results", tmp_path, "--format", "json").stdout)
    checks = [row for row in rows if row["what"] == "check"]
    assert len(checks) == 1 + len(STRENGTH) and all(row["seconds"] > 0 for row in checks)
    assert checks[1]["name"] == "C13 on 2 trials: Twice the steps change less than a point"
