"""What a cluster that cannot be used is refused with: one sentence, exit status 2, soon."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_cluster import environment, head

TOKEN = "0123456789abcdef0123456789abcdef"
WRONG = "f" * 32

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ray") as temporary, head(home, Path(temporary), RAY_AUTH_MODE="token") as address:
        yield address


SCRIPT = """
import sys
import typer
from sweeper.arguments import refusing
from sweeper.cluster import head
from sweeper.cluster.connection import connected
BEFORE
try:
    with refusing(), connected(sys.argv[1]):
        print("admitted", file=sys.stderr)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def connect(address: str, home: Path, before: str = "", **settings: str) -> tuple[int, str]:
    """Return the exit status of a command that connects, and what is said then."""
    command = [sys.executable, "-c", SCRIPT.replace("BEFORE", before), address]
    done = subprocess.run(command, env=environment(home, **settings), cwd=home, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("settings", [{}, {"RAY_AUTH_MODE": "token"}], ids=["without a mode", "with the mode"])
def test_the_clusters_token_is_found_where_ray_keeps_it(settings: dict[str, str], address: str, home: Path) -> None:
    assert connect(address, home, **settings) == (0, "admitted\n")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "asks for a token, and there is none in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"),
        ({"RAY_AUTH_MODE": "token"}, "asks for a token, and there is none in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": TOKEN}, "asks for a token, and RAY_AUTH_MODE is disabled; unset it, or set it to token"),
        ({"RAY_AUTH_TOKEN": WRONG}, "refuses the token found in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": WRONG}, "refuses the token found in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "the cluster's token cannot be read: RAY_AUTH_TOKEN_PATH is set but file cannot be opened"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_named_at_once(settings: dict[str, str], message: str, address: str, tmp_path: Path) -> None:
    since = time.monotonic()
    status, said = connect(address, tmp_path, **settings)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1, "one sentence"
    assert time.monotonic() - since < 20  # Ray alone tries for 20 s after its start


def test_a_port_that_is_no_heads_is_named(home: Path) -> None:
    with socket.create_server(("", 0)) as silent:
        status, said = connect(f"localhost:{silent.getsockname()[1]}", home, "head._SECONDS = 2.0")
    assert status == 2
    assert "no Ray head answers at --address" in said


def test_a_machine_outside_the_cluster_is_told_to_detach(address: str, home: Path) -> None:
    status, said = connect(address, home, "head.find_node_ids = set")
    assert status == 2
    assert "this machine is no node of the cluster" in said
    assert "--detach" in said


def test_another_ray_than_the_heads_is_named_with_both_versions(address: str, home: Path) -> None:
    status, said = connect(address, home, "head.ray.__version__ = '2.1.0'")
    assert status == 2
    assert "runs Ray 2.60" in said and "this command Ray 2.1.0 on Python" in said


def test_rays_client_is_refused(home: Path) -> None:
    status, said = connect("ray://127.0.0.1:10001", home)
    assert status == 2
    assert "--address must be HOST:PORT" in said
