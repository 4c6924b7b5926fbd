"""What one process does for a sweep, under Ray or not: make a shared stage, or run a trial to its end whatever happens in it.

A trial that fails by itself becomes an `attempts` row with its reason, message and log; the sweep goes on. A process that dies leaves nothing, and
the trial is run again from its last checkpoint.
"""

import ctypes
import gc
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from attacks._linf import NoGradient
from sweeper.artifacts import Artifacts, StorageError, reading, storing
from sweeper.escalation import Probe
from sweeper.keys import part_key
from sweeper.logs import close_log, open_log
from sweeper.lookup import register_sources
from sweeper.materials import Materials, Progress, no_progress
from sweeper.networks import purifier_of, retrained_of
from sweeper.plan import PlannedTrial
from sweeper.probing import strength_row
from sweeper.results import Results
from sweeper.stages import Stage
from sweeper.storage import Store
from sweeper.training import Diverged
from sweeper.trial import Rows, run_trial


@dataclass(frozen=True)
class Job:
    """What every process of a sweep needs to know; it travels with the work."""

    sweep: str
    store: Store  # the results root
    data_root: Path | None
    sources: Mapping[str, str] = field(default_factory=dict)  # of the user's own files
    takes_data_from_root: bool = False  # the images lie in the root, since not every node can have the data set's files

    def log_name(self, name: str) -> str:
        return f"logs/{self.sweep.replace('/', '_').removeprefix('file:')}/{name}.log"

    def log_shown(self, name: str) -> str:
        """Return where a log lies, for people."""
        return self.store.shown(self.log_name(name))


@dataclass(frozen=True)
class Finished:
    """How a trial ended: `completed` with its figures, or `failed` with a reason and a message."""

    trial_id: str
    evaluation_id: str
    status: str
    reason: str | None = None
    message: str = ""
    log: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Return the planned trial's key."""
        return self.trial_id, self.evaluation_id


_materials: dict[tuple[str, Path | None, bool], Materials] = {}


def materials_of(job: Job, progress: Progress) -> Materials:
    """Return this process's materials: the data stay in memory from one trial to the next."""
    register_sources(job.sources)
    place = (job.store.url, job.data_root, job.takes_data_from_root)
    if place not in _materials:
        device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
        _materials[place] = Materials(Artifacts(job.store), job.data_root, device, takes_data_from_root=job.takes_data_from_root)
    _materials[place].progress = progress
    return _materials[place]


class StageFailed(RuntimeError):
    """A shared artifact could not be made, so no trial that needs it can be scored."""


def perform_stage(job: Job, stage: Stage, progress: Progress = no_progress) -> str:
    """Make a shared artifact, or find it; return its key.

    A network that belongs to trials and fails (its loss diverges) is theirs to fail with: each comes to it again, and says so in its own row.

    Raises:
        StageFailed: With the reason and the log's path, for a classifier or an adversarial set, which everything needs.
        OSError: If the results root cannot take it.
    """
    torch.set_num_threads(stage.config.numerics.threads)
    try:
        materials = materials_of(job, progress)
        if stage.recipe is not None:
            materials.classifier(stage.config, stage.recipe)
        elif stage.cell is not None:
            materials.adversarial(stage.config, stage.evaluation, stage.cell)
        else:
            purifier = purifier_of(stage.config, materials)
            if stage.kind == "retrained":
                retrained_of(stage.config, materials, materials.classifier(stage.config, stage.config.target), purifier)
    except OSError:
        raise
    except Exception as error:
        job.store.replace(job.log_name(f"stage-{stage.key}"), traceback.format_exc().encode())
        if stage.kind in ("purifiers", "retrained"):
            return stage.key
        raise StageFailed(f"{stage.title} failed ({type(error).__name__}: {error}); log: {job.log_shown(f'stage-{stage.key}')}") from error
    return stage.key


