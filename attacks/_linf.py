"""The single steps that every L-infinity attack is made of: a gradient, a signed step, a projection.

Each exists once, so that an epsilon grid, an early exit or another loop never means another copy of the arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = 1
MAX_STEP_SIZE = 0.05  # CleverHans' eps_iter, the default of BIM and PGD in the paper's attack library

Objective = Callable[[Tensor, Tensor], Tensor]  # logits (N, K), labels (N,) -> (N,), larger is worse for the defense


@dataclass(frozen=True)
class StepConfig:
    """Number and length of signed steps.

    Attributes:
        num_steps: Gradient steps, at least 1.
        step_size_rule: ``scaled`` makes the step size follow epsilon, see ``step_size_at``; ``fixed`` takes `step_size`
            (CleverHans: BIM 10 steps of 0.05, PGD 40 of 0.01; torchattacks: 10 of 2/255, which reach only 20/255).
        step_size: In [0, 1] pixel units; only with ``fixed``.
    """

    num_steps: int = 10
    step_size_rule: str = "scaled"
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_count("num_steps", self.num_steps)
        if self.step_size_rule not in ("scaled", "fixed"):
            raise ValueError(f"step_size_rule must be 'scaled' or 'fixed', got {self.step_size_rule!r}")
        if self.step_size_rule == "scaled" and self.step_size is not None:
            raise ValueError(f"step_size is used only with step_size_rule='fixed', got {self.step_size} with 'scaled'")
        if self.step_size_rule == "fixed" and (self.step_size is None or not 0 < self.step_size <= 1):
            raise ValueError(f"step_size must be in (0, 1] with step_size_rule='fixed', got {self.step_size}")

    def step_size_at(self, epsilon: float) -> float:
        """Return the step size at epsilon.

        ``scaled`` is min(0.05, 2.5 * epsilon / num_steps), but never below epsilon / num_steps, so that an attack
        without a random start can always reach the ball's surface (with 10 steps the two differ above 0.5 only).
        """
        if self.step_size is not None:
            return self.step_size
        return max(min(MAX_STEP_SIZE, 2.5 * epsilon / self.num_steps), epsilon / self.num_steps)


class NoGradient(ValueError):
    """The attacked model gives no gradient to its input, so surviving a gradient attack says nothing."""


class Gradient(NamedTuple):
    """What one forward and one backward pass give: logits (N, K), objective (N,), its input gradient (N, C, H, W)."""

    logits: Tensor
    objective: Tensor
    gradient: Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image in nats, float32 (N,), also for logits of lower precision."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest wrong logit minus the true one, float32 (N,): positive where the image is misclassified.

    The true class is left out with -inf. Leaving it out with a zero, as torchattacks' CW does, is wrong as soon as all
    other logits are negative (its issue 184).
    """
    logits = logits.float()
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - true


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor, objective: Objective = cross_entropy, num_samples: int = 1) -> Gradient:
    """Return logits, the objective of each image and its gradient with respect to that image.

    The sum over images is differentiated, not the mean: no factor 1/N, so an image's gradient does not depend on its
    batch, and small gradients do not underflow in large batches.

    Args:
        num_samples: Passes that all three are averaged over, at least 1: the gradient of the expectation over the randomness of a
            defense (EOT, Athalye et al., 2018, arXiv:1802.00420, section 4.2). Each pass draws anew, and its graph is freed before
            the next.

    Raises:
        ValueError: If no gradient path leads from the logits to the input (a quantizer without an estimator, `detach`).
    """
    check_count("num_samples", num_samples)
    total = _one_gradient(model, images, labels, objective)
    for _ in range(num_samples - 1):
        each = _one_gradient(model, images, labels, objective)
        total = Gradient(total.logits + each.logits, total.objective + each.objective, total.gradient + each.gradient)
    return Gradient(*(summed / num_samples for summed in total))  # for 1, bit for bit what the pass gave


def _one_gradient(model: nn.Module, images: Tensor, labels: Tensor, objective: Objective) -> Gradient:
    images = images.detach().requires_grad_()
    logits = model(images)
    values = objective(logits, labels)
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), images, allow_unused=True)
    if gradient is None:
        raise NoGradient(
            "no gradient reaches the input: the model has no differentiable path from images to logits "
            "(a quantizer without a straight-through estimator, detach() or no_grad() inside); "
            "an attack without gradients would report false robustness"
        )
    return Gradient(logits.detach(), values.detach(), gradient)


def ball(images: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest images within epsilon of `images` and within [0, 1]."""
    return (images - epsilon).clamp_(min=0.0), (images + epsilon).clamp_(max=1.0)


def project(images: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the images of the box [lower, upper] nearest to `images`."""
    return torch.minimum(torch.maximum(images, lower), upper)


def signed_step(images: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
    """Return images moved by step_size along the gradient's sign; pixels without a gradient stay."""
    return torch.add(images, gradient.sign() * step_size)


def check_inputs(images: Tensor, labels: Tensor, epsilons: Sequence[float], keys: Tensor) -> None:
    """Raise ValueError unless images are float32 (N, C, H, W) in [0, 1] and labels, keys and epsilons fit them."""
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64):
        # in half precision the ball cannot be kept: 8/255 becomes 8.5/255. Autocast the model instead
        raise ValueError(f"images must be float32 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
    for name, tensor in (("labels", labels), ("keys", keys)):
        if tensor.shape != images.shape[:1] or tensor.dtype != torch.int64:
            raise ValueError(f"{name} must be int64 ({len(images)},), one per image, got {tensor.dtype} {tuple(tensor.shape)}")
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):  # false for NaN too
        raise ValueError(f"images must lie in [0, 1], got {images.min().item()} to {images.max().item()}")
    if not len(epsilons):
        raise ValueError("epsilons must name at least one epsilon, got none")
    for epsilon in epsilons:
        if not (math.isfinite(epsilon) and 0 <= epsilon <= 1):
            hint = f" (did you mean {epsilon:g}/255?)" if 1 < epsilon <= 255 else ""
            raise ValueError(f"epsilon must be in [0, 1], got {epsilon}{hint}")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def detached_copy(images: Tensor) -> Tensor:
    """Return a copy that autograd may use even if `images` was made in inference mode; the memory format is kept."""
    return images.detach().clone(memory_format=torch.preserve_format)
