"""APE-GAN: its networks' sizes, its losses by hand, whose gradients go where, and who moves when."""

import math
from typing import Any

import pytest
import torch
from test_cyclegan import assert_resumes_bit_for_bit, batch, num_parameters, optimizers_of, seeded, train
from torch import Tensor, nn

from models import ape_gan

SHAPE = (1, 16, 16)


def make(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return ape_gan.build(ape_gan.Config(**{"width": 2, "discriminator_width": 2, **options}), SHAPE, 10)


def images(seed: int = 0) -> Tensor:
    return batch(seed, shape=SHAPE)


def test_networks_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        color, gray = (ape_gan.build(ape_gan.Config(), (channels, 32, 32), 10) for channels in (3, 1))
    assert num_parameters(color.generator) == 269_059  # pyright: ignore[reportArgumentType]
    assert num_parameters(gray.generator) == 269_059 - 2 * 64 * 16 - (2 * 64 * 16 + 2)  # pyright: ignore[reportArgumentType]
    convolutions = (3 * 9 + 1) * 64 + (64 * 9 + 1) * 128 + (128 * 9 + 1) * 256
    assert num_parameters(color.discriminator) == convolutions + 2 * (128 + 256) + 3 * 3 * 256 + 1  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (1, 20, 48)])
def test_discriminator_gives_one_logit_per_image(shape: tuple[int, int, int]) -> None:
    module: Any = ape_gan.build(ape_gan.Config(2, 2), shape, 10)
    assert module.discriminator(batch(shape=shape)).shape == (4, 1)


class Constant(nn.Module):
    """A network that returns one number, of a given shape, for every image."""

    def __init__(self, value: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.shape = shape

    def forward(self, data: Tensor) -> Tensor:
        return self.value.expand(len(data), *self.shape) + 0 * data.mean()


class Doubled(nn.Module):
    """Scores twice an image's mean, less 1."""

    def forward(self, data: Tensor) -> Tensor:
        return 2 * data.mean((1, 2, 3))[:, None] - 1


def softplus(logit: float) -> float:
    return math.log1p(math.exp(logit))


def test_every_loss_has_the_value_worked_out_by_hand() -> None:
    module = make()
    module.generator, module.discriminator = Constant(math.atanh(0.5), SHAPE), Doubled()  # purified: (0.5 + 1) / 2 = 0.75
    inputs, targets = torch.full((3, *SHAPE), 0.1), torch.full((3, *SHAPE), 0.25)
    turns = module.training_turns(inputs, targets, seeded())

    _, terms = next(turns)  # logits: 2 * 0.25 - 1 = -0.5 of targets, 2 * 0.75 - 1 = 0.5 of purified images
    expected = softplus(0.5) + softplus(0.5)  # -log sigmoid(-0.5) and -log(1 - sigmoid(0.5))
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert float(terms["discriminator"]) == pytest.approx(expected, rel=1e-6)

    _, terms = next(turns)
    assert float(terms["reconstruction"]) == pytest.approx(0.25, rel=1e-6)
    assert float(terms["generator_adversarial"]) == pytest.approx(softplus(-0.5), rel=1e-6)
    assert terms["loss"].item() == pytest.approx(0.7 * 0.25 + 0.3 * softplus(-0.5), rel=1e-6)

    with torch.no_grad():
        module.generator.value.fill_(0)  # purified: 0.5, logit 0
    _, terms = next(turns)
    assert terms["loss"].item() == pytest.approx(0.7 * 0.0625 + 0.3 * math.log(2), rel=1e-6)
    assert next(turns, None) is None


def test_weights_of_the_generators_loss_are_settings() -> None:
    module = make(mse_weight=2, adversarial_weight=0)
    turns = module.training_turns(images(1), images(), seeded())
    next(turns)
    terms = next(turns)[1]
    assert terms["loss"].item() == pytest.approx(2 * float(terms["reconstruction"]))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_discriminator_moves_first_and_the_generator_as_often_as_set(turns: int) -> None:
    module = make(generator_turns=turns)
    assert train(module, optimizers_of(module), seeded(), [images(), images(1)]) == (["discriminator"] + ["generator"] * turns) * 2
    assert ape_gan.Config().generator_turns == 2


def test_generator_is_judged_by_the_discriminator_that_has_just_moved() -> None:
    module = make().train()
    losses = []
    for weight in (0.0, 100.0):
        turns = module.training_turns(images(1), images(), seeded())
        next(turns)
        with torch.no_grad():
            module.discriminator[-1].weight.zero_()
            module.discriminator[-1].bias.fill_(weight)
        losses.append(float(next(turns)[1]["generator_adversarial"]))
    assert losses == [pytest.approx(math.log(2)), pytest.approx(0, abs=1e-6)]


def test_players_are_disjoint_and_cover_all_parameters() -> None:
    module = make()
    players = module.players()
    ids = [id(parameter) for parameters in players.values() for parameter in parameters]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in module.parameters()}


