"""Results of checks in a reader's order: the worst first, one row for the trials of which a check says the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.checks._result import Key, Result
from sweeper.checks.catalogue import CHECKS

KINDS = ("validity", "claim", "advice")
OUTCOMES = ("fail", "warn", "not_run", "not_applicable", "pass")
QUIET = ("pass", "not_applicable")  # what a reader need not act on

Labels = Mapping[Key, Mapping[str, Any]]  # key -> its row of `sweeps`


def worst_first(found: Sequence[Result]) -> list[Result]:
    """Return results by outcome (fail, warn, not run, not applicable, pass), within it by kind, then in the order given."""
    return sorted(found, key=lambda one: (OUTCOMES.index(one.outcome), KINDS.index(one.kind)))


def grouped(found: Sequence[Result]) -> list[list[Result]]:
    """Return the results that share check, kind, outcome and sentence, in the order of the first of each."""
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for one in found:
        groups.setdefault((one.outcome, one.kind, one.check, one.message), []).append(one)
    return list(groups.values())


def for_people(found: Sequence[Result], labels: Labels, trials: int) -> list[dict[str, Any]]:
    """Return one row per check, outcome and sentence, with the trials that share it."""
    rows = []
    for members in grouped(found):
        first = members[0]
        names = list(dict.fromkeys(f"{labels[one.key]['label']}, seed {labels[one.key]['seed']}" for one in members))
        who = "all trials" if len(members) == trials else names[0] if len(names) == 1 else f"{names[0]} and {len(members) - 1} more"
        rows.append({"outcome": words_of(first.outcome), "kind": first.kind, "check": first.check, "value": first.value,
                     "threshold": first.threshold, "trials": who, "asks": title_of(first.check), "finds": first.message})  # fmt: skip
    return rows


def for_programs(found: Sequence[Result], labels: Labels) -> list[dict[str, Any]]:
    """Return one row per result, nothing rounded: its fields, what the check asks and on whose word, and of which variant and seed it is."""
    rows = []
    for one in found:
        known, row = CHECKS.get(one.check), labels[one.key]
        about = {"title": known.title if known else None, "citation": known.citation if known else None, "label": row["label"], "seed": row["seed"]}
        rows.append(one._asdict() | about)
    return rows


def words_of(outcome: str) -> str:
    """Return `not run` for `not_run`."""
    return outcome.replace("_", " ")


def title_of(check: str) -> str:
    """Return what a check asks; nothing for a stored one that the catalogue does not have."""
    return CHECKS[check].title if check in CHECKS else ""
