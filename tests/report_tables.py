"""A results root written out by hand: five systems, two seeds, eight images with their outcomes as strings of 0 and 1.

The images `image-0` to `image-3` are of class 0, the others of class 1. SHA-256 of the ids begins 3dd3, 0cf4, 5a07, d9f3, cd96, 32d8, ab8a, 85b7,
so the half that is attacked on the target is 0 and 1 (of class 0), 5 and 7 (of class 1); 2, 3, 4 and 6 are attacked by transfer.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sweeper.canonical import canonical_json
from sweeper.keys import part_key
from sweeper.results import Results
from sweeper.schemas import TABLES
from sweeper.statistics import wilson

IDS = [f"image-{i}" for i in range(8)]
LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
TARGET_HALF = {0, 1, 5, 7}
BEFORE = "11111110"  # the target on clean images
GRID = (0.05, 0.1)  # of the adaptive attacker
NEVER = math.inf
STARTED = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

Rows = list[dict[str, Any]]


@dataclass
class TrialRows:
    """What one trial leaves. Attacked: (threat, attack, epsilon, source) -> outcomes of the final classifier."""

    clean: str
    original: str
    attacked: Mapping[tuple[str, str, float, str], str]
    broken_at: Sequence[float]
    psnr: float = 20.0
    ssim: float = 0.9
    latents: Rows = field(default_factory=list)
    epochs: Rows = field(default_factory=list)
    strips: Rows = field(default_factory=list)


class Root:
    """Collects the variants of one sweep and publishes them."""

    def __init__(self, path: Path, sweep: str = "paper", dataset: str = "digits", scale: str = "small", evaluation: str = "standard") -> None:
        self.results = Results(path, create=True)
        self.names = {"sweep": sweep, "plan_hash": part_key("plan", sweep, dataset), "dataset": dataset, "scale": scale, "evaluation": evaluation}
        self.planned: Rows = []
        self.evaluation_id = part_key("evaluation", sweep, dataset)

    def variant(
        self, label: str, trials: Mapping[int, TrialRows | None], *, factor: str = "", level: str = "", config: Mapping[str, Any] | None = None,
        scored_again: str = "", **settings: Any,
    ) -> None:  # fmt: skip
        """Plan a variant, and publish those of its trials that are not None.

        Args:
            scored_again: The label of a variant whose trials these are, under another evaluation.
        """
        evaluation_id = part_key("evaluation", self.evaluation_id, label) if scored_again else self.evaluation_id
        for seed, rows in trials.items():
            trial_id = part_key("trial", *self.names.values(), scored_again or label, str(seed))
            parts = [f"scores/{part_key('scores', trial_id, evaluation_id)}", f"trials/{trial_id}"]
            self.planned.append(
                self.names
                | {"trial_id": trial_id, "variant_id": part_key("variant", scored_again or label), "label": label, "factor": factor, "level": level,
                   "is_reference": not self.planned or self.planned[0]["label"] == label, "seed": seed, "evaluation_id": evaluation_id,
                   "score_epsilon": 0.1, "parts": parts}
            )  # fmt: skip
            if rows is not None:
                self._publish(trial_id, evaluation_id, seed, rows, settings, config or {})

    def failed(self, label: str, seed: int, message: str) -> None:
        row = next(row for row in self.planned if row["label"] == label and row["seed"] == seed)
        names = {"trial_id": row["trial_id"], "evaluation_id": self.evaluation_id}
        attempt = names | {"attempt": 1, "status": "failed", "reason": "nan", "message": message}
        self.results.publish("attempts", part_key("attempts", row["trial_id"]), [attempt])

    def finish(self) -> Results:
        """Publish the plan and its run."""
        name = self.names["plan_hash"]
        self.results.publish("sweeps", name, self.planned)
        run = {"sweep": self.names["sweep"], "plan_hash": name, "dataset": self.names["dataset"], "evaluation_id": self.evaluation_id}
        run |= {
            "command": f"run {self.names['sweep']} --storage postgresql://me:secret@host/db",
            "started": STARTED,
            "host": "here",
            "trials": len(self.planned),
        }
        self.results.publish("runs", name, [run])
        samples = {"sample_set": "test-8", "dataset": self.names["dataset"], "split": "test", "n": 8, "sample_ids": IDS, "labels": LABELS}
        self.results.publish("sample_sets", "test-8", [samples])
        return self.results

    def _publish(self, trial_id: str, evaluation_id: str, seed: int, rows: TrialRows, settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        final = "original" if settings.get("retrain") == "none" else "retrained"
        scores = [self._score("clean", "none", 0.0, "none", "unfiltered", BEFORE), self._score("clean", "none", 0.0, "none", final, rows.clean)]
        if final == "retrained":
            scores.append(self._score("clean", "none", 0.0, "none", "original", rows.original))
        scores += [self._score(*cell[:4], final, outcomes) for cell, outcomes in rows.attacked.items()]
        for epsilon in GRID if rows.broken_at else ():
            outcomes = "".join("1" if broken > epsilon + 1e-9 else "0" for broken in rows.broken_at)
            curve = list(rows.broken_at) if epsilon == GRID[-1] else None
            scores.append(self._score("adaptive", "pgd", epsilon, "defense", final, outcomes) | {"broken_at": curve})
        names = {"trial_id": trial_id, "evaluation_id": evaluation_id}
        self.results.publish("scores", part_key("scores", trial_id, evaluation_id), [names | row for row in scores])
        if rows.latents:
            self.results.publish("latents", trial_id, [names | row for row in rows.latents])
        if rows.epochs:
            self.results.publish("epochs", trial_id, [{"trial_id": trial_id} | row for row in rows.epochs])
        if rows.strips:
            self.results.publish("strips", trial_id, [names | row for row in rows.strips])
        complete = {"fingerprint": "f" * 64, "target": {"model": "wide_resnet", "model_options": {"depth": 10, "width": 1}}, **config}
        row = {"trial_id": trial_id, "variant_id": part_key("variant", trial_id), "defense": settings.get("model", "vqunet"), "seed": seed,
               "dataset": self.names["dataset"], "target_seed": 0, "config": canonical_json(complete), "psnr": rows.psnr, "ssim": rows.ssim,
               "ended": STARTED, **{"model": "vqunet", "retrain": "finetune", "train_input": "clean", "num_epochs": 2, **settings}}  # fmt: skip
        assert set(row) <= set(TABLES["trials"].columns)
        self.results.publish("trials", trial_id, [row])

    def _score(self, threat: str, attack: str, epsilon: float, source: str, classifier: str, outcomes: str) -> dict[str, Any]:
        correct, n = outcomes.count("1"), len(outcomes)
        low, high = wilson(correct, n)
        return {"attack": attack, "epsilon": epsilon, "threat": threat, "source": source, "classifier": classifier, "sample_set": f"test-{n}",
                "n": n, "correct": correct, "accuracy": correct / n, "ci_low": low, "ci_high": high,
                "outcomes": [letter == "1" for letter in outcomes]}  # fmt: skip


def attacked(graybox: Sequence[str], transfer: Sequence[str]) -> dict[tuple[str, str, float, str], str]:
    """Return FGSM's outcomes at epsilon 0.1 and 0.2."""
    found = {("graybox", "fgsm", epsilon, "wide_resnet"): outcomes for epsilon, outcomes in zip((0.1, 0.2), graybox, strict=True)}
    return found | {("transfer", "fgsm", epsilon, "densenetx3"): outcomes for epsilon, outcomes in zip((0.1, 0.2), transfer, strict=True)}


