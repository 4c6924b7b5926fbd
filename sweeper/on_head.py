"""`--address http://HEAD:8265` of commands that read or steer: the same command is run on the cluster's head, and its output printed here.

For results that lie on the head's own disk. A root that this machine can read, such as s3://, needs none of it.
"""

import functools
import inspect
import json
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.arguments import errors, refusing

if TYPE_CHECKING:
    from sweeper.cluster.jobs import Head
    from sweeper.watching import Heard

HeadAddress = Annotated[
    str | None, typer.Option("--address", metavar="http://HEAD:8265", help="Run on the head of this cluster, for results on its disk; prints here.")
]


def on_head(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also takes --address."""

    @functools.wraps(command)
    def wrapped(context: typer.Context, address: str | None = None, **given: Any) -> None:
        if address is None:
            return command(**given)
        name, on_screen = str(context.info_name), command.__name__ == "watch" and not given["once"] and not given["as_json"]
        more = {"as_json": True} if on_screen else {"host": socket.gethostname()} if command.__name__ == "stop" else {}
        with refusing():
            from sweeper.cluster.jobs import Head

            head = Head(address)
            words = [name, *words_of(context, {"address": None, **more})]
            status = _watch(head, words) if on_screen else _print(head, words, live=bool(given.get("follow") or given.get("as_json")))
        raise typer.Exit(status)

    own = inspect.signature(command)
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    last = inspect.Parameter("address", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=HeadAddress)
    wrapped.__signature__ = own.replace(parameters=[first, *own.parameters.values(), last])  # pyright: ignore[reportAttributeAccessIssue]
    wrapped.__annotations__ = {**command.__annotations__, "context": typer.Context, "address": HeadAddress}
    return wrapped


def words_of(context: typer.Context, replaced: Mapping[str, Any]) -> list[str]:
    """Return the arguments and options that a command was given as words for the head's shell, a root and a data folder relative to its home.

    Args:
        replaced: Values to take in place of those given; None leaves one out.
    """
    from sweeper.cluster.jobs import on_home

    words: list[str] = []
    for parameter in context.command.params:
        value = {**context.params, **replaced}.get(str(parameter.name))
        option = [] if parameter.param_type_name == "argument" else [max(parameter.opts, key=len)]
        if value is None or value is False or value == ():
            continue
        if value is True:
            words += option
        elif parameter.name in ("results", "data"):
            words += [*option, on_home(str(value))]
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                words += [*option, shlex.quote(str(item))]
    return words


def _submit(head: "Head", words: Sequence[str]) -> str:
    from sweeper.cluster.jobs import relayed

    width = {"COLUMNS": str(shutil.get_terminal_size().columns)} if sys.stdout.isatty() else {}
    return head.submit(relayed(words), environment=width)


def _print(head: "Head", words: Sequence[str], *, live: bool) -> int:
    job = _submit(head, words)
    with closing(head.lines(job, live=live)) as lines:
        for is_output, line in lines:
            out = sys.stdout if is_output else sys.stderr
            out.write(line)
            out.flush()
    return head.exit_status(job)


def _watch(head: "Head", words: Sequence[str]) -> int:
    """Draw here what `watch --json` tells there."""
    from sweeper.operate_results import show

    job = _submit(head, words)
    with closing(_heard(head, job)) as states:
        show(states)
    return head.exit_status(job)


def _heard(head: "Head", job: str) -> "Generator[Heard]":
    from sweeper.live_state import decode
    from sweeper.watching import Heard

    with closing(head.lines(job, live=True)) as lines:
        for is_output, line in lines:
            if is_output:
                at = time.monotonic() - json.loads(line)["silence"]
                yield Heard(decode(line.encode(), at), "", "", at)
            else:
                errors.print(line.rstrip("\n"), soft_wrap=True, markup=False)
