"""Outcomes per image and the figures of the latents, by hand on tiny tensors."""

import math

import pytest
import torch
from torch import Tensor, nn

from attacks._keyed import sample_keys
from models._blocks import Latent
from sweeper.evaluations import Cell
from sweeper.materials import AdversarialSet, SampleSet, _assign, counted
from sweeper.options import attack_options
from sweeper.scoring import Defense, predict, purify, score_adaptive, score_static

LABELS = torch.tensor([0, 1, 0, 1])


class Brightness(nn.Module):
    """Class 1 where the mean pixel is above 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


class Rounding(nn.Module):
    """A purifier with one quantized depth: the pixels themselves, and the nearest of four levels."""

    def purify_with_latents(self, images: Tensor) -> tuple[Tensor, list[Latent]]:
        indices = (images[:, 0] * 3).round().long()
        quantized = indices[:, None] / 3
        return images, [Latent(images, quantized, indices, 4)]

    def forward(self, images: Tensor) -> Tensor:
        return images


def samples(values: list[float]) -> SampleSet:
    images = torch.tensor(values)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    ids = tuple(f"image-{i}" for i in range(len(values)))
    labels = LABELS[: len(values)]
    return SampleSet("test-4-x", "test", torch.arange(len(values)), ids, images, labels, sample_keys(0, ids), torch.zeros_like(labels))


def shifted(chosen: SampleSet, *epsilons: float) -> AdversarialSet:
    deltas = torch.stack([torch.full_like(chosen.images, epsilon) for epsilon in epsilons]).to(torch.float16)
    return AdversarialSet(chosen, epsilons, deltas, "crafted", 0.0, 0, 0)


def test_outcomes_are_counted_per_image_classifier_and_epsilon() -> None:
    chosen = samples([0.2, 0.8, 0.45, 0.55])
    found = score_static(nn.Identity(), {"original": Brightness()}, chosen, shifted(chosen, 0.01, 0.1), batch_size=3, unfiltered=Brightness())
    assert found.correct["original"].tolist() == [[True] * 4, [True, True, False, True]]
    assert torch.equal(found.correct["original"], found.correct["unfiltered"])
    assert found.achieved_epsilon == pytest.approx([0.01, 0.1], abs=1e-4)  # as half precision holds them
    assert (found.crafted_on, found.backwards, found.forwards) == ("crafted", 0, 4 * 3)


def test_a_purifier_without_latents_has_image_figures_at_depth_zero() -> None:
    chosen = samples([0.2, 0.8])
    found = score_static(nn.Identity(), {"original": Brightness()}, chosen, shifted(chosen, 0.1), batch_size=2)
    (row,) = found.latents
    assert (row["depth"], row["epsilon"]) == (0, 0.1)
    assert row["image_l1"] == pytest.approx(0.1, abs=1e-4)
    assert row["image_l1_clean"] == 0
    assert row["psnr"] == pytest.approx(20, abs=0.01)  # -10 log10(0.1 ** 2)


def test_latent_figures_are_zero_without_a_perturbation() -> None:
    chosen = samples([0.2, 0.8, 0.5, 0.1])
    for adversarial in (None, shifted(chosen, 0.0)):
        (row,) = score_static(Rounding(), {"original": Brightness()}, chosen, adversarial, batch_size=3).latents
        assert [row[name] for name in ("l1_pre", "l1_post", "rel_pre", "rel_post", "index_change", "image_l1", "mse")] == [0] * 7
        assert row["psnr"] is None  # of equal images it is infinite
        assert row["ssim"] == pytest.approx(1)


def test_latent_figures_are_those_worked_out_by_hand() -> None:
    chosen = samples([0.3, 0.7])  # nearest of 0, 1/3, 2/3, 1: the second and the third
    (row,) = score_static(Rounding(), {"original": Brightness()}, chosen, shifted(chosen, 0.25), batch_size=1).latents
    # 0.55 is nearest to 2/3, 0.95 to 1: both indices change, each by one level
    assert row["l1_pre"] == pytest.approx(0.25, abs=1e-6)
    assert row["l1_post"] == pytest.approx(1 / 3)
    assert row["rel_pre"] == pytest.approx(0.25 / 0.5, abs=1e-6)
    assert row["rel_post"] == pytest.approx((1 / 3) / 0.5)
    assert row["index_change"] == 100
    assert row["quantization_error"] == pytest.approx(((2 / 3 - 0.55) ** 2 + 0.05**2) / 2, abs=1e-6)
    assert (row["perplexity"], row["usage"]) == (pytest.approx(2), 0.5)  # two of four codes, equally
    assert row["mse"] == pytest.approx(0.0625, abs=1e-6)


def test_figures_do_not_depend_on_the_batch_size() -> None:
    chosen = samples([0.2, 0.8, 0.45, 0.55])
    rows = [score_static(Rounding(), {"original": Brightness()}, chosen, shifted(chosen, 0.1), batch_size=size).latents[0] for size in (1, 3, 4)]
    for row in rows[1:]:
        assert row == pytest.approx(rows[0], rel=1e-4)


def adaptive(values: list[float], *epsilons: float) -> tuple[list[float], list[list[bool]], list[int] | None]:
    cell = Cell(threat="adaptive", attack="pgd", options=attack_options("pgd", "adaptive", {"num_steps": 4}), epsilons=epsilons)
    found = score_adaptive(Defense(nn.Identity(), Brightness()), "original", samples(values), cell, content="content", batch_size=128)
    assert found.broken_at is not None
    return found.broken_at.tolist(), found.correct["original"].tolist(), found.carried_over


def test_an_adaptive_attack_says_at_which_epsilon_each_image_breaks() -> None:
    broken_at, correct, carried_over = adaptive([0.45, 0.9, 0.7, 0.7], 0.1, 0.3)  # the third is wrong without an attack
    assert broken_at == [pytest.approx(0.1), math.inf, 0, pytest.approx(0.3)]
    assert correct == [[False, True, False, True], [False, True, False, False]]
    assert carried_over == [1, 2]


@pytest.mark.parametrize("epsilon", [0.1, 0.3, 0.7, 1 / 255, 2 / 255, 8 / 255])
def test_an_image_broken_at_an_epsilon_is_wrong_there_although_float32_may_round_it_up(epsilon: float) -> None:
    start = 0.5 - epsilon / 2
    broken_at, correct, _ = adaptive([start], epsilon)
    assert broken_at == [torch.tensor(epsilon).item()]
    assert correct == [[False]]


def test_a_shared_set_stays_in_the_ball_although_half_precision_rounds() -> None:
    chosen = samples([0.0, 1.0, 0.5, 0.03])
    shared = shifted(chosen, 0.1, 8 / 255)
    for index, epsilon in enumerate(shared.epsilons):
        images = shared.images(index)
        assert (images - chosen.images).abs().max() <= epsilon + 1e-7
        assert images.min() >= 0
        assert images.max() <= 1
        assert shared.achieved(index) <= epsilon + 1e-7


def test_images_are_spread_evenly_over_sources_within_each_class_whatever_their_order() -> None:
    labels = torch.arange(60) % 4
    ids = [f"image-{i}" for i in range(60)]
    owner = _assign(ids, labels, 3)
    for label in range(4):
        assert torch.bincount(owner[labels == label], minlength=3).tolist() == [5, 5, 5]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    again = _assign([ids[i] for i in order], labels[order], 3)
    assert torch.equal(again, owner[order])


def test_forward_and_backward_passes_are_counted_in_images() -> None:
    module, counts = nn.Linear(3, 2), {"forwards": 0, "backwards": 0}
    with counted(module, counts):
        module(torch.ones(5, 3)).sum().backward()
        with torch.no_grad():
            module(torch.ones(4, 3))
    module(torch.ones(9, 3))
    assert counts == {"forwards": 9, "backwards": 5}


def test_purified_images_and_predictions_do_not_depend_on_the_batch_size() -> None:
    chosen = samples([0.2, 0.8, 0.45, 0.55])
    assert torch.equal(purify(Rounding(), chosen.images, 3), chosen.images)
    assert predict(Brightness(), chosen.images, 3).tolist() == [0, 1, 0, 1]
