"""Every number of a report against a table worked out by hand; the tables are those of `report_tables.py`."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from report_tables import GRID, IDS, LABELS, TARGET_HALF, UNET, VAE, VQUNET, Root, TrialRows, attacked, epochs, paper_root, png
from scipy.stats import binomtest, ttest_1samp

from sweeper.report.assemble import build
from sweeper.report.claims import _same_checkpoints, claims
from sweeper.report.content import Claim, Claims, Figure, Report, Series, Strips, Table
from sweeper.report.naming import JPEG_FINGERPRINTS, dataset_name, epsilon_name, systems_of
from sweeper.report.page import render
from sweeper.report.rows import load
from sweeper.report.strips import difference
from sweeper.report.trials import SampleSet, Score, Trial
from sweeper.report.values import Value, of_images
from sweeper.report.verdicts import by_interval, by_seeds
from sweeper.results import Results
from sweeper.statistics import holm, mcnemar, mixed_halves, paired_over_images, paper_mix, t_test

T1 = 12.706204736  # quantile 0.975 of Student's t with one degree of freedom, tan(0.475 pi)
SMALL_HALF = 100 * T1 * 0.125 / 2  # of an interval over two seeds that are 0.125 apart: std 0.125 / sqrt 2, over sqrt 2


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build(paper_root(tmp_path_factory.mktemp("report") / "results").finish(), "paper")


def item(report: Report, name: str) -> object:
    return next(item for item in report.items() if item.name == name)


def figure(report: Report, name: str) -> Figure:
    found = item(report, name)
    assert isinstance(found, Figure)
    return found


def curve(figure: Figure, panel: str, name: str) -> Series:
    axes = next(axes for axes in figure.panels if axes.title.startswith(panel))
    return next(series for series in axes.series if series.name == name)


def row(report: Report, table: str, system: str) -> dict[str, object]:
    found = item(report, table)
    assert isinstance(found, Table)
    return dict(next(row for row in found.rows if row["system"] == system))


def claim(report: Report, words: str, name: str = "claims") -> Claim:
    found = item(report, name)
    assert isinstance(found, Claims)
    return next(claim for claim in found.claims if words in claim.claim)


# Halves and mixtures


def test_halves_are_those_of_the_ids_hashes_in_each_class() -> None:
    assert set(np.flatnonzero(mixed_halves(IDS, LABELS))) == TARGET_HALF


def test_halves_do_not_depend_on_the_order_of_the_images() -> None:
    order = [6, 1, 5, 0, 7, 3, 2, 4]
    halves = mixed_halves([IDS[i] for i in order], [LABELS[i] for i in order])
    assert {order[i] for i in np.flatnonzero(halves)} == TARGET_HALF


def test_halves_of_odd_classes_are_a_half_of_all_images() -> None:
    halves = mixed_halves([str(i) for i in range(9)], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert halves.sum() == 4
    assert [int(halves[i : i + 3].sum()) for i in (0, 3, 6)] == [2, 1, 1]  # 9 // 2 = 4: one more for the lowest class only


def test_repeated_ids_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="1 unique"):
        mixed_halves(["a", "a"], [0, 1])


def test_split_mixture_takes_each_image_from_its_half() -> None:
    halves = [i in TARGET_HALF for i in range(8)]
    mixed = paper_mix([c == "1" for c in "11110110"], [[c == "1" for c in "11111111"]], halves)
    assert mixed.tolist() == [1, 1, 1, 1, 1, 1, 1, 0]  # only image 7, attacked on the target, is lost


def test_full_mixture_is_half_the_target_and_half_the_mean_over_sources() -> None:
    mixed = paper_mix([True, False], [[True, True], [False, True], [False, False]])
    assert mixed == pytest.approx([1 / 2 + 1 / 6, 0 + 1 / 3])


def test_mcnemar_is_the_binomial_test_of_the_discordant_images() -> None:
    first, second = [True] * 9 + [False] * 3, [False] * 7 + [True] * 3 + [False] * 2
    assert mcnemar(first, second)[:2] == (7, 1)
    assert mcnemar(first, second)[2] == pytest.approx(binomtest(1, 8, 0.5).pvalue)
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)


def test_t_test_over_seeds_is_scipys() -> None:
    values = [0.1, 0.25, -0.05]
    assert t_test(values) == pytest.approx(float(ttest_1samp(values, 0).pvalue))  # type: ignore[attr-defined]
    assert t_test([0.2, 0.2]) == 1.0  # no spread to test against
    with pytest.raises(ValueError, match="at least two"):
        t_test([0.3])


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_interval_of_a_paired_difference_is_agresti_and_mins() -> None:
    estimate = paired_over_images([True] * 8, [True] * 7 + [False])
    assert estimate.mean == -0.125
    # half an image in each cell: gained 0.5, lost 1.5, n 10; middle -0.1; variance (2 / 10 - 0.01) / 10 = 0.019
    assert (estimate.low, estimate.high) == pytest.approx((-0.1 - 1.959964 * 0.019**0.5, -0.1 + 1.959964 * 0.019**0.5), abs=1e-6)


# Table 1


def test_table_1_of_the_recipes_is_the_hand_computed_one(report: Report) -> None:
    found = row(report, "table1_recipes", "VQUNet (own recipe)")
    # after: 8/8 and 7/8; before: 7/8 in both; the original target on filtered images: 4/8 and 5/8
    assert (found["before"], found["after"], found["change"], found["unretrained"]) == pytest.approx((0.875, 0.9375, 0.0625, 0.5625))
    assert (found["after_low"], found["after_high"]) == pytest.approx((0.9375 - SMALL_HALF / 100, 0.9375 + SMALL_HALF / 100))
    assert (found["change_low"], found["change_high"]) == pytest.approx((0.0625 - SMALL_HALF / 100, 0.0625 + SMALL_HALF / 100))
    # Wilson for 7 of 8, since no seed changes the target
    assert (found["before_low"], found["before_high"]) == pytest.approx((0.52911, 0.97760), abs=1e-4)
    # adaptive at 0.1: 2/8 and 0/8; areas from 0 to 0.1: (1 + 2 x 0.5 + 0.25) / 4 = 0.5625 and (1 + 2 x 0.5 + 0) / 4 = 0.5
    assert (found["adaptive"], found["robust_score"]) == pytest.approx((0.125, 0.53125))
    # pooled: images 0, 1, 5 of the target's half and all four others, 7/8; images 0, 1 and the four others, 6/8
    assert (found["mixed"], found["graybox"], found["transfer"]) == pytest.approx((0.8125, 0.625, 0.9375))
    assert (found["seeds"], found["images"], found["interval"]) == (2, 8, "seeds")
    assert found["paper_after"] is None  # the paper has no figures for digits


def test_membership_in_the_fairness_tables_follows_the_settings(report: Report) -> None:
    names = {name: [row["system"] for row in table.rows] for name in ("table1", "table1_recipes", "table1_axes", "table1_controls")
             if isinstance(table := item(report, name), Table)}  # fmt: skip
    assert names == {
        "table1": ["VQUNet", "Defense-VAE"],
        "table1_recipes": ["VQUNet (own recipe)", "non-VQUNet (own recipe)", "Defense-VAE (own recipe)"],
        "table1_axes": ["passes=2"],
        "table1_controls": ["no defense"],
    }


def test_one_seed_has_its_interval_over_images(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine")
    root.variant("reference", {0: VQUNET[1]})
    found = row(build(root.finish(), "mine"), "table1", "reference")
    assert found["interval"] == "images"
    assert (found["after"], found["after_low"], found["after_high"]) == pytest.approx((0.875, 0.52911, 0.97760), abs=1e-4)  # Wilson, 7 of 8
    assert (found["change"], found["change_low"]) == pytest.approx((0.0, -1.959964 * 0.3**0.5 / 10**0.5), abs=1e-6)  # one gained, one lost


def test_papers_figures_stand_beside_its_own_data_sets_only(tmp_path: Path) -> None:
    found = build(paper_root(tmp_path / "results", "fashion_mnist").finish(), "paper")
    assert row(found, "table1_recipes", "VQUNet (own recipe)")["paper_after"] == 0.9339
    assert row(found, "table1_recipes", "Defense-VAE (own recipe)")["paper_change"] == pytest.approx(-0.0148)
    assert row(found, "table1_recipes", "non-VQUNet (own recipe)")["paper_after"] is None


# Figure 2


def test_figure_2_pools_the_halves_and_starts_at_the_clean_accuracy(report: Report) -> None:
    found = curve(figure(report, "figure2_recipes"), "FGSM", "VQUNet (own recipe)")
    assert found.x == (0.0, 0.1, 0.2)
    # at 0.2 both seeds keep images 0 and 1 of the target's half, 2 and 3 of the other
    assert found.y == pytest.approx((93.75, 81.25, 50.0))
    assert found.low[1] == pytest.approx(81.25 - SMALL_HALF)
    assert (found.low[2], found.high[2]) == pytest.approx((21.522, 78.478), abs=1e-2)  # seeds agree: Wilson, 4 of 8
    assert found.points == ((100.0, 87.5, 50.0), (87.5, 75.0, 50.0))


def test_figure_2_has_the_undefended_target_and_the_adaptive_attacker(report: Report) -> None:
    found = figure(report, "figure2_recipes")
    # images 0 of the target's half, 2 and 3 of the other: 3/8; at 0.2 images 2, 3, 4 of the other: 3/8
    assert curve(found, "FGSM", "no defense").y == pytest.approx((87.5, 37.5, 37.5))
    adaptive = curve(found, "FGSM", "VQUNet (own recipe), adaptive attacker (8 images)")
    assert adaptive.stress
    assert adaptive.x == (0.0, *GRID)
    assert adaptive.y == pytest.approx((100.0, 50.0, 12.5))


def test_halves_stand_apart(report: Report) -> None:
    assert curve(figure(report, "graybox_recipes"), "FGSM", "VQUNet (own recipe)").y == pytest.approx((93.75, 62.5, 25.0))
    assert curve(figure(report, "transfer_recipes"), "FGSM", "VQUNet (own recipe)").y == pytest.approx((93.75, 93.75, 50.0))
    assert curve(figure(report, "adaptive_recipes"), "all adaptive attacks", "Defense-VAE (own recipe)").y == pytest.approx((100.0, 0.0, 0.0))


def a_trial(scores: list[Score], sets: dict[str, SampleSet]) -> Trial:
    return Trial("a", 0, {"retrain": "finetune"}, tuple(scores), (), (), sets)


def a_score(threat: str, epsilon: float, source: str, sample_set: str, outcomes: str) -> Score:
    attack = "none" if threat == "clean" else "cw"
    return Score(threat, attack, epsilon, source, "retrained", sample_set, np.array([c == "1" for c in outcomes]), None)


def test_halves_of_a_subset_are_drawn_within_it() -> None:
    sets = {"test-8": SampleSet(tuple(IDS), tuple(LABELS)), "test-4": SampleSet(("image-0", "image-1", "image-4", "image-5"), (0, 0, 1, 1))}
    scores = [a_score("clean", 0.0, "none", "test-8", "10111100"), a_score("graybox", 0.1, "wide_resnet", "test-4", "1010"),
              a_score("transfer", 0.1, "densenetx3", "test-4", "0111")]  # fmt: skip
    trial = a_trial(scores, sets)
    mixed, clean = trial.mixed("cw", 0.1), trial.mixed("cw", 0.0)
    assert mixed is not None and clean is not None
    # on the target: image 1 (0cf4 before 3dd3) and image 5 (32d8 before cd96), so 0 and 0; by transfer: image 0, 0, and image 4, 1
    assert mixed.tolist() == [0, 0, 1, 0]
    assert clean.tolist() == [1, 0, 1, 1]  # the clean outcomes of images 0, 1, 4, 5


def test_sources_that_each_craft_every_image_are_averaged() -> None:
    sets = {"test-4": SampleSet(("a", "b", "c", "d"), (0, 0, 1, 1))}
    scores = [a_score("graybox", 0.1, "wide_resnet", "test-4", "1100"), a_score("transfer", 0.1, "densenet#1", "test-4", "1010"),
              a_score("transfer", 0.1, "densenet#2", "test-4", "1011")]  # fmt: skip
    trial = a_trial(scores, sets)
    mixed, transfer = trial.mixed("cw", 0.1), trial.static("transfer", "cw", 0.1)
    assert mixed is not None and transfer is not None
    assert mixed.tolist() == [1.0, 0.5, 0.5, 0.25]  # half of 1, 1, 0, 0 and half of 1, 0, 1, 0.5
    assert transfer.mean() == pytest.approx(2.5 / 4)


def test_curves_of_another_data_set_join_figure_2(tmp_path: Path) -> None:
    paper_root(tmp_path / "results", "fashion_mnist").finish()
    found = build(paper_root(tmp_path / "results", "digits").finish(), "paper", "digits")
    assert [panel.title for panel in figure(found, "figure2_recipes").panels] == ["digits, FGSM (8 images)", "Fashion-MNIST, FGSM (8 images)"]
    assert isinstance(item(found, "table1_recipes_fashion_mnist"), Table)
    assert isinstance(item(found, "claims_fashion_mnist"), Claims)
    assert item(found, "table1_recipes").statement == ""  # the report's, which is about digits
    for name in ("table1_recipes_fashion_mnist", "claims_fashion_mnist"):
        assert item(found, name).statement.startswith("Fashion-MNIST, scale small, 8 test images")
    both = figure(found, "figure2_recipes").statement
    assert "digits, scale small" in both and "Fashion-MNIST, scale small" in both


def test_what_is_missing_on_another_data_set_is_a_warning_with_its_name(tmp_path: Path) -> None:
    other = paper_root(tmp_path / "results", "fashion_mnist")
    other.variant("depth=1", {0: None, 1: None}, factor="depth", level="1")
    other.finish()
    found = build(paper_root(tmp_path / "results", "digits").finish(), "paper", "digits")
    assert any(warning.startswith("Fashion-MNIST: ") and "depth=1" in warning for warning in found.warnings)


def test_gray_box_images_of_a_retrained_victim_are_named_in_the_caption(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine")
    root.variant("reference", VQUNET)
    cells = {(threat, attack, epsilon, "retrained" if threat == "graybox" else source): outcomes
             for (threat, attack, epsilon, source), outcomes in VAE[0].attacked.items()}  # fmt: skip
    root.variant("victim=retrained", {0: dataclasses.replace(VAE[0], attacked=cells)}, factor="victim", level="retrained")
    found = build(root.finish(), "mine")
    for name in ("figure2", "graybox"):
        assert "Gray-box images of victim=retrained are crafted on its own retrained classifier" in figure(found, name).caption


def test_a_quantizer_of_none_is_compared_as_non_vqunet(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine")
    root.variant("reference", VQUNET)
    root.variant("quantizer=none", UNET, factor="quantizer", level="none", model="unet")
    found = figure(build(root.finish(), "mine"), "figure3")
    assert len(found.panels[0].series) == 2


# Figures 3 to 6, codebooks, training, images


def test_figure_3_shows_distance_excess_and_shift(report: Report) -> None:
    found = figure(report, "figure3")
    assert curve(found, "original and reconstruction", "VQUNet (own recipe)").y == pytest.approx((0.05, 0.06, 0.08))
    assert curve(found, "excess over epsilon 0", "VQUNet (own recipe)").y == pytest.approx((0.0, 0.01, 0.03))
    assert curve(found, "excess over epsilon 0", "non-VQUNet (own recipe)").y == pytest.approx((0.0, 0.03, 0.0605))  # 0.1 and 0.101, less 0.04
    assert curve(found, "shift of the output", "perturbation |x - x'|").y == pytest.approx((0.0, 0.1, 0.2))


def test_figure_4_shows_raw_relative_and_in_standard_deviations(report: Report) -> None:
    found = figure(report, "figure4")
    assert found.columns == 2
    # raw at d = 1: seeds 0.4 and 0.5, then 0.6 twice; the standard deviation is 2
    assert curve(found, "d = 1, raw", "VQUNet (own recipe)").y == pytest.approx((0.0, 0.45, 0.6))
    assert curve(found, "d = 1, relative", "VQUNet (own recipe)").y == pytest.approx((0.0, 0.1, 0.2))
    assert curve(found, "d = 1, in standard deviations", "VQUNet (own recipe)").y == pytest.approx((0.0, 0.225, 0.3))
    assert curve(found, "d = 2, in standard deviations", "non-VQUNet (own recipe)").y == pytest.approx((0.0, 0.2, 0.3))


def test_figure_5_shows_both_sides_and_their_ratio(report: Report) -> None:
    found = figure(report, "figure5")
    after = curve(found, "d = 1, raw", "after quantization")
    assert after.y == pytest.approx((0.0, 0.22, 0.32))
    assert after.high[1] == pytest.approx(0.22 + T1 * 0.04 / 2)  # seeds 0.2 and 0.24
    assert curve(found, "d = 1, after / before", "after / before").y[1:] == pytest.approx(((0.5 + 0.48) / 2, (0.5 + 0.34 / 0.6) / 2))
    assert "d = 1: 32.0 (usage 75 %), d = 2: 32.0" in found.caption


def test_figure_6_counts_positions_and_images(report: Report) -> None:
    found = figure(report, "figure6")
    assert curve(found, "changed positions", "d = 2").y == pytest.approx((0.0, 20.1, 29.9))  # seeds 20 and 20.2, 30 and 29.8
    assert curve(found, "images with a change", "d = 1").y == pytest.approx((0.0, 75.0, 100.0))


def test_codebooks_are_told_per_depth(report: Report) -> None:
    found = row(report, "codebooks", "VQUNet (own recipe)")
    assert (found["codes"], found["perplexity_1"], found["usage_2"]) == (64, 32.0, 0.75)
    assert curve(figure(report, "perplexity"), "d = 1", "VQUNet (own recipe)").y == pytest.approx((4.0, 4.0))  # seeds 3 and 5


def test_codebook_sizes_that_differ_between_depths_stand_in_place_of_the_one(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="sizes")
    root.variant("reference", VQUNET, depth=2, codebook_sizes="64,32")
    found = build(root.finish(), "sizes")
    assert row(found, "codebooks", "reference")["codes"] == "64,32"
    assert "d = 2: 32.0 (usage 75 %) of 64,32" in figure(found, "figure6").caption


@pytest.mark.parametrize(("sizes", "is_compared"), [("64,32", True), ("32,64", False)])
def test_a_second_pass_is_compared_with_a_first_of_the_same_codebook_sizes(sizes: str, is_compared: bool, tmp_path: Path) -> None:
    root = Root(tmp_path / "results")
    root.variant("reference", VQUNET, passes=1, codebook_sizes="64,32")
    root.variant("passes=2", VQUNET, factor="passes", level="2", passes=2, codebook_sizes=sizes)
    found = claim(build(root.finish(), "paper"), "A second pass")
    assert (found.verdict != "not tested") == is_compared


def test_training_curves_are_means_over_seeds(report: Report) -> None:
    found = figure(report, "training_purifier_recipes")
    assert curve(found, "reconstruction", "VQUNet (own recipe)").y == pytest.approx((0.5, 0.2))
    assert curve(figure(report, "training_retrain_recipes"), "accuracy", "VQUNet (own recipe)").y == pytest.approx((75.0,))


def test_strips_show_the_difference_and_the_classes(report: Report) -> None:
    found = item(report, "strips")
    assert isinstance(found, Strips)
    (strip,) = found.strips
    rows = dict(strip.rows)
    assert strip.system == "VQUNet (own recipe)" and strip.caption == "graybox FGSM at epsilon 0.1"
    assert [picture.note for picture in rows["purified clean"]] == ["0, right", "0, right"]
    assert rows["purified adversarial"][0].note == "1, wrong (is 0)"
    assert rows["difference x 4"][0].png == png(40)  # |110 - 100| x 4


def test_a_difference_is_clipped_at_white() -> None:
    assert difference(png(10), png(200)) == png(255)


# Claims


def test_a_sentence_is_judged_over_seeds_with_holm() -> None:
    assert by_seeds({"a": [0.5, 0.4375]}).verdict == "holds"  # t = 15, one degree of freedom: p = 0.042
    assert by_seeds({"a": [0.5, 0.4375], "b": [0.5, 0.4375]}).verdict == "undecided"  # 2 x 0.042
    assert by_seeds({"a": [-0.5, -0.4375]}).verdict == "fails"
    assert "points the other way" in by_seeds({"a": [0.1, -0.2]}).why
    assert "one seed" in by_seeds({"a": [0.5]}).why
    agreeing = by_seeds({"a": [-0.125, -0.125, -0.125]})  # one image of eight, three times
    assert agreeing.verdict == "undecided" and "agree exactly" in agreeing.why
    assert by_seeds({}).verdict == by_seeds({"a": []}).verdict == "not tested"


def test_an_interval_decides_only_where_it_excludes_the_bound() -> None:
    low, middle, high = (Value(mean, mean - 0.05, mean + 0.05, (mean,), "images") for mean in (0.04, 0.1, 0.3))
    assert by_interval({"a": low}, 0.1, above=False).verdict == "holds"
    assert by_interval({"a": low, "b": high}, 0.1, above=False).verdict == "fails"
    assert by_interval({"a": low, "b": middle}, 0.1, above=False).verdict == "undecided"
    assert by_interval({"a": high}, 0.1, above=True).verdict == "holds"
    assert by_interval({"a": None}, 0.1, above=True).verdict == "not tested"


def test_undefended_claim_is_judged_per_half_at_the_largest_epsilon(report: Report) -> None:
    pooled = claim(report, "below 10 % under every attack, pooled")
    assert pooled.verdict == "fails"  # 3 of 8 at 0.2, Wilson from 13.7 %
    assert "FGSM 37.5 % [13.7, 69.4] at 0.2, 37.5 % [13.7, 69.4] at 0.1" in pooled.measured
    assert claim(report, "gray-box half").verdict == "undecided"  # 0 of 8: up to 32 %
    assert claim(report, "by transfer").verdict == "fails"  # 6 of 8


def test_claims_against_baselines_compare_seed_by_seed(report: Report) -> None:
    higher = claim(report, "more accurate under every attack than each baseline (authors' recipes)")
    # means over the epsilons: (0.875 + 0.5) / 2 and (0.75 + 0.5) / 2 against 0.1875: differences 0.5 and 0.4375, t = 15, p = 0.042
    assert higher.verdict == "holds" and "+46.88 points" in higher.measured
    flatter = claim(report, "flatter, so its advantage grows with the noise (authors' recipes)")
    assert flatter.verdict == "undecided"  # 0 and 0.125: p = 0.5
    cleaner = claim(report, "keeps more clean accuracy than each baseline (authors' recipes)")
    assert cleaner.verdict == "undecided" and "+37.50 points" in cleaner.measured  # 0.5 and 0.25: t = 3, p = 0.20


def test_claims_about_clean_accuracy_and_passes(report: Report) -> None:
    loss = claim(report, "less than 1 point of clean accuracy")
    assert loss.verdict == "undecided" and "+6.25 points" in loss.measured
    twice = claim(report, "second pass")
    assert twice.verdict == "holds" and "PSNR 20.5 dB" in twice.measured  # differences 2.0 and 2.1 dB, 0.1 and 0.102


def test_claims_about_latents(report: Report) -> None:
    smaller = claim(report, "after quantization is smaller")
    assert smaller.verdict == "holds"  # 0.25 and 0.26 at d = 1, 0.15 and 0.151 at d = 2
    assert claim(report, "Deeper levels keep their code indices").verdict == "holds"  # 20 and 20.1 points: t = 401
    assert claim(report, "reconstructions stay closer").verdict == "holds"  # 0.015 and 0.0155: t = 61
    # first slope less the last: 400 - 100 and 402 - 98 at d = 1, 200 - 100 and 202 - 96 at d = 2
    slows = claim(report, "Indices change fast")
    assert slows.verdict == "holds" and "d = 1 302" in slows.measured and "d = 2 103" in slows.measured


def test_what_was_not_run_is_not_tested(report: Report) -> None:
    ninety = claim(report, "at least 90 %")
    assert ninety.verdict == "not tested" and "50.0 %" in ninety.measured and "digits" in ninety.why
    assert claim(report, "other defenses on CIFAR-10").verdict == "not tested"
    assert claim(report, "alpha and beta").verdict == "not tested"


def test_a_command_stored_with_a_password_is_shown_without_it(report: Report) -> None:
    shown = render(report)
    assert "run paper --storage postgresql://me:***@host/db" in shown and "secret" not in shown


def test_adaptive_attacker_is_a_row_of_its_own(report: Report) -> None:
    found = claim(report, "NOT IN THE PAPER")
    assert found.verdict == "undecided"  # 0.25 - 0.875 and 0 - 0.75: two seeds, t = 11, p = 0.058
    assert "adaptive 12.5 %" in found.measured and "pooled (lowest attack) 81.2 %" in found.measured and "robust score 53.1 %" in found.measured


def test_ninety_is_judged_on_fashion_mnist(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine", dataset="fashion_mnist")
    # lowest points 0 and 1/8 (image 2 of the transfer half): 0.9 and 0.775 short, t = 13.4, p = 0.047
    lost = {seed: TrialRows("1" * 8, "1" * 8, attacked(("0" * 8,) * 2, ("1" * 8, last)), ()) for seed, last in enumerate(("00000000", "00100000"))}
    root.variant("reference", lost)
    ninety = claim(build(root.finish(), "mine"), "at least 90 %")
    assert ninety.verdict == "fails" and "t test over 2 seeds" in ninety.why
    assert "6.2 %" in ninety.measured and "least: FGSM at 0.2" in ninety.measured


def loss_weights_root(path: Path, late: float) -> Results:
    """Return a sweep of two pairs over 40 epochs: errors 1 and 3 up to epoch 30, then 1 and 1 + late."""
    root = Root(path, sweep="loss_weights")
    for label, factor, beta, early, after in (("reference", "", 1.0, 1.0, 1.0), ("beta=4", "beta", 4.0, 3.0, 1.0 + late)):
        trials = {seed: TrialRows("1" * 8, "1" * 8, {}, (), epochs=epochs([early + 0.01 * seed] * 30 + [after] * 10)) for seed in (0, 1)}
        root.variant(label, trials, factor=factor, level="4", alpha=1.0, beta=beta)
    return root.finish()


def test_weights_of_the_losses_are_judged_from_their_own_sweep(tmp_path: Path) -> None:
    loss_weights_root(tmp_path / "results", late=0.5)
    found = build(paper_root(tmp_path / "results").finish(), "paper")
    weights = claim(found, "alpha and beta")
    # spread (3 - 1) / 2 = 100 % (99.5 % for the second seed, 2 / 2.01) up to epoch 30, 0.5 / 1.25 = 40 % afterwards
    assert weights.verdict == "holds" and "99.8 %" in weights.measured and "40.0 %" in weights.measured
    assert [series.name for series in figure(found, "loss_weights").panels[0].series] == ["alpha 1, beta 1", "alpha 1, beta 4", "epoch 30"]
    assert figure(found, "loss_weights").panels[1].series[0].x == tuple(range(31, 41))


# What is missing, and what a report may not do


def test_missing_and_failed_trials_are_warnings(tmp_path: Path) -> None:
    root = paper_root(tmp_path / "results")
    root.variant("blur", {0: None, 1: None}, factor="model", model="mean_blur", num_epochs=None)
    root.failed("blur", 1, "loss is nan")
    found = build(root.finish(), "paper")
    assert any("blur, seed 0: missing; blur, seed 1: failed (loss is nan)" in warning for warning in found.warnings)
    assert any("in no table and no figure: blur" in warning for warning in found.warnings)


def test_one_seed_and_a_quick_evaluation_are_warnings_and_decide_nothing(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine", evaluation="quick")
    root.variant("reference", {0: VQUNET[0]})
    root.variant("vae", {0: VAE[0]}, factor="model", model="defense_vae", train_input="adv", kl_weight=0.0)
    found = build(root.finish(), "mine")
    assert any("`quick`" in warning for warning in found.warnings)
    assert any("One seed" in warning for warning in found.warnings)
    cleaner = claim(found, "keeps more clean accuracy than each baseline (authors' recipes)")
    assert cleaner.verdict == "not tested" and "one seed says nothing about a setting" in cleaner.why
    assert "only VQUNet right on 4 clean images, only it on 0, p = 0.125" in cleaner.why  # 2 x (1 / 2) ** 4


def test_a_trial_that_is_scored_twice_keeps_its_two_evaluations_apart(tmp_path: Path) -> None:
    root = paper_root(tmp_path / "results")
    harder = TrialRows("11111111", "11110000", attacked(("10000000", "00000000"), ("11110000", "00000000")), (0.05,) * 8)
    root.variant("victim=retrained", {0: harder}, factor="victim", level="retrained", scored_again="reference")
    found = build(root.finish(), "paper")
    assert row(found, "table1_recipes", "VQUNet (own recipe)")["graybox"] == pytest.approx(0.625)
    assert row(found, "table1_axes", "victim=retrained")["graybox"] == 0.125  # 1 of 8
    assert row(found, "table1_axes", "victim=retrained")["seeds"] == 1


def test_a_sweep_without_latents_or_trials_still_gives_a_report(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine")
    bare = {seed: TrialRows("11110000", "11110000", attacked(("11000000",) * 2, ("11000000",) * 2), ()) for seed in (0, 1)}
    root.variant("reference", bare)
    root.variant("depth=1", {0: None}, factor="depth", level="1")
    found = build(root.finish(), "mine")
    assert all(panel.missing for panel in figure(found, "figure3").panels)
    assert any("no fairness tables" in text for section in found.sections for text in section.text)
    empty = Root(tmp_path / "empty", sweep="mine")
    empty.variant("reference", {0: None})
    assert "no completed trial" in build(empty.finish(), "mine").statement


def test_jpeg_copy_is_named_and_an_unknown_copy_is_not_called_cifar_10(tmp_path: Path) -> None:
    for index, (fingerprint, name) in enumerate([(min(JPEG_FINGERPRINTS), "CIFAR-10-JPEG"), ("ab" * 32, "CIFAR-10 (copy abababab)")]):
        root = Root(tmp_path / str(index), sweep="mine", dataset="cifar10")
        root.variant("reference", {0: VQUNET[0]}, config={"fingerprint": fingerprint})
        material = load(root.finish(), "mine")
        assert dataset_name(material) == name
        found = claims((material, systems_of(material)), None)
        assert any("on CIFAR-10" in claim.claim and "not the paper's data" in claim.why for claim in found.claims)


def test_epsilons_are_named_as_fractions_of_255() -> None:
    assert [epsilon_name(e) for e in (8 / 255, 0.5 / 255, 0.1, 0.0125)] == ["8/255", "0.5/255", "0.1", "0.0125"]


def test_seeds_that_agree_have_their_interval_over_images() -> None:
    value = of_images([np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])])
    assert value is not None and value.over == "images" and value.seeds == (0.5, 0.5)


def test_a_report_imports_neither_torch_nor_ray_nor_the_command_line(tmp_path: Path) -> None:
    paper_root(tmp_path / "results").finish()
    code = (
        "import sys\nfrom sweeper.report.assemble import build\nfrom sweeper.results import Results\n"
        f"build(Results({str(tmp_path / 'results')!r}), 'paper')\nprint(sorted({{'torch', 'ray', 'typer'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("survivors", "verdict"),
    [([(5, 90), (0, 60)], "fails"), ([(5, 90), (58, 60)], "undecided"), ([(90, 90), (61, 60)], "holds")],
)
def test_two_attackers_on_one_checkpoint_are_compared_over_its_images(survivors: list[tuple[int, int]], verdict: str) -> None:
    def attacked(adaptive: int, pooled: int) -> SimpleNamespace:
        return SimpleNamespace(adaptive=lambda epsilon: np.arange(100) < adaptive, worst_mixed=lambda epsilon: np.arange(100) < pooled)

    judged = _same_checkpoints([attacked(*counts) for counts in survivors], 0.1)  # pyright: ignore[reportArgumentType]
    assert judged.verdict == verdict and "each of 2 checkpoints" in judged.why
