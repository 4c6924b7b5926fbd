"""HFL-VAE, a reconstruction: a variational autoencoder whose loss also asks for the fine structure of the clean image.

He and Singhal, "VQUNet", 2024 (arXiv:2406.03117), compare with a VAE of high-frequency loss, their reference [15] (FHL_VAE in
the text, HFL_VAE in table 1). Only the abstract of [15] could be read: a VAE with a spatial-frequency loss on the decoder,
then random voting of several classifiers and a Bayesian update. We leave voting and update out, as VQUNet's authors did.

Everything else is our choice. Network, sampling, cross-entropy and KL are those of `defense_vae`, so that a comparison isolates
the added loss: with `frequency_weight` 0 the two are one model. The default loss compares the outputs of a bank of Laplacian
(band-pass) filters, after Ichimura, "Spatial frequency loss for learning convolutional autoencoders", 2018 (arXiv:1806.02336),
of which we know the abstract; bands, weights and border are ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ._settings import check_choice, check_float, check_int, with_weights
from ._vae import VAE, variational_loss

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "exact"
LOSS_WEIGHTS = ("kl_weight", "frequency_weight")

FREQUENCY_LOSSES = ("lapbank", "lap3", "fft")
BANK_SIGMAS = (0.5, 1.0, 2.0)  # pixels; the first band is the image minus its blur by 0.5
FFT_RADIUS = 0.25  # of the Nyquist frequency, half a cycle per pixel


@dataclass(frozen=True)
class Config:
    """Settings of the network and its loss; the first three as in `defense_vae`.

    Attributes:
        width: Channels at full resolution.
        latent_dim: Length of a latent.
        kl_weight: Weight of the KL divergence.
        frequency_weight: Weight of the frequency loss, lambda; 0 gives `defense_vae`.
        frequency_loss: `lapbank`, `lap3` or `fft`, see `FrequencyLoss`.

    Raises:
        ValueError: If a setting is out of its range.
    """

    width: int = 64
    latent_dim: int = 128
    kl_weight: float = 1.0
    frequency_weight: float = 1.0
    frequency_loss: str = "lapbank"

    def __post_init__(self) -> None:
        for name in ("width", "latent_dim"):
            check_int(name, getattr(self, name))
        for name in ("kl_weight", "frequency_weight"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))
        check_choice("frequency_loss", self.frequency_loss, FREQUENCY_LOSSES)


def equivalent(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the model and options that these complete options are another name of: at lambda = 0, those of `defense_vae`."""
    if options["frequency_weight"] > 0:
        return None
    return "defense_vae", {name: options[name] for name in ("width", "latent_dim", "kl_weight")}


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained HFL-VAE for images of image_shape (C, H, W); the number of classes does not matter."""
    del num_classes
    return HFLVAE(config, image_shape)


class HFLVAE(VAE):
    """The autoencoder with cross-entropy, KL and a frequency loss. Parameters and state are those of `defense_vae`."""

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape, config.width, config.latent_dim)
        self.config = config
        self.frequency_loss = FrequencyLoss(config.frequency_loss, image_shape[1], image_shape[2])

    def set_loss_weights(self, **weights: float) -> None:
        """Change some of `LOSS_WEIGHTS` for the steps to come; purification does not read them."""
        self.config = with_weights(self.config, weights, LOSS_WEIGHTS)

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return `variational_loss` plus lambda times the frequency loss as `loss`, and the terms, `frequency` where it counts.

        Args:
            inputs: Images that are purified, clean or perturbed, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape.
            generator: On the images' device.
        """
        logits, mean, log_variance = self.sample(inputs, generator)
        terms = variational_loss(logits, targets, mean, log_variance, self.config.kl_weight)
        if self.config.frequency_weight > 0:
            frequency = self.frequency_loss(torch.sigmoid(logits), targets)
            terms["loss"] = terms["loss"] + self.config.frequency_weight * frequency
            terms["frequency"] = frequency.detach()
        return terms


class FrequencyLoss(nn.Module):
    """Measures how far the fine structure of two batches of images, float (N, C, H, W), is apart: a scalar >= 0.

    All three are blind to a constant added to an image. With d the difference of the images:

    - `lapbank`: the sum over bands j of the mean of b_j(d)², b_j = G(s_j) - G(s_j+1) for s = 0, 0.5, 1, 2 pixels, where
      G(s) is a Gaussian blur and G(0) the identity.
    - `lap3`: the mean of (L d)², L the 3×3 Laplacian of the four neighbors.
    - `fft`: the mean of |F(d)|² over the frequencies at least 0.25 Nyquist from zero, F the orthonormal Fourier transform,
      to which opposite borders are neighbors.

    The other filters mirror the image at its border, the edge pixel not repeated. They are matrices applied from the left and the
    right, in at least float32, and are not part of the state dict.
    """

    rows: Tensor
    columns: Tensor
    mask: Tensor

    def __init__(self, kind: str, height: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "fft":
            distance = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width))  # cycles per pixel
            mask = (distance >= FFT_RADIUS * 0.5).float()
            self.register_buffer("mask", mask / mask.sum(), persistent=False)
            return
        kernels = [torch.tensor([1.0, -2.0, 1.0])] if kind == "lap3" else [_gaussian(sigma) for sigma in BANK_SIGMAS]
        self.register_buffer("rows", torch.stack([_filter_matrix(kernel, height) for kernel in kernels]), persistent=False)
        self.register_buffer("columns", torch.stack([_filter_matrix(kernel, width).t() for kernel in kernels]), persistent=False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # it would take the matrix products to bfloat16
            difference = (images - targets).to(torch.promote_types(images.dtype, torch.float32))
            if self.kind == "fft":
                spectrum = torch.view_as_real(torch.fft.fft2(difference, norm="ortho"))  # (N, C, H, W, 2)
                return (spectrum.square().sum(-1) * self.mask).sum((-2, -1)).mean()
            if self.kind == "lap3":
                return (self.rows[0] @ difference + difference @ self.columns[0]).square().mean()
            blurred = [difference, *(row @ difference @ column for row, column in zip(self.rows, self.columns, strict=True))]
            return torch.stack([(finer - coarser).square().mean() for finer, coarser in pairwise(blurred)]).sum()


def _gaussian(sigma: float) -> Tensor:
    radius = math.ceil(4 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square())
    return kernel / kernel.sum()


def _filter_matrix(kernel: Tensor, size: int) -> Tensor:
    """Return the matrix (size, size) that filters a column of size > 1 pixels with kernel, mirrored at both ends."""
    radius = len(kernel) // 2
    source = torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)  # (size, len(kernel)), beyond the ends
    source = source.remainder(2 * size - 2)
    source = torch.minimum(source, 2 * size - 2 - source)
    return torch.zeros(size, size).scatter_add_(1, source, kernel.expand(size, -1))
