"""One training loop for purifiers and classifiers: keyed order, a checkpoint after each epoch, no synchronisation within one.

Everything random in epoch e is drawn from (seed, e), so a training that continues from an epoch's checkpoint ends in the same weights. Nothing in a
phase depends on those after it, so a training that continues from the end of another one's phase does, too.

Networks that are trained against each other (a generator and a discriminator) are players of one module: it names their parameters in `players()`
and its loss yields one turn after another. A turn's gradient reaches its own player's parameters and no others, and each has its own optimizer.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import _inner
from sweeper.artifacts import Checkpoint
from sweeper.config import Numerics
from sweeper.recipes import Phase, Training

Turn = tuple[str, dict[str, Tensor]]  # who moves, and named terms: `loss` is minimised, all are logged
Loss = Callable[[Tensor, Tensor, torch.Generator], Iterator[Turn]]  # images, labels, generator -> the turns of one step
Disturb = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # images, labels, generator -> what is learned from
ONLY_PLAYER = ""
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
    phase_states: Mapping[int, Checkpoint] | None = None,
    on_epoch: OnEpoch | None = None,
    name: str = "training",
) -> Fit:
    """Train module in place on images (N, C, H, W) in [0, 1] and labels (N,), both on the module's device.

    Args:
        loss: (images, labels, generator) of one batch to turns, one for a module without `players()`. It goes on after the step of each turn.
        seed: Decides the order, the noise and the augmentation of every epoch.
        checkpoint: Where the state is kept after each epoch, and found again.
        phase_states: Last epoch of a phase -> where the state is kept then, and found by every training that begins so.

    Raises:
        Diverged: If an epoch's loss, or in the end (of a phase that is kept, too) a weight, is NaN or infinite.
    """
    device = images.device
    module.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batch = min(recipe.batch_size, len(images))
    steps = len(images) // batch
    players = _players(module)
    options = getattr(module, "optimizer_options", dict)()
    optimizers = {name: _optimizer(parameters, recipe, options, fused=device.type in ("cpu", "cuda")) for name, parameters in players.items()}
    scheduled = {} if recipe.phases else optimizers  # a phase sets the learning rate itself
    schedules = {name: _schedule(optimizer, recipe, steps * recipe.num_epochs, options) for name, optimizer in scheduled.items()}
    rows: list[dict[str, float]] = []
    kept = phase_states or {}
    if (state := _furthest(checkpoint, kept)) is not None:
        module.load_state_dict(state["module"])
        for player, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
        for player, schedule in schedules.items():
            schedule.load_state_dict(state["schedules"][player])
        rows = state["epochs"]
    after_step = getattr(module, "after_step", None)
    for epoch in range(len(rows) + 1, recipe.num_epochs + 1):
        started = time.monotonic()
        module.train()
        first, num_epochs, phase = recipe.stretch(epoch)
        if phase is not None:
            _enter(phase, module, optimizers.values())
        learning_rate = recipe.learning_rate if phase is None else phase.learning_rate
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(numbers_from(seed, "order", epoch))).to(device)
        generator = torch.Generator(device).manual_seed(numbers_from(seed, "noise", epoch))
        means = _Means(device)
        for step in range(steps):
            picked = order[step * batch : (step + 1) * batch]
            inputs = images[picked].contiguous(memory_format=torch.channels_last)
            if recipe.augment:
                inputs = augment(inputs, generator)
            turns = loss(inputs, labels[picked], generator)
            moved: dict[str, None] = {}
            while True:
                with torch.autocast(device.type, torch.bfloat16, enabled=numerics.precision == "bf16"):
                    turn = next(turns, None)
                if turn is None:
                    break
                player, terms = turn
                optimizers[player].zero_grad(set_to_none=True)
                if len(players) > 1:
                    terms["loss"].backward(inputs=players[player])
                else:
                    terms["loss"].backward()
                optimizers[player].step()
                moved[player] = None
                means.add(terms)
            for player in moved:
                if player in schedules:
                    schedules[player].step()
            if after_step is not None:  # within a phase, so that what it does there depends on no later phase
                after_step((epoch - first) * steps + step, steps * num_epochs, generator)
        row = means.row(steps)
        if not math.isfinite(row["loss"]):
            raise Diverged(f"{name} failed in epoch {epoch}: loss is {row['loss']} (learning_rate {learning_rate:g})")
        rate = float(next(iter(optimizers.values())).param_groups[0]["lr"])
        row |= {"epoch": epoch, "learning_rate": rate, "seconds": time.monotonic() - started}
        rows.append(row)
        is_last = epoch == recipe.num_epochs
        if is_last or epoch in kept:  # no later loss will show what the last step did, to this training or to one that goes on from here
            _check_weights(module, f"{name} failed in epoch {epoch}", learning_rate)
        place = kept.get(epoch, None if is_last else checkpoint)
        if place is not None:
            place.save(
                {
                    "module": module.state_dict(),
                    "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
                    "schedules": {name: schedule.state_dict() for name, schedule in schedules.items()},
                    "epochs": rows,
                }
            )
        if on_epoch is not None:
            on_epoch(row)
    module.eval().requires_grad_(False)
    return Fit(rows, sum(row["seconds"] for row in rows))


def _furthest(checkpoint: Checkpoint | None, kept: Mapping[int, Checkpoint]) -> dict[str, Any] | None:
    """Return the state of the latest epoch: a training's own after its last one, or one that was kept at the end of a phase."""
    own = None if checkpoint is None else checkpoint.load()
    if own is not None and "optimizers" not in own:  # of an earlier version: start over
        own = None
    for epoch in sorted(kept, reverse=True):
        if own is not None and len(own["epochs"]) >= epoch:
            break
        if (state := kept[epoch].load()) is not None:
            return state
    return own


