"""Choosing on validation images: the test images are left alone until one variant is chosen, and what is known of the choice is said."""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from checked_tables import STARTED, N, plan_of, sound
from test_ranking import a_plan
from tiny_sweep import SIZES, Result, invoke, tiny_sweep

from sweeper import lookup
from sweeper.checks.all import run_checks
from sweeper.datasets import Splits, load
from sweeper.estimate import describe
from sweeper.ranking import rank
from sweeper.report.naming import systems_of
from sweeper.report.rows import load as material_of
from sweeper.report.summary import facts, statement, warnings
from sweeper.results import Results
from sweeper.selection import choose
from sweeper.stored_plans import latest_plan, others_on_test, split_of


def run_on_validation(root: Path, *more: object) -> Result:
    return invoke("run", tiny_sweep().space, "--inline", "--results", root, "--epsilons", "0.1", *SIZES, "--split", "validation", *more)


def select(root: Path, *more: object) -> Result:
    return invoke("select", tiny_sweep().space, "--inline", "--results", root, *more)


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def outcome_of(results: Results, check: str) -> tuple[str, str]:
    (found,) = {(one.outcome, one.message) for one in run_checks(results, plan_of(results)) if one.check == check}
    return found


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with all networks, whose tables know the validation images alone, and the sweep chosen from."""
    root = tmp_path_factory.mktemp("unseen") / "results"
    Results(root, create=True)
    shutil.copytree(tiny_sweep().root / "artifacts", root / "artifacts")
    done = run_on_validation(root)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("tiny on digits (small, standard, validation images), by robust_score\n")
    return root


@pytest.fixture(scope="module")
def selected(unseen: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a copy of it after `select`, and what that said; nothing may be trained there."""
    root = tmp_path_factory.mktemp("selected") / "results"
    shutil.copytree(unseen, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.materials.fit", lambda *args, **more: pytest.fail("a network was trained"))
        (row,) = rows_of(select(root, "--format", "json"))
    return root, row


@pytest.fixture(scope="module")
def seen(unseen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root where everything was scored on the test images first, and then on the validation images."""
    root = tmp_path_factory.mktemp("seen") / "results"
    shutil.copytree(tiny_sweep().root, root)
    shutil.copytree(unseen / "artifacts", root / "artifacts", dirs_exist_ok=True)  # found there, so that this takes no time
    assert run_on_validation(root).exit_code == 0
    return root


def test_everything_is_scored_on_the_validation_splits_own_images(unseen: Path) -> None:
    results = Results(unseen)
    sets = {row["sample_set"]: row for row in results.read("sample_sets").to_pylist()}
    assert {row["split"] for row in sets.values()} == {"validation"}
    assert set(results.read("scores", ["sample_set"]).column("sample_set").to_pylist()) == set(sets)
    ids = load("digits", caps=(60, 20, 20)).validation.sample_ids
    assert all(set(row["sample_ids"]) == set(ids) for row in sets.values())  # a subset of 240 is what the split holds


def test_scoring_other_images_trains_nothing(unseen: Path) -> None:
    def networks(root: Path) -> set[str]:
        return {path.name for kind in ("classifiers", "purifiers", "retrained") for path in (root / "artifacts" / kind).rglob("*.safetensors")}

    assert networks(unseen) == networks(tiny_sweep().root) and len(networks(unseen)) >= 6


@pytest.mark.parametrize("command", ["rank", "status", "compare", "pareto", "check", "plan"])
def test_a_title_says_that_it_is_about_validation_images(command: str, unseen: Path) -> None:
    words = (tiny_sweep().space, "--epsilons", "0.1", *SIZES, "--split", "validation") if command == "plan" else ("tiny",)
    assert "validation images" in invoke(command, *words, "--results", unseen).stdout.splitlines()[0]
    if command == "plan":
        assert "validation images" not in invoke(command, *words, "--split", "test", "--results", unseen).stdout


def test_a_plan_by_its_hash_shows_the_other_images(seen: Path) -> None:
    plans = {row["images"]: row["plan"] for row in rows_of(invoke("status", "--results", seen, "--format", "json"))}
    assert set(plans) == {"test", "validation"}
    for command in ("rank", "compare", "pareto", "check", "status"):
        assert "validation images" in invoke(command, "tiny", "--results", seen).stdout.splitlines()[0]  # it was run last
        assert "validation images" not in invoke(command, "tiny", "--results", seen, "--plan", plans["test"]).stdout.splitlines()[0]


def test_a_report_of_validation_images_says_so(unseen: Path) -> None:
    material = material_of(Results(unseen), "tiny")
    assert "20 validation images" in statement(material) and ("validation images", "20") in facts(material, "results")
    assert "no figure here is one of the test images" in " ".join(warnings(material, systems_of(material)))


def test_the_best_of_the_validation_images_is_scored_on_the_test_images_alone(selected: tuple[Path, dict[str, Any]]) -> None:
    root, row = selected
    best = rank(Results(root), "tiny").rows[0]
    (test,) = rank(Results(root), "tiny/selected").rows
    assert (row["label"], row["validation_robust_score"]) == (best["label"], best["robust_score"])
    assert (row["test_robust_score"], row["test_ci_low"], row["test_ci_high"]) == tuple(test[name] for name in ("robust_score", "ci_low", "ci_high"))
    assert row["difference"] == pytest.approx(best["robust_score"] - test["robust_score"])
    assert (row["chosen_from"], row["seeds"], row["other_variants"], row["seen_on_test"]) == (3, [0], 2, [])
    scores = Results(root).read("scores", ["trial_id", "sample_set"]).to_pylist()
    assert {score["trial_id"] for score in scores if score["sample_set"].startswith("test")} == set(best["trial_ids"])


def test_its_test_figures_are_those_of_a_run_on_the_test_images(selected: tuple[Path, dict[str, Any]]) -> None:
    root, row = selected
    usual = {one["label"]: one for one in rank(Results(tiny_sweep().root), "tiny").rows}
    assert usual[row["label"]]["robust_score"] == row["test_robust_score"]
    assert usual[row["label"]]["psnr"] == rank(Results(root), "tiny/selected").rows[0]["psnr"] != rank(Results(root), "tiny").rows[0]["psnr"]


def test_selecting_again_scores_nothing_and_says_the_same(selected: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, row = selected
    monkeypatch.setattr("sweeper.sweep.perform_trial", lambda *args: pytest.fail("a trial was run"))
    assert rows_of(select(root, "--format", "json")) == [row]
    printed = select(root)
    assert "0 trials to run, 1 stored already" in printed.stderr
    assert "the optimism observed in this one choice" in printed.stdout and "chosen" in printed.stdout
    assert "No other variant of tiny was scored on the test images under this root before." in printed.stdout
    assert "validation images" in invoke("rank", "tiny", "--results", root).stdout.splitlines()[0]  # not displaced


def test_the_check_of_selection_passes_for_validation_and_for_the_one_chosen(selected: tuple[Path, dict[str, Any]]) -> None:
    for sweep, rows in (("tiny", 3), ("tiny/selected", 1)):
        found = rows_of(invoke("check", sweep, "--all", "--results", selected[0], "--format", "json"))
        assert [one["outcome"] for one in found if one["check"] == "C34"] == ["pass"] * rows


def test_test_images_that_were_looked_at_before_are_not_called_unseen(seen: Path, tmp_path: Path) -> None:
    shutil.copytree(seen, tmp_path / "copy")
    printed = select(tmp_path / "copy")
    assert printed.exit_code == 0, printed.stderr
    assert "The test images had been looked at before: 2 of the 2 other variants of tiny" in printed.stdout
    found = rows_of(invoke("check", "tiny/selected", "--all", "--results", tmp_path / "copy", "--format", "json"))
    (selection,) = (one for one in found if one["check"] == "C34")
    assert selection["outcome"] == "warn" and "2 of 2 other variants" in selection["message"]


def test_the_users_own_files_are_found_under_the_root(selected: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = tmp_path / "tiny.py"
    settings = {"num_epochs": 1, "retraining/num_epochs": 1, "target/training/num_epochs": 1, "model": str(tiny_sweep().model), "width": 2}
    space.write_text(f"def variants():\n    return [{settings!r}]\n")
    root = tmp_path / "results"
    shutil.copytree(selected[0] / "artifacts", root / "artifacts")
    Results(root, create=True)
    words = ("--inline", "--results", root)
    done = invoke("run", space, *words, "--epsilons", "0.1", *SIZES, "--split", "validation")
    assert done.exit_code == 0, done.stderr
    monkeypatch.setattr(lookup, "_sources", {})
    lookup._load_source.cache_clear()
    assert invoke("select", "tiny", *words).exit_code == 0
    again = invoke("select", "tiny", *words)
    assert again.exit_code == 0 and "0 trials to run" in again.stderr


def test_a_sweep_that_the_code_has_outgrown_is_not_selected_from(unseen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.keys.SCORING_VERSION", 999)
    refused = select(unseen)
    assert refused.exit_code == 2 and "the code has changed since tiny was run" in refused.stderr


def test_a_sweep_without_validation_figures_is_refused() -> None:
    refused = select(tiny_sweep().root)
    assert refused.exit_code == 2
    assert "is scored on validation images; `run` it with --split validation first" in refused.stderr.replace("\n", " ")


def test_a_quick_look_at_the_validation_images_chooses_nothing(tmp_path: Path) -> None:
    results = on_validation(tmp_path, evaluation="quick")
    with pytest.raises(ValueError, match="the quick evaluation prunes a search and never ranks"):
        choose(results, "sound")


# By tables written out by hand


def on_validation(path: Path, evaluation: str = "standard") -> Results:
    """Return the sound sweep as one that was scored on validation images."""
    results = sound(path)
    planned = [row | {"evaluation": evaluation} for row in plan_of(results)]
    results.quarantine(results.folder.part_name("sweeps", "sweep"))
    results.publish("sweeps", "changed", planned)
    row = {"evaluation_id": "e", "name": evaluation, "dataset": "digits", "split": "validation", "fingerprint": "f", "config": "{}"}
    results.publish("evaluations", "evaluation", [row])
    return results


def test_tables_that_say_nothing_of_a_split_are_of_the_test_images(tmp_path: Path) -> None:
    results = sound(tmp_path)
    assert split_of(results, plan_of(results)) == "test"
    assert outcome_of(results, "C34") == ("not_applicable", "the plan's variants were listed before any was scored")


def test_figures_of_validation_images_may_be_chosen_by(tmp_path: Path) -> None:
    results = on_validation(tmp_path)
    assert outcome_of(results, "C34")[0] == "pass"
    assert f"on these {N} validation images" in "\n".join(rank(results, "sound").notes)
    with pytest.raises(ValueError, match="no plan of 'sound' under .* is scored on test images"):
        latest_plan(results, "sound", split="test")


def test_a_variant_that_fails_a_validity_check_is_not_chosen(tmp_path: Path) -> None:
    results = on_validation(tmp_path)
    assert choose(results, "sound").row["label"] == "quantized"
    trial_id = next(row["trial_id"] for row in plan_of(results) if row["label"] == "quantized")
    failure = {"trial_id": trial_id, "evaluation_id": "e", "check": "C20", "kind": "validity", "outcome": "fail", "message": "no gradient",
               "level": "standard", "probes_version": 1}  # fmt: skip
    results.publish("checks", "probe", [failure])
    assert choose(Results(tmp_path), "sound").row["label"] == "plain"


def test_a_seed_without_a_validation_figure_is_named_and_not_scored(tmp_path: Path) -> None:
    results = on_validation(tmp_path)
    missing = next(row for row in plan_of(results) if (row["label"], row["seed"]) == ("quantized", 1))
    results.quarantine(results.folder.part_name("trials", missing["trial_id"]))
    choice = choose(Results(tmp_path), "sound")
    assert (choice.row["label"], [row["seed"] for row in choice.planned], choice.absent, choice.num_ranked) == ("quantized", [0, 2], [1], 5)


def test_a_sweep_without_a_ranked_variant_chooses_none(tmp_path: Path) -> None:
    results = on_validation(tmp_path)
    for path in (tmp_path / "parts" / "trials").rglob("*.parquet"):
        results.quarantine(path)
    with pytest.raises(ValueError, match="no variant of sound on digits .* is ranked, so there is none to choose"):
        choose(Results(tmp_path), "sound")


def test_only_what_was_scored_on_test_images_before_counts_as_seen(tmp_path: Path) -> None:
    results = on_validation(tmp_path)
    first = {row["label"]: row for row in reversed(plan_of(results))}
    attempt = {"attempt": 1, "status": "completed", "ended": STARTED}
    for label, evaluation_id in (("plain", "test"), ("blur", "e"), ("quantized", "test")):  # `e` is of validation images
        results.publish("attempts", label, [attempt | {"trial_id": first[label]["trial_id"], "evaluation_id": evaluation_id}])
    chosen = [first["quantized"]]
    assert others_on_test(results, "sound", "digits", chosen) == (["plain"], 4)
    assert others_on_test(results, "sound", "digits", chosen, before=STARTED + timedelta(seconds=1)) == (["plain"], 4)
    assert others_on_test(results, "sound", "digits", chosen, before=STARTED) == ([], 4)
    assert others_on_test(results, "sound", "fashion_mnist", chosen) == ([], 0)


def test_a_plan_counts_the_images_of_its_own_split(splits: Splits, tmp_path: Path) -> None:
    for split, images in (("validation", 100), ("test", 200)):
        _, notes = describe(a_plan(splits, split=split, settings={"validation_images": 100, "test_images": 200}), tmp_path, slots=1)
        assert sum(f"({images} images)" in note for note in notes) == 1
