"""Nodes that die and nodes that differ, as processes of one machine."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from small_cluster import environment, head, join

pytestmark = pytest.mark.ray

LOSSES = """
import os, pickle, psutil, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from sweeper.cluster import nodes, queue, trials
from sweeper.cluster.connection import connected
from sweeper.cluster.nodes import Nodes
from sweeper.cluster.resources import Resources
from sweeper.cluster.run import Run
from sweeper.results import Results
from sweeper.worker import Finished, Job

address, folder = sys.argv[1], Path(sys.argv[2])
queue.LOST_RETRIES = 0
nodes.find_autoscaler = lambda: None


def trainable(settings, *, job, expected):
    import ray, socket
    from ray import tune

    from sweeper.cluster.preflight import admit

    admit(expected)
    trial = pickle.loads(settings["trial"])
    tune.report({"begun": [ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()]})
    time.sleep(1)
    runs = folder / trial.label
    count = len(runs.read_text()) if runs.exists() else 0
    runs.write_text("x" * (count + 1))
    if trial.label == "is too large":
        time.sleep(60)  # until its node's memory is found full
    if trial.label == "loses its process":
        os._exit(1)
    if trial.label == "runs out" and count == 0:
        tune.report({"finished": vars(Finished(*trial.key, "failed", "oom", "there was no room")), "peak": {"host_bytes": 0}})
        return
    if trial.label.startswith("waits") and count == 0:
        while not (folder / "runs out").exists():
            time.sleep(0.1)
        time.sleep(3)  # meanwhile the other is to be run alone, and waits for the larger node
        if "kills" in trial.label:
            raylets = [process for process in psutil.process_iter(["name", "cmdline"]) if process.info["name"] == "raylet"]
            [larger] = [process for process in raylets if ",CPU,2," in " ".join(process.info["cmdline"])]
            larger.kill()
        time.sleep(3)
    elif trial.label.startswith("loses") and count == 0:
        os.kill(os.getppid(), signal.SIGKILL)  # the node's own process
        time.sleep(60)
    tune.report({"finished": vars(Finished(*trial.key, "completed")), "peak": {"host_bytes": 0}})


def trial(label, name):
    return SimpleNamespace(label=label, trial_id=name * 32, evaluation_id="e" * 32, key=(name * 32, "e" * 32))


trials._trainable = trainable  # pickled by value, so that the workers have it
view = SimpleNamespace(note=print, trial_begun=print, trial_progress=print, at_once=lambda trials: None)
view.trial_ended = lambda trial, end: print("ended", trial.label, end.status, end.reason)
results = Results(folder / "results", create=True)
resources = Resources(cpus=1, address=address, max_concurrent=3 if "runs out" in sys.argv else 1)
with connected(address):
    expected = {"code": "other"} if "differs" in sys.argv else None
    run = Run(Job("losses", results.store, None), resources, view, lambda: False, Nodes(resources, print), expected)
    trials.run_trials(run, [trial(label, name) for label, name in zip(sys.argv[3:], "abc")])
for row in results.read("attempts").to_pylist():
    print("row", row["trial_id"][0], row["status"], row["reason"], row["host"], row["message"])
"""

TASKS = """
import os, psutil, sys, time
from pathlib import Path
from types import SimpleNamespace
from sweeper.cluster import nodes, tasks
from sweeper.cluster.connection import connected
from sweeper.cluster.nodes import Nodes
from sweeper.cluster.resources import Resources
from sweeper.cluster.run import Run
from sweeper.results import Results
from sweeper.worker import Job, StageFailed

address, folder = sys.argv[1], Path(sys.argv[2])
nodes.find_autoscaler = lambda: None


def perform(job, work):
    runs = folder / work.title
    count = len(runs.read_text()) if runs.exists() else 0
    runs.write_text("x" * (count + 1))
    if work.title == "runs out" and count == 0:
        time.sleep(1)
        raise StageFailed("there was no room") from MemoryError()
    if work.title != "runs out" and count == 0:
        while not (folder / "runs out").exists():
            time.sleep(0.1)
        time.sleep(4)  # meanwhile the other is to be run alone, and waits for the larger node
        if work.title == "kills":
            raylets = [process for process in psutil.process_iter(["name", "cmdline"]) if process.info["name"] == "raylet"]
            [larger] = [process for process in raylets if ",CPU,2," in " ".join(process.info["cmdline"])]
            larger.kill()
        time.sleep(3)


todo = [SimpleNamespace(title=title) for title in ("runs out", "kills", "waits")]
resources = Resources(cpus=1, address=address, max_concurrent=3)
view = SimpleNamespace(note=print)
with connected(address):
    run = Run(Job("losses", Results(folder / "results", create=True).store, None), resources, view, lambda: False, Nodes(resources, print))
    ended = lambda work, value: print("ended", work.title)
    tasks._run_tasks(run, perform, lambda: todo.pop(0) if todo else None, lambda: len(todo), lambda work: work.title, ended, print)
