"""Differences per seed, t, Holm, McNemar and the Pareto set by hand, from tables written by hand."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from report_tables import Root, TrialRows

from sweeper.comparison import Comparison, compare_checkpoints, compare_settings
from sweeper.paired import paired_over_seeds
from sweeper.pareto import pareto
from sweeper.ranking import rank
from sweeper.results import Results

N = 120
IDS = [f"photo-{i}" for i in range(N)]


class Photos(Root):
    """A root whose target is right on all 120 images."""

    def _score(self, threat: str, attack: str, epsilon: float, source: str, classifier: str, outcomes: str) -> dict[str, Any]:
        return super()._score(threat, attack, epsilon, source, classifier, "1" * N if classifier == "unfiltered" else outcomes)


def bits(right: int, *, last: bool = False) -> str:
    """Return outcomes of 120 images of which the first (or the last) are right."""
    return "0" * (N - right) + "1" * right if last else "1" * right + "0" * (N - right)


def trial(clean: int, graybox: int = N, never_broken: int = 60, transfer: Mapping[str, str] | None = None) -> TrialRows:
    """Return a trial of 120 images; those not never broken by the adaptive attack are wrong unperturbed."""
    attacked = {("graybox", "pgd", 0.1, "wide_resnet"): bits(graybox)}
    attacked |= {("transfer", "pgd", 0.1, source): outcomes for source, outcomes in (transfer or {}).items()}
    broken_at = [math.inf] * never_broken + [0.0] * (N - never_broken)
    return TrialRows(bits(clean), bits(clean), attacked, broken_at)


def finished(root: Root, ids: list[str] = IDS) -> Results:
    results = root.finish()
    sets = {"sample_set": f"test-{N}", "dataset": "digits", "split": "test", "n": N, "sample_ids": ids, "labels": [0] * N}
    results.publish("sample_sets", f"test-{N}", [sets])
    return results


@pytest.fixture
def three_seeds(tmp_path: Path) -> Results:
    """Return robust scores: reference 0.5, 0.5, 0.5; better +0.1, +0.2, +0.3; worse -0.3, -0.3, -0.275; same 0; late with one seed."""
    root = Photos(tmp_path, sweep="mine")
    root.variant("reference", {seed: trial(100) for seed in range(3)})
    root.variant("better", {seed: trial(96, never_broken=60 + 12 * (seed + 1)) for seed in range(3)})
    root.variant("worse", {seed: trial(108, never_broken=24 if seed < 2 else 27) for seed in range(3)})
    root.variant("same", {seed: trial(100) for seed in range(3)})
    root.variant("late", {0: trial(90), 1: None, 2: None})
    root.failed("late", 1, "loss is nan")
    return finished(root)


def by_label(comparison: Comparison) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in comparison.rows}


def t2(t: float) -> float:
    """Return the two-sided p of Student's t with 2 degrees of freedom, which has a closed form."""
    return 1 - t / math.sqrt(2 + t * t)


# Settings


def test_a_sweep_without_a_reference_says_so(tmp_path: Path) -> None:
    root = Photos(tmp_path, sweep="mine")
    root.variant("one", {0: trial(100)})
    root.variant("two", {0: trial(96)})
    root.planned = [row | {"is_reference": False} for row in root.planned]
    results = finished(root)
    with pytest.raises(ValueError, match="mine has no reference to compare with; --against names a variant: one; two"):
        compare_settings(results, "mine")


def test_differences_over_three_seeds_have_t_and_holm_worked_out_by_hand(three_seeds: Results) -> None:
    rows = by_label(compare_settings(three_seeds, "mine"))
    better = rows["better"]
    assert (better["seeds"], better["differences"]) == ([0, 1, 2], pytest.approx([0.1, 0.2, 0.3]))
    assert (better["value"], better["value_against"], better["difference"]) == (pytest.approx(0.7), pytest.approx(0.5), pytest.approx(0.2))
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t of 97.5 % with 2 degrees of freedom
    assert (better["ci_low"], better["ci_high"]) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert better["p_value"] == pytest.approx(t2(2 * math.sqrt(3)))  # 0.2 / (0.1 / sqrt 3)
    worse = rows["worse"]
    mean, std = -0.875 / 3, 0.025 / math.sqrt(3)  # of -0.3, -0.3, -0.275
    assert (worse["difference"], worse["std"]) == (pytest.approx(mean), pytest.approx(std))
    assert worse["p_value"] == pytest.approx(t2(-mean / std * math.sqrt(3)))
    # four rows are the family: the least p times 4, the next times 3, then 1
    assert worse["p_holm"] == pytest.approx(4 * worse["p_value"])
    assert better["p_holm"] == pytest.approx(3 * better["p_value"])
    assert (worse["verdict"], better["verdict"]) == ("lower", "not distinguishable")
    assert (rows["same"]["p_value"], rows["same"]["p_holm"]) == (1, 1)


