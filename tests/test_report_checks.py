"""A report carries the reviewer's checks: worst first, as `run_checks` gives them; what fails is marked everywhere, and decides what may be said."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checked_tables import let_plain_rise, plan_of, sound
from report_tables import VQUNET, Root, paper_root
from test_report_page import Page
from typer.testing import CliRunner

from sweeper.checks.all import run_checks
from sweeper.checks.gate import how_many
from sweeper.cli import app
from sweeper.ranking import latest_plan, rank
from sweeper.report import assemble
from sweeper.report.assemble import build
from sweeper.report.cells import claims_table, span
from sweeper.report.content import Checks, Claim, Claims, Figure, Report, Table
from sweeper.report.export import export
from sweeper.report.governed import ABOUT_A_GAIN, ABOUT_CLEAN, govern
from sweeper.report.naming import System, systems_of
from sweeper.report.page import render
from sweeper.report.rows import load
from sweeper.results import Results

FOUND = "twice the steps break <3.1> points more"


def stored(results: Results, label: str, check: str = "C13", outcome: str = "fail", seeds: tuple[int, ...] = (0, 1, 2), **values: Any) -> Results:
    """Plant rows of table `checks`, as a probe of the trained networks would leave them."""
    row = {"check": check, "kind": "validity", "outcome": outcome, "message": FOUND, "value": 0.031, "threshold": 0.01}
    row |= {"level": "standard", "probes_version": 1} | values
    mine = [one for one in results.read("sweeps").to_pylist() if one["label"] == label and one["seed"] in seeds]
    results.publish(
        "checks", f"{label}-{check}".lower(), [{"trial_id": one["trial_id"], "evaluation_id": one["evaluation_id"]} | row for one in mine]
    )
    return Results(results.root)


def item(report: Report, name: str) -> Any:
    return next(item for item in report.items() if item.name == name)


def checks_of(report: Report, name: str = "checks") -> Checks:
    found = item(report, name)
    assert isinstance(found, Checks)
    return found


def rows_of(report: Report, table: str) -> list[dict[str, Any]]:
    found = item(report, table)
    assert isinstance(found, Table)
    return [dict(row) for row in found.rows]


def said_of(report: Report, check: str) -> dict[str, str]:
    return {str(row["systems"]): str(row["said"]) for row in rows_of(report, "may_be_said") if row["check"] == check}


def systems(results: Results, sweep: str) -> dict[str, System]:
    return {system.plain: system for system in systems_of(load(results, sweep)).all}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return stored(paper_root(tmp_path_factory.mktemp("planted") / "results").finish(), "reference", seeds=(1,))


@pytest.fixture(scope="module")
def report(planted: Results) -> Report:
    return build(planted, "paper")


@pytest.fixture(scope="module")
def drawn(report: Report) -> str:
    return render(without_figures(report))


def without_figures(report: Report) -> Report:
    """Return its sections of checks and claims: drawing takes a second or two."""
    return replace(report, sections=tuple(section for section in report.sections if section.name in ("checks", "claims")))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return sound(tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def named(healthy: Results) -> dict[str, System]:
    return systems(healthy, "sound")


def saying(system: System, check: str, outcome: Any, message: str = FOUND) -> System:
    """Put another outcome in the place of what a check says at a system's first seed."""
    first = system.variant.trials[0].trial_id
    told = [one._replace(outcome=outcome, message=message) if (one.check, one.trial_id) == (check, first) else one for one in system.variant.checks]
    return replace(system, variant=replace(system.variant, checks=tuple(told)))


# The section


def test_a_planted_failure_of_a_validity_check_comes_first(report: Report) -> None:
    first = checks_of(report).rows[0]
    assert (first.outcome, first.kind, first.check, first.finds) == ("fail", "validity", "C13", FOUND)
    assert (first.values, first.thresholds, first.trials) == ((0.031,), (0.01,), "VQUNet (own recipe), seed 1")
    assert first.asks == "Twice the steps change less than a point" and "Pintor" in first.citation


def test_every_result_of_run_checks_stands_in_one_row_with_its_value(planted: Results, report: Report) -> None:
    found = run_checks(planted, latest_plan(planted, "paper"))
    item = checks_of(report)
    by_row = {(row.outcome, row.check, row.finds): row for row in (*item.rows, *item.quiet)}
    assert len(by_row) == len(item.rows) + len(item.quiet)
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for one in found:
        groups.setdefault((one.outcome.replace("_", " "), one.check, one.message), []).append(one)
    assert groups.keys() == by_row.keys()
    for key, members in groups.items():
        for shown, given in ((by_row[key].values, [one.value for one in members]), (by_row[key].thresholds, [one.threshold for one in members])):
            known = [value for value in given if value is not None]
            assert (min(shown, default=None), max(shown, default=None)) == (min(known, default=None), max(known, default=None))
    assert [one._asdict() for one in found] == [{name: row[name] for name in found[0]._fields} for row in item.single]


