"""Two results roots become one: nothing twice, nothing lost, and what was made in either is not made again."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_sweep import Silent, SmallSweep
from tiny_sweep import invoke

from sweeper import compaction
from sweeper.merging import merge
from sweeper.results import Results
from sweeper.schemas import TABLES
from sweeper.sweep import inline, run_sweep, state_of
from sweeper.worker import Job, record_failure


def everything(root: Path) -> dict[str, list[str]]:
    return {table: sorted(map(str, Results(root).read(table, include_unfinished=True).to_pylist())) for table in TABLES}


@pytest.mark.parametrize("compacted", [True, False])
def test_an_empty_root_takes_everything_and_nothing_is_missing_then(sweep: SmallSweep, tmp_path: Path, compacted: bool) -> None:
    source = shutil.copytree(sweep.root, tmp_path / "source")
    if compacted:
        Results(source).compact()
        Results(source).clean(grace_seconds=0)
    target = Results(tmp_path / "target", create=True)
    merged = merge(target, Results(source))
    assert everything(tmp_path / "target") == everything(source)
    assert merged.rows["trials"] == 3 and merged.files > 0
    state = state_of(sweep.plan, tmp_path / "target")
    assert state.missing == [] and state.stages == []
    again = merge(target, Results(source))
    assert (again.rows, again.files) == ({}, 0)


def test_two_halves_become_the_whole(sweep: SmallSweep, tmp_path: Path) -> None:
    first, second = (shutil.copytree(sweep.root, tmp_path / name) for name in ("first", "second"))
    ids = sorted(trial.trial_id for trial in sweep.plan.trials)
    forget(first, ids[:1])
    forget(second, ids[1:])
    Results(first).compact()
    assert len(state_of(sweep.plan, first).missing) == 1 and len(state_of(sweep.plan, second).missing) == 2
    merge(Results(first), Results(second))
    assert everything(first) == everything(sweep.root)
    assert state_of(sweep.plan, first).missing == []


def forget(root: Path, trial_ids: list[str]) -> None:
    """Remove all parts of some trials."""
    for folder in ("manifests", "compacted"):  # the parts are there still
        shutil.rmtree(root / folder, ignore_errors=True)
    results = Results(root)
    for trial in results.read("sweeps", ["trial_id", "parts"]).to_pylist():
        if trial["trial_id"] in trial_ids:
            for part in trial["parts"]:
                results.store.delete(results.folder.part_name(*part.split("/")))
            for table in ("attempts", "checks"):
                for key, name in list(results.folder.parts(table)):
                    if trial["trial_id"] in str(results.read_parts(table, [key]).to_pylist()):
                        results.store.delete(name)
    assert not set(trial_ids) & set(Results(root).read("trials", ["trial_id"])["trial_id"].to_pylist())


def test_tries_of_a_trial_that_both_roots_know_are_numbered_on(sweep: SmallSweep, tmp_path: Path) -> None:
    target, source = (shutil.copytree(sweep.root, tmp_path / name) for name in ("target", "source"))
    trial = sweep.plan.trials[0]
    forget(target, [trial.trial_id])
    for root, reason in ((target, "lost"), (source, "oom")):
        record_failure(Job("small", Results(root).store, None), trial, reason, f"{reason} there", datetime.now(UTC))
    merged = merge(Results(target), Results(source))
    rows = [row for row in Results(target).read("attempts").to_pylist() if row["trial_id"] == trial.trial_id]
    assert sorted((row["attempt"], row["status"], row["reason"]) for row in rows) == [
        (1, "failed", "lost"),
        (2, "completed", None),
        (3, "failed", "oom"),
    ]
    assert merged.renumbered == 2
    record_failure(Job("small", Results(target).store, None), trial, "lost", "and again", datetime.now(UTC))
    assert max(Results(target).read("attempts", ["attempt"])["attempt"].to_pylist()) == 4


def test_a_failed_try_comes_along_though_both_roots_call_theirs_the_first_and_nothing_else_is_new(sweep: SmallSweep, tmp_path: Path) -> None:
    target, source = (Results(shutil.copytree(sweep.root, tmp_path / name)) for name in ("target", "source"))
    for results, reason in ((target, "lost"), (source, "oom")):
        record_failure(Job("small", results.store, None), sweep.plan.trials[0], reason, f"{reason} there", datetime.now(UTC))
    first = merge(target, source)
    failed = target.read("attempts", ["attempt", "reason"], {"status": "failed"}).to_pylist()
    assert sorted(failed, key=lambda row: row["attempt"]) == [{"attempt": 2, "reason": "lost"}, {"attempt": 3, "reason": "oom"}]
    assert (first.rows, first.renumbered) == ({"attempts": 1}, 1)
    again = merge(target, source)
    assert (again.rows, again.renumbered) == ({}, 0)


def test_the_command_says_what_came_and_refuses_what_is_no_root(sweep: SmallSweep, tmp_path: Path) -> None:
    done = invoke("merge", sweep.root, "--results", tmp_path / "new")
    assert done.exit_code == 0 and "trials" in done.stdout and "other files copied" in done.stdout
    assert invoke("rank", "small", "--results", tmp_path / "new").exit_code == 0
    refused = invoke("merge", tmp_path / "nothing", "--results", tmp_path / "new")
    assert refused.exit_code == 2 and "no results under" in refused.stderr
    same = invoke("merge", sweep.root, "--results", sweep.root)
    assert same.exit_code == 2 and "cannot be merged with itself" in same.stderr


def test_a_merge_and_a_compaction_at_once_lose_nothing(sweep: SmallSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compactor has read the manifest, the merge commits, the compactor commits."""
    target, source = Results(tmp_path / "target", create=True), Results(sweep.root)
    target.publish("evaluations", "own", [{"evaluation_id": "own", "name": "n", "split": "test", "dataset": "d", "fingerprint": "f", "config": "{}"}])
    honest, merged = Results.merge, []

    def slow(results: Results, table: str, paths: list[str]) -> tuple[bytes, int, list[str]]:
        if not merged:
            merged.append(merge(Results(tmp_path / "target"), source))
        return honest(results, table, paths)

    monkeypatch.setattr(Results, "merge", slow)
    target.compact()
    found = everything(tmp_path / "target")
    assert merged and found["trials"] == everything(sweep.root)["trials"] and len(found["evaluations"]) == 2


