"""`run --detach`, and commands that are run on the head of a cluster: what travels, what comes back, what is refused; on one real head."""

import io
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from tiny_sweep import MODEL, SIZES, invoke

from sweeper import lookup
from sweeper.cluster import jobs
from sweeper.cluster.jobs import check_head, on_home
from sweeper.cluster.relay import MARK, Marked
from sweeper.detach import travelling
from sweeper.source_tree import CODE, SPACES, commit_here

SPACE = """
EVALUATION = "quick"


def variants():
    return [
        {"model": "own/smoother.py", "width": 2, "num_epochs": 9000, "retrain": "none", "target/training/num_epochs": 1},
        {"model": "identity", "retrain": "none", "target/training/num_epochs": 1},
    ]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a search space and a model of the user's."""
    (tmp_path / "here/own").mkdir(parents=True)
    (tmp_path / "here/own/smoother.py").write_text(MODEL)
    (tmp_path / "here/space.py").write_text(SPACE)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(lookup, "_given", {})
    return tmp_path / "here"


# What travels


def test_files_under_the_current_folder_travel_as_they_are_named(folder: Path) -> None:
    for path in ("space.py", "./own/smoother.py"):
        lookup.adopt(path)
    files, renamed = travelling({"space": "space.py"})
    assert files == {"space.py": SPACE, "own/smoother.py": MODEL}
    assert renamed == {}


def test_a_file_from_elsewhere_is_renamed_where_the_command_names_it(folder: Path) -> None:
    model = str(folder / "own/smoother.py")
    for path in ("../here/space.py", model):
        lookup.adopt(path)
    files, renamed = travelling({"space": "../here/space.py", "settings": ["width=3", f"model={model}", f'target/model="{model}"'], "dataset": None})
    assert renamed["space"] in files and files[str(renamed["space"])] == SPACE
    (there,) = (path for path in files if path.endswith("smoother.py"))
    assert renamed["settings"] == ["width=3", f"model={there}", f"target/model={there}"]
    assert not os.path.isabs(there) and ".." not in there


def test_a_file_from_elsewhere_that_the_space_names_is_refused(folder: Path) -> None:
    model = str(folder / "own/smoother.py")
    for path in ("space.py", model):
        lookup.adopt(path)
    with pytest.raises(ValueError, match=f"{model} cannot travel: .*relative"):
        travelling({"space": "space.py", "settings": None})


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("results", '"$HOME"/results'),
        ("~/my results", "\"$HOME\"/'my results'"),
        ("/data/it's", "'/data/it'\"'\"'s'"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)
def test_a_root_is_relative_to_the_heads_home(path: str, word: str) -> None:
    assert on_home(path) == word


def test_every_line_of_standard_output_is_marked_and_nothing_else_changes() -> None:
    out = io.StringIO()
    marked = Marked(out)
    for text in ("a", "b\nc\n", "", "\n", "d"):
        marked.write(text)
    assert out.getvalue() == f"{MARK}ab\n{MARK}c\n{MARK}\n{MARK}d"


# What is refused, without a cluster


