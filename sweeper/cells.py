"""A trial's networks, and the outcomes of one cell on them: each an artifact, found or made."""

from dataclasses import dataclass

import torch

from sweeper.artifacts import Bundle
from sweeper.config import TrialConfig
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.keys import outcome_key
from sweeper.materials import Materials, Trained
from sweeper.networks import purifier_of, retrained_of
from sweeper.options import ADAPTIVE
from sweeper.scoring import Defense, Outcomes, fix_draws, score_adaptive, score_static


@dataclass(frozen=True)
class Networks:
    """The undefended target, the purifier, and the target tuned on what that lets through, where there is one."""

    target: Trained
    purifier: Trained
    retrained: Trained | None

    @property
    def final(self) -> Trained:
        """Return the classifier that ends the defense."""
        return self.retrained or self.target

    @property
    def final_name(self) -> str:
        return "retrained" if self.retrained else "original"

    @property
    def defense(self) -> Defense:
        return Defense(self.purifier.module, self.final.module)

    def scored_on(self, name: str) -> str:
        """Return the content of what a row's classifier of that name ends: a whole defense, or the bare target where nothing is filtered."""
        if name == "unfiltered":
            return self.target.content[:16]
        classifier = self.final if name == "retrained" else self.target
        return f"{self.purifier.content[:16]}+{classifier.content[:16]}"


def networks_of(config: TrialConfig, materials: Materials) -> Networks:
    """Return a trial's networks, trained now where they are not stored."""
    target, purifier = materials.classifier(config, config.target), purifier_of(config, materials)
    return Networks(target, purifier, retrained_of(config, materials, target, purifier) if config.retrain != "none" else None)


def outcomes_of(config: TrialConfig, evaluation: EvaluationConfig, cell: Cell, materials: Materials, networks: Networks) -> Outcomes:
    """Return which images each classifier behind the purifier still classifies correctly, under one attack at each of its epsilons."""
    samples = materials.samples(config, evaluation, cell.images)
    purifier, target, retrained = networks.purifier, networks.target, networks.retrained
    classifiers = {"original": target.module} | ({"retrained": retrained.module} if retrained else {})
    key = outcome_key(config, evaluation, cell)

    def make() -> Bundle:
        if cell.threat in ADAPTIVE:
            fix_draws(key)
            name = networks.final_name
            return _packed(score_adaptive(networks.defense, name, samples, cell, content=networks.scored_on(name), batch_size=evaluation.batch_size))
        victim = retrained if cell.victim == "retrained" else None
        shared = None if cell.threat == "clean" else materials.adversarial(config, evaluation, cell, victim)
        unfiltered = target.module if cell.threat == "clean" else None
        fix_draws(key)  # after the set, whose making may draw, too
        return _packed(score_static(purifier.module, classifiers, samples, shared, batch_size=evaluation.batch_size, unfiltered=unfiltered))

    return _unpacked(materials.artifacts.get_or_create("outcomes", key, make))


def source_of(cell: Cell, config: TrialConfig, evaluation: EvaluationConfig) -> str:
    """Return the `source` of a cell's rows: what the images were crafted on, in words."""
    if cell.threat == "graybox":
        return "retrained" if cell.victim == "retrained" and config.retrain != "none" else config.target.model
    if cell.threat == "transfer":
        model = evaluation.sources[0].model
        return f"{model}x{len(evaluation.sources)}" if cell.source is None else f"{model}#{cell.source + 1}"
    return "defense" if cell.threat in ADAPTIVE else "none"


def worst_of(broken_at: list[torch.Tensor]) -> torch.Tensor | None:
    """Return at which epsilon the first of several attacks on the same images breaks each, float32 (N,); None without attacks."""
    return torch.stack(broken_at).amin(0) if broken_at else None


def _packed(outcomes: Outcomes) -> Bundle:
    tensors = {f"correct/{name}": value for name, value in outcomes.correct.items()}
    if outcomes.broken_at is not None:
        tensors["broken_at"] = outcomes.broken_at
    info = {name: value for name, value in vars(outcomes).items() if name not in ("correct", "broken_at")}
    return Bundle(tensors, info)


def _unpacked(bundle: Bundle) -> Outcomes:
    correct = {name.partition("/")[2]: value for name, value in bundle.tensors.items() if name.startswith("correct/")}
    return Outcomes(correct=correct, broken_at=bundle.tensors.get("broken_at"), **bundle.info)
