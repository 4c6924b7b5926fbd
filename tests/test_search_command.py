"""A real search on the command line: what it prints and stores, what it runs again and what not, how it fails, and how it is gone on with."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from small_sweep import Silent
from tiny_search import SPACE, Searched, search, tiny_search
from tiny_sweep import SIZES, invoke

from sweeper.arguments import read_arguments
from sweeper.config import TrialConfig
from sweeper.results import Results
from sweeper.search.engine import Search
from sweeper.search.importance import told_of
from sweeper.search.ledger import Ledger
from sweeper.search.plan import SearchPlan
from sweeper.search.running import inline_search, run_search
from sweeper.search.stored import read_search
from sweeper.search.study import Told
from sweeper.search_results import SearchOptions, make_search

Rows = list[dict[str, Any]]
DIVERGING = {"codebook_size/1": 8, "learning_rate": 1e-2, "alpha": 1e30}


@pytest.fixture(scope="session")
def searched() -> Searched:
    return tiny_search()


@pytest.fixture
def copied(searched: Searched, tmp_path: Path) -> Path:
    root = tmp_path / "results"
    shutil.copytree(searched.root, root)
    return root


def rows(root: Path, table: str, **where: Any) -> Rows:
    return Results(root).read(table, where=where).to_pylist()


def artifacts(root: Path) -> dict[str, int]:
    """Return every trained network and adversarial set with the time that it was written."""
    kinds = ("adversarial", "classifiers", "purifiers", "retrained", "outcomes")
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for kind in kinds for path in (root / "artifacts" / kind).rglob("*.*")}


def ends(root: Path, **where: Any) -> Rows:
    found = sorted(rows(root, "attempts", **where), key=lambda row: (row["trial_id"], row["evaluation_id"], row["attempt"]))
    return [{name: row[name] for name in ("trial_id", "evaluation_id", "attempt", "status", "reason")} for row in found]


def as_json(*words: object) -> Any:
    result = invoke(*words, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def table(printed: str) -> list[str]:
    """Return what a search printed but for the seconds that it took."""
    return [line for line in printed.splitlines() if not line.startswith("Sampler and rungs took")]


# What is printed and stored


def test_a_search_ends_with_its_pareto_set_on_standard_output_and_progress_on_standard_error(searched: Searched) -> None:
    result = searched.result
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("tiny on digits (small, standard, validation images): what no other trial beats in robust_score and clean\n")
    assert "5 trials by random, scheduler halving: 2 completed, 3 stopped." in result.stdout
    assert "Sampler and rungs took" in result.stdout
    assert "No other trial of it was scored on the test images under this root." in result.stdout
    (nothing_chosen,) = [row for row in as_json("check", "tiny/pareto", "--all", "--results", searched.root) if row["check"] == "C34"][:1]
    assert nothing_chosen["outcome"] == "pass" and "chosen on validation images" in nothing_chosen["message"]
    assert "7 trials to run, 0 stored already" in result.stderr and "next: importance tiny" in result.stderr
    assert "reference, 1 epoch, seed 0: clean" in result.stderr and "[" not in result.stdout.splitlines()[0]


def test_every_suggestion_stands_in_the_sweep_and_has_exactly_one_end(searched: Searched) -> None:
    suggestions = sorted(rows(searched.root, "suggestions"), key=lambda row: row["number"])
    assert [row["number"] for row in suggestions] == [0, 1, 2, 3, 4]
    assert [row["source"] for row in suggestions] == ["first"] + ["sampled"] * 4
    sweeps = rows(searched.root, "sweeps", sweep="tiny")
    assert sorted(row["trial_id"] for row in sweeps) == sorted(row["trial_id"] for row in suggestions)
    assert [row["label"] for row in sweeps if row["is_reference"]] == ["reference"]
    last = {(row["trial_id"], row["evaluation_id"]): row["status"] for row in ends(searched.root)}
    states = [last[row["trial_id"], row["evaluation_id"]] for row in suggestions]
    assert sorted(states) == ["completed"] * 2 + ["stopped"] * 3
    assert states[0] == "completed"  # the reference, whatever it reached
    completed = [(row["trial_id"], row["evaluation_id"]) for row in ends(searched.root, status="completed")]
    assert len(completed) == len(set(completed))


def test_rungs_are_scored_on_validation_images_by_the_quick_evaluation_and_stay_in_the_tables(searched: Searched) -> None:
    suggestions = rows(searched.root, "suggestions")
    (evaluation,) = {row["rung_evaluation_id"] for row in suggestions}
    (way,) = rows(searched.root, "evaluations", evaluation_id=evaluation)
    assert (way["name"], way["split"]) == ("quick", "validation")
    scores = rows(searched.root, "scores", evaluation_id=evaluation)
    assert {row["trial_id"] for row in scores} == {name for row in suggestions for name in row["rung_trial_ids"]}
    splits = {row["sample_set"]: row["split"] for row in rows(searched.root, "sample_sets")}
    assert {splits[row["sample_set"]] for row in scores} == {"validation"}
    at_rungs = rows(searched.root, "trials", trial_id=[name for row in suggestions for name in row["rung_trial_ids"]])
    assert {json.loads(row["config"])["training"]["num_epochs"] for row in at_rungs} == {1}


def test_a_stopped_trial_stands_in_no_ranking(searched: Searched) -> None:
    stopped = {row["trial_id"] for row in ends(searched.root, status="stopped")}
    assert len(stopped) == 3 and {row["reason"] for row in ends(searched.root, status="stopped")} == {"halving"}
    ranked = as_json("rank", "tiny", "--results", searched.root)
    assert len(ranked) == 2 and stopped.isdisjoint(name for row in ranked for name in row["trial_ids"])
    said = invoke("rank", "tiny", "--results", searched.root).stdout
    assert "3 trials were stopped early and stand in no row" in said
    assert "its objectives and constraints are not heeded here; `pareto` names what may be chosen by them" in said


def test_test_images_are_scored_for_the_pareto_set_and_no_other_trial(searched: Searched) -> None:
    front = {row["trial_id"] for row in as_json("pareto", "tiny", "--results", searched.root)}
    test = {row["evaluation_id"] for row in rows(searched.root, "evaluations", split="test")}
    assert {row["trial_id"] for row in rows(searched.root, "scores") if row["evaluation_id"] in test} == front
    assert front <= {row["trial_id"] for row in ends(searched.root, status="completed")}


def test_the_pareto_set_has_both_splits_figures_and_their_difference(searched: Searched) -> None:
    found = as_json("pareto", "tiny", "--results", searched.root)
    of_search = read_search(Results(searched.root), "tiny")
    best = {trial.label: of_search.values(trial) for trial in of_search.trials if trial.state == "completed"}
    for row in found:
        values = row["validation_robust_score"], row["validation_clean"]
        assert values == best[row["label"]]
        assert not any(all(a >= b for a, b in zip(other, values, strict=True)) and other != values for other in best.values() if other)
        assert row["difference_clean"] == pytest.approx(row["validation_clean"] - row["test_clean"])
        assert row["validation_robust_score_ci_low"] <= row["validation_robust_score"] <= row["validation_robust_score_ci_high"]
        assert set(row["searched"]) == {"codebook_size", "learning_rate"} and row["settings"]["base_width"] == 2


def test_figures_of_another_evaluation_do_not_stand_for_the_test_figures_of_this_one(searched: Searched, copied: Path) -> None:
    """Another search of the space may have scored the same trial on the test images by another evaluation."""
    before = as_json("pareto", "tiny", "--results", searched.root)
    results = Results(copied)
    planned = next(row for row in rows(copied, "sweeps", sweep="tiny/pareto") if row["trial_id"] == before[0]["trial_id"])
    (way,) = rows(copied, "evaluations", evaluation_id=planned["evaluation_id"])
    other = "e" * 32
    config = json.dumps(json.loads(way["config"]) | {"name": "full"})
    scores = [row | {"evaluation_id": other, "accuracy": 1.0} for row in rows(copied, "scores", evaluation_id=planned["evaluation_id"])]
    results.publish("evaluations", other, [_stored(way) | {"evaluation_id": other, "name": "full", "config": config}])
    results.publish("scores", "f" * 32, [_stored(row) for row in scores if row["trial_id"] == planned["trial_id"]])
    part = {"evaluation_id": other, "plan_hash": "later", "parts": [f"trials/{planned['trial_id']}"]}
    results.publish("sweeps", "e" * 31 + "f", [_stored(planned) | part])
    assert as_json("pareto", "tiny", "--results", copied) == before


def _stored(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "schema_version"}


def test_commands_that_read_a_search_import_neither_torch_nor_ray(searched: Searched) -> None:
    words = [("importance", "tiny"), ("suggest-next", str(searched.space)), ("pareto", "tiny")]
    program = f"""
