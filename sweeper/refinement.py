"""The best variants of a sweep on validation images, again with more seeds and a stronger evaluation, so that the winner is not the luckiest.

Everything comes from the tables, as in `selection.py`. The images stay those of the validation split: the test images are for the winner alone, by
`selection.choose` on the refined sweep. Seeds that were trained before are found stored; only their scores under the new evaluation are made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sweeper.evaluations import EvaluationConfig
from sweeper.keys import evaluation_id, expected_parts
from sweeper.lookup import nearest
from sweeper.plan import Plan, PlannedTrial, of_trials
from sweeper.ranking import rank, trial_figures
from sweeper.replanning import stored_plan
from sweeper.results import Results
from sweeper.search.stored import read_search
from sweeper.selection import eligible
from sweeper.stored_plans import REFINED, Key, is_search, key_of_row, latest_plan, split_of, states, title_of
from sweeper.ways import in_words, under_name

LEAST_SEEDS = 2


@dataclass(frozen=True)
class Shortlist:
    """The first rows of a ranking on validation images.

    Attributes:
        planned: All rows of `sweeps` of the plan that was ranked.
        labels: Of the best variants, the best one first.
        num_ranked: How many there were to take them from.
    """

    planned: list[dict[str, Any]]
    labels: list[str]
    num_ranked: int


@dataclass(frozen=True)
class Luck:
    """Rows as JSON shows them, in shares: what each variant was chosen by, and what other seeds say; the figure it was chosen by descending."""

    rows: list[dict[str, Any]]
    title: str
    notes: list[str]

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows for people: percent, luck in points."""
        return [
            {
                "variant": row["label"],
                "chosen by %": f"{_percent(row['chosen_by'])} ({row['chosen_evaluation']})",
                "same seeds again %": f"{_percent(row['again'])} ({row['evaluation']})",
                "new seeds %": f"{_percent(row['new'])} ({row['evaluation']})",
                "luck": "" if row["luck"] is None else f"{100 * row['luck']:+.1f}",
                "seeds": f"{_listed(row['chosen_seeds'])}, then {_listed(row['new_seeds'])}",
            }
            for row in self.rows
        ]