def perform_trial(job: Job, trial: PlannedTrial, progress: Progress = no_progress) -> Finished:
    """Run a trial and say how it ended. What is no `Exception` (a kill, Ctrl-C) gets out, and a StorageError where log or row cannot be written."""
    started = datetime.now(UTC)
    path = job.log_shown(trial.trial_id)
    with storing(path):
        log = open_log(job.store, job.log_name(trial.trial_id))
    log.info("STARTED %s (%s), seed %d: %s", trial.label, trial.trial_id, trial.config.seed, trial.config.model_dump_json())

    def hear(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        log.info("%s %d/%d %s", stage, done, total, " ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        progress(stage, done, total, figures)

    try:
        with reading(job.store.url):
            results = Results(job.store)
            attempt = _next_attempt(results, trial)

        def publish(table: str, part: str, rows: Rows) -> None:
            with storing(job.store.shown(results.folder.part_name(table, part))):
                results.publish(table, part, rows)

        summary = run_trial(trial.config, trial.evaluation, materials_of(job, hear), publish, attempt)
    except Exception as error:  # the trial's own failure is a result: it becomes a row, and the sweep goes on
        reason, message = reason_of(error), f"trial {trial.trial_id[:8]} ({trial.label}): {error or type(error).__name__}"
        log.error("%s\n%s", message, traceback.format_exc())
        record_failure(job, trial, reason, message, started)
        return Finished(*trial.key, "failed", reason, message, path, seconds=_since(started))
    else:
        figures = {name: value for name, value in vars(summary).items() if value is not None}
        log.info("COMPLETED %s", " ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    finally:
        close_log(log)
        _give_back_memory()
    return Finished(*trial.key, "completed", figures=figures, log=path, seconds=_since(started))


def perform_probe(job: Job, probe: Probe, progress: Progress = no_progress) -> str | None:
    """Attack a trial again and store what that found; return what went wrong with it, if anything did: the sweep's trials stand all the same.

    Raises:
        OSError: If the results root cannot take it.
    """
    trial = probe.trial
    torch.set_num_threads(trial.config.numerics.threads)
    try:
        row = strength_row(trial.config, trial.evaluation, materials_of(job, progress), probe.level, probe.check, probe.siblings)
    except OSError:
        raise
    except Exception as error:  # said by whoever runs the sweep; the check stays `not run`
        log = f"{trial.trial_id}-{probe.check}"
        job.store.replace(job.log_name(log), traceback.format_exc().encode())
        return f"{probe.title} failed ({type(error).__name__}: {error}); log: {job.log_shown(log)}"
    named = {"trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id}
    Results(job.store).publish("checks", probe.part, [named | row])
    return None


def record_failure(job: Job, trial: PlannedTrial, reason: str, message: str, started: datetime, host: str | None = None) -> None:
    """Append a failed try to `attempts`.

    Args:
        host: Where it ran; None: here, or not known.

    Raises:
        StorageError: If even that cannot be written; the log has the message then.
    """
    with reading(job.store.url):
        results = Results(job.store)
        attempt = _next_attempt(results, trial)
    row: dict[str, Any] = {
        "trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id, "attempt": attempt, "status": "failed", "reason": reason,
        "message": message, "log": job.log_shown(trial.trial_id), "host": host or socket.gethostname(), "started": started,
        "ended": datetime.now(UTC),
    }  # fmt: skip
    part = part_key("attempts", trial.trial_id, trial.evaluation_id, str(attempt))
    with storing(job.store.shown(results.folder.part_name("attempts", part))):
        results.publish("attempts", part, [row])


def reason_of(error: BaseException) -> str:
    """Return the class of a failure: nan, gradient (the adaptive attacker got none), oom, storage or bug."""
    if isinstance(error, Diverged):
        return "nan"
    if isinstance(error, NoGradient):
        return "gradient"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in (None, 5, 28, 30, 122)):
        return "storage"
    return "bug"


def _next_attempt(results: Results, trial: PlannedTrial) -> int:
    def taken(word: str) -> bool:
        return results.has("attempts", part_key("attempts", trial.trial_id, trial.evaluation_id, word))

    attempt = 1
    while taken(str(attempt)):
        attempt += 1
    if taken("completed"):  # its number is the first that no failure has
        attempt += 1
        while taken(str(attempt)):
            attempt += 1
    return attempt


def _since(started: datetime) -> float:
    return (datetime.now(UTC) - started).total_seconds()


def _give_back_memory() -> None:
    """Return freed memory to the system: a process runs many trials, and without this it grew by 90 MB with each (glibc keeps torn pages)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
