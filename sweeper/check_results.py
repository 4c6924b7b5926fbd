"""The command `check`: what a sceptical reviewer would ask of a sweep, worst first. Imports neither torch nor ray, unless it is to attack again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.arguments import DEFAULT_ROOT, Data, Format, Root, check_format, errors, refusing
from sweeper.checks._grouping import QUIET, for_people, for_programs, worst_first
from sweeper.inspect_results import open_results
from sweeper.tables import RAW_FORMATS, print_rows

if TYPE_CHECKING:
    from sweeper.results import Results


def check(
    sweep: Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was run.")],
    results: Root = DEFAULT_ROOT,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="The data set; default: that of the last run.")] = None,
    plan_hash: Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan, as `status` names it; default: the one run last.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what passes, and what does not apply.")] = False,
    probed: Annotated[
        str | None, typer.Option("--run", metavar="best|all", help="First attack again what was not: the reference and the best row, or every trial.")
    ] = None,
    level: Annotated[str, typer.Option(metavar="LEVEL", help="Of --run: standard, or full for more queries and all advice.")] = "standard",
    data: Data = None,
    format: Format = "table",
) -> None:
    """Check a sweep as a sceptical reviewer would, worst first.

    Validity: a trial that fails is not ranked. Claim: decides which sentences may be printed. Advice: worth knowing. Each with its value, its
    threshold and a sentence; trials of which a check says the same share a line. --format json gives one row per check and trial.
    """
    from sweeper.checks.all import run_checks
    from sweeper.checks.gate import how_many
    from sweeper.stored_plans import latest_plan, title_of

    with refusing():
        check_format(format)
        store = open_results(results)
        planned = latest_plan(store, sweep, dataset, plan_hash, ranks=True)
        if probed is not None:
            _attack_again(store, planned, probed, level, data)
        found = run_checks(store, planned)
        shown = [one for one in worst_first(found) if everything or one.outcome not in QUIET]
        labels = {(row["trial_id"], row["evaluation_id"]): row for row in reversed(planned)}
        trials = len({one.key for one in found})
        rows = for_programs(shown, labels) if format in RAW_FORMATS else for_people(shown, labels, trials)
        hidden = len(found) - len(shown)
        notes = [f"{hidden} results that pass or do not apply are left out; --all shows them."] if hidden else []
        notes.append(how_many(found) if found else "No trial of this plan is completed.")
        notes += [f"Failed, so not checked: {row['label']}, seed {row['seed']}: {why}" for row, why in _failed(store, planned)]
        print_rows(rows, format, title=title_of(store, planned), notes=notes)


def _failed(store: "Results", planned: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Return the rows of trials that failed, with the reason; one without a gradient fails by C20 or C21, and before it is scored."""
    from sweeper.stored_plans import key_of_row, states

    found = states(store, planned)
    failed = [(row, found[key_of_row(row)]) for row in planned if found[key_of_row(row)]["status"] == "failed"]
    return [(row, f"{state['message']}{' (C20, C21)' if state['reason'] == 'gradient' else ''}") for row, state in failed]


def _attack_again(store: "Results", planned: Sequence[dict[str, Any]], who: str, level: str, data: Path | None) -> None:
    """Make the probes that are due and not stored, in this process, and store what they find."""
    for option, value, choices in (("--run", who, ("best", "all")), ("--level", level, ("standard", "full"))):
        if value not in choices:
            raise ValueError(f"{option} must be {' or '.join(choices)}, got {value!r}")
    from sweeper.escalation import pending
    from sweeper.lookup import sources
    from sweeper.replanning import stored_plan
    from sweeper.stored_plans import key_of_row, states
    from sweeper.worker import Job, perform_probe

    state = states(store, planned)
    completed = [row for row in planned if state[key_of_row(row)]["status"] == "completed"]
    if not completed:
        raise ValueError(f"no trial of {planned[0]['sweep']} is completed, so there is nothing to attack again")
    plan = stored_plan(store, completed)
    job = Job(plan.sweep, store.store, data.absolute() if data else None, sources())
    tried: set[str] = set()
    ranked = planned[0]["plan_hash"]
    while due := [probe for probe in pending(plan, store, level=level, everyone=who == "all", plan_hash=ranked) if probe.part not in tried]:
        for probe in due:
            tried.add(probe.part)
            errors.print(perform_probe(job, probe) or probe.title, highlight=False, soft_wrap=True, markup=False)


COMMANDS = (check,)
