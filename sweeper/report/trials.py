"""A plan's variants with their seeds, and what each trial scored: the accuracies that tables, figures and claims ask for."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.checks._grouping import worst_first
from sweeper.checks._result import Result
from sweeper.checks.catalogue import CHECKS
from sweeper.checks.gate import failures
from sweeper.statistics import image_scores, mixed_halves, paper_mix, worst_broken_at

Row = dict[str, Any]
Outcomes = NDArray[np.bool_]

PAPER_ATTACKS = ("fgsm", "bim", "pgd", "cw", "cw_l2")
ADAPTIVE = ("adaptive", "adaptive_bpda", "adaptive_soft")


def same(first: float, second: float) -> bool:
    """Say whether two epsilons are one point of a grid: 8/255 and its float32 are."""
    return abs(first - second) < 1e-6


def base_name(attack: str) -> str:
    """Return an attack's name without the hash of its settings."""
    return attack.partition("#")[0]


@dataclass(frozen=True)
class SampleSet:
    """The order of some outcome lists."""

    ids: tuple[str, ...]
    labels: tuple[int, ...]

    @cached_property
    def halves(self) -> Outcomes:
        return mixed_halves(self.ids, self.labels)


@dataclass(frozen=True)
class Score:
    """One row of `scores`: is each image still correct, and for one row per adaptive curve, where each image breaks."""

    threat: str
    attack: str
    epsilon: float
    source: str
    classifier: str
    sample_set: str
    outcomes: Outcomes
    broken_at: NDArray[np.float32] | None
    labels: str = "true"  # the attack led away from the true class, or from the predicted one


@dataclass(frozen=True)
class Trial:
    """A completed trial under one evaluation."""

    trial_id: str
    seed: int
    settings: Row  # its row of `trials`
    scores: tuple[Score, ...]
    latents: tuple[Row, ...]
    epochs: tuple[Row, ...]
    sets: Mapping[str, SampleSet]

    @property
    def final(self) -> str:
        """Return which classifier the defense ends in."""
        return "original" if self.settings.get("retrain") in (None, "none") else "retrained"

    @cached_property
    def _by_cell(self) -> dict[tuple[str, str, str], list[Score]]:
        found: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
        for score in self.scores:
            found[score.threat, score.attack, score.classifier].append(score)
        return found

    def attacks(self, *threats: str) -> list[str]:
        """Return the attacks of these threats on the final classifier, the paper's first."""
        names = {score.attack for score in self.scores if score.threat in threats and score.classifier == self.final}
        order = {name: place for place, name in enumerate(PAPER_ATTACKS)}
        return sorted(names, key=lambda name: (order.get(base_name(name), len(order)), name))

    def epsilons(self, threat: str, attack: str) -> list[float]:
        return sorted({score.epsilon for score in self._by_cell.get((threat, attack, self.final), [])})

    def _at(self, threat: str, attack: str, epsilon: float) -> list[Score]:
        return [score for score in self._by_cell.get((threat, attack, self.final), []) if same(score.epsilon, epsilon)]

    def clean(self, classifier: str | None = None, sample_set: str | None = None) -> Outcomes | None:
        """Return the outcomes on clean images, of the final classifier by default; None if they (or one of a set's images) are not there."""
        for score in self._by_cell.get(("clean", "none", classifier or self.final), []):
            if sample_set is None or sample_set == score.sample_set:
                return score.outcomes
            if sample_set in self.sets and score.sample_set in self.sets:
                places = {name: place for place, name in enumerate(self.sets[score.sample_set].ids)}
                wanted = self.sets[sample_set].ids
                if all(name in places for name in wanted):
                    return score.outcomes[[places[name] for name in wanted]]
        return None

    def static(self, threat: str, attack: str, epsilon: float) -> NDArray[np.float64] | None:
        """Return each image's share of the accuracy under gray-box or transfer attack, (N,): the mean over the sources where there are several."""
        if epsilon == 0:
            return self._unperturbed([score.sample_set for score in self._by_cell.get((threat, attack, self.final), [])])
        found = self._at(threat, attack, epsilon)
        return np.mean([score.outcomes for score in found], axis=0) if found else None

    def mixed(self, attack: str, epsilon: float) -> NDArray[np.float64] | None:
        """Return each image's share of the paper's pooled accuracy, (N,), see `paper_mix`; None if one of the two threats is missing."""
        if epsilon == 0:
            return self.static("graybox", attack, 0)
        white, black = self._at("graybox", attack, epsilon), self._at("transfer", attack, epsilon)
        if not white or not black or white[0].sample_set != black[0].sample_set:
            return None
        if len(black) > 1:
            return paper_mix(white[0].outcomes, [score.outcomes for score in black])
        samples = self.sets.get(white[0].sample_set)
        return paper_mix(white[0].outcomes, [black[0].outcomes], samples.halves) if samples else None

    def worst_mixed(self, epsilon: float) -> NDArray[np.float64] | None:
        """Return each image's share of the pooled accuracy under the attack that leaves least of it."""
        return _lowest(self.mixed(attack, epsilon) for attack in self.attacks("graybox"))

    def worst_static(self, threat: str, epsilon: float) -> NDArray[np.float64] | None:
        """Return each image's share of the accuracy under the attack of `graybox` or `transfer` that leaves least of it."""
        return _lowest(self.static(threat, attack, epsilon) for attack in self.attacks(threat))

    def _unperturbed(self, sample_sets: Sequence[str]) -> NDArray[np.float64] | None:
        outcomes = self.clean(sample_set=sample_sets[0]) if sample_sets else None
        return None if outcomes is None else outcomes.astype(np.float64)

    @cached_property
    def adaptive_broken_at(self) -> NDArray[np.float32] | None:
        """Return at which epsilon the first of all adaptive attacks breaks each image, (N,)."""
        curves = [score.broken_at for score in self.scores if score.threat in ADAPTIVE and score.classifier == self.final]
        curves = [curve for curve in curves if curve is not None]
        return worst_broken_at(curves) if curves else None

    @property
    def adaptive_epsilons(self) -> list[float]:
        return sorted({score.epsilon for score in self.scores if score.threat in ADAPTIVE and score.classifier == self.final})

    def adaptive(self, epsilon: float) -> NDArray[np.float64] | None:
        """Return which images survive every adaptive attack at this epsilon of the grid (0: unperturbed), (N,)."""
        if self.adaptive_broken_at is None or not (epsilon == 0 or any(same(epsilon, known) for known in self.adaptive_epsilons)):
            return None
        return (self.adaptive_broken_at > np.float32(epsilon) * (1 + 1e-6)).astype(np.float64)

    def robust_score(self, score_epsilon: float) -> NDArray[np.float64] | None:
        """Return each image's own area under the worst case of the adaptive attacks, (N,), see `statistics.image_scores`."""
        if self.adaptive_broken_at is None:
            return None
        return image_scores(self.adaptive_broken_at, self.adaptive_epsilons, score_epsilon)


