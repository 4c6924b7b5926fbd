"""High-level representation guided denoiser (HGD): a U-Net that subtracts what changes a classifier's logits.

Liao et al., "Defense against adversarial attacks using high-level representation guided denoiser", 2018
(arXiv:1712.02976), laid out as in lfz/Guided-Denoise. Of its losses this is LGD, the L1 distance of
logits: FGD needs inner features, which a classifier does not hand out here, and CGD needs labels, which a purifier does
not see. It is meant to be trained on adversarial images (train_input adv); on clean ones an output of zero noise is
already perfect. Its authors train with Adam at 1e-2, a tenth of it
from 60 % of the epochs and a hundredth from 90 %; here the schedule is the trial's.

That code does not clip the denoised image, and neither does training here. Purified images are clipped to [0, 1], and the
gradient of clipping is taken as the identity: many pixels of an image are exactly 0 or 1, where the true gradient is lost
to an attacker as soon as the predicted noise points outward. Upsampling is bilinear, aligned to pixel areas.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._blocks import conv_bn_relu
from ._quantizers import straight_through
from ._settings import check_int

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "straight_through"
NEEDS_TARGET = True


@dataclass(frozen=True)
class Config:
    """Settings of the network.

    Attributes:
        width: Channels at full resolution, on the way down and on the way back; they double twice: 64, 128, 256, 256, 256.
        depth: Number of halvings.

    Raises:
        ValueError: If a setting is not a positive whole number.
    """

    width: int = 64
    depth: int = 4

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            check_int(name, getattr(self, name))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained denoiser for images of image_shape (C, H, W); the number of classes does not matter.

    Raises:
        ValueError: If the image has fewer than 2**depth pixels in height or width.
    """
    del num_classes
    channels, height, width = image_shape
    if min(height, width) < 2**config.depth:
        raise ValueError(f"depth {config.depth} needs image height and width of at least {2**config.depth}, got {height}x{width}")
    return GuidedDenoiser(config, channels)


class GuidedDenoiser(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to purified images of the same shape and range.

    Two 3×3 convolutions at full resolution, three at each depth, the first of stride 2; back the same, after
    upsampling and concatenation. Each is followed by batch normalization and ReLU.
    """

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
        self._target: tuple[nn.Module, ...] = ()  # a tuple hides it from the state dict and the parameters
        widths = [config.width * min(2**level, 4) for level in range(config.depth + 1)]
        self.down = nn.ModuleList([_convolutions(channels, widths[0], 2)])
        self.up = nn.ModuleList()  # the level at full resolution first
        for level in range(1, config.depth + 1):
            self.down.append(_convolutions(widths[level - 1], widths[level], 3, stride=2))
            self.up.append(_convolutions(widths[level] + widths[level - 1], widths[level - 1], 2 if level == 1 else 3))
        self.head = nn.Conv2d(widths[0], channels, 1, bias=False)

    def guide(self, classifier: nn.Module) -> None:
        """Take the classifier whose logits training compares; it is no part of the denoiser's weights.

        Args:
            classifier: Images (N, C, H, W) in [0, 1] to logits, in eval mode, its parameters frozen, on the same device.

        Raises:
            ValueError: If the classifier is in training mode or a parameter of it would receive a gradient.
        """
        if classifier.training or any(parameter.requires_grad for parameter in classifier.parameters()):
            raise ValueError("the guiding classifier must be in eval mode with frozen parameters, got one that could still change")
        self._target = (classifier,)

    def denoise(self, images: Tensor) -> Tensor:
        """Return images plus the predicted negative noise, not clipped."""
        features, skips = images, []
        for block in self.down:
            features = block(features)
            skips.append(features)
        for level in range(len(self.up) - 1, -1, -1):
            features = F.interpolate(features, size=skips[level].shape[2:], mode="bilinear", align_corners=False)
            features = self.up[level](torch.cat([features, skips[level]], dim=1))
        return images + self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return _clip(self.denoise(images))

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the L1 distance of the classifier's logits, averaged, as `loss`, and `reconstruction` detached.

        The paper's LGD. Logits are of the unclipped denoised inputs; `reconstruction`, which is not
        minimised, is the mean squared error of the clipped ones to the targets.

        Args:
            inputs: Perturbed images, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape.
            generator: Not used, since nothing here is drawn at random.

        Raises:
            RuntimeError: If there is no classifier yet.
        """
        del generator
        if not self._target:
            raise RuntimeError("guided_denoiser is trained by a classifier's logits; call guide(classifier) first")
        (classifier,) = self._target
        denoised = self.denoise(inputs)
        with torch.no_grad():
            wanted = classifier(targets).float()
        return {
            "loss": F.l1_loss(classifier(denoised).float(), wanted),
            "reconstruction": F.mse_loss(_clip(denoised.detach()), targets),
        }


def _clip(images: Tensor) -> Tensor:
    return straight_through(images, images.detach().clamp(0, 1))


def _convolutions(in_channels: int, out_channels: int, number: int, stride: int = 1) -> nn.Sequential:
    first = conv_bn_relu(in_channels, out_channels, stride)
    return nn.Sequential(first, *(conv_bn_relu(out_channels, out_channels) for _ in range(number - 1)))
