"""A search's parameters as charts: which matter, each alone, all side by side. Each is a chart, or the sentence that says why there is none."""

from sweeper.report.charts import Axis, Chart, Mark, Marks, Parallel, Plot, Way
from sweeper.report.search_charts import basis, by_standing, filled
from sweeper.report.search_numbers import FEASIBLE, Parameter, column_label, measured, parameters, scale, shared, standing, value_of
from sweeper.search.importance import of_search
from sweeper.search.stored import StoredSearch
from sweeper.search.study import EVALUATOR


def importances(search: StoredSearch, images: str) -> Chart | str:
    """Return each parameter's share of what tells the best trials from the rest, for all objectives and for each; or why there is none."""
    try:
        found = of_search(search)
    except ValueError as error:
        return f"No importances of parameters: {error}."
    columns = [name for name in found.rows[0] if name not in ("parameter", "trials")] if found.rows else []
    names = tuple(row["parameter"] for row in found.rows)
    plots = []
    for column in columns:
        marks = tuple(
            Mark(row["parameter"], 100 * row[column], place, note=f"{100 * row[column]:.0f} % (n = {row['trials']})")
            for place, row in enumerate(found.rows)
            if row[column] is not None
        )
        across = Axis("share (%)", span=(0, 100))
        plots.append(Plot(f"for {column}", across, Axis("parameter", categories=names), (Marks("", "bar", marks),)))
    caption = (
        f"{EVALUATOR} (Watanabe et al., 2023): a parameter's share of what tells the best tenth of the trials from the rest; the shares of a panel "
        f"add up to 100 %. Beside a bar: how many completed trials have the parameter. {' '.join(found.notes[1:])} "
    )
    height = 0.9 + 0.24 * max(2, len(names))
    return Chart("search_importances", "Which parameters matter", caption + basis(search, images), tuple(plots), columns=3, inches=(3.4, height))


def slices(search: StoredSearch, images: str) -> Chart | str:
    """Return the first objective against each parameter, over the completed trials that have it; or why there is nothing to show."""
    trials, objective = measured(search), search.objectives[0]
    if not trials:
        return "No trial is completed, so no parameter can be held against an objective."
    factor, plots, without = scale(objective.column), [], []
    for name, parameter in parameters(search).items():
        having = [trial for trial in trials if name in trial.params]
        if not having:
            without.append(name)
            continue
        layers = by_standing(search, having, lambda trial, one=parameter: (one.position(trial.params[one.name]), factor * value_of(search, trial, 0)))
        plots.append(Plot(f"{name} (n = {len(having)})", _axis(parameter), Axis(column_label(objective.column)), filled(layers)))
    if not plots:
        return "The space asks for no parameter, so there is nothing to hold against an objective."
    caption = (
        f"{column_label(objective.column)} of each completed trial against one parameter, over the range that was searched; a parameter that is "
        "asked for under a condition is there for the trials that met it. Trials differ in the other parameters too, so no panel shows the effect "
        "of its own alone; the trials of one category are set a little apart. "
    )
    caption += f"No completed trial has {', '.join(without)}. " if without else ""
    return Chart("search_slices", f"Each parameter and {objective.column}", caption + basis(search, images), tuple(plots))


def parallel(search: StoredSearch, images: str) -> Chart | str:
    """Return the parameters that most completed trials have side by side, the objectives last, a line per trial; or why there is nothing to show."""
    trials, first = measured(search), search.objectives[0]
    if not trials:
        return "No trial is completed, so there is no line to draw across the parameters."
    known = parameters(search)
    drawn = shared(known, trials)
    axes = [_axis(one) for one in drawn] + [Axis(column_label(one.column)) for one in search.objectives]
    ways = []
    for trial in trials:
        own = [one.position(trial.params[one.name]) if one.name in trial.params else None for one in drawn]
        reached = [scale(one.column) * value_of(search, trial, place) for place, one in enumerate(search.objectives)]
        ways.append(Way(trial.label, (*own, *reached), reached[0], standing(search, trial) != FEASIBLE))
    rest = [name for name in known if name not in {one.name for one in drawn}]
    caption = (
        f"One line per completed trial; dark and thick is better in {first.column}, pale and thin worse. Parameters span the range that was "
        "searched, objectives what was reached. A line is interrupted where the trial has no such parameter. "
    )
    caption += "Broken lines: trials that break a constraint or fail a validity check. " if any(way.is_broken for way in ways) else ""
    caption += f"Left out, since at most half of the trials have them: {', '.join(rest)}. " if rest else ""
    plot = Parallel(f"{len(trials)} trial{'s' * (len(trials) > 1)}", tuple(axes), tuple(ways), column_label(first.column), first.direction == "min")
    inches = (min(11.0, max(5.0, 1.05 * len(axes) + 1.0)), 3.6)
    return Chart("search_parallel", "Parallel coordinates", caption + basis(search, images), (plot,), columns=1, inches=inches)


def _axis(parameter: Parameter) -> Axis:
    if parameter.choices:
        return Axis(parameter.label, categories=parameter.words)
    return Axis(parameter.label, parameter.is_log, span=(parameter.low, parameter.high))
