"""Every check catches what it is meant for, by name, and leaves a sound sweep alone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checked_tables import GRID, Row, plan_of, set_correct, sound

from sweeper.checks._result import Result
from sweeper.checks.all import run_checks
from sweeper.checks.catalogue import CHECKS
from sweeper.checks.gate import how_many
from sweeper.checks.strength import path_length
from sweeper.results import Results

VALIDITY = ["C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "C10", "C11", "C12", "C13", "C16", "C17", "C18", "C20", "C21", "C24"]
FROM_TABLES = ["C1", "C6", "C8", "C9", "C11", "C12", "C18"]


def checked(results: Results) -> list[Result]:
    return run_checks(results, plan_of(results))


def failed(found: list[Result], kind: str = "validity") -> set[str]:
    return {one.check for one in found if one.outcome == "fail" and one.kind == kind}


def of(found: list[Result], check: str, label: str, results: Results) -> list[Result]:
    ids = {row["trial_id"] for row in plan_of(results) if row["label"] == label}
    return [one for one in found if one.check == check and one.trial_id in ids]


def is_cell(row: Row, threat: str, attack: str, epsilon: float) -> bool:
    return (row["threat"], row["attack"], row["epsilon"]) == (threat, attack, epsilon)


def test_the_kinds_are_those_that_gate_claim_and_advise() -> None:
    assert [name for name, check in CHECKS.items() if check.kind == "validity"] == VALIDITY
    assert [name for name, check in CHECKS.items() if check.kind == "claim"] == ["C26", "C27", "C29", "C33", "C34"]
    assert list(CHECKS) == [f"C{number}" for number in range(1, 37)]
    assert all(check.title and check.citation for check in CHECKS.values())


def test_a_sound_sweep_fails_nothing(tmp_path: Path) -> None:
    results = sound(tmp_path)
    found = checked(results)
    assert [one for one in found if one.outcome in ("fail", "warn")] == []
    assert {one.check for one in found if one.outcome == "pass" and one.kind == "validity"} == set(FROM_TABLES)
    assert {one.check for one in found if one.outcome == "pass" and one.kind == "claim"} == {"C26", "C27", "C29", "C33"}


def test_every_trial_has_one_result_per_check_and_what_was_not_run_says_why(tmp_path: Path) -> None:
    found = checked(sound(tmp_path))
    assert len(found) == len({(one.key, one.check) for one in found}) == 15 * 36
    assert all(one.message for one in found)
    assert "probe of the trained defense" in next(one.message for one in found if one.check == "C20")


def test_only_what_was_run_is_counted(tmp_path: Path) -> None:
    found = checked(sound(tmp_path))
    assert how_many(found) == f"7 of 18 validity checks run ({', '.join(FROM_TABLES)}); none failed."


def leaves_the_ball(row: Row) -> None:
    if row["label"] == "plain" and is_cell(row, "graybox", "bim", 0.1):
        row["achieved_epsilon"] = 0.11


def is_not_a_number(row: Row) -> None:
    if row["label"] == "plain" and is_cell(row, "graybox", "bim", 0.1):
        row["achieved_epsilon"] = np.nan


def rises(row: Row) -> None:
    if row["label"] == "plain" and is_cell(row, "graybox", "fgsm", 0.1):
        set_correct(row, 960)


def rises_by_one_image_although_carried_over(row: Row) -> None:
    if row["label"] == "plain" and is_cell(row, "adaptive_bpda", "pgd", 0.1):
        set_correct(row, 301 + 3 * row["seed"])


def differentiates_in_vain(row: Row) -> None:
    if row["label"] == "plain" and row["threat"].startswith("adaptive"):
        set_correct(row, 950)


def survives_undefended(row: Row) -> None:
    if row["label"] == "undefended" and row["threat"] == "graybox" and row["attack"] in ("bim", "pgd"):
        set_correct(row, 400)


def uses_other_images(row: Row) -> None:
    if row["label"] == "plain" and row["threat"] == "graybox":
        row["sample_set"] = "other"


def drops_a_failed_batch(row: Row) -> None:
    if row["label"] == "plain" and row["threat"] == "transfer":
        row["n"] = 900
        set_correct(row, 855 if row["epsilon"] == GRID[0] else 810)


def steps_too_short(row: Row) -> None:
    if row["label"] == "plain" and row["threat"] == "adaptive":
        row["attack_settings"] = '{"attack": "pgd", "options": {"num_steps": 10, "step_size": 0.0078, "step_size_rule": "fixed"}}'


def hardly_moves(row: Row) -> None:
    if row["label"] == "plain" and is_cell(row, "adaptive", "pgd", 0.1):
        row["achieved_epsilon"] = 0.078


def one_step_is_stronger(row: Row) -> None:
    if row["label"] == "plain" and (row["threat"], row["attack"]) == ("adaptive", "fgsm"):
        set_correct(row, 10)


DEFECTS: list[tuple[str, str, Callable[[Row], None]]] = [
    ("C1", "plain", leaves_the_ball), ("C1", "plain", is_not_a_number), ("C6", "plain", uses_other_images), ("C6", "plain", drops_a_failed_batch),
    ("C8", "all", survives_undefended), ("C9", "plain", rises), ("C9", "plain", rises_by_one_image_although_carried_over),
    ("C11", "plain", one_step_is_stronger), ("C12", "plain", steps_too_short), ("C12", "plain", hardly_moves),
    ("C18", "plain", differentiates_in_vain),
]  # fmt: skip


@pytest.mark.parametrize(("check", "label", "defect"), DEFECTS, ids=[defect.__name__ for *_, defect in DEFECTS])
def test_one_defect_is_caught_by_its_own_check_and_by_no_other(check: str, label: str, defect: Callable[[Row], None], tmp_path: Path) -> None:
    results = sound(tmp_path, defect)
    found = checked(results)
    assert failed(found) == {check}
    ids = {row["trial_id"] for row in plan_of(results) if label in ("all", row["label"])}
    assert {one.trial_id for one in found if one.outcome == "fail" and one.kind == "validity"} == ids


@pytest.mark.parametrize(("achieved", "outcome"), [(0.1000019, "pass"), (0.1000021, "fail")])
def test_the_ball_is_epsilon_and_one_hundred_thousandth_and_one_millionth(achieved: float, outcome: str, tmp_path: Path) -> None:
    def change(row: Row) -> None:
        if row["epsilon"] == 0.1:
            row["achieved_epsilon"] = achieved

    (one, *_) = of(checked(results := sound(tmp_path, change)), "C1", "blur", results)
    assert (one.outcome, one.value, one.threshold) == (outcome, achieved, pytest.approx(0.1 * 1.00001 + 1e-6, abs=1e-12))


@pytest.mark.parametrize(("half", "rise", "outcome"), [(0.02, 40, "pass"), (0.02, 41, "fail"), (0.001, 5, "pass"), (0.001, 6, "fail")])
def test_a_curve_may_rise_by_two_half_widths_or_half_a_point(half: float, rise: int, outcome: str, tmp_path: Path) -> None:
    def change(row: Row) -> None:
        if row["threat"] == "transfer":
            set_correct(row, 900 + rise * (row["epsilon"] == GRID[1]))
            row |= {"ci_low": row["accuracy"] - half, "ci_high": row["accuracy"] + half}

    (one, *_) = of(checked(results := sound(tmp_path, change)), "C9", "blur", results)
    assert one.outcome == outcome
    if outcome == "fail":
        assert (one.value, one.threshold) == (pytest.approx(rise / 1000), pytest.approx(max(2 * half, 0.005)))


@pytest.mark.parametrize(("correct", "outcome"), [(99, "pass"), (105, "warn"), (130, "fail")])
def test_the_undefended_target_must_fall_below_ten_percent_and_chance_is_a_warning(correct: int, outcome: str, tmp_path: Path) -> None:
    def change(row: Row) -> None:  # Wilson's lower ends of 105 and 130 of 1,000 are 0.088 and 0.111
        if row["label"] == "undefended" and row["threat"] == "graybox":
            set_correct(row, correct)

    results = sound(tmp_path, change)
    assert {(one.outcome, one.value, one.threshold) for one in checked(results) if one.check == "C8"} == {(outcome, correct / 1000, 0.1)}


def test_transfer_images_that_spare_the_undefended_target_are_no_defect(tmp_path: Path) -> None:
    results = sound(tmp_path)  # 95 % under every transfer attack
    assert {one.outcome for one in checked(results) if one.check == "C8"} == {"pass"}


def test_without_an_undefended_target_its_check_is_not_run(tmp_path: Path) -> None:
    results = sound(tmp_path, variants=("tuned", "blur", "plain", "quantized"))
    assert {(one.outcome, "no undefended target" in one.message) for one in checked(results) if one.check == "C8"} == {("not_run", True)}


@pytest.mark.parametrize(("survivors", "outcome"), [(840, "pass"), (842, "fail")])
def test_the_adaptive_attack_may_leave_two_half_widths_more_than_the_others(survivors: int, outcome: str, tmp_path: Path) -> None:
    def change(row: Row) -> None:  # gray-box leaves 80 % at 0.1; all half widths are 0.0205
        if row["label"] == "plain" and row["epsilon"] > 0 and row["threat"] != "transfer":
            set_correct(row, survivors if row["threat"].startswith("adaptive") else 800)
            row |= {"ci_low": row["accuracy"] - 0.0205, "ci_high": row["accuracy"] + 0.0205}

    (one, *_) = of(checked(results := sound(tmp_path, change)), "C18", "plain", results)
    assert (one.outcome, one.value, one.threshold) == (outcome, survivors / 1000, pytest.approx(0.841))


def test_few_images_are_not_judged(tmp_path: Path) -> None:
    found = checked(sound(tmp_path, differentiates_in_vain_on_ten, n=10))
    assert {one.outcome for one in found if one.check == "C18"} == {"not_run"}


def differentiates_in_vain_on_ten(row: Row) -> None:
    if row["threat"].startswith("adaptive"):
        set_correct(row, 10)


def test_paths_are_steps_times_step_size() -> None:
    grid = np.array([0.1, 0.2, 0.3])
    scaled = '{"options": {"num_steps": 10, "step_size": null, "step_size_rule": "scaled"}}'
    assert path_length(scaled, grid) == pytest.approx([0.25, 0.5, 0.5])  # a step is 2.5 epsilon / 10, at most 0.05
    assert path_length('{"options": {"num_steps": 10, "step_size": 0.01, "step_size_rule": "fixed"}}', grid) == pytest.approx([0.1] * 3)
    assert path_length('{"options": {"num_steps": 20, "relative_step_size": 2.5}}', grid) == pytest.approx([0.25, 0.5, 0.75])
    assert np.isnan(path_length('{"options": {}}', grid)).all() and np.isnan(path_length("", grid)).all()


def test_the_scaled_rule_is_that_of_the_attacks() -> None:
    from attacks._linf import StepConfig

    for steps, epsilon in ((10, 0.1), (10, 0.3), (4, 0.9), (40, 0.03)):
        settings = f'{{"options": {{"num_steps": {steps}, "step_size": null, "step_size_rule": "scaled"}}}}'
        assert path_length(settings, np.array([epsilon]))[0] == pytest.approx(steps * StepConfig(num_steps=steps).step_size_at(epsilon))


def test_a_graybox_attack_that_falls_short_is_a_warning_not_a_failure(tmp_path: Path) -> None:
    def change(row: Row) -> None:
        if row["threat"] == "graybox" and row["attack"] == "bim":
            row["attack_settings"] = '{"options": {"num_steps": 10, "step_size": 0.0078, "step_size_rule": "fixed"}}'

    found = checked(results := sound(tmp_path, change))
    (one, *_) = of(found, "C12", "plain", results)
    assert (one.outcome, one.value) == ("warn", pytest.approx(0.78)) and failed(found) == set()


def test_missing_controls_forbid_the_claim_and_no_rank(tmp_path: Path) -> None:
    results = sound(tmp_path, variants=("undefended", "plain", "quantized"))
    found = checked(results)
    assert failed(found) == set() and failed(found, "claim") == {"C27"}
    (one, *_) = of(found, "C27", "quantized", results)
    assert one.message == "controls are missing from this sweep: a filter, the tuned target without purifier"


def test_a_gain_is_tested_over_seeds_against_the_best_control(tmp_path: Path) -> None:
    found = checked(results := sound(tmp_path))
    (one, *_) = of(found, "C27", "quantized", results)  # its twin is the best control; one image survives more or less with the seed
    assert one.outcome == "pass" and "against plain" in one.message and "Holm over 2" in one.message and one.value < 0.05 == one.threshold
    (twin, *_) = of(found, "C27", "plain", results)
    assert "against blur" in twin.message
    assert {one.outcome for one in of(found, "C27", "blur", results)} == {"not_applicable"}


def test_the_twin_without_quantizer_learned_from_the_same_images(tmp_path: Path) -> None:
    results = sound(tmp_path, settings={"plain": {"train_input": "adv"}})
    (one, *_) = of(checked(results), "C27", "quantized", results)
    assert one.outcome == "fail" and one.message == "controls are missing from this sweep: its twin without quantizer"


def test_a_defense_that_loses_to_a_blur_fails_a_claim_only(tmp_path: Path) -> None:
    def change(row: Row) -> None:
        if row["label"] == "blur" and "broken_at" in row:
            row["broken_at"] = np.full(1000, np.inf, np.float32)

    found = checked(results := sound(tmp_path, change))
    assert failed(found) == set() and failed(found, "claim") == {"C27"}
    assert {one.outcome for one in of(found, "C27", "quantized", results)} == {"fail"}


def test_one_seed_tests_nothing_and_carries_no_headline(tmp_path: Path) -> None:
    found = checked(results := sound(tmp_path, seeds=1))
    assert {one.outcome for one in of(found, "C27", "quantized", results)} == {"not_run"}
    assert {(one.outcome, one.value, one.threshold) for one in found if one.check == "C33"} == {("fail", 1, 3)}


def test_a_missing_backward_pass_forbids_the_word_robust(tmp_path: Path) -> None:
    def change(row: Row) -> None:
        if row["threat"] == "adaptive_bpda":
            row["threat"], row["source"] = "adaptive_soft", "defense"

    found = checked(results := sound(tmp_path, change))
    assert failed(found, "claim") == {"C26"}
    assert "adaptive_bpda" in of(found, "C26", "quantized", results)[0].message
    assert {one.outcome for one in of(found, "C26", "tuned", results)} == {"not_applicable"}


@pytest.mark.parametrize(("kept", "outcome"), [(978, "pass"), (972, "warn"), (940, "fail")])
def test_the_whole_interval_of_the_clean_drop_must_lie_below_a_point(kept: int, outcome: str, tmp_path: Path) -> None:
    def change(row: Row) -> None:  # 2, 8 and 40 of 1,000 images lost; Agresti and Min: [-0.2, 0.6], [0.2, 1.5] and [2.8, 5.3] points
        if (row["label"], row["threat"], row["classifier"]) == ("plain", "clean", "retrained"):
            set_correct(row, kept)

    (one, *_) = of(checked(results := sound(tmp_path, change)), "C29", "plain", results)
    assert (one.outcome, one.value) == (outcome, pytest.approx((980 - kept) / 1000))


def test_a_constant_output_and_settings_left_out_are_advice(tmp_path: Path) -> None:
    def change(row: Row) -> None:
        if row["label"] == "plain":
            row["attack_settings"] = None

    results = sound(tmp_path, change)
    trial_id = next(row["trial_id"] for row in plan_of(results) if row["label"] == "blur")
    names = {"trial_id": trial_id, "evaluation_id": "e", "attack": "fgsm", "threat": "graybox", "source": "target", "depth": 0, "epsilon": 0.1}
    results.publish("latents", "more", [names | {"image_l1": 0.3, "image_l1_clean": 0.3, "image_l1_shift": 0.0, "input_l1": 0.1}])
    found = checked(results)
    assert failed(found) == failed(found, "claim") == set()
    assert [(one.outcome, one.value) for one in of(found, "C30", "blur", results)] == [("warn", 0), ("pass", 0.5), ("pass", 0.5)]
    assert {(one.outcome, "attack_settings" in one.message) for one in of(found, "C35", "plain", results)} == {("warn", True)}
    assert {one.outcome for one in of(found, "C12", "plain", results)} == {"pass"}  # what it reached is stored


def test_a_stored_row_counts_where_the_tables_cannot_answer_and_where_it_is_worse(tmp_path: Path) -> None:
    results = sound(tmp_path)
    key = {"trial_id": plan_of(results)[0]["trial_id"], "evaluation_id": "e", "kind": "validity", "level": "standard", "probes_version": 1}
    outcomes = {"C20": "fail", "C1": "fail", "C9": "not_run"}
    rows = [key | {"check": check, "outcome": outcome, "value": 0.4, "threshold": 0.01, "message": "stored"} for check, outcome in outcomes.items()]
    results.publish("checks", "probe", rows)
    found = checked(results)
    assert [one.message for one in found if one.outcome == "fail"] == ["stored", "stored"] and failed(found) == {"C1", "C20"}
    assert not [one for one in found if one.check == "C9" and one.message == "stored"]  # the tables answered, and not worse


def test_of_two_probes_of_one_check_the_newer_and_then_the_fuller_counts(tmp_path: Path) -> None:
    results = sound(tmp_path)
    key = {"trial_id": plan_of(results)[0]["trial_id"], "evaluation_id": "e", "kind": "validity", "check": "C17", "value": 0.0, "threshold": 0.002}
    for level, version, outcome in (("full", 1, "fail"), ("standard", 2, "fail"), ("full", 2, "pass")):
        row = key | {"outcome": outcome, "level": level, "probes_version": version, "message": f"{level} {version}"}
        results.publish("checks", f"{level}-{version}", [row])
    (one,) = [one for one in checked(results) if one.check == "C17" and one.outcome != "not_run"]
    assert one.message == "full 2"


def test_a_stored_probe_is_counted_with_the_trials_it_was_made_of(tmp_path: Path) -> None:
    results = sound(tmp_path)
    row = {"trial_id": plan_of(results)[0]["trial_id"], "evaluation_id": "e", "kind": "validity", "level": "standard", "probes_version": 1,
           "check": "C20", "outcome": "fail", "message": "stored"}  # fmt: skip
    results.publish("checks", "probe", [row])
    found = checked(results)
    assert "C20 on 1 of 15 trials; failed: C20 on 1 of 15 trials." in how_many(found)


def test_a_plan_without_completed_trials_has_no_results(tmp_path: Path) -> None:
    results = sound(tmp_path)
    assert run_checks(results, [row | {"trial_id": "unknown"} for row in plan_of(results)]) == []


def test_checking_imports_neither_torch_nor_ray() -> None:
    code = "import sys, sweeper.check_results, sweeper.checks.all; print(sorted({'torch', 'ray', 'torchattacks'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def has_another_setting_that_is_short(row: Row) -> None:
    if row["label"] == "plain" and row["threat"] == "adaptive_bpda":
        row |= {"attack": "pgd#3f2a1c", "attack_settings": '{"attack": "pgd", "options": {"num_steps": 20, "relative_step_size": 0.2}}'}


def test_an_attack_that_is_run_twice_is_judged_by_its_own_settings(tmp_path: Path) -> None:
    results = sound(tmp_path, has_another_setting_that_is_short)
    assert {one.outcome for one in of(checked(results), "C12", "plain", results)} == {"fail"}
