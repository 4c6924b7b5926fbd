"""Are the attacks strong enough for their failure to mean something?"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from sweeper.checks._curves import ADAPTIVE, Curves, Floats, worst_per_trial
from sweeper.checks._result import Planned, Result, result
from sweeper.checks.catalogue import CHECKS
from sweeper.statistics import wilson

ROUNDING = 1e-9  # accuracies are counts over n; less than this apart, they are equal
MIN_IMAGES = 20  # the interval of fewer is wider than any of these thresholds
STATIC = ("graybox", "transfer")
SIGNED_STEPS = ("bim", "pgd")
ITERATIVE = ("bim", "pgd", "cw", "cw_l2")
UNDEFENDED_LIMIT = 0.10  # C8: the VQUNet paper's own claim about the undefended target
RISE_HALF_WIDTHS, RISE_LEAST = 2.0, 0.005  # C9
SINGLE_STEP_HALF_WIDTHS = 2.0  # C11
REACH_SHARE = 0.98  # C12: of epsilon, by the largest change of any pixel
REACH_OF_PATH = {"bim": 1.0, "pgd": 2.0}  # C12: steps times step size over epsilon; pgd starts anywhere in the ball and may have to cross it
STATIC_STEP_CAP = 0.05  # of the step size rule `scaled`, see attacks/_linf.py
GRAYBOX_HALF_WIDTHS = 2.0  # C18


def breaks_undefended(planned: Planned, curves: Curves) -> list[Result]:
    """C8: the gray-box sets of iterative attacks leave the undefended target below 10 % at the first epsilon from `score_epsilon` on.

    Judged on the trial of model `identity`, retrain `none`, under the same evaluation, which means on the same sets. Transfer sets are not judged:
    they leave an undefended target well above that. Below 10 % by chance is a warning: the interval decides.
    """
    check = CHECKS["C8"]
    score_epsilon = {row["evaluation_id"]: float(row["score_epsilon"]) for row in planned.rows}
    is_undefended = np.array([planned.is_undefended(place) for place in range(len(planned.rows))], np.bool_)
    is_set = curves.where(["graybox"], ITERATIVE) & (curves.labels["classifier"] == "original")
    is_set &= (curves.labels["source"] != "retrained") & is_undefended[curves.trial]
    worst: dict[str, tuple[float, float, int, int]] = {}  # evaluation -> accuracy, lower end, curve, column
    few: dict[str, int] = {}
    for curve in np.flatnonzero(is_set):
        evaluation = planned.keys[curves.trial[curve]][1]
        columns = np.flatnonzero(curves.epsilon[curve] >= score_epsilon[evaluation] * (1 - 1e-9))
        if not len(columns):
            continue
        column = int(columns[0])
        if curves.n[curve, column] < MIN_IMAGES:
            few[evaluation] = int(curves.n[curve, column])
            continue
        accuracy = float(curves.accuracy[curve, column])
        worst[evaluation] = max(worst.get(evaluation, (-1.0, 0.0, 0, 0)), (accuracy, _low(curves, int(curve), column), int(curve), column))
    attacked = {planned.keys[place] for place in np.unique(curves.trial[curves.where(["graybox"])])}
    found = []
    for key in planned.keys:
        if key not in attacked:
            found.append(result(check, key, "not_applicable", "no gray-box attack"))
        elif key[1] in worst:
            accuracy, low, curve, column = worst[key[1]]
            text = f"{curves.name(curve, column)} leaves the undefended target at {100 * accuracy:.1f} %"
            outcome = "fail" if low >= UNDEFENDED_LIMIT else "warn" if accuracy >= UNDEFENDED_LIMIT else "pass"
            found.append(result(check, key, outcome, text + (": the attack is broken" if outcome == "fail" else ""), accuracy, UNDEFENDED_LIMIT))
        elif key[1] in few:
            found.append(result(check, key, "not_run", f"{few[key[1]]} images say too little, at least {MIN_IMAGES} are needed"))
        else:
            text = "no undefended target (model identity, retrain none) is scored by an iterative gray-box attack in this sweep and evaluation"
            found.append(result(check, key, "not_run", text))
    return found


def falls_with_epsilon(planned: Planned, curves: Curves) -> list[Result]:
    """C9: no point of a curve lies above an earlier one by more than twice the wider interval's half width, and 0.5 points at least.

    Strictly where broken images are carried over to the next epsilon: such a curve cannot rise.
    """
    check = CHECKS["C9"]
    rise, allowed = np.full_like(curves.epsilon, np.nan), np.full_like(curves.epsilon, np.nan)
    excess = np.full_like(curves.epsilon, -np.inf)
    is_carried = ~np.isnan(curves.carried_over)
    for later in range(1, curves.epsilon.shape[1]):
        for earlier in range(later):
            difference = curves.accuracy[:, later] - curves.accuracy[:, earlier]
            half = np.maximum(curves.half[:, later], curves.half[:, earlier])
            tolerance = np.where(is_carried[:, later], 0.0, np.maximum(RISE_HALF_WIDTHS * half, RISE_LEAST))
            more = difference - tolerance - ROUNDING
            is_worse = more > excess[:, later]  # False for NaN
            excess[is_worse, later] = more[is_worse]
            rise[is_worse, later], allowed[is_worse, later] = difference[is_worse], tolerance[is_worse]
    is_judged = (np.nan_to_num(curves.n).max(axis=1, initial=0) >= MIN_IMAGES) | is_carried.any(axis=1)
    excess = np.where(np.isfinite(excess) & is_judged[:, None], excess, np.nan)
    worst, at, column = worst_per_trial(planned, curves, excess)
    found = []
    for place, key in enumerate(planned.keys):
        if at[place] < 0:
            found.append(result(check, key, "not_run", f"no curve of two epsilons over at least {MIN_IMAGES} images is stored"))
            continue
        value, bound = (float(values[at[place], column[place]]) for values in (rise, allowed))
        where = f"{curves.name(at[place], column[place])} on the {curves.labels['classifier'][at[place]]} classifier"
        if worst[place] > 0:
            text = f"{where} is {100 * value:.1f} points above an earlier epsilon"
            found.append(result(check, key, "fail", text, value, bound))
        else:
            found.append(result(check, key, "pass", "no curve rises by more than chance allows", value, bound))
    return found


def iterative_beats_one_step(planned: Planned, curves: Curves) -> list[Result]:
    """C11: at each epsilon the iterative attack's accuracy is at most that of FGSM plus twice the half width.

    On adaptive results it decides; in gray-box and transfer it is advice only, since one step is there often the stronger at large epsilon.
    """
    check = CHECKS["C11"]
    adaptive = _one_step(planned, curves, ADAPTIVE)
    static = _one_step(planned, curves, STATIC)
    found = []
    for place, key in enumerate(planned.keys):
        if place in adaptive:
            value, bound, where = adaptive[place]
            outcome = "pass" if value <= bound + ROUNDING else "fail"
            words = "is no weaker than one step" if outcome == "pass" else "is weaker than one step: it is not optimized"
            found.append(result(check, key, outcome, f"{where} {words}", value, bound))
        elif place in static and static[place][0] > static[place][1]:
            value, bound, where = static[place]
            text = f"{where} is weaker than one step, which on another model's images may be; no adaptive one-step attack is stored to judge by"
            found.append(Result(check.name, *key, "advice", "warn", value, bound, text))
        else:
            found.append(result(check, key, "not_run", "no adaptive attack of one step is stored"))
    return found


def _one_step(planned: Planned, curves: Curves, threats: Sequence[str]) -> dict[int, tuple[float, float, str]]:
    """Return place -> accuracy under the iterative attack, what FGSM allows, and where the first is furthest above the second."""
    single = np.flatnonzero(curves.where(threats, ["fgsm"]))
    single = single[np.argsort(curves.family[single])]
    iterative = np.flatnonzero(curves.where(threats, SIGNED_STEPS))
    if not len(single) or not len(iterative):
        return {}
    at = np.searchsorted(curves.family[single], curves.family[iterative]).clip(max=len(single) - 1)
    other = single[at]
    is_twin = (curves.family[other] == curves.family[iterative]) & (curves.labels["sample_set"][other] == curves.labels["sample_set"][iterative])
    iterative, other = iterative[is_twin], other[is_twin]
    bound = np.full((len(iterative), curves.epsilon.shape[1]), np.nan)
    for column in range(bound.shape[1]):  # of the one step; its epsilon may stand in another column of the iterative curve
        same = np.abs(curves.epsilon[iterative] - curves.epsilon[other, column][:, None]) < 1e-9
        half = np.maximum(curves.half[iterative], curves.half[other, column][:, None])
        bound = np.where(same, curves.accuracy[other, column][:, None] + SINGLE_STEP_HALF_WIDTHS * half, bound)
    allowed = np.full_like(curves.epsilon, np.nan)
    allowed[iterative] = np.where(curves.n[iterative] >= MIN_IMAGES, bound, np.nan)
    worst, curve, column = worst_per_trial(planned, curves, curves.accuracy - allowed)
    return {
        int(place): (float(curves.accuracy[c, e]), float(allowed[c, e]), curves.name(int(c), int(e)))
        for place, c, e in zip(np.flatnonzero(~np.isnan(worst)), curve[curve >= 0], column[curve >= 0], strict=True)
    }


def reaches_the_surface(planned: Planned, curves: Curves) -> list[Result]:
    """C12: steps times step size is at least epsilon for BIM and twice epsilon for PGD, and some image was moved by 0.98 epsilon.

    The second only where images survive: one that breaks on the way has no reason to go further. It decides on adaptive results; a gray-box or
    transfer attack that falls short is advice.
    """
    check = CHECKS["C12"]
    path = np.full_like(curves.epsilon, np.nan)
    is_stepped = curves.where([*ADAPTIVE, *STATIC], list(REACH_OF_PATH))
    for attack, settings in {(curves.labels["engine"][c], curves.settings[c]) for c in np.flatnonzero(is_stepped)}:
        chosen = is_stepped & (curves.labels["engine"] == attack) & (curves.settings == settings)
        path[chosen] = path_length(settings, curves.epsilon[chosen]) / (curves.epsilon[chosen] * REACH_OF_PATH[attack])
    is_attacked = (curves.accuracy > 0) & (curves.epsilon > 0)
    is_attacked &= np.isnan(curves.carried_over) | (curves.carried_over < curves.n)
    moved = np.where(is_stepped[:, None] & is_attacked, curves.achieved / (curves.epsilon * REACH_SHARE + 1e-30), np.nan)
    short = 1 - np.fmin(path, moved)  # > 0: falls short, of one of the two
    is_adaptive = curves.where(ADAPTIVE)[:, None]
    found = []
    worst, at, column = worst_per_trial(planned, curves, np.where(is_adaptive, short, np.nan))
    other, other_at, other_column = worst_per_trial(planned, curves, np.where(is_adaptive, np.nan, short))
    for place, key in enumerate(planned.keys):
        if at[place] >= 0:
            where = curves.name(at[place], column[place])
            if worst[place] > ROUNDING:
                text = f"{where} gets {100 * (1 - worst[place]):.0f} % of the way that it needs"
                found.append(result(check, key, "fail", text, float(1 - worst[place]), 1.0))
                continue
            if not other[place] > ROUNDING:
                found.append(result(check, key, "pass", "steps and step size reach the surface of the ball", float(1 - worst[place]), 1.0))
                continue
        if other_at[place] >= 0 and other[place] > ROUNDING:
            text = f"{curves.name(other_at[place], other_column[place])} gets {100 * (1 - other[place]):.0f} % of the way that it may need"
            kind = check.kind if at[place] >= 0 else "advice"
            found.append(Result(check.name, *key, kind, "warn", float(1 - other[place]), 1.0, text))
        else:
            found.append(result(check, key, "not_run", "no adaptive attack with steps is stored"))
    return found


def path_length(settings: str, epsilons: Floats) -> Floats:
    """Return how far the steps of an attack can lead at each epsilon, from the JSON of its settings; NaN where it does not say."""
    options = _options(settings)
    steps, size = options.get("num_steps"), options.get("step_size")
    if not steps:
        return np.full_like(epsilons, np.nan)
    if options.get("relative_step_size") is not None:
        return min(options["relative_step_size"], steps) * epsilons
    if size is not None:
        return np.full_like(epsilons, steps * size)
    if options.get("step_size_rule") == "scaled":
        return steps * np.maximum(np.minimum(STATIC_STEP_CAP, 2.5 * epsilons / steps), epsilons / steps)
    return np.full_like(epsilons, np.nan)


@lru_cache
def _options(settings: str) -> Mapping[str, Any]:
    return json.loads(settings).get("options", {}) if settings else {}


def adaptive_is_strongest(planned: Planned, curves: Curves) -> list[Result]:
    """C18: at each shared epsilon the adaptive accuracy is at most the lowest gray-box or transfer accuracy plus twice the half width.

    On the trial's final classifier. Where it is above, the gradient through the defense hides the way that the other attacks found.
    """
    check = CHECKS["C18"]
    count = len(planned.rows)
    grid = np.unique(np.round(curves.epsilon[curves.where(ADAPTIVE)], 9))
    value, bound, excess = np.full(count, np.nan), np.full(count, np.nan), np.full(count, -np.inf)
    where = np.zeros(count)
    has_few = np.zeros(count, np.bool_)
    for epsilon in grid[np.isfinite(grid) & (grid > 0)]:
        adaptive, adaptive_half, n = _lowest(planned, curves, ADAPTIVE, float(epsilon))
        static, static_half, static_n = _lowest(planned, curves, STATIC, float(epsilon))
        tolerance = GRAYBOX_HALF_WIDTHS * np.maximum(adaptive_half, static_half)
        is_few = np.minimum(n, static_n) < MIN_IMAGES
        has_few |= is_few
        more = np.where(is_few, np.nan, adaptive - static - tolerance - ROUNDING)
        is_worse = more > excess
        excess[is_worse], value[is_worse], bound[is_worse] = more[is_worse], adaptive[is_worse], np.minimum(static + tolerance, 1.0)[is_worse]
        where[is_worse] = epsilon
    found = []
    for place, key in enumerate(planned.keys):
        if not np.isfinite(excess[place]):
            few = f"fewer than {MIN_IMAGES} images" if has_few[place] else "no adaptive and gray-box or transfer accuracy at one epsilon"
            found.append(result(check, key, "not_run", few))
        elif excess[place] > 0:
            text = f"at epsilon {where[place]:g} the adaptive attack leaves {100 * value[place]:.1f} %, a gray-box or transfer attack less"
            found.append(result(check, key, "fail", text + ": the adaptive gradient is masked", float(value[place]), float(bound[place])))
        else:
            text = "the adaptive attack leaves no more than gray-box and transfer do"
            found.append(result(check, key, "pass", text, float(value[place]), float(bound[place])))
    return found


def _lowest(planned: Planned, curves: Curves, threats: Sequence[str], epsilon: float) -> tuple[Floats, Floats, Floats]:
    """Return each trial's lowest accuracy over these threats at one epsilon, with its half width and n; NaN where there is none."""
    is_there, column = curves.at(epsilon)
    chosen = np.flatnonzero(curves.where(threats) & is_there & curves.is_final)
    found = np.full((3, len(planned.rows)), np.nan)
    order = chosen[np.argsort(-curves.accuracy[chosen, column[chosen]], kind="stable")]  # the lowest is written last
    for row, values in zip(found, (curves.accuracy, curves.half, curves.n), strict=True):
        row[curves.trial[order]] = values[order, column[order]]
    return found[0], found[1], found[2]


def _low(curves: Curves, curve: int, column: int) -> float:
    """Return the lower end of a point's interval."""
    n = int(curves.n[curve, column])
    return wilson(round(float(curves.accuracy[curve, column]) * n), n)[0]
