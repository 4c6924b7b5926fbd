"""A search's objectives as charts: their history, and the Pareto front. Each is a chart, or the sentence that says why there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.report.charts import Axis, Chart, Look, Mark, Marks, Plot
from sweeper.report.search_numbers import (
    BREAKS,
    FEASIBLE,
    UNCHECKED,
    best_so_far,
    column_label,
    interval,
    measured,
    outline,
    scale,
    standing,
    value_of,
)
from sweeper.search.stored import StoredSearch, StoredTrial

NOT_RANDOM = "The sampler chose the trials by what it had seen before: they are no random sample of the space. Each has one seed."
_LOOKS: dict[str, Look] = {FEASIBLE: "point", BREAKS: "hollow", UNCHECKED: "crossed"}


def basis(search: StoredSearch, images: str) -> str:
    """Return what stands at the end of every caption: how many trials, on which images, and how they came to be these."""
    completed = [trial for trial in search.trials if trial.state == "completed"]
    distinct, whole = len({trial.key for trial in completed}), sum(search.values(trial) is not None for trial in completed)
    words = f"n = {len(completed)} completed trials"
    words += f", {distinct} of them distinct" if distinct < len(completed) else ""
    words += f", {len(completed) - whole} without a figure for every objective and not drawn" if whole < len(completed) else ""
    return f"{words}, on {images}. {NOT_RANDOM}"


def history(search: StoredSearch, images: str) -> Chart | str:
    """Return each objective against the trial's number, with the best so far of those that may be chosen, and what ended early at the foot.

    Or why there is nothing to show.
    """
    if not measured(search):
        return "No trial is completed, so there is no history to draw."
    plots = []
    for place, objective in enumerate(search.objectives):
        factor = scale(objective.column)
        line = tuple(Mark("", number, factor * value) for number, value in best_so_far(search, place))
        layers = [Marks("best so far", "line", _steps(line))]
        repeated = [trial for trial in search.trials if search.values(trial) is not None]  # a repeat is a proposal of its own here
        layers += by_standing(search, repeated, lambda trial, p=place, f=factor: (trial.number, f * value_of(search, trial, p)))
        ends: tuple[tuple[str, str, Look], ...] = (("stopped", "stopped at a rung", "foot"), ("failed", "failed", "foot_failed"))
        for state, name, look in ends:
            layers.append(Marks(name, look, tuple(Mark(trial.label, trial.number, None) for trial in search.trials if trial.state == state)))
        title = f"{objective.column}: {'more' if objective.direction == 'max' else 'less'} is better"
        numbers = Axis("trial number (in the order of proposing)", span=(0, max(1, len(search.trials) - 1)))
        plots.append(Plot(title, numbers, Axis(column_label(objective.column)), filled(layers)))
    stopped = sum(trial.state == "stopped" for trial in search.trials)
    early = (
        f"Ticks at the foot: trials that were stopped at a rung ({stopped}). What they reached there is another quantity (fewer epochs, the quick "
        "evaluation) and stands on no axis here. "
        if stopped
        else ""
    )
    failed = sum(trial.state == "failed" for trial in search.trials)
    early += f"Triangles at the foot: trials that failed ({failed}). " if failed else ""
    waiting = sum(trial.state == "missing" for trial in search.trials)
    early += f"Not drawn, since not finished: {waiting}. " if waiting else ""
    caption = f"One point per completed trial. The line is the best of those that may be chosen. {early}{basis(search, images)}"
    return Chart("search_history", "Optimisation history", caption, tuple(plots), columns=2)


def front(search: StoredSearch, rows: Sequence[Mapping[str, Any]], images: str) -> Chart | str:
    """Return the other objectives against the first, with the Pareto set, its outline and its figures on the test images; or why there is none.

    Args:
        rows: Of `sweeper.search.outcome.outcome`, with figures on both splits.
    """
    first, *others = search.objectives
    if not others:
        return f"The search has one objective, {first.column}, so it has a best trial and no Pareto front to draw."
    trials = measured(search)
    if not trials:
        return "No trial is completed, so there is no Pareto front to draw."
    reference = next((trial for trial in trials if trial.label == "reference"), None)
    plots = [_front_plot(search, rows, trials, reference, place) for place in range(1, 1 + len(others))]
    words = ", ".join(f"{one.column} ({'more' if one.direction == 'max' else 'less'} is better)" for one in search.objectives)
    caption = (
        f"Objectives: {words}. The Pareto set: trials that may be chosen and that no other beats in all objectives. Crosses are 95 % intervals over "
        "images, for these checkpoints; that one trial beats another is not tested. "
    )
    if len(others) == 1:
        caption += "Behind the line lies what the set beats. "
    if any(row[f"test_{one.column}"] is not None for row in rows for one in search.objectives):
        caption += "A thin line leads from each of the set to its figures on the test images, which were scored for the set alone. "
    else:
        caption += "The set is not scored on the test images yet. "
    caption += "" if reference is not None else "The space has no reference that is completed. "
    return Chart("search_front", "Pareto front", caption + basis(search, images), tuple(plots), columns=2, inches=(4.4, 3.4))


def _front_plot(
    search: StoredSearch, rows: Sequence[Mapping[str, Any]], trials: Sequence[StoredTrial], reference: StoredTrial | None, place: int
) -> Plot:
    """Return one objective against the first; the front's outline only where these two are all, since it would be another in more dimensions."""
    columns = (search.objectives[0].column, search.objectives[place].column)
    points = {trial.number: _on_validation(search, trial, place) for trial in trials}
    chosen = {trial.number for trial in search.pareto()}
    best = {points[trial.number].name: points[trial.number] for trial in trials if trial.number in chosen}
    tested = [mark for row in rows if (mark := _on_test(row, columns)) is not None]

    def of(kind: str) -> tuple[Mark, ...]:
        return tuple(points[trial.number] for trial in trials if trial.number not in chosen and standing(search, trial) == kind)

    layers = [
        Marks("beaten by another trial", "faint", of(FEASIBLE)),
        Marks(BREAKS, "hollow", of(BREAKS)),
        Marks(UNCHECKED, "crossed", of(UNCHECKED)),
    ]
    if len(search.objectives) == 2:
        corners = outline([(mark.x, mark.y) for mark in best.values() if mark.y is not None], search.objectives[0])
        layers.append(Marks("front", "line", tuple(Mark("", x, y) for x, y in corners)))
    layers += [Marks("", "link", (_bare(best[mark.name]), _bare(mark))) for mark in tested if mark.name in best]
    layers.append(Marks("Pareto set on the test images", "second", tuple(tested)))
    layers.append(Marks("Pareto set", "strong", tuple(replace(mark, note=mark.name) for mark in best.values())))
    if reference is not None:
        place_of = points[reference.number]
        layers.append(Marks("reference", "ring", (Mark(place_of.name, place_of.x, place_of.y, note="" if place_of.name in best else place_of.name),)))
    return Plot(" and ".join(columns), Axis(column_label(columns[0])), Axis(column_label(columns[1])), filled(layers))


