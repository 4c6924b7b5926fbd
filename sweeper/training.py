"""One training loop for purifiers and classifiers: keyed order, a checkpoint after each epoch, no synchronisation within one.

Everything random in epoch e is drawn from (seed, e), so a training that continues from an epoch's checkpoint ends in the same weights.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.artifacts import Checkpoint
from sweeper.config import Numerics, Training

Loss = Callable[[Tensor, Tensor, torch.Generator], dict[str, Tensor]]  # images, labels, generator -> named terms
OnEpoch = Callable[[dict[str, float]], None]


class Diverged(ArithmeticError):
    """A loss or a weight became NaN or infinite."""


@dataclass(frozen=True)
class Fit:
    """What a finished training leaves beside the weights: one row per epoch, and the seconds it took."""

    epochs: list[dict[str, float]]
    seconds: float


def numbers_from(*parts: object) -> int:
    """Return a seed in [0, 2^63) made from the parts, the same on every machine."""
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fit(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Training,
    loss: Loss,
    *,
    seed: int,
    numerics: Numerics,
    checkpoint: Checkpoint | None = None,
    on_epoch: OnEpoch | None = None,
    name: str = "training",
) -> Fit:
    """Train module in place on images (N, C, H, W) in [0, 1] and labels (N,), both on the module's device.

    Args:
        loss: (images, labels, generator) of one batch to named terms; `loss` is minimised, all are logged.
        seed: Decides the order, the noise and the augmentation of every epoch.
        checkpoint: Where the state is kept after each epoch, and found again.

    Raises:
        Diverged: If an epoch's loss, or in the end a weight, is NaN or infinite.
    """
    device = images.device
    module.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batch = min(recipe.batch_size, len(images))
    steps = len(images) // batch
    optimizer = _optimizer(module, recipe, fused=device.type in ("cpu", "cuda"))
    schedule = _schedule(optimizer, recipe, steps * recipe.num_epochs)
    rows: list[dict[str, float]] = []
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        rows = state["epochs"]
    after_step = getattr(module, "after_step", None)
    for epoch in range(len(rows) + 1, recipe.num_epochs + 1):
        started = time.monotonic()
        module.train()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(numbers_from(seed, "order", epoch))).to(device)
        generator = torch.Generator(device).manual_seed(numbers_from(seed, "noise", epoch))
        sums: dict[str, Tensor] = {}
        for step in range(steps):
            picked = order[step * batch : (step + 1) * batch]
            inputs = images[picked].contiguous(memory_format=torch.channels_last)
            if recipe.augment:
                inputs = augment(inputs, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=numerics.precision == "bf16"):
                terms = loss(inputs, labels[picked], generator)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            optimizer.step()
            schedule.step()
            if after_step is not None:
                after_step((epoch - 1) * steps + step, steps * recipe.num_epochs, generator)
            for term, value in terms.items():
                sums[term] = sums.get(term, torch.zeros((), device=device)) + value.detach()
        row = {term: float(value) / steps for term, value in sums.items()}
        if not math.isfinite(row["loss"]):
            raise Diverged(f"{name} failed in epoch {epoch}: loss is {row['loss']} (learning_rate {recipe.learning_rate:g})")
        row |= {"epoch": epoch, "learning_rate": float(schedule.get_last_lr()[0]), "seconds": time.monotonic() - started}
        rows.append(row)
        if checkpoint is not None and epoch < recipe.num_epochs:
            checkpoint.save({"module": module.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "epochs": rows})
        if on_epoch is not None:
            on_epoch(row)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):  # the last step has no later loss to show it
        raise Diverged(f"{name} failed in epoch {recipe.num_epochs}: weights are not finite (learning_rate {recipe.learning_rate:g})")
    module.eval().requires_grad_(False)
    return Fit(rows, sum(row["seconds"] for row in rows))


def classification_loss(classifier: nn.Module) -> Loss:
    """Return the cross-entropy of a classifier's logits, with the batch's accuracy in [0, 1] beside it."""

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        logits = classifier(images)
        return {"loss": F.cross_entropy(logits.float(), labels), "accuracy": (logits.argmax(1) == labels).float().mean()}

    return loss


def purification_loss(purifier: Any, disturb: Callable[[Tensor, Tensor, torch.Generator], Tensor] | None) -> Loss:
    """Return a purifier's own loss from disturbed images (axis `train_input`; None: as they are) to clean ones."""

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        inputs = images if disturb is None else disturb(images, labels, generator)
        return purifier.training_loss(inputs, images)

    return loss


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images shifted by up to 4 pixels (reflected border) and mirrored at random, each on its own."""
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2, count), generator=generator, device=device)
    mirrored = torch.randint(0, 2, (count,), generator=generator, device=device).bool()
    rows = top[:, None] + torch.arange(height, device=device)  # (N, H)
    columns = left[:, None] + torch.arange(width, device=device)  # (N, W)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _optimizer(module: nn.Module, recipe: Training, fused: bool) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **common)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, **common)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Training, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=steps + 1)
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
