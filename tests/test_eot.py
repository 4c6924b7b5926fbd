"""Random defenses: attacked through the expectation of their gradient, judged by a majority, and the same whatever ran before."""

import math
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from small_models import some_images, trained_net
from small_sweep import SETTINGS, Silent
from torch import Tensor, nn

from attacks._ascending import Ascent, Config, ascend
from attacks._linf import cross_entropy, input_gradient, margin
from attacks._randomness import logit_spread
from sweeper import cells, strips
from sweeper.artifacts import Artifacts
from sweeper.datasets import Splits
from sweeper.evaluations import EvaluationConfig
from sweeper.materials import Materials
from sweeper.plan import Plan, from_space
from sweeper.results import Results
from sweeper.scales import evaluation
from sweeper.sweep import inline, run_sweep
from sweeper.trial import run_trial

WEIGHT = torch.tensor([1.0, -2.0, 3.0, -4.0])  # sum of |w| is 10, its length sqrt(30)
SIGMA = 0.1


class NoisyLinear(nn.Module):
    """Two classes on 2x2 images, class 0 where s = sum(w * (x + n - 0.5)) > 0, n drawn anew for every pixel in every pass."""

    def __init__(self, sigma: float = SIGMA) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, images: Tensor) -> Tensor:
        score = (images + self.sigma * torch.randn(images.shape) - 0.5).flatten(1) @ WEIGHT
        return torch.stack([score, -score], 1)


class Jittery(nn.Module):
    """A linear defense on 8x8 images whose gradient is of a random sign at every pixel in every pass, but for a small part that is right.

    Class 0 where the mean of sign_i * x_i is positive. A pass gives sign_i / 2 + r_i at pixel i, r_i being 1 or -1.
    """

    def forward(self, images: Tensor) -> Tensor:
        signs = torch.ones(64)
        signs[::2] = -1
        wrong = 2 * torch.randint(0, 2, images.flatten(1).shape) - 1
        seen = (images.flatten(1) * (0.5 * signs + wrong)).sum(1)
        score = (images.flatten(1) * signs).mean(1).detach() + seen - seen.detach()
        return torch.stack([score, -score], 1)


class WrongTenths(nn.Module):
    """Misclassifies an image of brightness b in the first 10 b of every ten passes; keeps the number of passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        is_wrong = (10 * images.mean((1, 2, 3))).round() > self.passes % 10
        self.passes += 1
        return torch.stack([~is_wrong, is_wrong], 1).float()


def grey(*values: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return images of one brightness each, labels 0 and keys."""
    images = torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return images, torch.zeros(len(values), dtype=torch.int64), torch.arange(len(values))


# The averaged gradient


def test_one_sample_is_bit_for_bit_one_forward_and_backward_pass() -> None:
    images, labels, _ = some_images()
    model, leaf = trained_net().requires_grad_(False), images.clone().requires_grad_()
    logits = model(leaf)
    (expected,) = torch.autograd.grad(cross_entropy(logits, labels).sum(), leaf)
    found = input_gradient(model, images, labels, num_samples=1)
    assert torch.equal(found.logits, logits)
    assert torch.equal(found.objective, cross_entropy(logits, labels))
    assert torch.equal(found.gradient, expected)


def test_the_averaged_gradient_approaches_the_expected_one() -> None:
    images, labels, _ = grey(0.6, 0.5, 0.4)
    torch.manual_seed(0)
    found = input_gradient(NoisyLinear(), images, labels, num_samples=4000)
    # s is normal about sum(w) (b - 0.5) with standard deviation sigma |w|; the cross-entropy log(1 + exp(-2 s)) falls by 2 sigmoid(-2 s) w
    center = -2 * (images[:, 0, 0, 0] - 0.5)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    slope = (2 * torch.sigmoid(-2 * (center[:, None] + SIGMA * math.sqrt(30) * z)) * density).sum(1).float()
    expected = -slope[:, None] * WEIGHT
    assert torch.allclose(found.gradient.flatten(1), expected, rtol=0.03)
    assert torch.allclose(found.logits[:, 0], center, atol=4 * SIGMA * math.sqrt(30 / 4000))
    single = input_gradient(NoisyLinear(), images, labels).gradient.flatten(1)
    assert not torch.allclose(single, expected, rtol=0.03)


