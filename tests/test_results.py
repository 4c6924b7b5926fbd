"""What the results store promises: rows once, files whole, damage named, newer files refused."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sweeper import compaction, parquet
from sweeper.results import Results
from sweeper.schemas import TABLES, Table
from sweeper.storage.local import LocalStore

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PROMISED = {  # design.md's list
    "sweeps": "sweep plan_hash trial_id variant_id label factor level is_reference reference_variant_id seed evaluation_id parts",
    "trials": "trial_id variant_id defense dataset seed target_seed config parameters reconstruction_mse psnr ssim train_seconds "
    "score_seconds device memory_bytes git_commit versions host started ended",
    "evaluations": "evaluation_id name split dataset fingerprint config",
    "suggestions": "sweep plan_hash number label source params distributions settings sampler_state problem trial_id evaluation_id rung_epochs "
    "rung_trial_ids rung_evaluation_id objectives constraints sampler scheduler asked member generation parent",
    "attempts": "trial_id evaluation_id attempt status reason message log host started ended",
    "scores": "trial_id evaluation_id attack epsilon threat source classifier sample_set n correct accuracy ci_low ci_high outcomes "
    "broken_at carried_over attack_settings attack_label achieved_epsilon seconds forwards backwards crafted_on scored_on",
    "distances": "trial_id evaluation_id attack threat source classifier norm sample_set n found median distances attack_settings seconds forwards "
    "backwards crafted_on scored_on",
    "latents": "trial_id evaluation_id attack epsilon threat source depth l1_pre l1_post rel_pre rel_post index_change usage perplexity "
    "quantization_error image_l1 image_l1_clean psnr ssim",
    "strips": "trial_id evaluation_id threat attack epsilon position sample_id label predicted_clean predicted_adversarial clean adversarial "
    "purified_clean purified",
    "epochs": "trial_id stage epoch loss learning_rate seconds",
    "checks": "trial_id evaluation_id check kind outcome value threshold message level probes_version seconds",
    "samples": "sample_id label split",
    "sample_sets": "sample_set dataset split n sample_ids labels transfer_source",
    "runs": "sweep plan_hash dataset evaluation_id command started host trials git_commit",
}
EXAMPLES: dict[str, object] = {
    "string": "a", "int8": 1, "int32": 1, "int64": 2**40, "float32": 0.5, "float64": 0.1, "bool": True, "timestamp": NOW,
    "binary": b"a",
}  # fmt: skip


def example(table: str) -> dict[str, Any]:
    """A row with a value in every column."""
    spec = TABLES[table]
    row = {}
    for name in spec.columns:
        kind = spec.type_of(name)
        row[name] = [EXAMPLES[kind[5:-1]]] * 2 if kind.startswith("list") else EXAMPLES[kind]
    return row | {"schema_version": spec.version}


def score(trial_id: str = "t1", epsilon: float = 0.1, **changes: Any) -> dict[str, Any]:
    outcomes = [True, True, False, True]
    return {
        "trial_id": trial_id, "evaluation_id": "e1", "attack": "pgd", "epsilon": epsilon, "threat": "adaptive", "source": "defense",
        "classifier": "retrained", "sample_set": "s1", "n": 4, "correct": 3, "accuracy": 0.75, "ci_low": 0.3, "ci_high": 0.95,
        "outcomes": outcomes,
    } | changes  # fmt: skip


def trial(trial_id: str = "t1", **changes: Any) -> dict[str, Any]:
    return {
        "trial_id": trial_id, "variant_id": "v1", "defense": "vqunet", "dataset": "digits", "seed": 0, "target_seed": 0, "config": "{}",
    } | changes  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results", create=True)


@pytest.fixture
def filled(results: Results) -> Results:
    """Three completed trials with one score part of two rows each."""
    for name in ("t1", "t2", "t3"):
        results.publish("scores", f"aa-{name}", [score(name, 0.1), score(name, 0.2)])
        results.publish("trials", name, [trial(name)])
    return results


def part(results: Results, key: str = "aa-t1", table: str = "scores") -> Path:
    return Path(results.root) / "parts" / table / key[:2] / f"{key}.parquet"


def newer_version(monkeypatch: pytest.MonkeyPatch, table: str = "scores") -> None:
    """From here on, this program knows a table's next version, with one more column."""
    old = TABLES[table]
    monkeypatch.setitem(TABLES, table, Table(old.version + 1, old.key, old.sort, old.columns | {"extra": "float64?"}))


