"""Who goes on from a rung."""

import random

import numpy as np
import pytest

from sweeper.search.rungs import layer_of, order, promotable, promoted_share


def test_the_best_third_goes_on_and_rounds_down() -> None:
    reached = {number: (float(number),) for number in range(8)}
    assert promotable(reached, (), scheduler="asha", reduction=3) == [7, 6]


def test_nobody_goes_on_from_a_rung_that_fewer_have_reached_than_one_goes_on_of() -> None:
    assert promotable({0: (1.0,), 1: (2.0,)}, (), scheduler="asha", reduction=3) == []


def test_who_has_gone_on_is_not_promoted_again() -> None:
    reached = {number: (float(number),) for number in range(6)}
    assert promotable(reached, {5}, scheduler="asha", reduction=3) == [4]


def test_a_place_that_a_later_trial_won_is_not_taken_back() -> None:
    """3 was promoted when it was the best of three; now it is third of six, and the two best go on too."""
    reached = {0: (0.0,), 1: (1.0,), 2: (2.0,), 3: (3.0,), 4: (4.0,), 5: (5.0,)}
    assert promotable(reached, {3}, scheduler="asha", reduction=3) == [5, 4]


def test_all_go_on_until_there_is_a_median_of_four_and_then_those_not_below_it() -> None:
    reached = {0: (1.0,), 1: (2.0,), 2: (3.0,)}
    assert promotable(reached, (), scheduler="median", reduction=3) == [2, 1, 0]
    assert promotable({**reached, 3: (4.0,)}, (), scheduler="median", reduction=3) == [3, 2]


def test_with_several_objectives_what_no_other_beats_comes_first() -> None:
    reached = {0: (0.9, 0.1), 1: (0.5, 0.5), 2: (0.1, 0.9), 3: (0.4, 0.4), 4: (0.05, 0.05), 5: (0.0, 0.0)}
    assert set(order(reached)[:3]) == {0, 1, 2}
    assert order(reached)[3:] == [3, 4, 5]
    assert set(promotable(reached, (), scheduler="halving", reduction=2)) == {0, 1, 2}


def test_the_earlier_of_two_equal_trials_comes_first() -> None:
    assert order({4: (1.0,), 2: (1.0,), 3: (0.0,)}) == [2, 4, 3]


@pytest.mark.parametrize(
    ("points", "layers"),
    [
        ([(1, 1), (2, 2), (3, 3)], [2, 1, 0]),
        ([(1, 2), (2, 1)], [0, 0]),
        ([(1, 1), (1, 1)], [0, 0]),  # equal ones leave each other standing
        ([(1, 2), (1, 1), (0, 5)], [0, 1, 0]),
    ],
)
def test_layers_of_dominance(points: list[tuple[float, float]], layers: list[int]) -> None:
    assert layer_of(points) == layers


def test_each_layer_is_what_no_other_of_the_rest_dominates() -> None:
    points = np.random.default_rng(0).integers(0, 6, (60, 3)).tolist()  # with ties and repeats
    layers = layer_of(points)
    for layer in range(max(layers) + 1):
        rest = [point for point, its in zip(points, layers, strict=True) if its >= layer]
        front = [point for point in rest if not any(other != point and all(o >= p for o, p in zip(other, point, strict=True)) for other in rest)]
        assert sorted(front) == sorted(point for point, its in zip(points, layers, strict=True) if its == layer)


@pytest.mark.parametrize(("scheduler", "reduction"), [("asha", 3), ("halving", 2), ("median", 3)])
def test_the_share_that_goes_on_is_that_of_promoting_one_arrival_after_the_other(scheduler: str, reduction: int) -> None:
    draw, went_on = random.Random(1), 0
    for _ in range(200):
        reached: dict[int, tuple[float, ...]] = {}
        promoted: set[int] = set()
        for number in range(30):
            reached[number] = (draw.random(),)
            promoted |= set(promotable(reached, promoted, scheduler=scheduler, reduction=reduction))
        went_on += len(promoted)
    expected = promoted_share(30, scheduler=scheduler, reduction=reduction)
    assert went_on / (200 * 30) == pytest.approx(expected, abs=0.03)
    assert expected > (0.5 if scheduler == "median" else 1 / reduction)
