"""What a codebook needs beside its quantizer: the nearest codes, codes drawn from encodings, and when to revive dead ones.

Encodings are float (N, D, H, W), a codebook is float (K, D), indices are int64 (N, H, W) in [0, K).
"""

import torch
from torch import Tensor

VERSION = 1
REVIVAL_INTERVAL = 100  # steps between revivals in a long training
MIN_REVIVAL_ROUNDS = 20  # a short training is divided into this many intervals instead


def as_vectors(encoded: Tensor) -> Tensor:
    """Return encodings (N, D, H, W) as rows (N*H*W, D); a view where the memory is channels-last."""
    return encoded.movedim(1, -1).flatten(0, -2)


@torch.no_grad()
def nearest(encoded: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the code nearest to each encoded vector in Euclidean distance, int64 (N, H, W).

    Computed as argmin of |e|² - 2 a·e, one matrix product, since |a|² is the same for every code. Always in at least
    float32, autocast or not: bfloat16 flips ties. On CUDA this asks for torch's default, float32 products without TF32.
    """
    dtype = torch.promote_types(codebook.dtype, torch.float32)
    with torch.autocast(encoded.device.type, enabled=False):
        codes = codebook.to(dtype)
        scores = torch.addmm(codes.square().sum(1), as_vectors(encoded).to(dtype), codes.t(), alpha=-2)  # (N*H*W, K)
        return scores.argmin(1).view(encoded.shape[0], *encoded.shape[2:])


def sample_vectors(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return count different rows of vectors (n, D), drawn without replacement.

    Equal rows (flat background) count once, since of two equal codes one is never nearest. Where there are fewer rows
    than asked for, they are repeated with noise of 1 % of their standard deviation.
    """

    def shuffled(rows: Tensor, limit: int) -> Tensor:
        order = torch.randperm(len(rows), generator=generator, device=generator.device)
        return rows[order[:limit].to(rows.device)]

    # four times as many as asked for leave enough after dropping equal ones; sorting all rows would take longest here
    rows = shuffled(torch.unique(shuffled(vectors, 4 * count), dim=0), count)
    sample = rows.repeat(-(-count // len(rows)), 1)[:count]
    noise = torch.randn(sample.shape, generator=generator, device=generator.device).to(sample)
    noise[: len(rows)] = 0  # the first of each is exact
    return sample + 0.01 * vectors.std(0, correction=0) * noise


def revival_interval(num_steps: int) -> int:
    """Return the steps between revivals: 100, or a twentieth of a training that is shorter than 2,000 steps."""
    return max(1, min(REVIVAL_INTERVAL, num_steps // MIN_REVIVAL_ROUNDS))
