"""A purifier whose backward pass is the identity, for BPDA attacks on the defense that it is part of.

Athalye et al., "Obfuscated gradients give a false sense of security", 2018, section 4.1 (arXiv:1802.00420): where a purifier g
is not differentiable, or its gradient useless, but g(x) is near x, take g forward and the identity backward.
"""

from typing import Any

import torch
from torch import Tensor, nn

VERSION = 1


class _IdentityBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, purified: Tensor) -> Tensor:
        ctx.dtype = images.dtype
        return purified.view_as(purified)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0].to(ctx.dtype), None


class IdentityBackward(nn.Module):
    """A purifier, its value bit for bit, and the gradient of the identity; the purifier keeps its mode and its parameters."""

    def __init__(self, purifier: nn.Module) -> None:
        super().__init__()
        self.purifier = purifier
        self.training = purifier.training  # not train(), which would set the purifier's own parts

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():  # its graph would never be used
            purified = self.purifier(images)
        if purified.shape != images.shape:
            raise ValueError(f"the identity's gradient needs images of one shape, got {tuple(images.shape)} purified to {tuple(purified.shape)}")
        return _IdentityBackward.apply(images, purified)  # type: ignore[no-any-return]


def with_identity_backward(purifier: nn.Module) -> nn.Module:
    """Return a module with exactly the purifier's values and the backward pass of the identity, sharing its parameters.

    The gradient of ``classifier(module(images))`` with respect to images is the classifier's own gradient at the purified image.
    Nothing is handed to the purifier's parameters. How good an approximation it is depends on how near g(x) is to x.

    Raises:
        ValueError: In its forward pass, if the purifier changes the shape.
    """
    return IdentityBackward(purifier)
