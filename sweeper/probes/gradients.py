"""Is the gradient that the adaptive attacker follows there, finite, and about the right thing?"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._keyed import uniform_noise
from attacks._linf import Gradient, NoGradient, Objective, ball, cross_entropy, input_gradient, margin, project, signed_step
from attacks._modes import ready_for_attack
from sweeper.probes._subject import Finding, Subject, plain_logits
from sweeper.scoring import laid_out, with_latents

DEAD_SHARE = 0.01  # C20: images whose gradient is zero or not finite
SAME_GRADIENT = 1e-6  # C21: relative change below which the purifier adds nothing to the gradient
STEPS_255 = (1, 2)  # C22: widths of the finite differences, in 1/255
LOW_COSINE = 0.5  # C22
SURFACE_STEPS = 10  # C23: steps of 1/255
FALLS_SHARE = 1 / 3  # C23
LARGE_MARGIN = 50.0  # C25: exp(-50) is beyond what fp32 adds to 1, so cross-entropy is flat


def gradient_is_alive(subject: Subject) -> Finding:
    """C20: at fewer than 1 % of images is the input gradient zero everywhere or not finite, at the images and at random points of their balls.

    Of cross-entropy and of the margin; the worst of the four counts.
    """
    noise = uniform_noise(subject.keys, subject.images.shape[1:], attack="probe", epsilon=subject.score_epsilon)
    points = {"the images": subject.images, "random points": (subject.images + noise.to(subject.images)).clamp(0, 1)}
    objectives: dict[str, Objective] = {"cross-entropy": cross_entropy, "the margin": margin}
    worst, where = -1.0, ""
    for place, images in points.items():
        for name, objective in objectives.items():
            try:
                gradient = _gradient(subject, images, objective).flatten(1)
            except NoGradient:
                return Finding("C20", "fail", "no gradient reaches the input at all", 1.0, DEAD_SHARE)
            dead = ~torch.isfinite(gradient).all(1) | ~(gradient != 0).any(1)
            if float(dead.float().mean()) > worst:
                worst, where = float(dead.float().mean()), f"at {place}, of {name}"
    if worst >= DEAD_SHARE:
        text = f"the gradient is zero or not finite for {100 * worst:.1f} % of {len(subject.labels)} images {where}: an attack cannot move them"
        return Finding("C20", "fail", text, worst, DEAD_SHARE)
    return Finding("C20", "pass", f"at most {100 * worst:.1f} % of gradients are zero or not finite", worst, DEAD_SHARE)


def gradient_goes_through(subject: Subject) -> Finding:
    """C21: autograd finds a way from the loss to the input, and it is not the one that the classifier alone would have."""
    try:
        whole = _gradient(subject, subject.images)
    except NoGradient:
        text = "no gradient reaches the input: what surviving a gradient attack says about this defense is nothing"
        return Finding("C21", "fail", text, 0.0, SAME_GRADIENT)
    if subject.is_identity:
        return Finding("C21", "not_applicable", "no purifier to differentiate through")
    with ready_for_attack(subject.defense):
        alone = input_gradient(subject.defense.classifier, subject.images, subject.labels).gradient
    value = float((whole - alone).abs().sum() / alone.abs().sum().clamp(min=1e-30))
    if value <= SAME_GRADIENT:
        return Finding("C21", "fail", "the gradient is that of the classifier without the purifier", value, SAME_GRADIENT)
    return Finding("C21", "pass", "a gradient reaches the input, and the purifier changes it", value, SAME_GRADIENT)


def agrees_with_differences(subject: Subject) -> Finding:
    """C22: along the gradient's sign, the loss changes as the gradient says: cosine over images with central differences, the lower of two widths.

    A straight-through gradient is not exact, so a low value is no fault; it says that other backward passes should be tried.
    """
    try:
        gradient = _gradient(subject, subject.images)
    except NoGradient:
        return Finding("C22", "not_run", "no gradient to compare with")
    cosines = []
    for width in STEPS_255:
        step = gradient.sign() * (width / 255)
        high, low = (subject.images + step).clamp(0, 1), (subject.images - step).clamp(0, 1)
        predicted = ((high - low) * gradient).flatten(1).sum(1)
        measured = _losses(subject, high) - _losses(subject, low)
        cosines.append(float(F.cosine_similarity(predicted, measured, dim=0)))
    value = min(cosines)
    text = f"cosine {value:.2f} between what the gradient predicts and what the loss does over steps of 1/255 and 2/255"
    if not value >= LOW_COSINE:  # also where it is NaN
        return Finding("C22", "warn", f"{text}: add adaptive_bpda, adaptive_soft and an attack without gradients", value, LOW_COSINE)
    return Finding("C22", "pass", text, value, LOW_COSINE)


def surface_is_smooth(subject: Subject) -> Finding:
    """C23: of ten signed steps of 1/255, at most a third lower the loss that the gradient said they would raise."""
    lower, upper = ball(subject.images, SURFACE_STEPS / 255)
    images, losses, codes = subject.images, [], [_codes(subject, subject.images)]
    try:
        for _ in range(SURFACE_STEPS):
            found = _found(subject, images)
            losses.append(found.objective)
            images = project(signed_step(images, found.gradient, 1 / 255), lower, upper)
            codes.append(_codes(subject, images))
    except NoGradient:
        return Finding("C23", "not_run", "no gradient to step along")
    losses.append(_losses(subject, images))
    values = torch.stack(losses)
    fell = float((values[1:] < values[:-1]).float().mean())
    changes = [float((later != earlier).float().mean()) for earlier, later in zip(codes, codes[1:], strict=False) if earlier is not None]
    text = f"{100 * fell:.0f} % of steps of 1/255 lower the loss that they should raise"
    text += f"; each changes {100 * sum(changes) / len(changes):.1f} % of code indices" if changes else ""
    return Finding("C23", "warn" if fell > FALLS_SHARE else "pass", text, fell, FALLS_SHARE)


def logits_are_moderate(subject: Subject) -> Finding:
    """C25: the median difference between the two largest logits is at most 50."""
    top = plain_logits(subject.defense, subject.images, subject.batch_size).float().topk(2, dim=1).values
    value = float((top[:, 0] - top[:, 1]).median())
    text = f"the median margin of the logits is {value:.1f}"
    if value > LARGE_MARGIN:
        return Finding("C25", "warn", f"{text}: cross-entropy is flat there; attack with loss margin or dlr", value, LARGE_MARGIN)
    return Finding("C25", "pass", text, value, LARGE_MARGIN)


def _found(subject: Subject, images: Tensor, objective: Objective = cross_entropy) -> Gradient:
    with ready_for_attack(subject.defense):
        return input_gradient(subject.defense, images.clone(), subject.labels, objective)


def _gradient(subject: Subject, images: Tensor, objective: Objective = cross_entropy) -> Tensor:
    return _found(subject, images, objective).gradient


@torch.no_grad()
def _losses(subject: Subject, images: Tensor) -> Tensor:
    return cross_entropy(subject.defense(images), subject.labels)


@torch.inference_mode()
def _codes(subject: Subject, images: Tensor) -> Tensor | None:
    """Return the code indices of all depths of all images, one after the other, or None where there are no codes."""
    found = [latent.indices for latent in with_latents(subject.defense.purifier, laid_out(images))[1]]
    indices = [each.flatten() for each in found if each is not None]
    return torch.cat(indices) if indices else None


PROBES: tuple[Callable[[Subject], Finding], ...] = (
    gradient_is_alive, gradient_goes_through, agrees_with_differences, surface_is_smooth, logits_are_moderate,
)  # fmt: skip
