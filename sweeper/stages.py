"""The artifacts that trials share, as stages to run before them: classifiers, adversarial sets, and networks that two trials need."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sweeper.config import Classifier, TrialConfig
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.keys import craft_keys, set_key

_ORDER = {"classifiers": 0, "purifiers": 1, "retrained": 2, "adversarial": 3}  # of stages: each needs earlier ones only


@dataclass(frozen=True)
class Stage:
    """An artifact that several trials need: a classifier, an adversarial set crafted on classifiers (`needs`), or a network that trials share."""

    kind: str  # classifiers | purifiers | retrained | adversarial, the artifact's kind
    key: str
    title: str
    config: TrialConfig
    evaluation: EvaluationConfig
    recipe: Classifier | None = None
    cell: Cell | None = None
    needs: tuple[str, ...] = ()


def shared_stages(config: TrialConfig, evaluation: EvaluationConfig) -> list[Stage]:
    """Return what all trials with this target share: classifiers, and the adversarial sets crafted on them."""
    recipes = [config.target, *evaluation.sources]
    stages = [
        Stage(
            "classifiers",
            config.classifier_key(recipe),
            f"train {'target' if index == 0 else f'source {index}'} {recipe.model}",
            config,
            evaluation,
            recipe,
        )
        for index, recipe in enumerate(recipes)
    ]
    for cell in evaluation.cells:
        if cell.is_shared:
            needs = tuple(craft_keys(config, evaluation, cell))
            title = f"craft {cell.threat} {cell.attack}{'' if cell.source is None else f' on source {cell.source + 1}'}"
            stages.append(Stage("adversarial", set_key(config, evaluation, cell), title, config, evaluation, None, cell, needs))
    return stages


def own_networks(config: TrialConfig, evaluation: EvaluationConfig) -> list[Stage]:
    """Return the networks of a trial's own as stages: its purifier, and the classifier retrained on what that lets through."""
    stages, name = [], f"{config.model} seed {config.seed}"
    if config.network.is_trained:
        needs = (config.target_key,) if config.learns_from_target else ()
        stages.append(Stage("purifiers", config.weights_key, f"train {name}", config, evaluation, needs=needs))
    if config.retrained_key is not None:
        needs = (config.target_key, *(stage.key for stage in stages))
        stages.append(Stage("retrained", config.retrained_key, f"retrain for {name}", config, evaluation, needs=needs))
    return stages


def shared_networks(trials: Iterable[tuple[TrialConfig, EvaluationConfig]]) -> dict[str, Stage]:
    """Return the networks that more than one of the trials needs: trained before the trials, so that no two train the same at once."""
    found: dict[str, Stage] = {}
    counts: Counter[str] = Counter()
    for config, evaluation in trials:
        for stage in own_networks(config, evaluation):
            found.setdefault(stage.key, stage)
            counts[stage.key] += 1
    return {key: stage for key, stage in found.items() if counts[key] > 1}


def place(stage: Stage) -> tuple[int, float]:
    """Return what orders stages: each after those it needs, and of one kind the costly ones first."""
    return _ORDER[stage.kind], -_weight(stage)


def cost_rank(config: TrialConfig) -> tuple[float, ...]:
    """Return what orders trials by cost without measuring: trained before untrained, deep and large before small."""
    options = config.model_options
    trained = float(config.network.is_trained) * config.training.num_epochs
    size = options.get("codebook_size", 0)
    if isinstance(size, list):  # one per depth: the first depth has four times the positions of the next, and costs most
        size = size[0]
    return trained, float(options.get("depth", 0)), float(size)


def _weight(stage: Stage) -> float:
    if stage.kind in ("purifiers", "retrained"):
        return cost_rank(stage.config)[0]
    if stage.cell is None:
        return 1.0
    steps = float(stage.cell.options.get("num_steps", 1))
    return steps * len(stage.cell.epsilons) * (2.0 if stage.cell.threat == "transfer" else 1.0)
