"""Is the adaptive attack as strong as it should be? Stronger or different attacks on the images that survived it.

Whatever breaks a survivor lowers the reported accuracy. So each of these attacks survivors at one epsilon, and what is judged is by how much the
accuracy over all images falls: broken over attacked survivors, times the survivors' share. More than the limit is a warning. It is a fail where the
reported number is not to be believed: beyond chance (the lower end of Clopper and Pearson's one-sided 95 % interval is above the limit), and by more
than the interval that is printed with the accuracy already admits (its half width, added to the limit).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from scipy.special import betaincinv
from torch import Tensor

from attacks import _autoattack
from attacks._ascending import Config as AscentConfig
from attacks._ascending import ascend
from attacks._keyed import uniform_noise
from attacks._linf import NoGradient
from attacks._white_box import Perturb, ascend_with
from sweeper.checks.catalogue import CHECKS
from sweeper.probes._subject import FEW, Finding, Subject, plain_logits
from sweeper.scoring import as_attacked
from sweeper.statistics import wilson

UNBOUNDED = (0.5, 1.0)  # C10: at 0.5 every image can become grey
UNBOUNDED_STEPS, UNBOUNDED_STARTS = 100, 3
CHANCE_SIGMAS = 3.0  # C10, at 0.5
LEFT_AT_ONE = 0.02  # C10, at 1
STRONGER_LIMIT = 0.01  # C13: accuracy that twice the steps and three times the restarts may take, one point
BLIND_LIMIT = 0.002  # C16, C17: what noise or an attack without gradients may take; AutoAttack's flag for Square, 0.2 points
LEVEL = 0.05
DRAWS = {"standard": 10, "full": 100}  # C16
QUERIES = {"standard": 500, "full": 5000}  # C17
MOST = {"standard": FEW, "full": 512}  # survivors attacked


def unbounded_leaves_nothing(subject: Subject) -> Finding:
    """C10: 100 steps from three starts at epsilon 0.5 leave no more than chance and three standard deviations, at epsilon 1 next to nothing.

    At 0.5 every image can be made the same grey one, at 1 any image any other; a defense that survives that gives the attack a useless gradient.
    """
    n = len(subject.labels)
    config = replace(subject.attack, num_steps=UNBOUNDED_STEPS, relative_step_size=UNBOUNDED_STEPS / 50, num_restarts=UNBOUNDED_STARTS)
    try:
        found = ascend(subject.defense, subject.images, subject.labels, epsilons=UNBOUNDED, keys=subject.keys, config=config)
    except NoGradient:
        return Finding("C10", "fail", "an unbounded attack gets no gradient", 1.0, LEFT_AT_ONE)
    grey, anything = (float((found.broken_at > epsilon).float().mean()) for epsilon in UNBOUNDED)
    with torch.no_grad():
        chance = 1 / subject.defense(subject.images[:1]).shape[1]
    bounds = chance + CHANCE_SIGMAS * (chance * (1 - chance) / n) ** 0.5, max(LEFT_AT_ONE, 1 / n)
    text = f"{100 * grey:.1f} % survive at epsilon 0.5, {100 * anything:.1f} % at 1 (n {n})"
    if anything > bounds[1]:
        return Finding("C10", "fail", f"{text}: the attack finds no way where every image is allowed", anything, bounds[1])
    return Finding("C10", "fail" if grey > bounds[0] else "pass", text, grey, bounds[0])


def more_steps_change_little(subject: Subject, level: str = "standard") -> Finding:
    """C13: twice the steps and three times the restarts, with every gradient of the evaluation, take less than a point of accuracy."""
    own = subject.attack

    def doubled(config: AscentConfig) -> AscentConfig:
        return replace(config, num_steps=2 * config.num_steps, num_restarts=3 * config.num_restarts)

    few = FEW // 2 if level == "standard" else MOST[level]
    words = f"{2 * own.num_steps} steps instead of {own.num_steps}, and three times the restarts,"
    return on_survivors("C13", subject, level, STRONGER_LIMIT, words, native(subject, doubled), most=few)


def noise_is_weaker(subject: Subject, level: str = "standard") -> Finding:
    """C16: uniform noise and random corners of the ball, 10 draws (100 in full), break next to none of the images that the attack does not."""

    def attack(chosen: Subject, epsilon: float) -> Tensor:
        broken = torch.zeros(len(chosen.labels), dtype=torch.bool)
        for draw in range(DRAWS[level]):
            noise = uniform_noise(chosen.keys, chosen.images.shape[1:], attack="noise", epsilon=epsilon, restart=draw)
            noise = (noise if draw % 2 else epsilon * noise.sign()).to(chosen.images)
            said = plain_logits(chosen.defense, (chosen.images + noise).clamp(0, 1), chosen.batch_size).argmax(1)
            broken |= (said != chosen.labels).cpu()
        return torch.where(broken, epsilon, torch.inf)

    return on_survivors("C16", subject, level, BLIND_LIMIT, f"random noise ({DRAWS[level]} draws)", attack)


def no_gradient_needed(subject: Subject, level: str = "standard") -> Finding:
    """C17: Square, which uses no gradients, takes no more than 0.2 points with 500 queries (5,000 in full)."""
    square = _autoattack.load("square")
    config = _autoattack.SquareConfig(num_queries=QUERIES[level])
    return on_survivors(
        "C17", subject, level, BLIND_LIMIT, f"Square with {QUERIES[level]} queries", with_attack(partial(square.perturb, config=config))
    )


def native(subject: Subject, change: Callable[[AscentConfig], AscentConfig]) -> "Attack":
    """Return the native adaptive attack with changed settings, under every gradient that it was run with, from other random starts."""

    def attack(chosen: Subject, epsilon: float) -> Tensor:
        known: Tensor | None = None
        for threat, options in subject.gradients.items():
            config = change(AscentConfig(**options))
            for defense in as_attacked(chosen.defense, threat, subject.images[: subject.batch_size]):
                images, labels = chosen.images, chosen.labels
                found = ascend(defense, images, labels, epsilons=(epsilon,), keys=chosen.keys, config=config, known=known, first_start=1)
                known = found.broken_at
        assert known is not None
        return known

    return attack


def with_attack(perturb: Perturb) -> "Attack":
    """Return an attack as `on_survivors` wants it, from an attack's `perturb` with its settings bound."""

    def attack(chosen: Subject, epsilon: float) -> Tensor:
        images, labels = chosen.images, chosen.labels
        return ascend_with(perturb, chosen.defense, images, labels, epsilons=(epsilon,), keys=chosen.keys, batch_size=chosen.batch_size).broken_at

    return attack


