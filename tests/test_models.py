"""Every file in models/ keeps the promises of the package; a new file is found and held to them with no edit here."""

import copy
import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from models import identity, mean_blur, unet, vqunet

NAMES = sorted(module.name for module in pkgutil.iter_modules(models.__path__) if not module.name.startswith("_"))
SMALL: dict[str, dict[str, Any]] = {  # to be fast; a model that is not named here is tested with its defaults
    "vqunet": {"depth": 2, "base_width": 4, "codebook_size": 16},
    "unet": {"depth": 2, "base_width": 4},
    "wide_resnet": {"depth": 10, "width": 1, "stem_stride": 2},
    "densenet": {"depth": 10, "growth": 4, "stem_stride": 2},
    "vq_vae": {"width": 8, "codebook_size": 16, "code_dim": 8},
    "defense_vae": {"width": 4},
    "hfl_vae": {"width": 4},
    "defense_cyclegan": {"width": 4, "num_blocks": 1, "discriminator_width": 4},
    "ape_gan": {"width": 4, "discriminator_width": 4},
    "comdefend": {"width": 2},
    "guided_denoiser": {"width": 4, "depth": 2},
}
SHAPE = (3, 32, 32)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"models.{name}")


def make(name: str, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE, **options: Any) -> Any:
    module = load(name)
    torch.manual_seed(seed)
    model = module.build(module.Config(**{**SMALL.get(name, {}), **options}), shape, 10)
    if getattr(module, "NEEDS_TARGET", False):
        torch.manual_seed(0)  # one target for all, as in a resumed training
        model.guide(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 10)).eval().requires_grad_(False))
    return model


def images(count: int = 4, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def initialize(model: nn.Module, data: Tensor, generator: torch.Generator) -> None:
    hook: Callable[[Tensor, torch.Generator], None] | None = getattr(model, "initialize", None)
    if hook is not None:
        hook(data, generator)


def train(model: Any, optimizer: torch.optim.Optimizer, generator: torch.Generator, steps: range) -> None:
    """Run steps of a training of 8 as a training loop does, each on its own batch."""
    model.train()
    for step in steps:
        batch = images(seed=step)
        optimizer.zero_grad()
        model.training_loss(batch, batch, generator)["loss"].backward()
        optimizer.step()
        if hasattr(model, "after_step"):
            model.after_step(step, 8, generator)


def assert_same_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


PURIFIERS = [name for name in NAMES if load(name).ROLE == "purifier"]
TRAINED = [name for name in PURIFIERS if load(name).TRAINED and hasattr(make(name), "training_loss")]
WITH_LATENTS = [name for name in PURIFIERS if hasattr(make(name), "purify_with_latents")]


@pytest.mark.parametrize("name", NAMES)
def test_every_model_offers_the_interface(name: str) -> None:
    module = load(name)
    assert isinstance(module.VERSION, int)
    assert module.ROLE in ("purifier", "classifier")
    assert module.ROLE == "classifier" or isinstance(module.TRAINED, bool)
    assert dataclasses.is_dataclass(module.Config)
    assert list(inspect.signature(module.build).parameters) == ["config", "image_shape", "num_classes"]
    assert module.__doc__
    assert module.Config.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_frozen_and_survives_json(name: str) -> None:
    config = load(name).Config(**SMALL.get(name, {}))
    assert load(name).Config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert hash(config) == hash(copy.copy(config))
    for field in dataclasses.fields(config)[:1]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_refuses_an_unknown_setting(name: str) -> None:
    with pytest.raises(TypeError, match="no_such_setting"):
        load(name).Config(no_such_setting=1)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32)], ids=["gray", "color"])
