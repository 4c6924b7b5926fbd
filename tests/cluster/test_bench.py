"""The real sweep on three hosts of one machine, brought up with `ray up`: what a killed and a cut-off worker cost, and that it is only time."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Cluster, cluster_file
from hosts import CHECKOUT, LAPTOP, RESULTS, Hosts, missing
from same_outcomes import KEY, differences

from sweeper.results import Results

REASON = missing()
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

SPACE = """
_SHORT = {"num_epochs": 8, "retraining/num_epochs": 2, "target/training/num_epochs": 2}


def variants():
    return [{**_SHORT}] + [{**_SHORT, "beta": beta} for beta in (0.0, 0.25, 0.5, 2.0, 4.0)]
"""
SIZES = "--set train_images=400 --set validation_images=40 --set test_images=60"  # 70 s on one core


@pytest.fixture(scope="module", params=["private", "shared"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of a head and two workers, its nodes alive."""
    shared = tmp_path_factory.mktemp("nfs") if request.param == "shared" else None
    with Hosts(3, shared) as hosts:
        running = Cluster(hosts)
        running.up(cluster_file(hosts))
        yield running


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of the same sweep in one process of this machine, without Ray."""
    folder = tmp_path_factory.mktemp("one-machine")
    (folder / "betas.py").write_text(SPACE)
    words = [sys.executable, "-m", "sweeper", "run", str(folder / "betas.py"), "--inline", "--results", str(folder / "results"), *SIZES.split()]
    subprocess.run(words, check=True, capture_output=True, timeout=600, env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    return folder / "results"


def wait_for_trial(cluster: Cluster, host: str, sweep: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    """Wait until a trial trains on a host."""
    deadline = time.monotonic() + seconds
    while not cluster.trials_on(host):
        assert sweep.poll() is None, f"the sweep ended before a trial came to {host}: {log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"no trial came to {host} in {seconds:g} s: {log.read_text()[-4000:]}"
        time.sleep(0.1)
    time.sleep(2)  # into its first epochs


def test_a_killed_and_a_cut_off_worker_change_nothing_in_the_tables(one_machine: Path, cluster: Cluster, tmp_path: Path) -> None:
    hosts, log = cluster.hosts, tmp_path / "sweep.log"
    (hosts.folder(LAPTOP) / "root/betas.py").write_text(SPACE)
    cluster.laptop("ray rsync-up /root/cluster.yaml /root/betas.py /root/betas.py")
    sweep = cluster.exec(f"python -m sweeper run /root/betas.py --address auto --results {RESULTS}/betas {SIZES}", log)

    wait_for_trial(cluster, "worker1", sweep, log)
    hosts.kill_all("worker1")
    cluster.watch.wait_until(lambda alive: "worker1" not in alive, 15, "death of worker1's node")
    wait_for_trial(cluster, "worker2", sweep, log)
    hosts.cut("worker2")
    cluster.watch.wait_until(lambda alive: "worker2" not in alive, 15, "death of worker2's node")
    hosts.restore("worker2")

    assert sweep.wait(600) == 0, log.read_text()[-8000:]
    root = hosts.results() / "betas"
    assert differences(one_machine, root) == [], "all six trials, with the outcome lists of one machine"
    for table, key in (("trials", ["trial_id"]), ("scores", list(KEY))):
        rows = Counter(tuple(row.values()) for row in Results(root).read(table, key).to_pylist())
        assert rows and set(rows.values()) == {1}, table
    lost = Results(root).read("attempts", ["trial_id"], {"reason": "lost"}).to_pylist()
    assert len(lost) >= 2, "both workers were hit while they had a trial"

    cluster.watch.wait_until(lambda alive: alive == set(hosts.cluster), 120, "return of both workers")  # started again by the head's autoscaler
    cluster.down()
    assert not cluster.names_on("head") & {"raylet", "gcs_server"}
