"""A Ray that is there while a sweep runs: started on this machine, or one that runs already."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import worker

from sweeper.cluster.head import check_head, set_mode


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a running cluster, or start Ray on this machine (None), and leave it at the end.

    Raises:
        ValueError: As `check_head`.
        ConnectionError: If no head answers, or Ray cannot connect to it.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it tells of lost trials, which we do ourselves
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        if "RAY_AUTH_MODE" not in os.environ:  # a Ray that listens on this machine alone, for as long as the sweep runs
            set_mode("disabled")
        cores = os.cpu_count() or 1
        settings |= {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": 256 * 2**20}
    else:
        settings["address"] = check_head(address)
    worker.print_to_stdstream = _hear_nothing  # it prints of lost workers on standard output, among tables
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(**settings)
    except RuntimeError as error:
        raise ConnectionError(f"Ray cannot connect to {settings['address']}: {str(error).strip().partition(chr(10))[0]}") from error
    for number, handler in handlers.items():  # Ray's own handler of SIGTERM prints a stack and aborts
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _hear_nothing(*_: object, **__: object) -> None:
    """Print nothing: lost workers and nodes are told of by whoever watches the sweep."""
