"""Which trial runs next, and what it is granted. Knows nothing of Tune."""

from typing import Protocol

from sweeper.cluster.queue import Queue
from sweeper.cluster.resources import Grant, Packing
from sweeper.cluster.run import Run
from sweeper.memory import Peak
from sweeper.plan import PlannedTrial
from sweeper.worker import Finished


class Source(Protocol):
    """What gives trials and hears how they ended: a list of them, or a search."""

    @property
    def is_finished(self) -> bool: ...
    @property
    def remaining(self) -> int: ...
    def next(self) -> PlannedTrial | None: ...
    def ended(self, trial: PlannedTrial, finished: Finished) -> None: ...


class Listed:
    """Trials in the order in which they are to begin; how they ended in `finished`, by key."""

    is_finished = True  # once none is left, and none runs

    def __init__(self, trials: list[PlannedTrial], run: Run) -> None:
        self._left, self._view = trials, run.view
        self.finished: dict[tuple[str, str], Finished] = {}

    @property
    def remaining(self) -> int:
        return len(self._left)

    def next(self) -> PlannedTrial | None:
        return self._left.pop(0) if self._left else None

    def ended(self, trial: PlannedTrial, finished: Finished) -> None:
        self.finished[trial.key] = finished
        self._view.trial_ended(trial, finished)


class Supply:
    """A source's trials, those again that were lost or ran out of memory, as many at once as the nodes have room for."""

    def __init__(self, run: Run, source: Source) -> None:
        self._run, self._source = run, source
        self._queue = Queue(source.next, lambda trial: trial.key, run.nodes.is_alive)
        self._packing = Packing(run.resources)
        self._running: set[tuple[str, str]] = set()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def wanted(self) -> int:
        """Return how many trials could run at once, if there were nodes enough."""
        return len(self._running) + self._queue.waiting + self._source.remaining

    @property
    def is_finished(self) -> bool:
        """Say whether nothing runs and nothing is to come; asked after `next` returned None."""
        return not self._running and self._source.is_finished

    def next(self) -> tuple[PlannedTrial, Grant] | None:
        """Return the next trial and its grant, None if none can begin before another ends."""
        nodes = self._run.nodes
        room = nodes.room(self._packing)
        self._run.view.at_once(room)
        if len(self._running) >= room or (given := self._queue.next()) is None:
            return None
        trial, is_alone = given
        self._running.add(trial.key)
        return trial, self._packing.alone(nodes.alive) if is_alone else self._packing.grant(nodes.alive)

    def is_stranded(self, grant: Grant) -> bool:
        """Say whether what was given out with this grant, and has not begun, is to be taken back: it would wait for ever."""
        return self._run.nodes.is_stranded(grant)

    def take_back(self, trial: PlannedTrial) -> None:
        """Take back a trial that was given out and did not begin; it is given out again with a grant that fits the nodes that are there."""
        self._running.discard(trial.key)
        self._queue.take_back(trial)
        self._run.view.note(f"trial {trial.trial_id[:8]} ({trial.label}): the node that it waited for is gone; it is given another")

    def is_running(self, trial: PlannedTrial) -> bool:
        """Say whether a trial was given out and has not ended."""
        return trial.key in self._running

    def ended(self, trial: PlannedTrial, finished: Finished, peak: Peak) -> None:
        """Take in how a trial ended; one that failed for want of memory is run again alone, once."""
        if finished.status == "completed":  # one that failed at once needed nothing
            self._packing.learn(peak)
        if finished.reason == "oom":
            self.ran_out(trial, finished)
        else:
            self._end(trial, finished)

    def ran_out(self, trial: PlannedTrial, finished: Finished) -> None:
        self._again(trial, finished, self._queue.ran_out(trial), "alone on a node")

    def lost(self, trial: PlannedTrial, node: str | None, finished: Finished) -> None:
        self._again(trial, finished, self._queue.lost(trial, node), "again")

    def _again(self, trial: PlannedTrial, finished: Finished, is_again: bool, how: str) -> None:
        if is_again:
            self._running.discard(trial.key)
            self._run.view.note(f"{finished.message}; it is run {how}")
        else:
            self._end(trial, finished)

    def _end(self, trial: PlannedTrial, finished: Finished) -> None:
        self._running.discard(trial.key)
        self._source.ended(trial, finished)
