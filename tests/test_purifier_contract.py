"""Every purifier in models/ keeps the contract that training, scoring and attacks build on; a new file is held to it with no edit here."""

import copy
import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models

GRADIENTS = ("exact", "straight_through")
SMALL: dict[str, dict[str, Any]] = {  # to be fast; a purifier that is not named here is tested with its defaults
    "ape_gan": {"width": 4, "discriminator_width": 4},
    "comdefend": {"width": 1},
    "defense_cyclegan": {"width": 4, "num_blocks": 1, "discriminator_width": 4, "pool_size": 3},
    "defense_vae": {"width": 4, "latent_dim": 8},
    "denoising_autoencoder": {"widths": (4,)},
    "guided_denoiser": {"width": 4, "depth": 2},
    "hfl_vae": {"width": 4, "latent_dim": 8},
    "total_variation": {"num_steps": 10},
    "unet": {"depth": 2, "base_width": 4},
    "vq_vae": {"width": 8, "residual_width": 4, "codebook_size": 16, "code_dim": 4},
    "vqunet": {"depth": 2, "base_width": 4, "codebook_size": 16},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [  # settings that put other code into a purifier's forward or its loss
    ("defense_cyclegan", {"purify": "cycle"}),
    ("denoising_autoencoder", {"widths": (4, 4), "pooling": "average"}),
    ("hfl_vae", {"frequency_loss": "fft"}),
    ("jpeg", {"subsampling": "4:4:4"}),
    ("median_filter", {"kernel_size": 2}),
    ("vq_vae", {"codebook_grad": "dual"}),
    *(("vqunet", {"quantizer": quantizer}) for quantizer in ("ema", "cosine", "rotation", "fsq", "lfq")),
]


def load(name: str) -> ModuleType:
    return importlib.import_module(f"models.{name}")


NAMES = sorted(each.name for each in pkgutil.iter_modules(models.__path__) if not each.name.startswith("_") and load(each.name).ROLE == "purifier")
CASES = [
    pytest.param(name, {**SMALL.get(name, {}), **options}, channels, id="-".join([name, *map(str, options.values()), f"{channels}ch"]))
    for name, options, channels in [*((name, {}, channels) for name in NAMES for channels in (1, 3)), *((*variant, 1) for variant in VARIANTS)]
]
TRAINED_CASES = [case for case in CASES if load(str(case.values[0])).TRAINED]
EXACT_CASES = [case for case in CASES if load(str(case.values[0])).GRADIENT == "exact"]
every_purifier = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize(("name", "options", "channels"), CASES)
every_trained_case = pytest.mark.parametrize(("name", "options", "channels"), TRAINED_CASES)


def make(name: str, options: dict[str, Any], channels: int, *, seed: int = 0) -> Any:
    """Return a fresh purifier, after what comes before its training: a classifier to guide it, an initialization on data."""
    torch.manual_seed(seed)
    model = load(name).build(load(name).Config(**options), (channels, 32, 32), 10)
    if getattr(load(name), "NEEDS_TARGET", False):
        model.guide(target(channels))
    if hasattr(model, "initialize"):
        model.initialize(images(channels, 8), torch.Generator().manual_seed(seed))
    return model


def target(channels: int) -> nn.Module:
    torch.manual_seed(7)
    classifier = nn.Sequential(nn.Conv2d(channels, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 10))
    return classifier.requires_grad_(False).eval()


def images(channels: int, count: int = 3, *, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=torch.Generator().manual_seed(seed))


def purify(model: nn.Module, data: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(data)


def players(model: Any) -> dict[str, list[nn.Parameter]]:
    if hasattr(model, "players"):
        return model.players()
    return {"purifier": [parameter for parameter in model.parameters() if parameter.requires_grad]}


def turns(model: Any, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if hasattr(model, "training_turns"):
        yield from model.training_turns(inputs, targets, generator)
    else:
        yield "purifier", model.training_loss(inputs, targets, generator)


def train(model: Any, channels: int, generator: torch.Generator, steps: range) -> list[tuple[str, str, float]]:
    """Run steps of a training of 20 by gradient descent, which has no state of its own, on perturbed images; return all terms."""
    model.train()
    optimizers = {player: torch.optim.SGD(parameters, 1e-3) for player, parameters in players(model).items()}
    seen = []
    for step in steps:
        clean = images(channels, 4, seed=step)
        for player, terms in turns(model, (clean + 0.1 * images(channels, 4, seed=99)).clamp(0, 1), clean, generator):
            optimizers[player].zero_grad()
            terms["loss"].backward(inputs=players(model)[player])
            optimizers[player].step()
            seen += [(player, term, value.item()) for term, value in terms.items()]
        if hasattr(model, "after_step"):
            model.after_step(step, 20, generator)
    return seen


def assert_same_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name, value in state.items() if not torch.equal(value, expected[name])] == []


def assert_purifies(model: nn.Module, channels: int) -> None:
    """Check what scoring and attacks ask of a purifier: same shape and range, the same answer twice, a gradient for every image."""
    flat = torch.stack([torch.zeros(channels, 32, 32), torch.ones(channels, 32, 32)])
    data = torch.cat([images(channels), flat])
    first = purify(model, data)
    assert first.shape == data.shape
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert first.min() >= 0
    assert first.max() <= 1
    leaf = data.clone().requires_grad_()
    second = model(leaf)
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad((second * images(channels, 5, seed=1)).sum(), leaf)
    assert gradient.isfinite().all()
    assert (gradient[:3].flatten(1).abs().amax(1) > 0).all()


@every_purifier
def test_every_purifier_declares_its_version_training_and_gradient(name: str) -> None:
    module = load(name)
    assert isinstance(module.VERSION, int)
    assert module.TRAINED in (True, False)
    assert module.GRADIENT in GRADIENTS
    options = {field.name for field in dataclasses.fields(module.Config)}
    assert set(getattr(module, "AFTER_TRAINING", ())) <= options
    assert set(getattr(module, "LOSS_WEIGHTS", ())) <= options - set(getattr(module, "AFTER_TRAINING", ()))


@every_purifier
def test_every_setting_that_cannot_be_used_is_named_in_the_error(name: str) -> None:
    for field in dataclasses.fields(load(name).Config):
        with pytest.raises(ValueError, match=field.name):
            load(name).Config(**{**SMALL.get(name, {}), field.name: "no such value"})


@every_case
def test_every_purifier_keeps_shape_range_and_its_answer_and_has_a_gradient(name: str, options: dict[str, Any], channels: int) -> None:
    model = make(name, options, channels)
    state = copy.deepcopy(model.state_dict())
    assert_purifies(model, channels)
    assert_same_state(model, state)


@every_case
def test_every_purifier_treats_an_image_alone_as_in_a_batch(name: str, options: dict[str, Any], channels: int) -> None:
    model, data = make(name, options, channels), images(channels) * torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1, 1)  # dark to bright
    alone = torch.cat([purify(model, image[None]) for image in data])
    torch.testing.assert_close(alone, purify(model, data), atol=1e-5, rtol=1e-4)


@every_case
def test_every_purifier_is_restored_by_its_state_dict(name: str, options: dict[str, Any], channels: int) -> None:
    model, other = make(name, options, channels), make(name, options, channels, seed=1)
    differ = not torch.equal(purify(model, images(channels)), purify(other, images(channels)))
    assert differ == load(name).TRAINED
    other.load_state_dict(model.state_dict())
    assert torch.equal(purify(model, images(channels)), purify(other, images(channels)))


@pytest.mark.parametrize(("name", "options", "channels"), EXACT_CASES)
def test_every_exact_gradient_is_that_of_the_function(name: str, options: dict[str, Any], channels: int) -> None:
    model = make(name, options, channels)
    if load(name).TRAINED:  # until its normalizations know their inputs, a fresh network hardly depends on the image
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        train(model, channels, torch.Generator().manual_seed(0), range(1))
    model.double().eval()
    data = (0.1 + 0.8 * images(channels, 2).double()).requires_grad_()
    weights = images(channels, 2, seed=1).double() - 0.5
    (gradient,) = torch.autograd.grad((model(data) * weights).sum(), data)
    for direction in (gradient, images(channels, 2, seed=2).double() - 0.5):
        unit = direction / direction.norm()
        with torch.no_grad():
            difference = ((model(data + 1e-7 * unit) - model(data - 1e-7 * unit)) * weights).sum() / 2e-7  # short: few kinks are crossed
        assert abs(difference - (gradient * unit).sum()) <= 1e-3 * gradient.norm()


@every_trained_case
def test_every_loss_reaches_all_parameters_of_its_player(name: str, options: dict[str, Any], channels: int) -> None:
    model, clean = make(name, options, channels).train(), images(channels, 4)
    owned = [parameter for parameters in players(model).values() for parameter in parameters]
    assert len(set(map(id, owned))) == len(owned)
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == set(map(id, owned))
    reached = set()
    for player, terms in turns(model, clean, clean, torch.Generator().manual_seed(0)):
        assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
        assert [term for term, value in terms.items() if value.requires_grad] == ["loss"]
        gradients = torch.autograd.grad(terms["loss"], players(model)[player], allow_unused=True)
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
        reached |= {id(parameter) for parameter, gradient in zip(players(model)[player], gradients, strict=True) if gradient is not None}
    assert reached == set(map(id, owned))


@every_trained_case
def test_every_training_draws_from_its_generator_alone(name: str, options: dict[str, Any], channels: int) -> None:
    runs = []
    for seed in (1, 2):
        model = make(name, options, channels)
        torch.manual_seed(seed)
        runs.append((train(model, channels, torch.Generator().manual_seed(0), range(1)), model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][key]) for key, value in runs[0][1].items())


