"""One trial, start to end: its rows, running it again, and how it fails."""

import dataclasses
import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sweep import SETTINGS, Silent, SmallSweep, small_plan

from attacks._linf import NoGradient
from sweeper.artifacts import Artifacts, Bundle, StorageError
from sweeper.config import TrialConfig
from sweeper.datasets import Splits
from sweeper.evaluations import Cell
from sweeper.keys import part_key
from sweeper.materials import Materials
from sweeper.options import attack_options
from sweeper.plan import Plan, PlannedTrial
from sweeper.results import Results
from sweeper.statistics import wilson
from sweeper.storage.local import LocalStore
from sweeper.stored_plans import in_order
from sweeper.sweep import inline, record_plan, run_one, run_sweep, state_of
from sweeper.training import Diverged
from sweeper.trial import run_trial
from sweeper.worker import Job, StageFailed, perform_stage, perform_trial, reason_of, record_failure

CPU = torch.device("cpu")


class Counting(Artifacts):
    """Artifacts that remember what was made."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.made: Counter[str] = Counter()

    def get_or_create(self, kind: str, key: str, make: Callable[[], Bundle]) -> Bundle:
        def counting() -> Bundle:
            self.made[kind] += 1
            return make()

        return super().get_or_create(kind, key, counting)


def scores(sweep: SmallSweep, **where: Any) -> list[dict[str, Any]]:
    return Results(sweep.root).read("scores", where=where or None).to_pylist()


def trial_of(sweep: SmallSweep, label: str) -> PlannedTrial:
    return next(trial for trial in sweep.plan.trials if trial.label.startswith(label))


# What a finished sweep leaves


def test_every_trial_completes_and_leaves_the_parts_that_were_planned(sweep: SmallSweep) -> None:
    assert [(end.status, end.message) for end in sweep.finished] == [("completed", "")] * 3
    state = state_of(sweep.plan, sweep.root)
    assert (state.missing, state.stages, state.failed) == ([], [], {})
    attempts = Results(sweep.root).read("attempts").to_pylist()
    assert Counter((row["status"], row["attempt"]) for row in attempts) == {("completed", 1): 3}
    for end in sweep.finished:
        assert "COMPLETED" in Path(end.log).read_text()


def test_every_score_follows_from_its_outcome_list(sweep: SmallSweep) -> None:
    sets = {row["sample_set"]: row for row in Results(sweep.root).read("sample_sets").to_pylist()}
    rows = scores(sweep)
    assert len(rows) == (2 * 3 + 2) + 2 * (2 + 2 + 1) * 8 + 2 * 3 * 7  # clean; two epsilons, eight sets; seven epsilons twice
    for row in rows:
        assert len(row["outcomes"]) == row["n"] == sets[row["sample_set"]]["n"]
        assert sum(row["outcomes"]) == row["correct"]
        assert row["accuracy"] == row["correct"] / row["n"]
        assert (row["ci_low"], row["ci_high"]) == wilson(row["correct"], row["n"])
        assert row["achieved_epsilon"] <= row["epsilon"] + 1e-6
        assert json.loads(row["attack_settings"])["attack"] == row["attack_label"]


def test_each_threat_says_what_it_was_crafted_and_scored_on(sweep: SmallSweep) -> None:
    sources = {(row["threat"], row["attack"], row["source"]) for row in scores(sweep)}
    assert {(threat, source) for threat, _, source in sources} == {
        ("clean", "none"), ("graybox", "wide_resnet"), ("transfer", "densenetx3"), ("adaptive", "defense"), ("adaptive_soft", "defense")
    }  # fmt: skip
    for row in scores(sweep, threat="adaptive"):
        assert row["crafted_on"] == row["scored_on"]  # the attacker knows everything
    for row in scores(sweep, threat="graybox"):
        assert row["scored_on"] != row["crafted_on"]


def test_adaptive_curves_fall_and_follow_from_broken_at(sweep: SmallSweep) -> None:
    rows = scores(sweep, threat="adaptive")
    for trial in sweep.plan.trials:
        curve = sorted((row for row in rows if row["trial_id"] == trial.trial_id), key=lambda row: row["epsilon"])
        assert [row["epsilon"] for row in curve] == list(sweep.plan.evaluation.cells[-1].epsilons)
        assert [row["broken_at"] is not None for row in curve] == [False] * 6 + [True]
        broken_at = torch.tensor(curve[-1]["broken_at"])
        for before, row in zip([None, *curve], curve, strict=False):
            assert row["outcomes"] == (broken_at > torch.tensor(row["epsilon"])).tolist()
            if before is not None:
                assert all(old or not new for old, new in zip(before["outcomes"], row["outcomes"], strict=True))
                assert row["carried_over"] == row["n"] - before["correct"]


def test_without_a_purifier_nothing_is_filtered_and_nothing_lost(sweep: SmallSweep) -> None:
    rows = scores(sweep, trial_id=trial_of(sweep, "model=identity").trial_id)
    clean = {row["classifier"]: row["outcomes"] for row in rows if row["threat"] == "clean"}
    assert set(clean) == {"original", "unfiltered"}
    assert clean["original"] == clean["unfiltered"]
    assert {row["classifier"] for row in rows if row["threat"] != "clean"} == {"original"}


def test_a_perturbed_image_breaks_more_than_a_clean_one(sweep: SmallSweep) -> None:
    rows = scores(sweep, trial_id=trial_of(sweep, "model=identity").trial_id)
    clean = next(row["accuracy"] for row in rows if row["threat"] == "clean")
    assert clean > 0.3
    assert min(row["accuracy"] for row in rows if row["threat"] == "graybox") < clean
    assert next(row["accuracy"] for row in rows if row["threat"] == "adaptive" and row["epsilon"] == 0.3) == 0


def test_latents_have_a_row_per_depth_with_codebook_figures_where_there_is_one(sweep: SmallSweep) -> None:
    rows = Results(sweep.root).read("latents").to_pylist()
    depths = {
        label: {row["depth"] for row in rows if row["trial_id"] == trial_of(sweep, label).trial_id} for label in ("reference", "quantize", "model")
    }
    assert depths == {"reference": {1, 2, 3}, "quantize": {1, 2, 3}, "model": {0}}
    for row in rows:
        assert 0 <= row["image_l1"] <= 1
        assert (row["perplexity"] is not None) == (row["trial_id"] == trial_of(sweep, "reference").trial_id)
        if row["perplexity"] is not None:
            assert 1 <= row["perplexity"] <= 8
            assert 0 < row["usage"] <= 1
            assert 0 <= row["index_change"] <= 100
        if row["threat"] == "clean" and row["depth"]:
            assert row["l1_pre"] == row["l1_post"] == 0
            assert row["image_l1"] == row["image_l1_clean"]


def test_epochs_have_one_row_per_stage_with_losses_per_depth(sweep: SmallSweep) -> None:
    rows = Results(sweep.root).read("epochs").to_pylist()
    reference = {row["stage"]: row for row in rows if row["trial_id"] == trial_of(sweep, "reference").trial_id}
    assert set(reference) == {"purifier", "retrain"}
    assert len(reference["purifier"]["commitment"]) == len(reference["purifier"]["codebook"]) == 3
    assert 0 <= reference["retrain"]["accuracy"] <= 1
    assert not [row for row in rows if row["trial_id"] == trial_of(sweep, "model=identity").trial_id]


def test_a_trials_row_holds_its_settings_and_its_whole_configuration(sweep: SmallSweep) -> None:
    rows = {row["trial_id"]: row for row in Results(sweep.root).read("trials").to_pylist()}
    row = rows[trial_of(sweep, "reference").trial_id]
    assert (row["model"], row["codebook_size"], row["depth"], row["retrain"], row["num_epochs"]) == ("vqunet", 8, 3, "finetune", 1)
    assert TrialConfig.model_validate(json.loads(row["config"])).trial_id == row["trial_id"]
    assert (row["psnr"], row["parameters"] > 0) == (pytest.approx(-10 * torch.tensor(row["reconstruction_mse"]).log10().item(), abs=1e-3), True)
    identity = rows[trial_of(sweep, "model=identity").trial_id]
    assert (identity["parameters"], identity["codebook_size"], identity["learning_rate"], identity["train_seconds"]) == (0, None, None, 0)


def test_a_trials_row_spells_codebook_sizes_that_differ_between_depths(sweep: SmallSweep, splits: Splits, space: Path, tmp_path: Path) -> None:
    assert {row["codebook_sizes"] for row in Results(sweep.root).read("trials").to_pylist()} == {None}
    settings = {**SETTINGS, "depth": 2, "codebook_size": [8, 4], "retrain": "none"}
    config = small_plan(space, splits.fingerprint, settings=settings).trials[0].config
    clean = sweep.plan.evaluation.model_copy(update={"name": "quick", "cells": sweep.plan.evaluation.cells[:1]})
    shutil.copytree(sweep.root / "artifacts", tmp_path / "artifacts")
    materials = Materials(Artifacts(tmp_path), None, CPU)
    materials._splits[splits.fingerprint] = splits
    results = Results(tmp_path, create=True)
    run_trial(config, clean, materials, results.publish)
    (row,) = results.read("trials").to_pylist()
    assert (row["codebook_size"], row["codebook_sizes"], row["vq_levels"], row["depth"]) == (None, "8,4", None, 2)
    assert TrialConfig.model_validate(json.loads(row["config"])).trial_id == row["trial_id"]
    perplexity = {found["depth"]: found["perplexity"] for found in results.read("latents").to_pylist()}
    assert perplexity.keys() == {1, 2} and 1 <= perplexity[1] <= 8 and 1 <= perplexity[2] <= 4


def test_a_run_is_recorded_without_the_password_of_its_command(
    sweep: SmallSweep, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "small", "--storage", "postgresql://me:secret@host/db", "--set", "model=file:mine@0123"]
    monkeypatch.setattr("sys.argv", ["sweeper", *words])
    record_plan(sweep.plan, splits, Results(tmp_path, create=True))
    (run,) = Results(tmp_path).read("runs").to_pylist()
    assert run["command"] == "run small --storage postgresql://me:***@host/db --set model=file:mine@0123"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()] == []


# Running again


def test_running_a_trial_again_publishes_the_same_names_and_rows_and_computes_nothing(sweep: SmallSweep, splits: Splits) -> None:
    artifacts = Counting(sweep.root)
    materials = Materials(artifacts, None, CPU)
    materials._splits[splits.fingerprint] = splits
    stored = {(row["threat"], row["attack"], row["epsilon"], row["classifier"], row["trial_id"]): row["outcomes"] for row in scores(sweep)}
    for trial in sweep.plan.trials:
        published: dict[str, list[dict[str, Any]]] = {}
        run_trial(trial.config, sweep.plan.evaluation, materials, lambda table, part, rows, to=published: to.update({f"{table}/{part}": list(rows)}))
        assert [name for name in published if not name.startswith("attempts/")] == list(trial.parts)
        for name, rows in published.items():
            for row in rows if name.startswith("scores/") else []:
                assert row["outcomes"] == stored[row["threat"], row["attack"], row["epsilon"], row["classifier"], row["trial_id"]]
    assert artifacts.made == {}


def test_running_a_finished_sweep_again_makes_nothing(sweep: SmallSweep) -> None:
    view = Silent()
    assert run_sweep(sweep.plan, sweep.splits, sweep.root, None, inline, view) == []
    assert (view.stages, view.trials) == ([], [])


def test_one_more_attack_makes_its_own_set_and_outcomes_and_nothing_else(sweep: SmallSweep, tmp_path: Path) -> None:
    cell = Cell(threat="graybox", attack="torchattacks:FFGSM", options=attack_options("torchattacks:FFGSM", "graybox", {}), epsilons=(0.1,))
    more = sweep.plan.evaluation.model_copy(update={"cells": (*sweep.plan.evaluation.cells, cell)})
    shutil.copytree(sweep.root / "artifacts", tmp_path / "artifacts")
    artifacts = Counting(tmp_path)
    run_trial(sweep.plan.trials[0].config, more, Materials(artifacts, None, CPU), lambda *_: None)
    assert artifacts.made == {"adversarial": 1, "outcomes": 1}


def test_a_trials_configuration_in_a_file_runs_alone(sweep: SmallSweep, tmp_path: Path) -> None:
    trial = trial_of(sweep, "model=identity")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": trial.config.model_dump(mode="json"), "evaluation": sweep.plan.evaluation.model_dump(mode="json")}))
    root = tmp_path / "results"
    shutil.copytree(sweep.root / "artifacts", root / "artifacts")
    assert run_one(path, root, None).status == "completed"
    mine = Results(root).read("scores", ["outcomes"]).to_pylist()
    assert len(mine) == len(scores(sweep, trial_id=trial.trial_id))
    path.write_text('{"config": {"dataset": "digits"}}')
    with pytest.raises(ValueError, match="cannot read a trial from"):
        run_one(path, root, None)


def test_sample_sets_of_two_evaluations_in_one_process_do_not_mix(sweep: SmallSweep, splits: Splits, space: Path) -> None:
    quick = small_plan(space, splits.fingerprint, evaluation_name="quick")
    materials = Materials.of_splits(splits)
    config = sweep.plan.trials[0].config
    without = materials.samples(config, quick.evaluation, None)
    spread = materials.samples(config, sweep.plan.evaluation, None)
    assert without.transfer_source.unique().tolist() == [0]
    assert spread.transfer_source.unique().tolist() == [0, 1, 2]
    assert without.name != spread.name
    assert without.sample_ids == spread.sample_ids


# Failing


@pytest.fixture
def fresh(sweep: SmallSweep, tmp_path: Path, splits: Splits) -> tuple[Plan, Path]:
    """Return the plan and a root where it is recorded and nothing has run."""
    root = tmp_path / "results"
    record_plan(sweep.plan, splits, Results(root, create=True))
    return sweep.plan, root


def fail(root: Path, plan: Plan, reason: str) -> None:
    job = Job(plan.sweep, LocalStore(root), None)
    record_failure(job, plan.trials[0], reason, f"{reason} happened", datetime.now(UTC))


def test_a_failing_trial_becomes_a_row_with_its_message_and_log_and_others_go_on(
    sweep: SmallSweep, splits: Splits, space: Path, tmp_path: Path
) -> None:
    failing = small_plan(space, splits.fingerprint, settings={**SETTINGS, "num_epochs": 3, "learning_rate": 10.0, "optimizer": "sgd", "alpha": 1e30})
    root = tmp_path / "results"
    shutil.copytree(sweep.root / "artifacts", root / "artifacts")
    finished = {end.trial_id: end for end in run_sweep(failing, splits, root, None, inline, Silent())}
    words = [(finished[trial.trial_id].status, finished[trial.trial_id].reason) for trial in failing.trials]
    assert words == [("failed", "nan"), ("failed", "nan"), ("completed", None)]
    rows = [row for row in Results(root).read("attempts").to_pylist() if row["status"] == "failed"]
    row = next(row for row in rows if row["trial_id"] == failing.trials[0].trial_id)
    assert row["message"].startswith(f"trial {row['trial_id'][:8]} (reference): training of vqunet failed in epoch ")
    assert "learning_rate 10" in row["message"]
    assert "Diverged" in Path(row["log"]).read_text()
    view = Silent()
    assert run_sweep(failing, splits, root, None, inline, view) == []
    again = run_sweep(failing, splits, root, None, inline, view, retry_failed=True)
    assert len(again) == 2
    assert {row["attempt"] for row in Results(root).read("attempts").to_pylist() if row["status"] == "failed"} == {1, 2}


@pytest.mark.parametrize(
    ("reason", "runs_again"), [("nan", False), ("oom", False), ("bug", False), ("lost", True), ("storage", True), ("preempted", True)]
)
def test_a_trials_own_failure_is_tried_again_only_when_asked(reason: str, runs_again: bool, fresh: tuple[Plan, Path]) -> None:
    plan, root = fresh
    fail(root, plan, reason)
    state = state_of(plan, root)
    assert len(state.missing) == 3
    assert (plan.trials[0] in state.runnable) == runs_again
    assert (plan.trials[0].key in state.failed) != runs_again
    assert plan.trials[0] in state_of(plan, root, retry_failed=True).runnable


def test_the_last_attempt_decides(fresh: tuple[Plan, Path]) -> None:
    plan, root = fresh
    for reason, runs_again in (("bug", False), ("lost", True), ("nan", False)):
        fail(root, plan, reason)
        assert (plan.trials[0] in state_of(plan, root).runnable) == runs_again
    assert sorted(Results(root).read("attempts", ["attempt"]).column("attempt").to_pylist()) == [1, 2, 3]


def test_attempts_are_numbered_on_after_a_completed_one(fresh: tuple[Plan, Path]) -> None:
    plan, root = fresh
    trial, results = plan.trials[0], Results(root)
    fail(root, plan, "lost")
    row = {"trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id, "attempt": 2, "status": "completed"}
    results.publish("attempts", part_key("attempts", trial.trial_id, trial.evaluation_id, "completed"), [row])
    fail(root, plan, "lost")  # its trial's part was damaged, say, and it ran again
    assert sorted(Results(root).read("attempts", ["attempt"]).column("attempt").to_pylist()) == [1, 2, 3]


def test_two_sweeps_that_run_a_trial_at_once_may_lose_it_and_complete_it_under_one_number(sweep: SmallSweep, fresh: tuple[Plan, Path]) -> None:
    plan, root = fresh
    shutil.copytree(sweep.root / "artifacts", root / "artifacts")
    lost: list[str] = []

    def lose(*_: Any) -> None:  # the other sweep's worker, on the same trial
        if not lost:
            lost.append("here")
            fail(root, plan, "bug")

    job, trial = Job(plan.sweep, LocalStore(root), None), plan.trials[0]
    assert perform_trial(job, trial, lose).status == "completed"
    results = Results(root)
    both = [("bug", 1, "failed"), (None, 1, "completed")]
    for _ in range(2):
        rows = results.read("attempts").to_pylist()
        assert sorted(((row["reason"], row["attempt"], row["status"]) for row in rows), key=str) == sorted(both, key=str)
        for given in (rows, rows[::-1]):
            assert [row["status"] for row in in_order(given)] == ["failed", "completed"]
        assert results.query("select count(*) from attempts")[1] == [(2,)]
        results.compact()
        results.clean(grace_seconds=0)
    assert trial.key not in {one.key for one in state_of(plan, root).missing}
    (name,) = results.store.files("compacted/latents")
    (root / name).unlink()
    assert trial in state_of(plan, root).runnable  # it can be completed, so the failure under the same number is not its last word
    fail(root, plan, "lost")
    assert max(Results(root).read("attempts", ["attempt"]).column("attempt").to_pylist()) == 3


def test_a_root_that_does_not_exist_misses_everything_and_is_not_made(sweep: SmallSweep, tmp_path: Path) -> None:
    state = state_of(sweep.plan, tmp_path / "none")
    assert len(state.missing) == len(state.runnable) == 3
    assert list(state.stages) == list(sweep.plan.stages)
    assert not (tmp_path / "none").exists()


def test_only_stages_of_runnable_trials_are_made(fresh: tuple[Plan, Path]) -> None:
    plan, root = fresh
    for trial in plan.trials:
        job = Job(plan.sweep, LocalStore(root), None)
        record_failure(job, trial, "bug", "broken", datetime.now(UTC))
    assert state_of(plan, root).stages == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Diverged("nan"), "nan"),
        (NoGradient("masked"), "gradient"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("cuda"), "oom"),
        (StorageError(28, "full"), "storage"),
        (OSError(28, "full"), "storage"),
        (OSError(2, "no such file"), "bug"),
        (ValueError("wrong"), "bug"),
    ],
)
def test_failures_are_told_apart(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
@pytest.mark.parametrize(
    ("operation", "place"),
    [("create", "parts/scores"), ("is_whole", "parts/attempts"), ("read", "artifacts/outcomes"), ("move", "artifacts/purifiers")],
)
def test_a_file_server_that_fails_is_no_bug_and_the_trial_is_tried_again(
    sweep: SmallSweep, fresh: tuple[Plan, Path], monkeypatch: pytest.MonkeyPatch, operation: str, place: str, number: int
) -> None:
    plan, root = fresh
    shutil.copytree(sweep.root / "artifacts", root / "artifacts")
    if operation == "move":  # what is damaged cannot be put aside
        for path in (root / "artifacts" / "purifiers").rglob("*.safetensors"):
            path.write_bytes(b"")
    honest, asked = getattr(LocalStore, operation), []

    def fail_once(store: LocalStore, name: str, *rest: Any) -> Any:
        if name.startswith(place) and not asked:
            asked.append(name)
            raise OSError(number, "the server does not answer")
        return honest(store, name, *rest)

    monkeypatch.setattr(LocalStore, operation, fail_once)
    finished = perform_trial(Job(plan.sweep, LocalStore(root), None), plan.trials[0])
    assert asked and (finished.status, finished.reason) == ("failed", "storage")
    assert str(root) in finished.message and "the server does not answer" in finished.message
    assert plan.trials[0] in state_of(plan, root).runnable


def test_a_sweep_goes_on_when_its_small_files_cannot_be_merged_on_the_way(sweep: SmallSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, honest, notes = tmp_path / "results", LocalStore.create, []
    shutil.copytree(sweep.root / "artifacts", root / "artifacts")

    def create(store: LocalStore, name: str, content: bytes) -> bool:
        if name.startswith("compacted/") and len(notes) < 3:
            raise OSError(errno.ETIMEDOUT, "the server does not answer")
        return honest(store, name, content)

    view = Silent()
    monkeypatch.setattr(view, "note", notes.append)
    monkeypatch.setattr(LocalStore, "create", create)
    monkeypatch.setattr("sweeper.sweep.COMPACT_EVERY", 1)
    finished = run_sweep(sweep.plan, sweep.splits, root, None, inline, view)
    assert [end.status for end in finished] == ["completed"] * 3
    assert len(notes) == 3 and all("could not be merged now" in note and "the server does not answer" in note for note in notes)
    assert state_of(sweep.plan, root).missing == [] and len(Results(root).store.files("compacted/trials")) == 1


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("place", ["parts/", "logs/"])
def test_a_root_that_takes_neither_row_nor_log_is_a_storage_error(
    fresh: tuple[Plan, Path], monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    plan, root = fresh

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, "the server does not answer")

    monkeypatch.setattr(*((LocalStore, "create", fail) if place == "parts/" else (Path, "mkdir", fail)))
    with pytest.raises(StorageError, match=f"cannot write {root}/{place}.*: the server does not answer") as caught:
        perform_trial(Job(plan.sweep, LocalStore(root), None), plan.trials[0])
    assert reason_of(caught.value) == "storage"


def test_a_trial_on_other_images_than_the_plans_is_refused(sweep: SmallSweep, tmp_path: Path) -> None:
    config = sweep.plan.trials[2].config.model_copy(update={"fingerprint": "0" * 64})
    trial = dataclasses.replace(sweep.plan.trials[2], config=config)
    Results(tmp_path, create=True)
    finished = perform_trial(Job("x", LocalStore(tmp_path), None), trial)
    assert (finished.status, finished.reason) == ("failed", "bug")
    assert "are not those of the plan" in finished.message


def test_a_stage_that_fails_names_itself_its_reason_and_its_log(fresh: tuple[Plan, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, root = fresh
    stage = next(stage for stage in plan.stages if stage.cell is not None)

    def fail_to_load(*_: object, **__: object) -> None:
        raise ArithmeticError("not finite")

    monkeypatch.setattr("sweeper.materials.Materials.adversarial", fail_to_load)
    with pytest.raises(StageFailed, match=r"craft .* failed \(ArithmeticError: not finite\); log: .*stage-") as caught:
        perform_stage(Job(plan.sweep, LocalStore(root), None), stage)
    assert "fail_to_load" in Path(str(caught.value).rpartition("log: ")[2]).read_text()
