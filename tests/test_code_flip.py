"""The attack on a codebook: its margins by hand, what it flips, and what a defense hands out for it."""

from functools import partial
from typing import Any

import pytest
import torch
from small_models import some_images, trained_net
from torch import Tensor, nn

from attacks import code_flip, pgd
from attacks._keyed import sample_keys
from attacks._white_box import ascend_with
from attacks.code_flip import CEILING, Config, code_margins, nearest_codes
from models import unet, vq_vae, vqunet
from models._quantizers import straight_through
from sweeper.evaluations import Cell
from sweeper.materials import SampleSet
from sweeper.scales import evaluation
from sweeper.scoring import Defense, score_adaptive

CODES = torch.tensor([[0.0], [1.0], [3.0]])  # mean squared distance between two of them: (1 + 9 + 4) / 3
BETWEEN = 14 / 3
SHAPE = (1, 16, 16)


def encodings(*values: float) -> Tensor:
    """Return one image's encodings of length 1, float (1, 1, 1, W)."""
    return torch.tensor(values).view(1, 1, 1, -1)


def images(count: int = 6) -> Tensor:
    return torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(1))


def quantized(module: Any = vqunet, **options: Any) -> Defense:
    """Return a defense of an untrained purifier, whose codes lie on encodings, and an untrained classifier."""
    torch.manual_seed(0)
    small = {"codebook_size": 16} if module is vq_vae else {"depth": 2, "base_width": 4} | ({} if module is unet else {"codebook_size": 16})
    purifier: Any = module.build(module.Config(**small, **options), SHAPE, 10)
    if hasattr(purifier, "initialize"):
        purifier.initialize(images(8), torch.Generator().manual_seed(0))
    linear = nn.Linear(256, 10)
    defense = Defense(purifier, nn.Sequential(nn.Flatten(), linear)).eval()
    with torch.no_grad():
        linear.bias -= defense(images(8)).mean(0)  # else one class is said of all
    return defense


