"""Search space -> resolved trials and the artifacts they share. Pure: nothing is trained, written or asked of a cluster here.

What is stored is subtracted, the rest runs; resume, dry run, cost and "why is this cached" are questions to the plan.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import ModuleType
from typing import Any

from sweeper.canonical import canonical_json, key_of
from sweeper.config import EVALUATION_SETTINGS, PARTS, TrialConfig, known_settings, resolve, unknown_setting
from sweeper.evaluations import EvaluationConfig
from sweeper.keys import evaluation_id, expected_parts
from sweeper.lookup import canonical
from sweeper.scales import evaluation, trial_defaults
from sweeper.stages import Stage, cost_rank, own_networks, place, shared_networks, shared_stages
from sweeper.stored_plans import title

OF_A_WHOLE_SWEEP = frozenset({"dataset", "scale", "train_images", "validation_images", "test_images"})  # no single trial can have its own


@dataclass(frozen=True)
class PlannedTrial:
    """A resolved trial, how it is scored, and its place in the sweep: what differs from the reference, and the parts it leaves when completed."""

    config: TrialConfig
    evaluation: EvaluationConfig
    trial_id: str
    variant_id: str
    evaluation_id: str
    label: str
    factor: str
    level: str
    is_reference: bool
    reference_variant_id: str
    parts: tuple[str, ...]
    is_candidate: bool = True  # False: only there to be compared with, never chosen

    @property
    def key(self) -> tuple[str, str]:
        """Return what it is within a plan: one trial may be scored in several ways."""
        return self.trial_id, self.evaluation_id


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep, the shared stages in an order in which they can run, and the plan's own identity."""

    sweep: str
    dataset: str
    scale: str
    trials: tuple[PlannedTrial, ...]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def plan_hash(self) -> str:
        compared = sorted(trial.key for trial in self.trials if not trial.is_candidate)
        return key_of("plan", sweep=self.sweep, trials=sorted(trial.key for trial in self.trials), **({"compared": compared} if compared else {}))

    @property
    def evaluation(self) -> EvaluationConfig:
        """Return how the first trial is scored; the others differ from it in the settings of `EVALUATION_SETTINGS` alone."""
        return self.trials[0].evaluation

    @property
    def evaluations(self) -> dict[str, EvaluationConfig]:
        """Return every way in which a trial is scored, by its `evaluation_id`."""
        return {trial.evaluation_id: trial.evaluation for trial in self.trials}

    @property
    def title(self) -> str:
        """Return data set, scale and evaluation in words, as the tables' readers say them."""
        return title(self.sweep, self.dataset, self.scale, self.evaluation.name, self.evaluation.split)

    def missing(self, stored: Collection[str]) -> list[PlannedTrial]:
        """Return the trials that lack a part, costly ones first, so that the last to end is a short one.

        Args:
            stored: `table/part_key` of every part under the results root.
        """
        rest = [trial for trial in self.trials if not all(part in stored for part in trial.parts)]
        return sorted(rest, key=lambda trial: cost_rank(trial.config), reverse=True)

    def needed(self, trials: Sequence[PlannedTrial], stored: Mapping[str, Collection[str]]) -> list[Stage]:
        """Return the stages that these trials need and that are not stored, those that others wait for first.

        Args:
            stored: Artifact kind -> stored keys.
        """
        wanted: set[str] = set()
        for trial in _one_per_target(trials):
            wanted |= {stage.key for stage in shared_stages(trial.config, trial.evaluation)}
        for trial in trials:
            wanted |= {stage.key for stage in own_networks(trial.config, trial.evaluation)}
        return [stage for stage in self.stages if stage.key in wanted and stage.key not in stored.get(stage.kind, ())]