@pytest.mark.parametrize("table", PROMISED)
def test_every_table_has_its_columns_and_a_version(table: str) -> None:
    assert set(PROMISED[table].split()) <= TABLES[table].columns.keys()
    assert "schema_version" in TABLES[table].columns
    assert set(TABLES[table].key) | set(TABLES[table].sort) <= TABLES[table].columns.keys()
    assert not any(TABLES[table].is_nullable(name) for name in TABLES[table].key)


def test_no_table_is_without_a_test() -> None:
    assert TABLES.keys() == PROMISED.keys()


@pytest.mark.parametrize("table", TABLES)
def test_every_table_gives_back_what_was_published(results: Results, table: str) -> None:
    row = example(table)
    results.publish(table, "ab", [row])
    assert results.read(table, include_unfinished=True).to_pylist() == [row]
    results.compact()
    results.clean(grace_seconds=0)
    assert results.read(table, include_unfinished=True).to_pylist() == [row]


@pytest.mark.parametrize("table", TABLES)
def test_every_empty_table_has_typed_columns(results: Results, table: str) -> None:
    data = results.read(table)
    assert data.num_rows == 0 and data.schema.equals(parquet.schema(table))


def test_columns_left_out_are_null(results: Results) -> None:
    results.publish("scores", "ab", [score()])
    row = results.read("scores", include_unfinished=True).to_pylist()[0]
    assert row["broken_at"] is None and row["carried_over"] is None


def test_publishing_again_changes_nothing(results: Results) -> None:
    assert results.publish("scores", "ab", [score(accuracy=0.75)])
    assert not results.publish("scores", "ab", [score(accuracy=0.5)])
    assert results.read("scores", ["accuracy"], include_unfinished=True).to_pylist() == [{"accuracy": 0.75}]
    assert results.stored("scores") == {"ab"} and results.has("scores", "ab") and not results.has("scores", "ac")


def test_publishing_again_after_compaction_and_cleaning_changes_nothing(filled: Results) -> None:
    filled.compact()
    filled.clean(grace_seconds=0)
    assert not part(filled).exists()
    assert not filled.publish("scores", "aa-t1", [score("t1", 0.1), score("t1", 0.2)])
    assert filled.stored("scores") == {"aa-t1", "aa-t2", "aa-t3"}


def test_unknown_column_is_named_with_the_nearest(results: Results) -> None:
    with pytest.raises(ValueError, match="unknown column 'acuracy' of table scores; did you mean 'accuracy'"):
        results.publish("scores", "ab", [score(acuracy=0.5)])
    with pytest.raises(ValueError, match="unknown column 'acuracy'"):
        results.read("scores", ["acuracy"])


