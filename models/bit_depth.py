"""Bit depth reduction: every pixel is rounded to the nearest of 2**bits levels. An untrained control.

Xu et al., "Feature squeezing", NDSS 2018 (arXiv:1704.01155), section III-A: 1 bit for MNIST, 4 to 5 for CIFAR-10.

`GRADIENT` is straight-through: backward, the rounding is the identity. Its true gradient is zero almost everywhere.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ._quantizers import straight_through
from ._settings import check_int

VERSION = 1
ROLE = "purifier"
TRAINED = False
GRADIENT = "straight_through"

_MAX_BITS = 8  # images come from 8-bit files


@dataclass(frozen=True)
class Config:
    """Settings of the rounding.

    Attributes:
        bits: Bits per channel, from 1 (black and white) to 8, which changes no image that comes from an 8-bit file.

    Raises:
        ValueError: If bits is not a whole number from 1 to 8.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if check_int("bits", self.bits) > _MAX_BITS:
            raise ValueError(f"bits must be a whole number from 1 to {_MAX_BITS}, got {self.bits}")


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the rounding; it is the same for all images."""
    del image_shape, num_classes
    return BitDepth(config.bits)


class BitDepth(nn.Module):
    """Rounds to multiples of 1 / (2**bits - 1), so that black and white stay what they are."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.steps = 2**bits - 1

    def forward(self, images: Tensor) -> Tensor:
        return straight_through(images, (images.detach() * self.steps).round() / self.steps)
