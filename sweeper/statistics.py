"""How sure a number is: Wilson intervals, the area under a robustness curve, worst cases over attacks, means over seeds, paired tests,
and how small a difference a plan can detect.

Numpy and scipy.special only (scipy.stats takes more than a second to import). Confidence is 95 % unless said otherwise.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, nctdtrinc, ndtri, stdtr, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean with its spread. `low` and `high` are None where n = 1: one value says nothing about its own spread."""

    mean: float
    std: float | None  # of the values (n - 1), not of the mean
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Detectable:
    """The smallest true differences, as shares, that a test finds with the stated power; None where nothing can be tested."""

    checkpoints: float | None  # between two checkpoints, over images
    settings: float | None  # between two settings, over seeds; may exceed 1, which no accuracy can differ by


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share, both ends in [0, 1].

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927. Unlike the normal interval it stays inside [0, 1] and
    does not shrink to a point at 0 or n correct.

    Raises:
        ValueError: Unless 0 <= correct <= n and n >= 1.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"wilson needs 0 <= correct <= n and n >= 1, got correct {correct}, n {n}")
    z = _normal_quantile(confidence)
    share, spread = correct / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def worst_case(outcomes: Sequence[ArrayLike]) -> NDArray[np.bool_]:
    """Return which images survive every attack, bool (N,), from one outcome list (is it still correct?) per attack.

    This is the per-image worst case; the least of the attacks' accuracies would be larger.

    Raises:
        ValueError: If there is no list, or their lengths differ (they must be over the same images in the same order).
    """
    return np.logical_and.reduce(_stack("outcome lists", outcomes, np.bool_))


def worst_broken_at(curves: Sequence[ArrayLike]) -> NDArray[np.float32]:
    """Return at which epsilon the first of several attacks on one grid breaks each image, float32 (N,), infinity if none does."""
    return np.minimum.reduce(_stack("broken_at lists", curves, np.float32))


def area_under_curve(epsilons: ArrayLike, accuracy: ArrayLike, score_epsilon: float) -> float:
    """Return the mean height of an accuracy curve from epsilon 0 to score_epsilon, by trapezoids; in [0, 1].

    Args:
        epsilons: Ascending from 0; the last is at least score_epsilon. Between two points the curve is a line, also where score_epsilon cuts it.
        accuracy: One value in [0, 1] per epsilon, the clean accuracy first.
        score_epsilon: Where the area ends, > 0.
    """
    grid = np.asarray(epsilons, dtype=np.float64)
    return float(np.asarray(accuracy, dtype=np.float64) @ _trapezoid_weights(grid, score_epsilon))


