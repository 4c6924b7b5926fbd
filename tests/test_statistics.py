"""Intervals, areas and worst cases against values worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import nct

from sweeper.statistics import (
    area_under_curve,
    detectable,
    image_scores,
    mcnemar,
    over_images,
    over_seeds,
    wilson,
    worst_broken_at,
    worst_case,
)

Z2 = 1.959963984540054**2


def test_wilson_of_half_of_ten() -> None:
    # centre 0.5; half-width z / (1 + z²/10) · sqrt(0.025 + z²/400)
    half = math.sqrt(Z2) / (1 + Z2 / 10) * math.sqrt(0.025 + Z2 / 400)
    assert wilson(5, 10) == pytest.approx((0.5 - half, 0.5 + half))
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # the textbook's value


def test_wilson_of_none_correct_is_zero_to_z2_over_n_plus_z2() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, Z2 / (10 + Z2)))
    assert wilson(0, 10)[0] >= 0


def test_wilson_is_symmetric_in_right_and_wrong() -> None:
    low, high = wilson(3, 17)
    assert wilson(14, 17) == pytest.approx((1 - high, 1 - low))


def test_wilson_narrows_with_more_images() -> None:
    widths = [high - low for low, high in (wilson(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= correct <= n"):
        wilson(correct, n)


def test_worst_case_keeps_images_that_survive_every_attack() -> None:
    assert worst_case([[True, True, False, True], [True, False, True, True]]).tolist() == [True, False, False, True]


def test_worst_case_is_at_most_each_attack() -> None:
    outcomes = np.random.default_rng(0).random((3, 50)) > 0.3
    assert worst_case(list(outcomes)).mean() <= outcomes.mean(axis=1).min()


def test_worst_case_refuses_lists_over_different_images() -> None:
    with pytest.raises(ValueError, match=r"same images, got lengths \[2, 3\]"):
        worst_case([[True, True], [True, True, True]])


def test_worst_broken_at_is_the_first_attack_to_break_each_image() -> None:
    assert worst_broken_at([[0.1, np.inf, 0.0], [0.05, np.inf, 0.1]]).tolist() == pytest.approx([0.05, np.inf, 0.0])


def test_area_under_a_line_is_its_middle() -> None:
    assert area_under_curve([0, 0.05, 0.1], [1.0, 0.5, 0.0], 0.1) == pytest.approx(0.5)


def test_area_by_hand_on_uneven_grid() -> None:
    # 0 to 0.02: mean 0.9; 0.02 to 0.1: mean 0.5; weights 0.2 and 0.8
    assert area_under_curve([0, 0.02, 0.1], [1.0, 0.8, 0.2], 0.1) == pytest.approx(0.2 * 0.9 + 0.8 * 0.5)


def test_points_beyond_score_epsilon_do_not_count() -> None:
    assert area_under_curve([0, 0.1, 0.3], [1.0, 0.5, 0.0], 0.1) == pytest.approx(0.75)


def test_score_epsilon_between_two_points_cuts_the_line_between_them() -> None:
    assert area_under_curve([0, 0.2], [1.0, 0.0], 0.1) == pytest.approx(0.75)


def test_area_of_one_image_by_hand() -> None:
    # grid 0, 0.05, 0.1: correct at 0 only is one falling trapezoid of half the length: 0.25
    scores = image_scores([0.0, 0.05, 0.1, np.inf], [0.05, 0.1], 0.1)
    assert scores.tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])


def test_mean_of_image_areas_is_the_area_under_the_accuracy_curve() -> None:
    grid = np.array([0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1, 0.3])
    broken = np.random.default_rng(1).choice([0.0, *grid, np.inf], size=240).astype(np.float32)
    full = np.concatenate([[0.0], grid])
    accuracy = [(broken > np.float32(epsilon)).mean() for epsilon in full]
    assert image_scores(broken, grid, 0.1).mean() == pytest.approx(area_under_curve(full, accuracy, 0.1))


def test_float32_of_the_grid_breaks_at_its_own_point() -> None:
    grid = [2 / 255, 4 / 255, 8 / 255]
    exact = image_scores(np.array([4 / 255], dtype=np.float32), grid, 8 / 255)
    assert exact.tolist() == pytest.approx([(2 + 1) / 8])  # whole to 2/255, falling to 4/255


def test_clean_outcomes_take_wrong_images_out() -> None:
    assert image_scores([0.05, 0.05], [0.05, 0.1], 0.1, [True, False]).tolist() == pytest.approx([0.25, 0.0])


def test_grid_that_ends_before_score_epsilon_is_refused() -> None:
    with pytest.raises(ValueError, match="ends at 0.05, got 0.1"):
        image_scores([np.inf], [0.05], 0.1)


def test_interval_over_images_does_not_vanish_when_all_are_broken() -> None:
    estimate = over_images(np.zeros(240))
    assert estimate.mean == 0 and estimate.low == 0
    assert estimate.high is not None and 0.01 < estimate.high < 0.03


def test_interval_over_binary_images_contains_wilsons() -> None:
    low, high = wilson(30, 100)
    estimate = over_images([1.0] * 30 + [0.0] * 70)
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low <= low and high <= estimate.high
    assert (estimate.low + estimate.high) / 2 == pytest.approx((low + high) / 2)  # the same centre


def test_interval_over_three_seeds_uses_two_degrees_of_freedom() -> None:
    estimate = over_seeds([0.5, 0.6, 0.7])
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t of 97.5 % with 2 degrees of freedom
    assert estimate.std == pytest.approx(0.1)
    assert (estimate.low, estimate.high) == pytest.approx((0.6 - half, 0.6 + half))


def test_one_seed_has_no_interval() -> None:
    estimate = over_seeds([0.6])
    assert (estimate.mean, estimate.n, estimate.std, estimate.low, estimate.high) == (0.6, 1, None, None, None)


def test_detectable_difference_of_settings_has_the_power_that_scipys_noncentral_t_says() -> None:
    for seeds, critical in ((2, 12.706204736), (3, 4.302652730), (10, 2.262157163)):
        found = detectable(240, seeds, seed_std=0.05).settings
        assert found is not None
        noncentrality = found / (0.05 * math.sqrt(2) / math.sqrt(seeds))
        assert float(nct.sf(critical, seeds - 1, noncentrality)) == pytest.approx(0.8, abs=1e-4)  # type: ignore[attr-defined]


def test_detectable_difference_of_checkpoints_solves_connors_equation() -> None:
    found = detectable(240, 3).checkpoints
    assert found is not None
    z_level, z_power = 1.959963984540054, 0.8416212335729143
    assert math.sqrt(240) * found == pytest.approx(z_level * math.sqrt(0.5) + z_power * math.sqrt(0.5 - found**2))


def test_mcnemar_finds_the_detectable_difference_in_eight_of_ten_cases() -> None:
    difference = detectable(500, 3).checkpoints
    assert difference is not None
    draws = np.random.default_rng(0).random((400, 500))
    only_first, only_second = draws < (0.5 + difference) / 2, draws > 1 - (0.5 - difference) / 2
    found = np.mean([mcnemar(first, second)[2] < 0.05 for first, second in zip(only_first, only_second, strict=True)])
    assert 0.74 < found < 0.84  # 0.8 less a little for the exact test, and 400 draws


def test_one_seed_detects_nothing_between_settings_nor_few_images_between_checkpoints() -> None:
    assert detectable(240, 1).settings is None
    assert detectable(8, 3).checkpoints is None  # more than the half of the images that are discordant
    assert detectable(240, 3, seed_std=0.24).settings == pytest.approx(2 * (detectable(240, 3).settings or 0))


@pytest.mark.parametrize("wrong", [{"n_images": 0}, {"n_seeds": 0}, {"seed_std": 0}, {"power": 0.01}, {"level": 0}])
def test_detectable_refuses_what_is_no_plan(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="detectable needs n_images >= 1, n_seeds >= 1, seed_std > 0"):
        detectable(**{"n_images": 240, "n_seeds": 3, **wrong})  # type: ignore[arg-type]