import sys
from typer.testing import CliRunner
from sweeper.cli import app
for words in {words!r}:
    CliRunner().invoke(app, [*words, "--results", {str(searched.root)!r}])
    assert not {{"torch", "ray"}} & set(sys.modules), words
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# Once more


def test_running_again_runs_nothing_and_prints_the_same_table(searched: Searched, copied: Path) -> None:
    made, tried = artifacts(copied), ends(copied)
    again = search(searched.space, copied)
    assert again.exit_code == 0, again.stderr
    assert table(again.stdout) == table(searched.result.stdout)
    assert "tiny on digits (small, standard, validation images): 0 trials to run" in again.stderr
    assert "0 shared stages to make" in again.stderr
    assert artifacts(copied) == made and ends(copied) == tried


def test_a_dry_run_and_a_plan_say_the_same_and_write_nothing(searched: Searched, tmp_path: Path) -> None:
    words = (searched.space, "--results", tmp_path / "none", "--epsilons", "0.1", *SIZES)
    planned, dry = invoke("plan", *words), invoke("run", *words, "--dry-run")
    assert planned.exit_code == dry.exit_code == 0, planned.stderr
    assert planned.stdout == dry.stdout
    assert "budget: 5 trials; sampler random, scheduler halving (of 2 so far one goes on from a rung)" in planned.stdout
    assert "optimizes robust_score (max), clean (max), on validation images" in planned.stdout
    assert not (tmp_path / "none").exists()