def test_rows_stand_by_their_difference_and_the_reference_is_none_of_them(three_seeds: Results) -> None:
    assert [row["label"] for row in compare_settings(three_seeds, "mine").rows] == ["better", "late", "same", "worse"]


def test_a_variant_with_one_seed_is_not_tested_but_counts_in_the_family(three_seeds: Results) -> None:
    comparison = compare_settings(three_seeds, "mine")
    late = by_label(comparison)["late"]
    assert (late["seeds"], late["verdict"], late["p_value"], late["p_holm"], late["ci_low"]) == ([0], "not tested", None, None, None)
    assert "Without a value: late, seed 1 (failed); late, seed 2 (missing)." in comparison.notes[0]
    assert any("Holm over the 4 rows" in note for note in comparison.notes)
    assert not any("Not to be believed" in note for note in comparison.notes)


def test_the_declared_family_is_what_is_asked_for(three_seeds: Results) -> None:
    comparison = compare_settings(three_seeds, "mine", ["worse"])
    (row,) = comparison.rows
    assert row["p_holm"] == row["p_value"]
    assert any("Holm over the 1 row of this table" in note for note in comparison.notes)


def test_variants_can_be_compared_with_another_one_by_another_quantity(three_seeds: Results) -> None:
    comparison = compare_settings(three_seeds, "mine", ["reference", "same"], against="worse", by="clean")
    assert {row["label"]: row["difference"] for row in comparison.rows} == {"reference": pytest.approx(-8 / 120), "same": pytest.approx(-8 / 120)}
    assert comparison.notes[-1].startswith("The seeds agree exactly")
    (row,) = compare_settings(three_seeds, "mine", ["better"], by="graybox/pgd@0.1").rows
    assert (row["value"], row["difference"]) == (1, 0)


def test_one_seed_is_a_sentence_and_no_test(tmp_path: Path) -> None:
    root = Photos(tmp_path, sweep="mine")
    root.variant("reference", {0: trial(100)})
    root.variant("better", {0: trial(100, never_broken=120)})
    comparison = compare_settings(finished(root), "mine")
    (row,) = comparison.rows
    assert (row["difference"], row["p_value"], row["verdict"]) == (pytest.approx(0.5), None, "not tested")
    assert len(comparison.notes) == 1 and comparison.notes[0].startswith("One seed: nothing is tested")
    assert comparison.shown()[0]["difference in points"] == "+50.0"


def test_seeds_are_paired_by_their_number(tmp_path: Path) -> None:
    root = Photos(tmp_path, sweep="mine")
    root.variant("reference", {0: None, 1: trial(12), 2: trial(24), 3: trial(36)})
    root.variant("other", {3: trial(48), 2: trial(36), 1: trial(36), 0: trial(120)})
    (row,) = compare_settings(finished(root), "mine", by="clean").rows
    assert (row["seeds"], row["differences"]) == ([1, 2, 3], pytest.approx([0.2, 0.1, 0.1]))
    assert row["value"] == pytest.approx(0.4 * 5 / 6)  # of the paired seeds: 120 / 360


@pytest.mark.parametrize(
    ("labels", "more", "sentence"),
    [
        (["bettr"], {}, r"no variant 'bettr' in mine \(did you mean 'better'\?\); there are: "),
        (["reference"], {}, "got 'reference' on both sides"),
        ([], {"against": "nothing"}, "no variant 'nothing'"),
        ([], {"by": "psnr"}, "cannot compare by 'psnr'"),
        ([], {"by": "graybox/pgd@0.7"}, "no scores for 'graybox/pgd@0.7'"),
    ],
)
def test_what_cannot_be_compared_is_refused(labels: list[str], more: dict[str, str], sentence: str, three_seeds: Results) -> None:
    with pytest.raises(ValueError, match=sentence):
        compare_settings(three_seeds, "mine", labels, **more)


