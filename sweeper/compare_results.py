"""The commands that compare: compare, pareto. They read tables and import neither torch nor ray."""

from typing import Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Format, Root, check_format, refusing
from sweeper.inspect_results import open_results
from sweeper.tables import RAW_FORMATS, print_rows

Sweep = Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was run.")]
PlanHash = Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan, as `status` names it; default: the one run last.")]
Dataset = Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="The data set; default: that of the last run.")]


def compare(
    sweep: Sweep,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[LABEL_OR_TRIAL]...", help="Variants' labels, default all; with --checkpoints two trials' ids.")
    ] = None,
    against: Annotated[str | None, typer.Option(metavar="LABEL", help="What variants are compared with; default: the reference.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="robust_score (default), clean, or THREAT/ATTACK@EPSILON; with --checkpoints the adaptive worst case is the default.",
        ),
    ] = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Compare two trained networks over images, not settings over seeds.")] = False,
    dataset: Dataset = None,
    plan_hash: PlanHash = None,
    results: Root = DEFAULT_ROOT,
    format: Format = "table",
) -> None:
    """Test variants against the reference, seed by seed.

    The paired difference over the seeds with its t interval and p, adjusted by Holm over the rows; one seed is not tested. With --checkpoints,
    McNemar's test of two trials on the same images, which speaks of these two networks only.
    """
    from sweeper.comparison import compare_checkpoints, compare_settings

    with refusing():
        check_format(format)
        if checkpoints and against is not None:
            raise ValueError(f"--against compares settings; --checkpoints takes two trials' ids instead, got --against {against}")
        store = open_results(results)
        if checkpoints:
            made = compare_checkpoints(store, sweep, names or [], by=by, dataset=dataset, plan_hash=plan_hash)
        else:
            made = compare_settings(
                store, sweep, names or [], against=against or "reference", by=by or "robust_score", dataset=dataset, plan_hash=plan_hash
            )
        print_rows(made.rows if format in RAW_FORMATS else made.shown(), format, title=made.title, notes=made.notes)


def pareto(
    sweep: Sweep,
    dataset: Dataset = None,
    plan_hash: PlanHash = None,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Also what fails a validity check; nothing is checked.")] = False,
    results: Root = DEFAULT_ROOT,
    format: Format = "table",
) -> None:
    """Name the variants that no other beats in both clean accuracy and robust_score; of a search, its Pareto set.

    From means over seeds; the others stand below them, with what dominates each. What `rank` does not rank is named and takes no part. Of a search:
    what no other trial beats in its objectives, on validation images, with the test figures beside.
    """
    from sweeper.pareto import pareto as pareto_rows
    from sweeper.ranking import rank
    from sweeper.search.outcome import outcome
    from sweeper.search.stored import read_search
    from sweeper.stored_plans import is_search, latest_plan

    with refusing():
        check_format(format)
        store = open_results(results)
        if is_search(store, latest_plan(store, sweep, dataset, plan_hash)[0]["plan_hash"]):
            if unchecked:
                raise ValueError(
                    "--unchecked is for ablations: what fails a validity check is in no search's Pareto set; `rank --unchecked` lists all"
                )
            found = outcome(store, read_search(store, sweep, dataset, plan_hash))
            print_rows(found.rows if format in RAW_FORMATS else found.shown(), format, title=found.title, notes=found.notes)
            return
        ranking = rank(store, sweep, dataset=dataset, plan_hash=plan_hash, unchecked=unchecked)
        rows = pareto_rows(ranking.rows)
        left_out = [f"{row['label']} ({row['status']})" for row in ranking.rows if row["label"] not in {other["label"] for other in rows}]
        notes = [f"Unranked or without both figures: {'; '.join(left_out)}."] if left_out else []
        notes.append(
            "Means over seeds, not tested: a difference may be chance; `compare` tests it. robust_score and clean may be over different numbers of "
            "images."
        )
        title = ranking.title.replace(", by robust_score", ": clean accuracy and robust_score")
        print_rows(rows if format in RAW_FORMATS else [_shown(row) for row in rows], format, title=title, notes=notes)


def _shown(row: dict) -> dict[str, str]:
    by = row["dominated_by"]
    more = f" and {len(by) - 1} more" if len(by) > 1 else ""
    seeds = str(row["seeds"]) if row["seeds"] == row["planned_seeds"] else f"{row['seeds']} of {row['planned_seeds']}"
    return {
        "variant": row["label"],
        "robust_score %": f"{100 * row['robust_score']:.1f}",
        "clean %": f"{100 * row['clean']:.1f}",
        "dominated by": by[0] + more if by else "none: in the Pareto set",
        "seeds": seeds,
    }


COMMANDS = (compare, pareto)
