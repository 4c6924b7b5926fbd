"""What a reader is told, and what of it could be repeated. Advice: none of it changes a rank or forbids a sentence."""

from collections import defaultdict
from typing import Any

import numpy as np

from sweeper.checks._curves import Curves
from sweeper.checks._result import Key, Planned, Result, result
from sweeper.checks.catalogue import CHECKS
from sweeper.results import Results

CONSTANT_SHARE = 0.01  # C30: change of the output over change of the input below which the output does not depend on it
_STORED = ("device", "versions", "train_seconds", "score_seconds")


def threats_apart(planned: Planned, curves: Curves) -> list[Result]:
    """C28: both gray-box and transfer figures are stored, each attack on as many images in one as in the other."""
    check = CHECKS["C28"]
    n: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: {"graybox": {}, "transfer": {}})
    for curve in np.flatnonzero(curves.where(["graybox", "transfer"])):
        n[int(curves.trial[curve])][str(curves.labels["threat"][curve])][str(curves.labels["attack"][curve])] = float(curves.n[curve, 0])
    found = []
    for place, key in enumerate(planned.keys):
        graybox, transfer = n[place]["graybox"], n[place]["transfer"]
        if not graybox and not transfer:
            found.append(result(check, key, "not_applicable", "neither gray-box nor transfer"))
            continue
        different = sorted(attack for attack in {*graybox, *transfer} if graybox.get(attack) != transfer.get(attack))
        share = 1 - len(different) / len({*graybox, *transfer})
        text = f"not on the same number of images, or not both: {', '.join(different)}" if different else "both are there, on all images each"
        found.append(result(check, key, "warn" if different else "pass", text, share, 1.0))
    return found


def output_depends_on_input(results: Results, planned: Planned) -> list[Result]:
    """C30: where the input changes, the purifier's output does too; beside it, how far |f(x') - x| is above |f(x) - x|.

    At the largest gray-box epsilon, over its attacks. A purifier that answers with one image, or with one per class, does not follow its input; one
    that errs that way only for some images is not found here.
    """
    check = CHECKS["C30"]
    columns = ["trial_id", "evaluation_id", "attack", "epsilon", "image_l1", "image_l1_clean", "image_l1_shift", "input_l1"]
    where = {"evaluation_id": sorted({evaluation for _, evaluation in planned.keys}), "threat": "graybox"}
    rows: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in results.read("latents", columns, where).to_pylist():
        if row["image_l1"] is not None and row["image_l1_clean"] is not None:
            rows[row["trial_id"], row["evaluation_id"]].append(row)
    found = []
    for place, key in enumerate(planned.keys):
        if planned.trial(place)["model"] == "identity":
            found.append(result(check, key, "not_applicable", "no purifier"))
            continue
        largest = max((row["epsilon"] for row in rows[key]), default=None)
        at = [row for row in rows[key] if row["epsilon"] == largest]
        if not at:
            found.append(result(check, key, "not_run", "no image distances are stored"))
            continue
        far = max(row["image_l1"] for row in at)
        text = f"|f(x') - x| {far:.3f}, |f(x) - x| {at[0]['image_l1_clean']:.3f} at epsilon {largest:g}"
        moved = [row for row in at if row["image_l1_shift"] is not None and row["input_l1"]]
        if moved:
            value = min(row["image_l1_shift"] / row["input_l1"] for row in moved)
        else:  # tables of an older version have no shift; a constant output gives both distances alike
            value = max(abs(row["image_l1"] - row["image_l1_clean"]) for row in at) / largest
        is_constant = value < CONSTANT_SHARE
        words = "its output hardly depends on its input: " if is_constant else ""
        found.append(result(check, key, "warn" if is_constant else "pass", words + text, value, CONSTANT_SHARE))
    return found


def can_be_repeated(planned: Planned, curves: Curves) -> list[Result]:
    """C35: the attack's settings stand on every curve; device, versions and seconds on the trial."""
    check = CHECKS["C35"]
    bare = np.unique(curves.trial[(curves.settings == "") & ~curves.where(["clean"])])
    found = []
    for place, key in enumerate(planned.keys):
        missing = [name for name in _STORED if planned.trial(place)[name] is None] + ["attack_settings"] * bool(np.isin(place, bare))
        text = f"not stored: {', '.join(missing)}" if missing else "everything is stored; `trial` repeats the column config of table trials"
        found.append(result(check, key, "warn" if missing else "pass", text, float(len(missing)), 0.0))
    return found


def tested_elsewhere(planned: Planned) -> list[Result]:
    """C36: this project's own tests plant broken defenses; there is nothing to say about one trial."""
    return [result(CHECKS["C36"], key, "not_applicable", "a matter of the tests, not of a trial") for key in planned.keys]
