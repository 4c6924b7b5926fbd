"""Advice: other ways to attack that a careful evaluator would try. None of it changes a rank."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from attacks import code_flip, cw, pgd
from attacks._ascending import ascend
from attacks._modes import ready_for_attack
from sweeper.probes._subject import FEW, Finding, Subject, plain_logits, spread
from sweeper.probes.strength import BLIND_LIMIT, STRONGER_LIMIT, native, on_survivors, survivors_of, with_attack

STEP_DIVISORS = (4, 10, 40)  # C14: of epsilon
KAPPAS = (0.0, 5.0, 20.0, 40.0)  # C19
LOST_SHARE = 0.01  # C7: of successes that rounding may undo
TRANSFERRED_SHARE = 0.1  # C32: of the images broken on one seed's defense, those that break another's too


class Ensemble(nn.Module):
    """The mean logits of several classifiers."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members).eval()
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(0)


def rounding_keeps_success(subject: Subject, level: str = "standard") -> Finding:
    """C7: images kept as fp16 perturbations break the classifier they were crafted on as often as the same images crafted again in fp32."""
    if subject.stored is None:
        return Finding("C7", "not_applicable", "no gray-box set is stored")
    stored = subject.stored
    picked = spread(len(stored.clean.labels), FEW)
    labels = stored.clean.labels[picked]
    fresh = stored.perturb(stored.classifier, stored.clean.images[picked], labels, epsilons=stored.epsilons, keys=stored.clean.keys[picked])
    kept = stored.images[:, picked]
    with torch.inference_mode():
        broken, lost = 0, 0
        for before, after in zip(fresh, kept, strict=True):
            was_broken, is_broken = (stored.classifier(images).argmax(1) != labels for images in (before, after))
            broken, lost = broken + int(was_broken.sum()), lost + int((was_broken & ~is_broken).sum())
    value = lost / max(broken, 1)
    text = f"of {broken} images that {stored.name} breaks the target with, {lost} no longer do as they are stored"
    return Finding("C7", "warn" if value > LOST_SHARE else "pass", text, value, LOST_SHARE)


def other_step_sizes(subject: Subject, level: str = "standard") -> Finding:
    """C14: steps of epsilon / 4, / 10 and / 40 find next to nothing that the attack's own does not; the union counts."""
    own = subject.attack
    attacks = [native(subject, partial(replace, relative_step_size=own.num_steps / divisor)) for divisor in STEP_DIVISORS]

    def attack(chosen: Subject, epsilon: float) -> Tensor:
        return torch.stack([one(chosen, epsilon) for one in attacks]).amin(0)

    return on_survivors("C14", subject, level, STRONGER_LIMIT, "steps of epsilon / 4, / 10 and / 40", attack)


def last_iterate(subject: Subject, level: str = "standard") -> Finding:
    """C15: what share of the images the last iterate of as many plain PGD steps would have missed. The best one is what counts here."""
    chosen = subject.few()
    epsilon, own = survivors_of(subject)[0], subject.attack
    best = ascend(chosen.defense, chosen.images, chosen.labels, epsilons=(epsilon,), keys=chosen.keys, config=replace(own, num_restarts=1))
    fixed = pgd.Config(num_steps=own.num_steps, step_size_rule="fixed", step_size=2.5 * epsilon / own.num_steps)
    last = pgd.perturb(chosen.defense, chosen.images, chosen.labels, epsilons=(epsilon,), keys=chosen.keys, config=fixed)[0]
    by_last = plain_logits(chosen.defense, last, chosen.batch_size).argmax(1) != chosen.labels
    n, counts = len(chosen.labels), (int(torch.isfinite(best.broken_at).sum()), int(by_last.sum()))
    value = (counts[0] - counts[1]) / n
    text = f"at epsilon {epsilon:g} the best iterate breaks {counts[0]} of {n} images, the last of plain PGD {counts[1]}"
    return Finding("C15", "warn" if value < -STRONGER_LIMIT else "pass", text, value, -STRONGER_LIMIT)


def confident_transfer(subject: Subject, level: str = "standard") -> Finding:
    """C19: confident images (CW, kappa 0, 5, 20, 40) crafted on the bare target and on the transfer sources together break next to no survivor."""
    if not subject.sources:
        return Finding("C19", "not_run", "no classifier to craft on")
    crafted_on = [subject.sources[0], *([Ensemble(list(subject.sources[1:]))] if len(subject.sources) > 1 else [])]

    def attack(chosen: Subject, epsilon: float) -> Tensor:
        broken = torch.zeros(len(chosen.labels), dtype=torch.bool)
        for source in crafted_on:
            for kappa in KAPPAS:
                config = cw.Config(kappa=kappa)
                images = cw.perturb(source, chosen.images, chosen.labels, epsilons=(epsilon,), keys=chosen.keys, config=config)[0]
                broken |= (plain_logits(chosen.defense, images, chosen.batch_size).argmax(1) != chosen.labels).cpu()
        return torch.where(broken, epsilon, torch.inf)

    return on_survivors("C19", subject, level, BLIND_LIMIT, "confident images of other classifiers", attack)


def code_flips(subject: Subject, level: str = "standard") -> Finding:
    """C31: an attack that changes as many codes as it can, at every depth, breaks next to none of the survivors."""
    if not subject.defense.logits_and_codes(subject.images[:1])[1]:
        return Finding("C31", "not_applicable", "no codebook")
    config = code_flip.Config(num_steps=2 * subject.attack.num_steps)
    return on_survivors("C31", subject, level, STRONGER_LIMIT, "attacks on the codes", with_attack(partial(code_flip.perturb, config=config)))


def other_seeds(subject: Subject, level: str = "standard") -> Finding:
    """C32: images that break this defense break the same variant's defenses of other seeds too, at score_epsilon.

    Where hardly any does, the attack found quirks of one checkpoint, or masked gradients led it astray.
    """
    if not subject.siblings:
        return Finding("C32", "not_run", "no other seed of this variant is completed")
    chosen = subject.few()
    found = ascend(chosen.defense, chosen.images, chosen.labels, epsilons=(subject.score_epsilon,), keys=chosen.keys, config=subject.attack)
    shares = []
    for sibling in subject.siblings:
        was_right = (plain_logits(sibling, chosen.images, chosen.batch_size).argmax(1) == chosen.labels).cpu()
        tried = torch.isfinite(found.broken_at).cpu() & (found.broken_at > 0).cpu() & was_right
        with ready_for_attack(sibling):
            said = plain_logits(sibling, found.adversarial, chosen.batch_size).argmax(1)
        shares.append(float((said != chosen.labels).cpu()[tried].float().mean()) if bool(tried.any()) else 1.0)
    value = min(shares)
    text = f"of the images broken at epsilon {subject.score_epsilon:g}, {100 * value:.0f} % also break the other seed that resists most"
    return Finding("C32", "warn" if value < TRANSFERRED_SHARE else "pass", text, value, TRANSFERRED_SHARE)