def from_space(
    name: str,
    space: ModuleType,
    *,
    fingerprint: str,
    dataset: str = "digits",
    scale: str = "small",
    evaluation_name: str | None = None,
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    threads: int | None = None,
    epsilons: tuple[float, ...] | None = None,
    split: str = "test",
) -> Plan:
    """Return the plan of an ablation.

    Args:
        name: The sweep's name.
        space: A module with `variants()`; optionally `EVALUATION` (a name), `ATTACKS` (extra attacks) and `SEEDS` (how many).
        fingerprint: Of the data set at this scale's sizes.
        seeds: Seeds 0 to seeds - 1 of every variant; None: the space's, else 1.
        settings: What `--set` gave: laid over the scale's defaults, under each variant's own settings.
        threads: Torch threads per trial; None: the scale's.
        epsilons: Grid of gray-box and transfer attacks; None: the scale's.
        split: Whose images everything is scored on: `test`, or `validation`.

    Raises:
        ValueError: For an unusable setting, naming the variant.
    """
    if not hasattr(space, "variants"):
        raise ValueError(
            f"search space {name!r} offers no variants(); an ablation needs one, see search_spaces/ablations.py, and a search has a suggest(trial), "
            "see search_spaces/search.py"
        )
    seeds = int(getattr(space, "SEEDS", 1)) if seeds is None else seeds
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    base = dict(settings or {})
    resolver = Resolver(
        fingerprint=fingerprint,
        dataset=dataset,
        scale=scale,
        evaluation_name=evaluation_name or getattr(space, "EVALUATION", "standard"),
        settings=base,
        threads=threads,
        attacks=getattr(space, "ATTACKS", ()),
        epsilons=epsilons,
        split=split,
    )
    variants = [_checked(variant, index, name) for index, variant in enumerate(space.variants())]
    if not variants:
        raise ValueError(f"search space {name!r} has no variants")
    check_base(base, variants, resolver.defaults)
    trials: list[PlannedTrial] = []
    notes: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for index, variant in enumerate(variants):
        label = _label(variant, variants[0]) if index else "reference"
        changed = _changed(variant, variants[0]) if index else {}
        for seed in range(seeds):
            try:
                trial = resolver.trial(
                    {"seed": seed, **base, **variant},
                    label=label,
                    factor="+".join(changed),
                    level=", ".join(_word(value) for value in changed.values()),
                    reference_variant_id=trials[0].variant_id if trials else "",
                )
            except ValueError as error:
                raise ValueError(f"{name}, variant {index + 1} ({label}): {error}") from error
            if trial.key in seen:
                notes.append(f"{label} seed {trial.config.seed} is the same trial as {seen[trial.key]}, and is run once")
                continue
            seen[trial.key] = f"{label} seed {trial.config.seed}"
            trials.append(replace(trial, is_reference=index == 0))
    return of_trials(name, canonical(dataset), scale, trials, notes)


class Resolver:
    """Settings -> planned trials of one sweep: the scale's defaults, what `--set` gave, and how trials are scored.

    Raises:
        ValueError: If what holds for every trial is unusable.
    """

    def __init__(
        self,
        *,
        fingerprint: str,
        dataset: str,
        scale: str,
        evaluation_name: str,
        settings: Mapping[str, Any],
        threads: int | None = None,
        attacks: Iterable[Mapping[str, Any]] = (),
        epsilons: tuple[float, ...] | None = None,
        split: str = "test",
    ) -> None:
        self.fingerprint, self.dataset, self.scale, self.settings = fingerprint, canonical(dataset), scale, dict(settings)
        self.defaults = trial_defaults(self.dataset, scale)
        if threads is not None:
            self.defaults["numerics"]["threads"] = threads
        for name_of, planned in (("dataset", self.dataset), ("scale", scale)):
            if canonical(str(self.settings.get(name_of, planned))) != planned:
                raise ValueError(f"{name_of} is {planned!r} for this plan, got {self.settings[name_of]!r} as a setting; give it with --{name_of}")
        attacks = tuple(attacks)

        @cache
        def scored_by(ways: tuple[tuple[str, Any], ...]) -> EvaluationConfig:
            return evaluation(evaluation_name, self.dataset, scale, attacks, epsilons, split=split, **dict(ways))

        self._scored_by = scored_by
        self._scored_by(())  # what is wrong for every variant is not said of the first
        self._evaluation_ids: dict[tuple[object, ...], str] = {}  # by target and way of scoring: all that it depends on of a trial

    def trial(self, settings: Mapping[str, Any], *, label: str, factor: str = "", level: str = "", reference_variant_id: str = "") -> PlannedTrial:
        """Return the planned trial of complete flat settings (`--set` among them).

        Args:
            reference_variant_id: What it is compared with; "" makes it its own reference.

        Raises:
            ValueError: For an unknown or unusable setting.
        """
        own = dict(settings)
        ways = {setting: _hashable(own.pop(setting)) for setting in EVALUATION_SETTINGS if setting in own}
        config = resolve(self.defaults, own, ignore=frozenset(self.settings))
        if config.retrain == "none":  # there is no other victim
            ways.pop("victim", None)
        scored = self._scored_by(tuple(sorted(ways.items())))
        config = config.model_copy(update={"fingerprint": self.fingerprint})
        way = (config.target_key, *sorted(ways.items()))
        if way not in self._evaluation_ids:
            self._evaluation_ids[way] = evaluation_id(config, scored)
        return planned(
            config, scored, label=label, factor=factor, level=level, reference_variant_id=reference_variant_id, scored_as=self._evaluation_ids[way]
        )


