"""A run's state in its results root, for whoever watches from elsewhere; and there, what the run is asked: to stop.

`live/<sweep>.json` is replaced as a whole every few seconds while the sweep runs and once more at its end. `stop/<sweep>.json` asks the run that it
names to stop; another run of the sweep does not heed it, and deletes it when it begins.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sweeper.live_state import RunState, encode, file_name

if TYPE_CHECKING:
    from sweeper.storage import Store

STOP_FOLDER = "stop"
PERIOD = 2.0  # seconds between two writes into a folder
REMOTE_PERIOD = 5.0  # into an object store, where each write costs money and a tenth of a second
PATIENCE = 10.0  # seconds that the end of a run waits for its last write
EXIT_STATUS = {KeyboardInterrupt: 130, ValueError: 2, OSError: 2, ImportError: 2}  # of the command; any other exception: 1


class LiveFile:
    """Writes a run's state into its root from a thread of its own, from its `begin` on, and hears there whether it is to stop.

    Args:
        state: Of the run; its sweep and plan are known. What else says which run it is is filled in here.
        say: Called with a sentence, once, if the file cannot be written: the sweep goes on.
        stop: Called from the thread when the run is asked to stop; must make the main thread raise KeyboardInterrupt.
        period: Seconds between two writes, and within which a request to stop is heard.
    """

    def __init__(self, state: RunState, files: "Store", *, say: Callable[[str], None], stop: Callable[[], None], period: float | None = None) -> None:
        state.run, state.host, state.pid, state.started = uuid.uuid4().hex[:12], socket.gethostname(), os.getpid(), _now()
        self.stopped_by: str | None = None  # the host that asked
        self._state, self._files, self._say, self._stop = state, files, say, stop
        self._period = period or (REMOTE_PERIOD if "://" in files.url else PERIOD)
        self._name, self._request = file_name(state.sweep), file_name(state.sweep, STOP_FOLDER)
        self._ended, self._lock, self._has_ended, self._has_complained = threading.Event(), threading.Lock(), False, False
        self._thread = threading.Thread(target=self._work, name="live-file", daemon=True)

    def __enter__(self) -> "LiveFile":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._end(error)
        except KeyboardInterrupt as late:  # it was on its way when the last trial ended
            self._end(late)
            if self._state.title and not self._thread.is_alive():  # it may have written another end already
                self._write()
            raise

    def _end(self, error: BaseException | None) -> None:
        state = self._state
        with self._lock:  # from here on nothing is stopped that has ended
            self._has_ended = True
        if error is None:
            state.status, state.exit_status = "finished", int(state.missing > 0 or state.failed > 0)
        else:
            state.status = "stopped" if self.stopped_by else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            state.message = f"stopped by `stop` from {self.stopped_by}" if self.stopped_by else str(error)
            state.exit_status = next((status for known, status in EXIT_STATUS.items() if isinstance(error, known)), 1)
        self._ended.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._complain(
                f"how this run ended is not written into {self._name} after {PATIENCE:.0f} s, so `watch` elsewhere takes it for a dead one"
            )

    def _work(self) -> None:
        while not self._state.title:  # not begun: the root may not be there yet
            if self._ended.wait(0.1):
                break
        if not self._state.title:
            return
        self._forget_requests()
        self._write()
        while not self._ended.wait(self._period):
            self._heed()
            self._write()
        self._write()

    def _write(self) -> None:
        self._state.updated = _now()
        try:
            self._files.replace(self._name, encode(self._state, time.monotonic()))
        except Exception as error:  # whatever a storage's client raises: the sweep itself does not need the file
            self._complain(f"what runs cannot be written into {self._name}, so `watch` shows it late or not at all: {error or type(error).__name__}")

    def _forget_requests(self) -> None:
        """Delete what an earlier run of the sweep was asked and did not hear: until its first write nobody knows this run, so none can mean it."""
        try:
            if self._files.stat(self._request) is not None:
                self._files.delete(self._request)
        except Exception as error:
            self._complain(f"{self._request}, which an earlier run was asked, cannot be deleted: {error or type(error).__name__}")

    def _heed(self) -> None:
        """Stop the run if it, and no earlier one, is asked to."""
        try:
            if self.stopped_by or self._files.stat(self._request) is None:
                return
            asked = json.loads(self._files.read(self._request))
            if asked.get("run") != self._state.run:
                return
            self._files.delete(self._request)
        except FileNotFoundError:  # taken back meanwhile
            return
        except Exception as error:
            self._complain(f"{self._request} cannot be read, so `stop` is not heard: {error or type(error).__name__}")
            return
        with self._lock:
            if not self._has_ended:
                self.stopped_by = str(asked.get("host", "elsewhere"))
                self._stop()

    def _complain(self, sentence: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._say(sentence)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
