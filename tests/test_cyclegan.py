"""Defense-CycleGAN: its networks' sizes, its losses by hand, whose gradients go where, and its pools."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import defense_cyclegan
from models._cyclegan import Generator, ImagePool, PatchDiscriminator, least_squares

SHAPE = (1, 8, 8)
TINY: dict[str, Any] = {"width": 2, "num_blocks": 1, "discriminator_width": 2, "discriminator_layers": 1, "pool_size": 3}


def make(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return defense_cyclegan.build(defense_cyclegan.Config(**{**TINY, **options}), SHAPE, 10)


def batch(seed: int = 0, count: int = 4, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def optimizers_of(module: Any) -> dict[str, torch.optim.Optimizer]:
    return {player: torch.optim.Adam(parameters, 2e-3, **module.optimizer_options()) for player, parameters in module.players().items()}


def train(module: Any, optimizers: dict[str, torch.optim.Optimizer], generator: torch.Generator, batches: Sequence[Tensor]) -> list[str]:
    """Train on batches as a training loop does; return the players in the order in which they moved."""
    module.train()
    players, moves = module.players(), []
    for targets in batches:
        for player, terms in module.training_turns((targets + 0.1).clamp(0, 1), targets, generator):
            optimizers[player].zero_grad()
            terms["loss"].backward(inputs=players[player])
            optimizers[player].step()
            moves.append(player)
    return moves


def assert_resumes_bit_for_bit(module: Any, blank: Any, batches: Sequence[Tensor]) -> None:
    """Train module on batches; a blank copy that takes over in the middle must end in the same state."""
    middle = len(batches) // 2
    generator, optimizers = seeded(), optimizers_of(module)
    train(module, optimizers, generator, batches[:middle])
    saved = copy.deepcopy((module.state_dict(), {name: optimizer.state_dict() for name, optimizer in optimizers.items()}, generator.get_state()))
    train(module, optimizers, generator, batches[middle:])

    resumed, again = optimizers_of(blank), torch.Generator()
    blank.load_state_dict(saved[0])
    for name, optimizer in resumed.items():
        optimizer.load_state_dict(saved[1][name])
    again.set_state(saved[2])
    train(blank, resumed, again, batches[middle:])
    state = module.state_dict()
    assert blank.state_dict().keys() == state.keys()
    for name, value in blank.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ("channels", "width", "num_blocks", "expected"),
    [(3, 64, 6, 7_837_699), (1, 64, 6, 7_825_153), (3, 64, 9, 11_378_179), (3, 32, 6, 1_965_059)],
)
def test_generator_parameters_are_the_specified_number(channels: int, width: int, num_blocks: int, expected: int) -> None:
    with torch.device("meta"):
        assert num_parameters(Generator(channels, width, num_blocks)) == expected


@pytest.mark.parametrize(("layers", "expected", "side"), [(1, 136_385, 14), (2, 662_977, 6), (3, 2_764_737, 2)])
def test_discriminator_has_the_specified_parameters_and_patches(layers: int, expected: int, side: int) -> None:
    with torch.device("meta"):
        discriminator = PatchDiscriminator(3, 64, layers)
        assert num_parameters(discriminator) == expected
        assert discriminator(torch.empty(2, 3, 32, 32)).shape == (2, 1, side, side)


@pytest.mark.parametrize(("layers", "pixels"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_sees_as_many_pixels_as_its_size_says(layers: int, pixels: int) -> None:
    convolutions = [part for part in PatchDiscriminator(1, 2, layers) if isinstance(part, nn.Conv2d)]
    for part in convolutions:
        nn.init.ones_(part.weight)
    image = torch.zeros(1, 1, 128, 128, requires_grad=True)
    scores = nn.Sequential(*convolutions)(image)
    middle = scores.shape[-1] // 2
    (gradient,) = torch.autograd.grad(scores[0, 0, middle, middle], image)
    assert int((gradient[0, 0].amax(0) > 0).sum()) == pixels


def test_default_networks_are_the_specified_ones() -> None:
    with torch.device("meta"):
        module = defense_cyclegan.build(defense_cyclegan.Config(), (3, 32, 32), 10)
    assert num_parameters(module) == 2 * 7_837_699 + 2 * 662_977


def test_convolutions_start_normal_with_deviation_0_02() -> None:
    torch.manual_seed(0)
    network = Generator(1, 16, 2)
    weights = torch.cat([part.weight.flatten() for part in network.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)])
    assert weights.mean().item() == pytest.approx(0, abs=2e-4)
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)


def test_least_squares_aim_at_one_for_real_and_zero_for_made() -> None:
    scores = torch.tensor([[0.0, 1.0, 3.0, -1.0]])
    assert float(least_squares(scores, True)) == (1 + 0 + 4 + 4) / 4
    assert float(least_squares(scores, False)) == (0 + 1 + 9 + 1) / 4


class Scale(nn.Module):
    """A network of one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * images


