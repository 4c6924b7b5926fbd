"""Every check on every completed trial of a plan."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.checks._curves import curves_of
from sweeper.checks._result import Key, Result, result
from sweeper.checks.catalogue import CHECKS
from sweeper.checks.claims import adaptive_variants, beats_controls, clean_drop, enough_for_a_headline, nothing_selected
from sweeper.checks.gate import TRIAL_COLUMNS, planned_of, read_scores, validity, with_stored
from sweeper.checks.reporting import can_be_repeated, output_depends_on_input, tested_elsewhere, threats_apart
from sweeper.ranking import trial_figures
from sweeper.results import Results


def run_checks(results: Results, planned_rows: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Return one result per check and completed trial, in the order of the checks, then of the plan.

    A check that the tables cannot answer is `not_run` and says why, unless table `checks` has a row for it.

    Args:
        planned_rows: Rows of `sweeps`, of one plan.
    """
    trials = {row["trial_id"]: row for row in results.read("trials", TRIAL_COLUMNS).to_pylist()}
    planned = planned_of(planned_rows, trials)
    if not planned.rows:
        return []
    scores = read_scores(results, planned.rows)
    curves = curves_of(scores, planned)
    found = validity(results, planned, scores)
    found += adaptive_variants(planned, curves) + beats_controls(planned, _robust_scores(results, planned.rows)) + clean_drop(results, planned)
    found += enough_for_a_headline(planned, curves) + nothing_selected(results, planned) + tested_elsewhere(planned)
    found += threats_apart(planned, curves) + output_depends_on_input(results, planned) + can_be_repeated(planned, curves)
    answered = {(one.key, one.check) for one in found}
    found += [
        result(check, key, "not_run", check.needs or "a later version is needed")
        for check in CHECKS.values()
        for key in planned.keys
        if (key, check.name) not in answered
    ]
    order = {name: place for place, name in enumerate(CHECKS)}
    return sorted(with_stored(results, planned, found), key=lambda one: (order.get(one.check, len(order)), planned.index[one.key]))


def _robust_scores(results: Results, rows: Sequence[Mapping[str, Any]]) -> dict[Key, float]:
    wanted = {(row["trial_id"], row["evaluation_id"]) for row in rows}
    figures = trial_figures(results, wanted, float(rows[0]["score_epsilon"]), "robust_score")
    return {key: found["robust_score"] for key, found in figures.items() if found.get("robust_score") is not None}
