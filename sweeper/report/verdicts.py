"""When a sentence holds, when it fails, and when the data does not decide it.

A sentence about a system is about its setting, so the seed is the unit: t tests over seeds, Holm over everything that the sentence says at once.
With one seed nothing is tested between settings. What no seed changes (the undefended target) is judged over images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from sweeper.report.content import Claim
from sweeper.report.values import Value
from sweeper.statistics import holm, t_test

Verdict = Literal["holds", "fails", "undecided", "not tested"]
LEVEL = 0.05


class Judged(NamedTuple):
    verdict: Verdict
    why: str


def by_seeds(margins: Mapping[str, Sequence[float]]) -> Judged:
    """Judge a sentence that says that each of some quantities is above 0.

    It holds if every mean is positive and every one is significant (Holm over them, p < 0.05); it fails if at least one is significantly negative;
    else it is undecided.

    Args:
        margins: Name -> one value per seed, above 0 where the sentence is right.
    """
    if not margins or any(not values for values in margins.values()):
        return Judged("not tested", "what it needs was not measured")
    if any(len(values) < 2 for values in margins.values()):
        return Judged("not tested", "one seed says nothing about a setting: another can move these figures further than they differ; run 3 or more")
    adjusted = dict(zip(margins, holm([t_test(values) for values in margins.values()]), strict=True))
    means = {name: sum(values) / len(values) for name, values in margins.items()}
    least = min(len(values) for values in margins.values())
    basis = f"t test over {least} seeds, Holm over {len(margins)} comparison{'s' * (len(margins) > 1)}"
    if wrong := [name for name in margins if means[name] < 0 and adjusted[name] < LEVEL]:
        return Judged("fails", f"{basis}: significantly the other way at {_listed(wrong)}")
    if open_ := [name for name in margins if means[name] <= 0 or adjusted[name] >= LEVEL]:
        against = [name for name in open_ if means[name] <= 0]
        words = f"the mean points the other way at {_listed(against)}" if against else f"not significant at {_listed(open_)}"
        if agreeing := [name for name in open_ if len(set(margins[name])) == 1]:
            words += f"; the seeds agree exactly, which leaves no spread to test against, at {_listed(agreeing)}"
        return Judged("undecided", f"{basis}: {words}")
    return Judged("holds", basis)


def by_interval(values: Mapping[str, Value | None], bound: float, *, above: bool) -> Judged:
    """Judge a sentence that says that each of some accuracies is above (or below) a bound.

    It holds if every 95 % interval lies on that side, fails if one lies wholly on the other, and is undecided if an interval contains the bound.
    """
    if not values or any(value is None or value.low is None or value.high is None for value in values.values()):
        return Judged("not tested", "what it needs was not measured")
    known = {name: value for name, value in values.items() if value is not None and value.low is not None and value.high is not None}
    right: Callable[[float], bool] = (lambda x: x >= bound) if above else (lambda x: x < bound)
    over = " and ".join(sorted({value.over for value in known.values()}))
    basis = f"95 % intervals over {over}"
    if wrong := [name for name, value in known.items() if not right(value.low or 0.0) and not right(value.high or 0.0)]:
        return Judged("fails", f"{basis}; not so at {_listed(wrong)}")
    if open_ := [name for name, value in known.items() if not (right(value.low or 0.0) and right(value.high or 0.0))]:
        return Judged("undecided", f"{basis}: the interval contains the bound at {_listed(open_)}")
    return Judged("holds", basis)


def claim(text: str, where: str, judged: Judged, measured: str, more: str = "") -> Claim:
    return Claim(text, where, judged.verdict, measured, "; ".join(words for words in (judged.why, more) if words))


def untested(text: str, where: str, why: str, measured: str = "nothing") -> Claim:
    return Claim(text, where, "not tested", measured, why)


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
