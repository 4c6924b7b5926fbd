"""How much of a search of 200 trials is the search's own work? And are two workers kept busy?

    python benchmarks/search_overhead.py [--trials 200] [--faster 12] [--profile]

All of it is the program's own: `run_search` with TPE and halving over `search_spaces/search.py`, Ray Tune with two workers, the tables with every
suggestion and every trial's rows. Only what a worker does for a trial is replaced: it sleeps, and publishes rows of the shapes that a trial on digits
leaves, with the figures of `stand_in.py`. Nothing is trained, and the shared stages are left out.

A trial on digits takes about 31.5 s on one core, 10.4 s at the rung (`sweeper/search/estimate.py`), and here a twelfth of that. The search's own
time is what the driver spends in asking for the next trial (sampler, promotions, look-ups, storing the suggestion) and in taking in one that ended
(reading its figures, compaction); the other worker goes on meanwhile. It does not depend on how long trials are, so it is printed as a share of the
trials phase as it was run, and of one with trials of real length. Efficiency is the trials' own seconds over those from the first start to the last
end, times the workers, as it was run. Exit status 1 unless own time is at most 2 % at real length and efficiency at least 90 %. Four minutes; with
--faster 4, where the first share is below 2 % too, ten.
"""

import argparse
import cProfile
import math
import os
import pickle
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sweeper import datasets
from sweeper.canonical import canonical_json
from sweeper.config import TrialConfig
from sweeper.evaluations import Cell
from sweeper.keys import attack_label, attack_settings, health_part, part_key, scores_part
from sweeper.live import Display
from sweeper.lookup import find
from sweeper.plan import PlannedTrial
from sweeper.probes.levels import HEALTH
from sweeper.results import Results
from sweeper.search.plan import plan_search
from sweeper.search.running import Feed, run_search
from sweeper.search.space import read_space
from sweeper.stages import Stage
from sweeper.statistics import wilson
from sweeper.sweep import View
from sweeper.worker import Finished, Job

BOUNDS = {"own": 0.02, "efficiency": 0.90}
SECONDS = {"quick": 10.4, "standard": 31.5}  # of a trial by what scores it
WORKERS = 2
AT_EACH_END = 20  # trials that "at the beginning" and "at the end" are means over
Row = dict[str, Any]


class Clocked:
    """A feed that notes what each question and each answer costs the driver, in seconds."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.asking: list[tuple[int, float]] = []  # how many trials were proposed by then, and the seconds
        self.taking: list[tuple[int, float]] = []

    @property
    def is_finished(self) -> bool:
        return self.feed.is_finished

    @property
    def remaining(self) -> int:
        return self.feed.remaining

    def next(self) -> PlannedTrial | None:
        since = time.perf_counter()
        trial = self.feed.next()
        self.asking.append((self._proposed(), time.perf_counter() - since))
        return trial

    def ended(self, trial: PlannedTrial, finished: Finished) -> None:
        since = time.perf_counter()
        self.feed.ended(trial, finished)
        self.taking.append((self._proposed(), time.perf_counter() - since))

    @property
    def own(self) -> float:
        return sum(seconds for _, seconds in self.asking + self.taking)

    def per_trial(self, first: int, last: int) -> tuple[float, float]:
        """Return the milliseconds of asking and of taking in, for each of the trials proposed as number first up to last."""
        return tuple(1e3 * sum(s for n, s in noted if first < n <= last) / (last - first) for noted in (self.asking, self.taking))  # pyright: ignore[reportReturnType]

    def _proposed(self) -> int:
        return len(self.feed.search.standings)


def sleeping(faster: float) -> Callable[..., None]:
    """Return what a Tune worker does instead of a trial: sleep through the epochs, telling of each, and publish a trial's rows."""

    def trainable(settings: Row, *, job: Job, expected: object) -> None:
        from ray import tune

        trial: PlannedTrial = pickle.loads(settings["trial"])
        started = datetime.now(UTC)
        seconds, epochs = SECONDS[trial.evaluation.name] / faster, trial.config.training.num_epochs
        until = time.monotonic() + seconds
        for epoch in range(epochs):
            time.sleep(max(0.0, (until - time.monotonic()) / (epochs - epoch)))
            tune.report({"progress": ["purifier", epoch + 1, epochs, {"loss": 1 / (epoch + 1)}]})
        results = Results(job.store)
        for table, part, rows in parts_of(trial, started):
            results.publish(table, part, rows)
        clean = {"clean_accuracy": 0.9, "adaptive_accuracy": 0.2}
        finished = Finished(*trial.key, "completed", figures=clean, seconds=(datetime.now(UTC) - started).total_seconds())
        tune.report({"finished": vars(finished), "peak": {"host_bytes": 0}})

    return trainable


