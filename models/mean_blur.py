"""Mean filter: every pixel becomes the mean of a square around it. An untrained control for learned purifiers."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

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

    kernel_size: int = 4

    def __post_init__(self) -> None:
        check_int("kernel_size", self.kernel_size)


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the filter for images of image_shape (C, H, W).

    Raises:
        ValueError: If the square is too large to be mirrored at the border.
    """
    del num_classes
    smallest = min(image_shape[1:])
    if config.kernel_size // 2 >= smallest:
        raise ValueError(f"kernel_size must be below {2 * smallest} for {smallest} pixels, got {config.kernel_size}")
    return MeanBlur(config.kernel_size)


class MeanBlur(nn.Module):
    """Averages kernel_size × kernel_size pixels, mirrored at the border (reflect, the edge pixel not repeated).

    An even square cannot be centered: it reaches one pixel further down and right, so that size 4 averages rows and
    columns i - 1 to i + 2.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, images: Tensor) -> Tensor:
        before, after = (self.kernel_size - 1) // 2, self.kernel_size // 2
        padded = F.pad(images, (before, after, before, after), mode="reflect")
        return F.avg_pool2d(padded, self.kernel_size, stride=1).clamp(0, 1)  # a mean may round to just above 1
