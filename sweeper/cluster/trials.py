"""Trials through Ray Tune, which executes and is not the ledger: what is finished is what the tables hold.

So Tune writes no loggers' files, is never restored, and runs each trial that it is given exactly once, or again when the process or node under it is
lost.
"""

import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import ConcurrencyLimiter, Searcher

from sweeper.cluster.resources import Resources, slots_of
from sweeper.cluster.tasks import LOST_RETRIES
from sweeper.plan import PlannedTrial
from sweeper.sweep import View
from sweeper.worker import Finished, Job, perform_trial, record_failure

if TYPE_CHECKING:
    from sweeper.search.running import Feed  # imports optuna, which workers do not need


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
        self.ended(planned, Finished(*planned.key, "failed", "lost", message, self.job.log_shown(planned.trial_id)))

    def _record(self, trial: Any) -> str:
        planned = self.trial_of(trial)
        message = f"trial {planned.trial_id[:8]} ({planned.label}): its worker process or node was lost; it continues from its last checkpoint"
        try:
            record_failure(self.job, planned, "lost", message, self.started)
        except OSError as error:  # an exception in a callback would end the sweep; the view shows the message all the same
            message += f" (not recorded in attempts: {error})"
        return message


def run_trials(job: Job, trials: Sequence[PlannedTrial], resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> list[Finished]:
    """Run trials and return how they ended, in the order given."""
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


def run_search_trials(job: Job, feed: "Feed", resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> None:
    """Run what a search asks for, until it is finished."""
    watch = _Watch(job, lambda trial: pickle.loads(trial.config["trial"]), view, feed.ended, is_interrupted)
    settings = tune.TuneConfig(
        reuse_actors=True,
        search_alg=ConcurrencyLimiter(_Asking(feed), max_concurrent=slots_of(resources)),
        num_samples=-1,
        trial_dirname_creator=lambda trial: trial.trial_id,  # by default made of the whole configuration
    )
    _tune(job, resources, watch, settings, ())
    if is_interrupted():  # between two trials nothing runs, and yet it is not the end
        raise KeyboardInterrupt


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
