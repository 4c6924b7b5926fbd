"""Which trials are attacked again after a sweep, and harder: the reference and the best row, until the best one holds; under `full`, all.

The attacks of C13, C16 and C17 cost as much as scoring a trial. What they find may take the best row its rank; then the next one is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweeper.config import TrialConfig
from sweeper.keys import strength_part
from sweeper.plan import Plan, PlannedTrial
from sweeper.probes.levels import LEVELS
from sweeper.ranking import rank
from sweeper.results import Results


@dataclass(frozen=True)
class Probe:
    """One check that attacks one trial again."""

    trial: PlannedTrial
    level: str
    check: str
    siblings: tuple[TrialConfig, ...] = ()

    @property
    def part(self) -> str:
        return strength_part(*self.trial.key, self.level, self.check)

    @property
    def title(self) -> str:
        return f"check {self.check} on {self.trial.label}, seed {self.trial.config.seed}"


Probes = Callable[[], Sequence[Probe]]  # asked again until there are none


def level_of(plan: Plan) -> str:
    """Return at which level a plan's trials are attacked again: `full` under the evaluation of that name."""
    return "full" if plan.evaluation.name == "full" else "standard"


def pending(plan: Plan, results: Results, *, level: str | None = None, everyone: bool | None = None, plan_hash: str | None = None) -> list[Probe]:
    """Return the probes that are due and not stored.

    Args:
        level: `standard` or `full`; None: `full` under the evaluation of that name.
        plan_hash: Of the stored plan that is ranked, where plan holds only some of its trials.
        everyone: Attack every completed trial, instead of all completed seeds of the reference and the best row; None: under the full evaluation.
    """
    if not plan.evaluation.is_checked:
        return []
    level, everyone = level or level_of(plan), level_of(plan) == "full" if everyone is None else everyone
    completed = {row["trial_id"] for row in results.read("trials", ["trial_id"]).to_pylist()}
    trials = [trial for trial in plan.trials if trial.trial_id in completed]
    if not trials:
        return []
    if not everyone:
        rows = rank(results, plan.sweep, plan_hash=plan_hash or plan.plan_hash).rows
        due = [row for row in rows if row["is_reference"]] + [row for row in rows if row["rank"] is not None and row["is_candidate"]][:1]
        chosen = {(name, row["evaluation_id"]) for row in due for name in row["trial_ids"]}
        trials = [trial for trial in trials if trial.key in chosen]
    stored = results.stored("checks")
    return [probe for trial in trials for probe in _probes_of(trial, plan, level, completed) if probe.part not in stored]


def _probes_of(trial: PlannedTrial, plan: Plan, level: str, completed: set[str]) -> list[Probe]:
    seeds = [
        other.config
        for other in plan.trials
        if other.variant_id == trial.variant_id and other.evaluation_id == trial.evaluation_id and other.trial_id in completed - {trial.trial_id}
    ]
    return [Probe(trial, level, check, tuple(seeds) if check == "C32" else ()) for check in LEVELS[level]]
