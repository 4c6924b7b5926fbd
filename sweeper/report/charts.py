"""Plots whose points are single trials: plain, frozen objects that hold every number shown. `chart_drawing.py` draws them.

A `content.Figure` has curves over seeds, one style per system; in a chart a point is one trial, and its look says what became of that trial.
"""

from dataclasses import dataclass
from typing import Literal

Look = Literal["point", "hollow", "crossed", "faint", "strong", "second", "ring", "line", "link", "foot", "foot_failed", "bar"]


@dataclass(frozen=True)
class Axis:
    """One axis; its label carries the unit.

    Attributes:
        categories: The words at positions 0, 1, …; empty where the axis has numbers.
        span: What it reaches over at least, such as the range that was searched.
    """

    label: str
    log: bool = False
    categories: tuple[str, ...] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Mark:
    """One place in a plot, with its 95 % interval along either axis where there is one.

    Attributes:
        name: What it is of: a trial's label, or a parameter.
        y: None for what has no figure on this axis and stands at the plot's foot.
        note: Written beside it.
    """

    name: str
    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Marks:
    """Marks of one look, under one name of the legend; without a name they stand in no legend."""

    name: str
    look: Look
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Plot:
    """One pair of axes with layers of marks, the first at the back; one at least has a figure."""

    title: str
    x: Axis
    y: Axis
    layers: tuple[Marks, ...]


@dataclass(frozen=True)
class Way:
    """One trial's way across parallel axes.

    Attributes:
        values: One per axis, the position of a category; None where the trial has no such parameter.
        shade: What its color says.
        is_broken: Drawn with a broken line: it may not be chosen.
    """

    name: str
    values: tuple[float | None, ...]
    shade: float
    is_broken: bool = False


@dataclass(frozen=True)
class Parallel:
    """Axes side by side, crossed by one line per trial; the color's scale has a label and says which end is better."""

    title: str
    axes: tuple[Axis, ...]
    ways: tuple[Way, ...]
    shade_label: str
    less_is_better: bool = False


@dataclass(frozen=True)
class Chart:
    """Plots under one title; the caption says how many trials, on which images, and how they came to be these.

    `inches`: width and height of one plot. `statement`: data set and scale, where they are not the report's.
    """

    name: str  # of its file: search_front
    title: str
    caption: str
    plots: tuple[Plot | Parallel, ...]
    columns: int = 4
    inches: tuple[float, float] = (3.4, 2.6)
    statement: str = ""

    kind: Literal["chart"] = "chart"
