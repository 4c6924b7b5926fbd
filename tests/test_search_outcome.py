"""What is said of a search's Pareto set, from tables written by hand."""

from pathlib import Path

from stored_search import TEST, stored_search

from sweeper.search.outcome import outcome
from sweeper.search.stored import read_search


def test_a_check_that_fails_on_the_test_images_stands_beside_the_trial(tmp_path: Path) -> None:
    results = stored_search(tmp_path / "results")
    before = outcome(results, read_search(results, "made"))
    assert [row["failed_checks_on_test"] for row in before.rows] == [[]] * len(before.rows)
    first = before.rows[0]
    row = {
        "trial_id": first["trial_id"], "evaluation_id": TEST, "check": "C13", "kind": "validity", "outcome": "fail", "level": "standard",
        "message": "twice the steps break 5 points more", "probes_version": 1, "value": 0.05, "threshold": 0.01,
    }  # fmt: skip
    warned = row | {"check": "C17", "outcome": "warn", "value": 0.02}
    results.publish("checks", "c13", [row, warned])
    after = outcome(results, read_search(results, "made"))
    assert after.rows[0]["failed_checks_on_test"] == ["C13"]
    assert after.shown()[0]["trial"] == f"{first['label']} (fails C13)"
    assert f"Checks warn on the test images, `check made/pareto` says of what: {first['label']} (C17)." in after.notes
    assert f"Fails a validity check on the test images, so its figures are not to be believed: {first['label']} (C13)." in after.notes


def test_other_trials_that_met_the_test_images_are_named(tmp_path: Path) -> None:
    results = stored_search(tmp_path / "results")
    search = read_search(results, "made")
    chosen = {row["label"] for row in outcome(results, search).rows}
    other = next(trial for trial in search.trials if trial.label not in chosen and trial.key and trial.state == "completed")
    assert other.key is not None
    attempt = {"trial_id": other.key[0], "evaluation_id": "elsewhere", "attempt": 9, "status": "completed"}
    results.publish("attempts", "elsewhere", [attempt])
    said = " ".join(outcome(results, read_search(results, "made")).notes)
    assert "were scored on the test images, too, under this root" in said and other.label in said