class _Strange(BaseHTTPRequestHandler):
    status, body = 404, b"nothing here"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"", "no jobs server of Ray \\(HTTP 404\\)"),
        (200, b"<html>", "no jobs server of Ray; give the dashboard's port"),
        (200, b"{}", "no jobs server of Ray"),
        (401, b"Unauthorized", "asks for a token \\(HTTP 401\\): set RAY_AUTH_MODE=token and put"),
    ],
)
def test_whatever_else_answers_is_told_apart(status: int, body: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    server = HTTPServer(("127.0.0.1", 0), type("_This", (_Strange,), {"status": status, "body": body}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValueError, match=message):
            check_head(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("run", "smoke", "--detach", "--address", "http://127.0.0.1:1"),
            "no jobs server answers at --address http://127.0.0.1:1: Connection refused",
        ),
        (("status", "--address", "http://127.0.0.1:1"), "no jobs server answers"),
        (("run", "smoke", "--detach"), "--detach needs --address"),
        (("run", "smoke", "--detach", "--inline", "--address", "http://127.0.0.1:1"), "give one of them"),
        (("run", "smoke", "--detach", "--address", "auto"), "must be the head's jobs server here, such as http://127.0.0.1:8265, got auto"),
        (("run", "smoke", "--address", "http://127.0.0.1:8265"), "is a jobs server, which takes a run with --detach"),
    ],
)
def test_an_unusable_address_is_refused_in_a_sentence(words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FORWARDING", 0.5)
    for known in ("_sources", "_given"):  # the files of other tests in this process would have to travel
        monkeypatch.setattr(lookup, known, {})
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


# A real head


class HeadOfTests(NamedTuple):
    """A head that asks for a token: its address, its home folder, its code (no repository), and the environment of a user who has the token."""

    address: str
    home: Path
    code: Path
    user: dict[str, str]

    def sweeper(self, *words: object, cwd: Path | None = None, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sweeper", *map(str, words), "--address", self.address]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env={**self.user, **(more or {})}, cwd=cwd)


def _free_ports(count: int) -> list[int]:
    """Return ports below those that the system hands out by itself, to Ray's other processes among others."""
    ports: list[int] = []
    for port in random.sample(range(20000, 30000), 200):
        with suppress(OSError), socket.create_server(("", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadOfTests]:
    folder = tmp_path_factory.mktemp("head")
    home, scratch = folder / "home", Path(f"/tmp/sweeper-{os.getpid()}")  # a socket's path has 107 characters at most
    home.mkdir()
    for package in (*CODE, SPACES):
        shutil.copytree(lookup.ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    token = folder / "token"
    token.write_text("a-token-of-the-tests-0123456789abcdef")
    token.chmod(0o600)
    port, dashboard, client, agent = _free_ports(4)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    here = {
        **kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "PYTHONPATH": str(lookup.ROOT), "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    command = [
        "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={scratch}", "--num-cpus=1",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        there = {**here, "HOME": str(home), "PYTHONPATH": str(folder / "code")}
        process = subprocess.Popen(command, env=there, cwd=home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield HeadOfTests(address, home, folder / "code", here)
    finally:
        ours = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for one in ours:
            with suppress(psutil.NoSuchProcess):  # ended meanwhile
                one.kill()
        psutil.wait_procs(ours, 10)
        process.wait(10)
        subprocess.run(["rm", "-rf", str(scratch)], check=True)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
        return True
    except urllib.request.HTTPError:  # pyright: ignore[reportAttributeAccessIssue]
        return True
    except OSError:
        return False


@pytest.mark.ray
def test_a_wrong_or_missing_token_is_refused_in_a_sentence(head: HeadOfTests, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("another-token-0123456789abcdef")
    for more, message in (
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token (HTTP 401): set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}, "the token here is not the cluster's"),
        ({"RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path / "nobody")}, "RAY_AUTH_MODE is token, and no token was found"),
    ):
        done = head.sweeper("status", more=more)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.ray
def test_a_detached_sweep_is_watched_read_and_stopped_from_elsewhere(head: HeadOfTests, folder: Path) -> None:
    run = ("run", "space.py", "--detach", "--cpus-per-trial", "0.5", *SIZES)
    edited, ours = head.code / "attacks/fgsm.py", (lookup.ROOT / "attacks/fgsm.py").read_bytes()
    edited.write_bytes(ours + b"# as it was at the last `ray up`\n")
    refused = head.sweeper(*run, cwd=folder)
    assert (refused.returncode, refused.stdout) == (2, "") and "(attacks/fgsm.py differs): `ray up` brings" in refused.stderr, refused.stderr
    edited.write_bytes(ours)

    job = head.sweeper(*run, cwd=folder)
    assert job.returncode == 0, job.stderr
    assert job.stdout.startswith("sweeper-space-") and job.stdout.endswith("-1\n")
    assert "results lie under results in the home folder of the head" in job.stderr
    assert f"\n  RAY_AUTH_MODE=token ray job logs {job.stdout.strip()} " in job.stderr
    again = head.sweeper(*run, cwd=folder)
    assert again.returncode == 2 and f"runs there already, as job {job.stdout.strip()}" in again.stderr

    watcher = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "watch", "space", "--wait", "60", "--address", head.address],
        env=head.user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    logs = head.home / "results/logs/space"
    deadline = time.monotonic() + 60
    while True:
        said = {path.stem: path.read_text() for path in logs.glob("*.log")}
        trials = [stem for stem, text in said.items() if "train 1/9000" in text]
        if trials and any("COMPLETED" in text for text in said.values()):
            break
        assert time.monotonic() < deadline and watcher.poll() is None, "the long trial did not begin, or the short one not end"
        time.sleep(0.2)
    log = head.sweeper("logs", trials[0][:8], "--lines", "1")
    assert " INFO train " in log.stdout and log.stdout.count("\n") == 1 and f"{trials[0]}.log" in log.stderr
    stopped = head.sweeper("stop", "space")
    assert stopped.returncode == 0
    assert f"stopped by `stop` from {socket.gethostname()}" in stopped.stderr
    words = "select sweep, git_commit from sweeps join trials using (trial_id) where sweep like 'sp%'"
    asked = head.sweeper("query", words, "--format", "csv")
    assert asked.stdout == f"sweep,git_commit\nspace,{commit_here() or ''}\n", asked.stderr  # of here: a worker's code is in no repository
    _, said = watcher.communicate(timeout=30)
    assert watcher.returncode == 130
    assert "2 trials to run" in said and f"has ended: stopped by `stop` from {socket.gethostname()}" in said


@pytest.mark.ray
def test_a_command_that_is_interrupted_here_ends_there(head: HeadOfTests, folder: Path) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "watch", "space", "--wait", "300", "--address", head.address],
        env=head.user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def there() -> list[int]:
        return [
            one.pid
            for one in psutil.process_iter(["cmdline"])
            if "sweeper.cluster.relay" in (one.info["cmdline"] or []) and "300.0" in one.info["cmdline"]
        ]

    deadline = time.monotonic() + 90
    while not there():
        assert time.monotonic() < deadline and waiting.poll() is None
        time.sleep(0.2)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 130 and "Traceback" not in said, said
    deadline = time.monotonic() + 60
    while there():
        assert time.monotonic() < deadline
        time.sleep(0.2)
