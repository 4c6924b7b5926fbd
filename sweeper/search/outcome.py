"""What a search found: its Pareto set, what each of it is worth on the test images, and the difference. From the tables alone.

The sampler saw the validation images, so the figures that it was led by flatter what it chose. The test images are scored for the Pareto set and
nothing else, as the sweep SPACE/pareto.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.results import Results
from sweeper.search.population import schedule_of
from sweeper.search.stored import StoredSearch, StoredTrial, failed_checks, stored_figures
from sweeper.stored_plans import FRONT, key_of_row, others_on_test, states

if TYPE_CHECKING:
    from sweeper.plan import Plan

PLAIN = ("psnr", "seconds", "parameters")  # columns that are no shares


@dataclass(frozen=True)
class Outcome:
    """The Pareto set as JSON shows it, best in the first objective first, with what a reader must know beside it."""

    rows: list[dict[str, Any]]
    columns: tuple[str, ...]
    title: str
    notes: list[str]

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows for people: shares in percent, intervals in brackets, differences in points."""
        return [
            {"trial": named(row), "id": row["trial_id"][:8]}
            | {f"{name}{unit(name)}{where}": text for name in self.columns for where, text in _of_column(row, name)}
            | {"searched settings": words(row["searched"])}
            for row in self.rows
        ]


def front_plan(results: Results, search: StoredSearch, front: Sequence[StoredTrial]) -> "Plan":
    """Return the plan that scores the Pareto set on the test images: the stored configurations, with the evaluation's split changed.

    Raises:
        ValueError: If a stored configuration does not give the trial that it was stored for: the code, or a file of the user's, has changed since.
    """
    from sweeper.replanning import stored_plan

    keys = {trial.key for trial in front}
    return stored_plan(results, [row for row in search.planned if key_of_row(row) in keys], sweep=search.sweep + FRONT, split="test")


def outcome(results: Results, search: StoredSearch) -> Outcome:
    """Return the Pareto set of a search with its validation figures, and its test figures as far as they are there."""
    front, columns = search.pareto(), tuple(objective.column for objective in search.objectives)
    test, failed_on_test, warned_on_test = _on_test(results, search, columns)
    rows = []
    for trial in front:
        assert trial.key is not None and trial.figures is not None
        row: dict[str, Any] = {"label": trial.label, "number": trial.number, "trial_id": trial.key[0], "evaluation_id": trial.key[1]}
        for column in columns:
            for split, figures in (("validation", trial.figures), ("test", test.get(trial.key[0]) or {})):
                low, high = figures.get(f"_{column}_ci", (None, None))
                row |= {f"{split}_{column}": figures.get(column), f"{split}_{column}_ci_low": low, f"{split}_{column}_ci_high": high}
            found = row[f"validation_{column}"], row[f"test_{column}"]
            row[f"difference_{column}"] = None if None in found else found[0] - found[1]
        row |= {"failed_checks_on_test": failed_on_test.get(trial.key[0], []), "warned_checks_on_test": warned_on_test.get(trial.key[0], [])}
        rows.append(row | {"searched": searched(trial), "settings": dict(trial.settings)})
    what = f"what no other trial beats in {' and '.join(columns)}" if len(columns) > 1 else f"the best {', '.join(columns)}"
    title = f"{search.title}: {what}"
    return Outcome(rows, columns, title, _notes(results, search, rows, columns))


def named(row: Mapping[str, Any]) -> str:
    """Return the label of a row, and the validity checks that it fails on the test images."""
    return row["label"] + "".join(f" (fails {check})" for check in row["failed_checks_on_test"])


def searched(trial: StoredTrial) -> dict[str, Any]:
    """Return the settings of a trial that the space searches, without those that it keeps fixed; of a schedule, the values of all phases."""
    asked = {name for param in trial.params for name in (param, param.rpartition("/")[0])}
    return {name: value for name, value in {**trial.settings, **schedule_of(trial.settings)}.items() if name in asked}


def tally(search: StoredSearch) -> str:
    """Return a sentence: how many trials there are, and what became of them."""
    counts = Counter(trial.state for trial in search.trials)
    parts = [f"{counts[word]} {word}" for word in ("completed", "continued", "stopped", "failed", "missing") if counts[word]]
    repeated = len(search.trials) - len({trial.key for trial in search.trials if trial.key}) - sum(trial.key is None for trial in search.trials)
    sentence = f"{len(search.trials)} trials by {search.sampler}, scheduler {search.scheduler}: {', '.join(parts)}"
    sentence += f"; {repeated} repeat an earlier one" if repeated else ""
    completed = [trial for trial in search.trials if trial.state == "completed"]
    broken = sum(not search.is_feasible(trial) for trial in completed)
    if search.constraints:
        sentence += f"; {broken} of the completed break {' or '.join(map(str, search.constraints))}"
    if failed := Counter(check for trial in completed for check in trial.failed_checks):
        sentence += f"; unranked by {', '.join(f'{check} ({count})' for check, count in failed.items())}"
    return sentence + "."