def latents(depth: int, values: Mapping[str, Sequence[float | None]]) -> Rows:
    """Return one depth's rows: each quantity's values at epsilon 0, 0.1 and 0.2."""
    rows = []
    for index, epsilon in enumerate((0.0, 0.1, 0.2)):
        cell = ("clean", "none", "none") if epsilon == 0 else ("graybox", "fgsm", "wide_resnet")
        names = dict(zip(("threat", "attack", "source"), cell, strict=True))
        rows.append(names | {"epsilon": epsilon, "depth": depth} | {name: column[index] for name, column in values.items()})
    return rows


def epochs(errors: Sequence[float], perplexity: Sequence[float] | None = None) -> Rows:
    """Return the purifier's epochs with these reconstruction errors, and one epoch of the retraining."""
    rows = [{"stage": "purifier", "epoch": epoch, "loss": 2 * error, "reconstruction": error, "perplexity": perplexity}
            for epoch, error in enumerate(errors, 1)]  # fmt: skip
    return [*rows, {"stage": "retrain", "epoch": 1, "loss": 0.5, "accuracy": 0.75}]


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((2, 2), value, np.uint8)).save(out, format="PNG")
    return out.getvalue()


def vqunet_latents(seed: int) -> Rows:
    """Return two depths; the quantized distances of the second seed differ a little, so that tests over seeds have a spread."""
    image = {"image_l1": (0.05, 0.06, 0.08), "image_l1_clean": (0.05, 0.05, 0.05), "image_l1_shift": (0.0, 0.02, 0.05), "input_l1": (0.0, 0.1, 0.2)}
    first = {"l1_pre": (0.0, 0.4, 0.6), "l1_post": (0.0, 0.2, 0.3)} if seed == 0 else {"l1_pre": (0.0, 0.5, 0.6), "l1_post": (0.0, 0.24, 0.34)}
    second = {"l1_pre": (0.0, 0.2, 0.3), "l1_post": (0.0, 0.1, 0.1) if seed == 0 else (0.0, 0.1, 0.098)}
    codes = {"perplexity": (32.0, 30.0, 30.0), "usage": (0.75, 0.75, 0.75), "std_pre": (2.0, 2.0, 2.0), "rel_pre": (0.0, 0.1, 0.2)}
    changed = ((0.0, 40.0, 50.0), (0.0, 20.0, 30.0)) if seed == 0 else ((0.0, 40.2, 50.0), (0.0, 20.2, 29.8))
    rows = latents(1, image | first | codes | {"index_change": changed[0], "any_change": (0.0, 75.0, 100.0)})
    return rows + latents(2, image | second | codes | {"index_change": changed[1], "any_change": (0.0, 50.0, 75.0)})