def shortlist(
    results: Results, sweep: str, dataset: str | None = None, plan_hash: str | None = None, *, top: int = 3, by: str | None = None
) -> Shortlist:
    """Return the first `top` ranked variants of the plan that was last run on validation images; all that are ranked, if they are fewer.

    Args:
        by: As `rank` takes it; None: robust_score, and of a search its objectives: what no other trial beats first, and nothing that breaks a
            constraint.

    Raises:
        ValueError: If top is below 1, there is no such plan, or none of its variants is ranked.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    planned = latest_plan(results, sweep, dataset, plan_hash, ranks=True, split="validation")
    search_id = planned[0]["plan_hash"]
    if by is None and is_search(results, search_id):
        candidates = [trial.label for trial in read_search(results, sweep, plan_hash=search_id).ordered()]
        if not candidates:
            raise ValueError(f"no trial of {title_of(results, planned)} may be chosen, so there is none to refine; `pareto` says why")
        return Shortlist(planned, candidates[:top], len(candidates))
    rows = eligible(results, planned, rank(results, sweep, by=by or "robust_score", plan_hash=search_id))
    return Shortlist(planned, [row["label"] for row in rows[:top]], len(rows))


def refine_plan(results: Results, planned_rows: Sequence[Mapping[str, Any]], labels: Sequence[str], *, seeds: int, evaluation: str) -> Plan:
    """Return the plan of the sweep `SWEEP/refined`: the named variants, and the reference to compare them with, with seeds 0 to seeds - 1.

    Of the stored evaluation everything is kept that does not depend on its name, the split first; the plan's notes say what differs.

    Args:
        planned_rows: Rows of `sweeps` of one plan that was scored on validation images.
        labels: Labels or variant ids among them, in the order in which the plan shall have them.
        evaluation: `standard` or `full`, no weaker than the stored one.

    Raises:
        ValueError: If a variant is unknown or has no completed trial, seeds are fewer than two, the plan is not of validation images, or a stored
            configuration no longer gives the trial that it was stored for.
    """
    if seeds < LEAST_SEEDS:
        raise ValueError(f"seeds must be at least {LEAST_SEEDS}, got {seeds}: refine tells luck from merit by seeds")
    if evaluation == "quick":
        raise ValueError("evaluation must be standard or full, got quick, which never ranks")
    if not labels:
        raise ValueError("refine needs at least one variant, got none")
    if (split := split_of(results, planned_rows)) != "validation":
        raise ValueError(f"refine is for figures of validation images, got those of {split} images in {title_of(results, planned_rows)}")
    first = planned_rows[0]
    chosen = _groups(planned_rows, labels)
    compared = [name for name in dict.fromkeys(_group(row) for row in planned_rows if row["is_reference"]) if name not in chosen]
    state = states(results, [dict(row) for row in planned_rows])
    notes: list[str] = []
    groups: dict[Key, list[PlannedTrial]] = {}
    for name in [*chosen, *compared]:
        mine = [row for row in planned_rows if _group(row) == name]
        done = [row for row in mine if state[key_of_row(row)]["status"] == "completed"]
        label = mine[0]["label"]
        if not done and name in chosen:
            raise ValueError(f"{label} of {title_of(results, planned_rows)} has no completed trial, so there is nothing to refine")
        if not done:
            notes.append(f"{label} has no completed trial, so nothing is compared with it")
            continue
        stored = stored_plan(results, done).trials
        after = under_name(stored[0].evaluation, evaluation, first["dataset"], first["scale"])
        if after != stored[0].evaluation:
            notes.append(in_words(stored[0].evaluation, after))
        again = _again(stored, after, seeds, is_candidate=name in chosen)
        twin = groups.setdefault((again[0].variant_id, again[0].evaluation_id), again)
        if twin is not again:  # they differed in how they were scored, and no longer do
            notes.append(f"{label} is now scored as {twin[0].label} is, and is run once")
            twin[:] = [replace(one, is_reference=one.is_reference or mine[0]["is_reference"]) for one in twin]
        if beyond := sorted({row["seed"] for row in done} - set(range(seeds))):
            notes.append(f"{label}: of the seeds that it was chosen by, {_listed(beyond)} are not among 0 to {seeds - 1}")
    trials = [trial for group in groups.values() for trial in group]
    return of_trials(first["sweep"] + REFINED, first["dataset"], first["scale"], trials, list(dict.fromkeys(notes)))


def luck(results: Results, planned_rows: Sequence[Mapping[str, Any]], refined_rows: Sequence[Mapping[str, Any]]) -> Luck:
    """Return by how much the figures that variants were chosen by exceed those of new seeds: what of them was the luck of the seed.

    Like is compared with like: the seeds that a variant was chosen by and its new ones are both taken under the refined evaluation. What a stronger
    evaluation takes from the same seeds is the other difference, and no luck.

    Args:
        planned_rows: Rows of `sweeps` of the plan that variants were chosen from.
        refined_rows: Those of the plan that `refine_plan` made of it.
    """
    before, after = _robust_scores(results, planned_rows), _robust_scores(results, refined_rows)
    ways = {row["evaluation_id"] for row in refined_rows}
    rows = []
    for label, variant_id in dict.fromkeys((row["label"], row["variant_id"]) for row in refined_rows if row["is_candidate"]):
        mine = [row for row in planned_rows if (row["label"], row["variant_id"]) == (label, variant_id) and key_of_row(row) in before]
        now = {row["seed"]: after[key_of_row(row)] for row in refined_rows
               if (row["label"], row["variant_id"]) == (label, variant_id) and key_of_row(row) in after}  # fmt: skip
        chosen_seeds = sorted(row["seed"] for row in mine)
        if mine and mine[0]["evaluation_id"] in ways:  # nothing but the seeds differs, so those beyond the plan's count, too
            now = {row["seed"]: before[key_of_row(row)] for row in mine} | now
        again = _mean(now.get(seed) for seed in chosen_seeds)
        new_seeds = sorted(set(now) - set(chosen_seeds))
        new = _mean(now[seed] for seed in new_seeds)
        rows.append(
            {
                "label": label, "variant_id": variant_id,
                "chosen_evaluation": planned_rows[0]["evaluation"], "chosen_seeds": chosen_seeds,
                "chosen_by": _mean(before[key_of_row(row)] for row in mine),
                "evaluation": refined_rows[0]["evaluation"], "again": again, "new_seeds": new_seeds, "new": new,
                "luck": None if again is None or new is None else again - new,
            }
        )  # fmt: skip
    rows.sort(key=lambda row: -(row["chosen_by"] or 0.0))
    title = f"{title_of(results, refined_rows)}: what the figures that the variants were chosen by owe to their seeds, robust_score"
    return Luck(rows, title, _notes(rows))


def _group(row: Mapping[str, Any]) -> Key:
    """Return what the seeds of one variant, scored in one way, have in common."""
    return row["variant_id"], row["evaluation_id"]


def _groups(planned: Sequence[Mapping[str, Any]], labels: Iterable[str]) -> list[Key]:
    """Return the variants named, each once, in the order of the names."""
    known = list(dict.fromkeys(row["label"] for row in planned))
    found: dict[Key, None] = {}
    for label in labels:
        mine = [_group(row) for row in planned if label in (row["label"], row["variant_id"])]
        if not mine:
            raise ValueError(f"no variant {label!r} in {planned[0]['sweep']}{nearest(label, known)}; there are: {'; '.join(known)}")
        found |= dict.fromkeys(mine)
    return list(found)


def _again(stored: Sequence[PlannedTrial], evaluation: EvaluationConfig, seeds: int, *, is_candidate: bool) -> list[PlannedTrial]:
    """Return a variant's trials with seeds 0 to seeds - 1 under another evaluation; those of stored seeds have the stored configurations."""
    configs = {trial.config.seed: trial.config for trial in stored}
    trials = []
    for seed in range(seeds):
        config = configs.get(seed) or stored[0].config.model_copy(update={"seed": seed})
        name = evaluation_id(config, evaluation)
        changed: dict[str, Any] = {"config": config, "evaluation": evaluation, "trial_id": config.trial_id, "evaluation_id": name}
        parts = tuple(expected_parts(config, evaluation, config.trial_id, name))
        trials.append(replace(stored[0], **changed, parts=parts, is_candidate=is_candidate))
    return trials


