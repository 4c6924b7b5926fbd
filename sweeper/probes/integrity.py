"""Is the attacked model the scored one, and does it give what attacks need? Passes only, no attack."""

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks._ascending import ascend
from attacks._linf import NoGradient, input_gradient
from attacks._randomness import logit_spread
from sweeper.probes._subject import Finding, Subject, attacked_logits, plain_logits, state_of

FLIPS_SHARE = 0.001  # C3, C4: share of decisions that float rounding may turn, and one image always
OTHER_BATCH = 17  # C3: odd, so that no image keeps its place in a batch
RANDOM_SPREAD = 1e-4  # C24: difference of a logit between passes above which a defense is random
FEWEST = 16  # images of C24's attacks: each step takes 20 passes
EOT_SAMPLES = 20  # C24: passes that an attack's gradient must be averaged over
SUM_TOLERANCE = 1e-4  # C5
CONSTANT_SPREAD = 0.1  # C30: of the output within a class over that of the input, below which all images of a class become one


def is_random(subject: Subject) -> bool:
    """Say whether the same images give different logits in another pass."""
    return logit_spread(subject.defense, subject.images[:8]) > RANDOM_SPREAD


def unchanged_by_attack(subject: Subject) -> Finding:
    """C2: every part is in eval mode, and no parameter or buffer changes by a forward and a backward pass.

    The passes are bare, without the protection that our attacks put around a model.
    """
    defense = subject.defense
    training = [name or "the whole" for name, part in defense.named_modules() if part.training]
    before = state_of(defense)
    with suppress(NoGradient):  # C21 says so; the pass forward was made
        input_gradient(defense, subject.images, subject.labels)
    plain_logits(defense, subject.images, subject.batch_size)
    after = state_of(defense)
    changed = sorted(name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name)))
    found = [f"{name} is in train mode" for name in training] + [f"{name} is changed by an attack" for name in changed]
    if not found:
        return Finding("C2", "pass", "every part is in eval mode and stays as it is", 0.0, 0.0)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return Finding("C2", "fail", f"{', '.join(found[:3])}{more}: what is attacked is not what is scored", float(len(found)), 0.0)


def same_in_other_batches(subject: Subject) -> Finding:
    """C3: decisions on clean and on perturbed images do not depend on the images beside them; at most one image or 0.1 % may flip."""
    if is_random(subject):
        return Finding("C3", "not_applicable", "the defense is random, so no two passes agree")
    images = torch.cat([subject.images, _perturbed(subject)])
    first = plain_logits(subject.defense, images, subject.batch_size).argmax(1)
    second = plain_logits(subject.defense, images.flip(0), OTHER_BATCH).argmax(1).flip(0)
    return _flips("C3", first, second, "in batches of another size and order")


def same_path(subject: Subject) -> Finding:
    """C4: on clean images the attack's path (gradients recorded) decides as the plain one does; at most one image or 0.1 % may differ.

    Where it does not, the attack attacks another model than the scored one, such as one that normalizes twice.
    """
    if is_random(subject):
        return Finding("C4", "not_applicable", "the defense is random, so no two passes agree")
    plain = plain_logits(subject.defense, subject.images, subject.batch_size).argmax(1)
    attacked = attacked_logits(subject.defense, subject.images, subject.batch_size).argmax(1)
    accuracies = " and ".join(f"{100 * float((said == subject.labels).float().mean()):.1f} %" for said in (plain, attacked))
    return _flips("C4", plain, attacked, f"in the path that attacks take (clean accuracy {accuracies} there)")


def gives_logits(subject: Subject) -> Finding:
    """C5: outputs are neither probabilities (none negative, rows that sum to 1) nor their logarithms (none positive, exponentials that do)."""
    logits = plain_logits(subject.defense, subject.images, subject.batch_size).double()
    sums = {"probabilities": logits.sum(1), "log-probabilities": logits.exp().sum(1)}
    signs = {"probabilities": bool((logits >= 0).all()), "log-probabilities": bool((logits <= 0).all())}
    off = {name: float((total - 1).abs().max()) for name, total in sums.items()}
    for name in sums:
        if signs[name] and off[name] < SUM_TOLERANCE:
            text = f"the defense returns {name}: cross-entropy takes their softmax once more, and its gradient fades"
            return Finding("C5", "fail", text, off[name], SUM_TOLERANCE)
    return Finding("C5", "pass", "the outputs are logits", min(off.values()), SUM_TOLERANCE)


