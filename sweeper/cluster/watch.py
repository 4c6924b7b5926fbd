"""What is heard of trials while Tune runs them."""

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError

from sweeper.claims import abandon
from sweeper.cluster.preflight import Unlike
from sweeper.cluster.run import Run
from sweeper.cluster.supply import Supply
from sweeper.memory import Peak
from sweeper.plan import PlannedTrial
from sweeper.worker import Finished, reason_of, record_failure


class Watch(tune.Callback):
    """Carries what trials report to the view, says how they ended, and writes a row for each that was lost.

    `refusal` is set when a machine must not be computed on; the run ends then.
    """

    def __init__(self, run: Run, supply: Supply) -> None:
        self.run, self.supply = run, supply
        self.refusal: Unlike | None = None
        self._places: dict[str, tuple[str, str, int]] = {}  # Tune's trial -> node id, host and process id
        self._since: dict[str, datetime] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore, which we never ask for; a terminal cannot be pickled

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.run.is_interrupted():
            raise KeyboardInterrupt
        if self.refusal is not None:
            raise self.refusal
        self.run.nodes.want(self.supply.wanted)
        if self.supply.num_running:
            self.run.nodes.say_if_waiting()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._since[trial.trial_id] = datetime.now(UTC)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "finished" in result:
            self.supply.ended(planned(trial), Finished(**result["finished"]), Peak(**result["peak"]))
        elif "progress" in result:
            self.run.view.trial_progress(planned(trial), *result["progress"])
        elif "begun" in result:
            _, host, _ = self._places[trial.trial_id] = tuple(result["begun"])
            if self.run.resources.address is not None:
                self.run.view.trial_begun(planned(trial), host)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = error_of(trial)
        if isinstance(error, RayTaskError) and isinstance(error.cause, Unlike):
            self.refusal = error.cause
            return
        its = planned(trial)
        if not self.supply.is_running(its):  # its process was lost after it had told how the trial ended
            return
        node, host, process = self._places.get(trial.trial_id, (None, None, None))
        if is_of_memory(trial):
            reason, what = "oom", "its process was ended because its node ran out of memory"
        elif node is not None and not self.run.nodes.is_alive(node):
            reason, what = "lost", f"its node {host} was lost; it continues from its last checkpoint"
        elif isinstance(error, RayTaskError):
            reason, what = reason_of(error.cause), f"{type(error.cause).__name__}: {error.cause}"
        else:
            reason, what = "lost", f"its worker process{f' on {host}' if host else ''} was lost; it continues from its last checkpoint"
        message = f"trial {its.trial_id[:8]} ({its.label}): {what}"
        message += self._record(its, reason, message, (host, process), self._since.get(trial.trial_id, datetime.now(UTC)))
        end = Finished(*its.key, "failed", reason, message, self.run.job.log_shown(its.trial_id))
        if reason == "oom":
            self.supply.ran_out(its, end)
        else:
            self.supply.lost(its, node, end)

    def _record(self, trial: PlannedTrial, reason: str, message: str, place: tuple[str | None, int | None], started: datetime) -> str:
        """Write the row and give back the process's claims; return what is to be said if that fails: an exception would end the sweep."""
        try:
            record_failure(self.run.job, trial, reason, message, started, place[0])
            abandon(self.run.job.store, lambda *owner: owner == place)
        except OSError as error:
            return f" (not recorded in attempts: {error})"
        return ""


def planned(trial: Any) -> PlannedTrial:
    """Return our trial of Tune's."""
    return pickle.loads(trial.config["trial"])


def error_of(trial: Any) -> BaseException | None:
    """Return what Tune keeps of why a trial of its own ended, None if it could not be kept."""
    path = trial.pickled_error_file
    return pickle.loads(Path(path).read_bytes()) if path and Path(path).exists() else None


def is_of_memory(trial: Any) -> bool:
    """Say whether Ray ended a trial's process because its node's memory was full; Tune keeps the error's text alone of that."""
    path = trial.error_file
    return bool(path) and Path(path).exists() and "running low on memory" in Path(path).read_text(encoding="utf-8")
