"""VQ-VAE: its size, its loss by hand, what reaches which weights, the averages, and the bottleneck of its indices."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from models._quantizers import EMA_DECAY, as_vectors
from models.vq_vae import VQVAE, Config, build

SHAPE = (1, 16, 16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=seeded(seed))


def make(shape: tuple[int, int, int] = SHAPE, seed: int = 0, initialize: bool = True, **options: Any) -> VQVAE:
    torch.manual_seed(seed)
    model = build(Config(**{"width": 8, "residual_width": 4, "codebook_size": 16, "code_dim": 4, **options}), shape, 10)
    assert isinstance(model, VQVAE)
    if initialize:
        model.initialize(images(8, shape=shape), seeded())
    return model


def train(model: VQVAE, steps: range = range(4)) -> None:
    optimizer, generator = torch.optim.Adam([p for p in model.train().parameters() if p.requires_grad], 4e-3), seeded()
    for step in steps:
        batch = images(seed=step)
        optimizer.zero_grad()
        model.training_loss(batch, batch, generator)["loss"].backward()
        optimizer.step()
        model.after_step(step, 8, generator)


def reached(model: VQVAE, loss: Tensor) -> set[str]:
    """Return which of encoder, quantizer and decoder the gradient of loss reaches."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def formula(channels: int, width: int, inner: int, codes: int, dim: int) -> int:
    """Return the parameters layer by layer; every convolution has a bias."""
    half = width // 2
    stack = 2 * (9 * width * inner + inner + inner * width + width)  # two blocks with weights of their own
    encoder = 16 * channels * half + half + 16 * half * width + width + 9 * width * width + width + stack + width * dim + dim
    decoder = 9 * dim * width + width + stack + 16 * width * half + half + 16 * half * channels + channels
    return encoder + codes * dim + decoder


@pytest.mark.parametrize("codebook_grad", ["ema", "lq_only", "dual"])
def test_parameters_follow_the_formula(codebook_grad: str) -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build(Config(codebook_grad=codebook_grad), (c, 32, 32), 10).parameters()) for c in (3, 1)]
    assert counts == [formula(3, 128, 32, 512, 64), formula(1, 128, 32, 512, 64)] == [695_491, 691_393]


def test_residual_blocks_have_weights_of_their_own() -> None:
    weights = [parameter for name, parameter in make().encoder.named_parameters() if name.endswith("residual.1.weight")]
    assert len(weights) == 2
    assert not torch.equal(weights[0], weights[1])


def test_latent_is_a_quarter_of_the_resolution() -> None:
    model = build(Config(), (3, 32, 32), 10)
    assert isinstance(model, VQVAE)
    with torch.inference_mode():
        purified, (latent,) = model.eval().purify_with_latents(images(2, shape=(3, 32, 32)))
        assert torch.equal(purified, model(images(2, shape=(3, 32, 32))))
    assert latent.encoded.shape == latent.quantized.shape == (2, 64, 8, 8)
    assert latent.indices is not None and latent.indices.shape == (2, 8, 8)
    assert latent.codebook_size == 512


def test_output_is_a_function_of_the_indices() -> None:
    model = make()
    train(model)
    model.eval()
    data = images()
    moved = (data + 1e-4).clamp(0, 1)
    with torch.inference_mode():
        before, after = model.encode(data), model.encode(moved)
        same = (before.indices == after.indices).flatten(1).all(1)  # type: ignore[union-attr]
        assert same.any()
        assert not torch.equal(before.encoded, after.encoded)
        assert torch.equal(model.decode(before)[same], model.decode(after)[same])


def test_codes_are_the_nearest_ones() -> None:
    model = make().eval()
    level = model.encode(images())
    distances = torch.cdist(as_vectors(level.encoded).double(), model.quantizer.codebook.double())
    assert torch.equal(distances.argmin(1), level.indices.flatten())  # type: ignore[union-attr]
    assert torch.equal(level.output, level.codes)


@pytest.mark.parametrize("codebook_grad", ["ema", "lq_only", "dual"])
def test_loss_is_worked_out_from_its_terms(codebook_grad: str) -> None:
    model = make(codebook_grad=codebook_grad, beta=0.5)
    clean = images(seed=1)
    terms = model.training_loss(images(), clean, seeded())
    level = model.encode(images())
    a, q = level.encoded.detach().double(), level.codes.detach().double()
    distance = ((a - q) ** 2).mean().item()
    error = ((model(images()).detach().double() - clean.double()) ** 2).mean().item()
    variance = images(8).double().var(correction=0).item()
    assert terms["commitment_1"].item() == pytest.approx(distance, rel=1e-4)
    assert terms["reconstruction"].item() == pytest.approx(error, rel=1e-4)
    expected = error / variance + 0.5 * distance
    if codebook_grad == "ema":
        assert "codebook_1" not in terms
    else:
        assert terms["codebook_1"].item() == pytest.approx(distance, rel=1e-4)
        expected += distance
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]