@dataclass(frozen=True)
class Variant:
    """One configuration under one evaluation, with its completed trials, seeds ascending, and what the reviewer's checks say of them."""

    label: str
    factor: str
    level: str
    is_reference: bool
    evaluation_id: str
    planned_seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    checks: tuple[Result, ...] = ()

    @cached_property
    def failed(self) -> tuple[Result, ...]:
        """Return its failed validity checks: with one, at any seed, it is not ranked."""
        return tuple(one for failed in failures(self.checks).values() for one in failed)

    @property
    def unranked(self) -> str:
        """Return `unranked: C9, C13`, or nothing where no validity check fails."""
        names = {one.check for one in self.failed}
        ordered = [*(name for name in CHECKS if name in names), *sorted(names - set(CHECKS))]
        return f"unranked: {', '.join(ordered)}" if ordered else ""

    def worst(self, check: str) -> Result | None:
        """Return the worst that a check says of any of its trials."""
        return next(iter(worst_first([one for one in self.checks if one.check == check])), None)

    @property
    def settings(self) -> Row:
        """Return the settings of the first completed trial, without which nothing is known but the label."""
        return self.trials[0].settings if self.trials else {}

    @property
    def is_undefended(self) -> bool:
        row = self.settings
        return row.get("model") == "identity" and row.get("retrain") == "none" and row.get("adversary") in (None, "none")


@dataclass(frozen=True)
class Material:
    """Everything that a report of one plan is made from."""

    sweep: str
    plan_hash: str
    dataset: str
    scale: str
    evaluation: str
    score_epsilon: float
    variants: tuple[Variant, ...]  # the reference first, then by factor and level
    troubles: tuple[str, ...] = ()  # failed and missing trials, by name
    runs: tuple[Row, ...] = ()
    skipped: tuple[str, ...] = ()
    planned: tuple[Row, ...] = ()  # its rows of `sweeps`
    checks: tuple[Result, ...] = ()  # of all completed trials, in the order of `run_checks`
    split: str = "test"  # whose images everything is scored on

    @property
    def undefended(self) -> Variant | None:
        return next((variant for variant in self.variants if variant.is_undefended and variant.trials), None)

    @property
    def trials(self) -> list[Trial]:
        return [trial for variant in self.variants for trial in variant.trials]

    @property
    def reference_evaluation(self) -> str:
        return next((variant.evaluation_id for variant in self.variants if variant.is_reference), self.variants[0].evaluation_id)


def _lowest(shares: Iterable[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:
    return min((share for share in shares if share is not None), key=lambda share: float(share.mean()), default=None)
