"""Are the numbers what they say they are? Perturbations inside the ball, the same images everywhere."""

from collections.abc import Mapping

import numpy as np

from sweeper.checks._curves import Curves, worst_per_trial
from sweeper.checks._result import Planned, Result, result
from sweeper.checks.catalogue import CHECKS

BALL_RELATIVE, BALL_ABSOLUTE = 1e-5, 1e-6  # C1: what fp32 arithmetic may add to epsilon


def stays_in_the_ball(planned: Planned, curves: Curves) -> list[Result]:
    """C1: the largest change of any pixel is at most epsilon (1 + 1e-5) + 1e-6, at every point of every curve, and not NaN.

    From `achieved_epsilon`; the range [0, 1] of the images themselves is not in the tables.
    """
    check = CHECKS["C1"]
    excess = curves.achieved - (curves.epsilon * (1 + BALL_RELATIVE) + BALL_ABSOLUTE)
    excess = np.where(curves.where(["clean"])[:, None], np.nan, excess)
    worst, at, column = worst_per_trial(planned, curves, excess)
    found = []
    for place, key in enumerate(planned.keys):
        if at[place] < 0:
            found.append(result(check, key, "not_run", "no achieved epsilon is stored"))
            continue
        epsilon, achieved = (float(values[at[place], column[place]]) for values in (curves.epsilon, curves.achieved))
        bound = epsilon * (1 + BALL_RELATIVE) + BALL_ABSOLUTE
        if worst[place] > 0:
            text = f"{curves.name(at[place], column[place])} changes a pixel by {achieved:.6g}: more than it may"
            found.append(result(check, key, "fail", text, achieved if np.isfinite(achieved) else None, bound))
        else:
            found.append(result(check, key, "pass", "no pixel is changed by more than epsilon", achieved, bound))
    return found


def same_images(planned: Planned, curves: Curves, sizes: Mapping[str, int]) -> list[Result]:
    """C6: per threat and attack, every trial is scored on the sample set that most are scored on, and on every image of it.

    Args:
        sizes: sample_set -> its number of images, from table sample_sets.
    """
    check = CHECKS["C6"]
    sets = curves.labels["sample_set"]
    cells = np.char.add(np.char.add(curves.labels["threat"], "/"), curves.labels["attack"])
    pairs, counts = np.unique(np.stack([cells, sets]), axis=1, return_counts=True) if len(sets) else (np.zeros((2, 0), str), np.zeros(0, int))
    usual: dict[str, str] = {}
    for pair in np.argsort(-counts, kind="stable"):
        usual.setdefault(str(pairs[0, pair]), str(pairs[1, pair]))
    n_low, n_high = (np.where(np.isnan(curves.n), fill, curves.n) for fill in (np.inf, -np.inf))
    names, name_at = np.unique(sets, return_inverse=True)
    expected = np.array([sizes.get(str(name), np.nan) for name in names])[name_at]
    wrong_n = ~np.isnan(expected) & ((n_low.min(axis=1) != expected) | (n_high.max(axis=1) != expected))
    cell_names, cell_at = np.unique(cells, return_inverse=True)
    other_set = (sets != np.array([usual[str(name)] for name in cell_names], np.str_)[cell_at]) | (curves.num_sets > 1)
    troubles: dict[int, list[str]] = {}
    for curve in np.flatnonzero(wrong_n | other_set):
        n, words = int(n_low[curve].min()), f"{cells[curve]} is scored on {sets[curve]}"
        words += f", {n} of its {int(expected[curve])} images" if wrong_n[curve] else f", other trials on {usual[str(cells[curve])]}"
        troubles.setdefault(int(curves.trial[curve]), []).append(words)
    unlisted = [str(name) for name in names if name not in sizes]
    seen, found = set(curves.trial.tolist()), []
    for place, key in enumerate(planned.keys):
        if place not in seen:
            found.append(result(check, key, "not_run", "no scores are stored"))
        elif mine := troubles.get(place):
            found.append(result(check, key, "fail", "; ".join(dict.fromkeys(mine)), float(len(mine)), 0.0))
        elif unlisted:
            text = f"the same sets as the other trials, but their sizes are not stored ({', '.join(unlisted)})"
            found.append(result(check, key, "warn", text, 0.0, 0.0))
        else:
            found.append(result(check, key, "pass", "the same images as every other trial, all of them", 0.0, 0.0))
    return found
