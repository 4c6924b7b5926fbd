"""What commands are given of addresses and roots: refused in one sentence before anything is asked or made."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import invoke

from sweeper.arguments import host_and_port
from sweeper.cluster.jobs import check_head, check_url

NO_URL = (
    "http://127.0.0.1:abc",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:0",
    "http://[::1",
    "http://",
    "http://:8265",
    "ftp://host",
    "http://a b",
    "",
)
NO_HEAD = ("nonsense", "127.0.0.1", ":", ":6379", "127.0.0.1:", "127.0.0.1:abc", "127.0.0.1:0", "127.0.0.1:65536", "::1:6379", "[::1]", "a b:1", "")


@pytest.mark.parametrize("address", NO_URL)
@pytest.mark.parametrize("words", [("status",), ("run", "smoke", "--detach")], ids=["status", "run"])
def test_what_is_no_url_of_a_jobs_server_is_refused(words: tuple[str, ...], address: str) -> None:
    result = invoke(*words, "--address", address)
    assert result.exit_code == 2
    assert "--address must be the head's jobs server here, such as http://127.0.0.1:8265, got" in result.stderr


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head.example.org/", "http://[::1]:8265"])
def test_urls_of_a_jobs_server_are_taken(address: str) -> None:
    check_url(address)


def test_what_does_not_speak_http_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x00\x18\x04 no status line\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ValueError, match="answers, but not in HTTP; give the dashboard's port, 8265"):
            check_head(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize("address", [*NO_HEAD, "ray://10.0.0.1:10001", "http://127.0.0.1:8265"])
def test_an_address_of_another_form_is_refused_before_the_root_is_made(address: str, tmp_path: Path) -> None:
    result = invoke("run", "smoke", "--results", tmp_path / "results", "--address", address)
    assert result.exit_code == 2
    if address.startswith("http"):
        assert "takes a run with --detach" in result.stderr
    else:
        assert "--address must be HOST:PORT of the head, such as 10.0.0.1:6379, or auto" in result.stderr
    assert ("--detach" in result.stderr) == ("//" in address)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("address", "expected"), [("auto", None), ("10.0.0.1:6379", ("10.0.0.1", 6379)), ("head:1", ("head", 1)), ("[fe80::1]:6379", ("fe80::1", 6379))]
)
def test_addresses_of_a_head_are_taken(address: str, expected: tuple[str, int] | None) -> None:
    assert host_and_port(address) == expected


def test_wrong_arguments_are_told_before_the_head_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.cluster.jobs.check_head", lambda address: pytest.fail("asked the head"))
    for more, message in ((("--set", "num_epoch=3"), "num_epoch"), (("--seeds", "0"), "seeds"), (("--trials", "3"), "--trials")):
        result = invoke("run", "smoke", "--detach", "--address", "http://127.0.0.1:1", *more)
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_submitted_run_comes_with_the_command_that_tells_why_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: Any) -> str:
        return "sweeper-smoke-1"

    monkeypatch.setattr("sweeper.detach.submit", submit)
    result = invoke("run", "smoke", "--detach", "--address", "http://127.0.0.1:8265")
    assert (result.exit_code, result.stdout) == (0, "sweeper-smoke-1\n")
    assert "ray job logs sweeper-smoke-1 --address http://127.0.0.1:8265" in result.stderr


@pytest.mark.parametrize(("mode", "results", "told"), [
    ("token", "sweeps", ("  RAY_AUTH_MODE=token python -m sweeper watch smoke", "  RAY_AUTH_MODE=token ray job logs")),
    ("token", "s3://bucket/sweeps", ("  python -m sweeper watch smoke", "  RAY_AUTH_MODE=token ray job logs")),
    (None, "sweeps", ("  python -m sweeper watch smoke", "  ray job logs")),
])  # fmt: skip
def test_the_commands_that_follow_say_again_that_a_token_is_asked_for(
    mode: str | None, results: str, told: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.detach.submit", lambda *_: "job")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    lines = invoke("run", "smoke", "--detach", "--address", "http://127.0.0.1:8265", "--results", results).stderr.splitlines()
    for words in told:
        assert sum(line.startswith(words) for line in lines) == 1, lines
    assert sum("RAY_AUTH_MODE" in line for line in lines) == (0 if mode is None else 1 if "://" in results else 5)


def test_a_merge_from_where_nothing_is_says_what_it_takes_from(tmp_path: Path) -> None:
    result = invoke("merge", tmp_path / "nonsense", "--results", tmp_path / "results")
    assert result.exit_code == 2
    assert f"no results under {tmp_path}/nonsense; merge takes from a root that has some" in result.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "gs://"])
def test_a_url_without_a_bucket_is_told_what_it_lacks(url: str) -> None:
    result = invoke("status", "--results", url)
    assert result.exit_code == 2
    assert f"the bucket is missing: results root must be {url[:2]}://bucket/prefix, got '{url}'" in result.stderr
