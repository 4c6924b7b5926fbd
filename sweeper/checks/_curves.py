"""The scores of a plan as arrays: one line per curve (trial, threat, attack, source, classifier), one column per epsilon.

A sweep has hundreds of thousands of rows; read once, without their outcome lists, and judged a whole column at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweeper.checks._result import Planned

if TYPE_CHECKING:
    import pyarrow as pa

ADAPTIVE = ("adaptive", "adaptive_bpda", "adaptive_soft")  # threats whose attacker differentiates through the defense
COLUMNS = ("trial_id", "evaluation_id", "attack", "epsilon", "threat", "source", "classifier", "sample_set", "n", "correct", "ci_low", "ci_high",
           "achieved_epsilon", "carried_over", "attack_settings")  # fmt: skip
_LABELS = ("threat", "attack", "source", "classifier")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """C curves over at most E epsilons each, ascending; NaN behind a shorter curve's end and where a value was not stored.

    Attributes:
        trial: (C,) place of each curve's trial in the plan.
        labels: threat, attack, source, classifier and sample_set -> (C,) of names; `engine` is the attack without the mark of its settings.
        settings: (C,) JSON of the attack's settings, "" where it was not stored.
        family: (C,) the same number for the attacks of one trial, threat, source and classifier.
        epsilon, accuracy, half, n, achieved, carried_over: (C, E). `half`: half the width of the 95 % interval.
        num_sets: (C,) number of sample sets of a curve: 1, or the curve is none.
        is_final: (C,) is it about the trial's final classifier: the retrained one where there is one.
    """

    trial: NDArray[np.int64]
    labels: Mapping[str, NDArray[np.str_]]
    settings: NDArray[np.object_]
    family: NDArray[np.int64]
    epsilon: Floats
    accuracy: Floats
    half: Floats
    n: Floats
    achieved: Floats
    carried_over: Floats
    num_sets: NDArray[np.int64]
    is_final: NDArray[np.bool_]

    def where(self, threats: Sequence[str], attacks: Sequence[str] | None = None) -> NDArray[np.bool_]:
        """Return which curves are of these threats (and attacks, whatever their settings: `pgd` finds `pgd#3f2a1c`), bool (C,)."""
        found = np.isin(self.labels["threat"], list(threats))
        return found if attacks is None else found & np.isin(self.labels["engine"], list(attacks))

    def at(self, epsilon: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which curves have a point at this epsilon, bool (C,), and in which column, int (C,)."""
        near = np.abs(self.epsilon - epsilon) < 1e-9
        return np.any(near, axis=1, keepdims=True)[:, 0], near.argmax(axis=1)

    def name(self, curve: int, column: int | None = None) -> str:
        """Return `graybox/pgd@0.1`, for messages."""
        text = f"{self.labels['threat'][curve]}/{self.labels['attack'][curve]}"
        return text if column is None else f"{text}@{self.epsilon[curve, column]:g}"