def planned(
    config: TrialConfig,
    scored: EvaluationConfig,
    *,
    label: str,
    factor: str = "",
    level: str = "",
    reference_variant_id: str = "",
    scored_as: str = "",
) -> PlannedTrial:
    """Return a complete configuration and how it is scored as a trial of a sweep.

    Args:
        reference_variant_id: What it is compared with; "" makes it its own reference.
        scored_as: The `evaluation_id`, where it is known already.
    """
    trial_id, scored_as = config.trial_id, scored_as or evaluation_id(config, scored)
    return PlannedTrial(
        config=config,
        evaluation=scored,
        trial_id=trial_id,
        variant_id=config.variant_id,
        evaluation_id=scored_as,
        label=label,
        factor=factor,
        level=level,
        is_reference=not reference_variant_id,
        reference_variant_id=reference_variant_id or config.variant_id,
        parts=tuple(expected_parts(config, scored, trial_id, scored_as)),
    )


def of_trials(sweep: str, dataset: str, scale: str, trials: Sequence[PlannedTrial], notes: Sequence[str] = ()) -> Plan:
    """Return the plan of trials that are resolved already, with what they share."""
    stages = {stage.key: stage for trial in _one_per_target(trials) for stage in shared_stages(trial.config, trial.evaluation)}
    stages |= shared_networks((trial.config, trial.evaluation) for trial in trials)
    return Plan(sweep, dataset, scale, tuple(trials), tuple(sorted(stages.values(), key=place)), tuple(notes))


def of_config(config: TrialConfig, chosen: EvaluationConfig | None = None) -> Plan:
    """Return the plan of a single, complete trial configuration; its sweep is called `trial`."""
    chosen = chosen or evaluation("standard", config.dataset, config.scale)
    trial = planned(config, chosen, label=config.model)
    return Plan("trial", config.dataset, config.scale, (trial,), tuple(shared_stages(config, chosen)))


def _one_per_target(trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
    """Return one trial for each target and way of scoring: those with the same ones share all classifiers and adversarial sets."""
    return list({(trial.config.target_key, trial.evaluation_id): trial for trial in trials}.values())


def _checked(variant: object, index: int, name: str) -> dict[str, Any]:
    if not isinstance(variant, Mapping):
        raise ValueError(f"{name}, variant {index + 1}: a variant is a dict of settings, got {variant!r}")
    if shared := sorted(OF_A_WHOLE_SWEEP & set(variant)):
        raise ValueError(f"{name}, variant {index + 1}: {shared[0]!r} holds for a whole sweep; give it with `run`, not in a variant")
    return dict(variant)


def check_base(base: Mapping[str, Any], variants: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
    """Refuse a `--set` that the model of no variant, or of no proposal, knows.

    Raises:
        ValueError: Naming the nearest setting.
    """
    models = {str(variant.get("model", base.get("model", defaults.get("model", "vqunet")))) for variant in variants}
    known = sorted({setting for model in models for setting in known_settings(model)})
    for setting in base:
        if setting not in known and setting.partition("/")[0] not in (PARTS if "/" in setting else ()):
            raise unknown_setting(setting, known)


def _changed(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in variant.items() if name not in reference or reference[name] != value}


def _label(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    changed = _changed(variant, reference)
    return ", ".join(f"{name}={_word(value)}" for name, value in changed.items()) or canonical_json(dict(variant))


def _hashable(value: object) -> int | str:
    """Return a whole number as it is and anything else as text, which names what is refused."""
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(_word(each) if isinstance(each, Mapping) else f"{name}={_word(each)}" for name, each in value.items())
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):  # phases
        return " then ".join(_word(each) for each in value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