def stubbed() -> Any:
    module = make(pool_size=0)
    module.to_clean, module.to_perturbed = Scale(0.5), Scale(3.0)
    module.clean_discriminator, module.perturbed_discriminator = Scale(2.0), Scale(1.0)
    return module


def test_every_loss_has_the_value_worked_out_by_hand() -> None:
    module = stubbed()
    inputs, targets = torch.full((2, *SHAPE), 0.75), torch.full((2, *SHAPE), 0.25)  # 0.5 and -0.5 where -1 is black and 1 white
    turns = module.training_turns(inputs, targets, seeded())

    player, terms = next(turns)  # made: 0.5 * 0.5 = 0.25 and 3 * -0.5 = -1.5
    assert player == "generator"
    assert float(terms["generator_adversarial"]) == (2 * 0.25 - 1) ** 2 + (-1.5 - 1) ** 2
    assert float(terms["cycle"]) == abs(3 * 0.25 - 0.5) + abs(0.5 * -1.5 + 0.5)
    assert float(terms["identity"]) == abs(0.5 * -0.5 + 0.5) + abs(3 * 0.5 - 0.5)
    assert terms["loss"].item() == 6.5 + 10 * 0.5 + 0.5 * 10 * 1.25
    assert float(terms["reconstruction"]) == (0.625 - 0.25) ** 2

    with torch.no_grad():
        module.to_clean.weight.fill_(100)  # the discriminators judge the images that were made before the generators' step
    player, terms = next(turns)
    assert player == "discriminator"
    clean, perturbed = ((2 * -0.5 - 1) ** 2 + (2 * 0.25) ** 2) / 2, ((0.5 - 1) ** 2 + (-1.5) ** 2) / 2
    assert terms["loss"].item() == float(terms["discriminator"]) == clean + perturbed
    assert next(turns, None) is None


def test_reconstruction_compares_each_input_with_its_own_target() -> None:
    module = stubbed()
    module.to_clean = Scale(1.0)
    _, terms = next(module.training_turns(batch(), batch(), seeded()))
    assert float(terms["reconstruction"]) == pytest.approx(0, abs=1e-12)


def test_discriminators_judge_images_from_the_pools() -> None:
    module, old = stubbed(), torch.full(SHAPE, 0.125)
    module.clean_pool, module.perturbed_pool = ImagePool(1, SHAPE), ImagePool(1, SHAPE)
    for pool in (module.clean_pool, module.perturbed_pool):
        pool.exchange(old[None], seeded())
    seed = next(seed for seed in range(100) if _exchanges_both(seed))
    turns = module.training_turns(torch.full((1, *SHAPE), 0.75), torch.full((1, *SHAPE), 0.25), seeded(seed))
    next(turns)
    _, terms = next(turns)
    assert terms["loss"].item() == (4 + 0.25**2) / 2 + (0.25 + 0.125**2) / 2  # scores of the old image, 2 * and 1 * 0.125
    assert torch.equal(module.clean_pool.images[0], torch.full(SHAPE, 0.25))
    assert torch.equal(module.perturbed_pool.images[0], torch.full(SHAPE, -1.5))


def _exchanges_both(seed: int) -> bool:
    generator = seeded(seed)
    torch.randperm(1, generator=generator)
    coins = []
    for _ in range(2):
        coins.append(float(torch.rand(1, generator=generator)))
        torch.randint(1, (1,), generator=generator)
    return min(coins) > 0.5