@pytest.mark.parametrize(
    ("codebook_grad", "parts"),
    [
        ("ema", {"encoder", "decoder"}),
        ("lq_only", {"encoder", "decoder"}),
        ("dual", {"encoder", "decoder", "quantizer"}),
    ],
)
def test_reconstruction_moves_codes_only_when_dual(codebook_grad: str, parts: set[str]) -> None:
    model = make(codebook_grad=codebook_grad)
    assert reached(model, model(images()).square().sum()) == parts


def test_codebook_loss_moves_codes_where_it_is_the_only_one() -> None:
    model = make(codebook_grad="lq_only")
    assert reached(model, model.training_loss(images(), images(), seeded())["loss"]) == {"encoder", "decoder", "quantizer"}


def test_averages_follow_one_step_in_closed_form() -> None:
    model = make(codebook_grad="ema").train()
    with torch.no_grad():
        model.quantizer.codebook.add_(0.1)  # away from the encodings
        model.quantizer.ema_sums.add_(0.1)
    codebook = model.quantizer.codebook.detach().clone()
    level = model.encode(images())
    model.training_loss(images(), images(), seeded())
    model.after_step(0, 1000, seeded())
    vectors, indices = as_vectors(level.encoded.detach()), level.indices.flatten()  # type: ignore[union-attr]
    chosen = int(indices.mode().values)
    count, total = int((indices == chosen).sum()), vectors[indices == chosen].sum(0)
    mean = (EMA_DECAY * codebook[chosen] + (1 - EMA_DECAY) * total) / (EMA_DECAY + (1 - EMA_DECAY) * count)
    assert (mean - codebook[chosen]).abs().max() > 1e-3
    torch.testing.assert_close(model.quantizer.codebook[chosen].detach(), mean, atol=1e-5, rtol=1e-4)


def test_codes_start_on_encodings() -> None:
    model = make(initialize=False)
    data = images(8)
    model.initialize(data, seeded())
    vectors = as_vectors(model.encode(data).encoded.detach())
    assert torch.cdist(model.quantizer.codebook.detach(), vectors).amin(1).max() < 1e-3
    assert torch.equal(make().quantizer.codebook, model.quantizer.codebook)  # the generator decides


def test_variance_of_the_data_is_kept_and_never_zero() -> None:
    model = make(initialize=False)
    assert float(model.data_variance) == 1
    model.initialize(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, *SHAPE), seeded())
    assert float(model.data_variance) == 0.25
    model.initialize(torch.full((2, *SHAPE), 0.5), seeded())
    assert float(model.data_variance) == 1


@pytest.mark.parametrize("revive", [False, True])
@pytest.mark.parametrize("codebook_grad", ["ema", "lq_only"])
def test_training_resumes_bit_for_bit(codebook_grad: str, revive: bool) -> None:
    options = {"codebook_grad": codebook_grad, "revive": revive}
    model, resumed = make(**options), make(seed=5, initialize=False, **options)
    train(model, range(3))
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(resumed.eval()(images()), model.eval()(images()))
    train(model, range(3, 8))
    train(resumed, range(3, 8))
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_purification_is_deterministic_per_image_and_gives_a_gradient() -> None:
    model = make()
    train(model)
    data = images().requires_grad_()
    purified = model.eval()(data)
    (gradient,) = torch.autograd.grad(purified.square().sum(), data)
    assert torch.equal(purified, model(data))
    torch.testing.assert_close(model(data[1:2]), purified[1:2])
    assert 0 <= purified.min() < purified.max() <= 1
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_gradient_is_straight_through_the_quantizer() -> None:
    model = make().eval()
    level = model.encode(images())
    weights = torch.randn(level.output.shape, generator=seeded())
    (gradient,) = torch.autograd.grad((level.output * weights).sum(), level.encoded)
    assert torch.equal(gradient, weights)


def test_bfloat16_keeps_losses_in_float32() -> None:
    model = make(codebook_grad="lq_only")
    expected = model.training_loss(images(), images(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.training_loss(images(), images(), seeded())
        assert model(images()).dtype == torch.float32
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=0.1)


def test_training_lowers_the_reconstruction_error() -> None:
    data = images(1).expand(8, -1, -1, -1) * torch.linspace(0.2, 1, 8).view(8, 1, 1, 1)
    model = make(initialize=False).train()
    model.initialize(data, seeded())
    optimizer, errors = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 4e-3), []
    for step in range(150):
        terms = model.training_loss(data, data, seeded())
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        model.after_step(step, 150, seeded())
        errors.append(terms["reconstruction"].item())
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1}, "width must be a whole number of at least 2, got 1"),
        ({"residual_width": 0}, "residual_width must be a whole number of at least 1, got 0"),
        ({"beta": -0.25}, "beta must be a number of at least 0 and finite, got -0.25"),
        ({"codebook_grad": "none"}, "codebook_grad must be one of lq_only, dual, ema"),
        ({"revive": 1}, "revive must be true or false, got 1"),
    ],
)
def test_wrong_setting_is_named_in_the_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_images_that_do_not_fit_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="divisible by 4, got 30x32"):
        make((1, 30, 32), initialize=False)