def test_the_quick_evaluation_compares_nothing(tmp_path: Path) -> None:
    root = Photos(tmp_path, sweep="mine", evaluation="quick")
    root.variant("reference", {0: trial(100)})
    with pytest.raises(ValueError, match="the quick evaluation prunes a search and compares nothing"):
        compare_settings(finished(root), "mine")


def test_variants_that_fail_a_validity_check_are_named(tmp_path: Path) -> None:
    root = Root(tmp_path, sweep="mine")  # the target is scored on 8 images, the variants on 120
    root.variant("reference", {seed: trial(100) for seed in range(3)})
    root.variant("other", {seed: trial(100 - seed) for seed in range(3)})
    notes = compare_settings(finished(root), "mine", by="clean").notes
    assert notes[0] == "Not to be believed, since a validity check fails (`rank` says which): reference; other."


def test_no_seed_in_common_has_no_difference() -> None:
    paired = paired_over_seeds({"a": {0: 0.5}}, {1: 0.5})["a"]
    assert (paired.differences, paired.estimate, paired.verdict) == ({}, None, "not tested")


def test_a_ranking_names_what_is_not_distinguishable_from_its_first_row(three_seeds: Results) -> None:
    note = next(note for note in rank(three_seeds, "mine").notes if "Not distinguishable" in note)
    # better (0.7) leads worse by 0.4, 0.5, 0.575: t = 9.7 and p = 0.0105, times 4 is 0.042; the reference and same by 0.1, 0.2, 0.3
    assert "Holm over the 4 comparisons): reference; same. Not tested, with fewer than two seeds in common: late." in note


# Checkpoints


def ids_of(results: Results, *labels: str) -> list[str]:
    rows = results.read("sweeps").to_pylist()
    return [next(row["trial_id"] for row in rows if row["label"] == label and row["seed"] == 0) for label in labels]