@every_trained_case
def test_every_purifier_keeps_the_contract_after_training_and_resumes_bit_for_bit(name: str, options: dict[str, Any], channels: int) -> None:
    model, generator = make(name, options, channels), torch.Generator().manual_seed(0)
    train(model, channels, generator, range(1))
    saved, drawn = copy.deepcopy(model.state_dict()), generator.get_state()
    assert_purifies(model, channels)
    assert_same_state(model, saved)

    resumed, again = make(name, options, channels, seed=1), torch.Generator()
    resumed.load_state_dict(saved)
    again.set_state(drawn)
    assert train(resumed, channels, again, range(1, 3)) == train(model, channels, generator, range(1, 3))
    assert_same_state(resumed, model.state_dict())


@every_trained_case
def test_what_serves_training_only_does_not_purify(name: str, options: dict[str, Any], channels: int) -> None:
    model = make(name, options, channels)
    before = purify(model, images(channels))
    for child in getattr(model, "training_only", ()):
        for parameter in model.get_submodule(child).parameters():
            nn.init.normal_(parameter)
    assert torch.equal(purify(model, images(channels)), before)


@pytest.mark.parametrize(("name", "weight"), [(name, weight) for name in NAMES for weight in getattr(load(name), "LOSS_WEIGHTS", ())])
def test_a_loss_weight_that_is_changed_later_gives_the_loss_of_a_network_built_with_it(name: str, weight: str) -> None:
    options, clean = SMALL.get(name, {}), images(1, 4)

    def losses(model: Any) -> list[float]:
        return [terms["loss"].item() for _, terms in turns(model.train(), 0.9 * clean, clean, torch.Generator().manual_seed(0))]

    built, changed, untouched = make(name, {**options, weight: 0.25}, 1), make(name, options, 1), make(name, options, 1)
    changed.set_loss_weights(**{weight: 0.25})
    assert losses(changed) == losses(built) != losses(untouched)
    assert torch.equal(purify(changed, clean), purify(untouched, clean))
    with pytest.raises(ValueError, match=rf"a loss weight must be one of .*{weight}.*, got 'depth'"):
        changed.set_loss_weights(depth=1)
    with pytest.raises(ValueError, match=f"{weight} must be a number of at least 0"):
        changed.set_loss_weights(**{weight: -1.0})


@pytest.mark.parametrize("name", [name for name in NAMES if getattr(load(name), "NEEDS_TARGET", False)])
def test_a_guiding_classifier_stays_outside_and_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    model, classifier = load(name).build(load(name).Config(**SMALL.get(name, {})), (1, 32, 32), 10), target(1)
    names, weights = list(model.state_dict()), copy.deepcopy(classifier.state_dict())
    model.guide(classifier)
    train(model, 1, torch.Generator().manual_seed(0), range(1))
    assert list(model.state_dict()) == names
    assert not any(module is classifier for module in model.modules())
    assert_same_state(classifier, weights)
    assert not classifier.training
