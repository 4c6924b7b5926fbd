"""What a search's storage is shown, and how many runs are said to be left, without networks."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from search_spaces_of_tests import ONE, figures, make, space
from small_sweep import Silent

from sweeper.search.engine import Search, Step
from sweeper.search.running import Feed, expected_runs
from sweeper.search.space import SearchSpace
from sweeper.search.study import Told
from sweeper.worker import Finished


class Recorded:
    """Stands for a mirror: the last state that each trial was shown in."""

    storage = "postgresql://me:secret@host/db"

    def __init__(self, fails_after: int = 10_000) -> None:
        self.states: dict[int, str] = {}
        self.left = fails_after

    def show(self, number: int, told: Told) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("disk is full")
        if self.states.get(number, "running") == "running":  # as Optuna: what has ended stays
            self.states[number] = told.state


def feed_of(search_space: SearchSpace, mirror: Recorded, warnings: list[str] | None = None, view: Silent | None = None, results: Any = None) -> Feed:
    """Return a feed whose runs are known by their settings, and whose ledger computes their figures."""

    def steps(settings: Mapping[str, Any], number: int) -> list[Step]:
        return [Step(s.rung, s.key, SimpleNamespace(key=s.key, settings=settings, rung=s.rung)) for s in make(search_space)(settings, number)]

    ledger: Any = SimpleNamespace(figures=lambda trial: {trial.key: figures(trial.settings, trial.rung)}, results=results)
    said = [] if warnings is None else warnings
    return Feed(Search(search_space, steps), ledger, view or Silent(), mirror, said.append)  # pyright: ignore[reportArgumentType]


def finish(feed: Feed, status: str = "completed", reason: str | None = None) -> None:
    while (trial := feed.next()) is not None:
        feed.ended(trial, Finished(*trial.key, status, reason))


def test_equal_suggestions_that_wait_for_one_run_are_all_shown_as_ended() -> None:
    one = space(budget={"trials": 3}, suggest=lambda trial: {"x": trial.suggest_categorical("x", [0.5])}, sampler="random")
    mirror = Recorded()
    feed = feed_of(one, mirror)
    first = feed.next()
    assert first is not None and feed.next() is None and not feed.is_finished
    assert mirror.states == {0: "running", 1: "running", 2: "running"}
    feed.ended(first, Finished(*first.key, "completed"))
    assert mirror.states == {0: "completed", 1: "completed", 2: "completed"}


def test_a_trial_at_a_rung_is_shown_as_running_until_the_search_ends_without_it() -> None:
    mirror = Recorded()
    feed = feed_of(space(ONE, budget={"trials": 6}, scheduler="asha", rungs=(2,), sampler="random"), mirror)
    finish(feed)
    assert set(mirror.states.values()) == {"completed", "running"}
    feed.close()
    assert set(mirror.states.values()) == {"completed", "stopped"}


@pytest.mark.parametrize(("reason", "shown"), [("nan", "failed"), ("lost", "running")])
def test_a_trial_that_is_tried_again_by_itself_is_not_shown_as_failed(reason: str, shown: str) -> None:
    mirror = Recorded()
    feed = feed_of(space(budget={"trials": 2}), mirror)
    finish(feed, "failed", reason)
    feed.close()
    assert mirror.states == {0: shown, 1: shown}
    assert [told.state for told in feed.search.told()] == ["failed", "failed"]


def test_a_storage_that_fails_on_the_way_is_said_once_and_the_search_goes_on() -> None:
    warnings: list[str] = []
    feed = feed_of(space(budget={"trials": 5}), Recorded(fails_after=3), warnings)
    finish(feed)
    feed.close()
    assert warnings == ["--storage postgresql://me:***@host/db is no longer written: OSError: disk is full"]
    assert [told.state for told in feed.search.told()] == ["completed"] * 5


def test_a_search_goes_on_when_its_small_files_cannot_be_merged_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("the bucket does not answer")

    view, notes = Silent(), []
    monkeypatch.setattr(view, "note", notes.append)
    monkeypatch.setattr("sweeper.sweep.COMPACT_EVERY", 2)
    feed = feed_of(space(budget={"trials": 5}), Recorded(), view=view, results=SimpleNamespace(compact=fail))
    finish(feed)
    assert len(notes) == 2 and all("the bucket does not answer" in note for note in notes)
    assert [told.state for told in feed.search.told()] == ["completed"] * 5


def test_runs_that_are_left_are_counted_from_what_is_still_to_be_asked_for() -> None:
    search_space = space(ONE, budget={"trials": 9}, scheduler="asha", rungs=(2,), sampler="random", reduction=3)
    rung: Any = SimpleNamespace(config=SimpleNamespace(training=SimpleNamespace(num_epochs=2)))
    plan: Any = SimpleNamespace(space=search_space, base=SimpleNamespace(trials=[rung, "whole"]))
    feed = feed_of(search_space, Recorded())
    assert expected_runs(plan, feed.search) == 9 + 3
    feed.next()
    assert expected_runs(plan, feed.search) == 8 + 3  # 8, and a third of them; the one that runs is neither begun nor to be asked for
    finish(feed)
    assert expected_runs(plan, feed.search) == 0
