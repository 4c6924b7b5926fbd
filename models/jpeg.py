"""JPEG compression: every image is written as a JPEG file in memory and read back. An untrained control.

Dziugaite et al., "A study of the effect of JPG compression on adversarial images", 2016 (arXiv:1608.00853), and Guo et al.,
2018 (arXiv:1711.00117); quality 50 is the default of the Adversarial Robustness Toolbox. Pillow compresses.

`GRADIENT` is straight-through: backward, the whole round trip is the identity, as in Athalye et al., 2018 (arXiv:1802.00420),
section 4.1. Its true gradient is zero almost everywhere, since pixels and coefficients are rounded.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ._quantizers import straight_through
from ._settings import check_choice, check_int

VERSION = 1
ROLE = "purifier"
TRAINED = False
GRADIENT = "straight_through"

SUBSAMPLINGS = ("4:2:0", "4:4:4")
_MAX_QUALITY = 95  # Pillow's handbook: above, files grow with hardly any gain, and 100 switches parts of the compression off


@dataclass(frozen=True)
class Config:
    """Settings of the compression.

    Attributes:
        quality: From 1 (smallest file) to 95 (nearest to the image), on libjpeg's scale.
        subsampling: `4:2:0` halves the rows and columns of the two colour channels, `4:4:4` keeps them. A gray image has
            none, so there it changes nothing.

    Raises:
        ValueError: If a setting is out of its range.
    """

    quality: int = 50
    subsampling: str = "4:2:0"

    def __post_init__(self) -> None:
        if check_int("quality", self.quality) > _MAX_QUALITY:
            raise ValueError(f"quality must be a whole number from 1 to {_MAX_QUALITY}, got {self.quality}")
        check_choice("subsampling", self.subsampling, SUBSAMPLINGS)


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the compression for images of image_shape (C, H, W).

    Raises:
        ValueError: If images have neither 1 nor 3 channels.
    """
    del num_classes
    if image_shape[0] not in (1, 3):
        raise ValueError(f"jpeg needs images of 1 or 3 channels, got {image_shape[0]}")
    return Jpeg(config.quality, config.subsampling)


class Jpeg(nn.Module):
    """Compresses images one by one, on the CPU wherever they are; pixels are rounded to the 256 levels of a file first."""

    def __init__(self, quality: int, subsampling: str) -> None:
        super().__init__()
        self.quality = quality
        self.subsampling = subsampling

    def forward(self, images: Tensor) -> Tensor:
        levels = (images.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).movedim(1, -1)  # (N, H, W, C)
        decoded = np.stack([self._round_trip(pixels) for pixels in levels.numpy()])
        return straight_through(images, torch.from_numpy(decoded).movedim(-1, 1).to(images) / 255)

    def _round_trip(self, pixels: np.ndarray) -> np.ndarray:
        file = BytesIO()
        picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        picture.save(file, "JPEG", quality=self.quality, subsampling=self.subsampling)
        with Image.open(file) as compressed:
            return np.asarray(compressed).reshape(pixels.shape)
