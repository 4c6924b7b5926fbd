"""Refining: the best of a sweep again with more seeds, on the images that it was chosen on; only the winner meets the test images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked_tables import STARTED, plan_of, set_correct, sound
from test_ranking import a_plan, complete
from tiny_sweep import SIZES, Result, invoke, tiny_sweep

from sweeper.datasets import Splits
from sweeper.escalation import pending
from sweeper.estimate import describe
from sweeper.ranking import rank
from sweeper.refinement import luck, refine_plan, shortlist
from sweeper.replanning import stored_plan
from sweeper.results import Results
from sweeper.scales import evaluation
from sweeper.selection import choose
from sweeper.stored_plans import latest_plan, origins, others_on_test
from sweeper.sweep import record_plan
from sweeper.ways import under_name

ATTACKS: list[dict[str, Any]] = [
    {"attack": "torchattacks:MIFGSM", "options": {"steps": 5}, "threats": ["graybox", "transfer"], "images": 100},
    {"attack": "pgd", "threats": ["adaptive", "adaptive_soft"], "options": {"num_steps": 40, "num_restarts": 3}},
    {"attack": "autoattack", "threats": ["adaptive"]},
    {"attack": "cw_l2", "threats": ["adaptive"]},
]


def refine(root: Path, *more: object) -> Result:
    return invoke("refine", tiny_sweep().space, "--inline", "--results", root, "--seeds", 2, "--evaluation", "standard", *more)


def said(result: Result) -> str:
    return " ".join((result.stdout + result.stderr).split())


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with one seed of three variants, scored on the validation images alone."""
    root = tmp_path_factory.mktemp("unseen") / "results"
    Results(root, create=True)
    shutil.copytree(tiny_sweep().root / "artifacts", root / "artifacts")
    done = invoke("run", tiny_sweep().space, "--inline", "--results", root, "--epsilons", "0.1", *SIZES, "--split", "validation")
    assert done.exit_code == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def refined(unseen: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a copy of it after `refine --top 2`, and what that said as JSON."""
    root = tmp_path_factory.mktemp("refined") / "results"
    shutil.copytree(unseen, root)
    done = refine(root, "--top", 2, "--format", "json")
    assert done.exit_code == 0, done.stderr
    return root, json.loads(done.stdout)


def planned(root: Path) -> tuple[Results, list[dict[str, Any]]]:
    results = Results(root)
    return results, latest_plan(results, "tiny", split="validation")


def a_label(rows: list[dict[str, Any]]) -> str:
    return next(row["label"] for row in rows if "identity" in row["label"])


# The plan


def test_stored_seeds_are_the_same_trials_and_the_others_are_new(unseen: Path) -> None:
    results, rows = planned(unseen)
    label = a_label(rows)
    plan = refine_plan(results, rows, [label], seeds=3, evaluation="standard")
    mine = [trial for trial in plan.trials if trial.label == label]
    (stored,) = (row for row in rows if row["label"] == label)
    assert plan.sweep == "tiny/refined" and [trial.config.seed for trial in mine] == [0, 1, 2]
    assert mine[0].key == (stored["trial_id"], stored["evaluation_id"])  # nothing of it is made again
    assert len({trial.trial_id for trial in mine}) == 3
    assert {(trial.variant_id, trial.evaluation_id) for trial in mine} == {(stored["variant_id"], stored["evaluation_id"])}


def test_a_variant_may_be_named_by_its_id(unseen: Path) -> None:
    results, rows = planned(unseen)
    by_label, by_id = (refine_plan(results, rows, [rows[1][name]], seeds=2, evaluation="standard") for name in ("label", "variant_id"))
    assert by_label == by_id


def test_the_reference_is_added_once_and_is_no_candidate(unseen: Path) -> None:
    results, rows = planned(unseen)
    plan = refine_plan(results, rows, [a_label(rows)], seeds=2, evaluation="standard")
    marks = [(trial.label, trial.is_reference, trial.is_candidate) for trial in plan.trials]
    assert marks == [(a_label(rows), False, True)] * 2 + [("reference", True, False)] * 2


def test_a_reference_among_the_best_is_a_candidate_like_them(unseen: Path) -> None:
    results, rows = planned(unseen)
    with_it = refine_plan(results, rows, ["reference", a_label(rows)], seeds=2, evaluation="standard")
    beside_it = refine_plan(results, rows, [a_label(rows)], seeds=2, evaluation="standard")
    assert [(trial.label, trial.is_reference, trial.is_candidate) for trial in with_it.trials[:2]] == [("reference", True, True)] * 2
    assert {trial.key for trial in with_it.trials} == {trial.key for trial in beside_it.trials}
    assert with_it.plan_hash != beside_it.plan_hash  # the tables can tell which of the two a winner was chosen by


def test_a_full_evaluation_keeps_images_grid_and_score_epsilon_and_says_what_differs(unseen: Path) -> None:
    results, rows = planned(unseen)
    plan = refine_plan(results, rows, ["reference"], seeds=2, evaluation="full")
    assert (plan.evaluation.name, plan.evaluation.split, plan.evaluation.score_epsilon) == ("full", "validation", 0.1)
    assert {cell.epsilons for cell in plan.evaluation.cells if cell.threat in ("graybox", "transfer")} == {(0.1,)}  # as --epsilons said
    (note,) = plan.notes
    assert note.startswith("scored by full in place of standard, on validation images as before. The same: data set, scale, score_epsilon 0.1")
    assert "10 adaptive attacks" in note and "on all images in place of 2 adaptive attacks (pgd) on at most 240 images" in note


@pytest.mark.parametrize("ways", [{}, {"victim": "retrained", "mix": "full"}, {"attack_preset": "cleverhans"}, {"num_eot_samples": 5}], ids=str)
@pytest.mark.parametrize("extra", [[], ATTACKS], ids=["plain", "further attacks"])
@pytest.mark.parametrize("grid", [None, (0.02, 0.1)], ids=["usual grid", "own grid"])
def test_the_ways_of_a_standard_evaluation_are_read_back_from_its_cells(ways: dict[str, Any], extra: list[Any], grid: tuple[float, ...]) -> None:
    stored = evaluation("standard", "digits", "small", extra, grid, split="validation", **ways)
    assert under_name(stored, "full", "digits", "small") == evaluation("full", "digits", "small", extra, grid, split="validation", **ways)


def test_a_quick_evaluation_becomes_the_standard_one_of_the_scale() -> None:
    stored = evaluation("quick", "digits", "small", ATTACKS[1:2], split="validation", num_eot_samples=5)
    expected = evaluation("standard", "digits", "small", ATTACKS[1:2], split="validation", num_eot_samples=5)
    assert under_name(stored, "standard", "digits", "small") == expected


def test_variants_that_differed_in_what_full_does_anyway_become_one(splits: Splits, tmp_path: Path) -> None:
    results = Results(tmp_path, create=True)
    plan = a_plan(splits, variants=[{}, {"mix": "full"}], split="validation")
    record_plan(plan, splits, results)
    (config,) = {trial.config.model_dump_json() for trial in plan.trials}
    names = {"trial_id": plan.trials[0].trial_id, "variant_id": plan.trials[0].variant_id, "defense": "vqunet", "dataset": "digits"}
    results.publish("trials", plan.trials[0].trial_id, [names | {"seed": 0, "target_seed": 0, "config": config}])
    rows = [row | {"parts": [f"trials/{row['trial_id']}"]} for row in plan_of(results)]
    made = refine_plan(results, rows, ["mix=full"], seeds=2, evaluation="full")
    assert [(trial.label, trial.config.seed, trial.is_reference, trial.is_candidate) for trial in made.trials] == [
        ("mix=full", 0, True, True),
        ("mix=full", 1, True, True),
    ]
    assert "reference is now scored as mix=full is, and is run once" in made.notes


def test_the_best_are_the_first_ranked_rows(unseen: Path) -> None:
    results, _ = planned(unseen)
    for by in ("robust_score", "clean"):
        best = [row["label"] for row in rank(results, "tiny", by=by).rows]
        assert shortlist(results, "tiny", top=2, by=by).labels == best[:2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": 1}, "seeds must be at least 2, got 1: refine tells luck from merit by seeds"),
        ({"evaluation": "quick"}, "evaluation must be standard or full, got quick, which never ranks"),
        ({"evaluation": "ful"}, r"no evaluation named 'ful' \(did you mean 'full'\?\); available: quick, standard, full"),
        ({"labels": ["referenc"]}, r"no variant 'referenc' in tiny \(did you mean 'reference'\?\); there are: .*reference"),
        ({"labels": []}, "refine needs at least one variant, got none"),
    ],
)  # fmt: skip
def test_what_cannot_be_refined_is_refused(unseen: Path, changed: dict[str, Any], message: str) -> None:
    results, rows = planned(unseen)
    asked: dict[str, Any] = {"labels": ["reference"], "seeds": 2, "evaluation": "standard"} | changed
    with pytest.raises(ValueError, match=message):
        refine_plan(results, rows, asked.pop("labels"), **asked)


def test_figures_of_test_images_are_not_refined() -> None:
    results = Results(tiny_sweep().root)
    with pytest.raises(ValueError, match=r"refine is for figures of validation images, got those of test images in tiny on digits"):
        refine_plan(results, latest_plan(results, "tiny"), ["reference"], seeds=2, evaluation="standard")


def test_a_weaker_evaluation_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation must be no weaker than full, by which the trials were scored, got standard"):
        under_name(evaluation("full", "digits", "small"), "standard", "digits", "small")


# The command


def test_two_seeds_are_ranked_and_the_winner_has_the_test_figure_of_its_own_sweep(refined: tuple[Path, dict[str, Any]]) -> None:
    root, made = refined
    again = rank(Results(root), "tiny/refined")
    assert made["ranking"] == json.loads(json.dumps(again.rows))
    assert {(row["seeds"], row["ci_over"]) for row in made["ranking"]} == {(2, "seeds")}
    (winner,), (test,) = made["selected"], rank(Results(root), "tiny/refined/selected").rows
    best = next(row for row in again.rows if row["is_candidate"])
    assert (winner["label"], winner["seeds"], winner["chosen_from"]) == (best["label"], [0, 1], 2)
    assert (winner["test_robust_score"], winner["test_ci_low"]) == (test["robust_score"], test["ci_low"])
    assert winner["difference"] == pytest.approx(best["robust_score"] - test["robust_score"])


def test_the_winner_alone_meets_the_test_images(refined: tuple[Path, dict[str, Any]]) -> None:
    root, made = refined
    scores = Results(root).read("scores", ["trial_id", "sample_set"]).to_pylist()
    (winner,) = (row for row in made["ranking"] if row["label"] == made["selected"][0]["label"])
    assert {score["trial_id"] for score in scores if score["sample_set"].startswith("test")} == set(winner["trial_ids"])
    assert (made["selected"][0]["seen_on_test"], made["selected"][0]["other_variants"]) == ([], 2)


def test_refining_again_makes_nothing_and_says_the_same(refined: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, made = refined
    monkeypatch.setattr("sweeper.sweep.perform_trial", lambda *args: pytest.fail("a trial was run"))
    assert json.loads(refine(root, "--top", 2, "--format", "json").stdout) == made
    printed = refine(root, "--top", 2)
    titles = [line for line in printed.stdout.splitlines() if line.startswith("tiny/refined on digits (small, standard, validation images)")]
    assert [title.partition(")")[2] for title in titles] == [
        ", by robust_score",
        ": what the figures that the variants were chosen by owe to their seeds, robust_score",
        ": the best by robust_score, and what it is worth on the test images",
    ]
    assert "No other variant of tiny was scored on the test images under this root before." in printed.stdout


def test_the_refined_plan_comes_again_from_the_tables(refined: tuple[Path, dict[str, Any]]) -> None:
    results = Results(refined[0])
    rows = latest_plan(results, "tiny/refined")
    assert stored_plan(results, rows).plan_hash == rows[0]["plan_hash"]


def test_select_chooses_the_same_from_the_refined_sweep(refined: tuple[Path, dict[str, Any]]) -> None:
    root, made = refined
    found = invoke("select", "tiny/refined", "--inline", "--results", root, "--format", "json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout) == made["selected"]
    checks = json.loads(invoke("check", "tiny/refined/selected", "--all", "--results", root, "--format", "json").stdout)
    assert {row["outcome"] for row in checks if row["check"] == "C34"} == {"pass"}


def test_a_dry_run_prints_the_plan_and_runs_nothing(unseen: Path) -> None:
    before = sorted(path for path in unseen.rglob("*") if path.is_file())
    done = refine(unseen, "--top", 1, "--evaluation", "full", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("tiny/refined on digits (small, full, validation images)\n")
    assert "scored by full in place of standard" in said(done) and "then the winner alone is scored on the test images: 2 trials more" in said(done)
    assert sorted(path for path in unseen.rglob("*") if path.is_file()) == before


def test_a_full_evaluation_on_a_cpu_says_first_what_it_costs(unseen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def stop(*_: object, **__: object) -> None:
        raise SystemExit(7)

    monkeypatch.setattr("sweeper.refine_results.run_plan", stop)
    done = refine(unseen, "--evaluation", "full")
    assert done.exit_code == 7
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("full evaluation on a CPU: "))
    assert "6 of 6 trials to run" in line and "min with 1 at once (a rough guess" in line


def test_more_than_are_ranked_means_all_of_them(unseen: Path) -> None:
    done = refine(unseen, "--top", 9, "--dry-run")
    assert done.exit_code == 0 and "3 variants are ranked, fewer than --top 9: all of them are refined" in said(done)


def test_a_sweep_without_validation_figures_cannot_be_refined() -> None:
    done = refine(tiny_sweep().root)
    assert done.exit_code == 2
    assert "is scored on validation images; `run` it with --split validation first (the trials of a search always are)" in said(done)


def test_one_seed_is_refused_by_the_command(unseen: Path) -> None:
    done = refine(unseen, "--seeds", 1)
    assert done.exit_code == 2 and "refine tells luck from merit by seeds" in said(done)


def test_a_full_evaluation_is_not_thought_to_cost_what_standard_does(splits: Splits, tmp_path: Path) -> None:
    standard, full = (
        [row["seconds"] for row in describe(a_plan(splits, evaluation_name=name), tmp_path, slots=1)[0] if row["what"] == "trial"]
        for name in ("standard", "full")
    )
    assert all(more > 10 * less for less, more in zip(standard, full, strict=True))


def test_seconds_of_a_trials_first_scoring_are_not_taken_for_those_of_its_second(unseen: Path, tmp_path: Path) -> None:
    shutil.copytree(unseen, tmp_path / "copy")
    results, rows = planned(tmp_path / "copy")
    plan = refine_plan(results, rows, ["reference"], seeds=2, evaluation="full")
    attempt = {"trial_id": plan.trials[0].trial_id, "evaluation_id": plan.trials[0].evaluation_id, "attempt": 1, "status": "completed"}
    results.publish("attempts", "second-scoring", [attempt | {"started": STARTED}])
    assert "a rough guess" in " ".join(describe(plan, tmp_path / "copy", slots=1)[1])


# By tables written out by hand


Rows = list[dict[str, Any]]


def by_hand(path: Path, *, evaluation_id: str = "e", candidates: tuple[str, ...] = ("quantized", "plain")) -> tuple[Results, Rows, Rows]:
    """Return tables where seed 0 of every variant was scored on validation images, and seeds 0 to 2 of some again; the rows of both plans."""
    results = sound(path)
    rows = plan_of(results)
    results.quarantine(results.folder.part_name("sweeps", "sweep"))
    first = [row for row in rows if row["seed"] == 0]
    again = [
        row | {"sweep": "sound/refined", "plan_hash": "1", "evaluation_id": evaluation_id, "is_candidate": row["label"] in candidates}
        for row in rows
        if row["label"] in (*candidates, "quantized")
    ]
    results.publish("sweeps", "first", first)
    results.publish("sweeps", "again", again)
    run = {"sweep": "sound/refined", "plan_hash": "1", "dataset": "digits", "evaluation_id": evaluation_id, "command": "refine sound",
           "started": STARTED, "host": "here", "trials": len(again)}  # fmt: skip
    results.publish("runs", "again", [run])
    for name in {"e", evaluation_id}:
        one = {"evaluation_id": name, "name": "standard", "dataset": "digits", "split": "validation", "fingerprint": "f", "config": "{}"}
        results.publish("evaluations", f"evaluation-{name}", [one])
    return results, first, again


def test_luck_is_the_first_seed_minus_the_mean_of_the_new_ones(tmp_path: Path) -> None:
    results, first, again = by_hand(tmp_path)
    rows = {row["label"]: row for row in luck(results, first, again).rows}
    # A quarter of (1 + 2 a + b), of what survives at 0.05 and 0.1: 400 and 100 images of 1,000, then 405 and 101, then 410 and 102
    assert rows["quantized"]["chosen_by"] == rows["quantized"]["again"] == pytest.approx(0.475)
    assert rows["quantized"]["new"] == pytest.approx((0.47775 + 0.4805) / 2)
    assert rows["quantized"]["luck"] == pytest.approx(-0.004125)
    assert (rows["quantized"]["chosen_seeds"], rows["quantized"]["new_seeds"]) == ([0], [1, 2])
    assert luck(results, first, again).shown()[0] == {
        "variant": "quantized", "chosen by %": "47.5 (standard)", "same seeds again %": "47.5 (standard)", "new seeds %": "47.9 (standard)",
        "luck": "-0.4", "seeds": "0, then 1 2",
    }  # fmt: skip


def test_what_a_stronger_evaluation_takes_is_not_called_luck(tmp_path: Path) -> None:
    results, first, again = by_hand(tmp_path, evaluation_id="f")
    stored = results.read("scores").to_pylist()
    for trial in {row["trial_id"] for row in stored}:
        rows = [row | {"evaluation_id": "f"} for row in stored if row["trial_id"] == trial]
        for row in rows:
            if row["threat"].startswith("adaptive"):  # nothing survives 0.05: the area is a quarter
                set_correct(row, 0)
                row["broken_at"] = None if row["broken_at"] is None else np.full(row["n"], 0.05, np.float32)
        results.publish("scores", f"f-{trial}", rows)
    row = next(row for row in luck(results, first, again).rows if row["label"] == "quantized")
    assert (row["chosen_by"], row["again"], row["new"], row["luck"]) == pytest.approx((0.475, 0.25, 0.25, 0.0))


def test_no_luck_is_told_without_new_seeds(tmp_path: Path) -> None:
    results, _, again = by_hand(tmp_path)
    found = luck(results, again, again)
    assert [row["luck"] for row in found.rows] == [None, None]
    assert "No luck can be told without new seeds, or without those it was chosen by: quantized; plain." in found.notes


def test_a_reference_that_is_only_compared_with_is_not_chosen_though_it_leads(tmp_path: Path) -> None:
    results, *_ = by_hand(tmp_path, candidates=("plain", "blur"))
    ranking = rank(results, "sound/refined")
    assert [(row["label"], row["rank"]) for row in ranking.rows] == [("quantized", 1), ("plain", 2), ("blur", 3)]
    assert "Only there to be compared with, and not chosen from: quantized." in ranking.notes
    assert ranking.optimism is not None and ranking.optimism.rows == 2
    choice = choose(results, "sound/refined")
    assert (choice.row["label"], choice.num_ranked) == ("plain", 2)


def test_the_best_candidate_is_attacked_again_though_the_reference_leads(splits: Splits, tmp_path: Path) -> None:
    results, plan = Results(tmp_path, create=True), a_plan(splits)
    plan = replace(plan, trials=tuple(replace(trial, is_candidate=not trial.is_reference) for trial in plan.trials))
    record_plan(plan, splits, results)
    for trial, broken_at in zip(plan.trials, (0.3, 0.1, 0.05), strict=True):
        complete(results, plan, trial, [broken_at] * 4)
    assert [row["label"] for row in rank(results, "mine").rows][:2] == ["reference", "beta=0"]
    assert {probe.trial.label for probe in pending(plan, results)} == {"reference", "beta=0"}


def test_variants_of_the_sweep_that_was_refined_count_as_seen_on_test_images(tmp_path: Path) -> None:
    results, first, _ = by_hand(tmp_path)
    undefended = next(row for row in first if row["label"] == "undefended")  # not among the refined
    attempt = {"attempt": 1, "status": "completed", "ended": STARTED, "trial_id": undefended["trial_id"], "evaluation_id": "test"}
    results.publish("attempts", "undefended", [attempt])
    chosen = [row for row in latest_plan(results, "sound/refined") if row["label"] == "quantized"]
    assert others_on_test(results, "sound/refined", "digits", chosen) == (["undefended"], 4)
    assert origins("sound/refined/refined") == ["sound/refined/refined", "sound/refined", "sound"]