def _on_test(results: Results, search: StoredSearch, columns: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]], dict[str, list[str]]]:
    """Return trial_id -> figures on the test images, under the search's evaluation; -> validity checks that fail there; -> that warn there."""
    ways = {row["evaluation_id"]: json.loads(row["config"]) for row in results.read("evaluations", ["evaluation_id", "config"]).to_pylist()}
    wanted = ways[search.planned[0]["evaluation_id"]] | {"split": "test"}
    planned = results.read("sweeps", where={"sweep": search.sweep + FRONT, "dataset": search.dataset}).to_pylist()
    mine = {trial.key[0] for trial in search.trials if trial.key}
    planned = [row for row in planned if row["trial_id"] in mine and ways.get(row["evaluation_id"]) == wanted]
    state = states(results, planned)
    keys = [key for key, one in state.items() if one["status"] == "completed"]
    if not keys:
        return {}, {}, {}
    score_epsilon: float = planned[0]["score_epsilon"]
    figures = stored_figures(results, keys, score_epsilon, columns)
    failed, warned = ({key[0]: checks for key, checks in failed_checks(results, planned, word).items()} for word in ("fail", "warn"))
    return {key[0]: found for key, found in figures.items()}, failed, warned


def _notes(results: Results, search: StoredSearch, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    notes = [tally(search)]
    if search.scheduler == "pbt":
        notes.append("learning_rate=[a, b]: its value in each phase of the training, so with loss weights. continued: earlier generations.")
    if not rows:
        return [*notes, f"No trial can be chosen: {_why_none(search)}"]
    scored = [row for row in rows if all(row[f"test_{column}"] is not None for column in columns)]
    if scored:
        means = ", ".join(f"{column} {_difference(float(np.mean([row[f'difference_{column}'] for row in scored])), column)}" for column in columns)
        notes.append(
            f"Difference: validation minus test, mean over these {len(scored)}: {means}. It is the optimism of a choice made on the validation "
            "images, and the chance of two sets of images is in it, so it can be negative. The test figures are the ones to report."
        )
        notes.append(_looked_at(results, search, rows) + " One seed each: `refine` says which of them seeds bear out.")
        if doubtful := [f"{row['label']} ({', '.join(row['failed_checks_on_test'])})" for row in rows if row["failed_checks_on_test"]]:
            notes.append(f"Fails a validity check on the test images, so its figures are not to be believed: {'; '.join(doubtful)}.")
        if warned := [f"{row['label']} ({', '.join(row['warned_checks_on_test'])})" for row in rows if row["warned_checks_on_test"]]:
            notes.append(f"Checks warn on the test images, `check {search.sweep}{FRONT}` says of what: {'; '.join(warned)}.")
    else:
        notes.append(f"Not scored on the test images yet; `run {search.sweep}` does it when the search is finished.")
    notes.append("Intervals are over images, for these checkpoints.")
    return notes


def _looked_at(results: Results, search: StoredSearch, rows: Sequence[Mapping[str, Any]]) -> str:
    mine = {row["trial_id"] for row in rows}
    seen, others = others_on_test(results, search.sweep, search.dataset, [row for row in search.planned if row["trial_id"] in mine])
    if not seen:
        return "No other trial of it was scored on the test images under this root."
    more = f" and {len(seen) - 5} more" if len(seen) > 5 else ""
    return f"Of its {others} other trials {len(seen)} were scored on the test images, too, under this root ({', '.join(seen[:5])}{more})."


def _why_none(search: StoredSearch) -> str:
    completed = [trial for trial in search.trials if trial.state == "completed"]
    if not completed:
        return "none is completed."
    if search.constraints and not any(search.is_feasible(trial) for trial in completed):

        def beyond(trial: StoredTrial) -> float:
            return sum(max(0.0, one.violation((trial.figures or {}).get(one.column) or 0.0)) for one in search.constraints)

        nearest = min(completed, key=lambda trial: (beyond(trial), trial.number))
        least = beyond(nearest)
        return f"none keeps {' and '.join(map(str, search.constraints))}; nearest is {nearest.label}, {least:.4g} beyond."
    return "each fails a validity check; `check` says which."


def _of_column(row: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    found = []
    for split, word in (("validation", ""), ("test", " on test")):
        value, low, high = (row[f"{split}_{name}{end}"] for end in ("", "_ci_low", "_ci_high"))
        interval = "" if low is None else f" [{figure(low, name)}, {figure(high, name)}]"
        found.append((word, "" if value is None else figure(value, name) + interval))
    return [*found, (" difference", "" if row[f"difference_{name}"] is None else _difference(row[f"difference_{name}"], name))]


def unit(column: str) -> str:
    """Return what stands behind a column's name in a table for people."""
    return "" if column in PLAIN else " %"


def figure(value: float, column: str) -> str:
    """Return a figure as people read it: shares in percent."""
    return f"{value:.4g}" if column in PLAIN else f"{100 * value:.1f}"


def _difference(value: float, column: str) -> str:
    return f"{value:+.4g}" if column in PLAIN else f"{100 * value:+.1f}"


def words(settings: Mapping[str, Any]) -> str:
    """Return settings in one line."""

    def word(value: object) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(word, value))}]"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name}={word(value)}" for name, value in settings.items())