def test_a_plan_has_a_row_for_each_rung_and_the_price(searched: Searched) -> None:
    words = ("plan", searched.space, "--results", searched.root, "--epsilons", "0.1", *SIZES, "--price-per-hour", "36")
    found = {row["what"]: row for row in as_json(*words)}
    assert [(found[what]["epochs"], found[what]["trials"]) for what in ("rung", "full length")] == [(1, 5), (2, 2)]
    assert found["shared stages"]["trials"] == 0
    said = invoke(*words).stdout
    assert "measured trials here" in said and "at 36 per hour" in said


def test_status_shows_completed_and_stopped_trials(searched: Searched) -> None:
    states = as_json("status", "tiny", "--results", searched.root)
    assert [row["status"] for row in states] == ["completed"] * 2 + ["stopped"] * 3
    overview = {row["sweep"]: row for row in as_json("status", "--results", searched.root)}
    assert (overview["tiny"]["images"], overview["tiny"]["completed"], overview["tiny"]["stopped"], overview["tiny"]["missing"]) == (
        "validation",
        2,
        3,
        0,
    )
    assert overview["tiny/pareto"]["images"] == "test"


def test_a_stopped_trial_is_shown_with_the_reason_and_the_figures_that_it_reached(searched: Searched) -> None:
    name = ends(searched.root, status="stopped")[0]["trial_id"]
    shown = as_json("show", name[:12], "--results", searched.root)
    (attempt,) = shown["attempts"]
    assert attempt["status"] == "stopped" and "not among those that went on after 1 epoch (" in attempt["message"]
    assert "robust_score 0" in attempt["message"] and "clean 0" in attempt["message"]
    assert invoke("show", name[:12], "--results", searched.root).exit_code == 0


def test_importance_of_two_completed_trials_is_refused(searched: Searched) -> None:
    result = invoke("importance", "tiny", "--results", searched.root)
    assert result.exit_code == 2
    assert "importances need at least 4 completed trials, and there are 2" in result.stderr


# Going on


class Live(NamedTuple):
    """Another search under a copy of the root: its storage, and what its sampler was told at the end."""

    root: Path
    storage: str
    space: Path
    plan: SearchPlan
    search: Search
    interrupted: Any


