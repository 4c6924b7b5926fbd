"""What a search is made of: suggestions, the steps that they are run in, and how far each is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.search.study import Proposal

Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Failure:
    """Why a step has no figures; `is_final` unless a later run would try again by itself."""

    message: str
    is_final: bool = True


@dataclass(frozen=True)
class Step:
    """One run of a suggestion: at a rung (its position among the space's), or at full length (None)."""

    rung: int | None
    key: tuple[str, str]  # equal keys are the same run
    run: Any  # what an executor needs: a PlannedTrial


@dataclass(frozen=True)
class Suggestion:
    """Parameters that were proposed, the settings they make, and the runs in their order, full length last; none if they are no trial.

    Attributes:
        member, generation, parent: Of a population: the number that the member began with, the generation from 1, and the number of the suggestion
            whose weights it goes on from. Only the last generation is run at full length.
    """

    number: int
    source: str  # sampled | first | warm_start | continued | exploited
    proposal: Proposal
    settings: Mapping[str, Any]
    steps: tuple[Step, ...]
    problem: str = ""
    member: int | None = None
    generation: int | None = None
    parent: int | None = None

    @property
    def label(self) -> str:
        if self.generation is not None:
            return generation_label(self.number, self.generation)
        return "reference" if self.number == 0 and self.source == "first" else f"#{self.number}"


@dataclass
class Standing:
    """How far a suggestion is: the figures of the steps that are done, or why it failed."""

    suggestion: Suggestion
    reached: list[Figures] = field(default_factory=list)
    failure: Failure | None = None
    running: bool = False
    has_heir: bool = False  # its member's next generation was begun

    @property
    def state(self) -> str:
        """Return `completed`, `failed`, `running`, `continued` (an earlier generation), `stopped` (where it may still go on from) or `begun`."""
        if self.failure is not None:
            return "failed"
        if self.running:
            return "running"
        if self.suggestion.steps and len(self.reached) == len(self.suggestion.steps):
            return "completed"
        if self.has_heir:
            return "continued"
        return "stopped" if self.reached else "begun"

    @property
    def figures(self) -> Figures | None:
        """Return those at full length, None before."""
        return self.reached[-1] if self.state == "completed" else None


@dataclass(frozen=True)
class Work:
    """A step to run now."""

    number: int
    step: Step

    @property
    def key(self) -> tuple[str, str]:
        return self.step.key


def generation_label(number: int, generation: int) -> str:
    """Return how one generation of a member is called."""
    return f"#{number}, generation {generation}"
