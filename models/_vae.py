"""The variational autoencoder that `defense_vae` and `hfl_vae` share: its networks, its sampling and its loss.

Li et al., "Defense-VAE: A fast and accurate defense against adversarial attacks", 2019 (arXiv:1812.06570), and the
authors' code, lxuniverse/defense-vae, `white_box/vae_models.py`. That network is for 28×28×1 and pads its outermost halving
by 3 to come to 16×16; ours pads it by 1, so that 32×32 comes to the same 16×16 and the same 4×4 below.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = 1


class VAE(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to the decoding of their mean latent, same shape and range.

    `forward` never samples, in either mode, so a purification is deterministic; `sample` is for training.

    Four convolutions and four transposed ones, each with batch normalization and ReLU except for the last, no biases; three
    linear layers between. The authors declare a normalization of the widest linear layer's output but never apply it; we
    leave it out.

    Args:
        image_shape: Channels, height and width (C, H, W).
        width: Channels of the first two convolutions; the next have 2 width and 4 width.
        latent_dim: Length of a latent.

    Raises:
        ValueError: If height or width is not divisible by 8.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int) -> None:
        super().__init__()
        channels, image_height, image_width = image_shape
        if image_height % 8 or image_width % 8:
            raise ValueError(f"images need a height and width divisible by 8, got {image_height}x{image_width}")
        self.grid = (4 * width, image_height // 8, image_width // 8)
        size = math.prod(self.grid)
        self.encoder = nn.Sequential(
            *_normalized(nn.Conv2d(channels, width, 5, 1, 2, bias=False)),
            *_normalized(nn.Conv2d(width, width, 4, 2, 1, bias=False)),
            *_normalized(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False)),
            *_normalized(nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False)),
        )
        self.to_mean = nn.Linear(size, latent_dim)
        self.to_log_variance = nn.Linear(size, latent_dim)
        self.expand = nn.Linear(latent_dim, size)
        self.decoder = nn.Sequential(
            *_normalized(nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False)),
            *_normalized(nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False)),
            *_normalized(nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False)),
            nn.ConvTranspose2d(width, channels, 5, 1, 2, bias=False),
        )
        _init_weights(self)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z | images), each at least float32 (N, latent_dim)."""
        features = self.encoder(images).flatten(1)
        return _at_least_float32(self.to_mean(features)), _at_least_float32(self.to_log_variance(features))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the logits of the pixels, at least float32 (N, C, H, W); their sigmoid is the image."""
        features = F.relu(self.expand(latents)).unflatten(1, self.grid)
        return _at_least_float32(self.decoder(features))

    def sample(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of z = mean + std * noise, noise drawn from generator, and the mean and log variance used."""
        mean, log_variance = self.encode(images)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return self.decode(mean + (0.5 * log_variance).exp() * noise), mean, log_variance

    def forward(self, images: Tensor) -> Tensor:
        mean, _ = self.encode(images)
        return torch.sigmoid(self.decode(mean))


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, I)) in nats, summed over a latent's entries, averaged over the N latents."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


def variational_loss(logits: Tensor, targets: Tensor, mean: Tensor, log_variance: Tensor, kl_weight: float) -> dict[str, Tensor]:
    """Return bce + kl_weight * kl as `loss`, and detached `bce`, `kl` and `reconstruction`, the mean squared error.

    The authors sum cross-entropy and KL over a batch. We divide both by the number of images and of an image's elements:
    the same minimum, and the same steps under Adam (up to its epsilon), but on the scale of a mean over pixels. So `bce`
    is nats per element, and `kl` a latent's nats over the elements of an image.

    The cross-entropy is taken from logits in float32, where the logarithm of a rounded sigmoid would be infinite.

    Args:
        logits: Of the reconstructions, float32 (N, C, H, W).
        targets: Clean images, same shape, in [0, 1].
        mean: Of the latents, (N, latent_dim).
        log_variance: Of the latents, same shape.
        kl_weight: At 0 the KL is only reported, and no gradient of it exists.
    """
    elements = targets[0].numel()
    bce = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
    kl = kl_divergence(mean, log_variance) / elements
    loss = bce + kl_weight * kl if kl_weight else bce
    reconstruction = F.mse_loss(torch.sigmoid(logits.detach()), targets.to(logits.dtype))
    return {"loss": loss, "reconstruction": reconstruction, "bce": bce.detach(), "kl": kl.detach()}


def _normalized(convolution: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, nn.Module, nn.Module]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)


def _init_weights(model: nn.Module) -> None:
    # the authors': convolutions N(0, 0.02), scales of batch normalizations N(1, 0.02), linear layers torch's default
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


def _at_least_float32(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
