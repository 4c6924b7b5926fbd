"""Carlini and Wagner's L2 attack: the distances it needs, or its perturbation clipped to each epsilon's L-infinity ball.

Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017, section VI-A (arXiv:1608.04644): over w,
minimise |x(w) - x|^2 + c * max(confidence - margin, 0) with x(w) = (tanh(w) + 1) / 2, and search for the smallest c that
succeeds. Settings and details are those of CleverHans 2.1.0. The attack has no epsilon. ``minimum_distances`` says how far the
nearest success is: on the attacked model itself, an image is robust at an L2 epsilon, as far as this attack can tell, if its
distance exceeds it. That says nothing of another model, for which there is one image per original and no larger one.

``perturb`` clips to a ball, the reading under which the attack can be drawn over the axis of FGSM, BIM and PGD. One search serves
the whole grid. What it can show is limited. At small epsilon clipping undoes the attack, beyond the largest |delta| the curve is flat, and it
need not fall in between. With confidence 0 the images lie on the decision boundary: any blur undoes them, and rounding alone
can change the class. ``cw`` is the stronger attack within a ball.

Departures from CleverHans:

- An image's search and early stop are its own. CleverHans stops on the sum of the batch, whose default size is 1.
- Where no constant succeeds, the iterate of largest margin is returned, not the clean image, which would pass for robust on
  any other model. Images misclassified from the start, by more than `confidence`, stay as they are.
- A run stops early only once its loss has fallen. On images of nothing but 0 and 1 it hardly does within the first tenth of the
  steps, and CleverHans gives up there with the clean image. The iterate at which a run stops is looked at too.
- From 10 search steps on, CleverHans repeats the best constant. Nothing is random here, so that would find the same again.

Fewer steps need a larger learning rate: keep num_steps * learning_rate near 5. A pixel at 0 or 1 starts at w = -7.25 or 7.25,
where the derivative of tanh is 2e-6, and with less it does not get away. Measured on scikit-learn's digits (8x8, half of the
pixels exactly 0), the 47 of 48 images that a small CNN classifies correctly:

| num_steps | learning_rate | successes | their mean L2 | mean abs(delta) on saturated pixels |
|---|---|---|---|---|
| 1000 | 0.005 | 100 % | 0.55 | 0.032 |
| 100 | 0.005 | 40 % | 0.52 | 0.000 |
| 200 | 0.01 | 98 % | 0.80 | 0.000 |
| 200 | 0.03 | 100 % | 0.56 | 0.032 |
| 100 | 0.05 | 100 % | 0.59 | 0.030 |
| 100 | 0.1 | 100 % | 0.56 | 0.032 |
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from attacks._linf import ball, check_count, check_inputs, detached_copy, input_gradient, margin, project
from attacks._modes import ready_for_attack

NORM = "linf"
DISTANCE_NORM = "l2"  # of minimum_distances
VERSION = 1

SHRINK = 0.999999  # an image's tanh(w) is at most this: atanh stays finite, and pixels of 0 and 1 are not frozen
LOOKS = 10  # how often in num_steps a run is asked whether it stalls
STALLED = 0.9999  # it does when its loss, once below this share of the first loss, exceeds this share of the last look's
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Config:
    """Settings of the attack; the defaults are those of CleverHans 2.1.0.

    An image costs up to num_steps * search_steps forward and backward passes: 5000 at the defaults, 500 times BIM's 10.

    Attributes:
        confidence: Margin in logits that a success must exceed, at least 0.
        num_steps: Iterates looked at per constant, at least 2, since the first is the image itself.
        learning_rate: Adam's, in units of w, in (0, 10].
        search_steps: Constants tried per image, at least 1.
        initial_constant: The first one, positive. It grows tenfold until one succeeds, then the interval is halved.
        abort_early: Whether a run ends when its loss, having fallen, has not fallen further within a tenth of num_steps.
    """

    confidence: float = 0.0
    num_steps: int = 1000
    learning_rate: float = 5e-3
    search_steps: int = 5
    initial_constant: float = 1e-2
    abort_early: bool = True

    def __post_init__(self) -> None:
        check_count("search_steps", self.search_steps)
        check_count("num_steps", self.num_steps)
        if self.num_steps < 2:
            raise ValueError(f"num_steps must be at least 2, got {self.num_steps}: the first iterate is the image itself")
        if not 0 <= self.confidence < float("inf"):
            raise ValueError(f"confidence must be a finite margin of at least 0, got {self.confidence}")
        if not 0 < self.learning_rate <= 10:
            raise ValueError(f"learning_rate must be in (0, 10], got {self.learning_rate}")
        if not 0 < self.initial_constant < float("inf"):
            raise ValueError(f"initial_constant must be positive and finite, got {self.initial_constant}")
        if not isinstance(self.abort_early, bool):
            raise ValueError(f"abort_early must be true or false, got {self.abort_early!r}")


@dataclass
class _Searches:
    """The searches of M images, row by row: each is at its own step of its own run with its own constant.

    Attributes:
        rows: Which image, int64 (M,).
        labels: int64 (M,).
        origin: The image as w, float (M, C, H, W).
        start: The image as tanh gives it back, same shape.
        shift: w - origin, what Adam moves; `first` and `second` are its moments.
        step: Iterates of this run so far, int64 (M,).
        first_loss: Of this run's first iterate, float (M,).
        last_loss: At the last look, float (M,).
        has_found: Whether this run has succeeded, bool (M,).
        constant: float (M,), between `low`, the largest that failed (0), and `high`, the smallest that succeeded (inf).
        runs_left: This one included, int64 (M,).
        best: The iterate to return, float (M, C, H, W), with its squared `distance`, inf if it is no success.
        largest_margin: Of all iterates, float (M,).
    """

    rows: Tensor
    labels: Tensor
    origin: Tensor
    start: Tensor
    shift: Tensor
    first: Tensor
    second: Tensor
    step: Tensor
    first_loss: Tensor
    last_loss: Tensor
    has_found: Tensor
    constant: Tensor
    low: Tensor
    high: Tensor
    runs_left: Tensor
    best: Tensor
    distance: Tensor
    largest_margin: Tensor

    def of(self, chosen: Tensor) -> "_Searches":
        """Return the searches at the positions `chosen`, int64."""
        return _Searches(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float],
    keys: Tensor,
    config: Config = Config(),
) -> Tensor:
    """Return the nearest adversarial images found, clipped to each epsilon's ball, float (E, N, C, H, W) in [0, 1].

    `keys` are not used: the attack is deterministic.
    """
    check_inputs(images, labels, epsilons, keys)
    with ready_for_attack(model):
        images, labels = detached_copy(images), labels.clone()
        nearest = _nearest_adversarial(model, images, labels, config) if len(images) else images
        return torch.stack([project(nearest, *ball(images, epsilon)) for epsilon in epsilons])


def minimum_distances(model: nn.Module, images: Tensor, labels: Tensor, *, keys: Tensor, config: Config = Config()) -> Tensor:
    """Return each image's distance to the nearest adversarial one found, L2 over the whole image in [0, 1], float32 (N,).

    0 where the image is misclassified as it is, infinity where none was found: upper bounds of the true distances. An adversarial image counts only
    if a plain forward pass, without gradients, misclassifies it by more than `confidence`; the search goes on where it does not. `keys` are not
    used: the attack is deterministic.

    Raises:
        ValueError: If logits are not finite, or no gradient path leads to the input.
    """
    check_inputs(images, labels, (0.0,), keys)
    with ready_for_attack(model):
        images, labels = detached_copy(images), labels.clone()
        distances = torch.full((len(images),), torch.inf, device=images.device)
        if len(images):
            is_right = _plain_logits(model, images).argmax(1) == labels
            nearest, is_found = _search(model, images, labels, is_right.nonzero().squeeze(1), config, confirm=True)
            lengths = (nearest - images).flatten(1).double().norm(dim=1).float()
            distances = torch.where(is_found, lengths, distances)
            distances = torch.where(is_right, distances, 0.0)
        return distances


def _nearest_adversarial(model: nn.Module, images: Tensor, labels: Tensor, config: Config) -> Tensor:
    """Return the successes nearest to the images in L2, float (N, C, H, W); see the module on failures."""
    value = input_gradient(model, images, labels, margin).objective
    return _search(model, images, labels, (~(value > config.confidence)).nonzero().squeeze(1), config)[0]


def _search(model: nn.Module, images: Tensor, labels: Tensor, rows: Tensor, config: Config, *, confirm: bool = False) -> tuple[Tensor, Tensor]:
    """Return what is found for the images at `rows`, float (N, C, H, W), the others as they are; and which are successes, bool (N,).

    Args:
        confirm: Whether a success counts only if it is one in a plain forward pass too.
    """
    nearest, is_found = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    searches = _begin(images, labels, rows, config)
    # Adam in TensorFlow's form: the bias is corrected in the rate, and epsilon added to the moment as it is
    rates = [config.learning_rate * (1 - BETA2**step) ** 0.5 / (1 - BETA1**step) for step in range(1, config.num_steps + 1)]
    rate_of = torch.tensor(rates, dtype=images.dtype, device=images.device)

    while len(searches.rows):
        tanh = torch.tanh(searches.origin + searches.shift)
        iterates = (tanh + 1) / 2
        _, value, gradient = input_gradient(model, iterates, searches.labels, margin)
        delta = iterates - searches.start
        squared = delta.square().flatten(1).sum(1)
        _keep_better(searches, iterates, value, squared, config, model if confirm else None)

        missing = (config.confidence - value).clamp(min=0)
        has_ended = _has_ended(searches, squared + searches.constant * missing, config)
        weight = torch.where(missing > 0, searches.constant, 0)
        gradient = (2 * delta - _column(weight) * gradient) * (1 - tanh.square()) / 2  # of the loss, with respect to w
        searches.first.lerp_(gradient, 1 - BETA1)
        searches.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        searches.shift -= _column(rate_of[searches.step]) * searches.first / (searches.second.sqrt() + ADAM_EPSILON)
        searches.step += 1
        if bool(has_ended.any()):
            _begin_next_runs(searches, has_ended)
            nearest[searches.rows], is_found[searches.rows] = searches.best, searches.distance.isfinite()
            searches = searches.of((searches.runs_left > 0).nonzero().squeeze(1))
    return nearest, is_found


def _begin(images: Tensor, labels: Tensor, rows: Tensor, config: Config) -> _Searches:
    """Return new searches for the images at `rows`."""
    origin = torch.atanh((2 * images[rows] - 1) * SHRINK)
    start, zero, none = (torch.tanh(origin) + 1) / 2, images.new_zeros(len(rows)), torch.zeros_like(rows)
    return _Searches(
        rows=rows,
        labels=labels[rows],
        origin=origin,
        start=start,
        shift=torch.zeros_like(origin),
        first=torch.zeros_like(origin),
        second=torch.zeros_like(origin),
        step=none,
        first_loss=zero + torch.inf,
        last_loss=zero + torch.inf,
        has_found=torch.zeros_like(rows, dtype=torch.bool),
        constant=zero + config.initial_constant,
        low=zero,
        high=zero + torch.inf,
        runs_left=none + config.search_steps,
        best=start.clone(),
        distance=zero + torch.inf,
        largest_margin=zero - torch.inf,
    )


def _keep_better(searches: _Searches, iterates: Tensor, value: Tensor, squared: Tensor, config: Config, confirm: nn.Module | None) -> None:
    """Keep the nearest success of each search; before the first success, the iterate of largest margin.

    Args:
        confirm: The model, where a success that would be the nearest counts only if a plain forward pass agrees.
    """
    is_success = value > config.confidence
    if confirm is not None and len(tried := (is_success & (squared < searches.distance)).nonzero().squeeze(1)):
        is_success[tried] = margin(_plain_logits(confirm, iterates[tried]), searches.labels[tried]) > config.confidence
    is_nearest = is_success & (squared < searches.distance)
    is_better = is_nearest | (searches.distance.isinf() & (value > searches.largest_margin))
    searches.best = torch.where(_column(is_better), iterates, searches.best)
    searches.distance = torch.where(is_nearest, squared, searches.distance)
    searches.largest_margin = torch.maximum(searches.largest_margin, value)
    searches.has_found |= is_success


def _has_ended(searches: _Searches, loss: Tensor, config: Config) -> Tensor:
    """Return which runs have taken all their steps or stall, bool (M,), and remember the loss where it was looked at."""
    has_ended = searches.step + 1 >= config.num_steps
    if config.abort_early:
        is_looked_at = searches.step % max(1, config.num_steps // LOOKS) == 0
        has_fallen = searches.last_loss < STALLED * searches.first_loss
        has_ended |= is_looked_at & has_fallen & (loss > STALLED * searches.last_loss)
        searches.first_loss = torch.where(searches.step == 0, loss, searches.first_loss)
        searches.last_loss = torch.where(is_looked_at, loss, searches.last_loss)
    return has_ended


def _begin_next_runs(searches: _Searches, has_ended: Tensor) -> None:
    """Give the searches whose run has ended their next constant, and put them back to their image."""
    constant, low, high = _next_constant(searches.constant, searches.low, searches.high, searches.has_found)
    searches.constant = torch.where(has_ended, constant, searches.constant)
    searches.low = torch.where(has_ended, low, searches.low)
    searches.high = torch.where(has_ended, high, searches.high)
    searches.runs_left -= has_ended.long()
    searches.step.masked_fill_(has_ended, 0)
    searches.last_loss.masked_fill_(has_ended, torch.inf)
    searches.has_found &= ~has_ended
    for moved in (searches.shift, searches.first, searches.second):
        moved.masked_fill_(_column(has_ended), 0)


def _next_constant(constant: Tensor, low: Tensor, high: Tensor, has_found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the constant to try next and the interval (low, high) that is left, each float (M,)."""
    low = torch.where(has_found, low, torch.maximum(low, constant))
    high = torch.where(has_found, torch.minimum(high, constant), high)
    return torch.where(high.isinf(), constant * 10, (low + high) / 2), low, high


@torch.inference_mode()
def _plain_logits(model: nn.Module, images: Tensor) -> Tensor:
    logits = model(images)
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the logits are not finite (NaN or infinity), so the distance to a misclassified image is undefined")
    return logits


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
