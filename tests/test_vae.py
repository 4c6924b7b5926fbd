"""Defense-VAE and HFL-VAE: their sizes, each loss term against a computation by hand, and lambda = 0 as one model."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from models import defense_vae, hfl_vae
from models._folding import fold_batch_norm
from models._vae import kl_divergence, variational_loss
from models.hfl_vae import FrequencyLoss

SHAPE = (1, 16, 16)
MODULES = {"defense_vae": defense_vae, "hfl_vae": hfl_vae}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=seeded(seed))


def make(name: str = "defense_vae", *, seed: int = 0, shape: tuple[int, int, int] = SHAPE, **options: Any) -> Any:
    module = MODULES[name]
    torch.manual_seed(seed)
    return module.build(module.Config(**{"width": 4, "latent_dim": 3, **options}), shape, 10)


def train(model: Any, num_steps: int = 4) -> list[dict[str, Tensor]]:
    """Train on noisy images and return the terms of each step."""
    optimizer, generator, terms = torch.optim.Adam(model.train().parameters(), 4e-3), seeded(), []
    for step in range(num_steps):
        clean = images(seed=step)
        terms.append(model.training_loss((clean + 0.1).clamp(0, 1), clean, generator))
        optimizer.zero_grad()
        terms[-1]["loss"].backward()
        optimizer.step()
    return terms


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def formula(channels: int, width: int, latent_dim: int, grid: int = 16) -> int:
    """Return the parameters of a VAE, layer by layer as in section 4.1; grid: positions of the lowest features."""
    outermost = 25 * channels * width
    halvings = 16 * (width * width + width * 2 * width + 2 * width * 4 * width)
    encoder_norms, decoder_norms = 2 * (width + width + 2 * width + 4 * width), 2 * (2 * width + width + width)
    size = 4 * width * grid
    linear = 2 * (size * latent_dim + latent_dim) + latent_dim * size + size
    return 2 * (outermost + halvings) + encoder_norms + decoder_norms + linear


@pytest.mark.parametrize("name", MODULES)
def test_parameters_are_the_specified_number(name: str) -> None:
    module = MODULES[name]
    with torch.device("meta"):
        counts = [sum(p.numel() for p in module.build(module.Config(), (c, 32, 32), 10).parameters()) for c in (3, 1)]
    assert counts == [3_030_144, 3_023_744]
    assert counts == [formula(3, 64, 128), formula(1, 64, 128)]


def test_parameters_of_other_sizes_follow_the_formula() -> None:
    assert sum(p.numel() for p in make(width=6, latent_dim=5, shape=(3, 24, 16)).parameters()) == formula(3, 6, 5, grid=3 * 2)


def test_weights_start_as_the_authors() -> None:
    state = make(width=32, latent_dim=8).state_dict()
    convolutions = [value for name, value in state.items() if value.ndim == 4]
    scales = torch.cat([v for n, v in state.items() if v.ndim == 1 and n.startswith(("encoder", "decoder")) and n.endswith("weight")])
    assert len(convolutions) == 8
    assert [float(value.std()) for value in convolutions] == pytest.approx([0.02] * 8, rel=0.15)
    assert float(scales.mean()) == pytest.approx(1, abs=0.01)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.2)


def test_kl_of_known_latents() -> None:
    mean, log_variance = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, np.log(4.0)]])
    # first latent: the prior itself, 0; second: (1 + 4)/2 from the means, (4 - 1 - log 4)/2 from the variance
    assert float(kl_divergence(mean, log_variance)) == pytest.approx((0 + 2.5 + 1.5 - np.log(2)) / 2)


def test_kl_is_that_of_torch() -> None:
    mean, log_variance = torch.randn(2, 5, 3, generator=seeded())
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_loss_and_terms_of_tiny_images() -> None:
    logits, targets = torch.tensor([[[[0.0, 2.0]]], [[[-1.0, 3.0]]]]), torch.tensor([[[[0.5, 1.0]]], [[[0.0, 0.25]]]])
    mean, log_variance = torch.tensor([[1.0], [0.0]]), torch.zeros(2, 1)
    terms = variational_loss(logits, targets, mean, log_variance, kl_weight=3.0)
    x, y = targets.double().numpy(), 1 / (1 + np.exp(-logits.double().numpy()))
    bce = -(x * np.log(y) + (1 - x) * np.log(1 - y)).mean()
    assert float(terms["bce"]) == pytest.approx(bce)
    assert float(terms["kl"]) == pytest.approx((0.5 + 0) / 2 / 2)  # over two images, of two elements each
    assert float(terms["loss"]) == pytest.approx(bce + 3 * 0.125)
    assert float(terms["reconstruction"]) == pytest.approx(((x - y) ** 2).mean())


def test_loss_is_the_authors_sum_over_images_and_elements() -> None:
    model, data = make(), images()
    loss = model.training_loss(data, data, seeded())["loss"]
    logits, mean, log_variance = model.sample(data, seeded())
    bce = F.binary_cross_entropy(torch.sigmoid(logits), data, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    torch.testing.assert_close(loss, (bce + kl) / data.numel())


def test_cross_entropy_of_a_saturated_pixel_is_finite() -> None:
    zeros = torch.zeros(1, 1)
    terms = variational_loss(torch.full((1, 1, 1, 1), 200.0), torch.zeros(1, 1, 1, 1), zeros, zeros, 1.0)
    assert float(terms["loss"]) == 200.0  # -log(1 - sigmoid(200)) = 200, and 1 - sigmoid(200) is 0 in float32


@pytest.mark.parametrize("options", [{}, *({"frequency_loss": kind} for kind in hfl_vae.FREQUENCY_LOSSES)], ids=["plain", "lapbank", "lap3", "fft"])
def test_bfloat16_changes_losses_little(options: dict[str, Any]) -> None:
    model = make("hfl_vae" if options else "defense_vae", **options)
    expected = model.training_loss(images(), images(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.training_loss(images(), images(), seeded())
        assert model(images()).dtype == torch.float32
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=0.05, abs=1e-4)


@pytest.mark.parametrize("name", MODULES)
def test_purification_is_the_decoded_mean_of_each_image_by_itself(name: str) -> None:
    model, data = make(name), images()
    train(model)
    model.eval()
    with torch.inference_mode():
        purified = model(data)
        mean, log_variance = model.encode(data)
        assert torch.equal(purified, torch.sigmoid(model.decode(mean)))
        assert torch.equal(purified, model(data))  # draws nothing
        torch.testing.assert_close(model(data[2:3]), purified[2:3])
    assert (log_variance > -20).all()  # so that a sample would have shown
    assert 0 <= purified.min() < purified.max() <= 1


@pytest.mark.parametrize("name", MODULES)
def test_purification_gives_an_attack_a_gradient(name: str) -> None:
    model, data = make(name), images().requires_grad_()
    train(model)
    (gradient,) = torch.autograd.grad(model.eval()(data).square().sum(), data)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
@pytest.mark.parametrize("name", MODULES)
def test_noise_comes_from_the_generator_alone(name: str, kl_weight: float) -> None:
    model = make(name, kl_weight=kl_weight)
    generator = seeded(1)
    state = generator.get_state()
    first, second = model.training_loss(images(), images(), generator), model.training_loss(images(), images(), generator)
    generator.set_state(state)
    torch.manual_seed(123)
    assert_same(first, model.training_loss(images(), images(), generator))
    assert not torch.equal(first["loss"], second["loss"])  # it samples, also without the KL


def test_sample_is_mean_plus_std_times_noise() -> None:
    model, data = make(), images()
    train(model)
    with torch.no_grad():
        model.to_log_variance.bias.copy_(torch.tensor([2.0, 4.0, 6.0]))
        model.eval()
        logits, mean, log_variance = model.sample(data, seeded(5))
        latents = mean + log_variance.exp().sqrt() * torch.randn(4, 3, generator=seeded(5))
        torch.testing.assert_close(logits, model.decode(latents), atol=1e-6, rtol=1e-4)
        assert (log_variance > 1).all()
        assert (logits - model.decode(mean)).abs().max() > 1e-3  # the noise is seen


def test_only_a_weight_gives_the_kl_a_gradient() -> None:
    logits, mean, log_variance = torch.zeros(1, 1, 1, 2), torch.ones(1, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    assert not variational_loss(logits, logits, mean, log_variance, 0.0)["loss"].requires_grad
    variational_loss(logits, logits, mean, log_variance, 2.0)["loss"].backward()
    assert mean.grad is not None and log_variance.grad is not None
    torch.testing.assert_close(mean.grad, torch.ones(1, 3))  # 2 mean / 2 elements
    torch.testing.assert_close(log_variance.grad, torch.full((1, 3), float(np.e - 1) / 2))  # 2 (exp(1) - 1) / 2 / 2 elements


def test_released_recipe_reports_the_kl_it_does_not_minimise() -> None:
    with_kl, without = (make(kl_weight=weight).training_loss(images(), images(), seeded()) for weight in (1.0, 0.0))
    assert torch.equal(with_kl["kl"], without["kl"])
    assert torch.equal(without["loss"], without["bce"])
    assert torch.equal(with_kl["loss"], without["bce"] + without["kl"])


@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
@pytest.mark.parametrize("kind", hfl_vae.FREQUENCY_LOSSES)
def test_hfl_vae_without_frequencies_is_defense_vae(kind: str, kl_weight: float) -> None:
    plain = make(kl_weight=kl_weight)
    frequency = make("hfl_vae", kl_weight=kl_weight, frequency_weight=0, frequency_loss=kind)
    assert_same(frequency.state_dict(), plain.state_dict())
    for mine, theirs in zip(train(frequency), train(plain), strict=True):
        assert_same(mine, theirs)
    assert_same(frequency.state_dict(), plain.state_dict())
    assert torch.equal(frequency.eval()(images()), plain.eval()(images()))


def test_frequency_loss_changes_the_training_but_not_the_start() -> None:
    plain, frequency = make(), make("hfl_vae")
    assert_same(frequency.state_dict(), plain.state_dict())
    ours, theirs = train(frequency, 1)[0], train(plain, 1)[0]
    torch.testing.assert_close(ours["loss"], theirs["loss"] + ours["frequency"])
    assert float(ours["frequency"]) > 0
    assert not torch.equal(frequency.to_mean.weight, plain.to_mean.weight)


def test_only_lambda_zero_has_another_name() -> None:
    options = dataclasses.asdict(hfl_vae.Config(width=8, frequency_weight=0))
    assert hfl_vae.equivalent(options) == ("defense_vae", {"width": 8, "latent_dim": 128, "kl_weight": 1.0})
    assert defense_vae.Config(**hfl_vae.equivalent(options)[1]) == defense_vae.Config(width=8)  # type: ignore[index]
    assert hfl_vae.equivalent(dataclasses.asdict(hfl_vae.Config(frequency_weight=0.3))) is None


def pairs() -> tuple[Tensor, Tensor, np.ndarray]:
    """Return two batches of images that are not square, and their difference in double precision."""
    first, second = images(2, 0, (2, 24, 16)), images(2, 1, (2, 24, 16))
    return first, second, first.double().numpy() - second.double().numpy()


def test_laplacian_bank_is_that_of_scipy() -> None:
    first, second, difference = pairs()
    blurred = [difference, *(ndimage.gaussian_filter(difference, (0, 0, s, s), mode="mirror", truncate=4) for s in (0.5, 1, 2))]
    expected = sum(((blurred[j] - blurred[j + 1]) ** 2).mean() for j in range(3))
    assert float(FrequencyLoss("lapbank", 24, 16)(first, second)) == pytest.approx(expected, rel=1e-5)


def test_laplacian_is_that_of_scipy() -> None:
    first, second, difference = pairs()
    expected = np.mean([ndimage.laplace(plane, mode="mirror") ** 2 for image in difference for plane in image])
    assert float(FrequencyLoss("lap3", 24, 16)(first, second)) == pytest.approx(expected, rel=1e-5)


def test_laplacian_of_a_point_is_worked_out_by_hand() -> None:
    point = torch.zeros(1, 1, 8, 8)
    point[0, 0, 4, 4] = 0.5
    # -4 in the middle and 1 at four neighbors, times a half
    assert float(FrequencyLoss("lap3", 8, 8)(point, torch.zeros_like(point))) == pytest.approx((4 + 4 * 0.25) / 64)


def test_fourier_loss_is_that_of_numpy() -> None:
    first, second, difference = pairs()
    power = np.abs(np.fft.fft2(difference, norm="ortho")) ** 2
    rows, columns = np.minimum(np.arange(24), 24 - np.arange(24)) / 24, np.minimum(np.arange(16), 16 - np.arange(16)) / 16
    kept = np.sqrt(rows[:, None] ** 2 + columns[None] ** 2) >= 0.125  # a quarter of half a cycle per pixel
    assert not kept[0, 1] and kept[0, 2] and kept[3, 0] and not kept[2, 0]
    assert float(FrequencyLoss("fft", 24, 16)(first, second)) == pytest.approx(power[..., kept].mean(), rel=1e-5)


def test_fourier_loss_of_one_wave_is_its_power_over_the_frequencies() -> None:
    wave = 0.5 + 0.5 * torch.cos(2 * torch.pi * 4 * torch.arange(16) / 16).expand(1, 1, 16, 16)
    loss = FrequencyLoss("fft", 16, 16)
    kept = int((loss.mask > 0).sum())
    assert float(loss(wave, torch.zeros_like(wave))) == pytest.approx(16 * 16 * 0.125 / kept)  # the mean 0.5 does not count


@pytest.mark.parametrize("kind", hfl_vae.FREQUENCY_LOSSES)
def test_frequency_loss_sees_detail_and_no_constant(kind: str) -> None:
    loss, data = FrequencyLoss(kind, 16, 16), 0.5 * images()
    checkers = 0.1 * (torch.arange(16)[:, None] + torch.arange(16)).remainder(2)
    assert float(loss(data, data)) == 0
    assert float(loss(data + 0.25, data)) < 1e-10
    smooth = 0.1 * torch.cos(2 * torch.pi * torch.arange(16) / 16).expand(16, 16)  # one whole wave, as `fft` sees a border
    assert float(loss(data + checkers, data)) > 2 * float(loss(data + smooth, data))


@pytest.mark.parametrize("kind", hfl_vae.FREQUENCY_LOSSES)
def test_filters_are_neither_state_nor_parameters(kind: str) -> None:
    loss = FrequencyLoss(kind, 16, 16)
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert list(loss.buffers())  # but they follow the module to its device


@pytest.mark.parametrize("name", MODULES)
def test_training_goes_on_from_a_checkpoint_bit_for_bit(name: str) -> None:
    model, other, generator = make(name), make(name, seed=9), seeded(2)
    train(model, 2)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    state = generator.get_state()
    expected = model.training_loss(images(), images(), generator)
    generator.set_state(state)
    assert_same(other.training_loss(images(), images(), generator), expected)
    assert torch.equal(other.eval()(images()), model.eval()(images()))


def test_folding_keeps_the_function() -> None:
    model = make()
    train(model)
    model.eval()
    folded = fold_batch_norm(copy.deepcopy(model))
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(folded(images()), model(images()), atol=1e-5, rtol=1e-4)


def test_training_lowers_the_reconstruction_error() -> None:
    data = images(1).expand(8, -1, -1, -1) * torch.linspace(0.2, 1, 8).view(8, 1, 1, 1)
    model, generator = make(width=8).train(), seeded()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    errors = []
    for _ in range(60):
        terms = model.training_loss(data, data, generator)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        errors.append(float(terms["reconstruction"]))
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (defense_vae.Config, {"width": 0}, "width must be a whole number of at least 1, got 0"),
        (defense_vae.Config, {"latent_dim": 2.5}, "latent_dim must be a whole number of at least 1, got 2.5"),
        (defense_vae.Config, {"kl_weight": -1}, "kl_weight must be a number of at least 0 and finite, got -1"),
        (hfl_vae.Config, {"frequency_weight": float("inf")}, "frequency_weight must be a number of at least 0 and finite, got inf"),
        (hfl_vae.Config, {"frequency_loss": "dct"}, "frequency_loss must be one of lapbank, lap3, fft, got 'dct'"),
    ],
)
def test_wrong_setting_is_named_in_the_error(config: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize("name", MODULES)
def test_images_that_do_not_fit_are_named_in_the_error(name: str) -> None:
    with pytest.raises(ValueError, match="divisible by 8, got 28x32"):
        make(name, shape=(1, 28, 32))
