"""Does the tool catch what is broken, and leave alone what is sound? Every planted defect and every sound defense, over five seeds.

    python benchmarks/planted_defects.py [--results ROOT] [--seeds N]

Defects of a defense (`sweeper/probes/planted.py`) are put into an undefended target; each must be caught by the check meant for it. Two more are
defects of an evaluation: an attack whose steps cannot reach the ball's surface (C12), and scores that lack the images of a batch (C6). Sound are the
undefended target, an adversarially trained one, and a blur with a classifier tuned to it: none may fail any validity check. Digits at scale `small`.
The reference VQUNet is probed as well and reported apart, since how far its attack has converged is a finding and not a test. Exit status 1 if a
defect gets by or a sound defense is failed. On one core about two minutes a seed.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attacks._ascending import Config as AscentConfig
from attacks._ascending import ascend
from sweeper import datasets
from sweeper.artifacts import Artifacts
from sweeper.cells import networks_of, outcomes_of
from sweeper.checks.all import run_checks
from sweeper.checks.catalogue import CHECKS
from sweeper.config import TrialConfig, resolve
from sweeper.keys import part_key
from sweeper.materials import Materials
from sweeper.options import ADAPTIVE
from sweeper.plan import of_config
from sweeper.probes._subject import Finding, Subject
from sweeper.probes.all import attacked, health
from sweeper.probes.levels import STRENGTH
from sweeper.probes.planted import PLANTS
from sweeper.probing import subject_of
from sweeper.results import Results
from sweeper.scales import evaluation, trial_defaults
from sweeper.scoring import Defense
from sweeper.storage import open_store
from sweeper.stored_plans import latest_plan
from sweeper.sweep import record_plan
from sweeper.worker import Job, perform_trial

SOUND: dict[str, dict[str, Any]] = {
    "undefended": {"model": "identity", "retrain": "none"},
    "adversarially trained": {"model": "identity", "adversary": "pgd", "retraining/num_epochs": 12},
    "a blur, and a classifier tuned to it": {"model": "mean_blur"},
}
REFERENCE = "the reference VQUNet"
SHORT = [{"attack": "pgd", "threats": ["adaptive"], "options": {"relative_step_size": 0.2}}]


def configuration(seed: int, settings: dict[str, Any], fingerprint: str) -> TrialConfig:
    found = resolve(trial_defaults("digits", "small"), {**settings, "seed": seed, "target_seed": seed})
    return found.model_copy(update={"fingerprint": fingerprint})


def subject(config: TrialConfig, materials: Materials) -> Subject:
    chosen, networks = evaluation("standard", "digits", "small"), networks_of(config, materials)
    cells = [cell for cell in chosen.cells if cell.threat in ADAPTIVE]
    found = [outcomes_of(config, chosen, cell, materials, networks).broken_at for cell in cells]
    return subject_of(config, chosen, materials, networks, [each for each in found if each is not None])


def everything(about: Subject) -> list[Finding]:
    return health(about) + [attacked(about, check, "standard") for check in STRENGTH]


def caught(sound: Subject, name: str) -> bool:
    plant = PLANTS[name]
    defense: Defense = plant.make(sound.defense, sound.images, sound.labels)
    about = replace(sound, defense=defense, broken_at=None)
    if plant.check not in STRENGTH:
        return any(finding.check == plant.check and finding.outcome == plant.outcome for finding in health(about))
    attack = AscentConfig(**sound.options)
    broken = ascend(defense, sound.images, sound.labels, epsilons=sound.epsilons, keys=sound.keys, config=attack).broken_at
    return attacked(replace(about, broken_at=broken), plant.check, "standard").outcome == plant.outcome


def evaluation_defects(seed: int, splits: datasets.Splits, root: Path) -> dict[str, bool]:
    """Return whether an attack that is too short and scores that lack a batch are found, in real tables of the undefended target."""
    config = configuration(seed, SOUND["undefended"], splits.fingerprint)
    plan, results = of_config(config, evaluation("standard", "digits", "small", SHORT)), Results(root, create=True)
    record_plan(plan, splits, results)
    ended = perform_trial(Job("trial", open_store(root), None), plan.trials[0])
    assert ended.status == "completed", ended.message
    rows = latest_plan(results, "trial", plan_hash=plan.plan_hash)
    short = any(one.check == "C12" and one.outcome == "fail" for one in run_checks(results, rows))
    (name,) = {row["trial_id"] for row in rows}
    stored = results.read("scores", where={"trial_id": name, "threat": "graybox", "attack": "fgsm"}).to_pylist()
    for path in [path for path in (root / "parts" / "scores").rglob("*.parquet") if _is_of(path, "graybox", "fgsm", name)]:
        path.unlink()
    for row in stored:  # as an evaluation would leave it that skips a batch which failed
        row["outcomes"] = row["outcomes"][:-128]
        row |= {"n": len(row["outcomes"]), "correct": sum(row["outcomes"])}
        row["accuracy"] = row["correct"] / row["n"]
        del row["schema_version"]
    results.publish("scores", part_key("scores", "spoiled", str(seed)), stored)
    dropped = any(one.check == "C6" and one.outcome == "fail" for one in run_checks(Results(root), rows))
    return {"an attack whose steps are too short (C12)": short, "scores that lack a batch (C6)": dropped}


def _is_of(path: Path, threat: str, attack: str, trial: str) -> bool:
    import pyarrow.parquet as pq

    found = pq.read_table(path, columns=["threat", "attack", "trial_id"]).slice(0, 1).to_pylist()
    return bool(found) and (found[0]["threat"], found[0]["attack"], found[0]["trial_id"]) == (threat, attack, trial)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    root = args.results or Path(tempfile.mkdtemp(prefix="sweeper-benchmark-")) / "results"
    torch.set_num_threads(1)
    splits = datasets.load("digits")
    materials = Materials(Artifacts(root), None, torch.device("cpu"))
    found: Counter[str] = Counter()
    failed: dict[str, list[str]] = {name: [] for name in (*SOUND, REFERENCE)}
    for seed in range(args.seeds):
        subjects = {name: subject(configuration(seed, settings, splits.fingerprint), materials) for name, settings in SOUND.items()}
        for name in PLANTS:
            found[f"{name} ({PLANTS[name].check})"] += caught(subjects["undefended"], name)
        for name, is_found in evaluation_defects(seed, splits, root).items():
            found[name] += is_found
        for name, about in (subjects | {REFERENCE: subject(configuration(seed, {}, splits.fingerprint), materials)}).items():
            for finding in everything(about):
                if finding.outcome == "fail" or (name == REFERENCE and finding.outcome == "warn" and CHECKS[finding.check].kind == "validity"):
                    failed[name].append(f"seed {seed}: {finding.check} {finding.outcome}: {finding.message}")
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    print(f"| planted defect (the check meant for it) | caught, of {args.seeds} seeds |\n|---|---|")
    for name, count in found.items():
        print(f"| {name} | {count} |")
    print("\n| sound defense | failed a validity check |\n|---|---|")
    for name in SOUND:
        print(f"| {name} | {len({line.partition(':')[0] for line in failed[name]})} of {args.seeds} seeds |")
    for name, lines in failed.items():
        for line in lines:
            print(f"\n{name}, {line}")
    missed = [name for name, count in found.items() if count < args.seeds]
    return 1 if missed or any(failed[name] for name in SOUND) else 0


if __name__ == "__main__":
    sys.exit(main())
