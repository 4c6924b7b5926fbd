"""The command `report`: a sweep's tables, figures and claims in one file, from the result tables alone. Imports neither torch nor ray."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Root, errors, refusing
from sweeper.inspect_results import open_results
from sweeper.tables import print_rows

if TYPE_CHECKING:
    from sweeper.results import Results


def report(
    sweep: Annotated[str, typer.Argument(metavar="SPACE", help="The search space that was run, such as paper.")],
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="The data set; default: that of the last run.")] = None,
    plan_hash: Annotated[str | None, typer.Option("--plan", metavar="HASH", help="A plan, as `status` names it; default: the one run last.")] = None,
    results: Root = DEFAULT_ROOT,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="The file to write; default: ROOT/reports/SPACE-DATASET.html (a bucket's: reports/… here), or DIR/report.html."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also the parts: figures as SVG, PNG and CSV, tables as CSV and LaTeX, images as PNG, checks as CSV."),
    ] = None,
) -> None:
    """Write a sweep's report: one HTML file that opens offline.

    Its tables and figures with intervals, training curves, images, a reviewer's checks, and the paper's claims one by one; of a search instead its
    history, Pareto set, importances and every trial. Prints the file's path; nothing is trained or attacked again.
    """
    with refusing():
        _check_paths(file, out)
        store = open_results(results)
        from sweeper.stored_plans import latest_plan

        first = latest_plan(store, sweep, dataset, plan_hash, ranks=True)[0]
        from sweeper.report.assemble import build
        from sweeper.report.cells import slug
        from sweeper.report.export import export, write_whole
        from sweeper.report.page import render

        made = build(store, sweep, dataset=first["dataset"], plan_hash=first["plan_hash"])
        page = render(made).encode()
        paths = []
        if file is not None or out is None:
            paths.append(file or _default_file(store, results, f"{slug(first['sweep'])}-{slug(first['dataset'])}.html"))
            write_whole(paths[0], page)
        if out is not None:
            paths.append(export(made, out, page)[0])
        for warning in made.warnings:
            errors.print(warning, style="yellow", markup=False, soft_wrap=True)
        claims = [claim for item in made.items() if item.kind == "claims" for claim in item.claims]
        with redirect_stdout(sys.stderr):  # standard output holds the path alone, for a program that opens it
            if claims:
                rows = [{"verdict": claim.verdict, "claim": claim.claim, "where": claim.where, "by its checks": claim.said} for claim in claims]
                print_rows(rows, "table")
        print(paths[0])


def _default_file(store: "Results", results: str, name: str) -> Path:
    """Return ROOT/reports/NAME, or, where the root is no folder of this machine, reports/NAME here."""
    return Path("." if store.store.local_path("") is None else results, "reports", name)


def _check_paths(file: Path | None, out: Path | None) -> None:
    if file is not None and file.is_dir():
        raise ValueError(f"--file takes the name of a file, got the folder {file}")
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out takes a folder, got the file {out}")
