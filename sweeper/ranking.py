"""Rank a sweep's variants from the tables alone: no torch, no Ray, no rerun.

`robust_score`, the default, is the area under the worst case over all adaptive attacks, on the trial's final classifier, from epsilon 0 to the
data set's `score_epsilon`. Gray-box and transfer figures stand beside it and never instead of it. A variant with missing or failed trials is
named, and one without any completed trial stands last.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.checks.gate import TRIAL_COLUMNS, failed_row, failures, how_many, planned_of, read_scores, unranked_notes, validity
from sweeper.lookup import nearest
from sweeper.optimism import Optimism, optimism_of_first
from sweeper.paired import Paired, paired_over_seeds
from sweeper.results import Readable, Results
from sweeper.statistics import Estimate, image_scores, over_images, over_seeds, wilson, worst_broken_at, worst_case
from sweeper.stored_plans import Key, key_of_row, latest_plan, split_of, states, title_of

AUTOATTACK, AUTOATTACK_PARTS = "autoattack", ("apgd_ce", "apgd_t", "fab_t", "square")  # attacks/_autoattack.py, which needs torch
BY = ("robust_score", "clean", "psnr", "seconds")
CELL = re.compile(r"(?P<threat>[a-z_]+)/(?P<attack>.+)@(?P<epsilon>[0-9./e-]+)$")


@dataclass(frozen=True)
class Ranking:
    """Rows best first, as JSON shows them, with what a reader must know beside them.

    `optimism`: by how much its choice flatters the first row; None unless ranked by robust_score, with something to choose from.
    """

    rows: list[dict[str, Any]]
    title: str
    notes: list[str] = field(default_factory=list)
    optimism: Optimism | None = None

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows as a table for people: percent, intervals in brackets, a word in place of what is missing."""
        return [_shown(row, row["by"]) for row in self.rows]


