"""The commands for a sweep that runs elsewhere: watch, stop. They need nothing but its results root, and import neither torch nor ray."""

import json
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.arguments import DEFAULT_ROOT, Root, errors, refusing
from sweeper.inspect_results import open_results

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from sweeper.live import Screen
    from sweeper.storage import Store
    from sweeper.watching import Heard

Sweep = Annotated[str, typer.Argument(metavar="SPACE", help="The search space that runs.")]
POLL = 1.0  # seconds between two looks at the root


def watch(
    sweep: Sweep,
    results: Root = DEFAULT_ROOT,
    once: Annotated[bool, typer.Option("--once", help="Print what is known now, and stop.")] = False,
    wait: Annotated[float, typer.Option("--wait", min=0, metavar="SECONDS", help="Wait so long for a run to begin.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="The state as one line of JSON whenever it changes, on standard output.")] = False,
) -> None:
    """Watch a sweep that runs elsewhere, until it ends.

    From any machine that can read the results root. Shows what its own terminal shows, at most a few seconds later. Exit status: the run's own; 1 if
    it seems dead, which --once says after half a minute of silence, and otherwise ends the watching after 5 minutes more.
    """
    from sweeper.live_state import sweep_of
    from sweeper.storage import open_store

    with refusing():
        files, name = open_store(results), sweep_of(sweep)
        heard = _first(files, name, wait)  # a run that is waited for may have to make its root first
        if as_json:
            heard = _print_json(files, heard, once)
        elif once:
            _print_once(heard)
        else:
            heard = show(_followed(files, heard)) or heard
    raise typer.Exit(1 if heard.is_silent else heard.state.exit_status or 0)


def _first(files: "Store", sweep: str, wait: float) -> "Heard":
    """Return the run to watch: the one that goes on, or, if none begins within so many seconds, the one that ended last."""
    from sweeper.watching import run_of, seen

    deadline = time.monotonic() + wait
    while True:
        heard = run_of(files, sweep)
        if (heard is not None and heard.is_alive) or time.monotonic() >= deadline:
            break
        time.sleep(min(POLL, max(0.0, deadline - time.monotonic())))
    if heard is None:
        raise ValueError(seen(open_results(files).store, sweep))
    return heard


def _followed(files: "Store", heard: "Heard") -> "Iterator[Heard]":
    """Yield what is known of a run, again and again until it has ended or seems dead."""
    from sweeper.watching import listen

    yield heard
    while heard.state.is_running and not heard.is_dead:
        time.sleep(POLL)
        heard = listen(files, heard.name, heard) or heard
        yield heard


def show(states: "Iterator[Heard]") -> "Heard | None":
    """Show a run until it ends, and return its end: on a terminal what its own terminal shows, else the lines that it says."""
    from sweeper.live import Screen, render
    from sweeper.live_state import Line

    first = next(states, None)
    if first is None:
        return None
    current = first

    def draw() -> "RenderableType":
        return render(current.state, time.monotonic(), current.warning)

    state, has_warned = current.state, False
    said = max(0, state.said - len(state.lines))  # what was said before is no gap
    with Screen(draw, errors) as screen:
        screen.say(Line(f"{state.sweep} on {state.host} (process {state.pid}) since {state.started[:19].replace('T', ' ')} UTC"))
        said = _say_new(screen, current, said)
        for current in states:
            said = _say_new(screen, current, said)
            if current.is_silent and not has_warned and not errors.is_terminal:
                screen.say(Line(current.warning, is_bad=True))
            has_warned = current.is_silent
    if not current.state.is_running:
        _say_end(current)
    elif current.is_dead:
        say_loss(current)
    return current


def _say_new(screen: "Screen", heard: "Heard", said: int) -> int:
    from sweeper.live_state import Line, new_lines

    lines, lost = new_lines(heard.state, said)
    if lost:
        screen.say(Line(f"… {lost} lines that came faster than they were read"))
    for line in lines:
        screen.say(line)
    return heard.state.said


def _say_end(heard: "Heard") -> None:
    from sweeper.live_state import duration

    ago = f", {duration(heard.silence)} ago" if heard.silence > 60 else ""
    errors.print(f"the run on {heard.state.host} has ended{ago}: {heard.end}", soft_wrap=True, markup=False)


def say_loss(heard: "Heard") -> None:
    errors.print(f"{heard.loss}; `run` again continues", style="red", soft_wrap=True, markup=False)


def _print_once(heard: "Heard") -> None:
    from rich.console import Console

    from sweeper.live import render

    Console(highlight=False).print(render(heard.state, heard.at if not heard.state.is_running else time.monotonic(), heard.warning))
    if not heard.state.is_running:
        _say_end(heard)


def _print_json(files: "Store", heard: "Heard", once: bool) -> "Heard":
    """Print a run's state, each time as a line with `silence`, the seconds since it was written."""
    shown = ""
    for current in _followed(files, heard):
        heard = current
        if heard.identity != shown or heard.is_silent:
            print(json.dumps({**json.loads(files.read(heard.name)), "silence": round(heard.silence, 1)}), flush=True)
            shown = heard.identity
        if once:
            break
    return heard


def stop(
    sweep: Sweep,
    results: Root = DEFAULT_ROOT,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Wait so long for the run to end.")] = 60.0,
    host: Annotated[str | None, typer.Option("--from", hidden=True)] = None,
) -> None:
    """Stop a sweep that runs elsewhere, as Ctrl-C would there.

    What was computed is stored, and running again continues. Returns when the run has ended. Exit status: 0 also if it had ended before, 1 if it has
    not ended within --timeout (it still will when it hears of it) or seems dead, 2 if no run of that name was seen.
    """
    from sweeper.live_file import STOP_FOLDER
    from sweeper.live_state import duration, file_name, sweep_of
    from sweeper.watching import listen, run_of, seen

    with refusing():
        files, name = open_results(results).folder.store, sweep_of(sweep)
        heard = run_of(files, name)
        if heard is None:
            raise ValueError(seen(files, name))
        state = heard.state
        if not state.is_running:
            errors.print(
                f"no run of {state.sweep} goes on: the last one, on {state.host}, has ended {duration(heard.silence)} ago: {heard.end}",
                soft_wrap=True, markup=False,
            )  # fmt: skip
            return
        if heard.is_silent:
            errors.print(f"{heard.loss}; nothing to stop; the same `run` continues", style="red", soft_wrap=True, markup=False)
            raise typer.Exit(1)
        request = file_name(state.sweep, STOP_FOLDER)
        asked = {"run": state.run, "host": host or socket.gethostname(), "asked": datetime.now(UTC).isoformat(timespec="seconds")}
        files.replace(request, json.dumps(asked).encode())
        deadline = time.monotonic() + timeout
        while heard.state.is_running and heard.state.run == state.run and time.monotonic() < deadline:
            time.sleep(0.25)
            heard = listen(files, heard.name, heard) or heard
        if not heard.state.is_running or heard.state.run != state.run:
            files.delete(request)  # it may have ended by itself
            how = heard.end if heard.state.run == state.run else "ended, and another one has begun"
            errors.print(f"{state.sweep} on {state.host} (process {state.pid}): {how}; `run` again continues", soft_wrap=True, markup=False)
            return
    errors.print(
        f"{state.sweep} on {state.host} (process {state.pid}) has not ended within {timeout:g} s, last heard of {duration(heard.silence)} ago; "
        "it stops when it hears of it", style="red", soft_wrap=True, markup=False,
    )  # fmt: skip
    raise typer.Exit(1)


COMMANDS = (watch, stop)
