"""Three Ray nodes in one process tree: what a node that goes without a word costs the trial that it had."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from same_outcomes import differences

from sweeper.results import Results

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # where hosts can be made, the bench says it in CI

SPACE = """
_SHORT = {"num_epochs": 12, "retraining/num_epochs": 1, "target/training/num_epochs": 2, "depth": 1, "base_width": 4, "codebook_size": 8}


def variants():
    return [{**_SHORT}, {**_SHORT, "beta": 0.0}, {**_SHORT, "beta": 4.0}]


EVALUATION = "quick"
"""
SIZES = ["--set", "train_images=400", "--set", "validation_images=20", "--set", "test_images=20"]


def command(folder: Path, root: Path, *options: str) -> list[str]:
    (folder / "betas.py").write_text(SPACE)
    return [sys.executable, "-m", "sweeper", "run", str(folder / "betas.py"), "--results", str(root), *SIZES, *options]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a `ray.cluster_utils.Cluster` of three nodes of one CPU each, with the cluster files' health checks."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in {"initial_delay_ms": 1000, "period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 3}.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))  # by default a lost node is noticed after 14 s here
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        cluster.add_node(**node)
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def raylet(process: psutil.Process) -> int | None:
    """Return the process id of the raylet that a worker belongs to: its nearest ancestor of that name."""
    return next((parent.pid for parent in process.parents() if parent.name() == "raylet"), None)


def test_a_node_that_is_lost_midway_costs_its_trial_nothing_but_time(nodes: Any, tmp_path: Path) -> None:
    inline = tmp_path / "inline"
    subprocess.run(command(tmp_path, inline, "--inline"), check=True, capture_output=True, timeout=60)
    root = tmp_path / "cluster"
    sweep = subprocess.Popen(command(tmp_path, root, "--address", nodes.address), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    workers = {node.all_processes["raylet"][0].process.pid: node for node in nodes.worker_nodes}
    lost, deadline = None, time.monotonic() + 60
    while lost is None and sweep.poll() is None and time.monotonic() < deadline:
        training = [process for process in psutil.process_iter(["name"]) if process.info["name"].startswith("ray::ImplicitFu")]
        places = {raylet(process) for process in training}
        lost = next((workers[pid] for pid in places if pid in workers), None)
        time.sleep(0.1)
    assert lost is not None, "no trial came to a worker node"
    while not any("train 2/" in path.read_text() for path in root.glob("logs/betas/*.log")) and sweep.poll() is None:
        time.sleep(0.05)
    nodes.remove_node(lost, allow_graceful=False)

    said, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, said
    assert differences(inline, root) == []
    attempts = Results(root).read("attempts", ["trial_id", "status", "reason"]).to_pylist()
    assert Counter(row["status"] for row in attempts) == {"completed": 3, "failed": 1}
    assert [row["reason"] for row in attempts if row["status"] == "failed"] == ["lost"]
