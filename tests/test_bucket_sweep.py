"""A whole sweep in a bucket: the same outcomes as in a folder, whatever the network does, after a kill too, and every command reads it."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Proxy, make_bucket, proxy_to, s3_server
from same_outcomes import differences
from tiny_sweep import SIZES, Swept, invoke, tiny_sweep

from sweeper.results import Results
from sweeper.schemas import TABLES

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "geheim", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module")
def swept() -> Swept:
    return tiny_sweep()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with s3_server() as server, proxy_to(server) as proxy, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
            patch.setenv(name, value)
        yield proxy


def new_root(proxy: Proxy) -> str:
    bucket = f"results-{uuid.uuid4().hex[:12]}"
    make_bucket(proxy.server, bucket)
    return f"s3://{bucket}/deep/prefix"


def disturb(proxy: Proxy) -> None:
    """From here on, every 25th request meets a fault."""
    for fault in ("reset_before", "reset_after", "slow_down", "cut"):
        proxy.fail(fault, times=float("inf"), chance=0.01)


@pytest.fixture(scope="module")
def root(proxy: Proxy, swept: Swept) -> str:
    """A root that was filled while every 25th request failed."""
    place = new_root(proxy)
    disturb(proxy)
    done = invoke("run", swept.space, "--inline", "--results", place, "--epsilons", "0.1", *SIZES)
    assert done.exit_code == 0, done.stderr
    assert len(proxy.faults) > 15 and set(proxy.faults) == {"reset_before", "reset_after", "slow_down", "cut"}
    proxy.reset()
    return place


def test_a_disturbed_bucket_ends_with_the_outcomes_of_a_folder(root: str, swept: Swept) -> None:
    assert differences(swept.root, root) == []
    for table in TABLES:
        if table not in ("runs", "attempts"):  # one row for each time it was run
            assert Results(root).read(table).num_rows == Results(swept.root).read(table).num_rows, table
    assert Results(root).problems() == []
    assert Results(root).store.files("claims") == []


@pytest.mark.parametrize(
    "words",
    [
        ("status", "tiny"),
        ("rank", "tiny"),
        ("check", "tiny"),
        ("pareto", "tiny"),
        ("query", "select count(*) from scores"),
        ("doctor",),
        ("compact",),
    ],
)
def test_commands_say_of_a_bucket_what_they_say_of_a_folder(words: tuple[str, ...], root: str, swept: Swept) -> None:
    there, here = (invoke(*words, "--results", place) for place in (root, swept.root))
    assert there.exit_code == here.exit_code == 0, there.stderr
    if words[0] != "status" and words[0] != "rank":  # these name logs and seconds
        assert there.stdout == here.stdout


def test_one_trial_can_be_shown_exported_and_reproduced_from_a_bucket(root: str, tmp_path: Path) -> None:
    trial = next(row for row in Results(root).read("trials", ["trial_id", "model"]).to_pylist() if row["model"] == "vqunet")["trial_id"]
    assert invoke("show", trial, "--results", root).exit_code == 0
    exported = invoke("export", trial, "--to", tmp_path / "defense", "--results", root)
    assert exported.exit_code == 0, exported.stderr
    again = invoke("reproduce", trial, "adaptive/pgd@0.1", "--results", root)
    assert again.exit_code == 0, again.stderr


def test_a_bucket_merged_into_a_folder_needs_no_run(root: str, swept: Swept, tmp_path: Path) -> None:
    assert invoke("merge", root, "--results", tmp_path / "home").exit_code == 0
    done = invoke("run", swept.space, "--inline", "--results", tmp_path / "home", "--epsilons", "0.1", *SIZES)
    assert done.exit_code == 0 and "0 trials to run" in done.stderr


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_bucket(proxy: Proxy, swept: Swept) -> None:
    place = new_root(proxy)
    words = [sys.executable, "-m", "sweeper", "run", str(swept.space), "--inline", "--results", place, "--epsilons", "0.1", *SIZES]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any("/artifacts/outcomes/" in path for _, path in proxy.requests):  # in the middle of the first trial
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert differences(swept.root, place) == []


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray_fill_a_bucket_too(proxy: Proxy, swept: Swept) -> None:
    place = new_root(proxy)
    words = [sys.executable, "-m", "sweeper", "run", str(swept.space), "--results", place, "--epsilons", "0.1", *SIZES]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert differences(swept.root, place) == []
    logs = Results(place).store.files("logs")
    assert len(logs) == 3 and all(b"COMPLETED" in Results(place).store.read(log) for log in logs)


def test_wrong_credentials_and_a_missing_bucket_are_told_in_a_sentence(proxy: Proxy, swept: Swept) -> None:
    refused = invoke("run", swept.space, "--inline", "--results", "s3://no-such-bucket-here/x", *SIZES)
    assert refused.exit_code == 2 and "no-such-bucket-here" in refused.stderr and "Traceback" not in refused.stderr
    assert invoke("rank", "tiny", "--results", "s3://no-such-bucket-here/x").exit_code == 2
    odd = invoke("rank", "tiny", "--results", "ftp://host/x")
    assert odd.exit_code == 2 and "ftp" in odd.stderr
