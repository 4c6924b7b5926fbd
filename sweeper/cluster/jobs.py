"""Commands on the head of a cluster: submitted to its jobs server over HTTP, and what they print brought here.

The jobs server is the dashboard's port of the head (8265), which listens on the head alone unless it was told otherwise: `ray dashboard
cluster.yaml` or `ssh -L` bring it here. It runs what it is given as a command of the head's own, so whoever reaches it owns the cluster.
"""

import asyncio
import http.client
import json
import logging
import os
import re
import shlex
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sweeper.cluster.relay import MARK

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

POLL = 0.2  # seconds between two questions whether a job has ended
TIMEOUT = 10.0  # seconds for a head to answer
FORWARDING = 8.0  # seconds for a port that is being forwarded to this machine (`ray dashboard … &`) to be there
OPEN = ("PENDING", "RUNNING")
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray takes them before any address that it is given
_OF_RAY = re.compile(r"(\d{4}-\d\d-\d\d .*INFO .*Runtime env is setting up\.|Running entrypoint for job .*)$")
TOKEN = "set RAY_AUTH_MODE=token and put the cluster's token into RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"


def check_head(address: str) -> str | None:
    """Return the Ray version of a head; None if it tells nobody without a token. Ray is not imported.

    Raises:
        ValueError: Saying what is wrong with the address, or that the head asks for a token.
    """
    check_url(address)
    try:
        return _asked(address)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise ValueError(f"{address} answers, but is no jobs server of Ray (HTTP {error.code}); give the dashboard's port, 8265") from None
        if os.environ.get("RAY_AUTH_MODE") != "token":
            raise ValueError(f"the cluster at {address} asks for a token (HTTP {error.code}): {TOKEN}") from None
        return None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{address} answers, but is no jobs server of Ray; give the dashboard's port, 8265") from None
    except OSError as error:  # URLError is one
        reason = getattr(error, "reason", None) or error
        words = "no answer within 10 s" if isinstance(reason, TimeoutError | socket.timeout) else getattr(reason, "strerror", None) or str(reason)
        hint = "is the head up with a dashboard (ray[default] on it), and its port brought here (`ray dashboard cluster.yaml`, or ssh -L)?"
        raise ValueError(f"no jobs server answers at --address {address}: {words}; {hint}") from None
    except http.client.HTTPException:
        raise ValueError(f"{address} answers, but not in HTTP; give the dashboard's port, 8265") from None


def check_url(address: str) -> None:
    """Refuse what is no URL of a jobs server; nothing is asked.

    Raises:
        ValueError: If it is not http:// or https://, has no host that can be looked up, or a port that is none.
    """
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "").encode("idna")
        is_url = parts.scheme in ("http", "https") and bool(host) and parts.port != 0 and address.isprintable() and " " not in address
    except ValueError:  # of an IPv6 address, a port, or a host's name (UnicodeError)
        is_url = False
    if not is_url:
        raise ValueError(f"--address must be the head's jobs server here, such as http://127.0.0.1:8265, got {address or 'nothing'}")


def _asked(address: str) -> str:
    is_forwarded = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
    deadline = time.monotonic() + (FORWARDING if is_forwarded else 0)
    while True:
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=TIMEOUT) as reply:
                return str(json.load(reply)["ray_version"])
        except OSError as error:
            is_closed = isinstance(getattr(error, "reason", error), ConnectionError | http.client.RemoteDisconnected)
            if not is_closed or time.monotonic() > deadline:
                raise
            time.sleep(POLL)


