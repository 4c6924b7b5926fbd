"""Denoising autoencoder: the reformer of MagNet, which moves an image towards the clean ones it was trained on.

Meng and Chen, "MagNet: a two-pronged defense against adversarial examples", 2017 (arXiv:1705.09064), and the authors' code,
Trevillie/MagNet, `defensive_models.py` and `train_defense.py`, which fix: 3×3 convolutions, sigmoid after every one,
the first half mirrored by the second, Gaussian noise of 0.1 on training inputs, clipped, squared error, and an L2
penalty of 1e-9 on activations. Their detectors, the other prong, reject images instead of purifying them, and are left out.

The code has MNIST only: `widths` (3, 3) with `average` pooling is its MNIST I, `widths` (3,) its MNIST II. For CIFAR-10 we
infer the default, one level of 32 channels without pooling: the paper's table of it could not be read again, and is said to
use a noise of 0.025, while the default here is the code's 0.1. Departures: noise is drawn anew for each step, where the code
draws it once for the whole training, and it comes on top of whatever perturbed the inputs already; the penalty is averaged over
images, as tf.keras does.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._settings import check_choice, check_float, check_ints

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "exact"

POOLINGS = ("none", "average", "max")


@dataclass(frozen=True)
class Config:
    """Settings of the network and its loss.

    Attributes:
        widths: Channels of the convolutions of the first half; the second half has as many, mirrored, and one more.
        pooling: What halves the resolution between two convolutions of the first half: `none`, `average` or `max`.
        noise: Standard deviation of the noise on training inputs, in pixel units; 0 adds none.
        activity_weight: Weight of the squared activations, summed over an image's, averaged over images; 0 leaves it out.

    Raises:
        ValueError: If a setting is out of its range.
    """

    widths: tuple[int, ...] = (32,)
    pooling: str = "none"
    noise: float = 0.1
    activity_weight: float = 1e-9

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", check_ints("widths", self.widths))
        check_choice("pooling", self.pooling, POOLINGS)
        for name in ("noise", "activity_weight"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained autoencoder for images of image_shape (C, H, W); the number of classes does not matter.

    Raises:
        ValueError: If pooling does not divide height and width evenly.
    """
    del num_classes
    return DenoisingAutoencoder(config, image_shape)


class DenoisingAutoencoder(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to reformed ones of the same shape and range.

    Weights are uniform after Glorot and Bengio, 2010, and biases zero, as Keras does.
    """

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        unit = 1 if config.pooling == "none" else 2 ** (len(config.widths) - 1)
        if height % unit or width % unit:
            raise ValueError(f"pooling {config.pooling!r} with widths {config.widths} needs image sides divisible by {unit}, got {height}x{width}")
        self.config = config
        down = [channels, *config.widths]
        up = [config.widths[-1], *reversed(config.widths)]
        self.encoder = nn.ModuleList(nn.Conv2d(before, after, 3, 1, 1) for before, after in pairwise(down))
        self.decoder = nn.ModuleList(nn.Conv2d(before, after, 3, 1, 1) for before, after in pairwise(up))
        self.head = nn.Conv2d(config.widths[0], channels, 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def activations(self, images: Tensor) -> list[Tensor]:
        """Return the output of every convolution after its sigmoid; the last is the reformed image, at least float32."""
        features, outputs = images, []
        for level, convolution in enumerate(self.encoder):
            outputs.append(torch.sigmoid(convolution(self._pool(features) if level else features)))
            features = outputs[-1]
        for level, convolution in enumerate(self.decoder):
            outputs.append(torch.sigmoid(convolution(self._unpool(features) if level else features)))
            features = outputs[-1]
        logits = self.head(features)
        return [*outputs, torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))]

    def forward(self, images: Tensor) -> Tensor:
        return self.activations(images)[-1]

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return `reconstruction`, the mean squared error, plus the weighted `activity` as `loss`; the two terms detached.

        Args:
            inputs: Images that are purified, clean or perturbed, float (N, C, H, W) in [0, 1]; noise is added to them here.
            targets: The clean images, same shape.
            generator: Of the noise, on the images' device.
        """
        if self.config.noise > 0:
            noise = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
            inputs = (inputs + self.config.noise * noise).clamp(0, 1)
        activations = self.activations(inputs)
        reconstruction = F.mse_loss(activations[-1], targets)
        loss, terms = reconstruction, {"reconstruction": reconstruction.detach()}
        if self.config.activity_weight > 0:
            activity = torch.stack([output.float().square().sum() for output in activations]).sum() / len(inputs)
            loss = loss + self.config.activity_weight * activity
            terms["activity"] = activity.detach()
        return {"loss": loss, **terms}

    def _pool(self, features: Tensor) -> Tensor:
        if self.config.pooling == "none":
            return features
        return F.avg_pool2d(features, 2) if self.config.pooling == "average" else F.max_pool2d(features, 2)

    def _unpool(self, features: Tensor) -> Tensor:
        return features if self.config.pooling == "none" else F.interpolate(features, scale_factor=2.0, mode="nearest")
