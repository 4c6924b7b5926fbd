"""The command `logs`: what a trial wrote into its log, wherever it ran; read through the results root, without torch and ray."""

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Root, errors, refusing
from sweeper.inspect_results import open_results
from sweeper.operate_results import POLL, say_loss

if TYPE_CHECKING:
    from sweeper.results import Results
    from sweeper.storage import Store

LOGS = "logs"
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO COMPLETED|ERROR|[A-Z]+)", re.MULTILINE)


def logs(
    trial_id: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, or its first characters; stage-KEY for a stage that failed.")],
    results: Root = DEFAULT_ROOT,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial, or the run, has ended.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, metavar="N", help="Only the last N lines of what is there; default: all.")
    ] = None,
) -> None:
    """Print a trial's log, of a running or failed one, too.

    From any machine that can read the results root, wherever the trial runs.
    """
    with refusing():
        store = open_results(results)
        files = store.folder.store
        found = _log_of(files, store, trial_id)
        errors.print(files.shown(found[0]) + (f" (also {', '.join(found[1:])})" if found[1:] else ""), soft_wrap=True, markup=False)
        text = _text(files, found[0])
        written = text.splitlines(keepends=True)
        _write("".join(written if lines is None else written[max(0, len(written) - lines) :]))
        if follow:
            _follow(files, found[0], text)


def _log_of(files: "Store", results: "Results", first_characters: str) -> list[str]:
    """Return the logs of the trial that begins with these characters, the one that was written last before the others.

    Raises:
        ValueError: If no trial begins so, several do, or it has written none.
    """
    from sweeper.inspection import trial_named

    there: dict[str, list[str]] = {}  # trial or failed stage -> its logs: one for each sweep that it is in, and those of checks that failed
    for folder in files.names(LOGS):
        for name in files.names(f"{LOGS}/{folder}"):
            if name.endswith(".log") and name.startswith(first_characters):
                stem = name.removesuffix(".log")
                there.setdefault(stem if stem.startswith("stage-") else stem.partition("-")[0], []).append(f"{LOGS}/{folder}/{name}")
    if len(there) == 1:
        (found,) = there.values()
        return sorted(found, key=lambda name: _modified(files, name), reverse=True)
    name = trial_named(results, first_characters)
    if name not in there:
        raise ValueError(f"trial {name} has no log under {files.url}: it has not begun")
    return sorted(there[name], key=lambda name: _modified(files, name), reverse=True)


def _modified(files: "Store", name: str) -> float:
    found = files.stat(name)
    return 0.0 if found is None else found.modified


def _text(files: "Store", name: str) -> str:
    return files.read(name).decode("utf-8", "replace")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _follow(files: "Store", name: str, text: str) -> None:
    """Print what is added to a log until its trial or the run has ended; a log that was begun anew is printed from its start.

    Raises:
        typer.Exit: 1 if the run seems dead; a sentence on standard error says so.
    """
    from sweeper.live_state import FOLDER
    from sweeper.watching import listen

    heard, identity, has_warned = None, None, False
    run = f"{FOLDER}/{name.split('/')[1]}.json"
    while not _has_ended(text):
        heard = listen(files, run, heard)  # before the log: what a run that has ended wrote last is then there
        found = files.stat(name)
        if found is not None and found.identity != identity:
            identity, before, text = found.identity, text, _text(files, name)
            _write(text.removeprefix(before))
        if heard is not None and not heard.state.is_running:
            errors.print(f"the run on {heard.state.host} has ended: {heard.end}", soft_wrap=True, markup=False)
            return
        if heard is not None and heard.is_dead:
            say_loss(heard)
            raise typer.Exit(1)
        if heard is not None and heard.is_silent and not has_warned:
            errors.print(heard.warning, style="yellow", soft_wrap=True, markup=False)
            has_warned = True
        time.sleep(POLL)


def _has_ended(text: str) -> bool:
    """Say whether the last thing that a trial wrote is how it ended."""
    records = _RECORD.findall(text)
    return bool(records) and records[-1] in ("INFO COMPLETED", "ERROR")


COMMANDS = (logs,)
