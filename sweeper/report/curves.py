"""Accuracy against epsilon: the paper's Figure 2, its two halves apart, and the adaptive attacker that the paper leaves out."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from sweeper.report.content import Figure, Panel, Series
from sweeper.report.naming import System, Systems, attack_name, dataset_name, epsilon_name
from sweeper.report.trials import ADAPTIVE, Material, Trial, same
from sweeper.report.values import Value, of_images

EPSILON = "epsilon (of the pixel range)"
ACCURACY = "accuracy (%)"
LARGEST_GROUP = 6  # curves of variants in one panel, beside the reference and no defense

Share = Callable[[Trial, float], NDArray | None]
Sheet = tuple[Material, Systems]


def series(name: str, trials: Sequence[Trial], epsilons: Sequence[float], share: Share, *, stress: bool = False) -> Series | None:
    """Return an accuracy curve in percent over the seeds, None if there is not one point."""
    values = [of_images([share(trial, epsilon) for trial in trials]) for epsilon in epsilons]
    if not any(values):
        return None
    points = tuple(tuple(_percent(share(trial, epsilon)) for epsilon in epsilons) for trial in trials) if len(trials) > 1 else ()
    mean, low, high = columns([value and value.scaled(100) for value in values])
    return Series(name, tuple(epsilons), mean, low, high, points, stress)


def _percent(share: NDArray | None) -> float | None:
    return None if share is None else 100 * float(share.mean())


def columns(values: Sequence[Value | None]) -> list[tuple[float | None, ...]]:
    """Return means, lower and upper bounds, as a curve wants them."""
    return [tuple(value and getattr(value, name) for value in values) for name in ("mean", "low", "high")]


def figure2(sheets: Sequence[Sheet], chosen: Sequence[Sequence[System]], name: str, title: str) -> Figure:
    """Return the paper's Figure 2: pooled accuracy per attack, with the adaptive attacker's curve of VQUNet in every panel.

    Args:
        sheets: One per data set; each has a panel per attack.
        chosen: The systems that are drawn, per data set.
    """
    panels = []
    for (material, systems), drawn in zip(sheets, chosen, strict=True):
        for attack in _attacks(drawn, "graybox", "transfer"):
            panel = _panel(material, systems, drawn, "graybox", attack, _mixed(attack), len(sheets) > 1)
            panels.append(_with_adaptive(panel, drawn))
    caption = (
        "Accuracy of the whole defense (purifier, then the classifier it was retrained with) when one half of the images is attacked on the original "
        "target (gray-box) and the other half by transfer from the DenseNets; the halves are fixed and stratified by class (paper, section 4.1; with "
        "mix=full every image counts half by either). The attacker does not know the purifier, so this figure never stands alone: the halves and "
        "the adaptive attacker follow, and the adaptive attacker's curve of VQUNet is drawn heavily in every panel. "
    )
    return Figure(name, title, caption + _notes(sheets, chosen), tuple(panels) or _nothing("gray-box and transfer scores"))


def half_figure(sheets: Sequence[Sheet], chosen: Sequence[Sequence[System]], threat: str, name: str, title: str) -> Figure:
    """Return accuracy per attack under `graybox` or `transfer` alone, on all images."""
    panels = [
        _panel(material, systems, drawn, threat, attack, _static(threat, attack), len(sheets) > 1)
        for (material, systems), drawn in zip(sheets, chosen, strict=True)
        for attack in _attacks(drawn, threat)
    ]
    crafted = {
        "graybox": "All images, attacked on the target classifier without the purifier, which this attacker does not know. ",
        "transfer": "All images, attacked on DenseNets that the defense does not contain. ",
    }[threat]
    return Figure(name, title, crafted + _notes(sheets, chosen), tuple(panels) or _nothing(f"{threat} scores"))


def adaptive_figure(sheets: Sequence[Sheet], chosen: Sequence[Sequence[System]], name: str, title: str) -> Figure:
    """Return accuracy under the attacker who differentiates through the whole defense: the worst case, then each attack where there are several."""
    panels = []
    for (material, systems), drawn in zip(sheets, chosen, strict=True):
        everyone = _with_undefended(systems, drawn)
        grid = _grid(everyone, lambda trial: trial.adaptive_epsilons)
        title_of = f"all adaptive attacks{count(everyone)}" + (f", {dataset_name(material)}" if len(sheets) > 1 else "")
        first = next((s for s in everyone if s.kind == "vqunet"), None)
        curves = [series(s.name, s.variant.trials, grid, Trial.adaptive, stress=s is first) for s in everyone]
        panels.append(_axes(title_of, [curve for curve in curves if curve]))
        kinds = sorted({(score.threat, score.attack) for s in everyone for trial in s.variant.trials for score in trial.scores
                        if score.threat in ADAPTIVE})  # fmt: skip
        for threat, attack in kinds if len(kinds) > 1 else ():
            grid = _grid(everyone, lambda trial, t=threat, a=attack: trial.epsilons(t, a))
            curves = [series(s.name, s.variant.trials, grid, _static(threat, attack)) for s in everyone]
            panels.append(_axes(f"{threat.replace('_', ' ')} {attack_name(attack)}", [curve for curve in curves if curve]))
    caption = (
        "The attacker knows the whole defense and differentiates through it. What is broken at one epsilon stays broken at larger ones, so curves "
        "only fall. "
    )
    return Figure(name, title, caption + _notes(sheets, chosen), tuple(panels))


def groups(systems: Systems) -> list[tuple[str, str, tuple[System, ...]]]:
    """Return (suffix of the file's name, words of the title, systems) of each set of figures: the fairness tables, or variants factor by factor.

    Another sweep's variants go in sets of at most LARGEST_GROUP, no factor cut in two where it fits, the reference in each.
    """
    if systems.is_paper:
        found = [("", "equal information", systems.equal), ("_recipes", "authors' recipes", systems.recipes)]
        return [(suffix if index else "", words, members) for index, (suffix, words, members) in enumerate(group for group in found if group[2])]
    reference = [system for system in systems.all if system.variant.is_reference]
    rest = [system for system in systems.all if not system.variant.is_reference and not system.variant.is_undefended]
    factors: dict[str, list[System]] = {}
    for system in rest:
        factors.setdefault(system.variant.factor, []).append(system)
    packed: list[list[System]] = [[]]
    for members in factors.values():
        for start in range(0, len(members), LARGEST_GROUP):
            part = members[start : start + LARGEST_GROUP]
            if len(packed[-1]) + len(part) > LARGEST_GROUP:
                packed.append([])
            packed[-1] += part
    result = []
    for index, members in enumerate(packed, 1):
        words = ", ".join(dict.fromkeys(system.variant.factor for system in members)) or "the reference"
        result.append((f"_{index}" if len(packed) > 1 else "", words, (*reference, *members)))
    return result


def count(systems: Sequence[System]) -> str:
    """Return on how many images the adaptive attacks were run: ` (240 images)`."""
    counts = {len(trial.adaptive_broken_at) for s in systems for trial in s.variant.trials if trial.adaptive_broken_at is not None}
    return f" ({'/'.join(f'{count:,}' for count in sorted(counts))} images)" if counts else ""


def _mixed(attack: str) -> Share:
    return lambda trial, epsilon: trial.mixed(attack, epsilon)


def _static(threat: str, attack: str) -> Share:
    return lambda trial, epsilon: trial.static(threat, attack, epsilon)


def _attacks(drawn: Sequence[System], *threats: str) -> list[str]:
    """Return the attacks that these systems were scored under, in all of the threats, in the order of the trial that has most of them."""
    lists = [[a for a in trial.attacks(threats[0]) if all(a in trial.attacks(t) for t in threats)] for s in drawn for trial in s.variant.trials]
    longest = max(lists, key=len, default=[])
    return list(dict.fromkeys([*longest, *(attack for found in lists for attack in found)]))


def _with_undefended(systems: Systems, drawn: Sequence[System]) -> list[System]:
    return [*drawn, *([systems.undefended] if systems.undefended and systems.undefended not in drawn else [])]


def _grid(systems: Sequence[System], epsilons: Callable[[Trial], Sequence[float]]) -> list[float]:
    """Return 0 and every epsilon of some trials, once each."""
    grid = [0.0]
    for epsilon in sorted(epsilon for system in systems for trial in system.variant.trials for epsilon in epsilons(trial)):
        if not same(epsilon, grid[-1]):
            grid.append(epsilon)
    return grid


def _panel(material: Material, systems: Systems, drawn: Sequence[System], threat: str, attack: str, share: Share, named: bool) -> Panel:
    everyone = _with_undefended(systems, drawn)
    grid = _grid(everyone, lambda trial: trial.epsilons(threat, attack))
    curves = [series(system.name, system.variant.trials, grid, share) for system in everyone]
    counts = {len(found) for system in everyone for trial in system.variant.trials if (found := share(trial, grid[-1])) is not None}
    title = f"{dataset_name(material)}, " if named else ""
    title += attack_name(attack) + (f" ({'/'.join(f'{count:,}' for count in sorted(counts))} images)" if counts else "")
    return _axes(title, [curve for curve in curves if curve])


def _with_adaptive(panel: Panel, drawn: Sequence[System]) -> Panel:
    """Add the adaptive curve of the first VQUNet drawn, up to the panel's largest epsilon."""
    system = next((system for system in drawn if system.kind == "vqunet" and system.variant.trials), None)
    if system is None or not panel.series:
        return panel
    last = max(curve.x[-1] for curve in panel.series)
    grid = [epsilon for epsilon in _grid([system], lambda trial: trial.adaptive_epsilons) if epsilon <= last * (1 + 1e-6)]
    if len(grid) < 2:
        return panel
    curve = series(f"{system.name}, adaptive attacker{count([system])}", system.variant.trials, grid, Trial.adaptive, stress=True)
    return _axes(panel.title, [*panel.series, *([curve] if curve else [])])


def _axes(title: str, curves: Sequence[Series]) -> Panel:
    settings: dict[str, Any] = {"missing": "" if curves else "no trial was scored here"}
    return Panel(title, EPSILON, ACCURACY, tuple(curves), y_range=(0.0, 100.0), **settings)


def _nothing(what: str) -> tuple[Panel, ...]:
    return (Panel("not measured", EPSILON, ACCURACY, (), missing=f"this sweep's evaluation has no {what}"),)


def _notes(sheets: Sequence[Sheet], chosen: Sequence[Sequence[System]]) -> str:
    """Return what intervals are over, and where score_epsilon lies."""
    seeds = sorted({len(system.variant.trials) for drawn in chosen for system in drawn})
    words = f"Seeds per system: {' or '.join(map(str, seeds))}. " if seeds else ""
    if seeds and seeds[-1] > 1:
        words += "Intervals are 95 % t intervals over seeds, over images where all seeds agree; faint lines are single seeds. "
    else:
        words += "Intervals are over images, for these checkpoints: another seed can move a curve further than they reach. "
    if not all(systems.undefended for _, systems in sheets):
        words += "The curve without defense is missing: the sweep has no completed trial of model identity with retrain none. "
    everyone = [system for drawn in chosen for system in drawn]
    scores = {system.name: [score for trial in system.variant.trials for score in trial.scores] for system in everyone}
    own = sorted(name for name, found in scores.items() if any(score.source == "retrained" for score in found))
    if own:
        words += f"Gray-box images of {', '.join(own)} are crafted on its own retrained classifier, not on the original target. "
    if any(score.labels == "predicted" for found in scores.values() for score in found):
        words += "Under the preset cleverhans attacks lead away from the predicted class, not from the true one. "
    return words + f"score_epsilon is {', '.join(dict.fromkeys(epsilon_name(material.score_epsilon) for material, _ in sheets))}."
