"""Quantizers without a learned codebook: finite scalar quantization (FSQ) and lookup-free quantization (LFQ).

Both project features to a few numbers with a 1×1 convolution, round each number by itself, and project back.
"""

import math

import torch
from torch import Tensor, nn

from ._quantizers import Quantized, Quantizer, commitment_loss, straight_through

VERSION = 1
ENTROPY_WEIGHT = 0.1  # of LFQ's entropy loss, the default of vector-quantize-pytorch
_BOUND_MARGIN = 1e-3  # FSQ's outermost levels can be reached a little before infinity, as in its appendix A.1

# Levels per channel. Those for 240, 1000, 4375, 15360 and 64000 codes are the FSQ paper's (its table for 2**8 to 2**16); the
# others follow its advice of at least 5 levels per channel where there are codes enough.
_LEVELS = (
    (4,), (8,), (4, 4), (6, 5), (8, 8), (5, 5, 5), (8, 6, 5), (8, 8, 8), (8, 5, 5, 5), (8, 8, 6, 5), (7, 5, 5, 5, 5), (8, 8, 5, 5, 5),
    (8, 8, 8, 6, 5), (8, 8, 8, 8, 8), (8, 8, 8, 5, 5, 5),
)  # fmt: skip


def finite_levels(codebook_size: int) -> tuple[int, ...]:
    """Return the levels per channel whose product is nearest to codebook_size, by ratio: (8, 6, 5), 240 codes, for 256."""
    return min(_LEVELS, key=lambda levels: abs(math.log(math.prod(levels) / codebook_size)))


def check_power_of_two(codebook_size: int) -> int:
    """Return the number of bits that count codebook_size codes.

    Raises:
        ValueError: If it is not a power of two of at least 2.
    """
    if codebook_size < 2 or codebook_size & (codebook_size - 1):
        raise ValueError(f"codebook_size of quantizer 'lfq' must be a power of two of at least 2, got {codebook_size}")
    return codebook_size.bit_length() - 1


class FiniteScalarQuantizer(Quantizer):
    """FSQ: bounds each number by tanh and rounds it to one of a few levels; the codebook is the grid of them.

    Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023 (arXiv:2309.15505), section 3 and appendix A.1.
    No codebook and no auxiliary loss. Latents are the bounded numbers before and after rounding, in [-1, 1]; the gradient
    is the identity through the rounding and exact through tanh.

    Our own, since the class of vector-quantize-pytorch bounds and rounds in one step, so that encodings cannot be had, and
    returns a + (q - a) and not q; the tests compare the two.

    Args:
        channels: Channels of the features.
        codebook_size: Wished number of codes, see `finite_levels`; the attribute is the one there are.
    """

    half_range: Tensor
    offset: Tensor
    shift: Tensor
    half_width: Tensor
    basis: Tensor

    def __init__(self, channels: int, codebook_size: int) -> None:
        super().__init__()
        chosen = finite_levels(codebook_size)
        self.codebook_size = math.prod(chosen)
        self.project_in = nn.Conv2d(channels, len(chosen), 1)
        self.project_out = nn.Conv2d(len(chosen), channels, 1)
        levels = torch.tensor(chosen).view(-1, 1, 1)
        half_range = (levels - 1) * (1 + _BOUND_MARGIN) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)  # an even number of levels has one more below zero
        constants = {
            "half_range": half_range,
            "offset": offset,
            "shift": torch.atanh(offset / half_range),
            "half_width": levels // 2,
            "basis": torch.tensor([math.prod(chosen[:i]) for i in range(len(chosen))]).view(-1, 1, 1),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def round(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes nearest to bounded encodings (N, D, H, W), and their indices (N, H, W)."""
        rounded = (encoded * self.half_width).round()
        return rounded / self.half_width, ((rounded.long() + self.half_width) * self.basis).sum(1)

    def forward(self, features: Tensor) -> Quantized:
        projected = self.project_in(features)
        projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
        encoded = (torch.tanh(projected + self.shift) * self.half_range - self.offset) / self.half_width
        codes, indices = self.round(encoded.detach())
        return Quantized(encoded, codes, indices, self.project_out(straight_through(encoded, codes)))


class LookupFreeQuantizer(Quantizer):
    """LFQ: the sign of each of log2 K numbers, one bit of the index; an entropy loss asks for sure and diverse codes.

    Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", 2023 (arXiv:2310.05737), section 3.1,
    by vector-quantize-pytorch's `LFQ` with its defaults. Its entropy loss is the mean entropy of the encodings' soft
    assignments less the entropy of their mean, in nats, over a training batch. Output and gradient are ours, since there a
    straight-through gradient exists in train mode only.

    Args:
        channels: Channels of the features.
        codebook_size: Number of codes, a power of two.
    """

    def __init__(self, channels: int, codebook_size: int) -> None:
        super().__init__()
        from vector_quantize_pytorch import LFQ  # here, since it takes as long to import as torch

        bits = check_power_of_two(codebook_size)
        self.codebook_size = codebook_size
        self.project_in = nn.Conv2d(channels, bits, 1)
        self.project_out = nn.Conv2d(bits, channels, 1)
        self.lookup = LFQ(codebook_size=codebook_size)

    def forward(self, features: Tensor) -> Quantized:
        encoded = self.project_in(features)
        with torch.autocast(encoded.device.type, enabled=False):  # the library sees to it on CUDA alone
            found, parts = self.lookup(encoded.to(torch.promote_types(encoded.dtype, torch.float32)), return_loss_breakdown=True)
            codes = self.lookup.indices_to_codes(found.indices)  # (N, D, H, W), -1 or 1
        output = self.project_out(straight_through(encoded, codes))
        return Quantized(encoded, codes, found.indices.long(), output, parts.per_sample_entropy - parts.batch_entropy)

    def losses(self, level: Quantized, commitment_gradient: str) -> dict[str, Tensor]:
        assert level.entropy is not None
        commitment = commitment_loss(level.encoded.to(level.codes.dtype), level.codes, commitment_gradient)
        return {"commitment": commitment, "entropy": level.entropy}
