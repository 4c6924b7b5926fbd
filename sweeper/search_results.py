"""What the command `run` does with a search space that is sampled: search, then score its Pareto set on the test images and print it.

Also importance and suggest-next, which read tables and import neither torch nor ray.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Asked, Format, Root, check_format, errors, refusing
from sweeper.compare_results import Dataset, PlanHash, Sweep
from sweeper.execution import Means, run_plan, run_search_plan
from sweeper.inspect_results import open_results
from sweeper.tables import RAW_FORMATS, print_rows

if TYPE_CHECKING:
    from sweeper.search.plan import SearchPlan

Trials = Annotated[int | None, typer.Option(metavar="N", help="Search: how many trials; default: the space's BUDGET, else 40.")]
Minutes = Annotated[float | None, typer.Option(metavar="M", help="Search: no trial is begun later than M minutes after the start.")]
GpuHours = Annotated[float | None, typer.Option(metavar="H", help="Search: no trial is begun when the search has taken so many GPU-hours.")]
Sampler = Annotated[str | None, typer.Option(metavar="NAME", help="Search: tpe, nsga2, random, quasi-random or cma-es; default: the space's.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="NAME", help="Search: none, asha, median or pbt (one objective), halving (any number); default: the space's.")
]
SearchSeed = Annotated[int | None, typer.Option(metavar="N", help="Search: the sampler's seed, default 0; another one is another search.")]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Search: mirror it into an Optuna storage, such as sqlite:///study.db, for its dashboard.")
]
WarmStart = Annotated[list[str] | None, typer.Option(metavar="SWEEP", help="Search: offer it this earlier sweep's trials; may be repeated.")]


@dataclass(frozen=True)
class SearchOptions:
    """The options that only a search has."""

    trials: int | None = None
    minutes: float | None = None
    gpu_hours: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    search_seed: int | None = None
    storage: str | None = None
    warm_start: tuple[str, ...] = ()
    price_per_hour: float | None = None

    def refuse_for_ablation(self, space: str) -> None:
        """Refuse what an ablation cannot heed.

        Raises:
            ValueError: Naming the option.
        """
        for name, value in vars(self).items():
            if value not in (None, ()):
                raise ValueError(f"--{name.replace('_', '-')} is for searches, and {space!r} lists its variants: it has no suggest(trial)")


def make_search(asked: Asked, evaluation: str | None, seeds: int | None, split: str, options: SearchOptions) -> "SearchPlan":
    """Return the plan of a search.

    Raises:
        ValueError: For an option that a search does not have, or a space that cannot be searched.
    """
    from sweeper.search.plan import plan_search
    from sweeper.search.space import read_space

    if seeds is not None:
        raise ValueError(f"a search runs each proposal with one seed (--set seed=0); `refine` runs the best with more; got --seeds {seeds}")
    if split != "test":
        raise ValueError("a search is always scored on validation images, and its Pareto set on the test images; --split is not needed")
    for name in ("trials", "minutes", "gpu_hours"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {value:g}")
    space = read_space(
        asked.name,
        asked.module,
        trials=options.trials,
        seconds=None if options.minutes is None else 60 * options.minutes,
        gpu_hours=options.gpu_hours,
        sampler=options.sampler,
        scheduler=options.scheduler,
        evaluation=evaluation,
        seed=options.search_seed,
    )
    return plan_search(
        asked.name,
        space,
        asked.module,
        Path(str(asked.module.__file__)).read_text(encoding="utf-8"),
        fingerprint=asked.splits.fingerprint,
        dataset=asked.dataset,
        scale=asked.scale,
        settings=asked.settings,
        threads=asked.threads,
        epsilons=asked.epsilons,
    )


def run_and_print(
    asked: Asked,
    plan: "SearchPlan",
    results: "Root",
    data: Path | None,
    means: Means,
    options: SearchOptions,
    *,
    retry_failed: bool,
) -> int:
    """Search, score the Pareto set on the test images, print it; return the exit status."""
    from sweeper.search.outcome import front_plan, outcome
    from sweeper.search.stored import read_search

    searched = run_search_plan(plan, asked.splits, results, data, means, options.warm_start, options.storage, retry_failed=retry_failed)
    with refusing():
        store = open_results(results)
        search = read_search(store, plan.sweep, plan_hash=plan.search_id)
        front = search.pareto()
        test = front_plan(store, search, front) if front else None
    failed = sum(trial.state in ("failed", "missing") for trial in search.trials)
    if test is not None:
        failed += len(run_plan(test, asked.splits, results, data, means, retry_failed=retry_failed).missing)
    with refusing():
        store = open_results(results)
        found = outcome(store, read_search(store, plan.sweep, plan_hash=plan.search_id))
        own = f"Sampler and rungs took {searched.search.seconds:.1f} of {searched.seconds:.0f} s of the search."
        print_rows(found.shown(), "table", title=found.title, notes=[*found.notes, own])
        further = f"next: importance {plan.sweep} (which settings matter), refine {plan.sweep} (more seeds), export TRIAL --to DIR"
        errors.print(further, soft_wrap=True, markup=False)
    return 1 if failed else 0


def importance(
    sweep: Sweep,
    by: Annotated[str, typer.Option(metavar="WHAT", help="Ablation: robust_score (default), clean, or THREAT/ATTACK@EPSILON.")] = "robust_score",
    dataset: Dataset = None,
    plan_hash: PlanHash = None,
    results: Root = DEFAULT_ROOT,
    format: Format = "table",
) -> None:
    """Say which settings matter.

    Of a search: each setting's share of what tells the best trials from the rest (PED-ANOVA), for each objective. Of an ablation: the effect of each
    factor against the reference, paired seed by seed, with its interval.
    """
    from sweeper.search.importance import of_ablation, of_search
    from sweeper.search.stored import read_search
    from sweeper.stored_plans import is_search, latest_plan

    with refusing():
        check_format(format)
        store = open_results(results)
        if is_search(store, latest_plan(store, sweep, dataset, plan_hash)[0]["plan_hash"]):
            found = of_search(read_search(store, sweep, dataset, plan_hash))
        else:
            found = of_ablation(store, sweep, by=by, dataset=dataset, plan_hash=plan_hash)
        print_rows(found.rows if format in RAW_FORMATS else found.shown(), format, title=found.title, notes=found.notes)


def suggest_next(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was run: its name, or the path of your own .py file.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, metavar="N", help="How many proposals.")] = 3,
    sampler: Sampler = None,
    search_seed: SearchSeed = None,
    dataset: Dataset = None,
    plan_hash: PlanHash = None,
    results: Root = DEFAULT_ROOT,
    format: Format = "table",
) -> None:
    """Say what the sampler would try next, and run nothing.

    After everything that the search has told it so far; each proposal counts as running for those after it.
    """
    from sweeper import lookup
    from sweeper.search.importance import told_of
    from sweeper.search.outcome import words
    from sweeper.search.space import read_space
    from sweeper.search.stored import read_search
    from sweeper.search.study import next_proposals

    with refusing():
        check_format(format)
        search = read_search(open_results(results), space, dataset, plan_hash)
        if search.scheduler == "pbt":
            raise ValueError("scheduler 'pbt' asks its sampler for the members' first values alone; what follows is decided by their scores")
        module = lookup.find("search_spaces", space)
        if not hasattr(module, "suggest"):
            raise ValueError(f"search space {space!r} has no suggest(trial), so there is nothing to ask a sampler for")
        proposals = next_proposals(read_space(search.sweep, module, sampler=sampler or search.sampler, seed=search_seed), told_of(search), count)
        rows = [{"number": len(search.trials) + place, "params": proposal.params} for place, proposal in enumerate(proposals)]
        shown = [{"trial": f"#{row['number']}", "parameters": words(row["params"])} for row in rows]
        notes = [f"After {len(search.trials)} trials, by {sampler or search.sampler}, seed {search_seed or 0}; more --trials run on."]
        print_rows(rows if format in RAW_FORMATS else shown, format, title=f"{search.title}: what the sampler would try next", notes=notes)


COMMANDS = (importance, suggest_next)
