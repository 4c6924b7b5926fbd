"""What a probe looks at, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from attacks._ascending import Config as AscentConfig
from attacks._modes import ready_for_attack
from attacks._white_box import Perturb
from sweeper.checks._result import Outcome
from sweeper.scoring import Defense, laid_out, with_latents

FEW = 64  # images of the probes that attack or differentiate


class Finding(NamedTuple):
    """What one check found in one defense; value and threshold in the units of the message."""

    check: str
    outcome: Outcome
    message: str
    value: float | None = None
    threshold: float | None = None


class Images(Protocol):
    """What a stored set knows of its images."""

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def keys(self) -> Tensor: ...


@dataclass(frozen=True)
class Stored:
    """A gray-box set as it is kept, (E, N, C, H, W), its clean images, the classifier it was crafted on, and the attack that crafted it."""

    name: str
    epsilons: Sequence[float]
    images: Tensor
    clean: Images
    classifier: nn.Module
    perturb: Perturb


@dataclass(frozen=True)
class Subject:
    """A defense as it is attacked and scored, the images, and how the adaptive attack fared on them.

    Attributes:
        defense: The purifier and the trial's final classifier.
        images, labels, keys: Those of the adaptive attack, float (N, C, H, W) in [0, 1], int64 (N,) each.
        epsilons: The adaptive grid, ascending, above 0.
        score_epsilon: Where robust_score ends; the radius of probes that need just one.
        broken_at: First epsilon at which any of the adaptive attacks breaks each image, float32 (N,), 0 if it is wrong unperturbed, infinity if none
            does; None where nothing was attacked.
        options: Settings of the native adaptive attack under `adaptive`.
        gradients: The adaptive threats that it was run under, each with its settings.
        batch_size: Images per forward pass, as in the scoring.
        siblings: The same variant's defenses of other seeds.
        sources: The undefended target, then the transfer sources.
        stored: A gray-box set that the trial was scored on.
    """

    defense: Defense
    images: Tensor
    labels: Tensor
    keys: Tensor
    epsilons: Sequence[float]
    score_epsilon: float
    broken_at: Tensor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    gradients: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"adaptive": {}})
    batch_size: int = 128
    siblings: Sequence[Defense] = ()
    sources: Sequence[nn.Module] = ()
    stored: Stored | None = None

    def few(self, count: int = FEW) -> "Subject":
        """Return the same with at most count images, evenly spread over their order, which is that of the split."""
        return self if count >= len(self.labels) else self.take(spread(len(self.labels), count))

    def take(self, positions: Tensor) -> "Subject":
        """Return the same with some of the images, int64 (M,)."""
        chosen = positions.to(self.images.device)
        broken = None if self.broken_at is None else self.broken_at[positions]
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], keys=self.keys[positions], broken_at=broken)

    @property
    def is_identity(self) -> bool:
        """Say whether the purifier hands its input on, bit for bit."""
        with torch.inference_mode():
            return torch.equal(self.defense.purifier(self.images[:8]), self.images[:8])

    @property
    def attack(self) -> AscentConfig:
        return AscentConfig(**self.options)


@torch.inference_mode()
def plain_logits(defense: Defense, images: Tensor, batch_size: int) -> Tensor:
    """Return the logits (N, K) by the way that clean, gray-box and transfer images are scored: no gradients, the purifier with its latents."""
    return torch.cat([defense.classifier(with_latents(defense.purifier, laid_out(part))[0]) for part in images.split(batch_size)])


def attacked_logits(defense: Defense, images: Tensor, batch_size: int) -> Tensor:
    """Return the logits (N, K) by the way that an adaptive attack goes: through `forward`, while gradients are recorded."""
    with ready_for_attack(defense):
        return torch.cat([defense(part.clone().requires_grad_()).detach() for part in images.split(batch_size)])


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers, those that are not saved among them."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def spread(n: int, count: int) -> Tensor:
    """Return at most count positions of n, evenly spread, int64."""
    return torch.linspace(0, n - 1, min(n, count)).round().long()
