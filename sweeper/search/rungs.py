"""Which trials may go on from a rung. Pure: from what every trial reached there.

A rung is a smaller trial of its own (so many epochs, the quick evaluation, validation images), stored under its own name like any other. So nothing
is stopped halfway: a trial goes on by being run at full length, or is left where it is. This is asynchronous successive halving as its authors
state it, by promotion (Li et al., "A system for massively parallel hyperparameter tuning", 2020, algorithm 2, arXiv:1810.05934); with several
objectives trials are ordered by dominance first (Schmucker et al., 2021, arXiv:2106.12639).
"""

import random
from bisect import insort
from collections.abc import Collection, Mapping, Sequence

import numpy as np

MEDIAN_AFTER = 4  # trials at a rung before the median stops any
_ENOUGH = 100  # trials, after which the share that goes on hardly falls any more


def promotable(reached: Mapping[int, tuple[float, ...]], promoted: Collection[int], *, scheduler: str, reduction: int) -> list[int]:
    """Return the trials that may go on from a rung and have not yet, best first.

    Args:
        reached: Trial -> its objectives there, more is better.
        promoted: Those that have gone on.
        scheduler: `asha`, `halving`: the best reduction-th part of those that reached the rung, rounded down. `median`: those not below the median
            of all of them; all, while there are fewer than 4. `none`: all.
    """
    ranked = order(reached)
    if scheduler in ("asha", "halving"):
        ranked = ranked[: len(ranked) // reduction]
    elif scheduler == "median" and len(ranked) >= MEDIAN_AFTER:
        middle = float(np.median([reached[number][0] for number in ranked]))
        ranked = [number for number in ranked if reached[number][0] >= middle]
    return [number for number in ranked if number not in promoted]


def order(reached: Mapping[int, tuple[float, ...]]) -> list[int]:
    """Return the trials best first: by how many layers of dominance lie above each, then by the mean of its ranks over the objectives.

    For one objective that is the order of its values. The earlier trial comes first where nothing tells two apart.
    """
    numbers = sorted(reached)
    if not numbers:
        return []
    values = np.array([reached[number] for number in numbers], dtype=np.float64)  # (N, objectives)
    layers = layer_of(values)
    ranks = np.mean([(column[:, None] > column).sum(axis=0) for column in values.T], axis=0)  # of each the better ones, mean over objectives
    return [numbers[i] for i in sorted(range(len(numbers)), key=lambda i: (layers[i], ranks[i], numbers[i]))]


def layer_of(values: np.ndarray | Sequence[Sequence[float]]) -> list[int]:
    """Return for each row how many fronts lie before its own, 0 for those that no other dominates; more is better in every column."""
    points = np.asarray(values, dtype=np.float64)
    at_least = np.ones((len(points), len(points)), dtype=bool)  # [i, j]: i is at least as good as j in every column
    better = np.zeros_like(at_least)  # and better in one
    for column in points.T:
        at_least &= column[:, None] >= column
        better |= column[:, None] > column
    dominates = at_least & better
    above = dominates.sum(axis=0)  # how many of those that are left dominate each
    layers = np.full(len(points), -1)
    layer = 0
    while (front := np.flatnonzero((layers < 0) & (above == 0))).size:
        layers[front] = layer
        above -= dominates[front].sum(axis=0)
        layer += 1
    return layers.tolist()


def promoted_share(trials: int, *, scheduler: str, reduction: int) -> float:
    """Return the share of trials that go on from a rung, where as many reach it one after the other in random order: more than one in `reduction`.

    A trial is promoted when it is among the best so far, and is not called back when later ones are better. The mean of 16 orders.
    """
    if trials < 1:
        return 0.0
    draw, went_on = random.Random(0), 0
    for _ in range(16):
        best: list[float] = []  # ascending
        promoted: set[float] = set()
        for _ in range(min(trials, _ENOUGH)):
            insort(best, draw.random())
            size = len(best)
            count = (size + 1) // 2 if scheduler == "median" and size >= MEDIAN_AFTER else size // reduction if scheduler != "median" else size
            promoted.update(best[size - count :])
        went_on += len(promoted)
    return went_on / (16 * min(trials, _ENOUGH))
