"""What runs a sweep's or a search's work on Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from ray.exceptions import RayError

from sweeper.cluster.connection import connected
from sweeper.cluster.nodes import Nodes
from sweeper.cluster.preflight import check_nodes
from sweeper.cluster.resources import Resources
from sweeper.cluster.root import reachable
from sweeper.cluster.run import Run
from sweeper.cluster.tasks import run_probes, run_stages
from sweeper.cluster.trials import run_search_trials, run_trials
from sweeper.escalation import Probes
from sweeper.plan import PlannedTrial
from sweeper.stages import Stage
from sweeper.sweep import Executor, View
from sweeper.worker import Finished, Job

if TYPE_CHECKING:
    from sweeper.search.running import Feed, SearchExecutor


def executor(resources: Resources, is_interrupted: Callable[[], bool] = lambda: False) -> Executor:
    """Return what runs a job's stages and trials on Ray with these resources.

    Args:
        is_interrupted: Was Ctrl-C pressed? Asked between steps, because a KeyboardInterrupt that falls into Ray's own callbacks is lost there.
    """

    def execute(job: Job, stages: Sequence[Stage], trials: Sequence[PlannedTrial], view: View, probes: Probes) -> list[Finished]:
        with _begun(job, resources, view, is_interrupted) as run:
            run_stages(run, stages)
            finished = run_trials(run, trials) if trials else []
            while due := probes():
                run_probes(run, due)
            return finished

    return execute


def search_executor(resources: Resources, is_interrupted: Callable[[], bool] = lambda: False) -> "SearchExecutor":
    """Return what runs a search's shared stages and its trials on Ray with these resources; see `executor`."""

    def execute(job: Job, stages: Sequence[Stage], feed: "Feed", view: View) -> None:
        with _begun(job, resources, view, is_interrupted) as run:
            run_stages(run, stages)
            run_search_trials(run, feed)

    return execute


@contextmanager
def _begun(job: Job, resources: Resources, view: View, is_interrupted: Callable[[], bool]) -> Iterator[Run]:
    """Connect to Ray and give what all work of a run shares, once a node can do it and all nodes have the same code."""
    with connected(resources.address):
        nodes = Nodes(resources, view.note)
        try:
            nodes.wait(is_interrupted)
            expected = None if resources.address is None else check_nodes()
            with nullcontext(job) if resources.address is None else reachable(job) as reached:
                yield Run(reached, resources, view, is_interrupted, nodes, expected)
        finally:
            with suppress(RayError):  # of a cluster that is gone: it starts no nodes either
                nodes.want(0)  # else an autoscaler keeps nodes for work that nobody asks for any more
