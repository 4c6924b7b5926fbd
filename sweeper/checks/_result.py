"""What a check is and what it says about one trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["validity", "claim", "advice"]
Outcome = Literal["pass", "warn", "fail", "not_run", "not_applicable"]
Key = tuple[str, str]  # trial_id and evaluation_id: one trial may be scored in several ways

RUN = ("pass", "warn", "fail")


@dataclass(frozen=True)
class Check:
    """One question a reviewer asks.

    Attributes:
        name: Its number, `C8`.
        title: What holds where it passes, as a short sentence.
        kind: `validity`: a trial that fails is not ranked; `claim`: decides which sentences may be printed; `advice`: is worth knowing.
        citation: On whose word.
        needs: Why the tables alone do not answer it; empty where they do.
    """

    name: str
    title: str
    kind: Kind
    citation: str
    needs: str = ""


class Result(NamedTuple):
    """What one check says about one trial under one evaluation. `value` and `threshold` in the units of the message; None where there is none."""

    check: str
    trial_id: str
    evaluation_id: str
    kind: Kind
    outcome: Outcome
    value: float | None
    threshold: float | None
    message: str

    @property
    def key(self) -> Key:
        return self.trial_id, self.evaluation_id


@dataclass(frozen=True)
class Planned:
    """The completed trials of a plan, one entry per (trial, evaluation), in the order of the plan.

    Attributes:
        rows: The rows of `sweeps`, one per key.
        trials: trial_id -> its row of `trials`, the columns that the checks read.
        keys, index: (trial_id, evaluation_id) of each row, and key -> its place.
    """

    rows: Sequence[Mapping[str, Any]]
    trials: Mapping[str, Mapping[str, Any]]
    keys: Sequence[Key] = field(init=False)
    index: Mapping[Key, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", [(row["trial_id"], row["evaluation_id"]) for row in self.rows])
        object.__setattr__(self, "index", {key: place for place, key in enumerate(self.keys)})

    def trial(self, place: int) -> Mapping[str, Any]:
        return self.trials[self.rows[place]["trial_id"]]

    def is_undefended(self, place: int) -> bool:
        """Say whether this is the target alone: no purifier, and not tuned."""
        trial = self.trial(place)
        return trial["model"] == "identity" and trial["retrain"] == "none"


def result(check: Check, key: Key, outcome: Outcome, message: str, value: float | None = None, threshold: float | None = None) -> Result:
    """Return a result of the check's own kind."""
    return Result(check.name, *key, check.kind, outcome, value, threshold, message)
