"""The command line: `python -m sweeper run SPACE`, then `status`, `rank`, `show`, `query`; `watch`, `logs` and `stop` where it runs elsewhere.

Commands that only read import neither torch nor ray. What a program may want (tables, CSV, JSON) goes to standard output, everything else to
standard error. Exit status: 0 all trials completed, 1 some failed, 2 unusable arguments, 130 interrupted.
"""

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper import check_results, compare_results, inspect_results, log_results, operate_results, refine_results, search_results, select_results
from sweeper.arguments import (
    DEFAULT_ROOT,
    Address,
    Cpus,
    Data,
    Dataset,
    Epsilons,
    Evaluation,
    Format,
    Gpus,
    Inline,
    MaxConcurrent,
    RetryFailed,
    Root,
    Scale,
    Seeds,
    Set,
    Space,
    Split,
    check_format,
    errors,
    make_plan,
    read_arguments,
    refusing,
)  # fmt: skip
from sweeper.detach import check_detached, submit_and_say
from sweeper.execution import Means, print_plan, run_plan, slots_of
from sweeper.export_results import export
from sweeper.inspect_results import rank, status
from sweeper.manage_data import data_app
from sweeper.on_head import on_head
from sweeper.report.command import report
from sweeper.reproduce_results import reproduce
from sweeper.search_results import (
    GpuHours,
    Minutes,
    Sampler,
    Scheduler,
    SearchOptions,
    SearchSeed,
    Storage,
    Trials,
    WarmStart,
    make_search,
    run_and_print,
)
from sweeper.submitted import check_code, check_plan, parts_of
from sweeper.tables import print_rows

if TYPE_CHECKING:
    from sweeper.search.plan import SearchPlan