def by_standing(search: StoredSearch, trials: Sequence[StoredTrial], place: Callable[[StoredTrial], tuple[float, float]]) -> list[Marks]:
    """Return a layer for each way that completed trials may stand, with the trials at their places."""
    return [
        Marks(name, look, tuple(Mark(trial.label, *place(trial)) for trial in trials if standing(search, trial) == name))
        for name, look in _LOOKS.items()
    ]


def _steps(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Return the corners of a line that keeps its height until the next mark."""
    corners = [Mark("", following.x, mark.y) for mark, following in zip(marks, marks[1:], strict=False)]
    ordered = [one for pair in zip(marks, corners, strict=False) for one in pair]
    return tuple(dict.fromkeys([*ordered, *marks[-1:]]))


def filled(layers: Sequence[Marks]) -> tuple[Marks, ...]:
    """Return the layers that have marks."""
    return tuple(layer for layer in layers if layer.marks)


def _on_validation(search: StoredSearch, trial: StoredTrial, place: int) -> Mark:
    columns = (search.objectives[0].column, search.objectives[place].column)
    x, y = scale(columns[0]) * value_of(search, trial, 0), scale(columns[1]) * value_of(search, trial, place)
    (x_low, x_high), (low, high) = (interval(trial.figures or {}, column) for column in columns)
    return Mark(trial.label, x, y, low, high, x_low, x_high)


def _on_test(row: Mapping[str, Any], columns: tuple[str, str]) -> Mark | None:
    """Return a trial of the Pareto set on the test images; None where it is not scored there."""
    x, y = (row[f"test_{column}"] for column in columns)
    if x is None or y is None:
        return None
    figures = {f"_{column}_ci": (row[f"test_{column}_ci_low"], row[f"test_{column}_ci_high"]) for column in columns}
    (x_low, x_high), (low, high) = (interval(figures, column) for column in columns)
    return Mark(row["label"], scale(columns[0]) * x, scale(columns[1]) * y, low, high, x_low, x_high)


def _bare(mark: Mark) -> Mark:
    return Mark("", mark.x, mark.y)
