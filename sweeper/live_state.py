"""What is known of a run while it runs, as plain values: the terminal that runs it shows them, and `watch` shows the same ones elsewhere.

A run keeps them in its results root as `live/<sweep>.json`. Instants of the run's own clock leave it as seconds that have passed, so that neither
a clock that is set anew nor two machines' clocks that differ can be seen. Imports neither torch nor ray.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sweeper.lookup import canonical

FOLDER = "live"
RUNNING = "running"
ENDS = ("finished", "failed", "interrupted", "stopped")
KEPT_LINES = 40  # of those that were said last; whoever reads less often than they come misses some, and is told so
KEPT_FAILURES = 3


@dataclass
class RunningTrial:
    """A trial that runs; `since` in seconds of the run's monotonic clock, `host` where it runs, if that is known."""

    label: str
    seed: int
    trial_id: str
    since: float
    stage: str = "starting"
    done: int = 0
    total: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    host: str | None = None


@dataclass
class Running:
    """A shared stage or a probe that runs."""

    title: str
    since: float


@dataclass(frozen=True)
class FailedTrial:
    """A trial that failed in this run."""

    label: str
    seed: int
    trial_id: str
    reason: str | None
    message: str
    log: str


@dataclass(frozen=True)
class Line:
    """A line that the run said: a stage or a trial that ended."""

    text: str
    is_bad: bool = False


@dataclass
class RunState:
    """What a run has done, does, and is about to do.

    Attributes:
        run: Its own name, another for each time that a sweep is run.
        status: `running`, or how it ended: `finished` (trials may have failed), `failed`, `interrupted`, `stopped` (by `stop`).
        message: What there is to say of an end that is not `finished`.
        exit_status: Of the command, once it ended.
        missing: Trials of the plan that are not completed, once it has finished.
        started, updated: Times of the run's host, ISO 8601, UTC.
        stored: Trials that were stored before.
        done, total: Trials that ended in this run, and that it has to run; an estimate for a search.
        trial_seconds: Of all that ended, together.
        said: How many lines were said; `lines` are the last of them.
    """

    sweep: str = ""
    plan_hash: str = ""
    run: str = ""
    host: str = ""
    pid: int = 0
    slots: int = 1
    title: str = ""
    status: str = RUNNING
    message: str = ""
    exit_status: int | None = None
    missing: int = 0
    started: str = ""
    updated: str = ""
    since: float = 0.0
    stored: int = 0
    stages_done: int = 0
    stages_total: int = 0
    stages: dict[str, Running] = field(default_factory=dict)
    running: dict[str, RunningTrial] = field(default_factory=dict)
    probes: dict[str, Running] = field(default_factory=dict)
    failures: list[FailedTrial] = field(default_factory=list)
    failed: int = 0
    done: int = 0
    total: int = 0
    trial_seconds: float = 0.0
    said: int = 0
    lines: list[Line] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        return self.status == RUNNING

    @property
    def seconds_left(self) -> float | None:
        """Return about how many seconds the rest takes; None before anything ended, and where nothing is left."""
        rest = self.total - self.done
        return rest * self.trial_seconds / self.done / self.slots if rest > 0 and self.done else None

    def say(self, line: Line) -> None:
        self.lines = [*self.lines, line][-KEPT_LINES:]
        self.said += 1

    def fail(self, trial: FailedTrial) -> None:
        self.failures = [*self.failures, trial][-KEPT_FAILURES:]
        self.failed += 1

    def snapshot(self) -> "RunState":
        """Return a copy that another thread can read while this one changes: copying a dictionary is one step to all threads."""
        return replace(self, stages=dict(self.stages), running=dict(self.running), probes=dict(self.probes))


def file_name(sweep: str, folder: str = FOLDER) -> str:
    """Return the file of a sweep in a folder of the root, such as `live/ablations.json`."""
    return f"{folder}/{stem_of(sweep)}.json"


def stem_of(sweep: str) -> str:
    """Return a sweep's name as its files have it, the folder of its logs among them."""
    return sweep.replace("/", "_").removeprefix("file:")


def sweep_of(space: str) -> str:
    """Return the sweep's name for what a command was given: a name, or the path of a search space."""
    return canonical(space.removesuffix(".py").rpartition("/")[2]) if space.endswith(".py") else canonical(space)


def encode(state: RunState, now: float) -> bytes:
    """Return the content of a run's file; now: the run's monotonic clock, seconds."""
    values = asdict(state.snapshot())
    for clocked in (values, *values["stages"].values(), *values["running"].values(), *values["probes"].values()):
        clocked["seconds"] = round(now - clocked.pop("since"), 1)
    return json.dumps({"format": 1, **values, "seconds_left": state.seconds_left}, indent=1).encode()


def decode(content: bytes, now: float) -> RunState:
    """Return what a run's file says, its instants in the reader's monotonic clock; what a newer version added is passed over.

    Raises:
        ValueError: If it is none.
    """
    try:
        values = json.loads(content)
        state = _made(RunState, values, now)
        state.stages = {key: _made(Running, value, now) for key, value in values["stages"].items()}
        state.running = {key: _made(RunningTrial, value, now) for key, value in values["running"].items()}
        state.probes = {key: _made(Running, value, now) for key, value in values["probes"].items()}
        state.failures = [_made(FailedTrial, value, now) for value in values["failures"]]
        state.lines = [_made(Line, value, now) for value in values["lines"]]
        return state
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the state of a run: {type(error).__name__}: {error}") from error


def _made(kind: type[Any], values: dict[str, Any], now: float) -> Any:
    known = {item.name for item in fields(kind)}
    given = {name: value for name, value in values.items() if name in known}
    return kind(**given, **({"since": now - values["seconds"]} if "since" in known else {}))


def new_lines(state: RunState, heard: int) -> tuple[Sequence[Line], int]:
    """Return the lines that were said after the first `heard`, and how many before them are kept no longer."""
    new = max(0, state.said - heard)
    kept = state.lines[len(state.lines) - min(new, len(state.lines)) :]
    return kept, new - len(kept)


def duration(seconds: float) -> str:
    """Return a time span as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def left(state: RunState) -> str:
    """Return `, about 5 min left`, nothing where that cannot be said."""
    seconds = state.seconds_left
    if seconds is None:
        return ""
    return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"


def how_far(state: RunState) -> str:
    """Return how many trials are finished, how many failed, and the time left."""
    return f"{state.done}/{state.total} finished, {state.failed} failed{left(state)}"
