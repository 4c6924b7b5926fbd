"""What a person sees of a running sweep: a live table on a terminal, plain lines elsewhere. Everything goes to standard error."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.escalation import Probe
from sweeper.plan import PlannedTrial
from sweeper.stages import Stage
from sweeper.worker import Finished


@dataclass
class _Running:
    label: str
    seed: int
    since: float
    stage: str = "starting"
    done: int = 0
    total: int = 0
    figures: str = ""


class Display:
    """Stages, running trials with epoch and loss, how many are finished, failures first, and the time left."""

    def __init__(self, console: Console | None = None, slots: int = 1) -> None:
        self.console = console or Console(stderr=True)
        self.slots = max(1, slots)
        self._stages: dict[str, float] = {}
        self._stage_titles: dict[str, str] = {}
        self._probes: dict[str, float] = {}  # title -> since when
        self._stage_total = self._stage_done = 0
        self._running: dict[tuple[str, str], _Running] = {}
        self._failures: list[Finished] = []
        self._total = self._done = 0
        self._seconds: list[float] = []
        self._since = time.monotonic()
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def begin(self, title: str, stages: Sequence[Stage], num_trials: int, done: int) -> None:
        """Say what is to come; num_trials is an estimate for a search, whose trials are decided as it goes."""
        self._stage_total, self._total = len(stages), num_trials
        words = f"{title}: {num_trials} trials to run"
        self.console.print(f"{words}, {done} stored already, {len(stages)} shared stages to make", highlight=False, soft_wrap=True)

    def stage_started(self, stage: Stage) -> None:
        self._stages[stage.key] = time.monotonic()
        self._stage_titles[stage.key] = stage.title

    def stage_ended(self, stage: Stage) -> None:
        seconds = time.monotonic() - self._stages.pop(stage.key)
        self._stage_done += 1
        self._line(f"[{self._stage_done}/{self._stage_total}] {stage.title}: {seconds:.1f} s")

    def trial_progress(self, trial: PlannedTrial, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        running = self._running.setdefault(trial.key, _Running(trial.label, trial.config.seed, time.monotonic()))
        running.stage, running.done, running.total = stage, done, total
        running.figures = f"loss {figures['loss']:.4f}" if "loss" in figures else ""

    def trial_ended(self, trial: PlannedTrial, finished: Finished) -> None:
        self._running.pop(trial.key, None)
        self._done += 1
        self._total = max(self._total, self._done)  # a search's is an estimate
        self._seconds.append(finished.seconds)
        count = f"[{self._done}/{self._total}] {trial.label}, seed {trial.config.seed}"
        if finished.status == "completed":
            adaptive = finished.figures.get("adaptive_accuracy")
            shown = f"clean {100 * finished.figures['clean_accuracy']:.1f} %"
            shown += f", adaptive {100 * adaptive:.1f} %" if adaptive is not None else ""
            self._line(f"{count}: {shown}, {finished.seconds:.0f} s{self._left()}")
        else:
            self._failures.append(finished)
            self._line(f"{count}: FAILED ({finished.reason}): {finished.message}; log: {finished.log}", style="bold red")

    def probe_started(self, probe: Probe) -> None:
        self._probes[probe.title] = time.monotonic()

    def probe_ended(self, probe: Probe, problem: str | None) -> None:
        seconds = time.monotonic() - self._probes.pop(probe.title)
        self._line(problem or f"{probe.title}: {seconds:.1f} s", style="bold red" if problem else None)

    def _left(self) -> str:
        rest = self._total - self._done
        if not rest or not self._seconds:
            return ""
        seconds = rest * sum(self._seconds) / len(self._seconds) / self.slots
        return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"

    def _line(self, text: str, style: str | None = None) -> None:
        self.console.print(Text(text, style=style or ""), soft_wrap=True)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        for failure in self._failures[-3:]:
            parts.append(Text(f"failed ({failure.reason}): {failure.message}", style="bold red"))
        if self._stages:
            now = time.monotonic()
            names = ", ".join(f"{self._stage_titles[key]} {now - since:.0f} s" for key, since in self._stages.items())
            parts.append(Text(f"shared stages {self._stage_done}/{self._stage_total}: {names}"))
        if self._probes:
            parts.append(Text("checks of the reference and the best row: " + ", ".join(self._probes)))
        if self._running:
            table = Table(box=None, pad_edge=False)
            for title in ("trial", "seed", "stage", "progress", "", "seconds"):
                table.add_column(title)
            for running in self._running.values():
                bar = ProgressBar(total=max(1, running.total), completed=running.done, width=16)
                seconds = f"{time.monotonic() - running.since:.0f}"
                table.add_row(running.label, str(running.seed), f"{running.stage} {running.done}/{running.total}", bar, running.figures, seconds)
            parts.append(table)
        elapsed = time.monotonic() - self._since
        parts.append(Text(f"{self._done}/{self._total} finished, {len(self._failures)} failed, {elapsed:.0f} s{self._left()}"))
        return Group(*parts)
