"""What a search space offers: `suggest(trial)`, the objectives, and how far to search. Read once, checked before anything runs."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from sweeper.lookup import nearest
from sweeper.ranking import CELL
from sweeper.search.population import FEWEST

SAMPLERS = ("tpe", "nsga2", "random", "quasi_random", "cma_es")
SCHEDULERS = ("none", "asha", "median", "halving", "pbt")
COLUMNS = ("robust_score", "clean", "clean_drop", "psnr", "seconds", "parameters")
_COLUMN_AT = re.compile(r"(adaptive|graybox|transfer)@[0-9./e-]+$")
_CONSTRAINT = re.compile(r"\s*(?P<column>\S+)\s*(?P<sign><=|>=)\s*(?P<bound>[-+0-9.e]+)\s*$")


@dataclass(frozen=True)
class Objective:
    """A column of `rank`, and whether more of it is better."""

    column: str
    direction: str  # max | min

    @property
    def sign(self) -> float:
        """Return what makes more of it better when multiplied."""
        return 1.0 if self.direction == "max" else -1.0


@dataclass(frozen=True)
class Constraint:
    """A bound on a column of `rank`, such as `clean_drop <= 0.01`."""

    column: str
    sign: str  # <= | >=
    bound: float

    def __str__(self) -> str:
        return f"{self.column} {self.sign} {self.bound:g}"

    def violation(self, value: float) -> float:
        """Return by how much a value breaks the bound, to nine places; 0 or less where it keeps it: 5 of 500 images are 1 % as floats, too."""
        return round(value - self.bound if self.sign == "<=" else self.bound - value, 9)


@dataclass(frozen=True)
class Budget:
    """When no new trial is begun: after so many, so many seconds into this run, or so many GPU-hours of the whole search. None: no such bound."""

    trials: int | None = 40
    seconds: float | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class SearchSpace:
    """A search space as its module states it, with what the command line puts over it.

    Attributes:
        suggest: optuna.Trial -> settings that stay fixed; the parameters it was asked for are settings themselves.
        rungs: Epochs of purifier training after which a trial is scored by the quick evaluation and may be left; ascending. With scheduler `pbt`, the
            ends of all generations but the last.
        reduction: Of the trials at a rung, one in so many goes on (eta of Li et al., 2020).
        first: Parameters that are tried before the sampler is asked; the first of them is the reference.
        evaluation: What scores those that reach the end, on validation images.
        population: Members of scheduler `pbt`, each trained for so many `generations` of `phase_epochs` epochs.
    """

    name: str
    suggest: Callable[[Any], Mapping[str, Any]]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    budget: Budget = Budget()
    sampler: str = "tpe"
    scheduler: str = "none"
    rungs: tuple[int, ...] = ()
    reduction: int = 3
    first: tuple[Mapping[str, Any], ...] = ()
    evaluation: str = "standard"
    seed: int = 0
    population: int = 8
    generations: int = 4
    phase_epochs: int = 2

    @property
    def most_trials(self) -> int:
        """Return how many trials there may be: the budget's, in a population at most one for each generation of each member; 0 without a bound."""
        if self.scheduler == "pbt":
            return min(self.budget.trials or self.population * self.generations, self.population * self.generations)
        return self.budget.trials or 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that objectives and constraints read."""
        return tuple(dict.fromkeys([o.column for o in self.objectives] + [c.column for c in self.constraints]))


def read_space(name: str, module: ModuleType, **over: Any) -> SearchSpace:
    """Return what a module offers, checked.

    Args:
        over: What was asked for instead of the module's: trials, seconds, gpu_hours, sampler, scheduler, evaluation, seed; None keeps the module's.

    Raises:
        ValueError: Naming the setting, what it is and what it may be.
    """
    if hasattr(module, "variants"):
        raise ValueError(f"search space {name!r} offers both variants() and suggest(); an ablation lists, a search samples: leave one out")
    objectives = _objectives(name, getattr(module, "OBJECTIVES", None))
    constraints = tuple(_constraint(name, text) for text in _several(name, "CONSTRAINTS", getattr(module, "CONSTRAINTS", ())))
    given = {key: value.replace("-", "_") if isinstance(value, str) else value for key, value in over.items() if value is not None}
    scheduler = given.get("scheduler", getattr(module, "SCHEDULER", "none"))
    sizes = _population(module) if scheduler == "pbt" else {}
    bounds = {**_budget(name, getattr(module, "BUDGET", {})), **{key: given.pop(key) for key in ("trials", "seconds", "gpu_hours") if key in given}}
    space = SearchSpace(
        name=name,
        suggest=module.suggest,
        objectives=objectives,
        constraints=constraints,
        budget=Budget(**bounds) if bounds else Budget(sizes["population"] * sizes["generations"]) if sizes else Budget(),
        sampler=getattr(module, "SAMPLER", "random" if sizes else "tpe"),
        scheduler=scheduler,
        rungs=_ends(**sizes) if sizes else tuple(_several(name, "RUNGS", getattr(module, "RUNGS", ()))),
        reduction=getattr(module, "REDUCTION", 3),
        first=tuple(_params(name, given) for given in _several(name, "FIRST", getattr(module, "FIRST", ()))),
        evaluation=getattr(module, "EVALUATION", "standard"),
        **sizes,
    )
    return _checked(replace(space, **given))


def _checked(space: SearchSpace) -> SearchSpace:
    for setting, value, known in (("sampler", space.sampler, SAMPLERS), ("scheduler", space.scheduler, SCHEDULERS)):
        if value not in known:
            raise ValueError(f"no {setting} named {value!r}{nearest(str(value), known)}; available: {', '.join(known)}")
    several = len(space.objectives) > 1
    if space.sampler == "cma_es" and (several or space.constraints):
        raise ValueError("sampler 'cma_es' optimizes one objective without constraints; for several, or with constraints, tpe and nsga2 are there")
    if several and space.scheduler in ("asha", "median", "pbt"):
        raise ValueError(
            f"scheduler {space.scheduler!r} compares trials by one objective, and there are {len(space.objectives)} "
            f"({', '.join(objective.column for objective in space.objectives)}); for several: none or halving"
        )
    if space.scheduler in ("asha", "median", "halving") and not space.rungs:
        raise ValueError(f"scheduler {space.scheduler!r} needs rungs: give the space RUNGS = (3,), epochs at which trials are compared")
    if any(isinstance(e, bool) or not isinstance(e, int) or e < 1 for e in space.rungs) or list(space.rungs) != sorted(set(space.rungs)):
        raise ValueError(f"RUNGS must be ascending numbers of epochs, got {space.rungs!r}")
    if space.scheduler == "pbt" and len(space.first) > space.population:
        raise ValueError(f"FIRST begins members of the population, of which there are {space.population} (POPULATION), got {len(space.first)}")
    if isinstance(space.reduction, bool) or not isinstance(space.reduction, int) or space.reduction < 2:
        raise ValueError(f"REDUCTION must be a whole number of at least 2, got {space.reduction!r}")
    if space.evaluation == "quick":
        raise ValueError("the quick evaluation prunes a search and never ranks, so it cannot be what a search is decided by; got evaluation 'quick'")
    budget = space.budget
    for setting, value in (("trials", budget.trials), ("seconds", budget.seconds), ("gpu_hours", budget.gpu_hours)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf):
            raise ValueError(f"a search's budget of {setting} must be a number above 0, got {value!r}")
    if budget.trials is not None and budget.trials != int(budget.trials):
        raise ValueError(f"a search's budget of trials must be a whole number, got {budget.trials!r}")
    if all(value is None for value in vars(budget).values()):
        raise ValueError("a search needs a budget: trials, seconds or gpu_hours")
    return space


def _objectives(name: str, given: object) -> tuple[Objective, ...]:
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f'search space {name!r} needs OBJECTIVES, a dict such as {{"robust_score": "max", "clean": "max"}}, got {given!r}')
    for column, direction in given.items():
        if direction not in ("max", "min"):
            raise ValueError(f"objective {column!r} must be 'max' or 'min', got {direction!r}")
    return tuple(Objective(known_column(str(column)), str(direction)) for column, direction in given.items())


def known_column(column: str) -> str:
    """Return the name of a column that a trial's figures have.

    Raises:
        ValueError: Naming the nearest.
    """
    if column not in COLUMNS and not _COLUMN_AT.match(column) and not CELL.match(column):
        raise ValueError(
            f"no column {column!r}{nearest(column, COLUMNS)}; known: {', '.join(COLUMNS)}, adaptive@EPSILON, or THREAT/ATTACK@EPSILON such as "
            "graybox/pgd@0.1"
        )
    return column


def _constraint(name: str, text: object) -> Constraint:
    found = _CONSTRAINT.match(text) if isinstance(text, str) else None
    try:
        bound = math.nan if found is None else float(found["bound"])
    except ValueError:
        bound = math.nan
    if found is None or math.isnan(bound):
        raise ValueError(f"search space {name!r}: a constraint reads like 'clean_drop <= 0.01', got {text!r}")
    return Constraint(known_column(found["column"]), found["sign"], bound)


def _params(name: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"search space {name!r}: FIRST is a list of dicts, each with a value for every parameter that suggest asks for, got {given!r}"
        )
    return given


def _budget(name: str, given: object) -> dict[str, Any]:
    known = ("trials", "seconds", "gpu_hours")
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise ValueError(f"search space {name!r}: BUDGET is a dict with any of {', '.join(known)}, got {given!r}")
    return {key: None for key in known} | dict(given) if given else {}


def _population(module: ModuleType) -> dict[str, int]:
    why = f"a quarter of the members exploits another, and fewer than {FEWEST} are not judged"
    known = (("population", 8, FEWEST, why), ("generations", 4, 2, "the first has nobody to learn from"), ("phase_epochs", 2, 1, "each is trained"))
    sizes = {}
    for name, usual, least, reason in known:
        value = getattr(module, name.upper(), usual)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name.upper()} must be a whole number of at least {least}, since {reason}; got {value!r}")
        sizes[name] = value
    return sizes


def _ends(population: int, generations: int, phase_epochs: int) -> tuple[int, ...]:
    return tuple(phase_epochs * generation for generation in range(1, generations))


def _several(name: str, what: str, given: object) -> Sequence[Any]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise ValueError(f"search space {name!r}: {what} is a list, got {given!r}")
    return given
