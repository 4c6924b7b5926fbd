"""non-VQUNet: the U-Net of `vqunet` without quantizers, the paper's own control.

He and Singhal, 2024 (arXiv:2406.03117), figures 3 and 4. Its latents hold more numbers than the image, so trained on
clean images it can come close to the identity and then removes nothing; train it on noise for a fairer control.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._settings import check_float, check_int, with_weights
from ._unet import UNet

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "exact"
AFTER_TRAINING = ("passes",)
LOSS_WEIGHTS = ("alpha",)


@dataclass(frozen=True)
class Config:
    """Settings of the network and its loss, each as in `vqunet`.

    Attributes:
        depth: Number of halvings.
        base_width: Channels of the stem; depth d has base_width * 2**d.
        alpha: Weight of the reconstruction loss, the only one.
        passes: How often a purification applies the network.

    Raises:
        ValueError: If a setting is out of its range.
    """

    depth: int = 4
    base_width: int = 32
    alpha: float = 1.0
    passes: int = 1

    def __post_init__(self) -> None:
        for name in ("depth", "base_width", "passes"):
            check_int(name, getattr(self, name))
        object.__setattr__(self, "alpha", check_float("alpha", self.alpha))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained non-VQUNet for images of image_shape (C, H, W); the number of classes does not matter."""
    del num_classes
    return PlainUNet(config, image_shape)


class PlainUNet(UNet):
    """The U-Net whose latents are handed on as they are."""

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape, config.depth, config.base_width, config.passes)
        self.config = config

    def set_loss_weights(self, **weights: float) -> None:
        """Change some of `LOSS_WEIGHTS` for the steps to come; purification does not read them."""
        self.config = with_weights(self.config, weights, LOSS_WEIGHTS)

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return alpha L_rec, eq. (2), as `loss`, and `reconstruction` detached; images as in `vqunet`, nothing is drawn."""
        del generator
        reconstruction = F.mse_loss(self.decode(self.encode(inputs)), targets)
        return {"loss": self.config.alpha * reconstruction, "reconstruction": reconstruction.detach()}
