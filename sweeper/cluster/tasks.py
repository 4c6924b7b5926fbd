"""Shared stages and probes as Ray tasks."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from sweeper.cluster.preflight import admit
from sweeper.cluster.queue import Queue
from sweeper.cluster.resources import Packing
from sweeper.cluster.run import Run
from sweeper.escalation import Probe
from sweeper.memory import Peak, peak, reset_peak
from sweeper.stages import Stage
from sweeper.worker import Job, StageFailed, perform_probe, perform_stage, reason_of

_DEAD = "a node that is gone"


def run_stages(run: Run, stages: Sequence[Stage]) -> None:
    """Run shared stages as tasks, each after those it needs.

    Raises:
        StageFailed: Of a stage that failed, or whose process or node died too often: nothing can be scored without it.
    """
    waiting, done = list(stages), set()
    todo = {stage.key for stage in stages}

    def ready() -> Stage | None:
        found = next((stage for stage in waiting if all(key in done or key not in todo for key in stage.needs)), None)
        if found is not None:
            waiting.remove(found)
            run.view.stage_started(found)
        return found

    def ended(stage: Stage, _: object) -> None:
        done.add(stage.key)
        run.view.stage_ended(stage)

    def gave_up(stage: Stage, message: str) -> None:
        raise StageFailed(message)

    _run_tasks(run, perform_stage, ready, lambda: len(waiting), lambda stage: stage.key, ended, gave_up)


def run_probes(run: Run, probes: Sequence[Probe]) -> None:
    """Run probes as tasks; what goes wrong with one is said by the view."""
    waiting = list(probes)

    def ready() -> Probe | None:
        if waiting:
            run.view.probe_started(waiting[0])
        return waiting.pop(0) if waiting else None

    _run_tasks(run, perform_probe, ready, lambda: len(waiting), lambda probe: probe.part, run.view.probe_ended, run.view.probe_ended)


def _run_tasks(
    run: Run,
    perform: Any,
    ready: Callable[[], Any],
    remaining: Callable[[], int],
    key: Callable[[Any], Hashable],
    ended: Callable[[Any, Any], None],
    gave_up: Callable[[Any, str], None],
) -> None:
    """Run `perform(job, work)` as Ray tasks, as many at once as there is room for on the nodes that are there.

    Args:
        ready: Returns the next piece of work that can begin, None if none can now.
        remaining: Returns how many pieces have not begun.
        key: What a piece of work is.
        ended: Called with a piece of work and what `perform` returned.
        gave_up: Called with one that was lost too often, or that no memory sufficed for, and a sentence that says so.
    """
    remote = ray.remote(_performed)
    queue, packing, running = Queue(ready, key, run.nodes.is_alive), Packing(run.resources), {}
    while True:
        if run.is_interrupted():
            raise KeyboardInterrupt
        while len(running) < run.nodes.room(packing) and (given := queue.next()) is not None:
            work, is_alone = given
            grant = packing.alone(run.nodes.alive) if is_alone else packing.grant(run.nodes.alive)
            # what is lost is run again by the queue, which knows why
            task = remote.options(num_cpus=grant.cpus, num_gpus=grant.gpus, memory=grant.memory or None, max_retries=0)
            running[task.remote(perform, run.job, work, run.expected)] = work, grant
        if not running:
            return
        run.nodes.want(len(running) + queue.waiting + remaining())
        run.nodes.say_if_waiting()
        for reference, (work, grant) in list(running.items()):
            if run.nodes.is_stranded(grant):  # Ray would wait for that node
                ray.cancel(reference)
                del running[reference]
                queue.take_back(work)
                run.view.note(f"{work.title}: the node that it waited for is gone; it is given another")
        finished, _ = ray.wait(list(running), num_returns=1, timeout=1.0) if running else ([], [])
        for reference in finished:
            work, _ = running.pop(reference)
            try:
                value, peak = ray.get(reference)
            except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
                is_memory = isinstance(error, OutOfMemoryError)
                if not (queue.ran_out(work) if is_memory else queue.lost(work, _DEAD if isinstance(error, NodeDiedError) else None)):
                    gave_up(work, f"{work.title} was lost too often: {str(error).strip().partition(chr(10))[0]}")
            except RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                if not isinstance(cause, _RanOut):
                    raise cause from None
                if not queue.ran_out(work):
                    gave_up(work, str(cause))
            else:
                packing.learn(peak, is_typical=False)  # a stage may have found what it was to make
                ended(work, value)


class _RanOut(Exception):
    """A piece of work failed for want of memory."""


def _performed(perform: Callable[[Job, Any], Any], job: Job, work: Any, expected: Mapping[str, str] | None) -> tuple[Any, Peak]:
    admit(expected)
    reset_peak()
    try:
        return perform(job, work), peak()
    except StageFailed as error:
        if error.__cause__ is not None and reason_of(error.__cause__) == "oom":
            raise _RanOut(str(error)) from None
        raise