"""

UNLIKE = """
import sys
from sweeper.cluster.connection import connected
from sweeper.cluster.preflight import Unlike, check_nodes
with connected(sys.argv[1]):
    try:
        print("alike", check_nodes()["code"])
    except Unlike as error:
        print(error)
"""


def test_a_node_with_another_version_or_other_code_is_named_before_any_work(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "torchattacks-9.9.dist-info").mkdir(parents=True)
    (other / "torchattacks-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torchattacks\nVersion: 9.9\n")
    settings = {"RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="ray") as temporary, head(tmp_path, Path(temporary), **settings) as address:
        command = [sys.executable, "-c", UNLIKE, address]
        alike = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False)
        path = f"{other}{os.pathsep}{environment(tmp_path)['PYTHONPATH']}"
        join(tmp_path, address, **settings, PYTHONPATH=path)
        unlike = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False)
    assert alike.stdout.startswith("alike "), alike.stderr
    assert "has torchattacks 9.9 instead of 3." in unlike.stdout, unlike.stderr


@pytest.mark.slow
def test_a_node_that_dies_uses_up_no_retry_and_a_process_that_dies_does(tmp_path: Path) -> None:
    settings = {"RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="ray") as temporary, head(tmp_path, Path(temporary), cpus=0, **settings) as address:
        join(tmp_path, address, **settings)
        join(tmp_path, address, **settings)
        done = subprocess.run(
            [sys.executable, "-c", LOSSES, address, str(tmp_path), "loses its node", "loses its process"],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert "ended loses its node completed None" in done.stdout, done.stdout + done.stderr
    assert "(raylet)" not in done.stdout + done.stderr
    assert "ended loses its process failed lost" in done.stdout
    host = socket.gethostname()
    assert f"row a failed lost {host} trial aaaaaaaa (loses its node): its node {host} was lost" in done.stdout
    assert f"row b failed lost {host} trial bbbbbbbb (loses its process): its worker process on {host} was lost" in done.stdout
    assert (tmp_path / "loses its node").read_text() == "xx"
    assert (tmp_path / "loses its process").read_text() == "x"


@pytest.mark.slow
def test_a_trial_that_ran_out_of_memory_is_run_again_alone_once(tmp_path: Path) -> None:
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "200"}
    with tempfile.TemporaryDirectory(prefix="ray") as temporary, head(tmp_path, Path(temporary), **settings) as address:
        command = [sys.executable, "-c", LOSSES, address, str(tmp_path), "is too large"]
        done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False)
    assert "ended is too large failed oom" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("ran out of memory; it is run alone on a node") == 1
    assert [line.split()[:4] for line in done.stdout.splitlines() if line.startswith("row")] == [["row", "a", "failed", "oom"]] * 2


def said_on_unequal_nodes(folder: Path, script: str, *words: str) -> str:
    """Return what a script says on a cluster of two nodes, one with twice the CPUs and memory of the other."""
    settings = {"RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="ray") as temporary, head(folder, Path(temporary), cpus=0, **settings) as address:
        join(folder, address, "--num-cpus=2", "--memory=16000000000", **settings)
        join(folder, address, "--memory=8000000000", **settings)
        command = [sys.executable, "-c", script, address, str(folder), *words]
        done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=90, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_trial_that_waits_to_be_alone_on_a_node_that_dies_is_given_another(tmp_path: Path) -> None:
    said = said_on_unequal_nodes(tmp_path, LOSSES, "runs out", "waits and kills", "waits")
    assert "there was no room; it is run alone on a node" in said, said
    assert "trial aaaaaaaa (runs out): the node that it waited for is gone; it is given another" in said, said
    assert "ended runs out completed" in said, said
    assert (tmp_path / "runs out").read_text() == "xx"


@pytest.mark.slow
def test_a_stage_that_waits_to_be_alone_on_a_node_that_dies_is_given_another(tmp_path: Path) -> None:
    said = said_on_unequal_nodes(tmp_path, TASKS)
    assert "runs out: the node that it waited for is gone; it is given another" in said, said
    assert [line for line in sorted(said.splitlines()) if line.startswith("ended")] == ["ended kills", "ended runs out", "ended waits"], said
    assert (tmp_path / "runs out").read_text() == "xx"


@pytest.mark.slow
def test_a_worker_on_a_machine_that_differs_ends_the_run_with_a_sentence_and_no_row(tmp_path: Path) -> None:
    settings = {"RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="ray") as temporary, head(tmp_path, Path(temporary), **settings) as address:
        command = [sys.executable, "-c", LOSSES, address, str(tmp_path), "differs"]
        done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("sweeper.cluster.preflight.Unlike: node ")
    assert "instead of other; all machines of a sweep must have the same" in done.stderr
    assert not list((tmp_path / "results").glob("parts/attempts/*/*.parquet"))