def rank(
    results: Results, sweep: str, *, dataset: str | None = None, by: str = "robust_score", plan_hash: str | None = None, unchecked: bool = False
) -> Ranking:
    """Return a sweep's variants, best first; behind them, without a rank, those with a trial that fails a validity check.

    Args:
        by: `robust_score`, `clean`, `psnr`, `seconds` (less is better), or `THREAT/ATTACK@EPSILON`.
        unchecked: Rank all of them; nothing is checked.

    Raises:
        ValueError: If the sweep or the quantity is unknown, or the evaluation is `quick`, which never ranks.
    """
    planned = latest_plan(results, sweep, dataset, plan_hash, ranks=True)
    first = planned[0]
    if first["evaluation"] == "quick":
        raise ValueError("the quick evaluation prunes a search and never ranks; run with --evaluation standard")
    columns = dict.fromkeys((*TRIAL_COLUMNS, "psnr", "train_seconds", "score_seconds", "parameters"))
    trials = {row["trial_id"]: row for row in results.read("trials", list(columns)).to_pylist()}
    scores = read_scores(results, planned, ["epsilon"] if unchecked else None)
    checked = [] if unchecked else validity(results, planned_of(planned, trials), scores)
    failed = failures(checked)
    epsilons = scores.column("epsilon").unique().to_pylist()
    figures = trial_figures(results, {key_of_row(row) for row in planned}, float(first["score_epsilon"]), by, epsilons)
    perplexity, psnr = on_clean_images(results, {row["evaluation_id"] for row in planned})
    state = states(results, planned)  # after reading, which finds the parts that are damaged inside: those are missing

    left = {word: sum(state[key_of_row(row)]["status"] == word for row in planned) for word in ("stopped", "continued")}
    groups: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in planned:
        if state[key_of_row(row)]["status"] in left:  # it has no figures at full length, and those at a rung are not compared with these
            continue
        groups[row["variant_id"], row["evaluation_id"]].append(row)
    rows = []
    per_seed: dict[str, dict[int, float]] = {}
    per_image: dict[str, tuple[str, NDArray[np.float64]]] = {}
    for (variant_id, evaluation), members in groups.items():
        done_rows = [row for row in members if state[key_of_row(row)]["status"] == "completed"]
        done = [key_of_row(row) for row in done_rows]
        values = [figures[key] | costs_of(trials[key[0]], psnr.get(key)) for key in done]
        row: dict[str, Any] = {"label": members[0]["label"], "variant_id": variant_id, "evaluation_id": evaluation}
        row["trial_ids"] = [member["trial_id"] for member in members]
        row |= {"is_reference": members[0]["is_reference"], "is_candidate": members[0]["is_candidate"] is not False}
        row |= {"seeds": len(done), "planned_seeds": len(members), "by": by}
        names = dict.fromkeys(name for value in values for name in value if not name.startswith("_"))
        row |= {name: _mean([value.get(name) for value in values]) for name in names}
        row |= _interval(values, by)
        row["perplexity"], row["usage"] = _over_depths([perplexity.get(key, []) for key in done])
        row["failed_checks"] = [failed_row(member, one) for member in members for one in failed.get(key_of_row(member), [])]
        row["status"] = "unranked" if row["failed_checks"] else _status([state[key_of_row(member)] for member in members])
        row["trouble"] = [f"{state[key_of_row(m)]['status']}: {state[key_of_row(m)].get('message') or m['trial_id'][:8]}"
                          for m in members if state[key_of_row(m)]["status"] != "completed"]  # fmt: skip
        rows.append(row)
        per_seed[row["label"]] = {member["seed"]: value[by] for member, value in zip(done_rows, values, strict=True) if value.get(by) is not None}
        if lists := [value["_images"] for value in values if "_images" in value]:
            per_image[row["label"]] = lists[0][0], np.mean([scores for name, scores in lists if name == lists[0][0]], axis=0)
    sign = 1 if by == "seconds" else -1
    rows.sort(key=lambda row: (row.get(by) is None, bool(row["failed_checks"]), sign * row[by] if row.get(by) is not None else 0.0))
    for place, row in enumerate(rows, 1):
        row["rank"] = place if row.get(by) is not None and not row["failed_checks"] else None
    ranked = [row["label"] for row in rows if row["rank"] is not None]
    eligible = [row["label"] for row in rows if row["rank"] is not None and row["is_candidate"]]
    optimism = optimism_of_first([per_image[label] for label in eligible if label in per_image]) if by == "robust_score" else None
    notes = _notes(rows, by, float(first["score_epsilon"]), _from_the_best(ranked, per_seed))
    notes += [f"{left['stopped']} trials were stopped early and stand in no row; `status` names them."] if left["stopped"] else []
    notes += [f"{left['continued']} trials are earlier generations of others and stand in no row."] if left["continued"] else []
    notes += [optimism.sentence(split_of(results, planned))] if optimism else []
    if compared := [row["label"] for row in rows if not row["is_candidate"]]:
        notes.append(f"Only there to be compared with, and not chosen from: {'; '.join(compared)}.")
    gate = ["Nothing was checked (--unchecked)."] if unchecked else [*unranked_notes(rows), f"{how_many(checked)} `check` shows each."]
    return Ranking(rows, f"{title_of(results, planned)}, by {by}", notes + gate, optimism)


