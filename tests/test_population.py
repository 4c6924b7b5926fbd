"""Population-based training: who takes over whose phases, what a member goes on with, and what the tables say of it."""

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_spaces_of_tests import ONE, TWO, run, space
from small_sweep import Silent
from tiny_sweep import SIZES, invoke

from sweeper import arguments, search_results
from sweeper.plan import PlannedTrial
from sweeper.results import Results
from sweeper.search import population
from sweeper.search.engine import Search, settings_of
from sweeper.search.estimate import describe
from sweeper.search.outcome import outcome
from sweeper.search.plan import SearchPlan, plan_search
from sweeper.search.population import Individual, explored, followed, next_heir, next_phases
from sweeper.search.running import expected_by_rung, inline_search, run_search
from sweeper.search.space import SearchSpace
from sweeper.search.standing import Failure, Step, Suggestion, Work
from sweeper.search.stored import read_search
from sweeper.search.study import Proposal
from sweeper.search.warm import warm_proposals
from sweeper.stored_plans import states

EIGHT = {member: float(member) for member in range(8)}  # 0 and 1 are the bottom quarter, 6 and 7 the top


class Drawn(random.Random):
    """Draws what it is told to, in turn."""

    def __init__(self, *positions: int) -> None:
        super().__init__(0)
        self.positions = list(positions)

    def choice(self, seq: Sequence[Any]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return seq[self.positions.pop(0)]


# Who goes on with whose phases


def test_the_bottom_two_of_eight_take_over_one_of_the_top_two_and_the_others_go_on_with_their_own() -> None:
    for draw, taken in ((0, 7), (1, 6)):
        assert [followed(EIGHT, member, Drawn(draw)) for member in range(8)] == [taken, taken, 2, 3, 4, 5, 6, 7]


def test_a_quarter_is_rounded_down() -> None:
    assert [followed({member: EIGHT[member] for member in range(7)}, member, Drawn(0)) for member in range(7)] == [6, 1, 2, 3, 4, 5, 6]


def test_fewer_than_four_are_not_judged() -> None:
    assert followed({0: 0.0, 1: 1.0, 2: 2.0}, 0, Drawn()) == 0  # it draws nothing
    assert followed({0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}, 0, Drawn(0)) == 3


def test_nobody_gives_way_to_an_equal_and_of_two_equal_ones_the_later_is_the_worse() -> None:
    assert [followed(dict.fromkeys(range(4), 0.5), member, Drawn(0)) for member in range(4)] == [0, 1, 2, 3]
    assert [followed({0: 0.5, 1: 0.5, 2: 0.9, 3: 0.9}, member, Drawn(0)) for member in range(4)] == [0, 2, 2, 3]


def test_a_member_that_failed_takes_over_another_as_soon_as_four_can_be_compared() -> None:
    assert followed({1: 1.0, 2: 2.0, 3: 3.0}, 0, Drawn()) is None
    assert followed({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}, 0, Drawn(0)) == 4


# With which values


def test_an_explored_value_is_a_fifth_more_or_a_sixth_less_and_stays_in_its_range() -> None:
    phase = {"num_epochs": 2, "learning_rate": 4e-3, "loss_weights": {"alpha": 1.0, "beta": 0.5}}
    ranges = {"learning_rate": (1e-3, 1e-2), "alpha": (0.1, 10.0), "beta": (0.05, 4.0)}
    up, down = explored(phase, ranges, Drawn(0, 0, 0)), explored(phase, ranges, Drawn(1, 1, 1))
    assert up == {"num_epochs": 2, "learning_rate": pytest.approx(4.8e-3), "loss_weights": {"alpha": pytest.approx(1.2), "beta": pytest.approx(0.6)}}
    assert (down["learning_rate"], down["loss_weights"]["beta"]) == pytest.approx((4e-3 / 1.2, 0.5 / 1.2))
    narrow = {"learning_rate": (3.5e-3, 4.5e-3), "beta": (0.5, 0.5)}
    assert explored(phase, narrow, Drawn(0, 0)) == phase | {"learning_rate": 4.5e-3}  # alpha is not searched, beta has one value
    assert explored(phase, narrow, Drawn(0, 1))["learning_rate"] == 3.5e-3


def test_a_member_that_goes_on_repeats_its_last_phase_and_the_phases_before_stay_as_they_were() -> None:
    phases = [{"num_epochs": 1, "learning_rate": rate, "loss_weights": {}} for rate in (4e-3, 2e-3)]
    assert next_phases(phases, {}, None) == [*phases, phases[1]]
    assert next_phases(phases, {"learning_rate": (1e-3, 1e-2)}, Drawn(1))[:2] == phases
    assert next_phases(phases, {"learning_rate": (1e-3, 1e-2)}, Drawn(0))[2]["learning_rate"] == pytest.approx(2.4e-3)


def individual(member: int, score: float | None, *, generation: int = 1, number: int | None = None, has_failed: bool = False) -> Individual:
    settings = population.begun({"depth": member, "beta": 1.0}, 1e-3 * (member + 1), {"beta": 0.1 * (member + 1)}, 2)
    params = {"learning_rate": 1e-3 * (member + 1), "beta": 0.1 * (member + 1), "depth": member}
    ranges = {"learning_rate": (1e-4, 1e-1), "beta": (0.01, 1.0)}
    return Individual(member if number is None else number, member, generation, params, ranges, settings, score, has_failed)


def test_who_is_replaced_inherits_weights_and_other_settings_and_changes_the_perturbed_values_in_the_new_phase() -> None:
    heir = next_heir([individual(member, float(member)) for member in range(4)], generations=3, seed=0)
    assert heir is not None
    assert (heir.member, heir.generation, heir.parent, heir.source) == (0, 2, 3, "exploited")
    first, second = heir.settings["phases"]
    assert first == {"num_epochs": 2, "learning_rate": 4e-3, "loss_weights": {"beta": 0.4}}
    assert any(second["learning_rate"] == pytest.approx(4e-3 * factor) for factor in (1.2, 1 / 1.2))
    assert any(second["loss_weights"]["beta"] == pytest.approx(0.4 * factor) for factor in (1.2, 1 / 1.2))
    assert heir.params == {"learning_rate": second["learning_rate"], "beta": second["loss_weights"]["beta"], "depth": 3}
    assert {name: value for name, value in heir.settings.items() if name != "phases"} == {"depth": 3}


def test_the_member_furthest_behind_goes_on_first_and_ends_after_its_last_generation() -> None:
    members = [individual(member, 1.0) for member in range(3)] + [individual(0, 1.0, generation=2, number=3)]
    heir = next_heir(members, generations=2, seed=0)
    assert heir is not None and (heir.member, heir.generation, heir.parent, heir.source) == (1, 2, 1, "continued")
    rest = [*members, individual(1, None, generation=2, number=4), individual(2, None, generation=2, number=5)]
    assert next_heir(rest, generations=2, seed=0) is None


def test_draws_depend_on_seed_member_and_generation_alone() -> None:
    scored = [individual(member, float(member)) for member in range(4)]
    again = [individual(member, 100.0 * member) for member in range(4)]
    assert next_heir(scored, generations=3, seed=0) == next_heir(again, generations=3, seed=0)
    rates = {heir.settings["phases"][1]["learning_rate"] for seed in range(8) if (heir := next_heir(scored, generations=3, seed=seed))}
    assert len(rates) == 2


# A whole search, of trials that are computed at once


def rate_and_depth(trial: Any) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    trial.suggest_int("depth", 1, 3)
    return {"fixed": 1}


def of_population(seed: int = 0, *, objectives: Mapping[str, str] = ONE, **more: Any) -> SearchSpace:
    made = space(objectives, suggest=rate_and_depth, scheduler="pbt", **{"population": 8, "generations": 8, "phase_epochs": 1, **more})
    return dataclasses.replace(made, seed=seed)


def settle(proposal: Proposal) -> dict[str, Any]:
    settings = settings_of(proposal)
    return population.begun(settings, settings["learning_rate"], {}, 1)


def make(search_space: SearchSpace) -> Any:
    def steps(settings: Mapping[str, Any], number: int) -> list[Step]:
        generation, words = len(settings["phases"]), str(sorted(settings.items()))
        scored = [Step(generation - 1, (words, "quick"), settings)] if generation < search_space.generations else []
        return [*scored, Step(None, (words, "whole"), settings)]

    return steps


def rates(settings: Mapping[str, Any]) -> list[float]:
    return [phase["learning_rate"] for phase in settings["phases"]]


def distance(values: Sequence[float]) -> float:
    """Return how far learning rates lie from 0.008, 0.0064, …, each a fifth lower: the mean of |ln| of their ratios."""
    return sum(abs(math.log(value / (0.008 * 0.8**place))) for place, value in enumerate(values)) / len(values)


def near_the_schedule(work: Work) -> dict[str, float | None]:
    return {"robust_score": -distance(rates(work.step.run))}


@pytest.mark.parametrize("seed", range(5))
def test_the_best_schedule_ends_nearer_to_the_rewarded_one_than_the_best_constant_rate_of_its_members(seed: int) -> None:
    search_space = of_population(seed)
    search = Search(search_space, make(search_space), settle=settle)
    run(search, near_the_schedule)
    assert len(search.standings) == 64  # of which those that took over the same phases in the same way are one run
    best = min(distance(rates(one.suggestion.settings)) for one in search.standings if one.state == "completed")
    constant = min(distance(rates(one.suggestion.settings) * 8) for one in search.standings if one.suggestion.generation == 1)
    assert best < constant


def test_members_begin_together_and_only_their_last_generations_are_completed() -> None:
    search_space = of_population(generations=3)
    search = Search(search_space, make(search_space), settle=settle)
    done = run(search, near_the_schedule)
    assert [(standing.suggestion.generation, standing.state) for standing in search.standings] == (
        [(1, "continued")] * 8 + [(2, "continued")] * 8 + [(3, "completed")] * 8
    )
    assert [rung for rung, _ in groupby(work.step.rung for work in done)] == [0, 1, None]
    assert Counter(standing.suggestion.source for standing in search.standings) == {"sampled": 8, "continued": 12, "exploited": 4}
    told = search.told()
    assert [one.state for one in told] == ["stopped"] * 16 + ["completed"] * 8
    assert [list(one.rungs) for one in told] == [[1]] * 8 + [[2]] * 8 + [[]] * 8
    for standing in search.standings[8:]:
        suggestion, parent = standing.suggestion, search.standings[standing.suggestion.parent or 0].suggestion
        assert (suggestion.member == parent.member) == (suggestion.source == "continued")
        assert suggestion.settings["phases"][:-1] == parent.settings["phases"]
        assert suggestion.proposal.params["depth"] == parent.proposal.params["depth"]


def test_with_a_worker_for_each_member_the_first_three_that_are_scored_go_on_unjudged() -> None:
    search_space = of_population(generations=2)
    search = Search(search_space, make(search_space), settle=settle)
    first = [search.next() for _ in range(8)]
    assert search.next() is None  # nobody is scored yet
    sources = []
    for work in sorted((work for work in first if work), key=lambda work: distance(rates(work.step.run)), reverse=True):  # the worst ends first
        search.ended(work, near_the_schedule(work))
        again = search.next()
        assert again is not None
        sources.append(search.standings[again.number].suggestion.source)
    assert sources == ["continued"] * 8  # each was the best of those that had been scored


def test_a_member_that_fails_takes_over_another_and_one_whose_worker_was_lost_waits_for_the_next_run() -> None:
    search_space = of_population(population=6, generations=2)

    def outcome(work: Work) -> Any:
        failures = {0: Failure("loss is nan"), 1: Failure("its worker was lost", is_final=False)}
        return failures.get(work.number) or near_the_schedule(work)

    search = Search(search_space, make(search_space), settle=settle)
    run(search, outcome)
    later = {one.suggestion.member: one.suggestion for one in search.standings if one.suggestion.generation == 2}
    assert sorted(member for member in later if member is not None) == [0, 2, 3, 4, 5]
    assert later[0].source == "exploited"
    assert [search.standings[number].state for number in (0, 1)] == ["failed", "failed"]
    assert search.is_finished


def test_a_population_goes_on_without_a_generation_whose_row_is_lost() -> None:
    search_space = of_population(population=5, generations=3, budget={"trials": 16})  # the lost one counts, and is made again
    before = Search(search_space, make(search_space), settle=settle)
    run(before, near_the_schedule, limit=10)  # two generations of each
    begun = [standing.suggestion for standing in before.standings[:10]]
    begun[7] = Suggestion(7, "sampled", Proposal({}, {}, {}), {}, (), "its row of table suggestions is lost")  # as a ledger has it
    again = Search(
        search_space,
        make(search_space),
        settle=settle,
        begun=begun,
        look_up=lambda step: near_the_schedule(Work(0, step)) if step.rung in (0, 1) else None,
    )
    run(again, near_the_schedule)
    assert Counter(standing.state for standing in again.standings if standing.suggestion.generation == 3) == {"completed": 5}
    assert again.standings[7].state == "failed"


def test_an_interrupted_population_goes_on_as_if_it_had_not_been() -> None:
    """Interrupted after each number of steps: the same generations are run with the same decisions, none twice, none is lost."""
    search_space = of_population(population=5, generations=4, sampler="tpe")
    whole = Search(search_space, make(search_space), settle=settle)
    expected = [work.key for work in run(whole, near_the_schedule)]
    assert len(expected) == 20
    for steps in range(1, len(expected)):
        remembered: list[Suggestion] = []
        stored: dict[tuple[str, str], Any] = {}

        def outcome(work: Work, stored: dict[tuple[str, str], Any] = stored) -> Any:
            stored[work.key] = near_the_schedule(work)
            return stored[work.key]

        def resumed(remembered: list[Suggestion] = remembered, stored: dict[tuple[str, str], Any] = stored) -> Search:
            return Search(
                search_space,
                make(search_space),
                settle=settle,
                begun=list(remembered),
                remember=remembered.append,
                look_up=lambda step: stored.get(step.key),
            )

        before = run(resumed(), outcome, limit=steps)
        assert resumed().next() is not None  # begun, and the process dies: nothing of it is stored
        again = resumed()
        after = run(again, outcome)
        assert [work.key for work in before + after] == expected
        assert [standing.suggestion for standing in again.standings] == [standing.suggestion for standing in whole.standings]
        assert again.told() == whole.told()


def test_a_budget_of_trials_ends_a_population_before_its_last_generation() -> None:
    search_space = of_population(population=4, generations=3, budget={"trials": 9})
    search = Search(search_space, make(search_space), settle=settle)
    assert len(run(search, near_the_schedule)) == 9
    assert Counter(standing.state for standing in search.standings) == {"continued": 5, "stopped": 3, "completed": 1}
    assert expected_by_rung(SimpleNamespace(space=search_space), 9) == [(1, 4.0), (2, 4.0), (None, 1.0)]


# What a space may say


def test_a_population_has_a_trial_for_each_generation_of_each_member_and_is_sampled_at_random() -> None:
    search_space = of_population(population=6, generations=3, phase_epochs=2)
    assert (search_space.budget.trials, search_space.sampler, search_space.rungs) == (18, "random", (2, 4))
    assert expected_by_rung(SimpleNamespace(space=search_space), search_space.most_trials) == [(2, 6.0), (4, 6.0), (None, 6.0)]
    other = of_population(sampler="tpe", budget={"gpu_hours": 1})
    assert (other.sampler, other.budget.trials, other.population, other.generations) == ("tpe", None, 8, 8)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"population": 3}, "POPULATION must be a whole number of at least 4, since .*; got 3"),
        ({"generations": 1}, "GENERATIONS must be a whole number of at least 2, since .*; got 1"),
        ({"phase_epochs": 0}, "PHASE_EPOCHS must be a whole number of at least 1, since .*; got 0"),
        ({"population": True}, "POPULATION must be a whole number of at least 4, since .*; got True"),
        ({"objectives": TWO}, "scheduler 'pbt' compares trials by one objective, and there are 2"),
        ({"first": [{}] * 9}, r"FIRST begins members of the population, of which there are 8 \(POPULATION\), got 9"),
    ],
)
def test_a_population_that_cannot_be_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_population(**more)


