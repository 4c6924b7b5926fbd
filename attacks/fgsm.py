"""Fast gradient sign method under an L-infinity bound.

Goodfellow et al., "Explaining and harnessing adversarial examples", 2015, section 4 (arXiv:1412.6572).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks._linf import ball, check_inputs, detached_copy, input_gradient, project, signed_step
from attacks._modes import ready_for_attack

NORM = "linf"
VERSION = 1


@dataclass(frozen=True)
class Config:
    """FGSM has no settings besides epsilon."""


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float],
    keys: Tensor,
    config: Config = Config(),
) -> Tensor:
    """Return one adversarial copy of images per epsilon, float (E, N, C, H, W) in [0, 1].

    The sign of the gradient does not depend on epsilon, so the whole grid costs one backward pass. `keys` are not used:
    the attack is deterministic.
    """
    check_inputs(images, labels, epsilons, keys)
    with ready_for_attack(model):
        images, labels = detached_copy(images), labels.clone()
        gradient = input_gradient(model, images, labels).gradient
        grid = [project(signed_step(images, gradient, epsilon), *ball(images, epsilon)) for epsilon in epsilons]
        return torch.stack(grid)
