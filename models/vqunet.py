"""VQUNet: a U-Net whose latents are vector-quantized at every depth, trained to reproduce clean images.

He and Singhal, "VQUNet: Vector Quantization U-Net for Defending Adversarial Attacks by Regularizing Unwanted Noise",
ICMVA 2024 (arXiv:2406.03117). No code was published. Where the text leaves a choice or contradicts itself, the `Config`
has a setting, and its default is the reading we think most likely; we average each loss over elements and sum depths.

The gradient that an attacker gets is straight-through, in eval mode too: the identity from each quantizer's codes to its
encodings (`rotation`: rotated and rescaled), and exact everywhere else, through projections, `cosine`'s lengths and `fsq`'s tanh.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import unet
from ._codebook_free import ENTROPY_WEIGHT, FiniteScalarQuantizer, LookupFreeQuantizer, check_power_of_two, finite_levels
from ._codebook_variants import CosineQuantizer, RotationQuantizer
from ._quantizers import CODEBOOK_GRADS, COMMITMENT_GRADIENTS, Quantizer, VectorQuantizer, batch_perplexity
from ._settings import check_bool, check_choice, check_float, check_int, check_ints, with_weights
from ._unet import UNet, batch_statistics

VERSION = 1
ROLE = "purifier"
TRAINED = True
GRADIENT = "straight_through"
AFTER_TRAINING = ("passes",)
LOSS_WEIGHTS = ("alpha", "beta")

QUANTIZERS = ("paper", "ema", "cosine", "rotation", "fsq", "lfq", "none")
CODEBOOK_INITS = ("data", "uniform")
_WITHOUT_EFFECT = {  # settings of a learned codebook, kept at their defaults where there is none, so that a trial has one spelling
    "fsq": ("code_dim", "codebook_grad", "revive", "codebook_init", "beta", "commitment_gradient"),
    "lfq": ("code_dim", "codebook_grad", "revive", "codebook_init"),
}
_NUM_INIT_IMAGES = 512  # at depth 4 they give 2,048 vectors to choose 512 codes from


@dataclass(frozen=True)
class Config:
    """Settings of the network and its loss; the defaults are the paper's, as we read it, for 32×32 images.

    Attributes:
        depth: Number of halvings, each a level of the U-Net. Figures of the paper show 1, 2, 3; 2×2×512 needs 4.
        codebook_size: Codes per depth, K: one number for all, or one for each depth, such as (64, 32, 16), depth 1 first. Not
            given in the paper. `fsq` takes the nearest grid and says its size here, such as 240 for 256; `lfq` needs a power
            of two. The entry of a depth that is not quantized has no effect, and becomes that of the first that is.
        code_dim: Length of a code; None, or more than a depth has channels, is the depth's channels. When smaller, 1×1
            convolutions project into and out of the codes' space, and latents are those of that space.
        base_width: Channels of the stem; depth d has base_width * 2**d.
        alpha: Weight of the reconstruction loss, eq. (5).
        beta: Weight of the commitment loss, eq. (5). Under Adam only beta / alpha matters.
        quantize: False gives the network and the loss of `unet`, as does quantizer `none`.
        quantizer: `paper`; `ema`, codes are moving averages, the same as codebook_grad `ema`; `cosine`, `CosineQuantizer`;
            `rotation`, `RotationQuantizer`; `fsq`, `FiniteScalarQuantizer`; `lfq`, `LookupFreeQuantizer`; `none`.
            Settings that one does not have stand at their defaults: of the codebook for `fsq` and `lfq`, beta for `fsq`.
        codebook_grad: `lq_only`, `dual` or `ema`, see `VectorQuantizer`.
        commitment_gradient: `commit`, or `literal` for eq. (3) as printed, whose gradient is zero.
        vq_levels: Depths that are quantized, such as (1, 2, 3); None is all of them.
        revive: Whether codes that are hardly used are put onto encodings during training.
        passes: How often a purification applies the network. Training applies it once.
        codebook_init: `data`, codes start on encodings, or `uniform` in [-0.05, 0.05].

    Raises:
        ValueError: If a setting is out of its range, or contradicts the quantizer.
    """

    depth: int = 4
    codebook_size: int | tuple[int, ...] = 512
    code_dim: int | None = None
    base_width: int = 32
    alpha: float = 1.0
    beta: float = 1.0
    quantize: bool = True
    quantizer: str = "paper"
    codebook_grad: str = "lq_only"
    commitment_gradient: str = "commit"
    vq_levels: tuple[int, ...] | None = None
    revive: bool = True
    passes: int = 1
    codebook_init: str = "data"

    def __post_init__(self) -> None:
        for name in ("depth", "base_width", "passes"):
            check_int(name, getattr(self, name))
        sizes = _one_per_depth("codebook_size", self.codebook_size, self.depth)
        if self.code_dim is not None:
            check_int("code_dim", self.code_dim)
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))
        for name in ("quantize", "revive"):
            check_bool(name, getattr(self, name))
        check_choice("quantizer", self.quantizer, QUANTIZERS)
        check_choice("codebook_grad", self.codebook_grad, CODEBOOK_GRADS)
        check_choice("commitment_gradient", self.commitment_gradient, COMMITMENT_GRADIENTS)
        check_choice("codebook_init", self.codebook_init, CODEBOOK_INITS)
        if self.vq_levels is not None:
            levels = tuple(sorted(set(check_ints("vq_levels", self.vq_levels))))
            if levels[-1] > self.depth:
                raise ValueError(f"vq_levels must lie in 1 to depth ({self.depth}), got {self.vq_levels!r}")
            all_levels = levels == tuple(range(1, self.depth + 1))
            object.__setattr__(self, "vq_levels", None if all_levels else levels)
        quantized = self.quantized_depths
        sizes = [size if depth in quantized else sizes[quantized[0] - 1] for depth, size in enumerate(sizes, start=1)]
        object.__setattr__(self, "codebook_size", _one_or_each(sizes))
        for name, value in self._canonical().items():
            object.__setattr__(self, name, value)

    @property
    def quantized_depths(self) -> tuple[int, ...]:
        """Return `vq_levels`, or all depths."""
        return self.vq_levels or tuple(range(1, self.depth + 1))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Return the codes K of every depth, depth 1 first."""
        return self.codebook_size if isinstance(self.codebook_size, tuple) else (self.codebook_size,) * self.depth

    def _canonical(self) -> dict[str, Any]:
        """Return the settings whose value here is another spelling of the same network and training, with the one that is kept."""
        if not self.quantize or self.quantizer == "none":
            return {"quantize": False, "quantizer": "none"}
        if self.quantizer == "ema" and self.codebook_grad == "dual":
            raise ValueError("codebook_grad 'dual' moves codes by gradient and quantizer 'ema' by averages; use one of them")
        if self.quantizer == "ema" or (self.quantizer, self.codebook_grad) == ("paper", "ema"):
            return {"quantizer": "ema", "codebook_grad": "ema"}
        canonical = {name: getattr(Config, name) for name in _WITHOUT_EFFECT.get(self.quantizer, ())}
        if self.quantizer == "fsq":
            canonical["codebook_size"] = _one_or_each([math.prod(finite_levels(size)) for size in self.codebook_sizes])
        if self.quantizer == "lfq":
            for size in self.codebook_sizes:
                check_power_of_two(size)
        return canonical