def test_two_merges_of_one_root_at_once_double_nothing(sweep: SmallSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = Results(tmp_path / "target", create=True), Results(sweep.root)
    honest, first = compaction.add, []

    def second(results: Results, additions: dict[str, compaction.Addition], base: int) -> bool:
        if not first:
            first.append(1)
            merge(Results(tmp_path / "target"), source)
        return honest(results, additions, base)

    monkeypatch.setattr(compaction, "add", second)
    assert merge(target, source).rows == {}
    assert everything(tmp_path / "target") == everything(sweep.root)


def test_rows_that_cannot_be_read_do_not_count_as_brought(sweep: SmallSweep, tmp_path: Path) -> None:
    source = shutil.copytree(sweep.root, tmp_path / "source", ignore=shutil.ignore_patterns("compacted", "manifests"))
    damaged = next(path for path in (source / "parts" / "scores").rglob("*.parquet"))
    content = bytearray(damaged.read_bytes())
    content[4:200] = bytes(196)
    damaged.write_bytes(content)
    target = Results(tmp_path / "target", create=True)
    merge(target, Results(source))
    assert not target.has("scores", damaged.stem)
    assert len(state_of(sweep.plan, tmp_path / "target").missing) == 1


def lose_a_page(content: bytearray) -> None:
    content[4:200] = bytes(196)


def lose_the_footer(content: bytearray) -> None:
    content[-200:-8] = bytes(192)


@pytest.mark.parametrize("damage", [lose_a_page, lose_the_footer])
def test_a_damaged_part_of_the_target_is_taken_over_by_name(sweep: SmallSweep, tmp_path: Path, damage: Callable[[bytearray], None]) -> None:
    target = shutil.copytree(sweep.root, tmp_path / "target", ignore=shutil.ignore_patterns("compacted", "manifests"))
    damaged, *_, missing = sorted((target / "parts" / "scores").rglob("*.parquet"))
    missing.unlink()
    content = bytearray(damaged.read_bytes())
    damage(content)
    damaged.write_bytes(content)
    merge(Results(target), Results(sweep.root))
    assert everything(target) == everything(sweep.root)
    for problem in (results := Results(target)).problems():
        results.quarantine(problem.name)
    assert not damaged.exists() and state_of(sweep.plan, target).missing == []
    assert run_sweep(sweep.plan, sweep.splits, target, None, inline, Silent()) == []
    assert everything(target)["scores"] == everything(sweep.root)["scores"]
