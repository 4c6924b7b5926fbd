"""What a search is said to cost before it runs, worked out by hand."""

from pathlib import Path
from typing import Any

import pytest
from search_spaces_of_tests import ONE
from test_search_space import planned
from tiny_search import tiny_search

from sweeper.search.estimate import describe
from sweeper.search.running import expected_by_rung


def longer(trial: Any) -> dict[str, Any]:
    """Ask for one codebook; eight epochs."""
    trial.suggest_int("codebook_size/1", 4, 16)
    return {"depth": 1, "num_epochs": 8}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"scheduler": "none"}, [(None, 18)]),
        ({"scheduler": "halving", "rungs": (1,)}, [(1, 18), (None, 6)]),
        ({"scheduler": "asha", "rungs": (1, 3)}, [(1, 18), (3, 6), (None, 2)]),
        ({"scheduler": "asha", "rungs": (1, 3), "reduction": 2}, [(1, 18), (3, 9), (None, 4.5)]),
        ({"scheduler": "median", "rungs": (1,)}, [(1, 18), (None, 9)]),
        ({"scheduler": "halving", "rungs": (1, 8)}, [(1, 18), (None, 6)]),  # nothing is trained for more than 8
    ],
    ids=repr,
)
def test_of_the_trials_at_a_rung_the_schedulers_part_goes_on(more: dict[str, Any], expected: list[tuple[int | None, float]]) -> None:
    found = expected_by_rung(planned(longer, ONE, **more), 18)
    assert [epochs for epochs, _ in found] == [epochs for epochs, _ in expected]
    assert found[0][1] == 18
    for (_, trials), (_, fewest) in zip(found, expected, strict=True):  # more than one in `reduction`, since none that went on is called back
        assert fewest <= trials < 1.6 * fewest


def test_seconds_totals_and_cost_of_a_new_root_are_sums_of_guesses(tmp_path: Path) -> None:
    """Guessed: 1.3 s an epoch, 2.5 s of retraining, 4 s for quick and 16 s for standard scoring, 12 s a stage; a Pareto set is attacked again."""
    plan = planned(longer, scheduler="halving", rungs=(1,), budget={"trials": 12})
    rows, notes = describe(plan, tmp_path, slots=2, price_per_hour=36.0)
    by_name = {row["what"]: row for row in rows}
    assert [row["what"] for row in rows] == ["shared stages", "rung", "full length", "Pareto set"]
    assert (by_name["shared stages"]["trials"], by_name["shared stages"]["seconds"]) == (len(plan.base.stages), 12 * len(plan.base.stages))
    rung, whole, front = by_name["rung"], by_name["full length"], by_name["Pareto set"]
    assert (rung["epochs"], rung["trials"], rung["seconds_each"], rung["seconds"]) == (1, 12, 7.8, 93.6)  # 1.3 + 2.5 + 4
    assert (whole["epochs"], whole["trials"], whole["seconds_each"], whole["seconds"]) == (8, 5, 28.9, 144.5)  # 10.4 + 2.5 + 16
    assert (front["trials"], front["seconds_each"], front["seconds"]) == (4, 32, 128)
    total = (12 * len(plan.base.stages) + 93.6 + 144.5 + 128) / 2
    assert f"about {total / 60:.0f} min with 2 at once (a rough guess" in notes[1]
    assert f"cost {36 * total / 3600:.2f} at 36 per hour" in notes[1]
    assert not list(tmp_path.iterdir())


def test_the_best_of_one_objective_is_one_trial(tmp_path: Path) -> None:
    rows, _ = describe(planned(longer, ONE, budget={"trials": 12}), tmp_path, slots=1)
    assert rows[-1]["trials"] == 1


def test_photographs_are_guessed_at_three_and_a_half_times_the_digits(tmp_path: Path) -> None:
    rows, _ = describe(planned(longer, ONE, budget={"trials": 2}), tmp_path, slots=1)
    plan = planned(longer, ONE, budget={"trials": 2}, dataset="cifar10")
    photographs, _ = describe(plan, tmp_path, slots=1)
    assert photographs[1]["seconds_each"] == pytest.approx(3.5 * rows[1]["seconds_each"], abs=0.1)


def test_a_rung_that_no_trial_reaches_is_told(tmp_path: Path) -> None:
    rows, notes = describe(planned(longer, ONE, scheduler="asha", rungs=(1, 9)), tmp_path, slots=1)
    assert [row["epochs"] for row in rows if row["what"] == "rung"] == [1]
    assert "no proposal that was tried is trained for more than 9 epochs, so none is compared at that rung" in notes


def test_without_a_bound_of_trials_the_plan_says_what_it_cannot(tmp_path: Path) -> None:
    _, notes = describe(planned(longer, ONE, budget={"seconds": 60}), tmp_path, slots=1)
    assert notes[0].startswith("budget: 60 seconds; ")
    assert notes[-1] == "without a bound of trials, how many reach each rung cannot be said"


def test_trials_that_were_measured_here_replace_the_guesses() -> None:
    searched = tiny_search()
    plan = planned(objectives=ONE, scheduler="halving", rungs=(1,), budget={"trials": 4})
    rows, notes = describe(plan, searched.root, slots=1)
    assert any("from 7 measured trials here" in note for note in notes)  # five at the rung, two at full length
    assert rows[1]["seconds_each"] < 7.8


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused(price: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--price-per-hour must be at least 0, got"):
        describe(planned(), tmp_path, slots=1, price_per_hour=price)