def unet_latents(seed: int) -> Rows:
    image = {
        "image_l1": (0.04, 0.07, 0.1 if seed == 0 else 0.101),
        "image_l1_clean": (0.04, 0.04, 0.04),
        "image_l1_shift": (0.0, 0.06, 0.09),
        "input_l1": (0.0, 0.1, 0.2),
    }
    return [row for depth in (1, 2) for row in latents(depth, image | {"l1_pre": (0.0, 0.8, 1.2), "std_pre": (4.0, 4.0, 4.0)})]


def strip_rows() -> Rows:
    images = {"clean": png(100), "adversarial": png(130), "purified_clean": png(101), "purified": png(110)}
    names = {"threat": "graybox", "attack": "fgsm", "epsilon": 0.1, "label": 0, "predicted_clean": 0, "predicted_adversarial": 1}
    return [names | images | {"position": position, "sample_id": IDS[position]} for position in range(2)]


VQUNET = {
    0: TrialRows(
        "11111111", "11110000", attacked(("11110110", "11000000"), ("11111111", "11110000")), (0.05,) * 4 + (0.1, 0.1, NEVER, NEVER),
        latents=vqunet_latents(0), epochs=epochs((0.4, 0.2), (3.0, 2.0)), strips=strip_rows(),
    ),
    1: TrialRows(
        "11111101", "11111000", attacked(("11110000", "11000000"), ("11111110", "11110000")), (0.05,) * 4 + (0.1,) * 4,
        psnr=21.0, ssim=0.91, latents=vqunet_latents(1), epochs=epochs((0.6, 0.2), (5.0, 2.0)),
    ),
}  # fmt: skip
TWICE = {
    seed: TrialRows("11111100", "11110000", attacked(("11110000", "11000000"), ("11111110", "11110000")), (0.05,) * 8, psnr=psnr, ssim=ssim)
    for seed, psnr, ssim in ((0, 18.0, 0.8), (1, 18.9, 0.808))
}
UNET = {
    seed: TrialRows("11111111", "11111111", attacked(("10000000", "00000000"), ("11110000", "00000000")), (0.05,) * 8, latents=unet_latents(seed))
    for seed in (0, 1)
}
VAE = {
    0: TrialRows("11110000", "10000000", attacked(("10000000", "00000000"), ("11110000", "00000000")), (0.05,) * 8),
    1: TrialRows("11111000", "10000000", attacked(("10000000", "00000000"), ("11110000", "00000000")), (0.05,) * 8),
}
UNDEFENDED = {seed: TrialRows(BEFORE, BEFORE, attacked(("10000000", "00000000"), ("11110000", "11111100")), (0.05,) * 8) for seed in (0, 1)}


def paper_root(path: Path, dataset: str = "digits") -> Root:
    """Return the paper's sweep: recipes and equal information for VQUNet and Defense-VAE, non-VQUNet, controls, a second pass."""
    root = Root(path, dataset=dataset)
    shape = {"depth": 2, "codebook_size": 64, "alpha": 1.0, "beta": 1.0}
    root.variant("reference", VQUNET, passes=1, **shape)
    root.variant("quantize=false", UNET, factor="quantize", level="false", quantize=False)
    adversarial = {"train_input": "adv"}
    root.variant("vae, kl 0", VAE, factor="model+kl_weight+train_input", model="defense_vae", kl_weight=0.0, **adversarial)
    root.variant("vae", VAE, factor="model+train_input", model="defense_vae", kl_weight=1.0, **adversarial)
    root.variant("adv", TWICE, factor="train_input", passes=1, **shape, **adversarial)
    root.variant("passes=2", TWICE, factor="passes", level="2", passes=2, **shape)
    root.variant("none", UNDEFENDED, factor="model+retrain", model="identity", retrain="none", num_epochs=None, train_input=None)
    return root
