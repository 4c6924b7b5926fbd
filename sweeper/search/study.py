"""The only module that imports optuna: what to try next, and which parameters mattered, from what was told so far.

Nothing is kept between two questions: each builds the study anew from the trials told so far (5 ms for 200 of them), so a search that was
interrupted and one that was not ask the sampler the same, and no pickle is needed to go on. Each question has a random seed of its own, made of the
search's seed and the trial's number. Optuna 5 (Akiba et al., 2019, arXiv:1907.10902).
"""

import json
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import optuna
import optuna.storages.journal
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from sweeper.search.space import Objective, SearchSpace
from sweeper.storage.place import without_passwords

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

EVALUATOR = "PED-ANOVA"  # Watanabe et al., 2023 (arXiv:2304.10255): Optuna's default, for conditional parameters and several objectives
GENERATION = "NSGAIISampler:generation"  # what that sampler notes on a trial
VALIDITY = "failed_checks"  # a figure, and a constraint of every search: how many validity checks a trial fails; it is feasible with none
STATES = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL, "running": TrialState.RUNNING}
_POPULATION = 10  # of a generation of NSGA-II: a quarter of the 40 trials of a default search


@dataclass(frozen=True)
class Told:
    """One trial as the sampler hears of it.

    Attributes:
        distributions: Parameter -> its distribution as Optuna writes it in JSON.
        state: `completed` with values; `stopped`, also while it waits at a rung; `failed`; `running`.
        values: Of the objectives in their order; empty unless completed.
        constraints: Constraint -> by how much it is broken, 0 or less where it is kept; a failed validity check breaks one, too.
        rungs: Epochs -> the objective there, of a search for one.
        sampler_state: What the sampler noted on the trial.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, str]
    state: str
    values: tuple[float, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    rungs: Mapping[int, float] = field(default_factory=dict)
    sampler_state: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class Proposal:
    """Parameters to try, and what `suggest` keeps fixed beside them."""

    params: dict[str, Any]
    distributions: dict[str, str]
    fixed: dict[str, Any]
    sampler_state: dict[str, Any] = field(default_factory=dict)


def propose(space: SearchSpace, told: Sequence[Told], number: int, seed: int | None = None) -> Proposal:
    """Return what the sampler would try as trial `number`, after what was told.

    Raises:
        ValueError: If the space's `suggest` raises, or returns no dict; naming it.
    """
    study = study_of(space.objectives, told, _sampler(space, told, number, space.seed if seed is None else seed))
    if space.sampler == "quasi_random":  # the study is new: pass over the points that it gave before
        for _ in range(number):
            _suggest(space, study.ask())
    trial = study.ask()
    fixed = _suggest(space, trial)
    state = next(one for one in study.get_trials(deepcopy=False) if one.number == trial.number).system_attrs
    distributions = {name: distribution_to_json(one) for name, one in trial.distributions.items()}
    return Proposal(dict(trial.params), distributions, fixed, dict(state))


def next_proposals(space: SearchSpace, told: Sequence[Told], count: int) -> list[Proposal]:
    """Return what the sampler would try next, one after the other: each counts as running for those after it."""
    known, found = list(told), []
    for _ in range(count):
        proposal = propose(space, known, len(known))
        found.append(proposal)
        known.append(Told(proposal.params, proposal.distributions, "running", sampler_state=proposal.sampler_state))
    return found


def fixed_proposal(space: SearchSpace, params: Mapping[str, Any]) -> Proposal:
    """Return the proposal of given parameters: of a space's FIRST, or of an earlier sweep.

    Raises:
        ValueError: If `suggest` asks for a parameter that is not given, or one is given that it does not ask for, or is outside its range.
    """
    trial = _Given(dict(params))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # how a FixedTrial says that a value is out of range
        try:
            fixed = _suggest(space, trial)
        except UserWarning as warning:
            raise ValueError(f"search space {space.name!r}: {warning}") from None
    if spare := sorted(set(params) - set(trial.params)):
        raise ValueError(f"search space {space.name!r} does not ask for {', '.join(spare)} where {_words(trial.params)}")
    own = {name: one.to_external_repr(one.to_internal_repr(trial.params[name])) for name, one in trial.distributions.items()}  # 1, not "1" or True
    return Proposal(own, {name: distribution_to_json(one) for name, one in trial.distributions.items()}, fixed)


def random_proposals(space: SearchSpace, count: int) -> list[Proposal]:
    """Return random proposals, the same every time: to see whether a space can be sampled before anything runs."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    found = []
    for _ in range(count):
        trial = study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said below, as an error: such a choice does not come back from a table as it was
            fixed = _suggest(space, trial)
        for name, one in trial.distributions.items():
            if isinstance(one, CategoricalDistribution) and (odd := [c for c in one.choices if type(c) not in (type(None), bool, int, float, str)]):
                raise ValueError(
                    f"search space {space.name!r}: the choices of {name!r} must be None, bool, int, float or str, got {odd[0]!r} "
                    f"({type(odd[0]).__name__}); ask for a word, and return the setting that it stands for"
                )
        found.append(Proposal(dict(trial.params), {name: distribution_to_json(one) for name, one in trial.distributions.items()}, fixed))
    return found


