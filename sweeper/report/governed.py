"""Which sentences may be printed: each beside the reviewer's checks that govern it.

A claim check is asked of the system that a sentence is about; C33 and C34, on seeds, images and selection, also of those that it is compared with. A
validity check that any of them fails forbids the sentence, since its figures are not to be believed.
"""

from collections.abc import Sequence
from dataclasses import replace

from sweeper.report.content import Claim
from sweeper.report.naming import System

ALLOWING = ("pass", "not_applicable")
ABOUT_CLEAN, ABOUT_A_GAIN, ABOUT_ROBUSTNESS = ("C29", "C33", "C34"), ("C27", "C33", "C34"), ("C26", "C33", "C34")
HEADLINE = ("C33", "C34")
_WORDS = {"pass": "passes", "not_applicable": "does not apply", "fail": "fails", "warn": "does not decide", "not_run": "was not run"}


def govern(claim: Claim, checks: Sequence[str], systems: Sequence[System]) -> Claim:
    """Return a claim with what the checks say that govern it, and whether it may be printed where it holds.

    Args:
        checks: Names of claim checks.
        systems: The system that the sentence is about, then those that it is compared with.
    """
    if claim.verdict == "not tested":
        return claim
    against: dict[tuple[str, str], list[str]] = {}  # what fails, what it finds -> of whom
    fine = []
    for system in systems:
        for one in system.variant.failed:
            against.setdefault((f"validity check {one.check} fails", one.message), []).append(system.plain)
    for check in checks:
        worst = {system.plain: system.variant.worst(check) for system in (systems if check in HEADLINE else systems[:1])}
        for name, one in worst.items():
            if one is None or one.outcome not in ALLOWING:
                words = (f"{check} {_WORDS[one.outcome]}", one.message) if one else (f"{check} was not run", "nothing is stored")
                against.setdefault(words, []).append(name)
        outcomes = {one.outcome if one else "" for one in worst.values()}
        if outcomes <= set(ALLOWING):
            fine.append(f"{check} {_WORDS['pass' if 'pass' in outcomes else 'not_applicable']}")
    said = [f"{words} for {', '.join(dict.fromkeys(names))}: {finds}" for (words, finds), names in against.items()] + fine
    return replace(claim, allowed=not against if claim.verdict == "holds" and said else None, checks="; ".join(said))