def test_unknown_table_is_named_with_the_nearest(results: Results) -> None:
    with pytest.raises(ValueError, match="unknown table 'score'; did you mean 'scores'"):
        results.publish("score", "ab", [score()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": None}, "scores.accuracy must have a value"),
        ({"epsilon": "0.1"}, "scores.epsilon takes float64, got '0.1'"),
        ({"outcomes": 3}, "scores.outcomes takes list<bool>, got 3"),
    ],
)
def test_wrong_value_is_named_before_anything_is_written(results: Results, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results.publish("scores", "ab", [score(**changes)])
    assert not results.stored("scores")


def test_time_without_zone_is_refused(results: Results) -> None:
    with pytest.raises(ValueError, match="trials.started takes times with a time zone"):
        results.publish("trials", "ab", [trial(started=datetime(2026, 1, 1))])


def test_part_key_that_is_no_file_name_is_refused(results: Results) -> None:
    with pytest.raises(ValueError, match="part key must be"):
        results.publish("scores", "../../x", [score()])


def test_two_rows_with_one_key_in_a_part_are_refused(results: Results) -> None:
    with pytest.raises(ValueError, match="two of these 2 rows of scores have the same trial_id"):
        results.publish("scores", "ab", [score(), score()])


def test_row_in_two_parts_fails_loudly_and_names_both_files(filled: Results) -> None:
    filled.publish("scores", "bb", [score("t1", 0.1)])
    with pytest.raises(ValueError, match=r"row twice.*'trial_id': 't1'.*aa-t1\.parquet and .*bb\.parquet"):
        filled.read("scores", ["accuracy"])
    with pytest.raises(ValueError, match="row twice"):
        filled.query("select count(*) from scores")


def test_scores_show_once_their_trial_is_completed(results: Results) -> None:
    results.publish("scores", "ab", [score("t1")])
    assert results.read("scores").num_rows == 0
    assert results.read("scores", include_unfinished=True).num_rows == 1
    assert results.query("select * from scores")[1] == []
    results.publish("trials", "t1", [trial("t1")])
    assert results.read("scores").num_rows == 1
    assert results.query("select trial_id from scores") == (["trial_id"], [("t1",)])


def test_where_takes_values_lists_and_none(filled: Results) -> None:
    filled.publish("scores", "bb", [score("t1", 0.3, carried_over=2, threat="graybox")])
    assert filled.read("scores", ["epsilon"], {"threat": "graybox"}).to_pylist() == [{"epsilon": 0.3}]
    assert filled.read("scores", where={"trial_id": ["t1", "t2"], "epsilon": 0.1}).num_rows == 2
    assert filled.read("scores", where={"carried_over": None}).num_rows == 6
    assert filled.read("scores", where={"carried_over": [None, 2]}).num_rows == 7


@pytest.mark.parametrize("column", ["trial_id", "epsilon", "carried_over"])
def test_a_row_has_none_of_no_values(filled: Results, column: str) -> None:
    assert filled.read("scores", where={column: []}).num_rows == 0


@pytest.mark.parametrize(
    "where", [None, {}, {"epsilon": 0.1}, {"epsilon": [0.1, 0.3], "trial_id": ["t1"]}, {"carried_over": None}, {"carried_over": [None, 3]}]
)
def test_a_table_that_is_read_already_is_narrowed_as_reading_narrows_it(results: Results, where: dict[str, Any] | None) -> None:
    rows = [score("t1", epsilon, carried_over=carried) for epsilon, carried in ((0.1, None), (0.2, 3), (0.3, 4))]
    results.publish("scores", "aa-t1", rows)
    results.publish("scores", "aa-t2", [score("t2", 0.1)])
    columns = ["trial_id", "epsilon"]
    read = results.read("scores", columns, where, include_unfinished=True)
    whole = results.read("scores", include_unfinished=True)
    assert parquet.narrowed(whole, columns, where).to_pylist() == read.to_pylist()
    assert parquet.narrowed(whole).equals(whole)


PUBLISH_MANY = """
import sys
sys.path.insert(0, {tests!r})
from test_results import score
from sweeper.results import Results
results = Results({root!r})
print(sum(results.publish("scores", f"{{n:03d}}", [score("t1", n / 1000)]) for n in range(60)))
"""


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_publishing_the_same_parts_leave_each_once(results: Results) -> None:
    code = PUBLISH_MANY.format(tests=str(Path(__file__).parent), root=str(results.root))
    racers = [python(code), python(code)]
    won = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(won) == 60
    assert results.read("scores", include_unfinished=True).num_rows == 60
    assert list((Path(results.root) / ".tmp").iterdir()) == []


KILLED_IN = """
import os, sys, time
sys.path.insert(0, {tests!r})
from test_results import score
from sweeper.results import Results
results = Results({root!r})
def hang(*_, **__):
    print("writing", flush=True)
    time.sleep(60)
os.{step} = hang
results.publish("scores", "ab", [score()])
"""


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_interrupted_write_leaves_no_visible_file(results: Results, step: str) -> None:
    results.publish("scores", "aa", [score(epsilon=0.5)])  # so that the only write left is the part's
    child = python(KILLED_IN.format(tests=str(Path(__file__).parent), root=str(results.root), step=step))
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert results.stored("scores") == {"aa"}
    assert results.problems() == []
    assert len(list((Path(results.root) / ".tmp").iterdir())) == 1
    assert results.publish("scores", "ab", [score()])
    results.clean(grace_seconds=0)
    assert list((Path(results.root) / ".tmp").iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(255 for _ in range(56))  # the first column's page header; the footer stays whole
    path.write_bytes(content)


def overwrite_with_text(path: Path) -> None:
    path.write_text("not Parquet, but long enough to be looked at")


def overwrite_with_foreign_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"trial_id": ["t1"], "price": [3]}), path)