def planned(suggest: Any, settings: Mapping[str, Any] | None = None, **more: Any) -> SearchPlan:
    search_space = space(ONE, suggest=suggest, scheduler="pbt", **{"population": 4, "generations": 3, "phase_epochs": 2, **more})
    common = {"fingerprint": "f" * 64, "dataset": "digits", "scale": "small", "settings": settings or {}}
    return plan_search("tests", search_space, SimpleNamespace(), "", **common)  # pyright: ignore[reportArgumentType]


def returning(*numbers: str, **fixed: Any) -> Any:
    def suggest(trial: Any) -> dict[str, Any]:
        for number in numbers:
            trial.suggest_float(number, 0.001, 0.01)
        return fixed

    return suggest


@pytest.mark.parametrize(
    ("suggest", "settings", "message"),
    [
        (returning("train_noise", train_input="gauss"), {}, "there are none; of 'vqunet' could be asked for: learning_rate, alpha, beta"),
        (returning("weight_decay", model="vq_vae"), {}, "there are none; of 'vq_vae' could be asked for: learning_rate"),
        (returning("learning_rate", model="identity"), {}, "of 'identity' is trained on nothing, and has no schedule"),
        (lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [0.001, 0.01])}, {}, "asks for with suggest_float"),
        (returning("learning_rate", phases=[{"num_epochs": 1, "learning_rate": 0.1}]), {}, r"suggest\(trial\) gives 'phases': leave it out"),
        (returning("learning_rate"), {"phases": []}, "--set gives 'phases': leave it out"),
        (returning("learning_rate", num_epochs=8), {}, "num_epochs of a training with phases must be 2"),
    ],
)
def test_a_space_that_gives_a_population_nothing_to_do_is_refused(suggest: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(suggest, settings)


def test_a_phase_has_the_perturbed_values_and_the_options_are_the_same_for_all_members() -> None:
    plan = planned(returning("learning_rate", "beta", "weight_decay"), {"learning_rate": 0.5, "alpha": 2.0})
    proposal = Proposal({"learning_rate": 0.004, "beta": 0.002, "weight_decay": 0.003}, dict.fromkeys(("learning_rate", "beta", "weight_decay"), (
        '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.01, "log": false}}'
    )), {})  # fmt: skip
    settings = plan.settle(proposal)
    assert settings == {"weight_decay": 0.003, "phases": [{"num_epochs": 2, "learning_rate": 0.004, "loss_weights": {"beta": 0.002}}]}
    scored, whole = plan.make(settings, 5)
    config = whole.run.config
    assert (scored.run.evaluation.name, whole.run.evaluation.name, scored.run.label) == ("quick", "standard", "#5, generation 1")
    assert scored.run.trial_id == whole.run.trial_id
    assert (config.model_options["beta"], config.training.phases[0].loss_weights) == (1.0, {"alpha": 2.0, "beta": 0.002})
    longer = {**settings, "phases": [*settings["phases"], {"num_epochs": 2, "learning_rate": 0.003, "loss_weights": {"beta": 0.001}}]}
    assert list(plan.make(longer, 9)[0].run.config.phase_keys.values())[0] == config.weights_key
    assert [step.rung for step in plan.make({**settings, "phases": settings["phases"] * 3}, 9)] == [None]


def test_a_learning_rate_that_is_not_searched_is_that_of_the_settings_in_every_phase() -> None:
    plan = planned(returning("beta", learning_rate=0.002))
    phases = plan.base.trials[-1].config.training.phases
    assert [phase.learning_rate for phase in phases] == [0.002] * 3


def test_a_plan_counts_trials_per_generation_and_trains_no_network_that_no_member_has(tmp_path: Path) -> None:
    plan = planned(returning("learning_rate"))
    rows, notes = describe(plan, tmp_path, slots=1)
    assert [(row["what"], row["epochs"], row["trials"]) for row in rows[1:4]] == [
        ("generation 1", 2, 4),
        ("generation 2", 4, 4),
        ("generation 3", 6, 4),
    ]
    assert rows[1]["seconds_each"] == rows[2]["seconds_each"]  # each trains its last phase alone
    assert "scheduler pbt (4 members, 3 generations)" in notes[0]
    assert {stage.kind for stage in plan.base.stages}.isdisjoint({"purifiers", "retrained"})


def test_whole_trials_of_other_sweeps_are_not_offered_to_a_population(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--warm-start offers whole trials, and scheduler 'pbt' makes trials of phases"):
        warm_proposals(planned(returning("learning_rate")), tmp_path, ["ablations"])


def test_an_earlier_generation_that_another_search_has_run_at_full_length_is_not_taken_for_a_last_one() -> None:
    search_space = of_population(population=4, generations=2)
    search = Search(search_space, make(search_space), settle=settle, look_up=lambda step: {"robust_score": 0.5})
    assert run(search) == []
    assert [standing.state for standing in search.standings] == ["continued"] * 4 + ["completed"] * 4


# What the tables say

AT = datetime(2026, 1, 2, tzinfo=UTC)


def suggested(number: int, **more: Any) -> dict[str, Any]:
    texts = dict.fromkeys(("label", "source", "params", "distributions", "settings", "objectives", "constraints", "sampler", "scheduler"), "")
    named = {"trial_id": f"whole{number}", "evaluation_id": "standard", "rung_trial_ids": [f"rung{number}"], "rung_evaluation_id": "quick"}
    return {"sweep": "s", "plan_hash": "p", "number": number, "asked": AT, "rung_epochs": [1], **texts, **named, **more}


def tried(name: str, status: str, attempt: int = 1, evaluation: str = "quick") -> dict[str, Any]:
    return {"trial_id": name, "evaluation_id": evaluation, "attempt": attempt, "status": status, "message": status}


@pytest.mark.parametrize(
    ("tries", "later", "status"),
    [
        ([], (), "missing"),  # being run, or lost
        ([tried("rung0", "failed")], (), "failed"),
        ([tried("rung0", "failed"), tried("rung0", "completed", 2)], (), "continued"),  # scored
        ([tried("rung0", "completed"), tried("whole0", "stopped", 1, "standard")], (), "stopped"),  # left there when the budget was spent
        ([tried("rung0", "completed"), tried("whole0", "stopped", 1, "standard")], (2,), "continued"),  # and gone on with under a larger one
        ([tried("rung0", "failed")], (2,), "failed"),  # its member went on with another's phases
    ],
)
def test_an_earlier_generation_is_continued_once_it_is_scored(tries: list[Any], later: tuple[int, ...], status: str, tmp_path: Path) -> None:
    results = Results(tmp_path, create=True)
    results.publish("attempts", "aa", tries)
    results.publish("suggestions", "ss", [suggested(0, member=0, generation=1), *(suggested(1, member=0, generation=one) for one in later)])
    found = states(results, [{"trial_id": "whole0", "evaluation_id": "standard", "plan_hash": "p", "parts": ["scores/none"]}])
    assert found["whole0", "standard"]["status"] == status


def test_a_trial_that_fails_at_its_rung_is_failed_and_not_missing(tmp_path: Path) -> None:
    results = Results(tmp_path, create=True)
    results.publish("attempts", "aa", [tried("rung0", "failed"), tried("rung1", "completed")])
    results.publish("suggestions", "ss", [suggested(0), suggested(1)])
    planned = [{"trial_id": f"whole{n}", "evaluation_id": "standard", "plan_hash": "p", "parts": ["scores/none"]} for n in (0, 1)]
    assert [one["status"] for one in states(results, planned).values()] == ["failed", "missing"]


# The real one, small

TINY = """
OBJECTIVES = {"robust_score": "max"}
SCHEDULER = "pbt"
POPULATION = 4
GENERATIONS = 2
PHASE_EPOCHS = 1


def suggest(trial):
    trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    trial.suggest_float("beta", 0.05, 4.0, log=True)
    return {"depth": 1, "base_width": 2, "codebook_size": 8, "retraining/num_epochs": 1, "target/training/num_epochs": 4}
"""


class Heard(Silent):
    """Remembers which epoch of which phases was trained; `left` trials later it is interrupted."""

    def __init__(self, left: int | None = None) -> None:
        super().__init__()
        self.epochs: list[tuple[str, int]] = []
        self.left = left

    def trial_progress(self, trial: PlannedTrial, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if stage == "train":
            self.epochs.append((trial.config.phase_keys[done], done))

    def trial_ended(self, trial: PlannedTrial, finished: Any) -> None:
        super().trial_ended(trial, finished)
        if len(self.trials) == self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int]], list[list[str]]]:
    """A results root, the epochs that were trained for it, and the statuses in it after each of two interruptions and at the end."""
    folder = tmp_path_factory.mktemp("population")
    file, root = folder / "tiny.py", folder / "results"
    file.write_text(TINY)
    asked = arguments.read_arguments(str(file), None, None, "small", [word for word in SIZES if word != "--set"], "0.1", None)
    plan = search_results.make_search(asked, None, None, "test", search_results.SearchOptions())
    epochs, statuses = [], []

    for left in (2, 3, None):
        view = Heard(left)
        with pytest.raises(KeyboardInterrupt) if left else nullcontext():
            run_search(plan, asked.splits, root, None, inline_search, view, warn=pytest.fail)
        epochs += view.epochs
        statuses.append([trial.state for trial in read_search(Results(root), "tiny").trials])
    return root, epochs, statuses


