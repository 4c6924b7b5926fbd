"""Work given out one piece after the other, and again when what ran it was lost. Knows neither Ray nor what the work is."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

LOST_RETRIES = 3  # how often work whose process died is started again within one run
LOST_NODES = 20  # and work whose node died: on machines that the provider may take back that is no sign of a fault of the work

Work = TypeVar("Work")


class Queue(Generic[Work]):
    """Gives out lost work first, then new work, and when there is neither, work that ran out of memory, to be run alone on a node.

    Args:
        ready: Returns the next new piece of work that can begin, None if none can now.
        key: What a piece of work is.
        is_alive: Is the node of this id there? Asked when retries are counted, because a process can be missed before its node is.
    """

    def __init__(self, ready: Callable[[], Work | None], key: Callable[[Work], Hashable], is_alive: Callable[[str], bool]) -> None:
        self._ready, self._key, self._is_alive = ready, key, is_alive
        self._again: deque[Work] = deque()
        self._alone: deque[Work] = deque()
        self._nodes: dict[Hashable, list[str | None]] = {}  # of each loss; None where it is not known
        self._out_of_memory: set[Hashable] = set()

    @property
    def waiting(self) -> int:
        """Return how much is to be run again."""
        return len(self._again) + len(self._alone)

    def next(self) -> tuple[Work, bool] | None:
        """Return what is to be run now, and whether alone on a node; None if nothing can begin before something ends."""
        if self._again:
            work = self._again.popleft()
            return work, self._key(work) in self._out_of_memory
        if (work := self._ready()) is not None:
            return work, False
        return (self._alone.popleft(), True) if self._alone else None

    def lost(self, work: Work, node: str | None) -> bool:
        """Take in that the process or the node of a piece of work died; return whether it is run again.

        Args:
            node: The id of the node that it ran on; None if it is not known, which counts as a process that died.
        """
        nodes = self._nodes.setdefault(self._key(work), [])
        nodes.append(node)
        processes = sum(node is None or self._is_alive(node) for node in nodes)
        if processes > LOST_RETRIES or len(nodes) - processes > LOST_NODES:
            return False
        self._again.append(work)
        return True

    def take_back(self, work: Work) -> None:
        """Take back a piece of work that did not begin."""
        self._again.append(work)

    def ran_out(self, work: Work) -> bool:
        """Take in that memory did not suffice for a piece of work; return whether it is run again, alone on a node: once."""
        if self._key(work) in self._out_of_memory:
            return False
        self._out_of_memory.add(self._key(work))
        self._alone.append(work)
        return True
