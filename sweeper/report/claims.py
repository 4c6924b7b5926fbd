"""The paper's sentences about accuracy, one by one: what they say, what was measured, and whether that decides them.

Seeds are the unit wherever a sentence is about a system (`verdicts.py`). Where a sentence speaks of a whole curve, one number per seed stands for it:
the mean over the epsilons of the grid, or the lowest point.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sweeper.report.content import Claim, Claims
from sweeper.report.curves import Sheet
from sweeper.report.governed import ABOUT_A_GAIN, ABOUT_CLEAN, ABOUT_ROBUSTNESS, HEADLINE, govern
from sweeper.report.latent_claims import latent_claims
from sweeper.report.naming import BASELINES, PAPER_BEFORE, System, Systems, attack_name, dataset_name, epsilon_name
from sweeper.report.table1 import clean_change, clean_change_value
from sweeper.report.training_claims import second_pass, weights_of_losses
from sweeper.report.trials import Material, Trial
from sweeper.report.values import Value, by_seed, of_images, of_seeds, paired, percent, points
from sweeper.report.verdicts import Judged, by_interval, by_seeds, claim, untested
from sweeper.statistics import mcnemar


def claims(sheet: Sheet, weights: Material | None, others: Sequence[Sheet] = (), suffix: str = "") -> Claims:
    """Return every testable sentence of the paper, in its order, and the one that it leaves out.

    Args:
        weights: A sweep over alpha and beta on the same data set, if the results root has one.
        others: The sweep on other data sets, which have claims of their own.
    """
    material, systems = sheet
    found = [*second_pass(sheet), weights_of_losses(weights), *_clean(sheet), *_undefended(sheet), *_against_baselines(sheet)]
    found += [*_ninety(sheet), *latent_claims(systems), *_adaptive(sheet), *_elsewhere(material, [dataset_name(other) for other, _ in others])]
    where = f"{dataset_name(material)}, scale {material.scale}"
    caption = (
        f"Verdicts hold for {where}, and for no other data set or scale. A sentence about a system is judged over seeds: it holds if every "
        "comparison in it is significant (t test over seeds, Holm over the sentence's comparisons, p < 0.05), fails if one is significantly the "
        "other way, and is otherwise undecided; what was not measured is not tested. The undefended target is judged over images. A sentence that "
        "holds may be printed only where the checks that govern it pass: C29 on clean accuracy, C27 on a gain, C26 on robustness, C33 and C34 on all "
        "of these, and every validity check of the systems in it."
    )
    return Claims(f"claims{suffix}", f"The paper's claims, measured on {where}", caption, tuple(found))


def subject(systems: Systems) -> System | None:
    """Return the VQUNet that the paper's sentences are about: its authors' recipe, else equal information, else another sweep's reference."""
    return systems.one("vqunet") or next((s for s in systems.others if s.kind == "vqunet" and s.variant.is_reference), None)


def _clean(sheet: Sheet) -> list[Claim]:
    text, where = "Filtering with VQUNet costs less than 1 point of clean accuracy", "abstract, section 4.2"
    material, systems = sheet
    vq = subject(systems)
    if vq is None:
        return [untested(text, where, "the sweep has no completed VQUNet")]
    trials = vq.variant.trials
    margins = [change + 0.01 for trial in trials if (change := clean_change(trial)) is not None]
    measured = f"{vq.name}: {_changed(vq)}; {_count(trials)}"
    found = [govern(claim(text, where, by_seeds({vq.name: margins}), measured), ABOUT_CLEAN, [vq])]
    for words, members in _tables(systems):
        one, baselines = systems.one("vqunet", members), _baselines(members)
        if one is None or not baselines:
            continue
        changes = {s.name: [c for t in s.variant.trials if (c := clean_change(t)) is not None] for s in (one, *baselines)}
        only = {name: [c + 0.01 if name == one.name else -0.01 - c for c in found] for name, found in changes.items()}
        listed = "; ".join(f"{s.name} {_changed(s)}" for s in (one, *baselines))
        one_only = claim(f"VQUNet is the only one that costs less than 1 point ({words})", "section 4.2, Table 1", by_seeds(only), listed)
        found.append(govern(one_only, ABOUT_CLEAN, [one, *baselines]))
        after = {s.name: by_seed(s.variant.trials, [t.clean() for t in s.variant.trials]) for s in (one, *baselines)}
        margins_of = {s.name: paired(after[one.name], after[s.name]) for s in baselines}
        text = f"VQUNet keeps more clean accuracy than each baseline ({words})"
        measured = _differences(margins_of, one, baselines)
        more = claim(text, "section 4.2, Table 1", by_seeds(margins_of), measured, _one_seed(one, baselines))
        found.append(govern(more, HEADLINE, [one, *baselines]))
    return found


