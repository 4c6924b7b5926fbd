"""Compare a sweep's settings over seeds, and two checkpoints over images, from the tables alone: no torch, no Ray, no rerun.

Two questions, two tests. Settings: is this variant better than the reference? The unit is the training seed. Checkpoints: does this trained network
classify more of these images than that one? The unit is the image, the test McNemar's, and the answer is about these two networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.lookup import nearest
from sweeper.paired import paired_over_seeds
from sweeper.ranking import CELL, epsilon_of, final_classifiers, rank, short, trial_figures
from sweeper.results import Results
from sweeper.statistics import mcnemar, paired_over_images, worst_case
from sweeper.stored_plans import Key, key_of_row, latest_plan, split_of, states, title_of

BY = ("robust_score", "clean")
LEAST_IMAGES = 100
_ADAPTIVE = ["adaptive", "adaptive_bpda", "adaptive_soft"]


@dataclass(frozen=True)
class Comparison:
    """Rows as JSON shows them, with what a reader must know beside them."""

    rows: list[dict[str, Any]]
    title: str
    notes: list[str]

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows as a table for people: percent, differences in points, intervals in brackets."""
        return [_shown(row) for row in self.rows]


def compare_settings(
    results: Results, sweep: str, labels: Sequence[str] = (), *, against: str = "reference", by: str = "robust_score", dataset: str | None = None,
    plan_hash: str | None = None,
) -> Comparison:  # fmt: skip
    """Return each variant's paired difference, seed by seed, against the reference or another variant; the largest first.

    The family that Holm's correction covers is every row of this table, with or without a result.

    Args:
        labels: The variants to compare; none: all but the one they are compared with.
        against: `reference`, or a variant's label.
        by: `robust_score`, `clean`, or `THREAT/ATTACK@EPSILON`.
        plan_hash: The plan, or its first characters; None: the one run last.

    Raises:
        ValueError: If the sweep, a label or the quantity is unknown, a variant is compared with itself, or the evaluation is `quick`.
    """
    planned = _ranked_plan(results, sweep, dataset, plan_hash)
    if by not in BY and CELL.match(by) is None:
        raise ValueError(f"cannot compare by {by!r}{nearest(by, BY)}; known: {', '.join(BY)}, or THREAT/ATTACK@EPSILON such as graybox/pgd@0.1")
    names = list(dict.fromkeys(row["label"] for row in planned))
    base = next((row["label"] for row in planned if row["is_reference"]), None) if against == "reference" else against
    if base is None:
        raise ValueError(f"{planned[0]['sweep']} has no reference to compare with; --against names a variant: {'; '.join(names)}")
    for label in [*labels, base]:
        if label not in names:
            raise ValueError(f"no variant {label!r} in {planned[0]['sweep']}{nearest(str(label), names)}; there are: {'; '.join(names)}")
    if base in labels:
        raise ValueError(f"a variant is compared with another one, got {base!r} on both sides; --against names another")
    chosen = [name for name in names if (name in labels if labels else name != base)]
    figures = trial_figures(results, {key_of_row(row) for row in planned}, float(planned[0]["score_epsilon"]), by)
    state = states(results, planned)  # after reading, which finds what is damaged inside
    values: dict[str, dict[int, float]] = {name: {} for name in names}
    without: list[str] = []
    for row in (row for row in planned if row["label"] in (base, *chosen)):
        value = figures.get(key_of_row(row), {}).get(by) if state[key_of_row(row)]["status"] == "completed" else None
        if value is None:
            word = state[key_of_row(row)]["status"]
            without.append(f"{row['label']}, seed {row['seed']} ({word if word != 'completed' else 'not scored'})")
        else:
            values[row["label"]][row["seed"]] = value
    found = paired_over_seeds({name: values[name] for name in chosen}, values[base])
    rows = []
    for name, paired in found.items():
        seeds, estimate = list(paired.differences), paired.estimate
        rows.append(
            {"label": name, "against": base, "by": by, "seeds": seeds, "value": _mean(values[name], seeds),
             "value_against": _mean(values[base], seeds), "differences": list(paired.differences.values()),
             "difference": estimate and estimate.mean, "std": estimate and estimate.std, "ci_low": estimate and estimate.low,
             "ci_high": estimate and estimate.high, "p_value": paired.p_value, "p_holm": paired.p_holm, "verdict": paired.verdict}
        )  # fmt: skip
    rows.sort(key=lambda row: (row["difference"] is None, -(row["difference"] or 0.0), row["label"]))
    first = planned[0]
    title = f"{title_of(results, planned)}: {by} against {base}, seed by seed"
    unranked = {row["label"] for row in rank(results, sweep, dataset=dataset, plan_hash=first["plan_hash"]).rows if row["status"] == "unranked"}
    doubtful = [label for label in (base, *(row["label"] for row in rows)) if label in unranked]
    return Comparison(rows, title, _notes(rows, without, doubtful, split_of(results, planned)))


