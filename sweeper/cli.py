"""The command line: `python -m sweeper run SPACE`, then `status`, `rank`, `show`, `query`.

Reading commands import neither torch nor ray. Exit status: 0 all trials completed, 1 some failed, 2 unusable arguments, 130 interrupted.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sweeper.tables import FORMATS, print_rows

if TYPE_CHECKING:
    from sweeper.datasets import Splits
    from sweeper.plan import Plan
    from sweeper.results import Results

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
data_app = typer.Typer(no_args_is_help=True, help="Fetch, list and verify data sets.")
app.add_typer(data_app, name="data")
errors = Console(stderr=True, highlight=False)

Space = Annotated[str, typer.Argument(metavar="SPACE", help="A name in search_spaces/, or the path of your own .py file.")]
Root = Annotated[Path, typer.Option("--results", metavar="ROOT", help="The results root.")]
Format = Annotated[str, typer.Option("--format", help=", ".join(FORMATS))]
Dataset = Annotated[str | None, typer.Option(help="digits, fashion-mnist or cifar10.")]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set's official files; else the cache, else a download.")]
Scale = Annotated[str, typer.Option(help="small (a CPU), medium (one GPU) or paper.")]
Evaluation = Annotated[str | None, typer.Option(help="quick (prunes, never ranks) or standard.")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Seeds 0 to N-1 of every variant.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of every trial that has it; may be repeated.")]
Epsilons = Annotated[str | None, typer.Option(metavar="E,E,…", help="Grid of gray-box and transfer attacks, such as 2/255,8/255.")]
Cpus = Annotated[int | None, typer.Option(help="CPUs, and torch threads, of each trial; default: the scale's.")]
DEFAULT_ROOT = Path("results")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what is wrong with the arguments into one line on standard error and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        errors.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None


def _plan(
    space: str,
    dataset: str | None,
    data: Path | None,
    scale: str,
    evaluation: str | None,
    seeds: int,
    settings: list[str] | None,
    epsilons: str | None,
    cpus: int | None,
) -> "tuple[Plan, Splits]":
    from sweeper import datasets, lookup, plan, scales

    if scale not in scales.SCALES:
        raise ValueError(f"no scale named {scale!r}{lookup.nearest(scale, scales.SCALES)}; available: {', '.join(scales.SCALES)}")
    module = lookup.find("search_spaces", space)
    name = lookup.canonical(Path(space).stem if space.endswith(".py") else space)
    base = dict(_assignment(text) for text in settings or [])
    chosen = lookup.canonical(str(dataset or base.pop("dataset", None) or "digits"))
    defaults = scales.trial_defaults(chosen, scale)
    caps = tuple(base.get(cap, defaults[cap]) for cap in ("train_images", "validation_images", "test_images"))
    splits = datasets.load(chosen, root=data, caps=caps)  # pyright: ignore[reportArgumentType]
    made = plan.from_space(
        name,
        module,
        fingerprint=splits.fingerprint,
        dataset=chosen,
        scale=scale,
        evaluation_name=evaluation,
        seeds=seeds,
        settings=base,
        threads=cpus,
        epsilons=None if epsilons is None else tuple(_number(word) for word in epsilons.split(",")),
    )
    return made, splits


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value.strip()


def _number(word: str) -> float:
    top, slash, bottom = word.strip().partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"an epsilon is a number or a fraction such as 8/255, got {word!r}") from None


@app.command()
def run(
    space: Space,
    dataset: Dataset = None,
    data: Data = None,
    scale: Scale = "small",
    evaluation: Evaluation = None,
    seeds: Seeds = 1,
    settings: Set = None,
    epsilons: Epsilons = None,
    results: Root = DEFAULT_ROOT,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; default: this machine.")] = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="GPUs of each trial, whole or a fraction; default: 1 if this machine has one, at medium and paper.")
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at once, at most.")] = None,
    inline: Annotated[bool, typer.Option("--inline", help="Everything in this process, without Ray.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try trials again that failed by themselves (nan, oom, bug).")] = False,
) -> None:
    """Run what is missing of a search space, then rank it. Running again continues."""
    with refusing():
        plan, splits = _plan(space, dataset, data, scale, evaluation, seeds, settings, epsilons, cpus_per_trial)
        if dry_run:
            _print_plan(plan, results, "table")
            return
        data = data.absolute() if data else None
        from sweeper.estimate import check_space

        check_space(plan, results)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    from sweeper.live import Display
    from sweeper.sweep import inline as run_inline
    from sweeper.sweep import run_sweep, state_of

    with refusing():
        gpus = _gpus(gpus_per_trial, scale)
        threads = plan.trials[0].config.numerics.threads
        slots = 1 if inline else max(1, (os.cpu_count() or 1) // threads)
        execute = run_inline if inline else _ray_executor(threads, gpus, max_concurrent, address)
        try:
            with Display(slots=min(slots, max_concurrent or slots)) as display:
                finished = run_sweep(plan, splits, results, data, execute, display, retry_failed=retry_failed)
        except KeyboardInterrupt:
            errors.print("interrupted; what was computed is stored, and the same command continues")
            raise typer.Exit(130) from None
    state = state_of(plan, results)
    for problem in [end for end in finished if end.status == "failed"]:
        errors.print(f"failed ({problem.reason}): {problem.message}; log: {problem.log}", style="red", markup=False, soft_wrap=True)
    if plan.evaluation.name == "quick":
        errors.print("the quick evaluation never ranks; see `status` and `query`, or run with --evaluation standard")
    else:
        rank(plan.sweep, results=results, dataset=plan.dataset)
    raise typer.Exit(1 if state.missing else 0)


def _gpus(asked: float | None, scale: str) -> float:
    if asked is not None:
        if asked < 0:
            raise ValueError(f"--gpus-per-trial must be at least 0, got {asked:g}")
        return asked
    import torch

    return 1.0 if scale != "small" and torch.cuda.is_available() else 0.0


def _ray_executor(threads: int, gpus: float, max_concurrent: int | None, address: str | None) -> Any:
    from sweeper.driver import Resources, executor  # only here is Ray imported

    return executor(Resources(cpus=threads, gpus=gpus, max_concurrent=max_concurrent, address=address))


@app.command()
def plan(
    space: Space,
    dataset: Dataset = None,
    data: Data = None,
    scale: Scale = "small",
    evaluation: Evaluation = None,
    seeds: Seeds = 1,
    settings: Set = None,
    epsilons: Epsilons = None,
    results: Root = DEFAULT_ROOT,
    cpus_per_trial: Cpus = None,
    format: Format = "table",
) -> None:
    """Say what `run` would do: trials, shared stages, what is stored already, estimated time and bytes."""
    with refusing():
        made, _ = _plan(space, dataset, data, scale, evaluation, seeds, settings, epsilons, cpus_per_trial)
        _print_plan(made, results, format)


def _print_plan(plan: "Plan", root: Path, format: str) -> None:
    from sweeper.estimate import describe

    _check_format(format)
    rows, notes = describe(plan, root, slots=max(1, (os.cpu_count() or 1) // plan.trials[0].config.numerics.threads))
    print_rows(rows, format, title=f"{plan.sweep} on {plan.dataset} ({plan.scale}, {plan.evaluation.name})", notes=notes)


@app.command()
def trial(config: Annotated[Path, typer.Argument(help="JSON with `config` (a trial's, from the trials table) and optionally `evaluation`.")],
          data: Data = None, results: Root = DEFAULT_ROOT) -> None:  # fmt: skip
    """Run one trial in this process, without Ray: for a debugger, or to repeat a stored one."""
    from sweeper.sweep import run_one

    with refusing():
        finished = run_one(config, results, data.absolute() if data else None)
    print_rows([{"trial_id": finished.trial_id, "status": finished.status, **finished.figures, "log": finished.log}], "table")
    if finished.status == "failed":
        errors.print(finished.message, style="red", markup=False)
        raise typer.Exit(1)


def _open(root: Path) -> "Results":
    from sweeper.results import Results

    if not (root / "store.json").exists():
        raise ValueError(f"no results under {root.absolute()}; run a sweep first, or name the root with --results")
    return Results(root, on_problem=lambda problem: errors.print(f"left out: {problem}", style="yellow", markup=False, soft_wrap=True))


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"no format named {format!r}; available: {', '.join(FORMATS)}")


@app.command()
def rank(
    sweep: Annotated[str, typer.Argument(metavar="SPACE")],
    results: Root = DEFAULT_ROOT,
    dataset: Dataset = None,
    by: Annotated[str, typer.Option(help="robust_score, clean, psnr, seconds, or THREAT/ATTACK@EPSILON such as graybox/pgd@0.1.")] = "robust_score",
    plan_hash: Annotated[str | None, typer.Option("--plan", help="A plan's hash; default: the one run last.")] = None,
    format: Format = "table",
) -> None:
    """Rank a sweep's variants; missing and failed trials are named, never dropped."""
    from sweeper.ranking import rank as rank_rows

    with refusing():
        _check_format(format)
        ranking = rank_rows(_open(results), sweep, dataset=dataset, by=by, plan_hash=plan_hash)
        print_rows(ranking.rows if format == "json" else ranking.shown(), format, title=ranking.title, notes=ranking.notes)