def test_what_is_the_same_in_every_pass_is_averaged_to_itself() -> None:
    images, labels, _ = grey(0.6, 0.4)
    found = input_gradient(NoisyLinear(), images, labels, margin, num_samples=7)
    assert torch.allclose(found.gradient.flatten(1), -2 * WEIGHT.expand(2, 4))  # noise moves the margin, not its gradient


def test_no_sample_is_refused() -> None:
    images, labels, _ = grey(0.6)
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1, got 0"):
        input_gradient(NoisyLinear(), images, labels, num_samples=0)
    with pytest.raises(ValueError, match="num_eot_samples must be a whole number of at least 1, got 0"):
        Config(num_eot_samples=0)


# The attacker


def test_a_noisy_gradient_stops_one_sample_and_not_twenty() -> None:
    torch.manual_seed(0)
    images = torch.full((12, 1, 8, 8), 0.5)
    images.flatten(1)[:, ::2] -= 0.07  # s is 0.035, so the smallest epsilon is 0.035; chance alone reaches about an eighth of the ball
    labels, keys = torch.zeros(12, dtype=torch.int64), torch.arange(12)
    one, twenty = (
        ascend(Jittery(), images, labels, epsilons=[0.03, 0.05], keys=keys, config=Config(num_eot_samples=samples)).broken_at for samples in (1, 20)
    )
    assert torch.isinf(one).all()
    assert twenty.tolist() == pytest.approx([0.05] * 12)


def test_most_of_ten_evaluations_decide_and_a_tie_leaves_an_image_correct() -> None:
    images, labels, keys = grey(0.0, 0.5, 0.6, 1.0)
    found = ascend(WrongTenths(), images, labels, epsilons=[0.0], keys=keys, config=Config(num_eot_samples=2))
    assert found.broken_at.tolist() == [math.inf, math.inf, 0, 0]
    assert found.mean_accuracy == pytest.approx([(1 + 0.5 + 0.4 + 0) / 4])
    assert found.forwards == 4 * 10
    single = ascend(WrongTenths(), images, labels, epsilons=[0.0], keys=keys)  # the first evaluation alone
    assert single.broken_at.tolist() == [math.inf, 0, 0, 0]
    assert single.mean_accuracy is None


def test_an_image_that_leaves_by_its_mean_and_is_held_by_the_vote_is_refuted() -> None:
    class RarelyFarOff(nn.Module):
        """Errs by far in every fifth pass and narrowly is right in the others: wrong on average, right by majority."""

        passes = 0

        def forward(self, images: Tensor) -> Tensor:
            self.passes += 1
            score = images.mean((1, 2, 3)) + (-10 if self.passes % 5 == 0 else 0.1)
            return torch.stack([score, -score], 1)

    images, labels, keys = grey(0.5, 0.5)
    found = ascend(RarelyFarOff(), images, labels, epsilons=[0.1, 0.2], keys=keys, config=Config(num_restarts=1, num_eot_samples=5))
    assert found.broken_at.tolist() == [math.inf, math.inf]
    assert found.refuted == [2, 2]
    assert found.mean_accuracy == pytest.approx([0.8, 0.8])


def test_passes_in_expectation_are_counted_by_hand() -> None:
    images, labels, keys = grey(0.1, 0.1, 0.1)  # s is 0.8, so they break at 0.08
    config = Config(num_steps=4, num_restarts=1, num_eot_samples=3)
    found = ascend(NoisyLinear(sigma=0.0), images, labels, epsilons=[0.02, 0.05], keys=keys, config=config)
    assert torch.isinf(found.broken_at).all()
    # ten votes on the clean images; at each epsilon 3 passes for 4 steps and a look at the last iterate, then ten votes on the survivors
    assert found.forwards == 3 * (10 + 2 * (3 * 5 + 10))
    assert found.backwards == 3 * 2 * 3 * 4


