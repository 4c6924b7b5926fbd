"""Who is making what: a claim on an artifact, so that two nodes, or two sweeps on one root, do not train the same at once.

A claim is advisory. Artifacts are right without it, since the first to store one wins; with it the second waits and reads. It is a file
`claims/<name>/<n>`, created by whoever takes the claim and written anew every few seconds while the work goes on. A claim that no longer changes is
that of a process that died, or of a node that is gone: the next file, n + 1, can be created by one process only, and that one takes over. Times are
measured by the clock of whoever waits, so nodes' clocks need not agree; a dead process of the same machine is seen at once.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sweeper.storage import Store

BEAT_SECONDS = 3.0  # how often the holder shows that it lives
LEASE_SECONDS = 15.0  # how long a claim may stay unchanged before another takes over
POLL_SECONDS = 0.5


@contextmanager
def claimed(store: Store, name: str, is_done: Callable[[], bool], on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold a claim while the block runs, or enter it without one because the work was done meanwhile: look for the result first.

    Args:
        is_done: Has another finished the work? Asked while waiting.
        on_wait: Told who holds the claim (`host, process 123`), whenever that changes.
    """
    mark = uuid.uuid4().hex
    try:
        number = _take(store, name, mark, is_done, on_wait)
    except OSError:  # it is advice: where it cannot be had, the work is done without, and meets the storage itself
        number = None
    if number is None:
        yield
        return
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, _file(name, number), mark, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        with suppress(OSError):  # then it runs out
            for each in _numbers(store, name):
                if each <= number:
                    store.delete(_file(name, each))


def abandon(store: Store, is_gone: Callable[[str, int], bool]) -> None:
    """Give back what processes held that are known to be gone: who watches a cluster knows of a loss before the lease has run out.

    Args:
        is_gone: Host and process id -> is that process gone?
    """
    for name in store.names("claims"):
        for number in _numbers(store, name):
            owner = _parsed(_read(store, _file(name, number)) or b"")
            if "pid" in owner and is_gone(owner["host"], owner["pid"]):
                store.delete(_file(name, number))


def _take(store: Store, name: str, mark: str, is_done: Callable[[], bool], on_wait: Callable[[str], None]) -> int | None:
    seen, since, told = b"", time.monotonic(), None
    while True:
        numbers = _numbers(store, name)
        last = _read(store, _file(name, numbers[-1])) if numbers else None
        if last is None and numbers:  # given back just now
            if is_done():
                return None
            time.sleep(POLL_SECONDS / 10)
            continue
        if last != seen:
            seen, since = last, time.monotonic()
        is_free = last is None or _is_dead(last) or time.monotonic() - since > LEASE_SECONDS
        number = numbers[-1] + 1 if numbers else 1
        if is_free and store.create(_file(name, number), _own(mark, 0)):
            if (last is None or _read(store, _file(name, number - 1)) == last) and _numbers(store, name)[-1:] == [number]:
                return number
            store.delete(_file(name, number))  # what was judged dead had been given back meanwhile, and the work is another's
        if is_done():
            return None
        if not is_free:
            if told != _who(last or b""):
                told = _who(last or b"")
                on_wait(told)
            time.sleep(POLL_SECONDS)


def _read(store: Store, file: str) -> bytes | None:
    try:
        return store.read(file)
    except FileNotFoundError:
        return None


def _beat(store: Store, file: str, mark: str, stop: threading.Event) -> None:
    count = 0
    while not stop.wait(BEAT_SECONDS):
        count += 1
        with suppress(OSError):  # a claim that cannot be kept up is lost in the end: the work is then done twice, and right
            store.replace(file, _own(mark, count))


def _file(name: str, number: int) -> str:
    return f"claims/{name}/{number}"


def _numbers(store: Store, name: str) -> list[int]:
    return sorted(int(found) for found in store.names(f"claims/{name}") if found.isdigit())


def _own(mark: str, count: int) -> bytes:
    return json.dumps({**_this_process(os.getpid()), "mark": mark, "beat": count}).encode()


@cache
def _this_process(pid: int) -> dict[str, Any]:
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _start_of(pid)}


def _is_dead(content: bytes) -> bool:
    """Say whether a claim is that of a process of this machine that is no more."""
    owner = _parsed(content)
    return bool(owner.get("machine")) and owner["machine"] == _machine() and _start_of(owner["pid"]) != owner["started"]


def _who(content: bytes) -> str:
    owner = _parsed(content)
    return f"{owner.get('host', 'an unknown host')}, process {owner.get('pid', '?')}"


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str | None:
    """Return what tells this running system, and its numbering of processes, from all others; None where there is no telling."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """Return when a process of this machine began, in the kernel's ticks; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