@app.command()
def status(sweep: Annotated[str | None, typer.Argument(metavar="[SPACE]")] = None, results: Root = DEFAULT_ROOT, format: Format = "table") -> None:
    """Say how far each sweep is; with a SPACE, how each of its trials is."""
    from sweeper.inspection import overview, trial_states

    with refusing():
        _check_format(format)
        store = _open(results)
        rows = overview(store) if sweep is None else trial_states(store, sweep)
        print_rows(rows, format, title="" if sweep is None else sweep)


@app.command()
def show(trial_id: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, or its first characters.")], results: Root = DEFAULT_ROOT,
         format: Format = "table") -> None:  # fmt: skip
    """Show one trial: its settings, every score with its interval, its codebooks."""
    from sweeper.inspection import show as show_trial

    with refusing():
        _check_format(format)
        shown = show_trial(_open(results), trial_id)
        if format == "json":
            print(json.dumps(shown, default=str))
            return
        for title, rows in shown.items():
            print_rows(rows, format, title=title)
            print()


@app.command()
def query(sql: Annotated[str, typer.Argument(metavar="SQL")], results: Root = DEFAULT_ROOT, format: Format = "table") -> None:
    """Ask the tables in SQL (DuckDB): sweeps, trials, attempts, scores, latents, epochs, samples, sample_sets, runs."""
    with refusing():
        _check_format(format)
        columns, rows = _open(results).query(sql)
        print_rows([dict(zip(columns, row, strict=True)) for row in rows], format, columns=columns)


