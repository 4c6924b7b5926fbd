"""What the tables say of one trial: one entry per way that it was scored, with its figures and what the checks found. No torch, no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.checks._result import Result
from sweeper.checks.all import run_checks
from sweeper.ranking import short, trial_figures
from sweeper.results import Results
from sweeper.statistics import wilson
from sweeper.stored_plans import key_of_row, states

Row = dict[str, Any]
_SCORES = ["evaluation_id", "threat", "attack", "source", "epsilon", "classifier", "n", "accuracy", "ci_low", "ci_high", "attack_settings"]
_DISTANCES = ["evaluation_id", "threat", "attack", "classifier", "norm", "n", "found", "median"]
_ADAPTIVE = ("adaptive", "adaptive_bpda", "adaptive_soft")


@dataclass(frozen=True)
class Scoring:
    """One evaluation of a trial, on one split.

    Attributes:
        name: `standard`, `full` or `quick`.
        split: Whose images: `test` or `validation`.
        planned: The trial's row of `sweeps` in the plan that was run last of those that score it so.
        beside: How many other variants that plan has.
        scores: Rows of `scores` of the final classifier, and `unfiltered`, the bare target on clean images.
        distances: Rows of `distances` of the final classifier.
        figures: `robust_score` with `_robust_score_ci`, and `adaptive@EPSILON`, as `rank` has them.
        checks: One result per check.
    """

    evaluation_id: str
    name: str
    split: str
    score_epsilon: float
    planned: Row
    beside: int
    scores: list[Row]
    distances: list[Row]
    figures: Mapping[str, Any]
    checks: list[Result]

    @property
    def worst_case(self) -> tuple[float, float, float, int] | None:
        """Return the accuracy over all adaptive attacks at score_epsilon, image by image, its 95 % interval and n; None without such attacks."""
        value = self.figures.get(f"adaptive@{short(self.score_epsilon)}")
        n = next((row["n"] for row in self.scores if row["threat"] in _ADAPTIVE), 0)
        return None if value is None or not n else (value, *wilson(round(value * n), n), n)


def scorings_of(results: Results, trial_id: str, final_classifier: str) -> tuple[list[Scoring], list[str]]:
    """Return a trial's complete evaluations, those on test images first, and one sentence for each that is left out.

    `quick` ones are left out, since they prune a search and never rank, and those of which parts are missing.
    """
    started = {run["plan_hash"]: run["started"] for run in sorted(results.read("runs").to_pylist(), key=lambda run: run["started"])}
    last: dict[str, Row] = {}
    for row in sorted(results.read("sweeps", where={"trial_id": trial_id}).to_pylist(), key=lambda row: str(started.get(row["plan_hash"], ""))):
        last[row["evaluation_id"]] = row
    recorded = {row["evaluation_id"]: row for row in results.read("evaluations", where={"evaluation_id": list(last)}).to_pylist()}
    found, left_out = [], []
    for evaluation, row in last.items():
        if row["evaluation"] == "quick":
            left_out.append(f"The quick evaluation {evaluation[:12]}: it prunes a search and never ranks.")
        elif (state := states(results, [row])[key_of_row(row)])["status"] != "completed":
            left_out.append(f"The {row['evaluation']} evaluation {evaluation[:12]}: {state['parts']} of its parts are stored.")
        else:
            found.append(_scoring(results, row, recorded.get(evaluation), final_classifier))
    return sorted(found, key=lambda one: (one.split != "test", one.name, one.evaluation_id)), left_out


def _scoring(results: Results, planned: Row, recorded: Row | None, final_classifier: str) -> Scoring:
    key, plan = key_of_row(planned), results.read("sweeps", where={"plan_hash": planned["plan_hash"]}).to_pylist()
    where = {"trial_id": key[0], "evaluation_id": key[1]}
    score_epsilon = float(planned["score_epsilon"])
    return Scoring(
        evaluation_id=key[1],
        name=planned["evaluation"],
        split=recorded["split"] if recorded else "test",  # as `stored_plans.split_of`
        score_epsilon=score_epsilon,
        planned=planned,
        beside=len({row["variant_id"] for row in plan} - {planned["variant_id"]}),
        scores=[row for row in results.read("scores", _SCORES, where).to_pylist() if row["classifier"] in (final_classifier, "unfiltered")],
        distances=[row for row in results.read("distances", _DISTANCES, where).to_pylist() if row["classifier"] == final_classifier],
        figures=trial_figures(results, {key}, score_epsilon, "robust_score").get(key, {}),
        checks=[one for one in run_checks(results, plan) if one.key == key],
    )