HELP = """Run ablations of defenses that purify adversarial images, and read how robust each one is.

\b
  python -m sweeper run ablations      run what is missing, then rank; running again continues
  python -m sweeper rank ablations     the ranking again, from the tables alone
  python -m sweeper show TRIAL         everything about one trial

Exit status: 0 all trials completed, 1 some failed, 2 unusable arguments, 130 interrupted (the same command continues)."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP, rich_markup_mode=None)
_READERS = (
    *inspect_results.COMMANDS,
    *operate_results.COMMANDS,
    *log_results.COMMANDS,
    *check_results.COMMANDS,
    *compare_results.COMMANDS,
    *search_results.COMMANDS,
    report,
)
_OF_FILES = (inspect_results.doctor, inspect_results.merge, search_results.suggest_next, report)  # these read or write files of this machine
ON_HEAD = tuple(command for command in _READERS if command not in _OF_FILES)  # take --address
READING = tuple(command.__name__.replace("_", "-") for command in _READERS)


@app.command()
def run(
    context: typer.Context,
    space: Space,
    dataset: Dataset = None,
    data: Data = None,
    scale: Scale = "small",
    evaluation: Evaluation = None,
    split: Split = "test",
    seeds: Seeds = None,
    settings: Set = None,
    epsilons: Epsilons = None,
    results: Root = DEFAULT_ROOT,
    address: Address = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Gpus = None,
    max_concurrent: MaxConcurrent = None,
    inline: Inline = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    retry_failed: RetryFailed = False,
    trials: Trials = None,
    minutes: Minutes = None,
    gpu_hours: GpuHours = None,
    sampler: Sampler = None,
    scheduler: Scheduler = None,
    search_seed: SearchSeed = None,
    storage: Storage = None,
    warm_start: WarmStart = None,
    detach: Annotated[bool, typer.Option("--detach", help="Submit it to the cluster's head, --address http://HEAD:8265, and return.")] = False,
) -> None:
    """Run what is missing of a search space, then rank it; a search ends in its Pareto set.

    Running again continues. Results are kept under --results, one root for any number of sweeps.
    """
    means = Means(inline, address, cpus_per_trial, gpus_per_trial, max_concurrent)
    options = SearchOptions(trials, minutes, gpu_hours, sampler, scheduler, search_seed, storage, tuple(warm_start or ()))
    with refusing():
        check_detached(address, detach=detach, inline=inline)
        if not detach:
            check_code()
        here = data if not detach or (data is not None and data.is_dir()) else None  # the head's folder need not be one of this machine
        asked = read_arguments(space, dataset, here, scale, settings, epsilons, cpus_per_trial)
    if asked.is_search:
        with refusing():
            search = make_search(asked, evaluation, seeds, split, options)
            if dry_run:
                _print_search(search, results, "table", None)
                return
            if detach:
                submit_and_say(context, search.sweep, search.search_id, parts_of(asked, search.base, is_listed=False))
                return
            check_plan(parts_of(asked, search.base, is_listed=False))
        raise typer.Exit(run_and_print(asked, search, results, data, means, options, retry_failed=retry_failed))
    with refusing():
        options.refuse_for_ablation(space)
        plan = make_plan(asked, evaluation, seeds, split)
        if dry_run:
            print_plan(plan, results, "table")
            return
        if detach:
            submit_and_say(context, plan.sweep, plan.plan_hash, parts_of(asked, plan, is_listed=True))
            return
        check_plan(parts_of(asked, plan, is_listed=True))
    state = run_plan(plan, asked.splits, results, data, means, retry_failed=retry_failed)
    if plan.evaluation.name == "quick":
        status(plan.sweep, results=results, plan_hash=plan.plan_hash)
        errors.print("the quick evaluation never ranks; `query` and `show` read its scores, --evaluation standard ranks", soft_wrap=True)
    else:
        rank(plan.sweep, results=results, plan_hash=plan.plan_hash)
    raise typer.Exit(1 if state.missing else 0)


@app.command()
def plan(
    space: Space,
    dataset: Dataset = None,
    data: Data = None,
    scale: Scale = "small",
    evaluation: Evaluation = None,
    split: Split = "test",
    seeds: Seeds = None,
    settings: Set = None,
    epsilons: Epsilons = None,
    results: Root = DEFAULT_ROOT,
    cpus_per_trial: Cpus = None,
    trials: Trials = None,
    minutes: Minutes = None,
    gpu_hours: GpuHours = None,
    sampler: Sampler = None,
    scheduler: Scheduler = None,
    search_seed: SearchSeed = None,
    price_per_hour: Annotated[float | None, typer.Option(metavar="P", help="Search: what this machine costs per hour, for the cost.")] = None,
    format: Format = "table",
) -> None:
    """Say what `run` would do, and do nothing.

    Trials, shared stages, what is stored already, estimated time and bytes.
    """
    options = SearchOptions(trials, minutes, gpu_hours, sampler, scheduler, search_seed, price_per_hour=price_per_hour)
    with refusing():
        asked = read_arguments(space, dataset, data, scale, settings, epsilons, cpus_per_trial)
        if asked.is_search:
            _print_search(make_search(asked, evaluation, seeds, split, options), results, format, price_per_hour)
            return
        options.refuse_for_ablation(space)
        print_plan(make_plan(asked, evaluation, seeds, split), results, format)


def _print_search(plan: "SearchPlan", root: str, format: str, price_per_hour: float | None) -> None:
    from sweeper.search.estimate import describe

    check_format(format)
    slots = slots_of(plan.base, Means())
    rows, notes = describe(plan, root, slots=slots, price_per_hour=price_per_hour)
    print_rows(rows, format, title=plan.title, notes=notes)


@app.command()
def trial(config: Annotated[Path, typer.Argument(metavar="CONFIG.json", help="A trial's `config`, as the trials table has it.")],
          data: Data = None, results: Root = DEFAULT_ROOT) -> None:  # fmt: skip
    """Run one trial in this process, without Ray.

    For a debugger, or to repeat a stored trial elsewhere: CONFIG.json holds the column `config` of table trials, or an object with `config` and
    `evaluation`.
    """
    from sweeper.sweep import run_one

    with refusing():
        finished = run_one(config, results, data.absolute() if data else None)
    print_rows([{"trial_id": finished.trial_id, "status": finished.status, **finished.figures, "log": finished.log}], "table")
    if finished.status == "failed":
        errors.print(finished.message, style="red", markup=False)
        raise typer.Exit(1)


for _command in _READERS:
    app.command()(on_head(_command) if _command in ON_HEAD else _command)
for _command in (*select_results.COMMANDS, *refine_results.COMMANDS):
    app.command()(_command)
app.command()(reproduce)
app.command()(export)
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(version_of("sweeper"))
        raise typer.Exit(0)


class _WithoutPandas(MetaPathFinder):
    """Hides pandas from pyarrow, which imports it (a quarter of a second) where it is installed; nothing here hands out data frames."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not needed to read tables here", name=fullname)


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] and sys.argv[1] in READING:
        sys.meta_path.insert(0, _WithoutPandas())
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
