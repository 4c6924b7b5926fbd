"""PGD against a codebook: besides the cross-entropy it climbs how far encodings are from the codes of the clean image.

A quantizer absorbs every perturbation that leaves its choice of codes as it was, so an attacker who knows it pushes encodings into
other cells; Tramèr et al., "On adaptive attacks to adversarial example defenses", 2020 (arXiv:2002.08347), on aiming the loss at
the part that a defense relies on. The loss is our own. On a model that hands no codes out, this is PGD on cross-entropy that keeps its best iterate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks._grid import Stack, over_grid
from attacks._keyed import uniform_noise
from attacks._linf import StepConfig, check_inputs, cross_entropy, detached_copy, input_gradient, margin, project, signed_step
from attacks._modes import ready_for_attack

NORM = "linf"
VERSION = 1
CEILING = 0.01  # of a code's margin, in mean squared distances between codes: a position past it has flipped and pulls no more

LogitsAndCodes = tuple[Tensor, list[tuple[Tensor, Tensor]]]  # logits (N, K), and per depth encodings (N, D, H, W) and codebook (C, D)


@dataclass(frozen=True)
class Config(StepConfig):
    """Number and length of steps, see ``StepConfig``, and what is climbed.

    Attributes:
        weight: Of the codes' margins beside the cross-entropy, at least 0; neither has a unit. On digits, 1 changes hardly more
            indices than cross-entropy alone does, and 100 breaks far fewer images.
        with_cross_entropy: False climbs the codes' margins alone: it changes most indices and breaks few images.
    """

    weight: float = 3.0
    with_cross_entropy: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be a finite number of at least 0, got {self.weight}")
        if self.weight == 0 and not self.with_cross_entropy:
            raise ValueError("without cross-entropy weight must be above 0, got 0: nothing would be climbed")


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float],
    keys: Tensor,
    config: Config = Config(),
) -> Tensor:
    """Return per epsilon the iterate that the model is most wrong about, by its logits' margin, float (E, N, C, H, W) in [0, 1].

    The start is uniform in the ball and then clipped to [0, 1], drawn from each image's own key.

    Args:
        model: Images to logits. For its codes to be attacked, it also offers ``logits_and_codes(images)``: the same logits and, per
            depth, the encodings (N, D, H, W), through which a gradient reaches the images, with the codebook (C, D) that they are
            compared with in Euclidean distance.
    """
    check_inputs(images, labels, epsilons, keys)

    def attack(stack: Stack) -> Tensor:
        noise = [uniform_noise(keys, stack.images.shape[1:], attack="code_flip", epsilon=epsilon) for epsilon in stack.epsilons]
        start = project(stack.images + torch.cat(noise).to(stack.images), stack.lower, stack.upper)
        return _climb(model, stack, start, config)

    with ready_for_attack(model):
        return over_grid(detached_copy(images), labels.clone(), epsilons, attack)


def code_margins(encoded: Tensor, codebook: Tensor, clean: Tensor) -> Tensor:
    """Return how far each image's encodings are from their clean codes, float32 (N,), at most ``CEILING``: the larger, the nearer to other codes.

    Of a position it is the squared distance to the code of the clean image less that to the nearest other code, positive where it has
    flipped, over the mean squared distance between codes; positions are averaged after clamping from above. 0 if all codes are equal.

    Args:
        encoded: Encodings, float (N, D, H, W).
        codebook: Codes, float (C, D), at least 2.
        clean: The code of the clean image at each position, int64 (N, H, W), see ``nearest_codes``.
    """
    distances, own = _distances(encoded, codebook), clean.flatten(1)[..., None]  # (N, H*W, C), (N, H*W, 1)
    apart = distances.gather(2, own).squeeze(2) - distances.scatter(2, own, torch.inf).amin(2)
    between = 2 * codebook.float().var(0).sum()  # the mean of |e - f|² over pairs of different codes
    return (apart / between.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=CEILING).mean(1)


def nearest_codes(encoded: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest code at each position, int64 (N, H, W)."""
    return _distances(encoded, codebook).argmin(2).view(len(encoded), *encoded.shape[2:])


def _distances(encoded: Tensor, codebook: Tensor) -> Tensor:
    """Return squared distances of encodings to codes, float32 (N, H*W, C), less each encoding's own square, which cancels in every comparison."""
    codes = codebook.float()
    return codes.square().sum(1) - 2 * encoded.float().flatten(2).mT @ codes.mT


def _logits_and_codes(model: nn.Module, images: Tensor) -> LogitsAndCodes:
    both: Callable[[Tensor], LogitsAndCodes] | None = getattr(model, "logits_and_codes", None)
    if both is None:
        return model(images), []
    logits, levels = both(images)
    return logits, [(encoded, codebook.detach()) for encoded, codebook in levels if len(codebook) > 1]


class _WithMargins(nn.Module):
    """A model whose logits have one more column: the sum over depths of ``code_margins``, relative to M images as they are now."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.clean = [nearest_codes(*level) for level in _logits_and_codes(model, images)[1]]

    def forward(self, images: Tensor) -> Tensor:
        logits, levels = _logits_and_codes(self.model, images)
        margins = [code_margins(*level, clean) for level, clean in zip(levels, self.clean, strict=True)]
        total = torch.stack(margins).sum(0) if margins else torch.zeros_like(logits[:, 0], dtype=torch.float32)
        return torch.cat([logits.float(), total[:, None]], dim=1)


def _climb(model: nn.Module, stack: Stack, start: Tensor, config: Config) -> Tensor:
    """Return the iterate of largest margin of each row, float (M, C, H, W)."""
    with_margins = _WithMargins(model, stack.images)
    climbs_logits = config.with_cross_entropy or not with_margins.clean

    def objective(columns: Tensor, labels: Tensor) -> Tensor:
        codes = config.weight * columns[:, -1]
        return cross_entropy(columns[:, :-1], labels) + codes if climbs_logits else codes

    step_size = stack.column([config.step_size_at(epsilon) for epsilon in stack.epsilons])
    iterate, best = start, start.clone()
    highest = torch.full((len(start),), -torch.inf, device=start.device)
    for step in range(config.num_steps + 1):
        if step < config.num_steps:
            columns, _, gradient = input_gradient(with_margins, iterate, stack.labels, objective)
        else:
            with torch.no_grad():  # the last step has not been looked at yet
                columns, gradient = with_margins(iterate), torch.zeros_like(iterate)
        wrong_by = margin(columns[:, :-1], stack.labels)
        better = wrong_by >= highest  # of equals the latest: rounding to codes leaves the logits as they were for many steps
        best[better], highest = iterate[better], torch.maximum(highest, wrong_by)
        iterate = project(signed_step(iterate, gradient, step_size), stack.lower, stack.upper)
    return best