def curves_of(scores: "pa.Table", planned: Planned) -> Curves:
    """Return the curves of the planned trials from the columns `COLUMNS` of table scores."""
    trial_code, trial_names = _coded(scores, "trial_id")
    evaluation_code, evaluation_names = _coded(scores, "evaluation_id")
    place = np.full((len(trial_names), len(evaluation_names)), -1, dtype=np.int64)
    trial_at, evaluation_at = ({name: code for code, name in enumerate(names)} for names in (trial_names, evaluation_names))
    for (trial_id, evaluation_id), index in planned.index.items():
        if trial_id in trial_at and evaluation_id in evaluation_at:
            place[trial_at[trial_id], evaluation_at[evaluation_id]] = index
    trial = place[trial_code, evaluation_code] if len(trial_code) else np.zeros(0, np.int64)
    kept = np.flatnonzero(trial >= 0)
    trial = trial[kept]

    coded = {name: _coded(scores, name) for name in (*_LABELS, "sample_set", "attack_settings")}
    family = trial.copy()
    for name in ("threat", "source", "classifier"):
        family = family * (len(coded[name][1]) + 1) + coded[name][0][kept]
    group = family * (len(coded["attack"][1]) + 1) + coded["attack"][0][kept]
    epsilon = _floats(scores, "epsilon")[kept]
    order = np.lexsort((epsilon, group))
    kept, group, family, trial = (values[order] for values in (kept, group, family, trial))
    epsilon = epsilon[order]
    is_first = np.concatenate([[True], group[1:] != group[:-1]]) if len(group) else np.zeros(0, bool)
    starts, curve = np.flatnonzero(is_first), np.cumsum(is_first) - 1
    column = np.arange(len(group)) - starts[curve]
    width = int(column.max()) + 1 if len(column) else 1

    def matrix(values: Floats) -> Floats:
        out = np.full((len(starts), width), np.nan)
        out[curve, column] = values
        return out

    def named(name: str, dtype: type = np.str_) -> NDArray:
        codes, names = coded[name]
        return np.array([*names, ""], dtype=dtype)[codes[kept][starts]]  # -1, for null, is the last

    sets = coded["sample_set"][0][kept]
    n, correct = _floats(scores, "n")[kept], _floats(scores, "correct")[kept]
    labels = {name: named(name) for name in (*_LABELS, "sample_set")}
    labels["engine"] = np.char.partition(labels["attack"], "#")[:, 0] if len(starts) else labels["attack"]
    changed = np.zeros(len(starts), np.int64)
    np.add.at(changed, curve, (sets != sets[starts][curve]).astype(np.int64))
    retrained = np.zeros(len(planned.rows), np.bool_)
    retrained[trial[starts][labels["classifier"] == "retrained"]] = True
    is_final = labels["classifier"] == np.where(retrained[trial[starts]], "retrained", "original")
    achieved = _floats(scores, "achieved_epsilon")[kept]
    is_stored = ~scores.column("achieved_epsilon").is_null().to_numpy(zero_copy_only=False)[kept]
    achieved = np.where(is_stored & np.isnan(achieved), np.inf, achieved)  # a perturbation that is NaN is in no ball
    return Curves(
        trial[starts], labels, named("attack_settings", object), family[starts], matrix(epsilon), matrix(correct / n),
        matrix((_floats(scores, "ci_high")[kept] - _floats(scores, "ci_low")[kept]) / 2), matrix(n), matrix(achieved),
        matrix(_floats(scores, "carried_over")[kept]), 1 + changed, is_final,
    )  # fmt: skip


def worst_per_trial(planned: Planned, curves: Curves, margin: Floats) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Return each trial's largest value of a (C, E) matrix, and the curve and column it stands in; NaN and -1 where it has none."""
    best = np.where(np.isnan(margin), -np.inf, margin)
    column = best.argmax(axis=1) if best.shape[0] else np.zeros(0, np.int64)
    top = best[np.arange(len(best)), column]
    worst = np.full(len(planned.rows), -np.inf)
    np.maximum.at(worst, curves.trial, top)
    at = np.full(len(planned.rows), -1, dtype=np.int64)
    hit = np.flatnonzero((top == worst[curves.trial]) & (top > -np.inf))
    at[curves.trial[hit[::-1]]] = hit[::-1]
    return np.where(at >= 0, worst, np.nan), at, np.where(at >= 0, column[at] if len(column) else 0, -1)


def _coded(table: "pa.Table", name: str) -> tuple[NDArray[np.int64], list[Any]]:
    """Return a column of names as numbers, -1 where it is null, and the names."""
    encoded: Any = table.column(name).combine_chunks().dictionary_encode()
    if hasattr(encoded, "chunks"):
        encoded = encoded.combine_chunks()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def _floats(table: "pa.Table", name: str) -> Floats:
    return table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) if table.num_rows else np.zeros(0)
