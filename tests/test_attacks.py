"""Promises that every attack keeps, and the closed forms that single ones obey."""

import importlib
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import SmallNet, accuracy, some_images, trained_net
from torch import Tensor, nn

import attacks
from attacks import bim, cw, fgsm, pgd
from attacks._keyed import canonical_epsilon, sample_keys, uniform_noise
from attacks._linf import StepConfig, input_gradient, margin
from attacks._modes import ready_for_attack

EPSILONS = [0.03, 0.1, 0.3]
FOLDER = Path(attacks.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


QUICK = {"cw_l2": {"num_steps": 60, "learning_rate": 0.1}}  # seconds instead of minutes


@pytest.fixture(params=NAMES)
def attack(request: pytest.FixtureRequest) -> Any:
    """Return an attack's module, `perturb` with settings that are quick."""
    module = importlib.import_module(f"attacks.{request.param}")
    config = module.Config(**QUICK.get(request.param, {}))
    return SimpleNamespace(**{**vars(module), "perturb": partial(module.perturb, config=config), "name": request.param})


def test_the_four_attacks_are_there() -> None:
    assert {"fgsm", "bim", "pgd", "cw"} <= set(NAMES)


def test_every_attack_stays_within_epsilon_and_unit_range(attack: Any) -> None:
    images, labels, keys = some_images()
    result = attack.perturb(trained_net(), images, labels, epsilons=EPSILONS, keys=keys)
    assert attack.NORM == "linf"
    assert isinstance(attack.VERSION, int)
    assert result.shape == (3, *images.shape)
    for adversarial, epsilon in zip(result, EPSILONS, strict=True):
        assert (adversarial - images).abs().max() <= epsilon + 1e-6
        assert (adversarial - images).abs().max() >= 0.9 * epsilon  # the ball is used, too
    assert result.min() >= 0
    assert result.max() <= 1


def test_every_attack_breaks_the_undefended_net(attack: Any) -> None:
    images, labels, keys = some_images(64)
    model = trained_net()
    epsilon = 1.0 if attack.name == "cw_l2" else 0.3  # clipping takes from its change what makes it work: it breaks all where nothing is clipped
    result = attack.perturb(model, images, labels, epsilons=[epsilon], keys=keys)
    assert accuracy(model, images, labels) > 0.85
    assert accuracy(model, result[0], labels) < 0.1


def test_every_attack_returns_the_images_at_epsilon_zero(attack: Any) -> None:
    images, labels, keys = some_images()
    result = attack.perturb(trained_net(), images, labels, epsilons=[0.0, 0.1], keys=keys)
    assert torch.equal(result[0], images)


def test_every_attack_repeats_with_the_same_keys(attack: Any) -> None:
    images, labels, keys = some_images()
    model = trained_net()
    first = attack.perturb(model, images, labels, epsilons=EPSILONS, keys=keys)
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(first, attack.perturb(model, images, labels, epsilons=EPSILONS, keys=keys))


def test_every_attack_depends_neither_on_batch_nor_on_order_nor_on_the_rest_of_the_grid(attack: Any) -> None:
    images, labels, keys = some_images()
    model = trained_net()
    whole = attack.perturb(model, images, labels, epsilons=EPSILONS, keys=keys)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    parts = [
        attack.perturb(model, images[part], labels[part], epsilons=[epsilon], keys=keys[part]) for epsilon in EPSILONS for part in order.split(5)
    ]
    rebuilt = torch.cat(parts, dim=1).view(3, *images.shape)
    assert torch.allclose(whole[:, order], rebuilt, atol=1e-5)


def test_every_attack_leaves_the_model_as_found(attack: Any) -> None:
    images, labels, keys = some_images()
    model = trained_net().train()
    model.features[1].eval()  # a frozen part inside a model in training
    model.head[2].weight.requires_grad_(False)
    model.head[2].bias.grad = torch.ones(10)
    modes = [module.training for module in model.modules()]
    wants_grad = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    attack.perturb(model, images, labels, epsilons=EPSILONS, keys=keys)

    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wants_grad
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert list(grads) == ["head.2.bias"]
    assert torch.equal(grads["head.2.bias"], torch.ones(10))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_attack_runs_where_the_caller_has_switched_gradients_off(attack: Any, mode: type) -> None:
    images, labels, keys = some_images(4)
    model = trained_net()
    expected = attack.perturb(model, images, labels, epsilons=[0.1], keys=keys)
    with mode():
        result = attack.perturb(model, images + 0, labels + 0, epsilons=[0.1], keys=keys)
    assert torch.equal(result, expected)


def test_every_attack_refuses_a_model_without_a_gradient(attack: Any) -> None:
    class Detached(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)

    images, labels, keys = some_images(4)
    with pytest.raises(ValueError, match="no gradient reaches the input"):
        attack.perturb(Detached(), images, labels, epsilons=[0.1], keys=keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilons": [8.0]}, r"did you mean 8/255"),
        ({"epsilons": [-0.1]}, r"epsilon must be in \[0, 1\], got -0.1"),
        ({"epsilons": []}, "at least one epsilon"),
        ({"images": torch.full((2, 1, 8, 8), 1.5)}, r"images must lie in \[0, 1\]"),
        ({"images": torch.full((2, 1, 8, 8), torch.nan)}, r"images must lie in \[0, 1\]"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.bfloat16)}, "images must be float32"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels must be int64"),
        ({"keys": torch.zeros(2)}, "keys must be int64"),
    ],
)
def test_every_attack_names_a_wrong_input(attack: Any, change: dict[str, object], message: str) -> None:
    images, labels, keys = some_images(2)
    given = {"images": images, "labels": labels, "keys": keys, "epsilons": [0.1], **change}
    with pytest.raises(ValueError, match=message):
        attack.perturb(trained_net(), **given)


