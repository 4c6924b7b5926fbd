"""ComDefend: compression to 12 bits per pixel and reconstruction, both learned, the bits made robust by heavy noise.

Jia et al., "ComDefend: An efficient image compression model to defend adversarial examples", CVPR 2019 (arXiv:1811.12673), and
the authors' `Train_comdefend_Torch.py`: two chains of 3×3 convolutions with ELU. In training the code's bits are
sigmoid(code - noise), noise ~ N(0, 20²): so wide that only codes far from 0 carry information, as bits do.

Departures. The authors' test adds the noise too, before rounding, which makes the defense random; we round the code itself.
Their script trains on whole 32×32 images of SVHN with Adam at 1e-2 for 10 epochs of batches of 128, and larger images they cut
into patches; ours are 32×32 and whole. The learning rate is the training's, as for any purifier; inputs may be perturbed, with
the clean image as the target. Gray images are ours: one channel in and out. Their TensorFlow version subtracts 0.5 from the
images first, the one that we follow does not.

`GRADIENT` is straight-through: forward the rounded bits, backward the mean training bits, `expected_bits`. The rounded
sigmoid's own backward without the noise is flat where training put the codes. Measured with a small ComDefend on digits (one
seed, adaptive PGD, epsilon 0.1), accuracy falls to 0.29 this way, to 0.49 through the sigmoid and to 0.60 through the identity.
"""

from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._quantizers import straight_through
from ._settings import check_float, check_int

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "straight_through"

CODE_BITS = 12  # per pixel, as many as the paper's
_COMPRESSION = (1, 2, 4, 8, 16, 8, 4, 2)  # hidden channels, in multiples of the width
_RECONSTRUCTION = (2, 4, 8, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Config:
    """Settings of the networks and their loss; the defaults are the authors'.

    Attributes:
        width: Channels of the first hidden layer; the widest has 16 times as many.
        noise: Standard deviation of the noise on the code in training, in the code's units; 0 trains without.
        code_weight: Weight of the mean squared code bit, which makes bits that are 1 expensive.

    Raises:
        ValueError: If a setting is out of its range.
    """

    width: int = 16
    noise: float = 20.0
    code_weight: float = 1e-4

    def __post_init__(self) -> None:
        check_int("width", self.width)
        for name in ("noise", "code_weight"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained ComDefend for images of image_shape (C, H, W); weights start as torch's, like the authors'."""
    del num_classes
    return ComDefend(config, image_shape[0])


class ComDefend(nn.Module):
    """`compress` gives the code, float (N, 12, H, W), a bit being 1 where it is above 0; `reconstruct` makes images of bits."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
        self.compress = _chain(channels, [multiple * config.width for multiple in _COMPRESSION], CODE_BITS)
        self.reconstruct = _chain(CODE_BITS, [multiple * config.width for multiple in _RECONSTRUCTION], channels)
        self.reconstruct.append(nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        code = self.compress(images)
        return self.reconstruct(straight_through(expected_bits(code, self.config.noise), (code.detach() > 0).to(code)))

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return MSE plus code_weight times the mean squared bit as `loss`, and both terms detached.

        Args:
            inputs: Images that are purified, clean or perturbed, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape.
            generator: Draws the noise; on the images' device.
        """
        code = self.compress(inputs)
        noise = torch.randn(code.shape, generator=generator, device=code.device)
        bits = torch.sigmoid(code.float() - self.config.noise * noise)  # float32 also under autocast
        reconstruction = F.mse_loss(self.reconstruct(bits).float(), targets)
        code_length = bits.square().mean()
        loss = reconstruction + self.config.code_weight * code_length
        return {"loss": loss, "reconstruction": reconstruction.detach(), "code_length": code_length.detach()}

    def optimizer_options(self) -> dict[str, object]:
        """Return what the authors' script sets for Adam besides the learning rate."""
        return {"betas": (0.5, 0.999)}


def expected_bits(code: Tensor, noise: float) -> Tensor:
    """Return the mean of sigmoid(code - n) over n ~ N(0, noise²), by MacKay's approximation (1992, Neural Computation 4, 720)."""
    return torch.sigmoid(code / sqrt(1 + pi * noise**2 / 8))


def _chain(in_channels: int, hidden: list[int], out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in hidden:
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ELU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*layers, nn.Conv2d(in_channels, out_channels, 3, padding=1))
