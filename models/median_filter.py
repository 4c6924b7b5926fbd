"""Median filter: every pixel becomes the median of a square around it. An untrained control.

Xu et al., "Feature squeezing", NDSS 2018 (arXiv:1704.01155), section III-B: 2×2 for CIFAR-10 and 3×3. Window, border and the
upper median of an even number are SciPy's, which they and the Adversarial Robustness Toolbox (default 3) use.

`GRADIENT` is exact: it goes to the pixel that was chosen. Of equal pixels the one in the middle of their order is chosen,
so that in a flat region the gradient passes to the pixel itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._settings import check_int

VERSION = 1
ROLE = "purifier"
TRAINED = False
GRADIENT = "exact"


@dataclass(frozen=True)
class Config:
    """Settings of the filter.

    Attributes:
        kernel_size: Side of the square in pixels; 1 changes nothing.

    Raises:
        ValueError: If kernel_size is not a positive whole number.
    """

    kernel_size: int = 3

    def __post_init__(self) -> None:
        check_int("kernel_size", self.kernel_size)


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the filter for images of image_shape (C, H, W).

    Raises:
        ValueError: If the square is too large to be mirrored at the border.
    """
    del num_classes
    smallest = min(image_shape[1:])
    if config.kernel_size // 2 > smallest:
        raise ValueError(f"kernel_size must be at most {2 * smallest + 1} for {smallest} pixels, got {config.kernel_size}")
    return MedianFilter(config.kernel_size)


class MedianFilter(nn.Module):
    """Takes the median of kernel_size × kernel_size pixels of one channel, mirrored at the border, the edge pixel repeated.

    An even square cannot be centered: it reaches one pixel further up and left, and the larger of the two middle values is
    taken.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = self._mirror(self._mirror(images, 2), 3)
        offsets = [(row, column) for row in range(self.kernel_size) for column in range(self.kernel_size)]
        window = torch.stack([padded[:, :, row : row + height, column : column + width] for row, column in offsets], dim=-1)
        return window.sort(dim=-1, stable=True).values[..., len(offsets) // 2]  # stable: equal pixels, equal gradients

    def _mirror(self, images: Tensor, dim: int) -> Tensor:
        size, before, after = images.shape[dim], self.kernel_size // 2, (self.kernel_size - 1) // 2
        start, end = images.narrow(dim, 0, before), images.narrow(dim, size - after, after)
        return torch.cat([start.flip(dim), images, end.flip(dim)], dim)
