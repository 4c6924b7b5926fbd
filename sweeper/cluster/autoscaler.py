"""What a cluster can grow to, as far as its head knows, and what is asked of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.cluster.resources import HEAD, Grant, Node, fitting

_SECONDS = 60.0


@dataclass(frozen=True)
class Kind:
    """A kind of node that may be started: what one has (empty: not said), and how many of them there may be."""

    has: Node
    most: int


@dataclass(frozen=True)
class Autoscaler:
    """What an autoscaler may start.

    Args:
        kinds: Of nodes, by name; None where the autoscaler runs beside the head (KubeRay) and does not say.
        most: How many nodes in all, the head not among them.
    """

    kinds: Mapping[str, Kind] | None
    most: int = 0

    def largest(self, name: str) -> float | None:
        """Return how much of a resource (CPU, GPU) the largest kind of node has; None if a kind does not say."""
        if self.kinds is None or any(not kind.has for kind in self.kinds.values()):
            return None
        return max((float(kind.has.get(name, 0.0)) for kind in self.kinds.values()), default=0.0)

    def will_hold(self, grant: Grant) -> bool:
        """Say whether a node that may be started is known to hold this."""
        return self.kinds is not None and any(kind.has and fitting(kind.has, grant) for kind in self.kinds.values())

    def could_hold(self, grant: Grant, nodes: int) -> bool:
        """Say whether a node that is still to come could hold this; one of a kind that does not say what it has might.

        Args:
            nodes: How many are there, the head among them.
        """
        if self.kinds is None or self.will_hold(grant):
            return True
        return nodes <= self.most and any(not kind.has for kind in self.kinds.values())

    def room(self, grant: Grant) -> int | None:
        """Return for how many such grants nodes can be started at most, None if that is not said."""
        if self.kinds is None or any(not kind.has for kind in self.kinds.values()):
            return None
        left, number = self.most, 0
        for each, most in sorted(((fitting(kind.has, grant), kind.most) for kind in self.kinds.values()), reverse=True):
            number += each * min(most, left)
            left -= min(most, left)
        return number


def find_autoscaler() -> Autoscaler | None:
    """Return the autoscaler of the cluster that Ray is connected to, None if it has none."""
    head = next(node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"])
    ask = ray.remote(_look_on_head).options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(head["NodeID"], soft=False))
    return ray.get(ask.remote(ray.get_runtime_context().gcs_address), timeout=_SECONDS)


def ask_for(grant: Grant, number: int) -> None:
    """Ask the autoscaler for nodes that hold so many at once, running ones among them; it keeps to that until it is asked for another number.

    Never for more than it may start: Ray's second autoscaler then starts none at all.
    """
    request_resources(bundles=[{name: amount for name, amount in grant.bundle.items() if name != "memory"}] * number)


def _look_on_head(gcs_address: str) -> Autoscaler | None:
    """Read the command of the head's own monitor, the one place where all of Ray's autoscalers name their configuration."""
    monitors = [words for words in _commands() if any(word.endswith("/monitor.py") for word in words) and f"--gcs-address={gcs_address}" in words]
    if not monitors:
        return Autoscaler(None)  # a head without one was started so because an autoscaler runs beside it
    paths = [word.partition("=")[2] for words in monitors for word in words if word.startswith("--autoscaling-config=")]
    return None if not paths else autoscaler_of(Path(os.path.expanduser(paths[0])).read_text(encoding="utf-8"))


def autoscaler_of(configuration: str) -> Autoscaler:
    """Return what a cluster's configuration (YAML) lets the autoscaler start."""
    settings = yaml.safe_load(configuration)
    head, most = settings.get("head_node_type"), int(settings.get("max_workers", 0))
    kinds = {
        name: Kind(kind.get("resources") or {}, int(kind.get("max_workers", 0 if name == head else most)))
        for name, kind in (settings.get("available_node_types") or {}).items()
    }
    return Autoscaler({name: kind for name, kind in kinds.items() if kind.most > 0}, most)


def _commands() -> Sequence[list[str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace").split("\0"))
        except OSError:  # it has ended
            continue
    return found
