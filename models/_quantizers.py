"""What quantizers share (the straight-through estimator, the losses, code usage), and the paper's vector quantizer.

He and Singhal, "VQUNet", 2024 (arXiv:2406.03117), section 3.2, after van den Oord et al., 2017 (arXiv:1711.00937).
Encodings are float (N, D, H, W), a codebook is float (K, D), indices are int64 (N, H, W) in [0, K).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._codebooks import as_vectors, nearest, revival_interval, sample_vectors
from ._soft_assignment import soft_codes

VERSION = 1
CODEBOOK_GRADS = ("lq_only", "dual", "ema")
COMMITMENT_GRADIENTS = ("commit", "literal")
EMA_DECAY = 0.99
EMA_EPSILON = 1e-5
DEAD_SHARE = 0.01  # a code used less than this share of what uniform usage would give it counts as dead
REVIVAL_END = 0.8  # no revival in the last fifth, so that the codes can settle


class Quantized(NamedTuple):
    """One quantized level: encoded and codes (N, D, H, W), indices (N, H, W), output (N, C, H, W).

    codes carry the gradient to the codebook; output is what later layers read, its gradient straight-through.
    entropy is a scalar loss of the batch, where a quantizer has one.
    """

    encoded: Tensor
    codes: Tensor
    indices: Tensor | None
    output: Tensor
    entropy: Tensor | None = None


class Quantizer(nn.Module):
    """One depth's quantizer, features (N, C, H, W) to `Quantized`, whose output is a function of the indices alone.

    The methods here do nothing: a quantizer without a codebook has nothing to fit, to count or to revive.
    """

    codebook_size: int  # K

    def codes(self) -> Tensor | None:
        """Return the learned codes (K, D) that encodings are compared with, or None."""

    def losses(self, level: Quantized, commitment_gradient: str) -> dict[str, Tensor]:
        """Return what a level adds to the training loss, unweighted scalars: some of `commitment`, `codebook`, `entropy`."""
        del level, commitment_gradient
        return {}

    def fit(self, features: Tensor, generator: torch.Generator) -> None:
        """Put the codes onto encodings of features (N, C, H, W), before training."""

    def remember(self, quantized: Quantized) -> None:
        """Keep what `after_step` needs of a training batch; does nothing in eval mode."""

    def after_step(self, step: int, num_steps: int, generator: torch.Generator) -> None:
        """Follow an optimizer step; step counts from 0."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encoded: Tensor, quantized: Tensor) -> Tensor:
        ctx.dtypes = encoded.dtype, quantized.dtype
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = grad_outputs
        to_encoded, to_quantized = ctx.needs_input_grad
        return (
            gradient.to(ctx.dtypes[0]) if to_encoded else None,
            gradient.to(ctx.dtypes[1]) if to_quantized else None,
        )


def straight_through(encoded: Tensor, quantized: Tensor) -> Tensor:
    """Return quantized, bit for bit, with the gradient of the identity to encoded (and to quantized, unless detached).

    The paper writes a + sg(q - a): the same gradient, but a value off by float rounding. Here one forward serves both
    evaluation, whose result is a function of the indices alone, and an adaptive attack, which needs the gradient.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape(encoded, quantized)
    return _StraightThrough.apply(encoded, quantized)  # type: ignore[no-any-return]


def commitment_loss(encoded: Tensor, quantized: Tensor, gradient: str = "commit") -> Tensor:
    """Return L_E of eq. (3), the mean squared distance from encodings to their codes, without the factor beta.

    With `commit` its gradient, 2 (a - q) / n, goes to the encodings only. With `literal` it goes nowhere: as printed,
    eq. (3) measures q* - a, a constant. We average over elements, so that beta does not depend on the image size.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape(encoded, quantized)
    return F.mse_loss(encoded if gradient == "commit" else encoded.detach(), quantized.detach())