def test_in_expectation_a_deterministic_defense_breaks_where_it_always_did() -> None:
    images, labels, keys = some_images(32)

    def attacked(**options: Any) -> Ascent:
        return ascend(trained_net(), images, labels, epsilons=[0.05, 0.1, 0.3], keys=keys, config=Config(**options))

    once, thrice = attacked(), attacked(num_eot_samples=3)
    assert torch.equal(thrice.broken_at, once.broken_at)
    survived = [float((once.broken_at > epsilon).float().mean()) for epsilon in (0.05, 0.1, 0.3)]
    assert thrice.mean_accuracy == pytest.approx(survived)  # every vote is unanimous


# How random a defense is


def test_the_spread_is_the_largest_difference_between_passes() -> None:
    class Counting(nn.Module):
        said = iter([1.0, 3.0, -2.0])

        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), next(self.said))], 1)

    assert logit_spread(Counting(), grey(0.1, 0.9)[0], num_passes=3) == 5


def test_a_deterministic_defense_has_no_spread_and_a_noisy_one_has() -> None:
    images, _, _ = some_images(8)
    assert logit_spread(trained_net().train(), images) == 0  # dropout is off where it is attacked
    assert logit_spread(NoisyLinear(), grey(0.5)[0]) > 1e-4


def test_a_spread_that_would_say_nothing_is_refused() -> None:
    images = grey(0.5)[0]
    with pytest.raises(ValueError, match="at least 1 image and 2 passes, got 1 and 1"):
        logit_spread(NoisyLinear(), images, num_passes=1)
    with pytest.raises(ValueError, match="at least 1 image and 2 passes, got 0 and 5"):
        logit_spread(NoisyLinear(), images[:0])
    with pytest.raises(ValueError, match="not finite"):
        logit_spread(NoisyLinear(sigma=math.nan), images)


# The setting


def samples_of(chosen: EvaluationConfig) -> list[tuple[str, str, int | None]]:
    adaptive = [cell for cell in chosen.cells if cell.threat.startswith("adaptive")]
    return [(cell.threat, cell.attack, cell.options.get("num_eot_samples")) for cell in adaptive]


def test_the_setting_reaches_every_native_adaptive_attacker_and_no_other() -> None:
    extra = [{"attack": "bim", "threats": ["adaptive"]}, {"attack": "pgd", "threats": ["adaptive_bpda"], "options": {"num_eot_samples": 5}}]
    assert samples_of(evaluation("standard", "digits", "small", extra, num_eot_samples=20)) == [
        ("adaptive", "pgd", 20), ("adaptive_soft", "pgd", 20), ("adaptive", "bim", None), ("adaptive_bpda", "pgd", 5)
    ]  # fmt: skip
    full = samples_of(evaluation("full", "digits", "small", num_eot_samples=20))
    assert {(threat, samples) for threat, attack, samples in full if attack == "pgd"} == {
        ("adaptive", 20), ("adaptive_bpda", 20), ("adaptive_soft", 20)
    }  # fmt: skip
    assert {samples for _, attack, samples in full if attack != "pgd"} == {None}


@pytest.mark.parametrize(("value", "said"), [(0, "0"), (True, "'True'"), (2.5, "'2.5'"), ("many", "'many'"), ([2], r"'\[2\]'")])
def test_an_unusable_number_of_samples_is_named_with_the_variant(splits: Splits, value: object, said: str) -> None:
    space = cast(ModuleType, SimpleNamespace(variants=lambda: [{"num_eot_samples": value}]))
    with pytest.raises(ValueError, match=rf"random, variant 1 \(reference\): num_eot_samples must be a whole number of at least 1, got {said}"):
        from_space("random", space, fingerprint=splits.fingerprint)


# A sweep of a random defense