def _enter(phase: Phase, module: Any, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Set a phase's learning rate and loss weights: in each of its epochs, since no state of a network holds its weights."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate
    if phase.loss_weights:
        module.set_loss_weights(**phase.loss_weights)


def _check_weights(module: nn.Module, failed: str, learning_rate: float) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):
        raise Diverged(f"{failed}: weights are not finite (learning_rate {learning_rate:g})")


class _Means:
    """Running means of an epoch's terms, kept on the device: `loss` per step, summed over its turns, every other term per time it came."""

    def __init__(self, device: torch.device) -> None:
        self._zero = torch.zeros((), device=device)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        for term, value in terms.items():
            self._sums[term] = self._sums.get(term, self._zero) + value.detach()
            self._counts[term] = self._counts.get(term, 0) + 1

    def row(self, steps: int) -> dict[str, float]:
        return {term: float(value) / (steps if term == "loss" else self._counts[term]) for term, value in self._sums.items()}


def _players(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return who moves by which trained parameters: the module's own players, or it alone."""
    players = getattr(module, "players", None)
    named = {ONLY_PLAYER: list(module.parameters())} if players is None else players()
    return {name: [parameter for parameter in parameters if parameter.requires_grad] for name, parameters in named.items()}


def classification_loss(classifier: nn.Module, adversary: _inner.Adversary | None = None) -> Loss:
    """Return the cross-entropy of a classifier's logits, with the batch's accuracy in [0, 1] beside it.

    Args:
        adversary: Perturbs each batch against the classifier as it is now (adversarial training); None trains on the images as they are.
    """

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        if adversary is not None:
            images = adversary.perturb(classifier, images, labels, generator)
        logits = classifier(images)
        yield ONLY_PLAYER, {"loss": F.cross_entropy(logits.float(), labels), "accuracy": (logits.argmax(1) == labels).float().mean()}

    return loss


def purification_loss(purifier: Any, disturb: Disturb | None) -> Loss:
    """Return a purifier's own loss from disturbed images (axis `train_input`; None: as they are) to clean ones."""

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        inputs = images if disturb is None else disturb(images, labels, generator)
        if hasattr(purifier, "training_turns"):
            yield from purifier.training_turns(inputs, images, generator)
        else:
            yield ONLY_PLAYER, purifier.training_loss(inputs, images, generator)

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


def _optimizer(parameters: list[nn.Parameter], recipe: Training, options: dict[str, Any], fused: bool) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **common)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, **common, **options)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Training, steps: int, options: dict[str, Any]) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "one_cycle":
        turns_momentum = "betas" not in options  # a model that prescribes Adam's betas keeps them
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=steps + 1, cycle_momentum=turns_momentum)
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    if recipe.schedule == "linear":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_flat_then_linear, steps=steps))
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _flat_then_linear(step: int, steps: int) -> float:
    """Return 1 for the first 60 % of the steps, then a line to 0 (Zhu et al., 2017, decay so after half of theirs)."""
    return min(1.0, (steps - step) / (0.4 * steps)) if steps else 1.0