DAMAGES = [cut, flip_a_page, overwrite_with_text, overwrite_with_foreign_parquet]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_named_and_the_rest_is_read(filled: Results, damage: Callable[[Path], None]) -> None:
    damage(part(filled, "aa-t2"))
    heard: list[str] = []
    reader = Results(filled.root, on_problem=lambda problem: heard.append(str(problem)))
    assert set(reader.read("scores", ["trial_id"])["trial_id"].to_pylist()) == {"t1", "t3"}
    assert reader.read("scores").num_rows == 4  # and it is named once
    assert len(heard) == 1 and heard[0].startswith(str(part(filled, "aa-t2")))
    assert [Path(problem.path) for problem in reader.skipped] == [part(filled, "aa-t2")]
    assert Results(filled.root).query("select distinct trial_id from scores order by 1")[1] == [("t1",), ("t3",)]


@pytest.mark.parametrize("damage", [cut, overwrite_with_text])
def test_torn_part_does_not_count_as_stored_and_is_replaced(filled: Results, damage: Callable[[Path], None]) -> None:
    damage(part(filled, "aa-t2"))
    assert filled.stored("scores") == {"aa-t1", "aa-t3"} and not filled.has("scores", "aa-t2")
    assert filled.publish("scores", "aa-t2", [score("t2", 0.1), score("t2", 0.2)])
    assert filled.read("scores").num_rows == 6
    assert (Path(filled.root) / "quarantine" / part(filled, "aa-t2").relative_to(Path(filled.root))).exists()


def test_quarantine_moves_a_file_and_its_part_is_missing_then(filled: Results) -> None:
    overwrite_with_foreign_parquet(part(filled, "aa-t2"))
    (problem,) = filled.problems()
    assert "foreign" in problem.reason
    moved = filled.quarantine(problem.name)
    assert Path(moved) == Path(filled.root) / "quarantine" / "parts" / "scores" / "aa" / "aa-t2.parquet"
    assert filled.problems() == [] and filled.stored("scores") == {"aa-t1", "aa-t3"}
    with pytest.raises(ValueError, match="quarantine takes a file under"):
        filled.quarantine("/etc/hostname")


def test_problems_name_files_that_do_not_belong(filled: Results) -> None:
    strays = [Path(filled.root) / "parts" / "scores" / "notes.txt", Path(filled.root) / "parts" / "score" / "aa" / "aa.parquet"]
    for path in strays:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("stray")
    assert {Path(problem.path) for problem in filled.problems()} == set(strays)
    assert filled.read("scores").num_rows == 6


