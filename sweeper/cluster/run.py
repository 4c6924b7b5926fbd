"""What all work of a run shares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sweeper.cluster.nodes import Nodes
from sweeper.cluster.resources import Resources
from sweeper.sweep import View
from sweeper.worker import Job


@dataclass(frozen=True)
class Run:
    """A job on a Ray that is connected.

    Args:
        is_interrupted: Was Ctrl-C pressed? Asked between steps.
        expected: What every machine must have (`provenance.identity`); None where there is only this one.
    """

    job: Job
    resources: Resources
    view: View
    is_interrupted: Callable[[], bool]
    nodes: Nodes
    expected: Mapping[str, str] | None = None
