"""Basic iterative method: repeated signed steps, projected back into the L-infinity ball.

Kurakin et al., "Adversarial examples in the physical world", 2017, section 2.2 (arXiv:1607.02533). The paper ties the
number of steps to epsilon; here both are settings, as in CleverHans, and the step size follows epsilon by default.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from attacks._grid import Stack, climb, over_grid
from attacks._linf import StepConfig, check_inputs, detached_copy
from attacks._modes import ready_for_attack

NORM = "linf"
VERSION = 1


@dataclass(frozen=True)
class Config(StepConfig):
    """Number and length of steps; see ``StepConfig``."""


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float],
    keys: Tensor,
    config: Config = Config(),
) -> Tensor:
    """Return the last iterate per epsilon, float (E, N, C, H, W) in [0, 1], starting at the images themselves.

    `keys` are not used: the attack is deterministic.
    """
    check_inputs(images, labels, epsilons, keys)

    def attack(stack: Stack) -> Tensor:
        step_size = stack.column([config.step_size_at(epsilon) for epsilon in stack.epsilons])
        return climb(model, stack, start=stack.images, step_size=step_size, num_steps=config.num_steps)

    with ready_for_attack(model):
        return over_grid(detached_copy(images), labels.clone(), epsilons, attack)
