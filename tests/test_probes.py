"""Every planted defect is caught by the probe meant for it, and no sound defense is failed."""

from dataclasses import replace
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
from sweeper.config import Numerics
from sweeper.probes import strength
from sweeper.probes._subject import Finding, Subject
from sweeper.probes.all import attacked, health
from sweeper.probes.integrity import attacked_through_expectation
from sweeper.probes.levels import STRENGTH
from sweeper.probes.planted import PLANTS
from sweeper.recipes import Training
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


def subject(defense: Defense, *, is_attacked: bool = True, **options: object) -> Subject:
    test, settings = digits().test, {"num_steps": 20} | options
    keys = sample_keys(0, test.sample_ids)
    broken_at = None
    if is_attacked:
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
    assert failed(health(sound) + [attacked(sound, check, "standard") for check in STRENGTH]) == []


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_defect_is_caught_by_the_probe_meant_for_it(name: str) -> None:
    plant, test = PLANTS[name], digits().test
    defense = plant.make(Defense(purifier("identity"), classifier()), test.images, test.labels)
    found = health(subject(defense, is_attacked=False))
    if plant.check in STRENGTH:
        found += [attacked(subject(defense), plant.check, "standard")]
    finding = of(found, plant.check)
    assert finding.outcome == plant.outcome, finding


def test_a_random_defense_that_is_attacked_through_its_expectation_passes_and_says_what_is_left() -> None:
    test = digits().test
    noisy = PLANTS["random, attacked without expectation"].make(Defense(purifier("identity"), classifier()), test.images, test.labels)
    about = subject(noisy, is_attacked=False, num_eot_samples=20, num_steps=3, num_restarts=1).few(4)
    finding = attacked_through_expectation(about)
    assert (finding.outcome, finding.value, finding.threshold) == ("pass", 20, 20)
    assert "survive with the draws fixed" in finding.message and "by the majority of ten evaluations" in finding.message


def test_the_limit_of_a_stronger_attack_is_chance_and_the_interval_that_was_printed() -> None:
    """Of 64 images 48 survive 0.05: twelve more broken is more than the interval of 75 % admits, three more is not, one is chance."""
    about = subject(Defense(purifier("identity"), classifier()), is_attacked=False)
    about = replace(about, broken_at=torch.where(torch.arange(64) < 48, torch.inf, 0.025))
    outcomes = {}
    for broken in (0, 1, 3, 14):
        found = strength.on_survivors(
            "C13", about, "standard", 0.01, "it", lambda chosen, epsilon, n=broken: torch.where(torch.arange(48) < n, epsilon, torch.inf)
        )
        outcomes[broken] = found.outcome
        assert found.value == pytest.approx(broken / 64)
    assert outcomes == {0: "pass", 1: "warn", 3: "warn", 14: "fail"}


def test_survivors_are_those_of_the_largest_epsilon_that_half_survive() -> None:
    about = subject(Defense(purifier("identity"), classifier()), is_attacked=False)
    quarters = torch.arange(64) // 16
    about = replace(about, broken_at=torch.tensor([0.0, 0.025, 0.1, torch.inf])[quarters])
    epsilon, survivors = strength.survivors_of(about)  # 48 are right unperturbed, of whom 32 survive 0.025 and 0.05, and 16 survive 0.1
    assert epsilon == 0.05 and survivors.tolist() == list(range(32, 64))


def test_the_bound_of_a_share_is_that_of_clopper_and_pearson() -> None:
    assert strength.lower_bound(0, 10) == 0
    assert strength.lower_bound(10, 10) == pytest.approx(0.05 ** (1 / 10))  # all of ten: p^10 = 5 %
    low = strength.lower_bound(2, 10)
    at_least_two = 1 - (1 - low) ** 10 - 10 * low * (1 - low) ** 9
    assert at_least_two == pytest.approx(0.05)
