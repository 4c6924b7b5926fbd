"""The command `refine`: the best variants on the validation images again, with more seeds and stronger attacks; the winner on the test images."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.arguments import (
    DEFAULT_ROOT,
    Address,
    Cpus,
    Data,
    Format,
    Gpus,
    Inline,
    MaxConcurrent,
    RetryFailed,
    Root,
    check_format,
    errors,
    refusing,
)  # fmt: skip
from sweeper.execution import Means, print_plan, run_plan, slots_of, splits_of
from sweeper.inspect_results import NARROW, open_results
from sweeper.tables import RAW_FORMATS, print_rows

if TYPE_CHECKING:
    from sweeper.plan import Plan
    from sweeper.ranking import Ranking
    from sweeper.refinement import Luck
    from sweeper.selection import Selected


def refine(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was scored on validation images.")],
    top: Annotated[int, typer.Option("--top", min=1, metavar="K", help="How many of the best variants.")] = 3,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds 0 to N-1 of each, at least 2; those that are stored are not trained again.")] = 3,
    evaluation: Annotated[str, typer.Option(metavar="NAME", help="standard or full (hours on a CPU), no weaker than before.")] = "full",
    by: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="What the K are the best by, as in `rank`; default: robust_score, of a search its objectives."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="The data set; default: that of the last such run.")] = None,
    data: Data = None,
    plan_hash: Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan, as `status` names it; default: the one run last.")] = None,
    results: Root = DEFAULT_ROOT,
    address: Address = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Gpus = None,
    max_concurrent: MaxConcurrent = None,
    inline: Inline = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    retry_failed: RetryFailed = False,
    format: Format = "table",
) -> None:
    """Run the best variants of a sweep again, with more seeds, and score the winner on the test images.

    After `run SPACE --split validation` or a search: the first K rows of its ranking, and the reference beside them, under a stronger evaluation
    on the same validation images. Prints their ranking over seeds, how lucky the figures were that they were chosen by, and the winner's test figure.
    Stored as the sweeps SPACE/refined and SPACE/refined/selected; running again continues.
    """
    from sweeper import lookup
    from sweeper.ranking import rank
    from sweeper.refinement import luck, refine_plan, shortlist
    from sweeper.selection import choose, selected, test_plan
    from sweeper.stored_plans import latest_plan

    with refusing():
        check_format(format)
        if cpus_per_trial is not None and cpus_per_trial <= 0:
            raise ValueError(f"--cpus-per-trial must be above 0, got {cpus_per_trial:g}")
        store = open_results(results)
        found = shortlist(store, space, lookup.adopt(dataset) if dataset and dataset.endswith(".py") else dataset, plan_hash, top=top, by=by)
        plan = refine_plan(store, found.planned, found.labels, seeds=seeds, evaluation=evaluation)
        if found.num_ranked < top:
            _say(f"{found.num_ranked} variants are ranked, fewer than --top {top}: all of them are refined")
        splits = splits_of(plan, data)
        if dry_run:
            print_plan(plan, results, format)
            _say(f"then the winner alone is scored on the test images: {seeds} trials more")
            return
        for note in plan.notes:
            _say(note)
    means = Means(inline, address, cpus_per_trial, gpus_per_trial, max_concurrent)
    with refusing():
        _say_cost(plan, results, means)
    state = run_plan(plan, splits, results, data, means, retry_failed=retry_failed)
    with refusing():
        store = open_results(results)
        ranking = rank(store, plan.sweep, plan_hash=plan.plan_hash)
        lucky = luck(store, found.planned, latest_plan(store, plan.sweep, plan_hash=plan.plan_hash))
        if format != "json":
            _print(ranking, lucky, format)
        choice = choose(store, plan.sweep, plan_hash=plan.plan_hash)
        final = test_plan(store, choice)
    tested = run_plan(final, splits, results, data, means, retry_failed=retry_failed)
    with refusing():
        winner = selected(open_results(results), choice, final)
        if format == "json":
            print(json.dumps({"ranking": ranking.rows, "luck": lucky.rows, "selected": [winner.row]}, default=str, allow_nan=False))
        else:
            print()
            _print_winner(winner, format)
    raise typer.Exit(1 if state.missing or tested.missing else 0)


def _print(ranking: "Ranking", lucky: "Luck", format: str) -> None:
    is_raw = format in RAW_FORMATS
    print_rows(ranking.rows if is_raw else ranking.shown(), format, title=ranking.title, notes=ranking.notes, droppable=NARROW)
    print()
    print_rows(lucky.rows if is_raw else lucky.shown(), format, title=lucky.title, notes=lucky.notes)


def _print_winner(winner: "Selected", format: str) -> None:
    rows: list[dict[str, Any]] = [winner.row if format in RAW_FORMATS else winner.shown()]
    print_rows(rows, format, title=winner.title, notes=winner.notes)


def _say(sentence: str) -> None:
    errors.print(sentence, markup=False, soft_wrap=True)


def _say_cost(plan: "Plan", results: "Root", means: Means) -> None:
    """Say what a full evaluation costs before it is begun on a CPU, where it takes hours."""
    import torch

    from sweeper.estimate import cost_of

    if plan.evaluation.name == "full" and not torch.cuda.is_available():
        _say(f"full evaluation on a CPU: {cost_of(plan, results, slots=slots_of(plan, means))}")


COMMANDS = (refine,)
