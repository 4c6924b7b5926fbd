"""Read a plan's rows, once. Only what `sweeps` plans and is complete counts."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweeper.checks._result import Result
from sweeper.checks.all import run_checks
from sweeper.report.trials import Material, Row, SampleSet, Score, Trial, Variant
from sweeper.results import Results
from sweeper.schemas import TABLES
from sweeper.stored_plans import key_of_row, latest_plan, split_of, states

if TYPE_CHECKING:
    import pyarrow as pa

_SCORES = [
    "trial_id",
    "evaluation_id",
    "threat",
    "attack",
    "epsilon",
    "source",
    "classifier",
    "sample_set",
    "outcomes",
    "broken_at",
    "attack_settings",
]
_LATENTS = ["trial_id", "evaluation_id", "threat", "attack", "epsilon", "source", "depth", "l1_pre", "l1_post", "rel_pre", "rel_post", "index_change",
            "any_change", "usage", "perplexity", "image_l1", "image_l1_clean", "image_l1_shift", "input_l1", "cosine_pre", "std_pre"]  # fmt: skip


def load(results: Results, sweep: str, dataset: str | None = None, plan_hash: str | None = None) -> Material:
    """Return the rows of the plan that was run last under that name.

    Raises:
        ValueError: If there is none; the message lists the sweeps there are.
    """
    planned = latest_plan(results, sweep, dataset, plan_hash, ranks=True)
    evaluations = sorted({row["evaluation_id"] for row in planned})
    settings = {row["trial_id"]: row for row in read(results, "trials", None, {"trial_id": sorted({row["trial_id"] for row in planned})})}
    where = {"trial_id": sorted(settings), "evaluation_id": evaluations}
    scores = _scores(results, where)
    latents, epochs = _grouped(read(results, "latents", _LATENTS, where)), _grouped(read(results, "epochs", None, {"trial_id": sorted(settings)}))
    used = {score.sample_set for found in scores.values() for score in found}
    sets = {
        row["sample_set"]: SampleSet(tuple(row["sample_ids"]), tuple(row["labels"]))
        for row in read(results, "sample_sets", ["sample_set", "sample_ids", "labels"])
        if row["sample_set"] in used
    }
    found = run_checks(results, planned)
    checks: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for one in found:
        checks[one.key].append(one)
    state = states(results, planned)  # after reading, which finds the parts that are damaged inside: those are missing

    def trial(row: Row) -> Trial:
        key = key_of_row(row)
        mine = tuple(sorted(epochs.get((row["trial_id"],), []), key=lambda epoch: (epoch["stage"], epoch["epoch"])))
        return Trial(row["trial_id"], row["seed"], settings[row["trial_id"]], tuple(scores.get(key, [])), tuple(latents.get(key, [])), mine, sets)

    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(planned, key=_order):
        groups[row["variant_id"], row["evaluation_id"]].append(row)
    variants, troubles = [], []
    for members in groups.values():
        first = members[0]
        done = [row for row in members if state[key_of_row(row)]["status"] == "completed" and row["trial_id"] in settings]
        variants.append(
            Variant(first["label"], first["factor"] or "", first["level"] or "", first["is_reference"], first["evaluation_id"],
                    tuple(row["seed"] for row in members), tuple(trial(row) for row in done),
                    tuple(one for row in members for one in checks[key_of_row(row)]))
        )  # fmt: skip
        ended_early = [row for row in members if state[key_of_row(row)]["status"] == "stopped"]  # a search meant them to
        troubles += [_trouble(row, state[key_of_row(row)]) for row in members if row not in done and row not in ended_early]
    first = planned[0]
    runs = [run for run in read(results, "runs") if run["plan_hash"] == first["plan_hash"]]
    return Material(
        first["sweep"], first["plan_hash"], first["dataset"], first["scale"], first["evaluation"], float(first["score_epsilon"]), tuple(variants),
        tuple(troubles), tuple(sorted(runs, key=lambda run: run["started"])), tuple(str(problem) for problem in results.skipped),
        tuple(planned), tuple(found), split_of(results, planned),
    )  # fmt: skip


def read(results: Results, table: str, columns: Sequence[str] | None = None, where: Mapping[str, Any] | None = None) -> list[Row]:
    """Return rows; a column that this version's table does not have is left out, and `row.get` says None."""
    known = TABLES[table].columns
    return results.read(table, [name for name in columns if name in known] if columns is not None else None, where).to_pylist()


def _scores(results: Results, where: Mapping[str, Any]) -> dict[tuple[str, str], list[Score]]:
    """Return (trial_id, evaluation_id) -> scores. Lists become arrays without passing through Python objects: there are millions of images."""
    table = results.read("scores", _SCORES, where)
    outcomes, broken = _arrays(table.column("outcomes"), np.bool_), _arrays(table.column("broken_at"), np.float32)
    found: dict[tuple[str, str], list[Score]] = defaultdict(list)
    rows = table.drop_columns(["outcomes", "broken_at"]).to_pylist()
    for row, correct, broken_at in zip(rows, outcomes, broken, strict=True):
        assert correct is not None  # the column is not nullable
        labels = json.loads(row.pop("attack_settings") or "{}").get("labels", "true")
        score = Score(row["threat"], row["attack"], row["epsilon"], row["source"], row["classifier"], row["sample_set"], correct, broken_at, labels)
        found[key_of_row(row)].append(score)
    return found


def _arrays(column: "pa.ChunkedArray", dtype: type[np.generic]) -> list[NDArray | None]:
    """Return one array per list of a column, None where it is missing."""
    arrays: list[NDArray | None] = []
    for chunk in column.chunks:
        lengths = chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        values = np.asarray(chunk.flatten().to_numpy(zero_copy_only=False), dtype=dtype)
        present = chunk.is_valid().to_numpy(zero_copy_only=False)
        parts = np.split(values, np.cumsum(lengths)[:-1])
        arrays += [part if there else None for part, there in zip(parts, present, strict=True)] if len(chunk) else []
    return arrays


def _grouped(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[key_of_row(row) if "evaluation_id" in row else (row["trial_id"],)].append(row)
    return found


def _order(row: Row) -> tuple[bool, str, float, str, int]:
    """Order rows: the reference, then by factor, levels as numbers where they are numbers (8 before 16 before 256), then by seed."""
    try:
        level = float(row["level"] or "")
    except ValueError:
        level = float("inf")
    return not row["is_reference"], row["factor"] or "", level, row["label"], row["seed"]


def _trouble(row: Row, state: Row) -> str:
    what = f"{row['label']}, seed {row['seed']}: {state['status']}"
    return f"{what} ({state.get('message') or state.get('reason')})" if state["status"] == "failed" else what
