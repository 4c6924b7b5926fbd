"""Projected gradient descent from a random start in the L-infinity ball.

Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018, section 2.1 (arXiv:1706.06083).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks._grid import Stack, climb, over_grid
from attacks._keyed import uniform_noise
from attacks._linf import StepConfig, check_count, check_inputs, detached_copy, margin, project
from attacks._modes import ready_for_attack

NORM = "linf"
VERSION = 1


@dataclass(frozen=True)
class Config(StepConfig):
    """Number and length of steps, see ``StepConfig``, and of random starts.

    Attributes:
        num_restarts: Random starts, at least 1; of several, each image keeps the end point of largest margin.
    """

    num_restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_restarts", self.num_restarts)


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float],
    keys: Tensor,
    config: Config = Config(),
) -> Tensor:
    """Return the last iterate per epsilon, float (E, N, C, H, W) in [0, 1].

    The start is uniform in the ball and then clipped to [0, 1], drawn from each image's own key.
    """
    check_inputs(images, labels, epsilons, keys)

    def climb_from(stack: Stack, restart: int) -> Tensor:
        shape = stack.images.shape[1:]
        noise = [uniform_noise(keys, shape, attack="pgd", epsilon=e, restart=restart) for e in stack.epsilons]
        start = project(stack.images + torch.cat(noise).to(stack.images), stack.lower, stack.upper)
        step_size = stack.column([config.step_size_at(epsilon) for epsilon in stack.epsilons])
        return climb(model, stack, start=start, step_size=step_size, num_steps=config.num_steps)

    def attack(stack: Stack) -> Tensor:
        best = climb_from(stack, restart=0)
        for restart in range(1, config.num_restarts):
            last = climb_from(stack, restart)
            with torch.no_grad():
                better = margin(model(last), stack.labels) > margin(model(best), stack.labels)
            best = torch.where(better[:, None, None, None], last, best)
        return best

    with ready_for_attack(model):
        return over_grid(detached_copy(images), labels.clone(), epsilons, attack)
