"""How far sweeps are, and everything about one trial: the rows behind `status` and `show`. No torch, no Ray."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.results import Results
from sweeper.statistics import quartiles
from sweeper.stored_plans import in_order, key_of_row, latest_plan, split_of, states

Rows = list[dict[str, Any]]

_SCORES = ["evaluation_id", "threat", "attack", "epsilon", "source", "classifier", "sample_set", "n", "correct", "accuracy", "ci_low", "ci_high",
           "carried_over", "achieved_epsilon", "seconds"]  # fmt: skip
_DISTANCES = ["evaluation_id", "threat", "attack", "classifier", "norm", "sample_set", "n", "found", "distances", "seconds"]
_CODEBOOKS = ["depth", "perplexity", "usage", "quantization_error"]
_THREATS = ("clean", "adaptive", "adaptive_bpda", "adaptive_soft", "graybox", "transfer")
_CLASSIFIERS = ("retrained", "original", "unfiltered")


def overview(results: Results) -> Rows:
    """Return one row per plan that was run, the latest first: how many of its trials are completed, failed, missing."""
    latest: dict[str, dict[str, Any]] = {}
    for run in sorted(results.read("runs").to_pylist(), key=lambda run: run["started"]):
        latest[run["plan_hash"]] = run
    rows = []
    for run in sorted(latest.values(), key=lambda run: run["started"], reverse=True):
        planned = results.read("sweeps", where={"plan_hash": run["plan_hash"]}).to_pylist()
        if not planned:  # its file is damaged, which reading has said
            continue
        words = [state["status"] for state in states(results, planned).values()]
        counts = {word: words.count(word) for word in ("completed", "continued", "stopped", "failed", "missing")}
        for word in ("continued", "stopped"):  # of searches only
            if not counts[word]:
                del counts[word]
        rows.append(
            {"sweep": run["sweep"], "dataset": run["dataset"], "scale": planned[0]["scale"], "evaluation": planned[0]["evaluation"],
             "images": split_of(results, planned), "trials": len(planned), **counts, "last_run": run["started"], "plan": run["plan_hash"][:12]}
        )  # fmt: skip
    return rows


def trial_states(results: Results, sweep: str, plan_hash: str | None = None) -> Rows:
    """Return one row per trial of the plan run last, or of the plan named: failures first, then the missing; last those that a search left."""
    planned = latest_plan(results, sweep, plan_hash=plan_hash)
    found = states(results, planned)
    order = {"failed": 0, "missing": 1, "completed": 2, "continued": 3, "stopped": 4}
    rows = []
    for row in sorted(planned, key=lambda row: order[found[key_of_row(row)]["status"]]):
        state = found[key_of_row(row)]
        shown = {"trial": row["trial_id"][:12], "variant": row["label"], "seed": row["seed"], "status": state["status"], "parts": state["parts"]}
        if any(other["status"] == "failed" for other in found.values()):
            shown |= {name: state.get(name) for name in ("reason", "message", "log")}
        rows.append(shown)
    return rows


def show(results: Results, trial_id: str) -> dict[str, Rows]:
    """Return what is stored of the trial whose id begins with these characters, under the names of the tables it is in.

    Raises:
        ValueError: If no trial begins so, or several do.
    """
    sweeps = results.read("sweeps", ["sweep", "plan_hash", "trial_id", "label", "seed", "dataset"]).to_pylist()
    attempts = results.read("attempts").to_pylist()
    name = _named(trial_id, sweeps, attempts)
    scores = results.read("scores", _SCORES, {"trial_id": name}).to_pylist()
    scores.sort(key=lambda row: (_THREATS.index(row["threat"]) if row["threat"] in _THREATS else 9, row["classifier"], row["attack"], row["epsilon"]))
    latents = results.read("latents", ["evaluation_id", "threat", *_CODEBOOKS], {"trial_id": name, "threat": "clean"}).to_pylist()
    codebooks = {row["depth"]: {column: row[column] for column in _CODEBOOKS} for row in latents if row["perplexity"] is not None}
    return {
        "sweeps": [row for row in sweeps if row["trial_id"] == name],
        "trials": results.read("trials", where={"trial_id": name}).to_pylist(),
        "attempts": in_order(row for row in attempts if row["trial_id"] == name),
        "codebooks": [codebooks[depth] for depth in sorted(codebooks)],
        "scores": scores,
        "distances": [_with_quartiles(row) for row in results.read("distances", _DISTANCES, {"trial_id": name}).to_pylist()],
    }


def _with_quartiles(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `distances` with three figures in place of the list; None where fewer images have an adversarial one."""
    found = dict(zip(("quarter", "median", "three_quarters"), quartiles(row["distances"]), strict=True))
    return {key: value for key, value in row.items() if key != "distances"} | {
        name: value if math.isfinite(value) else None for name, value in found.items()
    }


