"""How far sweeps are, and everything about one trial: the rows behind `status` and `show`. No torch, no Ray."""

import json
from typing import Any

from sweeper.ranking import latest_plan, states
from sweeper.results import Results


def overview(results: Results) -> list[dict[str, Any]]:
    """Return one row per plan that was run, the latest first: how many of its trials are completed, failed, missing."""
    latest: dict[str, dict[str, Any]] = {}
    for run in sorted(results.read("runs").to_pylist(), key=lambda run: run["started"]):
        latest[run["plan_hash"]] = run
    rows = []
    for run in sorted(latest.values(), key=lambda run: run["started"], reverse=True):
        planned = results.read("sweeps", where={"plan_hash": run["plan_hash"]}).to_pylist()
        words = [state["status"] for state in states(results, planned).values()]
        counts = {word: words.count(word) for word in ("completed", "failed", "missing")}
        rows.append(
            {"sweep": run["sweep"], "dataset": run["dataset"], "scale": planned[0]["scale"], "evaluation": planned[0]["evaluation"],
             "trials": len(planned), **counts, "last run": f"{run['started']:%Y-%m-%d %H:%M} UTC", "plan": run["plan_hash"][:12]}
        )  # fmt: skip
    return rows


def trial_states(results: Results, sweep: str) -> list[dict[str, Any]]:
    """Return one row per trial of the plan run last: failures first, then the missing."""
    planned = latest_plan(results, sweep)
    found = states(results, planned)
    order = {"failed": 0, "missing": 1, "completed": 2}
    rows = [
        {"trial": row["trial_id"][:12], "variant": row["label"], "seed": row["seed"], "status": found[row["trial_id"]]["status"],
         "parts": found[row["trial_id"]]["parts"], "reason": found[row["trial_id"]].get("reason"),
         "message": found[row["trial_id"]].get("message"), "log": found[row["trial_id"]].get("log")}
        for row in planned
    ]  # fmt: skip
    return sorted(rows, key=lambda row: order[row["status"]])


def show(results: Results, trial_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return what is stored of the trial whose id begins with these characters: a title and rows for each part.

    Raises:
        ValueError: If no trial begins so, or several do.
    """
    labels = {row["trial_id"]: row for row in results.read("sweeps", ["trial_id", "label", "sweep", "seed"]).to_pylist()}
    attempts = results.read("attempts").to_pylist()
    known = sorted({row["trial_id"] for row in attempts} | set(labels))
    matches = [name for name in known if name.startswith(trial_id)]
    if len(matches) != 1:
        found = "no trial begins" if not matches else f"{len(matches)} trials begin"
        raise ValueError(f"{found} with {trial_id!r}; `status SPACE` lists them")
    name = matches[0]
    rows = results.read("trials", where={"trial_id": name}).to_pylist()
    scores = results.read(
        "scores",
        ["threat", "attack", "epsilon", "source", "classifier", "n", "accuracy", "ci_low", "ci_high", "carried_over", "achieved_epsilon"],
        {"trial_id": name},
    ).to_pylist()
    scores.sort(key=lambda row: (row["classifier"], row["threat"], row["attack"], row["epsilon"]))
    latents = results.read("latents", where={"trial_id": name, "threat": "clean"}).to_pylist()
    codebooks = [
        {"depth": row["depth"], "perplexity": row["perplexity"], "usage": row["usage"], "quantization_error": row["quantization_error"]}
        for row in latents
        if row["perplexity"] is not None
    ]
    label = labels.get(name, {}).get("label", "")
    shown: dict[str, list[dict[str, Any]]] = {
        f"trial {name}: {label}": [
            {"setting": key, "value": value} for row in rows for key, value in row.items() if value is not None and key not in ("config", "versions")
        ],
        "config": [{"config": json.dumps(json.loads(row["config"]))} for row in rows],
        "attempts": [
            {key: row[key] for key in ("attempt", "status", "reason", "message", "log", "started", "ended")}
            for row in attempts
            if row["trial_id"] == name
        ],
        "codebooks on clean images": codebooks,
        "scores": scores,
    }
    return {title: rows for title, rows in shown.items() if rows}
