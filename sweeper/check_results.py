"""The command `check`: what a sceptical reviewer would ask of a sweep, worst first. Imports neither torch nor ray."""

from typing import Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Format, Root, check_format, refusing
from sweeper.checks._grouping import QUIET, for_people, for_programs, worst_first
from sweeper.inspect_results import open_results
from sweeper.tables import RAW_FORMATS, print_rows


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
    from sweeper.stored_plans import latest_plan, title_of

    with refusing():
        check_format(format)
        store = open_results(results)
        planned = latest_plan(store, sweep, dataset, plan_hash, ranks=True)
        found = run_checks(store, planned)
        shown = [one for one in worst_first(found) if everything or one.outcome not in QUIET]
        labels = {(row["trial_id"], row["evaluation_id"]): row for row in reversed(planned)}
        trials = len({one.key for one in found})
        rows = for_programs(shown, labels) if format in RAW_FORMATS else for_people(shown, labels, trials)
        hidden = len(found) - len(shown)
        notes = [f"{hidden} results that pass or do not apply are left out; --all shows them."] if hidden else []
        notes.append(how_many(found) if found else "No trial of this plan is completed.")
        print_rows(rows, format, title=title_of(store, planned), notes=notes)


COMMANDS = (check,)
