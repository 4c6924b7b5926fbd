"""Shared stages and probes as Ray tasks."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from sweeper.cluster.resources import Resources, slots_of
from sweeper.escalation import Probe
from sweeper.stages import Stage
from sweeper.sweep import View
from sweeper.worker import Job, perform_probe, perform_stage

LOST_RETRIES = 3  # how often work whose process or node died is started again within one run


def run_stages(job: Job, stages: Sequence[Stage], resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> None:
    """Run shared stages as tasks, each after those it needs; a task whose worker dies is run again by Ray."""
    waiting, done = list(stages), set()
    todo = {stage.key for stage in stages}

    def ready() -> Stage | None:
        found = next((stage for stage in waiting if all(key in done or key not in todo for key in stage.needs)), None)
        if found is not None:
            waiting.remove(found)
            view.stage_started(found)
        return found

    def ended(stage: Stage, _: object) -> None:
        done.add(stage.key)
        view.stage_ended(stage)

    # an error of a stage is an error of the sweep: nothing can be scored without it
    _run_tasks(perform_stage, job, ready, ended, resources, is_interrupted)


def run_probes(job: Job, probes: Sequence[Probe], resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> None:
    """Run probes as tasks; what goes wrong with one is said by the view."""
    waiting = list(probes)

    def ready() -> Probe | None:
        if waiting:
            view.probe_started(waiting[0])
        return waiting.pop(0) if waiting else None

    _run_tasks(perform_probe, job, ready, view.probe_ended, resources, is_interrupted)


def _run_tasks(
    perform: Any,
    job: Job,
    ready: Callable[[], Any],
    ended: Callable[[Any, Any], None],
    resources: Resources,
    is_interrupted: Callable[[], bool],
) -> None:
    """Run `perform(job, work)` as Ray tasks, as many at once as there is room for.

    Args:
        ready: Returns the next piece of work that can begin, None if none can now.
        ended: Called with a piece of work and what `perform` returned.
    """
    remote = ray.remote(perform).options(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=LOST_RETRIES)
    running, slots = {}, slots_of(resources)
    while True:
        if is_interrupted():
            raise KeyboardInterrupt
        while len(running) < slots and (work := ready()) is not None:
            running[remote.remote(job, work)] = work
        if not running:
            return
        finished, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
        for reference in finished:
            ended(running.pop(reference), ray.get(reference))
