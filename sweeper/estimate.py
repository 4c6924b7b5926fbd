"""What a plan costs: seconds from what was measured under this results root, and bytes; and whether the disk can take it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.artifacts import Artifacts
from sweeper.checks.catalogue import CHECKS
from sweeper.escalation import level_of
from sweeper.plan import Plan, PlannedTrial
from sweeper.probes.levels import HEALTH, LEVELS
from sweeper.results import Results
from sweeper.stages import Stage
from sweeper.statistics import detectable
from sweeper.storage import Root, is_root, open_store
from sweeper.sweep import state_of

# Seconds per trial at `small` on one core of a 2-core machine, used until this results root holds a measured trial of the data set and scale.
_GUESS = {"digits": (30.0, 10.0, 12.0), "": (150.0, 40.0, 40.0)}  # trained purifier, untrained, shared stage; under the standard evaluation
_SHARES = {"quick": 0.3, "standard": 1.0, "full": 40.0}  # of that; full: 44 to 111 times the scoring alone, docs/results/evaluation-agreement.md
_GUESSED_CHECK, _GUESSED_ATTACKS = 0.13, {"C13": 8.0, "C16": 0.3, "C17": 9.0}  # seconds on digits: of each probe, of each attack at level standard


def describe(plan: Plan, root: Root, *, slots: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row per trial and shared stage (stored, missing or failed; estimated seconds), and notes with the totals.

    Args:
        slots: How many trials run at once.
    """
    state = state_of(plan, root)
    missing = {trial.key for trial in state.missing}
    seconds, measured = _seconds(plan, root)
    rows: list[dict[str, Any]] = []
    to_make = {stage.key for stage in state.stages}
    artifacts = Artifacts(root)
    for stage in plan.stages:
        stored = artifacts.has(stage.kind, stage.key)
        word = "stored" if stored else "to make" if stage.key in to_make else "not needed"
        rows.append(
            {
                "what": "shared stage",
                "name": stage.title,
                "seed": None,
                "state": word,
                "seconds": 0.0 if word != "to make" else _stage_seconds(plan),
                "key": stage.key[:12],
            }
        )
    for trial in plan.trials:
        failed = state.failed.get(trial.key)
        word = f"failed ({failed['reason']})" if failed else "to run" if trial.key in missing else "stored"
        cost = round(seconds[trial.key], 1) if word == "to run" else 0.0
        rows.append({"what": "trial", "name": trial.label, "seed": trial.config.seed, "state": word, "seconds": cost, "key": trial.trial_id[:12]})
    rows += _check_rows(plan, root, len(state.runnable))
    total = sum(row["seconds"] for row in rows) / max(1, min(slots, len(state.runnable) or 1))
    source = f"from {measured} measured trials here" if measured else "a rough guess: nothing of this data set and scale is measured here yet"
    notes = [
        *plan.notes,
        f"{len(state.runnable)} of {len(plan.trials)} trials to run, {len(state.stages)} of {len(plan.stages)} shared stages to make; "
        f"about {f'{total / 60:.0f} min' if total > 90 else f'{total:.0f} s'} with {slots} at once ({source}); "
        f"at most {needed_bytes(plan, state.stages, state.runnable) / 2**20:.0f} MiB on disk",
    ]
    if plan.evaluation.name != "quick":
        notes.append(_detectable(plan))
    if state.failed:
        notes.append(f"{len(state.failed)} trials failed by themselves and are run again only with --retry-failed")
    return rows, notes


def cost_of(plan: Plan, root: Root, *, slots: int) -> str:
    """Return the sentence of `describe` on what is to be made, in how much time and how many bytes."""
    return describe(plan, root, slots=slots)[1][len(plan.notes)]


def _check_rows(plan: Plan, root: Root, num_runnable: int) -> list[dict[str, Any]]:
    """Return what the reviewer's checks add: those of every trial in one row, and a row per attack on the reference and the best (full: on all)."""
    if not plan.evaluation.is_checked or not num_runnable:
        return []
    level, seeds = level_of(plan), len({trial.config.seed for trial in plan.trials})
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    if is_root(root):
        ways = sorted({trial.evaluation_id for trial in plan.trials})
        for row in Results(root).read("checks", ["check", "level", "seconds"], {"evaluation_id": ways}).to_pylist():
            measured[row["check"], row["level"]].append(row["seconds"] or 0.0)

    def cost(check: str, level: str, guess: float) -> float:
        known = measured[check, level]
        return sum(known) / len(known) if known else guess

    attacked = len(plan.trials) if level == "full" else min(len(plan.trials), 2 * seeds)
    scale = 1.0 if plan.dataset == "digits" else 2.5
    of_all = num_runnable * sum(cost(check, "standard", _GUESSED_CHECK * scale) for check in HEALTH)
    rows = [(f"{', '.join(HEALTH)} on every trial", of_all)]
    for check in LEVELS[level]:
        guess = _GUESSED_ATTACKS.get(check, 10.0) * scale * (10.0 if level == "full" else 1.0)
        rows.append((f"{check} on {attacked} trials: {CHECKS[check].title}", attacked * cost(check, level, guess)))
    named: dict[str, Any] = {"what": "check", "seed": None, "state": "after", "key": ""}
    return [{**named, "name": name, "seconds": round(seconds, 1)} for name, seconds in rows]


