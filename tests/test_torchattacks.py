"""Our attacks against torchattacks' own, and torchattacks behind our interface."""

import random
import sys

import numpy as np
import pytest
import torch
import torchattacks
from small_models import accuracy, some_images, trained_net
from torch import Tensor

from attacks import bim, fgsm, pgd
from attacks._keyed import uniform_noise
from attacks._torchattacks import TorchattacksAttack, available, load

EPSILON = 8 / 255
RANDOM = ["PGD", "APGD", "FFGSM", "Square"]


def assert_same_images(ours: Tensor, theirs: Tensor) -> None:
    """Equal up to rounding; at most one pixel in ten thousand may fall on the other side of a zero gradient."""
    assert ((ours - theirs).abs() > 1e-6).float().mean() < 1e-4


def test_fgsm_equals_torchattacks() -> None:
    images, labels, keys = some_images(64)
    model = trained_net()
    ours = fgsm.perturb(model, images, labels, epsilons=[EPSILON, 0.3], keys=keys)
    for result, epsilon in zip(ours, (EPSILON, 0.3), strict=True):
        assert_same_images(result, torchattacks.FGSM(model, eps=epsilon)(images, labels))


@pytest.mark.parametrize("epsilon", [EPSILON, 0.1])
def test_bim_equals_torchattacks(epsilon: float) -> None:
    images, labels, keys = some_images(64)
    model = trained_net()
    config = bim.Config(num_steps=10, step_size_rule="fixed", step_size=2 / 255)
    ours = bim.perturb(model, images, labels, epsilons=[epsilon], keys=keys, config=config)
    assert_same_images(ours[0], torchattacks.BIM(model, eps=epsilon, alpha=2 / 255, steps=10)(images, labels))


@pytest.mark.parametrize("epsilon", [EPSILON, 0.1])
def test_pgd_equals_torchattacks_from_the_same_start(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, keys = some_images(64)
    model = trained_net()
    config = pgd.Config(num_steps=10, step_size_rule="fixed", step_size=2 / 255)
    ours = pgd.perturb(model, images, labels, epsilons=[epsilon], keys=keys, config=config)
    noise = uniform_noise(keys, images.shape[1:], attack="pgd", epsilon=epsilon)
    monkeypatch.setattr(Tensor, "uniform_", lambda self, low, high: self.copy_(noise))
    assert_same_images(ours[0], torchattacks.PGD(model, eps=epsilon, alpha=2 / 255, steps=10)(images, labels))


def test_torchattacks_default_step_size_does_not_reach_a_large_ball_and_ours_does() -> None:
    images, labels, keys = torch.full((4, 1, 8, 8), 0.5), torch.arange(4), torch.arange(4)
    model = trained_net()
    theirs = load("torchattacks:BIM").perturb(model, images, labels, epsilons=[0.3], keys=keys)
    ours = bim.perturb(model, images, labels, epsilons=[0.3], keys=keys)
    assert (theirs[0] - images).abs().max() <= 20 / 255 + 1e-6
    assert (ours[0] - images).abs().max() == pytest.approx(0.3, abs=1e-6)


def test_the_engine_gives_what_the_library_gives() -> None:
    images, labels, keys = some_images()
    model = trained_net()
    attack = load("torchattacks:MIFGSM")
    result = attack.perturb(model, images, labels, epsilons=[0.05], keys=keys, config=attack.Config(steps=3, decay=0.5))
    assert torch.equal(result[0], torchattacks.MIFGSM(model, eps=0.05, steps=3, decay=0.5)(images, labels))


@pytest.mark.parametrize("name", [name for name in available() if name not in ("TIFGSM", "AutoAttack", "FAB", "SPSA")])
def test_every_engine_attack_keeps_the_contract(name: str) -> None:
    images, labels, keys = some_images(8)
    model = trained_net().train()
    model.features.eval()
    modes = [module.training for module in model.modules()]
    attack = load(f"torchattacks:{name}")
    config = attack.Config(n_queries=20) if name == "Square" else attack.Config()
    result = attack.perturb(model, images, labels, epsilons=[0.0, 0.1], keys=keys, config=config)
    assert attack.NORM == "linf"
    assert attack.VERSION.endswith("+torchattacks-" + torchattacks.__version__)
    assert result.shape == (2, *images.shape)
    assert torch.equal(result[0], images)
    assert (result[1] - images).abs().max() <= 0.1 + 1e-6
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_engine_attack_repeats_and_leaves_the_global_generators_alone(name: str) -> None:
    images, labels, keys = some_images(8)
    model = trained_net()
    attack = load(f"torchattacks:{name}")
    config = attack.Config(n_queries=20) if name == "Square" else attack.Config()
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    first = attack.perturb(model, images, labels, epsilons=[0.1], keys=keys, config=config)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]
    torch.rand(3)
    assert torch.equal(first, attack.perturb(model, images, labels, epsilons=[0.1], keys=keys, config=config))


def test_attacks_that_return_the_clean_image_on_failure_say_so() -> None:
    images, labels, keys = some_images(32)
    model = trained_net()
    attack = load("torchattacks:APGD")
    adversarial = attack.perturb(model, images, labels, epsilons=[0.02], keys=keys)[0]
    with torch.no_grad():
        survived = model(adversarial).argmax(1) == labels
    assert attack.RETURNS_CLEAN_ON_FAILURE
    assert survived.any()
    assert torch.equal(adversarial[survived], images[survived])
    assert not load("torchattacks:PGD").RETURNS_CLEAN_ON_FAILURE


def test_an_engine_attack_reads_the_number_of_classes_from_the_logits() -> None:
    images, labels, keys = some_images(4)
    model = trained_net()
    model.head[2] = torch.nn.Linear(256, 4).eval()
    attack = load("torchattacks:APGDT")  # its default, 10 classes, would fail on 4 logits
    result = attack.perturb(model, images, labels % 4, epsilons=[0.3], keys=keys)
    assert accuracy(model, result[0], labels % 4) <= accuracy(model, images, labels % 4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torchattacks:CW", "not bounded in L-infinity"),
        ("torchattacks:PGDL2", "not bounded in L-infinity"),
        ("torchattacks:DeepFool", "not bounded in L-infinity"),
        ("torchattacks:PDG", "unknown; available: torchattacks:APGD"),
        ("pgd", "unknown"),
    ],
)
def test_an_attack_without_an_l_infinity_epsilon_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 3}, "unknown setting 'step' .did you mean 'steps'"),
        ({"eps": 0.1}, "'eps' is not a setting here: epsilon comes from the grid"),
        ({"steps": 2.5}, "steps must be int, got 2.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"random_start": 1}, "random_start must be bool, got 1"),
    ],
)
def test_a_wrong_engine_setting_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("torchattacks:PGD").Config(**options)


def test_the_library_s_defaults_fill_what_is_not_given() -> None:
    complete = load("torchattacks:PGD").complete({"steps": 3})
    assert complete == {"alpha": 2 / 255, "steps": 3, "random_start": True}


def test_an_engine_attack_that_leaves_the_ball_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, keys = some_images(4)
    monkeypatch.setattr(torchattacks.FGSM, "forward", lambda self, images, labels: (images + 0.2).clamp(0, 1))
    with pytest.raises(ValueError, match="torchattacks:FGSM left the ball"):
        TorchattacksAttack("FGSM").perturb(trained_net(), images, labels, epsilons=[0.1], keys=keys)


def test_the_engine_imports_neither_torchvision_nor_robustbench() -> None:
    # a child process, because other tests of this run may have imported anything
    import subprocess

    code = "import sys, attacks._torchattacks; print([m for m in ('torchvision', 'robustbench') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