def test_every_phase_of_every_member_is_trained_once_across_interruptions(searched: Any) -> None:
    root, epochs, statuses = searched
    search = read_search(Results(root), "tiny")
    assert len(search.trials) == 8 and len({trial.key for trial in search.trials}) == 8
    assert Counter(epochs).most_common(1)[0][1] == 1
    assert Counter(epoch for _, epoch in epochs) == {1: 4, 2: 4}
    assert statuses == [["continued"] * 2, ["continued"] * 4 + ["completed"], ["continued"] * 4 + ["completed"] * 4]


def test_the_tables_say_which_weights_a_generation_goes_on_from(searched: Any) -> None:
    root = searched[0]
    search = read_search(Results(root), "tiny")
    assert [(trial.member, trial.generation, trial.parent) for trial in search.trials[:4]] == [(member, 1, None) for member in range(4)]
    scores = {trial.number: trial.rungs[1]["robust_score"] for trial in search.trials[:4]}
    for trial in search.trials[4:]:
        parent = search.trials[trial.parent or 0]
        assert trial.source == ("continued" if parent.number == trial.member else "exploited")
        assert scores[parent.number] >= scores[trial.member or 0]
        assert trial.settings["phases"][:1] == parent.settings["phases"]
        assert trial.params["learning_rate"] == trial.settings["phases"][1]["learning_rate"]