def test_damaged_compacted_file_gives_way_to_its_parts(filled: Results) -> None:
    filled.compact()
    (name,) = filled.store.files("compacted/scores")
    cut(Path(filled.root) / name)
    reader = Results(filled.root)
    assert reader.read("scores").num_rows == 6
    assert [problem.name for problem in reader.skipped] == [name]
    reader.compact()
    assert Results(filled.root).read("scores").num_rows == 6
    assert Results(filled.root).problems() == []


def test_parts_of_a_lost_compacted_file_are_missing(filled: Results) -> None:
    filled.compact()
    filled.clean(grace_seconds=0)
    (name,) = filled.store.files("compacted/scores")
    (Path(filled.root) / name).unlink()
    reader = Results(filled.root)
    assert reader.stored("scores") == set() and reader.stored("trials") == {"t1", "t2", "t3"}
    assert reader.publish("scores", "aa-t1", [score("t1")])
    assert reader.read("scores").num_rows == 1
    assert name in [problem.name for problem in reader.skipped]


@pytest.mark.parametrize("compacted", [True, False])
def test_a_file_damaged_inside_is_among_the_problems_and_its_parts_are_missing_once_it_is_moved_away(filled: Results, compacted: bool) -> None:
    if compacted:
        filled.compact()
        filled.clean(grace_seconds=0)
    (name,) = filled.store.files("compacted/scores") if compacted else [filled.folder.part_name("scores", "aa-t2")]
    flip_a_page(Path(filled.root) / name)
    reader = Results(filled.root)
    (problem,) = reader.problems()
    assert problem.name == name and "damaged" in problem.reason
    reader.quarantine(problem.name)
    after = Results(filled.root)
    assert [problem.reason for problem in after.problems()] == ["gone"] * compacted
    assert after.stored("scores") == (set() if compacted else {"aa-t1", "aa-t3"})
    assert after.publish("scores", "aa-t2", [score("t2", 0.1), score("t2", 0.2)])
    assert after.read("scores", where={"trial_id": "t2"}).num_rows == 2


def test_compaction_keeps_rows_and_cleaning_keeps_them_too(filled: Results) -> None:
    before = sorted(map(str, filled.read("scores").to_pylist()))
    done = filled.compact()
    assert done is not None and done.parts == 6
    assert sorted(map(str, filled.read("scores").to_pylist())) == before
    assert filled.clean(grace_seconds=3600) == []  # too young to delete anything
    assert filled.clean(grace_seconds=0)
    assert filled.store.files("parts") == []
    assert sorted(map(str, filled.read("scores").to_pylist())) == before
    assert filled.compact() is None


def test_second_compaction_merges_small_files_and_cleaning_removes_the_first(filled: Results) -> None:
    filled.compact()
    filled.publish("scores", "bb", [score("t1", 0.3)])
    filled.compact()
    assert len(filled.store.files("compacted/scores")) == 2
    filled.clean(grace_seconds=0)
    assert len(filled.store.files("compacted/scores")) == 1
    assert len(filled.store.files("compacted/trials")) == 1
    assert filled.read("scores").num_rows == 7


def test_compaction_splits_at_the_row_limit(filled: Results) -> None:
    filled.compact(max_rows=4)
    filled.clean(grace_seconds=0)
    assert len(filled.store.files("compacted/scores")) == 2
    assert filled.read("scores").num_rows == 6


def test_few_parts_are_left_alone_on_request(filled: Results) -> None:
    assert filled.compact(min_parts=7) is None
    assert filled.compact(min_parts=6) is not None


