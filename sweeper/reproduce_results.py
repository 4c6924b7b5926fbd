"""The command that makes a stored number again: reproduce."""

from typing import Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Data, Format, Root, check_format, errors, refusing
from sweeper.inspect_results import open_results
from sweeper.tables import RAW_FORMATS, print_rows


def reproduce(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, or its first characters.")],
    cell: Annotated[str, typer.Argument(metavar="THREAT/ATTACK@EPSILON", help="A stored cell, such as adaptive/pgd@0.05 or clean/none@0.")],
    evaluation: Annotated[
        str, typer.Option(metavar="ID", help="First characters of an evaluation's id, of a trial that was scored in several ways; default: all.")
    ] = "",
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Train every network anew; nothing stored is read but the tables.")] = False,
    data: Data = None,
    results: Root = DEFAULT_ROOT,
    format: Format = "table",
) -> None:
    """Make one cell of a stored trial again, and compare image by image.

    The adversarial images are crafted and scored anew on the stored networks; nothing is written. Exit status 0 if every outcome is as stored, 1 if
    any differs.
    """
    with refusing():
        check_format(format)
        store = open_results(results)
        from sweeper.reproduction import reproduce as make_again

        with errors.status("reading") as status:
            made = make_again(
                store,
                trial,
                cell,
                evaluation=evaluation,
                data_root=data.absolute() if data else None,
                from_scratch=from_scratch,
                progress=lambda stage, done, total, _: status.update(f"{stage} {done}/{total}"),
            )
        print_rows(made.rows if format in RAW_FORMATS else made.shown(), format, title=made.title, notes=made.notes)
    raise typer.Exit(0 if made.is_equal else 1)