def _robust_scores(results: Results, planned: Sequence[Mapping[str, Any]]) -> dict[Key, float]:
    figures = trial_figures(results, {key_of_row(row) for row in planned}, float(planned[0]["score_epsilon"]), "robust_score")
    state = states(results, [dict(row) for row in planned])  # after reading, which finds what is damaged inside
    return {key: found["robust_score"] for key, found in figures.items() if state[key]["status"] == "completed" and "robust_score" in found}


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [
        "Luck: the seeds that a variant was chosen by minus its new seeds, means of robust_score, in points, on the same images under the same "
        "evaluation. The best of many is expected to fall back (regression to the mean); for a single variant it may go either way."
    ]
    known = [row["luck"] for row in rows if row["luck"] is not None]
    if len(known) > 1:
        notes.append(f"On average over these {len(known)} variants: {100 * float(np.mean(known)):+.1f} points.")
    if rows and rows[0]["chosen_evaluation"] != rows[0]["evaluation"]:
        notes.append(f"From the first to the second column the seeds are the same, and {rows[0]['evaluation']} attacks harder: that is no luck.")
    if without := [row["label"] for row in rows if row["luck"] is None]:
        notes.append(f"No luck can be told without new seeds, or without those it was chosen by: {'; '.join(without)}.")
    return notes


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None if there are no values or one of them is missing."""
    known = list(values)
    return None if not known or None in known else float(np.mean(np.array(known, dtype=np.float64)))


def _percent(value: float | None) -> str:
    return "not scored" if value is None else f"{100 * value:.1f}"


def _listed(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds)) or "none"
