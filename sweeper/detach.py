"""`run --detach --address http://HEAD:8265`: the same command submitted to a cluster, with the user's own files; what follows it is printed."""

import json
import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import typer

from sweeper.arguments import errors, host_and_port
from sweeper.lookup import own_files
from sweeper.on_head import words_of
from sweeper.submitted import environment

OUTSIDE = "outside"  # folder of the job for files that do not lie under the current one


def check_detached(address: str | None, *, detach: bool, inline: bool) -> None:
    """Refuse an address of another form than the run takes, and what cannot be submitted; no head is asked.

    Raises:
        ValueError: Naming the option.
    """
    from sweeper.cluster.jobs import check_url

    if not detach:
        if address is not None:
            host_and_port(address)
        return
    if inline:
        raise ValueError("--detach runs on a cluster, and --inline in this process; give one of them")
    if address is None:
        raise ValueError("--detach needs --address, the head's jobs server, such as http://127.0.0.1:8265")
    check_url(address)


def submit_and_say(context: typer.Context, sweep: str, plan_hash: str, parts: Mapping[str, str]) -> None:
    """Submit the command of a context; print the job's id, and on standard error the commands that follow it. See `submit`."""
    address, results = str(context.params["address"]), str(context.params["results"])
    job = submit(context, sweep, plan_hash, parts, address)
    print(job)
    is_shared = "://" in results
    token = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""  # it may have been set for this one command alone
    where = f"--results {shlex.quote(results)}" + ("" if is_shared else f" --address {address}")
    place = results if is_shared or results.startswith(("/", "~")) else f"{results} in the home folder"
    errors.print(f"submitted to {address}; results lie under {place}{'' if is_shared else ' of the head'}", soft_wrap=True, markup=False)
    for command in (f"watch {sweep} --wait 300", f"status {sweep}", f"rank {sweep}", f"stop {sweep}"):
        errors.print(f"  {'' if is_shared else token}python -m sweeper {command} {where}", soft_wrap=True, markup=False, highlight=False)
    errors.print("if no run is seen, why it failed before it began:", soft_wrap=True, markup=False)
    errors.print(f"  {token}ray job logs {job} --address {address}", soft_wrap=True, markup=False, highlight=False)


def submit(context: typer.Context, sweep: str, plan_hash: str, parts: Mapping[str, str], address: str) -> str:
    """Submit the command of a context, whose plan was made here, and return the job's id.

    Args:
        parts: What the plan is made of, as `submitted.parts_of`: the job refuses to run another.

    Raises:
        ValueError: If the plan runs there already, a file cannot travel, the cluster has other code, or the head does not take it.
    """
    from sweeper.cluster.code import check_code
    from sweeper.cluster.jobs import OPEN, Head

    files, replaced = travelling(context.params)
    head = Head(address)
    prefix = f"sweeper-{re.sub('[^A-Za-z0-9_.-]', '_', sweep)}-{plan_hash[:8]}-"
    before = head.jobs(prefix)
    if running := [job.submission_id for job in before if job.status in OPEN]:
        raise ValueError(f"this plan runs there already, as job {running[0]}; `watch` shows it and `stop` ends it")
    check_code(head)
    numbers = [int(number) for job in before if (number := str(job.submission_id).rpartition("-")[2]).isdigit()]
    words = words_of(context, {"detach": None, "address": "auto", **replaced})
    with tempfile.TemporaryDirectory(prefix="sweeper-job-") as folder:
        for name, source in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        command = " ".join(["python", "-m", "sweeper", "run", *words])
        name = f"{prefix}{max(numbers, default=0) + 1}"
        return head.submit(command, name=name, folder=Path(folder) if files else None, environment=environment(parts))


def travelling(given: Mapping[str, object]) -> tuple[dict[str, str], dict[str, object]]:
    """Return the user's own files, as path in the job's folder -> source, and what of the command names them otherwise there.

    A path under the current folder stays as it is, since a search space names its models relative to it. Another one can be named anew only where
    the command itself names it.

    Args:
        given: The command's arguments and options, by parameter.

    Raises:
        ValueError: Naming a file outside the current folder that the search space itself names.
    """
    files, renamed = {}, {}
    for number, (path, source) in enumerate(own_files().items()):
        is_inside = not os.path.isabs(path) and not path.startswith("~") and ".." not in PurePosixPath(path).parts
        there = os.path.normpath(path) if is_inside else f"{OUTSIDE}/{number}/{Path(path).name}"
        files[there] = source
        if not is_inside:
            renamed[path] = there
    settings = given.get("settings")
    assignments = [str(text).partition("=") for text in settings] if isinstance(settings, list | tuple) else []
    values = [(name, _plain(value)) for name, _, value in assignments]
    named = {str(given.get("space")), str(given.get("dataset")), *(value for _, value in values)}
    if lost := [path for path in renamed if path not in named]:
        raise ValueError(
            f"{lost[0]} cannot travel: the search space names it, and it is not under the current folder; name it relative to that, or with --set"
        )
    replaced: dict[str, object] = {name: renamed[str(given[name])] for name in ("space", "dataset") if str(given.get(name)) in renamed}
    if any(value in renamed for _, value in values):
        replaced["settings"] = [
            f"{name}={renamed[plain]}" if plain in renamed else text
            for (name, plain), text in zip(values, settings, strict=True)  # pyright: ignore[reportArgumentType]
        ]
    return files, replaced


def _plain(value: str) -> str:
    try:
        return str(json.loads(value))
    except json.JSONDecodeError:
        return value.strip()
