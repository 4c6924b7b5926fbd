"""Training repeats bit for bit, also after an interruption, and says where it diverged."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import _inner
from sweeper.artifacts import Artifacts, Checkpoint, content_hash
from sweeper.config import Numerics
from sweeper.lookup import find
from sweeper.recipes import Training
from sweeper.training import ONLY_PLAYER, Diverged, Fit, Loss, Turn, augment, classification_loss, fit, numbers_from, purification_loss

IMAGES = torch.rand((48, 1, 32, 32), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % 10
NUM_EPOCHS = 4


def classifier() -> nn.Module:
    torch.manual_seed(1)
    module = find("models", "wide_resnet")
    return module.build(module.Config(depth=10, width=1, stem_stride=4), (1, 32, 32), 10)


def vqunet() -> nn.Module:
    torch.manual_seed(1)
    module = find("models", "vqunet")
    built = module.build(module.Config(depth=2, base_width=2, codebook_size=16), (1, 32, 32), 10)
    built.initialize(IMAGES, torch.Generator().manual_seed(1))
    return built


def noisy(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


LOSSES: dict[Callable[[], nn.Module], Callable[[nn.Module], Loss]] = {
    classifier: classification_loss,
    vqunet: lambda module: purification_loss(module, noisy),
}


class Interrupted(Exception):
    pass


def train(
    module: nn.Module, loss: Loss, *, checkpoint: Checkpoint | None = None, stop_after: int | None = None, seed: int = 0, **recipe: object
) -> Fit:
    settings = {"num_epochs": NUM_EPOCHS, "batch_size": 16, "learning_rate": 4e-3, **recipe}

    def on_epoch(row: dict[str, float]) -> None:
        if row["epoch"] == stop_after:
            raise Interrupted

    chosen = Training.model_validate(settings)
    return fit(module, IMAGES, LABELS, chosen, loss, seed=seed, numerics=Numerics(), checkpoint=checkpoint, on_epoch=on_epoch)


@pytest.mark.parametrize("build", [classifier, vqunet])
def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(build: Callable[[], nn.Module]) -> None:
    contents = []
    for seed in (0, 0, 1):
        module = build()
        torch.rand(7)  # the global generator has no say
        train(module, LOSSES[build](module), seed=seed, num_epochs=1, augment=True)
        contents.append(content_hash(module.state_dict()))
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    ("build", "optimizer", "schedule"), [(classifier, "sgd", "cosine"), (classifier, "adamw", "one_cycle"), (vqunet, "adam", "one_cycle")]
)
def test_continuing_from_a_checkpoint_gives_the_weights_of_an_uninterrupted_training(
    build: Callable[[], nn.Module], optimizer: str, schedule: str, tmp_path: Path
) -> None:
    recipe = {"optimizer": optimizer, "schedule": schedule, "augment": True}
    whole = build()
    rows = train(whole, LOSSES[build](whole), **recipe).epochs
    checkpoint = Artifacts(tmp_path).checkpoint("ab")
    for stop in (1, 3):
        started = build()
        with pytest.raises(Interrupted):
            train(started, LOSSES[build](started), checkpoint=checkpoint, stop_after=stop, **recipe)
    continued = build()
    again = train(continued, LOSSES[build](continued), checkpoint=checkpoint, **recipe).epochs
    assert content_hash(continued.state_dict()) == content_hash(whole.state_dict())
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]


def test_revival_happens_in_the_training_that_is_continued_above() -> None:
    frozen, revived = vqunet(), vqunet()
    for quantizer in frozen.modules():
        if hasattr(quantizer, "revive"):
            quantizer.revive = False  # pyright: ignore[reportArgumentType]
    for module in (frozen, revived):
        train(module, purification_loss(module, noisy))
    assert content_hash(frozen.state_dict()) != content_hash(revived.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_epoch_and_learning_rate(value: float) -> None:
    module, steps = nn.Linear(1024, 10), itertools.count()

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        factor = value if next(steps) == 5 else 1.0  # three steps an epoch: the last of the second
        yield ONLY_PLAYER, {"loss": module(images.flatten(1)).square().mean() * factor}

    with pytest.raises(Diverged, match=rf"training failed in epoch 2: loss is {value} \(learning_rate 0\.004\)"):
        train(module, loss)


def test_weights_that_the_last_step_made_infinite_are_not_handed_on() -> None:
    module, steps = nn.Linear(1024, 10), itertools.count()

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        yield ONLY_PLAYER, {"loss": module(images.flatten(1)).sum() * (0.0 if next(steps) < 2 else 1e38)}

    with pytest.raises(Diverged, match=r"training failed in epoch 1: weights are not finite \(learning_rate 10\)"):
        train(module, loss, num_epochs=1, learning_rate=10, optimizer="sgd", schedule="constant")


def test_a_trained_module_is_frozen_in_eval_mode_with_one_row_per_epoch() -> None:
    module = classifier()
    done = train(module, classification_loss(module), num_epochs=2)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert [row["epoch"] for row in done.epochs] == [1, 2]
    assert set(done.epochs[0]) == {"epoch", "loss", "accuracy", "learning_rate", "seconds"}


def test_a_batch_larger_than_the_data_is_all_of_them() -> None:
    module = classifier()
    assert len(train(module, classification_loss(module), num_epochs=1, batch_size=4096).epochs) == 1


def test_augmentation_keeps_shape_and_range_and_shifts_by_at_most_four_pixels() -> None:
    images = torch.zeros(64, 1, 32, 32)
    images[:, :, 16, 8] = 1
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    places = moved[:, 0].nonzero()
    assert len(places) == 64
    columns = torch.minimum((places[:, 2] - 8).abs(), (places[:, 2] - 23).abs())  # mirrored images land at 31 - 8
    assert (places[:, 1] - 16).abs().max() == columns.max() == 4
    assert 10 < (places[:, 2] > 15).sum() < 54


def test_numbers_made_from_parts_repeat_and_differ() -> None:
    assert numbers_from(0, "order", 1) == numbers_from(0, "order", 1)
    numbers = {numbers_from(seed, word, epoch) for seed in range(5) for word in ("order", "noise") for epoch in range(5)}
    assert len(numbers) == 50
    assert all(0 <= number < 2**63 for number in numbers)


# Several networks


class Rivals(nn.Module):
    """Two players with one weight each: the first is drawn to 1, the second to what the first is; each turn is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))
        self.gradients: list[tuple[bool, bool]] = []

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"first": [self.first], "second": [self.second]}

    def training_turns(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        noise = 0.01 * torch.randn(1, generator=generator)
        yield "first", {"loss": ((self.first - 1 + noise) ** 2).sum() + (self.second**2).sum(), "one": self.first.detach()[0]}
        self.gradients.append((self.first.grad is not None, self.second.grad is not None))
        self.seen += self.first.detach()
        yield "second", {"loss": ((self.second - self.first) ** 2).sum(), "two": self.second.detach()[0]}


def test_each_player_has_its_own_gradient_and_moves_in_its_turn() -> None:
    module = Rivals()
    done = train(module, purification_loss(module, None), learning_rate=0.01, schedule="constant")
    assert module.gradients[0] == (True, False)  # the first player's loss has both weights, its gradient reached its own alone
    assert float(module.seen) > 0  # what follows a turn sees the weights after it
    assert module.first.item() > 0.1  # drawn to 1
    assert module.second.item() > 0.1  # drawn to the first, which the first player's own pull on it to 0 did not hinder
    assert set(done.epochs[0]) == {"loss", "one", "two", "epoch", "learning_rate", "seconds"}


def test_the_logged_loss_is_the_sum_of_the_turns_and_a_term_the_mean_of_its_own() -> None:
    class Constant(Rivals):
        def training_turns(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[Turn]:
            for value in (1.0, 2.0):
                yield "first", {"loss": self.first.sum() * 0 + value, "term": torch.tensor(value)}
            yield "second", {"loss": self.second.sum() * 0 + 4.0}

    module = Constant()
    row = train(module, purification_loss(module, None)).epochs[0]
    assert (row["loss"], row["term"]) == (7.0, 1.5)


def test_players_that_continue_after_an_interruption_end_in_the_same_weights(tmp_path: Path) -> None:
    whole, halved = Rivals(), Rivals()
    train(whole, purification_loss(whole, None))
    checkpoint = Artifacts(tmp_path).checkpoint("rivals")

    with pytest.raises(Interrupted):
        train(halved, purification_loss(halved, None), checkpoint=checkpoint, stop_after=2)
    continued = Rivals()
    train(continued, purification_loss(continued, None), checkpoint=checkpoint)
    assert content_hash(continued.state_dict()) == content_hash(whole.state_dict())


def test_a_checkpoint_of_an_earlier_version_is_not_continued(tmp_path: Path) -> None:
    checkpoint = Artifacts(tmp_path).checkpoint("old")
    checkpoint.save({"module": {}, "optimizer": {}, "schedule": {}, "epochs": [{"epoch": 1}]})
    module = Rivals()
    assert [row["epoch"] for row in train(module, purification_loss(module, None), checkpoint=checkpoint).epochs] == [1, 2, 3, 4]


def test_the_linear_schedule_is_flat_for_three_fifths_and_ends_at_zero() -> None:
    module = Rivals()
    rates = [row["learning_rate"] for row in train(module, purification_loss(module, None), schedule="linear", num_epochs=10).epochs]
    assert rates[:6] == [0.004] * 6
    assert rates[6:] == pytest.approx([0.003, 0.002, 0.001, 0.0])


# Adversarial training


@pytest.mark.parametrize("kind", _inner.KINDS)
def test_an_adversary_stays_in_the_ball_and_raises_the_loss_without_touching_weights(kind: str) -> None:
    module = classifier()
    before = torch.nn.functional.cross_entropy(module.eval()(IMAGES), LABELS).item()
    generator = torch.Generator().manual_seed(0)
    perturbed = _inner.Adversary(kind, 0.05).perturb(module, IMAGES, LABELS, generator)
    assert float((perturbed - IMAGES).abs().max()) <= 0.05 + 1e-6
    assert 0 <= float(perturbed.min()) <= float(perturbed.max()) <= 1
    assert torch.nn.functional.cross_entropy(module(perturbed), LABELS).item() > before
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_classifier_trained_against_an_adversary_withstands_it_better() -> None:
    torch.manual_seed(0)
    images = 0.5 + 0.02 * torch.randn((400, 1, 4, 4))
    labels = torch.arange(400) % 2
    images[:, 0, 0, 0] += torch.where(labels == 0, -0.3, 0.3)  # the one pixel that an adversary of 0.1 cannot turn
    images[:, 0, 1:] += torch.where(labels == 0, -0.04, 0.04)[:, None, None]  # twelve that it can

    def accuracy(adversary: _inner.Adversary | None) -> float:
        torch.manual_seed(1)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        recipe = Training(num_epochs=20, batch_size=50, learning_rate=0.05)
        fit(module, images, labels, recipe, classification_loss(module, adversary), seed=0, numerics=Numerics())
        attacked = _inner.Adversary("pgd", 0.1).perturb(module, images, labels, torch.Generator().manual_seed(2))
        return float((module(attacked).argmax(1) == labels).float().mean())

    assert accuracy(None) < 0.9
    assert accuracy(_inner.Adversary("fgsm_rs", 0.1)) > 0.97


def test_an_unusable_adversary_is_named() -> None:
    with pytest.raises(ValueError, match="adversary must be one of pgd, fgsm_rs, got 'cw'"):
        _inner.Adversary("cw", 0.1)
    with pytest.raises(ValueError, match=r"adversary_epsilon must be in \(0, 1\], got 0"):
        _inner.Adversary("pgd", 0)