def test_compaction_that_loses_the_race_starts_over(filled: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    rival, honest = Results(filled.root), LocalStore.create
    lost: list[str] = []

    def create(store: LocalStore, name: str, content: bytes) -> bool:
        if name.startswith("manifests/") and not lost:
            lost.append(name)
            assert rival.compact() is not None
        return honest(store, name, content)

    monkeypatch.setattr(LocalStore, "create", create)
    filled.publish("scores", "bb", [score("t1", 0.3)])
    filled.compact()
    assert lost and filled.read("scores").num_rows == 7
    assert len(filled.store.files("compacted/scores")) == 1  # the loser's file is gone


def test_damaged_part_stays_out_of_compaction(filled: Results) -> None:
    cut(part(filled, "aa-t2"))
    filled.compact()
    assert filled.stored("scores") == {"aa-t1", "aa-t3"}
    assert filled.compact() is None
    assert len(filled.store.files("compacted/scores")) == 1


def test_readers_see_no_row_twice_while_others_publish_and_compact(results: Results) -> None:
    results.publish("trials", "t1", [trial("t1")])
    stop = threading.Event()

    def compact_again_and_again() -> None:
        while not stop.is_set():
            Results(results.root).compact()

    compactors = [threading.Thread(target=compact_again_and_again) for _ in range(2)]
    for thread in compactors:
        thread.start()
    try:
        for number in range(40):
            results.publish("scores", f"{number:03d}", [score("t1", number / 100)])
            seen = Results(results.root).read("scores", ["epsilon"])  # raises if a row is there twice
            assert seen.num_rows == number + 1
    finally:
        stop.set()
        for thread in compactors:
            thread.join()
    results.clean(grace_seconds=0)
    assert results.read("scores").num_rows == 40 and results.skipped == []


def test_full_disk_is_explained_and_leaves_nothing(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"no space left for results root .*results: \d+ bytes free, \d+ bytes needed") as raised:
            results.publish("scores", "ab", [score()])
        assert raised.value.errno == errno.ENOSPC
    assert results.stored("scores") == set() and list((Path(results.root) / ".tmp").iterdir()) == []
    assert results.publish("scores", "ab", [score()])


def test_parts_are_published_where_links_are_refused(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert results.publish("scores", "ab", [score()])
    assert not results.publish("scores", "ab", [score()])
    assert results.read("scores", include_unfinished=True).num_rows == 1


def test_link_whose_reply_was_lost_counts_as_ours(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.link

    def link(source: Path, target: Path) -> None:
        honest(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert results.publish("scores", "ab", [score()])


@pytest.fixture
def read_only(filled: Results, monkeypatch: pytest.MonkeyPatch) -> Iterator[Results]:
    """A root in which nothing can be created; by hand, because root may write anywhere."""
    honest = open

    def refuse(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "x" in mode or "w" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return honest(path, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    yield filled


def test_read_only_root_is_read_but_not_opened_for_writing(read_only: Results) -> None:
    reader = Results(read_only.root)
    assert reader.read("scores").num_rows == 6
    assert reader.query("select count(*) from scores")[1] == [(6,)]
    with pytest.raises(ValueError, match="results root .* is not writable: Permission denied"):
        Results(read_only.root, create=True)


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(ValueError, match="must be a folder, got the file"):
        Results(tmp_path / "results", create=True)
    with pytest.raises(ValueError, match="is not writable: Not a directory"):
        Results(tmp_path / "results" / "below", create=True)


def test_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no results under .*: it has no store.json"):
        Results(tmp_path)


def test_store_of_a_newer_format_is_refused(results: Results) -> None:
    (Path(results.root) / "store.json").write_text(json.dumps({"program": "sweeper", "format": 2}))
    with pytest.raises(ValueError, match="store.json says format 2, this program knows up to 1"):
        Results(results.root)


def test_table_of_a_newer_version_is_refused_when_opened(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        newer_version(patch)
        results.publish("scores", "ab", [score(extra=1.0)])
    with pytest.raises(ValueError, match=r"scores-v2\.json: table scores was written here in version 2, .* up to 1"):
        Results(results.root)


def test_file_of_a_newer_version_is_refused_when_read(filled: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        newer_version(patch)
        elsewhere = Results(tmp_path / "newer", create=True)
        elsewhere.publish("scores", "aa-t9", [score("t9", extra=1.0)])
    shutil.copy(part(elsewhere, "aa-t9"), part(filled).parent)
    with pytest.raises(ValueError, match=r"aa-t9\.parquet holds table scores in version 2, this program knows up to 1"):
        filled.read("scores", ["accuracy"])
    assert [Path(problem.path) for problem in filled.problems()] == [part(filled, "aa-t9")]


def test_columns_added_later_are_null_in_older_files(filled: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    newer_version(monkeypatch)
    reader = Results(filled.root)
    reader.publish("scores", "bb", [score("t1", 0.3, extra=1.5)])
    assert reader.read("scores", ["extra"]).to_pylist().count({"extra": None}) == 6
    reader.compact()
    reader.clean(grace_seconds=0)
    assert sorted(reader.query("select extra, schema_version from scores where epsilon > 0.2 or trial_id = 't2'")[1], key=str) == [
        (1.5, 2), (None, 1), (None, 1),
    ]  # fmt: skip


def test_query_describes_every_table_though_empty(results: Results) -> None:
    for table, spec in TABLES.items():
        assert [row[0] for row in results.query(f"select column_name from (describe {table})")[1]] == list(spec.columns)


def test_query_gives_values_that_json_knows(results: Results) -> None:
    results.publish("trials", "t1", [trial("t1", psnr=float("nan"), started=NOW)])
    results.publish("scores", "ab", [score("t1", broken_at=[0.5, float("inf")])])
    columns, rows = results.query("select psnr, started, sum(seed) over () total, broken_at, outcomes from trials join scores using (trial_id)")
    assert columns == ["psnr", "started", "total", "broken_at", "outcomes"]
    assert rows == [(None, "2026-01-02T03:04:05+00:00", 0, [0.5, None], [True, True, False, True])]
    assert json.loads(json.dumps(rows, allow_nan=False))


def test_query_errors_are_duckdbs_own_words(results: Results) -> None:
    with pytest.raises(ValueError, match="query: Binder Error"):
        results.query("select acuracy from scores")
    with pytest.raises(ValueError, match="query: Parser Error"):
        results.query("selec 1")


@pytest.mark.parametrize("statement", ["copy trials to '{}/out.csv'", "attach '{}/out.db'", "select * from read_csv('{}/store.json')"])
def test_query_neither_reads_nor_writes_files(results: Results, statement: str) -> None:
    before = set(Path(results.root).iterdir())
    with pytest.raises(ValueError, match="disabled by configuration"):
        results.query(statement.format(results.root))
    assert set(Path(results.root).iterdir()) == before


def test_parts_and_manifest_are_readable_without_this_package(filled: Results) -> None:
    import duckdb

    (count,) = duckdb.execute(f"select count(*) from '{filled.root}/parts/scores/*/*.parquet'").fetchall()[0]
    assert count == 6
    filled.compact()
    newest = json.loads(max((Path(filled.root) / "manifests").iterdir()).read_text())
    files = [str(Path(filled.root) / "compacted" / "scores" / file["name"]) for file in newest["tables"]["scores"]]
    assert duckdb.execute(f"select count(*) from read_parquet({files})").fetchall() == [(6,)]


def test_damaged_manifest_falls_back_to_the_one_before(filled: Results) -> None:
    filled.compact()
    filled.publish("scores", "bb", [score("t1", 0.3)])
    filled.compact()
    (Path(filled.root) / compaction.manifest_name(2)).write_text("{")
    reader = Results(filled.root)
    assert reader.read("scores").num_rows == 7
    assert reader.clean(grace_seconds=0) == []  # nothing is deleted by a manifest that cannot be read
    assert [problem.name for problem in reader.skipped] == ["manifests/00000002.json"]
