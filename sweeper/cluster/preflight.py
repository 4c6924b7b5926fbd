"""Do all machines of a cluster have the code and the libraries that the sweep was planned with? Keys see neither."""

from collections.abc import Mapping

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.provenance import difference, identity

SECONDS = 120.0  # for the answer of a node: a worker process must start there and import torch


class Unlike(ValueError):
    """A machine differs from the one that runs the sweep: nothing more may be computed there."""


def check_nodes() -> dict[str, str]:
    """Return what every worker must have, once all alive nodes have it.

    Raises:
        Unlike: Naming the node, what differs, and both versions.
    """
    expected = identity()
    ask = ray.remote(_here)
    asked = [
        (
            node["NodeManagerAddress"],
            ask.options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    for node, answer in asked:
        try:
            found = ray.get(answer, timeout=SECONDS)
        except GetTimeoutError:
            raise Unlike(f"node {node} has not said within {SECONDS:.0f} s what it runs; see its Ray logs") from None
        except (NodeDiedError, TaskUnschedulableError):  # it is gone, and computes nothing
            continue
        except RayError as error:
            raise Unlike(f"node {node} cannot run the sweep's code: {_last_line(error)}; install there what is installed here") from None
        _refuse(node, expected, found)
    return expected


_admitted: list[Mapping[str, str]] = []


def admit(expected: Mapping[str, str] | None) -> None:
    """Refuse to work in a process of a machine that differs, such as one that joined later; asked once per process.

    Args:
        expected: None on the machine that runs the sweep: nothing to compare.

    Raises:
        Unlike: As `check_nodes`.
    """
    if expected is not None and expected not in _admitted:
        _refuse(ray.util.get_node_ip_address(), expected, identity())
        _admitted.append(expected)


def _here() -> dict[str, str]:
    return identity()  # by name, so that a machine answers with its own


def _refuse(node: str, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    if (unlike := difference(expected, found)) is not None:
        raise Unlike(f"node {node} has {unlike}; all machines of a sweep must have the same, so install there what is installed here")


def _last_line(error: RayError) -> str:
    return str(error).strip().splitlines()[-1].strip()
