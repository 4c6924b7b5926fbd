"""`check` says worst first what is wrong, and `rank` does not rank it."""

import json
from pathlib import Path

from checked_tables import Row, let_plain_rise, plan_of, set_correct, sound
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.ranking import Ranking, rank
from sweeper.results import Results

PROBED = {"level": "standard", "probes_version": 1}


def invoke(*words: str, root: Path) -> str:
    done = CliRunner().invoke(app, [*words, "--results", str(root)])
    assert done.exit_code == 0, done.output
    return done.stdout


def places(ranking: Ranking) -> list[tuple[int | None, str]]:
    return [(row["rank"], row["label"]) for row in ranking.rows]


def survives_undefended(row: Row) -> None:
    if row["label"] == "undefended" and row["threat"] == "graybox" and row["attack"] != "fgsm":
        set_correct(row, 400)


def test_a_sound_sweep_is_ranked_although_not_everything_was_run(tmp_path: Path) -> None:
    ranking = rank(sound(tmp_path), "sound")
    assert places(ranking) == [(1, "quantized"), (2, "plain"), (3, "blur"), (4, "tuned"), (5, "undefended")]
    assert ranking.notes[-1] == "7 of 18 validity checks run (C1, C6, C8, C9, C11, C12, C18); none failed. `check` shows each."


def test_a_variant_with_a_failed_validity_check_stands_behind_the_ranked_ones_with_its_reason(tmp_path: Path) -> None:
    ranking = rank(sound(tmp_path, let_plain_rise), "sound")
    assert places(ranking) == [(1, "quantized"), (2, "blur"), (3, "tuned"), (4, "undefended"), (None, "plain")]
    row = ranking.rows[-1]
    assert row["status"] == "unranked" and row["robust_score"] is not None
    assert [(one["check"], one["seed"]) for one in row["failed_checks"]] == [("C9", 1)]  # one seed of three is enough
    notes = "\n".join(ranking.notes)
    assert "Unranked by C9 (Accuracy does not rise with epsilon), 1 of 5 rows: graybox/fgsm@0.1" in notes
    assert "failed: C9 on 1 of 15 trials" in notes
    assert ranking.shown()[-1]["rank"] == "-"


def test_unchecked_ranks_everything_and_says_so(tmp_path: Path) -> None:
    ranking = rank(sound(tmp_path, let_plain_rise), "sound", unchecked=True)
    assert places(ranking)[1] == (2, "plain") and ranking.notes[-1] == "Nothing was checked (--unchecked)."
    assert [row["label"] for row in json.loads(invoke("rank", "sound", "--unchecked", "--format", "json", root=tmp_path))][1] == "plain"


def test_a_broken_attack_leaves_no_row_ranked(tmp_path: Path) -> None:
    ranking = rank(sound(tmp_path, survives_undefended), "sound")
    assert {row["rank"] for row in ranking.rows} == {None}
    assert any("leaves the undefended target at 40.0 %: the attack is broken. These: quantized, plain" in note for note in ranking.notes)


def test_a_claim_that_fails_changes_no_rank(tmp_path: Path) -> None:
    assert places(rank(sound(tmp_path, seeds=1), "sound"))[0] == (1, "quantized")


def test_a_stored_claim_or_advice_that_fails_changes_no_rank(tmp_path: Path) -> None:
    results = sound(tmp_path)
    ids = [row["trial_id"] for row in plan_of(results) if row["label"] == "quantized"]
    for check, kind in (("C26", "claim"), ("C31", "advice")):
        rows = [
            {"trial_id": name, "evaluation_id": "e", "check": check, "kind": kind, "outcome": "fail", "message": "stored", **PROBED} for name in ids
        ]
        results.publish("checks", kind, rows)
    assert places(rank(Results(tmp_path), "sound"))[0] == (1, "quantized")


def test_a_stored_failure_unranks_and_a_stored_pass_counts_as_run(tmp_path: Path) -> None:
    results = sound(tmp_path)
    rows = [
        {"trial_id": row["trial_id"], "evaluation_id": "e", "check": "C20", "kind": "validity", "message": "the gradient is zero for 40 %",
         "outcome": "fail" if row["label"] == "quantized" else "pass", "value": 0.4, "threshold": 0.01, **PROBED}
        for row in plan_of(results)
    ]  # fmt: skip
    results.publish("checks", "probe", rows)
    ranking = rank(Results(tmp_path), "sound")
    assert places(ranking)[-1] == (None, "quantized") and ranking.rows[0]["label"] == "plain"
    assert "8 of 18 validity checks run" in ranking.notes[-1]


def test_the_worst_comes_first_with_value_threshold_and_sentence(tmp_path: Path) -> None:
    sound(tmp_path, let_plain_rise)
    lines = invoke("check", "sound", root=tmp_path).splitlines()
    assert lines[2].split()[:3] == ["fail", "validity", "C9"]
    assert "plain, seed 1" in lines[2] and "graybox/fgsm@0.1" in lines[2] and "above an earlier epsilon" in lines[2]
    outcomes = [line.split("  ")[0] for line in lines[2:-2]]
    assert outcomes == sorted(outcomes, key=["fail", "warn", "not run"].index) and not any("C18" in line for line in lines[2:-2])
    assert lines[-1] == "7 of 18 validity checks run (C1, C6, C8, C9, C11, C12, C18); failed: C9 on 1 of 15 trials."
    assert any("C18" in line for line in invoke("check", "sound", "--all", root=tmp_path).splitlines()[2:-1])


def test_json_has_one_row_per_check_and_trial_with_its_source(tmp_path: Path) -> None:
    sound(tmp_path)
    rows = json.loads(invoke("check", "sound", "--all", "--format", "json", root=tmp_path))
    assert len(rows) == 15 * 36
    first = next(row for row in rows if row["check"] == "C8")
    assert (first["outcome"], first["threshold"], first["kind"]) == ("pass", 0.1, "validity") and "Carlini" in first["citation"]


def test_a_sweep_without_a_completed_trial_is_said_to_be_so(tmp_path: Path) -> None:
    results = sound(tmp_path)
    for path in (tmp_path / "parts" / "trials").rglob("*.parquet"):
        results.quarantine(path)
    assert "No trial of this plan is completed." in invoke("check", "sound", root=tmp_path)


def test_an_unknown_sweep_is_refused_with_those_there_are(tmp_path: Path) -> None:
    sound(tmp_path)
    done = CliRunner().invoke(app, ["check", "soud", "--results", str(tmp_path)])
    assert done.exit_code == 2 and "did you mean 'sound'" in done.stderr
