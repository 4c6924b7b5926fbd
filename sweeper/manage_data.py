"""The commands about data sets: list, fetch, verify."""

from pathlib import Path
from typing import Annotated

import typer

from sweeper.arguments import Data, Format, check_format, refusing
from sweeper.tables import RAW_FORMATS, print_rows

DatasetName = Annotated[str, typer.Argument(metavar="NAME", help="digits, fashion-mnist or cifar10.")]
data_app = typer.Typer(no_args_is_help=True, help="Fetch, list and verify data sets.")


@data_app.command("list")
def data_list(format: Format = "table") -> None:
    """List the data sets, and where each is found."""
    from sweeper import datasets

    with refusing():
        check_format(format)
        rows = datasets.describe()
        if format not in RAW_FORMATS:
            rows = [row | {"download": f"{int(str(row['download_bytes'])) / 1e6:.0f} MB"} for row in rows]
            columns = ("name", "train", "validation", "test", "classes", "shape", "where", "download", "licence", "source")
            print_rows(rows, format, columns=columns, droppable=("source", "classes"))
        else:
            print_rows(rows, format)


@data_app.command("fetch")
def data_fetch(name: DatasetName, format: Format = "table") -> None:
    """Download a data set into the cache, once.

    The official files, checked by checksum; what is there and undamaged stays. SWEEPER_CACHE names another cache folder.
    """
    from sweeper import datasets

    with refusing():
        check_format(format)
        rows = datasets.fetch(name)
        print_rows(rows, format, notes=() if rows else (f"{name} is embedded: there is nothing to fetch",))


@data_app.command("verify")
def data_verify(name: DatasetName, data: Data = None, format: Format = "table") -> None:
    """Check a data set's files.

    Against the official checksums, and against the rules of their format. Exit status 1 if a check fails.
    """
    from sweeper import datasets

    with refusing():
        check_format(format)
        rows = datasets.verify(name, data)
        readable = all(row["ok"] for row in rows if row["check"] == "content")
        folder = str(Path(str(rows[0]["file"])).parent)
        if format not in RAW_FORMATS:
            rows = [row | {"file": Path(str(row["file"])).name, "found": str(row["found"]).replace(f"{folder}/", "")} for row in rows]
        note = "The files can be read, but they are not the published ones: a shortened copy, perhaps." if readable else ""
        title = "" if folder == "." else folder
        print_rows(rows, format, title=title, notes=[note] if note and not all(row["ok"] for row in rows) else ())
    raise typer.Exit(0 if all(row["ok"] for row in rows) else 1)