class Rounded(nn.Module):
    """Every pixel is an encoding and 0 and 1 are the codes; class 1 where most pixels are nearer to 1. Its gradient is straight-through."""

    def __init__(self) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.tensor([[0.0], [1.0]]))

    def logits_and_codes(self, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        score = straight_through(images, images.detach().round()).mean((1, 2, 3)) - 0.5
        return torch.stack([-score, score], 1), [(images, self.codebook)]

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_and_codes(images)[0]


# The margins


def test_a_margin_is_worked_out_by_hand() -> None:
    encoded = encodings(0.3, 0.3, 1.9)
    clean = torch.tensor([[[0, 1, 1]]])
    # 0.09 - 0.49 as it was; 0.49 - 0.09 has flipped, beyond the ceiling; 0.81 - 1.21 as it was
    expected = ((-0.4) / BETWEEN + CEILING + (-0.4) / BETWEEN) / 3
    assert code_margins(encoded, CODES, clean).tolist() == pytest.approx([expected])
    assert nearest_codes(encoded, CODES).tolist() == [[[0, 0, 1]]]


def test_each_position_is_pulled_to_its_nearest_other_code_until_it_has_flipped() -> None:
    encoded = encodings(0.3, 0.3, 1.9, 0.9).requires_grad_()
    code_margins(encoded, CODES, torch.tensor([[[0, 1, 1, 1]]])).sum().backward()
    assert encoded.grad is not None
    # of |a - e|² - |a - f|² the gradient is 2 (f - e): from 0 to 1, none, from 1 to 3, from 1 to 0; averaged over four
    assert encoded.grad.flatten().tolist() == pytest.approx([2 / BETWEEN / 4, 0, 4 / BETWEEN / 4, -2 / BETWEEN / 4])


def test_a_margin_has_no_unit_and_is_that_of_each_image_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    encoded, codebook = torch.randn((3, 4, 2, 2), generator=generator), torch.randn((5, 4), generator=generator)
    clean = torch.randint(0, 5, (3, 2, 2), generator=generator)
    margins = code_margins(encoded, codebook, clean)
    assert torch.allclose(code_margins(7 * encoded, 7 * codebook, clean), margins, atol=1e-6)
    assert torch.allclose(code_margins(encoded[1:2], codebook, clean[1:2]), margins[1:2], atol=1e-6)
    distances = torch.cdist(encoded.flatten(2).mT, codebook).square()  # (3, 4, 5)
    own = distances.gather(2, clean.flatten(1)[..., None])[..., 0]
    other = torch.stack([distances[..., [k for k in range(5) if k != code]].amin(2) for code in range(5)], 2)
    between = torch.pdist(codebook).square().mean()
    by_hand = ((own - other.gather(2, clean.flatten(1)[..., None])[..., 0]) / between).clamp(max=CEILING).mean(1)
    assert torch.allclose(margins, by_hand, atol=1e-5)


def test_codes_that_are_all_equal_pull_nowhere() -> None:
    encoded = encodings(0.3, 0.9).requires_grad_()
    margins = code_margins(encoded, torch.ones(3, 1), torch.zeros((1, 1, 2), dtype=torch.int64))
    margins.sum().backward()
    assert margins.tolist() == [0]
    assert encoded.grad is not None
    assert not encoded.grad.any()


# The attack


@pytest.mark.parametrize(("epsilon", "expected"), [(0.04, 0.49), (0.2, None)])
def test_a_toy_quantizer_is_pushed_over_the_boundary_as_soon_as_epsilon_reaches_it(epsilon: float, expected: float | None) -> None:
    data = torch.full((3, 1, 2, 2), 0.45)  # 0.05 below the boundary
    labels, keys = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    found = code_flip.perturb(Rounded(), data, labels, epsilons=[epsilon], keys=keys, config=Config(with_cross_entropy=False))[0]
    if expected is None:
        assert (found > 0.5).all()
        assert (Rounded()(found).argmax(1) == 1).all()
    else:
        assert torch.allclose(found, torch.tensor(expected))  # as near as the ball allows


def test_without_codes_it_is_pgd_on_cross_entropy_whatever_the_weight() -> None:
    data, labels, keys = some_images()
    net = trained_net()

    def attacked(model: nn.Module, **options: Any) -> Tensor:
        return code_flip.perturb(model, data, labels, epsilons=[0.05, 0.1], keys=keys, config=Config(**options))

    class WithoutCodes(nn.Module):
        def logits_and_codes(self, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
            return net(images), [(images, torch.zeros(1, 1))]  # a single code: nothing to flip

        def forward(self, images: Tensor) -> Tensor:
            return self.logits_and_codes(images)[0]

    reference = attacked(net, weight=0)
    for model in (net, WithoutCodes()):
        assert torch.equal(attacked(model, weight=100), reference)
        assert torch.equal(attacked(model, with_cross_entropy=False), reference)


@pytest.mark.parametrize("with_cross_entropy", [True, False])
def test_it_changes_more_indices_than_pgd_on_cross_entropy_at_every_depth(with_cross_entropy: bool) -> None:
    defense, data = quantized(), images(16)
    labels, keys = defense(data).argmax(1), sample_keys(0, [str(i) for i in range(16)])

    def changed(perturb: Any, config: Any) -> Tensor:
        adversarial = perturb(defense, data, labels, epsilons=[0.05], keys=keys, config=config)[0]
        pairs = zip(defense.logits_and_codes(data)[1], defense.logits_and_codes(adversarial)[1], strict=True)
        return torch.stack([(nearest_codes(*clean) != nearest_codes(*other)).float().mean() for clean, other in pairs])

    by_pgd = changed(pgd.perturb, pgd.Config())
    flipped = changed(code_flip.perturb, Config(weight=10.0, with_cross_entropy=with_cross_entropy))
    assert len(by_pgd) == 2
    assert (flipped > 1.2 * by_pgd).all(), (flipped, by_pgd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight must be a finite number of at least 0, got -1.0"),
        ({"weight": float("inf")}, "got inf"),
        ({"weight": 0.0, "with_cross_entropy": False}, "without cross-entropy weight must be above 0, got 0"),
        ({"num_steps": 0}, "num_steps must be a whole number"),
    ],
)
def test_an_unusable_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


# What a defense hands out


@pytest.mark.parametrize("quantizer", ["paper", "ema", "cosine", "rotation", "vq_vae"])
def test_a_defense_hands_out_what_its_search_for_codes_compares(quantizer: str) -> None:
    defense = quantized(vq_vae) if quantizer == "vq_vae" else quantized(quantizer=quantizer, code_dim=3)
    logits, levels = defense.logits_and_codes(images())
    latents = defense.purifier.purify_with_latents(images())[1]  # pyright: ignore[reportCallIssue]
    assert torch.equal(logits, defense(images()))
    assert len(levels) == (1 if quantizer == "vq_vae" else 2)
    for (encoded, codebook), latent in zip(levels, latents, strict=True):
        assert torch.equal(nearest_codes(encoded, codebook), latent.indices)
        if quantizer == "cosine":
            assert torch.allclose(codebook.norm(dim=1), torch.ones(16))
            assert torch.allclose(encoded.norm(dim=1), torch.ones(()))


@pytest.mark.parametrize("purifier", ["fsq", "lfq", "unet", "identity"])
def test_without_a_learned_codebook_there_are_no_codes(purifier: str) -> None:
    if purifier == "identity":
        defense = Defense(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(256, 10)))
    else:
        defense = quantized(unet) if purifier == "unet" else quantized(quantizer=purifier)
    logits, levels = defense.logits_and_codes(images())
    assert torch.equal(logits, defense(images()))
    assert levels == []