def trial_figures(
    results: Readable, wanted: set[Key], score_epsilon: float, by: str, epsilons: Sequence[float] | None = None
) -> dict[Key, dict[str, Any]]:
    """Return key -> figures of its final classifier: `retrained` where it has one.

    Args:
        epsilons: Those that the evaluations have scores at, where they are read already.
    """
    evaluations = sorted({evaluation for _, evaluation in wanted})
    columns = ["trial_id", "evaluation_id", "attack", "epsilon", "threat", "classifier", "accuracy", "ci_low", "ci_high"]
    cell = CELL.match(by)
    if cell is None and by not in BY:
        raise ValueError(f"cannot rank by {by!r}{nearest(by, BY)}; known: {', '.join(BY)}, or THREAT/ATTACK@EPSILON such as graybox/pgd@0.1")
    asked = epsilon_of(cell["epsilon"]) if cell else None
    if epsilons is None:
        epsilons = results.read("scores", ["epsilon"], {"evaluation_id": evaluations}).column("epsilon").unique().to_pylist()
    grid: list[float] = sorted(float(e) for e in epsilons or ())
    near = [e for e in grid if abs(e - score_epsilon) < 1e-9 or (asked is not None and abs(e - asked) < 1e-9) or e == 0]
    rows = results.read("scores", columns, {"evaluation_id": evaluations, "epsilon": near}).to_pylist()
    rows = [row for row in rows if key_of_row(row) in wanted]
    final = final_classifiers(rows)
    found: dict[Key, dict[str, Any]] = {key: {} for key in final}
    for row in rows:
        figures = found[key_of_row(row)]
        if row["threat"] == "clean" and row["classifier"] == "unfiltered":
            figures["clean_undefended"] = row["accuracy"]
        if row["classifier"] != final[key_of_row(row)]:
            continue
        if row["threat"] == "clean":
            figures |= {"clean": row["accuracy"], "_clean_ci": (row["ci_low"], row["ci_high"])}
            continue
        if abs(row["epsilon"] - score_epsilon) < 1e-9:
            name = f"{row['threat']}@{short(score_epsilon)}"
            figures[name] = min(row["accuracy"], figures.get(name, 1.0))
        if cell and asked is not None and (row["threat"], row["attack"]) == (cell["threat"], cell["attack"]) and abs(row["epsilon"] - asked) < 1e-9:
            figures |= {by: row["accuracy"], f"_{by}_ci": (row["ci_low"], row["ci_high"])}
    if cell and cell["attack"] == AUTOATTACK:
        _add_union(results, evaluations, found, final, by, cell["threat"], [e for e in near if asked is not None and abs(e - asked) < 1e-9])
    if cell and not any(by in figures for figures in found.values()):
        there = sorted({f"{row['threat']}/{row['attack']}" for row in rows if row["threat"] != "clean"})
        raise ValueError(f"no scores for {by!r}; threats and attacks there are: {', '.join(there)}; epsilons: {', '.join(f'{e:g}' for e in grid)}")
    for figures in found.values():
        if "clean" in figures and "clean_undefended" in figures:
            figures["clean_drop"] = figures["clean_undefended"] - figures["clean"]
    _add_scores(results, evaluations, found, final, score_epsilon)
    return found


def _add_union(
    results: Readable, evaluations: Sequence[str], found: dict[Key, dict[str, Any]], final: dict[Key, str], by: str, threat: str, at: Sequence[float]
) -> None:
    """Add the accuracy under AutoAttack: an image survives only if it survives each of its four parts. Only where all four were run."""
    columns = ["trial_id", "evaluation_id", "attack", "epsilon", "threat", "classifier", "outcomes"]
    where = {"evaluation_id": evaluations, "epsilon": list(at), "threat": threat, "attack": list(AUTOATTACK_PARTS)}
    lists: dict[Key, list[Sequence[bool]]] = defaultdict(list)
    for row in results.read("scores", columns, where).to_pylist() if at else []:
        if key_of_row(row) in found and row["classifier"] == final[key_of_row(row)]:
            lists[key_of_row(row)].append(row["outcomes"])
    for key, outcomes in lists.items():
        if len(outcomes) == len(AUTOATTACK_PARTS):
            survived = worst_case(outcomes)
            found[key] |= {by: float(survived.mean()), f"_{by}_ci": wilson(int(survived.sum()), len(survived))}


def final_classifiers(rows: Sequence[dict[str, Any]]) -> dict[Key, str]:
    """Return key -> the classifier that ends its defense, from its rows of scores: `retrained` where it has one, else `original`."""
    return {key_of_row(row): "original" for row in rows} | {key_of_row(row): "retrained" for row in rows if row["classifier"] == "retrained"}


