"""Run a plan for a command that was asked for it: what is seen before and while it runs, what stops it, what is said of trials that failed."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sweeper.arguments import check_address, check_format, errors, refusing
from sweeper.tables import print_rows

if TYPE_CHECKING:
    from sweeper.datasets import Splits
    from sweeper.live import Display
    from sweeper.plan import Plan
    from sweeper.search.plan import SearchPlan
    from sweeper.search.running import Searched
    from sweeper.storage import Root
    from sweeper.sweep import State

_NAMED = 5  # failed trials that are told of one by one at the end of a search


@dataclass(frozen=True)
class Means:
    """What a plan is run with. None: the scale's CPUs, the GPU if there is one, this machine, as many trials at once as fit."""

    inline: bool = False
    address: str | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None


def print_plan(plan: "Plan", root: "Root", format: str) -> None:
    """Print what running a plan would make, with estimated time and bytes; nothing is run."""
    from sweeper.estimate import describe

    check_format(format)
    rows, notes = describe(plan, root, slots=slots_of(plan, Means()))
    print_rows(rows, format, title=plan.title, notes=notes)


def splits_of(plan: "Plan", data: Path | None) -> "Splits":
    """Return the images of a plan that was made from the tables.

    Raises:
        ValueError: If those that are found here are others than the plan's trials were run on.
    """
    from sweeper import datasets

    config = plan.trials[0].config
    splits = datasets.load(config.dataset, root=data, caps=config.caps)
    if splits.fingerprint != config.fingerprint:
        raise ValueError(
            f"the images of {config.dataset} here (fingerprint {splits.fingerprint[:12]}) are not those that the sweep was run on "
            f"({config.fingerprint[:12]}); name their folder with --data"
        )
    return splits