def _undefended(sheet: Sheet) -> list[Claim]:
    text, where = "Without defense accuracy falls below 10 % under every attack", "section 4.3"
    material, systems = sheet
    system = systems.undefended
    if system is None:
        return [untested(text, where, "the sweep has no completed trial of model identity with retrain none")]
    trials = system.variant.trials
    shares: list[tuple[str, str, Callable[[Trial, str, float], NDArray | None]]] = [
        ("pooled as in the paper", "graybox", lambda trial, attack, epsilon: trial.mixed(attack, epsilon)),
        ("attacked on the target itself (gray-box half)", "graybox", lambda trial, attack, epsilon: trial.static("graybox", attack, epsilon)),
        ("by transfer (the other half)", "transfer", lambda trial, attack, epsilon: trial.static("transfer", attack, epsilon)),
    ]
    found = []
    for words, threat, share in shares:
        last: dict[str, Value | None] = {}
        parts = []
        for attack in trials[0].attacks(threat):
            largest = trials[0].epsilons(threat, attack)[-1]
            last[attack_name(attack)] = of_images([share(trial, attack, largest) for trial in trials])
            at_score = of_images([share(trial, attack, material.score_epsilon) for trial in trials])
            parts.append(f"{attack_name(attack)} {percent(last[attack_name(attack)])} at {epsilon_name(largest)}"
                         f", {percent(at_score)} at {epsilon_name(material.score_epsilon)}")  # fmt: skip
        more = "judged at the largest epsilon, the reading that is kindest to the sentence; the target is one checkpoint"
        judged = by_interval(last, 0.10, above=False)
        found.append(govern(claim(f"{text}, {words}", where, judged, "; ".join(parts) or "nothing", more), (), [system]))
    return found


def _against_baselines(sheet: Sheet) -> list[Claim]:
    """Judge Figure 2: higher for every attack, and flatter."""
    systems = sheet[1]
    where, found = "section 4.3, Figure 2", []
    texts = ("VQUNet is more accurate under every attack than each baseline", "VQUNet's curve is flatter, so its advantage grows with the noise")
    for words, members in _tables(systems):
        vq, baselines = systems.one("vqunet", members), _baselines(members)
        if vq is None or not baselines:
            continue
        higher: dict[str, list[float]] = {}
        flatter: dict[str, list[float]] = {}
        for baseline in baselines:
            for attack in vq.variant.trials[0].attacks("graybox"):
                name = f"{baseline.name} under {attack_name(attack)}"
                first, second = (by_seed(s.variant.trials, [mean_mixed(t, attack) for t in s.variant.trials]) for s in (vq, baseline))
                higher[name] = paired(first, second)
                first, second = (by_seed(s.variant.trials, [_drop(t, attack) for t in s.variant.trials]) for s in (baseline, vq))
                flatter[name] = paired(first, second)
        more = "pooled figures: an attacker who does not know the purifier; see the adaptive attacker below"
        measured = _named_points(higher, "difference of the mean over the epsilons")
        one = claim(f"{texts[0]} ({words})", where, by_seeds(higher), measured, f"{_one_seed(vq, baselines)} {more}".strip())
        found.append(govern(one, ABOUT_A_GAIN, [vq, *baselines]))
        measured = _named_points(flatter, "difference of the drop from the smallest to the largest epsilon")
        found.append(govern(claim(f"{texts[1]} ({words})", where, by_seeds(flatter), measured), ABOUT_A_GAIN, [vq, *baselines]))
    why = "the sweep has no completed VQUNet beside a baseline under one table's conditions"
    return found or [untested(text, where, why) for text in texts]


