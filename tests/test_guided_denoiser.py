"""The guided denoiser: its size, its loss by hand, its target kept apart, and the gradient of its clipping."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import guided_denoiser
from models.guided_denoiser import GuidedDenoiser

SHAPE = (1, 8, 8)


class Target(nn.Module):
    """Logits are the mean of an image times each of three weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 4.0]))

    def forward(self, data: Tensor) -> Tensor:
        return data.mean((1, 2, 3))[:, None] * self.weight


def target() -> nn.Module:
    return Target().eval().requires_grad_(False)


def make(seed: int = 0, guided: bool = True, **options: Any) -> GuidedDenoiser:
    torch.manual_seed(seed)
    module = guided_denoiser.build(guided_denoiser.Config(**{"width": 2, "depth": 2, **options}), SHAPE, 10)
    assert isinstance(module, GuidedDenoiser)
    if guided:
        module.guide(target())
    return module


def unchanging() -> GuidedDenoiser:
    module = make()
    nn.init.zeros_(module.head.weight)
    return module


def images(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(4, *shape, generator=torch.Generator().manual_seed(seed))


def loss_of(module: GuidedDenoiser, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return module.training_loss(inputs, targets, torch.Generator())


def test_parameters_are_those_of_the_papers_layout() -> None:
    def block(channels: int, out: int) -> int:
        return 9 * channels * out + 2 * out  # 3×3 convolution without bias, batch normalization

    down = block(3, 64) + block(64, 64) + block(64, 128) + 2 * block(128, 128) + block(128, 256) + 8 * block(256, 256)
    up = 2 * (block(512, 256) + 2 * block(256, 256)) + block(384, 128) + 2 * block(128, 128) + block(192, 64) + block(64, 64)
    with torch.device("meta"):
        module = guided_denoiser.build(guided_denoiser.Config(), (3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in module.parameters()) == down + up + 64 * 3 == 11_033_984


def test_loss_is_the_mean_l1_distance_of_logits() -> None:
    terms = loss_of(unchanging(), torch.full((2, *SHAPE), 0.75), torch.full((2, *SHAPE), 0.25))
    assert terms["loss"].item() == pytest.approx(0.5 * (1 + 2 + 4) / 3, rel=1e-6)
    assert float(terms["reconstruction"]) == 0.25


def test_loss_is_zero_for_a_denoiser_without_effect_on_clean_images() -> None:
    terms = loss_of(unchanging(), images(), images())
    assert terms["loss"].item() == 0
    assert float(terms["reconstruction"]) == 0


def test_network_predicts_the_negative_noise() -> None:
    module, features = make().eval(), []
    module.head.register_forward_hook(lambda _, inputs, output: features.append(output))
    purified = module.denoise(images())
    assert torch.equal(purified, images() + features[0])
    assert features[0].abs().amax() > 0


def test_training_looks_at_unclipped_images_and_reconstruction_at_clipped_ones() -> None:
    module = make().train()
    with torch.no_grad():
        module.head.weight.fill_(10)  # features are at least 0: everything becomes far brighter than white
    inputs = images()
    denoised = copy.deepcopy(module).denoise(inputs)
    assert denoised.mean() > 2
    terms = loss_of(module, inputs, images(1))
    expected = ((denoised.mean((1, 2, 3)) - images(1).mean((1, 2, 3))).abs().mean() * (1 + 2 + 4) / 3).detach()
    torch.testing.assert_close(terms["loss"].detach(), expected)
    torch.testing.assert_close(terms["reconstruction"], (denoised.detach().clamp(0, 1) - images(1)).square().mean())


def test_clipping_hands_the_gradient_through() -> None:
    module = make().eval()
    data = images().requires_grad_()
    with torch.no_grad():
        module.head.weight.mul_(1000)
        is_clipped = (module.denoise(data) < 0) | (module.denoise(data) > 1)
    assert 0.1 < float(is_clipped.float().mean()) < 0.99
    weights = images(1)
    (clipped,) = torch.autograd.grad((module(data) * weights).sum(), data)
    (unclipped,) = torch.autograd.grad((module.denoise(data) * weights).sum(), data)
    assert torch.equal(clipped, unclipped)
    assert torch.equal(module(data), module.denoise(data).clamp(0, 1))
    assert guided_denoiser.GRADIENT == "straight_through"


def test_target_is_no_part_of_the_denoiser() -> None:
    module, bare = make(), make(guided=False)
    assert module.state_dict().keys() == bare.state_dict().keys()
    assert len(list(module.parameters())) == len(list(bare.parameters()))
    assert len(list(module.modules())) == len(list(bare.modules()))


def test_loss_trains_the_denoiser_and_leaves_the_target_alone() -> None:
    module, classifier = make(guided=False).train(), target()
    before = copy.deepcopy(classifier.state_dict())
    module.guide(classifier)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        terms = loss_of(module, (images() + 0.3).clamp(0, 1), images())
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not classifier.training
    assert torch.equal(classifier.state_dict()["weight"], before["weight"])


def test_only_the_loss_has_a_gradient() -> None:
    terms = loss_of(make().train(), images(1), images())
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]
    assert all(term.ndim == 0 for term in terms.values())


def test_a_classifier_that_could_still_change_is_refused() -> None:
    for classifier in (Target().requires_grad_(False).train(), Target().eval()):
        with pytest.raises(ValueError, match="must be in eval mode with frozen parameters"):
            make(guided=False).guide(classifier)


def test_training_without_a_classifier_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match=r"call guide\(classifier\) first"):
        loss_of(make(guided=False), images(), images())


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (1, 30, 18)], ids=["gray", "color", "odd"])
def test_purified_images_keep_shape_and_range_and_give_a_gradient(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    module = guided_denoiser.build(guided_denoiser.Config(2, 3), shape, 10).eval()
    data = images(shape=shape)
    data[0], data[1] = 0, 1
    data.requires_grad_()
    output = module(data)
    assert output.shape == data.shape
    assert output.min() >= 0
    assert output.max() <= 1
    assert torch.equal(output, module(data))
    (gradient,) = torch.autograd.grad(output.sum(), data)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    torch.testing.assert_close(module(data[2:3]), output[2:3], atol=1e-6, rtol=1e-5)


def test_state_dict_restores_the_purifier_without_its_target() -> None:
    module, other = make(), make(seed=1, guided=False)
    loss_of(module.train(), images(1), images())  # moves the running statistics
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(images()), other.eval()(images()))


def test_widths_double_twice_at_most() -> None:
    module = make(width=3, depth=3)
    assert [block[0][0].out_channels for block in module.down] == [3, 6, 12, 12]  # pyright: ignore[reportIndexIssue]
    assert [len(block) for block in module.down] == [2, 3, 3, 3]  # pyright: ignore[reportArgumentType]
    assert [len(block) for block in module.up] == [2, 3, 3]  # pyright: ignore[reportArgumentType]


def test_wrong_settings_and_images_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="depth must be a whole number of at least 1, got 0"):
        guided_denoiser.Config(depth=0)
    with pytest.raises(ValueError, match="depth 4 needs image height and width of at least 16, got 8x8"):
        guided_denoiser.build(guided_denoiser.Config(), SHAPE, 10)
