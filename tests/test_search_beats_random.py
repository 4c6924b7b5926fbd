"""What `benchmarks/search_hypervolume.py` claims, on a smaller scale: over invented figures the sampler finds more than chance does."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from search_hypervolume import hypervolume, run, stand_in_space
from stand_in import RUNG_COST, WHOLE_COST, figures

from sweeper.search.engine import settings_of
from sweeper.search.study import random_proposals


def test_tpe_finds_a_larger_front_than_random_search() -> None:
    """Over five searches of 40 trials each, two at a time: in the mean, and in four of them (of 60 other seeds in 73 %)."""
    tpe, random = ([run(stand_in_space(sampler=name, scheduler="none", trials=40, seed=seed)) for seed in range(5)] for name in ("tpe", "random"))
    assert {found.epochs for found in (*tpe, *random)} == {40 * WHOLE_COST}
    gains = [one.hypervolume - other.hypervolume for one, other in zip(tpe, random, strict=True)]
    assert np.mean(gains) > 0
    assert sum(gain > 0 for gain in gains) >= 4


def test_hypervolume_is_the_area_of_a_staircase() -> None:
    """Boxes from (1, 1): 3 by 1 for (4, 2) and, above it, 1 by 2 for (2, 4). (2, 3) lies inside, (5, 1) and (0, 9) are not above the worst."""
    assert hypervolume([(2, 3), (4, 2), (0, 9), (2, 4), (5, 1)], (1, 1)) == 3 * 1 + 1 * 2
    assert hypervolume([(2, 4), (2, 4)], (1, 1)) == 3
    assert hypervolume([], (1, 1)) == 0


def test_a_search_with_a_rung_pays_for_every_run() -> None:
    found = run(stand_in_space(sampler="random", scheduler="halving", trials=12))
    assert found.trials == 12
    assert found.epochs == 12 * RUNG_COST + found.whole * WHOLE_COST
    assert 4 <= found.whole < 12


def test_invented_figures_depend_on_the_settings_alone() -> None:
    settings = [settings_of(proposal) for proposal in random_proposals(stand_in_space(), 30)]
    assert [figures(one) for one in settings] == [figures(json.loads(json.dumps(one))) for one in settings]
    assert len({str(figures(one)) for one in settings}) == 30


def test_the_stand_in_has_what_its_docstring_says() -> None:
    settings = [settings_of(proposal) for proposal in random_proposals(stand_in_space(), 600)]
    whole, rung = [figures(one) for one in settings], [figures(one, is_rung=True) for one in settings]
    for column in ("robust_score", "clean"):
        at_end, at_rung = ([one[column] for one in found] for found in (whole, rung))
        assert spearmanr(at_end, at_rung).statistic == pytest.approx(0.65, abs=0.05)
    feasible = [one for one in whole if (one["clean_drop"] or 0) <= 0.01]
    assert len(feasible) / 600 == pytest.approx(0.5, abs=0.05)
    most = [max(one["robust_score"] or 0 for one in found) for found in (feasible, whole)]
    assert most[0] < most[1] - 0.05