def test_depths_that_are_not_quantized_are_left_out() -> None:
    _, levels = quantized(vq_levels=(2,)).logits_and_codes(images())
    assert [encoded.shape[1] for encoded, _ in levels] == [16]


def test_the_gradient_from_a_deeper_encoding_is_straight_through() -> None:
    defense = quantized()
    purifier: Any = defense.purifier
    leaf, other = images().requires_grad_(), images().requires_grad_()
    _, ((first, codes), (second, _)) = defense.logits_and_codes(leaf)
    second.square().sum().backward()
    features = purifier.encoders[0](purifier.stem(other))
    chosen = codes[nearest_codes(first, codes)].movedim(-1, 1)
    purifier.encoders[1](features + (chosen - features).detach()).square().sum().backward()
    assert leaf.grad is not None
    assert other.grad is not None
    assert leaf.grad.abs().max() > 0
    assert torch.allclose(leaf.grad, other.grad, rtol=1e-3, atol=1e-6)


# In an evaluation


@pytest.mark.parametrize("with_cross_entropy", [True, False])
def test_passes_through_the_door_with_codes_are_counted_by_hand(with_cross_entropy: bool) -> None:
    model, data, labels = Rounded(), torch.full((3, 1, 2, 2), 0.45), torch.zeros(3, dtype=torch.int64)
    perturb = partial(code_flip.perturb, config=Config(num_steps=4, with_cross_entropy=with_cross_entropy))
    found = ascend_with(perturb, model, data, labels, epsilons=[0.01, 0.02], keys=torch.arange(3), batch_size=2)
    assert torch.isinf(found.broken_at).all()
    # 3 clean; at each epsilon the codes of the clean image, 4 steps and the last iterate, then scored without and with gradients
    assert found.forwards == 3 * (1 + 2 * (1 + 4 + 1 + 1 + 1))
    assert found.backwards == 3 * 2 * 4
    assert "logits_and_codes" not in vars(model)


@pytest.mark.parametrize("threat", ["adaptive", "adaptive_bpda", "adaptive_soft"])
def test_it_runs_white_box_under_every_adaptive_threat(threat: str) -> None:
    entry = {"attack": "code_flip", "threats": [threat], "options": {"num_steps": 3}}
    cell: Cell = evaluation("standard", "digits", "small", [entry]).cells[-1]
    assert (cell.threat, cell.attack, cell.options["weight"]) == (threat, "code_flip", Config().weight)
    defense, data = quantized(), images(64)
    best_two = defense(data).topk(2, 1).values
    data = data[(best_two[:, 0] - best_two[:, 1]).argsort()[:4]]  # those that it is least sure of
    keys, none = sample_keys(0, list("abcd")), torch.zeros(4, dtype=torch.int64)
    samples = SampleSet("test", "test", torch.arange(4), tuple("abcd"), data, defense(data).argmax(1), keys, none)
    found = score_adaptive(defense, "original", samples, cell, content="c", batch_size=4)
    assert found.broken_at is not None
    assert (found.broken_at > 0).all()
    assert torch.isfinite(found.broken_at).any()
