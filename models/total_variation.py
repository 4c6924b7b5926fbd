"""Total variation minimization: the image nearby whose neighbouring pixels differ least. An untrained control.

Rudin, Osher and Fatemi, 1992: minimize |u - x|² / 2 + weight * TV(u) over images u, for each channel by itself, by the
projection algorithm of Chambolle, 2004 (J. Math. Imaging Vis. 20, 89-97), which scikit-image's `denoise_tv_chambolle` runs
too. Here it takes a fixed number of steps on a whole batch, so that autograd gives an attacker the exact gradient
(`GRADIENT`), and no image's result depends on a stopping rule.

Guo et al., 2018 (arXiv:1711.00117) keep a random share of the pixels and fill in the others. That is left out:
a random purifier has to be attacked in expectation, many gradients per step, and every score here is a function of the image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._settings import check_float, check_int

VERSION = 1
ROLE = "purifier"
TRAINED = False
GRADIENT = "exact"

_STEP_SIZE = 0.25  # 1 / (2 * 2 axes), as in scikit-image
_SQUARE_MIN = 1e-30  # of a slope's length: as good as 0 in pixels, and its root is still a float32


@dataclass(frozen=True)
class Config:
    """Settings of the minimization.

    Attributes:
        weight: Weight of the total variation, above 0, in pixel units; the larger, the smoother.
        num_steps: Steps of the algorithm. After 50 pixels are within 0.02 of the minimum at weight 0.1.

    Raises:
        ValueError: If a setting is out of its range.
    """

    weight: float = 0.1
    num_steps: int = 50

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", check_float("weight", self.weight))
        if self.weight == 0:
            raise ValueError("weight must be above 0, got 0")
        check_int("num_steps", self.num_steps)


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the minimization; it is the same for all images."""
    del image_shape, num_classes
    return TotalVariation(config.weight, config.num_steps)


class TotalVariation(nn.Module):
    """Returns images minus the divergence of a field of two numbers per pixel, of length at most weight: the dual problem's."""

    def __init__(self, weight: float, num_steps: int) -> None:
        super().__init__()
        self.weight = weight
        self.num_steps = num_steps

    def forward(self, images: Tensor) -> Tensor:
        field = images.new_zeros(2, *images.shape)
        smooth = images
        for _ in range(self.num_steps):
            slopes = _slopes(smooth)
            # in a flat region both slopes are 0, where the square root's gradient is infinite; clamped, it is 0
            length = slopes.square().sum(0).clamp(min=_SQUARE_MIN).sqrt()
            field = (field + _STEP_SIZE * slopes) / (1 + _STEP_SIZE / self.weight * length)
            smooth = images + _divergence(field)
        return smooth.clamp(0, 1)


def _slopes(images: Tensor) -> Tensor:
    """Return the differences to the pixel below and to the right, (2, N, C, H, W), 0 at the last row or column."""
    return torch.stack([F.pad(images.diff(dim=-2), (0, 0, 0, 1)), F.pad(images.diff(dim=-1), (0, 1))])


def _divergence(field: Tensor) -> Tensor:
    """Return how much of field (2, N, C, H, W), which is 0 at the last row or column, leaves each pixel: minus the adjoint of `_slopes`."""
    down, right = field
    return down - F.pad(down[..., :-1, :], (0, 0, 1, 0)) + right - F.pad(right[..., :-1], (1, 0))
