"""Any attack over ascending epsilons: the union by brute force, bookkeeping worked out by hand, defenses that cheat."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from small_models import some_images, trained_net
from torch import Tensor, nn

from attacks import bim, cw, cw_l2, fgsm, pgd
from attacks._ascending import Config, ascend, dlr, scoring_forward
from attacks._torchattacks import load
from attacks._white_box import Perturb, ascend_with

GRID = [0.02, 0.05, 0.1, 0.2]
OURS: dict[str, Perturb] = {
    "fgsm": fgsm.perturb,
    "bim": bim.perturb,
    "pgd": partial(pgd.perturb, config=pgd.Config(num_restarts=2)),
    "cw": partial(cw.perturb, config=cw.Config(num_steps=20)),
    "cw_l2": partial(cw_l2.perturb, config=cw_l2.Config(num_steps=30, learning_rate=0.2, search_steps=2)),
}
THEIRS = {"APGD": {"steps": 5}, "APGDT": {"steps": 3}, "FAB": {"steps": 2, "multi_targeted": True}, "Square": {"n_queries": 30}}


def theirs(name: str) -> Perturb:
    attack = load(f"torchattacks:{name}")
    return partial(attack.perturb, config=attack.Config(**THEIRS[name]))


def union_by_hand(perturb: Perturb, model: nn.Module, images: Tensor, labels: Tensor, keys: Tensor, grid: Sequence[float]) -> Tensor:
    """Return the first epsilon that breaks each image, every epsilon attacking every image in one batch."""
    broken_at = torch.full((len(images),), torch.inf)
    with torch.no_grad():
        for epsilon in reversed(grid):
            adversarial = perturb(model, images, labels, epsilons=[epsilon], keys=keys)[0]
            broken_at[model(adversarial).argmax(1) != labels] = epsilon
        broken_at[model(images).argmax(1) != labels] = 0.0
    return broken_at


@pytest.mark.parametrize("name", OURS)
def test_an_image_breaks_at_the_first_epsilon_that_breaks_it_by_brute_force(name: str) -> None:
    images, labels, keys = some_images(48)
    model = trained_net()
    result = ascend_with(OURS[name], model, images, labels, epsilons=GRID, keys=keys, batch_size=16)
    assert torch.equal(result.broken_at, union_by_hand(OURS[name], model, images, labels, keys, GRID))
    assert len(result.broken_at.unique()) > 2  # not all at once


@pytest.mark.parametrize("name", OURS)
def test_batch_size_and_order_do_not_matter_to_our_attacks(name: str) -> None:
    images, labels, keys = some_images(32)
    model = trained_net()
    reference = ascend_with(OURS[name], model, images, labels, epsilons=GRID[:2], keys=keys, batch_size=32)
    small = ascend_with(OURS[name], model, images, labels, epsilons=GRID[:2], keys=keys, batch_size=7)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    shuffled = ascend_with(OURS[name], model, images[order], labels[order], epsilons=GRID[:2], keys=keys[order], batch_size=32)
    assert torch.equal(small.broken_at, reference.broken_at)
    assert torch.equal(shuffled.broken_at, reference.broken_at[order])
    assert (small.forwards, small.backwards) == (reference.forwards, reference.backwards)


@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_broken_images_are_misclassified_within_the_epsilon_that_broke_them(name: str) -> None:
    images, labels, keys = some_images(24)
    model = trained_net()
    perturb = OURS[name] if name in OURS else theirs(name)
    result = ascend_with(perturb, model, images, labels, epsilons=GRID, keys=keys, batch_size=24)
    again = ascend_with(perturb, model, images, labels, epsilons=GRID, keys=keys, batch_size=24)
    broken = torch.isfinite(result.broken_at)
    assert (broken & (result.broken_at > 0)).any()
    assert torch.equal(scoring_forward(model, result.adversarial, batch_size=24).argmax(1) != labels, broken)
    distance = (result.adversarial - images).abs().flatten(1).amax(1)
    assert (distance[broken] <= result.broken_at[broken] + 1e-6).all()
    assert result.refuted == [0] * len(GRID)
    assert torch.equal(again.broken_at, result.broken_at)


def test_attacks_that_return_the_clean_image_leave_survivors_clean() -> None:
    images, labels, keys = some_images(24)
    result = ascend_with(theirs("Square"), trained_net(), images, labels, epsilons=[0.02], keys=keys, batch_size=24)
    survivors = torch.isinf(result.broken_at)
    assert survivors.any()
    assert torch.equal(result.adversarial[survivors], images[survivors])


def test_carry_over_and_passes_are_counted_by_hand() -> None:
    images, labels, keys = planted([0.02, 0.02, 0.07, 0.2, -0.05])
    seen: list[list[int]] = []

    def attack(model: nn.Module, images: Tensor, labels: Tensor, *, epsilons: Sequence[float], keys: Tensor) -> Tensor:
        seen.append(keys.tolist())
        return fgsm.perturb(model, images, labels, epsilons=epsilons, keys=keys)

    result = ascend_with(attack, Linear(), images, labels, epsilons=[0.0, 0.025, 0.05, 0.1], keys=keys, batch_size=3)
    assert result.broken_at.tolist() == pytest.approx([0.025, 0.025, 0.1, float("inf"), 0.0])
    assert result.carried_over == [1, 1, 3, 3]
    assert seen == [[0, 1], [2, 3], [2, 3], [2, 3]]  # 4 images as 2 + 2, then the 2 survivors, twice; each with its key
    # clean 5; each attacked image once by FGSM and once by scoring; each survivor once more with gradients
    assert result.forwards == 5 + 2 * (4 + 2 + 2) + (2 + 2 + 1)
    assert result.backwards == 4 + 2 + 2
    assert result.achieved_epsilon[0] is None
    assert result.achieved_epsilon[1:] == pytest.approx([0.025, 0.05, 0.1], abs=1e-6)
    assert result.zero_gradient == [0, 0, 0, 0]


def test_what_broke_stays_broken_for_an_attack_that_fails_at_larger_epsilons() -> None:
    def only_small(model: nn.Module, images: Tensor, labels: Tensor, *, epsilons: Sequence[float], keys: Tensor) -> Tensor:
        used = [min(epsilon, 0.05) if epsilon < 0.06 else 0.0 for epsilon in epsilons]
        return fgsm.perturb(model, images, labels, epsilons=used, keys=keys)

    images, labels, keys = planted([0.02, 0.04, 0.08])
    result = ascend_with(only_small, Linear(), images, labels, epsilons=[0.025, 0.05, 0.1], keys=keys, batch_size=8)
    assert result.broken_at.tolist() == pytest.approx([0.025, 0.05, float("inf")])
    assert result.achieved_epsilon == pytest.approx([0.025, 0.05, 0.0], abs=1e-6)


def test_no_attack_is_called_once_all_are_broken_or_where_there_are_no_images() -> None:
    images, labels, keys = planted([0.01, 0.01])
    result = ascend_with(fgsm.perturb, Linear(), images, labels, epsilons=[0.05, 0.1], keys=keys, batch_size=8)
    assert (result.carried_over, result.achieved_epsilon[1], result.backwards) == ([0, 2], None, 2)
    empty = ascend_with(fgsm.perturb, Linear(), images[:0], labels[:0], epsilons=[0.05], keys=keys[:0], batch_size=8)
    assert (empty.carried_over, empty.achieved_epsilon, empty.forwards) == ([0], [None], 0)


def test_the_model_is_left_as_found_and_without_hooks() -> None:
    images, labels, keys = some_images(8)
    model = trained_net().train()
    model.features.eval()
    modes = [module.training for module in model.modules()]
    ascend_with(pgd.perturb, model, images, labels, epsilons=[0.1], keys=keys, batch_size=8)
    assert [module.training for module in model.modules()] == modes
    assert not model._forward_hooks
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_break_that_only_the_attack_sees_does_not_count_and_is_told() -> None:
    class KeepsItsHead(nn.Module):
        """Errs only while gradients are recorded, as a defense that differs between attack and scoring would."""

        def forward(self, images: Tensor) -> Tensor:
            score = images.mean((1, 2, 3)) + 1 - 4 * images.requires_grad
            return torch.stack([score, -score], dim=1)

    images, labels, keys = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64), torch.arange(3)
    result = ascend_with(pgd.perturb, KeepsItsHead(), images, labels, epsilons=[0.1, 0.2], keys=keys, batch_size=2)
    assert torch.isinf(result.broken_at).all()
    assert result.refuted == [3, 3]


def leaves_the_ball(model: nn.Module, images: Tensor, labels: Tensor, *, epsilons: Sequence[float], keys: Tensor) -> Tensor:
    return (images + 2 * epsilons[0]).clamp(0, 1)[None]


def leaves_the_range(model: nn.Module, images: Tensor, labels: Tensor, *, epsilons: Sequence[float], keys: Tensor) -> Tensor:
    return (torch.zeros_like(images) - 0.01)[None] if epsilons[0] >= 0.6 else images[None]


def forgets_the_grid(model: nn.Module, images: Tensor, labels: Tensor, *, epsilons: Sequence[float], keys: Tensor) -> Tensor:
    return images


def is_not_finite(model: nn.Module, images: Tensor, labels: Tensor, *, epsilons: Sequence[float], keys: Tensor) -> Tensor:
    return torch.full_like(images, torch.nan)[None]


@pytest.mark.parametrize(
    ("attack", "epsilon", "message"),
    [
        (leaves_the_ball, 0.1, r"left the ball: \|delta\| is 0.2 at epsilon 0.1"),
        (leaves_the_range, 0.7, r"left \[0, 1\]"),
        (forgets_the_grid, 0.1, "one slice per epsilon"),
        (is_not_finite, 0.1, "not finite"),
    ],
)
def test_an_attack_that_cheats_is_refused(attack: Perturb, epsilon: float, message: str) -> None:
    images, labels, keys = planted([0.2, 0.2])
    with pytest.raises(ValueError, match=message):
        ascend_with(attack, Linear(), images, labels, epsilons=[epsilon], keys=keys, batch_size=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epsilons": [0.1, 0.1]}, "strictly ascending"), ({"batch_size": 0}, "batch_size must be a whole number"), ({"epsilons": [8.0]}, "8/255")],
)
def test_a_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    images, labels, keys = planted([0.1])
    given = {"epsilons": [0.1], "keys": keys, "batch_size": 4, **change}
    with pytest.raises(ValueError, match=message):
        ascend_with(fgsm.perturb, Linear(), images, labels, **given)  # type: ignore[arg-type]


# losses of the native attacker


def test_dlr_is_the_margin_over_the_spread_and_knows_neither_scale_nor_shift() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0], [1.0, 4.0, 2.0, 0.0]])
    labels = torch.tensor([0, 0])
    assert dlr(logits, labels).tolist() == pytest.approx([-(4 - 3) / (4 - 1), (4 - 1) / (4 - 1)])
    assert torch.allclose(dlr(1000 * logits - 50, labels), dlr(logits, labels))
    with pytest.raises(ValueError, match="compares three logits, got 2"):
        dlr(logits[:, :2], labels)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_every_loss_is_climbed_to_about_the_same_end(loss: str) -> None:
    images, labels, keys = some_images(48)
    reference = ascend(trained_net(), images, labels, epsilons=GRID, keys=keys)
    result = ascend(trained_net(), images, labels, epsilons=GRID, keys=keys, config=Config(loss=loss))
    assert (result.broken_at != reference.broken_at).sum() <= (0 if loss == "margin" else 4)
    assert torch.isfinite(result.broken_at).float().mean() > 0.9


class Saturated(nn.Module):
    """Logits so far apart that the cross-entropy of every image is exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained_net()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) * 1e4


