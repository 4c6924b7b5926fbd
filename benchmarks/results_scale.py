"""How quick is a results root of 2,000 trials and 200,000 score rows, before and after compaction? And `python -m sweeper rank` on it?

    python benchmarks/results_scale.py [--trials 2000] [--root DIR] [--sync]

One part per trial, attack and threat as a sweep publishes them (10 score parts a trial), both classifiers at six epsilons; outcome lists of 500
images, broken_at of 240 on one row per trial. Syncing each file to disk is off while the parts are made unless --sync: it takes most of the time
and says something about the disk only.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.probes.levels import HEALTH
from sweeper.results import Results

STATIC = [(t, a) for t in ("graybox", "transfer") for a in ("fgsm", "bim", "pgd", "cw")]
CELLS = [("clean", "none"), *STATIC, ("adaptive", "pgd")]
EPSILONS = [0.025, 0.05, 0.075, 0.1, 0.2, 0.3]
SEEDS = 5
RANKED = ["trial_id", "evaluation_id", "attack", "epsilon", "classifier", "n", "accuracy", "broken_at"]


def key_of(*words: object) -> str:
    return hashlib.sha256("/".join(map(str, words)).encode()).hexdigest()[:32]


def score_rows(generator: np.random.Generator, trial_id: str, threat: str, attack: str) -> list[dict[str, Any]]:
    images = 240 if threat == "adaptive" else 500
    epsilons = [0.0] if threat == "clean" else EPSILONS
    classifiers = {"clean": ("original", "retrained", "unfiltered"), "adaptive": ("retrained",)}.get(threat, ("original", "retrained"))
    rows = []
    for classifier in classifiers:
        for epsilon in epsilons:
            outcomes = generator.random(images) > epsilon * 3
            rows.append({
                "trial_id": trial_id, "evaluation_id": "standard", "attack": attack, "epsilon": epsilon, "threat": threat, "source": "defense",
                "classifier": classifier, "sample_set": f"digits-{images}", "n": images,
                "correct": int(outcomes.sum()), "accuracy": float(outcomes.mean()),
                "ci_low": 0.0, "ci_high": 1.0, "outcomes": outcomes, "achieved_epsilon": epsilon, "seconds": 1.0,
                "broken_at": generator.choice(EPSILONS, images).astype(np.float32) if threat == "adaptive" and epsilon == EPSILONS[-1] else None,
                "carried_over": 5, "attack_settings": '{"num_steps": 20}', "crafted_on": key_of("crafted", threat), "scored_on": trial_id,
            })  # fmt: skip
    return rows


def fill(results: Results, trials: int) -> int:
    """Publish trials as a sweep of `trials / SEEDS` variants would; return the number of score rows."""
    generator = np.random.default_rng(0)
    now, count, planned = datetime.now(UTC), 0, []
    for number in range(trials):
        variant, seed = divmod(number, SEEDS)
        trial_id, variant_id = key_of("trial", number), key_of("variant", variant)
        parts = [f"scores/{key_of(trial_id, threat, attack)}" for threat, attack in CELLS]
        for threat, attack in CELLS:
            rows = score_rows(generator, trial_id, threat, attack)
            count += len(rows)
            results.publish("scores", key_of(trial_id, threat, attack), rows)
        latents = [{"trial_id": trial_id, "evaluation_id": "standard", "attack": "none", "epsilon": 0.0, "threat": "clean", "source": "none",
                    "depth": depth, "perplexity": 30.0, "usage": 0.9} for depth in (1, 2, 3)]  # fmt: skip
        results.publish("latents", key_of(trial_id, "latents"), latents)
        probed = {"trial_id": trial_id, "evaluation_id": "standard", "kind": "validity", "outcome": "pass", "message": "as it should be",
                  "level": "standard", "probes_version": 1, "seconds": 0.1}  # fmt: skip
        results.publish("checks", key_of(trial_id, "checks"), [probed | {"check": check} for check in HEALTH])
        results.publish("trials", trial_id, [{
            "trial_id": trial_id, "variant_id": variant_id, "defense": "vqunet", "dataset": "digits", "seed": seed, "target_seed": 0,
            "model": "vqunet", "codebook_size": 64, "config": '{"model": "vqunet"}' * 30, "started": now, "ended": now,
            "train_seconds": 10.0, "score_seconds": 20.0,
        }])  # fmt: skip
        planned.append({
            "sweep": "large", "plan_hash": "0", "trial_id": trial_id, "variant_id": variant_id, "label": f"variant {variant}", "seed": seed,
            "score_epsilon": 0.1, "is_reference": variant == 0, "evaluation_id": "standard", "evaluation": "standard", "dataset": "digits",
            "scale": "small", "parts": [*parts, f"latents/{key_of(trial_id, 'latents')}", f"trials/{trial_id}"],
        })  # fmt: skip
    results.publish("sweeps", key_of("sweep"), planned)
    results.publish("runs", key_of("run"), [{
        "sweep": "large", "plan_hash": "0", "dataset": "digits", "evaluation_id": "standard", "command": "run large", "started": now, "host": "here",
        "trials": trials,
    }])  # fmt: skip
    return count


def rank(root: Path) -> str:
    """Rank in a new process, as a user does; return how many rows it printed."""
    command = [sys.executable, "-m", "sweeper", "rank", "large", "--results", str(root), "--format", "json"]
    return f"{len(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))} variants"


def rank_reads(root: Path) -> int:
    """Read what a ranking needs, as a new process would: the sweep, its trials, clean and adaptive scores."""
    results = Results(root)
    results.read("sweeps", where={"sweep": "large"})
    results.read("trials")
    return results.read("scores", RANKED, {"threat": ["clean", "adaptive"]}).num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--sync", action="store_true")
    args = parser.parse_args()
    root = args.root or Path(tempfile.mkdtemp(prefix="results-scale-"))
    if not args.sync:
        os.fsync = lambda descriptor: None

    def clock(what: str, action: Callable[[], object], repeats: int = 1) -> None:
        seconds, answer = [], None
        for _ in range(repeats):
            started = time.perf_counter()
            answer = action()
            seconds.append(time.perf_counter() - started)
        print(f"{min(seconds):8.2f} s  {what}: {answer}", flush=True)

    def measure(repeats: int = 3) -> None:
        clock("open", lambda: Results(root).root.name)
        clock("stored('scores')", lambda: len(Results(root).stored("scores")), 3)
        clock("the reads of a ranking", lambda: rank_reads(root), repeats)
        if repeats == 1:  # before compaction the rest takes minutes, and says the same
            return
        clock("python -m sweeper rank, a whole process", lambda: rank(root), 3)
        clock("read scores, all rows, six columns", lambda: Results(root).read("scores", RANKED[:6]).num_rows, 2)
        clock(
            "read one trial's scores, all columns",
            lambda: Results(root).read("scores", where={"trial_id": key_of("trial", 7)}).num_rows,
        )
        clock(
            "query: mean accuracy per threat",
            lambda: len(Results(root).query("select threat, avg(accuracy) from scores group by 1")[1]),
            2,
        )

    if not (root / "store.json").exists():
        clock("publish", lambda: fill(Results(root, create=True), args.trials))
    measure(repeats=1)
    print("after compaction")
    clock("compact", lambda: Results(root).compact())
    measure()
    clock("clean", lambda: len(Results(root).clean(grace_seconds=0)))
    measure()
    clock("problems", lambda: len(Results(root).problems()))
    size = sum(path.stat().st_size for path in root.rglob("*.parquet"))
    print(f"{size / 1e6:.1f} MB in {root}", file=sys.stderr)


if __name__ == "__main__":
    main()
