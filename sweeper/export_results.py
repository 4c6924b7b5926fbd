"""The command that makes a trial's defense a folder of its own: export."""

from pathlib import Path
from typing import Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Root, errors, refusing
from sweeper.inspect_results import open_results


def export(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, or its first characters.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write: a new or an empty one.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Files of your own data set, where its module states no IMAGE_SHAPE; ours are not read.")
    ] = None,
    results: Root = DEFAULT_ROOT,
) -> None:
    """Write a trial's defense as a folder of its own, to use without these results.

    Weights, configuration, a model card and the user's own model file. Nothing is trained; what was written is loaded again and held to the stored
    networks, bit for bit. Prints the folder; `sweeper.load_defense(DIR)` loads it.
    """
    with refusing():
        store = open_results(results)
        from sweeper.card import how_to_load
        from sweeper.export import export as write

        with errors.status("exporting"):
            place = write(store, trial, to, force=force, data_root=data.absolute() if data else None)
        print(place)
        errors.print(f"Load it, where sweeper is installed:\n\n{how_to_load(str(place))}", markup=False, soft_wrap=True)