def codebook_loss(encoded: Tensor, quantized: Tensor) -> Tensor:
    """Return L_Q of eq. (4): the same value as `commitment_loss`, with its gradient to the codes only.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape(encoded, quantized)
    return F.mse_loss(quantized, encoded.detach())


def usage(indices: Tensor, codebook_size: int) -> tuple[float, float]:
    """Return the perplexity of code usage in [1, codebook_size], and the share of codes used at all, in (0, 1].

    Perplexity is exp of the entropy in nats: codebook_size when all codes are used equally, 1 when collapsed.

    Args:
        indices: Code positions over a split, int64 of any shape, not empty.
        codebook_size: Number of codes K.

    Raises:
        ValueError: If indices are empty or outside [0, codebook_size).
    """
    if indices.numel() == 0:
        raise ValueError("usage needs at least one index, got none")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= codebook_size:
        raise ValueError(f"indices must lie in [0, {codebook_size}), got {low} to {high}")
    return usage_of_counts(torch.bincount(indices.flatten(), minlength=codebook_size))


def usage_of_counts(counts: Tensor) -> tuple[float, float]:
    """Return perplexity and share of codes used, as `usage` does, from how often each code was chosen, (K,)."""
    shares = counts[counts > 0].double() / counts.sum()  # an unused code has share 0, and log(0) is -inf
    perplexity = float(torch.exp(-(shares * shares.log()).sum()))
    return perplexity, shares.numel() / counts.numel()


@torch.no_grad()
def batch_perplexity(indices: Tensor, codebook_size: int) -> Tensor:
    """Return the perplexity of one batch's code usage, a scalar that stays on the device (no wait within an epoch).

    A batch has few vectors at the deepest level, so this lies below the perplexity over a split, which `usage` gives.
    """
    picked = indices.flatten()
    counts = torch.zeros(codebook_size, device=picked.device).scatter_add_(0, picked, torch.ones(len(picked), device=picked.device))
    shares = counts / len(picked)
    return torch.exp(torch.special.entr(shares).sum())


class VectorQuantizer(Quantizer):
    """The paper's quantizer: nearest code of a learned codebook, straight-through gradient.

    `codebook_grad` says what moves the codes: `lq_only` the codebook loss alone (the paper's wiring: q* carries no
    gradient to them), `dual` the reconstruction loss as well (q* = q + a - sg(a), the paper's sentence), `ema` the mean
    of the encodings assigned to each, with decay 0.99 (Oord et al., appendix A.1), in place of the codebook loss.

    Revival puts codes that were hardly used since the last one onto encodings of the current batch. Only `after_step`
    changes anything here, and only after a training loss computed in train mode; counts and averages are buffers, so a
    training resumed from a state dict goes on bit for bit.

    Our own, since vector-quantize-pytorch's `VectorQuantize` hands on no gradient in eval mode, returns a + (q - a) and
    not q, moves its averages inside `forward` and draws from torch's global generator; the tests compare the two.
    """

    code_counts: Tensor
    ema_counts: Tensor
    ema_sums: Tensor
    soft_temperature: float | None = None  # of the backward pass, in place of `hand_on`'s; see `soft_assignment`

    def __init__(
        self, channels: int, codebook_size: int, code_dim: int | None = None, *, codebook_grad: str = "lq_only", revive: bool = True
    ) -> None:
        super().__init__()
        dim = channels if code_dim is None else min(code_dim, channels)
        self.project_in = nn.Conv2d(channels, dim, 1) if dim < channels else nn.Identity()
        self.project_out = nn.Conv2d(dim, channels, 1) if dim < channels else nn.Identity()
        self.codebook_size = codebook_size
        self.codebook_grad = codebook_grad
        self.revive = revive
        codes = torch.empty(codebook_size, dim).uniform_(-0.05, 0.05)  # as Keras' Embedding, which the paper uses
        self.codebook = nn.Parameter(codes, requires_grad=codebook_grad != "ema")
        self.register_buffer("code_counts", torch.zeros(codebook_size, dtype=torch.int64))  # since the last revival
        if codebook_grad == "ema":
            self.register_buffer("ema_counts", torch.ones(codebook_size))
            self.register_buffer("ema_sums", codes.detach().clone())
        self._batch: tuple[Tensor, Tensor] | None = None  # from a training loss to its after_step, no longer

    def encode(self, features: Tensor) -> Tensor:
        """Return the vectors (N, D, H, W) that are compared with `codes`."""
        return self.project_in(features)

    def codes(self) -> Tensor:
        """Return the vectors (K, D) that take their place."""
        return self.codebook

    def hand_on(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Return codes, bit for bit, with the gradient that encodings (and codes, unless detached) get from later layers."""
        return straight_through(encoded, codes)

    def forward(self, features: Tensor) -> Quantized:
        encoded, codebook = self.encode(features), self.codes()
        indices = nearest(encoded, codebook)
        codes = F.embedding(indices, codebook).movedim(-1, 1)  # (N, D, H, W), channels-last in memory
        source = codes if self.codebook_grad == "dual" else codes.detach()
        if self.soft_temperature is None:
            handed = self.hand_on(encoded, source)
        else:
            handed = straight_through(soft_codes(encoded, codebook, self.soft_temperature), source)
        return Quantized(encoded, codes, indices, self.project_out(handed))

    def losses(self, level: Quantized, commitment_gradient: str) -> dict[str, Tensor]:
        encoded = level.encoded.to(level.codes.dtype)  # float32 also under autocast
        terms = {"commitment": commitment_loss(encoded, level.codes, commitment_gradient)}
        if self.codebook_grad != "ema":  # there, averages take this loss's place
            terms["codebook"] = codebook_loss(encoded, level.codes)
        return terms

    @torch.no_grad()
    def fit(self, features: Tensor, generator: torch.Generator) -> None:
        vectors = as_vectors(self.encode(features)).to(self.codebook.dtype)
        self._replace(torch.ones_like(self.code_counts, dtype=torch.bool), vectors, generator)

    def remember(self, quantized: Quantized) -> None:
        if self.training and quantized.indices is not None:
            self._batch = quantized.encoded.detach(), quantized.indices

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int, generator: torch.Generator) -> None:
        """Move the averages (`ema`), count usage, and revive dead codes when it is time."""
        if self._batch is None:
            return
        vectors, indices = as_vectors(self._batch[0]).to(self.codebook.dtype), self._batch[1].flatten()
        self._batch = None
        if self.codebook_grad == "ema":
            self._move_averages(vectors, indices)
        if self.revive and step < REVIVAL_END * num_steps:
            self.code_counts.scatter_add_(0, indices, torch.ones_like(indices))
            if (step + 1) % revival_interval(num_steps) == 0:
                expected = self.code_counts.sum() / self.codebook_size
                self._replace(self.code_counts < DEAD_SHARE * expected, vectors, generator)

    def _move_averages(self, vectors: Tensor, indices: Tensor) -> None:
        # one_hot rather than index_add: a matrix product adds in the same order every time, also on CUDA
        assigned = F.one_hot(indices, self.codebook_size).to(vectors.dtype)  # (N*H*W, K)
        self.ema_counts.lerp_(assigned.sum(0), 1 - EMA_DECAY)
        self.ema_sums.lerp_(assigned.t() @ vectors, 1 - EMA_DECAY)
        total = self.ema_counts.sum()
        smoothed = (self.ema_counts + EMA_EPSILON) / (total + self.codebook_size * EMA_EPSILON) * total
        self.codebook.copy_(self.ema_sums / smoothed[:, None])

    def _replace(self, dead: Tensor, vectors: Tensor, generator: torch.Generator) -> None:
        # a candidate for every code, needed or not: the generator's use does not depend on how many are dead
        candidates = sample_vectors(vectors, self.codebook_size, generator)
        self.codebook.copy_(torch.where(dead[:, None], candidates, self.codebook))
        self.code_counts.zero_()
        if self.codebook_grad == "ema":
            self.ema_counts.copy_(torch.where(dead, torch.ones_like(self.ema_counts), self.ema_counts))
            self.ema_sums.copy_(torch.where(dead[:, None], candidates, self.ema_sums))


def _check_same_shape(encoded: Tensor, quantized: Tensor) -> None:
    if encoded.shape != quantized.shape:
        raise ValueError(f"encoded and quantized must have one shape, got {encoded.shape} and {quantized.shape}")