def test_players_are_disjoint_and_cover_all_parameters() -> None:
    module = make()
    players = module.players()
    assert list(players) == ["generator", "discriminator"]
    ids = [id(parameter) for parameters in players.values() for parameter in parameters]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in module.parameters()}


def test_each_turn_moves_only_its_own_player() -> None:
    module = make().train()
    players = module.players()
    for player, terms in module.training_turns(batch(1), batch(), seeded()):
        module.zero_grad()
        terms["loss"].backward(inputs=players[player])
        for other, parameters in players.items():
            assert all((parameter.grad is not None) == (other == player) for parameter in parameters)


def test_discriminators_loss_never_reaches_a_generator() -> None:
    module = make().train()
    turns = module.training_turns(batch(1), batch(), seeded())
    next(turns)
    next(turns)[1]["loss"].backward()
    assert all(parameter.grad is None for parameter in module.players()["generator"])
    assert all(parameter.grad is not None for parameter in module.players()["discriminator"])


def test_terms_are_detached_scalars_and_only_the_loss_has_a_gradient() -> None:
    for _, terms in make().training_turns(batch(1), batch(), seeded()):
        assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
        assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]


def test_pool_hands_the_first_images_through_and_keeps_them() -> None:
    pool, images = ImagePool(50, SHAPE), batch(count=50)
    assert torch.equal(pool.exchange(images[:20], seeded(1)), images[:20])
    assert torch.equal(pool.exchange(images[20:], seeded(2)), images[20:])
    assert torch.equal(pool.images, images)


def test_full_pool_exchanges_about_half_of_the_images() -> None:
    pool, kept, images = ImagePool(50, (1, 1, 1)), batch(1, 50, (1, 1, 1)), batch(2, 1000, (1, 1, 1))
    pool.exchange(kept, seeded(1))
    differs = (pool.exchange(images, seeded(2)) != images).flatten()
    assert 0.45 < float(differs.float().mean()) < 0.55  # 3 standard deviations of 1,000 fair coins
    assert set(pool.images.flatten().tolist()) <= set(torch.cat([kept, images]).flatten().tolist())


@pytest.mark.parametrize(("size", "counts"), [(1, [1, 8]), (3, [2, 7, 5]), (5, [64]), (50, [30, 30, 64])])
def test_pool_equals_an_exchange_of_one_image_after_the_other(size: int, counts: list[int]) -> None:
    pool, kept, images, generator, mirror = ImagePool(size, (1, 1, 1)), [], batch(3, sum(counts), (1, 1, 1)), seeded(5), seeded(5)
    for part in images.split(counts):
        coins = torch.rand(len(part), generator=mirror) > 0.5
        places = torch.randint(size, (len(part),), generator=mirror)
        expected = []
        for image, coin, place in zip(part, coins, places, strict=True):
            if len(kept) < size:
                kept.append(image)
            elif coin:
                image, kept[place] = kept[place], image
            expected.append(image)
        assert torch.equal(pool.exchange(part, generator), torch.stack(expected))
        assert torch.equal(pool.images[: len(kept)], torch.stack(kept))
        assert int(pool.count) == len(kept)


def test_pool_of_no_size_hands_every_image_through() -> None:
    assert torch.equal(ImagePool(0, SHAPE).exchange(batch(), seeded()), batch())


def test_training_resumes_bit_for_bit_with_its_pools() -> None:
    module = make()
    assert_resumes_bit_for_bit(module, make(seed=9), [batch(step) for step in range(6)])
    assert int(module.clean_pool.count) == 3
    assert module.clean_pool.images.abs().amax() > 0


def test_a_lost_pool_would_change_the_training() -> None:
    ends = []
    for forget in (False, True):
        module = make()
        optimizers, generator = optimizers_of(module), seeded()
        train(module, optimizers, generator, [batch(step) for step in range(3)])
        if forget:
            module.clean_pool = ImagePool(3, SHAPE)
        train(module, optimizers, generator, [batch(step) for step in range(3, 6)])
        ends.append(module.clean_discriminator.state_dict()["0.weight"])
    assert not torch.equal(*ends)


