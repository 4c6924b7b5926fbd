"""Defense-VAE: a variational autoencoder that reproduces the clean image from a clean or an adversarial one.

Li et al., "Defense-VAE: A fast and accurate defense against adversarial attacks", 2019 (arXiv:1812.06570). Two recipes go by
this name. The paper's objective has the whole KL term: `kl_weight` 1, the default here. The authors' released script,
lxuniverse/defense-vae, `white_box/vae_conv_train_multi.py`, weighs it with 0, an autoencoder that still samples, and trains
on pairs of an adversarial and a clean image: that is `kl_weight` 0 together with adversarial training inputs (the trial's
`train_input` = `adv`), Adam with learning rate 5e-4. Their pairs are of FGSM, RAND-FGSM and CW at epsilon 0.2 to 0.35, in
batches of 16 for 5 epochs; `adv` is FGSM alone, at an epsilon uniform from 0.

Departures: the network is the authors' brought to 32×32 (see `_vae.py`), the loss is their sum divided by constants, and
`forward` evaluates as it should. Their evaluation script sets `training = False` on the outermost module only, so latents are
means, but batch normalization keeps normalizing with the statistics of the test batch, and an image's purification depends
on its neighbors. Here `eval()` reaches every layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._settings import check_float, check_int, with_weights
from ._vae import VAE, variational_loss

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "exact"
LOSS_WEIGHTS = ("kl_weight",)


@dataclass(frozen=True)
class Config:
    """Settings of the network and its loss.

    Attributes:
        width: Channels at full resolution; 2 width and 4 width at the two lowest.
        latent_dim: Length of a latent.
        kl_weight: Weight of the KL divergence, r in the authors' code; 0 leaves it out.

    Raises:
        ValueError: If a setting is out of its range.
    """

    width: int = 64
    latent_dim: int = 128
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "latent_dim"):
            check_int(name, getattr(self, name))
        object.__setattr__(self, "kl_weight", check_float("kl_weight", self.kl_weight))


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained Defense-VAE for images of image_shape (C, H, W); the number of classes does not matter."""
    del num_classes
    return DefenseVAE(config, image_shape)


class DefenseVAE(VAE):
    """The autoencoder with cross-entropy and KL as its loss."""

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape, config.width, config.latent_dim)
        self.config = config

    def set_loss_weights(self, **weights: float) -> None:
        """Change some of `LOSS_WEIGHTS` for the steps to come; purification does not read them."""
        self.config = with_weights(self.config, weights, LOSS_WEIGHTS)

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the `loss` and terms of `variational_loss`, latents sampled with noise from generator.

        Args:
            inputs: Images that are purified, clean or perturbed, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape.
            generator: On the images' device.
        """
        logits, mean, log_variance = self.sample(inputs, generator)
        return variational_loss(logits, targets, mean, log_variance, self.config.kl_weight)