def image_scores(broken_at: ArrayLike, epsilons: ArrayLike, score_epsilon: float, clean_outcomes: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return each image's own area under the curve, float (N,) in [0, 1]; their mean is `robust_score`.

    An image's curve is 1 where it is still correct and 0 from broken_at on. The mean of these curves is the accuracy curve and the area is linear,
    so the mean of the areas is the area under the accuracy curve, and their spread tells how sure it is.

    Args:
        broken_at: First epsilon of the grid that breaks each image, (N,): 0 if it is wrong unperturbed, infinity if none does. Compared in float32,
            as stored.
        epsilons: The attack's grid, ascending, with or without 0.
        score_epsilon: Where the area ends; at most the largest epsilon.
        clean_outcomes: Is each image correct unperturbed, (N,); where broken_at does not say so with a 0.
    """
    grid = np.asarray(epsilons, dtype=np.float64)
    if grid.size and grid[0] > 0:
        grid = np.concatenate([[0.0], grid])
    weights = _trapezoid_weights(grid, score_epsilon)
    broken = np.asarray(broken_at, dtype=np.float32)
    if clean_outcomes is not None:
        broken = np.where(_stack("outcomes", [clean_outcomes, broken > 0], np.bool_).all(axis=0), broken, np.float32(0))
    survived = broken[:, None] > grid.astype(np.float32)  # (N, E)
    return survived @ weights


def quartiles(values: ArrayLike) -> tuple[float, float, float]:
    """Return the least values that a quarter, half and three quarters of all do not exceed, without interpolation: infinity is a value like any."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    low, middle, high = (float(ordered[-(-ordered.size * share // 4) - 1]) for share in (1, 2, 3))
    return low, middle, high


def over_images(scores: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the mean of per-image values in [0, 1] with its interval over images: this checkpoint on other images, not another training.

    A normal interval in the manner of Agresti and Coull (1998): z²/2 imagined images at 0 and as many at 1 join its centre and its variance, so that
    it does not shrink to a point where every image is broken. For values of 0 and 1 it is theirs, a little wider than Wilson's. `mean` and `std`
    are those of the real images alone.
    """
    values = _values(scores)
    z = _normal_quantile(confidence)
    n = values.size + z * z
    middle = (values.sum() + z * z / 2) / n
    variance = (np.square(values).sum() + z * z / 2) / n - middle**2
    half = z * np.sqrt(variance / n)
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return Estimate(float(values.mean()), _std(values), values.size, low, high)


def over_seeds(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the mean of one value per training seed with the t interval of S - 1 degrees of freedom; no interval for one seed.

    Also for paired differences, seed by seed. Not clipped to [0, 1]: an interval that leaves it says that there are too few seeds.
    """
    seeds = _values(values)
    mean, std = float(seeds.mean()), _std(seeds)
    if std is None:
        return Estimate(mean, None, seeds.size, None, None)
    half = float(stdtrit(seeds.size - 1, 0.5 + confidence / 2)) * std / np.sqrt(seeds.size)
    return Estimate(mean, std, seeds.size, float(mean - half), float(mean + half))


def mixed_halves(sample_ids: Sequence[str], labels: Sequence[int]) -> NDArray[np.bool_]:
    """Return which images are attacked on the target, bool (N,), n // 2 of them; the others by transfer (paper, section 4.1: 50 % and 50 %).

    Stratified by class and keyed by sample id alone: in each class the ids are ordered by their SHA-256 and the first half is taken, so the halves
    are the same on every machine and in every order of the images. Of the classes with an odd number of images the lowest take one more, until
    there are n // 2.

    Raises:
        ValueError: If the two lists differ in length, or an id is there twice.
    """
    if len(sample_ids) != len(labels) or len(set(sample_ids)) != len(sample_ids):
        raise ValueError(
            f"halves need one label per unique sample id, got {len(sample_ids)} ids ({len(set(sample_ids))} unique), {len(labels)} labels"
        )
    classes: dict[int, list[int]] = defaultdict(list)
    for position in sorted(range(len(labels)), key=lambda position: hashlib.sha256(sample_ids[position].encode()).digest()):
        classes[labels[position]].append(position)
    extra = len(labels) // 2 - sum(len(members) // 2 for members in classes.values())
    halves = np.zeros(len(labels), dtype=np.bool_)
    for label in sorted(classes):
        members = classes[label]
        more = len(members) % 2 if extra > 0 else 0
        extra -= more
        halves[members[: len(members) // 2 + more]] = True
    return halves


def paper_mix(graybox: ArrayLike, transfer: Sequence[ArrayLike], halves: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return each image's share of the paper's pooled accuracy, float (N,) in [0, 1]; their mean is the accuracy.

    The paper pools two threat models (section 4.1), so this figure never stands without its halves.

    Args:
        graybox: Is each image still correct when crafted on the target, (N,).
        transfer: The same when crafted on other classifiers: one list where each image was crafted on one of them, several where it was on each.
        halves: Which images count as attacked on the target (`mixed_halves`); the others count by transfer. None: every image counts half by the
            first and half by the mean over the transfer lists.
    """
    stacked = _stack("outcome lists", [graybox, *transfer], np.bool_).astype(np.float64)
    if len(stacked) < 2:
        raise ValueError("paper_mix needs at least one transfer list, got none")
    white, black = stacked[0], stacked[1:].mean(axis=0)
    if halves is None:
        return (white + black) / 2
    return np.where(_stack("halves and outcome lists", [halves, stacked[0] > 0], np.bool_)[0], white, black)


def mcnemar(first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Return how many images only the first gets right, how many only the second, and the exact two-sided p-value of McNemar's test.

    It compares two checkpoints on the same images, and says nothing about two settings: another seed moves either of them further than this.
    Under the null the discordant images fall on either side like a fair coin (McNemar, 1947), so p is binomial, 1 without discordant images.
    """
    stacked = _stack("outcome lists", [first, second], np.bool_)
    only_first, only_second = int((stacked[0] & ~stacked[1]).sum()), int((stacked[1] & ~stacked[0]).sum())
    p_value = 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5))
    return only_first, only_second, min(1.0, p_value)


def paired_over_images(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the mean of second - first with its interval over the same images, for shares that differ by single images.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005: half an image joins each of the four cells, so
    the interval does not shrink to a point where no image differs. `mean` and `std` are those of the real images alone.
    """
    only_first, only_second, _ = mcnemar(first, second)
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n, gained, lost = difference.size + 2, only_second + 0.5, only_first + 0.5
    middle = (gained - lost) / n
    half = _normal_quantile(confidence) * np.sqrt((gained + lost) / n - middle**2) / np.sqrt(n)
    return Estimate(float(difference.mean()), _std(difference), difference.size, float(middle - half), float(middle + half))


def t_test(differences: ArrayLike) -> float:
    """Return the two-sided p-value of one paired difference per seed against 0 (Student's t, S - 1 degrees of freedom).

    Differences that agree exactly have no spread to be tested against: 1. Accuracies are counts, so a few seeds may agree by chance.

    Raises:
        ValueError: For fewer than two seeds: one says nothing about a setting.
    """
    values = _values(differences)
    std = _std(values)
    if std is None:
        raise ValueError("a test over seeds needs at least two, got 1")
    mean = float(values.mean())
    if std <= 1e-12 * abs(mean):
        return 1.0
    return float(2 * stdtr(values.size - 1, -abs(mean) / std * np.sqrt(values.size)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for how many there are, in their order: below 0.05 the family's error is.

    Holm, "A simple sequentially rejective multiple test procedure", 1979: the smallest times m, the next times m - 1, never less than one before.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def detectable(n_images: int, n_seeds: int, *, seed_std: float = 0.12, power: float = 0.8, level: float = 0.05) -> Detectable:
    """Return the smallest differences that so many images and seeds can detect, in one two-sided test.

    Checkpoints: McNemar's test by the normal approximation (Connor, "Sample size for testing differences in proportions for the paired-sample
    design", 1987; the exact test needs a little more), at accuracy 0.5 and with errors that have nothing to do with each other, so that half of the
    images are discordant: checkpoints that err on the same images need less. Settings: the noncentral t distribution of the paired difference of two
    settings whose seeds have nothing to do with each other, so its standard deviation is seed_std * sqrt(2).

    Args:
        seed_std: Assumed standard deviation of a setting's figure over its training seeds. The default is that of robust_score on the digits for
            the settings that vary; it is 1 to 14 points there, by setting, so the answer is a guide.

    Raises:
        ValueError: Unless both counts are at least 1, seed_std is positive, and 0 < level < power < 1.
    """
    if n_images < 1 or n_seeds < 1 or not seed_std > 0 or not 0 < level < power < 1:
        raise ValueError(
            f"detectable needs n_images >= 1, n_seeds >= 1, seed_std > 0 and 0 < level < power < 1, got n_images {n_images}, n_seeds {n_seeds}, "
            f"seed_std {seed_std:g}, level {level:g}, power {power:g}"
        )
    discordant = 0.5
    z_level, z_power = float(ndtri(1 - level / 2)), float(ndtri(power))
    # n d² = (z_level sqrt(discordant) + z_power sqrt(discordant - d²))², solved for d
    square = max(0.0, discordant * (n_images * z_power**2 - z_power**2 * (z_level**2 - z_power**2)))
    found = float((z_level * np.sqrt(n_images * discordant) + np.sqrt(square)) / (n_images + z_power**2))
    checkpoints = found if found < discordant else None  # more than all discordant images on one side
    if n_seeds == 1:
        return Detectable(checkpoints, None)
    critical = float(stdtrit(n_seeds - 1, 1 - level / 2))
    noncentrality = float(nctdtrinc(n_seeds - 1, 1 - power, critical))  # the other tail is below 1e-10
    return Detectable(checkpoints, noncentrality * seed_std * float(np.sqrt(2 / n_seeds)))


def _trapezoid_weights(grid: NDArray[np.float64], score_epsilon: float) -> NDArray[np.float64]:
    """Return what each point of a curve contributes to its mean height from 0 to score_epsilon; they sum to 1."""
    if grid.ndim != 1 or grid.size < 2 or grid[0] != 0 or not (np.diff(grid) > 0).all():
        raise ValueError(f"epsilons must ascend from 0, at least two of them, got {grid.tolist()}")
    if not 0 < score_epsilon <= grid[-1] * (1 + 1e-6):
        raise ValueError(f"score_epsilon must be above 0 and within the grid, which ends at {grid[-1]:g}, got {score_epsilon:g}")
    weights = np.zeros_like(grid)
    for left in range(grid.size - 1):
        width = grid[left + 1] - grid[left]
        covered = min(max(score_epsilon - grid[left], 0.0), width)
        if abs(covered - width) < 1e-6 * width:  # 8/255 and its float32 are the same point
            covered = width
        reach = covered / width  # the curve at the cut is (1 - reach) left + reach right
        weights[left] += covered * (2 - reach) / 2
        weights[left + 1] += covered * reach / 2
    return weights / weights.sum()


def _stack(what: str, lists: Sequence[ArrayLike], dtype: type[np.generic]) -> NDArray:
    arrays = [np.asarray(values, dtype=dtype) for values in lists]
    if not arrays or any(array.shape != arrays[0].shape or array.ndim != 1 for array in arrays):
        raise ValueError(f"{what} must be at least one, over the same images, got lengths {[array.size for array in arrays]}")
    return np.stack(arrays)


def _values(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"a mean needs at least one value, got shape {array.shape}")
    return array


def _std(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if values.size > 1 else None


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return float(ndtri(0.5 + confidence / 2))
