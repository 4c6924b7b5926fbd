"""APE-GAN: a generator, trained against a discriminator, that takes adversarial perturbations out of images.

Shen et al., "APE-GAN: Adversarial perturbation elimination with GAN", 2017 (arXiv:1707.05474), laid out as in
owruby/APE-GAN. It is meant to be trained on pairs of adversarial and clean images (train_input adv).

Departures from that code: the generator's output is (tanh + 1) / 2 instead of tanh, so that it lies in [0, 1]; the
discriminator's sigmoid is part of its loss (cross-entropy of logits); a generated image that only the discriminator
learns from is made without gradient. The weights 0.7 and 0.3, and two turns of the generator for one of the
discriminator, are also those of the paper's authors' code.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._settings import check_float, check_int

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "exact"


@dataclass(frozen=True)
class Config:
    """Settings of the two networks and their losses.

    Attributes:
        width: Channels of the generator at half resolution; it has twice as many at a quarter.
        discriminator_width: Channels of the discriminator after its first convolution; two more double them.
        mse_weight: Weight of the mean squared error to the clean image, xi_1.
        adversarial_weight: Weight of the adversarial loss, xi_2.
        generator_turns: How often the generator moves for each move of the discriminator.

    Raises:
        ValueError: If a setting is out of its range.
    """

    width: int = 64
    discriminator_width: int = 64
    mse_weight: float = 0.7
    adversarial_weight: float = 0.3
    generator_turns: int = 2

    def __post_init__(self) -> None:
        for name in ("width", "discriminator_width", "generator_turns"):
            check_int(name, getattr(self, name))
        for name in ("mse_weight", "adversarial_weight"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return untrained networks for images of image_shape (C, H, W); the number of classes does not matter.

    Raises:
        ValueError: If height or width is not divisible by 4, or below 16.
    """
    del num_classes
    _, height, width = image_shape
    if height % 4 or width % 4 or min(height, width) < 16:
        raise ValueError(f"ape_gan needs image height and width of at least 16, divisible by 4, got {height}x{width}")
    return APEGAN(config, image_shape)


class APEGAN(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to purified images of the same shape and range."""

    training_only = ("discriminator",)

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        channels, height, width = image_shape
        self.generator = _generator(channels, config.width)
        self.discriminator = _discriminator(channels, config.discriminator_width, _reduced(height) * _reduced(width))

    def forward(self, images: Tensor) -> Tensor:
        output = self.generator(images)
        return (torch.tanh(output.to(torch.promote_types(output.dtype, torch.float32))) + 1) / 2

    def optimizer_options(self) -> dict[str, object]:
        """Return the momenta for Adam; the learning rate that belongs to them is 2e-4."""
        return {"betas": (0.5, 0.999)}

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the generator, and of the discriminator."""
        return {"generator": list(self.generator.parameters()), "discriminator": list(self.discriminator.parameters())}

    def training_turns(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield the discriminator's loss, then the generator's, which sees the updated networks, generator_turns times.

        The discriminator's is the cross-entropy of targets as real plus that of purified inputs as made; the generator's
        is mse_weight L_mse + adversarial_weight L_adv, L_adv the cross-entropy of purified inputs as real. Terms are
        detached and unweighted.

        Args:
            inputs: Perturbed images, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape.
            generator: Not used, since nothing here is drawn at random.
        """
        del generator
        with torch.no_grad():
            purified = self(inputs)
        discriminator = _cross_entropy(self.discriminator(targets), True) + _cross_entropy(self.discriminator(purified), False)
        yield "discriminator", {"loss": discriminator, "discriminator": discriminator.detach()}
        for _ in range(self.config.generator_turns):
            purified = self(inputs)
            reconstruction = F.mse_loss(purified, targets)
            adversarial = _cross_entropy(self.discriminator(purified), True)
            yield (
                "generator",
                {
                    "loss": self.config.mse_weight * reconstruction + self.config.adversarial_weight * adversarial,
                    "reconstruction": reconstruction.detach(),
                    "generator_adversarial": adversarial.detach(),
                },
            )


def _generator(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(inplace=True),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(inplace=True),
        nn.ConvTranspose2d(width, channels, 4, 2, 1),
    )


def _discriminator(channels: int, width: int, num_pixels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, 2),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(2 * width, 4 * width, 3, 2),
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * width * num_pixels, 1),
    )


def _reduced(size: int) -> int:
    """Return the height or width after three unpadded 3×3 convolutions of stride 2."""
    for _ in range(3):
        size = (size - 1) // 2
    return size


def _cross_entropy(logits: Tensor, is_real: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, float(is_real), dtype=torch.float32))
