"""A search in the tables: what was proposed (`suggestions`), the trials that became of it (`sweeps` and all that follows), and both again.

Nothing else is needed to go on with a search: which trials are finished, failed or stopped is read off the trials' own rows.
"""

import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sweeper.canonical import canonical_json
from sweeper.keys import part_key
from sweeper.parquet import Where, narrowed
from sweeper.plan import PlannedTrial
from sweeper.results import Readable, Results
from sweeper.search.plan import SearchPlan
from sweeper.search.standing import Failure, Figures, Standing, Step, Suggestion
from sweeper.search.stored import failed_checks, stored_figures
from sweeper.search.study import GENERATION, VALIDITY, Proposal
from sweeper.stored_plans import Key, in_order
from sweeper.sweep import own_failures, record_evaluation, sweeps_row

_KEPT_STATE = (GENERATION,)  # plain numbers; what CMA-ES notes is a pickle, and it begins anew around the best instead


@dataclass
class Ledger:
    """Reads and writes one search under one results root."""

    plan: SearchPlan
    results: Results
    retry_failed: bool = False

    def __post_init__(self) -> None:
        self._known: dict[Key, Figures | Failure] = {}
        self._recorded: set[str] = set()  # evaluations that are stored

    def begun(self) -> list[Suggestion]:
        """Return the suggestions of earlier runs in order, and read what became of their trials.

        Raises:
            ValueError: If this version of the code would run one of them differently: their figures would not be those of the same trials.
        """
        where = {"sweep": self.plan.sweep, "plan_hash": self.plan.search_id}
        rows = sorted(self.results.read("suggestions", where=where).to_pylist(), key=lambda row: row["number"])
        found = []
        for row in rows:
            state = json.loads(row["sampler_state"]) if row["sampler_state"] else {}
            proposal = Proposal(json.loads(row["params"]), json.loads(row["distributions"]), {}, state)
            settings = json.loads(row["settings"])
            steps: tuple[Step, ...] = ()
            problem = ""
            try:
                steps = tuple(self.plan.make(settings, row["number"]))
            except ValueError as error:
                problem = row["problem"] or str(error)
            steps = steps[-1:] if row["source"] == "warm_start" else steps
            if row["trial_id"] != (steps[-1].run.trial_id if steps else None):
                raise ValueError(
                    f"the code has changed since trial {row['label']} of {self.plan.sweep} was proposed, and would train or attack it differently; "
                    "another --search-seed begins a new search, which takes over what has stayed the same"
                )
            while len(found) < row["number"]:  # its file was damaged, and moved away
                found.append(Suggestion(len(found), "sampled", Proposal({}, {}, {}), {}, (), "its row of table suggestions is lost"))
            place = {name: row[name] for name in ("member", "generation", "parent")}
            found.append(Suggestion(row["number"], row["source"], proposal, settings, steps, problem, **place))
        trials = [step.run for suggestion in found for step in suggestion.steps]
        self._known = self._figures(trials) | self._failures(trials)
        return found

    def remember(self, suggestion: Suggestion) -> None:
        """Store a suggestion and its place in the sweep, before any of it is run.

        Raises:
            ValueError: If another process has stored one under this number: two runs of one search at once.
        """
        trials = [step.run for step in suggestion.steps]
        state = {name: value for name, value in suggestion.proposal.sampler_state.items() if name in _KEPT_STATE}
        *rungs, full = trials or [None]
        row = {
            "sweep": self.plan.sweep, "plan_hash": self.plan.search_id, "number": suggestion.number, "label": suggestion.label,
            "source": suggestion.source, "params": canonical_json(suggestion.proposal.params),
            "distributions": canonical_json(suggestion.proposal.distributions), "settings": canonical_json(suggestion.settings),
            "sampler_state": canonical_json(state) if state else None, "problem": suggestion.problem or None,
            "trial_id": full.trial_id if full else None, "evaluation_id": full.evaluation_id if full else None,
            "rung_epochs": [trial.config.training.num_epochs for trial in rungs], "rung_trial_ids": [trial.trial_id for trial in rungs],
            "rung_evaluation_id": rungs[0].evaluation_id if rungs else None,
            "objectives": json.dumps({one.column: one.direction for one in self.plan.space.objectives}),
            "constraints": json.dumps([vars(one) for one in self.plan.space.constraints]), "sampler": self.plan.space.sampler,
            "scheduler": self.plan.space.scheduler, "asked": datetime.now(UTC), "member": suggestion.member, "generation": suggestion.generation,
            "parent": suggestion.parent,
        }  # fmt: skip
        if not self.results.publish("suggestions", part_key("suggestions", self.plan.search_id, str(suggestion.number)), [row]):
            raise ValueError(f"another run of this search has stored trial {suggestion.label} meanwhile; one search is run by one command at a time")
        self.announce([suggestion])

    def announce(self, suggestions: Iterable[Suggestion]) -> None:
        """Store the suggestions' places in the sweep, so that `status`, `rank` and `show` know them; what is stored stays."""
        for suggestion in suggestions:
            if suggestion.steps:
                trial: PlannedTrial = suggestion.steps[-1].run
                if trial.evaluation_id not in self._recorded:
                    record_evaluation(trial, self.results)
                    self._recorded.add(trial.evaluation_id)
                part = part_key("sweeps", self.plan.search_id, trial.trial_id, trial.evaluation_id)
                self.results.publish("sweeps", part, [sweeps_row(self.plan.sweep, self.plan.search_id, self.plan.scale, trial)])

    def look_up(self, step: Step) -> Figures | Failure | None:
        """Return what is known of a step's trial: its figures, its own failure, or nothing."""
        trial: PlannedTrial = step.run
        if trial.key not in self._known and all(self.results.has(*part.split("/", 1)) for part in trial.parts):
            self._known |= self.figures(trial)
        return self._known.get(trial.key)

    def figures(self, trial: PlannedTrial) -> dict[Key, Figures]:
        """Return the figures of a trial that is just completed, how many validity checks it fails among them."""
        mine = _OneTrial(self.results, trial)
        found = stored_figures(mine, [trial.key], trial.evaluation.score_epsilon, self.plan.columns_of(trial))
        return self._checked(mine, [trial], found)

    def record_left(self, standings: Sequence[Standing]) -> None:
        """Append a row to `attempts` for each trial that got no further than a rung: it was left there, or its run there failed."""
        left: dict[Key, Standing] = {}
        for one in standings:
            if one.state == "stopped" or (one.state == "failed" and len(one.reached) < len(one.suggestion.steps) - 1):
                left.setdefault(one.suggestion.steps[-1].key, one)  # of equal suggestions the first
        rows = in_order(self.results.read("attempts").to_pylist()) if left else []
        for standing in left.values():
            trial: PlannedTrial = standing.suggestion.steps[-1].run
            mine = [row for row in rows if (row["trial_id"], row["evaluation_id"]) == trial.key]
            became = self._stopped(trial, standing) if standing.failure is None else self._failed(trial, standing, standing.failure, rows)
            if mine and all(mine[-1][name] == value for name, value in became.items()):
                continue
            now, attempt = datetime.now(UTC), len(mine) + 1
            row: dict[str, Any] = {
                "trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id, "attempt": attempt, "host": socket.gethostname(),
                "started": now, "ended": now, **became,
            }  # fmt: skip
            self.results.publish("attempts", part_key("attempts", trial.trial_id, trial.evaluation_id, str(attempt)), [row])

    def _stopped(self, trial: PlannedTrial, standing: Standing) -> dict[str, Any]:
        at: PlannedTrial = standing.suggestion.steps[len(standing.reached) - 1].run
        figures = [(name, value) for name, value in standing.reached[-1].items() if name in self.plan.space.columns and value is not None]
        reached = " ".join(f"{name} {value:.4g}" for name, value in figures)
        message = f"{_named(trial)}: not among those that went on after {_epochs(at)} ({reached}), trial {at.trial_id[:8]}"
        return {"status": "stopped", "reason": self.plan.space.scheduler, "message": message}

    def _failed(self, trial: PlannedTrial, standing: Standing, failure: Failure, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        at: PlannedTrial = standing.suggestion.steps[len(standing.reached)].run
        last = [row for row in rows if (row["trial_id"], row["evaluation_id"]) == at.key and row["status"] == "failed"][-1:]
        message = f"{_named(trial)}: its run of {_epochs(at)} failed: {failure.message}"
        # no reason of its own: at full length nothing has failed, and a sweep without rungs may run it
        return {"status": "failed", "reason": "rung", "message": message, "log": last[0]["log"] if last else None}

    def gpu_seconds(self, gpus: float, standings: Sequence[Standing]) -> float:
        """Return the GPU-seconds that the trials of this search took so far, with so many GPUs for each."""
        keys = {step.key for standing in standings for step in standing.suggestion.steps}
        columns = ["trial_id", "evaluation_id", "started", "ended"]
        rows = self.results.read("attempts", columns, {"status": "completed"}).to_pylist() if gpus else []
        return gpus * sum((row["ended"] - row["started"]).total_seconds() for row in rows if (row["trial_id"], row["evaluation_id"]) in keys)

    def _figures(self, trials: Sequence[PlannedTrial]) -> dict[Key, Figures]:
        stored = {f"{table}/{part}" for table in {p.partition("/")[0] for t in trials for p in t.parts} for part in self.results.stored(table)}
        done = [trial for trial in trials if all(part in stored for part in trial.parts)]
        found: dict[Key, Figures] = {}
        for evaluation in {trial.evaluation_id for trial in done}:
            alike = [trial for trial in done if trial.evaluation_id == evaluation]
            figures = stored_figures(self.results, [t.key for t in alike], alike[0].evaluation.score_epsilon, self.plan.columns_of(alike[0]))
            found |= self._checked(self.results, alike, figures)
        damaged = {str(problem.path) for problem in self.results.skipped}  # found by reading: a worst case over fewer attacks says too much
        whole = {t.key for t in done if not damaged or all(self.results.has(*part.split("/", 1)) for part in t.parts)}
        return {key: figures for key, figures in found.items() if key in whole}

    def _checked(self, tables: Readable, trials: Sequence[PlannedTrial], figures: Mapping[Key, dict[str, Any]]) -> dict[Key, Figures]:
        if not trials[0].evaluation.is_checked:
            return dict(figures)
        failed = failed_checks(tables, [sweeps_row(self.plan.sweep, self.plan.search_id, self.plan.scale, trial) for trial in trials])
        return {key: {**each, VALIDITY: float(len(failed.get(key, ())))} for key, each in figures.items()}

    def _failures(self, trials: Sequence[PlannedTrial]) -> dict[Key, Failure]:
        failed = {} if self.retry_failed else own_failures(self.results, trials)
        return {key: Failure(row["message"] or row["reason"]) for key, row in failed.items()}


def _named(trial: PlannedTrial) -> str:
    return f"trial {trial.trial_id[:8]} ({trial.label})"


def _epochs(trial: PlannedTrial) -> str:
    epochs = trial.config.training.num_epochs
    return f"{epochs} epoch{'s' * (epochs > 1)}"


class _OneTrial:
    """The rows of one completed trial: a dozen files are opened by name, once, where a whole table would be read."""

    def __init__(self, results: Results, trial: PlannedTrial) -> None:
        self._results, self._parts = results, [part.partition("/") for part in trial.parts]
        self._tables: dict[str, Any] = {}

    def read(self, table: str, columns: Sequence[str] | None = None, where: Where | None = None):
        """Return rows as `Results.read` does."""
        if table not in self._tables:
            keys = [key for name, _, key in self._parts if name == table]
            if not keys:  # a table that is of no one trial
                return self._results.read(table, columns, where)
            self._tables[table] = self._results.read_parts(table, keys)
        return narrowed(self._tables[table], columns, where)
