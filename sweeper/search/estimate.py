"""What a search costs before it runs: trials per rung, seconds and money, from what was measured under this results root."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sweeper.artifacts import Artifacts
from sweeper.plan import PlannedTrial
from sweeper.results import Results
from sweeper.search.plan import SearchPlan
from sweeper.search.running import expected_by_rung
from sweeper.storage import Root, is_root

# Seconds of a VQUNet on digits at `small` on one core of a 2-core machine, used until this root has measured trials of the data set and scale.
_GUESS = {"epoch": 1.3, "retrain": 2.5, "quick": 4.0, "standard": 16.0, "full": 6000.0, "stage": 12.0}
_PHOTOGRAPHS = 3.5  # as many times that, on 32×32 photographs
_FRONT = 4  # trials of a Pareto set, scored on the test images at the end


def describe(plan: SearchPlan, root: Root, *, slots: int, price_per_hour: float | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row per rung, with how many trials reach it and the seconds of each, and notes with the totals.

    Args:
        slots: How many trials run at once.
        price_per_hour: Of the machine or cluster, in any currency.

    Raises:
        ValueError: If the price is negative.
    """
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise ValueError(f"--price-per-hour must be at least 0, got {price_per_hour:g}")
    measured = _Measured(plan, root)
    artifacts = Artifacts(root)
    to_make = [stage for stage in plan.base.stages if not artifacts.has(stage.kind, stage.key)]
    rows: list[dict[str, Any]] = [
        {"what": "shared stages", "epochs": None, "evaluation": None, "trials": len(to_make), "seconds_each": measured.guess("stage")}
    ]
    whole: PlannedTrial = plan.base.trials[-1]
    is_population = plan.space.scheduler == "pbt"
    for place, (epochs, trials) in enumerate(expected_by_rung(plan, plan.space.most_trials), 1):
        name, length = ("quick", epochs) if epochs else (whole.evaluation.name, whole.config.training.num_epochs)
        each = measured.training(plan.space.phase_epochs if is_population else length) + measured.scoring(name)
        what = f"generation {place}" if is_population else "rung" if epochs else "full length"
        rows.append({"what": what, "epochs": length, "evaluation": f"{name}, validation", "trials": round(trials), "seconds_each": round(each, 1)})
    front = measured.scoring(whole.evaluation.name) + measured.guess("standard")  # and attacked again by the checks
    most = _FRONT if len(plan.space.objectives) > 1 else 1
    front_trials = min(most, rows[-1]["trials"]) or most
    rows.append({"what": "Pareto set", "epochs": None, "evaluation": f"{whole.evaluation.name}, test", "trials": front_trials, "seconds_each": front})
    for row in rows:
        row["seconds"] = round(row["trials"] * row["seconds_each"], 1)
    notes = _notes(plan, rows, slots, price_per_hour, measured.trials)
    if proposed := _proposed(plan, root):
        notes.append(f"{proposed} of its trials are proposed already; the figures are of the whole budget, and what is stored costs nothing again")
    return rows, notes


def _proposed(plan: SearchPlan, root: Root) -> int:
    if not is_root(root):
        return 0
    return Results(root).read("suggestions", ["number"], {"plan_hash": plan.search_id}).num_rows


class _Measured:
    """Seconds per epoch and per evaluation of the trials of the data set and scale under this root, where there are any."""

    def __init__(self, plan: SearchPlan, root: Root) -> None:
        self._factor = 1.0 if plan.dataset == "digits" else _PHOTOGRAPHS
        self.trials = 0
        self._epoch, self._retrain, self._scoring = self.guess("epoch"), self.guess("retrain"), {}
        if not is_root(root):
            return
        results = Results(root)
        mine = {"dataset": plan.dataset, "scale": plan.scale}
        columns = ["trial_id", "model", "train_seconds", "score_seconds", "num_epochs", "started"]
        rows = {row["trial_id"]: row for row in results.read("trials", columns, {**mine, "model": plan.base.trials[-1].config.model}).to_pylist()}
        epochs = results.read("epochs", ["trial_id", "stage", "seconds"]).to_pylist()
        by_stage = {
            stage: [row["seconds"] for row in epochs if row["trial_id"] in rows and row["stage"] == stage] for stage in ("purifier", "retrain")
        }
        self.trials = len(rows)
        if by_stage["purifier"]:
            self._epoch = float(np.mean(by_stage["purifier"]))
            self._retrain = sum(by_stage["retrain"]) / max(1, len(rows))
        ways = {
            row["evaluation_id"]: row["name"] for row in results.read("evaluations", ["evaluation_id", "name"], {"dataset": plan.dataset}).to_pylist()
        }
        seen: dict[str, list[float]] = {}
        for row in results.read("attempts", ["trial_id", "evaluation_id", "started"], {"status": "completed"}).to_pylist():
            trial = rows.get(row["trial_id"], {})  # its seconds are of its first scoring
            if row["evaluation_id"] in ways and trial.get("score_seconds") and trial["started"] == row["started"]:
                seen.setdefault(ways[row["evaluation_id"]], []).append(rows[row["trial_id"]]["score_seconds"])
        self._scoring = {name: float(np.median(seconds)) for name, seconds in seen.items()}

    def guess(self, what: str) -> float:
        return _GUESS[what] * self._factor

    def training(self, epochs: int) -> float:
        return epochs * self._epoch + self._retrain

    def scoring(self, evaluation: str) -> float:
        return self._scoring.get(evaluation, self.guess(evaluation))


def _notes(plan: SearchPlan, rows: Sequence[dict[str, Any]], slots: int, price: float | None, measured: int) -> list[str]:
    total = sum(row["seconds"] for row in rows) / slots
    source = f"from {measured} measured trials here" if measured else "a rough guess: nothing of this data set and scale is measured here yet"
    budget = plan.space.budget
    bounds = [f"{value:g} {name.replace('_', '-')}" for name, value in vars(budget).items() if value is not None]
    notes = [
        f"budget: {', '.join(bounds)}; sampler {plan.space.sampler}, scheduler {plan.space.scheduler}"
        + (f" (of {plan.space.reduction} so far one goes on from a rung)" if plan.space.scheduler in ("asha", "halving") else "")
        + (f" ({plan.space.population} members, {plan.space.generations} generations)" if plan.space.scheduler == "pbt" else ""),
        f"about {f'{total / 60:.0f} min' if total > 90 else f'{total:.0f} s'} with {slots} at once ({source})"
        + ("" if price is None else f"; cost {price * total / 3600:.2f} at {price:g} per hour"),
        f"optimizes {', '.join(f'{one.column} ({one.direction})' for one in plan.space.objectives)}"
        + (f", with {', '.join(map(str, plan.space.constraints))}" if plan.space.constraints else "") + ", on validation images",
    ]  # fmt: skip
    reached = [trial.config.training.num_epochs for trial in plan.base.trials[:-1]]
    if plan.space.scheduler == "pbt":
        notes.append(f"a generation trains its last phase alone, {plan.space.phase_epochs} epochs, on from the state that is stored of those before")
    elif plan.space.scheduler != "none" and (beyond := [epochs for epochs in plan.space.rungs if epochs not in reached]):
        epochs = " and ".join(map(str, beyond))
        notes.append(f"no proposal that was tried is trained for more than {epochs} epochs, so none is compared at that rung")
    if budget.trials is None and plan.space.scheduler != "pbt":
        notes.append("without a bound of trials, how many reach each rung cannot be said")
    return notes
