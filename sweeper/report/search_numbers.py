"""The numbers behind a search's figures: which trials stand in them and as what, the best so far, the front's outline, the parameters' scales.

Pure: from a `StoredSearch`, without a word of layout.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.search.space import Objective
from sweeper.search.stored import StoredSearch, StoredTrial
from sweeper.stored_plans import Key

FEASIBLE, BREAKS, UNCHECKED = "may be chosen", "breaks a constraint", "fails a validity check"
UNITS = {"psnr": "dB", "seconds": "s", "parameters": "count"}  # columns that are no shares
_PIXELS = "of the pixel range"
_PARAMETER_UNITS = {
    "codebook_size": "codes", "num_epochs": "epochs", "batch_size": "images", "train_noise": _PIXELS, "train_epsilon": _PIXELS,
    "adversary_epsilon": _PIXELS,
}  # fmt: skip


def standing(search: StoredSearch, trial: StoredTrial) -> str:
    """Return what a completed trial with figures is: FEASIBLE, BREAKS or UNCHECKED; a failed check counts before a broken constraint."""
    return UNCHECKED if trial.failed_checks else FEASIBLE if search.is_feasible(trial) else BREAKS


def measured(search: StoredSearch) -> list[StoredTrial]:
    """Return the completed trials that have all objectives, the earliest of several equal suggestions."""
    found: dict[Key | None, StoredTrial] = {}
    for trial in search.trials:
        if search.values(trial) is not None:
            found.setdefault(trial.key, trial)
    return list(found.values())


def value_of(search: StoredSearch, trial: StoredTrial, place: int) -> float:
    """Return one objective of a measured trial, raw."""
    values = search.values(trial)
    assert values is not None
    return values[place]


def best_so_far(search: StoredSearch, place: int) -> list[tuple[int, float]]:
    """Return (trial number, best value) of one objective over the trials that may be chosen, from the first of them to the last trial proposed.

    Only places where the best changes, and the end.
    """
    sign, found = search.objectives[place].sign, []
    for trial in search.trials:
        if search.values(trial) is None or standing(search, trial) != FEASIBLE:
            continue
        value = value_of(search, trial, place)
        if not found or sign * value > sign * found[-1][1]:
            found.append((trial.number, value))
    if found and search.trials[-1].number > found[-1][0]:
        found.append((search.trials[-1].number, found[-1][1]))
    return found


def outline(points: Sequence[tuple[float, float]], first: Objective) -> list[tuple[float, float]]:
    """Return the corners of the step line through the points of a front, by the first objective upward: what lies behind it is beaten.

    Args:
        points: Of a front of two objectives, none beaten by another.
        first: The objective of the first coordinate; the line turns on the side that is worse in it.
    """
    ordered = sorted(set(points))
    if first.direction == "max":
        corners = [(x, following[1]) for (x, _), following in zip(ordered, ordered[1:], strict=False)]
    else:
        corners = [(following[0], y) for (_, y), following in zip(ordered, ordered[1:], strict=False)]
    return [point for pair in zip(ordered, corners, strict=False) for point in pair] + ordered[-1:]


@dataclass(frozen=True)
class Parameter:
    """A searched parameter: its range over all trials, or its categories."""

    name: str
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    choices: tuple[str | int | float | bool | None, ...] = ()

    def position(self, value: Any) -> float:
        """Return where a value stands on the parameter's axis: itself, or the place of its category."""
        return float([json.dumps(choice) for choice in self.choices].index(json.dumps(value))) if self.choices else float(value)

    @property
    def words(self) -> tuple[str, ...]:
        """Return the categories as an axis names them; in quotes where `None` and `"None"` would be one."""
        plain = tuple(str(choice) for choice in self.choices)
        return plain if len(set(plain)) == len(plain) else tuple(repr(choice) for choice in self.choices)

    @property
    def label(self) -> str:
        """Return the name with its unit, and that its scale is logarithmic."""
        words = [_PARAMETER_UNITS.get(self.name.partition("/")[0], ""), "log scale" if self.is_log else ""]
        return self.name + (f" ({', '.join(word for word in words if word)})" if any(words) else "")


def parameters(search: StoredSearch) -> dict[str, Parameter]:
    """Return every parameter that was asked for, by name, from the distributions as Optuna wrote them; a range that changed counts as its union."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for trial in search.trials:
        for name, text in trial.distributions.items():
            found.setdefault(name, []).append(json.loads(text)["attributes"])
    made = {}
    for name, ranges in sorted(found.items()):
        if "choices" in ranges[0]:
            distinct = {json.dumps(choice): choice for one in ranges for choice in one["choices"]}
            made[name] = Parameter(name, choices=tuple(distinct.values()))
        else:
            low, high = min(one["low"] for one in ranges), max(one["high"] for one in ranges)
            made[name] = Parameter(name, float(low), float(high), bool(ranges[0]["log"]) and low > 0)
    return made


def shared(found: Mapping[str, Parameter], trials: Sequence[StoredTrial]) -> list[Parameter]:
    """Return the parameters that more than half of some trials have."""
    return [one for name, one in found.items() if 2 * sum(name in trial.params for trial in trials) > len(trials)]


def scale(column: str) -> float:
    """Return what a column's values are multiplied by to be shown: 100 for shares."""
    return 1.0 if column in UNITS else 100.0


def column_label(column: str) -> str:
    """Return a column with its unit: `robust_score (%)`."""
    return f"{column} ({'points' if column == 'clean_drop' else UNITS.get(column, '%')})"


def interval(figures: Mapping[str, Any], column: str) -> tuple[float | None, float | None]:
    """Return the 95 % interval over images of a figure as it is shown; None twice where there is none."""
    low, high = figures.get(f"_{column}_ci") or (None, None)
    return (None, None) if low is None or high is None else (scale(column) * low, scale(column) * high)