Attack = Callable[[Subject, float], Tensor]  # images that survive so far, epsilon -> broken_at (M,), infinity where nothing is broken


def survivors_of(subject: Subject) -> tuple[float, Tensor]:
    """Return the largest scored epsilon at which at least half of the correct images survive, else the smallest, and who does, int64 (S,).

    There a stronger attack has the most to find, and on a masked gradient, where everything survives, the most room to find it in.
    """
    assert subject.broken_at is not None
    scored = [epsilon for epsilon in subject.epsilons if 0 < epsilon <= subject.score_epsilon * (1 + 1e-9)]
    grid = torch.tensor(scored, dtype=torch.float32)
    surviving = subject.broken_at[None] > grid[:, None]  # (E, N)
    enough = (surviving.sum(1) * 2 >= (subject.broken_at > 0).sum()).nonzero()[:, 0]
    index = int(enough[-1]) if len(enough) else 0
    return scored[index], surviving[index].nonzero()[:, 0]


def lower_bound(count: int, n: int) -> float:
    """Return the lower end of Clopper and Pearson's one-sided 95 % interval of a share."""
    return float(betaincinv(count, n - count + 1, LEVEL)) if count else 0.0


def on_survivors(check: str, subject: Subject, level: str, limit: float, words: str, attack: Attack, most: int | None = None) -> Finding:
    """Return what an attack takes from the accuracy, judged as the module says. Advice only warns.

    Args:
        limit: Accuracy that it may take, as a share of all images.
        words: What attacks, for the message.
        most: Survivors that are attacked; None: those of the level.
    """
    epsilon, survivors = survivors_of(subject)
    if not len(survivors):
        return Finding(check, "pass", f"no image survives epsilon {epsilon:g}, so nothing stronger can be found", 0.0, limit)
    chosen = subject.take(survivors).few(most or MOST[level])
    try:
        broken = int(torch.isfinite(attack(chosen, epsilon)).sum())
    except NoGradient:
        return Finding(check, "not_run", "no gradient reaches the input (C21)")
    m, n = len(chosen.labels), len(subject.labels)
    share, (left, right) = len(survivors) / n, wilson(len(survivors), n)
    drop, low = broken / m * share, lower_bound(broken, m) * share
    text = f"{words} break {broken} of {m} images that survive epsilon {epsilon:g}: {100 * drop:.1f} points of accuracy"
    if low > limit and drop > limit + (right - left) / 2 and CHECKS[check].kind == "validity":
        return Finding(check, "fail", f"{text}; the attack was not strong enough, so add this one to the space's ATTACKS", drop, limit)
    return Finding(check, "warn" if drop > limit else "pass", text, drop, limit)
