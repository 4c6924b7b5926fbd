"""Run a plan: record it, make what is missing, and say how every trial ended. Ray is behind one door (`cluster/`); `inline` needs none."""

import json
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from sweeper.artifacts import Artifacts
from sweeper.canonical import canonical_json
from sweeper.config import TrialConfig
from sweeper.data_in_root import store_splits
from sweeper.datasets import Splits, load
from sweeper.escalation import Probe, Probes, pending
from sweeper.evaluations import EvaluationConfig
from sweeper.keys import part_key
from sweeper.lookup import register_sources, sources
from sweeper.materials import Materials, SampleSet
from sweeper.plan import Plan, PlannedTrial, of_config
from sweeper.provenance import git_commit
from sweeper.results import Results
from sweeper.stages import Stage
from sweeper.storage import Root, is_root
from sweeper.storage.place import without_passwords
from sweeper.stored_plans import in_order
from sweeper.worker import Finished, Job, perform_probe, perform_stage, perform_trial

COMPACT_EVERY = 100  # trials; a trial leaves about 14 parts, and a ranking opens them at about 1 ms each
OWN_FAULT = ("nan", "gradient", "oom", "bug")  # tried again only when asked


class View(Protocol):
    """What watches a sweep: the live display, or plain lines."""

    def begin(self, title: str, stages: Sequence[Stage], num_trials: int, done: int) -> None: ...
    def stage_started(self, stage: Stage) -> None: ...
    def stage_ended(self, stage: Stage) -> None: ...
    def at_once(self, trials: int) -> None: ...
    def trial_begun(self, trial: PlannedTrial, host: str) -> None: ...
    def trial_progress(self, trial: PlannedTrial, stage: str, done: int, total: int, figures: dict[str, float]) -> None: ...
    def trial_ended(self, trial: PlannedTrial, finished: Finished) -> None: ...
    def probe_started(self, probe: Probe) -> None: ...
    def probe_ended(self, probe: Probe, problem: str | None) -> None: ...
    def note(self, text: str) -> None: ...


Executor = Callable[[Job, Sequence[Stage], Sequence[PlannedTrial], View, Probes], list[Finished]]

Order = Callable[[Sequence[PlannedTrial]], list[PlannedTrial]]


@dataclass(frozen=True)
class State:
    """What a results root holds of a plan."""

    missing: list[PlannedTrial]
    stages: list[Stage]
    failed: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # trial's key -> its last failed attempt

    @property
    def runnable(self) -> list[PlannedTrial]:
        return [trial for trial in self.missing if trial.key not in self.failed]


def state_of(plan: Plan, results_root: Root, *, retry_failed: bool = False) -> State:
    """Return what of the plan is missing; nothing is written, and the root need not exist."""
    if not is_root(results_root):
        return State(plan.missing(()), plan.needed(plan.trials, {}))
    results, artifacts = Results(results_root), Artifacts(results_root)
    tables = sorted({part.partition("/")[0] for trial in plan.trials for part in trial.parts})
    stored = {f"{table}/{part}" for table in tables for part in results.stored(table)}
    missing = plan.missing(stored)
    failed = {} if retry_failed else own_failures(results, missing)
    keys = {kind: {stage.key for stage in plan.stages if artifacts.has(kind, stage.key)} for kind in {stage.kind for stage in plan.stages}}
    runnable = [trial for trial in missing if trial.key not in failed]
    return State(missing, plan.needed(runnable, keys), failed)


