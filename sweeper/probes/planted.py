"""Defenses that are broken in known ways, each to be caught by the check meant for it: the tool's test of itself (C36).

Zimmermann et al., 2022 (arXiv:2206.13991) found that 11 of 13 published evaluations did not notice a planted defect. Each `Plant` spoils one thing of
a sound defense; `tests/` and `benchmarks/planted_defects.py` hold the probes against all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.scoring import Defense

Make = Callable[[Defense, Tensor, Tensor], Defense]


@dataclass(frozen=True)
class Plant:
    """One defect: how it is put into a sound defense (given images and labels, for those that need them), and the check that must catch it."""

    check: str
    make: Make
    outcome: str = "fail"  # of an advice check: warn


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class _Before(nn.Module):
    """A function and then a module, whose parts stay as they are."""

    def __init__(self, function: Callable[[Tensor], Tensor], module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return self.module(self.function(images))


class _NormalizedTwice(nn.Module):
    """Scored as it should be, but attacked through a forward pass that normalizes once more."""

    def __init__(self, purifier: nn.Module) -> None:
        super().__init__()
        self.purifier = purifier
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return (self.purifier(images) - 0.5) / 0.5

    def purify_with_latents(self, images: Tensor) -> tuple[Tensor, list[Any]]:
        return self.purifier(images), []


class _LeftInTrainMode(nn.Module):
    """Normalizes by the batch it is in, and keeps counting batches."""

    def __init__(self, purifier: nn.Module, channels: int) -> None:
        super().__init__()
        self.purifier, self.norm = purifier, nn.BatchNorm2d(channels)
        self.training = False
        self.norm.train()

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.norm(self.purifier(images)))


class _Prototypes(nn.Module):
    """Answers with the mean image of the class whose mean is nearest."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.stack([images[labels == label].mean(0) for label in labels.unique()]))
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        distances = (images[:, None] - self.prototypes[None]).square().flatten(2).sum(2)  # type: ignore[index]
        return torch.einsum("nk,kchw->nchw", torch.softmax(-distances, dim=1), self.prototypes)


class _Shattered(torch.autograd.Function):
    """The identity, with a gradient that has nothing to do with it."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (images,) = ctx.saved_tensors
        return torch.sin(1e4 * images + torch.arange(images[0].numel(), dtype=images.dtype).view(images[0].shape)) * grad_outputs[0].abs()


def _rounded(images: Tensor) -> Tensor:
    return (7 * images).round() / 7


def _shattered(images: Tensor) -> Tensor:
    return _Shattered.apply(images)  # type: ignore[no-any-return]


PLANTS: Mapping[str, Plant] = {
    "quantized without straight-through": Plant(
        "C21", lambda sound, images, labels: Defense(_Before(lambda x: _rounded(x).detach(), sound.purifier), sound.classifier)
    ),
    "a rounding step without gradient": Plant("C20", lambda sound, images, labels: Defense(_Before(_rounded, sound.purifier), sound.classifier)),
    "saturated logits": Plant(
        "C20", lambda sound, images, labels: Defense(sound.purifier, nn.Sequential(sound.classifier, _Function(lambda z: 1e4 * z)).eval())
    ),
    "random, attacked without expectation": Plant(
        "C24", lambda sound, images, labels: Defense(_Before(lambda x: (x + 0.1 * torch.randn_like(x)).clamp(0, 1), sound.purifier), sound.classifier)
    ),
    "left in train mode": Plant("C2", lambda sound, images, labels: Defense(_LeftInTrainMode(sound.purifier, images.shape[1]), sound.classifier)),
    "returns probabilities": Plant(
        "C5", lambda sound, images, labels: Defense(sound.purifier, nn.Sequential(sound.classifier, nn.Softmax(dim=1)).eval())
    ),
    "attacked with another normalization": Plant("C4", lambda sound, images, labels: Defense(_NormalizedTwice(sound.purifier), sound.classifier)),
    "answers with a class prototype": Plant("C30", lambda sound, images, labels: Defense(_Prototypes(images, labels), sound.classifier), "warn"),
    "a gradient that leads astray": Plant("C17", lambda sound, images, labels: Defense(_Before(_shattered, sound.purifier), sound.classifier)),
}