def compare_checkpoints(
    results: Results, sweep: str, trial_ids: Sequence[str], *, by: str | None = None, dataset: str | None = None, plan_hash: str | None = None
) -> Comparison:
    """Return McNemar's exact test of two trials on the images that both were scored on: the second minus the first.

    An image counts as correct if it survives every attack (and source) that `by` names.

    Args:
        trial_ids: Two trials' ids, or their first characters.
        by: `clean`, or `THREAT/ATTACK@EPSILON`; by default the worst case of the adaptive attacks at the data set's `score_epsilon`.

    Raises:
        ValueError: If a trial or the quantity is unknown, a trial is not completed, or fewer than 100 images are common to both.
    """
    planned = _ranked_plan(results, sweep, dataset, plan_hash)
    if len(trial_ids) != 2:
        raise ValueError(f"--checkpoints compares two trials, got {len(trial_ids)}; `status SPACE` lists their ids")
    pair = [_trial(planned, name) for name in trial_ids]
    if pair[0] is pair[1]:
        raise ValueError(f"a checkpoint is compared with another one, got {pair[0]['trial_id'][:12]} twice")
    state = states(results, planned)
    for row in pair:
        if state[key_of_row(row)]["status"] != "completed":
            raise ValueError(f"trial {row['trial_id'][:12]} ({row['label']}) is {state[key_of_row(row)]['status']}; both must be completed")
    score_epsilon = float(planned[0]["score_epsilon"])
    outcomes = [_outcomes(results, key_of_row(row), by, score_epsilon) for row in pair]
    common = [name for name in outcomes[0] if name in outcomes[1]]
    if len(common) < LEAST_IMAGES:
        raise ValueError(
            f"a paired test needs at least {LEAST_IMAGES} images that both trials were scored on, got {len(common)} "
            f"(of {len(outcomes[0])} and {len(outcomes[1])})"
        )
    first, second = ([found[name] for name in common] for found in outcomes)
    only_first, only_second, p_value = mcnemar(first, second)
    estimate = paired_over_images(first, second)
    names = [f"{row['label']}, seed {row['seed']} ({row['trial_id'][:8]})" for row in pair]
    what = by or f"adaptive@{short(score_epsilon)}"
    rows = [
        {"label": names[1], "against": names[0], "by": what, "trial_ids": [row["trial_id"] for row in pair], "n": len(common),
         "value": float(np.mean(second)), "value_against": float(np.mean(first)), "difference": estimate.mean, "ci_low": estimate.low,
         "ci_high": estimate.high, "only_second": only_second, "only_first": only_first, "p_value": p_value}
    ]  # fmt: skip
    notes = [
        f"A statement about these two checkpoints on {len(common)} images only: another training seed can move either of them further than they "
        "differ, so it says nothing about the two settings. Without --checkpoints, settings are compared over seeds.",
        "McNemar's exact test; interval of Agresti and Min (2005), over images.",
    ]
    split = ", validation images" if split_of(results, planned) == "validation" else ""
    return Comparison(rows, f"{planned[0]['sweep']} on {planned[0]['dataset']}{split}: {what} of two checkpoints", notes)


def _ranked_plan(results: Results, sweep: str, dataset: str | None, plan_hash: str | None) -> list[dict[str, Any]]:
    planned = latest_plan(results, sweep, dataset, plan_hash, ranks=True)
    if planned[0]["evaluation"] == "quick":
        raise ValueError("the quick evaluation prunes a search and compares nothing; run with --evaluation standard")
    return planned


