"""A search in the tables, written out by hand: 13 proposals, whatever may become of one, 100 images with their outcomes as counts.

Robust score of a trial with c images right unperturbed, a left at epsilon 0.05 and b at 0.1: (c + 2 a + b) / 400. The target has 98 right.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from report_tables import epochs

from sweeper.keys import part_key
from sweeper.results import Results
from sweeper.statistics import wilson

N = 100
TARGET = 98
STARTED = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
VALIDATION, RUNG, TEST = "v" * 16, "q" * 16, "t" * 16  # evaluations
OBJECTIVES = {"robust_score": "max", "clean": "max"}
CONSTRAINTS = [{"column": "clean_drop", "sign": "<=", "bound": 0.05}]
DISTRIBUTIONS = {
    "kind": {"name": "CategoricalDistribution", "attributes": {"choices": ["plain", "wide", None]}},
    "learning_rate": {"name": "FloatDistribution", "attributes": {"low": 0.001, "high": 0.1, "log": True, "step": None}},
    "width": {"name": "IntDistribution", "attributes": {"low": 1, "high": 8, "log": False, "step": 1}},
}
Counts = tuple[int, int, int]  # right unperturbed, at epsilon 0.05, at 0.1


@dataclass(frozen=True)
class Proposed:
    """One proposal. `counts`: at full length; `rung`: after 3 epochs; `as_number`: the proposal whose trial it is again."""

    params: Mapping[str, Any]
    state: str = "completed"
    counts: Counts | None = None
    rung: Counts | None = None
    test: Counts | None = None
    failed_check: str = ""
    as_number: int | None = None
    seconds: float = 10.0
    more: Mapping[str, Any] = field(default_factory=dict)


def plain(rate: float) -> dict[str, Any]:
    return {"kind": "plain", "learning_rate": rate}


def wide(rate: float, width: int) -> dict[str, Any]:
    return {"kind": "wide", "learning_rate": rate, "width": width}


# The Pareto set is 2, 7, 0, 1, by robust score 0.6325, 0.56, 0.4875, 0.3675; 8 (0.4075) is beaten.
PROPOSED = (
    Proposed(plain(0.01), counts=(95, 40, 20), rung=(80, 30, 10), test=(96, 42, 18)),
    Proposed(wide(0.002, 4), counts=(97, 20, 10), rung=(82, 30, 10)),
    Proposed(wide(0.05, 8), counts=(93, 60, 40), rung=(81, 30, 10), test=(92, 50, 30)),
    Proposed(plain(0.001), "stopped", rung=(40, 5, 0)),
    Proposed(plain(0.03), counts=(90, 70, 50)),  # robust score 0.7, breaks the constraint
    Proposed(wide(0.09, 2), "failed"),
    Proposed(wide(0.004, 6), counts=(96, 90, 80), failed_check="C9"),  # robust score 0.89
    Proposed(plain(0.02), counts=(94, 50, 30), test=(90, 50, 30)),
    Proposed({"kind": None, "learning_rate": 0.005}, counts=(93, 30, 10)),
    Proposed(wide(0.002, 4), as_number=1),
    Proposed(wide(0.01, 5), "stopped", rung=(50, 5, 0)),
    Proposed(wide(0.01, 1), "no trial"),
    Proposed(plain(0.06), "missing"),
)  # fmt: skip


def stored_search(path: Path, proposed: Sequence[Proposed] = PROPOSED, *, objectives: Mapping[str, str] = OBJECTIVES,
                  constraints: Sequence[Mapping[str, Any]] = CONSTRAINTS) -> Results:  # fmt: skip
    """Return the root of the search `made`."""
    results = Results(path, create=True)
    planned, on_test = [], []
    for number, one in enumerate(proposed):
        trial_id = part_key("trial", str(number if one.as_number is None else one.as_number))
        label = "reference" if number == 0 else f"#{number}"
        parts = [f"scores/{part_key('scores', trial_id, VALIDATION)}", f"trials/{trial_id}"]
        row = _sweeps_row("made", trial_id, label, VALIDATION, parts)
        if one.as_number is None and one.state != "no trial":
            planned.append(row)
        if one.counts:
            _publish_trial(results, trial_id, one)
            _publish_scores(results, trial_id, VALIDATION, one.counts)
        if one.test:
            _publish_scores(results, trial_id, TEST, one.test)
            on_test.append(_sweeps_row("made/pareto", trial_id, label, TEST, [f"scores/{part_key('scores', trial_id, TEST)}"]))
        rung_id = part_key("rung", trial_id)
        if one.rung:
            _publish_trial(results, rung_id, one)
            _publish_scores(results, rung_id, RUNG, one.rung)
            _publish_attempt(results, rung_id, RUNG, "completed")
        if one.state in ("stopped", "failed"):
            _publish_attempt(results, trial_id, VALIDATION, one.state, "loss is nan" if one.state == "failed" else None)
        if one.failed_check:
            failed = {"check": one.failed_check, "kind": "validity", "outcome": "fail", "message": "gradients are missing", "level": "standard"}
            results.publish("checks", trial_id, [{"trial_id": trial_id, "evaluation_id": VALIDATION, **failed, "probes_version": 1}])
        is_trial = one.state != "no trial"
        suggestion = {
            "sweep": "made", "plan_hash": "m" * 16, "number": number, "label": label, "source": "sampled" if number else "first",
            "params": json.dumps(one.params), "distributions": json.dumps({name: json.dumps(DISTRIBUTIONS[name]) for name in one.params}),
            "settings": json.dumps({"model": "vqunet", **one.params}), "problem": None if is_trial else "width 1 is too narrow",
            "trial_id": trial_id if is_trial else None, "evaluation_id": VALIDATION if is_trial else None,
            "rung_epochs": [3] if one.rung else [], "rung_trial_ids": [rung_id] if one.rung else [], "rung_evaluation_id": RUNG if one.rung else None,
            "objectives": json.dumps(objectives), "constraints": json.dumps(constraints), "sampler": "tpe", "scheduler": "halving",
            "asked": STARTED + timedelta(seconds=number),
        }  # fmt: skip
        results.publish("suggestions", part_key("suggestions", str(number)), [suggestion])
    results.publish("sweeps", "made", planned)
    if on_test:
        results.publish("sweeps", "on-test", on_test)
    for name, split in ((VALIDATION, "validation"), (RUNG, "validation"), (TEST, "test")):
        config = {"evaluation_id": name, "name": "quick" if name == RUNG else "standard", "split": split, "dataset": "digits"}
        scored = json.dumps({"name": config["name"], "split": split})
        results.publish("evaluations", name, [config | {"fingerprint": "f" * 64, "config": scored}])
        ids = {"sample_ids": [f"{split}-{image}" for image in range(N)], "labels": [image % 10 for image in range(N)]}
        results.publish("sample_sets", name, [{"sample_set": name, "dataset": "digits", "split": split, "n": N} | ids])
    run = {"sweep": "made", "plan_hash": "m" * 16, "dataset": "digits", "evaluation_id": VALIDATION, "command": "run made", "started": STARTED}
    results.publish("runs", "made", [run | {"host": "here", "trials": len(proposed)}])
    return results


def _sweeps_row(sweep: str, trial_id: str, label: str, evaluation_id: str, parts: list[str]) -> dict[str, Any]:
    return {
        "sweep": sweep, "plan_hash": ("m" if sweep == "made" else "p") * 16, "trial_id": trial_id, "variant_id": part_key("variant", trial_id),
        "label": label, "is_reference": label == "reference", "seed": 0, "evaluation_id": evaluation_id, "evaluation": "standard",
        "dataset": "digits", "scale": "small", "score_epsilon": 0.1, "parts": parts,
    }  # fmt: skip


def _publish_trial(results: Results, trial_id: str, one: Proposed) -> None:
    config = {"fingerprint": "f" * 64, "target": {"model": "wide_resnet", "model_options": {"depth": 10, "width": 1}}}
    row = {"trial_id": trial_id, "variant_id": part_key("variant", trial_id), "defense": "vqunet", "model": "vqunet", "retrain": "finetune",
           "dataset": "digits", "seed": 0, "target_seed": 0, "num_epochs": 3, "config": json.dumps(config), "train_seconds": one.seconds - 1.0,
           "score_seconds": 1.0, "parameters": 1000, "ended": STARTED, **one.more}  # fmt: skip
    results.publish("trials", trial_id, [row])
    results.publish("epochs", trial_id, [{"trial_id": trial_id} | row for row in epochs((0.4, 0.3, 0.2), (3.0,))])
    clean = {"attack": "none", "epsilon": 0.0, "threat": "clean", "source": "none", "depth": 1, "perplexity": 7.5, "usage": 0.5, "psnr": 20.0}
    results.publish("latents", trial_id, [{"trial_id": trial_id, "evaluation_id": VALIDATION, **clean}])


def _publish_scores(results: Results, trial_id: str, evaluation_id: str, counts: Counts) -> None:
    clean, *attacked = counts
    rows = [_score("clean", "none", 0.0, "unfiltered", TARGET, evaluation_id), _score("clean", "none", 0.0, "retrained", clean, evaluation_id)]
    for epsilon, left in zip((0.05, 0.1), attacked, strict=True):
        rows.append(_score("graybox", "pgd", epsilon, "retrained", clean - 1, evaluation_id))
        rows.append(_score("adaptive", "pgd", epsilon, "retrained", left, evaluation_id))
    images = np.arange(N)
    broken = np.select([images < attacked[1], images < attacked[0], images < clean], [np.inf, 0.1, 0.05], 0.0)
    rows[-1]["broken_at"] = broken.astype(np.float32)
    results.publish(
        "scores", part_key("scores", trial_id, evaluation_id), [{"trial_id": trial_id, "evaluation_id": evaluation_id} | row for row in rows]
    )


def _score(threat: str, attack: str, epsilon: float, classifier: str, correct: int, sample_set: str) -> dict[str, Any]:
    low, high = wilson(correct, N)
    return {"attack": attack, "epsilon": epsilon, "threat": threat, "source": "defense" if threat == "adaptive" else "target",
            "classifier": classifier, "sample_set": sample_set, "n": N, "correct": correct, "accuracy": correct / N, "ci_low": low, "ci_high": high,
            "outcomes": np.arange(N) < correct, "achieved_epsilon": epsilon, "attack_settings": "{}"}  # fmt: skip


def _publish_attempt(results: Results, trial_id: str, evaluation_id: str, status: str, message: str | None = None) -> None:
    names = {"trial_id": trial_id, "evaluation_id": evaluation_id, "attempt": 1, "status": status, "message": message}
    results.publish("attempts", part_key("attempts", trial_id), [names | {"reason": "nan" if message else None}])
