"""The command line: `python -m sweeper run SPACE`, then `status`, `rank`, `show`, `query`.

Commands that only read import neither torch nor ray. What a program may want (tables, CSV, JSON) goes to standard output, everything else to
standard error. Exit status: 0 all trials completed, 1 some failed, 2 unusable arguments, 130 interrupted.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper import check_results, compare_results, inspect_results
from sweeper.arguments import (
    DEFAULT_ROOT,
    Cpus,
    Data,
    Dataset,
    Epsilons,
    Evaluation,
    Format,
    Root,
    Scale,
    Seeds,
    Set,
    Space,
    check_address,
    check_format,
    errors,
    make_plan,
    refusing,
)  # fmt: skip
from sweeper.inspect_results import rank, status
from sweeper.manage_data import data_app
from sweeper.report.command import report
from sweeper.reproduce_results import reproduce
from sweeper.tables import print_rows

if TYPE_CHECKING:
    from sweeper.plan import Plan

HELP = """Run ablations of defenses that purify adversarial images, and read how robust each one is.

\b
  python -m sweeper run ablations      run what is missing, then rank; running again continues
  python -m sweeper rank ablations     the ranking again, from the tables alone
  python -m sweeper show TRIAL         everything about one trial

Exit status: 0 all trials completed, 1 some failed, 2 unusable arguments, 130 interrupted (the same command continues)."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP, rich_markup_mode=None)
READING = tuple(command.__name__ for command in (*inspect_results.COMMANDS, *check_results.COMMANDS, *compare_results.COMMANDS, report))


@app.command()
def run(
    space: Space,
    dataset: Dataset = None,
    data: Data = None,
    scale: Scale = "small",
    evaluation: Evaluation = None,
    seeds: Seeds = None,
    settings: Set = None,
    epsilons: Epsilons = None,
    results: Root = DEFAULT_ROOT,
    address: Annotated[str | None, typer.Option(metavar="ADDRESS", help="A running Ray cluster; default: this machine.")] = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(metavar="X", help="GPUs of each trial, whole or a fraction; default: 1 if this machine has one, at medium and paper."),
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, metavar="N", help="Trials at once, at most.")] = None,
    inline: Annotated[bool, typer.Option("--inline", help="Everything in this process, one after the other, without Ray.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try trials again that failed by themselves, not by a lost worker.")] = False,
) -> None:
    """Run what is missing of a search space, then rank it.

    Running again continues. Results are kept under --results, one root for any number of sweeps.
    """
    with refusing():
        plan, splits = make_plan(space, dataset, data, scale, evaluation, seeds, settings, epsilons, cpus_per_trial)
        if dry_run:
            _print_plan(plan, results, "table")
            return
        data = data.absolute() if data else None
        from sweeper.estimate import check_space

        check_space(plan, results)
        if address is not None and not inline:
            check_address(address)
    from sweeper.live import Display
    from sweeper.sweep import inline as run_inline
    from sweeper.sweep import run_sweep, state_of
    from sweeper.worker import StageFailed

    with refusing(), _interruptible() as interrupted:
        gpus = _gpus(gpus_per_trial, scale)
        threads = plan.trials[0].config.numerics.threads
        slots = 1 if inline else max(1, int((os.cpu_count() or 1) // (cpus_per_trial or threads)))
        execute = run_inline if inline else _ray_executor(cpus_per_trial or threads, gpus, max_concurrent, address, interrupted)
        try:
            with Display(slots=min(slots, max_concurrent or slots)) as display:
                finished = run_sweep(plan, splits, results, data, execute, display, retry_failed=retry_failed)
        except StageFailed as error:
            errors.print(f"error: {error}; nothing can be scored without it", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            errors.print("interrupted; what was computed is stored, and the same command continues")
            raise typer.Exit(130) from None
    with refusing():
        state = state_of(plan, results)
    for problem in [end for end in finished if end.status == "failed"]:
        errors.print(f"failed ({problem.reason}): {problem.message}; log: {problem.log}", style="red", markup=False, soft_wrap=True)
    if waiting := [trial for trial in state.missing if trial.key in state.failed and trial.key not in {end.key for end in finished}]:
        errors.print(f"{len(waiting)} trials failed by themselves earlier and were not tried again; --retry-failed does", soft_wrap=True)
    if plan.evaluation.name == "quick":
        status(plan.sweep, results=results, plan_hash=plan.plan_hash)
        errors.print("the quick evaluation never ranks; `query` and `show` read its scores, --evaluation standard ranks", soft_wrap=True)
    else:
        rank(plan.sweep, results=results, plan_hash=plan.plan_hash)
    raise typer.Exit(1 if state.missing else 0)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into KeyboardInterrupt, and remember them: one that is raised inside a library's callback can be lost."""
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gpus(asked: float | None, scale: str) -> float:
    if asked is not None:
        if asked < 0:
            raise ValueError(f"--gpus-per-trial must be at least 0, got {asked:g}")
        return asked
    import torch

    return 1.0 if scale != "small" and torch.cuda.is_available() else 0.0


def _ray_executor(cpus: float, gpus: float, max_concurrent: int | None, address: str | None, interrupted: threading.Event) -> Any:
    from sweeper.driver import Resources, executor  # only here is Ray imported

    return executor(Resources(cpus=cpus, gpus=gpus, max_concurrent=max_concurrent, address=address), interrupted.is_set)


@app.command()
def plan(
    space: Space,
    dataset: Dataset = None,
    data: Data = None,
    scale: Scale = "small",
    evaluation: Evaluation = None,
    seeds: Seeds = None,
    settings: Set = None,
    epsilons: Epsilons = None,
    results: Root = DEFAULT_ROOT,
    cpus_per_trial: Cpus = None,
    format: Format = "table",
) -> None:
    """Say what `run` would do, and do nothing.

    Trials, shared stages, what is stored already, estimated time and bytes.
    """
    with refusing():
        made, _ = make_plan(space, dataset, data, scale, evaluation, seeds, settings, epsilons, cpus_per_trial)
        _print_plan(made, results, format)


def _print_plan(plan: "Plan", root: Path, format: str) -> None:
    from sweeper.estimate import describe

    check_format(format)
    rows, notes = describe(plan, root, slots=max(1, (os.cpu_count() or 1) // plan.trials[0].config.numerics.threads))
    print_rows(rows, format, title=f"{plan.sweep} on {plan.dataset} ({plan.scale}, {plan.evaluation.name})", notes=notes)


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


for _command in (*inspect_results.COMMANDS, *check_results.COMMANDS, *compare_results.COMMANDS, report):
    app.command()(_command)
app.command()(reproduce)
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