def own_failures(results: Results, trials: Sequence[PlannedTrial]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return key -> the last attempt of those trials that failed by themselves then, not by a lost worker or a full disk."""
    if not trials:
        return {}
    wanted = {trial.key for trial in trials}
    columns = ["trial_id", "evaluation_id", "attempt", "status", "reason", "message", "log"]
    rows = [row for row in results.read("attempts", columns).to_pylist() if (row["trial_id"], row["evaluation_id"]) in wanted]
    last = {(row["trial_id"], row["evaluation_id"]): row for row in in_order(rows)}
    return {key: row for key, row in last.items() if row["status"] == "failed" and row["reason"] in OWN_FAULT}


def run_sweep(
    plan: Plan,
    splits: Splits,
    results_root: Root,
    data_root: Path | None,
    execute: Executor,
    view: View,
    *,
    retry_failed: bool = False,
    spreads_data: bool = False,
    order: Order = list,
) -> list[Finished]:
    """Run what is missing of a plan and return how it ended, trials that were stored already not among them.

    Args:
        order: In which order trials begin; what is recorded and ranked has the plan's.
        spreads_data: Put the images into the results root for nodes that do not have the data set's files.

    Raises:
        ValueError: If the results root cannot be used.
        KeyboardInterrupt: If interrupted; what was computed is stored, and running again continues.
    """
    results = Results(results_root, create=True)
    record_plan(plan, splits, results)
    state = state_of(plan, results_root, retry_failed=retry_failed)
    view.begin(plan.title, state.stages, len(state.runnable), len(plan.trials) - len(state.missing))
    tried: set[str] = set()

    def probes() -> list[Probe]:
        due = [probe for probe in pending(plan, results) if probe.part not in tried]  # one that failed is not tried twice
        tried.update(probe.part for probe in due)
        return due

    if not state.runnable and not pending(plan, results):
        return []
    job = job_of(plan.sweep, results, data_root, splits if spreads_data else None)
    finished = execute(job, state.stages, order(state.runnable), _Compacting(view, results), probes)
    results.compact()
    return finished


def job_of(sweep: str, results: Results, data_root: Path | None, spread: Splits | None) -> Job:
    """Return what every process of a sweep needs to know, the images in the results root if they are given here."""
    if spread is not None:
        store_splits(Artifacts(results.store), spread)
    return Job(sweep, results.store, data_root, sources(), takes_data_from_root=spread is not None)


class _Compacting:
    """A view that also merges the tables' small files now and then, so that a long sweep can be ranked while it runs."""

    def __init__(self, view: View, results: Results) -> None:
        self.begin, self.stage_started, self.stage_ended = view.begin, view.stage_started, view.stage_ended
        self.at_once, self.trial_begun = view.at_once, view.trial_begun
        self.trial_progress, self.probe_started, self.probe_ended = view.trial_progress, view.probe_started, view.probe_ended
        self.note, self._view, self._results, self._ended = view.note, view, results, 0

    def trial_ended(self, trial: PlannedTrial, finished: Finished) -> None:
        self._view.trial_ended(trial, finished)
        self._ended += 1
        compact_on_the_way(self._results, self._ended, self.note)


def compact_on_the_way(results: Results, ended: int, note: Callable[[str], None]) -> None:
    """Merge the tables' small files whenever COMPACT_EVERY more trials have ended; what fails is said, since the sweep goes on without, too."""
    if ended % COMPACT_EVERY:
        return
    try:
        results.compact()
    except OSError as error:
        note(f"the tables' small files could not be merged now; it is tried again later, and at the end: {error}")


def record_plan(plan: Plan, splits: Splits, results: Results) -> None:
    """Store the plan (`sweeps`) and all that `record_run` stores; what is stored already stays."""
    rows = [sweeps_row(plan.sweep, plan.plan_hash, plan.scale, trial) for trial in plan.trials]
    results.publish("sweeps", part_key("sweeps", plan.plan_hash), rows)
    record_run(plan, plan.plan_hash, len(plan.trials), splits, results)


def sweeps_row(sweep: str, plan_hash: str, scale: str, trial: PlannedTrial) -> dict[str, Any]:
    """Return a trial's row of `sweeps`: its place in the sweep, and what must be stored for it to be complete."""
    return {
        "sweep": sweep, "plan_hash": plan_hash, "trial_id": trial.trial_id, "variant_id": trial.variant_id, "label": trial.label,
        "factor": trial.factor or None, "level": trial.level or None, "is_reference": trial.is_reference,
        "reference_variant_id": trial.reference_variant_id, "seed": trial.config.seed, "evaluation_id": trial.evaluation_id,
        "evaluation": trial.evaluation.name, "dataset": trial.config.dataset, "scale": scale, "parts": list(trial.parts),
        "score_epsilon": trial.evaluation.score_epsilon, "is_candidate": trial.is_candidate,
    }  # fmt: skip


def record_run(plan: Plan, plan_hash: str, num_trials: int, splits: Splits, results: Results) -> None:
    """Store this invocation (`runs`), the plan's ways of scoring, the images, the sample sets, and the user's own files."""
    for trial in {trial.evaluation_id: trial for trial in plan.trials}.values():
        record_evaluation(trial, results)
    results.keep_sources(sources())
    started, host = datetime.now(UTC), socket.gethostname()
    run = {
        "sweep": plan.sweep, "plan_hash": plan_hash, "dataset": plan.dataset, "evaluation_id": plan.trials[0].evaluation_id,
        "command": " ".join(map(without_passwords, sys.argv[1:])), "started": started, "host": host, "trials": num_trials, "git_commit": git_commit(),
    }  # fmt: skip
    results.publish("runs", part_key("runs", plan_hash, host, started.isoformat()), [run])
    samples = [
        {"dataset": plan.dataset, "fingerprint": splits.fingerprint, "sample_id": name, "label": int(label), "split": split}
        for split in ("train", "validation", "test")
        for name, label in zip(getattr(splits, split).sample_ids, getattr(splits, split).labels, strict=True)
    ]
    results.publish("samples", part_key("samples", splits.fingerprint), samples)
    _record_sample_sets(plan, results, splits)


def record_evaluation(trial: PlannedTrial, results: Results) -> None:
    """Store how a trial is scored."""
    row = {
        "evaluation_id": trial.evaluation_id, "name": trial.evaluation.name, "split": trial.evaluation.split, "dataset": trial.config.dataset,
        "fingerprint": trial.config.fingerprint, "config": canonical_json(trial.evaluation),
    }  # fmt: skip
    results.publish("evaluations", part_key("evaluations", trial.evaluation_id), [row])


def _record_sample_sets(plan: Plan, results: Results, splits: Splits) -> None:
    materials = Materials.of_splits(splits)
    for evaluation in plan.evaluations.values():
        for images in {cell.images for cell in evaluation.cells}:
            _record_sample_set(materials.samples(plan.trials[0].config, evaluation, images), plan, evaluation, results)


def _record_sample_set(chosen: SampleSet, plan: Plan, evaluation: EvaluationConfig, results: Results) -> None:
    owner = chosen.transfer_source.tolist() if evaluation.sources else None
    row = {
        "sample_set": chosen.name, "dataset": plan.dataset, "split": chosen.split, "n": len(chosen.sample_ids),
        "sample_ids": list(chosen.sample_ids), "labels": chosen.labels.tolist(), "transfer_source": owner,
    }  # fmt: skip
    results.publish("sample_sets", part_key("sample_sets", chosen.name), [row])


def inline(job: Job, stages: Sequence[Stage], trials: Sequence[PlannedTrial], view: View, probes: Probes) -> list[Finished]:
    """Do everything in this process, one after the other."""
    for stage in stages:
        view.stage_started(stage)
        perform_stage(job, stage)
        view.stage_ended(stage)
    finished = []
    for trial in trials:

        def hear(stage: str, done: int, total: int, figures: dict[str, float], trial: PlannedTrial = trial) -> None:
            view.trial_progress(trial, stage, done, total, figures)

        finished.append(perform_trial(job, trial, hear))
        view.trial_ended(trial, finished[-1])
    while due := probes():
        for probe in due:
            view.probe_started(probe)
            view.probe_ended(probe, perform_probe(job, probe))
    return finished


def run_one(path: Path, results_root: Root, data_root: Path | None) -> Finished:
    """Run the trial of a JSON file in this process: `{"config": …}` or a configuration itself, under the scale's standard evaluation.

    Raises:
        ValueError: If the file cannot be read as a trial's configuration.
    """
    if is_root(results_root):
        register_sources(Results(results_root).kept_sources())
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = TrialConfig.model_validate(values.get("config", values))
        chosen = EvaluationConfig.model_validate(values["evaluation"]) if "evaluation" in values else None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read a trial from {path}: {error}") from error
    splits = load(config.dataset, root=data_root, caps=config.caps)
    plan = of_config(config.model_copy(update={"fingerprint": splits.fingerprint}), chosen)
    results = Results(results_root, create=True)
    record_plan(plan, splits, results)
    job = Job(plan.sweep, results.store, data_root, sources())
    return perform_trial(job, plan.trials[0])
