"""What a results root says of the run of a sweep: whether it runs now, where, how far it is, and when it was last heard of."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.live_state import FOLDER, RunState, decode, duration, file_name, how_far, stem_of
from sweeper.lookup import nearest
from sweeper.stored_plans import FRONT, REFINED, SELECTED

if TYPE_CHECKING:
    from sweeper.storage import Store

SILENT = 30.0  # seconds after which a run that has written nothing may be dead
DEAD = SILENT + 5 * 60  # seconds after which it is no longer waited for
FOLLOWERS = (FRONT, REFINED, SELECTED, REFINED + SELECTED)  # the sweeps that one command may run after another


@dataclass(frozen=True)
class Heard:
    """A run's state, and when it wrote it: in this process's monotonic clock."""

    state: RunState
    name: str
    identity: str
    at: float

    @property
    def silence(self) -> float:
        """Return how long ago the run was last heard of, seconds."""
        return max(0.0, time.monotonic() - self.at)

    @property
    def is_silent(self) -> bool:
        return self.state.is_running and self.silence > SILENT

    @property
    def is_alive(self) -> bool:
        return self.state.is_running and self.silence <= SILENT

    @property
    def is_dead(self) -> bool:
        """Say whether the run has been silent for so long that it is no longer waited for."""
        return self.state.is_running and self.silence > DEAD

    @property
    def warning(self) -> str:
        """Return what there is to say of a run that is silent, else nothing."""
        if not self.is_silent:
            return ""
        return f"last heard of {duration(self.silence)} ago on {self.state.host}: it may be dead; `run` again continues"

    @property
    def loss(self) -> str:
        """Return what is said of a run that is no longer waited for."""
        state = self.state
        return f"{state.sweep} on {state.host} (process {state.pid}) was last heard of {duration(self.silence)} ago: it seems dead"

    @property
    def end(self) -> str:
        """Return how a run ended, in a sentence's words."""
        state = self.state
        counts = f"{state.done}/{state.total} trials ended, {state.failed} failed" + (f", {state.missing} not completed" if state.missing else "")
        how = {"stopped": state.message, "failed": f"failed: {state.message}"}.get(state.status, state.status)
        return f"{how} ({counts})"


def listen(files: "Store", name: str, before: Heard | None = None) -> Heard | None:
    """Return what the file of a run says now, None if there is none.

    Args:
        before: What it said last: the same file is not read again.

    Raises:
        ValueError: If the file is damaged.
    """
    found = files.stat(name)
    if found is None:
        return None
    if before is not None and before.identity == found.identity:
        return before
    age = 0.0 if before is not None else max(0.0, _now(files) - found.modified)
    at = time.monotonic() - age
    try:
        return Heard(decode(files.read(name), at), name, found.identity, at)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{files.shown(name)} is damaged: {error}; the next `run` writes it anew") from error


def _now(files: "Store") -> float:
    try:
        return files.now()
    except OSError:  # a root that can only be read has no clock to ask; ours is near it
        return time.time()


def run_of(files: "Store", sweep: str) -> Heard | None:
    """Return the run of a sweep, or one that goes on under its name (a search's Pareto set, what `refine` runs) while the sweep itself does not."""
    there = set(files.names(FOLDER))
    names = [name for name in dict.fromkeys(file_name(sweep + follower) for follower in ("", *FOLLOWERS)) if name.rpartition("/")[2] in there]
    found = [heard for name in names if (heard := listen(files, name)) is not None]
    return next((heard for heard in found if heard.is_alive), found[0] if found and found[0].name == file_name(sweep) else None)


def seen(files: "Store", sweep: str) -> str:
    """Return what to say of a sweep of which no run was seen."""
    known = [name.removesuffix(".json") for name in files.names(FOLDER) if name.endswith(".json")]
    there = f"; there are runs of: {', '.join(known)}" if known else ""
    return f"no run of {sweep!r} was seen under {files.url}{nearest(stem_of(sweep), known)}{there}"


def note_of(files: "Store", sweep: str) -> Sequence[str]:
    """Return a line on whether a sweep runs now, where, since when and how far, or that its file is damaged; none if no run was seen."""
    try:
        heard = run_of(files, sweep)
    except ValueError as error:
        return [f"Whether it runs now is not known: {error}."]
    if heard is None:
        return []
    state = heard.state
    if not state.is_running:
        return [f"Not running; the last run, on {state.host}, {heard.end}, {duration(heard.silence)} ago."]
    where = f"on {state.host} (process {state.pid}) since {state.started[:19].replace('T', ' ')} UTC: {how_far(state)}"
    if heard.is_silent:
        return [f"Began {where}; {heard.warning}."]
    return [f"Running now {where}."]
