"""The command `check`: what a sceptical reviewer would ask of a sweep, worst first. Imports neither torch nor ray."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from sweeper.arguments import DEFAULT_ROOT, Format, Root, check_format, refusing
from sweeper.checks._result import Result
from sweeper.inspect_results import open_results
from sweeper.tables import RAW_FORMATS, print_rows

_KINDS = ("validity", "claim", "advice")
_OUTCOMES = ("fail", "warn", "not_run", "not_applicable", "pass")
_HIDDEN = ("pass", "not_applicable")  # shown with --all


def check(
    sweep: Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was run.")],
    results: Root = DEFAULT_ROOT,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="The data set; default: that of the last run.")] = None,
    plan_hash: Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan, as `status` names it; default: the one run last.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what passes, and what does not apply.")] = False,
    format: Format = "table",
) -> None:
    """Check a sweep as a sceptical reviewer would, worst first.

    Validity: a trial that fails is not ranked. Claim: decides which sentences may be printed. Advice: worth knowing. Each with its value, its
    threshold and a sentence; trials of which a check says the same share a line. --format json gives one row per check and trial.
    """
    from sweeper.checks.all import run_checks
    from sweeper.checks.gate import how_many
    from sweeper.ranking import latest_plan

    with refusing():
        check_format(format)
        store = open_results(results)
        planned = latest_plan(store, sweep, dataset, plan_hash, ranks=True)
        found = run_checks(store, planned)
        shown = [one for one in worst_first(found) if everything or one.outcome not in _HIDDEN]
        first = planned[0]
        labels = {(row["trial_id"], row["evaluation_id"]): row for row in reversed(planned)}
        rows = [_raw(one, labels[one.key]) for one in shown] if format in RAW_FORMATS else for_people(shown, labels, len({one.key for one in found}))
        hidden = len(found) - len(shown)
        notes = [f"{hidden} results that pass or do not apply are left out; --all shows them."] if hidden else []
        notes.append(how_many(found) if found else "No trial of this plan is completed.")
        print_rows(rows, format, title=f"{first['sweep']} on {first['dataset']} ({first['scale']}, {first['evaluation']})", notes=notes)


def worst_first(found: Sequence[Result]) -> list[Result]:
    """Return results by outcome (fail, warn, not run, not applicable, pass), within it by kind, then in the order given."""
    return sorted(found, key=lambda one: (_OUTCOMES.index(one.outcome), _KINDS.index(one.kind)))


def for_people(found: Sequence[Result], labels: Mapping[tuple[str, str], Mapping[str, Any]], trials: int) -> list[dict[str, Any]]:
    """Return one row per check, outcome and sentence, with the trials that share it."""
    from sweeper.checks.catalogue import CHECKS

    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for one in found:
        groups.setdefault((one.outcome, one.kind, one.check, one.message), []).append(one)
    rows = []
    for (outcome, kind, name, message), members in groups.items():
        names = list(dict.fromkeys(f"{labels[one.key]['label']}, seed {labels[one.key]['seed']}" for one in members))
        who = "all trials" if len(members) == trials else names[0] if len(names) == 1 else f"{names[0]} and {len(members) - 1} more"
        value, threshold = members[0].value, members[0].threshold
        rows.append({"outcome": outcome.replace("_", " "), "kind": kind, "check": name, "value": value, "threshold": threshold, "trials": who,
                     "asks": CHECKS[name].title if name in CHECKS else "", "finds": message})  # fmt: skip
    return rows


def _raw(one: Result, row: Mapping[str, Any]) -> dict[str, Any]:
    from sweeper.checks.catalogue import CHECKS

    known = CHECKS.get(one.check)
    about = {"title": known.title if known else None, "citation": known.citation if known else None, "label": row["label"], "seed": row["seed"]}
    return one._asdict() | about


COMMANDS = (check,)
