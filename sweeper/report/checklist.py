"""The reviewer's checks as a report shows them: the worst first, and of each system what may be said."""

from collections.abc import Iterable, Sequence

from sweeper.checks._grouping import QUIET, for_programs, grouped, title_of, words_of, worst_first
from sweeper.checks._result import Key, Result
from sweeper.checks.catalogue import CHECKS
from sweeper.checks.gate import how_many
from sweeper.report.content import Cell, Checked, Checks, Table
from sweeper.report.curves import Sheet
from sweeper.report.naming import System, dataset_name

_MOST_NAMES = 8  # systems that a row of the page names; checks.csv has every trial


def told(sheet: Sheet) -> str:
    """Return how many validity checks were run, and what came of them."""
    return how_many(sheet[0].checks) if sheet[0].checks else "No trial of this plan is completed, so nothing was checked."


def checks(sheet: Sheet, suffix: str = "") -> Checks:
    """Return what every check says of every completed trial, grouped over the trials that share a sentence.

    Args:
        suffix: Of the file's name, where several data sets are reported.
    """
    material, systems = sheet
    labels = {(row["trial_id"], row["evaluation_id"]): row for row in reversed(material.planned)}
    found = worst_first(material.checks)
    seeds = {key: (str(row["label"]), row["seed"]) for key, row in labels.items()}
    seeds |= {(t.trial_id, s.variant.evaluation_id): (s.plain, t.seed) for s in systems.all for t in s.variant.trials}
    count = len({one.key for one in found})
    loud, quiet = (
        tuple(_row(members, seeds, count) for members in grouped([one for one in found if (one.outcome in QUIET) == is_quiet]))
        for is_quiet in (False, True)
    )
    caption = (
        f"{dataset_name(material)}, scale {material.scale}, worst first; trials of which a check says the same share a row. Validity: a system that "
        "fails at any seed is unranked, its figures are not to be believed. Claim: decides which sentences may be printed. Advice: worth knowing. "
        "Checks that need the trained networks are not run until the table `checks` has their rows."
    )
    title = f"A reviewer's checks on {dataset_name(material)}"
    return Checks(f"checks{suffix}", title, caption, loud, quiet, tuple(for_programs(material.checks, labels)))


def _row(members: Sequence[Result], seeds: dict[Key, tuple[str, int]], count: int) -> Checked:
    first = members[0]
    known = CHECKS.get(first.check)
    who = "all trials" if len(members) == count else _who(seeds[one.key] for one in members)
    values, thresholds = _span(one.value for one in members), _span(one.threshold for one in members)
    citation = known.citation if known else ""
    return Checked(words_of(first.outcome), first.kind, first.check, title_of(first.check), citation, values, thresholds, who, first.message)


def _who(trials: Iterable[tuple[str, int]]) -> str:
    """Return `VQUNet, seeds 0, 2; Defense-VAE, seed 1`."""
    found: dict[str, set[int]] = {}
    for name, seed in trials:
        found.setdefault(name, set()).add(seed)
    words = [f"{name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}" for name, seeds in found.items()]
    return "; ".join(words[:_MOST_NAMES]) + (f"; and {len(words) - _MOST_NAMES} more" if len(words) > _MOST_NAMES else "")


def _span(values: Iterable[float | None]) -> tuple[float, ...]:
    known = [value for value in values if value is not None]
    return tuple(dict.fromkeys((min(known), max(known)))) if known else ()


def may_be_said(sheet: Sheet, suffix: str = "") -> Table:
    """Return one row per claim check and group of systems of which it says the same: the sentence, or why it may not be said.

    A check is asked at every seed and the worst counts; systems that it does not apply to (the controls) are left out.
    """
    material, systems = sheet
    groups: dict[tuple[str, str], list[str]] = {}
    for check in (name for name, check in CHECKS.items() if check.kind == "claim"):
        for system in systems.all:
            if (said := _said(check, system)) is not None:
                groups.setdefault((check, said), []).append(system.name)
    rows: list[dict[str, Cell]] = [
        {"check": check, "sentence": title_of(check), "systems": "; ".join(names), "said": said} for (check, said), names in groups.items()
    ]
    caption = (
        "Each claim check is a sentence that may be printed of a system only where the check passes at every seed, and no validity check fails. "
        "None of them changes a rank."
    )
    headings = {"said": "what may be said"}
    notes = () if rows else ("No claim check applies to a completed trial.",)
    title = f"What may be said on {dataset_name(material)}"
    return Table(f"may_be_said{suffix}", title, caption, ("check", "sentence", "systems", "said"), tuple(rows), headings, notes=notes)


_SAID = {"pass": "may be said", "fail": "may not be said", "warn": "may not be said, undecided", "not_run": "may not be said, not run"}


def _said(check: str, system: System) -> str | None:
    """Return `may be said: what supports it`, `may not be said: why`, or None where the check does not apply."""
    asked = worst_first([one for one in system.variant.checks if one.check == check and one.outcome != "not_applicable"])
    if not asked:
        return None
    if system.variant.failed:
        return f"may not be said: {system.variant.unranked}, so its figures are not to be believed"
    worst = asked[0].outcome
    seed_of = {trial.trial_id: str(trial.seed) for trial in system.variant.trials}
    messages: dict[str, list[str]] = {}
    for one in asked:
        if one.outcome == worst:
            messages.setdefault(one.message, []).append(seed_of.get(one.trial_id, "unknown"))
    reason = "; ".join(text if len(messages) == 1 else f"seed {', '.join(seeds)}: {text}" for text, seeds in messages.items())
    return f"{_SAID[worst]}: {reason}"
