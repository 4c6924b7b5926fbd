"""The adaptive attacker on models whose breaking epsilon is known, and its bookkeeping worked out by hand."""

import pytest
import torch
from small_models import some_images, trained_net
from torch import Tensor, nn

from attacks import pgd
from attacks._ascending import Config, ascend, scoring_forward

GRID = [0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1, 0.3]


class Linear(nn.Module):
    """Two classes on 2x2 images, logits (s, -s) with s = sum(w * (x - 0.5)) + bias: class 0 where s > 0.

    Within the unit range, the smallest epsilon that flips an image of class 0 is s / sum(|w|), in closed form.
    """

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, -4.0]))  # sum of |w| is 10
        self.bias = bias

    def forward(self, images: Tensor) -> Tensor:
        score = (images - 0.5).flatten(1) @ self.weight + self.bias
        return torch.stack([score, -score], dim=1)


def planted(breaking_epsilons: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mid-grey images with their last pixel moved so that each breaks at the given epsilon."""
    images = torch.full((len(breaking_epsilons), 1, 2, 2), 0.5)
    images[:, 0, 1, 1] -= 10 * torch.tensor(breaking_epsilons) / 4  # s = 10 * epsilon, w = -4 there
    return images, torch.zeros(len(images), dtype=torch.int64), torch.arange(len(images))


def test_a_linear_model_breaks_at_the_closed_form_epsilon() -> None:
    images, labels, keys = planted([0.01, 0.02, 0.03, 0.049, 0.06, 0.09, 0.11])
    result = ascend(Linear(), images, labels, epsilons=GRID, keys=keys)
    assert result.broken_at.tolist() == pytest.approx(GRID)  # each at the first grid point above its own epsilon
    assert result.broken_at.dtype == torch.float32


def test_an_image_just_below_its_breaking_epsilon_survives() -> None:
    images, labels, keys = planted([0.1001])
    result = ascend(Linear(), images, labels, epsilons=[0.05, 0.1], keys=keys)
    assert result.broken_at.tolist() == [float("inf")]
    assert result.achieved_epsilon == pytest.approx([0.05, 0.1], abs=1e-6)
    # the survivor's adversarial is the highest-loss corner of the largest ball
    assert torch.allclose(result.adversarial - images, -0.1 * Linear().weight.sign().view(1, 1, 2, 2), atol=1e-6)


def test_carry_over_is_counted_by_hand() -> None:
    images, labels, keys = planted([0.02, 0.02, 0.07, 0.2])
    images = torch.cat([images, planted([-0.05])[0]])  # negative: misclassified without any attack
    labels, keys = torch.zeros(5, dtype=torch.int64), torch.arange(5)
    result = ascend(Linear(), images, labels, epsilons=[0.025, 0.05, 0.1], keys=keys)
    assert result.broken_at.tolist() == pytest.approx([0.025, 0.025, 0.1, float("inf"), 0.0])
    assert result.carried_over == [1, 3, 3]
    assert torch.equal(result.adversarial[4], images[4])


def test_nothing_is_attempted_once_all_are_broken() -> None:
    images, labels, keys = planted([0.01, 0.01])
    result = ascend(Linear(), images, labels, epsilons=[0.05, 0.1, 0.2], keys=keys)
    assert result.carried_over == [0, 2, 2]
    assert result.achieved_epsilon[1:] == [None, None]


def test_passes_are_counted_by_hand() -> None:
    images, labels, keys = planted([0.2, 0.2, 0.2])
    result = ascend(Linear(), images, labels, epsilons=[0.05, 0.1], keys=keys, config=Config(num_steps=4, num_restarts=1, batch_size=2))
    # 3 clean, then 2 epsilons x 3 survivors x (4 steps + a look at the last iterate); nothing to confirm
    assert result.forwards == 3 + 2 * 3 * 5
    assert result.backwards == 2 * 3 * 4


def test_a_survivor_goes_on_from_where_the_epsilon_before_left_it() -> None:
    class Watched(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(images.detach().clone())
            return super().forward(images)

    images, labels, keys = planted([0.2])
    watched = Watched()
    config = Config(num_steps=4, num_restarts=1)
    ascend(watched, images, labels, epsilons=[0.05, 0.1], keys=keys, config=config)
    first, second = watched.seen[1:6], watched.seen[6:11]  # 4 steps and the last look, after the clean pass
    at_surface = ascend(Linear(), images, labels, epsilons=[0.05], keys=keys, config=config).adversarial
    assert torch.equal(second[0], at_surface) and not torch.equal(first[0], images)
    lengths = [(later - earlier).abs().max().item() for earlier, later in zip(second, second[1:], strict=False)]
    assert lengths[0] == pytest.approx(0.05, abs=1e-6)  # cut at the ball: twice the mean step of 0.1 would go further


def test_the_reach_is_that_of_the_steps_also_where_no_step_helps() -> None:
    class Decided(nn.Module):
        """Says 0 whatever it sees; its loss is highest where the attack starts."""

        def forward(self, images: Tensor) -> Tensor:
            score = 10 + 0 * images.mean((1, 2, 3))
            return torch.stack([score + 1e-6 * images.sum((1, 2, 3)), -score], 1)

    images, labels, keys = planted([0.2, 0.2])
    found = ascend(Decided(), images, labels, epsilons=[0.05, 0.1], keys=keys)
    assert torch.isinf(found.broken_at).all()
    assert found.achieved_epsilon == pytest.approx([0.05, 0.1], abs=1e-6)


def test_an_early_exit_saves_exactly_the_passes_of_those_who_left() -> None:
    # bias far below: broken at its random start already; the other one survives
    images, labels, keys = planted([0.0001, 0.2])
    keys = torch.tensor([_key_that_breaks_at_its_start(images[:1]), 1])
    result = ascend(Linear(), images, labels, epsilons=[0.05], keys=keys, config=Config(num_steps=4, num_restarts=1))
    assert result.broken_at.tolist() == pytest.approx([0.05, float("inf")])
    # clean 2; first step 2 forward and 2 backward; then 1 image: 3 steps and the last look; 1 confirmation
    assert result.forwards == 2 + 2 + 3 + 1 + 1
    assert result.backwards == 2 + 3


def _key_that_breaks_at_its_start(image: Tensor) -> int:
    from attacks._keyed import uniform_noise

    for key in range(100):
        noise = uniform_noise(torch.tensor([key]), (1, 2, 2), attack="ascending", epsilon=0.05)
        if Linear()((image + noise).clamp(0, 1)).argmax(1).item() == 1:
            return key
    raise AssertionError("half of the keys should do")


def test_broken_images_are_broken_inside_their_own_ball() -> None:
    images, labels, keys = some_images(64)
    model = trained_net()
    result = ascend(model, images, labels, epsilons=GRID, keys=keys)
    broken = torch.isfinite(result.broken_at)
    predicted = scoring_forward(model, result.adversarial, batch_size=128).argmax(1)
    assert (predicted[broken] != labels[broken]).all()
    distance = (result.adversarial - images).abs().flatten(1).amax(1)
    assert (distance[broken] <= result.broken_at[broken] + 1e-6).all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    assert result.refuted == [0] * len(GRID)


def test_accuracy_is_monotone_in_epsilon_and_at_most_that_of_pgd() -> None:
    images, labels, keys = some_images(128)
    model = trained_net()
    result = ascend(model, images, labels, epsilons=GRID, keys=keys)
    curve = [(result.broken_at > torch.tensor(epsilon)).float().mean().item() for epsilon in GRID]
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] == 0
    by_pgd = pgd.perturb(model, images, labels, epsilons=GRID, keys=keys)
    for accuracy_here, adversarial in zip(curve, by_pgd, strict=True):
        with torch.no_grad():
            assert accuracy_here <= (model(adversarial).argmax(1) == labels).float().mean().item() + 0.02


def test_results_depend_neither_on_batch_size_nor_on_order() -> None:
    images, labels, keys = some_images(48)
    model = trained_net()
    reference = ascend(model, images, labels, epsilons=GRID, keys=keys)
    small = ascend(model, images, labels, epsilons=GRID, keys=keys, config=Config(batch_size=7))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    shuffled = ascend(model, images[order], labels[order], epsilons=GRID, keys=keys[order])
    assert torch.equal(small.broken_at, reference.broken_at)
    assert torch.equal(shuffled.broken_at, reference.broken_at[order])
    assert (small.forwards, small.backwards) == (reference.forwards, reference.backwards)


def test_more_restarts_break_no_fewer_images() -> None:
    images, labels, keys = some_images(48)
    model = trained_net()
    one, three = (ascend(model, images, labels, epsilons=[0.05], keys=keys, config=Config(num_steps=3, num_restarts=n)) for n in (1, 3))
    assert (three.broken_at <= one.broken_at).all()


def test_channels_last_images_give_the_same_result() -> None:
    images, labels, keys = some_images(32)
    model = trained_net()
    reference = ascend(model, images, labels, epsilons=GRID, keys=keys)
    images = images.expand(-1, 1, -1, -1).contiguous(memory_format=torch.channels_last)
    result = ascend(model.to(memory_format=torch.channels_last), images, labels, epsilons=GRID, keys=keys)
    assert torch.equal(result.broken_at, reference.broken_at)


def test_a_channels_last_batch_stays_channels_last_in_every_forward() -> None:
    seen: list[bool] = []

    class Watching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.is_contiguous(memory_format=torch.channels_last))
            return torch.stack([images.mean((1, 2, 3)) - 0.45, 0.45 - images.mean((1, 2, 3))], dim=1)

    values = torch.linspace(0.46, 0.7, 6)[:, None, None, None]
    images = values.expand(6, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    labels, keys = torch.zeros(6, dtype=torch.int64), torch.arange(6)
    result = ascend(Watching(), images, labels, epsilons=[0.05, 0.1], keys=keys, config=Config(batch_size=4))
    assert torch.isfinite(result.broken_at).any()
    assert all(seen)


def test_the_model_is_left_as_found() -> None:
    images, labels, keys = some_images(8)
    model = trained_net().train()
    model.features.eval()
    modes = [module.training for module in model.modules()]
    ascend(model, images, labels, epsilons=[0.1], keys=keys)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


# masked defenses


class Quantized(nn.Module):
    """A defense that rounds its images; `estimator` decides what autograd sees of it."""

    def __init__(self, estimator: str) -> None:
        super().__init__()
        self.net, self.estimator = trained_net(), estimator

    def forward(self, images: Tensor) -> Tensor:
        rounded = (images * 4).round() / 4
        if self.estimator == "straight_through":
            rounded = images + (rounded - images).detach()
        if self.estimator == "detached":
            rounded = rounded.detach()
        return self.net(rounded)


def test_a_quantizer_with_zero_gradient_is_refused() -> None:
    images, labels, keys = some_images()
    with pytest.raises(ValueError, match="exactly zero for all"):
        ascend(Quantized("none"), images, labels, epsilons=GRID, keys=keys)


def test_a_quantizer_without_a_gradient_path_is_refused() -> None:
    images, labels, keys = some_images()
    with pytest.raises(ValueError, match="no gradient reaches the input"):
        ascend(Quantized("detached"), images, labels, epsilons=GRID, keys=keys)


def test_a_straight_through_quantizer_is_broken() -> None:
    images, labels, keys = some_images(32)
    result = ascend(Quantized("straight_through"), images, labels, epsilons=GRID, keys=keys)
    assert torch.isfinite(result.broken_at).float().mean() > 0.9
    assert result.zero_gradient == [0] * len(GRID)


def test_an_attack_time_break_that_scoring_does_not_confirm_does_not_count() -> None:
    class KeepsItsHead(nn.Module):
        """Errs only while gradients are recorded, as a defense that differs between attack and scoring would."""

        def forward(self, images: Tensor) -> Tensor:
            score = images.mean((1, 2, 3)) + 1 - 4 * images.requires_grad
            return torch.stack([score, -score], dim=1)

    images, labels, keys = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64), torch.arange(3)
    result = ascend(KeepsItsHead(), images, labels, epsilons=[0.1, 0.2], keys=keys)
    assert torch.isinf(result.broken_at).all()
    assert result.refuted == [3, 3]


def test_logits_that_are_not_finite_are_refused() -> None:
    images, labels, keys = planted([0.1])
    with pytest.raises(ValueError, match="not finite"):
        ascend(Linear(bias=float("nan")), images, labels, epsilons=[0.1], keys=keys)


@pytest.mark.parametrize("epsilons", [[0.1, 0.05], [0.1, 0.1]])
def test_a_grid_that_does_not_ascend_is_refused(epsilons: list[float]) -> None:
    images, labels, keys = planted([0.1])
    with pytest.raises(ValueError, match="strictly ascending"):
        ascend(Linear(), images, labels, epsilons=epsilons, keys=keys)


def test_an_ascent_of_no_images_is_empty() -> None:
    images, labels, keys = torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    result = ascend(Linear(), images, labels, epsilons=[0.1], keys=keys)
    assert result.carried_over == [0]
    assert (result.forwards, result.achieved_epsilon) == (0, [None])


def test_at_epsilon_zero_nothing_is_attacked() -> None:
    images, labels, keys = planted([0.02, -0.05])
    result = ascend(Linear(), images, labels, epsilons=[0.0, 0.1], keys=keys)
    assert result.broken_at.tolist() == pytest.approx([0.1, 0.0])
    assert result.carried_over == [1, 1]
    assert result.achieved_epsilon[0] is None
