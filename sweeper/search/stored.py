"""A search as the tables have it: every trial it proposed, what became of it, and which of them no other beats. Neither torch, Ray nor Optuna."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sweeper.checks.gate import TRIAL_COLUMNS, planned_of, read_scores, validity
from sweeper.ranking import CELL, costs_of, on_clean_images, trial_figures
from sweeper.results import Readable, Results
from sweeper.search.rungs import layer_of
from sweeper.search.space import Constraint, Objective
from sweeper.stored_plans import Key, latest_plan, states, title_of

_COSTS = ["trial_id", "psnr", "parameters", "train_seconds", "score_seconds"]


@dataclass(frozen=True)
class StoredTrial:
    """One suggestion of a stored search.

    Attributes:
        state: `completed`, `stopped` at a rung, `continued`, `failed` (also without a figure that is needed), or `missing`: not finished yet.
            `continued`: a member's earlier generation, scored, which the member goes on from with its own phases or another's.
        figures: At full length, on validation images; None unless completed. Intervals over images as `_NAME_ci`.
        rungs: Epochs -> figures there, of those rungs that it reached.
        failed_checks: The validity checks that it fails.
        member, generation, parent: Of a population: the number that the member began with, the generation from 1, and the number of the suggestion
            whose weights it goes on from.
    """

    number: int
    label: str
    source: str
    params: Mapping[str, Any]
    distributions: Mapping[str, str]
    settings: Mapping[str, Any]
    key: Key | None
    state: str
    figures: Mapping[str, Any] | None
    rungs: Mapping[int, Mapping[str, Any]]
    failed_checks: tuple[str, ...]
    message: str
    asked: datetime
    member: int | None = None
    generation: int | None = None
    parent: int | None = None
    sampler_state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredSearch:
    """A search under a results root. `planned`: its rows of `sweeps`."""

    sweep: str
    search_id: str
    dataset: str
    title: str
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    sampler: str
    scheduler: str
    trials: tuple[StoredTrial, ...]
    planned: tuple[dict[str, Any], ...]

    def values(self, trial: StoredTrial) -> tuple[float, ...] | None:
        """Return a completed trial's objectives; None where one is missing."""
        values = [None if trial.figures is None else trial.figures.get(objective.column) for objective in self.objectives]
        return None if any(value is None for value in values) else tuple(float(value) for value in values if value is not None)

    def is_feasible(self, trial: StoredTrial) -> bool:
        """Say whether a completed trial keeps all constraints."""
        found = [(constraint, (trial.figures or {}).get(constraint.column)) for constraint in self.constraints]
        return all(value is not None and constraint.violation(value) <= 0 for constraint, value in found)

    def candidates(self) -> list[StoredTrial]:
        """Return what may be chosen: completed, feasible, no validity check failed, one of several equal suggestions."""
        found = [one for one in self.trials if self.values(one) is not None and self.is_feasible(one) and not one.failed_checks]
        return list({one.key: one for one in reversed(found)}.values())[::-1]

    def ordered(self) -> list[StoredTrial]:
        """Return the candidates best first: by how many layers of dominance lie above each, then by the first objective."""
        candidates = self.candidates()
        layers = dict(zip((one.number for one in candidates), self._layers(candidates), strict=True))
        return sorted(candidates, key=lambda one: (layers[one.number], -self._upward(one)[0]))

    def pareto(self) -> list[StoredTrial]:
        """Return the candidates that no other beats in all objectives, best in the first objective first; for one objective the best."""
        candidates = self.candidates()
        front = [one for one, layer in zip(candidates, self._layers(candidates), strict=True) if layer == 0]
        return sorted(front, key=lambda one: -self._upward(one)[0])

    def _layers(self, trials: Sequence[StoredTrial]) -> list[int]:
        return layer_of([self._upward(one) for one in trials]) if trials else []

    def _upward(self, trial: StoredTrial) -> list[float]:
        return [objective.sign * value for objective, value in zip(self.objectives, self.values(trial) or (), strict=True)]