def test_randomness_comes_from_the_given_generator_alone() -> None:
    ends = []
    for seed in (0, 1):
        module = make()
        torch.manual_seed(seed)
        train(module, optimizers_of(module), seeded(), [batch(step) for step in range(3)])
        ends.append(module.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_generators_move_before_discriminators() -> None:
    module = make()
    assert train(module, optimizers_of(module), seeded(), [batch(), batch(1)]) == ["generator", "discriminator"] * 2


def test_training_lowers_the_cycle_and_the_reconstruction_error() -> None:
    module = make(width=8)
    optimizers, before_and_after = optimizers_of(module), []
    for num_steps in (20, 0):
        _, terms = next(module.training_turns((batch() + 0.1).clamp(0, 1), batch(), seeded()))
        before_and_after.append((float(terms["cycle"]), float(terms["reconstruction"])))
        train(module, optimizers, seeded(), [batch()] * num_steps)
    (cycle, reconstruction), (later_cycle, later_reconstruction) = before_and_after
    assert later_cycle < 0.7 * cycle
    assert later_reconstruction < 0.7 * reconstruction


def test_single_and_cycle_share_their_weights() -> None:
    single, cycle = make(seed=0).eval(), make(seed=1, purify="cycle").eval()
    cycle.load_state_dict(single.state_dict())
    with torch.inference_mode():
        signed = 2 * batch() - 1
        assert torch.equal(single(batch()), (single.to_clean(signed) + 1) / 2)
        assert torch.equal(cycle(batch()), (single.to_clean(single.to_perturbed(signed)) + 1) / 2)
    assert defense_cyclegan.AFTER_TRAINING == ("purify",)


@pytest.mark.parametrize("purify", ["single", "cycle"])
def test_training_only_names_the_networks_that_purification_does_not_use(purify: str) -> None:
    module = make(purify=purify).eval()
    output = module(batch())
    unused = {
        name
        for name, child in module.named_children()
        if (parameters := list(child.parameters()))
        and all(gradient is None for gradient in torch.autograd.grad(output.sum(), parameters, retain_graph=True, allow_unused=True))
    }
    assert set(module.training_only) == unused


@pytest.mark.parametrize("purify", ["single", "cycle"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32)], ids=["gray", "color"])
def test_purified_images_keep_shape_and_range_and_give_a_gradient(purify: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    module = defense_cyclegan.build(defense_cyclegan.Config(**{**TINY, "discriminator_layers": 2, "purify": purify}), shape, 10).eval()
    images = batch(shape=shape)
    images[0], images[1] = 0, 1
    images.requires_grad_()
    output = module(images)
    assert output.shape == images.shape
    assert output.min() >= 0
    assert output.max() <= 1
    assert torch.equal(output, module(images))
    (gradient,) = torch.autograd.grad(output.square().sum(), images)
    assert (gradient[2:].flatten(1).abs().amax(1) > 0).all()
    torch.testing.assert_close(module(images[2:3]), output[2:3], atol=1e-6, rtol=1e-5)


def test_state_dict_restores_the_purifier() -> None:
    module, other = make(), make(seed=1)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(batch()), other.eval()(batch()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"discriminator_layers": 0}, "discriminator_layers must be a whole number of at least 1, got 0"),
        ({"pool_size": -1}, "pool_size must be a whole number of at least 0, got -1"),
        ({"cycle_weight": -1}, "cycle_weight must be a number of at least 0"),
        ({"purify": "twice"}, "purify must be one of single, cycle, got 'twice'"),
    ],
)
def test_wrong_setting_is_named_in_the_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        defense_cyclegan.Config(**options)


def test_images_that_do_not_fit_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="divisible by 4, got 30x32"):
        defense_cyclegan.build(defense_cyclegan.Config(), (1, 30, 32), 10)
    with pytest.raises(ValueError, match="discriminator_layers 2 needs images of at least 12 pixels, got 8x8"):
        defense_cyclegan.build(defense_cyclegan.Config(), (1, 8, 8), 10)
    smallest = defense_cyclegan.build(defense_cyclegan.Config(**{**TINY, "discriminator_layers": 2}), (1, 12, 12), 10)
    assert smallest.clean_discriminator(batch(shape=(1, 12, 12))).shape == (4, 1, 1, 1)  # pyright: ignore[reportCallIssue]
