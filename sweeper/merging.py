"""One results root taken into another: what the other one lacks of trials, artifacts, files and logs.

Rows have keys made of content, so what both roots have is the same work, and the rows that are there stay. What is new is committed with one
manifest: a reader of the target sees all of it or nothing.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeper import compaction, parquet
from sweeper.keys import part_key
from sweeper.results import Results
from sweeper.schemas import TABLES
from sweeper.stored_plans import in_order

if TYPE_CHECKING:
    import pyarrow as pa

ATTEMPTS = 5  # to commit, where others commit at the same time
FOLDERS = ("artifacts", "sources", "logs")
_PASSING = ("artifacts/checkpoints/",)  # of trainings under way: they are the other root's business
_ORDER = ("trials", *(table for table in TABLES if table != "trials"))  # a trial's other rows are there before its row of `trials` is


@dataclass
class Merged:
    """What a merge brought: table -> rows, files copied and their bytes, and failed tries that were given a later number."""

    rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    renumbered: int = 0


def merge(target: Results, source: Results) -> Merged:
    """Take into target what source has and target has not; source is only read, and may be written to meanwhile.

    Raises:
        ValueError: If both are the same root, or others committed manifests at the same time, again and again.
    """
    if target.root == source.root:
        raise ValueError(f"a results root cannot be merged with itself: {target.root}")
    merged = Merged()
    _copy_files(target, source, merged)
    for _ in range(ATTEMPTS):
        base = compaction.newest(target.folder)  # before the target is read: what is committed from here on makes this attempt lose
        additions = _additions(target, source, merged)
        if not additions or compaction.add(target, additions, base):
            return merged
    raise ValueError(f"others kept committing to {target.root}; merge again when they are done")


def _additions(target: Results, source: Results, merged: Merged) -> dict[str, compaction.Addition]:
    """Return the rows that target lacks, by table; merged is told how many."""
    additions: dict[str, compaction.Addition] = {}
    merged.rows.clear()
    for table in _ORDER:
        rows, parts = source.read_all(table)
        known, held = target.read_all(table)  # at once, and what is damaged holds nothing: a part is new if, and only if, its rows are not known
        if table == "attempts":  # numbered from 1 in both, so the number does not say whether a try is known
            rows, new, merged.renumbered = _attempts(rows, known)
        else:
            rows, new = parquet.anti_join(rows, known, TABLES[table].key), parts - held
        if new and rows.num_rows:
            additions[table] = compaction.Addition(parquet.encode(table, rows, is_compacted=True), rows.num_rows, tuple(sorted(new)))
            target.folder.announce_schema(table, TABLES[table])
            merged.rows[table] = rows.num_rows
    return additions


def _copy_files(target: Results, source: Results, merged: Merged) -> None:
    for folder in FOLDERS:
        there = set(target.store.files(folder))
        for name in source.store.files(folder):
            if name in there or name.startswith(_PASSING):
                continue
            with suppress(FileNotFoundError):  # of a training that ended just now
                content = source.store.read(name)
                target.store.create(name, content)
                merged.files += 1
                merged.bytes += len(content)


def _attempts(rows: "pa.Table", known: "pa.Table") -> tuple["pa.Table", set[str], int]:
    """Return the tries that are not known, their parts, and how many were numbered anew: both roots count from 1."""
    there = known.to_pylist()
    same = {_identity(row) for row in there}
    completed = {(row["trial_id"], row["evaluation_id"]) for row in there if row["status"] == "completed"}
    last: dict[tuple[str, str], int] = {}
    for row in there:
        trial = row["trial_id"], row["evaluation_id"]
        last[trial] = max(last.get(trial, 0), row["attempt"])
    kept, parts, renumbered = [], set(), 0
    for row in in_order(rows.to_pylist()):
        trial = row["trial_id"], row["evaluation_id"]
        if _identity(row) in same or (row["status"] == "completed" and trial in completed):
            continue
        if row["attempt"] <= last.get(trial, 0):
            row["attempt"] = last[trial] + 1
            renumbered += 1
        last[trial] = row["attempt"]
        kept.append(row)
        parts.add(part_key("attempts", *trial, "completed" if row["status"] == "completed" else str(row["attempt"])))
    return parquet.to_arrow("attempts", kept), parts, renumbered


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["trial_id"], row["evaluation_id"], row["status"], row["host"], row["started"]