def planned(space: Path, trials: int) -> tuple[SearchPlan, Any]:
    asked = read_arguments(str(space), None, None, "small", [word for word in SIZES if word != "--set"], "0.1", None)
    return make_search(asked, None, None, "test", SearchOptions(trials=trials, search_seed=1, sampler="tpe")), asked.splits


@pytest.fixture(scope="module")
def live(searched: Searched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Search with another seed: interrupted in its second new run, then finished."""
    from sweeper.search import running

    folder = tmp_path_factory.mktemp("live")
    root, storage = folder / "results", f"sqlite:///{folder / 'study.db'}"
    shutil.copytree(searched.root, root)
    performed, left = running.perform_trial, [1]

    def perform(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return performed(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "perform_trial", perform)
        interrupted = search(searched.space, root, "--search-seed", "1", "--sampler", "tpe", "--trials", "4", "--storage", storage)
    plan, splits = planned(searched.space, 4)
    found = run_search(plan, splits, root, None, inline_search, Silent(), storage=storage, warn=pytest.fail)
    yield Live(root, storage, searched.space, plan, found.search, interrupted)


def test_an_interrupted_search_says_that_the_same_command_continues(live: Live) -> None:
    assert live.interrupted.exit_code == 130
    assert "interrupted; what was computed is stored, and the same command continues" in live.interrupted.stderr
    assert [row["number"] for row in rows(live.root, "suggestions", plan_hash=live.plan.search_id)] == [0, 1, 2, 3]


def test_searches_of_one_space_share_the_reference(searched: Searched, live: Live) -> None:
    """Its two runs were completed by the first search, and the second took their figures."""
    reference = live.search.standings[0]
    assert reference.state == "completed"
    for step in reference.suggestion.steps:
        trial_id, evaluation_id = step.key
        mine, before = (
            [row for row in rows(root, "attempts", trial_id=trial_id, evaluation_id=evaluation_id)] for root in (live.root, searched.root)
        )
        assert mine == before and [row["status"] for row in mine] == ["completed"]


def without_state(told: list[Told]) -> list[Told]:
    """Return what was told but for the sampler's own notes, of which a table keeps those that another run needs."""
    return [dataclasses.replace(one, sampler_state={}) for one in told]


def test_what_is_told_from_the_tables_equals_what_was_told_while_it_ran(live: Live) -> None:
    ledger = Ledger(live.plan, Results(live.root))
    again = Search(live.plan.space, live.plan.make, begun=ledger.begun(), look_up=ledger.look_up)
    assert {told.state for told in live.search.told()} == {"completed", "stopped"}
    assert without_state(again.told()) == without_state(live.search.told())
    assert again.next() is None and again.is_finished


def test_readers_without_torch_tell_the_sampler_the_same(live: Live) -> None:
    found = told_of(read_search(Results(live.root), "tiny", plan_hash=live.plan.search_id))
    assert without_state(found) == without_state(live.search.told())


def test_a_storage_holds_every_trial_once_also_after_an_interruption(live: Live) -> None:
    import optuna

    study = optuna.load_study(study_name=f"tiny-{live.plan.search_id[:8]}", storage=live.storage)
    assert [trial.user_attrs["number"] for trial in study.trials] == [0, 1, 2, 3]
    states = {"completed": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    for trial, told in zip(study.trials, live.search.told(), strict=True):
        assert (trial.state.name, trial.params, trial.values) == (states[told.state], dict(told.params), list(told.values) or None)


def test_a_larger_budget_goes_on_with_what_suggest_next_has_said(live: Live, tmp_path: Path) -> None:
    root = tmp_path / "results"
    shutil.copytree(live.root, root)
    (said,) = as_json("suggest-next", live.space, "-n", "1", "--plan", live.plan.search_id, "--search-seed", "1", "--results", root)
    before = rows(root, "suggestions", plan_hash=live.plan.search_id)
    result = search(live.space, root, "--search-seed", "1", "--sampler", "tpe", "--trials", "6")
    assert result.exit_code == 0, result.stderr
    after = sorted(rows(root, "suggestions", plan_hash=live.plan.search_id), key=lambda row: row["number"])
    assert after[:4] == before
    assert [row["number"] for row in after[4:]] == [4, 5]
    assert said == {"number": 4, "params": json.loads(after[4]["params"])}
    assert {trial.state for trial in read_search(Results(root), "tiny").trials} == {"completed", "stopped"}
    completed = [(row["trial_id"], row["evaluation_id"]) for row in ends(root, status="completed")]
    assert len(completed) == len(set(completed))


def test_a_search_whose_trials_this_code_would_run_differently_is_not_gone_on_with(
    live: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweeper.config.TRAINING_VERSION", 99)
    plan, _ = planned(live.space, 4)
    row = dataclasses.replace(plan, search_id=live.plan.search_id)
    with pytest.raises(
        ValueError, match="the code has changed since trial reference of tiny was proposed.*another --search-seed begins a new search"
    ):
        Ledger(row, Results(live.root)).begun()


def test_a_suggestion_whose_row_is_lost_counts_as_failed_and_moves_no_other(live: Live, tmp_path: Path) -> None:
    root = tmp_path / "results"
    shutil.copytree(live.root, root, ignore=shutil.ignore_patterns("compacted", "manifests"))
    results = Results(root)
    (path,) = [path for path in results.files("suggestions") if _numbers(root / path, live.plan.search_id) == [2]]
    (root / path).write_bytes(b"torn")
    begun = Ledger(live.plan, Results(root)).begun()
    assert [suggestion.number for suggestion in begun] == [0, 1, 2, 3]
    assert [bool(suggestion.problem) for suggestion in begun] == [False, False, True, False]
    told = Search(live.plan.space, live.plan.make, begun=begun).told()
    assert told[2].state == "failed" and told[3].params == live.search.told()[3].params


def _numbers(path: Path, search_id: str) -> list[int]:
    import pyarrow.parquet as parquet

    return [row["number"] for row in parquet.read_table(path).to_pylist() if row["plan_hash"] == search_id]


# Failures


def test_a_failing_trial_is_told_as_failed_and_tried_again_only_when_asked(searched: Searched, copied: Path, tmp_path: Path) -> None:
    """An alpha of 1e30 under SGD: nothing is finite after one epoch."""
    space = tmp_path / "failing.py"
    text = SPACE.replace('"depth": 1}', '"depth": 1, "optimizer": "sgd"}')
    text = text.replace("    return _SHORT", '    trial.suggest_categorical("alpha", [1.0, 1e30])\n    return _SHORT')
    space.write_text(text.replace('"learning_rate": 4e-3}]', f'"learning_rate": 4e-3, "alpha": 1.0}}, {DIVERGING}, {DIVERGING}]'))

    first = search(space, copied, "--trials", "3")
    assert first.exit_code == 1
    assert "failed: #1: trial " in first.stderr and "2 trials failed; --retry-failed tries 2 of them again" in first.stderr
    assert "3 trials by random, scheduler halving: 1 completed, 2 failed; 1 repeat an earlier one." in first.stdout
    found = read_search(Results(copied), "failing")
    assert [trial.state for trial in found.trials] == ["completed", "failed", "failed"]
    assert [told.state for told in told_of(found)] == ["completed", "failed", "failed"]
    (rung,) = {row["rung_trial_ids"][0] for row in rows(copied, "suggestions", plan_hash=found.search_id) if row["number"]}
    assert [row["status"] for row in ends(copied, trial_id=rung)] == ["failed"]  # an equal one is not run again
    (whole,) = ends(copied, trial_id=(found.trials[1].key or ("",))[0])
    assert (whole["status"], whole["reason"]) == ("failed", "rung")
    (state,) = [row for row in as_json("status", "failing", "--results", copied) if row["status"] == "failed"]
    assert "its run of 1 epoch failed: trial" in state["message"] and Path(state["log"]).exists()

    tried = ends(copied)
    again = search(space, copied, "--trials", "3")
    assert again.exit_code == 1 and "0 trials to run" in again.stderr
    assert ends(copied) == tried
    assert table(again.stdout) == table(first.stdout)

    assert search(space, copied, "--trials", "3", "--retry-failed").exit_code == 1
    assert [row["status"] for row in ends(copied, trial_id=rung)] == ["failed", "failed"]


def test_a_search_that_had_no_time_says_so(searched: Searched, copied: Path) -> None:
    result = search(searched.space, copied, "--search-seed", "5", "--minutes", "1e-9")
    assert result.exit_code == 2
    assert "has no trial under" in result.stderr and "Traceback" not in result.stderr


def test_gpu_hours_alone_do_not_bound_a_search_without_gpus(tmp_path: Path) -> None:
    space = tmp_path / "endless.py"
    space.write_text(SPACE.replace('{"trials": 5}', '{"gpu_hours": 1}'))
    result = search(space, tmp_path / "results")
    assert result.exit_code == 2
    assert "bounded by GPU-hours alone, and its trials use no GPU, so it would never end; give --trials or --minutes" in result.stderr
    assert not (tmp_path / "results").exists()


def test_a_storage_that_cannot_be_written_is_refused_before_anything_is_recorded(searched: Searched, tmp_path: Path) -> None:
    result = search(searched.space, tmp_path / "results", "--storage", "study.db")
    assert result.exit_code == 2
    assert "--storage study.db cannot be opened: ArgumentError: Could not parse" in result.stderr
    assert Results(tmp_path / "results").read("runs").num_rows == 0


# Warm start

ABLATION = """
_SHORT = {"num_epochs": 2, "retrain": "none", "target/training/num_epochs": 1, "base_width": 2, "depth": 1}


def variants():
    return [{**_SHORT, "codebook_size": 8, "learning_rate": 4e-3}, {**_SHORT, "codebook_size": 5, "learning_rate": 5e-3},
            {**_SHORT, "codebook_size": 64, "learning_rate": 4e-3}]
"""


def test_a_warm_start_takes_over_networks_that_fit_and_no_figure_on_test_images(searched: Searched, copied: Path, tmp_path: Path) -> None:
    ablation = tmp_path / "before.py"
    ablation.write_text(ABLATION)
    assert search(ablation, copied).exit_code == 0
    networks = {name for name in artifacts(copied) if "/purifiers/" in name}
    result = search(searched.space, copied, "--search-seed", "2", "--trials", "1", "--warm-start", "before")
    assert result.exit_code == 0, result.stderr
    assert "warm start: 2 of 3 variants of before are trials that tiny could propose" in result.stderr
    assert {name for name in artifacts(copied) if "/purifiers/" in name} == networks
    found = read_search(Results(copied), "tiny")
    assert [(trial.label, trial.source) for trial in found.trials] == [("reference", "first"), ("#1", "warm_start"), ("#2", "warm_start")]
    assert [trial.state for trial in found.trials] == ["completed"] * 3
    assert {trial.params["codebook_size/1"] for trial in found.trials} == {8, 5}
    new = next(trial for trial in found.trials if trial.params["codebook_size/1"] == 5)
    validation = {row["evaluation_id"] for row in rows(copied, "evaluations", split="validation")}
    assert new.key is not None and new.key[1] in validation and new.rungs == {}


def test_an_earlier_trial_that_suggest_cannot_be_led_through_does_not_fit(searched: Searched, copied: Path, tmp_path: Path) -> None:
    """The ablation's codebooks of 8 and 64: the space looks its width up by the size, and knows 8 only."""
    from sweeper.search.warm import proposal_of

    module_text = SPACE.replace("    return _SHORT", '    return {**_SHORT, "base_width": {8: 2}[trial.params["codebook_size/1"]]}').replace(
        "4, 16, log=True", "8, 8"
    )
    space = tmp_path / "looked_up.py"
    space.write_text(module_text)
    plan, _ = planned(space, 1)
    ours = read_search(Results(copied), "tiny")
    configs = {row["trial_id"]: row["config"] for row in rows(copied, "trials")}
    completed = {trial.label: trial.key[0] for trial in ours.trials if trial.state == "completed" and trial.key}
    found = {label: proposal_of(plan, TrialConfig.model_validate_json(configs[name])) for label, name in completed.items()}
    assert len(found) == 2
    (fitting,) = [label for label, proposal in found.items() if proposal is not None]
    assert fitting == "reference" and getattr(found[fitting], "params", None) == {"codebook_size/1": 8, "learning_rate": 4e-3}
