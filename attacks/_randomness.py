"""Is a defense random: does it say something else when it is asked again?"""

import torch
from torch import Tensor, nn

from attacks._ascending import scoring_forward
from attacks._modes import ready_for_attack

VERSION = 1


def logit_spread(model: nn.Module, images: Tensor, num_passes: int = 5) -> float:
    """Return the largest difference, over passes, of any logit of any image: 0 for a deterministic defense on the CPU.

    In eval mode, without gradients. A defense with more than 1e-4 is to be attacked with ``num_eot_samples`` (see
    ``attacks._ascending.Config``).

    Args:
        model: The whole defense, images to logits; it draws from torch's global generator, which is left as it then stands.
        images: Float (N, C, H, W) in [0, 1], at least one; they are passed as one batch.
        num_passes: At least 2.

    Raises:
        ValueError: If there are no images or fewer than 2 passes, or if a logit is not finite.
    """
    if not len(images) or num_passes < 2:
        raise ValueError(f"a spread needs at least 1 image and 2 passes, got {len(images)} and {num_passes}")
    with ready_for_attack(model):
        passes = torch.stack([scoring_forward(model, images, batch_size=len(images)) for _ in range(num_passes)])
    return (passes.amax(0) - passes.amin(0)).max().item()