# modes


def test_a_failing_attack_still_restores_the_model() -> None:
    model = trained_net().train()
    with pytest.raises(ZeroDivisionError), ready_for_attack(model):
        assert not model.training
        raise ZeroDivisionError
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nested_uses_restore_what_each_found() -> None:
    model = trained_net().train()
    with ready_for_attack(model):
        with ready_for_attack(model):
            pass
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.training


class CountingNet(SmallNet):
    """Updates a buffer in eval mode too, as an ungated moving average of a codebook would."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("usage", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.get_buffer("usage").add_(len(images))
        return super().forward(images)


def test_a_buffer_that_changes_during_an_attack_is_named() -> None:
    images, labels, keys = some_images(4)
    with pytest.raises(RuntimeError, match="buffer 'usage' changed"):
        fgsm.perturb(CountingNet(), images, labels, epsilons=[0.1], keys=keys)


def test_a_buffer_that_is_replaced_during_an_attack_is_named() -> None:
    model = CountingNet()
    with pytest.raises(RuntimeError, match="buffer 'usage' changed"), ready_for_attack(model):
        model.usage = torch.zeros(1)


# keyed randomness


def test_sample_keys_are_fixed_for_ever() -> None:
    keys = sample_keys(0, ["digits/0", "digits/1"])
    assert keys.dtype == torch.int64
    assert torch.equal(keys, sample_keys(0, ["digits/0", "digits/1"]))
    assert len({*keys.tolist(), *sample_keys(1, ["digits/0", "digits/1"]).tolist()}) == 4


def test_noise_belongs_to_key_attack_epsilon_and_restart() -> None:
    keys = sample_keys(0, ["a", "b"])
    reference = uniform_noise(keys, (1, 4, 4), attack="pgd", epsilon=0.1)
    assert torch.equal(uniform_noise(keys.flip(0), (1, 4, 4), attack="pgd", epsilon=0.1).flip(0), reference)
    for other in ({"attack": "apgd"}, {"epsilon": 0.2}, {"restart": 1}):
        changed = uniform_noise(keys, (1, 4, 4), **{"attack": "pgd", "epsilon": 0.1, "restart": 0, **other})
        assert not torch.allclose(changed / changed.abs().max(), reference / reference.abs().max())


def test_noise_is_uniform_in_the_ball() -> None:
    noise = uniform_noise(sample_keys(0, ["a"]), (1, 200, 200), attack="pgd", epsilon=0.5)
    assert noise.abs().max() <= 0.5
    assert abs(noise.mean().item()) < 0.01
    assert abs(noise.var().item() - 1 / 12) < 0.003  # of a uniform of width 1


def test_an_epsilon_read_back_in_float32_is_the_same_epsilon() -> None:
    assert canonical_epsilon(8 / 255) == canonical_epsilon(torch.tensor(8 / 255, dtype=torch.float32).item())
    assert canonical_epsilon(0.1) != canonical_epsilon(0.2)


# steps


@pytest.mark.parametrize(("epsilon", "num_steps", "expected"), [(0.1, 10, 0.025), (0.3, 10, 0.05), (1.0, 10, 0.1), (0.3, 5, 0.06)])
def test_scaled_step_size_is_capped_but_always_reaches_the_ball(epsilon: float, num_steps: int, expected: float) -> None:
    step_size = StepConfig(num_steps=num_steps).step_size_at(epsilon)
    assert step_size == pytest.approx(expected)
    assert step_size * num_steps >= epsilon


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.5, 1.0])
def test_bim_reaches_the_corner_of_the_ball_on_a_linear_model(epsilon: float) -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight.data = torch.cat([weight, -weight])
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    result = bim.perturb(model, images, labels, epsilons=[epsilon], keys=labels)
    corner = (0.5 - epsilon * weight.sign().view(1, 1, 2, 2)).clamp(0, 1)  # the true class loses fastest along -sign
    assert torch.allclose(result[0], corner, atol=1e-6)


def test_the_gradient_of_an_image_does_not_shrink_with_the_batch() -> None:
    images, labels, _ = some_images()
    model = trained_net()
    alone = input_gradient(model, images[:1], labels[:1]).gradient
    together = input_gradient(model, images, labels).gradient[:1]
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-7)


def test_more_restarts_never_lower_the_margin() -> None:
    images, labels, keys = some_images()
    model = trained_net()
    one, five = (pgd.perturb(model, images, labels, epsilons=[0.1], keys=keys, config=pgd.Config(num_restarts=n))[0] for n in (1, 5))
    with torch.no_grad():
        assert (margin(model(five), labels) >= margin(model(one), labels) - 1e-5).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"step_size_rule": "best"}, "'scaled' or 'fixed', got 'best'"),
        ({"step_size_rule": "fixed"}, r"step_size must be in \(0, 1\]"),
        ({"step_size": 0.1}, "only with step_size_rule='fixed'"),
    ],
)
def test_a_wrong_step_setting_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bim.Config(**options)  # type: ignore[arg-type]


# CW


class Shifted(nn.Module):
    """The same classifier with all logits moved by a constant."""

    def __init__(self, model: nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + self.shift


def test_margin_is_the_best_wrong_logit_minus_the_true_one() -> None:
    logits = torch.tensor([[-5.0, -7.0, -6.0], [1.0, 4.0, 2.0]])
    assert margin(logits, torch.tensor([0, 0])).tolist() == [-1.0, 3.0]


def test_cw_does_not_depend_on_a_shift_of_the_logits() -> None:
    images, labels, keys = some_images()
    model = trained_net()
    reference = cw.perturb(model, images, labels, epsilons=[0.1], keys=keys)
    shifted = cw.perturb(Shifted(model, -64.0), images, labels, epsilons=[0.1], keys=keys)
    assert (shifted - reference).abs().mean() < 1e-3  # rounding at -64, carried through 50 steps
    assert accuracy(model, shifted[0], labels) == pytest.approx(accuracy(model, reference[0], labels), abs=0.07)


def test_cw_moves_pixels_that_are_exactly_zero_or_one() -> None:
    images, labels, keys = some_images(64)
    delta = (cw.perturb(trained_net(), images, labels, epsilons=[0.05], keys=keys)[0] - images).abs()
    saturated = (images == 0) | (images == 1)
    assert saturated.float().mean() > 0.3
    assert delta[saturated].mean() > 0.3 * 0.05
    assert (delta[saturated] > 0.9 * 0.05).float().mean() > 0.25  # where the gradient points inwards


def test_cw_is_about_as_strong_as_pgd() -> None:
    images, labels, keys = some_images(128)
    model = trained_net()
    for epsilon in (0.05, 0.1):
        by_cw = cw.perturb(model, images, labels, epsilons=[epsilon], keys=keys)[0]
        by_pgd = pgd.perturb(model, images, labels, epsilons=[epsilon], keys=keys)[0]
        assert accuracy(model, by_cw, labels) <= accuracy(model, by_pgd, labels) + 0.03


def test_a_larger_kappa_gives_a_larger_margin_and_stops_there() -> None:
    images, labels, keys = some_images()
    model = trained_net()
    margins = []
    for kappa in (0.0, 2.0, 5.0):
        result = cw.perturb(model, images, labels, epsilons=[0.5], keys=keys, config=cw.Config(kappa=kappa))
        with torch.no_grad():
            margins.append(margin(model(result[0]), labels))
        assert (margins[-1] >= kappa - 1e-4).all()
    assert margins[0].mean() < margins[1].mean() < margins[2].mean()


def test_cw_takes_the_steps_of_torch_adam() -> None:
    images, labels, keys = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), torch.tensor([0])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    config = cw.Config(kappa=1e6, num_steps=7)
    w = torch.zeros_like(images, requires_grad=True)  # mid-grey is the centre of its box
    optimizer = torch.optim.Adam([w], lr=config.learning_rate, maximize=True)
    iterates = []
    for _ in range(8):
        moved = 0.4 + 0.1 * (torch.tanh(w) + 1)
        value = margin(model(moved), labels)
        iterates.append((value.item(), moved.detach()))
        optimizer.zero_grad()
        value.sum().backward()
        optimizer.step()
    best = max(iterates, key=lambda pair: pair[0])[1]
    result = cw.perturb(model, images, labels, epsilons=[0.1], keys=keys, config=config)
    assert torch.allclose(result[0], best, atol=1e-5)


@pytest.mark.parametrize("options", [{"kappa": -1.0}, {"learning_rate": 0.0}, {"start_scale": 1.0}, {"kappa": math.inf}])
def test_a_wrong_cw_setting_is_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        cw.Config(**options)
