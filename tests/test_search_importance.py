"""Which settings matter: shares of a search worked out by hand, and effects of an ablation against what `compare` finds."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from test_comparison import Photos, finished, trial

from sweeper.comparison import compare_settings
from sweeper.search.importance import Importances, of_ablation, of_search, told_of
from sweeper.search.space import Constraint, Objective
from sweeper.search.stored import StoredSearch, StoredTrial

ASKED = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def choice(*choices: Any) -> str:
    return json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": choices}})


DISTRIBUTIONS = {"x": choice(0, 1), "y": choice(0, 1), "width": choice(4, 8)}


def stored_trial(number: int, params: Mapping[str, Any], figures: Mapping[str, Any] | None, state: str = "completed", **more: Any) -> StoredTrial:
    distributions = {name: DISTRIBUTIONS[name] for name in params}
    rest: dict[str, Any] = {"rungs": {}, "failed_checks": (), "message": "", "asked": ASKED, **more}
    return StoredTrial(number, f"#{number}", "sampled", params, distributions, params, (str(number), "e"), state, figures, **rest)


def stored_search(trials: list[StoredTrial], objectives: tuple[Objective, ...], constraints: tuple[Constraint, ...] = ()) -> StoredSearch:
    return StoredSearch("mine", "0" * 32, "digits", "mine on digits", objectives, constraints, "random", "none", tuple(trials), ())


ROBUST, CLEAN = Objective("robust_score", "max"), Objective("clean", "max")


def square(objectives: tuple[Objective, ...] = (ROBUST, CLEAN)) -> StoredSearch:
    """Return 40 trials over every pair of x and y: robust_score is x, clean is y."""
    pairs = itertools.islice(itertools.cycle(itertools.product((0, 1), (0, 1))), 40)
    return stored_search([stored_trial(i, {"x": x, "y": y}, {"robust_score": x, "clean": y}) for i, (x, y) in enumerate(pairs)], objectives)


def test_the_setting_that_an_objective_equals_has_all_of_its_share() -> None:
    """Among the best in robust_score x is always 1, and y as often 0 as among all: its share is exactly none. For clean the other way round."""
    found = of_search(square())
    shares = {row["parameter"]: row for row in found.rows}
    assert shares["x"]["robust_score"] == pytest.approx(1) and shares["y"]["robust_score"] == pytest.approx(0, abs=1e-9)
    assert shares["y"]["clean"] == pytest.approx(1) and shares["x"]["clean"] == pytest.approx(0, abs=1e-9)
    assert shares["x"]["all objectives"] == pytest.approx(0.5) and shares["y"]["all objectives"] == pytest.approx(0.5)


def test_one_objective_has_one_column_and_the_first_row_matters_most() -> None:
    found = of_search(square((CLEAN,)))
    assert [list(row) for row in found.rows] == [["parameter", "clean", "trials"]] * 2
    assert [row["parameter"] for row in found.rows] == ["y", "x"]
    assert found.shown() == [{"parameter": "y", "clean": "100 %", "trials": 40}, {"parameter": "x", "clean": "0 %", "trials": 40}]


def test_an_objective_that_is_minimised_is_judged_by_its_low_end() -> None:
    """clean is 0 only where x and y are 0, so the lowest tell both; the highest, where y is 1, tell y alone."""
    trials = [
        stored_trial(i, {"x": x, "y": y}, {"clean": 2 * y + x * (1 - y)})
        for i, (x, y) in enumerate(itertools.islice(itertools.cycle(itertools.product((0, 1), (0, 1))), 40))
    ]
    low, high = (
        {row["parameter"]: row["clean"] for row in of_search(stored_search(trials, (Objective("clean", way),))).rows} for way in ("min", "max")
    )
    assert low["x"] == pytest.approx(0.5) and low["y"] == pytest.approx(0.5)
    assert high["x"] == pytest.approx(0, abs=1e-9)


def test_a_setting_that_only_some_trials_have_is_counted_where_it_is_there() -> None:
    trials = list(square().trials)
    trials += [stored_trial(40 + i, {"x": 1, "width": 4 + 4 * (i % 2)}, {"robust_score": 1, "clean": 1}) for i in range(6)]
    found = of_search(stored_search(trials, (ROBUST,)))
    counts = {row["parameter"]: row["trials"] for row in found.rows}
    assert counts == {"x": 46, "y": 40, "width": 6}
    assert sum(row["robust_score"] for row in found.rows) == pytest.approx(1)


def test_stopped_failed_and_unfinished_trials_have_no_say_in_shares() -> None:
    others = [
        stored_trial(40, {"x": 0, "y": 1}, None, "stopped", rungs={2: {"robust_score": 0.25, "clean": 0.5}}),
        stored_trial(41, {"x": 0, "y": 1}, None, "failed", message="loss is nan"),
        stored_trial(42, {"x": 0, "y": 1}, None, "missing"),
    ]
    more = stored_search([*square().trials, *others], (ROBUST, CLEAN))
    assert of_search(more).rows == of_search(square()).rows
    assert "over 40 completed trials" in of_search(more).notes[0]
    told = told_of(more)[40:]
    assert [one.state for one in told] == ["stopped", "failed", "running"]
    assert told[0].rungs == {2: 0.25} and told[0].values == ()


def test_constraints_are_told_by_how_much_they_are_broken() -> None:
    bound = Constraint("clean_drop", "<=", 0.01)
    trials = [stored_trial(0, {"x": 0}, {"robust_score": 0.5, "clean_drop": 0.03}), stored_trial(1, {"x": 0}, {"robust_score": 0.5, "clean_drop": 0})]
    told = told_of(stored_search(trials, (ROBUST,), (bound,)))
    assert [one.constraints["clean_drop <= 0.01"] for one in told] == [pytest.approx(0.02), pytest.approx(-0.01)]


def test_a_trial_that_fails_a_validity_check_is_told_as_infeasible() -> None:
    doubtful = replace(stored_trial(0, {"x": 0}, {"robust_score": 0.9}), failed_checks=("C9", "C13"))
    told = told_of(stored_search([doubtful, stored_trial(1, {"x": 1}, {"robust_score": 0.5})], (ROBUST,), ()))
    assert [one.constraints for one in told] == [{"failed_checks": 2}, {"failed_checks": 0}]


def test_few_trials_are_a_hint_and_fewer_than_four_are_refused() -> None:
    assert "with 40 of them, take them for a hint" in of_search(square()).notes[1]
    assert sum("hint" in note for note in of_search(_repeated(square(), 2)).notes) == 0
    with pytest.raises(ValueError, match="at least 4 completed trials, and there are 3"):
        of_search(stored_search(list(square().trials[:3]), (ROBUST,)))


def _repeated(search: StoredSearch, times: int) -> StoredSearch:
    many = [one for _ in range(times) for one in search.trials]
    return stored_search([stored_trial(i, one.params, one.figures) for i, one in enumerate(many)], search.objectives)


def test_of_trials_that_are_all_alike_it_is_said_that_nothing_tells_them_apart() -> None:
    trials = [stored_trial(i, {"x": i % 2, "y": i // 4}, {"robust_score": 0.5, "clean": i / 8}) for i in range(8)]
    found = of_search(stored_search(trials, (ROBUST, CLEAN)))
    assert [row["robust_score"] for row in found.rows] == [0.5, 0.5]
    assert found.notes[-1].startswith("All of these trials are equal in robust_score, so nothing tells them apart there")
    assert not any("are equal in" in note for note in of_search(square()).notes)


@pytest.mark.filterwarnings("error")
def test_nothing_of_the_librarys_warnings_reaches_the_reader() -> None:
    of_search(square())


# Of an ablation


@pytest.fixture
def effects(tmp_path: Path) -> tuple[Importances, dict[str, Any]]:
    """Return the effects of two factors over three seeds, and `compare`'s rows: depth up by 0.1, 0.2, 0.3 or down by 0.1, beta down by 0.3."""
    root = Photos(tmp_path, sweep="mine")
    root.variant("reference", {seed: trial(100) for seed in range(3)})
    root.variant("beta=0", {seed: trial(100, never_broken=24 if seed < 2 else 27) for seed in range(3)}, factor="beta", level="0")
    root.variant("depth=2", {seed: trial(100, never_broken=60 + 12 * (seed + 1)) for seed in range(3)}, factor="depth", level="2")
    root.variant("depth=1", {seed: trial(100, never_broken=48) for seed in range(3)}, factor="depth", level="1")
    root.variant("late", {0: trial(90, never_broken=66), 1: None}, factor="late", level="x")
    results = finished(root)
    compared = {row["label"]: row for row in compare_settings(results, "mine").rows}
    return of_ablation(results, "mine", by="robust_score", dataset=None, plan_hash=None), compared


