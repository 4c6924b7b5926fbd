"""What runs a sweep's or a search's work on Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from sweeper.cluster.connection import connected
from sweeper.cluster.resources import Resources, check_resources
from sweeper.cluster.root import reachable
from sweeper.cluster.tasks import run_probes, run_stages
from sweeper.cluster.trials import run_search_trials, run_trials
from sweeper.escalation import Probes
from sweeper.plan import PlannedTrial
from sweeper.stages import Stage
from sweeper.sweep import Executor, View
from sweeper.worker import Finished, Job

if TYPE_CHECKING:
    from sweeper.search.running import Feed, SearchExecutor


@contextmanager
def _ready(job: Job, resources: Resources) -> Iterator[Job]:
    """Connect to Ray and return the job as its workers need it."""
    with connected(resources.address), nullcontext(job) if resources.address is None else reachable(job) as reached:
        check_resources(resources)
        yield reached


def executor(resources: Resources, is_interrupted: Callable[[], bool] = lambda: False) -> Executor:
    """Return what runs a job's stages and trials on Ray with these resources.

    Args:
        is_interrupted: Was Ctrl-C pressed? Asked between steps, because a KeyboardInterrupt that falls into Ray's own callbacks is lost there.
    """

    def execute(job: Job, stages: Sequence[Stage], trials: Sequence[PlannedTrial], view: View, probes: Probes) -> list[Finished]:
        with _ready(job, resources) as job:
            run_stages(job, stages, resources, view, is_interrupted)
            finished = run_trials(job, trials, resources, view, is_interrupted) if trials else []
            while due := probes():
                run_probes(job, due, resources, view, is_interrupted)
            return finished

    return execute


def search_executor(resources: Resources, is_interrupted: Callable[[], bool] = lambda: False) -> "SearchExecutor":
    """Return what runs a search's shared stages and its trials on Ray with these resources; see `executor`."""

    def execute(job: Job, stages: Sequence[Stage], feed: "Feed", view: View) -> None:
        with _ready(job, resources) as job:
            run_stages(job, stages, resources, view, is_interrupted)
            run_search_trials(job, feed, resources, view, is_interrupted)

    return execute