NOISY = '''"""Gaussian noise on every image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROLE = "purifier"
TRAINED = False


@dataclass(frozen=True)
class Config:
    sigma: float = 0.3


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return Noisy(config.sigma)


class Noisy(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.sigma * torch.randn_like(images)).clamp(0, 1)
'''


@pytest.fixture(scope="module")
def random_sweep(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> tuple[Plan, Path]:
    """Return a finished quick sweep of a random purifier from the user's own file, attacked by one sample and in expectation."""
    folder = tmp_path_factory.mktemp("random")
    (folder / "noisy.py").write_text(NOISY)
    noisy = {"model": str(folder / "noisy.py"), "retrain": "none"}
    space = cast(ModuleType, SimpleNamespace(variants=lambda: [noisy, noisy | {"num_eot_samples": 2}]))
    settings = {name: value for name, value in SETTINGS.items() if name != "codebook_size"}
    plan = from_space("random", space, fingerprint=splits.fingerprint, settings=settings, evaluation_name="quick", epsilons=(0.05, 0.1))
    ended = run_sweep(plan, splits, folder / "results", None, inline, Silent())
    assert [end.status for end in ended] == ["completed"] * 2, [end.message for end in ended]
    return plan, folder / "results"


def scored_again(plan: Plan, root: Path, place: Path, *, reverse: bool = False, draws: int = 0) -> tuple[dict[Any, Any], list[Any]]:
    """Score the second trial with the weights and sets under root; return outcome lists by cell and epsilon, and the strips."""
    shutil.copytree(root / "artifacts", place / "artifacts", ignore=shutil.ignore_patterns("outcomes"))
    chosen = plan.trials[1]
    cells = chosen.evaluation.cells[::-1] if reverse else chosen.evaluation.cells
    published: dict[str, list[dict[str, Any]]] = {"scores": [], "strips": []}
    torch.rand(draws)
    run_trial(
        chosen.config,
        chosen.evaluation.model_copy(update={"cells": cells, "name": "standard"}),  # which has strips
        Materials(Artifacts(place), None, torch.device("cpu")),
        lambda table, part, rows: published.setdefault(table, []).extend(rows),
    )
    outcomes = {(row["threat"], row["attack"], row["epsilon"], row["classifier"]): row["outcomes"] for row in published["scores"]}
    return outcomes, sorted((row["threat"], row["position"], row["adversarial"], row["purified"]) for row in published["strips"])


def test_a_random_defense_comes_out_the_same_whatever_ran_before_and_in_any_order(random_sweep: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, root = random_sweep
    rows = Results(root).read("scores", where={"evaluation_id": plan.trials[1].evaluation_id}).to_pylist()
    stored = {(row["threat"], row["attack"], row["epsilon"], row["classifier"]): row["outcomes"] for row in rows}
    first, again, turned = (
        scored_again(plan, root, tmp_path / name, reverse=name == "turned", draws=draws)
        for draws, name in enumerate(("first", "again", "turned"), start=1)
    )
    assert first[0] == again[0] == turned[0] == stored
    assert len(first[1]) == 16
    assert first[1] == again[1] == turned[1]


def test_without_its_own_seed_a_random_defense_would_depend_on_what_ran_before(
    random_sweep: tuple[Plan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cells, strips):
        monkeypatch.setattr(module, "fix_draws", lambda key: None)
    first, again = (scored_again(*random_sweep, tmp_path / name, reverse=name == "turned") for name in ("first", "turned"))
    assert first[0] != again[0]
    assert first[1] != again[1]


def test_attacked_in_expectation_a_trial_has_the_same_weights_and_another_evaluation(random_sweep: tuple[Plan, Path]) -> None:
    plan, root = random_sweep
    one, expected = plan.trials
    assert one.trial_id == expected.trial_id
    assert one.evaluation_id != expected.evaluation_id
    assert expected.label == "num_eot_samples=2"
    passes = {row["evaluation_id"]: row["forwards"] for row in Results(root).read("scores", where={"threat": "adaptive"}).to_pylist()}
    assert passes[expected.evaluation_id] > 2 * passes[one.evaluation_id]
