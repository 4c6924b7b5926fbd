"""Searches without networks: a space over two numbers and a choice, whose trials are computed at once."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from sweeper.search.engine import Failure, Figures, Search, Step, Work
from sweeper.search.space import SearchSpace, read_space

TWO = {"robust_score": "max", "clean": "max"}
ONE = {"robust_score": "max"}


def suggest(trial: Any) -> dict[str, Any]:
    """Ask for x in [0, 1] and a kind; the second kind has a width of its own."""
    trial.suggest_float("x", 0, 1)
    if trial.suggest_categorical("kind", ["plain", "wide"]) == "wide":
        trial.suggest_int("width", 1, 8)
    return {"fixed": 1}


def space(objectives: Mapping[str, str] = TWO, *, suggest: Callable[[Any], Mapping[str, Any]] = suggest, **more: Any) -> SearchSpace:
    """Return a checked space; `more` are a module's names in lower case."""
    names = {name.upper(): value for name, value in more.items()}
    return read_space("tests", SimpleNamespace(suggest=suggest, OBJECTIVES=objectives, **names))  # pyright: ignore[reportArgumentType]


def make(search_space: SearchSpace) -> Callable[[Mapping[str, Any], int], list[Step]]:
    """Return what makes steps: one per rung and the whole, known by the settings."""

    def steps(settings: Mapping[str, Any], number: int) -> list[Step]:
        words = str(sorted(settings.items()))
        rungs = range(len(search_space.rungs)) if search_space.scheduler != "none" else ()
        return [*(Step(rung, (words, str(rung)), settings) for rung in rungs), Step(None, (words, "whole"), settings)]

    return steps


def figures(settings: Mapping[str, Any], rung: int | None = None) -> dict[str, float | None]:
    """Return a trade of clean for robust along x; at a rung both are lower by a tenth."""
    x = float(settings["x"]) - (0.1 if rung is not None else 0.0)
    return {"robust_score": x, "clean": 1 - x * x, "clean_drop": x * x}


def run(search: Search, outcome: Callable[[Work], Figures | Failure] | None = None, limit: int = 10_000) -> list[Work]:
    """Run a search one step at a time, at most so many; return what was run."""
    done: list[Work] = []
    while len(done) < limit and (work := search.next()) is not None:
        search.ended(work, outcome(work) if outcome else figures(work.step.run, work.step.rung))
        done.append(work)
    return done
