"""A quantity over the seeds of one variant, with the interval that it deserves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeper.report.trials import Trial
from sweeper.statistics import over_images, over_seeds, wilson


@dataclass(frozen=True)
class Value:
    """A mean, its 95 % interval, one value per seed, and what the interval is over: `seeds`, `images`, or nothing."""

    mean: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    over: str

    def scaled(self, factor: float) -> "Value":
        low, high = (None if bound is None else factor * bound for bound in (self.low, self.high))
        return Value(factor * self.mean, low, high, tuple(factor * value for value in self.seeds), self.over)


def of_images(shares: Sequence[NDArray | None]) -> Value | None:
    """Return the mean accuracy of some seeds, each given as a share in [0, 1] per image.

    Several seeds that differ: the t interval over seeds. One seed, or seeds that agree to the last digit (nothing in them was trained with the
    seed): over images, Wilson's where shares are 0 and 1, else that of `statistics.over_images`.
    """
    known = [np.asarray(share, dtype=np.float64) for share in shares if share is not None]
    if not known:
        return None
    means = tuple(float(share.mean()) for share in known)
    if len(set(means)) > 1:
        return of_seeds(means)
    first = known[0]
    is_binary = bool(np.isin(first, (0.0, 1.0)).all())
    estimate = over_images(first)
    low, high = wilson(round(first.sum()), first.size) if is_binary else (estimate.low, estimate.high)
    return Value(means[0], low, high, means, "images")


def of_seeds(values: Iterable[float | None]) -> Value | None:
    """Return the mean of one value per seed, with the t interval of S - 1 degrees of freedom; none for one seed, or seeds that agree exactly."""
    known = tuple(float(value) for value in values if value is not None)
    if not known:
        return None
    if len(set(known)) == 1:
        return Value(known[0], None, None, known, "")
    estimate = over_seeds(known)
    return Value(estimate.mean, estimate.low, estimate.high, known, "seeds")


def paired(first: Mapping[int, float | None], second: Mapping[int, float | None]) -> list[float]:
    """Return first - second for each seed that both have."""
    differences = [(first[seed], second.get(seed)) for seed in sorted(first)]
    return [one - other for one, other in differences if one is not None and other is not None]


def by_seed(trials: Iterable[Trial], shares: Iterable[NDArray | float | None]) -> dict[int, float | None]:
    """Return seed -> mean."""
    return {trial.seed: None if share is None else float(np.mean(share)) for trial, share in zip(trials, shares, strict=True)}


def percent(value: Value | None, digits: int = 1) -> str:
    """Return a share in words: `93.1 % [92.0, 94.2]`."""
    if value is None:
        return "not scored"
    return _in_words(value.scaled(100), digits, " %")


def points(value: Value | None) -> str:
    """Return a difference of shares in words: `-0.95 points [-1.20, -0.70]`."""
    return "not scored" if value is None else _in_words(value.scaled(100), 2, " points", "+")


def number(value: Value | None, unit: str = "") -> str:
    """Return a quantity in words, with four significant digits."""
    if value is None:
        return "not measured"
    bounds = "" if value.low is None or value.high is None else f" [{value.low:.4g}, {value.high:.4g}]"
    return f"{value.mean:.4g}{unit}{bounds}"


def _in_words(value: Value, digits: int, unit: str, sign: str = "") -> str:
    bounds = "" if value.low is None or value.high is None else f" [{value.low:{sign}.{digits}f}, {value.high:{sign}.{digits}f}]"
    return f"{value.mean:{sign}.{digits}f}{unit}{bounds}"
