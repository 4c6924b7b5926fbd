"""The adaptive attacker: PGD on the whole defense over ascending epsilons, carrying over what is broken.

PGD as in Madry et al., 2018 (arXiv:1706.06083), on the whole defense, with the best iterate and an early exit. An image
broken at a small epsilon is broken at every larger one, since the same adversarial image is allowed there; so the curve
is monotone, and large epsilons cost only what the survivors cost.

The margin is climbed, not cross-entropy; a survivor's first start at an epsilon is the best iterate of the one before, which is
inside the larger ball; and steps shrink linearly from twice their mean length to nothing, as APGD's long first steps do. Measured
on the digits, 64 images, small VQUNet (depth 3, K 64) with its retrained target: survivors at epsilon 0.0125, 0.025, 0.0375, 0.05, and
gradients per image. `soft` is the gradient of a soft assignment over codes (``models._soft_assignment``), at both its temperatures.

| steps, starts | loss | gradient | from | relative step size | survivors | gradients |
|---|---|---|---|---|---|---|
| 20, 1 | cross-entropy | straight through | random | 2.5, constant | 59 42 23 11 | 56 |
| 20, 3 | cross-entropy | straight through | random | 2.5, constant | 57 37 15 5 | 130 |
| 20, 1 | margin | straight through | best before | 2.5, shrinking | 57 36 15 4 | 41 |
| 40, 6 | margin | straight through | best before, random | 2.5, shrinking | 51 30 7 0 | 359 |
| 20, 1 | margin | soft | best before | 2.5, shrinking | 30 2 0 0 | 36 |
| 40, 6 | margin | soft | best before, random | 2.5, shrinking | 26 1 0 0 | 270 |
| 20, 1 | margin | soft | best before | 5, shrinking | 25 1 0 0 | 30 |
| 20, 1 | margin | soft | best before | 7.5 (default), shrinking | 25 1 0 0 | 31 |
| 20, 1 | margin | soft | best before | 15, shrinking | 25 3 0 0 | 35 |

(The first two lines are of 96 images, scaled.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from attacks._keyed import uniform_noise
from attacks._linf import (
    NoGradient,
    Objective,
    ball,
    check_count,
    check_inputs,
    cross_entropy,
    detached_copy,
    input_gradient,
    margin,
    project,
    signed_step,
)
from attacks._modes import ready_for_attack

NORM = "linf"
VERSION = 2
NUM_VOTES = 10  # evaluations of an image by a random defense


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the margin over the spread of the logits, float32 (N,), in [-1, 0] where the image is classified correctly.

    The difference of logits ratio of Croce and Hein, 2020 (arXiv:2003.01690); the spread is from the largest to the third. It does
    not change with a scale or a shift of the logits, as long as they are not all equal.

    Raises:
        ValueError: If there are fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the loss 'dlr' compares three logits, got {logits.shape[1]}; use 'margin'")
    largest = logits.float().topk(3, dim=1).values
    return margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


LOSSES: dict[str, Objective] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


@dataclass(frozen=True)
class Config:
    """Settings of the adaptive attacker.

    Attributes:
        num_steps: Gradient steps per epsilon and restart, at least 1.
        relative_step_size: The mean step size is relative_step_size * epsilon / num_steps, but epsilon at most; from 2 on, the far
            side of the ball is within reach of any start.
        num_restarts: Starts per epsilon, at least 1.
        batch_size: Images per forward pass, in the attack and in the scoring that confirms it.
        loss: What is climbed: `ce`, cross-entropy; `margin`, the best wrong logit less the true one, which saturated logits leave
            a gradient; `dlr`, see ``dlr``.
        num_eot_samples: Passes that logits, loss and gradient of an iterate are averaged over, at least 1. With more than 1 the
            defense is taken for a random one: an iterate leaves where its averaged logits are misclassified, and it counts as
            broken where most of ``NUM_VOTES`` evaluations are wrong; of ten, five wrong ones leave it correct.
    """

    num_steps: int = 20
    relative_step_size: float = 7.5
    num_restarts: int = 1
    batch_size: int = 128
    loss: str = "margin"
    num_eot_samples: int = 1

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_restarts", "batch_size", "num_eot_samples"):
            check_count(name, getattr(self, name))
        if not 0 < self.relative_step_size < float("inf"):
            raise ValueError(f"relative_step_size must be positive and finite, got {self.relative_step_size}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")


@dataclass(frozen=True)
class Ascent:
    """What the attack found on N images over E ascending epsilons.

    Attributes:
        broken_at: First epsilon at which each image is misclassified, float32 (N,); 0 if it is without an attack, inf
            if it survives the whole grid.
        adversarial: The image that breaks the defense, the clean one where broken_at is 0; for survivors the iterate of
            highest loss at the largest epsilon. Float (N, C, H, W) in [0, 1].
        carried_over: Images already broken before each epsilon, hence not attacked there.
        achieved_epsilon: Largest |delta| over the images attacked at each epsilon, of what was found or looked at last; None where
            there were none.
        zero_gradient: Images attacked at each epsilon whose first gradient was exactly zero.
        refuted: Images that left the attack at each epsilon, but that the scoring pass classified correctly.
        forwards: Image passes forward, the scoring ones included.
        backwards: Image passes backward.
        mean_accuracy: Share of correct ones among ``NUM_VOTES`` evaluations of each image's adversarial one, averaged over all N
            images, after each epsilon; it stands beside the vote that broken_at follows. None where each is evaluated once.
    """

    broken_at: Tensor
    adversarial: Tensor
    carried_over: list[int]
    achieved_epsilon: list[float | None]
    zero_gradient: list[int]
    refuted: list[int]
    forwards: int
    backwards: int
    mean_accuracy: list[float] | None = None


def ascend(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float],
    keys: Tensor,
    config: Config = Config(),
    known: Tensor | None = None,
    first_start: int = 0,
) -> Ascent:
    """Return at which epsilon each image breaks; an image counts only if ``scoring_forward`` confirms it.

    Start 0 of an epsilon is the best iterate of the epsilon before, where there is one; all others are random in the ball.

    Args:
        model: The whole defense, images to logits; deterministic in eval mode, unless `config.num_eot_samples` is above 1.
        images: Float (N, C, H, W) in [0, 1].
        labels: True labels, int64 (N,).
        epsilons: Strictly ascending, in [0, 1]. At 0 nothing is attacked.
        keys: One per image, int64 (N,); see ``attacks._keyed.sample_keys``.
        config: Settings.
        known: Epsilons at which other attacks broke each image, float32 (N,), infinity where none did. An image is attacked at
            smaller ones only, and what comes back is the smaller of the two.
        first_start: 0, or 1 for random starts only: other ones than those of an attack that began with 0.

    Raises:
        ValueError: If epsilons do not ascend, if the logits are not finite, if autograd finds no path to the input, or
            if at the first epsilon the gradient is exactly zero for every image: the defense may be masked, and
            surviving such an attack says nothing.
    """
    check_inputs(images, labels, epsilons, keys)
    check_ascending(epsilons)
    with ready_for_attack(model):
        run = _Run(model, detached_copy(images), labels.clone(), keys, config, first_start)
        if known is not None:
            run.broken_at = known.to(run.broken_at).clone()
        run.set_aside_misclassified()
        for epsilon in epsilons:
            run.attack_at(epsilon)
        return run.result()


def check_ascending(epsilons: Sequence[float]) -> None:
    """Raise ValueError unless epsilons are strictly ascending."""
    if any(low >= high for low, high in pairwise(epsilons)):
        raise ValueError(f"epsilons must be strictly ascending, got {list(epsilons)}")


def scoring_forward(model: nn.Module, images: Tensor, *, batch_size: int) -> Tensor:
    """Return the logits (N, K) of a plain forward pass in batches of batch_size, without gradients.

    The model's mode is the caller's business.

    Raises:
        ValueError: If a logit is not finite: its argmax would be an arbitrary class.
    """
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in images.split(batch_size)])
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the logits are not finite (NaN or infinity), so accuracy under attack is undefined")
    return logits


class _Run:
    """The state of one ascent."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, keys: Tensor, config: Config, first_start: int) -> None:
        self.starts = range(first_start, first_start + config.num_restarts)
        self.model, self.images, self.labels, self.keys, self.config = model, images, labels, keys, config
        self.broken_at = torch.full((len(images),), torch.inf, device=images.device)
        self.adversarial = images.clone()
        self.carried_over: list[int] = []
        self.achieved_epsilon: list[float | None] = []
        self.zero_gradient: list[int] = []
        self.refuted: list[int] = []
        self.forwards = self.backwards = 0
        self.reached = 0.0  # largest |delta| of a last iterate at this epsilon: the best one may be the first
        self.is_random = config.num_eot_samples > 1
        self.correct_share = torch.ones_like(self.broken_at)  # of the evaluations of `adversarial`
        self.mean_accuracy: list[float] = []

    def result(self) -> Ascent:
        return Ascent(
            self.broken_at,
            self.adversarial,
            self.carried_over,
            self.achieved_epsilon,
            self.zero_gradient,
            self.refuted,
            self.forwards,
            self.backwards,
            self.mean_accuracy if self.is_random else None,
        )

    def set_aside_misclassified(self) -> None:
        if len(self.images):
            self.correct_share = self._share_correct(self.images, self.labels)
            self.broken_at[self.correct_share < 0.5] = 0.0

    def attack_at(self, epsilon: float) -> None:
        """Attack every image that is not broken yet, start by start, and record what broke."""
        is_first = all(value is None for value in self.achieved_epsilon)
        self.carried_over.append(len(self.images) - len(self._surviving(epsilon)))
        achieved, num_zero, num_refuted, self.reached = None, 0, 0, 0.0
        best_loss = torch.full_like(self.broken_at, -torch.inf)
        for start in self.starts:
            tried = self._surviving(epsilon)
            if not len(tried) or epsilon == 0:
                break
            # chunks of equal size: 130 images are 65 + 65, not 128 + 2
            chunks = tried.tensor_split(-(-len(tried) // self.config.batch_size))
            tries = [self._climb(chunk, epsilon, start) for chunk in chunks]
            found, loss, left, has_gradient = (torch.cat(parts) for parts in zip(*tries, strict=True))
            if start == self.starts[0]:
                num_zero = int((~has_gradient).sum())
                if is_first and num_zero == len(tried):
                    raise NoGradient(
                        f"no gradient reaches the input: it is exactly zero for all {len(tried)} images at epsilon "
                        f"{epsilon:g} (masked by rounding or a saturated activation, or a constant output); surviving "
                        "this attack would say nothing about robustness"
                    )
            distance = (found - self.images[tried]).abs().amax().item()
            achieved = max(achieved or 0.0, distance, self.reached)
            candidates = left.nonzero().squeeze(1)
            confirmed = torch.zeros_like(left)
            if len(candidates):
                share = self._share_correct(found[candidates], self.labels[tried[candidates]])
                self.correct_share[tried[candidates]] = share
                confirmed[candidates] = share < 0.5
            num_refuted += len(candidates) - int(confirmed.sum())
            kept = confirmed | (loss > best_loss[tried])
            self.adversarial[tried[kept]] = found[kept]
            best_loss[tried] = torch.maximum(best_loss[tried], loss)
            self.broken_at[tried[confirmed]] = epsilon
        self.achieved_epsilon.append(achieved)
        self.zero_gradient.append(num_zero)
        self.refuted.append(num_refuted)
        if self.is_random:
            held = self._surviving(epsilon)
            if len(held) and achieved is not None:  # their images are new since they were last evaluated
                self.correct_share[held] = self._share_correct(self.adversarial[held], self.labels[held])
            self.mean_accuracy.append(self.correct_share.mean().item())

    def _climb(self, chosen: Tensor, epsilon: float, start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return for M chosen images: the breaking or highest-loss iterate, its loss, whether it left, has a gradient.

        Each image leaves the batch at its first misclassified iterate. The same forward passes serve check and gradient.
        """
        images, labels = self.images[chosen], self.labels[chosen]
        lower, upper = ball(images, epsilon)
        iterate = self._start(chosen, epsilon, start, lower, upper)
        mean_step_size = min(self.config.relative_step_size / self.config.num_steps, 1.0) * epsilon

        objective, num_samples = LOSSES[self.config.loss], self.config.num_eot_samples
        found = iterate.clone()
        highest = torch.full((len(chosen),), -torch.inf, device=images.device)
        left = torch.zeros(len(chosen), dtype=torch.bool, device=images.device)
        has_gradient = torch.zeros_like(left)
        rows = torch.arange(len(chosen), device=images.device)  # of found, still in the batch
        for step in range(self.config.num_steps):
            logits, loss, gradient = input_gradient(self.model, iterate, labels, objective, num_samples)
            self.forwards += len(rows) * num_samples
            self.backwards += len(rows) * num_samples
            if step == 0:
                has_gradient = (gradient != 0).flatten(1).any(1)
            stays = self._record(rows, iterate, logits, loss, labels, (found, highest, left))
            if len(stays) < len(rows):
                if not len(stays):
                    return found, highest, left, has_gradient
                rows, labels, iterate, gradient = rows[stays], labels[stays], iterate[stays], gradient[stays]
                lower, upper = lower[stays], upper[stays]
            step_size = 2 * (1 - step / self.config.num_steps) * mean_step_size
            iterate = project(signed_step(iterate, gradient, step_size), lower, upper)

        self.reached = max(self.reached, (iterate - images[rows]).abs().amax().item())
        with torch.no_grad():  # the last step has not been looked at yet
            passes = [self.model(iterate) for _ in range(num_samples)]
            loss = torch.stack([objective(logits, labels) for logits in passes]).mean(0)
        self.forwards += len(rows) * num_samples
        self._record(rows, iterate, torch.stack(passes).mean(0), loss, labels, (found, highest, left))
        return found, highest, left, has_gradient

    def _start(self, chosen: Tensor, epsilon: float, start: int, lower: Tensor, upper: Tensor) -> Tensor:
        """Return where M survivors start: first where they got to at the epsilon before, else at random in the ball."""
        if start == 0 and any(value is not None for value in self.achieved_epsilon):
            return project(self.adversarial[chosen], lower, upper)
        keys, shape = self.keys[chosen.to(self.keys.device)], self.images.shape[1:]
        noise = uniform_noise(keys, shape, attack="ascending", epsilon=epsilon, restart=start)
        return project(self.images[chosen] + noise.to(self.images), lower, upper)

    @staticmethod
    def _record(rows: Tensor, iterate: Tensor, logits: Tensor, loss: Tensor, labels: Tensor, best: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Write misclassified and highest-loss iterates into (found, highest, left); return who stays, int64."""
        found, highest, left = best
        is_wrong = logits.argmax(1) != labels
        better = (is_wrong | (loss > highest[rows])).nonzero().squeeze(1)
        found[rows[better]] = iterate[better]
        highest[rows[better]] = loss[better]
        left[rows] = is_wrong
        return (~is_wrong).nonzero().squeeze(1)

    def _surviving(self, epsilon: float) -> Tensor:
        """Return the images that nothing is known to break at epsilon, int64; broken_at holds float32 values."""
        return (self.broken_at > torch.tensor(epsilon, dtype=torch.float32, device=self.broken_at.device)).nonzero().squeeze(1)

    def _share_correct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the share of evaluations in which each image is classified correctly, float32 (M,); 0 or 1 unless the defense is random."""
        votes = NUM_VOTES if self.is_random else 1
        self.forwards += len(images) * votes
        said = [scoring_forward(self.model, images, batch_size=self.config.batch_size).argmax(1) for _ in range(votes)]
        return (torch.stack(said) == labels).float().mean(0)
