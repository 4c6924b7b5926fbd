"""The only module that imports Ray: shared stages as tasks, trials through Ray Tune, on this machine or a cluster.

Ray executes; it is not the ledger. What is finished is what the tables hold, so Tune writes no loggers' files, is never restored, and runs each
trial that it is given exactly once, or again when the process or node under it is lost.
"""

import logging
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console engine prints tables whatever `verbose` says
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us, and our tables need no farewell
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
# Transparent huge pages for the workers' tensors: 9 instead of 11 CPU seconds for a part of the adaptive attack. glibc reads it at a process's start.
FAST = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
for _name, _value in (QUIET | FAST).items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402, the settings above are read at import
from ray import tune  # noqa: E402
from ray.tune.search import ConcurrencyLimiter, Searcher  # noqa: E402

from sweeper.escalation import Probe, Probes  # noqa: E402
from sweeper.plan import PlannedTrial  # noqa: E402
from sweeper.stages import Stage  # noqa: E402
from sweeper.sweep import Executor, View  # noqa: E402
from sweeper.worker import Finished, Job, perform_probe, perform_stage, perform_trial, record_failure  # noqa: E402

if TYPE_CHECKING:
    from sweeper.search.running import Feed, SearchExecutor  # imports optuna, which workers do not need

LOST_RETRIES = 3  # how often a trial whose process or node died is started again within one run


@dataclass(frozen=True)
class Resources:
    """What a trial is granted, how many run at once, and where (None: this machine)."""

    cpus: float = 1.0
    gpus: float = 0.0
    max_concurrent: int | None = None
    address: str | None = None


def executor(resources: Resources, is_interrupted: Callable[[], bool] = lambda: False) -> Executor:
    """Return what runs a job's stages and trials on Ray with these resources.

    Args:
        is_interrupted: Was Ctrl-C pressed? Asked between steps, because a KeyboardInterrupt that falls into Ray's own callbacks is lost there.
    """

    def execute(job: Job, stages: Sequence[Stage], trials: Sequence[PlannedTrial], view: View, probes: Probes) -> list[Finished]:
        with _connected(resources):
            _check_resources(resources)
            _run_stages(job, stages, resources, view, is_interrupted)
            finished = _run_trials(job, trials, resources, view, is_interrupted) if trials else []
            while due := probes():
                _run_probes(job, due, resources, view, is_interrupted)
            return finished

    return execute