def _one_per_depth(name: str, value: object, depth: int) -> tuple[int, ...]:
    """Return a setting that is one whole number for all depths, or a list of one for each, as one for each."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (check_int(name, value),) * depth
    if len(value) != depth:
        raise ValueError(f"{name} must be one whole number, or a list of one for each depth (depth is {depth}), got {list(value)}")
    return check_ints(name, value)


def _one_or_each(sizes: Sequence[int]) -> int | tuple[int, ...]:
    """Return the one size if all depths have the same, so that a trial has one spelling."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def equivalent(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the model and options that these complete options are another name of: without quantization, those of `unet`."""
    return None if options["quantize"] else ("unet", {name: options[name] for name in ("depth", "base_width", "alpha", "passes")})


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained VQUNet for images of image_shape (C, H, W); the number of classes does not matter."""
    if not config.quantize:
        plain = unet.Config(config.depth, config.base_width, config.alpha, config.passes)
        return unet.build(plain, image_shape, num_classes)
    return VQUNet(config, image_shape)


def _quantizer(config: Config, depth: int) -> Quantizer:
    channels, size = config.base_width * 2**depth, config.codebook_sizes[depth - 1]
    if config.quantizer == "fsq":
        return FiniteScalarQuantizer(channels, size)
    if config.quantizer == "lfq":
        return LookupFreeQuantizer(channels, size)
    kind = {"cosine": CosineQuantizer, "rotation": RotationQuantizer}.get(config.quantizer, VectorQuantizer)
    return kind(channels, size, config.code_dim, codebook_grad=config.codebook_grad, revive=config.revive)


class VQUNet(UNet):
    """The U-Net with a quantizer at each of `vq_levels`."""

    def __init__(self, config: Config, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape, config.depth, config.base_width, config.passes)
        self.config = config
        for depth in config.quantized_depths:
            self.quantizers[str(depth)] = _quantizer(config, depth)

    def set_loss_weights(self, **weights: float) -> None:
        """Change some of `LOSS_WEIGHTS` for the steps to come; purification does not read them."""
        self.config = with_weights(self.config, weights, LOSS_WEIGHTS)

    @torch.no_grad()
    def initialize(self, images: Tensor, generator: torch.Generator) -> None:
        """Put every codebook onto encodings of up to 512 of images, depth by depth, each reading quantized input.

        Batch normalization uses the batch's statistics, as the first training step will; running statistics stay.
        """
        if self.config.codebook_init == "uniform":
            return
        rows = torch.randperm(len(images), generator=generator, device=generator.device)[:_NUM_INIT_IMAGES]
        with batch_statistics(self):
            features = self.stem(images[rows.to(images.device)])
            for depth, encoder in enumerate(self.encoders, start=1):
                encoded = encoder(features)
                quantizer = self.quantizer(depth)
                if quantizer is not None:
                    quantizer.fit(encoded, generator)
                features = self._quantize(depth, encoded).output

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return eq. (5), alpha L_rec + beta L_E + L_Q, as `loss`, and its terms detached, per depth.

        A quantizer without one of the terms leaves it out (`ema` and `lfq` L_Q, `fsq` both); `lfq` adds 0.1 of its entropy loss. `perplexity` is
        that of the batch.

        Args:
            inputs: Images that are purified, clean or noisy, float (N, C, H, W) in [0, 1].
            targets: The clean images, same shape.
            generator: Not used: no quantizer draws anything here.
        """
        del generator
        levels = self.encode(inputs)
        reconstruction = F.mse_loss(self.decode(levels), targets)
        loss = self.config.alpha * reconstruction
        weights = {"commitment": self.config.beta, "codebook": 1.0, "entropy": ENTROPY_WEIGHT}
        terms = {"reconstruction": reconstruction.detach()}
        for depth, level in enumerate(levels, start=1):
            quantizer = self.quantizer(depth)
            if quantizer is None:
                continue
            quantizer.remember(level)
            for name, term in quantizer.losses(level, self.config.commitment_gradient).items():
                loss = loss + weights[name] * term
                terms[f"{name}_{depth}"] = term.detach()
            if level.indices is not None:
                terms[f"perplexity_{depth}"] = batch_perplexity(level.indices, quantizer.codebook_size)
        return {"loss": loss, **terms}

    def after_step(self, step: int, num_steps: int, generator: torch.Generator) -> None:
        """Let every quantizer follow the optimizer's step; step counts from 0."""
        for depth in range(1, len(self.encoders) + 1):
            quantizer = self.quantizer(depth)
            if quantizer is not None:
                quantizer.after_step(step, num_steps, generator)
