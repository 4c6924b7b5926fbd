"""How a trial is scored: cells, each one attack under one threat over an epsilon grid, and the evaluation that they make."""

import sys
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, field_validator

from attacks import _ascending, _backward, _white_box
from models import _soft_assignment
from sweeper.canonical import Frozen
from sweeper.config import Classifier
from sweeper.lookup import version
from sweeper.options import ADAPTIVE, attack_module, check_epsilons, measures_distance

THREATS = ("clean", "graybox", "transfer", *ADAPTIVE)


class Cell(Frozen):
    """One attack under one threat over one epsilon grid, on a number of images of a split (None: all of them).

    Attributes:
        victim: Under `graybox`, the classifier that the images are crafted on: the original target, or the trial's own retrained one.
        source: Under `transfer`, the position of the one source that all images are crafted on; None: each image on one of them.
        labels: Whether the attack leads away from the true class or from the one that the attacked classifier says.
    """

    threat: Literal["clean", "graybox", "transfer", "adaptive", "adaptive_bpda", "adaptive_soft"]
    attack: str
    options: dict[str, Any] = Field(default_factory=dict)
    epsilons: tuple[float, ...] = (0.0,)
    images: int | None = Field(default=None, ge=1)
    victim: Literal["original", "retrained"] = "original"
    source: int | None = Field(default=None, ge=0)
    labels: Literal["true", "predicted"] = "true"

    @field_validator("epsilons")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return check_epsilons(values)

    @property
    def is_shared(self) -> bool:
        """Say whether its images are the same for every trial with this target."""
        return self.threat == "transfer" or (self.threat == "graybox" and self.victim == "original")

    @property
    def measures_distance(self) -> bool:
        """Say whether its result is how far the nearest adversarial image is (table `distances`), at no epsilon."""
        return measures_distance(self.attack, self.threat)

    @property
    def version(self) -> str:
        if self.attack == "none":
            return "none"
        module = attack_module(self.attack, self.threat)
        # an object that stands for a library's attack is no module: its wrapper's module has the shared parts
        own = version(module) if isinstance(module, ModuleType) else f"{module.VERSION},{version(sys.modules[type(module).__module__])}"
        around = {"adaptive_bpda": _backward.VERSION, "adaptive_soft": f"soft{_soft_assignment.VERSION}"}.get(self.threat, 0)
        if self.measures_distance:
            return f"{own},distances,{around}"
        return f"{own},{_white_box.VERSION},{around}" if self.threat in ADAPTIVE and (around or module is not _ascending) else own


class EvaluationConfig(Frozen):
    """Attack settings, epsilon grids, sample sets and numerics: how a trial is scored."""

    name: Literal["quick", "standard", "full"]
    cells: tuple[Cell, ...]
    sources: tuple[Classifier, ...] = ()
    split: Literal["validation", "test"] = "test"
    score_epsilon: float = Field(gt=0, le=1)
    seed: int = 0
    batch_size: int = Field(default=128, ge=1)

    @property
    def is_checked(self) -> bool:
        """Say whether trials are probed for the reviewer's checks: not where nothing is ranked."""
        return self.name != "quick"

    @property
    def strip_cells(self) -> list["Cell"]:
        """Return the cells whose images are kept for the eye: the first PGD on the target, and on the whole defense; none where nothing is ranked."""
        found: dict[str, Cell] = {}
        for cell in self.cells if self.name != "quick" else ():
            if cell.attack == "pgd" and cell.threat in ("graybox", "adaptive"):
                found.setdefault(cell.threat, cell)
        return list(found.values())
