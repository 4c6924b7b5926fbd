"""Trials through Ray Tune, which executes and is not the ledger: what is finished is what the tables hold.

So Tune writes no loggers' files, is never restored, and never retries: what is lost is given to it again by our queue, which knows why it was lost.
"""

import os
import pickle
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from sweeper.cluster.preflight import admit
from sweeper.cluster.resources import Grant
from sweeper.cluster.run import Run
from sweeper.cluster.supply import Listed, Source, Supply
from sweeper.cluster.watch import Watch, planned
from sweeper.memory import peak, reset_peak
from sweeper.plan import PlannedTrial
from sweeper.worker import Finished, Job, perform_trial


def _trainable(settings: dict[str, Any], *, job: Job, expected: Mapping[str, str] | None) -> None:
    """Run one trial inside a Tune worker, which is used again for the next."""
    admit(expected)
    tune.report({"begun": [ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()]})
    trial: PlannedTrial = pickle.loads(settings["trial"])

    def hear(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        tune.report({"progress": [stage, done, total, figures]})  # never a key `done`: Tune would end the trial

    reset_peak()
    finished = perform_trial(job, trial, hear)
    tune.report({"finished": vars(finished), "peak": vars(peak())})


class _Asking(Searcher):
    """Has Tune run what is to be run next."""

    def __init__(self, supply: Supply) -> None:
        super().__init__()  # Tune judges nothing: it is told what to run next
        self.supply = supply

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled for a restore, as the callback is

    def suggest(self, trial_id: str) -> Any:
        given = self.supply.next()
        if given is None:
            return Searcher.FINISHED if self.supply.is_finished else None
        trial, grant = given
        return {"trial": pickle.dumps(trial), "grant": vars(grant)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hear nothing: the callback has told how it ended, before its place is given to the next."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the tables know all of it, and a search is gone on with from them."""


class _InOrder(FIFOScheduler):
    """Begins trials in the order in which they come, and gives back one whose grant no node can hold any more: Tune would wait for that node."""

    def __init__(self, supply: Supply) -> None:
        super().__init__()
        self.supply = supply

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled for a restore, as the callback is

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        for trial in list(tune_controller.get_live_trials()):
            if trial.status == trial.PENDING and self.supply.is_stranded(_grant(trial.config)):
                tune_controller.stop_trial(trial)
                self.supply.take_back(planned(trial))
        return super().choose_trial_to_run(tune_controller)


def _grant(settings: Mapping[str, Any]) -> Grant:
    return Grant(**settings["grant"])


def run_trials(run: Run, trials: Sequence[PlannedTrial]) -> list[Finished]:
    """Run trials, beginning them in the order given, and return how they ended in that order."""
    listed = Listed(list(trials), run)
    _tune(run, listed)
    if run.is_interrupted() and len(listed.finished) < len(trials):
        raise KeyboardInterrupt
    return [listed.finished[trial.key] for trial in trials if trial.key in listed.finished]


def run_search_trials(run: Run, feed: Source) -> None:
    """Run what a search asks for, until it is finished."""
    _tune(run, feed)
    if run.is_interrupted():  # between two trials nothing runs, and yet it is not the end
        raise KeyboardInterrupt


def _tune(run: Run, source: Source) -> None:
    """Run a source's trials to its end.

    Raises:
        Unlike: If a machine that joined later has other code or libraries.
    """
    supply = Supply(run, source)
    watch = Watch(run, supply)
    with tempfile.TemporaryDirectory(prefix="sweeper-tune-") as scratch:
        trainable = tune.with_parameters(_trainable, job=run.job, expected=run.expected)
        tuner = tune.Tuner(
            tune.with_resources(trainable, lambda settings: tune.PlacementGroupFactory([_grant(settings).bundle])),
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # where the grant is the same
                search_alg=_Asking(supply),
                scheduler=_InOrder(supply),
                num_samples=-1,
                trial_dirname_creator=lambda trial: trial.trial_id,  # by default made of the whole configuration
            ),
            run_config=tune.RunConfig(
                name=f"{run.job.sweep.replace('/', '_')}-{int(time.time())}", storage_path=scratch, verbose=0, callbacks=[watch]
            ),
        )
        try:
            tuner.fit()
        except Exception:
            if watch.refusal is not None:
                raise watch.refusal from None
            raise
