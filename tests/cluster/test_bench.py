"""The real sweep on three hosts of one machine, brought up with `ray up`: what a killed and a cut-off worker cost, and that it is only time."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from bench import Cluster, cluster_file
from hosts import CHECKOUT, LAPTOP, RESULTS, Hosts, missing
from same_outcomes import KEY, differences

from sweeper.config import TrialConfig
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
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Begin the same sweep in one process of this machine, without Ray; return what waits for its end and gives its results."""
    folder = tmp_path_factory.mktemp("one-machine")
    (folder / "betas.py").write_text(SPACE)
    words = [sys.executable, "-m", "sweeper", "run", str(folder / "betas.py"), "--inline", "--results", str(folder / "results"), *SIZES.split()]
    with (folder / "said.txt").open("w") as said:
        running = subprocess.Popen(words, stdout=said, stderr=said, env=os.environ | {"PYTHONPATH": str(CHECKOUT)})

    def ended() -> Path:
        assert running.wait(600) == 0, (folder / "said.txt").read_text()
        return folder / "results"

    return ended


def wait_for_trial(cluster: Cluster, host: str, sweep: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    """Wait until a trial trains on a host."""
    deadline = time.monotonic() + seconds
    while not cluster.trials_on(host):
        assert sweep.poll() is None, f"the sweep ended before a trial came to {host}: {log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"no trial came to {host} in {seconds:g} s: {log.read_text()[-4000:]}"
        time.sleep(0.1)
    time.sleep(2)  # into its first epochs


def epochs_stored(root: Path) -> Counter[str]:
    """Return how many epochs the checkpoint of each training under way holds, by the training's key."""
    checkpoints = (root / "artifacts/checkpoints").glob("*.pt")
    return Counter({path.stem: len(torch.load(path, weights_only=True)["epochs"]) for path in checkpoints})


def weights_of(root: Path, trial_id: str) -> str:
    (row,) = Results(root).read("trials", ["config"], {"trial_id": trial_id}).to_pylist()
    return TrialConfig.model_validate_json(row["config"]).weights_key


def resumed_after(root: Path, trial_id: str) -> int:
    """Return after how many epochs the purifier's training went on when the trial was last begun; all of them if it had ended."""
    last = (root / "logs/betas" / f"{trial_id}.log").read_text().rpartition("STARTED")[2]
    first = re.search(r" train (\d+)/8 ", last)
    return int(first[1]) - 1 if first else 8


def test_a_killed_and_a_cut_off_worker_change_nothing_in_the_tables(one_machine: Callable[[], Path], cluster: Cluster, tmp_path: Path) -> None:
    hosts, log = cluster.hosts, tmp_path / "sweep.log"
    (hosts.folder(LAPTOP) / "root/betas.py").write_text(SPACE)
    cluster.laptop("ray rsync-up /root/cluster.yaml /root/betas.py /root/betas.py")
    sweep = cluster.exec(f"python -m sweeper run /root/betas.py --address auto --results {RESULTS}/betas {SIZES}", log)

    root = hosts.results() / "betas"
    wait_for_trial(cluster, "worker1", sweep, log)
    trained = epochs_stored(root)
    hosts.kill_all("worker1")
    cluster.watch.wait_until(lambda alive: "worker1" not in alive, 15, "death of worker1's node")
    wait_for_trial(cluster, "worker2", sweep, log)
    hosts.cut("worker2")
    cluster.watch.wait_until(lambda alive: "worker2" not in alive, 15, "death of worker2's node")
    hosts.restore("worker2")

    assert sweep.wait(600) == 0, log.read_text()[-8000:]
    assert differences(one_machine(), root) == [], "all six trials, with the outcome lists of one machine"
    for table, key in (("trials", ["trial_id"]), ("scores", list(KEY))):
        rows = Counter(tuple(row.values()) for row in Results(root).read(table, key).to_pylist())
        assert rows and set(rows.values()) == {1}, table
    lost = Results(root).read("attempts", ["trial_id", "host"], {"reason": "lost"}).to_pylist()
    assert {row["host"] for row in lost} == {"worker1", "worker2"}, "both workers were hit while they had a trial"
    killed = next(row["trial_id"] for row in lost if row["host"] == "worker1")
    assert resumed_after(root, killed) >= trained[weights_of(root, killed)], "no epoch that was stored is trained again"

    cluster.watch.wait_until(lambda alive: alive == set(hosts.cluster), 120, "return of both workers")  # started again by the head's autoscaler
    cluster.down()
    assert not cluster.names_on("head") & {"raylet", "gcs_server"}
