"""What work is granted, and how many pieces of it fit on the nodes at once. Pure: nodes are given as what each has."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.memory import Peak

PLENTY = 2 * 2**30  # bytes of host memory that a piece of work is assumed to need until one was measured; at `small` it is 0.4 to 0.7 GiB
HEADROOM = 1.2  # over what was measured
STEP = 256 * 2**20  # bytes; worker processes are used again only for equal grants, so these change in steps

HEAD = "node:__internal_head__"  # what the head's node has beside the rest
Node = Mapping[str, float]  # what a node has in all, in Ray's words: CPU, GPU, memory (bytes)


@dataclass(frozen=True)
class Resources:
    """What a trial is asked to be granted, how many run at once, and where (None: this machine).

    Raises:
        ValueError: For a number of GPUs over 1 that is not whole: no part of a GPU is shared beside a whole one.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    max_concurrent: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"--gpus-per-trial must be at most 1 or a whole number, got {self.gpus:g}")


@dataclass(frozen=True)
class Grant:
    """What one piece of work gets: CPUs, GPUs, bytes of host memory (0: not counted)."""

    cpus: float
    gpus: float
    memory: int = 0

    @property
    def bundle(self) -> dict[str, float]:
        """Return it in Ray's words."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus), ("memory", float(self.memory))) if amount}


def fitting(node: Node, grant: Grant) -> int:
    """Return how many pieces of work with this grant fit on a node: parts of a GPU on one GPU each, as Ray places them."""
    counts = []
    if grant.cpus:
        counts.append(math.floor(node.get("CPU", 0.0) / grant.cpus + 1e-9))
    if grant.gpus:
        gpus = node.get("GPU", 0.0)
        counts.append(math.floor(gpus) * math.floor(1 / grant.gpus + 1e-9) if grant.gpus < 1 else math.floor(gpus / grant.gpus))
    if grant.memory:
        counts.append(math.floor(node.get("memory", math.inf) / grant.memory) if "memory" in node else 10_000)
    return min(counts, default=10_000)


class Packing:
    """Decides what the next piece of work is granted, from what earlier ones needed.

    Host memory: until one has ended, each is assumed to need PLENTY, so nothing waits for a first measured one where every slot of every node has
    that much; where it has less, fewer begin at once. From then on it is the most that any needed, and a fifth. Memory is counted only where it
    admits fewer than CPUs and GPUs do. GPU memory: a part of a GPU as asked, and more of it if what was measured, and a fifth, is more.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._memory, self._share, self._is_measured = PLENTY, 0.0, False

    def learn(self, peak: Peak, is_typical: bool = True) -> None:
        """Take in what one needed at its most.

        Args:
            is_typical: Others need about as much, so that the first such one takes the place of what is assumed.
        """
        memory = math.ceil(peak.host_bytes * HEADROOM / STEP) * STEP
        self._memory = max(self._memory, memory) if self._is_measured or not is_typical else memory
        self._is_measured |= is_typical
        if peak.gpu_total_bytes:
            self._share = max(self._share, math.ceil(100 * peak.gpu_bytes * HEADROOM / peak.gpu_total_bytes) / 100)

    def grant(self, nodes: Sequence[Node]) -> Grant:
        """Return what the next one gets on such nodes."""
        gpus = self._resources.gpus
        if 0 < gpus < 1:
            gpus = min(1.0, max(gpus, self._share))
        plain = Grant(self._resources.cpus, gpus)
        able = [node for node in nodes if fitting(node, plain)]
        memory = min(self._memory, int(max((node["memory"] for node in able if "memory" in node), default=0)))
        counted = Grant(plain.cpus, gpus, memory)
        return counted if any(fitting(node, counted) < fitting(node, plain) for node in able) else plain

    def alone(self, nodes: Sequence[Node]) -> Grant:
        """Return a grant that leaves room for nothing else on the node of the most memory that can hold one."""
        plain = Grant(self._resources.cpus, self._resources.gpus)
        able = [node for node in nodes if fitting(node, plain)]
        if not able:
            return plain
        node = max(able, key=lambda node: node.get("memory", 0.0))
        return Grant(math.floor(node.get("CPU", 0.0)) or plain.cpus, math.floor(node.get("GPU", 0.0)) if plain.gpus else 0.0)


def slots(nodes: Sequence[Node], grant: Grant, max_concurrent: int | None) -> int:
    """Return how many pieces of work run at once, 0 if no node can hold one."""
    number = sum(fitting(node, grant) for node in nodes)
    return min(number, max_concurrent or number)
