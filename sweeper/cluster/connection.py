"""A Ray that is there while a sweep runs: started on this machine, or one that runs already."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a running cluster, or start Ray on this machine (None), and leave it at the end."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cores = os.cpu_count() or 1
        settings |= {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": 256 * 2**20}
    else:
        settings["address"] = address
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray.init(**settings)
    for number, handler in handlers.items():  # Ray's own handler of SIGTERM prints a stack and aborts
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
