"""A search run to its end: recorded, gone on with, each trial's figures told, and what is left at a rung written down."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.artifacts import Artifacts
from sweeper.datasets import Splits
from sweeper.plan import PlannedTrial
from sweeper.results import Results
from sweeper.search.engine import Search
from sweeper.search.ledger import Ledger
from sweeper.search.plan import SearchPlan
from sweeper.search.rungs import promoted_share
from sweeper.search.standing import Failure, Figures, Work
from sweeper.search.study import Mirror, Proposal
from sweeper.stages import Stage
from sweeper.storage import Root
from sweeper.storage.place import without_passwords
from sweeper.sweep import OWN_FAULT, View, compact_on_the_way, job_of, record_run
from sweeper.worker import Finished, Job, perform_stage, perform_trial

Warn = Callable[[str], None]


class Feed:
    """What an executor runs, one trial after another, and tells how each ended.

    `next` returns None when nothing can begin before something ends, and `is_finished` says whether nothing runs then.
    """

    def __init__(self, search: Search, ledger: Ledger, view: View, mirror: Mirror | None, warn: Warn) -> None:
        self.search = search
        self._ledger, self._view, self._mirror, self._warn = ledger, view, mirror, warn
        self._works: dict[tuple[str, str], Work] = {}
        self._ended = 0
        self._show()

    @property
    def is_finished(self) -> bool:
        return self.search.is_finished

    @property
    def remaining(self) -> int:
        """Return about how many trials are still to begin: those begun earlier, and those that the budget admits (1 if it does not say)."""
        most = self.search.space.most_trials
        return self.search.num_begun + (max(0, most - self.search.num_asked) if most else 1)

    def next(self) -> PlannedTrial | None:
        """Return the next trial to run, recorded already."""
        work = self.search.next()
        self._show()
        if work is None:
            return None
        self._works[work.key] = work
        return work.step.run

    def ended(self, trial: PlannedTrial, finished: Finished) -> None:
        """Take in how a trial ended: completed with its rows stored, or failed."""
        work = self._works.pop(trial.key, None)
        if work is None:  # told before: its worker was lost after its last report, and it was run again
            return
        self._view.trial_ended(trial, finished)
        self.search.ended(work, self._outcome(trial, finished), finished.seconds)
        self._show()
        self._ended += 1
        compact_on_the_way(self._ledger.results, self._ended, self._view.note)

    def _outcome(self, trial: PlannedTrial, finished: Finished) -> Figures | Failure:
        if finished.status != "completed":
            return Failure(finished.message, is_final=finished.reason in OWN_FAULT)
        return self._ledger.figures(trial)[trial.key]

    def _show(self, *, is_end: bool = False) -> None:
        if self._mirror is None:
            return
        try:
            for told, standing in zip(self.search.told(), self.search.standings, strict=True):
                is_open = standing.state in ("stopped", "continued") and not is_end  # it may still go on
                if not is_open and (standing.failure is None or standing.failure.is_final):
                    self._mirror.show(standing.suggestion.number, told)
        except Exception as error:  # whatever a database's driver raises: the search itself does not need it
            self._warn(without_passwords(f"--storage {self._mirror.storage} is no longer written: {type(error).__name__}: {error}"))
            self._mirror = None

    def close(self) -> None:
        """Show in the mirror what was left at a rung."""
        self._show(is_end=True)


SearchExecutor = Callable[[Job, Sequence[Stage], Feed, View], None]


@dataclass(frozen=True)
class Searched:
    """A search at its end: every suggestion's standing, the seconds that sampler and rungs took, and the seconds from the first trial to the last."""

    search: Search
    seconds: float


def run_search(
    plan: SearchPlan,
    splits: Splits,
    results_root: Root,
    data_root: Path | None,
    execute: SearchExecutor,
    view: View,
    *,
    warm: Sequence[Proposal] = (),
    storage: str | None = None,
    retry_failed: bool = False,
    gpus: float = 0.0,
    warn: Warn,
    spreads_data: bool = False,
) -> Searched:
    """Run a search until its budget is spent and nothing is left to promote; go on where an earlier run was interrupted.

    Raises:
        ValueError: If the results root cannot be used.
        KeyboardInterrupt: If interrupted; what was computed is stored, and running again continues.
    """
    budget = plan.space.budget
    if not gpus and budget.gpu_hours is not None and budget.trials is None and budget.seconds is None:
        raise ValueError("this search is bounded by GPU-hours alone, and its trials use no GPU, so it would never end; give --trials or --minutes")
    results = Results(results_root, create=True)
    mirror = Mirror(plan.space, storage, f"{plan.sweep}-{plan.search_id[:8]}") if storage else None
    record_run(plan.base, plan.search_id, plan.space.most_trials, splits, results)
    ledger = Ledger(plan, results, retry_failed)
    begun = ledger.begun()
    ledger.announce(begun)
    search = Search(plan.space, plan.make, begun=begun, warm=warm, settle=plan.settle, remember=ledger.remember, look_up=ledger.look_up, gpus=gpus)
    search.gpu_seconds = ledger.gpu_seconds(gpus, search.standings)
    artifacts = Artifacts(results.store)
    stages = [stage for stage in plan.base.stages if not artifacts.has(stage.kind, stage.key)]
    done = sum(standing.state in ("completed", "continued", "failed") for standing in search.standings)
    view.begin(plan.title, stages, expected_runs(plan, search), done)
    feed = Feed(search, ledger, view, mirror, warn)
    job = job_of(plan.sweep, results, data_root, splits if spreads_data else None)
    since = time.monotonic()
    execute(job, stages, feed, view)
    seconds = time.monotonic() - since
    ledger.record_left(search.standings)
    feed.close()
    results.compact()
    return Searched(search, seconds)


def expected_runs(plan: SearchPlan, search: Search) -> int:
    """Return about how many runs are left of a search: those begun, and of each trial that is still to be asked for; 0 without a bound of trials."""
    trials = max(0, plan.space.most_trials - search.num_asked)
    return search.num_begun + round(sum(runs for _, runs in expected_by_rung(plan, trials)))


def expected_by_rung(plan: SearchPlan, trials: int) -> list[tuple[int | None, float]]:
    """Return (epochs, how many of so many trials reach that) for each rung that trials have, and last (None, how many are run at full length).

    Of a population, that is how many of its members reach each generation.
    """
    space = plan.space
    if space.scheduler == "pbt":
        members = [float(min(space.population, max(0, trials - space.population * before))) for before in range(space.generations)]
        return list(zip([*space.rungs, None], members, strict=True))
    found, going = [], float(trials)
    for trial in plan.base.trials[:-1]:
        found.append((trial.config.training.num_epochs, going))
        going *= promoted_share(round(going), scheduler=space.scheduler, reduction=space.reduction)
    return [*found, (None, going)]


def inline_search(job: Job, stages: Sequence[Stage], feed: Feed, view: View) -> None:
    """Do everything in this process, one after the other."""
    for stage in stages:
        view.stage_started(stage)
        perform_stage(job, stage)
        view.stage_ended(stage)
    while (trial := feed.next()) is not None:

        def hear(stage: str, done: int, total: int, figures: dict[str, float], trial: PlannedTrial = trial) -> None:
            view.trial_progress(trial, stage, done, total, figures)

        feed.ended(trial, perform_trial(job, trial, hear))
