"""A cluster that may grow: what it can grow to, waiting for it, and using what came."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from small_cluster import environment, free_port, head

from sweeper.cluster.autoscaler import Autoscaler, kinds_of
from sweeper.cluster.resources import Grant

CONFIGURATION = """
max_workers: 4
head_node_type: head
available_node_types:
  head: {resources: {CPU: 8, GPU: 8}, max_workers: 0}
  small: {resources: {CPU: 4, GPU: 1}, min_workers: 0, max_workers: 2}
  never: {resources: {CPU: 96, GPU: 8}, max_workers: 0}
  default: {resources: {CPU: 16}}
"""


def test_the_kinds_are_those_that_may_be_started() -> None:
    assert kinds_of(CONFIGURATION) == {"small": {"CPU": 4, "GPU": 1}, "default": {"CPU": 16}}


def test_what_no_kind_has_can_never_be_held() -> None:
    it = Autoscaler(kinds_of(CONFIGURATION))
    assert it.could_hold(Grant(2, 0.5))
    assert not it.could_hold(Grant(2, 2))
    assert not it.could_hold(Grant(8, 1)), "no kind has both"
    assert it.most("GPU") == 1


def test_a_kind_that_does_not_say_what_it_has_might_hold_anything() -> None:
    assert Autoscaler({"local.cluster.node": {}}).could_hold(Grant(64, 8))
    assert Autoscaler(None).could_hold(Grant(64, 8))


SCRIPT = """
import sys, time
import ray
from sweeper.cluster.connection import connected
from sweeper.cluster.nodes import Nodes
from sweeper.cluster.resources import Packing, Resources
address, gpus = sys.argv[1], float(sys.argv[2])
resources = Resources(cpus=1, gpus=gpus, address=address)
with connected(address):
    nodes = Nodes(resources, lambda text: print(text, flush=True))
    try:
        nodes.wait(lambda: False)
    except ValueError as error:
        sys.exit(f"refused: {error}")
    print("room", nodes.room(Packing(resources)), flush=True)
    until = time.monotonic() + 30
    while nodes.room(Packing(resources)) < 8 and time.monotonic() < until:
        nodes.want(8)
        time.sleep(0.2)
    print("room", nodes.room(Packing(resources)), flush=True)
    nodes.want(0)
"""


@pytest.mark.ray
def test_nodes_that_are_to_come_are_waited_for_and_those_that_join_later_are_used(tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "cluster.yaml"
    configuration.write_text(json.dumps({
        "cluster_name": "fake", "max_workers": 4, "head_node_type": "ray.head.default", "upscaling_speed": 1.0, "idle_timeout_minutes": 1, "auth": {},
        "provider": {"type": "fake_multinode", "disable_node_updaters": True, "gcs_address": f"127.0.0.1:{port}"},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 4, "GPU": 1, "object_store_memory": 10**8}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        **{f"{name}_commands": [] for name in ("head_setup", "worker_setup", "initialization", "setup", "head_start_ray", "worker_start_ray")},
        "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }))  # fmt: skip
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}
    with (
        tempfile.TemporaryDirectory(prefix="ray") as temporary,
        head(tmp_path, Path(temporary), f"--autoscaling-config={configuration}", port=port, **settings) as address,
    ):
        command = [sys.executable, "-c", SCRIPT, address]
        refused = subprocess.run([*command, "2"], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
        done = subprocess.run([*command, "0.25"], env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False)
    assert "refused: --gpus-per-trial must be at most 1, the GPUs of the largest node that there is or that the autoscaler may start, got 2" in (
        refused.stderr
    )
    said = done.stdout.splitlines()
    assert said[0] == "waiting for nodes: 0 GPUs on 1 there, --gpus-per-trial 0.25 asked for, 0 s", done.stderr
    assert "a node for it is there after" in done.stdout
    assert [line for line in said if line.startswith("room")] == ["room 4", "room 8"]