class Head:
    """The jobs server of a cluster.

    Raises:
        ValueError: If it cannot be reached, asks for another token, or is of another Ray that does not understand this one; also from every method.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        version = check_head(address)
        with _explained(address, version):
            self._client = _client(address)
        self.version = version

    def jobs(self, prefix: str) -> "list[JobDetails]":
        """Return the jobs whose submission ids begin so."""
        with _explained(self.address, self.version):
            return [job for job in self._client.list_jobs() if (job.submission_id or "").startswith(prefix)]

    def submit(self, command: str, *, name: str | None = None, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
        """Have the head run a shell command, and return the job's submission id.

        Args:
            name: The id that it gets; None: one that Ray makes up.
            folder: Files that travel with it: it runs in a copy of this folder.
            environment: Variables of its environment.
        """
        runtime: dict[str, Any] = {"env_vars": dict(environment)} if environment else {}
        if folder is not None:
            runtime["working_dir"] = str(folder)
        with _explained(self.address, self.version):
            return self._client.submit_job(entrypoint=command, submission_id=name, runtime_env=runtime or None)

    def lines(self, job: str, *, live: bool) -> Generator[tuple[bool, str]]:
        """Yield what a job prints through `relay`: whether it is of its standard output, and a line with its end.

        A job that is not at its end when no more is asked for, as on Ctrl-C, is stopped.

        Args:
            live: As it comes, which tells of the end two to four seconds late; else all of it at the end.
        """
        rest = ""
        try:
            with _explained(self.address, self.version):
                for chunk in self._tail(job) if live else self._at_end(job):
                    *whole, rest = (rest + chunk).split("\n")
                    yield from (_line(line + "\n") for line in whole if not _OF_RAY.match(line))
                if rest:
                    yield _line(rest)
        except (KeyboardInterrupt, GeneratorExit):
            self._client.stop_job(job)
            raise

    def _at_end(self, job: str) -> Iterator[str]:
        while self._client.get_job_status(job) in OPEN:
            time.sleep(POLL)
        yield self._client.get_job_logs(job)

    def _tail(self, job: str) -> Iterator[str]:
        chunks = self._client.tail_job_logs(job)

        async def step() -> str | None:
            return await anext(chunks, None)

        with asyncio.Runner() as runner:  # cancels a step on Ctrl-C, and closes the connection
            while (chunk := runner.run(step())) is not None:
                yield chunk

    def exit_status(self, job: str) -> int:
        """Return the exit status of a job that has ended; what Ray knows of it beyond that is forgotten."""
        with _explained(self.address, self.version):
            info = self._client.get_job_info(job)
            if info.status in OPEN:
                raise ValueError(f"job {job} at {self.address} is {info.status.lower()}, and what it prints cannot be followed")
            if info.driver_exit_code is None and info.status == "FAILED":
                raise ValueError(f"job {job} at {self.address} failed before it began: {_first_line(info.message)}")
            self._client.delete_job(job)
            return 130 if info.driver_exit_code is None else info.driver_exit_code


def on_home(path: str) -> str:
    """Return a path as a word for the head's shell: a URL and an absolute path as they are, another one relative to the home folder there."""
    if "://" in path or path.startswith("/"):
        return shlex.quote(path)
    return f'"$HOME"/{shlex.quote(path.removeprefix("~/"))}'


def relayed(words: Sequence[str]) -> str:
    """Return the shell command that runs a command of ours so that its two outputs can be told apart; each word is quoted already."""
    return " ".join(["python", "-m", "sweeper.cluster.relay", *words])


def _line(text: str) -> tuple[bool, str]:
    return text.startswith(MARK), text.removeprefix(MARK)


def _client(address: str) -> "JobSubmissionClient":
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk", "_private.authentication", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    kept = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        return JobSubmissionClient(address)
    finally:
        os.environ.update(kept)


@contextmanager
def _explained(address: str, version: str | None) -> Iterator[None]:
    """Turn what the client raises into one sentence."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        import ray
        from ray.exceptions import AuthenticationError

        if isinstance(error, AuthenticationError):
            is_missing = re.search("(no|find an) authentication token", str(error))
            words = "RAY_AUTH_MODE is token, and no token was found" if is_missing else "the token here is not the cluster's"
            raise ValueError(f"the cluster at {address} refuses: {words}; {TOKEN}") from error
        others = f" (Ray {version} there, {ray.__version__} here)" if version not in (None, ray.__version__) else ""
        if isinstance(error, RuntimeError | OSError):  # what the client and its HTTP library raise
            raise ValueError(f"the jobs server at {address} failed{others}: {_first_line(str(error)) or type(error).__name__}") from error
        raise


def _first_line(text: str | None) -> str:
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "")