def _add_scores(results: Readable, evaluations: Sequence[str], found: dict[Key, dict[str, Any]], final: dict[Key, str], score_epsilon: float) -> None:
    """Add `robust_score`, its interval over images, and the images' own scores with their sample set, from `broken_at` of every adaptive attack."""
    columns = ["trial_id", "evaluation_id", "attack", "threat", "epsilon", "classifier", "accuracy", "sample_set", "broken_at"]
    where = {"evaluation_id": evaluations, "threat": ["adaptive", "adaptive_bpda", "adaptive_soft"]}
    grids: dict[Key, set[float]] = defaultdict(set)
    broken: dict[Key, list[list[float]]] = defaultdict(list)
    sample_sets: dict[Key, str] = {}
    for row in results.read("scores", columns, where).to_pylist():
        key = key_of_row(row)
        if key in found and row["classifier"] == final[key]:
            grids[key].add(row["epsilon"])
            if row["broken_at"] is not None:
                broken[key].append(row["broken_at"])
                sample_sets[key] = row["sample_set"]
    for key, lists in broken.items():
        worst = worst_broken_at(lists)
        scores = image_scores(worst, sorted(grids[key]), score_epsilon)
        estimate = over_images(scores)
        found[key] |= {"robust_score": estimate.mean, "_robust_score_ci": (estimate.low, estimate.high), "_images": (sample_sets[key], scores)}
        if any(abs(epsilon - score_epsilon) < 1e-9 for epsilon in grids[key]):
            found[key][f"adaptive@{short(score_epsilon)}"] = float(np.mean(worst > np.float32(score_epsilon)))


def on_clean_images(results: Readable, evaluations: set[str]) -> tuple[dict[Key, list[tuple[int, float, float]]], dict[Key, float]]:
    """Return key -> (depth, perplexity, usage), and key -> PSNR; that of `trials` is of the images that a trial was scored on first."""
    columns = ["trial_id", "evaluation_id", "depth", "perplexity", "usage", "psnr"]
    codebooks: dict[Key, list[tuple[int, float, float]]] = defaultdict(list)
    psnr: dict[Key, float] = {}
    for row in results.read("latents", columns, {"evaluation_id": sorted(evaluations), "threat": "clean"}).to_pylist():
        if row["perplexity"] is not None:
            codebooks[key_of_row(row)].append((row["depth"], row["perplexity"], row["usage"]))
        if row["psnr"] is not None:
            psnr[key_of_row(row)] = row["psnr"]
    return codebooks, psnr


def _over_depths(trials: Sequence[list[tuple[int, float, float]]]) -> tuple[list[float] | None, list[float] | None]:
    depths = sorted({depth for trial in trials for depth, _, _ in trial})
    if not depths:
        return None, None
    mean = [[float(np.mean([row[column] for trial in trials for row in trial if row[0] == depth])) for depth in depths] for column in (1, 2)]
    return mean[0], mean[1]


def costs_of(trial: dict[str, Any], psnr: float | None) -> dict[str, Any]:
    seconds = (trial["train_seconds"] or 0.0) + (trial["score_seconds"] or 0.0)
    return {"psnr": trial["psnr"] if psnr is None else psnr, "seconds": seconds, "parameters": trial["parameters"]}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _interval(values: Sequence[dict[str, Any]], by: str) -> dict[str, Any]:
    """Return ci_low, ci_high and what they are over: images for one seed, seeds for more."""
    known = [value[by] for value in values if value.get(by) is not None]
    if len(known) >= 2:
        estimate: Estimate = over_seeds(known)
        return {"ci_low": estimate.low, "ci_high": estimate.high, "std": estimate.std, "ci_over": "seeds"}
    low, high = values[0].get(f"_{by}_ci", (None, None)) if values else (None, None)
    return {"ci_low": low, "ci_high": high, "std": None, "ci_over": "images" if low is not None else None}


def _status(members: Sequence[dict[str, Any]]) -> str:
    counts = {word: sum(member["status"] == word for member in members) for word in ("completed", "stopped", "failed", "missing")}
    if counts["completed"] == len(members):
        return "completed"
    return ", ".join(f"{count} {word}" if len(members) > 1 else word for word, count in counts.items() if count)


def _from_the_best(ranked: Sequence[str], per_seed: Mapping[str, Mapping[int, float]]) -> dict[str, Paired]:
    """Return every other ranked row tested against the first, seed by seed."""
    return paired_over_seeds({label: per_seed[label] for label in ranked[1:]}, per_seed[ranked[0]]) if ranked else {}


