"""Gaussian blur: every pixel becomes a weighted mean of its surroundings. An untrained control.

No paper is followed; half a pixel is a common choice for 32×32 images. Kernel (cut at four standard deviations) and border
are SciPy's `gaussian_filter`. `GRADIENT` is exact.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from ._settings import check_float

VERSION = 1
ROLE = "purifier"
TRAINED = False
GRADIENT = "exact"

_SIGMA_LIMIT = 100.0  # far beyond it every image is flat, and the kernel would only take memory


@dataclass(frozen=True)
class Config:
    """Settings of the blur.

    Attributes:
        sigma: Standard deviation of the kernel in pixels, in [0, 100); 0 changes nothing.

    Raises:
        ValueError: If sigma is out of its range.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", check_float("sigma", self.sigma, below=_SIGMA_LIMIT))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the blur for images of image_shape (C, H, W)."""
    del num_classes
    return GaussianBlur(config.sigma, image_shape[1], image_shape[2])


class GaussianBlur(nn.Module):
    """Blurs rows and columns, mirrored at the border, the edge pixel repeated, so that a constant stays and the mean too.

    The blur of one axis is a linear map of its pixels. As a matrix it is small for small images, exact at the border
    whatever sigma is, and its backward pass adds in the same order every time, which padding's does not on CUDA.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, sigma: float, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", _blur_matrix(sigma, height), persistent=False)
        self.register_buffer("columns", _blur_matrix(sigma, width), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (self.rows @ images @ self.columns.t()).clamp(0, 1)  # a weighted mean may round to just above 1


def _blur_matrix(sigma: float, size: int) -> Tensor:
    """Return the blur of an axis of size pixels as a matrix (size, size): column j is what becomes of a point at j."""
    points = gaussian_filter(np.eye(size), (sigma, 0), mode="reflect")
    return torch.from_numpy(points).to(torch.get_default_dtype())