def test_the_worst_comes_first_and_what_passes_or_does_not_apply_is_folded_away(report: Report, drawn: str) -> None:
    item, page = checks_of(report), Page(drawn)
    order = ["fail", "warn", "not run"]
    assert [order.index(row.outcome) for row in item.rows] == sorted(order.index(row.outcome) for row in item.rows)
    assert {row.outcome for row in item.quiet} == {"not applicable", "pass"}
    tables = [rows[1:] for rows in page.tables if rows[0] == ["outcome", "kind", "check", "value", "threshold", "trials", "finds"]]
    assert [[row[0] for row in rows] for rows in tables] == [[row.outcome for row in rows] for rows in (item.rows, item.quiet)]
    (folded,) = (text for text in page.texts["details"] if "What passes or does not apply" in text)
    assert all(row.finds in folded for row in item.quiet) and FOUND not in folded


def test_the_page_shows_value_threshold_and_source_and_has_no_script(drawn: str) -> None:
    page = Page(drawn)
    first = next(rows for rows in page.tables if rows[0][:2] == ["outcome", "kind"])[1]
    assert first[3:] == ["0.031", "0.01", "VQUNet (own recipe), seed 1", FOUND]
    assert "Pintor et al., 2022, Indicators of attack failure (arXiv:2106.09947)" in page.texts["small"]
    assert "<script" not in drawn and "<3.1>" not in drawn


def test_how_many_checks_were_run_is_said_in_the_section_and_in_the_summary(planted: Results, report: Report) -> None:
    words = how_many(run_checks(planted, latest_plan(planted, "paper")))
    assert "C13 on 1 of 14 trials" in words
    for name in ("summary", "checks"):
        assert words in next(section.text for section in report.sections if section.name == name)


def test_values_that_differ_between_trials_are_shown_as_their_range(healthy: Results) -> None:
    found = checks_of(build(healthy, "sound"))
    row = next(row for row in found.quiet if row.check == "C18" and row.trials == "all trials")
    # the adaptive attack leaves 0 of 1,000 of the target alone, at most 400 + 2 x 5 of the quantized one, at the epsilon with the least room
    assert row.values[0] == 0.0 and len(row.values) == 2 and 0 < row.values[1] <= 0.41
    assert span((0.25, 1 / 3)) == "0.25 to 0.3333" and span((0.2,)) == "0.2" and span(()) == ""


def test_seeds_of_one_system_are_named_together(tmp_path: Path) -> None:
    results = stored(stored(sound(tmp_path), "quantized", seeds=(0, 2)), "plain", seeds=(1,))
    assert checks_of(build(results, "sound")).rows[0].trials == "unet, seed 1; vqunet, seeds 0, 2"  # in the order of the plan