def test_effects_of_an_ablation_are_those_that_compare_finds(effects: tuple[Importances, dict[str, Any]]) -> None:
    found, compared = effects
    rows = {f"{row['factor']}={row['level']}": row for row in found.rows}
    for label in ("beta=0", "depth=2", "depth=1"):
        for mine, other in (("effect", "difference"), ("ci_low", "ci_low"), ("ci_high", "ci_high"), ("p_holm", "p_holm"), ("verdict", "verdict")):
            assert rows[label][mine] == compared[label][other]
        assert rows[label]["seeds"] == 3
    assert (rows["depth=2"]["effect"], rows["depth=1"]["effect"]) == (pytest.approx(0.2), pytest.approx(-0.1))


def test_factors_stand_by_their_largest_effect_and_levels_by_their_own(effects: tuple[Importances, dict[str, Any]]) -> None:
    found, _ = effects
    assert [(row["factor"], row["level"]) for row in found.rows] == [("beta", "0"), ("depth", "2"), ("depth", "1"), ("late", "x")]


def test_a_level_with_one_seed_has_an_effect_without_an_interval(effects: tuple[Importances, dict[str, Any]]) -> None:
    late = effects[0].rows[-1]
    assert late["effect"] == pytest.approx(0.05)
    assert (late["ci_low"], late["p_holm"], late["seeds"], late["verdict"]) == (None, None, 1, "not tested")
    shown = effects[0].shown()
    assert shown[-1]["effect"] == "+5.0"
    assert shown[2]["effect"].startswith("-10.0 [-10.0, -10.0]")
