"""Which settings matter: of a search by PED-ANOVA over its completed trials, of an ablation by the paired effect of each factor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.comparison import compare_settings
from sweeper.results import Results
from sweeper.search.stored import StoredSearch, StoredTrial
from sweeper.search.study import EVALUATOR, VALIDITY, Told, importances
from sweeper.stored_plans import latest_plan

FEW = 50  # completed trials under which shares are a description of these trials and little more


@dataclass(frozen=True)
class Importances:
    """Rows as JSON shows them, most important first, with what a reader must know beside them."""

    rows: list[dict[str, Any]]
    title: str
    notes: list[str]

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows for people: shares in percent, effects in points with their interval."""
        return [_effect_shown(row) if "effect" in row else _share_shown(row) for row in self.rows]


def told_of(search: StoredSearch) -> list[Told]:
    """Return a stored search's trials as the sampler hears of them; one that waits or is not finished counts as running."""
    found = []
    first = search.objectives[0].column
    for trial in search.trials:
        waits = "stopped" if trial.rungs else "running"
        state = {"continued": "stopped", "missing": waits}.get(trial.state, trial.state)
        found.append(
            Told(
                params=trial.params,
                distributions=trial.distributions,
                state=state,
                values=search.values(trial) or (),
                constraints=_constraints(search, trial),
                rungs={epochs: figures[first] for epochs, figures in trial.rungs.items()},
                sampler_state=trial.sampler_state,
                label=trial.label,
            )
        )
    return found


def of_search(search: StoredSearch) -> Importances:
    """Return each parameter's share of what tells the best completed trials from the others: for each objective, and for all at once.

    Raises:
        ValueError: If fewer than four trials are completed.
    """
    told = told_of(search)
    columns = {objective.column: importances(search.objectives, told, place) for place, objective in enumerate(search.objectives)}
    if len(columns) > 1:
        columns = {"all objectives": importances(search.objectives, told), **columns}
    first = next(iter(columns.values()))
    counts = {name: sum(name in one.params for one in told if one.state == "completed") for name in first}
    rows = [{"parameter": name, **{column: shares.get(name) for column, shares in columns.items()}, "trials": counts[name]} for name in first]
    completed = sum(one.state == "completed" for one in told)
    values = list(zip(*(one.values for one in told if one.state == "completed"), strict=True))
    alike = [objective.column for objective, column in zip(search.objectives, values, strict=True) if len(set(column)) == 1]
    notes = [
        f"{EVALUATOR} (Watanabe et al., 2023) over {completed} completed trials: a setting's share of what tells the best tenth from the rest; "
        "shares of a column add up to 100 %. trials: those in which the setting is there at all.",
        "They describe these trials, which the sampler did not choose at random, and have no interval"
        + (f"; with {completed} of them, take them for a hint." if completed < FEW else "."),
    ]
    if search.scheduler == "pbt":
        notes.append("Of a setting that changes during the training, the value of the last phase counts.")
    if alike:
        notes.append(f"All of these trials are equal in {' and '.join(alike)}, so nothing tells them apart there, and all shares are the same.")
    return Importances(rows, f"{search.title}: which settings matter", notes)


def of_ablation(results: Results, sweep: str, *, by: str, dataset: str | None, plan_hash: str | None) -> Importances:
    """Return the paired effect of each factor's levels against the reference, the largest effect first, with its interval over seeds.

    Raises:
        ValueError: If the sweep or the quantity is unknown.
    """
    made = compare_settings(results, sweep, [], against="reference", by=by, dataset=dataset, plan_hash=plan_hash)
    planned = {row["label"]: row for row in latest_plan(results, sweep, dataset, plan_hash, ranks=True)}
    rows = []
    for row in made.rows:
        both = row["value"], row["value_against"]
        effect = row["difference"] if row["difference"] is not None or None in both else both[0] - both[1]
        of = planned[row["label"]]
        rows.append(
            {"factor": of["factor"], "level": of["level"], "effect": effect, "ci_low": row["ci_low"], "ci_high": row["ci_high"],
             "p_holm": row["p_holm"], "seeds": len(row["seeds"]), "verdict": row["verdict"]}
        )  # fmt: skip
    largest = {row["factor"]: max(abs(other["effect"] or 0.0) for other in rows if other["factor"] == row["factor"]) for row in rows}
    rows.sort(key=lambda row: (-largest[row["factor"]], row["factor"], -abs(row["effect"] or 0.0)))
    notes = [*made.notes, "effect: against the reference, in points. Factors are sorted by their largest effect; levels need not go the same way."]
    return Importances(rows, f"{made.title}: the effect of each factor", notes)


def _share_shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{100 * value:.0f} %" if isinstance(value, float) else "" if value is None else value for name, value in row.items()}


def _effect_shown(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high, p_value = row["ci_low"], row["ci_high"], row["p_holm"]
    shown: dict[str, Any] = {"factor": row["factor"], "level": row["level"]}
    shown["effect"] = (
        "" if row["effect"] is None else f"{100 * row['effect']:+.1f}" + ("" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]")
    )
    return shown | {"p (Holm)": "" if p_value is None else f"{p_value:.3g}", "seeds": row["seeds"], "verdict": row["verdict"]}


def _constraints(search: StoredSearch, trial: StoredTrial) -> dict[str, float]:
    figures = trial.figures or {}
    values = {one: figures.get(one.column) for one in search.constraints}
    kept = {str(one): one.violation(value) for one, value in values.items() if value is not None}
    return kept | ({} if trial.figures is None else {VALIDITY: float(len(trial.failed_checks))})
