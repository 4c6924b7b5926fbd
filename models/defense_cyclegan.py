"""Defense-CycleGAN: perturbed images are translated into clean ones by a CycleGAN. A reconstruction.

Its own text could not be had. He and Singhal ("VQUNet", 2024, arXiv:2406.03117, section 2.1) say only that cycle
consistency trains two denoising generators, the first moving images to another domain, the second bringing them back. So
this is CycleGAN (Zhu et al., 2017, arXiv:1703.10593) with the settings of its authors' code; domain A holds the inputs
(perturbed), domain B the targets (clean).

It needs the perturbed domain (train_input adv or gauss), so it knows something that a VQUNet trained on clean images does
not; trained with train_input clean, A is B and it learns an identity. With purify `cycle` the first generator may hide
the perturbation in its output and the second bring it back, as cycle-consistent networks are known to do (Chu et al.,
"CycleGAN, a master of steganography", 2017, arXiv:1712.02950).

Departures from CycleGAN: batches instead of single images, a discriminator for small images (2 halvings instead of 3), the
trial's learning rate schedule; and since a batch brings the same images as inputs and as targets, shuffling the targets
leaves both domains with the same contents in every step (no loss compares an input with its own target). Perturbed images
are what train_input says, such as FGSM on the undefended target, where a mixture with PGD would be closer to an attacker.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._cyclegan import Generator, ImagePool, PatchDiscriminator, least_squares
from ._settings import check_choice, check_float, check_int

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "exact"
AFTER_TRAINING = ("purify",)

PURIFY = ("single", "cycle")


@dataclass(frozen=True)
class Config:
    """Settings of the four networks, their losses and the purification.

    Attributes:
        width: Channels of a generator at full resolution; two halvings double them.
        num_blocks: Residual blocks of a generator; CycleGAN has 6 up to 128×128 pixels and 9 above.
        discriminator_width: Channels of a discriminator after its first halving.
        discriminator_layers: Halvings of a discriminator, 3 in CycleGAN.
        cycle_weight: Weight of the cycle loss, lambda; distances are those of images in [-1, 1].
        identity_weight: Weight of the identity loss, as a factor on cycle_weight.
        pool_size: Made images that are kept per domain; 0 keeps none.
        purify: `single` is G_AB(x), `cycle` is G_AB(G_BA(x)), the literal reading of "out and back".

    Raises:
        ValueError: If a setting is out of its range.
    """

    width: int = 64
    num_blocks: int = 6
    discriminator_width: int = 64
    discriminator_layers: int = 2
    cycle_weight: float = 10.0
    identity_weight: float = 0.5
    pool_size: int = 50
    purify: str = "single"

    def __post_init__(self) -> None:
        for name in ("width", "discriminator_width", "discriminator_layers"):
            check_int(name, getattr(self, name))
        for name in ("num_blocks", "pool_size"):
            check_int(name, getattr(self, name), minimum=0)
        for name in ("cycle_weight", "identity_weight"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))
        check_choice("purify", self.purify, PURIFY)


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return untrained networks for images of image_shape (C, H, W); the number of classes does not matter.

    Raises:
        ValueError: If height or width is not divisible by 4, or too small for the discriminator.
    """
    del num_classes
    _, height, width = image_shape
    if height % 4 or width % 4:
        raise ValueError(f"defense_cyclegan needs image height and width divisible by 4, got {height}x{width}")
    smallest = 3 * 2**config.discriminator_layers  # below, a normalization would see a single pixel
    if min(height, width) < smallest:
        raise ValueError(f"discriminator_layers {config.discriminator_layers} needs images of at least {smallest} pixels, got {height}x{width}")
    return DefenseCycleGAN(config, image_shape)


class DefenseCycleGAN(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to purified images of the same shape and range.

    Two generators, G_AB (`to_clean`) and G_BA (`to_perturbed`), and a discriminator and a pool of made images per domain.
    Inside, images are in [-1, 1].
    """

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        channels = image_shape[0]
        self.to_clean = Generator(channels, config.width, config.num_blocks)
        self.to_perturbed = Generator(channels, config.width, config.num_blocks)
        self.clean_discriminator = PatchDiscriminator(channels, config.discriminator_width, config.discriminator_layers)
        self.perturbed_discriminator = PatchDiscriminator(channels, config.discriminator_width, config.discriminator_layers)
        self.clean_pool = ImagePool(config.pool_size, image_shape)
        self.perturbed_pool = ImagePool(config.pool_size, image_shape)

    @property
    def training_only(self) -> tuple[str, ...]:
        """The networks that purification does not use; with purify `cycle` it uses both generators."""
        discriminators = ("clean_discriminator", "perturbed_discriminator")
        return discriminators if self.config.purify == "cycle" else ("to_perturbed", *discriminators)

    def forward(self, images: Tensor) -> Tensor:
        signed = _signed(images)
        if self.config.purify == "cycle":
            signed = self.to_perturbed(signed)
        return _unit(self.to_clean(signed))

    def optimizer_options(self) -> dict[str, object]:
        """Return CycleGAN's momenta for Adam; its learning rate is 2e-4."""
        return {"betas": (0.5, 0.999)}

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of both generators, and of both discriminators."""
        return {
            "generator": [*self.to_clean.parameters(), *self.to_perturbed.parameters()],
            "discriminator": [*self.clean_discriminator.parameters(), *self.perturbed_discriminator.parameters()],
        }

    def training_turns(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield the generators' loss, then the discriminators', each with its terms detached and unweighted.

        Zhu et al., eq. (3) with the least-squares losses of section 4 and the identity loss of section 5.2. Each
        discriminator's loss is halved; it judges made images from the pools. Distances are those of images in [-1, 1],
        but `reconstruction`, for the tables, is the mean squared error of purified inputs to their targets in [0, 1].

        Args:
            inputs: Images of domain A, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape; shuffled they are domain B.
            generator: Shuffles the targets and draws from the pools, on the images' device.
        """
        perturbed = _signed(inputs)
        clean = _signed(targets[torch.randperm(len(targets), generator=generator, device=targets.device)])
        made_clean, made_perturbed = self.to_clean(perturbed), self.to_perturbed(clean)
        adversarial = least_squares(self.clean_discriminator(made_clean), True) + least_squares(self.perturbed_discriminator(made_perturbed), True)
        cycle = F.l1_loss(self.to_perturbed(made_clean), perturbed) + F.l1_loss(self.to_clean(made_perturbed), clean)
        identity = F.l1_loss(self.to_clean(clean), clean) + F.l1_loss(self.to_perturbed(perturbed), perturbed)
        made_clean_only, made_perturbed_only = made_clean.detach(), made_perturbed.detach()
        yield (
            "generator",
            {
                "loss": adversarial + self.config.cycle_weight * (cycle + self.config.identity_weight * identity),
                "generator_adversarial": adversarial.detach(),
                "cycle": cycle.detach(),
                "identity": identity.detach(),
                "reconstruction": F.mse_loss(_unit(made_clean_only), targets),
            },
        )
        discriminator = _judge(self.clean_discriminator, clean, self.clean_pool.exchange(made_clean_only, generator)) + _judge(
            self.perturbed_discriminator, perturbed, self.perturbed_pool.exchange(made_perturbed_only, generator)
        )
        yield "discriminator", {"loss": discriminator, "discriminator": discriminator.detach()}


def _judge(discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    return (least_squares(discriminator(real), True) + least_squares(discriminator(made), False)) / 2


def _signed(images: Tensor) -> Tensor:
    return 2 * images - 1


def _unit(signed: Tensor) -> Tensor:
    return (signed + 1) / 2