def slots_of(plan: "Plan", means: Means) -> int:
    """Return how many trials run at once on this machine's CPUs."""
    slots = 1 if means.inline else max(1, int((os.cpu_count() or 1) // _cpus(plan, means)))
    return min(slots, means.max_concurrent or slots)


def run_plan(plan: "Plan", splits: "Splits", results: "Root", data: Path | None, means: Means, *, retry_failed: bool = False) -> "State":
    """Run what is missing of a plan, say which trials failed, and return what is missing then.

    Raises:
        typer.Exit: 1 if a shared stage failed, 2 if nothing can be run, 130 if interrupted; a sentence on standard error says why.
    """
    from sweeper.estimate import check_space, estimated_seconds, longest_first
    from sweeper.sweep import inline, run_sweep, state_of

    data = data.absolute() if data else None
    with refusing():
        check_space(plan, results)
    with _running(means, plan, plan.plan_hash, results) as (resources, interrupted, display):
        execute = inline if means.inline else _ray("executor", resources, interrupted)
        seconds = estimated_seconds(plan, results)
        finished = run_sweep(
            plan, splits, results, data, execute, display, retry_failed=retry_failed, order=lambda trials: longest_first(trials, seconds),
            spreads_data=means.address is not None,
        )  # fmt: skip
        state = state_of(plan, results)
        display.state.missing = len(state.missing)
    for problem in [end for end in finished if end.status == "failed"]:
        errors.print(f"failed ({problem.reason}): {problem.message}; log: {problem.log}", style="red", markup=False, soft_wrap=True)
    if waiting := [trial for trial in state.missing if trial.key in state.failed and trial.key not in {end.key for end in finished}]:
        errors.print(f"{len(waiting)} trials failed by themselves earlier and were not tried again; --retry-failed does", soft_wrap=True)
    return state


def run_search_plan(
    plan: "SearchPlan",
    splits: "Splits",
    results: "Root",
    data: Path | None,
    means: Means,
    warm: Sequence[str],
    storage: str | None,
    *,
    retry_failed: bool,
) -> "Searched":
    """Run a search to its end, or to the end of its budget, and say which trials failed.

    Args:
        warm: Names of earlier sweeps whose trials are offered to it.

    Raises:
        typer.Exit: As `run_plan`.
    """
    from sweeper.estimate import check_space
    from sweeper.search.running import inline_search, run_search
    from sweeper.search.warm import warm_proposals

    data = data.absolute() if data else None
    with refusing():
        check_space(plan.base, results)
        offered, notes = warm_proposals(plan, results, warm) if warm else ([], [])
        for note in notes:
            errors.print(note, soft_wrap=True, markup=False)
    with _running(means, plan.base, plan.search_id, results) as (resources, interrupted, display):
        execute = inline_search if means.inline else _ray("search_executor", resources, interrupted)
        searched = run_search(
            plan, splits, results, data, execute, display, warm=offered, storage=storage, retry_failed=retry_failed, gpus=resources["gpus"],
            spreads_data=means.address is not None, warn=lambda text: errors.print(text, style="red", soft_wrap=True, markup=False),
        )  # fmt: skip
        failed = [standing for standing in searched.search.standings if standing.failure is not None]
        display.state.missing = len(failed)
    for standing in failed[:_NAMED]:
        errors.print(
            f"failed: {standing.suggestion.label}: {standing.failure and standing.failure.message}", style="red", soft_wrap=True, markup=False
        )
    if failed:
        more = f", {len(failed) - _NAMED} of them not named here" if len(failed) > _NAMED else ""
        by_themselves = sum(standing.failure is not None and standing.failure.is_final and bool(standing.suggestion.steps) for standing in failed)
        again = f"; --retry-failed tries {by_themselves} of them again" if by_themselves else ""
        errors.print(f"{len(failed)} trials failed{more}{again}", soft_wrap=True)
    return searched


@contextmanager
def _running(means: Means, plan: "Plan", plan_hash: str, root: "Root") -> "Iterator[tuple[dict[str, Any], threading.Event, Display]]":
    """Give what a run is made with and watched by, and turn what stops it into a sentence and an exit status."""
    from sweeper.live import Display
    from sweeper.live_file import LiveFile
    from sweeper.storage import open_store
    from sweeper.worker import StageFailed

    with refusing():
        if means.address is not None and not means.inline:
            check_address(means.address)
    with refusing(), _interruptible() as interrupted:
        resources = {
            "cpus": _cpus(plan, means),
            "gpus": _gpus(means.gpus_per_trial, plan.scale),
            "max_concurrent": means.max_concurrent,
            "address": means.address,
        }
        display = Display(slots=slots_of(plan, means))
        display.state.sweep, display.state.plan_hash = plan.sweep, plan_hash
        told = LiveFile(
            display.state, open_store(root), say=lambda text: errors.print(text, style="yellow", markup=False, soft_wrap=True), stop=_interrupt
        )
        try:
            with display, told:
                yield resources, interrupted, display
        except StageFailed as error:
            errors.print(f"error: {error}; nothing can be scored without it", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            how = f"stopped by `stop` from {told.stopped_by}" if told.stopped_by else "interrupted"
            errors.print(f"{how}; what was computed is stored, and the same command continues", soft_wrap=True)
            raise typer.Exit(130) from None


def _interrupt() -> None:
    """Do to the main thread what Ctrl-C does; a signal also ends a system call that it waits in."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into KeyboardInterrupt, and remember them: one that is raised inside a library's callback can be lost."""
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray starts the processes of its jobs with it blocked
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cpus(plan: "Plan", means: Means) -> float:
    return means.cpus_per_trial or plan.trials[0].config.numerics.threads


def _gpus(asked: float | None, scale: str) -> float:
    if asked is not None:
        if asked < 0:
            raise ValueError(f"--gpus-per-trial must be at least 0, got {asked:g}")
        return asked
    import torch

    return 1.0 if scale != "small" and torch.cuda.is_available() else 0.0


def _ray(name: str, resources: dict[str, Any], interrupted: threading.Event) -> Any:
    from sweeper.cluster import execution  # only here is Ray imported
    from sweeper.cluster.resources import Resources

    return getattr(execution, name)(Resources(**resources), interrupted.is_set)