def test_each_turn_moves_only_its_own_player() -> None:
    module = make().train()
    players = module.players()
    for player, terms in module.training_turns(images(1), images(), seeded()):
        module.zero_grad()
        terms["loss"].backward(inputs=players[player])
        for other, parameters in players.items():
            assert all((parameter.grad is not None) == (other == player) for parameter in parameters)


def test_discriminators_loss_never_reaches_the_generator() -> None:
    module = make().train()
    next(module.training_turns(images(1), images(), seeded()))[1]["loss"].backward()
    assert all(parameter.grad is None for parameter in module.generator.parameters())
    assert all(parameter.grad is not None for parameter in module.discriminator.parameters())


def test_terms_are_detached_scalars_and_only_the_loss_has_a_gradient() -> None:
    for _, terms in make().training_turns(images(1), images(), seeded()):
        assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
        assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]


def test_training_resumes_bit_for_bit() -> None:
    assert_resumes_bit_for_bit(make(), make(seed=9), [images(step) for step in range(6)])


def test_training_lowers_the_reconstruction_error() -> None:
    module = make(width=8)
    optimizers, errors = optimizers_of(module), []
    targets = torch.linspace(0, 1, 16).expand(8, *SHAPE) * torch.linspace(0.2, 1, 8).view(8, 1, 1, 1)
    for _ in range(30):
        train(module, optimizers, seeded(), [targets])
        with torch.inference_mode():
            errors.append(float((module(targets) - targets).square().mean()))
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32)], ids=["gray", "color"])
def test_purified_images_keep_shape_and_range_and_give_a_gradient(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    module = ape_gan.build(ape_gan.Config(4, 4), shape, 10).eval()
    data = batch(shape=shape)
    data[0], data[1] = 0, 1
    data.requires_grad_()
    output = module(data)
    assert output.shape == data.shape
    assert output.min() >= 0
    assert output.max() <= 1
    assert torch.equal(output, module(data))
    (gradient,) = torch.autograd.grad(output.square().sum(), data)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    torch.testing.assert_close(module(data[2:3]), output[2:3], atol=1e-6, rtol=1e-5)


def test_state_dict_restores_the_purifier_after_training() -> None:
    module, other = make(), make(seed=1)
    train(module, optimizers_of(module), seeded(), [images(1)])
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(images()), other.eval()(images()))


def test_training_only_names_what_purification_does_not_use() -> None:
    module = make().eval()
    before = module(images())
    assert module.training_only == ("discriminator",)
    del module.discriminator
    assert torch.equal(module(images()), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"generator_turns": 0}, "generator_turns must be a whole number of at least 1, got 0"),
        ({"adversarial_weight": -0.3}, "adversarial_weight must be a number of at least 0"),
    ],
)
def test_wrong_setting_is_named_in_the_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ape_gan.Config(**options)


@pytest.mark.parametrize(("shape", "size"), [((1, 30, 32), "30x32"), ((1, 12, 12), "12x12")])
def test_images_that_do_not_fit_are_named_in_the_error(shape: tuple[int, int, int], size: str) -> None:
    with pytest.raises(ValueError, match=f"at least 16, divisible by 4, got {size}"):
        ape_gan.build(ape_gan.Config(), shape, 10)