def read_search(results: Results, sweep: str, dataset: str | None = None, plan_hash: str | None = None) -> StoredSearch:
    """Return the search that was last run under that name (on that data set), or the one named.

    Raises:
        ValueError: If there is none.
    """
    planned = latest_plan(results, sweep, dataset, plan_hash, split="validation")
    search_id = planned[0]["plan_hash"]
    rows = sorted(results.read("suggestions", where={"plan_hash": search_id}).to_pylist(), key=lambda row: row["number"])
    if not rows:
        raise ValueError(f"{planned[0]['sweep']} is an ablation: its variants were listed, not searched for; `compare` and `pareto` read it")
    state = states(results, planned)
    objectives = tuple(Objective(column, direction) for column, direction in json.loads(rows[0]["objectives"]).items())
    constraints = tuple(Constraint(**one) for one in json.loads(rows[0]["constraints"]))
    columns = [one.column for one in (*objectives, *constraints)]
    figures = stored_figures(results, [key for key, one in state.items() if one["status"] == "completed"], planned[0]["score_epsilon"], columns)
    at_rungs = _at_rungs(results, rows, planned[0]["score_epsilon"], [one.column for one in objectives])
    state = states(results, planned)  # again: reading finds the parts that are damaged inside, and those trials are missing
    failed = failed_checks(results, planned)
    trials = []
    for row in rows:
        key = (row["trial_id"], row["evaluation_id"]) if row["trial_id"] else None
        became = {"status": "failed", "message": row["problem"]} if key is None else state.get(key, {"status": "missing"})
        absent = [column for column in columns if _is_absent(figures.get(key, {}).get(column))] if key else []
        if became["status"] == "completed" and absent:
            became = {"status": "failed", "message": f"no figure for {', '.join(absent)}"}
        trials.append(
            StoredTrial(
                number=row["number"],
                label=row["label"],
                source=row["source"],
                params=json.loads(row["params"]),
                distributions=json.loads(row["distributions"]),
                settings=json.loads(row["settings"]),
                key=key,
                state=became["status"],
                figures=figures.get(key) if key and became["status"] == "completed" else None,
                rungs={e: found for e, name in zip(row["rung_epochs"], row["rung_trial_ids"], strict=True) if (found := at_rungs.get(name))},
                failed_checks=tuple(failed.get(key, ())) if key else (),
                message=became.get("message") or "",
                asked=row["asked"],
                **{name: row[name] for name in ("member", "generation", "parent")},
                sampler_state=json.loads(row["sampler_state"]) if row["sampler_state"] else {},
            )
        )
    first = planned[0]
    return StoredSearch(
        first["sweep"], search_id, first["dataset"], title_of(results, planned), objectives, constraints,
        rows[0]["sampler"], rows[0]["scheduler"], tuple(trials), tuple(planned),
    )  # fmt: skip


def _is_absent(value: float | None) -> bool:
    return value is None or math.isnan(value)


def stored_figures(results: Readable, keys: Sequence[Key], score_epsilon: float, columns: Sequence[str]) -> dict[Key, dict[str, Any]]:
    """Return key -> the figures of completed trials: those of `rank`, and every cell that is asked for; intervals over images as `_NAME_ci`.

    Args:
        keys: Of trials with rows under their evaluation.
        columns: What is needed; only `THREAT/ATTACK@EPSILON` makes a difference.
    """
    if not keys:
        return {}
    found: dict[Key, dict[str, Any]] = {key: {} for key in keys}
    for by in [column for column in columns if CELL.match(column)] or ["robust_score"]:
        for key, figures in trial_figures(results, set(keys), score_epsilon, by).items():
            found[key] |= {name: value for name, value in figures.items() if name != "_images"}
    _, psnr = on_clean_images(results, {evaluation for _, evaluation in keys})
    rows = {row["trial_id"]: row for row in results.read("trials", _COSTS, {"trial_id": [trial for trial, _ in keys]}).to_pylist()}
    for key in keys:
        if key[0] in rows:
            found[key] |= costs_of(rows[key[0]], psnr.get(key))
    return found


def _at_rungs(results: Results, rows: Sequence[Mapping[str, Any]], score_epsilon: float, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return trial_id -> figures of the runs at rungs that are completed."""
    found: dict[str, dict[str, Any]] = {}
    for evaluation in {row["rung_evaluation_id"] for row in rows} - {None}:
        names = {name for row in rows if row["rung_evaluation_id"] == evaluation for name in row["rung_trial_ids"]}
        done = results.read("attempts", ["trial_id"], {"evaluation_id": evaluation, "status": "completed"}).column("trial_id").to_pylist()
        keys = [(name, evaluation) for name in names & set(done)]
        found |= {key[0]: figures for key, figures in stored_figures(results, keys, score_epsilon, columns).items()}
    return found


def failed_checks(results: Readable, planned: Sequence[dict[str, Any]], outcome: str = "fail") -> dict[Key, list[str]]:
    """Return key -> the validity checks of completed trials that end so (`fail`, or `warn`); nothing for those without any."""
    trials = {row["trial_id"]: row for row in results.read("trials", list(TRIAL_COLUMNS)).to_pylist()}
    found: dict[Key, set[str]] = {}
    for one in validity(results, planned_of(planned, trials), read_scores(results, planned)):
        if one.kind == "validity" and one.outcome == outcome:
            found.setdefault(one.key, set()).add(one.check)
    return {key: sorted(checks) for key, checks in found.items()}
