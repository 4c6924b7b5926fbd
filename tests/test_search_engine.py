"""What a search runs next: begun things first, then promotions, then the sampler; each thing once."""

import math

import pytest
from search_spaces_of_tests import ONE, TWO, figures, make, run, space

from sweeper.search.engine import EXHAUSTED, Failure, Search, Suggestion, settings_of
from sweeper.search.study import Proposal


def test_a_search_ends_when_its_budget_of_trials_is_run() -> None:
    search_space = space(budget={"trials": 5})
    search = Search(search_space, make(search_space))
    assert len(run(search)) == 5
    assert search.is_finished
    assert [standing.state for standing in search.standings] == ["completed"] * 5


def test_the_spaces_first_parameters_are_tried_first() -> None:
    search_space = space(budget={"trials": 3}, first=[{"x": 0.25, "kind": "plain"}])
    search = Search(search_space, make(search_space))
    run(search)
    assert search.standings[0].suggestion.proposal.params == {"x": 0.25, "kind": "plain"}
    assert [standing.suggestion.source for standing in search.standings] == ["first", "sampled", "sampled"]


def test_one_in_three_goes_on_from_a_rung_and_it_is_the_best() -> None:
    search_space = space(ONE, budget={"trials": 9}, scheduler="asha", rungs=(2,), sampler="random")
    search = Search(search_space, make(search_space))
    run(search)
    went_on = [standing for standing in search.standings if standing.state == "completed"]
    stopped = [standing for standing in search.standings if standing.state == "stopped"]
    assert len(went_on) >= 3  # more where a later trial took the place of one that had gone on
    best = max(search.standings, key=lambda standing: standing.reached[0]["robust_score"] or 0)
    assert best in went_on
    third = sorted((standing.reached[0]["robust_score"] or 0 for standing in search.standings), reverse=True)[2]
    assert all((standing.reached[0]["robust_score"] or 0) < third for standing in stopped)


def test_the_reference_goes_on_from_a_rung_whatever_it_reached() -> None:
    search_space = space(ONE, budget={"trials": 6}, scheduler="asha", rungs=(2,), first=[{"x": 0.0, "kind": "plain"}])
    search = Search(search_space, make(search_space))
    run(search)
    assert search.standings[0].state == "completed"


def test_a_trial_without_a_figure_is_told_as_failed() -> None:
    search_space = space(budget={"trials": 2})
    search = Search(search_space, make(search_space))
    run(search, lambda work: {"robust_score": math.nan, "clean": 0.5})
    assert [told.state for told in search.told()] == ["failed", "failed"]
    assert "no figure for robust_score" in (search.standings[0].failure or Failure("")).message


def test_a_failed_trial_is_told_as_failed_and_the_search_goes_on() -> None:
    search_space = space(budget={"trials": 3})
    search = Search(search_space, make(search_space))
    done = run(search, lambda work: Failure("loss is nan") if work.number == 1 else figures(work.step.run))
    assert len(done) == 3
    assert [told.state for told in search.told()] == ["completed", "failed", "completed"]


def test_settings_that_are_no_trial_fail_without_being_run() -> None:
    search_space = space(budget={"trials": 4})

    def refuses(settings, number):
        if number == 2:
            raise ValueError("codebook_size must be at least 2, got 1")
        return make(search_space)(settings, number)

    search = Search(search_space, refuses)
    assert [work.number for work in run(search)] == [0, 1, 3]
    assert search.standings[2].failure == Failure("codebook_size must be at least 2, got 1")


def test_equal_suggestions_are_run_once_and_both_are_told() -> None:
    search_space = space(budget={"trials": 6}, suggest=lambda trial: {"x": trial.suggest_categorical("x", [0.5])}, sampler="random")
    search = Search(search_space, make(search_space))
    first = search.next()
    assert first is not None
    assert search.next() is None  # the other five wait for the one that runs
    assert not search.is_finished
    search.ended(first, figures({"x": 0.5}))
    assert search.next() is None
    assert [told.values for told in search.told()] == [(0.5, 0.75)] * 6


def test_what_is_stored_already_is_not_run() -> None:
    search_space = space(budget={"trials": 4})
    search = Search(search_space, make(search_space), look_up=lambda step: figures(step.run))
    assert run(search) == []
    assert [told.state for told in search.told()] == ["completed"] * 4


