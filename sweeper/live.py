"""What a person sees of a running sweep: a live table on a terminal, plain lines elsewhere. Everything goes to standard error.

Both the terminal of the run and `watch` on another machine draw the same `RunState` with the same `render`.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.live_state import FailedTrial, Line, Running, RunningTrial, RunState, left

if TYPE_CHECKING:  # all of these import torch, which `watch` does without
    from sweeper.escalation import Probe
    from sweeper.plan import PlannedTrial
    from sweeper.stages import Stage
    from sweeper.worker import Finished

BAD = "bold red"


class Screen:
    """Shows a state over and over on a terminal, above it the lines that were said; elsewhere the lines alone."""

    def __init__(self, draw: Callable[[], RenderableType], console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live = Live(get_renderable=draw, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, line: Line) -> None:
        self.console.print(Text(line.text, style=BAD if line.is_bad else ""), soft_wrap=True)


class Display:
    """Stages, running trials with epoch and loss, how many are finished, failures first, and the time left. A `View`; what it knows is `state`."""

    def __init__(self, console: Console | None = None, slots: int = 1) -> None:
        self.state = RunState(slots=max(1, slots), since=time.monotonic())
        self._screen = Screen(self._render, console)

    def __enter__(self) -> "Display":
        self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.__exit__()

    def begin(self, title: str, stages: "Sequence[Stage]", num_trials: int, done: int) -> None:
        """Say what is to come; num_trials is an estimate for a search, whose trials are decided as it goes."""
        state = self.state
        state.title, state.stages_total, state.total, state.stored = title, len(stages), num_trials, done
        self._say(f"{title}: {num_trials} trials to run, {done} stored already, {len(stages)} shared stages to make")

    def stage_started(self, stage: "Stage") -> None:
        self.state.stages[stage.key] = Running(stage.title, time.monotonic())

    def stage_ended(self, stage: "Stage") -> None:
        seconds = time.monotonic() - self.state.stages.pop(stage.key).since
        self.state.stages_done += 1
        self._say(f"[{self.state.stages_done}/{self.state.stages_total}] {stage.title}: {seconds:.1f} s")

    def at_once(self, trials: int) -> None:
        """Take in how many trials run at once now, from which the time left is reckoned."""
        self.state.slots = max(1, trials)

    def trial_begun(self, trial: "PlannedTrial", host: str) -> None:
        """Show a trial from its beginning, where it may be one that is begun again, elsewhere."""
        self.state.running["/".join(trial.key)] = RunningTrial(trial.label, trial.config.seed, trial.trial_id, time.monotonic(), host=host)

    def trial_progress(self, trial: "PlannedTrial", stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        key = "/".join(trial.key)
        if key not in self.state.running:
            self.state.running[key] = RunningTrial(trial.label, trial.config.seed, trial.trial_id, time.monotonic())
        running = self.state.running[key]
        running.stage, running.done, running.total, running.figures = stage, done, total, dict(figures)

    def trial_ended(self, trial: "PlannedTrial", finished: "Finished") -> None:
        state = self.state
        state.running.pop("/".join(trial.key), None)
        state.done += 1
        state.total = max(state.total, state.done)  # a search's is an estimate
        state.trial_seconds += finished.seconds
        count = f"[{state.done}/{state.total}] {trial.label}, seed {trial.config.seed}"
        if finished.status == "completed":
            adaptive = finished.figures.get("adaptive_accuracy")
            shown = f"clean {100 * finished.figures['clean_accuracy']:.1f} %"
            shown += f", adaptive {100 * adaptive:.1f} %" if adaptive is not None else ""
            self._say(f"{count}: {shown}, {finished.seconds:.0f} s{left(state)}")
        else:
            state.fail(FailedTrial(trial.label, trial.config.seed, trial.trial_id, finished.reason, finished.message, finished.log))
            self._say(f"{count}: FAILED ({finished.reason}): {finished.message}; log: {finished.log}", is_bad=True)

    def probe_started(self, probe: "Probe") -> None:
        self.state.probes[probe.title] = Running(probe.title, time.monotonic())

    def probe_ended(self, probe: "Probe", problem: str | None) -> None:
        seconds = time.monotonic() - self.state.probes.pop(probe.title).since
        self._say(problem or f"{probe.title}: {seconds:.1f} s", is_bad=problem is not None)

    def note(self, text: str) -> None:
        """Say something of the run as a whole, such as that it waits for nodes."""
        self._say(text)

    def _say(self, text: str, is_bad: bool = False) -> None:
        line = Line(text, is_bad)
        self.state.say(line)
        self._screen.say(line)

    def _render(self) -> RenderableType:
        return render(self.state.snapshot(), time.monotonic())


def render(state: RunState, now: float, note: str = "") -> RenderableType:
    """Return what a run does now, for a terminal; now: the monotonic clock that the state is in, note: a last line."""
    parts: list[RenderableType] = []
    for failure in state.failures:
        parts.append(Text(f"failed ({failure.reason}): {failure.message}", style=BAD))
    if state.stages:
        names = ", ".join(f"{stage.title} {now - stage.since:.0f} s" for stage in state.stages.values())
        parts.append(Text(f"shared stages {state.stages_done}/{state.stages_total}: {names}"))
    if state.probes:
        parts.append(Text("checks of the reference and the best row: " + ", ".join(state.probes)))
    if state.running:
        parts.append(_trials(state, now))
    parts.append(Text(f"{state.done}/{state.total} finished, {state.failed} failed, {now - state.since:.0f} s{left(state)}"))
    if note:
        parts.append(Text(note, style=BAD))
    return Group(*parts)


def _trials(state: RunState, now: float) -> Table:
    table = Table(box=None, pad_edge=False)
    has_hosts = any(running.host for running in state.running.values())
    for title in ("trial", "seed", "stage", "progress", "", "seconds", *(["host"] if has_hosts else [])):
        table.add_column(title)
    for running in state.running.values():
        bar = ProgressBar(total=max(1, running.total), completed=running.done, width=16)
        figures = f"loss {running.figures['loss']:.4f}" if "loss" in running.figures else ""
        cells = [f"{running.stage} {running.done}/{running.total}", bar, figures, f"{now - running.since:.0f}"]
        table.add_row(running.label, str(running.seed), *cells, *([running.host or ""] if has_hosts else []))
    return table
