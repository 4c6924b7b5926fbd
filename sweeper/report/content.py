"""What a report consists of: plain, frozen objects that hold every number shown, so that a test can hold them against a hand-computed table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sweeper.report.charts import Chart

Cell = str | float | int | bool | None


@dataclass(frozen=True)
class Series:
    """One curve: a value per x, with its interval where there is one. None leaves a gap.

    Attributes:
        name: What the legend says. One system has one name in all figures, so that it keeps its color, dash and marker.
        low, high: Bounds of the 95 % interval, as long as y, or empty.
        points: Values of single seeds, drawn faintly: one tuple per seed, each as long as x.
        stress: Drawn heavier: the curve that a reader must not overlook, such as the adaptive attacker's.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    points: tuple[tuple[float | None, ...], ...] = ()
    stress: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. Axis labels carry their unit: `epsilon (of the pixel range)`, `accuracy (%)`."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    y_range: tuple[float, float] | None = None
    y_log: bool = False
    missing: str = ""  # why there is nothing to draw, if there is nothing


@dataclass(frozen=True)
class Figure:
    """Panels under one title; the caption says the threat, the classifier, the number of images and seeds, and what an interval is over."""

    name: str  # of its file: figure2
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 4

    statement: str = ""  # data set and scale, where they are not the report's

    kind: Literal["figure"] = "figure"


@dataclass(frozen=True)
class Table:
    """Rows by column name, raw values; `headings` says how a column is headed, `formats` how it is printed.

    Formats: `percent` (a share in [0, 1], shown as 93.1), `points` (a difference of shares, shown as -0.95), `number` (4 significant digits),
    `integer`, `text`. An interval stands in columns `<name>_low` and `<name>_high` that are not listed in `columns`, and is shown in brackets.
    """

    name: str  # of its file: table1
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Cell], ...]
    headings: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    statement: str = ""  # as of a figure

    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper held against what was measured."""

    claim: str
    where: str  # section of the paper
    verdict: Literal["holds", "fails", "undecided", "not tested"]
    measured: str  # the figures, with images, seeds and intervals
    why: str = ""  # why it was not tested or decided, or what a reader must know beside the verdict
    allowed: bool | None = None  # may it be printed, by the checks that govern it; None where it does not hold, or none governs it
    checks: str = ""  # what those checks say

    @property
    def said(self) -> str:
        """Return `may be said`, `may not be said`, or nothing."""
        return "" if self.allowed is None else "may be said" if self.allowed else "may not be said"


@dataclass(frozen=True)
class Claims:
    name: str
    title: str
    caption: str
    claims: tuple[Claim, ...]

    statement: str = ""  # as of a figure

    kind: Literal["claims"] = "claims"


@dataclass(frozen=True)
class Checked:
    """What one check says of the trials that share its sentence.

    Attributes:
        outcome: `fail`, `warn`, `not run`, `not applicable`, `pass`.
        kind: `validity`, `claim`, `advice`.
        asks: What the check asks, empty where it is not known.
        values, thresholds: The smallest and the largest over these trials; empty where there is none.
    """

    outcome: str
    kind: str
    check: str
    asks: str
    citation: str
    values: tuple[float, ...]
    thresholds: tuple[float, ...]
    trials: str
    finds: str


@dataclass(frozen=True)
class Checks:
    """A reviewer's checks, the worst first; `quiet` holds what passes or does not apply, which the page folds away."""

    name: str
    title: str
    caption: str
    rows: tuple[Checked, ...]
    quiet: tuple[Checked, ...]
    single: tuple[Mapping[str, Cell], ...]  # one per check and trial, unrounded, for CSV

    statement: str = ""  # as of a figure

    kind: Literal["checks"] = "checks"


@dataclass(frozen=True)
class Picture:
    """One image of a strip, PNG bytes, with what stands under it."""

    png: bytes
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """One system's images: a row of pictures per word, such as clean, adversarial, purified, difference."""

    system: str
    rows: tuple[tuple[str, tuple[Picture, ...]], ...]
    caption: str = ""


@dataclass(frozen=True)
class Strips:
    name: str
    title: str
    caption: str
    strips: tuple[Strip, ...]

    statement: str = ""  # as of a figure

    kind: Literal["strips"] = "strips"


Item = Figure | Chart | Table | Claims | Checks | Strips


@dataclass(frozen=True)
class Section:
    """A heading with some sentences and what is shown under them."""

    name: str  # its anchor: table-1
    title: str
    text: tuple[str, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Report:
    """A whole report; `facts` stand at its top: data set, scale, images, seeds, target, when and from what it was made."""

    title: str
    statement: str  # data set and scale in one plain sentence, which figures repeat
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()  # missing trials, one seed, damaged files: shown first

    def items(self) -> Sequence[Item]:
        """Return everything shown, in order."""
        return [item for section in self.sections for item in section.items]