def test_a_sweep_without_a_completed_trial_was_not_checked(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine")
    root.variant("reference", {0: None})
    found = build(root.finish(), "mine")
    assert checks_of(found).rows == () and rows_of(found, "may_be_said") == []
    assert any("nothing was checked" in text for section in found.sections if section.name == "checks" for text in section.text)
    assert Page(render(without_figures(found))).open == []


def test_checks_of_another_data_set_stand_beside_and_mark_its_own_rows_only(tmp_path: Path) -> None:
    other = paper_root(tmp_path / "results", "fashion_mnist").finish()
    stored(other, "reference")
    found = build(paper_root(tmp_path / "results", "digits").finish(), "paper", "digits")
    assert checks_of(found, "checks_fashion_mnist").rows[0].check == "C13" and checks_of(found).rows[0].check != "C13"
    assert rows_of(found, "table1_recipes_fashion_mnist")[-1]["system"] == "VQUNet (own recipe) (unranked: C13)"
    assert rows_of(found, "table1_recipes")[0]["system"] == "VQUNet (own recipe)"


# What fails is marked


def test_a_system_that_fails_at_one_seed_is_marked_and_last_with_its_figures(tmp_path: Path, report: Report) -> None:
    before = rows_of(build(paper_root(tmp_path / "results").finish(), "paper"), "table1_recipes")
    after = rows_of(report, "table1_recipes")
    assert [row["system"] for row in before] == ["VQUNet (own recipe)", "non-VQUNet (own recipe)", "Defense-VAE (own recipe)"]
    assert [row["system"] for row in after] == ["non-VQUNet (own recipe)", "Defense-VAE (own recipe)", "VQUNet (own recipe) (unranked: C13)"]
    assert {**after[-1], "system": ""} == {**before[0], "system": ""} and after[-1]["robust_score"] == 0.53125
    (note,) = (note for note in item(report, "table1_recipes").notes if "Unranked" in note)
    assert f"VQUNet (own recipe), C13 at seed 1: {FOUND}" in note
    assert not any("Unranked" in note for note in item(report, "table1").notes)


def test_the_mark_stands_in_every_figure_table_and_strip_and_among_the_warnings(report: Report) -> None:
    marked = "VQUNet (own recipe) (unranked: C13)"
    for name in ("figure2_recipes", "graybox_recipes", "adaptive_recipes", "figure3", "training_purifier_recipes", "perplexity"):
        found = item(report, name)
        assert isinstance(found, Figure)
        names = {series.name for panel in found.panels for series in panel.series}
        assert marked in names and "VQUNet (own recipe)" not in names
    assert item(report, "strips").strips[0].system == marked
    assert rows_of(report, "codebooks")[-1]["system"] == marked
    assert any(marked in warning and "not to be believed" in warning for warning in report.warnings)


def test_the_report_marks_what_rank_does_not_rank(tmp_path: Path) -> None:
    results = stored(sound(tmp_path, let_plain_rise), "blur", "C20")
    unranked = {row["label"] for row in rank(results, "sound").rows if row["status"] == "unranked"}
    variants = load(results, "sound").variants
    assert {variant.label for variant in variants if variant.failed} == unranked == {"plain", "blur"}
    assert {variant.unranked for variant in variants} == {"", "unranked: C9", "unranked: C20"}


@pytest.mark.parametrize("check", ["C27", "C30"])
def test_a_failed_claim_or_advice_marks_nothing(check: str, named: dict[str, System]) -> None:
    system = saying(named["vqunet"], check, "fail")
    worst = system.variant.worst(check)
    assert worst is not None and worst.outcome == "fail" and system.name == "vqunet"
    assert saying(system, "C9", "fail").name == "vqunet (unranked: C9)"


# What may be said


def test_a_sound_sweep_may_say_what_its_claim_checks_pass(healthy: Results) -> None:
    found = build(healthy, "sound")
    gains = said_of(found, "C27")
    assert gains["vqunet"].startswith("may be said: +") and "against plain" in gains["vqunet"]
    assert set(gains) == {"vqunet", "unet"}  # it does not apply to controls
    assert set(said_of(found, "C26").values()) == {"may be said: every adaptive variant is there"}
    assert not said_of(found, "C34")


def test_few_seeds_may_say_nothing_and_the_reason_is_given(tmp_path: Path) -> None:
    found = build(sound(tmp_path, seeds=1), "sound")
    assert all(said.startswith("may not be said: 1 of at least 3 seeds") for said in said_of(found, "C33").values())
    assert said_of(found, "C27")["vqunet; unet"] == "may not be said, not run: 1 seed in common with the best control: nothing is tested over seeds"


def test_a_failed_validity_check_forbids_every_sentence_of_that_system(tmp_path: Path) -> None:
    found = build(stored(sound(tmp_path), "quantized", seeds=(2,)), "sound")
    for check in ("C26", "C27", "C29", "C33"):
        assert said_of(found, check)["vqunet (unranked: C13)"] == "may not be said: unranked: C13, so its figures are not to be believed"
    assert said_of(found, "C27")["unet"].startswith("may be said")


HOLDS = Claim("It is better than the rest", "section 4", "holds", "measured")


def test_a_sentence_that_holds_may_be_said_where_its_checks_pass(named: dict[str, System]) -> None:
    claim = govern(HOLDS, ABOUT_A_GAIN, [named["vqunet"], named["unet"]])
    assert (claim.allowed, claim.said, claim.checks) == (True, "may be said", "C27 passes; C33 passes; C34 does not apply")
    assert govern(HOLDS, ABOUT_CLEAN, [named["mean blur"]]).allowed is True
    assert govern(HOLDS, (), [named["vqunet"]]) == HOLDS  # no check governs it


@pytest.mark.parametrize("culprit", ["vqunet", "unet"])
def test_a_failed_validity_check_of_anyone_in_it_forbids_a_sentence_that_holds(culprit: str, named: dict[str, System]) -> None:
    everyone = [saying(named[name], "C13", "fail") if name == culprit else named[name] for name in ("vqunet", "unet")]
    claim = govern(HOLDS, ABOUT_A_GAIN, everyone)
    assert claim.said == "may not be said" and claim.checks.startswith(f"validity check C13 fails for {culprit}: {FOUND}; C27 passes")
    assert govern(HOLDS, (), everyone).said == "may not be said"


def test_what_is_compared_must_have_seeds_and_images_but_no_gain_of_its_own(named: dict[str, System]) -> None:
    lone = saying(saying(named["unet"], "C33", "fail", "2 seeds"), "C27", "fail", "no gain")
    claim = govern(HOLDS, ABOUT_A_GAIN, [named["vqunet"], lone])
    assert (claim.allowed, claim.checks) == (False, "C33 fails for unet: 2 seeds; C27 passes; C34 does not apply")


@pytest.mark.parametrize(("outcome", "words"), [("warn", "C29 does not decide for vqunet"), ("not_run", "C29 was not run for vqunet")])
def test_a_check_that_is_undecided_or_was_not_run_at_one_seed_allows_nothing(outcome: str, words: str, named: dict[str, System]) -> None:
    claim = govern(HOLDS, ABOUT_CLEAN, [saying(named["vqunet"], "C29", outcome, "too few")])
    assert claim.said == "may not be said" and claim.checks.startswith(f"{words}: too few")


def test_a_check_that_says_nothing_of_a_system_allows_nothing(named: dict[str, System]) -> None:
    bare = replace(named["vqunet"], variant=replace(named["vqunet"].variant, checks=()))
    assert govern(HOLDS, ("C29",), [bare]).said == "may not be said"


def test_a_sentence_that_does_not_hold_is_neither_allowed_nor_forbidden(named: dict[str, System]) -> None:
    for verdict in ("fails", "undecided"):
        claim = govern(replace(HOLDS, verdict=verdict), ABOUT_A_GAIN, [named["vqunet"]])
        assert claim.said == "" and claim.checks.startswith("C27 passes")
    untested = replace(HOLDS, verdict="not tested")
    assert govern(untested, ABOUT_A_GAIN, [named["vqunet"]]) == untested


def test_the_papers_sentences_stand_beside_the_checks_that_govern_them(report: Report, drawn: str) -> None:
    claims = item(report, "claims")
    assert isinstance(claims, Claims)
    higher = next(claim for claim in claims.claims if "more accurate under every attack than each baseline (authors' recipes)" in claim.claim)
    assert higher.verdict == "holds" and higher.said == "may not be said"
    for words in ("validity check C13 fails for VQUNet (own recipe)", "C27 fails for VQUNet (own recipe): controls are missing",
                  "C33 fails for VQUNet (own recipe), Defense-VAE (own recipe): 2 of at least 3 seeds"):  # fmt: skip
        assert words in higher.checks
    asked = {words: next(claim.checks for claim in claims.claims if words in claim.claim)
             for words in ("costs less than 1 point of clean accuracy", "NOT IN THE PAPER", "after quantization is smaller")}  # fmt: skip
    assert ["C29" in asked["costs less than 1 point of clean accuracy"], "C26 fails" in asked["NOT IN THE PAPER"]] == [True, True]
    assert asked["after quantization is smaller"] == f"validity check C13 fails for VQUNet (own recipe): {FOUND}"
    shown = next(rows for rows in Page(drawn).tables if rows[0][:3] == ["claim", "where", "verdict"])
    (row,) = (row for row in shown if row[0] == higher.claim)
    assert row[2] == "holds may not be said" and f"checks: {higher.checks}" in row[3]
    (row,) = (row for row in claims_table(claims).rows if row["claim"] == higher.claim)
    assert row["checks"] == f"may not be said: {higher.checks}"


def test_claims_are_governed_where_the_subject_is_another_sweeps_reference(tmp_path: Path) -> None:
    root = Root(tmp_path / "results", sweep="mine")
    root.variant("reference", VQUNET)
    found = item(build(root.finish(), "mine"), "claims")
    clean = next(claim for claim in found.claims if "costs less than 1 point" in claim.claim)
    assert "C33 fails for reference" in clean.checks


# The files


def test_the_parts_hold_one_row_per_check_and_trial_unrounded(tmp_path: Path) -> None:
    results = stored(sound(tmp_path / "results"), "quantized", value=1 / 3)
    export(without_figures(build(results, "sound")), tmp_path / "out", b"")
    with (tmp_path / "out" / "tables" / "checks.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = run_checks(results, plan_of(results))
    assert len(rows) == len(found) == 15 * 36
    for row, one in zip(rows, found, strict=True):
        assert (row["check"], row["trial_id"], row["outcome"], row["message"]) == (one.check, one.trial_id, one.outcome, one.message)
        assert (float(row["value"]) if row["value"] else None) == one.value
    failed = [row for row in rows if row["outcome"] == "fail"]
    assert [(row["label"], row["seed"], row["citation"][:6]) for row in failed] == [("quantized", seed, "Pintor") for seed in "012"]


def test_the_verdicts_beside_the_path_say_what_may_be_said(planted: Results, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "build", lambda *_, **__: without_figures(report))
    done = CliRunner().invoke(app, ["report", "paper", "--results", str(planted.root)])
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.stderr.splitlines() if "more accurate under every attack than each baseline (authors'" in line)
    assert line.startswith("holds") and line.rstrip().endswith("may not be said")