def test_an_interrupted_search_goes_on_as_if_it_had_not_been() -> None:
    """Interrupted after each number of steps: the same trials are run, none twice, none is lost."""
    search_space = space(budget={"trials": 12}, scheduler="halving", rungs=(2,), first=[{"x": 0.5, "kind": "plain"}])

    def keys(works):
        return [work.key for work in works]

    whole = Search(search_space, make(search_space))
    expected = keys(run(whole))
    for steps in range(1, len(expected)):
        remembered: list[Suggestion] = []
        stored = {}

        def outcome(work, stored=stored):
            stored[work.key] = figures(work.step.run, work.step.rung)
            return stored[work.key]

        def resumed(remembered=remembered, stored=stored):
            return Search(
                search_space, make(search_space), begun=list(remembered), remember=remembered.append, look_up=lambda step: stored.get(step.key)
            )

        before = run(resumed(), outcome, limit=steps)
        lost = resumed()
        assert lost.next() is not None  # begun, and the process dies: nothing of it is stored
        again = resumed()
        after = run(again, outcome)
        assert keys(before) + keys(after) == expected
        assert again.told() == whole.told()


def test_warm_trials_are_run_at_full_length_beside_the_budget() -> None:
    search_space = space(budget={"trials": 3}, scheduler="halving", rungs=(2,))
    warm = [Proposal({"x": 0.9, "kind": "plain"}, {}, {"fixed": 1})]
    search = Search(search_space, make(search_space), warm=_with_distributions(search_space, warm))
    done = run(search)
    assert done[0].step.rung is None
    assert len(search.standings) == 4
    assert search.standings[0].suggestion.source == "warm_start"


def test_the_reference_is_number_zero_also_with_a_warm_start_and_goes_on_from_its_rung() -> None:
    first = [{"x": 0.0, "kind": "plain"}]
    search_space = space(ONE, budget={"trials": 4}, scheduler="asha", rungs=(2,), sampler="random", first=first)
    warm = _with_distributions(search_space, [Proposal({"x": 0.9, "kind": "plain"}, {}, {})])
    search = Search(search_space, make(search_space), warm=warm)
    run(search)
    assert [standing.suggestion.source for standing in search.standings] == ["first", "warm_start", "sampled", "sampled", "sampled"]
    assert (search.told()[0].label, search.told()[1].label) == ("reference", "#1")
    assert search.standings[0].state == "completed"  # the worst of all


def test_a_warm_start_of_a_search_that_has_begun_comes_after_what_it_has() -> None:
    search_space = space(ONE, budget={"trials": 2}, first=[{"x": 0.0, "kind": "plain"}])
    before = Search(search_space, make(search_space))
    run(before)
    warm = _with_distributions(search_space, [Proposal({"x": 0.9, "kind": "plain"}, {}, {}), Proposal({"x": 0.0, "kind": "plain"}, {}, {})])
    again = Search(search_space, make(search_space), begun=[standing.suggestion for standing in before.standings], warm=warm,
                   look_up=lambda step: figures(step.run) if step.run["x"] != 0.9 else None)  # fmt: skip
    assert again.num_begun == 1  # the other one is known already
    assert [work.number for work in run(again)] == [2]


def test_a_suggestion_that_equals_a_failed_one_fails_with_it_and_is_not_run() -> None:
    search_space = space(budget={"trials": 3}, suggest=lambda trial: {"x": trial.suggest_categorical("x", [0.5])}, sampler="random")
    search = Search(search_space, make(search_space))
    assert len(run(search, lambda work: Failure("loss is nan"))) == 1
    assert [told.state for told in search.told()] == ["failed"] * 3


def test_a_space_that_has_nothing_new_ends_a_search_that_only_time_bounds() -> None:
    search_space = space(budget={"seconds": 1e6}, suggest=lambda trial: {"x": trial.suggest_categorical("x", [0.25, 0.5])}, sampler="random")
    search = Search(search_space, make(search_space))
    assert len(run(search)) == 2
    assert len(search.standings) == EXHAUSTED + max(place for place, x in enumerate(_xs(search)) if x not in _xs(search)[:place]) + 1
    bounded = space(budget={"trials": 2 * EXHAUSTED}, suggest=search_space.suggest, sampler="random")
    search = Search(bounded, make(bounded))
    run(search)
    assert len(search.standings) == 2 * EXHAUSTED  # as many as were asked for


