"""Table 1: accuracy on clean images before and after a system, beside what the paper printed and what attackers leave of it."""

from collections.abc import Sequence

from sweeper.report.content import Cell, Table
from sweeper.report.curves import Sheet, count
from sweeper.report.naming import PAPER_AFTER, PAPER_BEFORE, System, dataset_name, epsilon_name, ranked_first
from sweeper.report.trials import Material, Trial
from sweeper.report.values import Value, of_images, of_seeds
from sweeper.statistics import paired_over_images

_PAPER = ("paper_after", "paper_change")


def tables(sheet: Sheet, suffix: str = "") -> list[Table]:
    """Return the fairness tables, the variants that differ from them in one axis, and the controls; those that have rows.

    Args:
        suffix: Of the files' names, where several data sets are reported.
    """
    material, systems = sheet
    found = [
        ("table1", "Table 1, equal information: every purifier trained on images attacked in the same way", systems.equal),
        ("table1_recipes", "Table 1, authors' recipes: every purifier trained on the kind of images that its authors used", systems.recipes),
        ("table1_axes" if systems.is_paper else "table1", "Other variants" if systems.is_paper else "The sweep's variants", systems.others),
        ("table1_controls", "Controls that a claim has to beat", systems.controls),
    ]
    return [_table(material, name + suffix, title, members) for name, title, members in found if members]


def clean_change(trial: Trial) -> float | None:
    """Return the clean accuracy that the defense adds to the target's (negative: loses), a difference of shares."""
    before, after = trial.clean("unfiltered"), trial.clean()
    return None if before is None or after is None else float(after.mean() - before.mean())


def clean_change_value(trials: Sequence[Trial]) -> Value | None:
    """Return it over the seeds; for one seed, or seeds that agree, with the interval over images of a paired difference."""
    value = of_seeds(clean_change(trial) for trial in trials)
    if value is None or len(set(value.seeds)) > 1:
        return value
    before, after = trials[0].clean("unfiltered"), trials[0].clean()
    assert before is not None and after is not None  # there is a value
    estimate = paired_over_images(before, after)
    return Value(value.mean, estimate.low, estimate.high, value.seeds, "images")


def _table(material: Material, name: str, title: str, members: Sequence[System]) -> Table:
    at = epsilon_name(material.score_epsilon)
    rows = [_row(material, system) for system in ranked_first(members)]
    has_paper = any(row["paper_after"] is not None for row in rows)
    columns = ["system", "before", "after", "change", *(_PAPER if has_paper else ()), "unretrained", "robust_score", "adaptive", "mixed",
               "graybox", "transfer", "seeds", "images", "interval"]  # fmt: skip
    headings = {
        "system": "system",
        "before": "target, unfiltered (%)",
        "after": "defense, filtered (%)",
        "change": "change, points",
        "paper_after": "paper, filtered (%)",
        "paper_change": "paper, points",
        "unretrained": "original target on filtered (%)",
        "robust_score": "robust score (%)",
        "adaptive": f"adaptive, ε {at} (%)",
        "mixed": f"paper's mix, ε {at} (%)",
        "graybox": f"gray-box, ε {at} (%)",
        "transfer": f"transfer, ε {at} (%)",
        "seeds": "seeds",
        "images": "clean images",
        "interval": "intervals over",
    }
    shares = ("before", "after", "unretrained", "paper_after", "robust_score", "adaptive", "mixed", "graybox", "transfer")
    formats = dict.fromkeys(shares, "percent") | {"change": "points", "paper_change": "points", "seeds": "integer", "images": "integer"}
    caption = (
        f"{dataset_name(material)}, scale {material.scale}. Before: the target on clean images without purifier. After: the retrained classifier on "
        "purified clean images (a control without retraining: the target). Change: after minus before; the paper calls it degradation. Paper's mix, "
        f"gray-box and transfer: lowest accuracy over the attacks at epsilon {at}, by attackers who do not know the purifier; adaptive: worst case "
        "over the attacks that differentiate through it; robust score: its mean from epsilon 0 to there."
    )
    return Table(name, title, caption, tuple(columns), tuple(rows), headings, formats, _notes(material, members, has_paper))


def _row(material: Material, system: System) -> dict[str, Cell]:
    trials, epsilon = system.variant.trials, material.score_epsilon
    clean = [trial.clean() for trial in trials]
    after = of_images(clean)
    row: dict[str, Cell] = {"system": system.name, "seeds": len(trials), "images": next((share.size for share in clean if share is not None), None)}
    row |= _cells("before", of_images([trial.clean("unfiltered") for trial in trials]))
    row |= _cells("after", after) | _cells("change", clean_change_value(trials))
    row |= _cells("unretrained", of_images([trial.clean("original") for trial in trials]))
    row |= _cells("robust_score", of_images([trial.robust_score(epsilon) for trial in trials]))
    row |= _cells("adaptive", of_images([trial.adaptive(epsilon) for trial in trials]))
    row |= _cells("mixed", of_images([trial.worst_mixed(epsilon) for trial in trials]))
    for threat in ("graybox", "transfer"):
        row |= _cells(threat, of_images([trial.worst_static(threat, epsilon) for trial in trials]))
    printed = PAPER_AFTER.get(material.dataset, {}).get(system.kind) if system.kind != "control" else None
    row |= {"paper_after": printed, "paper_change": None if printed is None else printed - PAPER_BEFORE[material.dataset]}
    return row | {"interval": after.over if after else ""}


def _cells(name: str, value: Value | None) -> dict[str, Cell]:
    if value is None:
        return {name: None}
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def _notes(material: Material, members: Sequence[System], has_paper: bool) -> tuple[str, ...]:
    notes = _unranked(members)
    if has_paper:
        notes.append(
            f"The paper's target has {100 * PAPER_BEFORE[material.dataset]:.2f} % (WRN-28-10, 10,000 test images, one training, no interval)."
            + (" Its images are CIFAR-10's own; those here went through JPEG." if dataset_name(material) == "CIFAR-10-JPEG" else "")
        )
    elif material.dataset not in PAPER_BEFORE:
        notes.append(f"The paper has no figures for {dataset_name(material)}: nothing can stand beside these.")
    if on := count(members):
        notes.append(f"Adaptive and robust score{on}; gray-box and transfer on all {material.split} images, CW on a subset of them.")
    if any(len(set(_means(system.variant.trials))) == 1 for system in members):
        notes.append("Intervals of single seeds, and of seeds that agree exactly, are over images: they hold for these checkpoints.")
    if any(len(system.variant.trials) > 1 for system in members):
        notes.append("Intervals over seeds are t intervals with one degree of freedom less than seeds; they may leave 0 to 100 where seeds are few.")
    return tuple(notes)


def _unranked(systems: Sequence[System]) -> list[str]:
    """Return a sentence on the systems that fail a validity check: which, at which seed, and what it found first."""
    failed = [system for system in systems if system.variant.failed]
    if not failed:
        return []
    told = []
    for system in failed:
        first = {one.check: one for one in reversed(system.variant.failed)}
        seeds = {trial.trial_id: f" at seed {trial.seed}" for trial in system.variant.trials}
        told += [f"{system.plain}, {one.check}{seeds.get(one.trial_id, '')}: {one.message}" for one in reversed(first.values())]
    return [f"Unranked, last and not to be believed, since a validity check fails: {'; '.join(told)}."]


def _means(trials: Sequence[Trial]) -> list[float]:
    return [float(share.mean()) for trial in trials if (share := trial.clean()) is not None]
