"""Every probe by the number of its check: those asked of every trial, and those that attack again."""

from collections.abc import Callable

from sweeper.probes import gradients, integrity, strength, variants
from sweeper.probes._subject import FEW, Finding, Subject
from sweeper.probes.levels import HEALTH

FEWER = 32  # images of those probes whose advice needs no more

_Probe = Callable[[Subject], Finding]
_OF_HEALTH: dict[str, tuple[_Probe, int]] = {  # and how many images it looks at
    "C2": (integrity.unchanged_by_attack, FEW),
    "C3": (integrity.same_in_other_batches, FEW),
    "C4": (integrity.same_path, FEW),
    "C5": (integrity.gives_logits, FEW),
    "C24": (integrity.attacked_through_expectation, FEW),
    "C30": (integrity.follows_its_input, FEW),
    "C20": (gradients.gradient_is_alive, FEW),
    "C21": (gradients.gradient_goes_through, FEW),
    "C25": (gradients.logits_are_moderate, FEW),
    "C10": (strength.unbounded_leaves_nothing, FEW),
    "C22": (gradients.agrees_with_differences, FEWER),
    "C23": (gradients.surface_is_smooth, FEWER),
}
ATTACKS: dict[str, Callable[[Subject, str], Finding]] = {
    "C13": strength.more_steps_change_little,
    "C16": strength.noise_is_weaker,
    "C17": strength.no_gradient_needed,
    "C7": variants.rounding_keeps_success,
    "C14": variants.other_step_sizes,
    "C15": variants.last_iterate,
    "C19": variants.confident_transfer,
    "C31": variants.code_flips,
    "C32": variants.other_seeds,
}


def health(subject: Subject) -> list[Finding]:
    """Return what is asked of every trial, in about a second."""
    samples = {count: subject.few(count) for count in (FEW, FEWER)}
    return [probe(samples[count]) for probe, count in (_OF_HEALTH[name] for name in HEALTH)]


def attacked(subject: Subject, check: str, level: str) -> Finding:
    """Return what one of the attacks of a level finds."""
    if subject.broken_at is None:
        return Finding(check, "not_run", "no adaptive attack to compare with")
    return ATTACKS[check](subject, level)
