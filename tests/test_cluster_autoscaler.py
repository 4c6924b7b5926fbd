"""A cluster that may grow: what it can grow to, waiting for it, and using what came."""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint
from small_cluster import REPOSITORY, environment, free_port, head

from sweeper.cluster import execution, nodes
from sweeper.cluster.autoscaler import Autoscaler, Kind, autoscaler_of
from sweeper.cluster.resources import HEAD, Grant, Resources

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
    assert autoscaler_of(CONFIGURATION) == Autoscaler({"small": Kind({"CPU": 4, "GPU": 1}, 2), "default": Kind({"CPU": 16}, 4)}, 4)


def test_what_no_kind_has_can_never_be_held() -> None:
    it = autoscaler_of(CONFIGURATION)
    assert it.could_hold(Grant(2, 0.5), 1)
    assert not it.could_hold(Grant(2, 2), 1)
    assert not it.could_hold(Grant(8, 1), 1), "no kind has both"
    assert it.largest("GPU") == 1


def test_a_kind_that_does_not_say_what_it_has_might_hold_anything_until_all_of_its_nodes_are_there() -> None:
    prepared = prepare_config(yaml.safe_load((REPOSITORY / "deploy/on-premise.yaml").read_text()))  # as `ray up` leaves it on the head
    own_hosts = autoscaler_of(yaml.safe_dump(prepared))
    assert [own_hosts.could_hold(Grant(64, 8), nodes) for nodes in (1, 2, 3)] == [True, True, False]
    assert Autoscaler(None).could_hold(Grant(64, 8), 99)
    assert not own_hosts.will_hold(Grant(1, 0)) and not Autoscaler(None).will_hold(Grant(1, 0))


def test_what_can_be_started_at_most_heeds_each_kinds_number_and_that_of_all() -> None:
    it = autoscaler_of(CONFIGURATION)
    assert it.room(Grant(4, 0)) == 4 * 4, "four of the larger kind, and then no node more"
    assert it.room(Grant(1, 0.5)) == 2 * 2
    assert it.room(Grant(99, 0)) == 0
    assert Autoscaler(None).room(Grant(1, 0)) is None
    assert Autoscaler({"local.cluster.node": Kind({}, 2)}, 2).room(Grant(1, 0)) is None


def launched(asked: int, most: int = 10) -> int:
    """Return how many nodes Ray's second autoscaler starts when it is asked for so many GPUs, of a cluster like `cluster.yaml`."""
    kinds = {name: NodeTypeConfig(name=name, min_worker_nodes=0, max_worker_nodes=number, resources=has)
             for name, number, has in (("head", 0, {"CPU": 0.0}), ("gpu", most, {"CPU": 4.0, "GPU": 1.0}))}  # fmt: skip
    asks = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"CPU": 4.0, "GPU": 1.0}) for _ in range(asked)])
    request = SchedulingRequest(
        node_type_configs=kinds, max_num_nodes=most + 1, cluster_resource_constraints=[ClusterResourceConstraint(resource_requests=asks)],
        current_instances=[], idle_timeout_s=600, disable_launch_config_check=True,
    )  # fmt: skip
    return sum(launch.count for launch in ResourceDemandScheduler(None).schedule(request).to_launch)


def test_more_work_than_the_cluster_may_grow_to_starts_all_that_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(14) == 0, "Ray now starts what fits: asking for less than there is work is no longer needed"
    asked: list[int] = []
    monkeypatch.setattr(nodes, "ask_for", lambda grant, number: asked.append(number))
    monkeypatch.setattr(nodes, "find_autoscaler", lambda: autoscaler_of((REPOSITORY / "cluster.yaml").read_text()))
    monkeypatch.setattr(nodes.Nodes, "alive", [{HEAD: 1.0, "CPU": 0.0}])
    it = nodes.Nodes(Resources(cpus=4, gpus=1, address="auto"), print)
    for work in (14, 9, 0):
        it.want(work)
    assert asked == [10, 9, 0]
    it.want(14)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + nodes.EVERY)
    it.want(14)
    assert asked[3:] == [10, 10], "another run on the cluster may have asked for less"
    assert launched(10) == 10


def test_a_run_that_ends_while_it_waits_for_nodes_leaves_none_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(nodes, "ask_for", lambda grant, number: asked.append(number))
    monkeypatch.setattr(nodes, "find_autoscaler", lambda: autoscaler_of((REPOSITORY / "cluster.yaml").read_text()))
    monkeypatch.setattr(nodes.Nodes, "alive", [{HEAD: 1.0, "CPU": 0.0}])
    monkeypatch.setattr(execution, "connected", nullcontext)
    view: Any = SimpleNamespace(note=print)
    job: Any = None
    with pytest.raises(KeyboardInterrupt):
        execution.executor(Resources(cpus=4, gpus=1, address="auto"), lambda: bool(asked))(job, [], [], view, list)
    assert asked == [1, 0]


FAKE = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
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
        nodes.want(50)
        time.sleep(0.2)
    print("room", nodes.room(Packing(resources)), flush=True)
    nodes.want(0)
"""


@pytest.mark.ray
@pytest.mark.parametrize("version", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_nodes_that_are_to_come_are_waited_for_and_those_that_join_later_are_used(version: str, tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "cluster.yaml"
    configuration.write_text(json.dumps({
        "cluster_name": "fake", "max_workers": 4, "head_node_type": "ray.head.default", "upscaling_speed": 1.0, "idle_timeout_minutes": 1, "auth": {},
        "provider": {"type": "external", "module": FAKE,
                     "launch_multiple": version == "2", "head_node_id": FAKE_HEAD_NODE_ID,
                     "disable_node_updaters": True, "gcs_address": f"127.0.0.1:{port}"},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 4, "GPU": 1, "object_store_memory": 10**8}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        **{f"{name}_commands": [] for name in ("head_setup", "worker_setup", "initialization", "setup", "head_start_ray", "worker_start_ray")},
        "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }))  # fmt: skip
    settings = {
        "RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": str(int(version == "2")),
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }  # fmt: skip
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
