"""A head of its own in a folder of its own: other Rays on this machine neither see it nor are seen by it."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[1]


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Return this process's environment with another HOME, without Ray's settings but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0", **settings}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def workers_of(process: int) -> list[psutil.Process]:
    """Return the processes under this one in which Tune runs trials; one that ends meanwhile is none."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            found += [child] if child.name().startswith("ray::Impl") else []
        except psutil.NoSuchProcess:
            continue
    return found


@contextmanager
def head(home: Path, temporary: Path, *options: str, cpus: int = 1, port: int | None = None, **settings: str) -> Iterator[str]:
    """Start a head and yield its address, HOST:PORT. What was started is killed at the end, and nothing else.

    Args:
        temporary: A folder of a short name: Ray's sockets lie in it.
        settings: Of its environment.
    """
    port = port or free_port()
    ray = Path(sys.executable).with_name("ray")
    words = [
        "start",
        "--head",
        f"--port={port}",
        f"--temp-dir={temporary}",
        f"--num-cpus={cpus}",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    try:
        started = subprocess.run([ray, *words, *options], env=environment(home, **settings), capture_output=True, text=True, timeout=60, check=True)
        found = re.search(r"--address='([^']+)'", started.stdout + started.stderr)
        assert found is not None, started.stdout + started.stderr
        yield found[1]
    finally:
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(home):
                    process.kill()
            except psutil.Error:  # it has ended, or is another user's
                continue


def join(home: Path, address: str, *options: str, **settings: str) -> None:
    """Have one more node join a head of this home, killed with it."""
    ray = Path(sys.executable).with_name("ray")
    words = ["start", f"--address={address}", "--num-cpus=1", "--disable-usage-stats", *options]
    subprocess.run([ray, *words], env=environment(home, **settings), capture_output=True, timeout=60, check=True)
