"""What a search is, before anything runs: its space, how proposals become trials, what those share, and its identity. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from sweeper.canonical import key_of
from sweeper.plan import OF_A_WHOLE_SWEEP, Plan, PlannedTrial, Resolver, check_base, of_trials, planned
from sweeper.ranking import AUTOATTACK, AUTOATTACK_PARTS, CELL, epsilon_of, short
from sweeper.search import population
from sweeper.search.engine import settings_of
from sweeper.search.space import SearchSpace
from sweeper.search.standing import Step, generation_label
from sweeper.search.study import Proposal, fixed_proposal, random_proposals, ranges_of
from sweeper.stored_plans import title

_TRIED = 24  # random proposals that are resolved before anything runs


@dataclass(frozen=True)
class SearchPlan:
    """A search as it will be run.

    Attributes:
        search_id: The identity: of the space's text, the settings, the data, both evaluations, sampler, scheduler and seed, not of the budget. It
            stands as `plan_hash` in the tables, so that the readers of plans find a search.
        base: A plan of one proposal's runs: what all trials share, and what is recorded once.
        reference_variant_id: Of the first of the space's FIRST; "" without any, and where a population makes schedules of them.
    """

    space: SearchSpace
    sweep: str
    dataset: str
    scale: str
    search_id: str
    base: Plan
    full: Resolver
    rung: Resolver
    reference_variant_id: str = ""

    @property
    def title(self) -> str:
        """Return data set, scale and evaluation in words."""
        return title(self.sweep, self.dataset, self.scale, self.space.evaluation, "validation")

    def settle(self, proposal: Proposal) -> dict[str, Any]:
        """Return the flat settings of a proposal; in a population, those of a first phase.

        Raises:
            ValueError: If they are no trial, or give a population nothing to perturb.
        """
        return _settle(self.space, self.full, proposal)

    def make(self, settings: Mapping[str, Any], number: int) -> list[Step]:
        """Return the runs of a proposal's settings: its rungs, then the whole trial.

        Raises:
            ValueError: If they are no trial, or would be scored otherwise than the others.
        """
        if self.space.scheduler == "pbt" and "phases" not in settings:
            raise ValueError("these settings could not be made those of a first phase")
        label = generation_label(number, len(settings["phases"])) if self.space.scheduler == "pbt" else f"#{number}"
        *rungs, whole = _steps(self.space, self.full, self.rung, settings, label)
        is_reference = whole.run.variant_id == self.reference_variant_id
        if is_reference:
            *rungs, whole = _steps(self.space, self.full, self.rung, settings, "reference")
        if whole.run.evaluation_id != self.base.trials[-1].evaluation_id:
            raise ValueError("these settings change how the trial is scored, so it cannot be compared with the others")
        compared_with = self.reference_variant_id or whole.run.variant_id
        return [*rungs, replace(whole, run=replace(whole.run, is_reference=is_reference, reference_variant_id=compared_with))]

    def columns_of(self, trial: PlannedTrial) -> tuple[str, ...]:
        """Return the columns that are read of a run: constraints bind whole trials only."""
        return self.space.columns if trial.evaluation_id == self.base.trials[-1].evaluation_id else tuple(o.column for o in self.space.objectives)


def plan_search(
    sweep: str,
    space: SearchSpace,
    module: ModuleType,
    source: str,
    *,
    fingerprint: str,
    dataset: str,
    scale: str,
    settings: Mapping[str, Any],
    threads: int | None = None,
    epsilons: tuple[float, ...] | None = None,
) -> SearchPlan:
    """Return the plan of a search, after trying that its proposals are trials.

    Args:
        source: The text of the space's file.

    Raises:
        ValueError: If a proposal is no trial, naming its parameters; or if an objective is not measured.
    """
    common: dict[str, Any] = {"fingerprint": fingerprint, "dataset": dataset, "scale": scale, "settings": settings, "threads": threads}
    attacks = getattr(module, "ATTACKS", ())
    full = Resolver(**common, evaluation_name=space.evaluation, attacks=attacks, epsilons=epsilons, split="validation")
    rung = Resolver(**common, evaluation_name="quick", epsilons=epsilons, split="validation")
    drawn = random_proposals(space, _TRIED)
    tried = [_first(space, place) for place in range(len(space.first))] + drawn
    if not any(proposal.params for proposal in tried):
        raise ValueError(f"search space {space.name!r}: suggest(trial) asks for no parameter, so there is nothing to search")
    check_base(settings, [settings_of(proposal) for proposal in tried], full.defaults)
    steps: list[Step] = []
    reference_variant_id = ""
    for proposal in tried:
        try:
            own = _settle(space, full, proposal)
            made = _steps(space, full, rung, own, "")
            if space.scheduler == "pbt":  # the base is of the shortest and of the longest training that there is: they share no network
                made = [made[0], *_steps(space, full, rung, {**own, "phases": own["phases"] * space.generations}, "")]
        except ValueError as error:
            words = ", ".join(f"{name}={value}" for name, value in proposal.params.items())
            raise ValueError(f"search space {space.name!r} proposes {words}: {error}") from error
        if space.first and not steps and space.scheduler != "pbt":
            reference_variant_id = made[-1].run.variant_id
        steps = made if len(made) > len(steps) else steps
        if made[-1].run.evaluation_id != steps[-1].run.evaluation_id:
            raise ValueError(
                f"search space {space.name!r} changes how trials are scored ({', '.join(proposal.params)}), so they cannot be compared; give "
                "victim, mix, attack_preset, num_eot_samples and threads with --set, for all of them"
            )
    trials: list[PlannedTrial] = [step.run for step in steps]
    _check_columns(space, trials)
    base = of_trials(sweep, full.dataset, scale, trials)
    search_id = key_of(
        "search",
        sweep=sweep,
        source=source,
        settings=dict(settings),
        data=fingerprint,
        evaluations=[trial.evaluation_id for trial in trials],
        sampler=space.sampler,
        scheduler=space.scheduler,
        reduction=space.reduction,
        seed=space.seed,
    )
    return SearchPlan(space, sweep, full.dataset, scale, search_id, base, full, rung, reference_variant_id)


def _first(space: SearchSpace, place: int) -> Proposal:
    try:
        return fixed_proposal(space, space.first[place])
    except ValueError as error:
        raise ValueError(f"{error} (FIRST, entry {place + 1})") from error


def _settle(space: SearchSpace, full: Resolver, proposal: Proposal) -> dict[str, Any]:
    """Return the flat settings of a proposal: see `SearchPlan.settle`."""
    settings = settings_of(proposal)
    if space.scheduler != "pbt":
        return settings
    for name in ("phases", "training/phases"):
        if name in full.settings or name in settings:
            given = "--set" if name in full.settings else "suggest(trial)"
            raise ValueError(f"scheduler 'pbt' makes the phases of a training, and {given} gives {name!r}: leave it out, or use another scheduler")
    config = full.trial({"seed": 0, **full.settings, **settings}, label="").config
    names = ("learning_rate", *config.network.loss_weights) if config.network.is_trained else ()
    # a loss weight that has no effect here stands at the model's default, whatever was asked for
    perturbed = [n for n in ranges_of(proposal.distributions) if n in names and config.model_options.get(n, settings.get(n)) == settings.get(n)]
    if not perturbed:
        could = f"could be asked for: {', '.join(names)}" if names else "is trained on nothing, and has no schedule"
        raise ValueError(
            f"scheduler 'pbt' perturbs the learning rate and loss weights that suggest(trial) asks for with suggest_float, and there are none; "
            f"of {config.model!r} {could}"
        )
    weights = {name: settings[name] for name in perturbed if name != "learning_rate"}
    return population.begun(settings, config.training.learning_rate, weights, space.phase_epochs)


def _steps(space: SearchSpace, full: Resolver, rung: Resolver, settings: Mapping[str, Any], label: str) -> list[Step]:
    if space.scheduler == "pbt":
        return _steps_of_generation(space, full, rung, settings, label)
    if shared := sorted(OF_A_WHOLE_SWEEP & set(settings)):
        raise ValueError(f"{shared[0]!r} holds for a whole search; give it with `run`, not in suggest")
    trial = full.trial({"seed": 0, **full.settings, **settings}, label=label)
    steps = []
    if space.scheduler in ("asha", "median", "halving") and trial.config.network.is_trained:
        scored = rung.trial({"seed": 0, **rung.settings, **settings}, label=label)
        for position, epochs in enumerate(space.rungs):
            if epochs < trial.config.training.num_epochs:
                shorter = trial.config.model_copy(update={"training": trial.config.training.model_copy(update={"num_epochs": epochs})})
                run = planned(shorter, scored.evaluation, label=f"{label}, {epochs} epoch{'s' * (epochs > 1)}", scored_as=scored.evaluation_id)
                steps.append(Step(position, run.key, run))
    return [*steps, Step(None, trial.key, trial)]


def _steps_of_generation(space: SearchSpace, full: Resolver, rung: Resolver, settings: Mapping[str, Any], label: str) -> list[Step]:
    """Return the runs of a generation: by the quick evaluation unless it is the last, then at full length, which only the last is run at."""
    generation = len(settings["phases"])
    whole, scored = (way.trial({"seed": 0, **_beside_phases(way.settings), **settings}, label=label) for way in (full, rung))
    first = [Step(generation - 1, scored.key, scored)] if generation < space.generations else []
    return [*first, Step(None, whole.key, whole)]


def _beside_phases(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name.removeprefix("training/") != "learning_rate"}  # each phase has one


def _check_columns(space: SearchSpace, trials: Sequence[PlannedTrial]) -> None:
    """Refuse an objective that an evaluation does not measure, before anything runs."""
    for trial in trials:
        is_whole = trial is trials[-1]
        for column in space.columns if is_whole else [objective.column for objective in space.objectives]:
            if (cell := CELL.match(column)) is not None:
                is_there = _measures(trial, cell["threat"], cell["attack"], epsilon_of(cell["epsilon"]))
            elif "@" in column:
                threat, _, epsilon = column.partition("@")
                at = trial.evaluation.score_epsilon
                if epsilon != short(at):
                    raise ValueError(f"column {column!r} is measured at epsilon {short(at)} only; THREAT/ATTACK@EPSILON names any other")
                is_there = _measures(trial, threat, None, at)
            else:
                continue
            if not is_there:
                there = [f"{c.threat}/{c.attack}@{short(e)}" for c in trial.evaluation.cells for e in c.epsilons if c.threat != "clean"]
                where = "" if is_whole else ", which scores trials at rungs (scheduler none has no rungs),"
                raise ValueError(
                    f"the {trial.evaluation.name} evaluation{where} does not measure {column!r}; it measures {', '.join(dict.fromkeys(there))}"
                )


def _measures(trial: PlannedTrial, threat: str, attack: str | None, epsilon: float) -> bool:
    """Say whether a trial's evaluation has an attack (None: any) under a threat at an epsilon; AutoAttack is there if its four parts are."""
    there = {cell.attack for cell in trial.evaluation.cells if cell.threat == threat and any(abs(e - epsilon) < 1e-9 for e in cell.epsilons)}
    return bool(there) if attack is None else attack in there or (attack == AUTOATTACK and there.issuperset(AUTOATTACK_PARTS))
