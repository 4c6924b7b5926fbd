"""The nodes that are there: what each has, how much work runs on them at once, and waiting for those that are to come."""

import math
import socket
import time
from collections.abc import Callable

import ray

from sweeper.cluster.autoscaler import Autoscaler, ask_for, find_autoscaler
from sweeper.cluster.resources import HEAD, Grant, Node, Packing, Resources, fitting, slots

AGE = 2.0  # seconds for which what is known of the nodes is taken as true
EVERY = 15.0  # seconds between two messages while nodes are waited for, and after which they are asked for again


class Nodes:
    """The alive nodes of a connected cluster, looked at again as they come and go.

    Args:
        note: Says something to whoever watches.
    """

    def __init__(self, resources: Resources, note: Callable[[str], None]) -> None:
        self.resources, self._note = resources, note
        self.autoscaler: Autoscaler | None = None if resources.address is None else find_autoscaler()
        self._seen, self._alive = -math.inf, []
        self._places: dict[str, tuple[str, int]] = {}  # node id -> where its own process listens
        self._asked: tuple[Grant, int] | None = None
        self._asked_at = -math.inf
        self._waiting_since: float | None = None
        self._said = 0.0

    @property
    def alive(self) -> list[Node]:
        self._look()
        return self._alive

    def is_alive(self, node_id: str) -> bool:
        """Say whether a node still answers, on which something was lost just now: its workers can be missed seconds before Ray calls it dead."""
        self._seen = -math.inf
        self._look()
        if node_id not in self._places:
            return False
        try:
            socket.create_connection(self._places[node_id], timeout=2.0).close()
        except OSError:
            return False
        return True

    def room(self, packing: Packing) -> int:
        """Return how many pieces of work run at once, at least 1: with no node that holds one, it waits for that node."""
        return max(1, slots(self.alive, packing.grant(self.alive), self.resources.max_concurrent))

    def is_stranded(self, grant: Grant) -> bool:
        """Say whether a grant fits no node that is there or may come, while some node there could hold a piece of work, as when the largest died."""
        if slots(self.alive, grant, None) or not slots(self.alive, Grant(self.resources.cpus, self.resources.gpus), None):
            return False
        return self.autoscaler is None or not self.autoscaler.will_hold(grant)

    def want(self, number: int) -> None:
        """Ask an autoscaler for nodes that hold so many trials at once; 0: none is needed any more."""
        if self.autoscaler is None:
            return
        grant = Grant(self.resources.cpus, self.resources.gpus)
        most = self.autoscaler.room(grant)
        if most is not None:
            number = min(number, most + sum(fitting(node, grant) for node in self.alive if HEAD in node))
        wanted = grant, min(number, self.resources.max_concurrent or number)
        now = time.monotonic()
        if wanted != self._asked or (number and now - self._asked_at >= EVERY):  # another run on the cluster may have asked for less since
            ask_for(*wanted)
            self._asked, self._asked_at = wanted, now

    def check(self) -> None:
        """Refuse what no node there, and none that an autoscaler may start, can ever hold.

        Raises:
            ValueError: Naming the option, the most that a node has, and what was asked.
        """
        asked = Grant(self.resources.cpus, self.resources.gpus)
        if slots(self.alive, asked, None) or (self.autoscaler is not None and self.autoscaler.could_hold(asked, len(self.alive))):
            return
        for name, amount, word in (("GPU", asked.gpus, "--gpus-per-trial"), ("CPU", asked.cpus, "--cpus-per-trial")):
            most = max((float(node.get(name, 0.0)) for node in self.alive), default=0.0)
            coming = "" if self.autoscaler is None else " that there is or that the autoscaler may start"
            most = max(most, (self.autoscaler and self.autoscaler.largest(name)) or 0.0)
            if amount > most:
                raise ValueError(f"{word} must be at most {most:g}, the {name}s of the largest node{coming}, got {amount:g}")
        raise ValueError(f"no node has {asked.cpus:g} CPUs (--cpus-per-trial) and {asked.gpus:g} GPUs (--gpus-per-trial) together")

    def wait(self, is_interrupted: Callable[[], bool]) -> None:
        """Return once a node that can hold a piece of work is there.

        Raises:
            ValueError: As `check`.
            KeyboardInterrupt: If interrupted.
        """
        while not slots(self.alive, Grant(self.resources.cpus, self.resources.gpus), None):
            self.check()
            if is_interrupted():
                raise KeyboardInterrupt
            self.want(1)
            self.say_if_waiting()
            time.sleep(0.5)
        self.say_if_waiting()

    def say_if_waiting(self) -> None:
        """Say at once, and then every 15 s, that no node can hold a piece of work; and when one can."""
        now = time.monotonic()
        asked = Grant(self.resources.cpus, self.resources.gpus)
        if slots(self.alive, asked, None):
            if self._waiting_since is not None:
                self._note(f"a node for it is there after {now - self._waiting_since:.0f} s")
            self._waiting_since = None
            return
        if self._waiting_since is None:
            self._waiting_since, self._said = now, -math.inf
        if now - self._said >= EVERY:
            self._said = now
            name, amount, word = ("GPU", asked.gpus, "--gpus-per-trial") if asked.gpus else ("CPU", asked.cpus, "--cpus-per-trial")
            there = sum(node.get(name, 0.0) for node in self.alive)
            self._note(
                f"waiting for nodes: {there:g} {name}s on {len(self.alive)} there, {word} {amount:g} asked for, {now - self._waiting_since:.0f} s"
            )

    def _look(self) -> None:
        if time.monotonic() - self._seen < AGE:
            return
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._alive, self._seen = [node["Resources"] for node in nodes], time.monotonic()
        self._places = {node["NodeID"]: (node["NodeManagerAddress"], node["NodeManagerPort"]) for node in nodes}
