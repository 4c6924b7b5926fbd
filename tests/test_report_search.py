"""The report of a search: the numbers behind its figures against a search written out by hand (`stored_search.py`), and the page that shows them."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stored_search import PROPOSED, Proposed, plain, stored_search

from sweeper.report import chart_drawing, parameter_charts, search_charts
from sweeper.report.assemble import build
from sweeper.report.cells import chart_rows, plot_table
from sweeper.report.charts import Chart, Look, Mark, Parallel, Plot
from sweeper.report.content import Report, Table
from sweeper.report.export import export
from sweeper.report.page import render
from sweeper.report.parallel_drawing import shade
from sweeper.report.search_numbers import BREAKS, FEASIBLE, UNCHECKED, best_so_far, measured, outline, parameters, shared, standing
from sweeper.results import Results
from sweeper.search.outcome import outcome
from sweeper.search.space import Objective
from sweeper.search.stored import StoredSearch, read_search

ON = "100 validation images"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "results"
    stored_search(path)
    return path


@pytest.fixture(scope="module")
def search(root: Path) -> StoredSearch:
    return read_search(Results(root), "made")


@pytest.fixture(scope="module")
def report(root: Path) -> Report:
    return build(Results(root), "made")


def charted(found: Chart | str) -> Chart:
    assert isinstance(found, Chart), found
    return found


def marks(plot: Plot | Parallel, layer: str) -> tuple[Mark, ...]:
    assert isinstance(plot, Plot)
    return next((one.marks for one in plot.layers if one.name == layer), ())


def points(plot: Plot | Parallel, layer: str) -> dict[str, tuple[float, float | None]]:
    return {mark.name: (round(mark.x, 6), mark.y if mark.y is None else round(mark.y, 6)) for mark in marks(plot, layer)}


def made_of(path: Path, *proposed: Proposed, **more: object) -> StoredSearch:
    return read_search(stored_search(path, proposed, **more), "made")  # pyright: ignore[reportArgumentType]


# Numbers


def test_what_a_trial_is_goes_by_its_checks_before_its_constraints(search: StoredSearch, tmp_path: Path) -> None:
    assert {trial.label: standing(search, trial) for trial in measured(search)} == {
        "reference": FEASIBLE, "#1": FEASIBLE, "#2": FEASIBLE, "#4": BREAKS, "#6": UNCHECKED, "#7": FEASIBLE, "#8": FEASIBLE,
    }  # fmt: skip
    both = made_of(tmp_path / "results", Proposed(plain(0.01), counts=(80, 40, 20), failed_check="C9"))
    assert standing(both, both.trials[0]) == UNCHECKED


def test_the_best_so_far_passes_over_what_may_not_be_chosen(search: StoredSearch) -> None:
    # 4 (0.7) breaks the constraint, 6 (0.89) fails a check; the last proposal is 12
    assert best_so_far(search, 0) == [(0, pytest.approx(0.4875)), (2, pytest.approx(0.6325)), (12, pytest.approx(0.6325))]
    assert best_so_far(search, 1) == [(0, pytest.approx(0.95)), (1, pytest.approx(0.97)), (12, pytest.approx(0.97))]


def test_the_best_of_an_objective_that_is_minimised_falls(tmp_path: Path) -> None:
    timed = [Proposed(plain(rate), counts=(95, 40, 20), seconds=seconds) for rate, seconds in ((0.01, 9.0), (0.02, 12.0), (0.03, 4.0))]
    assert best_so_far(made_of(tmp_path / "results", *timed, objectives={"seconds": "min"}), 0) == [(0, 9.0), (2, 4.0)]


@pytest.mark.parametrize(
    ("direction", "front", "corners"),
    [
        ("max", [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)], [(1, 3), (1, 2), (2, 2), (2, 1), (3, 1)]),  # both more is better: the corners lie below
        ("min", [(1.0, 1.0), (3.0, 3.0), (2.0, 2.0)], [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]),  # less of the first, more of the second
        ("max", [(1.0, 3.0), (1.0, 3.0)], [(1, 3)]),
        ("max", [], []),
    ],
)
def test_the_outline_turns_where_the_front_is_worse(direction: str, front: list[tuple[float, float]], corners: list[tuple[int, int]]) -> None:
    assert outline(front, Objective("clean", direction)) == corners


def test_no_corner_of_the_outline_is_better_than_the_front(search: StoredSearch) -> None:
    front = [(0.6325, 0.93), (0.56, 0.94), (0.4875, 0.95), (0.3675, 0.97)]
    for x, y in outline(front, search.objectives[0]):
        assert any(x <= a and y <= b for a, b in front)


def test_parameters_have_the_scales_that_optuna_wrote(search: StoredSearch) -> None:
    found = parameters(search)
    assert list(found) == ["kind", "learning_rate", "width"]
    assert (found["learning_rate"].low, found["learning_rate"].high, found["learning_rate"].is_log) == (0.001, 0.1, True)
    assert (found["width"].low, found["width"].high, found["width"].is_log) == (1.0, 8.0, False)
    assert found["kind"].words == ("plain", "wide", "None") and found["kind"].position(None) == 2.0
    assert found["learning_rate"].label == "learning_rate (log scale)"


def test_a_parameter_is_shared_if_more_than_half_of_the_trials_have_it(search: StoredSearch) -> None:
    trials = measured(search)  # 3 of 7 have a width
    assert [one.name for one in shared(parameters(search), trials)] == ["kind", "learning_rate"]
    wide_ones = [trial for trial in trials if "width" in trial.params]
    assert "width" in [one.name for one in shared(parameters(search), [*wide_ones, trials[0]])]


# History


def test_every_completed_trial_is_a_point_of_each_objective(search: StoredSearch) -> None:
    robust, clean = charted(search_charts.history(search, ON)).plots
    assert points(robust, FEASIBLE) == {
        "reference": (0, 48.75), "#1": (1, 36.75), "#2": (2, 63.25), "#7": (7, 56.0), "#8": (8, 40.75), "#9": (9, 36.75),
    }  # fmt: skip
    assert points(robust, BREAKS) == {"#4": (4, 70.0)} and points(robust, UNCHECKED) == {"#6": (6, 89.0)}
    assert points(clean, BREAKS) == {"#4": (4, 90.0)}
    assert [(mark.x, mark.y) for mark in marks(clean, "best so far")] == [(0, 95.0), (1, 95.0), (1, 97.0), (12, 97.0)]
    assert isinstance(robust, Plot) and (robust.title, robust.y.label) == ("robust_score: more is better", "robust_score (%)")


def test_what_a_stopped_trial_reached_at_its_rung_stands_on_no_axis(search: StoredSearch) -> None:
    chart = charted(search_charts.history(search, ON))
    stopped = next(trial for trial in search.trials if trial.number == 3)
    assert stopped.rungs[3]["robust_score"] == pytest.approx(0.125)
    for plot in chart.plots:
        assert points(plot, "stopped at a rung") == {"#3": (3, None), "#10": (10, None)}
        assert points(plot, "failed") == {"#5": (5, None), "#11": (11, None)}
    assert "stopped at a rung (2)" in chart.caption and "another quantity" in chart.caption and "not finished: 1." in chart.caption


def test_a_caption_says_how_many_trials_on_what_and_that_they_are_no_sample(report: Report) -> None:
    charts = [item for item in report.items() if isinstance(item, Chart)]
    assert [chart.name for chart in charts] == ["search_history", "search_front", "search_importances", "search_slices", "search_parallel"]
    for chart in charts:
        assert "n = 8 completed trials, 7 of them distinct, on 100 validation images." in chart.caption
        assert "no random sample" in chart.caption


# The front


def front_of(search: StoredSearch, root: Path) -> Chart | str:
    return search_charts.front(search, outcome(Results(root), search).rows, ON)


def test_the_front_tells_its_members_from_the_beaten_and_the_unusable(search: StoredSearch, root: Path) -> None:
    (plot,) = charted(front_of(search, root)).plots
    assert points(plot, "Pareto set") == {"reference": (48.75, 95.0), "#1": (36.75, 97.0), "#2": (63.25, 93.0), "#7": (56.0, 94.0)}
    assert points(plot, "beaten by another trial") == {"#8": (40.75, 93.0)}
    assert points(plot, BREAKS) == {"#4": (70.0, 90.0)} and points(plot, UNCHECKED) == {"#6": (89.0, 96.0)}
    assert points(plot, "reference") == {"reference": (48.75, 95.0)}
    corners = [(36.75, 97), (36.75, 95), (48.75, 95), (48.75, 94), (56, 94), (56, 93), (63.25, 93)]
    assert [(round(mark.x, 6), mark.y) for mark in marks(plot, "front")] == corners


def test_the_front_has_intervals_on_both_axes_and_its_test_figures_joined_to_them(search: StoredSearch, root: Path) -> None:
    (plot,) = charted(front_of(search, root)).plots
    assert isinstance(plot, Plot)
    second = next(mark for mark in marks(plot, "Pareto set") if mark.name == "#2")
    # Wilson for 93 of 100, z squared 3.8415: (93 + 1.9207) / 103.8415 -+ 1.96 / 103.8415 x sqrt(6.51 + 0.9604)
    assert (second.low, second.high) == (pytest.approx(86.2505, abs=1e-3), pytest.approx(96.5681, abs=1e-3))
    assert second.x_low is not None and second.x_high is not None and second.x_low < second.x < second.x_high
    assert points(plot, "Pareto set on the test images") == {"#2": (55.5, 92.0), "#7": (55.0, 90.0), "reference": (49.5, 96.0)}
    links = [[(round(mark.x, 6), mark.y) for mark in layer.marks] for layer in plot.layers if layer.look == "link"]
    assert links == [[(63.25, 93.0), (55.5, 92.0)], [(56.0, 94.0), (55.0, 90.0)], [(48.75, 95.0), (49.5, 96.0)]]


def test_three_objectives_have_a_plot_for_each_beside_the_first_and_no_outline(tmp_path: Path) -> None:
    objectives = {"clean": "max", "seconds": "min", "robust_score": "max"}
    search = made_of(tmp_path / "results", *PROPOSED, objectives=objectives)
    chart = charted(front_of(search, tmp_path / "results"))
    assert [plot.title for plot in chart.plots] == ["clean and seconds", "clean and robust_score"]
    assert not any(marks(plot, "front") for plot in chart.plots)
    assert "seconds (less is better)" in chart.caption


def test_one_objective_has_no_front_and_the_report_says_so(tmp_path: Path) -> None:
    results = stored_search(tmp_path / "results", objectives={"robust_score": "max"})
    section = next(section for section in build(results, "made").sections if section.name == "search")
    assert "The search has one objective, robust_score, so it has a best trial and no Pareto front to draw." in section.text
    assert "search_front" not in [item.name for item in section.items]
    best = next(item for item in section.items if isinstance(item, Table))
    assert best.title == "The best robust_score" and [row["trial"] for row in best.rows] == ["#2"]


# Parameters


def test_importances_are_of_the_evaluator_and_add_up(search: StoredSearch) -> None:
    chart = charted(parameter_charts.importances(search, ON))
    assert [plot.title for plot in chart.plots] == ["for all objectives", "for robust_score", "for clean"]
    for plot in chart.plots:
        assert isinstance(plot, Plot)
        assert sum(mark.x for mark in plot.layers[0].marks) == pytest.approx(100)
    assert "PED-ANOVA" in chart.caption and "with 8 of them, take them for a hint" in chart.caption
    assert any("(n = 4)" in mark.note for mark in chart.plots[0].layers[0].marks if mark.name == "width")  # type: ignore[union-attr]


def test_that_nothing_tells_trials_apart_stands_in_the_caption(tmp_path: Path) -> None:
    same = [Proposed(plain(0.01 * place), counts=(95, 40, 20)) for place in range(1, 7)]
    chart = charted(parameter_charts.importances(made_of(tmp_path / "results", *same), ON))
    assert "All of these trials are equal in robust_score and clean, so nothing tells them apart there" in chart.caption


def test_three_completed_trials_are_too_few_for_importances(tmp_path: Path) -> None:
    found = parameter_charts.importances(made_of(tmp_path / "results", *PROPOSED[:3]), ON)
    assert found == "No importances of parameters: importances need at least 4 completed trials, and there are 3."


def test_a_slice_has_the_trials_that_have_its_parameter(search: StoredSearch) -> None:
    kind, rate, width = charted(parameter_charts.slices(search, ON)).plots
    assert isinstance(kind, Plot) and isinstance(rate, Plot) and isinstance(width, Plot)
    assert [plot.title for plot in (kind, rate, width)] == ["kind (n = 7)", "learning_rate (n = 7)", "width (n = 3)"]
    assert kind.x.categories == ("plain", "wide", "None") and not kind.x.log
    assert (rate.x.log, rate.x.span, width.x.log, width.x.span) == (True, (0.001, 0.1), False, (1.0, 8.0))
    assert points(width, FEASIBLE) == {"#1": (4, 36.75), "#2": (8, 63.25)} and points(width, UNCHECKED) == {"#6": (6, 89.0)}
    assert points(kind, FEASIBLE) == {"reference": (0, 48.75), "#1": (1, 36.75), "#2": (1, 63.25), "#7": (0, 56.0), "#8": (2, 40.75)}


def test_parallel_axes_are_the_shared_parameters_then_the_objectives(search: StoredSearch) -> None:
    chart = charted(parameter_charts.parallel(search, ON))
    (plot,) = chart.plots
    assert isinstance(plot, Parallel)
    assert [axis.label for axis in plot.axes] == ["kind", "learning_rate (log scale)", "robust_score (%)", "clean (%)"]
    ways = {way.name: way for way in plot.ways}
    assert list(ways) == ["reference", "#1", "#2", "#4", "#6", "#7", "#8"]
    assert ways["#8"].values == (2.0, 0.005, pytest.approx(40.75), pytest.approx(93.0)) and ways["#8"].shade == pytest.approx(40.75)
    assert [name for name, way in ways.items() if way.is_broken] == ["#4", "#6"]
    assert "at most half of the trials have them: width." in chart.caption


def test_a_way_is_interrupted_where_a_trial_lacks_the_parameter(tmp_path: Path) -> None:
    search = made_of(tmp_path / "results", *PROPOSED[:3])  # 2 of 3 have a width
    (plot,) = charted(parameter_charts.parallel(search, ON)).plots
    assert isinstance(plot, Parallel)
    assert [axis.label for axis in plot.axes][2] == "width" and [way.values[2] for way in plot.ways] == [None, 4.0, 8.0]
    chart_drawing.chart_files(charted(parameter_charts.parallel(search, ON)), "")  # draws with a gap


# Drawing


def test_marks_of_one_legend_differ_in_shape() -> None:
    shapes: Callable[[Look], tuple[str, bool]] = lambda look: (chart_drawing._STYLES[look].marker, chart_drawing._STYLES[look].is_hollow)  # noqa: E731
    for legend in (("point", "hollow", "crossed", "foot", "foot_failed"), ("faint", "hollow", "crossed", "second", "strong", "ring")):
        assert len({shapes(look) for look in legend}) == len(legend)


def test_better_is_darker_at_every_step_and_never_lost_on_white_or_black() -> None:
    grays = []
    for step in range(21):
        red, green, blue = (int(shade(step / 20)[place : place + 2], 16) / 255 for place in (1, 3, 5))
        grays.append(0.299 * red + 0.587 * green + 0.114 * blue)
    assert all(later < earlier for earlier, later in zip(grays, grays[1:], strict=False))
    assert grays[0] - grays[-1] > 0.4 and grays[-1] > 0.25 and grays[0] < 0.75


def test_a_drawing_is_the_same_twice_and_refers_to_nothing_outside(report: Report) -> None:
    for chart in (item for item in report.items() if isinstance(item, Chart)):
        for plot in chart.plots:
            svg = chart_drawing.plot_svg(plot, chart.inches, unique="a")
            assert svg == chart_drawing.plot_svg(plot, chart.inches, unique="a")
            assert not re.search(r"https?:|xmlns|<script", svg)
            assert "#000000" not in svg  # the page's own ink


# The page and its files


def test_the_report_has_the_search_and_leaves_out_what_only_the_paper_asks(report: Report) -> None:
    names = [section.name for section in report.sections]
    assert names == ["summary", "search", "chosen", "training", "images", "checks"]
    assert not [item for item in report.items() if item.kind == "claims" or item.name.startswith(("table1", "figure"))]
    summary, search = report.sections[:2]
    assert any("Left out of a search's report: Table 1, Figures 2 to 6 and the paper's claims" in text for text in summary.text)
    assert search.text[0].startswith("13 trials by tpe, scheduler halving: 8 completed, 2 stopped, 2 failed, 1 missing")
    assert dict(report.facts)["objectives"] == "robust_score (max), clean (max)" and dict(report.facts)["constraints"] == "clean_drop <= 0.05"


def test_the_pareto_table_has_both_splits_and_what_was_searched(report: Report) -> None:
    table = next(item for item in report.items() if item.name == "search_pareto")
    assert isinstance(table, Table)
    assert [row["trial"] for row in table.rows] == ["#2", "#7", "reference", "#1"]
    first, last = table.rows[0], table.rows[-1]
    assert (first["validation_robust_score"], first["test_robust_score"]) == (pytest.approx(0.6325), pytest.approx(0.555))
    assert first["difference_clean"] == pytest.approx(0.01) and first["settings"] == "kind=wide, learning_rate=0.05, width=8"
    assert (first["validation_clean_low"], first["validation_clean_high"]) == (pytest.approx(0.862505, abs=1e-5), pytest.approx(0.965681, abs=1e-5))
    assert last["test_clean"] is None and last["difference_clean"] is None


def test_every_proposal_is_listed_with_what_became_of_it(report: Report) -> None:
    table = next(item for item in report.items() if item.name == "search_trials")
    assert isinstance(table, Table)
    rows = {str(row["trial"]): row for row in table.rows}
    assert len(rows) == 13
    assert [rows[name]["became"] for name in ("#2", "#3", "#4", "#5", "#6", "#11", "#12")] == [
        "completed, may be chosen", "stopped", "completed, breaks a constraint", "failed: loss is nan", "completed, fails a validity check (C9)",
        "failed: width 1 is too narrow", "not finished",
    ]  # fmt: skip
    assert rows["#3"]["rungs"] == "3 epochs: robust_score 12.5, clean 40" and rows["#3"]["robust_score"] is None


def test_what_failed_is_warned_of_and_what_was_stopped_is_not(report: Report) -> None:
    words = " ".join(report.warnings)
    assert "2 of 13 trials failed: #5 (loss is nan); #11 (width 1 is too narrow)." in words
    assert "1 of 13 trials are not finished" in words and "A validity check fails (C9)" in words
    assert "#3" not in words and "#10" not in words
    assert "flatter what it chose" in words


def test_only_the_chosen_trials_and_the_reference_have_curves(report: Report) -> None:
    adaptive = next(item for item in report.items() if item.name == "adaptive")
    assert {series.name for panel in adaptive.panels for series in panel.series} == {"reference", "#1", "#2", "#7"}  # type: ignore[union-attr]


def test_of_a_large_pareto_set_the_best_have_curves_and_the_rest_are_counted(tmp_path: Path) -> None:
    ladder = [Proposed(plain(0.002 * (place + 1)), counts=(97 - place, 20 + 4 * place, 10)) for place in range(9)]  # each trades clean for robust
    made = build(stored_search(tmp_path / "results", ladder, constraints=[]), "made")
    chosen = next(section for section in made.sections if section.name == "chosen")
    assert "3 more of the set are left out of these figures" in chosen.text[0]
    adaptive = next(item for item in chosen.items if item.name == "adaptive")
    names = {series.name for panel in adaptive.panels for series in panel.series}  # type: ignore[union-attr]
    assert names == {"reference", "#3", "#4", "#5", "#6", "#7", "#8"}
    pareto = next(item for item in made.items() if item.name == "search_pareto")
    assert isinstance(pareto, Table) and len(pareto.rows) == 9


def test_a_search_without_a_completed_trial_says_so(tmp_path: Path) -> None:
    unfinished = [one for one in PROPOSED if one.state != "completed"]
    made = build(stored_search(tmp_path / "results", unfinished), "made")
    section = next(section for section in made.sections if section.name == "search")
    assert section.text[0].startswith("5 trials by tpe, scheduler halving: 2 stopped, 2 failed, 1 missing")
    assert "No trial can be chosen: none is completed." in section.text
    assert any(text.startswith("No importances") for text in section.text)
    assert [item.name for item in section.items] == ["search_trials"]
    assert "no completed trial" in made.statement and "No trial is completed, so there is no history to draw." in render(made)


def test_a_search_where_nothing_may_be_chosen_shows_what_there_is(tmp_path: Path) -> None:
    made = build(stored_search(tmp_path / "results", [PROPOSED[4]]), "made")
    section = next(section for section in made.sections if section.name == "search")
    assert any("none keeps clean_drop <= 0.05; nearest is reference" in text for text in section.text)
    (plot,) = next(item for item in section.items if item.name == "search_front").plots  # type: ignore[union-attr]
    assert points(plot, BREAKS) == {"reference": (70.0, 90.0)} and not marks(plot, "Pareto set")


def test_a_search_that_cannot_be_read_is_reported_with_the_reason(tmp_path: Path) -> None:
    made = build(stored_search(tmp_path / "results", objectives={"adaptive/pgd@0.07": "max"}), "made")
    section = next(section for section in made.sections if section.name == "search")
    assert section.text[0].startswith("The search cannot be read from the tables: no scores for 'adaptive/pgd@0.07'")
    assert "checks" in [section.name for section in made.sections]


def test_an_objective_may_be_any_cell_and_have_any_unit(tmp_path: Path) -> None:
    search = made_of(tmp_path / "results", *PROPOSED, objectives={"adaptive/pgd@0.05": "max", "psnr": "max"})
    cell, psnr = charted(search_charts.history(search, ON)).plots
    assert isinstance(cell, Plot) and isinstance(psnr, Plot)
    assert (cell.y.label, psnr.y.label) == ("adaptive/pgd@0.05 (%)", "psnr (dB)")
    assert points(cell, FEASIBLE)["#2"] == (2, 60.0) and points(psnr, FEASIBLE)["#2"] == (2, 20.0)


def test_the_page_holds_every_chart_with_its_numbers(report: Report) -> None:
    text = render(report)
    for chart in (item for item in report.items() if isinstance(item, Chart)):
        assert f'<h3 id="{chart.name}">{chart.title}</h3>' in text
        for plot in chart.plots:
            assert len(plot_table(plot).rows) > 0
    assert text.count("The numbers of this figure") >= 5
    assert "63.25 [" in text  # of #2 on the front


def test_exported_rows_are_the_marks_unrounded(report: Report, tmp_path: Path) -> None:
    export(report, tmp_path, b"")
    history = list(csv.DictReader((tmp_path / "figures" / "search_history.csv").open()))
    (row,) = (row for row in history if (row["plot"], row["layer"], row["of"]) == ("robust_score: more is better", FEASIBLE, "#2"))
    assert (float(row["x"]), float(row["y"])) == (2, pytest.approx(63.25))
    foot = [row for row in history if row["layer"] == "stopped at a rung"]
    assert [(row["of"], row["y"]) for row in foot] == 2 * [("#3", ""), ("#10", "")]
    slices = list(csv.DictReader((tmp_path / "figures" / "search_slices.csv").open()))
    assert {row["x_word"] for row in slices if row["plot"] == "kind (n = 7)"} == {"plain", "wide", "None"}
    parallel = list(csv.DictReader((tmp_path / "figures" / "search_parallel.csv").open()))
    assert len(parallel) == 7 * 4 and {row["of"] for row in parallel if row["may_be_chosen"] == "False"} == {"#4", "#6"}
    front = next(item for item in report.items() if item.name == "search_front")
    assert isinstance(front, Chart) and not [row for row in chart_rows(front) if row["layer"] == ""]  # links are no numbers of their own
    assert {"search_pareto.csv", "search_pareto.tex", "search_trials.csv"} <= {path.name for path in (tmp_path / "tables").iterdir()}
    assert {f"search_front.{ending}" for ending in ("csv", "png", "svg")} <= {path.name for path in (tmp_path / "figures").iterdir()}


def test_the_command_reports_a_search_without_torch_or_ray(root: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from typer.testing import CliRunner
from sweeper.cli import app
result = CliRunner().invoke(app, ["report", "made", "--results", {str(root)!r}, "--file", {str(tmp_path / "page.html")!r}])
assert result.exit_code == 0, result.stderr
assert "2 of 13 trials failed" in result.stderr and "Warning" not in result.stderr, result.stderr
assert not {{"torch", "ray", "matplotlib.pyplot"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", script], check=True, timeout=120)
    assert '<h2 id="search">Search</h2>' in (tmp_path / "page.html").read_text(encoding="utf-8")