def _detectable(plan: Plan) -> str:
    """Return a sentence: the smallest differences that the planned seeds, and the images of the adaptive attacks, can detect."""
    adaptive = [cell.images for cell in plan.evaluation.cells if cell.threat == "adaptive" and cell.images]
    images = min([_images(plan), *adaptive])
    seeds = len({trial.config.seed for trial in plan.trials})
    found = detectable(images, seeds)
    settings = "nothing is tested between settings with one seed"
    if found.settings is not None:
        less = "none that an accuracy can have" if found.settings > 1 else f"{100 * found.settings:.0f} points"
        settings = f"between settings {less} ({seeds} seeds, if robust_score moves by 12 points from seed to seed, as it can on the digits)"
    checkpoints = "" if found.checkpoints is None else f"; between two checkpoints {100 * found.checkpoints:.0f} points ({images} images)"
    return f"smallest difference that this plan finds in 8 of 10 cases, in one test at 5 %: {settings}{checkpoints}"


def check_space(plan: Plan, root: Root) -> None:
    """Refuse a sweep that the disk cannot hold.

    Raises:
        OSError: Naming the root, the bytes free and the bytes needed.
    """
    state = state_of(plan, root)
    needed = needed_bytes(plan, state.stages, state.runnable)
    store = open_store(root)
    free = store.free_bytes()
    if free is not None and free < needed:
        raise OSError(
            28, f"the sweep may need {needed / 2**20:.0f} MiB under {store.url}, where {free / 2**20:.0f} MiB are free; name another --results"
        )


def needed_bytes(plan: Plan, stages: Sequence[Stage], trials: Sequence[PlannedTrial]) -> int:
    """Return an upper bound of the bytes that a run writes: fp16 perturbations, weights, states at the ends of phases, tables."""
    channels = 1 if plan.dataset in ("digits", "fashion_mnist") else 3
    images = _images(plan)
    sets = sum(len(stage.cell.epsilons) * min(stage.cell.images or images, images) * channels * 32 * 32 * 2 for stage in stages if stage.cell)
    weights = {"small": 4, "medium": 300, "paper": 300}[plan.scale] * 2**20
    ends = {key for trial in trials if trial.config.network.is_trained for key in trial.config.phase_keys.values()}
    states = {"small": 8, "medium": 400, "paper": 400}[plan.scale] * 2**20 * len(ends)  # weights and Adam's two moments
    return sets + states + weights * (len(trials) + sum(stage.recipe is not None for stage in stages))


def _images(plan: Plan) -> int:
    """Return how many images the split has that is scored on; a data set that is not known is taken for a large one."""
    config = plan.trials[0].config
    if plan.evaluation.split == "validation":
        held = {"digits": 260, "fashion_mnist": 6000, "cifar10": 5000}.get(plan.dataset, 10_000)
        return min(config.validation_images or held, held)
    return config.test_images or {"digits": 500}.get(plan.dataset, 10_000)


def longest_first(trials: Sequence[PlannedTrial], seconds: Mapping[tuple[str, str], float]) -> list[PlannedTrial]:
    """Return trials in the order in which to begin them: the longest first, so that it does not begin last; of equal ones in the order given.

    Args:
        seconds: Trial's key -> estimated seconds.
    """
    return sorted(trials, key=lambda trial: -seconds[trial.key])


def estimated_seconds(plan: Plan, root: Root) -> dict[tuple[str, str], float]:
    """Return trial's key -> estimated seconds, from what is measured under this results root, else a guess."""
    return _seconds(plan, root)[0]


def _seconds(plan: Plan, root: Root) -> tuple[dict[tuple[str, str], float], int]:
    """Return trial's key -> estimated seconds, and from how many measured trials: of the same variant, else of the same model, else trained alike."""
    rows: list[dict[str, Any]] = []
    if is_root(root):
        results = Results(root)
        ways = sorted({trial.evaluation_id for trial in plan.trials})
        attempts = results.read("attempts", ["trial_id", "started"], {"evaluation_id": ways, "status": "completed"}).to_pylist()
        scored_alike = {(row["trial_id"], row["started"]) for row in attempts}  # the seconds of `trials` are of a trial's first scoring
        columns = ["trial_id", "variant_id", "model", "parameters", "num_epochs", "train_seconds", "score_seconds", "started"]
        measured = results.read("trials", columns, {"dataset": plan.dataset, "scale": plan.scale}).to_pylist()
        rows = [row for row in measured if (row["trial_id"], row["started"]) in scored_alike]
    guess = _guess(plan)
    found: dict[tuple[str, str], float] = {}
    for trial in plan.trials:
        is_trained = trial.config.network.is_trained
        epochs = trial.config.training.num_epochs if is_trained else None
        same = [row for row in rows if row["variant_id"] == trial.variant_id]
        alike = same or [row for row in rows if row["model"] == trial.config.model] or [row for row in rows if row["num_epochs"] == epochs]
        costs = [(row["train_seconds"] or 0.0) + (row["score_seconds"] or 0.0) for row in alike]
        found[trial.key] = sum(costs) / len(costs) if costs else guess[0 if is_trained else 1]
    return found, len(rows)


def _guess(plan: Plan) -> tuple[float, ...]:
    share = _SHARES[plan.evaluation.name]
    trained, untrained, stage = _GUESS.get(plan.dataset, _GUESS[""])
    return trained * share, untrained * share, stage * min(1.0, share)  # full attacks the trials longer, not what they share


def _stage_seconds(plan: Plan) -> float:
    return round(_guess(plan)[2], 1)
