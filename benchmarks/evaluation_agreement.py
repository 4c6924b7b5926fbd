"""Do the evaluations quick, standard and full order trials alike? Rank correlations over five trials, and what each evaluation costs.

    python benchmarks/evaluation_agreement.py --results ROOT [--images 64] [--epsilons 0.0125 0.025] [--tiny]

The trials are a spread of the small scale on digits: the reference VQUNet, one without quantization, one of depth 1, a blur, the identity before a
retrained target. Each is trained once and scored by the adaptive cells of each evaluation, with that evaluation's own attacks, all on the same images
and epsilons: quick is PGD with 10 steps and standard with 20, straight through and with the gradient of a soft assignment; full is the worst case per
image over its attackers, among them AutoAttack's parts at their own settings. Beside them the worst case of standard's gray-box attacks on the same
images: what an attacker gets who does not know the purifier.

Everything goes through `run_trial`, so networks and finished cells are artifacts under --results: an interrupted run continues, and a cell's seconds
and counts are those of the run that made it. Counts are images through the defense, rounded down per attack and epsilon. `--tiny` shortens every
attack: does it run? Its figures mean nothing.

What n = 5 can say: of the 120 orders of five trials one agrees entirely, so even a correlation of 1 has p = 2/120 = 0.017, and Kendall's 0.8 (one
neighbouring pair exchanged) p = 0.083. So it can show that two evaluations do not order trials at random, or that they contradict each other on
trials as unlike as these; it cannot show that they agree on trials that are close, nor tell 0.7 from 0.9. The p is that of all orders, two-sided,
and leaves out that each accuracy is of a few images and of one seed.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from sweeper import datasets
from sweeper.artifacts import Artifacts
from sweeper.config import TrialConfig, resolve
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.materials import Materials
from sweeper.options import ADAPTIVE
from sweeper.scales import EVALUATIONS, evaluation, trial_defaults
from sweeper.statistics import worst_case
from sweeper.trial import run_trial

DATASET, SCALE = "digits", "small"
TRIALS: dict[str, dict[str, Any]] = {
    "reference": {},
    "quantize=false": {"quantize": False},
    "depth=1": {"depth": 1},
    "mean_blur": {"model": "mean_blur"},
    "identity": {"model": "identity"},
}
GRAYBOX = "gray-box"
TINY = {"num_steps": 3, "num_restarts": 1, "num_queries": 20}


def scored_as(name: str, images: int, epsilons: tuple[float, ...], tiny: bool) -> EvaluationConfig:
    """Return an evaluation's clean and adaptive cells, and standard's gray-box ones, all on the same images and epsilons."""
    whole = evaluation(name, DATASET, SCALE)

    def cut(cell: Cell) -> Cell:
        options = {key: min(value, TINY[key]) if tiny and key in TINY else value for key, value in cell.options.items()}
        return cell.model_copy(update={"images": images, "options": options} | ({} if cell.threat == "clean" else {"epsilons": epsilons}))

    kept = ("clean", *ADAPTIVE, *(["graybox"] if name == "standard" else []))
    return whole.model_copy(
        update={"cells": tuple(cut(cell) for cell in whole.cells if cell.threat in kept and not cell.measures_distance), "sources": ()}
    )


def scores(config: TrialConfig, chosen: EvaluationConfig, materials: Materials) -> list[dict[str, Any]]:
    """Return the rows of table `scores` for the trial's final classifier, one per attack and epsilon."""
    rows: list[dict[str, Any]] = []

    def publish(table: str, part: str, published: Sequence[dict[str, Any]]) -> None:
        if table == "scores":
            rows.extend(row for row in published if row["classifier"] == "retrained")

    run_trial(config, chosen, materials, publish)
    return rows


