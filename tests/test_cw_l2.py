"""Carlini and Wagner's L2 attack, held to closed forms and to a second, plain implementation of CleverHans' loop."""

import math
from functools import cache

import pytest
import torch
from small_models import SmallNet, accuracy, some_images, trained_net
from torch import Tensor, nn

from attacks import cw_l2
from attacks._linf import margin
from attacks.cw_l2 import Config, _next_constant, perturb

QUICK = Config(num_steps=60, learning_rate=0.1)
EPSILONS = [0.0, 0.03, 0.1, 0.3, 1.0]


@cache
def quick_result() -> Tensor:
    images, labels, keys = some_images()
    return perturb(trained_net(), images, labels, epsilons=EPSILONS, keys=keys, config=QUICK)


def distances(result: Tensor, images: Tensor) -> Tensor:
    return (result - images).flatten(1).norm(dim=1)


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return margin(model(images), labels)


def plane(weight: Tensor, bias: float, scale: float = 1.0) -> nn.Module:
    """Return a classifier of two classes whose margin for the label 0 is scale * (weight . x + bias)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2))
    model[1].weight.data = torch.stack([torch.zeros_like(weight), scale * weight])
    model[1].bias.data = torch.tensor([0.0, scale * bias])
    return model


class CountingNet(SmallNet):
    """Counts the images that pass through it."""

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += len(images)
        return super().forward(images)


def counting_net() -> CountingNet:
    model = CountingNet()
    model.load_state_dict(trained_net().state_dict())
    return model.eval()


# ball


def test_every_slice_stays_in_its_ball_and_in_unit_range() -> None:
    images, _, _ = some_images()
    result = quick_result()
    assert result.shape == (5, *images.shape)
    assert cw_l2.NORM == "linf"
    for adversarial, epsilon in zip(result, EPSILONS, strict=True):
        assert (adversarial - images).abs().max() <= epsilon + 1e-6
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(result[0], images)


def test_each_slice_is_the_unbounded_result_clamped_to_its_ball() -> None:
    images, _, _ = some_images()
    *clipped, free = quick_result()
    assert (free - images).abs().max() > 0.1  # or clipping would change nothing
    for adversarial, epsilon in zip(clipped, EPSILONS, strict=False):
        clamped = torch.clamp(free, images - epsilon, images + epsilon).clamp(0, 1)
        assert torch.allclose(adversarial, clamped, rtol=0, atol=1e-7)


def test_one_search_serves_the_whole_grid() -> None:
    images, labels, keys = some_images(4)
    passes = []
    for epsilons in ([0.1], EPSILONS):
        model = counting_net()
        perturb(model, images, labels, epsilons=epsilons, keys=keys, config=Config(num_steps=10))
        passes.append(model.passes)
    assert passes[0] == passes[1]


def test_an_empty_batch_gives_empty_slices() -> None:
    images, labels, keys = some_images(0)
    assert perturb(trained_net(), images, labels, epsilons=[0.1, 0.2], keys=keys).shape == (2, 0, 1, 8, 8)


# distance


def test_on_a_plane_the_result_is_the_projection_onto_the_boundary() -> None:
    weight = torch.tensor([1.0, -2.0, 2.0, 0.0])  # of length 3
    images = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.4, 0.6, 0.5, 0.3]]).view(2, 1, 2, 2)
    model, labels = plane(weight, -1.1), torch.tensor([0, 0])
    signed = (images.flatten(1) @ weight - 1.1) / 3  # -0.2 and -0.3 from the plane
    config = Config(num_steps=300, learning_rate=0.02, search_steps=8)

    result = perturb(model, images, labels, epsilons=[1.0], keys=labels, config=config)[0]

    assert torch.allclose(signed, torch.tensor([-0.2, -0.3]))
    assert (margins(model, result, labels) > 0).all()
    assert torch.allclose(distances(result, images), -signed, rtol=0.01)
    nearest = images.flatten(1) - signed[:, None] * weight / 3
    assert torch.allclose(result.flatten(1), nearest, atol=0.01)


def test_the_search_finds_nearer_images_than_one_large_constant() -> None:
    images, labels, keys = some_images(8)
    model, options = trained_net(), {"num_steps": 60, "learning_rate": 0.1}
    fixed = perturb(model, images, labels, epsilons=[1.0], keys=keys, config=Config(search_steps=1, initial_constant=100.0, **options))[0]
    searched = perturb(model, images, labels, epsilons=[1.0], keys=keys, config=Config(**options))[0]
    for result in (fixed, searched):
        assert (margins(model, result, labels) > 0).all()
    assert distances(searched, images).mean() < 0.9 * distances(fixed, images).mean()
    assert (distances(searched, images) < 1.05 * distances(fixed, images)).all()


def test_the_constant_grows_tenfold_until_a_success_and_is_then_halved_between() -> None:
    constant, low, high = torch.tensor([0.01]), torch.zeros(1), torch.full((1,), torch.inf)
    tried = []
    for has_found in (False, False, True, False, True):  # 0.01 and 0.1 fail, 1 succeeds
        tried.append(constant.item())
        constant, low, high = _next_constant(constant, low, high, torch.tensor([has_found]))
    assert tried == pytest.approx([0.01, 0.1, 1.0, 0.55, 0.775])
    assert (low.item(), high.item()) == pytest.approx((0.55, 0.775))


def carlini_wagner_of_one_image(model: nn.Module, image: Tensor, label: int, config: Config) -> float:
    """Return the smallest L2 distance of an adversarial image, following CleverHans 2.1.0 line by line, with torch's Adam."""
    origin = torch.atanh((2 * image - 1) * 0.999999)
    start = (torch.tanh(origin) + 1) / 2
    constant, low, high, best = config.initial_constant, 0.0, 1e10, math.inf
    for _ in range(config.search_steps):
        modifier = torch.zeros_like(image, requires_grad=True)
        optimizer = torch.optim.Adam([modifier], lr=config.learning_rate)
        previous, succeeded = 1e6, False
        for iteration in range(config.num_steps):
            new = (torch.tanh(modifier + origin) + 1) / 2
            logits = model(new[None])[0]
            squared = (new - start).pow(2).sum()
            other = torch.cat([logits[:label], logits[label + 1 :]]).max()
            loss = squared + constant * torch.relu(logits[label] - other + config.confidence)
            if config.abort_early and iteration % (config.num_steps // 10) == 0:
                if loss.item() > previous * 0.9999:
                    break
                previous = loss.item()
            if other > logits[label] + config.confidence:
                succeeded = True
                best = min(best, squared.item())
            # TensorFlow adds epsilon before it corrects the second moment's bias, torch after
            optimizer.param_groups[0]["eps"] = 1e-8 / math.sqrt(1 - 0.999 ** (iteration + 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if succeeded:
            high = min(high, constant)
        else:
            low = max(low, constant)
        constant = (low + high) / 2 if high < 1e9 else constant * 10
    return math.sqrt(best)


@pytest.mark.parametrize("abort_early", [True, False])
def test_distances_agree_with_a_plain_implementation(abort_early: bool) -> None:
    images, labels, keys = some_images(4)
    model = trained_net().requires_grad_(False)
    config = Config(num_steps=40, learning_rate=0.1, abort_early=abort_early)
    expected = torch.tensor([carlini_wagner_of_one_image(model, image, int(label), config) for image, label in zip(images, labels, strict=True)])
    result = perturb(model, images, labels, epsilons=[1.0], keys=keys, config=config)[0]
    assert torch.isfinite(expected).all()
    assert distances(result, images).mean().item() == pytest.approx(expected.mean().item(), rel=0.01)
    assert torch.allclose(distances(result, images), expected, rtol=0.05)


# success and failure


def test_unclipped_the_undefended_net_is_broken_on_every_image() -> None:
    _, labels, _ = some_images()
    assert accuracy(trained_net(), quick_result()[-1], labels) == 0


def test_a_success_exceeds_the_confidence_by_little() -> None:
    images, labels, keys = some_images(8)
    model = trained_net()
    result = perturb(model, images, labels, epsilons=[1.0], keys=keys, config=Config(3.0, 60, 0.1))[0]
    reached = margins(model, result, labels)
    assert (reached > 3.0 - 1e-4).all()
    assert reached.max() < 4.0


def test_images_that_are_misclassified_already_stay_as_they_are() -> None:
    images, labels, keys = some_images(8)
    model = counting_net()
    wrong = (labels + 1) % 10
    result = perturb(model, images, wrong, epsilons=[0.1, 1.0], keys=keys, config=QUICK)
    assert accuracy(model, images, wrong) == 0
    assert torch.equal(result, torch.stack([images, images]))
    assert model.passes == 2 * 8  # one for the attack, one for the accuracy above


def test_failure_returns_the_iterate_of_largest_margin_not_the_clean_image() -> None:
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    model = plane(torch.tensor([1.0, -2.0, 2.0, 0.0]), -4.0)  # at most 3 - 4 in [0, 1]
    small, free = perturb(model, images, labels, epsilons=[0.1, 1.0], keys=labels, config=QUICK)
    assert margins(model, images, labels).item() == pytest.approx(-3.5)
    assert margins(model, free, labels).item() == pytest.approx(-1.0, abs=0.05)  # the best that [0, 1] allows
    assert margins(model, small, labels).item() == pytest.approx(-3.0, abs=0.01)  # 0.1 * (1 + 2 + 2) better


def test_pixels_of_exactly_zero_and_one_are_moved() -> None:
    images, labels = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 2, 2), torch.tensor([0])
    model = plane(torch.tensor([1.0, -1.0, 1.0, -1.0]), -0.4)  # margin -2.4: 0.6 per pixel is the nearest success
    config = Config(num_steps=120, learning_rate=0.1)
    result = perturb(model, images, labels, epsilons=[1.0], keys=labels, config=config)[0]
    assert torch.allclose((result - images).abs(), torch.full((1, 1, 2, 2), 0.6), atol=0.01)
    assert carlini_wagner_of_one_image(model, images[0], 0, config) == math.inf  # the early stop of CleverHans gives up


# rows on their own, and the model as found


def test_an_image_alone_gives_what_it_gives_in_a_batch() -> None:
    images, labels, keys = some_images()
    for row in (0, 3, 7, 12):
        one = slice(row, row + 1)
        alone = perturb(trained_net(), images[one], labels[one], epsilons=[1.0], keys=keys[one], config=QUICK)[0]
        assert torch.allclose(alone, quick_result()[-1, one], atol=1e-4)


def test_a_run_that_stalls_ends_early_and_gives_nearly_the_same() -> None:
    images, labels, keys = some_images(4)
    passes, lengths = [], []
    for abort_early in (True, False):
        model = counting_net()
        config = Config(num_steps=60, learning_rate=0.1, abort_early=abort_early)
        result = perturb(model, images, labels, epsilons=[1.0], keys=keys, config=config)[0]
        passes.append(model.passes)
        lengths.append(distances(result, images).mean().item())
    assert passes[1] == 4 + 4 * 60 * 5
    assert passes[0] < 0.95 * passes[1]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)


def test_parameters_get_no_gradient_and_the_model_keeps_its_mode() -> None:
    images, labels, keys = some_images(4)
    model = trained_net().train()
    perturb(model, images, labels, epsilons=[0.1], keys=keys, config=Config(num_steps=5))
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": -1.0}, "confidence must be a finite margin of at least 0, got -1.0"),
        ({"confidence": math.inf}, "confidence must be a finite margin"),
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
        ({"num_steps": 10.0}, "num_steps must be a whole number"),
        ({"learning_rate": 0.0}, r"learning_rate must be in \(0, 10\], got 0.0"),
        ({"search_steps": 0}, "search_steps must be a whole number of at least 1, got 0"),
        ({"initial_constant": 0.0}, "initial_constant must be positive and finite, got 0.0"),
        ({"initial_constant": math.nan}, "initial_constant must be positive and finite, got nan"),
        ({"abort_early": 1}, "abort_early must be true or false, got 1"),
    ],
)
def test_an_unusable_setting_is_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)  # type: ignore[arg-type]


def test_the_defaults_are_those_of_cleverhans() -> None:
    assert Config() == Config(0.0, 1000, 0.005, 5, 0.01, True)
