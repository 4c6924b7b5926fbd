"""Table `evaluations`: how a trial was scored can be read back, complete."""

import json
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from small_sweep import SETTINGS, Silent, SmallSweep

from sweeper.datasets import Splits
from sweeper.evaluations import EvaluationConfig
from sweeper.keys import evaluation_id
from sweeper.plan import Plan, from_space
from sweeper.results import Results
from sweeper.sweep import inline, record_plan, run_sweep


def a_plan(splits: Splits, *variants: dict[str, Any]) -> Plan:
    space = cast(ModuleType, SimpleNamespace(variants=lambda: list(variants)))
    return from_space("ways", space, fingerprint=splits.fingerprint, settings=SETTINGS, epsilons=(0.1,))


def recorded(root: Path, *plans: Plan, splits: Splits) -> dict[str, dict[str, Any]]:
    results = Results(root, create=True)
    for plan in plans:
        record_plan(plan, splits, results)
    return {row["evaluation_id"]: row for row in results.read("evaluations").to_pylist()}


def test_an_evaluation_read_back_from_its_row_is_the_one_that_was_planned(splits: Splits, tmp_path: Path) -> None:
    plan = a_plan(splits, {}, {"victim": "retrained"}, {"mix": "full"}, {"attack_preset": "cleverhans"}, {"quantize": False})
    rows = recorded(tmp_path, plan, splits=splits)
    assert rows.keys() == {trial.evaluation_id for trial in plan.trials}
    assert len(rows) == 4  # the last is scored as the first
    for trial in plan.trials:
        row = rows[trial.evaluation_id]
        read = EvaluationConfig.model_validate(json.loads(row["config"]))
        assert read == trial.evaluation
        assert evaluation_id(trial.config, read) == row["evaluation_id"]
        assert (row["name"], row["split"], row["dataset"], row["fingerprint"]) == ("standard", "test", "digits", splits.fingerprint)


def test_two_sweeps_that_score_alike_share_a_row(splits: Splits, tmp_path: Path) -> None:
    first, second = a_plan(splits, {}), a_plan(splits, {"quantize": False})
    assert first.plan_hash != second.plan_hash
    assert list(recorded(tmp_path, first, second, splits=splits)) == [first.trials[0].evaluation_id]


def test_a_finished_sweep_of_an_earlier_version_gets_its_row_when_it_is_run_again(sweep: SmallSweep, splits: Splits, tmp_path: Path) -> None:
    root = tmp_path / "results"
    shutil.copytree(sweep.root, root, ignore=shutil.ignore_patterns("compacted", "manifests", "evaluations"))
    assert Results(root).read("evaluations").num_rows == 0
    assert run_sweep(sweep.plan, splits, root, None, inline, Silent()) == []
    assert Results(root).read("evaluations").to_pylist() == Results(sweep.root).read("evaluations").to_pylist() != []