@contextmanager
def _connected(resources: Resources) -> Iterator[None]:
    logging.getLogger("ray").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if resources.address is None:
        cores = os.cpu_count() or 1
        settings |= {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": 256 * 2**20}
    else:
        settings["address"] = resources.address
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray.init(**settings)
    for number, handler in handlers.items():  # Ray's own handler of SIGTERM prints a stack and aborts
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_resources(resources: Resources) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, asked, word in (("GPU", resources.gpus, "--gpus-per-trial"), ("CPU", resources.cpus, "--cpus-per-trial")):
        most = max((float(node.get(name, 0)) for node in nodes), default=0.0)
        if asked > most:
            raise ValueError(f"{word} must be at most {most:g}, the {name}s of the largest node, got {asked:g}")


def _run_stages(job: Job, stages: Sequence[Stage], resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> None:
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


def _run_probes(job: Job, probes: Sequence[Probe], resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> None:
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
    running, slots = {}, _slots(resources)
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


def _slots(resources: Resources) -> int:
    total = ray.cluster_resources()
    slots = int(total.get("CPU", 1) // resources.cpus) if resources.cpus else 10_000
    if resources.gpus:
        slots = min(slots, int(total.get("GPU", 0) // resources.gpus))
    return max(1, min(slots, resources.max_concurrent or slots))


def _trainable(settings: dict[str, Any], *, job: Job, trials: Sequence[PlannedTrial]) -> None:
    """Run one trial inside a Tune worker, which is used again for the next."""
    trial: PlannedTrial = pickle.loads(settings["trial"]) if "trial" in settings else trials[settings["position"]]

    def hear(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        tune.report({"progress": [stage, done, total, figures]})  # never a key `done`: Tune would end the trial

    finished = perform_trial(job, trial, hear)
    tune.report({"finished": vars(finished)})


Ended = Callable[[PlannedTrial, Finished], None]


class _Watch(tune.Callback):
    """Carries what trials report to the view, says how they ended, and writes a row for those that were lost.

    Args:
        trial_of: Tune's trial -> ours.
    """

    def __init__(self, job: Job, trial_of: Callable[[Any], PlannedTrial], view: View, ended: Ended, is_interrupted: Callable[[], bool]) -> None:
        self.job, self.trial_of, self.view, self.ended, self.is_interrupted = job, trial_of, view, ended, is_interrupted
        self.started = datetime.now(UTC)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore, which we never ask for; a terminal cannot be pickled

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.is_interrupted():
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "finished" in result:
            self.ended(self.trial_of(trial), Finished(**result["finished"]))
        elif "progress" in result:
            self.view.trial_progress(self.trial_of(trial), *result["progress"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._record(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        message = self._record(trial)
        planned = self.trial_of(trial)
        self.ended(planned, Finished(*planned.key, "failed", "lost", message, str(self.job.log_path(planned.trial_id))))

    def _record(self, trial: Any) -> str:
        planned = self.trial_of(trial)
        message = f"trial {planned.trial_id[:8]} ({planned.label}): its worker process or node was lost; it continues from its last checkpoint"
        try:
            record_failure(self.job, planned, "lost", message, self.started)
        except OSError as error:  # an exception in a callback would end the sweep; the view shows the message all the same
            message += f" (not recorded in attempts: {error})"
        return message


def _run_trials(job: Job, trials: Sequence[PlannedTrial], resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> list[Finished]:
    finished: dict[tuple[str, str], Finished] = {}

    def ended(trial: PlannedTrial, end: Finished) -> None:
        finished[trial.key] = end
        view.trial_ended(trial, end)

    watch = _Watch(job, lambda trial: trials[trial.config["position"]], view, ended, is_interrupted)
    space = {"position": tune.grid_search(list(range(len(trials))))}
    _tune(job, resources, watch, tune.TuneConfig(reuse_actors=True, max_concurrent_trials=resources.max_concurrent), trials, space)
    if is_interrupted() and len(finished) < len(trials):
        raise KeyboardInterrupt
    return [finished[trial.key] for trial in trials if trial.key in finished]


class _Asking(Searcher):
    """Has Tune run what a search wants run next, as many at once as there is room for."""

    def __init__(self, feed: "Feed") -> None:
        super().__init__()  # Tune judges nothing: it is told what to run next
        self.feed = feed

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled for a restore, as the callback is

    def suggest(self, trial_id: str) -> Any:
        trial = self.feed.next()
        if trial is None:
            return Searcher.FINISHED if self.feed.is_finished else None
        return {"trial": pickle.dumps(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hear nothing: the callback has told how it ended, before its place is given to the next."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the tables know all of it, and a search is gone on with from them."""


def search_executor(resources: Resources, is_interrupted: Callable[[], bool] = lambda: False) -> "SearchExecutor":
    """Return what runs a search's shared stages and its trials on Ray with these resources; see `executor`."""

    def execute(job: Job, stages: Sequence[Stage], feed: "Feed", view: View) -> None:
        with _connected(resources):
            _check_resources(resources)
            _run_stages(job, stages, resources, view, is_interrupted)
            watch = _Watch(job, lambda trial: pickle.loads(trial.config["trial"]), view, feed.ended, is_interrupted)
            settings = tune.TuneConfig(
                reuse_actors=True,
                search_alg=ConcurrencyLimiter(_Asking(feed), max_concurrent=_slots(resources)),
                num_samples=-1,
                trial_dirname_creator=lambda trial: trial.trial_id,  # by default made of the whole configuration
            )
            _tune(job, resources, watch, settings, ())
            if is_interrupted():  # between two trials nothing runs, and yet it is not the end
                raise KeyboardInterrupt

    return execute


def _tune(
    job: Job, resources: Resources, watch: _Watch, settings: tune.TuneConfig, trials: Sequence[PlannedTrial], space: dict[str, Any] | None = None
) -> None:
    with tempfile.TemporaryDirectory(prefix="sweeper-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trainable, job=job, trials=trials), {"cpu": resources.cpus, "gpu": resources.gpus}),
            param_space=space,
            tune_config=settings,
            run_config=tune.RunConfig(
                name=f"{job.sweep.replace('/', '_')}-{int(time.time())}",
                storage_path=scratch,
                verbose=0,
                callbacks=[watch],
                failure_config=tune.FailureConfig(max_failures=LOST_RETRIES),
            ),
        )
        tuner.fit()
