"""A soft backward pass for quantizers with a codebook: an attacker's gradient through the choice of codes.

The straight-through estimator says that a code follows its encoding one to one, which is wrong as soon as the step crosses into
another cell. Measured on the digits (small VQUNets with their retrained target, 64 images, ``attacks._ascending`` with 20 steps from one start and
relative step size 2.5): survivors at epsilon 0.0125, 0.025, 0.0375, 0.05, straight through and by temperature.

| | straight through | 3 | 1 | 0.3 | 0.1 | 0.03 | 0.01 |
|---|---|---|---|---|---|---|---|
| depth 3, K 64 | 57 36 15 4 | 50 23 0 0 | 41 8 0 0 | 30 3 0 0 | 38 21 8 0 | 53 39 33 25 | 61 51 45 40 |
| depth 3, K 8 | 61 57 50 39 | 58 44 24 8 | 55 34 14 4 | 54 38 26 15 | 60 52 45 36 | 61 58 57 51 | 61 60 60 54 |
| depth 1, K 64 | 59 47 34 19 | 58 45 23 6 | 55 28 6 0 | 42 15 1 0 | 46 24 8 2 | 54 48 29 23 | 59 55 50 41 |

Here the gradient is that of a soft assignment, softmax(-|a - e|² / temperature) over the codes e, as in Agustsson
et al., "Soft-to-hard vector quantization", 2017 (arXiv:1704.00648); the value stays the nearest code, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ._codebooks import as_vectors

VERSION = 1
FACTORS = (1.0, 0.3)  # falling temperatures that an attacker tries, in units of the mean squared distance from encodings to their codes


def soft_codes(encoded: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """Return the mean of the codes under softmax(-|a - e|² / temperature), at least float32 (N, D, H, W).

    As temperature falls to 0 it becomes the nearest code and its gradient vanishes; as it grows it becomes the mean of all codes
    and its gradient vanishes too. In between, the gradient to an encoding is 2 / temperature times the codes' covariance under the
    softmax. None goes to the codebook. |a|² is the same for every code and is left out, as in `nearest`.

    Args:
        encoded: Encodings, float (N, D, H, W).
        codebook: Codes, float (K, D).
        temperature: Positive, in squared latent units.
    """
    dtype = torch.promote_types(codebook.dtype, torch.float32)
    with torch.autocast(encoded.device.type, enabled=False):
        codes = codebook.detach().to(dtype)
        distances = torch.addmm(codes.square().sum(1), as_vectors(encoded).to(dtype), codes.t(), alpha=-2)  # (N*H*W, K)
        soft = torch.softmax(-distances / temperature, dim=1) @ codes  # (N*H*W, D)
        return soft.view(encoded.shape[0], *encoded.shape[2:], -1).movedim(-1, 1)


@contextmanager
def soft_assignment(module: nn.Module, temperature: float) -> Iterator[None]:
    """Give every quantizer with a codebook in module a soft backward pass while the block runs; restore afterwards.

    Values do not change. Other parts keep their gradients, also quantizers without a learned codebook (`fsq`, `lfq`). Uses may
    nest, the innermost temperature counts. An attack whose temperature falls runs one block after the other.

    Args:
        module: A purifier, or a whole defense.
        temperature: Positive, in squared latent units, the same for all depths.

    Raises:
        ValueError: If temperature is not a positive number, or if there is no quantizer with a codebook in module, where the
            block would change nothing.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    quantizers = [(part, part.soft_temperature) for part in module.modules() if hasattr(part, "soft_temperature")]
    if not quantizers:
        raise ValueError(f"a soft assignment needs a quantizer with a codebook, and {type(module).__name__} has none")
    try:
        for quantizer, _ in quantizers:
            quantizer.soft_temperature = temperature  # type: ignore[assignment]
        yield
    finally:
        for quantizer, before in quantizers:
            quantizer.soft_temperature = before


def has_codebook(module: nn.Module) -> bool:
    """Say whether a module has a quantizer that `soft_assignment` changes."""
    return any(hasattr(part, "soft_temperature") for part in module.modules())
