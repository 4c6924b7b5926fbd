"""Every probe by the number of its check: those asked of every trial, and those that attack again."""

from collections.abc import Callable

from sweeper.probes import gradients, integrity, strength, variants
from sweeper.probes._subject import Finding, Subject

FEWER = 32  # images of those probes whose advice needs no more

_Probe = Callable[[Subject], Finding]
_ON_FEW: tuple[_Probe, ...] = (
    integrity.unchanged_by_attack, integrity.same_in_other_batches, integrity.same_path, integrity.gives_logits,
    integrity.attacked_through_expectation, integrity.follows_its_input,
    gradients.gradient_is_alive, gradients.gradient_goes_through, gradients.logits_are_moderate, strength.unbounded_leaves_nothing,
)  # fmt: skip
_ON_FEWER: tuple[_Probe, ...] = (gradients.agrees_with_differences, gradients.surface_is_smooth)

STRENGTH: dict[str, Callable[[Subject, str], Finding]] = {
    "C13": strength.more_steps_change_little,
    "C16": strength.noise_is_weaker,
    "C17": strength.no_gradient_needed,
}
ADVICE: dict[str, Callable[[Subject, str], Finding]] = {
    "C14": variants.other_step_sizes,
    "C15": variants.last_iterate,
    "C19": variants.confident_transfer,
    "C31": variants.code_flips,
    "C32": variants.other_seeds,
}
LEVELS = {"standard": STRENGTH, "full": STRENGTH | ADVICE}


def health(subject: Subject) -> list[Finding]:
    """Return what is asked of every trial, in about a second."""
    few, fewer = subject.few(), subject.few(FEWER)
    return [probe(few) for probe in _ON_FEW] + [probe(fewer) for probe in _ON_FEWER]
