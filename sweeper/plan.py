"""Search space -> resolved trials and the artifacts they share. Pure: nothing is trained, written or asked of a cluster here.

What is stored is subtracted, the rest runs; resume, dry run, cost and "why is this cached" are questions to the plan.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from sweeper.config import PARTS, Cell, Classifier, EvaluationConfig, TrialConfig, canonical_json, key_of, known_settings, resolve, unknown_setting
from sweeper.keys import craft_keys, evaluation_id, expected_parts, set_key
from sweeper.lookup import canonical
from sweeper.scales import evaluation, trial_defaults


@dataclass(frozen=True)
class PlannedTrial:
    """A resolved trial and its place in the sweep: what differs from the reference, and the parts it leaves when completed."""

    config: TrialConfig
    trial_id: str
    variant_id: str
    evaluation_id: str
    label: str
    factor: str
    level: str
    is_reference: bool
    reference_variant_id: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """A shared artifact: a classifier, or an adversarial set crafted on classifiers (`needs`)."""

    kind: str  # classifiers | adversarial, the artifact's kind
    key: str
    title: str
    config: TrialConfig
    recipe: Classifier | None = None
    cell: Cell | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep, the shared stages in an order in which they can run, and the plan's own identity."""

    sweep: str
    dataset: str
    scale: str
    evaluation: EvaluationConfig
    trials: tuple[PlannedTrial, ...]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def plan_hash(self) -> str:
        return key_of("plan", sweep=self.sweep, trials=sorted((trial.trial_id, trial.evaluation_id) for trial in self.trials))

    @property
    def evaluation_id(self) -> str:
        return self.trials[0].evaluation_id

    def missing(self, stored: Collection[str]) -> list[PlannedTrial]:
        """Return the trials that lack a part, costly ones first, so that the last to end is a short one.

        Args:
            stored: `table/part_key` of every part under the results root.
        """
        rest = [trial for trial in self.trials if not all(part in stored for part in trial.parts)]
        return sorted(rest, key=lambda trial: _cost_rank(trial.config), reverse=True)

    def needed(self, trials: Iterable[PlannedTrial], stored: Mapping[str, Collection[str]]) -> list[Stage]:
        """Return the stages that these trials need and that are not stored, those that others wait for first.

        Args:
            stored: Artifact kind -> stored keys.
        """
        wanted: set[str] = set()
        for config in _one_per_target(trials):
            wanted |= {stage.key for stage in _stages(config, self.evaluation)}
        return [stage for stage in self.stages if stage.key in wanted and stage.key not in stored.get(stage.kind, ())]


def from_space(
    name: str,
    space: ModuleType,
    *,
    fingerprint: str,
    dataset: str = "digits",
    scale: str = "small",
    evaluation_name: str | None = None,
    seeds: int = 1,
    settings: Mapping[str, Any] | None = None,
    threads: int | None = None,
    epsilons: tuple[float, ...] | None = None,
) -> Plan:
    """Return the plan of an ablation.

    Args:
        name: The sweep's name.
        space: A module with `variants()`; optionally `EVALUATION` (a name) and `ATTACKS` (extra attacks).
        fingerprint: Of the data set at this scale's sizes.
        seeds: Seeds 0 to seeds - 1 of every variant.
        settings: What `--set` gave: laid over the scale's defaults, under each variant's own settings.
        threads: Torch threads per trial; None: the scale's.
        epsilons: Grid of gray-box and transfer attacks; None: the scale's.

    Raises:
        ValueError: For an unusable setting, naming the variant.
    """
    if not hasattr(space, "variants"):
        raise ValueError(f"search space {name!r} offers no variants(); an ablation needs one, see search_spaces/ablations.py")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    base, defaults = dict(settings or {}), trial_defaults(canonical(dataset), scale)
    if threads is not None:
        defaults["numerics"]["threads"] = threads
    variants = [_checked(variant, index, name) for index, variant in enumerate(space.variants())]
    if not variants:
        raise ValueError(f"search space {name!r} has no variants")
    _check_base(base, variants, defaults)
    for name_of, planned in (("dataset", canonical(dataset)), ("scale", scale)):
        if canonical(str(base.get(name_of, planned))) != planned:
            raise ValueError(f"{name_of} is {planned!r} for this plan, got {base[name_of]!r} as a setting; give it with --{name_of}")
    chosen = evaluation(
        evaluation_name or getattr(space, "EVALUATION", "standard"), canonical(dataset), scale, getattr(space, "ATTACKS", ()), epsilons
    )

    trials: list[PlannedTrial] = []
    notes: list[str] = []
    seen: dict[str, str] = {}
    evaluation_ids: dict[str, str] = {}  # by target: what the two depend on of a configuration is the same
    reference_id = ""
    for index, variant in enumerate(variants):
        label = _label(variant, variants[0]) if index else "reference"
        for seed in range(seeds):
            try:
                config = resolve(defaults, {"seed": seed, **base, **variant}, ignore=frozenset(base))
            except ValueError as error:
                raise ValueError(f"{name}, variant {index + 1} ({label}): {error}") from error
            config = config.model_copy(update={"fingerprint": fingerprint})
            reference_id = reference_id or config.variant_id
            trial_id = config.trial_id
            if trial_id in seen:
                notes.append(f"{label} seed {config.seed} is the same trial as {seen[trial_id]}, and is run once")
                continue
            seen[trial_id] = f"{label} seed {config.seed}"
            changed = _changed(variant, variants[0])
            if config.target_key not in evaluation_ids:
                evaluation_ids[config.target_key] = evaluation_id(config, chosen)
            evaluated_as = evaluation_ids[config.target_key]
            trials.append(
                PlannedTrial(
                    config=config,
                    trial_id=trial_id,
                    variant_id=config.variant_id,
                    evaluation_id=evaluated_as,
                    label=label,
                    factor="+".join(changed) if index else "",
                    level=", ".join(_word(value) for value in changed.values()) if index else "",
                    is_reference=index == 0,
                    reference_variant_id=reference_id,
                    parts=tuple(expected_parts(config, chosen, trial_id, evaluated_as)),
                )
            )
    stages: dict[str, Stage] = {}
    for config in _one_per_target(trials):
        stages |= {stage.key: stage for stage in _stages(config, chosen) if stage.key not in stages}
    ordered = sorted(stages.values(), key=lambda stage: (len(stage.needs) > 0, -_stage_weight(stage)))
    return Plan(name, canonical(dataset), scale, chosen, tuple(trials), tuple(ordered), tuple(notes))


