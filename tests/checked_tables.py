"""A results root whose every number is sound, written out by hand, and ways to make exactly one thing wrong in it.

Five variants, three seeds, 1,000 images: the target alone, the target tuned, a blur, a purifier without and one with a quantizer.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.keys import part_key
from sweeper.results import Results
from sweeper.statistics import wilson

Row = dict[str, Any]
Change = Callable[[Row], None]  # of one row of scores, in place; `label` and `seed` are there to choose by

N = 1000
GRID = (0.05, 0.1)
STARTED = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
VARIANTS: dict[str, Row] = {
    "undefended": {"model": "identity", "retrain": "none"},
    "tuned": {"model": "identity", "retrain": "finetune"},
    "blur": {"model": "mean_blur", "retrain": "finetune"},
    "plain": {"model": "unet", "retrain": "finetune", "quantize": False},
    "quantized": {"model": "vqunet", "retrain": "finetune", "quantize": True},
}
ADAPTIVE = {"undefended": 0, "tuned": 40, "blur": 200, "plain": 300, "quantized": 400}  # images that survive at 0.05 under the adaptive attack
PER_SEED = {"undefended": 0, "tuned": 1, "blur": 2, "plain": 3, "quantized": 5}  # more of them with every seed
GRAYBOX = {"undefended": 0, "tuned": 60, "blur": 800, "plain": 850, "quantized": 900}
SETTINGS = {
    "none": {}, "fgsm": {},
    "bim": {"num_steps": 10, "step_size": None, "step_size_rule": "scaled"},
    "pgd": {"num_steps": 10, "step_size": None, "step_size_rule": "scaled"},
    "adaptive pgd": {"num_steps": 20, "relative_step_size": 2.5},
}  # fmt: skip


def sound(path: Path, change: Change | None = None, *, variants: Sequence[str] = tuple(VARIANTS), seeds: int = 3, n: int = N,
          settings: Mapping[str, Row] | None = None) -> Results:  # fmt: skip
    """Return the root of sweep `sound`; change is called with every row of scores before it is stored.

    Args:
        settings: Label -> further columns of its rows of `trials`.
    """
    results = Results(path, create=True)
    planned = []
    for label in variants:
        for seed in range(seeds):
            trial_id = part_key("trial", label, str(seed))
            rows = _scores(label, seed, n)
            for row in rows:
                if change:
                    change(_tagged(row, label, seed))
                for name in ("label", "seed"):
                    row.pop(name, None)
            names = {"trial_id": trial_id, "evaluation_id": "e"}
            results.publish("scores", part_key("scores", trial_id), [names | row for row in rows])
            results.publish("latents", part_key("latents", trial_id), [names | row for row in _latents()])
            results.publish("trials", trial_id, [{
                "trial_id": trial_id, "variant_id": label, "defense": VARIANTS[label]["model"], "dataset": "digits", "seed": seed, "target_seed": 0,
                "config": "{}", "device": "cpu", "versions": "{}", "train_seconds": 1.0, "score_seconds": 1.0, **VARIANTS[label],
                **(settings or {}).get(label, {}),
            }])  # fmt: skip
            planned.append({
                "sweep": "sound", "plan_hash": "0", "trial_id": trial_id, "variant_id": label, "label": label, "is_reference": label == "quantized",
                "seed": seed, "evaluation_id": "e", "evaluation": "standard", "dataset": "digits", "scale": "small", "score_epsilon": 0.1,
                "parts": [f"trials/{trial_id}"],
            })  # fmt: skip
    results.publish("sweeps", "sweep", planned)
    run = {"sweep": "sound", "plan_hash": "0", "dataset": "digits", "evaluation_id": "e", "command": "run sound", "started": STARTED, "host": "here"}
    results.publish("runs", "run", [run | {"trials": len(planned)}])
    for name, images in (("test", n), ("other", n)):
        one = {"sample_set": name, "dataset": "digits", "split": "test", "n": images}
        results.publish("sample_sets", name, [one | {"sample_ids": [str(i) for i in range(images)], "labels": [0] * images}])
    return results


def plan_of(results: Results) -> list[Row]:
    return results.read("sweeps").to_pylist()


def set_correct(row: Row, correct: int) -> None:
    """Give a row of scores another number of correct images, with what follows from it."""
    low, high = wilson(correct, row["n"])
    row |= {"correct": correct, "accuracy": correct / row["n"], "ci_low": low, "ci_high": high, "outcomes": np.arange(row["n"]) < correct}


def _tagged(row: Row, label: str, seed: int) -> Row:
    row |= {"label": label, "seed": seed}
    return row


def _scores(label: str, seed: int, n: int) -> list[Row]:
    final = "original" if VARIANTS[label]["retrain"] == "none" else "retrained"
    rows = [_score("clean", "none", 0.0, classifier, 980, n) for classifier in dict.fromkeys(("unfiltered", "original", final))]
    for threat in ("graybox", "transfer"):
        for attack in ("fgsm", "bim", "pgd"):
            for classifier in dict.fromkeys(("original", final)):
                left = GRAYBOX[label] if threat == "graybox" else 950
                rows += [_score(threat, attack, epsilon, classifier, max(0, left - 50 * place), n) for place, epsilon in enumerate(GRID)]
    for threat, attack in (("adaptive", "fgsm"), ("adaptive", "pgd"), ("adaptive_bpda", "pgd")):
        left = ADAPTIVE[label] + PER_SEED[label] * seed + (50 if attack == "fgsm" else 0)
        survivors = [round((left if place == 0 else left // 4) * n / N) for place in range(len(GRID))]
        rows += [_score(threat, attack, epsilon, final, round(N * correct / n), n) for epsilon, correct in zip(GRID, survivors, strict=True)]
        if attack == "pgd":
            broken = np.select([np.arange(n) < survivors[1], np.arange(n) < survivors[0]], [np.inf, GRID[1]], GRID[0])
            rows[-1]["broken_at"] = broken.astype(np.float32)
            rows[-1]["carried_over"], rows[-2]["carried_over"] = n - survivors[0], 20
    return rows


def _score(threat: str, attack: str, epsilon: float, classifier: str, of_thousand: int, n: int) -> Row:
    settings = SETTINGS["adaptive pgd" if threat.startswith("adaptive") and attack == "pgd" else attack]
    row = {"attack": attack, "epsilon": epsilon, "threat": threat, "source": "defense" if threat.startswith("adaptive") else "target",
           "classifier": classifier, "sample_set": "test", "n": n, "achieved_epsilon": epsilon,
           "attack_settings": json.dumps({"attack": attack, "options": settings})}  # fmt: skip
    set_correct(row, round(of_thousand * n / N))
    return row


def _latents() -> list[Row]:
    names = {"attack": "pgd", "threat": "graybox", "source": "target", "depth": 0, "image_l1_clean": 0.05}
    return [names | {"epsilon": e, "image_l1": 0.05 + e / 2, "image_l1_shift": e / 2, "input_l1": e} for e in GRID]


def let_plain_rise(row: Row) -> None:
    """Make one seed of one variant rise with epsilon."""
    if (row["label"], row["seed"], row["threat"], row["attack"], row["epsilon"]) == ("plain", 1, "graybox", "fgsm", GRID[1]):
        set_correct(row, 960)
