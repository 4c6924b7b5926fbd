"""What a classifier is trained against in adversarial training: images perturbed against it as it is at that step.

`pgd`: Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018 (arXiv:1706.06083), section 5: a random start and 7
steps of a quarter of epsilon (2/255 of 8/255). `fgsm_rs`: Wong et al., "Fast is better than free", 2020 (arXiv:2001.03994), algorithm 3: a random
start and one step of 1.25 epsilon. Both are cheaper and weaker than the attacks that score a defense, and are never used for that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = 1
KINDS = ("pgd", "fgsm_rs")
_STEPS = {"pgd": (7, 0.25), "fgsm_rs": (1, 1.25)}  # number of steps, step size in units of epsilon


@dataclass(frozen=True)
class Adversary:
    """The inner maximization of adversarial training.

    Attributes:
        kind: `pgd` or `fgsm_rs`.
        epsilon: Largest change of a pixel, in (0, 1].

    Raises:
        ValueError: If kind or epsilon is out of its range.
    """

    kind: str
    epsilon: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"adversary must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"adversary_epsilon must be in (0, 1], got {self.epsilon}")

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return images in the L-infinity ball and [0, 1] on which the model's loss is higher, (N, C, H, W), detached.

        The model stays in the mode it is in (batch statistics while it trains, as in both papers' code); its parameters get no gradient.
        """
        num_steps, share = _STEPS[self.kind]
        lower, upper = (images - self.epsilon).clamp(0, 1), (images + self.epsilon).clamp(0, 1)
        noise = 2 * torch.rand(images.shape, generator=generator, device=images.device) - 1
        perturbed = torch.clamp(images + self.epsilon * noise, lower, upper)
        for _ in range(num_steps):
            perturbed = perturbed.detach().requires_grad_()
            loss = F.cross_entropy(model(perturbed).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, perturbed)
            perturbed = torch.clamp(perturbed.detach() + share * self.epsilon * gradient.sign(), lower, upper)
        return perturbed.detach()
