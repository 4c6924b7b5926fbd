"""Two other ways with a codebook: cosine similarity, and the rotation trick in place of the straight-through estimator.

Their codes start, move and are revived as those of `VectorQuantizer`, so that a comparison changes one thing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ._quantizers import VectorQuantizer

VERSION = 1
_SMALLEST_NORM = 1e-6  # of an encoding, so that its scale and with it the gradient stay finite


class CosineQuantizer(VectorQuantizer):
    """Encodings and codes are divided by their lengths; the code chosen is the one of the largest cosine.

    Yu et al., "Vector-quantized image modeling with improved VQGAN", 2022 (arXiv:2110.04627), section 3.2. On the unit
    sphere the largest cosine is the smallest distance. Latents and losses are those of the unit vectors, and the
    gradient passes through the division, so that it never changes an encoding's length.
    """

    def encode(self, features: Tensor) -> Tensor:
        projected = self.project_in(features)
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=1)

    def codes(self) -> Tensor:
        return F.normalize(self.codebook, dim=1)


class RotationQuantizer(VectorQuantizer):
    """The nearest code, and a gradient that turns with it: backward, q is the encoding rotated onto it and rescaled.

    Fifty et al., "Restructuring vector quantization with the rotation trick", 2024 (arXiv:2410.06424), section 4.2.
    """

    def hand_on(self, encoded: Tensor, codes: Tensor) -> Tensor:
        return rotate(encoded, codes)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encoded: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(encoded, codes)
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        encoded, codes = ctx.saved_tensors
        to_encoded, to_codes = ctx.needs_input_grad
        gradient = grad_outputs[0].to(torch.promote_types(codes.dtype, torch.float32))
        turned = _turn_back(gradient, encoded.to(gradient.dtype), codes.to(gradient.dtype)) if to_encoded else None
        return None if turned is None else turned.to(encoded.dtype), gradient.to(codes.dtype) if to_codes else None


def _turn_back(gradient: Tensor, encoded: Tensor, codes: Tensor) -> Tensor:
    """Return s Rᵀ g per vector: s = |q| / |a|, R = I - 2 r rᵀ + 2 q̂ âᵀ, r the unit vector of â + q̂; all along axis 1."""
    length = encoded.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_NORM)
    start, end = encoded / length, F.normalize(codes, dim=1)
    middle = F.normalize(start + end, dim=1)
    reflected = gradient - 2 * middle * (middle * gradient).sum(1, keepdim=True)
    rotated = reflected + 2 * start * (end * gradient).sum(1, keepdim=True)
    return codes.norm(dim=1, keepdim=True) / length * rotated


def rotate(encoded: Tensor, codes: Tensor) -> Tensor:
    """Return codes (N, D, H, W), bit for bit, as if they were s R a: a rotation R and a scale s that are constants.

    The gradient to encodings is s Rᵀ g, of length s |g|, which is the identity's where a is its code; that to codes, unless
    they are detached, is the identity's.
    """
    return _Rotation.apply(encoded, codes)  # type: ignore[no-any-return]
