"""What the sampler is asked and told."""

from typing import Any

import pytest
from search_spaces_of_tests import ONE, figures, make, run, space, suggest

from sweeper.search.engine import Search
from sweeper.search.space import SAMPLERS
from sweeper.search.study import Mirror, Told, fixed_proposal, importances, propose
from sweeper.storage.place import without_passwords

SINGLE = ("cma_es",)


def continuous(trial: Any) -> dict[str, Any]:
    trial.suggest_float("x", 0, 1)
    trial.suggest_float("y", 0, 1)
    return {}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_proposes_within_the_ranges_and_not_the_same_twice(sampler: str) -> None:
    search_space = space(ONE, suggest=continuous, sampler=sampler, budget={"trials": 24})
    search = Search(search_space, make(search_space))
    run(search)
    points = [(told.params["x"], told.params["y"]) for told in search.told()]
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in points)
    assert len(set(points)) == 24 or sampler == "nsga2"  # whose children may be their parents again


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_told_trials_give_the_same_proposal(sampler: str) -> None:
    search_space = space(ONE, suggest=continuous, sampler=sampler, budget={"trials": 16})
    search = Search(search_space, make(search_space))
    run(search)
    first, again = (propose(search_space, search.told(), 16) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "quasi_random", "random", "cma_es"])
def test_another_seed_proposes_something_else(sampler: str) -> None:
    search_space = space(ONE, suggest=continuous, sampler=sampler)
    told = [Told({"x": 0.5, "y": 0.5}, fixed_proposal(search_space, {"x": 0.5, "y": 0.5}).distributions, "completed", (0.5,))]
    assert propose(search_space, told, 1, seed=0).params != propose(search_space, told, 1, seed=1).params


def test_quasi_random_points_cover_the_square_more_evenly_than_chance() -> None:
    """32 points of a Sobol sequence: each quarter of each axis holds 8 of them, up to the first random one."""
    search_space = space(ONE, suggest=continuous, sampler="quasi_random", budget={"trials": 33})
    search = Search(search_space, make(search_space))
    run(search)
    counts = [sum(int(told.params["x"] * 4) == quarter for told in search.told()[1:]) for quarter in range(4)]
    assert all(7 <= count <= 9 for count in counts)


def test_cma_es_comes_near_the_best_point() -> None:
    search_space = space({"clean": "max"}, suggest=continuous, sampler="cma_es", budget={"trials": 60})
    search = Search(search_space, make(search_space))
    run(search, lambda work: {"clean": -((work.step.run["x"] - 0.3) ** 2) - (work.step.run["y"] - 0.7) ** 2})
    best = max(search.told(), key=lambda told: told.values[0])
    assert -best.values[0] < 0.01


def test_tpe_heeds_constraints() -> None:
    """clean_drop is x squared: with the bound 0.01 only x up to 0.1 is feasible, and later proposals keep to that more often than chance."""
    search_space = space(ONE, constraints=["clean_drop <= 0.01"], sampler="tpe", budget={"trials": 60})
    search = Search(search_space, make(search_space))
    run(search)
    late = [told.params["x"] for told in search.told()[30:]]
    assert sum(x <= 0.1 for x in late) > 9  # chance: 3


def test_conditional_parameters_are_asked_for_where_they_exist() -> None:
    search_space = space(budget={"trials": 20})
    search = Search(search_space, make(search_space))
    run(search)
    assert {told.params["kind"] for told in search.told()} == {"plain", "wide"}
    assert all(("width" in told.params) == (told.params["kind"] == "wide") for told in search.told())


def test_an_exception_in_suggest_is_told_with_the_spaces_name() -> None:
    with pytest.raises(ValueError, match=r"search space 'tests': suggest\(trial\) raised ZeroDivisionError"):
        propose(space(suggest=lambda trial: 1 / 0), [], 0)  # pyright: ignore[reportArgumentType]


def test_given_parameters_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="out of the range"):
        fixed_proposal(space(), {"x": 1.5, "kind": "plain"})


def test_a_given_parameter_that_is_not_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="does not ask for width where .*kind"):
        fixed_proposal(space(), {"x": 0.5, "kind": "plain", "width": 3})


def test_the_parameter_that_decides_is_the_most_important() -> None:
    search_space = space(ONE, suggest=continuous, sampler="random", budget={"trials": 40})
    search = Search(search_space, make(search_space))
    run(search)
    found = importances(search_space.objectives, search.told(), 0)
    assert list(found) == ["x", "y"]
    assert found["x"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


def test_importance_of_an_objective_that_is_minimised_looks_at_its_low_end() -> None:
    """robust_score is x above 0.8 and a constant below: only a search for the highest sees x matter at its top."""
    for direction, matters in (("max", True), ("min", False)):
        search_space = space({"robust_score": direction}, suggest=continuous, sampler="random", budget={"trials": 80})
        search = Search(search_space, make(search_space))
        run(search, lambda work: {"robust_score": max(0.9, work.step.run["x"]) + 0.01 * work.step.run["y"]})
        found = importances(search_space.objectives, search.told(), 0)
        assert (found["x"] > found["y"]) == matters


def test_importances_need_a_few_trials() -> None:
    with pytest.raises(ValueError, match="at least 4 completed trials, and there are 0"):
        importances(space().objectives, [])


def test_the_mirror_shows_each_trial_once_as_it_ended(tmp_path) -> None:
    import optuna

    search_space = space(budget={"trials": 6}, scheduler="halving", rungs=(2,), suggest=suggest)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    search = Search(search_space, make(search_space))
    mirror = Mirror(search_space, storage, "tests")
    while (work := search.next()) is not None:
        mirror.show(work.number, search.told()[work.number])
        search.ended(work, figures(work.step.run, work.step.rung))
    again = Mirror(search_space, storage, "tests")  # as after an interruption
    for number, told in enumerate(search.told()):
        again.show(number, told)
        again.show(number, told)
    study = optuna.load_study(study_name="tests", storage=storage)
    assert [(trial.params, trial.values) for trial in study.trials] == [(dict(told.params), list(told.values) or None) for told in search.told()]
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}


def test_a_storage_that_cannot_be_opened_is_named_without_its_password() -> None:
    with pytest.raises(ValueError, match=r"--storage nonsense://me:\*\*\*@host/db cannot be opened: NoSuchModuleError") as caught:
        Mirror(space(), "nonsense://me:secret@host/db", "tests")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:secret@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("--storage=mysql+pymysql://user:s/e:c@ret@host/db?a=b", "--storage=mysql+pymysql://user:***@host/db?a=b"),
        ("redis://:secret@host", "redis://:***@host"),
        ("postgresql:///db?user=me&password=secret&sslmode=require", "postgresql:///db?user=me&password=***&sslmode=require"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("s3://bucket/prefix?endpoint_override=http://127.0.0.1:9000", "s3://bucket/prefix?endpoint_override=http://127.0.0.1:9000"),
        ("model=file:mine@0123", "model=file:mine@0123"),
        ("--address http://127.0.0.1:8265", "--address http://127.0.0.1:8265"),
    ],
)
def test_a_url_is_shown_without_its_password_and_otherwise_as_it_is(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_a_storage_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(ValueError, match="--storage sqlite:////nowhere/at/all.db cannot be opened"):
        Mirror(space(), "sqlite:////nowhere/at/all.db", "tests")
