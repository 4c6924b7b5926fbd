"""The command `select`: the best variant on the validation images, scored on the test images, once and alone."""

from typing import Annotated

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
    refusing,
)  # fmt: skip
from sweeper.execution import Means, run_plan, splits_of
from sweeper.inspect_results import open_results
from sweeper.tables import RAW_FORMATS, print_rows


def select(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was run with --split validation.")],
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="The data set; default: that of the last such run.")] = None,
    data: Data = None,
    plan_hash: Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan, as `status` names it; default: the one run last.")] = None,
    results: Root = DEFAULT_ROOT,
    address: Address = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Gpus = None,
    max_concurrent: MaxConcurrent = None,
    inline: Inline = False,
    retry_failed: RetryFailed = False,
    format: Format = "table",
) -> None:
    """Choose the best variant on the validation images, and score it on the test images.

    After `run SPACE --split validation`: its first row by robust_score, all its seeds, the same networks and attacks; nothing is trained, and no
    other variant meets the test images. Prints both figures and their difference. Stored as the sweep SPACE/selected.
    """
    from sweeper import lookup
    from sweeper.selection import choose, selected, test_plan

    with refusing():
        check_format(format)
        if cpus_per_trial is not None and cpus_per_trial <= 0:
            raise ValueError(f"--cpus-per-trial must be above 0, got {cpus_per_trial:g}")
        store = open_results(results)
        choice = choose(store, space, lookup.adopt(dataset) if dataset and dataset.endswith(".py") else dataset, plan_hash)
        plan = test_plan(store, choice)
        splits = splits_of(plan, data)
    state = run_plan(plan, splits, results, data, Means(inline, address, cpus_per_trial, gpus_per_trial, max_concurrent), retry_failed=retry_failed)
    with refusing():
        found = selected(open_results(results), choice, plan)
        print_rows([found.row if format in RAW_FORMATS else found.shown()], format, title=found.title, notes=found.notes)
    raise typer.Exit(1 if state.missing else 0)


COMMANDS = (select,)
