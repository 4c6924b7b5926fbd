"""A ranking says what the tables say: areas by hand, missing and failed trials by name, one seed as one seed."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from small_sweep import SmallSweep

from sweeper import plan as planning
from sweeper.datasets import Splits
from sweeper.evaluations import EvaluationConfig
from sweeper.inspection import overview, show, trial_states
from sweeper.keys import PROBES_VERSION, attack_label, health_part, part_key, scores_part
from sweeper.plan import Plan, PlannedTrial
from sweeper.ranking import AUTOATTACK_PARTS, CELL, Ranking, rank
from sweeper.results import Results
from sweeper.statistics import wilson
from sweeper.sweep import record_plan
from sweeper.worker import Job, record_failure

VARIANTS: list[dict[str, Any]] = [{}, {"beta": 0.0}, {"model": "identity", "retrain": "none"}]
IMAGES = 4
SURVIVES = math.inf


def a_plan(splits: Splits, name: str = "mine", variants: Sequence[Mapping[str, Any]] = VARIANTS, **more: Any) -> Plan:
    space = cast(ModuleType, SimpleNamespace(variants=lambda: list(variants)))
    return planning.from_space(name, space, fingerprint=splits.fingerprint, **more)


def score_rows(trial: PlannedTrial, evaluation: EvaluationConfig, threat: str, attack: str, curves: dict[float, list[bool]],
               classifier: str, broken_at: list[float] | None = None) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    for epsilon, outcomes in curves.items():
        low, high = wilson(sum(outcomes), len(outcomes))
        rows.append({"trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id, "attack": attack, "epsilon": epsilon, "threat": threat,
                     "source": "none", "classifier": classifier, "sample_set": "test-4", "n": len(outcomes), "correct": sum(outcomes),
                     "accuracy": sum(outcomes) / len(outcomes), "ci_low": low, "ci_high": high, "outcomes": outcomes,
                     "broken_at": broken_at if epsilon == max(curves) else None})  # fmt: skip
    return rows


def complete(results: Results, plan: Plan, trial: PlannedTrial, broken_at: list[float], graybox: float = 0.5, clean: int = IMAGES) -> None:
    """Store a trial whose images break at these epsilons under the adaptive attack."""
    evaluation, final = plan.evaluation, "original" if trial.config.retrain == "none" else "retrained"
    for cell in evaluation.cells:
        if cell.threat == "clean":
            outcomes = [i < clean for i in range(IMAGES)]
            rows = score_rows(trial, evaluation, "clean", "none", {0.0: outcomes}, final)
            rows += score_rows(trial, evaluation, "clean", "none", {0.0: [True] * IMAGES}, "unfiltered")
        elif cell.threat == "adaptive":
            curves = {epsilon: (np.array(broken_at, np.float32) > np.float32(epsilon)).tolist() for epsilon in cell.epsilons}
            rows = score_rows(trial, evaluation, "adaptive", "pgd", curves, final, broken_at)
        else:
            correct = IMAGES if cell.attack == "fgsm" else round(graybox * IMAGES)
            curves = {epsilon: [i < correct for i in range(IMAGES)] for epsilon in cell.epsilons}
            rows = score_rows(trial, evaluation, cell.threat, cell.attack, curves, final)
        results.publish("scores", scores_part(trial.trial_id, trial.evaluation_id, cell, attack_label(cell, evaluation)), rows)
    clean_row = {
        "trial_id": trial.trial_id,
        "evaluation_id": trial.evaluation_id,
        "attack": "none",
        "epsilon": 0.0,
        "threat": "clean",
        "source": "none",
    }
    latents = [clean_row | {"depth": depth, "perplexity": 10.0 * depth, "usage": 0.5} for depth in (1, 2)]
    results.publish("latents", part_key("latents", trial.trial_id, trial.evaluation_id), latents)
    strip = {"threat": "graybox", "attack": "pgd", "position": 0, "sample_id": "a", "label": 0, "predicted_clean": 0, "predicted_adversarial": 1}
    images = dict.fromkeys(("clean", "adversarial", "purified_clean", "purified"), b"png")
    names = {"trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id, "epsilon": 0.1}
    results.publish("strips", part_key("strips", trial.trial_id, trial.evaluation_id), [names | strip | images])
    named = {"trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id}
    probed = {"kind": "validity", "outcome": "pass", "message": "as it should be", "level": "standard", "probes_version": PROBES_VERSION}
    results.publish("checks", health_part(trial.trial_id, trial.evaluation_id), [{**named, "check": "C20", **probed}])
    if any(part.startswith("epochs/") for part in trial.parts):
        results.publish("epochs", part_key("epochs", trial.trial_id), [{"trial_id": trial.trial_id, "stage": "retrain", "epoch": 1}])
    row = {"trial_id": trial.trial_id, "variant_id": trial.variant_id, "defense": trial.config.model, "dataset": plan.dataset, "config": "{}",
           "seed": trial.config.seed, "target_seed": 0, "psnr": 20.0 + trial.config.seed, "train_seconds": 2.0, "score_seconds": 3.0}  # fmt: skip
    results.publish("trials", trial.trial_id, [row])


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path, create=True)


@pytest.fixture
def ranked(results: Results, splits: Splits) -> tuple[Results, Plan]:
    """Return one seed of three variants; their areas below 0.1 are worked out by hand in the first test."""
    plan = a_plan(splits)
    record_plan(plan, splits, results)
    reference, second, undefended = plan.trials
    complete(results, plan, reference, [0.0, 0.05, 0.3, SURVIVES], graybox=0.75, clean=3)
    complete(results, plan, second, [0.3, 0.3, SURVIVES, SURVIVES], graybox=0.25)
    complete(results, plan, undefended, [0.0125] * 4, graybox=0.0)
    return results, plan


def by_label(ranking: Ranking) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in ranking.rows}


def test_robust_score_is_the_area_worked_out_by_hand(ranked: tuple[Results, Plan]) -> None:
    ranking = rank(ranked[0], "mine")
    assert [(row["rank"], row["label"]) for row in ranking.rows] == [(1, "beta=0"), (2, "reference"), (3, "model=identity, retrain=none")]
    scores = {label: row["robust_score"] for label, row in by_label(ranking).items()}
    assert scores["beta=0"] == pytest.approx(1)  # nothing breaks up to 0.1
    # accuracy 3/4 up to 0.0375, then a line down to 2/4 at 0.05, and 2/4 to 0.1
    assert scores["reference"] == pytest.approx((0.0375 * 0.75 + 0.0125 * 0.625 + 0.05 * 0.5) / 0.1)
    assert scores["model=identity, retrain=none"] == pytest.approx(0.0125 * 0.5 / 0.1)  # one triangle
    for row in ranking.rows:
        assert row["ci_over"] == "images"
        assert 0 <= row["ci_low"] <= row["robust_score"] <= row["ci_high"] <= 1 or row["robust_score"] == 1


def test_robust_score_of_a_real_sweep_is_the_area_under_its_outcome_lists(sweep: SmallSweep) -> None:
    results = Results(sweep.root)
    rows = results.read("scores", where={"threat": ["adaptive", "adaptive_soft"]}).to_pylist()
    for ranked in rank(results, "small").rows:
        mine = [row for row in rows if row["trial_id"] == ranked["trial_ids"][0]]
        by_epsilon: dict[float, list[list[bool]]] = {}
        for row in mine:
            by_epsilon.setdefault(row["epsilon"], []).append(row["outcomes"])
        assert {len(lists) for lists in by_epsilon.values()} == {2}
        curve = {epsilon: float(np.all(lists, axis=0).mean()) for epsilon, lists in by_epsilon.items()}
        broken_at = next(row["broken_at"] for row in mine if row["broken_at"] is not None)
        grid = [0.0, *sorted(epsilon for epsilon in curve if epsilon <= 0.1)]
        heights = [float(np.mean(np.array(broken_at) > 0)), *(curve[epsilon] for epsilon in grid[1:])]
        assert ranked["robust_score"] == pytest.approx(sum(np.diff(grid) * (np.array(heights[1:]) + heights[:-1]) / 2) / 0.1)
        assert ranked["adaptive@0.1"] == curve[0.1]


def test_other_figures_stand_beside_the_score(ranked: tuple[Results, Plan]) -> None:
    row = by_label(rank(ranked[0], "mine"))["reference"]
    assert (row["clean"], row["clean_undefended"], row["clean_drop"]) == (0.75, 1, 0.25)
    assert (row["graybox@0.1"], row["transfer@0.1"], row["adaptive@0.1"]) == (0.75, 0.75, 0.5)  # the lowest of each threat's attacks
    assert (row["perplexity"], row["usage"]) == ([10, 20], [0.5, 0.5])
    assert (row["psnr"], row["seconds"], row["seeds"], row["status"]) == (20, 5, 1, "completed")
    assert len(rank(ranked[0], "mine").shown()) == 3


@pytest.mark.parametrize(
    ("by", "first"), [("clean", "beta=0"), ("graybox/pgd@0.1", "reference"), ("adaptive/pgd@0.1", "beta=0"), ("transfer/cw@2/10", "reference")]
)
def test_a_ranking_can_be_by_another_quantity_or_one_cell(by: str, first: str, ranked: tuple[Results, Plan]) -> None:
    ranking = rank(ranked[0], "mine", by=by)
    values = [row[by] for row in ranking.rows]
    assert values == sorted(values, reverse=True)
    assert first in [row["label"] for row in ranking.rows if row[by] == values[0]]
    assert all(row["ci_low"] <= row[by] <= row["ci_high"] for row in ranking.rows)


@pytest.mark.parametrize(
    ("by", "sentence"),
    [
        ("robust_scor", r"cannot rank by 'robust_scor' \(did you mean 'robust_score'\?\)"),
        ("graybox/pgd@0.15", r"no scores for 'graybox/pgd@0.15'; threats and attacks there are: .*graybox/pgd.*epsilons: 0, .*0.1"),
        ("graybox/pgd@1/0", r"an epsilon is a number or a fraction such as 8/255, got '1/0'"),
    ],
)
def test_an_unknown_quantity_is_refused_with_those_there_are(by: str, sentence: str, ranked: tuple[Results, Plan]) -> None:
    with pytest.raises(ValueError, match=sentence):
        rank(ranked[0], "mine", by=by)


def test_one_seed_is_said_to_be_one_seed(ranked: tuple[Results, Plan]) -> None:
    assert any(note.startswith("One seed: nothing is tested between settings") for note in rank(ranked[0], "mine").notes)


def test_two_seeds_give_an_interval_over_seeds(results: Results, splits: Splits) -> None:
    plan = a_plan(splits, seeds=2)
    record_plan(plan, splits, results)
    for trial in plan.trials:  # seed 0: half survive; seed 1: all do
        complete(results, plan, trial, [0.0, 0.0, SURVIVES, SURVIVES] if trial.config.seed == 0 else [SURVIVES] * 4)
    ranking = rank(results, "mine")
    for row in ranking.rows:
        assert (row["seeds"], row["ci_over"], row["robust_score"]) == (2, "seeds", pytest.approx(0.75))
        assert row["std"] == pytest.approx(0.5 / math.sqrt(2))
        half = 12.7062047 * 0.25  # t at 97.5 % with one degree of freedom, times the standard error
        assert (row["ci_low"], row["ci_high"]) == (pytest.approx(0.75 - half), pytest.approx(0.75 + half))
        assert row["psnr"] == 20.5
    assert not any("One seed" in note for note in ranking.notes)
    assert any("1 degrees of freedom" in note and "beta=0" in note for note in ranking.notes)  # rows that cannot be told apart


def test_missing_and_failed_trials_are_named_and_stand_last(results: Results, splits: Splits) -> None:
    plan = a_plan(splits, seeds=2)
    record_plan(plan, splits, results)
    seeds = {(trial.label, trial.config.seed): trial for trial in plan.trials}
    complete(results, plan, seeds["reference", 0], [SURVIVES] * 4)
    complete(results, plan, seeds["beta=0", 0], [0.05] * 4)
    job = Job(plan.sweep, results.store, None)
    record_failure(job, seeds["beta=0", 1], "nan", "loss is nan (learning_rate 0.01)", datetime.now(UTC))
    ranking = rank(results, "mine")
    rows = by_label(ranking)
    assert [row["label"] for row in ranking.rows] == ["reference", "beta=0", "model=identity, retrain=none"]
    assert [row["rank"] for row in ranking.rows] == [1, 2, None]
    assert (rows["beta=0"]["status"], rows["beta=0"]["seeds"], rows["beta=0"]["planned_seeds"]) == ("1 completed, 1 failed", 1, 2)
    assert rows["reference"]["status"] == "1 completed, 1 missing"
    assert rows["model=identity, retrain=none"]["status"] == "2 missing"
    notes = "\n".join(ranking.notes)
    assert "beta=0: failed: loss is nan (learning_rate 0.01)" in notes
    for missing in (seeds["reference", 1], seeds["model=identity, retrain=none", 0], seeds["model=identity, retrain=none", 1]):
        assert missing.trial_id[:8] in notes
    assert len(ranking.shown()) == 3
    words = [row["status"] for row in trial_states(results, "mine")]
    assert words == ["failed", "missing", "missing", "missing", "completed", "completed"]
    assert {name: overview(results)[0][name] for name in ("completed", "failed", "missing", "trials")} == {
        "completed": 2, "failed": 1, "missing": 3, "trials": 6
    }  # fmt: skip


def test_a_sweep_that_has_not_begun_ranks_as_missing(results: Results, splits: Splits) -> None:
    plan = a_plan(splits)
    record_plan(plan, splits, results)
    ranking = rank(results, "mine")
    assert [(row["rank"], row["status"]) for row in ranking.rows] == [(None, "missing")] * 3
    assert len(ranking.shown()) == 3


def test_a_part_that_is_damaged_inside_makes_its_trial_missing(ranked: tuple[Results, Plan]) -> None:
    results, plan = ranked
    trial = plan.trials[1]
    path = results.store.local_path(results.folder.part_name("trials", trial.trial_id))
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)  # the pages; the footer stays whole
    path.write_bytes(content)
    ranking = rank(Results(results.root), "mine")
    assert by_label(ranking)["beta=0"]["status"] == "missing"
    assert by_label(ranking)["reference"]["rank"] == 1


def test_the_quick_evaluation_never_ranks(results: Results, splits: Splits) -> None:
    record_plan(a_plan(splits, evaluation_name="quick"), splits, results)
    with pytest.raises(ValueError, match="the quick evaluation prunes a search and never ranks; run with --evaluation standard"):
        rank(results, "mine")


def test_an_unknown_sweep_lists_those_there_are(ranked: tuple[Results, Plan]) -> None:
    with pytest.raises(ValueError, match=r"no sweep 'min' under .* \(did you mean 'mine'\?\); there are: mine on digits"):
        rank(ranked[0], "min")
    with pytest.raises(ValueError, match=r"no sweep 'mine on cifar10'"):
        rank(ranked[0], "mine", dataset="cifar10")


def test_the_plan_run_last_is_ranked_unless_another_is_named(ranked: tuple[Results, Plan], splits: Splits) -> None:
    results, first = ranked
    second = a_plan(splits, variants=[{}, {"beta": 0.25}])
    record_plan(second, splits, results)
    assert {row["label"] for row in rank(results, "mine").rows} == {"reference", "beta=0.25"}
    assert by_label(rank(results, "mine"))["reference"]["rank"] == 1  # a trial serves both plans
    assert len(rank(results, "mine", plan_hash=first.plan_hash[:12]).rows) == 3


def test_show_finds_a_trial_by_the_beginning_of_its_id(sweep: SmallSweep) -> None:
    results = Results(sweep.root)
    trial_id = sweep.plan.trials[0].trial_id
    assert show(results, trial_id[:10]) == show(results, trial_id)
    assert trial_id in str(show(results, trial_id))
    with pytest.raises(ValueError, match="no trials? begin.* with 'zzz'"):
        show(results, "zzz")
    with pytest.raises(ValueError, match="3 trials begin"):
        show(results, "")


def test_an_attack_of_the_users_own_is_a_cells_attack_although_its_name_has_an_at_sign() -> None:
    cell = CELL.fullmatch("graybox/file:rfgsm@0123456789abcdef@8/255")
    assert cell is not None
    assert cell.groups() == ("graybox", "file:rfgsm@0123456789abcdef", "8/255")


def test_autoattack_is_the_union_of_its_four_parts_image_by_image(ranked: tuple[Results, Plan]) -> None:
    results, plan = ranked
    images = np.arange(IMAGES)
    for trial in plan.trials:
        final = "original" if trial.config.retrain == "none" else "retrained"
        for place, attack in enumerate(AUTOATTACK_PARTS):  # each breaks another fifth
            curve = {0.1: (images % 5 != place).tolist()}
            results.publish(
                "scores", part_key("scores", "aa", trial.trial_id, attack), score_rows(trial, trial.evaluation, "adaptive", attack, curve, final)
            )
    ranking = rank(Results(results.root), "mine", by="adaptive/autoattack@0.1")
    assert {row["adaptive/autoattack@0.1"] for row in ranking.rows} == {float((images % 5 == 4).mean())}
    with pytest.raises(ValueError, match="no scores for 'adaptive/autoattack@0.05'"):
        rank(Results(results.root), "mine", by="adaptive/autoattack@0.05")
