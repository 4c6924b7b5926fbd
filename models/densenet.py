"""Densely connected network; three of them are the sources of the paper's transfer attacks.

Huang et al., "Densely connected convolutional networks", 2017 (arXiv:1608.06993), in the layout of
andreasveit/densenet-pytorch. The three that the paper leaves open are, by default of this project:
plain-40-12 `Config()`, BC-100-12 `Config(depth=100, bottleneck=True, compression=0.5)`, and DenseNet-121 for 32×32
images `Config(block_layers=(6, 12, 24, 16), growth=32, bottleneck=True, compression=0.5)`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._blocks import Normalization, init_weights
from ._settings import check_bool, check_float, check_int, check_ints

VERSION = 1
ROLE = "classifier"


@dataclass(frozen=True)
class Config:
    """Settings of the network.

    Attributes:
        depth: Number of layers with weights, which gives three equal blocks: 3 n + 4, or 6 n + 4 with bottleneck.
            None is 40, or what block_layers make it.
        growth: Channels that each layer adds, k.
        bottleneck: Whether a 1×1 convolution to 4 k channels precedes each 3×3 convolution.
        compression: Share of channels that a transition keeps, in (0, 1].
        stem: Channels of the first convolution; None is 16, or 2 k with bottleneck.
        stem_stride: Stride of the first convolution; 2 halves height and width for the small scale.
        block_layers: Layers in each block, for blocks that are not three equal ones.

    Raises:
        ValueError: If a setting is out of its range, or depth and block_layers disagree.
    """

    depth: int | None = None
    growth: int = 12
    bottleneck: bool = False
    compression: float = 1.0
    stem: int | None = None
    stem_stride: int = 1
    block_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_bool("bottleneck", self.bottleneck)
        check_int("growth", self.growth)
        check_int("stem_stride", self.stem_stride)
        if self.stem is not None:
            check_int("stem", self.stem)
        object.__setattr__(self, "compression", check_float("compression", self.compression))
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must lie in (0, 1], got {self.compression}")
        self._settle_depth()

    def _settle_depth(self) -> None:
        """Give one network one spelling: depth always set, block_layers only where depth does not say them."""
        convolutions = 2 if self.bottleneck else 1
        layers = None if self.block_layers is None else check_ints("block_layers", self.block_layers)
        counted = None if layers is None else 1 + convolutions * sum(layers) + len(layers)  # stem, transitions, linear
        depth = self.depth if self.depth is not None else counted or 40
        if counted is not None and depth != counted:
            raise ValueError(f"block_layers {layers} make depth {counted}, got depth {depth}; leave one of them out")
        if layers is None and (check_int("depth", depth, minimum=7) - 4) % (3 * convolutions):
            raise ValueError(f"depth must be {3 * convolutions} n + 4 with bottleneck={self.bottleneck}, got {depth}")
        equal_blocks = layers is not None and len(layers) == 3 and len(set(layers)) == 1
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "block_layers", None if equal_blocks else layers)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers in each block, from whichever setting says them."""
        if self.block_layers is not None:
            return self.block_layers
        assert self.depth is not None
        return ((self.depth - 4) // (6 if self.bottleneck else 3),) * 3


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained network for images of image_shape (C, H, W).

    Raises:
        ValueError: If the image is too small to be halved between the blocks.
    """
    needed = config.stem_stride * 2 ** (len(config.layers) - 1)
    if min(image_shape[1:]) < needed:
        raise ValueError(f"{len(config.layers)} blocks with stem_stride {config.stem_stride} need {needed} pixels a "
                         f"side, got {image_shape[1]}x{image_shape[2]}")  # fmt: skip
    return DenseNet(config, image_shape[0], num_classes)


class DenseNet(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to logits (N, num_classes)."""

    def __init__(self, config: Config, channels: int, num_classes: int) -> None:
        super().__init__()
        width = config.stem or (2 * config.growth if config.bottleneck else 16)
        self.normalization = Normalization(channels)
        modules: list[nn.Module] = [nn.Conv2d(channels, width, 3, config.stem_stride, 1, bias=False)]
        for block, num_layers in enumerate(config.layers):
            if block > 0:
                modules.append(_transition(width, int(width * config.compression)))
                width = int(width * config.compression)
            modules += [_Layer(width + i * config.growth, config.growth, config.bottleneck) for i in range(num_layers)]
            width += num_layers * config.growth
        self.features = nn.Sequential(*modules, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, num_classes)
        init_weights(self)

    def initialize(self, images: Tensor, generator: torch.Generator) -> None:
        """Take the normalization's mean and standard deviation per channel from images (N, C, H, W)."""
        del generator
        self.normalization.fit(images)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(self.normalization(images))
        return self.head(F.adaptive_avg_pool2d(features, 1).flatten(1))


class _Layer(nn.Module):
    """Appends growth channels to its input: BN-ReLU-conv3, or BN-ReLU-conv1-BN-ReLU-conv3 with bottleneck."""

    def __init__(self, in_channels: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        width = 4 * growth if bottleneck else in_channels
        narrow = [_bn_relu(in_channels), nn.Conv2d(in_channels, width, 1, bias=False)] if bottleneck else []
        self.layer = nn.Sequential(*narrow, _bn_relu(width), nn.Conv2d(width, growth, 3, 1, 1, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, self.layer(features)], dim=1)


def _bn_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(_bn_relu(in_channels), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.AvgPool2d(2))