def _ninety(sheet: Sheet) -> list[Claim]:
    text = "On Fashion-MNIST VQUNet keeps at least 90 % under every attack and every epsilon"
    material, systems = sheet
    vq, where = subject(systems), "section 4.3, Figure 2"
    lowest = [_lowest_mixed(trial) for trial in vq.variant.trials] if vq else []
    known = [low for low in lowest if low is not None]
    if vq is None or not known:
        return [untested(text, where, "the sweep has no VQUNet under both gray-box and transfer attacks")]
    _, attack, epsilon = min(known)
    value = of_seeds(low for low, _, _ in known)
    measured = f"{vq.name} on {dataset_name(material)}, lowest pooled accuracy per seed: {percent(value)}"
    measured += f" (least: {attack_name(attack)} at {epsilon_name(epsilon)}); {_count(vq.variant.trials)}"
    if material.dataset != "fashion_mnist":
        return [untested(text, where, f"these are the figures of {dataset_name(material)}", measured)]
    return [govern(claim(text, where, by_seeds({vq.name: [low - 0.9 for low, _, _ in known]}), measured), ABOUT_ROBUSTNESS, [vq])]


def _adaptive(sheet: Sheet) -> list[Claim]:
    text = "NOT IN THE PAPER: VQUNet keeps the accuracy of Figure 2 when the attacker differentiates through it"
    material, systems = sheet
    vq, where = subject(systems), "not in the paper, whose attacker does not know the purifier"
    at = epsilon_name(material.score_epsilon)
    if vq is None or not any(trial.adaptive_broken_at is not None for trial in vq.variant.trials):
        return [untested(text, where, "the sweep has no VQUNet under an adaptive attack")]
    trials = vq.variant.trials
    adaptive = of_images([trial.adaptive(material.score_epsilon) for trial in trials])
    scores = of_images([trial.robust_score(material.score_epsilon) for trial in trials])
    mixed = of_images([trial.worst_mixed(material.score_epsilon) for trial in trials])
    judged = _same_checkpoints(trials, material.score_epsilon)
    measured = f"{vq.name} at epsilon {at}: adaptive {percent(adaptive)}, pooled (lowest attack) {percent(mixed)}"
    measured += f"; robust score {percent(scores)}; {_count(trials)}"
    found = claim(text, where, judged, measured, "the adaptive figure is the one that a defense is judged by")
    return [govern(found, ABOUT_ROBUSTNESS, [vq])]


def _same_checkpoints(trials: Sequence[Trial], epsilon: float) -> Judged:
    """Judge whether the adaptive attacker leaves what the pooled one does. Both attack the same checkpoints, so intervals over images decide."""
    pairs = [(of_images([trial.adaptive(epsilon)]), of_images([trial.worst_mixed(epsilon)])) for trial in trials]
    known = [(adaptive, mixed) for adaptive, mixed in pairs if adaptive is not None and mixed is not None]
    if not known:
        return Judged("not tested", "what it needs was not measured")
    basis = f"95 % intervals over images at each of {len(known)} checkpoint{'s' * (len(known) > 1)}"
    below = sum((adaptive.high or 0.0) < (mixed.low or 0.0) for adaptive, mixed in known)
    if below == len(known):
        return Judged("fails", f"{basis}: the adaptive figure lies wholly below the pooled one at every one")
    if all(adaptive.mean >= mixed.mean for adaptive, mixed in known):
        return Judged("holds", f"{basis}: at none is the adaptive figure the lower one")
    return Judged("undecided", f"{basis}: the adaptive figure lies wholly below the pooled one at {below}")