@pytest.mark.parametrize("name", NAMES)
def test_every_model_keeps_shape_and_range(name: str, shape: tuple[int, int, int]) -> None:
    model = make(name, shape=shape).eval()
    data = images(shape=shape)
    data[0], data[1] = 0, 1
    with torch.inference_mode():
        output = model(data)
    assert output.dtype == torch.float32
    assert output.isfinite().all()
    if load(name).ROLE == "purifier":
        assert output.shape == data.shape
        assert output.min() >= 0
        assert output.max() <= 1
    else:
        assert output.shape == (4, 10)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_repeats_in_eval_mode_and_changes_nothing(name: str) -> None:
    model = make(name)
    initialize(model, images(8), torch.Generator().manual_seed(0))
    model.eval()
    state = copy.deepcopy(model.state_dict())
    data = images().requires_grad_()
    first, second = model(data), model(data)
    first.sum().backward()
    if name in TRAINED:
        model.training_loss(data, data, torch.Generator())
        if hasattr(model, "after_step"):
            model.after_step(0, 1, torch.Generator())
    assert torch.equal(first, second)
    assert_same_state(model, state)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_gives_an_attack_a_gradient(name: str) -> None:
    model = make(name).eval()
    data = images().requires_grad_()
    output = model(data)
    (gradient,) = torch.autograd.grad((output * torch.linspace(0, 1, output[0].numel()).view_as(output[0])).sum(), data)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_model_treats_each_image_by_itself_in_eval_mode(name: str) -> None:
    model = make(name).eval()
    data = images()
    with torch.inference_mode():
        torch.testing.assert_close(model(data)[1:3], model(data[1:3]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_the_same_for_the_same_seed(name: str) -> None:
    assert_same_state(make(name, seed=3), make(name, seed=3).state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_every_state_dict_restores_the_model(name: str) -> None:
    model, other = make(name, seed=0), make(name, seed=1)
    initialize(model, images(8), torch.Generator().manual_seed(0))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()), other.eval()(images()))


@pytest.mark.parametrize("name", NAMES)
def test_every_model_takes_channels_last_images(name: str) -> None:
    model = make(name).eval()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected, output = model(images()), last(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_every_training_loss_has_one_gradient_and_detached_terms(name: str) -> None:
    model = make(name).train()
    terms = model.training_loss(images(), images(seed=1), torch.Generator())
    assert {"loss", "reconstruction"} <= terms.keys()
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    assert [key for key, term in terms.items() if term.requires_grad] == ["loss"]


@pytest.mark.parametrize("name", TRAINED)
def test_every_training_resumes_bit_for_bit(name: str) -> None:
    model, generator = make(name), torch.Generator().manual_seed(0)
    initialize(model, images(8), generator)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    train(model, optimizer, generator, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), generator.get_state()))
    train(model, optimizer, generator, range(3, 8))

    resumed, again = make(name, seed=9), torch.Generator()
    resumed_optimizer = torch.optim.Adam(resumed.parameters(), 4e-3)
    resumed.load_state_dict(saved[0])
    resumed_optimizer.load_state_dict(saved[1])
    again.set_state(saved[2])
    train(resumed, resumed_optimizer, again, range(3, 8))
    assert_same_state(resumed, model.state_dict())


@pytest.mark.parametrize("name", WITH_LATENTS)
def test_latents_come_with_the_purified_images(name: str) -> None:
    model = make(name).eval()
    with torch.inference_mode():
        purified, latents = model.purify_with_latents(images())
        assert torch.equal(purified, model(images()))
    for latent in latents:
        assert latent.encoded.shape == latent.quantized.shape
        assert (latent.indices is None) == (latent.codebook_size is None)
        if latent.indices is not None:
            assert latent.indices.dtype == torch.int64
            assert latent.indices.shape == (4, *latent.encoded.shape[2:])


def test_vqunet_latents_have_the_specified_shapes() -> None:
    model = vqunet.VQUNet(vqunet.Config(), SHAPE).eval()
    with torch.inference_mode():
        _, latents = model.purify_with_latents(images(1))
    assert [tuple(latent.quantized.shape[1:]) for latent in latents] == [
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
    ]
    assert [latent.codebook_size for latent in latents] == [512] * 4


@pytest.mark.parametrize(
    ("depth", "color", "gray", "plain"),
    [
        (1, 418_883, 417_729, 386_115),
        (2, 2_055_875, 2_054_721, 1_957_571),
        (3, 8_467_395, 8_466_241, 8_238_019),
        (4, 33_840_579, 33_839_425, 33_349_059),
    ],
)
def test_unet_parameters_are_the_specified_number(depth: int, color: int, gray: int, plain: int) -> None:
    with torch.device("meta"):
        built = [
            vqunet.build(vqunet.Config(depth=depth), (3, 32, 32), 10),
            vqunet.build(vqunet.Config(depth=depth), (1, 32, 32), 10),
            unet.build(unet.Config(depth=depth), (3, 32, 32), 10),
        ]
    assert [sum(p.numel() for p in model.parameters()) for model in built] == [color, gray, plain]


def test_vqunet_without_quantization_is_unet() -> None:
    off, plain = make("vqunet", quantize=False), make("unet")
    assert type(off) is type(plain)
    assert_same_state(off, plain.state_dict())


def test_one_seed_gives_one_network_with_and_without_codebooks() -> None:
    quantized, plain = make("vqunet").state_dict(), make("unet").state_dict()
    assert all(torch.equal(quantized[name], value) for name, value in plain.items())


def test_two_passes_purify_twice() -> None:
    once, twice = make("vqunet").eval(), make("vqunet", passes=2).eval()
    with torch.inference_mode():
        assert torch.equal(twice(images()), once(once(images())))
        assert torch.equal(twice.purify_with_latents(images())[0], twice(images()))


