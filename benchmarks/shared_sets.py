"""The same sweep with adversarial sets shared by its trials and with each trial crafting its own: wall seconds, their ratio, and equal scores.

    python benchmarks/shared_sets.py [--variants N] [--workers 2]

Both sides run in one harness (a pool of processes with one torch thread each), in turn; targets and sources are trained before the clock starts,
purifiers on both sides within it. The shared side's time includes making the sets.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from same_outcomes import differences

from sweeper import artifacts, datasets, lookup, plan, stages, worker
from sweeper.artifacts import Artifacts, Bundle
from sweeper.results import Results
from sweeper.storage import open_store
from sweeper.sweep import record_plan


class Unshared(Artifacts):
    """Artifacts that forget adversarial sets: every trial crafts its own."""

    def get_or_create(self, kind: str, key: str, make: Callable[[], Bundle]) -> Bundle:
        if kind != "adversarial":
            return super().get_or_create(kind, key, make)
        made = make()
        return Bundle(made.tensors, made.info, artifacts.content_hash(made.tensors))


def perform(task: tuple[worker.Job, object, bool]) -> float:
    """Run a stage or a trial in a pool's process; return its seconds."""
    job, work, shares = task
    began = time.monotonic()
    if not shares and worker.Artifacts is not Unshared:
        worker.Artifacts = Unshared  # pyright: ignore[reportAttributeAccessIssue]
        worker._materials.clear()  # they hold artifacts of the other kind
    if isinstance(work, stages.Stage):
        worker.perform_stage(job, work)
    else:
        assert isinstance(work, plan.PlannedTrial)
        finished = worker.perform_trial(job, work)
        assert finished.status == "completed", finished.message
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=14)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    splits = datasets.load("digits")
    made = plan.from_space("ablations", lookup.find("search_spaces", "ablations"), fingerprint=splits.fingerprint)
    trials = sorted(made.trials[: args.variants], key=lambda trial: trial.config.network.is_trained, reverse=True)
    classifiers = [stage for stage in made.stages if stage.recipe is not None]
    sets = [stage for stage in made.stages if stage.cell is not None]
    place = Path(tempfile.mkdtemp(prefix="sweeper-benchmark-"))
    seconds: dict[str, float] = {}
    for side in ("shared", "per trial"):
        root = place / side.replace(" ", "-")
        record_plan(made, splits, Results(root, create=True))
        job = worker.Job("ablations", open_store(root), None)
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            pool.map(perform, [(job, stage, True) for stage in classifiers], chunksize=1)
            began = time.monotonic()
            if side == "shared":
                pool.map(perform, [(job, stage, True) for stage in sets], chunksize=1)
            pool.map(perform, [(job, trial, side == "shared") for trial in trials], chunksize=1)
        seconds[side] = time.monotonic() - began
        print(f"{side}: {seconds[side]:.1f} s for {len(trials)} trials", flush=True)
    rows = differences(place / "shared", place / "per-trial")
    print(f"ratio {seconds['per trial'] / seconds['shared']:.2f} (bound 1.5); scores {'equal' if not rows else rows[:3]}")
    return 1 if rows or seconds["per trial"] < 1.5 * seconds["shared"] else 0


if __name__ == "__main__":
    sys.exit(main())