def _elsewhere(material: Material, reported: Sequence[str]) -> list[Claim]:
    """Return a row for each of the paper's data sets that these figures say nothing about."""
    names = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST"}
    rows = []
    for dataset in PAPER_BEFORE:
        is_here = dataset == material.dataset and not (dataset == "cifar10" and dataset_name(material) != names[dataset])
        if is_here or names[dataset] in reported:
            continue
        why = f"this sweep was not run on {names[dataset]} under this results root"
        if dataset == material.dataset:
            why = f"{dataset_name(material)} is not the paper's data: its figures are no figures on {names[dataset]}"
        rows.append(untested(f"VQUNet outperforms the other defenses on {names[dataset]}", "sections 4.2 and 4.3", why))
    if material.scale != "paper":
        why = f"this is scale {material.scale}: smaller networks, fewer images or epochs than the paper's"
        rows.append(untested("The same with WRN-28-10, all training images and 10,000 test images", "section 4.1", why))
    return rows


def mean_mixed(trial: Trial, attack: str) -> float | None:
    """Return the mean of the pooled accuracy over the epsilons of the grid."""
    shares = [trial.mixed(attack, epsilon) for epsilon in trial.epsilons("graybox", attack)]
    known = [float(share.mean()) for share in shares if share is not None]
    return float(np.mean(known)) if known else None


def _drop(trial: Trial, attack: str) -> float | None:
    grid = trial.epsilons("graybox", attack)
    if len(grid) < 2:
        return None
    first, last = trial.mixed(attack, grid[0]), trial.mixed(attack, grid[-1])
    return None if first is None or last is None else float(first.mean() - last.mean())


def _lowest_mixed(trial: Trial) -> tuple[float, str, float] | None:
    found = []
    for attack in trial.attacks("graybox"):
        for epsilon in trial.epsilons("graybox", attack):
            share = trial.mixed(attack, epsilon)
            if share is not None:
                found.append((float(share.mean()), attack, epsilon))
    return min(found, default=None)


def _tables(systems: Systems) -> list[tuple[str, tuple[System, ...]]]:
    return [(words, members) for words, members in (("authors' recipes", systems.recipes), ("equal information", systems.equal)) if members]


def _baselines(members: Sequence[System]) -> list[System]:
    return [system for system in members if system.kind in BASELINES]


def _changed(system: System) -> str:
    return points(clean_change_value(system.variant.trials))


def _count(trials: Sequence[Trial]) -> str:
    images = next((share.size for trial in trials if (share := trial.clean()) is not None), 0)
    return f"{len(trials)} seed{'s' * (len(trials) != 1)}, {images:,} clean images"


def _differences(margins: dict[str, list[float]], vq: System, baselines: Sequence[System]) -> str:
    accuracies = "; ".join(f"{s.name} {percent(of_images([t.clean() for t in s.variant.trials]))}" for s in (vq, *baselines))
    return f"{accuracies}; {_named_points(margins, 'paired difference')}; {_count(vq.variant.trials)}"


def _named_points(margins: dict[str, list[float]], what: str) -> str:
    return f"{what}: " + "; ".join(f"{name} {points(of_seeds(values))}" for name, values in margins.items())


def _one_seed(vq: System, baselines: Sequence[System]) -> str:
    """Return McNemar's test of these checkpoints where there is one seed, and so no test of the settings."""
    if len(vq.variant.trials) != 1:
        return ""
    words = []
    for baseline in baselines:
        first = vq.variant.trials[0].clean()
        second = next((trial.clean() for trial in baseline.variant.trials if trial.seed == vq.variant.trials[0].seed), None)
        if first is not None and second is not None and first.shape == second.shape:
            only_vq, only_other, p_value = mcnemar(first, second)
            words.append(f"{baseline.name}: only VQUNet right on {only_vq} clean images, only it on {only_other}, p = {p_value:.3g}")
    return "These two checkpoints, McNemar's exact test: " + "; ".join(words) if words else ""