def _notes(rows: Sequence[dict[str, Any]], by: str, score_epsilon: float, tests: Mapping[str, Paired]) -> list[str]:
    notes = [f"{row['label']}: {trouble}" for row in rows for trouble in row["trouble"] if not trouble.startswith("missing")]
    missing = [f"{row['label']} ({trouble.rpartition(' ')[2]})" for row in rows for trouble in row["trouble"] if trouble.startswith("missing")]
    if missing:
        notes.append(f"Missing, {len(missing)} trials: {', '.join(missing)}. The same `run` again makes what is missing.")
    seeds = max((row["seeds"] for row in rows), default=0)
    if seeds == 1:
        notes.append(
            "One seed: nothing is tested between settings, since another seed can move a row by tens of points; intervals are over images, "
            "for these checkpoints. Run with --seeds 3 or more to compare settings."
        )
    elif tests:
        near = [label for label, paired in tests.items() if paired.verdict == "not distinguishable"]
        untested = [label for label, paired in tests.items() if paired.verdict == "not tested"]
        notes.append(
            f"Intervals are over seeds (t, {seeds - 1} degrees of freedom). Not distinguishable from the first row by paired t tests over the seeds "
            f"(5 %, Holm over the {len(tests)} comparison{'s' * (len(tests) > 1)}): {'; '.join(near) or 'none'}."
            + (f" Not tested, with fewer than two seeds in common: {'; '.join(untested)}." if untested else "")
        )
    if seeds:
        notes.append(
            f"graybox and transfer: lowest accuracy over their attacks at epsilon {short(score_epsilon)}, by an attacker who does not know "
            "the purifier; adaptive: worst case, image by image, over those who differentiate through it; drop: clean accuracy lost against no "
            "purifier, in points; perplexity: codes effectively in use, depth 1 first. Figures hold for this target (target_seed)."
        )
    return notes


def _shown(row: dict[str, Any], by: str) -> dict[str, Any]:
    def percent(name: str) -> str:
        return "" if row.get(name) is None else f"{100 * row[name]:.1f}"

    value = _status_word(row) if row.get(by) is None else _figure(row[by], by)
    if row["ci_low"] is not None:
        value += f" [{_figure(row['ci_low'], by)}, {_figure(row['ci_high'], by)}]"
    shown: dict[str, Any] = {"rank": row["rank"] or "-", "variant": row["label"], by if by in _PLAIN else f"{by} %": value}
    threats = [name for threat in ("adaptive", "graybox", "transfer") for name in row if name.startswith(threat + "@")]
    shown |= {f"{name} %": percent(name) for name in threats}
    if by != "clean":
        shown["clean %"] = percent("clean")
    shown["drop"] = "" if row.get("clean_drop") is None else f"{100 * row['clean_drop']:+.1f}"
    shown["perplexity"] = " ".join(f"{value:.0f}" for value in row["perplexity"] or [])
    shown["seeds"] = str(row["seeds"]) if row["seeds"] == row["planned_seeds"] else f"{row['seeds']} of {row['planned_seeds']}"
    if by != "seconds":
        shown["seconds"] = "" if row.get("seconds") is None else f"{row['seconds']:.0f}"
    return shown


def _status_word(row: dict[str, Any]) -> str:
    return row["status"] if row["status"] != "completed" else "not scored"


_PLAIN = ("psnr", "seconds")  # quantities that are no shares


def _figure(value: float, by: str) -> str:
    return f"{value if by in _PLAIN else 100 * value:.1f}"


def short(epsilon: float) -> str:
    whole = epsilon * 255
    return (
        f"{epsilon:g}" if abs(epsilon - round(epsilon, 4)) < 1e-12 else f"{whole:g}/255" if abs(whole - round(whole, 2)) < 1e-9 else f"{epsilon:.4g}"
    )


def epsilon_of(text: str) -> float:
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"an epsilon is a number or a fraction such as 8/255, got {text!r}") from None
