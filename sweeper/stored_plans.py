"""What the tables say of the plans that were run: which one was last, on whose images, and how far each of its trials is. No torch, no Ray."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sweeper.lookup import canonical, nearest
from sweeper.results import Results

FRONT = "/pareto"  # behind a search's name: the sweep that scores its Pareto set on the test images
SELECTED = "/selected"  # behind a sweep's name: the sweep that scores its chosen variant, and no other, on the test images
REFINED = "/refined"  # the sweep that runs its best variants again, with more seeds, on the same validation images

Key = tuple[str, str]  # trial_id and evaluation_id: one trial may be scored in several ways


def key_of_row(row: Mapping[str, Any]) -> Key:
    """Return which planned trial a row of sweeps, attempts, scores or latents is about."""
    return row["trial_id"], row["evaluation_id"]


def origins(sweep: str) -> list[str]:
    """Return a sweep and those that its variants were taken from: `a/refined` and `a`."""
    names = [sweep]
    while names[-1].endswith(REFINED):
        names.append(names[-1].removesuffix(REFINED))
    return names


def latest_plan(
    results: Results, sweep: str, dataset: str | None = None, plan_hash: str | None = None, *, ranks: bool = False, split: str | None = None
) -> list[dict[str, Any]]:
    """Return the `sweeps` rows of the plan that was run last under that name (on that data set), or of the plan named.

    Args:
        ranks: Prefer the last plan whose evaluation ranks; a later `quick` one does not stand in its way.
        split: Only plans that are scored on the images of this split.

    Raises:
        ValueError: If there is none; the message lists the sweeps there are.
    """
    runs = results.read("runs", ["sweep", "plan_hash", "dataset", "started"]).to_pylist()
    known = {run["sweep"] for run in runs}
    is_name = canonical(sweep) in known or sweep.endswith((SELECTED, REFINED))
    name = canonical(sweep if is_name else sweep.removesuffix(".py").rpartition("/")[2])
    mine = [
        run
        for run in runs
        if run["sweep"] == name
        and (dataset is None or run["dataset"] == canonical(dataset))
        and (plan_hash is None or run["plan_hash"].startswith(plan_hash))
    ]
    wanted = name + (f" on {canonical(dataset)}" if dataset else "") + (f" with plan {plan_hash}" if plan_hash else "")
    if not mine:
        names = sorted({f"{run['sweep']} on {run['dataset']}" for run in runs})
        raise ValueError(f"no sweep {wanted!r} under {results.root}{nearest(name, known)}; there are: {', '.join(names)}")
    hashes = dict.fromkeys(run["plan_hash"] for run in sorted(mine, key=lambda run: run["started"], reverse=True))
    plans = [plan for found in hashes if (plan := results.read("sweeps", where={"plan_hash": found}).to_pylist())] if ranks or split else []
    plans = plans or [results.read("sweeps", where={"plan_hash": next(iter(hashes))}).to_pylist()]
    if not plans[0]:
        raise ValueError(f"sweep {wanted!r} has no trial under {results.root} yet")
    if split is not None:
        plans = [plan for plan in plans if split_of(results, plan) == split]
        if not plans:
            hint = " (the trials of a search always are)" if split == "validation" else ""
            raise ValueError(f"no plan of {wanted!r} under {results.root} is scored on {split} images; `run` it with --split {split} first{hint}")
    return next((plan for plan in plans if ranks and plan[0]["evaluation"] != "quick"), plans[0])


def split_of(results: Results, planned: Sequence[Mapping[str, Any]]) -> str:
    """Return whose images a plan is scored on: `validation`, or `test`, as is everything that table `evaluations` does not know."""
    rows = results.read("evaluations", ["split"], {"evaluation_id": sorted({row["evaluation_id"] for row in planned})}).to_pylist()
    return rows[0]["split"] if rows else "test"


def title(sweep: str, dataset: str, scale: str, evaluation: str, split: str) -> str:
    """Return what figures are about in words; the test images go without saying."""
    return f"{sweep} on {dataset} ({', '.join([scale, evaluation, *(['validation images'] if split == 'validation' else [])])})"


def title_of(results: Results, planned: Sequence[Mapping[str, Any]]) -> str:
    """Return the title of a stored plan."""
    first = planned[0]
    return title(first["sweep"], first["dataset"], first["scale"], first["evaluation"], split_of(results, planned))


def is_search(results: Results, plan_hash: str) -> bool:
    """Say whether a plan of the tables is a search."""
    return results.read("suggestions", ["number"], {"plan_hash": plan_hash}).num_rows > 0


def states(results: Results, planned: Sequence[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Return key -> status (`completed`, `stopped`, `continued`, `failed`, `missing`), with reason, message and log of a failure, or why it was left.

    Of a search's trial that is not run at full length: `failed` if its run at a rung did; `continued` if it is an earlier generation of a member of a
    population and scored: the member goes on from there, with its own phases or another's.
    """
    tables = {part.partition("/")[0] for row in planned for part in row["parts"]}
    stored = {f"{table}/{part}" for table in tables for part in results.stored(table)}
    found: dict[Key, dict[str, Any]] = {}
    for row in planned:
        rest = [part for part in row["parts"] if part not in stored]
        found[key_of_row(row)] = {"status": "missing" if rest else "completed", "parts": f"{len(row['parts']) - len(rest)}/{len(row['parts'])}"}
    if all(state["status"] == "completed" for state in found.values()):
        return found
    columns = ["trial_id", "evaluation_id", "attempt", "status", "reason", "message", "log"]
    last: dict[Key, dict[str, Any]] = {}
    for attempt in in_order(results.read("attempts", columns).to_pylist()):
        last[key_of_row(attempt)] = attempt
        state = found.get(key_of_row(attempt))
        if state is not None and state["status"] != "completed" and attempt["status"] in ("failed", "stopped"):
            state |= _became(attempt)
    for row in _with_rungs(results, planned):
        state = found.get(key_of_row(row))
        if state is not None and state["status"] in ("missing", "stopped"):  # else it says itself what became of it
            state |= _before_full_length(row, state["status"], last)
    return found


