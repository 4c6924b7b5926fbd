"""VQ-VAE: one vector-quantized latent at a quarter of the resolution, no skips. The plain relative of `vqunet`.

van den Oord et al., "Neural discrete representation learning", 2017 (arXiv:1711.00937). The paper's purpose is generation; as
a purifier we take the training example published with it for CIFAR-10 (google-deepmind/sonnet, `vqvae_example`): its
layers, beta, code size, exponential moving averages with decay 0.99, and a reconstruction loss over the variance of the data.

A widespread PyTorch version (zalandoresearch/pytorch-vq-vae) repeats one block in its residual stack, so that both share their
weights; here each block has its own, as in the original. Departures, all as in `vqunet`: the output is a sigmoid, codes start on
encodings, and losses are means over elements. Images enter as x - 0.5, as in the example. The axis `codebook_grad` is that of
`vqunet`; the paper's eq. (3) is `lq_only`, its appendix A.1 `ema`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._blocks import Latent
from ._quantizers import CODEBOOK_GRADS, Quantized, VectorQuantizer, batch_perplexity
from ._settings import check_bool, check_choice, check_float, check_int

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "straight_through"  # the quantizer's backward is the identity

_NUM_INIT_IMAGES = 512  # of 32×32 they give 32,768 encodings to choose the codes from


@dataclass(frozen=True)
class Config:
    """Settings of the network and its loss; the defaults are those of the example for CIFAR-10.

    Attributes:
        width: Channels of the hidden layers; the outermost has half of them.
        residual_width: Channels inside a residual block.
        codebook_size: Number of codes, K.
        code_dim: Length of a code.
        beta: Weight of the commitment loss.
        codebook_grad: `ema`, `lq_only` or `dual`, see `VectorQuantizer`.
        revive: Whether codes that are hardly used are put onto encodings during training; the source does not.

    Raises:
        ValueError: If a setting is out of its range.
    """

    width: int = 128
    residual_width: int = 32
    codebook_size: int = 512
    code_dim: int = 64
    beta: float = 0.25
    codebook_grad: str = "ema"
    revive: bool = False

    def __post_init__(self) -> None:
        check_int("width", self.width, minimum=2)
        for name in ("residual_width", "codebook_size", "code_dim"):
            check_int(name, getattr(self, name))
        object.__setattr__(self, "beta", check_float("beta", self.beta))
        check_choice("codebook_grad", self.codebook_grad, CODEBOOK_GRADS)
        check_bool("revive", self.revive)


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained VQ-VAE for images of image_shape (C, H, W); the number of classes does not matter.

    Raises:
        ValueError: If height or width is not divisible by 4.
    """
    del num_classes
    return VQVAE(config, image_shape)


class VQVAE(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to reconstructions of the same shape and range, through H/4 × W/4 codes.

    The reconstruction is a function of the codes' indices alone. `data_variance`, a buffer, is 1 until `initialize`.
    """

    data_variance: Tensor

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        if height % 4 or image_width % 4:
            raise ValueError(f"images need a height and width divisible by 4, got {height}x{image_width}")
        self.config = config
        width, half = config.width, config.width // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, half, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(half, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(),
            *_residual_stack(width, config.residual_width),
            nn.Conv2d(width, config.code_dim, 1),
        )
        self.quantizer = VectorQuantizer(config.code_dim, config.codebook_size, codebook_grad=config.codebook_grad, revive=config.revive)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, width, 3, 1, 1),
            *_residual_stack(width, config.residual_width),
            nn.ConvTranspose2d(width, half, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, channels, 4, 2, 1),
        )
        self.register_buffer("data_variance", torch.ones(()))

    def encode(self, images: Tensor) -> Quantized:
        """Return encodings, codes, indices and output, (N, code_dim, H/4, W/4) each, indices (N, H/4, W/4)."""
        return self.quantizer(self.encoder(images - 0.5))

    def decode(self, level: Quantized) -> Tensor:
        """Return the reconstruction from the level's output, at least float32 (N, C, H, W) in [0, 1]."""
        logits = self.decoder(level.output)
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    def purify_with_latents(self, images: Tensor) -> tuple[Tensor, list[Latent]]:
        """Return what `forward` does, and its one latent, at no further cost."""
        level = self.encode(images)
        return self.decode(level), [Latent(level.encoded, level.codes, level.indices, self.config.codebook_size, self.quantizer.codes())]

    @torch.no_grad()
    def initialize(self, images: Tensor, generator: torch.Generator) -> None:
        """Put the codes onto encodings of up to 512 of images, and take the variance of all their elements.

        Images without any variance leave it at 1.
        """
        variance = images.var(correction=0)
        self.data_variance.copy_(torch.where(variance > 1e-6, variance, torch.ones_like(variance)))
        rows = torch.randperm(len(images), generator=generator, device=generator.device)[:_NUM_INIT_IMAGES]
        self.quantizer.fit(self.encoder(images[rows.to(images.device)] - 0.5), generator)

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return reconstruction / data_variance + beta commitment + codebook loss as `loss`, and its terms detached.

        `reconstruction` is the mean squared error itself. With `ema`, averages take the codebook loss's place.

        Args:
            inputs: Images that are purified, clean or perturbed, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape.
            generator: Not used; nothing here is random.
        """
        del generator
        level = self.encode(inputs)
        self.quantizer.remember(level)
        reconstruction = F.mse_loss(self.decode(level), targets)
        loss = reconstruction / self.data_variance
        weights = {"commitment": self.config.beta, "codebook": 1.0}
        terms = {"reconstruction": reconstruction.detach()}
        for name, term in self.quantizer.losses(level, "commit").items():
            loss = loss + weights[name] * term
            terms[f"{name}_1"] = term.detach()
        assert level.indices is not None
        terms["perplexity_1"] = batch_perplexity(level.indices, self.config.codebook_size)
        return {"loss": loss, **terms}

    def after_step(self, step: int, num_steps: int, generator: torch.Generator) -> None:
        """Let the quantizer follow the optimizer's step; step counts from 0."""
        self.quantizer.after_step(step, num_steps, generator)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, residual_width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, residual_width, 3, 1, 1), nn.ReLU(), nn.Conv2d(residual_width, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.residual(features)


def _residual_stack(channels: int, residual_width: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return _ResidualBlock(channels, residual_width), _ResidualBlock(channels, residual_width), nn.ReLU()