def attacked_through_expectation(subject: Subject) -> Finding:
    """C24: a defense whose logits differ between passes is attacked by gradients averaged over at least 20 of them."""
    spread = logit_spread(subject.defense, subject.images[:8])
    if spread <= RANDOM_SPREAD:
        return Finding("C24", "not_applicable", "five passes give the same logits", spread, RANDOM_SPREAD)
    samples = int(subject.options.get("num_eot_samples", 1))
    text = f"logits differ by up to {spread:.3g} between passes, and the adaptive attack averages over {samples} of them"
    if samples >= EOT_SAMPLES:
        return Finding("C24", "pass", f"{text}; {_fixed_and_free(subject)}", float(samples), float(EOT_SAMPLES))
    return Finding("C24", "fail", f"{text}; num_eot_samples={EOT_SAMPLES} is needed", float(samples), float(EOT_SAMPLES))


class _SameDraws(nn.Module):
    """A random defense that draws the same in every pass."""

    def __init__(self, defense: nn.Module) -> None:
        super().__init__()
        self.defense = defense
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        with torch.random.fork_rng(images.device.type == "cuda" and [images.device] or []):
            torch.manual_seed(0)
            return self.defense(images)


def _fixed_and_free(subject: Subject) -> str:
    """Return in words what survives score_epsilon with the randomness fixed, where an attack must succeed, and in expectation."""
    few, epsilons = subject.few(FEWEST), (subject.score_epsilon,)
    fixed = ascend(_SameDraws(few.defense), few.images, few.labels, epsilons=epsilons, keys=few.keys, config=replace(few.attack, num_eot_samples=1))
    free = ascend(few.defense, few.images, few.labels, epsilons=epsilons, keys=few.keys, config=few.attack)
    left, voted = (100 * float((found.broken_at > epsilons[0]).float().mean()) for found in (fixed, free))
    mean = 100 * (free.mean_accuracy or [0.0])[-1]
    return (
        f"at epsilon {epsilons[0]:g} {left:.0f} % survive with the draws fixed, {voted:.0f} % by the majority of ten evaluations, "
        f"{mean:.0f} % on their average (n {len(few.labels)})"
    )


@torch.inference_mode()
def follows_its_input(subject: Subject) -> Finding:
    """C30: images that are said to be of one class still differ after the purifier: it does not answer with one image per class."""
    if subject.is_identity:
        return Finding("C30", "not_applicable", "no purifier")
    purified = torch.cat([subject.defense.purifier(part) for part in subject.images.split(subject.batch_size)])
    said = plain_logits(subject.defense, subject.images, subject.batch_size).argmax(1)
    spread_in = spread_out = 0.0
    for label in said.unique():
        members = said == label
        spread_in += float((subject.images[members] - subject.images[members].mean(0)).abs().sum())
        spread_out += float((purified[members] - purified[members].mean(0)).abs().sum())
    value = spread_out / max(spread_in, 1e-12)
    if value < CONSTANT_SPREAD:
        text = f"within a class the output varies by {100 * value:.1f} % of what the input does: it is a prototype, not a purified image"
        return Finding("C30", "warn", text, value, CONSTANT_SPREAD)
    return Finding("C30", "pass", "images of one class stay different images", value, CONSTANT_SPREAD)


def _perturbed(subject: Subject) -> Tensor:
    """Return images moved by score_epsilon along the gradient's sign where there is one, else towards their negative."""
    try:
        direction = input_gradient(subject.defense, subject.images, subject.labels).gradient
    except NoGradient:
        direction = 0.5 - subject.images
    return (subject.images + subject.score_epsilon * direction.sign()).clamp(0, 1)


def _flips(check: str, first: Tensor, second: Tensor, where: str) -> Finding:
    flips, allowed = int((first != second).sum()), max(1.0, FLIPS_SHARE * len(first))
    text = f"{flips} of {len(first)} decisions differ {where}"
    return Finding(check, "fail" if flips > allowed else "pass", text, float(flips), allowed)


def _same(before: Tensor | None, after: Tensor | None) -> bool:
    return before is not None and after is not None and before.shape == after.shape and torch.equal(before, after)
