"""Every planted defect is caught by the probe meant for it, and no sound defense is failed."""

from functools import cache

import pytest
import torch
from torch import nn

from attacks._ascending import Config as AscentConfig
from attacks._ascending import ascend
from attacks._inner import Adversary
from attacks._keyed import sample_keys
from models import identity, mean_blur, vqunet, wide_resnet
from models._folding import fold_batch_norm
from sweeper import datasets
from sweeper.config import Numerics, Training
from sweeper.probes._subject import Finding, Subject
from sweeper.probes.all import STRENGTH, health
from sweeper.probes.planted import PLANTS
from sweeper.scoring import Defense
from sweeper.training import classification_loss, fit

GRID, SCORE = (0.0125, 0.025, 0.05, 0.1), 0.1


@cache
def digits() -> datasets.Splits:
    return datasets.load("digits", caps=(500, 20, 64))


@cache
def classifier(adversary: str = "none") -> nn.Module:
    """Return a small classifier of the digits, trained in a second or two."""
    torch.manual_seed(0)
    splits = digits()
    module = wide_resnet.build(wide_resnet.Config(depth=10, width=1, stem_stride=2), splits.image_shape, splits.num_classes)
    loss = classification_loss(module, None if adversary == "none" else Adversary(adversary, SCORE))
    recipe = Training(num_epochs=8, batch_size=32, learning_rate=3e-3, optimizer="adamw")
    fit(module, splits.train.images, splits.train.labels, recipe, loss, seed=0, numerics=Numerics(), checkpoint=None, name="test")
    return fold_batch_norm(module.eval()).requires_grad_(False)


def purifier(name: str) -> nn.Module:
    module = {"identity": identity, "mean_blur": mean_blur, "vqunet": vqunet}[name]
    torch.manual_seed(1)
    options = {"depth": 1, "base_width": 4, "codebook_size": 16} if name == "vqunet" else {}
    return module.build(module.Config(**options), digits().image_shape, 10).eval().requires_grad_(False)


def subject(defense: Defense, *, attacked: bool = True, **options: object) -> Subject:
    test, settings = digits().test, {"num_steps": 20} | options
    keys = sample_keys(0, test.sample_ids)
    broken_at = None
    if attacked:
        broken_at = ascend(defense, test.images, test.labels, epsilons=GRID, keys=keys, config=AscentConfig(**settings)).broken_at
    return Subject(defense, test.images, test.labels, keys, GRID, SCORE, broken_at, settings)


def of(findings: list[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def failed(findings: list[Finding]) -> list[str]:
    return [f"{finding.check}: {finding.message}" for finding in findings if finding.outcome == "fail"]


SOUND = {
    "undefended": lambda: Defense(purifier("identity"), classifier()),
    "adversarially trained": lambda: Defense(purifier("identity"), classifier("fgsm_rs")),
    "a weak but honest purifier": lambda: Defense(purifier("mean_blur"), classifier()),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_defense_fails_no_probe(name: str) -> None:
    sound = subject(SOUND[name]())
    assert failed(health(sound) + [probe(sound, "standard") for probe in STRENGTH.values()]) == []


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_defect_is_caught_by_the_probe_meant_for_it(name: str) -> None:
    plant, test = PLANTS[name], digits().test
    defense = plant.make(Defense(purifier("identity"), classifier()), test.images, test.labels)
    found = health(subject(defense, attacked=False))
    if plant.check in STRENGTH:
        found += [STRENGTH[plant.check](subject(defense), "standard")]
    finding = of(found, plant.check)
    assert finding.outcome == plant.outcome, finding