def _xs(search: Search) -> list[float]:
    return [standing.suggestion.settings["x"] for standing in search.standings]


def _with_distributions(search_space, proposals):
    from sweeper.search.study import fixed_proposal

    return [fixed_proposal(search_space, proposal.params) for proposal in proposals]


def test_no_trial_is_begun_when_the_gpu_hours_are_spent() -> None:
    search_space = space(budget={"gpu_hours": 1})
    search = Search(search_space, make(search_space), gpus=0.5)
    for _ in range(2):
        work = search.next()
        assert work is not None
        search.ended(work, figures(work.step.run), seconds=3600)
    assert search.next() is None
    assert search.gpu_seconds == 3600


def test_no_trial_is_begun_after_the_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    search_space = space(budget={"seconds": 60})
    now = [0.0]
    monkeypatch.setattr("sweeper.search.engine.time.monotonic", lambda: now[0])
    search = Search(search_space, make(search_space))
    assert search.next() is not None
    now[0] = 60.0
    assert search.next() is None


def test_several_entries_make_a_list_and_an_underscore_hides_a_parameter() -> None:
    params = {"codebook_size/2": 16, "codebook_size/1": 64, "retraining/num_epochs": 3, "_kind": "a", "beta": 0.5}
    assert settings_of(Proposal(params, {}, {"beta": 1.0})) == {"codebook_size": [64, 16], "retraining/num_epochs": 3, "beta": 1.0}


def test_figures_at_a_rung_do_not_enter_the_objectives_of_whole_trials() -> None:
    search_space = space(ONE, budget={"trials": 6}, scheduler="asha", rungs=(2,), sampler="random")
    search = Search(search_space, make(search_space))
    run(search)
    for standing, told in zip(search.standings, search.told(), strict=True):
        x = standing.suggestion.settings["x"]
        assert told.rungs == pytest.approx({2: x - 0.1})
        assert told.values == (pytest.approx((x,)) if standing.state == "completed" else ())
    assert {told.state for told in search.told()} == {"completed", "stopped"}
    assert len(TWO) == 2


def test_a_trial_that_fails_a_validity_check_is_told_as_infeasible() -> None:
    search_space = space(budget={"trials": 2})
    search = Search(search_space, make(search_space))
    run(search, lambda work: {**figures(work.step.run), "failed_checks": float(work.number)})
    assert [told.constraints for told in search.told()] == [{"failed_checks": 0}, {"failed_checks": 1}]


def test_equal_trials_at_a_rung_end_together() -> None:
    """Four equal ones and two lower: one of the equal ones is promoted, and all four are completed with it, as a later run would find."""
    values = iter([0.5, 0.5, 0.5, 0.5, 0.1, 0.2])

    def listed(trial):
        trial.suggest_categorical("_number", list(range(6)))
        return {"x": trial.suggest_categorical("x", [0.5, 0.1, 0.2])}

    first = [{"_number": number, "x": next(values)} for number in range(6)]
    search_space = space(ONE, budget={"trials": 6}, scheduler="asha", rungs=(2,), first=first, suggest=listed)
    stored = {}

    def outcome(work):
        stored[work.key] = figures(work.step.run, work.step.rung)
        return stored[work.key]

    search = Search(search_space, make(search_space))
    run(search, outcome)
    assert [standing.state for standing in search.standings] == ["completed"] * 4 + ["stopped"] * 2
    begun = [standing.suggestion for standing in search.standings]
    assert Search(search_space, make(search_space), begun=begun, look_up=lambda step: stored.get(step.key)).told() == search.told()


def test_a_loss_of_exactly_the_bound_keeps_it() -> None:
    """(495 - 490) / 500 as a difference of two shares is 0.010000000000000009."""
    (constraint,) = space(constraints=["clean_drop <= 0.01"]).constraints
    assert 495 / 500 - 490 / 500 > 0.01
    assert constraint.violation(495 / 500 - 490 / 500) == 0
