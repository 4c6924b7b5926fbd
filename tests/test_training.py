"""Training repeats bit for bit, also after an interruption, and says where it diverged."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sweeper.artifacts import Artifacts, Checkpoint, content_hash
from sweeper.config import Numerics, Training
from sweeper.lookup import find
from sweeper.training import Diverged, Fit, Loss, augment, classification_loss, fit, numbers_from, purification_loss

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

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        factor = value if next(steps) == 5 else 1.0  # three steps an epoch: the last of the second
        return {"loss": module(images.flatten(1)).square().mean() * factor}

    with pytest.raises(Diverged, match=rf"training failed in epoch 2: loss is {value} \(learning_rate 0\.004\)"):
        train(module, loss)


def test_weights_that_the_last_step_made_infinite_are_not_handed_on() -> None:
    module, steps = nn.Linear(1024, 10), itertools.count()

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": module(images.flatten(1)).sum() * (0.0 if next(steps) < 2 else 1e38)}

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