def importances(objectives: Sequence[Objective], told: Sequence[Told], objective: int | None = None) -> dict[str, float]:
    """Return parameter -> its share of what tells good trials from the others (PED-ANOVA), highest first; shares add up to 1.

    Args:
        objective: Position of one objective; None: all of them at once, by dominance.

    Raises:
        ValueError: If fewer than four trials are completed.
    """
    completed = [one for one in told if one.state == "completed"]
    if len(completed) < 4:
        raise ValueError(f"importances need at least 4 completed trials, and there are {len(completed)}")
    study = study_of(objectives, completed)
    place = objective if len(objectives) > 1 else None  # with a target, the evaluator takes less for better, and warns of it

    def upside_down(trial: FrozenTrial) -> float:
        return -objectives[place or 0].sign * trial.values[place or 0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return dict(
            optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), target=None if place is None else upside_down
            )
        )


def study_of(objectives: Sequence[Objective], told: Sequence[Told], sampler: BaseSampler | None = None) -> optuna.Study:
    """Return a study in memory that holds these trials, in their order."""
    study = optuna.create_study(directions=_directions(objectives), sampler=sampler or RandomSampler(seed=0))
    for one in told:
        trial = _frozen(one, several=len(objectives) > 1)
        trial.__class__ = _Kept
        study.add_trial(trial)
    return study


class _Kept(FrozenTrial):
    """A trial that was made for one study and for nothing else, so that the study need not copy it, which took a third of a question's time."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Kept":
        return self


class Mirror:
    """A copy of the search in an Optuna storage, for dashboards. The search reads nothing from it.

    Args:
        storage: A database URL such as sqlite:///study.db, or the path of a journal file, as journal:PATH.

    Raises:
        ValueError: If the storage cannot be opened.
    """

    def __init__(self, space: SearchSpace, storage: str, study_name: str) -> None:
        self.space, self.storage, self.study_name = space, storage, study_name
        try:
            self._study = optuna.create_study(
                storage=_storage(storage), study_name=study_name, directions=_directions(space.objectives), load_if_exists=True
            )
        except Exception as error:  # whatever a database's driver raises
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ValueError(without_passwords(f"--storage {storage} cannot be opened: {reason}")) from error
        self._study.set_metric_names([objective.column for objective in space.objectives])
        self._numbers = {trial.user_attrs["number"]: trial for trial in self._study.get_trials(deepcopy=False) if "number" in trial.user_attrs}
        self._finished = {number for number, trial in self._numbers.items() if trial.state.is_finished()}

    def show(self, number: int, told: Told) -> None:
        """Write one trial: as running, or as it ended. One that stands there as ended stays as it is."""
        if number in self._finished:
            return
        if number not in self._numbers:
            attributes = {"number": number, "label": told.label}
            running = create_trial(state=TrialState.RUNNING, params=dict(told.params), distributions=_distributions(told), user_attrs=attributes)
            self._study.add_trial(running)
            self._numbers[number] = next(t for t in reversed(self._study.get_trials(deepcopy=False)) if t.user_attrs.get("number") == number)
        if told.state != "running":
            self._finished.add(number)
            values = list(told.values) if told.state == "completed" else None
            self._study.tell(self._numbers[number].number, values, state=STATES[told.state])


def ranges_of(distributions: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return parameter -> its lowest and highest value, of those that `suggest_float` gives without a step: any value between them is one."""
    found = {name: json_to_distribution(text) for name, text in distributions.items()}
    return {name: (one.low, one.high) for name, one in found.items() if isinstance(one, FloatDistribution) and one.step is None}


