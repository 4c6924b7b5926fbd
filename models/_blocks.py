"""Parts that several models share: convolution blocks, input normalization, initialization and the latent record."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

VERSION = 1


class Latent(NamedTuple):
    """What one depth of a purifier computed for a batch; depth 1 is the level nearest to the image.

    Attributes:
        encoded: What is quantized, a_d, float (N, C, H, W).
        quantized: What takes its place, q_d, same shape; equal to encoded where nothing is quantized.
        indices: Nearest codes, int64 (N, H, W) in [0, codebook_size), or None where nothing is quantized.
        codebook_size: Number of codes, or None.
        codebook: The codes (K, D) that encodings are compared with, in Euclidean distance; None where none are learned.
    """

    encoded: Tensor
    quantized: Tensor
    indices: Tensor | None
    codebook_size: int | None
    codebook: Tensor | None = None


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return a 3×3 convolution, batch normalization and ReLU; no bias, since the normalization has one."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PreActivationBlock(nn.Module):
    """Residual block of He et al., 2016 (arXiv:1603.05027): images + conv(relu(bn(conv(relu(bn(images)))))).

    The last operation is the addition, so outputs are signed. Shape (N, channels, H, W) is kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.residual(features)


class Normalization(nn.Module):
    """Subtracts a mean and divides by a standard deviation per channel; both are buffers, not parameters.

    It sits inside a classifier, so that attacks act on images in [0, 1]. Until `fit` it changes nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take mean and standard deviation of images, float (N, C, H, W); a constant channel is only centered."""
        std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
        self.mean.copy_(mean.view(-1, 1, 1))
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def init_weights(model: nn.Module) -> None:
    """Initialize every convolution as He et al., 2015 (normal, fan-out), and every bias with zero.

    Batch normalizations keep torch's weight 1 and bias 0, linear weights torch's default. Torch counts the fan-out of a
    transposed convolution by its first axis, its input channels; a batch normalization follows each of ours.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
