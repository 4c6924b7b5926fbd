"""Run a plan for a command that was asked for it: what is seen while it runs, what stops it, what is said of trials that failed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sweeper.arguments import check_address, errors, refusing

if TYPE_CHECKING:
    from sweeper.datasets import Splits
    from sweeper.plan import Plan
    from sweeper.sweep import State


@dataclass(frozen=True)
class Means:
    """What a plan is run with. None: the scale's CPUs, the GPU if there is one, this machine, as many trials at once as fit."""

    inline: bool = False
    address: str | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None


def run_plan(plan: "Plan", splits: "Splits", results: Path, data: Path | None, means: Means, *, retry_failed: bool = False) -> "State":
    """Run what is missing of a plan, say which trials failed, and return what is missing then.

    Raises:
        typer.Exit: 1 if a shared stage failed, 2 if nothing can be run, 130 if interrupted; a sentence on standard error says why.
    """
    from sweeper.estimate import check_space
    from sweeper.live import Display
    from sweeper.sweep import inline, run_sweep, state_of
    from sweeper.worker import StageFailed

    data = data.absolute() if data else None
    with refusing():
        check_space(plan, results)
        if means.address is not None and not means.inline:
            check_address(means.address)
    with refusing(), _interruptible() as interrupted:
        gpus = _gpus(means.gpus_per_trial, plan.scale)
        cpus = means.cpus_per_trial or plan.trials[0].config.numerics.threads
        slots = 1 if means.inline else max(1, int((os.cpu_count() or 1) // cpus))
        execute = inline if means.inline else _ray_executor(cpus, gpus, means, interrupted)
        try:
            with Display(slots=min(slots, means.max_concurrent or slots)) as display:
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
    return state


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


def _ray_executor(cpus: float, gpus: float, means: Means, interrupted: threading.Event) -> Any:
    from sweeper.driver import Resources, executor  # only here is Ray imported

    resources = Resources(cpus=cpus, gpus=gpus, max_concurrent=means.max_concurrent, address=means.address)
    return executor(resources, interrupted.is_set)
