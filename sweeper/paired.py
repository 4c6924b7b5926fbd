"""Are two settings different? The same quantity of both, seed by seed, tested over the seeds. Pure: no tables, no files.

A statement about a setting takes the training seed as its unit. Tests over images speak of two checkpoints, and find differences between identical
settings in four of five cases (`benchmarks/pooled_mcnemar.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.statistics import Estimate, holm, over_seeds, t_test

LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """One setting minus the other, for each seed that both have. `p_holm` is None where nothing was tested: fewer than two such seeds."""

    differences: dict[int, float]
    estimate: Estimate | None  # None without a common seed
    p_value: float | None
    p_holm: float | None

    @property
    def verdict(self) -> str:
        """Return `higher`, `lower`, `not distinguishable` (at 5 % over the whole family) or `not tested`."""
        if self.p_holm is None or self.estimate is None:
            return "not tested"
        if self.p_holm >= LEVEL:
            return "not distinguishable"
        return "higher" if self.estimate.mean > 0 else "lower"


def paired_over_seeds(settings: Mapping[str, Mapping[int, float]], against: Mapping[int, float]) -> dict[str, Paired]:
    """Return each setting minus `against`, with its t interval, p-value and the p-value adjusted by Holm over all the settings given.

    Every setting counts in the family, also one with fewer than two common seeds (its p is then 1): what was declared is what is corrected for,
    and a failed trial makes no other row significant.

    Args:
        settings: Name -> seed -> value.
        against: Seed -> value of what they are compared with.
    """
    differences = {name: {seed: values[seed] - against[seed] for seed in sorted(values) if seed in against} for name, values in settings.items()}
    p_values = {name: t_test(list(found.values())) if len(found) >= 2 else None for name, found in differences.items()}
    adjusted = dict(zip(p_values, holm([1.0 if p is None else p for p in p_values.values()]), strict=True))
    return {
        name: Paired(found, over_seeds(list(found.values())) if found else None, p_values[name], None if p_values[name] is None else adjusted[name])
        for name, found in differences.items()
    }