@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_saturated_logits_hide_from_cross_entropy_and_from_no_margin(loss: str) -> None:
    images, labels, keys = some_images(32)
    reference = ascend(trained_net(), images, labels, epsilons=GRID, keys=keys, config=Config(loss=loss))
    with pytest.raises(ValueError, match="exactly zero for all 32 images"):
        ascend(Saturated(), images, labels, epsilons=GRID, keys=keys, config=Config(loss="ce"))
    result = ascend(Saturated(), images, labels, epsilons=GRID, keys=keys, config=Config(loss=loss))
    assert result.zero_gradient == [0] * len(GRID)
    assert torch.equal(result.broken_at, reference.broken_at)


def test_a_loss_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="loss must be one of ce, margin, dlr, got 'cw'"):
        Config(loss="cw")


class Linear(nn.Module):
    """Two classes on 2x2 images: class 0 where s = sum(w * (x - 0.5)) > 0, so an image breaks at s / sum(|w|)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, -4.0]))  # sum of |w| is 10

    def forward(self, images: Tensor) -> Tensor:
        score = (images - 0.5).flatten(1) @ self.weight
        return torch.stack([score, -score], dim=1)


def planted(breaking_epsilons: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mid-grey images of class 0 with their last pixel moved so that each breaks at the given epsilon, and keys."""
    images = torch.full((len(breaking_epsilons), 1, 2, 2), 0.5)
    images[:, 0, 1, 1] -= 10 * torch.tensor(breaking_epsilons) / 4  # s = 10 * epsilon, w = -4 there
    return images, torch.zeros(len(images), dtype=torch.int64), torch.arange(len(images))