def _with_rungs(results: Results, planned: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a search proposed and runs at a rung first, each with the number of its member's next generation as `heir`."""
    columns = ["number", "trial_id", "evaluation_id", "rung_trial_ids", "rung_evaluation_id", "member", "generation"]
    rows = results.read("suggestions", columns, {"plan_hash": sorted({row["plan_hash"] for row in planned})}).to_pylist()
    numbers = {(row["member"], row["generation"]): row["number"] for row in rows if row["generation"] is not None}
    rungs = [row for row in rows if row["trial_id"] and row["rung_trial_ids"]]
    return [row | {"heir": numbers.get((row["member"], (row["generation"] or 0) + 1))} for row in rungs]


def _before_full_length(row: Mapping[str, Any], status: str, last: Mapping[Key, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what became of a search's trial before it was run at full length, nothing where that has not settled it.

    Args:
        last: The last try of each run.
    """
    tries = [last[name, row["rung_evaluation_id"]] for name in row["rung_trial_ids"] if (name, row["rung_evaluation_id"]) in last]
    if failed := [one for one in tries if one["status"] == "failed"]:
        return _became(failed[0])
    is_scored = row["generation"] is not None and [one["status"] for one in tries] == ["completed"]
    if row["heir"] is not None or (is_scored and status == "missing"):
        message = "" if row["heir"] is None else f"its member went on as #{row['heir']}"
        return {"status": "continued", "reason": None, "message": message, "log": None}
    return {}


def in_order(attempts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `attempts` as one came after another; of two under one number, by two sweeps at once, the completed one counts as the later."""
    return sorted(attempts, key=lambda row: (row["attempt"], row["status"] == "completed"))


def _became(attempt: Mapping[str, Any]) -> dict[str, Any]:
    return {name: attempt[name] for name in ("status", "reason", "message", "log")}


def others_on_test(
    results: Results, sweep: str, dataset: str, chosen: Sequence[Mapping[str, Any]], before: datetime | None = None
) -> tuple[list[str], int]:
    """Return the labels of a sweep's other variants that some trial of was scored on test images, and how many other variants there are.

    Args:
        sweep: The sweep chosen from, in whichever plans it was run. Of a refined one, the variants of the sweep that it was taken from count, too.
        chosen: Rows of `sweeps` of the variant that was chosen.
        before: Scores that were finished later do not count; None: all count.
    """
    mine = {row["variant_id"] for row in chosen}
    columns = ["trial_id", "variant_id", "label"]
    where = {"sweep": origins(sweep), "dataset": dataset}
    rows = [row for row in results.read("sweeps", columns, where).to_pylist() if row["variant_id"] not in mine]
    elsewhere = set(results.read("evaluations", ["evaluation_id"], {"split": "validation"}).column("evaluation_id").to_pylist())
    tried = results.read("attempts", ["trial_id", "evaluation_id", "ended"], {"status": "completed"}).to_pylist()
    seen = {
        one["trial_id"]
        for one in tried
        if one["evaluation_id"] not in elsewhere and (before is None or one["ended"] is None or one["ended"] < before)
    }
    labels = {row["variant_id"]: row["label"] for row in rows if row["trial_id"] in seen}
    return sorted(labels.values()), len({row["variant_id"] for row in rows})