class _Given(FixedTrial):
    """A trial whose parameters are given; one that is not is named."""

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            raise _NotGiven(name)
        return super()._suggest(name, distribution)


class _NotGiven(Exception):
    """A parameter that `suggest` asks for."""


def _suggest(space: SearchSpace, trial: Any) -> dict[str, Any]:
    try:
        fixed = space.suggest(trial)
    except UserWarning:
        raise
    except _NotGiven as missing:
        known = _words(trial.params)
        raise ValueError(f"search space {space.name!r} asks for {missing}, which is not given{f' where {known}' if known else ''}") from None
    except Exception as error:
        raise ValueError(f"search space {space.name!r}: suggest(trial) raised {type(error).__name__}: {error}") from error
    if not isinstance(fixed, Mapping):
        raise ValueError(f"search space {space.name!r}: suggest(trial) must return a dict of the settings that stay fixed, got {fixed!r:.80}")
    try:
        json.dumps(dict(fixed), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"search space {space.name!r}: suggest(trial) must return plain numbers, words and lists: {error}") from None
    return dict(fixed)


def _sampler(space: SearchSpace, told: Sequence[Told], number: int, seed: int) -> BaseSampler:
    own = random.Random(f"{seed}|{number}").getrandbits(32)
    if space.sampler == "random":
        return RandomSampler(seed=own)
    if space.sampler == "quasi_random":
        return QMCSampler(seed=random.Random(f"{seed}|sequence").getrandbits(32), scramble=True, independent_sampler=RandomSampler(seed=own),
                          warn_asynchronous_seeding=False, warn_independent_sampling=False)  # fmt: skip
    if space.sampler == "nsga2":
        return NSGAIISampler(seed=own, population_size=_POPULATION)
    if space.sampler == "cma_es":
        completed = [one for one in told if one.state == "completed"]
        is_new = not any("optimizer" in name for one in completed for name in one.sampler_state)  # until a first generation of this run is told
        earlier = [_frozen(one, several=False) for one in completed if not one.sampler_state]
        source = earlier if is_new and len(earlier) >= 4 else None  # begin around the best of them
        return CmaEsSampler(seed=own, source_trials=source, independent_sampler=RandomSampler(seed=own), warn_independent_sampling=False)
    return TPESampler(seed=own)


def _frozen(one: Told, *, several: bool) -> FrozenTrial:
    return create_trial(
        state=STATES[one.state],
        values=list(one.values) if one.state == "completed" else None,
        params=dict(one.params),
        distributions=_distributions(one),
        constraints=dict(one.constraints) if one.state == "completed" else None,
        intermediate_values=None if several else dict(one.rungs),  # Optuna knows them for one objective only
        system_attrs=dict(one.sampler_state) or ({GENERATION: 0} if one.state == "completed" else {}),  # else NSGA-II would not hear of it
        user_attrs={"label": one.label},
    )


def _distributions(one: Told) -> dict[str, BaseDistribution]:
    return {name: _distribution(text) for name, text in one.distributions.items()}


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _directions(objectives: Sequence[Objective]) -> list[Literal["maximize", "minimize"]]:
    return ["maximize" if objective.direction == "max" else "minimize" for objective in objectives]


def _storage(text: str) -> Any:
    kind, _, path = text.partition(":")
    if kind == "journal":
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    return text


def _words(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in params.items())
