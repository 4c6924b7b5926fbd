"""ComDefend's sizes, its loss, and the gradient that an attacker gets through its bits."""

from math import erf, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import comdefend


def make(channels: int = 1, **options: Any) -> Any:
    torch.manual_seed(0)
    return comdefend.build(comdefend.Config(**{"width": 1, **options}), (channels, 8, 8), 10)


def images(count: int = 4, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def test_parameters_are_the_specified_number() -> None:
    with torch.device("meta"):
        model: Any = comdefend.build(comdefend.Config(), (3, 32, 32), 10)
    assert sum(p.numel() for p in model.compress.parameters()) == 783_372
    assert sum(p.numel() for p in model.reconstruct.parameters()) == 783_363


def test_images_are_made_of_bits_alone() -> None:
    model, seen = make().eval(), []
    model.reconstruct.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(images())
        code = model.compress(images())
    assert seen[0].shape == (4, 12, 8, 8)
    assert torch.equal(seen[0], torch.sigmoid(code).round())
    assert 0 < seen[0].mean() < 1


def test_loss_is_the_error_plus_a_price_of_bits_under_noise() -> None:
    model, clean = make(noise=3.0, code_weight=0.25), images()
    inputs = 1 - clean
    terms = model.training_loss(inputs, clean, torch.Generator().manual_seed(5))
    noise = torch.randn(4, 12, 8, 8, generator=torch.Generator().manual_seed(5))
    bits = 1 / (1 + torch.exp(3 * noise - model.compress(inputs)))
    error = (model.reconstruct(bits) - clean).square().mean()
    torch.testing.assert_close(terms["reconstruction"], error.detach())
    torch.testing.assert_close(terms["code_length"], bits.square().mean().detach())
    torch.testing.assert_close(terms["loss"], error + bits.square().mean() / 4)


def test_training_noise_is_that_of_the_generator_and_purification_has_none() -> None:
    model = make()
    first, second = (model.training_loss(images(), images(), torch.Generator().manual_seed(seed))["loss"] for seed in (0, 1))
    assert first != second
    assert torch.equal(model(images()), model(images()))


def test_expected_bits_are_the_mean_of_noisy_ones() -> None:
    code = torch.tensor([-60.0, -20.0, 0.0, 5.0, 30.0])
    noise = 20 * torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(comdefend.expected_bits(code, 20.0), torch.sigmoid(code - noise).mean(0), atol=0.02, rtol=0)
    normal = torch.tensor([(1 + erf(float(each) / 20 / sqrt(2))) / 2 for each in code])  # a sigmoid is steep beside such noise
    torch.testing.assert_close(comdefend.expected_bits(code, 20.0), normal, atol=0.02, rtol=0)
    assert torch.equal(comdefend.expected_bits(code, 0.0), torch.sigmoid(code))


def test_an_attacker_gets_the_gradient_of_the_expected_bits() -> None:
    model, leaf = make().eval(), images().requires_grad_()
    (gradient,) = torch.autograd.grad(F.mse_loss(model(leaf), torch.zeros_like(leaf), reduction="sum"), leaf)

    code = model.compress(leaf)
    bits = (code > 0).float().requires_grad_()
    (of_bits,) = torch.autograd.grad(F.mse_loss(model.reconstruct(bits), torch.zeros_like(leaf), reduction="sum"), bits)
    soft = comdefend.expected_bits(code, 20.0)
    scale = sqrt(1 + torch.pi * 400 / 8)
    (expected,) = torch.autograd.grad(code, leaf, of_bits * soft.detach() * (1 - soft.detach()) / scale)
    torch.testing.assert_close(gradient, expected)


def test_an_attacker_gets_a_gradient_through_codes_far_from_zero() -> None:
    model = make().eval()
    with torch.no_grad():
        model.compress[-1].weight.mul_(100)
        model.compress[-1].bias.add_(60)  # where a sigmoid is 1 in float32 and its gradient 0
    leaf = images().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_training_lowers_the_error_of_the_purified_images() -> None:
    model, data = make(noise=2.0), images(1).expand(8, -1, -1, -1) * torch.linspace(0.2, 1, 8).view(8, 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, **model.optimizer_options())
    generator = torch.Generator().manual_seed(0)
    before = F.mse_loss(model(data), data)
    for _ in range(60):
        optimizer.zero_grad()
        model.training_loss(data, data, generator)["loss"].backward()
        optimizer.step()
    assert F.mse_loss(model(data), data) < 0.6 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"noise": -1}, "noise must be a number of at least 0 and finite, got -1"),
        ({"code_weight": "1"}, "code_weight must be a number of at least 0 and finite, got '1'"),
    ],
)
def test_wrong_setting_is_named_in_the_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        comdefend.Config(**options)
