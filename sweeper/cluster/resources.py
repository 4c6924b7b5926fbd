"""What a trial is granted, and how many run at once."""

from dataclasses import dataclass

import ray


@dataclass(frozen=True)
class Resources:
    """What a trial is granted, how many run at once, and where (None: this machine)."""

    cpus: float = 1.0
    gpus: float = 0.0
    max_concurrent: int | None = None
    address: str | None = None


def check_resources(resources: Resources) -> None:
    """Refuse what no node can grant.

    Raises:
        ValueError: Naming the option, the most that a node has, and what was asked.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, asked, word in (("GPU", resources.gpus, "--gpus-per-trial"), ("CPU", resources.cpus, "--cpus-per-trial")):
        most = max((float(node.get(name, 0)) for node in nodes), default=0.0)
        if asked > most:
            raise ValueError(f"{word} must be at most {most:g}, the {name}s of the largest node, got {asked:g}")


def slots_of(resources: Resources) -> int:
    """Return how many trials run at once, at least 1."""
    total = ray.cluster_resources()
    slots = int(total.get("CPU", 1) // resources.cpus) if resources.cpus else 10_000
    if resources.gpus:
        slots = min(slots, int(total.get("GPU", 0) // resources.gpus))
    return max(1, min(slots, resources.max_concurrent or slots))