def test_the_best_is_shown_with_its_schedule_and_no_reader_counts_earlier_generations(searched: Any) -> None:
    root = searched[0]
    search = read_search(Results(root), "tiny")
    rates, betas = (", ".join(f"{value:.4g}" for value in values) for values in population.schedule_of(search.pareto()[0].settings).values())
    assert outcome(Results(root), search).shown()[0]["searched settings"] == f"learning_rate=[{rates}], beta=[{betas}]"
    shown = invoke("pareto", "tiny", "--results", root)
    assert shown.exit_code == 0 and "8 trials by random, scheduler pbt: 4 completed, 4 continued." in shown.stdout + shown.stderr
    ranked = invoke("rank", "tiny", "--results", root, "--format", "json").stdout
    assert ranked.count('"rank"') == 4 and ranked.count("generation 2") >= 4 and "generation 1" not in ranked
    status = invoke("status", "--results", root, "--format", "csv").stdout
    assert status.splitlines()[0].split(",")[5:8] == ["trials", "completed", "continued"]
    assert status.splitlines()[1].split(",")[5:10] == ["8", "4", "4", "0", "0"]
    assert "over 4 completed trials" in invoke("importance", "tiny", "--results", root).stdout
    refused = invoke("suggest-next", "tiny", "--results", root)
    assert refused.exit_code == 2 and "asks its sampler for the members' first values alone" in refused.stderr