def parts_of(trial: PlannedTrial, started: datetime) -> list[tuple[str, str, list[Row]]]:
    """Return every part that a completed trial leaves, in the order and the shapes of `sweeper/trial.py`, with invented figures."""
    from stand_in import figures

    config, named = trial.config, {"trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id}
    found = {name: float(value or 0) for name, value in figures(settings_of(config), is_rung=trial.evaluation.name == "quick").items()}
    parts: list[tuple[str, str, list[Row]]] = []
    latents: list[Row] = []
    for cell in trial.evaluation.cells:
        label = attack_label(cell, trial.evaluation)
        names = named | {"threat": cell.threat, "attack": label}
        parts.append(("scores", scores_part(*trial.key, cell, label), [names | row for row in _scores(cell, found)]))
        for epsilon in cell.epsilons:
            one = names | {"source": "target", "epsilon": epsilon, "sample_set": "validation", "psnr": 20.0, "perplexity": 30.0, "usage": 0.9}
            latents += [one | {"depth": depth} for depth in range(1, config.model_options["depth"] + 1)]
    parts.append(("latents", part_key("latents", *trial.key), latents))
    if trial.evaluation.strip_cells:
        one = named | {"attack": "pgd", "epsilon": 0.1, "label": 0, "predicted_clean": 0, "predicted_adversarial": 1}
        one |= {name: os.urandom(150) for name in ("clean", "adversarial", "purified_clean", "purified")}  # about a small image as PNG
        strips = [one | {"threat": threat, "position": place, "sample_id": str(place)} for threat in ("graybox", "adaptive") for place in range(8)]
        parts.append(("strips", part_key("strips", *trial.key), strips))
    if trial.evaluation.is_checked:
        one = named | {"kind": "validity", "outcome": "pass", "message": "as it should be", "level": "standard", "probes_version": 1, "seconds": 0.1}
        parts.append(("checks", health_part(*trial.key), [one | {"check": check} for check in HEALTH]))
    epochs = [("purifier", epoch) for epoch in range(config.training.num_epochs)] + [("retrain", epoch) for epoch in range(4)]
    rows = [{"trial_id": trial.trial_id, "stage": stage, "epoch": epoch, "loss": 0.1, "seconds": 1.0} for stage, epoch in epochs]
    parts.append(("epochs", part_key("epochs", trial.trial_id), rows))
    ended = datetime.now(UTC)
    attempt = named | {"attempt": 1, "status": "completed", "host": "here", "started": started, "ended": ended}
    parts.append(("attempts", part_key("attempts", *trial.key, "completed"), [attempt]))
    row = {"trial_id": trial.trial_id, "variant_id": trial.variant_id, "defense": "vqunet", "model": "vqunet", "dataset": config.dataset, "seed": 0,
           "target_seed": 0, "config": canonical_json(config), "psnr": 20.0, "parameters": 10_000, "train_seconds": 1.0, "score_seconds": 1.0,
           "started": started, "ended": ended}  # fmt: skip
    parts.append(("trials", trial.trial_id, [row]))
    assert {f"{table}/{part}" for table, part, _ in parts} >= set(trial.parts)
    return parts


def settings_of(config: TrialConfig) -> Row:
    """Return a configuration's settings as the search proposed them, as far as the stand-in looks at them."""
    options, quantizer = config.model_options, config.model_options.get("quantizer", "none")  # without one it is a U-Net
    found: Row = {"quantizer": quantizer, "depth": options["depth"], "train_input": config.train_input}
    found |= {"code_dim": options.get("code_dim"), "learning_rate": config.training.learning_rate}
    if quantizer != "none":
        sizes = options["codebook_size"]
        found["codebook_size"] = list(sizes) if isinstance(sizes, list | tuple) else [sizes] * options["depth"]
    if quantizer not in ("none", "fsq"):
        found["beta"] = options["beta"]
    found |= {"train_noise": config.train_noise} if config.train_input == "gauss" else {}
    return found | ({"train_epsilon": config.train_epsilon} if config.train_input == "adv" else {})


def _scores(cell: Cell, found: dict[str, float]) -> list[Row]:
    """Return rows for both classifiers at each epsilon; the adaptive curve's area is the robust_score, for its accuracy does not fall."""
    images = cell.images or 500
    rows = []
    for classifier in {"clean": ("original", "retrained", "unfiltered"), "adaptive": ("retrained",)}.get(cell.threat, ("original", "retrained")):
        accuracy = found["clean"] + found["clean_drop"] * (classifier == "unfiltered") if cell.threat == "clean" else found["robust_score"]
        correct = round(accuracy * images)
        low, high = wilson(correct, images)
        right = np.arange(images) < correct
        for place, epsilon in enumerate(cell.epsilons):
            is_last = cell.threat == "adaptive" and place == len(cell.epsilons) - 1
            rows.append({
                "epsilon": epsilon, "source": "defense", "classifier": classifier, "sample_set": f"validation-{images}", "n": images,
                "correct": correct, "accuracy": correct / images, "ci_low": low, "ci_high": high, "outcomes": right, "seconds": 1.0,
                "broken_at": np.where(right, math.inf, cell.epsilons[0]).astype(np.float32) if is_last else None,
                "attack_settings": attack_settings(cell), "achieved_epsilon": epsilon, "crafted_on": "target", "scored_on": "defense",
            })  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--faster", type=float, default=12, help="than trials of real length")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--profile", action="store_true", help="of the driver's own time, by function")
    args = parser.parse_args()
    from sweeper.cluster import execution, resources, trials

    module = find("search_spaces", "search")
    space, splits = read_space("search", module, trials=args.trials, sampler=args.sampler, scheduler="halving"), datasets.load("digits")
    plan = plan_search("search", space, module, Path(str(module.__file__)).read_text(), fingerprint=splits.fingerprint, dataset="digits",
                       scale="small", settings={})  # fmt: skip
    trials._trainable = sleeping(args.faster)  # pickled by value, so that the workers have it
    on_ray = execution.search_executor(resources.Resources(max_concurrent=WORKERS))
    clocked: list[Clocked] = []
    profile = cProfile.Profile()

    def execute(job: Job, stages: Sequence[Stage], feed: Feed, view: View) -> None:
        clocked.append(Clocked(feed))
        on_ray(job, (), clocked[0], view)  # pyright: ignore[reportArgumentType]

    root = Path(tempfile.mkdtemp(prefix="sweeper-benchmark-")) / "results"
    since = time.perf_counter()
    if args.profile:
        profile.enable()
    with Display(slots=WORKERS) as display:
        searched = run_search(plan, splits, root, None, execute, display, warn=print)
    profile.disable()
    total = time.perf_counter() - since
    if args.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    feed, results = clocked[0], Results(root)
    attempts = results.read("attempts", ["started", "ended"], {"status": "completed"}).to_pylist()
    busy = sum((row["ended"] - row["started"]).total_seconds() for row in attempts)
    phase = (max(row["ended"] for row in attempts) - min(row["started"] for row in attempts)).total_seconds()
    whole = sum(standing.state == "completed" for standing in searched.search.standings)
    print(f"{len(searched.search.standings)} trials, {whole} of them at full length; {args.faster:g} times as fast as on digits")
    print(f"whole search {total:.1f} s, trials phase {phase:.1f} s, trials' own {busy:.1f} s on {WORKERS} workers")
    asking, taking = (sum(seconds for _, seconds in noted) for noted in (feed.asking, feed.taking))
    print(f"own time {feed.own:.2f} s: asking {asking:.2f} (sampler and rungs, as `run` says: {searched.search.seconds:.2f}), taking in {taking:.2f}")
    for word, first, last in (("first", 0, AT_EACH_END), ("last", args.trials - AT_EACH_END, args.trials)):
        print(f"per trial, the {word} {last - first}: {' + '.join(f'{ms:.1f}' for ms in feed.per_trial(first, last))} ms, asking + taking in")
    figures = {"own": feed.own / (feed.own + args.faster * busy / WORKERS), "efficiency": busy / (phase * WORKERS)}
    print(f"own time / trials phase, as run   {100 * feed.own / phase:6.2f} %")
    print(f"the same with real trials' length {100 * figures['own']:6.2f} %   (bound {100 * BOUNDS['own']:g})")
    print(f"worker efficiency, as run         {100 * figures['efficiency']:6.1f} %   (bound {100 * BOUNDS['efficiency']:g})")
    return 0 if figures["own"] <= BOUNDS["own"] and figures["efficiency"] >= BOUNDS["efficiency"] else 1


if __name__ == "__main__":
    sys.exit(main())