def _trial(planned: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    matches = [row for row in planned if row["trial_id"].startswith(name)]
    if not name or len({row["trial_id"] for row in matches}) != 1:
        listed = "; ".join(f"{row['trial_id'][:12]} {row['label']}" for row in matches[:8])
        raise ValueError(f"{len(matches) or 'no'} trials of {planned[0]['sweep']} begin with {name!r}: {listed or '`status SPACE` lists them'}")
    return matches[0]  # as the plan scores it first; another row may score the same network with other cells


def _outcomes(results: Results, key: Key, by: str | None, score_epsilon: float) -> dict[str, bool]:
    """Return sample id -> is it still correct, by the trial's final classifier, under every attack meant."""
    cell = CELL.match(by) if by else None
    if by and by != "clean" and cell is None:
        more = "; robust_score is an area, no image is right or wrong in it" if by == "robust_score" else ""
        raise ValueError(f"checkpoints are compared by clean or THREAT/ATTACK@EPSILON such as graybox/pgd@0.1, got {by!r}{more}")
    epsilon = 0.0 if by == "clean" else epsilon_of(cell["epsilon"]) if cell else score_epsilon
    threats = ["clean"] if by == "clean" else [cell["threat"]] if cell else _ADAPTIVE
    columns = ["trial_id", "evaluation_id", "threat", "attack", "epsilon", "source", "classifier", "sample_set", "outcomes"]
    rows = results.read("scores", columns, {"trial_id": key[0], "evaluation_id": key[1]}).to_pylist()
    final = final_classifiers(rows)[key] if rows else ""
    mine = [row for row in rows if row["classifier"] == final and row["threat"] in threats and abs(row["epsilon"] - epsilon) < 1e-9
            and (cell is None or row["attack"] == cell["attack"])]  # fmt: skip
    if not mine:
        there = sorted({f"{row['threat']}/{row['attack']}@{short(row['epsilon'])}" for row in rows if row["threat"] != "clean"})
        raise ValueError(f"no scores for {by or 'the adaptive attacks at ' + short(score_epsilon)!r} of trial {key[0][:12]}; there are: "
                         + ", ".join(there))  # fmt: skip
    ids = {row["sample_set"]: row["sample_ids"] for row in results.read("sample_sets", ["sample_set", "sample_ids"]).to_pylist()}
    lists = [dict(zip(ids[row["sample_set"]], row["outcomes"], strict=True)) for row in mine]
    common = [name for name in lists[0] if all(name in other for other in lists)]
    survived: NDArray[np.bool_] = worst_case([[found[name] for name in common] for found in lists])
    return dict(zip(common, survived.tolist(), strict=True))


def _mean(values: dict[int, float], seeds: Sequence[int]) -> float | None:
    return float(np.mean([values[seed] for seed in seeds])) if seeds else None


def _notes(rows: Sequence[dict[str, Any]], without: Sequence[str], doubtful: Sequence[str], split: str) -> list[str]:
    notes = [f"Without a value: {'; '.join(without)}. A row holds the seeds that both sides have."] if without else []
    if doubtful:
        notes.append(f"Not to be believed, since a validity check fails (`rank` says which): {'; '.join(doubtful)}.")
    most = max((len(row["seeds"]) for row in rows), default=0)
    if most < 2:
        notes.append(
            "One seed: nothing is tested, since another seed can move a row by tens of points. Differences are of these checkpoints; "
            "run with --seeds 3 or more to compare settings."
        )
        return notes
    notes.append(
        f"Paired t test over the seeds of training, p adjusted by Holm over the {len(rows)} row{'s' * (len(rows) > 1)} of this table, to be chosen "
        f"before looking; each interval is of its row by itself. Figures hold for this target and these {split} images."
    )
    if agreeing := [row["label"] for row in rows if len(row["seeds"]) > 1 and len(set(row["differences"])) == 1]:
        notes.append(f"The seeds agree exactly, which leaves no spread to test against: {'; '.join(agreeing)}.")
    return notes


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    def percent(name: str, sign: str = "") -> str:
        return "" if row[name] is None else f"{100 * row[name]:{sign}.1f}"

    difference = percent("difference", "+")
    if row["ci_low"] is not None:
        difference += f" [{percent('ci_low', '+')}, {percent('ci_high', '+')}]"
    shown: dict[str, Any] = {"variant" if "verdict" in row else "checkpoint": row["label"], f"{row['by']} %": percent("value")}
    shown |= {f"{row['against']} %": percent("value_against"), "difference in points": difference}
    if "verdict" not in row:
        return shown | {"only it right": row["only_second"], "only the other": row["only_first"], "images": row["n"], "p": _p(row["p_value"])}
    return shown | {"seeds": len(row["seeds"]), "p": _p(row["p_value"]), "p (Holm)": _p(row["p_holm"]), "verdict": row["verdict"]}


def _p(value: float | None) -> str:
    return "" if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"
