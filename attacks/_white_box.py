"""Any attack as a white-box attacker: over ascending epsilons, on survivors only, carrying over what is broken.

The curve is monotone by construction, since an image broken at a small epsilon is broken at every larger one. What breaks is the
union over the grid: an image counts as broken at the first epsilon at which the attack breaks it. An attack that returns the clean
image where it fails is welcome here, where a survivor is a survivor; it is not where its images are scored on another model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attacks._ascending import Ascent, check_ascending, scoring_forward
from attacks._linf import check_count, check_inputs, detached_copy
from attacks._modes import ready_for_attack

VERSION = 1


class Perturb(Protocol):
    """An attack's `perturb` with its settings bound, such as ``partial(pgd.perturb, config=pgd.Config(num_restarts=5))``."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilons: Sequence[float], keys: Tensor) -> Tensor: ...


def ascend_with(
    perturb: Perturb,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float],
    keys: Tensor,
    batch_size: int,
) -> Ascent:
    """Return at which epsilon each image breaks under an attack; it counts only if ``scoring_forward`` confirms it.

    Each epsilon attacks the images that no smaller one broke, in equal batches. With an attack whose images do not depend on their
    batch (all of ours), the result does not depend on batch_size or on the images' order either.

    In what comes back, `adversarial` holds for survivors what the attack returned at the largest epsilon, and `zero_gradient` is 0,
    since an attack as a whole does not show its first gradient. `refuted` counts images that survive the scoring pass, but are
    misclassified while gradients are recorded: a defense that tells the two apart, or a random one. Passes are counted at the
    model's door, so they are those that the attack really made.

    Args:
        perturb: Called with one epsilon at a time.
        model: The whole defense, images to logits.
        images: Float (N, C, H, W) in [0, 1].
        labels: True labels, int64 (N,).
        epsilons: Strictly ascending, in [0, 1]. At 0 nothing is attacked.
        keys: One per image, int64 (N,); see ``attacks._keyed.sample_keys``.
        batch_size: Images per call of the attack and per forward pass of the scoring.

    Raises:
        ValueError: If epsilons do not ascend, if the logits are not finite, or if the attack returns images that are not finite, of
            another shape, outside the ball or outside [0, 1].
    """
    check_inputs(images, labels, epsilons, keys)
    check_ascending(epsilons)
    check_count("batch_size", batch_size)
    images, labels = detached_copy(images), labels.clone()
    broken_at = torch.full((len(images),), torch.inf, device=images.device)
    adversarial = images.clone()
    carried_over: list[int] = []
    achieved: list[float | None] = []
    refuted: list[int] = []

    with ready_for_attack(model), _counted(model) as passes:
        if len(images):
            broken_at[_misclassified(model, images, labels, batch_size)] = 0.0
        for epsilon in epsilons:
            tried = torch.isinf(broken_at).nonzero().squeeze(1)
            carried_over.append(len(images) - len(tried))
            if epsilon == 0 or not len(tried):
                achieved.append(None)
                refuted.append(0)
                continue
            # chunks of equal size: 130 images are 65 + 65, not 128 + 2
            chunks = tried.tensor_split(-(-len(tried) // batch_size))
            found = torch.cat([_at(perturb, model, images, labels, keys, chunk, epsilon) for chunk in chunks])
            broken = _misclassified(model, found, labels[tried], batch_size)
            adversarial[tried] = found
            broken_at[tried[broken]] = epsilon
            held = (~broken).nonzero().squeeze(1)
            refuted.append(_misclassified_with_gradients(model, found[held], labels[tried[held]], batch_size))
            achieved.append((found - images[tried]).abs().amax().item())
    nothing = [0] * len(epsilons)
    return Ascent(broken_at, adversarial, carried_over, achieved, nothing, refuted, passes["forwards"], passes["backwards"])


def refuse_outside(name: str, adversarial: Tensor, images: Tensor, epsilon: float) -> None:
    """Raise ValueError unless adversarial images are finite, in [0, 1] and within epsilon of images, up to rounding."""
    if adversarial.shape != images.shape or not bool(torch.isfinite(adversarial).all()):
        raise ValueError(f"{name} returned images that are not finite or of another shape")
    distance = (adversarial - images).abs().amax().item()
    if distance > epsilon * (1 + 1e-5) + 1e-6:
        raise ValueError(f"{name} left the ball: |delta| is {distance:.7g} at epsilon {epsilon:.7g}")
    low, high = adversarial.amin().item(), adversarial.amax().item()
    if low < 0 or high > 1:
        raise ValueError(f"{name} left [0, 1]: pixels from {low:.7g} to {high:.7g}")


def _at(perturb: Perturb, model: nn.Module, images: Tensor, labels: Tensor, keys: Tensor, chosen: Tensor, epsilon: float) -> Tensor:
    """Return the adversarial images of M chosen ones at one epsilon, float (M, C, H, W)."""
    some = images[chosen]
    grid = perturb(model, some, labels[chosen], epsilons=(epsilon,), keys=keys[chosen.to(keys.device)])
    if len(grid) != 1:
        raise ValueError(f"the attack must return one slice per epsilon, (1, {len(some)}, C, H, W), got {tuple(grid.shape)}")
    adversarial = grid[0].detach()
    refuse_outside("the attack", adversarial, some, epsilon)
    return adversarial.to(some)


def _misclassified(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    return scoring_forward(model, images, batch_size=batch_size).argmax(1) != labels


def _misclassified_with_gradients(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> int:
    """Return how many images are misclassified as a gradient attack sees them."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum(int((model(batch.detach().requires_grad_()).argmax(1) != truth).sum()) for batch, truth in parts if len(batch))


@contextmanager
def _counted(model: nn.Module) -> Iterator[dict[str, int]]:
    """Count the images that pass forward and backward through a model, by either of its doors, while the block runs."""
    passes = {"forwards": 0, "backwards": 0}
    inside = False  # the forward pass, which may be made of `logits_and_codes`

    def enter(*_: Any) -> None:
        nonlocal inside
        inside = True

    def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal inside
        inside, count = False, len(output)
        passes["forwards"] += count
        if output.requires_grad:
            output.register_hook(lambda gradient: backward(count))

    def backward(count: int) -> None:
        passes["backwards"] += count

    def with_codes(images: Tensor) -> Any:
        if not inside:
            passes["forwards"] += len(images)
            if images.requires_grad:  # not the logits, which a loss of codes alone does not read
                images.register_hook(lambda gradient: backward(len(images)))
        return method(model, images)

    method: Any = getattr(type(model), "logits_and_codes", None)  # which `code_flip` calls; it has no hooks
    handles = model.register_forward_pre_hook(enter), model.register_forward_hook(forward)
    try:
        if method is not None:
            vars(model)["logits_and_codes"] = with_codes
        yield passes
    finally:
        for handle in handles:
            handle.remove()
        if method is not None:
            del vars(model)["logits_and_codes"]
