"""The commands that read results: rank, status, show, query, doctor, compact, merge. They import neither torch nor ray."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Format, Root, check_format, errors, refusing
from sweeper.tables import RAW_FORMATS, print_rows

if TYPE_CHECKING:
    from sweeper.results import Results
    from sweeper.storage import Root as StorageRoot

NARROW = ("seconds", "seeds", "perplexity")  # columns of a ranking that a narrow terminal does without, in this order


def open_results(root: "StorageRoot", hint: str = "run a sweep first, or name the root with --results") -> "Results":
    from sweeper.results import Results
    from sweeper.storage import is_root, open_store

    store = open_store(root)
    store.check()
    if not is_root(store):
        raise ValueError(f"no results under {store.url}; {hint}")
    return Results(store, on_problem=lambda problem: errors.print(f"left out: {problem}", style="yellow", markup=False, soft_wrap=True))


def rank(
    sweep: Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was run.")],
    results: Root = DEFAULT_ROOT,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="The data set; default: that of the last run.")] = None,
    by: Annotated[
        str, typer.Option(metavar="WHAT", help="robust_score, clean, psnr, seconds, or THREAT/ATTACK@EPSILON such as graybox/pgd@0.1.")
    ] = "robust_score",
    plan_hash: Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan, as `status` names it; default: the one run last.")] = None,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Rank also what fails a validity check; nothing is checked.")] = False,
    format: Format = "table",
) -> None:
    """Rank a sweep's variants, best first.

    By robust_score, the area under the accuracy curve of the adaptive attack, unless --by says otherwise. Missing and failed trials are named, never
    dropped; a variant that fails a validity check stands last, unranked.
    """
    from sweeper.ranking import rank as rank_rows
    from sweeper.stored_plans import is_search, latest_plan

    with refusing():
        check_format(format)
        store = open_results(results)
        ranking = rank_rows(store, sweep, dataset=dataset, by=by, plan_hash=plan_hash, unchecked=unchecked)
        rows = ranking.rows if format in RAW_FORMATS else ranking.shown()
        notes = list(ranking.notes)
        if is_search(store, latest_plan(store, sweep, dataset, plan_hash, ranks=True)[0]["plan_hash"]):
            notes.append("A search: its objectives and constraints are not heeded here; `pareto` names what may be chosen by them.")
        print_rows(rows, format, title=ranking.title, notes=notes, droppable=NARROW)


def status(
    sweep: Annotated[str | None, typer.Argument(metavar="[SPACE]", help="A search space that was run; without it, all of them.")] = None,
    results: Root = DEFAULT_ROOT,
    plan_hash: Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan of SPACE; default: the one run last.")] = None,
    format: Format = "table",
) -> None:
    """Say how far each sweep is, or each trial of one.

    With a SPACE: its failed trials first, with reason, message and log, then the missing, then the completed.
    """
    from sweeper.inspection import overview, trial_states
    from sweeper.stored_plans import latest_plan, split_of
    from sweeper.watching import note_of

    with refusing():
        check_format(format)
        store = open_results(results)
        if sweep is None:
            print_rows(overview(store), format, droppable=("plan", "evaluation", "images"))
        else:
            rows = trial_states(store, sweep, plan_hash)
            planned = latest_plan(store, sweep, plan_hash=plan_hash)
            words = ", validation images" if split_of(store, planned) == "validation" else ""
            title = f"{sweep}{words}: {sum(row['status'] == 'completed' for row in rows)} of {len(rows)} trials completed"
            print_rows(rows, format, title=title, notes=note_of(store.folder.store, planned[0]["sweep"]))


def show(trial_id: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, or its first characters.")], results: Root = DEFAULT_ROOT,
         format: Format = "table") -> None:  # fmt: skip
    """Show one trial: settings, scores, codebooks, log.

    Every accuracy with its interval, the codebooks' perplexity and usage, and how each try ended.
    """
    from sweeper.inspection import for_people
    from sweeper.inspection import show as show_trial

    with refusing():
        check_format(format)
        shown = show_trial(open_results(results), trial_id)
        if format == "json":
            print(json.dumps(shown, default=str))
            return
        parts = {title: rows for title, rows in shown.items() if rows} if format == "csv" else for_people(shown)
        for index, (title, rows) in enumerate(parts.items()):
            if index:
                print()
            print_rows(rows, format, title=title)


def query(sql: Annotated[str, typer.Argument(metavar="SQL")], results: Root = DEFAULT_ROOT, format: Format = "table") -> None:
    """Ask the tables in SQL (DuckDB).

    Tables: sweeps, trials, evaluations, attempts, scores, distances, latents, strips, epochs, checks, samples, sample_sets, runs; `describe
    scores` lists columns. Scores, distances, latents, strips and epochs show once their trial is completed.
    """
    with refusing():
        check_format(format)
        if not sql.strip(" ;\n"):
            raise ValueError("query takes a statement, such as 'select label, seed from sweeps', got none")
        columns, rows = open_results(results).query(sql)
        print_rows([dict(zip(columns, row, strict=True)) for row in rows], format, columns=columns)


def doctor(
    results: Root = DEFAULT_ROOT,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Move damaged and foreign files out of the way.")] = False,
    cluster: Annotated[Path | None, typer.Option(metavar="FILE", help="Check a cluster file instead: of `ray up`, KubeRay or Slurm.")] = None,
) -> None:
    """Name damaged and foreign files among the tables; with --cluster, what is wrong with a cluster file.

    Every table's file under the results root is read. Exit status 1 if there are any, and they were not moved away. A cluster file is checked on
    this machine, without credentials: exit status 1 if something in it would fail, hang or stand open; advice alone is status 0.
    """
    if cluster is not None:
        _check_cluster(cluster)
    moved = 0
    with refusing():
        store = open_results(results)
        problems = store.problems()
        for problem in problems:
            if quarantine and store.store.stat(problem.name) is not None and "newer" not in problem.reason:
                print(f"{problem} -> {store.quarantine(problem.name)}")
                moved += 1
            else:
                print(problem)
    rest = len(problems) - moved
    print(f"{len(problems)} damaged or foreign files{f', {moved} moved away' if moved else ''}")
    if rest and not quarantine:
        errors.print("--quarantine moves them away; the next `run` makes again what was in them", soft_wrap=True)
    elif moved:
        errors.print("the next `run` makes again what was in them", soft_wrap=True)
    raise typer.Exit(1 if rest else 0)


def _check_cluster(path: Path) -> None:
    with refusing():
        from sweeper.cluster.files import check

        findings = check(path)
    for finding in findings:
        print(finding.shown(path))
    wrong, advice = (sum(finding.level == level for finding in findings) for level in ("error", "advice"))
    errors.print(f"{path}: errors {wrong}, advice {advice}", markup=False, soft_wrap=True)
    if lines := len({finding.line for finding in findings if finding.level == "to fill in"}):
        errors.print(f"NOT READY: {lines} line{'s' * (lines > 1)} to fill in before the cluster can start", style="yellow", soft_wrap=True)
    raise typer.Exit(1 if wrong else 0)


def compact(
    results: Root = DEFAULT_ROOT,
    grace_hours: Annotated[float, typer.Option(metavar="HOURS", help="Delete only what was replaced longer ago than this.")] = 24.0,
) -> None:
    """Merge the tables' many small files into few.

    Also deletes what an earlier merge replaced long ago. Safe beside a running sweep; `run` merges at its end by itself, and deletes nothing.
    """
    with refusing():
        if grace_hours < 0:
            raise ValueError(f"--grace-hours must be at least 0, got {grace_hours:g}")
        store = open_results(results)
        merged = store.compact()
        removed = store.clean(grace_hours * 3600)
    done = f"{merged.parts} files merged into {merged.files} ({merged.bytes / 2**20:.1f} MiB)" if merged else "nothing to merge"
    print(f"{done}; {len(removed)} replaced files deleted")


def merge(
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The results root to take from: a folder or URL. It is only read.")],
    results: Root = DEFAULT_ROOT,
) -> None:
    """Take into --results what another results root has and it has not.

    Trials, networks, adversarial sets, outcomes, logs: a later `run` makes none of it again. Where both have a trial, what is there stays. A copy
    of a folder, half or whole, can be merged too, and so can a root that a sweep is writing to.
    """
    from sweeper.merging import merge as merge_roots
    from sweeper.results import Results

    with refusing():
        source = open_results(other, "merge takes from a root that has some")
        target = Results(results, create=True, on_problem=lambda problem: errors.print(f"left out: {problem}", style="yellow", markup=False))
        merged = merge_roots(target, source)
    print_rows([{"table": table, "rows added": count} for table, count in merged.rows.items()], "table", title=f"{source.root} -> {target.root}")
    print(f"{merged.files} other files copied ({merged.bytes / 2**20:.1f} MiB)")
    if merged.renumbered:
        errors.print(f"{merged.renumbered} tries of trials that both roots have were given later numbers", soft_wrap=True)


COMMANDS = (rank, status, show, query, doctor, compact, merge)