@app.command()
def doctor(
    results: Root = DEFAULT_ROOT,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Move damaged and foreign files out of the way.")] = False,
) -> None:
    """Check every file under a results root; name those that are damaged or foreign."""
    with refusing():
        store = _open(results)
        problems = store.problems()
        for problem in problems:
            moved = f" -> {store.quarantine(problem.path)}" if quarantine else ""
            print(f"{problem}{moved}")
    print(
        f"{len(problems)} damaged or foreign files"
        + ("" if quarantine or not problems else "; --quarantine moves them away, and `run` makes them again")
    )
    raise typer.Exit(1 if problems and not quarantine else 0)


@app.command()
def compact(results: Root = DEFAULT_ROOT, grace_hours: Annotated[float, typer.Option(help="Delete replaced files older than this.")] = 24.0) -> None:
    """Merge the tables' many small files into few large ones, and delete what that replaced long ago."""
    with refusing():
        store = _open(results)
        merged = store.compact()
        removed = store.clean(grace_hours * 3600)
    print(f"{merged or 'nothing to merge'}; {len(removed)} replaced files deleted")


@data_app.command("list")
def data_list(format: Format = "table") -> None:
    """List the data sets, and where each is found."""
    from sweeper import datasets

    with refusing():
        _check_format(format)
        print_rows(datasets.describe(), format)


@data_app.command("fetch")
def data_fetch(name: str) -> None:
    """Download a data set's official files into the cache, checked by checksum."""
    from sweeper import datasets

    with refusing():
        print(datasets.fetch(name))


@data_app.command("verify")
def data_verify(name: str, data: Data = None, format: Format = "table") -> None:
    """Check a data set's files against the official checksums and the format's rules."""
    from sweeper import datasets

    with refusing():
        _check_format(format)
        rows = datasets.verify(name, data)
        print_rows(rows, format)
    raise typer.Exit(0 if all(row["ok"] for row in rows) else 1)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `… | head` has read enough
        sys.stdout = None
        sys.exit(0)
