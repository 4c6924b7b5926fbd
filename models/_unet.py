"""The U-Net that `vqunet` and `unet` share: the paper's geometry, with a quantizer at any of its depths or none.

He and Singhal, "VQUNet", 2024 (arXiv:2406.03117), section 3.1 and figure 1. The paper fixes a deepest latent of 2×2×512
for 32×32 images; a stem of 32 channels, doubled at each of four halvings, is our reading of how it gets there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ._blocks import Latent, PreActivationBlock, conv_bn_relu, init_weights
from ._quantizers import Quantized, Quantizer

VERSION = 1


class UNet(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to reconstructions of the same shape and range.

    Depth d = 1, 2, … halves height and width and has base_width * 2**d channels. What a depth hands on, to the next
    encoder and as the skip to the decoder, is its *quantized* output, and neither stem nor image has a skip: with a
    quantizer at depth 1, the output is a function of the indices at depth 1 alone (the information bottleneck).

    Weights are drawn before any quantizer exists, so that one seed gives the same weights with and without quantizers.

    Raises:
        ValueError: If height or width is not divisible by 2**depth.
    """

    def __init__(self, image_shape: tuple[int, int, int], depth: int, base_width: int, passes: int = 1) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 2**depth or width % 2**depth:
            raise ValueError(f"depth {depth} needs image height and width divisible by {2**depth}, got {height}x{width}")
        widths = [base_width * 2**level for level in range(depth + 1)]
        self.passes = passes
        self.stem = conv_bn_relu(channels, base_width)
        self.encoders = nn.ModuleList(_encoder(widths[d - 1], widths[d]) for d in range(1, depth + 1))
        self.decoders = nn.ModuleList(_decoder(widths[d] if d == depth else 2 * widths[d], widths[d], widths[d - 1]) for d in range(1, depth + 1))
        self.head = nn.Conv2d(base_width, channels, 3, 1, 1)
        init_weights(self)
        self.quantizers = nn.ModuleDict()  # filled by a subclass: str(d) -> Quantizer

    def quantizer(self, depth: int) -> Quantizer | None:
        """Return the quantizer at depth 1, 2, …, or None."""
        if str(depth) not in self.quantizers:
            return None
        quantizer = self.quantizers[str(depth)]
        assert isinstance(quantizer, Quantizer)
        return quantizer

    def encode(self, images: Tensor) -> list[Quantized]:
        """Return every depth's encodings, codes, indices and output, depth 1 first."""
        features, levels = self.stem(images), []
        for depth, encoder in enumerate(self.encoders, start=1):
            levels.append(self._quantize(depth, encoder(features)))
            features = levels[-1].output
        return levels

    def decode(self, levels: list[Quantized]) -> Tensor:
        """Return the reconstruction from the levels' outputs, (N, C, H, W) in [0, 1]."""
        features = levels[-1].output
        for depth in range(len(levels), 0, -1):
            features = self.decoders[depth - 1](features)
            if depth > 1:
                features = torch.cat([features, levels[depth - 2].output], dim=1)
        logits = self.head(features)
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.passes):
            images = self.decode(self.encode(images))
        return images

    def purify_with_latents(self, images: Tensor) -> tuple[Tensor, list[Latent]]:
        """Return what `forward` does, and one latent per depth, of the first pass, at no further cost."""
        levels = self.encode(images)
        purified = self.decode(levels)
        for _ in range(self.passes - 1):
            purified = self.decode(self.encode(purified))
        return purified, [self._latent(depth, level) for depth, level in enumerate(levels, start=1)]

    def _quantize(self, depth: int, encoded: Tensor) -> Quantized:
        quantizer = self.quantizer(depth)
        return Quantized(encoded, encoded, None, encoded) if quantizer is None else quantizer(encoded)

    def _latent(self, depth: int, level: Quantized) -> Latent:
        quantizer = self.quantizer(depth)
        size, codebook = (None, None) if quantizer is None else (quantizer.codebook_size, quantizer.codes())
        return Latent(level.encoded, level.codes, level.indices, size, codebook)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize with the batch's statistics for a while, leaving running statistics and modes as they were."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, (training, track_running_stats) in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, track_running_stats


def _encoder(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(in_channels, out_channels, stride=2),
        PreActivationBlock(out_channels),
        PreActivationBlock(out_channels),  # ends in an addition: encodings are signed, as codes are
    )


def _decoder(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(in_channels, channels),
        PreActivationBlock(channels),
        PreActivationBlock(channels),
        nn.ConvTranspose2d(channels, out_channels, 4, 2, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