def of_config(config: TrialConfig, chosen: EvaluationConfig | None = None) -> Plan:
    """Return the plan of a single, complete trial configuration; its sweep is called `trial`."""
    chosen = chosen or evaluation("standard", config.dataset, config.scale)
    trial_id, evaluation_name = config.trial_id, evaluation_id(config, chosen)
    trial = PlannedTrial(
        config=config,
        trial_id=trial_id,
        variant_id=config.variant_id,
        evaluation_id=evaluation_name,
        label=config.model,
        factor="",
        level="",
        is_reference=True,
        reference_variant_id=config.variant_id,
        parts=tuple(expected_parts(config, chosen, trial_id, evaluation_name)),
    )
    return Plan("trial", config.dataset, config.scale, chosen, (trial,), tuple(_stages(config, chosen)))


def _one_per_target(trials: Iterable[PlannedTrial]) -> list[TrialConfig]:
    """Return one configuration for each target: those with the same one share all stages."""
    return list({trial.config.target_key: trial.config for trial in trials}.values())


def _stages(config: TrialConfig, evaluation: EvaluationConfig) -> list[Stage]:
    recipes = [config.target, *evaluation.sources]
    stages = [
        Stage("classifiers", config.classifier_key(recipe), f"train {'target' if index == 0 else f'source {index}'} {recipe.model}", config, recipe)
        for index, recipe in enumerate(recipes)
    ]
    for cell in evaluation.cells:
        if cell.threat in ("graybox", "transfer"):
            needs = tuple(craft_keys(config, evaluation, cell))
            title = f"craft {cell.threat} {cell.attack}"
            stages.append(Stage("adversarial", set_key(config, evaluation, cell), title, config, None, cell, needs))
    return stages


def _cost_rank(config: TrialConfig) -> tuple[float, ...]:
    """Return what orders trials by cost without measuring: trained before untrained, deep and large before small."""
    options = config.model_options
    trained = float(config.network.is_trained) * config.training.num_epochs
    return trained, float(options.get("depth", 0)), float(options.get("codebook_size", 0))


def _stage_weight(stage: Stage) -> float:
    if stage.cell is None:
        return 1.0
    steps = float(stage.cell.options.get("num_steps", 1))
    return steps * len(stage.cell.epsilons) * (2.0 if stage.cell.threat == "transfer" else 1.0)


def _checked(variant: object, index: int, name: str) -> dict[str, Any]:
    if not isinstance(variant, Mapping):
        raise ValueError(f"{name}, variant {index + 1}: a variant is a dict of settings, got {variant!r}")
    if shared := sorted({"dataset", "scale", "train_images", "validation_images", "test_images"} & set(variant)):
        raise ValueError(f"{name}, variant {index + 1}: {shared[0]!r} holds for a whole sweep; give it with `run`, not in a variant")
    return dict(variant)


def _check_base(base: Mapping[str, Any], variants: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
    """Refuse a `--set` that no variant's model knows."""
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


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
