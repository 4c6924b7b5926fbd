"""What is run again, and how often."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from small_sweep import small_plan

from sweeper.cluster.queue import LOST_NODES, LOST_RETRIES, Queue
from sweeper.cluster.resources import Resources
from sweeper.cluster.supply import Listed, Supply
from sweeper.datasets import Splits
from sweeper.worker import Finished


def queue(works: str, alive: set[str]) -> Queue[str]:
    rest: Iterator[str] = iter(works)
    return Queue(lambda: next(rest, None), lambda work: work, lambda node: node in alive)


def test_lost_work_comes_before_new_work() -> None:
    it = queue("ab", {"n"})
    assert it.next() == ("a", False)
    assert it.lost("a", "n")
    assert [it.next(), it.next(), it.next()] == [("a", False), ("b", False), None]


def test_work_whose_process_dies_each_time_is_given_up() -> None:
    it = queue("a", {"n"})
    it.next()
    assert [it.lost("a", "n") for _ in range(LOST_RETRIES + 1)] == [True] * LOST_RETRIES + [False]


def test_a_process_that_dies_on_an_unknown_node_counts() -> None:
    it = queue("a", {"n"})
    assert [it.lost("a", None) for _ in range(LOST_RETRIES + 1)][-1] is False


def test_nodes_that_die_use_up_no_retries() -> None:
    it = queue("a", {"n"})
    assert all(it.lost("a", f"gone {number}") for number in range(LOST_RETRIES + 5))
    assert it.lost("a", "n")


def test_a_process_missed_before_its_node_does_not_count_once_the_node_is_known_to_be_gone() -> None:
    alive = {f"n{number}" for number in range(LOST_RETRIES)} | {"last"}
    it = queue("a", alive)
    assert all(it.lost("a", f"n{number}") for number in range(LOST_RETRIES))
    alive -= {"n0", "n1"}
    assert it.lost("a", "last")


def test_work_under_which_every_node_dies_is_given_up_in_the_end() -> None:
    it = queue("a", set())
    assert [it.lost("a", "gone") for _ in range(LOST_NODES + 1)] == [True] * LOST_NODES + [False]


def test_work_that_ran_out_of_memory_is_run_alone_once_nothing_else_is_ready() -> None:
    it = queue("abc", {"n"})
    it.next()
    assert it.ran_out("a")
    assert [it.next(), it.next(), it.next(), it.next()] == [("b", False), ("c", False), ("a", True), None]
    assert not it.ran_out("a")


def test_work_that_is_lost_while_it_runs_alone_is_run_alone_again() -> None:
    it = queue("a", {"n"})
    it.next()
    it.ran_out("a")
    it.next()
    assert it.lost("a", "gone")
    assert it.next() == ("a", True)


def test_work_that_waits_to_be_run_again_is_counted() -> None:
    it = queue("abc", {"n"})
    assert it.waiting == 0
    [it.next() for _ in "abc"]
    it.lost("a", "gone")
    it.ran_out("b")
    assert it.waiting == 2
    it.next()
    assert it.waiting == 1


def test_nodes_are_wanted_for_lost_trials_too(splits: Splits, space: Path) -> None:
    trials = small_plan(space, splits.fingerprint).trials
    said: list[int] = []
    nodes = SimpleNamespace(is_alive=lambda node: False, room=lambda packing: 2, alive=[{"CPU": 2.0}])
    view = SimpleNamespace(note=print, at_once=said.append)
    run: Any = SimpleNamespace(nodes=nodes, view=view, resources=Resources())
    supply = Supply(run, Listed(list(trials), run))
    first, second = supply.next(), supply.next()
    assert first is not None and second is not None and supply.next() is None
    for trial, _ in (first, second):
        supply.lost(trial, "gone", Finished(*trial.key, "failed", "lost", "its node was lost"))
    assert supply.wanted == len(trials) and supply.num_running == 0
    assert set(said) == {2}


def test_work_that_did_not_begin_is_given_out_again_and_alone_if_it_was_to_be_alone() -> None:
    it = queue("ab", {"n"})
    it.next()
    it.take_back("a")
    assert it.next() == ("a", False)
    it.ran_out("a")
    assert [it.next(), it.next()] == [("b", False), ("a", True)]
    it.take_back("a")
    assert it.next() == ("a", True)