@pytest.mark.parametrize("name", ["vqunet", "unet"])
def test_training_lowers_the_reconstruction_error(name: str) -> None:
    model, data = make(name, depth=1), images(1).expand(8, -1, -1, -1) * torch.linspace(0.2, 1, 8).view(8, 1, 1, 1)
    initialize(model, data, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.train().parameters(), 4e-3)
    errors = []
    for _ in range(30):
        optimizer.zero_grad()
        terms = model.training_loss(data, data, torch.Generator())
        terms["loss"].backward()
        optimizer.step()
        errors.append(float(terms["reconstruction"]))
    assert errors[-1] < 0.6 * errors[0]


def test_identity_hands_images_through() -> None:
    model = identity.build(identity.Config(), SHAPE, 10)
    assert torch.equal(model(images()), images())


def test_mean_blur_keeps_a_constant_and_spreads_a_point() -> None:
    blur = mean_blur.build(mean_blur.Config(4), (1, 8, 8), 10)
    assert torch.equal(blur(torch.full((1, 1, 8, 8), 0.25)), torch.full((1, 1, 8, 8), 0.25))
    point = torch.zeros(1, 1, 8, 8)
    point[0, 0, 4, 4] = 1
    spread = torch.zeros(1, 1, 8, 8)
    spread[0, 0, 2:6, 2:6] = 1 / 16  # pixel i averages i - 1 to i + 2, so 4 is seen from 2 to 5
    assert torch.equal(blur(point), spread)


def test_mean_blur_of_one_pixel_changes_nothing() -> None:
    assert torch.equal(mean_blur.build(mean_blur.Config(1), SHAPE, 10)(images()), images())


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (vqunet.Config, {"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        (vqunet.Config, {"depth": True}, "depth must be a whole number of at least 1, got True"),
        (vqunet.Config, {"codebook_size": 2.5}, "codebook_size must be a whole number"),
        (vqunet.Config, {"codebook_size": "64"}, "codebook_size must be a whole number of at least 1, got '64'"),
        (vqunet.Config, {"codebook_size": (8, 4)}, r"codebook_size must be one .* for each depth \(depth is 4\), got \[8, 4\]"),
        (vqunet.Config, {"codebook_size": []}, r"codebook_size must be one .* for each depth \(depth is 4\), got \[\]"),
        (vqunet.Config, {"codebook_size": [8, 4, 2, 0]}, "every entry of codebook_size must be a whole number of at least 1, got 0"),
        (vqunet.Config, {"codebook_size": [8, 4, 6, 2], "quantizer": "lfq"}, "codebook_size of quantizer 'lfq' must be a power of two .* got 6"),
        (vqunet.Config, {"code_dim": 0}, "code_dim must be a whole number"),
        (vqunet.Config, {"beta": -1}, "beta must be a number of at least 0 and finite, got -1"),
        (vqunet.Config, {"alpha": float("nan")}, "alpha must be a number"),
        (vqunet.Config, {"quantize": 1}, "quantize must be true or false, got 1"),
        (vqunet.Config, {"codebook_grad": "two_pass"}, "codebook_grad must be one of lq_only, dual, ema"),
        (vqunet.Config, {"commitment_gradient": "none"}, "commitment_gradient must be one of commit, literal"),
        (vqunet.Config, {"codebook_init": "zeros"}, "codebook_init must be one of data, uniform"),
        (vqunet.Config, {"vq_levels": []}, "vq_levels must be a list of at least one"),
        (vqunet.Config, {"vq_levels": [1, 5]}, r"vq_levels must lie in 1 to depth \(4\), got \[1, 5\]"),
        (vqunet.Config, {"vq_levels": "12"}, "vq_levels must be a list"),
        (unet.Config, {"passes": 0}, "passes must be a whole number"),
        (mean_blur.Config, {"kernel_size": 0}, "kernel_size must be a whole number"),
    ],
)
def test_wrong_setting_is_named_in_the_error(config: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_images_that_do_not_fit_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="depth 4 needs image height and width divisible by 16, got 28x28"):
        vqunet.build(vqunet.Config(), (1, 28, 28), 10)
    with pytest.raises(ValueError, match="kernel_size must be below 8 for 4 pixels, got 8"):
        mean_blur.build(mean_blur.Config(8), (1, 4, 4), 10)


def test_equal_settings_have_one_spelling() -> None:
    assert vqunet.Config(depth=3, vq_levels=(3, 1, 2), alpha=2) == vqunet.Config(depth=3, alpha=2.0)
    assert vqunet.Config(depth=3, vq_levels=(3, 1)).vq_levels == (1, 3)
    assert vqunet.Config(depth=3, codebook_size=(8, 8, 8)) == vqunet.Config(depth=3, codebook_size=8)
    assert vqunet.Config(depth=3, codebook_size=[8, 4, 2]) == vqunet.Config(depth=3, codebook_size=(8, 4, 2))  # pyright: ignore[reportArgumentType]
    assert json.dumps(dataclasses.asdict(vqunet.Config(alpha=1))) == json.dumps(dataclasses.asdict(vqunet.Config()))
