"""A trial's log: one file in the results root, wherever that lies, readable while the trial runs."""

import logging
import time
from contextlib import suppress

from sweeper.storage import Store

PERIOD_SECONDS = 5.0  # between two writes of a log that is written as a whole


def open_log(store: Store, name: str) -> logging.Logger:
    """Return a log that goes on where the file of that name ends. Close it with `close_log`."""
    path = store.local_path(name)
    if path is None:
        handler: logging.Handler = _Whole(store, name)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.Logger(name, logging.INFO)
    log.addHandler(handler)
    return log


def close_log(log: logging.Logger) -> None:
    for handler in log.handlers:
        handler.close()


class _Whole(logging.Handler):
    """Keeps a log in memory and writes all of it now and then: nothing can be appended to an object."""

    def __init__(self, store: Store, name: str) -> None:
        super().__init__()
        self.store, self.file = store, name
        with suppress(OSError):  # none yet, or none to be had: a trial does not fail for its log
            self.text = store.read(name).decode() + "\n"
        self.written = time.monotonic()

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + "\n"
        if time.monotonic() - self.written > PERIOD_SECONDS or record.levelno >= logging.ERROR:
            self._write()

    def close(self) -> None:
        self._write()
        super().close()

    def _write(self) -> None:
        self.written = time.monotonic()
        with suppress(OSError):  # a trial does not fail for its log; what it computes meets the same storage, and says so
            self.store.replace(self.file, self.text.encode())