def test_two_checkpoints_by_mcnemar_worked_out_by_hand(tmp_path: Path) -> None:
    root = Photos(tmp_path, sweep="mine")
    root.variant("reference", {0: trial(100)})
    root.variant("other", {0: TrialRows("0" + "1" * 107 + "0" * 12, bits(0), {}, [math.inf] * 120)})
    results = finished(root)
    comparison = compare_checkpoints(results, "mine", ids_of(results, "reference", "other"), by="clean")
    (row,) = comparison.rows
    assert (row["n"], row["only_first"], row["only_second"]) == (120, 1, 8)  # photo 0; photos 100 to 107
    assert row["p_value"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert (row["value"], row["value_against"], row["difference"]) == (pytest.approx(107 / 120), pytest.approx(100 / 120), pytest.approx(7 / 120))
    assert comparison.notes[0].startswith("A statement about these two checkpoints on 120 images only")
    assert "verdict" not in row


def test_two_checkpoints_by_default_meet_the_adaptive_worst_case(three_seeds: Results) -> None:
    (row,) = compare_checkpoints(three_seeds, "mine", [name[:12] for name in ids_of(three_seeds, "reference", "better")]).rows
    assert (row["by"], row["only_first"], row["only_second"]) == ("adaptive@0.1", 0, 12)  # 60 and 72 are never broken
    assert row["p_value"] == pytest.approx(2 / 2**12)


def test_an_image_is_right_if_it_survives_every_source(tmp_path: Path) -> None:
    root = Photos(tmp_path, sweep="mine")
    root.variant("reference", {0: trial(100, transfer={"a": bits(60), "b": bits(70, last=True)})})  # both: photos 50 to 59
    root.variant("other", {0: trial(100, transfer={"a": bits(60), "b": bits(60)})})
    results = finished(root)
    (row,) = compare_checkpoints(results, "mine", ids_of(results, "reference", "other"), by="transfer/pgd@0.1").rows
    assert (row["value_against"], row["value"]) == (pytest.approx(10 / 120), 0.5)


def with_shifted_ids(path: Path, shift: int) -> tuple[Results, list[str]]:
    """Return two trials of 120 and 121 images, of which the second's ids begin `shift` later."""
    root = Photos(path, sweep="mine")
    root.variant("reference", {0: trial(100)})
    longer = TrialRows("1" * 121, "1" * 121, {}, [math.inf] * 121)
    root.variant("other", {0: longer})
    results = finished(root)
    ids = [f"photo-{i + shift}" for i in range(121)]
    sets = {"sample_set": "test-121", "dataset": "digits", "split": "test", "n": 121, "sample_ids": ids, "labels": [0] * 121}
    results.publish("sample_sets", "test-121", [sets])
    return results, ids_of(results, "reference", "other")


def test_attacks_on_different_images_count_where_they_meet(tmp_path: Path) -> None:
    root = Photos(tmp_path, sweep="mine")
    for label in ("reference", "other"):
        root.variant(label, {0: trial(100, transfer={"a": bits(60), "b": "1" * 121})})
    results = finished(root)
    sets = {"sample_set": "test-121", "dataset": "digits", "split": "test", "n": 121, "labels": [0] * 121}
    results.publish("sample_sets", "test-121", [sets | {"sample_ids": [f"photo-{i + 10}" for i in range(121)]}])
    (row,) = compare_checkpoints(results, "mine", ids_of(results, "reference", "other"), by="transfer/pgd@0.1").rows
    assert (row["n"], row["value"]) == (110, pytest.approx(50 / 110))  # photos 10 to 119, of which 10 to 59 survive both


def test_checkpoints_are_compared_on_the_images_that_both_have(tmp_path: Path) -> None:
    results, names = with_shifted_ids(tmp_path, 20)
    (row,) = compare_checkpoints(results, "mine", names, by="clean").rows
    assert (row["n"], row["only_second"], row["value_against"]) == (100, 20, 0.8)  # photos 20 to 119, of which 100 to 119 were wrong


def test_fewer_than_a_hundred_common_images_are_refused(tmp_path: Path) -> None:
    results, names = with_shifted_ids(tmp_path, 21)
    with pytest.raises(ValueError, match=r"at least 100 images that both trials were scored on, got 99 \(of 120 and 121\)"):
        compare_checkpoints(results, "mine", names, by="clean")


def test_checkpoints_that_cannot_be_compared_are_refused(three_seeds: Results) -> None:
    reference, better, late = ids_of(three_seeds, "reference", "better", "late")
    missing = next(row["trial_id"] for row in three_seeds.read("sweeps").to_pylist() if (row["label"], row["seed"]) == ("late", 1))
    for names, by, sentence in (
        ([reference], None, "compares two trials, got 1"),
        ([reference, reference], None, "got .* twice"),
        ([reference, ""], None, "trials of mine begin with ''"),
        ([reference, missing], None, r"\(late\) is failed; both must be completed"),
        ([reference, better], "robust_score", "robust_score is an area"),
        ([reference, late], "graybox/fgsm@0.1", "no scores for 'graybox/fgsm@0.1' .*graybox/pgd@0.1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            compare_checkpoints(three_seeds, "mine", names, by=by)


# Pareto


def ranked(label: str, robust: float | None, clean: float | None, place: int | None = 1) -> dict[str, Any]:
    return {"label": label, "variant_id": label, "rank": place, "robust_score": robust, "clean": clean, "seeds": 3, "planned_seeds": 3}


def test_pareto_set_of_five_points_by_hand() -> None:
    rows = pareto([ranked("a", 0.1, 0.99), ranked("b", 0.5, 0.9), ranked("c", 0.5, 0.8), ranked("d", 0.4, 0.85), ranked("e", 0.8, 0.7)])
    assert [(row["label"], row["dominated_by"]) for row in rows] == [("e", []), ("b", []), ("a", []), ("c", ["b"]), ("d", ["b"])]


def test_equal_variants_leave_each_other_in_the_pareto_set() -> None:
    assert [row["dominated_by"] for row in pareto([ranked("a", 0.5, 0.9), ranked("b", 0.5, 0.9)])] == [[], []]


def test_variants_without_both_figures_or_unranked_dominate_nothing() -> None:
    rows = pareto([ranked("a", 0.5, 0.9), ranked("b", None, 0.95), ranked("c", 0.6, None), ranked("d", 0.99, 0.99, None)])
    assert [(row["label"], row["dominated_by"]) for row in rows] == [("a", [])]
