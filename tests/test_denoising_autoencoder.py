"""The denoising autoencoder: MagNet's layouts, its noise, and its loss against a computation by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from models import denoising_autoencoder
from models.denoising_autoencoder import Config, DenoisingAutoencoder, build

SHAPE = (1, 16, 16)
MNIST_I: dict[str, Any] = {"widths": (3, 3), "pooling": "average"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=seeded(seed))


def make(shape: tuple[int, int, int] = SHAPE, seed: int = 0, **options: Any) -> DenoisingAutoencoder:
    torch.manual_seed(seed)
    model = build(Config(**{"widths": (4,), **options}), shape, 10)
    assert isinstance(model, DenoisingAutoencoder)
    return model


def parameters(*channels: int) -> int:
    """Return the parameters of a chain of 3×3 convolutions with biases."""
    return sum(9 * before * after + after for before, after in zip(channels[:-1], channels[1:], strict=True))


def convolve(features: np.ndarray, convolution: nn.Module) -> np.ndarray:
    """Return sigmoid(convolution(features)) of one image (C, H, W), by scipy."""
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    weight, bias = convolution.weight.detach().double().numpy(), convolution.bias.detach().double().numpy()
    planes = [sum(ndimage.correlate(features[i], kernel[i], mode="constant") for i in range(len(features))) for kernel in weight]
    return 1 / (1 + np.exp(-(np.stack(planes) + bias[:, None, None])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, (3, 32, 32, 3)),
        ({"widths": (3,)}, (3, 3, 3, 3)),  # MNIST II
        (MNIST_I, (3, 3, 3, 3, 3, 3)),
        ({"widths": (8, 16, 4)}, (3, 8, 16, 4, 4, 16, 8, 3)),
    ],
)
def test_parameters_are_those_of_mirrored_convolutions(options: dict[str, Any], channels: tuple[int, ...]) -> None:
    model = build(Config(**options), (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == parameters(*channels)


def test_default_has_the_specified_number_of_parameters() -> None:
    assert sum(p.numel() for p in build(Config(), (3, 32, 32), 10).parameters()) == 11_011
    assert sum(p.numel() for p in build(Config(), (1, 32, 32), 10).parameters()) == 9_857


@pytest.mark.parametrize("options", [{"widths": (4,)}, MNIST_I], ids=["II", "I"])
def test_forward_is_that_of_scipy(options: dict[str, Any]) -> None:
    model = make((2, 8, 8), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    features = images(1, shape=(2, 8, 8))[0].double().numpy()
    expected = convolve(features, model.encoder[0])
    if options is MNIST_I:
        expected = expected.reshape(3, 4, 2, 4, 2).mean((2, 4))
        expected = convolve(convolve(expected, model.encoder[1]), model.decoder[0])
        expected = expected.repeat(2, axis=1).repeat(2, axis=2)
    expected = convolve(convolve(expected, model.decoder[-1]), model.head)
    with torch.no_grad():
        np.testing.assert_allclose(model(images(1, shape=(2, 8, 8)))[0].numpy(), expected, atol=1e-5)


def test_max_pooling_keeps_the_largest_of_four() -> None:
    model = make(widths=(3, 3), pooling="max")
    first = model.activations(images())[0]
    pooled = torch.stack([first[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    torch.testing.assert_close(model.activations(images())[1], torch.sigmoid(model.encoder[1](pooled)))


@pytest.mark.parametrize("options", [{}, MNIST_I], ids=["II", "I"])
def test_loss_is_error_plus_weighted_activity(options: dict[str, Any]) -> None:
    model = make(noise=0, activity_weight=0.5, **options)
    inputs, targets = images(), images(seed=1)
    terms = model.training_loss(inputs, targets, seeded())
    outputs = [output.detach().double().numpy() for output in model.activations(inputs)]
    assert len(outputs) == 2 * len(model.config.widths) + 1
    error, activity = ((outputs[-1] - targets.double().numpy()) ** 2).mean(), sum((output**2).sum() for output in outputs) / 4
    assert terms["reconstruction"].item() == pytest.approx(error, rel=1e-5)
    assert terms["activity"].item() == pytest.approx(activity, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(error + 0.5 * activity, rel=1e-5)
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]


def test_without_activity_the_loss_is_the_error() -> None:
    terms = make(noise=0, activity_weight=0).training_loss(images(), images(), seeded())
    assert terms.keys() == {"loss", "reconstruction"}
    assert torch.equal(terms["loss"], terms["reconstruction"])


def test_training_adds_clipped_noise_from_the_generator() -> None:
    noisy_model, plain = make(noise=0.5), make(noise=0)
    noisy = (images() + 0.5 * torch.randn(4, *SHAPE, generator=seeded(7))).clamp(0, 1)
    assert float((noisy == 0).sum()) > 0 and float((noisy == 1).sum()) > 0
    expected = plain.training_loss(noisy, images(), seeded())
    for name, value in noisy_model.training_loss(images(), images(), seeded(7)).items():
        assert torch.equal(value, expected[name])


def test_noise_depends_on_the_generator_alone() -> None:
    model, generator = make(), seeded(3)
    state = generator.get_state()
    first, second = (model.training_loss(images(), images(), generator)["loss"] for _ in range(2))
    generator.set_state(state)
    torch.manual_seed(99)
    assert torch.equal(model.training_loss(images(), images(), generator)["loss"], first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("options", [{}, MNIST_I, {"widths": (3, 3), "pooling": "max"}], ids=["II", "I", "max"])
def test_purification_adds_none_and_gives_a_gradient(options: dict[str, Any]) -> None:
    model, data = make(**options).eval(), images().requires_grad_()
    purified = model(data)
    (gradient,) = torch.autograd.grad(purified.square().sum(), data)
    assert torch.equal(purified, model(data))
    torch.testing.assert_close(model(data[1:2]), purified[1:2])
    assert 0 <= purified.min() < purified.max() <= 1
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_bfloat16_changes_little() -> None:
    model = make(noise=0, activity_weight=1e-3)
    expected = model.training_loss(images(), images(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.training_loss(images(), images(), seeded())
        assert model(images()).dtype == torch.float32
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=0.02)


def test_state_restores_model_and_loss() -> None:
    model, other = make(**MNIST_I), make(seed=1, **MNIST_I)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(images()), model(images()))
    mine, theirs = (net.training_loss(images(), images(), seeded())["loss"] for net in (model, other))
    assert torch.equal(mine, theirs)


def test_training_learns_to_denoise() -> None:
    rows = torch.arange(16)
    clean = (((rows + torch.arange(32)[:, None]).remainder(16) < 8).float()[:, None, :, None] * torch.ones(16)).contiguous()  # stripes
    model, generator = make(widths=(8,)).train(), seeded()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(150):
        loss = model.training_loss(clean, clean, generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=seeded(1))).clamp(0, 1)
    with torch.inference_mode():
        assert (model.eval()(noisy) - clean).square().mean() < 0.5 * (noisy - clean).square().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, "widths must be a list of at least one whole number"),
        ({"widths": [3, 0]}, "every entry of widths must be a whole number of at least 1, got 0"),
        ({"pooling": "mean"}, "pooling must be one of none, average, max, got 'mean'"),
        ({"noise": -0.1}, "noise must be a number of at least 0 and finite, got -0.1"),
        ({"activity_weight": float("nan")}, "activity_weight must be a number"),
    ],
)
def test_wrong_setting_is_named_in_the_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_images_that_do_not_fit_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"pooling 'average' with widths \(3, 3\) needs image sides divisible by 2, got 9x16"):
        make((1, 9, 16), **MNIST_I)
    assert make((1, 9, 16), widths=(3, 3))(images(1, shape=(1, 9, 16))).shape == (1, 1, 9, 16)  # nothing is halved


def test_lists_and_whole_numbers_are_one_setting() -> None:
    assert Config(widths=[3, 3], noise=0) == Config(widths=(3, 3), noise=0.0)  # type: ignore[arg-type]
    assert denoising_autoencoder.GRADIENT == "exact"
