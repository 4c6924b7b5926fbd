"""Earlier trials that a search space could have proposed: they are run first, at full length, beside the budget.

Their networks are stored already, so only scoring on validation images is left, and not even that where the earlier sweep was a search. Figures on
test images are never offered: a sampler that saw them would have chosen by them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.config import TrialConfig
from sweeper.lookup import register_sources
from sweeper.results import Results
from sweeper.search.engine import settings_of
from sweeper.search.plan import SearchPlan
from sweeper.search.space import SearchSpace
from sweeper.search.study import Proposal, fixed_proposal
from sweeper.storage import Root
from sweeper.stored_plans import latest_plan

_MOST_FORKS = 256  # combinations of choices that are tried for what a configuration does not say


def warm_proposals(plan: SearchPlan, root: Root, sweeps: Sequence[str]) -> tuple[list[Proposal], list[str]]:
    """Return the proposals that trials of earlier sweeps are, one for each variant, and a sentence per sweep about how many fit.

    Raises:
        ValueError: If there is no such sweep, or the search is a population, whose members begin with a first phase.
    """
    if plan.space.scheduler == "pbt":
        raise ValueError("--warm-start offers whole trials, and scheduler 'pbt' makes trials of phases; leave it out, or use another scheduler")
    results = Results(root)
    register_sources(results.kept_sources())
    found: dict[str, Proposal] = {}
    notes = []
    for sweep in sweeps:
        rows = latest_plan(results, sweep, plan.dataset)
        stored = {row["trial_id"]: row["config"] for row in results.read("trials", ["trial_id", "config"]).to_pylist()}
        fitting = 0
        variants = {row["variant_id"]: row["trial_id"] for row in rows if row["trial_id"] in stored}
        for variant, trial_id in variants.items():
            if trial_id not in stored or variant in found:
                continue
            proposal = proposal_of(plan, TrialConfig.model_validate_json(stored[trial_id]))
            if proposal is not None:
                found[variant] = proposal
                fitting += 1
        count = len({row["variant_id"] for row in rows})
        notes.append(f"warm start: {fitting} of {count} variants of {rows[0]['sweep']} are trials that {plan.space.name} could propose")
    return list(found.values()), notes


def proposal_of(plan: SearchPlan, config: TrialConfig) -> Proposal | None:
    """Return the proposal whose trial this is, whatever its seed; None if the space cannot propose it."""
    variant = config.variant_id
    for params in _readings(plan.space, config):
        try:
            proposal = fixed_proposal(plan.space, params)
            trial = plan.full.trial({"seed": 0, **plan.full.settings, **settings_of(proposal)}, label="")
        except ValueError:  # a value outside its range, or no trial at all: this reading does not fit
            continue
        if trial.variant_id == variant:
            return proposal
    return None


def _readings(space: SearchSpace, config: TrialConfig) -> Iterator[dict[str, Any]]:
    """Yield parameters that `suggest` asks for, read off a configuration; each choice in turn where it does not say."""
    waiting: list[dict[str, Any]] = [{}]
    for _ in range(_MOST_FORKS):
        if not waiting:
            return
        reading = _Reading(config, waiting.pop())
        try:
            space.suggest(reading)
        except _Unsaid as unsaid:
            waiting += [{**reading.forced, unsaid.name: choice} for choice in reversed(unsaid.choices)]
        except Exception:  # a value that the space does not offer can lead suggest anywhere, to a key that is not there: no trial of this space
            continue
        else:
            yield reading.params


class _Unsaid(Exception):
    """A parameter that a configuration has no value for; its choices, none if it is a number."""

    def __init__(self, name: str, choices: Sequence[Any]) -> None:
        super().__init__(name)
        self.name, self.choices = name, choices


class _Reading:
    """Stands for an Optuna trial, and answers with a configuration's own values."""

    number = 0

    def __init__(self, config: TrialConfig, forced: dict[str, Any]) -> None:
        self.config, self.forced, self.params = config, forced, {}

    def suggest_float(self, name: str, *_: Any, **__: Any) -> float:
        return self._value(name, ())

    def suggest_int(self, name: str, *_: Any, **__: Any) -> int:
        return self._value(name, ())

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._value(name, choices)

    def set_user_attr(self, key: str, value: Any) -> None:
        """Note nothing."""

    def _value(self, name: str, choices: Sequence[Any]) -> Any:
        if name not in self.params:
            self.params[name] = self.forced[name] if name in self.forced else _value_of(self.config, name, choices)
        return self.params[name]


def _value_of(config: TrialConfig, name: str, choices: Sequence[Any]) -> Any:
    values: Any = {**config.model_dump(mode="json"), **config.training.model_dump(mode="json"), **config.model_options}
    head, _, last = name.rpartition("/")
    path, entry = (head, int(last)) if head and last.isdigit() else (name, None)
    for part in path.split("/"):
        if not isinstance(values, Mapping) or part not in values:
            raise _Unsaid(name, choices)
        values = values[part]
    if entry is None:
        return list(values) if isinstance(values, tuple) else values
    if isinstance(values, list | tuple):
        if entry > len(values):
            raise _Unsaid(name, choices)
        return values[entry - 1]
    return values  # one number for all of a list's entries
