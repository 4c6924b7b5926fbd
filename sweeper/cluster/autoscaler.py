"""What a cluster can grow to, as far as its head knows, and what is asked of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.cluster.resources import Grant, Node, fitting

_SECONDS = 60.0


@dataclass(frozen=True)
class Autoscaler:
    """The kinds of nodes that an autoscaler may start, None where it runs beside the head (KubeRay) and does not say."""

    kinds: Mapping[str, Node] | None

    def most(self, name: str) -> float | None:
        """Return how much of a resource (CPU, GPU) the largest kind of node has; None if a kind does not say."""
        if self.kinds is None or any(not kind for kind in self.kinds.values()):
            return None
        return max((float(kind.get(name, 0.0)) for kind in self.kinds.values()), default=0.0)

    def could_hold(self, grant: Grant) -> bool:
        """Say whether a node that may be started could hold this; a kind that does not say what it has might."""
        return self.kinds is None or any(not kind or fitting(kind, grant) for kind in self.kinds.values())


def find_autoscaler() -> Autoscaler | None:
    """Return the autoscaler of the cluster that Ray is connected to, None if it has none."""
    head = next(node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"])
    ask = ray.remote(_look_on_head).options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(head["NodeID"], soft=False))
    return ray.get(ask.remote(ray.get_runtime_context().gcs_address), timeout=_SECONDS)


def ask_for(grant: Grant, number: int) -> None:
    """Ask the autoscaler for nodes that hold so many at once, running ones among them; it keeps to that until it is asked for another number."""
    request_resources(bundles=[{name: amount for name, amount in grant.bundle.items() if name != "memory"}] * number)


def _look_on_head(gcs_address: str) -> Autoscaler | None:
    """Read the command of the head's own monitor, the one place where all of Ray's autoscalers name their configuration."""
    monitors = [words for words in _commands() if any(word.endswith("/monitor.py") for word in words) and f"--gcs-address={gcs_address}" in words]
    if not monitors:
        return Autoscaler(None)  # a head without one was started so because an autoscaler runs beside it
    paths = [word.partition("=")[2] for words in monitors for word in words if word.startswith("--autoscaling-config=")]
    return None if not paths else Autoscaler(kinds_of(Path(os.path.expanduser(paths[0])).read_text(encoding="utf-8")))


def kinds_of(configuration: str) -> dict[str, Node]:
    """Return the kinds of worker nodes that a cluster's configuration (YAML) lets the autoscaler start, with what each has (empty: not said)."""
    settings = yaml.safe_load(configuration)
    kinds = settings.get("available_node_types") or {}
    head = settings.get("head_node_type")
    return {
        name: kind.get("resources") or {}
        for name, kind in kinds.items()
        if kind.get("max_workers", 0 if name == head else settings.get("max_workers", 0)) > 0
    }


def _commands() -> Sequence[list[str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace").split("\0"))
        except OSError:  # it has ended
            continue
    return found
