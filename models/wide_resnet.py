"""Wide residual network, the paper's target classifier as WRN-28-10.

Zagoruyko and Komodakis, "Wide residual networks", 2016 (arXiv:1605.07146), laid out as in
xternalz/WideResNet-pytorch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._blocks import Normalization, init_weights
from ._settings import check_float, check_int

VERSION = 1
ROLE = "classifier"


@dataclass(frozen=True)
class Config:
    """Settings of the network.

    Attributes:
        depth: Number of convolution layers, 6 n + 4 for n blocks in each of three groups.
        width: Factor on the channels 16, 32, 64 of the groups.
        stem_stride: Stride of the first convolution; 2 halves height and width for the small scale.
        dropout: Probability in [0, 1) of dropping a value between the convolutions of a block.

    Raises:
        ValueError: If a setting is out of its range.
    """

    depth: int = 28
    width: int = 10
    stem_stride: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if (check_int("depth", self.depth, minimum=10) - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, …), got {self.depth}")
        check_int("width", self.width)
        check_int("stem_stride", self.stem_stride)
        object.__setattr__(self, "dropout", check_float("dropout", self.dropout, below=1.0))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained network for images of image_shape (C, H, W)."""
    return WideResNet(config, image_shape[0], num_classes)


class WideResNet(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to logits (N, num_classes)."""

    def __init__(self, config: Config, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [16, 16 * config.width, 32 * config.width, 64 * config.width]
        self.normalization = Normalization(channels)
        blocks: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, config.stem_stride, 1, bias=False)]
        for group, stride in enumerate((1, 2, 2)):
            for block in range((config.depth - 4) // 6):
                in_channels = widths[group] if block == 0 else widths[group + 1]
                blocks.append(_Block(in_channels, widths[group + 1], stride if block == 0 else 1, config.dropout))
        self.features = nn.Sequential(*blocks, nn.BatchNorm2d(widths[3]), nn.ReLU(inplace=True))
        self.head = nn.Linear(widths[3], num_classes)
        init_weights(self)

    def initialize(self, images: Tensor, generator: torch.Generator) -> None:
        """Take the normalization's mean and standard deviation per channel from images (N, C, H, W)."""
        del generator
        self.normalization.fit(images)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(self.normalization(images))
        return self.head(F.adaptive_avg_pool2d(features, 1).flatten(1))


class _Block(nn.Module):
    """Pre-activation block; where the shape changes, the 1×1 shortcut starts after the first normalization and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
        )
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        activated = self.activation(features)
        shortcut = features if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.residual(activated)