def trial_named(results: Results, first_characters: str) -> str:
    """Return the id of the trial that begins with these characters.

    Raises:
        ValueError: If no trial begins so, or several do.
    """
    return _named(first_characters, results.read("sweeps", ["trial_id", "label"]).to_pylist(), results.read("attempts", ["trial_id"]).to_pylist())


def _named(first_characters: str, sweeps: Rows, attempts: Rows) -> str:
    known = {row["trial_id"]: None for row in attempts} | {row["trial_id"]: row["label"] for row in sweeps}
    matches = sorted(name for name in known if name.startswith(first_characters))
    if len(matches) != 1:
        listed = "; ".join(f"{name[:12]} {known[name] or ''}".strip() for name in matches[:8]) + ("; …" if len(matches) > 8 else "")
        raise ValueError(f"{len(matches) or 'no'} trial{'s' * (len(matches) > 1)} begin{'s' * (not matches)} with {first_characters!r}"
                         + (f": {listed}" if matches else "; `status SPACE` lists them"))  # fmt: skip
    return matches[0]


def for_people(shown: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return what `show` found as titled tables: a table of accuracies per threat, its rows epsilons, its columns attacks."""
    sweeps, trials = shown["sweeps"], shown["trials"]
    name = (sweeps or shown["attempts"])[0]["trial_id"]
    where = ", ".join(sorted({f"{row['sweep']} on {row['dataset']}" for row in sweeps}))
    label = f": {sweeps[0]['label']}, seed {sweeps[0]['seed']} ({where})" if sweeps else ""
    hidden = ("trial_id", "config", "versions", "schema_version", "defense")
    settings = [{"setting": key, "value": value} for row in trials for key, value in row.items() if value is not None and key not in hidden]
    tables = {f"trial {name}{label}": settings or [{"status": "not completed"}]}
    tables |= {"complete configuration, for `trial CONFIG.json`": [{"config": json.dumps(json.loads(row["config"]))} for row in trials]}
    tables["tries"] = [{key: row[key] for key in ("attempt", "status", "reason", "message", "log", "started", "ended")} for row in shown["attempts"]]
    tables["codebooks on clean images"] = shown["codebooks"]
    evaluations = list(dict.fromkeys(row["evaluation_id"] for row in shown["scores"]))
    for evaluation in evaluations:
        mine = [row for row in shown["scores"] if row["evaluation_id"] == evaluation]
        suffix = f" (evaluation {evaluation[:12]})" if len(evaluations) > 1 else ""
        for threat in dict.fromkeys(row["threat"] for row in mine):
            rows = [row for row in mine if row["threat"] == threat]
            crafted = "" if threat == "clean" else f", crafted on {'the whole defense' if threat == 'adaptive' else rows[0]['source']}"
            tables[f"{threat}{crafted}: accuracy in %, 95 % interval{suffix}"] = _grid(rows)
        far = [row for row in shown["distances"] if row["evaluation_id"] == evaluation]
        title = f"distance to the nearest adversarial image, within which 25, 50 and 75 % of all images have one{suffix}"
        tables[title] = [_distance(row) for row in sorted(far, key=lambda row: (row["threat"], row["attack"]))]
    return {title: rows for title, rows in tables.items() if rows}


def _distance(row: dict[str, Any]) -> dict[str, Any]:
    names = {"25 %": "quarter", "50 %": "median", "75 %": "three_quarters"}
    within = {title: "none" if row[name] is None else f"{row[name]:.3f}" for title, name in names.items()}
    return {name: row[name] for name in ("threat", "attack", "classifier", "norm", "n", "found")} | within


def _grid(rows: Sequence[dict[str, Any]]) -> Rows:
    """Return one row per classifier and epsilon, one column per attack with its number of images."""
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (_CLASSIFIERS.index(row["classifier"]), row["epsilon"])):
        line = found.setdefault((row["classifier"], row["epsilon"]), {"classifier": row["classifier"], "epsilon": row["epsilon"]})
        accuracy, low, high = (100 * row[name] for name in ("accuracy", "ci_low", "ci_high"))
        attack = "accuracy" if row["attack"] == "none" else row["attack"]
        line[f"{attack} (n {row['n']})"] = f"{accuracy:.1f} [{low:.1f}, {high:.1f}]"
    return list(found.values())