def ways(rows_by_evaluation: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows per way of judging a trial: each evaluation's adaptive ones, and gray-box."""
    found = {name: [row for row in rows if row["threat"] in ADAPTIVE] for name, rows in rows_by_evaluation.items()}
    return found | {GRAYBOX: [row for row in rows_by_evaluation["standard"] if row["threat"] == "graybox"]}


def accuracies(rows: list[dict[str, Any]], epsilons: Sequence[float]) -> list[float]:
    """Return the worst-case accuracy at each epsilon."""
    return [float(worst_case([row["outcomes"] for row in rows if row["epsilon"] == epsilon]).mean()) for epsilon in epsilons]


def exact(statistic: Callable[[Sequence[float], Sequence[float]], float], first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return a rank correlation and the share of all orders in which it is as far from 0; NaN twice where one side is constant."""
    if len(set(first)) == 1 or len(set(second)) == 1:
        return float("nan"), float("nan")
    observed = statistic(first, second)
    return observed, float(np.mean([abs(statistic(first, order)) >= abs(observed) - 1e-12 for order in permutations(second)]))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    return float(spearmanr(first, second).statistic)


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    return float(kendalltau(first, second).statistic)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("\n" + "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in [header, ["---"] * len(header), *rows]))


def report(found: dict[str, dict[str, list[dict[str, Any]]]], epsilons: Sequence[float]) -> None:
    """Print accuracies and costs, full's attackers one by one, and the correlations. found: trial -> way -> rows."""
    at = [f"at {epsilon:g}" for epsilon in epsilons]
    judged = {trial: {way: accuracies(rows, epsilons) for way, rows in by_way.items()} for trial, by_way in found.items()}
    lines = []
    for trial, by_way in found.items():
        for way, rows in by_way.items():
            sums = [sum(row[what] for row in rows) for what in ("seconds", "forwards", "backwards")]
            cost = ["shared", "", ""] if way == GRAYBOX else [f"{sums[0]:.1f}", f"{sums[1]:,}", f"{sums[2]:,}"]
            lines.append([trial, way, *(f"{100 * value:.1f}" for value in judged[trial][way]), *cost])
    table(["trial", "evaluation", *(f"{name} %" for name in at), "seconds", "forward", "gradients"], lines)

    def attacker(row: dict[str, Any]) -> tuple[str, str]:
        return row["threat"], row["attack"].partition("#")[0] + (" ce" if '"loss":"ce"' in row["attack_settings"] else "")

    lines = []
    for key in dict.fromkeys(attacker(row) for row in next(iter(found.values()))["full"]):
        its = {trial: [row for row in by_way["full"] if attacker(row) == key] for trial, by_way in found.items()}
        cells = [" / ".join(f"{100 * value:.1f}" for value in accuracies(rows, epsilons)) for rows in its.values()]
        lines.append([*key, *cells, f"{sum(row['seconds'] for rows in its.values() for row in rows):.0f}"])
    union = [" / ".join(f"{100 * value:.1f}" for value in judged[trial]["full"]) for trial in found]
    table(["threat", "attack of full", *found, "seconds"], [*lines, ["all", "worst case", *union, ""]])

    lines = []
    for first, second in combinations(next(iter(judged.values())), 2):
        for place, name in [*enumerate(at), (None, "mean of these")]:
            sides: list[NDArray[np.float64]] = []
            for way in (first, second):
                curves = np.array([judged[trial][way] for trial in judged])
                sides.append(curves.mean(axis=1) if place is None else curves[:, place])
            figures = [exact(statistic, sides[0].tolist(), sides[1].tolist()) for statistic in (spearman, kendall)]
            lines.append([f"{first}, {second}", name, *(f"{value:.2f} (p {p:.3f})" for value, p in figures)])
    table([f"n = {len(judged)}", "accuracy", "Spearman", "Kendall tau-b"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder that keeps networks and finished cells")
    parser.add_argument("--images", type=int, default=64, help="test images, stratified by class")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.0125, 0.025])
    parser.add_argument("--tiny", action="store_true", help="a few steps and queries only: does it run?")
    args = parser.parse_args()
    epsilons = tuple(sorted(args.epsilons))
    splits = datasets.load(DATASET)

    def hear(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if stage.startswith("score"):
            print(f"    {stage} ({done + 1} of {total})", flush=True)

    materials = Materials(Artifacts(args.results), None, torch.device("cpu"), hear)
    chosen = {name: scored_as(name, args.images, epsilons, args.tiny) for name in EVALUATIONS}
    found = {}
    for trial, settings in TRIALS.items():
        config = resolve(trial_defaults(DATASET, SCALE), settings).model_copy(update={"fingerprint": splits.fingerprint})
        rows = {}
        for name, how in chosen.items():
            print(f"{trial}: {name}", flush=True)
            rows[name] = scores(config, how, materials)
        found[trial] = ways(rows)
    print(f"\n{args.images} test images of {DATASET}, scale {SCALE}, seed 0, torch {torch.__version__}, CPU, {torch.get_num_threads()} thread")
    report(found, epsilons)


if __name__ == "__main__":
    main()
